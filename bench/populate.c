/* SPDX-License-Identifier: MIT */
/*
 * Filling a mapping of a guest_memfd, of which nothing is allocated, against MADV_POPULATE_WRITE
 * with the same number of threads, each of which takes its share of the range in one call.
 */
#include "bench.h"
#include "raw.h"
#include "vm.h"

#include <pthread.h>

#define THREADS_MAX 2U

struct task {
	struct gmem_map *map;
	int fd;
	unsigned char *addr;
	uint64_t size;
	unsigned int threads;
};

struct share {
	unsigned char *addr;
	uint64_t size;
};

static void *populate_share(void *data)
{
	const struct share *share = data;

	raw_populate(share->addr, share->size);
	return NULL;
}

static void populate_raw(const struct task *task)
{
	struct share shares[THREADS_MAX] = {0};
	pthread_t threads[THREADS_MAX];

	for (unsigned int i = 0; i < task->threads; i++) {
		shares[i].size = task->size / task->threads;
		shares[i].addr = task->addr + i * shares[i].size;
		if (i > 0)
			bench_check(pthread_create(&threads[i], NULL, populate_share, &shares[i]) ==
					    0,
				    "pthread_create");
	}
	populate_share(&shares[0]);
	for (unsigned int i = 1; i < task->threads; i++)
		pthread_join(threads[i], NULL);
}

static void populate_gmem(const struct task *task)
{
	bench_check_gmem(gmem_map_populate(task->map, 0, task->size, task->threads),
			 "gmem_map_populate");
}

static uint64_t populate(const struct task *task, unsigned int times,
			 void (*way)(const struct task *task))
{
	uint64_t ns = 0;

	for (unsigned int i = 0; i < times; i++) {
		uint64_t begin;

		raw_punch(task->fd, 0, task->size);
		begin = bench_now();
		way(task);
		ns += bench_since(begin);
	}
	return ns;
}

static uint64_t run_raw(void *data, unsigned int times)
{
	return populate(data, times, populate_raw);
}

static uint64_t run_gmem(void *data, unsigned int times)
{
	return populate(data, times, populate_gmem);
}

static void measure(struct gmem_vm *vm, uint64_t size)
{
	struct gmem_memfd_opts opts = {.sz = sizeof(opts), .size = size, .flags = VM_SHARED};
	struct task task = {.size = size};
	struct gmem_memfd *memfd;

	bench_check_gmem(gmem_memfd_create(vm, &opts, &memfd), "a guest_memfd");
	bench_check_gmem(gmem_map_create(memfd, NULL, &task.map), "a mapping");
	task.fd = gmem_memfd_get_fd(memfd);
	task.addr = gmem_map_get_addr(task.map);
	for (task.threads = 1; task.threads <= THREADS_MAX; task.threads++)
		bench_compare(&(const struct bench_case){
			.group = "populate",
			.name = task.threads == 1 ? "one thread" : "two threads",
			.against = "bytes",
			.at = size,
			.ways = {{"system calls", run_raw, &task}, {"libgmem", run_gmem, &task}},
			.effort = 2,
		});
	gmem_map_close(task.map);
	gmem_memfd_close(memfd);
}

int main(int argc, char **argv)
{
	static const uint64_t sizes[] = {2 * BENCH_MIB, 64 * BENCH_MIB, 256 * BENCH_MIB};
	struct gmem_vm *vm;

	bench_begin(argc, argv, "populate", "Measures the filling of a guest_memfd's mapping.");
	vm = vm_open_shared();
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		measure(vm, sizes[i]);
	gmem_vm_close(vm);
	return bench_end();
}
