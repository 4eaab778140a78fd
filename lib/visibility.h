/* SPDX-License-Identifier: MIT */
/*
 * Which guest pages are private, and which may be held twice: the library's own record, since no
 * kernel tells. Ranges, not bits, with no entry for what is plainly shared: what it costs depends
 * on how often the kind changes along the guest's addresses, not on how large the guest is.
 *
 * Changed under the VM's lock; read by any thread without it.
 */
#ifndef GMEM_VISIBILITY_H
#define GMEM_VISIBILITY_H

#include "vm.h"

/* Whether a caller's value is one of the two; 0, or a failure. */
int gmem_visibility_check(enum gmem_visibility visibility);

/* Whether an address is private; [gpa, *end) is the same. */
bool gmem_visibility_is_private(const struct gmem_vm *vm, uint64_t gpa, uint64_t *end);
/* Whether the half that is not in use may still hold pages; likewise. */
bool gmem_visibility_is_twice(const struct gmem_vm *vm, uint64_t gpa, uint64_t *end);

/* Set aside room for one change of each record. 0, or a failure. */
int gmem_visibility_reserve(struct gmem_vm *vm);
void gmem_visibility_set(struct gmem_vm *vm, uint64_t start, uint64_t end,
			 enum gmem_visibility visibility);
void gmem_visibility_set_twice(struct gmem_vm *vm, uint64_t start, uint64_t end);
/* The other half is dropped. Without memory to note it the range stays counted: that is a bound. */
void gmem_visibility_clear_twice(struct gmem_vm *vm, uint64_t start, uint64_t end);

/* How many bytes of [start, end) are what. Adds to the sums. */
struct gmem_visibility_sum {
	uint64_t private_bytes;
	uint64_t shared_bytes;
	uint64_t twice_bytes;
};
void gmem_visibility_add(const struct gmem_vm *vm, uint64_t start, uint64_t end,
			 struct gmem_visibility_sum *sum);

#endif
