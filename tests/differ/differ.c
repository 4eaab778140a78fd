/* SPDX-License-Identifier: MIT */
/*
 * The library beside the kernel: a VMM's calls, drawn at random, to a VM of the library's and as
 * plain system calls to a twin of it in another process. Both must say the same, but for what
 * expect.c lists.
 *
 * Environment, beside the harness's:
 *   GMEM_TEST_STEPS    steps of a run, instead of --steps
 */
#include "../kernel/raw.h"
#include "expect.h"
#include "run.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	STATUS_USAGE = 2,
	STATUS_UNUSABLE = 77
};

static struct run_options wishes = {
	.seed = 1, .steps = 100000, .show_from = UINT64_MAX, .prefix = ""};

/* ---- As a test ---- */

static void run_type(unsigned int type)
{
	char problem[256];

	NEED_TYPE(type);
	wishes.type = type;
	ck_assert_msg(run(&wishes, problem, sizeof(problem)), "%s", problem);
	fflush(stdout);
}

START_TEST(library_and_kernel_agree_on_plain_vms)
{
	run_type(RAW_VM_DEFAULT);
}
END_TEST

START_TEST(library_and_kernel_agree_on_vms_with_private_memory)
{
	run_type(RAW_VM_SW_PROTECTED);
}
END_TEST

START_TEST(every_reason_and_difference_is_listed)
{
	enum gmem_reason forgotten = expect_find_forgotten();

	ck_assert_msg(forgotten == GMEM_REASON_NONE, "%s lacks a row or a word in expect.c",
		      gmem_reason_to_string(forgotten));
}
END_TEST

static int run_suite(void)
{
	Suite *suite = suite_create("differ");
	TCase *runs = tcase_create("differ");

	tcase_set_timeout(runs, 600);
	tcase_add_test(runs, every_reason_and_difference_is_listed);
	tcase_add_test(runs, library_and_kernel_agree_on_plain_vms);
	tcase_add_test(runs, library_and_kernel_agree_on_vms_with_private_memory);
	suite_add_tcase(suite, runs);
	wishes.prefix = "# ";
	return harness_run_suites(&suite, 1, &(struct harness_options){.program = "differ-kernel"});
}

/* ---- By hand ---- */

/* Not with functions that assert, which need a test around them. */
static const char *find_missing(void)
{
	const char *missing = raw_missing();
	int vm;

	if (missing)
		return missing;
	vm = raw_vm_of_type(wishes.type);
	if (vm < 0)
		return "this kernel does not offer VMs of this type";
	close(vm);
	return NULL;
}

static int run_alone(void)
{
	const char *missing = find_missing();
	char problem[256];

	if (missing) {
		fprintf(stderr, "differ: %s\n", missing);
		return STATUS_UNUSABLE;
	}
	wishes.progress = isatty(STDERR_FILENO);
	if (run(&wishes, problem, sizeof(problem)))
		return EXIT_SUCCESS;
	printf("FAILED: %s\n", problem);
	return EXIT_FAILURE;
}

static void print_usage(FILE *out)
{
	fputs("usage: differ [options]\n"
	      "\n"
	      "Asks library and kernel the same, in random sequences that a seed repeats.\n"
	      "\n"
	      "  --seed N       where the sequence begins; 1\n"
	      "  --steps N      how long it is; 100000\n"
	      "  --vm-type N    the type of the VMs; 0\n"
	      "  --show N       print each step from this one on\n"
	      "  --help         show this\n"
	      "\n"
	      "Exit status: 0 they agree, 1 they do not or too little was reached, 2 a wrong\n"
	      "argument, 77 no usable KVM.\n",
	      out);
}

static const struct option options[] = {
	{"seed", required_argument, NULL, 's'},	   {"steps", required_argument, NULL, 'n'},
	{"vm-type", required_argument, NULL, 't'}, {"show", required_argument, NULL, 'w'},
	{"help", no_argument, NULL, 'h'},	   {.name = NULL},
};

static uint64_t read_number(const char *text)
{
	char *end;
	uint64_t number = strtoull(text, &end, 0);

	if (!*text || *end) {
		fprintf(stderr, "differ: %s is no number\n", text);
		exit(STATUS_USAGE);
	}
	return number;
}

static void read_arguments(int argc, char **argv)
{
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 's':
			wishes.seed = read_number(optarg);
			break;
		case 'n':
			wishes.steps = read_number(optarg);
			break;
		case 't':
			wishes.type = (unsigned int)read_number(optarg);
			break;
		case 'w':
			wishes.show_from = read_number(optarg);
			break;
		case 'h':
			print_usage(stdout);
			exit(EXIT_SUCCESS);
		default:
			print_usage(stderr);
			exit(STATUS_USAGE);
		}
	}
}

int main(int argc, char **argv)
{
	const char *steps = getenv("GMEM_TEST_STEPS");
	const char *group = getenv("GMEM_TEST_GROUP");

	wishes.out = stdout;
	setvbuf(stdout, NULL, _IOLBF, 0);
	read_arguments(argc, argv);
	if (steps && *steps)
		wishes.steps = read_number(steps);
	/* Only the test run has a group, and it reads TAP. */
	return group && *group ? run_suite() : run_alone();
}
