/* SPDX-License-Identifier: MIT */
/*
 * KVM and its guest memory without the library: plain system calls, and what tests begin with that
 * are made of them. For tests that state what the kernel does, and for those that look at the
 * library's work from outside. Names newer than the build's kernel headers are written down here.
 */
#ifndef GMEM_TEST_RAW_H
#define GMEM_TEST_RAW_H

#include "../kvm/guest.h"
#include "harness.h"

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RAW_CAP_EXIT_HYPERCALL	   201
#define RAW_CAP_USER_MEMORY2	   231
#define RAW_CAP_MEMORY_FAULT_INFO  232
#define RAW_CAP_MEMORY_ATTRIBUTES  233
#define RAW_CAP_GUEST_MEMFD	   234
#define RAW_CAP_VM_TYPES	   235
#define RAW_CAP_PRE_FAULT_MEMORY   236
#define RAW_CAP_GUEST_MEMFD_FLAGS  244
#define RAW_EXIT_MEMORY_FAULT	   39
#define RAW_ATTRIBUTE_PRIVATE	   UINT64_C(8)
#define RAW_LOG_DIRTY		   1U
#define RAW_READONLY		   2U
#define RAW_GUEST_MEMFD		   4U
#define RAW_MMAP		   UINT64_C(1)
#define RAW_INIT_SHARED		   UINT64_C(2)
#define RAW_SHARED		   (RAW_MMAP | RAW_INIT_SHARED)
#define RAW_CREATE_GUEST_MEMFD	   _IOWR(KVMIO, 0xd4, struct raw_guest_memfd)
#define RAW_SET_USER_MEMORY_REGION _IOW(KVMIO, 0x49, struct raw_region)
#define RAW_SET_ATTRIBUTES	   _IOW(KVMIO, 0xd2, struct raw_attributes)
#define RAW_PRE_FAULT		   _IOWR(KVMIO, 0xd5, struct raw_pre_fault)
#define RAW_POPULATE_READ	   22 /* madvise() */
#define RAW_POPULATE_WRITE	   23
#define RAW_COLLAPSE		   25
#define RAW_WP_UNPOPULATED	   (UINT64_C(1) << 13) /* userfaultfd */
#define RAW_WP_ASYNC		   (UINT64_C(1) << 15)
#define RAW_PAGE_WRITTEN	   (UINT64_C(1) << 1) /* PAGEMAP_SCAN */
#define RAW_PAGE_PRESENT	   (UINT64_C(1) << 3)
#define RAW_PAGE_SWAPPED	   (UINT64_C(1) << 4)

/* Hypercalls of x86: a number, what it may ask for, and KVM's own errors. */
#define RAW_MAP_GPA_RANGE    UINT64_C(12)
#define RAW_RANGE_PRIVATE    UINT64_C(16)
#define RAW_CALLS_MAP	     (UINT64_C(1) << RAW_MAP_GPA_RANGE) /* of the capability */
#define RAW_CALL_LONG_MODE   UINT64_C(1)
#define RAW_CALL_INVALID     22
#define RAW_CALL_UNSUPPORTED 1000

/* Where tests put things in the guest. */
#define RAW_CODE      UINT64_C(0x10000)
#define RAW_GPA	      UINT64_C(0x100000)
#define RAW_NOWHERE   UINT64_C(0x10000000) /* no slot is there */
#define RAW_CODE_SLOT 10

/* struct kvm_userspace_memory_region2 */
struct raw_region {
	uint32_t slot;
	uint32_t flags;
	uint64_t gpa;
	uint64_t size;
	uint64_t addr;
	uint64_t offset;
	uint32_t memfd;
	uint32_t pad1;
	uint64_t pad2[14];
};

/* struct kvm_create_guest_memfd */
struct raw_guest_memfd {
	uint64_t size;
	uint64_t flags;
	uint64_t reserved[6];
};

/* struct kvm_memory_attributes */
struct raw_attributes {
	uint64_t gpa;
	uint64_t size;
	uint64_t attributes;
	uint64_t flags;
};

/* struct kvm_pre_fault_memory */
struct raw_pre_fault {
	uint64_t gpa;
	uint64_t size;
	uint64_t flags;
	uint64_t padding[5];
};

/* What struct kvm_run holds of a KVM_EXIT_MEMORY_FAULT. */
struct raw_memory_fault {
	uint64_t flags;
	uint64_t gpa;
	uint64_t size;
};

/* What struct kvm_run holds of a KVM_EXIT_HYPERCALL; `flags` is `longmode` in older headers. */
struct raw_hypercall {
	uint64_t number;
	uint64_t args[6];
	uint64_t ret;
	uint64_t flags;
};

/* The types of VMs of x86. Every architecture has the first. */
enum raw_vm_type {
	RAW_VM_DEFAULT,
	RAW_VM_SW_PROTECTED,
	RAW_VM_SEV,
	RAW_VM_SEV_ES,
	RAW_VM_SNP,
	RAW_VM_TDX
};

/* ---- The device and its VMs ---- */

/* Why there is no VM with KVM_SET_USER_MEMORY_REGION2 here, or NULL. Finds out once. */
const char *raw_missing(void);

/* A bit for each type of VM that this kernel says it has. One that lists none has the default. */
uint32_t raw_vm_types(void);

/* Why there is no VM of a type here, or NULL. */
const char *raw_missing_type(unsigned int type);

/* Why no KVM_PRE_FAULT_MEMORY, or NULL. Only after raw_missing() said NULL. */
const char *raw_missing_pre_fault(void);

/* Why the tests' guest makes no hypercalls here, or NULL. Only after raw_missing() said NULL. */
const char *raw_missing_calls(void);

/* A VM's descriptor, or a negative errno. */
int raw_vm_of_type(unsigned int type);

/* A new VM's descriptor. Only after raw_missing() said NULL. */
int raw_vm(void);

/* KVM_CHECK_EXTENSION: the answer, or a negative errno. */
int raw_cap(int fd, int cap);
int raw_device_cap(int cap);

/* Whether VMs of type 0 have a guest_memfd that host and guest share: MMAP and INIT_SHARED. */
bool raw_has_shared(int vm);

/* ---- Calls: 0 or a negative errno, or as told ---- */

/* A descriptor, or a negative errno. */
int raw_memfd(int vm, uint64_t size, uint64_t flags);

int raw_allocate(int memfd, uint64_t offset, uint64_t size);
int raw_punch(int memfd, uint64_t offset, uint64_t size);

/* KVM_SET_USER_MEMORY_REGION2 */
int raw_set(int vm, const struct raw_region *region);
int raw_delete(int vm, uint32_t slot);

/* Set a slot and delete it, to see that nothing is in its way. */
int raw_try(int vm, const struct raw_region *region);

int raw_set_attributes(int vm, uint64_t gpa, uint64_t size, uint64_t attributes);

/* KVM_ENABLE_CAP of hypercalls that shall exit, a bit each. */
int raw_enable_hypercalls(int vm, uint64_t calls);

/* What is left to do stays in the range. */
int raw_pre_fault(int vcpu, struct raw_pre_fault *range);

/* A userfaultfd, or a negative errno. The flags are beside O_CLOEXEC. */
int raw_userfaultfd(int flags, uint64_t features);

/* The calls that the kernel names for this memory are stored unless that is NULL. */
int raw_userfaultfd_register(int userfaultfd, void *addr, size_t size, uint64_t mode,
			     uint64_t *calls);

/* How many pages are of any of these kinds, as PAGEMAP_SCAN tells it, or a negative errno. */
int raw_scan(const void *addr, size_t size, uint64_t kinds);

size_t raw_page(void);

/* A shared mapping of a file, or with fd -1 of fresh memory. */
void *raw_map(int fd, uint64_t offset, size_t size);

/* How many bits of guest address slots take, by trying one page at a time under a free id. */
unsigned int raw_gpa_bits(int vm, uint32_t id);

/* ---- What tests begin with ---- */

/* A VM and a shared guest_memfd, mapped whole, with a region that would bind all of it. */
struct raw_shared {
	int vm;
	int fd;
	size_t page;
	size_t size;
	unsigned char *map;
	struct raw_region region;
};

/* Opens one, or skips the test and returns false. */
bool raw_open_shared(struct raw_shared *shared, size_t pages);

/*
 * The same with a software-protected VM, whose guest_memfd is private: the mapping is of memory
 * beside it.
 */
bool raw_open_private(struct raw_shared *shared, size_t pages);

void raw_close_shared(const struct raw_shared *shared);
void raw_bind_shared(const struct raw_shared *shared);

/* A slot of fresh memory of the host, which is returned and stays until the test ends. */
void *raw_add_memory(int vm, uint32_t slot, uint64_t gpa, size_t size);

/* Slot 0 at RAW_GPA: a whole guest_memfd over a host address, or NULL. */
void raw_bind(int vm, int memfd, size_t size, const void *addr);

/* The same with a new guest_memfd, whose descriptor is returned. */
int raw_add_memfd(int vm, size_t size, uint64_t flags, const void *addr);

/* Make one page private or shared. */
void raw_set_private(int vm, uint64_t gpa, bool is_private);

/* The guest's code in a slot of its own, and a vCPU for it. Returns the code's memory. */
unsigned char *raw_open_guest(int vm, struct guest *guest);

/*
 * Whether a guest runs code in a page of a guest_memfd that it has touched before. Of a VM that can
 * have a shared one, and has no slot and no vCPU yet.
 */
bool raw_runs_touched_code(int vm);

/* The last exit must be a memory fault, and of the page that holds an address. */
struct raw_memory_fault raw_get_memory_fault(const struct guest *guest);
void raw_assert_memory_fault(const struct guest *guest, uint64_t gpa, uint64_t flags);

/* ---- Regions that the kernel refuses ---- */

/* Ways to spoil a region, with a guest_memfd or without, whatever other slots there are. */
enum raw_spoilt {
	RAW_SPOILT_SIZE,
	RAW_SPOILT_GPA,
	RAW_SPOILT_ADDR,
	RAW_SPOILT_TAG,
	RAW_SPOILT_KERNEL_ADDR,
	RAW_SPOILT_FLAG,
	RAW_SPOILT_SPACE,
	RAW_SPOILT_ID,
	RAW_SPOILT_PAGES,
	RAW_SPOILT_COUNT
};

extern const char *const raw_spoilt_names[RAW_SPOILT_COUNT];

struct raw_region raw_spoil(int vm, const struct raw_region *region, enum raw_spoilt how);

/* Expects EINVAL to a region spoilt in each of the ways. */
void raw_expect_spoilt_refused(int vm, const struct raw_region *region);

/* ---- Answers ---- */

/* For a note: "accepted", or the name of a negative errno, such as "EINVAL". */
const char *raw_word(int r);

/* Of a system call that has just returned: 0 or a negative errno. */
int raw_result(long r);

/*
 * For a test of many calls, each 0 or a negative errno: all are made, and at its end the test fails
 * with all that differ.
 */
void raw_expect(const char *what, int got, int wanted);
void raw_expect_end(void);

/* Whether this machine may hang, stop or lose pages, as the one who started the tests said. */
bool raw_may_lose_machine(void);

#define RAW_NO_SHARED	  "this kernel has no guest_memfd that the host can map"
#define RAW_NO_THROW_AWAY "may stop this machine: only with --throw-away"

/* For the body of a test: skip it where KVM, or something of it, is missing. */
#define NEED(missing)                                                                              \
	do {                                                                                       \
		const char *why_missing = (missing);                                               \
		if (why_missing)                                                                   \
			SKIP("%s", why_missing);                                                   \
	} while (0)

#define NEED_KVM()	  NEED(raw_missing())
#define NEED_TYPE(type)	  NEED(raw_missing_type(type))
#define NEED_THROW_AWAY() NEED(raw_may_lose_machine() ? NULL : RAW_NO_THROW_AWAY)
#define NEED_SHARED(vm)	  NEED(raw_has_shared(vm) ? NULL : RAW_NO_SHARED)
#define NEED_CALLS()	  NEED(raw_missing_calls())
#define NEED_PRE_FAULT()  NEED(raw_missing_pre_fault())

#endif
