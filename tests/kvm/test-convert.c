/* SPDX-License-Identifier: MIT */
/*
 * Private and shared memory for real: a software-protected VM whose vCPUs convert their memory and
 * look at what becomes of it, beside a host that counts it.
 */
#include "fixture.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#define CODE	 UINT64_C(0x10000)
#define LEDGER	 UINT64_C(0x11000) /* a page for each vCPU */
#define GPA	 UINT64_C(0x200000)
#define NOWHERE	 UINT64_C(0x10000000)
#define DEVICE	 UINT64_C(0x20000000)
#define SLOTS	 3
#define CPUS	 4
#define PAGES	 8 /* in each slot */
#define ROUNDS	 30
#define COUNT	 20000000
#define MIB	 (UINT64_C(1) << 20)
#define GUEST_OK INT64_C(0)

#define PRIVATE GMEM_VISIBILITY_PRIVATE
#define SHARED	GMEM_VISIBILITY_SHARED
#define DISCARD GMEM_CONVERT_DISCARD
#define KEEP	GMEM_CONVERT_KEEP

#define ADVICE_PAGEOUT 21
#define ADVICE_POISON  100

#define EXIT()                                                                                     \
	{                                                                                          \
		.sz = sizeof(struct gmem_exit)                                                     \
	}
#define RESOLVE(...)                                                                               \
	{                                                                                          \
		.sz = sizeof(struct gmem_resolve_opts), __VA_ARGS__                                \
	}
#define NOTIFIER(...)                                                                              \
	(&(const struct gmem_notifier_opts){.sz = sizeof(struct gmem_notifier_opts), __VA_ARGS__})
#define PREFAULT(...)                                                                              \
	(&(const struct gmem_prefault_opts){.sz = sizeof(struct gmem_prefault_opts), __VA_ARGS__})

/* ---- Memory, counted from outside ---- */

/* A value of /proc/meminfo, in bytes. */
static int64_t meminfo(const char *name)
{
	FILE *file = fopen("/proc/meminfo", "re");
	long long value = -1;
	char line[128];
	size_t length = strlen(name);

	ck_assert_ptr_nonnull(file);
	while (fgets(line, sizeof(line), file))
		if (strncmp(line, name, length) == 0 && line[length] == ':')
			ck_assert_int_eq(sscanf(line + length + 1, "%lld", &value), 1);
	fclose(file);
	ck_assert_int_ge(value, 0);
	return value * 1024;
}

/*
 * What this machine's files have in memory: tmpfs, of which two of the shared halves are, and all
 * others. Of these nobody but a guest_memfd gets more while a test runs.
 */
struct outside {
	int64_t private_bytes, shared_bytes;
};

static struct outside look_from_outside(void)
{
	int fd = open("/proc/sys/vm/stat_refresh", O_WRONLY | O_CLOEXEC);
	int64_t shared_bytes;

	/* Each CPU has counted for itself: this sums it up. */
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq((int)write(fd, "1", 1), 1);
	close(fd);
	shared_bytes = meminfo("Shmem");

	return (struct outside){.private_bytes = meminfo("Cached") - shared_bytes,
				.shared_bytes = shared_bytes};
}

/* ---- A VMM with private memory ---- */

struct cpu {
	struct guest guest;
	struct gmem_vcpu *vcpu;
	struct gmem_resolve_opts opts;
	struct guest_work work;
	unsigned int exits[GMEM_STATS_EXITS]; /* by kind */
	int result;
	pthread_t thread;
};

/*
 * Slots that touch, from GPA on, each with a guest_memfd of its own and with another kind of host
 * memory: ordinary, shared, and of a file.
 */
struct vmm {
	struct traces before;
	struct outside outside; /* before there was anything */
	struct gmem_vm *vm;
	size_t page;
	uint64_t part; /* bytes in each slot */
	struct gmem_memfd *memfd[SLOTS];
	unsigned char *host[SLOTS];
	struct gmem_slot *slot[SLOTS];
	unsigned char *low; /* code and ledgers */
	struct gmem_slot *low_slot;
	struct cpu cpu[CPUS];
	unsigned int cpus;
};

static unsigned char *map_host(unsigned int kind, size_t size)
{
	int fd = kind == 2 ? memfd_create("host", MFD_CLOEXEC) : -1;
	int flags = kind == 0 ? MAP_PRIVATE | MAP_ANONYMOUS
			      : MAP_SHARED | (kind == 1 ? MAP_ANONYMOUS : 0);
	unsigned char *addr;

	if (fd >= 0)
		ck_assert_int_eq(ftruncate(fd, (off_t)size), 0);
	addr = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);
	ck_assert_ptr_ne(addr, MAP_FAILED);
	if (fd >= 0)
		close(fd);
	/* Of a huge page one half could be private, and a touch of the other would bring it back.
	 */
	madvise(addr, size, MADV_NOHUGEPAGE);
	return addr;
}

static void add_slot(struct vmm *vmm, unsigned int i)
{
	vmm->host[i] = map_host(i, vmm->part);
	assert_ok(gmem_memfd_create(vmm->vm, MEMFD(.size = vmm->part), &vmm->memfd[i]));
	assert_ok(gmem_slot_create(vmm->vm,
				   SLOT(.gpa = GPA + i * vmm->part, .size = vmm->part,
					.memfd = vmm->memfd[i], .host = vmm->host[i]),
				   &vmm->slot[i]));
}

static void add_cpu(struct vmm *vmm, unsigned int i)
{
	struct cpu *cpu = &vmm->cpu[i];

	guest_open_vcpu(&cpu->guest, gmem_vm_get_fd(vmm->vm), i, CODE);
	assert_ok(gmem_vcpu_open(vmm->vm, cpu->guest.fd, cpu->guest.run, &cpu->vcpu));
	cpu->opts = (struct gmem_resolve_opts)RESOLVE(.policy = DISCARD);
}

/* Opens one with so many vCPUs, or skips the test and returns false. */
static bool open_vmm(struct vmm *vmm, uint64_t part, unsigned int cpus)
{
	const char *missing = raw_missing_type(RAW_VM_SW_PROTECTED);

	if (!missing)
		missing = raw_missing_calls();
	if (missing) {
		harness_skip("%s", missing);
		return false;
	}
	*vmm = (struct vmm){.before = traces_get(), .page = raw_page(), .part = part, .cpus = cpus};
	vmm->outside = look_from_outside();
	assert_ok(gmem_vm_open(VM_UNDER_TEST(.type = RAW_VM_SW_PROTECTED), &vmm->vm));
	assert_ok(gmem_vm_enable_map_gpa_range(vmm->vm));
	vmm->low = map_host(1, (1 + CPUS) * vmm->page);
	assert_ok(gmem_slot_create(
		vmm->vm, SLOT(.gpa = CODE, .size = (1 + CPUS) * vmm->page, .host = vmm->low),
		&vmm->low_slot));
	memcpy(vmm->low, guest_code, guest_code_size);
	for (unsigned int i = 0; i < SLOTS; i++)
		add_slot(vmm, i);
	for (unsigned int i = 0; i < cpus; i++)
		add_cpu(vmm, i);
	return true;
}

static bool open_small(struct vmm *vmm, unsigned int cpus)
{
	return open_vmm(vmm, PAGES * raw_page(), cpus);
}

static void close_vmm(struct vmm *vmm)
{
	for (unsigned int i = 0; i < vmm->cpus; i++) {
		gmem_vcpu_close(vmm->cpu[i].vcpu);
		guest_close(&vmm->cpu[i].guest);
	}
	for (unsigned int i = 0; i < SLOTS; i++) {
		gmem_slot_close(vmm->slot[i]);
		gmem_memfd_close(vmm->memfd[i]);
		munmap(vmm->host[i], vmm->part);
	}
	gmem_slot_close(vmm->low_slot);
	munmap(vmm->low, (1 + CPUS) * vmm->page);
	gmem_vm_close(vmm->vm);
	traces_assert_same(&vmm->before);
}

/* ---- Its vCPUs ---- */

/* One KVM_RUN, and what it came back for. */
static struct gmem_exit step(struct cpu *cpu)
{
	struct gmem_exit exit = EXIT();
	int r = guest_enter(&cpu->guest);

	assert_ok(gmem_vcpu_decode(cpu->vcpu, r < 0 ? -1 : 0, -r, &exit));
	cpu->exits[exit.kind]++;
	return exit;
}

/* A VMM's loop, until the guest halts: 0, or what the library fails with. */
static int run(struct cpu *cpu)
{
	struct gmem_exit exit = step(cpu);
	int r = 0;

	while (exit.kind != GMEM_EXIT_OTHER && r == 0) {
		r = gmem_vcpu_resolve(cpu->vcpu, &exit, &cpu->opts);
		if (r == 0)
			exit = step(cpu);
	}
	if (r == 0)
		ck_assert_uint_eq(cpu->guest.run->exit_reason, KVM_EXIT_HLT);
	return r;
}

static int64_t result_of(const struct cpu *cpu)
{
	uint64_t gpa;

	return guest_result(&cpu->guest, &gpa);
}

static void begin_call(struct cpu *cpu, uint64_t gpa, uint64_t pages, uint64_t attributes)
{
	guest_begin_call(&cpu->guest, RAW_MAP_GPA_RANGE,
			 (const uint64_t[3]){gpa, pages, attributes});
}

/* The guest asks for a range, and what it is told. */
static int64_t call(struct cpu *cpu, uint64_t gpa, uint64_t pages, uint64_t attributes)
{
	begin_call(cpu, gpa, pages, attributes);
	assert_ok(run(cpu));
	return result_of(cpu);
}

static void store(struct cpu *cpu, uint64_t gpa, uint32_t value)
{
	ck_assert_int_eq(guest_store(&cpu->guest, gpa, value), KVM_EXIT_HLT);
}

static uint32_t load(struct cpu *cpu, uint64_t gpa)
{
	uint32_t value;

	ck_assert_int_eq(guest_load(&cpu->guest, gpa, &value), KVM_EXIT_HLT);
	return value;
}

static void *run_in_thread(void *data)
{
	struct cpu *cpu = data;

	cpu->result = run(cpu);
	return NULL;
}

/* Let a vCPU work on pages of its own, in a thread of its own. */
static void start_work(struct vmm *vmm, unsigned int i, uint64_t gpa, uint64_t size)
{
	struct cpu *cpu = &vmm->cpu[i];

	cpu->work = (struct guest_work){.gpa = gpa,
					.pages = size / vmm->page,
					.ledger = LEDGER + i * vmm->page,
					.rounds = ROUNDS,
					.random = 0x9e3779b97f4a7c15 * (i + 1)};
	guest_begin_work(&cpu->guest, &cpu->work);
	ck_assert_int_eq(pthread_create(&cpu->thread, NULL, run_in_thread, cpu), 0);
}

static void end_work(struct cpu *cpu)
{
	int64_t result;
	uint64_t gpa;

	pthread_join(cpu->thread, NULL);
	ck_assert_int_eq(cpu->result, 0);
	result = guest_result(&cpu->guest, &gpa);
	ck_assert_msg(result != 1, "the page at 0x%llx lost its data", (unsigned long long)gpa);
	ck_assert_int_eq(result, GUEST_OK);
}

/* ---- What the host sees ---- */

static bool is_private(const struct vmm *vmm, uint64_t gpa)
{
	enum gmem_visibility visibility;

	assert_ok(gmem_vm_get_visibility(vmm->vm, gpa, &visibility, NULL));
	return visibility == PRIVATE;
}

/* Of a guest's pages the shared ones hold what it wrote; the private ones are refused. */
static void check_host_sees_shared(const struct vmm *vmm, const struct cpu *cpu)
{
	const struct guest_work *work = &cpu->work;
	uint64_t round, word;

	for (uint64_t i = 0; i < work->pages; i++) {
		uint64_t gpa = work->gpa + i * vmm->page;

		assert_ok(gmem_vm_load_u64(vmm->vm, 0, work->ledger + i * 8, &round));
		if (is_private(vmm, gpa)) {
			assert_fails(gmem_vm_read(vmm->vm, 0, gpa, &word, 8), EFAULT,
				     MEMFD_PRIVATE);
			continue;
		}
		assert_ok(gmem_vm_read(vmm->vm, 0, gpa, &word, 8));
		ck_assert_uint_eq(word, guest_work_word(work, gpa, round));
	}
}

static struct gmem_slot_memory memory_of(const struct vmm *vmm, unsigned int i)
{
	struct gmem_slot_memory memory = {.sz = sizeof(memory)};

	assert_ok(gmem_slot_get_memory(vmm->slot[i], &memory));
	return memory;
}

static struct gmem_stats stats_of(const struct vmm *vmm)
{
	struct gmem_stats stats = {.sz = sizeof(stats)};

	assert_ok(gmem_vm_get_stats(vmm->vm, &stats));
	return stats;
}

/* Bytes of all private halves, as the kernel counts them. */
static uint64_t private_held(const struct vmm *vmm)
{
	return (uint64_t)(look_from_outside().private_bytes - vmm->outside.private_bytes);
}

/* Bytes of a slot's shared half. */
static uint64_t shared_held(const struct vmm *vmm, unsigned int i)
{
	return host_count_resident(vmm->host[i], vmm->part) * vmm->page;
}

/* Where every page was written since its last conversion. */
static void check_held_once(const struct vmm *vmm)
{
	uint64_t private_bytes = 0;

	for (unsigned int i = 0; i < SLOTS; i++) {
		struct gmem_slot_memory memory = memory_of(vmm, i);

		ck_assert_uint_eq(memory.private_bytes + memory.shared_bytes, vmm->part);
		ck_assert_uint_eq(memory.twice_bytes, 0);
		ck_assert_uint_eq(shared_held(vmm, i), memory.shared_bytes);
		ck_assert_uint_eq(memory.shared_resident, memory.shared_bytes);
		ck_assert_uint_eq(memory.private_resident, GMEM_UNKNOWN);
		private_bytes += memory.private_bytes;
	}
	ck_assert_uint_eq(private_held(vmm), private_bytes);
}

static void check_held_twice_at_most_as_told(const struct vmm *vmm)
{
	uint64_t held = private_held(vmm), twice = 0;

	for (unsigned int i = 0; i < SLOTS; i++) {
		held += shared_held(vmm, i);
		twice += memory_of(vmm, i).twice_bytes;
	}
	ck_assert_uint_gt(held, SLOTS * vmm->part);
	ck_assert_uint_le(held, SLOTS * vmm->part + twice);
}

static void convert(const struct vmm *vmm, uint64_t gpa, uint64_t size, enum gmem_visibility to,
		    enum gmem_convert_policy policy)
{
	uint64_t done;

	assert_ok(gmem_vm_convert(vmm->vm, gpa, size, to, policy, &done));
	ck_assert_uint_eq(done, size);
}

/* What the map says is what the kernel does with a page: the guest writes, and one half has it. */
static void check_map_is_the_kernels(struct vmm *vmm)
{
	for (unsigned int i = 0; i < SLOTS; i++) {
		for (uint64_t at = 0; at < vmm->part; at += vmm->page) {
			uint64_t gpa = GPA + i * vmm->part + at;

			vmm->host[i][at] = 1;
			store(&vmm->cpu[0], gpa, 2);
			ck_assert_uint_eq(vmm->host[i][at], is_private(vmm, gpa) ? 1 : 2);
		}
	}
}

/* ---- Back and forth ---- */

/* 1 to 4 vCPUs, each with and without discard. Their regions cross the borders of slots. */
START_TEST(guests_convert_their_own_pages_and_lose_no_other)
{
	unsigned int cpus = 1 + (unsigned int)_i / 2;
	enum gmem_convert_policy policy = _i % 2 ? KEEP : DISCARD;
	struct gmem_stats stats;
	struct vmm vmm;
	uint64_t share;

	if (!open_small(&vmm, cpus))
		return;
	share = SLOTS * vmm.part / cpus;
	for (unsigned int i = 0; i < cpus; i++) {
		vmm.cpu[i].opts.policy = policy;
		start_work(&vmm, i, GPA + i * share, share);
	}
	for (unsigned int i = 0; i < cpus; i++)
		end_work(&vmm.cpu[i]);
	for (unsigned int i = 0; i < cpus; i++)
		check_host_sees_shared(&vmm, &vmm.cpu[i]);
	if (policy == DISCARD)
		check_held_once(&vmm);
	else
		check_held_twice_at_most_as_told(&vmm);
	stats = stats_of(&vmm);
	ck_assert_uint_eq(stats.hypercalls, (uint64_t)cpus * (ROUNDS - 1));
	ck_assert_uint_eq(stats.hypercalls_refused, 0);
	ck_assert_uint_gt(stats.conversions, 0);
	ck_assert_uint_eq(stats.private_bytes + stats.shared_bytes,
			  SLOTS * vmm.part + (1 + CPUS) * vmm.page);
	check_map_is_the_kernels(&vmm);
	close_vmm(&vmm);
}
END_TEST

/* Slots' borders are nothing to KVM: one range is one call, though each half is dropped by slot. */
START_TEST(conversion_spans_slots_that_touch)
{
	struct gmem_stats stats;
	struct vmm vmm;

	if (!open_small(&vmm, 1))
		return;
	for (unsigned int i = 0; i < SLOTS; i++)
		memset(vmm.host[i], 7, vmm.part);
	ck_assert_int_eq(call(&vmm.cpu[0], GPA + vmm.page, SLOTS * PAGES - 2, RAW_RANGE_PRIVATE),
			 0);
	stats = stats_of(&vmm);
	ck_assert_uint_eq(stats.attribute_calls, 1);
	ck_assert_uint_eq(stats.discard_calls, SLOTS);
	ck_assert_uint_eq(stats.to_private_bytes, SLOTS * vmm.part - 2 * vmm.page);
	ck_assert_uint_eq(shared_held(&vmm, 0) + shared_held(&vmm, 1) + shared_held(&vmm, 2),
			  2 * vmm.page);
	for (uint64_t gpa = GPA; gpa < GPA + SLOTS * vmm.part; gpa += vmm.page)
		ck_assert_uint_eq(load(&vmm.cpu[0], gpa), is_private(&vmm, gpa) ? 0 : 0x07070707);
	close_vmm(&vmm);
}
END_TEST

START_TEST(what_is_so_already_is_not_converted_again)
{
	struct gmem_stats before, after;
	struct vmm vmm;

	if (!open_small(&vmm, 1))
		return;
	convert(&vmm, GPA, vmm.part, PRIVATE, DISCARD);
	store(&vmm.cpu[0], GPA, 5);
	before = stats_of(&vmm);
	ck_assert_int_eq(call(&vmm.cpu[0], GPA, PAGES, RAW_RANGE_PRIVATE), 0);
	after = stats_of(&vmm);
	ck_assert_uint_eq(after.attribute_calls, before.attribute_calls);
	ck_assert_uint_eq(after.discard_calls, before.discard_calls);
	ck_assert_uint_eq(load(&vmm.cpu[0], GPA), 5);
	close_vmm(&vmm);
}
END_TEST

/* Ask for ranges that others want the other way, all at once. */
static void *quarrel(void *data)
{
	struct cpu *cpu = data;
	uint64_t random = cpu->work.random;

	for (int round = 0; round < ROUNDS && cpu->result == 0; round++) {
		random = random * 6364136223846793005 + 1;
		cpu->result = (int)call(cpu, GPA + (random >> 60) * 4096, 1 + (random >> 56) % 8,
					random >> 40 & RAW_RANGE_PRIVATE);
	}
	return NULL;
}

START_TEST(guests_that_want_the_same_pages_take_turns)
{
	struct vmm vmm;

	if (!open_small(&vmm, CPUS))
		return;
	for (unsigned int i = 0; i < CPUS; i++) {
		vmm.cpu[i].work.random = i + 1;
		ck_assert_int_eq(pthread_create(&vmm.cpu[i].thread, NULL, quarrel, &vmm.cpu[i]), 0);
	}
	for (unsigned int i = 0; i < CPUS; i++) {
		pthread_join(vmm.cpu[i].thread, NULL);
		ck_assert_int_eq(vmm.cpu[i].result, 0);
	}
	ck_assert_uint_eq(stats_of(&vmm).hypercalls, (uint64_t)CPUS * ROUNDS);
	ck_assert_uint_eq(stats_of(&vmm).discard_failures, 0);
	ck_assert_uint_gt(stats_of(&vmm).to_shared_bytes, 0);
	check_map_is_the_kernels(&vmm);
	close_vmm(&vmm);
}
END_TEST

struct counter {
	struct cpu *cpu;
	atomic_bool over;
};

/* A routine that an exit interrupts goes on where it was. */
static void *count(void *data)
{
	struct counter *counter = data;
	struct cpu *cpu = counter->cpu;
	struct gmem_exit exit = EXIT();
	int r = guest_count(&cpu->guest, GPA, COUNT);

	if (r == -EFAULT) {
		assert_ok(gmem_vcpu_decode(cpu->vcpu, -1, EFAULT, &exit));
		assert_ok(gmem_vcpu_resolve(cpu->vcpu, &exit, &cpu->opts));
		assert_ok(run(cpu));
		r = KVM_EXIT_HLT;
	}
	ck_assert_int_eq(r, KVM_EXIT_HLT);
	atomic_store(&counter->over, true);
	return NULL;
}

/* Each step of the count is made in one half or the other, and none is lost between them. */
START_TEST(guest_counts_on_in_either_half_while_the_host_converts_the_page)
{
	struct counter counter = {.over = false};
	uint32_t in_shared, in_private;
	unsigned int conversions = 0;
	pthread_t thread;
	struct vmm vmm;

	if (!open_small(&vmm, 1))
		return;
	counter.cpu = &vmm.cpu[0];
	counter.cpu->opts.policy = KEEP;
	ck_assert_int_eq(pthread_create(&thread, NULL, count, &counter), 0);
	while (!atomic_load(&counter.over)) {
		convert(&vmm, GPA, vmm.page, conversions++ % 2 ? SHARED : PRIVATE, KEEP);
		usleep(1000);
	}
	pthread_join(thread, NULL);
	ck_assert_uint_gt(conversions, 2);
	convert(&vmm, GPA, vmm.page, SHARED, KEEP);
	in_shared = load(&vmm.cpu[0], GPA);
	convert(&vmm, GPA, vmm.page, PRIVATE, KEEP);
	in_private = load(&vmm.cpu[0], GPA);
	ck_assert_uint_gt(in_shared, 0);
	ck_assert_uint_gt(in_private, 0);
	ck_assert_uint_eq(in_shared + in_private, COUNT);
	close_vmm(&vmm);
}
END_TEST

/*
 * The host converts one slot while guests work in the others, and threads read and write it all. A
 * write to a range that has become private must bring none of its shared pages back.
 */
struct crowd {
	struct vmm *vmm;
	atomic_bool over;
	pthread_t threads[2];
	unsigned int read, refused; /* by the first of them */
};

static void access_at_random(struct crowd *crowd, uint64_t random, bool counts)
{
	struct gmem_vm *vm = crowd->vmm->vm;
	uint64_t gpa = GPA + random % (SLOTS * crowd->vmm->part - 64);
	unsigned char bytes[64] = {0};
	uint64_t len;
	void *addr;
	int r;

	r = gmem_vm_read(vm, 0, gpa, bytes, sizeof(bytes));
	if (r < 0)
		assert_fails(r, EFAULT, MEMFD_PRIVATE);
	if (counts && r == 0)
		crowd->read++;
	else if (counts)
		crowd->refused++;
	r = gmem_vm_write(vm, 0, GPA + 2 * crowd->vmm->part + random % (crowd->vmm->part - 64),
			  bytes, sizeof(bytes));
	if (r < 0)
		assert_fails(r, EFAULT, MEMFD_PRIVATE);
	r = gmem_vm_translate(vm, 0, gpa, GMEM_PROT_READ, &len, &addr);
	if (r < 0)
		assert_fails(r, EFAULT, MEMFD_PRIVATE);
	else
		ck_assert_uint_le(len, SLOTS * crowd->vmm->part);
}

static void *access_memory(void *data)
{
	struct crowd *crowd = data;
	bool counts = pthread_equal(pthread_self(), crowd->threads[0]);
	uint64_t random = counts;

	while (!atomic_load(&crowd->over)) {
		random = random * 6364136223846793005 + 1;
		access_at_random(crowd, random >> 33, counts);
		stats_of(crowd->vmm);
		memory_of(crowd->vmm, (unsigned int)(random >> 33) % SLOTS);
	}
	return NULL;
}

START_TEST(threads_convert_read_write_and_translate_at_once)
{
	struct vmm here, *vmm = &here;
	struct crowd crowd = {.vmm = vmm};

	if (!open_small(vmm, 2))
		return;
	for (unsigned int i = 0; i < 2; i++)
		start_work(vmm, i, GPA + i * vmm->part, vmm->part);
	for (unsigned int i = 0; i < 2; i++)
		ck_assert_int_eq(pthread_create(&crowd.threads[i], NULL, access_memory, &crowd), 0);
	for (int round = 0; round < ROUNDS; round++) {
		convert(vmm, GPA + 2 * vmm->part, vmm->part, PRIVATE, DISCARD);
		usleep(1000);
		ck_assert_uint_eq(shared_held(vmm, 2), 0);
		convert(vmm, GPA + 2 * vmm->part, vmm->part, SHARED, DISCARD);
		usleep(1000);
	}
	for (unsigned int i = 0; i < 2; i++)
		end_work(&vmm->cpu[i]);
	atomic_store(&crowd.over, true);
	for (unsigned int i = 0; i < 2; i++)
		pthread_join(crowd.threads[i], NULL);
	ck_assert_uint_gt(crowd.read, 0);
	ck_assert_uint_gt(crowd.refused, 0);
	for (unsigned int i = 0; i < 2; i++)
		check_host_sees_shared(vmm, &vmm->cpu[i]);
	close_vmm(vmm);
}
END_TEST

/* ---- What the host may not touch ---- */

START_TEST(private_memory_is_refused_to_the_host_and_no_page_comes_back)
{
	unsigned char bytes[8] = {0};
	uint64_t len, word;
	struct vmm vmm;
	uint32_t half;
	void *addr;

	if (!open_small(&vmm, 1))
		return;
	convert(&vmm, GPA + vmm.page, SLOTS * vmm.part - vmm.page, PRIVATE, DISCARD);
	for (uint64_t gpa = GPA + vmm.page; gpa < GPA + SLOTS * vmm.part; gpa += vmm.page) {
		assert_fails(gmem_vm_read(vmm.vm, 0, gpa, bytes, 8), EFAULT, MEMFD_PRIVATE);
		assert_fails(gmem_vm_write(vmm.vm, 0, gpa, bytes, 8), EFAULT, MEMFD_PRIVATE);
		assert_fails(gmem_vm_load_u64(vmm.vm, 0, gpa, &word), EFAULT, MEMFD_PRIVATE);
		assert_fails(gmem_vm_store_u64(vmm.vm, 0, gpa, 1), EFAULT, MEMFD_PRIVATE);
		assert_fails(gmem_vm_load_u32(vmm.vm, 0, gpa, &half), EFAULT, MEMFD_PRIVATE);
		assert_fails(gmem_vm_translate(vmm.vm, 0, gpa, GMEM_PROT_READ, &len, &addr), EFAULT,
			     MEMFD_PRIVATE);
	}
	/* From shared into private memory: all of it or nothing. */
	assert_fails(gmem_vm_write(vmm.vm, 0, GPA + vmm.page - 4, bytes, 8), EFAULT, MEMFD_PRIVATE);
	for (unsigned int i = 0; i < SLOTS; i++)
		ck_assert_uint_eq(shared_held(&vmm, i), 0);
	assert_ok(gmem_vm_translate(vmm.vm, 0, GPA, GMEM_PROT_READ, &len, &addr));
	ck_assert_uint_eq(len, vmm.page);
	ck_assert_ptr_eq(addr, vmm.host[0]);
	close_vmm(&vmm);
}
END_TEST

/* A guest_memfd that is both halves can be mapped on such a VM, and never touched by the host. */
START_TEST(mapped_private_memory_is_an_error_and_no_signal)
{
	const uint64_t gpa = GPA + UINT64_C(0x1000000);
	unsigned char bytes[8] = {0};
	struct iovec here, there;
	struct gmem_memfd *memfd;
	struct gmem_slot *slot;
	struct gmem_map *map;
	struct vmm vmm;
	uint64_t word;

	if (!open_small(&vmm, 1))
		return;
	if (gmem_vm_get_cap(vmm.vm, GMEM_CAP_GUEST_MEMFD_FLAGS, &word) < 0 ||
	    !(word & GMEM_MEMFD_MMAP)) {
		close_vmm(&vmm);
		SKIP("this kernel's private memory cannot be mapped");
	}
	assert_ok(gmem_memfd_create(vmm.vm, MEMFD(.size = vmm.part, .flags = GMEM_MEMFD_MMAP),
				    &memfd));
	assert_ok(gmem_map_create(memfd, NULL, &map));
	assert_ok(gmem_slot_create(
		vmm.vm, SLOT(.gpa = gpa, .size = vmm.part, .memfd = memfd, .map = map), &slot));
	for (int round = 0; round < 2; round++) {
		store(&vmm.cpu[0], gpa, 6);
		if (round == 0) {
			assert_fails(gmem_vm_read(vmm.vm, 0, gpa, bytes, 8), EFAULT, ACCESS_FAULT);
			assert_fails(gmem_vm_load_u64(vmm.vm, 0, gpa, &word), EOPNOTSUPP,
				     ACCESS_NOT_ATOMIC);
		} else {
			assert_fails(gmem_vm_read(vmm.vm, 0, gpa, bytes, 8), EFAULT, MEMFD_PRIVATE);
			assert_fails(gmem_vm_load_u64(vmm.vm, 0, gpa, &word), EFAULT,
				     MEMFD_PRIVATE);
		}
		assert_fails(gmem_map_populate(map, 0, vmm.part, 1), EFAULT, MEMFD_PRIVATE);
		here = (struct iovec){bytes, 8};
		there = (struct iovec){gmem_map_get_addr(map), 8};
		ck_assert_int_eq(raw_result(process_vm_readv(getpid(), &here, 1, &there, 1, 0)),
				 -EFAULT);
		convert(&vmm, gpa, vmm.part, PRIVATE, DISCARD);
	}
	/* One memory is both halves: nothing was dropped. */
	ck_assert_uint_eq(load(&vmm.cpu[0], gpa), 6);
	gmem_slot_close(slot);
	gmem_map_close(map);
	gmem_memfd_close(memfd);
	close_vmm(&vmm);
}
END_TEST

/* ---- The machine's memory ---- */

/* What there is more of than before the VM. The messages of Check are in tmpfs too. */
static void expect_outside(const struct vmm *vmm, uint64_t private_bytes, uint64_t shared_bytes)
{
	struct outside now = look_from_outside();
	int64_t shared_more = now.shared_bytes - vmm->outside.shared_bytes;

	ck_assert_int_eq(now.private_bytes - vmm->outside.private_bytes, (int64_t)private_bytes);
	ck_assert_int_ge(shared_more, (int64_t)shared_bytes);
	ck_assert_int_le(shared_more, (int64_t)(shared_bytes + MIB));
}

/* Of the slot in the middle, whose shared half is tmpfs. */
static void fill(struct vmm *vmm, uint64_t gpa)
{
	struct gmem_vcpu *vcpu = vmm->cpu[0].vcpu;

	assert_ok(gmem_vcpu_prefault(vcpu, gpa, vmm->part, NULL, NULL));
}

START_TEST(machine_holds_both_halves_only_if_told_to_keep_them)
{
	const uint64_t size = 32 * MIB;
	struct vmm vmm;
	uint64_t gpa;

	if (!open_vmm(&vmm, size, 1))
		return;
	gpa = GPA + size;
	memset(vmm.host[1], 1, size);
	expect_outside(&vmm, 0, size);
	convert(&vmm, gpa, size, PRIVATE, DISCARD);
	expect_outside(&vmm, 0, 0);
	fill(&vmm, gpa);
	expect_outside(&vmm, size, 0);
	convert(&vmm, gpa, size, SHARED, DISCARD);
	expect_outside(&vmm, 0, 0);
	fill(&vmm, gpa);
	expect_outside(&vmm, 0, size);
	convert(&vmm, gpa, size, PRIVATE, KEEP);
	fill(&vmm, gpa);
	expect_outside(&vmm, size, size);
	ck_assert_uint_eq(memory_of(&vmm, 1).twice_bytes, size);
	/* To what it is, but without the other half. */
	convert(&vmm, gpa, size, PRIVATE, DISCARD);
	expect_outside(&vmm, size, 0);
	ck_assert_uint_eq(memory_of(&vmm, 1).twice_bytes, 0);
	assert_ok(gmem_vm_discard(vmm.vm, gpa, size));
	expect_outside(&vmm, 0, 0);
	close_vmm(&vmm);
}
END_TEST

/* Not the machine's count: each CPU keeps a few places in swap that it has freed. */
static int64_t count_swapped(const struct vmm *vmm)
{
	int64_t bytes = 0;

	for (unsigned int i = 0; i < SLOTS; i++)
		bytes += host_count_swapped(vmm->host[i], vmm->part);
	return bytes;
}

/* What the guest has written and nobody converts survives; what is dropped leaves the swap too. */
START_TEST(shared_half_survives_swap_while_neighbours_are_converted)
{
	const uint64_t size = MIB;
	struct vmm vmm;

	if (!open_vmm(&vmm, size, 2))
		return;
	if (meminfo("SwapTotal") == 0) {
		close_vmm(&vmm);
		SKIP("this machine has no swap");
	}
	for (unsigned int i = 0; i < SLOTS; i++)
		for (uint64_t at = 0; at < size; at += vmm.page)
			memset(vmm.host[i] + at, 1 + (int)((at / vmm.page + i) % 250), vmm.page);
	for (unsigned int i = 0; i < SLOTS; i++)
		store(&vmm.cpu[0], GPA + i * size, 0x12345678);
	for (unsigned int i = 0; i < SLOTS; i++)
		ck_assert_int_eq(madvise(vmm.host[i], size, ADVICE_PAGEOUT), 0);
	ck_assert_int_ge(count_swapped(&vmm), SLOTS * (int64_t)size * 3 / 4);
	/* The second half of each slot is lost to conversions, in swap or not. */
	start_work(&vmm, 1, GPA + size / 2, PAGES * vmm.page);
	for (unsigned int i = 0; i < SLOTS; i++)
		convert(&vmm, GPA + i * size + size * 3 / 4, size / 4, PRIVATE, DISCARD);
	end_work(&vmm.cpu[1]);
	ck_assert_int_le(count_swapped(&vmm), SLOTS * (int64_t)size * 3 / 4);
	for (unsigned int i = 0; i < SLOTS; i++) {
		ck_assert_uint_eq(load(&vmm.cpu[0], GPA + i * size), 0x12345678);
		for (uint64_t at = vmm.page; at < size / 2; at += vmm.page)
			ck_assert_uint_eq(load(&vmm.cpu[0], GPA + i * size + at) & 0xff,
					  1 + (at / vmm.page + i) % 250);
		ck_assert_uint_eq(load(&vmm.cpu[0], GPA + (i + 1) * size - vmm.page), 0);
	}
	close_vmm(&vmm);
}
END_TEST

/* ---- Notifiers ---- */

/* One of them, which writes down what it is told of the first slot. */
struct listener {
	char name;
	uint64_t end;
	char *log; /* of both */
	int refusal;
};

static void note(struct listener *listener, const struct gmem_conversion *conversion, char what)
{
	size_t used;

	if (conversion->gpa >= listener->end)
		return;
	used = strlen(listener->log);
	listener->log[used] = listener->name;
	listener->log[used + 1] = what;
}

static int on_prepare(void *data, const struct gmem_conversion *conversion)
{
	struct listener *listener = data;

	note(listener, conversion, 'p');
	return conversion->gpa < listener->end ? listener->refusal : 0;
}

static void on_commit(void *data, const struct gmem_conversion *conversion)
{
	note(data, conversion, 'c');
}

static void on_abort(void *data, const struct gmem_conversion *conversion)
{
	note(data, conversion, 'a');
}

static void expect_log(char *log, const char *expected)
{
	ck_assert_str_eq(log, expected);
	memset(log, 0, strlen(log));
}

START_TEST(notifiers_are_told_in_order_and_reverse_beside_a_running_guest)
{
	char log[64] = "";
	struct listener listeners[2] = {{.name = 'A', .log = log}, {.name = 'B', .log = log}};
	struct gmem_notifier *notifiers[2];
	struct cpu *cpu;
	struct vmm vmm;

	if (!open_small(&vmm, 2))
		return;
	cpu = &vmm.cpu[0];
	for (int i = 0; i < 2; i++) {
		listeners[i].end = GPA + vmm.part;
		assert_ok(gmem_vm_add_notifier(vmm.vm,
					       NOTIFIER(.prepare = on_prepare, .commit = on_commit,
							.abort = on_abort, .data = &listeners[i]),
					       &notifiers[i]));
	}
	store(cpu, GPA, 5);
	start_work(&vmm, 1, GPA + vmm.part, 2 * vmm.part);
	/* The first refuses what the second has prepared for. */
	listeners[0].refusal = -EBUSY;
	begin_call(cpu, GPA, 2, RAW_RANGE_PRIVATE);
	assert_fails(run(cpu), EBUSY, NOTIFIER_REFUSED);
	expect_log(log, "BpApBa");
	assert_ok(run(cpu));
	ck_assert_int_lt(result_of(cpu), 0);
	ck_assert(!is_private(&vmm, GPA));
	ck_assert_uint_eq(load(cpu, GPA), 5);
	listeners[0].refusal = 0;
	ck_assert_int_eq(call(cpu, GPA, 2, RAW_RANGE_PRIVATE), 0);
	expect_log(log, "BpApBcAc");
	ck_assert_int_eq(call(cpu, GPA, 2, RAW_RANGE_PRIVATE), 0);
	expect_log(log, "");
	ck_assert_int_eq(call(cpu, GPA, 2, 0), 0);
	expect_log(log, "ApBpAcBc");
	end_work(&vmm.cpu[1]);
	for (int i = 0; i < 2; i++)
		gmem_notifier_close(notifiers[i]);
	close_vmm(&vmm);
}
END_TEST

/* ---- What a guest may ask for ---- */

/* Pages of 4 KiB. */
static const struct {
	const char *name;
	uint64_t gpa, pages, attributes;
	enum gmem_reason reason; /* NONE: KVM refuses it by itself */
} absurd[] = {
	{"no page", GPA, 0, 16, GMEM_REASON_NONE},
	{"between pages", GPA + 8, 1, 16, GMEM_REASON_NONE},
	{"past the last page", GPA, UINT64_MAX, 16, GMEM_REASON_NONE},
	{"unknown attribute", GPA, 1, 16 | 32, GMEM_REASON_HYPERCALL_REFUSED},
	{"highest attribute", GPA, 1, 16 | UINT64_C(1) << 63, GMEM_REASON_HYPERCALL_REFUSED},
	{"all attributes", GPA, 1, UINT64_MAX, GMEM_REASON_HYPERCALL_REFUSED},
	{"page size 3", GPA, 1, 16 | 3, GMEM_REASON_HYPERCALL_REFUSED},
	{"page size 15", GPA, 1, 16 | 15, GMEM_REASON_HYPERCALL_REFUSED},
	{"2^64 bytes", 0, UINT64_C(1) << 52, 16, GMEM_REASON_HYPERCALL_REFUSED},
	{"2^64 bytes and a page", 0, (UINT64_C(1) << 52) + 1, 16, GMEM_REASON_HYPERCALL_REFUSED},
	{"2^63 pages", 0, UINT64_C(1) << 63, 16, GMEM_REASON_HYPERCALL_REFUSED},
	{"around 2^64", ~UINT64_C(4095), 2, 16, GMEM_REASON_HYPERCALL_REFUSED},
	{"the last page of 2^64", ~UINT64_C(4095), 1, 16, GMEM_REASON_HYPERCALL_REFUSED},
	{"beyond guest addresses", UINT64_C(1) << 60, 1, 16, GMEM_REASON_HYPERCALL_REFUSED},
	{"nothing there", NOWHERE, 1, 16, GMEM_REASON_GPA_UNMAPPED},
	{"a device", DEVICE, 1, 16, GMEM_REASON_GPA_UNMAPPED},
	{"a terabyte", GPA, UINT64_C(1) << 20, 16, GMEM_REASON_GPA_UNMAPPED},
	{"half of it backed", GPA + 4096, UINT64_C(1) * SLOTS *PAGES, 16, GMEM_REASON_GPA_UNMAPPED},
	{"begins before memory", GPA - 4096, 2, 16, GMEM_REASON_GPA_UNMAPPED},
	{"memory never private", CODE, 1, 16, GMEM_REASON_NO_PRIVATE_SIDE},
};

static void check_absurd(struct vmm *vmm, size_t i)
{
	struct gmem_stats before = stats_of(vmm), after;
	struct cpu *cpu = &vmm->cpu[0];
	bool told = absurd[i].reason != GMEM_REASON_NONE;
	int64_t result = call(cpu, absurd[i].gpa, absurd[i].pages, absurd[i].attributes);

	ck_assert_msg(result == -RAW_CALL_INVALID, "%s: %lld", absurd[i].name, (long long)result);
	if (told)
		ck_assert_msg(gmem_error_get_reason() == absurd[i].reason, "%s: %s", absurd[i].name,
			      gmem_error_get_message());
	after = stats_of(vmm);
	ck_assert_uint_eq(after.hypercalls - before.hypercalls, told);
	ck_assert_uint_eq(after.hypercalls_refused - before.hypercalls_refused, told);
	ck_assert_uint_eq(after.attribute_calls, before.attribute_calls);
	ck_assert_uint_eq(after.discard_calls, before.discard_calls);
}

START_TEST(absurd_requests_are_answered_and_change_nothing)
{
	struct cpu *cpu;
	struct vmm vmm;

	if (!open_small(&vmm, 1))
		return;
	cpu = &vmm.cpu[0];
	assert_ok(gmem_vm_reserve(vmm.vm, RESERVE(.gpa = DEVICE, .size = vmm.page)));
	convert(&vmm, GPA, vmm.page, PRIVATE, DISCARD);
	store(cpu, GPA, 5);
	store(cpu, GPA + vmm.page, 6);
	for (size_t i = 0; i < sizeof(absurd) / sizeof(absurd[0]); i++)
		check_absurd(&vmm, i);
	ck_assert(is_private(&vmm, GPA));
	ck_assert(!is_private(&vmm, GPA + vmm.page));
	ck_assert(!is_private(&vmm, NOWHERE));
	ck_assert_uint_eq(load(cpu, GPA), 5);
	ck_assert_uint_eq(load(cpu, GPA + vmm.page), 6);
	/* Hints of page sizes are no more than that. */
	for (uint64_t hint = 0; hint < 3; hint++)
		ck_assert_int_eq(call(cpu, GPA + vmm.page, 1, RAW_RANGE_PRIVATE | hint), 0);
	ck_assert(is_private(&vmm, GPA + vmm.page));
	close_vmm(&vmm);
}
END_TEST

/* ---- Touches ---- */

/* The kernel knows an address as private that the library does not, and it is touched. */
static struct gmem_exit touch_private(struct vmm *vmm, uint64_t gpa)
{
	struct cpu *cpu = &vmm->cpu[0];
	struct gmem_exit exit = EXIT();
	uint32_t value;
	int r;

	raw_set_private(gmem_vm_get_fd(vmm->vm), gpa, true);
	r = guest_load(&cpu->guest, gpa + 16, &value);
	ck_assert_int_eq(r, -EFAULT);
	assert_ok(gmem_vcpu_decode(cpu->vcpu, -1, -r, &exit));
	ck_assert_int_eq(exit.kind, GMEM_EXIT_TO_PRIVATE);
	ck_assert_uint_eq(exit.flags, GMEM_EXIT_ADDRESS);
	ck_assert_uint_eq(exit.gpa, gpa);
	ck_assert_uint_eq(exit.size, vmm->page);
	ck_assert_int_eq(exit.error, EFAULT);
	ck_assert_uint_eq(exit.bits, RAW_ATTRIBUTE_PRIVATE);
	return exit;
}

START_TEST(private_touch_that_cannot_be_had_is_told_to_the_vmm)
{
	struct gmem_exit exit;
	struct vmm vmm;

	if (!open_small(&vmm, 1))
		return;
	exit = touch_private(&vmm, NOWHERE);
	assert_fails(gmem_vcpu_resolve(vmm.cpu[0].vcpu, &exit, NULL), EFAULT, GPA_UNMAPPED);
	exit = touch_private(&vmm, LEDGER);
	assert_fails(gmem_vcpu_resolve(vmm.cpu[0].vcpu, &exit, NULL), EFAULT, NO_PRIVATE_SIDE);
	ck_assert(!is_private(&vmm, NOWHERE));
	ck_assert_uint_eq(stats_of(&vmm).exits[GMEM_EXIT_TO_PRIVATE], 2);
	ck_assert_uint_eq(stats_of(&vmm).conversions_failed, 2);
	close_vmm(&vmm);
}
END_TEST

/* Memory that comes later, and then is converted because the guest has touched it. */
START_TEST(private_touch_is_resolved_by_converting)
{
	struct gmem_memfd *memfd;
	struct gmem_slot *slot;
	struct gmem_exit exit;
	unsigned char *host;
	struct vmm vmm;

	if (!open_small(&vmm, 1))
		return;
	exit = touch_private(&vmm, NOWHERE);
	host = map_host(0, vmm.part);
	assert_ok(gmem_memfd_create(vmm.vm, MEMFD(.size = vmm.part), &memfd));
	assert_ok(gmem_slot_create(
		vmm.vm, SLOT(.gpa = NOWHERE, .size = vmm.part, .memfd = memfd, .host = host),
		&slot));
	assert_ok(gmem_vcpu_resolve(vmm.cpu[0].vcpu, &exit, NULL));
	store(&vmm.cpu[0], NOWHERE, 3);
	ck_assert_uint_eq(load(&vmm.cpu[0], NOWHERE), 3);
	ck_assert_uint_eq(host[0], 0);
	ck_assert(is_private(&vmm, NOWHERE));
	ck_assert(!is_private(&vmm, NOWHERE + vmm.page));
	gmem_slot_close(slot);
	gmem_memfd_close(memfd);
	munmap(host, vmm.part);
	close_vmm(&vmm);
}
END_TEST

/* Firmware calls the windows of its devices shared before it uses them. */
START_TEST(what_is_never_private_is_shared_already)
{
	struct gmem_stats before;
	struct cpu *cpu;
	struct vmm vmm;

	if (!open_small(&vmm, 1))
		return;
	cpu = &vmm.cpu[0];
	before = stats_of(&vmm);
	ck_assert_int_eq(call(cpu, NOWHERE, 1, 0), 0);
	ck_assert_int_eq(call(cpu, CODE, 1, 0), 0);
	ck_assert_int_eq(call(cpu, GPA - 4096, 2, 0), 0);
	ck_assert_uint_eq(stats_of(&vmm).attribute_calls, before.attribute_calls);
	ck_assert_uint_eq(stats_of(&vmm).hypercalls_refused, before.hypercalls_refused);
	close_vmm(&vmm);
}
END_TEST

/* One more touch of what the kernel knows as private, and what the library makes of it. */
static enum gmem_exit_kind touch_again(struct vmm *vmm, uint64_t gpa, struct gmem_exit *exit)
{
	struct cpu *cpu = &vmm->cpu[0];
	uint32_t value;

	ck_assert_int_eq(guest_load(&cpu->guest, gpa, &value), -EFAULT);
	assert_ok(gmem_vcpu_decode(cpu->vcpu, -1, EFAULT, exit));
	return exit->kind;
}

/* A slot of which the library was told, and the kernel never was. */
static struct gmem_slot *adopt_nothing(struct vmm *vmm, uint64_t gpa, struct gmem_memfd *memfd,
				       void *host)
{
	struct gmem_slot *slot;

	assert_ok(gmem_slot_adopt(vmm->vm,
				  SLOT(.gpa = gpa, .size = vmm->page, .memfd = memfd, .host = host,
				       .flags = GMEM_SLOT_FIXED_ID, .id = 100),
				  &slot));
	return slot;
}

/* All is as the fault asks, so far as the library was told, and yet it comes again. */
START_TEST(touch_that_comes_again_and_again_is_stuck)
{
	struct gmem_resolve_opts opts = RESOLVE(.repeat_limit = 5);
	struct gmem_exit exit = EXIT();
	struct gmem_memfd *memfd;
	struct gmem_slot *slot;
	struct cpu *cpu;
	struct vmm vmm;
	void *host;

	if (!open_small(&vmm, 1))
		return;
	cpu = &vmm.cpu[0];
	host = map_host(0, vmm.page);
	assert_ok(gmem_memfd_create(vmm.vm, MEMFD(.size = vmm.page), &memfd));
	touch_private(&vmm, NOWHERE);
	assert_ok(gmem_vm_adopt_visibility(vmm.vm, NOWHERE, vmm.page, PRIVATE));
	ck_assert_int_eq(touch_again(&vmm, NOWHERE, &exit), GMEM_EXIT_GONE);
	assert_fails(gmem_vcpu_resolve(cpu->vcpu, &exit, &opts), EFAULT, EXIT_GONE);
	slot = adopt_nothing(&vmm, NOWHERE, memfd, host);
	for (int times = 1; times <= 5; times++) {
		ck_assert_int_eq(touch_again(&vmm, NOWHERE, &exit), GMEM_EXIT_RETRY);
		assert_ok(gmem_vcpu_resolve(cpu->vcpu, &exit, &opts));
	}
	ck_assert_int_eq(touch_again(&vmm, NOWHERE, &exit), GMEM_EXIT_RETRY);
	assert_fails(gmem_vcpu_resolve(cpu->vcpu, &exit, &opts), ELOOP, EXIT_STUCK);
	/* The guest can still be used. */
	load(cpu, GPA);
	gmem_slot_close(slot);
	gmem_memfd_close(memfd);
	munmap(host, vmm.page);
	close_vmm(&vmm);
}
END_TEST

/* ---- Pre-fault ---- */

static int count_progress(void *data, uint64_t done, uint64_t total)
{
	uint64_t *last = data;

	ck_assert_uint_ge(done, last[0]);
	ck_assert_uint_le(done, total);
	last[0] = done;
	last[1] = total;
	return 0;
}

START_TEST(prefault_fills_what_each_page_is)
{
	uint64_t done, last[2] = {0};
	struct gmem_vcpu *vcpus[CPUS];
	unsigned int cpus = (unsigned int)_i;
	struct vmm vmm;

	if (!open_vmm(&vmm, 6 * MIB, cpus))
		return;
	for (unsigned int i = 0; i < cpus; i++)
		vcpus[i] = vmm.cpu[i].vcpu;
	convert(&vmm, GPA + vmm.part / 2, vmm.part, PRIVATE, DISCARD);
	assert_ok(gmem_vm_prefault(vmm.vm, vcpus, cpus, GPA, 2 * vmm.part,
				   PREFAULT(.progress = count_progress, .data = last), &done));
	ck_assert_uint_eq(done, 2 * vmm.part);
	ck_assert_uint_eq(last[0], 2 * vmm.part);
	ck_assert_uint_eq(last[1], 2 * vmm.part);
	ck_assert_uint_eq(private_held(&vmm), vmm.part);
	for (unsigned int i = 0; i < SLOTS; i++)
		ck_assert_uint_eq(shared_held(&vmm, i), i < 2 ? vmm.part / 2 : 0);
	ck_assert_uint_eq(stats_of(&vmm).prefault_bytes, 2 * vmm.part);
	close_vmm(&vmm);
}
END_TEST

START_TEST(hypercall_can_prefault_what_it_converts)
{
	struct vmm vmm;

	if (!open_small(&vmm, 1))
		return;
	vmm.cpu[0].opts.flags = GMEM_RESOLVE_PREFAULT;
	ck_assert_int_eq(call(&vmm.cpu[0], GPA + vmm.page, UINT64_C(2) * PAGES, RAW_RANGE_PRIVATE),
			 0);
	ck_assert_uint_eq(private_held(&vmm), 2 * vmm.part);
	close_vmm(&vmm);
}
END_TEST

/* An exit that the VMM has not yet read stays as it is, whether the call succeeds or fails. */
START_TEST(prefault_leaves_kvm_run_as_it_is)
{
	static unsigned char before[4096];
	struct gmem_vcpu *vcpu;
	struct vmm vmm;
	uint64_t done;

	if (!open_small(&vmm, 1))
		return;
	vcpu = vmm.cpu[0].vcpu;
	raw_set_private(gmem_vm_get_fd(vmm.vm), NOWHERE, true);
	begin_call(&vmm.cpu[0], GPA, 1, RAW_RANGE_PRIVATE);
	ck_assert_int_eq(guest_enter(&vmm.cpu[0].guest), 0);
	ck_assert_uint_eq(vmm.cpu[0].guest.run->exit_reason, KVM_EXIT_HYPERCALL);
	memcpy(before, vmm.cpu[0].guest.run, sizeof(before));
	assert_ok(gmem_vcpu_prefault(vcpu, GPA, vmm.part, NULL, &done));
	ck_assert_int_eq(memcmp(vmm.cpu[0].guest.run, before, sizeof(before)), 0);
	assert_fails(gmem_vcpu_prefault(vcpu, GPA, 4 * vmm.part, NULL, &done), EFAULT,
		     GPA_UNMAPPED);
	ck_assert_uint_eq(done, 3 * vmm.part);
	ck_assert_int_eq(memcmp(vmm.cpu[0].guest.run, before, sizeof(before)), 0);
	assert_fails(gmem_vcpu_prefault(vcpu, NOWHERE, vmm.page, NULL, &done), EFAULT, EXIT_GONE);
	ck_assert_uint_eq(done, 0);
	ck_assert_int_eq(memcmp(vmm.cpu[0].guest.run, before, sizeof(before)), 0);
	/* And the guest gets its answer. */
	vmm.cpu[0].guest.run->hypercall.ret = 77;
	assert_ok(run(&vmm.cpu[0]));
	ck_assert_int_eq(result_of(&vmm.cpu[0]), 77);
	close_vmm(&vmm);
}
END_TEST

/* ---- Poison ---- */

static volatile sig_atomic_t bus_code;
static void *volatile bus_addr;

static void on_bus(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	(void)context;
	bus_code = info->si_code;
	bus_addr = info->si_addr;
}

/*
 * Of memory that the host maps KVM sends SIGBUS to the vCPU's thread, and the guest tries again: it
 * is the VMM's handler that knows. Discarding takes the damaged page out of the guest.
 */
START_TEST(poisoned_shared_page_is_a_signal_to_the_vcpu_and_discard_heals_it)
{
	struct sigaction action = {.sa_sigaction = on_bus, .sa_flags = SA_SIGINFO};
	struct gmem_exit exit;
	struct vmm vmm;

	NEED_THROW_AWAY();
	if (!open_small(&vmm, 1))
		return;
	sigaction(SIGBUS, &action, NULL);
	convert(&vmm, GPA + vmm.page, vmm.page, PRIVATE, DISCARD);
	store(&vmm.cpu[0], GPA, 5);
	store(&vmm.cpu[0], GPA + vmm.page, 6);
	store(&vmm.cpu[0], GPA + 2 * vmm.page, 7);
	if (madvise(vmm.host[0], vmm.page, ADVICE_POISON) < 0) {
		close_vmm(&vmm);
		SKIP("this kernel poisons no page: %s", strerror(errno));
	}
	bus_code = 0;
	ck_assert_int_eq(guest_load(&vmm.cpu[0].guest, GPA, &(uint32_t){0}), -EINTR);
	ck_assert_int_eq(bus_code, BUS_MCEERR_AR);
	ck_assert_ptr_eq(bus_addr, vmm.host[0]);
	exit = (struct gmem_exit)EXIT();
	assert_ok(gmem_vcpu_decode(vmm.cpu[0].vcpu, -1, EINTR, &exit));
	ck_assert_int_eq(exit.kind, GMEM_EXIT_RETRY);
	ck_assert_uint_eq(exit.flags, 0);
	assert_ok(gmem_vm_discard(vmm.vm, GPA, vmm.page));
	ck_assert_uint_eq(load(&vmm.cpu[0], GPA), 0);
	ck_assert_uint_eq(load(&vmm.cpu[0], GPA + vmm.page), 6);
	ck_assert_uint_eq(load(&vmm.cpu[0], GPA + 2 * vmm.page), 7);
	close_vmm(&vmm);
}
END_TEST

/* ---- All of them ---- */

static TCase *make_case(Suite *suite, const char *name)
{
	TCase *tcase = tcase_create(name);

	suite_add_tcase(suite, tcase);
	return tcase;
}

static void add_conversion(TCase *tcase)
{
	tcase_add_loop_test(tcase, guests_convert_their_own_pages_and_lose_no_other, 0, 2 * CPUS);
	tcase_add_test(tcase, conversion_spans_slots_that_touch);
	tcase_add_test(tcase, what_is_so_already_is_not_converted_again);
	tcase_add_test(tcase, guests_that_want_the_same_pages_take_turns);
	tcase_add_test(tcase, guest_counts_on_in_either_half_while_the_host_converts_the_page);
	tcase_add_test(tcase, threads_convert_read_write_and_translate_at_once);
	tcase_add_test(tcase, notifiers_are_told_in_order_and_reverse_beside_a_running_guest);
}

static void add_host(TCase *tcase)
{
	tcase_add_test(tcase, private_memory_is_refused_to_the_host_and_no_page_comes_back);
	tcase_add_test(tcase, mapped_private_memory_is_an_error_and_no_signal);
	tcase_add_test(tcase, machine_holds_both_halves_only_if_told_to_keep_them);
	tcase_add_test(tcase, shared_half_survives_swap_while_neighbours_are_converted);
}

static void add_guest(TCase *tcase)
{
	tcase_add_test(tcase, absurd_requests_are_answered_and_change_nothing);
	tcase_add_test(tcase, private_touch_that_cannot_be_had_is_told_to_the_vmm);
	tcase_add_test(tcase, private_touch_is_resolved_by_converting);
	tcase_add_test(tcase, what_is_never_private_is_shared_already);
	tcase_add_test(tcase, touch_that_comes_again_and_again_is_stuck);
}

static void add_prefault(TCase *tcase)
{
	tcase_add_loop_test(tcase, prefault_fills_what_each_page_is, 1, CPUS + 1);
	tcase_add_test(tcase, hypercall_can_prefault_what_it_converts);
	tcase_add_test(tcase, prefault_leaves_kvm_run_as_it_is);
}

static void add_poison(TCase *tcase)
{
	tcase_add_test(tcase, poisoned_shared_page_is_a_signal_to_the_vcpu_and_discard_heals_it);
}

int main(void)
{
	Suite *suite = suite_create("convert");

	add_conversion(make_case(suite, "conversion"));
	add_host(make_case(suite, "host"));
	add_guest(make_case(suite, "guest"));
	add_prefault(make_case(suite, "prefault"));
	add_poison(make_case(suite, "poison"));
	return harness_run(suite);
}
