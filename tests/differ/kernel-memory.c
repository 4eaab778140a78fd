/* SPDX-License-Identifier: MIT */
#include "kernel.h"

#include <errno.h>
#include <sys/mman.h>

static const struct kernel_slot *find_slot(uint8_t vm, uint32_t as_id, uint64_t gpa)
{
	for (unsigned int i = 0; i < STEP_SLOTS; i++) {
		const struct kernel_slot *slot = kernel_slots[i];

		if (slot && slot->bound && slot->vm == vm && slot->region.slot >> 16 == as_id &&
		    gpa >= slot->region.gpa && gpa - slot->region.gpa < slot->region.size)
			return slot;
	}
	return NULL;
}

static bool is_writable(const struct kernel_slot *slot)
{
	return !(slot->region.flags & RAW_READONLY) &&
	       (!slot->area || slot->area->prot & GMEM_PROT_WRITE);
}

int kernel_find_memory(uint8_t vm, uint32_t as_id, uint64_t gpa, bool write, struct memory_run *run)
{
	const struct kernel_slot *slot;

	if (as_id >= kernel_vms[vm].nr_spaces)
		return -EINVAL;
	slot = find_slot(vm, as_id, gpa);
	if (!slot || !slot->region.addr)
		return -EFAULT;
	if (write && !is_writable(slot))
		return -EACCES;
	run->addr = (unsigned char *)(uintptr_t)slot->region.addr + (gpa - slot->region.gpa);
	run->size = slot->region.size - (gpa - slot->region.gpa);
	return memory_cut(&kernel_vms[vm].private, gpa, run) ? -EFAULT : 0;
}

static int copy(const struct step *step, unsigned char *bytes, bool write)
{
	struct memory_run run = {.size = 0};
	bool single =
		step->op == STEP_LOAD || step->op == STEP_STORE; /* never past the last byte */
	int r = !single && step->size > UINT64_MAX - step->start ? -EINVAL : 0;

	if (step->as_id >= kernel_vms[step->vm].nr_spaces)
		r = -EINVAL;
	for (uint64_t done = 0; r == 0 && done < step->size; done += run.size)
		r = kernel_find_memory(step->vm, step->as_id, step->start + done, write, &run);
	for (uint64_t done = 0; r == 0 && done < step->size; done += run.size) {
		r = kernel_find_memory(step->vm, step->as_id, step->start + done, write, &run);
		if (run.size > step->size - done)
			run.size = step->size - done;
		if (r == 0)
			r = memory_copy(run.addr, bytes + done, run.size, write);
	}
	return r;
}

int kernel_read(const struct step *step, struct answer *answer)
{
	unsigned char bytes[STEP_BYTES] = {0};
	int r = copy(step, bytes, false);

	answer->value = r == 0 ? memory_sum(bytes, sizeof(bytes)) : 0;
	return r;
}

int kernel_write(const struct step *step, struct answer *answer)
{
	unsigned char bytes[STEP_BYTES];

	(void)answer;
	copy(step, kernel_last.bytes, false);
	memory_fill(bytes, step->value);
	return copy(step, bytes, true);
}

void kernel_undo_write(void)
{
	kernel_must(copy(&kernel_last.step, kernel_last.bytes, true), "cannot restore memory");
}

int kernel_translate(const struct step *step, struct answer *answer)
{
	struct memory_run run;
	int r = kernel_find_memory(step->vm, step->as_id, step->start,
				   step->flags & GMEM_PROT_WRITE, &run);

	answer->value = r == 0 ? run.size : 0;
	return r;
}

static int drop_part(const struct kernel_slot *slot, uint64_t into, uint64_t size)
{
	bool halves = slot->file && !(slot->file->flags & RAW_MMAP) && slot->region.addr;
	int r = 0;

	if (slot->file)
		r = raw_punch(slot->file->fd, slot->offset + into, size);
	if (r < 0 || (slot->file && !halves))
		return r;
	if (slot->area)
		return raw_punch(slot->area->file->fd, slot->offset + into, size);
	return raw_result(
		madvise((unsigned char *)(uintptr_t)slot->region.addr + into, size, MADV_DONTNEED));
}

static int walk_drop(const struct step *step, bool look)
{
	uint64_t end = step->start + step->size;

	for (uint64_t gpa = step->start, next; gpa < end; gpa = next) {
		const struct kernel_slot *slot = find_slot(step->vm, 0, gpa);
		int r = 0;

		if (!slot)
			return -EFAULT;
		if (slot->region.flags & RAW_READONLY)
			return -EACCES;
		next = slot->region.gpa + slot->region.size;
		next = next < end ? next : end;
		if (!look)
			r = drop_part(slot, gpa - slot->region.gpa, next - gpa);
		if (r < 0)
			return r;
	}
	return 0;
}

int kernel_drop(const struct step *step, struct answer *answer)
{
	int r;

	(void)answer;
	if (step->size == 0 || (step->start | step->size) % step_page() ||
	    step->size > UINT64_MAX - step->start)
		return -EINVAL;
	r = walk_drop(step, true);
	return r < 0 ? r : walk_drop(step, false);
}

int kernel_convert(const struct step *step, struct answer *answer)
{
	struct kernel_vm *vm = &kernel_vms[step->vm];
	int r;

	(void)answer;
	kernel_last.private = vm->private;
	r = raw_set_attributes(vm->fd, step->start, step->size,
			       step->value * RAW_ATTRIBUTE_PRIVATE);
	if (r == 0)
		memory_paint(&vm->private, step->start, step->start + step->size,
			     step->value != GMEM_VISIBILITY_SHARED);
	return r;
}

void kernel_undo_convert(void)
{
	struct kernel_vm *vm = &kernel_vms[kernel_last.step.vm];
	uint64_t start = kernel_last.step.start, end = start + kernel_last.step.size;

	vm->private = kernel_last.private;
	kernel_must(raw_set_attributes(vm->fd, start, kernel_last.step.size, 0),
		    "cannot make memory shared");
	for (unsigned int i = 0; i < vm->private.count; i++) {
		uint64_t from = vm->private.starts[i], to = vm->private.ends[i];

		from = from > start ? from : start;
		to = to < end ? to : end;
		if (from < to)
			kernel_must(
				raw_set_attributes(vm->fd, from, to - from, RAW_ATTRIBUTE_PRIVATE),
				"cannot make memory private again");
	}
}
