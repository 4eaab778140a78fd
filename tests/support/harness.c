/* SPDX-License-Identifier: MIT */
#include "harness.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	MAX_TESTS = 8192,
	REASON_SIZE = 256
};

enum verdict {
	PASS,
	FAIL,
	SKIPPED
};

struct report {
	const char *group;
	const char *suite;
	const char *log;
	FILE *records;
	int failed;
};

static SRunner *runner;

/* A reason for each test by its number. Shared, because the test that skips is a child process. */
static char (*skips)[REASON_SIZE];

static _Noreturn void give_up(const char *what)
{
	fprintf(stderr, "harness: %s: %s\n", what, strerror(errno));
	exit(EXIT_FAILURE);
}

const char *harness_kvm_device(void)
{
	const char *device = getenv("GMEM_TEST_KVM_DEVICE");

	return device && *device ? device : "/dev/kvm";
}

void harness_let_faults_kill(void)
{
	if (signal(SIGSEGV, SIG_DFL) == SIG_ERR || signal(SIGBUS, SIG_DFL) == SIG_ERR)
		ck_abort_msg("signal: %s", strerror(errno));
}

void harness_skip(const char *format, ...)
{
	/* How many tests have ended is, in the child as well, the number of the one that runs. */
	int number = srunner_ntests_run(runner);
	va_list args;
	int length;

	if (number >= MAX_TESTS)
		ck_abort_msg("the table of skips holds only %d tests", MAX_TESTS);
	va_start(args, format);
	length = vsnprintf(skips[number], REASON_SIZE, format, args);
	va_end(args);
	if (length <= 0)
		ck_abort_msg("a skip without a reason");
}

/*
 * Check expects a signal or an exit status of some tests, and calls it a failure when these skip
 * and so return. A failed assertion, a crash or a sanitizer's report never reads like this.
 */
static bool returned_cleanly(TestResult *result)
{
	return tr_rtype(result) == CK_PASS ||
	       strcmp(tr_msg(result), "Early exit with return value 0") == 0;
}

static enum verdict judge(TestResult *result, int number)
{
	if (number < MAX_TESTS && skips[number][0] && returned_cleanly(result))
		return SKIPPED;
	return tr_rtype(result) == CK_PASS ? PASS : FAIL;
}

/*
 * The names and loop indices, which no function of Check gives, are in its log:
 * "\nfile:line:letter:tcase:test:index: message". Moves *log behind what it used.
 */
static void print_name(FILE *out, const char **log, TestResult *result)
{
	char letter = tr_ctx(result) != CK_CTX_TEST    ? 'S'
		      : tr_rtype(result) == CK_PASS    ? 'P'
		      : tr_rtype(result) == CK_FAILURE ? 'F'
						       : 'E';
	const char *found;
	char *prefix;
	int length, name, index;

	length = asprintf(&prefix, "\n%s:%d:%c:%s:", tr_lfile(result), tr_lno(result), letter,
			  tr_tcname(result));
	if (length < 0)
		give_up("asprintf");
	found = strstr(*log, prefix);
	free(prefix);
	if (!found || sscanf(found + length, "%*[^:]%n:%d:", &name, &index) != 1) {
		/* The failure of an unchecked fixture is the one thing that Check does not log. */
		fprintf(out, "%s:fixture[0]", tr_tcname(result));
		return;
	}
	fprintf(out, "%s:%.*s[%d]", tr_tcname(result), name, found + length, index);
	*log = found + length;
}

/* Text as part of one line: whatever would end the line or the column becomes a blank. */
static void print_flat(FILE *out, const char *text)
{
	for (; *text; text++)
		putc((unsigned char)*text < ' ' ? ' ' : *text, out);
}

static void print_comment(const char *text)
{
	fputs("# ", stdout);
	for (; *text; text++) {
		putchar(*text);
		if (*text == '\n')
			fputs("# ", stdout);
	}
	putchar('\n');
}

static void report_test(struct report *report, TestResult *result, int number)
{
	static const char *const words[] = {"pass", "fail", "skip"};
	enum verdict verdict = judge(result, number);
	const char *reason = verdict == SKIPPED ? skips[number] : tr_msg(result);
	const char *log = report->log;

	printf("%s %d - %s:", verdict == FAIL ? "not ok" : "ok", number + 1, report->suite);
	print_name(stdout, &report->log, result);
	if (verdict == SKIPPED) {
		fputs(" # SKIP ", stdout);
		print_flat(stdout, reason);
	}
	putchar('\n');
	fprintf(report->records, "%s\t%s\t", report->group, program_invocation_short_name);
	print_name(report->records, &log, result);
	fprintf(report->records, "\t%s\t", words[verdict]);
	if (verdict == FAIL) {
		report->failed++;
		printf("# %s:%d:\n", tr_lfile(result), tr_lno(result));
		print_comment(reason);
		fprintf(report->records, "%s:%d: ", tr_lfile(result), tr_lno(result));
	}
	if (verdict != PASS)
		print_flat(report->records, reason);
	putc('\n', report->records);
}

/* One write, so that programs running side by side do not mix their lines. */
static void append_records(const char *records, size_t size)
{
	const char *path = getenv("GMEM_TEST_RESULTS");
	int fd;

	if (!path || !*path)
		return;
	fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
	if (fd < 0 || write(fd, records, size) != (ssize_t)size || close(fd) < 0)
		give_up(path);
}

static char *read_log(int fd)
{
	struct stat status;
	char *text;

	if (fstat(fd, &status) < 0)
		give_up("log");
	text = calloc(1, (size_t)status.st_size + 1);
	if (!text || pread(fd, text, (size_t)status.st_size, 0) != status.st_size)
		give_up("log");
	return text;
}

/* The suite's name is in the log's first line, "Running suite NAME", unless no test ran. */
static char *copy_suite_name(const char *log)
{
	static const char start[] = "Running suite ";
	const char *name = strncmp(log, start, strlen(start)) == 0 ? log + strlen(start) : "";
	char *copy = strndup(name, strcspn(name, "\n"));

	if (!copy)
		give_up("log");
	return copy;
}

static int report_all(char *log)
{
	const char *group = getenv("GMEM_TEST_GROUP");
	int count = srunner_ntests_run(runner);
	TestResult **results = srunner_results(runner);
	char *suite = copy_suite_name(log);
	char *records;
	size_t size;
	struct report report = {
		.group = group && *group ? group : "none",
		.suite = suite,
		.log = log,
		.records = open_memstream(&records, &size),
	};

	if (!results || !report.records)
		give_up("report");
	printf("1..%d\n", count);
	for (int i = 0; i < count; i++)
		report_test(&report, results[i], i);
	if (fclose(report.records) == EOF)
		give_up("report");
	append_records(records, size);
	free(records);
	free(results);
	free(suite);
	/* A program that tests nothing must not look like one that found nothing wrong. */
	return count > 0 && report.failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

int harness_run(Suite *suite)
{
	size_t size = sizeof(*skips) * MAX_TESTS;
	char path[32], *log;
	int fd, status;

	skips = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (skips == MAP_FAILED)
		give_up("mmap");
	fd = memfd_create("log of Check", MFD_CLOEXEC);
	if (fd < 0)
		give_up("memfd_create");
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	runner = srunner_create(suite);
	srunner_set_log(runner, path);
	srunner_run_all(runner, CK_SILENT);
	log = read_log(fd);
	status = report_all(log);
	free(log);
	close(fd);
	srunner_free(runner);
	munmap(skips, size);
	return status;
}
