/* SPDX-License-Identifier: MIT */
#include "draw-parts.h"

#include <string.h>

/* How often each step is drawn. */
static const unsigned int weights[STEP_OP_COUNT] = {
	[STEP_VM] = 2,		 [STEP_RENEW] = 1,     [STEP_MEMFD] = 40,   [STEP_OPEN_FD] = 6,
	[STEP_CLOSE_MEMFD] = 20, [STEP_ALLOCATE] = 35, [STEP_DISCARD] = 35, [STEP_MAP] = 40,
	[STEP_CLOSE_MAP] = 30,	 [STEP_POPULATE] = 25, [STEP_SLOT] = 220,   [STEP_MANY] = 30,
	[STEP_ADOPT] = 40,	 [STEP_STRANGER] = 4,  [STEP_BANISH] = 3,   [STEP_DELETE] = 40,
	[STEP_CLOSE_SLOT] = 70,	 [STEP_REPLACE] = 60,  [STEP_FLAGS] = 30,   [STEP_RESERVE] = 15,
	[STEP_READ] = 40,	 [STEP_WRITE] = 40,    [STEP_LOAD] = 20,    [STEP_STORE] = 20,
	[STEP_TRANSLATE] = 30,	 [STEP_DROP] = 25,     [STEP_CONVERT] = 15,
};

/* ---- Steps; false: not possible now ---- */

static bool draw_vm(struct draw *draw, uint64_t type)
{
	static const uint64_t types[] = {6, 31, 63, 64, UINT64_C(1) << 31};
	static const enum step_mode modes[] = {
		STEP_MODE_PLAIN,   STEP_MODE_BAD_FD, STEP_MODE_NULL_FD, STEP_MODE_NO_DEVICE,
		STEP_MODE_NOT_KVM, STEP_MODE_IDS,    STEP_MODE_VM_FLAGS};

	draw->step->mode = modes[draw_below(draw, sizeof(modes) / sizeof(modes[0]))];
	draw->step->start = type;
	if (draw->step->mode == STEP_MODE_PLAIN && !draw_once(draw, 4))
		draw->step->start = types[draw_below(draw, sizeof(types) / sizeof(types[0]))];
	return true;
}

static uint64_t draw_usual_flags(const struct draw *draw)
{
	return draw->world->has & WORLD_SHARED ? DRAW_SHARED : 0;
}

static uint64_t draw_memfd_flags(struct draw *draw)
{
	const unsigned int has = draw->world->has;
	uint64_t usual = draw_usual_flags(draw);

	switch (draw_below(draw, 16)) {
	case 0:
		return 0;
	case 1:
		return GMEM_MEMFD_MMAP;
	case 2:
		return GMEM_MEMFD_INIT_SHARED;
	case 3:
		return DRAW_SHARED;
	case 4:
		return usual | UINT64_C(1) << (2 + draw_below(draw, 62));
	default:
		return has & WORLD_PRIVATE && draw_once(draw, 4) ? GMEM_MEMFD_MMAP : usual;
	}
}

static bool draw_memfd(struct draw *draw)
{
	struct step *step = draw->step;

	step->at = draw_place(draw, STEP_MEMFD, STEP_MEMFDS, true);
	step->size = draw_pages(1 + draw_below(draw, 32));
	if (draw_once(draw, 4))
		step->size = draw_edge(draw);
	step->flags = draw_memfd_flags(draw);
	if (draw->world->has & WORLD_FALLBACK ? !draw_once(draw, 16) : draw_once(draw, 32))
		step->mode = draw_once(draw, 64) ? 7 : GMEM_FALLBACK_MEMFD;
	if (draw_once(draw, 24)) {
		step->numa = (uint32_t)draw_below(draw, 8);
		step->value = draw_once(draw, 2) ? 1 : UINT64_C(1) << 63;
		if (step->size > draw_pages(STEP_PAGES_MAX))
			step->size = draw_pages(4);
		step->flags = draw_once(draw, 4) ? 0 : draw_usual_flags(draw) | GMEM_MEMFD_MMAP;
	}
	return step->at != STEP_NOWHERE;
}

static bool draw_open_fd(struct draw *draw)
{
	static const enum step_mode bad[] = {STEP_MODE_BAD_FD, STEP_MODE_NULL_FD,
					     STEP_MODE_MEMFD_FD};
	struct step *step = draw->step;

	step->at = draw_place(draw, STEP_MEMFD, STEP_MEMFDS, true);
	step->mode = bad[draw_below(draw, 3)];
	if (!draw->world->alone && !draw_once(draw, 3))
		step->mode = draw_once(draw, 3) ? STEP_MODE_NO_VM : STEP_MODE_PLAIN;
	if (step->mode == STEP_MODE_PLAIN || step->mode == STEP_MODE_NO_VM) {
		step->from = draw_memfd_place(draw);
		if (step->from == STEP_NOWHERE)
			return false;
	}
	return step->at != STEP_NOWHERE;
}

static bool draw_file_range(struct draw *draw)
{
	struct step *step = draw->step;
	const struct world_memfd *memfd;

	step->at = draw_memfd_place(draw);
	if (step->at == STEP_NOWHERE)
		return false;
	memfd = &draw->world->memfds[step->at];
	draw_range(draw, 0, memfd->size);
	/* What would succeed is short. */
	if (step->op == STEP_ALLOCATE && step->size > draw_pages(64) && step->start < memfd->size &&
	    step->size <= memfd->size - step->start)
		step->size = draw_pages(8);
	return true;
}

static bool draw_map(struct draw *draw)
{
	struct step *step = draw->step;

	step->at = draw_place(draw, STEP_MAP, STEP_MAPS, true);
	step->from = draw_own_memfd_place(draw);
	if (step->at == STEP_NOWHERE || step->from == STEP_NOWHERE)
		return false;
	draw_range(draw, 0, draw->world->memfds[step->from].size);
	if (draw_once(draw, 3)) {
		step->start = 0;
		step->size = draw->world->memfds[step->from].size;
	}
	/* Not to be written only: a plain copy reads that, and a fault-proof one does not. */
	if (draw_once(draw, 8))
		step->flags =
			draw_once(draw, 2) ? GMEM_PROT_READ : GMEM_PROT_READ | GMEM_PROT_WRITE;
	if (draw_once(draw, 64))
		step->flags = draw_once(draw, 2) ? 4 : 1U << 31;
	step->mode = draw_once(draw, 64) ? 1 : 0;
	/* No address space is an answer of the machine's. */
	if (step->size > draw_pages(STEP_PAGES_MAX) && !draw_once(draw, 16))
		step->size = draw_pages(4);
	return true;
}

static bool draw_populate(struct draw *draw)
{
	struct step *step = draw->step;
	const struct world_map *map;

	step->at = draw_map_place(draw);
	if (step->at == STEP_NOWHERE)
		return false;
	map = &draw->world->maps[step->at];
	draw_range(draw, map->offset, map->size);
	if (step->size > draw_pages(64) && step->size < draw_pages(DRAW_PAGES_MANY))
		step->size = draw_pages(8);
	step->mode = draw_once(draw, 32) ? 257 : 1;
	return true;
}

static bool draw_slots(struct draw *draw)
{
	struct step *step = draw->step;

	step->at = draw_place(draw, STEP_SLOT, STEP_SLOTS, true);
	step->count = 1;
	if (step->op == STEP_MANY)
		step->count = (uint8_t)(2 + draw_below(draw, STEP_MANY_MAX - 1));
	if (step->at == STEP_NOWHERE)
		return false;
	for (unsigned int i = 0; i < step->count; i++) {
		if (step->at + i >= STEP_SLOTS || draw->world->slots[step->at + i].live)
			return false;
		draw_slot(draw, &step->slots[i]);
	}
	return true;
}

static bool draw_stranger(struct draw *draw)
{
	struct step *step = draw->step;

	step->at = draw_place(draw, STEP_STRANGER, STEP_STRANGERS, true);
	step->count = 1;
	step->slots[0] =
		(struct step_slot){.gpa = draw_pages(draw_below(draw, DRAW_LOW_PAGES)),
				   .size = step_page(),
				   .memfd = STEP_NOWHERE,
				   .map = STEP_NOWHERE,
				   .id = draw->world->id_first + (uint32_t)draw_below(draw, 16)};
	return !draw->world->alone && step->at != STEP_NOWHERE;
}

static bool draw_banish(struct draw *draw)
{
	struct step *step = draw->step;

	step->at = draw_place(draw, STEP_STRANGER, STEP_STRANGERS, false);
	if (step->at == STEP_NOWHERE)
		return false;
	step->vm = draw->world->strangers[step->at].vm;
	step->slots[0].id = draw->world->strangers[step->at].id;
	return true;
}

static bool has_room(const struct world *world)
{
	unsigned int live = 0;

	for (unsigned int i = 0; i < STEP_SLOTS; i++)
		live += world->slots[i].live;
	return live < STEP_SLOTS * 7 / 8;
}

/* Of a slot that is there, mostly bound. */
static bool draw_change(struct draw *draw)
{
	struct step *step = draw->step;

	step->at = draw_slot_place(draw);
	if (step->at != STEP_NOWHERE && !draw->world->slots[step->at].bound && !draw_once(draw, 8))
		step->at = draw_slot_place(draw);
	if (step->at == STEP_NOWHERE)
		return false;
	step->vm = draw->world->slots[step->at].vm;
	return true;
}

/* A little beside what the slot is: over itself, and perhaps over a neighbour. */
static void shift_slot(struct draw *draw, const struct step_slot *old, struct step_slot *slot)
{
	slot->gpa = old->gpa + draw_pages(draw_below(draw, 3)) - step_page();
	slot->size = draw_least(old->size, draw_pages(8)) + draw_pages(draw_below(draw, 4));
	if (draw_once(draw, 2)) {
		slot->memfd = old->memfd;
		slot->map = old->map;
		slot->host = old->host;
		slot->host_is_ours = old->host_is_ours;
		slot->offset = old->offset + draw_pages(draw_below(draw, 3)) - step_page();
	}
	draw_bound_slot(draw, slot);
}

static bool draw_replace(struct draw *draw)
{
	struct step *step = draw->step;

	if (!draw_change(draw))
		return false;
	step->count = 1;
	draw_slot(draw, &step->slots[0]);
	if (draw_once(draw, 3))
		shift_slot(draw, &draw->world->slots[step->at].asked, &step->slots[0]);
	if (!draw_once(draw, 32))
		step->slots[0].as_id = draw->world->slots[step->at].asked.as_id;
	if (draw_once(draw, 2))
		step->slots[0].id = draw->world->slots[step->at].asked.id;
	else
		step->slots[0].flags &= ~GMEM_SLOT_FIXED_ID;
	if (!(step->slots[0].flags & GMEM_SLOT_FIXED_ID))
		step->slots[0].id = 0;
	switch (draw_below(draw, 16)) {
	case 0:
		step->mode = STEP_MODE_STUBBORN;
		break;
	case 1:
		step->mode = STEP_MODE_RUNNING;
		break;
	case 2:
	case 3:
		step->mode = STEP_MODE_QUIESCE;
		break;
	default:
		step->mode = STEP_MODE_PLAIN;
	}
	step->flags = draw_once(draw, 64) ? 2 : 0;
	return true;
}

static bool draw_flags(struct draw *draw)
{
	if (!draw_change(draw))
		return false;
	draw->step->flags = draw->world->slots[draw->step->at].asked.flags & 3;
	if (!draw_once(draw, 8))
		draw->step->flags ^=
			draw_once(draw, 2) ? GMEM_SLOT_LOG_DIRTY : draw_slot_flag(draw);
	return true;
}

static bool draw_reserve(struct draw *draw)
{
	struct step *step = draw->step;
	struct step_slot id = {.id = 0};

	if (!draw_once(draw, 3)) {
		step->start = draw_gpa(draw);
		step->size = draw_size(draw);
	}
	if (draw_once(draw, 2)) {
		draw_id(draw, &id);
		step->id_first = id.id;
		step->id_count = (uint32_t)draw_below(draw, 3);
	}
	if (step->id_first <= STEP_SPARE_ID && step->id_first + 2 >= STEP_SPARE_ID)
		step->id_first = 0;
	step->as_id = draw_once(draw, 8) ? draw_space(draw) : 0;
	return true;
}

static bool draw_access(struct draw *draw)
{
	struct step *step = draw->step;
	bool single = step->op == STEP_LOAD || step->op == STEP_STORE;

	step->size = single ? UINT64_C(1) << draw_below(draw, 4) : 1 + draw_below(draw, STEP_BYTES);
	step->start = draw_memory(draw, step->size);
	step->value = random_next(draw->random);
	if (single && !draw_once(draw, 8))
		step->start = step->start / step->size * step->size;
	if (!single && step->op != STEP_TRANSLATE && draw_once(draw, 16)) {
		step->start = UINT64_MAX - draw_below(draw, STEP_BYTES);
		step->size = STEP_BYTES;
	}
	step->flags = draw_once(draw, 16) ? 4 : draw_below(draw, 4);
	if (draw_once(draw, 8))
		step->as_id = draw_space(draw);
	return true;
}

static bool draw_drop(struct draw *draw)
{
	struct step *step = draw->step;

	step->start = draw_memory(draw, draw_pages(2)) / step_page() * step_page();
	step->size = draw_size(draw);
	if (draw_once(draw, 16))
		step->start = draw_edge(draw);
	/* Host memory that is not there has the machine's answer. */
	return !(draw->world->vm_flags & GMEM_VM_FAULT_PROOF);
}

static bool draw_convert(struct draw *draw)
{
	struct step *step = draw->step;

	step->start = draw_memory(draw, draw_pages(2)) / step_page() * step_page();
	step->size = draw_once(draw, 4) ? draw_size(draw) : draw_pages(1 + draw_below(draw, 3));
	step->value = draw_once(draw, 32) ? 2 : draw_below(draw, 2);
	step->mode = draw_once(draw, 64) ? 2 : (uint32_t)draw_below(draw, 2);
	if (draw_once(draw, 16))
		step->start = draw_edge(draw);
	/* KVM works through each page, whatever is there. */
	if (step->size > draw_pages(256) && step->size <= UINT64_MAX - step->start)
		step->size = draw_pages(1);
	return true;
}

static bool draw_numbers(struct draw *draw, uint64_t type)
{
	switch (draw->step->op) {
	case STEP_VM:
		return draw_vm(draw, type);
	case STEP_RENEW:
		draw_renewal(draw->random, type, draw->step);
		return true;
	case STEP_MEMFD:
		return draw_memfd(draw);
	case STEP_OPEN_FD:
		return draw_open_fd(draw);
	case STEP_CLOSE_MEMFD:
		draw->step->at = draw_memfd_place(draw);
		return draw->step->at != STEP_NOWHERE;
	case STEP_ALLOCATE:
	case STEP_DISCARD:
		return draw_file_range(draw);
	case STEP_MAP:
		return draw_map(draw);
	case STEP_CLOSE_MAP:
		draw->step->at = draw_map_place(draw);
		return draw->step->at != STEP_NOWHERE;
	case STEP_POPULATE:
		return draw_populate(draw);
	case STEP_SLOT:
	case STEP_MANY:
	case STEP_ADOPT:
		return draw_slots(draw);
	case STEP_STRANGER:
		return draw_stranger(draw);
	case STEP_BANISH:
		return draw_banish(draw);
	case STEP_DELETE:
	case STEP_CLOSE_SLOT:
		return !(draw->world->crowded && has_room(draw->world)) && draw_change(draw);
	case STEP_REPLACE:
		return draw_replace(draw);
	case STEP_FLAGS:
		return draw_flags(draw);
	case STEP_RESERVE:
		return draw_reserve(draw);
	case STEP_DROP:
		return draw_drop(draw);
	case STEP_CONVERT:
		return draw_convert(draw);
	default:
		return draw_access(draw);
	}
}

static enum step_op draw_op(struct draw *draw)
{
	unsigned int sum = 0, chosen, op;

	for (op = 0; op < STEP_OP_COUNT; op++)
		sum += weights[op];
	chosen = (unsigned int)draw_below(draw, sum);
	for (op = 0; chosen >= weights[op]; op++)
		chosen -= weights[op];
	if (draw->world->has & WORLD_PRIVATE && draw_once(draw, 10))
		return STEP_CONVERT;
	return (enum step_op)op;
}

void draw_renewal(struct random *random, uint64_t type, struct step *step)
{
	bool few = random_once(random, 2);

	memset(step, 0, sizeof(*step));
	step->op = STEP_RENEW;
	step->at = step->from = STEP_NOWHERE;
	step->start = type;
	step->flags = random_once(random, 2) ? GMEM_VM_FAULT_PROOF : 0;
	step->alone = !random_once(random, 3);
	step->value = random_next(random);
	few &= !(step->value & 1);
	step->id_first = few ? 4 : 0;
	step->id_count = few ? 10 : 30000;
}

void draw_step(struct random *random, const struct world *world, uint64_t type, struct step *step)
{
	struct draw draw = {.random = random, .world = world, .step = step};

	do {
		memset(step, 0, sizeof(*step));
		step->op = draw_op(&draw);
		step->at = step->from = STEP_NOWHERE;
		step->vm = draw_once(&draw, 10);
	} while (!draw_numbers(&draw, type));
	step->look.vm = step->vm;
	step->look.as_id = world->nr_spaces > 1 && draw_once(&draw, 4);
	step->look.gpa = draw_memory(&draw, step_page()) / 8 * 8;
}
