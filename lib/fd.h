/* SPDX-License-Identifier: MIT */
/* Descriptors that the caller gives. */
#ifndef GMEM_FD_H
#define GMEM_FD_H

#include "sys.h"

/* A descriptor of the library's own for the same file, with close-on-exec; or a failure. */
int gmem_fd_duplicate(const struct gmem_sys *sys, int fd);

#endif
