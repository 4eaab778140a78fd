/* SPDX-License-Identifier: MIT */
/* Making, taking up, allocating and discarding memfds. */
#include "harness.h"
#include "script.h"

#include "memfd.h"
#include "uapi/kvm.h"
#include "uapi/mm.h"

#include <errno.h>
#include <stdio.h>

#define NOTHING "%s", ""
#define MMAP	GMEM_MEMFD_MMAP
#define SHARED	GMEM_MEMFD_INIT_SHARED
#define TOP	(UINT64_C(1) << 63)
#define BOTH	(MMAP | SHARED)

static struct gmem_fake *fake;
static struct gmem_vm *vm;

static void start(enum gmem_fake_kernel kernel)
{
	fake = script_new(kernel);
	vm = script_vm(fake, 0);
}

static void start_6_18(void)
{
	start(GMEM_FAKE_LINUX_6_18);
}

static void end(void)
{
	gmem_vm_close(vm);
	script_end(fake);
}

static int create(const struct gmem_memfd_opts *values, struct gmem_memfd **memfd)
{
	struct gmem_memfd_opts opts = *values;

	opts.sz = sizeof(opts);
	return gmem_memfd_create(vm, &opts, memfd);
}

/* ---- Creation ---- */

START_TEST(create_calls)
{
	struct gmem_memfd_opts opts = {.size = 0x4000, .flags = (uint64_t)_i};
	struct gmem_memfd *memfd;

	gmem_fake_expect(fake,
			 "ioctl(vm1, CREATE_GUEST_MEMFD, size=0x4000 flags=%#x)\n"
			 "fcntl(gmem1, SETFD, 0x1)\n",
			 (unsigned int)_i);
	ck_works(create(&opts, &memfd));
	gmem_fake_expect(fake, NOTHING);
	ck_assert_uint_eq(gmem_memfd_get_size(memfd), 0x4000);
	ck_assert_uint_eq(gmem_memfd_get_flags(memfd), (uint64_t)_i);
	ck_assert_int_eq(gmem_memfd_get_kind(memfd), GMEM_MEMFD_KIND_GUEST);
	ck_assert_int_gt(gmem_memfd_get_fd(memfd), 0);
	gmem_fake_expect(fake, "close(gmem1)\n");
	gmem_memfd_close(memfd);
	gmem_fake_met(fake);
}
END_TEST

static const uint64_t words[17] = {1};

static const struct {
	struct gmem_memfd_opts opts;
	int error; /* 0: works */
	enum gmem_reason reason;
} creations[] = {
	{{.size = 0x1000}, 0, 0},
	{{.size = TOP - 0x1000}, 0, 0},
	{{.size = 0}, EINVAL, GMEM_REASON_RANGE_EMPTY},
	{{.size = 1}, EINVAL, GMEM_REASON_RANGE_UNALIGNED},
	{{.size = 0xfff}, EINVAL, GMEM_REASON_RANGE_UNALIGNED},
	{{.size = 0x1001}, EINVAL, GMEM_REASON_RANGE_UNALIGNED},
	{{.size = TOP - 1}, EINVAL, GMEM_REASON_RANGE_UNALIGNED},
	{{.size = TOP + 1}, EINVAL, GMEM_REASON_RANGE_UNALIGNED},
	{{.size = UINT64_MAX}, EINVAL, GMEM_REASON_RANGE_UNALIGNED},
	{{.size = TOP}, ERANGE, GMEM_REASON_TOO_LARGE},
	{{.size = UINT64_MAX - 0xfff}, ERANGE, GMEM_REASON_TOO_LARGE},
	{{.size = 0x1000, .flags = 4}, EINVAL, GMEM_REASON_FLAGS_UNKNOWN},
	{{.size = 0x1000, .flags = UINT64_MAX}, EINVAL, GMEM_REASON_FLAGS_UNKNOWN},
	{{.size = 0x1000, .flags = TOP | BOTH}, EINVAL, GMEM_REASON_FLAGS_UNKNOWN},
	{{.size = 0x1000, .fallback = (enum gmem_fallback)2}, EINVAL, GMEM_REASON_ARGUMENT},
	{{.size = 0x1000, .fallback = (enum gmem_fallback) - 1}, EINVAL, GMEM_REASON_ARGUMENT},
	{{.size = 0x1000, .numa_mode = (enum gmem_numa)4, .numa_nodes = words, .numa_words = 1},
	 EINVAL,
	 GMEM_REASON_ARGUMENT},
	{{.size = 0x1000, .numa_mode = (enum gmem_numa)7, .numa_nodes = words, .numa_words = 1},
	 EINVAL,
	 GMEM_REASON_ARGUMENT},
	{{.size = 0x1000, .numa_mode = (enum gmem_numa)33, .numa_nodes = words, .numa_words = 1},
	 EINVAL,
	 GMEM_REASON_ARGUMENT},
	{{.size = 0x1000, .numa_mode = (enum gmem_numa) - 1, .numa_nodes = words, .numa_words = 1},
	 EINVAL,
	 GMEM_REASON_ARGUMENT},
	{{.size = 0x1000, .numa_mode = GMEM_NUMA_BIND, .numa_nodes = words, .numa_words = 17},
	 EINVAL,
	 GMEM_REASON_ARGUMENT},
	{{.size = 0x1000, .numa_mode = GMEM_NUMA_BIND, .numa_nodes = words},
	 EINVAL,
	 GMEM_REASON_ARGUMENT},
	{{.size = 0x1000, .numa_nodes = words, .numa_words = 1}, EINVAL, GMEM_REASON_ARGUMENT},
	{{.size = 0x1000, .numa_mode = GMEM_NUMA_BIND, .numa_words = 1}, EINVAL, GMEM_REASON_NULL},
	{{.size = 0x1000, .numa_mode = GMEM_NUMA_BIND, .numa_nodes = words, .numa_words = 1},
	 EINVAL,
	 GMEM_REASON_NUMA_NEEDS_MMAP},
};

START_TEST(create_checks)
{
	struct gmem_memfd *memfd = (void *)&memfd;

	if (creations[_i].error) {
		gmem_fake_expect(fake, NOTHING);
		script_check_failure(create(&creations[_i].opts, &memfd), creations[_i].error,
				     creations[_i].reason, "create", __FILE__, __LINE__);
		ck_assert_ptr_null(memfd);
		gmem_fake_met(fake);
	} else {
		ck_works(create(&creations[_i].opts, &memfd));
	}
	gmem_memfd_close(memfd);
}
END_TEST

/* The size's limit moves with the page. */
START_TEST(create_with_large_pages)
{
	struct gmem_memfd_opts opts = {.size = 0x1000};
	struct gmem_memfd *memfd;
	uint64_t page = _i ? 0x10000 : 0x4000;

	fake = script_new(GMEM_FAKE_LINUX_6_18);
	fake->page_size = page;
	vm = script_vm(fake, 0);
	ck_fails(create(&opts, &memfd), EINVAL, RANGE_UNALIGNED);
	opts.size = TOP;
	ck_fails(create(&opts, &memfd), ERANGE, TOO_LARGE);
	opts.size = TOP - page;
	ck_works(create(&opts, &memfd));
	gmem_memfd_close(memfd);
	end();
}
END_TEST

/* Exactly the flags that the VM announces, known to this library or not. */
START_TEST(create_announced_flags)
{
	struct gmem_memfd_opts opts = {.size = 0x1000};
	struct gmem_memfd *memfd;
	uint64_t allowed = (uint64_t)_i;

	fake = script_new(GMEM_FAKE_LINUX_6_18);
	fake->caps[KVM_CAP_GUEST_MEMFD_FLAGS] = _i;
	vm = script_vm(fake, 0);
	for (opts.flags = 0; opts.flags < 8; opts.flags++) {
		if (!(opts.flags & ~allowed))
			ck_works(create(&opts, &memfd));
		else if (opts.flags & ~allowed & 4)
			ck_fails(create(&opts, &memfd), EINVAL, FLAGS_UNKNOWN);
		else
			ck_fails(create(&opts, &memfd), EOPNOTSUPP, FLAGS_UNSUPPORTED);
		gmem_memfd_close(memfd);
	}
	end();
}
END_TEST

static const struct {
	int answer, error;
	enum gmem_reason reason;
} kernel_refusals[] = {
	{-ENOMEM, ENOMEM, GMEM_REASON_NO_MEMORY},
	{-EMFILE, EMFILE, GMEM_REASON_FD_LIMIT},
	{-ENFILE, ENFILE, GMEM_REASON_FD_LIMIT},
	{-EPERM, EPERM, GMEM_REASON_KVM_BLOCKED},
	{-ENOSYS, ENOSYS, GMEM_REASON_KVM_BLOCKED},
	{-EINVAL, EINVAL, GMEM_REASON_KERNEL_REFUSED},
	{-ENOTTY, ENOTTY, GMEM_REASON_KERNEL_REFUSED},
};

START_TEST(create_refused_by_kernel)
{
	struct gmem_memfd_opts opts = {.size = 0x1000, .flags = BOTH};
	struct gmem_memfd *memfd;

	gmem_fake_answer(fake, 1, kernel_refusals[_i].answer, "CREATE_GUEST_MEMFD");
	script_check_failure(create(&opts, &memfd), kernel_refusals[_i].error,
			     kernel_refusals[_i].reason, "create", __FILE__, __LINE__);
	ck_assert_ptr_null(memfd);
}
END_TEST

START_TEST(create_when_probing_failed)
{
	struct gmem_memfd_opts opts = {
		.size = 0x1000, .flags = BOTH, .fallback = GMEM_FALLBACK_MEMFD};
	struct gmem_memfd *memfd;

	fake = script_new(GMEM_FAKE_LINUX_6_18);
	fake->caps[KVM_CAP_GUEST_MEMFD] = -EPERM;
	vm = script_vm(fake, 0);
	gmem_fake_expect(fake, NOTHING);
	ck_fails(create(&opts, &memfd), EPERM, CAP_PROBE_FAILED);
	gmem_fake_met(fake);
	end();
}
END_TEST

START_TEST(create_forked)
{
	struct gmem_memfd_opts opts = {.size = 0x1000};
	struct gmem_memfd *memfd;

	gmem_fake_enter_child(fake);
	ck_fails(create(&opts, &memfd), EIO, FORKED);
	ck_fails(gmem_memfd_open_fd(vm, 3, &memfd), EIO, FORKED);
	gmem_fake_leave_child(fake);
	memfd = script_memfd(vm, 0x1000, BOTH);
	gmem_fake_enter_child(fake);
	ck_fails(gmem_memfd_allocate(memfd, 0, 0x1000), EIO, FORKED);
	ck_fails(gmem_memfd_discard(memfd, 0, 0x1000), EIO, FORKED);
	gmem_fake_leave_child(fake);
	gmem_memfd_close(memfd);
}
END_TEST

/* ---- The fallback ---- */

START_TEST(fallback_calls)
{
	struct gmem_memfd_opts opts = {
		.size = 0x4000, .flags = BOTH, .fallback = GMEM_FALLBACK_MEMFD};
	struct gmem_memfd *memfd;

	start(GMEM_FAKE_LINUX_6_12);
	opts.name = _i ? "ram" : NULL;
	/* 0x7: no shrinking, no growing, no more seals. */
	gmem_fake_expect(fake,
			 "memfd_create(%s, CLOEXEC|SEALING)\n"
			 "ftruncate(memfd1, 0x4000)\n"
			 "fcntl(memfd1, ADD_SEALS, 0x7)\n",
			 _i ? "ram" : "gmem");
	ck_works(create(&opts, &memfd));
	gmem_fake_met(fake);
	ck_assert_int_eq(gmem_memfd_get_kind(memfd), GMEM_MEMFD_KIND_SEALED);
	ck_assert_uint_eq(gmem_memfd_get_flags(memfd), BOTH);
	gmem_memfd_close(memfd);
	end();
}
END_TEST

START_TEST(fallback_refused)
{
	struct gmem_memfd_opts opts = {.size = 0x4000, .flags = BOTH};
	struct gmem_memfd *memfd;

	start(GMEM_FAKE_LINUX_6_12);
	gmem_fake_expect(fake, NOTHING);
	ck_fails(create(&opts, &memfd), EOPNOTSUPP, CAP_UNSUPPORTED);
	opts.fallback = GMEM_FALLBACK_MEMFD;
	for (opts.flags = 0; opts.flags < BOTH; opts.flags++)
		ck_fails(create(&opts, &memfd), EINVAL, FALLBACK_UNSUITABLE);
	/* A flag that nobody knows stays one, with the fallback and without. */
	for (opts.flags = BOTH + 1; opts.flags < 8; opts.flags++)
		ck_fails(create(&opts, &memfd), EINVAL, FLAGS_UNKNOWN);
	opts.fallback = GMEM_FALLBACK_NONE;
	ck_fails(create(&opts, &memfd), EINVAL, FLAGS_UNKNOWN);
	gmem_fake_met(fake);
	end();
}
END_TEST

/* It is for VMs without guest_memfd only. */
START_TEST(fallback_not_needed)
{
	struct gmem_memfd_opts opts = {
		.size = 0x4000, .flags = MMAP, .fallback = GMEM_FALLBACK_MEMFD};
	struct gmem_memfd *memfd;

	ck_works(create(&opts, &memfd));
	ck_assert_int_eq(gmem_memfd_get_kind(memfd), GMEM_MEMFD_KIND_GUEST);
	gmem_memfd_close(memfd);
	opts.flags = 4;
	ck_fails(create(&opts, &memfd), EINVAL, FLAGS_UNKNOWN);
	ck_assert_uint_eq(gmem_fake_count(fake, "memfd_create"), 0);
}
END_TEST

static const struct {
	const char *call;
	int answer, error;
	enum gmem_reason reason;
} fallback_failures[] = {
	{"memfd_create", -EMFILE, EMFILE, GMEM_REASON_FD_LIMIT},
	{"memfd_create", -ENOMEM, ENOMEM, GMEM_REASON_NO_MEMORY},
	{"ftruncate", -EFBIG, EFBIG, GMEM_REASON_KERNEL_REFUSED},
	{"ADD_SEALS", -EINVAL, EINVAL, GMEM_REASON_KERNEL_REFUSED},
	{"ADD_SEALS", -EPERM, EPERM, GMEM_REASON_KVM_BLOCKED},
};

START_TEST(fallback_failure)
{
	struct gmem_memfd_opts opts = {
		.size = 0x4000, .flags = BOTH, .fallback = GMEM_FALLBACK_MEMFD};
	struct gmem_memfd *memfd;

	start(GMEM_FAKE_LINUX_6_12);
	gmem_fake_answer(fake, 1, fallback_failures[_i].answer, fallback_failures[_i].call);
	script_check_failure(create(&opts, &memfd), fallback_failures[_i].error,
			     fallback_failures[_i].reason, "create", __FILE__, __LINE__);
	ck_assert_uint_eq(gmem_fake_tally(fake, GMEM_FAKE_FDS), 1);
	end();
}
END_TEST

/* ---- NUMA ---- */

static const uint64_t nodes[2] = {3, 4};

static const struct gmem_memfd_opts numa_opts = {
	.size = 0x4000,
	.flags = BOTH,
	.numa_mode = GMEM_NUMA_INTERLEAVE,
	.numa_nodes = nodes,
	.numa_words = 2,
};

/* The policy is set through one mapping of all and read back through another of a page. */
static const char numa_calls[] = "ioctl(vm1, CREATE_GUEST_MEMFD, size=0x4000 flags=0x3)\n"
				 "fcntl(gmem1, SETFD, 0x1)\n"
				 "mmap(0, 0x4000, RW, SHARED, gmem1, 0)\n"
				 "mbind(m2, 0x4000, 3, 0x3,0x4)\n"
				 "mmap(0, 0x1000, RW, SHARED, gmem1, 0)\n"
				 "get_mempolicy(m3)\n"
				 "munmap(m3, 0x1000)\n"
				 "munmap(m2, 0x4000)\n";

START_TEST(numa_accepted)
{
	struct gmem_memfd *memfd;

	start(GMEM_FAKE_LINUX_7_3);
	gmem_fake_expect(fake, "%s", numa_calls);
	ck_works(create(&numa_opts, &memfd));
	gmem_fake_met(fake);
	gmem_memfd_close(memfd);
	end();
}
END_TEST

START_TEST(numa_modes)
{
	static const enum gmem_numa modes[] = {GMEM_NUMA_PREFERRED, GMEM_NUMA_BIND,
					       GMEM_NUMA_INTERLEAVE, GMEM_NUMA_PREFERRED_MANY,
					       GMEM_NUMA_WEIGHTED_INTERLEAVE};
	struct gmem_memfd_opts opts = numa_opts;
	struct gmem_memfd *memfd;

	start(GMEM_FAKE_LINUX_7_3);
	opts.numa_mode = modes[_i];
	ck_works(create(&opts, &memfd));
	gmem_memfd_close(memfd);
	end();
}
END_TEST

START_TEST(numa_of_sixteen_words)
{
	struct gmem_memfd_opts opts = numa_opts;
	struct gmem_memfd *memfd;

	start(GMEM_FAKE_LINUX_7_3);
	opts.numa_nodes = words;
	opts.numa_words = 16;
	ck_works(create(&opts, &memfd));
	gmem_memfd_close(memfd);
	end();
}
END_TEST

START_TEST(numa_ignored)
{
	struct gmem_memfd *memfd;

	gmem_fake_expect(fake, "%sclose(gmem1)\n", numa_calls);
	ck_fails(create(&numa_opts, &memfd), EOPNOTSUPP, NUMA_IGNORED);
	ck_assert_ptr_null(memfd);
	gmem_fake_met(fake);
}
END_TEST

/* The mode is there, but on other nodes. */
START_TEST(numa_other_nodes)
{
	struct gmem_memfd *memfd;

	start(GMEM_FAKE_LINUX_7_3);
	if (_i)
		fake->numa_words = 1;
	else
		fake->numa_nodes = 1;
	ck_fails(create(&numa_opts, &memfd), EOPNOTSUPP, NUMA_IGNORED);
	ck_assert_ptr_null(memfd);
	end();
}
END_TEST

static const struct {
	const char *call;
	unsigned int n;
	int answer, error;
	enum gmem_reason reason;
} numa_failures[] = {
	{"mbind", 1, -EINVAL, EINVAL, GMEM_REASON_NUMA_REFUSED},
	{"mbind", 1, -EPERM, EPERM, GMEM_REASON_NUMA_REFUSED},
	{"mbind", 1, -ENOSYS, ENOSYS, GMEM_REASON_NUMA_REFUSED},
	{"get_mempolicy", 1, -EPERM, EPERM, GMEM_REASON_NUMA_REFUSED},
	{"mmap", 1, -ENOMEM, ENOMEM, GMEM_REASON_NO_MEMORY},
	{"mmap", 2, -ENOMEM, ENOMEM, GMEM_REASON_NO_MEMORY},
};

START_TEST(numa_failure)
{
	struct gmem_memfd *memfd;

	start(GMEM_FAKE_LINUX_7_3);
	gmem_fake_answer(fake, numa_failures[_i].n, numa_failures[_i].answer,
			 numa_failures[_i].call);
	script_check_failure(create(&numa_opts, &memfd), numa_failures[_i].error,
			     numa_failures[_i].reason, "create", __FILE__, __LINE__);
	ck_assert_ptr_null(memfd);
	ck_assert_uint_eq(gmem_fake_tally(fake, GMEM_FAKE_MAPPINGS), 1);
	end();
}
END_TEST

/* ---- Taking up ---- */

static const uint64_t magics[] = {GUEST_MEMFD_MAGIC, ANON_INODE_FS_MAGIC};

START_TEST(open_fd_calls)
{
	int vm_fd = gmem_fake_make_vm(fake);
	int fd = gmem_fake_make_gmem(fake, vm_fd, 0x4000, BOTH);
	struct gmem_memfd *memfd;

	gmem_fake_set_magic(fake, fd, magics[_i]);
	gmem_fake_expect(fake, "fcntl(gmem1, DUPFD_CLOEXEC, 0)\n"
			       "status(gmem2)\n"
			       "mmap(0, 0x1000, RW, SHARED, gmem2, 0x3000)\n"
			       "madvise(m2, 0x1000, POPULATE_READ)\n"
			       "munmap(m2, 0x1000)\n");
	ck_works(gmem_memfd_open_fd(vm, fd, &memfd));
	gmem_fake_expect(fake, "close(gmem2)\n");
	ck_assert_uint_eq(gmem_memfd_get_size(memfd), 0x4000);
	ck_assert_uint_eq(gmem_memfd_get_flags(memfd), BOTH);
	ck_assert_int_eq(gmem_memfd_get_kind(memfd), GMEM_MEMFD_KIND_GUEST);
	gmem_memfd_close(memfd);
	gmem_fake_met(fake);
	gmem_fake_close_fd(fake, fd);
	gmem_fake_close_fd(fake, vm_fd);
}
END_TEST

/* Without a VM, for mapping only: it notices a fork by itself. */
START_TEST(open_fd_without_vm)
{
	int fd = gmem_fake_make_gmem(fake, -1, 0x4000, BOTH);
	struct gmem_memfd *memfd;

	gmem_fake_expect(fake, "fcntl(gmem1, DUPFD_CLOEXEC, 0)\n"
			       "mmap(0, 0x1000, RW, PRIVATE|ANON, -1, 0)\n"
			       "madvise(m2, 0x1000, WIPEONFORK)\n"
			       "status(gmem2)\n"
			       "mmap(0, 0x1000, RW, SHARED, gmem2, 0x3000)\n"
			       "madvise(m3, 0x1000, POPULATE_READ)\n"
			       "munmap(m3, 0x1000)\n");
	ck_works(gmem_fake_open_memfd(fake, NULL, fd, &memfd));
	gmem_fake_met(fake);
	gmem_fake_enter_child(fake);
	ck_fails(gmem_memfd_discard(memfd, 0, 0x1000), EIO, FORKED);
	gmem_fake_leave_child(fake);
	ck_works(gmem_memfd_discard(memfd, 0, 0x1000));
	gmem_memfd_close(memfd);
	gmem_fake_close_fd(fake, fd);
}
END_TEST

static const struct {
	uint64_t size, magic;
	bool regular;
} wrong_files[] = {
	{0x1000, 0x01021994, true}, /* tmpfs */
	{0x1000, 0xef53, true},
	{0, ANON_INODE_FS_MAGIC, true},
	{0x1800, ANON_INODE_FS_MAGIC, true},
	{0x1000, ANON_INODE_FS_MAGIC, false}, /* such as an eventfd, or KVM's VM */
	{0x1000, GUEST_MEMFD_MAGIC, false},
};

START_TEST(open_fd_of_other_files)
{
	int fd = gmem_fake_make_file(fake, wrong_files[_i].size, wrong_files[_i].magic,
				     wrong_files[_i].regular);
	struct gmem_memfd *memfd;

	gmem_fake_expect(fake, "fcntl(file1, DUPFD_CLOEXEC, 0)\nstatus(file2)\nclose(file2)\n");
	ck_fails(gmem_memfd_open_fd(vm, fd, &memfd), EINVAL, FD_NOT_GUEST_MEMFD);
	ck_assert_ptr_null(memfd);
	gmem_fake_met(fake);
	gmem_fake_close_fd(fake, fd);
}
END_TEST

static const struct {
	const char *call;
	int answer;
	int error; /* 0: works */
	enum gmem_reason reason;
	uint64_t flags;
} trials[] = {
	{"mmap", -ENODEV, 0, 0, 0},
	{"POPULATE_READ", -EFAULT, 0, 0, MMAP},
	{"POPULATE_READ", -EHWPOISON, 0, 0, BOTH},
	{"POPULATE_READ", -EINTR, 0, 0, BOTH},
	{"mmap", -ENOMEM, ENOMEM, GMEM_REASON_NO_MEMORY, 0},
	{"mmap", -EPERM, EPERM, GMEM_REASON_KVM_BLOCKED, 0},
	{"POPULATE_READ", -ENOMEM, ENOMEM, GMEM_REASON_NO_MEMORY, 0},
	{"POPULATE_READ", -EINVAL, EINVAL, GMEM_REASON_KERNEL_REFUSED, 0},
	{"DUPFD", -EBADF, EBADF, GMEM_REASON_FD_INVALID, 0},
	{"DUPFD", -EMFILE, EMFILE, GMEM_REASON_FD_LIMIT, 0},
	{"status", -EIO, EIO, GMEM_REASON_KERNEL_REFUSED, 0},
};

START_TEST(open_fd_by_answer)
{
	int fd = gmem_fake_make_gmem(fake, -1, 0x4000, BOTH);
	struct gmem_memfd *memfd;

	gmem_fake_answer(fake, 1, trials[_i].answer, trials[_i].call);
	if (trials[_i].error) {
		script_check_failure(gmem_memfd_open_fd(vm, fd, &memfd), trials[_i].error,
				     trials[_i].reason, trials[_i].call, __FILE__, __LINE__);
		ck_assert_ptr_null(memfd);
	} else {
		ck_works(gmem_memfd_open_fd(vm, fd, &memfd));
		ck_assert_uint_eq(gmem_memfd_get_flags(memfd), trials[_i].flags);
	}
	gmem_memfd_close(memfd);
	ck_assert_uint_eq(gmem_fake_tally(fake, GMEM_FAKE_MAPPINGS), 1);
	gmem_fake_close_fd(fake, fd);
}
END_TEST

/* The model's own answers: what a kernel gives for each combination of flags. */
START_TEST(open_fd_flags)
{
	uint64_t flags = (uint64_t)_i;
	int fd = gmem_fake_make_gmem(fake, -1, 0x4000, flags);
	struct gmem_memfd *memfd;

	ck_works(gmem_memfd_open_fd(vm, fd, &memfd));
	ck_assert_uint_eq(gmem_memfd_get_flags(memfd), flags & MMAP ? flags : 0);
	gmem_memfd_close(memfd);
	gmem_fake_close_fd(fake, fd);
}
END_TEST

/* ---- Pages ---- */

static const struct {
	uint64_t offset, size;
	int error;
	enum gmem_reason reason;
} ranges[] = {
	{0, 0, EINVAL, GMEM_REASON_RANGE_EMPTY},
	{1, 0, EINVAL, GMEM_REASON_RANGE_EMPTY},
	{1, 0x1000, EINVAL, GMEM_REASON_RANGE_UNALIGNED},
	{0, 0xfff, EINVAL, GMEM_REASON_RANGE_UNALIGNED},
	{0, UINT64_MAX, EINVAL, GMEM_REASON_RANGE_UNALIGNED},
	{0x1000, UINT64_MAX - 0xfff, EOVERFLOW, GMEM_REASON_RANGE_WRAPS},
	{UINT64_MAX - 0xfff, 0x1000, EOVERFLOW, GMEM_REASON_RANGE_WRAPS},
	{TOP - 0x1000, 0x2000, ERANGE, GMEM_REASON_MEMFD_BEYOND_END},
	{TOP, TOP - 0x1000, ERANGE, GMEM_REASON_MEMFD_BEYOND_END},
	{0, 0x101000, ERANGE, GMEM_REASON_MEMFD_BEYOND_END},
	{0xff000, 0x2000, ERANGE, GMEM_REASON_MEMFD_BEYOND_END},
	{0x100000, 0x1000, ERANGE, GMEM_REASON_MEMFD_BEYOND_END},
};

START_TEST(range_checks)
{
	struct gmem_memfd *memfd = script_memfd(vm, 0x100000, BOTH);

	gmem_fake_expect(fake, NOTHING);
	script_check_failure(gmem_memfd_allocate(memfd, ranges[_i].offset, ranges[_i].size),
			     ranges[_i].error, ranges[_i].reason, "allocate", __FILE__, __LINE__);
	script_check_failure(gmem_memfd_discard(memfd, ranges[_i].offset, ranges[_i].size),
			     ranges[_i].error, ranges[_i].reason, "discard", __FILE__, __LINE__);
	gmem_fake_met(fake);
	gmem_memfd_close(memfd);
}
END_TEST

START_TEST(allocate_calls)
{
	struct gmem_memfd *memfd = script_memfd(vm, 0x100000, BOTH);

	gmem_fake_expect(fake, "fallocate(gmem1, KEEP_SIZE, 0xff000, 0x1000)\n");
	ck_works(gmem_memfd_allocate(memfd, 0xff000, 0x1000));
	/* Smaller parts, each a whole number of pages, until one is done; then larger again. */
	gmem_fake_expect(fake, "fallocate(gmem1, KEEP_SIZE, 0x1000, 0x7000) = EINTR\n"
			       "fallocate(gmem1, KEEP_SIZE, 0x1000, 0x3000) = EINTR\n"
			       "fallocate(gmem1, KEEP_SIZE, 0x1000, 0x1000) = EINTR\n"
			       "fallocate(gmem1, KEEP_SIZE, 0x1000, 0x1000) = EINTR\n"
			       "fallocate(gmem1, KEEP_SIZE, 0x1000, 0x1000)\n"
			       "fallocate(gmem1, KEEP_SIZE, 0x2000, 0x2000)\n"
			       "fallocate(gmem1, KEEP_SIZE, 0x4000, 0x4000) = EINTR\n"
			       "fallocate(gmem1, KEEP_SIZE, 0x4000, 0x2000)\n"
			       "fallocate(gmem1, KEEP_SIZE, 0x6000, 0x2000)\n");
	ck_works(gmem_memfd_allocate(memfd, 0x1000, 0x7000));
	gmem_fake_expect(fake, "fallocate(gmem1, KEEP_SIZE, 0, 0x100000) = EINTR\n"
			       "fallocate(gmem1, KEEP_SIZE, 0, 0x80000)\n"
			       "fallocate(gmem1, KEEP_SIZE, 0x80000, 0x80000) = ENOMEM\n");
	ck_fails(gmem_memfd_allocate(memfd, 0, 0x100000), ENOMEM, NO_MEMORY);
	gmem_fake_expect(fake, "fallocate(gmem1, KEEP_SIZE, 0, 0x1000) = EINVAL\n");
	ck_fails(gmem_memfd_allocate(memfd, 0, 0x1000), EINVAL, KERNEL_REFUSED);
	gmem_fake_met(fake);
	gmem_memfd_close(memfd);
}
END_TEST

START_TEST(discard_calls)
{
	struct gmem_memfd *memfd = script_memfd(vm, 0x100000, BOTH);

	gmem_fake_expect(fake, "fallocate(gmem1, KEEP_SIZE|PUNCH_HOLE, 0xff000, 0x1000) = EINTR\n"
			       "fallocate(gmem1, KEEP_SIZE|PUNCH_HOLE, 0xff000, 0x1000) = EINTR\n"
			       "fallocate(gmem1, KEEP_SIZE|PUNCH_HOLE, 0xff000, 0x1000)\n");
	ck_works(gmem_memfd_discard(memfd, 0xff000, 0x1000));
	gmem_fake_expect(fake, "fallocate(gmem1, KEEP_SIZE|PUNCH_HOLE, 0, 0x100000) = EIO\n");
	ck_fails(gmem_memfd_discard(memfd, 0, 0x100000), EIO, KERNEL_REFUSED);
	gmem_fake_met(fake);
	gmem_memfd_close(memfd);
}
END_TEST

/* ---- Lifetimes and arguments ---- */

START_TEST(memfd_survives_vm)
{
	struct gmem_memfd *memfd = script_memfd(vm, 0x1000, BOTH);

	gmem_vm_close(vm);
	ck_works(gmem_memfd_discard(memfd, 0, 0x1000));
	gmem_fake_expect(fake, "close(gmem1)\nmunmap(m1, 0x1000)\nclose(vm1)\n");
	gmem_memfd_close(memfd);
	gmem_fake_met(fake);
	vm = NULL;
}
END_TEST

START_TEST(null_arguments)
{
	struct gmem_memfd_opts opts = {.sz = sizeof(opts), .size = 0x1000};
	struct gmem_memfd *memfd;

	gmem_fake_expect(fake, NOTHING);
	ck_fails(gmem_memfd_create(NULL, &opts, &memfd), EINVAL, NULL);
	ck_fails(gmem_memfd_create(vm, NULL, &memfd), EINVAL, NULL);
	ck_fails(gmem_memfd_create(vm, &opts, NULL), EINVAL, NULL);
	ck_fails(gmem_memfd_open_fd(vm, 3, NULL), EINVAL, NULL);
	ck_fails(gmem_memfd_allocate(NULL, 0, 0x1000), EINVAL, NULL);
	ck_fails(gmem_memfd_discard(NULL, 0, 0x1000), EINVAL, NULL);
	ck_assert_int_eq(gmem_memfd_get_fd(NULL), -EINVAL);
	ck_assert_uint_eq(gmem_memfd_get_size(NULL), 0);
	ck_assert_uint_eq(gmem_memfd_get_flags(NULL), 0);
	ck_assert_int_eq((int)gmem_memfd_get_kind(NULL), 0);
	gmem_memfd_close(NULL);
	gmem_fake_met(fake);
}
END_TEST

static void add_creation(Suite *suite)
{
	TCase *tcase = tcase_create("create");

	tcase_add_checked_fixture(tcase, start_6_18, end);
	tcase_add_loop_test(tcase, create_calls, 0, 4);
	tcase_add_loop_test(tcase, create_checks, 0, ARRAY_SIZE(creations));
	tcase_add_loop_test(tcase, create_refused_by_kernel, 0, ARRAY_SIZE(kernel_refusals));
	tcase_add_test(tcase, create_forked);
	tcase_add_test(tcase, fallback_not_needed);
	tcase_add_test(tcase, numa_ignored);
	tcase_add_test(tcase, memfd_survives_vm);
	tcase_add_test(tcase, null_arguments);
	suite_add_tcase(suite, tcase);
}

static void add_creation_elsewhere(Suite *suite)
{
	TCase *tcase = tcase_create("create-elsewhere");

	tcase_add_loop_test(tcase, create_with_large_pages, 0, 2);
	tcase_add_loop_test(tcase, create_announced_flags, 0, 8);
	tcase_add_test(tcase, create_when_probing_failed);
	tcase_add_loop_test(tcase, fallback_calls, 0, 2);
	tcase_add_test(tcase, fallback_refused);
	tcase_add_loop_test(tcase, fallback_failure, 0, ARRAY_SIZE(fallback_failures));
	tcase_add_test(tcase, numa_accepted);
	tcase_add_loop_test(tcase, numa_modes, 0, 5);
	tcase_add_test(tcase, numa_of_sixteen_words);
	tcase_add_loop_test(tcase, numa_other_nodes, 0, 2);
	tcase_add_loop_test(tcase, numa_failure, 0, ARRAY_SIZE(numa_failures));
	suite_add_tcase(suite, tcase);
}

static void add_open_fd(Suite *suite)
{
	TCase *tcase = tcase_create("open-fd");

	tcase_add_checked_fixture(tcase, start_6_18, end);
	tcase_add_loop_test(tcase, open_fd_calls, 0, ARRAY_SIZE(magics));
	tcase_add_test(tcase, open_fd_without_vm);
	tcase_add_loop_test(tcase, open_fd_of_other_files, 0, ARRAY_SIZE(wrong_files));
	tcase_add_loop_test(tcase, open_fd_by_answer, 0, ARRAY_SIZE(trials));
	tcase_add_loop_test(tcase, open_fd_flags, 0, 4);
	suite_add_tcase(suite, tcase);
}

static void add_pages(Suite *suite)
{
	TCase *tcase = tcase_create("pages");

	tcase_add_checked_fixture(tcase, start_6_18, end);
	tcase_add_loop_test(tcase, range_checks, 0, ARRAY_SIZE(ranges));
	tcase_add_test(tcase, allocate_calls);
	tcase_add_test(tcase, discard_calls);
	suite_add_tcase(suite, tcase);
}

int main(void)
{
	Suite *suite = suite_create("fake-memfd");

	add_creation(suite);
	add_creation_elsewhere(suite);
	add_open_fd(suite);
	add_pages(suite);
	return harness_run(suite);
}
