/* SPDX-License-Identifier: MIT */
/* Every public call with good arguments, in one scene or several. */
#ifndef GMEM_TEST_CALLS_H
#define GMEM_TEST_CALLS_H

#include "scene.h"

/* What an errno of a kind of system call says that is no failure of the public call. */
struct answer {
	enum kind kind;
	int error;
};

struct call {
	const char *name;
	const char *variant; /* NULL: there is one only */
	unsigned int places; /* a bit each */
	uint64_t vm_flags;
	void (*set_up)(struct scene *scene); /* NULL: nothing more than the scene */
	int (*make)(struct scene *scene);    /* the call itself; 0 where it returns nothing */
	int result;			     /* of a call that nothing disturbs */
	uint64_t silent_kinds;		     /* system calls whose failure does not fail it */
	struct answer answers[4];	     /* likewise of some errnos */
	bool quiet;			     /* documented: neither a system call nor memory */
	bool returns_nothing;		     /* it cannot fail, nor be made twice */
	bool stays_begun;   /* documented: what was done before the failure stays done */
	bool spares_memory; /* what it would note in memory that it does not get is not noted */
};

extern const struct call calls[];
extern const size_t call_count;

#endif
