/* SPDX-License-Identifier: MIT */
/* What the kernel does when a guest_memfd is bound to guest addresses. No library. */
#include "../kvm/guest.h"
#include "../kvm/host.h"
#include "raw.h"
#include "suites.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define GPA   UINT64_C(0x100000)
#define CODE  UINT64_C(0x10000)
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

/* The guest's code in ordinary memory under slot 10, which is returned, and its vCPU. */
static char *open_guest(const struct bound *bound, struct guest *guest)
{
	char *code = raw_map(-1, 0, bound->page);

	memcpy(code, guest_code, guest_code_size);
	ck_assert_int_eq(raw_set(bound->vm, &(struct raw_region){.slot = 10,
								 .gpa = CODE,
								 .size = bound->page,
								 .addr = (uintptr_t)code}),
			 0);
	guest_open(guest, bound->vm, CODE);
	return code;
}

/* ---- Arguments ---- */

/* What makes the kernel refuse a region before it looks at the file. */
enum spoilt {
	SPOILT_LOG,
	SPOILT_READONLY,
	SPOILT_BOTH,
	SPOILT_FLAG,
	SPOILT_SIZE,
	SPOILT_GPA,
	SPOILT_ADDR,
	SPOILT_TAG,
	SPOILT_KERNEL_ADDR,
	SPOILT_OFFSET,
	SPOILT_OFFSET_END,
	SPOILT_SPACE,
	SPOILT_ID,
	SPOILT_GPA_END,
	SPOILT_PAGES,
	SPOILT_COUNT
};

static const char *const spoilt_names[SPOILT_COUNT] = {
	"dirty log",
	"read-only",
	"dirty log and read-only",
	"unknown flag",
	"size of part of a page",
	"guest address in a page",
	"host address in a page",
	"host address with a tag",
	"host address of the kernel",
	"offset in a page",
	"offset that wraps in 64 bits",
	"address space that is not there",
	"id beyond the capability",
	"guest addresses that wrap",
	"2^31 pages",
};

static struct raw_region spoil(const struct bound *bound, enum spoilt how)
{
	struct raw_region region = bound->region;

	switch (how) {
	case SPOILT_LOG:
		region.flags |= RAW_LOG_DIRTY;
		break;
	case SPOILT_READONLY:
		region.flags |= RAW_READONLY;
		break;
	case SPOILT_BOTH:
		region.flags |= RAW_LOG_DIRTY | RAW_READONLY;
		break;
	case SPOILT_FLAG:
		region.flags |= 1U << 20;
		break;
	case SPOILT_SIZE:
		region.size += 1;
		break;
	case SPOILT_GPA:
		region.gpa += 1;
		break;
	case SPOILT_ADDR:
		region.addr += 1;
		break;
	case SPOILT_TAG:
		region.addr |= UINT64_C(1) << 60;
		break;
	case SPOILT_KERNEL_ADDR:
		region.addr = UINT64_C(1) << 63;
		break;
	case SPOILT_OFFSET:
		region.offset += 1;
		break;
	case SPOILT_OFFSET_END:
		region.offset = -(uint64_t)bound->page;
		break;
	case SPOILT_SPACE:
		region.slot |= UINT32_C(64) << 16;
		break;
	case SPOILT_ID:
		region.slot = (uint32_t)raw_cap(bound->vm, KVM_CAP_NR_MEMSLOTS);
		break;
	case SPOILT_GPA_END:
		region.gpa = -(uint64_t)bound->page;
		break;
	default:
		region.addr = 0;
		region.gpa = 0;
		region.size = (UINT64_C(1) << 31) * bound->page;
	}
	return region;
}

START_TEST(region_is_checked)
{
	struct raw_region region;
	struct bound bound;

	if (!open_bound(&bound))
		return;
	for (int i = 0; i < SPOILT_COUNT; i++) {
		region = spoil(&bound, (enum spoilt)i);
		raw_expect(spoilt_names[i], raw_set(bound.vm, &region), -EINVAL);
	}
	raw_expect("as it should be", raw_set(bound.vm, &bound.region), 0);
	raw_expect_end();
	close_bound(&bound);
}
END_TEST

START_TEST(region_is_checked_before_the_file)
{
	struct raw_region region;
	struct bound bound;

	if (!open_bound(&bound))
		return;
	bound.region.memfd = UINT32_MAX;
	raw_expect("no such descriptor", raw_set(bound.vm, &bound.region), -EBADF);
	for (int i = 0; i < SPOILT_COUNT; i++) {
		region = spoil(&bound, (enum spoilt)i);
		raw_expect(spoilt_names[i], raw_set(bound.vm, &region), -EINVAL);
	}
	raw_expect_end();
	close_bound(&bound);
}
END_TEST

START_TEST(padding_is_not_looked_at_with_a_guest_memfd)
{
	struct bound bound;
	int r;

	if (!open_bound(&bound))
		return;
	bound.region.pad1 = 1;
	for (size_t i = 0; i < sizeof(bound.region.pad2) / sizeof(bound.region.pad2[0]); i++)
		bound.region.pad2[i] = UINT64_MAX;
	r = raw_try(bound.vm, &bound.region);
	ck_assert(r == 0 || r == -EINVAL);
	harness_note("%s", raw_word(r));
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
	harness_note("%s", raw_word(r));
	close_bound(&bound);
}
END_TEST

START_TEST(host_address_need_not_be_the_mappings)
{
	struct bound bound;

	if (!open_bound(&bound))
		return;
	bound.region.addr = 0;
	ck_assert_int_eq(raw_try(bound.vm, &bound.region), 0);
	bound.region.addr = (uintptr_t)bound.map + bound.page;
	ck_assert_int_eq(raw_try(bound.vm, &bound.region), 0);
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

/*
 * x86 takes them all, also those of which the guest gets nothing. arm64 takes none of these: there
 * guest memory is all in the guest_memfd or none of it.
 */
START_TEST(any_guest_memfd_can_be_bound_or_those_with_mmap)
{
	struct bound bound;
	int r, without = 0;

	if (!open_bound(&bound))
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
	ck_assert(without == 0 || without == -EINVAL);
#endif
	harness_note("without MMAP: %s", raw_word(without));
	close_bound(&bound);
}
END_TEST

/* Both are refused. Which comes first shows by the error. */
START_TEST(file_is_checked_before_the_end_of_guest_addresses)
{
	struct bound bound;

	if (!open_bound(&bound))
		return;
	bound.region.gpa = UINT64_C(1) << raw_gpa_bits(bound.vm, 0);
	bound.region.memfd = UINT32_MAX;
	ck_assert_int_eq(raw_set(bound.vm, &bound.region), -EBADF);
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

START_TEST(bound_slot_keeps_all_that_it_has)
{
	struct raw_region region;
	struct bound bound;

	if (!open_bound(&bound))
		return;
	bound.region.size = 2 * bound.page;
	bind_all(&bound);
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
	close_bound(&bound);
}
END_TEST

START_TEST(bound_slot_is_refused_before_the_overlap)
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
	region.gpa = GPA;
	ck_assert_int_eq(raw_set(bound.vm, &region), -EINVAL);
	close_bound(&bound);
}
END_TEST

START_TEST(delete_of_a_bound_slot_ignores_file_and_offset)
{
	struct raw_region region;
	struct bound bound;

	if (!open_bound(&bound))
		return;
	bind_all(&bound);
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
	harness_note("%s", raw_word(first));
	close_bound(&bound);
}
END_TEST

/* Up to 7.1 both answers are EINVAL; 7.2 looks at the file first, later kernels at the address. */
START_TEST(bound_range_and_the_end_of_guest_addresses)
{
	struct raw_region region;
	struct bound bound;
	int r;

	if (!open_bound(&bound))
		return;
	bind_all(&bound);
	region = bound.region;
	region.slot = 1;
	region.gpa = UINT64_C(1) << raw_gpa_bits(bound.vm, 2);
	r = raw_set(bound.vm, &region);
	ck_assert(r == -EINVAL || r == -EEXIST || r == -EFAULT);
	harness_note("%s", raw_word(r));
	close_bound(&bound);
}
END_TEST

START_TEST(copies_of_a_descriptor_are_one_file)
{
	struct raw_region region;
	struct bound bound;
	int r;

	if (!open_bound(&bound))
		return;
	bind_all(&bound);
	region = bound.region;
	region.slot = 1;
	region.gpa = 2 * GPA;
	region.memfd = (uint32_t)dup(bound.fd);
	r = raw_set(bound.vm, &region);
	ck_assert(r == -EEXIST || r == -EINVAL);
	harness_note("%s", raw_word(r));
	close((int)region.memfd);
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

START_TEST(allocated_page_reads_zero_in_the_guest_and_is_then_resident)
{
	struct bound bound;
	struct guest guest;
	uint32_t value;

	NEED_GUEST();
	if (!open_bound(&bound))
		return;
	bind_all(&bound);
	open_guest(&bound, &guest);
	ck_assert_int_eq(fallocate(bound.fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)bound.size), 0);
	ck_assert_uint_eq(host_count_resident(bound.map, bound.size), 0);
	ck_assert_int_eq(guest_load(&guest, GPA + bound.page, &value), KVM_EXIT_HLT);
	ck_assert_uint_eq(value, 0);
	ck_assert_uint_eq(host_count_resident(bound.map, bound.size), 1);
	guest_close(&guest);
	close_bound(&bound);
}
END_TEST

/* Without MMAP the guest's memory is the host address, and the guest_memfd is not used. */
START_TEST(guest_memfd_without_mmap_is_ignored)
{
	static const uint64_t flags[] = {0, RAW_INIT_SHARED};
	struct bound bound;
	struct guest guest;
	char *memory;
	int fd;

	NEED_GUEST();
	if (!open_bound(&bound))
		return;
	memory = raw_map(-1, 0, bound.size);
	fd = raw_memfd(bound.vm, bound.size, flags[_i]);
	ck_assert_int_ge(fd, 0);
	bound.region.memfd = (uint32_t)fd;
	bound.region.addr = (uintptr_t)memory;
	if (raw_set(bound.vm, &bound.region) == -EINVAL)
		SKIP("this kernel binds no guest_memfd without MMAP to a plain VM");
	open_guest(&bound, &guest);
	ck_assert_int_eq(guest_store(&guest, GPA, 1), KVM_EXIT_HLT);
	ck_assert_int_eq(memory[0], 1);
	if (host_can_count_cached())
		ck_assert_int_eq(host_count_cached(fd), 0);
	guest_close(&guest);
	munmap(memory, bound.size);
	close(fd);
	close_bound(&bound);
}
END_TEST

/* With MMAP it is the guest's memory, though without INIT_SHARED the host cannot touch it. */
START_TEST(guest_memfd_with_mmap_alone_is_the_guests_memory)
{
	struct bound bound;
	struct guest guest;
	char *memory;
	int fd;

	NEED_GUEST();
	if (!open_bound(&bound))
		return;
	if (!host_can_count_cached())
		SKIP("this kernel does not tell a file's pages");
	memory = raw_map(-1, 0, bound.size);
	fd = raw_memfd(bound.vm, bound.size, RAW_MMAP);
	ck_assert_int_ge(fd, 0);
	bound.region.memfd = (uint32_t)fd;
	bound.region.addr = (uintptr_t)memory;
	bind_all(&bound);
	open_guest(&bound, &guest);
	ck_assert_int_eq(guest_store(&guest, GPA, 1), KVM_EXIT_HLT);
	/* An emulated store goes to the host address. */
	ck_assert_int_eq(memory[0] + host_count_cached(fd), 1);
	harness_note("the guest's store goes to the %s", memory[0] ? "host address" : "file");
	guest_close(&guest);
	munmap(memory, bound.size);
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
	harness_note("the guest's store goes to the %s", memory[0] ? "host address" : "file");
	guest_close(&guest);
	close_bound(&bound);
}
END_TEST

#define DEVICE	    UINT64_C(0x40000) /* no memory: reads of it exit */
#define COPY_OFFSET 0x100	      /* of the instructions below, in the guest's code */

/*
 * Lets the guest copy one byte, 0x5a, from a device to GPA. KVM does not leave that to the
 * processor, so the store is its own. Returns the exit after it.
 */
#ifdef __x86_64__
static int copy_from_device(const struct bound *bound, char *code, struct guest *guest)
{
	static const unsigned char copy[] = {0xa4 /* movsb */, 0xf4 /* hlt */};
	struct kvm_regs regs = {.rip = COPY_OFFSET, .rflags = 2};
	struct kvm_sregs sregs;

	memcpy(code + COPY_OFFSET, copy, sizeof(copy));
	ck_assert_int_eq(ioctl(guest->fd, KVM_GET_SREGS, &sregs), 0);
	sregs.cs.base = CODE;
	sregs.cs.selector = (uint16_t)(CODE >> 4);
	sregs.ds.base = DEVICE;
	sregs.ds.selector = (uint16_t)(DEVICE >> 4);
	sregs.es.base = bound->region.gpa;
	sregs.es.selector = (uint16_t)(bound->region.gpa >> 4);
	ck_assert_int_eq(ioctl(guest->fd, KVM_SET_SREGS, &sregs), 0);
	ck_assert_int_eq(ioctl(guest->fd, KVM_SET_REGS, &regs), 0);
	ck_assert_int_eq(ioctl(guest->fd, KVM_RUN, 0UL), 0);
	ck_assert_int_eq((int)guest->run->exit_reason, KVM_EXIT_MMIO);
	ck_assert_uint_eq(guest->run->mmio.phys_addr, DEVICE);
	guest->run->mmio.data[0] = 0x5a;
	ck_assert_int_eq(ioctl(guest->fd, KVM_RUN, 0UL), 0);
	return (int)guest->run->exit_reason;
}
#else
static int copy_from_device(const struct bound *bound, char *code, struct guest *guest)
{
	(void)bound;
	(void)code;
	(void)guest;
	return -ENOSYS;
}
#endif

/* The accesses of KVM itself go to the host address, whatever the guest_memfd holds. */
START_TEST(store_of_kvm_itself_goes_to_the_host_address)
{
	struct bound bound;
	struct guest guest;
	char *memory, *code;
	int reason;

	NEED_GUEST();
	if (!open_bound(&bound))
		return;
	memory = raw_map(-1, 0, bound.size);
	if (_i == 1)
		bound.region.addr = (uintptr_t)memory;
	else if (_i == 2)
		bound.region.addr = 0;
	bind_all(&bound);
	code = open_guest(&bound, &guest);
	reason = copy_from_device(&bound, code, &guest);
	if (reason == -ENOSYS)
		SKIP("the instruction that makes KVM store is of x86");
	ck_assert_int_eq(reason, _i == 2 ? KVM_EXIT_MMIO : KVM_EXIT_HLT);
	ck_assert_int_eq(bound.map[0], _i == 0 ? 0x5a : 0);
	ck_assert_int_eq(memory[0], _i == 1 ? 0x5a : 0);
	guest_close(&guest);
	munmap(memory, bound.size);
	close_bound(&bound);
}
END_TEST

/* The mapping at the host address goes, the file stays: only what KVM itself does needs it. */
START_TEST(guest_needs_the_mapping_for_kvms_own_accesses_alone)
{
	struct bound bound;
	struct guest guest;
	uint32_t value;
	int r;

	NEED_GUEST();
	if (!open_bound(&bound))
		return;
	bind_all(&bound);
	open_guest(&bound, &guest);
	ck_assert_int_eq(guest_store(&guest, GPA, 42), KVM_EXIT_HLT);
	munmap(bound.map, bound.size);
	r = guest_load(&guest, GPA, &value);
	if (r == KVM_EXIT_HLT)
		ck_assert_uint_eq(value, 42);
	else
		ck_assert_int_eq(r, KVM_EXIT_MMIO);
	harness_note("%s", r == KVM_EXIT_HLT ? "the guest goes on" : "KVM_EXIT_MMIO");
	bound.map = raw_map(bound.fd, 0, bound.size);
	ck_assert_int_eq(bound.map[0], 42);
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
	harness_note("KVM_EXIT_%s", r == -EFAULT ? "MEMORY_FAULT" : "MMIO");
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
	harness_note("a first read %s",
		     logged_pages(&bound, 0) ? "counts as a write" : "does not count");
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

static void add_rules(Suite *suite)
{
	kernel_case(suite, "bind-rules");
	KERNEL_TEST(region_is_checked);
	KERNEL_TEST(region_is_checked_before_the_file);
	KERNEL_TEST(padding_is_not_looked_at_with_a_guest_memfd);
	KERNEL_TEST(range_must_lie_in_the_file);
	KERNEL_TEST(offset_that_wraps_in_63_bits_is_taken_or_refused);
	KERNEL_TEST(host_address_need_not_be_the_mappings);
	KERNEL_TEST(descriptor_must_be_this_vms_guest_memfd);
	KERNEL_TEST(any_guest_memfd_can_be_bound_or_those_with_mmap);
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
	KERNEL_TEST(bound_range_and_the_end_of_guest_addresses);
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
	KERNEL_TEST(guest_needs_the_mapping_for_kvms_own_accesses_alone);
	KERNEL_TEST(guest_stops_when_the_file_is_gone);
	KERNEL_TEST(guest_finds_its_data_where_it_is_bound_next);
}

static void add_guest(Suite *suite)
{
	kernel_case(suite, "bind-guest");
	KERNEL_TEST(guest_and_host_share_the_memory);
	KERNEL_TEST(punched_page_reads_zero_in_the_guest);
	KERNEL_TEST(allocated_page_reads_zero_in_the_guest_and_is_then_resident);
	KERNEL_LOOP(guest_memfd_without_mmap_is_ignored, 0, 2);
	KERNEL_TEST(guest_memfd_with_mmap_alone_is_the_guests_memory);
	KERNEL_TEST(other_host_address_splits_the_memory);
	KERNEL_LOOP(store_of_kvm_itself_goes_to_the_host_address, 0, 3);
	KERNEL_TEST(plain_slot_over_the_mapping_logs_the_guests_writes);
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
