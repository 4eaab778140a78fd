/* SPDX-License-Identifier: MIT */
#include "cpu.h"
#include "example.h"

#include <fcntl.h>
#include <inttypes.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

int cpu_open(struct cpu *cpu, const char *device, int vm_fd,
	     const uint64_t arguments[CPU_ARGUMENTS])
{
	const char *failed;
	int size;

	*cpu = CPU_NONE;
	cpu->kvm_fd = open(device, O_RDWR | O_CLOEXEC);
	if (cpu->kvm_fd < 0)
		return fail_errno(device);
	cpu->fd = ioctl(vm_fd, KVM_CREATE_VCPU, 0);
	if (cpu->fd < 0)
		return fail_errno("KVM_CREATE_VCPU");
	size = ioctl(cpu->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (size < 0)
		return fail_errno("KVM_GET_VCPU_MMAP_SIZE");
	cpu->run_size = (size_t)size;
	cpu->run = mmap(NULL, cpu->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, cpu->fd, 0);
	if (cpu->run == MAP_FAILED) {
		cpu->run = NULL;
		return fail_errno("cannot map the vCPU");
	}
	failed = cpu_init(cpu->kvm_fd, vm_fd, cpu->fd, arguments);
	return failed ? fail_errno(failed) : EXIT_RIGHT;
}

void cpu_close(struct cpu *cpu)
{
	if (cpu->run)
		munmap(cpu->run, cpu->run_size);
	if (cpu->fd >= 0)
		close(cpu->fd);
	if (cpu->kvm_fd >= 0)
		close(cpu->kvm_fd);
	*cpu = CPU_NONE;
}

int cpu_complain(const struct kvm_run *run)
{
	switch (run->exit_reason) {
	case KVM_EXIT_SHUTDOWN:
		return fail("the guest shut down: an exception it cannot handle");
	case KVM_EXIT_MMIO:
		return fail("the guest touched 0x%" PRIx64 ", where no memory is",
			    (uint64_t)run->mmio.phys_addr);
	case KVM_EXIT_FAIL_ENTRY:
		return fail("the processor refused the guest: reason 0x%" PRIx64,
			    (uint64_t)run->fail_entry.hardware_entry_failure_reason);
	case KVM_EXIT_INTERNAL_ERROR:
		return fail("KVM failed inside: suberror %u", run->internal.suberror);
	default:
		return fail("unexpected exit of the vCPU: reason %u", run->exit_reason);
	}
}
