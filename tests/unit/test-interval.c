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

	ck_assert_ptr_nonnull(model);
	gmem_interval_init(&set);
	for (uint32_t step = 1; step <= 4000; step++) {
		/* Phases of growth and of shrinking, so that the tree gets deep and flat again. */
		bool grow = next_random(&state) % 100 < (step / 1000 % 2 ? 30U : 80U);
		uint64_t start = next_random(&state) % LINE;
		uint64_t size = 1 + next_random(&state) % (_i % 2 ? 3 : 1);

		if (grow && is_free(model, start, size))
			add(&set, model, start, size, step);
		else if (!grow && model->at[start])
			drop(&set, model, model->at[start]);
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

/* ---- Readers beside the writer ---- */

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
	for (int step = 0; step < 60000; step++) {
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
	tcase_set_timeout(race, 300);
	tcase_add_test(race, readers_see_whole_intervals_while_a_writer_works);
	suite_add_tcase(suite, model);
	suite_add_tcase(suite, race);
	return suite;
}

int main(void)
{
	return harness_run(make_suite());
}
