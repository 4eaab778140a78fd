/* SPDX-License-Identifier: MIT */
#include "internal.h"

#include "error.h"
#include "memfd.h"
#include "opts.h"
#include "vm.h"

const struct gmem_internal gmem_internal = {
	.vm_open = gmem_vm_open_sys,
	.vm_open_fd = gmem_vm_open_fd_sys,
	.memfd_open_fd = gmem_memfd_open_fd_sys,
	.opts_read = gmem_opts_read,
	.fail = gmem_fail,
};
