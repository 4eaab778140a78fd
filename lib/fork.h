/* SPDX-License-Identifier: MIT */
/*
 * A page that the kernel wipes in a child process: reading it tells, without a syscall, whether
 * this process made the objects it holds. KVM answers a child with EIO, and mappings are not
 * inherited, so a child must neither use them nor unmap what is now at their addresses.
 */
#ifndef GMEM_FORK_H
#define GMEM_FORK_H

#include "sys.h"

struct gmem_fork_guard {
	const volatile unsigned char *page;
};

int gmem_fork_guard_init(struct gmem_fork_guard *guard, const struct gmem_sys *sys);
void gmem_fork_guard_fini(struct gmem_fork_guard *guard, const struct gmem_sys *sys);

static inline bool gmem_forked(const struct gmem_fork_guard *guard)
{
	return *guard->page == 0;
}

/* The failure of a call that a child process made on its parent's object. */
int gmem_fork_fail(void);

#endif
