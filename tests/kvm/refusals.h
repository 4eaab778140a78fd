/* SPDX-License-Identifier: MIT */
/* Slots that the library refuses before it makes an ioctl, and what they need around them. */
#ifndef GMEM_TEST_REFUSALS_H
#define GMEM_TEST_REFUSALS_H

#include "fixture.h"

/* Guest addresses in pages: where the one slot is, and where nothing is. */
#define CROWD_BOUND_PAGE UINT64_C(0x100)
#define CROWD_FREE_PAGE	 UINT64_C(0x400)

/* A VM with something of each kind that can be in the way. */
struct crowd {
	struct traces before;
	struct gmem_vm *vm, *other_vm;
	size_t page;
	uint64_t gpa_end, hva_end;    /* page numbers */
	struct gmem_memfd *memfds[7]; /* of 8 pages each */
	struct gmem_map *maps[5];
	struct gmem_memfd *shared; /* one of them; its first two pages are bound */
	struct gmem_slot *bound;
	char *memory;
};

void crowd_open(struct crowd *crowd);
/* Sees that nothing is left. */
void crowd_close(struct crowd *crowd);

struct refusal {
	struct gmem_slot_opts opts;
	int error; /* positive */
	enum gmem_reason reason;
};

extern const int refusal_count;
struct refusal refusal_get(const struct crowd *crowd, int i);

#endif
