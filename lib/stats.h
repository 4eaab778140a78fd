/* SPDX-License-Identifier: MIT */
/* What has happened in a VM: counters that any thread adds to. */
#ifndef GMEM_STATS_H
#define GMEM_STATS_H

#include "gmem.h"

#include <stdatomic.h>

/* The members of struct gmem_stats that only grow. */
struct gmem_stats_counters {
	_Atomic uint64_t conversions;
	_Atomic uint64_t conversions_failed;
	_Atomic uint64_t to_private_bytes;
	_Atomic uint64_t to_shared_bytes;
	_Atomic uint64_t skipped_bytes;
	_Atomic uint64_t attribute_calls;
	_Atomic uint64_t attribute_ns;
	_Atomic uint64_t discard_calls;
	_Atomic uint64_t discard_bytes;
	_Atomic uint64_t discard_failures;
	_Atomic uint64_t discard_ns;
	_Atomic uint64_t prefault_calls;
	_Atomic uint64_t prefault_bytes;
	_Atomic uint64_t prefault_retries;
	_Atomic uint64_t prefault_ns;
	_Atomic uint64_t hypercalls;
	_Atomic uint64_t hypercalls_refused;
	_Atomic uint64_t exits[GMEM_STATS_EXITS];
};

static inline void gmem_stats_add(_Atomic uint64_t *counter, uint64_t amount)
{
	atomic_fetch_add_explicit(counter, amount, memory_order_relaxed);
}

#endif
