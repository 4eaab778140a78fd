/* SPDX-License-Identifier: MIT */
/*
 * The guest runs with its MMU on, only so that its memory is cached as the host's is. With the MMU
 * off each access goes past the caches, and on processors that cannot force it into them (before
 * FEAT_S2FWB) guest and host would not see each other's writes. KVM cleans a page when it gives it
 * to the guest, which is why the code, and the tables within it, are written before the guest runs.
 */
#include "guest-machine.h"

#include <sys/ioctl.h>

/* Mapped by the guest's tables, and above all addresses that guest.h allows. */
#define HALT_GPA UINT64_C(0x1fffffff0)

#define CORE_REGISTER(name)                                                                        \
	(KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE | KVM_REG_ARM_CORE_REG(regs.name))

#define MAIR_EL1  ARM64_SYS_REG(3, 0, 10, 2, 0)
#define TTBR0_EL1 ARM64_SYS_REG(3, 0, 2, 0, 0)
#define TCR_EL1	  ARM64_SYS_REG(3, 0, 2, 0, 2)
#define SCTLR_EL1 ARM64_SYS_REG(3, 0, 1, 0, 0)

#define MAIR_WRITE_BACK	 UINT64_C(0xff)
#define TCR_33_BITS	 UINT64_C(31) /* 64 - 33: what eight blocks of 1 GiB take */
#define TCR_WALKS_CACHED UINT64_C(0x3500)
#define TCR_NO_TTBR1	 (UINT64_C(1) << 23)
#define TCR_36_BITS_OUT	 (UINT64_C(1) << 32)
#define SCTLR_ALWAYS_SET UINT64_C(0x30d00980)
#define SCTLR_MMU_CACHES UINT64_C(0x1005)

static void set_register(const struct guest *guest, uint64_t id, uint64_t value)
{
	struct kvm_one_reg reg = {.id = id, .addr = (uintptr_t)&value};

	ck_assert_int_eq(ioctl(guest->fd, KVM_SET_ONE_REG, &reg), 0);
}

void guest_machine_init(const struct guest *guest, int vm_fd)
{
	struct kvm_vcpu_init init;

	ck_assert_int_eq(ioctl(vm_fd, KVM_ARM_PREFERRED_TARGET, &init), 0);
	ck_assert_int_eq(ioctl(guest->fd, KVM_ARM_VCPU_INIT, &init), 0);
	set_register(guest, MAIR_EL1, MAIR_WRITE_BACK);
	set_register(guest, TTBR0_EL1, guest->code);
	set_register(guest, TCR_EL1,
		     TCR_33_BITS | TCR_WALKS_CACHED | TCR_NO_TTBR1 | TCR_36_BITS_OUT);
	set_register(guest, SCTLR_EL1, SCTLR_ALWAYS_SET | SCTLR_MMU_CACHES);
	set_register(guest, CORE_REGISTER(regs[2]), HALT_GPA);
}

void guest_machine_enter(const struct guest *guest, uint64_t routine, uint64_t gpa, uint32_t value)
{
	set_register(guest, CORE_REGISTER(pc), guest->code + routine);
	set_register(guest, CORE_REGISTER(regs[0]), gpa);
	set_register(guest, CORE_REGISTER(regs[1]), value);
}

int guest_machine_exit(const struct guest *guest)
{
	const struct kvm_run *run = guest->run;

	if (run->exit_reason == KVM_EXIT_MMIO && run->mmio.phys_addr == HALT_GPA)
		return KVM_EXIT_HLT;
	return (int)run->exit_reason;
}

uint32_t guest_machine_value(const struct guest *guest)
{
	uint64_t value = 0;
	struct kvm_one_reg reg = {.id = CORE_REGISTER(regs[1]), .addr = (uintptr_t)&value};

	ck_assert_int_eq(ioctl(guest->fd, KVM_GET_ONE_REG, &reg), 0);
	return (uint32_t)value;
}
