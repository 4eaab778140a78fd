/* SPDX-License-Identifier: MIT */
#include "machine.h"

#include "../kernel/raw.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define FREE_GPA (UINT64_C(1) << 31)
#define TRIED	 16

const char *machine_missing(void)
{
	const char *missing = raw_missing();
	int vm;

	if (missing)
		return missing;
	vm = raw_vm();
	if (!raw_has_shared(vm))
		missing = RAW_NO_SHARED;
	close(vm);
	return missing;
}

int machine_make_vm(void)
{
	return raw_vm();
}

int machine_make_memfd(int vm, uint64_t size, uint64_t flags)
{
	int fd = raw_memfd(vm, size, flags);

	ck_assert_int_ge(fd, 0);
	return fd;
}

int machine_make_vcpu(int vm, struct kvm_run **run, size_t *run_size)
{
	int fd = ioctl(vm, KVM_CREATE_VCPU, 0UL);
	int device = open(harness_kvm_device(), O_RDWR | O_CLOEXEC);

	ck_assert_int_ge(fd, 0);
	*run_size = (size_t)ioctl(device, KVM_GET_VCPU_MMAP_SIZE, 0);
	close(device);
	*run = raw_map(fd, 0, *run_size);
	return fd;
}

/*
 * KVM looks at the id before it looks at the memfd, which is none here: a slot that exists cannot
 * get one (EINVAL), and a new one fails for it (EBADF). Nothing is ever set.
 */
static bool is_used(int vm, uint32_t id)
{
	struct raw_region region = {.slot = id,
				    .flags = RAW_GUEST_MEMFD,
				    .gpa = FREE_GPA,
				    .size = raw_page(),
				    .memfd = UINT32_MAX};
	int r = raw_set(vm, &region);

	if (r != -EINVAL && r != -EBADF)
		ck_abort_msg("slot id %u: %d", id, r);
	return r == -EINVAL;
}

uint64_t machine_used_ids(int vm)
{
	uint32_t end = (uint32_t)raw_cap(vm, KVM_CAP_NR_MEMSLOTS);
	uint64_t used = 0;

	for (uint32_t i = 0; i < TRIED; i++) {
		used |= (uint64_t)is_used(vm, i) << i;
		used |= (uint64_t)is_used(vm, end - 1 - i) << (32 + i);
	}
	return used;
}
