/* SPDX-License-Identifier: MIT */
/*
 * A set of disjoint intervals, in order: what is bound where, in guest addresses or in a file.
 * A B+ tree, so that a search touches few cache lines at 32,764 slots.
 *
 * One writer at a time (the caller's lock); any number of readers beside it, which take no lock
 * and write nothing: they check a sequence number around each step. Nodes are freed only with the
 * set, so that a reader overtaken by a writer reads stale numbers, never freed memory.
 */
#ifndef GMEM_INTERVAL_H
#define GMEM_INTERVAL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct gmem_interval {
	uint64_t start;
	uint64_t end;  /* exclusive */
	uint64_t word; /* for readers; 0: taken, but not to be found by them */
	uint32_t id;   /* for the writer: whose it is */
};

struct gmem_interval_node;

struct gmem_interval_set {
	_Atomic uint64_t sequence; /* odd while a writer is at work */
	_Atomic(struct gmem_interval_node *) root;
	_Atomic uint32_t height; /* levels above the leaves */
	struct gmem_interval_node *all;
	struct gmem_interval_node *spare;
	size_t spares;
	size_t count;
};

void gmem_interval_init(struct gmem_interval_set *set);
void gmem_interval_fini(struct gmem_interval_set *set);

/* Make sure that the next `insertions` insertions need no memory. -ENOMEM, or 0. */
int gmem_interval_reserve(struct gmem_interval_set *set, size_t insertions);

/* Add an interval that overlaps none in the set; room for it has been reserved. */
void gmem_interval_insert(struct gmem_interval_set *set, const struct gmem_interval *interval);

/* Remove the interval that starts at `start`, which must be there. */
void gmem_interval_remove(struct gmem_interval_set *set, uint64_t start);

/* Change the reader's word of the interval that starts at `start`, which must be there. */
void gmem_interval_set_word(struct gmem_interval_set *set, uint64_t start, uint64_t word);

/* Writer: the lowest interval that ends after `point`, wherever it starts. */
bool gmem_interval_find(struct gmem_interval_set *set, uint64_t point, struct gmem_interval *found);

/*
 * Give [start, end) the reader's word, whatever was there, for readers at one moment; 0 takes it
 * out. Intervals are cut at both ends, and neighbours with the same word become one; ids are lost.
 * Room for GMEM_INTERVAL_ASSIGN insertions has been reserved.
 */
#define GMEM_INTERVAL_ASSIGN 3
void gmem_interval_assign(struct gmem_interval_set *set, uint64_t start, uint64_t end,
			  uint64_t word);

/*
 * Reader: the interval that holds `point` and has a word. `id` is not filled in. 1 found, 0 there
 * is none, -EAGAIN: a writer has been in the way for long, perhaps one that this thread has
 * preempted and that only goes on when this thread sleeps.
 */
int gmem_interval_lookup(const struct gmem_interval_set *set, uint64_t point,
			 struct gmem_interval *found);

/*
 * Reader: what [point, *end) has in common: an interval's word, or 0 where there is none. Its end
 * is that of the interval, or where the next begins, or UINT64_MAX. 0, or -EAGAIN as above.
 */
int gmem_interval_lookup_run(const struct gmem_interval_set *set, uint64_t point, uint64_t *word,
			     uint64_t *end);

#endif
