/* SPDX-License-Identifier: MIT */
/*
 * A VM to measure with: memory at MACHINE_GPA, in one slot, and vCPUs that run the guest of
 * examples/walk.h, or just exist.
 */
#ifndef BENCH_MACHINE_H
#define BENCH_MACHINE_H

#include <gmem.h>

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kvm_run;

#define MACHINE_GPA	  (UINT64_C(64) << 20)
#define MACHINE_VCPUS_MAX 5

enum machine_memory {
	MACHINE_SHARED,	   /* a guest_memfd that host and guest share, in a plain VM */
	MACHINE_ANONYMOUS, /* a private guest_memfd, and memory without a file to share */
	MACHINE_MEMFD,	   /* the same, and a memfd to share */
};

struct machine_vcpu {
	struct machine *machine;
	int fd;
	struct kvm_run *run;
	size_t run_size;
	struct gmem_vcpu *handle;
	_Atomic uint64_t *pages; /* the guest's word: how many it walks, 0 to end */
	pthread_t thread;
};

struct machine {
	uint64_t size;
	struct gmem_vm *vm;
	int vm_fd;
	unsigned char *low; /* the guest's first memory, always shared */
	struct gmem_slot *low_slot;
	struct gmem_memfd *memfd;
	int memfd_fd;
	unsigned char *host; /* the side to share, private memory's; else NULL */
	int host_fd;	     /* of a memfd; else -1 */
	struct gmem_slot *slot;
	unsigned int vcpus;
	struct machine_vcpu vcpu[MACHINE_VCPUS_MAX];
};

/* Ends the program with BENCH_SKIP where there is no such VM here. */
void machine_open(struct machine *machine, enum machine_memory memory, uint64_t size);
void machine_close(struct machine *machine);

/* Without KVM_PRE_FAULT_MEMORY, ends the program with BENCH_SKIP. */
void machine_need_prefault(const struct machine *machine);

/* One more vCPU, which does not run yet. It walks the machine's memory, or else some of its own. */
struct machine_vcpu *machine_add_vcpu(struct machine *machine, bool walks_memory);

/* Let it run in a thread of its own, all the time; and end that, with which its guest ends too. */
void machine_start(struct machine_vcpu *vcpu);
void machine_stop(struct machine_vcpu *vcpu);

/* Let the guest touch the first pages of the machine's memory, one after the other. */
void machine_walk(struct machine_vcpu *vcpu, uint64_t pages);

/* Allocate pages of the shared side, of the private one. */
void machine_fill_shared(const struct machine *machine, uint64_t size);
void machine_fill_private(const struct machine *machine, uint64_t size);

#endif
