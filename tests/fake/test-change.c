/* SPDX-License-Identifier: MIT */
/* What is done with slots beyond making one: many at once, adopt, delete, flags, replace. */
#include "harness.h"
#include "script.h"

#include "memfd.h"
#include "vm.h"
#include "uapi/kvm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NOTHING "%s", ""
#define BOTH	(GMEM_MEMFD_MMAP | GMEM_MEMFD_INIT_SHARED)
#define SIZE	UINT64_C(0x10000)
#define FIXED	GMEM_SLOT_FIXED_ID
#define DELETE	"size=0 "
#define RETIRE	"NORESERVE|FIXED"
#define MANY	4

static struct gmem_fake *fake;
static struct gmem_vm *vm;
static struct gmem_memfd *memfd;
static struct gmem_map *map; /* all of the memfd */

/* The VMM's own memory. */
static char ram[0x10000] __attribute__((aligned(0x10000)));

static struct {
	unsigned int warnings, errors;
	char text[256]; /* the last of these */
} logged;

static void remember(void *data, enum gmem_log_level level, const char *message)
{
	(void)data;
	logged.warnings += level == GMEM_LOG_WARNING;
	logged.errors += level == GMEM_LOG_ERROR;
	snprintf(logged.text, sizeof(logged.text), "%s", message);
}

static void start(void)
{
	struct gmem_vm_opts opts = {.sz = sizeof(opts), .log = remember};

	fake = script_new(GMEM_FAKE_LINUX_6_18);
	gmem_fake_name(fake, ram, sizeof(ram), "ram");
	ck_works(gmem_fake_open_vm(fake, &opts, &vm));
	memfd = script_memfd(vm, SIZE, BOTH);
	ck_works(gmem_map_create(memfd, NULL, &map));
	gmem_fake_forget(fake);
	memset(&logged, 0, sizeof(logged));
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

static int adopt(struct gmem_slot_opts opts, struct gmem_slot **slot)
{
	opts.sz = sizeof(opts);
	return gmem_slot_adopt(vm, &opts, slot);
}

#define OPTS(...) ((struct gmem_slot_opts){__VA_ARGS__})

static struct gmem_slot *make(struct gmem_slot_opts opts)
{
	struct gmem_slot *slot;

	ck_works(create(opts, &slot));
	return slot;
}

static void check_unmapped(uint64_t gpa)
{
	void *addr;

	ck_fails(gmem_vm_translate(vm, 0, gpa, GMEM_PROT_READ, NULL, &addr), EFAULT, GPA_UNMAPPED);
}

static void *translate(uint64_t gpa)
{
	void *addr;

	ck_works(gmem_vm_translate(vm, 0, gpa, GMEM_PROT_READ, NULL, &addr));
	return addr;
}

/* ---- Many at once ---- */

/* Slots of a page at 0x1000, 0x2000 and so on, of the memfd with mappings of the library. */
static void fill_many(struct gmem_slot_opts *opts)
{
	for (uint64_t i = 0; i < MANY; i++)
		opts[i] = (struct gmem_slot_opts){.sz = sizeof(*opts),
						  .gpa = (i + 1) * 0x1000,
						  .size = 0x1000,
						  .memfd = memfd,
						  .offset = i * 0x1000};
}

static void close_many(struct gmem_slot **slots)
{
	for (unsigned int i = 0; i < MANY; i++)
		gmem_slot_close(slots[i]);
}

static void check_all_null(struct gmem_slot *const *slots)
{
	for (unsigned int i = 0; i < MANY; i++)
		ck_assert_ptr_null(slots[i]);
}

START_TEST(many)
{
	struct gmem_slot_opts opts[MANY];
	struct gmem_slot *slots[MANY];

	fill_many(opts);
	ck_works(gmem_slot_create_many(vm, opts, MANY, slots));
	for (uint32_t i = 0; i < MANY; i++) {
		ck_assert_uint_eq(gmem_slot_get_id(slots[i]), i);
		ck_assert_ptr_eq(translate(opts[i].gpa), gmem_slot_get_addr(slots[i]));
	}
	ck_assert_uint_eq(gmem_fake_tally(fake, GMEM_FAKE_SLOTS), MANY);
	close_many(slots);
}
END_TEST

/* An entry that is refused is found before the first ioctl, and its message names it. */
START_TEST(many_refused)
{
	struct gmem_slot_opts opts[MANY];
	struct gmem_slot *slots[MANY] = {(void *)&opts};

	fill_many(opts);
	opts[_i].flags = UINT64_C(1) << 40;
	ck_fails(gmem_slot_create_many(vm, opts, MANY, slots), EINVAL, FLAGS_UNKNOWN);
	check_all_null(slots);
	ck_assert_uint_eq(gmem_fake_count(fake, "ioctl"), 0);
	ck_assert_int_eq(atoi(gmem_error_get_message() + strlen("entry ")), _i);
	ck_assert_str_eq(logged.text, gmem_error_get_message());
	ck_assert_uint_eq(logged.errors, 1);
	opts[_i].flags = 0;
	ck_works(gmem_slot_create_many(vm, opts, MANY, slots));
	ck_assert_uint_eq(gmem_slot_get_id(slots[0]), 0);
	close_many(slots);
}
END_TEST

/* Entries are checked against each other. */
START_TEST(many_overlap)
{
	struct gmem_slot_opts opts[MANY];
	struct gmem_slot *slots[MANY];

	fill_many(opts);
	opts[3].gpa = 0x2000;
	ck_fails(gmem_slot_create_many(vm, opts, MANY, slots), EEXIST, GPA_OVERLAP);
	fill_many(opts);
	opts[3].offset = 0x1000;
	ck_fails(gmem_slot_create_many(vm, opts, MANY, slots), EEXIST, MEMFD_OVERLAP);
	fill_many(opts);
	opts[3].flags = FIXED;
	opts[3].id = 2;
	ck_fails(gmem_slot_create_many(vm, opts, MANY, slots), EEXIST, ID_TAKEN);
	check_all_null(slots);
	ck_assert_uint_eq(gmem_fake_count(fake, "ioctl"), 0);
}
END_TEST

START_TEST(many_identical)
{
	struct gmem_slot_opts opts[MANY];
	struct gmem_slot *slots[MANY], *before;

	fill_many(opts);
	opts[3] = opts[1];
	before = make(opts[0]);
	ck_works(gmem_slot_create_many(vm, opts, MANY, slots));
	ck_assert_ptr_eq(slots[0], before);
	ck_assert_ptr_eq(slots[1], slots[3]);
	ck_assert_uint_eq(gmem_fake_tally(fake, GMEM_FAKE_SLOTS), 3);
	gmem_slot_close(before);
	ck_assert_uint_eq(gmem_fake_tally(fake, GMEM_FAKE_SLOTS), 3);
	close_many(slots);
	ck_assert_uint_eq(gmem_fake_tally(fake, GMEM_FAKE_SLOTS), 0);
}
END_TEST

/* What was there before stays, also where a call that names it fails. */
START_TEST(many_identical_undone)
{
	struct gmem_slot_opts opts[MANY];
	struct gmem_slot *slots[MANY], *before;

	fill_many(opts);
	opts[2] = opts[1];
	before = make(opts[0]);
	gmem_fake_fail(fake, 2, ENOMEM, "gmem=");
	ck_fails(gmem_slot_create_many(vm, opts, MANY, slots), ENOMEM, NO_MEMORY);
	check_all_null(slots);
	ck_assert_uint_eq(gmem_fake_tally(fake, GMEM_FAKE_SLOTS), 1);
	ck_assert_ptr_eq(translate(0x1000), gmem_slot_get_addr(before));
	check_unmapped(0x2000);
	gmem_slot_close(before);
}
END_TEST

static const struct {
	int kernel, error;
	enum gmem_reason reason;
} many_errors[] = {
	{ENOMEM, ENOMEM, GMEM_REASON_NO_MEMORY}, {EEXIST, EEXIST, GMEM_REASON_GPA_OVERLAP},
	{EINVAL, EEXIST, GMEM_REASON_ID_TAKEN},	 {EFAULT, ERANGE, GMEM_REASON_GPA_BEYOND_WIDTH},
	{EIO, EIO, GMEM_REASON_FORKED},		 {EPERM, EPERM, GMEM_REASON_KVM_BLOCKED},
};

/* The kernel refuses the n-th: those before it are undone, the last first. */
static void refuse_nth(unsigned int n, size_t error)
{
	struct gmem_slot_opts opts[MANY];
	struct gmem_slot *slots[MANY];
	char deletes[512] = "", *made;
	const char *got;

	fill_many(opts);
	gmem_fake_forget(fake);
	gmem_fake_fail(fake, n, many_errors[error].kernel, "gmem=");
	script_check_failure(gmem_slot_create_many(vm, opts, MANY, slots), many_errors[error].error,
			     many_errors[error].reason, "many", __FILE__, __LINE__);
	gmem_fake_recover(fake);
	check_all_null(slots);
	ck_assert_int_eq((unsigned int)atoi(gmem_error_get_message() + strlen("entry ")) + 1, n);
	for (unsigned int i = n - 1; i > 0; i--) {
		size_t length = strlen(deletes);

		/* Of the guard's page and the whole mapping, m1 and m2. */
		snprintf(deletes + length, sizeof(deletes) - length,
			 "ioctl(vm1, SET_REGION2, slot=%#x flags=0 gpa=%#x size=0 addr=m%u)\n",
			 i - 1, i * 0x1000, i + 2);
	}
	got = gmem_fake_transcript(fake);
	made = strstr(got, deletes);
	ck_assert_msg(made, "not deleted so:\n%sbut:\n%s", deletes, got);
	ck_assert_uint_eq(gmem_fake_count(fake, DELETE), n - 1);
	for (uint64_t i = 1; i <= MANY; i++)
		check_unmapped(i * 0x1000);
	ck_works(gmem_vm_reclaim(vm, NULL));
}

START_TEST(many_rolled_back)
{
	struct gmem_slot_opts opts[MANY];
	struct gmem_slot *slots[MANY];

	for (unsigned int n = 1; n <= MANY; n++)
		refuse_nth(n, (size_t)_i);
	fill_many(opts);
	ck_works(gmem_slot_create_many(vm, opts, MANY, slots));
	ck_assert_uint_eq(gmem_slot_get_id(slots[0]), 0);
	close_many(slots);
}
END_TEST

/* The kernel refuses the last and an undo: that slot is lost, its memory and id never used again.
 */
START_TEST(many_undo_fails)
{
	struct gmem_slot_opts opts[MANY];
	struct gmem_slot *slots[MANY], *other;
	uint64_t bytes;

	fill_many(opts);
	gmem_fake_allow_left(fake, 1, 1);
	gmem_fake_fail(fake, 4, ENOMEM, "gmem=");
	gmem_fake_fail(fake, 2, ENOMEM, DELETE); /* of slot 1 */
	ck_fails(gmem_slot_create_many(vm, opts, MANY, slots), ENOTRECOVERABLE, UNDO_FAILED);
	gmem_fake_recover(fake);
	check_all_null(slots);
	ck_assert_uint_eq(gmem_fake_tally(fake, GMEM_FAKE_SLOTS), 1);
	ck_works(gmem_vm_reclaim(vm, &bytes));
	ck_assert_uint_eq(gmem_fake_tally(fake, GMEM_FAKE_INACCESSIBLE), 1);
	check_unmapped(0x2000);
	other = make(OPTS(.gpa = 0x10000, .size = 0x1000, .host = ram));
	ck_assert_uint_eq(gmem_slot_get_id(other), 0);
	gmem_slot_close(other);
	ck_fails(create(OPTS(.gpa = 0x10000, .size = 0x1000, .host = ram, .flags = FIXED, .id = 1),
			&other),
		 EEXIST, ID_TAKEN);
	/* The VM's end deletes it. */
	gmem_map_close(map);
	gmem_memfd_close(memfd);
	gmem_vm_close(vm);
	gmem_fake_allow_left(fake, 1, 0);
	vm = NULL;
	map = NULL;
	memfd = NULL;
}
END_TEST

/*
 * The same where the slot that is lost shares the caller's mapping with one that is undone after
 * it: the mapping's addresses must not become free.
 */
START_TEST(many_undo_fails_over_map)
{
	struct gmem_slot_opts opts[3];
	struct gmem_slot *slots[3];

	for (uint64_t i = 0; i < 3; i++)
		opts[i] = OPTS(.sz = sizeof(*opts), .gpa = i * 0x1000, .size = 0x1000, .map = map,
			       .offset = i * 0x1000);
	gmem_fake_allow_left(fake, 1, 1);
	gmem_fake_fail(fake, 1, ENOMEM, "slot=0x2 ");
	gmem_fake_fail(fake, 2, ENOMEM, "slot=0x1 ");
	ck_fails(gmem_slot_create_many(vm, opts, 3, slots), ENOTRECOVERABLE, UNDO_FAILED);
	gmem_fake_recover(fake);
	gmem_map_close(map);
	ck_assert_uint_eq(gmem_fake_tally(fake, GMEM_FAKE_INACCESSIBLE), 1);
	ck_works(gmem_vm_reclaim(vm, NULL));
	ck_assert_uint_eq(gmem_fake_tally(fake, GMEM_FAKE_INACCESSIBLE), 1);
	gmem_memfd_close(memfd);
	gmem_vm_close(vm);
	gmem_fake_allow_left(fake, 1, 0);
	vm = NULL;
	map = NULL;
	memfd = NULL;
}
END_TEST

/* A call that fails leaves the caller's mapping free for another VM. */
START_TEST(failure_leaves_map_free)
{
	struct gmem_slot_opts opts = OPTS(.sz = sizeof(opts), .size = 0x1000, .map = map);
	struct gmem_slot *slot;
	struct gmem_vm *other;

	ck_works(gmem_fake_open_vm(fake, NULL, &other));
	gmem_fake_fail(fake, 1, ENOMEM, "SET_REGION2");
	ck_fails(gmem_slot_create(vm, &opts, &slot), ENOMEM, NO_MEMORY);
	ck_works(gmem_slot_create(other, &opts, &slot));
	gmem_slot_close(slot);
	/* Now it is the other VM's. */
	ck_fails(gmem_slot_create(vm, &opts, &slot), EXDEV, MEMFD_FOREIGN);
	gmem_vm_close(other);
}
END_TEST

START_TEST(many_counts)
{
	struct gmem_slot_opts opts = {.sz = sizeof(opts)};
	struct gmem_slot *slot;

	gmem_fake_expect(fake, NOTHING);
	ck_fails(gmem_slot_create_many(vm, &opts, 0, &slot), EINVAL, ARGUMENT);
	ck_fails(gmem_slot_create_many(vm, &opts, 65537, &slot), EINVAL, ARGUMENT);
	ck_fails(gmem_slot_create_many(vm, &opts, SIZE_MAX, &slot), EINVAL, ARGUMENT);
	ck_fails(gmem_slot_create_many(vm, NULL, 1, &slot), EINVAL, NULL);
	ck_fails(gmem_slot_create_many(vm, &opts, 1, NULL), EINVAL, NULL);
	gmem_fake_met(fake);
}
END_TEST

/* A larger struct of a later version: entries stand at its size, all alike. */
START_TEST(many_of_another_size)
{
	struct {
		struct gmem_slot_opts opts;
		uint64_t later;
	} opts[2] = {0};
	struct gmem_slot *slots[2];

	for (uint64_t i = 0; i < 2; i++)
		opts[i].opts = OPTS(.sz = sizeof(opts[0]), .gpa = i * 0x1000, .size = 0x1000,
				    .host = ram + i * 0x1000);
	ck_works(gmem_slot_create_many(vm, &opts[0].opts, 2, slots));
	ck_assert_uint_eq(gmem_slot_get_gpa(slots[1]), 0x1000);
	gmem_slot_close(slots[0]);
	gmem_slot_close(slots[1]);
	opts[1].later = 1;
	ck_fails(gmem_slot_create_many(vm, &opts[0].opts, 2, slots), E2BIG, OPTS_TAIL);
	opts[1].opts.sz = sizeof(struct gmem_slot_opts);
	ck_fails(gmem_slot_create_many(vm, &opts[0].opts, 2, slots), EINVAL, OPTS_SIZE);
}
END_TEST

/* Entries of an odd size lie at odd addresses. */
START_TEST(many_of_an_odd_size)
{
	const size_t stride = sizeof(struct gmem_slot_opts) + 1;
	unsigned char bytes[2 * (sizeof(struct gmem_slot_opts) + 1)]
		__attribute__((aligned(8))) = {0};
	struct gmem_slot *slots[2];

	for (uint64_t i = 0; i < 2; i++) {
		struct gmem_slot_opts opts = OPTS(.sz = stride, .gpa = i * 0x1000, .size = 0x1000,
						  .host = ram + i * 0x1000);

		memcpy(bytes + i * stride, &opts, sizeof(opts));
	}
	ck_works(gmem_slot_create_many(vm, (struct gmem_slot_opts *)(void *)bytes, 2, slots));
	ck_assert_uint_eq(gmem_slot_get_gpa(slots[1]), 0x1000);
	gmem_slot_close(slots[0]);
	gmem_slot_close(slots[1]);
}
END_TEST

/* ---- Adopt ---- */

START_TEST(adopt_makes_no_call)
{
	struct gmem_slot *slot, *again, *other;

	gmem_fake_expect(fake, NOTHING);
	ck_works(adopt(OPTS(.gpa = 0x1000, .size = 0x1000, .memfd = memfd, .flags = FIXED, .id = 3,
			    .host = ram),
		       &slot));
	ck_works(adopt(OPTS(.gpa = 0x1000, .size = 0x1000, .memfd = memfd, .flags = FIXED, .id = 3,
			    .host = ram),
		       &again));
	ck_assert_ptr_eq(slot, again);
	ck_assert_ptr_eq(translate(0x1000), ram);
	/* All that it has is known as taken. */
	ck_fails(create(OPTS(.gpa = 0x1000, .size = 0x1000, .host = ram), &other), EEXIST,
		 GPA_OVERLAP);
	ck_fails(create(OPTS(.size = 0x1000, .memfd = memfd), &other), EEXIST, MEMFD_OVERLAP);
	ck_fails(create(OPTS(.size = 0x1000, .host = ram, .flags = FIXED, .id = 3), &other), EPERM,
		 ID_NOT_GRANTED);
	ck_fails(adopt(OPTS(.size = 0x1000, .host = ram, .flags = FIXED, .id = 3), &other), EEXIST,
		 ID_TAKEN);
	ck_fails(gmem_slot_set_flags(slot, 0), EPERM, SLOT_ADOPTED);
	ck_works(gmem_slot_delete(slot));
	check_unmapped(0x1000);
	ck_fails(gmem_slot_delete(again), ESTALE, SLOT_DELETED);
	gmem_slot_close(slot);
	gmem_slot_close(again);
	gmem_fake_met(fake);
}
END_TEST

START_TEST(adopt_refused)
{
	struct gmem_slot *slot;

	gmem_fake_expect(fake, NOTHING);
	ck_fails(adopt(OPTS(.size = 0x1000, .host = ram), &slot), EINVAL, CONFLICT);
	ck_fails(adopt(OPTS(.size = 0x1000, .memfd = memfd, .flags = FIXED), &slot), EINVAL,
		 CONFLICT);
	ck_fails(adopt(OPTS(.size = 0x1000, .host = ram, .flags = FIXED, .id = 32764), &slot),
		 ERANGE, ID_BEYOND_LIMIT);
	ck_fails(adopt(OPTS(.size = 0x1000, .memfd = memfd, .map = map, .flags = FIXED | 1), &slot),
		 EOPNOTSUPP, MEMFD_NO_DIRTY_LOG);
	ck_fails(adopt(OPTS(.size = 0, .host = ram, .flags = FIXED), &slot), EINVAL, RANGE_EMPTY);
	gmem_fake_met(fake);
}
END_TEST

/* What is reserved may be adopted, and is reserved again when the slot is forgotten. */
START_TEST(adopt_reserved)
{
	struct gmem_reserve_opts reserve = {
		.sz = sizeof(reserve), .id_count = 1, .gpa = 0x8000, .size = 0x1000};
	struct gmem_slot_opts opts =
		OPTS(.gpa = 0x8000, .size = 0x1000, .host = ram, .flags = FIXED);
	struct gmem_slot *slot, *other;

	ck_works(gmem_vm_reserve(vm, &reserve));
	ck_works(adopt(opts, &slot));
	gmem_slot_close(slot);
	opts.gpa = 0x10000;
	ck_fails(create(opts, &other), EPERM, ID_NOT_GRANTED);
	other = make(OPTS(.gpa = 0x10000, .size = 0x1000, .host = ram));
	ck_assert_uint_eq(gmem_slot_get_id(other), 1);
	gmem_slot_close(other);
}
END_TEST

/* ---- Delete and close ---- */

START_TEST(delete_calls)
{
	struct gmem_slot *slot = make(OPTS(.gpa = 0x1000, .size = 0x1000, .memfd = memfd));
	void *addr = gmem_slot_get_addr(slot);

	gmem_fake_expect(fake,
			 "ioctl(vm1, SET_REGION2, slot=0 flags=0 gpa=0x1000 size=0 addr=m3)\n");
	ck_works(gmem_slot_delete(slot));
	check_unmapped(0x1000);
	gmem_fake_expect(fake, NOTHING);
	ck_fails(gmem_slot_delete(slot), ESTALE, SLOT_DELETED);
	ck_fails(gmem_slot_set_flags(slot, 0), ESTALE, SLOT_DELETED);
	ck_assert_uint_eq(gmem_slot_get_gpa(slot), 0x1000);
	ck_assert_uint_eq(gmem_slot_get_size(slot), 0x1000);
	ck_assert_ptr_eq(gmem_slot_get_addr(slot), addr);
	gmem_fake_expect(fake, "mmap(m3, 0x1000, NONE, PRIVATE|ANON|NORESERVE|FIXED, -1, 0)\n");
	gmem_slot_close(slot);
	gmem_fake_met(fake);
}
END_TEST

static const struct {
	int error;
	enum gmem_reason reason;
} delete_errors[] = {
	{ENOMEM, GMEM_REASON_NO_MEMORY},
	{EINVAL, GMEM_REASON_KERNEL_REFUSED},
	{EPERM, GMEM_REASON_KVM_BLOCKED},
};

START_TEST(delete_fails)
{
	struct gmem_slot *slot = make(OPTS(.gpa = 0x1000, .size = 0x1000, .memfd = memfd));
	struct gmem_slot *other;

	gmem_fake_fail(fake, 1, delete_errors[_i].error, DELETE);
	script_check_failure(gmem_slot_delete(slot), delete_errors[_i].error,
			     delete_errors[_i].reason, "delete", __FILE__, __LINE__);
	/* It is all as before. */
	ck_assert_ptr_eq(translate(0x1000), gmem_slot_get_addr(slot));
	ck_fails(create(OPTS(.gpa = 0x1000, .size = 0x1000, .host = ram), &other), EEXIST,
		 GPA_OVERLAP);
	ck_fails(create(OPTS(.size = 0x1000, .memfd = memfd), &other), EEXIST, MEMFD_OVERLAP);
	ck_works(gmem_slot_delete(slot));
	gmem_slot_close(slot);
}
END_TEST

/* The last handle is gone and KVM keeps the slot: a warning, and nobody gets its addresses. */
START_TEST(close_fails)
{
	struct gmem_slot *slot = make(OPTS(.gpa = 0x1000, .size = 0x1000, .memfd = memfd));
	struct gmem_slot *other;
	uint64_t bytes;

	gmem_fake_allow_left(fake, 1, 1);
	gmem_fake_fail(fake, 1, ENOMEM, DELETE);
	gmem_fake_forget(fake);
	gmem_slot_close(slot);
	ck_assert_uint_eq(logged.warnings, 1);
	ck_assert_ptr_nonnull(strstr(logged.text, "slot 0"));
	ck_assert_ptr_nonnull(strstr(logged.text, "ENOMEM"));
	ck_assert_uint_eq(gmem_fake_count(fake, RETIRE), 1);
	ck_assert_uint_eq(gmem_fake_tally(fake, GMEM_FAKE_INACCESSIBLE), 1);
	check_unmapped(0x1000);
	ck_works(gmem_vm_reclaim(vm, &bytes));
	ck_assert_uint_eq(bytes, 0);
	other = make(OPTS(.gpa = 0x8000, .size = 0x1000, .host = ram));
	ck_assert_uint_eq(gmem_slot_get_id(other), 1);
	gmem_slot_close(other);
	gmem_map_close(map);
	gmem_memfd_close(memfd);
	gmem_vm_close(vm);
	ck_assert_uint_eq(gmem_fake_tally(fake, GMEM_FAKE_INACCESSIBLE), 1);
	gmem_fake_allow_left(fake, 1, 0);
	vm = NULL;
	map = NULL;
	memfd = NULL;
}
END_TEST

/* The same with the caller's mapping, which stays in use until the caller closes it. */
START_TEST(close_fails_over_map)
{
	struct gmem_slot *slot = make(OPTS(.gpa = 0x1000, .size = 0x1000, .map = map));

	gmem_fake_allow_left(fake, 1, 1);
	gmem_fake_fail(fake, 1, ENOMEM, DELETE);
	gmem_slot_close(slot);
	ck_assert_uint_eq(gmem_fake_tally(fake, GMEM_FAKE_INACCESSIBLE), 0);
	gmem_map_close(map);
	ck_assert_uint_eq(gmem_fake_tally(fake, GMEM_FAKE_INACCESSIBLE), 1);
	ck_works(gmem_vm_reclaim(vm, NULL));
	ck_assert_uint_eq(gmem_fake_tally(fake, GMEM_FAKE_INACCESSIBLE), 1);
	gmem_memfd_close(memfd);
	gmem_vm_close(vm);
	gmem_fake_allow_left(fake, 1, 0);
	vm = NULL;
	map = NULL;
	memfd = NULL;
}
END_TEST

START_TEST(slot_survives_all)
{
	struct gmem_slot *slot = make(OPTS(.gpa = 0x1000, .size = 0x1000, .map = map));

	gmem_map_close(map);
	gmem_memfd_close(memfd);
	gmem_vm_close(vm);
	*(char *)gmem_slot_get_addr(slot) = 1;
	gmem_slot_close(slot);
	vm = NULL;
	map = NULL;
	memfd = NULL;
}
END_TEST

/* ---- Flags ---- */

START_TEST(set_flags)
{
	struct gmem_slot *slot = make(OPTS(.gpa = 0x1000, .size = 0x2000, .map = map));

	gmem_fake_expect(
		fake, "ioctl(vm1, SET_REGION2, slot=0 flags=0x1 gpa=0x1000 size=0x2000 addr=m2)\n");
	ck_works(gmem_slot_set_flags(slot, GMEM_SLOT_LOG_DIRTY));
	ck_assert_uint_eq(gmem_slot_get_flags(slot), GMEM_SLOT_LOG_DIRTY);
	gmem_fake_expect(fake, NOTHING);
	ck_works(gmem_slot_set_flags(slot, GMEM_SLOT_LOG_DIRTY));
	ck_fails(gmem_slot_set_flags(slot, 3), EINVAL, CONFLICT);
	ck_fails(gmem_slot_set_flags(slot, 4), EINVAL, FLAGS_UNKNOWN);
	ck_fails(gmem_slot_set_flags(slot, FIXED), EINVAL, FLAGS_UNKNOWN);
	gmem_fake_expect(fake, "ioctl(vm1, SET_REGION2, slot=0 flags=0 gpa=0x1000 size=0x2000 "
			       "addr=m2) = ENOMEM\n");
	ck_fails(gmem_slot_set_flags(slot, 0), ENOMEM, NO_MEMORY);
	gmem_fake_expect(fake, "ioctl(vm1, SET_REGION2, slot=0 flags=0 gpa=0x1000 size=0x2000 "
			       "addr=m2) = EINVAL\n");
	ck_fails(gmem_slot_set_flags(slot, 0), EINVAL, KERNEL_REFUSED);
	ck_assert_uint_eq(gmem_slot_get_flags(slot), GMEM_SLOT_LOG_DIRTY);
	gmem_fake_expect(
		fake, "ioctl(vm1, SET_REGION2, slot=0 flags=0 gpa=0x1000 size=0x2000 addr=m2)\n");
	ck_works(gmem_slot_set_flags(slot, 0));
	gmem_fake_met(fake);
	gmem_slot_close(slot);
}
END_TEST

START_TEST(set_flags_readonly)
{
	struct gmem_slot *slot =
		make(OPTS(.gpa = 0x1000, .size = 0x2000, .map = map, .flags = GMEM_SLOT_READONLY));

	ck_fails(gmem_slot_set_flags(slot, 0), EINVAL, CONFLICT);
	ck_works(gmem_slot_set_flags(slot, GMEM_SLOT_READONLY | GMEM_SLOT_LOG_DIRTY));
	gmem_slot_close(slot);
}
END_TEST

START_TEST(set_flags_of_guest_memfd)
{
	struct gmem_slot *slot = make(OPTS(.gpa = 0x1000, .size = 0x2000, .memfd = memfd));

	gmem_fake_expect(fake, NOTHING);
	ck_works(gmem_slot_set_flags(slot, 0));
	ck_fails(gmem_slot_set_flags(slot, GMEM_SLOT_LOG_DIRTY), EOPNOTSUPP, MEMFD_NO_DIRTY_LOG);
	ck_fails(gmem_slot_set_flags(slot, GMEM_SLOT_READONLY), EOPNOTSUPP, MEMFD_NO_READONLY);
	ck_fails(gmem_slot_set_flags(slot, 8), EINVAL, FLAGS_UNKNOWN);
	gmem_fake_met(fake);
	gmem_slot_close(slot);
}
END_TEST

/* ---- Replace ---- */

static struct {
	int answer; /* of quiesce */
	char order[256];

} callbacks;

static void note(const char *what)
{
	size_t length = strlen(callbacks.order);

	snprintf(callbacks.order + length, sizeof(callbacks.order) - length, "%s\n", what);
}

/* Appends the calls since the last note. */
static void note_calls(void)
{
	const char *line = gmem_fake_transcript(fake);

	for (; *line; line = strchrnul(line, '\n') + 1)
		note(strstr(line, DELETE) && strstr(line, DELETE) < strchrnul(line, '\n') ? "delete"
											  : "set");
	gmem_fake_forget(fake);
}

static int quiesce(void *data)
{
	ck_assert_ptr_eq(data, &callbacks);
	note_calls();
	note("quiesce");
	return callbacks.answer;
}

static void resume(void *data)
{
	ck_assert_ptr_eq(data, &callbacks);
	note_calls();
	note("resume");
}

static struct gmem_replace_opts quiesced(void)
{
	memset(&callbacks, 0, sizeof(callbacks));
	return (struct gmem_replace_opts){.sz = sizeof(struct gmem_replace_opts),
					  .quiesce = quiesce,
					  .resume = resume,
					  .data = &callbacks};
}

static int replace(struct gmem_slot *slot, struct gmem_slot_opts opts)
{
	struct gmem_replace_opts how = quiesced();

	opts.sz = sizeof(opts);
	gmem_fake_forget(fake);
	return gmem_slot_replace(slot, &opts, &how);
}

START_TEST(replace_calls)
{
	struct gmem_slot *slot = make(OPTS(.gpa = 0x1000, .size = 0x1000, .memfd = memfd));
	struct gmem_replace_opts how = {.sz = sizeof(how), .flags = GMEM_REPLACE_NO_VCPUS};
	struct gmem_slot_opts opts = {.sz = sizeof(opts), .gpa = 0x1000, .size = 0x2000};

	opts.memfd = memfd;
	gmem_fake_expect(fake, "mmap(0, 0x2000, RW, SHARED, gmem1, 0)\n"
			       "madvise(m4, 0x2000, DONTFORK)\n"
			       "ioctl(vm1, SET_REGION2, slot=0 flags=0 gpa=0x1000 size=0 addr=m3)\n"
			       "ioctl(vm1, SET_REGION2, slot=0 flags=0x4 gpa=0x1000 size=0x2000 "
			       "addr=m4 gmem=gmem1 offset=0)\n"
			       "mmap(m3, 0x1000, NONE, PRIVATE|ANON|NORESERVE|FIXED, -1, 0)\n");
	ck_works(gmem_slot_replace(slot, &opts, &how));
	gmem_fake_expect(fake, NOTHING);
	ck_assert_uint_eq(gmem_slot_get_size(slot), 0x2000);
	ck_assert_ptr_eq(translate(0x2000), (char *)gmem_slot_get_addr(slot) + 0x1000);
	/* What it is already is no change. */
	ck_works(gmem_slot_replace(slot, &opts, &how));
	gmem_fake_met(fake);
	gmem_slot_close(slot);
}
END_TEST

START_TEST(replace_order)
{
	struct gmem_slot *slot = make(OPTS(.gpa = 0x1000, .size = 0x1000, .map = map));

	ck_works(replace(slot, OPTS(.gpa = 0x8000, .size = 0x2000, .host = ram)));
	ck_assert_str_eq(callbacks.order, "quiesce\ndelete\nset\nresume\n");
	check_unmapped(0x1000);
	ck_assert_ptr_eq(translate(0x9000), ram + 0x1000);
	/* The same again: vCPUs are not stopped for nothing. */
	ck_works(replace(slot, OPTS(.gpa = 0x8000, .size = 0x2000, .host = ram)));
	ck_assert_str_eq(callbacks.order, "");
	gmem_slot_close(slot);
}
END_TEST

START_TEST(replace_quiesce_fails)
{
	static const int answers[] = {-EAGAIN, -EINTR, 1};
	struct gmem_slot *slot = make(OPTS(.gpa = 0x1000, .size = 0x1000, .map = map));
	struct gmem_slot_opts opts = {.sz = sizeof(opts), .size = 0x2000, .host = ram};
	struct gmem_replace_opts how = quiesced();

	callbacks.answer = answers[_i];
	gmem_fake_expect(fake, NOTHING);
	script_check_failure(gmem_slot_replace(slot, &opts, &how),
			     answers[_i] < 0 ? -answers[_i] : EBUSY, GMEM_REASON_QUIESCE_FAILED,
			     "replace", __FILE__, __LINE__);
	gmem_fake_met(fake);
	ck_assert_ptr_null(strstr(callbacks.order, "resume"));
	ck_assert_ptr_eq(translate(0x1000), gmem_slot_get_addr(slot));
	gmem_slot_close(slot);
}
END_TEST

/* Refused before vCPUs are stopped. */
START_TEST(replace_refused)
{
	struct gmem_slot *slot = make(OPTS(.gpa = 0x1000, .size = 0x1000, .map = map));
	struct gmem_slot *other = make(OPTS(.gpa = 0x4000, .size = 0x1000, .memfd = memfd));
	struct gmem_slot *adopted;

	ck_works(adopt(OPTS(.gpa = 0x7000, .size = 0x1000, .host = ram, .flags = FIXED, .id = 9),
		       &adopted));
	ck_fails(replace(slot, OPTS(.gpa = 0x3000, .size = 0x2000, .host = ram)), EEXIST,
		 GPA_OVERLAP);
	ck_fails(replace(slot, OPTS(.gpa = 0x1000, .size = 0x1000, .memfd = memfd)), EEXIST,
		 MEMFD_OVERLAP);
	ck_fails(replace(slot, OPTS(.gpa = 0x1000, .size = 0x800, .host = ram)), EINVAL,
		 RANGE_UNALIGNED);
	ck_fails(replace(slot, OPTS(.size = 0x1000, .host = ram, .as_id = 1)), EINVAL, CONFLICT);
	ck_fails(replace(slot, OPTS(.size = 0x1000, .host = ram, .flags = FIXED, .id = 5)), EINVAL,
		 CONFLICT);
	ck_fails(replace(adopted, OPTS(.size = 0x1000, .host = ram)), EPERM, SLOT_ADOPTED);
	ck_works(gmem_slot_delete(other));
	ck_fails(replace(other, OPTS(.size = 0x1000, .host = ram)), ESTALE, SLOT_DELETED);
	ck_assert_str_eq(callbacks.order, "");
	gmem_slot_close(adopted);
	gmem_slot_close(slot);
	gmem_slot_close(other);
}
END_TEST

START_TEST(replace_needs_quiesce)
{
	struct gmem_slot *slot = make(OPTS(.gpa = 0x1000, .size = 0x1000, .map = map));
	struct gmem_slot_opts opts = {.sz = sizeof(opts), .size = 0x2000, .host = ram};
	struct gmem_replace_opts how = {.sz = sizeof(how)};

	gmem_fake_expect(fake, NOTHING);
	ck_fails(gmem_slot_replace(slot, &opts, &how), EBUSY, NEEDS_QUIESCE);
	how.quiesce = quiesce;
	ck_fails(gmem_slot_replace(slot, &opts, &how), EINVAL, CONFLICT);
	how.quiesce = NULL;
	how.resume = resume;
	ck_fails(gmem_slot_replace(slot, &opts, &how), EINVAL, CONFLICT);
	how.flags = 2;
	ck_fails(gmem_slot_replace(slot, &opts, &how), EINVAL, FLAGS_UNKNOWN);
	gmem_fake_met(fake);
	gmem_slot_close(slot);
}
END_TEST

/* KVM does not even delete the old one. */
START_TEST(replace_delete_fails)
{
	struct gmem_slot *slot = make(OPTS(.gpa = 0x1000, .size = 0x1000, .map = map));

	gmem_fake_fail(fake, 1, ENOMEM, DELETE);
	ck_fails(replace(slot, OPTS(.gpa = 0x8000, .size = 0x1000, .host = ram)), ENOMEM,
		 NO_MEMORY);
	ck_assert_str_eq(callbacks.order, "quiesce\ndelete\nresume\n");
	ck_assert_ptr_eq(translate(0x1000), gmem_slot_get_addr(slot));
	check_unmapped(0x8000);
	gmem_slot_close(slot);
}
END_TEST

/* The new one is refused: the old one is set again. */
START_TEST(replace_set_fails)
{
	struct gmem_slot *slot = make(OPTS(.gpa = 0x1000, .size = 0x1000, .memfd = memfd));
	void *addr = gmem_slot_get_addr(slot);
	struct gmem_slot *other;

	gmem_fake_fail(fake, 1, many_errors[_i].kernel, "addr=ram");
	script_check_failure(replace(slot, OPTS(.gpa = 0x8000, .size = 0x1000, .host = ram)),
			     many_errors[_i].error, many_errors[_i].reason, "replace", __FILE__,
			     __LINE__);
	ck_assert_str_eq(callbacks.order, "quiesce\ndelete\nset\nset\nresume\n");
	ck_assert_ptr_eq(translate(0x1000), addr);
	ck_assert_uint_eq(gmem_slot_get_gpa(slot), 0x1000);
	check_unmapped(0x8000);
	ck_fails(create(OPTS(.size = 0x1000, .memfd = memfd), &other), EEXIST, MEMFD_OVERLAP);
	ck_works(replace(slot, OPTS(.gpa = 0x8000, .size = 0x1000, .host = ram)));
	gmem_slot_close(slot);
}
END_TEST

/* Both are refused: the slot is gone, and everything that it had is free. */
START_TEST(replace_undo_fails)
{
	struct gmem_slot *slot = make(OPTS(.gpa = 0x1000, .size = 0x1000, .memfd = memfd));
	struct gmem_slot *other;

	gmem_fake_fail(fake, 1, EINVAL, "addr=ram");
	gmem_fake_fail(fake, 1, ENOMEM, "gmem=");
	ck_fails(replace(slot, OPTS(.gpa = 0x8000, .size = 0x1000, .host = ram)), ENOTRECOVERABLE,
		 UNDO_FAILED);
	gmem_fake_recover(fake);
	ck_assert_str_eq(callbacks.order, "quiesce\ndelete\nset\nset\nresume\n");
	check_unmapped(0x1000);
	check_unmapped(0x8000);
	ck_fails(gmem_slot_delete(slot), ESTALE, SLOT_DELETED);
	ck_fails(gmem_slot_set_flags(slot, 0), ESTALE, SLOT_DELETED);
	other = make(OPTS(.gpa = 0x1000, .size = 0x1000, .memfd = memfd));
	ck_assert_uint_eq(gmem_slot_get_id(other), 0);
	gmem_slot_close(slot);
	gmem_slot_close(other);
}
END_TEST

static void add_many(Suite *suite)
{
	TCase *tcase = tcase_create("many");

	tcase_add_checked_fixture(tcase, start, end);
	tcase_add_test(tcase, many);
	tcase_add_loop_test(tcase, many_refused, 0, MANY);
	tcase_add_test(tcase, many_overlap);
	tcase_add_test(tcase, many_identical);
	tcase_add_test(tcase, many_identical_undone);
	tcase_add_loop_test(tcase, many_rolled_back, 0, ARRAY_SIZE(many_errors));
	tcase_add_test(tcase, many_undo_fails);
	tcase_add_test(tcase, many_undo_fails_over_map);
	tcase_add_test(tcase, failure_leaves_map_free);
	tcase_add_test(tcase, many_counts);
	tcase_add_test(tcase, many_of_another_size);
	tcase_add_test(tcase, many_of_an_odd_size);
	suite_add_tcase(suite, tcase);
}

static void add_change(Suite *suite)
{
	TCase *tcase = tcase_create("change");

	tcase_add_checked_fixture(tcase, start, end);
	tcase_add_test(tcase, adopt_makes_no_call);
	tcase_add_test(tcase, adopt_refused);
	tcase_add_test(tcase, adopt_reserved);
	tcase_add_test(tcase, delete_calls);
	tcase_add_loop_test(tcase, delete_fails, 0, ARRAY_SIZE(delete_errors));
	tcase_add_test(tcase, close_fails);
	tcase_add_test(tcase, close_fails_over_map);
	tcase_add_test(tcase, slot_survives_all);
	tcase_add_test(tcase, set_flags);
	tcase_add_test(tcase, set_flags_readonly);
	tcase_add_test(tcase, set_flags_of_guest_memfd);
	suite_add_tcase(suite, tcase);
}

static void add_replace(Suite *suite)
{
	TCase *tcase = tcase_create("replace");

	tcase_add_checked_fixture(tcase, start, end);
	tcase_add_test(tcase, replace_calls);
	tcase_add_test(tcase, replace_order);
	tcase_add_loop_test(tcase, replace_quiesce_fails, 0, 3);
	tcase_add_test(tcase, replace_refused);
	tcase_add_test(tcase, replace_needs_quiesce);
	tcase_add_test(tcase, replace_delete_fails);
	tcase_add_loop_test(tcase, replace_set_fails, 0, ARRAY_SIZE(many_errors));
	tcase_add_test(tcase, replace_undo_fails);
	suite_add_tcase(suite, tcase);
}

int main(void)
{
	Suite *suite = suite_create("fake-change");

	add_many(suite);
	add_change(suite);
	add_replace(suite);
	return harness_run(suite);
}
