/* SPDX-License-Identifier: MIT */
#include "print.h"
#include "guest.S"

/* x8: the list, x9: entries */
	guest_begin print_guest
entry:
	ldr	w1, [x8, #PRINT_FROM]
	ldr	w2, [x8, #PRINT_TO]
	ldr	w3, [x8, #PRINT_COPY]
copy:
	ldrb	w0, [x1], #1
	strb	w0, [x2], #1
	subs	w3, w3, #1
	b.ne	copy
	ldr	w0, [x8, #PRINT_TO]
	say	PRINT_PORT_ADDRESS
	ldr	w0, [x8, #PRINT_LENGTH]
	say	PRINT_PORT_LENGTH
	add	x8, x8, #PRINT_SIZE
	subs	x9, x9, #1
	b.ne	entry
	b	guest_halt

	guest_end print_guest
