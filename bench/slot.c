/* SPDX-License-Identifier: MIT */
/*
 * Small calls of a guest_memfd's life, against the same system calls made by hand with the same
 * care: close-on-exec, no mapping in a child, on after a signal.
 */
#include "bench.h"
#include "kernel.h"
#include "raw.h"
#include "vm.h"

#include <stdlib.h>
#include <unistd.h>

/* So many in a row, between two looks at the clock; what prepares or undoes them does not count. */
#define BATCH 64U

#define GPA	 (64 * BENCH_MIB)
#define FIRST_ID 0

/* A page for each of a batch. */
struct stage {
	struct gmem_vm *vm;
	int vm_fd;
	uint64_t page;
	struct gmem_memfd *memfd;
	int memfd_fd;
	struct gmem_map *map;
	unsigned char *host;
	/* What the calls of a batch made. */
	struct gmem_memfd *memfds[BATCH];
	struct gmem_map *maps[BATCH];
	struct gmem_slot *slots[BATCH];
	void *hosts[BATCH];
	int fds[BATCH];
};

typedef void call_fn(struct stage *stage, unsigned int i);

/* The second is what is measured. */
struct calls {
	struct stage *stage;
	call_fn *before, *call, *after;
	bool without_kernel;
};

static void call_all(const struct calls *calls, call_fn *call, unsigned int count)
{
	for (unsigned int i = 0; call && i < count; i++)
		call(calls->stage, i);
}

static uint64_t run(void *data, unsigned int times)
{
	const struct calls *calls = data;
	uint64_t ns = 0;

	while (times) {
		unsigned int count = times < BATCH ? times : BATCH;
		uint64_t begin;

		call_all(calls, calls->before, count);
		kernel_time(calls->without_kernel);
		begin = bench_now();
		call_all(calls, calls->call, count);
		ns += bench_since(begin) - kernel_get_ns();
		kernel_time(false);
		call_all(calls, calls->after, count);
		times -= count;
	}
	return ns;
}

/* ---- guest_memfd -------------------------------------------------------------------------- */

static void create_raw(struct stage *stage, unsigned int i)
{
	stage->fds[i] = raw_create(stage->vm_fd, stage->page, VM_SHARED);
}

static void close_raw(struct stage *stage, unsigned int i)
{
	close(stage->fds[i]);
}

static void create_gmem(struct stage *stage, unsigned int i)
{
	const struct gmem_memfd_opts opts = {
		.sz = sizeof(opts), .size = stage->page, .flags = VM_SHARED};

	bench_check_gmem(gmem_memfd_create(stage->vm, &opts, &stage->memfds[i]),
			 "gmem_memfd_create");
}

static void close_gmem(struct stage *stage, unsigned int i)
{
	gmem_memfd_close(stage->memfds[i]);
}

static void allocate_raw(struct stage *stage, unsigned int i)
{
	raw_allocate(stage->memfd_fd, i * stage->page, stage->page);
}

static void discard_raw(struct stage *stage, unsigned int i)
{
	raw_punch(stage->memfd_fd, i * stage->page, stage->page);
}

static void allocate_gmem(struct stage *stage, unsigned int i)
{
	bench_check_gmem(gmem_memfd_allocate(stage->memfd, i * stage->page, stage->page),
			 "gmem_memfd_allocate");
}

static void discard_gmem(struct stage *stage, unsigned int i)
{
	bench_check_gmem(gmem_memfd_discard(stage->memfd, i * stage->page, stage->page),
			 "gmem_memfd_discard");
}

static void discard_gpa(struct stage *stage, unsigned int i)
{
	bench_check_gmem(gmem_vm_discard(stage->vm, GPA + i * stage->page, stage->page),
			 "gmem_vm_discard");
}

/* ---- Mapping ------------------------------------------------------------------------------ */

static void map_raw(struct stage *stage, unsigned int i)
{
	stage->hosts[i] = raw_map(stage->memfd_fd, i * stage->page, stage->page);
}

static void unmap_raw(struct stage *stage, unsigned int i)
{
	raw_unmap(stage->hosts[i], stage->page);
}

static void map_gmem(struct stage *stage, unsigned int i)
{
	const struct gmem_map_opts opts = {
		.sz = sizeof(opts), .offset = i * stage->page, .size = stage->page};

	bench_check_gmem(gmem_map_create(stage->memfd, &opts, &stage->maps[i]), "gmem_map_create");
}

static void unmap_gmem(struct stage *stage, unsigned int i)
{
	gmem_map_close(stage->maps[i]);
}

/* ---- Slot --------------------------------------------------------------------------------- */

static void bind_raw(struct stage *stage, unsigned int i)
{
	raw_bind_memfd(stage->vm_fd, FIRST_ID + i, GPA + i * stage->page, stage->page,
		       stage->host + i * stage->page, stage->memfd_fd, i * stage->page);
}

static void map_and_bind_raw(struct stage *stage, unsigned int i)
{
	map_raw(stage, i);
	raw_bind_memfd(stage->vm_fd, FIRST_ID + i, GPA + i * stage->page, stage->page,
		       stage->hosts[i], stage->memfd_fd, i * stage->page);
}

static void delete_raw(struct stage *stage, unsigned int i)
{
	raw_delete(stage->vm_fd, FIRST_ID + i);
}

static void delete_and_unmap_raw(struct stage *stage, unsigned int i)
{
	delete_raw(stage, i);
	unmap_raw(stage, i);
}

static void bind(struct stage *stage, unsigned int i, struct gmem_map *map)
{
	const struct gmem_slot_opts opts = {.sz = sizeof(opts),
					    .gpa = GPA + i * stage->page,
					    .size = stage->page,
					    .memfd = stage->memfd,
					    .offset = i * stage->page,
					    .map = map};

	bench_check_gmem(gmem_slot_create(stage->vm, &opts, &stage->slots[i]), "gmem_slot_create");
}

static void bind_gmem(struct stage *stage, unsigned int i)
{
	bind(stage, i, stage->map);
}

static void map_and_bind_gmem(struct stage *stage, unsigned int i)
{
	bind(stage, i, NULL);
}

/* Unbinds, and frees the handle. */
static void delete_gmem(struct stage *stage, unsigned int i)
{
	gmem_slot_close(stage->slots[i]);
}

/* The library keeps the addresses reserved after a slot that had a mapping of its own. */
static void reclaim(struct stage *stage, unsigned int i)
{
	(void)i;
	bench_check_gmem(gmem_vm_reclaim(stage->vm, NULL), "gmem_vm_reclaim");
}

static void delete_and_reclaim(struct stage *stage, unsigned int i)
{
	delete_gmem(stage, i);
	reclaim(stage, i);
}

/* ---- The comparisons ---------------------------------------------------------------------- */

static void compare(const char *name, struct calls raw, struct calls ours)
{
	bench_compare(&(const struct bench_case){
		.group = "calls",
		.name = name,
		.ways = {{"system calls", run, &raw}, {"libgmem", run, &ours}},
	});
}

static void compare_all(struct stage *s)
{
	compare("create a guest_memfd", (struct calls){s, NULL, create_raw, close_raw},
		(struct calls){s, NULL, create_gmem, close_gmem});
	compare("close it", (struct calls){s, create_raw, close_raw, NULL},
		(struct calls){s, create_gmem, close_gmem, NULL});
	compare("map a page", (struct calls){s, NULL, map_raw, unmap_raw},
		(struct calls){s, NULL, map_gmem, unmap_gmem});
	compare("unmap it", (struct calls){s, map_raw, unmap_raw, NULL},
		(struct calls){s, map_gmem, unmap_gmem, NULL});
	compare("bind a page", (struct calls){s, NULL, bind_raw, delete_raw},
		(struct calls){s, NULL, bind_gmem, delete_gmem});
	compare("delete the slot", (struct calls){s, bind_raw, delete_raw, NULL},
		(struct calls){s, bind_gmem, delete_gmem, NULL});
	compare("map and bind a page",
		(struct calls){s, NULL, map_and_bind_raw, delete_and_unmap_raw},
		(struct calls){s, NULL, map_and_bind_gmem, delete_and_reclaim});
	compare("delete, unmap", (struct calls){s, map_and_bind_raw, delete_and_unmap_raw, NULL},
		(struct calls){s, map_and_bind_gmem, delete_gmem, reclaim});
	compare("allocate a page", (struct calls){s, NULL, allocate_raw, discard_raw},
		(struct calls){s, NULL, allocate_gmem, discard_raw});
	compare("discard it, of the file", (struct calls){s, allocate_raw, discard_raw, NULL},
		(struct calls){s, allocate_raw, discard_gmem, NULL});
}

/* Of the calls that sleep in the kernel. */
static void compare_part(const char *name, struct calls calls)
{
	struct calls part = calls;

	part.without_kernel = true;
	bench_compare(&(const struct bench_case){
		.group = "part",
		.name = name,
		.ways = {{"libgmem", run, &calls}, {"its part alone", run, &part}},
	});
}

static void compare_parts(struct stage *s)
{
	compare_part("bind a page", (struct calls){s, NULL, bind_gmem, delete_gmem, false});
	compare_part("delete the slot", (struct calls){s, bind_gmem, delete_gmem, NULL, false});
}

/* By guest address takes slots. */
static void compare_discard(struct stage *s)
{
	for (unsigned int i = 0; i < BATCH; i++)
		bind_gmem(s, i);
	compare("discard it, of a slot", (struct calls){s, allocate_raw, discard_raw, NULL},
		(struct calls){s, allocate_raw, discard_gpa, NULL});
	for (unsigned int i = 0; i < BATCH; i++)
		delete_gmem(s, i);
}

int main(int argc, char **argv)
{
	struct stage stage = {.page = (uint64_t)sysconf(_SC_PAGESIZE)};
	struct gmem_memfd_opts opts = {
		.sz = sizeof(opts), .size = BATCH * stage.page, .flags = VM_SHARED};

	bench_begin(argc, argv, "slot", "Measures the small calls of a guest_memfd's life.");
	stage.vm = vm_open_shared();
	stage.vm_fd = gmem_vm_get_fd(stage.vm);
	bench_check_gmem(gmem_memfd_create(stage.vm, &opts, &stage.memfd), "a guest_memfd");
	stage.memfd_fd = gmem_memfd_get_fd(stage.memfd);
	bench_check_gmem(gmem_map_create(stage.memfd, NULL, &stage.map), "a mapping");
	stage.host = gmem_map_get_addr(stage.map);
	compare_all(&stage);
	compare_parts(&stage);
	compare_discard(&stage);
	gmem_map_close(stage.map);
	gmem_memfd_close(stage.memfd);
	gmem_vm_close(stage.vm);
	return bench_end();
}
