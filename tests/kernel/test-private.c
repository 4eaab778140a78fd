/* SPDX-License-Identifier: MIT */
/* What the kernel does with types of VMs, private memory and memory attributes. No library. */
#include "../kvm/guest.h"
#include "../kvm/host.h"
#include "raw.h"
#include "suites.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGES	    4
#define SPACE_1	    (UINT32_C(1) << 16) /* in a slot's id */
#define TYPES_TRIED 32

#define NEED_ATTRIBUTES()                                                                          \
	do {                                                                                       \
		NEED_KVM();                                                                        \
		NEED(raw_device_cap(RAW_CAP_MEMORY_ATTRIBUTES) > 0                                 \
			     ? NULL                                                                \
			     : "this kernel has no memory attributes");                            \
	} while (0)

#define NEED_MMAP()                                                                                \
	NEED(raw_device_cap(RAW_CAP_GUEST_MEMFD_FLAGS) > 0                                         \
		     ? NULL                                                                        \
		     : "this kernel has no guest_memfd with MMAP")

/* ---- Types ---- */

START_TEST(types_of_the_capability_and_no_others_make_a_vm)
{
	uint32_t types;
	int vm;

	NEED_KVM();
	types = raw_vm_types();
	ck_assert_uint_eq(types & 1U << RAW_VM_DEFAULT, 1);
	for (unsigned int type = 0; type < TYPES_TRIED; type++) {
		vm = raw_vm_of_type(type);
		if (types >> type & 1)
			ck_assert_msg(vm >= 0, "type %u: %d", type, vm);
		else
			ck_assert_msg(vm == -EINVAL, "type %u: %d", type, vm);
		close(vm);
	}
	harness_note("%s", types & 1U << RAW_VM_SW_PROTECTED ? "with software-protected VMs"
							     : "no software-protected VMs");
}
END_TEST

static bool is_private_type(int type)
{
	return type == RAW_VM_SW_PROTECTED || type == RAW_VM_SNP || type == RAW_VM_TDX;
}

/* What the flags of creation must be. Before Linux 6.18 there was no flag at all. */
static int flags_of_type(int type)
{
	if (raw_device_cap(RAW_CAP_GUEST_MEMFD_FLAGS) <= 0)
		return 0;
	return is_private_type(type) ? (int)RAW_MMAP : (int)RAW_SHARED;
}

START_TEST(guest_memfd_of_each_type_takes_its_flags)
{
	static const char *const names[] = {"none", "MMAP", "INIT_SHARED", "MMAP, INIT_SHARED"};
	int vm, cap, r;

	NEED_TYPE((unsigned int)_i);
	vm = raw_vm_of_type((unsigned int)_i);
	if (is_private_type(_i))
		ck_assert_int_eq(raw_cap(vm, RAW_CAP_GUEST_MEMFD), 1);
	if (raw_cap(vm, RAW_CAP_GUEST_MEMFD) <= 0)
		SKIP("VMs of type %d have no guest_memfd", _i);
	cap = raw_cap(vm, RAW_CAP_GUEST_MEMFD_FLAGS);
	ck_assert_int_eq(cap, flags_of_type(_i));
	for (uint64_t flags = 0; flags < 8; flags++) {
		r = raw_memfd(vm, raw_page(), flags);
		if (flags & ~(uint64_t)cap)
			ck_assert_int_eq(r, -EINVAL);
		else
			ck_assert_int_ge(r, 0);
		close(r);
	}
	harness_note("%s", names[cap]);
	close(vm);
}
END_TEST

START_TEST(private_vm_has_one_address_space)
{
	int vm, plain, spaces;

	NEED_TYPE(RAW_VM_SW_PROTECTED);
	vm = raw_vm_of_type(RAW_VM_SW_PROTECTED);
	plain = raw_vm();
	spaces = raw_cap(vm, KVM_CAP_MULTI_ADDRESS_SPACE);
	ck_assert(spaces == 0 || spaces == 1);
	ck_assert_int_eq(
		raw_set(vm,
			&(struct raw_region){.slot = SPACE_1, .gpa = RAW_GPA, .size = raw_page()}),
		-EINVAL);
	harness_note("%s", raw_cap(plain, KVM_CAP_MULTI_ADDRESS_SPACE) == 2
				   ? "a plain VM has two"
				   : "a plain VM has one too");
	close(plain);
	close(vm);
}
END_TEST

START_TEST(private_vm_takes_what_its_capability_of_read_only_slots_says)
{
	struct raw_region region = {.flags = RAW_READONLY, .gpa = RAW_GPA, .size = raw_page()};
	int vm, cap, r;

	NEED_TYPE(RAW_VM_SW_PROTECTED);
	vm = raw_vm_of_type(RAW_VM_SW_PROTECTED);
	cap = raw_cap(vm, KVM_CAP_READONLY_MEM);
	r = raw_try(vm, &region);
	ck_assert_int_eq(r, cap > 0 ? 0 : -EINVAL);
	harness_note("%s", raw_word(r));
	close(vm);
}
END_TEST

/* ---- Attributes ---- */

START_TEST(private_attribute_is_of_the_device_and_of_private_vms_alone)
{
	int of_device, vm;

	NEED_KVM();
	of_device = raw_device_cap(RAW_CAP_MEMORY_ATTRIBUTES);
	ck_assert(of_device == 0 || of_device == (int)RAW_ATTRIBUTE_PRIVATE);
	vm = raw_vm();
	ck_assert_int_eq(raw_cap(vm, RAW_CAP_MEMORY_ATTRIBUTES), 0);
	close(vm);
	if (raw_vm_types() & 1U << RAW_VM_SW_PROTECTED) {
		vm = raw_vm_of_type(RAW_VM_SW_PROTECTED);
		ck_assert_int_eq(raw_cap(vm, RAW_CAP_MEMORY_ATTRIBUTES),
				 (int)RAW_ATTRIBUTE_PRIVATE);
		close(vm);
	}
	harness_note("%s", of_device ? "PRIVATE" : "none");
}
END_TEST

START_TEST(attributes_are_refused_where_the_kernel_has_none)
{
	int vm, r;

	NEED_KVM();
	vm = raw_vm();
	r = raw_set_attributes(vm, RAW_GPA, raw_page(), 0);
	/* Of an ioctl that it does not know, each architecture says so in its own way. */
	if (raw_device_cap(RAW_CAP_MEMORY_ATTRIBUTES) > 0)
		ck_assert_int_eq(r, 0);
	else
		ck_assert(r == -ENOTTY || r == -EINVAL);
	harness_note("%s", raw_word(r));
	close(vm);
}
END_TEST

START_TEST(plain_vm_takes_no_attribute)
{
	int vm;

	NEED_ATTRIBUTES();
	vm = raw_vm();
	ck_assert_int_eq(raw_set_attributes(vm, RAW_GPA, raw_page(), 0), 0);
	ck_assert_int_eq(raw_set_attributes(vm, RAW_GPA, raw_page(), RAW_ATTRIBUTE_PRIVATE),
			 -EINVAL);
	close(vm);
}
END_TEST

/* With neither a slot nor a guest_memfd: pages numbered from the start of guest memory. */
static const struct {
	const char *name;
	int64_t page, pages;
	int64_t more_address, more_size; /* in bytes */
	uint64_t attributes;
	uint64_t flags;
	int result;
} settings[] = {
	{"private", 16, 4, 0, 0, RAW_ATTRIBUTE_PRIVATE, 0, 0},
	{"shared", 16, 4, 0, 0, 0, 0, 0},
	{"page 0", 0, 1, 0, 0, RAW_ATTRIBUTE_PRIVATE, 0, 0},
	{"far up", INT64_C(1) << 40, 1, 0, 0, RAW_ATTRIBUTE_PRIVATE, 0, 0},
	{"the last but one", -2, 1, 0, 0, RAW_ATTRIBUTE_PRIVATE, 0, 0},
	{"the last, which ends at 0", -1, 1, 0, 0, RAW_ATTRIBUTE_PRIVATE, 0, -EINVAL},
	{"past the end", -1, 2, 0, 0, RAW_ATTRIBUTE_PRIVATE, 0, -EINVAL},
	{"nothing", 16, 0, 0, 0, RAW_ATTRIBUTE_PRIVATE, 0, -EINVAL},
	{"nothing, shared", 16, 0, 0, 0, 0, 0, -EINVAL},
	{"part of a page", 16, 0, 0, 1, RAW_ATTRIBUTE_PRIVATE, 0, -EINVAL},
	{"pages and a half", 16, 1, 0, 2048, RAW_ATTRIBUTE_PRIVATE, 0, -EINVAL},
	{"between pages", 16, 1, 1, 0, RAW_ATTRIBUTE_PRIVATE, 0, -EINVAL},
	{"a flag", 16, 1, 0, 0, RAW_ATTRIBUTE_PRIVATE, 1, -EINVAL},
	{"the highest flag", 16, 1, 0, 0, 0, UINT64_C(1) << 63, -EINVAL},
	{"readable", 16, 1, 0, 0, 1, 0, -EINVAL},
	{"writable", 16, 1, 0, 0, 2, 0, -EINVAL},
	{"executable", 16, 1, 0, 0, 4, 0, -EINVAL},
	{"the next attribute", 16, 1, 0, 0, 16, 0, -EINVAL},
	{"private and another", 16, 1, 0, 0, RAW_ATTRIBUTE_PRIVATE | 16, 0, -EINVAL},
	{"the highest attribute", 16, 1, 0, 0, UINT64_C(1) << 63, 0, -EINVAL},
};

START_TEST(attributes_need_a_whole_range_and_no_slot)
{
	int64_t page = (int64_t)raw_page();
	struct raw_attributes set;
	int vm;

	NEED_TYPE(RAW_VM_SW_PROTECTED);
	vm = raw_vm_of_type(RAW_VM_SW_PROTECTED);
	for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++) {
		set = (struct raw_attributes){
			.gpa = (uint64_t)(settings[i].page * page + settings[i].more_address),
			.size = (uint64_t)(settings[i].pages * page + settings[i].more_size),
			.attributes = settings[i].attributes,
			.flags = settings[i].flags,
		};
		raw_expect(settings[i].name, raw_result(ioctl(vm, RAW_SET_ATTRIBUTES, &set)),
			   settings[i].result);
	}
	raw_expect_end();
	close(vm);
}
END_TEST

START_TEST(attributes_can_be_set_again_and_in_part)
{
	size_t page = raw_page();
	int vm;

	NEED_TYPE(RAW_VM_SW_PROTECTED);
	vm = raw_vm_of_type(RAW_VM_SW_PROTECTED);
	for (int times = 0; times < 2; times++)
		ck_assert_int_eq(
			raw_set_attributes(vm, RAW_GPA, PAGES * page, RAW_ATTRIBUTE_PRIVATE), 0);
	ck_assert_int_eq(raw_set_attributes(vm, RAW_GPA + page, page, 0), 0);
	for (int times = 0; times < 2; times++)
		ck_assert_int_eq(raw_set_attributes(vm, RAW_GPA - page, 2 * page, 0), 0);
	close(vm);
}
END_TEST

static int set_attributes_in_child(void *data)
{
	int vm = *(int *)data;

	CHILD_CHECK(raw_set_attributes(vm, RAW_GPA, raw_page(), 0) == -EIO);
	/* Even before the kernel reads the argument. */
	CHILD_CHECK(raw_result(ioctl(vm, RAW_SET_ATTRIBUTES, NULL)) == -EIO);
	return 0;
}

START_TEST(attributes_are_for_the_process_that_made_the_vm)
{
	int vm;

	NEED_TYPE(RAW_VM_SW_PROTECTED);
	vm = raw_vm_of_type(RAW_VM_SW_PROTECTED);
	ck_assert_int_eq(raw_result(ioctl(vm, RAW_SET_ATTRIBUTES, NULL)), -EFAULT);
	ck_assert_int_eq(host_run_child(set_attributes_in_child, &vm), 0);
	close(vm);
}
END_TEST

/* ---- Slots with two halves ---- */

/*
 * A VM of type SW_PROTECTED with a guest at RAW_CODE and PAGES pages at RAW_GPA: private ones from
 * a guest_memfd, shared ones from ordinary memory.
 */
struct halves {
	int vm;
	int fd;
	size_t page;
	size_t size;
	unsigned char *memory;
	struct guest guest;
};

static void open_halves(struct halves *halves, uint64_t flags)
{
	halves->vm = raw_vm_of_type(RAW_VM_SW_PROTECTED);
	ck_assert_int_ge(halves->vm, 0);
	halves->page = raw_page();
	halves->size = PAGES * halves->page;
	halves->memory = raw_map(-1, 0, halves->size);
	halves->fd = raw_add_memfd(halves->vm, halves->size, flags, halves->memory);
	raw_open_guest(halves->vm, &halves->guest);
}

static void close_halves(struct halves *halves)
{
	guest_close(&halves->guest);
	munmap(halves->memory, halves->size);
	close(halves->fd);
	close(halves->vm);
}

static void set_private(const struct halves *halves, unsigned int page, bool is_private)
{
	raw_set_private(halves->vm, RAW_GPA + page * halves->page, is_private);
}

static void store(struct halves *halves, unsigned int page, uint32_t value)
{
	ck_assert_int_eq(guest_store(&halves->guest, RAW_GPA + page * halves->page, value),
			 KVM_EXIT_HLT);
}

static uint32_t load(struct halves *halves, unsigned int page)
{
	uint32_t value;

	ck_assert_int_eq(guest_load(&halves->guest, RAW_GPA + page * halves->page, &value),
			 KVM_EXIT_HLT);
	return value;
}

START_TEST(private_vm_binds_a_guest_memfd_with_or_without_an_address)
{
	struct raw_region region;
	int vm, fd;

	NEED_TYPE(RAW_VM_SW_PROTECTED);
	if (_i == RAW_MMAP)
		NEED_MMAP();
	vm = raw_vm_of_type(RAW_VM_SW_PROTECTED);
	fd = raw_memfd(vm, raw_page(), (uint64_t)_i);
	ck_assert_int_ge(fd, 0);
	region = (struct raw_region){.flags = RAW_GUEST_MEMFD,
				     .gpa = RAW_GPA,
				     .size = raw_page(),
				     .memfd = (uint32_t)fd};
	ck_assert_int_eq(raw_try(vm, &region), 0);
	region.addr = (uintptr_t)raw_map(-1, 0, raw_page());
	ck_assert_int_eq(raw_try(vm, &region), 0);
	region.flags |= RAW_LOG_DIRTY;
	ck_assert_int_eq(raw_try(vm, &region), -EINVAL);
	region.flags = RAW_GUEST_MEMFD | RAW_READONLY;
	ck_assert_int_eq(raw_try(vm, &region), -EINVAL);
	close(fd);
	close(vm);
}
END_TEST

/* Linux 6.12 asks for the VM's type with the slot alone. */
START_TEST(plain_vm_binds_no_guest_memfd_that_it_has_no_capability_for)
{
	struct raw_region region = {.flags = RAW_GUEST_MEMFD, .gpa = RAW_GPA};
	int vm, fd;

	NEED_TYPE(RAW_VM_SW_PROTECTED);
	vm = raw_vm();
	if (raw_cap(vm, RAW_CAP_GUEST_MEMFD)) {
		close(vm);
		SKIP("a plain VM has guest_memfd");
	}
	fd = raw_memfd(vm, raw_page(), 0);
	harness_note("%s", fd < 0 ? raw_word(fd) : "one is made");
	if (fd >= 0) {
		region.size = raw_page();
		region.memfd = (uint32_t)fd;
		ck_assert_int_eq(raw_set(vm, &region), -EINVAL);
		close(fd);
	}
	close(vm);
}
END_TEST

START_TEST(guest_memory_begins_as_shared_and_is_at_the_address)
{
	struct halves halves;

	NEED_GUEST();
	NEED_TYPE(RAW_VM_SW_PROTECTED);
	open_halves(&halves, 0);
	halves.memory[halves.page] = 9;
	ck_assert_uint_eq(load(&halves, 1), 9);
	store(&halves, 1, 8);
	ck_assert_uint_eq(halves.memory[halves.page], 8);
	close_halves(&halves);
}
END_TEST

START_TEST(private_page_is_in_the_guest_memfd)
{
	struct halves halves;

	NEED_GUEST();
	NEED_TYPE(RAW_VM_SW_PROTECTED);
	open_halves(&halves, 0);
	memset(halves.memory, 9, halves.size);
	set_private(&halves, 1, true);
	ck_assert_uint_eq(load(&halves, 1), 0);
	store(&halves, 1, 7);
	ck_assert_uint_eq(load(&halves, 1), 7);
	ck_assert_uint_eq(halves.memory[halves.page], 9);
	ck_assert_uint_eq(load(&halves, 0), 0x09090909);
	ck_assert_uint_eq(load(&halves, 2), 0x09090909);
	close_halves(&halves);
}
END_TEST

/* The two halves are two memories: converting neither copies nor clears. */
START_TEST(converted_page_shows_what_its_other_half_held)
{
	struct halves halves;

	NEED_GUEST();
	NEED_TYPE(RAW_VM_SW_PROTECTED);
	open_halves(&halves, 0);
	store(&halves, 0, 1);
	set_private(&halves, 0, true);
	store(&halves, 0, 2);
	set_private(&halves, 0, false);
	ck_assert_uint_eq(load(&halves, 0), 1);
	store(&halves, 0, 3);
	set_private(&halves, 0, true);
	ck_assert_uint_eq(load(&halves, 0), 2);
	set_private(&halves, 0, false);
	ck_assert_uint_eq(load(&halves, 0), 3);
	close_halves(&halves);
}
END_TEST

START_TEST(private_and_shared_pages_can_alternate)
{
	struct halves halves;

	NEED_GUEST();
	NEED_TYPE(RAW_VM_SW_PROTECTED);
	open_halves(&halves, 0);
	for (unsigned int i = 0; i < PAGES; i += 2)
		set_private(&halves, i, true);
	for (unsigned int i = 0; i < PAGES; i++)
		store(&halves, i, 10 + i);
	for (unsigned int i = 0; i < PAGES; i++) {
		ck_assert_uint_eq(load(&halves, i), 10 + i);
		ck_assert_uint_eq(halves.memory[i * halves.page], i % 2 ? 10 + i : 0);
	}
	close_halves(&halves);
}
END_TEST

START_TEST(attributes_are_of_addresses_and_outlive_slots)
{
	struct raw_region region;
	struct halves halves;

	NEED_GUEST();
	NEED_TYPE(RAW_VM_SW_PROTECTED);
	open_halves(&halves, 0);
	set_private(&halves, 0, true);
	store(&halves, 0, 5);
	ck_assert_int_eq(raw_delete(halves.vm, 0), 0);
	raw_bind(halves.vm, halves.fd, halves.size, halves.memory);
	ck_assert_uint_eq(load(&halves, 0), 5);
	ck_assert_uint_eq(halves.memory[0], 0);
	/* Elsewhere the same file range is shared until somebody says otherwise. */
	ck_assert_int_eq(raw_delete(halves.vm, 0), 0);
	region = (struct raw_region){.flags = RAW_GUEST_MEMFD,
				     .gpa = RAW_NOWHERE,
				     .size = halves.size,
				     .addr = (uintptr_t)halves.memory,
				     .memfd = (uint32_t)halves.fd};
	ck_assert_int_eq(raw_set(halves.vm, &region), 0);
	ck_assert_int_eq(guest_store(&halves.guest, RAW_NOWHERE, 6), KVM_EXIT_HLT);
	ck_assert_uint_eq(halves.memory[0], 6);
	close_halves(&halves);
}
END_TEST

START_TEST(punched_private_page_reads_zero)
{
	struct halves halves;

	NEED_GUEST();
	NEED_TYPE(RAW_VM_SW_PROTECTED);
	open_halves(&halves, 0);
	set_private(&halves, 0, true);
	set_private(&halves, 1, true);
	store(&halves, 0, 5);
	store(&halves, 1, 6);
	ck_assert_int_eq(raw_punch(halves.fd, 0, halves.page), 0);
	ck_assert_uint_eq(load(&halves, 0), 0);
	ck_assert_uint_eq(load(&halves, 1), 6);
	store(&halves, 0, 7);
	ck_assert_uint_eq(load(&halves, 0), 7);
	close_halves(&halves);
}
END_TEST

START_TEST(punch_leaves_the_shared_half_alone)
{
	struct halves halves;

	NEED_GUEST();
	NEED_TYPE(RAW_VM_SW_PROTECTED);
	open_halves(&halves, 0);
	store(&halves, 0, 5);
	ck_assert_int_eq(raw_punch(halves.fd, 0, halves.page), 0);
	ck_assert_uint_eq(load(&halves, 0), 5);
	ck_assert_uint_eq(halves.memory[0], 5);
	close_halves(&halves);
}
END_TEST

START_TEST(allocated_private_page_reads_zero)
{
	struct halves halves;

	NEED_GUEST();
	NEED_TYPE(RAW_VM_SW_PROTECTED);
	open_halves(&halves, 0);
	ck_assert_int_eq(raw_allocate(halves.fd, 0, halves.size), 0);
	set_private(&halves, 0, true);
	ck_assert_uint_eq(load(&halves, 0), 0);
	close_halves(&halves);
}
END_TEST

/* With MMAP the whole slot is the guest_memfd, shared pages too. */
START_TEST(guest_memfd_with_mmap_holds_both_halves)
{
	struct halves halves;

	NEED_GUEST();
	NEED_TYPE(RAW_VM_SW_PROTECTED);
	NEED_MMAP();
	open_halves(&halves, RAW_MMAP);
	store(&halves, 0, 5);
	ck_assert_uint_eq(halves.memory[0], 0);
	set_private(&halves, 0, true);
	ck_assert_uint_eq(load(&halves, 0), 5);
	close_halves(&halves);
}
END_TEST

/* ---- Attributes beside a running guest ---- */

/* A guest that waits for a word to become other than 0. */
struct waiter {
	struct guest *guest;
	uint64_t gpa;
	uint32_t value;
	int reason;
};

static void *wait_for_word(void *data)
{
	struct waiter *waiter = data;

	/* A fault that crosses the change can still ask for the old kind: then it is an exit. */
	do
		waiter->reason = guest_await(waiter->guest, waiter->gpa, &waiter->value);
	while (waiter->reason == -EFAULT &&
	       waiter->guest->run->exit_reason == RAW_EXIT_MEMORY_FAULT);
	return NULL;
}

/* The guest loops over a shared page until the attribute gives it the private one instead. */
START_TEST(attribute_reaches_a_vcpu_that_is_running)
{
	struct halves halves;
	struct waiter waiter;
	pthread_t thread;

	NEED_GUEST();
	NEED_TYPE(RAW_VM_SW_PROTECTED);
	open_halves(&halves, 0);
	set_private(&halves, 1, true);
	store(&halves, 1, 7);
	set_private(&halves, 1, false);
	waiter = (struct waiter){.guest = &halves.guest, .gpa = RAW_GPA + halves.page};
	ck_assert_int_eq(pthread_create(&thread, NULL, wait_for_word, &waiter), 0);
	usleep(20000);
	/* Other pages first, and this one in part of a range. */
	set_private(&halves, 3, true);
	ck_assert_int_eq(
		raw_set_attributes(halves.vm, RAW_GPA, 2 * halves.page, RAW_ATTRIBUTE_PRIVATE), 0);
	pthread_join(thread, NULL);
	ck_assert_int_eq(waiter.reason, KVM_EXIT_HLT);
	ck_assert_uint_eq(waiter.value, 7);
	close_halves(&halves);
}
END_TEST

/* ---- The hypercall that asks for private memory ---- */

/* A VM and a guest to make hypercalls in it. */
struct caller {
	int vm;
	struct guest guest;
};

/* Opens one of a type whose hypercalls of these numbers exit, or skips the test. */
static bool open_caller(struct caller *caller, unsigned int type, uint64_t calls)
{
	const char *missing = raw_missing_type(type);

	if (!missing)
		missing = raw_missing_calls();
	if (!missing && raw_device_cap(RAW_CAP_EXIT_HYPERCALL) <= 0)
		missing = "this kernel does not let hypercalls exit";
	if (missing) {
		harness_skip("%s", missing);
		return false;
	}
	caller->vm = raw_vm_of_type(type);
	ck_assert_int_ge(caller->vm, 0);
	if (calls)
		ck_assert_int_eq(raw_enable_hypercalls(caller->vm, calls), 0);
	raw_open_guest(caller->vm, &caller->guest);
	return true;
}

static void close_caller(struct caller *caller)
{
	guest_close(&caller->guest);
	close(caller->vm);
}

static int64_t result_of(const struct caller *caller)
{
	uint64_t gpa;

	ck_assert_uint_eq(caller->guest.run->exit_reason, KVM_EXIT_HLT);
	return guest_result(&caller->guest, &gpa);
}

/* What a guest gets for a call of which userspace is not told. */
static int64_t call_in_vain(struct caller *caller, uint64_t number, const uint64_t args[3])
{
	guest_begin_call(&caller->guest, number, args);
	ck_assert_int_eq(guest_enter(&caller->guest), 0);
	return result_of(caller);
}

static struct raw_hypercall call(struct caller *caller, const uint64_t args[3])
{
	struct raw_hypercall told;

	memset(&caller->guest.run->hw, 0xa5, sizeof(told));
	guest_begin_call(&caller->guest, RAW_MAP_GPA_RANGE, args);
	ck_assert_int_eq(guest_enter(&caller->guest), 0);
	ck_assert_uint_eq(caller->guest.run->exit_reason, KVM_EXIT_HYPERCALL);
	memcpy(&told, &caller->guest.run->hw, sizeof(told));
	return told;
}

static int64_t answer(struct caller *caller, uint64_t ret)
{
	struct raw_hypercall told;

	memcpy(&told, &caller->guest.run->hw, sizeof(told));
	told.ret = ret;
	memcpy(&caller->guest.run->hw, &told, sizeof(told));
	ck_assert_int_eq(guest_enter(&caller->guest), 0);
	return result_of(caller);
}

START_TEST(hypercall_of_a_range_is_unknown_until_enabled)
{
	const uint64_t args[3] = {RAW_GPA, 1, RAW_RANGE_PRIVATE};
	struct caller caller;

	if (!open_caller(&caller, (unsigned int)_i, 0))
		return;
	ck_assert_int_eq(call_in_vain(&caller, RAW_MAP_GPA_RANGE, args), -RAW_CALL_UNSUPPORTED);
	ck_assert_int_eq(raw_enable_hypercalls(caller.vm, RAW_CALLS_MAP), 0);
	call(&caller, args);
	ck_assert_int_eq(answer(&caller, 0), 0);
	ck_assert_int_eq(call_in_vain(&caller, 99, args), -RAW_CALL_UNSUPPORTED);
	ck_assert_int_eq(raw_enable_hypercalls(caller.vm, 0), 0);
	ck_assert_int_eq(call_in_vain(&caller, RAW_MAP_GPA_RANGE, args), -RAW_CALL_UNSUPPORTED);
	close_caller(&caller);
}
END_TEST

START_TEST(hypercalls_of_the_capability_and_no_others_can_be_enabled)
{
	struct kvm_enable_cap enable = {
		.cap = RAW_CAP_EXIT_HYPERCALL, .flags = 1, .args = {RAW_CALLS_MAP}};
	int vm, cap;

	NEED_KVM();
	vm = raw_vm();
	cap = raw_cap(vm, RAW_CAP_EXIT_HYPERCALL);
	if (cap <= 0)
		SKIP("this kernel does not let hypercalls exit");
	ck_assert_uint_eq((uint64_t)cap & RAW_CALLS_MAP, RAW_CALLS_MAP);
	for (unsigned int bit = 0; bit < 64; bit++)
		ck_assert_int_eq(raw_enable_hypercalls(vm, UINT64_C(1) << bit),
				 bit < 31 && cap >> bit & 1 ? 0 : -EINVAL);
	ck_assert_int_eq(raw_result(ioctl(vm, KVM_ENABLE_CAP, &enable)), -EINVAL);
	close(vm);
}
END_TEST

/* KVM passes on what it does not check: where memory is, and what the attributes mean. */
static const uint64_t passed_on[][3] = {
	{RAW_GPA, 1, RAW_RANGE_PRIVATE},
	{RAW_GPA, 1, 0},
	{RAW_NOWHERE, UINT64_C(1) << 20, RAW_RANGE_PRIVATE},
	{0, UINT64_C(1) << 52, RAW_RANGE_PRIVATE}, /* 2^64 bytes */
	{0, UINT64_MAX, RAW_RANGE_PRIVATE},
	{~UINT64_C(4095), 1, RAW_RANGE_PRIVATE}, /* to 2^64 */
	{~UINT64_C(4095), 2, RAW_RANGE_PRIVATE}, /* past 2^64, in bytes */
	{RAW_GPA, 1, UINT64_MAX},
	{RAW_GPA, 1, 7},
	{RAW_GPA, 1, UINT64_C(1) << 63},
};

START_TEST(hypercall_exit_tells_what_the_guest_gave)
{
	struct raw_hypercall told;
	struct caller caller;

	if (!open_caller(&caller, (unsigned int)_i, RAW_CALLS_MAP))
		return;
	for (size_t i = 0; i < sizeof(passed_on) / sizeof(passed_on[0]); i++) {
		told = call(&caller, passed_on[i]);
		ck_assert_uint_eq(told.number, RAW_MAP_GPA_RANGE);
		ck_assert_int_eq(memcmp(told.args, passed_on[i], sizeof(passed_on[i])), 0);
		ck_assert_uint_eq(told.flags, RAW_CALL_LONG_MODE);
		ck_assert_int_eq(answer(&caller, 0), 0);
	}
	close_caller(&caller);
}
END_TEST

/* Before Linux 6.13 ret was what an exit before had left there. */
START_TEST(hypercall_is_answered_with_what_userspace_writes)
{
	static const int64_t answers[] = {0, -RAW_CALL_INVALID, -RAW_CALL_UNSUPPORTED, 1,
					  INT64_MIN};
	const uint64_t args[3] = {RAW_GPA, 1, RAW_RANGE_PRIVATE};
	struct caller caller;
	uint64_t preset;

	if (!open_caller(&caller, (unsigned int)_i, RAW_CALLS_MAP))
		return;
	preset = call(&caller, args).ret;
	ck_assert_int_eq(guest_enter(&caller.guest), 0);
	ck_assert_uint_eq((uint64_t)result_of(&caller), preset);
	for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
		call(&caller, args);
		ck_assert_int_eq(answer(&caller, (uint64_t)answers[i]), answers[i]);
	}
	harness_note("%s", preset ? "ret is left over" : "ret is 0 before");
	close_caller(&caller);
}
END_TEST

/* The first page of guest addresses counted in pages is 0, and the last 2^64 - 1. */
START_TEST(hypercall_is_refused_by_kvm_where_its_range_is_none)
{
	static const uint64_t refused[][3] = {
		{RAW_GPA + 1, 1, RAW_RANGE_PRIVATE},  {RAW_GPA + 2048, 1, 0},
		{RAW_GPA, 0, RAW_RANGE_PRIVATE},      {RAW_GPA, UINT64_MAX, RAW_RANGE_PRIVATE},
		{~UINT64_C(4095), UINT64_MAX - 1, 0},
	};
	struct caller caller;

	if (!open_caller(&caller, (unsigned int)_i, RAW_CALLS_MAP))
		return;
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++)
		ck_assert_int_eq(call_in_vain(&caller, RAW_MAP_GPA_RANGE, refused[i]),
				 -RAW_CALL_INVALID);
	close_caller(&caller);
}
END_TEST

/* The whole of it, as a VMM without a library does it. */
START_TEST(hypercall_can_convert_the_page_it_names)
{
	uint64_t args[3] = {RAW_GPA, 1, RAW_RANGE_PRIVATE};
	struct caller caller;
	unsigned char *memory;
	int fd;

	if (!open_caller(&caller, RAW_VM_SW_PROTECTED, RAW_CALLS_MAP))
		return;
	memory = raw_map(-1, 0, PAGES * raw_page());
	fd = raw_add_memfd(caller.vm, PAGES * raw_page(), 0, memory);
	ck_assert_int_eq(guest_store(&caller.guest, RAW_GPA, 5), KVM_EXIT_HLT);
	for (int round = 0; round < 2; round++) {
		struct raw_hypercall told = call(&caller, args);

		raw_set_private(caller.vm, told.args[0], told.args[2] & RAW_RANGE_PRIVATE);
		ck_assert_int_eq(answer(&caller, 0), 0);
		ck_assert_int_eq(guest_store(&caller.guest, RAW_GPA, 6), KVM_EXIT_HLT);
		ck_assert_uint_eq(memory[0], round ? 6 : 5);
		args[2] = 0;
	}
	close(fd);
	close_caller(&caller);
}
END_TEST

/* ---- The host and private memory ---- */

START_TEST(private_memory_without_mmap_cannot_be_mapped)
{
	int vm, fd;

	NEED_TYPE(RAW_VM_SW_PROTECTED);
	vm = raw_vm_of_type(RAW_VM_SW_PROTECTED);
	fd = raw_memfd(vm, raw_page(), 0);
	ck_assert_int_ge(fd, 0);
	ck_assert_ptr_eq(mmap(NULL, raw_page(), PROT_READ, MAP_SHARED, fd, 0), MAP_FAILED);
	ck_assert_int_eq(errno, ENODEV);
	ck_assert_ptr_eq(mmap(NULL, raw_page(), PROT_READ, MAP_PRIVATE, fd, 0), MAP_FAILED);
	ck_assert_int_eq(errno, ENODEV);
	close(fd);
	close(vm);
}
END_TEST

/* A page of private memory, mapped, or NULL and a skip. */
static unsigned char *map_private(void)
{
	int vm = raw_vm_of_type(RAW_VM_SW_PROTECTED);
	unsigned char *map = NULL;
	int fd;

	if (raw_cap(vm, RAW_CAP_GUEST_MEMFD_FLAGS) > 0) {
		fd = raw_memfd(vm, raw_page(), RAW_MMAP);
		ck_assert_int_ge(fd, 0);
		map = raw_map(fd, 0, raw_page());
		close(fd);
	} else {
		harness_skip("this kernel has no guest_memfd with MMAP");
	}
	close(vm);
	return map;
}

START_TEST(touching_private_memory_is_sigbus)
{
	unsigned char *map;

	NEED_TYPE(RAW_VM_SW_PROTECTED);
	map = map_private();
	if (!map)
		return;
	ck_assert_int_eq(host_touch(map, false), SIGBUS);
	ck_assert_int_eq(host_touch(map, true), SIGBUS);
	munmap(map, raw_page());
}
END_TEST

/* Not by the C library: a sanitizer would answer in the kernel's place. */
static int lock_memory(void *addr, size_t size)
{
	struct rlimit limit = {.rlim_cur = size, .rlim_max = size};

	ck_assert_int_eq(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
	return raw_result(syscall(SYS_mlock, addr, size));
}

START_TEST(private_memory_cannot_be_populated_or_locked)
{
	unsigned char *map;

	NEED_TYPE(RAW_VM_SW_PROTECTED);
	map = map_private();
	if (!map)
		return;
	ck_assert_int_eq(raw_result(madvise(map, raw_page(), RAW_POPULATE_READ)), -EFAULT);
	ck_assert_int_eq(raw_result(madvise(map, raw_page(), RAW_POPULATE_WRITE)), -EFAULT);
	ck_assert_int_eq(lock_memory(map, raw_page()), -ENOMEM);
	munmap(map, raw_page());
}
END_TEST

static void check_proc_mem(void *map)
{
	int fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	char byte = 1;

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(raw_result(pread(fd, &byte, 1, (off_t)(uintptr_t)map)), -EIO);
	ck_assert_int_eq(raw_result(pwrite(fd, &byte, 1, (off_t)(uintptr_t)map)), -EIO);
	close(fd);
}

static void check_pipe(void *map)
{
	struct iovec there = {map, 1};
	int pipe_fds[2];

	ck_assert_int_eq(pipe(pipe_fds), 0);
	ck_assert_int_eq(raw_result(write(pipe_fds[1], map, 1)), -EFAULT);
	ck_assert_int_eq(raw_result(vmsplice(pipe_fds[1], &there, 1, 0)), -EFAULT);
	ck_assert_int_eq((int)write(pipe_fds[1], "", 1), 1);
	ck_assert_int_eq(raw_result(read(pipe_fds[0], map, 1)), -EFAULT);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
}

START_TEST(kernel_copies_nothing_to_or_from_private_memory)
{
	struct iovec here, there;
	unsigned char *map;
	char byte = 1;

	NEED_TYPE(RAW_VM_SW_PROTECTED);
	map = map_private();
	if (!map)
		return;
	here = (struct iovec){&byte, 1};
	there = (struct iovec){map, 1};
	ck_assert_int_eq(raw_result(process_vm_readv(getpid(), &here, 1, &there, 1, 0)), -EFAULT);
	ck_assert_int_eq(raw_result(process_vm_writev(getpid(), &here, 1, &there, 1, 0)), -EFAULT);
	check_proc_mem(map);
	check_pipe(map);
	ck_assert_uint_eq(host_count_resident(map, raw_page()), 0);
	munmap(map, raw_page());
}
END_TEST

/* Not even once the guest has written it; but mincore() tells that it did. */
START_TEST(memory_that_the_guest_wrote_stays_private)
{
	struct halves halves;
	unsigned char *map;

	NEED_GUEST();
	NEED_TYPE(RAW_VM_SW_PROTECTED);
	NEED_MMAP();
	open_halves(&halves, RAW_MMAP);
	map = raw_map(halves.fd, 0, halves.size);
	set_private(&halves, 1, true);
	store(&halves, 1, 5);
	ck_assert_int_eq(host_touch(map + halves.page, false), SIGBUS);
	ck_assert_uint_eq(host_count_resident(map, halves.size), 1);
	/* An attribute of guest addresses does not open the file to the host. */
	set_private(&halves, 1, false);
	ck_assert_int_eq(host_touch(map + halves.page, false), SIGBUS);
	munmap(map, halves.size);
	close_halves(&halves);
}
END_TEST

static void add_types(Suite *suite)
{
	kernel_case(suite, "private-types");
	KERNEL_TEST(types_of_the_capability_and_no_others_make_a_vm);
	KERNEL_LOOP(guest_memfd_of_each_type_takes_its_flags, 0, RAW_VM_TDX + 1);
	KERNEL_TEST(private_vm_has_one_address_space);
	KERNEL_TEST(private_vm_takes_what_its_capability_of_read_only_slots_says);
	KERNEL_LOOP(private_vm_binds_a_guest_memfd_with_or_without_an_address, 0, 2);
	KERNEL_TEST(plain_vm_binds_no_guest_memfd_that_it_has_no_capability_for);
}

static void add_attributes(Suite *suite)
{
	kernel_case(suite, "private-attributes");
	KERNEL_TEST(private_attribute_is_of_the_device_and_of_private_vms_alone);
	KERNEL_TEST(attributes_are_refused_where_the_kernel_has_none);
	KERNEL_TEST(plain_vm_takes_no_attribute);
	KERNEL_TEST(attributes_need_a_whole_range_and_no_slot);
	KERNEL_TEST(attributes_can_be_set_again_and_in_part);
	KERNEL_TEST(attributes_are_for_the_process_that_made_the_vm);
}

static void add_guest(Suite *suite)
{
	kernel_case(suite, "private-guest");
	KERNEL_TEST(guest_memory_begins_as_shared_and_is_at_the_address);
	KERNEL_TEST(private_page_is_in_the_guest_memfd);
	KERNEL_TEST(converted_page_shows_what_its_other_half_held);
	KERNEL_TEST(private_and_shared_pages_can_alternate);
	KERNEL_TEST(attributes_are_of_addresses_and_outlive_slots);
	KERNEL_TEST(punched_private_page_reads_zero);
	KERNEL_TEST(punch_leaves_the_shared_half_alone);
	KERNEL_TEST(allocated_private_page_reads_zero);
	KERNEL_TEST(guest_memfd_with_mmap_holds_both_halves);
	KERNEL_TEST(attribute_reaches_a_vcpu_that_is_running);
}

static void add_hypercall(Suite *suite)
{
	kernel_case(suite, "private-hypercall");
	KERNEL_LOOP(hypercall_of_a_range_is_unknown_until_enabled, 0, 2);
	KERNEL_TEST(hypercalls_of_the_capability_and_no_others_can_be_enabled);
	KERNEL_LOOP(hypercall_exit_tells_what_the_guest_gave, 0, 2);
	KERNEL_LOOP(hypercall_is_answered_with_what_userspace_writes, 0, 2);
	KERNEL_LOOP(hypercall_is_refused_by_kvm_where_its_range_is_none, 0, 2);
	KERNEL_TEST(hypercall_can_convert_the_page_it_names);
}

static void add_host(Suite *suite)
{
	kernel_case(suite, "private-host");
	KERNEL_TEST(private_memory_without_mmap_cannot_be_mapped);
	KERNEL_TEST(touching_private_memory_is_sigbus);
	KERNEL_TEST(private_memory_cannot_be_populated_or_locked);
	KERNEL_TEST(kernel_copies_nothing_to_or_from_private_memory);
	KERNEL_TEST(memory_that_the_guest_wrote_stays_private);
}

Suite *kernel_private_suite(void)
{
	Suite *suite = suite_create("private");

	add_types(suite);
	add_attributes(suite);
	add_guest(suite);
	add_hypercall(suite);
	add_host(suite);
	return suite;
}
