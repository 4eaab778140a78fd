/* SPDX-License-Identifier: MIT */
/* What each processor has of its own: guest-x86.[cS], guest-arm64.[cS], or guest-none.c. */
#ifndef GMEM_TEST_GUEST_MACHINE_H
#define GMEM_TEST_GUEST_MACHINE_H

#include "guest.h"

/* Where the routines begin within guest_code: only their addresses are of use. */
extern const unsigned char guest_code_store[];
extern const unsigned char guest_code_load[];
extern const unsigned char guest_code_count[];
extern const unsigned char guest_code_await[];
extern const unsigned char guest_code_call[];
extern const unsigned char guest_code_work[];

/* The result of guest_machine_exit() for an exit that means nothing. */
#define GUEST_GOES_ON (-1)

/* What a new vCPU needs. */
void guest_machine_init(const struct guest *guest, int vm_fd);

/*
 * Set the registers to begin a routine, given as its offset in the code. The value is what to store
 * or how often to count.
 */
void guest_machine_enter(const struct guest *guest, uint64_t routine, uint64_t gpa, uint32_t value);

/* The reason of the last exit, as the users of guest.h know it. */
int guest_machine_exit(const struct guest *guest);

/* What was loaded. */
uint32_t guest_machine_value(const struct guest *guest);

#endif
