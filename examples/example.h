/* SPDX-License-Identifier: MIT */
/* What all examples share that no VMM would copy: messages, the command line, exit codes. */
#ifndef EXAMPLE_H
#define EXAMPLE_H

#include <gmem.h>

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
	EXIT_RIGHT = 0,
	EXIT_WRONG = 1,	    /* the run failed, or has shown something wrong */
	EXIT_USAGE = 2,	    /* the command line */
	EXIT_UNUSABLE = 77, /* this machine or kernel lacks what the example shows */
};

#define MIB	       (UINT64_C(1) << 20)
#define DEFAULT_DEVICE "/dev/kvm"

/* A message of this program's on standard error. */
__attribute__((format(printf, 1, 2))) void print_failure(const char *format, ...);

/* The library's message, and what to do. True if there is: the machine lacks something. */
bool print_remedy(const char *what);

/* Each prints a message and gives an exit code, which is never EXIT_RIGHT. */
#define fail(...) (print_failure(__VA_ARGS__), EXIT_WRONG)

static inline int fail_errno(const char *what)
{
	return fail("%s: %s", what, strerror(errno));
}

static inline int fail_gmem(const char *what)
{
	return fail("%s: %s", what, gmem_error_get_message());
}

static inline int fail_machine(const char *what)
{
	return print_remedy(what) ? EXIT_UNUSABLE : EXIT_WRONG;
}

/* Seconds, from some moment on. */
double now(void);

double to_mib(uint64_t bytes);

/* The host's page, in bytes. */
uint64_t page_size(void);

/* Write the page tables of cpu.h and a guest's code. Returns an exit code. */
int load_guest(struct gmem_vm *vm, const unsigned char *begin, const unsigned char *end);

/* A number, decimal or with 0x, from min to max. */
bool parse_number(const char *text, uint64_t min, uint64_t max, uint64_t *value);

/* An example's command line: --device and --help, and what is set here. */
struct usage {
	const char *purpose; /* some lines of text */
	const char *lacks;   /* what is missing where it exits with 77 */
	const char *size_of; /* what --size is the size of */
	uint64_t min_mib;    /* 0: there is no --size */
	uint64_t max_mib;
	const char *extra;	 /* one more option, as "--name"; NULL: none */
	const char *extra_value; /* what it takes; NULL: nothing */
	const char *extra_help;
};

struct options {
	const char *device;
	uint64_t size;	   /* bytes; what it is before the call is the default */
	const char *extra; /* its value, or its name where it takes none; NULL: not given */
};

/* -1: go on; else the exit code. */
int parse_options(int argc, char **argv, const struct usage *usage, struct options *options);

#endif /* EXAMPLE_H */
