/* SPDX-License-Identifier: MIT */
#include "draw-parts.h"

uint64_t draw_below(struct draw *draw, uint64_t limit)
{
	return random_below(draw->random, limit);
}

bool draw_once(struct draw *draw, uint64_t times)
{
	return random_once(draw->random, times);
}

uint64_t draw_pages(uint64_t count)
{
	return count * step_page();
}

/* ---- Places ---- */

static bool is_free(const struct world *world, enum step_op op, unsigned int place)
{
	switch (op) {
	case STEP_MEMFD:
		return !world->memfds[place].live;
	case STEP_MAP:
		return !world->maps[place].live;
	case STEP_STRANGER:
		return !world->strangers[place].live;
	default:
		return !world->slots[place].live;
	}
}

uint8_t draw_place(struct draw *draw, enum step_op op, unsigned int count, bool free)
{
	unsigned int from = (unsigned int)draw_below(draw, count);

	for (unsigned int i = 0; i < count; i++)
		if (is_free(draw->world, op, (from + i) % count) == free)
			return (uint8_t)((from + i) % count);
	return STEP_NOWHERE;
}

uint8_t draw_memfd_place(struct draw *draw)
{
	return draw_place(draw, STEP_MEMFD, STEP_MEMFDS, false);
}

uint8_t draw_map_place(struct draw *draw)
{
	return draw_place(draw, STEP_MAP, STEP_MAPS, false);
}

uint8_t draw_slot_place(struct draw *draw)
{
	return draw_place(draw, STEP_SLOT, STEP_SLOTS, false);
}

uint8_t draw_own_memfd_place(struct draw *draw)
{
	uint8_t place = draw_memfd_place(draw);

	for (int i = 0;
	     i < 4 && place != STEP_NOWHERE && draw->world->memfds[place].vm != draw->step->vm; i++)
		place = draw_memfd_place(draw);
	return place;
}

/* ---- Numbers ---- */

static uint64_t draw_live_edge(struct draw *draw)
{
	const struct world *world = draw->world;
	uint8_t slot = draw_slot_place(draw), memfd = draw_memfd_place(draw),
		map = draw_map_place(draw);

	switch (draw_below(draw, 6)) {
	case 0:
		return slot == STEP_NOWHERE ? 0 : world->slots[slot].asked.gpa;
	case 1:
		return slot == STEP_NOWHERE
			       ? 0
			       : world->slots[slot].asked.gpa + world->slots[slot].asked.size;
	case 2:
		return slot == STEP_NOWHERE
			       ? 0
			       : world->slots[slot].asked.offset + world->slots[slot].asked.size;
	case 3:
		return memfd == STEP_NOWHERE ? 0 : world->memfds[memfd].size;
	case 4:
		return map == STEP_NOWHERE ? 0 : world->maps[map].offset;
	default:
		return map == STEP_NOWHERE ? 0 : world->maps[map].offset + world->maps[map].size;
	}
}

uint64_t draw_edge(struct draw *draw)
{
	const uint64_t fixed[] = {
		0,
		draw_pages(DRAW_PAGES_MANY),
		draw_pages(UINT64_C(1) << 32),
		UINT64_C(1) << 52,
		draw->world->gpa_end,
		draw->world->hva_end,
		UINT64_C(1) << 63,
		UINT64_MAX - step_page() + 1,
	};
	const unsigned int count = sizeof(fixed) / sizeof(fixed[0]);
	uint64_t number =
		draw_once(draw, 2) ? draw_live_edge(draw) : fixed[draw_below(draw, count)];

	switch (draw_below(draw, 8)) {
	case 0:
		return number - step_page();
	case 1:
		return number + step_page();
	case 2:
		return number - 1;
	case 3:
		return number + 1;
	default:
		return number;
	}
}

/* Few pages mostly; of the edges one that is no burden. */
uint64_t draw_size(struct draw *draw)
{
	uint64_t size;

	switch (draw_below(draw, 32)) {
	case 0:
		size = draw_edge(draw);
		break;
	case 1:
		size = draw_pages(16 + draw_below(draw, 64));
		break;
	default:
		size = draw_pages(1 + draw_below(draw, 4));
	}
	return size;
}

uint64_t draw_gpa(struct draw *draw)
{
	const struct world *world = draw->world;
	uint8_t slot = draw_slot_place(draw);

	switch (draw_below(draw, 16)) {
	case 0:
		return draw_edge(draw);
	case 1:
		return world->gpa_end - draw_pages(draw_below(draw, 8));
	case 2:
	case 3:
		if (slot != STEP_NOWHERE)
			return world->slots[slot].asked.gpa +
			       (draw_once(draw, 2) ? world->slots[slot].asked.size : 0) +
			       draw_pages(draw_below(draw, 3)) - step_page();
		/* fall through */
	default:
		return draw_pages(draw_below(draw, DRAW_LOW_PAGES));
	}
}

uint64_t draw_memory(struct draw *draw, uint64_t size)
{
	const struct world *world = draw->world;
	uint8_t place = draw_slot_place(draw);
	const struct step_slot *asked = &world->slots[place % STEP_SLOTS].asked;

	if (place == STEP_NOWHERE || asked->size == 0 || draw_once(draw, 16))
		return draw_gpa(draw);
	if (draw_once(draw, 4))
		return asked->gpa + asked->size - draw_below(draw, size + 1);
	return asked->gpa + draw_below(draw, asked->size);
}

void draw_range(struct draw *draw, uint64_t start, uint64_t size)
{
	struct step *step = draw->step;
	uint64_t count = size / step_page();
	uint64_t from = draw_below(draw, count ? count : 1);
	uint64_t left = count - from;

	step->start = start + draw_pages(from);
	step->size = draw_pages(1 + draw_below(draw, left < 8 && left ? left : 8));
	if (draw_once(draw, 12))
		step->start = draw_edge(draw);
	if (draw_once(draw, 12))
		step->size = draw_edge(draw);
	if (draw_once(draw, 24))
		step->start += draw_once(draw, 2) ? 1 : step_page() / 2;
}
