/* SPDX-License-Identifier: MIT */
#include "kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct kernel_vm kernel_vms[STEP_VMS] = {{.fd = -1}, {.fd = -1}};
struct kernel_file *kernel_files[STEP_MEMFDS];
struct kernel_area *kernel_areas[STEP_MAPS];
struct kernel_slot *kernel_slots[STEP_SLOTS];
struct kernel_last kernel_last;

/* ---- Objects ---- */

_Noreturn static void give_up(const char *what)
{
	fprintf(stderr, "twin: %s: %s\n", what, strerror(errno));
	_exit(EXIT_FAILURE);
}

/* What must succeed. */
void kernel_must(int r, const char *what)
{
	if (r < 0) {
		errno = -r;
		give_up(what);
	}
}

void *kernel_make(size_t size)
{
	void *made = calloc(1, size);

	if (!made)
		give_up("calloc");
	return made;
}

struct kernel_file *kernel_ref_file(struct kernel_file *file)
{
	if (file)
		file->references++;
	return file;
}

void kernel_unref_file(struct kernel_file *file)
{
	if (file && --file->references == 0) {
		close(file->fd);
		free(file);
	}
}

struct kernel_area *kernel_ref_area(struct kernel_area *area)
{
	if (area)
		area->references++;
	return area;
}

void kernel_unref_area(struct kernel_area *area)
{
	if (area && --area->references == 0) {
		munmap(area->addr, area->size);
		kernel_unref_file(area->file);
		free(area);
	}
}

void kernel_unbind(struct kernel_slot *slot)
{
	if (slot->bound)
		kernel_must(raw_delete(kernel_vms[slot->vm].fd, slot->region.slot),
			    "cannot delete a slot");
	slot->bound = false;
}

void kernel_unref_slot(struct kernel_slot *slot)
{
	if (!slot || --slot->references > 0)
		return;
	kernel_unbind(slot);
	kernel_unref_area(slot->area);
	kernel_unref_file(slot->file);
	free(slot);
}

/* The bound slot that KVM has under a number, or NULL. */
struct kernel_slot *kernel_find_number(uint8_t vm, uint32_t number)
{
	for (unsigned int i = 0; i < STEP_SLOTS; i++)
		if (kernel_slots[i] && kernel_slots[i]->bound && kernel_slots[i]->vm == vm &&
		    kernel_slots[i]->region.slot == number)
			return kernel_slots[i];
	return NULL;
}

bool kernel_is_number_in_use(uint8_t vm, uint32_t number)
{
	for (unsigned int i = 0; i < STEP_STRANGERS; i++)
		if (kernel_vms[vm].strangers[i].size && kernel_vms[vm].strangers[i].slot == number)
			return true;
	return kernel_find_number(vm, number);
}

uint32_t kernel_lowest_free_id(uint8_t vm, uint32_t as_id)
{
	uint32_t id = kernel_vms[vm].id_first;

	/* Past those granted, the kernel has more. */
	while (as_id < KERNEL_SPACES && id + 1 < KERNEL_IDS &&
	       (kernel_vms[vm].kept[as_id][id] || kernel_find_number(vm, as_id << 16 | id)))
		id++;
	return id;
}

/* ---- VMs ---- */

static int ask_fd(int fd)
{
	int r = raw_cap(fd, RAW_CAP_USER_MEMORY2);

	return r < 0 ? r : 0;
}

static int try_vm(const struct step *step, struct answer *answer)
{
	int fd = -1, r;

	(void)answer;
	switch (step->mode) {
	case STEP_MODE_BAD_FD:
		return ask_fd(-1);
	case STEP_MODE_NO_DEVICE:
		return raw_result(open("/nonexistent/kvm", O_RDWR | O_CLOEXEC));
	case STEP_MODE_NULL_FD:
	case STEP_MODE_NOT_KVM:
		fd = open("/dev/null", O_RDWR | O_CLOEXEC);
		r = ask_fd(fd);
		break;
	default:
		r = fd = raw_vm_of_type((unsigned int)step->start);
	}
	if (fd >= 0)
		close(fd);
	return r < 0 ? r : 0;
}

void kernel_close_all(void)
{
	for (unsigned int i = 0; i < STEP_SLOTS; i++) {
		kernel_unref_slot(kernel_slots[i]);
		kernel_slots[i] = NULL;
	}
	for (unsigned int i = 0; i < STEP_MAPS; i++) {
		kernel_unref_area(kernel_areas[i]);
		kernel_areas[i] = NULL;
	}
	for (unsigned int i = 0; i < STEP_MEMFDS; i++) {
		kernel_unref_file(kernel_files[i]);
		kernel_files[i] = NULL;
	}
	for (unsigned int i = 0; i < STEP_VMS; i++) {
		if (kernel_vms[i].fd > 0)
			close(kernel_vms[i].fd);
		kernel_vms[i] = (struct kernel_vm){.fd = -1};
	}
}

static int renew(const struct step *step, struct answer *answer)
{
	(void)answer;
	kernel_close_all();
	for (unsigned int i = 0; i < STEP_VMS; i++) {
		struct kernel_vm *vm = &kernel_vms[i];
		int spaces;

		vm->fd = raw_vm_of_type((unsigned int)step->start);
		kernel_must(vm->fd, "cannot make a VM");
		vm->nr_ids = (uint32_t)raw_cap(vm->fd, KVM_CAP_NR_MEMSLOTS);
		spaces = raw_cap(vm->fd, KVM_CAP_MULTI_ADDRESS_SPACE);
		vm->nr_spaces = spaces > 0 ? (uint32_t)spaces : 1;
		vm->id_first = step->id_first;
	}
	return 0;
}

static int close_one(const struct step *step, struct answer *answer)
{
	(void)answer;
	switch (step->op) {
	case STEP_CLOSE_SLOT:
		kernel_unref_slot(kernel_slots[step->at]);
		kernel_slots[step->at] = NULL;
		break;
	case STEP_CLOSE_MAP:
		kernel_unref_area(kernel_areas[step->at]);
		kernel_areas[step->at] = NULL;
		break;
	default:
		kernel_unref_file(kernel_files[step->at]);
		kernel_files[step->at] = NULL;
	}
	return 0;
}

/* ---- Steps ---- */

static int (*const doers[STEP_OP_COUNT])(const struct step *, struct answer *) = {
	[STEP_VM] = try_vm,
	[STEP_RENEW] = renew,
	[STEP_MEMFD] = kernel_make_memfd,
	[STEP_OPEN_FD] = kernel_open_fd,
	[STEP_CLOSE_MEMFD] = close_one,
	[STEP_ALLOCATE] = kernel_allocate,
	[STEP_DISCARD] = kernel_discard,
	[STEP_MAP] = kernel_make_map,
	[STEP_CLOSE_MAP] = close_one,
	[STEP_POPULATE] = kernel_populate,
	[STEP_SLOT] = kernel_set_slots,
	[STEP_MANY] = kernel_set_slots,
	[STEP_ADOPT] = kernel_set_slots,
	[STEP_STRANGER] = kernel_stranger,
	[STEP_BANISH] = kernel_banish,
	[STEP_DELETE] = kernel_delete,
	[STEP_CLOSE_SLOT] = close_one,
	[STEP_REPLACE] = kernel_replace,
	[STEP_FLAGS] = kernel_flags,
	[STEP_RESERVE] = kernel_reserve,
	[STEP_READ] = kernel_read,
	[STEP_WRITE] = kernel_write,
	[STEP_LOAD] = kernel_read,
	[STEP_STORE] = kernel_write,
	[STEP_TRANSLATE] = kernel_translate,
	[STEP_DROP] = kernel_drop,
	[STEP_CONVERT] = kernel_convert,
};

/* What is kept for taking the step before this one back. */
static void forget_undo(void)
{
	if (kernel_last.old) {
		kernel_unref_area(kernel_last.old->area);
		kernel_unref_file(kernel_last.old->file);
		free(kernel_last.old);
	}
	memset(&kernel_last, 0, offsetof(__typeof__(kernel_last), private));
}

void kernel_step(const struct step *step, struct answer *answer)
{
	int r;

	forget_undo();
	kernel_last.step = *step;
	*answer = (struct answer){.error = 0};
	r = doers[step->op](step, answer);
	kernel_last.done = r == 0 || (r == -ANSWER_UNASKED && step->op == STEP_RESERVE);
	answer->error = r < 0 ? -r : 0;
}

void kernel_undo(void)
{
	const struct step *step = &kernel_last.step;

	if (!kernel_last.done)
		return;
	switch (step->op) {
	case STEP_MEMFD:
	case STEP_OPEN_FD:
		kernel_unref_file(kernel_files[step->at]);
		kernel_files[step->at] = NULL;
		break;
	case STEP_MAP:
		kernel_unref_area(kernel_areas[step->at]);
		kernel_areas[step->at] = NULL;
		break;
	case STEP_ADOPT:
		kernel_undo_keep(step, kernel_slots[step->at]);
		/* fall through */
	case STEP_SLOT:
	case STEP_MANY:
		for (unsigned int i = step->count; i-- > 0;)
			kernel_unset_slot((uint8_t)(step->at + i), &kernel_last.displaced[i]);
		break;
	case STEP_REPLACE:
		kernel_undo_replace();
		break;
	case STEP_FLAGS:
		kernel_undo_flags();
		break;
	case STEP_RESERVE:
		kernel_undo_reserve();
		break;
	case STEP_WRITE:
	case STEP_STORE:
		kernel_undo_write();
		break;
	case STEP_CONVERT:
		kernel_undo_convert();
		break;
	default: /* leaves nothing */
		break;
	}
	kernel_last.done = false;
}

void kernel_look(const struct step_look *look, struct answer_look *answer)
{
	struct memory_run run;
	int r = kernel_find_memory(look->vm, look->as_id, look->gpa, false, &run);

	*answer = (struct answer_look){.error = r < 0 ? -r : 0};
	if (r < 0)
		return;
	answer->size = run.size;
	r = memory_copy(run.addr, (unsigned char *)&answer->word, sizeof(answer->word), false);
	if (r < 0)
		answer->word = (uint64_t)r;
}
