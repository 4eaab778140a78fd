/* SPDX-License-Identifier: MIT */
#include "range.h"

enum gmem_range_verdict gmem_range_check(gmem_range_int start, gmem_range_int size,
					 gmem_range_int align, gmem_range_int limit)
{
	gmem_range_int low_bits = (gmem_range_int)(align - 1);

	if (size == 0)
		return GMEM_RANGE_EMPTY;
	if ((start & low_bits) || (size & low_bits))
		return GMEM_RANGE_UNALIGNED;
	if (size > GMEM_RANGE_MAX - start)
		return GMEM_RANGE_WRAPS;
	if (start > limit || size > limit - start)
		return GMEM_RANGE_BEYOND;
	return GMEM_RANGE_OK;
}

bool gmem_range_within(gmem_range_int start, gmem_range_int size, gmem_range_int outer_start,
		       gmem_range_int outer_size)
{
	return start >= outer_start && start - outer_start <= outer_size &&
	       size <= outer_size - (start - outer_start);
}

bool gmem_range_overlaps(gmem_range_int a, gmem_range_int a_size, gmem_range_int b,
			 gmem_range_int b_size)
{
	/* Whichever starts first must be long enough to reach the other, which must not be empty.
	 */
	return a <= b ? b - a < a_size && b_size > 0 : a - b < b_size && a_size > 0;
}
