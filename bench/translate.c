/* SPDX-License-Identifier: MIT */
/*
 * Looking guest addresses up, against what VMMs do: a sorted array of structures, searched by
 * bsearch() or by a loop of one's own, or a direct index over it, one entry for each guest page.
 *
 * No kernel has a part in it. The VM is one of libgmem-fake, and the slots are adopted, since a
 * kernel takes tens of microseconds to bind one of many.
 */
#include "bench.h"

#include <gmem-fake.h>
#include <gmem.h>

#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define SLOTS_MAX     32764U
#define PAGE	      UINT64_C(65536) /* a multiple of each machine's */
#define PAGES_LOG_MAX 6

/* Addresses that are looked up, one after the other: more than a branch predictor remembers. */
#define ADDRESSES 65536U

/* Of those that are local, four of five are in so many slots. */
#define LOCAL_SLOTS 8U

struct region {
	uint64_t gpa;
	uint64_t size;
	unsigned char *host;
};

/* The slots of a VM, for all ways to search them. */
struct space {
	struct gmem_vm *vm;
	struct gmem_slot **slots;
	struct region *regions; /* by address */
	unsigned int count;
	uint32_t *index; /* of each page: number of its region, or `count` */
	uint64_t pages;
	uint64_t *addresses;
	size_t next;
};

static uint64_t random_state = 1;

/* splitmix64: the same numbers each time. */
static uint64_t random_number(uint64_t below)
{
	uint64_t z = random_state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return (z ^ z >> 31) % below;
}

/* ---- The ways ----------------------------------------------------------------------------- */

static int compare_region(const void *key, const void *member)
{
	const uint64_t *gpa = key;
	const struct region *region = member;

	if (*gpa < region->gpa)
		return -1;
	return *gpa - region->gpa >= region->size;
}

static unsigned char *find_bsearch(const struct space *space, uint64_t gpa)
{
	const struct region *region = bsearch(&gpa, space->regions, space->count,
					      sizeof(*space->regions), compare_region);

	return region ? region->host + (gpa - region->gpa) : NULL;
}

/* The same search, written where it is used, without a call for each step. */
static unsigned char *find_loop(const struct space *space, uint64_t gpa)
{
	const struct region *first = space->regions;
	size_t count = space->count;

	while (count > 1) {
		size_t half = count / 2;

		if (gpa >= first[half].gpa)
			first += half;
		count -= half;
	}
	return gpa - first->gpa < first->size ? first->host + (gpa - first->gpa) : NULL;
}

static unsigned char *find_index(const struct space *space, uint64_t gpa)
{
	uint32_t number = gpa / PAGE < space->pages ? space->index[gpa / PAGE] : space->count;

	if (number == space->count)
		return NULL;
	return space->regions[number].host + (gpa - space->regions[number].gpa);
}

static unsigned char *find_gmem(const struct space *space, uint64_t gpa)
{
	void *addr;

	return gmem_vm_translate(space->vm, 0, gpa, GMEM_PROT_READ, NULL, &addr) == 0 ? addr : NULL;
}

/* One loop for each way, in which it can be inlined, as it would be in a VMM. */
#define DEFINE_RUN(way)                                                                            \
	static uint64_t run_##way(void *data, unsigned int times)                                  \
	{                                                                                          \
		struct space *space = data;                                                        \
		size_t next = space->next;                                                         \
		uintptr_t missed = 0;                                                              \
		uint64_t begin = bench_now(), ns;                                                  \
                                                                                                   \
		for (unsigned int i = 0; i < times; i++, next++)                                   \
			missed |= !find_##way(space, space->addresses[next % ADDRESSES]);          \
		ns = bench_since(begin);                                                           \
		space->next = next;                                                                \
		bench_check(!missed, "an address that has a slot");                                \
		return ns;                                                                         \
	}

DEFINE_RUN(bsearch)
DEFINE_RUN(loop)
DEFINE_RUN(index)
DEFINE_RUN(gmem)

/* ---- Two threads -------------------------------------------------------------------------- */

/* A second thread, which sleeps until there is something to do. */
struct pair {
	struct space *space, other; /* the other shares all but its place among the addresses */
	bench_fn *run;
	size_t cpu[2]; /* where they stay */
	pthread_t thread;
	sem_t wake;
	unsigned int times; /* 0: to end */
	atomic_uint ready, done;
};

static void stay_on(size_t cpu)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	bench_check(sched_setaffinity(0, sizeof(cpus), &cpus) == 0, "sched_setaffinity");
}

static void *second_thread(void *data)
{
	struct pair *pair = data;

	stay_on(pair->cpu[1]);
	for (;;) {
		while (sem_wait(&pair->wake) < 0)
			;
		if (!pair->times)
			return NULL;
		atomic_store(&pair->ready, 1);
		while (atomic_load(&pair->ready) < 2)
			;
		pair->run(&pair->other, pair->times);
		atomic_store(&pair->done, 1);
	}
}

/* Half of it each, once both are awake. */
static uint64_t run_pair(void *data, unsigned int times)
{
	struct pair *pair = data;
	uint64_t begin;

	pair->times = times / 2 + 1;
	atomic_store(&pair->ready, 0);
	atomic_store(&pair->done, 0);
	sem_post(&pair->wake);
	while (atomic_load(&pair->ready) < 1)
		;
	begin = bench_now();
	atomic_store(&pair->ready, 2);
	pair->run(pair->space, times / 2);
	while (!atomic_load(&pair->done))
		;
	return bench_since(begin);
}

/* The first two CPUs that there are for us; false where there is one alone. */
static bool choose_cpus(const cpu_set_t *cpus, size_t *chosen)
{
	int count = 0;

	for (size_t cpu = 0; cpu < CPU_SETSIZE && count < 2; cpu++)
		if (CPU_ISSET(cpu, cpus))
			chosen[count++] = cpu;
	return count == 2;
}

static void compare_pair(struct pair *pair, const char *name)
{
	pair->other = *pair->space;
	pair->other.next += ADDRESSES / 2;
	sem_init(&pair->wake, 0, 0);
	bench_check(pthread_create(&pair->thread, NULL, second_thread, pair) == 0,
		    "pthread_create");
	bench_compare(&(const struct bench_case){
		.group = "threads",
		.name = name,
		.against = "slots",
		.at = pair->space->count,
		.ways = {{"one thread", pair->run, pair->space}, {"two threads", run_pair, pair}},
	});
	pair->times = 0;
	sem_post(&pair->wake);
	pthread_join(pair->thread, NULL);
	sem_destroy(&pair->wake);
}

static void compare_threads(struct space *space, const char *name, bench_fn *run)
{
	struct pair pair = {.space = space, .run = run};
	cpu_set_t before;

	bench_check(sched_getaffinity(0, sizeof(before), &before) == 0, "sched_getaffinity");
	if (!choose_cpus(&before, pair.cpu))
		return;
	stay_on(pair.cpu[0]);
	compare_pair(&pair, name);
	sched_setaffinity(0, sizeof(before), &before);
}

/* ---- Slots -------------------------------------------------------------------------------- */

/* Slots of 1 to 63 pages, as many from each power of two on; after each, as often as not, a hole.
 */
static uint64_t lay_out(struct space *space)
{
	uint64_t gpa = 0, host = 0;

	for (unsigned int i = 0; i < space->count; i++) {
		uint64_t least = UINT64_C(1) << random_number(PAGES_LOG_MAX);
		struct region *region = &space->regions[i];

		region->gpa = gpa;
		region->size = (least + random_number(least)) * PAGE;
		region->host = (unsigned char *)(uintptr_t)host;
		host += region->size;
		gpa += region->size + random_number(2) * (1 + random_number(16)) * PAGE;
	}
	space->pages = gpa / PAGE;
	return host;
}

/* Address space alone: nobody touches what is looked up. */
static void reserve(struct space *space, uint64_t size)
{
	void *base =
		mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	bench_check(base != MAP_FAILED, "mmap");
	for (unsigned int i = 0; i < space->count; i++)
		space->regions[i].host = (unsigned char *)base + (uintptr_t)space->regions[i].host;
}

static void fill_index(struct space *space)
{
	for (uint64_t page = 0; page < space->pages; page++)
		space->index[page] = space->count;
	for (unsigned int i = 0; i < space->count; i++)
		for (uint64_t at = 0; at < space->regions[i].size; at += PAGE)
			space->index[(space->regions[i].gpa + at) / PAGE] = i;
}

static void bind(struct space *space)
{
	uint32_t *order = calloc(space->count, sizeof(*order));

	bench_check(order, "calloc");
	for (uint32_t i = 0; i < space->count; i++) {
		uint32_t j = (uint32_t)random_number(i + 1);

		order[i] = order[j];
		order[j] = i;
	}
	for (unsigned int i = 0; i < space->count; i++) {
		const struct region *region = &space->regions[order[i]];
		struct gmem_slot_opts opts = {.sz = sizeof(opts),
					      .gpa = region->gpa,
					      .size = region->size,
					      .host = region->host,
					      .flags = GMEM_SLOT_FIXED_ID,
					      .id = i};

		bench_check_gmem(gmem_slot_adopt(space->vm, &opts, &space->slots[i]), "a slot");
	}
	free(order);
}

/* Each slot is as likely, or LOCAL_SLOTS of them together four times as likely as all. */
static void choose_addresses(struct space *space, bool local)
{
	for (unsigned int i = 0; i < ADDRESSES; i++) {
		uint64_t number = random_number(space->count);
		const struct region *region;

		if (local && random_number(5) > 0)
			number = (number % LOCAL_SLOTS) * (space->count / LOCAL_SLOTS);
		region = &space->regions[number];
		space->addresses[i] = region->gpa + random_number(region->size / 8) * 8;
	}
}

static void open_space(struct gmem_fake *fake, struct space *space, unsigned int count)
{
	uint64_t size;

	*space = (struct space){.count = count};
	space->slots = calloc(count, sizeof(struct gmem_slot *));
	space->regions = calloc(count, sizeof(struct region));
	space->addresses = calloc(ADDRESSES, sizeof(uint64_t));
	bench_check(space->slots && space->regions && space->addresses, "calloc");
	bench_check_gmem(gmem_fake_open_vm(fake, NULL, &space->vm), "a VM");
	size = lay_out(space);
	assert(space->pages > 0);
	reserve(space, size);
	space->index = calloc(space->pages, sizeof(uint32_t));
	bench_check(space->index, "calloc");
	fill_index(space);
	bind(space);
}

static void close_space(struct space *space)
{
	for (unsigned int i = 0; i < space->count; i++)
		gmem_slot_close(space->slots[i]);
	gmem_vm_close(space->vm);
	free(space->slots);
	free(space->regions);
	free(space->index);
	free(space->addresses);
}

static void compare(struct space *space, const char *name)
{
	bench_compare(&(const struct bench_case){
		.group = "translate",
		.name = name,
		.against = "slots",
		.at = space->count,
		.ways = {{"bsearch()", run_bsearch, space},
			 {"libgmem", run_gmem, space},
			 {"a search written in place", run_loop, space},
			 {"an index of all pages", run_index, space}},
	});
}

int main(int argc, char **argv)
{
	static const unsigned int counts[] = {1, 8, 64, 512, 4096, SLOTS_MAX};
	struct gmem_fake *fake;
	struct space space;

	bench_begin(argc, argv, "translate", "Measures the search for guest addresses.");
	bench_check_gmem(gmem_fake_create(NULL, &fake), "the fake");
	for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
		open_space(fake, &space, counts[i]);
		choose_addresses(&space, false);
		compare(&space, "any slot");
		if (counts[i] == SLOTS_MAX) {
			compare_threads(&space, "libgmem", run_gmem);
			compare_threads(&space, "bsearch()", run_bsearch);
			choose_addresses(&space, true);
			compare(&space, "four of five in 8 slots");
		}
		close_space(&space);
	}
	gmem_fake_close(fake);
	return bench_end();
}
