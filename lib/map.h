/* SPDX-License-Identifier: MIT */
#ifndef GMEM_MAP_H
#define GMEM_MAP_H

#include "memfd.h"

struct gmem_map {
	struct gmem_retired retired; /* first: of use when the mapping is none any more */
	struct gmem_memfd *memfd;    /* a reference */
	unsigned char *addr;
	uint64_t offset;
	uint64_t size;
	uint32_t prot;
	_Atomic unsigned int references;

	_Atomic(struct gmem_vm *)
		user; /* the VM that has used it in a slot: a reference, or NULL */
	bool pinned; /* under that VM's lock: a slot that cannot be removed still has the address */
};

struct gmem_map *gmem_map_ref(struct gmem_map *map);
/* Not under a VM's lock. */
void gmem_map_unref(struct gmem_map *map);

/* Map a range that has been checked. Neither logs nor looks at the thread's callback. */
int gmem_map_make(struct gmem_memfd *memfd, uint64_t offset, uint64_t size, uint32_t prot,
		  struct gmem_map **ret);

/* A range of whole pages of the file within the mapping; 0, or a failure. */
int gmem_map_check_range(const struct gmem_map *map, uint64_t offset, uint64_t size);

/*
 * A mapping that one VM's readers may know keeps its addresses for that VM, so no other VM's slots
 * can use it. Claiming it makes it so: 1 it was free before, 0 it was this VM's, -EXDEV it is
 * another's. A claim that no reader has profited from can be taken back. Under the VM's lock.
 */
bool gmem_map_usable_by(const struct gmem_map *map, const struct gmem_vm *vm);
int gmem_map_claim(struct gmem_map *map, struct gmem_vm *vm);
void gmem_map_unclaim(struct gmem_map *map);

#endif
