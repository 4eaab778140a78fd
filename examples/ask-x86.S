/* SPDX-License-Identifier: MIT */
#include "ask.h"
#include "guest.S"

/* r8: the ring, r9: how many questions */
	guest_begin ask_guest
	xor	%r10, %r10	/* the sum */
	xor	%ebx, %ebx	/* questions asked */
batch:
	xor	%edx, %edx
put:
	mov	%ebx, ASK_ENTRIES(%r8,%rdx,4)
	inc	%ebx
	inc	%edx
	cmp	$ASK_RING, %edx
	jne	put
	mov	%ebx, ASK_ASKED(%r8)	/* stores become visible in their order */
wait:
	pause
	cmp	%ebx, ASK_ANSWERED(%r8)
	jne	wait
	xor	%edx, %edx
get:
	mov	ASK_ENTRIES(%r8,%rdx,4), %eax
	add	%rax, %r10
	inc	%edx
	cmp	$ASK_RING, %edx
	jne	get
	cmp	%r9, %rbx
	jne	batch
	mov	%r10, %rax
	say	ASK_PORT_SUM_LOW
	shr	$32, %rax
	say	ASK_PORT_SUM_HIGH

	guest_end ask_guest
