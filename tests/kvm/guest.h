/* SPDX-License-Identifier: MIT */
/*
 * A guest of a few instructions: it stores, loads, counts or awaits at one guest address and halts.
 * 16-bit code on x86-64, 64-bit code on arm64. It is put into guest memory by whoever uses it, and
 * any one page will do. It must be there before the guest first runs, and whenever it runs: an
 * arm64 guest without code would take exceptions for ever, of which KVM tells nobody.
 */
#ifndef GMEM_TEST_GUEST_H
#define GMEM_TEST_GUEST_H

#include "harness.h"

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

extern const unsigned char guest_code[];
extern const size_t guest_code_size; /* 0: there is none for this processor */

struct guest {
	int fd;
	struct kvm_run *run; /* its first page, which holds all that is read here */
	uint64_t code;	     /* guest address of guest_code, below 4 GiB */
	uint64_t mmio_gpa;   /* of the last exit with KVM_EXIT_MMIO */
	bool mmio_write;
};

/* Make vCPU 0 of a VM. */
void guest_open(struct guest *guest, int vm_fd, uint64_t code);
void guest_close(struct guest *guest);

/*
 * Run one routine with 4 bytes at a guest address below 4 GiB. The result is the reason of the
 * exit, KVM_EXIT_HLT where all went well, or KVM_RUN's negative errno.
 */
int guest_store(struct guest *guest, uint64_t gpa, uint32_t value);
int guest_load(struct guest *guest, uint64_t gpa, uint32_t *value);
/* Add 1, `times` times. */
int guest_count(struct guest *guest, uint64_t gpa, uint32_t times);
/* Load until it is not 0; that is the value. */
int guest_await(struct guest *guest, uint64_t gpa, uint32_t *value);

/* For the body of a test. */
#define NEED_GUEST()                                                                               \
	do {                                                                                       \
		if (guest_code_size == 0)                                                          \
			SKIP("the tests' guest has no code for this processor");                   \
	} while (0)

#endif
