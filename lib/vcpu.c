/* SPDX-License-Identifier: MIT */
#include "vcpu.h"

#include "convert.h"
#include "error.h"
#include "fd.h"
#include "opts.h"
#include "range.h"
#include "slot.h"
#include "uapi/kvm.h"
#include "visibility.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#define REPEAT_LIMIT 100

/* A guest's page in its hypercall, whatever the host's is. */
#define HYPERCALL_PAGE_BITS 12

/* Bits 3:0 of the hypercall's attributes are a hint, which page size would be best. */
#define HYPERCALL_HINT_BITS UINT64_C(15)

/* The companion kernel series' flag of a page that its owner has to fill. */
#define EXIT_FLAG_USERFAULT (UINT64_C(1) << 4)

/* Types of x86 VMs that take a hypercall's answer as a positive errno (kvm_is_valid_map_gpa_...) */
#define VM_TYPE_SNP 4
#define VM_TYPE_TDX 5

/* ---- The handle ---- */

/*
 * How a guest is answered depends on its VM's type, which no kernel tells. The default type has no
 * private memory: a VM that has is of another, which the VMM has forgotten to say.
 */
static int check_type(const struct gmem_vm *vm)
{
	if (vm->type || !vm->has_private)
		return 0;
	return gmem_fail(EINVAL, GMEM_REASON_CONFLICT,
			 "this VM has private memory, so its type is not 0: give the type to "
			 "gmem_vm_open_fd()");
}

/* VMs and the device know this request, and only a vCPU refuses an unknown one with EINVAL. */
static int check_is_vcpu(const struct gmem_sys *sys, int fd)
{
	int r = gmem_caps_check(sys, fd, 0);

	if (r == -EINVAL)
		return 0;
	if (r == -EIO)
		return gmem_fork_fail();
	if (r == -EPERM || r == -ENOSYS)
		return gmem_fail_kernel(-r, "KVM_CHECK_EXTENSION on fd %d", fd);
	return gmem_fail(ENOTTY, GMEM_REASON_FD_NOT_VCPU, "fd %d is not a KVM vCPU", fd);
}

static int duplicate(const struct gmem_sys *sys, int vcpu_fd)
{
	int fd = gmem_fd_duplicate(sys, vcpu_fd);
	int r;

	if (fd < 0)
		return fd;
	r = check_is_vcpu(sys, fd);
	if (r < 0) {
		sys->close(sys, fd);
		return r;
	}
	return fd;
}

static int open_vcpu(struct gmem_vm *vm, int vcpu_fd, struct kvm_run *run, struct gmem_vcpu **ret)
{
	struct gmem_vcpu *vcpu;
	int fd = check_type(vm);

	if (fd == 0)
		fd = duplicate(vm->sys, vcpu_fd);
	if (fd < 0)
		return fd;
	vcpu = calloc(1, sizeof(*vcpu));
	if (!vcpu) {
		vm->sys->close(vm->sys, fd);
		return gmem_fail(ENOMEM, GMEM_REASON_NO_MEMORY, "no memory for a vCPU's handle");
	}
	vcpu->vm = gmem_vm_ref(vm);
	vcpu->fd = fd;
	vcpu->run = run;
	*ret = vcpu;
	return 0;
}

int gmem_vcpu_open(struct gmem_vm *vm, int vcpu_fd, struct kvm_run *run, struct gmem_vcpu **ret)
{
	int r;

	if (!ret)
		return gmem_fail(EINVAL, GMEM_REASON_NULL, "no place for the handle");
	*ret = NULL;
	r = gmem_vm_check(vm);
	if (r < 0)
		return r;
	if (!run)
		return gmem_fail(EINVAL, GMEM_REASON_NULL, "kvm_run is NULL");
	return gmem_vm_report(vm, open_vcpu(vm, vcpu_fd, run, ret));
}

void gmem_vcpu_close(struct gmem_vcpu *vcpu)
{
	if (!vcpu)
		return;
	vcpu->vm->sys->close(vcpu->vm->sys, vcpu->fd);
	gmem_vm_unref(vcpu->vm);
	free(vcpu);
}

/* ---- The hypercall ---- */

static int enable_map_gpa_range(struct gmem_vm *vm)
{
	const uint64_t bit = UINT64_C(1) << KVM_HC_MAP_GPA_RANGE;
	struct kvm_enable_cap enable = {.cap = KVM_CAP_EXIT_HYPERCALL, .args = {bit}};
	uint64_t mask;
	int r = check_type(vm);

	if (r == 0)
		r = gmem_caps_get(&vm->caps, GMEM_CAP_EXIT_HYPERCALL, &mask);
	if (r < 0)
		return r;
	if (!(mask & bit))
		return gmem_fail(EOPNOTSUPP, GMEM_REASON_CAP_UNSUPPORTED,
				 "this kernel has no exit for MAP_GPA_RANGE: mask 0x%" PRIx64,
				 mask);
	r = vm->sys->ioctl(vm->sys, vm->fd, KVM_ENABLE_CAP, (uintptr_t)&enable);
	return r < 0 ? gmem_fail_kernel(-r, "KVM_ENABLE_CAP of KVM_CAP_EXIT_HYPERCALL") : 0;
}

int gmem_vm_enable_map_gpa_range(struct gmem_vm *vm)
{
	int r = gmem_vm_check(vm);

	return r < 0 ? r : gmem_vm_report(vm, enable_map_gpa_range(vm));
}

/* Whether the guest's words describe a range at all, and which. */
static bool read_range(const struct gmem_vm *vm, uint64_t gpa, uint64_t pages, uint64_t attributes,
		       uint64_t *size)
{
	const uint64_t known = HYPERCALL_HINT_BITS | KVM_MAP_GPA_RANGE_ENCRYPTED;

	bool fits = pages <= UINT64_MAX >> HYPERCALL_PAGE_BITS;

	*size = fits ? pages << HYPERCALL_PAGE_BITS : UINT64_MAX;
	if (!fits || attributes & ~known ||
	    (attributes & HYPERCALL_HINT_BITS) > KVM_MAP_GPA_RANGE_PAGE_SZ_1G)
		return false;
	return gmem_range_check(gpa, *size, vm->page_size, vm->gpa_limit) == GMEM_RANGE_OK;
}

static void decode_hypercall(const struct gmem_vcpu *vcpu, struct gmem_exit *exit)
{
	/* The page is shared with the kernel: each word is read once. */
	const volatile struct kvm_run *run = vcpu->run;
	uint64_t gpa, pages, attributes;
	uint64_t size = 0;

	if (run->hypercall.nr != KVM_HC_MAP_GPA_RANGE)
		return;
	gpa = run->hypercall.args[0];
	pages = run->hypercall.args[1];
	attributes = run->hypercall.args[2];
	exit->flags = GMEM_EXIT_HYPERCALL | GMEM_EXIT_ADDRESS;
	exit->bits = attributes;
	exit->kind = GMEM_EXIT_BAD_HYPERCALL;
	if (read_range(vcpu->vm, gpa, pages, attributes, &size))
		exit->kind = attributes & KVM_MAP_GPA_RANGE_ENCRYPTED ? GMEM_EXIT_TO_PRIVATE
								      : GMEM_EXIT_TO_SHARED;
	exit->gpa = gpa;
	exit->size = size;
}

/* ---- Decoding ---- */

/* Whether a slot with a guest_memfd is there. */
static bool has_private_half(const struct gmem_vm *vm, uint64_t gpa)
{
	struct gmem_interval found;
	int r;

	while ((r = gmem_interval_lookup(&vm->spaces[0].slots, gpa, &found)) == -EAGAIN)
		vm->sys->nap(vm->sys);
	return r > 0 && found.word & GMEM_WORD_GUEST;
}

/* What a fault of known flags asks for, with rc 0 or EFAULT. */
static enum gmem_exit_kind wanted(const struct gmem_vm *vm, const struct gmem_exit *exit,
				  uint64_t flags)
{
	bool is_private = flags & KVM_MEMORY_EXIT_FLAG_PRIVATE;
	uint64_t end;

	if (flags & EXIT_FLAG_USERFAULT)
		return GMEM_EXIT_MISSING;
	if (!vm->has_private)
		return GMEM_EXIT_GONE;
	if (gmem_visibility_is_private(vm, exit->gpa, &end) == is_private &&
	    end - exit->gpa >= exit->size)
		return is_private && !has_private_half(vm, exit->gpa) ? GMEM_EXIT_GONE
								      : GMEM_EXIT_RETRY;
	return is_private ? GMEM_EXIT_TO_PRIVATE : GMEM_EXIT_TO_SHARED;
}

/* Whole pages around the fault: on arm64 KVM tells it in steps of 4 KiB whatever the page is. */
static bool read_fault_range(const struct gmem_vm *vm, uint64_t gpa, uint64_t size,
			     struct gmem_exit *exit)
{
	uint64_t mask = vm->page_size - 1;

	if (size == 0 || gpa > GMEM_RANGE_MAX - mask || size > GMEM_RANGE_MAX - mask - gpa)
		return false;
	exit->gpa = gpa & ~mask;
	exit->size = ((gpa + size + mask) & ~mask) - exit->gpa;
	exit->flags = GMEM_EXIT_ADDRESS;
	return true;
}

static void decode_fault(const struct gmem_vcpu *vcpu, int error, struct gmem_exit *exit)
{
	const uint64_t known = KVM_MEMORY_EXIT_FLAG_PRIVATE | EXIT_FLAG_USERFAULT;
	const volatile struct kvm_run *run = vcpu->run;
	uint64_t flags = run->memory_fault.flags;
	uint64_t gpa = run->memory_fault.gpa;
	uint64_t size = run->memory_fault.size;

	bool known_range = read_fault_range(vcpu->vm, gpa, size, exit);

	exit->bits = flags;
	if (error != 0 && error != EFAULT)
		return; /* the errno says it all */
	exit->kind = known_range && !(flags & ~known) ? wanted(vcpu->vm, exit, flags)
						      : GMEM_EXIT_UNKNOWN;
}

/* What the errno alone says, with an address or without. */
static enum gmem_exit_kind kind_of_error(int error)
{
	switch (error) {
	case EINTR:
	case EAGAIN:
		return GMEM_EXIT_RETRY;
	case EFAULT:
		return GMEM_EXIT_GONE;
	case EHWPOISON:
		return GMEM_EXIT_POISONED;
	case ENOMEM:
		return GMEM_EXIT_NO_MEMORY;
	default:
		return GMEM_EXIT_OTHER;
	}
}

/* With these KVM_RUN has filled in the exit; with any other it is left over. */
static bool may_be_fault(int error)
{
	return error == 0 || error == EFAULT || error == EHWPOISON || error == ENOMEM ||
	       error == EIO;
}

static void decode(const struct gmem_vcpu *vcpu, int error, struct gmem_exit *exit)
{
	uint32_t reason = ((const volatile struct kvm_run *)vcpu->run)->exit_reason;

	exit->error = error;
	exit->kind = kind_of_error(error);
	if (reason == KVM_EXIT_MEMORY_FAULT && may_be_fault(error)) {
		if (error == EIO)
			exit->kind = GMEM_EXIT_GONE;
		decode_fault(vcpu, error, exit);
	} else if (reason == KVM_EXIT_HYPERCALL && error == 0) {
		decode_hypercall(vcpu, exit);
	}
}

/* Whether it can be the fault before once more; else the guest has come further. */
static bool may_repeat(const struct gmem_exit *exit)
{
	return !(exit->flags & GMEM_EXIT_HYPERCALL) &&
	       (exit->kind == GMEM_EXIT_RETRY || exit->kind == GMEM_EXIT_TO_PRIVATE ||
		exit->kind == GMEM_EXIT_TO_SHARED);
}

int gmem_vcpu_decode(struct gmem_vcpu *vcpu, int rc, int error, struct gmem_exit *user)
{
	struct gmem_exit exit = {0};
	int r;

	if (!vcpu)
		return gmem_fail(EINVAL, GMEM_REASON_NULL, "the vCPU is NULL");
	if (gmem_forked(&vcpu->vm->fork_guard))
		return gmem_fork_fail();
	r = gmem_opts_check(user);
	if (r < 0)
		return r;
	decode(vcpu, rc < 0 ? error : 0, &exit);
	if (!may_repeat(&exit))
		vcpu->repeats = 0;
	gmem_stats_add(&vcpu->vm->stats.exits[exit.kind], 1);
	gmem_opts_write(user, &exit, sizeof(exit));
	return 0;
}

/* ---- Resolving ---- */

/*
 * Whether a fault is the same as the one before, too often, with no conversion between: then what
 * is done about it does not help. 0, or a failure.
 */
static int count_repeat(struct gmem_vcpu *vcpu, const struct gmem_exit *exit, uint32_t limit)
{
	uint64_t conversions =
		atomic_load_explicit(&vcpu->vm->stats.conversions, memory_order_relaxed);

	if (vcpu->repeats == 0 || vcpu->repeated_gpa != exit->gpa ||
	    vcpu->repeated_bits != exit->bits || vcpu->repeated_conversions != conversions) {
		vcpu->repeats = 0;
		vcpu->repeated_gpa = exit->gpa;
		vcpu->repeated_bits = exit->bits;
		vcpu->repeated_conversions = conversions;
	}
	if (vcpu->repeats++ < limit)
		return 0;
	return gmem_fail(ELOOP, GMEM_REASON_EXIT_STUCK,
			 "the guest faults at gpa 0x%" PRIx64 " for the %" PRIu32
			 "th time (flags 0x%" PRIx64 "), though it is as it asks",
			 exit->gpa, vcpu->repeats, exit->bits);
}

static int convert(struct gmem_vcpu *vcpu, const struct gmem_exit *exit,
		   const struct gmem_resolve_opts *opts)
{
	bool to_private = exit->kind == GMEM_EXIT_TO_PRIVATE;
	uint64_t left = exit->size;
	int r = gmem_vm_convert_quietly(
		vcpu->vm, exit->gpa, exit->size,
		to_private ? GMEM_VISIBILITY_PRIVATE : GMEM_VISIBILITY_SHARED, opts->policy);

	if (r < 0 || !to_private || !(opts->flags & GMEM_RESOLVE_PREFAULT) ||
	    !gmem_caps_value(&vcpu->vm->caps, GMEM_CAP_PRE_FAULT_MEMORY))
		return r;
	/* Once: it ends at a signal, and what is not filled now will be by the guest's touch. */
	gmem_vcpu_pre_fault(vcpu, exit->gpa, &left);
	return 0;
}

/*
 * KVM has preset success. It takes a positive errno for SNP and TDX guests, of which it knows these
 * two, and gives others what is here as their register (kvm_is_valid_map_gpa_range_ret(),
 * complete_hypercall_exit()).
 */
static void answer(struct gmem_vcpu *vcpu, int error)
{
	bool translated = vcpu->vm->type == VM_TYPE_SNP || vcpu->vm->type == VM_TYPE_TDX;
	uint64_t ret = 0;

	if (error)
		ret = translated ? (uint64_t)error : -(uint64_t)EINVAL;
	((volatile struct kvm_run *)vcpu->run)->hypercall.ret = ret;
}

/* Whether a conversion failed because of what the guest asked for. */
static bool is_guests_fault(enum gmem_reason reason)
{
	switch (reason) {
	case GMEM_REASON_HYPERCALL_REFUSED:
	case GMEM_REASON_RANGE_EMPTY:
	case GMEM_REASON_RANGE_UNALIGNED:
	case GMEM_REASON_RANGE_WRAPS:
	case GMEM_REASON_GPA_BEYOND_WIDTH:
	case GMEM_REASON_GPA_UNMAPPED:
	case GMEM_REASON_NO_PRIVATE_SIDE:
	case GMEM_REASON_NO_HOST_SIDE:
	case GMEM_REASON_CAP_UNSUPPORTED:
		return true;
	default:
		return false;
	}
}

static int resolve_hypercall(struct gmem_vcpu *vcpu, const struct gmem_exit *exit,
			     const struct gmem_resolve_opts *opts)
{
	int r;

	if (exit->kind == GMEM_EXIT_BAD_HYPERCALL)
		r = gmem_fail(EINVAL, GMEM_REASON_HYPERCALL_REFUSED,
			      "the guest's MAP_GPA_RANGE of gpa 0x%" PRIx64 ", 0x%" PRIx64
			      " bytes, attributes 0x%" PRIx64 " is no range of its addresses",
			      exit->gpa, exit->size, exit->bits);
	else
		r = convert(vcpu, exit, opts);
	gmem_stats_add(&vcpu->vm->stats.hypercalls, 1);
	if (r == 0) {
		answer(vcpu, 0);
		return 0;
	}
	gmem_stats_add(&vcpu->vm->stats.hypercalls_refused, 1);
	if (is_guests_fault(gmem_error_get_reason())) {
		answer(vcpu, EINVAL);
		return 0;
	}
	answer(vcpu, EAGAIN);
	return r;
}

static int resolve(struct gmem_vcpu *vcpu, const struct gmem_exit *exit,
		   const struct gmem_resolve_opts *opts)
{
	uint32_t limit = opts->repeat_limit ? opts->repeat_limit : REPEAT_LIMIT;
	int r = 0;

	if (exit->flags & GMEM_EXIT_HYPERCALL)
		return resolve_hypercall(vcpu, exit, opts);
	switch (exit->kind) {
	case GMEM_EXIT_TO_PRIVATE:
	case GMEM_EXIT_TO_SHARED:
		r = count_repeat(vcpu, exit, limit);
		return r < 0 ? r : convert(vcpu, exit, opts);
	case GMEM_EXIT_RETRY:
		return exit->flags & GMEM_EXIT_ADDRESS ? count_repeat(vcpu, exit, limit) : 0;
	case GMEM_EXIT_MISSING:
		return gmem_fail(ENODATA, GMEM_REASON_EXIT_MISSING,
				 "the page at gpa 0x%" PRIx64 " is to be filled by its owner first",
				 exit->gpa);
	case GMEM_EXIT_POISONED:
		return gmem_fail(EHWPOISON, GMEM_REASON_POISONED,
				 "the memory at gpa 0x%" PRIx64 " is damaged", exit->gpa);
	case GMEM_EXIT_GONE:
		return gmem_fail(EFAULT, GMEM_REASON_EXIT_GONE,
				 "the memory at gpa 0x%" PRIx64 " is gone: %s", exit->gpa,
				 exit->flags & GMEM_EXIT_ADDRESS
					 ? "there is no guest_memfd, or it was closed"
					 : "KVM does not tell the address");
	case GMEM_EXIT_NO_MEMORY:
		return gmem_fail(ENOMEM, GMEM_REASON_NO_MEMORY,
				 "the host had no memory for the guest at gpa 0x%" PRIx64,
				 exit->gpa);
	case GMEM_EXIT_UNKNOWN:
		return gmem_fail(EOPNOTSUPP, GMEM_REASON_EXIT_UNKNOWN,
				 "a memory fault at gpa 0x%" PRIx64 " with flags 0x%" PRIx64
				 " that this library does not know",
				 exit->gpa, exit->bits);
	case GMEM_EXIT_OTHER:
	case GMEM_EXIT_BAD_HYPERCALL:
		break;
	}
	return gmem_fail(EINVAL, GMEM_REASON_ARGUMENT, "an exit of kind %d is not to be resolved",
			 (int)exit->kind);
}

static int read_resolve_opts(struct gmem_resolve_opts *opts, const struct gmem_resolve_opts *user)
{
	int r = user ? gmem_opts_read(opts, sizeof(*opts), user) : 0;

	if (r < 0 || !(opts->flags & ~GMEM_RESOLVE_PREFAULT))
		return r;
	return gmem_fail(EINVAL, GMEM_REASON_FLAGS_UNKNOWN, "unknown resolve flags 0x%" PRIx64,
			 opts->flags & ~GMEM_RESOLVE_PREFAULT);
}

int gmem_vcpu_resolve(struct gmem_vcpu *vcpu, const struct gmem_exit *user_exit,
		      const struct gmem_resolve_opts *user)
{
	struct gmem_resolve_opts opts = {0};
	struct gmem_exit exit;
	int r;

	if (!vcpu)
		return gmem_fail(EINVAL, GMEM_REASON_NULL, "the vCPU is NULL");
	r = gmem_vm_check(vcpu->vm);
	if (r < 0)
		return r;
	r = gmem_opts_read(&exit, sizeof(exit), user_exit);
	if (r < 0)
		return gmem_vm_report(vcpu->vm, r);
	r = read_resolve_opts(&opts, user);
	if (r < 0) {
		if (exit.flags & GMEM_EXIT_HYPERCALL)
			answer(vcpu, EAGAIN);
		return gmem_vm_report(vcpu->vm, r);
	}
	/* Not logged: a guest can make this fail as often as it likes. */
	return resolve(vcpu, &exit, &opts);
}
