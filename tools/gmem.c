/* SPDX-License-Identifier: MIT */
/* The tool `gmem`: finds the verb and hands over. */
#include "tool.h"

#include <gmem.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

struct verb {
	const char *name;
	char *full_name; /* what getopt(3) puts in front of its messages */
	int (*run)(int argc, char **argv);
	const char *summary;
};

static char bench_name[] = "gmem bench";
static char probe_name[] = "gmem probe";

static const struct verb verbs[] = {
	{"bench", bench_name, tool_bench, "measure the library, or compare two results"},
	{"probe", probe_name, tool_probe, "what this machine's guest_memfd can do"},
};

#define VERB_COUNT (sizeof(verbs) / sizeof(verbs[0]))

static void print_usage(FILE *out)
{
	fputs("usage: gmem VERB [options]\n"
	      "       gmem --help | --version\n"
	      "\n"
	      "verbs:\n",
	      out);
	for (size_t i = 0; i < VERB_COUNT; i++)
		fprintf(out, "  %-10s %s\n", verbs[i].name, verbs[i].summary);
	fputs("\n`gmem VERB --help` tells more of a verb.\n", out);
}

static int run(int argc, char **argv)
{
	if (argc < 2) {
		print_usage(stderr);
		return TOOL_USAGE;
	}
	if (strcmp(argv[1], "--help") == 0) {
		print_usage(stdout);
		return TOOL_OK;
	}
	if (strcmp(argv[1], "--version") == 0) {
		printf("gmem %s\n", gmem_get_version());
		return TOOL_OK;
	}
	for (size_t i = 0; i < VERB_COUNT; i++) {
		if (strcmp(argv[1], verbs[i].name) == 0) {
			argv[1] = verbs[i].full_name;
			return verbs[i].run(argc - 1, argv + 1);
		}
	}
	fprintf(stderr, "gmem: no such verb: %s\n", argv[1]);
	print_usage(stderr);
	return TOOL_USAGE;
}

int main(int argc, char **argv)
{
	int ret = run(argc, argv);

	/* A report that did not reach its reader is a failure, on a full disk for one. */
	if (fflush(stdout) != 0 || ferror(stdout)) {
		fprintf(stderr, "gmem: cannot write: %s\n", strerror(errno));
		return TOOL_FAILED;
	}
	return ret;
}
