/* SPDX-License-Identifier: MIT */
/* What all examples share that no VMM would copy: messages, the command line, exit codes. */
#ifndef EXAMPLE_H
#define EXAMPLE_H

#include <gmem.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	EXIT_RIGHT = 0,
	EXIT_WRONG = 1,	    /* the run failed, or has shown something wrong */
	EXIT_USAGE = 2,	    /* the command line */
	EXIT_UNUSABLE = 77, /* this machine or kernel lacks what the example shows */
};

#define MIB	       (UINT64_C(1) << 20)
#define DEFAULT_DEVICE "/dev/kvm"

/* Each prints a message of this program's on standard error and returns EXIT_WRONG. */
__attribute__((format(printf, 1, 2))) int fail(const char *format, ...);
int fail_errno(const char *what);
int fail_gmem(const char *what);

/* For calls that fail where the machine lacks something: EXIT_UNUSABLE then, and what to do. */
int fail_machine(const char *what);

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
