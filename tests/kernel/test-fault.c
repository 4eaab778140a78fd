/* SPDX-License-Identifier: MIT */
/*
 * How the kernel tells of guest memory that is not there: KVM_EXIT_MEMORY_FAULT, and the answers of
 * KVM_PRE_FAULT_MEMORY. No library.
 */
#include "../kvm/guest.h"
#include "../kvm/host.h"
#include "raw.h"
#include "suites.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGES	   4
#define MANY_PAGES 4096
#define PAGE	   UINT64_C(4096) /* where pages can be loaded beforehand */

/* A VM of a type, with a vCPU that runs the code of the tests' guest. */
struct machine {
	int vm;
	size_t page;
	struct guest guest;
};

static void open_machine(struct machine *machine, unsigned int type)
{
	machine->page = raw_page();
	machine->vm = raw_vm_of_type(type);
	ck_assert_int_ge(machine->vm, 0);
	raw_open_guest(machine->vm, &machine->guest);
}

static void close_machine(struct machine *machine)
{
	guest_close(&machine->guest);
	close(machine->vm);
}

/* Memory of the host, for PAGES pages. */
static unsigned char *add_plain_memory(const struct machine *machine)
{
	return raw_add_memory(machine->vm, 0, RAW_GPA, PAGES * machine->page);
}

/* What an earlier exit might have left, so that what is found afterwards is new. */
static void forget_exit(const struct machine *machine)
{
	machine->guest.run->exit_reason = KVM_EXIT_HLT;
	memset(&machine->guest.run->hw, 0xa5, sizeof(struct raw_memory_fault));
}

/* A load and a store, anywhere in the page, must end in a private KVM_EXIT_MEMORY_FAULT. */
static void check_private_fault(struct machine *machine, uint64_t gpa)
{
	static const unsigned int offsets[] = {0, 4, 4092};
	uint32_t value;

	for (size_t i = 0; i < sizeof(offsets) / sizeof(offsets[0]); i++) {
		forget_exit(machine);
		ck_assert_int_eq(guest_load(&machine->guest, gpa + offsets[i], &value), -EFAULT);
		raw_assert_memory_fault(&machine->guest, gpa + offsets[i], RAW_ATTRIBUTE_PRIVATE);
		forget_exit(machine);
		ck_assert_int_eq(guest_store(&machine->guest, gpa + offsets[i], 1), -EFAULT);
		raw_assert_memory_fault(&machine->guest, gpa + offsets[i], RAW_ATTRIBUTE_PRIVATE);
	}
}

/* ---- KVM_EXIT_MEMORY_FAULT ---- */

START_TEST(memory_fault_exit_has_a_capability)
{
	int vm, cap;

	NEED_KVM();
	cap = raw_device_cap(RAW_CAP_MEMORY_FAULT_INFO);
	vm = raw_vm();
	ck_assert_int_eq(raw_cap(vm, RAW_CAP_MEMORY_FAULT_INFO), cap);
	close(vm);
#ifdef __x86_64__
	ck_assert_int_eq(cap, 1);
#else
	ck_assert(cap == 0 || cap == 1); /* arm64 exits so without saying it */
#endif
	harness_note("%s", cap ? "listed" : "not listed");
}
END_TEST

START_TEST(private_access_to_a_slot_without_guest_memfd_exits)
{
	struct machine machine;
	unsigned char *memory;
	uint32_t value;

	NEED_GUEST();
	NEED_TYPE(RAW_VM_SW_PROTECTED);
	open_machine(&machine, RAW_VM_SW_PROTECTED);
	memory = add_plain_memory(&machine);
	memory[machine.page] = 3;
	raw_set_private(machine.vm, RAW_GPA + machine.page, true);
	check_private_fault(&machine, RAW_GPA + machine.page);
	ck_assert_int_eq(guest_load(&machine.guest, RAW_GPA, &value), KVM_EXIT_HLT);
	/* The answer to such an exit: convert, and go on. */
	raw_set_private(machine.vm, RAW_GPA + machine.page, false);
	ck_assert_int_eq(guest_load(&machine.guest, RAW_GPA + machine.page, &value), KVM_EXIT_HLT);
	ck_assert_uint_eq(value, 3);
	close_machine(&machine);
}
END_TEST

START_TEST(private_access_where_there_is_no_slot_exits)
{
	struct machine machine;
	uint32_t value;

	NEED_GUEST();
	NEED_TYPE(RAW_VM_SW_PROTECTED);
	open_machine(&machine, RAW_VM_SW_PROTECTED);
	raw_set_private(machine.vm, RAW_NOWHERE, true);
	check_private_fault(&machine, RAW_NOWHERE);
	raw_set_private(machine.vm, RAW_NOWHERE, false);
	ck_assert_int_eq(guest_load(&machine.guest, RAW_NOWHERE, &value), KVM_EXIT_MMIO);
	close_machine(&machine);
}
END_TEST

START_TEST(private_code_in_a_slot_without_guest_memfd_exits)
{
	struct machine machine;

	NEED_GUEST();
	NEED_TYPE(RAW_VM_SW_PROTECTED);
	open_machine(&machine, RAW_VM_SW_PROTECTED);
	add_plain_memory(&machine);
	raw_set_private(machine.vm, RAW_CODE, true);
	forget_exit(&machine);
	ck_assert_int_eq(guest_store(&machine.guest, RAW_GPA, 1), -EFAULT);
	raw_assert_memory_fault(&machine.guest, RAW_CODE, RAW_ATTRIBUTE_PRIVATE);
	raw_set_private(machine.vm, RAW_CODE, false);
	ck_assert_int_eq(guest_store(&machine.guest, RAW_GPA, 1), KVM_EXIT_HLT);
	close_machine(&machine);
}
END_TEST

START_TEST(private_access_once_the_file_is_gone_exits)
{
	struct machine machine;
	unsigned char *memory;
	int fd;

	NEED_GUEST();
	NEED_TYPE(RAW_VM_SW_PROTECTED);
	open_machine(&machine, RAW_VM_SW_PROTECTED);
	memory = raw_map(-1, 0, PAGES * machine.page);
	fd = raw_add_memfd(machine.vm, PAGES * machine.page, 0, memory);
	raw_set_private(machine.vm, RAW_GPA, true);
	ck_assert_int_eq(guest_store(&machine.guest, RAW_GPA, 1), KVM_EXIT_HLT);
	close(fd);
	check_private_fault(&machine, RAW_GPA);
	/* The shared half needs no file. */
	ck_assert_int_eq(guest_store(&machine.guest, RAW_GPA + machine.page, 2), KVM_EXIT_HLT);
	ck_assert_uint_eq(memory[machine.page], 2);
	close_machine(&machine);
}
END_TEST

/* No private access, and yet the exit: of a slot that is guest_memfd only. */
START_TEST(shared_access_once_the_file_is_gone_exits_without_a_flag)
{
	struct machine machine;
	uint64_t offsets[3], flags = _i == RAW_VM_DEFAULT ? RAW_SHARED : RAW_MMAP;
	int r = 0;

	NEED_GUEST();
	NEED_TYPE((unsigned int)_i);
	open_machine(&machine, (unsigned int)_i);
	if (raw_cap(machine.vm, RAW_CAP_GUEST_MEMFD_FLAGS) <= 0)
		SKIP("this kernel has no guest_memfd with MMAP");
	close(raw_add_memfd(machine.vm, PAGES * machine.page, flags, NULL));
	offsets[0] = 0;
	offsets[1] = machine.page + 8;
	offsets[2] = 2 * machine.page - 4;
	for (int i = 0; i < 3; i++) {
		forget_exit(&machine);
		r = guest_store(&machine.guest, RAW_GPA + offsets[i], 1);
		/* An emulated access finds no memory at the address, and takes it for a device's.
		 */
		if (r == -EFAULT)
			raw_assert_memory_fault(&machine.guest, RAW_GPA + offsets[i], 0);
		else
			ck_assert_int_eq(r, KVM_EXIT_MMIO);
	}
	harness_note("%s", r == -EFAULT ? "KVM_EXIT_MEMORY_FAULT" : "KVM_EXIT_MMIO");
	close_machine(&machine);
}
END_TEST

/* Plain memory has no such exit: nothing but the errno, and no reason left from before. */
START_TEST(plain_memory_that_is_gone_is_efault_alone)
{
	struct machine machine;
	unsigned char *memory;
	uint32_t value;
	int r;

	NEED_GUEST();
	NEED_TYPE((unsigned int)_i);
	open_machine(&machine, (unsigned int)_i);
	memory = add_plain_memory(&machine);
	munmap(memory, PAGES * machine.page);
	machine.guest.run->exit_reason = RAW_EXIT_MEMORY_FAULT;
	r = guest_load(&machine.guest, RAW_GPA, &value);
	harness_note("%s", r == -EFAULT ? "EFAULT" : "KVM_EXIT_MMIO");
	if (r == -EFAULT)
		ck_assert_uint_eq(machine.guest.run->exit_reason, KVM_EXIT_UNKNOWN);
	else
		ck_assert_int_eq(r, KVM_EXIT_MMIO);
	close_machine(&machine);
}
END_TEST

static int run_in_child(void *data)
{
	int vcpu = *(int *)data;

	CHILD_CHECK(raw_result(ioctl(vcpu, KVM_RUN, 0UL)) == -EIO);
	CHILD_CHECK(raw_pre_fault(vcpu, NULL) == -EIO);
	return 0;
}

/* KVM_RUN can fail before it looks at the reason of the exit, which is then still the last one. */
START_TEST(early_failures_keep_an_old_exit_reason)
{
	struct machine machine;
	struct kvm_run *run;

	NEED_GUEST();
	NEED_KVM();
	open_machine(&machine, RAW_VM_DEFAULT);
	run = machine.guest.run;
	run->exit_reason = RAW_EXIT_MEMORY_FAULT;
	run->immediate_exit = 1;
	ck_assert_int_eq(raw_result(ioctl(machine.guest.fd, KVM_RUN, 0UL)), -EINTR);
	ck_assert_uint_eq(run->exit_reason, RAW_EXIT_MEMORY_FAULT);
	run->immediate_exit = 0;
	ck_assert_int_eq(raw_result(ioctl(machine.guest.fd, KVM_RUN, 1UL)), -EINVAL);
	ck_assert_uint_eq(run->exit_reason, RAW_EXIT_MEMORY_FAULT);
	ck_assert_int_eq(host_run_child(run_in_child, &machine.guest.fd), 0);
	ck_assert_uint_eq(run->exit_reason, RAW_EXIT_MEMORY_FAULT);
	close_machine(&machine);
}
END_TEST

/*
 * By which a vCPU's descriptor can be told from others before it is used as one. Its version would
 * not do: of that a VM of arm64 says the same.
 */
START_TEST(capabilities_are_einval_of_a_vcpu_alone)
{
	int device, vm, vcpu, file;

	NEED_KVM();
	device = open(harness_kvm_device(), O_RDWR | O_CLOEXEC);
	ck_assert_int_ge(device, 0);
	vm = raw_vm();
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0UL);
	ck_assert_int_ge(vcpu, 0);
	file = open("/dev/null", O_RDWR | O_CLOEXEC);
	ck_assert_int_ge(file, 0);
	ck_assert_int_ge(raw_cap(device, 0), 0);
	ck_assert_int_ge(raw_cap(vm, 0), 0);
	ck_assert_int_eq(raw_cap(vcpu, 0), -EINVAL);
	ck_assert_int_eq(raw_cap(file, 0), -ENOTTY);
	ck_assert_int_eq(ioctl(device, KVM_GET_API_VERSION, 0UL), 12);
	ck_assert_int_eq(raw_result(ioctl(vcpu, KVM_GET_API_VERSION, 0UL)), -EINVAL);
	harness_note("version of a VM: %s",
		     raw_word(raw_result(ioctl(vm, KVM_GET_API_VERSION, 0UL))));
	close(file);
	close(vcpu);
	close(vm);
	close(device);
}
END_TEST

/* ---- KVM_PRE_FAULT_MEMORY ---- */

/* Opens a machine whose kernel can load memory beforehand, or skips. */
static bool open_pre_fault(struct machine *machine, unsigned int type)
{
	const char *missing = raw_missing_type(type);

	if (!missing)
		missing = raw_missing_pre_fault();
	if (missing) {
		harness_skip("%s", missing);
		return false;
	}
	open_machine(machine, type);
	return true;
}

/* The same with PAGES pages of a guest_memfd at RAW_GPA. */
static bool open_pre_fault_memfd(struct machine *machine, unsigned char **map)
{
	int fd;

	if (!open_pre_fault(machine, RAW_VM_DEFAULT))
		return false;
	if (!raw_has_shared(machine->vm)) {
		close_machine(machine);
		harness_skip(RAW_NO_SHARED);
		return false;
	}
	fd = raw_memfd(machine->vm, PAGES * machine->page, RAW_SHARED);
	ck_assert_int_ge(fd, 0);
	*map = raw_map(fd, 0, PAGES * machine->page);
	raw_bind(machine->vm, fd, PAGES * machine->page, *map);
	close(fd);
	return true;
}

START_TEST(pre_fault_is_refused_where_the_capability_is_0)
{
	struct raw_pre_fault range = {.gpa = RAW_GPA, .size = raw_page()};
	int vm, vcpu, cap, r;

	NEED_KVM();
	vm = raw_vm();
	/* Without any slot shadow paging has no memory of its own, and ENOSPC would come first. */
	raw_add_memory(vm, 0, RAW_NOWHERE, raw_page());
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0UL);
	ck_assert_int_ge(vcpu, 0);
	cap = raw_device_cap(RAW_CAP_PRE_FAULT_MEMORY);
	ck_assert(cap == 0 || cap == 1);
	r = raw_pre_fault(vcpu, &range);
	/* Where it works: there is no slot. */
	if (cap)
		ck_assert_int_eq(r, -ENOENT);
	else
		ck_assert_msg(r == -ENOTTY || r == -EINVAL || r == -EOPNOTSUPP, "%d", r);
	harness_note("%s", cap ? "there" : raw_word(r));
	close(vcpu);
	close(vm);
}
END_TEST

static const struct {
	const char *name;
	int64_t gpa, size; /* from RAW_GPA on, and in bytes */
	uint64_t flags, padding;
	int result;
} ranges[] = {
	{"one page", 0, 4096, 0, 0, 0},
	{"padding counts for nothing", 0, 4096, 0, UINT64_MAX, 0},
	{"a flag", 0, 4096, 1, 0, -EINVAL},
	{"the highest flag", 0, 4096, UINT64_C(1) << 63, 0, -EINVAL},
	{"between pages", 1, 4096, 0, 0, -EINVAL},
	{"pages and a half", 0, 4096 + 2048, 0, 0, -EINVAL},
	{"less than a page", 0, 1, 0, 0, -EINVAL},
	{"nothing", 0, 0, 0, 0, -EINVAL},
	{"to 2 to the 64", 0, -(int64_t)RAW_GPA, 0, 0, -EINVAL},
	{"past 2 to the 64", 0, -4096, 0, 0, -EINVAL},
};

/* A range that is refused stays in the argument as it is. */
START_TEST(pre_fault_needs_whole_pages)
{
	struct raw_pre_fault range, before;
	struct machine machine;
	int r;

	if (!open_pre_fault(&machine, RAW_VM_DEFAULT))
		return;
	add_plain_memory(&machine);
	for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
		range = (struct raw_pre_fault){.gpa = RAW_GPA + (uint64_t)ranges[i].gpa,
					       .size = (uint64_t)ranges[i].size,
					       .flags = ranges[i].flags,
					       .padding = {ranges[i].padding, ranges[i].padding}};
		before = range;
		r = raw_pre_fault(machine.guest.fd, &range);
		raw_expect(ranges[i].name, r, ranges[i].result);
		if (r < 0)
			ck_assert_int_eq(memcmp(&range, &before, sizeof(range)), 0);
		else
			ck_assert_uint_eq(range.size, 0);
	}
	raw_expect("no argument", raw_pre_fault(machine.guest.fd, NULL), -EFAULT);
	raw_expect_end();
	close_machine(&machine);
}
END_TEST

START_TEST(pre_fault_loads_pages_of_a_guest_memfd)
{
	struct raw_pre_fault range = {.gpa = RAW_GPA + PAGE, .size = 2 * PAGE};
	struct machine machine;
	unsigned char *map;

	if (!open_pre_fault_memfd(&machine, &map))
		return;
	ck_assert_int_eq(raw_pre_fault(machine.guest.fd, &range), 0);
	ck_assert_uint_eq(range.gpa, RAW_GPA + 3 * PAGE);
	ck_assert_uint_eq(range.size, 0);
	ck_assert_uint_eq(host_count_resident(map, PAGE), 0);
	ck_assert_uint_eq(host_count_resident(map + PAGE, 2 * PAGE), 2);
	ck_assert_uint_eq(host_count_resident(map + 3 * PAGE, PAGE), 0);
	/* What is there already is no error. */
	range = (struct raw_pre_fault){.gpa = RAW_GPA, .size = PAGES * PAGE};
	ck_assert_int_eq(raw_pre_fault(machine.guest.fd, &range), 0);
	ck_assert_uint_eq(range.size, 0);
	ck_assert_uint_eq(host_count_resident(map, PAGES * PAGE), PAGES);
	close_machine(&machine);
}
END_TEST

START_TEST(pre_fault_keeps_what_pages_hold)
{
	struct raw_pre_fault range = {.gpa = RAW_GPA, .size = PAGES * PAGE};
	struct machine machine;
	unsigned char *map;
	uint32_t value;

	if (!open_pre_fault_memfd(&machine, &map))
		return;
	map[PAGE] = 7;
	ck_assert_int_eq(raw_pre_fault(machine.guest.fd, &range), 0);
	ck_assert_uint_eq(map[PAGE], 7);
	ck_assert_int_eq(guest_load(&machine.guest, RAW_GPA + PAGE, &value), KVM_EXIT_HLT);
	ck_assert_uint_eq(value, 7);
	close_machine(&machine);
}
END_TEST

START_TEST(pre_fault_of_no_slot_is_enoent)
{
	struct raw_pre_fault range = {.gpa = RAW_NOWHERE, .size = 2 * PAGE};
	struct machine machine;

	if (!open_pre_fault(&machine, RAW_VM_DEFAULT))
		return;
	ck_assert_int_eq(raw_pre_fault(machine.guest.fd, &range), -ENOENT);
	ck_assert_uint_eq(range.gpa, RAW_NOWHERE);
	ck_assert_uint_eq(range.size, 2 * PAGE);
	close_machine(&machine);
}
END_TEST

/* One page loaded is success, and what is left is in the argument. */
START_TEST(pre_fault_over_the_end_of_a_slot_succeeds_in_part)
{
	struct raw_pre_fault range = {.gpa = RAW_GPA + PAGE, .size = (PAGES + 1) * PAGE};
	struct machine machine;
	unsigned char *map;

	if (!open_pre_fault_memfd(&machine, &map))
		return;
	ck_assert_int_eq(raw_pre_fault(machine.guest.fd, &range), 0);
	ck_assert_uint_eq(range.gpa, RAW_GPA + PAGES * PAGE);
	ck_assert_uint_eq(range.size, 2 * PAGE);
	ck_assert_uint_eq(host_count_resident(map, PAGES * PAGE), PAGES - 1);
	ck_assert_int_eq(raw_pre_fault(machine.guest.fd, &range), -ENOENT);
	ck_assert_uint_eq(range.size, 2 * PAGE);
	close_machine(&machine);
}
END_TEST

/* Signals end it early, and what is left is in the argument again. */
START_TEST(pre_fault_that_signals_interrupt_goes_on_where_it_was)
{
	struct raw_pre_fault range = {.gpa = RAW_GPA, .size = MANY_PAGES * PAGE};
	struct machine machine;
	bool interrupted = false;
	void *map;
	int fd, r;

	if (!open_pre_fault(&machine, RAW_VM_DEFAULT))
		return;
	NEED_SHARED(machine.vm);
	fd = raw_add_memfd(machine.vm, MANY_PAGES * machine.page, RAW_SHARED, NULL);
	map = raw_map(fd, 0, range.size);
	host_pester(2000);
	while (range.size) {
		r = raw_pre_fault(machine.guest.fd, &range);
		interrupted |= range.size > 0;
		ck_assert(r == 0 || r == -EINTR);
		ck_assert_uint_eq(range.gpa + range.size, RAW_GPA + MANY_PAGES * PAGE);
	}
	host_pester(0);
	ck_assert_uint_eq(host_count_resident(map, MANY_PAGES * PAGE), MANY_PAGES);
	if (!interrupted)
		SKIP("this machine is done before a signal comes");
	munmap(map, MANY_PAGES * PAGE);
	close(fd);
	close_machine(&machine);
}
END_TEST

START_TEST(pre_fault_of_plain_memory_works_until_it_is_gone)
{
	struct raw_pre_fault range = {.gpa = RAW_GPA, .size = PAGES * PAGE};
	struct machine machine;
	unsigned char *memory;

	if (!open_pre_fault(&machine, (unsigned int)_i))
		return;
	memory = add_plain_memory(&machine);
	ck_assert_int_eq(raw_pre_fault(machine.guest.fd, &range), 0);
	ck_assert_uint_eq(range.size, 0);
	munmap(memory, PAGES * PAGE);
	range = (struct raw_pre_fault){.gpa = RAW_GPA, .size = PAGES * PAGE};
	machine.guest.run->exit_reason = KVM_EXIT_HLT;
	ck_assert_int_eq(raw_pre_fault(machine.guest.fd, &range), -EFAULT);
	ck_assert_uint_eq(range.size, PAGES * PAGE);
	ck_assert_uint_eq(machine.guest.run->exit_reason, KVM_EXIT_HLT);
	close_machine(&machine);
}
END_TEST

START_TEST(pre_fault_of_a_file_that_is_gone_is_efault)
{
	struct raw_pre_fault range = {.gpa = RAW_GPA, .size = PAGES * PAGE};
	struct machine machine;
	unsigned char *map;

	if (!open_pre_fault_memfd(&machine, &map))
		return;
	munmap(map, PAGES * PAGE);
	ck_assert_int_eq(raw_pre_fault(machine.guest.fd, &range), -EFAULT);
	ck_assert_uint_eq(range.size, PAGES * PAGE);
	close_machine(&machine);
}
END_TEST

/*
 * A failure leaves an exit in struct kvm_run, as if the guest had run: what was there of the
 * guest's last exit is lost.
 */
START_TEST(pre_fault_that_fails_may_write_an_exit)
{
	struct raw_pre_fault range = {.gpa = RAW_GPA, .size = PAGES * PAGE};
	struct machine machine;
	unsigned char *map;

	if (!open_pre_fault_memfd(&machine, &map))
		return;
	munmap(map, PAGES * PAGE);
	forget_exit(&machine);
	ck_assert_int_eq(raw_pre_fault(machine.guest.fd, &range), -EFAULT);
	if (machine.guest.run->exit_reason != KVM_EXIT_HLT)
		raw_assert_memory_fault(&machine.guest, RAW_GPA, 0);
	harness_note("%s", machine.guest.run->exit_reason == KVM_EXIT_HLT
				   ? "as it was"
				   : "KVM_EXIT_MEMORY_FAULT");
	close_machine(&machine);
}
END_TEST

START_TEST(pre_fault_that_succeeds_writes_no_exit)
{
	struct raw_pre_fault range = {.gpa = RAW_GPA, .size = PAGES * PAGE};
	struct kvm_run before;
	struct machine machine;
	unsigned char *map;

	if (!open_pre_fault_memfd(&machine, &map))
		return;
	forget_exit(&machine);
	memcpy(&before, machine.guest.run, sizeof(before));
	ck_assert_int_eq(raw_pre_fault(machine.guest.fd, &range), 0);
	ck_assert_int_eq(memcmp(machine.guest.run, &before, sizeof(before)), 0);
	close_machine(&machine);
}
END_TEST

/* Private or shared is what the attribute says when the call is made. */
START_TEST(pre_fault_follows_the_attribute)
{
	struct raw_pre_fault range = {.gpa = RAW_GPA, .size = PAGES * PAGE};
	struct machine machine;
	unsigned char *memory;
	int fd;

	if (!open_pre_fault(&machine, RAW_VM_SW_PROTECTED))
		return;
	memory = raw_map(-1, 0, PAGES * PAGE);
	fd = raw_add_memfd(machine.vm, PAGES * machine.page, 0, memory);
	raw_set_private(machine.vm, RAW_GPA + PAGE, true);
	ck_assert_int_eq(raw_pre_fault(machine.guest.fd, &range), 0);
	ck_assert_uint_eq(range.size, 0);
	if (host_can_count_cached())
		ck_assert_int_eq(host_count_cached(fd), 1);
	close(fd);
	close_machine(&machine);
}
END_TEST

START_TEST(pre_fault_of_private_memory_that_is_not_there_is_efault)
{
	uint64_t gpa =
		_i == 0 ? RAW_GPA : RAW_NOWHERE; /* a slot without guest_memfd, and no slot */
	struct raw_pre_fault range = {.gpa = gpa, .size = PAGE};
	struct machine machine;

	if (!open_pre_fault(&machine, RAW_VM_SW_PROTECTED))
		return;
	add_plain_memory(&machine);
	raw_set_private(machine.vm, gpa, true);
	ck_assert_int_eq(raw_pre_fault(machine.guest.fd, &range), -EFAULT);
	ck_assert_uint_eq(range.size, PAGE);
	close_machine(&machine);
}
END_TEST

static void add_exits(Suite *suite)
{
	kernel_case(suite, "fault-exit");
	KERNEL_TEST(memory_fault_exit_has_a_capability);
	KERNEL_TEST(private_access_to_a_slot_without_guest_memfd_exits);
	KERNEL_TEST(private_access_where_there_is_no_slot_exits);
	KERNEL_TEST(private_code_in_a_slot_without_guest_memfd_exits);
	KERNEL_TEST(private_access_once_the_file_is_gone_exits);
	KERNEL_LOOP(shared_access_once_the_file_is_gone_exits_without_a_flag, 0, 2);
	KERNEL_LOOP(plain_memory_that_is_gone_is_efault_alone, 0, 2);
	KERNEL_TEST(early_failures_keep_an_old_exit_reason);
	KERNEL_TEST(capabilities_are_einval_of_a_vcpu_alone);
}

static void add_pre_fault(Suite *suite)
{
	kernel_case(suite, "fault-pre-fault");
	KERNEL_TEST(pre_fault_is_refused_where_the_capability_is_0);
	KERNEL_TEST(pre_fault_needs_whole_pages);
	KERNEL_TEST(pre_fault_loads_pages_of_a_guest_memfd);
	KERNEL_TEST(pre_fault_keeps_what_pages_hold);
	KERNEL_TEST(pre_fault_of_no_slot_is_enoent);
	KERNEL_TEST(pre_fault_over_the_end_of_a_slot_succeeds_in_part);
	KERNEL_TEST(pre_fault_that_signals_interrupt_goes_on_where_it_was);
	KERNEL_LOOP(pre_fault_of_plain_memory_works_until_it_is_gone, 0, 2);
	KERNEL_TEST(pre_fault_of_a_file_that_is_gone_is_efault);
	KERNEL_TEST(pre_fault_that_fails_may_write_an_exit);
	KERNEL_TEST(pre_fault_that_succeeds_writes_no_exit);
	KERNEL_TEST(pre_fault_follows_the_attribute);
	KERNEL_LOOP(pre_fault_of_private_memory_that_is_not_there_is_efault, 0, 2);
}

Suite *kernel_fault_suite(void)
{
	Suite *suite = suite_create("fault");

	add_exits(suite);
	add_pre_fault(suite);
	return suite;
}
