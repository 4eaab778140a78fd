/* SPDX-License-Identifier: MIT */
/*
 * The guest on x86-64, without stack, data or interrupts: 16-bit code that does one thing, and
 * 64-bit code that makes hypercalls.
 */
	.section .rodata
	.globl guest_code
	.globl guest_code_size
	.globl guest_code_store
	.globl guest_code_load
	.globl guest_code_count
	.globl guest_code_await
	.globl guest_code_call
	.globl guest_code_work

#define PRESENT_WRITABLE_USED 0x63
#define LARGE		      0x80

#define MAP_GPA_RANGE 12
#define PRIVATE_BIT   4

/*
 * The whole of the 64-bit code's page tables: this page is the table of each level. Its first entry
 * is to lead to itself (see guest-x86.c), which puts the page at address 0. The others put the
 * guest's memory at 1 GiB and above. As they say that all was used, nothing is written here.
 */
	.balign 64
guest_code:
	.quad	PRESENT_WRITABLE_USED
	.irp	gib, 0, 1, 2, 3, 4, 5, 6
	.quad	\gib << 30 | PRESENT_WRITABLE_USED | LARGE
	.endr

/*
 *   ds:bx  the address
 *   eax    what to store, or what was loaded
 *   ecx    how often to count
 *   dx     a port, to which the VMM pays no heed
 */
	.code16
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

	.code64
/* r15: whether the processor is AMD's, each maker having an instruction of its own. */
	.macro	hypercall
	test	%r15, %r15
	jz	1f
	vmmcall
	jmp	2f
1:	vmcall
2:
	.endm

/* All registers are given, and answered. */
guest_code_call:
	hypercall
	hlt

/*
 * Work on a region's pages: write to them, see that all hold what was written last, and have some
 * converted, which are then written anew; and so on. What a page holds depends on its address and
 * on the round in which it was written, which is noted elsewhere: in the ledger.
 *
 *   rdi  the region          r8   its guest address
 *   rsi  pages in it         r9   rounds
 *   rbp  the ledger          r10  state of the random numbers
 *   r11  an odd number, by which rounds are multiplied
 *
 *   rax  0: all is well; 1: the page at rbx is not as it was; else the hypercall's error
 *
 *   r12, r13  the first page to write, and how many
 */
guest_code_work:
	xor	%r12d, %r12d
	mov	%rsi, %r13

	/* Page rcx is at rbx, and shall hold rax, if written in round rax. */
	.macro	locate
	imul	%r11, %rax
	mov	%rcx, %rbx
	shl	$12, %rbx
	add	%rdi, %rbx
	xor	%rbx, %rax
	.endm

.Lwrite:
	mov	%r12, %rcx
1:	mov	%r9, %rax
	mov	%rax, (%rbp, %rcx, 8)
	locate
	mov	%rax, (%rbx)
	mov	%rax, 2048(%rbx)
	mov	%rax, 4088(%rbx)
	inc	%rcx
	dec	%r13
	jnz	1b

	xor	%ecx, %ecx
1:	mov	(%rbp, %rcx, 8), %rax
	locate
	cmp	%rax, (%rbx)
	jne	.Llost
	cmp	%rax, 2048(%rbx)
	jne	.Llost
	cmp	%rax, 4088(%rbx)
	jne	.Llost
	inc	%rcx
	cmp	%rsi, %rcx
	jb	1b

	xor	%eax, %eax
	dec	%r9
	jz	.Lend

	/* The upper half of a random number is the first page, the lower half how many. */
	movabs	$6364136223846793005, %rax
	imul	%rax, %r10
	inc	%r10
	mov	%r10, %rax
	shr	$34, %rax
	xor	%edx, %edx
	div	%rsi
	mov	%rdx, %r12
	mov	%r10, %rax
	shl	$32, %rax
	shr	$42, %rax
	mov	%rsi, %rcx
	sub	%r12, %rcx
	xor	%edx, %edx
	div	%rcx
	lea	1(%rdx), %r13

	mov	$MAP_GPA_RANGE, %eax
	mov	%r12, %rbx
	shl	$12, %rbx
	add	%r8, %rbx
	mov	%r13, %rcx
	mov	%r10, %rdx
	shr	$63, %rdx
	shl	$PRIVATE_BIT, %rdx
	hypercall
	test	%rax, %rax
	jz	.Lwrite
	hlt

.Llost:	mov	$1, %eax
.Lend:	hlt
guest_code_end:

	.balign 8
guest_code_size:
	.quad	guest_code_end - guest_code

	.section .note.GNU-stack, "", @progbits
