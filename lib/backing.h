/* SPDX-License-Identifier: MIT */
/* The memory behind a slot: one for all its pages, or a private half and a shared one. */
#ifndef GMEM_BACKING_H
#define GMEM_BACKING_H

#include "slot.h"

/* A private guest_memfd with something else for its shared pages; else all is one memory. */
static inline bool gmem_backing_has_halves(const struct gmem_binding *binding)
{
	return binding->memfd && !gmem_memfd_is_mappable(binding->memfd) && binding->host;
}

/*
 * Give back the pages of a range of guest addresses within the slot: of the private half, of the
 * rest, or of both. One half alone is one that is not in use. 0, or a failure.
 */
#define GMEM_BACKING_PRIVATE 1U
#define GMEM_BACKING_SHARED  2U
int gmem_backing_drop(const struct gmem_slot *slot, uint64_t gpa, uint64_t size,
		      unsigned int halves);

/* All of *memory but sz. Any thread that holds what the binding refers to. */
void gmem_backing_count(const struct gmem_vm *vm, const struct gmem_binding *binding,
			struct gmem_slot_memory *memory);

#endif
