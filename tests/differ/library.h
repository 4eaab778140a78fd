/* SPDX-License-Identifier: MIT */
/* The library's side: makes the calls of gmem.h that a step asks for. */
#ifndef GMEM_DIFFER_LIBRARY_H
#define GMEM_DIFFER_LIBRARY_H

#include "answer.h"
#include "probe.h"

void library_do(const struct step *step, struct answer *answer);
void library_look(const struct step_look *look, struct answer_look *answer);
void library_probe(const struct probe *probes, int *results, unsigned int count);
/* Close all that is open, in an order that `seed` chooses. */
void library_close_all(uint64_t seed);
/* Of a VM: 0 where it lacks it. */
uint64_t library_cap(enum gmem_cap cap);

#endif
