/* SPDX-License-Identifier: MIT */
/* What went wrong in this thread last. */
#ifndef GMEM_ERROR_H
#define GMEM_ERROR_H

#include "gmem.h"

#include <errno.h>

/* Record a failure and return -error. `error` is positive. */
int gmem_fail(int error, enum gmem_reason reason, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/*
 * Record a failed syscall, of which `error` is the positive errno. Where the errno has one meaning
 * anywhere (no memory, no descriptor left, forbidden) that is the reason, else it is
 * KERNEL_REFUSED. The errno's name is put behind the sentence.
 */
int gmem_fail_kernel(int error, const char *format, ...) __attribute__((format(printf, 2, 3)));

/*
 * A failure is negative whatever its errno was, so that no caller takes it for a success. Inline,
 * for compilers and analyzers see one file at a time.
 */
static inline int gmem_negative(int result)
{
	return result < 0 ? result : -EINVAL;
}
#define gmem_fail(...)	      gmem_negative(gmem_fail(__VA_ARGS__))
#define gmem_fail_kernel(...) gmem_negative(gmem_fail_kernel(__VA_ARGS__))

/* Put something in front of this thread's message, such as which entry of an array it concerns. */
void gmem_error_prefix(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* "EINVAL"; "errno 1234" where libc has no name for it. Never NULL. */
const char *gmem_errno_name(int error);

/* This thread's last failure, to be put back: around code that may fail on its own account. */
struct gmem_error {
	enum gmem_reason reason;
	char message[512];
};

void gmem_error_save(struct gmem_error *error);
void gmem_error_restore(const struct gmem_error *error);

#endif
