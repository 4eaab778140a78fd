/* SPDX-License-Identifier: MIT */
/* What this process has, as the kernel tells it: descriptors, mappings, pages, children. */
#ifndef GMEM_TEST_HOST_H
#define GMEM_TEST_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Open descriptors of this process. */
int host_count_fds(void);

/* Mappings whose line in /proc/self/maps holds `text`. */
int host_count_maps(const char *text);

/* Mappings that a child process would find wiped (MADV_WIPEONFORK). */
int host_count_wiped(void);

/* Bytes of the mappings that touch this range which are in swap. */
int64_t host_count_swapped(const void *addr, size_t size);

/* Permissions of what is mapped at an address, such as "rw-s"; "" where nothing is. */
const char *host_perms(const void *addr);

/* How many pages of a range are there, as mincore() has it; a page of guest_memfd is there for
 * each mapping once anybody has touched it. */
size_t host_count_resident(const void *addr, size_t size);

/* How many pages a file has, touched or not (cachestat()), where the kernel can tell. */
bool host_can_count_cached(void);
int64_t host_count_cached(int fd);

/* The memory policy that the kernel tells of an address: the mode, or a negative errno. */
int host_get_policy(const void *addr);
/* Ask for local memory: 0 or a negative errno. */
int host_set_policy_local(void *addr, size_t size);

/* Whether a policy set through one mapping of a guest_memfd is seen in another: 1, 0, -errno. */
int host_policy_holds(int memfd);

/* Whether one touch ends in SIGSEGV or SIGBUS: the signal, or 0. In a child process, which must
 * have the memory. */
int host_touch(void *addr, bool write);

/*
 * Run a function in a child process. It returns 0, or the line that is wrong (see CHILD_CHECK).
 * The result is that, or the negative number of the signal that ended the child.
 */
int host_run_child(int (*function)(void *data), void *data);

/*
 * From now on an ioctl with this request kills the process, for tests that none is made. Needs
 * seccomp filters.
 */
void host_forbid_ioctl(unsigned long request);

/* SIGALRM each so many microseconds, to a handler that does nothing; 0 ends it. */
void host_pester(unsigned int microseconds);

/* SIGPROF each time that the process has used a processor for so long, with its guests. */
void host_pester_busy(unsigned int microseconds);

#define CHILD_CHECK(condition)                                                                     \
	do {                                                                                       \
		if (!(condition))                                                                  \
			return __LINE__;                                                           \
	} while (0)

#endif
