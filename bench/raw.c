/* SPDX-License-Identifier: MIT */
#include "raw.h"

#include "../lib/uapi/kvm.h"
#include "../lib/uapi/mm.h"
#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

bool raw_has_private(const char *device)
{
	int fd = open(device, O_RDWR | O_CLOEXEC);
	int types = fd < 0 ? 0 : ioctl(fd, KVM_CHECK_EXTENSION, KVM_CAP_VM_TYPES);

	if (fd >= 0)
		close(fd);
	return types > 0 && types >> RAW_VM_SW_PROTECTED & 1;
}

int raw_create(int vm_fd, uint64_t size, uint64_t flags)
{
	struct kvm_create_guest_memfd argument = {.size = size, .flags = flags};
	int fd = ioctl(vm_fd, KVM_CREATE_GUEST_MEMFD, &argument);

	bench_check(fd >= 0, "KVM_CREATE_GUEST_MEMFD");
	bench_check(fcntl(fd, F_SETFD, FD_CLOEXEC) == 0, "F_SETFD");
	return fd;
}

void *raw_map(int fd, uint64_t offset, uint64_t size)
{
	void *addr = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)offset);

	bench_check(addr != MAP_FAILED, "mmap");
	bench_check(madvise(addr, size, MADV_DONTFORK) == 0, "MADV_DONTFORK");
	return addr;
}

void raw_unmap(void *addr, uint64_t size)
{
	bench_check(munmap(addr, size) == 0, "munmap");
}

static void set_region(int vm_fd, struct kvm_userspace_memory_region2 *region)
{
	int r;

	do
		r = ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION2, region);
	while (r < 0 && errno == EINTR);
	bench_check(r == 0, "KVM_SET_USER_MEMORY_REGION2");
}

void raw_bind(int vm_fd, uint32_t id, uint64_t gpa, uint64_t size, void *host)
{
	set_region(vm_fd,
		   &(struct kvm_userspace_memory_region2){.slot = id,
							  .guest_phys_addr = gpa,
							  .memory_size = size,
							  .userspace_addr = (uintptr_t)host});
}

void raw_bind_memfd(int vm_fd, uint32_t id, uint64_t gpa, uint64_t size, void *host, int fd,
		    uint64_t offset)
{
	set_region(vm_fd, &(struct kvm_userspace_memory_region2){.slot = id,
								 .flags = KVM_MEM_GUEST_MEMFD,
								 .guest_phys_addr = gpa,
								 .memory_size = size,
								 .userspace_addr = (uintptr_t)host,
								 .guest_memfd = (uint32_t)fd,
								 .guest_memfd_offset = offset});
}

void raw_delete(int vm_fd, uint32_t id)
{
	set_region(vm_fd, &(struct kvm_userspace_memory_region2){.slot = id});
}

static void advise(void *addr, uint64_t size, int advice)
{
	int r;

	do
		r = madvise(addr, size, advice);
	while (r < 0 && errno == EINTR);
	bench_check(r == 0, "madvise");
}

void raw_populate(void *addr, uint64_t size)
{
	advise(addr, size, MADV_POPULATE_WRITE);
}

void raw_allocate(int fd, uint64_t offset, uint64_t size)
{
	int r;

	do
		r = fallocate(fd, FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)size);
	while (r < 0 && errno == EINTR);
	bench_check(r == 0, "fallocate");
}

void raw_set_private(int vm_fd, uint64_t gpa, uint64_t size, bool is_private)
{
	struct kvm_memory_attributes attributes = {
		.address = gpa,
		.size = size,
		.attributes = is_private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0,
	};

	bench_check(ioctl(vm_fd, KVM_SET_MEMORY_ATTRIBUTES, &attributes) == 0,
		    "KVM_SET_MEMORY_ATTRIBUTES");
}

void raw_punch(int fd, uint64_t offset, uint64_t size)
{
	bench_check(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
			      (off_t)size) == 0,
		    "FALLOC_FL_PUNCH_HOLE");
}

void raw_forget(void *addr, uint64_t size)
{
	bench_check(madvise(addr, size, MADV_DONTNEED) == 0, "MADV_DONTNEED");
}
