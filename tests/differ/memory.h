/* SPDX-License-Identifier: MIT */
/* Memory without the library: bytes that may not be there, and sets of addresses in a list. */
#ifndef GMEM_DIFFER_MEMORY_H
#define GMEM_DIFFER_MEMORY_H

#include "step.h"

struct memory_run {
	unsigned char *addr;
	uint64_t size;
};

/* From or to memory of this process that may not be there: 0, or -EFAULT. */
int memory_copy(unsigned char *memory, unsigned char *bytes, uint64_t size, bool write);

/* STEP_BYTES bytes, another pattern for each value. */
void memory_fill(unsigned char *bytes, uint64_t value);
uint64_t memory_sum(const unsigned char *bytes, size_t size);

/* Addresses, in disjoint ranges of no order. */
struct memory_set {
	unsigned int count;
	uint64_t starts[1024];
	uint64_t ends[1024];
};

void memory_paint(struct memory_set *set, uint64_t start, uint64_t end, bool in);

/* Whether an address is in the set; else the run at it is cut where the set begins. */
bool memory_cut(const struct memory_set *set, uint64_t address, struct memory_run *run);

#endif
