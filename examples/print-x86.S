/* SPDX-License-Identifier: MIT */
#include "print.h"
#include "guest.S"

/* r8: the list, r9: entries */
	guest_begin print_guest
	cld
entry:
	mov	PRINT_FROM(%r8), %esi
	mov	PRINT_TO(%r8), %edi
	mov	PRINT_COPY(%r8), %ecx
	rep movsb
	mov	PRINT_TO(%r8), %eax
	say	PRINT_PORT_ADDRESS
	mov	PRINT_LENGTH(%r8), %eax
	say	PRINT_PORT_LENGTH
	add	$PRINT_SIZE, %r8
	dec	%r9
	jnz	entry

	guest_end print_guest
