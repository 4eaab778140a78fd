/* SPDX-License-Identifier: MIT */
/* Numbers, places and slots for the steps that are drawn. */
#ifndef GMEM_DIFFER_DRAW_PARTS_H
#define GMEM_DIFFER_DRAW_PARTS_H

#include "draw.h"

struct draw {
	struct random *random;
	const struct world *world;
	struct step *step;
};

#define DRAW_SHARED	(GMEM_MEMFD_MMAP | GMEM_MEMFD_INIT_SHARED)
#define DRAW_LOW_PAGES	2048U		    /* where most slots are */
#define DRAW_PAGES_MANY (UINT64_C(1) << 31) /* and more: refused before anything is allocated */

/* ---- Numbers ---- */

uint64_t draw_below(struct draw *draw, uint64_t limit);
bool draw_once(struct draw *draw, uint64_t times);
uint64_t draw_pages(uint64_t count);
/* A place of a table that is free, or is not; or STEP_NOWHERE. Who fills a table names it. */
uint8_t draw_place(struct draw *draw, enum step_op op, unsigned int count, bool free);
uint8_t draw_memfd_place(struct draw *draw);
uint8_t draw_map_place(struct draw *draw);
uint8_t draw_slot_place(struct draw *draw);
/* Mostly one of this VM, since another's is only refused. */
uint8_t draw_own_memfd_place(struct draw *draw);
uint64_t draw_edge(struct draw *draw);
uint64_t draw_size(struct draw *draw);
uint64_t draw_gpa(struct draw *draw);
/* An address in a slot, or near to it. */
uint64_t draw_memory(struct draw *draw, uint64_t size);
/* Pages within a file or a mapping mostly, for the step. */
void draw_range(struct draw *draw, uint64_t start, uint64_t size);

/* ---- Slots ---- */

void draw_id(struct draw *draw, struct step_slot *slot);
uint64_t draw_slot_flag(struct draw *draw);
uint32_t draw_space(struct draw *draw);
uint64_t draw_least(uint64_t a, uint64_t b);
/*
 * Change what would burden the machine, and host memory that the test would touch though it is not
 * there: only a VM whose accesses are proof against that has such slots.
 */
void draw_bound_slot(struct draw *draw, struct step_slot *slot);
void draw_slot(struct draw *draw, struct step_slot *slot);

#endif
