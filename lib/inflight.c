/* SPDX-License-Identifier: MIT */
#include "inflight.h"

_Thread_local char gmem_inflight_thread;

unsigned int gmem_inflight_enter_slow(struct gmem_inflight *inflight, unsigned int cell)
{
	unsigned int counter;

	for (unsigned int i = 1; i < GMEM_INFLIGHT_CELLS; i++) {
		unsigned int other = (cell + i) % GMEM_INFLIGHT_CELLS;

		if (gmem_inflight_take(inflight, other))
			return other;
	}
	counter = atomic_load(&inflight->counter);
	atomic_fetch_add(&inflight->counted[counter], 1);
	return GMEM_INFLIGHT_CELLS + counter;
}

/*
 * New readers use the other counter, so that this one comes to zero. Twice, since a reader may have
 * looked which one is in use before the first switch, and counts itself after it.
 */
static void wait_counted(struct gmem_inflight *inflight, const struct gmem_sys *sys)
{
	for (int i = 0; i < 2; i++) {
		unsigned int counter = atomic_load(&inflight->counter);

		atomic_store(&inflight->counter, !counter);
		while (atomic_load(&inflight->counted[counter]) > 0)
			sys->nap(sys);
	}
}

void gmem_inflight_wait(struct gmem_inflight *inflight, const struct gmem_sys *sys)
{
	for (unsigned int i = 0; i < GMEM_INFLIGHT_CELLS; i++) {
		_Atomic uint64_t *turn = &inflight->cell[i].turn;
		uint64_t seen = atomic_load_explicit(turn, memory_order_seq_cst);

		/* Most copies are short: look again a few times before sleeping. */
		for (unsigned int looks = 1;
		     (seen & 1) && atomic_load_explicit(turn, memory_order_acquire) == seen;
		     looks++)
			if (looks > 100)
				sys->nap(sys);
	}
	wait_counted(inflight, sys);
}
