/* SPDX-License-Identifier: MIT */
#include "tally.h"

#include "expect.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct cell {
	enum step_op op;
	enum gmem_reason reason;
	const char *word; /* the kernel's answer */
	uint64_t count;
};

struct tally {
	size_t count;
	struct cell cells[1024];
};

struct tally *tally_make(void)
{
	struct tally *tally = calloc(1, sizeof(*tally));

	if (!tally)
		abort();
	return tally;
}

void tally_free(struct tally *tally)
{
	free(tally);
}

void tally_add(struct tally *tally, const struct step *step, const struct answer *library,
	       const struct answer *twin)
{
	const char *word = expect_word(twin);
	struct cell *cell = tally->cells, *end = cell + tally->count;

	while (cell < end && (cell->op != step->op || cell->reason != library->reason ||
			      strcmp(cell->word, word) != 0))
		cell++;
	if (cell == end) {
		if (tally->count == sizeof(tally->cells) / sizeof(tally->cells[0]))
			abort();
		tally->count++;
		*cell = (struct cell){.op = step->op, .reason = library->reason, .word = word};
	}
	cell->count++;
}

uint64_t tally_of_reason(const struct tally *tally, enum gmem_reason reason)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < tally->count; i++)
		if (tally->cells[i].reason == reason)
			sum += tally->cells[i].count;
	return sum;
}

static int compare(const void *a, const void *b)
{
	const struct cell *one = a, *two = b;

	if (one->op != two->op)
		return one->op < two->op ? -1 : 1;
	if (one->reason != two->reason)
		return one->reason < two->reason ? -1 : 1;
	return strcmp(one->word, two->word);
}

void tally_print(const struct tally *tally, FILE *out, const char *prefix)
{
	struct tally sorted = *tally;

	qsort(sorted.cells, sorted.count, sizeof(sorted.cells[0]), compare);
	fprintf(out, "%s%-12s %-20s %-10s %9s\n", prefix, "operation", "library", "kernel",
		"steps");
	for (size_t i = 0; i < sorted.count; i++) {
		const struct cell *cell = &sorted.cells[i];

		fprintf(out, "%s%-12s %-20s %-10s %9" PRIu64 "\n", prefix, step_names[cell->op],
			cell->reason ? gmem_reason_to_string(cell->reason) : "-", cell->word,
			cell->count);
	}
}
