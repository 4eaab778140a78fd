/* SPDX-License-Identifier: MIT */
/* Parts of one range, taken by several threads until none is left or one fails. */
#ifndef GMEM_WORK_H
#define GMEM_WORK_H

#include <stdatomic.h>
#include <stdint.h>

#define GMEM_WORK_THREADS_MAX 256

struct gmem_work {
	_Atomic uint64_t next; /* the first part not taken */
	uint64_t end;
	uint64_t part; /* bytes; end + GMEM_WORK_THREADS_MAX * part does not wrap */
	/* 0, or a negative errno. Worker 0 is the thread that calls gmem_work_run(). */
	int (*part_fn)(struct gmem_work *work, unsigned int worker, uint64_t from, uint64_t size);
	_Atomic int error; /* the first failure */
};

/*
 * Work with so many threads, the caller's among them, but no more than there are parts. The others
 * have all signals blocked; one that cannot be started is done without. The first failure, or 0.
 */
int gmem_work_run(struct gmem_work *work, unsigned int threads);

#endif
