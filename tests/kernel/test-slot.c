/* SPDX-License-Identifier: MIT */
/* What the kernel takes as a memslot, guest_memfd apart: see test-bind.c for that. No library. */
#include "../kvm/guest.h"
#include "../kvm/host.h"
#include "raw.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define GPA   UINT64_C(0x10000)
#define CODE  UINT64_C(0x1000)
#define PAGES 4

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
		.gpa = GPA, .size = plain->size, .addr = (uintptr_t)plain->memory};
	return true;
}

static void close_plain(const struct plain *plain)
{
	munmap(plain->memory, plain->size);
	close(plain->vm);
}

/* The guest's code under slot 10, and its vCPU. */
static void open_guest(struct plain *plain, struct guest *guest, char **code)
{
	*code = raw_map(-1, 0, plain->page);
	memcpy(*code, guest_code, guest_code_size);
	ck_assert_int_eq(raw_set(plain->vm, &(struct raw_region){.slot = 10,
								 .gpa = CODE,
								 .size = plain->page,
								 .addr = (uintptr_t)*code}),
			 0);
	guest_open(guest, plain->vm, CODE);
}

static void close_guest(struct plain *plain, struct guest *guest, char *code)
{
	guest_close(guest);
	munmap(code, plain->page);
}

/* ---- Arguments ---- */

/* A region that the kernel refuses, made of one that it takes. */
static struct raw_region spoil(const struct plain *plain, int how)
{
	struct raw_region region = plain->region;

	switch (how) {
	case 0:
		region.size += 1;
		break;
	case 1:
		region.gpa += 1;
		break;
	case 2:
		region.addr += 1;
		break;
	case 3:
		region.addr = UINT64_C(1) << 63; /* not a user address */
		break;
	case 4:
		region.gpa = -(uint64_t)plain->page; /* wraps */
		break;
	case 5:
		region.slot = UINT32_C(64) << 16; /* no such address space */
		break;
	case 6:
		region.slot = (uint32_t)raw_cap(plain->vm, KVM_CAP_NR_MEMSLOTS);
		break;
	default:
		region.size = 0; /* deletes what is not there */
	}
	return region;
}
#define SPOILT 8

START_TEST(region_must_be_whole_pages_somewhere_possible)
{
	struct raw_region region;
	struct plain plain;

	if (!open_plain(&plain))
		return;
	region = spoil(&plain, _i);
	ck_assert_int_eq(raw_set(plain.vm, &region), -EINVAL);
	ck_assert_int_eq(raw_set(plain.vm, &plain.region), 0);
	close_plain(&plain);
}
END_TEST

START_TEST(flags_are_checked_one_by_one)
{
	const unsigned int known = RAW_LOG_DIRTY | RAW_READONLY | RAW_GUEST_MEMFD;
	struct plain plain;
	int r;

	if (!open_plain(&plain))
		return;
	plain.region.flags = 1U << _i;
	plain.region.memfd = UINT32_MAX;
	r = raw_try(plain.vm, &plain.region);
	if (plain.region.flags & ~known)
		ck_assert_int_eq(r, -EINVAL);
	else if (plain.region.flags == RAW_LOG_DIRTY)
		ck_assert_int_eq(r, 0);
	else if (plain.region.flags == RAW_READONLY)
		ck_assert_int_eq(r, raw_cap(plain.vm, KVM_CAP_READONLY_MEM) > 0 ? 0 : -EINVAL);
	else
		ck_assert_int_eq(r, raw_has_shared(plain.vm) ? -EBADF : -EINVAL);
	close_plain(&plain);
}
END_TEST

START_TEST(slot_may_not_have_two_to_the_31_pages)
{
	struct plain plain;

	if (!open_plain(&plain))
		return;
	/* Refused before anything is allocated; an allowed size near it would take gigabytes. */
	plain.region.gpa = 0;
	plain.region.addr = 0;
	plain.region.size = (UINT64_C(1) << 31) * plain.page;
	ck_assert_int_eq(raw_set(plain.vm, &plain.region), -EINVAL);
	close_plain(&plain);
}
END_TEST

START_TEST(old_call_takes_no_guest_memfd)
{
	struct plain plain;
	struct kvm_userspace_memory_region region;

	if (!open_plain(&plain))
		return;
	region = (struct kvm_userspace_memory_region){
		.flags = RAW_GUEST_MEMFD,
		.guest_phys_addr = GPA,
		.memory_size = plain.size,
		.userspace_addr = (uintptr_t)plain.memory,
	};
	ck_assert_int_eq(ioctl(plain.vm, KVM_SET_USER_MEMORY_REGION, &region), -1);
	ck_assert_int_eq(errno, EINVAL);
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
	int r;

	if (!open_plain(&plain))
		return;
	end = UINT64_C(1) << raw_gpa_bits(plain.vm, 0);
	plain.region.size = plain.page;
	plain.region.gpa = end - plain.page;
	ck_assert_int_eq(raw_try(plain.vm, &plain.region), 0);
	plain.region.gpa = end;
	r = raw_set(plain.vm, &plain.region);
	ck_assert(r == -EINVAL || r == -EFAULT);
	plain.region.gpa = end - plain.page;
	plain.region.size = 2 * plain.page;
	r = raw_set(plain.vm, &plain.region);
	ck_assert(r == -EINVAL || r == -EFAULT);
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
		other.gpa = GPA + (uint64_t)pages * plain.page;
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

/* ---- Changes ---- */

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
	/* The other members of the struct do not matter then, but for their alignment. */
	plain.region.size = 0;
	plain.region.addr = 0;
	ck_assert_int_eq(raw_set(plain.vm, &plain.region), 0);
	ck_assert_int_eq(raw_delete(plain.vm, 0), -EINVAL);
	close_plain(&plain);
}
END_TEST

static int use_in_child(void *data)
{
	struct plain *plain = data;

	CHILD_CHECK(raw_set(plain->vm, &plain->region) == -EIO);
	CHILD_CHECK(raw_cap(plain->vm, RAW_CAP_USER_MEMORY2) == -EIO);
	CHILD_CHECK(raw_memfd(plain->vm, plain->page, 0) == -EIO);
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
	char *code;

	NEED_GUEST();
	if (!open_plain(&plain))
		return;
	ck_assert_int_eq(raw_set(plain.vm, &plain.region), 0);
	open_guest(&plain, &guest, &code);
	ck_assert_int_eq(guest_store(&guest, GPA + 8, 0x12345678), KVM_EXIT_HLT);
	ck_assert_int_eq(memcmp(plain.memory + 8, "\x78\x56\x34\x12", 4), 0);
	memcpy(plain.memory + 8, "abcd", 4);
	ck_assert_int_eq(guest_load(&guest, GPA + 8, &value), KVM_EXIT_HLT);
	ck_assert_int_eq(memcmp(&value, "abcd", 4), 0);
	ck_assert_int_eq(guest_count(&guest, GPA + 16, 100), KVM_EXIT_HLT);
	ck_assert_int_eq(plain.memory[16], 100);
	ck_assert_int_eq(guest_await(&guest, GPA + 16, &value), KVM_EXIT_HLT);
	ck_assert_uint_eq(value, 100);
	close_guest(&plain, &guest, code);
	close_plain(&plain);
}
END_TEST

START_TEST(guest_without_memory_exits_with_mmio)
{
	struct plain plain;
	struct guest guest;
	char *code;

	NEED_GUEST();
	if (!open_plain(&plain))
		return;
	open_guest(&plain, &guest, &code);
	ck_assert_int_eq(guest_store(&guest, GPA + 4, 1), KVM_EXIT_MMIO);
	ck_assert_uint_eq(guest.mmio_gpa, GPA + 4);
	ck_assert(guest.mmio_write);
	close_guest(&plain, &guest, code);
	close_plain(&plain);
}
END_TEST

START_TEST(read_only_memory_is_read_and_its_writes_exit)
{
	struct plain plain;
	struct guest guest;
	uint32_t value;
	char *code;

	NEED_GUEST();
	if (!open_plain(&plain))
		return;
	if (raw_cap(plain.vm, KVM_CAP_READONLY_MEM) <= 0)
		SKIP("this VM has no read-only slots");
	plain.region.flags = RAW_READONLY;
	ck_assert_int_eq(raw_set(plain.vm, &plain.region), 0);
	open_guest(&plain, &guest, &code);
	memcpy(plain.memory, "abcd", 4);
	ck_assert_int_eq(guest_load(&guest, GPA, &value), KVM_EXIT_HLT);
	ck_assert_int_eq(memcmp(&value, "abcd", 4), 0);
	ck_assert_int_eq(guest_store(&guest, GPA, 1), KVM_EXIT_MMIO);
	ck_assert_uint_eq(guest.mmio_gpa, GPA);
	ck_assert_int_eq(memcmp(plain.memory, "abcd", 4), 0);
	close_guest(&plain, &guest, code);
	close_plain(&plain);
}
END_TEST

START_TEST(slot_whose_memory_is_gone_shows_what_is_mapped_there_next)
{
	struct plain plain;
	struct guest guest;
	uint32_t value;
	char *code, *next;

	NEED_GUEST();
	if (!open_plain(&plain))
		return;
	ck_assert_int_eq(raw_set(plain.vm, &plain.region), 0);
	open_guest(&plain, &guest, &code);
	next = mmap(plain.memory, plain.size, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	ck_assert_ptr_eq(next, plain.memory);
	memcpy(next, "mine", 4);
	ck_assert_int_eq(guest_load(&guest, GPA, &value), KVM_EXIT_HLT);
	ck_assert_int_eq(memcmp(&value, "mine", 4), 0);
	ck_assert_int_eq(guest_store(&guest, GPA, 0), KVM_EXIT_HLT);
	ck_assert_int_eq(next[0], 0);
	close_guest(&plain, &guest, code);
	close_plain(&plain);
}
END_TEST

static TCase *make_case(Suite *suite, const char *name)
{
	TCase *tcase = tcase_create(name);

	suite_add_tcase(suite, tcase);
	return tcase;
}

static void add_rules(TCase *tcase)
{
	tcase_add_loop_test(tcase, region_must_be_whole_pages_somewhere_possible, 0, SPOILT);
	tcase_add_loop_test(tcase, flags_are_checked_one_by_one, 0, 32);
	tcase_add_test(tcase, slot_may_not_have_two_to_the_31_pages);
	tcase_add_test(tcase, old_call_takes_no_guest_memfd);
	tcase_add_test(tcase, highest_id_of_the_capability_works);
	tcase_add_test(tcase, addresses_end_at_a_power_of_two);
	tcase_add_test(tcase, guest_addresses_may_touch_and_not_overlap);
	tcase_add_test(tcase, overlap_is_per_address_space);
	tcase_add_test(tcase, identical_set_changes_nothing);
	tcase_add_test(tcase, plain_slot_can_move_and_log);
	tcase_add_test(tcase, slot_keeps_size_address_and_protection);
	tcase_add_test(tcase, delete_is_for_slots_that_exist);
	tcase_add_test(tcase, child_process_gets_eio);
}

static void add_guest(TCase *tcase)
{
	tcase_add_test(tcase, guest_uses_plain_memory);
	tcase_add_test(tcase, guest_without_memory_exits_with_mmio);
	tcase_add_test(tcase, read_only_memory_is_read_and_its_writes_exit);
	tcase_add_test(tcase, slot_whose_memory_is_gone_shows_what_is_mapped_there_next);
}

int main(void)
{
	Suite *suite = suite_create("memslot");

	add_rules(make_case(suite, "rules"));
	add_guest(make_case(suite, "guest"));
	return harness_run(suite);
}
