/* SPDX-License-Identifier: MIT */
/*
 * Known faults of kernels, fault_..., and what else a VMM may not expect of them. A test of a fault
 * says which way this kernel goes, names the fault where it is there, and fails only where the
 * kernel goes a way that nobody has described. No library.
 */
#include "../kvm/guest.h"
#include "../kvm/host.h"
#include "raw.h"
#include "suites.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#define OTHER_SLOT	     11
#define PAGES		     8 /* as many as KVM maps ahead of a guest */
#define CHARGED_PAGES	     256
#define LOADERS		     4
#define LOADED_PAGES	     512
#define CREATIONS	     400 /* it takes some 50 */
#define INTERLEAVED_PAGES    8
#define ROUNDS		     50
#define EVENT_MILLISECONDS   5000 /* for what must come */
#define SILENCE_MILLISECONDS 500  /* for what must not */
#define POLICY_BIND	     2
#define POLICY_INTERLEAVE    3
#define POLICY_NODE_OF_ADDR  3UL
#define POLICY_ALLOWED	     4UL
#define MOVE_OWN	     2 /* move_pages(): what no other process maps */
#define HUGE_SIZE	     (UINT64_C(2) << 20)
#define CAP_ARM_MTE	     205
#define CGROUPS		     "/sys/fs/cgroup"
#define FAILSLAB	     "/sys/kernel/debug/failslab/"
#define NODE_PAGES	     64	   /* of the file that a node of its bindings is for */
#define NODES_BYTES	     4096U /* more than the nodes take for a binding in two of those */

/* A userfaultfd that can be polled, or a negative errno. */
static int open_userfaultfd(uint64_t features)
{
	return raw_userfaultfd(O_NONBLOCK, features);
}

static void watch_page(int userfaultfd, void *addr)
{
	ck_assert_int_eq(raw_userfaultfd_register(userfaultfd, addr, raw_page(),
						  UFFDIO_REGISTER_MODE_MISSING, NULL),
			 0);
}

/* The kind of the next event within some time, or 0. */
static int next_event(int userfaultfd, int milliseconds)
{
	struct pollfd poll_fd = {.fd = userfaultfd, .events = POLLIN};
	struct uffd_msg msg;

	if (poll(&poll_fd, 1, milliseconds) <= 0)
		return 0;
	ck_assert_int_eq((int)read(userfaultfd, &msg, sizeof(msg)), (int)sizeof(msg));
	return msg.event;
}

static pthread_t start(void *(*function)(void *data), void *data)
{
	pthread_t thread;

	ck_assert_int_eq(pthread_create(&thread, NULL, function, data), 0);
	return thread;
}

static void join(pthread_t thread)
{
	ck_assert_int_eq(pthread_join(thread, NULL), 0);
}

/* Into a file of the kernel, as its only word. */
static bool write_word(const char *path, const char *word)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool well = fd >= 0 && write(fd, word, strlen(word)) == (ssize_t)strlen(word);

	if (fd >= 0)
		close(fd);
	return well;
}

/* ---- The kernel's log ---- */

#ifdef __x86_64__

/* A reader of what comes from now on, or -1 where it cannot be read. */
static int open_log(void)
{
	int log = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);

	if (log >= 0)
		lseek(log, 0, SEEK_END);
	return log;
}

/* Whether KVM's page tables have caused a warning since this was asked last. */
static bool has_page_table_warning(int log)
{
	bool found = false;
	char text[4096];
	ssize_t length;

	while ((length = read(log, text, sizeof(text) - 1)) > 0) {
		text[length] = '\0';
		found |= strstr(text, "WARNING:") && strstr(text, "arch/x86/kvm/mmu/");
	}
	return found;
}

/* Have what a kernel warns of once a boot come again, if it can. */
static void rearm_warnings(void)
{
	(void)mount("debugfs", "/sys/kernel/debug", "debugfs", 0, NULL);
	(void)write_word("/sys/kernel/debug/clear_warn_once", "1");
}

#endif

/* ---- Slots ---- */

/* Where it is accepted, the slot goes on with a guest_memfd that it no longer counts as its own. */
START_TEST(fault_live_slot_loses_its_guest_memfd)
{
	bool is_private = !raw_missing_type(RAW_VM_SW_PROTECTED);
	struct raw_region region = {.gpa = RAW_GPA, .size = raw_page()};
	int vm, fd, r;
	void *memory;

	NEED_THROW_AWAY();
	NEED_KVM();
	vm = raw_vm_of_type(is_private ? RAW_VM_SW_PROTECTED : RAW_VM_DEFAULT);
	if (!is_private)
		NEED_SHARED(vm);
	memory = raw_map(-1, 0, region.size);
	fd = raw_add_memfd(vm, region.size, is_private ? 0 : RAW_SHARED, memory);
	region.addr = (uintptr_t)memory;
	r = raw_set(vm, &region);
	ck_assert(r == 0 || r == -EINVAL);
	harness_note("%s", r ? "refused" : "accepted");
	if (r == 0)
		kernel_known_fault("live-slot-loses-guest-memfd");
	close(fd);
	close(vm);
}
END_TEST

struct closing {
	atomic_int fd; /* to be closed; -1: not yet */
};

static void *close_when_told(void *data)
{
	struct closing *closing = data;

	while (atomic_load(&closing->fd) < 0)
		;
	close(atomic_load(&closing->fd));
	return NULL;
}

/* Kernels without the fix use memory that is free: they may stop here, or later. */
START_TEST(fault_unbind_races_with_the_last_close)
{
	struct closing closing;
	struct raw_shared shared;
	pthread_t thread;
	int fd;

	NEED_THROW_AWAY();
	if (!raw_open_shared(&shared, PAGES))
		return;
	for (unsigned int round = 0; round < ROUNDS; round++) {
		fd = raw_memfd(shared.vm, shared.size, RAW_SHARED);
		ck_assert_int_ge(fd, 0);
		shared.region.memfd = (uint32_t)fd;
		raw_bind_shared(&shared);
		atomic_init(&closing.fd, -1);
		thread = start(close_when_told, &closing);
		atomic_store(&closing.fd, fd);
		ck_assert_int_eq(raw_delete(shared.vm, 0), 0);
		join(thread);
	}
	harness_note("no harm seen");
	raw_close_shared(&shared);
}
END_TEST

/* What such a kernel then does: its guest has a page that no mapping, punch or count can reach. */
START_TEST(fault_bind_range_that_wraps_has_pages_past_the_end)
{
	const uint64_t last = (UINT64_C(1) << 63) - raw_page();
	struct raw_shared shared;
	struct guest guest;

	NEED_THROW_AWAY();
	NEED_GUEST();
	if (!raw_open_shared(&shared, PAGES))
		return;
	shared.region.offset = last;
	shared.region.size = 2 * shared.page;
	if (raw_set(shared.vm, &shared.region) == -EINVAL) {
		harness_note("refused");
		raw_close_shared(&shared);
		return;
	}
	raw_open_guest(shared.vm, &guest);
	ck_assert_int_eq(guest_store(&guest, RAW_GPA, 5), KVM_EXIT_HLT);
	if (host_count_resident(shared.map, shared.size))
		SKIP("the guest's accesses are made at the host address here");
	ck_assert_int_eq(raw_punch(shared.fd, last, shared.page), -EFBIG);
	ck_assert_int_eq(raw_punch(shared.fd, 0, last), 0);
	if (host_can_count_cached())
		ck_assert_int_eq(host_count_cached(shared.fd), 1);
	harness_note("a page that is out of reach");
	kernel_known_fault("bind-range-wraps");
	guest_close(&guest);
	raw_close_shared(&shared);
}
END_TEST

/* The nodes that a thread allocates for its bindings fail once it has had some bytes of them. */
static bool make_failures(void)
{
	static const char *const words[][2] = {
		{"/sys/kernel/slab/radix_tree_node/failslab", "1"},
		{FAILSLAB "cache-filter", "Y"},
		{FAILSLAB "task-filter", "Y"},
		{FAILSLAB "ignore-gfp-wait", "N"},
		{FAILSLAB "verbose", "0"},
		{FAILSLAB "interval", "1"},
		{FAILSLAB "times", "-1"},
		{FAILSLAB "probability", "100"},
	};

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		if (!write_word(words[i][0], words[i][1]))
			return false;
	}
	return true;
}

/* Sets a slot for whose binding the kernel has so many bytes and no more. */
static int set_with_bytes(const struct raw_shared *bound, unsigned int bytes)
{
	int fd = open("/proc/thread-self/make-it-fail", O_WRONLY | O_CLOEXEC);
	char word[16];
	int r;

	ck_assert_int_ge(fd, 0);
	snprintf(word, sizeof(word), "%u", bytes);
	ck_assert(write_word(FAILSLAB "space", word));
	ck_assert_int_eq((int)pwrite(fd, "1", 1, 0), 1);
	r = raw_set(bound->vm, &bound->region);
	ck_assert_int_eq((int)pwrite(fd, "0", 1, 0), 1);
	close(fd);
	return r;
}

/* How many pages of what is to be bound another slot can have. */
static unsigned int count_unbound(const struct raw_shared *bound)
{
	struct raw_region region = bound->region;
	unsigned int count = 0;

	region.slot = OTHER_SLOT;
	region.gpa += bound->size;
	region.size = bound->page;
	for (unsigned int i = 0; i < PAGES; i++, region.offset += bound->page)
		count += raw_try(bound->vm, &region) == 0;
	return count;
}

/* A kernel that has no memory for a binding must say so, and then leaves nothing of it behind. */
START_TEST(fault_binding_without_memory_seems_to_succeed)
{
	unsigned int unbound = 0, refused = 0, lost = 0;
	struct raw_shared bound;
	int r = 0;

	NEED_THROW_AWAY();
	if (access(FAILSLAB, F_OK) < 0)
		SKIP("this kernel was built without failures of its allocator");
	if (!(_i ? raw_open_private(&bound, NODE_PAGES + PAGES)
		 : raw_open_shared(&bound, NODE_PAGES + PAGES)))
		return;
	ck_assert(make_failures());
	bound.region.offset = (NODE_PAGES - 1) * bound.page;
	bound.region.size = PAGES * bound.page;
	for (unsigned int bytes = 0; bytes <= NODES_BYTES; bytes += NODES_BYTES / 16) {
		r = set_with_bytes(&bound, bytes);
		ck_assert_msg(r == 0 || r == -ENOMEM, "%d with %u bytes", r, bytes);
		unbound = count_unbound(&bound);
		if (r == 0) {
			lost += unbound != 0;
			ck_assert_int_eq(raw_delete(bound.vm, 0), 0);
		} else {
			refused++;
			ck_assert_msg(unbound == PAGES, "%u unbound with %u bytes", unbound, bytes);
		}
	}
	ck_assert(write_word(FAILSLAB "probability", "0"));
	ck_assert_int_eq(r, 0);
	ck_assert_uint_eq(unbound, 0);
	ck_assert_uint_gt(refused + lost, 0);
	harness_note("%s", lost ? "it seems so" : "ENOMEM");
	if (lost)
		kernel_known_fault("bind-without-memory");
	raw_close_shared(&bound);
}
END_TEST

#ifdef __x86_64__

/* Why a vCPU is seldom stopped between what it looks up and what it does about that, or NULL. */
static const char *missing_interruptions(void)
{
	struct utsname name;

	ck_assert_int_eq(uname(&name), 0);
	return strstr(name.version, "PREEMPT") && !strstr(name.version, "PREEMPT_DYNAMIC")
		       ? NULL
		       : "threads are seldom interrupted in this kernel: nothing might be seen";
}

/* vCPUs that load from one page: the first one goes on from page to page, the others follow. */
struct loader {
	struct guest guest;
	unsigned int step; /* 1: the first one */
	atomic_uint *page;
	atomic_bool *over;
	pthread_t thread;
};

/* Where no slot is, the access is one to a device. */
static void *load_all_the_time(void *data)
{
	struct loader *loader = data;
	unsigned int page;
	uint32_t value;
	int reason;

	while (!atomic_load(loader->over)) {
		page = (atomic_fetch_add(loader->page, loader->step) + loader->step) % LOADED_PAGES;
		reason = guest_load(&loader->guest, RAW_NOWHERE + page * raw_page(), &value);
		ck_assert_msg(reason == KVM_EXIT_HLT || reason == KVM_EXIT_MMIO, "%d", reason);
	}
	return NULL;
}

/* Whether the kernel warns while vCPUs load from a slot that comes and goes. */
static bool warns_of_creation(int vm, int log, struct loader loaders[LOADERS])
{
	struct raw_region region = {.gpa = RAW_NOWHERE, .size = LOADED_PAGES * raw_page()};
	atomic_bool over = false;
	atomic_uint page = 0;
	bool warned = false;

	region.addr = (uintptr_t)raw_map(-1, 0, region.size);
	for (unsigned int i = 0; i < LOADERS; i++) {
		loaders[i].step = i == 0;
		loaders[i].page = &page;
		loaders[i].over = &over;
		loaders[i].thread = start(load_all_the_time, &loaders[i]);
	}
	for (unsigned int i = 0; i < CREATIONS && !warned; i++) {
		ck_assert_int_eq(raw_try(vm, &region), 0);
		warned = has_page_table_warning(log);
	}
	atomic_store(&over, true);
	for (unsigned int i = 0; i < LOADERS; i++)
		join(loaders[i].thread);
	return warned;
}

/*
 * A vCPU that has found no slot goes on to its page tables. A slot that is created then can have
 * its page there already, since another vCPU was faster.
 */
START_TEST(fault_access_meets_a_slot_that_was_not_there)
{
	struct loader loaders[LOADERS];
	bool warned;
	int vm, log;

	NEED_THROW_AWAY();
	NEED_KVM();
	NEED(missing_interruptions());
	log = open_log();
	if (log < 0)
		SKIP("the kernel's log cannot be read: %s", strerror(errno));
	rearm_warnings();
	vm = raw_vm();
	raw_open_guest(vm, &loaders[0].guest);
	for (unsigned int i = 1; i < LOADERS; i++)
		guest_open_vcpu(&loaders[i].guest, vm, i, RAW_CODE);
	warned = warns_of_creation(vm, log, loaders);
	harness_note("%s", warned ? "the kernel warns" : "no warning");
	if (warned)
		kernel_known_fault("access-meets-new-slot");
	for (unsigned int i = 0; i < LOADERS; i++)
		guest_close(&loaders[i].guest);
	close(log);
	close(vm);
}
END_TEST

#endif

static int turn_tags_on(int vm)
{
	struct kvm_enable_cap cap = {.cap = CAP_ARM_MTE};

	return raw_result(ioctl(vm, KVM_ENABLE_CAP, &cap));
}

/* Whichever comes first. Linux 6.18 and 6.19 take both. */
START_TEST(memory_tags_and_guest_memfd_exclude_each_other)
{
	struct raw_shared shared;
	int tags_first, bound_first;

	NEED_KVM();
	if (raw_device_cap(CAP_ARM_MTE) <= 0)
		SKIP("guests have no memory tags on this machine");
	if (!raw_open_shared(&shared, PAGES))
		return;
	ck_assert_int_eq(turn_tags_on(shared.vm), 0);
	tags_first = raw_try(shared.vm, &shared.region);
	raw_close_shared(&shared);
	ck_assert(raw_open_shared(&shared, PAGES));
	raw_bind_shared(&shared);
	bound_first = turn_tags_on(shared.vm);
	ck_assert(tags_first == 0 || tags_first == -EINVAL);
	ck_assert_int_eq(bound_first, tags_first);
	harness_note("%s", raw_word(tags_first));
	raw_close_shared(&shared);
}
END_TEST

/* ---- Pages ---- */

/* The size of a huge page in one entry of a page table, or 0. */
static size_t huge_page_size(void)
{
	FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", "re");
	size_t size = 0;

	if (file) {
		if (fscanf(file, "%zu", &size) != 1)
			size = 0;
		fclose(file);
	}
	return size;
}

/* A mapping of a whole file at a multiple of its size. */
static void *map_aligned(int fd, size_t size)
{
	char *room = raw_map(-1, 0, 2 * size);
	char *addr = room + (size - (uintptr_t)room % size) % size;

	ck_assert_ptr_eq(mmap(addr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0),
			 addr);
	return addr;
}

/*
 * guest_memfd knows pages of the smallest size only. Where a file of this kind can be collapsed the
 * memory must not be used any more.
 */
START_TEST(fault_guest_memfd_collapses_into_a_huge_page)
{
	size_t size = huge_page_size();
	struct raw_shared shared;
	void *map;
	int fd, r;

	NEED_THROW_AWAY();
	if (size == 0)
		SKIP("this kernel has no transparent huge pages");
	if (!raw_open_shared(&shared, PAGES))
		return;
	fd = raw_memfd(shared.vm, size, RAW_SHARED);
	ck_assert_int_ge(fd, 0);
	map = map_aligned(fd, size);
	ck_assert_int_eq(raw_result(madvise(map, size, RAW_POPULATE_READ)), 0);
	r = raw_result(madvise(map, size, RAW_COLLAPSE));
	ck_assert_msg(r == 0 || r == -EINVAL, "%d", r);
	harness_note("%s", r ? "refused" : "accepted");
	if (r == 0)
		kernel_known_fault("guest-memfd-collapses");
	munmap(map, size);
	close(fd);
	raw_close_shared(&shared);
}
END_TEST

/* A bit for each node that memory may come from. */
static uint64_t allowed_nodes(void)
{
	uint64_t nodes[16] = {0};

	if (syscall(SYS_get_mempolicy, NULL, nodes, sizeof(nodes) * 8, NULL, POLICY_ALLOWED) < 0)
		return 0;
	return nodes[0];
}

static int node_of(const void *addr)
{
	int node = -1;

	ck_assert_int_eq(
		raw_result(syscall(SYS_get_mempolicy, &node, NULL, 0UL, addr, POLICY_NODE_OF_ADDR)),
		0);
	return node;
}

/* Two nodes that memory may come from, or none and the test is skipped. */
static bool choose_nodes(int nodes[2])
{
	uint64_t allowed = allowed_nodes();
	int count = 0;

	for (int node = 0; node < 64 && count < 2; node++) {
		if (allowed >> node & 1)
			nodes[count++] = node;
	}
	if (count < 2)
		harness_skip("this machine has one node of memory");
	return count == 2;
}

/* From now on this thread's memory comes from one node. */
static void prefer_node(int node)
{
	uint64_t nodes = UINT64_C(1) << node;

	ck_assert_int_eq(raw_result(syscall(SYS_set_mempolicy, POLICY_BIND, &nodes, 64UL)), 0);
}

static int bind_to_node(void *addr, size_t size, int node)
{
	uint64_t nodes = UINT64_C(1) << node;

	return raw_result(syscall(SYS_mbind, addr, size, POLICY_BIND, &nodes, 64UL, 0U));
}

/* Whether it is the host's or, as a vCPU, the guest's touch. */
START_TEST(page_comes_from_a_node_of_the_thread_that_touches_it_first)
{
	struct raw_shared shared;
	struct guest guest;
	int nodes[2];

	NEED_GUEST();
	if (!choose_nodes(nodes) || !raw_open_shared(&shared, PAGES))
		return;
	raw_bind_shared(&shared);
	raw_open_guest(shared.vm, &guest);
	for (unsigned int i = 0; i < 4; i++) {
		prefer_node(nodes[i % 2]);
		if (i < 2)
			shared.map[i * shared.page] = 1;
		else
			ck_assert_int_eq(guest_store(&guest, RAW_GPA + i * shared.page, 1),
					 KVM_EXIT_HLT);
	}
	for (unsigned int i = 0; i < 4; i++)
		ck_assert_int_eq(node_of(shared.map + i * shared.page), nodes[i % 2]);
	guest_close(&guest);
	raw_close_shared(&shared);
}
END_TEST

/* It comes before the vCPU thread's policy where the file can have one, and moves nothing. */
START_TEST(policy_of_a_file_is_for_the_guest_and_for_pages_to_come)
{
	struct raw_shared shared;
	struct guest guest;
	int nodes[2], fd, node;
	bool holds;

	NEED_GUEST();
	if (!choose_nodes(nodes) || !raw_open_shared(&shared, PAGES))
		return;
	/* Asked of another file, as asking leaves a policy behind. */
	fd = raw_memfd(shared.vm, shared.page, RAW_SHARED);
	holds = host_policy_holds(fd) == 1;
	close(fd);
	raw_bind_shared(&shared);
	raw_open_guest(shared.vm, &guest);
	prefer_node(nodes[0]);
	shared.map[0] = 1;
	ck_assert_int_eq(bind_to_node(shared.map, shared.size, nodes[1]), 0);
	ck_assert_int_eq(guest_store(&guest, RAW_GPA + shared.page, 1), KVM_EXIT_HLT);
	ck_assert_int_eq(node_of(shared.map), nodes[0]);
	node = node_of(shared.map + shared.page);
	ck_assert_int_eq(node, nodes[holds ? 1 : 0]);
	harness_note("%s", holds ? "the file's policy" : "the thread's policy");
	guest_close(&guest);
	raw_close_shared(&shared);
}
END_TEST

START_TEST(page_does_not_move_to_another_node)
{
	int nodes[2], status = 1, r;
	struct raw_shared shared;
	void *page;

	if (!choose_nodes(nodes) || !raw_open_shared(&shared, PAGES))
		return;
	page = shared.map;
	prefer_node(nodes[0]);
	shared.map[0] = 7;
	r = raw_result(syscall(SYS_move_pages, 0, 1UL, &page, &nodes[1], &status, MOVE_OWN));
	if (r == -ENOSYS)
		SKIP("this kernel moves no pages");
	ck_assert_int_eq(r, 0);
	ck_assert_int_eq(node_of(page), nodes[0]);
	ck_assert_uint_eq(shared.map[0], 7);
	raw_close_shared(&shared);
}
END_TEST

/* Of how many pages the node is another than that of the page before. */
static void note_interleaving(int fd, unsigned int changes)
{
	if (changes == INTERLEAVED_PAGES - 1) {
		harness_note("they alternate");
	} else if (host_policy_holds(fd) != 1) {
		harness_note("the file has no policy");
	} else {
		harness_note("%s", changes ? "they do not alternate" : "all on one node");
		kernel_known_fault("interleave-does-not-alternate");
	}
}

START_TEST(fault_interleaved_pages_do_not_alternate)
{
	uint64_t nodes = allowed_nodes();
	unsigned int changes = 0;
	struct raw_shared shared;
	unsigned char *map;
	int fd;

	if ((nodes & (nodes - 1)) == 0)
		SKIP("this machine has one node of memory");
	if (!raw_open_shared(&shared, PAGES))
		return;
	fd = raw_memfd(shared.vm, INTERLEAVED_PAGES * shared.page, RAW_SHARED);
	ck_assert_int_ge(fd, 0);
	map = raw_map(fd, 0, INTERLEAVED_PAGES * shared.page);
	ck_assert_int_eq(raw_result(syscall(SYS_mbind, map, INTERLEAVED_PAGES * shared.page,
					    POLICY_INTERLEAVE, &nodes, 64UL, 0U)),
			 0);
	for (unsigned int i = 0; i < INTERLEAVED_PAGES; i++)
		map[i * shared.page] = 1;
	for (unsigned int i = 1; i < INTERLEAVED_PAGES; i++)
		changes += node_of(map + i * shared.page) != node_of(map + (i - 1) * shared.page);
	note_interleaving(fd, changes);
	munmap(map, INTERLEAVED_PAGES * shared.page);
	close(fd);
	raw_close_shared(&shared);
}
END_TEST

/* ---- Accesses at the host address ---- */

#ifdef __x86_64__

#define MSR_SYSTEM_TIME 0x4b564d01U
#define CLOCK_SIZE	32

static bool is_clear(const unsigned char *addr, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		if (addr[i])
			return false;
	}
	return true;
}

/* The number of registers set: 1, or less. */
static int set_system_time(const struct guest *guest, uint64_t gpa)
{
	struct kvm_msrs *set = calloc(1, sizeof(*set) + sizeof(set->entries[0]));
	int count;

	ck_assert_ptr_nonnull(set);
	set->nmsrs = 1;
	set->entries[0] = (struct kvm_msr_entry){.index = MSR_SYSTEM_TIME, .data = gpa | 1};
	count = ioctl(guest->fd, KVM_SET_MSRS, set);
	free(set);
	return count;
}

START_TEST(clock_is_written_to_the_host_address)
{
	unsigned char *memory;
	struct raw_shared shared;
	struct guest guest;
	uint32_t value;

	if (!raw_open_shared(&shared, PAGES))
		return;
	memory = raw_map(-1, 0, shared.size);
	shared.region.addr = (uintptr_t)memory;
	raw_bind_shared(&shared);
	raw_open_guest(shared.vm, &guest);
	if (set_system_time(&guest, RAW_GPA + shared.page) != 1)
		SKIP("this kernel has no clock for guests");
	ck_assert_int_eq(guest_load(&guest, RAW_CODE, &value), KVM_EXIT_HLT);
	ck_assert(!is_clear(memory + shared.page, CLOCK_SIZE));
	ck_assert(is_clear(shared.map + shared.page, CLOCK_SIZE));
	guest_close(&guest);
	raw_close_shared(&shared);
}
END_TEST

#endif

/*
 * What the processor reads must come from the guest_memfd, and what it writes go there. Shadow
 * paging takes some pages, and an emulated processor all, from the host address.
 */
START_TEST(fault_guest_reads_from_the_host_address)
{
	unsigned int from_memory = 0;
	unsigned char *memory;
	struct raw_shared shared;
	struct guest guest;
	uint32_t value;

	NEED_GUEST();
	if (!raw_open_shared(&shared, PAGES))
		return;
	memory = raw_map(-1, 0, shared.size);
	memset(memory, 'A', shared.size);
	memset(shared.map, 'M', shared.size);
	shared.region.addr = (uintptr_t)memory;
	raw_bind_shared(&shared);
	raw_open_guest(shared.vm, &guest);
	for (unsigned int i = 0; i < PAGES; i++) {
		uint64_t gpa = RAW_GPA + i * shared.page;

		ck_assert_int_eq(guest_load(&guest, gpa, &value), KVM_EXIT_HLT);
		ck_assert(value == 0x41414141 || value == 0x4d4d4d4d);
		from_memory += value == 0x41414141;
		ck_assert_int_eq(guest_store(&guest, gpa, 5), KVM_EXIT_HLT);
		ck_assert_uint_eq((value == 0x41414141 ? memory : shared.map)[i * shared.page], 5);
	}
	harness_note("%s", from_memory == 0	  ? "never"
			   : from_memory == PAGES ? "always"
						  : "some pages");
	if (from_memory)
		kernel_known_fault("guest-reads-host-address");
	guest_close(&guest);
	raw_close_shared(&shared);
}
END_TEST

/* ---- Faults ---- */

/* What the last exit was must still be all there after a call that failed. */
static void note_exit(const struct guest *guest, const struct kvm_run *before, uint32_t overwritten)
{
	bool kept = memcmp(guest->run, before, sizeof(*before)) == 0;

	ck_assert(kept || guest->run->exit_reason == overwritten);
	harness_note("%s", kept ? "kept" : "overwritten");
	if (!kept)
		kernel_known_fault("pre-fault-overwrites-exit");
}

START_TEST(fault_pre_fault_overwrites_the_exit_reason)
{
	struct raw_pre_fault range = {.gpa = RAW_GPA, .size = raw_page()};
	struct raw_shared shared;
	struct kvm_run before;
	struct guest guest;

	NEED_GUEST();
	if (!raw_open_shared(&shared, PAGES))
		return;
	NEED_PRE_FAULT();
	raw_bind_shared(&shared);
	raw_open_guest(shared.vm, &guest);
	ck_assert_int_eq(guest_store(&guest, RAW_GPA, 1), KVM_EXIT_HLT);
	munmap(shared.map, shared.size);
	close(shared.fd);
	before = *guest.run;
	ck_assert_int_eq(raw_pre_fault(guest.fd, &range), -EFAULT);
	note_exit(&guest, &before, RAW_EXIT_MEMORY_FAULT);
	guest_close(&guest);
	close(shared.vm);
}
END_TEST

/* While it waits for a page that nobody supplies. */
START_TEST(fault_interrupted_pre_fault_overwrites_the_exit_reason)
{
	struct raw_pre_fault range = {.gpa = RAW_NOWHERE, .size = raw_page()};
	int vm, userfaultfd = open_userfaultfd(0);
	struct kvm_run before;
	struct guest guest;

	NEED_GUEST();
	NEED_KVM();
	NEED_PRE_FAULT();
	if (userfaultfd < 0)
		SKIP("userfaultfd: %s", strerror(-userfaultfd));
	vm = raw_vm();
	raw_open_guest(vm, &guest);
	raw_add_memory(vm, 0, RAW_GPA, raw_page());
	watch_page(userfaultfd, raw_add_memory(vm, OTHER_SLOT, RAW_NOWHERE, raw_page()));
	ck_assert_int_eq(guest_store(&guest, RAW_GPA, 1), KVM_EXIT_HLT);
	before = *guest.run;
	host_pester(SILENCE_MILLISECONDS * 1000 - 1);
	ck_assert_int_eq(raw_pre_fault(guest.fd, &range), -EINTR);
	host_pester(0);
	note_exit(&guest, &before, KVM_EXIT_INTR);
	guest_close(&guest);
	close(userfaultfd);
	close(vm);
}
END_TEST

/* Its data can be mapped without the right to execute it, and that is never added. */
START_TEST(fault_code_does_not_run_in_a_page_that_was_touched)
{
	bool runs;
	int vm;

	NEED_GUEST();
	NEED_KVM();
	vm = raw_vm();
	NEED_SHARED(vm);
	runs = raw_runs_touched_code(vm);
	harness_note("%s", runs ? "runs" : "faults until a signal");
	if (!runs)
		kernel_known_fault("touched-code-never-runs");
	close(vm);
}
END_TEST

/* The range that is told is as large as a page, and reaches into the next one. */
START_TEST(fault_exit_tells_of_a_range_that_begins_within_a_page)
{
	struct raw_shared shared;
	struct guest guest;
	bool within;

	NEED_GUEST();
	if (!raw_open_shared(&shared, PAGES))
		return;
	if (shared.page == 4096)
		SKIP("pages are of 4 KiB here");
	raw_bind_shared(&shared);
	raw_open_guest(shared.vm, &guest);
	munmap(shared.map, shared.size);
	close(shared.fd);
	ck_assert_int_eq(guest_store(&guest, RAW_GPA + shared.page - 4, 1), -EFAULT);
	raw_assert_memory_fault(&guest, RAW_GPA + shared.page - 4, 0);
	within = raw_get_memory_fault(&guest).gpa % shared.page != 0;
	harness_note("%s", within ? "4 KiB within the page" : "the page");
	if (within)
		kernel_known_fault("exit-within-page");
	guest_close(&guest);
	close(shared.vm);
}
END_TEST

/* A number of a VM's or vCPU's statistics; the highest one where they do not tell. */
static uint64_t read_statistic(int of, const char *name)
{
	struct kvm_stats_header header;
	struct kvm_stats_desc *desc;
	uint64_t count = UINT64_MAX;
	char text[512];
	off_t place;
	int fd = ioctl(of, KVM_GET_STATS_FD, NULL);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq((int)pread(fd, &header, sizeof(header), 0), (int)sizeof(header));
	desc = (void *)text;
	for (uint32_t i = 0; i < header.num_desc && count == UINT64_MAX; i++) {
		place = (off_t)(header.desc_offset + i * (sizeof(*desc) + header.name_size));
		ck_assert_int_gt((int)pread(fd, text, sizeof(*desc) + header.name_size, place), 0);
		if (strcmp(desc->name, name) == 0)
			ck_assert_int_eq((int)pread(fd, &count, sizeof(count),
						    (off_t)(header.data_offset + desc->offset)),
					 (int)sizeof(count));
	}
	close(fd);
	return count;
}

/* How often the vCPU's page faults were answered with a mapping. */
static uint64_t count_fixed_faults(const struct guest *guest)
{
	return read_statistic(guest->fd, "pf_fixed");
}

/* However large and well aligned all is. */
START_TEST(guest_memfd_is_mapped_in_pages_of_the_smallest_size)
{
	struct raw_region region = {
		.flags = RAW_GUEST_MEMFD, .gpa = RAW_NOWHERE, .size = HUGE_SIZE};
	struct raw_shared shared;
	struct guest guest;
	void *map;
	int fd;

	NEED_GUEST();
	if (!raw_open_shared(&shared, PAGES))
		return;
	if (read_statistic(shared.vm, "pages_2m") == UINT64_MAX)
		SKIP("this kernel does not count a guest's large pages");
	fd = raw_memfd(shared.vm, region.size, RAW_SHARED);
	ck_assert_int_ge(fd, 0);
	map = map_aligned(fd, region.size);
	region.addr = (uintptr_t)map;
	region.memfd = (uint32_t)fd;
	ck_assert_int_eq(raw_set(shared.vm, &region), 0);
	(void)madvise(map, region.size, MADV_HUGEPAGE); /* for kernels that know of it */
	ck_assert_int_eq(raw_result(madvise(map, region.size, RAW_POPULATE_WRITE)), 0);
	raw_open_guest(shared.vm, &guest);
	ck_assert_int_eq(guest_store(&guest, RAW_NOWHERE + shared.page, 1), KVM_EXIT_HLT);
	ck_assert_uint_eq(read_statistic(shared.vm, "pages_2m"), 0);
	ck_assert_uint_eq(host_count_resident(map, region.size), HUGE_SIZE / shared.page);
	guest_close(&guest);
	munmap(map, region.size);
	close(fd);
	raw_close_shared(&shared);
}
END_TEST

/* The guest's pages come from the file, and yet a change of the host's mapping takes them away. */
START_TEST(fault_change_of_the_mapping_unmaps_the_guest)
{
	struct raw_shared shared;
	struct guest guest;
	uint64_t before;
	bool unmapped;

	NEED_GUEST();
	if (!raw_open_shared(&shared, PAGES))
		return;
	raw_bind_shared(&shared);
	raw_open_guest(shared.vm, &guest);
	ck_assert_int_eq(guest_store(&guest, RAW_GPA + shared.page, 1), KVM_EXIT_HLT);
	before = count_fixed_faults(&guest);
	ck_assert_int_eq(guest_store(&guest, RAW_GPA, 1), KVM_EXIT_HLT);
	if (before == UINT64_MAX)
		SKIP("this kernel does not count the faults that it answers");
	if (count_fixed_faults(&guest) == before)
		SKIP("the guest's accesses are emulated here and map nothing");
	before = count_fixed_faults(&guest);
	ck_assert_int_eq(guest_store(&guest, RAW_GPA, 2), KVM_EXIT_HLT);
	ck_assert_uint_eq(count_fixed_faults(&guest), before);
	ck_assert_int_eq(raw_result(madvise(shared.map, shared.size, MADV_DONTNEED)), 0);
	ck_assert_int_eq(guest_store(&guest, RAW_GPA, 3), KVM_EXIT_HLT);
	ck_assert_uint_eq(shared.map[0], 3);
	unmapped = count_fixed_faults(&guest) > before;
	harness_note("%s", unmapped ? "unmapped" : "kept");
	if (unmapped)
		kernel_known_fault("mapping-change-unmaps-guest");
	guest_close(&guest);
	raw_close_shared(&shared);
}
END_TEST

/* ---- userfaultfd ---- */

static int copy_page(int userfaultfd, void *to)
{
	unsigned char *from = raw_map(-1, 0, raw_page());
	struct uffdio_copy copy = {.dst = (uintptr_t)to, .src = (uintptr_t)from, .len = raw_page()};
	int r = raw_result(ioctl(userfaultfd, UFFDIO_COPY, &copy));

	munmap(from, raw_page());
	return r;
}

/* struct uffdio_poison, Linux 6.6 */
struct poison_range {
	struct uffdio_range range;
	uint64_t mode;
	int64_t done;
};

/* struct uffdio_move, Linux 6.8 */
struct move_range {
	uint64_t to, from, size, mode;
	int64_t done;
};

static int zero_page(int userfaultfd, void *addr)
{
	struct uffdio_zeropage zero = {.range = {.start = (uintptr_t)addr, .len = raw_page()}};

	return raw_result(ioctl(userfaultfd, UFFDIO_ZEROPAGE, &zero));
}

static int poison_page(int userfaultfd, void *addr)
{
	struct poison_range poison = {.range = {.start = (uintptr_t)addr, .len = raw_page()}};

	return raw_result(ioctl(userfaultfd, _IOWR(0xAA, 8, struct poison_range), &poison));
}

/* From fresh memory, which must be private. */
static int move_page(int userfaultfd, void *to)
{
	unsigned char *from =
		mmap(NULL, raw_page(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct move_range move = {.to = (uintptr_t)to, .from = (uintptr_t)from, .size = raw_page()};
	int r;

	ck_assert_ptr_ne(from, MAP_FAILED);
	from[0] = 1;
	r = raw_result(ioctl(userfaultfd, _IOWR(0xAA, 5, struct move_range), &move));
	munmap(from, raw_page());
	return r;
}

static const struct {
	const char *name;
	unsigned int number;
	int (*call)(int userfaultfd, void *addr);
} page_calls[] = {
	{"UFFDIO_COPY", _UFFDIO_COPY, copy_page},
	{"UFFDIO_ZEROPAGE", _UFFDIO_ZEROPAGE, zero_page},
	{"UFFDIO_MOVE", 5, move_page},
	{"UFFDIO_POISON", 8, poison_page},
};

/* What the kernel says can be done with the memory, and what then can be. */
START_TEST(fault_userfaultfd_names_calls_that_fail)
{
	struct raw_shared shared;
	uint64_t calls;
	bool fault = false;
	int fd;

	fd = open_userfaultfd(RAW_WP_ASYNC | RAW_WP_UNPOPULATED);
	if (fd < 0)
		SKIP("userfaultfd with WP_ASYNC: %s", strerror(-fd));
	if (!raw_open_shared(&shared, PAGES))
		return;
	ck_assert_int_eq(raw_userfaultfd_register(fd, shared.map, shared.size,
						  UFFDIO_REGISTER_MODE_WP, &calls),
			 0);
	for (size_t i = 0; i < sizeof(page_calls) / sizeof(page_calls[0]); i++) {
		bool named = calls >> page_calls[i].number & 1;
		int r = page_calls[i].call(fd, shared.map + i * shared.page);

		ck_assert_msg(r == -EINVAL || (r == 0 && named), "%s: %d", page_calls[i].name, r);
		harness_note("%s is %s", page_calls[i].name,
			     !named ? "not named"
			     : r    ? "named and fails"
				    : "named and works");
		fault |= named && r < 0;
	}
	if (fault)
		kernel_known_fault("userfaultfd-names-failing-calls");
	close(fd);
	raw_close_shared(&shared);
}
END_TEST

struct sleeper {
	struct guest guest;
	int result;
	uint32_t value;
};

static void *load_page(void *data)
{
	struct sleeper *sleeper = data;

	sleeper->result = guest_load(&sleeper->guest, RAW_GPA, &sleeper->value);
	return NULL;
}

struct deletion {
	int vm;
	int result;
	atomic_bool done;
};

static void *delete_other_slot(void *data)
{
	struct deletion *deletion = data;

	deletion->result = raw_delete(deletion->vm, OTHER_SLOT);
	atomic_store(&deletion->done, true);
	return NULL;
}

/*
 * A vCPU that waits for its page while another thread deletes a slot that has nothing to do with
 * that page.
 */
struct waiting {
	int userfaultfd;
	unsigned char *memory;
	struct sleeper sleeper;
	struct deletion deletion;
	pthread_t vcpu_thread, delete_thread;
};

/* Returns false and skips where there is no userfaultfd. */
static bool start_waiting(struct waiting *waiting)
{
	int fd = open_userfaultfd(0);
	int vm;

	if (fd < 0) {
		harness_skip("userfaultfd: %s", strerror(-fd));
		return false;
	}
	vm = raw_vm();
	*waiting = (struct waiting){.userfaultfd = fd, .deletion = {.vm = vm, .result = 1}};
	raw_open_guest(vm, &waiting->sleeper.guest);
	waiting->memory = raw_add_memory(vm, 0, RAW_GPA, raw_page());
	raw_add_memory(vm, OTHER_SLOT, RAW_NOWHERE, raw_page());
	watch_page(fd, waiting->memory);
	waiting->vcpu_thread = start(load_page, &waiting->sleeper);
	ck_assert_int_eq(next_event(fd, EVENT_MILLISECONDS), UFFD_EVENT_PAGEFAULT);
	waiting->delete_thread = start(delete_other_slot, &waiting->deletion);
	usleep(SILENCE_MILLISECONDS * 1000);
	return true;
}

/* Gives the vCPU its page, after which all must end well. */
static void end_waiting(struct waiting *waiting)
{
	ck_assert_int_eq(zero_page(waiting->userfaultfd, waiting->memory), 0);
	join(waiting->vcpu_thread);
	join(waiting->delete_thread);
	ck_assert_int_eq(waiting->sleeper.result, KVM_EXIT_HLT);
	ck_assert_uint_eq(waiting->sleeper.value, 0);
	ck_assert_int_eq(waiting->deletion.result, 0);
	guest_close(&waiting->sleeper.guest);
	close(waiting->userfaultfd);
	close(waiting->deletion.vm);
}

START_TEST(fault_vcpu_asleep_in_userfaultfd_blocks_slot_changes)
{
	struct waiting waiting;
	bool blocked;

	NEED_GUEST();
	NEED_KVM();
	if (!start_waiting(&waiting))
		return;
	blocked = !atomic_load(&waiting.deletion.done);
	end_waiting(&waiting);
	harness_note("%s", blocked ? "blocks" : "does not block");
	if (blocked)
		kernel_known_fault("sleeping-vcpu-blocks-slots");
}
END_TEST

static void block_alarm(int how)
{
	sigset_t alarm;

	sigemptyset(&alarm);
	sigaddset(&alarm, SIGALRM);
	ck_assert_int_eq(pthread_sigmask(how, &alarm, NULL), 0);
}

/* A deletion that waits keeps its slot half there, and the signal is for who tries for ever. */
START_TEST(fault_pre_fault_of_a_slot_being_deleted_never_ends)
{
	struct raw_pre_fault range = {.gpa = RAW_NOWHERE, .size = raw_page()};
	struct waiting waiting;
	int vcpu, r;

	NEED_GUEST();
	NEED_KVM();
	NEED_PRE_FAULT();
	block_alarm(SIG_BLOCK);
	if (!start_waiting(&waiting))
		return;
	vcpu = ioctl(waiting.deletion.vm, KVM_CREATE_VCPU, 1UL);
	ck_assert_int_ge(vcpu, 0);
	if (atomic_load(&waiting.deletion.done)) {
		end_waiting(&waiting);
		SKIP("slots are deleted at once here");
	}
	host_pester(SILENCE_MILLISECONDS * 1000 - 1);
	block_alarm(SIG_UNBLOCK);
	r = raw_pre_fault(vcpu, &range);
	host_pester(0);
	end_waiting(&waiting);
	close(vcpu);
	ck_assert_msg(r == -EAGAIN || r == -EINTR, "%d", r);
	harness_note("%s", r == -EINTR ? "tries until a signal" : raw_word(r));
	if (r == -EINTR)
		kernel_known_fault("pre-fault-never-ends");
}
END_TEST

struct removal {
	int fd; /* a file to punch, or -1: drop from the mapping */
	void *addr;
	int result;
};

static void *remove_page(void *data)
{
	struct removal *removal = data;

	if (removal->fd < 0)
		removal->result = raw_result(madvise(removal->addr, raw_page(), MADV_DONTNEED));
	else
		removal->result = raw_punch(removal->fd, 0, raw_page());
	return NULL;
}

/* The event of dropping or punching the first page, which nobody has loaded, or 0. */
static int event_of_removal(int userfaultfd, struct removal *removal, int milliseconds)
{
	pthread_t thread = start(remove_page, removal);
	int event = next_event(userfaultfd, milliseconds);

	join(thread);
	ck_assert_int_eq(removal->result, 0);
	return event;
}

/*
 * Dropping a page from the mapping of a file must not change the file, and says that it is gone;
 * punching it out of the file does change it, and says nothing.
 */
START_TEST(dontneed_of_an_absent_page_sends_a_remove_event)
{
	struct removal removal = {.fd = -1};
	int memfd, userfaultfd;

	userfaultfd = open_userfaultfd(UFFD_FEATURE_EVENT_REMOVE);
	if (userfaultfd < 0)
		SKIP("userfaultfd with EVENT_REMOVE: %s", strerror(-userfaultfd));
	memfd = memfd_create("absent", MFD_CLOEXEC);
	ck_assert_int_eq(ftruncate(memfd, (off_t)raw_page()), 0);
	removal.addr = raw_map(memfd, 0, raw_page());
	watch_page(userfaultfd, removal.addr);
	ck_assert_int_eq(event_of_removal(userfaultfd, &removal, EVENT_MILLISECONDS),
			 UFFD_EVENT_REMOVE);
	removal.fd = memfd;
	ck_assert_int_eq(event_of_removal(userfaultfd, &removal, SILENCE_MILLISECONDS), 0);
	munmap(removal.addr, raw_page());
	close(memfd);
	close(userfaultfd);
}
END_TEST

/* ---- Memory of the host ---- */

static bool has_swap(void)
{
	FILE *file = fopen("/proc/swaps", "re");
	char line[256];
	int lines = 0;

	while (file && fgets(line, sizeof(line), file))
		lines++;
	if (file)
		fclose(file);
	return lines > 1;
}

/* Pages out until mincore() no longer shows any; false when they do not go. */
static bool page_out(void *addr, size_t size)
{
	for (int tries = 0; tries < 40; tries++) {
		ck_assert_int_eq(raw_result(madvise(addr, size, MADV_PAGEOUT)), 0);
		if (host_count_resident(addr, size) == 0)
			return true;
		usleep(50000);
	}
	return false;
}

/*
 * _i 0: anonymous memory, 1: shmem. Absent is not the same as never written: PAGEMAP_SCAN tells of
 * the one, SEEK_DATA and SEEK_HOLE of the other.
 */
START_TEST(mincore_shows_swapped_out_pages_as_absent)
{
	size_t size = PAGES * raw_page();
	unsigned char *memory;
	int fd = -1, flags = MAP_PRIVATE | MAP_ANONYMOUS, pages;

	if (!has_swap())
		SKIP("this machine has no swap");
	if (_i == 1) {
		fd = memfd_create("swapped", MFD_CLOEXEC);
		ck_assert_int_eq(ftruncate(fd, (off_t)size), 0);
		flags = MAP_SHARED;
	}
	memory = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);
	ck_assert_ptr_ne(memory, MAP_FAILED);
	for (size_t i = 0; i < size; i += sizeof(int))
		*(int *)(void *)(memory + i) = rand();
	memory[0] = 5;
	ck_assert_uint_eq(host_count_resident(memory, size), PAGES);
	ck_assert(page_out(memory, size));
	if (_i == 1) {
		ck_assert_int_eq((int)lseek(fd, 0, SEEK_DATA), 0);
		ck_assert_int_eq((int)lseek(fd, 0, SEEK_HOLE), (int)size);
	} else {
		pages = raw_scan(memory, size, RAW_PAGE_PRESENT | RAW_PAGE_SWAPPED);
		ck_assert(pages == PAGES || pages == -ENOTTY);
	}
	ck_assert_uint_eq(memory[0], 5);
	munmap(memory, size);
}
END_TEST

struct charge {
	const char *group; /* a folder */
	const struct raw_shared *shared;
	int fd;
	unsigned char *map;
};

static int join_group(const char *group)
{
	char path[128], text[16];

	snprintf(text, sizeof(text), "%d", (int)getpid());
	snprintf(path, sizeof(path), "%s/cgroup.procs", group);
	return write_word(path, text) ? 0 : -1;
}

/* Bytes that are charged to a group, or -1 where there is no such account. */
static long long charged_to(const char *group)
{
	long long bytes = -1;
	char path[128];
	FILE *file;

	snprintf(path, sizeof(path), "%s/memory.current", group);
	file = fopen(path, "re");
	if (file) {
		if (fscanf(file, "%lld", &bytes) != 1)
			bytes = -1;
		fclose(file);
	}
	return bytes;
}

static int touch_in_group(void *data)
{
	const struct charge *charge = data;
	long long size = CHARGED_PAGES * (long long)charge->shared->page;
	long long before;

	CHILD_CHECK(join_group(charge->group) == 0);
	before = charged_to(charge->group);
	for (long long i = 0; i < size; i += (long long)charge->shared->page)
		charge->map[i] = 1;
	CHILD_CHECK(charged_to(charge->group) - before >= size);
	return 0;
}

/* Not who made the guest_memfd or has the VM. */
START_TEST(first_touch_is_charged_to_whoever_touches)
{
	struct charge charge;
	struct raw_shared shared;
	char group[64];
	int line;

	snprintf(group, sizeof(group), CGROUPS "/gmem-test-%d", (int)getpid());
	if (mkdir(group, 0700) < 0)
		SKIP("no control group can be made: %s", strerror(errno));
	if (charged_to(group) < 0) {
		rmdir(group);
		SKIP("control groups here do not account for memory");
	}
	if (!raw_open_shared(&shared, PAGES)) {
		rmdir(group);
		return;
	}
	charge = (struct charge){.group = group, .shared = &shared};
	charge.fd = raw_memfd(shared.vm, CHARGED_PAGES * shared.page, RAW_SHARED);
	charge.map = raw_map(charge.fd, 0, CHARGED_PAGES * shared.page);
	line = host_run_child(touch_in_group, &charge);
	munmap(charge.map, CHARGED_PAGES * shared.page);
	close(charge.fd);
	rmdir(group);
	ck_assert_int_eq(line, 0);
	raw_close_shared(&shared);
}
END_TEST

struct fill {
	const char *group; /* a folder */
	int userfaultfd;
	unsigned char *map;
};

static int fill_in_group(void *data)
{
	const struct fill *fill = data;
	long long size = CHARGED_PAGES * (long long)raw_page();
	long long before;

	CHILD_CHECK(join_group(fill->group) == 0);
	before = charged_to(fill->group);
	for (long long i = 0; i < size; i += (long long)raw_page())
		CHILD_CHECK(copy_page(fill->userfaultfd, fill->map + i) == 0);
	CHILD_CHECK(charged_to(fill->group) - before < size / 2);
	return 0;
}

/* Not to who fills it: so is a memfd charged, while guest_memfd knows only who touches. */
START_TEST(filled_page_of_a_memfd_is_charged_to_whoever_maps_it)
{
	size_t size = CHARGED_PAGES * raw_page();
	struct fill fill = {.userfaultfd = open_userfaultfd(0)};
	char group[64];
	int fd, line;

	if (fill.userfaultfd < 0)
		SKIP("userfaultfd: %s", strerror(-fill.userfaultfd));
	snprintf(group, sizeof(group), CGROUPS "/gmem-test-%d", (int)getpid());
	if (mkdir(group, 0700) < 0)
		SKIP("no control group can be made: %s", strerror(errno));
	if (charged_to(group) < 0) {
		rmdir(group);
		SKIP("control groups here do not account for memory");
	}
	fd = memfd_create("filled", MFD_CLOEXEC);
	ck_assert_int_eq(ftruncate(fd, (off_t)size), 0);
	fill.group = group;
	fill.map = raw_map(fd, 0, size);
	ck_assert_int_eq(raw_userfaultfd_register(fill.userfaultfd, fill.map, size,
						  UFFDIO_REGISTER_MODE_MISSING, NULL),
			 0);
	line = host_run_child(fill_in_group, &fill);
	rmdir(group);
	ck_assert_int_eq(line, 0);
	ck_assert_uint_eq(host_count_resident(fill.map, size), CHARGED_PAGES);
	munmap(fill.map, size);
	close(fd);
	close(fill.userfaultfd);
}
END_TEST

static void add_slots(Suite *suite)
{
	kernel_case(suite, "known-slots");
	KERNEL_TEST(fault_live_slot_loses_its_guest_memfd);
	KERNEL_TEST(fault_unbind_races_with_the_last_close);
	KERNEL_TEST(fault_bind_range_that_wraps_has_pages_past_the_end);
	KERNEL_LOOP(fault_binding_without_memory_seems_to_succeed, 0, 2);
#ifdef __x86_64__
	KERNEL_TEST(fault_access_meets_a_slot_that_was_not_there);
#endif
	KERNEL_TEST(memory_tags_and_guest_memfd_exclude_each_other);
	kernel_case(suite, "known-pages");
	KERNEL_TEST(fault_guest_memfd_collapses_into_a_huge_page);
	KERNEL_TEST(fault_interleaved_pages_do_not_alternate);
	KERNEL_TEST(page_comes_from_a_node_of_the_thread_that_touches_it_first);
	KERNEL_TEST(policy_of_a_file_is_for_the_guest_and_for_pages_to_come);
	KERNEL_TEST(page_does_not_move_to_another_node);
}

static void add_guest(Suite *suite)
{
	kernel_case(suite, "known-guest");
#ifdef __x86_64__
	KERNEL_TEST(clock_is_written_to_the_host_address);
#endif
	KERNEL_TEST(fault_guest_reads_from_the_host_address);
	KERNEL_TEST(fault_pre_fault_overwrites_the_exit_reason);
	KERNEL_TEST(fault_interrupted_pre_fault_overwrites_the_exit_reason);
	KERNEL_TEST(fault_code_does_not_run_in_a_page_that_was_touched);
	KERNEL_TEST(fault_exit_tells_of_a_range_that_begins_within_a_page);
	KERNEL_TEST(fault_change_of_the_mapping_unmaps_the_guest);
	KERNEL_TEST(guest_memfd_is_mapped_in_pages_of_the_smallest_size);
}

static void add_host(Suite *suite)
{
	kernel_case(suite, "known-userfaultfd");
	KERNEL_TEST(fault_userfaultfd_names_calls_that_fail);
	KERNEL_TEST(fault_vcpu_asleep_in_userfaultfd_blocks_slot_changes);
	KERNEL_TEST(fault_pre_fault_of_a_slot_being_deleted_never_ends);
	KERNEL_TEST(dontneed_of_an_absent_page_sends_a_remove_event);
	kernel_case(suite, "known-host");
	KERNEL_LOOP(mincore_shows_swapped_out_pages_as_absent, 0, 2);
	KERNEL_TEST(first_touch_is_charged_to_whoever_touches);
	KERNEL_TEST(filled_page_of_a_memfd_is_charged_to_whoever_maps_it);
}

Suite *kernel_known_suite(void)
{
	Suite *suite = suite_create("known");

	add_slots(suite);
	add_guest(suite);
	add_host(suite);
	return suite;
}
