/* SPDX-License-Identifier: MIT */
/* Which handle may be closed when: any, at any time; what lives on, and what is left behind. */
#include "fixture.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define GPA    UINT64_C(0x10000)
#define CODE   UINT64_C(0x4000000)
#define PAGES  4
#define COPIED (UINT64_C(32) << 20)

enum {
	CLOSE_VM,
	CLOSE_MEMFD,
	CLOSE_MAP,
	CLOSE_SLOT,
	HANDLES,
};
#define ORDERS 24

/* What the slot is made of. */
enum {
	FILE_AND_MAP, /* a guest_memfd slot with the caller's mapping */
	FILE_ALONE,   /* with the library's */
	MAP_ALONE,    /* an ordinary slot over the mapping */
	SHAPES,
};

/* One of each handle, and a guest in it. */
struct family {
	struct world world;
	struct gmem_memfd *memfd;
	struct gmem_map *map;
	struct gmem_slot *slot;
	char *addr; /* what the slot has of this process */
	size_t size;
};

static bool open_family(struct family *family, int shape)
{
	struct world *world = &family->world;

	if (!world_open(world, 0))
		return false;
	family->size = PAGES * world->page;
	family->memfd = world_memfd(world, PAGES);
	family->map = world_map(family->memfd);
	family->slot = world_slot(world, SLOT(.gpa = GPA, .size = family->size,
					      .memfd = shape == MAP_ALONE ? NULL : family->memfd,
					      .map = shape == FILE_ALONE ? NULL : family->map));
	family->addr = gmem_slot_get_addr(family->slot);
	return true;
}

static void close_one(struct family *family, int handle)
{
	switch (handle) {
	case CLOSE_VM:
		gmem_vm_close(family->world.vm);
		break;
	case CLOSE_MEMFD:
		gmem_memfd_close(family->memfd);
		break;
	case CLOSE_MAP:
		gmem_map_close(family->map);
		break;
	default:
		gmem_slot_close(family->slot);
	}
}

static void close_but(struct family *family, int handle)
{
	for (int i = 0; i < HANDLES; i++)
		if (i != handle)
			close_one(family, i);
}

static void assert_nothing_left(const struct family *family)
{
	traces_assert_same(&family->world.before);
	ck_assert_str_eq(host_perms(family->addr), "");
}

/* Order number n of the four: 0 is VM, memfd, map, slot. */
static void order_of(int n, int order[HANDLES])
{
	int left[HANDLES] = {CLOSE_VM, CLOSE_MEMFD, CLOSE_MAP, CLOSE_SLOT};

	for (int i = 0, ways = ORDERS; i < HANDLES; i++) {
		int pick;

		ways /= HANDLES - i;
		pick = n / ways;
		n %= ways;
		order[i] = left[pick];
		memmove(left + pick, left + pick + 1,
			(size_t)(HANDLES - i - pick - 1) * sizeof(left[0]));
	}
}

static void assert_slot_works(struct family *family, uint32_t value)
{
	uint32_t found;

	ck_assert_int_eq(guest_store(&family->world.guest, GPA + family->world.page, value),
			 KVM_EXIT_HLT);
	memcpy(&found, family->addr + family->world.page, sizeof(found));
	ck_assert_uint_eq(found, value);
	ck_assert_ptr_eq(gmem_slot_get_addr(family->slot), family->addr);
	ck_assert_uint_eq(gmem_slot_get_size(family->slot), family->size);
}

/* A guest whose code is in a slot of the test's own, and so outlives the family's. */
static char *start_guest_aside(struct world *world)
{
	char *code = raw_map(-1, 0, world->page);

	memcpy(code, guest_code, guest_code_size);
	ck_assert_int_eq(raw_set(world->fd, &(struct raw_region){.slot = 100,
								 .gpa = CODE,
								 .size = world->page,
								 .addr = (uintptr_t)code}),
			 0);
	guest_open(&world->guest, world->fd, CODE);
	return code;
}

static void close_in_order(int n, int shape)
{
	struct family family;
	struct guest *guest = &family.world.guest;
	int order[HANDLES];
	bool bound = true;
	uint32_t value;
	char *code;

	if (!open_family(&family, shape))
		return;
	code = start_guest_aside(&family.world);
	order_of(n, order);
	for (int i = 0; i < HANDLES; i++) {
		close_one(&family, order[i]);
		bound = bound && order[i] != CLOSE_SLOT;
		if (bound)
			assert_slot_works(&family, (uint32_t)i + 1);
	}
	/* The vCPU's descriptor alone holds the VM now, without the family's memory. */
	ck_assert_int_eq(guest_load(guest, GPA + family.world.page, &value), KVM_EXIT_MMIO);
	guest_close(guest);
	munmap(code, family.world.page);
	assert_nothing_left(&family);
}

START_TEST(guest_memfd_slot_with_a_map_closes_in_any_order)
{
	NEED_WORLD_GUEST();
	close_in_order(_i, FILE_AND_MAP);
}
END_TEST

START_TEST(guest_memfd_slot_closes_in_any_order)
{
	NEED_WORLD_GUEST();
	close_in_order(_i, FILE_ALONE);
}
END_TEST

START_TEST(slot_over_a_map_closes_in_any_order)
{
	NEED_WORLD_GUEST();
	close_in_order(_i, MAP_ALONE);
}
END_TEST

/* ---- Pairs ---- */

START_TEST(memfd_survives_vm)
{
	struct family family;
	struct gmem_map *map;

	if (!open_family(&family, FILE_AND_MAP))
		return;
	close_but(&family, CLOSE_MEMFD);
	assert_ok(gmem_memfd_allocate(family.memfd, 0, family.size));
	assert_ok(gmem_memfd_discard(family.memfd, 0, family.size));
	map = world_map(family.memfd);
	memset(gmem_map_get_addr(map), 1, family.size);
	gmem_map_close(map);
	gmem_memfd_close(family.memfd);
	assert_nothing_left(&family);
}
END_TEST

static void assert_map_survives(const int *closed, size_t count)
{
	struct family family;
	char *addr;

	if (!open_family(&family, FILE_ALONE))
		return;
	addr = gmem_map_get_addr(family.map);
	for (size_t i = 0; i < count; i++)
		close_one(&family, closed[i]);
	assert_ok(gmem_map_populate(family.map, 0, family.size, 1));
	addr[0] = 5;
	ck_assert_int_eq(addr[0], 5);
	for (int i = 0; i < HANDLES; i++) {
		bool done = false;

		for (size_t j = 0; j < count; j++)
			done = done || closed[j] == i;
		if (!done)
			close_one(&family, i);
	}
	ck_assert_str_eq(host_perms(addr), "");
	assert_nothing_left(&family);
}

START_TEST(map_survives_memfd)
{
	assert_map_survives((const int[]){CLOSE_MEMFD}, 1);
}
END_TEST

START_TEST(map_survives_vm)
{
	assert_map_survives((const int[]){CLOSE_VM}, 1);
}
END_TEST

START_TEST(map_survives_slot)
{
	assert_map_survives((const int[]){CLOSE_SLOT}, 1);
}
END_TEST

START_TEST(map_survives_all)
{
	assert_map_survives((const int[]){CLOSE_SLOT, CLOSE_VM, CLOSE_MEMFD}, 3);
}
END_TEST

static void assert_slot_survives(int closed)
{
	struct family family;

	if (!open_family(&family, FILE_AND_MAP))
		return;
	world_start_guest(&family.world, GPA);
	close_one(&family, closed);
	assert_slot_works(&family, 77);
	assert_ok(gmem_slot_delete(family.slot));
	for (int i = 0; i < HANDLES; i++)
		if (i != closed)
			close_one(&family, i);
	guest_close(&family.world.guest);
	assert_nothing_left(&family);
}

START_TEST(slot_survives_vm)
{
	NEED_WORLD_GUEST();
	assert_slot_survives(CLOSE_VM);
}
END_TEST

START_TEST(slot_survives_memfd)
{
	NEED_WORLD_GUEST();
	assert_slot_survives(CLOSE_MEMFD);
}
END_TEST

START_TEST(slot_survives_map)
{
	NEED_WORLD_GUEST();
	assert_slot_survives(CLOSE_MAP);
}
END_TEST

/* What the VMM maps next must not be what the guest writes to. */
START_TEST(guest_keeps_its_memory_when_the_map_is_closed)
{
	struct family family;
	char *next[16];
	void *found;

	NEED_WORLD_GUEST();
	if (!open_family(&family, FILE_AND_MAP))
		return;
	world_start_guest(&family.world, GPA);
	gmem_map_close(family.map);
	gmem_memfd_close(family.memfd);
	for (size_t i = 0; i < 16; i++)
		next[i] = raw_map(-1, 0, family.size);
	assert_slot_works(&family, 99);
	for (size_t i = 0; i < 16; i++) {
		ck_assert_int_eq(next[i][family.world.page], 0);
		munmap(next[i], family.size);
	}
	assert_ok(gmem_vm_translate(family.world.vm, 0, GPA, GMEM_PROT_WRITE, NULL, &found));
	ck_assert_ptr_eq(found, family.addr);
	ck_assert_str_eq(host_perms(found), "rw-s");
	gmem_slot_close(family.slot);
	world_close(&family.world);
}
END_TEST

START_TEST(memfd_without_a_vm_closes_before_and_after_its_map)
{
	struct gmem_memfd *memfd, *opened;
	struct gmem_map *map;
	struct world world;
	char *addr;

	if (!world_open_guest_memfd(&world))
		return;
	memfd = world_memfd(&world, 1);
	assert_ok(gmem_memfd_open_fd(NULL, gmem_memfd_get_fd(memfd), &opened));
	gmem_memfd_close(memfd);
	gmem_vm_close(world.vm);
	map = world_map(opened);
	addr = gmem_map_get_addr(map);
	if (_i)
		gmem_memfd_close(opened);
	*addr = 1;
	gmem_map_close(map);
	if (!_i)
		gmem_memfd_close(opened);
	ck_assert_str_eq(host_perms(addr), "");
	traces_assert_same(&world.before);
}
END_TEST

/* ---- Addresses after the end ---- */

static sigjmp_buf back;

static void jump_back(int signal)
{
	siglongjmp(back, signal);
}

/* The signal that a read in this very process raises, or 0. */
static int touch(const volatile char *addr)
{
	struct sigaction action = {.sa_handler = jump_back}, segv, bus;
	int signal;

	ck_assert_int_eq(sigaction(SIGSEGV, &action, &segv), 0);
	ck_assert_int_eq(sigaction(SIGBUS, &action, &bus), 0);
	signal = sigsetjmp(back, 1);
	if (signal == 0)
		(void)*addr;
	ck_assert_int_eq(sigaction(SIGSEGV, &segv, NULL), 0);
	ck_assert_int_eq(sigaction(SIGBUS, &bus, NULL), 0);
	return signal;
}

static void *map_at(void *addr, size_t size)
{
	return mmap(addr, size, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
}

/* However often the VMM maps something, and even if it asks for the address. */
static void assert_never_mapped_again(char *addr, size_t size)
{
	void *maps[200];

	ck_assert_ptr_eq(map_at(addr, size), MAP_FAILED);
	ck_assert_int_eq(errno, EEXIST);
	for (size_t i = 0; i < 200; i++) {
		maps[i] = mmap(addr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			       0);
		ck_assert((char *)maps[i] + size <= addr || (char *)maps[i] >= addr + size);
	}
	for (size_t i = 0; i < 200; i++)
		munmap(maps[i], size);
}

START_TEST(stale_address_faults_until_it_is_reclaimed)
{
	struct family family;
	uint64_t bytes = 1;
	void *found;

	if (!open_family(&family, _i))
		return;
	assert_ok(gmem_vm_translate(family.world.vm, 0, GPA, 0, NULL, &found));
	ck_assert_ptr_eq(found, family.addr);
	*(char *)found = 1;
	gmem_slot_close(family.slot);
	gmem_map_close(family.map);
	gmem_memfd_close(family.memfd);

	ck_assert_int_eq(touch(found), SIGSEGV);
	ck_assert_int_eq(touch((char *)found + family.size - 1), SIGSEGV);
	ck_assert_str_eq(host_perms(found), "---p");
	ck_assert_int_eq(traces_get().files, family.world.before.files);
	assert_never_mapped_again(found, family.size);

	assert_ok(gmem_vm_reclaim(family.world.vm, &bytes));
	ck_assert_uint_eq(bytes, family.size);
	ck_assert_ptr_eq(map_at(found, family.size), found);
	munmap(found, family.size);
	assert_ok(gmem_vm_reclaim(family.world.vm, &bytes));
	ck_assert_uint_eq(bytes, 0);
	world_close(&family.world);
}
END_TEST

/* While somebody has the mapping, its memory is no stale address. */
START_TEST(address_stays_good_while_slot_or_map_lives)
{
	struct family family;
	uint64_t bytes;

	if (!open_family(&family, FILE_AND_MAP))
		return;
	if (_i) {
		gmem_map_close(family.map);
		assert_ok(gmem_slot_delete(family.slot)); /* its handle still has the mapping */
	} else {
		gmem_slot_close(family.slot);
	}
	ck_assert_int_eq(touch(family.addr), 0);
	assert_ok(gmem_vm_reclaim(family.world.vm, &bytes));
	ck_assert_uint_eq(bytes, 0);
	ck_assert_int_eq(touch(family.addr), 0);
	if (_i)
		gmem_slot_close(family.slot);
	else
		gmem_map_close(family.map);
	ck_assert_int_eq(touch(family.addr), SIGSEGV);
	gmem_memfd_close(family.memfd);
	world_close(&family.world);
	ck_assert_str_eq(host_perms(family.addr), "");
}
END_TEST

START_TEST(replaced_memory_is_a_stale_address)
{
	const struct gmem_replace_opts replace = {.sz = sizeof(replace),
						  .flags = GMEM_REPLACE_NO_VCPUS};
	struct family family;
	uint64_t bytes;

	if (!open_family(&family, FILE_ALONE))
		return;
	family.addr[0] = 7;
	assert_ok(gmem_slot_replace(
		family.slot, SLOT(.gpa = 2 * GPA, .size = family.size, .memfd = family.memfd),
		&replace));
	ck_assert_ptr_ne(gmem_slot_get_addr(family.slot), family.addr);
	ck_assert_int_eq(*(char *)gmem_slot_get_addr(family.slot), 7);
	ck_assert_int_eq(touch(family.addr), SIGSEGV);
	ck_assert_str_eq(host_perms(family.addr), "---p");
	assert_ok(gmem_vm_reclaim(family.world.vm, &bytes));
	ck_assert_uint_eq(bytes, family.size);
	for (int i = 0; i < HANDLES; i++)
		close_one(&family, i);
	assert_nothing_left(&family);
}
END_TEST

/* A mapping that no slot has used is nobody's address to be late with. */
START_TEST(unused_mapping_is_unmapped_at_once)
{
	struct gmem_memfd *memfd;
	struct gmem_map *map;
	struct world world;
	uint64_t bytes;
	void *addr;

	if (!world_open(&world, 0))
		return;
	memfd = world_memfd(&world, 1);
	map = world_map(memfd);
	addr = gmem_map_get_addr(map);
	gmem_map_close(map);
	ck_assert_str_eq(host_perms(addr), "");
	assert_ok(gmem_vm_reclaim(world.vm, &bytes));
	ck_assert_uint_eq(bytes, 0);
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

START_TEST(null_can_be_closed)
{
	gmem_slot_close(NULL);
	gmem_map_close(NULL);
	gmem_memfd_close(NULL);
	gmem_vm_close(NULL);
}
END_TEST

/* ---- Memory and copies ---- */

START_TEST(memory_outlives_its_slot)
{
	struct gmem_slot *slot, *code;
	struct gmem_memfd *memfd;
	struct world world;
	uint32_t value;

	NEED_WORLD_GUEST();
	if (!world_open(&world, 0))
		return;
	memfd = world_memfd(&world, 4);
	code = world_slot(&world, SLOT(.gpa = CODE, .size = world.page, .memfd = memfd));
	slot = world_slot(
		&world, SLOT(.gpa = GPA, .size = world.page, .memfd = memfd, .offset = world.page));
	world_start_guest(&world, CODE);
	ck_assert_int_eq(guest_store(&world.guest, GPA + 4, 123), KVM_EXIT_HLT);
	assert_ok(gmem_slot_delete(slot));
	ck_assert_int_eq(guest_load(&world.guest, GPA + 4, &value), KVM_EXIT_MMIO);
	gmem_slot_close(slot);
	slot = world_slot(&world, SLOT(.gpa = 2 * GPA, .size = world.page, .memfd = memfd,
				       .offset = world.page));
	ck_assert_int_eq(guest_load(&world.guest, 2 * GPA + 4, &value), KVM_EXIT_HLT);
	ck_assert_uint_eq(value, 123);
	gmem_slot_close(slot);
	gmem_slot_close(code);
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

struct copier {
	struct gmem_vm *vm;
	unsigned char *to;
	size_t size;
	int result;
	_Atomic bool started;
};

static void *copy(void *data)
{
	struct copier *copier = data;

	atomic_store(&copier->started, true);
	copier->result = gmem_vm_read(copier->vm, 0, GPA, copier->to, copier->size);
	return NULL;
}

/* Close the slot, and so unmap its memory, long before so many bytes are copied. */
static int copy_and_close(struct copier *copier, struct gmem_slot *slot, bool delete)
{
	pthread_t thread;

	memset(gmem_slot_get_addr(slot), 3, COPIED);
	atomic_store(&copier->started, false);
	ck_assert_int_eq(pthread_create(&thread, NULL, copy, copier), 0);
	while (!atomic_load(&copier->started))
		sched_yield();
	usleep(500);
	if (delete)
		assert_ok(gmem_slot_delete(slot));
	gmem_slot_close(slot);
	pthread_join(thread, NULL);
	return copier->result;
}

START_TEST(copy_survives_slot)
{
	struct copier copier = {.size = COPIED};
	struct gmem_memfd *memfd;
	struct world world;
	int r = -EFAULT;

	if (!world_open(&world, 0))
		return;
	memfd = world_memfd(&world, COPIED / world.page);
	copier.vm = world.vm;
	copier.to = raw_map(-1, 0, COPIED);
	/* On a busy machine the copy may begin too late, when the slot is gone. */
	for (int tries = 0; r == -EFAULT && tries < 20; tries++)
		r = copy_and_close(
			&copier,
			world_slot(&world, SLOT(.gpa = GPA, .size = COPIED, .memfd = memfd)), _i);
	ck_assert_int_eq(r, 0);
	for (size_t i = 0; i < COPIED; i += world.page / 2)
		ck_assert_int_eq(copier.to[i], 3);
	munmap(copier.to, COPIED);
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

/* ---- All of it, many times ---- */

START_TEST(many_rounds_leave_nothing)
{
	struct traces before;
	struct family family;
	int order[HANDLES];

	if (!open_family(&family, FILE_AND_MAP))
		return;
	before = family.world.before;
	for (int i = 0; i < HANDLES; i++)
		close_one(&family, i);
	for (int round = 0; round < SHAPES * ORDERS; round++) {
		if (!open_family(&family, round / ORDERS))
			return;
		order_of(round % ORDERS, order);
		for (int i = 0; i < HANDLES; i++)
			close_one(&family, order[i]);
	}
	traces_assert_same(&before);
}
END_TEST

static TCase *make_case(Suite *suite, const char *name)
{
	TCase *tcase = tcase_create(name);

	suite_add_tcase(suite, tcase);
	return tcase;
}

static void add_orders(TCase *tcase)
{
	tcase_add_loop_test(tcase, guest_memfd_slot_with_a_map_closes_in_any_order, 0, ORDERS);
	tcase_add_loop_test(tcase, guest_memfd_slot_closes_in_any_order, 0, ORDERS);
	tcase_add_loop_test(tcase, slot_over_a_map_closes_in_any_order, 0, ORDERS);
	tcase_add_test(tcase, many_rounds_leave_nothing);
	tcase_add_test(tcase, null_can_be_closed);
}

static void add_pairs(TCase *tcase)
{
	tcase_add_test(tcase, memfd_survives_vm);
	tcase_add_test(tcase, map_survives_memfd);
	tcase_add_test(tcase, map_survives_vm);
	tcase_add_test(tcase, map_survives_slot);
	tcase_add_test(tcase, map_survives_all);
	tcase_add_test(tcase, slot_survives_vm);
	tcase_add_test(tcase, slot_survives_memfd);
	tcase_add_test(tcase, slot_survives_map);
	tcase_add_test(tcase, guest_keeps_its_memory_when_the_map_is_closed);
	tcase_add_loop_test(tcase, memfd_without_a_vm_closes_before_and_after_its_map, 0, 2);
}

static void add_addresses(TCase *tcase)
{
	tcase_add_loop_test(tcase, stale_address_faults_until_it_is_reclaimed, 0, SHAPES);
	tcase_add_loop_test(tcase, address_stays_good_while_slot_or_map_lives, 0, 2);
	tcase_add_test(tcase, replaced_memory_is_a_stale_address);
	tcase_add_test(tcase, unused_mapping_is_unmapped_at_once);
	tcase_add_test(tcase, memory_outlives_its_slot);
	tcase_add_loop_test(tcase, copy_survives_slot, 0, 2);
}

int main(void)
{
	Suite *suite = suite_create("lifetime");

	add_orders(make_case(suite, "orders"));
	add_pairs(make_case(suite, "pairs"));
	add_addresses(make_case(suite, "addresses"));
	return harness_run(suite);
}
