/* SPDX-License-Identifier: MIT */
#include "kernel.h"

#include <errno.h>
#include <stdlib.h>

/*
 * Files of a slot whose host side the library maps itself. Where there can be none, KVM is asked
 * with address 0: it looks at the file.
 */
static int map_own(struct kernel_slot *slot, const struct step_slot *asked)
{
	int r = asked->size > STEP_PAGES_MAX * step_page()
			? -ENOMEM
			: kernel_map_file(slot->file, asked->offset, asked->size, 0, &slot->area);

	return r != -ENOMEM && slot->file->sealed ? r : 0;
}

static int fill_region(struct kernel_slot *slot, const struct step_slot *asked, uint32_t number)
{
	struct raw_region *region = &slot->region;
	struct kernel_area *area = asked->map == STEP_NOWHERE ? NULL : kernel_areas[asked->map];
	void *host = step_host(asked);
	int r = 0;

	slot->file =
		asked->memfd == STEP_NOWHERE ? NULL : kernel_ref_file(kernel_files[asked->memfd]);
	slot->area = kernel_ref_area(area);
	slot->offset = asked->offset;
	*region = (struct raw_region){.slot = number,
				      .flags = (uint32_t)(asked->flags & ~GMEM_SLOT_FIXED_ID),
				      .gpa = asked->gpa,
				      .size = asked->size,
				      .memfd = UINT32_MAX};
	if (slot->file && !slot->file->sealed) {
		region->flags |= RAW_GUEST_MEMFD;
		region->memfd = (uint32_t)slot->file->fd;
		region->offset = asked->offset;
	}
	if (area)
		region->addr = (uintptr_t)area->addr + (asked->offset - area->offset);
	else if (asked->host || asked->host_is_ours)
		region->addr = (uintptr_t)host;
	else if (slot->file && slot->file->flags & RAW_MMAP)
		r = map_own(slot, asked);
	if (!area && slot->area)
		region->addr = (uintptr_t)slot->area->addr;
	return r;
}

/* What no region can say, and a size of 0, which deletes. */
static bool is_sayable(const struct step *step, const struct step_slot *asked, uint32_t number)
{
	bool both = asked->map != STEP_NOWHERE && (asked->host || asked->host_is_ours);

	return asked->as_id <= UINT16_MAX && asked->id <= UINT16_MAX &&
	       asked->flags <= UINT32_MAX && !both &&
	       (asked->size || !kernel_is_number_in_use(step->vm, number));
}

static int set_slot(const struct step *step, const struct step_slot *asked, uint32_t number,
		    struct raw_region *displaced, struct kernel_slot **ret)
{
	struct kernel_slot *slot = kernel_make(sizeof(*slot));
	const struct kernel_slot *before = kernel_find_number(step->vm, number);
	int r;

	slot->references = 1;
	slot->vm = step->vm;
	r = is_sayable(step, asked, number) ? fill_region(slot, asked, number) : -ANSWER_UNASKED;
	if (r == 0)
		r = raw_set(kernel_vms[step->vm].fd, &slot->region);
	if (r < 0) {
		kernel_unref_slot(slot);
		return r;
	}
	slot->bound = true;
	if (before)
		*displaced = before->region;
	*ret = slot;
	return 0;
}

/* Take a set back. */
void kernel_unset_slot(uint8_t place, const struct raw_region *displaced)
{
	struct kernel_slot *slot = kernel_slots[place];

	if (displaced->size) {
		kernel_must(raw_set(kernel_vms[slot->vm].fd, displaced), "cannot move a slot back");
		slot->bound = false;
	}
	kernel_unref_slot(slot);
	kernel_slots[place] = NULL;
}

/* The id of a slot that the VMM set itself stays its own. */
static void keep_id(const struct step *step, const struct kernel_slot *slot)
{
	bool *kept =
		&kernel_vms[step->vm].kept[slot->region.slot >> 16][slot->region.slot & 0xffff];

	kernel_last.was_kept = *kept;
	*kept = true;
}

void kernel_undo_keep(const struct step *step, const struct kernel_slot *slot)
{
	kernel_vms[step->vm].kept[slot->region.slot >> 16][slot->region.slot & 0xffff] =
		kernel_last.was_kept;
}

int kernel_set_slots(const struct step *step, struct answer *answer)
{
	for (unsigned int i = 0; i < step->count; i++) {
		const struct step_slot *asked = &step->slots[i];
		uint8_t place = (uint8_t)(step->at + i);
		uint32_t id = asked->flags & GMEM_SLOT_FIXED_ID
				      ? asked->id
				      : kernel_lowest_free_id(step->vm, asked->as_id);
		int r = set_slot(step, asked, asked->as_id << 16 | id, &kernel_last.displaced[i],
				 &kernel_slots[place]);

		if (r < 0) {
			while (i-- > 0)
				kernel_unset_slot((uint8_t)(step->at + i),
						  &kernel_last.displaced[i]);
			return r;
		}
		answer->changed |= kernel_last.displaced[i].size > 0;
		answer->value = answer->value << 16 | id;
	}
	if (step->op == STEP_ADOPT)
		keep_id(step, kernel_slots[step->at]);
	return 0;
}

int kernel_stranger(const struct step *step, struct answer *answer)
{
	struct raw_region region = {.slot = step->slots[0].id,
				    .gpa = step->slots[0].gpa,
				    .size = step->slots[0].size,
				    .addr = (uintptr_t)step_stranger_host(step->at)};
	int r = raw_set(kernel_vms[step->vm].fd, &region);

	(void)answer;
	if (r == 0)
		kernel_vms[step->vm].strangers[step->at] = region;
	return r;
}

int kernel_banish(const struct step *step, struct answer *answer)
{
	struct raw_region *region = &kernel_vms[step->vm].strangers[step->at];

	(void)answer;
	kernel_must(raw_delete(kernel_vms[step->vm].fd, region->slot), "cannot delete a stranger");
	*region = (struct raw_region){0};
	return 0;
}

/* A slot that is gone has no id any more: it can be another's. */
static int delete_again(const struct kernel_slot *slot)
{
	return kernel_is_number_in_use(slot->vm, slot->region.slot)
		       ? -ANSWER_UNASKED
		       : raw_delete(kernel_vms[slot->vm].fd, slot->region.slot);
}

int kernel_delete(const struct step *step, struct answer *answer)
{
	struct kernel_slot *slot = kernel_slots[step->at];

	(void)answer;
	if (!slot->bound)
		return delete_again(slot);
	kernel_unbind(slot);
	return 0;
}

int kernel_replace(const struct step *step, struct answer *answer)
{
	struct kernel_slot *old = kernel_slots[step->at];
	struct kernel_slot *slot;
	int r;

	(void)answer;
	if (!old->bound)
		return delete_again(old);
	kernel_unbind(old);
	r = set_slot(step, &step->slots[0], old->region.slot, &kernel_last.displaced[0], &slot);
	if (r < 0) {
		kernel_must(raw_set(kernel_vms[old->vm].fd, &old->region),
			    "cannot set a slot again");
		old->bound = true;
		return r;
	}
	/* The same handle, and all places that share it: swap what is behind it. */
	slot->references = old->references;
	kernel_last.old = kernel_make(sizeof(*old));
	*kernel_last.old = *old;
	*old = *slot;
	free(slot);
	return 0;
}

void kernel_undo_replace(void)
{
	struct kernel_slot *slot = kernel_slots[kernel_last.step.at];
	struct kernel_slot *old = kernel_last.old;

	kernel_unbind(slot);
	kernel_unref_area(slot->area);
	kernel_unref_file(slot->file);
	*slot = *old;
	free(old);
	kernel_last.old = NULL;
	kernel_must(raw_set(kernel_vms[slot->vm].fd, &slot->region), "cannot set a slot again");
	slot->bound = true;
}

int kernel_flags(const struct step *step, struct answer *answer)
{
	struct kernel_slot *slot = kernel_slots[step->at];
	struct raw_region region = slot->region;
	int r;

	(void)answer;
	if (!slot->bound)
		return delete_again(slot);
	if (step->flags > UINT32_MAX)
		return -ANSWER_UNASKED;
	kernel_last.flags = region.flags;
	region.flags = (region.flags & RAW_GUEST_MEMFD) | (uint32_t)step->flags;
	r = raw_set(kernel_vms[slot->vm].fd, &region);
	if (r == 0)
		slot->region = region;
	return r;
}

void kernel_undo_flags(void)
{
	struct kernel_slot *slot = kernel_slots[kernel_last.step.at];

	slot->region.flags = kernel_last.flags;
	kernel_must(raw_set(kernel_vms[slot->vm].fd, &slot->region), "cannot set flags back");
}

/* KVM knows no reservations: whether something is there is all that can be asked. */
int kernel_reserve(const struct step *step, struct answer *answer)
{
	const struct kernel_vm *vm = &kernel_vms[step->vm];
	struct raw_region region = {
		.slot = step->as_id << 16 | STEP_SPARE_ID, .gpa = step->start, .size = step->size};
	uint32_t first = step->id_first, count = step->id_count;
	int r = -ANSWER_UNASKED;

	(void)answer;
	if (step->as_id >= vm->nr_spaces)
		return -EINVAL;
	if (step->size && (step->size <= STEP_PAGES_MAX * step_page() ||
			   (step->start | step->size) % step_page()))
		r = raw_try(vm->fd, &region);
	if (r < 0 && r != -ANSWER_UNASKED)
		return r;
	if (count && (first > vm->nr_ids || count > vm->nr_ids - first))
		return -EINVAL;
	for (uint32_t id = first; id < first + count; id++)
		if (vm->kept[step->as_id][id] ||
		    kernel_find_number(step->vm, step->as_id << 16 | id))
			return -EEXIST;
	for (uint32_t id = first; id < first + count; id++)
		kernel_vms[step->vm].kept[step->as_id][id] = true;
	return step->size ? r : 0;
}

void kernel_undo_reserve(void)
{
	for (uint32_t i = 0; i < kernel_last.step.id_count; i++)
		kernel_vms[kernel_last.step.vm]
			.kept[kernel_last.step.as_id][kernel_last.step.id_first + i] = false;
}
