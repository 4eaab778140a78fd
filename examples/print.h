/* SPDX-License-Identifier: MIT */
/*
 * A guest that prints: for each entry of a list it copies a text within its memory, and then tells
 * its VMM the text's address and length. Arguments, in this order: address of the list, how many
 * entries, at least one. The assembler reads this too.
 */
#ifndef PRINT_H
#define PRINT_H

#include "guest.h"

#define PRINT_PORT_ADDRESS 0x10
#define PRINT_PORT_LENGTH  0x14 /* the text is to be printed now */

/* Offsets in struct print_entry, and its size. */
#define PRINT_FROM   0
#define PRINT_TO     4
#define PRINT_COPY   8
#define PRINT_LENGTH 12
#define PRINT_SIZE   16

#ifndef __ASSEMBLER__
#include <stdint.h>

struct print_entry {
	uint32_t from;
	uint32_t to;
	uint32_t copy;	 /* bytes to copy, at least 1 */
	uint32_t length; /* bytes to print: what the guest says, true or not */
};

_Static_assert(sizeof(struct print_entry) == PRINT_SIZE, "the guest's size");
#endif

#endif /* PRINT_H */
