/* SPDX-License-Identifier: MIT */
/* What library and twin say to a step, to a look and to a probe. */
#ifndef GMEM_DIFFER_ANSWER_H
#define GMEM_DIFFER_ANSWER_H

#include "step.h"

#include "gmem.h"

/* Beside errnos: there is no system call that says this. */
#define ANSWER_UNASKED 4096

struct answer {
	int error; /* 0 or an errno, positive */
	/* Of the library: */
	enum gmem_reason reason;
	unsigned int ioctls; /* made by the call */
	bool in_the_way;     /* KVM refused what the library adopted: it was not told of another */
	bool broken;	     /* it left something behind, or answered against its rules */
	uint8_t same[STEP_MANY_MAX]; /* the place that holds the same slot already */
	/* Of the twin: */
	bool changed; /* a slot that was there has moved, or has other flags */
	/* Of both, where they accept: */
	uint64_t value; /* an id, a length or a sum of the bytes */
};

/* Whether one of so many slots was there already: the library gives it once more. */
static inline bool answer_is_same(const struct answer *answer, unsigned int count)
{
	for (unsigned int i = 0; i < count && !answer->error; i++)
		if (answer->same[i] != STEP_NOWHERE)
			return true;
	return false;
}

/* How memory is at one address. */
struct answer_look {
	int error;
	uint64_t size; /* to the end of the slot or of what is alike */
	uint64_t word; /* what is there; 0 where it is not to be read */
};

#endif
