/* SPDX-License-Identifier: MIT */
/* VMs to measure with. Each call ends the program with BENCH_SKIP where there is no such VM here.
 */
#ifndef BENCH_VM_H
#define BENCH_VM_H

#include <gmem.h>

#include <stdint.h>

/* What a guest_memfd is made with that host and guest share. */
#define VM_SHARED (GMEM_MEMFD_MMAP | GMEM_MEMFD_INIT_SHARED)

/* `type`: as KVM_CREATE_VM takes it; `flags`: GMEM_VM_*. */
struct gmem_vm *vm_open(uint64_t type, uint64_t flags);

/* A plain VM that has guest_memfd of VM_SHARED. */
struct gmem_vm *vm_open_shared(void);

/* `what`: the sentence for a VM whose capability lacks one of these bits. */
void vm_need(const struct gmem_vm *vm, enum gmem_cap cap, uint64_t wanted, const char *what);

#endif
