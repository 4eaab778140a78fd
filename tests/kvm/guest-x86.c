/* SPDX-License-Identifier: MIT */
/*
 * A vCPU begins in real mode, where the segments' bases reach all below 4 GiB. For its 64-bit code
 * it is put into long mode, and back for the 16-bit code.
 */
#include "guest-machine.h"

#include <cpuid.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#define PORT 0x10

#define CR0_REAL	  UINT64_C(0x60000010) /* as after a reset */
#define CR0_LONG	  UINT64_C(0x80000011) /* protected, paging */
#define CR4_LONG	  UINT64_C(0x20)       /* PAE */
#define EFER_LONG	  UINT64_C(0x500)      /* LME, LMA */
#define RFLAGS		  UINT64_C(2)	       /* the bit that is always set */
#define MEMORY		  (UINT64_C(1) << 30)  /* where the 64-bit code has guest address 0 */
#define CPUID_FEATURES	  0x80000001U
#define CPUID_LONG_MODE	  (1U << 29)
#define CPUID_LARGE_PAGES (1U << 26)
#define TABLE_ENTRY	  0x63 /* of a table, or a page; see guest-x86.S */

const bool guest_has_calls = true;

/* Linux 7.3 lets no vCPU into long mode whose CPUID lacks it. */
void guest_machine_init(const struct guest *guest, int vm_fd)
{
	struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + sizeof(cpuid->entries[0]));

	(void)vm_fd;
	ck_assert_ptr_nonnull(cpuid);
	cpuid->nent = 1;
	cpuid->entries[0].function = CPUID_FEATURES;
	cpuid->entries[0].edx = CPUID_LONG_MODE | CPUID_LARGE_PAGES;
	ck_assert_int_eq(ioctl(guest->fd, KVM_SET_CPUID2, cpuid), 0);
	free(cpuid);
}

static void set_segment(struct kvm_segment *segment, uint64_t base)
{
	segment->base = base;
	segment->selector = (uint16_t)(base >> 4);
	segment->limit = 0xffff;
}

static void set_mode(const struct guest *guest, bool is_long, uint64_t code, uint64_t data)
{
	struct kvm_sregs sregs;

	ck_assert_int_eq(ioctl(guest->fd, KVM_GET_SREGS, &sregs), 0);
	sregs.cr0 = is_long ? CR0_LONG : CR0_REAL;
	sregs.cr3 = is_long ? guest->code : 0;
	sregs.cr4 = is_long ? CR4_LONG : 0;
	sregs.efer = is_long ? EFER_LONG : 0;
	sregs.cs.l = is_long;
	set_segment(&sregs.cs, code);
	set_segment(&sregs.ds, data);
	ck_assert_int_eq(ioctl(guest->fd, KVM_SET_SREGS, &sregs), 0);
}

static void set_registers(const struct guest *guest, const struct kvm_regs *regs)
{
	ck_assert_int_eq(ioctl(guest->fd, KVM_SET_REGS, regs), 0);
}

static struct kvm_regs get_registers(const struct guest *guest)
{
	struct kvm_regs regs;

	ck_assert_int_eq(ioctl(guest->fd, KVM_GET_REGS, &regs), 0);
	return regs;
}

void guest_machine_enter(const struct guest *guest, uint64_t routine, uint64_t gpa, uint32_t value)
{
	set_mode(guest, false, guest->code, gpa & ~UINT64_C(0xfff));
	set_registers(guest, &(const struct kvm_regs){
				     .rip = routine,
				     .rax = value,
				     .rcx = value,
				     .rbx = gpa & 0xfff,
				     .rdx = PORT,
				     .rflags = RFLAGS,
			     });
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
	return (uint32_t)get_registers(guest).rax;
}

/* ---- 64-bit code ---- */

static bool is_amd(void)
{
	unsigned int max, name[3];

	if (!__get_cpuid(0, &max, &name[0], &name[2], &name[1]))
		return false;
	return memcmp(name, "AuthenticAMD", 12) == 0 || memcmp(name, "HygonGenuine", 12) == 0;
}

static uint64_t routine_of(const unsigned char *routine)
{
	return (uintptr_t)routine - (uintptr_t)guest_code;
}

/* The page tables lack the one entry that depends on where they are: the guest stores it. */
static void enter_long(struct guest *guest, struct kvm_regs *regs)
{
	ck_assert_int_eq(guest_store(guest, guest->code, (uint32_t)guest->code | TABLE_ENTRY),
			 KVM_EXIT_HLT);
	regs->rflags = RFLAGS;
	regs->r15 = is_amd();
	set_mode(guest, true, 0, 0);
	set_registers(guest, regs);
}

void guest_begin_call(struct guest *guest, uint64_t number, const uint64_t args[3])
{
	struct kvm_regs regs = {
		.rip = routine_of(guest_code_call),
		.rax = number,
		.rbx = args[0],
		.rcx = args[1],
		.rdx = args[2],
	};

	enter_long(guest, &regs);
}

void guest_begin_work(struct guest *guest, const struct guest_work *work)
{
	struct kvm_regs regs = {
		.rip = routine_of(guest_code_work),
		.rdi = MEMORY + work->gpa,
		.rsi = work->pages,
		.rbp = MEMORY + work->ledger,
		.r8 = work->gpa,
		.r9 = work->rounds,
		.r10 = work->random,
		.r11 = work->random | 1,
	};

	enter_long(guest, &regs);
}

uint64_t guest_work_word(const struct guest_work *work, uint64_t gpa, uint64_t round)
{
	return (round * (work->random | 1)) ^ (MEMORY + gpa);
}

int64_t guest_result(const struct guest *guest, uint64_t *gpa)
{
	struct kvm_regs regs = get_registers(guest);

	*gpa = regs.rbx - MEMORY;
	return (int64_t)regs.rax;
}
