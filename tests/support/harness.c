/* SPDX-License-Identifier: MIT */
#include "harness.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	MAX_TESTS = 8192,
	MAX_NOTES = 8192,
	MAX_NOTES_OF_TEST = 16,
	REASON_SIZE = 256
};

struct note {
	int number; /* of the test */
	char text[HARNESS_NOTE_SIZE];
};

/* What tests say of themselves. Shared, because a test is a child process. */
struct shared {
	char skips[MAX_TESTS][REASON_SIZE];
	atomic_int notes_used;
	struct note notes[MAX_NOTES];
};

/* The run of one suite. */
struct report {
	const struct harness_options *options;
	const char *group;
	const char *program;
	const char *suite;
	const char *log;
	FILE *records;
	int failed;
};

static struct shared *shared;
static SRunner *runner;
static int tests_before; /* in suites that have run */

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

bool harness_is_quick(void)
{
	const char *quick = getenv("GMEM_TEST_QUICK");

	return quick && strcmp(quick, "1") == 0;
}

unsigned int harness_rounds(unsigned int rounds)
{
	return harness_is_quick() ? rounds / 10 : rounds;
}

void harness_let_faults_kill(void)
{
	if (signal(SIGSEGV, SIG_DFL) == SIG_ERR || signal(SIGBUS, SIG_DFL) == SIG_ERR)
		ck_abort_msg("signal: %s", strerror(errno));
}

/* How many tests have ended is, in the child as well, the number of the one that runs. */
static int current_test(void)
{
	int number = tests_before + srunner_ntests_run(runner);

	if (number >= MAX_TESTS)
		ck_abort_msg("there is room for %d tests", MAX_TESTS);
	return number;
}

void harness_skip(const char *format, ...)
{
	int number = current_test();
	va_list args;
	int length;

	va_start(args, format);
	length = vsnprintf(shared->skips[number], REASON_SIZE, format, args);
	va_end(args);
	if (length <= 0)
		ck_abort_msg("a skip without a reason");
}

void harness_note(const char *format, ...)
{
	int place = atomic_fetch_add(&shared->notes_used, 1);
	struct note *note = &shared->notes[place];
	va_list args;
	int length;

	if (place >= MAX_NOTES)
		ck_abort_msg("there is room for %d notes", MAX_NOTES);
	note->number = current_test();
	va_start(args, format);
	length = vsnprintf(note->text, sizeof(note->text), format, args);
	va_end(args);
	if (length <= 0 || length >= HARNESS_NOTE_SIZE)
		ck_abort_msg("a note of %d characters", length);
}

/* Fills in the notes of one test and returns how many there are. */
static size_t find_notes(int number, const char **notes)
{
	int used = atomic_load(&shared->notes_used);
	size_t count = 0;

	for (int i = 0; i < used && i < MAX_NOTES && count < MAX_NOTES_OF_TEST; i++) {
		if (shared->notes[i].number == number && shared->notes[i].text[0])
			notes[count++] = shared->notes[i].text;
	}
	return count;
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

static enum harness_verdict judge(TestResult *result, int number)
{
	if (number < MAX_TESTS && shared->skips[number][0] && returned_cleanly(result))
		return HARNESS_SKIP;
	return tr_rtype(result) == CK_PASS ? HARNESS_PASS : HARNESS_FAIL;
}

/*
 * A test's name and loop index, which no function of Check gives, are in its log:
 * "\nfile:line:letter:tcase:test:index: message". Moves *log behind what it used. The name is the
 * caller's to free.
 */
static char *find_name(const char **log, TestResult *result, int *loop)
{
	char letter = tr_ctx(result) != CK_CTX_TEST    ? 'S'
		      : tr_rtype(result) == CK_PASS    ? 'P'
		      : tr_rtype(result) == CK_FAILURE ? 'F'
						       : 'E';
	const char *found;
	char *prefix, *name;
	int start, end;

	start = asprintf(&prefix, "\n%s:%d:%c:%s:", tr_lfile(result), tr_lno(result), letter,
			 tr_tcname(result));
	if (start < 0)
		give_up("asprintf");
	found = strstr(*log, prefix);
	free(prefix);
	if (!found || sscanf(found + start, "%*[^:]%n:%d:", &end, loop) != 1) {
		/* The failure of an unchecked fixture is the one thing that Check does not log. */
		*loop = 0;
		name = strdup("fixture");
	} else {
		name = strndup(found + start, (size_t)end);
		*log = found + start;
	}
	if (!name)
		give_up("strdup");
	return name;
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

static void show_tap(const struct harness_result *result)
{
	printf("%s %d - %s:%s:%s[%d]", result->verdict == HARNESS_FAIL ? "not ok" : "ok",
	       result->number + 1, result->suite, result->tcase, result->test, result->loop);
	if (result->verdict == HARNESS_SKIP) {
		fputs(" # SKIP ", stdout);
		print_flat(stdout, result->reason);
	}
	putchar('\n');
	for (size_t i = 0; i < result->note_count; i++)
		printf("# note: %s\n", result->notes[i]);
	if (result->verdict == HARNESS_FAIL) {
		printf("# %s:%d:\n", result->file, result->line);
		print_comment(result->reason);
	}
}

static void record_line(const struct report *report, const struct harness_result *result,
			const char *word)
{
	fprintf(report->records, "%s\t%s\t%s:%s[%d]\t%s\t", report->group, report->program,
		result->tcase, result->test, result->loop, word);
}

static void record_test(const struct report *report, const struct harness_result *result)
{
	static const char *const words[] = {"pass", "fail", "skip"};

	for (size_t i = 0; i < result->note_count; i++) {
		record_line(report, result, "note");
		print_flat(report->records, result->notes[i]);
		putc('\n', report->records);
	}
	record_line(report, result, words[result->verdict]);
	if (result->verdict == HARNESS_FAIL)
		fprintf(report->records, "%s:%d: ", result->file, result->line);
	if (result->verdict != HARNESS_PASS)
		print_flat(report->records, result->reason);
	putc('\n', report->records);
}

static void report_test(struct report *report, TestResult *test, int number)
{
	const char *notes[MAX_NOTES_OF_TEST];
	struct harness_result result = {
		.number = number,
		.suite = report->suite,
		.tcase = tr_tcname(test),
		.verdict = judge(test, number),
		.reason = tr_msg(test),
		.file = tr_lfile(test),
		.line = tr_lno(test),
		.notes = notes,
		.note_count = find_notes(number, notes),
	};
	char *name = find_name(&report->log, test, &result.loop);

	result.test = name;
	if (result.verdict == HARNESS_SKIP)
		result.reason = shared->skips[number];
	if (result.verdict == HARNESS_FAIL)
		report->failed++;
	if (report->options->show)
		report->options->show(&result, report->options->data);
	else
		show_tap(&result);
	record_test(report, &result);
	free(name);
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

/* Returns how many tests failed. */
static int report_suite(const char *log, const struct harness_options *options)
{
	const char *group = getenv("GMEM_TEST_GROUP");
	int count = srunner_ntests_run(runner);
	TestResult **results = srunner_results(runner);
	char *suite = copy_suite_name(log);
	char *records;
	size_t size;
	struct report report = {
		.options = options,
		.group = group && *group ? group : "none",
		.program = options->program ? options->program : program_invocation_short_name,
		.suite = suite,
		.log = log,
		.records = open_memstream(&records, &size),
	};

	if (!results || !report.records)
		give_up("report");
	for (int i = 0; i < count; i++)
		report_test(&report, results[i], tests_before + i);
	if (fclose(report.records) == EOF)
		give_up("report");
	append_records(records, size);
	free(records);
	free(results);
	free(suite);
	return report.failed;
}

/* Each suite has a runner of its own, so that its results show when it ends. */
static int run_suite(Suite *suite, const struct harness_options *options)
{
	int fd = memfd_create("log of Check", MFD_CLOEXEC);
	int failed, count;
	char path[32], *log;

	if (fd < 0)
		give_up("memfd_create");
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	runner = srunner_create(suite);
	srunner_set_log(runner, path);
	srunner_run_all(runner, CK_SILENT);
	log = read_log(fd);
	count = srunner_ntests_run(runner);
	failed = report_suite(log, options);
	tests_before += count;
	free(log);
	close(fd);
	srunner_free(runner);
	return failed;
}

int harness_run_suites(Suite *const *suites, size_t count, const struct harness_options *options)
{
	int failed = 0;

	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	if (shared == MAP_FAILED)
		give_up("mmap");
	tests_before = 0;
	for (size_t i = 0; i < count; i++) {
		failed += run_suite(suites[i], options);
		fflush(stdout);
	}
	if (!options->show)
		printf("1..%d\n", tests_before);
	munmap(shared, sizeof(*shared));
	/* A program that tests nothing must not look like one that found nothing wrong. */
	return tests_before > 0 && failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

int harness_run(Suite *suite)
{
	return harness_run_suites(&suite, 1, &(struct harness_options){.show = NULL});
}
