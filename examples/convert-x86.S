/* SPDX-License-Identifier: MIT */
#include "convert.h"
#include "guest.S"

#define HC_MAP_GPA_RANGE 12

/* r8: the list, r9: bytes in a page, r10: not 0: vmmcall */
	guest_begin convert_guest
entry:
	mov	CONVERT_WHAT(%r8), %eax
	mov	CONVERT_GPA(%r8), %rbx
	mov	CONVERT_PAGES(%r8), %rcx
	mov	CONVERT_VALUE(%r8), %rdx
	cmp	$CONVERT_WRITE, %eax
	je	write
	cmp	$CONVERT_CHECK, %eax
	je	check
	cmp	$CONVERT_ASK, %eax
	je	ask
	jmp	guest_halt

write:
	mov	%rdx, (%rbx)
	inc	%rdx
	add	%r9, %rbx
	dec	%rcx
	jnz	write
	jmp	good

check:
	cmp	%rdx, (%rbx)
	jne	bad
	inc	%rdx
	add	%r9, %rbx
	dec	%rcx
	jnz	check

good:
	xor	%eax, %eax
	jmp	report
bad:
	mov	$1, %eax
	jmp	report

	/* The number in rax, arguments in rbx, rcx and rdx, the answer in rax. */
ask:
	mov	$HC_MAP_GPA_RANGE, %eax
	test	%r10, %r10
	jnz	ask_amd
	vmcall
	jmp	report
ask_amd:
	vmmcall

report:
	say	CONVERT_PORT_RESULT
	add	$CONVERT_SIZE, %r8
	jmp	entry

	guest_end convert_guest
