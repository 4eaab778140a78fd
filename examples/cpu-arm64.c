/* SPDX-License-Identifier: MIT */
/*
 * cpu.h on arm64: the MMU is on. With the MMU off the guest would go past the caches
 * on processors before FEAT_S2FWB, and not see what the host has written, nor the host the guest.
 */
#include "cpu.h"
#include "guest.h"

#include <string.h>
#include <sys/ioctl.h>

#define GIB_SHIFT 30

/* A block of 1 GiB: valid, accessed; attributes 0 and inner shareable, or attributes 1. */
#define BLOCK_MEMORY UINT64_C(0x701)
#define BLOCK_DEVICE UINT64_C(0x405)

#define MAIR_EL1  ARM64_SYS_REG(3, 0, 10, 2, 0)
#define TTBR0_EL1 ARM64_SYS_REG(3, 0, 2, 0, 0)
#define TCR_EL1	  ARM64_SYS_REG(3, 0, 2, 0, 2)
#define VBAR_EL1  ARM64_SYS_REG(3, 0, 12, 0, 0)
#define SCTLR_EL1 ARM64_SYS_REG(3, 0, 1, 0, 0)

#define MAIR_MEMORY_DEVICE UINT64_C(0x00ff) /* 0: normal and cached, 1: a device's */
#define TCR_32_BITS	   UINT64_C(32)	    /* 64 - 32: what four blocks of 1 GiB take */
#define TCR_WALKS_CACHED   UINT64_C(0x3500)
#define TCR_NO_TTBR1	   (UINT64_C(1) << 23)
#define SCTLR_ALWAYS_SET   UINT64_C(0x30d00980)
#define SCTLR_MMU_CACHES   UINT64_C(0x1005)

#define CORE_REGISTER(name)                                                                        \
	(KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE | KVM_REG_ARM_CORE_REG(regs.name))

/* One table, whose four entries map all that the guest can address. */
const void *cpu_make_tables(size_t *size)
{
	static uint64_t table[4] = {BLOCK_MEMORY};

	table[GUEST_PORTS_GPA >> GIB_SHIFT] = GUEST_PORTS_GPA | BLOCK_DEVICE;
	*size = sizeof(table);
	return table;
}

static const char *make_vcpu(int vm_fd, int vcpu_fd)
{
	struct kvm_vcpu_init init;

	if (ioctl(vm_fd, KVM_ARM_PREFERRED_TARGET, &init) < 0)
		return "KVM_ARM_PREFERRED_TARGET";
	init.features[0] |= 1U << KVM_ARM_VCPU_PSCI_0_2; /* by which the guest turns itself off */
	return ioctl(vcpu_fd, KVM_ARM_VCPU_INIT, &init) < 0 ? "KVM_ARM_VCPU_INIT" : NULL;
}

static const char *set_register(int vcpu_fd, uint64_t id, uint64_t value)
{
	struct kvm_one_reg reg = {.id = id, .addr = (uintptr_t)&value};

	return ioctl(vcpu_fd, KVM_SET_ONE_REG, &reg) < 0 ? "KVM_SET_ONE_REG" : NULL;
}

const char *cpu_init(int kvm_fd, int vm_fd, int vcpu_fd, const uint64_t arguments[CPU_ARGUMENTS])
{
	const struct {
		uint64_t id, value;
	} registers[] = {
		{MAIR_EL1, MAIR_MEMORY_DEVICE},
		{TTBR0_EL1, TABLES_GPA},
		{TCR_EL1, TCR_32_BITS | TCR_WALKS_CACHED | TCR_NO_TTBR1},
		{VBAR_EL1, CODE_GPA},
		{SCTLR_EL1, SCTLR_ALWAYS_SET | SCTLR_MMU_CACHES},
		{CORE_REGISTER(pc), CODE_GPA},
		{CORE_REGISTER(regs[15]), GUEST_PORTS_GPA},
	};
	const uint64_t x8 = CORE_REGISTER(regs[8]), x9 = CORE_REGISTER(regs[9]);
	const char *failed = make_vcpu(vm_fd, vcpu_fd);

	(void)kvm_fd;
	for (size_t i = 0; !failed && i < sizeof(registers) / sizeof(registers[0]); i++)
		failed = set_register(vcpu_fd, registers[i].id, registers[i].value);
	for (size_t i = 0; !failed && i < CPU_ARGUMENTS; i++)
		failed = set_register(vcpu_fd, x8 + i * (x9 - x8), arguments[i]);
	return failed;
}

enum cpu_exit cpu_decode(const struct kvm_run *run, uint32_t *port, uint32_t *value)
{
	if (run->exit_reason == KVM_EXIT_SYSTEM_EVENT &&
	    run->system_event.type == KVM_SYSTEM_EVENT_SHUTDOWN)
		return CPU_HALTS;
	if (run->exit_reason != KVM_EXIT_MMIO || !run->mmio.is_write ||
	    run->mmio.len != sizeof(*value) || run->mmio.phys_addr < GUEST_PORTS_GPA ||
	    run->mmio.phys_addr - GUEST_PORTS_GPA > UINT32_MAX)
		return CPU_ODD;
	*port = (uint32_t)(run->mmio.phys_addr - GUEST_PORTS_GPA);
	memcpy(value, run->mmio.data, sizeof(*value));
	return CPU_SAYS;
}
