/* SPDX-License-Identifier: MIT */
/* How often each operation met each reason and each answer of the kernel. */
#ifndef GMEM_DIFFER_TALLY_H
#define GMEM_DIFFER_TALLY_H

#include "answer.h"

struct tally;

struct tally *tally_make(void);
void tally_free(struct tally *tally);
void tally_add(struct tally *tally, const struct step *step, const struct answer *library,
	       const struct answer *twin);
uint64_t tally_of_reason(const struct tally *tally, enum gmem_reason reason);
/* Each line begins with `prefix`. */
void tally_print(const struct tally *tally, FILE *out, const char *prefix);

#endif
