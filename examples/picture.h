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
	PAGE_OPEN,	/* guest and host can use it, and one of them has */
	PAGE_PRIVATE,	/* the guest's alone */
	PAGE_STATES,
};

/* Whether to colour what goes to this file: a terminal, and the user has not forbidden it. */
bool picture_colours(FILE *out);

/* Whether this file is a terminal that can be told to redraw a line. */
bool picture_terminal(FILE *out);

/* Print pages in one row of so many cells or, where there are fewer pages, less. */
void picture_print_row(FILE *out, const unsigned char *pages, size_t count, size_t cells);

/* Print guest memory as a grid of cells with a legend of what there is. `pages` holds an
 * enum page_state each. */
void picture_print(FILE *out, const unsigned char *pages, size_t count, size_t page_size);

#endif /* PICTURE_H */
