/* SPDX-License-Identifier: MIT */
#include "notifier.h"

#include "error.h"
#include "opts.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

/*
 * It hears of the conversions whose serial is in [added, closed). Who closes it waits for these, so
 * that a conversion can stand on it without the lock.
 */
struct gmem_notifier {
	struct gmem_vm *vm; /* a reference */
	struct gmem_notifier_opts opts;
	struct gmem_notifier *before, *after;
	uint64_t added;
	uint64_t closed; /* UINT64_MAX: it is open */
	bool orphan;	 /* closed in a callback: the last conversion that it hears frees it */
};

/* ---- Claims ---- */

static bool has_turn(const struct gmem_vm *vm, const struct gmem_claim *wanted)
{
	for (const struct gmem_claim *claim = vm->claims; claim; claim = claim->next)
		if (claim->ticket < wanted->ticket && claim->start < wanted->end &&
		    wanted->start < claim->end)
			return false;
	return true;
}

void gmem_claim_take(struct gmem_vm *vm, struct gmem_claim *claim)
{
	claim->ticket = ++vm->last_ticket;
	claim->next = vm->claims;
	vm->claims = claim;
	while (!has_turn(vm, claim))
		pthread_cond_wait(&vm->claims_changed, &vm->lock);
	claim->serial = ++vm->last_serial;
}

/* Whether a conversion is under way that the notifier hears. */
static bool is_needed(const struct gmem_notifier *notifier)
{
	for (const struct gmem_claim *claim = notifier->vm->claims; claim; claim = claim->next)
		if (claim->serial && claim->serial < notifier->closed)
			return true;
	return false;
}

static void unlink_notifier(struct gmem_notifier *notifier)
{
	struct gmem_vm *vm = notifier->vm;

	*(notifier->before ? &notifier->before->after : &vm->first_notifier) = notifier->after;
	*(notifier->after ? &notifier->after->before : &vm->last_notifier) = notifier->before;
}

struct gmem_notifier *gmem_claim_release(struct gmem_vm *vm, struct gmem_claim *claim)
{
	struct gmem_claim **at = &vm->claims;
	struct gmem_notifier *notifier, *next, *orphans = NULL;

	while (*at != claim)
		at = &(*at)->next;
	*at = claim->next;
	for (notifier = vm->first_notifier; notifier; notifier = next) {
		next = notifier->after;
		if (!notifier->orphan || is_needed(notifier))
			continue;
		unlink_notifier(notifier);
		notifier->after = orphans;
		orphans = notifier;
	}
	pthread_cond_broadcast(&vm->claims_changed);
	return orphans;
}

/* ---- Telling ---- */

enum step {
	PREPARE,
	COMMIT,
	ABORT,
};

/* What a callback does leaves this thread's failure. */
static int tell(struct gmem_notifier *notifier, enum step step,
		const struct gmem_conversion *conversion)
{
	const struct gmem_notifier_opts *opts = &notifier->opts;
	struct gmem_callback callback;
	struct gmem_error error;
	int r = 0;

	gmem_error_save(&error);
	gmem_vm_callback_begin(&callback, notifier->vm);
	if (step == PREPARE && opts->prepare)
		r = opts->prepare(opts->data, conversion);
	else if (step == COMMIT && opts->commit)
		opts->commit(opts->data, conversion);
	else if (step == ABORT && opts->abort)
		opts->abort(opts->data, conversion);
	gmem_vm_callback_end(&callback);
	gmem_error_restore(&error);
	return r;
}

/* The next one that hears the conversion after `notifier`, or the first after NULL. */
static struct gmem_notifier *next_of(struct gmem_vm *vm, const struct gmem_claim *claim,
				     struct gmem_notifier *notifier, bool forward)
{
	pthread_mutex_lock(&vm->lock);
	do {
		if (notifier)
			notifier = forward ? notifier->after : notifier->before;
		else
			notifier = forward ? vm->first_notifier : vm->last_notifier;
	} while (notifier &&
		 (claim->serial < notifier->added || claim->serial >= notifier->closed));
	pthread_mutex_unlock(&vm->lock);
	return notifier;
}

/* Tell all after `notifier`. */
static void tell_all(struct gmem_vm *vm, const struct gmem_claim *claim,
		     struct gmem_notifier *notifier, bool forward, enum step step,
		     const struct gmem_conversion *conversion)
{
	while ((notifier = next_of(vm, claim, notifier, forward)))
		tell(notifier, step, conversion);
}

static bool is_forward(const struct gmem_conversion *conversion)
{
	return conversion->to == GMEM_VISIBILITY_SHARED;
}

int gmem_notifier_prepare(struct gmem_vm *vm, const struct gmem_claim *claim,
			  const struct gmem_conversion *conversion)
{
	bool forward = is_forward(conversion);
	struct gmem_notifier *notifier = NULL;
	int r = 0;

	while (r == 0 && (notifier = next_of(vm, claim, notifier, forward)))
		r = tell(notifier, PREPARE, conversion);
	if (r == 0)
		return 0;
	tell_all(vm, claim, notifier, !forward, ABORT, conversion);
	return gmem_fail(r < 0 && r > -4096 ? -r : EBUSY, GMEM_REASON_NOTIFIER_REFUSED,
			 "a notifier refused gpa [0x%" PRIx64 ", +0x%" PRIx64
			 "): prepare returned %d",
			 conversion->gpa, conversion->size, r);
}

void gmem_notifier_commit(struct gmem_vm *vm, const struct gmem_claim *claim,
			  const struct gmem_conversion *conversion)
{
	tell_all(vm, claim, NULL, is_forward(conversion), COMMIT, conversion);
}

void gmem_notifier_abort(struct gmem_vm *vm, const struct gmem_claim *claim,
			 const struct gmem_conversion *conversion)
{
	tell_all(vm, claim, NULL, !is_forward(conversion), ABORT, conversion);
}

/* ---- The handle ---- */

static int add(struct gmem_vm *vm, const struct gmem_notifier_opts *opts,
	       struct gmem_notifier **ret)
{
	struct gmem_notifier *notifier;

	if (!opts->prepare && !opts->commit && !opts->abort)
		return gmem_fail(EINVAL, GMEM_REASON_CONFLICT, "a notifier without a callback");
	notifier = calloc(1, sizeof(*notifier));
	if (!notifier)
		return gmem_fail(ENOMEM, GMEM_REASON_NO_MEMORY, "no memory for a notifier");
	notifier->vm = gmem_vm_ref(vm);
	notifier->opts = *opts;
	notifier->closed = UINT64_MAX;
	pthread_mutex_lock(&vm->lock);
	notifier->added = vm->last_serial + 1;
	notifier->before = vm->last_notifier;
	*(vm->last_notifier ? &vm->last_notifier->after : &vm->first_notifier) = notifier;
	vm->last_notifier = notifier;
	pthread_mutex_unlock(&vm->lock);
	*ret = notifier;
	return 0;
}

int gmem_vm_add_notifier(struct gmem_vm *vm, const struct gmem_notifier_opts *user,
			 struct gmem_notifier **ret)
{
	struct gmem_notifier_opts opts;
	int r;

	if (!ret)
		return gmem_fail(EINVAL, GMEM_REASON_NULL, "no place for the handle");
	*ret = NULL;
	r = gmem_vm_check(vm);
	if (r < 0)
		return r;
	r = gmem_opts_read(&opts, sizeof(opts), user);
	if (r == 0)
		r = add(vm, &opts, ret);
	return gmem_vm_report(vm, r);
}

void gmem_notifier_free_all(struct gmem_notifier *list)
{
	while (list) {
		struct gmem_notifier *notifier = list;

		list = notifier->after;
		gmem_vm_unref(notifier->vm);
		free(notifier);
	}
}

/* Whether it is the caller's to free: no conversion hears of it any more. */
static bool retire(struct gmem_notifier *notifier)
{
	struct gmem_vm *vm = notifier->vm;
	bool in_callback = gmem_vm_in_callback(vm);
	bool needed;

	pthread_mutex_lock(&vm->lock);
	notifier->closed = vm->last_serial + 1;
	while ((needed = is_needed(notifier)) && !in_callback)
		pthread_cond_wait(&vm->claims_changed, &vm->lock);
	if (needed)
		notifier->orphan = true;
	else
		unlink_notifier(notifier);
	pthread_mutex_unlock(&vm->lock);
	return !needed;
}

void gmem_notifier_close(struct gmem_notifier *notifier)
{
	if (!notifier)
		return;
	/* In a child another thread's lock may be held for ever, and nothing is under way. */
	if (!gmem_forked(&notifier->vm->fork_guard) && !retire(notifier))
		return;
	notifier->after = NULL;
	gmem_notifier_free_all(notifier);
}
