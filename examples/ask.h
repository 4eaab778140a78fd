/* SPDX-License-Identifier: MIT */
/*
 * A guest that has its questions answered by another process, through a ring in its memory: no exit
 * of the vCPU takes part. The guest puts ASK_RING numbers into the ring, raises `asked`, and waits
 * until `answered` is the same; the other process has then replaced each number by its square.
 * The guest adds all of them. Arguments, in this order: address of struct ring, how many questions,
 * a multiple of ASK_RING. The assembler reads this too.
 */
#ifndef ASK_H
#define ASK_H

#include "guest.h"

#define ASK_RING 64

/* Offsets in struct ring. Each index has a cache line of its own. */
#define ASK_ASKED    0
#define ASK_ANSWERED 64
#define ASK_ENTRIES  128

/* The sum of all answers, the low half first. Then it halts. */
#define ASK_PORT_SUM_LOW  0x10
#define ASK_PORT_SUM_HIGH 0x14

#ifndef __ASSEMBLER__
#include <stddef.h>
#include <stdint.h>

struct ring {
	uint32_t asked; /* written by the guest */
	uint32_t pad1[15];
	uint32_t answered; /* written by the other process */
	uint32_t pad2[15];
	uint32_t entries[ASK_RING];
};

_Static_assert(offsetof(struct ring, answered) == ASK_ANSWERED, "the guest's offset");
_Static_assert(offsetof(struct ring, entries) == ASK_ENTRIES, "the guest's offset");
#endif

#endif /* ASK_H */
