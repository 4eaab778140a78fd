/* SPDX-License-Identifier: MIT */
/*
 * lib/range.c at the edges of 64 bits; test-range8.c checks the same text exhaustively. What C
 * hides there, since it widens small integers before it adds them, shows here.
 */
#include "harness.h"
#include "range.h"

#include <inttypes.h>

#define PAGE UINT64_C(0x1000)
#define TOP  (UINT64_MAX - PAGE + 1) /* the last page's start */

static const struct {
	uint64_t start, size, align, limit;
	enum gmem_range_verdict verdict;
} edges[] = {
	{0, 0, PAGE, UINT64_MAX, GMEM_RANGE_EMPTY},
	{1, 0, PAGE, 0, GMEM_RANGE_EMPTY},
	{0, PAGE, PAGE, PAGE, GMEM_RANGE_OK},
	{0, PAGE, PAGE, PAGE - 1, GMEM_RANGE_BEYOND},
	{1, PAGE, PAGE, UINT64_MAX, GMEM_RANGE_UNALIGNED},
	{0, 1, PAGE, UINT64_MAX, GMEM_RANGE_UNALIGNED},
	{0, 1, 1, UINT64_MAX, GMEM_RANGE_OK},
	{UINT64_MAX, 1, 1, UINT64_MAX, GMEM_RANGE_WRAPS},
	{UINT64_MAX, UINT64_MAX, 1, UINT64_MAX, GMEM_RANGE_WRAPS},
	{TOP, PAGE, PAGE, UINT64_MAX, GMEM_RANGE_WRAPS},
	{TOP - PAGE, PAGE, PAGE, UINT64_MAX, GMEM_RANGE_OK},
	{TOP - PAGE, PAGE, PAGE, TOP, GMEM_RANGE_OK},
	{TOP - PAGE, PAGE, PAGE, TOP - 1, GMEM_RANGE_BEYOND},
	{PAGE, TOP, PAGE, UINT64_MAX, GMEM_RANGE_WRAPS},
	{0, TOP, PAGE, UINT64_MAX, GMEM_RANGE_OK},
	{UINT64_C(0x7ffffffffffff000), 2 * PAGE, PAGE, UINT64_C(1) << 24, GMEM_RANGE_BEYOND},
	{UINT64_C(0x7ffffffffffff000), 2 * PAGE, PAGE, UINT64_C(1) << 63, GMEM_RANGE_BEYOND},
	{UINT64_C(0x7ffffffffffff000), PAGE, PAGE, UINT64_C(1) << 63, GMEM_RANGE_OK},
	{UINT64_C(1) << 63, UINT64_C(1) << 63, PAGE, UINT64_MAX, GMEM_RANGE_WRAPS},
	{UINT64_C(0x10000), UINT64_C(0x4000), UINT64_C(0x10000), UINT64_MAX, GMEM_RANGE_UNALIGNED},
	{UINT64_C(0x10000), UINT64_C(0x10000), UINT64_C(0x10000), UINT64_MAX, GMEM_RANGE_OK},
};

START_TEST(check_at_the_edges_of_64_bits)
{
	ck_assert_int_eq((int)gmem_range_check(edges[_i].start, edges[_i].size, edges[_i].align,
					       edges[_i].limit),
			 (int)edges[_i].verdict);
}
END_TEST

START_TEST(pairs_at_the_edges_of_64_bits)
{
	ck_assert(gmem_range_overlaps(0, UINT64_MAX, UINT64_MAX - 1, 1));
	ck_assert(!gmem_range_overlaps(0, PAGE, PAGE, PAGE));
	ck_assert(!gmem_range_overlaps(PAGE, PAGE, 0, PAGE));
	ck_assert(gmem_range_overlaps(TOP, PAGE, UINT64_MAX, 1));
	ck_assert(!gmem_range_overlaps(UINT64_MAX, 0, 0, UINT64_MAX));
	ck_assert(!gmem_range_overlaps(5, 0, 0, UINT64_MAX));
	ck_assert(!gmem_range_overlaps(0, UINT64_MAX, 5, 0));
	ck_assert(gmem_range_within(TOP, PAGE, TOP, PAGE));
	ck_assert(!gmem_range_within(TOP, PAGE + 1, TOP, PAGE));
	ck_assert(!gmem_range_within(TOP, UINT64_MAX, 0, UINT64_MAX));
	ck_assert(!gmem_range_within(0, 1, 1, UINT64_MAX));
}
END_TEST

/*
 * Sixteenths of the 64-bit numbers, and the ones beside them. Their sums wrap as sums of small
 * numbers do at 4 bits, and exact ones fit into 128 bits.
 */
#define VALUES 48

static uint64_t value(unsigned int i)
{
	return ((uint64_t)(i / 3) << 60) + (i % 3) - 1;
}

__extension__ typedef unsigned __int128 wide;

static enum gmem_range_verdict wide_check(wide start, wide size, wide limit)
{
	if (size == 0)
		return GMEM_RANGE_EMPTY;
	if (start + size > UINT64_MAX)
		return GMEM_RANGE_WRAPS;
	return start + size > limit ? GMEM_RANGE_BEYOND : GMEM_RANGE_OK;
}

static void try_pair(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
	wide a_end = (wide)a + a_size, b_end = (wide)b + b_size;
	bool overlaps = (a > b ? a : b) < (a_end < b_end ? a_end : b_end);
	bool within = a >= b && a_end <= b_end;

	if (gmem_range_overlaps(a, a_size, b, b_size) != overlaps ||
	    gmem_range_within(a, a_size, b, b_size) != within)
		ck_abort_msg("[0x%" PRIx64 ", +0x%" PRIx64 ") and [0x%" PRIx64 ", +0x%" PRIx64 ")",
			     a, a_size, b, b_size);
}

START_TEST(sums_wrap_at_64_bits)
{
	uint64_t a = value((unsigned int)_i);

	for (unsigned int i = 0; i < VALUES; i++)
		for (unsigned int j = 0; j < VALUES; j++) {
			uint64_t a_size = value(i), b = value(j);

			if (gmem_range_check(a, a_size, 1, b) != wide_check(a, a_size, b))
				ck_abort_msg("[0x%" PRIx64 ", +0x%" PRIx64 ") of 0x%" PRIx64, a,
					     a_size, b);
			for (unsigned int k = 0; k < VALUES; k++)
				try_pair(a, a_size, b, value(k));
		}
}
END_TEST

static Suite *make_suite(void)
{
	Suite *suite = suite_create("range");
	TCase *edge = tcase_create("edges");

	tcase_add_loop_test(edge, check_at_the_edges_of_64_bits, 0,
			    (int)(sizeof(edges) / sizeof(edges[0])));
	tcase_add_test(edge, pairs_at_the_edges_of_64_bits);
	tcase_add_loop_test(edge, sums_wrap_at_64_bits, 0, VALUES);
	suite_add_tcase(suite, edge);
	return suite;
}

int main(void)
{
	return harness_run(make_suite());
}
