/* SPDX-License-Identifier: MIT */
/*
 * The guest on x86-64. hello-guest.c passes in registers:
 *
 *   r8   address of the memory to test
 *   r9   its length in pages
 *   r10  value of each word in the first page
 *   r11  what is added to the value from page to page
 *   r12  address of the memory that must read as zeros in the last step
 *   r13  its length in pages
 *   r14  words in a page
 *
 * KVM may have to emulate each instruction, which costs microseconds. String instructions are the
 * cheap way to touch much memory then: one instruction does a page.
 */
#include "hello-guest.h"
#include "guest.S"

/* Count the page that was just done in rbx, and tell the VMM of it now and then. Keeps rax. */
	.macro count_page
	inc	%rbx
	test	$(GUEST_REPORT_PAGES - 1), %ebx
	jnz	.Lquiet\@
	xchg	%rax, %rbx
	say	GUEST_PORT_PROGRESS
	xchg	%rax, %rbx
.Lquiet\@:
	.endm

	.macro step_done step
	mov	$\step, %eax
	say	GUEST_PORT_STEP_DONE
	.endm

	/* Send rax, low half first. Loses rax. */
	.macro send low, high
	say	\low
	shr	$32, %rax
	say	\high
	.endm

	guest_begin hello_guest
	cld

	/* Fill: all words of a page get the page's own value. */
	mov	%r8, %rdi
	mov	%r10, %rax
	xor	%ebx, %ebx
fill_page:
	mov	%r14d, %ecx
	rep stosq
	add	%r11, %rax
	count_page
	cmp	%r9, %rbx
	jne	fill_page
	step_done GUEST_STEP_FILL

	/* Verify: compare every word with what was written. */
	mov	%r8, %rdi
	mov	%r10, %rax
	xor	%ebx, %ebx
verify_page:
	mov	%r14d, %ecx
	repe scasq
	jne	wrong
	add	%r11, %rax
	count_page
	cmp	%r9, %rbx
	jne	verify_page
	step_done GUEST_STEP_VERIFY

	/* Sum: the first word of every page; turning the sum makes the order count. */
	mov	%r8, %rdi
	xor	%eax, %eax
	xor	%ebx, %ebx
sum_page:
	rol	$1, %rax
	add	(%rdi), %rax
	lea	(%rdi,%r14,8), %rdi
	count_page
	cmp	%r9, %rbx
	jne	sum_page
	send	GUEST_PORT_SUM_LOW, GUEST_PORT_SUM_HIGH
	step_done GUEST_STEP_SUM

	/* Zeros: at the last `out` the VMM has discarded this memory. */
	mov	%r12, %rdi
	xor	%eax, %eax
	xor	%ebx, %ebx
zeros_page:
	mov	%r14d, %ecx
	repe scasq
	jne	wrong
	count_page
	cmp	%r13, %rbx
	jne	zeros_page
	step_done GUEST_STEP_ZEROS
	jmp	guest_halt

	/* scasq has gone one word past the wrong one. Read it again; say where and what it is. */
wrong:
	sub	$8, %rdi
	mov	%edi, %eax
	say	GUEST_PORT_WRONG
	mov	(%rdi), %rax
	send	GUEST_PORT_FOUND_LOW, GUEST_PORT_FOUND_HIGH

	guest_end hello_guest
