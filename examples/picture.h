/* SPDX-License-Identifier: MIT */
#ifndef PICTURE_H
#define PICTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/* What became of a page of guest memory. */
enum page_state {
	PAGE_UNTOUCHED, /* nobody has used it: it costs nothing */
	PAGE_TOUCHED,	/* the guest has used it */
	PAGE_DISCARDED, /* it was used, and the host took it back */
	PAGE_SHARED,	/* the host wrote it and the guest used it */
	PAGE_STATES,
};

/* Whether to colour what goes to this file: a terminal, and the user has not forbidden it. */
bool picture_colours(FILE *out);

/* Whether this file is a terminal that can be told to redraw a line. */
bool picture_terminal(FILE *out);

/* Print guest memory as a grid of cells with a legend. `pages` holds an enum page_state each. */
void picture_print(FILE *out, const unsigned char *pages, size_t count, size_t page_size);

#endif /* PICTURE_H */
