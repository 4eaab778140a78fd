/* SPDX-License-Identifier: MIT */
/* What is counted, of a VM and of a slot's memory. */
#include "harness.h"
#include "script.h"

#include "uapi/kvm.h"
#include "vm.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define NOTHING "%s", ""
#define PAGE	UINT64_C(0x1000)
#define SHARED	GMEM_VISIBILITY_SHARED
#define PRIVATE GMEM_VISIBILITY_PRIVATE
#define DISCARD GMEM_CONVERT_DISCARD
#define KEEP	GMEM_CONVERT_KEEP

static struct gmem_fake *fake;
static struct gmem_vm *vm;
static struct gmem_memfd *private_half, *one_memory;
static struct gmem_slot *slots[8];
static unsigned int slot_count;

/* The VMM's own memory. */
static unsigned char ram[0x20000] __attribute__((aligned(0x10000)));

static void bind_slot(struct gmem_slot_opts opts)
{
	opts.sz = sizeof(opts);
	ck_works(gmem_slot_create(vm, &opts, &slots[slot_count++]));
}

#define BIND(...) bind_slot((struct gmem_slot_opts){__VA_ARGS__})

/*
 * 0: 0x10000, two halves, the shared one ram. 1: 0x20000, a private half alone. 2: 0x30000, one
 * memory, which the library maps. 3: 0x40000, ram that is never private. 16 pages each.
 */
static void start(void)
{
	/* Without the pages that an earlier test has touched, if it was in this process. */
	ck_assert_int_eq(madvise(ram, sizeof(ram), MADV_DONTNEED), 0);
	fake = script_new(GMEM_FAKE_PRIVATE);
	gmem_fake_name(fake, ram, sizeof(ram), "ram");
	vm = script_vm(fake, 0);
	private_half = script_memfd(vm, 0x20000, 0);
	one_memory = script_memfd(vm, 0x10000, GMEM_MEMFD_MMAP);
	slot_count = 0;
	BIND(.gpa = 0x10000, .size = 0x10000, .memfd = private_half, .host = ram);
	BIND(.gpa = 0x20000, .size = 0x10000, .memfd = private_half, .offset = 0x10000);
	BIND(.gpa = 0x30000, .size = 0x10000, .memfd = one_memory);
	BIND(.gpa = 0x40000, .size = 0x10000, .host = ram + 0x10000);
	gmem_fake_forget(fake);
}

static void end(void)
{
	for (unsigned int i = 0; i < slot_count; i++)
		gmem_slot_close(slots[i]);
	gmem_memfd_close(private_half);
	gmem_memfd_close(one_memory);
	gmem_vm_close(vm);
	script_end(fake);
}

static int convert(uint64_t gpa, uint64_t pages, enum gmem_visibility to,
		   enum gmem_convert_policy policy)
{
	return gmem_vm_convert(vm, gpa, pages * PAGE, to, policy, NULL);
}

static struct gmem_stats stats(void)
{
	struct gmem_stats now;

	memset(&now, 0xff, sizeof(now));
	now.sz = sizeof(now);
	ck_works(gmem_vm_get_stats(vm, &now));
	return now;
}

static struct gmem_slot_memory memory_of(const struct gmem_slot *slot)
{
	struct gmem_slot_memory memory;

	memset(&memory, 0xff, sizeof(memory));
	memory.sz = sizeof(memory);
	ck_works(gmem_slot_get_memory(slot, &memory));
	return memory;
}

/* ---- The VM's counters ---- */

START_TEST(nothing_is_counted_at_first)
{
	struct gmem_stats now, none = {.sz = sizeof(none), .shared_bytes = 0x40000};

	gmem_fake_expect(fake, NOTHING);
	now = stats();
	gmem_fake_met(fake);
	ck_assert_mem_eq(&now, &none, sizeof(now));
}
END_TEST

/* Each call of the fake takes 1000 ns from one look at the clock to the next. */
START_TEST(conversions_are_counted)
{
	struct gmem_stats expected = {.sz = sizeof(expected)}, now;

	ck_works(convert(0x11000, 2, PRIVATE, DISCARD));
	ck_works(convert(0x10000, 4, PRIVATE, DISCARD)); /* two runs, and two pages are so */
	ck_works(convert(0x12000, 1, SHARED, DISCARD));
	ck_works(convert(0x13000, 1, SHARED, KEEP));
	ck_works(convert(0x13000, 1, SHARED, KEEP));	  /* nothing */
	ck_works(convert(0x13000, 1, SHARED, DISCARD));	  /* a discard alone */
	ck_works(convert(0x20000, 16, PRIVATE, DISCARD)); /* no other half */
	ck_works(convert(0x30000, 1, PRIVATE, DISCARD));  /* one memory */
	expected.conversions = 6;
	expected.to_private_bytes = (2 + 2 + 16 + 1) * PAGE;
	expected.to_shared_bytes = 2 * PAGE;
	expected.skipped_bytes = (2 + 1 + 1) * PAGE;
	expected.attribute_calls = 7;
	expected.attribute_ns = 7000;
	expected.discard_calls = 4;
	expected.discard_bytes = (2 + 4 + 1 + 1) * PAGE; /* all between two runs, too */
	expected.discard_ns = 4000;
	expected.private_bytes = (2 + 16 + 1) * PAGE;
	expected.shared_bytes = 0x40000 - expected.private_bytes;
	now = stats();
	ck_assert_mem_eq(&now, &expected, sizeof(now));
	ck_assert_uint_eq(gmem_fake_count(fake, "SET_ATTRIBUTES"), 7);
}
END_TEST

START_TEST(failures_are_counted)
{
	struct gmem_stats now;

	ck_works(convert(0x11000, 1, PRIVATE, DISCARD));
	ck_assert_int_lt(convert(0x11000, 0, PRIVATE, DISCARD), 0);
	ck_assert_int_lt(convert(0x40000, 1, PRIVATE, DISCARD), 0);
	ck_assert_int_lt(convert(0x10000, 1, (enum gmem_visibility)9, DISCARD), 0);
	gmem_fake_fail(fake, 2, EIO, "private)");
	ck_assert_int_eq(convert(0x10000, 3, PRIVATE, DISCARD), -EIO);
	gmem_fake_recover(fake);
	gmem_fake_fail(fake, 1, EIO, "REMOVE");
	ck_works(convert(0x12000, 2, PRIVATE, DISCARD));
	gmem_fake_recover(fake);
	now = stats();
	ck_assert_uint_eq(now.conversions, 2);
	ck_assert_uint_eq(now.conversions_failed, 4);
	ck_assert_uint_eq(now.attribute_calls, 1 + 3 + 1);
	ck_assert_uint_eq(now.to_private_bytes, 3 * PAGE);
	ck_assert_uint_eq(now.discard_calls, 2);
	ck_assert_uint_eq(now.discard_failures, 1);
	ck_assert_uint_eq(now.discard_bytes, PAGE);
	ck_assert_uint_eq(now.twice_bytes, 2 * PAGE);
	ck_assert_uint_eq(now.skipped_bytes, 0);
}
END_TEST

START_TEST(each_vm_counts_for_itself)
{
	struct gmem_vm *other = script_vm(fake, 0);
	struct gmem_stats now = {.sz = sizeof(now)};

	ck_works(convert(0x11000, 1, PRIVATE, DISCARD));
	ck_works(gmem_vm_get_stats(other, &now));
	ck_assert_uint_eq(now.conversions, 0);
	ck_assert_uint_eq(now.private_bytes + now.shared_bytes, 0);
	gmem_vm_close(other);
}
END_TEST

/* Slots of now, of the first address space alone, adopted ones among them. */
START_TEST(sides_are_those_of_the_slots)
{
	struct gmem_slot_opts opts = {.sz = sizeof(opts),
				      .gpa = 0x80000,
				      .size = 0x2000,
				      .host = ram,
				      .flags = GMEM_SLOT_FIXED_ID,
				      .id = 20};
	struct gmem_slot *slot;

	ck_works(convert(0x10000, 16, PRIVATE, KEEP));
	ck_works(gmem_slot_adopt(vm, &opts, &slot));
	ck_assert_uint_eq(stats().private_bytes, 0x10000);
	ck_assert_uint_eq(stats().shared_bytes, 0x32000);
	ck_assert_uint_eq(stats().twice_bytes, 0x10000);
	gmem_slot_close(slot);
	ck_works(gmem_slot_delete(slots[0]));
	ck_assert_uint_eq(stats().private_bytes, 0);
	ck_assert_uint_eq(stats().shared_bytes, 0x30000);
	ck_assert_uint_eq(stats().twice_bytes, 0);
	/* KVM keeps what is private, whatever comes there. */
	opts = (struct gmem_slot_opts){.sz = sizeof(opts),
				       .gpa = 0x18000,
				       .size = 0x8000,
				       .memfd = private_half,
				       .host = ram};
	ck_works(gmem_slot_create(vm, &opts, &slot));
	ck_assert_uint_eq(stats().private_bytes, 0x8000);
	gmem_slot_close(slot);
}
END_TEST

START_TEST(sides_of_a_second_address_space)
{
	struct gmem_slot_opts opts = {
		.sz = sizeof(opts), .gpa = 0x1000, .size = PAGE, .host = ram, .as_id = 1};
	struct gmem_slot *slot;

	end();
	fake = script_new(GMEM_FAKE_LINUX_7_3);
	vm = script_vm(fake, 0);
	private_half = one_memory = NULL;
	slot_count = 0;
	ck_works(gmem_slot_create(vm, &opts, &slot));
	ck_assert_uint_eq(stats().shared_bytes, 0);
	BIND(.gpa = 0x1000, .size = 0x2000, .host = ram);
	ck_assert_uint_eq(stats().shared_bytes, 0x2000);
	gmem_slot_close(slot);
}
END_TEST

/* ---- The caller's struct ---- */

/* Any size from the first member on: what is there is filled in, and nothing behind it. */
START_TEST(stats_of_any_size)
{
	unsigned char bytes[sizeof(struct gmem_stats) + 64] __attribute__((aligned(8)));
	struct gmem_stats full;
	size_t size;

	ck_works(convert(0x10000, 2, PRIVATE, KEEP));
	full = stats();
	for (size = sizeof(size_t) + 1; size <= sizeof(bytes); size++) {
		size_t known = size < sizeof(full) ? size : sizeof(full);

		memset(bytes, 0xa5, sizeof(bytes));
		memcpy(bytes, &size, sizeof(size));
		ck_works(gmem_vm_get_stats(vm, (struct gmem_stats *)(void *)bytes));
		ck_assert_mem_eq(bytes, &size, sizeof(size));
		ck_assert_mem_eq(bytes + sizeof(size), (char *)&full + sizeof(size),
				 known - sizeof(size));
		for (size_t i = known; i < size; i++)
			ck_assert_uint_eq(bytes[i], 0);
		for (size_t i = size; i < sizeof(bytes); i++)
			ck_assert_uint_eq(bytes[i], 0xa5);
	}
}
END_TEST

START_TEST(memory_of_any_size)
{
	unsigned char bytes[sizeof(struct gmem_slot_memory) + 64] __attribute__((aligned(8)));
	struct gmem_slot_memory full;
	size_t size;

	ck_works(convert(0x10000, 2, PRIVATE, KEEP));
	full = memory_of(slots[0]);
	for (size = sizeof(size_t) + 1; size <= sizeof(bytes); size++) {
		size_t known = size < sizeof(full) ? size : sizeof(full);

		memset(bytes, 0xa5, sizeof(bytes));
		memcpy(bytes, &size, sizeof(size));
		ck_works(gmem_slot_get_memory(slots[0], (struct gmem_slot_memory *)(void *)bytes));
		ck_assert_mem_eq(bytes + sizeof(size), (char *)&full + sizeof(size),
				 known - sizeof(size));
		for (size_t i = known; i < size; i++)
			ck_assert_uint_eq(bytes[i], 0);
		for (size_t i = size; i < sizeof(bytes); i++)
			ck_assert_uint_eq(bytes[i], 0xa5);
	}
}
END_TEST

START_TEST(bad_structs)
{
	static const size_t sizes[] = {0, 1, sizeof(size_t), 4097, SIZE_MAX};
	struct gmem_slot_memory memory = {.sz = sizes[_i], .twice_bytes = 7};
	struct gmem_stats now = {.sz = sizes[_i], .twice_bytes = 7};

	gmem_fake_expect(fake, NOTHING);
	ck_fails(gmem_vm_get_stats(vm, &now), EINVAL, OPTS_SIZE);
	ck_fails(gmem_slot_get_memory(slots[0], &memory), EINVAL, OPTS_SIZE);
	ck_assert_uint_eq(now.twice_bytes, 7);
	ck_assert_uint_eq(memory.twice_bytes, 7);
	ck_fails(gmem_vm_get_stats(vm, NULL), EINVAL, NULL);
	ck_fails(gmem_vm_get_stats(NULL, &now), EINVAL, NULL);
	ck_fails(gmem_slot_get_memory(slots[0], NULL), EINVAL, NULL);
	ck_fails(gmem_slot_get_memory(NULL, &memory), EINVAL, NULL);
	gmem_fake_met(fake);
}
END_TEST

/* ---- A slot's memory ---- */

static void check_memory(unsigned int slot, uint64_t private_pages, uint64_t shared_pages,
			 uint64_t twice_pages, uint64_t private_resident, uint64_t shared_resident)
{
	struct gmem_slot_memory memory = memory_of(slots[slot]);

	ck_assert_uint_eq(memory.private_bytes, private_pages * PAGE);
	ck_assert_uint_eq(memory.shared_bytes, shared_pages * PAGE);
	ck_assert_uint_eq(memory.twice_bytes, twice_pages * PAGE);
	ck_assert_uint_eq(memory.private_resident, private_resident);
	ck_assert_uint_eq(memory.shared_resident, shared_resident);
}

/* The private half cannot be looked at, the shared one page by page. */
START_TEST(memory_of_two_halves)
{
	check_memory(0, 0, 16, 0, GMEM_UNKNOWN, 0);
	memset(ram, 1, 5 * PAGE);
	check_memory(0, 0, 16, 0, GMEM_UNKNOWN, 5 * PAGE);
	ck_works(convert(0x10000, 3, PRIVATE, DISCARD));
	check_memory(0, 3, 13, 0, GMEM_UNKNOWN, 2 * PAGE);
	ck_works(convert(0x13000, 2, PRIVATE, KEEP));
	check_memory(0, 5, 11, 2, GMEM_UNKNOWN, 2 * PAGE);
	ck_works(convert(0x13000, 2, PRIVATE, DISCARD));
	check_memory(0, 5, 11, 0, GMEM_UNKNOWN, 0);
	ck_works(convert(0x10000, 5, SHARED, KEEP));
	check_memory(0, 0, 16, 5, GMEM_UNKNOWN, 0);
}
END_TEST

START_TEST(memory_of_a_private_half)
{
	ck_works(convert(0x20000, 4, PRIVATE, KEEP));
	gmem_fake_expect(fake, NOTHING);
	check_memory(1, 4, 12, 0, GMEM_UNKNOWN, 0);
	gmem_fake_met(fake);
}
END_TEST

/* Where one memory is both, each side counts the pages that are so. */
START_TEST(memory_of_one)
{
	ck_works(gmem_memfd_allocate(one_memory, 0x2000, 0x6000));
	check_memory(2, 0, 16, 0, 0, 6 * PAGE);
	ck_works(convert(0x34000, 2, PRIVATE, KEEP));
	ck_works(convert(0x3f000, 1, PRIVATE, DISCARD));
	gmem_fake_forget(fake);
	gmem_fake_expect(fake, "mincore(m2, 0x4000)\nmincore(m2+0x4000, 0x2000)\n"
			       "mincore(m2+0x6000, 0x9000)\nmincore(m2+0xf000, 0x1000)\n");
	check_memory(2, 3, 13, 0, 2 * PAGE, 4 * PAGE);
	gmem_fake_met(fake);
}
END_TEST

START_TEST(memory_that_is_never_private)
{
	memset(ram + 0x10000, 1, 0x2001);
	check_memory(3, 0, 16, 0, 0, 3 * PAGE);
}
END_TEST

/* What cannot be counted, and what is worth another try. */
START_TEST(memory_that_cannot_be_counted)
{
	gmem_fake_fail(fake, 1, EAGAIN, "mincore");
	check_memory(3, 0, 16, 0, 0, 0);
	gmem_fake_recover(fake);
	gmem_fake_fail(fake, 1, ENOMEM, "mincore");
	check_memory(3, 0, 16, 0, GMEM_UNKNOWN, GMEM_UNKNOWN);
	gmem_fake_recover(fake);
	ck_works(convert(0x34000, 2, PRIVATE, KEEP));
	gmem_fake_fail(fake, 2, ENOSYS, "mincore");
	check_memory(2, 2, 14, 0, GMEM_UNKNOWN, GMEM_UNKNOWN);
	gmem_fake_recover(fake);
	gmem_fake_fail(fake, 1, EPERM, "mincore");
	check_memory(0, 0, 16, 0, GMEM_UNKNOWN, GMEM_UNKNOWN);
	gmem_fake_recover(fake);
}
END_TEST

/* Not all at once: the array of answers has a limit. */
START_TEST(memory_of_a_large_slot)
{
	struct gmem_memfd *large = script_memfd(vm, 9000 * PAGE, GMEM_MEMFD_MMAP);

	BIND(.gpa = 0x10000000, .size = 9000 * PAGE, .memfd = large);
	gmem_memfd_close(large);
	gmem_fake_forget(fake);
	gmem_fake_expect(fake, "mincore(m3, 0x1000000)\nmincore(m3+0x1000000, 0x1000000)\n"
			       "mincore(m3+0x2000000, 0x328000)\n");
	check_memory(4, 0, 9000, 0, 0, 0);
	gmem_fake_met(fake);
}
END_TEST

/* A handle of what is no longer bound, and one whose memory is being replaced. */
START_TEST(memory_of_a_slot_that_is_gone)
{
	struct gmem_slot_opts opts = {
		.sz = sizeof(opts), .gpa = 0x30000, .size = 0x4000, .host = ram};
	struct gmem_replace_opts how = {.sz = sizeof(how), .flags = GMEM_REPLACE_NO_VCPUS};

	memset(ram, 1, PAGE);
	ck_works(gmem_slot_delete(slots[0]));
	check_memory(0, 0, 16, 0, GMEM_UNKNOWN, PAGE);
	ck_works(gmem_slot_replace(slots[2], &opts, &how));
	check_memory(2, 0, 4, 0, 0, PAGE);
}
END_TEST

START_TEST(forked)
{
	struct gmem_slot_memory memory = {.sz = sizeof(memory)};
	struct gmem_stats now = {.sz = sizeof(now)};

	gmem_fake_enter_child(fake);
	ck_fails(gmem_vm_get_stats(vm, &now), EIO, FORKED);
	ck_fails(gmem_slot_get_memory(slots[0], &memory), EIO, FORKED);
	gmem_fake_leave_child(fake);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("fake-stats");
	TCase *tcase = tcase_create("all");

	tcase_add_checked_fixture(tcase, start, end);
	tcase_add_test(tcase, nothing_is_counted_at_first);
	tcase_add_test(tcase, conversions_are_counted);
	tcase_add_test(tcase, failures_are_counted);
	tcase_add_test(tcase, each_vm_counts_for_itself);
	tcase_add_test(tcase, sides_are_those_of_the_slots);
	tcase_add_test(tcase, sides_of_a_second_address_space);
	tcase_add_test(tcase, stats_of_any_size);
	tcase_add_test(tcase, memory_of_any_size);
	tcase_add_loop_test(tcase, bad_structs, 0, 5);
	tcase_add_test(tcase, memory_of_two_halves);
	tcase_add_test(tcase, memory_of_a_private_half);
	tcase_add_test(tcase, memory_of_one);
	tcase_add_test(tcase, memory_that_is_never_private);
	tcase_add_test(tcase, memory_that_cannot_be_counted);
	tcase_add_test(tcase, memory_of_a_large_slot);
	tcase_add_test(tcase, memory_of_a_slot_that_is_gone);
	tcase_add_test(tcase, forked);
	suite_add_tcase(suite, tcase);
	return harness_run(suite);
}
