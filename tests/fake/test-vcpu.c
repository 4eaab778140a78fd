/* SPDX-License-Identifier: MIT */
/* Exits and what is done about them, and pre-fault. */
#include "harness.h"
#include "script.h"

#include "uapi/kvm.h"
#include "vm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NOTHING "%s", ""
#define PAGE	UINT64_C(0x1000)
#define MIB	(UINT64_C(1) << 20)
#define SHARED	GMEM_VISIBILITY_SHARED
#define PRIVATE GMEM_VISIBILITY_PRIVATE
#define WIDTH	(UINT64_C(1) << 46)
#define FAULT	KVM_EXIT_MEMORY_FAULT
#define VCPUS	4

/* Flags of a memory fault. */
#define FLAG_PRIVATE   UINT64_C(8)
#define FLAG_USERFAULT UINT64_C(16)

static struct gmem_fake *fake;
static struct gmem_vm *vm;
static struct gmem_memfd *memfd;
static struct gmem_slot *slots[4];
static unsigned int slot_count;
static unsigned int logged;
static struct kvm_run runs[VCPUS];
static int vcpu_fds[VCPUS];
static struct gmem_vcpu *vcpus[VCPUS];
#define run  runs[0]
#define vcpu vcpus[0]

/* The VMM's own memory. */
static unsigned char ram[0x20000] __attribute__((aligned(0x10000)));

static void bind_slot(struct gmem_slot_opts opts)
{
	opts.sz = sizeof(opts);
	ck_works(gmem_slot_create(vm, &opts, &slots[slot_count++]));
}

#define BIND(...) bind_slot((struct gmem_slot_opts){__VA_ARGS__})

static void count_log(void *data, enum gmem_log_level level, const char *message)
{
	(void)data;
	(void)level;
	(void)message;
	logged++;
}

static void open_vcpus(unsigned int count)
{
	for (unsigned int i = 0; i < count; i++) {
		vcpu_fds[i] = gmem_fake_make_vcpu(fake, gmem_vm_get_fd(vm), &runs[i]);
		ck_works(gmem_vcpu_open(vm, vcpu_fds[i], &runs[i], &vcpus[i]));
		gmem_fake_close_fd(fake, vcpu_fds[i]);
	}
	gmem_fake_forget(fake);
}

/* Another VM of the kind that has private memory. */
static struct gmem_vm *open_other(void)
{
	struct gmem_vm_opts opts = {.sz = sizeof(opts), .type = 1};
	struct gmem_vm *other;

	ck_works(gmem_fake_open_vm(fake, &opts, &other));
	gmem_fake_forget(fake);
	return other;
}

static void open_vm(enum gmem_fake_kernel kernel, size_t page_size, uint64_t type)
{
	struct gmem_vm_opts opts = {.sz = sizeof(opts), .type = type, .log = count_log};

	fake = script_new(kernel);
	fake->vm_types = 0x3f;
	fake->page_size = page_size;
	gmem_fake_name(fake, ram, sizeof(ram), "ram");
	ck_works(gmem_fake_open_vm(fake, &opts, &vm));
	slot_count = 0;
	logged = 0;
	memset(runs, 0, sizeof(runs));
}

/*
 * 0x10000: a private half and ram; 0x20000: a private half alone; 0x30000: ram that is never
 * private; 16 pages each. From 16 MiB on, 64 MiB of a private half alone.
 */
static void start_type(uint64_t type)
{
	open_vm(GMEM_FAKE_PRIVATE, PAGE, type);
	memfd = script_memfd(vm, 128 * MIB, 0);
	BIND(.gpa = 0x10000, .size = 0x10000, .memfd = memfd, .host = ram);
	BIND(.gpa = 0x20000, .size = 0x10000, .memfd = memfd, .offset = 0x10000);
	BIND(.gpa = 0x30000, .size = 0x10000, .host = ram + 0x10000);
	BIND(.gpa = 16 * MIB, .size = 64 * MIB, .memfd = memfd, .offset = 64 * MIB);
	open_vcpus(1);
}

static void start(void)
{
	start_type(1);
}

static void end(void)
{
	for (unsigned int i = 0; i < VCPUS; i++) {
		gmem_vcpu_close(vcpus[i]);
		vcpus[i] = NULL;
	}
	for (unsigned int i = 0; i < slot_count; i++)
		gmem_slot_close(slots[i]);
	gmem_memfd_close(memfd);
	memfd = NULL;
	gmem_vm_close(vm);
	script_end(fake);
}

static void convert(uint64_t gpa, uint64_t size, enum gmem_visibility to)
{
	ck_works(gmem_vm_convert(vm, gpa, size, to, GMEM_CONVERT_DISCARD, NULL));
}

static struct gmem_stats stats(void)
{
	struct gmem_stats now = {.sz = sizeof(now)};

	ck_works(gmem_vm_get_stats(vm, &now));
	return now;
}

/* ---- The handle ---- */

START_TEST(open_calls)
{
	int fd = gmem_fake_make_vcpu(fake, gmem_vm_get_fd(vm), NULL);
	struct gmem_vcpu *other;

	gmem_fake_forget(fake);
	gmem_fake_expect(fake,
			 "fcntl(vcpu2, DUPFD_CLOEXEC, 0)\nioctl(vcpu3, CHECK_EXTENSION, 0)\n");
	ck_works(gmem_vcpu_open(vm, fd, &runs[1], &other));
	gmem_fake_expect(fake, "close(vcpu3)\n");
	gmem_vcpu_close(other);
	gmem_fake_met(fake);
	gmem_fake_close_fd(fake, fd);
	gmem_vcpu_close(NULL);
}
END_TEST

static const struct {
	const char *call;
	int answer, error;
	enum gmem_reason reason;
} open_failures[] = {
	{"DUPFD", -EBADF, EBADF, GMEM_REASON_FD_INVALID},
	{"DUPFD", -EMFILE, EMFILE, GMEM_REASON_FD_LIMIT},
	{"DUPFD", -EINVAL, EINVAL, GMEM_REASON_KERNEL_REFUSED},
	{"CHECK_EXTENSION, 0)", -ENOTTY, ENOTTY, GMEM_REASON_FD_NOT_VCPU},
	{"CHECK_EXTENSION, 0)", 12, ENOTTY, GMEM_REASON_FD_NOT_VCPU},
	{"CHECK_EXTENSION, 0)", 0, ENOTTY, GMEM_REASON_FD_NOT_VCPU},
	{"CHECK_EXTENSION, 0)", -EIO, EIO, GMEM_REASON_FORKED},
	{"CHECK_EXTENSION, 0)", -EPERM, EPERM, GMEM_REASON_KVM_BLOCKED},
	{"CHECK_EXTENSION, 0)", -ENOSYS, ENOSYS, GMEM_REASON_KVM_BLOCKED},
};

START_TEST(open_failure)
{
	int fd = gmem_fake_make_vcpu(fake, gmem_vm_get_fd(vm), NULL);
	struct gmem_vcpu *other = (void *)&other;

	gmem_fake_answer(fake, 1, open_failures[_i].answer, open_failures[_i].call);
	script_check_failure(gmem_vcpu_open(vm, fd, &runs[1], &other), open_failures[_i].error,
			     open_failures[_i].reason, open_failures[_i].call, __FILE__, __LINE__);
	ck_assert_ptr_null(other);
	ck_assert_uint_eq(logged, 1);
	gmem_fake_close_fd(fake, fd);
}
END_TEST

START_TEST(open_of_other_things)
{
	int file = gmem_fake_make_file(fake, PAGE, 0, true);
	struct gmem_vcpu *other;

	ck_fails(gmem_vcpu_open(vm, -1, &runs[1], &other), EBADF, FD_INVALID);
	ck_fails(gmem_vcpu_open(vm, gmem_vm_get_fd(vm), &runs[1], &other), ENOTTY, FD_NOT_VCPU);
	ck_fails(gmem_vcpu_open(vm, file, &runs[1], &other), ENOTTY, FD_NOT_VCPU);
	ck_fails(gmem_vcpu_open(vm, file, NULL, &other), EINVAL, NULL);
	ck_fails(gmem_vcpu_open(NULL, file, &runs[1], &other), EINVAL, NULL);
	ck_fails(gmem_vcpu_open(vm, file, &runs[1], NULL), EINVAL, NULL);
	gmem_fake_close_fd(fake, file);
}
END_TEST

/* The form of an answer to a guest depends on the type: a VM that has private memory has one. */
START_TEST(open_without_a_type)
{
	struct gmem_vm *untyped = script_vm(fake, 0);
	int fd = gmem_fake_make_vcpu(fake, gmem_vm_get_fd(untyped), NULL);
	struct gmem_vcpu *other;

	gmem_fake_expect(fake, NOTHING);
	ck_fails(gmem_vcpu_open(untyped, fd, &runs[1], &other), EINVAL, CONFLICT);
	ck_fails(gmem_vm_enable_map_gpa_range(untyped), EINVAL, CONFLICT);
	gmem_fake_met(fake);
	gmem_vm_close(untyped);
	gmem_fake_close_fd(fake, fd);
}
END_TEST

/* The handle keeps the VM. */
START_TEST(vcpu_survives_vm)
{
	struct gmem_exit exit = {.sz = sizeof(exit)};
	struct gmem_vm *mine = vm, *other = open_other();
	struct gmem_vcpu *last;
	int fd = gmem_fake_make_vcpu(fake, gmem_vm_get_fd(other), &runs[1]);

	ck_works(gmem_vcpu_open(other, fd, &runs[1], &last));
	gmem_fake_close_fd(fake, fd);
	gmem_vm_close(other);
	ck_works(gmem_vcpu_decode(last, 0, 0, &exit));
	gmem_vcpu_close(last);
	vm = mine;
}
END_TEST

/* ---- Hypercall exits ---- */

START_TEST(enable_calls)
{
	gmem_fake_expect(fake, "ioctl(vm1, ENABLE_CAP, cap=201 args=0x1000)\n");
	ck_works(gmem_vm_enable_map_gpa_range(vm));
	gmem_fake_expect(fake, "ioctl(vm1, ENABLE_CAP, cap=201 args=0x1000) = EINVAL\n");
	ck_fails(gmem_vm_enable_map_gpa_range(vm), EINVAL, KERNEL_REFUSED);
	gmem_fake_met(fake);
	ck_fails(gmem_vm_enable_map_gpa_range(NULL), EINVAL, NULL);
}
END_TEST

static const struct {
	int cap, error;
	enum gmem_reason reason;
} not_enabled[] = {
	{0, EOPNOTSUPP, GMEM_REASON_CAP_UNSUPPORTED},
	{1, EOPNOTSUPP, GMEM_REASON_CAP_UNSUPPORTED},
	{0x2000, EOPNOTSUPP, GMEM_REASON_CAP_UNSUPPORTED},
	{-EPERM, EPERM, GMEM_REASON_CAP_PROBE_FAILED},
};

START_TEST(enable_refused)
{
	struct gmem_vm *other;

	gmem_fake_set_cap(fake, KVM_CAP_EXIT_HYPERCALL, not_enabled[_i].cap);
	other = open_other();
	gmem_fake_expect(fake, NOTHING);
	script_check_failure(gmem_vm_enable_map_gpa_range(other), not_enabled[_i].error,
			     not_enabled[_i].reason, "enable", __FILE__, __LINE__);
	gmem_fake_met(fake);
	gmem_vm_close(other);
}
END_TEST

/* ---- Decoding faults ---- */

static void leave_fault(uint32_t reason, uint64_t flags, uint64_t gpa, uint64_t size)
{
	run.exit_reason = reason;
	run.memory_fault.flags = flags;
	run.memory_fault.gpa = gpa;
	run.memory_fault.size = size;
}

static void leave_hypercall(uint64_t gpa, uint64_t pages, uint64_t attributes)
{
	run.exit_reason = KVM_EXIT_HYPERCALL;
	run.hypercall.nr = KVM_HC_MAP_GPA_RANGE;
	run.hypercall.args[0] = gpa;
	run.hypercall.args[1] = pages;
	run.hypercall.args[2] = attributes;
	run.hypercall.ret = 0; /* as KVM does */
}

static struct gmem_exit decode(int rc, int error)
{
	struct gmem_exit exit;

	memset(&exit, 0xff, sizeof(exit));
	exit.sz = sizeof(exit);
	ck_works(gmem_vcpu_decode(vcpu, rc, error, &exit));
	return exit;
}

static void check_exit(const struct gmem_exit *exit, enum gmem_exit_kind kind, uint32_t flags,
		       uint64_t gpa, uint64_t size)
{
	ck_assert_uint_eq(exit->sz, sizeof(*exit));
	ck_assert_int_eq(exit->kind, kind);
	ck_assert_uint_eq(exit->flags, flags);
	ck_assert_uint_eq(exit->gpa, gpa);
	ck_assert_uint_eq(exit->size, size);
}

/* Pages 2 and 3 of the first slot are private. */
static const struct {
	uint32_t reason;
	int rc, error;
	uint64_t flags, gpa, size;
	enum gmem_exit_kind kind;
	uint64_t start, bytes; /* 0, 0: no address */
} exits[] = {
	/* A fault that is none of the map's state. */
	{FAULT, -1, EFAULT, 8, 0x11000, 0x1000, GMEM_EXIT_TO_PRIVATE, 0x11000, 0x1000},
	{FAULT, 0, 0, 8, 0x11000, 0x1000, GMEM_EXIT_TO_PRIVATE, 0x11000, 0x1000},
	{FAULT, 0, EINTR, 8, 0x11000, 0x1000, GMEM_EXIT_TO_PRIVATE, 0x11000, 0x1000},
	{FAULT, -1, EFAULT, 0, 0x12000, 0x1000, GMEM_EXIT_TO_SHARED, 0x12000, 0x1000},
	{FAULT, 0, 0, 0, 0x13000, 0x1000, GMEM_EXIT_TO_SHARED, 0x13000, 0x1000},
	/* Another vCPU was faster. */
	{FAULT, -1, EFAULT, 8, 0x12000, 0x1000, GMEM_EXIT_RETRY, 0x12000, 0x1000},
	{FAULT, -1, EFAULT, 0, 0x11000, 0x1000, GMEM_EXIT_RETRY, 0x11000, 0x1000},
	{FAULT, 0, 0, 8, 0x12000, 0x2000, GMEM_EXIT_RETRY, 0x12000, 0x2000},
	/* With a part of it: the rest is still to be done. */
	{FAULT, -1, EFAULT, 8, 0x13000, 0x2000, GMEM_EXIT_TO_PRIVATE, 0x13000, 0x2000},
	{FAULT, -1, EFAULT, 0, 0x11000, 0x2000, GMEM_EXIT_TO_SHARED, 0x11000, 0x2000},
	/* The errno says what it is. */
	{FAULT, -1, EHWPOISON, 8, 0x11000, 0x1000, GMEM_EXIT_POISONED, 0x11000, 0x1000},
	{FAULT, -1, ENOMEM, 8, 0x11000, 0x1000, GMEM_EXIT_NO_MEMORY, 0x11000, 0x1000},
	{FAULT, -1, EIO, 8, 0x12000, 0x1000, GMEM_EXIT_GONE, 0x12000, 0x1000},
	{FAULT, -1, EHWPOISON, 0x100, 0x11000, 0, GMEM_EXIT_POISONED, 0, 0},
	{FAULT, -1, ENOMEM, 8, UINT64_MAX, 0x1000, GMEM_EXIT_NO_MEMORY, 0, 0},
	{FAULT, -1, EIO, 0, 0, UINT64_MAX, GMEM_EXIT_GONE, 0, 0},
	/* 39 is left over from an exit before. */
	{FAULT, -1, EINTR, 8, 0x11000, 0x1000, GMEM_EXIT_RETRY, 0, 0},
	{FAULT, -1, EAGAIN, 8, 0x11000, 0x1000, GMEM_EXIT_RETRY, 0, 0},
	{FAULT, -1, EINVAL, 8, 0x11000, 0x1000, GMEM_EXIT_OTHER, 0, 0},
	{FAULT, -1, ENOEXEC, 0, 0x12000, 0x1000, GMEM_EXIT_OTHER, 0, 0},
	{FAULT, -1, ENOENT, 0, 0x12000, 0x1000, GMEM_EXIT_OTHER, 0, 0},
	{FAULT, -1, EPERM, FLAG_USERFAULT, 0x12000, 0x1000, GMEM_EXIT_OTHER, 0, 0},
	/* No 39: the errno alone. */
	{0, -1, EFAULT, 8, 0x11000, 0x1000, GMEM_EXIT_GONE, 0, 0},
	{0, -1, EHWPOISON, 8, 0x11000, 0x1000, GMEM_EXIT_POISONED, 0, 0},
	{0, -1, ENOMEM, 8, 0x11000, 0x1000, GMEM_EXIT_NO_MEMORY, 0, 0},
	{0, -1, EIO, 8, 0x11000, 0x1000, GMEM_EXIT_OTHER, 0, 0},
	{0, -1, EINTR, 8, 0x11000, 0x1000, GMEM_EXIT_RETRY, 0, 0},
	{10, -1, EINTR, 8, 0x11000, 0x1000, GMEM_EXIT_RETRY, 0, 0},
	{2, 0, 0, 8, 0x11000, 0x1000, GMEM_EXIT_OTHER, 0, 0},
	{6, 0, EFAULT, 8, 0x11000, 0x1000, GMEM_EXIT_OTHER, 0, 0},
	{38, -1, EFAULT, 8, 0x11000, 0x1000, GMEM_EXIT_GONE, 0, 0},
	{40, 0, 0, 8, 0x11000, 0x1000, GMEM_EXIT_OTHER, 0, 0},
	/* A page that its owner has to fill. */
	{FAULT, -1, EFAULT, FLAG_USERFAULT, 0x11000, 0x1000, GMEM_EXIT_MISSING, 0x11000, 0x1000},
	{FAULT, 0, 0, FLAG_USERFAULT | 8, 0x11000, 0x1000, GMEM_EXIT_MISSING, 0x11000, 0x1000},
	{FAULT, 0, 0, FLAG_USERFAULT, 0x11010, 0x10, GMEM_EXIT_MISSING, 0x11000, 0x1000},
	/* Flags that nobody knows. */
	{FAULT, -1, EFAULT, 1, 0x11000, 0x1000, GMEM_EXIT_UNKNOWN, 0x11000, 0x1000},
	{FAULT, -1, EFAULT, 8 | 32, 0x11000, 0x1000, GMEM_EXIT_UNKNOWN, 0x11000, 0x1000},
	{FAULT, 0, 0, FLAG_USERFAULT | 4, 0x11000, 0x1000, GMEM_EXIT_UNKNOWN, 0x11000, 0x1000},
	{FAULT, 0, 0, UINT64_C(1) << 63, 0x11000, 0x1000, GMEM_EXIT_UNKNOWN, 0x11000, 0x1000},
	{FAULT, 0, 0, UINT64_MAX, 0x11000, 0x1000, GMEM_EXIT_UNKNOWN, 0x11000, 0x1000},
	/* Whole pages around it. */
	{FAULT, -1, EFAULT, 8, 0x11010, 0x10, GMEM_EXIT_TO_PRIVATE, 0x11000, 0x1000},
	{FAULT, -1, EFAULT, 8, 0x10fff, 2, GMEM_EXIT_TO_PRIVATE, 0x10000, 0x2000},
	{FAULT, -1, EFAULT, 8, 0x10001, 0x1000, GMEM_EXIT_TO_PRIVATE, 0x10000, 0x2000},
	/* What KVM should not say, from the guest or not. */
	{FAULT, -1, EFAULT, 8, 0x11000, 0, GMEM_EXIT_UNKNOWN, 0, 0},
	{FAULT, -1, EFAULT, 8, UINT64_MAX, 1, GMEM_EXIT_UNKNOWN, 0, 0},
	{FAULT, -1, EFAULT, 8, UINT64_MAX - 0xfff, 0x1000, GMEM_EXIT_UNKNOWN, 0, 0},
	{FAULT, -1, EFAULT, 8, UINT64_MAX - 0xfff, 0x2000, GMEM_EXIT_UNKNOWN, 0, 0},
	{FAULT, 0, 0, FLAG_USERFAULT, 0x11000, UINT64_MAX, GMEM_EXIT_UNKNOWN, 0, 0},
	{FAULT, 0, 0, 8, 0, UINT64_MAX, GMEM_EXIT_UNKNOWN, 0, 0},
	{FAULT, 0, 0, 8, UINT64_MAX - 0x1fff, 0x1000, GMEM_EXIT_TO_PRIVATE, UINT64_MAX - 0x1fff,
	 0x1000},
	/* Nothing is there: that is found out when it is resolved. */
	{FAULT, -1, EFAULT, 8, WIDTH, 0x1000, GMEM_EXIT_TO_PRIVATE, WIDTH, 0x1000},
	{FAULT, -1, EFAULT, 0, WIDTH, 0x1000, GMEM_EXIT_RETRY, WIDTH, 0x1000},
};

START_TEST(decode_faults)
{
	struct gmem_stats before;
	struct gmem_exit exit;

	convert(0x12000, 0x2000, PRIVATE);
	before = stats();
	leave_fault(exits[_i].reason, exits[_i].flags, exits[_i].gpa, exits[_i].size);
	gmem_fake_expect(fake, NOTHING);
	exit = decode(exits[_i].rc, exits[_i].error);
	gmem_fake_met(fake);
	check_exit(&exit, exits[_i].kind, exits[_i].bytes ? GMEM_EXIT_ADDRESS : 0, exits[_i].start,
		   exits[_i].bytes);
	ck_assert_int_eq(exit.error, exits[_i].rc < 0 ? exits[_i].error : 0);
	if (exits[_i].bytes)
		ck_assert_uint_eq(exit.bits, exits[_i].flags);
	before.exits[exits[_i].kind]++;
	ck_assert_mem_eq(before.exits, stats().exits, sizeof(before.exits));
}
END_TEST

/* Larger pages than those in which KVM tells of faults. */
START_TEST(decode_with_large_pages)
{
	size_t page_size = _i ? 0x10000 : 0x4000;
	struct gmem_exit exit;

	end();
	open_vm(GMEM_FAKE_PRIVATE, page_size, 1);
	open_vcpus(1);
	leave_fault(FAULT, 8, 0x13000, 0x1000);
	exit = decode(-1, EFAULT);
	check_exit(&exit, GMEM_EXIT_TO_PRIVATE, GMEM_EXIT_ADDRESS, 0x10000, page_size);
	leave_fault(FAULT, 8, 0x1f000, 0x2000);
	exit = decode(-1, EFAULT);
	check_exit(&exit, GMEM_EXIT_TO_PRIVATE, GMEM_EXIT_ADDRESS, 0x20000 - page_size,
		   2 * page_size);
	leave_fault(FAULT, 8, UINT64_MAX - 0x1fff, 0x1000);
	exit = decode(-1, EFAULT);
	check_exit(&exit, GMEM_EXIT_UNKNOWN, 0, 0, 0);
	/* A guest's pages are of 4 KiB whatever the host's are: it cannot have a part of one. */
	leave_hypercall(0x10000, 1, 0);
	exit = decode(0, 0);
	check_exit(&exit, GMEM_EXIT_BAD_HYPERCALL, GMEM_EXIT_HYPERCALL | GMEM_EXIT_ADDRESS, 0x10000,
		   0x1000);
	leave_hypercall(0x10000, page_size / 0x1000, 0);
	exit = decode(0, 0);
	check_exit(&exit, GMEM_EXIT_TO_SHARED, GMEM_EXIT_HYPERCALL | GMEM_EXIT_ADDRESS, 0x10000,
		   page_size);
}
END_TEST

/* Where nothing can be converted, a fault is of memory that is not there. */
START_TEST(decode_without_private_memory)
{
	uint64_t flags = _i ? FLAG_PRIVATE : 0;
	struct gmem_exit exit;

	end();
	open_vm(GMEM_FAKE_LINUX_7_3, PAGE, 0);
	open_vcpus(1);
	leave_fault(FAULT, flags, 0x11000, 0x1000);
	exit = decode(-1, EFAULT);
	check_exit(&exit, GMEM_EXIT_GONE, GMEM_EXIT_ADDRESS, 0x11000, 0x1000);
	leave_fault(FAULT, FLAG_USERFAULT | flags, 0x11000, 0x1000);
	exit = decode(-1, EFAULT);
	check_exit(&exit, GMEM_EXIT_MISSING, GMEM_EXIT_ADDRESS, 0x11000, 0x1000);
}
END_TEST

/* Private, as it asks, but no guest_memfd is there: to run again would not help. */
START_TEST(decode_without_a_private_half)
{
	struct gmem_exit exit;

	ck_works(gmem_vm_adopt_visibility(vm, 0x30000, 0x20000, PRIVATE));
	leave_fault(FAULT, FLAG_PRIVATE, 0x30000, PAGE);
	exit = decode(-1, EFAULT);
	check_exit(&exit, GMEM_EXIT_GONE, GMEM_EXIT_ADDRESS, 0x30000, PAGE);
	leave_fault(FAULT, FLAG_PRIVATE, 0x40000, PAGE);
	exit = decode(0, 0);
	check_exit(&exit, GMEM_EXIT_GONE, GMEM_EXIT_ADDRESS, 0x40000, PAGE);
	leave_fault(FAULT, 0, 0x40000, PAGE);
	exit = decode(0, 0);
	check_exit(&exit, GMEM_EXIT_TO_SHARED, GMEM_EXIT_ADDRESS, 0x40000, PAGE);
	ck_works(gmem_vcpu_resolve(vcpu, &exit, NULL));
}
END_TEST

/* A caller's struct of another version. */
START_TEST(decode_sizes)
{
	struct {
		struct gmem_exit exit;
		uint64_t more[2];
	} large = {.more = {7, 7}};
	struct gmem_exit small;

	leave_fault(FAULT, 8, 0x11000, 0x1000);
	large.exit.sz = sizeof(large.exit) + sizeof(large.more[0]);
	ck_works(gmem_vcpu_decode(vcpu, -1, EFAULT, &large.exit));
	ck_assert_uint_eq(large.exit.gpa, 0x11000);
	ck_assert_uint_eq(large.exit.sz, sizeof(large.exit) + sizeof(large.more[0]));
	ck_assert_uint_eq(large.more[0], 0);
	ck_assert_uint_eq(large.more[1], 7);
	memset(&small, 0x55, sizeof(small));
	small.sz = offsetof(struct gmem_exit, gpa);
	ck_works(gmem_vcpu_decode(vcpu, -1, EFAULT, &small));
	ck_assert_int_eq(small.kind, GMEM_EXIT_TO_PRIVATE);
	ck_assert_uint_eq(small.gpa, UINT64_C(0x5555555555555555));
	for (size_t bad = 0; bad <= sizeof(size_t); bad++) {
		small.sz = bad;
		ck_fails(gmem_vcpu_decode(vcpu, 0, 0, &small), EINVAL, OPTS_SIZE);
	}
	small.sz = 4097;
	ck_fails(gmem_vcpu_decode(vcpu, 0, 0, &small), EINVAL, OPTS_SIZE);
	ck_fails(gmem_vcpu_decode(vcpu, 0, 0, NULL), EINVAL, NULL);
	ck_fails(gmem_vcpu_decode(NULL, 0, 0, &small), EINVAL, NULL);
	ck_assert_uint_eq(stats().exits[GMEM_EXIT_OTHER], 0);
}
END_TEST

/* ---- Decoding hypercalls ---- */

#define ENCRYPTED UINT64_C(16)

static const struct {
	uint64_t gpa, pages, attributes;
	enum gmem_exit_kind kind;
	uint64_t size;
} hypercalls[] = {
	{0x10000, 1, 0, GMEM_EXIT_TO_SHARED, 0x1000},
	{0x10000, 4, ENCRYPTED, GMEM_EXIT_TO_PRIVATE, 0x4000},
	{0x10000, 4, ENCRYPTED | 1, GMEM_EXIT_TO_PRIVATE, 0x4000},
	{0x10000, 4, 2, GMEM_EXIT_TO_SHARED, 0x4000},
	/* There is no memory, but there could be. */
	{WIDTH - 0x1000, 1, ENCRYPTED, GMEM_EXIT_TO_PRIVATE, 0x1000},
	{0, WIDTH >> 12, ENCRYPTED, GMEM_EXIT_TO_PRIVATE, WIDTH},
	/* Hints that there are not, bits that nobody knows. */
	{0x10000, 1, 3, GMEM_EXIT_BAD_HYPERCALL, 0x1000},
	{0x10000, 1, 4, GMEM_EXIT_BAD_HYPERCALL, 0x1000},
	{0x10000, 1, ENCRYPTED | 7, GMEM_EXIT_BAD_HYPERCALL, 0x1000},
	{0x10000, 1, ENCRYPTED | 8, GMEM_EXIT_BAD_HYPERCALL, 0x1000},
	{0x10000, 1, 15, GMEM_EXIT_BAD_HYPERCALL, 0x1000},
	{0x10000, 1, 32, GMEM_EXIT_BAD_HYPERCALL, 0x1000},
	{0x10000, 1, ENCRYPTED | UINT64_C(1) << 32, GMEM_EXIT_BAD_HYPERCALL, 0x1000},
	{0x10000, 1, UINT64_C(1) << 63, GMEM_EXIT_BAD_HYPERCALL, 0x1000},
	{0x10000, 1, UINT64_MAX, GMEM_EXIT_BAD_HYPERCALL, 0x1000},
	/* Ranges that are none. */
	{0x10000, 0, ENCRYPTED, GMEM_EXIT_BAD_HYPERCALL, 0},
	{0x10000, UINT64_C(1) << 52, 0, GMEM_EXIT_BAD_HYPERCALL, UINT64_MAX},
	{0x10000, (UINT64_C(1) << 52) + 1, 0, GMEM_EXIT_BAD_HYPERCALL, UINT64_MAX},
	{0x10000, UINT64_MAX, 0, GMEM_EXIT_BAD_HYPERCALL, UINT64_MAX},
	{0x10800, 1, 0, GMEM_EXIT_BAD_HYPERCALL, 0x1000},
	{0x10001, 1, ENCRYPTED, GMEM_EXIT_BAD_HYPERCALL, 0x1000},
	{UINT64_MAX - 0xfff, 1, 0, GMEM_EXIT_BAD_HYPERCALL, 0x1000},
	{0x10000, (UINT64_C(1) << 52) - 1, 0, GMEM_EXIT_BAD_HYPERCALL, UINT64_MAX - 0xfff},
	{WIDTH, 1, 0, GMEM_EXIT_BAD_HYPERCALL, 0x1000},
	{WIDTH - 0x1000, 2, 0, GMEM_EXIT_BAD_HYPERCALL, 0x2000},
	{UINT64_MAX, UINT64_MAX, UINT64_MAX, GMEM_EXIT_BAD_HYPERCALL, UINT64_MAX},
};

START_TEST(decode_hypercalls)
{
	struct gmem_exit exit;

	leave_hypercall(hypercalls[_i].gpa, hypercalls[_i].pages, hypercalls[_i].attributes);
	exit = decode(0, 0);
	check_exit(&exit, hypercalls[_i].kind, GMEM_EXIT_HYPERCALL | GMEM_EXIT_ADDRESS,
		   hypercalls[_i].gpa, hypercalls[_i].size);
	ck_assert_uint_eq(exit.bits, hypercalls[_i].attributes);
	/* Nothing is answered yet. */
	ck_assert_uint_eq(run.hypercall.ret, 0);
	/* What is left over is none. */
	exit = decode(-1, EINTR);
	check_exit(&exit, GMEM_EXIT_RETRY, 0, 0, 0);
	run.hypercall.nr = 11;
	exit = decode(0, 0);
	check_exit(&exit, GMEM_EXIT_OTHER, 0, 0, 0);
}
END_TEST

/* ---- Resolving ---- */

static int resolve(struct gmem_exit exit, struct gmem_resolve_opts opts)
{
	opts.sz = sizeof(opts);
	return gmem_vcpu_resolve(vcpu, &exit, &opts);
}

static int resolve_fault(uint64_t flags, uint64_t gpa, int error)
{
	struct gmem_exit exit;

	leave_fault(FAULT, flags, gpa, PAGE);
	exit = decode(error ? -1 : 0, error);
	return gmem_vcpu_resolve(vcpu, &exit, NULL);
}

#define SET(gpa, size, to) "ioctl(vm1, SET_ATTRIBUTES, gpa=" gpa " size=" size " " to ")\n"
#define DROP_RAM(at, size)                                                                         \
	"madvise(ram" at ", " size ", REMOVE)\nmadvise(ram" at ", " size ", DONTNEED)\n"           \
	"madvise(ram" at ", " size ", FREE)\n"

START_TEST(resolve_converts)
{
	gmem_fake_expect(fake, SET("0x11000", "0x1000", "private") DROP_RAM("+0x1000", "0x1000"));
	ck_works(resolve_fault(FLAG_PRIVATE, 0x11000, EFAULT));
	gmem_fake_expect(fake,
			 SET("0x11000", "0x1000",
			     "shared") "fallocate(gmem1, KEEP_SIZE|PUNCH_HOLE, 0x1000, 0x1000)\n");
	ck_works(resolve_fault(0, 0x11000, 0));
	gmem_fake_expect(fake, NOTHING);
	ck_works(resolve_fault(0, 0x11000, EFAULT));
	gmem_fake_met(fake);
	ck_assert_uint_eq(stats().hypercalls, 0);
}
END_TEST

static const struct {
	enum gmem_exit_kind kind;
	int error;
	enum gmem_reason reason;
} unresolved[] = {
	{GMEM_EXIT_MISSING, ENODATA, GMEM_REASON_EXIT_MISSING},
	{GMEM_EXIT_POISONED, EHWPOISON, GMEM_REASON_POISONED},
	{GMEM_EXIT_GONE, EFAULT, GMEM_REASON_EXIT_GONE},
	{GMEM_EXIT_NO_MEMORY, ENOMEM, GMEM_REASON_NO_MEMORY},
	{GMEM_EXIT_UNKNOWN, EOPNOTSUPP, GMEM_REASON_EXIT_UNKNOWN},
	{GMEM_EXIT_OTHER, EINVAL, GMEM_REASON_ARGUMENT},
	{(enum gmem_exit_kind)10, EINVAL, GMEM_REASON_ARGUMENT},
	{(enum gmem_exit_kind) - 1, EINVAL, GMEM_REASON_ARGUMENT},
	{GMEM_EXIT_BAD_HYPERCALL, EINVAL, GMEM_REASON_ARGUMENT}, /* without its flag */
};

START_TEST(resolve_tells)
{
	struct gmem_exit exit = {.sz = sizeof(exit),
				 .kind = unresolved[_i].kind,
				 .flags = GMEM_EXIT_ADDRESS,
				 .gpa = 0x11000,
				 .size = PAGE};

	gmem_fake_expect(fake, NOTHING);
	script_check_failure(gmem_vcpu_resolve(vcpu, &exit, NULL), unresolved[_i].error,
			     unresolved[_i].reason, "resolve", __FILE__, __LINE__);
	exit.flags = 0;
	exit.gpa = exit.size = 0;
	script_check_failure(gmem_vcpu_resolve(vcpu, &exit, NULL), unresolved[_i].error,
			     unresolved[_i].reason, "resolve", __FILE__, __LINE__);
	gmem_fake_met(fake);
	/* It could fill the VMM's log. */
	ck_assert_uint_eq(logged, 0);
}
END_TEST

/* A guest's touch of what cannot be so is the VMM's to decide about. */
START_TEST(resolve_of_impossible_faults)
{
	struct gmem_exit exit = {.sz = sizeof(exit), .flags = GMEM_EXIT_ADDRESS, .size = PAGE};

	gmem_fake_expect(fake, NOTHING);
	exit.kind = GMEM_EXIT_TO_PRIVATE;
	exit.gpa = 0x30000;
	ck_fails(gmem_vcpu_resolve(vcpu, &exit, NULL), EFAULT, NO_PRIVATE_SIDE);
	exit.gpa = 0x50000;
	ck_fails(gmem_vcpu_resolve(vcpu, &exit, NULL), EFAULT, GPA_UNMAPPED);
	exit.gpa = WIDTH;
	ck_fails(gmem_vcpu_resolve(vcpu, &exit, NULL), ERANGE, GPA_BEYOND_WIDTH);
	exit.gpa = UINT64_MAX - 0xfff;
	ck_fails(gmem_vcpu_resolve(vcpu, &exit, NULL), EOVERFLOW, RANGE_WRAPS);
	exit.kind = GMEM_EXIT_TO_SHARED;
	exit.gpa = 0x20000;
	ck_fails(gmem_vcpu_resolve(vcpu, &exit, NULL), EFAULT, NO_HOST_SIDE);
	gmem_fake_met(fake);
	ck_assert_uint_eq(logged, 0);
}
END_TEST

START_TEST(resolve_arguments)
{
	struct gmem_exit exit = {.sz = sizeof(exit), .kind = GMEM_EXIT_RETRY};
	struct gmem_resolve_opts opts = {.sz = sizeof(opts), .flags = 2};

	ck_works(gmem_vcpu_resolve(vcpu, &exit, NULL));
	ck_fails(gmem_vcpu_resolve(NULL, &exit, NULL), EINVAL, NULL);
	ck_fails(gmem_vcpu_resolve(vcpu, NULL, NULL), EINVAL, NULL);
	ck_fails(gmem_vcpu_resolve(vcpu, &exit, &opts), EINVAL, FLAGS_UNKNOWN);
	opts.sz = 0;
	ck_fails(gmem_vcpu_resolve(vcpu, &exit, &opts), EINVAL, OPTS_SIZE);
	opts = (struct gmem_resolve_opts){.sz = sizeof(opts),
					  .policy = (enum gmem_convert_policy)2};
	exit = (struct gmem_exit){
		.sz = sizeof(exit), .kind = GMEM_EXIT_TO_PRIVATE, .gpa = 0x11000, .size = PAGE};
	ck_fails(gmem_vcpu_resolve(vcpu, &exit, &opts), EINVAL, ARGUMENT);
}
END_TEST

START_TEST(resolve_by_policy)
{
	struct gmem_exit exit = {.sz = sizeof(exit),
				 .kind = GMEM_EXIT_TO_PRIVATE,
				 .flags = GMEM_EXIT_ADDRESS,
				 .gpa = 0x11000,
				 .size = PAGE};

	gmem_fake_expect(fake, SET("0x11000", "0x1000", "private"));
	ck_works(resolve(exit, (struct gmem_resolve_opts){.policy = GMEM_CONVERT_KEEP}));
	gmem_fake_met(fake);
	ck_assert_uint_eq(stats().twice_bytes, PAGE);
}
END_TEST

/* ---- The hypercall's answer ---- */

/* What a guest of each type of VM is told: its register, or KVM's own errno. */
static const struct {
	uint64_t type, refused, failed;
} types[] = {
	{1, (uint64_t)-EINVAL, (uint64_t)-EINVAL},
	{2, (uint64_t)-EINVAL, (uint64_t)-EINVAL},
	{3, (uint64_t)-EINVAL, (uint64_t)-EINVAL},
	{4, EINVAL, EAGAIN},
	{5, EINVAL, EAGAIN},
};

static int resolve_hypercall(uint64_t gpa, uint64_t pages, uint64_t attributes)
{
	struct gmem_exit exit;

	leave_hypercall(gpa, pages, attributes);
	exit = decode(0, 0);
	run.hypercall.ret = 0x77;
	return gmem_vcpu_resolve(vcpu, &exit, NULL);
}

static const struct {
	uint64_t gpa, pages, attributes;
	enum gmem_reason reason;
} refused_hypercalls[] = {
	{0x10000, 0, 0, GMEM_REASON_HYPERCALL_REFUSED},
	{0x10000, 1, 3, GMEM_REASON_HYPERCALL_REFUSED},
	{0x10000, UINT64_MAX, 0, GMEM_REASON_HYPERCALL_REFUSED},
	{WIDTH, 1, 0, GMEM_REASON_HYPERCALL_REFUSED},
	{0x30000, 1, ENCRYPTED, GMEM_REASON_NO_PRIVATE_SIDE}, /* memory of a device, say */
	{0x2f000, 2, ENCRYPTED, GMEM_REASON_NO_PRIVATE_SIDE},
	{0x20000, 1, 0, GMEM_REASON_NO_HOST_SIDE},
	{0xf000, 2, ENCRYPTED, GMEM_REASON_GPA_UNMAPPED},
	{0, WIDTH >> 12, ENCRYPTED, GMEM_REASON_GPA_UNMAPPED},
};

/* The guest's own fault: it is told, and the VMM goes on, though it can find out. */
static void check_refused_hypercalls(uint64_t answer)
{
	for (size_t i = 0; i < ARRAY_SIZE(refused_hypercalls); i++) {
		ck_assert_int_lt(gmem_vcpu_resolve(NULL, NULL, NULL), 0);
		gmem_fake_expect(fake, NOTHING);
		ck_works(resolve_hypercall(refused_hypercalls[i].gpa, refused_hypercalls[i].pages,
					   refused_hypercalls[i].attributes));
		gmem_fake_met(fake);
		ck_assert_int_eq(gmem_error_get_reason(), refused_hypercalls[i].reason);
		ck_assert_uint_eq(run.hypercall.ret, answer);
		ck_assert_uint_eq(stats().hypercalls_refused, i + 1);
	}
	ck_assert_uint_eq(stats().hypercalls, ARRAY_SIZE(refused_hypercalls));
	/* It could fill the VMM's log. */
	ck_assert_uint_eq(logged, 0);
}

static void check_failed_hypercall(uint64_t answer)
{
	gmem_fake_fail(fake, 1, EIO, "SET_ATTRIBUTES");
	ck_fails(resolve_hypercall(0x11000, 2, ENCRYPTED), EIO, KERNEL_REFUSED);
	ck_assert_uint_eq(run.hypercall.ret, answer);
	gmem_fake_fail(fake, 1, ENOMEM, "SET_ATTRIBUTES");
	ck_fails(resolve_hypercall(0x11000, 2, ENCRYPTED), ENOMEM, NO_MEMORY);
	ck_assert_uint_eq(run.hypercall.ret, answer);
	gmem_fake_recover(fake);
	ck_assert_uint_eq(logged, 0);
}

START_TEST(hypercalls_are_answered)
{
	end();
	start_type(types[_i].type);
	gmem_fake_expect(fake, SET("0x11000", "0x2000", "private") DROP_RAM("+0x1000", "0x2000"));
	ck_works(resolve_hypercall(0x11000, 2, ENCRYPTED));
	ck_assert_uint_eq(run.hypercall.ret, 0);
	gmem_fake_expect(fake, NOTHING);
	ck_works(resolve_hypercall(0x11000, 2, ENCRYPTED | 2));
	ck_assert_uint_eq(run.hypercall.ret, 0);
	gmem_fake_met(fake);
	ck_works(resolve_hypercall(0x11000, 2, 0));
	ck_assert_uint_eq(run.hypercall.ret, 0);
	ck_assert_uint_eq(stats().hypercalls, 3);
	ck_assert_uint_eq(stats().hypercalls_refused, 0);
	end();
	start_type(types[_i].type);
	check_refused_hypercalls(types[_i].refused);
	check_failed_hypercall(types[_i].failed);
}
END_TEST

/* The type of a VM that the VMM has made is what the VMM says. */
START_TEST(hypercalls_of_a_given_vm)
{
	struct gmem_vm_opts opts = {.sz = sizeof(opts), .type = 4};
	struct gmem_exit exit = {.sz = sizeof(exit)};
	int vm_fd = gmem_fake_make_vm(fake), fd = gmem_fake_make_vcpu(fake, vm_fd, &runs[1]);
	struct gmem_vcpu *given;
	struct gmem_vm *other;

	ck_works(gmem_fake_open_vm_fd(fake, vm_fd, &opts, &other));
	ck_works(gmem_vcpu_open(other, fd, &runs[1], &given));
	leave_hypercall(0x10000, 1, 32);
	runs[1] = runs[0];
	ck_works(gmem_vcpu_decode(given, 0, 0, &exit));
	ck_works(gmem_vcpu_resolve(given, &exit, NULL));
	ck_assert_uint_eq(runs[1].hypercall.ret, EINVAL);
	gmem_vcpu_close(given);
	gmem_vm_close(other);
	gmem_fake_close_fd(fake, fd);
	gmem_fake_close_fd(fake, vm_fd);
}
END_TEST

/* A guest of a VM without private memory asks for it. */
START_TEST(hypercalls_without_private_memory)
{
	end();
	open_vm(GMEM_FAKE_LINUX_7_3, PAGE, 0);
	open_vcpus(1);
	ck_works(resolve_hypercall(0x10000, 1, ENCRYPTED));
	ck_assert_int_eq(gmem_error_get_reason(), GMEM_REASON_CAP_UNSUPPORTED);
	ck_assert_uint_eq(run.hypercall.ret, (uint64_t)-EINVAL);
}
END_TEST

/* KVM has preset success, so that a mistake of the VMM's must not leave that to the guest. */
START_TEST(hypercalls_are_answered_where_the_options_are_wrong)
{
	static const struct gmem_resolve_opts wrong[] = {
		{.flags = 2},
		{.policy = (enum gmem_convert_policy)7},
	};
	struct gmem_exit exit;

	leave_hypercall(0x11000, 1, ENCRYPTED);
	exit = decode(0, 0);
	ck_assert_int_eq(resolve(exit, wrong[_i]), -EINVAL);
	ck_assert_uint_ne(run.hypercall.ret, 0);
}
END_TEST

/* A notifier of the VMM's own refuses: that is no fault of the guest's. */
static int refuse(void *data, const struct gmem_conversion *conversion)
{
	(void)data;
	(void)conversion;
	return -EBUSY;
}

START_TEST(hypercall_that_a_notifier_refuses)
{
	struct gmem_notifier_opts opts = {.sz = sizeof(opts), .prepare = refuse};
	struct gmem_notifier *notifier;

	ck_works(gmem_vm_add_notifier(vm, &opts, &notifier));
	ck_fails(resolve_hypercall(0x11000, 1, ENCRYPTED), EBUSY, NOTIFIER_REFUSED);
	ck_assert_uint_eq(run.hypercall.ret, (uint64_t)-EINVAL);
	gmem_notifier_close(notifier);
}
END_TEST

/* ---- Pre-fault after a conversion ---- */

static struct gmem_exit to_private(void)
{
	return (struct gmem_exit){.sz = sizeof(struct gmem_exit),
				  .kind = GMEM_EXIT_TO_PRIVATE,
				  .flags = GMEM_EXIT_ADDRESS,
				  .gpa = 0x11000,
				  .size = 4 * PAGE};
}

static const struct gmem_resolve_opts with_prefault = {
	.policy = GMEM_CONVERT_KEEP,
	.flags = GMEM_RESOLVE_PREFAULT,
};

START_TEST(resolve_prefaults)
{
	struct gmem_exit exit = to_private();

	gmem_fake_expect(fake, SET("0x11000", "0x4000",
				   "private") "ioctl(vcpu1, PRE_FAULT, gpa=0x11000 size=0x4000)\n");
	ck_works(resolve(exit, with_prefault));
	exit.kind = GMEM_EXIT_TO_SHARED;
	gmem_fake_expect(fake, SET("0x11000", "0x4000", "shared"));
	ck_works(resolve(exit, with_prefault));
	exit.kind = GMEM_EXIT_TO_PRIVATE;
	gmem_fake_expect(fake, "ioctl(vm1, SET_ATTRIBUTES, gpa=0x11000 size=0x4000 private) = "
			       "EIO\n");
	ck_fails(resolve(exit, with_prefault), EIO, KERNEL_REFUSED);
	gmem_fake_met(fake);
	ck_assert_uint_eq(stats().prefault_bytes, 4 * PAGE);
}
END_TEST

/* A signal may be the VMM's wish that the vCPU stops, so it goes on after none. */
START_TEST(resolve_ends_prefault_at_a_signal)
{
	gmem_fake_fail(fake, 0, _i ? EAGAIN : EINTR, "PRE_FAULT");
	ck_works(resolve(to_private(), with_prefault));
	ck_assert_uint_eq(gmem_fake_recover(fake), 1);
}
END_TEST

/* Nothing is tried that the kernel has said it lacks. */
START_TEST(resolve_without_prefault)
{
	end();
	open_vm(GMEM_FAKE_PRIVATE, PAGE, 1);
	gmem_vm_close(vm);
	gmem_fake_set_cap(fake, KVM_CAP_PRE_FAULT_MEMORY, 0);
	vm = open_other();
	memfd = script_memfd(vm, 0x10000, 0);
	BIND(.gpa = 0x10000, .size = 0x10000, .memfd = memfd, .host = ram);
	open_vcpus(1);
	gmem_fake_expect(fake, SET("0x11000", "0x4000", "private"));
	ck_works(resolve(to_private(), with_prefault));
	gmem_fake_met(fake);
}
END_TEST

static const int prefault_errors[] = {EFAULT, ENOENT, EOPNOTSUPP, ENOTTY, EHWPOISON,
				      ENOMEM, EIO,    EINTR,	  EAGAIN, EBADE};

/* What it cannot do is none of the conversion's failures, nor of the thread's. */
START_TEST(resolve_ignores_prefault_failures)
{
	struct gmem_exit exit;

	ck_assert_int_lt(gmem_vm_convert(vm, 0, 0, SHARED, GMEM_CONVERT_DISCARD, NULL), 0);
	leave_hypercall(0x11000, 4, ENCRYPTED);
	exit = decode(0, 0);
	run.hypercall.ret = 0x77;
	gmem_fake_fail(fake, 0, prefault_errors[_i], "PRE_FAULT");
	ck_works(resolve(exit, with_prefault));
	ck_assert_uint_gt(gmem_fake_recover(fake), 0);
	ck_assert_int_eq(gmem_error_get_reason(), GMEM_REASON_RANGE_EMPTY);
	ck_assert_uint_eq(run.exit_reason, KVM_EXIT_HYPERCALL);
	ck_assert_uint_eq(run.hypercall.nr, KVM_HC_MAP_GPA_RANGE);
	ck_assert_uint_eq(run.hypercall.args[0], 0x11000);
	ck_assert_uint_eq(run.hypercall.args[1], 4);
	ck_assert_uint_eq(run.hypercall.ret, 0);
	ck_assert_uint_eq(stats().private_bytes, 4 * PAGE);
}
END_TEST

/* ---- The stuck guard ---- */

/* So often the same fault is resolved before the next time is stuck. */
static unsigned int repeat(uint64_t flags, uint64_t gpa, uint32_t limit, unsigned int most)
{
	struct gmem_exit exit;

	for (unsigned int i = 0; i < most; i++) {
		int r;

		leave_fault(FAULT, flags, gpa, PAGE);
		exit = decode(-1, EFAULT);
		ck_assert_int_eq(exit.kind, GMEM_EXIT_RETRY);
		r = resolve(exit, (struct gmem_resolve_opts){.repeat_limit = limit});
		if (r < 0) {
			ck_fails(r, ELOOP, EXIT_STUCK);
			return i;
		}
	}
	return most;
}

START_TEST(the_same_fault_is_stuck)
{
	ck_assert_uint_eq(repeat(0, 0x11000, 0, 1000), 100);
	/* Whoever goes on is told again. */
	ck_assert_uint_eq(repeat(0, 0x11000, 0, 1000), 0);
	ck_assert_uint_eq(repeat(0, 0x12000, 7, 1000), 7);
	ck_assert_uint_eq(repeat(0, 0x13000, 1, 1000), 1);
	ck_assert_uint_eq(repeat(0, 0x14000, UINT32_MAX, 1000), 1000);
	convert(0x15000, PAGE, PRIVATE);
	ck_assert_uint_eq(repeat(8, 0x15000, 5, 1000), 5);
}
END_TEST

/* Each of these says that the guest has come further, or that memory has changed. */
START_TEST(the_stuck_guard_starts_anew)
{
	struct gmem_exit exit;

	ck_assert_uint_eq(repeat(0, 0x11000, 10, 9), 9);
	switch (_i) {
	case 0: /* a conversion by whomever */
		convert(0x15000, PAGE, PRIVATE);
		break;
	case 1: /* a fault elsewhere */
		ck_assert_uint_eq(repeat(0, 0x12000, 10, 1), 1);
		break;
	case 2: /* another exit */
		run.exit_reason = 2;
		decode(0, 0);
		break;
	case 3: /* a hypercall */
		ck_works(resolve_hypercall(0x11000, 1, 0));
		break;
	case 4: /* a page that was missing there, and was filled */
		leave_fault(FAULT, FLAG_USERFAULT, 0x11000, PAGE);
		exit = decode(-1, EFAULT);
		ck_fails(gmem_vcpu_resolve(vcpu, &exit, NULL), ENODATA, EXIT_MISSING);
		break;
	default: /* the same page as the other kind */
		convert(0x11000, PAGE, PRIVATE);
		convert(0x11000, PAGE, SHARED);
	}
	ck_assert_uint_eq(repeat(0, 0x11000, 10, 100), 10);
}
END_TEST

/* Signals, and conversions that change nothing or fail, do not hide that it is stuck. */
START_TEST(the_stuck_guard_goes_on)
{
	struct gmem_exit exit;

	ck_assert_uint_eq(repeat(0, 0x11000, 10, 9), 9);
	switch (_i) {
	case 0:
		exit = decode(-1, EINTR);
		ck_works(gmem_vcpu_resolve(vcpu, &exit, NULL));
		break;
	case 1:
		convert(0x15000, PAGE, SHARED);
		break;
	default:
		ck_assert_int_lt(
			gmem_vm_convert(vm, 0x50000, PAGE, PRIVATE, GMEM_CONVERT_DISCARD, NULL), 0);
	}
	ck_assert_uint_eq(repeat(0, 0x11000, 10, 100), 1);
}
END_TEST

/* Each vCPU has its own. */
START_TEST(the_stuck_guard_is_each_vcpus)
{
	struct gmem_vcpu *first = vcpus[0];

	ck_assert_uint_eq(repeat(0, 0x11000, 10, 10), 10);
	open_vcpus(1);
	ck_assert_uint_eq(repeat(0, 0x11000, 10, 10), 10);
	gmem_vcpu_close(first);
}
END_TEST

/* A conversion that fails each time ends, too. */
START_TEST(a_failing_conversion_is_stuck)
{
	struct gmem_exit exit = to_private();
	unsigned int failures = 0;

	gmem_fake_fail(fake, 0, EIO, "SET_ATTRIBUTES");
	while (failures < 1000 &&
	       resolve(exit, (struct gmem_resolve_opts){.repeat_limit = 20}) == -EIO)
		failures++;
	ck_assert_int_eq(gmem_error_get_reason(), GMEM_REASON_EXIT_STUCK);
	ck_assert_uint_eq(failures, 20);
	gmem_fake_recover(fake);
}
END_TEST

/* ---- Pre-fault ---- */

/* The large slot, all of it private. */
#define BASE (16 * MIB)

static void start_prefault(void)
{
	start();
	convert(BASE, 64 * MIB, PRIVATE);
	gmem_fake_forget(fake);
}

static int prefault(uint64_t gpa, uint64_t size, uint64_t *done)
{
	return gmem_vcpu_prefault(vcpu, gpa, size, NULL, done);
}

#define PRE_FAULT(gpa, size) "ioctl(vcpu1, PRE_FAULT, gpa=" gpa " size=" size ")"

START_TEST(prefault_calls)
{
	uint64_t done = 1;

	gmem_fake_expect(fake, PRE_FAULT("0x1000000", "0x3000") "\n");
	ck_works(prefault(BASE, 0x3000, &done));
	ck_assert_uint_eq(done, 0x3000);
	/* In parts, between which it can be stopped. */
	gmem_fake_expect(
		fake, PRE_FAULT("0x1001000", "0x400000") "\n" PRE_FAULT(
			      "0x1401000", "0x400000") "\n" PRE_FAULT("0x1801000", "0x2000") "\n");
	ck_works(prefault(BASE + PAGE, 8 * MIB + 0x2000, &done));
	ck_assert_uint_eq(done, 8 * MIB + 0x2000);
	gmem_fake_met(fake);
	/* Nobody need know how far it came. */
	ck_works(prefault(BASE, 0x3000, NULL));
	ck_assert_uint_eq(stats().prefault_calls, 5);
	ck_assert_uint_eq(stats().prefault_bytes, 8 * MIB + 0x8000);
	ck_assert_uint_eq(stats().prefault_retries, 0);
	ck_assert_uint_ge(stats().prefault_ns, 5000);
}
END_TEST

/* KVM does a part of what it is asked, and says what is left. */
START_TEST(prefault_goes_on)
{
	uint64_t done = 1;

	gmem_fake_set_prefault_step(fake, 0x3000);
	gmem_fake_expect(fake,
			 PRE_FAULT("0x1000000", "0x8000") "\n" PRE_FAULT(
				 "0x1003000", "0x5000") "\n" PRE_FAULT("0x1006000", "0x2000") "\n");
	ck_works(prefault(BASE, 0x8000, &done));
	gmem_fake_met(fake);
	ck_assert_uint_eq(done, 0x8000);
}
END_TEST

START_TEST(prefault_goes_on_after_signals)
{
	uint64_t done = 1;

	gmem_fake_set_prefault_step(fake, 0x3000);
	gmem_fake_expect(fake, "ioctl(vcpu1, PRE_FAULT, gpa=0x1000000 size=0x8000) = EINTR\n"
			       "ioctl(vcpu1, PRE_FAULT, gpa=0x1000000 size=0x8000)\n"
			       "ioctl(vcpu1, PRE_FAULT, gpa=0x1003000 size=0x5000) = EAGAIN\n"
			       "ioctl(vcpu1, PRE_FAULT, gpa=0x1003000 size=0x5000)\n"
			       "ioctl(vcpu1, PRE_FAULT, gpa=0x1006000 size=0x2000)\n");
	ck_works(prefault(BASE, 0x8000, &done));
	gmem_fake_met(fake);
	ck_assert_uint_eq(done, 0x8000);
	ck_assert_uint_eq(stats().prefault_retries, 2);
	ck_assert_uint_eq(stats().prefault_calls, 5);
}
END_TEST

static const int again[] = {EINTR, EAGAIN};

/* Not for ever, where it comes no further. */
START_TEST(prefault_gives_up)
{
	uint64_t done = 1;

	gmem_fake_fail(fake, 0, again[_i], "PRE_FAULT");
	ck_fails(prefault(BASE, 0x8000, &done), again[_i], KERNEL_REFUSED);
	ck_assert_uint_eq(gmem_fake_recover(fake), 1001);
	ck_assert_uint_eq(done, 0);
	/* Every other call gets a page further. */
	gmem_fake_set_prefault_step(fake, PAGE);
	for (unsigned int i = 1; i < 2500; i += 2)
		gmem_fake_fail(fake, i, again[_i], "PRE_FAULT");
	ck_works(prefault(BASE, 1200 * PAGE, &done));
	ck_assert_uint_eq(done, 1200 * PAGE);
}
END_TEST

static const struct {
	int answer, error;
	enum gmem_reason reason;
} prefault_failures[] = {
	{-ENOENT, EFAULT, GMEM_REASON_GPA_UNMAPPED},
	{-EFAULT, EFAULT, GMEM_REASON_EXIT_GONE},
	{-EOPNOTSUPP, EOPNOTSUPP, GMEM_REASON_CAP_UNSUPPORTED},
	{-ENOTTY, EOPNOTSUPP, GMEM_REASON_CAP_UNSUPPORTED},
	{-EHWPOISON, EHWPOISON, GMEM_REASON_POISONED},
	{-ENOMEM, ENOMEM, GMEM_REASON_NO_MEMORY},
	{-EPERM, EPERM, GMEM_REASON_KVM_BLOCKED},
	{-EIO, EIO, GMEM_REASON_KERNEL_REFUSED},
	{-EINVAL, EINVAL, GMEM_REASON_KERNEL_REFUSED},
	/* Answers that no kernel gives. */
	{0, EBADE, GMEM_REASON_KERNEL_REFUSED},
	{1, EBADE, GMEM_REASON_KERNEL_REFUSED},
};

/* What the VMM has not yet read of its last exit is there whatever KVM writes. */
static void fill_run(struct kvm_run *at)
{
	memset(at, 0x3c, sizeof(*at));
	at->exit_reason = 17;
}

START_TEST(prefault_fails)
{
	struct kvm_run before;
	uint64_t done = 1;

	fill_run(&run);
	before = run;
	gmem_fake_answer(fake, 2, prefault_failures[_i].answer, "PRE_FAULT");
	script_check_failure(prefault(BASE, 12 * MIB, &done), prefault_failures[_i].error,
			     prefault_failures[_i].reason, "prefault", __FILE__, __LINE__);
	ck_assert_uint_eq(gmem_fake_recover(fake), 1);
	ck_assert_uint_eq(gmem_fake_count(fake, "PRE_FAULT"), 2);
	ck_assert_uint_eq(done, 4 * MIB);
	ck_assert_mem_eq(&before, &run, sizeof(run));
	ck_assert_uint_eq(logged, 1);
}
END_TEST

/* Where memory ends, exactly there. */
START_TEST(prefault_ends_at_a_hole)
{
	uint64_t done = 1;

	fill_run(&run);
	ck_fails(prefault(BASE + 62 * MIB, 4 * MIB, &done), EFAULT, GPA_UNMAPPED);
	ck_assert_uint_eq(done, 2 * MIB);
	ck_assert_ptr_nonnull(strstr(gmem_error_get_message(), "0x5000000"));
	ck_fails(prefault(BASE + 64 * MIB, PAGE, &done), EFAULT, GPA_UNMAPPED);
	ck_assert_uint_eq(done, 0);
	/* Private, but no memory of that kind; private, but no slot at all. */
	ck_works(prefault(0x30000, 0x10000, &done));
	convert(0x10000, 0x20000, PRIVATE);
	ck_works(prefault(0x10000, 0x20000, &done));
	ck_fails(prefault(0x3f000, 0x2000, &done), EFAULT, GPA_UNMAPPED);
	ck_assert_uint_eq(done, PAGE);
	ck_assert_uint_eq(run.exit_reason, 17);
}
END_TEST

/* As from the VMM's own ioctl. */
static void make_private_behind(uint64_t gpa, uint64_t size)
{
	struct kvm_memory_attributes attributes = {.address = gpa, .size = size, .attributes = 8};

	ck_assert_int_eq(fake->sys.ioctl(&fake->sys, gmem_vm_get_fd(vm), KVM_SET_MEMORY_ATTRIBUTES,
					 (uintptr_t)&attributes),
			 0);
}

START_TEST(prefault_where_memory_is_gone)
{
	struct kvm_run before;
	uint64_t done = 1;

	fill_run(&run);
	before = run;
	make_private_behind(0x31000, PAGE);
	ck_fails(prefault(0x30000, 0x3000, &done), EFAULT, EXIT_GONE);
	ck_assert_uint_eq(done, PAGE);
	ck_assert_mem_eq(&before, &run, sizeof(run));
	make_private_behind(0x31000, PAGE);
}
END_TEST

static const struct {
	uint64_t gpa, size;
	int error;
	enum gmem_reason reason;
} prefault_checks[] = {
	{BASE, 0, EINVAL, GMEM_REASON_RANGE_EMPTY},
	{BASE + 1, PAGE, EINVAL, GMEM_REASON_RANGE_UNALIGNED},
	{BASE, 0x1800, EINVAL, GMEM_REASON_RANGE_UNALIGNED},
	{UINT64_MAX - 0xfff, 0x1000, EOVERFLOW, GMEM_REASON_RANGE_WRAPS},
	{BASE, UINT64_MAX - 0xfff, EOVERFLOW, GMEM_REASON_RANGE_WRAPS},
	{WIDTH, PAGE, ERANGE, GMEM_REASON_GPA_BEYOND_WIDTH},
	{0, WIDTH + PAGE, ERANGE, GMEM_REASON_GPA_BEYOND_WIDTH},
};

START_TEST(prefault_is_checked)
{
	uint64_t done = 1;

	gmem_fake_expect(fake, NOTHING);
	script_check_failure(prefault(prefault_checks[_i].gpa, prefault_checks[_i].size, &done),
			     prefault_checks[_i].error, prefault_checks[_i].reason, "prefault",
			     __FILE__, __LINE__);
	ck_assert_uint_eq(done, 0);
	done = 1;
	script_check_failure(gmem_vm_prefault(vm, vcpus, 1, prefault_checks[_i].gpa,
					      prefault_checks[_i].size, NULL, &done),
			     prefault_checks[_i].error, prefault_checks[_i].reason, "prefault",
			     __FILE__, __LINE__);
	ck_assert_uint_eq(done, 0);
	gmem_fake_met(fake);
}
END_TEST

/* Even where the width is not known, no range ends past 2^62. */
START_TEST(prefault_without_a_width)
{
	uint64_t done = 1;

	vm->gpa_limit = UINT64_MAX;
	gmem_fake_expect(fake, NOTHING);
	ck_fails(prefault(0, (UINT64_C(1) << 62) + PAGE, &done), ERANGE, GPA_BEYOND_WIDTH);
	gmem_fake_met(fake);
	ck_assert_uint_eq(done, 0);
}
END_TEST

START_TEST(prefault_without_the_capability)
{
	uint64_t done = 1;

	end();
	open_vm(GMEM_FAKE_LINUX_7_3, PAGE, 0);
	gmem_vm_close(vm);
	gmem_fake_set_cap(fake, KVM_CAP_PRE_FAULT_MEMORY, _i ? -EPERM : 0);
	vm = script_vm(fake, 0);
	open_vcpus(1);
	gmem_fake_expect(fake, NOTHING);
	if (_i)
		ck_fails(prefault(0, PAGE, &done), EPERM, CAP_PROBE_FAILED);
	else
		ck_fails(prefault(0, PAGE, &done), EOPNOTSUPP, CAP_UNSUPPORTED);
	gmem_fake_met(fake);
	ck_assert_uint_eq(done, 0);
}
END_TEST

/* ---- A kernel that lies, and other threads ---- */

static int (*true_ioctl)(const struct gmem_sys *sys, int fd, unsigned long request,
			 uintptr_t argument);
static uint64_t lie;  /* what is left, says the kernel */
static int lie_error; /* and its errno */
static int stop;

static int lying_ioctl(const struct gmem_sys *sys, int fd, unsigned long request,
		       uintptr_t argument)
{
	struct kvm_pre_fault_memory *range = (void *)argument;

	if (request != KVM_PRE_FAULT_MEMORY)
		return true_ioctl(sys, fd, request, argument);
	range->size = lie;
	return -lie_error;
}

static void replace_ioctl(int (*by)(const struct gmem_sys *sys, int fd, unsigned long request,
				    uintptr_t argument))
{
	true_ioctl = fake->sys.ioctl;
	fake->sys.ioctl = by;
}

static const struct {
	uint64_t left;
	int kernel_error, error;
	uint64_t done;
} lies[] = {
	{0x9000, 0, EBADE, 0}, /* more than was asked for */
	{UINT64_MAX, 0, EBADE, 0},  {0x9000, EINTR, EBADE, 0},
	{0x8000, 0, EBADE, 0},					/* nothing done, and no reason */
	{0x1800, 0, EBADE, 0},					/* half a page */
	{0x7fff, EAGAIN, EBADE, 0}, {0x6000, EIO, EIO, 0x2000}, /* a part, and then a failure */
	{0, EIO, EIO, 0x8000},	    {0, 0, 0, 0x8000},
	{0, EINTR, 0, 0x8000},
};

START_TEST(prefault_of_a_lying_kernel)
{
	uint64_t done = 1;

	lie = lies[_i].left;
	lie_error = lies[_i].kernel_error;
	replace_ioctl(lying_ioctl);
	ck_assert_int_eq(prefault(BASE, 0x8000, &done), -lies[_i].error);
	if (lies[_i].error)
		ck_assert_int_eq(gmem_error_get_reason(), GMEM_REASON_KERNEL_REFUSED);
	ck_assert_uint_eq(done, lies[_i].done);
	ck_assert_uint_eq(stats().prefault_calls, 1);
	fake->sys.ioctl = true_ioctl;
}
END_TEST

/* Another thread asks the vCPU to leave KVM_RUN while the kernel works, and leaves an exit. */
static int kicking_ioctl(const struct gmem_sys *sys, int fd, unsigned long request,
			 uintptr_t argument)
{
	int r = true_ioctl(sys, fd, request, argument);

	run.immediate_exit = 1;
	run.request_interrupt_window = 1;
	leave_fault(FAULT, 8, 0x5000, 0x1000);
	return r;
}

START_TEST(prefault_leaves_a_kick)
{
	struct kvm_run before;

	fill_run(&run);
	run.immediate_exit = run.request_interrupt_window = 0;
	before = run;
	before.immediate_exit = before.request_interrupt_window = 1;
	replace_ioctl(kicking_ioctl);
	ck_works(prefault(BASE, 8 * MIB, NULL));
	ck_assert_mem_eq(&before, &run, sizeof(run));
	fake->sys.ioctl = true_ioctl;
}
END_TEST

static int stopping_ioctl(const struct gmem_sys *sys, int fd, unsigned long request,
			  uintptr_t argument)
{
	__atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
	return true_ioctl(sys, fd, request, argument);
}

START_TEST(prefault_is_stopped)
{
	struct gmem_prefault_opts opts = {.sz = sizeof(opts), .stop = &stop};
	uint64_t done = 1;

	stop = -1;
	gmem_fake_expect(fake, NOTHING);
	ck_fails(gmem_vcpu_prefault(vcpu, BASE, 12 * MIB, &opts, &done), ECANCELED, STOPPED);
	gmem_fake_met(fake);
	ck_assert_uint_eq(done, 0);
	stop = 0;
	replace_ioctl(stopping_ioctl);
	ck_fails(gmem_vcpu_prefault(vcpu, BASE, 12 * MIB, &opts, &done), ECANCELED, STOPPED);
	ck_assert_uint_eq(done, 4 * MIB);
	ck_assert_ptr_nonnull(strstr(gmem_error_get_message(), "0x400000 bytes"));
	/* Nothing is left to be stopped. */
	stop = 0;
	ck_works(gmem_vcpu_prefault(vcpu, BASE, MIB, &opts, &done));
	fake->sys.ioctl = true_ioctl;
	stop = 0;
}
END_TEST

/* ---- Progress ---- */

static struct {
	uint64_t done[64], total;
	unsigned int calls, stop_at;
	bool change;
} seen;

static int note_progress(void *data, uint64_t done, uint64_t total)
{
	struct gmem_exit exit = to_private();
	uint64_t filled = 1;

	ck_assert_ptr_eq(data, &seen);
	ck_assert_uint_lt(seen.calls, 64);
	seen.done[seen.calls++] = done;
	seen.total = total;
	if (seen.change) {
		ck_fails(prefault(BASE, PAGE, &filled), EDEADLK, IN_CALLBACK);
		ck_assert_uint_eq(filled, 0);
		ck_fails(gmem_vm_prefault(vm, vcpus, 1, BASE, PAGE, NULL, NULL), EDEADLK,
			 IN_CALLBACK);
		ck_fails(gmem_vm_convert(vm, 0x11000, PAGE, PRIVATE, GMEM_CONVERT_KEEP, NULL),
			 EDEADLK, IN_CALLBACK);
		ck_fails(gmem_vcpu_resolve(vcpu, &exit, NULL), EDEADLK, IN_CALLBACK);
		/* Who reads may. */
		ck_works(gmem_vcpu_decode(vcpu, 0, 0, &exit));
		stats();
	}
	return seen.calls == seen.stop_at ? 7 : 0;
}

static const struct gmem_prefault_opts with_progress = {
	.sz = sizeof(with_progress), .progress = note_progress, .data = &seen};

START_TEST(prefault_tells_of_progress)
{
	uint64_t done = 1;

	memset(&seen, 0, sizeof(seen));
	seen.change = true;
	ck_works(gmem_vcpu_prefault(vcpu, BASE, 10 * MIB, &with_progress, &done));
	ck_assert_uint_eq(seen.calls, 4);
	ck_assert_uint_eq(seen.total, 10 * MIB);
	ck_assert_uint_eq(seen.done[0], 0);
	ck_assert_uint_eq(seen.done[1], 4 * MIB);
	ck_assert_uint_eq(seen.done[2], 8 * MIB);
	ck_assert_uint_eq(seen.done[3], 10 * MIB);
	/* Whatever that callback failed at, the failure outside has a cause of its own. */
	gmem_fake_fail(fake, 1, EIO, "PRE_FAULT");
	ck_fails(gmem_vcpu_prefault(vcpu, BASE, MIB, &with_progress, &done), EIO, KERNEL_REFUSED);
}
END_TEST

START_TEST(prefault_is_stopped_by_its_progress)
{
	uint64_t done = 1;

	memset(&seen, 0, sizeof(seen));
	seen.stop_at = (unsigned int)_i;
	if (_i == 4) /* when all is done there is nothing to stop */
		ck_works(gmem_vcpu_prefault(vcpu, BASE, 10 * MIB, &with_progress, &done));
	else
		ck_fails(gmem_vcpu_prefault(vcpu, BASE, 10 * MIB, &with_progress, &done), ECANCELED,
			 STOPPED);
	ck_assert_uint_eq(done, seen.done[_i - 1]);
	ck_assert_uint_eq(seen.calls, (unsigned int)_i);
}
END_TEST

/* ---- Several vCPUs ---- */

START_TEST(prefault_with_vcpus)
{
	struct kvm_run before[VCPUS];
	uint64_t done = 1;

	gmem_vcpu_close(vcpu);
	open_vcpus(VCPUS);
	for (int i = 0; i < VCPUS; i++)
		fill_run(&runs[i]);
	memcpy(before, runs, sizeof(runs));
	memset(&seen, 0, sizeof(seen));
	ck_works(gmem_vm_prefault(vm, vcpus, VCPUS, BASE, 62 * MIB, &with_progress, &done));
	ck_assert_uint_eq(done, 62 * MIB);
	ck_assert_uint_eq(gmem_fake_count(fake, "PRE_FAULT"), 16);
	/* Each part once. */
	for (uint64_t part = 0; part < 16; part++) {
		char text[64];

		snprintf(text, sizeof(text), "gpa=%#llx size=%#llx)",
			 (unsigned long long)(BASE + part * 4 * MIB),
			 (unsigned long long)(part < 15 ? 4 * MIB : 2 * MIB));
		ck_assert_uint_eq(gmem_fake_count(fake, text), 1);
	}
	ck_assert_mem_eq(before, runs, sizeof(runs));
	ck_assert_uint_ge(seen.calls, 1);
	for (unsigned int i = 1; i < seen.calls; i++)
		ck_assert_uint_ge(seen.done[i], seen.done[i - 1]);
	ck_assert_uint_eq(seen.done[seen.calls - 1], 62 * MIB);
	ck_assert_uint_eq(stats().prefault_bytes, 62 * MIB);
	/* One of them fails: all stop. */
	gmem_fake_forget(fake);
	gmem_fake_fail(fake, 3, EHWPOISON, "PRE_FAULT");
	ck_fails(gmem_vm_prefault(vm, vcpus, VCPUS, BASE, 64 * MIB, NULL, &done), EHWPOISON,
		 POISONED);
	gmem_fake_recover(fake);
	ck_assert_uint_ge(done, 8 * MIB);
	ck_assert_uint_lt(done, 64 * MIB);
	ck_assert_uint_eq(done, 4 * MIB * (gmem_fake_count(fake, "PRE_FAULT") - 1));
	ck_assert_mem_eq(before, runs, sizeof(runs));
}
END_TEST

START_TEST(prefault_with_the_wrong_vcpus)
{
	struct gmem_vm *other = open_other();
	struct gmem_vcpu *many[257];
	uint64_t done = 1;

	for (size_t i = 0; i < 257; i++)
		many[i] = vcpu;
	gmem_fake_expect(fake, NOTHING);
	ck_fails(gmem_vm_prefault(vm, many, 0, BASE, PAGE, NULL, &done), EINVAL, ARGUMENT);
	ck_assert_uint_eq(done, 0);
	ck_fails(gmem_vm_prefault(vm, many, 257, BASE, PAGE, NULL, &done), EINVAL, ARGUMENT);
	ck_fails(gmem_vm_prefault(vm, many, SIZE_MAX, BASE, PAGE, NULL, &done), EINVAL, ARGUMENT);
	ck_fails(gmem_vm_prefault(vm, many, 2, BASE, PAGE, NULL, &done), EINVAL, ARGUMENT);
	ck_fails(gmem_vm_prefault(other, many, 1, BASE, PAGE, NULL, &done), EINVAL, ARGUMENT);
	many[1] = NULL;
	ck_fails(gmem_vm_prefault(vm, many, 2, BASE, PAGE, NULL, &done), EINVAL, NULL);
	ck_fails(gmem_vm_prefault(vm, NULL, 1, BASE, PAGE, NULL, &done), EINVAL, NULL);
	ck_fails(gmem_vm_prefault(NULL, many, 1, BASE, PAGE, NULL, &done), EINVAL, NULL);
	ck_fails(gmem_vcpu_prefault(NULL, BASE, PAGE, NULL, &done), EINVAL, NULL);
	ck_assert_uint_eq(done, 0);
	gmem_fake_met(fake);
	gmem_vm_close(other);
}
END_TEST

static void add_exits(Suite *suite)
{
	TCase *tcase = tcase_create("exits");

	tcase_add_checked_fixture(tcase, start, end);
	tcase_add_test(tcase, open_calls);
	tcase_add_loop_test(tcase, open_failure, 0, ARRAY_SIZE(open_failures));
	tcase_add_test(tcase, open_of_other_things);
	tcase_add_test(tcase, open_without_a_type);
	tcase_add_test(tcase, vcpu_survives_vm);
	tcase_add_test(tcase, enable_calls);
	tcase_add_loop_test(tcase, enable_refused, 0, ARRAY_SIZE(not_enabled));
	tcase_add_loop_test(tcase, decode_faults, 0, ARRAY_SIZE(exits));
	tcase_add_loop_test(tcase, decode_with_large_pages, 0, 2);
	tcase_add_loop_test(tcase, decode_without_private_memory, 0, 2);
	tcase_add_test(tcase, decode_without_a_private_half);
	tcase_add_test(tcase, decode_sizes);
	tcase_add_loop_test(tcase, decode_hypercalls, 0, ARRAY_SIZE(hypercalls));
	suite_add_tcase(suite, tcase);
}

static void add_resolve(Suite *suite)
{
	TCase *tcase = tcase_create("resolve");

	tcase_add_checked_fixture(tcase, start, end);
	tcase_add_test(tcase, resolve_converts);
	tcase_add_loop_test(tcase, resolve_tells, 0, ARRAY_SIZE(unresolved));
	tcase_add_test(tcase, resolve_of_impossible_faults);
	tcase_add_test(tcase, resolve_arguments);
	tcase_add_test(tcase, resolve_by_policy);
	tcase_add_loop_test(tcase, hypercalls_are_answered, 0, ARRAY_SIZE(types));
	tcase_add_test(tcase, hypercalls_of_a_given_vm);
	tcase_add_test(tcase, hypercalls_without_private_memory);
	tcase_add_loop_test(tcase, hypercalls_are_answered_where_the_options_are_wrong, 0, 2);
	tcase_add_test(tcase, hypercall_that_a_notifier_refuses);
	tcase_add_test(tcase, resolve_prefaults);
	tcase_add_loop_test(tcase, resolve_ends_prefault_at_a_signal, 0, 2);
	tcase_add_test(tcase, resolve_without_prefault);
	tcase_add_loop_test(tcase, resolve_ignores_prefault_failures, 0,
			    ARRAY_SIZE(prefault_errors));
	tcase_add_test(tcase, the_same_fault_is_stuck);
	tcase_add_loop_test(tcase, the_stuck_guard_starts_anew, 0, 6);
	tcase_add_loop_test(tcase, the_stuck_guard_goes_on, 0, 3);
	tcase_add_test(tcase, the_stuck_guard_is_each_vcpus);
	tcase_add_test(tcase, a_failing_conversion_is_stuck);
	suite_add_tcase(suite, tcase);
}

static void add_prefault(Suite *suite)
{
	TCase *tcase = tcase_create("prefault");

	tcase_add_checked_fixture(tcase, start_prefault, end);
	tcase_add_test(tcase, prefault_calls);
	tcase_add_test(tcase, prefault_goes_on);
	tcase_add_test(tcase, prefault_goes_on_after_signals);
	tcase_add_loop_test(tcase, prefault_gives_up, 0, ARRAY_SIZE(again));
	tcase_add_loop_test(tcase, prefault_fails, 0, ARRAY_SIZE(prefault_failures));
	tcase_add_test(tcase, prefault_ends_at_a_hole);
	tcase_add_test(tcase, prefault_where_memory_is_gone);
	tcase_add_loop_test(tcase, prefault_is_checked, 0, ARRAY_SIZE(prefault_checks));
	tcase_add_test(tcase, prefault_without_a_width);
	tcase_add_loop_test(tcase, prefault_without_the_capability, 0, 2);
	tcase_add_loop_test(tcase, prefault_of_a_lying_kernel, 0, ARRAY_SIZE(lies));
	tcase_add_test(tcase, prefault_leaves_a_kick);
	tcase_add_test(tcase, prefault_is_stopped);
	tcase_add_test(tcase, prefault_tells_of_progress);
	tcase_add_loop_test(tcase, prefault_is_stopped_by_its_progress, 1, 5);
	tcase_add_test(tcase, prefault_with_vcpus);
	tcase_add_test(tcase, prefault_with_the_wrong_vcpus);
	suite_add_tcase(suite, tcase);
}

int main(void)
{
	Suite *suite = suite_create("fake-vcpu");

	add_exits(suite);
	add_resolve(suite);
	add_prefault(suite);
	return harness_run(suite);
}
