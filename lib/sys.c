/* SPDX-License-Identifier: MIT */
#include "sys.h"

#include "uapi/mm.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

/* libc's -1 and errno as one value. */
static int result(int r)
{
	return r < 0 ? -errno : r;
}

static int sys_open(const struct gmem_sys *sys, const char *path, int flags)
{
	(void)sys;
	return result(open(path, flags));
}

static int sys_close(const struct gmem_sys *sys, int fd)
{
	(void)sys;
	/* Never again after EINTR: Linux has closed the descriptor by then. */
	return result(close(fd));
}

static int sys_ioctl(const struct gmem_sys *sys, int fd, unsigned long request, uintptr_t argument)
{
	(void)sys;
	return result(ioctl(fd, request, argument));
}

static int sys_fcntl(const struct gmem_sys *sys, int fd, int command, int argument)
{
	(void)sys;
	return result(fcntl(fd, command, argument));
}

static int sys_status(const struct gmem_sys *sys, int fd, struct gmem_file_status *status)
{
	struct statfs fs;
	struct stat st;

	(void)sys;
	if (fstat(fd, &st) < 0 || fstatfs(fd, &fs) < 0)
		return -errno;
	*status = (struct gmem_file_status){
		.size = st.st_size > 0 ? (uint64_t)st.st_size : 0,
		.fs_magic = (uint64_t)fs.f_type,
		.regular = S_ISREG(st.st_mode),
	};
	return 0;
}

static int sys_fallocate(const struct gmem_sys *sys, int fd, int mode, uint64_t offset,
			 uint64_t size)
{
	(void)sys;
	return result(fallocate(fd, mode, (off_t)offset, (off_t)size));
}

static int sys_mmap(const struct gmem_sys *sys, void *hint, size_t size, int prot, int flags,
		    int fd, uint64_t offset, void **addr)
{
	void *p = mmap(hint, size, prot, flags, fd, (off_t)offset);

	(void)sys;
	if (p == MAP_FAILED)
		return -errno;
	*addr = p;
	return 0;
}

static int sys_munmap(const struct gmem_sys *sys, void *addr, size_t size)
{
	(void)sys;
	return result(munmap(addr, size));
}

static int sys_madvise(const struct gmem_sys *sys, void *addr, size_t size, int advice)
{
	(void)sys;
	return result(madvise(addr, size, advice));
}

static int sys_mincore(const struct gmem_sys *sys, void *addr, size_t size, unsigned char *pages)
{
	(void)sys;
	return result(mincore(addr, size, pages));
}

static int sys_memfd_create(const struct gmem_sys *sys, const char *name, unsigned int flags)
{
	(void)sys;
	return result(memfd_create(name, flags));
}

static int sys_ftruncate(const struct gmem_sys *sys, int fd, uint64_t size)
{
	(void)sys;
	return result(ftruncate(fd, (off_t)size));
}

/* The kernel takes the number of bits plus one (mm/mempolicy.c, get_nodes()). */
static unsigned long maxnode(size_t words)
{
	return words ? words * 64 + 1 : 0;
}

static int sys_mbind(const struct gmem_sys *sys, void *addr, size_t size, int mode,
		     const uint64_t *nodes, size_t words)
{
	(void)sys;
	return result((int)syscall(SYS_mbind, addr, size, mode, nodes, maxnode(words), 0));
}

static int sys_get_mempolicy(const struct gmem_sys *sys, void *addr, int *mode, uint64_t *nodes,
			     size_t words)
{
	(void)sys;
	return result(
		(int)syscall(SYS_get_mempolicy, mode, nodes, maxnode(words), addr, MPOL_F_ADDR));
}

static int sys_userfaultfd(const struct gmem_sys *sys, int flags)
{
	(void)sys;
	return result((int)syscall(SYS_userfaultfd, flags));
}

/*
 * process_vm_readv() on oneself answers EFAULT where a load would raise a signal. Only the remote
 * side is protected so, hence a call for each direction.
 */
static ssize_t sys_copy_in(const struct gmem_sys *sys, void *to, const void *from, size_t size)
{
	struct iovec local = {.iov_base = to, .iov_len = size};
	struct iovec remote = {.iov_base = (void *)(uintptr_t)from, .iov_len = size};
	ssize_t r = process_vm_readv(getpid(), &local, 1, &remote, 1, 0);

	(void)sys;
	return r < 0 ? -errno : r;
}

static ssize_t sys_copy_out(const struct gmem_sys *sys, void *to, const void *from, size_t size)
{
	struct iovec local = {.iov_base = (void *)(uintptr_t)from, .iov_len = size};
	struct iovec remote = {.iov_base = to, .iov_len = size};
	ssize_t r = process_vm_writev(getpid(), &local, 1, &remote, 1, 0);

	(void)sys;
	return r < 0 ? -errno : r;
}

static int sys_cpus(const struct gmem_sys *sys)
{
	cpu_set_t set;
	long count;

	(void)sys;
	if (sched_getaffinity(0, sizeof(set), &set) == 0)
		count = CPU_COUNT(&set);
	else /* more CPUs than a cpu_set_t holds */
		count = sysconf(_SC_NPROCESSORS_ONLN);
	return count > 0 ? (int)count : 1;
}

static void sys_nap(const struct gmem_sys *sys)
{
	struct timespec time = {.tv_nsec = 50000};

	(void)sys;
	nanosleep(&time, NULL);
}

static uint64_t sys_now(const struct gmem_sys *sys)
{
	struct timespec time = {0};

	(void)sys;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * UINT64_C(1000000000) + (uint64_t)time.tv_nsec;
}

static size_t sys_page_size(const struct gmem_sys *sys)
{
	(void)sys;
	return (size_t)sysconf(_SC_PAGESIZE);
}

const struct gmem_sys gmem_sys_linux = {
	.open = sys_open,
	.close = sys_close,
	.ioctl = sys_ioctl,
	.fcntl = sys_fcntl,
	.status = sys_status,
	.fallocate = sys_fallocate,
	.mmap = sys_mmap,
	.munmap = sys_munmap,
	.madvise = sys_madvise,
	.mincore = sys_mincore,
	.memfd_create = sys_memfd_create,
	.ftruncate = sys_ftruncate,
	.mbind = sys_mbind,
	.get_mempolicy = sys_get_mempolicy,
	.userfaultfd = sys_userfaultfd,
	.copy_in = sys_copy_in,
	.copy_out = sys_copy_out,
	.cpus = sys_cpus,
	.nap = sys_nap,
	.now = sys_now,
	.page_size = sys_page_size,
};
