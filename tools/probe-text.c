/* SPDX-License-Identifier: MIT */
/* The report for people: one table for each VM type, then what is missing and what to do. */
#include "probe.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LABEL_WIDTH 26
#define TEXT_WIDTH  78

#define BOLD   "1"
#define DIM    "2"
#define GREEN  "32"
#define YELLOW "33"
#define RED    "31"

static bool want_colours(void)
{
	const char *no_color = getenv("NO_COLOR");
	const char *term = getenv("TERM");

	return isatty(STDOUT_FILENO) && (!no_color || !*no_color) && term &&
	       strcmp(term, "dumb") != 0;
}

static void print_coloured(const char *colour, const char *text)
{
	if (want_colours())
		printf("\033[%sm%s\033[0m", colour, text);
	else
		fputs(text, stdout);
}

/* Words from column `indent` on, broken at spaces before TEXT_WIDTH; the cursor is at `column`. */
static void print_wrapped(const char *text, int column, int indent)
{
	while (*text) {
		int word = (int)strcspn(text, " ");

		if (column > indent && column + 1 + word > TEXT_WIDTH) {
			printf("\n%*s", indent, "");
			column = indent;
		} else if (column > indent) {
			putchar(' ');
			column++;
		}
		printf("%.*s", word, text);
		column += word;
		text += word;
		text += strspn(text, " ");
	}
	putchar('\n');
}

/* "Label: text", the text wrapped under itself. */
static void print_labelled(int indent, const char *label, const char *text)
{
	int column = indent + (int)strlen(label);

	if (!*text)
		return;
	printf("%*s", indent, "");
	print_coloured(DIM, label);
	print_wrapped(text, column, column);
}

/* The library's sentence has the numbers, the advice has the reasons. */
static void print_problem(const char *message, const struct advice *advice)
{
	if (strcmp(message, advice->cause) != 0)
		print_labelled(2, "message: ", message);
	print_labelled(2, "cause:   ", advice->cause);
	print_labelled(2, "remedy:  ", advice->remedy);
}

static void print_set(enum value_kind kind, uint64_t bits)
{
	const char *separator = "";
	uint64_t bit;

	while (bits) {
		const char *name = next_bit(kind, &bits, &bit);

		fputs(separator, stdout);
		if (name)
			fputs(name, stdout);
		else
			printf("0x%" PRIx64, bit);
		separator = ", ";
	}
}

static void print_types(uint64_t types)
{
	const char *separator = "";

	for (unsigned int i = 0; i < PROBE_MAX_TYPES; i++) {
		if (types >> i & 1) {
			printf("%s%u %s", separator, i, type_name(i));
			separator = ", ";
		}
	}
}

static void print_value(enum value_kind kind, uint64_t value)
{
	switch (kind) {
	case VALUE_YES:
		print_coloured(GREEN, "yes");
		break;
	case VALUE_REFUSES:
		print_coloured(GREEN, "refused by the kernel");
		break;
	case VALUE_NUMBER:
		printf("%" PRIu64, value);
		break;
	case VALUE_BITS:
		printf("%" PRIu64 " bits", value);
		break;
	case VALUE_TYPES:
		print_types(value);
		break;
	case VALUE_FLAGS:
	case VALUE_ATTRIBUTES:
	case VALUE_USERFAULTFD:
	case VALUE_HYPERCALLS:
		print_set(kind, value);
		break;
	}
}

static void print_cap(const struct probe_type *type, size_t index)
{
	const struct cap_words *words = &cap_words[index];
	const struct probe_cap *cap = &type->caps[index];

	printf("  %-*s", LABEL_WIDTH, words->label);
	if (!cap->result.err)
		print_value(words->kind, cap->value);
	else if (cap->result.err != EOPNOTSUPP)
		print_coloured(RED, "not known");
	else if (words->kind == VALUE_REFUSES && type->has_guest_memfd)
		print_coloured(YELLOW, "accepted by the kernel, refused by the library");
	else
		print_coloured(YELLOW, "no");
	putchar('\n');
}

static void print_missing(const struct probe *probe, const struct probe_type *type)
{
	bool first = true;

	for (size_t i = 0; i < PROBE_CAPS; i++) {
		struct advice advice;

		if (!type->caps[i].result.err)
			continue;
		if (first)
			printf("\n  What is missing, and why:\n");
		first = false;
		advise_cap(probe, type, i, &advice);
		printf("\n  %s\n", cap_words[i].label);
		print_labelled(4, "cause:  ", advice.cause);
		print_labelled(4, "remedy: ", advice.remedy);
	}
}

static void print_type(const struct probe *probe, const struct probe_type *type)
{
	const struct probe_result *failure = type->open.err ? &type->open : &type->trial;
	char title[64];
	struct advice advice;

	snprintf(title, sizeof(title), "VM type %" PRIu64 " (%s)", type->type,
		 type_name(type->type));
	putchar('\n');
	print_coloured(BOLD, title);
	printf(": %s\n", type_summary(type));
	if (failure->err) {
		advise_call(probe, failure, &advice);
		print_problem(failure->message, &advice);
	}
	if (type->open.err)
		return;
	putchar('\n');
	for (size_t i = 0; i < PROBE_CAPS; i++)
		print_cap(type, i);
	print_missing(probe, type);
}

static void print_unusable(const struct probe *probe)
{
	struct advice advice;

	advise_unusable(probe, &advice);
	putchar('\n');
	print_coloured(RED, probe->open.err ? "KVM cannot be used here."
					    : "guest_memfd cannot be used here.");
	putchar('\n');
	print_problem(first_failure(probe)->message, &advice);
}

static void print_fault(const struct fault_words *words, enum fault_state state)
{
	printf("  %-*s", LABEL_WIDTH, words->name);
	if (state == FAULT_FOUND)
		print_coloured(YELLOW, "yes");
	else if (state == FAULT_UNKNOWN)
		print_coloured(RED, "not known");
	else
		print_coloured(GREEN, "no");
	putchar('\n');
	if (state == FAULT_NOT_FOUND)
		return;
	print_labelled(4, "cause:  ", words->cause);
	print_labelled(4, "remedy: ", words->remedy);
}

static void print_faults(const struct probe *probe)
{
	putchar('\n');
	print_coloured(BOLD, "Known faults of this kernel");
	fputs(" (see gmem-kernel-check(1)):\n\n", stdout);
	for (size_t i = 0; i < PROBE_FAULTS; i++)
		print_fault(&fault_words[i], probe->faults[i]);
}

void probe_print_text(const struct probe *probe)
{
	printf("libgmem %s, Linux %s on %s, pages of %zu KiB, device %s\n", gmem_get_version(),
	       probe->kernel.release, probe->kernel.machine, probe->page_size / 1024,
	       probe->device);
	for (size_t i = 0; i < probe->type_count; i++)
		print_type(probe, &probe->types[i]);
	if (probe->usable)
		print_faults(probe);
	else
		print_unusable(probe);
}
