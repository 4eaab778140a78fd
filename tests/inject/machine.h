/* SPDX-License-Identifier: MIT */
/* What only this machine's KVM can tell, past the library: its headers and the library's clash. */
#ifndef GMEM_TEST_MACHINE_H
#define GMEM_TEST_MACHINE_H

#include <stddef.h>
#include <stdint.h>

struct kvm_run;

/* Why the tests cannot run over this machine's KVM, or NULL. */
const char *machine_missing(void);

/* Descriptors, as a VMM makes them. */
int machine_make_vm(void);
int machine_make_memfd(int vm, uint64_t size, uint64_t flags);
int machine_make_vcpu(int vm, struct kvm_run **run, size_t *run_size);

/* Which of the lowest and the highest slot ids are in use, a bit each, found by trying. */
uint64_t machine_used_ids(int vm);

#endif
