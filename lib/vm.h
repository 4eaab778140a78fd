/* SPDX-License-Identifier: MIT */
#ifndef GMEM_VM_H
#define GMEM_VM_H

#include "caps.h"
#include "fork.h"
#include "inflight.h"
#include "interval.h"
#include "stats.h"

#include <pthread.h>

struct gmem_claim;
struct gmem_slot;

/* One address space: what is where, and which slot ids are in use. */
struct gmem_space {
	struct gmem_interval_set slots;	   /* guest addresses; id: the slot's */
	struct gmem_interval_set reserved; /* guest addresses that the VMM keeps */
	struct gmem_slot **slot;	   /* by id; NULL: none */
	uint64_t *taken;		   /* bitmap of ids: slots, and those lost in KVM */
	uint64_t *kept;			   /* bitmap of ids: the VMM's own */
};

/*
 * Addresses that no mapping uses any more, held by inaccessible pages. It is what remains of the
 * mapping's handle, which begins with it, so that the end of a mapping needs no memory.
 */
struct gmem_retired {
	struct gmem_retired *next;
	void *addr;
	size_t size;
};

struct gmem_vm {
	const struct gmem_sys *sys;
	int fd;
	uint64_t flags;
	uint64_t type;
	bool has_private; /* KVM keeps private memory apart; elsewhere a slot is all shared */
	size_t page_size;
	uint64_t gpa_limit; /* first guest address that is none */
	uint64_t hva_limit; /* likewise of this process */
	uint32_t nr_ids;
	uint32_t id_first, id_end; /* granted */
	uint32_t nr_spaces;
	struct gmem_caps caps;
	struct gmem_fork_guard fork_guard;
	gmem_log_fn *log;
	void *log_data;
	_Atomic unsigned int references;
	struct gmem_space *spaces;	  /* readers: only the slots in it */
	struct gmem_interval_set private; /* readers: guest addresses that are the guest's alone */
	struct gmem_interval_set twice;	  /* and those of which the other half may hold pages */
	struct gmem_inflight inflight;
	struct gmem_stats_counters stats;

	/* Of the spaces and the map but for readers, of slots and conversions; held over ioctls. */
	pthread_mutex_t lock;
	pthread_cond_t claims_changed;
	struct gmem_claim *claims; /* ranges that are converted, or wait for that */
	uint64_t last_ticket, last_serial;
	struct gmem_notifier *first_notifier; /* in the order in which they were added */
	struct gmem_notifier *last_notifier;

	/*
	 * Of the list below and of each slot's binding: held to copy or assign them, never over a
	 * syscall, so that a getter cannot wait for a change that itself waits for the pager.
	 */
	pthread_mutex_t leaf_lock;
	struct gmem_retired *retired;
};

/* A callback of the VMM that this thread is in. They nest: one VM's callback may use another VM. */
struct gmem_callback {
	struct gmem_vm *vm;
	struct gmem_callback *outer;
};

/* The public constructors, over any kernel. */
int gmem_vm_open_sys(const struct gmem_sys *sys, const struct gmem_vm_opts *opts,
		     struct gmem_vm **ret);
int gmem_vm_open_fd_sys(const struct gmem_sys *sys, int vm_fd, const struct gmem_vm_opts *opts,
			struct gmem_vm **ret);

struct gmem_vm *gmem_vm_ref(struct gmem_vm *vm);
void gmem_vm_unref(struct gmem_vm *vm);

/* Whether this thread is in a callback of the VM. */
bool gmem_vm_in_callback(const struct gmem_vm *vm);

/* Begin a call that changes something: NULL, forked and callback are refused. Takes no lock. */
int gmem_vm_check(const struct gmem_vm *vm);
/* The same, and take the VM's lock. */
int gmem_vm_lock(struct gmem_vm *vm);
void gmem_vm_unlock(struct gmem_vm *vm);
/* End a call: log its failure, but from a callback. Without the lock. Returns `result`. */
int gmem_vm_report(struct gmem_vm *vm, int result);

void gmem_vm_log(struct gmem_vm *vm, enum gmem_log_level level, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* Around a callback of the VMM: a changing call on this VM from inside is refused. */
void gmem_vm_callback_begin(struct gmem_callback *callback, struct gmem_vm *vm);
void gmem_vm_callback_end(struct gmem_callback *callback);

/* Records the failure: there is no such address space. NULL. */
struct gmem_space *gmem_vm_no_space(const struct gmem_vm *vm, uint32_t as_id);

/* The space of an id that the caller gave, or NULL with the failure recorded. */
static inline struct gmem_space *gmem_vm_space(const struct gmem_vm *vm, uint32_t as_id)
{
	return as_id < vm->nr_spaces ? &vm->spaces[as_id] : gmem_vm_no_space(vm, as_id);
}

/*
 * Make addresses inaccessible but keep them from being used again: until reclaim, which frees
 * `retired`, or for good. False where the kernel has no memory for that: then what is mapped there
 * stays as long.
 */
bool gmem_vm_retire(struct gmem_vm *vm, struct gmem_retired *retired, bool for_good);

#endif
