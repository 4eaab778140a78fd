/* SPDX-License-Identifier: MIT */
/* lib/interval.c against a sorted array, and under readers that run beside the writer. */
#include "harness.h"
#include "interval.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

/* ---- The naive model: one byte of the line, one entry ---- */

#define LINE 2048

struct model {
	struct gmem_interval *at[LINE]; /* the interval that holds this point, or NULL */
};

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static void model_set(struct model *model, struct gmem_interval *interval, bool there)
{
	for (uint64_t i = interval->start; i < interval->end; i++)
		model->at[i] = there ? interval : NULL;
}

static const struct gmem_interval *model_find(const struct model *model, uint64_t point)
{
	for (uint64_t i = point; i < LINE; i++)
		if (model->at[i])
			return model->at[i];
	return NULL;
}

static void compare_point(struct gmem_interval_set *set, const struct model *model, uint64_t point)
{
	const struct gmem_interval *wanted = model->at[point];
	struct gmem_interval got;
	bool found = gmem_interval_lookup(set, point, &got) == 1;

	ck_assert_int_eq(found, wanted && wanted->word);
	if (found) {
		ck_assert_uint_eq(got.start, wanted->start);
		ck_assert_uint_eq(got.end, wanted->end);
		ck_assert_uint_eq(got.word, wanted->word);
	}
	wanted = model_find(model, point);
	ck_assert_int_eq(gmem_interval_find(set, point, &got), wanted != NULL);
	if (wanted)
		ck_assert_mem_eq(&got, wanted, sizeof(got));
}

static void compare_all(struct gmem_interval_set *set, const struct model *model)
{
	for (uint64_t point = 0; point < LINE; point++)
		compare_point(set, model, point);
}

static struct gmem_interval *add(struct gmem_interval_set *set, struct model *model, uint64_t start,
				 uint64_t size, uint32_t id)
{
	struct gmem_interval *interval = calloc(1, sizeof(*interval));

	ck_assert_ptr_nonnull(interval);
	*interval = (struct gmem_interval){
		.start = start, .end = start + size, .word = id % 5 ? id : 0, .id = id};
	ck_assert_int_eq(gmem_interval_reserve(set, 1), 0);
	gmem_interval_insert(set, interval);
	model_set(model, interval, true);
	return interval;
}

static void drop(struct gmem_interval_set *set, struct model *model, struct gmem_interval *interval)
{
	gmem_interval_remove(set, interval->start);
	model_set(model, interval, false);
	free(interval);
}

static void drop_all(struct gmem_interval_set *set, struct model *model)
{
	for (uint64_t i = 0; i < LINE; i++)
		if (model->at[i])
			drop(set, model, model->at[i]);
	ck_assert_uint_eq(set->count, 0);
}

static bool is_free(const struct model *model, uint64_t start, uint64_t size)
{
	for (uint64_t i = start; i < start + size; i++)
		if (i >= LINE || model->at[i])
			return false;
	return true;
}

/* ---- Against the model ---- */

START_TEST(random_changes_agree_with_the_model)
{
	uint64_t state = (uint64_t)_i * 0x9e3779b97f4a7c15U + 1;
	struct gmem_interval_set set;
	struct model *model = calloc(1, sizeof(*model));
	uint32_t phase = harness_rounds(1000);

	ck_assert_ptr_nonnull(model);
	gmem_interval_init(&set);
	for (uint32_t step = 1; step <= 4 * phase; step++) {
		/* Phases of growth and of shrinking, so that the tree gets deep and flat again. */
		bool grow = next_random(&state) % 100 < (step / phase % 2 ? 30U : 80U);
		uint64_t start = next_random(&state) % LINE;
		uint64_t size = 1 + next_random(&state) % (_i % 2 ? 3 : 1);

		if (grow && is_free(model, start, size))
			add(&set, model, start, size, step);
		else if (!grow && model->at[start])
			drop(&set, model, model->at[start]);
		/* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): the set holds what was added */
		compare_point(&set, model, next_random(&state) % LINE);
		if (step % 1000 == 0)
			compare_all(&set, model);
	}
	drop_all(&set, model);
	compare_all(&set, model);
	gmem_interval_fini(&set);
	free(model);
}
END_TEST

/* Ascending and descending, where a tree can become lopsided. */
START_TEST(ordered_changes_agree_with_the_model)
{
	struct gmem_interval_set set;
	struct model *model = calloc(1, sizeof(*model));

	ck_assert_ptr_nonnull(model);
	gmem_interval_init(&set);
	for (uint64_t i = 0; i < LINE; i++)
		add(&set, model, _i & 1 ? LINE - 1 - i : i, 1, (uint32_t)i + 1);
	compare_all(&set, model);
	for (uint64_t i = 0; i < LINE; i++) {
		drop(&set, model, model->at[_i & 2 ? LINE - 1 - i : i]);
		if (i % 1000 == 0)
			compare_all(&set, model);
	}
	compare_all(&set, model);
	gmem_interval_fini(&set);
	free(model);
}
END_TEST

START_TEST(a_word_of_zero_hides_an_interval_from_readers)
{
	struct gmem_interval_set set;
	struct gmem_interval got;

	gmem_interval_init(&set);
	ck_assert(!gmem_interval_lookup(&set, 5, &got));
	ck_assert(!gmem_interval_find(&set, 0, &got));
	ck_assert_int_eq(gmem_interval_reserve(&set, 1), 0);
	gmem_interval_insert(&set, &(struct gmem_interval){.start = 4, .end = 8, .id = 9});
	ck_assert(!gmem_interval_lookup(&set, 5, &got));
	ck_assert(gmem_interval_find(&set, 5, &got));
	ck_assert_uint_eq(got.id, 9);
	gmem_interval_set_word(&set, 4, 77);
	ck_assert(gmem_interval_lookup(&set, 5, &got));
	ck_assert_uint_eq(got.word, 77);
	gmem_interval_fini(&set);
}
END_TEST

/* A writer that was stopped in its middle: readers say so, and do not spin for ever. */
START_TEST(a_reader_gives_up_on_a_stopped_writer)
{
	struct gmem_interval_set set;
	struct gmem_interval got;

	gmem_interval_init(&set);
	atomic_fetch_add(&set.sequence, 1);
	ck_assert_int_eq(gmem_interval_lookup(&set, 5, &got), -EAGAIN);
	atomic_fetch_add(&set.sequence, 1);
	ck_assert_int_eq(gmem_interval_lookup(&set, 5, &got), 0);
	gmem_interval_fini(&set);
}
END_TEST

START_TEST(intervals_at_the_ends_of_64_bits)
{
	struct gmem_interval_set set;
	struct gmem_interval got;

	gmem_interval_init(&set);
	ck_assert_int_eq(gmem_interval_reserve(&set, 2), 0);
	gmem_interval_insert(&set, &(struct gmem_interval){
					   .start = UINT64_MAX - 4, .end = UINT64_MAX, .word = 1});
	gmem_interval_insert(&set, &(struct gmem_interval){.start = 0, .end = 1, .word = 2});
	ck_assert(gmem_interval_lookup(&set, UINT64_MAX - 1, &got));
	ck_assert(!gmem_interval_lookup(&set, UINT64_MAX, &got));
	ck_assert(gmem_interval_lookup(&set, 0, &got));
	ck_assert(!gmem_interval_lookup(&set, 1, &got));
	ck_assert(!gmem_interval_find(&set, UINT64_MAX, &got));
	gmem_interval_fini(&set);
}
END_TEST

START_TEST(insertions_take_no_memory_after_reserving)
{
	struct gmem_interval_set set;

	gmem_interval_init(&set);
	for (uint64_t i = 0; i < 5000; i++) {
		uint64_t start = i * 0x9e3779b97f4a7c15U >> 8;
		const void *all;

		ck_assert_int_eq(gmem_interval_reserve(&set, 2), 0);
		all = set.all;
		for (uint64_t j = 0; j < 2; j++)
			gmem_interval_insert(&set, &(struct gmem_interval){.start = start + 2 * j,
									   .end = start + 2 * j + 1,
									   .word = 1});
		ck_assert_ptr_eq(set.all, all);
	}
	gmem_interval_fini(&set);
}
END_TEST

/* ---- Assigning, against one word for each point ---- */

struct words {
	uint64_t at[LINE];
};

static void check_run(const struct gmem_interval_set *set, const struct words *words,
		      uint64_t point)
{
	uint64_t word = 77, end = 77, expected = point;

	while (expected < LINE && words->at[expected] == words->at[point])
		expected++;
	ck_assert_int_eq(gmem_interval_lookup_run(set, point, &word, &end), 0);
	ck_assert_uint_eq(word, words->at[point]);
	ck_assert_uint_eq(end, expected == LINE && !word ? UINT64_MAX : expected);
}

/* How many intervals there are is what they cost: none where the word is 0, and none too many. */
static void check_words(const struct gmem_interval_set *set, const struct words *words)
{
	size_t runs = 0;

	for (uint64_t point = 0; point < LINE; point++) {
		check_run(set, words, point);
		runs += words->at[point] && (!point || words->at[point - 1] != words->at[point]);
	}
	ck_assert_uint_eq(set->count, runs);
}

static void assign(struct gmem_interval_set *set, struct words *words, uint64_t start, uint64_t end,
		   uint64_t word)
{
	const void *all;

	ck_assert_int_eq(gmem_interval_reserve(set, GMEM_INTERVAL_ASSIGN), 0);
	all = set->all;
	gmem_interval_assign(set, start, end, word);
	ck_assert_ptr_eq(set->all, all); /* no memory is taken that was not reserved */
	for (uint64_t i = start; i < end; i++)
		words->at[i] = word;
}

START_TEST(random_assignments_agree_with_the_model)
{
	static const uint64_t lengths[] = {1, 3, 40, LINE};
	uint64_t state = (uint64_t)_i * 0x9e3779b97f4a7c15U + 1;
	uint64_t length = lengths[_i % 4];
	struct words *words = calloc(1, sizeof(*words));
	struct gmem_interval_set set;

	ck_assert_ptr_nonnull(words);
	gmem_interval_init(&set);
	for (uint32_t i = 1; i <= harness_rounds(6000); i++) {
		uint64_t start = next_random(&state) % LINE;
		uint64_t size = 1 + next_random(&state) % length;
		uint64_t end = start + size < LINE ? start + size : LINE;
		/* Phases in which there is much, and in which there is little. */
		uint64_t kinds = i / 1000 % 2 ? 8 : 4;
		uint64_t word = next_random(&state) % kinds;

		assign(&set, words, start, end, word < 4 ? word : 0);
		check_run(&set, words, next_random(&state) % LINE);
		check_run(&set, words, start);
		if (start > 0)
			check_run(&set, words, start - 1);
		if (i % 500 == 0)
			check_words(&set, words);
	}
	check_words(&set, words);
	assign(&set, words, 0, LINE, 0);
	check_words(&set, words);
	gmem_interval_fini(&set);
	free(words);
}
END_TEST

/* Each way in which one range can lie to another. */
START_TEST(assignments_of_all_small_ranges)
{
	enum {
		END = 9
	};
	static struct words words;

	if (harness_is_quick())
		SKIP("random assignments do the same");
	for (uint64_t a = 0; a < END; a++)
		for (uint64_t b = a + 1; b <= END; b++)
			for (uint64_t c = 0; c < END; c++)
				for (uint64_t d = c + 1; d <= END; d++) {
					struct gmem_interval_set set;

					memset(&words, 0, sizeof(words));
					gmem_interval_init(&set);
					assign(&set, &words, 2, 7, 1);
					assign(&set, &words, a, b, (uint64_t)_i % 3);
					assign(&set, &words, c, d, (uint64_t)_i / 3);
					for (uint64_t i = 0; i <= END; i++)
						check_run(&set, &words, i);
					gmem_interval_fini(&set);
				}
}
END_TEST

START_TEST(assignments_at_the_ends_of_64_bits)
{
	struct gmem_interval_set set;
	uint64_t word, end;

	gmem_interval_init(&set);
	ck_assert_int_eq(gmem_interval_lookup_run(&set, 0, &word, &end), 0);
	ck_assert_uint_eq(word, 0);
	ck_assert_uint_eq(end, UINT64_MAX);
	ck_assert_int_eq(gmem_interval_reserve(&set, (size_t)3 * GMEM_INTERVAL_ASSIGN), 0);
	gmem_interval_assign(&set, 0, 1, 5);
	gmem_interval_assign(&set, UINT64_MAX - 1, UINT64_MAX, 6);
	ck_assert_int_eq(gmem_interval_lookup_run(&set, 0, &word, &end), 0);
	ck_assert_uint_eq(word, 5);
	ck_assert_uint_eq(end, 1);
	ck_assert_int_eq(gmem_interval_lookup_run(&set, 1, &word, &end), 0);
	ck_assert_uint_eq(word, 0);
	ck_assert_uint_eq(end, UINT64_MAX - 1);
	ck_assert_int_eq(gmem_interval_lookup_run(&set, UINT64_MAX - 1, &word, &end), 0);
	ck_assert_uint_eq(word, 6);
	ck_assert_uint_eq(end, UINT64_MAX);
	ck_assert_int_eq(gmem_interval_lookup_run(&set, UINT64_MAX, &word, &end), 0);
	ck_assert_uint_eq(word, 0);
	gmem_interval_assign(&set, 0, UINT64_MAX, 7);
	ck_assert_uint_eq(set.count, 1);
	ck_assert_int_eq(gmem_interval_lookup_run(&set, 12345, &word, &end), 0);
	ck_assert_uint_eq(word, 7);
	ck_assert_uint_eq(end, UINT64_MAX);
	gmem_interval_fini(&set);
}
END_TEST

START_TEST(a_reader_of_runs_gives_up_on_a_stopped_writer)
{
	struct gmem_interval_set set;
	uint64_t word, end;

	gmem_interval_init(&set);
	atomic_fetch_add(&set.sequence, 1);
	ck_assert_int_eq(gmem_interval_lookup_run(&set, 5, &word, &end), -EAGAIN);
	gmem_interval_fini(&set);
}
END_TEST

/* ---- How many nodes it takes ---- */

/* How many nodes there are in all is how many were added. */
struct counted {
	struct gmem_interval_set set;
	size_t nodes;
};

static void assign_counted(struct counted *counted, uint64_t start, uint64_t end, uint64_t word)
{
	size_t before = counted->set.spares;

	ck_assert_int_eq(gmem_interval_reserve(&counted->set, GMEM_INTERVAL_ASSIGN), 0);
	counted->nodes += counted->set.spares - before;
	gmem_interval_assign(&counted->set, start, end, word);
}

/*
 * Who splits a node again and again, and each time leaves one entry in the upper part, must not get
 * a node for each entry: of two neighbours at least one is half full.
 */
START_TEST(nodes_that_have_been_emptied_are_joined)
{
	const uint64_t full = 32, count = 2000;
	uint64_t low = 2 * count, unfilled = low;
	struct counted counted = {.nodes = 0};

	gmem_interval_init(&counted.set);
	for (uint64_t top = low + full; counted.set.count < count; top--, low--) {
		for (uint64_t i = unfilled; i < top; i++)
			assign_counted(&counted, 2 * i, 2 * i + 1, 1);
		assign_counted(&counted, 2 * (low - 1), 2 * (low - 1) + 1, 1);
		unfilled = low + full / 2;
		assign_counted(&counted, 2 * unfilled, 2 * (top - 1), 0);
	}
	ck_assert_uint_lt(counted.nodes - counted.set.spares, count / 4);
	gmem_interval_fini(&counted.set);
}
END_TEST

/* ---- Readers beside the writer ---- */

/*
 * The middle of a line is one word or another as a whole, at any moment; what is before and after
 * it never changes.
 */
#define MIDDLE_START 1000
#define MIDDLE_END   9000

struct flip {
	struct gmem_interval_set set;
	_Atomic bool stop;
};

static void *read_runs_all_the_time(void *data)
{
	struct flip *flip = data;
	uint64_t state = (uintptr_t)&state | 1;
	uintptr_t seen = 0;

	while (!atomic_load(&flip->stop)) {
		uint64_t point = next_random(&state) % 10000, word, end;

		if (gmem_interval_lookup_run(&flip->set, point, &word, &end) == -EAGAIN) {
			sched_yield();
			continue;
		}
		seen++;
		if (point < MIDDLE_START || point >= MIDDLE_END) {
			ck_assert_uint_eq(word, point / 10 % 2);
			ck_assert_uint_eq(end, point == 9999 ? 10000 : (point / 10 + 1) * 10);
		} else if (word == 2) {
			ck_assert_uint_eq(end, MIDDLE_END);
		} else {
			ck_assert_uint_eq(word, 0);
			ck_assert(end == MIDDLE_END + 10 || end == UINT64_MAX);
		}
	}
	return (void *)seen;
}

START_TEST(readers_see_whole_assignments)
{
	static struct flip flip;
	pthread_t readers[2];
	uintptr_t seen = 0;
	void *result;

	gmem_interval_init(&flip.set);
	for (uint64_t i = 0; i < 1000; i++) {
		bool outside = i < MIDDLE_START / 10 || i >= MIDDLE_END / 10;

		ck_assert_int_eq(gmem_interval_reserve(&flip.set, GMEM_INTERVAL_ASSIGN), 0);
		if (outside && i % 2)
			gmem_interval_assign(&flip.set, i * 10, i * 10 + 10, 1);
	}
	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(pthread_create(&readers[i], NULL, read_runs_all_the_time, &flip),
				 0);
	for (uint64_t i = 0; i < harness_rounds(30000); i++) {
		ck_assert_int_eq(gmem_interval_reserve(&flip.set, GMEM_INTERVAL_ASSIGN), 0);
		gmem_interval_assign(&flip.set, MIDDLE_START, MIDDLE_END, i % 2 ? 0 : 2);
	}
	atomic_store(&flip.stop, true);
	for (int i = 0; i < 2; i++) {
		ck_assert_int_eq(pthread_join(readers[i], &result), 0);
		seen += (uintptr_t)result;
	}
	ck_assert_uint_gt(seen, 0);
	gmem_interval_fini(&flip.set);
}
END_TEST

#define SLOTS 2000

struct race {
	struct gmem_interval_set set;
	_Atomic bool stop;
};

/* Interval i is [16 i, 16 i + 8) with a word made of i: a mixture of two would show. */
static void *read_all_the_time(void *data)
{
	struct race *race = data;
	uint64_t state = (uintptr_t)&state | 1;
	uintptr_t seen = 0;

	while (!atomic_load(&race->stop)) {
		uint64_t i = next_random(&state) % SLOTS;
		struct gmem_interval got;

		ck_assert_int_ne(gmem_interval_lookup(&race->set, 16 * i + 8, &got), 1);
		switch (gmem_interval_lookup(&race->set, 16 * i + 3, &got)) {
		case 0:
			ck_assert_uint_ne(i % 3, 0); /* these are never removed */
			continue;
		case -EAGAIN: /* the writer has been preempted in its middle */
			sched_yield();
			continue;
		}
		ck_assert_uint_eq(got.start, 16 * i);
		ck_assert_uint_eq(got.end, 16 * i + 8);
		ck_assert_uint_eq(got.word, i + 1);
		seen++;
	}
	return (void *)seen;
}

static void toggle(struct gmem_interval_set *set, bool *there, uint64_t i)
{
	if (there[i]) {
		gmem_interval_remove(set, 16 * i);
	} else {
		ck_assert_int_eq(gmem_interval_reserve(set, 1), 0);
		gmem_interval_insert(set, &(struct gmem_interval){.start = 16 * i,
								  .end = 16 * i + 8,
								  .word = i + 1,
								  .id = (uint32_t)i});
	}
	there[i] = !there[i];
}

START_TEST(readers_see_whole_intervals_while_a_writer_works)
{
	static struct race race;
	static bool there[SLOTS];
	pthread_t readers[3];
	uint64_t state = 88172645463325252U;
	uintptr_t seen = 0;
	void *result;

	gmem_interval_init(&race.set);
	for (uint64_t i = 0; i < SLOTS; i++)
		toggle(&race.set, there, i);
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(pthread_create(&readers[i], NULL, read_all_the_time, &race), 0);
	for (unsigned int step = 0; step < harness_rounds(60000); step++) {
		uint64_t i = next_random(&state) % SLOTS;

		if (i % 3)
			toggle(&race.set, there, i);
	}
	atomic_store(&race.stop, true);
	for (int i = 0; i < 3; i++) {
		ck_assert_int_eq(pthread_join(readers[i], &result), 0);
		seen += (uintptr_t)result;
	}
	ck_assert_uint_gt(seen, 0);
	gmem_interval_fini(&race.set);
}
END_TEST

static Suite *make_suite(void)
{
	Suite *suite = suite_create("interval");
	TCase *model = tcase_create("model");
	TCase *race = tcase_create("race");

	tcase_set_timeout(model, 300);
	tcase_add_loop_test(model, random_changes_agree_with_the_model, 0, 12);
	tcase_add_loop_test(model, ordered_changes_agree_with_the_model, 0, 4);
	tcase_add_test(model, a_word_of_zero_hides_an_interval_from_readers);
	tcase_add_test(model, a_reader_gives_up_on_a_stopped_writer);
	tcase_add_test(model, intervals_at_the_ends_of_64_bits);
	tcase_add_test(model, insertions_take_no_memory_after_reserving);
	tcase_add_loop_test(model, random_assignments_agree_with_the_model, 0, 8);
	tcase_add_loop_test(model, assignments_of_all_small_ranges, 0, 9);
	tcase_add_test(model, assignments_at_the_ends_of_64_bits);
	tcase_add_test(model, a_reader_of_runs_gives_up_on_a_stopped_writer);
	tcase_add_test(model, nodes_that_have_been_emptied_are_joined);
	tcase_set_timeout(race, 300);
	tcase_add_test(race, readers_see_whole_intervals_while_a_writer_works);
	tcase_add_test(race, readers_see_whole_assignments);
	suite_add_tcase(suite, model);
	suite_add_tcase(suite, race);
	return suite;
}

int main(void)
{
	return harness_run(make_suite());
}
