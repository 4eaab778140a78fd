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

/*
 * Fill in a caller's struct from one of this library's size: only what the caller has room for, and
 * zeros for what it has beyond that. `sz` stays. check: whether it can be.
 */
int gmem_opts_check(const void *opts);
void gmem_opts_write(void *to, const void *from, size_t from_size);

#endif
