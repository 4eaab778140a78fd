/* SPDX-License-Identifier: MIT */
/* lib/range.c at the edges of 64 bits; test-range8.c checks the same text exhaustively. */
#include "harness.h"
#include "range.h"

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

static Suite *make_suite(void)
{
	Suite *suite = suite_create("range");
	TCase *edge = tcase_create("edges");

	tcase_add_loop_test(edge, check_at_the_edges_of_64_bits, 0,
			    (int)(sizeof(edges) / sizeof(edges[0])));
	tcase_add_test(edge, pairs_at_the_edges_of_64_bits);
	suite_add_tcase(suite, edge);
	return suite;
}

int main(void)
{
	return harness_run(make_suite());
}
