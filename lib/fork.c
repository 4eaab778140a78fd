/* SPDX-License-Identifier: MIT */
#include "fork.h"

#include "error.h"
#include "uapi/mm.h"

#include <errno.h>

int gmem_fork_guard_init(struct gmem_fork_guard *guard, const struct gmem_sys *sys)
{
	size_t size = sys->page_size(sys);
	void *page;
	int r;

	r = sys->mmap(sys, NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0,
		      &page);
	if (r < 0)
		return gmem_fail_kernel(-r, "no memory for a page that tells of fork");
	r = sys->madvise(sys, page, size, MADV_WIPEONFORK);
	if (r < 0) {
		sys->munmap(sys, page, size);
		return gmem_fail_kernel(-r, "MADV_WIPEONFORK");
	}
	*(unsigned char *)page = 1;
	guard->page = page;
	return 0;
}

void gmem_fork_guard_fini(struct gmem_fork_guard *guard, const struct gmem_sys *sys)
{
	if (guard->page)
		sys->munmap(sys, (void *)(uintptr_t)guard->page, sys->page_size(sys));
	guard->page = NULL;
}

int gmem_fork_fail(void)
{
	return gmem_fail(EIO, GMEM_REASON_FORKED,
			 "made by the parent process: KVM answers a child with EIO, and guest "
			 "memory is not mapped there");
}
