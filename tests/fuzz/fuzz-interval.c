/* SPDX-License-Identifier: MIT */
/*
 * lib/interval.c against a model in which each unit of the line says which interval holds it. The
 * units are few, so that intervals meet, and lie at both ends of the 64-bit numbers; orders that
 * fill and drain whole stretches make the tree deep.
 */
#include "fuzz.h"
#include "interval.h"

#define UNITS 1024

struct line {
	struct gmem_interval_set set;
	struct gmem_interval unit[UNITS]; /* what holds it; of no size: nothing */
	size_t count;			  /* of intervals */
	uint32_t last_id;
};

/* The first number of a unit: 0, 1, ..., 511, then UINT64_MAX - 512, ..., UINT64_MAX - 1. */
static uint64_t first_of(uint64_t unit)
{
	return unit < UNITS / 2 ? unit : UINT64_MAX - (UNITS - unit);
}

static uint64_t unit_of(uint64_t point)
{
	if (point >= first_of(UNITS / 2))
		return UNITS - (UINT64_MAX - point);
	return point < UNITS / 2 ? point : UNITS / 2 - 1;
}

static bool is_free(const struct line *line, uint64_t unit)
{
	return line->unit[unit].start == line->unit[unit].end;
}

/* ---- What is there ---- */

static void expect_same(const struct gmem_interval *got, const struct gmem_interval *wanted)
{
	FUZZ_EXPECT(got->start == wanted->start);
	FUZZ_EXPECT(got->end == wanted->end);
	FUZZ_EXPECT(got->word == wanted->word);
}

/* The first interval in this unit or after it, or NULL. */
static const struct gmem_interval *next_interval(const struct line *line, uint64_t unit)
{
	while (unit < UNITS && is_free(line, unit))
		unit++;
	return unit < UNITS ? &line->unit[unit] : NULL;
}

/* `next`: the first interval that ends after the point, or NULL. */
static void compare_point(struct line *line, uint64_t point, const struct gmem_interval *next)
{
	const struct gmem_interval *here = next && next->start <= point ? next : NULL;
	struct gmem_interval got;
	uint64_t word, end;

	FUZZ_EXPECT(gmem_interval_find(&line->set, point, &got) == (next != NULL));
	if (next) {
		expect_same(&got, next);
		FUZZ_EXPECT(got.id == next->id);
	}
	FUZZ_EXPECT(gmem_interval_lookup(&line->set, point, &got) == (here && here->word));
	if (here && here->word)
		expect_same(&got, here);
	FUZZ_EXPECT(gmem_interval_lookup_run(&line->set, point, &word, &end) == 0);
	FUZZ_EXPECT(word == (here ? here->word : 0));
	FUZZ_EXPECT(end == (here ? here->end : next ? next->start : UINT64_MAX));
}

/* Both ends of a unit. */
static void compare_unit(struct line *line, uint64_t unit, const struct gmem_interval *next)
{
	compare_point(line, first_of(unit), next);
	if (unit < UNITS)
		compare_point(line, first_of(unit + 1) - 1, next);
}

static void compare_near(struct line *line, uint64_t unit)
{
	compare_unit(line, unit, next_interval(line, unit));
	if (unit > 0)
		compare_unit(line, unit - 1, next_interval(line, unit - 1));
}

static void compare_all(struct line *line)
{
	const struct gmem_interval *next = NULL;

	FUZZ_EXPECT(line->set.count == line->count);
	for (uint64_t unit = UNITS;; unit--) {
		if (unit < UNITS && !is_free(line, unit))
			next = &line->unit[unit];
		compare_unit(line, unit, next);
		if (unit == 0)
			return;
	}
}

/* ---- Changes of the model ---- */

static void put(struct line *line, uint64_t from, uint64_t to, uint64_t word, uint32_t id)
{
	struct gmem_interval interval = {first_of(from), first_of(to), word, id};

	for (uint64_t unit = from; unit < to; unit++)
		line->unit[unit] = interval;
	line->count++;
}

static void erase(struct line *line, uint64_t from, uint64_t to)
{
	for (uint64_t unit = from; unit < to; unit++)
		line->unit[unit] = (struct gmem_interval){0};
	line->count--;
}

/* Take [from, to) out of what is there; what is left of an interval loses its id. */
static void cut(struct line *line, uint64_t from, uint64_t to)
{
	for (uint64_t unit = from; unit < to; unit++) {
		struct gmem_interval old = line->unit[unit];
		uint64_t start = unit_of(old.start), end = unit_of(old.end);

		if (is_free(line, unit))
			continue;
		erase(line, start, end);
		if (start < from)
			put(line, start, from, old.word, 0);
		if (end > to)
			put(line, to, end, old.word, 0);
	}
}

/* ---- Changes of both ---- */

static void insert(struct line *line, uint64_t from, uint64_t to, uint64_t word)
{
	struct gmem_interval interval = {first_of(from), first_of(to), word, ++line->last_id};

	gmem_interval_insert(&line->set, &interval);
	put(line, from, to, word, interval.id);
}

static void try_insert(struct line *line, uint64_t from, uint64_t to, uint64_t word)
{
	const struct gmem_interval *next = next_interval(line, from);

	if (next && next->start < first_of(to))
		return;
	FUZZ_EXPECT(gmem_interval_reserve(&line->set, 1) == 0);
	insert(line, from, to, word);
}

static void remove_at(struct line *line, uint64_t unit)
{
	struct gmem_interval old = line->unit[unit];

	if (is_free(line, unit))
		return;
	gmem_interval_remove(&line->set, old.start);
	erase(line, unit_of(old.start), unit_of(old.end));
}

static void set_word(struct line *line, uint64_t unit, uint64_t word)
{
	struct gmem_interval old = line->unit[unit];

	if (is_free(line, unit))
		return;
	gmem_interval_set_word(&line->set, old.start, word);
	for (uint64_t i = unit_of(old.start); i < unit_of(old.end); i++)
		line->unit[i].word = word;
}

static void assign(struct line *line, uint64_t from, uint64_t to, uint64_t word)
{
	const struct gmem_interval *before = from > 0 ? &line->unit[from - 1] : NULL;
	const struct gmem_interval *after = to < UNITS ? &line->unit[to] : NULL;

	FUZZ_EXPECT(gmem_interval_reserve(&line->set, GMEM_INTERVAL_ASSIGN) == 0);
	gmem_interval_assign(&line->set, first_of(from), first_of(to), word);
	if (word && before && before->word == word)
		from = unit_of(before->start);
	if (word && after && after->word == word)
		to = unit_of(after->end);
	cut(line, from, to);
	if (word)
		put(line, from, to, word, 0);
}

/* The i-th of [from, to), from one side or the other. */
static uint64_t pick(uint64_t from, uint64_t to, uint64_t i, bool falling)
{
	return falling ? to - 1 - i : from + i;
}

/* An interval in each free unit, or in each second or third one; memory is taken once. */
static void fill(struct line *line, uint64_t from, uint64_t to, uint64_t value)
{
	uint64_t step = 1 + value / 2 % 3;

	FUZZ_EXPECT(gmem_interval_reserve(&line->set, value / 64) == 0);
	for (uint64_t i = 0; i < to - from; i += step) {
		uint64_t unit = pick(from, to, i, value % 2);

		if (!is_free(line, unit))
			continue;
		if (i >= value / 64)
			FUZZ_EXPECT(gmem_interval_reserve(&line->set, 1) == 0);
		insert(line, unit, unit + 1, 1 + value % 4);
	}
}

static void drain(struct line *line, uint64_t from, uint64_t to, uint64_t value)
{
	for (uint64_t i = 0; i < to - from; i += 1 + value / 2 % 3)
		remove_at(line, pick(from, to, i, value % 2));
}

/*
 * What an order is, from its bytes. A set is used in one of two ways: what is assigned has a word,
 * while an interval of word 0 is one that readers do not find.
 */
static void obey(struct line *line, struct fuzz_input *input, bool assigns)
{
	uint64_t order = fuzz_take(input, 1), value = fuzz_take(input, 1);
	uint64_t from = fuzz_take(input, 2) % UNITS;
	uint64_t to = from + 1 + fuzz_take(input, order & 8 ? 2 : 1) % (UNITS - from);
	uint64_t word = assigns ? 1 + value % 3 : value;

	switch (order % 8) {
	case 0:
	case 1:
		if (assigns)
			assign(line, from, to, value % 3);
		else
			try_insert(line, from, to, word);
		break;
	case 2:
	case 3:
		remove_at(line, from);
		break;
	case 4:
		set_word(line, from, word);
		break;
	case 5:
	case 6:
		fill(line, from, to, value);
		break;
	default:
		drain(line, from, to, value);
		break;
	}
	compare_near(line, from);
	compare_near(line, to);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct line line;
	struct fuzz_input input = {data, size};
	bool assigns = fuzz_take(&input, 1) % 2;

	line = (struct line){.count = 0};
	gmem_interval_init(&line.set);
	while (input.size > 0)
		obey(&line, &input, assigns);
	compare_all(&line);
	drain(&line, 0, UNITS, 0);
	FUZZ_EXPECT(line.set.count == 0);
	compare_near(&line, UNITS);
	gmem_interval_fini(&line.set);
	return 0;
}
