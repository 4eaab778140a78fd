/* SPDX-License-Identifier: MIT */
#include "walk.h"
#include "guest.S"

/* r8: the memory, r9: bytes in a page, r10: address of the word */
	guest_begin walk_guest
round:
	mov	(%r10), %rdx
	test	%rdx, %rdx
	jz	guest_halt
	mov	%r8, %rdi
	xor	%ebx, %ebx	/* pages walked */
	xor	%ecx, %ecx	/* pages that were empty */
page:
	inc	%rbx
	mov	(%rdi), %rax
	cmp	%rbx, %rax
	je	next
	test	%rax, %rax
	jnz	wrong
	mov	%rbx, (%rdi)
	inc	%ecx
next:
	add	%r9, %rdi
	cmp	%rdx, %rbx
	jne	page
	mov	%ecx, %eax
	say	WALK_PORT_EMPTY
	mov	%edx, %eax
	say	WALK_PORT_PAGES
	jmp	round

wrong:
	mov	%ebx, %eax
	say	WALK_PORT_WRONG

	guest_end walk_guest
