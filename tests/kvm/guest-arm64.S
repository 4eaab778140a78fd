/* SPDX-License-Identifier: MIT */
/*
 * The guest on arm64: position-independent code without stack, data or interrupts. In registers:
 *
 *   x0  the address
 *   w1  what to store, how often to count, or what was loaded
 *   x2  an address without memory: a store to it is what halts the guest
 */
	.section .rodata
	.globl guest_code
	.globl guest_code_size
	.globl guest_code_store
	.globl guest_code_load
	.globl guest_code_count
	.globl guest_code_await

/*
 * The whole of its page tables: eight blocks of 1 GiB, each where it is, read and written as normal
 * memory (attributes 0 of MAIR_EL1, inner shareable, accessed).
 */
	.balign 64
guest_code:
	.irp	gib, 0, 1, 2, 3, 4, 5, 6, 7
	.quad	\gib << 30 | 0x701
	.endr

guest_code_store:
	str	w1, [x0]
	str	wzr, [x2]

guest_code_load:
	ldr	w1, [x0]
	str	wzr, [x2]

guest_code_count:
	ldr	w3, [x0]
	add	w3, w3, #1
	str	w3, [x0]
	subs	w1, w1, #1
	b.ne	guest_code_count
	str	wzr, [x2]

guest_code_await:
	ldr	w1, [x0]
	cbz	w1, guest_code_await
	str	wzr, [x2]
guest_code_end:

	.balign 8
guest_code_size:
	.quad	guest_code_end - guest_code

	.section .note.GNU-stack, "", %progbits
