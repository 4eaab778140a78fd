/* SPDX-License-Identifier: MIT */
/* What hello-guest.c leaves to hello-guest-x86.c or hello-guest-arm64.c. */
#ifndef HELLO_CPU_H
#define HELLO_CPU_H

#include <linux/kvm.h>
#include <stddef.h>
#include <stdint.h>

/* Guest addresses. */
#define TABLES_GPA UINT64_C(0x1000)
#define CODE_GPA   UINT64_C(0x4000)

/* The guest's code, see hello-guest-x86.S or hello-guest-arm64.S. */
extern const unsigned char hello_guest_begin[];
extern const unsigned char hello_guest_end[];

/* What the code finds in its registers. */
struct task {
	uint64_t test_gpa;    /* the memory to test */
	uint64_t test_pages;  /* its length */
	uint64_t first_value; /* of each word in its first page */
	uint64_t value_step;  /* what is added to the value from page to page */
	uint64_t zeros_gpa;   /* the memory that must read as zeros in the last step */
	uint64_t zeros_pages; /* its length */
	uint64_t page_words;  /* words of 8 bytes in a page, an even number */
};

/* What an exit of KVM_RUN means. */
enum cpu_exit {
	CPU_SAYS,  /* the guest has written 4 bytes to a port */
	CPU_HALTS, /* it is done */
	CPU_ODD,   /* this guest never makes such an exit */
};

/* Page tables for TABLES_GPA that map the first GiB one to one. */
const void *cpu_make_tables(size_t *size);

/* Prepare a new vCPU to run the code. Returns NULL, or the call that failed; errno tells why. */
const char *cpu_init(int kvm_fd, int vm_fd, int vcpu_fd, const struct task *task);

/* The port and the value are set where the guest says something. */
enum cpu_exit cpu_decode(const struct kvm_run *run, uint32_t *port, uint32_t *value);

#endif
