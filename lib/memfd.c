/* SPDX-License-Identifier: MIT */
#include "memfd.h"

#include "error.h"
#include "fd.h"
#include "opts.h"
#include "uapi/kvm.h"
#include "uapi/mm.h"
#include "visibility.h"
#include "verdict.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define FLAGS_KNOWN (GMEM_MEMFD_MMAP | GMEM_MEMFD_INIT_SHARED)
#define NUMA_WORDS  16

/* ---- The handle ---- */

/* Takes the descriptor over, also where it fails. */
static int make_handle(const struct gmem_sys *sys, struct gmem_vm *vm, int fd,
		       struct gmem_memfd **ret)
{
	struct gmem_memfd *memfd = calloc(1, sizeof(*memfd));
	int r = 0;

	if (!memfd) {
		sys->close(sys, fd);
		return gmem_fail(ENOMEM, GMEM_REASON_NO_MEMORY, "no memory for a memfd's handle");
	}
	memfd->sys = sys;
	memfd->fd = fd;
	atomic_init(&memfd->references, 1);
	gmem_interval_init(&memfd->bound);
	if (vm) {
		memfd->vm = gmem_vm_ref(vm);
		memfd->page_size = vm->page_size;
		memfd->fork_guard = &vm->fork_guard;
	} else {
		memfd->page_size = sys->page_size(sys);
		r = gmem_fork_guard_init(&memfd->own_fork_guard, sys);
		memfd->fork_guard = &memfd->own_fork_guard;
	}
	if (r < 0) {
		gmem_memfd_unref(memfd);
		return r;
	}
	*ret = memfd;
	return 0;
}

struct gmem_memfd *gmem_memfd_ref(struct gmem_memfd *memfd)
{
	atomic_fetch_add_explicit(&memfd->references, 1, memory_order_relaxed);
	return memfd;
}

void gmem_memfd_unref(struct gmem_memfd *memfd)
{
	if (!memfd || atomic_fetch_sub_explicit(&memfd->references, 1, memory_order_acq_rel) != 1)
		return;
	gmem_interval_fini(&memfd->bound);
	gmem_fork_guard_fini(&memfd->own_fork_guard, memfd->sys);
	memfd->sys->close(memfd->sys, memfd->fd);
	gmem_vm_unref(memfd->vm);
	free(memfd);
}

void gmem_memfd_close(struct gmem_memfd *memfd)
{
	gmem_memfd_unref(memfd);
}

int gmem_memfd_check(const struct gmem_memfd *memfd)
{
	if (!memfd)
		return gmem_fail(EINVAL, GMEM_REASON_NULL, "the memfd is NULL");
	return gmem_forked(memfd->fork_guard) ? gmem_fork_fail() : 0;
}

int gmem_memfd_check_range(const struct gmem_memfd *memfd, uint64_t offset, uint64_t size)
{
	return gmem_check_range(GMEM_KIND_MEMFD, offset, size, memfd->page_size, memfd->size);
}

int gmem_memfd_get_fd(const struct gmem_memfd *memfd)
{
	return memfd ? memfd->fd : gmem_fail(EINVAL, GMEM_REASON_NULL, "the memfd is NULL");
}

uint64_t gmem_memfd_get_size(const struct gmem_memfd *memfd)
{
	return memfd ? memfd->size : 0;
}

uint64_t gmem_memfd_get_flags(const struct gmem_memfd *memfd)
{
	return memfd ? memfd->flags : 0;
}

enum gmem_memfd_kind gmem_memfd_get_kind(const struct gmem_memfd *memfd)
{
	return memfd ? memfd->kind : (enum gmem_memfd_kind)0;
}

/* ---- Creation ---- */

static int check_size(const struct gmem_vm *vm, uint64_t size)
{
	/* The largest that a signed file size holds: kvm_gmem_create() refuses size <= 0. */
	uint64_t limit = (UINT64_C(1) << 63) - vm->page_size;

	if (size > limit && size % vm->page_size == 0)
		return gmem_fail(ERANGE, GMEM_REASON_TOO_LARGE,
				 "a memfd of 0x%" PRIx64 " bytes: at most 0x%" PRIx64, size, limit);
	return gmem_check_range(GMEM_KIND_MEMFD, 0, size, vm->page_size, limit);
}

static int check_known(uint64_t flags, uint64_t allowed)
{
	uint64_t unknown = flags & ~(allowed | FLAGS_KNOWN);

	if (unknown)
		return gmem_fail(EINVAL, GMEM_REASON_FLAGS_UNKNOWN,
				 "memfd flags 0x%" PRIx64 " are unknown to library and kernel",
				 unknown);
	return 0;
}

static int check_allowed(uint64_t flags, uint64_t allowed)
{
	if (flags & ~allowed)
		return gmem_fail(EOPNOTSUPP, GMEM_REASON_FLAGS_UNSUPPORTED,
				 "memfd flags 0x%" PRIx64 ": this VM takes 0x%" PRIx64
				 ", it lacks 0x%" PRIx64,
				 flags, allowed, flags & ~allowed);
	return 0;
}

static int check_numa(const struct gmem_memfd_opts *opts)
{
	static const uint32_t modes = 1U << GMEM_NUMA_DEFAULT | 1U << GMEM_NUMA_PREFERRED |
				      1U << GMEM_NUMA_BIND | 1U << GMEM_NUMA_INTERLEAVE |
				      1U << GMEM_NUMA_PREFERRED_MANY |
				      1U << GMEM_NUMA_WEIGHTED_INTERLEAVE;
	unsigned int mode = (unsigned int)opts->numa_mode;

	if (mode > 31 || !(modes >> mode & 1))
		return gmem_fail(EINVAL, GMEM_REASON_ARGUMENT, "there is no NUMA mode %u", mode);
	if (opts->numa_words > NUMA_WORDS)
		return gmem_fail(EINVAL, GMEM_REASON_ARGUMENT,
				 "%zu words of NUMA nodes: at most %d", opts->numa_words,
				 NUMA_WORDS);
	if ((mode == GMEM_NUMA_DEFAULT) != (opts->numa_words == 0))
		return gmem_fail(EINVAL, GMEM_REASON_ARGUMENT,
				 "NUMA mode %u with %zu words of nodes", mode, opts->numa_words);
	if (opts->numa_words && !opts->numa_nodes)
		return gmem_fail(EINVAL, GMEM_REASON_NULL, "the NUMA nodes are NULL");
	if (mode != GMEM_NUMA_DEFAULT && !(opts->flags & GMEM_MEMFD_MMAP))
		return gmem_fail(
			EINVAL, GMEM_REASON_NUMA_NEEDS_MMAP,
			"a NUMA policy is set through a mapping: it takes GMEM_MEMFD_MMAP");
	return 0;
}

static int create_guest(const struct gmem_vm *vm, const struct gmem_memfd_opts *opts)
{
	struct kvm_create_guest_memfd argument = {.size = opts->size, .flags = opts->flags};
	int fd = vm->sys->ioctl(vm->sys, vm->fd, KVM_CREATE_GUEST_MEMFD, (uintptr_t)&argument);
	int r;

	if (fd < 0)
		return gmem_fail_kernel(
			-fd, "KVM_CREATE_GUEST_MEMFD of 0x%" PRIx64 " bytes, flags 0x%" PRIx64,
			opts->size, opts->flags);
	/* KVM has no flag for this: a child that another thread starts right now inherits it. */
	r = vm->sys->fcntl(vm->sys, fd, F_SETFD, FD_CLOEXEC);
	if (r < 0) {
		vm->sys->close(vm->sys, fd);
		return gmem_fail_kernel(-r, "F_SETFD, close-on-exec");
	}
	return fd;
}

static int create_sealed(const struct gmem_vm *vm, const struct gmem_memfd_opts *opts)
{
	const struct gmem_sys *sys = vm->sys;
	int fd = sys->memfd_create(sys, opts->name ? opts->name : "gmem",
				   MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int r;

	if (fd < 0)
		return gmem_fail_kernel(-fd, "memfd_create");
	r = sys->ftruncate(sys, fd, opts->size);
	/* Nobody who gets the descriptor can take memory away from under the guest and us. */
	if (r == 0)
		r = sys->fcntl(sys, fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
	if (r < 0) {
		sys->close(sys, fd);
		return gmem_fail_kernel(-r, "cannot make a sealed memfd of 0x%" PRIx64 " bytes",
					opts->size);
	}
	return fd;
}

/* ---- NUMA ---- */

static int map_page(const struct gmem_memfd *memfd, size_t size, void **addr)
{
	int r = memfd->sys->mmap(memfd->sys, NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED,
				 memfd->fd, 0, addr);

	return r < 0 ? gmem_fail_kernel(-r, "cannot map the memfd to set its NUMA policy") : 0;
}

/* The kernel may report a policy with more words than it was given, never with other nodes. */
static bool same_nodes(const struct gmem_memfd_opts *opts, const uint64_t *got)
{
	for (size_t i = 0; i < NUMA_WORDS; i++)
		if (got[i] != (i < opts->numa_words ? opts->numa_nodes[i] : 0))
			return false;
	return true;
}

/* Through a second mapping, since kernels up to 6.18 remember the policy in the first alone. */
static int verify_numa(const struct gmem_memfd *memfd, const struct gmem_memfd_opts *opts)
{
	const struct gmem_sys *sys = memfd->sys;
	uint64_t nodes[NUMA_WORDS] = {0};
	int mode = MPOL_DEFAULT;
	void *addr;
	int r = map_page(memfd, memfd->page_size, &addr);

	if (r < 0)
		return r;
	r = sys->get_mempolicy(sys, addr, &mode, nodes, NUMA_WORDS);
	sys->munmap(sys, addr, memfd->page_size);
	if (r < 0)
		return gmem_fail(-r, GMEM_REASON_NUMA_REFUSED,
				 "the NUMA policy cannot be read back: %s", gmem_errno_name(-r));
	if (mode != (int)opts->numa_mode || !same_nodes(opts, nodes))
		return gmem_fail(EOPNOTSUPP, GMEM_REASON_NUMA_IGNORED,
				 "the kernel took NUMA mode %d without effect: another mapping "
				 "shows mode %d",
				 (int)opts->numa_mode, mode);
	return 0;
}

/* The policy stays with the file when the mapping goes, on kernels that keep it there. */
static int set_numa(const struct gmem_memfd *memfd, const struct gmem_memfd_opts *opts)
{
	const struct gmem_sys *sys = memfd->sys;
	void *addr;
	int r = map_page(memfd, memfd->size, &addr);

	if (r < 0)
		return r;
	r = sys->mbind(sys, addr, memfd->size, (int)opts->numa_mode, opts->numa_nodes,
		       opts->numa_words);
	if (r < 0)
		r = gmem_fail(-r, GMEM_REASON_NUMA_REFUSED, "mbind, NUMA mode %d: %s",
			      (int)opts->numa_mode, gmem_errno_name(-r));
	else
		r = verify_numa(memfd, opts);
	sys->munmap(sys, addr, memfd->size);
	return r;
}

/* ---- gmem_memfd_create ---- */

/* What will be made of valid options, or a failure. */
static int choose_kind(const struct gmem_vm *vm, const struct gmem_memfd_opts *opts)
{
	uint64_t allowed = gmem_caps_value(&vm->caps, GMEM_CAP_GUEST_MEMFD_FLAGS);
	uint64_t value;
	int r = check_known(opts->flags, allowed);

	if (r < 0)
		return r;
	if (opts->fallback != GMEM_FALLBACK_NONE && opts->fallback != GMEM_FALLBACK_MEMFD)
		return gmem_fail(EINVAL, GMEM_REASON_ARGUMENT, "there is no fallback %d",
				 (int)opts->fallback);
	r = gmem_caps_get(&vm->caps, GMEM_CAP_GUEST_MEMFD, &value);
	if (r == -EOPNOTSUPP && opts->fallback == GMEM_FALLBACK_MEMFD) {
		if (opts->flags == FLAGS_KNOWN)
			return GMEM_MEMFD_KIND_SEALED;
		return gmem_fail(EINVAL, GMEM_REASON_FALLBACK_UNSUITABLE,
				 "no guest_memfd here, and a sealed memfd is always shared and "
				 "mappable: flags 0x%" PRIx64 " ask for something else",
				 opts->flags);
	}
	if (r == 0)
		r = check_allowed(opts->flags, allowed);
	return r < 0 ? r : GMEM_MEMFD_KIND_GUEST;
}

static int create(struct gmem_vm *vm, const struct gmem_memfd_opts *opts, struct gmem_memfd **ret)
{
	struct gmem_memfd *memfd;
	int kind, fd;
	int r = check_size(vm, opts->size);

	if (r == 0)
		r = check_numa(opts);
	kind = r < 0 ? r : choose_kind(vm, opts);
	if (kind < 0)
		return kind;
	fd = kind == GMEM_MEMFD_KIND_GUEST ? create_guest(vm, opts) : create_sealed(vm, opts);
	if (fd < 0)
		return fd;
	r = make_handle(vm->sys, vm, fd, &memfd);
	if (r < 0)
		return r;
	memfd->kind = (enum gmem_memfd_kind)kind;
	memfd->size = opts->size;
	memfd->flags = opts->flags;
	if (opts->numa_mode != GMEM_NUMA_DEFAULT)
		r = set_numa(memfd, opts);
	if (r < 0) {
		gmem_memfd_unref(memfd);
		return r;
	}
	*ret = memfd;
	return 0;
}

int gmem_memfd_create(struct gmem_vm *vm, const struct gmem_memfd_opts *user,
		      struct gmem_memfd **ret)
{
	struct gmem_memfd_opts opts;
	int r;

	if (!ret)
		return gmem_fail(EINVAL, GMEM_REASON_NULL, "no place for the handle");
	*ret = NULL;
	r = gmem_vm_check(vm);
	if (r < 0)
		return r;
	r = gmem_opts_read(&opts, sizeof(opts), user);
	if (r == 0)
		r = create(vm, &opts, ret);
	return gmem_vm_report(vm, r);
}

/* ---- gmem_memfd_open_fd ---- */

static int check_is_guest_memfd(const struct gmem_sys *sys, int fd, uint64_t *size)
{
	struct gmem_file_status status;
	int r = sys->status(sys, fd, &status);

	if (r < 0)
		return gmem_fail_kernel(-r, "fstat of fd %d", fd);
	if (!status.regular || status.size == 0 || status.size % sys->page_size(sys) ||
	    (status.fs_magic != GUEST_MEMFD_MAGIC && status.fs_magic != ANON_INODE_FS_MAGIC))
		return gmem_fail(EINVAL, GMEM_REASON_FD_NOT_GUEST_MEMFD,
				 "fd %d is not a guest_memfd: file system 0x%" PRIx64 ", 0x%" PRIx64
				 " bytes",
				 fd, status.fs_magic, status.size);
	*size = status.size;
	return 0;
}

/* The kernel does not tell the flags a guest_memfd was made with: map and touch it. */
static int find_flags(struct gmem_memfd *memfd)
{
	const struct gmem_sys *sys = memfd->sys;
	size_t size = memfd->page_size;
	void *addr;
	int r = sys->mmap(sys, NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, memfd->fd,
			  memfd->size - size, &addr);

	if (r == -ENODEV)
		return 0;
	if (r < 0)
		return gmem_fail_kernel(-r, "cannot map fd %d to find its flags", memfd->fd);
	memfd->flags = GMEM_MEMFD_MMAP;
	do
		r = sys->madvise(sys, addr, size, MADV_POPULATE_READ);
	while (r == -EINTR);
	sys->munmap(sys, addr, size);
	if (r == 0 || r == -EHWPOISON)
		memfd->flags |= GMEM_MEMFD_INIT_SHARED;
	else if (r != -EFAULT)
		return gmem_fail_kernel(-r, "cannot touch fd %d to find its flags", memfd->fd);
	return 0;
}

static int open_fd(const struct gmem_sys *sys, struct gmem_vm *vm, int fd, struct gmem_memfd **ret)
{
	int duplicate = gmem_fd_duplicate(sys, fd);
	struct gmem_memfd *memfd;
	int r;

	if (duplicate < 0)
		return duplicate;
	r = make_handle(sys, vm, duplicate, &memfd);
	if (r < 0)
		return r;
	memfd->kind = GMEM_MEMFD_KIND_GUEST;
	memfd->given = true;
	r = check_is_guest_memfd(sys, duplicate, &memfd->size);
	if (r == 0)
		r = find_flags(memfd);
	if (r < 0) {
		gmem_memfd_unref(memfd);
		return r;
	}
	*ret = memfd;
	return 0;
}

int gmem_memfd_open_fd_sys(const struct gmem_sys *sys, struct gmem_vm *vm, int fd,
			   struct gmem_memfd **ret)
{
	int r = 0;

	if (!ret)
		return gmem_fail(EINVAL, GMEM_REASON_NULL, "no place for the handle");
	*ret = NULL;
	if (vm)
		r = gmem_vm_check(vm);
	if (r < 0)
		return r;
	return gmem_vm_report(vm, open_fd(sys, vm, fd, ret));
}

int gmem_memfd_open_fd(struct gmem_vm *vm, int fd, struct gmem_memfd **ret)
{
	return gmem_memfd_open_fd_sys(vm ? vm->sys : &gmem_sys_linux, vm, fd, ret);
}

/* ---- Pages ---- */

/*
 * kvm_gmem_allocate() stops at a signal and does not say how far it came. Pages that exist are
 * passed over quickly, so smaller parts reach the end even under a fast timer.
 */
static int allocate(const struct gmem_memfd *memfd, uint64_t offset, uint64_t size)
{
	const struct gmem_sys *sys = memfd->sys;
	uint64_t part = size;

	while (size > 0) {
		int r;

		part = part < size ? part : size;
		r = sys->fallocate(sys, memfd->fd, FALLOC_FL_KEEP_SIZE, offset, part);
		if (r == -EINTR) {
			part = part / 2 / memfd->page_size * memfd->page_size;
			part = part ? part : memfd->page_size;
		} else if (r < 0) {
			return gmem_fail_kernel(
				-r, "cannot allocate memfd range [0x%" PRIx64 ", +0x%" PRIx64 ")",
				offset, part);
		} else {
			offset += part;
			size -= part;
			part *= 2; /* at most 2^63 before */
		}
	}
	return 0;
}

int gmem_memfd_allocate(struct gmem_memfd *memfd, uint64_t offset, uint64_t size)
{
	int r = gmem_memfd_check(memfd);

	if (r < 0)
		return r;
	r = gmem_memfd_check_range(memfd, offset, size);
	if (r == 0)
		r = allocate(memfd, offset, size);
	return gmem_vm_report(memfd->vm, r);
}

int gmem_memfd_punch(const struct gmem_memfd *memfd, uint64_t offset, uint64_t size)
{
	int r;

	do
		r = memfd->sys->fallocate(memfd->sys, memfd->fd,
					  FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, offset, size);
	while (r == -EINTR);
	if (r < 0)
		return gmem_fail_kernel(
			-r, "cannot discard memfd range [0x%" PRIx64 ", +0x%" PRIx64 ")", offset,
			size);
	return 0;
}

int gmem_memfd_discard(struct gmem_memfd *memfd, uint64_t offset, uint64_t size)
{
	int r = gmem_memfd_check(memfd);

	if (r < 0)
		return r;
	r = gmem_memfd_check_range(memfd, offset, size);
	if (r == 0)
		r = gmem_memfd_punch(memfd, offset, size);
	return gmem_vm_report(memfd->vm, r);
}

/* ---- gmem_memfd_convert ---- */

/* Reserved: what must be right is checked already, so that programs need not change later. */
int gmem_memfd_convert(struct gmem_memfd *memfd, uint64_t offset, uint64_t size,
		       enum gmem_visibility to, uint64_t *done)
{
	int r = gmem_memfd_check(memfd);

	if (done)
		*done = 0;
	if (r == 0 && memfd->vm)
		r = gmem_vm_check(memfd->vm);
	if (r < 0)
		return r;
	r = gmem_visibility_check(to);
	if (r == 0)
		r = gmem_memfd_check_range(memfd, offset, size);
	if (r == 0)
		r = gmem_fail(EOPNOTSUPP, GMEM_REASON_CAP_UNSUPPORTED,
			      "this kernel does not convert a guest_memfd in place");
	return gmem_vm_report(memfd->vm, r);
}
