/* SPDX-License-Identifier: MIT */
#include "race.h"

#include "harness.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define READERS	   2
#define CONVERTERS 2
#define KEPT	   0	 /* the place whose slot is replaced, but never unbound */
#define NAPS	   10000 /* of a millisecond, in which some change is done unless all hang */
#define FOREIGN	   0x5a	 /* each byte of memory that is none of the guest's */
#define WORD_SET   UINT32_C(0x80000000)
#define OWN	   512	/* where in a page the first reader has memory of its own */
#define OWN_SIZE   1024 /* so much that a copy takes a while */

#define works(call)                                                                                \
	do {                                                                                       \
		int result_ = (call);                                                              \
		ck_assert_msg(result_ == 0, "%s: %d, %s", #call, result_,                          \
			      gmem_error_get_message());                                           \
	} while (0)

struct racer {
	struct race *race;
	unsigned int number;
	uint64_t random;
	pthread_t thread;
};

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static size_t size_of(const struct race *race)
{
	return RACE_PAGES * race->page;
}

/*
 * Not ordered: what the library does must be all the order there is between these threads, or a
 * race that it leaves would be hidden from ThreadSanitizer.
 */
static void add(_Atomic uint64_t *counter, uint64_t amount)
{
	atomic_fetch_add_explicit(counter, amount, memory_order_relaxed);
}

static uint64_t total(const _Atomic uint64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

static uint32_t newest(const struct race_place *place)
{
	return atomic_load_explicit(&place->made, memory_order_relaxed);
}

/* After each turn the others have theirs: who is waited for must not be out for a time slice. */
static bool goes_on(const struct race *race)
{
	sched_yield();
	return !atomic_load(&race->over);
}

/* Places are apart, so that a run from one to the next would be found out. */
static uint64_t gpa_of(const struct race *race, unsigned int place)
{
	return race->gpa + 2 * size_of(race) * place;
}

/* ---- Words ---- */

static uint32_t word_of(unsigned int place, uint32_t generation)
{
	return WORD_SET | place << 24 | generation;
}

struct race_target race_choose(struct race *race, uint64_t *random)
{
	uint64_t number = next_random(random);
	struct race_target target = {
		.place = (unsigned int)(number >> 8) % RACE_PLACES,
		.page = (unsigned int)(number >> 16) % RACE_PAGES,
	};

	target.gpa = gpa_of(race, target.place) + target.page * race->page;
	target.gone = atomic_load_explicit(&race->place[target.place].gone, memory_order_acquire);
	return target;
}

/* The last page is discarded now and then, as conversions do with any. */
void race_check(struct race *race, const struct race_target *target, bool read, uint32_t word)
{
	uint32_t made = newest(&race->place[target->place]);
	bool may_be_zero = race->has_private || target->page == RACE_PAGES - 1;

	add(read ? &race->found : &race->missed, 1);
	if (!read || (word == 0 && may_be_zero))
		return;
	ck_assert_msg(word > word_of(target->place, target->gone) &&
			      word <= word_of(target->place, made),
		      "page %u of place %u holds %#x, though it is of a generation from %u to %u",
		      target->page, target->place, word, target->gone + 1, made);
}

/* ---- Readers ---- */

/* Whether an access worked; a refusal must be of memory that is not there for the host. */
static bool worked(const struct race *race, int r)
{
	enum gmem_reason reason = gmem_error_get_reason();

	if (r == 0)
		return true;
	ck_assert_msg(r == -EFAULT && (reason == GMEM_REASON_GPA_UNMAPPED ||
				       (race->has_private && reason == GMEM_REASON_MEMFD_PRIVATE)),
		      "an access is refused: %d, %s", r, gmem_error_get_message());
	return false;
}

/* Its memory may go at any moment, and with it the address, but nothing else comes there. */
static bool read_by_address(struct race *race, uint64_t gpa, uint32_t *word)
{
	struct iovec here = {word, sizeof(*word)}, there = {.iov_len = sizeof(*word)};
	uint64_t len;
	bool found;

	pthread_rwlock_rdlock(&race->holders);
	found = worked(race,
		       gmem_vm_translate(race->vm, 0, gpa, GMEM_PROT_READ, &len, &there.iov_base));
	if (found) {
		ck_assert_uint_gt(len, 0);
		ck_assert_uint_le(len, size_of(race));
		found = process_vm_readv(getpid(), &here, 1, &there, 1, 0) == sizeof(*word);
		ck_assert(found || errno == EFAULT);
	}
	pthread_rwlock_unlock(&race->holders);
	return found;
}

static size_t own_offset(unsigned int number)
{
	return OWN + OWN_SIZE * (size_t)number;
}

static void use_own_memory(struct race *race, uint64_t gpa, unsigned int number)
{
	uint64_t mine = number + 1, word, all[OWN_SIZE / sizeof(mine)];

	for (size_t i = 0; i < OWN_SIZE / sizeof(mine); i++)
		all[i] = mine;
	gpa += own_offset(number);
	worked(race, gmem_vm_store_u64(race->vm, 0, gpa, mine));
	if (worked(race, gmem_vm_load_u64(race->vm, 0, gpa, &word)))
		ck_assert(word == 0 || word == mine);
	worked(race, gmem_vm_write(race->vm, 0, gpa, all, sizeof(all)));
}

static void read_once(struct racer *racer)
{
	struct race *race = racer->race;
	struct race_target target = race_choose(race, &racer->random);
	uint32_t word = 0;
	bool read;

	switch (next_random(&racer->random) % 3) {
	case 0:
		read = worked(race, gmem_vm_read(race->vm, 0, target.gpa, &word, sizeof(word)));
		break;
	case 1:
		read = worked(race, gmem_vm_load_u32(race->vm, 0, target.gpa, &word));
		break;
	default:
		read = read_by_address(race, target.gpa, &word);
	}
	race_check(race, &target, read, word);
	use_own_memory(race, target.gpa, racer->number);
}

static void *read_all_the_time(void *data)
{
	struct racer *racer = data;

	while (goes_on(racer->race))
		read_once(racer);
	return NULL;
}

/* What a VMM maps, of the size that slots have, for an address that is given up too early. */
static void *map_all_the_time(void *data)
{
	struct racer *racer = data;
	size_t size = size_of(racer->race);

	while (goes_on(racer->race)) {
		void *addr = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
				  -1, 0);

		ck_assert_ptr_ne(addr, MAP_FAILED);
		memset(addr, FOREIGN, size);
		sched_yield();
		munmap(addr, size);
	}
	return NULL;
}

/* ---- Conversions ---- */

static void *convert_all_the_time(void *data)
{
	struct racer *racer = data;
	struct race *race = racer->race;

	while (goes_on(race)) {
		struct race_target target = race_choose(race, &racer->random);
		uint64_t random = next_random(&racer->random);
		uint64_t size = (1 + random % (RACE_PAGES - target.page)) * race->page, done;
		int r = gmem_vm_convert(
			race->vm, target.gpa, size,
			random >> 8 & 1 ? GMEM_VISIBILITY_PRIVATE : GMEM_VISIBILITY_SHARED,
			random >> 9 & 1 ? GMEM_CONVERT_DISCARD : GMEM_CONVERT_KEEP, &done);

		ck_assert(r == 0 ? done == size : done < size);
		if (worked(race, r))
			add(&race->converted_bytes, size);
		else
			add(&race->conversions_refused, 1);
	}
	return NULL;
}

/* The shared halves of a page that is private are the VMM's again: no copy is under way there. */
static void write_halves(const struct race_place *place, size_t offset)
{
	const uint64_t none = 0;

	for (unsigned int i = 0; i < 2; i++)
		for (unsigned int j = 0; j < READERS; j++)
			memcpy(place->host[i] + offset + own_offset(j), &none, sizeof(none));
}

static struct race_place *pages_of(struct race *race, const struct gmem_conversion *conversion,
				   size_t *first, size_t *end)
{
	uint64_t at = conversion->gpa - race->gpa, distance = 2 * size_of(race);

	*first = at % distance / race->page;
	*end = *first + conversion->size / race->page;
	return &race->place[at / distance];
}

static int begin_pages(void *data, const struct gmem_conversion *conversion)
{
	size_t i, end;
	struct race_place *place = pages_of(data, conversion, &i, &end);

	for (; i < end; i++) {
		ck_assert_msg(!place->busy[i], "two conversions have a page at once");
		place->busy[i] = true;
	}
	sched_yield(); /* time for a conversion that does not wait for its turn */
	return 0;
}

static void end_pages(void *data, const struct gmem_conversion *conversion)
{
	size_t i, end;
	struct race_place *place = pages_of(data, conversion, &i, &end);

	for (; i < end; i++)
		place->busy[i] = false;
}

static void commit_pages(void *data, const struct gmem_conversion *conversion)
{
	const struct race *race = data;
	size_t i, end;
	struct race_place *place = pages_of(data, conversion, &i, &end);

	for (; i < end && conversion->to == GMEM_VISIBILITY_PRIVATE; i++)
		write_halves(place, i * race->page);
	end_pages(data, conversion);
}

static int count_prepare(void *data, const struct gmem_conversion *conversion)
{
	(void)conversion;
	atomic_fetch_add_explicit((_Atomic int *)data, 1, memory_order_relaxed);
	return 0;
}

static void count_end(void *data, const struct gmem_conversion *conversion)
{
	(void)conversion;
	atomic_fetch_sub_explicit((_Atomic int *)data, 1, memory_order_relaxed);
}

/* Each prepare is followed by a commit or an abort before the notifier's close returns. */
static void *listen_all_the_time(void *data)
{
	struct racer *racer = data;
	_Atomic int open = 0;
	const struct gmem_notifier_opts opts = {.sz = sizeof(opts),
						.prepare = count_prepare,
						.commit = count_end,
						.abort = count_end,
						.data = &open};

	while (goes_on(racer->race)) {
		struct gmem_notifier *notifier;

		works(gmem_vm_add_notifier(racer->race->vm, &opts, &notifier));
		sched_yield();
		gmem_notifier_close(notifier);
		ck_assert_int_eq(atomic_load(&open), 0);
	}
	return NULL;
}

/* ---- Changes ---- */

static void write_words(const struct race *race, unsigned char *addr, uint32_t word)
{
	for (size_t i = 0; i < RACE_PAGES; i++)
		memcpy(addr + i * race->page, &word, sizeof(word));
}

/* A new generation's memory: `opts` has references, which release() gives up. */
static void make_memory(struct race *race, unsigned int number, bool with_map,
			struct gmem_slot_opts *opts)
{
	struct race_place *place = &race->place[number];
	uint32_t generation = newest(place) + 1;
	const struct gmem_memfd_opts memfd_opts = {
		.sz = sizeof(memfd_opts),
		.size = size_of(race),
		.flags = race->has_private ? 0 : GMEM_MEMFD_MMAP | GMEM_MEMFD_INIT_SHARED,
		.fallback = race->fallback};
	struct gmem_map *map;

	/* Told before it is written: an address of the last but one leads to the same half. */
	atomic_store_explicit(&place->made, generation, memory_order_relaxed);
	*opts = (struct gmem_slot_opts){
		.sz = sizeof(*opts), .gpa = gpa_of(race, number), .size = size_of(race)};
	works(gmem_memfd_create(race->vm, &memfd_opts, &opts->memfd));
	if (race->has_private) {
		opts->host = place->host[generation % 2];
		write_words(race, opts->host, word_of(number, generation));
	} else {
		works(gmem_map_create(opts->memfd, NULL, &map));
		works(gmem_map_populate(map, 0, size_of(race), 1));
		write_words(race, gmem_map_get_addr(map), word_of(number, generation));
		opts->map = with_map ? map : NULL;
		if (!with_map)
			gmem_map_close(map);
	}
}

static void release(const struct gmem_slot_opts *opts)
{
	gmem_map_close(opts->map);
	gmem_memfd_close(opts->memfd);
}

static int stop_guests(void *data)
{
	return -pthread_rwlock_wrlock(&((struct race *)data)->guests);
}

static void let_guests_go(void *data)
{
	pthread_rwlock_unlock(&((struct race *)data)->guests);
}

static void replace(struct race *race, unsigned int number, bool with_map)
{
	const struct gmem_replace_opts how = {
		.sz = sizeof(how), .quiesce = stop_guests, .resume = let_guests_go, .data = race};
	struct race_place *place = &race->place[number];
	uint32_t old = newest(place);
	struct gmem_slot_opts opts;

	make_memory(race, number, with_map, &opts);
	works(gmem_slot_replace(place->slot, &opts, &how));
	atomic_store_explicit(&place->gone, old, memory_order_release);
	release(&opts);
}

static void bind(struct race *race, unsigned int number, bool with_map)
{
	struct gmem_slot_opts opts;

	make_memory(race, number, with_map, &opts);
	works(gmem_slot_create(race->vm, &opts, &race->place[number].slot));
	release(&opts);
}

static void unbind(struct race_place *place, bool delete)
{
	if (delete)
		works(gmem_slot_delete(place->slot));
	else
		gmem_slot_close(place->slot);
	atomic_store_explicit(&place->gone, newest(place), memory_order_release);
	if (delete)
		gmem_slot_close(place->slot);
	place->slot = NULL;
}

static void reclaim(struct race *race)
{
	pthread_rwlock_wrlock(&race->holders);
	works(gmem_vm_reclaim(race->vm, NULL));
	pthread_rwlock_unlock(&race->holders);
}

static void change_once(struct race *race, uint64_t random)
{
	unsigned int number = (unsigned int)(random >> 32) % RACE_PLACES;
	unsigned int change = (unsigned int)(random >> 24) % 5;
	struct race_place *place = &race->place[number];
	bool choice = random >> 16 & 1;

	if (!place->slot)
		bind(race, number, choice);
	else if (change == 0)
		reclaim(race);
	else if (change == 1)
		works(gmem_vm_discard(race->vm,
				      gpa_of(race, number) + (RACE_PAGES - 1) * race->page,
				      race->page));
	else if (change == 2 || number == KEPT)
		replace(race, number, choice);
	else
		unbind(place, choice);
}

static uint64_t accesses(const struct race *race)
{
	return total(&race->found) + total(&race->missed);
}

/* Each change is beside accesses: at least one comes between two of them. */
static void *change_all(void *data)
{
	struct race *race = ((struct racer *)data)->race;
	uint64_t random = 88172645463325252U;

	for (unsigned int i = 0; i < race->rounds; i++) {
		uint64_t before = accesses(race);

		change_once(race, next_random(&random));
		if (race->tick && i % 64 == 0)
			race->tick(race->data);
		while (accesses(race) == before)
			sched_yield();
		add(&race->changed, 1);
	}
	return NULL;
}

/* Until all changes are done. What hangs must be a failure that says so. */
static void watch(const struct race *race)
{
	const struct timespec moment = {.tv_nsec = 1000000};
	uint64_t changed, before = 0;

	for (unsigned int naps = 0; (changed = total(&race->changed)) < race->rounds; naps++) {
		if (changed != before)
			naps = 0;
		ck_assert_msg(naps < NAPS, "all hang after %u changes", (unsigned int)changed);
		before = changed;
		nanosleep(&moment, NULL);
	}
}

/* ---- Questions ---- */

static void *ask_all_the_time(void *data)
{
	const struct race *race = ((struct racer *)data)->race;
	const struct gmem_slot *slot = race->place[KEPT].slot;
	const uint64_t size = size_of(race);

	while (goes_on(race)) {
		struct gmem_slot_memory memory = {.sz = sizeof(memory)};
		struct gmem_stats stats = {.sz = sizeof(stats)};

		ck_assert_ptr_nonnull(gmem_slot_get_addr(slot));
		ck_assert_uint_eq(gmem_slot_get_size(slot), size);
		works(gmem_slot_get_memory(slot, &memory));
		ck_assert_uint_eq(memory.private_bytes + memory.shared_bytes, size);
		works(gmem_vm_get_stats(race->vm, &stats));
		ck_assert_uint_le(stats.private_bytes + stats.shared_bytes,
				  (RACE_PLACES + 1) * size);
	}
	return NULL;
}

/* ---- All of it ---- */

static unsigned char *map_half(const struct race *race)
{
	void *addr = mmap(NULL, size_of(race), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
			  -1, 0);

	ck_assert_ptr_ne(addr, MAP_FAILED);
	return addr;
}

/* Whoever stops the others must not wait until none of them is busy by chance. */
static void make_lock(pthread_rwlock_t *lock)
{
	pthread_rwlockattr_t kind;

	pthread_rwlockattr_init(&kind);
	pthread_rwlockattr_setkind_np(&kind, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(lock, &kind);
	pthread_rwlockattr_destroy(&kind);
}

void race_prepare(struct race *race)
{
	make_lock(&race->guests);
	make_lock(&race->holders);
	for (unsigned int i = 0; i < RACE_PLACES; i++)
		for (unsigned int j = 0; j < 2 && race->has_private; j++)
			race->place[i].host[j] = map_half(race);
}

/* The parts that need private memory are the last. */
static void *(*const parts[])(void *) = {
	read_all_the_time, read_all_the_time,	 map_all_the_time,     ask_all_the_time,
	change_all,	   convert_all_the_time, convert_all_the_time, listen_all_the_time,
};

enum {
	ALL_PARTS = sizeof(parts) / sizeof(parts[0]),
	SHARED_PARTS = ALL_PARTS - CONVERTERS - 1,
};

void race_run(struct race *race)
{
	const struct gmem_notifier_opts opts = {.sz = sizeof(opts),
						.prepare = begin_pages,
						.commit = commit_pages,
						.abort = end_pages,
						.data = race};
	const unsigned int count = race->has_private ? ALL_PARTS : SHARED_PARTS;
	struct racer racers[ALL_PARTS];
	struct gmem_notifier *notifier;

	works(gmem_vm_add_notifier(race->vm, &opts, &notifier));
	bind(race, KEPT, true);
	for (unsigned int i = 0; i < count; i++) {
		racers[i] = (struct racer){
			.race = race, .number = i, .random = 0x9e3779b97f4a7c15U * (i + 1)};
		ck_assert_int_eq(pthread_create(&racers[i].thread, NULL, parts[i], &racers[i]), 0);
	}
	watch(race);
	atomic_store(&race->over, true);
	for (unsigned int i = 0; i < count; i++)
		ck_assert_int_eq(pthread_join(racers[i].thread, NULL), 0);
	gmem_notifier_close(notifier);
}

void race_end(struct race *race)
{
	struct gmem_stats stats = {.sz = sizeof(stats)};

	ck_assert_uint_gt(total(&race->found), 0);
	ck_assert_uint_gt(total(&race->missed), 0);
	for (unsigned int i = 0; i < RACE_PLACES; i++)
		gmem_slot_close(race->place[i].slot);
	works(gmem_vm_reclaim(race->vm, NULL));
	works(gmem_vm_get_stats(race->vm, &stats));
	ck_assert_uint_eq(stats.conversions_failed, race->conversions_refused);
	ck_assert_uint_eq(stats.to_private_bytes + stats.to_shared_bytes + stats.skipped_bytes,
			  race->converted_bytes);
	ck_assert_uint_eq(stats.discard_failures, 0);
	ck_assert_uint_eq(stats.private_bytes + stats.shared_bytes + stats.twice_bytes, 0);
	for (unsigned int i = 0; i < RACE_PLACES; i++)
		for (unsigned int j = 0; j < 2 && race->has_private; j++)
			munmap(race->place[i].host[j], size_of(race));
	pthread_rwlock_destroy(&race->guests);
	pthread_rwlock_destroy(&race->holders);
}
