/* SPDX-License-Identifier: MIT */
#include "convert.h"

#include "backing.h"
#include "error.h"
#include "notifier.h"
#include "range.h"
#include "slot.h"
#include "uapi/kvm.h"
#include "verdict.h"
#include "visibility.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

/* Runs with a call of KVM for each. */
#define CALLS_MAX 64

/* A part of the range that has something to be done. */
struct run {
	uint64_t start, end;
	bool changes; /* else only its other half is to be dropped */
};

struct job {
	struct gmem_vm *vm;
	struct gmem_claim claim; /* the range */
	enum gmem_visibility to;
	enum gmem_convert_policy policy;
	struct run *runs; /* in order; none touches the next unless they differ */
	size_t count, room;
	uint64_t changed_bytes;
	unsigned int drop_failures;
	uint64_t kept_start, kept_end;	/* around those of them */
	struct gmem_error drop_failure; /* the last */
};

/* ---- What there is to do ---- */

/*
 * What is never private is shared already: guests say so of all that is no memory of theirs (OVMF
 * does of device memory), and all is well.
 */
static int check_part(const struct job *job, const struct gmem_slot *slot, uint64_t gpa)
{
	bool can_be_private = slot && gmem_memfd_is_guest(slot->binding.memfd);

	if (job->to == GMEM_VISIBILITY_SHARED && can_be_private && !slot->binding.host)
		return gmem_fail(EFAULT, GMEM_REASON_NO_HOST_SIDE,
				 "slot %" PRIu32 " at gpa 0x%" PRIx64
				 " has no host side: it is never shared",
				 slot->id, gpa);
	if (job->to == GMEM_VISIBILITY_SHARED || can_be_private)
		return 0;
	if (!slot)
		return gmem_fail(EFAULT, GMEM_REASON_GPA_UNMAPPED,
				 "no slot at gpa 0x%" PRIx64 " of address space 0", gpa);
	return gmem_fail(EFAULT, GMEM_REASON_NO_PRIVATE_SIDE,
			 "slot %" PRIu32 " at gpa 0x%" PRIx64
			 " has no guest_memfd: it is never private",
			 slot->id, gpa);
}

/* The slot at an address, or NULL, and where its part of [gpa, end), or that of the hole, ends. */
static struct gmem_slot *slot_at(struct gmem_vm *vm, uint64_t gpa, uint64_t end, uint64_t *part_end)
{
	struct gmem_interval found = {.start = UINT64_MAX};
	bool is_slot = gmem_interval_find(&vm->spaces[0].slots, gpa, &found) && found.start <= gpa;
	uint64_t same_until = is_slot ? found.end : found.start;

	*part_end = same_until < end ? same_until : end;
	return is_slot ? vm->spaces[0].slot[found.id] : NULL;
}

static int check_slots(const struct job *job)
{
	uint64_t next;
	int r = 0;

	for (uint64_t gpa = job->claim.start; gpa < job->claim.end && r == 0; gpa = next) {
		const struct gmem_slot *slot = slot_at(job->vm, gpa, job->claim.end, &next);

		r = check_part(job, slot, gpa);
	}
	return r;
}

static int add_run(struct job *job, uint64_t start, uint64_t end, bool changes)
{
	struct run *last = job->count ? &job->runs[job->count - 1] : NULL;

	if (job->count && last->end == start && last->changes == changes) {
		last->end = end;
		return 0;
	}
	if (job->count == job->room) {
		size_t room = job->room ? 2 * job->room : 4;
		struct run *runs = realloc(job->runs, room * sizeof(*runs));

		if (!runs)
			return gmem_fail(ENOMEM, GMEM_REASON_NO_MEMORY, "no memory for %zu runs",
					 room);
		job->runs = runs;
		job->room = room;
	}
	job->runs[job->count++] = (struct run){.start = start, .end = end, .changes = changes};
	return 0;
}

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* What is not as asked, and with the policy to discard what may be held twice. */
static int collect_runs(struct job *job)
{
	uint64_t end, twice_end;
	int r = 0;

	for (uint64_t gpa = job->claim.start; gpa < job->claim.end && r == 0; gpa = end) {
		bool is_private = gmem_visibility_is_private(job->vm, gpa, &end);
		bool is_twice = gmem_visibility_is_twice(job->vm, gpa, &twice_end);
		bool changes = is_private != (job->to == GMEM_VISIBILITY_PRIVATE);

		end = least(least(end, twice_end), job->claim.end);
		if (changes)
			job->changed_bytes += end - gpa;
		if (changes || (is_twice && job->policy == GMEM_CONVERT_DISCARD))
			r = add_run(job, gpa, end, changes);
	}
	return r;
}

static int prepare(struct job *job)
{
	int r = check_slots(job);

	if (r == 0)
		r = collect_runs(job);
	if (r == 0)
		r = gmem_visibility_reserve(job->vm);
	return r;
}

/* ---- Attributes ---- */

static int set_attributes(struct gmem_vm *vm, const struct run *run, enum gmem_visibility to)
{
	struct kvm_memory_attributes attributes = {
		.address = run->start,
		.size = run->end - run->start,
		.attributes = to == GMEM_VISIBILITY_PRIVATE ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0,
	};
	uint64_t begin = vm->sys->now(vm->sys);
	int r;

	do
		r = vm->sys->ioctl(vm->sys, vm->fd, KVM_SET_MEMORY_ATTRIBUTES,
				   (uintptr_t)&attributes);
	while (r == -EINTR);
	gmem_stats_add(&vm->stats.attribute_calls, 1);
	gmem_stats_add(&vm->stats.attribute_ns, vm->sys->now(vm->sys) - begin);
	return r > 0 ? -EBADE : r; /* a kernel that answers this is broken */
}

static enum gmem_visibility opposite(enum gmem_visibility visibility)
{
	return visibility == GMEM_VISIBILITY_SHARED ? GMEM_VISIBILITY_PRIVATE
						    : GMEM_VISIBILITY_SHARED;
}

static int refused(const struct run *run, int error)
{
	return gmem_fail_kernel(error,
				"KVM_SET_MEMORY_ATTRIBUTES of gpa [0x%" PRIx64 ", +0x%" PRIx64 ")",
				run->start, run->end - run->start);
}

/* KVM has changed a range: into the map, in which there is room. */
static void note(struct job *job, uint64_t start, uint64_t end)
{
	gmem_visibility_set(job->vm, start, end, job->to);
	gmem_visibility_set_twice(job->vm, start, end);
}

/*
 * KVM has refused run number `failed`: all that was changed before it was the other way, as the map
 * still says. What cannot be set back is put into the map as far as that has memory.
 */
static int roll_back(struct job *job, size_t failed, int error)
{
	const struct run *at = &job->runs[failed];
	struct gmem_vm *vm = job->vm;
	struct gmem_error failure;
	int r = refused(at, error);

	while (at-- > job->runs) {
		if (!at->changes || set_attributes(vm, at, opposite(job->to)) == 0)
			continue;
		r = gmem_fail(ENOTRECOVERABLE, GMEM_REASON_UNDO_FAILED,
			      "gpa [0x%" PRIx64 ", +0x%" PRIx64
			      ") could not be set back after a conversion that KVM refused",
			      at->start, at->end - at->start);
		gmem_error_save(&failure);
		if (gmem_visibility_reserve(vm) == 0)
			note(job, at->start, at->end);
		gmem_error_restore(&failure);
	}
	return r;
}

/*
 * A guest can leave its memory in any number of pieces: rather than a call for each of very many
 * there is one over all, which also sets anew what lies between. KVM does all of it or nothing.
 */
static int set_span(struct job *job)
{
	struct run span = {.start = job->runs[0].start, .end = job->runs[job->count - 1].end};
	int r = set_attributes(job->vm, &span, job->to);

	return r < 0 ? refused(&span, -r) : 0;
}

static int set_all(struct job *job)
{
	if (job->changed_bytes && job->count > CALLS_MAX)
		return set_span(job);
	for (size_t i = 0; i < job->count; i++) {
		int r = job->runs[i].changes ? set_attributes(job->vm, &job->runs[i], job->to) : 0;

		if (r < 0)
			return roll_back(job, i, -r);
	}
	return 0;
}

/*
 * All is changed. From the first run to the last all is as asked now, and held twice until the
 * other half is dropped.
 */
static void update_map(struct job *job)
{
	note(job, job->runs[0].start, job->runs[job->count - 1].end);
	/* Copies that found memory shared must end before it is dropped. */
	if (job->to == GMEM_VISIBILITY_PRIVATE)
		gmem_inflight_wait(&job->vm->inflight, job->vm->sys);
}

/* ---- The other half ---- */

/* Between the first and the last failure all stays counted, and a later call can try again. */
static void note_failure(struct job *job, uint64_t start, uint64_t end)
{
	gmem_error_save(&job->drop_failure);
	if (job->drop_failures++ == 0)
		job->kept_start = start;
	job->kept_end = end;
}

static void drop_part(struct job *job, const struct gmem_slot *slot, uint64_t start, uint64_t end)
{
	struct gmem_vm *vm = job->vm;
	uint64_t begin = vm->sys->now(vm->sys);
	int r = gmem_backing_drop(slot, start, end - start,
				  job->to == GMEM_VISIBILITY_PRIVATE ? GMEM_BACKING_SHARED
								     : GMEM_BACKING_PRIVATE);

	gmem_stats_add(&vm->stats.discard_calls, 1);
	gmem_stats_add(&vm->stats.discard_ns, vm->sys->now(vm->sys) - begin);
	gmem_stats_add(r == 0 ? &vm->stats.discard_bytes : &vm->stats.discard_failures,
		       r == 0 ? end - start : 1);
	if (r < 0)
		note_failure(job, start, end);
}

/*
 * From the first run to the last, what lies between them too: it is unused there as well, and one
 * call is cheaper than one for each run. A failure here is none of the conversion's, so it leaves
 * this thread's.
 */
static void drop_all(struct job *job)
{
	uint64_t start = job->runs[0].start, end = job->runs[job->count - 1].end;
	struct gmem_error error;
	uint64_t next;

	gmem_error_save(&error);
	for (uint64_t gpa = start; gpa < end; gpa = next) {
		const struct gmem_slot *slot = slot_at(job->vm, gpa, end, &next);

		/* It can have been deleted while a callback ran. */
		if (slot && gmem_backing_has_halves(&slot->binding))
			drop_part(job, slot, gpa, next);
	}
	if (job->drop_failures) {
		gmem_visibility_clear_twice(job->vm, start, job->kept_start);
		gmem_visibility_clear_twice(job->vm, job->kept_end, end);
	} else {
		gmem_visibility_clear_twice(job->vm, start, end);
	}
	gmem_error_restore(&error);
}

/* ---- All of it ---- */

static struct gmem_conversion conversion_of(const struct job *job, size_t i)
{
	return (struct gmem_conversion){.gpa = job->runs[i].start,
					.size = job->runs[i].end - job->runs[i].start,
					.to = job->to};
}

/* Of the first `count` runs, last first: the way back. */
static void tell_abort(struct job *job, size_t count)
{
	while (count-- > 0) {
		struct gmem_conversion conversion = conversion_of(job, count);

		if (job->runs[count].changes)
			gmem_notifier_abort(job->vm, &job->claim, &conversion);
	}
}

static void tell_commit(struct job *job)
{
	for (size_t i = 0; i < job->count; i++) {
		struct gmem_conversion conversion = conversion_of(job, i);

		if (job->runs[i].changes)
			gmem_notifier_commit(job->vm, &job->claim, &conversion);
	}
}

static int tell_prepare(struct job *job)
{
	for (size_t i = 0; i < job->count; i++) {
		struct gmem_conversion conversion = conversion_of(job, i);
		int r = 0;

		if (job->runs[i].changes)
			r = gmem_notifier_prepare(job->vm, &job->claim, &conversion);
		if (r < 0) {
			tell_abort(job, i);
			return r;
		}
	}
	return 0;
}

/* Under the lock, which is released while notifiers run: slots can change then. */
static int convert_told(struct job *job)
{
	struct gmem_vm *vm = job->vm;
	bool told = vm->first_notifier && job->changed_bytes;
	int r = 0;

	if (told) {
		pthread_mutex_unlock(&vm->lock);
		r = tell_prepare(job);
		pthread_mutex_lock(&vm->lock);
		if (r < 0)
			return r;
		r = check_slots(job);
		if (r == 0) /* other conversions may have used the room */
			r = gmem_visibility_reserve(vm);
	}
	if (r == 0)
		r = set_all(job);
	if (r == 0)
		update_map(job);
	if (told) {
		pthread_mutex_unlock(&vm->lock);
		if (r == 0)
			tell_commit(job);
		else
			tell_abort(job, job->count);
		pthread_mutex_lock(&vm->lock);
	}
	if (r == 0 && job->policy == GMEM_CONVERT_DISCARD)
		drop_all(job);
	return r;
}

static void count_result(const struct job *job, int result)
{
	struct gmem_stats_counters *stats = &job->vm->stats;
	uint64_t size = job->claim.end - job->claim.start;

	if (result < 0) {
		gmem_stats_add(&stats->conversions_failed, 1);
		return;
	}
	gmem_stats_add(&stats->skipped_bytes, size - job->changed_bytes);
	if (!job->changed_bytes)
		return;
	gmem_stats_add(&stats->conversions, 1);
	gmem_stats_add(job->to == GMEM_VISIBILITY_PRIVATE ? &stats->to_private_bytes
							  : &stats->to_shared_bytes,
		       job->changed_bytes);
}

static uint64_t bytes_done(const struct job *job)
{
	uint64_t end;
	bool is_private = gmem_visibility_is_private(job->vm, job->claim.start, &end);

	if (is_private != (job->to == GMEM_VISIBILITY_PRIVATE))
		return 0;
	return least(end, job->claim.end) - job->claim.start;
}

static int convert(struct job *job, uint64_t *done)
{
	struct gmem_vm *vm = job->vm;
	struct gmem_notifier *orphans;
	int r;

	pthread_mutex_lock(&vm->lock);
	gmem_claim_take(vm, &job->claim);
	r = prepare(job);
	if (r == 0) {
		r = job->count ? convert_told(job) : 0;
		*done = r == 0 ? job->claim.end - job->claim.start : bytes_done(job);
	}
	orphans = gmem_claim_release(vm, &job->claim);
	gmem_vm_unlock(vm);

	gmem_notifier_free_all(orphans);
	free(job->runs);
	return r;
}

static int check_range(const struct gmem_vm *vm, uint64_t gpa, uint64_t size)
{
	int r = gmem_check_range(GMEM_KIND_GPA, gpa, size, vm->page_size, vm->gpa_limit);

	if (r == 0 && !vm->has_private)
		return gmem_fail(EOPNOTSUPP, GMEM_REASON_CAP_UNSUPPORTED,
				 "this VM has no private memory (KVM_CAP_MEMORY_ATTRIBUTES)");
	return r;
}

/* `job` has all but the range. */
static int convert_range(struct job *job, uint64_t gpa, uint64_t size, uint64_t *done)
{
	int r = gmem_visibility_check(job->to);

	*done = 0;
	if (r == 0 && job->policy != GMEM_CONVERT_DISCARD && job->policy != GMEM_CONVERT_KEEP)
		r = gmem_fail(EINVAL, GMEM_REASON_ARGUMENT, "there is no policy %d",
			      (int)job->policy);
	if (r == 0)
		r = check_range(job->vm, gpa, size);
	if (r == 0) {
		job->claim.start = gpa;
		job->claim.end = gpa + size;
		r = convert(job, done);
	}
	count_result(job, r);
	return r;
}

int gmem_vm_convert_quietly(struct gmem_vm *vm, uint64_t gpa, uint64_t size,
			    enum gmem_visibility to, enum gmem_convert_policy policy)
{
	struct job job = {.vm = vm, .to = to, .policy = policy};
	uint64_t done;

	return convert_range(&job, gpa, size, &done);
}

int gmem_vm_convert(struct gmem_vm *vm, uint64_t gpa, uint64_t size, enum gmem_visibility to,
		    enum gmem_convert_policy policy, uint64_t *done)
{
	struct job job = {.vm = vm, .to = to, .policy = policy};
	uint64_t done_here;
	int r = gmem_vm_check(vm);

	if (done)
		*done = 0;
	if (r < 0)
		return r;
	r = convert_range(&job, gpa, size, done ? done : &done_here);
	if (job.drop_failures)
		gmem_vm_log(vm, GMEM_LOG_WARNING,
			    "after a conversion memory is held twice: %u discards failed: %s",
			    job.drop_failures, job.drop_failure.message);
	return gmem_vm_report(vm, r);
}

/* ---- gmem_vm_adopt_visibility ---- */

static int adopt(struct gmem_vm *vm, uint64_t gpa, uint64_t size, enum gmem_visibility visibility)
{
	struct gmem_claim claim = {.start = gpa, .end = gpa + size};
	struct gmem_notifier *orphans;
	int r;

	pthread_mutex_lock(&vm->lock);
	gmem_claim_take(vm, &claim);
	r = gmem_visibility_reserve(vm);
	if (r == 0) {
		gmem_visibility_set(vm, gpa, gpa + size, visibility);
		gmem_visibility_set_twice(vm, gpa, gpa + size);
		/* Copies that found it shared end before the VMM drops it. */
		gmem_inflight_wait(&vm->inflight, vm->sys);
	}
	orphans = gmem_claim_release(vm, &claim);
	gmem_vm_unlock(vm);
	gmem_notifier_free_all(orphans);
	return r;
}

int gmem_vm_adopt_visibility(struct gmem_vm *vm, uint64_t gpa, uint64_t size,
			     enum gmem_visibility visibility)
{
	int r = gmem_vm_check(vm);

	if (r < 0)
		return r;
	r = gmem_visibility_check(visibility);
	if (r == 0)
		r = check_range(vm, gpa, size);
	if (r == 0)
		r = adopt(vm, gpa, size, visibility);
	return gmem_vm_report(vm, r);
}
