/* SPDX-License-Identifier: MIT */
/* gmem-kernel-check: whether this machine's kernel keeps the rules of guest_memfd. No library. */
#include "check-show.h"
#include "raw.h"
#include "suites.h"

#include <fnmatch.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	STATUS_USAGE = 2,
	STATUS_UNUSABLE = 77
};

enum form {
	TABLE,
	TAP,
	JSON,
	LIST
};

/* What the arguments say. */
struct wishes {
	enum form form;
	char **patterns;
	int pattern_count;
	bool *used; /* of each pattern: it names something */
};

#define KERNEL_MAKE(name) kernel_##name##_suite,
static Suite *(*const make_suite[])(void) = {KERNEL_SUITES(KERNEL_MAKE)};
#undef KERNEL_MAKE
#define SUITES (sizeof(make_suite) / sizeof(make_suite[0]))

/* While the suites are made. */
static const struct wishes *wishes;
static TCase *current_case;
static const char *current_name;

TCase *kernel_case(Suite *suite, const char *name)
{
	current_case = tcase_create(name);
	current_name = name;
	suite_add_tcase(suite, current_case);
	return current_case;
}

static bool matches(const char *pattern, const char *test)
{
	return fnmatch(pattern, current_name, 0) == 0 || fnmatch(pattern, test, 0) == 0;
}

TCase *kernel_wants(const char *test)
{
	bool wants = wishes->pattern_count == 0;

	for (int i = 0; i < wishes->pattern_count; i++) {
		bool match = matches(wishes->patterns[i], test);

		wishes->used[i] |= match;
		wants |= match;
	}
	if (wants && wishes->form == LIST)
		printf("%-20s %s\n", current_name, test);
	return wants ? current_case : NULL;
}

/* Whether GMEM_TEST_FIXED, names with blanks between them, has a fault's. */
static bool is_fixed(const char *name)
{
	const char *fixed = getenv("GMEM_TEST_FIXED");
	size_t length = strlen(name);

	for (const char *word = fixed; word && *word; word += strcspn(word, " ")) {
		word += strspn(word, " ");
		if (strcspn(word, " ") == length && strncmp(word, name, length) == 0)
			return true;
	}
	return false;
}

void kernel_known_fault(const char *name)
{
	harness_note(KNOWN_FAULT "%s", name);
	ck_assert_msg(!is_fixed(name), "%s, which this kernel should be without", name);
}

static void print_usage(FILE *out)
{
	fputs("usage: gmem-kernel-check [options] [PATTERN...]\n"
	      "\n"
	      "Shows whether this machine's kernel keeps the rules of guest_memfd, one line a "
	      "rule.\n"
	      "A PATTERN, as of the shell, names cases or rules; without one all are checked.\n"
	      "\n"
	      "  --device FILE  the KVM device, instead of /dev/kvm\n"
	      "  --throw-away   check also what may stop this machine; for a virtual one\n"
	      "  --json         write one JSON object\n"
	      "  --tap          write TAP\n"
	      "  --list         list the cases and rules, and check nothing\n"
	      "  --help         show this\n"
	      "\n"
	      "Exit status: 0 all that was checked holds, 1 a rule fails, 2 a wrong argument,\n"
	      "77 no usable KVM.\n",
	      out);
}

static const struct option options[] = {
	{"device", required_argument, NULL, 'd'},
	{"throw-away", no_argument, NULL, 'a'},
	{"json", no_argument, NULL, 'j'},
	{"tap", no_argument, NULL, 't'},
	{"list", no_argument, NULL, 'l'},
	{"help", no_argument, NULL, 'h'},
	{.name = NULL},
};

static void set(const char *name, const char *value, bool instead)
{
	if (setenv(name, value, instead) < 0)
		abort();
}

/* Ends the program where the arguments ask for that. */
static struct wishes read_arguments(int argc, char **argv)
{
	/* Only the test run has a group, and it reads TAP. */
	struct wishes read = {.form = getenv("GMEM_TEST_GROUP") ? TAP : TABLE};
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 'd':
			set("GMEM_TEST_KVM_DEVICE", optarg, true);
			break;
		case 'a':
			set("GMEM_TEST_THROW_AWAY", "1", true);
			break;
		case 'j':
			read.form = JSON;
			break;
		case 't':
			read.form = TAP;
			break;
		case 'l':
			read.form = LIST;
			break;
		case 'h':
			print_usage(stdout);
			exit(EXIT_SUCCESS);
		default:
			print_usage(stderr);
			exit(STATUS_USAGE);
		}
	}
	read.patterns = argv + optind;
	read.pattern_count = argc - optind;
	read.used = calloc((size_t)argc, sizeof(*read.used));
	if (!read.used)
		abort();
	return read;
}

/* Check frees suites with a runner only. */
static void free_suites(Suite *const *suites)
{
	for (size_t i = 0; i < SUITES; i++)
		srunner_free(srunner_create(suites[i]));
}

static bool find_unused(void)
{
	bool found = false;

	for (int i = 0; i < wishes->pattern_count; i++) {
		if (!wishes->used[i]) {
			fprintf(stderr, "gmem-kernel-check: no case or rule is named %s\n",
				wishes->patterns[i]);
			found = true;
		}
	}
	return found;
}

static int run(Suite *const *suites)
{
	struct json json = {.out = stdout};
	struct check_show show = {.json = wishes->form == JSON ? &json : NULL};
	struct harness_options how = {.program = "kernel-check"};
	const char *missing = raw_missing(); /* before all tests, once for all */
	int status;

	if (wishes->form == TAP)
		return harness_run_suites(suites, SUITES, &how);
	if (missing) {
		fprintf(stderr, "gmem-kernel-check: %s\n", missing);
		free_suites(suites);
		return STATUS_UNUSABLE;
	}
	how.show = check_show_test;
	how.data = &show;
	check_show_begin(&show, harness_kvm_device());
	status = harness_run_suites(suites, SUITES, &how);
	check_show_end(&show);
	return status;
}

int main(int argc, char **argv)
{
	struct wishes read = read_arguments(argc, argv);
	Suite *suites[SUITES];
	int status;

	wishes = &read;
	/* Check's own default suits no busy machine. */
	set("CK_DEFAULT_TIMEOUT", "120", false);
	for (size_t i = 0; i < SUITES; i++)
		suites[i] = make_suite[i]();
	status = find_unused() ? STATUS_USAGE : EXIT_SUCCESS;
	if (status == EXIT_SUCCESS && wishes->form != LIST)
		status = run(suites);
	else
		free_suites(suites);
	free(read.used);
	return status;
}
