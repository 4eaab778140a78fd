/* SPDX-License-Identifier: MIT */
/*
 * libgmem-fake as the tests of this library use it: under Check, and with the kernel's ways open to
 * them (fake.h).
 */
#ifndef GMEM_TEST_SCRIPT_H
#define GMEM_TEST_SCRIPT_H

#include "fake.h"

#include "gmem.h"

#include <check.h>

/* A fake with pages of 4 KiB, of which a broken expectation fails the test. */
struct gmem_fake *script_new(enum gmem_fake_kernel kernel);

/* Check that all expected calls were made and that nothing is left, and free the fake. */
void script_end(struct gmem_fake *fake);

/* A VM over the fake, opened with default options (but `flags`); all calls so far forgotten. */
struct gmem_vm *script_vm(struct gmem_fake *fake, uint64_t flags);

/* A guest_memfd, asserted to succeed. */
struct gmem_memfd *script_memfd(struct gmem_vm *vm, uint64_t size, uint64_t flags);

/* What exists now, to be compared with later. */
struct script_tally {
	unsigned int fds, mappings, inaccessible, slots;
};

struct script_tally script_tally(const struct gmem_fake *fake);

/* Check that a call failed with this errno and this reason, and left a message. */
#define ck_fails(call, error, reason)                                                              \
	script_check_failure(call, error, GMEM_REASON_##reason, #call, __FILE__, __LINE__)

void script_check_failure(int result, int error, enum gmem_reason reason, const char *what,
			  const char *file, int line);

#define ck_works(call) script_check_success(call, #call, __FILE__, __LINE__)

void script_check_success(int result, const char *what, const char *file, int line);

#endif
