/* SPDX-License-Identifier: MIT */
/*
 * The guest on x86-64: 16-bit code without stack, data or interrupts. In registers:
 *
 *   ds:bx  the address
 *   eax    what to store, or what was loaded
 *   ecx    how often to count
 *   dx     a port, to which the VMM pays no heed
 */
	.section .rodata
	.globl guest_code
	.globl guest_code_size
	.globl guest_code_store
	.globl guest_code_load
	.globl guest_code_count
	.globl guest_code_await

	.code16
guest_code:

guest_code_store:
	mov	%eax, (%bx)
	out	%al, %dx
	hlt

guest_code_load:
	mov	(%bx), %eax
	hlt

guest_code_count:
	incl	(%bx)
	dec	%ecx
	jnz	guest_code_count
	hlt

guest_code_await:
	mov	(%bx), %eax
	test	%eax, %eax
	jz	guest_code_await
	hlt
guest_code_end:

	.balign 8
guest_code_size:
	.quad	guest_code_end - guest_code

	.section .note.GNU-stack, "", @progbits
