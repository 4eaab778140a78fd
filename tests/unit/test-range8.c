/* SPDX-License-Identifier: MIT */
/*
 * lib/range.c, the same text at 8 bits: every possible call is compared with plain arithmetic in
 * wider numbers, in which nothing wraps. At 64 bits that text is the library; test-range.c and
 * tests/fuzz/fuzz-range.c try it there.
 */
#include "harness.h"

#define GMEM_RANGE_BITS	    8
#define gmem_range_check    gmem_range8_check
#define gmem_range_within   gmem_range8_within
#define gmem_range_overlaps gmem_range8_overlaps

#include "range.c" /* the library's own file */

static enum gmem_range_verdict plain_check(unsigned int start, unsigned int size,
					   unsigned int align, unsigned int limit)
{
	if (size == 0)
		return GMEM_RANGE_EMPTY;
	if (start % align || size % align)
		return GMEM_RANGE_UNALIGNED;
	if (start + size > 255)
		return GMEM_RANGE_WRAPS;
	if (start + size > limit)
		return GMEM_RANGE_BEYOND;
	return GMEM_RANGE_OK;
}

/* 256 starts by 256 sizes by 256 limits, for each of the 8 alignments: 134,217,728 calls. */
START_TEST(check_agrees_with_plain_arithmetic)
{
	unsigned int align = 1U << _i;

	if (harness_is_quick())
		SKIP("16,777,216 calls that touch no memory");
	for (unsigned int start = 0; start < 256; start++)
		for (unsigned int size = 0; size < 256; size++)
			for (unsigned int limit = 0; limit < 256; limit++) {
				enum gmem_range_verdict got =
					gmem_range8_check((uint8_t)start, (uint8_t)size,
							  (uint8_t)align, (uint8_t)limit);

				if (got != plain_check(start, size, align, limit))
					ck_abort_msg("[%u, +%u) align %u limit %u: %d", start, size,
						     align, limit, (int)got);
			}
	harness_note("alignment %u: 16,777,216 of 134,217,728 cases", align);
}
END_TEST

static bool plain_overlaps(unsigned int a, unsigned int a_size, unsigned int b, unsigned int b_size)
{
	unsigned int from = a > b ? a : b;
	unsigned int to = a + a_size < b + b_size ? a + a_size : b + b_size;

	return from < to;
}

static bool plain_within(unsigned int start, unsigned int size, unsigned int outer,
			 unsigned int outer_size)
{
	return start >= outer && start + size <= outer + outer_size;
}

static bool overlaps_is_wrong(unsigned int a, unsigned int a_size, unsigned int b,
			      unsigned int b_size)
{
	return gmem_range8_overlaps((uint8_t)a, (uint8_t)a_size, (uint8_t)b, (uint8_t)b_size) !=
	       plain_overlaps(a, a_size, b, b_size);
}

static bool within_is_wrong(unsigned int outer, unsigned int outer_size, unsigned int start,
			    unsigned int size)
{
	return gmem_range8_within((uint8_t)start, (uint8_t)size, (uint8_t)outer,
				  (uint8_t)outer_size) !=
	       plain_within(start, size, outer, outer_size);
}

#define PARTS	 8
#define PER_PART (256 / PARTS)

/*
 * All pairs of ranges, in parts by the first one's start: 256^4 = 4,294,967,296 cases. The
 * innermost loop only gathers, so that compilers make vectors of it; which case is wrong is looked
 * for afterwards.
 */
static inline __attribute__((always_inline)) void
try_all_pairs(bool (*is_wrong)(unsigned int, unsigned int, unsigned int, unsigned int),
	      unsigned int part)
{
	for (unsigned int a = part * PER_PART; a < (part + 1) * PER_PART; a++)
		for (unsigned int a_size = 0; a_size < 256; a_size++)
			for (unsigned int b = 0; b < 256; b++) {
				bool wrong = false;

				for (unsigned int b_size = 0; b_size < 256; b_size++)
					wrong |= is_wrong(a, a_size, b, b_size);
				for (unsigned int b_size = 0; wrong && b_size < 256; b_size++)
					if (is_wrong(a, a_size, b, b_size))
						ck_abort_msg("[%u, +%u) and [%u, +%u)", a, a_size,
							     b, b_size);
			}
	harness_note("536,870,912 of 4,294,967,296 cases");
}

START_TEST(overlaps_agrees_with_plain_arithmetic)
{
	if (harness_is_quick())
		SKIP("536,870,912 calls that touch no memory");
	try_all_pairs(overlaps_is_wrong, (unsigned int)_i);
}
END_TEST

START_TEST(within_agrees_with_plain_arithmetic)
{
	if (harness_is_quick())
		SKIP("536,870,912 calls that touch no memory");
	try_all_pairs(within_is_wrong, (unsigned int)_i);
}
END_TEST

static Suite *make_suite(void)
{
	Suite *suite = suite_create("range8");
	TCase *all = tcase_create("all");

	tcase_set_timeout(all, 300);
	tcase_add_loop_test(all, check_agrees_with_plain_arithmetic, 0, 8);
	tcase_add_loop_test(all, overlaps_agrees_with_plain_arithmetic, 0, PARTS);
	tcase_add_loop_test(all, within_agrees_with_plain_arithmetic, 0, PARTS);
	suite_add_tcase(suite, all);
	return suite;
}

int main(void)
{
	return harness_run(make_suite());
}
