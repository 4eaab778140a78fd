/* SPDX-License-Identifier: MIT */
/* A set of numbers as ranges: private guest addresses, allocated bytes of a file. */
#ifndef GMEM_FAKE_RANGES_H
#define GMEM_FAKE_RANGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct gmem_fake_range {
	uint64_t start, end;
};

/* All zero is the empty set. */
struct gmem_fake_ranges {
	struct gmem_fake_range *at; /* in order, none touches the next */
	size_t count, room;
};

/* Whether a number is in the set. `until`, if not NULL: where that changes, or UINT64_MAX. */
bool gmem_fake_ranges_find(const struct gmem_fake_ranges *ranges, uint64_t number, uint64_t *until);

/* Put [start, end) in or take it out. False: no memory, and nothing has changed. */
bool gmem_fake_ranges_set(struct gmem_fake_ranges *ranges, uint64_t start, uint64_t end, bool in);

void gmem_fake_ranges_clear(struct gmem_fake_ranges *ranges);

#endif
