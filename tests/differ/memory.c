/* SPDX-License-Identifier: MIT */
#include "memory.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

int memory_copy(unsigned char *memory, unsigned char *bytes, uint64_t size, bool write)
{
	struct iovec here = {.iov_base = bytes, .iov_len = size};
	struct iovec there = {.iov_base = memory, .iov_len = size};
	ssize_t done = write ? process_vm_writev(getpid(), &here, 1, &there, 1, 0)
			     : process_vm_readv(getpid(), &here, 1, &there, 1, 0);

	return done == (ssize_t)size ? 0 : -EFAULT;
}

void memory_fill(unsigned char *bytes, uint64_t value)
{
	for (unsigned int i = 0; i < STEP_BYTES; i++)
		bytes[i] = (unsigned char)((value >> i % 8 * 8) + i / 8);
}

uint64_t memory_sum(const unsigned char *bytes, size_t size)
{
	uint64_t sum = UINT64_C(0xcbf29ce484222325); /* FNV-1a */

	for (size_t i = 0; i < size; i++)
		sum = (sum ^ bytes[i]) * UINT64_C(0x100000001b3);
	return sum;
}

static void add(struct memory_set *set, uint64_t start, uint64_t end)
{
	if (set->count == sizeof(set->starts) / sizeof(set->starts[0]))
		abort(); /* a VM does not live that long */
	set->starts[set->count] = start;
	set->ends[set->count++] = end;
}

void memory_paint(struct memory_set *set, uint64_t start, uint64_t end, bool in)
{
	for (unsigned int i = set->count; i-- > 0;) {
		uint64_t old_start = set->starts[i], old_end = set->ends[i];

		if (old_start >= end || old_end <= start)
			continue;
		set->count--;
		set->starts[i] = set->starts[set->count];
		set->ends[i] = set->ends[set->count];
		if (old_start < start)
			add(set, old_start, start);
		if (old_end > end)
			add(set, end, old_end);
	}
	if (in)
		add(set, start, end);
}

bool memory_cut(const struct memory_set *set, uint64_t address, struct memory_run *run)
{
	for (unsigned int i = 0; i < set->count; i++) {
		if (address >= set->starts[i] && address < set->ends[i])
			return true;
		if (set->starts[i] > address && set->starts[i] - address < run->size)
			run->size = set->starts[i] - address;
	}
	return false;
}
