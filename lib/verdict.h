/* SPDX-License-Identifier: MIT */
/* A range's verdict in words: one sentence and one reason for each kind of range. */
#ifndef GMEM_VERDICT_H
#define GMEM_VERDICT_H

#include <stdint.h>

enum gmem_range_kind {
	GMEM_KIND_GPA,	 /* limit: the guest's address width */
	GMEM_KIND_MEMFD, /* limit: the file's end */
	GMEM_KIND_HOST,	 /* limit: the process's address width */
};

/* gmem_range_check(); 0, or a failure with its reason. */
int gmem_check_range(enum gmem_range_kind kind, uint64_t start, uint64_t size, uint64_t page,
		     uint64_t limit);

#endif
