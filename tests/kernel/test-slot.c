/* SPDX-License-Identifier: MIT */
/* What the kernel takes as a memslot, guest_memfd apart: see test-bind.c for that. No library. */
#include "../kvm/guest.h"
#include "../kvm/host.h"
#include "raw.h"
#include "suites.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGES 4

/* Of a slot past the end of guest addresses. */
#ifdef __aarch64__
#define PAST_THE_END (-EFAULT)
#else
#define PAST_THE_END (-EINVAL)
#endif

/* A VM and some ordinary memory, with a region that would do. */
struct plain {
	int vm;
	size_t page;
	size_t size;
	char *memory;
	struct raw_region region;
};

static bool open_plain(struct plain *plain)
{
	const char *missing = raw_missing();

	if (missing) {
		harness_skip("%s", missing);
		return false;
	}
	plain->vm = raw_vm();
	plain->page = raw_page();
	plain->size = PAGES * plain->page;
	plain->memory = raw_map(-1, 0, plain->size);
	plain->region = (struct raw_region){
		.gpa = RAW_GPA, .size = plain->size, .addr = (uintptr_t)plain->memory};
	return true;
}

static void close_plain(const struct plain *plain)
{
	munmap(plain->memory, plain->size);
	close(plain->vm);
}

/* ---- Arguments ---- */

START_TEST(region_must_be_whole_pages_somewhere_possible)
{
	struct raw_region region;
	struct plain plain;

	if (!open_plain(&plain))
		return;
	raw_expect_spoilt_refused(plain.vm, &plain.region);
	region = plain.region;
	region.addr = -(uint64_t)plain.page;
	raw_expect("host address near the end of all", raw_set(plain.vm, &region), -EINVAL);
	region = plain.region;
	region.gpa = -(uint64_t)plain.page;
	raw_expect("guest addresses that wrap", raw_set(plain.vm, &region), -EINVAL);
	raw_expect("as it should be", raw_set(plain.vm, &plain.region), 0);
	raw_expect_end();
	close_plain(&plain);
}
END_TEST

START_TEST(host_memory_need_not_be_there)
{
	struct plain plain;

	if (!open_plain(&plain))
		return;
	plain.region.addr = 0;
	ck_assert_int_eq(raw_try(plain.vm, &plain.region), 0);
	plain.region.addr = (uintptr_t)plain.memory;
	munmap(plain.memory, plain.size);
	ck_assert_int_eq(raw_try(plain.vm, &plain.region), 0);
	close(plain.vm);
}
END_TEST

/* So members that come to be there can be told only by a new flag. */
START_TEST(padding_is_not_looked_at)
{
	struct plain plain;
	int r;

	if (!open_plain(&plain))
		return;
	plain.region.pad1 = 1;
	for (size_t i = 0; i < sizeof(plain.region.pad2) / sizeof(plain.region.pad2[0]); i++)
		plain.region.pad2[i] = UINT64_MAX;
	r = raw_try(plain.vm, &plain.region);
	ck_assert(r == 0 || r == -EINVAL);
	harness_note("%s", raw_word(r));
	close_plain(&plain);
}
END_TEST

START_TEST(flags_are_checked_one_by_one)
{
	struct plain plain;

	if (!open_plain(&plain))
		return;
	plain.region.memfd = UINT32_MAX;
	for (int bit = 0; bit < 32; bit++) {
		uint32_t flag = 1U << bit;
		int wanted = flag == RAW_LOG_DIRTY ? 0 : -EINVAL;
		char name[16];

		if (flag == RAW_READONLY && raw_cap(plain.vm, KVM_CAP_READONLY_MEM) > 0)
			wanted = 0;
		if (flag == RAW_GUEST_MEMFD && raw_has_shared(plain.vm))
			wanted = -EBADF;
		plain.region.flags = flag;
		snprintf(name, sizeof(name), "flag 1<<%d", bit);
		raw_expect(name, raw_try(plain.vm, &plain.region), wanted);
	}
	raw_expect_end();
	close_plain(&plain);
}
END_TEST

START_TEST(old_call_takes_no_guest_memfd_and_says_so_first)
{
	struct kvm_userspace_memory_region region;
	struct plain plain;

	if (!open_plain(&plain))
		return;
	ck_assert_int_eq(raw_set(plain.vm, &plain.region), 0);
	region = (struct kvm_userspace_memory_region){
		.slot = 1,
		.guest_phys_addr = RAW_GPA,
		.memory_size = plain.size,
		.userspace_addr = (uintptr_t)plain.memory,
	};
	raw_expect("overlap", raw_result(ioctl(plain.vm, KVM_SET_USER_MEMORY_REGION, &region)),
		   -EEXIST);
	for (int bit = 2; bit < 32; bit++) {
		region.flags = 1U << bit;
		raw_expect("overlap and a newer flag",
			   raw_result(ioctl(plain.vm, KVM_SET_USER_MEMORY_REGION, &region)),
			   -EINVAL);
	}
	raw_expect_end();
	close_plain(&plain);
}
END_TEST

START_TEST(highest_id_of_the_capability_works)
{
	struct plain plain;

	if (!open_plain(&plain))
		return;
	plain.region.slot = (uint32_t)raw_cap(plain.vm, KVM_CAP_NR_MEMSLOTS) - 1;
	ck_assert_int_eq(raw_try(plain.vm, &plain.region), 0);
	close_plain(&plain);
}
END_TEST

START_TEST(addresses_end_at_a_power_of_two)
{
	struct plain plain;
	uint64_t end;

	if (!open_plain(&plain))
		return;
	end = UINT64_C(1) << raw_gpa_bits(plain.vm, 0);
	plain.region.size = plain.page;
	plain.region.gpa = end - plain.page;
	ck_assert_int_eq(raw_try(plain.vm, &plain.region), 0);
	plain.region.gpa = end;
	ck_assert_int_eq(raw_set(plain.vm, &plain.region), PAST_THE_END);
	plain.region.gpa = end - plain.page;
	plain.region.size = 2 * plain.page;
	ck_assert_int_eq(raw_set(plain.vm, &plain.region), PAST_THE_END);
	close_plain(&plain);
}
END_TEST

/* ---- Overlaps ---- */

START_TEST(guest_addresses_may_touch_and_not_overlap)
{
	struct plain plain;
	struct raw_region other;

	if (!open_plain(&plain))
		return;
	ck_assert_int_eq(raw_set(plain.vm, &plain.region), 0);
	for (int pages = -PAGES - 1; pages <= PAGES + 1; pages++) {
		bool apart = pages <= -PAGES || pages >= PAGES;

		other = plain.region;
		other.slot = 1;
		other.gpa = RAW_GPA + (uint64_t)pages * plain.page;
		ck_assert_int_eq(raw_try(plain.vm, &other), apart ? 0 : -EEXIST);
	}
	close_plain(&plain);
}
END_TEST

START_TEST(overlap_is_per_address_space)
{
	struct plain plain;
	int spaces;

	if (!open_plain(&plain))
		return;
	spaces = raw_cap(plain.vm, KVM_CAP_MULTI_ADDRESS_SPACE);
	if (spaces < 2)
		SKIP("this VM has one address space");
	ck_assert_int_eq(raw_set(plain.vm, &plain.region), 0);
	plain.region.slot = 1 << 16;
	ck_assert_int_eq(raw_set(plain.vm, &plain.region), 0);
	close_plain(&plain);
}
END_TEST

START_TEST(arguments_are_checked_before_the_overlap)
{
	struct raw_region region;
	struct plain plain;

	if (!open_plain(&plain))
		return;
	ck_assert_int_eq(raw_set(plain.vm, &plain.region), 0);
	plain.region.slot = 1;
	raw_expect("overlap alone", raw_set(plain.vm, &plain.region), -EEXIST);
	raw_expect_spoilt_refused(plain.vm, &plain.region);
	region = plain.region;
	region.addr = -(uint64_t)plain.page;
	raw_expect("host address near the end of all", raw_set(plain.vm, &region), -EINVAL);
	raw_expect_end();
	close_plain(&plain);
}
END_TEST

START_TEST(overlap_is_found_before_the_end_of_guest_addresses)
{
	struct raw_region region;
	struct plain plain;

	if (!open_plain(&plain))
		return;
	plain.region.gpa = (UINT64_C(1) << raw_gpa_bits(plain.vm, 0)) - plain.page;
	plain.region.size = plain.page;
	ck_assert_int_eq(raw_set(plain.vm, &plain.region), 0);
	region = plain.region;
	region.slot = 1;
	region.size = 2 * plain.page;
	ck_assert_int_eq(raw_set(plain.vm, &region), -EEXIST);
	close_plain(&plain);
}
END_TEST

/* ---- Changes ---- */

START_TEST(slot_may_not_move_onto_another)
{
	struct raw_region region;
	struct plain plain;

	if (!open_plain(&plain))
		return;
	ck_assert_int_eq(raw_set(plain.vm, &plain.region), 0);
	region = plain.region;
	region.slot = 1;
	region.gpa = 2 * RAW_GPA;
	ck_assert_int_eq(raw_set(plain.vm, &region), 0);
	region.gpa = RAW_GPA;
	raw_expect("move", raw_set(plain.vm, &region), -EEXIST);
	region.size -= plain.page;
	raw_expect("move and resize", raw_set(plain.vm, &region), -EINVAL);
	raw_expect_end();
	close_plain(&plain);
}
END_TEST

START_TEST(identical_set_changes_nothing)
{
	struct plain plain;

	if (!open_plain(&plain))
		return;
	ck_assert_int_eq(raw_set(plain.vm, &plain.region), 0);
	ck_assert_int_eq(raw_set(plain.vm, &plain.region), 0);
	close_plain(&plain);
}
END_TEST

START_TEST(plain_slot_can_move_and_log)
{
	struct plain plain;

	if (!open_plain(&plain))
		return;
	ck_assert_int_eq(raw_set(plain.vm, &plain.region), 0);
	plain.region.flags = RAW_LOG_DIRTY;
	ck_assert_int_eq(raw_set(plain.vm, &plain.region), 0);
	plain.region.flags = 0;
	ck_assert_int_eq(raw_set(plain.vm, &plain.region), 0);
	plain.region.gpa += plain.size;
	ck_assert_int_eq(raw_set(plain.vm, &plain.region), 0);
	close_plain(&plain);
}
END_TEST

START_TEST(slot_keeps_size_address_and_protection)
{
	struct raw_region other;
	struct plain plain;

	if (!open_plain(&plain))
		return;
	ck_assert_int_eq(raw_set(plain.vm, &plain.region), 0);
	other = plain.region;
	other.size -= plain.page;
	ck_assert_int_eq(raw_set(plain.vm, &other), -EINVAL);
	other = plain.region;
	other.addr += plain.page;
	ck_assert_int_eq(raw_set(plain.vm, &other), -EINVAL);
	other = plain.region;
	other.flags = RAW_READONLY;
	ck_assert_int_eq(raw_set(plain.vm, &other), -EINVAL);
	close_plain(&plain);
}
END_TEST

START_TEST(delete_is_for_slots_that_exist)
{
	struct plain plain;

	if (!open_plain(&plain))
		return;
	ck_assert_int_eq(raw_delete(plain.vm, 0), -EINVAL);
	ck_assert_int_eq(raw_set(plain.vm, &plain.region), 0);
	ck_assert_int_eq(raw_delete(plain.vm, 0), 0);
	ck_assert_int_eq(raw_delete(plain.vm, 0), -EINVAL);
	close_plain(&plain);
}
END_TEST

START_TEST(delete_checks_flags_and_alignment_and_no_more)
{
	static const enum raw_spoilt checked[] = {RAW_SPOILT_GPA,  RAW_SPOILT_ADDR,
						  RAW_SPOILT_TAG,  RAW_SPOILT_KERNEL_ADDR,
						  RAW_SPOILT_FLAG, RAW_SPOILT_SPACE};
	struct raw_region region;
	struct plain plain;

	if (!open_plain(&plain))
		return;
	ck_assert_int_eq(raw_set(plain.vm, &plain.region), 0);
	for (size_t i = 0; i < sizeof(checked) / sizeof(checked[0]); i++) {
		region = raw_spoil(plain.vm, &plain.region, checked[i]);
		region.size = 0;
		raw_expect(raw_spoilt_names[checked[i]], raw_set(plain.vm, &region), -EINVAL);
	}
	region = (struct raw_region){
		.flags = RAW_LOG_DIRTY, .gpa = 7 * RAW_GPA, .offset = 1, .memfd = UINT32_MAX};
	raw_expect("other values", raw_set(plain.vm, &region), 0);
	raw_expect_end();
	close_plain(&plain);
}
END_TEST

static int use_in_child(void *data)
{
	struct plain *plain = data;

	CHILD_CHECK(raw_set(plain->vm, &plain->region) == -EIO);
	CHILD_CHECK(raw_cap(plain->vm, RAW_CAP_USER_MEMORY2) == -EIO);
	CHILD_CHECK(raw_memfd(plain->vm, plain->page, 0) == -EIO);
	/* Even before the kernel reads the argument, or knows the call. */
	CHILD_CHECK(raw_result(ioctl(plain->vm, RAW_SET_USER_MEMORY_REGION, NULL)) == -EIO);
	CHILD_CHECK(raw_result(ioctl(plain->vm, RAW_CREATE_GUEST_MEMFD, NULL)) == -EIO);
	CHILD_CHECK(raw_result(ioctl(plain->vm, _IO(KVMIO, 0xff), NULL)) == -EIO);
	return 0;
}

START_TEST(child_process_gets_eio)
{
	struct plain plain;

	if (!open_plain(&plain))
		return;
	ck_assert_int_eq(host_run_child(use_in_child, &plain), 0);
	ck_assert_int_eq(raw_set(plain.vm, &plain.region), 0);
	close_plain(&plain);
}
END_TEST

/* ---- With a guest ---- */

START_TEST(guest_uses_plain_memory)
{
	struct plain plain;
	struct guest guest;
	uint32_t value;

	NEED_GUEST();
	if (!open_plain(&plain))
		return;
	ck_assert_int_eq(raw_set(plain.vm, &plain.region), 0);
	raw_open_guest(plain.vm, &guest);
	ck_assert_int_eq(guest_store(&guest, RAW_GPA + 8, 0x12345678), KVM_EXIT_HLT);
	ck_assert_int_eq(memcmp(plain.memory + 8, "\x78\x56\x34\x12", 4), 0);
	memcpy(plain.memory + 8, "abcd", 4);
	ck_assert_int_eq(guest_load(&guest, RAW_GPA + 8, &value), KVM_EXIT_HLT);
	ck_assert_int_eq(memcmp(&value, "abcd", 4), 0);
	ck_assert_int_eq(guest_count(&guest, RAW_GPA + 16, 100), KVM_EXIT_HLT);
	ck_assert_int_eq(plain.memory[16], 100);
	ck_assert_int_eq(guest_await(&guest, RAW_GPA + 16, &value), KVM_EXIT_HLT);
	ck_assert_uint_eq(value, 100);
	guest_close(&guest);
	close_plain(&plain);
}
END_TEST

START_TEST(guest_without_memory_exits_with_mmio)
{
	struct plain plain;
	struct guest guest;

	NEED_GUEST();
	if (!open_plain(&plain))
		return;
	raw_open_guest(plain.vm, &guest);
	ck_assert_int_eq(guest_store(&guest, RAW_GPA + 4, 1), KVM_EXIT_MMIO);
	ck_assert_uint_eq(guest.mmio_gpa, RAW_GPA + 4);
	ck_assert(guest.mmio_write);
	guest_close(&guest);
	close_plain(&plain);
}
END_TEST

START_TEST(read_only_memory_is_read_and_its_writes_exit)
{
	struct plain plain;
	struct guest guest;
	uint32_t value;

	NEED_GUEST();
	if (!open_plain(&plain))
		return;
	if (raw_cap(plain.vm, KVM_CAP_READONLY_MEM) <= 0)
		SKIP("this VM has no read-only slots");
	plain.region.flags = RAW_READONLY;
	ck_assert_int_eq(raw_set(plain.vm, &plain.region), 0);
	raw_open_guest(plain.vm, &guest);
	memcpy(plain.memory, "abcd", 4);
	ck_assert_int_eq(guest_load(&guest, RAW_GPA, &value), KVM_EXIT_HLT);
	ck_assert_int_eq(memcmp(&value, "abcd", 4), 0);
	ck_assert_int_eq(guest_store(&guest, RAW_GPA, 1), KVM_EXIT_MMIO);
	ck_assert_uint_eq(guest.mmio_gpa, RAW_GPA);
	ck_assert_int_eq(memcmp(plain.memory, "abcd", 4), 0);
	guest_close(&guest);
	close_plain(&plain);
}
END_TEST

START_TEST(slot_whose_memory_is_gone_shows_what_is_mapped_there_next)
{
	struct plain plain;
	struct guest guest;
	uint32_t value;
	char *next;

	NEED_GUEST();
	if (!open_plain(&plain))
		return;
	ck_assert_int_eq(raw_set(plain.vm, &plain.region), 0);
	raw_open_guest(plain.vm, &guest);
	next = mmap(plain.memory, plain.size, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	ck_assert_ptr_eq(next, plain.memory);
	memcpy(next, "mine", 4);
	ck_assert_int_eq(guest_load(&guest, RAW_GPA, &value), KVM_EXIT_HLT);
	ck_assert_int_eq(memcmp(&value, "mine", 4), 0);
	ck_assert_int_eq(guest_store(&guest, RAW_GPA, 0), KVM_EXIT_HLT);
	ck_assert_int_eq(next[0], 0);
	guest_close(&guest);
	close_plain(&plain);
}
END_TEST

static void add_rules(Suite *suite)
{
	kernel_case(suite, "slot-rules");
	KERNEL_TEST(region_must_be_whole_pages_somewhere_possible);
	KERNEL_TEST(host_memory_need_not_be_there);
	KERNEL_TEST(padding_is_not_looked_at);
	KERNEL_TEST(flags_are_checked_one_by_one);
	KERNEL_TEST(old_call_takes_no_guest_memfd_and_says_so_first);
	KERNEL_TEST(highest_id_of_the_capability_works);
	KERNEL_TEST(addresses_end_at_a_power_of_two);
	KERNEL_TEST(guest_addresses_may_touch_and_not_overlap);
	KERNEL_TEST(overlap_is_per_address_space);
	KERNEL_TEST(arguments_are_checked_before_the_overlap);
	KERNEL_TEST(overlap_is_found_before_the_end_of_guest_addresses);
}

static void add_changes(Suite *suite)
{
	kernel_case(suite, "slot-changes");
	KERNEL_TEST(identical_set_changes_nothing);
	KERNEL_TEST(plain_slot_can_move_and_log);
	KERNEL_TEST(slot_may_not_move_onto_another);
	KERNEL_TEST(slot_keeps_size_address_and_protection);
	KERNEL_TEST(delete_is_for_slots_that_exist);
	KERNEL_TEST(delete_checks_flags_and_alignment_and_no_more);
	KERNEL_TEST(child_process_gets_eio);
}

static void add_guest(Suite *suite)
{
	kernel_case(suite, "slot-guest");
	KERNEL_TEST(guest_uses_plain_memory);
	KERNEL_TEST(guest_without_memory_exits_with_mmio);
	KERNEL_TEST(read_only_memory_is_read_and_its_writes_exit);
	KERNEL_TEST(slot_whose_memory_is_gone_shows_what_is_mapped_there_next);
}

Suite *kernel_slot_suite(void)
{
	Suite *suite = suite_create("slot");

	add_rules(suite);
	add_changes(suite);
	add_guest(suite);
	return suite;
}
