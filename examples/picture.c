/* SPDX-License-Identifier: MIT */
/* The picture of guest memory at the end of an example. Nothing here is about KVM. */
#include "picture.h"

#include <langinfo.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ROW_CELLS ((size_t)64)
#define MAX_CELLS (4 * ROW_CELLS)

struct look {
	const char *unicode;
	const char *ascii;
	const char *colour;
	const char *name;
	const char *meaning;
};

static const struct look looks[PAGE_STATES] = {
	[PAGE_UNTOUCHED] = {"·", ".", "\033[2m", "untouched", "never used: costs the host nothing"},
	[PAGE_TOUCHED] = {"█", "#", "\033[32m", "touched", "used by the guest"},
	[PAGE_DISCARDED] = {"░", "-", "\033[33m", "discarded",
			    "taken back by the host, not used since"},
	[PAGE_SHARED] = {"◆", "@", "\033[35m", "shared", "written by the host, used by the guest"},
	[PAGE_OPEN] = {"█", "#", "\033[32m", "shared", "for guest and host, and in use"},
	[PAGE_PRIVATE] = {"▓", "P", "\033[31m", "private",
			  "the guest's alone: no host can read it"},
};

/* In the order of the legend. */
static const enum page_state legend[] = {PAGE_TOUCHED, PAGE_SHARED,    PAGE_OPEN,
					 PAGE_PRIVATE, PAGE_DISCARDED, PAGE_UNTOUCHED};

struct pen {
	FILE *out;
	bool unicode;
	bool colours;
};

bool picture_terminal(FILE *out)
{
	const char *term = getenv("TERM");

	return isatty(fileno(out)) && term && strcmp(term, "dumb") != 0;
}

bool picture_colours(FILE *out)
{
	const char *no_color = getenv("NO_COLOR");

	return picture_terminal(out) && (!no_color || !*no_color);
}

static void draw(const struct pen *pen, enum page_state state, size_t times)
{
	const struct look *look = &looks[state];

	if (pen->colours)
		fputs(look->colour, pen->out);
	while (times--)
		fputs(pen->unicode ? look->unicode : look->ascii, pen->out);
	if (pen->colours)
		fputs("\033[0m", pen->out);
}

/* One page the host wrote must be seen among many: it names the cell. Else the most common does. */
static enum page_state cell_state(const unsigned char *pages, size_t count)
{
	size_t counts[PAGE_STATES] = {0};
	enum page_state best = PAGE_UNTOUCHED;

	for (size_t i = 0; i < count; i++)
		counts[pages[i]]++;
	if (counts[PAGE_SHARED])
		return PAGE_SHARED;
	for (enum page_state s = PAGE_UNTOUCHED; s < PAGE_STATES; s++)
		if (counts[s] > counts[best])
			best = s;
	return best;
}

/* One row, drawn in runs of equal cells. */
static void print_row(const struct pen *pen, const unsigned char *pages, size_t count,
		      size_t cell_pages)
{
	enum page_state run_state = PAGE_UNTOUCHED;
	size_t run = 0;

	for (size_t at = 0; at < count; at += cell_pages) {
		size_t left = count - at;
		enum page_state state =
			cell_state(pages + at, left < cell_pages ? left : cell_pages);

		if (run && state != run_state) {
			draw(pen, run_state, run);
			run = 0;
		}
		run_state = state;
		run++;
	}
	draw(pen, run_state, run);
}

static void print_grid(const struct pen *pen, const unsigned char *pages, size_t count,
		       size_t page_size, size_t cell_pages)
{
	size_t row_pages = ROW_CELLS * cell_pages;

	for (size_t at = 0; at < count; at += row_pages) {
		size_t left = count - at;

		fprintf(pen->out, "%7.4g MiB  ", (double)(at * page_size) / (1 << 20));
		print_row(pen, pages + at, left < row_pages ? left : row_pages, cell_pages);
		fputc('\n', pen->out);
	}
}

static void print_legend(const struct pen *pen, const unsigned char *pages, size_t count,
			 size_t page_size)
{
	size_t counts[PAGE_STATES] = {0};

	for (size_t i = 0; i < count; i++)
		counts[pages[i]]++;
	for (size_t i = 0; i < sizeof(legend) / sizeof(legend[0]); i++) {
		const struct look *look = &looks[legend[i]];

		if (!counts[legend[i]])
			continue;
		fputs("  ", pen->out);
		draw(pen, legend[i], 2);
		fprintf(pen->out, " %-9s %7zu pages %8zu KiB  %s\n", look->name, counts[legend[i]],
			counts[legend[i]] * page_size / 1024, look->meaning);
	}
}

static struct pen open_pen(FILE *out)
{
	struct pen pen = {.out = out, .colours = picture_colours(out)};

	setlocale(LC_CTYPE, "");
	pen.unicode = strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
	return pen;
}

void picture_print_row(FILE *out, const unsigned char *pages, size_t count, size_t cells)
{
	struct pen pen = open_pen(out);

	print_row(&pen, pages, count, (count + cells - 1) / cells);
}

void picture_print(FILE *out, const unsigned char *pages, size_t count, size_t page_size)
{
	struct pen pen = open_pen(out);
	size_t cell_pages = 1;

	while (count > cell_pages * MAX_CELLS)
		cell_pages *= 2;
	fprintf(out, "guest memory, one cell for each %zu KiB:\n\n", cell_pages * page_size / 1024);
	print_grid(&pen, pages, count, page_size, cell_pages);
	fputc('\n', out);
	print_legend(&pen, pages, count, page_size);
}
