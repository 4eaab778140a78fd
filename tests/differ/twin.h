/* SPDX-License-Identifier: MIT */
/*
 * The twin: a process with VMs of its own, which makes the system calls that the library would have
 * made (kernel.h).
 */
#ifndef GMEM_DIFFER_TWIN_H
#define GMEM_DIFFER_TWIN_H

#include "answer.h"
#include "probe.h"

/* Before anything opens KVM. */
void twin_start(void);
/* Whether it ended well. */
bool twin_stop(void);

/* Begin a step, and hear of it: in between the library does the same. */
void twin_begin(const struct step *step);
void twin_end(struct answer *answer, struct answer_look *look);

/* Take the last step back. */
void twin_undo(void);
/* The slot of one place is that of another too. */
void twin_alias(uint8_t place, uint8_t same);
/* An id is the VMM's own from now on. */
void twin_keep(uint8_t vm, uint32_t as_id, uint32_t id);

void twin_begin_probes(const struct probe *probes, unsigned int count);
void twin_end_probes(int *results, unsigned int count);

#endif
