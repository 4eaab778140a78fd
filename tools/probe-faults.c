/* SPDX-License-Identifier: MIT */
/* Which of the known faults the running kernel has, as far as that can be found without harm. */
#include "../lib/uapi/kvm.h"
#include "probe.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define CREATE_VCPU _IO(0xAE, 0x41)
#define GPA	    0x100000
#define LAST_EXIT   UINT32_MAX /* no kernel has such a reason */

typedef enum fault_state find_fn(const struct probe *probe);

/* ---- Pre-faulting ---- */

/* A slot of one page whose guest_memfd is closed, so that a pre-fault must fail. */
static int add_dead_slot(int vm, size_t page_size)
{
	struct kvm_create_guest_memfd create = {.size = page_size,
						.flags = GMEM_MEMFD_MMAP | GMEM_MEMFD_INIT_SHARED};
	int memfd = ioctl(vm, KVM_CREATE_GUEST_MEMFD, &create);
	struct kvm_userspace_memory_region2 region = {.flags = KVM_MEM_GUEST_MEMFD,
						      .guest_phys_addr = GPA,
						      .memory_size = page_size,
						      .guest_memfd = (uint32_t)memfd};
	int r;

	if (memfd < 0)
		return -1;
	r = ioctl(vm, KVM_SET_USER_MEMORY_REGION2, &region);
	close(memfd);
	return r;
}

static enum fault_state pre_fault(int vcpu, struct kvm_run *run, size_t page_size)
{
	struct kvm_pre_fault_memory range = {.gpa = GPA, .size = page_size};
	int r;

	run->exit_reason = LAST_EXIT;
	do
		r = ioctl(vcpu, KVM_PRE_FAULT_MEMORY, &range);
	while (r < 0 && errno == EINTR);
	if (run->exit_reason != LAST_EXIT)
		return FAULT_FOUND;
	return r < 0 && errno == EFAULT ? FAULT_NOT_FOUND : FAULT_UNKNOWN;
}

static enum fault_state pre_fault_in(int vm, size_t page_size)
{
	enum fault_state state = FAULT_UNKNOWN;
	int vcpu = ioctl(vm, CREATE_VCPU, 0UL);
	void *run;

	if (vcpu < 0)
		return state;
	run = mmap(NULL, page_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (run != MAP_FAILED) {
		if (add_dead_slot(vm, page_size) == 0)
			state = pre_fault(vcpu, run, page_size);
		munmap(run, page_size);
	}
	close(vcpu);
	return state;
}

/* Of the first type whose guest_memfd has these flags; NULL where none has. */
static const struct probe_type *choose_type(const struct probe *probe, uint64_t flags)
{
	for (size_t i = 0; i < probe->type_count; i++) {
		const struct probe_type *type = &probe->types[i];

		if (type_usable(type) &&
		    (type->caps[cap_index(GMEM_CAP_GUEST_MEMFD_FLAGS)].value & flags) == flags)
			return type;
	}
	return NULL;
}

/* The library puts back what the kernel overwrites, so these calls are not its own. */
static enum fault_state find_overwritten_exit(const struct probe *probe)
{
	/* The slot must not take other memory in its guest_memfd's place. */
	const struct probe_type *type =
		choose_type(probe, GMEM_MEMFD_MMAP | GMEM_MEMFD_INIT_SHARED);
	struct gmem_vm_opts opts = {.sz = sizeof(opts), .device = probe->device};
	enum fault_state state;
	struct gmem_vm *vm;

	if (!type)
		return FAULT_UNKNOWN;
	if (!type->caps[cap_index(GMEM_CAP_PRE_FAULT_MEMORY)].value)
		return FAULT_NOT_FOUND;
	opts.type = type->type;
	if (gmem_vm_open(&opts, &vm) < 0)
		return FAULT_UNKNOWN;
	state = pre_fault_in(gmem_vm_get_fd(vm), probe->page_size);
	gmem_vm_close(vm);
	return state;
}

/* ---- Others ---- */

static enum fault_state find_wrapping_range(const struct probe *probe)
{
	const struct probe_type *type = choose_type(probe, 0);
	int err;

	if (!type)
		return FAULT_UNKNOWN;
	err = type->caps[cap_index(GMEM_CAP_BIND_CHECKED)].result.err;
	return err == 0 ? FAULT_NOT_FOUND : err == EOPNOTSUPP ? FAULT_FOUND : FAULT_UNKNOWN;
}

/*
 * Where KVM shadows page tables, all kernels so far have it, unless they were patched: to tell
 * takes a guest that runs.
 */
static enum fault_state find_prefetch(const struct probe *probe)
{
	bool is_x86 = strcmp(probe->kernel.machine, "x86_64") == 0;

	return is_x86 && probe->paging != PAGING_SHADOWS_NONE ? FAULT_UNKNOWN : FAULT_NOT_FOUND;
}

/* To try is to hang. */
static enum fault_state leave_alone(const struct probe *probe)
{
	(void)probe;
	return FAULT_UNKNOWN;
}

const struct fault_words fault_words[PROBE_FAULTS] = {
	{"bind-range-wraps", "the kernel accepts a binding whose range wraps around",
	 "none needed: the library refuses it"},
	{"guest-reads-host-address",
	 "where KVM shadows page tables (all of them with tdp_mmu=0, ept=0 or npt=0, else those of "
	 "guests within guests), Linux up to 7.3 gives the guest, beside a page of a guest_memfd "
	 "that it touches, what is at the slot's host address",
	 "none needed for slots of the library that have a mapping: the same memory is there; see "
	 "to it for slots of your own, or load KVM's modules with nested=0 and with what "
	 "gives nested paging: tdp_mmu=1, ept=1, npt=1"},
	{"pre-fault-overwrites-exit",
	 "a pre-fault that fails overwrites what kvm_run tells of the vCPU's last exit",
	 "pre-fault with the library, which puts it back"},
	{"punch-poison-deadlock",
	 "a discard can hang for good where the hardware reports one of its pages as spoilt "
	 "meanwhile; trying would hang this machine, but each Linux from 6.8 to 7.3 has this "
	 "fault unless it was patched",
	 "run a kernel with the fix; in a virtual machine that nobody needs, gmem-kernel-check "
	 "--throw-away tells"},
};

static find_fn *const find_fault[PROBE_FAULTS] = {find_wrapping_range, find_prefetch,
						  find_overwritten_exit, leave_alone};

void find_faults(struct probe *probe)
{
	for (size_t i = 0; i < PROBE_FAULTS; i++)
		probe->faults[i] = find_fault[i](probe);
}
