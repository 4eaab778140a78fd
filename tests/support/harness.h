/* SPDX-License-Identifier: MIT */
/*
 * What Check lacks for these tests: skipping with a reason, one TAP stream, and a record of every
 * test for scripts/test.
 *
 * A test program's main is `return harness_run(make_suite());`. Each test runs in a process of its
 * own unless CK_FORK=no is set, which is meant for a debugger.
 *
 * Environment:
 *   GMEM_TEST_RESULTS     file to which one line a test is appended, of five columns parted by
 *                         tabs: group, program, tcase:test[loop], pass|fail|skip, reason
 *   GMEM_TEST_GROUP       the first column
 *   GMEM_TEST_KVM_DEVICE  the KVM device to use instead of /dev/kvm
 */
#ifndef GMEM_TEST_HARNESS_H
#define GMEM_TEST_HARNESS_H

#include <check.h>

/* Runs the suite, prints TAP and frees the suite. Returns the exit status: 0 if nothing failed. */
int harness_run(Suite *suite);

/* The path of the KVM device under test. */
const char *harness_kvm_device(void);

/*
 * Gives SIGSEGV and SIGBUS back their deadly default. For tests that expect one of them: a
 * sanitizer would otherwise turn it into its own report and an exit.
 */
void harness_let_faults_kill(void);

/* Ends a test that cannot run here. Only for the body of a test; the arguments are printf's. */
#define SKIP(...)                                                                                  \
	do {                                                                                       \
		harness_skip(__VA_ARGS__);                                                         \
		return;                                                                            \
	} while (0)

__attribute__((format(printf, 1, 2))) void harness_skip(const char *format, ...);

#endif
