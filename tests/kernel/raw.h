/* SPDX-License-Identifier: MIT */
/*
 * KVM without the library: plain ioctls, for tests that state what the kernel does, and for those
 * that look at the library's work from outside. Names newer than the build's kernel headers are
 * written down here.
 */
#ifndef GMEM_TEST_RAW_H
#define GMEM_TEST_RAW_H

#include "harness.h"

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

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

/* Why there is no VM with KVM_SET_USER_MEMORY_REGION2 here, or NULL. Finds out once. */
const char *raw_missing(void);

/* A new VM's descriptor. Only after raw_missing() said NULL. */
int raw_vm(void);

/* KVM_CHECK_EXTENSION: the answer, or a negative errno. */
int raw_cap(int fd, int cap);

/* Whether VMs of type 0 have a guest_memfd that host and guest share: MMAP and INIT_SHARED. */
bool raw_has_shared(int vm);

/* A descriptor, or a negative errno. */
int raw_memfd(int vm, uint64_t size, uint64_t flags);

/* KVM_SET_USER_MEMORY_REGION2: 0 or a negative errno. */
int raw_set(int vm, const struct raw_region *region);
int raw_delete(int vm, uint32_t slot);

/* Set a slot and delete it, to see that nothing is in its way: 0 or a negative errno. */
int raw_try(int vm, const struct raw_region *region);

size_t raw_page(void);

/* A shared mapping of a file, or with fd -1 of fresh memory. */
void *raw_map(int fd, uint64_t offset, size_t size);

/* How many bits of guest address slots take, by trying one page at a time under a free id. */
unsigned int raw_gpa_bits(int vm, uint32_t id);

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

/* For the body of a test: skip it where KVM, or a shared guest_memfd, is missing. */
#define NEED_KVM()                                                                                 \
	do {                                                                                       \
		const char *missing = raw_missing();                                               \
		if (missing)                                                                       \
			SKIP("%s", missing);                                                       \
	} while (0)

#define NEED_THROW_AWAY()                                                                          \
	do {                                                                                       \
		if (!raw_may_lose_machine())                                                       \
			SKIP("may stop this machine: only with --throw-away");                     \
	} while (0)

#define NEED_SHARED(vm)                                                                            \
	do {                                                                                       \
		if (!raw_has_shared(vm))                                                           \
			SKIP("this kernel has no guest_memfd that the host can map");              \
	} while (0)

#endif
