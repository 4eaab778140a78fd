/* SPDX-License-Identifier: MIT */
/* Options structs that grow: each begins with `size_t sz`. */
#ifndef GMEM_OPTS_H
#define GMEM_OPTS_H

#include <stddef.h>

/*
 * Copy a caller's struct into one of this library's size: members the caller lacks become zero,
 * members this library lacks must be zero. 0, or a failure with its reason.
 */
int gmem_opts_read(void *opts, size_t opts_size, const void *from);

#endif
