/* SPDX-License-Identifier: MIT */
/* What holds for all functions: NULL, options structs, child processes, callbacks. */
#include "harness.h"
#include "script.h"

#include "vm.h"

#include <errno.h>
#include <string.h>

#define BOTH (GMEM_MEMFD_MMAP | GMEM_MEMFD_INIT_SHARED)
#define SIZE UINT64_C(0x10000)

static struct gmem_fake *fake;
static struct gmem_vm *vm;
static struct gmem_memfd *memfd;
static struct gmem_map *map;
static struct gmem_slot *slot; /* id 0: gpa 0x1000, two pages of the memfd at 0 */
static int vm_fd;	       /* a VM of the VMM's own */
static int vcpu_fd;	       /* a vCPU of vm's */
static struct gmem_vcpu *vcpu;
static struct kvm_run kvm_run;

/* The VMM's own memory. */
static unsigned char ram[0x10000] __attribute__((aligned(0x10000)));

static void start(void)
{
	struct gmem_slot_opts opts = {.sz = sizeof(opts), .gpa = 0x1000, .size = 0x2000};

	fake = script_new(GMEM_FAKE_LINUX_7_3);
	gmem_fake_name(fake, ram, sizeof(ram), "ram");
	vm = script_vm(fake, 0);
	memfd = script_memfd(vm, SIZE, BOTH);
	ck_works(gmem_map_create(memfd, NULL, &map));
	opts.memfd = memfd;
	ck_works(gmem_slot_create(vm, &opts, &slot));
	vm_fd = gmem_fake_make_vm(fake);
	vcpu_fd = gmem_fake_make_vcpu(fake, gmem_vm_get_fd(vm), &kvm_run);
	ck_works(gmem_vcpu_open(vm, vcpu_fd, &kvm_run, &vcpu));
	gmem_fake_forget(fake);
}

static void end(void)
{
	gmem_fake_close_fd(fake, vm_fd);
	gmem_fake_close_fd(fake, vcpu_fd);
	gmem_vcpu_close(vcpu);
	gmem_slot_close(slot);
	gmem_map_close(map);
	gmem_memfd_close(memfd);
	gmem_vm_close(vm);
	script_end(fake);
}

/* ---- Options structs ---- */

/* Room for any options struct and a member that this library does not know. */
union any_opts {
	struct gmem_vm_opts vm;
	struct gmem_reserve_opts reserve;
	struct gmem_memfd_opts memfd;
	struct gmem_map_opts map;
	struct gmem_slot_opts slot;
	struct gmem_replace_opts replace;
	struct gmem_notifier_opts notifier;
	struct gmem_exit exit;
	struct gmem_resolve_opts resolve;
	struct gmem_prefault_opts prefault;
	size_t sz;
	unsigned char bytes[8192];
};

static int give_to_open(const void *opts)
{
	struct gmem_vm *ret = NULL;
	int r = gmem_fake_open_vm(fake, opts, &ret);

	gmem_vm_close(ret);
	return r;
}

static int give_to_open_fd(const void *opts)
{
	struct gmem_vm *ret = NULL;
	int r = gmem_fake_open_vm_fd(fake, vm_fd, opts, &ret);

	gmem_vm_close(ret);
	return r;
}

static int give_to_reserve(const void *opts)
{
	return gmem_vm_reserve(vm, opts);
}

static int give_to_memfd(const void *opts)
{
	struct gmem_memfd *ret = NULL;
	int r = gmem_memfd_create(vm, opts, &ret);

	gmem_memfd_close(ret);
	return r;
}

static int give_to_map(const void *opts)
{
	struct gmem_map *ret = NULL;
	int r = gmem_map_create(memfd, opts, &ret);

	gmem_map_close(ret);
	return r;
}

static int give_to_slot(const void *opts)
{
	struct gmem_slot *ret = NULL;
	int r = gmem_slot_create(vm, opts, &ret);

	gmem_slot_close(ret);
	return r;
}

static int give_to_many(const void *opts)
{
	struct gmem_slot *ret = NULL;
	int r = gmem_slot_create_many(vm, opts, 1, &ret);

	gmem_slot_close(ret);
	return r;
}

static int give_to_adopt(const void *opts)
{
	struct gmem_slot *ret = NULL;
	int r = gmem_slot_adopt(vm, opts, &ret);

	gmem_slot_close(ret);
	return r;
}

static int give_to_replace(const void *opts)
{
	struct gmem_replace_opts how = {.sz = sizeof(how), .flags = GMEM_REPLACE_NO_VCPUS};

	return gmem_slot_replace(slot, opts, &how);
}

static int give_how_to_replace(const void *how)
{
	struct gmem_slot_opts opts = {
		.sz = sizeof(opts), .gpa = 0x1000, .size = 0x1000, .host = ram};

	return gmem_slot_replace(slot, &opts, how);
}

static int give_to_notifier(const void *opts)
{
	struct gmem_notifier *ret = NULL;
	int r = gmem_vm_add_notifier(vm, opts, &ret);

	gmem_notifier_close(ret);
	return r;
}

static int give_exit_to_resolve(const void *exit)
{
	return gmem_vcpu_resolve(vcpu, exit, NULL);
}

static int give_to_resolve(const void *opts)
{
	struct gmem_exit exit = {.sz = sizeof(exit), .kind = GMEM_EXIT_RETRY};

	return gmem_vcpu_resolve(vcpu, &exit, opts);
}

static int give_to_prefault(const void *opts)
{
	return gmem_vcpu_prefault(vcpu, 0x1000, 0x2000, opts, NULL);
}

static int give_to_vm_prefault(const void *opts)
{
	return gmem_vm_prefault(vm, &vcpu, 1, 0x1000, 0x2000, opts, NULL);
}

static void ignore(void *data, const struct gmem_conversion *conversion)
{
	(void)data;
	(void)conversion;
}

/* Each function with options, and such as it accepts. */
static const struct {
	const char *name;
	int (*give)(const void *opts);
	size_t size;
	bool null; /* is the default */
	union any_opts good;
} takers[] = {
	{"vm_open", give_to_open, sizeof(struct gmem_vm_opts), true, {{0}}},
	{"vm_open_fd", give_to_open_fd, sizeof(struct gmem_vm_opts), true, {{0}}},
	{"vm_reserve",
	 give_to_reserve,
	 sizeof(struct gmem_reserve_opts),
	 false,
	 {.reserve = {.gpa = 0x100000, .size = 0x1000}}},
	{"memfd_create",
	 give_to_memfd,
	 sizeof(struct gmem_memfd_opts),
	 false,
	 {.memfd = {.size = 0x1000}}},
	{"map_create", give_to_map, sizeof(struct gmem_map_opts), true, {.map = {.size = 0x1000}}},
	{"slot_create",
	 give_to_slot,
	 sizeof(struct gmem_slot_opts),
	 false,
	 {.slot = {.gpa = 0x8000, .size = 0x1000, .host = ram}}},
	{"slot_create_many",
	 give_to_many,
	 sizeof(struct gmem_slot_opts),
	 false,
	 {.slot = {.gpa = 0x8000, .size = 0x1000, .host = ram}}},
	{"slot_adopt",
	 give_to_adopt,
	 sizeof(struct gmem_slot_opts),
	 false,
	 {.slot = {.gpa = 0x8000,
		   .size = 0x1000,
		   .host = ram,
		   .flags = GMEM_SLOT_FIXED_ID,
		   .id = 7}}},
	{"slot_replace",
	 give_to_replace,
	 sizeof(struct gmem_slot_opts),
	 false,
	 {.slot = {.gpa = 0x8000, .size = 0x1000, .host = ram}}},
	{"slot_replace (how)",
	 give_how_to_replace,
	 sizeof(struct gmem_replace_opts),
	 false,
	 {.replace = {.flags = GMEM_REPLACE_NO_VCPUS}}},
	{"vm_add_notifier",
	 give_to_notifier,
	 sizeof(struct gmem_notifier_opts),
	 false,
	 {.notifier = {.commit = ignore}}},
	{"vcpu_resolve (exit)",
	 give_exit_to_resolve,
	 sizeof(struct gmem_exit),
	 false,
	 {.exit = {.kind = GMEM_EXIT_RETRY}}},
	{"vcpu_resolve",
	 give_to_resolve,
	 sizeof(struct gmem_resolve_opts),
	 true,
	 {.resolve = {.repeat_limit = 7}}},
	{"vcpu_prefault", give_to_prefault, sizeof(struct gmem_prefault_opts), true, {{0}}},
	{"vm_prefault", give_to_vm_prefault, sizeof(struct gmem_prefault_opts), true, {{0}}},
};

static void check_refused(size_t i, const void *opts, int error, enum gmem_reason reason)
{
	gmem_fake_expect(fake, "%s", "");
	script_check_failure(takers[i].give(opts), error, reason, takers[i].name, __FILE__,
			     __LINE__);
	gmem_fake_met(fake);
}

START_TEST(bad_options)
{
	static const size_t sizes[] = {0, 1, sizeof(size_t) - 1, sizeof(size_t), 4097, SIZE_MAX};
	union any_opts opts = takers[_i].good;
	size_t size = takers[_i].size;

	if (!takers[_i].null)
		check_refused((size_t)_i, NULL, EINVAL, GMEM_REASON_NULL);
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		opts.sz = sizes[i];
		check_refused((size_t)_i, &opts, EINVAL, GMEM_REASON_OPTS_SIZE);
	}
	opts.sz = size + 8;
	opts.bytes[size + 7] = 1;
	check_refused((size_t)_i, &opts, E2BIG, GMEM_REASON_OPTS_TAIL);
	opts.bytes[size + 7] = 0;
	opts.bytes[size] = 0x80;
	check_refused((size_t)_i, &opts, E2BIG, GMEM_REASON_OPTS_TAIL);
	opts.sz = size + 1;
	check_refused((size_t)_i, &opts, E2BIG, GMEM_REASON_OPTS_TAIL);
}
END_TEST

/* A later version's struct whose new members are not used. */
START_TEST(larger_options)
{
	static const size_t more[] = {0, 1, 8, 100};
	union any_opts opts = takers[_i / 4].good;

	opts.sz = takers[_i / 4].size + more[_i % 4];
	ck_works(takers[_i / 4].give(&opts));
}
END_TEST

/* What lies behind sz is not looked at. */
START_TEST(smaller_options)
{
	union any_opts opts = takers[_i].good;
	size_t size = takers[_i].size;

	opts.sz = size;
	memset(opts.bytes + size, 0xff, sizeof(opts.bytes) - size);
	ck_works(takers[_i].give(&opts));
}
END_TEST

/* An earlier version's struct: members that it lacks are 0, whatever lies there. */
START_TEST(earlier_options)
{
	union any_opts opts;
	struct gmem_memfd *new_memfd;

	memset(&opts, 0xff, sizeof(opts));
	opts.sz = offsetof(struct gmem_memfd_opts, fallback);
	opts.memfd.size = 0x1000;
	opts.memfd.flags = 0;
	ck_works(gmem_memfd_create(vm, &opts.memfd, &new_memfd));
	gmem_memfd_close(new_memfd);
	memset(&opts, 0xff, sizeof(opts));
	opts.sz = offsetof(struct gmem_map_opts, prot);
	opts.map.offset = 0;
	opts.map.size = 0x1000;
	ck_works(give_to_map(&opts));
}
END_TEST

/* ---- NULL ---- */

START_TEST(null_arguments)
{
	struct gmem_slot_opts opts = {.sz = sizeof(opts), .size = 0x1000, .host = ram};
	struct gmem_replace_opts how = {.sz = sizeof(how), .flags = GMEM_REPLACE_NO_VCPUS};
	struct gmem_reserve_opts reserve = {.sz = sizeof(reserve), .id_count = 1};
	struct gmem_notifier *notifier = (void *)&opts;
	struct gmem_slot *ret = slot;
	char byte = 0;
	void *addr;

	gmem_fake_expect(fake, "%s", "");
	ck_fails(gmem_vm_open(NULL, NULL), EINVAL, NULL);
	ck_fails(gmem_vm_open_fd(0, NULL, NULL), EINVAL, NULL);
	ck_fails(gmem_vm_reserve(NULL, &reserve), EINVAL, NULL);
	ck_fails(gmem_slot_create(NULL, &opts, &ret), EINVAL, NULL);
	ck_assert_ptr_null(ret);
	ck_fails(gmem_slot_create(vm, &opts, NULL), EINVAL, NULL);
	ck_fails(gmem_slot_create_many(NULL, &opts, 1, &ret), EINVAL, NULL);
	ck_fails(gmem_slot_adopt(NULL, &opts, &ret), EINVAL, NULL);
	ck_fails(gmem_slot_adopt(vm, &opts, NULL), EINVAL, NULL);
	ck_fails(gmem_slot_delete(NULL), EINVAL, NULL);
	ck_fails(gmem_slot_set_flags(NULL, 0), EINVAL, NULL);
	ck_fails(gmem_slot_replace(NULL, &opts, &how), EINVAL, NULL);
	ck_fails(gmem_vm_translate(NULL, 0, 0, 0, NULL, &addr), EINVAL, NULL);
	ck_fails(gmem_vm_translate(vm, 0, 0x1000, 0, NULL, NULL), EINVAL, NULL);
	ck_fails(gmem_vm_read(NULL, 0, 0x1000, &byte, 1), EINVAL, NULL);
	ck_fails(gmem_vm_read(vm, 0, 0x1000, NULL, 1), EINVAL, NULL);
	ck_fails(gmem_vm_write(NULL, 0, 0x1000, &byte, 1), EINVAL, NULL);
	ck_fails(gmem_vm_write(vm, 0, 0x1000, NULL, 1), EINVAL, NULL);
	ck_fails(gmem_vm_discard(NULL, 0x1000, 0x1000), EINVAL, NULL);
	ck_fails(gmem_vm_reclaim(NULL, NULL), EINVAL, NULL);
	ck_fails(gmem_vm_convert(NULL, 0, 0x1000, GMEM_VISIBILITY_SHARED, GMEM_CONVERT_KEEP, NULL),
		 EINVAL, NULL);
	ck_fails(gmem_vm_add_notifier(vm, NULL, NULL), EINVAL, NULL);
	ck_fails(gmem_vm_add_notifier(NULL, NULL, &notifier), EINVAL, NULL);
	ck_assert_ptr_null(notifier);
	gmem_fake_met(fake);
}
END_TEST

START_TEST(null_to_getters)
{
	ck_assert_int_eq(gmem_vm_get_fd(NULL), -EINVAL);
	ck_assert_uint_eq(gmem_slot_get_id(NULL), 0);
	ck_assert_uint_eq(gmem_slot_get_as_id(NULL), 0);
	ck_assert_uint_eq(gmem_slot_get_gpa(NULL), 0);
	ck_assert_uint_eq(gmem_slot_get_size(NULL), 0);
	ck_assert_uint_eq(gmem_slot_get_offset(NULL), 0);
	ck_assert_uint_eq(gmem_slot_get_flags(NULL), 0);
	ck_assert_ptr_null(gmem_slot_get_addr(NULL));
	gmem_vm_close(NULL);
	gmem_memfd_close(NULL);
	gmem_map_close(NULL);
	gmem_slot_close(NULL);
	gmem_vcpu_close(NULL);
	gmem_notifier_close(NULL);
}
END_TEST

/* ---- Child processes ---- */

START_TEST(forked)
{
	struct gmem_slot_opts opts = {.sz = sizeof(opts), .size = 0x1000, .host = ram};
	struct gmem_notifier_opts notifier_opts = {.sz = sizeof(notifier_opts), .commit = ignore};
	struct gmem_replace_opts how = {.sz = sizeof(how)};
	struct gmem_notifier *first, *second;
	struct gmem_slot *other;
	void *addr;

	ck_works(gmem_vm_add_notifier(vm, &notifier_opts, &first));
	ck_works(gmem_vm_add_notifier(vm, &notifier_opts, &second));
	gmem_fake_enter_child(fake);
	gmem_fake_expect(fake, "%s", "");
	ck_fails(gmem_slot_create(vm, &opts, &other), EIO, FORKED);
	ck_fails(gmem_slot_adopt(vm, &opts, &other), EIO, FORKED);
	ck_fails(gmem_slot_create_many(vm, &opts, 1, &other), EIO, FORKED);
	ck_fails(gmem_slot_delete(slot), EIO, FORKED);
	ck_fails(gmem_slot_set_flags(slot, 0), EIO, FORKED);
	ck_fails(gmem_slot_replace(slot, &opts, &how), EIO, FORKED);
	ck_fails(gmem_vm_translate(vm, 0, 0x1000, 0, NULL, &addr), EIO, FORKED);
	ck_fails(gmem_vm_discard(vm, 0x1000, 0x1000), EIO, FORKED);
	ck_fails(give_to_notifier(NULL), EIO, FORKED);
	ck_fails(give_to_prefault(NULL), EIO, FORKED);
	ck_fails(give_to_vm_prefault(NULL), EIO, FORKED);
	ck_assert_uint_eq(gmem_slot_get_gpa(slot), 0x1000);
	/* Whatever order they were added in. */
	gmem_notifier_close(first);
	gmem_notifier_close(second);
	/* Closing touches neither KVM nor addresses that are not the child's. */
	gmem_slot_close(slot);
	gmem_fake_met(fake);
	gmem_fake_leave_child(fake);
	gmem_fake_set_slot(fake, gmem_vm_get_fd(vm), 0, 0, 0, NULL);
	gmem_fake_allow_left(fake, 1, 0);
	slot = NULL;
}
END_TEST

/* ---- Callbacks ---- */

/* Each call that changes the VM; all must be refused inside a callback. */
static void change_all(void)
{
	struct gmem_slot_opts opts = {.sz = sizeof(opts), .size = 0x1000, .host = ram};
	struct gmem_replace_opts how = {.sz = sizeof(how), .flags = GMEM_REPLACE_NO_VCPUS};
	struct gmem_memfd_opts memfd_opts = {.sz = sizeof(memfd_opts), .size = 0x1000};
	struct gmem_reserve_opts reserve = {.sz = sizeof(reserve), .id_count = 1};
	struct gmem_memfd *new_memfd;
	struct gmem_slot *new_slot;
	struct gmem_vcpu *new_vcpu;
	struct gmem_map *new_map;

	ck_fails(gmem_slot_create(vm, &opts, &new_slot), EDEADLK, IN_CALLBACK);
	ck_fails(gmem_slot_create_many(vm, &opts, 1, &new_slot), EDEADLK, IN_CALLBACK);
	ck_fails(gmem_slot_adopt(vm, &opts, &new_slot), EDEADLK, IN_CALLBACK);
	ck_fails(gmem_slot_delete(slot), EDEADLK, IN_CALLBACK);
	ck_fails(gmem_slot_set_flags(slot, 0), EDEADLK, IN_CALLBACK);
	ck_fails(gmem_slot_replace(slot, &opts, &how), EDEADLK, IN_CALLBACK);
	ck_fails(gmem_vm_reserve(vm, &reserve), EDEADLK, IN_CALLBACK);
	ck_fails(gmem_vm_discard(vm, 0x1000, 0x1000), EDEADLK, IN_CALLBACK);
	ck_fails(gmem_vm_reclaim(vm, NULL), EDEADLK, IN_CALLBACK);
	ck_fails(gmem_memfd_create(vm, &memfd_opts, &new_memfd), EDEADLK, IN_CALLBACK);
	ck_fails(gmem_memfd_open_fd(vm, 3, &new_memfd), EDEADLK, IN_CALLBACK);
	ck_fails(gmem_map_create(memfd, NULL, &new_map), EDEADLK, IN_CALLBACK);
	ck_fails(gmem_vm_convert(vm, 0x1000, 0x1000, GMEM_VISIBILITY_SHARED, GMEM_CONVERT_KEEP,
				 NULL),
		 EDEADLK, IN_CALLBACK);
	ck_fails(gmem_vm_adopt_visibility(vm, 0x1000, 0x1000, GMEM_VISIBILITY_SHARED), EDEADLK,
		 IN_CALLBACK);
	ck_fails(gmem_memfd_convert(memfd, 0, 0x1000, GMEM_VISIBILITY_SHARED, NULL), EDEADLK,
		 IN_CALLBACK);
	ck_fails(give_to_notifier(NULL), EDEADLK, IN_CALLBACK);
	ck_fails(gmem_vm_enable_map_gpa_range(vm), EDEADLK, IN_CALLBACK);
	ck_fails(gmem_vcpu_open(vm, vcpu_fd, &kvm_run, &new_vcpu), EDEADLK, IN_CALLBACK);
	ck_fails(give_to_resolve(NULL), EDEADLK, IN_CALLBACK);
	ck_fails(give_to_prefault(NULL), EDEADLK, IN_CALLBACK);
	ck_fails(give_to_vm_prefault(NULL), EDEADLK, IN_CALLBACK);
	/* What changes no VM may be called, and does not call the log again. */
	ck_fails(gmem_memfd_allocate(memfd, 0, 0), EINVAL, RANGE_EMPTY);
}

static int changing_quiesce(void *data)
{
	(void)data;
	change_all();
	return 0;
}

static void changing_resume(void *data)
{
	(void)data;
	change_all();
}

/* Calls that fail inside a callback do not hide why the call outside failed. */
START_TEST(changes_in_quiesce)
{
	struct gmem_slot_opts opts = {.sz = sizeof(opts), .size = 0x1000, .host = ram};
	struct gmem_replace_opts how = {
		.sz = sizeof(how), .quiesce = changing_quiesce, .resume = changing_resume};

	gmem_fake_fail(fake, 1, ENOMEM, "addr=ram");
	ck_fails(gmem_slot_replace(slot, &opts, &how), ENOMEM, NO_MEMORY);
	ck_works(gmem_slot_replace(slot, &opts, &how));
}
END_TEST

static unsigned int depth, log_calls;

static void changing_log(void *data, enum gmem_log_level level, const char *message)
{
	(void)data;
	(void)level;
	(void)message;
	ck_assert_uint_lt(depth, 1);
	depth++;
	log_calls++;
	change_all();
	depth--;
}

/* Nor does the log, which is not called from within itself. */
START_TEST(changes_in_log)
{
	struct gmem_slot_opts opts = {.sz = sizeof(opts), .gpa = 0x1000, .size = 0x1000};
	struct gmem_slot *other;

	opts.host = ram;
	vm->log = changing_log;
	ck_fails(gmem_slot_create(vm, &opts, &other), EEXIST, GPA_OVERLAP);
	ck_assert_uint_eq(log_calls, 1);
	ck_fails(gmem_memfd_allocate(memfd, 0, 0), EINVAL, RANGE_EMPTY);
	ck_assert_uint_eq(log_calls, 2);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("fake-failure");
	TCase *tcase = tcase_create("all");

	tcase_add_checked_fixture(tcase, start, end);
	tcase_add_loop_test(tcase, bad_options, 0, ARRAY_SIZE(takers));
	tcase_add_loop_test(tcase, larger_options, 0, 4 * ARRAY_SIZE(takers));
	tcase_add_loop_test(tcase, smaller_options, 0, ARRAY_SIZE(takers));
	tcase_add_test(tcase, earlier_options);
	tcase_add_test(tcase, null_arguments);
	tcase_add_test(tcase, null_to_getters);
	tcase_add_test(tcase, forked);
	tcase_add_test(tcase, changes_in_quiesce);
	tcase_add_test(tcase, changes_in_log);
	suite_add_tcase(suite, tcase);
	return harness_run(suite);
}
