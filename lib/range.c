/* SPDX-License-Identifier: MIT */
#include "range.h"

/* In the ranges' own integer: C would widen a small one to int, which does not wrap as it does. */
static gmem_range_int minus(gmem_range_int a, gmem_range_int b)
{
	return (gmem_range_int)(a - b);
}

enum gmem_range_verdict gmem_range_check(gmem_range_int start, gmem_range_int size,
					 gmem_range_int align, gmem_range_int limit)
{
	gmem_range_int low_bits = minus(align, 1);

	if (size == 0)
		return GMEM_RANGE_EMPTY;
	if ((start & low_bits) || (size & low_bits))
		return GMEM_RANGE_UNALIGNED;
	if (size > minus(GMEM_RANGE_MAX, start))
		return GMEM_RANGE_WRAPS;
	if (start > limit || size > minus(limit, start))
		return GMEM_RANGE_BEYOND;
	return GMEM_RANGE_OK;
}

bool gmem_range_within(gmem_range_int start, gmem_range_int size, gmem_range_int outer_start,
		       gmem_range_int outer_size)
{
	gmem_range_int before = minus(start, outer_start);

	return start >= outer_start && before <= outer_size && size <= minus(outer_size, before);
}

bool gmem_range_overlaps(gmem_range_int a, gmem_range_int a_size, gmem_range_int b,
			 gmem_range_int b_size)
{
	/* Whichever starts first must be long enough to reach the other, which must not be empty.
	 */
	return a <= b ? minus(b, a) < a_size && b_size > 0 : minus(a, b) < b_size && a_size > 0;
}
