/* SPDX-License-Identifier: MIT */
/* What the kernel does with a guest_memfd's descriptor and its mappings. No library. */
#include "../kvm/host.h"
#include "raw.h"
#include "suites.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/io_uring.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGES		  4
#define MAGIC_GUEST_MEMFD 0x474d454dUL
#define MAGIC_ANON_INODE  0x09041934UL
#define POLICY_BIND	  2
#define NR_HOME_NODE	  450 /* Linux 5.17; the same on all architectures */

/* The kernel's own O_LARGEFILE, which the C library hides where all files can be large. */
#ifdef __aarch64__
#define LARGE_FILE 0400000
#else
#define LARGE_FILE 0100000
#endif

/* ---- Creation ---- */

START_TEST(create_takes_exactly_the_flags_of_the_capability)
{
	int vm, cap;

	NEED_KVM();
	vm = raw_vm();
	if (raw_cap(vm, RAW_CAP_GUEST_MEMFD) <= 0)
		SKIP("this VM type has no guest_memfd");
	cap = raw_cap(vm, RAW_CAP_GUEST_MEMFD_FLAGS);
	ck_assert_int_ge(cap, 0);
	for (int bit = 0; bit < 64; bit++) {
		uint64_t flag = UINT64_C(1) << bit;
		int fd = raw_memfd(vm, raw_page(), flag);
		char name[16];

		snprintf(name, sizeof(name), "flag 1<<%d", bit);
		raw_expect(name, fd < 0 ? fd : 0, (uint64_t)cap & flag ? 0 : -EINVAL);
		close(fd);
	}
	raw_expect_end();
	close(vm);
}
END_TEST

START_TEST(create_takes_the_flags_in_any_combination)
{
	struct raw_shared shared;

	if (!raw_open_shared(&shared, PAGES))
		return;
	for (uint64_t flags = 0; flags <= RAW_SHARED; flags++) {
		int fd = raw_memfd(shared.vm, shared.page, flags);

		ck_assert_int_ge(fd, 0);
		close(fd);
	}
	raw_close_shared(&shared);
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
	struct raw_shared shared;

	if (!raw_open_shared(&shared, PAGES))
		return;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		int fd = raw_memfd(shared.vm, cases[i].size, RAW_SHARED);

		ck_assert_msg(fd >= 0 ? cases[i].result == 0 : fd == cases[i].result,
			      "size 0x%llx: %d", (unsigned long long)cases[i].size, fd);
		close(fd);
	}
	raw_close_shared(&shared);
}
END_TEST

START_TEST(create_refuses_an_unreadable_argument)
{
	struct raw_shared shared;

	if (!raw_open_shared(&shared, PAGES))
		return;
	ck_assert_int_eq(ioctl(shared.vm, RAW_CREATE_GUEST_MEMFD, NULL), -1);
	ck_assert_int_eq(errno, EFAULT);
	raw_close_shared(&shared);
}
END_TEST

START_TEST(create_checks_its_arguments_and_then_needs_a_free_descriptor)
{
	struct raw_shared shared;
	struct rlimit limit;

	if (!raw_open_shared(&shared, PAGES))
		return;
	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
	limit.rlim_cur = (rlim_t)shared.fd + 1;
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
	raw_expect("unknown flag", raw_memfd(shared.vm, shared.page, UINT64_C(1) << 63), -EINVAL);
	raw_expect("part of a page", raw_memfd(shared.vm, 1, 0), -EINVAL);
	raw_expect("good arguments", raw_memfd(shared.vm, shared.page, 0), -EMFILE);
	raw_expect_end();
	raw_close_shared(&shared);
}
END_TEST

START_TEST(create_ignores_reserved_words)
{
	struct raw_guest_memfd create = {.size = raw_page(), .reserved = {1, 1, 1, 1, 1, 1}};
	struct raw_shared shared;
	int fd;

	if (!raw_open_shared(&shared, PAGES))
		return;
	fd = ioctl(shared.vm, RAW_CREATE_GUEST_MEMFD, &create);
	if (fd < 0)
		ck_assert_int_eq(errno, EINVAL);
	harness_note("%s", fd < 0 ? "refused" : "ignored");
	close(fd);
	raw_close_shared(&shared);
}
END_TEST

START_TEST(descriptor_is_inherited_and_read_write)
{
	struct raw_shared shared;

	if (!raw_open_shared(&shared, PAGES))
		return;
	ck_assert_int_eq(fcntl(shared.fd, F_GETFD), 0);
	ck_assert_int_eq(fcntl(shared.fd, F_GETFL), O_RDWR | LARGE_FILE);
	raw_close_shared(&shared);
}
END_TEST

/* Not even with a size that no machine could hold. */
START_TEST(new_file_has_no_page)
{
	struct raw_shared shared;
	int fd;

	if (!raw_open_shared(&shared, PAGES))
		return;
	ck_assert_uint_eq(host_count_resident(shared.map, shared.size), 0);
	fd = raw_memfd(shared.vm, (UINT64_C(1) << 63) - shared.page, RAW_SHARED);
	ck_assert_int_ge(fd, 0);
	if (host_can_count_cached())
		ck_assert_int_eq(host_count_cached(fd), 0);
	close(fd);
	raw_close_shared(&shared);
}
END_TEST

/* ---- The file ---- */

START_TEST(file_is_a_regular_one_of_its_own_kind)
{
	struct raw_shared shared;
	char path[64], link[64] = "";
	struct statfs fs;
	struct stat st;

	if (!raw_open_shared(&shared, PAGES))
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
	harness_note("magic 0x%lx, %s", (unsigned long)fs.f_type, link);
	raw_close_shared(&shared);
}
END_TEST

START_TEST(blocks_do_not_count_pages)
{
	struct raw_shared shared;
	struct stat st;

	if (!raw_open_shared(&shared, PAGES))
		return;
	memset(shared.map, 1, shared.size);
	ck_assert_int_eq(fstat(shared.fd, &st), 0);
	ck_assert_int_eq(st.st_blocks, 0);
	raw_close_shared(&shared);
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

static long do_lseek_current(int fd)
{
	return lseek(fd, 0, SEEK_CUR);
}

static long do_lseek_end(int fd)
{
	return lseek(fd, 0, SEEK_END);
}

static long do_lseek_data(int fd)
{
	return lseek(fd, 0, SEEK_DATA);
}

static long do_lseek_hole(int fd)
{
	return lseek(fd, 0, SEEK_HOLE);
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
	{"lseek(SEEK_CUR)", do_lseek_current, -ESPIPE},
	{"lseek(SEEK_END)", do_lseek_end, -ESPIPE},
	{"lseek(SEEK_DATA)", do_lseek_data, -ESPIPE},
	{"lseek(SEEK_HOLE)", do_lseek_hole, -ESPIPE},
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

START_TEST(file_cannot_be_read_written_resized_or_reopened)
{
	struct raw_shared shared;

	if (!raw_open_shared(&shared, PAGES))
		return;
	for (size_t i = 0; i < sizeof(file_calls) / sizeof(file_calls[0]); i++)
		raw_expect(file_calls[i].name, raw_result(file_calls[i].call(shared.fd)),
			   file_calls[i].result);
	raw_expect_end();
	raw_close_shared(&shared);
}
END_TEST

/* ---- Who has the file ---- */

static void send_fd(int socket, int fd)
{
	char byte = 0, control[CMSG_SPACE(sizeof(int))] = {0};
	struct iovec iov = {&byte, 1};
	struct msghdr message = {.msg_iov = &iov,
				 .msg_iovlen = 1,
				 .msg_control = control,
				 .msg_controllen = sizeof(control)};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &fd, sizeof(fd));
	ck_assert_int_eq((int)sendmsg(socket, &message, 0), 1);
}

/* A descriptor, or -1. */
static int receive_fd(int socket)
{
	char byte, control[CMSG_SPACE(sizeof(int))];
	struct iovec iov = {&byte, 1};
	struct msghdr message = {.msg_iov = &iov,
				 .msg_iovlen = 1,
				 .msg_control = control,
				 .msg_controllen = sizeof(control)};
	int fd = -1;

	if (recvmsg(socket, &message, 0) == 1 && CMSG_FIRSTHDR(&message))
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fd));
	return fd;
}

static int use_received(void *data)
{
	const int *socket = data;
	int fd = receive_fd(*socket);
	size_t page = raw_page();
	char *map;

	CHILD_CHECK(fd >= 0);
	map = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHILD_CHECK(map != MAP_FAILED);
	CHILD_CHECK(map[0] == 1);
	map[0] = 2;
	CHILD_CHECK(raw_allocate(fd, page, page) == 0);
	CHILD_CHECK(raw_punch(fd, page, page) == 0);
	return 0;
}

START_TEST(other_process_can_use_the_file_it_is_sent)
{
	struct raw_shared shared;
	int sockets[2];

	if (!raw_open_shared(&shared, PAGES))
		return;
	memset(shared.map, 1, shared.size);
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets), 0);
	send_fd(sockets[0], shared.fd);
	ck_assert_int_eq(host_run_child(use_received, &sockets[1]), 0);
	ck_assert_int_eq(shared.map[0], 2);
	ck_assert_int_eq(shared.map[shared.page], 0);
	close(sockets[0]);
	close(sockets[1]);
	raw_close_shared(&shared);
}
END_TEST

static int lock_in_child(void *data)
{
	const int *fd = data;
	int r;

	/* The descriptor is a copy, so the lock is this process's as well. */
	r = raw_result(flock(*fd, LOCK_EX | LOCK_NB));
	CHILD_CHECK(r == 0);
	return 0;
}

START_TEST(lock_belongs_to_all_copies_of_a_descriptor)
{
	struct raw_shared shared;

	if (!raw_open_shared(&shared, PAGES))
		return;
	ck_assert_int_eq(flock(shared.fd, LOCK_EX | LOCK_NB), 0);
	ck_assert_int_eq(host_run_child(lock_in_child, &shared.fd), 0);
	raw_close_shared(&shared);
}
END_TEST

/* ---- fallocate ---- */

#define KEEP		    FALLOC_FL_KEEP_SIZE
#define FALLOC_WRITE_ZEROES 0x80 /* Linux 6.17 */
#define PUNCH		    (FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE)

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
	{"punch nothing", PUNCH, 0, 0, -EINVAL},
	{"less than nothing", KEEP, 1, -1, -EINVAL},
	{"punch less than nothing", PUNCH, 1, -1, -EINVAL},
	{"punch without KEEP_SIZE", FALLOC_FL_PUNCH_HOLE, 0, 1, -EOPNOTSUPP},
	{"punch and zero", PUNCH | FALLOC_FL_ZERO_RANGE, 0, 1, -EOPNOTSUPP},
	{"zero without KEEP_SIZE", FALLOC_FL_ZERO_RANGE, 0, 1, -EOPNOTSUPP},
	{"unshare", FALLOC_FL_UNSHARE_RANGE | KEEP, 0, 1, -EOPNOTSUPP},
	{"write zeroes", FALLOC_WRITE_ZEROES, 0, 1, -EOPNOTSUPP},
	{"an unknown mode", 0x4000 | KEEP, 0, 1, -EOPNOTSUPP},
};

START_TEST(fallocate_allocates_and_punches_and_nothing_else)
{
	struct raw_shared shared;

	if (!raw_open_shared(&shared, PAGES))
		return;
	for (size_t i = 0; i < sizeof(allocations) / sizeof(allocations[0]); i++) {
		off_t page = (off_t)shared.page;

		raw_expect(allocations[i].name,
			   raw_result(fallocate(shared.fd, allocations[i].mode,
						allocations[i].offset * page,
						allocations[i].size * page)),
			   allocations[i].result);
	}
	raw_expect_end();
	raw_close_shared(&shared);
}
END_TEST

START_TEST(fallocate_checks_the_mode_before_the_range)
{
	struct raw_shared shared;
	off_t page;

	if (!raw_open_shared(&shared, PAGES))
		return;
	page = (off_t)shared.page;
	raw_expect("no KEEP_SIZE, half a page", raw_result(fallocate(shared.fd, 0, 1, page)),
		   -EOPNOTSUPP);
	raw_expect("zero, half a page",
		   raw_result(fallocate(shared.fd, FALLOC_FL_ZERO_RANGE | KEEP, 1, page)),
		   -EOPNOTSUPP);
	raw_expect("no KEEP_SIZE, past the end",
		   raw_result(fallocate(shared.fd, 0, 0, 2 * (off_t)shared.size)), -EOPNOTSUPP);
	raw_expect("no KEEP_SIZE, beyond all files",
		   raw_result(fallocate(shared.fd, 0, INT64_MAX - page + 1, page)), -EFBIG);
	raw_expect_end();
	raw_close_shared(&shared);
}
END_TEST

/* What was allocated before the signal stays. */
START_TEST(signal_interrupts_an_allocation)
{
	const uint64_t size = 64 << 20;
	struct raw_shared shared;
	int fd, r = 0;

	if (!raw_open_shared(&shared, PAGES))
		return;
	fd = raw_memfd(shared.vm, size, RAW_SHARED);
	ck_assert_int_ge(fd, 0);
	host_pester(2000);
	for (int i = 0; i < 100 && r == 0; i++) {
		r = raw_allocate(fd, 0, size);
		if (r == 0)
			ck_assert_int_eq(raw_punch(fd, 0, size), 0);
	}
	host_pester(0);
	ck_assert_int_eq(r, -EINTR);
	if (host_can_count_cached()) {
		ck_assert_int_gt(host_count_cached(fd), 0);
		ck_assert_int_lt(host_count_cached(fd), (int64_t)(size / shared.page));
	}
	close(fd);
	raw_close_shared(&shared);
}
END_TEST

START_TEST(fallocate_takes_whole_pages)
{
	struct raw_shared shared;
	static const int modes[] = {KEEP, PUNCH};

	if (!raw_open_shared(&shared, PAGES))
		return;
	for (size_t i = 0; i < 2; i++) {
		off_t page = (off_t)shared.page;

		ck_assert_int_eq(raw_result(fallocate(shared.fd, modes[i], 1, page)), -EINVAL);
		ck_assert_int_eq(raw_result(fallocate(shared.fd, modes[i], 0, page - 1)), -EINVAL);
		ck_assert_int_eq(raw_result(fallocate(shared.fd, modes[i], -page, page)), -EINVAL);
		ck_assert_int_eq(
			raw_result(fallocate(shared.fd, modes[i], INT64_MAX - page + 1, page)),
			-EFBIG);
	}
	raw_close_shared(&shared);
}
END_TEST

START_TEST(allocated_pages_show_once_touched)
{
	struct raw_shared shared;

	if (!raw_open_shared(&shared, PAGES))
		return;
	ck_assert_int_eq(raw_allocate(shared.fd, 0, shared.size), 0);
	ck_assert_uint_eq(host_count_resident(shared.map, shared.size), 0);
	ck_assert_int_eq(shared.map[0], 0);
	shared.map[2 * shared.page] = 1;
	ck_assert_uint_eq(host_count_resident(shared.map, shared.size), 2);
	raw_close_shared(&shared);
}
END_TEST

START_TEST(punched_pages_are_gone_and_read_zero)
{
	struct raw_shared shared;

	if (!raw_open_shared(&shared, PAGES))
		return;
	memset(shared.map, 7, shared.size);
	ck_assert_uint_eq(host_count_resident(shared.map, shared.size), PAGES);
	ck_assert_int_eq(raw_punch(shared.fd, shared.page, 2 * shared.page), 0);
	ck_assert_uint_eq(host_count_resident(shared.map, shared.size), PAGES - 2);
	ck_assert_int_eq(shared.map[shared.page - 1], 7);
	ck_assert_int_eq(shared.map[shared.page], 0);
	ck_assert_int_eq(shared.map[3 * shared.page - 1], 0);
	ck_assert_int_eq(shared.map[3 * shared.page], 7);
	raw_close_shared(&shared);
}
END_TEST

/* Allocated pages that nobody touched are nowhere to be seen, and yet take memory until punched. */
START_TEST(punch_frees_pages_that_nobody_touched)
{
	struct raw_shared shared;

	if (!raw_open_shared(&shared, PAGES))
		return;
	if (!host_can_count_cached())
		SKIP("this kernel does not tell a file's pages");
	ck_assert_int_eq(raw_allocate(shared.fd, 0, shared.size), 0);
	ck_assert_int_eq(host_count_cached(shared.fd), PAGES);
	ck_assert_int_eq(raw_punch(shared.fd, shared.page, 2 * shared.page), 0);
	ck_assert_int_eq(host_count_cached(shared.fd), PAGES - 2);
	raw_close_shared(&shared);
}
END_TEST

/* ---- mmap ---- */

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
	struct raw_shared shared;
	int fd;

	if (!raw_open_shared(&shared, PAGES))
		return;
	fd = raw_memfd(shared.vm, shared.page, RAW_INIT_SHARED);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(try_map(fd, rw, MAP_SHARED, 0), -ENODEV);
	ck_assert_int_eq(try_map(fd, rw, MAP_PRIVATE, 0), -ENODEV);
	close(fd);
	raw_close_shared(&shared);
}
END_TEST

START_TEST(mmap_is_shared_and_not_executable)
{
	const int rw = PROT_READ | PROT_WRITE;
	struct raw_shared shared;

	if (!raw_open_shared(&shared, PAGES))
		return;
	ck_assert_int_eq(try_map(shared.fd, rw, MAP_SHARED, 0), 0);
	ck_assert_int_eq(try_map(shared.fd, PROT_READ, MAP_SHARED, 0), 0);
	ck_assert_int_eq(try_map(shared.fd, PROT_NONE, MAP_SHARED, 0), 0);
	ck_assert_int_eq(try_map(shared.fd, rw, MAP_PRIVATE, 0), -EINVAL);
	ck_assert_int_eq(try_map(shared.fd, PROT_READ | PROT_EXEC, MAP_SHARED, 0), -EPERM);
	ck_assert_int_eq(try_map(shared.fd, rw, MAP_SHARED_VALIDATE | MAP_SYNC, 0), -EOPNOTSUPP);
	ck_assert_int_eq(try_map(shared.fd, rw, MAP_SHARED | MAP_POPULATE, 0), 0);
	raw_close_shared(&shared);
}
END_TEST

static void leave_with_code(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	(void)context;
	_exit(info->si_code);
}

/* The si_code of the SIGBUS that a touch ends in, seen in a child process; 0 if in none. */
static int touch_for_code(volatile char *addr)
{
	struct sigaction action = {.sa_sigaction = leave_with_code, .sa_flags = SA_SIGINFO};
	pid_t child = fork();
	int status;

	ck_assert_int_ge(child, 0);
	if (child == 0) {
		sigaction(SIGBUS, &action, NULL);
		(void)*addr;
		_exit(0);
	}
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert(WIFEXITED(status));
	return WEXITSTATUS(status);
}

START_TEST(mmap_past_the_end_faults_when_touched)
{
	struct raw_shared shared;
	char *map;

	if (!raw_open_shared(&shared, PAGES))
		return;
	map = raw_map(shared.fd, 0, shared.size + shared.page);
	ck_assert_int_eq(host_touch(map + shared.size - 1, true), 0);
	ck_assert_int_eq(host_touch(map + shared.size, false), SIGBUS);
	ck_assert_int_eq(touch_for_code(map + shared.size), BUS_ADRERR);
	munmap(map, shared.size + shared.page);
	map = raw_map(shared.fd, shared.size + shared.page, shared.page);
	ck_assert_int_eq(touch_for_code(map), BUS_ADRERR);
	munmap(map, shared.page);
	raw_close_shared(&shared);
}
END_TEST

/* ---- Who else may touch a mapping ---- */

/* Whether a byte can be read and written through /proc/self/mem: 0 or a negative errno. */
static int use_proc_mem(char *addr)
{
	int fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	char byte;
	int r;

	ck_assert_int_ge(fd, 0);
	r = raw_result(pread(fd, &byte, 1, (off_t)(uintptr_t)addr));
	if (r == 0)
		r = raw_result(pwrite(fd, &byte, 1, (off_t)(uintptr_t)addr));
	close(fd);
	return r;
}

static int use_process_vm(char *addr)
{
	char byte;
	struct iovec local = {&byte, 1}, remote = {addr, 1};
	int r = raw_result(process_vm_readv(getpid(), &local, 1, &remote, 1, 0));

	if (r == 0)
		r = raw_result(process_vm_writev(getpid(), &local, 1, &remote, 1, 0));
	return r;
}

static int use_vmsplice(char *addr)
{
	struct iovec iov = {addr, 1};
	int pipes[2], r;
	char byte;

	ck_assert_int_eq(pipe(pipes), 0);
	r = raw_result(vmsplice(pipes[1], &iov, 1, 0));
	if (r == 0) {
		ck_assert_int_eq((int)read(pipes[0], &byte, 1), 1);
		ck_assert_int_eq(byte, *addr);
	}
	close(pipes[0]);
	close(pipes[1]);
	return r;
}

/* A system call's buffer: the kernel copies as the process itself would. */
static int use_as_buffer(char *addr)
{
	int pipes[2], r;

	ck_assert_int_eq(pipe(pipes), 0);
	r = raw_result(write(pipes[1], addr, 1));
	if (r == 0)
		r = raw_result(read(pipes[0], addr, 1));
	close(pipes[0]);
	close(pipes[1]);
	return r;
}

static int use_populate_read(char *addr)
{
	return raw_result(madvise(addr, raw_page(), RAW_POPULATE_READ));
}

static int use_populate_write(char *addr)
{
	return raw_result(madvise(addr, raw_page(), RAW_POPULATE_WRITE));
}

/* The sanitizers make libc's do nothing. */
static int use_mlock(char *addr)
{
	return raw_result(syscall(SYS_mlock, addr, raw_page()));
}

static const struct {
	const char *name;
	int (*use)(char *addr);
	int closed; /* the result where the host may not touch the memory */
} uses[] = {
	{"/proc/self/mem", use_proc_mem, -EIO},
	{"process_vm_readv and _writev", use_process_vm, -EFAULT},
	{"vmsplice", use_vmsplice, -EFAULT},
	{"a buffer of read and write", use_as_buffer, -EFAULT},
	{"POPULATE_READ", use_populate_read, -EFAULT},
	{"POPULATE_WRITE", use_populate_write, -EFAULT},
	{"mlock", use_mlock, -ENOMEM},
};

static void use_all(char *addr, bool open)
{
	for (size_t i = 0; i < sizeof(uses) / sizeof(uses[0]); i++)
		raw_expect(uses[i].name, uses[i].use(addr), open ? 0 : uses[i].closed);
	raw_expect_end();
}

START_TEST(mapping_without_init_shared_cannot_be_touched)
{
	const int rw = PROT_READ | PROT_WRITE;
	struct raw_shared shared;
	char *map;
	int fd;

	if (!raw_open_shared(&shared, PAGES))
		return;
	fd = raw_memfd(shared.vm, shared.page, RAW_MMAP);
	ck_assert_int_ge(fd, 0);
	map = raw_map(fd, 0, shared.page);
	ck_assert_int_eq(host_touch(map, false), SIGBUS);
	ck_assert_int_eq(touch_for_code(map), BUS_ADRERR);
	use_all(map, false);
	/* Says nothing of what it could not do. */
	ck_assert_int_eq(try_map(fd, rw, MAP_SHARED | MAP_POPULATE, 0), 0);
	ck_assert_int_eq(try_map(fd, rw, MAP_PRIVATE, 0), -EINVAL);
	munmap(map, shared.page);
	close(fd);
	raw_close_shared(&shared);
}
END_TEST

START_TEST(shared_mapping_can_be_used_by_the_kernel)
{
	struct raw_shared shared;
	char *map;

	if (!raw_open_shared(&shared, PAGES))
		return;
	map = raw_map(shared.fd, 0, shared.page);
	map[0] = 9;
	use_all(map, true);
	ck_assert_int_eq(map[0], 9);
	munmap(map, shared.page);
	raw_close_shared(&shared);
}
END_TEST

/* An unnamed file whose reads and writes go past the page cache, or -1. */
static int open_direct(void)
{
	static const char *const folders[] = {".", "/var/tmp", "/tmp", "/dev/shm"};
	int fd = -1;

	for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]) && fd < 0; i++)
		fd = open(folders[i], O_TMPFILE | O_RDWR | O_DIRECT | O_CLOEXEC, 0600);
	return fd;
}

/* A page of guest_memfd of which the host may touch nothing. */
static void *map_untouchable(const struct raw_shared *shared)
{
	int fd = raw_memfd(shared->vm, shared->page, RAW_MMAP);
	void *map;

	ck_assert_int_ge(fd, 0);
	map = raw_map(fd, 0, shared->page);
	close(fd);
	return map;
}

START_TEST(direct_io_reaches_a_shared_mapping)
{
	struct raw_shared shared;
	void *untouchable;
	int file;

	if (!raw_open_shared(&shared, PAGES))
		return;
	file = open_direct();
	if (file < 0)
		SKIP("no file system with O_DIRECT is mounted");
	memset(shared.map, 4, shared.page);
	ck_assert_int_eq((int)pwrite(file, shared.map, shared.page, 0), (int)shared.page);
	ck_assert_int_eq((int)pread(file, shared.map + shared.page, shared.page, 0),
			 (int)shared.page);
	ck_assert_int_eq(memcmp(shared.map, shared.map + shared.page, shared.page), 0);
	untouchable = map_untouchable(&shared);
	ck_assert_int_eq(raw_result(pwrite(file, untouchable, shared.page, 0)), -EFAULT);
	ck_assert_int_eq(raw_result(pread(file, untouchable, shared.page, 0)), -EFAULT);
	munmap(untouchable, shared.page);
	close(file);
	raw_close_shared(&shared);
}
END_TEST

static int pin(int ring, const struct iovec *iov)
{
	return raw_result(syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, iov, 1U));
}

/* A device that is given the memory, as with vhost and VFIO, pins it so. */
START_TEST(shared_mapping_can_be_pinned_for_long)
{
	struct io_uring_params params = {.flags = 0};
	struct raw_shared shared;
	struct iovec iov;
	int ring;

	if (!raw_open_shared(&shared, PAGES))
		return;
	ring = (int)syscall(SYS_io_uring_setup, 1U, &params);
	if (ring < 0)
		SKIP("io_uring: %s", strerror(errno));
	iov = (struct iovec){raw_map(shared.fd, 0, shared.size), shared.size};
	ck_assert_int_eq(pin(ring, &iov), 0);
	close(ring);
	munmap(iov.iov_base, shared.size);
	ring = (int)syscall(SYS_io_uring_setup, 1U, &params);
	ck_assert_int_ge(ring, 0);
	iov = (struct iovec){map_untouchable(&shared), shared.page};
	ck_assert_int_eq(pin(ring, &iov), -EFAULT);
	close(ring);
	munmap(iov.iov_base, shared.page);
	raw_close_shared(&shared);
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
	{"COLLAPSE", RAW_COLLAPSE, -EINVAL, 7},
	{"HUGEPAGE", MADV_HUGEPAGE, 0, 7},
	{"COLD", MADV_COLD, 0, 7},
	{"PAGEOUT", MADV_PAGEOUT, 0, 7},
	{"POPULATE_READ", RAW_POPULATE_READ, 0, 7},
	{"POPULATE_WRITE", RAW_POPULATE_WRITE, 0, 7},
	{"DONTFORK", MADV_DONTFORK, 0, 7},
};

START_TEST(madvise_keeps_the_data_but_for_remove)
{
	struct raw_shared shared;

	if (!raw_open_shared(&shared, PAGES))
		return;
	for (size_t i = 0; i < sizeof(advices) / sizeof(advices[0]); i++) {
		char *map = raw_map(shared.fd, 0, shared.size);

		memset(map, 7, shared.size);
		raw_expect(advices[i].name,
			   raw_result(madvise(map, shared.size, advices[i].advice)),
			   advices[i].result);
		ck_assert_msg(map[shared.page] == advices[i].after, "%s: %d", advices[i].name,
			      map[shared.page]);
		munmap(map, shared.size);
	}
	raw_expect_end();
	raw_close_shared(&shared);
}
END_TEST

START_TEST(advice_to_drop_pages_leaves_them_resident)
{
	struct raw_shared shared;

	if (!raw_open_shared(&shared, PAGES))
		return;
	memset(shared.map, 7, shared.size);
	ck_assert_int_eq(madvise(shared.map, shared.size, MADV_DONTNEED), 0);
	ck_assert_uint_eq(host_count_resident(shared.map, shared.size), PAGES);
	ck_assert_int_eq(madvise(shared.map, shared.size, MADV_PAGEOUT), 0);
	ck_assert_uint_eq(host_count_resident(shared.map, shared.size), PAGES);
	ck_assert_int_eq(madvise(shared.map, shared.page, MADV_REMOVE), 0);
	ck_assert_uint_eq(host_count_resident(shared.map, shared.size), PAGES - 1);
	raw_close_shared(&shared);
}
END_TEST

START_TEST(mapping_can_move_and_grow)
{
	struct raw_shared shared;
	char *map, *moved;

	if (!raw_open_shared(&shared, PAGES))
		return;
	map = raw_map(shared.fd, 0, shared.page);
	map[0] = 1;
	moved = mremap(map, shared.page, shared.size, MREMAP_MAYMOVE);
	ck_assert_ptr_ne(moved, MAP_FAILED);
	ck_assert_int_eq(moved[0], 1);
	moved[shared.page] = 2;
	/* The first page now shows the second of the file. */
	ck_assert_int_eq((int)syscall(SYS_remap_file_pages, moved, shared.page, 0UL, 1UL, 0UL), 0);
	ck_assert_int_eq(moved[0], 2);
	munmap(moved, shared.size);
	raw_close_shared(&shared);
}
END_TEST

START_TEST(mapping_cannot_be_made_executable_or_synced)
{
	struct raw_shared shared;
	char *map;

	if (!raw_open_shared(&shared, PAGES))
		return;
	map = raw_map(shared.fd, 0, shared.page);
	ck_assert_int_eq(raw_result(mprotect(map, shared.page, PROT_READ | PROT_EXEC)), -EACCES);
	ck_assert_int_eq(raw_result(msync(map, shared.page, MS_SYNC)), -EINVAL);
	ck_assert_int_eq(raw_result(msync(map, shared.page, MS_ASYNC)), 0);
	munmap(map, shared.page);
	raw_close_shared(&shared);
}
END_TEST

START_TEST(two_mappings_show_the_same_pages)
{
	struct raw_shared shared;
	char *one, *two;

	if (!raw_open_shared(&shared, PAGES))
		return;
	one = raw_map(shared.fd, 0, shared.size);
	two = raw_map(shared.fd, shared.page, shared.page);
	one[shared.page + 1] = 5;
	ck_assert_int_eq(two[1], 5);
	ck_assert_uint_eq(host_count_resident(two, shared.page), 1);
	munmap(one, shared.size);
	munmap(two, shared.page);
	raw_close_shared(&shared);
}
END_TEST

static int write_in_child(void *data)
{
	*(volatile char *)data = 8;
	return 0;
}

START_TEST(mapping_is_inherited_by_a_child)
{
	struct raw_shared shared;
	char *map;

	if (!raw_open_shared(&shared, PAGES))
		return;
	map = raw_map(shared.fd, 0, shared.page);
	ck_assert_int_eq(host_run_child(write_in_child, map), 0);
	ck_assert_int_eq(map[0], 8);
	munmap(map, shared.page);
	raw_close_shared(&shared);
}
END_TEST

START_TEST(memory_outlives_vm_and_descriptor)
{
	struct raw_shared shared;

	if (!raw_open_shared(&shared, PAGES))
		return;
	munmap(shared.map, shared.size);
	close(shared.vm);
	ck_assert_int_eq(raw_allocate(shared.fd, 0, shared.size), 0);
	shared.map = raw_map(shared.fd, 0, shared.size);
	close(shared.fd);
	shared.map[0] = 3;
	ck_assert_int_eq(shared.map[0], 3);
	munmap(shared.map, shared.size);
}
END_TEST

/* ---- NUMA ---- */

START_TEST(policy_holds_for_the_file_or_for_the_mapping_alone)
{
	struct raw_shared shared;
	void *map;
	int holds;

	if (!raw_open_shared(&shared, PAGES))
		return;
	map = raw_map(shared.fd, 0, shared.page);
	if (host_set_policy_local(map, shared.page) == -ENOSYS)
		SKIP("this kernel has no memory policies");
	ck_assert_int_eq(host_get_policy(map), 4);
	holds = host_policy_holds(shared.fd);
	ck_assert_int_ge(holds, 0);
	harness_note("%s", holds ? "the file" : "the mapping alone");
	munmap(map, shared.page);
	raw_close_shared(&shared);
}
END_TEST

START_TEST(policy_is_of_the_pages_for_which_it_was_asked)
{
	struct raw_shared shared;
	char *one, *two;

	if (!raw_open_shared(&shared, PAGES))
		return;
	one = raw_map(shared.fd, 0, shared.size);
	two = raw_map(shared.fd, shared.page, shared.page);
	if (host_set_policy_local(one + shared.page, shared.page) == -ENOSYS)
		SKIP("this kernel has no memory policies");
	if (host_policy_holds(shared.fd) != 1)
		SKIP("a memory policy is of a mapping alone");
	ck_assert_int_eq(host_get_policy(one + 2 * shared.page), 0);
	ck_assert_int_eq(host_get_policy(one + shared.page), 4);
	ck_assert_int_eq(host_get_policy(two), 4);
	munmap(one, shared.size);
	munmap(two, shared.page);
	raw_close_shared(&shared);
}
END_TEST

START_TEST(policy_can_have_a_home_node)
{
	unsigned long nodes = 1; /* node 0 */
	struct raw_shared shared;
	void *map;
	int r;

	if (!raw_open_shared(&shared, PAGES))
		return;
	map = raw_map(shared.fd, 0, shared.page);
	r = raw_result(
		syscall(SYS_mbind, map, shared.page, POLICY_BIND, &nodes, 8 * sizeof(nodes), 0U));
	if (r == 0)
		r = raw_result(syscall(NR_HOME_NODE, map, shared.page, 0UL, 0UL));
	if (r == -ENOSYS)
		SKIP("this kernel has no home nodes");
	ck_assert_int_eq(r, 0);
	munmap(map, shared.page);
	raw_close_shared(&shared);
}
END_TEST

static void add_creation(Suite *suite)
{
	kernel_case(suite, "memfd-creation");
	KERNEL_TEST(create_takes_exactly_the_flags_of_the_capability);
	KERNEL_TEST(create_takes_the_flags_in_any_combination);
	KERNEL_TEST(create_takes_whole_pages_up_to_a_signed_size);
	KERNEL_TEST(create_refuses_an_unreadable_argument);
	KERNEL_TEST(create_checks_its_arguments_and_then_needs_a_free_descriptor);
	KERNEL_TEST(create_ignores_reserved_words);
	KERNEL_TEST(descriptor_is_inherited_and_read_write);
	KERNEL_TEST(new_file_has_no_page);
}

static void add_file(Suite *suite)
{
	kernel_case(suite, "memfd-file");
	KERNEL_TEST(file_is_a_regular_one_of_its_own_kind);
	KERNEL_TEST(blocks_do_not_count_pages);
	KERNEL_TEST(file_cannot_be_read_written_resized_or_reopened);
	KERNEL_TEST(other_process_can_use_the_file_it_is_sent);
	KERNEL_TEST(lock_belongs_to_all_copies_of_a_descriptor);
	KERNEL_TEST(memory_outlives_vm_and_descriptor);
}

static void add_allocation(Suite *suite)
{
	kernel_case(suite, "memfd-allocation");
	KERNEL_TEST(fallocate_allocates_and_punches_and_nothing_else);
	KERNEL_TEST(fallocate_takes_whole_pages);
	KERNEL_TEST(fallocate_checks_the_mode_before_the_range);
	KERNEL_TEST(signal_interrupts_an_allocation);
	KERNEL_TEST(allocated_pages_show_once_touched);
	KERNEL_TEST(punched_pages_are_gone_and_read_zero);
	KERNEL_TEST(punch_frees_pages_that_nobody_touched);
}

static void add_mapping(Suite *suite)
{
	kernel_case(suite, "memfd-mapping");
	KERNEL_TEST(mmap_needs_the_flag);
	KERNEL_TEST(mmap_is_shared_and_not_executable);
	KERNEL_TEST(mmap_past_the_end_faults_when_touched);
	KERNEL_TEST(mapping_cannot_be_made_executable_or_synced);
	KERNEL_TEST(madvise_keeps_the_data_but_for_remove);
	KERNEL_TEST(advice_to_drop_pages_leaves_them_resident);
	KERNEL_TEST(mapping_can_move_and_grow);
	KERNEL_TEST(two_mappings_show_the_same_pages);
	KERNEL_TEST(mapping_is_inherited_by_a_child);
	KERNEL_TEST(policy_holds_for_the_file_or_for_the_mapping_alone);
	KERNEL_TEST(policy_is_of_the_pages_for_which_it_was_asked);
	KERNEL_TEST(policy_can_have_a_home_node);
}

static void add_access(Suite *suite)
{
	kernel_case(suite, "memfd-access");
	KERNEL_TEST(mapping_without_init_shared_cannot_be_touched);
	KERNEL_TEST(shared_mapping_can_be_used_by_the_kernel);
	KERNEL_TEST(direct_io_reaches_a_shared_mapping);
	KERNEL_TEST(shared_mapping_can_be_pinned_for_long);
}

Suite *kernel_memfd_suite(void)
{
	Suite *suite = suite_create("memfd");

	add_creation(suite);
	add_file(suite);
	add_allocation(suite);
	add_mapping(suite);
	add_access(suite);
	return suite;
}
