/* SPDX-License-Identifier: MIT */
/*
 * Gives a fuzz target the inputs that are kept, with any compiler and no fuzzer.
 *
 * usage: fuzz-NAME CORPUS    text: an input a line, in hexadecimal; # begins a comment
 */
#include "fuzz.h"
#include "harness.h"

#include <errno.h>
#include <string.h>

static const char *path;

static int digit(char c)
{
	return c <= '9' ? c - '0' : c - 'a' + 10;
}

/* Gives the target one line's input, in memory of its very size so that a sanitizer sees its end.
 */
static void replay(const char *text, int line)
{
	size_t digits = strspn(text, "0123456789abcdef"), size = digits / 2;
	uint8_t *data = malloc(size);

	if (!data || digits % 2 || !strchr(" \n", text[digits]))
		ck_abort_msg("%s:%d: no input", path, line);
	for (size_t i = 0; i < size; i++)
		data[i] = (uint8_t)(digit(text[2 * i]) * 16 + digit(text[2 * i + 1]));
	LLVMFuzzerTestOneInput(data, size);
	free(data);
}

START_TEST(every_kept_input)
{
	FILE *corpus = fopen(path, "r");
	char *text = NULL;
	size_t size = 0;
	int line = 0, count = 0;

	if (!corpus)
		ck_abort_msg("%s: %s", path, strerror(errno));
	while (getline(&text, &size, corpus) > 0) {
		line++;
		if (text[0] == '#')
			continue;
		/* What mark_point() does: where Check says that a test died is the input's line. */
		_mark_point(path, line);
		replay(text, line);
		count++;
	}
	ck_assert_int_gt(count, 0);
	harness_note("%d inputs", count);
	free(text);
	fclose(corpus);
}
END_TEST

static Suite *make_suite(void)
{
	Suite *suite = suite_create("replay");
	TCase *corpus = tcase_create("corpus");

	tcase_set_timeout(corpus, 300);
	tcase_add_test(corpus, every_kept_input);
	suite_add_tcase(suite, corpus);
	return suite;
}

int main(int argc, char **argv)
{
	if (argc != 2) {
		fprintf(stderr, "usage: %s CORPUS\n", argv[0]);
		return 2;
	}
	path = argv[1];
	return harness_run(make_suite());
}
