/* SPDX-License-Identifier: MIT */
/* gmem_vm on a real KVM. */
#include "fixture.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define GPA UINT64_C(0x10000)

static uint64_t cap_of(const struct gmem_vm *vm, enum gmem_cap cap)
{
	uint64_t value;

	assert_ok(gmem_vm_get_cap(vm, cap, &value));
	return value;
}

/* A VM of the VMM's own; false where there is none, and the test is skipped. */
static bool open_own(int *fd)
{
	const char *missing = raw_missing();

	if (missing)
		harness_skip("%s", missing);
	else
		*fd = raw_vm();
	return !missing;
}

/* ---- Opening ---- */

START_TEST(open_leaves_one_descriptor_and_one_page)
{
	struct traces before, now;
	struct gmem_vm *vm;

	NEED_KVM();
	before = traces_get();
	assert_ok(gmem_vm_open(VM_UNDER_TEST(), &vm));
	now = traces_get();
	ck_assert_int_eq(now.fds, before.fds + 1);
	ck_assert_int_eq(now.files, before.files);
	ck_assert_int_eq(now.guards, before.guards + 1);
	ck_assert_int_eq(fcntl(gmem_vm_get_fd(vm), F_GETFD), FD_CLOEXEC);
	ck_assert_int_ge(raw_cap(gmem_vm_get_fd(vm), KVM_CAP_NR_MEMSLOTS), 1);
	gmem_vm_close(vm);
	traces_assert_same(&before);
}
END_TEST

/* The ids that probing may have used, and the guest addresses that it tried. */
START_TEST(open_leaves_no_slot)
{
	struct raw_region region = {0};
	struct gmem_vm *vm;
	uint32_t last;
	int fd;

	NEED_KVM();
	assert_ok(gmem_vm_open(VM_UNDER_TEST(), &vm));
	fd = gmem_vm_get_fd(vm);
	last = (uint32_t)raw_cap(fd, KVM_CAP_NR_MEMSLOTS) - 1;
	region.size = 2 * raw_page();
	region.addr = (uintptr_t)raw_map(-1, 0, region.size);
	for (uint32_t i = 0; i < 32; i++) {
		region.slot = last - i;
		ck_assert_int_eq(raw_try(fd, &region), 0);
		region.slot = i;
		ck_assert_int_eq(raw_try(fd, &region), 0);
		ck_assert_int_eq(raw_delete(fd, last - i), -EINVAL);
	}
	for (uint64_t bits = 20; bits <= cap_of(vm, GMEM_CAP_GPA_BITS); bits++) {
		region.gpa = (UINT64_C(1) << bits) - region.size;
		ck_assert_int_eq(raw_try(fd, &region), 0);
	}
	gmem_vm_close(vm);
}
END_TEST

START_TEST(open_makes_each_type_that_the_kernel_makes)
{
	struct traces before;
	struct gmem_vm *vm;
	uint64_t types;
	int device, fd;

	NEED_KVM();
	device = open(harness_kvm_device(), O_RDWR | O_CLOEXEC);
	fd = ioctl(device, KVM_CREATE_VM, (unsigned long)_i);
	close(device);
	if (fd < 0 && errno != EINVAL)
		SKIP("KVM_CREATE_VM of type %d: %s", _i, strerror(errno));
	close(fd);
	before = traces_get();
	if (fd < 0) {
		assert_fails(gmem_vm_open(VM_UNDER_TEST(.type = (uint64_t)_i), &vm), EINVAL,
			     VM_TYPE);
		ck_assert_ptr_null(vm);
	} else {
		assert_ok(gmem_vm_open(VM_UNDER_TEST(.type = (uint64_t)_i), &vm));
		/* Not every architecture lists its types. */
		if (gmem_vm_get_cap(vm, GMEM_CAP_VM_TYPES, &types) == 0)
			ck_assert_uint_ne(types >> _i & 1, 0);
		gmem_vm_close(vm);
	}
	traces_assert_same(&before);
}
END_TEST

START_TEST(open_without_options_takes_dev_kvm)
{
	struct gmem_vm *vm;

	NEED_KVM();
	if (strcmp(harness_kvm_device(), "/dev/kvm") != 0)
		SKIP("another device than /dev/kvm is under test");
	assert_ok(gmem_vm_open(NULL, &vm));
	gmem_vm_close(vm);
}
END_TEST

START_TEST(open_says_what_is_wrong_with_the_device)
{
	struct traces before = traces_get();
	struct gmem_vm *vm;

	assert_fails(gmem_vm_open(VM(.device = "/dev/no-such-device"), &vm), ENOENT, KVM_NO_DEVICE);
	assert_fails(gmem_vm_open(VM(.device = "/dev/null"), &vm), ENOTTY, KVM_NOT_KVM);
	assert_fails(gmem_vm_open(VM(.device = "/"), &vm), EISDIR, KERNEL_REFUSED);
	ck_assert_ptr_null(vm);
	traces_assert_same(&before);
}
END_TEST

static int open_forbidden(void *data)
{
	struct gmem_vm *vm;

	CHILD_CHECK(geteuid() != 0 || seteuid(65534) == 0);
	CHILD_CHECK(gmem_vm_open(VM(.device = data), &vm) == -EACCES);
	CHILD_CHECK(gmem_error_get_reason() == GMEM_REASON_KVM_NO_PERMISSION);
	return 0;
}

START_TEST(open_says_that_permission_is_missing)
{
	char path[] = "/tmp/gmem-test-XXXXXX";
	int fd = mkstemp(path);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(fchmod(fd, 0), 0);
	close(fd);
	ck_assert_int_eq(host_run_child(open_forbidden, path), 0);
	unlink(path);
}
END_TEST

START_TEST(open_refuses_ids_that_the_kernel_lacks)
{
	struct traces before;
	struct gmem_vm *vm;
	uint32_t ids;
	int fd;

	if (!open_own(&fd))
		return;
	ids = (uint32_t)raw_cap(fd, KVM_CAP_NR_MEMSLOTS);
	before = traces_get();
	assert_fails(gmem_vm_open_fd(fd, VM(.id_first = ids), &vm), ERANGE, ID_BEYOND_LIMIT);
	assert_fails(gmem_vm_open_fd(fd, VM(.id_first = ids - 1, .id_count = 2), &vm), ERANGE,
		     ID_BEYOND_LIMIT);
	assert_fails(gmem_vm_open_fd(fd, VM(.id_first = 2, .id_count = UINT32_MAX), &vm), ERANGE,
		     ID_BEYOND_LIMIT);
	assert_fails(gmem_vm_open_fd(fd, VM(.flags = 2), &vm), EINVAL, FLAGS_UNKNOWN);
	assert_fails(gmem_vm_open_fd(fd, VM(.device = "/dev/kvm"), &vm), EINVAL, CONFLICT);
	traces_assert_same(&before);
	assert_ok(gmem_vm_open_fd(fd, VM(.id_first = ids - 1), &vm));
	gmem_vm_close(vm);
	close(fd);
}
END_TEST

/* ---- The VMM's own VM ---- */

START_TEST(open_fd_duplicates_the_descriptor)
{
	struct traces before;
	struct gmem_vm *vm;
	int fd;

	if (!open_own(&fd))
		return;
	before = traces_get();
	ck_assert_int_eq(fcntl(fd, F_SETFD, 0), 0);
	assert_ok(gmem_vm_open_fd(fd, NULL, &vm));
	ck_assert_int_ne(gmem_vm_get_fd(vm), fd);
	ck_assert_int_eq(fcntl(gmem_vm_get_fd(vm), F_GETFD), FD_CLOEXEC);
	ck_assert_int_eq(fcntl(fd, F_GETFD), 0);
	gmem_vm_close(vm);
	traces_assert_same(&before);
	ck_assert_int_ge(raw_cap(fd, KVM_CAP_NR_MEMSLOTS), 1);
	close(fd);
}
END_TEST

START_TEST(vm_lives_on_when_the_vmm_closes_its_descriptor)
{
	size_t page = raw_page();
	struct gmem_slot *slot;
	struct gmem_vm *vm;
	uint32_t value = 0;
	char *memory;
	int fd;

	if (!open_own(&fd))
		return;
	assert_ok(gmem_vm_open_fd(fd, NULL, &vm));
	close(fd);
	memory = raw_map(-1, 0, page);
	assert_ok(gmem_slot_create(vm, SLOT(.gpa = GPA, .size = page, .host = memory), &slot));
	assert_ok(gmem_vm_store_u32(vm, 0, GPA, 5));
	assert_ok(gmem_vm_load_u32(vm, 0, GPA, &value));
	ck_assert_uint_eq(value, 5);
	gmem_slot_close(slot);
	gmem_vm_close(vm);
	munmap(memory, page);
}
END_TEST

/* Slots of the VMM under the highest ids and at the highest addresses, where probing happens. */
struct own_slots {
	int fd;
	uint32_t ids[7];
	uint64_t gpas[7];
	char *memory;
	size_t page;
};

static struct raw_region own_region(const struct own_slots *own, int i)
{
	return (struct raw_region){.slot = own->ids[i],
				   .gpa = own->gpas[i],
				   .size = own->page,
				   .addr = (uintptr_t)own->memory};
}

static void set_own(struct own_slots *own, int fd)
{
	uint32_t end = (uint32_t)raw_cap(fd, KVM_CAP_NR_MEMSLOTS);
	unsigned int bits = raw_gpa_bits(fd, 0);
	const unsigned int at[7] = {32, bits, 33, bits - 1, 36, 31, 40 < bits ? 40 : 34};

	own->fd = fd;
	own->page = raw_page();
	own->memory = raw_map(-1, 0, own->page);
	for (int i = 0; i < 7; i++) {
		struct raw_region region;

		own->ids[i] = end - 1 - (uint32_t)i;
		own->gpas[i] = (UINT64_C(1) << at[i]) - own->page;
		region = own_region(own, i);
		ck_assert_int_eq(raw_set(fd, &region), 0);
	}
}

/* Each is where it was: another slot is refused there, and allowed once it is deleted. */
static void assert_own_unharmed(const struct own_slots *own)
{
	for (int i = 0; i < 7; i++) {
		struct raw_region other = own_region(own, i);

		other.slot = 3;
		ck_assert_int_eq(raw_set(own->fd, &other), -EEXIST);
		ck_assert_int_eq(raw_delete(own->fd, own->ids[i]), 0);
		ck_assert_int_eq(raw_try(own->fd, &other), 0);
	}
}

START_TEST(open_fd_leaves_the_vmms_slots_alone)
{
	struct own_slots own;
	struct gmem_vm *vm;
	unsigned int bits;
	int fd;

	if (!open_own(&fd))
		return;
	bits = raw_gpa_bits(fd, 0);
	set_own(&own, fd);
	assert_ok(gmem_vm_open_fd(fd, NULL, &vm));
	ck_assert_uint_eq(cap_of(vm, GMEM_CAP_GPA_BITS), bits);
	assert_own_unharmed(&own);
	gmem_vm_close(vm);
	close(fd);
}
END_TEST

START_TEST(open_fd_probes_with_granted_ids_only)
{
	struct own_slots own;
	struct gmem_vm *vm;
	uint64_t value;
	int fd;

	if (!open_own(&fd))
		return;
	set_own(&own, fd);
	/* All that is granted is in use. */
	assert_ok(gmem_vm_open_fd(fd, VM(.id_first = own.ids[6]), &vm));
	assert_fails(gmem_vm_get_cap(vm, GMEM_CAP_GPA_BITS, &value), EBUSY, CAP_PROBE_FAILED);
	ck_assert_uint_eq(value, 0);
	gmem_vm_close(vm);
	assert_ok(gmem_vm_open_fd(fd, VM(.id_first = 4, .id_count = 1), &vm));
	assert_ok(gmem_vm_get_cap(vm, GMEM_CAP_GPA_BITS, &value));
	assert_own_unharmed(&own);
	gmem_vm_close(vm);
	close(fd);
}
END_TEST

START_TEST(open_fd_refuses_what_is_no_vm)
{
	int fd, device, pipes[2];
	struct traces before;
	int others[8];
	struct gmem_vm *vm;

	if (!open_own(&fd))
		return;
	device = open(harness_kvm_device(), O_RDWR | O_CLOEXEC);
	ck_assert_int_eq(pipe2(pipes, O_CLOEXEC), 0);
	others[0] = device;
	others[1] = ioctl(fd, KVM_CREATE_VCPU, 0UL);
	others[2] = pipes[0];
	others[3] = pipes[1];
	others[4] = eventfd(0, EFD_CLOEXEC);
	others[5] = memfd_create("plain", MFD_CLOEXEC);
	others[6] = epoll_create1(EPOLL_CLOEXEC);
	others[7] = raw_has_shared(fd) ? raw_memfd(fd, raw_page(), 0) : open("/", O_RDONLY);
	before = traces_get();
	for (size_t i = 0; i < 8; i++) {
		ck_assert_int_ge(others[i], 0);
		assert_fails(gmem_vm_open_fd(others[i], NULL, &vm), ENOTTY, FD_NOT_VM);
		ck_assert_ptr_null(vm);
	}
	traces_assert_same(&before);
	for (size_t i = 0; i < 8; i++)
		close(others[i]);
	close(fd);
	assert_fails(gmem_vm_open_fd(fd, NULL, &vm), EBADF, FD_INVALID);
	assert_fails(gmem_vm_open_fd(-1, NULL, &vm), EBADF, FD_INVALID);
}
END_TEST

/* ---- Capabilities ---- */

static const struct {
	enum gmem_cap cap;
	int kvm_cap;
	uint64_t none; /* what 0 stands for */
} listed[] = {
	{GMEM_CAP_GUEST_MEMFD, RAW_CAP_GUEST_MEMFD, 0},
	{GMEM_CAP_GUEST_MEMFD_FLAGS, RAW_CAP_GUEST_MEMFD_FLAGS, 0},
	{GMEM_CAP_USER_MEMORY2, RAW_CAP_USER_MEMORY2, 0},
	{GMEM_CAP_MEMORY_ATTRIBUTES, RAW_CAP_MEMORY_ATTRIBUTES, 0},
	{GMEM_CAP_MEMORY_FAULT_INFO, RAW_CAP_MEMORY_FAULT_INFO, 0},
	{GMEM_CAP_PRE_FAULT_MEMORY, RAW_CAP_PRE_FAULT_MEMORY, 0},
	{GMEM_CAP_READONLY_MEM, KVM_CAP_READONLY_MEM, 0},
	{GMEM_CAP_NR_MEMSLOTS, KVM_CAP_NR_MEMSLOTS, 32},
	{GMEM_CAP_NR_ADDRESS_SPACES, KVM_CAP_MULTI_ADDRESS_SPACE, 1},
	{GMEM_CAP_VM_TYPES, RAW_CAP_VM_TYPES, 0},
};
#define LISTED (int)(sizeof(listed) / sizeof(listed[0]))

START_TEST(capability_is_the_kernels_for_this_vm)
{
	struct gmem_vm *vm;
	uint64_t value = 99, expected;
	int fd, r;

	if (!open_own(&fd))
		return;
	assert_ok(gmem_vm_open_fd(fd, NULL, &vm));
	r = raw_cap(fd, listed[_i].kvm_cap);
	ck_assert_int_ge(r, 0);
	expected = r ? (uint64_t)r : listed[_i].none;
	if (expected)
		assert_ok(gmem_vm_get_cap(vm, listed[_i].cap, &value));
	else
		assert_fails(gmem_vm_get_cap(vm, listed[_i].cap, &value), EOPNOTSUPP,
			     CAP_UNSUPPORTED);
	ck_assert_uint_eq(value, expected);
	gmem_vm_close(vm);
	close(fd);
}
END_TEST

START_TEST(guest_addresses_end_where_the_capability_says)
{
	struct raw_region region = {0};
	struct gmem_vm *vm;
	struct gmem_slot *slot;
	uint64_t end;
	void *memory;
	int fd, r;

	if (!open_own(&fd))
		return;
	assert_ok(gmem_vm_open_fd(fd, NULL, &vm));
	end = UINT64_C(1) << cap_of(vm, GMEM_CAP_GPA_BITS);
	memory = raw_map(-1, 0, raw_page());
	region.size = raw_page();
	region.addr = (uintptr_t)memory;
	region.gpa = end - region.size;
	ck_assert_int_eq(raw_try(fd, &region), 0);
	region.gpa = end;
	r = raw_set(fd, &region);
	ck_assert(r == -EINVAL || r == -EFAULT);

	assert_fails(
		gmem_slot_create(vm, SLOT(.gpa = end, .size = region.size, .host = memory), &slot),
		ERANGE, GPA_BEYOND_WIDTH);
	assert_ok(gmem_slot_create(
		vm, SLOT(.gpa = end - region.size, .size = region.size, .host = memory), &slot));
	gmem_slot_close(slot);
	gmem_vm_close(vm);
	close(fd);
}
END_TEST

/* Straight to the kernel: libc's may be a sanitizer's, which moves what it does not know. */
static bool can_map_at(uintptr_t addr)
{
	size_t page = raw_page();
	long r = syscall(SYS_mmap, addr, page, PROT_NONE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0L);

	if (r == (long)addr)
		syscall(SYS_munmap, addr, page);
	return r == (long)addr || (r < 0 && errno == EEXIST);
}

/* Something can be mapped in the upper half of the addresses, and nothing beyond. */
START_TEST(process_addresses_end_where_the_capability_says)
{
	struct gmem_vm *vm;
	uintptr_t end;

	NEED_KVM();
	assert_ok(gmem_vm_open(VM_UNDER_TEST(), &vm));
	end = (uintptr_t)1 << cap_of(vm, GMEM_CAP_HVA_BITS);
	ck_assert(can_map_at(end / 2));
	ck_assert(!can_map_at(end));
	gmem_vm_close(vm);
}
END_TEST

START_TEST(what_is_tried_agrees_with_the_kernel)
{
	struct raw_region region = {.flags = RAW_GUEST_MEMFD, .gpa = GPA};
	struct world world;
	uint64_t value;
	int memfd, r;

	if (!world_open_guest_memfd(&world))
		return;
	memfd = raw_memfd(world.fd, world.page, RAW_SHARED);
	ck_assert_int_ge(memfd, 0);
	r = gmem_vm_get_cap(world.vm, GMEM_CAP_NUMA, &value);
	ck_assert(r == 0 || r == -EOPNOTSUPP);
	ck_assert_int_eq((int)value, host_policy_holds(memfd));

	region.memfd = (uint32_t)memfd;
	region.offset = (UINT64_C(1) << 63) - world.page;
	region.size = 2 * world.page;
	r = gmem_vm_get_cap(world.vm, GMEM_CAP_BIND_CHECKED, &value);
	ck_assert(r == 0 || r == -EOPNOTSUPP);
	ck_assert_int_eq(raw_try(world.fd, &region), value ? -EINVAL : 0);
	close(memfd);
	world_close(&world);
}
END_TEST

/* ---- A child process ---- */

struct family {
	struct world world;
	struct gmem_memfd *memfd;
	struct gmem_map *map;
	struct gmem_slot *slot;
	void *addr;
	void *reserved; /* the address of a slot that is gone */
};

static bool open_family(struct family *family)
{
	struct gmem_slot *gone;

	if (!world_open(&family->world, 0))
		return false;
	family->memfd = world_memfd(&family->world, 4);
	gone = world_slot(&family->world,
			  SLOT(.gpa = GPA, .size = family->world.page, .memfd = family->memfd));
	family->reserved = gmem_slot_get_addr(gone);
	gmem_slot_close(gone);
	family->map = world_map(family->memfd);
	family->addr = gmem_map_get_addr(family->map);
	family->slot = world_slot(&family->world, SLOT(.gpa = GPA, .size = 4 * family->world.page,
						       .memfd = family->memfd, .map = family->map));
	return true;
}

static void close_family(struct family *family)
{
	gmem_slot_close(family->slot);
	gmem_map_close(family->map);
	gmem_memfd_close(family->memfd);
	world_close(&family->world);
}

#define CHILD_FORKED(call)                                                                         \
	do {                                                                                       \
		CHILD_CHECK((call) == -EIO);                                                       \
		CHILD_CHECK(gmem_error_get_reason() == GMEM_REASON_FORKED);                        \
	} while (0)

static int change_in_child(void *data)
{
	struct family *family = data;
	size_t page = family->world.page;
	struct gmem_vm *vm = family->world.vm;
	const struct gmem_slot_opts *opts =
		SLOT(.gpa = 8 * GPA, .size = page, .host = family, .flags = GMEM_SLOT_FIXED_ID);
	struct gmem_replace_opts replace = {.sz = sizeof(replace), .flags = GMEM_REPLACE_NO_VCPUS};
	struct gmem_slot *slot;
	struct gmem_memfd *memfd;
	struct gmem_map *map;
	struct gmem_vm *other;

	CHILD_FORKED(gmem_vm_open_fd(family->world.fd, NULL, &other));
	CHILD_FORKED(gmem_vm_reserve(vm, RESERVE(.gpa = 8 * GPA, .size = page)));
	CHILD_FORKED(gmem_memfd_create(vm, MEMFD(.size = page), &memfd));
	CHILD_FORKED(gmem_memfd_open_fd(vm, gmem_memfd_get_fd(family->memfd), &memfd));
	CHILD_FORKED(gmem_memfd_allocate(family->memfd, 0, page));
	CHILD_FORKED(gmem_memfd_discard(family->memfd, 0, page));
	CHILD_FORKED(gmem_map_create(family->memfd, NULL, &map));
	CHILD_FORKED(gmem_map_populate(family->map, 0, page, 1));
	CHILD_FORKED(gmem_slot_create(vm, opts, &slot));
	CHILD_FORKED(gmem_slot_create_many(vm, opts, 1, &slot));
	CHILD_FORKED(gmem_slot_adopt(vm, opts, &slot));
	CHILD_FORKED(gmem_slot_delete(family->slot));
	CHILD_FORKED(gmem_slot_set_flags(family->slot, 0));
	CHILD_FORKED(gmem_slot_replace(family->slot, opts, &replace));
	CHILD_FORKED(gmem_vm_discard(vm, GPA, page));
	CHILD_FORKED(gmem_vm_reclaim(vm, NULL));
	return 0;
}

static int read_in_child(void *data)
{
	struct family *family = data;
	struct gmem_vm *vm = family->world.vm;
	uint64_t u64;
	uint32_t u32;
	uint16_t u16;
	uint8_t u8;
	void *addr;

	CHILD_FORKED(gmem_vm_translate(vm, 0, GPA, 0, NULL, &addr));
	CHILD_CHECK(!addr);
	CHILD_FORKED(gmem_vm_read(vm, 0, GPA, &u64, sizeof(u64)));
	CHILD_FORKED(gmem_vm_write(vm, 0, GPA, "", 1));
	CHILD_FORKED(gmem_vm_load_u8(vm, 0, GPA, &u8));
	CHILD_FORKED(gmem_vm_load_u16(vm, 0, GPA, &u16));
	CHILD_FORKED(gmem_vm_load_u32(vm, 0, GPA, &u32));
	CHILD_FORKED(gmem_vm_load_u64(vm, 0, GPA, &u64));
	CHILD_FORKED(gmem_vm_store_u8(vm, 0, GPA, 1));
	CHILD_FORKED(gmem_vm_store_u16(vm, 0, GPA, 1));
	CHILD_FORKED(gmem_vm_store_u32(vm, 0, GPA, 1));
	CHILD_FORKED(gmem_vm_store_u64(vm, 0, GPA, 1));
	return 0;
}

/* The child has something of its own where the parent has guest memory. */
static int close_in_child(void *data)
{
	struct family *family = data;
	char *own = mmap(family->addr, family->world.page, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	char *late = mmap(family->reserved, family->world.page, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

	CHILD_CHECK(own == family->addr);
	CHILD_CHECK(late == family->reserved);
	*own = 42;
	*late = 43;
	gmem_slot_close(family->slot);
	gmem_map_close(family->map);
	gmem_memfd_close(family->memfd);
	gmem_vm_close(family->world.vm);
	CHILD_CHECK(*own == 42);
	CHILD_CHECK(*late == 43);
	CHILD_CHECK(fcntl(family->world.fd, F_GETFD) < 0);
	return 0;
}

static void run_family(int (*child)(void *data))
{
	struct family family;
	struct gmem_slot *slot;
	void *addr;

	if (!open_family(&family))
		return;
	assert_ok(gmem_vm_store_u32(family.world.vm, 0, GPA, 7));
	ck_assert_int_eq(host_run_child(child, &family), 0);
	assert_ok(gmem_vm_translate(family.world.vm, 0, GPA, 0, NULL, &addr));
	ck_assert_ptr_eq(addr, family.addr);
	ck_assert_uint_eq(*(uint32_t *)addr, 7);
	assert_fails(
		gmem_slot_create(family.world.vm,
				 SLOT(.gpa = GPA, .size = family.world.page, .host = family.addr),
				 &slot),
		EEXIST, GPA_OVERLAP);
	assert_ok(gmem_slot_delete(family.slot));
	close_family(&family);
}

START_TEST(child_can_change_nothing)
{
	run_family(change_in_child);
}
END_TEST

START_TEST(child_can_read_nothing)
{
	run_family(read_in_child);
}
END_TEST

START_TEST(child_can_close_and_unmaps_nothing)
{
	run_family(close_in_child);
}
END_TEST

/* ---- Reservations and the log ---- */

START_TEST(reserved_ids_and_addresses_are_left_to_the_vmm)
{
	struct raw_region own = {.slot = 1, .gpa = 2 * GPA};
	struct gmem_slot *slot, *adopted;
	struct world world;
	void *memory;

	if (!world_open(&world, 0))
		return;
	memory = raw_map(-1, 0, world.page);
	assert_ok(gmem_vm_reserve(world.vm, RESERVE(.id_first = 0, .id_count = 3, .gpa = 2 * GPA,
						    .size = world.page)));
	own.size = world.page;
	own.addr = (uintptr_t)memory;
	ck_assert_int_eq(raw_set(world.fd, &own), 0);
	slot = world_slot(&world, SLOT(.gpa = GPA, .size = world.page, .host = memory));
	ck_assert_uint_eq(gmem_slot_get_id(slot), 3);
	gmem_slot_close(slot);
	assert_fails(gmem_slot_create(world.vm,
				      SLOT(.gpa = 2 * GPA, .size = world.page, .host = memory),
				      &slot),
		     EEXIST, GPA_RESERVED);
	assert_ok(gmem_slot_adopt(world.vm,
				  SLOT(.gpa = 2 * GPA, .size = world.page, .host = memory, .id = 1,
				       .flags = GMEM_SLOT_FIXED_ID),
				  &adopted));
	gmem_slot_close(adopted);
	ck_assert_int_eq(raw_delete(world.fd, 1), 0);
	world_close(&world);
}
END_TEST

struct log {
	unsigned int errors, others;
	char message[256];
	struct gmem_vm *vm;
	int from_inside; /* what a changing call from the callback gets */
};

static void keep_log(void *data, enum gmem_log_level level, const char *message)
{
	struct log *log = data;

	log->errors += level == GMEM_LOG_ERROR;
	log->others += level != GMEM_LOG_ERROR;
	snprintf(log->message, sizeof(log->message), "%s", message);
	if (log->vm)
		log->from_inside = gmem_vm_reclaim(log->vm, NULL);
}

START_TEST(log_tells_of_failures)
{
	struct log log = {0};
	struct gmem_slot *slot;
	struct gmem_vm *vm;
	size_t page = raw_page();
	void *memory;

	NEED_KVM();
	memory = raw_map(-1, 0, page);
	assert_ok(gmem_vm_open(VM_UNDER_TEST(.log = keep_log, .log_data = &log), &vm));
	assert_ok(gmem_slot_create(vm, SLOT(.gpa = GPA, .size = page, .host = memory), &slot));
	assert_ok(gmem_slot_delete(slot));
	ck_assert_uint_eq(log.errors + log.others, 0);
	assert_fails(gmem_slot_delete(slot), ESTALE, SLOT_DELETED);
	ck_assert_uint_eq(log.errors, 1);
	ck_assert_str_eq(log.message, gmem_error_get_message());
	log.vm = vm;
	gmem_slot_delete(slot);
	ck_assert_int_eq(log.from_inside, -EDEADLK);
	ck_assert_uint_eq(log.errors + log.others, 2);
	gmem_slot_close(slot);
	gmem_vm_close(vm);
	munmap(memory, page);
}
END_TEST

static TCase *make_case(Suite *suite, const char *name)
{
	TCase *tcase = tcase_create(name);

	suite_add_tcase(suite, tcase);
	return tcase;
}

static void add_opening(TCase *tcase)
{
	tcase_add_test(tcase, open_leaves_one_descriptor_and_one_page);
	tcase_add_test(tcase, open_leaves_no_slot);
	tcase_add_loop_test(tcase, open_makes_each_type_that_the_kernel_makes, 0, 8);
	tcase_add_test(tcase, open_without_options_takes_dev_kvm);
	tcase_add_test(tcase, open_says_what_is_wrong_with_the_device);
	tcase_add_test(tcase, open_says_that_permission_is_missing);
	tcase_add_test(tcase, open_refuses_ids_that_the_kernel_lacks);
	tcase_add_test(tcase, open_fd_duplicates_the_descriptor);
	tcase_add_test(tcase, vm_lives_on_when_the_vmm_closes_its_descriptor);
	tcase_add_test(tcase, open_fd_leaves_the_vmms_slots_alone);
	tcase_add_test(tcase, open_fd_probes_with_granted_ids_only);
	tcase_add_test(tcase, open_fd_refuses_what_is_no_vm);
}

static void add_rest(TCase *tcase)
{
	tcase_add_loop_test(tcase, capability_is_the_kernels_for_this_vm, 0, LISTED);
	tcase_add_test(tcase, guest_addresses_end_where_the_capability_says);
	tcase_add_test(tcase, process_addresses_end_where_the_capability_says);
	tcase_add_test(tcase, what_is_tried_agrees_with_the_kernel);
	tcase_add_test(tcase, child_can_change_nothing);
	tcase_add_test(tcase, child_can_read_nothing);
	tcase_add_test(tcase, child_can_close_and_unmaps_nothing);
	tcase_add_test(tcase, reserved_ids_and_addresses_are_left_to_the_vmm);
	tcase_add_test(tcase, log_tells_of_failures);
}

int main(void)
{
	Suite *suite = suite_create("vm");

	add_opening(make_case(suite, "opening"));
	add_rest(make_case(suite, "use"));
	return harness_run(suite);
}
