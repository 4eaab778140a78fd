/* SPDX-License-Identifier: MIT */
#include "visibility.h"

#include "error.h"

#include <errno.h>

int gmem_visibility_check(enum gmem_visibility visibility)
{
	if (visibility == GMEM_VISIBILITY_SHARED || visibility == GMEM_VISIBILITY_PRIVATE)
		return 0;
	return gmem_fail(EINVAL, GMEM_REASON_ARGUMENT, "there is no visibility %d",
			 (int)visibility);
}

static bool look(const struct gmem_vm *vm, const struct gmem_interval_set *set, uint64_t gpa,
		 uint64_t *end)
{
	uint64_t word;

	while (gmem_interval_lookup_run(set, gpa, &word, end) == -EAGAIN)
		vm->sys->nap(vm->sys);
	return word != 0;
}

bool gmem_visibility_is_private(const struct gmem_vm *vm, uint64_t gpa, uint64_t *end)
{
	return look(vm, &vm->private, gpa, end);
}

bool gmem_visibility_is_twice(const struct gmem_vm *vm, uint64_t gpa, uint64_t *end)
{
	return look(vm, &vm->twice, gpa, end);
}

int gmem_visibility_reserve(struct gmem_vm *vm)
{
	if (gmem_interval_reserve(&vm->private, GMEM_INTERVAL_ASSIGN) < 0 ||
	    gmem_interval_reserve(&vm->twice, GMEM_INTERVAL_ASSIGN) < 0)
		return gmem_fail(ENOMEM, GMEM_REASON_NO_MEMORY,
				 "no memory for the map of private pages");
	return 0;
}

void gmem_visibility_set(struct gmem_vm *vm, uint64_t start, uint64_t end,
			 enum gmem_visibility visibility)
{
	gmem_interval_assign(&vm->private, start, end, visibility == GMEM_VISIBILITY_PRIVATE);
}

void gmem_visibility_set_twice(struct gmem_vm *vm, uint64_t start, uint64_t end)
{
	gmem_interval_assign(&vm->twice, start, end, 1);
}

/* Memory is needed only where there is something to clear. */
void gmem_visibility_clear_twice(struct gmem_vm *vm, uint64_t start, uint64_t end)
{
	uint64_t clear_until;

	if (start < end && !gmem_visibility_is_twice(vm, start, &clear_until) && clear_until >= end)
		return;
	if (start < end && gmem_interval_reserve(&vm->twice, GMEM_INTERVAL_ASSIGN) == 0)
		gmem_interval_assign(&vm->twice, start, end, 0);
}

/* How many bytes of [start, end) a set holds. */
static uint64_t count(const struct gmem_vm *vm, const struct gmem_interval_set *set, uint64_t start,
		      uint64_t end)
{
	uint64_t total = 0;

	while (start < end) {
		uint64_t run_end;
		bool held = look(vm, set, start, &run_end);

		run_end = run_end < end ? run_end : end;
		total += held ? run_end - start : 0;
		start = run_end;
	}
	return total;
}

void gmem_visibility_add(const struct gmem_vm *vm, uint64_t start, uint64_t end,
			 struct gmem_visibility_sum *sum)
{
	uint64_t private_bytes = count(vm, &vm->private, start, end);

	sum->private_bytes += private_bytes;
	sum->shared_bytes += end - start - private_bytes;
	sum->twice_bytes += count(vm, &vm->twice, start, end);
}

int gmem_vm_get_visibility(const struct gmem_vm *vm, uint64_t gpa, enum gmem_visibility *visibility,
			   uint64_t *size)
{
	uint64_t end;

	if (!vm || !visibility)
		return gmem_fail(EINVAL, GMEM_REASON_NULL, "%s is NULL",
				 vm ? "the visibility" : "the VM");
	if (gmem_forked(&vm->fork_guard))
		return gmem_fork_fail();
	*visibility = gmem_visibility_is_private(vm, gpa, &end) ? GMEM_VISIBILITY_PRIVATE
								: GMEM_VISIBILITY_SHARED;
	if (size)
		*size = end - gpa;
	return 0;
}
