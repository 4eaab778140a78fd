/* SPDX-License-Identifier: MIT */
/*
 * lib/request.c against the list of refusals that the header states, written down one after the
 * other over plain lists: a few slots in a small VM that has no kernel behind it.
 */
#include "error.h"
#include "fuzz.h"
#include "request.h"

#include <string.h>

__extension__ typedef unsigned __int128 wide;

#define PAGE   UINT64_C(4096)
#define SPACES 2
#define IDS    70 /* more than a word of a bitmap */
#define SLOTS  16
#define FIXED  GMEM_SLOT_FIXED_ID

struct world {
	struct gmem_vm vm, other_vm;
	struct gmem_space spaces[SPACES];
	struct gmem_slot *by_id[SPACES][IDS];
	uint64_t taken[SPACES][2], kept_ids[SPACES][2];
	struct gmem_memfd memfds[3];
	struct gmem_map maps[2];

	/* What the model knows. A slot of size 0 is none. */
	struct gmem_slot slots[SLOTS];
	struct gmem_interval reserved[SPACES];
	bool kept[SPACES][IDS], lost[SPACES][IDS];
};

static bool overlaps(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
	return (wide)a < (wide)b + b_size && (wide)b < (wide)a + a_size;
}

/* ---- What must be answered ---- */

static enum gmem_reason judge_shape(const struct gmem_request *request)
{
	const struct gmem_slot_opts *opts = &request->opts;
	bool fixed = opts->flags & FIXED;

	if (opts->flags & ~(GMEM_SLOT_LOG_DIRTY | GMEM_SLOT_READONLY | FIXED))
		return GMEM_REASON_FLAGS_UNKNOWN;
	if ((opts->map && opts->host) || (!opts->memfd && !opts->map && !opts->host) ||
	    (opts->offset && !opts->memfd && !opts->map) || (opts->id && !fixed) ||
	    (request->adopt && !fixed) ||
	    (request->adopt && opts->memfd && opts->memfd->flags & GMEM_MEMFD_MMAP && !opts->map &&
	     !opts->host))
		return GMEM_REASON_CONFLICT;
	return GMEM_REASON_NONE;
}

static enum gmem_reason judge_range(uint64_t start, uint64_t size, wide limit,
				    enum gmem_reason beyond)
{
	if (size == 0)
		return GMEM_REASON_RANGE_EMPTY;
	if (start % PAGE || size % PAGE)
		return GMEM_REASON_RANGE_UNALIGNED;
	if ((wide)start + size > UINT64_MAX)
		return GMEM_REASON_RANGE_WRAPS;
	return (wide)start + size > limit ? beyond : GMEM_REASON_NONE;
}

static enum gmem_reason judge_ranges(const struct world *world, const struct gmem_slot_opts *opts)
{
	const struct gmem_map *map = opts->map;
	enum gmem_reason reason = judge_range(opts->gpa, opts->size, world->vm.gpa_limit,
					      GMEM_REASON_GPA_BEYOND_WIDTH);

	if (!reason && opts->memfd)
		reason = judge_range(opts->offset, opts->size, opts->memfd->size,
				     GMEM_REASON_MEMFD_BEYOND_END);
	if (!reason && map)
		reason = judge_range(opts->offset, opts->size, (wide)map->offset + map->size,
				     GMEM_REASON_MAP_BEYOND_END);
	if (!reason && map && opts->offset < map->offset)
		reason = GMEM_REASON_MAP_BEYOND_END;
	if (!reason && opts->host)
		reason = judge_range((uintptr_t)opts->host, opts->size, world->vm.hva_limit,
				     GMEM_REASON_HOST_NOT_CANONICAL);
	return reason;
}

static enum gmem_reason judge_overlap(const struct world *world, const struct gmem_request *request)
{
	const struct gmem_slot_opts *opts = &request->opts;
	const struct gmem_interval *reserved = &world->reserved[opts->as_id];
	enum gmem_reason reason = GMEM_REASON_NONE;

	if (!request->adopt &&
	    overlaps(opts->gpa, opts->size, reserved->start, reserved->end - reserved->start))
		return GMEM_REASON_GPA_RESERVED;
	for (const struct gmem_slot *slot = world->slots; slot < world->slots + SLOTS; slot++) {
		const struct gmem_binding *old = &slot->binding;

		if (slot == request->instead_of || old->size == 0)
			continue;
		if (slot->as_id == opts->as_id &&
		    overlaps(opts->gpa, opts->size, old->gpa, old->size))
			return GMEM_REASON_GPA_OVERLAP;
		if (old->memfd == opts->memfd && opts->memfd == &world->memfds[0] &&
		    overlaps(opts->offset, opts->size, old->offset, old->size))
			reason = GMEM_REASON_MEMFD_OVERLAP;
	}
	return reason;
}

static bool is_taken(const struct world *world, uint32_t as_id, uint32_t id)
{
	for (const struct gmem_slot *slot = world->slots; slot < world->slots + SLOTS; slot++)
		if (slot->binding.size && slot->as_id == as_id && slot->id == id)
			return true;
	return world->lost[as_id][id];
}

static bool is_granted(const struct world *world, uint32_t as_id, uint32_t id)
{
	return id >= world->vm.id_first && id < world->vm.id_end && !world->kept[as_id][id];
}

static enum gmem_reason judge_id(const struct world *world, const struct gmem_request *request,
				 uint32_t *id)
{
	const struct gmem_slot_opts *opts = &request->opts;

	*id = request->instead_of ? request->instead_of->id : opts->id;
	if (request->instead_of)
		return GMEM_REASON_NONE;
	if (!(opts->flags & FIXED)) {
		for (*id = 0; *id < IDS; ++*id)
			if (is_granted(world, opts->as_id, *id) &&
			    !is_taken(world, opts->as_id, *id))
				return GMEM_REASON_NONE;
		return GMEM_REASON_IDS_EXHAUSTED;
	}
	if (*id >= IDS)
		return GMEM_REASON_ID_BEYOND_LIMIT;
	if (!request->adopt && !is_granted(world, opts->as_id, *id))
		return GMEM_REASON_ID_NOT_GRANTED;
	return is_taken(world, opts->as_id, *id) ? GMEM_REASON_ID_TAKEN : GMEM_REASON_NONE;
}

static enum gmem_reason judge_guest_memfd(const struct world *world,
					  const struct gmem_slot_opts *opts)
{
	if (opts->flags & GMEM_SLOT_LOG_DIRTY)
		return GMEM_REASON_MEMFD_NO_DIRTY_LOG;
	if (opts->flags & GMEM_SLOT_READONLY)
		return GMEM_REASON_MEMFD_NO_READONLY;
	if (!(opts->memfd->flags & GMEM_MEMFD_MMAP) && !world->vm.has_private)
		return GMEM_REASON_MEMFD_IGNORED;
	return GMEM_REASON_NONE;
}

static enum gmem_reason judge_backing(const struct world *world, const struct gmem_request *request)
{
	const struct gmem_slot_opts *opts = &request->opts;
	const struct gmem_memfd *memfd = opts->memfd;
	bool mappable = memfd && memfd->flags & GMEM_MEMFD_MMAP;
	const struct gmem_memfd *seen = opts->map ? opts->map->memfd : mappable ? memfd : NULL;
	enum gmem_reason reason = GMEM_REASON_NONE;

	if ((memfd && memfd->vm != &world->vm) ||
	    (opts->map && opts->map->user == &world->other_vm))
		return GMEM_REASON_MEMFD_FOREIGN;
	if (memfd && memfd->kind == GMEM_MEMFD_KIND_GUEST)
		reason = judge_guest_memfd(world, opts);
	if (reason)
		return reason;
	if (seen && seen->kind == GMEM_MEMFD_KIND_GUEST &&
	    !(seen->flags & GMEM_MEMFD_INIT_SHARED) && !(seen == memfd && world->vm.has_private))
		return GMEM_REASON_MEMFD_UNTOUCHABLE;
	if (mappable && (seen != memfd || (opts->host && !request->adopt)))
		return world->vm.has_private ? GMEM_REASON_MEMFD_HIDES_SHARED
					     : GMEM_REASON_HOST_NOT_MAPPING;
	if (opts->flags & GMEM_SLOT_READONLY)
		return world->vm.caps.cap[GMEM_CAP_READONLY_MEM].value
			       ? GMEM_REASON_NONE
			       : GMEM_REASON_FLAGS_UNSUPPORTED;
	return opts->map && !(opts->map->prot & GMEM_PROT_WRITE) ? GMEM_REASON_ACCESS_READONLY
								 : GMEM_REASON_NONE;
}

static enum gmem_reason judge(const struct world *world, const struct gmem_request *request,
			      uint32_t *id)
{
	enum gmem_reason reason = judge_shape(request);

	if (!reason && request->opts.as_id >= SPACES)
		reason = GMEM_REASON_AS_BEYOND_LIMIT;
	if (!reason)
		reason = judge_ranges(world, &request->opts);
	if (!reason)
		reason = judge_overlap(world, request);
	if (!reason && request->opts.size / PAGE >= UINT64_C(1) << 31)
		reason = GMEM_REASON_TOO_MANY_PAGES;
	if (!reason)
		reason = judge_id(world, request, id);
	return reason ? reason : judge_backing(world, request);
}

/* ---- The world, for both ---- */

static void make_world(struct world *world, struct fuzz_input *input)
{
	uint64_t kind = fuzz_take(input, 1);
	struct gmem_vm *vm = &world->vm;

	memset(world, 0, sizeof(*world));
	vm->page_size = PAGE;
	vm->has_private = kind & 1;
	vm->caps.cap[GMEM_CAP_READONLY_MEM].value = kind >> 1 & 1;
	vm->gpa_limit = kind & 4 ? 64 * PAGE : UINT64_C(1) << 52;
	vm->hva_limit = UINT64_C(1) << 47;
	vm->nr_ids = IDS;
	vm->id_first = (uint32_t)fuzz_take(input, 1) % IDS;
	vm->id_end = vm->id_first + 1 + (uint32_t)fuzz_take(input, 1) % (IDS - vm->id_first);
	vm->nr_spaces = SPACES;
	vm->spaces = world->spaces;
	for (int i = 0; i < SPACES; i++)
		world->spaces[i] = (struct gmem_space){.slot = world->by_id[i],
						       .taken = world->taken[i],
						       .kept = world->kept_ids[i]};
	for (int i = 0; i < 3; i++)
		world->memfds[i] = (struct gmem_memfd){
			.vm = i == 1 ? &world->other_vm : vm,
			.fd = i,
			.kind = i < 2 ? GMEM_MEMFD_KIND_GUEST : GMEM_MEMFD_KIND_SEALED,
			.size = kind & 8 ? 48 * PAGE : UINT64_C(1) << 60,
			.flags = i < 2 ? kind >> 4 & 3 : 0,
			.page_size = PAGE,
		};
	for (size_t i = 0; i < 2; i++)
		world->maps[i] = (struct gmem_map){
			.memfd = &world->memfds[2 * i],
			.offset = 8 * PAGE,
			.size = 24 * PAGE,
			.prot = GMEM_PROT_READ | (kind & 64 ? GMEM_PROT_WRITE : 0),
			.user = kind & 128 ? &world->other_vm : NULL,
		};
}

static void unbind(struct world *world, struct gmem_slot *slot)
{
	struct gmem_space *space = &world->spaces[slot->as_id];

	if (slot->binding.size == 0)
		return;
	gmem_interval_remove(&space->slots, slot->binding.gpa);
	if (slot->binding.memfd == &world->memfds[0])
		gmem_interval_remove(&slot->binding.memfd->bound, slot->binding.offset);
	space->slot[slot->id] = NULL;
	space->taken[slot->id / 64] &= ~(UINT64_C(1) << slot->id % 64);
	slot->binding.size = 0;
}

static void bind_range(struct gmem_interval_set *set, uint64_t start, uint64_t size, uint32_t id)
{
	struct gmem_interval interval = {.start = start, .end = start + size, .id = id};

	FUZZ_EXPECT(gmem_interval_reserve(set, 1) == 0);
	gmem_interval_insert(set, &interval);
}

static void bind(struct world *world, const struct gmem_request *request, struct gmem_slot *slot)
{
	const struct gmem_slot_opts *opts = &request->opts;
	struct gmem_space *space = &world->spaces[opts->as_id];

	unbind(world, slot);
	slot->as_id = opts->as_id;
	slot->id = request->id;
	slot->binding = (struct gmem_binding){
		.gpa = opts->gpa, .size = opts->size, .offset = opts->offset, .memfd = opts->memfd};
	bind_range(&space->slots, opts->gpa, opts->size, slot->id);
	if (opts->memfd == &world->memfds[0])
		bind_range(&opts->memfd->bound, opts->offset, opts->size, gmem_slot_number(slot));
	space->slot[slot->id] = slot;
	space->taken[slot->id / 64] |= UINT64_C(1) << slot->id % 64;
}

/* The VMM's own: an id, a range; and an id that KVM did not give back. */
static void withhold(struct world *world, struct fuzz_input *input)
{
	uint64_t what = fuzz_take(input, 1), number = fuzz_take(input, 1);
	uint32_t as_id = what & 1, id = (uint32_t)number % IDS;
	struct gmem_space *space = &world->spaces[as_id];

	if (what & 2) {
		world->kept[as_id][id] = true;
		space->kept[id / 64] |= UINT64_C(1) << id % 64;
	} else if (what & 4 && !is_taken(world, as_id, id)) {
		world->lost[as_id][id] = true;
		space->taken[id / 64] |= UINT64_C(1) << id % 64;
	} else if (world->reserved[as_id].end == 0) {
		world->reserved[as_id].start = number * PAGE;
		world->reserved[as_id].end = (number + 1 + (what >> 4)) * PAGE;
		bind_range(&space->reserved, number * PAGE, (1 + (what >> 4)) * PAGE, 0);
	}
}

/* A number of bytes: mostly of a few pages. */
static uint64_t take_bytes(struct fuzz_input *input)
{
	uint64_t kind = fuzz_take(input, 1), number = fuzz_take(input, 1);

	switch (kind) {
	case 0:
		return number;
	case 1:
		return -(number % 8 * PAGE);
	case 2:
		return UINT64_C(1) << number % 64;
	default:
		return number % 80 * PAGE;
	}
}

static void ask(struct world *world, struct fuzz_input *input, struct gmem_slot *slot)
{
	uint64_t what = fuzz_take(input, 1), files = fuzz_take(input, 1);
	struct gmem_request request = {.vm = &world->vm, .adopt = what & 1};
	struct gmem_slot_opts *opts = &request.opts;
	enum gmem_reason reason;
	uint32_t id = 0;
	int r;

	opts->flags = (what >> 1 & 3) | (what & 8 ? FIXED : 0) | (what == 255 ? 4 : 0);
	opts->as_id = (uint32_t)(what >> 4 & 3) % (SPACES + 1);
	opts->memfd = files % 4 < 3 ? &world->memfds[files % 4] : NULL;
	opts->map = files & 4 ? &world->maps[files >> 3 & 1] : NULL;
	opts->gpa = take_bytes(input);
	opts->size = take_bytes(input);
	opts->offset = files & 16 ? take_bytes(input) : 0;
	opts->host = files & 32 ? (void *)(uintptr_t)take_bytes(input) : NULL;
	opts->id = files & 64 ? (uint32_t)fuzz_take(input, 1) : 0;
	if (what & 64 && slot->binding.size) {
		request.instead_of = slot;
		request.adopt = false;
		opts->as_id = slot->as_id;
	}
	reason = judge(world, &request, &id);
	r = gmem_request_check_shape(&request);
	if (r == 0)
		r = gmem_request_validate(&request);
	FUZZ_EXPECT((r == 0) == (reason == GMEM_REASON_NONE));
	FUZZ_EXPECT(r == 0 || gmem_error_get_reason() == reason);
	FUZZ_EXPECT(r < 0 || request.id == id);
	if (r == 0 && (request.instead_of || !slot->binding.size))
		bind(world, &request, slot);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct world world;
	struct fuzz_input input = {data, size};

	make_world(&world, &input);
	while (input.size > 0) {
		uint64_t order = fuzz_take(&input, 1);
		struct gmem_slot *slot = &world.slots[order % SLOTS];

		if (order >= 240)
			withhold(&world, &input);
		else if (order >= 208)
			unbind(&world, slot);
		else
			ask(&world, &input, slot);
	}
	for (int i = 0; i < SPACES; i++) {
		gmem_interval_fini(&world.spaces[i].slots);
		gmem_interval_fini(&world.spaces[i].reserved);
	}
	gmem_interval_fini(&world.memfds[0].bound);
	return 0;
}
