/* SPDX-License-Identifier: MIT */
#include "draw-parts.h"

static void place_in_file(struct draw *draw, struct step_slot *slot, uint64_t start, uint64_t size)
{
	uint64_t count = size / step_page();
	uint64_t from = draw_below(draw, count ? count : 1);
	uint64_t left = draw_pages(count - from);

	slot->offset = start + draw_pages(from);
	if (slot->size > left && !draw_once(draw, 8))
		slot->size = left;
}

static void choose_memory(struct draw *draw, struct step_slot *slot)
{
	const struct world *world = draw->world;
	unsigned int kind = (unsigned int)draw_below(draw, 20);

	if (kind < 12)
		slot->memfd = draw_own_memfd_place(draw);
	if (kind >= 9 && kind < 15)
		slot->map = draw_map_place(draw);
	if (slot->memfd != STEP_NOWHERE)
		place_in_file(draw, slot, 0, world->memfds[slot->memfd].size);
	if (slot->map != STEP_NOWHERE && (slot->memfd == STEP_NOWHERE || draw_once(draw, 2)))
		place_in_file(draw, slot, world->maps[slot->map].offset,
			      world->maps[slot->map].size);
	if (slot->memfd == STEP_NOWHERE && slot->map == STEP_NOWHERE) {
		slot->host_is_ours = !draw_once(draw, 16);
		slot->host = draw_pages(1 + draw_below(draw, STEP_HOST_PAGES - 1));
	} else if (slot->map == STEP_NOWHERE &&
		   draw_once(draw, world->has & WORLD_PRIVATE ? 2 : 12)) {
		slot->host_is_ours = true;
		slot->host = draw_pages(draw_below(draw, STEP_HOST_PAGES));
	}
}

void draw_id(struct draw *draw, struct step_slot *slot)
{
	const struct world *world = draw->world;
	const uint32_t edges[] = {
		world->id_first - 1, world->id_end - 1, world->id_end, world->nr_ids - 1,
		world->nr_ids,	     UINT16_MAX - 1,	UINT16_MAX,    UINT32_C(1) << 16,
		UINT32_C(1) << 31,   UINT32_MAX,
	};
	uint8_t place = draw_slot_place(draw);

	slot->flags |= GMEM_SLOT_FIXED_ID;
	if (draw_once(draw, 3))
		slot->id = edges[draw_below(draw, sizeof(edges) / sizeof(edges[0]))];
	else if (place != STEP_NOWHERE && draw_once(draw, 3))
		slot->id = world->slots[place].asked.id;
	else
		slot->id = world->id_first + (uint32_t)draw_below(draw, 64);
}

/* A host address that is none of ours. */
static void draw_host(struct draw *draw, struct step_slot *slot)
{
	const struct world *world = draw->world;

	slot->map = STEP_NOWHERE;
	slot->host_is_ours = false;
	switch (draw_below(draw, 5)) {
	case 0:
		slot->host = draw_pages(16);
		break;
	case 1:
		slot->host = world->hva_end - draw_pages(draw_below(draw, 3));
		break;
	case 2:
		slot->host = UINT64_C(1) << 63;
		break;
	case 3:
		slot->host = UINT64_MAX - step_page() + 1;
		break;
	default:
		slot->host = draw_edge(draw);
	}
}

/* More pages than a slot can have, where else all is well. */
static void draw_many_pages(struct draw *draw, struct step_slot *slot)
{
	*slot = (struct step_slot){.gpa = UINT64_C(1) << 45,
				   .size = draw_pages(DRAW_PAGES_MANY + draw_below(draw, 2)),
				   .memfd = STEP_NOWHERE,
				   .map = STEP_NOWHERE,
				   .host = draw_pages(16)};
}

uint64_t draw_slot_flag(struct draw *draw)
{
	static const uint64_t unknown[] = {8, UINT64_C(1) << 17, UINT64_C(1) << 31,
					   UINT64_C(1) << 32, UINT64_C(1) << 63};

	switch (draw_below(draw, 4)) {
	case 0:
		return unknown[draw_below(draw, sizeof(unknown) / sizeof(unknown[0]))];
	case 1:
		return GMEM_SLOT_LOG_DIRTY;
	default:
		return GMEM_SLOT_READONLY;
	}
}

uint32_t draw_space(struct draw *draw)
{
	static const uint32_t edges[] = {1, 1, 2, 3, 64, UINT16_MAX, UINT32_C(1) << 16, UINT32_MAX};

	return edges[draw_below(draw, sizeof(edges) / sizeof(edges[0]))];
}

static void copy_live(struct draw *draw, struct step_slot *slot)
{
	uint8_t place = draw_slot_place(draw);

	if (place == STEP_NOWHERE || draw->world->slots[place].vm != draw->step->vm)
		return;
	*slot = draw->world->slots[place].asked;
	if (draw->step->op == STEP_ADOPT)
		slot->flags |= GMEM_SLOT_FIXED_ID;
	else if (!(slot->flags & GMEM_SLOT_FIXED_ID))
		slot->id = 0;
}

/* Make something wrong with it, or only unusual. */
static void spoil(struct draw *draw, struct step_slot *slot)
{
	switch (draw_below(draw, 20)) {
	case 0:
		slot->gpa = draw_edge(draw);
		break;
	case 1:
		slot->size = draw_edge(draw);
		break;
	case 2:
	case 3:
		slot->offset = draw_edge(draw);
		break;
	case 4:
	case 5:
		slot->flags |= draw_slot_flag(draw);
		break;
	case 6:
	case 7:
	case 8:
		draw_id(draw, slot);
		break;
	case 9:
	case 10:
		slot->as_id = draw_space(draw);
		break;
	case 11:
		slot->gpa++;
		break;
	case 12:
		slot->host++;
		break;
	case 13:
		draw_host(draw, slot);
		break;
	case 14:
		slot->memfd = draw_memfd_place(draw);
		break;
	case 15:
		slot->map = draw_map_place(draw);
		break;
	case 16:
		slot->size = 0;
		break;
	case 17:
	case 18:
		copy_live(draw, slot);
		break;
	default:
		if (draw->world->has & WORLD_WIDE)
			draw_many_pages(draw, slot);
		slot->id += draw_once(draw, 4); /* without its flag */
	}
}

uint64_t draw_least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

void draw_bound_slot(struct draw *draw, struct step_slot *slot)
{
	const uint64_t host_size = draw_pages(STEP_HOST_PAGES);
	uint64_t count = slot->size / step_page();
	bool proof = draw->world->vm_flags & GMEM_VM_FAULT_PROOF;

	if (count > STEP_PAGES_MAX && count < DRAW_PAGES_MANY)
		slot->size = draw_once(draw, 64) ? draw_pages(STEP_PAGES_MAX)
						 : draw_pages(1 + draw_below(draw, 4));
	if (proof)
		return;
	if (slot->host && !slot->host_is_ours) {
		slot->host_is_ours = true;
		slot->host = slot->host % host_size;
	}
	if (slot->host_is_ours && slot->size < draw_pages(DRAW_PAGES_MANY))
		slot->size = draw_least(slot->size, host_size - slot->host % host_size);
}

void draw_slot(struct draw *draw, struct step_slot *slot)
{
	*slot = (struct step_slot){.gpa = draw_gpa(draw),
				   .size = draw_size(draw),
				   .memfd = STEP_NOWHERE,
				   .map = STEP_NOWHERE};
	choose_memory(draw, slot);
	if (draw->step->op == STEP_ADOPT) {
		draw_id(draw, slot);
		if (slot->memfd != STEP_NOWHERE && slot->map == STEP_NOWHERE && draw_once(draw, 2))
			slot->host_is_ours = true;
	}
	if (draw_once(draw, 12) && draw->step->op != STEP_REPLACE)
		slot->as_id = draw->world->nr_spaces - 1;
	if (draw_once(draw, 16) && slot->memfd == STEP_NOWHERE)
		slot->flags |= draw_once(draw, 2) ? GMEM_SLOT_LOG_DIRTY : GMEM_SLOT_READONLY;
	if (draw_once(draw, 3))
		spoil(draw, slot);
	if (draw_once(draw, 16))
		spoil(draw, slot);
	draw_bound_slot(draw, slot);
	if (slot->id == STEP_SPARE_ID)
		slot->id = 0;
}
