/* SPDX-License-Identifier: MIT */
/* What the kernel does when a guest_memfd is bound to guest addresses. No library. */
#include "../kvm/guest.h"
#include "../kvm/host.h"
#include "raw.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define GPA   UINT64_C(0x10000)
#define CODE  UINT64_C(0x1000)
#define PAGES 4

/* A VM, a guest_memfd mapped whole, and a region that binds all of it. */
struct bound {
	int vm;
	int fd;
	size_t page;
	size_t size;
	char *map;
	struct raw_region region;
};

static bool open_bound(struct bound *bound)
{
	const char *missing = raw_missing();

	if (!missing) {
		bound->vm = raw_vm();
		if (raw_has_shared(bound->vm)) {
			bound->page = raw_page();
			bound->size = PAGES * bound->page;
			bound->fd = raw_memfd(bound->vm, bound->size, RAW_SHARED);
			ck_assert_int_ge(bound->fd, 0);
			bound->map = raw_map(bound->fd, 0, bound->size);
			bound->region = (struct raw_region){.flags = RAW_GUEST_MEMFD,
							    .gpa = GPA,
							    .size = bound->size,
							    .addr = (uintptr_t)bound->map,
							    .memfd = (uint32_t)bound->fd};
			return true;
		}
		close(bound->vm);
		missing = "this kernel has no guest_memfd that the host can map";
	}
	harness_skip("%s", missing);
	return false;
}

static void close_bound(const struct bound *bound)
{
	munmap(bound->map, bound->size);
	close(bound->fd);
	close(bound->vm);
}

static void bind_all(const struct bound *bound)
{
	ck_assert_int_eq(raw_set(bound->vm, &bound->region), 0);
}

/* The guest's code in ordinary memory under slot 10, and its vCPU. */
static void open_guest(const struct bound *bound, struct guest *guest)
{
	char *code = raw_map(-1, 0, bound->page);

	memcpy(code, guest_code, guest_code_size);
	ck_assert_int_eq(raw_set(bound->vm, &(struct raw_region){.slot = 10,
								 .gpa = CODE,
								 .size = bound->page,
								 .addr = (uintptr_t)code}),
			 0);
	guest_open(guest, bound->vm, CODE);
}

/* ---- Arguments ---- */

START_TEST(flags_that_exclude_a_guest_memfd)
{
	static const uint32_t flags[] = {RAW_LOG_DIRTY, RAW_READONLY, RAW_LOG_DIRTY | RAW_READONLY};
	struct bound bound;

	if (!open_bound(&bound))
		return;
	bound.region.flags |= flags[_i];
	ck_assert_int_eq(raw_set(bound.vm, &bound.region), -EINVAL);
	close_bound(&bound);
}
END_TEST

START_TEST(range_must_lie_in_the_file)
{
	struct bound bound;
	struct raw_region region;

	if (!open_bound(&bound))
		return;
	for (unsigned int offset = 0; offset <= PAGES + 1; offset++) {
		for (unsigned int pages = 1; pages <= PAGES + 1; pages++) {
			region = bound.region;
			region.offset = offset * bound.page;
			region.size = pages * bound.page;
			ck_assert_int_eq(raw_try(bound.vm, &region),
					 offset + pages <= PAGES ? 0 : -EINVAL);
		}
	}
	region = bound.region;
	region.size = bound.page;
	region.offset = 1;
	ck_assert_int_eq(raw_set(bound.vm, &region), -EINVAL);
	close_bound(&bound);
}
END_TEST

START_TEST(offset_that_wraps_in_64_bits_is_refused)
{
	struct bound bound;

	if (!open_bound(&bound))
		return;
	bound.region.offset = -(uint64_t)bound.page;
	bound.region.size = 2 * bound.page;
	ck_assert_int_eq(raw_set(bound.vm, &bound.region), -EINVAL);
	close_bound(&bound);
}
END_TEST

/* Kernels up to 6.19 take it (and bind file pages that do not exist), later ones do not. */
START_TEST(offset_that_wraps_in_63_bits_is_taken_or_refused)
{
	struct bound bound;
	int r;

	if (!open_bound(&bound))
		return;
	bound.region.offset = (UINT64_C(1) << 63) - bound.page;
	bound.region.size = 2 * bound.page;
	r = raw_try(bound.vm, &bound.region);
	ck_assert(r == 0 || r == -EINVAL);
	raw_note("binding offset 0x%llx, size 0x%llx is %s",
		 (unsigned long long)bound.region.offset, (unsigned long long)bound.region.size,
		 r == 0 ? "taken" : "refused");
	close_bound(&bound);
}
END_TEST

START_TEST(host_address_is_checked_and_need_not_match)
{
	struct bound bound;
	struct raw_region region;

	if (!open_bound(&bound))
		return;
	region = bound.region;
	region.addr = 0;
	ck_assert_int_eq(raw_try(bound.vm, &region), 0);
	region.addr = (uintptr_t)bound.map + 1;
	ck_assert_int_eq(raw_set(bound.vm, &region), -EINVAL);
	region.addr = UINT64_C(1) << 63;
	ck_assert_int_eq(raw_set(bound.vm, &region), -EINVAL);
	close_bound(&bound);
}
END_TEST

START_TEST(descriptor_must_be_this_vms_guest_memfd)
{
	struct bound bound, other;
	struct raw_region region;
	int plain;

	if (!open_bound(&bound))
		return;
	ck_assert(open_bound(&other));
	plain = memfd_create("plain", MFD_CLOEXEC);
	ck_assert_int_eq(ftruncate(plain, (off_t)bound.size), 0);
	region = bound.region;
	region.memfd = (uint32_t)other.fd;
	ck_assert_int_eq(raw_set(bound.vm, &region), -EINVAL);
	region.memfd = (uint32_t)plain;
	ck_assert_int_eq(raw_set(bound.vm, &region), -EINVAL);
	region.memfd = (uint32_t)bound.vm;
	ck_assert_int_eq(raw_set(bound.vm, &region), -EINVAL);
	region.memfd = UINT32_MAX;
	ck_assert_int_eq(raw_set(bound.vm, &region), -EBADF);
	region.memfd = (uint32_t)dup(bound.fd);
	ck_assert_int_eq(raw_set(bound.vm, &region), 0);
	close((int)region.memfd);
	close(plain);
	close_bound(&other);
	close_bound(&bound);
}
END_TEST

/* The kernel takes them all, also those of which the guest gets nothing. */
START_TEST(any_guest_memfd_can_be_bound)
{
	struct bound bound;
	int fd;

	if (!open_bound(&bound))
		return;
	fd = raw_memfd(bound.vm, bound.size, (uint64_t)_i);
	ck_assert_int_ge(fd, 0);
	bound.region.memfd = (uint32_t)fd;
	ck_assert_int_eq(raw_try(bound.vm, &bound.region), 0);
	close(fd);
	close_bound(&bound);
}
END_TEST

/* ---- What is bound stays as it is ---- */

START_TEST(identical_set_is_refused)
{
	struct bound bound;

	if (!open_bound(&bound))
		return;
	bind_all(&bound);
	ck_assert_int_eq(raw_set(bound.vm, &bound.region), -EINVAL);
	ck_assert_int_eq(raw_delete(bound.vm, 0), 0);
	close_bound(&bound);
}
END_TEST

START_TEST(bound_slot_keeps_place_size_and_flags)
{
	struct raw_region region;
	struct bound bound;

	if (!open_bound(&bound))
		return;
	bind_all(&bound);
	region = bound.region;
	region.gpa += bound.size;
	ck_assert_int_eq(raw_set(bound.vm, &region), -EINVAL);
	region = bound.region;
	region.size -= bound.page;
	ck_assert_int_eq(raw_set(bound.vm, &region), -EINVAL);
	region = bound.region;
	region.flags = 0;
	ck_assert_int_eq(raw_set(bound.vm, &region), -EINVAL);
	region.flags = RAW_LOG_DIRTY;
	ck_assert_int_eq(raw_set(bound.vm, &region), -EINVAL);
	close_bound(&bound);
}
END_TEST

START_TEST(plain_slot_becomes_no_guest_memfd_slot)
{
	struct bound bound;

	if (!open_bound(&bound))
		return;
	bound.region.flags = 0;
	bind_all(&bound);
	bound.region.flags = RAW_GUEST_MEMFD;
	ck_assert_int_eq(raw_set(bound.vm, &bound.region), -EINVAL);
	close_bound(&bound);
}
END_TEST

/* ---- Overlaps ---- */

START_TEST(page_of_a_file_is_bound_once)
{
	struct raw_region region;
	struct bound bound;
	int r, first = 0;

	if (!open_bound(&bound))
		return;
	bound.region.size = 2 * bound.page;
	bound.region.offset = bound.page;
	bind_all(&bound);
	for (unsigned int offset = 0; offset < PAGES; offset++) {
		region = bound.region;
		region.slot = 1;
		region.gpa = 2 * GPA;
		region.size = bound.page;
		region.offset = offset * bound.page;
		r = raw_try(bound.vm, &region);
		if (offset == 0 || offset == PAGES - 1)
			ck_assert_int_eq(r, 0);
		else
			ck_assert(r == -EEXIST || r == -EINVAL);
		first = r ? r : first;
	}
	raw_note("a file range that is bound already: %s", strerror(-first));
	close_bound(&bound);
}
END_TEST

START_TEST(guest_addresses_are_checked_before_the_file)
{
	struct raw_region region;
	struct bound bound;

	if (!open_bound(&bound))
		return;
	bind_all(&bound);
	region = bound.region;
	region.slot = 1;
	region.memfd = UINT32_MAX; /* would be EBADF */
	ck_assert_int_eq(raw_set(bound.vm, &region), -EEXIST);
	region.flags = 0;
	ck_assert_int_eq(raw_set(bound.vm, &region), -EEXIST);
	close_bound(&bound);
}
END_TEST

START_TEST(page_is_bound_once_over_address_spaces)
{
	struct bound bound;
	int r;

	if (!open_bound(&bound))
		return;
	if (raw_cap(bound.vm, KVM_CAP_MULTI_ADDRESS_SPACE) < 2)
		SKIP("this VM has one address space");
	bind_all(&bound);
	bound.region.slot = 1 << 16;
	r = raw_set(bound.vm, &bound.region);
	ck_assert(r == -EEXIST || r == -EINVAL);
	bound.region.flags = 0;
	ck_assert_int_eq(raw_set(bound.vm, &bound.region), 0);
	close_bound(&bound);
}
END_TEST

START_TEST(two_slots_can_share_a_file)
{
	struct raw_region region;
	struct bound bound;

	if (!open_bound(&bound))
		return;
	bound.region.size = bound.page;
	bind_all(&bound);
	region = bound.region;
	region.slot = 1;
	region.gpa = 2 * GPA;
	region.offset = bound.page;
	ck_assert_int_eq(raw_set(bound.vm, &region), 0);
	close_bound(&bound);
}
END_TEST

/* ---- Lifetimes ---- */

START_TEST(delete_and_bind_elsewhere_keep_the_data)
{
	struct bound bound;

	if (!open_bound(&bound))
		return;
	bind_all(&bound);
	memset(bound.map, 6, bound.size);
	ck_assert_int_eq(raw_delete(bound.vm, 0), 0);
	bound.region.gpa = 4 * GPA;
	bound.region.slot = 3;
	bind_all(&bound);
	ck_assert_int_eq(bound.map[bound.size - 1], 6);
	ck_assert_uint_eq(host_count_resident(bound.map, bound.size), PAGES);
	close_bound(&bound);
}
END_TEST

START_TEST(bound_file_can_be_closed_and_its_slot_deleted)
{
	struct bound bound;

	if (!open_bound(&bound))
		return;
	bind_all(&bound);
	munmap(bound.map, bound.size);
	close(bound.fd);
	ck_assert_int_eq(raw_delete(bound.vm, 0), 0);
	close(bound.vm);
}
END_TEST

START_TEST(vm_closed_first_leaves_file_and_mapping)
{
	struct bound bound;

	if (!open_bound(&bound))
		return;
	bind_all(&bound);
	close(bound.vm);
	bound.map[0] = 4;
	ck_assert_int_eq(fallocate(bound.fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0,
				   (off_t)bound.page),
			 0);
	ck_assert_int_eq(bound.map[0], 0);
	munmap(bound.map, bound.size);
	close(bound.fd);
}
END_TEST

/* ---- With a guest ---- */

START_TEST(guest_and_host_share_the_memory)
{
	struct bound bound;
	struct guest guest;
	uint32_t value;

	NEED_GUEST();
	if (!open_bound(&bound))
		return;
	bind_all(&bound);
	open_guest(&bound, &guest);
	ck_assert_int_eq(guest_store(&guest, GPA + bound.page, 0x01020304), KVM_EXIT_HLT);
	ck_assert_int_eq(bound.map[bound.page], 4);
	ck_assert_uint_eq(host_count_resident(bound.map, bound.size), 1);
	bound.map[bound.page] = 5;
	ck_assert_int_eq(guest_load(&guest, GPA + bound.page, &value), KVM_EXIT_HLT);
	ck_assert_uint_eq(value, 0x01020305);
	guest_close(&guest);
	close_bound(&bound);
}
END_TEST

START_TEST(punched_page_reads_zero_in_the_guest)
{
	struct bound bound;
	struct guest guest;
	uint32_t value;

	NEED_GUEST();
	if (!open_bound(&bound))
		return;
	bind_all(&bound);
	open_guest(&bound, &guest);
	ck_assert_int_eq(guest_store(&guest, GPA, 77), KVM_EXIT_HLT);
	ck_assert_int_eq(fallocate(bound.fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0,
				   (off_t)bound.page),
			 0);
	ck_assert_int_eq(guest_load(&guest, GPA, &value), KVM_EXIT_HLT);
	ck_assert_uint_eq(value, 0);
	guest_close(&guest);
	close_bound(&bound);
}
END_TEST

/* Without MMAP the guest's memory is the host address, and the guest_memfd is not used. */
START_TEST(guest_memfd_without_mmap_is_ignored)
{
	struct bound bound;
	struct guest guest;
	char *memory;
	int fd;

	NEED_GUEST();
	if (!open_bound(&bound))
		return;
	memory = raw_map(-1, 0, bound.size);
	fd = raw_memfd(bound.vm, bound.size, RAW_INIT_SHARED);
	ck_assert_int_ge(fd, 0);
	bound.region.memfd = (uint32_t)fd;
	bound.region.addr = (uintptr_t)memory;
	bind_all(&bound);
	open_guest(&bound, &guest);
	ck_assert_int_eq(guest_store(&guest, GPA, 1), KVM_EXIT_HLT);
	ck_assert_int_eq(memory[0], 1);
	guest_close(&guest);
	close(fd);
	close_bound(&bound);
}
END_TEST

/* The vCPU's own accesses go to the guest_memfd, those that KVM makes for it to the address. */
START_TEST(other_host_address_splits_the_memory)
{
	struct bound bound;
	struct guest guest;
	char *memory;

	NEED_GUEST();
	if (!open_bound(&bound))
		return;
	memory = raw_map(-1, 0, bound.size);
	bound.region.addr = (uintptr_t)memory;
	bind_all(&bound);
	open_guest(&bound, &guest);
	ck_assert_int_eq(guest_store(&guest, GPA, 1), KVM_EXIT_HLT);
	ck_assert_int_eq(memory[0] + bound.map[0], 1);
	raw_note("a store of the tests' guest is %s", memory[0] ? "emulated" : "the processor's");
	guest_close(&guest);
	close_bound(&bound);
}
END_TEST

START_TEST(closed_descriptor_is_enough_while_a_mapping_lives)
{
	struct bound bound;
	struct guest guest;

	NEED_GUEST();
	if (!open_bound(&bound))
		return;
	bind_all(&bound);
	open_guest(&bound, &guest);
	close(bound.fd);
	ck_assert_int_eq(guest_store(&guest, GPA, 9), KVM_EXIT_HLT);
	ck_assert_int_eq(bound.map[0], 9);
	guest_close(&guest);
	munmap(bound.map, bound.size);
	close(bound.vm);
}
END_TEST

START_TEST(guest_stops_when_the_file_is_gone)
{
	struct bound bound;
	struct guest guest;
	int r;

	NEED_GUEST();
	if (!open_bound(&bound))
		return;
	bind_all(&bound);
	open_guest(&bound, &guest);
	close(bound.fd);
	munmap(bound.map, bound.size);
	r = guest_store(&guest, GPA, 9);
	/* An emulated access finds no memory at the host address, and so takes it for a device's.
	 */
	if (r == -EFAULT)
		ck_assert_int_eq((int)guest.run->exit_reason, RAW_EXIT_MEMORY_FAULT);
	else
		ck_assert_int_eq(r, KVM_EXIT_MMIO);
	raw_note("a guest whose guest_memfd is gone stops with %s",
		 r == -EFAULT ? "KVM_EXIT_MEMORY_FAULT" : "KVM_EXIT_MMIO");
	ck_assert_int_eq(raw_delete(bound.vm, 0), 0);
	guest_close(&guest);
	close(bound.vm);
}
END_TEST

START_TEST(guest_finds_its_data_where_it_is_bound_next)
{
	struct bound bound;
	struct guest guest;
	uint32_t value;

	NEED_GUEST();
	if (!open_bound(&bound))
		return;
	bind_all(&bound);
	open_guest(&bound, &guest);
	ck_assert_int_eq(guest_store(&guest, GPA + 4, 123), KVM_EXIT_HLT);
	ck_assert_int_eq(raw_delete(bound.vm, 0), 0);
	bound.region.gpa = 4 * GPA;
	bind_all(&bound);
	ck_assert_int_eq(guest_load(&guest, 4 * GPA + 4, &value), KVM_EXIT_HLT);
	ck_assert_uint_eq(value, 123);
	ck_assert_int_eq(guest_load(&guest, GPA + 4, &value), KVM_EXIT_MMIO);
	guest_close(&guest);
	close_bound(&bound);
}
END_TEST

static uint32_t logged_pages(const struct bound *bound, uint32_t slot)
{
	uint64_t bits = 0;
	struct kvm_dirty_log log = {.slot = slot, .dirty_bitmap = &bits};

	ck_assert_int_eq(ioctl(bound->vm, KVM_GET_DIRTY_LOG, &log), 0);
	return (uint32_t)bits;
}

START_TEST(plain_slot_over_the_mapping_logs_the_guests_writes)
{
	struct bound bound;
	struct guest guest;
	uint32_t value;

	NEED_GUEST();
	if (!open_bound(&bound))
		return;
	bound.region.flags = RAW_LOG_DIRTY;
	bind_all(&bound);
	open_guest(&bound, &guest);
	/* A page that the guest reads first may be mapped writable, and then counts as written. */
	ck_assert_int_eq(guest_load(&guest, GPA, &value), KVM_EXIT_HLT);
	raw_note("a first read %s as a write",
		 logged_pages(&bound, 0) ? "counts" : "does not count");
	ck_assert_uint_eq(logged_pages(&bound, 0), 0);
	ck_assert_int_eq(guest_store(&guest, GPA + 2 * bound.page, 1), KVM_EXIT_HLT);
	ck_assert_int_eq(guest_load(&guest, GPA, &value), KVM_EXIT_HLT);
	ck_assert_uint_eq(logged_pages(&bound, 0), 1U << 2);
	ck_assert_uint_eq(logged_pages(&bound, 0), 0);
	ck_assert_int_eq(bound.map[2 * bound.page], 1);
	guest_close(&guest);
	close_bound(&bound);
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
	tcase_add_loop_test(tcase, flags_that_exclude_a_guest_memfd, 0, 3);
	tcase_add_test(tcase, range_must_lie_in_the_file);
	tcase_add_test(tcase, offset_that_wraps_in_64_bits_is_refused);
	tcase_add_test(tcase, offset_that_wraps_in_63_bits_is_taken_or_refused);
	tcase_add_test(tcase, host_address_is_checked_and_need_not_match);
	tcase_add_test(tcase, descriptor_must_be_this_vms_guest_memfd);
	tcase_add_loop_test(tcase, any_guest_memfd_can_be_bound, 0, 4);
	tcase_add_test(tcase, identical_set_is_refused);
	tcase_add_test(tcase, bound_slot_keeps_place_size_and_flags);
	tcase_add_test(tcase, plain_slot_becomes_no_guest_memfd_slot);
	tcase_add_test(tcase, page_of_a_file_is_bound_once);
	tcase_add_test(tcase, guest_addresses_are_checked_before_the_file);
	tcase_add_test(tcase, page_is_bound_once_over_address_spaces);
	tcase_add_test(tcase, two_slots_can_share_a_file);
}

static void add_lifetimes(TCase *tcase)
{
	tcase_add_test(tcase, delete_and_bind_elsewhere_keep_the_data);
	tcase_add_test(tcase, bound_file_can_be_closed_and_its_slot_deleted);
	tcase_add_test(tcase, vm_closed_first_leaves_file_and_mapping);
}

static void add_guest(TCase *tcase)
{
	tcase_add_test(tcase, guest_and_host_share_the_memory);
	tcase_add_test(tcase, punched_page_reads_zero_in_the_guest);
	tcase_add_test(tcase, guest_memfd_without_mmap_is_ignored);
	tcase_add_test(tcase, other_host_address_splits_the_memory);
	tcase_add_test(tcase, closed_descriptor_is_enough_while_a_mapping_lives);
	tcase_add_test(tcase, guest_stops_when_the_file_is_gone);
	tcase_add_test(tcase, guest_finds_its_data_where_it_is_bound_next);
	tcase_add_test(tcase, plain_slot_over_the_mapping_logs_the_guests_writes);
}

int main(void)
{
	Suite *suite = suite_create("binding");

	add_rules(make_case(suite, "rules"));
	add_lifetimes(make_case(suite, "lifetimes"));
	add_guest(make_case(suite, "guest"));
	return harness_run(suite);
}
