/* SPDX-License-Identifier: MIT */
#include "vm.h"

#include "error.h"
#include "fd.h"
#include "opts.h"
#include "range.h"
#include "uapi/kvm.h"
#include "uapi/mm.h"
#include "verdict.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The innermost callback that this thread is in, or NULL. */
static _Thread_local struct gmem_callback *innermost;

/* ---- Calls, callbacks and the log ---- */

bool gmem_vm_in_callback(const struct gmem_vm *vm)
{
	for (const struct gmem_callback *callback = innermost; callback; callback = callback->outer)
		if (callback->vm == vm)
			return true;
	return false;
}

int gmem_vm_check(const struct gmem_vm *vm)
{
	if (!vm)
		return gmem_fail(EINVAL, GMEM_REASON_NULL, "the VM is NULL");
	if (gmem_forked(&vm->fork_guard))
		return gmem_fork_fail();
	if (gmem_vm_in_callback(vm))
		return gmem_fail(EDEADLK, GMEM_REASON_IN_CALLBACK,
				 "a callback of this VM may not change it");
	return 0;
}

int gmem_vm_lock(struct gmem_vm *vm)
{
	int r = gmem_vm_check(vm);

	if (r == 0)
		pthread_mutex_lock(&vm->lock);
	return r;
}

void gmem_vm_unlock(struct gmem_vm *vm)
{
	pthread_mutex_unlock(&vm->lock);
}

void gmem_vm_callback_begin(struct gmem_callback *callback, struct gmem_vm *vm)
{
	*callback = (struct gmem_callback){.vm = vm, .outer = innermost};
	innermost = callback;
}

void gmem_vm_callback_end(struct gmem_callback *callback)
{
	innermost = callback->outer;
}

/* `vm` is NULL while one is being opened. What the callback does leaves this thread's failure. */
static void call_log(struct gmem_vm *vm, gmem_log_fn *log, void *log_data,
		     enum gmem_log_level level, const char *message)
{
	struct gmem_callback callback;
	struct gmem_error error;

	gmem_error_save(&error);
	gmem_vm_callback_begin(&callback, vm);
	log(log_data, level, message);
	gmem_vm_callback_end(&callback);
	gmem_error_restore(&error);
}

void gmem_vm_log(struct gmem_vm *vm, enum gmem_log_level level, const char *format, ...)
{
	char message[256];
	va_list arguments;

	if (!vm->log)
		return;
	va_start(arguments, format);
	vsnprintf(message, sizeof(message), format, arguments);
	va_end(arguments);
	call_log(vm, vm->log, vm->log_data, level, message);
}

int gmem_vm_report(struct gmem_vm *vm, int result)
{
	struct gmem_error error;

	/* A callback that fails again and again must not be called for each of its own failures. */
	if (result >= 0 || !vm || !vm->log || gmem_vm_in_callback(vm))
		return result;
	gmem_error_save(&error);
	call_log(vm, vm->log, vm->log_data, GMEM_LOG_ERROR, error.message);
	return result;
}

/* ---- Opening ---- */

static int device_failure(int error, const char *device)
{
	switch (error) {
	case ENOENT:
		return gmem_fail(error, GMEM_REASON_KVM_NO_DEVICE, "%s does not exist", device);
	case EACCES:
	case EPERM:
		return gmem_fail(error, GMEM_REASON_KVM_NO_PERMISSION,
				 "%s may not be opened by this user: %s", device,
				 gmem_errno_name(error));
	case ENODEV:
	case ENXIO:
		return gmem_fail(error, GMEM_REASON_KVM_NO_HARDWARE,
				 "%s exists, but nothing is behind it: %s", device,
				 gmem_errno_name(error));
	default:
		return gmem_fail_kernel(error, "cannot open %s", device);
	}
}

static int open_device(const struct gmem_sys *sys, const char *device)
{
	int fd = sys->open(sys, device, O_RDWR | O_CLOEXEC);
	int r;

	if (fd < 0)
		return device_failure(-fd, device);
	r = sys->ioctl(sys, fd, KVM_GET_API_VERSION, 0);
	if (r == KVM_API_VERSION)
		return fd;
	sys->close(sys, fd);
	if (r == -EPERM || r == -ENOSYS)
		return gmem_fail_kernel(-r, "KVM_GET_API_VERSION on %s", device);
	if (r < 0)
		return gmem_fail(ENOTTY, GMEM_REASON_KVM_NOT_KVM, "%s is not KVM: %s", device,
				 gmem_errno_name(-r));
	return gmem_fail(ENOTTY, GMEM_REASON_KVM_NOT_KVM, "%s has interface %d, KVM has %d", device,
			 r, KVM_API_VERSION);
}

/* A descriptor of a new VM, with close-on-exec as KVM makes it. */
static int create_vm(const struct gmem_sys *sys, const struct gmem_vm_opts *opts)
{
	int device = open_device(sys, opts->device ? opts->device : "/dev/kvm");
	int fd;

	if (device < 0)
		return device;
	do
		fd = sys->ioctl(sys, device, KVM_CREATE_VM, (uintptr_t)opts->type);
	while (fd == -EINTR);
	sys->close(sys, device);
	if (fd == -EINVAL)
		return gmem_fail(EINVAL, GMEM_REASON_VM_TYPE,
				 "the kernel makes no VM of type %" PRIu64, opts->type);
	if (fd < 0)
		return gmem_fail_kernel(-fd, "KVM_CREATE_VM, type %" PRIu64, opts->type);
	return fd;
}

/* Capability queries tell a VM from other descriptors: KVM's device alone has a version too. */
static int check_is_vm(const struct gmem_sys *sys, int fd)
{
	int r = gmem_caps_check(sys, fd, KVM_CAP_USER_MEMORY2);

	if (r == -EIO)
		return gmem_fail(EIO, GMEM_REASON_FORKED,
				 "fd %d is a VM of another process, or dead: KVM answers EIO", fd);
	if (r == -EPERM || r == -ENOSYS)
		return gmem_fail_kernel(-r, "KVM_CHECK_EXTENSION on fd %d", fd);
	if (r < 0)
		return gmem_fail(ENOTTY, GMEM_REASON_FD_NOT_VM, "fd %d is not a KVM VM: %s", fd,
				 gmem_errno_name(-r));
	if (sys->ioctl(sys, fd, KVM_GET_API_VERSION, 0) == KVM_API_VERSION)
		return gmem_fail(ENOTTY, GMEM_REASON_FD_NOT_VM,
				 "fd %d is the KVM device, not a VM made with it", fd);
	return 0;
}

static int duplicate_vm(const struct gmem_sys *sys, int vm_fd)
{
	int fd = gmem_fd_duplicate(sys, vm_fd);
	int r;

	if (fd < 0)
		return fd;
	r = check_is_vm(sys, fd);
	if (r < 0) {
		sys->close(sys, fd);
		return r;
	}
	return fd;
}

/* ---- The handle ---- */

static uint64_t limit_of_bits(uint64_t bits)
{
	return bits && bits < 64 ? UINT64_C(1) << bits : GMEM_RANGE_MAX;
}

static int set_granted(struct gmem_vm *vm, const struct gmem_vm_opts *opts)
{
	uint32_t end;

	if (!gmem_range_within(opts->id_first, opts->id_count, 0, vm->nr_ids) ||
	    opts->id_first == vm->nr_ids)
		return gmem_fail(ERANGE, GMEM_REASON_ID_BEYOND_LIMIT,
				 "granted slot ids [%" PRIu32 ", +%" PRIu32
				 ") pass the kernel's %" PRIu32,
				 opts->id_first, opts->id_count, vm->nr_ids);
	end = opts->id_count ? opts->id_first + opts->id_count : vm->nr_ids;
	vm->id_first = opts->id_first;
	vm->id_end = end;
	return 0;
}

static int make_spaces(struct gmem_vm *vm)
{
	size_t words = (vm->nr_ids + 63) / 64;

	vm->spaces = calloc(vm->nr_spaces, sizeof(*vm->spaces));
	if (!vm->spaces)
		return gmem_fail(ENOMEM, GMEM_REASON_NO_MEMORY, "no memory for address spaces");
	for (uint32_t i = 0; i < vm->nr_spaces; i++) {
		gmem_interval_init(&vm->spaces[i].slots);
		gmem_interval_init(&vm->spaces[i].reserved);
		vm->spaces[i].slot = calloc(vm->nr_ids, sizeof(struct gmem_slot *));
		vm->spaces[i].taken = calloc(words, sizeof(uint64_t));
		vm->spaces[i].kept = calloc(words, sizeof(uint64_t));
		if (!vm->spaces[i].slot || !vm->spaces[i].taken || !vm->spaces[i].kept)
			return gmem_fail(ENOMEM, GMEM_REASON_NO_MEMORY, "no memory for slot ids");
	}
	return 0;
}

static void free_spaces(struct gmem_vm *vm)
{
	for (uint32_t i = 0; vm->spaces && i < vm->nr_spaces; i++) {
		gmem_interval_fini(&vm->spaces[i].slots);
		gmem_interval_fini(&vm->spaces[i].reserved);
		free(vm->spaces[i].slot);
		free(vm->spaces[i].taken);
		free(vm->spaces[i].kept);
	}
	free(vm->spaces);
}

/* What the kernel announces, and whether that is enough. */
static int set_announced(struct gmem_vm *vm, const struct gmem_vm_opts *opts)
{
	uint64_t value;
	int r;

	gmem_caps_query(&vm->caps, vm->sys, vm->fd);
	r = gmem_caps_get(&vm->caps, GMEM_CAP_USER_MEMORY2, &value);
	if (r == -EOPNOTSUPP)
		return gmem_fail(EOPNOTSUPP, GMEM_REASON_KERNEL_TOO_OLD,
				 "this kernel has no KVM_SET_USER_MEMORY_REGION2 (Linux 6.8)");
	if (r < 0)
		return gmem_fail_kernel(-r, "KVM_CHECK_EXTENSION");
	vm->nr_ids = (uint32_t)gmem_caps_value(&vm->caps, GMEM_CAP_NR_MEMSLOTS);
	if (vm->nr_ids == 0)
		vm->nr_ids = 32; /* not known: as many as every kernel has */
	vm->nr_spaces = (uint32_t)gmem_caps_value(&vm->caps, GMEM_CAP_NR_ADDRESS_SPACES);
	if (vm->nr_spaces == 0)
		vm->nr_spaces = 1;
	return set_granted(vm, opts);
}

/* Where this process's addresses end. */
static uint64_t end_of_process(const struct gmem_vm *vm)
{
	uint64_t end = limit_of_bits(gmem_caps_value(&vm->caps, GMEM_CAP_HVA_BITS));

#if defined(__x86_64__)
	/* The last page is nobody's (TASK_SIZE_MAX): KVM refuses it. */
	if (end != GMEM_RANGE_MAX)
		end -= vm->page_size;
#endif
	return end;
}

/* What follows from the capabilities. */
static int set_limits(struct gmem_vm *vm, const struct gmem_vm_opts *opts)
{
	int r = set_announced(vm, opts);

	if (r < 0)
		return r;
	gmem_caps_try(&vm->caps, vm->sys, vm->fd, vm->id_first, vm->id_end);
	vm->gpa_limit = limit_of_bits(gmem_caps_value(&vm->caps, GMEM_CAP_GPA_BITS));
	vm->hva_limit = end_of_process(vm);
	vm->has_private =
		gmem_caps_value(&vm->caps, GMEM_CAP_MEMORY_ATTRIBUTES) & GMEM_ATTRIBUTE_PRIVATE;
	return make_spaces(vm);
}

/* Not in a child: threads that are not there may hold them or wait for them, for ever. */
static void destroy_locks(struct gmem_vm *vm)
{
	pthread_cond_destroy(&vm->claims_changed);
	pthread_mutex_destroy(&vm->leaf_lock);
	pthread_mutex_destroy(&vm->lock);
}

static void destroy(struct gmem_vm *vm)
{
	bool forked = gmem_forked(&vm->fork_guard);

	while (vm->retired) {
		struct gmem_retired *retired = vm->retired;

		vm->retired = retired->next;
		if (!forked)
			vm->sys->munmap(vm->sys, retired->addr, retired->size);
		free(retired);
	}
	free_spaces(vm);
	gmem_interval_fini(&vm->private);
	gmem_interval_fini(&vm->twice);
	gmem_fork_guard_fini(&vm->fork_guard, vm->sys);
	vm->sys->close(vm->sys, vm->fd);
	if (!forked)
		destroy_locks(vm);
	free(vm);
}

/* Takes the descriptor over, also where it fails. */
static int make_handle(const struct gmem_sys *sys, int fd, const struct gmem_vm_opts *opts,
		       struct gmem_vm **ret)
{
	struct gmem_vm *vm = aligned_alloc(_Alignof(struct gmem_vm), sizeof(*vm));
	int r;

	if (!vm) {
		sys->close(sys, fd);
		return gmem_fail(ENOMEM, GMEM_REASON_NO_MEMORY, "no memory for a VM's handle");
	}
	memset(vm, 0, sizeof(*vm));
	vm->sys = sys;
	vm->fd = fd;
	vm->flags = opts->flags;
	vm->type = opts->type;
	vm->page_size = sys->page_size(sys);
	vm->log = opts->log;
	vm->log_data = opts->log_data;
	atomic_init(&vm->references, 1);
	pthread_mutex_init(&vm->lock, NULL);
	pthread_mutex_init(&vm->leaf_lock, NULL);
	pthread_cond_init(&vm->claims_changed, NULL);
	r = gmem_fork_guard_init(&vm->fork_guard, sys);
	if (r < 0) {
		sys->close(sys, fd);
		free(vm);
		return r;
	}
	r = set_limits(vm, opts);
	if (r < 0) {
		destroy(vm);
		return r;
	}
	*ret = vm;
	return 0;
}

static int read_opts(struct gmem_vm_opts *to, const struct gmem_vm_opts *from, struct gmem_vm **ret)
{
	*to = (struct gmem_vm_opts){0};
	if (!ret)
		return gmem_fail(EINVAL, GMEM_REASON_NULL, "no place for the handle");
	*ret = NULL;
	return from ? gmem_opts_read(to, sizeof(*to), from) : 0;
}

static int check_flags(const struct gmem_vm_opts *opts)
{
	uint64_t unknown = opts->flags & ~GMEM_VM_FAULT_PROOF;

	if (unknown)
		return gmem_fail(EINVAL, GMEM_REASON_FLAGS_UNKNOWN, "unknown VM flags 0x%" PRIx64,
				 unknown);
	return 0;
}

/* Log a failure to open: there is no handle yet to take the callback from. */
static int report_open(const struct gmem_vm_opts *opts, int result)
{
	struct gmem_error error;

	if (result == 0 || !opts->log || gmem_vm_in_callback(NULL))
		return result;
	gmem_error_save(&error);
	call_log(NULL, opts->log, opts->log_data, GMEM_LOG_ERROR, error.message);
	return result;
}

static int open_new(const struct gmem_sys *sys, const struct gmem_vm_opts *opts,
		    struct gmem_vm **ret)
{
	int fd = check_flags(opts);

	if (fd == 0)
		fd = create_vm(sys, opts);
	return fd < 0 ? fd : make_handle(sys, fd, opts, ret);
}

int gmem_vm_open_sys(const struct gmem_sys *sys, const struct gmem_vm_opts *user,
		     struct gmem_vm **ret)
{
	struct gmem_vm_opts opts;
	int r = read_opts(&opts, user, ret);

	return r < 0 ? r : report_open(&opts, open_new(sys, &opts, ret));
}

static int open_given(const struct gmem_sys *sys, int vm_fd, const struct gmem_vm_opts *opts,
		      struct gmem_vm **ret)
{
	int fd = check_flags(opts);

	if (fd == 0 && opts->device)
		fd = gmem_fail(EINVAL, GMEM_REASON_CONFLICT,
			       "the device is the VMM's business when it gives a VM");
	if (fd == 0)
		fd = duplicate_vm(sys, vm_fd);
	return fd < 0 ? fd : make_handle(sys, fd, opts, ret);
}

int gmem_vm_open_fd_sys(const struct gmem_sys *sys, int vm_fd, const struct gmem_vm_opts *user,
			struct gmem_vm **ret)
{
	struct gmem_vm_opts opts;
	int r = read_opts(&opts, user, ret);

	return r < 0 ? r : report_open(&opts, open_given(sys, vm_fd, &opts, ret));
}

int gmem_vm_open(const struct gmem_vm_opts *opts, struct gmem_vm **ret)
{
	return gmem_vm_open_sys(&gmem_sys_linux, opts, ret);
}

int gmem_vm_open_fd(int vm_fd, const struct gmem_vm_opts *opts, struct gmem_vm **ret)
{
	return gmem_vm_open_fd_sys(&gmem_sys_linux, vm_fd, opts, ret);
}

struct gmem_vm *gmem_vm_ref(struct gmem_vm *vm)
{
	atomic_fetch_add_explicit(&vm->references, 1, memory_order_relaxed);
	return vm;
}

void gmem_vm_unref(struct gmem_vm *vm)
{
	if (vm && atomic_fetch_sub_explicit(&vm->references, 1, memory_order_acq_rel) == 1)
		destroy(vm);
}

void gmem_vm_close(struct gmem_vm *vm)
{
	gmem_vm_unref(vm);
}

/* ---- Questions ---- */

int gmem_vm_get_fd(const struct gmem_vm *vm)
{
	return vm ? vm->fd : gmem_fail(EINVAL, GMEM_REASON_NULL, "the VM is NULL");
}

int gmem_vm_get_cap(const struct gmem_vm *vm, enum gmem_cap cap, uint64_t *value)
{
	if (!vm || !value)
		return gmem_fail(EINVAL, GMEM_REASON_NULL, "%s is NULL", vm ? "value" : "the VM");
	return gmem_caps_get(&vm->caps, cap, value);
}

struct gmem_space *gmem_vm_no_space(const struct gmem_vm *vm, uint32_t as_id)
{
	gmem_fail(ERANGE, GMEM_REASON_AS_BEYOND_LIMIT,
		  "address space %" PRIu32 ": this VM has %" PRIu32, as_id, vm->nr_spaces);
	return NULL;
}

/* ---- Reservations ---- */

static int check_reserved_ids(const struct gmem_vm *vm, const struct gmem_space *space,
			      const struct gmem_reserve_opts *opts)
{
	if (!gmem_range_within(opts->id_first, opts->id_count, 0, vm->nr_ids))
		return gmem_fail(ERANGE, GMEM_REASON_ID_BEYOND_LIMIT,
				 "slot ids [%" PRIu32 ", +%" PRIu32 ") pass the kernel's %" PRIu32,
				 opts->id_first, opts->id_count, vm->nr_ids);
	for (uint32_t i = 0; i < opts->id_count; i++) {
		uint32_t id = opts->id_first + i;

		if ((space->taken[id / 64] | space->kept[id / 64]) >> (id % 64) & 1)
			return gmem_fail(EEXIST, GMEM_REASON_ID_TAKEN,
					 "slot id %" PRIu32 " is in use or reserved already", id);
	}
	return 0;
}

static int check_reserved_gpa(struct gmem_vm *vm, struct gmem_space *space,
			      const struct gmem_reserve_opts *opts)
{
	struct gmem_interval other;
	int r;

	r = gmem_check_range(GMEM_KIND_GPA, opts->gpa, opts->size, vm->page_size, vm->gpa_limit);
	if (r < 0)
		return r;
	if (gmem_interval_find(&space->slots, opts->gpa, &other) &&
	    other.start < opts->gpa + opts->size)
		return gmem_fail(EEXIST, GMEM_REASON_GPA_OVERLAP,
				 "gpa [0x%" PRIx64 ", +0x%" PRIx64 ") overlaps slot %" PRIu32
				 " at [0x%" PRIx64 ", 0x%" PRIx64 ")",
				 opts->gpa, opts->size, other.id, other.start, other.end);
	if (gmem_interval_find(&space->reserved, opts->gpa, &other) &&
	    other.start < opts->gpa + opts->size)
		return gmem_fail(EEXIST, GMEM_REASON_GPA_RESERVED,
				 "gpa [0x%" PRIx64 ", +0x%" PRIx64
				 ") overlaps the reserved [0x%" PRIx64 ", 0x%" PRIx64 ")",
				 opts->gpa, opts->size, other.start, other.end);
	return 0;
}

static int reserve(struct gmem_vm *vm, const struct gmem_reserve_opts *opts)
{
	struct gmem_space *space = gmem_vm_space(vm, opts->as_id);
	int r = 0;

	if (!space)
		return -ERANGE;
	if (opts->size)
		r = check_reserved_gpa(vm, space, opts);
	if (r == 0)
		r = check_reserved_ids(vm, space, opts);
	if (r == 0 && opts->size && gmem_interval_reserve(&space->reserved, 1) < 0)
		r = gmem_fail(ENOMEM, GMEM_REASON_NO_MEMORY, "no memory for a reservation");
	if (r < 0)
		return r;
	for (uint32_t i = 0; i < opts->id_count; i++)
		space->kept[(opts->id_first + i) / 64] |= UINT64_C(1) << (opts->id_first + i) % 64;
	if (opts->size)
		gmem_interval_insert(
			&space->reserved,
			&(struct gmem_interval){.start = opts->gpa, .end = opts->gpa + opts->size});
	return 0;
}

int gmem_vm_reserve(struct gmem_vm *vm, const struct gmem_reserve_opts *user)
{
	struct gmem_reserve_opts opts;
	int r = gmem_opts_read(&opts, sizeof(opts), user);

	if (r == 0)
		r = gmem_vm_lock(vm);
	if (r < 0)
		return r;
	if (opts.pad)
		r = gmem_fail(EINVAL, GMEM_REASON_CONFLICT, "pad is not 0");
	else if (!opts.id_count && !opts.size)
		r = gmem_fail(EINVAL, GMEM_REASON_CONFLICT, "neither ids nor addresses to reserve");
	else if ((opts.id_first && !opts.id_count) || (opts.gpa && !opts.size))
		r = gmem_fail(EINVAL, GMEM_REASON_CONFLICT, "a first id or gpa without how many");
	else
		r = reserve(vm, &opts);
	gmem_vm_unlock(vm);
	return gmem_vm_report(vm, r);
}

/* ---- Addresses of mappings that are gone ---- */

static struct gmem_retired *take_retired(struct gmem_vm *vm)
{
	struct gmem_retired *retired;

	pthread_mutex_lock(&vm->leaf_lock);
	retired = vm->retired;
	if (retired)
		vm->retired = retired->next;
	pthread_mutex_unlock(&vm->leaf_lock);
	return retired;
}

static void add_retired(struct gmem_vm *vm, struct gmem_retired *retired)
{
	pthread_mutex_lock(&vm->leaf_lock);
	retired->next = vm->retired;
	vm->retired = retired;
	pthread_mutex_unlock(&vm->leaf_lock);
}

bool gmem_vm_retire(struct gmem_vm *vm, struct gmem_retired *retired, bool for_good)
{
	void *same;
	int r = vm->sys->mmap(vm->sys, retired->addr, retired->size, PROT_NONE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0,
			      &same);

	if (!for_good)
		add_retired(vm, retired);
	return r == 0;
}

static int reclaim(struct gmem_vm *vm, uint64_t *sum)
{
	struct gmem_retired *retired;

	while ((retired = take_retired(vm))) {
		int r = vm->sys->munmap(vm->sys, retired->addr, retired->size);

		if (r < 0) {
			add_retired(vm, retired);
			return gmem_fail_kernel(-r, "cannot give back 0x%zx bytes at %p",
						retired->size, retired->addr);
		}
		*sum += retired->size;
		free(retired);
	}
	return 0;
}

int gmem_vm_reclaim(struct gmem_vm *vm, uint64_t *bytes)
{
	uint64_t sum = 0;
	int r = gmem_vm_check(vm);

	if (r == 0)
		r = gmem_vm_report(vm, reclaim(vm, &sum));
	if (bytes)
		*bytes = sum;
	return r;
}
