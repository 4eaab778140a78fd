/* SPDX-License-Identifier: MIT */
/*
 * A guest that does what a list in its shared memory says, and reports each result. Arguments, in
 * this order: address of the list, bytes in a page, whether its hypercall is `vmmcall` (else
 * `vmcall`). The assembler reads this too.
 */
#ifndef CONVERT_H
#define CONVERT_H

#include "guest.h"

/* After each entry: 0, or what went wrong. */
#define CONVERT_PORT_RESULT 0x10

/* What an entry asks for. */
#define CONVERT_END   0 /* halt */
#define CONVERT_WRITE 1 /* the first word of each page gets `value`, which grows by 1 */
#define CONVERT_CHECK 2 /* each first word must be so; 1: one is not */
#define CONVERT_ASK   3 /* KVM_HC_MAP_GPA_RANGE with attributes `value`: its answer */

/* Offsets in struct convert_entry, and its size. */
#define CONVERT_WHAT  0
#define CONVERT_GPA   8
#define CONVERT_PAGES 16
#define CONVERT_VALUE 24
#define CONVERT_SIZE  32

#ifndef __ASSEMBLER__
#include <stdint.h>

struct convert_entry {
	uint64_t what;
	uint64_t gpa;
	uint64_t pages;
	uint64_t value;
};

_Static_assert(sizeof(struct convert_entry) == CONVERT_SIZE, "the guest's size");
#endif

#endif /* CONVERT_H */
