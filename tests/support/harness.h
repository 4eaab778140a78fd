/* SPDX-License-Identifier: MIT */
/*
 * What Check lacks for these tests: skipping with a reason, notes on what was seen, one TAP stream,
 * and a record of every test for scripts/test.
 *
 * A test program's main is `return harness_run(make_suite());`. Each test runs in a process of its
 * own unless CK_FORK=no is set, which is meant for debuggers and their like.
 *
 * Environment:
 *   GMEM_TEST_RESULTS     file to which one line a test is appended, of five columns parted by
 *                         tabs: group, program, tcase:test[loop], pass|fail|skip, reason; right
 *                         before it one line a note: note in the fourth column, its text last
 *   GMEM_TEST_GROUP       the first column
 *   GMEM_TEST_KVM_DEVICE  the KVM device to use instead of /dev/kvm
 *   GMEM_TEST_QUICK       1: a tool makes this run many times slower, so tests do fewer rounds of
 *                         the same, and those that only count are skipped
 */
#ifndef GMEM_TEST_HARNESS_H
#define GMEM_TEST_HARNESS_H

#include <check.h>
#include <stdbool.h>
#include <stddef.h>

/* Runs the suite, prints TAP and frees the suite. Returns the exit status: 0 if nothing failed. */
int harness_run(Suite *suite);

enum harness_verdict {
	HARNESS_PASS,
	HARNESS_FAIL,
	HARNESS_SKIP
};

struct harness_result {
	int number; /* of the test among all that ran, from 0 */
	const char *suite;
	const char *tcase;
	const char *test;
	int loop;
	enum harness_verdict verdict;
	const char *reason; /* of a failure or a skip */
	const char *file;   /* where it failed */
	int line;
	const char *const *notes;
	size_t note_count;
};

struct harness_options {
	const char *program; /* in the records; NULL: the name of this one */
	/* Told of every test after its suite has run; NULL: prints TAP. */
	void (*show)(const struct harness_result *result, void *data);
	void *data;
};

/* The same for several suites. */
int harness_run_suites(Suite *const *suites, size_t count, const struct harness_options *options);

/* The path of the KVM device under test. */
const char *harness_kvm_device(void);

/* Whether GMEM_TEST_QUICK asks for less, and how many of a test's rounds it then wants. */
bool harness_is_quick(void);
unsigned int harness_rounds(unsigned int rounds);

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

/*
 * Says what a test found where several things are right, as in a cell of a table headed by the
 * test's name: "EINVAL", "no effect". The same on every run: no times, addresses or counts of
 * rounds. A test can make several.
 */
#define HARNESS_NOTE_SIZE 64
__attribute__((format(printf, 1, 2))) void harness_note(const char *format, ...);

#endif
