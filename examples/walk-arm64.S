/* SPDX-License-Identifier: MIT */
#include "walk.h"
#include "guest.S"

/* x8: the memory, x9: bytes in a page, x10: address of the word */
	guest_begin walk_guest
round:
	ldr	x2, [x10]
	cbz	x2, guest_halt
	mov	x3, x8
	mov	x1, #0		/* pages walked */
	mov	x4, #0		/* pages that were empty */
page:
	add	x1, x1, #1
	ldr	x0, [x3]
	cmp	x0, x1
	b.eq	next
	cbnz	x0, wrong
	str	x1, [x3]
	add	x4, x4, #1
next:
	add	x3, x3, x9
	cmp	x1, x2
	b.ne	page
	mov	w0, w4
	say	WALK_PORT_EMPTY
	mov	w0, w2
	say	WALK_PORT_PAGES
	b	round

wrong:
	mov	w0, w1
	say	WALK_PORT_WRONG
	b	guest_halt

	guest_end walk_guest
