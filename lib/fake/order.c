/* SPDX-License-Identifier: MIT */
/* What is decided before the model is asked, and what was called. */
#include "fake.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void write_down(struct gmem_fake *fake, const char *text)
{
	size_t length = strlen(text);
	char *longer = realloc(fake->transcript, fake->length + length + 2);

	gmem_fake_must(fake, longer, "no memory");
	fake->transcript = longer;
	memcpy(longer + fake->length, text, length);
	memcpy(longer + fake->length + length, "\n", 2);
	fake->length += length + 1;
}

static int errno_of_name(const struct gmem_fake *fake, const char *name)
{
	for (int error = 1; error < 200; error++) {
		const char *known = strerrorname_np(error);

		if (known && strcmp(known, name) == 0)
			return error;
	}
	gmem_fake_break(fake, "no errno and no number: \"%s\"", name);
}

/* Compare a call with the line to come. True if the line says what to answer. */
static bool meet(struct gmem_fake *fake, const char *text, long *result)
{
	char *line = fake->next, *end, *answer;

	gmem_fake_must(fake, line && *line, "unexpected call: %s", text);
	end = strchrnul(line, '\n');
	fake->next = *end ? end + 1 : end;
	*end = '\0';
	answer = strstr(line, " = ");
	if (answer)
		*answer = '\0';
	gmem_fake_must(fake, strcmp(text, line) == 0, "called:   %s\nexpected: %s", text, line);
	if (!answer)
		return false;
	answer += strlen(" = ");
	*result = *answer >= 'A' ? -errno_of_name(fake, answer) : strtol(answer, NULL, 0);
	return true;
}

/* A call that takes something back. */
static bool undoes(const char *text)
{
	static const char *const parts[] = {"close(", "munmap(", "|FIXED,", " size=0 "};

	for (size_t i = 0; i < ARRAY_SIZE(parts); i++)
		if (strstr(text, parts[i]))
			return true;
	return false;
}

static bool ordered(struct gmem_fake *fake, const char *text, long *result)
{
	bool found = false;

	for (size_t i = 0; i < fake->order_count; i++) {
		struct gmem_fake_order *order = &fake->orders[i];

		if (!strstr(text, order->part) || (!*order->part && undoes(text)))
			continue;
		order->seen++;
		if (found || (order->n && order->n != order->seen))
			continue;
		fake->answered++;
		*result = order->value;
		found = true;
	}
	return found;
}

bool gmem_fake_decided(struct gmem_fake *fake, long *result, const char *format, ...)
{
	char text[1024];
	va_list arguments;
	bool expected;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	*result = 0;
	write_down(fake, text);
	expected = fake->expected && meet(fake, text, result);
	return expected || ordered(fake, text, result);
}

/* ---- What must be called ---- */

/* With the lock. */
static void meet_all(struct gmem_fake *fake)
{
	gmem_fake_must(fake, !fake->expected || !*fake->next, "calls that were not made:\n%s",
		       fake->next);
	free(fake->expected);
	fake->expected = fake->next = NULL;
}

void gmem_fake_expect(struct gmem_fake *fake, const char *format, ...)
{
	va_list arguments;
	char *text;
	int length;

	va_start(arguments, format);
	length = vasprintf(&text, format, arguments);
	va_end(arguments);
	gmem_fake_enter(&fake->sys);
	gmem_fake_must(fake, length >= 0, "no memory");
	meet_all(fake);
	fake->expected = fake->next = text;
	gmem_fake_leave(fake, 0);
}

void gmem_fake_met(struct gmem_fake *fake)
{
	gmem_fake_enter(&fake->sys);
	meet_all(fake);
	gmem_fake_leave(fake, 0);
}

/* ---- What fails ---- */

/* With the lock. */
static void add_order(struct gmem_fake *fake, unsigned int n, int value, const char *part)
{
	fake->orders = gmem_fake_grow(fake, fake->orders, fake->order_count, &fake->order_room,
				      sizeof(*fake->orders));
	fake->orders[fake->order_count++] = (struct gmem_fake_order){
		.part = gmem_fake_copy_text(fake, part),
		.n = n,
		.value = value,
	};
}

void gmem_fake_fail(struct gmem_fake *fake, unsigned int n, int error, const char *part)
{
	gmem_fake_enter(&fake->sys);
	gmem_fake_must(fake, error > 0, "%d is no errno", error);
	add_order(fake, n, -error, part);
	gmem_fake_leave(fake, 0);
}

void gmem_fake_answer(struct gmem_fake *fake, unsigned int n, int value, const char *part)
{
	gmem_fake_enter(&fake->sys);
	add_order(fake, n, value, part);
	gmem_fake_leave(fake, 0);
}

/* With the lock. */
static void withdraw(struct gmem_fake *fake)
{
	for (size_t i = 0; i < fake->order_count; i++)
		free(fake->orders[i].part);
	fake->order_count = 0;
}

unsigned int gmem_fake_recover(struct gmem_fake *fake)
{
	unsigned int answered;

	gmem_fake_enter(&fake->sys);
	withdraw(fake);
	answered = fake->answered;
	fake->answered = 0;
	gmem_fake_leave(fake, 0);
	return answered;
}

void gmem_fake_clear_orders(struct gmem_fake *fake)
{
	withdraw(fake);
	free(fake->orders);
	free(fake->expected);
	free(fake->transcript);
}

/* ---- What was called ---- */

const char *gmem_fake_transcript(const struct gmem_fake *fake)
{
	struct gmem_fake *locked = gmem_fake_enter(&fake->sys);
	const char *text = locked->transcript ? locked->transcript : "";

	gmem_fake_leave(locked, 0);
	return text;
}

unsigned int gmem_fake_count(const struct gmem_fake *fake, const char *part)
{
	struct gmem_fake *locked = gmem_fake_enter(&fake->sys);
	const char *line = locked->transcript ? locked->transcript : "";
	unsigned int count = 0;

	while (*line) {
		const char *end = strchrnul(line, '\n');

		count += memmem(line, (size_t)(end - line), part, strlen(part)) ? 1 : 0;
		line = *end ? end + 1 : end;
	}
	gmem_fake_leave(locked, 0);
	return count;
}

void gmem_fake_forget(struct gmem_fake *fake)
{
	gmem_fake_enter(&fake->sys);
	fake->length = 0;
	if (fake->transcript)
		fake->transcript[0] = '\0';
	fake->mapping_number = 0;
	memset(fake->numbers, 0, sizeof(fake->numbers));
	for (size_t i = 0; i < fake->mapping_count; i++)
		if (fake->mappings[i].addr)
			gmem_fake_name_mapping(fake, &fake->mappings[i]);
	for (size_t i = 0; i < fake->fd_count; i++)
		if (fake->fds[i].object)
			fake->fds[i].number = ++fake->numbers[fake->fds[i].kind];
	gmem_fake_leave(fake, 0);
}
