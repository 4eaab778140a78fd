/* SPDX-License-Identifier: MIT */
#include "backing.h"

#include "error.h"
#include "uapi/mm.h"
#include "visibility.h"

#include <errno.h>
#include <inttypes.h>

/* ---- Dropping ---- */

/*
 * The VMM's own memory, of unknown kind. MADV_REMOVE drops the pages of a shared file and refuses
 * (EINVAL) memory without one, which MADV_DONTNEED drops. But that succeeds on shared memory too,
 * and frees nothing: so MADV_FREE, which is for memory without a file alone, says that there is no
 * other in the range. Where it refuses, what it has seen before may go at any later time. Of what
 * is in use it is asked first; what is not in use can be lost also where it refuses, and of emptied
 * memory it costs nothing.
 */
static int drop_host(const struct gmem_vm *vm, unsigned char *host, uint64_t size, bool in_use)
{
	int r = vm->sys->madvise(vm->sys, host, size, MADV_REMOVE);

	if (r == -EINVAL) {
		r = vm->sys->madvise(vm->sys, host, size, in_use ? MADV_FREE : MADV_DONTNEED);
		if (r == 0)
			r = vm->sys->madvise(vm->sys, host, size,
					     in_use ? MADV_DONTNEED : MADV_FREE);
	}
	if (r == -EACCES || r == -EPERM || r == -EOPNOTSUPP || r == -EINVAL || r == -ENODEV)
		return gmem_fail(EOPNOTSUPP, GMEM_REASON_DISCARD_UNSUPPORTED,
				 "host memory [%p, +0x%" PRIx64
				 ") cannot drop pages (%s): read-only, "
				 "sealed, locked, of several kinds, or a private mapping of a file",
				 (void *)host, size, gmem_errno_name(-r));
	if (r < 0)
		return gmem_fail_kernel(-r, "cannot discard host memory at %p, or it is not mapped",
					(void *)host);
	return 0;
}

int gmem_backing_drop(const struct gmem_slot *slot, uint64_t gpa, uint64_t size,
		      unsigned int halves)
{
	const struct gmem_binding *binding = &slot->binding;
	bool has_halves = gmem_backing_has_halves(binding);
	uint64_t into = gpa - binding->gpa;
	int r = 0;

	if (binding->memfd && (halves & GMEM_BACKING_PRIVATE || !has_halves))
		r = gmem_memfd_punch(binding->memfd, binding->offset + into, size);
	if (r < 0 || (binding->memfd && !(has_halves && halves & GMEM_BACKING_SHARED)))
		return r;
	if (binding->map)
		return gmem_memfd_punch(binding->map->memfd, binding->offset + into, size);
	return binding->host ? drop_host(slot->vm, binding->host + into, size,
					 halves & GMEM_BACKING_PRIVATE)
			     : 0;
}

/* ---- Counting ---- */

#define WINDOW_PAGES 4096

static uint64_t count_set(const unsigned char *pages, size_t count)
{
	uint64_t set = 0;

	for (size_t i = 0; i < count; i++)
		set += pages[i] & 1;
	return set;
}

/* Resident pages of the host side, at most a window of them. 0, or a negative errno. */
static int count_window(const struct gmem_vm *vm, unsigned char *host, uint64_t size,
			uint64_t *resident)
{
	unsigned char pages[WINDOW_PAGES];
	int r = -EAGAIN;

	/* EAGAIN: the kernel had no page to work with, for the moment. */
	for (int tries = 0; r == -EAGAIN && tries < 100; tries++) {
		if (tries)
			vm->sys->nap(vm->sys);
		r = vm->sys->mincore(vm->sys, host, size, pages);
	}
	if (r == 0)
		*resident += count_set(pages, size / vm->page_size) * vm->page_size;
	return r;
}

/* *end, a limit, is lowered to where it changes. */
static bool is_private(const struct gmem_vm *vm, uint64_t gpa, uint64_t *end)
{
	uint64_t run_end;
	bool result = gmem_visibility_is_private(vm, gpa, &run_end);

	*end = run_end < *end ? run_end : *end;
	return result;
}

/*
 * Count what is resident of the host side, by what it is used for. Memory that cannot be looked at
 * leaves the counts unknown.
 */
static void count_host(const struct gmem_vm *vm, const struct gmem_binding *binding,
		       struct gmem_slot_memory *memory)
{
	bool has_halves = gmem_backing_has_halves(binding);
	uint64_t into = 0;

	memory->shared_resident = 0;
	memory->private_resident = has_halves ? GMEM_UNKNOWN : 0;
	while (into < binding->size) {
		uint64_t window = WINDOW_PAGES * vm->page_size;
		uint64_t left = binding->size - into;
		uint64_t end = binding->gpa + into + (left < window ? left : window);
		uint64_t *count = &memory->shared_resident;

		if (!has_halves && is_private(vm, binding->gpa + into, &end))
			count = &memory->private_resident;
		if (count_window(vm, binding->host + into, end - binding->gpa - into, count) < 0) {
			memory->private_resident = memory->shared_resident = GMEM_UNKNOWN;
			return;
		}
		into = end - binding->gpa;
	}
}

void gmem_backing_count(const struct gmem_vm *vm, const struct gmem_binding *binding,
			struct gmem_slot_memory *memory)
{
	struct gmem_visibility_sum sum = {0};

	gmem_visibility_add(vm, binding->gpa, binding->gpa + binding->size, &sum);
	memory->private_bytes = sum.private_bytes;
	memory->shared_bytes = sum.shared_bytes;
	memory->twice_bytes = gmem_backing_has_halves(binding) ? sum.twice_bytes : 0;
	memory->private_resident = GMEM_UNKNOWN;
	if (binding->host)
		count_host(vm, binding, memory);
}
