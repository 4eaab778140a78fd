/* SPDX-License-Identifier: MIT */
/*
 * A guest that walks its memory page by page, again and again: an empty page gets its number, 1 for
 * the first, and any other must hold it. How far it walks is told by a word in memory that the VMM
 * may change at any time; 0 ends it. Arguments, in this order: address of the memory, bytes in a
 * page, address of the word. The assembler reads this too.
 */
#ifndef WALK_H
#define WALK_H

#include "guest.h"

/* Said after each round, in this order. */
#define WALK_PORT_EMPTY 0x10 /* pages that were empty */
#define WALK_PORT_PAGES 0x14 /* pages walked: the word, as it was before the round */

#define WALK_PORT_WRONG 0x18 /* the number of a page that holds something else; then it halts */

#endif /* WALK_H */
