/* SPDX-License-Identifier: MIT */
#include "raw.h"

#include "../lib/uapi/kvm.h"
#include "bench.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

bool raw_has_private(const char *device)
{
	int fd = open(device, O_RDWR | O_CLOEXEC);
	int types = fd < 0 ? 0 : ioctl(fd, KVM_CHECK_EXTENSION, KVM_CAP_VM_TYPES);

	if (fd >= 0)
		close(fd);
	return types > 0 && types >> RAW_VM_SW_PROTECTED & 1;
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
