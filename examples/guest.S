/* SPDX-License-Identifier: MIT */
/*
 * What makes assembly a guest; included by each. A guest is position-independent code without
 * stack, data or interrupts, which is copied to CODE_GPA and started at its first byte.
 */

	.macro guest_begin name
	.section .rodata
	.balign 16
	.globl \name\()_begin
	.globl \name\()_end
	.hidden \name\()_begin
	.hidden \name\()_end
\name\()_begin:
	.endm

	/* Where a guest goes when it is done. On arm64 exceptions, if any, come here too. */
	.macro guest_end name
#ifdef __x86_64__
guest_halt:
	hlt
#else
	.org	\name\()_begin + 0x200	/* VBAR_EL1 is the first byte */
guest_halt:
	movz	w0, #0x8400, lsl #16	/* SYSTEM_OFF of PSCI */
	movk	w0, #0x0008
	hvc	#0
#endif
\name\()_end:
	.section .note.GNU-stack, "", %progbits
	.endm

	/* Write eax, or w0, to a port. */
	.macro say port
#ifdef __x86_64__
	out	%eax, $\port
#else
	str	w0, [x15, #\port]
#endif
	.endm
