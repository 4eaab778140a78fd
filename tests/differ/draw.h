/* SPDX-License-Identifier: MIT */
/* Draws the next step: mostly one that can be, with numbers from the edges of what is there. */
#ifndef GMEM_DIFFER_DRAW_H
#define GMEM_DIFFER_DRAW_H

#include "random.h"
#include "world.h"

/* New VMs of a type. */
void draw_renewal(struct random *random, uint64_t type, struct step *step);
void draw_step(struct random *random, const struct world *world, uint64_t type, struct step *step);

#endif
