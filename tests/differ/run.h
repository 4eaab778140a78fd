/* SPDX-License-Identifier: MIT */
/* A whole run: library and twin, step by step. */
#ifndef GMEM_DIFFER_RUN_H
#define GMEM_DIFFER_RUN_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct run_options {
	uint64_t seed;
	uint64_t steps;
	unsigned int type;  /* of the VMs */
	uint64_t show_from; /* print each step from this one on */
	bool progress;	    /* a line that moves, on standard error */
	FILE *out;
	const char *prefix; /* of each line there */
};

/* Makes the twin, so that nothing may have KVM open yet. Whether all agreed, and enough was seen;
 * if not, `problem` says in one line what. */
bool run(const struct run_options *options, char *problem, size_t size);

#endif
