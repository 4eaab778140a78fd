/* SPDX-License-Identifier: MIT */
#include "world.h"

#include "library.h"

static uint64_t end_of_bits(uint64_t bits)
{
	return bits && bits < 64 ? UINT64_C(1) << bits : 0;
}

static unsigned int find_features(void)
{
	uint64_t flags = library_cap(GMEM_CAP_GUEST_MEMFD_FLAGS);
	unsigned int has = library_cap(GMEM_CAP_GUEST_MEMFD) ? WORLD_GUEST : WORLD_FALLBACK;

	if (flags & GMEM_MEMFD_MMAP)
		has |= WORLD_MAPPABLE;
	if ((flags & GMEM_MEMFD_INIT_SHARED) || has & WORLD_FALLBACK)
		has |= WORLD_SHARED;
	if (library_cap(GMEM_CAP_MEMORY_ATTRIBUTES) & GMEM_ATTRIBUTE_PRIVATE)
		has |= WORLD_PRIVATE;
	else
		has |= WORLD_PLAIN;
	if (!library_cap(GMEM_CAP_BIND_CHECKED))
		has |= WORLD_UNCHECKED;
	if (library_cap(GMEM_CAP_GPA_BITS) >= 48)
		has |= WORLD_WIDE;
	if (has & WORLD_MAPPABLE && !library_cap(GMEM_CAP_NUMA))
		has |= WORLD_NUMALESS;
	return has;
}

void world_begin(struct world *world, const struct step *step)
{
	uint64_t spaces = library_cap(GMEM_CAP_NR_ADDRESS_SPACES);

	*world = (struct world){
		.has = find_features(),
		.vm_flags = step->flags,
		.alone = step->alone,
		.crowded = step->value & 1,
		.nr_ids = (uint32_t)library_cap(GMEM_CAP_NR_MEMSLOTS),
		.nr_spaces = spaces ? (uint32_t)spaces : 1,
		.id_first = step->id_first,
		.id_end = step->id_first + step->id_count,
		.gpa_end = end_of_bits(library_cap(GMEM_CAP_GPA_BITS)),
		.hva_end = end_of_bits(library_cap(GMEM_CAP_HVA_BITS)),
	};
}

static void note_slot(struct world *world, const struct step *step, unsigned int i,
		      const struct answer *answer)
{
	uint8_t place = (uint8_t)(step->at + i);
	struct world_slot *slot = &world->slots[place];
	uint8_t same = answer->same[i];

	*slot = (struct world_slot){.live = true,
				    .bound = true,
				    .adopted = step->op == STEP_ADOPT,
				    .vm = step->vm,
				    .group = ++world->groups,
				    .asked = step->slots[i]};
	slot->asked.id = (uint32_t)(answer->value >> (step->count - 1 - i) * 16 & 0xffff);
	if (same != STEP_NOWHERE)
		*slot = world->slots[same];
}

/* All places that share a slot. */
static void note_unbound(struct world *world, uint8_t place)
{
	for (unsigned int i = 0; i < STEP_SLOTS; i++)
		if (world->slots[i].live && world->slots[i].group == world->slots[place].group)
			world->slots[i].bound = false;
}

static void note_changed(struct world *world, const struct step *step)
{
	unsigned int group = world->slots[step->at].group;

	for (unsigned int i = 0; i < STEP_SLOTS; i++) {
		struct world_slot *slot = &world->slots[i];
		uint32_t id = slot->asked.id;

		if (!slot->live || slot->group != group)
			continue;
		if (step->op == STEP_REPLACE)
			slot->asked = step->slots[0];
		else
			slot->asked.flags = step->flags;
		slot->asked.id = id;
	}
}

static void note_made(struct world *world, const struct step *step)
{
	if (step->op == STEP_MEMFD)
		world->memfds[step->at] = (struct world_memfd){
			.live = true, .vm = step->vm, .size = step->size, .flags = step->flags};
	if (step->op == STEP_OPEN_FD) {
		world->memfds[step->at] = world->memfds[step->from];
		world->memfds[step->at].given = true;
		world->memfds[step->at].vm =
			step->mode == STEP_MODE_NO_VM ? STEP_NOWHERE : step->vm;
	}
	if (step->op == STEP_MAP)
		world->maps[step->at] = (struct world_map){.live = true,
							   .memfd_vm = world->memfds[step->from].vm,
							   .offset = step->start,
							   .size = step->size,
							   .prot = step->flags};
	if (step->op == STEP_STRANGER)
		world->strangers[step->at] = (struct world_stranger){.live = true,
								     .vm = step->vm,
								     .id = step->slots[0].id,
								     .gpa = step->slots[0].gpa};
}

void world_note(struct world *world, const struct step *step, const struct answer *answer)
{
	switch (step->op) {
	case STEP_SLOT:
	case STEP_MANY:
	case STEP_ADOPT:
		for (unsigned int i = 0; i < step->count; i++)
			note_slot(world, step, i, answer);
		break;
	case STEP_DELETE:
		note_unbound(world, step->at);
		break;
	case STEP_REPLACE:
	case STEP_FLAGS:
		note_changed(world, step);
		break;
	case STEP_CLOSE_SLOT:
		world->slots[step->at].live = false;
		break;
	case STEP_CLOSE_MAP:
		world->maps[step->at].live = false;
		break;
	case STEP_CLOSE_MEMFD:
		world->memfds[step->at].live = false;
		break;
	case STEP_BANISH:
		world->strangers[step->at].live = false;
		break;
	default:
		note_made(world, step);
	}
}
