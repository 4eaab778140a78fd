/* SPDX-License-Identifier: MIT */
/* What the kernel does when a guest_memfd is bound to guest addresses. No library. */
#include "../kvm/guest.h"
#include "../kvm/host.h"
#include "raw.h"
#include "suites.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGES  4
#define COUNTS UINT64_C(1000)
#define ROUNDS 20

/* ---- Arguments ---- */

/* What the kernel refuses of a region before it looks at the file. */
static void expect_spoilt_refused(const struct raw_shared *bound)
{
	const struct raw_region *good = &bound->region;
	struct raw_region region = *good;

	raw_expect_spoilt_refused(bound->vm, good);
	region.flags = good->flags | RAW_LOG_DIRTY;
	raw_expect("dirty log", raw_set(bound->vm, &region), -EINVAL);
	region.flags = good->flags | RAW_READONLY;
	raw_expect("read-only", raw_set(bound->vm, &region), -EINVAL);
	region.flags = good->flags | RAW_LOG_DIRTY | RAW_READONLY;
	raw_expect("dirty log and read-only", raw_set(bound->vm, &region), -EINVAL);
	region = *good;
	region.offset += 1;
	raw_expect("offset in a page", raw_set(bound->vm, &region), -EINVAL);
	region.offset = -(uint64_t)bound->page;
	raw_expect("offset that wraps in 64 bits", raw_set(bound->vm, &region), -EINVAL);
	region = *good;
	region.gpa = -(uint64_t)bound->page;
	raw_expect("guest addresses that wrap", raw_set(bound->vm, &region), -EINVAL);
}

START_TEST(region_that_makes_no_sense_is_refused)
{
	struct raw_shared bound;

	if (!raw_open_shared(&bound, PAGES))
		return;
	expect_spoilt_refused(&bound);
	raw_expect("as it should be", raw_set(bound.vm, &bound.region), 0);
	raw_expect_end();
	raw_close_shared(&bound);
}
END_TEST

START_TEST(region_is_checked_before_the_descriptor)
{
	struct raw_shared bound;

	if (!raw_open_shared(&bound, PAGES))
		return;
	bound.region.memfd = UINT32_MAX;
	raw_expect("no such descriptor", raw_set(bound.vm, &bound.region), -EBADF);
	expect_spoilt_refused(&bound);
	raw_expect_end();
	raw_close_shared(&bound);
}
END_TEST

START_TEST(padding_is_not_looked_at_with_a_guest_memfd)
{
	struct raw_shared bound;
	int r;

	if (!raw_open_shared(&bound, PAGES))
		return;
	bound.region.pad1 = 1;
	for (size_t i = 0; i < sizeof(bound.region.pad2) / sizeof(bound.region.pad2[0]); i++)
		bound.region.pad2[i] = UINT64_MAX;
	r = raw_try(bound.vm, &bound.region);
	ck_assert(r == 0 || r == -EINVAL);
	harness_note("%s", raw_word(r));
	raw_close_shared(&bound);
}
END_TEST

START_TEST(range_must_lie_in_the_file)
{
	struct raw_shared bound;
	struct raw_region region;

	if (!raw_open_shared(&bound, PAGES))
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
	raw_close_shared(&bound);
}
END_TEST

/* Kernels up to 6.19 take it, and then bind pages of the file that do not exist. */
START_TEST(fault_bind_range_wraps)
{
	struct raw_shared bound;
	int r;

	if (!(_i ? raw_open_private(&bound, PAGES) : raw_open_shared(&bound, PAGES)))
		return;
	bound.region.offset = (UINT64_C(1) << 63) - bound.page;
	bound.region.size = 2 * bound.page;
	r = raw_try(bound.vm, &bound.region);
	ck_assert(r == 0 || r == -EINVAL);
	harness_note("%s", r ? "refused" : "accepted");
	if (r == 0)
		kernel_known_fault("bind-range-wraps");
	raw_close_shared(&bound);
}
END_TEST

START_TEST(host_address_need_not_be_that_of_a_mapping)
{
	struct raw_shared bound;

	if (!raw_open_shared(&bound, PAGES))
		return;
	bound.region.addr = 0;
	ck_assert_int_eq(raw_try(bound.vm, &bound.region), 0);
	bound.region.addr = (uintptr_t)bound.map + bound.page;
	ck_assert_int_eq(raw_try(bound.vm, &bound.region), 0);
	raw_close_shared(&bound);
}
END_TEST

START_TEST(descriptor_must_be_of_a_guest_memfd_of_this_vm)
{
	struct raw_shared bound, other;
	struct raw_region region;
	int plain;

	if (!raw_open_shared(&bound, PAGES))
		return;
	ck_assert(raw_open_shared(&other, PAGES));
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
	raw_close_shared(&other);
	raw_close_shared(&bound);
}
END_TEST

/*
 * x86 takes them all, also those of which the guest gets nothing. arm64 takes none of these: there
 * guest memory is all in the guest_memfd or none of it.
 */
START_TEST(any_guest_memfd_can_be_bound_or_only_those_with_mmap)
{
	struct raw_shared bound;
	int r, without = 0;

	if (!raw_open_shared(&bound, PAGES))
		return;
	for (uint64_t flags = 0; flags <= RAW_SHARED; flags++) {
		int fd = raw_memfd(bound.vm, bound.size, flags);

		ck_assert_int_ge(fd, 0);
		bound.region.memfd = (uint32_t)fd;
		r = raw_try(bound.vm, &bound.region);
		if (flags & RAW_MMAP)
			ck_assert_int_eq(r, 0);
		else
			without = r;
		close(fd);
	}
#ifdef __x86_64__
	ck_assert_int_eq(without, 0);
#else
	ck_assert_int_eq(without, -EINVAL);
#endif
	harness_note("without MMAP: %s", raw_word(without));
	raw_close_shared(&bound);
}
END_TEST

/* Both are refused. Which comes first shows by the error. */
START_TEST(file_is_checked_before_the_end_of_guest_addresses)
{
	struct raw_shared bound;

	if (!raw_open_shared(&bound, PAGES))
		return;
	bound.region.gpa = UINT64_C(1) << raw_gpa_bits(bound.vm, 0);
	bound.region.memfd = UINT32_MAX;
	ck_assert_int_eq(raw_set(bound.vm, &bound.region), -EBADF);
	raw_close_shared(&bound);
}
END_TEST

/* ---- What is bound stays as it is ---- */

START_TEST(identical_set_is_refused)
{
	struct raw_shared bound;

	if (!raw_open_shared(&bound, PAGES))
		return;
	raw_bind_shared(&bound);
	ck_assert_int_eq(raw_set(bound.vm, &bound.region), -EINVAL);
	ck_assert_int_eq(raw_delete(bound.vm, 0), 0);
	raw_close_shared(&bound);
}
END_TEST

START_TEST(bound_slot_keeps_all_that_it_has)
{
	struct raw_region region;
	struct raw_shared bound;

	if (!raw_open_shared(&bound, PAGES))
		return;
	bound.region.size = 2 * bound.page;
	raw_bind_shared(&bound);
	region = bound.region;
	region.gpa += bound.size;
	raw_expect("guest address", raw_set(bound.vm, &region), -EINVAL);
	region = bound.region;
	region.size -= bound.page;
	raw_expect("size", raw_set(bound.vm, &region), -EINVAL);
	region = bound.region;
	region.addr += bound.page;
	raw_expect("host address", raw_set(bound.vm, &region), -EINVAL);
	region = bound.region;
	region.offset += bound.page;
	raw_expect("offset", raw_set(bound.vm, &region), -EINVAL);
	region = bound.region;
	region.memfd = UINT32_MAX;
	raw_expect("descriptor", raw_set(bound.vm, &region), -EINVAL);
	region = bound.region;
	region.flags = 0;
	raw_expect("no guest_memfd", raw_set(bound.vm, &region), -EINVAL);
	region.flags = RAW_LOG_DIRTY;
	raw_expect("dirty log instead", raw_set(bound.vm, &region), -EINVAL);
	region.flags = RAW_READONLY;
	raw_expect("read-only instead", raw_set(bound.vm, &region), -EINVAL);
	raw_expect_end();
	raw_close_shared(&bound);
}
END_TEST

/* The first page of the file in the first slot, and the second page in the region returned. */
static struct raw_region bind_two_slots(struct raw_shared *bound)
{
	struct raw_region region;

	bound->region.size = bound->page;
	raw_bind_shared(bound);
	region = bound->region;
	region.slot = 1;
	region.gpa = 2 * RAW_GPA;
	region.offset = bound->page;
	ck_assert_int_eq(raw_set(bound->vm, &region), 0);
	return region;
}

START_TEST(bound_slot_is_refused_before_the_overlap)
{
	struct raw_region region;
	struct raw_shared bound;

	if (!raw_open_shared(&bound, PAGES))
		return;
	region = bind_two_slots(&bound);
	region.gpa = RAW_GPA;
	ck_assert_int_eq(raw_set(bound.vm, &region), -EINVAL);
	raw_close_shared(&bound);
}
END_TEST

START_TEST(delete_of_a_bound_slot_ignores_file_and_offset)
{
	struct raw_region region;
	struct raw_shared bound;

	if (!raw_open_shared(&bound, PAGES))
		return;
	raw_bind_shared(&bound);
	region = (struct raw_region){.flags = RAW_GUEST_MEMFD, .offset = 1};
	raw_expect("offset in a page", raw_set(bound.vm, &region), -EINVAL);
	region.offset = 0;
	region.flags |= RAW_LOG_DIRTY;
	raw_expect("flags that exclude each other", raw_set(bound.vm, &region), -EINVAL);
	region.flags = RAW_GUEST_MEMFD;
	region.offset = 1000 * bound.page;
	region.memfd = UINT32_MAX;
	raw_expect("other file and offset", raw_set(bound.vm, &region), 0);
	raw_expect_end();
	raw_close_shared(&bound);
}
END_TEST

START_TEST(plain_slot_becomes_no_guest_memfd_slot)
{
	struct raw_shared bound;

	if (!raw_open_shared(&bound, PAGES))
		return;
	bound.region.flags = 0;
	raw_bind_shared(&bound);
	bound.region.flags = RAW_GUEST_MEMFD;
	ck_assert_int_eq(raw_set(bound.vm, &bound.region), -EINVAL);
	raw_close_shared(&bound);
}
END_TEST

/* ---- Overlaps ---- */

START_TEST(page_of_a_file_is_bound_once)
{
	struct raw_region region;
	struct raw_shared bound;
	int r, first = 0;

	if (!raw_open_shared(&bound, PAGES))
		return;
	bound.region.size = 2 * bound.page;
	bound.region.offset = bound.page;
	raw_bind_shared(&bound);
	for (unsigned int offset = 0; offset < PAGES; offset++) {
		region = bound.region;
		region.slot = 1;
		region.gpa = 2 * RAW_GPA;
		region.size = bound.page;
		region.offset = offset * bound.page;
		r = raw_try(bound.vm, &region);
		if (offset == 0 || offset == PAGES - 1)
			ck_assert_int_eq(r, 0);
		else
			ck_assert(r == -EEXIST || r == -EINVAL);
		first = r ? r : first;
	}
	harness_note("%s", raw_word(first));
	raw_close_shared(&bound);
}
END_TEST

/* Up to 7.1 both answers are EINVAL; 7.2 looks at the file first, later kernels at the address. */
START_TEST(bound_range_past_the_end_of_guest_addresses_is_refused)
{
	struct raw_region region;
	struct raw_shared bound;
	int r;

	if (!raw_open_shared(&bound, PAGES))
		return;
	raw_bind_shared(&bound);
	region = bound.region;
	region.slot = 1;
	region.gpa = UINT64_C(1) << raw_gpa_bits(bound.vm, 2);
	r = raw_set(bound.vm, &region);
	ck_assert(r == -EINVAL || r == -EEXIST || r == -EFAULT);
	harness_note("%s", raw_word(r));
	raw_close_shared(&bound);
}
END_TEST

START_TEST(copies_of_a_descriptor_are_one_file)
{
	struct raw_region region;
	struct raw_shared bound;
	int r;

	if (!raw_open_shared(&bound, PAGES))
		return;
	raw_bind_shared(&bound);
	region = bound.region;
	region.slot = 1;
	region.gpa = 2 * RAW_GPA;
	region.memfd = (uint32_t)dup(bound.fd);
	r = raw_set(bound.vm, &region);
	ck_assert(r == -EEXIST || r == -EINVAL);
	harness_note("%s", raw_word(r));
	close((int)region.memfd);
	raw_close_shared(&bound);
}
END_TEST

START_TEST(guest_addresses_are_checked_before_the_file)
{
	struct raw_region region;
	struct raw_shared bound;

	if (!raw_open_shared(&bound, PAGES))
		return;
	raw_bind_shared(&bound);
	region = bound.region;
	region.slot = 1;
	region.memfd = UINT32_MAX; /* would be EBADF */
	ck_assert_int_eq(raw_set(bound.vm, &region), -EEXIST);
	region.flags = 0;
	ck_assert_int_eq(raw_set(bound.vm, &region), -EEXIST);
	raw_close_shared(&bound);
}
END_TEST

START_TEST(page_is_bound_once_over_address_spaces)
{
	struct raw_shared bound;
	int r;

	if (!raw_open_shared(&bound, PAGES))
		return;
	if (raw_cap(bound.vm, KVM_CAP_MULTI_ADDRESS_SPACE) < 2)
		SKIP("this VM has one address space");
	raw_bind_shared(&bound);
	bound.region.slot = 1 << 16;
	r = raw_set(bound.vm, &bound.region);
	ck_assert(r == -EEXIST || r == -EINVAL);
	bound.region.flags = 0;
	ck_assert_int_eq(raw_set(bound.vm, &bound.region), 0);
	raw_close_shared(&bound);
}
END_TEST

START_TEST(two_slots_can_share_a_file)
{
	struct raw_shared bound;

	if (!raw_open_shared(&bound, PAGES))
		return;
	bind_two_slots(&bound);
	raw_close_shared(&bound);
}
END_TEST

/* ---- Lifetimes ---- */

START_TEST(delete_and_bind_elsewhere_keep_the_data)
{
	struct raw_shared bound;

	if (!raw_open_shared(&bound, PAGES))
		return;
	raw_bind_shared(&bound);
	memset(bound.map, 6, bound.size);
	ck_assert_int_eq(raw_delete(bound.vm, 0), 0);
	bound.region.gpa = 4 * RAW_GPA;
	bound.region.slot = 3;
	raw_bind_shared(&bound);
	ck_assert_int_eq(bound.map[bound.size - 1], 6);
	ck_assert_uint_eq(host_count_resident(bound.map, bound.size), PAGES);
	raw_close_shared(&bound);
}
END_TEST

START_TEST(bound_file_can_be_closed_and_its_slot_deleted)
{
	struct raw_shared bound;

	if (!raw_open_shared(&bound, PAGES))
		return;
	raw_bind_shared(&bound);
	munmap(bound.map, bound.size);
	close(bound.fd);
	ck_assert_int_eq(raw_delete(bound.vm, 0), 0);
	close(bound.vm);
}
END_TEST

START_TEST(vm_closed_first_leaves_file_and_mapping)
{
	struct raw_shared bound;

	if (!raw_open_shared(&bound, PAGES))
		return;
	raw_bind_shared(&bound);
	close(bound.vm);
	bound.map[0] = 4;
	ck_assert_int_eq(raw_punch(bound.fd, 0, bound.page), 0);
	ck_assert_int_eq(bound.map[0], 0);
	munmap(bound.map, bound.size);
	close(bound.fd);
}
END_TEST

/* ---- With a guest ---- */

START_TEST(guest_and_host_share_the_memory)
{
	struct raw_shared bound;
	struct guest guest;
	uint32_t value;

	NEED_GUEST();
	if (!raw_open_shared(&bound, PAGES))
		return;
	raw_bind_shared(&bound);
	raw_open_guest(bound.vm, &guest);
	ck_assert_int_eq(guest_store(&guest, RAW_GPA + bound.page, 0x01020304), KVM_EXIT_HLT);
	ck_assert_int_eq(bound.map[bound.page], 4);
	ck_assert_uint_eq(host_count_resident(bound.map, bound.size), 1);
	bound.map[bound.page] = 5;
	ck_assert_int_eq(guest_load(&guest, RAW_GPA + bound.page, &value), KVM_EXIT_HLT);
	ck_assert_uint_eq(value, 0x01020305);
	guest_close(&guest);
	raw_close_shared(&bound);
}
END_TEST

START_TEST(punched_page_reads_zero_in_the_guest)
{
	struct raw_shared bound;
	struct guest guest;
	uint32_t value;

	NEED_GUEST();
	if (!raw_open_shared(&bound, PAGES))
		return;
	raw_bind_shared(&bound);
	raw_open_guest(bound.vm, &guest);
	ck_assert_int_eq(guest_store(&guest, RAW_GPA, 77), KVM_EXIT_HLT);
	ck_assert_int_eq(raw_punch(bound.fd, 0, bound.page), 0);
	ck_assert_int_eq(guest_load(&guest, RAW_GPA, &value), KVM_EXIT_HLT);
	ck_assert_uint_eq(value, 0);
	guest_close(&guest);
	raw_close_shared(&bound);
}
END_TEST

START_TEST(allocated_page_reads_zero_in_the_guest_and_is_then_resident)
{
	struct raw_shared bound;
	struct guest guest;
	uint32_t value;

	NEED_GUEST();
	if (!raw_open_shared(&bound, PAGES))
		return;
	raw_bind_shared(&bound);
	raw_open_guest(bound.vm, &guest);
	ck_assert_int_eq(raw_allocate(bound.fd, 0, bound.size), 0);
	ck_assert_uint_eq(host_count_resident(bound.map, bound.size), 0);
	ck_assert_int_eq(guest_load(&guest, RAW_GPA + bound.page, &value), KVM_EXIT_HLT);
	ck_assert_uint_eq(value, 0);
	ck_assert_uint_eq(host_count_resident(bound.map, bound.size), 1);
	guest_close(&guest);
	raw_close_shared(&bound);
}
END_TEST

struct counting {
	struct guest guest;
	atomic_bool done;
	int result;
};

static void *count_in_guest(void *data)
{
	struct counting *counting = data;

	counting->result = KVM_EXIT_HLT;
	for (int i = 0; i < ROUNDS && counting->result == KVM_EXIT_HLT; i++)
		counting->result = guest_count(&counting->guest, RAW_GPA, COUNTS);
	atomic_store(&counting->done, true);
	return NULL;
}

/* It finds a fresh page each time, and nobody hears of it. */
START_TEST(guest_goes_on_while_its_page_is_punched)
{
	struct counting counting;
	struct raw_shared bound;
	uint32_t counted;
	pthread_t thread;

	NEED_GUEST();
	if (!raw_open_shared(&bound, PAGES))
		return;
	raw_bind_shared(&bound);
	raw_open_guest(bound.vm, &counting.guest);
	atomic_init(&counting.done, false);
	ck_assert_int_eq(pthread_create(&thread, NULL, count_in_guest, &counting), 0);
	while (!atomic_load(&counting.done))
		ck_assert_int_eq(raw_punch(bound.fd, 0, bound.page), 0);
	ck_assert_int_eq(pthread_join(thread, NULL), 0);
	ck_assert_int_eq(counting.result, KVM_EXIT_HLT);
	memcpy(&counted, bound.map, sizeof(counted));
	ck_assert_uint_le(counted, ROUNDS * COUNTS);
	guest_close(&counting.guest);
	raw_close_shared(&bound);
}
END_TEST

/* Without MMAP the guest's memory is the host address, and the guest_memfd is not used. */
START_TEST(guest_memfd_without_mmap_is_ignored)
{
	static const uint64_t flags[] = {0, RAW_INIT_SHARED};
	struct raw_shared bound;
	struct guest guest;
	unsigned char *memory;
	int fd;

	NEED_GUEST();
	if (!raw_open_shared(&bound, PAGES))
		return;
	memory = raw_map(-1, 0, bound.size);
	fd = raw_memfd(bound.vm, bound.size, flags[_i]);
	ck_assert_int_ge(fd, 0);
	bound.region.memfd = (uint32_t)fd;
	bound.region.addr = (uintptr_t)memory;
	if (raw_set(bound.vm, &bound.region) == -EINVAL)
		SKIP("this kernel binds no guest_memfd without MMAP to a plain VM");
	raw_open_guest(bound.vm, &guest);
	ck_assert_int_eq(guest_store(&guest, RAW_GPA, 1), KVM_EXIT_HLT);
	ck_assert_int_eq(memory[0], 1);
	if (host_can_count_cached())
		ck_assert_int_eq(host_count_cached(fd), 0);
	guest_close(&guest);
	munmap(memory, bound.size);
	close(fd);
	raw_close_shared(&bound);
}
END_TEST

/* With MMAP it is the guest's memory, though without INIT_SHARED the host cannot touch it. */
START_TEST(guest_memfd_with_mmap_alone_is_the_memory_of_the_guest)
{
	struct raw_shared bound;
	struct guest guest;
	unsigned char *memory;
	int fd;

	NEED_GUEST();
	if (!raw_open_shared(&bound, PAGES))
		return;
	if (!host_can_count_cached())
		SKIP("this kernel does not tell a file's pages");
	memory = raw_map(-1, 0, bound.size);
	fd = raw_memfd(bound.vm, bound.size, RAW_MMAP);
	ck_assert_int_ge(fd, 0);
	bound.region.memfd = (uint32_t)fd;
	bound.region.addr = (uintptr_t)memory;
	raw_bind_shared(&bound);
	raw_open_guest(bound.vm, &guest);
	ck_assert_int_eq(guest_store(&guest, RAW_GPA, 1), KVM_EXIT_HLT);
	/* An emulated store goes to the host address. */
	ck_assert_int_eq(memory[0] + host_count_cached(fd), 1);
	harness_note("the guest's store goes to the %s", memory[0] ? "host address" : "file");
	guest_close(&guest);
	munmap(memory, bound.size);
	close(fd);
	raw_close_shared(&bound);
}
END_TEST

/* The vCPU's own accesses go to the guest_memfd, those that KVM makes for it to the address. */
START_TEST(other_host_address_splits_the_memory)
{
	struct raw_shared bound;
	struct guest guest;
	unsigned char *memory;

	NEED_GUEST();
	if (!raw_open_shared(&bound, PAGES))
		return;
	memory = raw_map(-1, 0, bound.size);
	bound.region.addr = (uintptr_t)memory;
	raw_bind_shared(&bound);
	raw_open_guest(bound.vm, &guest);
	ck_assert_int_eq(guest_store(&guest, RAW_GPA, 1), KVM_EXIT_HLT);
	ck_assert_int_eq(memory[0] + bound.map[0], 1);
	harness_note("the guest's store goes to the %s", memory[0] ? "host address" : "file");
	guest_close(&guest);
	raw_close_shared(&bound);
}
END_TEST

#define DEVICE	    UINT64_C(0x40000) /* no memory: reads of it exit */
#define COPY_OFFSET 0x100	      /* of the instructions below, in the guest's code */

#ifdef __x86_64__

/* Lets the guest copy one byte, up to the exit for that one of the addresses that is DEVICE. */
static void begin_copy(unsigned char *code, struct guest *guest, uint64_t from, uint64_t to)
{
	static const unsigned char copy[] = {0xa4 /* movsb */, 0xf4 /* hlt */};
	struct kvm_regs regs = {.rip = COPY_OFFSET, .rflags = 2};
	struct kvm_sregs sregs;

	memcpy(code + COPY_OFFSET, copy, sizeof(copy));
	ck_assert_int_eq(ioctl(guest->fd, KVM_GET_SREGS, &sregs), 0);
	sregs.cs.base = RAW_CODE;
	sregs.cs.selector = (uint16_t)(RAW_CODE >> 4);
	sregs.ds.base = from;
	sregs.ds.selector = (uint16_t)(from >> 4);
	sregs.es.base = to;
	sregs.es.selector = (uint16_t)(to >> 4);
	ck_assert_int_eq(ioctl(guest->fd, KVM_SET_SREGS, &sregs), 0);
	ck_assert_int_eq(ioctl(guest->fd, KVM_SET_REGS, &regs), 0);
	ck_assert_int_eq(ioctl(guest->fd, KVM_RUN, 0UL), 0);
	ck_assert_int_eq((int)guest->run->exit_reason, KVM_EXIT_MMIO);
	ck_assert_uint_eq(guest->run->mmio.phys_addr, DEVICE);
}

/*
 * Lets the guest copy one byte, 0x5a, from a device to an address. KVM does not leave that to the
 * processor, so the store is its own. Returns the exit after it.
 */
static int copy_from_device(unsigned char *code, struct guest *guest, uint64_t to)
{
	begin_copy(code, guest, DEVICE, to);
	guest->run->mmio.data[0] = 0x5a;
	ck_assert_int_eq(ioctl(guest->fd, KVM_RUN, 0UL), 0);
	return (int)guest->run->exit_reason;
}

/* The other way round: the load is KVM's own. Returns what the device gets. */
static int copy_to_device(unsigned char *code, struct guest *guest, uint64_t from)
{
	begin_copy(code, guest, from, DEVICE);
	ck_assert_uint_eq(guest->run->mmio.is_write, 1);
	return guest->run->mmio.data[0];
}

#else

static int copy_from_device(unsigned char *code, struct guest *guest, uint64_t to)
{
	(void)code;
	(void)guest;
	(void)to;
	return -ENOSYS;
}

static int copy_to_device(unsigned char *code, struct guest *guest, uint64_t from)
{
	return copy_from_device(code, guest, from);
}

#endif

/* The accesses of KVM itself go to the host address, whatever the guest_memfd holds. */
START_TEST(store_of_kvm_itself_goes_to_the_host_address)
{
	struct raw_shared bound;
	struct guest guest;
	unsigned char *memory, *code;
	int reason;

	NEED_GUEST();
	if (!raw_open_shared(&bound, PAGES))
		return;
	memory = raw_map(-1, 0, bound.size);
	if (_i == 1)
		bound.region.addr = (uintptr_t)memory;
	else if (_i == 2)
		bound.region.addr = 0;
	raw_bind_shared(&bound);
	code = raw_open_guest(bound.vm, &guest);
	reason = copy_from_device(code, &guest, RAW_GPA);
	if (reason == -ENOSYS)
		SKIP("the instruction that makes KVM store is of x86");
	ck_assert_int_eq(reason, _i == 2 ? KVM_EXIT_MMIO : KVM_EXIT_HLT);
	ck_assert_int_eq(bound.map[0], _i == 0 ? 0x5a : 0);
	ck_assert_int_eq(memory[0], _i == 1 ? 0x5a : 0);
	guest_close(&guest);
	munmap(memory, bound.size);
	raw_close_shared(&bound);
}
END_TEST

/*
 * The slot still names the address of a mapping that is closed: through KVM's own accesses the
 * guest reads and writes what the host maps there next.
 */
START_TEST(closed_mapping_opens_what_is_mapped_there_next)
{
	unsigned char *next, *code;
	struct raw_shared bound;
	struct guest guest;
	int reason;

	NEED_GUEST();
	if (!raw_open_shared(&bound, PAGES))
		return;
	raw_bind_shared(&bound);
	code = raw_open_guest(bound.vm, &guest);
	next = mmap(bound.map, bound.size, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	ck_assert_ptr_eq(next, bound.map);
	memset(next, 'h', bound.size);
	reason = copy_from_device(code, &guest, RAW_GPA);
	if (reason == -ENOSYS)
		SKIP("the instruction that makes KVM store is of x86");
	ck_assert_int_eq(reason, KVM_EXIT_HLT);
	ck_assert_int_eq(next[0], 0x5a);
	ck_assert_int_eq(copy_to_device(code, &guest, RAW_GPA + bound.page), 'h');
	bound.map = raw_map(bound.fd, 0, bound.size);
	ck_assert_int_eq(bound.map[0], 0);
	munmap(next, bound.size);
	guest_close(&guest);
	raw_close_shared(&bound);
}
END_TEST

/* The mapping at the host address goes, the file stays: only what KVM itself does needs it. */
START_TEST(guest_needs_the_mapping_only_for_accesses_that_kvm_makes)
{
	struct raw_shared bound;
	struct guest guest;
	uint32_t value;
	int r;

	NEED_GUEST();
	if (!raw_open_shared(&bound, PAGES))
		return;
	raw_bind_shared(&bound);
	raw_open_guest(bound.vm, &guest);
	ck_assert_int_eq(guest_store(&guest, RAW_GPA, 42), KVM_EXIT_HLT);
	munmap(bound.map, bound.size);
	r = guest_load(&guest, RAW_GPA, &value);
	if (r == KVM_EXIT_HLT)
		ck_assert_uint_eq(value, 42);
	else
		ck_assert_int_eq(r, KVM_EXIT_MMIO);
	harness_note("%s", r == KVM_EXIT_HLT ? "the guest goes on" : "KVM_EXIT_MMIO");
	bound.map = raw_map(bound.fd, 0, bound.size);
	ck_assert_int_eq(bound.map[0], 42);
	guest_close(&guest);
	raw_close_shared(&bound);
}
END_TEST

START_TEST(closed_descriptor_is_enough_while_a_mapping_lives)
{
	struct raw_shared bound;
	struct guest guest;

	NEED_GUEST();
	if (!raw_open_shared(&bound, PAGES))
		return;
	raw_bind_shared(&bound);
	raw_open_guest(bound.vm, &guest);
	close(bound.fd);
	ck_assert_int_eq(guest_store(&guest, RAW_GPA, 9), KVM_EXIT_HLT);
	ck_assert_int_eq(bound.map[0], 9);
	guest_close(&guest);
	munmap(bound.map, bound.size);
	close(bound.vm);
}
END_TEST

START_TEST(guest_stops_when_the_file_is_gone)
{
	struct raw_shared bound;
	struct guest guest;
	int r;

	NEED_GUEST();
	if (!raw_open_shared(&bound, PAGES))
		return;
	raw_bind_shared(&bound);
	raw_open_guest(bound.vm, &guest);
	close(bound.fd);
	munmap(bound.map, bound.size);
	r = guest_store(&guest, RAW_GPA, 9);
	/* An emulated access finds no memory at the host address, and so takes it for a device's.
	 */
	if (r == -EFAULT)
		raw_assert_memory_fault(&guest, RAW_GPA, 0);
	else
		ck_assert_int_eq(r, KVM_EXIT_MMIO);
	harness_note("KVM_EXIT_%s", r == -EFAULT ? "MEMORY_FAULT" : "MMIO");
	ck_assert_int_eq(raw_delete(bound.vm, 0), 0);
	guest_close(&guest);
	close(bound.vm);
}
END_TEST

START_TEST(guest_finds_its_data_where_it_is_bound_next)
{
	struct raw_shared bound;
	struct guest guest;
	uint32_t value;

	NEED_GUEST();
	if (!raw_open_shared(&bound, PAGES))
		return;
	raw_bind_shared(&bound);
	raw_open_guest(bound.vm, &guest);
	ck_assert_int_eq(guest_store(&guest, RAW_GPA + 4, 123), KVM_EXIT_HLT);
	ck_assert_int_eq(raw_delete(bound.vm, 0), 0);
	bound.region.gpa = 4 * RAW_GPA;
	raw_bind_shared(&bound);
	ck_assert_int_eq(guest_load(&guest, 4 * RAW_GPA + 4, &value), KVM_EXIT_HLT);
	ck_assert_uint_eq(value, 123);
	ck_assert_int_eq(guest_load(&guest, RAW_GPA + 4, &value), KVM_EXIT_MMIO);
	guest_close(&guest);
	raw_close_shared(&bound);
}
END_TEST

static uint32_t logged_pages(const struct raw_shared *bound, uint32_t slot)
{
	uint64_t bits = 0;
	struct kvm_dirty_log log = {.slot = slot, .dirty_bitmap = &bits};

	ck_assert_int_eq(ioctl(bound->vm, KVM_GET_DIRTY_LOG, &log), 0);
	return (uint32_t)bits;
}

START_TEST(bound_slot_has_no_dirty_log)
{
	uint64_t bits = 0;
	struct kvm_dirty_log log = {.slot = 0, .dirty_bitmap = &bits};
	struct raw_shared bound;

	if (!raw_open_shared(&bound, PAGES))
		return;
	raw_bind_shared(&bound);
	ck_assert_int_eq(raw_result(ioctl(bound.vm, KVM_GET_DIRTY_LOG, &log)), -ENOENT);
	raw_close_shared(&bound);
}
END_TEST

START_TEST(plain_slot_over_the_mapping_logs_what_the_guest_writes)
{
	struct raw_shared bound;
	struct guest guest;
	uint32_t value;

	NEED_GUEST();
	if (!raw_open_shared(&bound, PAGES))
		return;
	bound.region.flags = RAW_LOG_DIRTY;
	raw_bind_shared(&bound);
	raw_open_guest(bound.vm, &guest);
	/* A page that the guest reads first may be mapped writable, and then counts as written. */
	ck_assert_int_eq(guest_load(&guest, RAW_GPA, &value), KVM_EXIT_HLT);
	harness_note("a first read %s",
		     logged_pages(&bound, 0) ? "counts as a write" : "does not count");
	ck_assert_uint_eq(logged_pages(&bound, 0), 0);
	ck_assert_int_eq(guest_store(&guest, RAW_GPA + 2 * bound.page, 1), KVM_EXIT_HLT);
	ck_assert_int_eq(guest_load(&guest, RAW_GPA, &value), KVM_EXIT_HLT);
	ck_assert_uint_eq(logged_pages(&bound, 0), 1U << 2);
	ck_assert_uint_eq(logged_pages(&bound, 0), 0);
	ck_assert_int_eq(bound.map[2 * bound.page], 1);
	guest_close(&guest);
	raw_close_shared(&bound);
}
END_TEST

static void add_rules(Suite *suite)
{
	kernel_case(suite, "bind-rules");
	KERNEL_TEST(region_that_makes_no_sense_is_refused);
	KERNEL_TEST(region_is_checked_before_the_descriptor);
	KERNEL_TEST(padding_is_not_looked_at_with_a_guest_memfd);
	KERNEL_TEST(range_must_lie_in_the_file);
	KERNEL_LOOP(fault_bind_range_wraps, 0, 2);
	KERNEL_TEST(host_address_need_not_be_that_of_a_mapping);
	KERNEL_TEST(descriptor_must_be_of_a_guest_memfd_of_this_vm);
	KERNEL_TEST(any_guest_memfd_can_be_bound_or_only_those_with_mmap);
	KERNEL_TEST(file_is_checked_before_the_end_of_guest_addresses);
}

static void add_changes(Suite *suite)
{
	kernel_case(suite, "bind-changes");
	KERNEL_TEST(identical_set_is_refused);
	KERNEL_TEST(bound_slot_keeps_all_that_it_has);
	KERNEL_TEST(bound_slot_is_refused_before_the_overlap);
	KERNEL_TEST(delete_of_a_bound_slot_ignores_file_and_offset);
	KERNEL_TEST(plain_slot_becomes_no_guest_memfd_slot);
}

static void add_overlaps(Suite *suite)
{
	kernel_case(suite, "bind-overlaps");
	KERNEL_TEST(page_of_a_file_is_bound_once);
	KERNEL_TEST(copies_of_a_descriptor_are_one_file);
	KERNEL_TEST(bound_range_past_the_end_of_guest_addresses_is_refused);
	KERNEL_TEST(guest_addresses_are_checked_before_the_file);
	KERNEL_TEST(page_is_bound_once_over_address_spaces);
	KERNEL_TEST(two_slots_can_share_a_file);
}

static void add_lifetimes(Suite *suite)
{
	kernel_case(suite, "bind-lifetimes");
	KERNEL_TEST(delete_and_bind_elsewhere_keep_the_data);
	KERNEL_TEST(bound_file_can_be_closed_and_its_slot_deleted);
	KERNEL_TEST(vm_closed_first_leaves_file_and_mapping);
	KERNEL_TEST(closed_descriptor_is_enough_while_a_mapping_lives);
	KERNEL_TEST(guest_needs_the_mapping_only_for_accesses_that_kvm_makes);
	KERNEL_TEST(closed_mapping_opens_what_is_mapped_there_next);
	KERNEL_TEST(guest_stops_when_the_file_is_gone);
	KERNEL_TEST(guest_finds_its_data_where_it_is_bound_next);
}

static void add_guest(Suite *suite)
{
	kernel_case(suite, "bind-guest");
	KERNEL_TEST(guest_and_host_share_the_memory);
	KERNEL_TEST(punched_page_reads_zero_in_the_guest);
	KERNEL_TEST(allocated_page_reads_zero_in_the_guest_and_is_then_resident);
	KERNEL_TEST(guest_goes_on_while_its_page_is_punched);
	KERNEL_LOOP(guest_memfd_without_mmap_is_ignored, 0, 2);
	KERNEL_TEST(guest_memfd_with_mmap_alone_is_the_memory_of_the_guest);
	KERNEL_TEST(other_host_address_splits_the_memory);
	KERNEL_LOOP(store_of_kvm_itself_goes_to_the_host_address, 0, 3);
	KERNEL_TEST(bound_slot_has_no_dirty_log);
	KERNEL_TEST(plain_slot_over_the_mapping_logs_what_the_guest_writes);
}

Suite *kernel_bind_suite(void)
{
	Suite *suite = suite_create("bind");

	add_rules(suite);
	add_changes(suite);
	add_overlaps(suite);
	add_lifetimes(suite);
	add_guest(suite);
	return suite;
}
