/* SPDX-License-Identifier: MIT */
/*
 * What libgmem-fake needs of libgmem beyond the interface. The table is exported in a version node
 * that has the library's full version in its name, so that both are always of one version.
 */
#ifndef GMEM_INTERNAL_H
#define GMEM_INTERNAL_H

#include "gmem.h"
#include "sys.h"

struct gmem_internal {
	int (*vm_open)(const struct gmem_sys *sys, const struct gmem_vm_opts *opts,
		       struct gmem_vm **ret);
	int (*vm_open_fd)(const struct gmem_sys *sys, int vm_fd, const struct gmem_vm_opts *opts,
			  struct gmem_vm **ret);
	int (*memfd_open_fd)(const struct gmem_sys *sys, struct gmem_vm *vm, int fd,
			     struct gmem_memfd **ret);
	int (*opts_read)(void *opts, size_t opts_size, const void *from);
	int (*fail)(int error, enum gmem_reason reason, const char *format, ...)
		__attribute__((format(printf, 3, 4)));
};

extern const struct gmem_internal gmem_internal __attribute__((visibility("default")));

#endif
