/* SPDX-License-Identifier: MIT */
/* Conversion: which calls in which order, what is left after each failure, and who is told. */
#include "harness.h"
#include "script.h"

#include "uapi/kvm.h"
#include "vm.h"

#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PAGE	UINT64_C(0x1000)
#define MIB	(UINT64_C(1) << 20)
#define TIB	(UINT64_C(1) << 40)
#define SHARED	GMEM_VISIBILITY_SHARED
#define PRIVATE GMEM_VISIBILITY_PRIVATE
#define DISCARD GMEM_CONVERT_DISCARD
#define KEEP	GMEM_CONVERT_KEEP

static struct gmem_fake *fake;
static struct gmem_vm *vm;
static struct gmem_memfd *private_half, *one_memory, *sealed;
static struct gmem_map *sealed_map;
static struct gmem_slot *slots[8];
static unsigned int slot_count;
static char last_log[512];

/* The VMM's own memory. */
static unsigned char ram[0x20000] __attribute__((aligned(0x10000)));

static void bind_slot(struct gmem_slot_opts opts)
{
	opts.sz = sizeof(opts);
	ck_works(gmem_slot_create(vm, &opts, &slots[slot_count++]));
}

#define BIND(...) bind_slot((struct gmem_slot_opts){__VA_ARGS__})

static void keep_log(void *data, enum gmem_log_level level, const char *message)
{
	(void)data;
	snprintf(last_log, sizeof(last_log), "%d %s", (int)level, message);
}

/* A sealed memfd comes of a VM without guest_memfd alone, but any VM can use its mapping. */
static void make_sealed(uint64_t size)
{
	struct gmem_memfd_opts opts = {.sz = sizeof(opts),
				       .size = size,
				       .flags = GMEM_MEMFD_MMAP | GMEM_MEMFD_INIT_SHARED,
				       .fallback = GMEM_FALLBACK_MEMFD};
	struct gmem_vm *plain;

	gmem_fake_set_cap(fake, KVM_CAP_GUEST_MEMFD, 0);
	ck_works(gmem_fake_open_vm(fake, NULL, &plain));
	ck_works(gmem_memfd_create(plain, &opts, &sealed));
	gmem_fake_set_cap(fake, KVM_CAP_GUEST_MEMFD, 1);
	ck_works(gmem_map_create(sealed, NULL, &sealed_map));
	gmem_vm_close(plain);
}

static void open_vm(void)
{
	struct gmem_vm_opts opts = {.sz = sizeof(opts), .log = keep_log};

	fake = script_new(GMEM_FAKE_PRIVATE);
	gmem_fake_name(fake, ram, sizeof(ram), "ram");
	ck_works(gmem_fake_open_vm(fake, &opts, &vm));
	slot_count = 0;
	last_log[0] = '\0';
}

/*
 * 0x10000: a private half, gmem1 from 0 on, and ram; 0x20000: a private half, gmem1 from 0x10000
 * on, and a map, memfd1 from 0x10000 on; 0x30000: a private half alone, gmem1 from 0x20000 on;
 * 0x40000: one memory, gmem2; 0x50000: ram that is never private. All touch; then a hole.
 */
static void start(void)
{
	open_vm();
	private_half = script_memfd(vm, 0x30000, 0);
	one_memory = script_memfd(vm, 0x10000, GMEM_MEMFD_MMAP);
	make_sealed(0x20000);
	BIND(.gpa = 0x10000, .size = 0x10000, .memfd = private_half, .host = ram);
	BIND(.gpa = 0x20000, .size = 0x10000, .memfd = private_half, .offset = 0x10000,
	     .map = sealed_map);
	BIND(.gpa = 0x30000, .size = 0x10000, .memfd = private_half, .offset = 0x20000);
	BIND(.gpa = 0x40000, .size = 0x10000, .memfd = one_memory);
	BIND(.gpa = 0x50000, .size = 0x10000, .host = ram + 0x10000);
	gmem_fake_forget(fake);
}

static void end(void)
{
	for (unsigned int i = 0; i < slot_count; i++)
		gmem_slot_close(slots[i]);
	gmem_map_close(sealed_map);
	gmem_memfd_close(sealed);
	gmem_memfd_close(private_half);
	gmem_memfd_close(one_memory);
	sealed_map = NULL;
	sealed = private_half = one_memory = NULL;
	gmem_vm_close(vm);
	script_end(fake);
}

static int convert(uint64_t gpa, uint64_t size, enum gmem_visibility to,
		   enum gmem_convert_policy policy)
{
	return gmem_vm_convert(vm, gpa, size, to, policy, NULL);
}

static struct gmem_stats stats_of(const struct gmem_vm *of)
{
	struct gmem_stats stats = {.sz = sizeof(stats)};

	ck_works(gmem_vm_get_stats((struct gmem_vm *)(uintptr_t)of, &stats));
	return stats;
}

/* ---- What is private ---- */

/* "10000-12000 ": the private ranges below a limit, as the library says. */
static void library_map(char *text, size_t size, uint64_t limit)
{
	uint64_t gpa = 0, run;

	*text = '\0';
	for (; gpa < limit; gpa += run) {
		enum gmem_visibility visibility;

		ck_works(gmem_vm_get_visibility(vm, gpa, &visibility, &run));
		if (visibility == PRIVATE)
			snprintf(text + strlen(text), size - strlen(text), "%llx-%llx ",
				 (unsigned long long)gpa, (unsigned long long)(gpa + run));
	}
}

/* Every run of the library's map is one of the kernel's. */
static void check_maps_agree(void)
{
	uint64_t gpa = 0;

	while (gpa < UINT64_MAX) {
		enum gmem_visibility visibility;
		uint64_t run, until;
		bool is_private = gmem_fake_is_private(fake, gmem_vm_get_fd(vm), gpa, &until);

		ck_works(gmem_vm_get_visibility(vm, gpa, &visibility, &run));
		ck_assert_msg(
			(visibility == PRIVATE) == is_private && gpa + run == until,
			"gpa %#llx: the library says %d until %#llx, the kernel %d until %#llx",
			(unsigned long long)gpa, (int)visibility, (unsigned long long)(gpa + run),
			(int)is_private, (unsigned long long)until);
		gpa = until;
	}
}

static void check_private(const char *expected)
{
	char text[1024];

	library_map(text, sizeof(text), 0x100000);
	ck_assert_str_eq(text, expected);
	check_maps_agree();
}

/* ---- The exact calls ---- */

#define SET(gpa, size, to) "ioctl(vm1, SET_ATTRIBUTES, gpa=" gpa " size=" size " " to ")\n"
#define DROP_RAM(at, size)                                                                         \
	"madvise(ram" at ", " size ", REMOVE)\nmadvise(ram" at ", " size ", DONTNEED)\n"           \
	"madvise(ram" at ", " size ", FREE)\n"
#define PUNCH(file, at, size) "fallocate(" file ", KEEP_SIZE|PUNCH_HOLE, " at ", " size ")\n"

/* A range in pages from 0x10000 on; none where count is 0. */
struct step {
	uint64_t page, count;
	enum gmem_visibility to;
	enum gmem_convert_policy policy;
};

static const struct {
	struct step before[4];
	struct step step;
	const char *calls;
	const char *private; /* afterwards */
	uint64_t twice;	     /* bytes, likewise */
} conversions[] = {
	/* Two halves, with host memory. */
	{.step = {1, 2, PRIVATE, DISCARD},
	 .calls = SET("0x11000", "0x2000", "private") DROP_RAM("+0x1000", "0x2000"),
	 .private = "11000-13000 "},
	{.step = {0, 16, PRIVATE, KEEP},
	 .calls = SET("0x10000", "0x10000", "private"),
	 .private = "10000-20000 ",
	 .twice = 0x10000},
	{.before = {{0, 4, PRIVATE, DISCARD}},
	 .step = {1, 2, SHARED, DISCARD},
	 .calls = SET("0x11000", "0x2000", "shared") PUNCH("gmem1", "0x1000", "0x2000"),
	 .private = "10000-11000 13000-14000 "},
	{.before = {{0, 4, PRIVATE, DISCARD}},
	 .step = {1, 2, SHARED, KEEP},
	 .calls = SET("0x11000", "0x2000", "shared"),
	 .private = "10000-11000 13000-14000 ",
	 .twice = 0x2000},
	/* With a map of a sealed memfd. */
	{.step = {0x11, 1, PRIVATE, DISCARD},
	 .calls = SET("0x21000", "0x1000", "private") PUNCH("memfd1", "0x11000", "0x1000"),
	 .private = "21000-22000 "},
	{.before = {{0x10, 3, PRIVATE, DISCARD}},
	 .step = {0x10, 3, SHARED, DISCARD},
	 .calls = SET("0x20000", "0x3000", "shared") PUNCH("gmem1", "0x10000", "0x3000"),
	 .private = ""},
	/* A private half alone. */
	{.step = {0x20, 16, PRIVATE, DISCARD},
	 .calls = SET("0x30000", "0x10000", "private"),
	 .private = "30000-40000 "},
	/* One memory: nothing is dropped, and nothing held twice. */
	{.step = {0x32, 4, PRIVATE, DISCARD},
	 .calls = SET("0x42000", "0x4000", "private"),
	 .private = "42000-46000 "},
	{.step = {0x32, 4, PRIVATE, KEEP},
	 .calls = SET("0x42000", "0x4000", "private"),
	 .private = "42000-46000 "},
	{.before = {{0x32, 4, PRIVATE, DISCARD}},
	 .step = {0x32, 4, SHARED, DISCARD},
	 .calls = SET("0x42000", "0x4000", "shared"),
	 .private = ""},
	/* Slots that touch: one call for the attributes, one for each half that loses. */
	{.step = {0xe, 0x12, PRIVATE, DISCARD},
	 .calls = SET("0x1e000", "0x12000", "private") DROP_RAM("+0xe000", "0x2000")
		 PUNCH("memfd1", "0x10000", "0x10000"),
	 .private = "1e000-30000 "},
	{.step = {0, 0x40, PRIVATE, DISCARD},
	 .calls = SET("0x10000", "0x40000", "private") DROP_RAM("", "0x10000")
		 PUNCH("memfd1", "0x10000", "0x10000"),
	 .private = "10000-50000 "},
	{.before = {{0, 0x20, PRIVATE, DISCARD}},
	 .step = {0xf, 2, SHARED, DISCARD},
	 .calls = SET("0x1f000", "0x2000", "shared") PUNCH("gmem1", "0xf000", "0x1000")
		 PUNCH("gmem1", "0x10000", "0x1000"),
	 .private = "10000-1f000 21000-30000 "},
	/*
	 * What is so already is skipped: at the start, at the end, in the middle. What is dropped
	 * goes from the first change to the last.
	 */
	{.before = {{0, 2, PRIVATE, DISCARD}},
	 .step = {0, 4, PRIVATE, DISCARD},
	 .calls = SET("0x12000", "0x2000", "private") DROP_RAM("+0x2000", "0x2000"),
	 .private = "10000-14000 "},
	{.before = {{2, 2, PRIVATE, DISCARD}},
	 .step = {0, 4, PRIVATE, DISCARD},
	 .calls = SET("0x10000", "0x2000", "private") DROP_RAM("", "0x2000"),
	 .private = "10000-14000 "},
	{.before = {{1, 1, PRIVATE, DISCARD}, {3, 1, PRIVATE, DISCARD}},
	 .step = {0, 6, PRIVATE, DISCARD},
	 .calls = SET("0x10000", "0x1000", "private") SET("0x12000", "0x1000", "private")
		 SET("0x14000", "0x2000", "private") DROP_RAM("", "0x6000"),
	 .private = "10000-16000 "},
	{.before = {{1, 1, PRIVATE, DISCARD}, {0xf, 2, PRIVATE, DISCARD}},
	 .step = {0, 0x20, SHARED, DISCARD},
	 .calls = SET("0x11000", "0x1000", "shared") SET("0x1f000", "0x2000", "shared")
		 PUNCH("gmem1", "0x1000", "0xf000") PUNCH("gmem1", "0x10000", "0x1000"),
	 .private = ""},
	/* Nothing to do, and so no call. */
	{.step = {0, 16, SHARED, DISCARD}, .calls = "", .private = ""},
	{.before = {{0, 16, PRIVATE, DISCARD}},
	 .step = {4, 2, PRIVATE, DISCARD},
	 .calls = "",
	 .private = "10000-20000 "},
	{.before = {{0, 16, PRIVATE, DISCARD}},
	 .step = {4, 2, PRIVATE, KEEP},
	 .calls = "",
	 .private = "10000-20000 "},
	/* Runs that differ in what is held twice alone change with one call. */
	{.before = {{0, 2, PRIVATE, DISCARD}, {2, 2, PRIVATE, KEEP}},
	 .step = {0, 4, SHARED, DISCARD},
	 .calls = SET("0x10000", "0x4000", "shared") PUNCH("gmem1", "0", "0x4000"),
	 .private = ""},
	/* What was kept is dropped by a later call that discards, without a change. */
	{.before = {{0, 4, PRIVATE, KEEP}},
	 .step = {1, 2, PRIVATE, DISCARD},
	 .calls = DROP_RAM("+0x1000", "0x2000"),
	 .private = "10000-14000 ",
	 .twice = 0x2000},
	{.before = {{0, 4, PRIVATE, KEEP}, {0, 4, SHARED, KEEP}},
	 .step = {0, 5, SHARED, DISCARD},
	 .calls = PUNCH("gmem1", "0", "0x4000"),
	 .private = ""},
	/* And with a change beside it. */
	{.before = {{0, 2, PRIVATE, KEEP}},
	 .step = {0, 4, PRIVATE, DISCARD},
	 .calls = SET("0x12000", "0x2000", "private") DROP_RAM("", "0x4000"),
	 .private = "10000-14000 "},
};

static void do_steps(const struct step *steps, size_t count)
{
	for (size_t i = 0; i < count && steps[i].count; i++)
		ck_works(convert(0x10000 + steps[i].page * PAGE, steps[i].count * PAGE, steps[i].to,
				 steps[i].policy));
}

START_TEST(conversion_calls)
{
	const struct step *step = &conversions[_i].step;
	uint64_t done = 1;

	do_steps(conversions[_i].before, 4);
	gmem_fake_expect(fake, "%s", conversions[_i].calls);
	ck_works(gmem_vm_convert(vm, 0x10000 + step->page * PAGE, step->count * PAGE, step->to,
				 step->policy, &done));
	gmem_fake_met(fake);
	ck_assert_uint_eq(done, step->count * PAGE);
	check_private(conversions[_i].private);
	ck_assert_uint_eq(stats_of(vm).twice_bytes, conversions[_i].twice);
	ck_assert_str_eq(last_log, "");
	/* Once more there is nothing to do. */
	gmem_fake_expect(fake, "%s", "");
	ck_works(gmem_vm_convert(vm, 0x10000 + step->page * PAGE, step->count * PAGE, step->to,
				 step->policy, &done));
	gmem_fake_met(fake);
	ck_assert_uint_eq(done, step->count * PAGE);
}
END_TEST

/* Slots of the VMM's own, which the library has only been told of. */
START_TEST(adopted_slots_are_converted)
{
	struct gmem_slot_opts opts = {.sz = sizeof(opts),
				      .gpa = 0x80000,
				      .size = 0x1000,
				      .memfd = private_half,
				      .offset = 0x1000,
				      .flags = GMEM_SLOT_FIXED_ID,
				      .id = 9,
				      .host = ram + 0x1000};

	gmem_slot_close(slots[0]);
	ck_works(gmem_slot_adopt(vm, &opts, &slots[0]));
	gmem_fake_expect(fake, SET("0x80000", "0x1000", "private") DROP_RAM("+0x1000", "0x1000"));
	ck_works(convert(0x80000, 0x1000, PRIVATE, DISCARD));
	gmem_fake_expect(fake,
			 SET("0x80000", "0x1000", "shared") PUNCH("gmem1", "0x1000", "0x1000"));
	ck_works(convert(0x80000, 0x1000, SHARED, DISCARD));
	gmem_fake_met(fake);
}
END_TEST

/* What cannot be private is shared already, and can be made so where a slot has gone. */
START_TEST(what_cannot_be_private_is_shared)
{
	uint64_t done = 1;

	gmem_fake_expect(fake, "%s", "");
	ck_works(gmem_vm_convert(vm, 0x40000, 0x30000, SHARED, DISCARD, &done));
	ck_assert_uint_eq(done, 0x30000);
	gmem_fake_met(fake);
	ck_works(convert(0x1f000, 0x2000, PRIVATE, DISCARD));
	ck_works(gmem_slot_delete(slots[0]));
	gmem_fake_expect(fake,
			 SET("0x1f000", "0x2000", "shared") PUNCH("gmem1", "0x10000", "0x1000"));
	ck_works(convert(0, 0x30000, SHARED, DISCARD));
	gmem_fake_met(fake);
	check_private("");
}
END_TEST

/* ---- Refusals ---- */

static const struct {
	uint64_t gpa, size;
	int to, policy;
	int error;
	enum gmem_reason reason;
	const char *message;
} refusals[] = {
	{0x10000, 0x1000, 2, 0, EINVAL, GMEM_REASON_ARGUMENT, "visibility 2"},
	{0x10000, 0x1000, -1, 0, EINVAL, GMEM_REASON_ARGUMENT, "visibility -1"},
	{0x10000, 0x1000, 1, 2, EINVAL, GMEM_REASON_ARGUMENT, "policy 2"},
	{0x10000, 0x1000, 1, -1, EINVAL, GMEM_REASON_ARGUMENT, "policy -1"},
	{0x10000, 0, 1, 0, EINVAL, GMEM_REASON_RANGE_EMPTY, "0x10000"},
	{0x10800, 0x1000, 1, 0, EINVAL, GMEM_REASON_RANGE_UNALIGNED, "0x10800"},
	{0x10000, 0x1001, 1, 0, EINVAL, GMEM_REASON_RANGE_UNALIGNED, "0x1001"},
	{UINT64_MAX - 0xfff, 0x2000, 1, 0, EOVERFLOW, GMEM_REASON_RANGE_WRAPS, "wraps"},
	{0x10000, UINT64_MAX - 0xfff, 1, 0, EOVERFLOW, GMEM_REASON_RANGE_WRAPS, "wraps"},
	{UINT64_C(1) << 46, 0x1000, 1, 0, ERANGE, GMEM_REASON_GPA_BEYOND_WIDTH, "0x400000000000"},
	{0x10000, UINT64_C(1) << 46, 0, 0, ERANGE, GMEM_REASON_GPA_BEYOND_WIDTH, "0x10000"},
	{0xf000, 0x2000, 1, 0, EFAULT, GMEM_REASON_GPA_UNMAPPED, "0xf000"},
	{0x60000, 0x1000, 1, 0, EFAULT, GMEM_REASON_GPA_UNMAPPED, "0x60000"},
	{0, UINT64_C(1) << 46, 1, 0, EFAULT, GMEM_REASON_GPA_UNMAPPED, "gpa 0x0"},
	{0x4f000, 0x2000, 1, 0, EFAULT, GMEM_REASON_NO_PRIVATE_SIDE, "slot 4 at gpa 0x50000"},
	{0x5f000, 0x2000, 1, 0, EFAULT, GMEM_REASON_NO_PRIVATE_SIDE, "0x5f000"},
	{0x2f000, 0x2000, 0, 0, EFAULT, GMEM_REASON_NO_HOST_SIDE, "slot 2 at gpa 0x30000"},
};

START_TEST(refusal)
{
	uint64_t done = 1;
	int r;

	ck_works(convert(0x12000, 0x1000, PRIVATE, DISCARD));
	gmem_fake_expect(fake, "%s", "");
	r = gmem_vm_convert(vm, refusals[_i].gpa, refusals[_i].size,
			    (enum gmem_visibility)refusals[_i].to,
			    (enum gmem_convert_policy)refusals[_i].policy, &done);
	gmem_fake_met(fake);
	script_check_failure(r, refusals[_i].error, refusals[_i].reason, "convert", __FILE__,
			     __LINE__);
	ck_assert_ptr_nonnull(strstr(gmem_error_get_message(), refusals[_i].message));
	ck_assert_uint_eq(done, 0);
	check_private("12000-13000 ");
	ck_assert_uint_eq(stats_of(vm).conversions_failed, 1);
	ck_assert_ptr_nonnull(strstr(last_log, refusals[_i].message));
}
END_TEST

/* A VM whose pages are all shared; the range is looked at first. */
START_TEST(refusal_without_private_memory)
{
	uint64_t done = 1, size;
	enum gmem_visibility visibility = PRIVATE;

	end();
	fake = script_new(GMEM_FAKE_LINUX_7_3);
	vm = script_vm(fake, 0);
	slot_count = 0;
	BIND(.gpa = 0x10000, .size = 0x1000, .host = ram);
	gmem_fake_expect(fake, "%s", "");
	ck_fails(gmem_vm_convert(vm, 0x10000, 0, SHARED, DISCARD, &done), EINVAL, RANGE_EMPTY);
	ck_fails(gmem_vm_convert(vm, 0x10000, 0x1000, SHARED, DISCARD, &done), EOPNOTSUPP,
		 CAP_UNSUPPORTED);
	ck_assert_uint_eq(done, 0);
	ck_fails(gmem_vm_adopt_visibility(vm, 0x10000, 0x1000, PRIVATE), EOPNOTSUPP,
		 CAP_UNSUPPORTED);
	ck_works(gmem_vm_get_visibility(vm, 0x10000, &visibility, &size));
	ck_assert_int_eq(visibility, SHARED);
	ck_assert_uint_eq(size, UINT64_MAX - 0x10000);
	gmem_fake_met(fake);
}
END_TEST

/* ---- Failures of the kernel ---- */

/* Six pages of two halves with runs to change at 0, 2 and 4; then a piece of the next slot. */
static void make_mixed(enum gmem_visibility to)
{
	if (to == SHARED)
		ck_works(convert(0x10000, 0x20000, PRIVATE, DISCARD));
	for (uint64_t page = 1; page < 6; page += 2)
		ck_works(convert(0x10000 + page * PAGE, PAGE, to, page == 3 ? KEEP : DISCARD));
	gmem_fake_forget(fake);
}

#define RUNS 4

static const int errors[] = {EINVAL, ENOMEM, EIO, EPERM, EFAULT, EEXIST, EAGAIN};

static enum gmem_reason reason_of(int error)
{
	return error == ENOMEM	? GMEM_REASON_NO_MEMORY
	       : error == EPERM ? GMEM_REASON_KVM_BLOCKED
				: GMEM_REASON_KERNEL_REFUSED;
}

static const char *name_of(enum gmem_visibility visibility)
{
	return visibility == PRIVATE ? " private)" : " shared)";
}

static enum gmem_visibility opposite_of(enum gmem_visibility visibility)
{
	return visibility == PRIVATE ? SHARED : PRIVATE;
}

/* Wherever the kernel refuses, all is as it was, and works when it no longer does. */
START_TEST(attributes_fail)
{
	enum gmem_visibility to = _i % 2 ? PRIVATE : SHARED;
	int error = errors[_i / 2];
	struct gmem_stats before, after;
	char map[1024];
	uint64_t done;

	make_mixed(to);
	library_map(map, sizeof(map), 0x100000);
	for (unsigned int n = 1; n <= RUNS; n++) {
		before = stats_of(vm);
		gmem_fake_forget(fake);
		gmem_fake_fail(fake, n, error, name_of(to));
		done = 1;
		script_check_failure(gmem_vm_convert(vm, 0x10000, 0x12000, to, DISCARD, &done),
				     error, reason_of(error), "convert", __FILE__, __LINE__);
		ck_assert_uint_eq(gmem_fake_recover(fake), 1);
		ck_assert_uint_eq(gmem_fake_count(fake, name_of(to)), n);
		ck_assert_uint_eq(gmem_fake_count(fake, name_of(opposite_of(to))), n - 1);
		ck_assert_uint_eq(gmem_fake_count(fake, "madvise"), 0);
		ck_assert_uint_eq(gmem_fake_count(fake, "fallocate"), 0);
		ck_assert_uint_eq(done, 0);
		check_private(map);
		after = stats_of(vm);
		ck_assert_uint_eq(after.conversions_failed, before.conversions_failed + 1);
		ck_assert_uint_eq(after.attribute_calls, before.attribute_calls + n + n - 1);
		after.conversions_failed = before.conversions_failed;
		after.attribute_calls = before.attribute_calls;
		after.attribute_ns = before.attribute_ns;
		ck_assert_mem_eq(&after, &before, sizeof(after));
	}
	/* What is so already counts as done. */
	gmem_fake_fail(fake, 1, error, name_of(to));
	ck_assert_int_eq(gmem_vm_convert(vm, 0x11000, 0x2000, to, DISCARD, &done), -error);
	ck_assert_uint_eq(done, PAGE);
	gmem_fake_recover(fake);
	ck_works(gmem_vm_convert(vm, 0x10000, 0x12000, to, DISCARD, &done));
	ck_assert_uint_eq(done, 0x12000);
	check_maps_agree();
}
END_TEST

START_TEST(attributes_are_tried_again_after_a_signal)
{
	make_mixed(PRIVATE);
	for (unsigned int n = 1; n <= RUNS; n += 2)
		gmem_fake_fail(fake, n, EINTR, name_of(PRIVATE));
	ck_works(convert(0x10000, 0x12000, PRIVATE, DISCARD));
	ck_assert_uint_eq(gmem_fake_recover(fake), 2);
	ck_assert_uint_eq(gmem_fake_count(fake, name_of(PRIVATE)), RUNS + 2);
	check_private("10000-22000 ");
}
END_TEST

/* An answer that no kernel gives is a refusal. */
START_TEST(attributes_answer_nonsense)
{
	gmem_fake_answer(fake, 1, 1, "SET_ATTRIBUTES");
	ck_fails(convert(0x10000, 0x1000, PRIVATE, DISCARD), EBADE, KERNEL_REFUSED);
	gmem_fake_recover(fake);
	check_private("");
}
END_TEST

/* The undo of run `lost` fails too: the rest is undone, and the map says what is what. */
static void check_lost_undo(enum gmem_visibility to, unsigned int n, unsigned int lost)
{
	static const uint64_t sizes[RUNS] = {PAGE, PAGE, PAGE, 0xc000};
	uint64_t gpa = 0x10000 + (uint64_t)lost * 2 * PAGE, done = 1;
	enum gmem_visibility visibility;
	struct gmem_stats stats;
	char order[64];

	make_mixed(to);
	stats = stats_of(vm);
	snprintf(order, sizeof(order), "gpa=%#llx size=%#llx%s", (unsigned long long)gpa,
		 (unsigned long long)sizes[lost], name_of(opposite_of(to)));
	gmem_fake_fail(fake, n, EIO, name_of(to));
	gmem_fake_fail(fake, 1, EBUSY, order);
	ck_fails(gmem_vm_convert(vm, 0x10000, 0x12000, to, DISCARD, &done), ENOTRECOVERABLE,
		 UNDO_FAILED);
	ck_assert_uint_eq(gmem_fake_recover(fake), 2);
	ck_assert_uint_eq(gmem_fake_count(fake, "SET_ATTRIBUTES"), 2 * n - 1);
	ck_assert_uint_eq(gmem_fake_count(fake, "madvise") + gmem_fake_count(fake, "fallocate"), 0);
	check_maps_agree();
	ck_works(gmem_vm_get_visibility(vm, gpa, &visibility, NULL));
	ck_assert_int_eq(visibility, to);
	ck_assert_uint_eq(done, lost == 0 ? 0x2000 : 0);
	ck_assert_uint_eq(stats_of(vm).twice_bytes, stats.twice_bytes + sizes[lost]);
	/* It can be made as asked, and as it was. */
	ck_works(convert(0x10000, 0x12000, to, DISCARD));
	ck_works(convert(0x10000, 0x12000, opposite_of(to), DISCARD));
	check_maps_agree();
	ck_assert_uint_eq(stats_of(vm).twice_bytes, 0);
}

START_TEST(undo_fails)
{
	for (unsigned int n = 2; n <= RUNS; n++)
		for (unsigned int lost = 0; lost + 1 < n; lost++) {
			check_lost_undo(_i ? PRIVATE : SHARED, n, lost);
			end();
			start();
		}
}
END_TEST

START_TEST(all_undos_fail)
{
	make_mixed(PRIVATE);
	gmem_fake_fail(fake, RUNS, EIO, name_of(PRIVATE));
	gmem_fake_fail(fake, 0, EIO, name_of(SHARED));
	ck_fails(convert(0x10000, 0x12000, PRIVATE, KEEP), ENOTRECOVERABLE, UNDO_FAILED);
	gmem_fake_recover(fake);
	check_private("10000-16000 ");
}
END_TEST

/* ---- Failures of a discard ---- */

static const struct {
	struct step before, step;
	unsigned int n;
	const char *call;
	uint64_t twice;	   /* bytes afterwards */
	const char *again; /* the calls of the same conversion, later */
} discard_failures[] = {
	{{0}, {0, 4, PRIVATE, DISCARD}, 1, "REMOVE", 0x4000, DROP_RAM("", "0x4000")},
	{{0}, {0, 4, PRIVATE, DISCARD}, 1, "FREE", 0x4000, DROP_RAM("", "0x4000")},
	{{0}, {0, 4, PRIVATE, DISCARD}, 1, "DONTNEED", 0x4000, DROP_RAM("", "0x4000")},
	{{0},
	 {0x10, 4, PRIVATE, DISCARD},
	 1,
	 "fallocate(memfd1",
	 0x4000,
	 PUNCH("memfd1", "0x10000", "0x4000")},
	{{0, 4, PRIVATE, DISCARD},
	 {0, 4, SHARED, DISCARD},
	 1,
	 "fallocate(gmem1",
	 0x4000,
	 PUNCH("gmem1", "0", "0x4000")},
	/* Of two slots, the first or the second. */
	{{0}, {0xe, 4, PRIVATE, DISCARD}, 1, "REMOVE", 0x2000, DROP_RAM("+0xe000", "0x2000")},
	{{0},
	 {0xe, 4, PRIVATE, DISCARD},
	 1,
	 "fallocate(memfd1",
	 0x2000,
	 PUNCH("memfd1", "0x10000", "0x2000")},
	{{0, 0x20, PRIVATE, DISCARD},
	 {0xe, 4, SHARED, DISCARD},
	 2,
	 "fallocate(gmem1",
	 0x2000,
	 PUNCH("gmem1", "0x10000", "0x2000")},
};

/* It is no failure of the conversion: it is logged, counted, and tried again by the next one. */
START_TEST(discard_fails)
{
	const struct step *step = &discard_failures[_i].step;
	uint64_t gpa = 0x10000 + step->page * PAGE, size = step->count * PAGE, done = 1;
	struct gmem_stats stats;

	do_steps(&discard_failures[_i].before, 1);
	ck_fails(convert(0, 0, SHARED, DISCARD), EINVAL, RANGE_EMPTY);
	last_log[0] = '\0';
	gmem_fake_fail(fake, discard_failures[_i].n, EIO, discard_failures[_i].call);
	ck_works(gmem_vm_convert(vm, gpa, size, step->to, step->policy, &done));
	ck_assert_uint_eq(gmem_fake_recover(fake), 1);
	ck_assert_uint_eq(done, size);
	check_maps_agree();
	stats = stats_of(vm);
	ck_assert_uint_eq(stats.twice_bytes, discard_failures[_i].twice);
	ck_assert_uint_eq(stats.discard_failures, 1);
	ck_assert_int_eq(last_log[0], '0' + GMEM_LOG_WARNING);
	ck_assert_ptr_nonnull(strstr(last_log, "held twice: 1 discards failed"));
	ck_assert_int_eq(gmem_error_get_reason(), GMEM_REASON_RANGE_EMPTY);
	/* Kept that way where that is wanted, and then dropped, that alone. */
	gmem_fake_expect(fake, "%s", "");
	ck_works(convert(gpa, size, step->to, KEEP));
	gmem_fake_expect(fake, "%s", discard_failures[_i].again);
	ck_works(gmem_vm_convert(vm, gpa, size, step->to, step->policy, &done));
	gmem_fake_expect(fake, "%s", "");
	ck_works(gmem_vm_convert(vm, gpa, size, step->to, step->policy, &done));
	gmem_fake_met(fake);
	ck_assert_uint_eq(done, size);
	ck_assert_uint_eq(stats_of(vm).twice_bytes, 0);
	ck_assert_uint_eq(stats_of(vm).skipped_bytes, 3 * size);
}
END_TEST

/* ---- Memory ---- */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

/* The n-th allocation from now on fails; 0: none. */
static _Atomic unsigned int calls_until_failure;
static _Atomic unsigned int allocations;

#if !SANITIZED
static bool is_refused(void)
{
	atomic_fetch_add(&allocations, 1);
	return atomic_load(&calls_until_failure) && atomic_fetch_sub(&calls_until_failure, 1) == 1;
}

/* glibc's own, under the names that it keeps for programs that replace them. */
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *old, size_t size);

void *calloc(size_t count, size_t size)
{
	return is_refused() ? NULL : __libc_calloc(count, size);
}

/* The fake kernel lives on this too, so that it must not fail once the first call is made. */
void *realloc(void *old, size_t size)
{
	return is_refused() ? NULL : __libc_realloc(old, size);
}
#endif

static unsigned int allocations_at_prepare;

static int count_allocations(void *data, const struct gmem_conversion *conversion)
{
	(void)data;
	(void)conversion;
	if (!allocations_at_prepare)
		allocations_at_prepare = atomic_load(&allocations);
	return -ECANCELED;
}

static struct gmem_notifier *add_notifier(struct gmem_notifier_opts opts)
{
	struct gmem_notifier *notifier;

	opts.sz = sizeof(opts);
	ck_works(gmem_vm_add_notifier(vm, &opts, &notifier));
	return notifier;
}

/* Room for all is set aside before anything is done: where there is none, nothing is. */
START_TEST(no_memory)
{
	struct gmem_notifier *notifier;
	unsigned int failures = 0;
	char map[1024];
	uint64_t done;
	int r;

	if (SANITIZED)
		SKIP("a sanitizer has its own malloc");
	/* So many runs that their array has to grow. */
	for (uint64_t page = 0; _i && page < 16; page += 2)
		ck_works(convert(0x10000 + page * PAGE, PAGE, PRIVATE, DISCARD));
	library_map(map, sizeof(map), 0x100000);
	notifier = add_notifier((struct gmem_notifier_opts){.prepare = count_allocations});
	gmem_fake_expect(fake, "%s", "");
	do {
		done = 1;
		allocations_at_prepare = 0;
		atomic_store(&calls_until_failure, ++failures);
		r = gmem_vm_convert(vm, 0x10000, 0x12000, PRIVATE, DISCARD, &done);
		atomic_store(&calls_until_failure, 0);
		if (!allocations_at_prepare)
			script_check_failure(r, ENOMEM, GMEM_REASON_NO_MEMORY, "convert", __FILE__,
					     __LINE__);
		ck_assert_uint_eq(done, allocations_at_prepare && _i ? PAGE : 0);
	} while (!allocations_at_prepare);
	ck_fails(r, ECANCELED, NOTIFIER_REFUSED);
	ck_assert_uint_gt(failures, 2);
	gmem_notifier_close(notifier);
	gmem_fake_met(fake);
	check_private(map);
	ck_works(convert(0x10000, 0x12000, PRIVATE, DISCARD));
	check_maps_agree();
}
END_TEST

START_TEST(no_memory_for_a_notifier)
{
	struct gmem_notifier_opts opts = {.sz = sizeof(opts), .prepare = count_allocations};
	struct gmem_notifier *notifier = (void *)&opts;

	if (SANITIZED)
		SKIP("a sanitizer has its own malloc");
	atomic_store(&calls_until_failure, 1);
	ck_fails(gmem_vm_add_notifier(vm, &opts, &notifier), ENOMEM, NO_MEMORY);
	ck_assert_ptr_null(notifier);
	atomic_store(&calls_until_failure, 1);
	ck_fails(gmem_vm_adopt_visibility(vm, 0x12000, 0x1000, PRIVATE), ENOMEM, NO_MEMORY);
	ck_works(convert(0x10000, 0x1000, PRIVATE, DISCARD));
	check_private("10000-11000 ");
}
END_TEST

/* Full nodes of the map: a run and a gap for each of their 32 entries. */
#define FULL 32

static void fill_nodes(uint64_t count)
{
	end();
	open_vm();
	one_memory = script_memfd(vm, 64 * MIB, GMEM_MEMFD_MMAP);
	BIND(.gpa = 0, .size = 64 * MIB, .memfd = one_memory);
	for (uint64_t i = 0; i < count * FULL; i++)
		ck_works(convert(i * 4 * PAGE, 3 * PAGE, PRIVATE, DISCARD));
	gmem_fake_forget(fake);
}

/* ---- Notifiers ---- */

static char told[4096];

struct listener {
	char name;
	struct gmem_notifier *notifier;
	unsigned int refuse; /* the n-th prepare from now on; 0: none */
	int answer;
	void (*also)(struct listener *self, const char *step);
};

static struct listener listeners[3] = {{.name = 'a'}, {.name = 'b'}, {.name = 'c'}};

static void note(struct listener *self, const char *step, const struct gmem_conversion *conversion)
{
	snprintf(told + strlen(told), sizeof(told) - strlen(told), "%c.%s(%llx+%llx %s) ",
		 self->name, step, (unsigned long long)conversion->gpa,
		 (unsigned long long)conversion->size,
		 conversion->to == PRIVATE ? "private" : "shared");
	if (self->also)
		self->also(self, step);
}

static int on_prepare(void *data, const struct gmem_conversion *conversion)
{
	struct listener *self = data;

	note(self, "prepare", conversion);
	return self->refuse && --self->refuse == 0 ? self->answer : 0;
}

static void on_commit(void *data, const struct gmem_conversion *conversion)
{
	note(data, "commit", conversion);
}

static void on_abort(void *data, const struct gmem_conversion *conversion)
{
	note(data, "abort", conversion);
}

static void listen(unsigned int i)
{
	listeners[i].notifier = add_notifier((struct gmem_notifier_opts){.prepare = on_prepare,
									 .commit = on_commit,
									 .abort = on_abort,
									 .data = &listeners[i]});
}

static void listen_all(void)
{
	for (unsigned int i = 0; i < 3; i++)
		listen(i);
	told[0] = '\0';
}

static void deafen_all(void)
{
	for (unsigned int i = 0; i < 3; i++) {
		gmem_notifier_close(listeners[i].notifier);
		listeners[i] = (struct listener){.name = listeners[i].name};
	}
}

static void forget_told(void)
{
	told[0] = '\0';
}

static void check_told(const char *expected)
{
	ck_assert_str_eq(told, expected);
	told[0] = '\0';
}

START_TEST(notifiers_are_told_in_order)
{
	listen_all();
	ck_works(convert(0x12000, 0x1000, PRIVATE, DISCARD));
	check_told("c.prepare(12000+1000 private) b.prepare(12000+1000 private) "
		   "a.prepare(12000+1000 private) c.commit(12000+1000 private) "
		   "b.commit(12000+1000 private) a.commit(12000+1000 private) ");
	ck_works(convert(0x12000, 0x1000, SHARED, DISCARD));
	check_told("a.prepare(12000+1000 shared) b.prepare(12000+1000 shared) "
		   "c.prepare(12000+1000 shared) a.commit(12000+1000 shared) "
		   "b.commit(12000+1000 shared) c.commit(12000+1000 shared) ");
	/* Nothing to do, or to drop alone: nobody is told. */
	ck_works(convert(0x12000, 0x1000, SHARED, KEEP));
	ck_works(convert(0x12000, 0x1000, PRIVATE, KEEP));
	told[0] = '\0';
	ck_works(convert(0x12000, 0x1000, PRIVATE, DISCARD));
	check_told("");
	deafen_all();
}
END_TEST

/* Each run that changes by itself, over slots; all prepares come first. */
START_TEST(notifiers_are_told_of_each_run)
{
	listen(0);
	ck_works(convert(0x12000, 0x1000, PRIVATE, KEEP));
	ck_works(convert(0x1f000, 0x2000, PRIVATE, DISCARD));
	told[0] = '\0';
	ck_works(convert(0x11000, 0x11000, PRIVATE, DISCARD));
	check_told("a.prepare(11000+1000 private) a.prepare(13000+c000 private) "
		   "a.prepare(21000+1000 private) a.commit(11000+1000 private) "
		   "a.commit(13000+c000 private) a.commit(21000+1000 private) ");
	deafen_all();
}
END_TEST

/* What has happened when each of the three is called. */
static void note_calls(struct listener *self, const char *step)
{
	(void)self;
	snprintf(told + strlen(told), sizeof(told) - strlen(told), "[%s: %u set, %u dropped, %s] ",
		 step, gmem_fake_count(fake, "SET_ATTRIBUTES"), gmem_fake_count(fake, "REMOVE"),
		 gmem_fake_is_private(fake, gmem_vm_get_fd(vm), 0x12000, NULL) ? "private"
									       : "shared");
}

START_TEST(notifiers_are_told_at_the_right_time)
{
	enum gmem_visibility visibility;

	listen(0);
	listeners[0].also = note_calls;
	ck_works(convert(0x12000, 0x1000, PRIVATE, DISCARD));
	check_told("a.prepare(12000+1000 private) [prepare: 0 set, 0 dropped, shared] "
		   "a.commit(12000+1000 private) [commit: 1 set, 0 dropped, private] ");
	ck_assert_uint_eq(gmem_fake_count(fake, "REMOVE"), 1);
	ck_works(gmem_vm_get_visibility(vm, 0x12000, &visibility, NULL));
	ck_assert_int_eq(visibility, PRIVATE);
	deafen_all();
}
END_TEST

static const struct {
	unsigned int who, when; /* listener, and which of its prepares */
	enum gmem_visibility to;
	const char *told;
} refused[] = {
	{2, 1, PRIVATE, "c.prepare(12000+1000 private) "},
	{1, 1, PRIVATE,
	 "c.prepare(12000+1000 private) b.prepare(12000+1000 private) "
	 "c.abort(12000+1000 private) "},
	{0, 1, PRIVATE,
	 "c.prepare(12000+1000 private) b.prepare(12000+1000 private) "
	 "a.prepare(12000+1000 private) b.abort(12000+1000 private) "
	 "c.abort(12000+1000 private) "},
	{1, 2, PRIVATE,
	 "c.prepare(12000+1000 private) b.prepare(12000+1000 private) "
	 "a.prepare(12000+1000 private) c.prepare(14000+1000 private) "
	 "b.prepare(14000+1000 private) c.abort(14000+1000 private) "
	 "a.abort(12000+1000 private) b.abort(12000+1000 private) "
	 "c.abort(12000+1000 private) "},
	{0, 1, SHARED, "a.prepare(12000+1000 shared) "},
	{2, 1, SHARED,
	 "a.prepare(12000+1000 shared) b.prepare(12000+1000 shared) "
	 "c.prepare(12000+1000 shared) b.abort(12000+1000 shared) "
	 "a.abort(12000+1000 shared) "},
	{1, 2, SHARED,
	 "a.prepare(12000+1000 shared) b.prepare(12000+1000 shared) "
	 "c.prepare(12000+1000 shared) a.prepare(14000+1000 shared) "
	 "b.prepare(14000+1000 shared) a.abort(14000+1000 shared) "
	 "c.abort(12000+1000 shared) b.abort(12000+1000 shared) "
	 "a.abort(12000+1000 shared) "},
};

/* Two runs, of pages 0x12000 and 0x14000. */
static void make_two_runs(enum gmem_visibility to)
{
	if (to == SHARED)
		ck_works(convert(0x12000, 0x3000, PRIVATE, DISCARD));
	ck_works(convert(0x13000, 0x1000, to, DISCARD));
	gmem_fake_forget(fake);
}

START_TEST(notifier_refuses)
{
	static const struct {
		int answer, error;
	} answers[] = {{-EBUSY, EBUSY}, {-EPERM, EPERM}, {7, EBUSY}, {INT32_MIN, EBUSY}};
	char map[256];
	uint64_t done;

	make_two_runs(refused[_i].to);
	library_map(map, sizeof(map), 0x100000);
	listen_all();
	for (size_t i = 0; i < ARRAY_SIZE(answers); i++) {
		listeners[refused[_i].who].refuse = refused[_i].when;
		listeners[refused[_i].who].answer = answers[i].answer;
		done = 1;
		gmem_fake_expect(fake, "%s", "");
		script_check_failure(
			gmem_vm_convert(vm, 0x12000, 0x3000, refused[_i].to, DISCARD, &done),
			answers[i].error, GMEM_REASON_NOTIFIER_REFUSED, "convert", __FILE__,
			__LINE__);
		gmem_fake_met(fake);
		ck_assert_uint_eq(done, 0);
		check_told(refused[_i].told);
		check_private(map);
	}
	deafen_all();
}
END_TEST

/* The kernel's refusal is told to all, last run first. */
START_TEST(notifiers_are_told_of_a_failure)
{
	make_two_runs(PRIVATE);
	listen_all();
	gmem_fake_fail(fake, (unsigned int)_i, EIO, name_of(PRIVATE));
	ck_fails(convert(0x12000, 0x3000, PRIVATE, DISCARD), EIO, KERNEL_REFUSED);
	gmem_fake_recover(fake);
	check_told("c.prepare(12000+1000 private) b.prepare(12000+1000 private) "
		   "a.prepare(12000+1000 private) c.prepare(14000+1000 private) "
		   "b.prepare(14000+1000 private) a.prepare(14000+1000 private) "
		   "a.abort(14000+1000 private) b.abort(14000+1000 private) "
		   "c.abort(14000+1000 private) a.abort(12000+1000 private) "
		   "b.abort(12000+1000 private) c.abort(12000+1000 private) ");
	check_private("13000-14000 ");
	deafen_all();
}
END_TEST

/* Each callback may be missing. */
START_TEST(notifiers_with_one_callback)
{
	struct gmem_notifier_opts opts = {.sz = sizeof(opts), .data = &listeners[0]};
	struct gmem_notifier *notifier = (void *)&opts;

	ck_fails(gmem_vm_add_notifier(vm, &opts, &notifier), EINVAL, CONFLICT);
	ck_assert_ptr_null(notifier);
	opts.prepare = _i == 0 ? on_prepare : NULL;
	opts.commit = _i == 1 ? on_commit : NULL;
	opts.abort = _i == 2 ? on_abort : NULL;
	ck_works(gmem_vm_add_notifier(vm, &opts, &notifier));
	told[0] = '\0';
	ck_works(convert(0x12000, 0x1000, PRIVATE, DISCARD));
	gmem_fake_fail(fake, 0, EIO, "SET_ATTRIBUTES");
	ck_fails(convert(0x14000, 0x1000, PRIVATE, DISCARD), EIO, KERNEL_REFUSED);
	gmem_fake_recover(fake);
	check_told(_i == 0   ? "a.prepare(12000+1000 private) a.prepare(14000+1000 private) "
		   : _i == 1 ? "a.commit(12000+1000 private) "
			     : "a.abort(14000+1000 private) ");
	gmem_notifier_close(notifier);
}
END_TEST

/* Who comes or goes between conversions. */
START_TEST(notifiers_come_and_go)
{
	listen(0);
	listen(1);
	gmem_notifier_close(listeners[0].notifier);
	told[0] = '\0';
	ck_works(convert(0x12000, 0x1000, SHARED, DISCARD));
	ck_works(convert(0x12000, 0x1000, PRIVATE, DISCARD));
	check_told("b.prepare(12000+1000 private) b.commit(12000+1000 private) ");
	listen(0);
	ck_works(convert(0x12000, 0x1000, SHARED, DISCARD));
	check_told("b.prepare(12000+1000 shared) a.prepare(12000+1000 shared) "
		   "b.commit(12000+1000 shared) a.commit(12000+1000 shared) ");
	deafen_all();
	ck_works(convert(0x12000, 0x1000, PRIVATE, DISCARD));
	check_told("");
	gmem_notifier_close(NULL);
}
END_TEST

/* A listener whose slot is deleted by another thread while it prepares. */
static void *delete_slot(void *data)
{
	ck_works(gmem_slot_delete(data));
	return NULL;
}

static void delete_in_thread(struct listener *self, const char *step)
{
	pthread_t thread;

	(void)self;
	if (strcmp(step, "prepare") && strcmp(step, "commit"))
		return;
	self->also = NULL;
	ck_assert_int_eq(pthread_create(&thread, NULL, delete_slot, slots[0]), 0);
	ck_assert_int_eq(pthread_join(thread, NULL), 0);
}

START_TEST(slot_goes_while_a_notifier_prepares)
{
	listen_all();
	listeners[0].also = delete_in_thread;
	ck_fails(convert(0x1f000, 0x2000, PRIVATE, DISCARD), EFAULT, GPA_UNMAPPED);
	ck_assert_uint_eq(gmem_fake_count(fake, "SET_ATTRIBUTES"), 0);
	check_told("c.prepare(1f000+2000 private) b.prepare(1f000+2000 private) "
		   "a.prepare(1f000+2000 private) a.abort(1f000+2000 private) "
		   "b.abort(1f000+2000 private) c.abort(1f000+2000 private) ");
	check_private("");
	deafen_all();
}
END_TEST

static void delete_at_commit(struct listener *self, const char *step)
{
	if (strcmp(step, "commit") == 0)
		delete_in_thread(self, step);
}

START_TEST(slot_goes_while_a_notifier_commits)
{
	listen(0);
	listeners[0].also = delete_at_commit;
	ck_works(convert(0x1f000, 0x2000, PRIVATE, DISCARD));
	ck_assert_uint_eq(gmem_fake_count(fake, "REMOVE"), 0);
	ck_assert_uint_eq(gmem_fake_count(fake, "fallocate(memfd1"), 1);
	check_private("1f000-21000 ");
	deafen_all();
}
END_TEST

/* ---- Calls from callbacks ---- */

static void close_self(struct listener *self, const char *step)
{
	if (strcmp(step, "prepare"))
		return;
	gmem_notifier_close(self->notifier);
	self->notifier = NULL;
}

/* It still hears how the conversion under way ends, and nothing after that. */
START_TEST(notifier_closed_in_its_own_callback)
{
	char callback[] = {listeners[_i].name, '.', '\0'};

	listen_all();
	listeners[_i].also = close_self;
	ck_works(convert(0x12000, 0x1000, PRIVATE, DISCARD));
	check_told("c.prepare(12000+1000 private) b.prepare(12000+1000 private) "
		   "a.prepare(12000+1000 private) c.commit(12000+1000 private) "
		   "b.commit(12000+1000 private) a.commit(12000+1000 private) ");
	ck_works(convert(0x12000, 0x1000, SHARED, DISCARD));
	ck_assert_ptr_null(strstr(told, callback));
	deafen_all();
}
END_TEST

static void close_others(struct listener *self, const char *step)
{
	(void)step;
	for (unsigned int i = 0; i < 3; i++)
		if (&listeners[i] != self) {
			gmem_notifier_close(listeners[i].notifier);
			listeners[i].notifier = NULL;
		}
}

START_TEST(notifiers_closed_in_a_callback_of_another)
{
	listen_all();
	listeners[_i].also = close_others;
	gmem_fake_fail(fake, 1, EIO, "SET_ATTRIBUTES");
	ck_fails(convert(0x12000, 0x1000, PRIVATE, DISCARD), EIO, KERNEL_REFUSED);
	check_told("c.prepare(12000+1000 private) b.prepare(12000+1000 private) "
		   "a.prepare(12000+1000 private) a.abort(12000+1000 private) "
		   "b.abort(12000+1000 private) c.abort(12000+1000 private) ");
	gmem_fake_recover(fake);
	ck_works(convert(0x12000, 0x1000, PRIVATE, DISCARD));
	ck_assert_uint_eq(strlen(told), 2 * strlen("a.commit(12000+1000 private) ") + 1);
	deafen_all();
}
END_TEST

/* A notifier whose handle is the VM's last reference is freed with the VM, without a leak. */
START_TEST(vm_closed_before_its_notifier)
{
	struct gmem_vm *other = script_vm(fake, 0), *mine = vm;

	vm = other;
	listen(0);
	gmem_vm_close(other);
	vm = mine;
	deafen_all();
}
END_TEST

static void change_all(struct listener *self, const char *step)
{
	struct gmem_slot_opts opts = {.sz = sizeof(opts), .size = 0x1000, .host = ram};
	struct gmem_notifier_opts notifier_opts = {.sz = sizeof(notifier_opts),
						   .prepare = on_prepare};
	struct gmem_notifier *notifier;
	enum gmem_visibility visibility;
	struct gmem_slot *slot;
	uint64_t done = 1;
	char byte;

	(void)self;
	(void)step;
	ck_fails(gmem_vm_convert(vm, 0x20000, 0x1000, PRIVATE, DISCARD, &done), EDEADLK,
		 IN_CALLBACK);
	ck_assert_uint_eq(done, 0);
	ck_fails(gmem_vm_adopt_visibility(vm, 0x20000, 0x1000, PRIVATE), EDEADLK, IN_CALLBACK);
	ck_fails(gmem_vm_add_notifier(vm, &notifier_opts, &notifier), EDEADLK, IN_CALLBACK);
	ck_fails(gmem_slot_create(vm, &opts, &slot), EDEADLK, IN_CALLBACK);
	ck_fails(gmem_slot_delete(slots[0]), EDEADLK, IN_CALLBACK);
	ck_fails(gmem_vm_discard(vm, 0x10000, 0x1000), EDEADLK, IN_CALLBACK);
	ck_fails(gmem_vm_enable_map_gpa_range(vm), EDEADLK, IN_CALLBACK);
	ck_fails(gmem_memfd_convert(private_half, 0, 0x1000, PRIVATE, &done), EDEADLK, IN_CALLBACK);
	/* Whoever reads may. */
	ck_works(gmem_vm_read(vm, 0, 0x50000, &byte, 1));
	ck_works(gmem_vm_get_visibility(vm, 0x10000, &visibility, NULL));
	stats_of(vm);
	ck_assert_int_lt(gmem_vm_read(vm, 0, 0, &byte, 1), 0);
}

/* What a callback fails at is none of the failure that the thread is told of. */
START_TEST(callbacks_may_not_change)
{
	listen_all();
	for (unsigned int i = 0; i < 3; i++)
		listeners[i].also = change_all;
	ck_fails(convert(0, 0, SHARED, DISCARD), EINVAL, RANGE_EMPTY);
	ck_works(convert(0x12000, 0x1000, PRIVATE, DISCARD));
	ck_assert_int_eq(gmem_error_get_reason(), GMEM_REASON_RANGE_EMPTY);
	gmem_fake_fail(fake, 1, EIO, "SET_ATTRIBUTES");
	ck_fails(convert(0x14000, 0x1000, PRIVATE, DISCARD), EIO, KERNEL_REFUSED);
	gmem_fake_recover(fake);
	listeners[0].refuse = 1;
	listeners[0].answer = -EBUSY;
	ck_fails(convert(0x14000, 0x1000, PRIVATE, DISCARD), EBUSY, NOTIFIER_REFUSED);
	ck_assert_ptr_nonnull(strstr(last_log, "a notifier refused"));
	deafen_all();
}
END_TEST

/* ---- Conversions at once ---- */

static pthread_t helper;
static _Atomic int progress; /* of the helper */

static void *convert_page(void *data)
{
	ck_works(convert((uintptr_t)data, 0x1000, PRIVATE, DISCARD));
	atomic_store(&progress, 1);
	return NULL;
}

static void *close_notifier(void *data)
{
	gmem_notifier_close(data);
	atomic_store(&progress, 1);
	return NULL;
}

static void start_helper(void *(*run)(void *), void *data)
{
	atomic_store(&progress, 0);
	ck_assert_int_eq(pthread_create(&helper, NULL, run, data), 0);
}

/* Long enough for one that does not wait to be caught. */
static void check_helper_waits(void)
{
	usleep(20000);
	ck_assert_int_eq(atomic_load(&progress), 0);
}

static void convert_meanwhile(struct listener *self, const char *step)
{
	self->also = NULL;
	ck_assert_str_eq(step, "prepare");
	/* Elsewhere nothing is waited for. */
	start_helper(convert_page, (void *)0x14000);
	ck_assert_int_eq(pthread_join(helper, NULL), 0);
	start_helper(convert_page, (void *)0x12000);
	check_helper_waits();
}

/* Ranges that touch wait for each other, others do not. */
START_TEST(conversions_of_one_range_wait)
{
	listen(0);
	listeners[0].also = convert_meanwhile;
	ck_works(convert(0x11000, 0x2000, PRIVATE, DISCARD));
	ck_assert_int_eq(pthread_join(helper, NULL), 0);
	check_told("a.prepare(11000+2000 private) a.prepare(14000+1000 private) "
		   "a.commit(14000+1000 private) a.commit(11000+2000 private) ");
	check_private("11000-13000 14000-15000 ");
	deafen_all();
}
END_TEST

static pthread_t second_helper;
static _Atomic int second_progress;

static void *convert_two_pages(void *data)
{
	ck_works(convert((uintptr_t)data, 0x2000, PRIVATE, DISCARD));
	atomic_store(&second_progress, 1);
	return NULL;
}

static void queue_up(struct listener *self, const char *step)
{
	(void)step;
	self->also = NULL;
	atomic_store(&progress, 0);
	ck_assert_int_eq(pthread_create(&second_helper, NULL, convert_two_pages, (void *)0x11000),
			 0);
	usleep(20000);
	start_helper(convert_page, (void *)0x12000);
	check_helper_waits();
	ck_assert_int_eq(atomic_load(&second_progress), 0);
}

/* Who came first is first, so that small conversions do not keep a large one waiting for ever. */
START_TEST(conversions_take_turns)
{
	listen(0);
	listeners[0].also = queue_up;
	ck_works(convert(0x11000, 0x1000, PRIVATE, DISCARD));
	ck_assert_int_eq(pthread_join(helper, NULL), 0);
	ck_assert_int_eq(pthread_join(second_helper, NULL), 0);
	check_told("a.prepare(11000+1000 private) a.commit(11000+1000 private) "
		   "a.prepare(12000+1000 private) a.commit(12000+1000 private) ");
	check_private("11000-13000 ");
	deafen_all();
}
END_TEST

static const char *closing_step;

static void close_meanwhile(struct listener *self, const char *step)
{
	struct gmem_notifier *notifier = self->notifier;

	if (strcmp(step, closing_step))
		return;
	self->also = NULL;
	self->notifier = NULL;
	start_helper(close_notifier, notifier);
	check_helper_waits();
}

/* Who closes a notifier waits until no callback of it can come. */
START_TEST(close_waits_for_conversions)
{
	closing_step = _i ? "commit" : "prepare";
	listen(0);
	listeners[0].also = close_meanwhile;
	ck_works(convert(0x11000, 0x1000, PRIVATE, DISCARD));
	ck_assert_int_eq(pthread_join(helper, NULL), 0);
	check_told("a.prepare(11000+1000 private) a.commit(11000+1000 private) ");
	ck_works(convert(0x11000, 0x1000, SHARED, DISCARD));
	check_told("");
	deafen_all();
}
END_TEST

/* ---- The room for many conversions at once ---- */

#define CROWD 48

static pthread_barrier_t crowd_barrier;

static int wait_for_crowd(void *data, const struct gmem_conversion *conversion)
{
	(void)data;
	(void)conversion;
	pthread_barrier_wait(&crowd_barrier);
	return 0;
}

static void *convert_middle(void *data)
{
	ck_works(convert((uintptr_t)data, 0x1000, SHARED, KEEP));
	return NULL;
}

/*
 * All of them have set their room aside, and are in prepare, before the first one uses it. Each
 * cuts an interval in a full node of the map, which takes a node more.
 */
START_TEST(a_crowd_finds_room_in_the_map)
{
	struct gmem_notifier *notifier;
	pthread_t threads[CROWD];

	fill_nodes(CROWD);
	notifier = add_notifier((struct gmem_notifier_opts){.prepare = wait_for_crowd});
	pthread_barrier_init(&crowd_barrier, NULL, CROWD);
	for (uint64_t i = 0; i < CROWD; i++) {
		void *at = (void *)(uintptr_t)((i * FULL + FULL / 2) * 4 * PAGE + PAGE);

		ck_assert_int_eq(pthread_create(&threads[i], NULL, convert_middle, at), 0);
	}
	for (uint64_t i = 0; i < CROWD; i++)
		ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
	gmem_notifier_close(notifier);
	check_maps_agree();
}
END_TEST

/* ---- The map ---- */

START_TEST(visibility_runs)
{
	enum gmem_visibility visibility;
	uint64_t size;

	ck_works(convert(0x12000, 0x2000, PRIVATE, DISCARD));
	ck_works(convert(0x14000, 0x1000, PRIVATE, KEEP));
	gmem_fake_expect(fake, "%s", "");
	ck_works(gmem_vm_get_visibility(vm, 0, &visibility, &size));
	ck_assert_int_eq(visibility, SHARED);
	ck_assert_uint_eq(size, 0x12000);
	/* Any address, not only that of a page; what is held twice alone is no difference. */
	ck_works(gmem_vm_get_visibility(vm, 0x12345, &visibility, &size));
	ck_assert_int_eq(visibility, PRIVATE);
	ck_assert_uint_eq(size, 0x15000 - 0x12345);
	ck_works(gmem_vm_get_visibility(vm, 0x15000, &visibility, &size));
	ck_assert_int_eq(visibility, SHARED);
	ck_assert_uint_eq(size, UINT64_MAX - 0x15000);
	ck_works(gmem_vm_get_visibility(vm, UINT64_MAX, &visibility, &size));
	ck_assert_int_eq(visibility, SHARED);
	ck_assert_uint_eq(size, 0);
	ck_works(gmem_vm_get_visibility(vm, 0x12000, &visibility, NULL));
	ck_fails(gmem_vm_get_visibility(NULL, 0, &visibility, &size), EINVAL, NULL);
	ck_fails(gmem_vm_get_visibility(vm, 0, NULL, &size), EINVAL, NULL);
	gmem_fake_met(fake);
}
END_TEST

/* What is private can neither be found nor copied, on either side of the boundary. */
START_TEST(access_stops_at_private_pages)
{
	char bytes[16] = "0123456789abcde";
	uint64_t len;
	uint8_t one;
	void *addr;

	ck_works(convert(0x12000, 0x2000, PRIVATE, KEEP));
	memset(ram, 7, sizeof(ram));
	ck_works(gmem_vm_translate(vm, 0, 0x11000, 0, &len, &addr));
	ck_assert_uint_eq(len, 0x1000);
	ck_assert_ptr_eq(addr, ram + 0x1000);
	ck_fails(gmem_vm_translate(vm, 0, 0x12000, 0, &len, &addr), EFAULT, MEMFD_PRIVATE);
	ck_fails(gmem_vm_translate(vm, 0, 0x13fff, 0, &len, &addr), EFAULT, MEMFD_PRIVATE);
	ck_works(gmem_vm_translate(vm, 0, 0x14000, 0, &len, &addr));
	ck_assert_uint_eq(len, 0xc000);
	ck_fails(gmem_vm_write(vm, 0, 0x11ff8, bytes, 16), EFAULT, MEMFD_PRIVATE);
	ck_fails(gmem_vm_write(vm, 0, 0x13ff8, bytes, 16), EFAULT, MEMFD_PRIVATE);
	ck_fails(gmem_vm_read(vm, 0, 0x11fff, bytes, 2), EFAULT, MEMFD_PRIVATE);
	ck_fails(gmem_vm_load_u8(vm, 0, 0x12000, &one), EFAULT, MEMFD_PRIVATE);
	ck_fails(gmem_vm_store_u8(vm, 0, 0x13fff, 1), EFAULT, MEMFD_PRIVATE);
	ck_assert_str_eq(bytes, "0123456789abcde");
	for (size_t i = 0; i < sizeof(ram); i++)
		ck_assert_int_eq(ram[i], 7);
	ck_works(gmem_vm_write(vm, 0, 0x11ff0, bytes, 16));
	ck_works(gmem_vm_load_u8(vm, 0, 0x11fff, &one));
	ck_works(convert(0x12000, 0x2000, SHARED, KEEP));
	ck_works(gmem_vm_write(vm, 0, 0x13ff8, bytes, 16));
}
END_TEST

/* What the VMM has done itself: no call, and the other half may still hold something. */
START_TEST(visibility_adopted)
{
	gmem_fake_expect(fake, "%s", "");
	ck_works(gmem_vm_adopt_visibility(vm, 0x12000, 0x2000, PRIVATE));
	ck_works(gmem_vm_adopt_visibility(vm, 0x12000, 0x1000, SHARED));
	/* Where no slot is, too. */
	ck_works(gmem_vm_adopt_visibility(vm, 0x80000, 0x2000, PRIVATE));
	gmem_fake_met(fake);
	ck_fails(gmem_vm_adopt_visibility(vm, 0x12000, 0x1000, (enum gmem_visibility)2), EINVAL,
		 ARGUMENT);
	ck_fails(gmem_vm_adopt_visibility(vm, 0x12000, 0, SHARED), EINVAL, RANGE_EMPTY);
	ck_fails(gmem_vm_adopt_visibility(vm, 0x12001, 0x1000, SHARED), EINVAL, RANGE_UNALIGNED);
	ck_fails(gmem_vm_adopt_visibility(vm, 0x1000, UINT64_MAX - 0xfff, SHARED), EOVERFLOW,
		 RANGE_WRAPS);
	ck_fails(gmem_vm_adopt_visibility(vm, UINT64_C(1) << 46, 0x1000, SHARED), ERANGE,
		 GPA_BEYOND_WIDTH);
	ck_fails(gmem_vm_adopt_visibility(NULL, 0, 0x1000, SHARED), EINVAL, NULL);
	ck_assert_uint_eq(stats_of(vm).private_bytes, 0x1000);
	ck_assert_uint_eq(stats_of(vm).twice_bytes, 0x2000);
}
END_TEST

/* gmem_vm_adopt_visibility() waits for a conversion of the range, as conversions do. */
static void *adopt_page(void *data)
{
	ck_works(gmem_vm_adopt_visibility(vm, (uintptr_t)data, 0x1000, SHARED));
	atomic_store(&progress, 1);
	return NULL;
}

static void adopt_meanwhile(struct listener *self, const char *step)
{
	(void)step;
	self->also = NULL;
	start_helper(adopt_page, (void *)0x12000);
	check_helper_waits();
}

START_TEST(adopting_visibility_waits)
{
	listen(0);
	listeners[0].also = adopt_meanwhile;
	ck_works(convert(0x11000, 0x2000, PRIVATE, DISCARD));
	ck_assert_int_eq(pthread_join(helper, NULL), 0);
	ck_assert_uint_eq(stats_of(vm).private_bytes, 0x1000);
	deafen_all();
}
END_TEST

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static int refuse_at_random(void *data, const struct gmem_conversion *conversion)
{
	(void)conversion;
	return next_random(data) % 16 ? 0 : -EBUSY;
}

static void check_all(uint64_t twice_limit)
{
	struct gmem_stats stats = stats_of(vm);

	check_maps_agree();
	ck_assert_uint_eq(stats.private_bytes + stats.shared_bytes, 0x50000);
	ck_assert_uint_le(stats.twice_bytes, twice_limit);
}

/* Thousands of conversions over all slots, of which any call may fail. */
START_TEST(random_conversions_agree_with_the_kernel)
{
	static const char *const parts[] = {"SET_ATTRIBUTES", "fallocate", "REMOVE", "DONTNEED"};
	uint64_t state = (uint64_t)_i * 0x9e3779b97f4a7c15U + 1;
	struct gmem_notifier *notifier = add_notifier(
		(struct gmem_notifier_opts){.prepare = refuse_at_random, .data = &state});
	unsigned int worked = 0, undone = 0;

	for (unsigned int i = 0; i < 3000; i++) {
		enum gmem_visibility to = next_random(&state) % 2 ? PRIVATE : SHARED;
		uint64_t page = next_random(&state) % 0x42;
		uint64_t size = (1 + next_random(&state) % 12) * PAGE;
		uint64_t done = 1;
		int r;

		if (next_random(&state) % 3 == 0)
			gmem_fake_fail(fake, (unsigned int)(1 + next_random(&state) % 4), EIO,
				       parts[next_random(&state) % 4]);
		if (next_random(&state) % 4 == 0) {
			gmem_fake_fail(fake, 2, EIO, name_of(to));
			gmem_fake_fail(fake, 0, EIO, name_of(opposite_of(to)));
		}
		r = gmem_vm_convert(vm, 0x10000 + page * PAGE, size, to,
				    next_random(&state) % 3 ? DISCARD : KEEP, &done);
		gmem_fake_recover(fake);
		ck_assert_uint_eq(done % PAGE, 0);
		ck_assert_uint_le(done, size);
		ck_assert(r < 0 || done == size);
		worked += r == 0;
		undone += r == -ENOTRECOVERABLE;
		check_maps_agree();
		if (i % 100 == 0) {
			check_all(0x20000);
			gmem_fake_forget(fake);
		}
	}
	ck_assert_uint_gt(worked, 500);
	ck_assert_uint_gt(undone, 5);
	gmem_notifier_close(notifier);
	for (uint64_t page = 0; page < 0x20; page++)
		ck_works(convert(0x10000 + page * PAGE, PAGE, SHARED, DISCARD));
	check_all(0);
}
END_TEST

/* ---- A guest of 1 TiB ---- */

/* Only the map is of interest: what the kernel is asked for it answers without doing it. */
static void start_large(void)
{
	fake = script_new(GMEM_FAKE_PRIVATE);
	vm = script_vm(fake, 0);
	slot_count = 0;
	private_half = script_memfd(vm, TIB, 0);
	BIND(.gpa = 0, .size = TIB, .memfd = private_half, .host = (void *)(uintptr_t)(16 * TIB));
	gmem_fake_answer(fake, 0, 0, "SET_ATTRIBUTES");
	gmem_fake_answer(fake, 0, 0, "madvise");
	gmem_fake_answer(fake, 0, 0, "fallocate");
}

#if SANITIZED
/* <sanitizer/allocator_interface.h>, which not every compiler installs. */
size_t __sanitizer_get_current_allocated_bytes(void);

static size_t allocated_bytes(void)
{
	return __sanitizer_get_current_allocated_bytes();
}
#else
static size_t allocated_bytes(void)
{
	struct mallinfo2 info = mallinfo2();

	return info.uordblks + info.hblkhd;
}
#endif

static unsigned int large_calls;

static void convert_large(uint64_t piece, uint64_t count, enum gmem_visibility to,
			  enum gmem_convert_policy policy)
{
	ck_works(convert(piece * 2 * MIB, count * 2 * MIB, to, policy));
	if (++large_calls % 256 == 0)
		gmem_fake_forget(fake);
}

#define PIECES (TIB / (2 * MIB))

/* Every other piece, upwards. */
static void alternate(void)
{
	for (uint64_t i = 0; i < PIECES; i += 2)
		convert_large(i, 1, PRIVATE, DISCARD);
}

/* The same in the worst order: each node is split in its middle, and never filled again. */
static void alternate_downwards(void)
{
	for (uint64_t i = PIECES; i > 0; i -= 2)
		convert_large(i - 1, 1, PRIVATE, DISCARD);
}

/* All that is kept doubles it: what is private, and what is held twice. */
static void alternate_kept(void)
{
	for (uint64_t i = PIECES; i > 0; i -= 2)
		convert_large(i - 1, 1, PRIVATE, KEEP);
}

/*
 * A guest that empties nodes but for an entry, so that they cannot be used for others, and fills
 * what is between anew, again and again.
 */
static void hollow_out(void)
{
	alternate_kept();
	for (uint64_t round = 0; round < 2; round++) {
		for (uint64_t i = 0; i + 32 <= PIECES; i += 32)
			convert_large(i + 2, 30, SHARED, DISCARD);
		for (uint64_t i = PIECES; i > 0; i -= 2)
			convert_large(i - 1, 1, PRIVATE, KEEP);
	}
}

/*
 * And one that splits a node again and again, and leaves one entry in the upper part, right before
 * the one left of it the time before: each a node of its own, if nodes are not put together.
 */
static void thin_out(void)
{
	uint64_t low = PIECES / 2 - FULL, unfilled = low;

	for (uint64_t top = PIECES / 2; top > PIECES / 2 - 30000; top--, low--) {
		for (uint64_t i = unfilled; i < top; i++)
			convert_large(2 * i, 1, PRIVATE, KEEP);
		convert_large(2 * (low - 1), 1, PRIVATE, KEEP);
		unfilled = low + FULL / 2;
		convert_large(2 * unfilled, 2 * (top - 1 - unfilled), SHARED, DISCARD);
	}
}

static const struct {
	const char *name;
	void (*make)(void);
} shapes[] = {
	{"alternating", alternate},	    {"alternating, downwards", alternate_downwards},
	{"all held twice", alternate_kept}, {"hollowed out", hollow_out},
	{"thinned out", thin_out},
};

static void churn(uint64_t *state, unsigned int count)
{
	for (unsigned int i = 0; i < count; i++) {
		uint64_t piece = next_random(state) % PIECES;

		convert_large(piece, 1, next_random(state) % 2 ? PRIVATE : SHARED,
			      next_random(state) % 2 ? DISCARD : KEEP);
	}
}

START_TEST(metadata_of_a_large_guest)
{
	uint64_t state = 88172645463325252U;
	size_t before, made, churned;

	if (harness_is_quick())
		SKIP("half a million conversions in one thread");
	start_large();
	before = allocated_bytes();
	shapes[_i].make();
	made = allocated_bytes() - before;
	ck_assert_uint_gt(made, MIB);
	ck_assert_msg(made < 64 * MIB, "%s: %zu bytes", shapes[_i].name, made);
	churn(&state, 20000);
	churned = allocated_bytes() - before;
	ck_assert_msg(churned < 64 * MIB, "%s, churned: %zu bytes", shapes[_i].name, churned);
	harness_note("%s: %zu MiB", shapes[_i].name, (made + MIB / 2) / MIB);
	gmem_fake_recover(fake);
	end();
}
END_TEST

static uint64_t now_ns(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

/* How long 1000 accesses at the start of memory take. */
/* So many runs of a piece each have a call each, and one more has one for all. */
#define CALLS_MAX 64

START_TEST(very_many_runs_are_one_call)
{
	const uint64_t runs = CALLS_MAX + (uint64_t)_i;
	const uint64_t size = (2 * runs - 1) * 2 * MIB;
	const unsigned int calls = _i ? 1 : CALLS_MAX;
	uint64_t done;

	start_large();
	gmem_fake_recover(fake);
	gmem_fake_answer(fake, 0, 0, "madvise");
	for (uint64_t i = 0; i + 1 < runs; i++)
		convert_large(2 * i + 1, 1, PRIVATE, DISCARD);
	gmem_fake_forget(fake);
	gmem_fake_fail(fake, calls, ENOMEM, "SET_ATTRIBUTES");
	ck_fails(gmem_vm_convert(vm, 0, size, PRIVATE, DISCARD, &done), ENOMEM, NO_MEMORY);
	ck_assert_uint_eq(gmem_fake_count(fake, " private"), calls);
	ck_assert_uint_eq(gmem_fake_count(fake, " shared"), calls - 1);
	check_maps_agree();
	gmem_fake_recover(fake);
	gmem_fake_answer(fake, 0, 0, "madvise");
	gmem_fake_forget(fake);
	ck_works(gmem_vm_convert(vm, 0, size, PRIVATE, DISCARD, &done));
	ck_assert_uint_eq(gmem_fake_count(fake, "SET_ATTRIBUTES"), calls);
	ck_assert_uint_eq(done, size);
	check_maps_agree();
	gmem_fake_recover(fake);
	end();
}
END_TEST

static uint64_t time_of_accesses(void)
{
	uint64_t begin = now_ns(), size;
	enum gmem_visibility visibility;
	void *addr;

	for (int i = 0; i < 200; i++) {
		ck_works(gmem_vm_translate(vm, 0, 0, 0, NULL, &addr));
		ck_works(gmem_vm_get_visibility(vm, 0, &visibility, NULL));
		ck_works(gmem_vm_get_visibility(vm, 0, &visibility, &size));
	}
	return now_ns() - begin;
}

/*
 * A guest that has left its memory in pieces which differ in what is held twice alone must not make
 * the host's accesses slower by their number.
 */
START_TEST(accesses_do_not_walk_the_map)
{
	uint64_t before, after;

	if (harness_is_quick())
		SKIP("is about time");
	start_large();
	before = time_of_accesses();
	for (uint64_t i = 0; i < 20000; i += 2) {
		convert_large(i, 1, PRIVATE, KEEP);
		convert_large(i, 1, SHARED, KEEP);
	}
	after = time_of_accesses();
	ck_assert_msg(after < 100 * before + 1000000, "%llu ns, and %llu with 10000 pieces",
		      (unsigned long long)before, (unsigned long long)after);
	gmem_fake_recover(fake);
	end();
}
END_TEST

/* ---- Threads ---- */

/*
 * Pages of the first two slots: [0, 4) and [8, 12) of each are converted by a thread each, [4, 8)
 * is private, [12, 16) shared, for ever.
 */
static _Atomic bool stop;
static _Atomic uint64_t accesses, refusals_seen;

static void expect_visibility(uint64_t gpa, enum gmem_visibility expected)
{
	enum gmem_visibility visibility;
	uint64_t size;

	ck_works(gmem_vm_get_visibility(vm, gpa, &visibility, &size));
	ck_assert_int_eq(visibility, expected);
	ck_assert_uint_ge(size, PAGE);
}

static void access_one(uint64_t gpa, uint64_t *state)
{
	unsigned char bytes[64];
	uint64_t len;
	void *addr;
	int r;

	memset(bytes, 0x5a, sizeof(bytes));
	switch (next_random(state) % 3) {
	case 0:
		r = gmem_vm_write(vm, 0, gpa, bytes, sizeof(bytes));
		break;
	case 1:
		r = gmem_vm_read(vm, 0, gpa, bytes, sizeof(bytes));
		break;
	default:
		r = gmem_vm_translate(vm, 0, gpa, 0, &len, &addr);
		ck_assert(r < 0 || (len > 0 && len <= 0x20000));
	}
	if (r < 0)
		ck_fails(r, EFAULT, MEMFD_PRIVATE);
	atomic_fetch_add_explicit(r < 0 ? &refusals_seen : &accesses, 1, memory_order_relaxed);
}

static void *access_all_the_time(void *data)
{
	struct gmem_slot_memory memory = {.sz = sizeof(memory)};
	uint64_t state = (uintptr_t)data + 1;
	char byte;

	while (!atomic_load(&stop)) {
		uint64_t slot = 0x10000 + next_random(&state) % 2 * 0x10000;
		uint64_t at = next_random(&state) % 2 * 8 + next_random(&state) % 4;
		/* Guest memory has no lock: each thread has bytes of its own. */
		uint64_t offset = (uintptr_t)data * PAGE / 2 + next_random(&state) % 1984;

		access_one(slot + at * PAGE + offset, &state);
		expect_visibility(slot + 4 * PAGE, PRIVATE);
		expect_visibility(slot + 7 * PAGE, PRIVATE);
		expect_visibility(slot + 12 * PAGE, SHARED);
		expect_visibility(slot + 15 * PAGE, SHARED);
		ck_works(gmem_vm_read(vm, 0, slot + 12 * PAGE, &byte, 1));
		ck_fails(gmem_vm_read(vm, 0, slot + 7 * PAGE, &byte, 1), EFAULT, MEMFD_PRIVATE);
		if (next_random(&state) % 64 == 0) {
			ck_works(gmem_slot_get_memory(slots[slot / 0x10000 - 1], &memory));
			ck_assert_uint_eq(memory.private_bytes + memory.shared_bytes, 0x10000);
			stats_of(vm);
		}
	}
	return NULL;
}

/* Nobody may touch the shared half any more: what was dropped is still so a while later. */
static void check_untouched(uint64_t gpa)
{
	const unsigned char *at = ram + (gpa - 0x10000);

	for (int look = 0; look < 3; look++) {
		for (uint64_t i = 0; i < 4 * PAGE; i += 64)
			ck_assert_int_eq(*(const volatile unsigned char *)(at + i), 0);
		sched_yield();
	}
}

#define ROUNDS (int)harness_rounds(100)

static void *convert_all_the_time(void *data)
{
	uint64_t gpa = (uintptr_t)data;

	for (int i = 0; i < ROUNDS; i++) {
		uint64_t done;

		ck_works(gmem_vm_convert(vm, gpa, 4 * PAGE, PRIVATE, DISCARD, &done));
		ck_assert_uint_eq(done, 4 * PAGE);
		if (gpa < 0x20000)
			check_untouched(gpa);
		ck_works(convert(gpa, 4 * PAGE, SHARED, i % 2 ? KEEP : DISCARD));
	}
	return NULL;
}

/* Two that want the same range, one of them told of it. */
static void *quarrel(void *data)
{
	for (int i = 0; i < ROUNDS; i++)
		ck_works(convert(0x20000 + 8 * PAGE, 4 * PAGE,
				 (i + (data ? 1 : 0)) % 2 ? PRIVATE : SHARED, DISCARD));
	return NULL;
}

static int do_nothing(void *data, const struct gmem_conversion *conversion)
{
	(void)data;
	(void)conversion;
	return 0;
}

static void *come_and_go(void *data)
{
	(void)data;
	while (!atomic_load(&stop))
		gmem_notifier_close(
			add_notifier((struct gmem_notifier_opts){.prepare = do_nothing}));
	return NULL;
}

START_TEST(readers_beside_conversions)
{
	pthread_t writers[5], readers[3];

	ck_works(convert(0x14000, 0x4000, PRIVATE, DISCARD));
	ck_works(convert(0x24000, 0x4000, PRIVATE, DISCARD));
	for (uintptr_t i = 0; i < 2; i++)
		ck_assert_int_eq(pthread_create(&readers[i], NULL, access_all_the_time, (void *)i),
				 0);
	ck_assert_int_eq(pthread_create(&readers[2], NULL, come_and_go, NULL), 0);
	for (uintptr_t i = 0; i < 3; i++)
		ck_assert_int_eq(pthread_create(&writers[i], NULL, convert_all_the_time,
						(void *)(0x10000 + i * 8 * PAGE)),
				 0);
	for (uintptr_t i = 3; i < 5; i++)
		ck_assert_int_eq(pthread_create(&writers[i], NULL, quarrel, (void *)(i - 3)), 0);
	for (int i = 0; i < 5; i++)
		ck_assert_int_eq(pthread_join(writers[i], NULL), 0);
	atomic_store(&stop, true);
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(pthread_join(readers[i], NULL), 0);
	ck_assert_uint_gt(atomic_load(&accesses), 0);
	ck_assert_uint_gt(atomic_load(&refusals_seen), 0);
	check_maps_agree();
	ck_assert_uint_eq(stats_of(vm).conversions_failed, 0);
}
END_TEST

/*
 * A copy that has found memory shared ends before that memory is dropped, though it is refused to
 * all that come later.
 */
START_TEST(copies_under_way_are_waited_for)
{
	unsigned int cell = gmem_inflight_enter(&vm->inflight);
	char byte = 1;

	start_helper(convert_page, (void *)0x12000);
	while (!gmem_fake_count(fake, "SET_ATTRIBUTES"))
		sched_yield();
	check_helper_waits();
	ck_assert_uint_eq(gmem_fake_count(fake, "madvise"), 0);
	ck_fails(gmem_vm_write(vm, 0, 0x12000, &byte, 1), EFAULT, MEMFD_PRIVATE);
	ck_works(gmem_vm_write(vm, 0, 0x11000, &byte, 1));
	gmem_inflight_leave(&vm->inflight, cell);
	ck_assert_int_eq(pthread_join(helper, NULL), 0);
	ck_assert_uint_eq(gmem_fake_count(fake, "madvise"), 3);
}
END_TEST

/* ---- gmem_memfd_convert ---- */

static const struct {
	uint64_t offset, size;
	int to;
	int error;
	enum gmem_reason reason;
} in_place[] = {
	{0, 0x1000, 2, EINVAL, GMEM_REASON_ARGUMENT},
	{0, 0, 2, EINVAL, GMEM_REASON_ARGUMENT},
	{0, 0, 0, EINVAL, GMEM_REASON_RANGE_EMPTY},
	{0x800, 0x1000, 0, EINVAL, GMEM_REASON_RANGE_UNALIGNED},
	{0x1000, 0x1800, 1, EINVAL, GMEM_REASON_RANGE_UNALIGNED},
	{UINT64_MAX - 0xfff, 0x2000, 1, EOVERFLOW, GMEM_REASON_RANGE_WRAPS},
	{0xf000, 0x2000, 1, ERANGE, GMEM_REASON_MEMFD_BEYOND_END},
	{0x10000, 0x1000, 1, ERANGE, GMEM_REASON_MEMFD_BEYOND_END},
	{0, 0x10000, 1, EOPNOTSUPP, GMEM_REASON_CAP_UNSUPPORTED},
	{0xf000, 0x1000, 0, EOPNOTSUPP, GMEM_REASON_CAP_UNSUPPORTED},
};

START_TEST(in_place_is_refused)
{
	uint64_t done = 1;

	gmem_fake_expect(fake, "%s", "");
	script_check_failure(gmem_memfd_convert(one_memory, in_place[_i].offset, in_place[_i].size,
						(enum gmem_visibility)in_place[_i].to, &done),
			     in_place[_i].error, in_place[_i].reason, "memfd_convert", __FILE__,
			     __LINE__);
	ck_assert_uint_eq(done, 0);
	ck_assert_int_lt(gmem_memfd_convert(one_memory, in_place[_i].offset, in_place[_i].size,
					    (enum gmem_visibility)in_place[_i].to, NULL),
			 0);
	gmem_fake_met(fake);
}
END_TEST

START_TEST(in_place_of_other_handles)
{
	int fd = gmem_fake_make_gmem(fake, -1, 0x10000, 0);
	struct gmem_memfd *foreign;
	uint64_t done = 1;

	ck_fails(gmem_memfd_convert(NULL, 0, 0x1000, SHARED, &done), EINVAL, NULL);
	ck_assert_uint_eq(done, 0);
	ck_works(gmem_fake_open_memfd(fake, NULL, fd, &foreign));
	ck_fails(gmem_memfd_convert(foreign, 0, 0x1000, SHARED, &done), EOPNOTSUPP,
		 CAP_UNSUPPORTED);
	gmem_memfd_close(foreign);
	gmem_fake_close_fd(fake, fd);
}
END_TEST

static void add_calls(Suite *suite)
{
	TCase *tcase = tcase_create("calls");

	tcase_add_checked_fixture(tcase, start, end);
	tcase_add_loop_test(tcase, conversion_calls, 0, ARRAY_SIZE(conversions));
	tcase_add_test(tcase, adopted_slots_are_converted);
	tcase_add_test(tcase, what_cannot_be_private_is_shared);
	tcase_add_loop_test(tcase, refusal, 0, ARRAY_SIZE(refusals));
	tcase_add_test(tcase, refusal_without_private_memory);
	tcase_add_loop_test(tcase, attributes_fail, 0, 2 * ARRAY_SIZE(errors));
	tcase_add_test(tcase, attributes_are_tried_again_after_a_signal);
	tcase_add_test(tcase, attributes_answer_nonsense);
	tcase_add_loop_test(tcase, undo_fails, 0, 2);
	tcase_add_test(tcase, all_undos_fail);
	tcase_add_loop_test(tcase, discard_fails, 0, ARRAY_SIZE(discard_failures));
	tcase_add_loop_test(tcase, no_memory, 0, 2);
	tcase_add_test(tcase, no_memory_for_a_notifier);
	tcase_add_loop_test(tcase, in_place_is_refused, 0, ARRAY_SIZE(in_place));
	tcase_add_test(tcase, in_place_of_other_handles);
	suite_add_tcase(suite, tcase);
}

static void add_notifiers(Suite *suite)
{
	TCase *tcase = tcase_create("notifiers");

	tcase_add_checked_fixture(tcase, start, end);
	tcase_add_checked_fixture(tcase, forget_told, NULL);
	tcase_add_test(tcase, notifiers_are_told_in_order);
	tcase_add_test(tcase, notifiers_are_told_of_each_run);
	tcase_add_test(tcase, notifiers_are_told_at_the_right_time);
	tcase_add_loop_test(tcase, notifier_refuses, 0, ARRAY_SIZE(refused));
	tcase_add_loop_test(tcase, notifiers_are_told_of_a_failure, 1, 3);
	tcase_add_loop_test(tcase, notifiers_with_one_callback, 0, 3);
	tcase_add_test(tcase, notifiers_come_and_go);
	tcase_add_test(tcase, slot_goes_while_a_notifier_prepares);
	tcase_add_test(tcase, slot_goes_while_a_notifier_commits);
	tcase_add_loop_test(tcase, notifier_closed_in_its_own_callback, 0, 3);
	tcase_add_loop_test(tcase, notifiers_closed_in_a_callback_of_another, 0, 3);
	tcase_add_test(tcase, vm_closed_before_its_notifier);
	tcase_add_test(tcase, callbacks_may_not_change);
	tcase_add_test(tcase, conversions_of_one_range_wait);
	tcase_add_test(tcase, conversions_take_turns);
	tcase_add_loop_test(tcase, close_waits_for_conversions, 0, 2);
	tcase_add_test(tcase, a_crowd_finds_room_in_the_map);
	suite_add_tcase(suite, tcase);
}

static void add_map(Suite *suite)
{
	TCase *tcase = tcase_create("map"), *large = tcase_create("large");

	tcase_add_checked_fixture(tcase, start, end);
	tcase_add_test(tcase, visibility_runs);
	tcase_add_test(tcase, access_stops_at_private_pages);
	tcase_add_test(tcase, visibility_adopted);
	tcase_add_test(tcase, adopting_visibility_waits);
	tcase_add_loop_test(tcase, random_conversions_agree_with_the_kernel, 0, 4);
	tcase_add_test(tcase, readers_beside_conversions);
	tcase_add_test(tcase, copies_under_way_are_waited_for);
	tcase_set_timeout(large, 300);
	tcase_add_loop_test(large, metadata_of_a_large_guest, 0, ARRAY_SIZE(shapes));
	tcase_add_loop_test(large, very_many_runs_are_one_call, 0, 2);
	tcase_add_test(large, accesses_do_not_walk_the_map);
	suite_add_tcase(suite, tcase);
	suite_add_tcase(suite, large);
}

int main(void)
{
	Suite *suite = suite_create("fake-convert");

	add_calls(suite);
	add_notifiers(suite);
	add_map(suite);
	return harness_run(suite);
}
