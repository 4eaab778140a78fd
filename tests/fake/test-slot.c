/* SPDX-License-Identifier: MIT */
/* Binding memory to guest addresses, and taking it away again. */
#include "harness.h"
#include "script.h"

#include "memfd.h"
#include "uapi/kvm.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define NOTHING "%s", ""
#define BOTH	(GMEM_MEMFD_MMAP | GMEM_MEMFD_INIT_SHARED)
#define HUGE	(UINT64_C(1) << 62)
#define SIZE	UINT64_C(0x10000)
#define FIXED	GMEM_SLOT_FIXED_ID

static struct gmem_fake *fake;
static struct gmem_vm *vm;
static struct gmem_memfd *memfd; /* BOTH on a plain VM, private on one with private memory */
static struct gmem_map *map;	 /* of all of it, or NULL */

/* The VMM's own memory. */
static char ram[0x10000] __attribute__((aligned(0x10000)));

static void start_with(enum gmem_fake_kernel kernel, uint64_t memfd_flags)
{
	fake = script_new(kernel);
	gmem_fake_name(fake, ram, sizeof(ram), "ram");
	vm = script_vm(fake, 0);
	memfd = script_memfd(vm, SIZE, memfd_flags);
	map = NULL;
	if (memfd_flags & GMEM_MEMFD_MMAP)
		ck_works(gmem_map_create(memfd, NULL, &map));
	gmem_fake_forget(fake);
}

static void start(void)
{
	start_with(GMEM_FAKE_LINUX_6_18, BOTH);
}

static void start_private(void)
{
	start_with(GMEM_FAKE_PRIVATE, 0);
}

static void end(void)
{
	gmem_map_close(map);
	gmem_memfd_close(memfd);
	gmem_vm_close(vm);
	script_end(fake);
}

static int create(struct gmem_slot_opts opts, struct gmem_slot **slot)
{
	opts.sz = sizeof(opts);
	return gmem_slot_create(vm, &opts, slot);
}

static struct gmem_slot *make(struct gmem_slot_opts opts)
{
	struct gmem_slot *slot;

	ck_works(create(opts, &slot));
	return slot;
}

#define MAKE(...) make((struct gmem_slot_opts){__VA_ARGS__})

/* A page of the VMM's own memory, number `page`, at any guest address. */
static struct gmem_slot *make_page(uint64_t gpa, uint64_t page)
{
	return MAKE(.gpa = gpa, .size = 0x1000, .host = ram + page * 0x1000);
}

/* ---- Each row of the table of kinds ---- */

START_TEST(guest_memfd_with_own_map)
{
	struct gmem_slot *slot;

	gmem_fake_expect(fake, "mmap(0, 0x4000, RW, SHARED, gmem1, 0x8000)\n"
			       "madvise(m3, 0x4000, DONTFORK)\n"
			       "ioctl(vm1, SET_REGION2, slot=0 flags=0x4 gpa=0x100000 size=0x4000 "
			       "addr=m3 gmem=gmem1 offset=0x8000)\n");
	slot = MAKE(.gpa = 0x100000, .size = 0x4000, .memfd = memfd, .offset = 0x8000);
	gmem_fake_met(fake);
	ck_assert_uint_eq(gmem_slot_get_id(slot), 0);
	ck_assert_uint_eq(gmem_slot_get_as_id(slot), 0);
	ck_assert_uint_eq(gmem_slot_get_gpa(slot), 0x100000);
	ck_assert_uint_eq(gmem_slot_get_size(slot), 0x4000);
	ck_assert_uint_eq(gmem_slot_get_offset(slot), 0x8000);
	ck_assert_uint_eq(gmem_slot_get_flags(slot), 0);
	ck_assert_ptr_nonnull(gmem_slot_get_addr(slot));
	gmem_fake_expect(fake,
			 "ioctl(vm1, SET_REGION2, slot=0 flags=0 gpa=0x100000 size=0 addr=m3)\n"
			 "mmap(m3, 0x4000, NONE, PRIVATE|ANON|NORESERVE|FIXED, -1, 0)\n");
	gmem_slot_close(slot);
	gmem_fake_met(fake);
}
END_TEST

/* What is given, and the one call that it makes. */
static const struct {
	struct gmem_slot_opts opts;
	bool with_memfd, with_map, with_host;
	const char *region;
} kinds[] = {
	{{.gpa = 0x2000, .size = 0x3000, .offset = 0x5000},
	 true,
	 true,
	 false,
	 "slot=0 flags=0x4 gpa=0x2000 size=0x3000 addr=m2+0x5000 gmem=gmem1 offset=0x5000"},
	{{.gpa = 0x2000, .size = 0x3000, .offset = 0x5000},
	 false,
	 true,
	 false,
	 "slot=0 flags=0 gpa=0x2000 size=0x3000 addr=m2+0x5000"},
	{{.gpa = 0x2000, .size = 0x3000, .flags = GMEM_SLOT_LOG_DIRTY},
	 false,
	 true,
	 false,
	 "slot=0 flags=0x1 gpa=0x2000 size=0x3000 addr=m2"},
	{{.gpa = 0x2000, .size = 0x3000, .flags = GMEM_SLOT_READONLY, .as_id = 1},
	 false,
	 true,
	 false,
	 "slot=0x10000 flags=0x2 gpa=0x2000 size=0x3000 addr=m2"},
	{{.gpa = 0x2000, .size = 0x3000},
	 false,
	 false,
	 true,
	 "slot=0 flags=0 gpa=0x2000 size=0x3000 addr=ram"},
	{{.size = 0x1000, .flags = FIXED | GMEM_SLOT_LOG_DIRTY | GMEM_SLOT_READONLY, .id = 32763},
	 false,
	 false,
	 true,
	 "slot=0x7ffb flags=0x3 gpa=0 size=0x1000 addr=ram"},
	{{.gpa = (UINT64_C(1) << 46) - 0x1000, .size = 0x1000, .flags = FIXED, .id = 7, .as_id = 1},
	 false,
	 false,
	 true,
	 "slot=0x10007 flags=0 gpa=0x3ffffffff000 size=0x1000 addr=ram"},
};

START_TEST(kind_of_slot)
{
	struct gmem_slot_opts opts = kinds[_i].opts;
	struct gmem_slot *slot;

	opts.memfd = kinds[_i].with_memfd ? memfd : NULL;
	opts.map = kinds[_i].with_map ? map : NULL;
	opts.host = kinds[_i].with_host ? ram : NULL;
	gmem_fake_expect(fake, "ioctl(vm1, SET_REGION2, %s)\n", kinds[_i].region);
	slot = make(opts);
	gmem_fake_met(fake);
	ck_assert_uint_eq(gmem_slot_get_flags(slot), opts.flags & ~FIXED);
	gmem_slot_close(slot);
}
END_TEST

/* The fallback is given like a mappable guest_memfd and makes an ordinary slot. */
START_TEST(sealed_memfd)
{
	struct gmem_memfd_opts opts = {
		.sz = sizeof(opts), .size = SIZE, .flags = BOTH, .fallback = GMEM_FALLBACK_MEMFD};
	struct gmem_slot *slot, *other;

	fake = script_new(GMEM_FAKE_LINUX_6_12);
	vm = script_vm(fake, 0);
	ck_works(gmem_memfd_create(vm, &opts, &memfd));
	gmem_fake_expect(fake,
			 "mmap(0, 0x4000, RW, SHARED, memfd1, 0x8000)\n"
			 "madvise(m2, 0x4000, DONTFORK)\n"
			 "ioctl(vm1, SET_REGION2, slot=0 flags=0x3 gpa=0 size=0x4000 addr=m2)\n");
	slot = MAKE(.size = 0x4000, .memfd = memfd, .offset = 0x8000,
		    .flags = GMEM_SLOT_LOG_DIRTY | GMEM_SLOT_READONLY);
	gmem_fake_met(fake);
	/* It may be bound twice. */
	other = MAKE(.gpa = 0x10000, .size = 0x4000, .memfd = memfd, .offset = 0x8000);
	gmem_slot_close(slot);
	gmem_slot_close(other);
	gmem_memfd_close(memfd);
	gmem_vm_close(vm);
	script_end(fake);
}
END_TEST

/* ---- VMs with private memory ---- */

/* A mapping of memory that another VM shares, for the shared half. */
static struct gmem_map *map_shared(void)
{
	int fd = gmem_fake_make_gmem(fake, -1, SIZE, BOTH);
	struct gmem_memfd *shared;
	struct gmem_map *of_it;

	ck_works(gmem_fake_open_memfd(fake, NULL, fd, &shared));
	ck_works(gmem_map_create(shared, NULL, &of_it));
	gmem_memfd_close(shared);
	gmem_fake_close_fd(fake, fd);
	return of_it;
}

START_TEST(private_kinds)
{
	struct gmem_memfd *shared = script_memfd(vm, SIZE, GMEM_MEMFD_MMAP);
	struct gmem_slot *nothing, *beside_host, *beside_map, *alone;
	struct gmem_map *other = map_shared();

	gmem_fake_forget(fake);
	gmem_fake_expect(fake, "ioctl(vm1, SET_REGION2, slot=0 flags=0x4 gpa=0 size=0x1000 addr=0 "
			       "gmem=gmem1 offset=0)\n"
			       "ioctl(vm1, SET_REGION2, slot=0x1 flags=0x4 gpa=0x1000 size=0x1000 "
			       "addr=ram gmem=gmem1 offset=0x1000)\n"
			       "ioctl(vm1, SET_REGION2, slot=0x2 flags=0x4 gpa=0x2000 size=0x1000 "
			       "addr=m3+0x2000 gmem=gmem1 offset=0x2000)\n"
			       "mmap(0, 0x1000, RW, SHARED, gmem2, 0)\n"
			       "madvise(m4, 0x1000, DONTFORK)\n"
			       "ioctl(vm1, SET_REGION2, slot=0x3 flags=0x4 gpa=0x3000 size=0x1000 "
			       "addr=m4 gmem=gmem2 offset=0)\n");
	nothing = MAKE(.size = 0x1000, .memfd = memfd);
	beside_host =
		MAKE(.gpa = 0x1000, .size = 0x1000, .memfd = memfd, .offset = 0x1000, .host = ram);
	beside_map =
		MAKE(.gpa = 0x2000, .size = 0x1000, .memfd = memfd, .offset = 0x2000, .map = other);
	alone = MAKE(.gpa = 0x3000, .size = 0x1000, .memfd = shared);
	gmem_fake_met(fake);
	ck_assert_ptr_null(gmem_slot_get_addr(nothing));
	ck_assert_ptr_eq(gmem_slot_get_addr(beside_host), ram);
	gmem_slot_close(nothing);
	gmem_slot_close(beside_host);
	gmem_slot_close(beside_map);
	gmem_slot_close(alone);
	gmem_map_close(other);
	gmem_memfd_close(shared);
}
END_TEST

START_TEST(private_refusals)
{
	struct gmem_memfd *shared = script_memfd(vm, SIZE, GMEM_MEMFD_MMAP);
	struct gmem_slot_opts opts = {.size = 0x1000, .memfd = shared, .host = ram};
	struct gmem_map *untouchable;
	struct gmem_slot *slot;

	map = map_shared();
	ck_works(gmem_map_create(shared, NULL, &untouchable));
	gmem_fake_expect(fake, NOTHING);
	ck_fails(create(opts, &slot), EINVAL, MEMFD_HIDES_SHARED);
	opts.host = NULL;
	opts.map = map;
	ck_fails(create(opts, &slot), EINVAL, MEMFD_HIDES_SHARED);
	opts = (struct gmem_slot_opts){.size = 0x1000, .memfd = memfd, .flags = 1};
	ck_fails(create(opts, &slot), EOPNOTSUPP, MEMFD_NO_DIRTY_LOG);
	opts.flags = 2;
	ck_fails(create(opts, &slot), EOPNOTSUPP, MEMFD_NO_READONLY);
	/* A shared half, or an ordinary slot, of memory that is nobody's to touch. */
	opts = (struct gmem_slot_opts){.size = 0x1000, .memfd = memfd, .map = untouchable};
	ck_fails(create(opts, &slot), EINVAL, MEMFD_UNTOUCHABLE);
	opts.memfd = NULL;
	ck_fails(create(opts, &slot), EINVAL, MEMFD_UNTOUCHABLE);
	gmem_fake_met(fake);
	gmem_map_close(untouchable);
	gmem_memfd_close(shared);
}
END_TEST

/* ---- Refusals ---- */

START_TEST(more_conflicts)
{
	struct gmem_slot *slot;

	gmem_fake_expect(fake, NOTHING);
	ck_fails(create((struct gmem_slot_opts){.size = 0x1000, .map = map, .host = ram}, &slot),
		 EINVAL, CONFLICT);
	ck_fails(create((struct gmem_slot_opts){.size = 0x1000}, &slot), EINVAL, CONFLICT);
	ck_fails(create((struct gmem_slot_opts){.size = 0x1000, .host = ram, .offset = 0x1000},
			&slot),
		 EINVAL, CONFLICT);
	gmem_fake_met(fake);
}
END_TEST

/* ---- What only the kernel knows ---- */

static const struct {
	int answer, error;
	enum gmem_reason reason, given; /* `given`: for a memfd made elsewhere, where it differs */
	int given_error;
} kernel_refusals[] = {
	{EEXIST, EEXIST, GMEM_REASON_GPA_OVERLAP, 0, 0},
	{EINVAL, EEXIST, GMEM_REASON_ID_TAKEN, GMEM_REASON_MEMFD_FOREIGN, EXDEV},
	{EFAULT, ERANGE, GMEM_REASON_GPA_BEYOND_WIDTH, 0, 0},
	{EIO, EIO, GMEM_REASON_FORKED, 0, 0},
	{ENOMEM, ENOMEM, GMEM_REASON_NO_MEMORY, 0, 0},
	{EPERM, EPERM, GMEM_REASON_KVM_BLOCKED, 0, 0},
	{EBADF, EBADF, GMEM_REASON_KERNEL_REFUSED, 0, 0},
};

static void check_kernel_refusal(struct gmem_memfd *of, int error, int got, enum gmem_reason reason)
{
	struct gmem_slot_opts opts = {.gpa = 0x1000, .size = 0x1000, .memfd = of};
	struct script_tally before = script_tally(fake);
	struct gmem_slot *slot = (void *)&slot;

	gmem_fake_fail(fake, 1, error, "SET_REGION2");
	script_check_failure(create(opts, &slot), got, reason, "create", __FILE__, __LINE__);
	gmem_fake_recover(fake);
	ck_assert_ptr_null(slot);
	ck_assert_uint_eq(gmem_fake_tally(fake, GMEM_FAKE_MAPPINGS), before.mappings);
	ck_assert_uint_eq(gmem_fake_tally(fake, GMEM_FAKE_FDS), before.fds);
	/* Nothing is changed: it works now, under the same id. */
	slot = make(opts);
	ck_assert_uint_eq(gmem_slot_get_id(slot), 0);
	gmem_slot_close(slot);
}

START_TEST(refused_by_kernel)
{
	check_kernel_refusal(memfd, kernel_refusals[_i].answer, kernel_refusals[_i].error,
			     kernel_refusals[_i].reason);
}
END_TEST

START_TEST(given_refused_by_kernel)
{
	int fd = gmem_fake_make_gmem(fake, gmem_vm_get_fd(vm), SIZE, BOTH);
	struct gmem_memfd *given;

	ck_works(gmem_memfd_open_fd(vm, fd, &given));
	if (kernel_refusals[_i].given)
		check_kernel_refusal(given, kernel_refusals[_i].answer,
				     kernel_refusals[_i].given_error, kernel_refusals[_i].given);
	else
		check_kernel_refusal(given, kernel_refusals[_i].answer, kernel_refusals[_i].error,
				     kernel_refusals[_i].reason);
	gmem_memfd_close(given);
	gmem_fake_close_fd(fake, fd);
}
END_TEST

/* The model's own answers to what the library was not told of. */
START_TEST(strangers)
{
	int other_vm = gmem_fake_make_vm(fake);
	int fd = gmem_fake_make_gmem(fake, other_vm, SIZE, BOTH);
	struct gmem_memfd *given, *received;
	const char *other = ram + 0x8000;
	struct gmem_slot *slot;

	ck_works(gmem_memfd_open_fd(vm, fd, &given));
	ck_works(gmem_fake_open_memfd(fake, NULL, fd, &received));
	ck_fails(create((struct gmem_slot_opts){.size = 0x1000, .memfd = given}, &slot), EXDEV,
		 MEMFD_FOREIGN);
	ck_fails(create((struct gmem_slot_opts){.size = 0x1000, .memfd = received}, &slot), EXDEV,
		 MEMFD_FOREIGN);
	ck_assert_int_eq(gmem_fake_set_slot(fake, gmem_vm_get_fd(vm), 0, 0x8000, 0x1000, other), 0);
	ck_fails(create((struct gmem_slot_opts){.size = 0x1000, .host = ram}, &slot), EEXIST,
		 ID_TAKEN);
	ck_fails(create((struct gmem_slot_opts){.gpa = 0x8000,
						.size = 0x1000,
						.host = ram,
						.flags = FIXED,
						.id = 1},
			&slot),
		 EEXIST, GPA_OVERLAP);
	gmem_fake_set_slot(fake, gmem_vm_get_fd(vm), 0, 0x8000, 0, other);
	gmem_memfd_close(given);
	gmem_memfd_close(received);
	gmem_fake_close_fd(fake, fd);
	gmem_fake_close_fd(fake, other_vm);
}
END_TEST

START_TEST(interrupted)
{
	struct gmem_slot *slot;

	gmem_fake_expect(
		fake, "ioctl(vm1, SET_REGION2, slot=0 flags=0 gpa=0 size=0x1000 addr=ram) = EINTR\n"
		      "ioctl(vm1, SET_REGION2, slot=0 flags=0 gpa=0 size=0x1000 addr=ram)\n"
		      "ioctl(vm1, SET_REGION2, slot=0 flags=0 gpa=0 size=0 addr=ram) = EINTR\n"
		      "ioctl(vm1, SET_REGION2, slot=0 flags=0 gpa=0 size=0 addr=ram)\n");
	slot = make_page(0, 0);
	ck_works(gmem_slot_delete(slot));
	gmem_slot_close(slot);
	gmem_fake_met(fake);
}
END_TEST

/* ---- The same once more ---- */

START_TEST(identical)
{
	struct gmem_slot_opts opts = {.gpa = 0x1000, .size = 0x1000, .memfd = memfd, .offset = 0};
	struct gmem_slot *first, *second, *third;

	opts.map = _i == 1 ? map : NULL;
	opts.memfd = _i == 2 ? NULL : memfd;
	opts.host = _i == 2 ? ram : NULL;
	first = make(opts);
	gmem_fake_expect(fake, NOTHING);
	second = make(opts);
	opts.flags |= FIXED;
	third = make(opts);
	ck_assert_ptr_eq(first, second);
	ck_assert_ptr_eq(first, third);
	gmem_slot_close(first);
	gmem_slot_close(second);
	gmem_fake_met(fake);
	ck_assert_uint_eq(gmem_fake_tally(fake, GMEM_FAKE_SLOTS), 1);
	gmem_slot_close(third);
	ck_assert_uint_eq(gmem_fake_tally(fake, GMEM_FAKE_SLOTS), 0);
}
END_TEST

/* One member differs: it is another slot, which is in the way of the first. */
START_TEST(nearly_identical)
{
	struct gmem_slot_opts base = {.gpa = 0x1000, .size = 0x2000, .map = map}, opts;
	struct gmem_slot *slot = make(base), *other;

	gmem_fake_expect(fake, NOTHING);
	opts = base;
	opts.size = 0x1000;
	ck_fails(create(opts, &other), EEXIST, GPA_OVERLAP);
	opts = base;
	opts.offset = 0x1000;
	ck_fails(create(opts, &other), EEXIST, GPA_OVERLAP);
	opts = base;
	opts.flags = GMEM_SLOT_LOG_DIRTY;
	ck_fails(create(opts, &other), EEXIST, GPA_OVERLAP);
	opts = base;
	opts.memfd = memfd;
	ck_fails(create(opts, &other), EEXIST, GPA_OVERLAP);
	opts = base;
	opts.map = NULL;
	opts.host = gmem_map_get_addr(map);
	ck_fails(create(opts, &other), EEXIST, GPA_OVERLAP);
	opts = base;
	opts.flags = FIXED;
	opts.id = 1;
	ck_fails(create(opts, &other), EEXIST, GPA_OVERLAP);
	gmem_fake_met(fake);
	gmem_slot_close(slot);
}
END_TEST

/* ---- Ids ---- */

START_TEST(lowest_free_id)
{
	struct gmem_reserve_opts reserve = {.sz = sizeof(reserve), .id_first = 1, .id_count = 64};
	struct gmem_slot *slots[4];

	ck_works(gmem_vm_reserve(vm, &reserve));
	for (uint64_t i = 0; i < 4; i++)
		slots[i] = make_page(i * 0x1000, i);
	ck_assert_uint_eq(gmem_slot_get_id(slots[0]), 0);
	ck_assert_uint_eq(gmem_slot_get_id(slots[1]), 65);
	ck_assert_uint_eq(gmem_slot_get_id(slots[2]), 66);
	gmem_slot_close(slots[1]);
	slots[1] = make_page(0x10000, 5);
	ck_assert_uint_eq(gmem_slot_get_id(slots[1]), 65);
	for (unsigned int i = 0; i < 4; i++)
		gmem_slot_close(slots[i]);
}
END_TEST

/* Each address space has ids and addresses of its own. */
START_TEST(two_spaces)
{
	struct gmem_slot *first = make_page(0x1000, 0);
	struct gmem_slot *second = MAKE(.gpa = 0x1000, .size = 0x1000, .host = ram, .as_id = 1);

	ck_assert_uint_eq(gmem_slot_get_id(second), 0);
	ck_assert_uint_eq(gmem_slot_get_as_id(second), 1);
	gmem_slot_close(first);
	gmem_slot_close(second);
}
END_TEST

START_TEST(granted_ids)
{
	struct gmem_vm_opts opts = {.sz = sizeof(opts), .id_first = 62, .id_count = 4};
	struct gmem_slot *slots[4], *slot;

	gmem_map_close(map);
	gmem_memfd_close(memfd);
	gmem_vm_close(vm);
	map = NULL;
	memfd = NULL;
	ck_works(gmem_fake_open_vm(fake, &opts, &vm));
	for (uint64_t i = 0; i < 4; i++) {
		slots[i] = make_page(i * 0x1000, i);
		ck_assert_uint_eq(gmem_slot_get_id(slots[i]), 62 + i);
	}
	gmem_fake_expect(fake, NOTHING);
	ck_fails(create((struct gmem_slot_opts){.gpa = 0x8000, .size = 0x1000, .host = ram}, &slot),
		 ENOSPC, IDS_EXHAUSTED);
	/* A slot of the VMM's own may have any id. */
	ck_works(gmem_slot_adopt(vm,
				 &(struct gmem_slot_opts){.sz = sizeof(struct gmem_slot_opts),
							  .gpa = 0x8000,
							  .size = 0x1000,
							  .host = ram,
							  .flags = FIXED,
							  .id = 5},
				 &slot));
	gmem_slot_close(slot);
	gmem_fake_met(fake);
	for (uint32_t i = 0; i < 4; i++)
		gmem_slot_close(slots[i]);
}
END_TEST

static void add_kinds(Suite *suite)
{
	TCase *tcase = tcase_create("kinds");

	tcase_add_checked_fixture(tcase, start, end);
	tcase_add_test(tcase, guest_memfd_with_own_map);
	tcase_add_loop_test(tcase, kind_of_slot, 0, ARRAY_SIZE(kinds));
	tcase_add_test(tcase, more_conflicts);
	tcase_add_loop_test(tcase, refused_by_kernel, 0, ARRAY_SIZE(kernel_refusals));
	tcase_add_loop_test(tcase, given_refused_by_kernel, 0, ARRAY_SIZE(kernel_refusals));
	tcase_add_test(tcase, strangers);
	tcase_add_test(tcase, interrupted);
	tcase_add_loop_test(tcase, identical, 0, 3);
	tcase_add_test(tcase, nearly_identical);
	tcase_add_test(tcase, lowest_free_id);
	tcase_add_test(tcase, two_spaces);
	tcase_add_test(tcase, granted_ids);
	suite_add_tcase(suite, tcase);

	tcase = tcase_create("private");
	tcase_add_checked_fixture(tcase, start_private, end);
	tcase_add_test(tcase, private_kinds);
	tcase_add_test(tcase, private_refusals);
	suite_add_tcase(suite, tcase);

	tcase = tcase_create("fallback");
	tcase_add_test(tcase, sealed_memfd);
	suite_add_tcase(suite, tcase);
}

int main(void)
{
	Suite *suite = suite_create("fake-slot");

	add_kinds(suite);
	return harness_run(suite);
}
