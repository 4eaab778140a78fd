/* SPDX-License-Identifier: MIT */
/* A VM's memory by guest address. */
#include "backing.h"
#include "error.h"
#include "range.h"
#include "slot.h"
#include "verdict.h"
#include "visibility.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* What of a slot lies at and after an address. */
struct run {
	unsigned char *host;
	uint64_t size;
	uint64_t word;
};

static int run_failure(uint32_t as_id, uint64_t gpa, uint64_t word)
{
	if (!word)
		return gmem_fail(EFAULT, GMEM_REASON_GPA_UNMAPPED,
				 "no slot at gpa 0x%" PRIx64 " of address space %" PRIu32, gpa,
				 as_id);
	if (!(word & GMEM_WORD_READ))
		return gmem_fail(
			EFAULT, GMEM_REASON_NO_HOST_SIDE,
			"the slot at gpa 0x%" PRIx64 " has no memory that the host can reach", gpa);
	return gmem_fail(EACCES, GMEM_REASON_ACCESS_READONLY,
			 "the slot at gpa 0x%" PRIx64 " is read-only", gpa);
}

/*
 * What is private is the guest's alone: a touch of the other half would bring pages back that the
 * conversion has dropped. A conversion to private changes the map, waits for copies in flight, and
 * only then drops them; so what is found shared here stays until the copy is done.
 */
static int keep_to_shared(const struct gmem_vm *vm, uint64_t gpa, struct run *run)
{
	uint64_t end;

	if (gmem_visibility_is_private(vm, gpa, &end))
		return gmem_fail(EFAULT, GMEM_REASON_MEMFD_PRIVATE,
				 "gpa 0x%" PRIx64 " is private to the guest", gpa);
	if (run->size > end - gpa)
		run->size = end - gpa;
	return 0;
}

/*
 * `need`: GMEM_WORD_READ, GMEM_WORD_WRITE or both. Inlined into each caller, and so is the check of
 * the address space: two calls fewer are a quarter of what translate takes.
 */
static inline __attribute__((always_inline)) int
find_run(const struct gmem_vm *vm, uint32_t as_id, uint64_t gpa, uint64_t need, struct run *run)
{
	struct gmem_interval found;
	int r;

	while ((r = gmem_interval_lookup(&vm->spaces[as_id].slots, gpa, &found)) == -EAGAIN)
		vm->sys->nap(vm->sys);
	if (r == 0)
		return run_failure(as_id, gpa, 0);
	need |= GMEM_WORD_READ;
	if ((found.word & need) != need)
		return run_failure(as_id, gpa, found.word);
	run->word = found.word;
	run->host = (unsigned char *)(uintptr_t)((found.word & ~GMEM_WORD_BITS) + gpa);
	run->size = found.end - gpa;
	return vm->has_private ? keep_to_shared(vm, gpa, run) : 0;
}

/* What every call here checks first. */
static int begin(const struct gmem_vm *vm, const void *place, uint32_t as_id)
{
	if (!vm || !place)
		return gmem_fail(EINVAL, GMEM_REASON_NULL, "%s is NULL",
				 vm ? "the buffer or result" : "the VM");
	if (gmem_forked(&vm->fork_guard))
		return gmem_fork_fail();
	return gmem_vm_space(vm, as_id) ? 0 : -ERANGE;
}

int gmem_vm_translate(struct gmem_vm *vm, uint32_t as_id, uint64_t gpa, uint32_t prot,
		      uint64_t *len, void **addr)
{
	uint64_t need = (prot & GMEM_PROT_READ ? GMEM_WORD_READ : 0) |
			(prot & GMEM_PROT_WRITE ? GMEM_WORD_WRITE : 0);
	struct run run;
	int r = begin(vm, addr, as_id);

	if (addr)
		*addr = NULL;
	if (r < 0)
		return r;
	if (prot & ~(GMEM_PROT_READ | GMEM_PROT_WRITE))
		return gmem_fail(EINVAL, GMEM_REASON_FLAGS_UNKNOWN, "unknown protection 0x%" PRIx32,
				 prot);
	r = find_run(vm, as_id, gpa, need, &run);
	if (r < 0)
		return r;
	*addr = run.host;
	if (len)
		*len = run.size;
	return 0;
}

/* ---- Copies ---- */

/* One copy, either way: the direction is the table's function and which side is the guest's. */
struct copy {
	struct gmem_vm *vm;
	uint32_t as_id;
	uint64_t gpa;
	unsigned char *to_host;	       /* a read's buffer, or NULL */
	const unsigned char *to_guest; /* a write's buffer, or NULL */
	size_t size;
};

static int copy_proof(const struct copy *copy, const struct run *run, size_t done, size_t size)
{
	const struct gmem_sys *sys = copy->vm->sys;

	for (size_t part = 0; part < size;) {
		unsigned char *guest = run->host + part;
		ssize_t r = copy->to_host ? sys->copy_in(sys, copy->to_host + done + part, guest,
							 size - part)
					  : sys->copy_out(sys, guest, copy->to_guest + done + part,
							  size - part);

		if (r == 0 || r == -EFAULT)
			return gmem_fail(EFAULT, GMEM_REASON_ACCESS_FAULT,
					 "the memory at gpa 0x%" PRIx64
					 " cannot be touched: private, poisoned, or not there",
					 copy->gpa + done + part);
		if (r < 0 && r != -EINTR)
			return gmem_fail_kernel((int)-r, "fault-proof copy of guest memory");
		part += r > 0 ? (size_t)r : 0;
	}
	return 0;
}

static int copy_run(const struct copy *copy, const struct run *run, size_t done, size_t size)
{
	if (run->word & GMEM_WORD_PROOF)
		return copy_proof(copy, run, done, size);
	if (copy->to_host)
		memcpy(copy->to_host + done, run->host, size);
	else
		memcpy(run->host, copy->to_guest + done, size);
	return 0;
}

/* Walk the slots of a copy; with `look` only see whether they are all there. */
static int walk(const struct copy *copy, bool look)
{
	uint64_t need = copy->to_host ? GMEM_WORD_READ : GMEM_WORD_WRITE;

	for (size_t done = 0; done < copy->size;) {
		size_t size = copy->size - done;
		struct run run = {0};
		int r = find_run(copy->vm, copy->as_id, copy->gpa + done, need, &run);

		if (r == 0 && size > run.size)
			size = (size_t)run.size;
		if (r == 0 && !look)
			r = copy_run(copy, &run, done, size);
		if (r < 0)
			return r;
		done += size;
	}
	return 0;
}

/* Of any length, over any slots. */
static int copy_slots(const struct copy *copy)
{
	int r;

	if (copy->size > GMEM_RANGE_MAX - copy->gpa)
		return gmem_fail(EOVERFLOW, GMEM_REASON_RANGE_WRAPS,
				 "gpa [0x%" PRIx64 ", +0x%zx) wraps", copy->gpa, copy->size);
	r = walk(copy, true);
	return r < 0 ? r : walk(copy, false);
}

/* The common case apart: all in one slot, and a plain copy. */
static bool is_plain(const struct run *run, size_t len)
{
	return len <= run->size && !(run->word & GMEM_WORD_PROOF);
}

int gmem_vm_read(struct gmem_vm *vm, uint32_t as_id, uint64_t gpa, void *buf, size_t len)
{
	struct run run = {0};
	unsigned int cell;
	int r = begin(vm, buf, as_id);

	if (r < 0 || len == 0)
		return r;
	cell = gmem_inflight_enter(&vm->inflight);
	if (find_run(vm, as_id, gpa, GMEM_WORD_READ, &run) == 0 && is_plain(&run, len))
		memcpy(buf, run.host, len);
	else
		r = copy_slots(&(struct copy){
			.vm = vm, .as_id = as_id, .gpa = gpa, .to_host = buf, .size = len});
	gmem_inflight_leave(&vm->inflight, cell);
	return r;
}

int gmem_vm_write(struct gmem_vm *vm, uint32_t as_id, uint64_t gpa, const void *buf, size_t len)
{
	struct run run = {0};
	unsigned int cell;
	int r = begin(vm, buf, as_id);

	if (r < 0 || len == 0)
		return r;
	cell = gmem_inflight_enter(&vm->inflight);
	if (find_run(vm, as_id, gpa, GMEM_WORD_WRITE, &run) == 0 && is_plain(&run, len))
		memcpy(run.host, buf, len);
	else
		r = copy_slots(&(struct copy){
			.vm = vm, .as_id = as_id, .gpa = gpa, .to_guest = buf, .size = len});
	gmem_inflight_leave(&vm->inflight, cell);
	return r;
}

/* ---- Single accesses ---- */

/* On success the caller is counted as in flight, and leaves. */
static int begin_single(struct gmem_vm *vm, const void *place, uint32_t as_id, uint64_t gpa,
			uint64_t need, unsigned int size, struct run *run, unsigned int *cell)
{
	int r = begin(vm, place, as_id);

	if (r < 0)
		return r;
	if (gpa & (size - 1))
		return gmem_fail(EINVAL, GMEM_REASON_ACCESS_UNALIGNED,
				 "gpa 0x%" PRIx64 " is not a multiple of the access's %u bytes",
				 gpa, size);
	*cell = gmem_inflight_enter(&vm->inflight);
	r = find_run(vm, as_id, gpa, need, run);
	if (r == 0 && (run->word & GMEM_WORD_PROOF))
		r = gmem_fail(EOPNOTSUPP, GMEM_REASON_ACCESS_NOT_ATOMIC,
			      "gpa 0x%" PRIx64
			      " can only be copied the fault-proof way, which is not "
			      "atomic",
			      gpa);
	if (r < 0)
		gmem_inflight_leave(&vm->inflight, *cell);
	return r;
}

#define DEFINE_LOAD(bits)                                                                          \
	int gmem_vm_load_u##bits(struct gmem_vm *vm, uint32_t as_id, uint64_t gpa,                 \
				 uint##bits##_t *value)                                            \
	{                                                                                          \
		struct run run = {0};                                                              \
		unsigned int cell = 0;                                                             \
		int r = begin_single(vm, value, as_id, gpa, GMEM_WORD_READ, sizeof(*value), &run,  \
				     &cell);                                                       \
                                                                                                   \
		if (r < 0)                                                                         \
			return r;                                                                  \
		*value = __atomic_load_n((uint##bits##_t *)(void *)run.host, __ATOMIC_ACQUIRE);    \
		gmem_inflight_leave(&vm->inflight, cell);                                          \
		return 0;                                                                          \
	}

#define DEFINE_STORE(bits)                                                                         \
	int gmem_vm_store_u##bits(struct gmem_vm *vm, uint32_t as_id, uint64_t gpa,                \
				  uint##bits##_t value)                                            \
	{                                                                                          \
		struct run run = {0};                                                              \
		unsigned int cell = 0;                                                             \
		int r = begin_single(vm, &value, as_id, gpa, GMEM_WORD_WRITE, sizeof(value), &run, \
				     &cell);                                                       \
                                                                                                   \
		if (r < 0)                                                                         \
			return r;                                                                  \
		__atomic_store_n((uint##bits##_t *)(void *)run.host, value, __ATOMIC_RELEASE);     \
		gmem_inflight_leave(&vm->inflight, cell);                                          \
		return 0;                                                                          \
	}

DEFINE_LOAD(8)
DEFINE_LOAD(16)
DEFINE_LOAD(32)
DEFINE_LOAD(64)
DEFINE_STORE(8)
DEFINE_STORE(16)
DEFINE_STORE(32)
DEFINE_STORE(64)

/* ---- Discard ---- */

static int discard_locked(struct gmem_vm *vm, uint64_t gpa, uint64_t size, bool look)
{
	struct gmem_space *space = &vm->spaces[0];
	uint64_t end = gpa + size;

	while (gpa < end) {
		const struct gmem_slot *slot;
		struct gmem_interval found;
		uint64_t part_end;
		int r = 0;

		if (!gmem_interval_find(&space->slots, gpa, &found) || found.start > gpa)
			return run_failure(0, gpa, 0);
		slot = space->slot[found.id];
		if (slot->binding.flags & GMEM_SLOT_READONLY)
			return run_failure(0, gpa, GMEM_WORD_LIVE | GMEM_WORD_READ);
		part_end = found.end < end ? found.end : end;
		if (!look)
			r = gmem_backing_drop(slot, gpa, part_end - gpa,
					      GMEM_BACKING_PRIVATE | GMEM_BACKING_SHARED);
		if (r < 0)
			return r;
		if (!look)
			gmem_visibility_clear_twice(vm, gpa, part_end);
		gpa = part_end;
	}
	return 0;
}

int gmem_vm_discard(struct gmem_vm *vm, uint64_t gpa, uint64_t size)
{
	int r = gmem_vm_lock(vm);

	if (r < 0)
		return r;
	r = gmem_check_range(GMEM_KIND_GPA, gpa, size, vm->page_size, GMEM_RANGE_MAX);
	if (r == 0)
		r = discard_locked(vm, gpa, size, true);
	if (r == 0)
		r = discard_locked(vm, gpa, size, false);
	gmem_vm_unlock(vm);
	return gmem_vm_report(vm, r);
}
