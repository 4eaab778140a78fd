/* SPDX-License-Identifier: MIT */
/*
 * Each refusal of a slot by each call that makes one, and which comes first where two apply; each
 * reason of the calls that convert, look at exits, pre-fault and count.
 */
#include "harness.h"
#include "script.h"

#include "uapi/kvm.h"
#include "vm.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define NOTHING "%s", ""
#define BOTH	(GMEM_MEMFD_MMAP | GMEM_MEMFD_INIT_SHARED)
#define HUGE	(UINT64_C(1) << 62)
#define FIXED	GMEM_SLOT_FIXED_ID

static struct gmem_fake *fake;
static struct gmem_vm *vm;

/* The VMM's own memory. */
static char ram[0x10000] __attribute__((aligned(0x10000)));

static int create(struct gmem_slot_opts opts, struct gmem_slot **slot)
{
	opts.sz = sizeof(opts);
	return gmem_slot_create(vm, &opts, slot);
}

/* What can be wrong, in the order of the header. */
enum {
	GPA = 1,
	ID = 2,
	SPAN = 4,
	OFFSET = 8,
	HOST = 16,
	MEMFD = 32,
	READONLY = 64,
	PLAIN = 128 /* no memfd any more */
};

/* All that the faults need. */
static struct {
	struct gmem_memfd *own, *another, *foreign, *ignored, *untouchable;
	struct gmem_map *small, *readonly, *stranger;
	struct gmem_vm *other;
	struct gmem_slot *slot, *victim; /* one in the way, one to be replaced */
} stage;

static void reserve_all_ids(void)
{
	struct gmem_reserve_opts opts = {.sz = sizeof(opts), .id_first = 2, .id_count = 14};

	ck_works(gmem_vm_reserve(vm, &opts));
}

static const struct fault {
	int error;
	enum gmem_reason reason;
	unsigned int sets, needs; /* members: two faults that do not touch go together */
} faults[] = {
	{EINVAL, GMEM_REASON_FLAGS_UNKNOWN, 0, 0},
	{EINVAL, GMEM_REASON_CONFLICT, ID, 0},
	{ERANGE, GMEM_REASON_AS_BEYOND_LIMIT, 0, 0},
	{EINVAL, GMEM_REASON_RANGE_EMPTY, SPAN, 0},
	{EINVAL, GMEM_REASON_RANGE_UNALIGNED, 0, 0},
	{EOVERFLOW, GMEM_REASON_RANGE_WRAPS, GPA, 0},
	{ERANGE, GMEM_REASON_GPA_BEYOND_WIDTH, GPA, 0},
	{ERANGE, GMEM_REASON_MEMFD_BEYOND_END, OFFSET, PLAIN},
	{ERANGE, GMEM_REASON_MAP_BEYOND_END, HOST, 0},
	{ERANGE, GMEM_REASON_HOST_NOT_CANONICAL, HOST, 0},
	{EEXIST, GMEM_REASON_GPA_RESERVED, GPA, 0},
	{EEXIST, GMEM_REASON_GPA_OVERLAP, GPA, 0},
	{EEXIST, GMEM_REASON_MEMFD_OVERLAP, OFFSET | MEMFD, PLAIN},
	{ERANGE, GMEM_REASON_TOO_MANY_PAGES, SPAN, 0},
	{ERANGE, GMEM_REASON_ID_BEYOND_LIMIT, ID, 0},
	{EPERM, GMEM_REASON_ID_NOT_GRANTED, ID, 0},
	{EEXIST, GMEM_REASON_ID_TAKEN, ID, 0},
	{ENOSPC, GMEM_REASON_IDS_EXHAUSTED, 0, ID},
	{EXDEV, GMEM_REASON_MEMFD_FOREIGN, MEMFD, PLAIN},
	{EOPNOTSUPP, GMEM_REASON_MEMFD_NO_DIRTY_LOG, 0, PLAIN},
	{EOPNOTSUPP, GMEM_REASON_MEMFD_NO_READONLY, READONLY, PLAIN},
	{EINVAL, GMEM_REASON_MEMFD_IGNORED, MEMFD, PLAIN},
	{EINVAL, GMEM_REASON_MEMFD_UNTOUCHABLE, MEMFD, PLAIN},
	{EINVAL, GMEM_REASON_HOST_NOT_MAPPING, HOST, PLAIN},
	{EOPNOTSUPP, GMEM_REASON_FLAGS_UNSUPPORTED, MEMFD | HOST | OFFSET | READONLY | PLAIN, SPAN},
	{EACCES, GMEM_REASON_ACCESS_READONLY, HOST, SPAN | OFFSET | MEMFD | READONLY | PLAIN},
};

static void add_fault(struct gmem_slot_opts *opts, enum gmem_reason reason)
{
	switch ((int)reason) {
	case GMEM_REASON_FLAGS_UNKNOWN:
		opts->flags |= UINT64_C(1) << 40;
		break;
	case GMEM_REASON_CONFLICT: /* an id, but not FIXED_ID */
		opts->id = 5;
		break;
	case GMEM_REASON_AS_BEYOND_LIMIT:
		opts->as_id = 2;
		break;
	case GMEM_REASON_RANGE_EMPTY:
		opts->size = 0;
		break;
	case GMEM_REASON_RANGE_UNALIGNED:
		opts->gpa |= 0x800;
		break;
	case GMEM_REASON_RANGE_WRAPS:
		opts->gpa |= UINT64_MAX - 0xfff;
		break;
	case GMEM_REASON_GPA_BEYOND_WIDTH:
		opts->gpa = (UINT64_C(1) << 46) | (opts->gpa & 0xfff);
		break;
	case GMEM_REASON_MEMFD_BEYOND_END:
		opts->offset = HUGE;
		break;
	case GMEM_REASON_MAP_BEYOND_END:
		opts->map = stage.small;
		break;
	case GMEM_REASON_HOST_NOT_CANONICAL:
		opts->host = (void *)((uintptr_t)1 << 47);
		break;
	case GMEM_REASON_GPA_RESERVED:
		opts->gpa = 0x100000 | (opts->gpa & 0xfff);
		break;
	case GMEM_REASON_GPA_OVERLAP:
		opts->gpa = 0x200000 | (opts->gpa & 0xfff);
		break;
	case GMEM_REASON_MEMFD_OVERLAP:
		opts->offset = 0x4000;
		break;
	case GMEM_REASON_TOO_MANY_PAGES:
		opts->size = UINT64_C(1) << 43;
		break;
	case GMEM_REASON_ID_BEYOND_LIMIT:
	case GMEM_REASON_ID_NOT_GRANTED:
	case GMEM_REASON_ID_TAKEN:
		opts->flags |= FIXED;
		opts->id = reason == GMEM_REASON_ID_TAKEN	  ? 0
			   : reason == GMEM_REASON_ID_NOT_GRANTED ? 16
								  : 32764;
		break;
	case GMEM_REASON_IDS_EXHAUSTED:
		reserve_all_ids();
		break;
	case GMEM_REASON_MEMFD_FOREIGN:
		opts->memfd = stage.foreign;
		break;
	case GMEM_REASON_MEMFD_NO_DIRTY_LOG:
		opts->flags |= GMEM_SLOT_LOG_DIRTY;
		break;
	case GMEM_REASON_MEMFD_NO_READONLY:
		opts->flags |= GMEM_SLOT_READONLY;
		break;
	case GMEM_REASON_MEMFD_IGNORED:
		opts->memfd = stage.ignored;
		break;
	case GMEM_REASON_MEMFD_UNTOUCHABLE:
		opts->memfd = stage.untouchable;
		break;
	case GMEM_REASON_HOST_NOT_MAPPING:
		opts->host = ram;
		break;
	case GMEM_REASON_FLAGS_UNSUPPORTED:
		opts->memfd = NULL;
		opts->offset = 0;
		opts->host = ram;
		opts->flags |= GMEM_SLOT_READONLY;
		break;
	case GMEM_REASON_ACCESS_READONLY:
		opts->map = stage.readonly;
		break;
	default:
		ck_abort_msg("no fault %d", (int)reason);
	}
}

static struct gmem_map *map_part(struct gmem_memfd *memfd, uint64_t offset, uint64_t size,
				 uint32_t prot)
{
	struct gmem_map_opts opts = {
		.sz = sizeof(opts), .offset = offset, .size = size, .prot = prot};
	struct gmem_map *part;

	ck_works(gmem_map_create(memfd, &opts, &part));
	return part;
}

static struct gmem_slot *make(uint64_t gpa, uint64_t offset)
{
	struct gmem_slot_opts opts = {.sz = sizeof(opts),
				      .gpa = gpa,
				      .size = 0x4000,
				      .memfd = stage.own,
				      .offset = offset};
	struct gmem_slot *slot;

	ck_works(gmem_slot_create(vm, &opts, &slot));
	return slot;
}

/* Ids 0 and 1 (slots) to 15 are granted; gpa 0x100000 is reserved, 0x200000 in use, at 0x4000. */
static void set_stage(void)
{
	struct gmem_vm_opts opts = {.sz = sizeof(opts), .id_count = 16};
	struct gmem_reserve_opts reserve = {
		.sz = sizeof(reserve), .gpa = 0x100000, .size = 0x100000};

	fake = script_new(GMEM_FAKE_LINUX_6_18);
	fake->caps[KVM_CAP_READONLY_MEM] = 0;
	ck_works(gmem_fake_open_vm(fake, &opts, &vm));
	ck_works(gmem_fake_open_vm(fake, &opts, &stage.other));
	ck_works(gmem_vm_reserve(vm, &reserve));
	stage.own = script_memfd(vm, HUGE, BOTH);
	stage.foreign = script_memfd(stage.other, HUGE, BOTH);
	stage.ignored = script_memfd(vm, HUGE, GMEM_MEMFD_INIT_SHARED);
	stage.untouchable = script_memfd(vm, HUGE, GMEM_MEMFD_MMAP);
	stage.small = map_part(stage.own, 0x8000, 0x1000, 0);
	stage.readonly = map_part(stage.own, 0x10000, 0x10000, GMEM_PROT_READ);
	stage.slot = make(0x200000, 0x4000);
	stage.victim = make(0x300000, HUGE - 0x10000);
	stage.another = script_memfd(vm, HUGE, BOTH);
	stage.stranger = map_part(stage.another, 0x10000, 0x10000, 0);
}

static void clear_stage(void)
{
	gmem_slot_close(stage.slot);
	gmem_slot_close(stage.victim);
	gmem_map_close(stage.stranger);
	gmem_memfd_close(stage.another);
	gmem_map_close(stage.small);
	gmem_map_close(stage.readonly);
	gmem_memfd_close(stage.own);
	gmem_memfd_close(stage.foreign);
	gmem_memfd_close(stage.ignored);
	gmem_memfd_close(stage.untouchable);
	gmem_vm_close(stage.other);
	gmem_vm_close(vm);
	script_end(fake);
}

static struct gmem_slot_opts right_opts(void)
{
	return (struct gmem_slot_opts){.sz = sizeof(struct gmem_slot_opts),
				       .gpa = UINT64_C(1) << 45,
				       .size = 0x2000,
				       .memfd = stage.own,
				       .offset = 0x10000};
}

static void check_faults(size_t i, size_t j)
{
	struct gmem_slot *slot = (void *)&slot;
	struct gmem_slot_opts opts;
	char what[64];

	set_stage();
	opts = right_opts();
	snprintf(what, sizeof(what), "%s and %s", gmem_reason_to_string(faults[i].reason),
		 gmem_reason_to_string(faults[j].reason));
	add_fault(&opts, faults[j].reason);
	if (i != j)
		add_fault(&opts, faults[i].reason);
	gmem_fake_expect(fake, NOTHING);
	script_check_failure(create(opts, &slot), faults[i].error, faults[i].reason, what, __FILE__,
			     __LINE__);
	ck_assert_ptr_null(slot);
	gmem_fake_met(fake);
	clear_stage();
}

/* Each fault alone, and with each that comes after it in the header's list. */
START_TEST(refusal_order)
{
	const struct fault *fault = &faults[_i];

	for (size_t j = (size_t)_i; j < ARRAY_SIZE(faults); j++) {
		const struct fault *other = &faults[j];

		if (fault == other || (!(fault->sets & (other->sets | other->needs)) &&
				       !(other->sets & fault->needs)))
			check_faults((size_t)_i, j);
	}
}
END_TEST

/* What the other rows of refusal_order do not reach. */
/* The ends of what is possible, from both sides. */
static const struct {
	struct gmem_slot_opts opts;
	bool with_memfd;
	int error;
	enum gmem_reason reason;
} edges[] = {
	{{.gpa = UINT64_C(1) << 45, .size = UINT64_C(0x1000) * INT32_MAX, .offset = 0x8000},
	 true,
	 0,
	 0},
	{{.gpa = UINT64_C(1) << 45, .size = UINT64_C(0x1000) << 31, .offset = 0x8000},
	 true,
	 ERANGE,
	 GMEM_REASON_TOO_MANY_PAGES},
	{{.size = 0x1000, .offset = HUGE - 0x1000}, true, 0, 0},
	{{.size = 0x2000, .offset = HUGE - 0x1000}, true, ERANGE, GMEM_REASON_MEMFD_BEYOND_END},
	{{.size = 0x1000, .offset = 0x800}, true, EINVAL, GMEM_REASON_RANGE_UNALIGNED},
	{{.size = 0x2000, .offset = UINT64_MAX - 0xfff}, true, EOVERFLOW, GMEM_REASON_RANGE_WRAPS},
	{{.size = 0x2000, .offset = (UINT64_C(1) << 63) - 0x1000},
	 true,
	 ERANGE,
	 GMEM_REASON_MEMFD_BEYOND_END},
	{{.size = 0x800, .host = ram}, false, EINVAL, GMEM_REASON_RANGE_UNALIGNED},
	{{.size = 0x1000, .host = ram + 0x800}, false, EINVAL, GMEM_REASON_RANGE_UNALIGNED},
	{{.size = 0x1000, .host = (void *)0x7fffffffe000}, false, 0, 0},
#ifdef __x86_64__ /* the last page is no process's there */
	{{.size = 0x1000, .host = (void *)0x7ffffffff000},
	 false,
	 ERANGE,
	 GMEM_REASON_HOST_NOT_CANONICAL},
#else
	{{.size = 0x1000, .host = (void *)0x7ffffffff000}, false, 0, 0},
#endif
	{{.size = 0x2000, .host = (void *)0x7ffffffff000},
	 false,
	 ERANGE,
	 GMEM_REASON_HOST_NOT_CANONICAL},
	{{.size = 0x1000, .host = (void *)0xfffffffffffff000},
	 false,
	 EOVERFLOW,
	 GMEM_REASON_RANGE_WRAPS},
	{{.size = 0x1000, .host = ram, .as_id = 1, .gpa = 0x200000}, false, 0, 0},
	{{.size = 0x1000, .host = ram, .gpa = 0x1ff000}, false, EEXIST, GMEM_REASON_GPA_RESERVED},
	{{.size = 0x1000, .host = ram, .gpa = 0xff000}, false, 0, 0},
	{{.size = 0x2000, .host = ram, .gpa = 0xff000}, false, EEXIST, GMEM_REASON_GPA_RESERVED},
	{{.size = 0x1000, .host = ram, .gpa = 0x203000}, false, EEXIST, GMEM_REASON_GPA_OVERLAP},
	{{.size = 0x1000, .host = ram, .gpa = 0x204000}, false, 0, 0},
	{{.size = 0x1000, .offset = 0x3000}, true, 0, 0},
	{{.size = 0x2000, .offset = 0x3000}, true, EEXIST, GMEM_REASON_MEMFD_OVERLAP},
	{{.size = 0x1000, .offset = 0x7000, .as_id = 1}, true, EEXIST, GMEM_REASON_MEMFD_OVERLAP},
	{{.size = 0x1000, .offset = 0x8000}, true, 0, 0},
	{{.size = 0x1000, .host = ram, .flags = FIXED, .id = 15}, false, 0, 0},
	{{.size = 0x1000, .host = ram, .flags = FIXED, .id = 32763},
	 false,
	 EPERM,
	 GMEM_REASON_ID_NOT_GRANTED},
	{{.size = 0x1000, .host = ram, .flags = FIXED, .id = UINT32_MAX},
	 false,
	 ERANGE,
	 GMEM_REASON_ID_BEYOND_LIMIT},
	{{.size = 0x1000, .host = ram, .as_id = UINT32_MAX},
	 false,
	 ERANGE,
	 GMEM_REASON_AS_BEYOND_LIMIT},
};

static bool has_addresses(uint64_t size)
{
	void *addr =
		mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return addr != MAP_FAILED && munmap(addr, size) == 0;
}

START_TEST(edge_of_a_check)
{
	struct gmem_slot_opts opts = edges[_i].opts;
	struct gmem_slot *slot;

	if (edges[_i].with_memfd && !has_addresses(opts.size))
		SKIP("this process has no room to map the largest slot");
	set_stage();
	opts.memfd = edges[_i].with_memfd ? stage.own : NULL;
	if (edges[_i].error) {
		gmem_fake_expect(fake, NOTHING);
		script_check_failure(create(opts, &slot), edges[_i].error, edges[_i].reason, "edge",
				     __FILE__, __LINE__);
		gmem_fake_met(fake);
	} else {
		ck_works(create(opts, &slot));
	}
	gmem_slot_close(slot);
	clear_stage();
}
END_TEST

/* The message names what is in the way. */
START_TEST(overlaps_are_named)
{
	struct gmem_slot *slot;

	set_stage();
	ck_fails(create((struct gmem_slot_opts){.gpa = 0x203000, .size = 0x1000, .host = ram},
			&slot),
		 EEXIST, GPA_OVERLAP);
	ck_assert_str_eq(gmem_error_get_message(),
			 "gpa [0x203000, +0x1000) overlaps slot 0 at [0x200000, 0x204000)");
	ck_fails(create((struct gmem_slot_opts){.size = 0x1000,
						.memfd = stage.own,
						.offset = 0x7000},
			&slot),
		 EEXIST, MEMFD_OVERLAP);
	ck_assert_ptr_nonnull(strstr(gmem_error_get_message(), "[0x4000, 0x8000)"));
	ck_assert_ptr_nonnull(strstr(gmem_error_get_message(), "slot 0 of address space 0"));
	clear_stage();
}
END_TEST

/* ---- The other calls that make slots ---- */

static bool is_about_ids(enum gmem_reason reason)
{
	return reason == GMEM_REASON_ID_BEYOND_LIMIT || reason == GMEM_REASON_ID_NOT_GRANTED ||
	       reason == GMEM_REASON_ID_TAKEN || reason == GMEM_REASON_IDS_EXHAUSTED;
}

/* The first entry is right, so that only the second can be at fault. */
START_TEST(create_many_refuses_the_same)
{
	const struct fault *fault = &faults[_i];
	struct gmem_slot *slots[2] = {(void *)slots, (void *)slots};
	struct gmem_slot_opts opts[2];

	set_stage();
	opts[0] = (struct gmem_slot_opts){
		.sz = sizeof(opts[0]), .gpa = UINT64_C(1) << 44, .size = 0x1000, .host = ram};
	opts[1] = right_opts();
	add_fault(&opts[1], fault->reason);
	gmem_fake_expect(fake, NOTHING);
	script_check_failure(gmem_slot_create_many(vm, opts, 2, slots), fault->error, fault->reason,
			     gmem_reason_to_string(fault->reason), __FILE__, __LINE__);
	ck_assert_ptr_null(slots[0]);
	ck_assert_ptr_null(slots[1]);
	gmem_fake_met(fake);
	clear_stage();
}
END_TEST

/* A replaced slot keeps its id and address space: nothing can be wrong with those. */
START_TEST(replace_refuses_the_same)
{
	struct gmem_replace_opts how = {.sz = sizeof(how), .flags = GMEM_REPLACE_NO_VCPUS};
	const struct fault *fault = &faults[_i];
	struct gmem_slot_opts opts;

	if (is_about_ids(fault->reason) || fault->reason == GMEM_REASON_AS_BEYOND_LIMIT)
		return;
	set_stage();
	opts = right_opts();
	add_fault(&opts, fault->reason);
	gmem_fake_expect(fake, NOTHING);
	script_check_failure(gmem_slot_replace(stage.victim, &opts, &how), fault->error,
			     fault->reason, gmem_reason_to_string(fault->reason), __FILE__,
			     __LINE__);
	ck_assert_uint_eq(gmem_slot_get_gpa(stage.victim), 0x300000);
	gmem_fake_met(fake);
	clear_stage();
}
END_TEST

/* What adopting wants beyond the options of creating: an id, and the address that KVM has. */
static void complete_for_adoption(struct gmem_slot_opts *opts, enum gmem_reason reason)
{
	if (reason == GMEM_REASON_HOST_NOT_MAPPING) {
		opts->host = NULL;
		opts->map = stage.stranger;
	}
	if (!opts->host && !opts->map)
		opts->host = ram;
	if (reason != GMEM_REASON_CONFLICT)
		opts->flags |= FIXED;
	if (!is_about_ids(reason))
		opts->id = 9;
}

START_TEST(adopt_refuses_the_same)
{
	const struct fault *fault = &faults[_i];
	struct gmem_slot *slot = (void *)&slot;
	struct gmem_slot_opts opts;

	/* Of no concern to a slot that the VMM has set itself. */
	if (fault->reason == GMEM_REASON_GPA_RESERVED ||
	    fault->reason == GMEM_REASON_ID_NOT_GRANTED ||
	    fault->reason == GMEM_REASON_IDS_EXHAUSTED)
		return;
	set_stage();
	opts = right_opts();
	add_fault(&opts, fault->reason);
	complete_for_adoption(&opts, fault->reason);
	gmem_fake_expect(fake, NOTHING);
	script_check_failure(gmem_slot_adopt(vm, &opts, &slot), fault->error, fault->reason,
			     gmem_reason_to_string(fault->reason), __FILE__, __LINE__);
	ck_assert_ptr_null(slot);
	gmem_fake_met(fake);
	clear_stage();
}
END_TEST

/* On a VM with private memory: a mappable memfd would take the shared half's place. */
START_TEST(hidden_shared_half)
{
	struct gmem_slot_opts opts = {.sz = sizeof(opts), .size = 0x1000, .flags = FIXED, .id = 3};
	struct gmem_replace_opts how = {.sz = sizeof(how), .flags = GMEM_REPLACE_NO_VCPUS};
	struct gmem_memfd *shared, *separate;
	struct gmem_map *map;
	struct gmem_slot *slot, *none;

	fake = script_new(GMEM_FAKE_PRIVATE);
	vm = script_vm(fake, 0);
	shared = script_memfd(vm, 0x10000, GMEM_MEMFD_MMAP);
	opts.host = ram;
	ck_works(gmem_slot_create(vm, &opts, &slot));
	separate = script_memfd(vm, 0x10000, GMEM_MEMFD_MMAP);
	ck_works(gmem_map_create(separate, NULL, &map));
	opts.gpa = 0x10000;
	opts.memfd = shared;
	ck_fails(gmem_slot_replace(slot, &opts, &how), EINVAL, MEMFD_HIDES_SHARED);
	opts.id = 4;
	ck_fails(gmem_slot_create_many(vm, &opts, 1, &none), EINVAL, MEMFD_HIDES_SHARED);
	opts.host = NULL;
	opts.map = map;
	ck_fails(gmem_slot_adopt(vm, &opts, &none), EINVAL, MEMFD_UNTOUCHABLE);
	gmem_slot_close(slot);
	gmem_map_close(map);
	gmem_memfd_close(separate);
	gmem_memfd_close(shared);
	gmem_vm_close(vm);
	script_end(fake);
}
END_TEST

/* ---- Conversion, exits, pre-fault, statistics: each reason that the header lists ---- */

#define PAGE UINT64_C(0x1000)
#define WRAP (UINT64_MAX - 0xfff)

static struct gmem_memfd *half;
static struct gmem_slot *bound[3];
static struct gmem_vcpu *vcpu;
static struct kvm_run run;
static int vcpu_fd;

/*
 * 0x10000: four pages of a private half and ram, of which 0x12000 is private; 0x20000: a page of a
 * private half alone; 0x30000: a page of ram alone.
 */
static void start_private(enum gmem_fake_kernel kernel)
{
	struct gmem_slot_opts opts[] = {
		{.gpa = 0x10000, .size = 0x4000, .host = ram},
		{.gpa = 0x20000, .size = PAGE, .offset = 0x8000},
		{.gpa = 0x30000, .size = PAGE, .host = ram + 0x8000},
	};
	struct gmem_vm_opts vm_opts = {.sz = sizeof(vm_opts), .type = 1};

	fake = script_new(kernel);
	ck_works(gmem_fake_open_vm(fake, &vm_opts, &vm));
	half = script_memfd(vm, 0x10000, 0);
	opts[0].memfd = opts[1].memfd = half;
	for (size_t i = 0; i < 3 && kernel == GMEM_FAKE_PRIVATE; i++)
		ck_works(create(opts[i], &bound[i]));
	if (kernel == GMEM_FAKE_PRIVATE)
		ck_works(gmem_vm_convert(vm, 0x12000, PAGE, GMEM_VISIBILITY_PRIVATE,
					 GMEM_CONVERT_DISCARD, NULL));
	vcpu_fd = gmem_fake_make_vcpu(fake, gmem_vm_get_fd(vm), &run);
	ck_works(gmem_vcpu_open(vm, vcpu_fd, &run, &vcpu));
}

static void end_private(void)
{
	gmem_fake_recover(fake);
	gmem_vcpu_close(vcpu);
	for (size_t i = 0; i < 3; i++) {
		gmem_slot_close(bound[i]);
		bound[i] = NULL;
	}
	gmem_memfd_close(half);
	gmem_vm_close(vm);
	gmem_fake_close_fd(fake, vcpu_fd);
	script_end(fake);
}

static int call_convert(uint64_t gpa, uint64_t size, int to)
{
	return gmem_vm_convert(vm, gpa, size, (enum gmem_visibility)to, GMEM_CONVERT_KEEP, NULL);
}

static int call_adopt(uint64_t gpa, uint64_t size, int visibility)
{
	return gmem_vm_adopt_visibility(vm, gpa, size, (enum gmem_visibility)visibility);
}

static int call_visibility(uint64_t gpa, uint64_t size, int unused)
{
	enum gmem_visibility visibility;

	(void)unused;
	return gmem_vm_get_visibility(vm, gpa, &visibility, &size);
}

static int call_in_place(uint64_t offset, uint64_t size, int to)
{
	return gmem_memfd_convert(half, offset, size, (enum gmem_visibility)to, NULL);
}

static int refuse(void *data, const struct gmem_conversion *conversion)
{
	(void)data;
	(void)conversion;
	return -EXDEV;
}

static int call_add_notifier(uint64_t with, uint64_t unused, int unused2)
{
	struct gmem_notifier_opts opts = {.sz = sizeof(opts), .prepare = with ? refuse : NULL};
	struct gmem_notifier *notifier;
	int r = gmem_vm_add_notifier(vm, &opts, &notifier);

	(void)unused;
	(void)unused2;
	gmem_notifier_close(notifier);
	return r;
}

static int call_refused_convert(uint64_t gpa, uint64_t size, int to)
{
	struct gmem_notifier_opts opts = {.sz = sizeof(opts), .prepare = refuse};
	struct gmem_notifier *notifier;
	int r;

	ck_works(gmem_vm_add_notifier(vm, &opts, &notifier));
	r = call_convert(gpa, size, to);
	gmem_notifier_close(notifier);
	return r;
}

static int call_enable(uint64_t unused, uint64_t unused2, int unused3)
{
	(void)unused;
	(void)unused2;
	(void)unused3;
	return gmem_vm_enable_map_gpa_range(vm);
}

static int call_vcpu_open(uint64_t unused, uint64_t unused2, int which)
{
	struct gmem_vcpu *other;
	int r = gmem_vcpu_open(vm,
			       which < 0 ? which
			       : which	 ? gmem_vm_get_fd(vm)
					 : vcpu_fd,
			       &run, &other);

	(void)unused;
	(void)unused2;
	gmem_vcpu_close(other);
	return r;
}

static int call_decode(uint64_t unused, uint64_t unused2, int size)
{
	struct gmem_exit exit = {.sz = (size_t)size};

	(void)unused;
	(void)unused2;
	return gmem_vcpu_decode(vcpu, 0, 0, &exit);
}

static int call_resolve(uint64_t gpa, uint64_t flags, int kind)
{
	struct gmem_exit exit = {.sz = sizeof(exit),
				 .kind = (enum gmem_exit_kind)kind,
				 .flags = GMEM_EXIT_ADDRESS,
				 .gpa = gpa,
				 .size = PAGE};
	struct gmem_resolve_opts opts = {.sz = sizeof(opts), .flags = flags, .repeat_limit = 1};

	if (kind == GMEM_EXIT_RETRY)
		ck_works(gmem_vcpu_resolve(vcpu, &exit, &opts));
	return gmem_vcpu_resolve(vcpu, &exit, &opts);
}

static int call_prefault(uint64_t gpa, uint64_t size, int stop)
{
	struct gmem_prefault_opts opts = {.sz = sizeof(opts), .stop = &stop};

	return gmem_vcpu_prefault(vcpu, gpa, size, &opts, NULL);
}

static int call_vm_prefault(uint64_t gpa, uint64_t size, int count)
{
	struct gmem_vcpu *twice[] = {vcpu, vcpu};

	return gmem_vm_prefault(vm, twice, (size_t)count, gpa, size, NULL, NULL);
}

static int call_stats(uint64_t unused, uint64_t unused2, int size)
{
	struct gmem_stats stats = {.sz = (size_t)size};

	(void)unused;
	(void)unused2;
	return gmem_vm_get_stats(vm, &stats);
}

static int call_memory(uint64_t unused, uint64_t unused2, int size)
{
	struct gmem_slot_memory memory = {.sz = (size_t)size};

	(void)unused;
	(void)unused2;
	return gmem_slot_get_memory(bound[0], &memory);
}

/* Where a call is made. */
enum place {
	HERE,
	IN_A_CHILD,
	IN_A_CALLBACK,
	ON_A_PLAIN_VM
};

struct raised {
	int (*call)(uint64_t a, uint64_t b, int c);
	uint64_t a, b;
	int c;
	int error;
	enum gmem_reason reason;
	enum place place;
	int order; /* an errno */
	const char *part;
	const char *undo; /* fails too */
};

#define RAISED(call, a, b, c, error, reason, ...)                                                  \
	{                                                                                          \
		call_##call, a, b, c, error, GMEM_REASON_##reason, __VA_ARGS__                     \
	}
/* What all calls that change have in common, and what all calls. */
#define CHANGES(call, a, b, c)                                                                     \
	RAISED(call, a, b, c, EDEADLK, IN_CALLBACK, IN_A_CALLBACK),                                \
		RAISED(call, a, b, c, EIO, FORKED, IN_A_CHILD)
#define RANGES(call, to)                                                                           \
	RAISED(call, 0x1000, 0, to, EINVAL, RANGE_EMPTY, HERE),                                    \
		RAISED(call, 0x1800, PAGE, to, EINVAL, RANGE_UNALIGNED, HERE),                     \
		RAISED(call, 0x1000, 0x800, to, EINVAL, RANGE_UNALIGNED, HERE),                    \
		RAISED(call, WRAP, 0x2000, to, EOVERFLOW, RANGE_WRAPS, HERE)
#define WIDTH(call, to) RAISED(call, UINT64_C(1) << 46, PAGE, to, ERANGE, GPA_BEYOND_WIDTH, HERE)
#define SET		"SET_ATTRIBUTES"
#define FAULTED		"PRE_FAULT"

/* clang-format off */
static const struct raised raised[] = {
	CHANGES(convert, 0x11000, PAGE, 1),
	RANGES(convert, 1),
	WIDTH(convert, 0),
	RAISED(convert, 0x11000, PAGE, 2, EINVAL, ARGUMENT, HERE),
	RAISED(convert, 0x11000, PAGE, 1, EOPNOTSUPP, CAP_UNSUPPORTED, ON_A_PLAIN_VM),
	RAISED(convert, 0x14000, PAGE, 1, EFAULT, GPA_UNMAPPED, HERE),
	RAISED(convert, 0x30000, PAGE, 1, EFAULT, NO_PRIVATE_SIDE, HERE),
	RAISED(convert, 0x20000, PAGE, 0, EFAULT, NO_HOST_SIDE, HERE),
	RAISED(refused_convert, 0x11000, PAGE, 1, EXDEV, NOTIFIER_REFUSED, HERE),
	RAISED(convert, 0x11000, PAGE, 1, ENOMEM, NO_MEMORY, HERE, ENOMEM, SET),
	RAISED(convert, 0x11000, PAGE, 1, EINVAL, KERNEL_REFUSED, HERE, EINVAL, SET),
	RAISED(convert, 0x11000, PAGE, 1, EPERM, KVM_BLOCKED, HERE, EPERM, SET),
	RAISED(convert, 0x11000, 0x3000, 1, ENOTRECOVERABLE, UNDO_FAILED, HERE, EINVAL,
	       "gpa=0x13000", " shared)"),
	CHANGES(adopt, 0x11000, PAGE, 1),
	RANGES(adopt, 1),
	WIDTH(adopt, 1),
	RAISED(adopt, 0x11000, PAGE, 2, EINVAL, ARGUMENT, HERE),
	RAISED(adopt, 0x11000, PAGE, 1, EOPNOTSUPP, CAP_UNSUPPORTED, ON_A_PLAIN_VM),
	RAISED(visibility, 0, 0, 0, EIO, FORKED, IN_A_CHILD),
	CHANGES(in_place, 0, PAGE, 1),
	RANGES(in_place, 1),
	RAISED(in_place, 0, PAGE, 2, EINVAL, ARGUMENT, HERE),
	RAISED(in_place, 0x10000, PAGE, 0, ERANGE, MEMFD_BEYOND_END, HERE),
	RAISED(in_place, 0, PAGE, 1, EOPNOTSUPP, CAP_UNSUPPORTED, HERE),
	CHANGES(add_notifier, 1, 0, 0),
	RAISED(add_notifier, 0, 0, 0, EINVAL, CONFLICT, HERE),
	CHANGES(enable, 0, 0, 0),
	RAISED(enable, 0, 0, 0, EINVAL, KERNEL_REFUSED, HERE, EINVAL, "ENABLE_CAP"),
	CHANGES(vcpu_open, 0, 0, 0),
	RAISED(vcpu_open, 0, 0, -1, EBADF, FD_INVALID, HERE),
	RAISED(vcpu_open, 0, 0, 1, ENOTTY, FD_NOT_VCPU, HERE),
	RAISED(vcpu_open, 0, 0, 0, ENOMEM, NO_MEMORY, HERE, ENOMEM, "DUPFD"),
	RAISED(vcpu_open, 0, 0, 0, EMFILE, FD_LIMIT, HERE, EMFILE, "DUPFD"),
	RAISED(vcpu_open, 0, 0, 0, EINVAL, KERNEL_REFUSED, HERE, EINVAL, "DUPFD"),
	RAISED(vcpu_open, 0, 0, 0, EIO, FORKED, HERE, EIO, "CHECK_EXTENSION, 0)"),
	RAISED(decode, 0, 0, 8, EINVAL, OPTS_SIZE, HERE),
	RAISED(decode, 0, 0, sizeof(struct gmem_exit), EIO, FORKED, IN_A_CHILD),
	CHANGES(resolve, 0x11000, 0, GMEM_EXIT_TO_PRIVATE),
	RAISED(resolve, 0x11000, 2, GMEM_EXIT_TO_PRIVATE, EINVAL, FLAGS_UNKNOWN, HERE),
	RAISED(resolve, 0x11000, 0, GMEM_EXIT_OTHER, EINVAL, ARGUMENT, HERE),
	RAISED(resolve, 0x11000, 0, GMEM_EXIT_RETRY, ELOOP, EXIT_STUCK, HERE),
	RAISED(resolve, 0x11000, 0, GMEM_EXIT_MISSING, ENODATA, EXIT_MISSING, HERE),
	RAISED(resolve, 0x11000, 0, GMEM_EXIT_GONE, EFAULT, EXIT_GONE, HERE),
	RAISED(resolve, 0x11000, 0, GMEM_EXIT_UNKNOWN, EOPNOTSUPP, EXIT_UNKNOWN, HERE),
	RAISED(resolve, 0x11000, 0, GMEM_EXIT_POISONED, EHWPOISON, POISONED, HERE),
	RAISED(resolve, 0x11000, 0, GMEM_EXIT_NO_MEMORY, ENOMEM, NO_MEMORY, HERE),
	RAISED(resolve, 0x14000, 0, GMEM_EXIT_TO_PRIVATE, EFAULT, GPA_UNMAPPED, HERE),
	RAISED(resolve, 0x11000, 0, GMEM_EXIT_TO_PRIVATE, EIO, KERNEL_REFUSED, HERE, EIO, SET),
	CHANGES(prefault, 0x11000, PAGE, 0),
	RANGES(prefault, 0),
	WIDTH(prefault, 0),
	RAISED(prefault, 0x11000, PAGE, 0, EOPNOTSUPP, CAP_UNSUPPORTED, HERE, EOPNOTSUPP, FAULTED),
	RAISED(prefault, 0x14000, PAGE, 0, EFAULT, GPA_UNMAPPED, HERE),
	RAISED(prefault, 0x11000, PAGE, 0, EFAULT, EXIT_GONE, HERE, EFAULT, FAULTED),
	RAISED(prefault, 0x11000, PAGE, 1, ECANCELED, STOPPED, HERE),
	RAISED(prefault, 0x11000, PAGE, 0, EHWPOISON, POISONED, HERE, EHWPOISON, FAULTED),
	RAISED(prefault, 0x11000, PAGE, 0, ENOMEM, NO_MEMORY, HERE, ENOMEM, FAULTED),
	RAISED(prefault, 0x11000, PAGE, 0, EINVAL, KERNEL_REFUSED, HERE, EINVAL, FAULTED),
	CHANGES(vm_prefault, 0x11000, PAGE, 1),
	RANGES(vm_prefault, 1),
	WIDTH(vm_prefault, 1),
	RAISED(vm_prefault, 0x11000, PAGE, 0, EINVAL, ARGUMENT, HERE),
	RAISED(vm_prefault, 0x11000, PAGE, 2, EINVAL, ARGUMENT, HERE),
	RAISED(vm_prefault, 0x14000, PAGE, 1, EFAULT, GPA_UNMAPPED, HERE),
	RAISED(stats, 0, 0, 8, EINVAL, OPTS_SIZE, HERE),
	RAISED(stats, 0, 0, sizeof(struct gmem_stats), EIO, FORKED, IN_A_CHILD),
	RAISED(memory, 0, 0, 8, EINVAL, OPTS_SIZE, HERE),
	RAISED(memory, 0, 0, sizeof(struct gmem_slot_memory), EIO, FORKED, IN_A_CHILD),
};
/* clang-format on */

static void check_raised(const struct raised *row)
{
	char what[64];
	int r = row->call(row->a, row->b, row->c);

	snprintf(what, sizeof(what), "row %zu", (size_t)(row - raised));
	script_check_failure(r, row->error, row->reason, what, __FILE__, __LINE__);
}

static int check_in_callback(void *row, const struct gmem_conversion *conversion)
{
	(void)conversion;
	check_raised(row);
	return -EBUSY;
}

static void raise_in_callback(const struct raised *row)
{
	struct gmem_notifier_opts opts = {.sz = sizeof(opts), .prepare = check_in_callback};
	struct gmem_notifier *notifier;

	opts.data = (void *)(uintptr_t)row;
	ck_works(gmem_vm_add_notifier(vm, &opts, &notifier));
	ck_fails(call_convert(0x10000, PAGE, 1), EBUSY, NOTIFIER_REFUSED);
	gmem_notifier_close(notifier);
}

START_TEST(listed_reasons)
{
	const struct raised *row = &raised[_i];
	struct script_tally before, after;

	start_private(row->place == ON_A_PLAIN_VM ? GMEM_FAKE_LINUX_7_3 : GMEM_FAKE_PRIVATE);
	before = script_tally(fake);
	if (row->part)
		gmem_fake_fail(fake, 0, row->order, row->part);
	if (row->undo)
		gmem_fake_fail(fake, 0, EIO, row->undo);
	if (row->place == IN_A_CHILD)
		gmem_fake_enter_child(fake);
	gmem_fake_forget(fake);
	if (row->place == IN_A_CALLBACK)
		raise_in_callback(row);
	else
		check_raised(row);
	if (row->place == IN_A_CHILD)
		gmem_fake_leave_child(fake);
	if (row->part)
		ck_assert_uint_gt(gmem_fake_recover(fake), 0);
	else if (row->call != call_vcpu_open && row->call != call_prefault &&
		 row->call != call_vm_prefault)
		ck_assert_str_eq(gmem_fake_transcript(fake), "");
	after = script_tally(fake);
	ck_assert_mem_eq(&before, &after, sizeof(before));
	end_private();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("fake-refusal");
	TCase *tcase = tcase_create("refusals");

	tcase_add_loop_test(tcase, refusal_order, 0, ARRAY_SIZE(faults));
	tcase_add_loop_test(tcase, edge_of_a_check, 0, ARRAY_SIZE(edges));
	tcase_add_test(tcase, overlaps_are_named);
	tcase_add_loop_test(tcase, create_many_refuses_the_same, 0, ARRAY_SIZE(faults));
	tcase_add_loop_test(tcase, replace_refuses_the_same, 0, ARRAY_SIZE(faults));
	tcase_add_loop_test(tcase, adopt_refuses_the_same, 0, ARRAY_SIZE(faults));
	tcase_add_test(tcase, hidden_shared_half);
	tcase_add_loop_test(tcase, listed_reasons, 0, ARRAY_SIZE(raised));
	suite_add_tcase(suite, tcase);
	return harness_run(suite);
}
