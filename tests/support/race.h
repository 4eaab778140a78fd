/* SPDX-License-Identifier: MIT */
/*
 * Threads that read and write a VM's memory, and convert it, while slots come and go under them.
 * The calls of the library alone: over which kernel, and with which guests, is the caller's.
 *
 * Memory is bound at a few places, each time of a new generation, with a word in each page that
 * names both. So whoever reads can tell whether that memory was the place's at the time.
 */
#ifndef GMEM_TEST_RACE_H
#define GMEM_TEST_RACE_H

#include "gmem.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RACE_PLACES 3
#define RACE_PAGES  4

struct race_place {
	_Atomic uint32_t made; /* the newest generation that may be there already */
	_Atomic uint32_t gone; /* the newest that cannot be there any more */
	struct gmem_slot *slot;
	unsigned char *host[2]; /* shared halves of odd and even generations, where there are two */
	bool busy[RACE_PAGES];	/* a conversion is under way; not atomic, as they take turns */
};

struct race {
	struct gmem_vm *vm;
	uint64_t gpa; /* of the first place */
	size_t page;
	bool has_private; /* the VM has private memory: it is converted */
	enum gmem_fallback fallback;
	unsigned int rounds;
	/* Called now and then, not as a callback of the library; NULL: not called. */
	void (*tick)(void *data);
	void *data;

	pthread_rwlock_t guests;  /* held by each vCPU that runs; to write, they are stopped */
	pthread_rwlock_t holders; /* likewise, by who holds an address */
	_Atomic bool over;
	struct race_place place[RACE_PLACES];
	_Atomic uint64_t changed;	/* rounds that are done */
	_Atomic uint64_t found, missed; /* accesses */
	_Atomic uint64_t converted_bytes, conversions_refused;
};

/* Fill in what comes before the locks; then prepare, start guests, run, and join the guests. */
void race_prepare(struct race *race);
void race_run(struct race *race);
/* Nothing is bound any more. Checks what was counted. */
void race_end(struct race *race);

/* A place and page at random, and where that is. */
struct race_target {
	unsigned int place, page;
	uint64_t gpa;
	uint32_t gone; /* when it was chosen */
};
struct race_target race_choose(struct race *race, uint64_t *random);

/* What was read at a target's first word; `read` is false where there was no memory. */
void race_check(struct race *race, const struct race_target *target, bool read, uint32_t word);

#endif
