/* SPDX-License-Identifier: MIT */
#include "fd.h"

#include "error.h"

#include <errno.h>
#include <fcntl.h>

int gmem_fd_duplicate(const struct gmem_sys *sys, int fd)
{
	int own = sys->fcntl(sys, fd, F_DUPFD_CLOEXEC, 0);

	if (own == -EBADF)
		return gmem_fail(EBADF, GMEM_REASON_FD_INVALID, "fd %d is not open", fd);
	return own < 0 ? gmem_fail_kernel(-own, "cannot duplicate fd %d", fd) : own;
}
