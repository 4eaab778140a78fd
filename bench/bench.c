/* SPDX-License-Identifier: MIT */
#include "bench.h"

#include "../tools/json.h"

#include <gmem.h>

#include <assert.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#define TIMES_MAX  100000000U
#define ROUNDS_MIN 11
#define ROUNDS_MAX 301

/* How much is measured. */
struct extent {
	/*
	 * A sample is made of so many repetitions that it takes this long, with what prepares it:
	 * less than a thread's time slice, so that other work does not get into most of them. Of
	 * what is small enough to be repeated, the last round is reached.
	 */
	uint64_t sample_ns;
	/* Of what is not, rounds go on until this and its least number are reached. */
	uint64_t case_ns;
	size_t rounds_max;
	unsigned int divisor; /* of what bench_many() is asked for */
};

static const struct extent full = {1000000, UINT64_C(1500000000), ROUNDS_MAX, 1};
static const struct extent quick = {100000, 0, 3, 64};

/* Nanoseconds are told in thousandths, ratios in millionths. */
#define PRECISION 1000
#define MILLION	  1000000

static const char *program;
static const char *device = "/dev/kvm";
static const struct extent *extent = &full;
static bool as_json;
static struct json json;
static uint64_t clock_cost;

/* ---- Ends --------------------------------------------------------------------------------- */

static void say(const char *kind, const char *format, va_list arguments)
{
	fflush(stdout);
	fprintf(stderr, "%s: %s: ", program_invocation_short_name, kind);
	vfprintf(stderr, format, arguments);
	fputc('\n', stderr);
}

void bench_fail(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	say("failed", format, arguments);
	va_end(arguments);
	exit(1);
}

void bench_skip(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	say("skipped", format, arguments);
	va_end(arguments);
	exit(BENCH_SKIP);
}

/* ---- Time --------------------------------------------------------------------------------- */

uint64_t bench_now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * UINT64_C(1000000000) + (uint64_t)time.tv_nsec;
}

uint64_t bench_since(uint64_t begin)
{
	uint64_t passed = bench_now() - begin;

	return passed > clock_cost ? passed - clock_cost : 0;
}

static int compare_numbers(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static uint64_t median(uint64_t *values, size_t count)
{
	qsort(values, count, sizeof(*values), compare_numbers);
	return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

static void measure_clock(void)
{
	uint64_t passed[ROUNDS_MAX];

	for (size_t i = 0; i < ROUNDS_MAX; i++) {
		uint64_t begin = bench_now();

		passed[i] = bench_now() - begin;
	}
	clock_cost = median(passed, ROUNDS_MAX);
}

/* ---- One comparison ----------------------------------------------------------------------- */

/* The first way once more is one more column. */
struct comparison {
	const struct bench_case *bench_case;
	size_t columns;
	unsigned int times[BENCH_WAYS_MAX + 1];
	size_t rounds;
	uint64_t samples[BENCH_WAYS_MAX + 1][ROUNDS_MAX];
	uint64_t medians[BENCH_WAYS_MAX + 1]; /* of one time, in nanoseconds / PRECISION */
	uint64_t ratios[BENCH_WAYS_MAX + 1];  /* medians, in MILLION */
};

static const struct bench_way *way_of(const struct comparison *c, size_t column)
{
	return &c->bench_case->ways[column == c->columns - 1 ? 0 : column];
}

static uint64_t elapsed(const struct bench_way *way, unsigned int times)
{
	uint64_t begin = bench_now();

	way->run(way->data, times);
	return bench_now() - begin;
}

/* Not only once, by other work that came between; but what is long by far needs no proof. */
static bool fills_sample(const struct bench_way *way, unsigned int times)
{
	for (unsigned int tries = 0; tries < 3; tries++) {
		uint64_t ns = elapsed(way, times);

		if (ns < extent->sample_ns)
			return false;
		if (ns / 100 > extent->sample_ns)
			return true;
	}
	return true;
}

/* How often it takes to fill a sample. Warms up, too. */
static unsigned int calibrate(const struct bench_way *way)
{
	unsigned int times = 1;

	while (!fills_sample(way, times) && times < TIMES_MAX)
		times *= 2;
	return times;
}

static void sample(struct comparison *c, size_t column)
{
	const struct bench_way *way = way_of(c, column);
	uint64_t ns = way->run(way->data, c->times[column]);

	c->samples[column][c->rounds] = ns * PRECISION / c->times[column];
}

static bool is_small(const struct comparison *c)
{
	for (size_t i = 0; i < c->columns; i++)
		if (c->times[i] == 1)
			return false;
	return true;
}

/* There and back again, so that no way always comes first or after the same other. */
static void take_samples(struct comparison *c)
{
	const struct bench_case *bench_case = c->bench_case;
	uint64_t limit = extent->case_ns * (bench_case->effort ? bench_case->effort : 1);
	size_t least = bench_case->rounds ? bench_case->rounds : ROUNDS_MIN;
	uint64_t begin = bench_now();

	if (is_small(c) || least > extent->rounds_max)
		least = extent->rounds_max;
	while (c->rounds < extent->rounds_max &&
	       (c->rounds < least || bench_now() - begin < limit)) {
		for (size_t i = 0; i < c->columns; i++)
			sample(c, c->rounds % 2 ? c->columns - 1 - i : i);
		c->rounds++;
	}
}

/* Ratios are of the same round: what slows a machine for some time slows both sides of them. */
static void evaluate(struct comparison *c)
{
	uint64_t values[ROUNDS_MAX];

	for (size_t i = 0; i < c->columns; i++) {
		for (size_t round = 0; round < c->rounds; round++)
			values[round] = c->samples[i][round] * MILLION /
					(c->samples[0][round] ? c->samples[0][round] : 1);
		c->ratios[i] = median(values, c->rounds);
	}
	for (size_t i = 0; i < c->columns; i++) {
		memcpy(values, c->samples[i], sizeof(values));
		c->medians[i] = median(values, c->rounds);
	}
}

static void show_time(uint64_t value)
{
	static const char *const units[] = {"ns", "us", "ms", "s"};
	double time = (double)value / PRECISION;
	size_t unit = 0;

	while (time >= 1000 && unit < 3) {
		time /= 1000;
		unit++;
	}
	printf(" %.*f %s", time < 10 ? 2 : time < 100 ? 1 : 0, time, units[unit]);
}

static void show(const struct comparison *c)
{
	const struct bench_case *bench_case = c->bench_case;

	printf("%s: %s", bench_case->group, bench_case->name);
	if (bench_case->against)
		printf(", %" PRIu64 " %s", bench_case->at, bench_case->against);
	printf(": %s", way_of(c, 0)->name);
	show_time(c->medians[0]);
	for (size_t i = 1; i + 1 < c->columns; i++)
		printf(", %s x %.3f", way_of(c, i)->name, (double)c->ratios[i] / MILLION);
	printf(", again x %.3f\n", (double)c->ratios[c->columns - 1] / MILLION);
	fflush(stdout);
}

static void write_case(const struct comparison *c)
{
	const struct bench_case *bench_case = c->bench_case;

	json_open(&json, NULL, '{');
	json_string(&json, "group", bench_case->group);
	json_string(&json, "name", bench_case->name);
	json_string(&json, "against", bench_case->against);
	json_uint(&json, "at", bench_case->at);
	json_uint(&json, "rounds", c->rounds);
	json_open(&json, "ways", '[');
	for (size_t i = 0; i + 1 < c->columns; i++) {
		json_open(&json, NULL, '{');
		json_string(&json, "name", way_of(c, i)->name);
		json_uint(&json, "picoseconds", c->medians[i]);
		json_uint(&json, "ratio_millionths", c->ratios[i]);
		json_close(&json, '}');
	}
	json_close(&json, ']');
	json_uint(&json, "again_millionths", c->ratios[c->columns - 1]);
	json_close(&json, '}');
}

void bench_compare(const struct bench_case *bench_case)
{
	struct comparison c = {.bench_case = bench_case};

	while (c.columns < BENCH_WAYS_MAX && bench_case->ways[c.columns].name)
		c.columns++;
	assert(c.columns > 0);
	for (size_t i = 0; i < c.columns; i++)
		c.times[i] = calibrate(&bench_case->ways[i]);
	c.times[c.columns] = c.times[0];
	c.columns++;
	take_samples(&c);
	evaluate(&c);
	if (as_json)
		write_case(&c);
	else
		show(&c);
}

/* ---- The program -------------------------------------------------------------------------- */

static void print_help(const char *purpose)
{
	printf("usage: %s [--json] [--quick] [--device PATH]\n\n%s\n\n"
	       "  --json         print a report for programs\n"
	       "  --quick        see whether it works; the numbers mean nothing\n"
	       "  --device PATH  the KVM device (default %s)\n"
	       "  --help         this text\n\n"
	       "Exit status: 0 measured, 1 a failure, 2 wrong usage, 77 nothing to measure here.\n",
	       program_invocation_short_name, purpose, device);
}

static void parse_options(int argc, char **argv, const char *purpose)
{
	static const struct option longs[] = {
		{"json", no_argument, NULL, 'j'},
		{"quick", no_argument, NULL, 'q'},
		{"device", required_argument, NULL, 'd'},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		if (c == 'h') {
			print_help(purpose);
			exit(0);
		}
		if (c == '?')
			exit(2);
		as_json |= c == 'j';
		if (c == 'q')
			extent = &quick;
		if (c == 'd')
			device = optarg;
	}
	if (optind < argc) {
		fprintf(stderr, "%s: unknown argument: %s\n", argv[0], argv[optind]);
		exit(2);
	}
}

/* The kernel's name for what the time is taken from; where a processor is emulated, it matters. */
static void read_clock(char *name, int size)
{
	FILE *file = fopen("/sys/devices/system/clocksource/clocksource0/current_clocksource", "r");

	if (!file || !fgets(name, size, file))
		snprintf(name, (size_t)size, "unknown");
	name[strcspn(name, "\n")] = '\0';
	if (file)
		fclose(file);
}

static void write_machine(void)
{
	char date[sizeof("2000-01-01")], clock_name[32];
	struct utsname names;
	time_t now = time(NULL);
	struct tm day;

	uname(&names);
	strftime(date, sizeof(date), "%Y-%m-%d", gmtime_r(&now, &day));
	read_clock(clock_name, sizeof(clock_name));
	json_string(&json, "version", gmem_get_version());
	json_string(&json, "date", date);
	json_string(&json, "release", names.release);
	json_string(&json, "architecture", names.machine);
	json_int(&json, "cpus", sysconf(_SC_NPROCESSORS_ONLN));
	json_string(&json, "clock", clock_name);
	json_uint(&json, "clock_nanoseconds", clock_cost);
}

void bench_begin(int argc, char **argv, const char *name, const char *purpose)
{
	program = name;
	parse_options(argc, argv, purpose);
	measure_clock();
	if (!as_json)
		return;
	json = (struct json){.out = stdout};
	json_open(&json, NULL, '{');
	json_string(&json, "bench", program);
	write_machine();
	json_open(&json, "cases", '[');
}

const char *bench_device(void)
{
	return device;
}

unsigned int bench_many(unsigned int count)
{
	return count > extent->divisor ? count / extent->divisor : 1;
}

int bench_end(void)
{
	if (as_json) {
		json_close(&json, ']');
		json_close(&json, '}');
	}
	return fflush(stdout) == 0 && !ferror(stdout) ? 0 : 1;
}
