/* SPDX-License-Identifier: MIT */
#include "raw.h"

#include "../kvm/host.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CALL_MICROSECONDS 500000U
#define LOAD_MICROSECONDS 300000U /* of a processor: far more than a load takes */

/* ---- The device and its VMs ---- */

int raw_vm_of_type(unsigned int type)
{
	int device = open(harness_kvm_device(), O_RDWR | O_CLOEXEC);
	int fd;

	if (device < 0)
		return -errno;
	fd = ioctl(device, KVM_CREATE_VM, (unsigned long)type);
	if (fd < 0)
		fd = -errno;
	close(device);
	return fd;
}

static void find_missing(char *reason, size_t size)
{
	int vm = raw_vm_of_type(RAW_VM_DEFAULT);

	if (vm < 0)
		snprintf(reason, size, "no VM from %s: %s", harness_kvm_device(), strerror(-vm));
	else if (raw_cap(vm, RAW_CAP_USER_MEMORY2) <= 0)
		snprintf(reason, size, "this kernel has no KVM_SET_USER_MEMORY_REGION2");
	if (vm >= 0)
		close(vm);
}

const char *raw_missing(void)
{
	static char reason[128];
	static bool known; /* a VM takes milliseconds, and tests inherit the answer */

	if (!known)
		find_missing(reason, sizeof(reason));
	known = true;
	return reason[0] ? reason : NULL;
}

uint32_t raw_vm_types(void)
{
	int types = raw_device_cap(RAW_CAP_VM_TYPES);

	return types > 0 ? (uint32_t)types : 1U << RAW_VM_DEFAULT;
}

const char *raw_missing_type(unsigned int type)
{
	const char *missing = raw_missing();

	if (missing || raw_vm_types() >> type & 1)
		return missing;
	return type == RAW_VM_SW_PROTECTED ? "this kernel does not offer software-protected VMs"
					   : "this kernel does not offer VMs of this type";
}

const char *raw_missing_pre_fault(void)
{
	return raw_device_cap(RAW_CAP_PRE_FAULT_MEMORY) > 0
		       ? NULL
		       : "this kernel has no KVM_PRE_FAULT_MEMORY";
}

/* The result of one that nobody knows, or a negative errno where it does not come back in time. */
static int64_t try_call(void)
{
	int vm = raw_vm();
	struct guest guest;
	int64_t result;
	uint64_t gpa;

	raw_open_guest(vm, &guest);
	guest_begin_call(&guest, UINT32_MAX, (const uint64_t[3]){0});
	host_pester(CALL_MICROSECONDS);
	result = guest_enter(&guest);
	host_pester(0);
	if (result == 0 && guest.run->exit_reason == KVM_EXIT_HLT)
		result = guest_result(&guest, &gpa);
	guest_close(&guest);
	close(vm);
	return result;
}

const char *raw_missing_calls(void)
{
	if (!guest_has_calls)
		return "the tests' guest makes no hypercalls on this processor";
	return try_call() == -RAW_CALL_UNSUPPORTED
		       ? NULL
		       : "this KVM does not carry out a processor's hypercalls";
}

int raw_vm(void)
{
	int fd = raw_vm_of_type(RAW_VM_DEFAULT);

	if (fd < 0)
		ck_abort_msg("KVM_CREATE_VM: %s", strerror(-fd));
	return fd;
}

int raw_cap(int fd, int cap)
{
	int r = ioctl(fd, KVM_CHECK_EXTENSION, (unsigned long)cap);

	return r < 0 ? -errno : r;
}

int raw_device_cap(int cap)
{
	int device = open(harness_kvm_device(), O_RDWR | O_CLOEXEC);
	int r;

	ck_assert_int_ge(device, 0);
	r = raw_cap(device, cap);
	close(device);
	return r;
}

bool raw_has_shared(int vm)
{
	int flags = raw_cap(vm, RAW_CAP_GUEST_MEMFD_FLAGS);

	return raw_cap(vm, RAW_CAP_GUEST_MEMFD) > 0 && flags > 0 &&
	       ((uint64_t)flags & RAW_SHARED) == RAW_SHARED;
}

/* ---- Calls ---- */

int raw_memfd(int vm, uint64_t size, uint64_t flags)
{
	struct raw_guest_memfd create = {.size = size, .flags = flags};
	int fd = ioctl(vm, RAW_CREATE_GUEST_MEMFD, &create);

	return fd < 0 ? -errno : fd;
}

int raw_allocate(int memfd, uint64_t offset, uint64_t size)
{
	return raw_result(fallocate(memfd, FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)size));
}

int raw_punch(int memfd, uint64_t offset, uint64_t size)
{
	return raw_result(fallocate(memfd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
				    (off_t)offset, (off_t)size));
}

int raw_set(int vm, const struct raw_region *region)
{
	return raw_result(ioctl(vm, RAW_SET_USER_MEMORY_REGION, region));
}

int raw_delete(int vm, uint32_t slot)
{
	return raw_set(vm, &(struct raw_region){.slot = slot});
}

int raw_try(int vm, const struct raw_region *region)
{
	int r = raw_set(vm, region);

	return r < 0 ? r : raw_delete(vm, region->slot);
}

int raw_set_attributes(int vm, uint64_t gpa, uint64_t size, uint64_t attributes)
{
	struct raw_attributes set = {.gpa = gpa, .size = size, .attributes = attributes};

	return raw_result(ioctl(vm, RAW_SET_ATTRIBUTES, &set));
}

int raw_enable_hypercalls(int vm, uint64_t calls)
{
	struct kvm_enable_cap enable = {.cap = RAW_CAP_EXIT_HYPERCALL, .args = {calls}};

	return raw_result(ioctl(vm, KVM_ENABLE_CAP, &enable));
}

int raw_pre_fault(int vcpu, struct raw_pre_fault *range)
{
	return raw_result(ioctl(vcpu, RAW_PRE_FAULT, range));
}

int raw_userfaultfd(int flags, uint64_t features)
{
	struct uffdio_api api = {.api = UFFD_API, .features = features};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | flags);
	int r;

	if (fd < 0)
		return -errno;
	r = raw_result(ioctl(fd, UFFDIO_API, &api));
	if (r < 0)
		close(fd);
	return r < 0 ? r : fd;
}

int raw_userfaultfd_register(int userfaultfd, void *addr, size_t size, uint64_t mode,
			     uint64_t *calls)
{
	struct uffdio_register reg = {.range = {.start = (uintptr_t)addr, .len = size},
				      .mode = mode};
	int r = raw_result(ioctl(userfaultfd, UFFDIO_REGISTER, &reg));

	if (calls)
		*calls = reg.ioctls;
	return r;
}

/* struct pm_scan_arg and struct page_region */
struct scan {
	uint64_t size, flags, start, end, walk_end, regions, region_count, max_pages;
	uint64_t inverted, all_of, any_of, told;
};

struct scanned {
	uint64_t start, end, kinds;
};

int raw_scan(const void *addr, size_t size, uint64_t kinds)
{
	struct scanned found[64] = {0};
	struct scan scan = {.size = sizeof(scan),
			    .start = (uintptr_t)addr,
			    .end = (uintptr_t)addr + size,
			    .regions = (uintptr_t)found,
			    .region_count = sizeof(found) / sizeof(found[0]),
			    .any_of = kinds,
			    .told = kinds};
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	int pages = 0, count, error;

	ck_assert_int_ge(fd, 0);
	count = ioctl(fd, _IOWR('f', 16, struct scan), &scan);
	error = errno;
	close(fd);
	for (int i = 0; i < count; i++)
		pages += (int)((found[i].end - found[i].start) / raw_page());
	return count < 0 ? -error : pages;
}

size_t raw_page(void)
{
	return (size_t)sysconf(_SC_PAGESIZE);
}

void *raw_map(int fd, uint64_t offset, size_t size)
{
	int flags = fd < 0 ? MAP_SHARED | MAP_ANONYMOUS : MAP_SHARED;
	void *addr = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, (off_t)offset);

	if (addr == MAP_FAILED)
		ck_abort_msg("mmap of fd %d: %s", fd, strerror(errno));
	return addr;
}

unsigned int raw_gpa_bits(int vm, uint32_t id)
{
	size_t page = raw_page();
	void *memory = raw_map(-1, 0, page);
	unsigned int bits = 32;

	while (bits < 63 &&
	       raw_try(vm, &(struct raw_region){.slot = id,
						.gpa = (UINT64_C(1) << (bits + 1)) - page,
						.size = page,
						.addr = (uintptr_t)memory}) == 0)
		bits++;
	munmap(memory, page);
	return bits;
}

/* ---- What tests begin with ---- */

static void fill_shared(struct raw_shared *shared, size_t pages, uint64_t flags)
{
	shared->page = raw_page();
	shared->size = pages * shared->page;
	shared->fd = raw_memfd(shared->vm, shared->size, flags);
	ck_assert_int_ge(shared->fd, 0);
	shared->map = raw_map(flags & RAW_MMAP ? shared->fd : -1, 0, shared->size);
	shared->region = (struct raw_region){.flags = RAW_GUEST_MEMFD,
					     .gpa = RAW_GPA,
					     .size = shared->size,
					     .addr = (uintptr_t)shared->map,
					     .memfd = (uint32_t)shared->fd};
}

bool raw_open_shared(struct raw_shared *shared, size_t pages)
{
	const char *missing = raw_missing();

	if (!missing) {
		shared->vm = raw_vm();
		if (!raw_has_shared(shared->vm)) {
			close(shared->vm);
			missing = RAW_NO_SHARED;
		}
	}
	if (missing) {
		harness_skip("%s", missing);
		return false;
	}
	fill_shared(shared, pages, RAW_SHARED);
	return true;
}

bool raw_open_private(struct raw_shared *shared, size_t pages)
{
	const char *missing = raw_missing_type(RAW_VM_SW_PROTECTED);

	if (missing) {
		harness_skip("%s", missing);
		return false;
	}
	shared->vm = raw_vm_of_type(RAW_VM_SW_PROTECTED);
	ck_assert_int_ge(shared->vm, 0);
	fill_shared(shared, pages, 0);
	return true;
}

void raw_close_shared(const struct raw_shared *shared)
{
	munmap(shared->map, shared->size);
	close(shared->fd);
	close(shared->vm);
}

void raw_bind_shared(const struct raw_shared *shared)
{
	ck_assert_int_eq(raw_set(shared->vm, &shared->region), 0);
}

void *raw_add_memory(int vm, uint32_t slot, uint64_t gpa, size_t size)
{
	void *memory = raw_map(-1, 0, size);
	struct raw_region region = {
		.slot = slot, .gpa = gpa, .size = size, .addr = (uintptr_t)memory};

	ck_assert_int_eq(raw_set(vm, &region), 0);
	return memory;
}

void raw_bind(int vm, int memfd, size_t size, const void *addr)
{
	struct raw_region region = {.flags = RAW_GUEST_MEMFD,
				    .gpa = RAW_GPA,
				    .size = size,
				    .addr = (uintptr_t)addr,
				    .memfd = (uint32_t)memfd};

	ck_assert_int_eq(raw_set(vm, &region), 0);
}

int raw_add_memfd(int vm, size_t size, uint64_t flags, const void *addr)
{
	int fd = raw_memfd(vm, size, flags);

	ck_assert_int_ge(fd, 0);
	raw_bind(vm, fd, size, addr);
	return fd;
}

void raw_set_private(int vm, uint64_t gpa, bool is_private)
{
	ck_assert_int_eq(
		raw_set_attributes(vm, gpa, raw_page(), is_private ? RAW_ATTRIBUTE_PRIVATE : 0), 0);
}

unsigned char *raw_open_guest(int vm, struct guest *guest)
{
	unsigned char *code = raw_add_memory(vm, RAW_CODE_SLOT, RAW_CODE, raw_page());

	memcpy(code, guest_code, guest_code_size);
	guest_open(guest, vm, RAW_CODE);
	return code;
}

bool raw_runs_touched_code(int vm)
{
	const size_t page = raw_page();
	int fd = raw_memfd(vm, page, RAW_SHARED);
	unsigned char *map;
	struct guest guest;
	uint32_t value;
	int reason;

	ck_assert_int_ge(fd, 0);
	map = raw_map(fd, 0, page);
	raw_bind(vm, fd, page, map);
	memcpy(map, guest_code, guest_code_size);
	raw_open_guest(vm, &guest);
	ck_assert_int_eq(guest_load(&guest, RAW_GPA, &value), KVM_EXIT_HLT);
	guest.code = RAW_GPA;
	host_pester_busy(LOAD_MICROSECONDS);
	reason = guest_load(&guest, RAW_GPA, &value);
	host_pester_busy(0);
	ck_assert_msg(reason == KVM_EXIT_HLT || reason == -EINTR, "%d", reason);
	guest_close(&guest);
	munmap(map, page);
	close(fd);
	return reason == KVM_EXIT_HLT;
}

struct raw_memory_fault raw_get_memory_fault(const struct guest *guest)
{
	struct raw_memory_fault fault;

	ck_assert_uint_eq(guest->run->exit_reason, RAW_EXIT_MEMORY_FAULT);
	memcpy(&fault, &guest->run->hw, sizeof(fault));
	return fault;
}

void raw_assert_memory_fault(const struct guest *guest, uint64_t gpa, uint64_t flags)
{
	struct raw_memory_fault fault = raw_get_memory_fault(guest);

	/* The page, or where pages are larger, the 4 KiB of it that were touched. */
	ck_assert(fault.gpa == gpa / raw_page() * raw_page() || fault.gpa == gpa / 4096 * 4096);
	ck_assert_uint_eq(fault.size, raw_page());
	ck_assert_uint_eq(fault.flags, flags);
}

/* ---- Regions that the kernel refuses ---- */

const char *const raw_spoilt_names[RAW_SPOILT_COUNT] = {
	"size of part of a page",	   "guest address in a page",	 "host address in a page",
	"host address with a tag",	   "host address of the kernel", "unknown flag",
	"address space that is not there", "id beyond the capability",	 "2^31 pages",
};

struct raw_region raw_spoil(int vm, const struct raw_region *region, enum raw_spoilt how)
{
	struct raw_region spoilt = *region;

	switch (how) {
	case RAW_SPOILT_SIZE:
		spoilt.size += 1;
		break;
	case RAW_SPOILT_GPA:
		spoilt.gpa += 1;
		break;
	case RAW_SPOILT_ADDR:
		spoilt.addr += 1;
		break;
	case RAW_SPOILT_TAG:
		spoilt.addr |= UINT64_C(1) << 60;
		break;
	case RAW_SPOILT_KERNEL_ADDR:
		spoilt.addr = UINT64_C(1) << 63;
		break;
	case RAW_SPOILT_FLAG:
		spoilt.flags |= 1U << 20;
		break;
	case RAW_SPOILT_SPACE:
		spoilt.slot |= UINT32_C(64) << 16;
		break;
	case RAW_SPOILT_ID:
		spoilt.slot = (uint32_t)raw_cap(vm, KVM_CAP_NR_MEMSLOTS);
		break;
	default:
		/* Refused before anything is allocated; nearly as many would take gigabytes. */
		spoilt.addr = 0;
		spoilt.gpa = 0;
		spoilt.size = (UINT64_C(1) << 31) * raw_page();
	}
	return spoilt;
}

void raw_expect_spoilt_refused(int vm, const struct raw_region *region)
{
	for (int how = 0; how < RAW_SPOILT_COUNT; how++) {
		struct raw_region spoilt = raw_spoil(vm, region, (enum raw_spoilt)how);

		raw_expect(raw_spoilt_names[how], raw_set(vm, &spoilt), -EINVAL);
	}
}

/* ---- Answers ---- */

const char *raw_word(int r)
{
	const char *name = r < 0 ? strerrorname_np(-r) : "accepted";

	return name ? name : "an unknown error";
}

int raw_result(long r)
{
	return r < 0 ? -errno : 0;
}

static char differences[512];

void raw_expect(const char *what, int got, int wanted)
{
	size_t used = strlen(differences);

	if (got != wanted)
		snprintf(differences + used, sizeof(differences) - used, "%s%s: %s, not %s",
			 used ? "; " : "", what, raw_word(got), raw_word(wanted));
}

void raw_expect_end(void)
{
	ck_assert_msg(!differences[0], "%s", differences);
}

bool raw_may_lose_machine(void)
{
	const char *allowed = getenv("GMEM_TEST_THROW_AWAY");

	return allowed && strcmp(allowed, "1") == 0;
}
