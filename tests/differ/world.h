/* SPDX-License-Identifier: MIT */
/*
 * What the steps so far have made, as the steps themselves said it: for drawing the next one's
 * numbers near to what is there, and for what may differ. No verdict comes from here.
 */
#ifndef GMEM_DIFFER_WORLD_H
#define GMEM_DIFFER_WORLD_H

#include "answer.h"

/* What kernel and VM type have: bits. */
#define WORLD_GUEST	1U   /* a guest_memfd */
#define WORLD_MAPPABLE	2U   /* one that can be mapped */
#define WORLD_SHARED	4U   /* and touched */
#define WORLD_PRIVATE	8U   /* memory of the guest's alone */
#define WORLD_UNCHECKED 16U  /* bindings that wrap are taken */
#define WORLD_FALLBACK	32U  /* no guest_memfd */
#define WORLD_WIDE	64U  /* guest addresses for 2^31 pages */
#define WORLD_NUMALESS	128U /* a NUMA policy is taken without effect */
#define WORLD_PLAIN	256U /* no private memory */

struct world_memfd {
	bool live;
	uint8_t vm; /* STEP_NOWHERE: opened without one */
	bool given;
	uint64_t size;
	uint64_t flags;
};

struct world_map {
	bool live;
	uint8_t memfd_vm;
	uint64_t offset;
	uint64_t size;
	uint64_t prot;
};

struct world_slot {
	bool live; /* a handle */
	bool bound;
	bool adopted;
	uint8_t vm;
	unsigned int group;	/* places of one group share the slot */
	struct step_slot asked; /* with its id */
};

struct world_stranger {
	bool live;
	uint8_t vm;
	uint32_t id;
	uint64_t gpa;
};

struct world {
	unsigned int has;  /* WORLD_ bits */
	uint64_t vm_flags; /* of the VMs that are there now */
	unsigned int groups;
	bool crowded; /* slots stay until there are many */
	bool alone;   /* the library knows of all: no strangers, and no file by two handles */
	uint32_t nr_ids, nr_spaces;
	uint32_t id_first, id_end;
	uint64_t gpa_end, hva_end;
	struct world_memfd memfds[STEP_MEMFDS];
	struct world_map maps[STEP_MAPS];
	struct world_slot slots[STEP_SLOTS];
	struct world_stranger strangers[STEP_STRANGERS];
};

/* After a renewal. */
void world_begin(struct world *world, const struct step *step);
/* After a step that the library took. */
void world_note(struct world *world, const struct step *step, const struct answer *answer);

#endif
