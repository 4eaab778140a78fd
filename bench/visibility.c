/* SPDX-License-Identifier: MIT */
/*
 * What costs no system call: looking an address up in the map of private memory, and converting
 * what is so already. No kernel has a part in it, so it is measured on the one of libgmem-fake, and
 * can be on any machine.
 */
#include "bench.h"

#include <gmem-fake.h>
#include <gmem.h>

#include <sys/syscall.h>
#include <unistd.h>

#define PAGE	UINT64_C(65536) /* a multiple of each machine's */
#define MANY	UINT64_C(100000)
#define VM_TYPE 1

/* Not in order, as guests' addresses are not: each step goes to a far part of the map. */
#define STRIDE UINT64_C(61803)

struct map {
	struct gmem_vm *vm;
	uint64_t ranges;
	uint64_t next;
};

static uint64_t look_up(void *data, unsigned int times)
{
	struct map *map = data;
	enum gmem_visibility visibility;
	uint64_t begin = bench_now();

	for (unsigned int i = 0; i < times; i++) {
		map->next = (map->next + STRIDE) % map->ranges;
		gmem_vm_get_visibility(map->vm, 2 * map->next * PAGE, &visibility, NULL);
	}
	return bench_since(begin);
}

static uint64_t convert_nothing(void *data, unsigned int times)
{
	struct map *map = data;
	uint64_t begin = bench_now();

	for (unsigned int i = 0; i < times; i++)
		gmem_vm_convert(map->vm, 0, PAGE, GMEM_VISIBILITY_PRIVATE, GMEM_CONVERT_KEEP, NULL);
	return bench_since(begin);
}

/* The least that a system call takes. */
static uint64_t ask_kernel(void *data, unsigned int times)
{
	uint64_t begin = bench_now();

	(void)data;
	for (unsigned int i = 0; i < times; i++)
		syscall(SYS_getppid);
	return bench_since(begin);
}

static void open_map(struct gmem_fake *fake, struct map *map, uint64_t ranges)
{
	const struct gmem_vm_opts opts = {.sz = sizeof(opts), .type = VM_TYPE};

	map->ranges = ranges;
	bench_check_gmem(gmem_fake_open_vm(fake, &opts, &map->vm), "a VM");
	for (uint64_t i = 0; i < ranges; i++)
		bench_check_gmem(gmem_vm_adopt_visibility(map->vm, 2 * i * PAGE, PAGE,
							  GMEM_VISIBILITY_PRIVATE),
				 "gmem_vm_adopt_visibility");
}

static _Alignas(65536) unsigned char memory[PAGE];

/* Conversions want memory, of both kinds, that they do not touch. */
static struct gmem_slot *add_slot(const struct map *map, struct gmem_memfd **memfd)
{
	const struct gmem_memfd_opts memfd_opts = {.sz = sizeof(memfd_opts), .size = PAGE};
	struct gmem_slot_opts opts = {.sz = sizeof(opts), .size = PAGE, .host = memory};
	struct gmem_slot *slot;

	bench_check_gmem(gmem_memfd_create(map->vm, &memfd_opts, memfd), "a guest_memfd");
	opts.memfd = *memfd;
	bench_check_gmem(gmem_slot_create(map->vm, &opts, &slot), "a slot");
	return slot;
}

int main(int argc, char **argv)
{
	const struct gmem_fake_opts opts = {.sz = sizeof(opts), .kernel = GMEM_FAKE_PRIVATE};
	struct map one = {0}, many = {0};
	struct gmem_memfd *memfd;
	struct gmem_fake *fake;
	struct gmem_slot *slot;

	bench_begin(argc, argv, "visibility", "Measures the map of private memory.");
	bench_check_gmem(gmem_fake_create(&opts, &fake), "the fake");
	open_map(fake, &one, 1);
	open_map(fake, &many, MANY);
	slot = add_slot(&one, &memfd);
	bench_compare(&(const struct bench_case){
		.group = "map",
		.name = "without a system call",
		.ways = {{"getppid, a system call", ask_kernel, NULL},
			 {"conversion of what is so already", convert_nothing, &one},
			 {"get_visibility, 1 range", look_up, &one},
			 {"get_visibility, 100,000 ranges", look_up, &many}},
	});
	gmem_slot_close(slot);
	gmem_memfd_close(memfd);
	gmem_vm_close(one.vm);
	gmem_vm_close(many.vm);
	gmem_fake_close(fake);
	return bench_end();
}
