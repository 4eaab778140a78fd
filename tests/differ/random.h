/* SPDX-License-Identifier: MIT */
/* Numbers that look random and are the same on each run of a seed (splitmix64). */
#ifndef GMEM_DIFFER_RANDOM_H
#define GMEM_DIFFER_RANDOM_H

#include <stdbool.h>
#include <stdint.h>

struct random {
	uint64_t state;
};

static inline uint64_t random_next(struct random *random)
{
	uint64_t z = random->state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

/* 0 to limit - 1. */
static inline uint64_t random_below(struct random *random, uint64_t limit)
{
	return random_next(random) % limit;
}

/* Once in `times`. */
static inline bool random_once(struct random *random, uint64_t times)
{
	return random_below(random, times) == 0;
}

#endif
