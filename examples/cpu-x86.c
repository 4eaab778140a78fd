/* SPDX-License-Identifier: MIT */
/* cpu.h on x86-64. */
#include "cpu.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#define ENTRIES 512

/* Page table entries. */
#define PTE_PRESENT UINT64_C(0x01)
#define PTE_WRITE   UINT64_C(0x02)
#define PTE_LARGE   UINT64_C(0x80)

/* The levels lie one after the other in pages of 4 KiB. The lowest maps pages of 2 MiB. */
const void *cpu_make_tables(size_t *size)
{
	static uint64_t tables[3][ENTRIES];
	const uint64_t next = sizeof(tables[0]);

	tables[0][0] = (TABLES_GPA + next) | PTE_PRESENT | PTE_WRITE;
	tables[1][0] = (TABLES_GPA + 2 * next) | PTE_PRESENT | PTE_WRITE;
	for (uint64_t i = 0; i < ENTRIES; i++)
		tables[2][i] = i << 21 | PTE_PRESENT | PTE_WRITE | PTE_LARGE;
	*size = sizeof(tables);
	return tables;
}

/* A vCPU without CPUID has no long mode, and KVM then refuses the registers that ask for it. */
static const char *set_cpuid(int kvm_fd, int vcpu_fd)
{
	const uint32_t max_entries = 256;
	struct kvm_cpuid2 *cpuid;
	const char *failed = NULL;
	int error;

	cpuid = calloc(1, sizeof(*cpuid) + max_entries * sizeof(cpuid->entries[0]));
	if (!cpuid)
		return "cpuid";
	cpuid->nent = max_entries;
	if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid) < 0)
		failed = "KVM_GET_SUPPORTED_CPUID";
	else if (ioctl(vcpu_fd, KVM_SET_CPUID2, cpuid) < 0)
		failed = "KVM_SET_CPUID2";
	error = errno;
	free(cpuid);
	errno = error;
	return failed;
}

static const char *set_long_mode(int vcpu_fd)
{
	struct kvm_segment code = {
		.limit = 0xffffffff,
		.selector = 8,
		.type = 11, /* execute, read, accessed */
		.present = 1,
		.s = 1,
		.l = 1,
		.g = 1,
	};
	struct kvm_segment data = code;
	struct kvm_sregs sregs;

	data.selector = 16;
	data.type = 3; /* read, write, accessed */
	data.l = 0;
	data.db = 1;
	if (ioctl(vcpu_fd, KVM_GET_SREGS, &sregs) < 0)
		return "KVM_GET_SREGS";
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.cr3 = TABLES_GPA;
	sregs.cr4 = 0x20;	/* PAE */
	sregs.cr0 = 0x80000001; /* paging, protection */
	sregs.efer = 0x500;	/* long mode enabled and active */
	return ioctl(vcpu_fd, KVM_SET_SREGS, &sregs) < 0 ? "KVM_SET_SREGS" : NULL;
}

static const char *set_registers(int vcpu_fd, const uint64_t arguments[CPU_ARGUMENTS])
{
	struct kvm_regs regs = {
		.rip = CODE_GPA,
		.rflags = 2, /* the bit that is always set */
		.r8 = arguments[0],
		.r9 = arguments[1],
		.r10 = arguments[2],
		.r11 = arguments[3],
		.r12 = arguments[4],
		.r13 = arguments[5],
		.r14 = arguments[6],
	};

	return ioctl(vcpu_fd, KVM_SET_REGS, &regs) < 0 ? "KVM_SET_REGS" : NULL;
}

const char *cpu_init(int kvm_fd, int vm_fd, int vcpu_fd, const uint64_t arguments[CPU_ARGUMENTS])
{
	const char *failed = set_cpuid(kvm_fd, vcpu_fd);

	(void)vm_fd;
	if (!failed)
		failed = set_long_mode(vcpu_fd);
	if (!failed)
		failed = set_registers(vcpu_fd, arguments);
	return failed;
}

enum cpu_exit cpu_decode(const struct kvm_run *run, uint32_t *port, uint32_t *value)
{
	if (run->exit_reason == KVM_EXIT_HLT)
		return CPU_HALTS;
	if (run->exit_reason != KVM_EXIT_IO || run->io.direction != KVM_EXIT_IO_OUT ||
	    run->io.size != sizeof(*value))
		return CPU_ODD;
	*port = run->io.port;
	memcpy(value, (const unsigned char *)run + run->io.data_offset, sizeof(*value));
	return CPU_SAYS;
}
