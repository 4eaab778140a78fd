/* SPDX-License-Identifier: MIT */
/*
 * What all measuring programs share. Each compares ways to do the same thing, in one run: their
 * samples alternate in rounds, and the median of the rounds' ratios counts. The first way is
 * measured twice, so that every ratio has beside it that of a thing to itself: the noise.
 *
 * Such a program is never a test: it has no limits that it could exceed.
 */
#ifndef BENCH_H
#define BENCH_H

#include <gmem.h>

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define BENCH_KIB      UINT64_C(1024)
#define BENCH_MIB      (1024 * BENCH_KIB)
#define BENCH_WAYS_MAX 6

/* Exit status of a program that this machine or kernel gives nothing to measure. */
#define BENCH_SKIP 77

/*
 * Does it `times` times, and returns the nanoseconds that count: what prepares it is not among
 * them.
 */
typedef uint64_t bench_fn(void *data, unsigned int times);

struct bench_way {
	const char *name;
	bench_fn *run;
	void *data;
};

/* What one comparison is. Those of a group are rows of one table. */
struct bench_case {
	const char *group;
	const char *name;    /* one line of a plot */
	const char *against; /* the unit of `at`, such as "bytes"; NULL: nothing */
	uint64_t at;	     /* where on that line */
	struct bench_way ways[BENCH_WAYS_MAX]; /* up to the first without a name */
	unsigned int effort;		       /* so many times as long as others; 0: as long */
	size_t rounds; /* at least, of what is too large to be repeated; 0: 11 */
};

/* Reads the command line; must be called first. */
void bench_begin(int argc, char **argv, const char *name, const char *purpose);

/* The KVM device to use. */
const char *bench_device(void);

/* So many of something, or a few where only a glance is wanted (--quick). */
unsigned int bench_many(unsigned int count);

void bench_compare(const struct bench_case *bench_case);

/* Returns the exit status. */
int bench_end(void);

/* End the program: it went wrong, or there is nothing to measure here. */
__attribute__((noreturn, format(printf, 1, 2))) void bench_fail(const char *format, ...);
__attribute__((noreturn, format(printf, 1, 2))) void bench_skip(const char *format, ...);

/* Ends the program unless a call of the library, or one of the system, went well. */
static inline void bench_check_gmem(int r, const char *what)
{
	if (r < 0)
		bench_fail("%s: %s", what, gmem_error_get_message());
}

static inline void bench_check(bool good, const char *what)
{
	if (!good)
		bench_fail("%s: %s", what, strerror(errno));
}

/* Nanoseconds, from some moment on, and those that have passed, without what looking costs. */
uint64_t bench_now(void);
uint64_t bench_since(uint64_t begin);

#endif
