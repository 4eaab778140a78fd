/* SPDX-License-Identifier: MIT */
/*
 * Every syscall of the library, through one table. An object carries the table it was made with,
 * so that tests can script a kernel without any state of the process.
 *
 * Each member returns what the syscall returns, or a negative errno.
 */
#ifndef GMEM_SYS_H
#define GMEM_SYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct gmem_file_status {
	uint64_t size;
	uint64_t fs_magic;
	bool regular;
};

struct gmem_sys {
	int (*open)(const struct gmem_sys *sys, const char *path, int flags);
	int (*close)(const struct gmem_sys *sys, int fd);
	int (*ioctl)(const struct gmem_sys *sys, int fd, unsigned long request, uintptr_t argument);
	int (*fcntl)(const struct gmem_sys *sys, int fd, int command, int argument);
	int (*status)(const struct gmem_sys *sys, int fd, struct gmem_file_status *status);
	int (*fallocate)(const struct gmem_sys *sys, int fd, int mode, uint64_t offset,
			 uint64_t size);
	int (*mmap)(const struct gmem_sys *sys, void *hint, size_t size, int prot, int flags,
		    int fd, uint64_t offset, void **addr);
	int (*munmap)(const struct gmem_sys *sys, void *addr, size_t size);
	int (*madvise)(const struct gmem_sys *sys, void *addr, size_t size, int advice);
	/* A byte for each page of the range: bit 0, whether it is in memory. */
	int (*mincore)(const struct gmem_sys *sys, void *addr, size_t size, unsigned char *pages);
	int (*memfd_create)(const struct gmem_sys *sys, const char *name, unsigned int flags);
	int (*ftruncate)(const struct gmem_sys *sys, int fd, uint64_t size);
	int (*mbind)(const struct gmem_sys *sys, void *addr, size_t size, int mode,
		     const uint64_t *nodes, size_t words);
	int (*get_mempolicy)(const struct gmem_sys *sys, void *addr, int *mode, uint64_t *nodes,
			     size_t words);
	int (*userfaultfd)(const struct gmem_sys *sys, int flags);
	/* Copy between two places of this process; bytes copied. */
	ssize_t (*copy_in)(const struct gmem_sys *sys, void *to, const void *from, size_t size);
	ssize_t (*copy_out)(const struct gmem_sys *sys, void *to, const void *from, size_t size);
	int (*cpus)(const struct gmem_sys *sys);     /* CPUs this thread may run on, at least 1 */
	void (*nap)(const struct gmem_sys *sys);     /* sleep for some 50 us */
	uint64_t (*now)(const struct gmem_sys *sys); /* ns, never going back; no system call */
	size_t (*page_size)(const struct gmem_sys *sys);
};

/* Linux itself. */
extern const struct gmem_sys gmem_sys_linux;

#endif
