/* SPDX-License-Identifier: MIT */
/*
 * What the pages of a guest_memfd cost, against those of an ordinary memfd (shmem) and of memory
 * without a file: the first touch of each by the host, allocation, and giving them back.
 */
#include "bench.h"
#include "raw.h"
#include "vm.h"

#include <sys/mman.h>
#include <unistd.h>

#define SIZE_MAX_BYTES (64 * BENCH_MIB)

struct memory {
	unsigned char *addr;
	int fd; /* -1: none */
	struct gmem_memfd *memfd;
	uint64_t page;
	uint64_t size; /* of it, what is used */
};

static void drop(const struct memory *memory)
{
	if (memory->fd >= 0)
		raw_punch(memory->fd, 0, memory->size);
	else
		raw_forget(memory->addr, memory->size);
}

static void touch(const struct memory *memory)
{
	for (uint64_t at = 0; at < memory->size; at += memory->page)
		*(volatile unsigned char *)(memory->addr + at) = 1;
}

static void allocate(const struct memory *memory)
{
	raw_allocate(memory->fd, 0, memory->size);
}

static void discard(const struct memory *memory)
{
	bench_check_gmem(gmem_memfd_discard(memory->memfd, 0, memory->size), "gmem_memfd_discard");
}

typedef void step_fn(const struct memory *memory);

/* The second step is what is measured. */
static uint64_t measure(const struct memory *memory, unsigned int times, step_fn *before,
			step_fn *step)
{
	uint64_t ns = 0;

	for (unsigned int i = 0; i < times; i++) {
		uint64_t begin;

		before(memory);
		begin = bench_now();
		step(memory);
		ns += bench_since(begin);
	}
	return ns;
}

static uint64_t run_touch(void *data, unsigned int times)
{
	return measure(data, times, drop, touch);
}

static uint64_t run_allocate(void *data, unsigned int times)
{
	return measure(data, times, drop, allocate);
}

static uint64_t run_drop(void *data, unsigned int times)
{
	return measure(data, times, touch, drop);
}

static uint64_t run_discard(void *data, unsigned int times)
{
	return measure(data, times, touch, discard);
}

/* `advice`: on huge pages; those of files follow it as far as the system allows. */
static struct memory map_memory(int fd, int advice)
{
	struct memory memory = {.fd = fd, .page = (uint64_t)sysconf(_SC_PAGESIZE)};
	void *addr = mmap(NULL, SIZE_MAX_BYTES, PROT_READ | PROT_WRITE,
			  fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED, fd, 0);

	bench_check(addr != MAP_FAILED, "mmap");
	madvise(addr, SIZE_MAX_BYTES, advice);
	memory.addr = addr;
	return memory;
}

static struct memory make_guest(struct gmem_vm *vm)
{
	const struct gmem_memfd_opts opts = {
		.sz = sizeof(opts), .size = SIZE_MAX_BYTES, .flags = VM_SHARED};
	struct gmem_memfd *memfd;
	struct memory memory;

	bench_check_gmem(gmem_memfd_create(vm, &opts, &memfd), "a guest_memfd");
	memory = map_memory(gmem_memfd_get_fd(memfd), MADV_NOHUGEPAGE);
	memory.memfd = memfd;
	return memory;
}

static struct memory make_shmem(void)
{
	int fd = memfd_create("bench", MFD_CLOEXEC);

	bench_check(fd >= 0 && ftruncate(fd, (off_t)SIZE_MAX_BYTES) == 0, "memfd");
	return map_memory(fd, MADV_NOHUGEPAGE);
}

static void compare(struct memory *guest, struct memory *shmem, uint64_t size)
{
	struct memory small = map_memory(-1, MADV_NOHUGEPAGE);
	struct memory huge = map_memory(-1, MADV_HUGEPAGE);

	guest->size = shmem->size = small.size = huge.size = size;
	bench_compare(&(const struct bench_case){
		.group = "touch",
		.name = "first touch of each page",
		.against = "bytes",
		.at = size,
		.ways = {{"a memfd", run_touch, shmem},
			 {"guest_memfd", run_touch, guest},
			 {"no file", run_touch, &small},
			 {"no file, huge pages", run_touch, &huge}},
	});
	munmap(small.addr, SIZE_MAX_BYTES);
	munmap(huge.addr, SIZE_MAX_BYTES);
	bench_compare(&(const struct bench_case){
		.group = "touch",
		.name = "fallocate()",
		.against = "bytes",
		.at = size,
		.ways = {{"a memfd", run_allocate, shmem}, {"guest_memfd", run_allocate, guest}},
	});
	bench_compare(&(const struct bench_case){
		.group = "discard",
		.name = "of pages that are mapped",
		.against = "bytes",
		.at = size,
		.ways = {{"system calls", run_drop, guest},
			 {"libgmem", run_discard, guest},
			 {"a memfd", run_drop, shmem}},
	});
}

int main(int argc, char **argv)
{
	static const uint64_t sizes[] = {64 * BENCH_KIB, BENCH_MIB, 16 * BENCH_MIB, SIZE_MAX_BYTES};
	struct memory guest, shmem;
	struct gmem_vm *vm;

	bench_begin(argc, argv, "touch", "Measures what a guest_memfd's pages cost.");
	vm = vm_open_shared();
	guest = make_guest(vm);
	shmem = make_shmem();
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		compare(&guest, &shmem, sizes[i]);
	munmap(guest.addr, SIZE_MAX_BYTES);
	munmap(shmem.addr, SIZE_MAX_BYTES);
	close(shmem.fd);
	gmem_memfd_close(guest.memfd);
	gmem_vm_close(vm);
	return bench_end();
}
