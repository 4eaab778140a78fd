/* SPDX-License-Identifier: MIT */
/* lib/range.c and lib/verdict.c at 64 bits, against arithmetic in 128, in which nothing wraps. */
#include "error.h"
#include "fuzz.h"
#include "range.h"
#include "verdict.h"

#include <errno.h>

__extension__ typedef unsigned __int128 wide;

/* Numbers that are near a power of two, or near where one made of the earlier ones would be. */
static uint64_t take_number(struct fuzz_input *input, const uint64_t earlier[3])
{
	uint64_t kind = fuzz_take(input, 1);
	uint64_t one = earlier[kind / 8 % 3], other = earlier[kind / 32 % 3];
	uint64_t near = (uint64_t)(int8_t)fuzz_take(input, 1);

	switch (kind % 8) {
	case 0:
	case 1:
		return (UINT64_C(1) << (kind / 4)) + near;
	case 2:
		return near;
	case 3:
		return one + near;
	case 4:
		return one + other + near;
	case 5:
		return one - other + near;
	default:
		return fuzz_take(input, 8);
	}
}

static enum gmem_range_verdict judge(wide start, wide size, wide align, wide limit)
{
	if (size == 0)
		return GMEM_RANGE_EMPTY;
	if (start % align != 0 || size % align != 0)
		return GMEM_RANGE_UNALIGNED;
	if (start + size > UINT64_MAX)
		return GMEM_RANGE_WRAPS;
	return start + size > limit ? GMEM_RANGE_BEYOND : GMEM_RANGE_OK;
}

/* What a verdict is called where a caller sees it. */
static const struct {
	int result;
	enum gmem_reason reason[3];
} failures[] = {
	[GMEM_RANGE_EMPTY] = {-EINVAL,
			      {GMEM_REASON_RANGE_EMPTY, GMEM_REASON_RANGE_EMPTY,
			       GMEM_REASON_RANGE_EMPTY}},
	[GMEM_RANGE_UNALIGNED] = {-EINVAL,
				  {GMEM_REASON_RANGE_UNALIGNED, GMEM_REASON_RANGE_UNALIGNED,
				   GMEM_REASON_RANGE_UNALIGNED}},
	[GMEM_RANGE_WRAPS] = {-EOVERFLOW,
			      {GMEM_REASON_RANGE_WRAPS, GMEM_REASON_RANGE_WRAPS,
			       GMEM_REASON_RANGE_WRAPS}},
	[GMEM_RANGE_BEYOND] = {-ERANGE,
			       {[GMEM_KIND_GPA] = GMEM_REASON_GPA_BEYOND_WIDTH,
				[GMEM_KIND_MEMFD] = GMEM_REASON_MEMFD_BEYOND_END,
				[GMEM_KIND_HOST] = GMEM_REASON_HOST_NOT_CANONICAL}},
};

static void try_check(uint64_t start, uint64_t size, uint64_t align, uint64_t limit)
{
	enum gmem_range_verdict verdict = judge(start, size, align, limit);

	FUZZ_EXPECT(gmem_range_check(start, size, align, limit) == verdict);
	for (unsigned int kind = GMEM_KIND_GPA; kind <= GMEM_KIND_HOST; kind++) {
		int r = gmem_check_range((enum gmem_range_kind)kind, start, size, align, limit);

		FUZZ_EXPECT(r == (verdict ? failures[verdict].result : 0));
		FUZZ_EXPECT(!r || gmem_error_get_reason() == failures[verdict].reason[kind]);
	}
}

static void try_pair(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
	wide a_end = (wide)a + a_size, b_end = (wide)b + b_size;
	bool overlaps = (a > b ? a : b) < (a_end < b_end ? a_end : b_end);

	FUZZ_EXPECT(gmem_range_overlaps(a, a_size, b, b_size) == overlaps);
	FUZZ_EXPECT(gmem_range_overlaps(b, b_size, a, a_size) == overlaps);
	FUZZ_EXPECT(gmem_range_within(a, a_size, b, b_size) == (a >= b && a_end <= b_end));
	FUZZ_EXPECT(gmem_range_within(b, b_size, a, a_size) == (b >= a && b_end <= a_end));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input input = {data, size};
	uint64_t align = UINT64_C(1) << fuzz_take(&input, 1) % 64;
	uint64_t number[4] = {0};

	for (int i = 0; i < 4; i++)
		number[i] = take_number(&input, number);
	try_pair(number[0], number[1], number[2], number[3]);
	try_check(number[0], number[1], 1, number[2]);
	try_check(number[0], number[1], align, number[2]);
	try_check(number[0] & -align, number[1] & -align, align, number[2]);
	return 0;
}
