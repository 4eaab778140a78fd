/* SPDX-License-Identifier: MIT */
/* Filling a guest's page tables before it touches them. */
#include "error.h"
#include "opts.h"
#include "range.h"
#include "uapi/kvm.h"
#include "vcpu.h"
#include "verdict.h"
#include "work.h"

#include <errno.h>
#include <inttypes.h>

#define PART (UINT64_C(4) << 20) /* bytes between looks at progress and stop */

/* No range is larger, so that parts can be counted past its end. */
#define END_MAX (UINT64_C(1) << 62)

/* Answers in a row that ask to try again, with a nap of some 50 us after each EAGAIN. */
#define RETRIES_MAX 1000

/* ---- One vCPU ---- */

/*
 * Kernels up to 7.3 report a failure as an exit of the vCPU, though it has not run: what the VMM
 * has not yet read there must survive. The rest of kvm_run may be written by other threads, to make
 * the vCPU leave KVM_RUN.
 */
int gmem_vcpu_pre_fault(struct gmem_vcpu *vcpu, uint64_t gpa, uint64_t *size)
{
	const struct gmem_sys *sys = vcpu->vm->sys;
	struct kvm_pre_fault_memory range = {.gpa = gpa, .size = *size};
	uint32_t reason = vcpu->run->exit_reason;
	uint64_t fault[] = {vcpu->run->memory_fault.flags, vcpu->run->memory_fault.gpa,
			    vcpu->run->memory_fault.size};
	uint64_t begin = sys->now(sys);
	int r = sys->ioctl(sys, vcpu->fd, KVM_PRE_FAULT_MEMORY, (uintptr_t)&range);

	vcpu->run->memory_fault.flags = fault[0];
	vcpu->run->memory_fault.gpa = fault[1];
	vcpu->run->memory_fault.size = fault[2];
	vcpu->run->exit_reason = reason;
	gmem_stats_add(&vcpu->vm->stats.prefault_calls, 1);
	gmem_stats_add(&vcpu->vm->stats.prefault_ns, sys->now(sys) - begin);
	/* A kernel that answers this is broken. */
	if (r > 0 || range.size > *size || range.size % vcpu->vm->page_size ||
	    (r == 0 && range.size == *size))
		return -EBADE;
	gmem_stats_add(&vcpu->vm->stats.prefault_bytes, *size - range.size);
	*size = range.size;
	return r;
}

/* KVM stops after each signal, and says what is left. 0, or a negative errno. */
static int fill(struct gmem_vcpu *vcpu, uint64_t gpa, uint64_t size, uint64_t *done)
{
	const struct gmem_sys *sys = vcpu->vm->sys;
	uint64_t end = gpa + size;
	unsigned int retries = 0;

	while (size > 0) {
		uint64_t before = size;
		int r = gmem_vcpu_pre_fault(vcpu, end - size, &size);

		*done += before - size;
		if (size < before)
			retries = 0;
		if (r < 0 && ((r != -EINTR && r != -EAGAIN) || ++retries > RETRIES_MAX))
			return r;
		if (r < 0)
			gmem_stats_add(&vcpu->vm->stats.prefault_retries, 1);
		if (r == -EAGAIN)
			sys->nap(sys);
	}
	return 0;
}

/* ---- Several ---- */

struct prefault {
	struct gmem_work work; /* bytes from gpa on */
	struct gmem_vcpu *const *vcpus;
	const struct gmem_prefault_opts *opts;
	uint64_t gpa;
	_Atomic uint64_t done;
	_Atomic uint64_t failed_gpa; /* the first; UINT64_MAX: none */
	int error;		     /* the errno there */
};

/* Tell the caller, from its own thread. Other than 0: it wants no more. */
static int tell(const struct prefault *prefault)
{
	const struct gmem_prefault_opts *opts = prefault->opts;
	struct gmem_callback callback;
	struct gmem_error error;
	int stop;

	if (!opts->progress)
		return 0;
	gmem_error_save(&error);
	gmem_vm_callback_begin(&callback, prefault->vcpus[0]->vm);
	stop = opts->progress(opts->data, atomic_load(&prefault->done), prefault->work.end);
	gmem_vm_callback_end(&callback);
	gmem_error_restore(&error);
	return stop;
}

static bool is_stopped(const struct prefault *prefault, unsigned int worker)
{
	const int *stop = prefault->opts->stop;

	if (stop && __atomic_load_n(stop, __ATOMIC_RELAXED))
		return true;
	return worker == 0 && tell(prefault) != 0;
}

static int fill_part(struct gmem_work *work, unsigned int worker, uint64_t from, uint64_t size)
{
	struct prefault *prefault = (struct prefault *)work;
	uint64_t none = UINT64_MAX;
	uint64_t done = 0;
	int r;

	if (is_stopped(prefault, worker))
		return -ECANCELED;
	r = fill(prefault->vcpus[worker], prefault->gpa + from, size, &done);
	atomic_fetch_add(&prefault->done, done);
	if (r < 0 && atomic_compare_exchange_strong(&prefault->failed_gpa, &none,
						    prefault->gpa + from + done))
		prefault->error = -r;
	return r;
}

static int explain(const struct prefault *prefault)
{
	uint64_t gpa = atomic_load(&prefault->failed_gpa);
	int error = prefault->error;

	switch (error) {
	case 0:
		return gmem_fail(ECANCELED, GMEM_REASON_STOPPED,
				 "pre-fault of gpa [0x%" PRIx64 ", +0x%" PRIx64
				 ") was stopped after 0x%" PRIx64 " bytes",
				 prefault->gpa, prefault->work.end, atomic_load(&prefault->done));
	case ENOENT:
		return gmem_fail(EFAULT, GMEM_REASON_GPA_UNMAPPED,
				 "no slot to pre-fault at gpa 0x%" PRIx64, gpa);
	case EFAULT:
		return gmem_fail(EFAULT, GMEM_REASON_EXIT_GONE,
				 "no memory behind gpa 0x%" PRIx64 " to pre-fault", gpa);
	case EOPNOTSUPP:
	case ENOTTY:
		return gmem_fail(EOPNOTSUPP, GMEM_REASON_CAP_UNSUPPORTED,
				 "KVM does not pre-fault this VM, or not yet: it takes x86, "
				 "two-dimensional paging and, for SNP and TDX, a finished launch");
	default:
		return gmem_fail_kernel(error, "KVM_PRE_FAULT_MEMORY at gpa 0x%" PRIx64, gpa);
	}
}

static int run(struct prefault *prefault, unsigned int threads)
{
	int r = gmem_work_run(&prefault->work, threads);

	if (r < 0)
		return explain(prefault);
	tell(prefault); /* all of it; there is nothing left to stop */
	return 0;
}

static int check(const struct gmem_vm *vm, uint64_t gpa, uint64_t size)
{
	uint64_t limit = vm->gpa_limit < END_MAX ? vm->gpa_limit : END_MAX;
	uint64_t cap;
	int r = gmem_caps_get(&vm->caps, GMEM_CAP_PRE_FAULT_MEMORY, &cap);

	return r < 0 ? r : gmem_check_range(GMEM_KIND_GPA, gpa, size, vm->page_size, limit);
}

static int prefault_with(struct gmem_vm *vm, struct gmem_vcpu *const *vcpus, unsigned int count,
			 uint64_t gpa, uint64_t size, const struct gmem_prefault_opts *user,
			 uint64_t *done)
{
	struct gmem_prefault_opts opts = {0};
	struct prefault prefault = {
		.work = {.end = size, .part = PART, .part_fn = fill_part},
		.vcpus = vcpus,
		.opts = &opts,
		.gpa = gpa,
		.failed_gpa = UINT64_MAX,
	};
	int r = user ? gmem_opts_read(&opts, sizeof(opts), user) : 0;

	if (r == 0)
		r = check(vm, gpa, size);
	if (r == 0)
		r = run(&prefault, count);
	if (done)
		*done = atomic_load(&prefault.done);
	return r;
}

int gmem_vcpu_prefault(struct gmem_vcpu *vcpu, uint64_t gpa, uint64_t size,
		       const struct gmem_prefault_opts *opts, uint64_t *done)
{
	int r;

	if (done)
		*done = 0;
	if (!vcpu)
		return gmem_fail(EINVAL, GMEM_REASON_NULL, "the vCPU is NULL");
	r = gmem_vm_check(vcpu->vm);
	if (r < 0)
		return r;
	r = prefault_with(vcpu->vm, &vcpu, 1, gpa, size, opts, done);
	return gmem_vm_report(vcpu->vm, r);
}

static int check_vcpus(const struct gmem_vm *vm, struct gmem_vcpu *const *vcpus, size_t count)
{
	if (count == 0 || count > GMEM_WORK_THREADS_MAX)
		return gmem_fail(EINVAL, GMEM_REASON_ARGUMENT, "%zu vCPUs: 1 to %d", count,
				 GMEM_WORK_THREADS_MAX);
	for (size_t i = 0; i < count; i++) {
		if (!vcpus[i])
			return gmem_fail(EINVAL, GMEM_REASON_NULL, "vCPU %zu is NULL", i);
		if (vcpus[i]->vm != vm)
			return gmem_fail(EINVAL, GMEM_REASON_ARGUMENT,
					 "vCPU %zu is of another VM's handle", i);
		for (size_t j = 0; j < i; j++)
			if (vcpus[j] == vcpus[i])
				return gmem_fail(EINVAL, GMEM_REASON_ARGUMENT,
						 "vCPUs %zu and %zu are the same", j, i);
	}
	return 0;
}

int gmem_vm_prefault(struct gmem_vm *vm, struct gmem_vcpu *const *vcpus, size_t count, uint64_t gpa,
		     uint64_t size, const struct gmem_prefault_opts *opts, uint64_t *done)
{
	int r = gmem_vm_check(vm);

	if (done)
		*done = 0;
	if (r < 0)
		return r;
	if (!vcpus)
		return gmem_fail(EINVAL, GMEM_REASON_NULL, "the vCPUs are NULL");
	r = check_vcpus(vm, vcpus, count);
	if (r == 0)
		r = prefault_with(vm, vcpus, (unsigned int)count, gpa, size, opts, done);
	return gmem_vm_report(vm, r);
}
