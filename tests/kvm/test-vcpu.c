/* SPDX-License-Identifier: MIT */
/*
 * A VMM's vCPU and the library: what KVM_RUN came back for, and memory filled before it is touched.
 * For any VM; test-convert.c has what private memory takes.
 */
#include "fixture.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define CODE	UINT64_C(0x10000)
#define GPA	UINT64_C(0x200000)
#define NOWHERE UINT64_C(0x20000000)
#define MIB	(UINT64_C(1) << 20)
#define PAGES	4

#define FOREIGN_ID     100 /* of slots that the library is not told of */
#define ADVICE_POISON  100
#define DEFAULT_LIMIT  100
#define FLAG_USERFAULT 16

#define EXIT(...)                                                                                  \
	{                                                                                          \
		.sz = sizeof(struct gmem_exit), __VA_ARGS__                                        \
	}
#define RESOLVE(...)                                                                               \
	{                                                                                          \
		.sz = sizeof(struct gmem_resolve_opts), __VA_ARGS__                                \
	}
#define PREFAULT(...)                                                                              \
	(&(const struct gmem_prefault_opts){.sz = sizeof(struct gmem_prefault_opts), __VA_ARGS__})

/* A guest at CODE, and `size` bytes of memory at GPA that the host maps. */
struct machine {
	struct world world;
	struct gmem_vcpu *vcpu;
	uint64_t size;
	struct gmem_memfd *code, *memfd;
	struct gmem_slot *code_slot, *slot;
	unsigned char *addr; /* of the memory */
};

static bool open_machine(struct machine *machine, uint64_t size, uint64_t vm_flags)
{
	struct world *world = &machine->world;

	if (!world_open(world, vm_flags))
		return false;
	machine->size = size;
	machine->code = world_memfd(world, 1);
	machine->code_slot =
		world_slot(world, SLOT(.gpa = CODE, .size = world->page, .memfd = machine->code));
	world_start_guest(world, CODE);
	machine->memfd = world_memfd(world, size / world->page);
	machine->slot = world_slot(world, SLOT(.gpa = GPA, .size = size, .memfd = machine->memfd));
	machine->addr = gmem_slot_get_addr(machine->slot);
	assert_ok(gmem_vcpu_open(world->vm, world->guest.fd, world->guest.run, &machine->vcpu));
	return true;
}

static void close_machine(struct machine *machine)
{
	gmem_vcpu_close(machine->vcpu);
	gmem_slot_close(machine->slot);
	gmem_memfd_close(machine->memfd);
	gmem_slot_close(machine->code_slot);
	gmem_memfd_close(machine->code);
	world_close(&machine->world);
}

static bool open_small(struct machine *machine)
{
	return open_machine(machine, PAGES * raw_page(), 0);
}

#define OPEN_OR_SKIP(machine)                                                                      \
	do {                                                                                       \
		NEED_WORLD_GUEST();                                                                \
		if (!open_small(machine))                                                          \
			return;                                                                    \
	} while (0)

static struct gmem_exit decode(struct gmem_vcpu *vcpu, int rc, int error)
{
	struct gmem_exit exit = EXIT(.kind = GMEM_EXIT_UNKNOWN, .gpa = 1, .size = 1, .bits = 1);

	assert_ok(gmem_vcpu_decode(vcpu, rc, error, &exit));
	ck_assert_uint_eq(exit.sz, sizeof(exit));
	ck_assert_int_eq(exit.error, rc < 0 ? error : 0);
	return exit;
}

/* Of a run that ended in r: the reason of an exit, or a negative errno. */
static struct gmem_exit decode_run(struct gmem_vcpu *vcpu, int r)
{
	return decode(vcpu, r < 0 ? -1 : 0, r < 0 ? -r : 0);
}

/* ---- The handle ---- */

START_TEST(vcpu_opens_with_its_descriptor_and_no_other)
{
	struct gmem_vcpu *vcpu = (void *)1;
	struct machine machine;
	struct kvm_run *run;
	int others[4];

	OPEN_OR_SKIP(&machine);
	run = machine.world.guest.run;
	others[0] = machine.world.fd;
	others[1] = gmem_memfd_get_fd(machine.memfd);
	others[2] = open("/dev/null", O_RDWR | O_CLOEXEC);
	others[3] = open(harness_kvm_device(), O_RDWR | O_CLOEXEC);
	for (int i = 0; i < 4; i++) {
		assert_fails(gmem_vcpu_open(machine.world.vm, others[i], run, &vcpu), ENOTTY,
			     FD_NOT_VCPU);
		ck_assert_ptr_null(vcpu);
	}
	assert_fails(gmem_vcpu_open(machine.world.vm, -1, run, &vcpu), EBADF, FD_INVALID);
	assert_fails(gmem_vcpu_open(machine.world.vm, machine.world.guest.fd, NULL, &vcpu), EINVAL,
		     NULL);
	assert_fails(gmem_vcpu_open(NULL, machine.world.guest.fd, run, &vcpu), EINVAL, NULL);
	assert_fails(gmem_vcpu_open(machine.world.vm, machine.world.guest.fd, run, NULL), EINVAL,
		     NULL);
	close(others[2]);
	close(others[3]);
	close_machine(&machine);
}
END_TEST

START_TEST(vcpu_survives_vm)
{
	struct gmem_vcpu *vcpu;
	struct world world;
	struct guest guest;
	int fds;

	if (!world_open(&world, 0))
		return;
	guest_open(&guest, world.fd, CODE);
	fds = host_count_fds();
	assert_ok(gmem_vcpu_open(world.vm, guest.fd, guest.run, &vcpu));
	ck_assert_int_eq(host_count_fds(), fds + 1);
	gmem_vm_close(world.vm);
	ck_assert_int_eq(host_count_fds(), fds + 1);
	ck_assert_int_eq(decode(vcpu, 0, 0).kind, GMEM_EXIT_OTHER);
	gmem_vcpu_close(vcpu);
	gmem_vcpu_close(NULL);
	guest_close(&guest);
	traces_assert_same(&world.before);
}
END_TEST

static int use_in_child(void *data)
{
	struct machine *machine = data;
	struct gmem_exit exit = EXIT();

	CHILD_CHECK(gmem_vcpu_decode(machine->vcpu, 0, 0, &exit) == -EIO);
	CHILD_CHECK(gmem_error_get_reason() == GMEM_REASON_FORKED);
	CHILD_CHECK(gmem_vcpu_resolve(machine->vcpu, &exit, NULL) == -EIO);
	CHILD_CHECK(gmem_vcpu_prefault(machine->vcpu, GPA, machine->size, NULL, NULL) == -EIO);
	gmem_vcpu_close(machine->vcpu);
	return 0;
}

START_TEST(vcpu_is_of_the_process_that_opened_it)
{
	struct machine machine;

	OPEN_OR_SKIP(&machine);
	ck_assert_int_eq(host_run_child(use_in_child, &machine), 0);
	close_machine(&machine);
}
END_TEST

/* ---- Exits of a guest ---- */

START_TEST(exits_that_are_not_of_memory_are_the_vmms)
{
	struct gmem_exit exit;
	struct machine machine;
	uint32_t value;
	int r;

	OPEN_OR_SKIP(&machine);
	r = guest_store(&machine.world.guest, GPA, 1);
	ck_assert_int_eq(r, KVM_EXIT_HLT);
	exit = decode_run(machine.vcpu, r);
	ck_assert_int_eq(exit.kind, GMEM_EXIT_OTHER);
	ck_assert_uint_eq(exit.flags | exit.gpa | exit.size | exit.bits, 0);
	r = guest_load(&machine.world.guest, NOWHERE, &value);
	ck_assert_int_eq(r, KVM_EXIT_MMIO);
	ck_assert_int_eq(decode_run(machine.vcpu, r).kind, GMEM_EXIT_OTHER);
	assert_fails(gmem_vcpu_resolve(machine.vcpu, &exit, NULL), EINVAL, ARGUMENT);
	close_machine(&machine);
}
END_TEST

START_TEST(interrupted_run_is_to_be_repeated_whatever_is_left_over)
{
	struct gmem_exit exit;
	struct machine machine;
	struct kvm_run *run;

	OPEN_OR_SKIP(&machine);
	run = machine.world.guest.run;
	run->exit_reason = RAW_EXIT_MEMORY_FAULT;
	run->immediate_exit = 1;
	ck_assert_int_eq(guest_enter(&machine.world.guest), -EINTR);
	run->immediate_exit = 0;
	ck_assert_uint_eq(run->exit_reason, RAW_EXIT_MEMORY_FAULT);
	exit = decode_run(machine.vcpu, -EINTR);
	ck_assert_int_eq(exit.kind, GMEM_EXIT_RETRY);
	ck_assert_uint_eq(exit.flags | exit.gpa | exit.size, 0);
	/* It comes as often as signals do, and is never stuck. */
	for (int times = 0; times < 2 * DEFAULT_LIMIT; times++)
		assert_ok(gmem_vcpu_resolve(machine.vcpu, &exit, NULL));
	close_machine(&machine);
}
END_TEST

/* KVM tells of it, or takes the access for a device's, as it does where it emulates. */
static void check_gone(struct machine *machine, int r, uint32_t flags)
{
	struct gmem_exit exit = decode_run(machine->vcpu, r);

	harness_note("%s", r == -EFAULT ? "GONE" : "OTHER, a device's access");
	if (r != -EFAULT) {
		ck_assert_int_eq(r, KVM_EXIT_MMIO);
		ck_assert_int_eq(exit.kind, GMEM_EXIT_OTHER);
		return;
	}
	ck_assert_int_eq(exit.kind, GMEM_EXIT_GONE);
	ck_assert_uint_eq(exit.flags, flags);
	ck_assert_uint_eq(exit.gpa, flags ? NOWHERE + machine->world.page : 0);
	ck_assert_uint_eq(exit.size, flags ? machine->world.page : 0);
	assert_fails(gmem_vcpu_resolve(machine->vcpu, &exit, NULL), EFAULT, EXIT_GONE);
}

START_TEST(guest_memfd_that_is_gone_is_gone_at_its_address)
{
	struct raw_region region;
	struct machine machine;
	int fd;

	NEED_WORLD_GUEST();
	if (!world_open_guest_memfd(&machine.world))
		return;
	world_close(&machine.world);
	OPEN_OR_SKIP(&machine);
	fd = raw_memfd(machine.world.fd, machine.size, RAW_SHARED);
	ck_assert_int_ge(fd, 0);
	region = (struct raw_region){.slot = FOREIGN_ID,
				     .flags = RAW_GUEST_MEMFD,
				     .gpa = NOWHERE,
				     .size = machine.size,
				     .memfd = (uint32_t)fd};
	ck_assert_int_eq(raw_set(machine.world.fd, &region), 0);
	close(fd);
	check_gone(&machine, guest_store(&machine.world.guest, NOWHERE + machine.world.page + 8, 1),
		   GMEM_EXIT_ADDRESS);
	ck_assert_int_eq(guest_store(&machine.world.guest, GPA, 1), KVM_EXIT_HLT);
	close_machine(&machine);
}
END_TEST

START_TEST(host_memory_that_is_gone_is_gone_without_an_address)
{
	struct machine machine;
	void *memory;

	OPEN_OR_SKIP(&machine);
	memory = raw_add_memory(machine.world.fd, FOREIGN_ID, NOWHERE, machine.size);
	munmap(memory, machine.size);
	check_gone(&machine, guest_store(&machine.world.guest, NOWHERE + machine.world.page, 1), 0);
	close_machine(&machine);
}
END_TEST

START_TEST(slot_that_is_gone_is_a_device_to_the_guest)
{
	struct machine machine;
	int r;

	OPEN_OR_SKIP(&machine);
	ck_assert_int_eq(guest_store(&machine.world.guest, GPA, 1), KVM_EXIT_HLT);
	assert_ok(gmem_slot_delete(machine.slot));
	r = guest_store(&machine.world.guest, GPA, 1);
	ck_assert_int_eq(r, KVM_EXIT_MMIO);
	ck_assert_int_eq(decode_run(machine.vcpu, r).kind, GMEM_EXIT_OTHER);
	close_machine(&machine);
}
END_TEST

/* ---- Exits as KVM can write them ---- */

/* The errno 0 stands for a run that succeeds. A page is of 4 KiB or more. */
static const struct {
	const char *name;
	int error;
	uint64_t flags, gpa, size;
	enum gmem_exit_kind kind;
	bool has_address;
} written[] = {
	{"fault", EFAULT, 0, GPA, 4096, GMEM_EXIT_GONE, true},
	{"fault, success", 0, 0, GPA, 4096, GMEM_EXIT_GONE, true},
	{"private fault", EFAULT, 8, GPA, 4096, GMEM_EXIT_GONE, true},
	{"missing", EFAULT, FLAG_USERFAULT, GPA, 4096, GMEM_EXIT_MISSING, true},
	{"missing, success", 0, FLAG_USERFAULT, GPA, 4096, GMEM_EXIT_MISSING, true},
	{"missing, private", EFAULT, FLAG_USERFAULT | 8, GPA, 4096, GMEM_EXIT_MISSING, true},
	{"poison", EHWPOISON, 0, GPA, 4096, GMEM_EXIT_POISONED, true},
	{"poison, private", EHWPOISON, 8, GPA, 4096, GMEM_EXIT_POISONED, true},
	{"no memory", ENOMEM, 0, GPA, 4096, GMEM_EXIT_NO_MEMORY, true},
	{"I/O error", EIO, 0, GPA, 4096, GMEM_EXIT_GONE, true},
	{"unknown flag", EFAULT, 1, GPA, 4096, GMEM_EXIT_UNKNOWN, true},
	{"unknown high flag", EFAULT, UINT64_C(1) << 63, GPA, 4096, GMEM_EXIT_UNKNOWN, true},
	{"all flags", 0, UINT64_MAX, GPA, 4096, GMEM_EXIT_UNKNOWN, true},
	{"nothing", EFAULT, 0, GPA, 0, GMEM_EXIT_UNKNOWN, false},
	{"past 2^64", EFAULT, 0, UINT64_MAX - 4095, 8192, GMEM_EXIT_UNKNOWN, false},
	{"all of it", EFAULT, 0, 0, UINT64_MAX, GMEM_EXIT_UNKNOWN, false},
	{"left over: EINTR", EINTR, 0, GPA, 4096, GMEM_EXIT_RETRY, false},
	{"left over: EAGAIN", EAGAIN, 0, GPA, 4096, GMEM_EXIT_RETRY, false},
	{"left over: EINVAL", EINVAL, 8, GPA, 4096, GMEM_EXIT_OTHER, false},
	{"left over: ENOEXEC", ENOEXEC, 0, GPA, 4096, GMEM_EXIT_OTHER, false},
};

START_TEST(memory_faults_are_read_from_kvm_run)
{
	struct raw_memory_fault fault;
	struct machine machine;
	struct gmem_exit exit;

	OPEN_OR_SKIP(&machine);
	fault = (struct raw_memory_fault){
		.flags = written[_i].flags, .gpa = written[_i].gpa, .size = written[_i].size};
	machine.world.guest.run->exit_reason = RAW_EXIT_MEMORY_FAULT;
	memcpy(&machine.world.guest.run->hw, &fault, sizeof(fault));
	exit = decode(machine.vcpu, written[_i].error ? -1 : 0, written[_i].error);
	ck_assert_msg(exit.kind == written[_i].kind, "%s: %d", written[_i].name, (int)exit.kind);
	ck_assert_uint_eq(exit.flags, written[_i].has_address ? GMEM_EXIT_ADDRESS : 0);
	ck_assert_uint_eq(exit.gpa, written[_i].has_address ? GPA : 0);
	ck_assert_uint_eq(exit.size, written[_i].has_address ? machine.world.page : 0);
	if (written[_i].has_address)
		ck_assert_uint_eq(exit.bits, written[_i].flags);
	close_machine(&machine);
}
END_TEST

START_TEST(exits_without_a_fault_are_known_by_their_errno)
{
	static const struct {
		int error;
		enum gmem_exit_kind kind;
	} cases[] = {
		{EFAULT, GMEM_EXIT_GONE},      {EHWPOISON, GMEM_EXIT_POISONED},
		{ENOMEM, GMEM_EXIT_NO_MEMORY}, {EINTR, GMEM_EXIT_RETRY},
		{EAGAIN, GMEM_EXIT_RETRY},     {EIO, GMEM_EXIT_OTHER},
		{EINVAL, GMEM_EXIT_OTHER},     {EPERM, GMEM_EXIT_OTHER},
	};
	struct machine machine;
	struct gmem_exit exit;

	OPEN_OR_SKIP(&machine);
	machine.world.guest.run->exit_reason = KVM_EXIT_UNKNOWN;
	memset(&machine.world.guest.run->hw, 0xa5, sizeof(struct raw_memory_fault));
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		exit = decode(machine.vcpu, -1, cases[i].error);
		ck_assert_int_eq(exit.kind, cases[i].kind);
		ck_assert_uint_eq(exit.flags | exit.gpa | exit.size | exit.bits, 0);
	}
	close_machine(&machine);
}
END_TEST

/* ---- Resolving ---- */

/* For a VM without private memory. */
static const struct {
	enum gmem_exit_kind kind;
	int error;
	enum gmem_reason reason;
} resolved[] = {
	{GMEM_EXIT_OTHER, EINVAL, GMEM_REASON_ARGUMENT},
	{GMEM_EXIT_TO_PRIVATE, EOPNOTSUPP, GMEM_REASON_CAP_UNSUPPORTED},
	{GMEM_EXIT_TO_SHARED, EOPNOTSUPP, GMEM_REASON_CAP_UNSUPPORTED},
	{GMEM_EXIT_MISSING, ENODATA, GMEM_REASON_EXIT_MISSING},
	{GMEM_EXIT_POISONED, EHWPOISON, GMEM_REASON_POISONED},
	{GMEM_EXIT_GONE, EFAULT, GMEM_REASON_EXIT_GONE},
	{GMEM_EXIT_NO_MEMORY, ENOMEM, GMEM_REASON_NO_MEMORY},
	{GMEM_EXIT_RETRY, 0, GMEM_REASON_NONE},
	{GMEM_EXIT_UNKNOWN, EOPNOTSUPP, GMEM_REASON_EXIT_UNKNOWN},
	{GMEM_EXIT_BAD_HYPERCALL, EINVAL, GMEM_REASON_ARGUMENT}, /* not without its flag */
	{99, EINVAL, GMEM_REASON_ARGUMENT},
};

START_TEST(each_kind_fails_with_its_reason)
{
	struct gmem_exit exit =
		EXIT(.kind = resolved[_i].kind, .flags = GMEM_EXIT_ADDRESS, .gpa = GPA);
	struct machine machine;
	int r;

	OPEN_OR_SKIP(&machine);
	exit.size = machine.world.page;
	r = gmem_vcpu_resolve(machine.vcpu, &exit, NULL);
	ck_assert_int_eq(r, -resolved[_i].error);
	if (r < 0)
		ck_assert_msg(gmem_error_get_reason() == resolved[_i].reason, "%s",
			      gmem_error_get_message());
	close_machine(&machine);
}
END_TEST

START_TEST(resolve_refuses_what_it_cannot_understand)
{
	struct gmem_resolve_opts opts = RESOLVE(.flags = 2);
	struct gmem_exit exit = EXIT(.kind = GMEM_EXIT_RETRY);
	struct machine machine;

	OPEN_OR_SKIP(&machine);
	assert_fails(gmem_vcpu_resolve(machine.vcpu, &exit, &opts), EINVAL, FLAGS_UNKNOWN);
	opts.sz = 0;
	assert_fails(gmem_vcpu_resolve(machine.vcpu, &exit, &opts), EINVAL, OPTS_SIZE);
	assert_fails(gmem_vcpu_resolve(machine.vcpu, NULL, NULL), EINVAL, NULL);
	assert_fails(gmem_vcpu_resolve(NULL, &exit, NULL), EINVAL, NULL);
	exit.sz = 1;
	assert_fails(gmem_vcpu_resolve(machine.vcpu, &exit, NULL), EINVAL, OPTS_SIZE);
	assert_fails(gmem_vcpu_decode(machine.vcpu, 0, 0, &exit), EINVAL, OPTS_SIZE);
	assert_fails(gmem_vcpu_decode(machine.vcpu, 0, 0, NULL), EINVAL, NULL);
	assert_fails(gmem_vcpu_decode(NULL, 0, 0, &exit), EINVAL, NULL);
	close_machine(&machine);
}
END_TEST

START_TEST(same_fault_is_stuck_at_the_limit_and_another_is_not)
{
	struct gmem_exit one = EXIT(.kind = GMEM_EXIT_RETRY, .flags = GMEM_EXIT_ADDRESS, .gpa = GPA,
				    .size = raw_page());
	struct gmem_exit two = one;
	struct machine machine;

	OPEN_OR_SKIP(&machine);
	two.gpa += two.size;
	for (int times = 0; times < DEFAULT_LIMIT; times++)
		assert_ok(gmem_vcpu_resolve(machine.vcpu, &one, NULL));
	assert_fails(gmem_vcpu_resolve(machine.vcpu, &one, NULL), ELOOP, EXIT_STUCK);
	assert_ok(gmem_vcpu_resolve(machine.vcpu, &two, NULL));
	assert_ok(gmem_vcpu_resolve(machine.vcpu, &one, NULL));
	/* And a guest that came further in between has begun anew. */
	for (int times = 0; times < DEFAULT_LIMIT - 1; times++)
		assert_ok(gmem_vcpu_resolve(machine.vcpu, &one, NULL));
	ck_assert_int_eq(guest_store(&machine.world.guest, GPA, 1), KVM_EXIT_HLT);
	decode(machine.vcpu, 0, 0);
	assert_ok(gmem_vcpu_resolve(machine.vcpu, &one, NULL));
	close_machine(&machine);
}
END_TEST

/* A guest of a VM without private memory is told that it cannot have any. */
START_TEST(hypercall_for_memory_that_cannot_be_private_is_answered)
{
	struct gmem_exit exit;
	struct machine machine;
	uint64_t gpa;

	NEED_KVM();
	NEED_CALLS();
	OPEN_OR_SKIP(&machine);
	assert_ok(gmem_vm_enable_map_gpa_range(machine.world.vm));
	for (uint64_t attributes = 0; attributes <= 16; attributes += 16) {
		guest_begin_call(&machine.world.guest, RAW_MAP_GPA_RANGE,
				 (const uint64_t[3]){GPA, 1, attributes});
		ck_assert_int_eq(guest_enter(&machine.world.guest), 0);
		exit = decode(machine.vcpu, 0, 0);
		ck_assert_int_eq(exit.kind,
				 attributes ? GMEM_EXIT_TO_PRIVATE : GMEM_EXIT_TO_SHARED);
		ck_assert_uint_eq(exit.flags, GMEM_EXIT_HYPERCALL | GMEM_EXIT_ADDRESS);
		ck_assert_uint_eq(exit.gpa, GPA);
		ck_assert_uint_eq(exit.size, 4096);
		ck_assert_uint_eq(exit.bits, attributes);
		assert_ok(gmem_vcpu_resolve(machine.vcpu, &exit, NULL));
		ck_assert_int_eq(gmem_error_get_reason(), GMEM_REASON_CAP_UNSUPPORTED);
		ck_assert_int_eq(guest_enter(&machine.world.guest), 0);
		ck_assert_int_eq(guest_result(&machine.world.guest, &gpa), -RAW_CALL_INVALID);
	}
	close_machine(&machine);
}
END_TEST

START_TEST(hypercall_exit_is_enabled_where_the_capability_is)
{
	struct world world;
	uint64_t mask;
	int cap;

	if (!world_open(&world, 0))
		return;
	cap = raw_cap(world.fd, RAW_CAP_EXIT_HYPERCALL);
	if (cap > 0 && (uint64_t)cap & RAW_CALLS_MAP) {
		assert_ok(gmem_vm_get_cap(world.vm, GMEM_CAP_EXIT_HYPERCALL, &mask));
		ck_assert_uint_eq(mask, (uint64_t)cap);
		assert_ok(gmem_vm_enable_map_gpa_range(world.vm));
	} else {
		assert_fails(gmem_vm_enable_map_gpa_range(world.vm), EOPNOTSUPP, CAP_UNSUPPORTED);
	}
	world_close(&world);
}
END_TEST

/* ---- A VM without private memory ---- */

START_TEST(vm_without_private_memory_is_shared_and_says_so)
{
	struct gmem_slot_memory memory = {.sz = sizeof(memory)};
	enum gmem_visibility visibility = GMEM_VISIBILITY_PRIVATE;
	struct machine machine;
	uint64_t size, done = 1;
	struct gmem_vm *vm;

	OPEN_OR_SKIP(&machine);
	vm = machine.world.vm;
	for (int to = 0; to < 2; to++)
		assert_fails(gmem_vm_convert(vm, GPA, machine.size, (enum gmem_visibility)to,
					     GMEM_CONVERT_DISCARD, &done),
			     EOPNOTSUPP, CAP_UNSUPPORTED);
	ck_assert_uint_eq(done, 0);
	assert_fails(gmem_vm_adopt_visibility(vm, GPA, machine.size, GMEM_VISIBILITY_PRIVATE),
		     EOPNOTSUPP, CAP_UNSUPPORTED);
	assert_fails(
		gmem_memfd_convert(machine.memfd, 0, machine.size, GMEM_VISIBILITY_PRIVATE, &done),
		EOPNOTSUPP, CAP_UNSUPPORTED);
	assert_ok(gmem_vm_get_visibility(vm, GPA, &visibility, &size));
	ck_assert_int_eq(visibility, GMEM_VISIBILITY_SHARED);
	ck_assert_uint_eq(size, UINT64_MAX - GPA);
	machine.addr[0] = 1;
	assert_ok(gmem_slot_get_memory(machine.slot, &memory));
	ck_assert_uint_eq(memory.private_bytes + memory.twice_bytes, 0);
	ck_assert_uint_eq(memory.shared_bytes, machine.size);
	ck_assert_uint_eq(memory.shared_resident, machine.world.page);
	close_machine(&machine);
}
END_TEST

/* ---- Pre-fault ---- */

/* Opens one whose kernel fills page tables beforehand, or skips the test. */
static bool open_prefault(struct machine *machine, uint64_t size)
{
	uint64_t value;

	if (guest_code_size == 0) {
		harness_skip(GUEST_NONE);
		return false;
	}
	if (!open_machine(machine, size, 0))
		return false;
	if (gmem_vm_get_cap(machine->world.vm, GMEM_CAP_PRE_FAULT_MEMORY, &value) == 0)
		return true;
	close_machine(machine);
	harness_skip("this kernel has no KVM_PRE_FAULT_MEMORY");
	return false;
}

static uint64_t resident(const struct machine *machine)
{
	return host_count_resident(machine->addr, machine->size) * machine->world.page;
}

START_TEST(prefault_is_refused_where_the_kernel_has_none)
{
	struct machine machine;
	uint64_t value, done = 1;

	OPEN_OR_SKIP(&machine);
	if (gmem_vm_get_cap(machine.world.vm, GMEM_CAP_PRE_FAULT_MEMORY, &value) == 0) {
		close_machine(&machine);
		SKIP("this kernel has KVM_PRE_FAULT_MEMORY");
	}
	assert_fails(gmem_vcpu_prefault(machine.vcpu, GPA, machine.size, NULL, &done), EOPNOTSUPP,
		     CAP_UNSUPPORTED);
	ck_assert_uint_eq(done, 0);
	ck_assert_uint_eq(resident(&machine), 0);
	close_machine(&machine);
}
END_TEST

/* What each range fails with, and how much of it is filled. */
START_TEST(prefault_goes_as_far_as_there_is_memory)
{
	struct machine machine;
	struct gmem_vcpu *vcpu;
	uint64_t page, done;

	if (!open_prefault(&machine, PAGES * raw_page()))
		return;
	vcpu = machine.vcpu;
	page = machine.world.page;
	assert_fails(gmem_vcpu_prefault(vcpu, GPA + page, machine.size, NULL, &done), EFAULT,
		     GPA_UNMAPPED);
	ck_assert_uint_eq(done, machine.size - page);
	ck_assert_uint_eq(resident(&machine), machine.size - page);
	assert_fails(gmem_vcpu_prefault(vcpu, NOWHERE, page, NULL, &done), EFAULT, GPA_UNMAPPED);
	ck_assert_uint_eq(done, 0);
	assert_ok(gmem_vcpu_prefault(vcpu, GPA, machine.size, NULL, &done));
	ck_assert_uint_eq(done, machine.size);
	ck_assert_uint_eq(resident(&machine), machine.size);
	assert_ok(gmem_vcpu_prefault(vcpu, GPA, machine.size, NULL, NULL));
	assert_fails(gmem_vcpu_prefault(vcpu, GPA, 0, NULL, &done), EINVAL, RANGE_EMPTY);
	assert_fails(gmem_vcpu_prefault(vcpu, GPA + 1, page, NULL, &done), EINVAL, RANGE_UNALIGNED);
	assert_fails(gmem_vcpu_prefault(vcpu, ~(page - 1), 2 * page, NULL, &done), EOVERFLOW,
		     RANGE_WRAPS);
	assert_fails(gmem_vcpu_prefault(vcpu, UINT64_C(1) << 62, page, NULL, &done), ERANGE,
		     GPA_BEYOND_WIDTH);
	close_machine(&machine);
}
END_TEST

START_TEST(prefault_of_memory_that_is_gone_says_so_and_leaves_kvm_run)
{
	static unsigned char before[4096];
	struct machine machine;
	uint64_t done;

	if (!open_prefault(&machine, PAGES * raw_page()))
		return;
	munmap(raw_add_memory(machine.world.fd, FOREIGN_ID, NOWHERE, machine.size), machine.size);
	ck_assert_int_eq(guest_load(&machine.world.guest, NOWHERE + MIB, &(uint32_t){0}),
			 KVM_EXIT_MMIO);
	memcpy(before, machine.world.guest.run, sizeof(before));
	assert_fails(gmem_vcpu_prefault(machine.vcpu, NOWHERE, machine.world.page, NULL, &done),
		     EFAULT, EXIT_GONE);
	ck_assert_uint_eq(done, 0);
	ck_assert_int_eq(memcmp(machine.world.guest.run, before, sizeof(before)), 0);
	assert_fails(gmem_vcpu_prefault(machine.vcpu, NOWHERE - MIB, MIB, NULL, &done), EFAULT,
		     GPA_UNMAPPED);
	assert_ok(gmem_vcpu_prefault(machine.vcpu, GPA, machine.size, NULL, &done));
	ck_assert_int_eq(memcmp(machine.world.guest.run, before, sizeof(before)), 0);
	close_machine(&machine);
}
END_TEST

struct teller {
	struct gmem_vm *vm;
	uint64_t done, total, stop_at;
	unsigned int told;
};

static int on_progress(void *data, uint64_t done, uint64_t total)
{
	struct teller *teller = data;

	assert_fails(gmem_vm_discard(teller->vm, GPA, MIB), EDEADLK, IN_CALLBACK);
	ck_assert_uint_ge(done, teller->done);
	teller->done = done;
	teller->total = total;
	teller->told++;
	return done >= teller->stop_at;
}

START_TEST(prefault_tells_its_progress)
{
	struct teller teller = {.stop_at = UINT64_MAX};
	struct machine machine;
	uint64_t done;

	if (!open_prefault(&machine, 12 * MIB))
		return;
	teller.vm = machine.world.vm;
	assert_ok(gmem_vcpu_prefault(machine.vcpu, GPA, machine.size,
				     PREFAULT(.progress = on_progress, .data = &teller), &done));
	ck_assert_uint_eq(done, machine.size);
	ck_assert_uint_eq(teller.done, machine.size);
	ck_assert_uint_eq(teller.total, machine.size);
	ck_assert_uint_gt(teller.told, 2);
	ck_assert_uint_eq(resident(&machine), machine.size);
	close_machine(&machine);
}
END_TEST

START_TEST(prefault_stops_where_it_is_told_to)
{
	struct teller teller = {.stop_at = 1};
	struct machine machine;
	uint64_t done;
	int stop = 1;

	if (!open_prefault(&machine, 12 * MIB))
		return;
	teller.vm = machine.world.vm;
	assert_fails(
		gmem_vcpu_prefault(machine.vcpu, GPA, machine.size, PREFAULT(.stop = &stop), &done),
		ECANCELED, STOPPED);
	ck_assert_uint_eq(done, 0);
	assert_fails(gmem_vcpu_prefault(machine.vcpu, GPA, machine.size,
					PREFAULT(.progress = on_progress, .data = &teller), &done),
		     ECANCELED, STOPPED);
	ck_assert_uint_gt(done, 0);
	ck_assert_uint_lt(done, machine.size);
	ck_assert_uint_eq(resident(&machine), done);
	/* The rest, from there on. */
	assert_ok(gmem_vcpu_prefault(machine.vcpu, GPA + done, machine.size - done, NULL, NULL));
	ck_assert_uint_eq(resident(&machine), machine.size);
	close_machine(&machine);
}
END_TEST

START_TEST(prefault_goes_on_after_signals)
{
	struct machine machine;
	uint64_t done;

	if (!open_prefault(&machine, 12 * MIB))
		return;
	host_pester(2000);
	assert_ok(gmem_vcpu_prefault(machine.vcpu, GPA, machine.size, NULL, &done));
	host_pester(0);
	ck_assert_uint_eq(done, machine.size);
	ck_assert_uint_eq(resident(&machine), machine.size);
	close_machine(&machine);
}
END_TEST

START_TEST(prefault_with_several_takes_each_vcpu_of_the_vm_once)
{
	struct gmem_vcpu *vcpus[2], *other;
	struct guest guest, foreign;
	struct machine machine;
	struct gmem_vm *vm;
	uint64_t done;

	if (!open_prefault(&machine, 12 * MIB))
		return;
	vm = machine.world.vm;
	guest_open_vcpu(&guest, machine.world.fd, 1, CODE);
	vcpus[0] = machine.vcpu;
	assert_ok(gmem_vcpu_open(vm, guest.fd, guest.run, &vcpus[1]));
	assert_ok(gmem_vm_prefault(vm, vcpus, 2, GPA, machine.size, NULL, &done));
	ck_assert_uint_eq(done, machine.size);
	ck_assert_uint_eq(resident(&machine), machine.size);
	assert_fails(gmem_vm_prefault(vm, vcpus, 0, GPA, machine.size, NULL, &done), EINVAL,
		     ARGUMENT);
	assert_fails(gmem_vm_prefault(vm, vcpus, 257, GPA, machine.size, NULL, &done), EINVAL,
		     ARGUMENT);
	assert_fails(gmem_vm_prefault(vm, NULL, 1, GPA, machine.size, NULL, &done), EINVAL, NULL);
	other = vcpus[1];
	vcpus[1] = vcpus[0];
	assert_fails(gmem_vm_prefault(vm, vcpus, 2, GPA, machine.size, NULL, &done), EINVAL,
		     ARGUMENT);
	vcpus[1] = NULL;
	assert_fails(gmem_vm_prefault(vm, vcpus, 2, GPA, machine.size, NULL, &done), EINVAL, NULL);
	gmem_vcpu_close(other);
	guest_close(&guest);
	assert_ok(gmem_vm_open(VM_UNDER_TEST(), &vm));
	guest_open(&foreign, gmem_vm_get_fd(vm), CODE);
	assert_ok(gmem_vcpu_open(vm, foreign.fd, foreign.run, &vcpus[1]));
	assert_fails(gmem_vm_prefault(machine.world.vm, vcpus, 2, GPA, machine.size, NULL, &done),
		     EINVAL, ARGUMENT);
	gmem_vcpu_close(vcpus[1]);
	guest_close(&foreign);
	gmem_vm_close(vm);
	close_machine(&machine);
}
END_TEST

/* ---- Poison, in a machine that is thrown away ---- */

static void on_bus(int signal)
{
	(void)signal; /* poisoning ends in one for whoever asked for it */
}

START_TEST(poisoned_page_is_an_exit_and_discard_heals_it)
{
	struct sigaction action = {.sa_handler = on_bus};
	struct machine machine;
	struct gmem_exit exit;
	uint64_t bad, done;
	uint32_t value;

	NEED_THROW_AWAY();
	NEED_WORLD_GUEST();
	if (!world_open_guest_memfd(&machine.world))
		return;
	world_close(&machine.world);
	if (!open_machine(&machine, PAGES * raw_page(), GMEM_VM_FAULT_PROOF))
		return;
	if (madvise(machine.addr, 0, ADVICE_POISON) < 0) {
		close_machine(&machine);
		SKIP("this kernel was built without memory failures, or this is not root");
	}
	bad = GPA + machine.world.page;
	for (uint64_t i = 0; i < PAGES; i++)
		ck_assert_int_eq(guest_store(&machine.world.guest, GPA + i * machine.world.page, 7),
				 KVM_EXIT_HLT);
	sigaction(SIGBUS, &action, NULL);
	madvise(machine.addr + machine.world.page, machine.world.page, ADVICE_POISON);
	exit = decode_run(machine.vcpu, guest_load(&machine.world.guest, bad + 8, &value));
	ck_assert_int_eq(exit.kind, GMEM_EXIT_POISONED);
	ck_assert_int_eq(exit.error, EHWPOISON);
	ck_assert_uint_eq(exit.flags, GMEM_EXIT_ADDRESS);
	ck_assert_uint_eq(exit.gpa, bad);
	ck_assert_uint_eq(exit.size, machine.world.page);
	assert_fails(gmem_vcpu_resolve(machine.vcpu, &exit, NULL), EHWPOISON, POISONED);
	assert_fails(gmem_vm_read(machine.world.vm, 0, bad, &value, 4), EFAULT, ACCESS_FAULT);
	if (gmem_vm_get_cap(machine.world.vm, GMEM_CAP_PRE_FAULT_MEMORY, &done) == 0) {
		assert_fails(gmem_vcpu_prefault(machine.vcpu, GPA, machine.size, NULL, &done),
			     EHWPOISON, POISONED);
		ck_assert_uint_eq(done, machine.world.page);
	}
	assert_ok(gmem_vm_discard(machine.world.vm, bad, machine.world.page));
	ck_assert_int_eq(guest_load(&machine.world.guest, bad, &value), KVM_EXIT_HLT);
	ck_assert_uint_eq(value, 0);
	ck_assert_int_eq(guest_load(&machine.world.guest, GPA, &value), KVM_EXIT_HLT);
	ck_assert_uint_eq(value, 7);
	close_machine(&machine);
}
END_TEST

/* ---- All of them ---- */

static TCase *make_case(Suite *suite, const char *name)
{
	TCase *tcase = tcase_create(name);

	suite_add_tcase(suite, tcase);
	return tcase;
}

#define COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))

static void add_exits(TCase *tcase)
{
	tcase_add_test(tcase, vcpu_opens_with_its_descriptor_and_no_other);
	tcase_add_test(tcase, vcpu_survives_vm);
	tcase_add_test(tcase, vcpu_is_of_the_process_that_opened_it);
	tcase_add_test(tcase, exits_that_are_not_of_memory_are_the_vmms);
	tcase_add_test(tcase, interrupted_run_is_to_be_repeated_whatever_is_left_over);
	tcase_add_test(tcase, guest_memfd_that_is_gone_is_gone_at_its_address);
	tcase_add_test(tcase, host_memory_that_is_gone_is_gone_without_an_address);
	tcase_add_test(tcase, slot_that_is_gone_is_a_device_to_the_guest);
	tcase_add_loop_test(tcase, memory_faults_are_read_from_kvm_run, 0, COUNT(written));
	tcase_add_test(tcase, exits_without_a_fault_are_known_by_their_errno);
}

static void add_resolve(TCase *tcase)
{
	tcase_add_loop_test(tcase, each_kind_fails_with_its_reason, 0, COUNT(resolved));
	tcase_add_test(tcase, resolve_refuses_what_it_cannot_understand);
	tcase_add_test(tcase, same_fault_is_stuck_at_the_limit_and_another_is_not);
	tcase_add_test(tcase, hypercall_for_memory_that_cannot_be_private_is_answered);
	tcase_add_test(tcase, hypercall_exit_is_enabled_where_the_capability_is);
	tcase_add_test(tcase, vm_without_private_memory_is_shared_and_says_so);
}

static void add_prefault(TCase *tcase)
{
	tcase_add_test(tcase, prefault_is_refused_where_the_kernel_has_none);
	tcase_add_test(tcase, prefault_goes_as_far_as_there_is_memory);
	tcase_add_test(tcase, prefault_of_memory_that_is_gone_says_so_and_leaves_kvm_run);
	tcase_add_test(tcase, prefault_tells_its_progress);
	tcase_add_test(tcase, prefault_stops_where_it_is_told_to);
	tcase_add_test(tcase, prefault_goes_on_after_signals);
	tcase_add_test(tcase, prefault_with_several_takes_each_vcpu_of_the_vm_once);
}

int main(void)
{
	Suite *suite = suite_create("vcpu");

	add_exits(make_case(suite, "exits"));
	add_resolve(make_case(suite, "resolve"));
	add_prefault(make_case(suite, "prefault"));
	tcase_add_test(make_case(suite, "poison"), poisoned_page_is_an_exit_and_discard_heals_it);
	return harness_run(suite);
}
