/* SPDX-License-Identifier: MIT */
/*
 * Who is copying to or from guest memory right now, so that unbinding can wait for them.
 *
 * A reader takes a cell for the length of one copy; cells are picked by thread, so that readers
 * rarely meet. Copies can sleep for long (userfaultfd), so that all cells may be taken: then a
 * reader is only counted, in one of two counters. The writer first makes the memory unfindable,
 * then waits for every cell that is taken at that moment, and for the counted ones.
 */
#ifndef GMEM_INFLIGHT_H
#define GMEM_INFLIGHT_H

#include "sys.h"

#include <stdatomic.h>

#define GMEM_INFLIGHT_CELLS 64

struct gmem_inflight {
	struct {
		_Alignas(64) _Atomic uint64_t turn; /* odd: taken */
	} cell[GMEM_INFLIGHT_CELLS];
	_Atomic unsigned int counter;	 /* the counter in use, 0 or 1 */
	_Atomic unsigned int counted[2]; /* readers without a cell */
};

/* Its address differs between living threads. Small, so that it can always have the fast model. */
extern _Thread_local char gmem_inflight_thread __attribute__((tls_model("initial-exec")));

/* Where no cell is to be had at once. */
unsigned int gmem_inflight_enter_slow(struct gmem_inflight *inflight, unsigned int cell);

/*
 * Take a cell. Sequentially consistent, as are the start of a lookup, the end of a change and the
 * writer's look at the cell: either the lookup that follows sees the change, or the writer sees
 * that the cell is taken.
 */
static inline bool gmem_inflight_take(struct gmem_inflight *inflight, unsigned int cell)
{
	_Atomic uint64_t *turn = &inflight->cell[cell].turn;
	uint64_t seen = atomic_load_explicit(turn, memory_order_relaxed);

	return !(seen & 1) &&
	       atomic_compare_exchange_strong_explicit(turn, &seen, seen + 1, memory_order_seq_cst,
						       memory_order_relaxed);
}

/* Never waits. Hand the result to leave. */
static inline unsigned int gmem_inflight_enter(struct gmem_inflight *inflight)
{
	uint64_t hash = (uintptr_t)&gmem_inflight_thread * UINT64_C(0x9e3779b97f4a7c15);
	unsigned int cell = (unsigned int)(hash >> 58);

	if (gmem_inflight_take(inflight, cell))
		return cell;
	return gmem_inflight_enter_slow(inflight, cell);
}

static inline void gmem_inflight_leave(struct gmem_inflight *inflight, unsigned int cell)
{
	_Atomic uint64_t *turn;

	if (cell >= GMEM_INFLIGHT_CELLS) {
		atomic_fetch_sub(&inflight->counted[cell - GMEM_INFLIGHT_CELLS], 1);
		return;
	}
	turn = &inflight->cell[cell].turn;
	atomic_store_explicit(turn, atomic_load_explicit(turn, memory_order_relaxed) + 1,
			      memory_order_release);
}

/* Wait until every copy that began before this call has ended. One caller at a time. */
void gmem_inflight_wait(struct gmem_inflight *inflight, const struct gmem_sys *sys);

#endif
