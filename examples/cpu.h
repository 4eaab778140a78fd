/* SPDX-License-Identifier: MIT */
/* A vCPU in 64-bit mode, without a start in real mode or firmware. Nothing here is of libgmem. */
#ifndef CPU_H
#define CPU_H

#include <linux/kvm.h>
#include <stddef.h>
#include <stdint.h>

/* Guest addresses: page tables, and where a guest's code begins. Both end below FREE_GPA. */
#define TABLES_GPA UINT64_C(0x1000)
#define CODE_GPA   UINT64_C(0x4000)
#define FREE_GPA   UINT64_C(0x10000)

/* The guest finds them in r8 to r14 on x86-64, in x8 to x14 on arm64. */
#define CPU_ARGUMENTS 7

struct cpu {
	int kvm_fd;
	int fd;
	struct kvm_run *run;
	size_t run_size;
};

#define CPU_NONE ((struct cpu){.kvm_fd = -1, .fd = -1})

/* What an exit of KVM_RUN means. */
enum cpu_exit {
	CPU_SAYS,  /* the guest has written 4 bytes to a port */
	CPU_HALTS, /* it is done */
	CPU_ODD,   /* an exit of another kind */
};

/* Page tables for TABLES_GPA that map the first GiB one to one. */
const void *cpu_make_tables(size_t *size);

/* Make vCPU 0, to start at CODE_GPA. 0, or 1 after a message; then too, cpu_close() it. */
int cpu_open(struct cpu *cpu, const char *device, int vm_fd,
	     const uint64_t arguments[CPU_ARGUMENTS]);
void cpu_close(struct cpu *cpu);

/* The half of cpu_open() for each architecture. NULL, or the call that failed; errno tells why. */
const char *cpu_init(int kvm_fd, int vm_fd, int vcpu_fd, const uint64_t arguments[CPU_ARGUMENTS]);

/* The port and the value are set where the guest says something. */
enum cpu_exit cpu_decode(const struct kvm_run *run, uint32_t *port, uint32_t *value);

/* Say what KVM said, of an exit that the guest should not make. Returns 1. */
int cpu_complain(const struct kvm_run *run);

#endif /* CPU_H */
