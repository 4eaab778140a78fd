/* SPDX-License-Identifier: MIT */
#include "slot.h"

#include "backing.h"
#include "error.h"
#include "opts.h"
#include "range.h"
#include "request.h"
#include "uapi/kvm.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define COUNT_MAX 65536

/* ---- The tables ---- */

static struct gmem_space *space_of(const struct gmem_slot *slot)
{
	return &slot->vm->spaces[slot->as_id];
}

static void link_ranges(struct gmem_slot *slot)
{
	const struct gmem_binding *binding = &slot->binding;

	gmem_interval_insert(&space_of(slot)->slots,
			     &(struct gmem_interval){.start = binding->gpa,
						     .end = binding->gpa + binding->size,
						     .id = slot->id});
	if (gmem_memfd_is_guest(binding->memfd))
		gmem_interval_insert(&binding->memfd->bound,
				     &(struct gmem_interval){.start = binding->offset,
							     .end = binding->offset + binding->size,
							     .id = gmem_slot_number(slot)});
}

static void unlink_ranges(struct gmem_slot *slot)
{
	gmem_interval_remove(&space_of(slot)->slots, slot->binding.gpa);
	if (gmem_memfd_is_guest(slot->binding.memfd))
		gmem_interval_remove(&slot->binding.memfd->bound, slot->binding.offset);
}

static void link_slot(struct gmem_slot *slot)
{
	struct gmem_space *space = space_of(slot);

	space->slot[slot->id] = slot;
	space->taken[slot->id / 64] |= UINT64_C(1) << slot->id % 64;
	if (slot->adopted) /* the VMM's own from now on: KVM has it even when we forget it */
		space->kept[slot->id / 64] |= UINT64_C(1) << slot->id % 64;
	link_ranges(slot);
}

/* `lost`: KVM still has the slot, so its id is not used again. */
static void unlink_id(struct gmem_slot *slot, bool lost)
{
	struct gmem_space *space = space_of(slot);

	space->slot[slot->id] = NULL;
	if (!lost)
		space->taken[slot->id / 64] &= ~(UINT64_C(1) << slot->id % 64);
	slot->state = GMEM_SLOT_GONE;
}

static void unlink_slot(struct gmem_slot *slot, bool lost)
{
	unlink_ranges(slot);
	unlink_id(slot, lost);
}

static int reserve_room(struct gmem_vm *vm, uint32_t as_id, struct gmem_memfd *memfd,
			size_t insertions)
{
	if (gmem_interval_reserve(&vm->spaces[as_id].slots, insertions) < 0 ||
	    (gmem_memfd_is_guest(memfd) && gmem_interval_reserve(&memfd->bound, insertions) < 0))
		return gmem_fail(ENOMEM, GMEM_REASON_NO_MEMORY, "no memory for the table of slots");
	return 0;
}

/*
 * Whether the host side can stop being the host's to touch: guest_memfd of a VM with private
 * memory, or of a VM that is not known here. A separate shared half stays the VMM's memory.
 */
static bool is_convertible(const struct gmem_binding *binding)
{
	const struct gmem_memfd *file = gmem_slot_host_file(binding->memfd, binding->map);

	return gmem_memfd_is_guest(file) && (!file->vm || file->vm->has_private);
}

/* What readers see: the way from gpa to host address, and what may be done there. */
static uint64_t reader_word(const struct gmem_slot *slot)
{
	const struct gmem_binding *binding = &slot->binding;
	uint64_t word = GMEM_WORD_LIVE;

	if (gmem_memfd_is_guest(binding->memfd))
		word |= GMEM_WORD_GUEST;
	if (!binding->host)
		return word;
	if (gmem_backing_has_halves(binding))
		word |= GMEM_WORD_HALVES;
	word |= GMEM_WORD_READ | ((uintptr_t)binding->host - binding->gpa);
	if (!(binding->flags & GMEM_SLOT_READONLY) &&
	    (!binding->map || binding->map->prot & GMEM_PROT_WRITE))
		word |= GMEM_WORD_WRITE;
	if (slot->vm->flags & GMEM_VM_FAULT_PROOF || is_convertible(binding))
		word |= GMEM_WORD_PROOF;
	return word;
}

static void publish(struct gmem_slot *slot)
{
	gmem_interval_set_word(&space_of(slot)->slots, slot->binding.gpa, reader_word(slot));
	slot->state = GMEM_SLOT_BOUND;
}

/* ---- Bindings ---- */

/* Take references, and map where the library is to map. No ioctl. */
static int fill_binding(const struct gmem_request *request, struct gmem_binding *binding)
{
	const struct gmem_slot_opts *opts = &request->opts;
	int r;

	*binding = (struct gmem_binding){
		.gpa = opts->gpa,
		.size = opts->size,
		.offset = opts->offset,
		.flags = opts->flags & GMEM_SLOT_FLAGS_KVM,
		.host = opts->host,
	};
	if (opts->map) {
		binding->map = gmem_map_ref(opts->map);
	} else if (gmem_memfd_is_mappable(opts->memfd) && !opts->host) {
		r = gmem_map_make(opts->memfd, opts->offset, opts->size, 0, &binding->map);
		if (r < 0)
			return r;
		binding->own_map = true;
	}
	if (opts->memfd)
		binding->memfd = gmem_memfd_ref(opts->memfd);
	if (!binding->map)
		return 0;
	binding->host = binding->map->addr + (opts->offset - binding->map->offset);
	r = gmem_map_claim(binding->map, request->vm);
	binding->claimed = r > 0;
	return r < 0 ? r : 0;
}

/*
 * The binding was never to be found by readers: its mapping is as free as before, unless KVM has
 * kept another slot over it.
 */
static void give_up_binding(struct gmem_binding *binding)
{
	if (binding->claimed && !binding->map->pinned)
		gmem_map_unclaim(binding->map);
	binding->claimed = false;
}

/* For getters, which do not take the VM's lock. */
static void assign_binding(struct gmem_slot *slot, const struct gmem_binding *binding)
{
	pthread_mutex_lock(&slot->vm->leaf_lock);
	slot->binding = *binding;
	pthread_mutex_unlock(&slot->vm->leaf_lock);
}

/* Not under the VM's lock: a mapping's end takes it. */
static void drop_binding(struct gmem_binding *binding)
{
	gmem_map_unref(binding->map);
	gmem_memfd_unref(binding->memfd);
	*binding = (struct gmem_binding){0};
}

/* Not under the VM's lock. */
static void free_slots(struct gmem_slot *list)
{
	while (list) {
		struct gmem_slot *slot = list;

		list = slot->next;
		drop_binding(&slot->binding);
		gmem_vm_unref(slot->vm);
		free(slot);
	}
}

static bool same_host_side(const struct gmem_binding *binding, const struct gmem_slot_opts *opts)
{
	if (opts->map)
		return binding->map == opts->map && !binding->own_map;
	if (opts->host)
		return !binding->map && binding->host == opts->host;
	return binding->own_map || (!binding->map && !binding->host);
}

/* Whether the request describes exactly this slot. */
static bool is_same(const struct gmem_request *request, const struct gmem_slot *slot)
{
	const struct gmem_slot_opts *opts = &request->opts;
	const struct gmem_binding *binding = &slot->binding;

	return slot->adopted == request->adopt && binding->gpa == opts->gpa &&
	       binding->size == opts->size && binding->memfd == opts->memfd &&
	       binding->offset == opts->offset &&
	       binding->flags == (opts->flags & GMEM_SLOT_FLAGS_KVM) &&
	       (!(opts->flags & GMEM_SLOT_FIXED_ID) || slot->id == opts->id) &&
	       same_host_side(binding, opts);
}

/* The slot that is already what is asked for, or NULL. */
static struct gmem_slot *find_same(const struct gmem_request *request)
{
	const struct gmem_slot_opts *opts = &request->opts;
	struct gmem_interval found;
	struct gmem_space *space;
	struct gmem_slot *slot;

	if (opts->as_id >= request->vm->nr_spaces)
		return NULL;
	space = &request->vm->spaces[opts->as_id];
	if (!gmem_interval_find(&space->slots, opts->gpa, &found) || found.start != opts->gpa)
		return NULL;
	slot = space->slot[found.id];
	return is_same(request, slot) ? slot : NULL;
}

/* ---- KVM ---- */

static int kvm_set(const struct gmem_slot *slot, const struct gmem_binding *binding, uint64_t size)
{
	const struct gmem_vm *vm = slot->vm;
	struct kvm_userspace_memory_region2 region = {
		.slot = gmem_slot_number(slot),
		.flags = (uint32_t)binding->flags,
		.guest_phys_addr = binding->gpa,
		.memory_size = size,
		.userspace_addr = (uintptr_t)binding->host,
	};
	int r;

	if (size && gmem_memfd_is_guest(binding->memfd)) {
		region.flags |= KVM_MEM_GUEST_MEMFD;
		region.guest_memfd = (uint32_t)binding->memfd->fd;
		region.guest_memfd_offset = binding->offset;
	}
	do
		r = vm->sys->ioctl(vm->sys, vm->fd, KVM_SET_USER_MEMORY_REGION2,
				   (uintptr_t)&region);
	while (r == -EINTR);
	return r > 0 ? -EBADE : r; /* a kernel that answers this is broken */
}

/* A refusal that only the kernel could know: say what is left to be the cause. */
static int explain_set(const struct gmem_slot *slot, const struct gmem_binding *binding, int error)
{

	switch (error) {
	case EEXIST:
		return gmem_fail(
			EEXIST, GMEM_REASON_GPA_OVERLAP,
			"the kernel has a slot that this library was not told of within gpa "
			"[0x%" PRIx64 ", +0x%" PRIx64 ")%s",
			binding->gpa, binding->size,
			gmem_memfd_is_guest(binding->memfd)
				? ", or one that has bound this part of "
				  "the guest_memfd"
				: "");
	case EINVAL:
		if (gmem_memfd_is_guest(binding->memfd) && binding->memfd->given)
			return gmem_fail(EXDEV, GMEM_REASON_MEMFD_FOREIGN,
					 "the kernel refused fd %d for this VM: it was made for "
					 "another one, or a slot that this library was not told of "
					 "has this part of it or the id %" PRIu32,
					 binding->memfd->fd, slot->id);
		return gmem_fail(
			EEXIST, GMEM_REASON_ID_TAKEN,
			"the kernel refused slot id %" PRIu32 " at gpa [0x%" PRIx64 ", +0x%" PRIx64
			"): a slot that this library was not told of has the id%s (reserve or "
			"adopt "
			"it)%s",
			slot->id, binding->gpa, binding->size,
			gmem_memfd_is_guest(binding->memfd) ? " or this part of the guest_memfd"
							    : "",
			slot->vm->gpa_limit == GMEM_RANGE_MAX
				? ", or the VM has no such addresses: how many is not known"
				: "");
	case EFAULT:
		return gmem_fail(ERANGE, GMEM_REASON_GPA_BEYOND_WIDTH,
				 "gpa [0x%" PRIx64 ", +0x%" PRIx64
				 ") is more than this VM addresses",
				 binding->gpa, binding->size);
	case EIO:
		return gmem_fail(EIO, GMEM_REASON_FORKED,
				 "the VM is dead, or another process made it: KVM answers EIO");
	default:
		return gmem_fail_kernel(error, "KVM_SET_USER_MEMORY_REGION2 of slot %" PRIu32,
					slot->id);
	}
}

/* Remove a slot from KVM; where that fails it is as before. */
static int kvm_delete(const struct gmem_slot *slot)
{
	int r = slot->adopted ? 0 : kvm_set(slot, &slot->binding, 0);

	return r < 0 ? gmem_fail_kernel(-r, "KVM did not delete slot %" PRIu32, slot->id) : 0;
}

/* ---- gmem_slot_create, _create_many, _adopt ---- */

/* Check one entry and put it into the tables, so that the entries after it are checked against it.
 */
static int prepare(struct gmem_request *request, struct gmem_slot **ret)
{
	struct gmem_vm *vm = request->vm;
	struct gmem_slot *slot;
	int r = gmem_request_check_shape(request);

	if (r < 0)
		return r;
	slot = find_same(request);
	if (slot) {
		slot->handles++;
		*ret = slot;
		return 0;
	}
	r = gmem_request_validate(request);
	if (r < 0)
		return r;
	slot = calloc(1, sizeof(*slot));
	if (!slot)
		return gmem_fail(ENOMEM, GMEM_REASON_NO_MEMORY, "no memory for a slot's handle");
	slot->as_id = request->opts.as_id;
	slot->id = request->id;
	slot->adopted = request->adopt;
	slot->handles = 1;
	slot->state = GMEM_SLOT_PREPARED;
	r = reserve_room(vm, slot->as_id, request->opts.memfd, 1);
	if (r == 0)
		r = fill_binding(request, &slot->binding);
	slot->vm = gmem_vm_ref(vm);
	*ret = slot;
	if (r < 0)
		slot->state = GMEM_SLOT_GONE;
	else
		link_slot(slot);
	return r;
}

/* Give the slots to KVM. */
static int set_all(struct gmem_slot **slots, size_t count, size_t *failed)
{
	for (size_t i = 0; i < count; i++) {
		int r = 0;

		if (slots[i]->state != GMEM_SLOT_PREPARED)
			continue;
		if (!slots[i]->adopted)
			r = kvm_set(slots[i], &slots[i]->binding, slots[i]->binding.size);
		if (r < 0) {
			*failed = i;
			return explain_set(slots[i], &slots[i]->binding, -r);
		}
		slots[i]->state = GMEM_SLOT_SET;
	}
	return 0;
}

/* The slot is lost: KVM keeps it, so what it points to must never be anything else. */
static void abandon(struct gmem_slot *slot)
{
	if (slot->binding.map)
		slot->binding.map->pinned = true;
	unlink_slot(slot, true);
}

/*
 * Take back the handles of a call that failed, last first. Slots that are left without one are
 * put on `dead`, to be freed without the lock. Whether all could be undone.
 */
static bool undo_all(struct gmem_slot **slots, size_t count, struct gmem_slot **dead)
{
	bool undone = true;

	while (count-- > 0) {
		struct gmem_slot *slot = slots[count];
		bool in_kvm;

		slots[count] = NULL;
		if (!slot || --slot->handles > 0)
			continue;
		in_kvm = slot->state == GMEM_SLOT_SET && !slot->adopted;
		if (in_kvm && kvm_set(slot, &slot->binding, 0) < 0) {
			abandon(slot);
			undone = false;
		} else {
			if (slot->state != GMEM_SLOT_GONE)
				unlink_slot(slot, false);
			give_up_binding(&slot->binding);
		}
		slot->next = *dead;
		*dead = slot;
	}
	return undone;
}

static int read_entry(struct gmem_request *request, const struct gmem_slot_opts *opts,
		      size_t stride, size_t i)
{
	const char *entry = (const char *)opts + i * stride;
	size_t size;

	memcpy(&size, entry, sizeof(size));
	if (size != stride)
		return gmem_fail(EINVAL, GMEM_REASON_OPTS_SIZE, "sz is %zu, in the first entry %zu",
				 size, stride);
	return gmem_opts_read(&request->opts, sizeof(request->opts), entry);
}

static int create_locked(struct gmem_request *request, const struct gmem_slot_opts *opts,
			 size_t count, struct gmem_slot **slots, size_t *failed)
{
	size_t stride = opts->sz;
	int r = 0;

	for (size_t i = 0; i < count && r == 0; i++) {
		*failed = i;
		r = read_entry(request, opts, stride, i);
		if (r == 0)
			r = prepare(request, &slots[i]);
	}
	if (r == 0)
		r = set_all(slots, count, failed);
	if (r < 0)
		return r;
	for (size_t i = 0; i < count; i++)
		if (slots[i]->state == GMEM_SLOT_SET)
			publish(slots[i]);
	return 0;
}

static int create_slots(struct gmem_vm *vm, const struct gmem_slot_opts *opts, size_t count,
			bool adopt, struct gmem_slot **slots)
{
	struct gmem_request request = {.vm = vm, .adopt = adopt};
	struct gmem_slot *dead = NULL;
	bool undone = true;
	size_t failed = 0;
	int r;

	if (!opts)
		return gmem_fail(EINVAL, GMEM_REASON_NULL, "the options are NULL");
	r = gmem_vm_lock(vm);
	if (r < 0)
		return r;
	r = create_locked(&request, opts, count, slots, &failed);
	if (r < 0)
		undone = undo_all(slots, count, &dead);
	gmem_vm_unlock(vm);
	free_slots(dead);

	if (r < 0 && count > 1)
		gmem_error_prefix("entry %zu: ", failed);
	if (!undone)
		r = gmem_fail(ENOTRECOVERABLE, GMEM_REASON_UNDO_FAILED,
			      "entry %zu failed, and KVM did not delete the slots before it",
			      failed);
	return gmem_vm_report(vm, r);
}

int gmem_slot_create(struct gmem_vm *vm, const struct gmem_slot_opts *opts, struct gmem_slot **ret)
{
	if (!ret)
		return gmem_fail(EINVAL, GMEM_REASON_NULL, "no place for the handle");
	*ret = NULL;
	return create_slots(vm, opts, 1, false, ret);
}

int gmem_slot_adopt(struct gmem_vm *vm, const struct gmem_slot_opts *opts, struct gmem_slot **ret)
{
	if (!ret)
		return gmem_fail(EINVAL, GMEM_REASON_NULL, "no place for the handle");
	*ret = NULL;
	return create_slots(vm, opts, 1, true, ret);
}

int gmem_slot_create_many(struct gmem_vm *vm, const struct gmem_slot_opts *opts, size_t count,
			  struct gmem_slot **ret)
{
	if (!ret)
		return gmem_fail(EINVAL, GMEM_REASON_NULL, "no place for the handles");
	if (count == 0 || count > COUNT_MAX)
		return gmem_fail(EINVAL, GMEM_REASON_ARGUMENT, "%zu slots: 1 to %d", count,
				 COUNT_MAX);
	memset(ret, 0, count * sizeof(*ret));
	return create_slots(vm, opts, count, false, ret);
}

/* ---- gmem_slot_delete, _close ---- */

static int check_bound(const struct gmem_slot *slot)
{
	if (slot->state == GMEM_SLOT_BOUND)
		return 0;
	return gmem_fail(ESTALE, GMEM_REASON_SLOT_DELETED, "slot %" PRIu32 " is no longer bound",
			 slot->id);
}

/* Take the slot out of KVM and the tables, and wait for readers that found it before. */
static int unbind(struct gmem_slot *slot)
{
	int r = kvm_delete(slot);

	if (r < 0)
		return r;
	unlink_slot(slot, false);
	gmem_inflight_wait(&slot->vm->inflight, slot->vm->sys);
	return 0;
}

int gmem_slot_delete(struct gmem_slot *slot)
{
	int r;

	if (!slot)
		return gmem_fail(EINVAL, GMEM_REASON_NULL, "the slot is NULL");
	r = gmem_vm_lock(slot->vm);
	if (r < 0)
		return r;
	r = check_bound(slot);
	if (r == 0)
		r = unbind(slot);
	gmem_vm_unlock(slot->vm);

	return gmem_vm_report(slot->vm, r);
}

/* Unbind where nobody can be told of a failure but by the log: 0, or KVM's errno. */
static int close_bound(struct gmem_slot *slot)
{
	int r = slot->adopted ? 0 : kvm_set(slot, &slot->binding, 0);

	if (r < 0)
		abandon(slot);
	else
		unlink_slot(slot, false);
	gmem_inflight_wait(&slot->vm->inflight, slot->vm->sys);
	return -r;
}

void gmem_slot_close(struct gmem_slot *slot)
{
	struct gmem_vm *vm;
	int error = 0;
	bool forked, last;

	if (!slot)
		return;
	vm = slot->vm;
	/* In a child another thread's lock may be held for ever, and there is nothing to unbind. */
	forked = gmem_forked(&vm->fork_guard);
	if (!forked)
		pthread_mutex_lock(&vm->lock);
	last = --slot->handles == 0;
	if (last && !forked && slot->state == GMEM_SLOT_BOUND)
		error = close_bound(slot);
	if (!forked)
		pthread_mutex_unlock(&vm->lock);
	if (error)
		gmem_vm_log(vm, GMEM_LOG_WARNING, "slot %" PRIu32 " stays in KVM: %s", slot->id,
			    gmem_errno_name(error));
	if (last)
		free_slots(slot);
}

/* ---- gmem_slot_set_flags ---- */

static int check_set_flags(const struct gmem_slot *slot, uint64_t flags)
{
	int r = check_bound(slot);

	if (r < 0)
		return r;
	if (flags & ~GMEM_SLOT_FLAGS_KVM)
		return gmem_fail(EINVAL, GMEM_REASON_FLAGS_UNKNOWN, "unknown slot flags 0x%" PRIx64,
				 flags & ~GMEM_SLOT_FLAGS_KVM);
	if (slot->adopted)
		return gmem_fail(EPERM, GMEM_REASON_SLOT_ADOPTED,
				 "slot %" PRIu32 " is the VMM's own", slot->id);
	if (gmem_memfd_is_guest(slot->binding.memfd) && flags & GMEM_SLOT_LOG_DIRTY)
		return gmem_fail(
			EOPNOTSUPP, GMEM_REASON_MEMFD_NO_DIRTY_LOG,
			"a guest_memfd slot has no dirty log: use a slot over its mapping");
	if (gmem_memfd_is_guest(slot->binding.memfd) && flags & GMEM_SLOT_READONLY)
		return gmem_fail(EOPNOTSUPP, GMEM_REASON_MEMFD_NO_READONLY,
				 "a guest_memfd slot is writable: use a slot over its mapping");
	if ((flags ^ slot->binding.flags) & GMEM_SLOT_READONLY)
		return gmem_fail(EINVAL, GMEM_REASON_CONFLICT,
				 "slot %" PRIu32 " cannot change between read-only and writable: "
				 "replace it",
				 slot->id);
	return 0;
}

static int set_flags(struct gmem_slot *slot, uint64_t flags)
{
	struct gmem_binding binding = slot->binding;
	int r = check_set_flags(slot, flags);

	if (r < 0 || flags == binding.flags)
		return r;
	binding.flags = flags;
	r = kvm_set(slot, &binding, binding.size);
	if (r == 0) {
		assign_binding(slot, &binding);
		return 0;
	}
	return gmem_fail_kernel(-r, "KVM did not change the flags of slot %" PRIu32, slot->id);
}

int gmem_slot_set_flags(struct gmem_slot *slot, uint64_t flags)
{
	int r;

	if (!slot)
		return gmem_fail(EINVAL, GMEM_REASON_NULL, "the slot is NULL");
	r = gmem_vm_lock(slot->vm);
	if (r < 0)
		return r;
	r = set_flags(slot, flags);
	gmem_vm_unlock(slot->vm);
	return gmem_vm_report(slot->vm, r);
}

/* ---- gmem_slot_replace ---- */

static int check_replace_opts(const struct gmem_replace_opts *opts)
{
	if (opts->flags & ~GMEM_REPLACE_NO_VCPUS)
		return gmem_fail(EINVAL, GMEM_REASON_FLAGS_UNKNOWN,
				 "unknown replace flags 0x%" PRIx64,
				 opts->flags & ~GMEM_REPLACE_NO_VCPUS);
	if (!opts->quiesce != !opts->resume)
		return gmem_fail(EINVAL, GMEM_REASON_CONFLICT, "quiesce and resume come together");
	if (!opts->quiesce && !(opts->flags & GMEM_REPLACE_NO_VCPUS))
		return gmem_fail(
			EBUSY, GMEM_REASON_NEEDS_QUIESCE,
			"vCPUs could run while the slot is away: give quiesce and resume, or "
			"GMEM_REPLACE_NO_VCPUS");
	return 0;
}

/* 1: it is what is asked for already. 0: it may be replaced. */
static int check_replace(struct gmem_request *request, const struct gmem_slot *slot)
{
	int r = check_bound(slot);

	if (r < 0)
		return r;
	if (slot->adopted)
		return gmem_fail(EPERM, GMEM_REASON_SLOT_ADOPTED,
				 "slot %" PRIu32 " is the VMM's own", slot->id);
	if (request->opts.as_id != slot->as_id ||
	    (request->opts.flags & GMEM_SLOT_FIXED_ID && request->opts.id != slot->id))
		return gmem_fail(EINVAL, GMEM_REASON_CONFLICT,
				 "the slot keeps its id %" PRIu32 " and address space %" PRIu32,
				 slot->id, slot->as_id);
	r = gmem_request_check_shape(request);
	if (r < 0)
		return r;
	if (is_same(request, slot))
		return 1;
	request->instead_of = slot;
	return gmem_request_validate(request);
}

/* KVM has refused the new binding: set the old one again, and pass the failure on. */
static int set_back(struct gmem_slot *slot, int result)
{
	if (kvm_set(slot, &slot->binding, slot->binding.size) < 0) {
		unlink_id(slot, false);
		gmem_inflight_wait(&slot->vm->inflight, slot->vm->sys);
		return gmem_fail(ENOTRECOVERABLE, GMEM_REASON_UNDO_FAILED,
				 "slot %" PRIu32 " could neither be replaced nor set again",
				 slot->id);
	}
	link_ranges(slot);
	publish(slot);
	return result;
}

/* `other` holds the new binding; it leaves with the one that is not used any more. */
static int swap_binding(struct gmem_slot *slot, struct gmem_binding *other)
{
	struct gmem_binding old = slot->binding;
	int r = kvm_delete(slot);

	if (r < 0)
		return r;
	unlink_ranges(slot);
	r = kvm_set(slot, other, other->size);
	if (r < 0)
		return set_back(slot, explain_set(slot, other, -r));
	assign_binding(slot, other);
	link_ranges(slot);
	publish(slot);
	gmem_inflight_wait(&slot->vm->inflight, slot->vm->sys);
	*other = old;
	return 0;
}

static int replace_locked(struct gmem_request *request, struct gmem_slot *slot,
			  struct gmem_binding *other)
{
	struct gmem_vm *vm = request->vm;
	int r = check_replace(request, slot);

	if (r != 0)
		return r < 0 ? r : 0;
	/* Room for the new one, and for the old one again. */
	r = reserve_room(vm, slot->as_id, request->opts.memfd, 2);
	if (r == 0)
		r = reserve_room(vm, slot->as_id, slot->binding.memfd, 2);
	if (r == 0)
		r = fill_binding(request, other);
	if (r == 0)
		r = swap_binding(slot, other);
	if (r < 0)
		give_up_binding(other);
	return r;
}

/* A refusal before the VMM stops anything. 1: nothing to do. */
static int check_unquiesced(struct gmem_request *request, struct gmem_slot *slot)
{
	int r = gmem_vm_lock(request->vm);

	if (r < 0)
		return r;
	r = check_replace(request, slot);
	gmem_vm_unlock(request->vm);
	return r;
}

static int quiesce(struct gmem_vm *vm, const struct gmem_replace_opts *opts)
{
	struct gmem_callback callback;
	int r;

	if (!opts->quiesce)
		return 0;
	gmem_vm_callback_begin(&callback, vm);
	r = opts->quiesce(opts->data);
	gmem_vm_callback_end(&callback);
	if (r == 0)
		return 0;
	return gmem_fail(r < 0 && r > -4096 ? -r : EBUSY, GMEM_REASON_QUIESCE_FAILED,
			 "the VMM could not stop its vCPUs: quiesce returned %d", r);
}

static void resume(struct gmem_vm *vm, const struct gmem_replace_opts *opts)
{
	struct gmem_callback callback;
	struct gmem_error error;

	if (!opts->resume)
		return;
	gmem_error_save(&error);
	gmem_vm_callback_begin(&callback, vm);
	opts->resume(opts->data);
	gmem_vm_callback_end(&callback);
	gmem_error_restore(&error);
}

static int replace(struct gmem_request *request, struct gmem_slot *slot,
		   const struct gmem_replace_opts *opts)
{
	struct gmem_binding other = {0};
	int r = check_replace_opts(opts);

	if (r == 0)
		r = check_unquiesced(request, slot);
	if (r != 0)
		return r < 0 ? r : 0;
	r = quiesce(request->vm, opts);
	if (r < 0)
		return r;
	pthread_mutex_lock(&request->vm->lock);
	r = replace_locked(request, slot, &other);
	gmem_vm_unlock(request->vm);
	resume(request->vm, opts);
	drop_binding(&other);
	return r;
}

int gmem_slot_replace(struct gmem_slot *slot, const struct gmem_slot_opts *user,
		      const struct gmem_replace_opts *user_replace)
{
	struct gmem_replace_opts replace_opts;
	struct gmem_request request = {0};
	int r;

	if (!slot)
		return gmem_fail(EINVAL, GMEM_REASON_NULL, "the slot is NULL");
	request.vm = slot->vm;
	r = gmem_vm_check(request.vm);
	if (r < 0)
		return r;
	r = gmem_opts_read(&request.opts, sizeof(request.opts), user);
	if (r == 0)
		r = gmem_opts_read(&replace_opts, sizeof(replace_opts), user_replace);
	if (r == 0)
		r = replace(&request, slot, &replace_opts);
	return gmem_vm_report(slot->vm, r);
}

/* ---- Getters ---- */

/*
 * A copy of the binding. Never waits for a change of slots, which may itself be waiting for a pager
 * that asks here. In a child the lock may be held for ever.
 */
static struct gmem_binding peek(const struct gmem_slot *slot)
{
	struct gmem_binding binding = {0};

	if (!slot)
		return binding;
	if (gmem_forked(&slot->vm->fork_guard))
		return slot->binding;
	pthread_mutex_lock(&slot->vm->leaf_lock);
	binding = slot->binding;
	pthread_mutex_unlock(&slot->vm->leaf_lock);
	return binding;
}

uint32_t gmem_slot_get_id(const struct gmem_slot *slot)
{
	return slot ? slot->id : 0;
}

uint32_t gmem_slot_get_as_id(const struct gmem_slot *slot)
{
	return slot ? slot->as_id : 0;
}

uint64_t gmem_slot_get_gpa(const struct gmem_slot *slot)
{
	return peek(slot).gpa;
}

uint64_t gmem_slot_get_size(const struct gmem_slot *slot)
{
	return peek(slot).size;
}

uint64_t gmem_slot_get_offset(const struct gmem_slot *slot)
{
	return peek(slot).offset;
}

uint64_t gmem_slot_get_flags(const struct gmem_slot *slot)
{
	return peek(slot).flags;
}

void *gmem_slot_get_addr(const struct gmem_slot *slot)
{
	return peek(slot).host;
}

int gmem_slot_get_memory(const struct gmem_slot *slot, struct gmem_slot_memory *user)
{
	struct gmem_slot_memory memory = {0};
	struct gmem_binding binding;
	int r;

	if (!slot)
		return gmem_fail(EINVAL, GMEM_REASON_NULL, "the slot is NULL");
	if (gmem_forked(&slot->vm->fork_guard))
		return gmem_fork_fail();
	r = gmem_opts_check(user);
	if (r < 0)
		return r;
	/* Counting takes long: not under a lock, so references must keep what it looks at. */
	pthread_mutex_lock(&slot->vm->leaf_lock);
	binding = slot->binding;
	if (binding.map)
		gmem_map_ref(binding.map);
	if (binding.memfd)
		gmem_memfd_ref(binding.memfd);
	pthread_mutex_unlock(&slot->vm->leaf_lock);
	gmem_backing_count(slot->vm, &binding, &memory);
	drop_binding(&binding);
	gmem_opts_write(user, &memory, sizeof(memory));
	return 0;
}
