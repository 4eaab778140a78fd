/* SPDX-License-Identifier: MIT */
/* gmem_slot on a real KVM: what a guest sees, and what is refused. */
#include "refusals.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define GPA UINT64_C(0x10000)
#define FAR UINT64_C(0x4000000)

static uint32_t logged_pages(const struct world *world, uint32_t slot)
{
	uint64_t bits = 0;
	struct kvm_dirty_log log = {.slot = slot, .dirty_bitmap = &bits};

	ck_assert_int_eq(ioctl(world->fd, KVM_GET_DIRTY_LOG, &log), 0);
	return (uint32_t)bits;
}

/* ---- What slots are made of ---- */

START_TEST(getters_tell_what_was_set)
{
	struct gmem_memfd *memfd;
	struct gmem_slot *slot;
	struct gmem_map *map;
	struct world world;

	if (!world_open(&world, 0))
		return;
	memfd = world_memfd(&world, 8);
	map = world_map(memfd);
	slot = world_slot(&world,
			  SLOT(.gpa = GPA, .size = 2 * world.page, .map = map, .offset = world.page,
			       .id = 17, .flags = GMEM_SLOT_FIXED_ID | GMEM_SLOT_LOG_DIRTY));
	ck_assert_uint_eq(gmem_slot_get_id(slot), 17);
	ck_assert_uint_eq(gmem_slot_get_as_id(slot), 0);
	ck_assert_uint_eq(gmem_slot_get_gpa(slot), GPA);
	ck_assert_uint_eq(gmem_slot_get_size(slot), 2 * world.page);
	ck_assert_uint_eq(gmem_slot_get_offset(slot), world.page);
	ck_assert_uint_eq(gmem_slot_get_flags(slot), GMEM_SLOT_LOG_DIRTY);
	ck_assert_ptr_eq(gmem_slot_get_addr(slot), (char *)gmem_map_get_addr(map) + world.page);
	/* The kernel has it under this id. */
	ck_assert_int_eq(raw_delete(world.fd, 17), 0);
	ck_assert_int_eq(raw_delete(world.fd, 17), -EINVAL);
	gmem_slot_close(slot);
	gmem_map_close(map);
	gmem_memfd_close(memfd);
	gmem_vm_close(world.vm);
}
END_TEST

START_TEST(dirty_log_over_the_mapping_sees_guest_writes)
{
	struct gmem_memfd *memfd;
	struct gmem_slot *slot;
	struct gmem_map *map;
	struct world world;
	uint32_t value;

	NEED_WORLD_GUEST();
	if (!world_open(&world, 0))
		return;
	memfd = world_memfd(&world, 8);
	map = world_map(memfd);
	slot = world_slot(&world, SLOT(.gpa = GPA, .size = 8 * world.page, .map = map,
				       .flags = GMEM_SLOT_LOG_DIRTY));
	world_start_guest(&world, GPA);
	/* A page that the guest reads first may be mapped writable, and then counts as written. */
	ck_assert_int_eq(guest_load(&world.guest, GPA + 4 * world.page, &value), KVM_EXIT_HLT);
	logged_pages(&world, gmem_slot_get_id(slot));
	ck_assert_uint_eq(logged_pages(&world, gmem_slot_get_id(slot)), 0);
	ck_assert_int_eq(guest_store(&world.guest, GPA + 3 * world.page, 1), KVM_EXIT_HLT);
	ck_assert_int_eq(guest_load(&world.guest, GPA + 4 * world.page, &value), KVM_EXIT_HLT);
	ck_assert_uint_eq(logged_pages(&world, gmem_slot_get_id(slot)), 1U << 3);
	ck_assert_int_eq(*((char *)gmem_map_get_addr(map) + 3 * world.page), 1);
	gmem_slot_close(slot);
	gmem_map_close(map);
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

START_TEST(dirty_log_can_be_turned_on_and_off)
{
	struct kvm_dirty_log log = {0};
	struct gmem_slot *slot;
	struct world world;
	uint32_t value;
	uint64_t bits;
	char *memory;

	NEED_WORLD_GUEST();
	if (!world_open(&world, 0))
		return;
	memory = raw_map(-1, 0, 4 * world.page);
	slot = world_slot(&world, SLOT(.gpa = GPA, .size = 4 * world.page, .host = memory));
	world_start_guest(&world, GPA);
	/* The page of the code: what is read first while the log is on may count as written. */
	ck_assert_int_eq(guest_load(&world.guest, GPA, &value), KVM_EXIT_HLT);
	log.slot = gmem_slot_get_id(slot);
	log.dirty_bitmap = &bits;
	ck_assert_int_eq(ioctl(world.fd, KVM_GET_DIRTY_LOG, &log), -1);
	assert_ok(gmem_slot_set_flags(slot, GMEM_SLOT_LOG_DIRTY));
	ck_assert_uint_eq(gmem_slot_get_flags(slot), GMEM_SLOT_LOG_DIRTY);
	ck_assert_int_eq(guest_store(&world.guest, GPA + world.page, 1), KVM_EXIT_HLT);
	ck_assert_uint_eq(logged_pages(&world, log.slot), 1U << 1);
	assert_ok(gmem_slot_set_flags(slot, 0));
	ck_assert_int_eq(ioctl(world.fd, KVM_GET_DIRTY_LOG, &log), -1);
	ck_assert_int_eq(memory[world.page], 1);
	assert_fails(gmem_slot_set_flags(slot, GMEM_SLOT_READONLY), EINVAL, CONFLICT);
	assert_fails(gmem_slot_set_flags(slot, 4), EINVAL, FLAGS_UNKNOWN);
	gmem_slot_close(slot);
	munmap(memory, 4 * world.page);
	world_close(&world);
}
END_TEST

/* It takes what no slot of a guest_memfd takes: a log, and pages that another slot has. */
START_TEST(slot_of_the_fallback_is_an_ordinary_one)
{
	struct gmem_slot *slot, *again, *fixed;
	struct gmem_memfd *memfd;
	struct world world;
	uint32_t value;

	NEED_WORLD_GUEST();
	if (!world_open(&world, 0))
		return;
	if (!world.fallback)
		SKIP_WORLD(&world, "this VM has guest_memfd, so nothing stands in for it");
	if (raw_cap(world.fd, KVM_CAP_READONLY_MEM) <= 0)
		SKIP_WORLD(&world, "this VM has no read-only slots");
	memfd = world_memfd(&world, 4);
	slot = world_slot(&world, SLOT(.gpa = GPA, .size = 4 * world.page, .memfd = memfd));
	again = world_slot(&world, SLOT(.gpa = FAR, .size = 2 * world.page, .memfd = memfd,
					.offset = 2 * world.page, .flags = GMEM_SLOT_LOG_DIRTY));
	fixed = world_slot(&world, SLOT(.gpa = 2 * FAR, .size = world.page, .memfd = memfd,
					.offset = 3 * world.page, .flags = GMEM_SLOT_READONLY));
	world_start_guest(&world, GPA);
	ck_assert_int_eq(guest_store(&world.guest, FAR + world.page, 5), KVM_EXIT_HLT);
	ck_assert_uint_eq(logged_pages(&world, gmem_slot_get_id(again)), 1U << 1);
	ck_assert_int_eq(guest_load(&world.guest, 2 * FAR, &value), KVM_EXIT_HLT);
	ck_assert_uint_eq(value, 5);
	ck_assert_int_eq(guest_store(&world.guest, 2 * FAR, 6), KVM_EXIT_MMIO);
	assert_ok(gmem_vm_load_u32(world.vm, 0, GPA + 3 * world.page, &value));
	ck_assert_uint_eq(value, 5);
	gmem_slot_close(fixed);
	gmem_slot_close(again);
	gmem_slot_close(slot);
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

/* ---- Adopt ---- */

START_TEST(adopted_slot_is_known_and_never_touched)
{
	struct raw_region own = {.slot = 40, .gpa = GPA};
	struct gmem_slot *slot, *other;
	struct gmem_memfd *memfd;
	struct gmem_map *map;
	struct world world;
	void *addr;

	if (!world_open(&world, 0))
		return;
	memfd = world_memfd(&world, 4);
	map = world_map(memfd);
	own.flags = world.fallback ? 0 : RAW_GUEST_MEMFD;
	own.size = 2 * world.page;
	own.offset = world.page;
	own.addr = (uintptr_t)gmem_map_get_addr(map) + world.page;
	own.memfd = (uint32_t)gmem_memfd_get_fd(memfd);
	ck_assert_int_eq(raw_set(world.fd, &own), 0);
	host_forbid_ioctl(RAW_SET_USER_MEMORY_REGION);
	assert_ok(gmem_slot_adopt(world.vm,
				  SLOT(.gpa = GPA, .size = 2 * world.page, .memfd = memfd,
				       .offset = world.page, .map = map, .id = 40,
				       .flags = GMEM_SLOT_FIXED_ID),
				  &slot));
	assert_ok(gmem_vm_translate(world.vm, 0, GPA, GMEM_PROT_WRITE, NULL, &addr));
	ck_assert_uint_eq((uintptr_t)addr, own.addr);
	assert_fails(gmem_slot_create(world.vm,
				      SLOT(.gpa = GPA + world.page, .size = world.page, .map = map),
				      &other),
		     EEXIST, GPA_OVERLAP);
	assert_fails(gmem_slot_create(world.vm,
				      SLOT(.gpa = FAR, .size = world.page, .map = map, .id = 40,
					   .flags = GMEM_SLOT_FIXED_ID),
				      &other),
		     EPERM, ID_NOT_GRANTED);
	if (!world.fallback)
		assert_fails(gmem_slot_create(world.vm,
					      SLOT(.gpa = FAR, .size = world.page, .memfd = memfd,
						   .offset = 2 * world.page),
					      &other),
			     EEXIST, MEMFD_OVERLAP);
	assert_fails(gmem_slot_set_flags(slot, 0), EPERM, SLOT_ADOPTED);
	assert_ok(gmem_slot_delete(slot));
	assert_fails(gmem_vm_translate(world.vm, 0, GPA, 0, NULL, &addr), EFAULT, GPA_UNMAPPED);
	gmem_slot_close(slot);
	gmem_map_close(map);
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

START_TEST(adopted_slot_stays_in_the_kernel)
{
	struct raw_region own = {.slot = 40, .gpa = GPA};
	struct gmem_slot *slot;
	struct world world;
	void *memory;

	if (!world_open(&world, 0))
		return;
	memory = raw_map(-1, 0, world.page);
	own.size = world.page;
	own.addr = (uintptr_t)memory;
	ck_assert_int_eq(raw_set(world.fd, &own), 0);
	assert_ok(gmem_slot_adopt(world.vm,
				  SLOT(.gpa = GPA, .size = world.page, .host = memory, .id = 40,
				       .flags = GMEM_SLOT_FIXED_ID),
				  &slot));
	gmem_slot_close(slot);
	/* The id stays the VMM's, and so does the slot. */
	assert_fails(gmem_slot_create(world.vm,
				      SLOT(.gpa = FAR, .size = world.page, .host = memory, .id = 40,
					   .flags = GMEM_SLOT_FIXED_ID),
				      &slot),
		     EPERM, ID_NOT_GRANTED);
	ck_assert_int_eq(raw_delete(world.fd, 40), 0);
	munmap(memory, world.page);
	world_close(&world);
}
END_TEST

/* ---- Replace ---- */

struct stops {
	struct gmem_slot *slot;
	int quiesced, resumed;
	int inside; /* what a changing call from quiesce got */
	int answer;
};

static int stop(void *data)
{
	struct stops *stops = data;

	ck_assert_int_eq(stops->quiesced, stops->resumed);
	stops->quiesced++;
	stops->inside = gmem_slot_delete(stops->slot);
	return stops->answer;
}

static void go_on(void *data)
{
	struct stops *stops = data;

	stops->resumed++;
	ck_assert_int_eq(stops->quiesced, stops->resumed);
}

#define REPLACE(...)                                                                               \
	(&(const struct gmem_replace_opts){.sz = sizeof(struct gmem_replace_opts), __VA_ARGS__})

START_TEST(replace_gives_the_guest_other_memory)
{
	struct gmem_memfd *memfd, *other;
	struct gmem_slot *slot, *code;
	struct stops stops = {0};
	struct world world;
	uint32_t value, id;

	NEED_WORLD_GUEST();
	if (!world_open(&world, 0))
		return;
	memfd = world_memfd(&world, 4);
	other = world_memfd(&world, 4);
	code = world_slot(&world, SLOT(.gpa = FAR, .size = world.page, .memfd = memfd));
	slot = world_slot(
		&world, SLOT(.gpa = GPA, .size = world.page, .memfd = memfd, .offset = world.page));
	world_start_guest(&world, FAR);
	ck_assert_int_eq(guest_store(&world.guest, GPA, 1), KVM_EXIT_HLT);
	id = gmem_slot_get_id(slot);
	stops.slot = slot;
	assert_ok(gmem_slot_replace(slot, SLOT(.gpa = GPA, .size = 2 * world.page, .memfd = other),
				    REPLACE(.quiesce = stop, .resume = go_on, .data = &stops)));
	ck_assert_int_eq(stops.quiesced, 1);
	ck_assert_int_eq(stops.resumed, 1);
	ck_assert_int_eq(stops.inside, -EDEADLK);
	ck_assert_uint_eq(gmem_slot_get_id(slot), id);
	ck_assert_uint_eq(gmem_slot_get_size(slot), 2 * world.page);
	ck_assert_int_eq(guest_load(&world.guest, GPA, &value), KVM_EXIT_HLT);
	ck_assert_uint_eq(value, 0);
	ck_assert_int_eq(guest_store(&world.guest, GPA + world.page, 66), KVM_EXIT_HLT);
	ck_assert_int_eq(*((char *)gmem_slot_get_addr(slot) + world.page), 66);
	/* The old memory can be bound again. */
	gmem_slot_close(code);
	code = world_slot(&world, SLOT(.gpa = FAR, .size = 4 * world.page, .memfd = memfd));
	gmem_slot_close(slot);
	gmem_slot_close(code);
	gmem_memfd_close(other);
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

START_TEST(replace_can_move_a_slot_over_itself)
{
	struct gmem_memfd *memfd;
	struct gmem_slot *slot;
	struct world world;
	uint32_t value;
	void *addr;

	if (!world_open(&world, 0))
		return;
	memfd = world_memfd(&world, 4);
	slot = world_slot(&world, SLOT(.gpa = GPA, .size = 4 * world.page, .memfd = memfd));
	assert_ok(gmem_vm_store_u32(world.vm, 0, GPA, 55));
	assert_ok(gmem_slot_replace(
		slot, SLOT(.gpa = GPA + world.page, .size = 4 * world.page, .memfd = memfd),
		REPLACE(.flags = GMEM_REPLACE_NO_VCPUS)));
	assert_ok(gmem_vm_load_u32(world.vm, 0, GPA + world.page, &value));
	ck_assert_uint_eq(value, 55);
	assert_fails(gmem_vm_translate(world.vm, 0, GPA, 0, NULL, &addr), EFAULT, GPA_UNMAPPED);
	gmem_slot_close(slot);
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

START_TEST(replace_that_is_refused_changes_nothing)
{
	struct stops stops = {.answer = -ETIMEDOUT};
	struct gmem_slot *slot, *other;
	struct gmem_memfd *memfd;
	struct world world;
	uint32_t value;

	if (!world_open(&world, 0))
		return;
	memfd = world_memfd(&world, 4);
	slot = world_slot(&world, SLOT(.gpa = GPA, .size = world.page, .memfd = memfd));
	other = world_slot(
		&world, SLOT(.gpa = FAR, .size = world.page, .memfd = memfd, .offset = world.page));
	stops.slot = slot;
	assert_ok(gmem_vm_store_u32(world.vm, 0, GPA, 55));
	assert_fails(gmem_slot_replace(slot,
				       SLOT(.gpa = 2 * GPA, .size = world.page, .memfd = memfd),
				       REPLACE()),
		     EBUSY, NEEDS_QUIESCE);
	assert_fails(gmem_slot_replace(slot,
				       SLOT(.gpa = 2 * GPA, .size = world.page, .memfd = memfd),
				       REPLACE(.quiesce = stop)),
		     EINVAL, CONFLICT);
	assert_fails(gmem_slot_replace(slot, SLOT(.gpa = FAR, .size = world.page, .memfd = memfd),
				       REPLACE(.quiesce = stop, .resume = go_on, .data = &stops)),
		     EEXIST, GPA_OVERLAP);
	ck_assert_int_eq(stops.quiesced, 0);
	assert_fails(gmem_slot_replace(slot,
				       SLOT(.gpa = 2 * GPA, .size = world.page, .memfd = memfd),
				       REPLACE(.quiesce = stop, .resume = go_on, .data = &stops)),
		     ETIMEDOUT, QUIESCE_FAILED);
	ck_assert_int_eq(stops.resumed, 0);
	assert_ok(gmem_vm_load_u32(world.vm, 0, GPA, &value));
	ck_assert_uint_eq(value, 55);
	gmem_slot_close(other);
	gmem_slot_close(slot);
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

/* The kernel knows of a slot in the new place, the library does not. */
START_TEST(replace_that_the_kernel_refuses_sets_the_old_slot_again)
{
	struct raw_region own = {.slot = 40, .gpa = FAR};
	struct stops stops = {0};
	struct gmem_memfd *memfd;
	struct gmem_slot *slot;
	struct world world;
	uint32_t value;

	NEED_WORLD_GUEST();
	if (!world_open(&world, 0))
		return;
	memfd = world_memfd(&world, 4);
	slot = world_slot(&world, SLOT(.gpa = GPA, .size = 2 * world.page, .memfd = memfd));
	world_start_guest(&world, GPA);
	ck_assert_int_eq(guest_store(&world.guest, GPA + world.page, 55), KVM_EXIT_HLT);
	own.size = world.page;
	own.addr = (uintptr_t)raw_map(-1, 0, world.page);
	ck_assert_int_eq(raw_set(world.fd, &own), 0);
	stops.slot = slot;
	assert_fails(gmem_slot_replace(slot, SLOT(.gpa = FAR, .size = world.page, .memfd = memfd),
				       REPLACE(.quiesce = stop, .resume = go_on, .data = &stops)),
		     EEXIST, GPA_OVERLAP);
	ck_assert_int_eq(stops.resumed, 1);
	ck_assert_uint_eq(gmem_slot_get_gpa(slot), GPA);
	ck_assert_int_eq(guest_load(&world.guest, GPA + world.page, &value), KVM_EXIT_HLT);
	ck_assert_uint_eq(value, 55);
	assert_ok(gmem_vm_load_u32(world.vm, 0, GPA + world.page, &value));
	ck_assert_uint_eq(value, 55);
	gmem_slot_close(slot);
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

/* ---- Ids, identity, many ---- */

START_TEST(ids_are_the_lowest_granted)
{
	struct gmem_slot *slots[3];
	size_t page = raw_page();
	struct gmem_slot *slot;
	struct gmem_vm *vm;
	char *memory;

	NEED_KVM();
	memory = raw_map(-1, 0, page);
	assert_ok(gmem_vm_open(VM_UNDER_TEST(.id_first = 100, .id_count = 3), &vm));
	for (unsigned int i = 0; i < 3; i++) {
		assert_ok(gmem_slot_create(
			vm, SLOT(.gpa = GPA + i * page, .size = page, .host = memory), &slots[i]));
		ck_assert_uint_eq(gmem_slot_get_id(slots[i]), 100 + i);
	}
	assert_fails(gmem_slot_create(vm, SLOT(.gpa = FAR, .size = page, .host = memory), &slot),
		     ENOSPC, IDS_EXHAUSTED);
	gmem_slot_close(slots[1]);
	assert_ok(gmem_slot_create(vm, SLOT(.gpa = FAR, .size = page, .host = memory), &slots[1]));
	ck_assert_uint_eq(gmem_slot_get_id(slots[1]), 101);
	for (unsigned int i = 0; i < 3; i++)
		gmem_slot_close(slots[i]);
	gmem_vm_close(vm);
	munmap(memory, page);
}
END_TEST

START_TEST(identical_set_gives_the_same_slot)
{
	const struct gmem_slot_opts *opts;
	struct gmem_slot *slot, *again;
	struct gmem_memfd *memfd;
	struct world world;
	void *addr;

	if (!world_open(&world, 0))
		return;
	memfd = world_memfd(&world, 1);
	opts = SLOT(.gpa = GPA, .size = world.page, .memfd = memfd);
	slot = world_slot(&world, opts);
	again = world_slot(&world, opts);
	ck_assert_ptr_eq(again, slot);
	gmem_slot_close(slot);
	assert_ok(gmem_vm_translate(world.vm, 0, GPA, 0, NULL, &addr));
	ck_assert_int_eq(
		raw_set(world.fd, &(struct raw_region){.slot = 50, .gpa = GPA, .size = world.page}),
		-EEXIST);
	gmem_slot_close(again);
	assert_fails(gmem_vm_translate(world.vm, 0, GPA, 0, NULL, &addr), EFAULT, GPA_UNMAPPED);
	ck_assert_int_eq(raw_delete(world.fd, 0), -EINVAL);
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

/* Each differs in one member from the slot that is there. */
START_TEST(set_that_differs_is_an_overlap)
{
	struct gmem_memfd *memfd;
	struct gmem_slot *slot;
	struct gmem_map *map;
	struct world world;

	if (!world_open(&world, 0))
		return;
	memfd = world_memfd(&world, 4);
	map = world_map(memfd);
	for (int own = 0; own < 2; own++) {
		const uint64_t page = world.page;
		struct gmem_slot *there =
			world_slot(&world, SLOT(.gpa = GPA, .size = page, .memfd = memfd,
						.map = own ? NULL : map));
		const struct gmem_slot_opts *cases[] = {
			SLOT(.gpa = GPA, .size = page, .memfd = memfd, .map = own ? map : NULL),
			SLOT(.gpa = GPA, .size = 2 * page, .memfd = memfd, .map = own ? NULL : map),
			SLOT(.gpa = GPA, .size = page, .memfd = memfd, .offset = page,
			     .map = own ? NULL : map),
			SLOT(.gpa = GPA, .size = page, .map = map),
			SLOT(.gpa = GPA, .size = page, .memfd = memfd, .map = own ? NULL : map,
			     .id = 9, .flags = GMEM_SLOT_FIXED_ID),
		};

		for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
			assert_fails(gmem_slot_create(world.vm, cases[i], &slot), EEXIST,
				     GPA_OVERLAP);
		gmem_slot_close(there);
	}
	gmem_map_close(map);
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

START_TEST(create_many_is_all_or_nothing)
{
	struct raw_region own = {.slot = 2, .gpa = FAR};
	struct gmem_slot_opts opts[3];
	struct gmem_slot *slots[3];
	struct gmem_memfd *memfd;
	struct world world;
	char *memory;

	if (!world_open(&world, 0))
		return;
	memory = raw_map(-1, 0, world.page);
	memfd = world_memfd(&world, 3);
	own.size = world.page;
	own.addr = (uintptr_t)memory;
	ck_assert_int_eq(raw_set(world.fd, &own), 0);
	for (unsigned int i = 0; i < 3; i++)
		opts[i] = *SLOT(.gpa = GPA + i * world.page, .size = world.page, .memfd = memfd,
				.offset = i * world.page);
	/* The third would get the id that the VMM has, which the library does not know. */
	assert_fails(gmem_slot_create_many(world.vm, opts, 3, slots), EEXIST, ID_TAKEN);
	ck_assert_ptr_nonnull(strstr(gmem_error_get_message(), "entry 2"));
	for (uint32_t i = 0; i < 3; i++) {
		ck_assert_ptr_null(slots[i]);
		ck_assert_int_eq(raw_delete(world.fd, i), i == 2 ? 0 : -EINVAL);
	}
	assert_ok(gmem_slot_create_many(world.vm, opts, 3, slots));
	for (uint32_t i = 0; i < 3; i++) {
		ck_assert_uint_eq(gmem_slot_get_id(slots[i]), i);
		assert_ok(gmem_vm_store_u32(world.vm, 0, GPA + i * world.page, i));
		gmem_slot_close(slots[i]);
	}
	gmem_memfd_close(memfd);
	munmap(memory, world.page);
	world_close(&world);
}
END_TEST

START_TEST(create_many_checks_entries_against_each_other)
{
	struct gmem_slot_opts opts[2];
	struct gmem_slot *slots[2];
	struct gmem_memfd *memfd;
	struct world world;

	if (!world_open(&world, 0))
		return;
	memfd = world_memfd(&world, 2);
	host_forbid_ioctl(RAW_SET_USER_MEMORY_REGION);
	opts[0] = *SLOT(.gpa = GPA, .size = 2 * world.page, .memfd = memfd);
	opts[1] = *SLOT(.gpa = GPA + world.page, .size = world.page, .host = slots);
	opts[1].host = raw_map(-1, 0, world.page);
	assert_fails(gmem_slot_create_many(world.vm, opts, 2, slots), EEXIST, GPA_OVERLAP);
	opts[1] = *SLOT(.gpa = FAR, .size = world.page, .memfd = memfd, .offset = world.page);
	if (!world.fallback)
		assert_fails(gmem_slot_create_many(world.vm, opts, 2, slots), EEXIST,
			     MEMFD_OVERLAP);
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

/* A repeatable order. */
static void shuffle(uint32_t *order, uint32_t count)
{
	uint32_t state = 1;

	for (uint32_t i = 0; i < count; i++)
		order[i] = i;
	for (uint32_t i = count - 1; i > 0; i--) {
		uint32_t j, swap = order[i];

		state = state * 1664525 + 1013904223;
		j = (state >> 8) % (i + 1);
		order[i] = order[j];
		order[j] = swap;
	}
}

#define MANY 4096U

/* Every second page of guest addresses, so that no slot touches another. */
static uint64_t gpa_of(const struct world *world, uint32_t i)
{
	return GPA + 2 * world->page * i;
}

static void assert_many(const struct world *world, const uint32_t *order, uint32_t gone,
			const char *addr)
{
	void *found;
	uint64_t len;

	for (uint32_t i = 0; i < MANY; i++) {
		uint32_t page = order[i];
		int r = gmem_vm_translate(world->vm, 0, gpa_of(world, page) + 9, 0, &len, &found);

		if (i < gone) {
			ck_assert_int_eq(r, -EFAULT);
			continue;
		}
		ck_assert_int_eq(r, 0);
		ck_assert_ptr_eq(found, addr + page * world->page + 9);
		ck_assert_uint_eq(len, world->page - 9);
		ck_assert_int_eq(gmem_vm_translate(world->vm, 0, gpa_of(world, page) + world->page,
						   0, &len, &found),
				 -EFAULT);
	}
}

START_TEST(four_thousand_slots_in_any_order)
{
	struct gmem_slot **slots = calloc(MANY, sizeof(struct gmem_slot *));
	uint32_t *order = calloc(MANY, sizeof(*order));
	struct gmem_memfd *memfd;
	struct gmem_map *map;
	struct world world;

	if (world_open(&world, 0)) {
		memfd = world_memfd(&world, MANY);
		map = world_map(memfd);
		shuffle(order, MANY);
		for (uint32_t i = 0; i < MANY; i++)
			slots[order[i]] = world_slot(
				&world,
				SLOT(.gpa = gpa_of(&world, order[i]), .size = world.page,
				     .memfd = memfd, .offset = order[i] * world.page, .map = map));
		assert_many(&world, order, 0, gmem_map_get_addr(map));
		for (uint32_t i = 0; i < MANY; i++) {
			if (i == MANY / 2)
				assert_many(&world, order, i, gmem_map_get_addr(map));
			gmem_slot_close(slots[order[i]]);
		}
		assert_many(&world, order, MANY, gmem_map_get_addr(map));
		gmem_map_close(map);
		gmem_memfd_close(memfd);
		world_close(&world);
	}
	free(order);
	free(slots);
}
END_TEST

START_TEST(second_address_space_takes_a_slot_over_the_mapping)
{
	struct gmem_slot *slot, *second;
	struct gmem_memfd *memfd;
	struct gmem_map *map;
	struct world world;
	uint32_t value;

	if (!world_open(&world, 0))
		return;
	if (raw_cap(world.fd, KVM_CAP_MULTI_ADDRESS_SPACE) < 2)
		SKIP_WORLD(&world, "this VM has one address space");
	memfd = world_memfd(&world, 1);
	map = world_map(memfd);
	slot = world_slot(&world, SLOT(.gpa = GPA, .size = world.page, .memfd = memfd, .map = map));
	second = world_slot(&world, SLOT(.gpa = GPA, .size = world.page, .map = map, .as_id = 1));
	assert_ok(gmem_vm_store_u32(world.vm, 1, GPA, 6));
	assert_ok(gmem_vm_load_u32(world.vm, 0, GPA, &value));
	ck_assert_uint_eq(value, 6);
	gmem_slot_close(second);
	gmem_slot_close(slot);
	gmem_map_close(map);
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

/* ---- Refusals without an ioctl ---- */

static void assert_refused(const struct refusal *refusal, int r, struct gmem_slot *const *slot)
{
	ck_assert_msg(r == -refusal->error, "%d, not %d: %s", r, -refusal->error,
		      gmem_error_get_message());
	ck_assert_msg(gmem_error_get_reason() == refusal->reason, "%s, not %s: %s",
		      gmem_reason_to_string(gmem_error_get_reason()),
		      gmem_reason_to_string(refusal->reason), gmem_error_get_message());
	ck_assert_ptr_null(*slot);
}

/* Sees that the tests of this tier can run. */
static bool try_crowd(struct crowd *crowd)
{
	struct world world;

	if (!world_open_guest_memfd(&world))
		return false;
	world_close(&world);
	crowd_open(crowd);
	return true;
}

START_TEST(refusal_makes_no_ioctl)
{
	/* The filter is for good, so that its slot stays bound to the end of the process. */
	static struct crowd crowd;
	struct refusal refusal;
	struct traces before;
	struct gmem_slot *slot;
	void *addr;

	if (!try_crowd(&crowd))
		return;
	before = traces_get();
	refusal = refusal_get(&crowd, _i);
	host_forbid_ioctl(RAW_SET_USER_MEMORY_REGION);
	slot = crowd.bound;
	assert_refused(&refusal, gmem_slot_create(crowd.vm, &refusal.opts, &slot), &slot);
	slot = crowd.bound;
	assert_refused(&refusal, gmem_slot_create_many(crowd.vm, &refusal.opts, 1, &slot), &slot);
	assert_fails(gmem_vm_translate(crowd.vm, 0, CROWD_FREE_PAGE * crowd.page, 0, NULL, &addr),
		     EFAULT, GPA_UNMAPPED);
	assert_ok(gmem_vm_translate(crowd.vm, 0, CROWD_BOUND_PAGE * crowd.page, 0, NULL, &addr));
	ck_assert_ptr_eq(addr, gmem_slot_get_addr(crowd.bound));
	traces_assert_same(&before);
}
END_TEST

START_TEST(refusals_leave_nothing_in_the_way)
{
	struct gmem_slot *slot = NULL, *file;
	struct crowd crowd;

	if (!try_crowd(&crowd))
		return;
	for (int i = 0; i < refusal_count; i++) {
		struct refusal refusal = refusal_get(&crowd, i);

		assert_refused(&refusal, gmem_slot_create(crowd.vm, &refusal.opts, &slot), &slot);
	}
	assert_ok(gmem_slot_create(crowd.vm,
				   SLOT(.gpa = (CROWD_FREE_PAGE + 1) * crowd.page,
					.size = 6 * crowd.page, .memfd = crowd.shared,
					.offset = 2 * crowd.page),
				   &file));
	gmem_slot_close(file);
	gmem_slot_close(slot);
	crowd_close(&crowd);
}
END_TEST

START_TEST(wrapped_binding_is_refused_whatever_the_kernel_does)
{
	struct raw_region region = {.flags = RAW_GUEST_MEMFD, .gpa = GPA};
	struct gmem_memfd *memfd;
	struct gmem_slot *slot;
	struct world world;
	int r;

	if (!world_open_guest_memfd(&world))
		return;
	memfd = world_memfd(&world, 8);
	region.offset = (UINT64_C(1) << 63) - world.page;
	region.size = 2 * world.page;
	region.memfd = (uint32_t)gmem_memfd_get_fd(memfd);
	assert_fails(gmem_slot_create(world.vm,
				      SLOT(.gpa = GPA, .size = region.size, .memfd = memfd,
					   .offset = region.offset),
				      &slot),
		     ERANGE, MEMFD_BEYOND_END);
	r = raw_try(world.fd, &region);
	ck_assert(r == 0 || r == -EINVAL);
	harness_note("the kernel alone: %s", raw_word(r));
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

/* ---- What only the kernel knows ---- */

START_TEST(slot_that_nobody_told_of_is_found_by_the_kernel)
{
	struct raw_region own = {.slot = 5, .gpa = GPA};
	struct gmem_memfd *memfd;
	struct gmem_slot *slot;
	struct world world;
	int r;

	if (!world_open(&world, 0))
		return;
	memfd = world_memfd(&world, 4);
	own.flags = world.fallback ? 0 : RAW_GUEST_MEMFD;
	own.size = world.page;
	own.memfd = (uint32_t)gmem_memfd_get_fd(memfd);
	ck_assert_int_eq(raw_set(world.fd, &own), 0);
	assert_fails(
		gmem_slot_create(world.vm,
				 SLOT(.gpa = FAR, .size = world.page, .memfd = memfd,
				      .offset = world.page, .id = 5, .flags = GMEM_SLOT_FIXED_ID),
				 &slot),
		EEXIST, ID_TAKEN);
	assert_fails(gmem_slot_create(world.vm,
				      SLOT(.gpa = GPA, .size = world.page, .memfd = memfd,
					   .offset = world.page),
				      &slot),
		     EEXIST, GPA_OVERLAP);
	if (!world.fallback) {
		/* Kernels up to 7.1 say EINVAL of a part that is bound, which may be the id too. */
		r = gmem_slot_create(world.vm, SLOT(.gpa = FAR, .size = world.page, .memfd = memfd),
				     &slot);
		ck_assert_int_eq(r, -EEXIST);
		ck_assert_ptr_nonnull(strstr(gmem_error_get_message(), "of the guest_memfd"));
	}
	ck_assert_int_eq(raw_delete(world.fd, 5), 0);
	ck_assert_int_eq(raw_delete(world.fd, 0), -EINVAL);
	slot = world_slot(&world, SLOT(.gpa = GPA, .size = world.page, .memfd = memfd));
	gmem_slot_close(slot);
	gmem_memfd_close(memfd);
	world_close(&world);
}
END_TEST

START_TEST(guest_memfd_of_another_vm_is_found_by_the_kernel)
{
	struct gmem_memfd *memfd, *opened;
	struct world world, other;
	struct gmem_slot *slot;

	if (!world_open_guest_memfd(&world) || !world_open_guest_memfd(&other))
		return;
	memfd = world_memfd(&other, 1);
	assert_ok(gmem_memfd_open_fd(world.vm, gmem_memfd_get_fd(memfd), &opened));
	assert_fails(gmem_slot_create(world.vm,
				      SLOT(.gpa = GPA, .size = world.page, .memfd = opened), &slot),
		     EXDEV, MEMFD_FOREIGN);
	ck_assert_ptr_null(slot);
	/* The kernel says of its own what it said to us. */
	ck_assert_int_eq(raw_set(world.fd,
				 &(struct raw_region){.flags = RAW_GUEST_MEMFD,
						      .gpa = GPA,
						      .size = world.page,
						      .memfd = (uint32_t)gmem_memfd_get_fd(memfd)}),
			 -EINVAL);
	gmem_memfd_close(opened);
	gmem_memfd_close(memfd);
	world_close(&other);
	world_close(&world);
}
END_TEST

START_TEST(mapping_serves_the_slots_of_one_vm)
{
	struct world world, other;
	struct gmem_slot *slot, *refused;
	struct gmem_memfd *memfd;
	struct gmem_map *map;

	if (!world_open(&world, 0) || !world_open(&other, 0))
		return;
	memfd = world_memfd(&world, 1);
	map = world_map(memfd);
	slot = world_slot(&other, SLOT(.gpa = GPA, .size = world.page, .map = map));
	assert_fails(gmem_slot_create(world.vm, SLOT(.gpa = GPA, .size = world.page, .map = map),
				      &refused),
		     EXDEV, MEMFD_FOREIGN);
	gmem_slot_close(slot);
	gmem_map_close(map);
	gmem_memfd_close(memfd);
	world_close(&other);
	world_close(&world);
}
END_TEST

static TCase *make_case(Suite *suite, const char *name)
{
	TCase *tcase = tcase_create(name);

	suite_add_tcase(suite, tcase);
	return tcase;
}

static void add_backing(TCase *tcase)
{
	tcase_add_test(tcase, getters_tell_what_was_set);
	tcase_add_test(tcase, dirty_log_over_the_mapping_sees_guest_writes);
	tcase_add_test(tcase, dirty_log_can_be_turned_on_and_off);
	tcase_add_test(tcase, second_address_space_takes_a_slot_over_the_mapping);
	tcase_add_test(tcase, slot_of_the_fallback_is_an_ordinary_one);
}

static void add_changes(TCase *tcase)
{
	tcase_add_test(tcase, adopted_slot_is_known_and_never_touched);
	tcase_add_test(tcase, adopted_slot_stays_in_the_kernel);
	tcase_add_test(tcase, replace_gives_the_guest_other_memory);
	tcase_add_test(tcase, replace_can_move_a_slot_over_itself);
	tcase_add_test(tcase, replace_that_is_refused_changes_nothing);
	tcase_add_test(tcase, replace_that_the_kernel_refuses_sets_the_old_slot_again);
}

static void add_many(TCase *tcase)
{
	tcase_add_test(tcase, ids_are_the_lowest_granted);
	tcase_add_test(tcase, identical_set_gives_the_same_slot);
	tcase_add_test(tcase, set_that_differs_is_an_overlap);
	tcase_add_test(tcase, create_many_is_all_or_nothing);
	tcase_add_test(tcase, create_many_checks_entries_against_each_other);
	tcase_add_test(tcase, four_thousand_slots_in_any_order);
}

static void add_refusals(TCase *tcase)
{
	tcase_add_loop_test(tcase, refusal_makes_no_ioctl, 0, refusal_count);
	tcase_add_test(tcase, refusals_leave_nothing_in_the_way);
	tcase_add_test(tcase, wrapped_binding_is_refused_whatever_the_kernel_does);
	tcase_add_test(tcase, slot_that_nobody_told_of_is_found_by_the_kernel);
	tcase_add_test(tcase, guest_memfd_of_another_vm_is_found_by_the_kernel);
	tcase_add_test(tcase, mapping_serves_the_slots_of_one_vm);
}

int main(void)
{
	Suite *suite = suite_create("slot");

	add_backing(make_case(suite, "backing"));
	add_changes(make_case(suite, "changes"));
	add_many(make_case(suite, "many"));
	add_refusals(make_case(suite, "refusals"));
	return harness_run(suite);
}
