/* SPDX-License-Identifier: MIT */
#include "check-show.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#define NAME_WIDTH 66

static char *copy(const char *text)
{
	char *new = strdup(text);

	if (!new)
		abort();
	return new;
}

static void add_word(struct words *words, const char *text)
{
	for (size_t i = 0; i < words->count; i++) {
		if (strcmp(words->items[i].text, text) == 0) {
			words->items[i].times++;
			return;
		}
	}
	words->items = reallocarray(words->items, words->count + 1, sizeof(*words->items));
	if (!words->items)
		abort();
	words->items[words->count++] = (struct word){.text = copy(text), .times = 1};
}

static void free_words(struct words *words)
{
	for (size_t i = 0; i < words->count; i++)
		free(words->items[i].text);
	free(words->items);
	*words = (struct words){.count = 0};
}

static void print_list(const struct words *words, const char *separator)
{
	for (size_t i = 0; i < words->count; i++)
		printf("%s%s", i ? separator : "", words->items[i].text);
}

void check_print_words(const char *name, int width)
{
	for (; *name; name++, width--)
		putchar(*name == '_' ? ' ' : *name);
	printf("%*s", width > 0 ? width : 0, "");
}

/* ---- The table ---- */

static void print_rule(struct check_show *show, const struct rule *rule)
{
	if (!show->tcase || strcmp(show->tcase, rule->tcase) != 0) {
		printf("\n%s\n", rule->tcase);
		free(show->tcase);
		show->tcase = copy(rule->tcase);
	}
	fputs("  ", stdout);
	check_print_words(rule->test, NAME_WIDTH);
	fputs(rule->failed ? " FAILED" : rule->passed ? " ok" : " skipped", stdout);
	if (rule->notes.count) {
		fputs(": ", stdout);
		print_list(&rule->notes, "; ");
	}
	if (rule->reasons.count) {
		if (rule->passed + rule->failed)
			printf("; %d of %d skipped", rule->skipped,
			       rule->passed + rule->failed + rule->skipped);
		fputs(": ", stdout);
		print_list(&rule->reasons, "; ");
	}
	putchar('\n');
	for (size_t i = 0; i < rule->failures.count; i++)
		printf("      %s\n", rule->failures.items[i].text);
}

static void end_rule(struct check_show *show)
{
	struct rule *rule = &show->rule;

	if (!rule->test)
		return;
	if (rule->failed) {
		show->failing++;
	} else if (rule->passed) {
		show->holding++;
	} else {
		show->unchecked++;
		for (size_t i = 0; i < rule->reasons.count; i++)
			add_word(&show->reasons, rule->reasons.items[i].text);
	}
	if (!show->json)
		print_rule(show, rule);
	free(rule->tcase);
	free(rule->test);
	free_words(&rule->notes);
	free_words(&rule->reasons);
	free_words(&rule->failures);
	*rule = (struct rule){.test = NULL};
}

static void add_failure(struct rule *rule, const struct harness_result *result)
{
	char *text;

	if (asprintf(&text, "[%d] %s:%d: %s", result->loop, result->file, result->line,
		     result->reason) < 0)
		abort();
	add_word(&rule->failures, text);
	free(text);
}

static void add_result(struct rule *rule, const struct harness_result *result)
{
	if (!rule->test) {
		rule->tcase = copy(result->tcase);
		rule->test = copy(result->test);
	}
	for (size_t i = 0; i < result->note_count; i++)
		add_word(&rule->notes, result->notes[i]);
	switch (result->verdict) {
	case HARNESS_PASS:
		rule->passed++;
		break;
	case HARNESS_FAIL:
		rule->failed++;
		add_failure(rule, result);
		break;
	case HARNESS_SKIP:
		rule->skipped++;
		add_word(&rule->reasons, result->reason);
	}
}

static void print_end(const struct check_show *show)
{
	fputs("\nknown faults: ", stdout);
	if (show->faults.count)
		print_list(&show->faults, ", ");
	else
		fputs("none found", stdout);
	putchar('\n');
	if (show->faults.count)
		puts("(what they mean: gmem-kernel-check(1))");
	for (size_t i = 0; i < show->reasons.count; i++)
		printf("not checked: %s (%d)\n", show->reasons.items[i].text,
		       show->reasons.items[i].times);
	printf("%d rules hold, %d fail, %d not checked\n", show->holding, show->failing,
	       show->unchecked);
}

/* ---- JSON ---- */

static void write_result(struct json *json, const struct harness_result *result)
{
	static const char *const words[] = {"pass", "fail", "skip"};

	json_open(json, NULL, '{');
	json_string(json, "case", result->tcase);
	json_string(json, "rule", result->test);
	json_int(json, "loop", result->loop);
	json_string(json, "verdict", words[result->verdict]);
	json_string(json, "reason", result->verdict == HARNESS_PASS ? NULL : result->reason);
	json_open(json, "notes", '[');
	for (size_t i = 0; i < result->note_count; i++)
		json_string(json, NULL, result->notes[i]);
	json_close(json, ']');
	json_close(json, '}');
}

static void write_end(struct json *json, const struct check_show *show)
{
	json_close(json, ']');
	json_open(json, "known_faults", '[');
	for (size_t i = 0; i < show->faults.count; i++)
		json_string(json, NULL, show->faults.items[i].text);
	json_close(json, ']');
	json_int(json, "hold", show->holding);
	json_int(json, "fail", show->failing);
	json_int(json, "not_checked", show->unchecked);
	json_close(json, '}');
}

/* ---- Both ---- */

void check_show_begin(struct check_show *show, const char *device)
{
	struct json *json = show->json;
	struct utsname name;

	if (uname(&name) < 0)
		abort();
	if (!json) {
		printf("Linux %s on %s, %s\n", name.release, name.machine, device);
		return;
	}
	json_open(json, NULL, '{');
	json_int(json, "schema", 1);
	json_open(json, "kernel", '{');
	json_string(json, "release", name.release);
	json_string(json, "machine", name.machine);
	json_close(json, '}');
	json_string(json, "device", device);
	json_open(json, "results", '[');
}

void check_show_test(const struct harness_result *result, void *data)
{
	struct check_show *show = data;
	struct rule *rule = &show->rule;

	if (rule->test &&
	    (strcmp(rule->test, result->test) != 0 || strcmp(rule->tcase, result->tcase) != 0))
		end_rule(show);
	add_result(rule, result);
	for (size_t i = 0; i < result->note_count; i++) {
		if (strncmp(result->notes[i], KNOWN_FAULT, strlen(KNOWN_FAULT)) == 0)
			add_word(&show->faults, result->notes[i] + strlen(KNOWN_FAULT));
	}
	if (show->json)
		write_result(show->json, result);
}

void check_show_end(struct check_show *show)
{
	end_rule(show);
	if (show->json)
		write_end(show->json, show);
	else
		print_end(show);
	free(show->tcase);
	free_words(&show->reasons);
	free_words(&show->faults);
}
