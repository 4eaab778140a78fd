/* SPDX-License-Identifier: MIT */
/*
 * The suites of gmem-kernel-check, one a file test-NAME.c. Names are shown to people with their
 * underscores as blanks, so a test's name is its rule in words.
 */
#ifndef GMEM_TEST_SUITES_H
#define GMEM_TEST_SUITES_H

#include "harness.h"

/* In the order in which they run. */
#define KERNEL_SUITES(X)                                                                           \
	X(caps)                                                                                    \
	X(memfd)                                                                                   \
	X(bind)                                                                                    \
	X(slot)                                                                                    \
	X(uffd)                                                                                    \
	X(private)                                                                                 \
	X(fault)                                                                                   \
	X(known)                                                                                   \
	X(poison)

#define KERNEL_DECLARE(name) Suite *kernel_##name##_suite(void);
KERNEL_SUITES(KERNEL_DECLARE)
#undef KERNEL_DECLARE

/* Begins a case of a suite; its name begins with the suite's: "memfd-file". */
TCase *kernel_case(Suite *suite, const char *name);

/* Adds a test to the case begun last, if it is one that shall run. */
#define KERNEL_TEST(test)                                                                          \
	do {                                                                                       \
		TCase *kernel_tcase = kernel_wants(#test);                                         \
		if (kernel_tcase)                                                                  \
			tcase_add_test(kernel_tcase, test);                                        \
	} while (0)

/* The same for each _i from start to end - 1. */
#define KERNEL_LOOP(test, start, end)                                                              \
	do {                                                                                       \
		TCase *kernel_tcase = kernel_wants(#test);                                         \
		if (kernel_tcase)                                                                  \
			tcase_add_loop_test(kernel_tcase, test, start, end);                       \
	} while (0)

/*
 * A note that the kernel has a known fault, which the summary then names. For a test fault_...,
 * beside its note of what it saw. The names stay as they are and are all in the manual page. Where
 * GMEM_TEST_FIXED has the name, the test fails.
 */
void kernel_known_fault(const char *name);

/* The case begun last, or NULL if this test of it shall not run. */
TCase *kernel_wants(const char *test);

#endif
