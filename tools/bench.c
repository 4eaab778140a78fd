/* SPDX-License-Identifier: MIT */
/* The verb `bench`: runs the programs that measure, one after the other. */
#include "bench.h"

#include "tool.h"

#include <dirent.h>
#include <errno.h>
#include <getopt.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define PREFIX "bench-"

struct options {
	bool json, list, quick, compare;
	char *device;
	const char *fail_above;
	char **names; /* up to NULL; none: all */
};

/* ---- The programs ------------------------------------------------------------------------- */

static const char *folder(void)
{
	const char *path = getenv("GMEM_BENCH_PATH");

	return path && *path ? path : GMEM_BENCH_FOLDER;
}

static char *path_of(const char *name)
{
	char *path;

	return asprintf(&path, "%s/" PREFIX "%s", folder(), name) < 0 ? NULL : path;
}

/* A build tree has other files beside them. */
static int is_program(const struct dirent *entry)
{
	bool found = false;
	struct stat status;
	char *path;

	if (strncmp(entry->d_name, PREFIX, strlen(PREFIX)) != 0)
		return false;
	path = path_of(entry->d_name + strlen(PREFIX));
	if (path)
		found = stat(path, &status) == 0 && S_ISREG(status.st_mode) &&
			access(path, X_OK) == 0;
	free(path);
	return found;
}

/* Their names, in order, up to NULL; or NULL. */
static char **find_programs(void)
{
	struct dirent **entries;
	int count = scandir(folder(), &entries, is_program, alphasort);
	char **names;

	if (count < 0) {
		fprintf(stderr,
			"gmem bench: no programs: %s: %s. GMEM_BENCH_PATH names another folder\n",
			folder(), strerror(errno));
		return NULL;
	}
	names = calloc((size_t)count + 1, sizeof(*names));
	for (int i = 0; i < count; i++) {
		if (names)
			names[i] = strdup(entries[i]->d_name + strlen(PREFIX));
		free(entries[i]);
	}
	free(entries);
	if (count == 0)
		fprintf(stderr, "gmem bench: no programs in %s\n", folder());
	return names;
}

static bool is_one_of(const char *name, char **names)
{
	while (*names && strcmp(*names, name) != 0)
		names++;
	return *names;
}

/* ---- Running ------------------------------------------------------------------------------ */

/* Its exit status; -1 where it could not be run, or was killed. `out`: where it writes. */
static int run_program(const struct options *options, char *path, int out)
{
	static char json[] = "--json", quick[] = "--quick", device[] = "--device";
	char *arguments[6] = {path};
	posix_spawn_file_actions_t actions;
	size_t count = 1;
	int status, error;
	pid_t pid;

	if (options->json)
		arguments[count++] = json;
	if (options->quick)
		arguments[count++] = quick;
	if (options->device) {
		arguments[count++] = device;
		arguments[count++] = options->device;
	}
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
	error = posix_spawn(&pid, path, &actions, NULL, arguments, environ);
	posix_spawn_file_actions_destroy(&actions);
	if (error) {
		fprintf(stderr, "gmem bench: %s: %s\n", path, strerror(error));
		return -1;
	}
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void copy_report(FILE *report, bool first)
{
	char buffer[4096];
	size_t length;

	rewind(report);
	fputs(first ? "" : ",\n", stdout);
	while ((length = fread(buffer, 1, sizeof(buffer), report)) > 0)
		fwrite(buffer, 1, length, stdout);
}

/* A report is only shown once it is whole, so that the list of them is always sound. */
static int run_for_report(const struct options *options, char *path, bool first)
{
	FILE *report = tmpfile();
	int status;

	if (!report) {
		fprintf(stderr, "gmem bench: no temporary file: %s\n", strerror(errno));
		return -1;
	}
	status = run_program(options, path, fileno(report));
	if (status == TOOL_OK)
		copy_report(report, first);
	fclose(report);
	return status;
}

static int run_named(const struct options *options, const char *name, bool first)
{
	char *path = path_of(name);
	int status;

	if (!path)
		return -1;
	fflush(stdout);
	status = options->json ? run_for_report(options, path, first)
			       : run_program(options, path, STDOUT_FILENO);
	if (status != TOOL_OK && status != TOOL_UNUSABLE)
		fprintf(stderr, "gmem bench: %s did not end well\n", path);
	free(path);
	return status;
}

static int run_all(const struct options *options, char **names)
{
	unsigned int measured = 0, failed = 0;

	if (options->json)
		puts("[");
	for (char **name = names; *name; name++) {
		int status = run_named(options, *name, measured == 0);

		measured += status == TOOL_OK;
		failed += status != TOOL_OK && status != TOOL_UNUSABLE;
	}
	if (options->json)
		puts("]");
	if (failed)
		return TOOL_FAILED;
	return measured ? TOOL_OK : TOOL_UNUSABLE;
}

/* ---- The verb ----------------------------------------------------------------------------- */

static void print_help(void)
{
	fputs("usage: gmem bench [--json] [--quick] [--device PATH] [NAME...]\n"
	      "       gmem bench --list\n"
	      "       gmem bench --compare OLD NEW [--fail-above PERCENT]\n"
	      "\n"
	      "Measures the library against what a VMM does without it; all NAMEs take minutes.\n"
	      "\n"
	      "  --json                print a report for programs\n"
	      "  --quick               see whether it works; the numbers mean nothing\n"
	      "  --device PATH         the KVM device\n"
	      "  --list                the NAMEs\n"
	      "  --compare OLD NEW     two reports: what has changed by more than the noise\n"
	      "  --fail-above PERCENT  exit with 1 if something has become slower by more\n"
	      "  --help                this text\n",
	      stdout);
}

/* TOOL_OK, or an exit status; -1: the help was asked for. */
static int parse_options(int argc, char **argv, struct options *options)
{
	static const struct option longs[] = {
		{"json", no_argument, NULL, 'j'},
		{"quick", no_argument, NULL, 'q'},
		{"device", required_argument, NULL, 'd'},
		{"list", no_argument, NULL, 'l'},
		{"compare", no_argument, NULL, 'c'},
		{"fail-above", required_argument, NULL, 'f'},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		if (c == 'h')
			return -1;
		if (c == '?')
			return TOOL_USAGE;
		options->json |= c == 'j';
		options->quick |= c == 'q';
		options->list |= c == 'l';
		options->compare |= c == 'c';
		if (c == 'd')
			options->device = optarg;
		if (c == 'f')
			options->fail_above = optarg;
	}
	options->names = argv + optind;
	return TOOL_OK;
}

static int compare(int argc, const struct options *options)
{
	double percent = -1;
	char *end = NULL;

	if (argc - optind != 2) {
		fputs("gmem bench: --compare takes two files\n", stderr);
		return TOOL_USAGE;
	}
	if (options->fail_above)
		percent = strtod(options->fail_above, &end);
	if (options->fail_above && (end == options->fail_above || *end || percent < 0)) {
		fprintf(stderr, "gmem bench: no percentage: %s\n", options->fail_above);
		return TOOL_USAGE;
	}
#ifdef HAVE_JSON_C
	return bench_compare_files(options->names[0], options->names[1], percent);
#else
	fputs("gmem bench: built without json-c, which reads the files\n", stderr);
	return TOOL_UNUSABLE;
#endif
}

static int run(const struct options *options, char **programs)
{
	for (char **name = options->names; *name; name++)
		if (!is_one_of(*name, programs)) {
			fprintf(stderr, "gmem bench: no such program: %s\n", *name);
			return TOOL_USAGE;
		}
	for (char **name = programs; options->list && *name; name++)
		puts(*name);
	if (options->list)
		return TOOL_OK;
	return run_all(options, *options->names ? options->names : programs);
}

int tool_bench(int argc, char **argv)
{
	struct options options = {0};
	char **programs;
	int ret = parse_options(argc, argv, &options);

	if (ret < 0)
		print_help();
	if (ret != TOOL_OK)
		return ret < 0 ? TOOL_OK : ret;
	if (options.compare)
		return compare(argc, &options);
	programs = find_programs();
	if (!programs)
		return TOOL_FAILED;
	ret = run(&options, programs);
	for (char **name = programs; *name; name++)
		free(*name);
	free(programs);
	return ret;
}
