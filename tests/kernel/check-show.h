/* SPDX-License-Identifier: MIT */
/* How gmem-kernel-check shows results: a table for people, or one JSON object. */
#ifndef GMEM_TEST_CHECK_SHOW_H
#define GMEM_TEST_CHECK_SHOW_H

#include "../../tools/json.h"
#include "harness.h"

#include <stdbool.h>

/* A note that begins like this names a known fault that the kernel has. */
#define KNOWN_FAULT "known fault: "

/* Strings, each once, with how often they came. */
struct word {
	char *text;
	int times;
};

struct words {
	struct word *items;
	size_t count;
};

/* One test with all its loops. */
struct rule {
	char *tcase;
	char *test;
	int passed;
	int failed;
	int skipped;
	struct words notes;
	struct words reasons; /* of skips */
	struct words failures;
};

struct check_show {
	struct json *json; /* NULL: the table */
	struct rule rule;  /* whose results are coming in */
	char *tcase;	   /* whose heading is printed */
	int holding;
	int failing;
	int unchecked;
	struct words reasons; /* why those are unchecked */
	struct words faults;
};

void check_show_begin(struct check_show *show, const char *device);
/* harness_options.show; data is a struct check_show. */
void check_show_test(const struct harness_result *result, void *data);
void check_show_end(struct check_show *show);

/* A name as words: its underscores are blanks. */
void check_print_words(const char *name, int width);

#endif
