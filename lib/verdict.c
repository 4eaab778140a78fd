/* SPDX-License-Identifier: MIT */
#include "verdict.h"

#include "error.h"
#include "range.h"

#include <errno.h>
#include <inttypes.h>

static const struct {
	const char *name;
	const char *limit;
	enum gmem_reason beyond;
} kinds[] = {
	[GMEM_KIND_GPA] = {"gpa", "the guest's addresses, which end at",
			   GMEM_REASON_GPA_BEYOND_WIDTH},
	[GMEM_KIND_MEMFD] = {"memfd range", "the end of the file at", GMEM_REASON_MEMFD_BEYOND_END},
	[GMEM_KIND_HOST] = {"host address", "this process's addresses, which end at",
			    GMEM_REASON_HOST_NOT_CANONICAL},
};

int gmem_check_range(enum gmem_range_kind kind, uint64_t start, uint64_t size, uint64_t page,
		     uint64_t limit)
{
	const char *name = kinds[kind].name;

	switch (gmem_range_check(start, size, page, limit)) {
	case GMEM_RANGE_EMPTY:
		return gmem_fail(EINVAL, GMEM_REASON_RANGE_EMPTY, "%s [0x%" PRIx64 ", +0) is empty",
				 name, start);
	case GMEM_RANGE_UNALIGNED:
		return gmem_fail(EINVAL, GMEM_REASON_RANGE_UNALIGNED,
				 "%s [0x%" PRIx64 ", +0x%" PRIx64
				 ") is not made of whole pages of 0x%" PRIx64,
				 name, start, size, page);
	case GMEM_RANGE_WRAPS:
		return gmem_fail(EOVERFLOW, GMEM_REASON_RANGE_WRAPS,
				 "%s [0x%" PRIx64 ", +0x%" PRIx64 ") wraps", name, start, size);
	case GMEM_RANGE_BEYOND:
		return gmem_fail(ERANGE, kinds[kind].beyond,
				 "%s [0x%" PRIx64 ", +0x%" PRIx64 ") passes %s 0x%" PRIx64, name,
				 start, size, kinds[kind].limit, limit);
	case GMEM_RANGE_OK:
		break;
	}
	return 0;
}
