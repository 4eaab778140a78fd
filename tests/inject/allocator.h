/* SPDX-License-Identifier: MIT */
/*
 * The library's memory, counted, and refused when told so. The linker's --wrap leads the calls of
 * everything that is linked into the program here, and from here to the allocator that would have
 * been called, a sanitizer's too.
 */
#ifndef GMEM_TEST_ALLOCATOR_H
#define GMEM_TEST_ALLOCATOR_H

#include <stdbool.h>
#include <stddef.h>

/* What has been allocated and not been freed. */
struct allocator_live {
	size_t pieces, bytes;
};
struct allocator_live allocator_live(void);

/* Count from now on, and let the n-th allocation fail; 0: none. */
void allocator_arm(unsigned int n);
/* No more of that. Returns how many there were. */
unsigned int allocator_disarm(void);

/*
 * Around what this thread does in the library: all else is neither counted nor refused. They nest:
 * what the library calls may be left out of it again.
 */
void allocator_enter_library(void);
void allocator_leave_library(void);

#endif
