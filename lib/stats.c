/* SPDX-License-Identifier: MIT */
#include "stats.h"

#include "backing.h"
#include "error.h"
#include "opts.h"
#include "visibility.h"

#include <errno.h>

static uint64_t get(const _Atomic uint64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

static void copy_counters(const struct gmem_stats_counters *from, struct gmem_stats *to)
{
	to->conversions = get(&from->conversions);
	to->conversions_failed = get(&from->conversions_failed);
	to->to_private_bytes = get(&from->to_private_bytes);
	to->to_shared_bytes = get(&from->to_shared_bytes);
	to->skipped_bytes = get(&from->skipped_bytes);
	to->attribute_calls = get(&from->attribute_calls);
	to->attribute_ns = get(&from->attribute_ns);
	to->discard_calls = get(&from->discard_calls);
	to->discard_bytes = get(&from->discard_bytes);
	to->discard_failures = get(&from->discard_failures);
	to->discard_ns = get(&from->discard_ns);
	to->prefault_calls = get(&from->prefault_calls);
	to->prefault_bytes = get(&from->prefault_bytes);
	to->prefault_retries = get(&from->prefault_retries);
	to->prefault_ns = get(&from->prefault_ns);
	to->hypercalls = get(&from->hypercalls);
	to->hypercalls_refused = get(&from->hypercalls_refused);
	for (int i = 0; i < GMEM_STATS_EXITS; i++)
		to->exits[i] = get(&from->exits[i]);
}

/* As a reader: a change of slots may be waiting for a pager that asks here. */
static void sum_sides(const struct gmem_vm *vm, struct gmem_stats *stats)
{
	struct gmem_visibility_sum one_memory = {0}, halves = {0};
	uint64_t word, end;

	for (uint64_t gpa = 0; gpa < UINT64_MAX; gpa = end) {
		while (gmem_interval_lookup_run(&vm->spaces[0].slots, gpa, &word, &end) == -EAGAIN)
			vm->sys->nap(vm->sys);
		if (word)
			gmem_visibility_add(vm, gpa, end,
					    word & GMEM_WORD_HALVES ? &halves : &one_memory);
	}
	stats->private_bytes = halves.private_bytes + one_memory.private_bytes;
	stats->shared_bytes = halves.shared_bytes + one_memory.shared_bytes;
	stats->twice_bytes = halves.twice_bytes;
}

int gmem_vm_get_stats(struct gmem_vm *vm, struct gmem_stats *user)
{
	struct gmem_stats stats = {0};
	int r;

	if (!vm)
		return gmem_fail(EINVAL, GMEM_REASON_NULL, "the VM is NULL");
	if (gmem_forked(&vm->fork_guard))
		return gmem_fork_fail();
	r = gmem_opts_check(user);
	if (r < 0)
		return r;
	copy_counters(&vm->stats, &stats);
	sum_sides(vm, &stats);
	gmem_opts_write(user, &stats, sizeof(stats));
	return 0;
}
