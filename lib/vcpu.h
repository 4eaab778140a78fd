/* SPDX-License-Identifier: MIT */
#ifndef GMEM_VCPU_H
#define GMEM_VCPU_H

#include "vm.h"

struct kvm_run;

/* Used by one thread at a time. */
struct gmem_vcpu {
	struct gmem_vm *vm; /* a reference */
	int fd;
	struct kvm_run *run; /* the VMM's mapping */

	/* Of faults that asked for what was so already, one after the other. */
	uint64_t repeated_gpa;
	uint64_t repeated_conversions; /* of the VM, until then */
	uint64_t repeated_bits;
	uint32_t repeats; /* 0: the members above mean nothing */
};

/*
 * One KVM_PRE_FAULT_MEMORY of a range that has been checked, of which *size is left afterwards. 0
 * or a negative errno.
 */
int gmem_vcpu_pre_fault(struct gmem_vcpu *vcpu, uint64_t gpa, uint64_t *size);

#endif
