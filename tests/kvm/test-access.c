/* SPDX-License-Identifier: MIT */
/* A guest's memory from both sides, on a real KVM. */
#include "fixture.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define GPA UINT64_C(0x10000)
#define FAR UINT64_C(0x4000000)

/* ---- The guest's memory is the host's ---- */

/* A guest's code wants a page of its own: it is the first, and the tests use those after it. */
static void assert_guest_and_host_share(struct world *world, uint64_t gpa, volatile char *host)
{
	uint32_t value;

	ck_assert_int_eq(guest_store(&world->guest, gpa, 0x01020304), KVM_EXIT_HLT);
	ck_assert_int_eq(host[0], 4);
	host[0] = 5;
	ck_assert_int_eq(guest_load(&world->guest, gpa, &value), KVM_EXIT_HLT);
	ck_assert_uint_eq(value, 0x01020305);
}

START_TEST(guest_runs_on_a_guest_memfd)
{
	struct gmem_memfd *memfd;
	struct gmem_slot *slot;
	struct world world;
	char *raw;

	NEED_WORLD_GUEST();
	if (!world_open(&world, 0))
		return;
	memfd = world_memfd(&world, 8);
	slot = world_slot(&world, SLOT(.gpa = GPA, .size = 4 * world.page, .memfd = memfd,
				       .offset = 2 * world.page));
	world_start_guest(&world, GPA);
	raw = raw_map(gmem_memfd_get_fd(memfd), 0, 8 * world.page);
	assert_guest_and_host_share(&world, GPA + world.page, raw + 3 * world.page);
	assert_guest_and_host_share(&world, GPA + world.page,
				    (char *)gmem_slot_get_addr(slot) + world.page);
	munmap(raw, 8 * world.page);
	gmem_slot_close(slot);
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

START_TEST(guest_runs_on_a_guest_memfd_with_a_mapping)
{
	struct gmem_memfd *memfd;
	struct gmem_slot *slot;
	struct gmem_map *map;
	struct world world;
	char *addr;

	NEED_WORLD_GUEST();
	if (!world_open(&world, 0))
		return;
	memfd = world_memfd(&world, 8);
	assert_ok(gmem_map_create(memfd, MAP(.offset = world.page, .size = 7 * world.page), &map));
	slot = world_slot(&world, SLOT(.gpa = GPA, .size = 4 * world.page, .memfd = memfd,
				       .offset = 3 * world.page, .map = map));
	addr = (char *)gmem_map_get_addr(map) + 2 * world.page;
	ck_assert_ptr_eq(gmem_slot_get_addr(slot), addr);
	world_start_guest(&world, GPA);
	assert_guest_and_host_share(&world, GPA + world.page, addr + world.page);
	gmem_slot_close(slot);
	gmem_map_close(map);
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

START_TEST(guest_runs_on_plain_memory)
{
	struct gmem_slot *slot;
	struct world world;
	char *memory;

	NEED_WORLD_GUEST();
	if (!world_open(&world, 0))
		return;
	memory = raw_map(-1, 0, 4 * world.page);
	slot = world_slot(&world, SLOT(.gpa = GPA, .size = 4 * world.page, .host = memory));
	ck_assert_ptr_eq(gmem_slot_get_addr(slot), memory);
	world_start_guest(&world, GPA);
	assert_guest_and_host_share(&world, GPA + world.page, memory + world.page);
	gmem_slot_close(slot);
	munmap(memory, 4 * world.page);
	world_close(&world);
}
END_TEST

/* Loop 0: over a writable mapping; 1: over a read-only one. */
START_TEST(read_only_slot_is_read_and_its_writes_exit)
{
	struct gmem_slot *slot, *code;
	struct gmem_memfd *memfd;
	struct gmem_map *map;
	struct world world;
	uint32_t value = 7;
	char *raw;

	NEED_WORLD_GUEST();
	if (!world_open(&world, 0))
		return;
	if (raw_cap(world.fd, KVM_CAP_READONLY_MEM) <= 0)
		SKIP_WORLD(&world, "this VM has no read-only slots");
	memfd = world_memfd(&world, 2);
	assert_ok(gmem_map_create(
		memfd, MAP(.size = 2 * world.page, .prot = _i ? GMEM_PROT_READ : 0), &map));
	code = world_slot(&world,
			  SLOT(.gpa = FAR, .size = world.page, .host = raw_map(-1, 0, world.page)));
	slot = world_slot(&world, SLOT(.gpa = GPA, .size = 2 * world.page, .map = map,
				       .flags = GMEM_SLOT_READONLY));
	world_start_guest(&world, FAR);
	raw = raw_map(gmem_memfd_get_fd(memfd), 0, 2 * world.page);
	memcpy(raw, "abcd", 4);
	ck_assert_int_eq(guest_load(&world.guest, GPA, &value), KVM_EXIT_HLT);
	ck_assert_int_eq(memcmp(&value, "abcd", 4), 0);
	ck_assert_int_eq(guest_store(&world.guest, GPA, 1), KVM_EXIT_MMIO);
	ck_assert_uint_eq(world.guest.mmio_gpa, GPA);
	ck_assert_int_eq(memcmp(raw, "abcd", 4), 0);
	assert_ok(gmem_vm_read(world.vm, 0, GPA, &value, 4));
	assert_fails(gmem_vm_write(world.vm, 0, GPA, "x", 1), EACCES, ACCESS_READONLY);
	munmap(raw, 2 * world.page);
	gmem_slot_close(slot);
	gmem_slot_close(code);
	gmem_map_close(map);
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

START_TEST(two_slots_of_one_file_and_a_third_over_both)
{
	struct gmem_slot *one, *two, *both;
	struct gmem_memfd *memfd;
	struct gmem_map *map;
	struct world world;
	uint32_t value;

	NEED_WORLD_GUEST();
	if (!world_open(&world, 0))
		return;
	memfd = world_memfd(&world, 4);
	map = world_map(memfd);
	one = world_slot(&world, SLOT(.gpa = GPA, .size = 2 * world.page, .memfd = memfd));
	two = world_slot(&world, SLOT(.gpa = FAR, .size = 2 * world.page, .memfd = memfd,
				      .offset = 2 * world.page, .map = map));
	/* A page is bound once; an ordinary slot over the mapping shows it once more. */
	both = world_slot(&world, SLOT(.gpa = 2 * FAR, .size = 4 * world.page, .map = map));
	world_start_guest(&world, GPA);
	ck_assert_int_eq(guest_store(&world.guest, FAR + world.page, 99), KVM_EXIT_HLT);
	ck_assert_int_eq(guest_load(&world.guest, 2 * FAR + 3 * world.page, &value), KVM_EXIT_HLT);
	ck_assert_uint_eq(value, 99);
	gmem_slot_close(two);
	gmem_slot_close(one);
	gmem_slot_close(both);
	gmem_map_close(map);
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

/* ---- By guest address ---- */

START_TEST(translate_tells_the_rest_of_the_slot)
{
	struct gmem_slot *one, *two;
	struct gmem_memfd *memfd;
	struct world world;
	void *addr;
	uint64_t len;

	if (!world_open(&world, 0))
		return;
	memfd = world_memfd(&world, 8);
	one = world_slot(&world, SLOT(.gpa = GPA, .size = 3 * world.page, .memfd = memfd));
	two = world_slot(&world, SLOT(.gpa = GPA + 3 * world.page, .size = world.page,
				      .memfd = memfd, .offset = 3 * world.page));
	for (uint64_t at = 0; at < 3 * world.page; at += world.page / 2 - 1) {
		assert_ok(gmem_vm_translate(world.vm, 0, GPA + at, GMEM_PROT_WRITE, &len, &addr));
		ck_assert_ptr_eq(addr, (char *)gmem_slot_get_addr(one) + at);
		ck_assert_uint_eq(len, 3 * world.page - at);
	}
	assert_ok(gmem_vm_translate(world.vm, 0, GPA + 4 * world.page - 1, 0, &len, &addr));
	ck_assert_ptr_eq(addr, (char *)gmem_slot_get_addr(two) + world.page - 1);
	ck_assert_uint_eq(len, 1);
	assert_fails(gmem_vm_translate(world.vm, 0, GPA - 1, 0, &len, &addr), EFAULT, GPA_UNMAPPED);
	ck_assert_ptr_null(addr);
	assert_fails(gmem_vm_translate(world.vm, 0, GPA + 4 * world.page, 0, &len, &addr), EFAULT,
		     GPA_UNMAPPED);
	assert_fails(gmem_vm_translate(world.vm, 0, GPA, 4, &len, &addr), EINVAL, FLAGS_UNKNOWN);
	assert_fails(gmem_vm_translate(world.vm, 64, GPA, 0, &len, &addr), ERANGE, AS_BEYOND_LIMIT);
	gmem_slot_close(two);
	gmem_slot_close(one);
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

/* Two slots that touch, of unlike memory and in the other order in the host, and then nothing. */
struct pair {
	struct world world;
	struct gmem_memfd *memfd;
	struct gmem_slot *low, *high;
	char *memory;
	uint64_t middle, end;
};

static bool open_pair(struct pair *pair, uint64_t vm_flags)
{
	struct world *world = &pair->world;

	if (!world_open(world, vm_flags))
		return false;
	pair->middle = GPA + 2 * world->page;
	pair->end = GPA + 4 * world->page;
	pair->memory = raw_map(-1, 0, 2 * world->page);
	pair->memfd = world_memfd(world, 2);
	pair->high = world_slot(
		world, SLOT(.gpa = pair->middle, .size = 2 * world->page, .host = pair->memory));
	pair->low =
		world_slot(world, SLOT(.gpa = GPA, .size = 2 * world->page, .memfd = pair->memfd));
	return true;
}

static void close_pair(struct pair *pair)
{
	gmem_slot_close(pair->high);
	gmem_slot_close(pair->low);
	gmem_memfd_close(pair->memfd);
	munmap(pair->memory, 2 * pair->world.page);
	world_close(&pair->world);
}

/* Loop 1: the fault-proof way. */
START_TEST(copies_cross_from_slot_to_slot)
{
	unsigned char in[64], out[64];
	struct pair pair;

	if (!open_pair(&pair, _i ? GMEM_VM_FAULT_PROOF : 0))
		return;
	for (unsigned int i = 0; i < 64; i++)
		out[i] = (unsigned char)(i + 1);
	for (unsigned int before = 0; before <= 64; before++) {
		memset(in, 0, sizeof(in));
		assert_ok(gmem_vm_write(pair.world.vm, 0, pair.middle - before, out, 64));
		assert_ok(gmem_vm_read(pair.world.vm, 0, pair.middle - before, in, 64));
		ck_assert_mem_eq(in, out, 64);
		ck_assert_mem_eq(pair.memory, out + before, 64 - before);
		ck_assert_mem_eq((char *)gmem_slot_get_addr(pair.low) + 2 * pair.world.page -
					 before,
				 out, before);
	}
	close_pair(&pair);
}
END_TEST

START_TEST(copies_that_pass_the_end_copy_nothing)
{
	struct gmem_vm *vm;
	struct pair pair;
	char buf[8] = "untaken";

	if (!open_pair(&pair, 0))
		return;
	vm = pair.world.vm;
	assert_fails(gmem_vm_read(vm, 0, pair.end - 4, buf, 8), EFAULT, GPA_UNMAPPED);
	ck_assert_str_eq(buf, "untaken");
	assert_fails(gmem_vm_write(vm, 0, pair.end - 4, buf, 8), EFAULT, GPA_UNMAPPED);
	ck_assert_int_eq(pair.memory[2 * pair.world.page - 4], 0);
	assert_fails(gmem_vm_write(vm, 0, GPA - 4, buf, 8), EFAULT, GPA_UNMAPPED);
	ck_assert_int_eq(*(char *)gmem_slot_get_addr(pair.low), 0);
	assert_fails(gmem_vm_read(vm, 0, -UINT64_C(4), buf, 8), EOVERFLOW, RANGE_WRAPS);
	assert_ok(gmem_vm_read(vm, 0, pair.end, buf, 0));
	assert_ok(gmem_vm_write(vm, 0, pair.end - 8, buf, 8));
	ck_assert_str_eq(pair.memory + 2 * pair.world.page - 8, "untaken");
	close_pair(&pair);
}
END_TEST

START_TEST(loads_and_stores_are_of_their_width)
{
	struct gmem_vm *vm;
	struct pair pair;
	uint64_t u64;
	uint32_t u32;
	uint16_t u16;
	uint8_t u8;
	const uint64_t pattern = UINT64_C(0x1122334455667788);

	if (!open_pair(&pair, 0))
		return;
	vm = pair.world.vm;
	assert_ok(gmem_vm_store_u64(vm, 0, pair.middle, pattern));
	assert_ok(gmem_vm_load_u64(vm, 0, pair.middle, &u64));
	assert_ok(gmem_vm_load_u32(vm, 0, pair.middle, &u32));
	assert_ok(gmem_vm_load_u16(vm, 0, pair.middle, &u16));
	assert_ok(gmem_vm_load_u8(vm, 0, pair.middle, &u8));
	ck_assert_mem_eq(pair.memory, &pattern, 8);
	ck_assert_uint_eq(u64, pattern);
	ck_assert_mem_eq(&u32, &pattern, 4);
	ck_assert_mem_eq(&u16, &pattern, 2);
	ck_assert_mem_eq(&u8, &pattern, 1);
	memset(pair.memory, 0xff, 8);
	assert_ok(gmem_vm_store_u8(vm, 0, pair.middle, 0));
	ck_assert_mem_eq(pair.memory, "\0\xff", 2);
	assert_ok(gmem_vm_store_u16(vm, 0, pair.middle, 0));
	ck_assert_mem_eq(pair.memory, "\0\0\xff", 3);
	assert_ok(gmem_vm_store_u32(vm, 0, pair.middle, 0));
	ck_assert_mem_eq(pair.memory, "\0\0\0\0\xff", 5);
	assert_fails(gmem_vm_load_u16(vm, 0, pair.middle + 1, &u16), EINVAL, ACCESS_UNALIGNED);
	assert_fails(gmem_vm_load_u32(vm, 0, pair.middle + 2, &u32), EINVAL, ACCESS_UNALIGNED);
	assert_fails(gmem_vm_load_u64(vm, 0, pair.middle + 4, &u64), EINVAL, ACCESS_UNALIGNED);
	assert_fails(gmem_vm_store_u32(vm, 0, pair.end, 1), EFAULT, GPA_UNMAPPED);
	close_pair(&pair);
}
END_TEST

/* ---- Beside a running vCPU ---- */

#define TIMES 1000U

/* A vCPU in a thread of its own. */
struct runner {
	struct guest *guest;
	uint64_t gpa;
	int reason;
	uint32_t value;
	_Atomic bool done, stop;
};

/* Counts on until it is told to stop; value is how far it came. */
static void *run_count(void *data)
{
	struct runner *runner = data;

	do {
		runner->reason = guest_count(runner->guest, runner->gpa, TIMES);
		runner->value += TIMES;
	} while (runner->reason == KVM_EXIT_HLT && !atomic_load(&runner->stop));
	atomic_store(&runner->done, true);
	return NULL;
}

static void *run_await(void *data)
{
	struct runner *runner = data;

	runner->reason = guest_await(runner->guest, runner->gpa, &runner->value);
	atomic_store(&runner->done, true);
	return NULL;
}

START_TEST(loads_see_a_running_guest_count)
{
	struct gmem_memfd *memfd;
	struct gmem_slot *slot;
	struct world world;
	struct runner runner = {0};
	uint32_t value = 0, last = 0;
	unsigned int steps = 0;
	pthread_t thread;

	NEED_WORLD_GUEST();
	if (!world_open(&world, 0))
		return;
	memfd = world_memfd(&world, 2);
	slot = world_slot(&world, SLOT(.gpa = GPA, .size = 2 * world.page, .memfd = memfd));
	world_start_guest(&world, GPA);
	runner.guest = &world.guest;
	runner.gpa = GPA + world.page;
	ck_assert_int_eq(pthread_create(&thread, NULL, run_count, &runner), 0);
	while (steps < 100 && !atomic_load(&runner.done)) {
		assert_ok(gmem_vm_load_u32(world.vm, 0, runner.gpa, &value));
		ck_assert_uint_ge(value, last);
		steps += value > last;
		last = value;
	}
	atomic_store(&runner.stop, true);
	pthread_join(thread, NULL);
	ck_assert_int_eq(runner.reason, KVM_EXIT_HLT);
	assert_ok(gmem_vm_load_u32(world.vm, 0, runner.gpa, &value));
	ck_assert_uint_eq(value, runner.value);
	gmem_slot_close(slot);
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

START_TEST(store_releases_a_waiting_guest)
{
	struct gmem_memfd *memfd;
	struct gmem_slot *slot;
	struct world world;
	struct runner runner = {0};
	pthread_t thread;

	NEED_WORLD_GUEST();
	if (!world_open(&world, 0))
		return;
	memfd = world_memfd(&world, 2);
	slot = world_slot(&world, SLOT(.gpa = GPA, .size = 2 * world.page, .memfd = memfd));
	world_start_guest(&world, GPA);
	runner.guest = &world.guest;
	runner.gpa = GPA + world.page;
	ck_assert_int_eq(pthread_create(&thread, NULL, run_await, &runner), 0);
	usleep(20000);
	ck_assert(!atomic_load(&runner.done));
	assert_ok(gmem_vm_store_u32(world.vm, 0, runner.gpa, 0xcafe));
	pthread_join(thread, NULL);
	ck_assert_int_eq(runner.reason, KVM_EXIT_HLT);
	ck_assert_uint_eq(runner.value, 0xcafe);
	gmem_slot_close(slot);
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

/* The guest counts in the page all the while; what nobody writes again must be gone. */
START_TEST(discard_works_under_a_running_guest)
{
	struct gmem_memfd *memfd;
	struct gmem_slot *slot;
	struct world world;
	struct runner runner = {0};
	uint32_t value = 0, other;
	pthread_t thread;

	NEED_WORLD_GUEST();
	if (!world_open(&world, 0))
		return;
	memfd = world_memfd(&world, 2);
	slot = world_slot(&world, SLOT(.gpa = GPA, .size = 2 * world.page, .memfd = memfd));
	world_start_guest(&world, GPA);
	runner.guest = &world.guest;
	runner.gpa = GPA + world.page;
	ck_assert_int_eq(pthread_create(&thread, NULL, run_count, &runner), 0);
	for (unsigned int round = 1; round < 8; round++) {
		assert_ok(gmem_vm_store_u32(world.vm, 0, runner.gpa + 64, round));
		assert_ok(gmem_vm_discard(world.vm, runner.gpa, world.page));
		assert_ok(gmem_vm_load_u32(world.vm, 0, runner.gpa + 64, &other));
		ck_assert_uint_eq(other, 0);
	}
	atomic_store(&runner.stop, true);
	pthread_join(thread, NULL);
	ck_assert_int_eq(runner.reason, KVM_EXIT_HLT);
	assert_ok(gmem_vm_load_u32(world.vm, 0, runner.gpa, &value));
	ck_assert_uint_le(value, runner.value);
	ck_assert_int_eq(guest_load(&world.guest, runner.gpa + 64, &other), KVM_EXIT_HLT);
	ck_assert_uint_eq(other, 0);
	gmem_slot_close(slot);
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

/* ---- Discard ---- */

enum {
	GUEST_MEMFD,
	OVER_MAPPING,
	ANONYMOUS,
	SHARED_ANONYMOUS,
	KINDS,
};

static struct gmem_slot *make_slot(const struct world *world, int kind, struct gmem_memfd *memfd,
				   struct gmem_map *map)
{
	const size_t size = 4 * world->page, offset = 3 * world->page;
	const int flags = MAP_ANONYMOUS | (kind == ANONYMOUS ? MAP_PRIVATE : MAP_SHARED);

	switch (kind) {
	case GUEST_MEMFD:
		return world_slot(world,
				  SLOT(.gpa = GPA, .size = size, .memfd = memfd, .offset = offset));
	case OVER_MAPPING:
		return world_slot(world,
				  SLOT(.gpa = GPA, .size = size, .map = map, .offset = offset));
	default:
		return world_slot(world, SLOT(.gpa = GPA, .size = size,
					      .host = mmap(NULL, size, PROT_READ | PROT_WRITE,
							   flags, -1, 0)));
	}
}

START_TEST(discarded_pages_read_zero_in_the_guest)
{
	struct gmem_memfd *memfd;
	struct gmem_slot *slot;
	struct gmem_map *map;
	struct world world;
	uint32_t value;
	char *addr;

	NEED_WORLD_GUEST();
	if (!world_open(&world, 0))
		return;
	memfd = world_memfd(&world, 8);
	map = world_map(memfd);
	slot = make_slot(&world, _i, memfd, map);
	addr = gmem_slot_get_addr(slot);
	world_start_guest(&world, GPA);
	for (unsigned int i = 1; i < 4; i++)
		ck_assert_int_eq(guest_store(&world.guest, GPA + i * world.page, i), KVM_EXIT_HLT);
	assert_ok(gmem_vm_discard(world.vm, GPA + 2 * world.page, world.page));
	/* Of other memory the kernel may show more, such as a huge page, or less, what is swapped.
	 */
	if (_i == GUEST_MEMFD || _i == OVER_MAPPING)
		ck_assert_uint_eq(host_count_resident(addr, 4 * world.page), 3);
	for (unsigned int i = 1; i < 4; i++) {
		ck_assert_int_eq(guest_load(&world.guest, GPA + i * world.page, &value),
				 KVM_EXIT_HLT);
		ck_assert_uint_eq(value, i == 2 ? 0 : i);
	}
	gmem_slot_close(slot);
	gmem_map_close(map);
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

START_TEST(discard_spans_slots_or_does_nothing)
{
	struct gmem_vm *vm;
	struct pair pair;
	size_t page;
	char *low;

	if (!open_pair(&pair, 0))
		return;
	vm = pair.world.vm;
	page = pair.world.page;
	low = gmem_slot_get_addr(pair.low);
	memset(low, 1, 2 * page);
	memset(pair.memory, 1, 2 * page);
	assert_fails(gmem_vm_discard(vm, GPA, 5 * page), EFAULT, GPA_UNMAPPED);
	assert_fails(gmem_vm_discard(vm, GPA - page, 2 * page), EFAULT, GPA_UNMAPPED);
	assert_fails(gmem_vm_discard(vm, GPA, 0), EINVAL, RANGE_EMPTY);
	assert_fails(gmem_vm_discard(vm, GPA + 1, page), EINVAL, RANGE_UNALIGNED);
	assert_fails(gmem_vm_discard(vm, -(uint64_t)page, 2 * page), EOVERFLOW, RANGE_WRAPS);
	ck_assert_int_eq(low[0] + low[2 * page - 1] + pair.memory[0] + pair.memory[2 * page - 1],
			 4);
	assert_ok(gmem_vm_discard(vm, GPA + page, 2 * page));
	ck_assert_int_eq(low[page - 1], 1);
	ck_assert_int_eq(low[page] + low[2 * page - 1], 0);
	ck_assert_int_eq(pair.memory[0] + pair.memory[page - 1], 0);
	ck_assert_int_eq(pair.memory[page], 1);
	close_pair(&pair);
}
END_TEST

START_TEST(discard_refuses_what_would_come_back)
{
	struct gmem_slot *slot;
	struct world world;
	char *memory, *file;
	int fd;

	if (!world_open(&world, 0))
		return;
	fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	file = mmap(NULL, world.page, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	ck_assert_ptr_ne(file, MAP_FAILED);
	slot = world_slot(&world, SLOT(.gpa = GPA, .size = world.page, .host = file));
	file[0] = 1;
	assert_fails(gmem_vm_discard(world.vm, GPA, world.page), EOPNOTSUPP, DISCARD_UNSUPPORTED);
	ck_assert_int_eq(file[0], 1);
	gmem_slot_close(slot);
	memory = raw_map(-1, 0, world.page);
	slot = world_slot(&world, SLOT(.gpa = GPA, .size = world.page, .host = memory,
				       .flags = GMEM_SLOT_READONLY));
	memory[0] = 1;
	assert_fails(gmem_vm_discard(world.vm, GPA, world.page), EACCES, ACCESS_READONLY);
	ck_assert_int_eq(memory[0], 1);
	gmem_slot_close(slot);
	close(fd);
	world_close(&world);
}
END_TEST

/* ---- Fault-proof ---- */

START_TEST(fault_proof_access_answers_where_a_plain_one_faults)
{
	struct gmem_slot *slot;
	struct world world;
	char *memory, buf[16] = "";
	uint32_t u32;
	uint8_t u8;

	if (!world_open(&world, GMEM_VM_FAULT_PROOF))
		return;
	memory = raw_map(-1, 0, 2 * world.page);
	slot = world_slot(&world, SLOT(.gpa = GPA, .size = 2 * world.page, .host = memory));
	assert_ok(gmem_vm_write(world.vm, 0, GPA + world.page - 8, "0123456789abcde", 16));
	assert_ok(gmem_vm_read(world.vm, 0, GPA + world.page - 8, buf, 16));
	ck_assert_str_eq(buf, "0123456789abcde");
	assert_fails(gmem_vm_load_u8(world.vm, 0, GPA, &u8), EOPNOTSUPP, ACCESS_NOT_ATOMIC);
	assert_fails(gmem_vm_load_u32(world.vm, 0, GPA, &u32), EOPNOTSUPP, ACCESS_NOT_ATOMIC);
	assert_fails(gmem_vm_store_u64(world.vm, 0, GPA, 1), EOPNOTSUPP, ACCESS_NOT_ATOMIC);
	ck_assert_int_eq(memory[0], 0);

	ck_assert_int_eq(mprotect(memory + world.page, world.page, PROT_NONE), 0);
	assert_fails(gmem_vm_read(world.vm, 0, GPA + world.page, buf, 16), EFAULT, ACCESS_FAULT);
	assert_fails(gmem_vm_write(world.vm, 0, GPA + world.page, buf, 16), EFAULT, ACCESS_FAULT);
	memset(buf, 0, sizeof(buf));
	assert_fails(gmem_vm_read(world.vm, 0, GPA + world.page - 8, buf, 16), EFAULT,
		     ACCESS_FAULT);
	ck_assert_str_eq(buf, "01234567");
	gmem_slot_close(slot);
	munmap(memory, 2 * world.page);
	world_close(&world);
}
END_TEST

START_TEST(fault_proof_access_reaches_a_guest_memfd)
{
	struct gmem_memfd *memfd;
	struct gmem_slot *slot;
	struct world world;
	char buf[8] = "";

	if (!world_open(&world, GMEM_VM_FAULT_PROOF))
		return;
	memfd = world_memfd(&world, 1);
	slot = world_slot(&world, SLOT(.gpa = GPA, .size = world.page, .memfd = memfd));
	assert_ok(gmem_vm_write(world.vm, 0, GPA + 5, "proof", 6));
	assert_ok(gmem_vm_read(world.vm, 0, GPA + 5, buf, 6));
	ck_assert_str_eq(buf, "proof");
	ck_assert_str_eq((char *)gmem_slot_get_addr(slot) + 5, "proof");
	gmem_slot_close(slot);
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

/* ---- Threads ---- */

#define READERS	    2
#define CHURNED_MAX 256
#define MILLISECOND INT64_C(1000000)

/*
 * Pages that come and go, each a slot of its own, beside readers. Page i of the file holds the byte
 * i + 1 throughout; behind them, readers have a page each for themselves. Its slot is the last, so
 * that each that comes or goes moves it in the tables.
 */
struct stress {
	struct world world;
	unsigned int churned;
	bool adopt; /* tell the library of slots that the kernel is not asked for: far more of them
		     */
	struct gmem_memfd *memfd;
	struct gmem_map *map;
	struct gmem_slot *stable;
	_Atomic bool stop;
	_Atomic uint64_t reads, misses;
	_Atomic int wrong; /* the line */
};

#define STRESS_CHECK(condition)                                                                    \
	do {                                                                                       \
		if (!(condition))                                                                  \
			atomic_store(&stress->wrong, __LINE__);                                    \
	} while (0)

static unsigned char content(unsigned int i)
{
	return (unsigned char)(i + 1);
}

static uint64_t churned_gpa(const struct stress *stress, unsigned int i)
{
	return FAR + i * stress->world.page;
}

static void read_churned(struct stress *stress, unsigned int i)
{
	unsigned char bytes[64];
	void *addr;
	uint64_t len;
	int r = gmem_vm_read(stress->world.vm, 0, churned_gpa(stress, i) + 17, bytes,
			     sizeof(bytes));

	STRESS_CHECK(r == 0 || r == -EFAULT);
	for (size_t at = 0; r == 0 && at < sizeof(bytes); at++)
		STRESS_CHECK(bytes[at] == content(i));
	atomic_fetch_add(r == 0 ? &stress->reads : &stress->misses, 1);
	r = gmem_vm_translate(stress->world.vm, 0, churned_gpa(stress, i), 0, &len, &addr);
	STRESS_CHECK(r == -EFAULT || (r == 0 && len == stress->world.page));
	if (r == 0 && stress->adopt)
		STRESS_CHECK(addr ==
			     (char *)gmem_map_get_addr(stress->map) + i * stress->world.page);
}

/* A value written is the value read, whatever happens around it. */
static void use_stable(struct stress *stress, unsigned int reader, uint64_t value)
{
	uint64_t gpa = churned_gpa(stress, CHURNED_MAX + reader);
	struct gmem_vm *vm = stress->world.vm;
	uint64_t found = 0;

	STRESS_CHECK(gmem_vm_store_u64(vm, 0, gpa + 8, value) == 0);
	STRESS_CHECK(gmem_vm_load_u64(vm, 0, gpa + 8, &found) == 0 && found == value);
	STRESS_CHECK(gmem_vm_write(vm, 0, gpa + 65, &value, 8) == 0);
	STRESS_CHECK(gmem_vm_read(vm, 0, gpa + 65, &found, 8) == 0 && found == value);
}

struct reader {
	struct stress *stress;
	unsigned int number;
};

static void *run_reader(void *data)
{
	const struct reader *reader = data;
	uint64_t turn = 0;

	while (!atomic_load(&reader->stress->stop)) {
		read_churned(reader->stress, (unsigned int)(turn * 7 % reader->stress->churned));
		use_stable(reader->stress, reader->number, turn++);
	}
	return NULL;
}

static struct gmem_slot *make_churned(const struct stress *stress, unsigned int i, bool map)
{
	const struct world *world = &stress->world;
	struct gmem_slot *slot;

	if (!stress->adopt)
		return world_slot(world, SLOT(.gpa = churned_gpa(stress, i), .size = world->page,
					      .memfd = stress->memfd, .offset = i * world->page,
					      .map = map ? stress->map : NULL));
	assert_ok(gmem_slot_adopt(world->vm,
				  SLOT(.gpa = churned_gpa(stress, i), .size = world->page,
				       .map = stress->map, .offset = i * world->page,
				       .id = 1000 + i, .flags = GMEM_SLOT_FIXED_ID),
				  &slot));
	return slot;
}

/* No reader uses an address after its slot is gone, so reclaiming is allowed. */
static void churn(struct stress *stress, unsigned int round)
{
	struct gmem_slot *slots[CHURNED_MAX];

	for (unsigned int i = 0; i < stress->churned; i++)
		slots[i] = make_churned(stress, i, (round + i) % 2);
	for (unsigned int i = 0; i < stress->churned; i++) {
		if ((round + i) % 3 == 0)
			assert_ok(gmem_slot_delete(slots[i]));
		gmem_slot_close(slots[i]);
	}
	assert_ok(gmem_vm_reclaim(stress->world.vm, NULL));
}

static int64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000 * MILLISECOND + time.tv_nsec;
}

static bool open_stress(struct stress *stress, bool adopt)
{
	struct world *world = &stress->world;

	if (!world_open(world, 0))
		return false;
	stress->adopt = adopt;
	stress->churned = adopt ? CHURNED_MAX : 16;
	stress->memfd = world_memfd(world, stress->churned + READERS);
	stress->map = world_map(stress->memfd);
	stress->stable = world_slot(
		world, SLOT(.gpa = churned_gpa(stress, CHURNED_MAX), .size = READERS * world->page,
			    .memfd = stress->memfd, .offset = stress->churned * world->page,
			    .map = stress->map));
	for (unsigned int i = 0; i < stress->churned; i++)
		memset((char *)gmem_map_get_addr(stress->map) + i * world->page, content(i),
		       world->page);
	return true;
}

static void close_stress(struct stress *stress)
{
	gmem_slot_close(stress->stable);
	gmem_map_close(stress->map);
	gmem_memfd_close(stress->memfd);
	world_close(&stress->world);
}

/* Loop 0: slots in the kernel; 1: adopted ones. */
START_TEST(readers_run_beside_a_writer)
{
	struct stress stress = {0};
	struct reader readers[READERS];
	pthread_t threads[READERS];
	unsigned int rounds = 0;
	int64_t end;

	if (!open_stress(&stress, _i))
		return;
	for (unsigned int i = 0; i < READERS; i++) {
		readers[i] = (struct reader){.stress = &stress, .number = i};
		ck_assert_int_eq(pthread_create(&threads[i], NULL, run_reader, &readers[i]), 0);
	}
	for (end = now() + 1000 * MILLISECOND; now() < end; rounds++)
		churn(&stress, rounds);
	atomic_store(&stress.stop, true);
	for (unsigned int i = 0; i < READERS; i++)
		pthread_join(threads[i], NULL);
	ck_assert_msg(stress.wrong == 0, "line %d", stress.wrong);
	ck_assert_uint_gt(stress.reads, 0);
	ck_assert_uint_gt(stress.misses, 0);
	close_stress(&stress);
}
END_TEST

static TCase *make_case(Suite *suite, const char *name)
{
	TCase *tcase = tcase_create(name);

	suite_add_tcase(suite, tcase);
	return tcase;
}

static void add_guest(TCase *tcase)
{
	tcase_add_test(tcase, guest_runs_on_a_guest_memfd);
	tcase_add_test(tcase, guest_runs_on_a_guest_memfd_with_a_mapping);
	tcase_add_test(tcase, guest_runs_on_plain_memory);
	tcase_add_loop_test(tcase, read_only_slot_is_read_and_its_writes_exit, 0, 2);
	tcase_add_test(tcase, two_slots_of_one_file_and_a_third_over_both);
	tcase_add_test(tcase, loads_see_a_running_guest_count);
	tcase_add_test(tcase, store_releases_a_waiting_guest);
	tcase_add_test(tcase, discard_works_under_a_running_guest);
	tcase_add_loop_test(tcase, discarded_pages_read_zero_in_the_guest, 0, KINDS);
}

static void add_host(TCase *tcase)
{
	tcase_add_test(tcase, translate_tells_the_rest_of_the_slot);
	tcase_add_loop_test(tcase, copies_cross_from_slot_to_slot, 0, 2);
	tcase_add_test(tcase, copies_that_pass_the_end_copy_nothing);
	tcase_add_test(tcase, loads_and_stores_are_of_their_width);
	tcase_add_test(tcase, discard_spans_slots_or_does_nothing);
	tcase_add_test(tcase, discard_refuses_what_would_come_back);
	tcase_add_test(tcase, fault_proof_access_answers_where_a_plain_one_faults);
	tcase_add_test(tcase, fault_proof_access_reaches_a_guest_memfd);
	tcase_add_loop_test(tcase, readers_run_beside_a_writer, 0, 2);
}

int main(void)
{
	Suite *suite = suite_create("access");

	add_guest(make_case(suite, "guest"));
	add_host(make_case(suite, "host"));
	return harness_run(suite);
}
