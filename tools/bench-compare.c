/* SPDX-License-Identifier: MIT */
/*
 * Two reports of the programs that measure, side by side. Times of different runs tell nothing:
 * ratios are compared, each of them of one run.
 */
#include "bench.h"
#include "tool.h"

#include <json_object.h>
#include <json_util.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define MILLION 1e6

/* ---- Reading ------------------------------------------------------------------------------ */

/* A file holds a list of reports, or one: a list in any case, or NULL. */
static struct json_object *read_reports(const char *path)
{
	struct json_object *file = json_object_from_file(path);
	const char *problem = json_util_get_last_err();
	struct json_object *list;

	if (!file) {
		fprintf(stderr, "gmem bench: %s: %s", path, problem ? problem : "no report\n");
		return NULL;
	}
	if (json_object_is_type(file, json_type_array))
		return file;
	list = json_object_new_array();
	json_object_array_add(list, file);
	return list;
}

/* Of what is no list: 0. */
static size_t length_of(struct json_object *list)
{
	return json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;
}

static const char *string_of(struct json_object *object, const char *key)
{
	struct json_object *member = json_object_object_get(object, key);

	return json_object_is_type(member, json_type_string) ? json_object_get_string(member) : "";
}

static double number_of(struct json_object *object, const char *key)
{
	return json_object_get_double(json_object_object_get(object, key));
}

static struct json_object *list_of(struct json_object *object, const char *key)
{
	return json_object_object_get(object, key);
}

/* ---- Comparing ---------------------------------------------------------------------------- */

static bool is_same_case(struct json_object *a, struct json_object *b)
{
	return strcmp(string_of(a, "group"), string_of(b, "group")) == 0 &&
	       strcmp(string_of(a, "name"), string_of(b, "name")) == 0 &&
	       strcmp(string_of(a, "against"), string_of(b, "against")) == 0 &&
	       number_of(a, "at") == number_of(b, "at");
}

static struct json_object *find_case(struct json_object *reports, const char *bench,
				     struct json_object *wanted)
{
	for (size_t i = 0; i < length_of(reports); i++) {
		struct json_object *report = json_object_array_get_idx(reports, i);
		struct json_object *cases = list_of(report, "cases");

		if (strcmp(string_of(report, "bench"), bench) != 0)
			continue;
		for (size_t j = 0; j < length_of(cases); j++)
			if (is_same_case(json_object_array_get_idx(cases, j), wanted))
				return json_object_array_get_idx(cases, j);
	}
	return NULL;
}

static struct json_object *find_way(struct json_object *one, const char *name)
{
	struct json_object *ways = list_of(one, "ways");

	for (size_t i = 0; i < length_of(ways); i++)
		if (strcmp(string_of(json_object_array_get_idx(ways, i), "name"), name) == 0)
			return json_object_array_get_idx(ways, i);
	return NULL;
}

/* By how much a case's first way differs from itself. */
static double noise_of(struct json_object *one)
{
	return fabs(number_of(one, "again_millionths") / MILLION - 1);
}

static void print_row(struct json_object *one, const char *way, const char *rest)
{
	char at[64] = "";

	if (*string_of(one, "against"))
		snprintf(at, sizeof(at), ", %.0f %s", number_of(one, "at"),
			 string_of(one, "against"));
	printf("%s: %s%s: %s: %s\n", string_of(one, "group"), string_of(one, "name"), at, way,
	       rest);
}

/* Whether a way is slower than before by more than `percent` and the noise. */
static bool compare_way(struct json_object *old_case, struct json_object *new_case,
			struct json_object *new_way, double percent)
{
	const char *name = string_of(new_way, "name");
	double noise = noise_of(old_case) + noise_of(new_case);
	double old_ratio = number_of(find_way(old_case, name), "ratio_millionths") / MILLION;
	double new_ratio = number_of(new_way, "ratio_millionths") / MILLION;
	double change;
	char rest[128];

	if (old_ratio <= 0) {
		print_row(new_case, name, "new");
		return false;
	}
	change = new_ratio / old_ratio - 1;
	snprintf(rest, sizeof(rest), "%.3f, was %.3f: %+.1f%%, noise %.1f%%%s", new_ratio,
		 old_ratio, 100 * change, 100 * noise,
		 fabs(change) <= noise ? ""
		 : change > 0	       ? ", slower"
				       : ", faster");
	print_row(new_case, name, rest);
	return percent >= 0 && change > percent / 100 + noise;
}

static unsigned int compare_case(struct json_object *old_case, struct json_object *new_case,
				 double percent)
{
	struct json_object *ways = list_of(new_case, "ways");
	unsigned int slower = 0;

	if (!old_case)
		print_row(new_case, "all ways", "new");
	/* The first way is what the others are compared with. */
	for (size_t i = 1; old_case && i < length_of(ways); i++)
		slower += compare_way(old_case, new_case, json_object_array_get_idx(ways, i),
				      percent);
	return slower;
}

static unsigned int compare_reports(struct json_object *old_reports,
				    struct json_object *new_reports, double percent)
{
	unsigned int slower = 0;

	for (size_t i = 0; i < length_of(new_reports); i++) {
		struct json_object *report = json_object_array_get_idx(new_reports, i);
		struct json_object *cases = list_of(report, "cases");
		const char *bench = string_of(report, "bench");

		for (size_t j = 0; j < length_of(cases); j++) {
			struct json_object *one = json_object_array_get_idx(cases, j);

			slower += compare_case(find_case(old_reports, bench, one), one, percent);
		}
	}
	return slower;
}

static bool has_cases(struct json_object *reports, const char *path)
{
	for (size_t i = 0; i < length_of(reports); i++)
		if (length_of(list_of(json_object_array_get_idx(reports, i), "cases")) > 0)
			return true;
	fprintf(stderr, "gmem bench: %s is no report of what was measured\n", path);
	return false;
}

int bench_compare_files(const char *old_path, const char *new_path, double percent)
{
	struct json_object *old_reports = read_reports(old_path);
	struct json_object *new_reports = read_reports(new_path);
	int ret = TOOL_FAILED;

	if (old_reports && new_reports && has_cases(old_reports, old_path) &&
	    has_cases(new_reports, new_path))
		ret = compare_reports(old_reports, new_reports, percent) ? TOOL_FAILED : TOOL_OK;
	json_object_put(old_reports);
	json_object_put(new_reports);
	return ret;
}
