/* SPDX-License-Identifier: MIT */
/* A vCPU as it is made: in real mode, where the segments' bases reach all below 4 GiB. */
#include "guest-machine.h"

#include <sys/ioctl.h>

#define PORT 0x10

void guest_machine_init(const struct guest *guest, int vm_fd)
{
	(void)guest;
	(void)vm_fd;
}

static void set_segment(struct kvm_segment *segment, uint64_t base)
{
	segment->base = base;
	segment->selector = (uint16_t)(base >> 4);
	segment->limit = 0xffff;
}

void guest_machine_enter(const struct guest *guest, uint64_t routine, uint64_t gpa, uint32_t value)
{
	struct kvm_regs regs = {
		.rip = routine,
		.rax = value,
		.rcx = value,
		.rbx = gpa & 0xfff,
		.rdx = PORT,
		.rflags = 2, /* the bit that is always set */
	};
	struct kvm_sregs sregs;

	ck_assert_int_eq(ioctl(guest->fd, KVM_GET_SREGS, &sregs), 0);
	set_segment(&sregs.cs, guest->code);
	set_segment(&sregs.ds, gpa & ~UINT64_C(0xfff));
	ck_assert_int_eq(ioctl(guest->fd, KVM_SET_SREGS, &sregs), 0);
	ck_assert_int_eq(ioctl(guest->fd, KVM_SET_REGS, &regs), 0);
}

int guest_machine_exit(const struct guest *guest)
{
	const struct kvm_run *run = guest->run;

	if (run->exit_reason == KVM_EXIT_IO && run->io.port == PORT)
		return GUEST_GOES_ON;
	return (int)run->exit_reason;
}

uint32_t guest_machine_value(const struct guest *guest)
{
	struct kvm_regs regs;

	ck_assert_int_eq(ioctl(guest->fd, KVM_GET_REGS, &regs), 0);
	return (uint32_t)regs.rax;
}
