/* SPDX-License-Identifier: MIT */
/*
 * Memory order. The writer makes `sequence` odd, changes nodes with release stores, and makes it
 * even again. A reader loads with acquire: if it saw any of the changes it also sees that
 * `sequence` has moved, and tries again. So no fence is needed, and ThreadSanitizer can follow.
 * `sequence` itself is sequentially consistent where a reader begins and a writer ends: the guard
 * in inflight.c relies on one order of these with its own flags.
 */
#include "interval.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

/* A power of two. A test can have it smaller: few intervals make a deep tree then. */
#ifndef FANOUT
#define FANOUT 64
#endif

/*
 * A node, at any level. In a leaf, entry i is an interval. Above, start[i] is the lowest start
 * below child i, which is kept in word[i].
 */
struct gmem_interval_node {
	_Atomic uint32_t count;
	_Atomic uint64_t start[FANOUT];
	_Atomic uint64_t end[FANOUT];
	_Atomic uint64_t word[FANOUT];
	uint32_t id[FANOUT];
	struct gmem_interval_node *next_spare;
	struct gmem_interval_node *next_all;
};

/* Each level takes FANOUT / 2 times the insertions, over the set's life, of the one below. */
#define LEVELS_MAX (64 / __builtin_ctz(FANOUT / 2) + 2)

/* Pauses of a reader, of some 40 ns each, before it says that it cannot get through. */
#define TRIES_MAX 1000

/* The way from the root, at [height], to a leaf, at [0]. */
struct path {
	struct gmem_interval_node *node[LEVELS_MAX];
	uint32_t index[LEVELS_MAX];
	uint32_t height;
};

static uint64_t get(const _Atomic uint64_t *value)
{
	return atomic_load_explicit(value, memory_order_acquire);
}

static void put(_Atomic uint64_t *value, uint64_t to)
{
	atomic_store_explicit(value, to, memory_order_release);
}

static uint32_t get_count(const struct gmem_interval_node *node)
{
	return atomic_load_explicit(&node->count, memory_order_acquire);
}

static void put_count(struct gmem_interval_node *node, uint32_t count)
{
	atomic_store_explicit(&node->count, count, memory_order_release);
}

static struct gmem_interval_node *child(const struct gmem_interval_node *node, uint32_t i)
{
	return (struct gmem_interval_node *)(uintptr_t)get(&node->word[i]);
}

/* The last entry that starts at or before `point`, or 0 where all start after it. */
static uint32_t floor_index(const struct gmem_interval_node *node, uint64_t point)
{
	uint32_t n = get_count(node);
	uint32_t base = 0;

	while (n > 1) {
		uint32_t half = n / 2;

		base = get(&node->start[base + half]) <= point ? base + half : base;
		n -= half;
	}
	return base;
}

/* ---- Readers ---- */

static void pause_cpu(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

/*
 * One try; false where a writer came between. `next`, unless NULL, is set to the lowest start after
 * that of the entry found, or left alone where there is none: a constant of each caller, so that
 * who does not ask does not pay.
 */
static inline __attribute__((always_inline)) bool try_lookup(const struct gmem_interval_set *set,
							     uint64_t point, uint64_t sequence,
							     struct gmem_interval *found,
							     uint64_t *next)
{
	const struct gmem_interval_node *node =
		atomic_load_explicit(&set->root, memory_order_acquire);
	uint32_t height = atomic_load_explicit(&set->height, memory_order_acquire);
	uint32_t i;

	/* A pointer is followed only after it is known to belong to this sequence. */
	for (; node && height > 0; height--) {
		if (get(&set->sequence) != sequence)
			return false;
		i = floor_index(node, point);
		if (next && i + 1 < get_count(node))
			*next = get(&node->start[i + 1]);
		node = child(node, i);
	}
	if (get(&set->sequence) != sequence)
		return false;
	*found = (struct gmem_interval){0};
	if (!node || get_count(node) == 0)
		return get(&set->sequence) == sequence;
	i = floor_index(node, point);
	found->start = get(&node->start[i]);
	found->end = get(&node->end[i]);
	found->word = get(&node->word[i]);
	if (next && i + 1 < get_count(node))
		*next = get(&node->start[i + 1]);
	return get(&set->sequence) == sequence;
}

int gmem_interval_lookup(const struct gmem_interval_set *set, uint64_t point,
			 struct gmem_interval *found)
{
	for (unsigned int tries = 0; tries < TRIES_MAX; tries++) {
		uint64_t sequence = atomic_load_explicit(&set->sequence, memory_order_seq_cst);

		if (!(sequence & 1) && try_lookup(set, point, sequence, found, NULL))
			return found->word && point >= found->start && point < found->end;
		pause_cpu();
	}
	return -EAGAIN;
}

int gmem_interval_lookup_run(const struct gmem_interval_set *set, uint64_t point, uint64_t *word,
			     uint64_t *end)
{
	for (unsigned int tries = 0; tries < TRIES_MAX; tries++) {
		uint64_t sequence = atomic_load_explicit(&set->sequence, memory_order_seq_cst);
		struct gmem_interval found;

		*end = UINT64_MAX;
		if (!(sequence & 1) && try_lookup(set, point, sequence, &found, end)) {
			bool inside = point >= found.start && point < found.end;

			*word = inside ? found.word : 0;
			if (inside)
				*end = found.end;
			else if (point < found.start)
				*end = found.start;
			return 0;
		}
		pause_cpu();
	}
	return -EAGAIN;
}

/* ---- The writer ---- */

static void write_begin(struct gmem_interval_set *set)
{
	uint64_t sequence = atomic_load_explicit(&set->sequence, memory_order_relaxed);

	/* Ordered before the changes by their release. */
	atomic_store_explicit(&set->sequence, sequence + 1, memory_order_relaxed);
}

static void write_end(struct gmem_interval_set *set)
{
	uint64_t sequence = atomic_load_explicit(&set->sequence, memory_order_relaxed);

	atomic_store_explicit(&set->sequence, sequence + 1, memory_order_seq_cst);
}

static struct gmem_interval_node *root_of(struct gmem_interval_set *set)
{
	return atomic_load_explicit(&set->root, memory_order_relaxed);
}

static uint32_t height_of(struct gmem_interval_set *set)
{
	return atomic_load_explicit(&set->height, memory_order_relaxed);
}

void gmem_interval_init(struct gmem_interval_set *set)
{
	*set = (struct gmem_interval_set){0};
}

void gmem_interval_fini(struct gmem_interval_set *set)
{
	while (set->all) {
		struct gmem_interval_node *node = set->all;

		set->all = node->next_all;
		free(node);
	}
}

static size_t spares_for(struct gmem_interval_set *set, size_t insertions)
{
	/* Most sets stay as small as one leaf: what a guest_memfd is bound to, or a VM's slots. */
	if (height_of(set) == 0 && insertions <= FANOUT - set->count)
		return root_of(set) ? 0 : 1;
	/* Each insertion may split a node on each level and add a root, which deepens the next. */
	return insertions * (height_of(set) + 1 + insertions);
}

int gmem_interval_reserve(struct gmem_interval_set *set, size_t insertions)
{
	size_t need = spares_for(set, insertions);

	while (set->spares < need) {
		struct gmem_interval_node *node = calloc(1, sizeof(*node));

		if (!node)
			return -ENOMEM;
		node->next_all = set->all;
		set->all = node;
		node->next_spare = set->spare;
		set->spare = node;
		set->spares++;
	}
	return 0;
}

static struct gmem_interval_node *take_spare(struct gmem_interval_set *set)
{
	struct gmem_interval_node *node = set->spare;

	assert(node);
	set->spare = node->next_spare;
	set->spares--;
	put_count(node, 0);
	return node;
}

static void give_spare(struct gmem_interval_set *set, struct gmem_interval_node *node)
{
	node->next_spare = set->spare;
	set->spare = node;
	set->spares++;
}

static void copy_entry(struct gmem_interval_node *to, uint32_t i,
		       const struct gmem_interval_node *from, uint32_t j)
{
	put(&to->start[i], get(&from->start[j]));
	put(&to->end[i], get(&from->end[j]));
	put(&to->word[i], get(&from->word[j]));
	to->id[i] = from->id[j];
}

static void put_entry(struct gmem_interval_node *node, uint32_t i,
		      const struct gmem_interval *entry)
{
	put(&node->start[i], entry->start);
	put(&node->end[i], entry->end);
	put(&node->word[i], entry->word);
	node->id[i] = entry->id;
}

static void insert_entry(struct gmem_interval_node *node, uint32_t i,
			 const struct gmem_interval *entry)
{
	uint32_t count = get_count(node);

	for (uint32_t j = count; j > i; j--)
		copy_entry(node, j, node, j - 1);
	put_entry(node, i, entry);
	put_count(node, count + 1);
}

static void remove_entry(struct gmem_interval_node *node, uint32_t i)
{
	uint32_t count = get_count(node);

	for (uint32_t j = i; j + 1 < count; j++)
		copy_entry(node, j, node, j + 1);
	put_count(node, count - 1);
}

static void descend(struct gmem_interval_set *set, uint64_t point, struct path *path)
{
	struct gmem_interval_node *node = root_of(set);

	path->height = height_of(set);
	for (uint32_t level = path->height;; level--) {
		path->node[level] = node;
		path->index[level] = node ? floor_index(node, point) : 0;
		if (level == 0)
			return;
		node = child(node, path->index[level]);
	}
}

/* The first start of the node at `level` has changed: tell the nodes above. */
static void update_start(struct path *path, uint32_t level)
{
	for (; level < path->height && get_count(path->node[level]) > 0; level++) {
		uint64_t start = get(&path->node[level]->start[0]);

		put(&path->node[level + 1]->start[path->index[level + 1]], start);
		if (path->index[level + 1] != 0)
			return;
	}
}

/* Whether nothing in the set comes after the node at `level`. */
static bool is_last(const struct path *path, uint32_t level)
{
	for (level++; level <= path->height; level++)
		if (path->index[level] + 1 < get_count(path->node[level]))
			return false;
	return true;
}

/*
 * Move the upper part of a full node into a new one, which is returned. Where the new entry goes
 * to the very end of the set, only that moves: a set filled in order gets full nodes. Elsewhere it
 * must not: entries that come in falling order would get a node each.
 */
static struct gmem_interval_node *split(struct gmem_interval_set *set, const struct path *path,
					uint32_t level, uint32_t at)
{
	struct gmem_interval_node *node = path->node[level];
	struct gmem_interval_node *upper = take_spare(set);
	uint32_t keep = at == FANOUT && is_last(path, level) ? FANOUT : FANOUT / 2;

	for (uint32_t i = keep; i < FANOUT; i++)
		copy_entry(upper, i - keep, node, i);
	put_count(upper, FANOUT - keep);
	put_count(node, keep);
	return upper;
}

static void grow_root(struct gmem_interval_set *set, struct gmem_interval_node *upper)
{
	struct gmem_interval_node *old = root_of(set);
	struct gmem_interval_node *root = take_spare(set);

	insert_entry(root, 0,
		     &(struct gmem_interval){.start = get(&old->start[0]),
					     .word = (uint64_t)(uintptr_t)old});
	insert_entry(root, 1,
		     &(struct gmem_interval){.start = get(&upper->start[0]),
					     .word = (uint64_t)(uintptr_t)upper});
	atomic_store_explicit(&set->root, root, memory_order_release);
	atomic_store_explicit(&set->height, height_of(set) + 1, memory_order_release);
}

/* Put an entry into the node at `level`, splitting it and those above where they are full. */
static void insert_at(struct gmem_interval_set *set, struct path *path, uint32_t level, uint32_t at,
		      const struct gmem_interval *entry)
{
	struct gmem_interval_node *node = path->node[level];
	struct gmem_interval_node *upper;

	if (get_count(node) < FANOUT) {
		insert_entry(node, at, entry);
		if (at == 0)
			update_start(path, level);
		return;
	}
	upper = split(set, path, level, at);
	if (at > get_count(node) || get_count(upper) == 0) {
		insert_entry(upper, at - get_count(node), entry);
	} else {
		insert_entry(node, at, entry);
		if (at == 0)
			update_start(path, level);
	}
	if (level == path->height)
		grow_root(set, upper);
	else
		insert_at(set, path, level + 1, path->index[level + 1] + 1,
			  &(struct gmem_interval){.start = get(&upper->start[0]),
						  .word = (uint64_t)(uintptr_t)upper});
}

static void insert(struct gmem_interval_set *set, const struct gmem_interval *interval)
{
	struct path path;
	uint32_t at;

	if (!root_of(set))
		atomic_store_explicit(&set->root, take_spare(set), memory_order_release);
	descend(set, interval->start, &path);
	at = path.index[0];
	if (get_count(path.node[0]) > 0 && get(&path.node[0]->start[at]) < interval->start)
		at++;
	insert_at(set, &path, 0, at, interval);
	set->count++;
}

void gmem_interval_insert(struct gmem_interval_set *set, const struct gmem_interval *interval)
{
	write_begin(set);
	insert(set, interval);
	write_end(set);
}

static void remove_at(struct gmem_interval_set *set, struct path *path, uint32_t level);

/*
 * Put child i + 1 of the node above `level` into child i, if both are half a node or less. So nodes
 * that are thinned out do not stay: two neighbours hold more than that.
 */
static bool join(struct gmem_interval_set *set, struct path *path, uint32_t level, uint32_t i)
{
	const struct gmem_interval_node *above = path->node[level + 1];
	struct gmem_interval_node *lower, *upper;
	uint32_t count;

	if (i + 1 >= get_count(above))
		return false;
	lower = child(above, i);
	upper = child(above, i + 1);
	count = get_count(lower);
	if (count + get_count(upper) > FANOUT / 2)
		return false;
	for (uint32_t j = 0; j < get_count(upper); j++)
		copy_entry(lower, count + j, upper, j);
	put_count(lower, count + get_count(upper));
	give_spare(set, upper);
	path->index[level + 1] = i + 1;
	remove_at(set, path, level + 1);
	return true;
}

/* Take the entry at the path's index out of the node at `level`, and empty nodes out of those
 * above. */
static void remove_at(struct gmem_interval_set *set, struct path *path, uint32_t level)
{
	struct gmem_interval_node *node = path->node[level];
	uint32_t i;

	remove_entry(node, path->index[level]);
	if (level == path->height)
		return;
	if (get_count(node) == 0) {
		give_spare(set, node);
		remove_at(set, path, level + 1);
		return;
	}
	if (path->index[level] == 0)
		update_start(path, level);
	i = path->index[level + 1];
	if (!join(set, path, level, i) && i > 0)
		join(set, path, level, i - 1);
}

static void shrink_root(struct gmem_interval_set *set)
{
	while (height_of(set) > 0 && get_count(root_of(set)) == 1) {
		struct gmem_interval_node *old = root_of(set);

		atomic_store_explicit(&set->root, child(old, 0), memory_order_release);
		atomic_store_explicit(&set->height, height_of(set) - 1, memory_order_release);
		give_spare(set, old);
	}
}

static void remove_start(struct gmem_interval_set *set, uint64_t start)
{
	struct path path;

	descend(set, start, &path);
	assert(path.node[0] && get(&path.node[0]->start[path.index[0]]) == start);
	remove_at(set, &path, 0);
	shrink_root(set);
	set->count--;
}

void gmem_interval_remove(struct gmem_interval_set *set, uint64_t start)
{
	write_begin(set);
	remove_start(set, start);
	write_end(set);
}

void gmem_interval_set_word(struct gmem_interval_set *set, uint64_t start, uint64_t word)
{
	struct path path;

	descend(set, start, &path);
	assert(path.node[0] && get(&path.node[0]->start[path.index[0]]) == start);
	write_begin(set);
	put(&path.node[0]->word[path.index[0]], word);
	write_end(set);
}

/* Step to the next entry; false at the end. */
static bool step(struct path *path)
{
	uint32_t level = 0;

	while (level <= path->height && path->index[level] + 1 >= get_count(path->node[level]))
		level++;
	if (level > path->height)
		return false;
	path->index[level]++;
	for (; level > 0; level--) {
		path->node[level - 1] = child(path->node[level], path->index[level]);
		path->index[level - 1] = 0;
	}
	return true;
}

bool gmem_interval_find(struct gmem_interval_set *set, uint64_t point, struct gmem_interval *found)
{
	const struct gmem_interval_node *leaf;
	struct path path;
	uint32_t i;

	if (set->count == 0)
		return false;
	descend(set, point, &path);
	if (get(&path.node[0]->end[path.index[0]]) <= point && !step(&path))
		return false;
	leaf = path.node[0];
	i = path.index[0];
	*found = (struct gmem_interval){
		.start = get(&leaf->start[i]),
		.end = get(&leaf->end[i]),
		.word = get(&leaf->word[i]),
		.id = leaf->id[i],
	};
	return true;
}

/* Take [start, end) out of whatever is there. */
static void cut(struct gmem_interval_set *set, uint64_t start, uint64_t end)
{
	struct gmem_interval found;

	while (gmem_interval_find(set, start, &found) && found.start < end) {
		struct gmem_interval lower = {.start = found.start, .end = start};
		struct gmem_interval upper = {.start = end, .end = found.end};

		lower.word = upper.word = found.word;
		remove_start(set, found.start);
		if (lower.start < lower.end)
			insert(set, &lower);
		if (upper.start < upper.end)
			insert(set, &upper);
	}
}

void gmem_interval_assign(struct gmem_interval_set *set, uint64_t start, uint64_t end,
			  uint64_t word)
{
	struct gmem_interval whole = {.start = start, .end = end, .word = word};
	struct gmem_interval other;

	if (start > 0 && gmem_interval_find(set, start - 1, &other) && other.start < start &&
	    other.word == word)
		whole.start = other.start;
	if (gmem_interval_find(set, end, &other) && other.start <= end && other.word == word)
		whole.end = other.end;
	write_begin(set);
	cut(set, whole.start, whole.end);
	if (word)
		insert(set, &whole);
	write_end(set);
}
