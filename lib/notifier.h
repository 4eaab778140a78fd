/* SPDX-License-Identifier: MIT */
/* Who is told of conversions. */
#ifndef GMEM_NOTIFIER_H
#define GMEM_NOTIFIER_H

#include "vm.h"

/*
 * A range that is being converted, in the list of its VM. Ranges that overlap take turns in the
 * order in which they came; so a conversion needs no lock while callbacks run, and many small ones
 * do not keep a large one waiting. Under the VM's lock.
 */
struct gmem_claim {
	uint64_t start, end;
	uint64_t ticket; /* in the order of coming */
	uint64_t serial; /* in the order of beginning, from 1; 0: it waits */
	struct gmem_claim *next;
};

/* Under the VM's lock, which is released while waiting for ranges that overlap. */
void gmem_claim_take(struct gmem_vm *vm, struct gmem_claim *claim);
/* Under the VM's lock. Returns notifiers to be freed by gmem_notifier_free_all() without it. */
struct gmem_notifier *gmem_claim_release(struct gmem_vm *vm, struct gmem_claim *claim);
void gmem_notifier_free_all(struct gmem_notifier *list);

/*
 * Tell all that were added before the claim was taken, without the VM's lock. A prepare that fails
 * has told those before it to abort, and is a failure of the thread.
 */
int gmem_notifier_prepare(struct gmem_vm *vm, const struct gmem_claim *claim,
			  const struct gmem_conversion *conversion);
void gmem_notifier_commit(struct gmem_vm *vm, const struct gmem_claim *claim,
			  const struct gmem_conversion *conversion);
void gmem_notifier_abort(struct gmem_vm *vm, const struct gmem_claim *claim,
			 const struct gmem_conversion *conversion);

#endif
