/* SPDX-License-Identifier: MIT */
/*
 * A balloon: memory taken from a running guest and given back to it. The guest (walk.h) uses all of
 * its memory all the time, in a thread of its own. What a VMM can copy from here:
 *
 *   inflate()   agree with the guest on pages that it does not use, then discard them
 *   deflate()   let the guest use them again: its touch brings them back, as zeros
 *   steal()     discard without asking: the guest loses what was there, and nothing breaks
 *   measure()   what memory there is, as the kernel counts it
 *
 * A real balloon's agreement is virtio's. Here it is one word in the guest's memory.
 */
#include "cpu.h"
#include "example.h"
#include "picture.h"
#include "walk.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>

extern const unsigned char walk_guest_begin[];
extern const unsigned char walk_guest_end[];

#define LIMIT_GPA    FREE_GPA  /* the word that says how many pages the guest uses */
#define MEMORY_GPA   (2 * MIB) /* what it walks: all from here to the end */
#define WAIT_SECONDS 60
#define ROW_CELLS    32

struct machine {
	uint64_t size;
	uint64_t page;
	uint64_t pages; /* that the guest walks */
	struct gmem_vm *vm;
	struct gmem_memfd *memfd;
	struct gmem_map *map;
	struct gmem_slot *slot;
	struct cpu cpu;
	pthread_t thread;
	bool has_thread;

	pthread_mutex_t lock; /* of what follows: what the guest has said */
	pthread_cond_t changed;
	uint64_t round_pages;
	uint64_t round_empty;
	uint64_t rounds;
	uint64_t empty; /* of all rounds */
	bool ended;
	int status; /* when it has ended */
};

/* ---- The vCPU's thread -------------------------------------------------------------------- */

static void end_round(struct machine *m, uint64_t pages)
{
	const struct timespec nap = {.tv_nsec = 1000000};

	pthread_mutex_lock(&m->lock);
	m->round_pages = pages;
	m->rounds++;
	m->empty += m->round_empty;
	pthread_cond_broadcast(&m->changed);
	pthread_mutex_unlock(&m->lock);
	nanosleep(&nap, NULL); /* a guest that leaves others some of the processor */
}

static int hear(struct machine *m, uint32_t port, uint32_t value)
{
	switch (port) {
	case WALK_PORT_EMPTY:
		m->round_empty = value;
		return EXIT_RIGHT;
	case WALK_PORT_PAGES:
		end_round(m, value);
		return EXIT_RIGHT;
	case WALK_PORT_WRONG:
		return fail("the guest found foreign data in page %" PRIu32, value);
	default:
		return fail("the guest wrote to unknown port 0x%" PRIx32, port);
	}
}

static int run_guest(struct machine *m)
{
	uint32_t port, value;

	for (;;) {
		if (ioctl(m->cpu.fd, KVM_RUN, 0) < 0) {
			if (errno == EINTR)
				continue;
			return fail_errno("KVM_RUN");
		}
		switch (cpu_decode(m->cpu.run, &port, &value)) {
		case CPU_SAYS:
			if (hear(m, port, value))
				return EXIT_WRONG;
			break;
		case CPU_HALTS:
			return EXIT_RIGHT;
		case CPU_ODD:
			return cpu_complain(m->cpu.run);
		}
	}
}

static void *vcpu_thread(void *data)
{
	struct machine *m = data;
	int status = run_guest(m);

	pthread_mutex_lock(&m->lock);
	m->ended = true;
	m->status = status;
	pthread_cond_broadcast(&m->changed);
	pthread_mutex_unlock(&m->lock);
	return NULL;
}

/* ---- The balloon -------------------------------------------------------------------------- */

/* Wait for a round over so many pages that ends after so many rounds in all. */
static int wait_round(struct machine *m, uint64_t pages, uint64_t rounds)
{
	struct timespec deadline;
	int error = 0;
	bool ended;

	clock_gettime(CLOCK_REALTIME, &deadline);
	deadline.tv_sec += WAIT_SECONDS;
	pthread_mutex_lock(&m->lock);
	while (!m->ended && !error && (m->round_pages != pages || m->rounds < rounds))
		error = pthread_cond_timedwait(&m->changed, &m->lock, &deadline);
	ended = m->ended;
	pthread_mutex_unlock(&m->lock);
	if (ended)
		return fail("the guest has ended early");
	return error ? fail("the guest does not answer") : EXIT_RIGHT;
}

static void get_counts(struct machine *m, uint64_t *rounds, uint64_t *empty)
{
	pthread_mutex_lock(&m->lock);
	*rounds = m->rounds;
	*empty = m->empty;
	pthread_mutex_unlock(&m->lock);
}

/* Tell the guest how many pages it may use, and wait until it has heard. */
static int set_limit(struct machine *m, uint64_t pages)
{
	if (gmem_vm_store_u64(m->vm, 0, LIMIT_GPA, pages) < 0)
		return fail_gmem("cannot tell the guest");
	return wait_round(m, pages, 0);
}

/* The balloon takes all pages from `keep` on. First ask, then discard: never the other way. */
static int inflate(struct machine *m, uint64_t keep)
{
	int ret = set_limit(m, keep);

	if (ret)
		return ret;
	if (gmem_vm_discard(m->vm, MEMORY_GPA + keep * m->page, (m->pages - keep) * m->page) < 0)
		return fail_gmem("cannot discard");
	return EXIT_RIGHT;
}

/* Nothing has to be done to the memory: a page comes back when the guest touches it. */
static int deflate(struct machine *m)
{
	return set_limit(m, m->pages);
}

/* Two rounds that end from now on: one may have begun before, the other sees all. */
static int steal(struct machine *m, uint64_t first, uint64_t pages)
{
	uint64_t rounds, empty;

	if (gmem_vm_discard(m->vm, MEMORY_GPA + first * m->page, pages * m->page) < 0)
		return fail_gmem("cannot discard");
	get_counts(m, &rounds, &empty);
	return wait_round(m, m->pages, rounds + 2);
}

/* mincore(2) looks into the file: it counts pages whoever has touched them. */
static int measure(const struct machine *m, unsigned char *vec, uint64_t *bytes)
{
	*bytes = 0;
	if (mincore(gmem_map_get_addr(m->map), m->size, vec) < 0)
		return fail_errno("mincore");
	for (uint64_t i = 0; i < m->size / m->page; i++)
		*bytes += (vec[i] & 1) * m->page;
	return EXIT_RIGHT;
}

/* ---- The show ----------------------------------------------------------------------------- */

/*
 * What a step must have led to: pages of the walk that exist, and empty ones that the guest found
 * since the last step. `more`: or more of these, for what the guest wrote while the discard was
 * under way can be discarded by it too.
 */
struct step {
	const char *name;
	uint64_t exist;
	uint64_t empty;
	bool more;
};

static int show(struct machine *m, const struct step *step)
{
	static uint64_t empty_before;
	uint64_t rounds, empty, bytes, walked = 0;
	unsigned char *vec = calloc(m->size / m->page, 1);
	const uint64_t first = MEMORY_GPA / m->page;
	int ret;

	if (!vec)
		return fail_errno("mincore");
	ret = measure(m, vec, &bytes);
	get_counts(m, &rounds, &empty);
	for (uint64_t i = 0; i < m->pages; i++) {
		bool exists = vec[first + i] & 1;

		walked += exists;
		vec[first + i] = exists ? PAGE_TOUCHED : PAGE_DISCARDED;
	}
	printf("  %-26s %9.2f MiB %12" PRIu64 "   ", step->name, to_mib(bytes),
	       empty - empty_before);
	picture_print_row(stdout, vec + first, m->pages, ROW_CELLS);
	putchar('\n');
	free(vec);
	if (!ret && walked != step->exist)
		ret = fail("%" PRIu64 " pages exist, not %" PRIu64, walked, step->exist);
	empty -= empty_before;
	if (!ret && (step->more ? empty < step->empty : empty != step->empty))
		ret = fail("the guest found %" PRIu64 " empty pages, not %" PRIu64, empty,
			   step->empty);
	empty_before += empty;
	return ret;
}

static int play(struct machine *m)
{
	const uint64_t all = m->pages, half = all / 2, tenth = all / 10;
	int ret = deflate(m);

	printf("  %-26s %13s %12s   %s\n", "", "memory exists", "found empty",
	       "what the guest walks");
	if (!ret)
		ret = show(m, &(struct step){"the guest uses all", all, all});
	if (!ret)
		ret = inflate(m, all - tenth);
	if (!ret)
		ret = show(m, &(struct step){"the balloon takes a tenth", all - tenth, 0});
	if (!ret)
		ret = inflate(m, half);
	if (!ret)
		ret = show(m, &(struct step){"the balloon takes half", half, 0});
	if (!ret)
		ret = deflate(m);
	if (!ret)
		ret = show(m, &(struct step){"the guest gets all back", all, all - half});
	if (!ret)
		ret = steal(m, tenth, half);
	if (!ret)
		ret = show(m, &(struct step){"half is taken unasked", all, half, true});
	return ret;
}

/* ---- The machine -------------------------------------------------------------------------- */

static int make_memory(struct machine *m, const char *device)
{
	struct gmem_vm_opts vm_opts = {.sz = sizeof(vm_opts), .device = device};
	struct gmem_memfd_opts memfd_opts = {
		.sz = sizeof(memfd_opts),
		.size = m->size,
		.flags = GMEM_MEMFD_MMAP | GMEM_MEMFD_INIT_SHARED,
	};
	struct gmem_slot_opts slot_opts = {.sz = sizeof(slot_opts), .size = m->size};

	if (gmem_vm_open(&vm_opts, &m->vm) < 0)
		return fail_machine("no VM");
	if (gmem_memfd_create(m->vm, &memfd_opts, &m->memfd) < 0)
		return fail_machine("no guest_memfd");
	if (gmem_map_create(m->memfd, NULL, &m->map) < 0)
		return fail_gmem("no mapping");
	slot_opts.memfd = m->memfd;
	slot_opts.map = m->map;
	if (gmem_slot_create(m->vm, &slot_opts, &m->slot) < 0)
		return fail_gmem("no slot");
	return load_guest(m->vm, walk_guest_begin, walk_guest_end);
}

static int start_guest(struct machine *m, const char *device)
{
	const uint64_t arguments[CPU_ARGUMENTS] = {MEMORY_GPA, m->page, LIMIT_GPA};
	int ret = cpu_open(&m->cpu, device, gmem_vm_get_fd(m->vm), arguments);

	if (ret)
		return ret;
	if (gmem_vm_store_u64(m->vm, 0, LIMIT_GPA, m->pages) < 0)
		return fail_gmem("cannot tell the guest");
	errno = pthread_create(&m->thread, NULL, vcpu_thread, m);
	if (errno)
		return fail_errno("no thread");
	m->has_thread = true;
	return EXIT_RIGHT;
}

/* The guest ends when its limit is 0. */
static int stop_guest(struct machine *m)
{
	if (!m->has_thread)
		return EXIT_RIGHT;
	if (gmem_vm_store_u64(m->vm, 0, LIMIT_GPA, 0) < 0)
		return fail_gmem("cannot stop the guest");
	pthread_join(m->thread, NULL);
	return m->status;
}

static void close_machine(struct machine *m)
{
	cpu_close(&m->cpu);
	gmem_slot_close(m->slot);
	gmem_map_close(m->map);
	gmem_memfd_close(m->memfd);
	gmem_vm_close(m->vm);
}

static int run_machine(struct machine *m, const char *device)
{
	int ret = make_memory(m, device);
	int stopped;

	if (!ret)
		ret = start_guest(m, device);
	if (!ret) {
		printf("a guest with %" PRIu64 " MiB of guest_memfd walks it again and again\n\n",
		       m->size / MIB);
		ret = play(m);
	}
	stopped = stop_guest(m);
	if (!ret && !stopped)
		printf("\nall right: after %" PRIu64 " rounds no page held anything but its number "
		       "or zeros\n",
		       m->rounds);
	return ret ? ret : stopped;
}

int main(int argc, char **argv)
{
	const struct usage usage = {
		.purpose = "Take memory from a running guest, and give it back.",
		.lacks = "no usable KVM or guest_memfd",
		.size_of = "the guest's memory",
		.min_mib = 4,
		.max_mib = 1024,
	};
	struct options options = {.size = 64 * MIB};
	struct machine m = {
		.cpu = CPU_NONE,
		.lock = PTHREAD_MUTEX_INITIALIZER,
		.changed = PTHREAD_COND_INITIALIZER,
	};
	int ret = parse_options(argc, argv, &usage, &options);

	if (ret >= 0)
		return ret;
	m.page = page_size();
	m.size = options.size;
	m.pages = (m.size - MEMORY_GPA) / m.page;
	ret = run_machine(&m, options.device);
	close_machine(&m);
	return ret;
}
