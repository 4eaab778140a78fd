/* SPDX-License-Identifier: MIT */
#include "map.h"

#include "error.h"
#include "opts.h"
#include "range.h"
#include "uapi/mm.h"
#include "verdict.h"
#include "work.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

/* ---- The handle ---- */

static int map_error(const struct gmem_memfd *memfd, uint64_t offset, uint64_t size, int error)
{
	if (error == ENOMEM)
		return gmem_fail(ENOMEM, GMEM_REASON_NO_MEMORY,
				 "no address space or no memory to map memfd range [0x%" PRIx64
				 ", +0x%" PRIx64 ")",
				 offset, size);
	return gmem_fail_kernel(error, "cannot map fd %d, range [0x%" PRIx64 ", +0x%" PRIx64 ")",
				memfd->fd, offset, size);
}

static int map_pages(struct gmem_map *map)
{
	const struct gmem_sys *sys = map->memfd->sys;
	int prot = (map->prot & GMEM_PROT_READ ? PROT_READ : 0) |
		   (map->prot & GMEM_PROT_WRITE ? PROT_WRITE : 0);
	void *addr;
	int r = sys->mmap(sys, NULL, map->size, prot, MAP_SHARED, map->memfd->fd, map->offset,
			  &addr);

	if (r < 0)
		return map_error(map->memfd, map->offset, map->size, -r);
	r = sys->madvise(sys, addr, map->size, MADV_DONTFORK);
	if (r < 0) {
		sys->munmap(sys, addr, map->size);
		return gmem_fail_kernel(-r, "MADV_DONTFORK");
	}
	map->addr = addr;
	return 0;
}

int gmem_map_make(struct gmem_memfd *memfd, uint64_t offset, uint64_t size, uint32_t prot,
		  struct gmem_map **ret)
{
	struct gmem_map *map;
	int r;

	if (!(memfd->flags & GMEM_MEMFD_MMAP))
		return gmem_fail(ENODEV, GMEM_REASON_MEMFD_NOT_MAPPABLE,
				 "fd %d was made without GMEM_MEMFD_MMAP", memfd->fd);
	map = calloc(1, sizeof(*map));
	if (!map)
		return gmem_fail(ENOMEM, GMEM_REASON_NO_MEMORY, "no memory for a mapping's handle");
	map->memfd = memfd;
	map->offset = offset;
	map->size = size;
	map->prot = prot ? prot : GMEM_PROT_READ | GMEM_PROT_WRITE;
	atomic_init(&map->references, 1);
	r = map_pages(map);
	if (r < 0) {
		free(map);
		return r;
	}
	gmem_memfd_ref(memfd);
	*ret = map;
	return 0;
}

struct gmem_map *gmem_map_ref(struct gmem_map *map)
{
	atomic_fetch_add_explicit(&map->references, 1, memory_order_relaxed);
	return map;
}

bool gmem_map_usable_by(const struct gmem_map *map, const struct gmem_vm *vm)
{
	const struct gmem_vm *user = atomic_load(&map->user);

	return !user || user == vm;
}

int gmem_map_claim(struct gmem_map *map, struct gmem_vm *vm)
{
	struct gmem_vm *user = NULL;

	if (atomic_compare_exchange_strong(&map->user, &user, vm)) {
		gmem_vm_ref(vm);
		return 1;
	}
	if (user == vm)
		return 0;
	return gmem_fail(EXDEV, GMEM_REASON_MEMFD_FOREIGN,
			 "the mapping is in use by another VM's slots: make one for each");
}

void gmem_map_unclaim(struct gmem_map *map)
{
	/* Never the last reference: the slot that had claimed it has one of its own. */
	gmem_vm_unref(atomic_exchange(&map->user, NULL));
}

/* The addresses stay reserved, for good or until a reclaim, which then frees the handle. */
static void retire(struct gmem_map *map, struct gmem_vm *user)
{
	bool for_good = map->pinned;
	uint64_t size = map->size;

	map->retired = (struct gmem_retired){.addr = map->addr, .size = map->size};
	if (!gmem_vm_retire(user, &map->retired, for_good))
		gmem_vm_log(user, GMEM_LOG_WARNING,
			    "a mapping of 0x%" PRIx64
			    " bytes stays: it could not be made inaccessible",
			    size);
	if (for_good)
		free(map);
}

void gmem_map_unref(struct gmem_map *map)
{
	struct gmem_memfd *memfd;
	struct gmem_vm *user;
	bool forked;

	if (!map || atomic_fetch_sub_explicit(&map->references, 1, memory_order_acq_rel) != 1)
		return;
	memfd = map->memfd;
	user = atomic_load(&map->user);
	forked = gmem_forked(memfd->fork_guard);
	if (user && !forked) {
		retire(map, user);
	} else {
		/* In a child the addresses are not ours: whatever is there now stays. */
		if (!forked)
			memfd->sys->munmap(memfd->sys, map->addr, map->size);
		free(map);
	}
	gmem_vm_unref(user);
	gmem_memfd_unref(memfd);
}

void gmem_map_close(struct gmem_map *map)
{
	gmem_map_unref(map);
}

static int create(struct gmem_memfd *memfd, const struct gmem_map_opts *opts, struct gmem_map **ret)
{
	const uint32_t known = GMEM_PROT_READ | GMEM_PROT_WRITE;
	int r;

	if (opts->prot & ~known)
		return gmem_fail(EINVAL, GMEM_REASON_FLAGS_UNKNOWN, "unknown protection 0x%" PRIx32,
				 opts->prot & ~known);
	if (opts->pad)
		return gmem_fail(EINVAL, GMEM_REASON_CONFLICT, "pad is not 0");
	r = gmem_memfd_check_range(memfd, opts->offset, opts->size);
	return r < 0 ? r : gmem_map_make(memfd, opts->offset, opts->size, opts->prot, ret);
}

int gmem_map_create(struct gmem_memfd *memfd, const struct gmem_map_opts *user,
		    struct gmem_map **ret)
{
	struct gmem_map_opts opts = {0};
	int r;

	if (!ret)
		return gmem_fail(EINVAL, GMEM_REASON_NULL, "no place for the handle");
	*ret = NULL;
	r = gmem_memfd_check(memfd);
	if (r == 0 && memfd->vm)
		r = gmem_vm_check(memfd->vm);
	if (r < 0)
		return r;
	if (user)
		r = gmem_opts_read(&opts, sizeof(opts), user);
	else
		opts.size = memfd->size;
	if (r == 0)
		r = create(memfd, &opts, ret);
	return gmem_vm_report(memfd->vm, r);
}

void *gmem_map_get_addr(const struct gmem_map *map)
{
	return map ? map->addr : NULL;
}

uint64_t gmem_map_get_offset(const struct gmem_map *map)
{
	return map ? map->offset : 0;
}

uint64_t gmem_map_get_size(const struct gmem_map *map)
{
	return map ? map->size : 0;
}

/* ---- Population ---- */

#define PART (UINT64_C(32) << 20) /* large enough that taking one costs nothing */

struct population {
	struct gmem_work work;
	const struct gmem_map *map;
	int advice;
};

static int populate_part(struct gmem_work *work, unsigned int worker, uint64_t from, uint64_t size)
{
	const struct population *population = (const struct population *)work;
	const struct gmem_sys *sys = population->map->memfd->sys;
	int r;

	(void)worker;
	do
		r = sys->madvise(sys, population->map->addr + from, size, population->advice);
	while (r == -EINTR);
	return r;
}

static int populate_error(const struct gmem_map *map, int error)
{
	switch (error) {
	case EFAULT:
		return gmem_fail(EFAULT, GMEM_REASON_MEMFD_PRIVATE,
				 "the host may not touch fd %d: it is private to the guest",
				 map->memfd->fd);
	default:
		return gmem_fail_kernel(error, "cannot populate the mapping of fd %d",
					map->memfd->fd);
	}
}

static int populate(struct gmem_map *map, uint64_t start, uint64_t size, unsigned int threads)
{
	struct population population = {
		.work = {.next = start,
			 .end = start + size,
			 .part = PART,
			 .part_fn = populate_part},
		.map = map,
		.advice = map->prot & GMEM_PROT_WRITE ? MADV_POPULATE_WRITE : MADV_POPULATE_READ,
	};
	int r;

	if (threads == 0)
		threads = (unsigned int)map->memfd->sys->cpus(map->memfd->sys);
	r = gmem_work_run(&population.work, threads);
	return r < 0 ? populate_error(map, -r) : 0;
}

int gmem_map_check_range(const struct gmem_map *map, uint64_t offset, uint64_t size)
{
	int r = gmem_check_range(GMEM_KIND_MEMFD, offset, size, map->memfd->page_size,
				 GMEM_RANGE_MAX);

	if (r < 0)
		return r;
	if (!gmem_range_within(offset, size, map->offset, map->size))
		return gmem_fail(ERANGE, GMEM_REASON_MAP_BEYOND_END,
				 "memfd range [0x%" PRIx64 ", +0x%" PRIx64
				 ") is not within the mapping of [0x%" PRIx64 ", +0x%" PRIx64 ")",
				 offset, size, map->offset, map->size);
	return 0;
}

int gmem_map_populate(struct gmem_map *map, uint64_t offset, uint64_t size, unsigned int threads)
{
	int r;

	if (!map)
		return gmem_fail(EINVAL, GMEM_REASON_NULL, "the mapping is NULL");
	r = gmem_memfd_check(map->memfd);
	if (r < 0)
		return r;
	r = gmem_map_check_range(map, offset, size);
	if (r == 0 && threads > GMEM_WORK_THREADS_MAX)
		r = gmem_fail(EINVAL, GMEM_REASON_ARGUMENT, "%u threads: at most %d", threads,
			      GMEM_WORK_THREADS_MAX);
	if (r == 0)
		r = populate(map, offset - map->offset, size, threads);
	return gmem_vm_report(map->memfd->vm, r);
}
