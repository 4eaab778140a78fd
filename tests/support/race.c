/* SPDX-License-Identifier: MIT */
#include "race.h"

#include "harness.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#define READERS	   2
#define CONVERTERS 2
#define FOREIGN	   0x5a /* each byte of memory that is none of the guest's */
#define WORD_SET   UINT32_C(0x80000000)
#define OWN_WORDS  512 /* where in a page each reader has a word of its own */

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
	target.gone = atomic_load(&race->place[target.place].gone);
	return target;
}

/* The last page is discarded now and then, as conversions do with any. */
void race_check(struct race *race, const struct race_target *target, bool read, uint32_t word)
{
	uint32_t made = atomic_load(&race->place[target->place].made);
	bool may_be_zero = race->has_private || target->page == RACE_PAGES - 1;

	atomic_fetch_add(read ? &race->found : &race->missed, 1);
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

static void use_own_word(struct race *race, uint64_t gpa, unsigned int number)
{
	uint64_t mine = number + 1, word;

	gpa += OWN_WORDS + 64 * number;
	worked(race, gmem_vm_store_u64(race->vm, 0, gpa, mine));
	if (worked(race, gmem_vm_load_u64(race->vm, 0, gpa, &word)))
		ck_assert(word == 0 || word == mine);
	worked(race, gmem_vm_write(race->vm, 0, gpa, &mine, sizeof(mine)));
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
	use_own_word(race, target.gpa, racer->number);
}

static void *read_all_the_time(void *data)
{
	struct racer *racer = data;

	while (!atomic_load(&racer->race->over))
		read_once(racer);
	return NULL;
}

/* What a VMM maps, of the size that slots have, for an address that is given up too early. */
static void *map_all_the_time(void *data)
{
	struct racer *racer = data;
	size_t size = size_of(racer->race);

	while (!atomic_load(&racer->race->over)) {
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

	while (!atomic_load(&race->over)) {
		struct race_target target = race_choose(race, &racer->random);
		uint64_t random = next_random(&racer->random);
		uint64_t size = (1 + random % (RACE_PAGES - target.page)) * race->page, done;
		int r = gmem_vm_convert(
			race->vm, target.gpa, size,
			random >> 8 & 1 ? GMEM_VISIBILITY_PRIVATE : GMEM_VISIBILITY_SHARED,
			random >> 9 & 1 ? GMEM_CONVERT_DISCARD : GMEM_CONVERT_KEEP, &done);

		ck_assert(r == 0 ? done == size : done < size);
		if (worked(race, r))
			atomic_fetch_add(&race->converted_bytes, size);
		else
			atomic_fetch_add(&race->conversions_refused, 1);
	}
	return NULL;
}

static int count_prepare(void *data, const struct gmem_conversion *conversion)
{
	(void)conversion;
	atomic_fetch_add((_Atomic int *)data, 1);
	return 0;
}

static void count_end(void *data, const struct gmem_conversion *conversion)
{
	(void)conversion;
	atomic_fetch_sub((_Atomic int *)data, 1);
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

	while (!atomic_load(&racer->race->over)) {
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
	uint32_t generation = atomic_load(&place->made) + 1;
	const struct gmem_memfd_opts memfd_opts = {
		.sz = sizeof(memfd_opts),
		.size = size_of(race),
		.flags = race->has_private ? 0 : GMEM_MEMFD_MMAP | GMEM_MEMFD_INIT_SHARED,
		.fallback = race->fallback};
	struct gmem_map *map;

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
	atomic_store(&place->made, generation);
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
	uint32_t old = atomic_load(&place->made);
	struct gmem_slot_opts opts;

	make_memory(race, number, with_map, &opts);
	works(gmem_slot_replace(place->slot, &opts, &how));
	atomic_store(&place->gone, old);
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
	atomic_store(&place->gone, atomic_load(&place->made));
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

static void look(const struct race *race, const struct gmem_slot *slot)
{
	struct gmem_slot_memory memory = {.sz = sizeof(memory)};
	struct gmem_stats stats = {.sz = sizeof(stats)};

	works(gmem_slot_get_memory(slot, &memory));
	works(gmem_vm_get_stats(race->vm, &stats));
	ck_assert_uint_le(memory.twice_bytes, size_of(race));
}

static void change_once(struct race *race, uint64_t random)
{
	unsigned int number = (unsigned int)(random >> 32) % RACE_PLACES;
	struct race_place *place = &race->place[number];
	bool choice = random >> 16 & 1;

	if (!place->slot) {
		bind(race, number, choice);
		return;
	}
	switch ((random >> 24) % 6) {
	case 0:
	case 1:
		unbind(place, choice);
		break;
	case 2:
		replace(race, number, choice);
		break;
	case 3:
		works(gmem_vm_discard(race->vm,
				      gpa_of(race, number) + (RACE_PAGES - 1) * race->page,
				      race->page));
		break;
	case 4:
		look(race, place->slot);
		break;
	default:
		reclaim(race);
	}
}

/* Each change is beside accesses: at least one comes between two of them. */
static void change_all(struct race *race)
{
	uint64_t random = 88172645463325252U;

	for (unsigned int i = 0; i < race->rounds; i++) {
		uint64_t missed = atomic_load(&race->missed), found = atomic_load(&race->found);

		change_once(race, next_random(&random));
		if (race->tick && i % 64 == 0)
			race->tick(race->data);
		while (atomic_load(&race->missed) == missed && atomic_load(&race->found) == found)
			sched_yield();
	}
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

void race_run(struct race *race)
{
	static void *(*const parts[])(void *) = {
		read_all_the_time,    read_all_the_time,    map_all_the_time,
		convert_all_the_time, convert_all_the_time, listen_all_the_time,
	};
	const unsigned int count = race->has_private ? READERS + 1 + CONVERTERS + 1 : READERS + 1;
	struct racer racers[READERS + 1 + CONVERTERS + 1];

	for (unsigned int i = 0; i < count; i++) {
		racers[i] = (struct racer){
			.race = race, .number = i, .random = 0x9e3779b97f4a7c15U * (i + 1)};
		ck_assert_int_eq(pthread_create(&racers[i].thread, NULL, parts[i], &racers[i]), 0);
	}
	change_all(race);
	atomic_store(&race->over, true);
	for (unsigned int i = 0; i < count; i++)
		ck_assert_int_eq(pthread_join(racers[i].thread, NULL), 0);
}

void race_end(struct race *race)
{
	struct gmem_stats stats = {.sz = sizeof(stats)};

	ck_assert_uint_gt(atomic_load(&race->found), 0);
	ck_assert_uint_gt(atomic_load(&race->missed), 0);
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
