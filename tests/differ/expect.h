/* SPDX-License-Identifier: MIT */
/*
 * What the kernel may say to a step that the library refused, for each of the library's reasons:
 * the one list of all that may differ, and why.
 */
#ifndef GMEM_DIFFER_EXPECT_H
#define GMEM_DIFFER_EXPECT_H

#include "world.h"

/* Whether the two answers go together. */
bool expect_holds(const struct world *world, const struct step *step, const struct answer *library,
		  const struct answer *twin);

/* Whether the machine has no verdict: no memory, no descriptors, a signal. */
bool expect_no_verdict(const struct answer *library, const struct answer *twin);

/* Whether a step can be refused for a reason here; `has`: WORLD_ bits. */
bool expect_is_reachable(enum gmem_reason reason, unsigned int has);

/* Why no step can be refused for a reason by any machine, in a word or two; NULL: it can. */
const char *expect_unreachable(enum gmem_reason reason);

/*
 * A reason of gmem.h that is neither reachable nor said to be unreachable, or one where the kernel
 * may accept and the list does not say why; else NONE.
 */
enum gmem_reason expect_find_forgotten(void);

/* The name of an answer's errno, "accepted", "changed" or "unasked". */
const char *expect_word(const struct answer *answer);

#endif
