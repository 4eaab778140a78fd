/* SPDX-License-Identifier: MIT */
/*
 * What the guest (hello-guest-x86.S, hello-guest-arm64.S) and its VMM (hello-guest.c) agree on.
 * Only macros: the assembler reads this too.
 */
#ifndef HELLO_GUEST_H
#define HELLO_GUEST_H

#include "guest.h"

#define GUEST_REPORT_PAGES 256 /* one progress report for so many; a power of two */

/* What the guest says, and to which port. A value of 8 bytes takes two, the low half first. */
#define GUEST_PORT_PROGRESS   0x10 /* pages done in this step */
#define GUEST_PORT_STEP_DONE  0x14 /* GUEST_STEP_*: this step has ended well */
#define GUEST_PORT_SUM_LOW    0x18 /* the checksum */
#define GUEST_PORT_SUM_HIGH   0x1c
#define GUEST_PORT_WRONG      0x20 /* address of the first wrong word: the last thing said, ... */
#define GUEST_PORT_FOUND_LOW  0x24 /* ... but for what was found there */
#define GUEST_PORT_FOUND_HIGH 0x28

/* What the guest does, in this order. */
#define GUEST_STEP_FILL	  0
#define GUEST_STEP_VERIFY 1
#define GUEST_STEP_SUM	  2
#define GUEST_STEP_ZEROS  3
#define GUEST_STEP_COUNT  4

#endif /* HELLO_GUEST_H */
