/* SPDX-License-Identifier: MIT */
/*
 * Arithmetic on ranges [start, start + size): pure, and the only place that adds a start to a
 * size. Written once over its integer, so that the same text can be checked exhaustively at 8 bits.
 */
#ifndef GMEM_RANGE_H
#define GMEM_RANGE_H

#include <stdbool.h>
#include <stdint.h>

#ifndef GMEM_RANGE_BITS
#define GMEM_RANGE_BITS 64
#endif

#if GMEM_RANGE_BITS == 64
typedef uint64_t gmem_range_int;
#define GMEM_RANGE_MAX UINT64_MAX
#elif GMEM_RANGE_BITS == 8
typedef uint8_t gmem_range_int;
#define GMEM_RANGE_MAX UINT8_MAX
#else
#error "GMEM_RANGE_BITS must be 64 or 8"
#endif

enum gmem_range_verdict {
	GMEM_RANGE_OK = 0,
	GMEM_RANGE_EMPTY,
	GMEM_RANGE_UNALIGNED,
	GMEM_RANGE_WRAPS,
	GMEM_RANGE_BEYOND,
};

/*
 * The first thing wrong with a range, in this order: empty, start or size no multiple of `align`
 * (a power of two), end not representable, end past `limit`. A limit of GMEM_RANGE_MAX is none.
 */
enum gmem_range_verdict gmem_range_check(gmem_range_int start, gmem_range_int size,
					 gmem_range_int align, gmem_range_int limit);

/* Whether [start, +size) lies in [outer_start, +outer_size). Any values: nothing wraps. */
bool gmem_range_within(gmem_range_int start, gmem_range_int size, gmem_range_int outer_start,
		       gmem_range_int outer_size);

/* Whether two ranges share a byte. Any values: nothing wraps. */
bool gmem_range_overlaps(gmem_range_int a, gmem_range_int a_size, gmem_range_int b,
			 gmem_range_int b_size);

#endif
