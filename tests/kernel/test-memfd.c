/* SPDX-License-Identifier: MIT */
/* What the kernel does with a guest_memfd's descriptor and its mappings. No library. */
#include "../kvm/host.h"
#include "raw.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#define PAGES		       4
#define MAGIC_GUEST_MEMFD      0x474d454dUL
#define MAGIC_ANON_INODE       0x09041934UL
#define ADVICE_COLLAPSE	       25
#define ADVICE_POPULATE_READ   22
#define ADVICE_POPULATE_WRITE  23
#define FEATURE_WP_ASYNC       (UINT64_C(1) << 15)
#define FEATURE_WP_UNPOPULATED (UINT64_C(1) << 13)

/* A VM and a guest_memfd of PAGES pages that the host can map and touch. */
struct shared {
	int vm;
	int fd;
	size_t page;
	size_t size;
};

static bool open_shared(struct shared *shared)
{
	const char *missing = raw_missing();

	if (!missing) {
		shared->vm = raw_vm();
		if (raw_has_shared(shared->vm)) {
			shared->page = raw_page();
			shared->size = PAGES * shared->page;
			shared->fd = raw_memfd(shared->vm, shared->size, RAW_SHARED);
			ck_assert_int_ge(shared->fd, 0);
			return true;
		}
		close(shared->vm);
		missing = "this kernel has no guest_memfd that the host can map";
	}
	harness_skip("%s", missing);
	return false;
}

static void close_shared(const struct shared *shared)
{
	close(shared->fd);
	close(shared->vm);
}

/* 0 or a negative errno. */
static int result(long r)
{
	return r < 0 ? -errno : 0;
}

/* ---- Creation ---- */

START_TEST(create_takes_exactly_the_flags_of_the_capability)
{
	uint64_t flag = UINT64_C(1) << _i;
	int vm, fd, cap;

	NEED_KVM();
	vm = raw_vm();
	if (raw_cap(vm, RAW_CAP_GUEST_MEMFD) <= 0)
		SKIP("this VM type has no guest_memfd");
	cap = raw_cap(vm, RAW_CAP_GUEST_MEMFD_FLAGS);
	ck_assert_int_ge(cap, 0);
	fd = raw_memfd(vm, raw_page(), flag);
	if ((uint64_t)cap & flag)
		ck_assert_int_ge(fd, 0);
	else
		ck_assert_int_eq(fd, -EINVAL);
	close(fd);
	close(vm);
}
END_TEST

START_TEST(create_takes_the_flags_in_any_combination)
{
	struct shared shared;

	if (!open_shared(&shared))
		return;
	for (uint64_t flags = 0; flags <= RAW_SHARED; flags++) {
		int fd = raw_memfd(shared.vm, shared.page, flags);

		ck_assert_int_ge(fd, 0);
		close(fd);
	}
	close_shared(&shared);
}
END_TEST

START_TEST(vm_capability_is_no_more_than_the_devices)
{
	int device, vm, of_device, of_vm;

	NEED_KVM();
	vm = raw_vm();
	device = open(harness_kvm_device(), O_RDWR | O_CLOEXEC);
	of_device = raw_cap(device, RAW_CAP_GUEST_MEMFD_FLAGS);
	of_vm = raw_cap(vm, RAW_CAP_GUEST_MEMFD_FLAGS);
	ck_assert_int_ge(of_device, 0);
	ck_assert_int_eq(of_vm & ~of_device, 0);
	close(device);
	close(vm);
}
END_TEST

START_TEST(create_takes_whole_pages_up_to_a_signed_size)
{
	uint64_t page = raw_page();
	const struct {
		uint64_t size;
		int result;
	} cases[] = {
		{0, -EINVAL},
		{1, -EINVAL},
		{page - 1, -EINVAL},
		{page, 0},
		{page + 1, -EINVAL},
		{(UINT64_C(1) << 63) - page, 0},
		{UINT64_C(1) << 63, -EINVAL},
		{-page, -EINVAL},
		{UINT64_MAX, -EINVAL},
	};
	struct shared shared;

	if (!open_shared(&shared))
		return;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		int fd = raw_memfd(shared.vm, cases[i].size, RAW_SHARED);

		ck_assert_msg(fd >= 0 ? cases[i].result == 0 : fd == cases[i].result,
			      "size 0x%llx: %d", (unsigned long long)cases[i].size, fd);
		close(fd);
	}
	close_shared(&shared);
}
END_TEST

START_TEST(create_refuses_an_unreadable_argument)
{
	struct shared shared;

	if (!open_shared(&shared))
		return;
	ck_assert_int_eq(ioctl(shared.vm, RAW_CREATE_GUEST_MEMFD, NULL), -1);
	ck_assert_int_eq(errno, EFAULT);
	close_shared(&shared);
}
END_TEST

START_TEST(create_needs_a_free_descriptor)
{
	struct shared shared;
	struct rlimit limit;

	if (!open_shared(&shared))
		return;
	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
	limit.rlim_cur = (rlim_t)shared.fd + 1;
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
	ck_assert_int_eq(raw_memfd(shared.vm, shared.page, 0), -EMFILE);
	close_shared(&shared);
}
END_TEST

START_TEST(create_ignores_reserved_words)
{
	struct raw_guest_memfd create = {.size = raw_page(), .reserved = {1, 1, 1, 1, 1, 1}};
	struct shared shared;
	int fd;

	if (!open_shared(&shared))
		return;
	fd = ioctl(shared.vm, RAW_CREATE_GUEST_MEMFD, &create);
	if (fd < 0)
		ck_assert_int_eq(errno, EINVAL);
	raw_note("reserved words of KVM_CREATE_GUEST_MEMFD are %s", fd < 0 ? "refused" : "ignored");
	close(fd);
	close_shared(&shared);
}
END_TEST

START_TEST(descriptor_is_inherited_and_read_write)
{
	struct shared shared;

	if (!open_shared(&shared))
		return;
	ck_assert_int_eq(fcntl(shared.fd, F_GETFD), 0);
	ck_assert_int_eq(fcntl(shared.fd, F_GETFL) & O_ACCMODE, O_RDWR);
	close_shared(&shared);
}
END_TEST

/* ---- The file ---- */

START_TEST(file_is_a_regular_one_of_its_own_kind)
{
	struct shared shared;
	char path[64], link[64] = "";
	struct statfs fs;
	struct stat st;

	if (!open_shared(&shared))
		return;
	ck_assert_int_eq(fstat(shared.fd, &st), 0);
	ck_assert_uint_eq(st.st_mode, S_IFREG | 0600);
	ck_assert_uint_eq((uint64_t)st.st_size, shared.size);
	ck_assert_int_eq(fstatfs(shared.fd, &fs), 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", shared.fd);
	ck_assert_int_gt((int)readlink(path, link, sizeof(link) - 1), 0);
	if ((unsigned long)fs.f_type == MAGIC_GUEST_MEMFD)
		ck_assert_str_eq(link, "/[kvm-gmem] (deleted)");
	else
		ck_assert_str_eq(link, "anon_inode:[kvm-gmem]");
	ck_assert((unsigned long)fs.f_type == MAGIC_GUEST_MEMFD ||
		  (unsigned long)fs.f_type == MAGIC_ANON_INODE);
	raw_note("file system 0x%lx, %s", (unsigned long)fs.f_type, link);
	close_shared(&shared);
}
END_TEST

START_TEST(blocks_do_not_count_pages)
{
	struct shared shared;
	struct stat st;
	char *map;

	if (!open_shared(&shared))
		return;
	map = raw_map(shared.fd, 0, shared.size);
	memset(map, 1, shared.size);
	ck_assert_int_eq(fstat(shared.fd, &st), 0);
	ck_assert_int_eq(st.st_blocks, 0);
	munmap(map, shared.size);
	close_shared(&shared);
}
END_TEST

static long do_read(int fd)
{
	char byte;

	return read(fd, &byte, 1);
}

static long do_write(int fd)
{
	return write(fd, "", 1);
}

static long do_readv(int fd)
{
	char byte;
	struct iovec iov = {&byte, 1};

	return readv(fd, &iov, 1);
}

static long do_writev(int fd)
{
	char byte = 0;
	struct iovec iov = {&byte, 1};

	return writev(fd, &iov, 1);
}

static long do_pread(int fd)
{
	char byte;

	return pread(fd, &byte, 1, 0);
}

static long do_pwrite(int fd)
{
	return pwrite(fd, "", 1, 0);
}

static long do_lseek_set(int fd)
{
	return lseek(fd, 0, SEEK_SET);
}

static long do_lseek_data(int fd)
{
	return lseek(fd, 0, SEEK_DATA);
}

static long do_ftruncate_same(int fd)
{
	struct stat st;

	return fstat(fd, &st) < 0 ? -1 : ftruncate(fd, st.st_size);
}

static long do_ftruncate_shrink(int fd)
{
	return ftruncate(fd, 0);
}

static long do_fchmod(int fd)
{
	return fchmod(fd, 0644);
}

static long do_futimens(int fd)
{
	return futimens(fd, NULL);
}

static long do_fsync(int fd)
{
	return fsync(fd);
}

static long do_fdatasync(int fd)
{
	return fdatasync(fd);
}

static long do_add_seals(int fd)
{
	return fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK);
}

static long do_copy_file_range(int fd)
{
	loff_t from = 0, to = (loff_t)raw_page();

	return copy_file_range(fd, &from, fd, &to, 1, 0);
}

static long do_sendfile(int fd)
{
	int other = memfd_create("other", MFD_CLOEXEC);
	long r = sendfile(other, fd, NULL, 1);
	int error = errno;

	close(other);
	errno = error;
	return r;
}

static long do_fadvise(int fd)
{
	errno = posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	return errno ? -1 : 0;
}

static long do_flock(int fd)
{
	return flock(fd, LOCK_EX | LOCK_NB);
}

static long do_ioctl(int fd)
{
	return ioctl(fd, KVM_GET_API_VERSION, 0UL);
}

static long do_reopen(int fd)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, O_RDWR | O_CLOEXEC);
}

static long do_dup(int fd)
{
	return close(dup(fd));
}

static const struct {
	const char *name;
	long (*call)(int fd);
	int result;
} file_calls[] = {
	{"read", do_read, -EINVAL},
	{"write", do_write, -EINVAL},
	{"readv", do_readv, -EINVAL},
	{"writev", do_writev, -EINVAL},
	{"pread", do_pread, -ESPIPE},
	{"pwrite", do_pwrite, -ESPIPE},
	{"lseek(SEEK_SET)", do_lseek_set, -ESPIPE},
	{"lseek(SEEK_DATA)", do_lseek_data, -ESPIPE},
	{"ftruncate to its size", do_ftruncate_same, -EINVAL},
	{"ftruncate to 0", do_ftruncate_shrink, -EINVAL},
	{"fchmod", do_fchmod, -EINVAL},
	{"futimens", do_futimens, -EINVAL},
	{"fsync", do_fsync, -EINVAL},
	{"fdatasync", do_fdatasync, -EINVAL},
	{"F_ADD_SEALS", do_add_seals, -EINVAL},
	{"copy_file_range", do_copy_file_range, -EINVAL},
	{"sendfile", do_sendfile, -EINVAL},
	{"posix_fadvise", do_fadvise, 0},
	{"flock", do_flock, 0},
	{"ioctl", do_ioctl, -ENOTTY},
	{"open through /proc", do_reopen, -ENXIO},
	{"dup", do_dup, 0},
};
#define FILE_CALLS (int)(sizeof(file_calls) / sizeof(file_calls[0]))

START_TEST(file_calls_that_work_and_fail)
{
	struct shared shared;
	int r;

	if (!open_shared(&shared))
		return;
	r = result(file_calls[_i].call(shared.fd));
	ck_assert_msg(r == file_calls[_i].result, "%s: %d, not %d", file_calls[_i].name, r,
		      file_calls[_i].result);
	close_shared(&shared);
}
END_TEST

/* ---- fallocate ---- */

#define KEEP  FALLOC_FL_KEEP_SIZE
#define PUNCH (FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE)

static const struct {
	const char *name;
	int mode;
	int offset; /* pages */
	int size;
	int result;
} allocations[] = {
	{"allocate all", KEEP, 0, PAGES, 0},
	{"allocate one", KEEP, PAGES - 1, 1, 0},
	{"allocate past the end", KEEP, PAGES - 1, 2, -EINVAL},
	{"allocate after the end", KEEP, PAGES, 1, -EINVAL},
	{"allocate without KEEP_SIZE", 0, 0, 1, -EOPNOTSUPP},
	{"punch one", PUNCH, 1, 1, 0},
	{"punch past the end", PUNCH, PAGES - 1, 2, 0},
	{"punch after the end", PUNCH, PAGES, 1, 0},
	{"zero a range", FALLOC_FL_ZERO_RANGE | KEEP, 0, 1, -EOPNOTSUPP},
	{"collapse", FALLOC_FL_COLLAPSE_RANGE, 0, 1, -EOPNOTSUPP},
	{"insert", FALLOC_FL_INSERT_RANGE, 0, 1, -EOPNOTSUPP},
	{"nothing", KEEP, 0, 0, -EINVAL},
};
#define ALLOCATIONS (int)(sizeof(allocations) / sizeof(allocations[0]))

START_TEST(fallocate_takes_these)
{
	struct shared shared;
	int r;

	if (!open_shared(&shared))
		return;
	r = result(fallocate(shared.fd, allocations[_i].mode,
			     allocations[_i].offset * (off_t)shared.page,
			     allocations[_i].size * (off_t)shared.page));
	ck_assert_msg(r == allocations[_i].result, "%s: %d", allocations[_i].name, r);
	close_shared(&shared);
}
END_TEST

START_TEST(fallocate_takes_whole_pages)
{
	struct shared shared;
	static const int modes[] = {KEEP, PUNCH};

	if (!open_shared(&shared))
		return;
	for (size_t i = 0; i < 2; i++) {
		off_t page = (off_t)shared.page;

		ck_assert_int_eq(result(fallocate(shared.fd, modes[i], 1, page)), -EINVAL);
		ck_assert_int_eq(result(fallocate(shared.fd, modes[i], 0, page - 1)), -EINVAL);
		ck_assert_int_eq(result(fallocate(shared.fd, modes[i], -page, page)), -EINVAL);
		ck_assert_int_eq(result(fallocate(shared.fd, modes[i], INT64_MAX - page + 1, page)),
				 -EFBIG);
	}
	close_shared(&shared);
}
END_TEST

START_TEST(allocated_pages_show_once_touched)
{
	struct shared shared;
	char *map;

	if (!open_shared(&shared))
		return;
	map = raw_map(shared.fd, 0, shared.size);
	ck_assert_int_eq(fallocate(shared.fd, KEEP, 0, (off_t)shared.size), 0);
	ck_assert_uint_eq(host_count_resident(map, shared.size), 0);
	ck_assert_int_eq(map[0], 0);
	map[2 * shared.page] = 1;
	ck_assert_uint_eq(host_count_resident(map, shared.size), 2);
	munmap(map, shared.size);
	close_shared(&shared);
}
END_TEST

START_TEST(punched_pages_are_gone_and_read_zero)
{
	struct shared shared;
	char *map;

	if (!open_shared(&shared))
		return;
	map = raw_map(shared.fd, 0, shared.size);
	memset(map, 7, shared.size);
	ck_assert_uint_eq(host_count_resident(map, shared.size), PAGES);
	ck_assert_int_eq(fallocate(shared.fd, PUNCH, (off_t)shared.page, 2 * (off_t)shared.page),
			 0);
	ck_assert_uint_eq(host_count_resident(map, shared.size), PAGES - 2);
	ck_assert_int_eq(map[shared.page - 1], 7);
	ck_assert_int_eq(map[shared.page], 0);
	ck_assert_int_eq(map[3 * shared.page - 1], 0);
	ck_assert_int_eq(map[3 * shared.page], 7);
	munmap(map, shared.size);
	close_shared(&shared);
}
END_TEST

/* ---- mmap ---- */

/* The sanitizers make libc's do nothing. */
static int lock_memory(void *addr, size_t size)
{
	return result(syscall(SYS_mlock, addr, size));
}

static int try_map(int fd, int prot, int flags, off_t offset)
{
	size_t page = raw_page();
	void *map = mmap(NULL, page, prot, flags, fd, offset);

	if (map == MAP_FAILED)
		return -errno;
	munmap(map, page);
	return 0;
}

START_TEST(mmap_needs_the_flag)
{
	const int rw = PROT_READ | PROT_WRITE;
	struct shared shared;
	int fd;

	if (!open_shared(&shared))
		return;
	fd = raw_memfd(shared.vm, shared.page, RAW_INIT_SHARED);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(try_map(fd, rw, MAP_SHARED, 0), -ENODEV);
	ck_assert_int_eq(try_map(fd, rw, MAP_PRIVATE, 0), -ENODEV);
	close(fd);
	close_shared(&shared);
}
END_TEST

START_TEST(mmap_is_shared_and_without_code)
{
	const int rw = PROT_READ | PROT_WRITE;
	struct shared shared;

	if (!open_shared(&shared))
		return;
	ck_assert_int_eq(try_map(shared.fd, rw, MAP_SHARED, 0), 0);
	ck_assert_int_eq(try_map(shared.fd, PROT_READ, MAP_SHARED, 0), 0);
	ck_assert_int_eq(try_map(shared.fd, PROT_NONE, MAP_SHARED, 0), 0);
	ck_assert_int_eq(try_map(shared.fd, rw, MAP_PRIVATE, 0), -EINVAL);
	ck_assert_int_eq(try_map(shared.fd, PROT_READ | PROT_EXEC, MAP_SHARED, 0), -EPERM);
	ck_assert_int_eq(try_map(shared.fd, rw, MAP_SHARED_VALIDATE | MAP_SYNC, 0), -EOPNOTSUPP);
	ck_assert_int_eq(try_map(shared.fd, rw, MAP_SHARED | MAP_POPULATE, 0), 0);
	close_shared(&shared);
}
END_TEST

START_TEST(mmap_past_the_end_faults_when_touched)
{
	struct shared shared;
	char *map;

	if (!open_shared(&shared))
		return;
	map = raw_map(shared.fd, 0, shared.size + shared.page);
	ck_assert_int_eq(host_touch(map + shared.size - 1, true), 0);
	ck_assert_int_eq(host_touch(map + shared.size, false), SIGBUS);
	munmap(map, shared.size + shared.page);
	close_shared(&shared);
}
END_TEST

START_TEST(mapping_without_init_shared_cannot_be_touched)
{
	struct shared shared;
	struct iovec local, remote;
	char byte, *map;
	int fd;

	if (!open_shared(&shared))
		return;
	fd = raw_memfd(shared.vm, shared.page, RAW_MMAP);
	ck_assert_int_ge(fd, 0);
	map = raw_map(fd, 0, shared.page);
	ck_assert_int_eq(host_touch(map, false), SIGBUS);
	ck_assert_int_eq(result(madvise(map, shared.page, ADVICE_POPULATE_READ)), -EFAULT);
	ck_assert_int_eq(lock_memory(map, shared.page), -ENOMEM);
	local = (struct iovec){&byte, 1};
	remote = (struct iovec){map, 1};
	ck_assert_int_eq(result(process_vm_readv(getpid(), &local, 1, &remote, 1, 0)), -EFAULT);
	munmap(map, shared.page);
	close(fd);
	close_shared(&shared);
}
END_TEST

START_TEST(shared_mapping_can_be_copied_by_the_kernel)
{
	struct shared shared;
	struct iovec local, remote;
	char byte = 9, *map;

	if (!open_shared(&shared))
		return;
	map = raw_map(shared.fd, 0, shared.page);
	local = (struct iovec){&byte, 1};
	remote = (struct iovec){map + 5, 1};
	ck_assert_int_eq((int)process_vm_writev(getpid(), &local, 1, &remote, 1, 0), 1);
	ck_assert_int_eq(map[5], 9);
	ck_assert_int_eq(lock_memory(map, shared.page), 0);
	munmap(map, shared.page);
	close_shared(&shared);
}
END_TEST

static const struct {
	const char *name;
	int advice;
	int result;
	char after; /* of a byte that was 7 */
} advices[] = {
	{"DONTNEED", MADV_DONTNEED, 0, 7},
	{"REMOVE", MADV_REMOVE, 0, 0},
	{"FREE", MADV_FREE, -EINVAL, 7},
	{"WIPEONFORK", MADV_WIPEONFORK, -EINVAL, 7},
	{"COLLAPSE", ADVICE_COLLAPSE, -EINVAL, 7},
	{"HUGEPAGE", MADV_HUGEPAGE, 0, 7},
	{"COLD", MADV_COLD, 0, 7},
	{"PAGEOUT", MADV_PAGEOUT, 0, 7},
	{"POPULATE_READ", ADVICE_POPULATE_READ, 0, 7},
	{"POPULATE_WRITE", ADVICE_POPULATE_WRITE, 0, 7},
	{"DONTFORK", MADV_DONTFORK, 0, 7},
};
#define ADVICES (int)(sizeof(advices) / sizeof(advices[0]))

START_TEST(madvise_does_these)
{
	struct shared shared;
	char *map;
	int r;

	if (!open_shared(&shared))
		return;
	map = raw_map(shared.fd, 0, shared.size);
	memset(map, 7, shared.size);
	r = result(madvise(map, shared.size, advices[_i].advice));
	ck_assert_msg(r == advices[_i].result, "%s: %d", advices[_i].name, r);
	ck_assert_int_eq(map[shared.page], advices[_i].after);
	munmap(map, shared.size);
	close_shared(&shared);
}
END_TEST

START_TEST(mapping_takes_no_execution_and_no_sync)
{
	struct shared shared;
	char *map;

	if (!open_shared(&shared))
		return;
	map = raw_map(shared.fd, 0, shared.page);
	ck_assert_int_eq(result(mprotect(map, shared.page, PROT_READ | PROT_EXEC)), -EACCES);
	ck_assert_int_eq(result(msync(map, shared.page, MS_SYNC)), -EINVAL);
	ck_assert_int_eq(result(msync(map, shared.page, MS_ASYNC)), 0);
	munmap(map, shared.page);
	close_shared(&shared);
}
END_TEST

START_TEST(two_mappings_show_the_same_pages)
{
	struct shared shared;
	char *one, *two;

	if (!open_shared(&shared))
		return;
	one = raw_map(shared.fd, 0, shared.size);
	two = raw_map(shared.fd, shared.page, shared.page);
	one[shared.page + 1] = 5;
	ck_assert_int_eq(two[1], 5);
	ck_assert_uint_eq(host_count_resident(two, shared.page), 1);
	munmap(one, shared.size);
	munmap(two, shared.page);
	close_shared(&shared);
}
END_TEST

static int write_in_child(void *data)
{
	*(volatile char *)data = 8;
	return 0;
}

START_TEST(mapping_is_inherited_by_a_child)
{
	struct shared shared;
	char *map;

	if (!open_shared(&shared))
		return;
	map = raw_map(shared.fd, 0, shared.page);
	ck_assert_int_eq(host_run_child(write_in_child, map), 0);
	ck_assert_int_eq(map[0], 8);
	munmap(map, shared.page);
	close_shared(&shared);
}
END_TEST

START_TEST(memory_outlives_vm_and_descriptor)
{
	struct shared shared;
	char *map;

	if (!open_shared(&shared))
		return;
	map = raw_map(shared.fd, 0, shared.page);
	close(shared.vm);
	ck_assert_int_eq(fallocate(shared.fd, KEEP, 0, (off_t)shared.size), 0);
	close(shared.fd);
	map[0] = 3;
	ck_assert_int_eq(map[0], 3);
	munmap(map, shared.page);
}
END_TEST

/* ---- NUMA and userfaultfd ---- */

START_TEST(policy_holds_for_the_file_or_for_the_mapping_alone)
{
	struct shared shared;
	void *map;
	int holds;

	if (!open_shared(&shared))
		return;
	map = raw_map(shared.fd, 0, shared.page);
	if (host_set_policy_local(map, shared.page) == -ENOSYS)
		SKIP("this kernel has no memory policies");
	ck_assert_int_eq(host_get_policy(map), 4);
	holds = host_policy_holds(shared.fd);
	ck_assert_int_ge(holds, 0);
	raw_note("mbind on a guest_memfd %s",
		 holds ? "holds for the file" : "is accepted without effect on the file");
	munmap(map, shared.page);
	close_shared(&shared);
}
END_TEST

static int open_userfaultfd(uint64_t features)
{
	struct uffdio_api api = {.api = UFFD_API, .features = features};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);

	if (fd >= 0 && ioctl(fd, UFFDIO_API, &api) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static int try_register(int fd, void *map, uint64_t mode)
{
	struct uffdio_register reg = {
		.range = {.start = (uintptr_t)map, .len = raw_page()},
		.mode = mode,
	};
	int r = result(ioctl(fd, UFFDIO_REGISTER, &reg));

	if (r == 0)
		ck_assert_int_eq(ioctl(fd, UFFDIO_UNREGISTER, &reg.range), 0);
	return r;
}

START_TEST(userfaultfd_takes_a_mode_or_says_einval)
{
	static const struct {
		const char *name;
		uint64_t mode;
	} modes[] = {
		{"MISSING", UFFDIO_REGISTER_MODE_MISSING},
		{"WP", UFFDIO_REGISTER_MODE_WP},
		{"MINOR", UFFDIO_REGISTER_MODE_MINOR},
		{"MISSING|WP", UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP},
	};
	struct shared shared;
	void *map;
	int fd, r;

	if (!open_shared(&shared))
		return;
	fd = open_userfaultfd(0);
	if (fd < 0)
		SKIP("userfaultfd: %s", strerror(errno));
	map = raw_map(shared.fd, 0, shared.page);
	r = try_register(fd, map, modes[_i].mode);
	ck_assert(r == 0 || r == -EINVAL);
	raw_note("userfaultfd on a guest_memfd, %s: %s", modes[_i].name, r == 0 ? "yes" : "no");
	munmap(map, shared.page);
	close(fd);
	close_shared(&shared);
}
END_TEST

START_TEST(userfaultfd_takes_asynchronous_write_protection)
{
	struct shared shared;
	void *map;
	int fd;

	if (!open_shared(&shared))
		return;
	fd = open_userfaultfd(FEATURE_WP_ASYNC | FEATURE_WP_UNPOPULATED);
	if (fd < 0)
		SKIP("userfaultfd with WP_ASYNC: %s", strerror(errno));
	map = raw_map(shared.fd, 0, shared.page);
	ck_assert_int_eq(try_register(fd, map, UFFDIO_REGISTER_MODE_WP), 0);
	munmap(map, shared.page);
	close(fd);
	close_shared(&shared);
}
END_TEST

static TCase *make_case(Suite *suite, const char *name)
{
	TCase *tcase = tcase_create(name);

	suite_add_tcase(suite, tcase);
	return tcase;
}

static void add_creation(TCase *tcase)
{
	tcase_add_loop_test(tcase, create_takes_exactly_the_flags_of_the_capability, 0, 64);
	tcase_add_test(tcase, create_takes_the_flags_in_any_combination);
	tcase_add_test(tcase, vm_capability_is_no_more_than_the_devices);
	tcase_add_test(tcase, create_takes_whole_pages_up_to_a_signed_size);
	tcase_add_test(tcase, create_refuses_an_unreadable_argument);
	tcase_add_test(tcase, create_needs_a_free_descriptor);
	tcase_add_test(tcase, create_ignores_reserved_words);
	tcase_add_test(tcase, descriptor_is_inherited_and_read_write);
}

static void add_file(TCase *tcase)
{
	tcase_add_test(tcase, file_is_a_regular_one_of_its_own_kind);
	tcase_add_test(tcase, blocks_do_not_count_pages);
	tcase_add_loop_test(tcase, file_calls_that_work_and_fail, 0, FILE_CALLS);
	tcase_add_loop_test(tcase, fallocate_takes_these, 0, ALLOCATIONS);
	tcase_add_test(tcase, fallocate_takes_whole_pages);
	tcase_add_test(tcase, allocated_pages_show_once_touched);
	tcase_add_test(tcase, punched_pages_are_gone_and_read_zero);
}

static void add_mapping(TCase *tcase)
{
	tcase_add_test(tcase, mmap_needs_the_flag);
	tcase_add_test(tcase, mmap_is_shared_and_without_code);
	tcase_add_test(tcase, mmap_past_the_end_faults_when_touched);
	tcase_add_test(tcase, mapping_without_init_shared_cannot_be_touched);
	tcase_add_test(tcase, shared_mapping_can_be_copied_by_the_kernel);
	tcase_add_loop_test(tcase, madvise_does_these, 0, ADVICES);
	tcase_add_test(tcase, mapping_takes_no_execution_and_no_sync);
	tcase_add_test(tcase, two_mappings_show_the_same_pages);
	tcase_add_test(tcase, mapping_is_inherited_by_a_child);
	tcase_add_test(tcase, memory_outlives_vm_and_descriptor);
	tcase_add_test(tcase, policy_holds_for_the_file_or_for_the_mapping_alone);
	tcase_add_loop_test(tcase, userfaultfd_takes_a_mode_or_says_einval, 0, 4);
	tcase_add_test(tcase, userfaultfd_takes_asynchronous_write_protection);
}

int main(void)
{
	Suite *suite = suite_create("guest_memfd");

	add_creation(make_case(suite, "creation"));
	add_file(make_case(suite, "file"));
	add_mapping(make_case(suite, "mapping"));
	return harness_run(suite);
}
