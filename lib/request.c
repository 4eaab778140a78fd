/* SPDX-License-Identifier: MIT */
/* Pure: no syscall, and nothing is changed. The order is the one that the header states. */
#include "request.h"

#include "error.h"
#include "range.h"
#include "verdict.h"

#include <errno.h>
#include <inttypes.h>

#define FLAGS_KNOWN (GMEM_SLOT_FLAGS_KVM | GMEM_SLOT_FIXED_ID)
#define PAGES_MAX   ((UINT64_C(1) << 31) - 1) /* KVM_MEM_MAX_NR_PAGES */

int gmem_request_check_shape(const struct gmem_request *request)
{
	const struct gmem_slot_opts *opts = &request->opts;
	const char *what = NULL;

	if (opts->flags & ~FLAGS_KNOWN)
		return gmem_fail(EINVAL, GMEM_REASON_FLAGS_UNKNOWN, "unknown slot flags 0x%" PRIx64,
				 opts->flags & ~FLAGS_KNOWN);
	if (opts->map && opts->host)
		what = "a map and a host address are given: one of them";
	else if (!opts->memfd && !opts->map && !opts->host)
		what = "no memory: a memfd, a map or a host address is needed";
	else if (!opts->memfd && !opts->map && opts->offset)
		what = "an offset without a file";
	else if (opts->id && !(opts->flags & GMEM_SLOT_FIXED_ID))
		what = "an id without GMEM_SLOT_FIXED_ID";
	else if (request->adopt && !(opts->flags & GMEM_SLOT_FIXED_ID))
		what = "an adopted slot has an id: GMEM_SLOT_FIXED_ID is missing";
	else if (request->adopt && gmem_memfd_is_mappable(opts->memfd) && !opts->map && !opts->host)
		what = "an adopted slot of a mappable memfd has an address: map or host is missing";
	return what ? gmem_fail(EINVAL, GMEM_REASON_CONFLICT, "%s", what) : 0;
}

static int check_ranges(const struct gmem_request *request)
{
	const struct gmem_slot_opts *opts = &request->opts;
	const struct gmem_vm *vm = request->vm;
	int r = gmem_check_range(GMEM_KIND_GPA, opts->gpa, opts->size, vm->page_size,
				 vm->gpa_limit);

	if (r == 0 && opts->memfd)
		r = gmem_memfd_check_range(opts->memfd, opts->offset, opts->size);
	if (r == 0 && opts->map)
		r = gmem_map_check_range(opts->map, opts->offset, opts->size);
	if (r == 0 && opts->host)
		r = gmem_check_range(GMEM_KIND_HOST, (uintptr_t)opts->host, opts->size,
				     vm->page_size, vm->hva_limit);
	return r;
}

/* The first interval that overlaps [start, +size), but for those of slot `but`. */
static bool find_overlap(struct gmem_interval_set *set, uint64_t start, uint64_t size, int64_t but,
			 struct gmem_interval *other)
{
	uint64_t point = start;

	while (gmem_interval_find(set, point, other) &&
	       gmem_range_overlaps(start, size, other->start, other->end - other->start)) {
		if (other->id != but)
			return true;
		point = other->end;
	}
	return false;
}

static int check_gpa_free(const struct gmem_request *request, struct gmem_space *space)
{
	const struct gmem_slot_opts *opts = &request->opts;
	int64_t but = request->instead_of ? (int64_t)request->instead_of->id : -1;
	struct gmem_interval other;

	if (!request->adopt && find_overlap(&space->reserved, opts->gpa, opts->size, -1, &other))
		return gmem_fail(EEXIST, GMEM_REASON_GPA_RESERVED,
				 "gpa [0x%" PRIx64 ", +0x%" PRIx64
				 ") overlaps the reserved [0x%" PRIx64 ", 0x%" PRIx64 ")",
				 opts->gpa, opts->size, other.start, other.end);
	if (find_overlap(&space->slots, opts->gpa, opts->size, but, &other))
		return gmem_fail(EEXIST, GMEM_REASON_GPA_OVERLAP,
				 "gpa [0x%" PRIx64 ", +0x%" PRIx64 ") overlaps slot %" PRIu32
				 " at [0x%" PRIx64 ", 0x%" PRIx64 ")",
				 opts->gpa, opts->size, other.id, other.start, other.end);
	return 0;
}

/* A page of a guest_memfd is bound once, over all slots and address spaces (kvm_gmem_bind()). */
static int check_file_free(const struct gmem_request *request)
{
	const struct gmem_slot_opts *opts = &request->opts;
	int64_t but = request->instead_of ? (int64_t)gmem_slot_number(request->instead_of) : -1;
	struct gmem_interval other;

	/* The set of another VM's memfd is under another lock: that is refused further down. */
	if (!gmem_memfd_is_guest(opts->memfd) || opts->memfd->vm != request->vm)
		return 0;
	if (!find_overlap(&opts->memfd->bound, opts->offset, opts->size, but, &other))
		return 0;
	return gmem_fail(EEXIST, GMEM_REASON_MEMFD_OVERLAP,
			 "memfd range [0x%" PRIx64 ", +0x%" PRIx64 ") overlaps [0x%" PRIx64
			 ", 0x%" PRIx64 "), which slot %" PRIu32 " of address space %" PRIu32
			 " has bound",
			 opts->offset, opts->size, other.start, other.end, other.id & 0xffff,
			 other.id >> 16);
}

static int lowest_free_id(const struct gmem_vm *vm, const struct gmem_space *space, uint32_t *id)
{
	for (uint32_t base = vm->id_first / 64 * 64; base < vm->id_end; base += 64) {
		uint64_t free_ids = ~(space->taken[base / 64] | space->kept[base / 64]);

		if (base < vm->id_first)
			free_ids &= UINT64_MAX << (vm->id_first - base);
		if (!free_ids)
			continue;
		*id = base + (uint32_t)__builtin_ctzll(free_ids);
		if (*id < vm->id_end)
			return 0;
	}
	return gmem_fail(ENOSPC, GMEM_REASON_IDS_EXHAUSTED,
			 "no slot id of [%" PRIu32 ", %" PRIu32 ") is free", vm->id_first,
			 vm->id_end);
}

static int choose_id(struct gmem_request *request, const struct gmem_space *space)
{
	const struct gmem_vm *vm = request->vm;
	uint32_t id = request->instead_of ? request->instead_of->id : request->opts.id;
	bool granted;

	request->id = id;
	if (request->instead_of)
		return 0;
	if (!(request->opts.flags & GMEM_SLOT_FIXED_ID))
		return lowest_free_id(vm, space, &request->id);
	if (id >= vm->nr_ids)
		return gmem_fail(ERANGE, GMEM_REASON_ID_BEYOND_LIMIT,
				 "slot id %" PRIu32 ": the kernel has %" PRIu32, id, vm->nr_ids);
	granted = id >= vm->id_first && id < vm->id_end && !(space->kept[id / 64] >> (id % 64) & 1);
	if (!request->adopt && !granted)
		return gmem_fail(EPERM, GMEM_REASON_ID_NOT_GRANTED,
				 "slot id %" PRIu32 " is the VMM's own: granted are [%" PRIu32
				 ", %" PRIu32 ") but for those reserved",
				 id, vm->id_first, vm->id_end);
	if (!space->slot[id] && space->taken[id / 64] >> (id % 64) & 1)
		return gmem_fail(EEXIST, GMEM_REASON_ID_TAKEN,
				 "slot id %" PRIu32 " is in use: KVM refused to delete a slot", id);
	if (space->slot[id])
		return gmem_fail(EEXIST, GMEM_REASON_ID_TAKEN,
				 "slot id %" PRIu32 " is in use for gpa [0x%" PRIx64 ", +0x%" PRIx64
				 ")",
				 id, space->slot[id]->binding.gpa, space->slot[id]->binding.size);
	return 0;
}

static int check_limits(struct gmem_request *request, const struct gmem_space *space)
{
	uint64_t pages = request->opts.size / request->vm->page_size;

	if (pages > PAGES_MAX)
		return gmem_fail(ERANGE, GMEM_REASON_TOO_MANY_PAGES,
				 "a slot of %" PRIu64 " pages: at most %" PRIu64, pages, PAGES_MAX);
	return choose_id(request, space);
}

/* A slot whose host side is not the mapping of the guest_memfd that the guest gets. */
static int check_host_side(const struct gmem_request *request)
{
	const struct gmem_slot_opts *opts = &request->opts;
	bool stranger = opts->map && opts->map->memfd != opts->memfd;

	if (opts->host && !request->adopt)
		stranger = true;
	if (!gmem_memfd_is_mappable(opts->memfd) || !stranger)
		return 0;
	if (request->vm->has_private)
		return gmem_fail(EINVAL, GMEM_REASON_MEMFD_HIDES_SHARED,
				 "a memfd with GMEM_MEMFD_MMAP serves the guest's shared accesses "
				 "too: the separate shared half would never be seen");
	return gmem_fail(EINVAL, GMEM_REASON_HOST_NOT_MAPPING,
			 "KVM's own accesses would go to other memory than the guest's: give a "
			 "map of this memfd, or none");
}

/*
 * A host side of which the host can touch nothing. On a VM with private memory that is right for
 * the guest_memfd of the slot itself.
 */
static int check_touchable(const struct gmem_request *request)
{
	const struct gmem_slot_opts *opts = &request->opts;
	const struct gmem_memfd *file = gmem_slot_host_file(opts->memfd, opts->map);

	if (!gmem_memfd_is_guest(file) || file->flags & GMEM_MEMFD_INIT_SHARED ||
	    (file == opts->memfd && request->vm->has_private))
		return 0;
	return gmem_fail(
		EINVAL, GMEM_REASON_MEMFD_UNTOUCHABLE,
		"fd %d was made without GMEM_MEMFD_INIT_SHARED: neither host nor KVM could "
		"touch this memory",
		file->fd);
}

static int check_guest_memfd(const struct gmem_request *request)
{
	const struct gmem_slot_opts *opts = &request->opts;

	if (opts->flags & GMEM_SLOT_LOG_DIRTY)
		return gmem_fail(
			EOPNOTSUPP, GMEM_REASON_MEMFD_NO_DIRTY_LOG,
			"a guest_memfd slot has no dirty log: use a slot over its mapping");
	if (opts->flags & GMEM_SLOT_READONLY)
		return gmem_fail(EOPNOTSUPP, GMEM_REASON_MEMFD_NO_READONLY,
				 "a guest_memfd slot is writable: use a slot over its mapping");
	if (!(opts->memfd->flags & GMEM_MEMFD_MMAP) && !request->vm->has_private)
		return gmem_fail(
			EINVAL, GMEM_REASON_MEMFD_IGNORED,
			"without GMEM_MEMFD_MMAP this VM's guest would get the host memory, "
			"never the guest_memfd");
	return 0;
}

static int check_backing(const struct gmem_request *request)
{
	const struct gmem_slot_opts *opts = &request->opts;
	struct gmem_vm *vm = request->vm;
	int r = 0;

	if (opts->memfd && opts->memfd->vm != vm)
		return gmem_fail(EXDEV, GMEM_REASON_MEMFD_FOREIGN, "fd %d was made for %s",
				 opts->memfd->fd,
				 opts->memfd->vm ? "another VM" : "no VM known here");
	if (opts->map && !gmem_map_usable_by(opts->map, vm))
		return gmem_fail(EXDEV, GMEM_REASON_MEMFD_FOREIGN,
				 "the mapping is in use by another VM's slots: make one for each");
	if (gmem_memfd_is_guest(opts->memfd))
		r = check_guest_memfd(request);
	if (r == 0)
		r = check_touchable(request);
	if (r == 0)
		r = check_host_side(request);
	if (r < 0)
		return r;
	if (opts->flags & GMEM_SLOT_READONLY && !gmem_caps_value(&vm->caps, GMEM_CAP_READONLY_MEM))
		return gmem_fail(EOPNOTSUPP, GMEM_REASON_FLAGS_UNSUPPORTED,
				 "this VM has no read-only slots");
	if (opts->map && !(opts->map->prot & GMEM_PROT_WRITE) &&
	    !(opts->flags & GMEM_SLOT_READONLY))
		return gmem_fail(EACCES, GMEM_REASON_ACCESS_READONLY,
				 "a writable slot over a read-only mapping");
	return 0;
}

int gmem_request_validate(struct gmem_request *request)
{
	struct gmem_space *space = gmem_vm_space(request->vm, request->opts.as_id);
	int r;

	if (!space)
		return -ERANGE;
	r = check_ranges(request);
	if (r == 0)
		r = check_gpa_free(request, space);
	if (r == 0)
		r = check_file_free(request);
	if (r == 0)
		r = check_limits(request, space);
	return r < 0 ? r : check_backing(request);
}
