/* SPDX-License-Identifier: MIT */
/* Opening a VM, its capabilities, and reservations. */
#include "harness.h"
#include "script.h"

#include "uapi/kvm.h"
#include "vm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DELETE "size=0 "

static struct gmem_fake *fake;

static void start(enum gmem_fake_kernel kernel)
{
	fake = script_new(kernel);
}

static void start_modern(void)
{
	start(GMEM_FAKE_LINUX_6_18);
}

static void end(void)
{
	script_end(fake);
}

static int open_vm(const struct gmem_vm_opts *opts, struct gmem_vm **vm)
{
	return gmem_fake_open_vm(fake, opts, vm);
}

static uint64_t get_cap(const struct gmem_vm *vm, enum gmem_cap cap)
{
	uint64_t value;

	ck_works(gmem_vm_get_cap(vm, cap, &value));
	return value;
}

/* ---- The exact calls ---- */

#define CHECK(cap) "ioctl(vm1, CHECK_EXTENSION, " #cap ")\n"
#define REFUSED(gpa)                                                                               \
	"ioctl(vm1, SET_REGION2, slot=0x7ffb flags=0x4 gpa=" gpa                                   \
	" size=0x1000 addr=m4 gmem=gmem1 offset=0)\n"
#define DELETED(gpa) "ioctl(vm1, SET_REGION2, slot=0x7ffb flags=0 gpa=" gpa " size=0 addr=m4)\n"
#define TAKEN(gpa)   REFUSED(gpa) DELETED(gpa)
#define TRY(hint, map)                                                                             \
	"mmap(" hint ", 0x1000, NONE, PRIVATE|ANON, -1, 0)\nmunmap(" map ", 0x1000)\n"

/*
 * What follows the VM's descriptor when a VM of Linux 6.18 is opened: widths 46 and 47. One call,
 * or one step, a line.
 */
/* clang-format off */
static const char probes_of_vm1[] =
	"mmap(0, 0x1000, RW, PRIVATE|ANON, -1, 0)\n"
	"madvise(m1, 0x1000, WIPEONFORK)\n"
	/* What the kernel announces. */
	CHECK(234) CHECK(244) CHECK(231) CHECK(233) CHECK(232) CHECK(236) CHECK(81) CHECK(10)
	CHECK(118) CHECK(235) CHECK(201)
	/* A throw-away guest_memfd, and a host side for the slots. */
	"ioctl(vm1, CREATE_GUEST_MEMFD, size=0x1000 flags=0x3)\n"
	"fcntl(gmem1, SETFD, 0x1)\n"
	"mmap(0, 0x1000, RW, SHARED, gmem1, 0)\n"
	"mmap(0, 0x1000, RW, SHARED, gmem1, 0)\n"
	"mmap(0, 0x2000, RW, PRIVATE|ANON, -1, 0)\n"
	/* A free id. */
	TAKEN("0xfffff000")
	/* The width of guest addresses, between 32 and 64: 48, 40, 44, 46, 47. */
	REFUSED("0xfffffffff000") TAKEN("0xfffffff000") TAKEN("0xffffffff000")
	TAKEN("0x3ffffffff000") REFUSED("0x7ffffffff000")
	/* The width of host addresses: 56, 52, 48, 47. */
	TRY("0x80000000000000", "m5") TRY("0x90000000000000", "m6")
	TRY("0x8000000000000", "m7") TRY("0x9000000000000", "m8")
	TRY("0x800000000000", "m9") TRY("0x900000000000", "m10")
	TRY("0x400000000000", "m11")
	"open(/dev/userfaultfd, RDWR|CLOEXEC)\n"
	"userfaultfd(CLOEXEC)\n"
	"ioctl(uffd1, UFFDIO_API)\n"
	"ioctl(uffd1, UFFDIO_REGISTER, 0x1)\n"
	"ioctl(uffd1, UFFDIO_REGISTER, 0x2)\n"
	"ioctl(uffd1, UFFDIO_REGISTER, 0x4)\n"
	"close(uffd1)\n"
	"mbind(m2, 0x1000, 4, -)\n"
	"get_mempolicy(m3)\n"
	/* A binding that wraps. */
	"ioctl(vm1, SET_REGION2, slot=0x7ffb flags=0x4 gpa=0x3fffffffe000 size=0x2000 addr=m4 "
	"gmem=gmem1 offset=0x7ffffffffffff000)\n"
	DELETED("0x3fffffffe000")
	"munmap(m3, 0x1000)\n"
	"munmap(m2, 0x1000)\n"
	"close(gmem1)\n"
	"munmap(m4, 0x2000)\n";
/* clang-format on */

START_TEST(open_calls)
{
	struct gmem_vm *vm;

	gmem_fake_expect(fake,
			 "open(/dev/kvm, RDWR|CLOEXEC)\n"
			 "ioctl(kvm1, GET_API_VERSION)\n"
			 "ioctl(kvm1, CREATE_VM, 0)\n"
			 "close(kvm1)\n"
			 "%s",
			 probes_of_vm1);
	ck_works(open_vm(NULL, &vm));
	gmem_fake_expect(fake, "munmap(m1, 0x1000)\nclose(vm1)\n");
	gmem_vm_close(vm);
	gmem_fake_met(fake);
}
END_TEST

/* The text of probes_of_vm1 with another descriptor in it. */
static void expect_probes_of(const char *first, char number)
{
	char *text = strdup(probes_of_vm1);

	for (char *p = text; (p = strstr(p, "vm1"));)
		p[2] = number;
	gmem_fake_expect(fake, "%s%s", first, text);
	free(text);
}

START_TEST(open_fd_calls)
{
	int fd = gmem_fake_make_vm(fake);
	struct gmem_vm *vm;

	expect_probes_of("fcntl(vm1, DUPFD_CLOEXEC, 0)\n"
			 "ioctl(vm2, CHECK_EXTENSION, 231)\n"
			 "ioctl(vm2, GET_API_VERSION)\n",
			 '2');
	ck_works(gmem_fake_open_vm_fd(fake, fd, NULL, &vm));
	ck_assert_int_ne(gmem_vm_get_fd(vm), fd);
	gmem_fake_expect(fake, "munmap(m1, 0x1000)\nclose(vm2)\n");
	gmem_vm_close(vm);
	gmem_fake_met(fake);
	gmem_fake_close_fd(fake, fd);
}
END_TEST

START_TEST(open_with_options)
{
	struct gmem_vm_opts opts = {.sz = sizeof(opts), .device = "/other", .type = 5};
	struct gmem_vm *vm;

	gmem_fake_expect(fake, "open(/other, RDWR|CLOEXEC) = ENOENT\n");
	ck_fails(open_vm(&opts, &vm), ENOENT, KVM_NO_DEVICE);
	opts.device = NULL;
	gmem_fake_expect(fake, "open(/dev/kvm, RDWR|CLOEXEC)\n"
			       "ioctl(kvm1, GET_API_VERSION)\n"
			       "ioctl(kvm1, CREATE_VM, 0x5) = EINTR\n"
			       "ioctl(kvm1, CREATE_VM, 0x5) = EINVAL\n"
			       "close(kvm1)\n");
	ck_fails(open_vm(&opts, &vm), EINVAL, VM_TYPE);
	ck_assert_ptr_null(vm);
}
END_TEST

/* ---- Failures ---- */

static const struct {
	const char *call;
	int answer; /* of the first such call */
	int error;
	enum gmem_reason reason;
} failures[] = {
	{"open(", -ENOENT, ENOENT, GMEM_REASON_KVM_NO_DEVICE},
	{"open(", -EACCES, EACCES, GMEM_REASON_KVM_NO_PERMISSION},
	{"open(", -EPERM, EPERM, GMEM_REASON_KVM_NO_PERMISSION},
	{"open(", -ENODEV, ENODEV, GMEM_REASON_KVM_NO_HARDWARE},
	{"open(", -ENXIO, ENXIO, GMEM_REASON_KVM_NO_HARDWARE},
	{"open(", -EMFILE, EMFILE, GMEM_REASON_FD_LIMIT},
	{"open(", -ENFILE, ENFILE, GMEM_REASON_FD_LIMIT},
	{"open(", -ENOMEM, ENOMEM, GMEM_REASON_NO_MEMORY},
	{"open(", -EIO, EIO, GMEM_REASON_KERNEL_REFUSED},
	{"GET_API_VERSION", -ENOTTY, ENOTTY, GMEM_REASON_KVM_NOT_KVM},
	{"GET_API_VERSION", -EINVAL, ENOTTY, GMEM_REASON_KVM_NOT_KVM},
	{"GET_API_VERSION", 11, ENOTTY, GMEM_REASON_KVM_NOT_KVM},
	{"GET_API_VERSION", 0, ENOTTY, GMEM_REASON_KVM_NOT_KVM},
	{"GET_API_VERSION", -EPERM, EPERM, GMEM_REASON_KVM_BLOCKED},
	{"GET_API_VERSION", -ENOSYS, ENOSYS, GMEM_REASON_KVM_BLOCKED},
	{"CREATE_VM", -EINVAL, EINVAL, GMEM_REASON_VM_TYPE},
	{"CREATE_VM", -EPERM, EPERM, GMEM_REASON_KVM_BLOCKED},
	{"CREATE_VM", -ENOMEM, ENOMEM, GMEM_REASON_NO_MEMORY},
	{"CREATE_VM", -EMFILE, EMFILE, GMEM_REASON_FD_LIMIT},
	{"CREATE_VM", -EBUSY, EBUSY, GMEM_REASON_KERNEL_REFUSED},
	{"PRIVATE|ANON, -1", -ENOMEM, ENOMEM, GMEM_REASON_NO_MEMORY},
	{"WIPEONFORK", -EINVAL, EINVAL, GMEM_REASON_KERNEL_REFUSED},
	{"CHECK_EXTENSION, 231", 0, EOPNOTSUPP, GMEM_REASON_KERNEL_TOO_OLD},
	{"CHECK_EXTENSION, 231", -EPERM, EPERM, GMEM_REASON_KVM_BLOCKED},
};

START_TEST(open_failure)
{
	struct gmem_vm *vm = (void *)&vm;

	gmem_fake_answer(fake, 1, failures[_i].answer, failures[_i].call);
	script_check_failure(open_vm(NULL, &vm), failures[_i].error, failures[_i].reason,
			     failures[_i].call, __FILE__, __LINE__);
	ck_assert_ptr_null(vm);
}
END_TEST

static const struct {
	const char *call;
	int answer;
	int error;
	enum gmem_reason reason;
} fd_failures[] = {
	{"DUPFD", -EBADF, EBADF, GMEM_REASON_FD_INVALID},
	{"DUPFD", -EMFILE, EMFILE, GMEM_REASON_FD_LIMIT},
	{"DUPFD", -EINVAL, EINVAL, GMEM_REASON_KERNEL_REFUSED},
	{"PRIVATE|ANON, -1", -ENOMEM, ENOMEM, GMEM_REASON_NO_MEMORY},
	{"CHECK_EXTENSION", -EIO, EIO, GMEM_REASON_FORKED},
	{"CHECK_EXTENSION", -ENOTTY, ENOTTY, GMEM_REASON_FD_NOT_VM},
	{"CHECK_EXTENSION", -EINVAL, ENOTTY, GMEM_REASON_FD_NOT_VM},
	{"CHECK_EXTENSION", -EPERM, EPERM, GMEM_REASON_KVM_BLOCKED},
	{"CHECK_EXTENSION", -ENOSYS, ENOSYS, GMEM_REASON_KVM_BLOCKED},
	{"GET_API_VERSION", 12, ENOTTY, GMEM_REASON_FD_NOT_VM},
};

START_TEST(open_fd_failure)
{
	struct gmem_vm *vm = (void *)&vm;
	int fd = gmem_fake_make_vm(fake);

	gmem_fake_answer(fake, 1, fd_failures[_i].answer, fd_failures[_i].call);
	script_check_failure(gmem_fake_open_vm_fd(fake, fd, NULL, &vm), fd_failures[_i].error,
			     fd_failures[_i].reason, fd_failures[_i].call, __FILE__, __LINE__);
	ck_assert_ptr_null(vm);
	gmem_fake_close_fd(fake, fd);
}
END_TEST

START_TEST(open_fd_of_an_old_kernel)
{
	int fd = gmem_fake_make_vm(fake);
	struct gmem_vm *vm;

	fake->caps[KVM_CAP_USER_MEMORY2] = 0;
	ck_fails(gmem_fake_open_vm_fd(fake, fd, NULL, &vm), EOPNOTSUPP, KERNEL_TOO_OLD);
	gmem_fake_close_fd(fake, fd);
}
END_TEST

START_TEST(open_fd_of_other_things)
{
	int device = fake->sys.open(&fake->sys, "/dev/kvm", 0);
	int file = gmem_fake_make_file(fake, 0x1000, 0, true);
	struct gmem_vm *vm;

	ck_fails(gmem_fake_open_vm_fd(fake, -1, NULL, &vm), EBADF, FD_INVALID);
	ck_fails(gmem_fake_open_vm_fd(fake, device, NULL, &vm), ENOTTY, FD_NOT_VM);
	ck_fails(gmem_fake_open_vm_fd(fake, file, NULL, &vm), ENOTTY, FD_NOT_VM);
	gmem_fake_close_fd(fake, device);
	gmem_fake_close_fd(fake, file);
}
END_TEST

/* Refused before any call. */
START_TEST(open_refused)
{
	struct gmem_vm_opts opts = {.sz = sizeof(opts)};
	struct gmem_vm *vm;

	gmem_fake_expect(fake, "%s", "");
	ck_fails(open_vm(&opts, NULL), EINVAL, NULL);
	ck_fails(gmem_fake_open_vm_fd(fake, 3, &opts, NULL), EINVAL, NULL);
	opts.flags = 2;
	ck_fails(open_vm(&opts, &vm), EINVAL, FLAGS_UNKNOWN);
	ck_fails(gmem_fake_open_vm_fd(fake, 3, &opts, &vm), EINVAL, FLAGS_UNKNOWN);
	opts = (struct gmem_vm_opts){.sz = sizeof(opts), .device = "/dev/kvm"};
	ck_fails(gmem_fake_open_vm_fd(fake, 3, &opts, &vm), EINVAL, CONFLICT);
}
END_TEST

static void remember(void *data, enum gmem_log_level level, const char *message)
{
	char *text = data;

	snprintf(text, 128, "%d %s", (int)level, message);
}

static void open_again(void *data, enum gmem_log_level level, const char *message)
{
	struct gmem_vm_opts opts = {
		.sz = sizeof(opts), .flags = 2, .log = open_again, .log_data = data};
	struct gmem_vm *vm;

	(void)level;
	(void)message;
	ck_assert_int_eq((*(int *)data)++, 0);
	ck_assert_int_lt(open_vm(&opts, &vm), 0);
}

/* Opening is no change of a VM, so that a callback may do it: it is not called for that again. */
START_TEST(open_from_the_log)
{
	int calls = 0;
	struct gmem_vm_opts opts = {
		.sz = sizeof(opts), .device = "/nowhere", .log = open_again, .log_data = &calls};
	struct gmem_vm *vm;

	ck_fails(open_vm(&opts, &vm), ENOENT, KVM_NO_DEVICE);
	ck_assert_int_eq(calls, 1);
}
END_TEST

/* "GMEM_LOG_ERROR: a call failed", whichever check it was that failed. */
START_TEST(open_failures_are_logged)
{
	static const struct gmem_vm_opts wrong[] = {
		{.device = "/nowhere"},
		{.flags = 2},
		{.id_first = 40000},
	};
	char text[128] = "";
	struct gmem_vm_opts opts = wrong[_i];
	struct gmem_vm *vm;

	opts.sz = sizeof(opts);
	opts.log = remember;
	opts.log_data = text;
	ck_assert_int_lt(open_vm(&opts, &vm), 0);
	ck_assert_str_eq(text + 2, gmem_error_get_message());
	ck_assert_int_eq(text[0], '1');
}
END_TEST

static const struct {
	uint32_t first, count;
	bool good;
} windows[] = {
	{0, 0, true},		{0, 32764, true},	{32763, 0, true},
	{32763, 1, true},	{100, 32664, true},	{0, 32765, false},
	{32764, 0, false},	{32764, 1, false},	{32763, 2, false},
	{UINT32_MAX, 0, false}, {1, UINT32_MAX, false}, {UINT32_MAX, UINT32_MAX, false},
};

START_TEST(granted_window)
{
	struct gmem_vm_opts opts = {
		.sz = sizeof(opts), .id_first = windows[_i].first, .id_count = windows[_i].count};
	struct gmem_vm *vm;

	if (windows[_i].good)
		ck_works(open_vm(&opts, &vm));
	else
		ck_fails(open_vm(&opts, &vm), ERANGE, ID_BEYOND_LIMIT);
	gmem_vm_close(vm);
}
END_TEST

/* ---- Capabilities ---- */

static const struct {
	enum gmem_cap cap;
	uint64_t value[4]; /* of each enum gmem_fake_kernel in turn; 0: not supported */
} expected_caps[] = {
	{GMEM_CAP_GUEST_MEMFD, {0, 1, 1, 1}},
	{GMEM_CAP_GUEST_MEMFD_FLAGS, {0, 3, 3, 1}},
	{GMEM_CAP_USER_MEMORY2, {1, 1, 1, 1}},
	{GMEM_CAP_MEMORY_ATTRIBUTES, {0, 0, 0, 8}},
	{GMEM_CAP_MEMORY_FAULT_INFO, {1, 1, 1, 1}},
	{GMEM_CAP_PRE_FAULT_MEMORY, {1, 1, 1, 1}},
	{GMEM_CAP_READONLY_MEM, {1, 1, 1, 0}},
	{GMEM_CAP_NR_MEMSLOTS, {32764, 32764, 32764, 32764}},
	{GMEM_CAP_NR_ADDRESS_SPACES, {2, 2, 2, 1}},
	{GMEM_CAP_VM_TYPES, {3, 3, 3, 3}},
	{GMEM_CAP_GPA_BITS, {46, 46, 46, 46}},
	{GMEM_CAP_HVA_BITS, {47, 47, 47, 47}},
	{GMEM_CAP_USERFAULTFD, {0, 0, 0, 0}},
	{GMEM_CAP_NUMA, {0, 0, 1, 1}},
	{GMEM_CAP_BIND_CHECKED, {0, 0, 1, 1}},
	{GMEM_CAP_EXIT_HYPERCALL, {0x1000, 0x1000, 0x1000, 0x1000}},
	{GMEM_CAP_CONVERT_IN_PLACE, {0, 0, 0, 0}},
};

START_TEST(caps_of_kernels)
{
	enum gmem_fake_kernel kernel = (enum gmem_fake_kernel)(_i + 1);
	struct gmem_vm *vm;

	start(kernel);
	vm = script_vm(fake, 0);
	for (size_t i = 0; i < ARRAY_SIZE(expected_caps); i++) {
		uint64_t expected = expected_caps[i].value[_i], value = 1;
		enum gmem_cap cap = expected_caps[i].cap;

		if (expected)
			ck_works(gmem_vm_get_cap(vm, cap, &value));
		else
			ck_fails(gmem_vm_get_cap(vm, cap, &value), EOPNOTSUPP, CAP_UNSUPPORTED);
		ck_assert_msg(value == expected, "%s: %#lx", gmem_cap_to_string(cap),
			      (unsigned long)value);
	}
	gmem_fake_expect(fake, "%s", "");
	get_cap(vm, GMEM_CAP_GPA_BITS);
	gmem_fake_met(fake);
	gmem_vm_close(vm);
	end();
}
END_TEST

START_TEST(cap_arguments)
{
	struct gmem_vm *vm = script_vm(fake, 0);
	uint64_t value = 1;

	ck_fails(gmem_vm_get_cap(vm, (enum gmem_cap)0, &value), EINVAL, ARGUMENT);
	ck_assert_uint_eq(value, 0);
	ck_fails(gmem_vm_get_cap(vm, (enum gmem_cap)18, &value), EINVAL, ARGUMENT);
	ck_fails(gmem_vm_get_cap(vm, (enum gmem_cap) - 1, &value), EINVAL, ARGUMENT);
	ck_fails(gmem_vm_get_cap(vm, GMEM_CAP_NUMA, NULL), EINVAL, NULL);
	ck_fails(gmem_vm_get_cap(NULL, GMEM_CAP_NUMA, &value), EINVAL, NULL);
	ck_assert_str_eq(gmem_cap_to_string((enum gmem_cap)0), "UNKNOWN");
	ck_assert_str_eq(gmem_cap_to_string((enum gmem_cap)18), "UNKNOWN");
	ck_assert_str_eq(gmem_cap_to_string(GMEM_CAP_GUEST_MEMFD), "GUEST_MEMFD");
	ck_assert_str_eq(gmem_cap_to_string(GMEM_CAP_BIND_CHECKED), "BIND_CHECKED");
	gmem_vm_close(vm);
}
END_TEST

/* The third state: what could not be found out is neither there nor lacking. */
static const struct {
	const char *call;
	unsigned int n;
	int answer;
	enum gmem_cap cap;
	int error; /* 0: supported */
} probe_failures[] = {
	{"CHECK_EXTENSION, 234", 1, -EPERM, GMEM_CAP_GUEST_MEMFD, EPERM},
	{"CHECK_EXTENSION, 233", 1, -EIO, GMEM_CAP_MEMORY_ATTRIBUTES, EIO},
	{"CHECK_EXTENSION, 201", 1, -EIO, GMEM_CAP_EXIT_HYPERCALL, EIO},
	{"CHECK_EXTENSION, 10", 0, 0x10001, GMEM_CAP_NR_MEMSLOTS, ERANGE},
	{"CHECK_EXTENSION, 10", 0, INT32_MAX, GMEM_CAP_NR_MEMSLOTS, ERANGE},
	{"CHECK_EXTENSION, 10", 0, -EPERM, GMEM_CAP_NR_MEMSLOTS, EPERM},
	{"CHECK_EXTENSION, 118", 0, 65, GMEM_CAP_NR_ADDRESS_SPACES, ERANGE},
	{"CHECK_EXTENSION, 118", 0, INT32_MAX, GMEM_CAP_NR_ADDRESS_SPACES, ERANGE},
	{"CHECK_EXTENSION, 118", 0, -EPERM, GMEM_CAP_NR_ADDRESS_SPACES, EPERM},
	{"size=0x1000 addr", 1, -ENOMEM, GMEM_CAP_GPA_BITS, ENOMEM},
	{"size=0x1000 addr", 2, -ENOMEM, GMEM_CAP_GPA_BITS, ENOMEM},
	{"NONE, PRIVATE", 0, -ENOMEM, GMEM_CAP_HVA_BITS, ENOMEM},
	{"userfaultfd(", 1, -EPERM, GMEM_CAP_USERFAULTFD, EPERM},
	{"UFFDIO_API", 1, -EINVAL, GMEM_CAP_USERFAULTFD, EINVAL},
	{"mbind", 1, -EPERM, GMEM_CAP_NUMA, EPERM},
	{"get_mempolicy", 1, -EPERM, GMEM_CAP_NUMA, EPERM},
	{"mbind", 1, -ENOSYS, GMEM_CAP_NUMA, EOPNOTSUPP},
	{"RW, SHARED, gmem1", 1, -ENOMEM, GMEM_CAP_NUMA, ENOMEM},
	{"RW, SHARED, gmem1", 2, -ENOMEM, GMEM_CAP_NUMA, ENOMEM},
	{"RW, SHARED, gmem1", 1, -ENOMEM, GMEM_CAP_USERFAULTFD, ENOMEM},
	{"CREATE_GUEST_MEMFD", 1, -EMFILE, GMEM_CAP_BIND_CHECKED, EMFILE},
	{"CREATE_GUEST_MEMFD", 1, -EMFILE, GMEM_CAP_NUMA, EMFILE},
	{"CREATE_GUEST_MEMFD", 1, -EMFILE, GMEM_CAP_USERFAULTFD, EMFILE},
	{"size=0x2000", 1, -ENOMEM, GMEM_CAP_BIND_CHECKED, ENOMEM},
	{"PRIVATE|ANON, -1", 2, -ENOMEM, GMEM_CAP_GPA_BITS, ENOMEM},
	{"PRIVATE|ANON, -1", 2, -ENOMEM, GMEM_CAP_BIND_CHECKED, ENOMEM},
};

START_TEST(cap_probe_failure)
{
	int error = probe_failures[_i].error;
	uint64_t value = 1;
	struct gmem_vm *vm;

	start(GMEM_FAKE_LINUX_7_3);
	gmem_fake_answer(fake, probe_failures[_i].n, probe_failures[_i].answer,
			 probe_failures[_i].call);
	ck_works(open_vm(NULL, &vm));
	gmem_fake_recover(fake);
	script_check_failure(gmem_vm_get_cap(vm, probe_failures[_i].cap, &value), error,
			     error == EOPNOTSUPP ? GMEM_REASON_CAP_UNSUPPORTED
						 : GMEM_REASON_CAP_PROBE_FAILED,
			     probe_failures[_i].call, __FILE__, __LINE__);
	ck_assert_uint_eq(value, 0);
	ck_assert_uint_eq(gmem_fake_tally(fake, GMEM_FAKE_SLOTS), 0);
	gmem_vm_close(vm);
	end();
}
END_TEST

/* What the kernel announces, and how many slots there are for the library then. */
static const struct {
	int cap, answer;
	enum gmem_cap asked;
	uint64_t value;
} odd_answers[] = {
	{KVM_CAP_NR_MEMSLOTS, 0, GMEM_CAP_NR_MEMSLOTS, 32},
	{KVM_CAP_NR_MEMSLOTS, 1, GMEM_CAP_NR_MEMSLOTS, 1},
	{KVM_CAP_NR_MEMSLOTS, 0x10000, GMEM_CAP_NR_MEMSLOTS, 0x10000},
	{KVM_CAP_MULTI_ADDRESS_SPACE, 0, GMEM_CAP_NR_ADDRESS_SPACES, 1},
	{KVM_CAP_MULTI_ADDRESS_SPACE, 64, GMEM_CAP_NR_ADDRESS_SPACES, 64},
};

START_TEST(cap_odd_answer)
{
	struct gmem_vm *vm;

	fake->caps[odd_answers[_i].cap] = odd_answers[_i].answer;
	ck_works(open_vm(NULL, &vm));
	ck_assert_uint_eq(get_cap(vm, odd_answers[_i].asked), odd_answers[_i].value);
	gmem_vm_close(vm);
}
END_TEST

/* Where the kernel's numbers are absurd, the documented 32 slots and one space are used. */
START_TEST(cap_absurd_limits)
{
	static const int absurd[] = {-EPERM, INT32_MIN, 0x10001, INT32_MAX};
	struct gmem_vm_opts opts = {.sz = sizeof(opts), .id_first = 32};
	struct gmem_reserve_opts reserve = {.sz = sizeof(reserve), .id_count = 1, .as_id = 1};
	struct gmem_vm *vm;

	fake->caps[KVM_CAP_NR_MEMSLOTS] = absurd[_i];
	fake->caps[KVM_CAP_MULTI_ADDRESS_SPACE] = absurd[_i];
	ck_fails(open_vm(&opts, &vm), ERANGE, ID_BEYOND_LIMIT);
	opts.id_first = 31;
	ck_works(open_vm(&opts, &vm));
	ck_fails(gmem_vm_reserve(vm, &reserve), ERANGE, AS_BEYOND_LIMIT);
	gmem_vm_close(vm);
}
END_TEST

START_TEST(gpa_width)
{
	struct gmem_vm *vm;

	fake->gpa_bits = (unsigned int)_i;
	fake->gpa_error = _i % 2 ? EINVAL : EFAULT;
	vm = script_vm(fake, 0);
	ck_assert_uint_eq(get_cap(vm, GMEM_CAP_GPA_BITS), (uint64_t)_i);
	ck_assert_uint_eq(gmem_fake_tally(fake, GMEM_FAKE_SLOTS), 0);
	gmem_vm_close(vm);
}
END_TEST

START_TEST(gpa_width_of_large_pages)
{
	struct gmem_vm *vm;

	fake->page_size = _i ? 0x10000 : 0x4000;
	vm = script_vm(fake, 0);
	ck_assert_uint_eq(get_cap(vm, GMEM_CAP_GPA_BITS), 46);
	gmem_vm_close(vm);
}
END_TEST

/* Where the VMM has memory at a page that is tried, that page exists. */
START_TEST(gpa_width_beside_slots)
{
	int fd = gmem_fake_make_vm(fake);
	static char page[0x1000];
	struct gmem_vm *vm;

	gmem_fake_name(fake, page, sizeof(page), "page");
	for (uint32_t bits = 32; bits <= 46; bits++)
		ck_assert_int_eq(gmem_fake_set_slot(fake, fd, bits, (UINT64_C(1) << bits) - 0x1000,
						    0x1000, NULL),
				 0);
	ck_works(gmem_fake_open_vm_fd(fake, fd, NULL, &vm));
	ck_assert_uint_eq(get_cap(vm, GMEM_CAP_GPA_BITS), 46);
	gmem_vm_close(vm);
	ck_assert_uint_eq(gmem_fake_tally(fake, GMEM_FAKE_SLOTS), 15);
	gmem_fake_close_fd(fake, fd);
}
END_TEST

/* A VMM with firmware right below 4 GiB, as most have it. */
START_TEST(bind_check_beside_firmware)
{
	int fd = gmem_fake_make_vm(fake);
	struct gmem_vm *vm;

	ck_assert_int_eq(gmem_fake_set_slot(fake, fd, 1, 0xffff0000, 0x10000, NULL), 0);
	ck_works(gmem_fake_open_vm_fd(fake, fd, NULL, &vm));
	ck_assert_uint_eq(get_cap(vm, GMEM_CAP_GPA_BITS), 46);
	ck_assert_int_eq(vm->caps.cap[GMEM_CAP_BIND_CHECKED].error, 0);
	gmem_vm_close(vm);
	gmem_fake_close_fd(fake, fd);
}
END_TEST

/* Slots of the VMM on the highest ids are passed over, and left as they are. */
START_TEST(busy_ids)
{
	struct gmem_vm_opts opts = {.sz = sizeof(opts), .id_first = 100, .id_count = 20};
	int fd = gmem_fake_make_vm(fake);
	struct gmem_vm *vm;
	uint64_t value;

	for (uint32_t i = 0; i < (uint32_t)_i; i++)
		ck_assert_int_eq(
			gmem_fake_set_slot(fake, fd, 119 - i, UINT64_C(0x1000) * i, 0x1000, NULL),
			0);
	ck_works(gmem_fake_open_vm_fd(fake, fd, &opts, &vm));
	if (_i < 8)
		ck_assert_uint_eq(get_cap(vm, GMEM_CAP_GPA_BITS), 46);
	else
		ck_fails(gmem_vm_get_cap(vm, GMEM_CAP_GPA_BITS, &value), EBUSY, CAP_PROBE_FAILED);
	ck_assert_uint_eq(gmem_fake_tally(fake, GMEM_FAKE_SLOTS), (unsigned int)_i);
	gmem_vm_close(vm);
	gmem_fake_close_fd(fake, fd);
}
END_TEST

/* Without guest_memfd a slot that is tried is read-only, so that it is unlike any of the VMM's. */
START_TEST(probe_without_guest_memfd)
{
	int fd = gmem_fake_make_vm(fake);
	struct gmem_vm *vm;

	fake->caps[KVM_CAP_GUEST_MEMFD] = 0;
	ck_works(gmem_fake_open_vm_fd(fake, fd, NULL, &vm));
	ck_assert_uint_eq(gmem_fake_count(fake, "flags=0x2"), 6);
	ck_assert_uint_eq(gmem_fake_count(fake, DELETE), 4);
	ck_assert_uint_eq(gmem_fake_count(fake, "SET_REGION2"), 10);
	gmem_vm_close(vm);
	gmem_fake_close_fd(fake, fd);
}
END_TEST

/* Only granted ids are tried, also where fewer than eight are granted. */
START_TEST(probe_within_grant)
{
	struct gmem_vm_opts opts = {.sz = sizeof(opts), .id_first = 5, .id_count = 2};
	struct gmem_vm *vm;

	gmem_fake_fail(fake, 0, EINVAL, "SET_REGION2");
	ck_works(open_vm(&opts, &vm));
	ck_assert_uint_eq(gmem_fake_count(fake, "SET_REGION2"), 2);
	ck_assert_uint_eq(gmem_fake_count(fake, "slot=0x6 "), 1);
	ck_assert_uint_eq(gmem_fake_count(fake, "slot=0x5 "), 1);
	gmem_vm_close(vm);
}
END_TEST

START_TEST(userfaultfd_modes)
{
	struct gmem_vm *vm;

	fake->uffd_modes = (uint64_t)_i;
	fake->uffd_device = _i & 1;
	vm = script_vm(fake, 0);
	ck_assert_uint_eq(vm->caps.cap[GMEM_CAP_USERFAULTFD].value, (uint64_t)_i);
	gmem_vm_close(vm);
}
END_TEST

START_TEST(hva_width)
{
	static const unsigned int widths[] = {56, 52, 48, 47, 42, 39, 36};
	struct gmem_vm *vm;

	fake->hva_bits = widths[_i];
	vm = script_vm(fake, 0);
	ck_assert_uint_eq(get_cap(vm, GMEM_CAP_HVA_BITS), widths[_i]);
	gmem_vm_close(vm);
}
END_TEST

/* A throw-away slot that KVM does not delete still has its page: that must not be unmapped. */
START_TEST(throw_away_slot_stays)
{
	int fd = gmem_fake_make_vm(fake);
	struct gmem_vm *vm;
	uint64_t value;

	gmem_fake_allow_left(fake, 1, 1);
	/* EINVAL, too, says nothing of a guest address here. */
	gmem_fake_fail(fake, (unsigned int)(_i + 1) / 2, _i % 2 ? ENOMEM : EINVAL, DELETE);
	ck_works(gmem_fake_open_vm_fd(fake, fd, NULL, &vm));
	if (_i < 9) /* later there is nothing left to try but the bind */
		ck_fails(gmem_vm_get_cap(vm, GMEM_CAP_GPA_BITS, &value), EBUSY, CAP_PROBE_FAILED);
	ck_fails(gmem_vm_get_cap(vm, GMEM_CAP_BIND_CHECKED, &value), EBUSY, CAP_PROBE_FAILED);
	/* Nothing was to be tried for this one. */
	ck_fails(gmem_vm_get_cap(vm, GMEM_CAP_CONVERT_IN_PLACE, &value), EOPNOTSUPP,
		 CAP_UNSUPPORTED);
	gmem_vm_close(vm);
	ck_assert_uint_eq(gmem_fake_tally(fake, GMEM_FAKE_SLOTS), 1);
	gmem_fake_allow_left(fake, 1, 0);
	gmem_fake_close_fd(fake, fd);
}
END_TEST

/* A signal is no answer of KVM's: each throw-away slot is set and deleted all the same. */
START_TEST(signals_while_probing)
{
	struct gmem_vm *vm;

	for (unsigned int n = 1; n < 50; n += 2)
		gmem_fake_fail(fake, n, EINTR, "SET_REGION2");
	ck_works(open_vm(NULL, &vm));
	ck_assert_uint_gt(gmem_fake_recover(fake), 10);
	ck_assert_uint_eq(get_cap(vm, GMEM_CAP_GPA_BITS), 46);
	ck_assert_int_eq(vm->caps.cap[GMEM_CAP_BIND_CHECKED].error, 0);
	ck_assert_uint_eq(gmem_fake_tally(fake, GMEM_FAKE_SLOTS), 0);
	gmem_vm_close(vm);
}
END_TEST

/* ---- Reservations ---- */

/* Slots and reservations of each test: ids 3 (a slot), 8 to 15; gpa 0x10000, 0x40000 (a slot). */
static const struct {
	struct gmem_reserve_opts opts;
	int error;
	enum gmem_reason reason;
} reservations[] = {
	{{.id_first = 4, .id_count = 4}, 0, 0},
	{{.id_first = 16, .id_count = 32748}, 0, 0},
	{{.gpa = 0x20000, .size = 0x20000}, 0, 0},
	{{.gpa = 0x11000, .size = 0x1000, .id_first = 4, .id_count = 1}, 0, 0},
	{{.gpa = (UINT64_C(1) << 46) - 0x1000, .size = 0x1000}, 0, 0},
	{{.gpa = 0x10000, .size = 0x1000, .as_id = 1, .id_first = 8, .id_count = 1}, 0, 0},
	{{0}, EINVAL, GMEM_REASON_CONFLICT},
	{{.id_first = 4, .gpa = 0x1000}, EINVAL, GMEM_REASON_CONFLICT},
	{{.id_first = 4, .gpa = 0x20000, .size = 0x1000}, EINVAL, GMEM_REASON_CONFLICT},
	{{.id_first = 4, .id_count = 1, .gpa = 0x20000}, EINVAL, GMEM_REASON_CONFLICT},
	{{.id_count = 1, .pad = 1}, EINVAL, GMEM_REASON_CONFLICT},
	{{.id_count = 1, .as_id = 2}, ERANGE, GMEM_REASON_AS_BEYOND_LIMIT},
	{{.id_count = 1, .as_id = UINT32_MAX}, ERANGE, GMEM_REASON_AS_BEYOND_LIMIT},
	{{.gpa = 0x800, .size = 0x1000}, EINVAL, GMEM_REASON_RANGE_UNALIGNED},
	{{.gpa = 0x1000, .size = 1}, EINVAL, GMEM_REASON_RANGE_UNALIGNED},
	{{.gpa = UINT64_MAX - 0xfff, .size = 0x1000}, EOVERFLOW, GMEM_REASON_RANGE_WRAPS},
	{{.gpa = 0x1000, .size = UINT64_MAX - 0xfff}, EOVERFLOW, GMEM_REASON_RANGE_WRAPS},
	{{.gpa = UINT64_C(1) << 46, .size = 0x1000}, ERANGE, GMEM_REASON_GPA_BEYOND_WIDTH},
	{{.gpa = (UINT64_C(1) << 46) - 0x1000, .size = 0x2000},
	 ERANGE,
	 GMEM_REASON_GPA_BEYOND_WIDTH},
	{{.gpa = 0x3f000, .size = 0x2000}, EEXIST, GMEM_REASON_GPA_OVERLAP},
	{{.gpa = 0x40000, .size = 0x1000}, EEXIST, GMEM_REASON_GPA_OVERLAP},
	{{.gpa = 0x10000, .size = 0x1000}, EEXIST, GMEM_REASON_GPA_RESERVED},
	{{.gpa = 0xf000, .size = 0x3000}, EEXIST, GMEM_REASON_GPA_RESERVED},
	{{.id_first = 32764, .id_count = 1}, ERANGE, GMEM_REASON_ID_BEYOND_LIMIT},
	{{.id_first = 16, .id_count = 32749}, ERANGE, GMEM_REASON_ID_BEYOND_LIMIT},
	{{.id_first = 1, .id_count = UINT32_MAX}, ERANGE, GMEM_REASON_ID_BEYOND_LIMIT},
	{{.id_first = 3, .id_count = 1}, EEXIST, GMEM_REASON_ID_TAKEN},
	{{.id_first = 0, .id_count = 9}, EEXIST, GMEM_REASON_ID_TAKEN},
	{{.id_first = 15, .id_count = 2}, EEXIST, GMEM_REASON_ID_TAKEN},
	/* A range that is good changes nothing where the ids are not. */
	{{.gpa = 0x20000, .size = 0x1000, .id_first = 8, .id_count = 1},
	 EEXIST,
	 GMEM_REASON_ID_TAKEN},
};

START_TEST(reserve)
{
	struct gmem_reserve_opts before = {
		.sz = sizeof(before), .id_first = 8, .id_count = 8, .gpa = 0x10000, .size = 0x1000};
	struct gmem_reserve_opts again = {.sz = sizeof(again), .gpa = 0x20000, .size = 0x1000};
	struct gmem_reserve_opts opts = reservations[_i].opts;
	struct gmem_vm *vm = script_vm(fake, 0);
	static char page[0x1000] __attribute__((aligned(0x1000)));
	struct gmem_slot_opts own = {.sz = sizeof(own),
				     .gpa = 0x40000,
				     .size = 0x1000,
				     .host = page,
				     .id = 3,
				     .flags = GMEM_SLOT_FIXED_ID};
	struct gmem_slot *slot;

	opts.sz = sizeof(opts);
	ck_works(gmem_slot_create(vm, &own, &slot));
	gmem_fake_expect(fake, "%s", "");
	ck_works(gmem_vm_reserve(vm, &before));
	if (reservations[_i].error) {
		script_check_failure(gmem_vm_reserve(vm, &opts), reservations[_i].error,
				     reservations[_i].reason, "reserve", __FILE__, __LINE__);
		ck_works(gmem_vm_reserve(vm, &again));
	} else {
		ck_works(gmem_vm_reserve(vm, &opts));
		ck_assert_int_lt(gmem_vm_reserve(vm, &opts), 0);
	}
	gmem_fake_met(fake);
	gmem_slot_close(slot);
	gmem_vm_close(vm);
}
END_TEST

/* Of two faults the first of the header's list is named. */
START_TEST(reserve_order)
{
	struct gmem_vm *vm = script_vm(fake, 0);
	struct gmem_reserve_opts opts = {.sz = sizeof(opts),
					 .pad = 1,
					 .as_id = 2,
					 .gpa = (UINT64_C(1) << 46) + 1,
					 .size = 0x1000,
					 .id_first = 32764,
					 .id_count = 1};

	ck_fails(gmem_vm_reserve(vm, &opts), EINVAL, CONFLICT);
	opts.pad = 0;
	ck_fails(gmem_vm_reserve(vm, &opts), ERANGE, AS_BEYOND_LIMIT);
	opts.as_id = 1;
	ck_fails(gmem_vm_reserve(vm, &opts), EINVAL, RANGE_UNALIGNED);
	opts.gpa--;
	ck_fails(gmem_vm_reserve(vm, &opts), ERANGE, GPA_BEYOND_WIDTH);
	opts.gpa = 0;
	ck_fails(gmem_vm_reserve(vm, &opts), ERANGE, ID_BEYOND_LIMIT);
	gmem_vm_close(vm);
}
END_TEST

START_TEST(forked)
{
	struct gmem_reserve_opts opts = {.sz = sizeof(opts), .id_count = 1};
	struct gmem_vm *vm = script_vm(fake, 0);
	uint64_t bytes = 1;

	gmem_fake_enter_child(fake);
	ck_fails(gmem_vm_reserve(vm, &opts), EIO, FORKED);
	ck_fails(gmem_vm_reclaim(vm, &bytes), EIO, FORKED);
	ck_assert_uint_eq(bytes, 0);
	gmem_fake_leave_child(fake);
	ck_works(gmem_vm_reserve(vm, &opts));
	gmem_vm_close(vm);
}
END_TEST

static void add_open(Suite *suite)
{
	TCase *tcase = tcase_create("open");

	tcase_add_checked_fixture(tcase, start_modern, end);
	tcase_add_test(tcase, open_calls);
	tcase_add_test(tcase, open_fd_calls);
	tcase_add_test(tcase, open_with_options);
	tcase_add_loop_test(tcase, open_failure, 0, ARRAY_SIZE(failures));
	tcase_add_loop_test(tcase, open_fd_failure, 0, ARRAY_SIZE(fd_failures));
	tcase_add_test(tcase, open_fd_of_an_old_kernel);
	tcase_add_test(tcase, open_fd_of_other_things);
	tcase_add_test(tcase, open_refused);
	tcase_add_loop_test(tcase, open_failures_are_logged, 0, 3);
	tcase_add_test(tcase, open_from_the_log);
	tcase_add_loop_test(tcase, granted_window, 0, ARRAY_SIZE(windows));
	suite_add_tcase(suite, tcase);
}

static void add_caps(Suite *suite)
{
	TCase *tcase = tcase_create("caps");

	tcase_add_checked_fixture(tcase, start_modern, end);
	tcase_add_test(tcase, cap_arguments);
	tcase_add_loop_test(tcase, cap_odd_answer, 0, ARRAY_SIZE(odd_answers));
	tcase_add_loop_test(tcase, cap_absurd_limits, 0, 4);
	tcase_add_loop_test(tcase, gpa_width, 32, 64);
	tcase_add_loop_test(tcase, gpa_width_of_large_pages, 0, 2);
	tcase_add_test(tcase, gpa_width_beside_slots);
	tcase_add_test(tcase, bind_check_beside_firmware);
	tcase_add_loop_test(tcase, busy_ids, 0, 10);
	tcase_add_test(tcase, probe_without_guest_memfd);
	tcase_add_test(tcase, probe_within_grant);
	tcase_add_loop_test(tcase, userfaultfd_modes, 0, 8);
	tcase_add_loop_test(tcase, hva_width, 0, 7);
	tcase_add_loop_test(tcase, throw_away_slot_stays, 1, 11);
	tcase_add_test(tcase, signals_while_probing);
	suite_add_tcase(suite, tcase);

	tcase = tcase_create("caps-of-kernels");
	tcase_add_loop_test(tcase, caps_of_kernels, 0, 4);
	tcase_add_loop_test(tcase, cap_probe_failure, 0, ARRAY_SIZE(probe_failures));
	suite_add_tcase(suite, tcase);
}

static void add_reserve(Suite *suite)
{
	TCase *tcase = tcase_create("reserve");

	tcase_add_checked_fixture(tcase, start_modern, end);
	tcase_add_loop_test(tcase, reserve, 0, ARRAY_SIZE(reservations));
	tcase_add_test(tcase, reserve_order);
	tcase_add_test(tcase, forked);
	suite_add_tcase(suite, tcase);
}

int main(void)
{
	Suite *suite = suite_create("fake-vm");

	add_open(suite);
	add_caps(suite);
	add_reserve(suite);
	return harness_run(suite);
}
