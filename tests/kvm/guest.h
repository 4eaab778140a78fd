/* SPDX-License-Identifier: MIT */
/*
 * A guest of a few instructions: it stores, loads, counts or awaits at one guest address and halts.
 * 16-bit code on x86-64, 64-bit code on arm64. It is put into guest memory by whoever uses it, and
 * any one page will do. It must be there before the guest first runs, and whenever it runs: an
 * arm64 guest without code would take exceptions for ever, of which KVM tells nobody.
 *
 * On x86-64 it also makes hypercalls, in 64-bit code. Several vCPUs can share the code's page.
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

/* Make vCPU 0 of a VM, or a further one. */
void guest_open(struct guest *guest, int vm_fd, uint64_t code);
void guest_open_vcpu(struct guest *guest, int vm_fd, unsigned int id, uint64_t code);
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

/* One KVM_RUN, with which a routine begins or goes on: 0 or a negative errno. */
int guest_enter(struct guest *guest);

/*
 * What a hypercall does can be the VMM's business, so these only set the registers; guest_enter()
 * follows as often as it takes to KVM_EXIT_HLT. Where guest_has_calls is false they fail the test.
 */
extern const bool guest_has_calls;

/* One hypercall, with any arguments. */
void guest_begin_call(struct guest *guest, uint64_t number, const uint64_t args[3]);

/*
 * Write and check the pages of a region, and have KVM_HC_MAP_GPA_RANGE convert some of them, in
 * rounds. All of it is below 4 GiB, as for the routines above.
 */
struct guest_work {
	uint64_t gpa;
	uint64_t pages;	 /* of 4 KiB */
	uint64_t ledger; /* guest address of 8 bytes a page, which is not converted */
	uint64_t rounds;
	uint64_t random; /* what the choices and the contents come from */
};
void guest_begin_work(struct guest *guest, const struct guest_work *work);

/* The words that a page of it begins and ends with, where it was written in a round. */
uint64_t guest_work_word(const struct guest_work *work, uint64_t gpa, uint64_t round);

/*
 * After a halt: what the hypercall answered, or of the work 0, the error of a hypercall, or 1 where
 * the page at *gpa has not kept what was written.
 */
int64_t guest_result(const struct guest *guest, uint64_t *gpa);

#define GUEST_NONE "the tests' guest has no code for this processor"

/* For the body of a test. */
#define NEED_GUEST()                                                                               \
	do {                                                                                       \
		if (guest_code_size == 0)                                                          \
			SKIP(GUEST_NONE);                                                          \
	} while (0)

#endif
