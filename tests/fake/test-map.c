/* SPDX-License-Identifier: MIT */
/* Mapping memfds, populating mappings, and what becomes of their addresses. */
#include "harness.h"
#include "script.h"

#include "map.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define NOTHING "%s", ""
#define BOTH	(GMEM_MEMFD_MMAP | GMEM_MEMFD_INIT_SHARED)
#define TOP	(UINT64_C(1) << 63)
#define SIZE	UINT64_C(0x10000)
#define PART	(UINT64_C(32) << 20) /* that one madvise() populates */

static struct gmem_fake *fake;
static struct gmem_vm *vm;
static struct gmem_memfd *memfd;

static void start(void)
{
	fake = script_new(GMEM_FAKE_LINUX_6_18);
	vm = script_vm(fake, 0);
	memfd = script_memfd(vm, SIZE, BOTH);
}

static void end(void)
{
	gmem_memfd_close(memfd);
	gmem_vm_close(vm);
	script_end(fake);
}

static struct gmem_map *make_map(uint64_t offset, uint64_t size, uint32_t prot)
{
	struct gmem_map_opts opts = {
		.sz = sizeof(opts), .offset = offset, .size = size, .prot = prot};
	struct gmem_map *map;

	ck_works(gmem_map_create(memfd, &opts, &map));
	return map;
}

/* A slot over the whole mapping, which ties it to the VM. */
static struct gmem_slot *make_slot(struct gmem_map *map, uint64_t gpa)
{
	struct gmem_slot_opts opts = {.sz = sizeof(opts),
				      .gpa = gpa,
				      .size = gmem_map_get_size(map),
				      .offset = gmem_map_get_offset(map),
				      .map = map};
	struct gmem_slot *slot;

	ck_works(gmem_slot_create(vm, &opts, &slot));
	return slot;
}

/* ---- Creation ---- */

START_TEST(create_whole)
{
	struct gmem_map *map;

	gmem_fake_expect(fake, "mmap(0, 0x10000, RW, SHARED, gmem1, 0)\n"
			       "madvise(m2, 0x10000, DONTFORK)\n");
	ck_works(gmem_map_create(memfd, NULL, &map));
	ck_assert_ptr_nonnull(gmem_map_get_addr(map));
	ck_assert_uint_eq(gmem_map_get_offset(map), 0);
	ck_assert_uint_eq(gmem_map_get_size(map), SIZE);
	gmem_fake_expect(fake, "munmap(m2, 0x10000)\n");
	gmem_map_close(map);
	gmem_fake_met(fake);
}
END_TEST

START_TEST(create_part)
{
	static const char *const prots[] = {"RW", "R", "W", "RW"};
	struct gmem_map *map;

	gmem_fake_expect(fake,
			 "mmap(0, 0x2000, %s, SHARED, gmem1, 0xe000)\n"
			 "madvise(m2, 0x2000, DONTFORK)\n",
			 prots[_i]);
	map = make_map(0xe000, 0x2000, (uint32_t)_i);
	ck_assert_uint_eq(gmem_map_get_offset(map), 0xe000);
	ck_assert_uint_eq(gmem_map_get_size(map), 0x2000);
	gmem_fake_expect(fake, "munmap(m2, 0x2000)\n");
	gmem_map_close(map);
	gmem_fake_met(fake);
}
END_TEST

static const struct {
	struct gmem_map_opts opts;
	int error;
	enum gmem_reason reason;
} creations[] = {
	{{.size = 0}, EINVAL, GMEM_REASON_RANGE_EMPTY},
	{{.size = 0x800}, EINVAL, GMEM_REASON_RANGE_UNALIGNED},
	{{.offset = 1, .size = 0x1000}, EINVAL, GMEM_REASON_RANGE_UNALIGNED},
	{{.offset = 0x1000, .size = UINT64_MAX - 0xfff}, EOVERFLOW, GMEM_REASON_RANGE_WRAPS},
	{{.offset = UINT64_MAX - 0xfff, .size = 0x1000}, EOVERFLOW, GMEM_REASON_RANGE_WRAPS},
	{{.offset = TOP - 0x1000, .size = 0x2000}, ERANGE, GMEM_REASON_MEMFD_BEYOND_END},
	{{.offset = SIZE, .size = 0x1000}, ERANGE, GMEM_REASON_MEMFD_BEYOND_END},
	{{.offset = 0x1000, .size = SIZE}, ERANGE, GMEM_REASON_MEMFD_BEYOND_END},
	{{.size = 0x1000, .prot = 4}, EINVAL, GMEM_REASON_FLAGS_UNKNOWN},
	{{.size = 0x1000, .prot = UINT32_MAX}, EINVAL, GMEM_REASON_FLAGS_UNKNOWN},
	{{.size = 0x1000, .pad = 1}, EINVAL, GMEM_REASON_CONFLICT},
};

START_TEST(create_checks)
{
	struct gmem_map_opts opts = creations[_i].opts;
	struct gmem_map *map = (void *)&map;

	opts.sz = sizeof(opts);
	gmem_fake_expect(fake, NOTHING);
	script_check_failure(gmem_map_create(memfd, &opts, &map), creations[_i].error,
			     creations[_i].reason, "create", __FILE__, __LINE__);
	ck_assert_ptr_null(map);
	gmem_fake_met(fake);
}
END_TEST

START_TEST(create_of_unmappable)
{
	/* 0, or INIT_SHARED alone. */
	struct gmem_memfd *private = script_memfd(vm, SIZE, 2 * (uint64_t)_i);
	struct gmem_map *map;

	gmem_fake_expect(fake, NOTHING);
	ck_fails(gmem_map_create(private, NULL, &map), ENODEV, MEMFD_NOT_MAPPABLE);
	ck_assert_ptr_null(map);
	gmem_fake_met(fake);
	gmem_memfd_close(private);
}
END_TEST

static const struct {
	const char *call;
	int error;
	enum gmem_reason reason;
} failures[] = {
	{"mmap", ENOMEM, GMEM_REASON_NO_MEMORY},    {"mmap", EAGAIN, GMEM_REASON_KERNEL_REFUSED},
	{"mmap", EPERM, GMEM_REASON_KVM_BLOCKED},   {"madvise", EINVAL, GMEM_REASON_KERNEL_REFUSED},
	{"madvise", ENOMEM, GMEM_REASON_NO_MEMORY},
};

START_TEST(create_failure)
{
	struct gmem_map *map = (void *)&map;

	gmem_fake_fail(fake, 1, failures[_i].error, failures[_i].call);
	script_check_failure(gmem_map_create(memfd, NULL, &map), failures[_i].error,
			     failures[_i].reason, failures[_i].call, __FILE__, __LINE__);
	ck_assert_ptr_null(map);
	ck_assert_uint_eq(gmem_fake_tally(fake, GMEM_FAKE_MAPPINGS), 1);
}
END_TEST

START_TEST(forked)
{
	struct gmem_map *map, *other;

	map = make_map(0, SIZE, 0);
	gmem_fake_enter_child(fake);
	ck_fails(gmem_map_create(memfd, NULL, &other), EIO, FORKED);
	ck_fails(gmem_map_populate(map, 0, 0x1000, 1), EIO, FORKED);
	/* In a child the addresses are not the library's to unmap. */
	gmem_fake_expect(fake, NOTHING);
	gmem_map_close(map);
	gmem_fake_met(fake);
	gmem_fake_leave_child(fake);
	gmem_fake_allow_left(fake, 1, 0);
}
END_TEST

/* ---- Population ---- */

static const struct {
	uint64_t offset, size;
	unsigned int threads;
	int error;
	enum gmem_reason reason;
} population_checks[] = {
	{0x4000, 0, 1, EINVAL, GMEM_REASON_RANGE_EMPTY},
	{0x4800, 0x1000, 1, EINVAL, GMEM_REASON_RANGE_UNALIGNED},
	{0x4000, 0x1001, 1, EINVAL, GMEM_REASON_RANGE_UNALIGNED},
	{0x4000, UINT64_MAX - 0xfff, 1, EOVERFLOW, GMEM_REASON_RANGE_WRAPS},
	{0x3000, 0x1000, 1, ERANGE, GMEM_REASON_MAP_BEYOND_END},
	{0x3000, 0x2000, 1, ERANGE, GMEM_REASON_MAP_BEYOND_END},
	{0x7000, 0x2000, 1, ERANGE, GMEM_REASON_MAP_BEYOND_END},
	{0x8000, 0x1000, 1, ERANGE, GMEM_REASON_MAP_BEYOND_END},
	{TOP, 0x1000, 1, ERANGE, GMEM_REASON_MAP_BEYOND_END},
	{0x4000, 0x1000, 257, EINVAL, GMEM_REASON_ARGUMENT},
	{0x4000, 0x1000, UINT32_MAX, EINVAL, GMEM_REASON_ARGUMENT},
};

START_TEST(populate_checks)
{
	struct gmem_map *map = make_map(0x4000, 0x4000, 0);

	gmem_fake_expect(fake, NOTHING);
	script_check_failure(gmem_map_populate(map, population_checks[_i].offset,
					       population_checks[_i].size,
					       population_checks[_i].threads),
			     population_checks[_i].error, population_checks[_i].reason, "populate",
			     __FILE__, __LINE__);
	gmem_fake_met(fake);
	gmem_map_close(map);
}
END_TEST

START_TEST(populate_calls)
{
	struct gmem_map *map = make_map(0x4000, 0x4000, _i ? GMEM_PROT_READ : 0);
	const char *advice = _i ? "READ" : "WRITE";

	gmem_fake_expect(fake,
			 "madvise(m2, 0x4000, POPULATE_%s) = EINTR\n"
			 "madvise(m2, 0x4000, POPULATE_%s) = EINTR\n"
			 "madvise(m2, 0x4000, POPULATE_%s)\n",
			 advice, advice, advice);
	ck_works(gmem_map_populate(map, 0x4000, 0x4000, 256));
	gmem_fake_expect(fake, "madvise(m2+0x3000, 0x1000, POPULATE_%s)\n", advice);
	ck_works(gmem_map_populate(map, 0x7000, 0x1000, 1));
	gmem_fake_met(fake);
	gmem_map_close(map);
}
END_TEST

/* A range of five parts, the last a page only, by as many threads as there may be. */
static void populate_large(unsigned int threads, int cpus)
{
	struct gmem_memfd *large = script_memfd(vm, 5 * PART, BOTH);
	struct gmem_map *map;

	fake->cpus = cpus;
	ck_works(gmem_map_create(large, NULL, &map));
	gmem_fake_forget(fake);
	ck_works(gmem_map_populate(map, 0x1000, 4 * PART + 0x1000, threads));
	ck_assert_uint_eq(gmem_fake_count(fake, ""), 5);
	ck_assert_uint_eq(gmem_fake_count(fake, "madvise(m2+0x1000, 0x2000000, POPULATE_WRITE)"),
			  1);
	ck_assert_uint_eq(gmem_fake_count(fake, "madvise(m2+0x2001000, 0x2000000, "), 1);
	ck_assert_uint_eq(gmem_fake_count(fake, "madvise(m2+0x4001000, 0x2000000, "), 1);
	ck_assert_uint_eq(gmem_fake_count(fake, "madvise(m2+0x6001000, 0x2000000, "), 1);
	ck_assert_uint_eq(gmem_fake_count(fake, "madvise(m2+0x8001000, 0x1000, "), 1);
	gmem_map_close(map);
	gmem_memfd_close(large);
}

START_TEST(populate_in_parts)
{
	static const unsigned int threads[] = {1, 2, 5, 256, 0, 0, 0};
	static const int cpus[] = {1, 1, 1, 1, 1, 4, 100000};

	populate_large(threads[_i], cpus[_i]);
}
END_TEST

/* The first failure ends it; what is done stays. */
START_TEST(populate_stops)
{
	struct gmem_memfd *large = script_memfd(vm, 4 * PART, BOTH);
	struct gmem_map *map;

	ck_works(gmem_map_create(large, NULL, &map));
	gmem_fake_forget(fake);
	gmem_fake_fail(fake, 2, ENOMEM, "POPULATE");
	ck_fails(gmem_map_populate(map, 0, 4 * PART, 1), ENOMEM, NO_MEMORY);
	ck_assert_uint_eq(gmem_fake_count(fake, "POPULATE"), 2);
	gmem_map_close(map);
	gmem_memfd_close(large);
}
END_TEST

static const struct {
	int error;
	enum gmem_reason reason;
} population_failures[] = {
	{EFAULT, GMEM_REASON_MEMFD_PRIVATE}, {EHWPOISON, GMEM_REASON_POISONED},
	{ENOMEM, GMEM_REASON_NO_MEMORY},     {EINVAL, GMEM_REASON_KERNEL_REFUSED},
	{EBUSY, GMEM_REASON_KERNEL_REFUSED},
};

START_TEST(populate_failure)
{
	struct gmem_map *map = make_map(0, SIZE, 0);

	gmem_fake_fail(fake, 1, population_failures[_i].error, "POPULATE");
	script_check_failure(gmem_map_populate(map, 0, SIZE, 3), population_failures[_i].error,
			     population_failures[_i].reason, "populate", __FILE__, __LINE__);
	ck_works(gmem_map_populate(map, 0, SIZE, 3));
	gmem_map_close(map);
}
END_TEST

START_TEST(populate_private)
{
	struct gmem_memfd *private = script_memfd(vm, SIZE, GMEM_MEMFD_MMAP);
	struct gmem_map *map;

	ck_works(gmem_map_create(private, NULL, &map));
	ck_fails(gmem_map_populate(map, 0, SIZE, 1), EFAULT, MEMFD_PRIVATE);
	gmem_map_close(map);
	gmem_memfd_close(private);
}
END_TEST

/* ---- The end of a mapping ---- */

/* After a slot the addresses stay taken, until they are reclaimed. */
START_TEST(close_after_slot)
{
	struct gmem_map *map = make_map(0, SIZE, 0);
	struct gmem_slot *slot = make_slot(map, 0);
	uint64_t bytes;

	gmem_slot_close(slot);
	gmem_fake_expect(fake, "mmap(m2, 0x10000, NONE, PRIVATE|ANON|NORESERVE|FIXED, -1, 0)\n");
	gmem_map_close(map);
	gmem_fake_expect(fake, "munmap(m2, 0x10000)\n");
	ck_works(gmem_vm_reclaim(vm, &bytes));
	ck_assert_uint_eq(bytes, SIZE);
	gmem_fake_expect(fake, NOTHING);
	ck_works(gmem_vm_reclaim(vm, &bytes));
	ck_assert_uint_eq(bytes, 0);
	gmem_fake_met(fake);
}
END_TEST

/* The slot holds the mapping. */
START_TEST(close_before_slot)
{
	struct gmem_map *map = make_map(0, SIZE, 0);
	struct gmem_slot *slot = make_slot(map, 0);

	gmem_fake_expect(fake, NOTHING);
	gmem_map_close(map);
	gmem_fake_expect(fake, "ioctl(vm1, SET_REGION2, slot=0 flags=0 gpa=0 size=0 addr=m2)\n"
			       "mmap(m2, 0x10000, NONE, PRIVATE|ANON|NORESERVE|FIXED, -1, 0)\n");
	gmem_slot_close(slot);
	gmem_fake_met(fake);
}
END_TEST

/* Without a reclaim the VM's end gives the addresses back; a mapping holds the VM that used it. */
START_TEST(vm_ends_last)
{
	struct gmem_map *map = make_map(0, SIZE, 0);
	struct gmem_slot *slot = make_slot(map, 0);

	gmem_slot_close(slot);
	gmem_vm_close(vm);
	gmem_memfd_close(memfd);
	gmem_fake_expect(fake, "mmap(m2, 0x10000, NONE, PRIVATE|ANON|NORESERVE|FIXED, -1, 0)\n"
			       "close(gmem1)\n"
			       "munmap(m2, 0x10000)\n"
			       "munmap(m1, 0x1000)\n"
			       "close(vm1)\n");
	gmem_map_close(map);
	gmem_fake_met(fake);
	vm = NULL;
	memfd = NULL;
}
END_TEST

static void remember(void *data, enum gmem_log_level level, const char *message)
{
	(void)message;
	*(enum gmem_log_level *)data = level;
}

/*
 * The kernel has no memory to make it inaccessible: it stays as it is, and a warning says so. It is
 * given back as the others are.
 */
START_TEST(retiring_fails)
{
	enum gmem_log_level logged = (enum gmem_log_level)0;
	struct gmem_slot *slot;
	struct gmem_map *map;
	uint64_t bytes;

	gmem_memfd_close(memfd);
	gmem_vm_close(vm);
	ck_works(gmem_fake_open_vm(fake,
				   &(struct gmem_vm_opts){.sz = sizeof(struct gmem_vm_opts),
							  .log = remember,
							  .log_data = &logged},
				   &vm));
	memfd = script_memfd(vm, SIZE, BOTH);
	map = make_map(0, SIZE, 0);
	slot = make_slot(map, 0);
	gmem_slot_close(slot);
	gmem_fake_fail(fake, 1, ENOMEM, "|FIXED,");
	gmem_map_close(map);
	ck_assert_int_eq(logged, GMEM_LOG_WARNING);
	ck_assert_uint_eq(gmem_fake_tally(fake, GMEM_FAKE_INACCESSIBLE), 0);
	ck_works(gmem_vm_reclaim(vm, &bytes));
	ck_assert_uint_eq(bytes, SIZE);
}
END_TEST

START_TEST(map_survives_memfd_and_vm)
{
	struct gmem_map *map = make_map(0, SIZE, 0);
	unsigned char *addr = gmem_map_get_addr(map);

	gmem_memfd_close(memfd);
	gmem_vm_close(vm);
	addr[SIZE - 1] = 1;
	ck_works(gmem_map_populate(map, 0, SIZE, 1));
	gmem_map_close(map);
	memfd = NULL;
	vm = NULL;
}
END_TEST

/* Of another process's guest_memfd, without a VM. */
START_TEST(map_without_vm)
{
	int fd = gmem_fake_make_gmem(fake, -1, SIZE, BOTH);
	struct gmem_memfd *received;
	struct gmem_map *map;

	ck_works(gmem_fake_open_memfd(fake, NULL, fd, &received));
	ck_works(gmem_map_create(received, NULL, &map));
	ck_works(gmem_map_populate(map, 0, SIZE, 1));
	gmem_memfd_close(received);
	memset(gmem_map_get_addr(map), 1, SIZE);
	gmem_map_close(map);
	gmem_fake_close_fd(fake, fd);
}
END_TEST

START_TEST(null_arguments)
{
	struct gmem_map *map;

	gmem_fake_expect(fake, NOTHING);
	ck_fails(gmem_map_create(NULL, NULL, &map), EINVAL, NULL);
	ck_fails(gmem_map_create(memfd, NULL, NULL), EINVAL, NULL);
	ck_fails(gmem_map_populate(NULL, 0, SIZE, 1), EINVAL, NULL);
	ck_assert_ptr_null(gmem_map_get_addr(NULL));
	ck_assert_uint_eq(gmem_map_get_offset(NULL), 0);
	ck_assert_uint_eq(gmem_map_get_size(NULL), 0);
	gmem_map_close(NULL);
	gmem_fake_met(fake);
}
END_TEST

static void add_creation(Suite *suite)
{
	TCase *tcase = tcase_create("create");

	tcase_add_checked_fixture(tcase, start, end);
	tcase_add_test(tcase, create_whole);
	tcase_add_loop_test(tcase, create_part, 0, 4);
	tcase_add_loop_test(tcase, create_checks, 0, ARRAY_SIZE(creations));
	tcase_add_loop_test(tcase, create_of_unmappable, 0, 2);
	tcase_add_loop_test(tcase, create_failure, 0, ARRAY_SIZE(failures));
	tcase_add_test(tcase, forked);
	tcase_add_test(tcase, null_arguments);
	suite_add_tcase(suite, tcase);
}

static void add_population(Suite *suite)
{
	TCase *tcase = tcase_create("populate");

	tcase_add_checked_fixture(tcase, start, end);
	tcase_add_loop_test(tcase, populate_checks, 0, ARRAY_SIZE(population_checks));
	tcase_add_loop_test(tcase, populate_calls, 0, 2);
	tcase_add_loop_test(tcase, populate_in_parts, 0, 7);
	tcase_add_test(tcase, populate_stops);
	tcase_add_loop_test(tcase, populate_failure, 0, ARRAY_SIZE(population_failures));
	tcase_add_test(tcase, populate_private);
	suite_add_tcase(suite, tcase);
}

static void add_end(Suite *suite)
{
	TCase *tcase = tcase_create("close");

	tcase_add_checked_fixture(tcase, start, end);
	tcase_add_test(tcase, close_after_slot);
	tcase_add_test(tcase, close_before_slot);
	tcase_add_test(tcase, vm_ends_last);
	tcase_add_test(tcase, retiring_fails);
	tcase_add_test(tcase, map_survives_memfd_and_vm);
	tcase_add_test(tcase, map_without_vm);
	suite_add_tcase(suite, tcase);
}

int main(void)
{
	Suite *suite = suite_create("fake-map");

	add_creation(suite);
	add_population(suite);
	add_end(suite);
	return harness_run(suite);
}
