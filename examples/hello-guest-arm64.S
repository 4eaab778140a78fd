/* SPDX-License-Identifier: MIT */
/*
 * The guest on arm64. hello-guest.c passes in registers:
 *
 *   x8   address of the memory to test
 *   x9   its length in pages
 *   x10  value of each word in the first page
 *   x11  what is added to the value from page to page
 *   x12  address of the memory that must read as zeros in the last step
 *   x13  its length in pages
 *   x14  words in a page
 *   x15  address of port 0, from cpu-arm64.c
 */
#include "hello-guest.h"
#include "guest.S"

/* Count the page that was just done in x2, and tell the VMM of it now and then. */
	.macro count_page
	add	x2, x2, #1
	tst	x2, #(GUEST_REPORT_PAGES - 1)
	b.ne	.Lquiet\@
	str	w2, [x15, #GUEST_PORT_PROGRESS]
.Lquiet\@:
	.endm

	.macro step_done step
	mov	w3, #\step
	str	w3, [x15, #GUEST_PORT_STEP_DONE]
	.endm

	/* Send x1, low half first. Loses x1. */
	.macro send low, high
	str	w1, [x15, #\low]
	lsr	x1, x1, #32
	str	w1, [x15, #\high]
	.endm

	guest_begin hello_guest
	/* Fill: all words of a page get the page's own value. */
	mov	x0, x8
	mov	x1, x10
	mov	x2, #0
fill_page:
	mov	x3, x14
fill_words:
	stp	x1, x1, [x0], #16
	subs	x3, x3, #2
	b.ne	fill_words
	add	x1, x1, x11
	count_page
	cmp	x2, x9
	b.ne	fill_page
	step_done GUEST_STEP_FILL

	/* Verify: compare every word with what was written. */
	mov	x0, x8
	mov	x1, x10
	mov	x2, #0
verify_page:
	mov	x3, x14
verify_word:
	ldr	x4, [x0], #8
	cmp	x4, x1
	b.ne	wrong
	subs	x3, x3, #1
	b.ne	verify_word
	add	x1, x1, x11
	count_page
	cmp	x2, x9
	b.ne	verify_page
	step_done GUEST_STEP_VERIFY

	/* Sum: the first word of every page; turning the sum makes the order count. */
	mov	x0, x8
	mov	x1, #0
	mov	x2, #0
sum_page:
	ldr	x4, [x0]
	ror	x1, x1, #63
	add	x1, x1, x4
	add	x0, x0, x14, lsl #3
	count_page
	cmp	x2, x9
	b.ne	sum_page
	send	GUEST_PORT_SUM_LOW, GUEST_PORT_SUM_HIGH
	step_done GUEST_STEP_SUM

	/* Zeros: after the last store the VMM has discarded this memory. */
	mov	x0, x12
	mov	x2, #0
zeros_page:
	mov	x3, x14
zeros_word:
	ldr	x4, [x0], #8
	cbnz	x4, wrong
	subs	x3, x3, #1
	b.ne	zeros_word
	count_page
	cmp	x2, x13
	b.ne	zeros_page
	step_done GUEST_STEP_ZEROS
	b	guest_halt

	/* The load has gone one word past the wrong one. Say where and what it is. */
wrong:
	sub	x0, x0, #8
	str	w0, [x15, #GUEST_PORT_WRONG]
	mov	x1, x4
	send	GUEST_PORT_FOUND_LOW, GUEST_PORT_FOUND_HIGH
	b	guest_halt

	guest_end hello_guest
