/* SPDX-License-Identifier: MIT */
/*
 * The kernel of libgmem-fake itself: what the library's own calls do not show, asked through the
 * table of syscalls as the library asks.
 */
#include "script.h"

#include "harness.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE UINT64_C(0x1000)

static struct gmem_fake *fake;
static int vm_fd;

static void start(enum gmem_fake_kernel kernel)
{
	fake = script_new(kernel);
	vm_fd = gmem_fake_make_vm(fake);
}

static void finish(void)
{
	gmem_fake_close_fd(fake, vm_fd);
	script_end(fake);
}

static int request(int fd, unsigned long number, void *argument)
{
	return fake->sys.ioctl(&fake->sys, fd, number, (uintptr_t)argument);
}

/* ---- Private addresses ---- */

static int set_attributes(uint64_t gpa, uint64_t size, uint64_t attributes, uint64_t flags)
{
	struct kvm_memory_attributes argument = {gpa, size, attributes, flags};

	return request(vm_fd, KVM_SET_MEMORY_ATTRIBUTES, &argument);
}

static void make_private(uint64_t page, uint64_t count)
{
	ck_assert_int_eq(set_attributes(page * PAGE, count * PAGE, 8, 0), 0);
}

static void make_shared(uint64_t page, uint64_t count)
{
	ck_assert_int_eq(set_attributes(page * PAGE, count * PAGE, 0, 0), 0);
}

/* "2-5 7-8": the private pages. */
static void check_private(const char *expected)
{
	char text[256] = "";
	uint64_t gpa = 0, until;

	while (gpa != UINT64_MAX) {
		if (gmem_fake_is_private(fake, vm_fd, gpa, &until))
			snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%llx-%llx",
				 *text ? " " : "", (unsigned long long)(gpa / PAGE),
				 (unsigned long long)(until / PAGE));
		gpa = until;
	}
	ck_assert_str_eq(text, expected);
}

START_TEST(attributes_are_kept_as_ranges)
{
	start(GMEM_FAKE_PRIVATE);
	check_private("");
	make_private(4, 4);
	check_private("4-8");
	make_private(10, 2);
	make_private(0, 1);
	check_private("0-1 4-8 a-c");
	make_private(8, 2); /* what touches becomes one */
	check_private("0-1 4-c");
	make_shared(5, 1);
	check_private("0-1 4-5 6-c");
	make_shared(3, 4);
	check_private("0-1 7-c");
	make_shared(7, 1);
	make_shared(11, 1);
	check_private("0-1 8-b");
	make_shared(2, 3); /* shared already */
	check_private("0-1 8-b");
	make_private(0, 32);
	check_private("0-20");
	make_shared(0, 32);
	check_private("");
	finish();
}
END_TEST

START_TEST(attributes_of_each_vm_are_its_own)
{
	int other;

	start(GMEM_FAKE_PRIVATE);
	other = gmem_fake_make_vm(fake);
	make_private(1, 1);
	ck_assert(!gmem_fake_is_private(fake, other, PAGE, NULL));
	gmem_fake_close_fd(fake, other);
	finish();
}
END_TEST

START_TEST(attributes_are_checked)
{
	start(GMEM_FAKE_PRIVATE);
	ck_assert_int_eq(set_attributes(0, PAGE, 8, 1), -EINVAL);
	ck_assert_int_eq(set_attributes(0, PAGE, 1, 0), -EINVAL);
	ck_assert_int_eq(set_attributes(0, 0, 8, 0), -EINVAL);
	ck_assert_int_eq(set_attributes(-PAGE, 2 * PAGE, 8, 0), -EINVAL);
	ck_assert_int_eq(set_attributes(-PAGE, PAGE, 8, 0), -EINVAL); /* ends at 2^64 */
	ck_assert_int_eq(set_attributes(-(2 * PAGE), PAGE, 8, 0), 0);
	ck_assert_int_eq(set_attributes(1, PAGE, 8, 0), -EINVAL);
	ck_assert_int_eq(set_attributes(0, PAGE + 1, 8, 0), -EINVAL);
	check_private("ffffffffffffe-fffffffffffff");
	finish();
}
END_TEST

START_TEST(attributes_have_a_text)
{
	start(GMEM_FAKE_PRIVATE);
	gmem_fake_expect(fake,
			 "ioctl(vm1, SET_ATTRIBUTES, gpa=0x1000 size=0x2000 private)\n"
			 "ioctl(vm1, SET_ATTRIBUTES, gpa=0 size=0x1000 shared)\n"
			 "ioctl(vm1, SET_ATTRIBUTES, gpa=0 size=0x1000 attributes=0x9 flags=0x2)\n"
			 "ioctl(vm1, SET_ATTRIBUTES, gpa=0 size=0x1000 private) = ENOMEM");
	ck_assert_int_eq(set_attributes(PAGE, 2 * PAGE, 8, 0), 0);
	ck_assert_int_eq(set_attributes(0, PAGE, 0, 0), 0);
	ck_assert_int_eq(set_attributes(0, PAGE, 9, 2), -EINVAL);
	ck_assert_int_eq(set_attributes(0, PAGE, 8, 0), -ENOMEM);
	gmem_fake_met(fake);
	check_private("1-3"); /* what was ordered to fail did nothing */
	finish();
}
END_TEST

START_TEST(attributes_can_be_ordered_to_fail)
{
	start(GMEM_FAKE_PRIVATE);
	gmem_fake_fail(fake, 2, ENOMEM, "SET_ATTRIBUTES");
	make_private(1, 1);
	ck_assert_int_eq(set_attributes(PAGE, PAGE, 0, 0), -ENOMEM);
	make_private(2, 1);
	ck_assert_uint_eq(gmem_fake_recover(fake), 1);
	check_private("1-3");
	finish();
}
END_TEST

START_TEST(attributes_need_a_kernel_with_them)
{
	start((enum gmem_fake_kernel)_i);
	ck_assert_int_eq(set_attributes(0, PAGE, 0, 0), -ENOTTY);
	gmem_fake_set_cap(fake, KVM_CAP_MEMORY_ATTRIBUTES, 8);
	ck_assert_int_eq(set_attributes(0, PAGE, 8, 0), 0);
	finish();
}
END_TEST

/* ---- Hypercall exits ---- */

static int enable_cap(uint32_t cap, uint64_t value, uint32_t flags)
{
	struct kvm_enable_cap argument = {.cap = cap, .flags = flags, .args = {value}};

	return request(vm_fd, KVM_ENABLE_CAP, &argument);
}

START_TEST(enable_cap_knows_hypercall_exits)
{
	start(GMEM_FAKE_LINUX_6_18);
	ck_assert_int_eq(request(vm_fd, KVM_CHECK_EXTENSION, (void *)KVM_CAP_EXIT_HYPERCALL),
			 0x1000);
	gmem_fake_expect(fake, "ioctl(vm1, ENABLE_CAP, cap=201 args=0x1000)\n"
			       "ioctl(vm1, ENABLE_CAP, cap=201 args=0)\n"
			       "ioctl(vm1, ENABLE_CAP, cap=201 args=0x1001)\n"
			       "ioctl(vm1, ENABLE_CAP, cap=201 args=0x1000 flags=0x1)\n"
			       "ioctl(vm1, ENABLE_CAP, cap=202 args=0x1000)");
	ck_assert_int_eq(enable_cap(KVM_CAP_EXIT_HYPERCALL, 0x1000, 0), 0);
	ck_assert_int_eq(enable_cap(KVM_CAP_EXIT_HYPERCALL, 0, 0), 0);
	ck_assert_int_eq(enable_cap(KVM_CAP_EXIT_HYPERCALL, 0x1001, 0), -EINVAL);
	ck_assert_int_eq(enable_cap(KVM_CAP_EXIT_HYPERCALL, 0x1000, 1), -EINVAL);
	ck_assert_int_eq(enable_cap(202, 0x1000, 0), -EINVAL);
	gmem_fake_met(fake);
	gmem_fake_set_cap(fake, KVM_CAP_EXIT_HYPERCALL, 0);
	ck_assert_int_eq(enable_cap(KVM_CAP_EXIT_HYPERCALL, 0, 0), -EINVAL);
	finish();
}
END_TEST

/* ---- vCPUs ---- */

static struct kvm_run run;
static int vcpu_fd;

/* Slot 0: pages 16 to 31 over the host's memory, slot 1: pages 32 to 47 of a guest_memfd too. */
static unsigned char *host;
static int gmem_fd;

static void start_vcpu(enum gmem_fake_kernel kernel)
{
	struct kvm_userspace_memory_region2 region = {.slot = 1,
						      .flags = KVM_MEM_GUEST_MEMFD,
						      .guest_phys_addr = 32 * PAGE,
						      .memory_size = 16 * PAGE};

	start(kernel);
	host = aligned_alloc(PAGE, 32 * PAGE);
	memset(&run, 0, sizeof(run));
	vcpu_fd = gmem_fake_make_vcpu(fake, vm_fd, &run);
	gmem_fd = gmem_fake_make_gmem(fake, vm_fd, 16 * PAGE, kernel == GMEM_FAKE_PRIVATE ? 0 : 3);
	ck_assert_int_eq(gmem_fake_set_slot(fake, vm_fd, 0, 16 * PAGE, 16 * PAGE, host), 0);
	region.guest_memfd = (uint32_t)gmem_fd;
	region.userspace_addr = (uintptr_t)host + 16 * PAGE;
	ck_assert_int_eq(request(vm_fd, KVM_SET_USER_MEMORY_REGION2, &region), 0);
}

static void finish_vcpu(void)
{
	struct kvm_userspace_memory_region2 region = {.slot = 1};

	ck_assert_int_eq(gmem_fake_set_slot(fake, vm_fd, 0, 0, 0, NULL), 0);
	ck_assert_int_eq(request(vm_fd, KVM_SET_USER_MEMORY_REGION2, &region), 0);
	gmem_fake_close_fd(fake, gmem_fd);
	gmem_fake_close_fd(fake, vcpu_fd);
	free(host);
	finish();
}

/* Load pages; what is left of them is checked. */
static int prefault(uint64_t page, uint64_t count, uint64_t left)
{
	struct kvm_pre_fault_memory range = {.gpa = page * PAGE, .size = count * PAGE};
	int r = request(vcpu_fd, KVM_PRE_FAULT_MEMORY, &range);

	ck_assert_uint_eq(range.size, left * PAGE);
	ck_assert_uint_eq(range.gpa, (page + count - left) * PAGE);
	return r;
}

START_TEST(vcpu_answers_einval)
{
	start_vcpu(GMEM_FAKE_LINUX_7_3);
	ck_assert_int_eq(request(vcpu_fd, KVM_GET_API_VERSION, NULL), -EINVAL);
	ck_assert_int_eq(request(vcpu_fd, KVM_CHECK_EXTENSION, NULL), -EINVAL);
	ck_assert_int_eq(request(vm_fd, KVM_GET_API_VERSION, NULL), -ENOTTY);
	ck_assert_int_eq(request(gmem_fd, KVM_GET_API_VERSION, NULL), -ENOTTY);
	gmem_fake_fail(fake, 1, ENOTTY, "vcpu1, GET_API_VERSION"); /* an order is as it is */
	ck_assert_int_eq(request(vcpu_fd, KVM_GET_API_VERSION, NULL), -ENOTTY);
	gmem_fake_recover(fake);
	finish_vcpu();
}
END_TEST

START_TEST(vcpu_keeps_its_vm)
{
	start(GMEM_FAKE_PRIVATE);
	vcpu_fd = gmem_fake_make_vcpu(fake, vm_fd, NULL);
	make_private(1, 1);
	gmem_fake_close_fd(fake, vm_fd);
	ck_assert_int_eq(prefault(1, 1, 1), -EFAULT);
	gmem_fake_close_fd(fake, vcpu_fd);
	script_end(fake);
}
END_TEST

START_TEST(prefault_is_checked)
{
	static const struct kvm_pre_fault_memory wrong[] = {
		{.gpa = 16 * PAGE, .size = PAGE, .flags = 1},
		{.gpa = 16 * PAGE + 1, .size = PAGE},
		{.gpa = 16 * PAGE, .size = PAGE + 1},
		{.gpa = 16 * PAGE},
		{.gpa = -PAGE, .size = 2 * PAGE},
		{.gpa = -PAGE, .size = PAGE},
	};

	start_vcpu(GMEM_FAKE_LINUX_7_3);
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		struct kvm_pre_fault_memory range = wrong[i];

		ck_assert_int_eq(request(vcpu_fd, KVM_PRE_FAULT_MEMORY, &range), -EINVAL);
		ck_assert_mem_eq(&range, &wrong[i], sizeof(range));
		range.size = PAGE;
	}
	gmem_fake_set_cap(fake, KVM_CAP_PRE_FAULT_MEMORY, 0);
	ck_assert_int_eq(prefault(16, 1, 1), -EOPNOTSUPP);
	ck_assert_int_eq(prefault(16, 0, 0), -EINVAL);
	finish_vcpu();
}
END_TEST

START_TEST(prefault_needs_a_vcpu)
{
	struct kvm_pre_fault_memory range = {.gpa = 16 * PAGE, .size = PAGE};

	start_vcpu(GMEM_FAKE_LINUX_7_3);
	gmem_fake_expect(fake, "ioctl(vm1, PRE_FAULT, gpa=0x10000 size=0x1000)");
	ck_assert_int_eq(request(vm_fd, KVM_PRE_FAULT_MEMORY, &range), -ENOTTY);
	gmem_fake_met(fake);
	finish_vcpu();
}
END_TEST

START_TEST(prefault_stops_at_a_hole)
{
	start_vcpu(GMEM_FAKE_LINUX_7_3);
	gmem_fake_expect(fake, "ioctl(vcpu1, PRE_FAULT, gpa=0x10000 size=0x20000)\n"
			       "ioctl(vcpu1, PRE_FAULT, gpa=0x28000 size=0x10000)\n"
			       "ioctl(vcpu1, PRE_FAULT, gpa=0x30000 size=0x8000)");
	ck_assert_int_eq(prefault(16, 32, 0), 0);
	ck_assert_int_eq(prefault(40, 16, 8), 0);
	ck_assert_int_eq(prefault(48, 8, 8), -ENOENT);
	gmem_fake_met(fake);
	ck_assert_uint_eq(run.exit_reason, 0);
	finish_vcpu();
}
END_TEST

START_TEST(prefault_goes_by_steps)
{
	start_vcpu(GMEM_FAKE_LINUX_7_3);
	gmem_fake_set_prefault_step(fake, 3 * PAGE);
	ck_assert_int_eq(prefault(30, 4, 1), 0);
	ck_assert_int_eq(prefault(33, 1, 0), 0);
	gmem_fake_set_prefault_step(fake, 0);
	ck_assert_int_eq(prefault(16, 32, 0), 0);
	finish_vcpu();
}
END_TEST

START_TEST(prefault_of_a_private_page_without_memory)
{
	start_vcpu(GMEM_FAKE_PRIVATE);
	make_private(20, 1);
	make_private(33, 1);
	make_private(60, 1);
	ck_assert_int_eq(prefault(33, 1, 0), 0);
	ck_assert_uint_eq(run.exit_reason, 0);
	ck_assert_int_eq(prefault(60, 1, 1), -EFAULT);
	ck_assert_uint_eq(run.exit_reason, KVM_EXIT_MEMORY_FAULT);
	ck_assert_uint_eq(run.memory_fault.flags, KVM_MEMORY_EXIT_FLAG_PRIVATE);
	ck_assert_uint_eq(run.memory_fault.gpa, 60 * PAGE);
	ck_assert_uint_eq(run.memory_fault.size, PAGE);
	run.exit_reason = 0;
	ck_assert_int_eq(prefault(18, 4, 2), 0); /* also where the failure is not told */
	ck_assert_uint_eq(run.exit_reason, KVM_EXIT_MEMORY_FAULT);
	ck_assert_uint_eq(run.memory_fault.gpa, 20 * PAGE);
	finish_vcpu();
}
END_TEST

START_TEST(prefault_ordered_to_fail_leaves_an_exit)
{
	static const int errors[] = {EFAULT, EHWPOISON, ENOMEM, EIO, EINTR, EAGAIN};

	start_vcpu(GMEM_FAKE_LINUX_7_3);
	gmem_fake_fail(fake, 1, errors[_i], "PRE_FAULT");
	ck_assert_int_eq(prefault(16, 2, 2), -errors[_i]);
	ck_assert_uint_eq(run.exit_reason, _i < 4 ? KVM_EXIT_MEMORY_FAULT : 0);
	ck_assert_int_eq(prefault(16, 2, 0), 0);
	gmem_fake_recover(fake);
	finish_vcpu();
}
END_TEST

/* ---- Pages in memory ---- */

static void *map(int fd, uint64_t pages)
{
	int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
	void *addr;

	ck_assert_int_eq(fake->sys.mmap(&fake->sys, NULL, pages * PAGE, PROT_READ | PROT_WRITE,
					flags, fd, 0, &addr),
			 0);
	return addr;
}

/* "..##": the pages of a mapping. */
static void check_pages(void *addr, const char *expected)
{
	unsigned char pages[16];
	char text[17] = "";
	size_t count = strlen(expected);

	ck_assert_int_eq(fake->sys.mincore(&fake->sys, addr, count * PAGE, pages), 0);
	for (size_t i = 0; i < count; i++)
		text[i] = pages[i] & 1 ? '#' : '.';
	ck_assert_str_eq(text, expected);
}

static void check_allocation(int fd)
{
	unsigned char *addr = map(fd, 8);

	check_pages(addr, "........");
	addr[PAGE] = 1;
	check_pages(addr, ".#......");
	ck_assert_int_eq(
		fake->sys.madvise(&fake->sys, addr + 3 * PAGE, 2 * PAGE, MADV_POPULATE_WRITE), 0);
	check_pages(addr, ".#.##...");
	ck_assert_int_eq(
		fake->sys.madvise(&fake->sys, addr, 4 * PAGE, fd < 0 ? MADV_DONTNEED : MADV_REMOVE),
		0);
	check_pages(addr, "....#...");
	ck_assert_int_eq(fake->sys.munmap(&fake->sys, addr, 8 * PAGE), 0);
}

START_TEST(mincore_tells_what_was_touched)
{
	int fd;

	start(GMEM_FAKE_LINUX_7_3);
	fd = gmem_fake_make_gmem(fake, vm_fd, 8 * PAGE, 3);
	check_allocation(fd);
	check_allocation(-1);
	gmem_fake_close_fd(fake, fd);
	finish();
}
END_TEST

START_TEST(mincore_tells_what_was_allocated)
{
	unsigned char *addr;
	int fd;

	start(GMEM_FAKE_LINUX_7_3);
	fd = gmem_fake_make_gmem(fake, vm_fd, 8 * PAGE, 1); /* private: no touch */
	addr = map(fd, 8);
	ck_assert_int_eq(fake->sys.fallocate(&fake->sys, fd, 1, 2 * PAGE, 4 * PAGE), 0);
	check_pages(addr, "..####..");
	ck_assert_int_eq(fake->sys.fallocate(&fake->sys, fd, 3, 3 * PAGE, PAGE), 0);
	check_pages(addr, "..#.##..");
	ck_assert_int_eq(fake->sys.munmap(&fake->sys, addr, 8 * PAGE), 0);
	gmem_fake_close_fd(fake, fd);
	finish();
}
END_TEST

START_TEST(mincore_has_a_text_and_can_fail)
{
	unsigned char pages[2] = {0xff, 0xff};
	unsigned char *addr;

	start(GMEM_FAKE_LINUX_7_3);
	addr = map(-1, 4);
	gmem_fake_expect(fake, "mincore(m1+0x1000, 0x2000) = EAGAIN\n"
			       "mincore(m1+0x1, 0x1000)");
	ck_assert_int_eq(fake->sys.mincore(&fake->sys, addr + PAGE, 2 * PAGE, pages), -EAGAIN);
	ck_assert_int_eq(fake->sys.mincore(&fake->sys, addr + 1, PAGE, pages), -EINVAL);
	gmem_fake_met(fake);
	ck_assert_int_eq(fake->sys.munmap(&fake->sys, addr, 4 * PAGE), 0);
	finish();
}
END_TEST

START_TEST(prefault_allocates_the_guest_memfd)
{
	unsigned char *addr;

	start_vcpu(GMEM_FAKE_LINUX_7_3);
	addr = map(gmem_fd, 16);
	ck_assert_int_eq(prefault(30, 6, 0), 0);
	check_pages(addr, "####............");
	ck_assert_int_eq(fake->sys.munmap(&fake->sys, addr, 16 * PAGE), 0);
	finish_vcpu();
}
END_TEST

START_TEST(now_advances_without_a_call)
{
	uint64_t first;

	start(GMEM_FAKE_LINUX_7_3);
	gmem_fake_expect(fake, "%s", "");
	first = fake->sys.now(&fake->sys);
	ck_assert_uint_eq(fake->sys.now(&fake->sys), first + 1000);
	gmem_fake_met(fake);
	finish();
}
END_TEST

/* ---- The handle ---- */

START_TEST(create_refuses)
{
	struct gmem_fake_opts opts = {.sz = sizeof(opts), .page_size = 0x3000};
	struct gmem_fake *ret = (void *)&opts;

	ck_fails(gmem_fake_create(&opts, &ret), EINVAL, ARGUMENT);
	ck_assert_ptr_null(ret);
	opts.page_size = 0x800;
	ck_fails(gmem_fake_create(&opts, &ret), EINVAL, ARGUMENT);
	opts.page_size = 0;
	opts.kernel = (enum gmem_fake_kernel)5;
	ck_fails(gmem_fake_create(&opts, &ret), EINVAL, ARGUMENT);
	opts.sz = 4;
	ck_fails(gmem_fake_create(&opts, &ret), EINVAL, OPTS_SIZE);
	ck_fails(gmem_fake_create(NULL, NULL), EINVAL, NULL);
	gmem_fake_close(NULL);
}
END_TEST

START_TEST(create_takes_defaults)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	struct gmem_fake *ret;

	ck_works(gmem_fake_create(NULL, &ret));
	ck_assert_uint_eq(ret->page_size, page > 4096 ? page : 4096);
	ck_assert_int_eq(ret->caps[KVM_CAP_GUEST_MEMFD_FLAGS], 3);
	ck_assert(ret->numa_in_file);
	gmem_fake_close(ret);
}
END_TEST

/* The other tests end with nothing left, so that only this one sees what close frees. */
START_TEST(close_frees_what_is_left)
{
	unsigned char page;
	void *addr;

	start_vcpu(GMEM_FAKE_PRIVATE);
	make_private(32, 16);
	addr = map(gmem_fake_make_gmem(fake, vm_fd, 4 * PAGE, 1), 4);
	gmem_fake_name(fake, host, 32 * PAGE, "host");
	gmem_fake_fail(fake, 1, EINVAL, "nothing");
	gmem_fake_expect(fake, "never");
	gmem_fake_close(fake);
	ck_assert_int_eq(mincore(addr, PAGE, &page), -1); /* nothing is mapped there */
	free(host);
}
END_TEST

/* Run in a child: what is broken must be reported there, and end it. */
static void check_broken(void (*breaks)(void), const char *expected)
{
	char text[256] = "";
	int ends[2], status;
	ssize_t size;
	pid_t pid;

	ck_assert_int_eq(pipe(ends), 0);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		if (dup2(ends[1], STDERR_FILENO) >= 0)
			breaks();
		_exit(0);
	}
	close(ends[1]);
	size = read(ends[0], text, sizeof(text) - 1);
	ck_assert_int_ge(size, 0);
	close(ends[0]);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_str_eq(text, expected);
	ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

static void start_plain(void)
{
	ck_works(gmem_fake_create(NULL, &fake));
	vm_fd = gmem_fake_make_vm(fake);
}

static void break_expectation(void)
{
	start_plain();
	gmem_fake_expect(fake, "close(vm1)");
	request(vm_fd, KVM_GET_API_VERSION, NULL);
}

static void break_no_call(void)
{
	start_plain();
	gmem_fake_expect(fake, "%s", "");
	request(vm_fd, KVM_GET_API_VERSION, NULL);
}

static void break_met(void)
{
	start_plain();
	gmem_fake_expect(fake, "close(vm1)");
	gmem_fake_met(fake);
}

static void break_check(void)
{
	start_plain();
	gmem_fake_check(fake);
}

static void break_mapping(void)
{
	start_plain();
	gmem_fake_close_fd(fake, vm_fd);
	map(-1, 1);
	gmem_fake_check(fake);
}

static void break_slot(void)
{
	start_plain();
	ck_assert_int_eq(gmem_fake_set_slot(fake, vm_fd, 3, 0, PAGE, map(-1, 1)), 0);
	fake->sys.munmap(&fake->sys, fake->mappings[0].addr, PAGE);
}

static void break_closed(void)
{
	start_plain();
	gmem_fake_close_fd(fake, vm_fd);
	request(vm_fd, KVM_GET_API_VERSION, NULL);
}

static void break_test(void)
{
	start_plain();
	gmem_fake_make_vcpu(fake, 17, NULL);
}

static const struct {
	void (*breaks)(void);
	const char *text;
} broken[] = {
	{break_expectation, "called:   ioctl(vm1, GET_API_VERSION)\nexpected: close(vm1)"},
	{break_no_call, "unexpected call: ioctl(vm1, GET_API_VERSION)"},
	{break_met, "calls that were not made:\nclose(vm1)"},
	{break_check, "1 descriptors are left"},
	{break_mapping, "1 mappings are left"},
	{break_slot, "m1 is unmapped while slot 0x3 has it"},
	{break_closed, "vm1 is used after its closing"},
	{break_test, "descriptor 17 is no VM"},
};

START_TEST(what_is_broken_aborts)
{
	char text[256];

	snprintf(text, sizeof(text), "gmem-fake: %s\n", broken[_i].text);
	check_broken(broken[_i].breaks, text);
}
END_TEST

static jmp_buf escape;
static char reported[256];

static void leave_by_jump(void *data, const char *message)
{
	ck_assert_ptr_eq(data, &escape);
	snprintf(reported, sizeof(reported), "%s", message);
	longjmp(escape, 1);
}

/* A callback may jump out of a call, and then look at what was called. */
START_TEST(what_is_broken_can_be_left_by_longjmp)
{
	struct gmem_fake_opts opts = {
		.sz = sizeof(opts), .fail = leave_by_jump, .fail_data = &escape};

	ck_works(gmem_fake_create(&opts, &fake));
	if (setjmp(escape) == 0) {
		gmem_fake_expect(fake, "%s", "");
		request(gmem_fake_make_vm(fake), KVM_GET_API_VERSION, NULL);
		ck_abort_msg("the callback did not leave");
	}
	ck_assert_str_eq(reported, "unexpected call: ioctl(vm1, GET_API_VERSION)");
	ck_assert_str_eq(gmem_fake_transcript(fake), "ioctl(vm1, GET_API_VERSION)\n");
	gmem_fake_close(fake);
}
END_TEST

/* Far more than any array holds at first. */
START_TEST(there_is_no_limit)
{
	enum {
		MANY = 3000
	};
	static void *maps[MANY];
	static int fds[MANY];

	start(GMEM_FAKE_LINUX_7_3);
	for (uint32_t i = 0; i < MANY; i++) {
		maps[i] = map(-1, 1);
		fds[i] = gmem_fake_make_file(fake, PAGE, 1, true);
		ck_assert_int_eq(gmem_fake_set_slot(fake, vm_fd, i, i * PAGE, PAGE, maps[i]), 0);
		gmem_fake_fail(fake, 0, EINVAL, "never");
	}
	ck_assert_uint_eq(gmem_fake_tally(fake, GMEM_FAKE_SLOTS), MANY);
	ck_assert_uint_eq(gmem_fake_tally(fake, GMEM_FAKE_FDS), MANY + 1);
	for (uint32_t i = 0; i < MANY; i++) {
		ck_assert_int_eq(gmem_fake_set_slot(fake, vm_fd, i, 0, 0, NULL), 0);
		ck_assert_int_eq(fake->sys.munmap(&fake->sys, maps[i], PAGE), 0);
		gmem_fake_close_fd(fake, fds[i]);
	}
	ck_assert_uint_eq(gmem_fake_recover(fake), 0);
	finish();
}
END_TEST

static void add_vcpu(Suite *suite)
{
	TCase *tcase = tcase_create("vcpu");

	tcase_add_test(tcase, vcpu_answers_einval);
	tcase_add_test(tcase, vcpu_keeps_its_vm);
	tcase_add_test(tcase, prefault_is_checked);
	tcase_add_test(tcase, prefault_needs_a_vcpu);
	tcase_add_test(tcase, prefault_stops_at_a_hole);
	tcase_add_test(tcase, prefault_goes_by_steps);
	tcase_add_test(tcase, prefault_of_a_private_page_without_memory);
	tcase_add_loop_test(tcase, prefault_ordered_to_fail_leaves_an_exit, 0, 6);
	tcase_add_test(tcase, prefault_allocates_the_guest_memfd);
	suite_add_tcase(suite, tcase);
}

static void add_vm(Suite *suite)
{
	TCase *tcase = tcase_create("vm");

	tcase_add_test(tcase, attributes_are_kept_as_ranges);
	tcase_add_test(tcase, attributes_of_each_vm_are_its_own);
	tcase_add_test(tcase, attributes_are_checked);
	tcase_add_test(tcase, attributes_have_a_text);
	tcase_add_test(tcase, attributes_can_be_ordered_to_fail);
	tcase_add_loop_test(tcase, attributes_need_a_kernel_with_them, GMEM_FAKE_LINUX_6_12,
			    GMEM_FAKE_PRIVATE);
	tcase_add_test(tcase, enable_cap_knows_hypercall_exits);
	suite_add_tcase(suite, tcase);
}

static void add_memory(Suite *suite)
{
	TCase *tcase = tcase_create("memory");

	tcase_add_test(tcase, mincore_tells_what_was_touched);
	tcase_add_test(tcase, mincore_tells_what_was_allocated);
	tcase_add_test(tcase, mincore_has_a_text_and_can_fail);
	tcase_add_test(tcase, now_advances_without_a_call);
	suite_add_tcase(suite, tcase);
}

static void add_handle(Suite *suite)
{
	TCase *tcase = tcase_create("handle");

	tcase_add_test(tcase, create_refuses);
	tcase_add_test(tcase, create_takes_defaults);
	tcase_add_test(tcase, close_frees_what_is_left);
	tcase_add_loop_test(tcase, what_is_broken_aborts, 0, (int)ARRAY_SIZE(broken));
	tcase_add_test(tcase, what_is_broken_can_be_left_by_longjmp);
	tcase_add_test(tcase, there_is_no_limit);
	suite_add_tcase(suite, tcase);
}

int main(void)
{
	Suite *suite = suite_create("fake-kernel");

	add_vm(suite);
	add_vcpu(suite);
	add_memory(suite);
	add_handle(suite);
	return harness_run(suite);
}
