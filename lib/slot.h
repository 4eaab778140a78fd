/* SPDX-License-Identifier: MIT */
#ifndef GMEM_SLOT_H
#define GMEM_SLOT_H

#include "map.h"
#include "vm.h"

enum gmem_slot_state {
	GMEM_SLOT_PREPARED = 1, /* in the tables, not in KVM */
	GMEM_SLOT_SET,		/* in KVM too, not to be found by readers */
	GMEM_SLOT_BOUND,	/* complete */
	GMEM_SLOT_GONE,		/* in neither */
};

/* What a slot is made of. */
struct gmem_binding {
	uint64_t gpa;
	uint64_t size;
	uint64_t offset;	  /* bytes in the memfd and in the map's file */
	struct gmem_memfd *memfd; /* a reference, or NULL */
	struct gmem_map *map;	  /* a reference, or NULL */
	unsigned char *host;	  /* userspace_addr, or NULL */
	uint64_t flags;		  /* GMEM_SLOT_LOG_DIRTY, GMEM_SLOT_READONLY */
	bool own_map;		  /* the library made the mapping for this slot */
	bool claimed;		  /* the map was free before */
};

/* All under the VM's lock. */
struct gmem_slot {
	struct gmem_vm *vm;	     /* a reference */
	struct gmem_binding binding; /* changed under the leaf lock too */
	enum gmem_slot_state state;
	uint32_t id;
	uint32_t as_id;
	unsigned int handles;
	bool adopted;
	struct gmem_slot *next; /* among those to be freed */
};

/* Bits of an interval's word below the page: the rest is host address minus gpa. */
#define GMEM_WORD_LIVE	 UINT64_C(1)
#define GMEM_WORD_READ	 UINT64_C(2)
#define GMEM_WORD_WRITE	 UINT64_C(4)
#define GMEM_WORD_PROOF	 UINT64_C(8)  /* a touch may raise a signal: only the fault-proof way */
#define GMEM_WORD_HALVES UINT64_C(16) /* private pages have a memory of their own */
#define GMEM_WORD_GUEST	 UINT64_C(32) /* there is a guest_memfd */
#define GMEM_WORD_BITS	 UINT64_C(63)

/* The flags that KVM knows too. */
#define GMEM_SLOT_FLAGS_KVM (GMEM_SLOT_LOG_DIRTY | GMEM_SLOT_READONLY)

/* How KVM numbers slots over all address spaces. */
static inline uint32_t gmem_slot_number(const struct gmem_slot *slot)
{
	return slot->as_id << 16 | slot->id;
}

/* The file behind the host side of a slot; NULL: there is none, or it is the VMM's own memory. */
static inline const struct gmem_memfd *gmem_slot_host_file(const struct gmem_memfd *memfd,
							   const struct gmem_map *map)
{
	if (map)
		return map->memfd;
	return gmem_memfd_is_mappable(memfd) ? memfd : NULL;
}

#endif
