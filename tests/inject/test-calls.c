/* SPDX-License-Identifier: MIT */
/*
 * Every public call with each of its system calls and each of its allocations failing, one at a
 * time: the right errno with a reason that the header lists, nothing changed, nothing leaked, and
 * the same call works a moment later.
 *
 * Then, where a call fails and undoes what it has done, each system call of that fails as well.
 *
 * What is documented to go on without the call that failed has to go on, and to leave no more than
 * what the kernel itself has refused to take back. Only these calls may do so: calls.c lists them.
 */
#include "allocator.h"
#include "calls.h"
#include "harness.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* ---- What the header says ---- */

struct documented_call {
	const char *name;
	enum gmem_reason reasons[48]; /* ends with 0 */
};

struct documented_reason {
	enum gmem_reason reason;
	int errors[4]; /* none: the kernel's own */
};

#include "documented.h"

#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))

static bool is_listed(const char *name, enum gmem_reason reason)
{
	for (size_t i = 0; i < ARRAY_SIZE(documented_calls); i++) {
		if (strcmp(documented_calls[i].name, name) != 0)
			continue;
		for (size_t j = 0; documented_calls[i].reasons[j]; j++)
			if (documented_calls[i].reasons[j] == reason)
				return true;
	}
	return false;
}

static bool has_errno(enum gmem_reason reason, int error, int injected)
{
	for (size_t i = 0; i < ARRAY_SIZE(documented_reasons); i++) {
		const int *errors = documented_reasons[i].errors;

		if (documented_reasons[i].reason != reason)
			continue;
		if (!*errors)
			return error == injected;
		while (*errors && *errors != error)
			errors++;
		return *errors != 0;
	}
	return false;
}

/* ---- One play ---- */

/* What is made to fail: the n-th allocation, or the n-th system call of a kind; 0: nothing. */
struct injection {
	unsigned int n;
	bool is_allocation;
	enum kind kind;
	int error;
	unsigned int second; /* and so many system calls later another one; 0: none */
};

struct play {
	const struct call *call;
	enum place place;
	struct injection injection;
	struct scene scene;
	struct view before;
	int result;
	unsigned int calls, allocations;
};

/* Of a play without a failure: what it makes, and what there is after it. */
struct clean {
	unsigned int calls, allocations;
	enum kind kinds[INJECTOR_CALLS_MAX];
	struct view after;
};

static const char *describe(const struct play *play)
{
	static char text[160];

	if (play->injection.n == 0)
		snprintf(text, sizeof(text), "%s", play->call->name);
	else if (play->injection.is_allocation)
		snprintf(text, sizeof(text), "%s, allocation %u", play->call->name,
			 play->injection.n);
	else
		snprintf(text, sizeof(text), "%s, %s number %u and +%u, %s", play->call->name,
			 injector_name(play->injection.kind), play->injection.n,
			 play->injection.second, strerrorname_np(play->injection.error));
	return text;
}

static _Noreturn __attribute__((format(printf, 2, 3))) void wrong(const struct play *play,
								  const char *format, ...)
{
	char text[512];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	ck_abort_msg("%s: %s", describe(play), text);
}

#define must(play, condition, ...)                                                                 \
	do {                                                                                       \
		if (!(condition))                                                                  \
			wrong(play, __VA_ARGS__);                                                  \
	} while (0)

/* The call itself, with the failure or without. */
static void make(struct play *play, const struct injection *injection)
{
	bool is_allocation = injection->is_allocation;

	/* A failure of another kind before it, so that one which leaves no reason is seen. */
	ck_assert_int_eq(gmem_vm_get_cap(NULL, GMEM_CAP_NUMA, NULL), -EINVAL);
	injector_arm(&play->scene.injector, injection->kind, is_allocation ? 0 : injection->n,
		     injection->error);
	injector_arm_second(&play->scene.injector, injection->second);
	allocator_arm(is_allocation ? injection->n : 0);
	play->result = play->call->make(&play->scene);
	play->allocations = allocator_disarm();
	play->calls = injector_disarm(&play->scene.injector);
	must(play, play->scene.injector.fails_in == 0, "it was not called this time");
}

static void begin(struct play *play)
{
	scene_open(&play->scene, play->place, play->call->vm_flags);
	if (play->call->set_up)
		play->call->set_up(&play->scene);
	if (play->injection.kind == DELETE_SLOT || play->injection.second)
		scene_allow_left_slot(&play->scene);
	play->before = scene_view(&play->scene, false);
	make(play, &play->injection);
}

static void play_clean(struct play *play, struct clean *clean)
{
	play->injection = (struct injection){0};
	begin(play);
	must(play, play->result == play->call->result, "%d, not %d: %s", play->result,
	     play->call->result, gmem_error_get_message());
	clean->calls = play->calls;
	clean->allocations = play->allocations;
	memcpy(clean->kinds, play->scene.injector.kinds, sizeof(clean->kinds));
	clean->after = scene_view(&play->scene, true);
	scene_close(&play->scene);
}

/* ---- What has to hold ---- */

static void check_same(const struct play *play, const struct view *got, const struct view *wanted,
		       uint64_t but, const char *when)
{
	for (int i = 0; i < ASPECTS; i++)
		must(play, but >> i & 1 || got->of[i] == wanted->of[i], "%s: %s: %#llx, not %#llx",
		     when, aspect_names[i], (unsigned long long)got->of[i],
		     (unsigned long long)wanted->of[i]);
}

#define HANDLES                                                                                    \
	(BIT(CAPS) | BIT(SIDES) | BIT(SLOT_STATE) | BIT(VISIBILITY) | BIT(ADDRESSES) |             \
	 BIT(CONTENTS))
#define MEMORY (BIT(MEMORY_PIECES) | BIT(MEMORY_BYTES))
#define MAPPED (BIT(GUARDS) | BIT(FILES) | BIT(MAPPINGS) | BIT(MAPPED_BYTES) | BIT(INACCESSIBLE))

/* The address of what is made differs from one scene to the next, and so what is seen there. */
#define OF_ONE_SCENE (HANDLES & ~(BIT(CAPS) | BIT(SIDES)))

static void check_error(const struct play *play)
{
	enum gmem_reason reason = gmem_error_get_reason();
	int injected = play->injection.is_allocation ? ENOMEM : play->injection.error;

	must(play, reason != GMEM_REASON_NULL && *gmem_error_get_message(), "%d without a reason",
	     play->result);
	must(play, is_listed(play->call->name, reason), "%d: the header does not list %s",
	     play->result, gmem_reason_to_string(reason));
	must(play, has_errno(reason, -play->result, injected), "%s does not come with %s",
	     gmem_reason_to_string(reason), strerrorname_np(-play->result));
	if (play->injection.is_allocation)
		must(play, reason == GMEM_REASON_NO_MEMORY, "%s, not NO_MEMORY",
		     gmem_reason_to_string(reason));
}

/* Room in tables may stay for the next call, but no more than that takes. */
static void check_unchanged(struct play *play, const struct clean *clean)
{
	static const struct scene_new nothing;
	struct view now = scene_view(&play->scene, false);
	uint64_t but = MEMORY;
	uint64_t most = clean->after.of[MEMORY_BYTES];

	if (play->call->stays_begun)
		but |= HANDLES | MAPPED;
	must(play, memcmp(&play->scene.new, &nothing, sizeof(nothing)) == 0,
	     "the handle is not NULL");
	check_same(play, &now, &play->before, but, "after the failure");
	if (most < play->before.of[MEMORY_BYTES])
		most = play->before.of[MEMORY_BYTES];
	must(play, now.of[MEMORY_BYTES] <= most, "%llu bytes of memory, at most %llu",
	     (unsigned long long)now.of[MEMORY_BYTES], (unsigned long long)most);
}

/* The same call again does what it would have done. */
static void check_works_now(struct play *play, const struct clean *clean)
{
	struct view now;

	make(play, &(struct injection){0});
	must(play, play->result == play->call->result, "again: %d: %s", play->result,
	     gmem_error_get_message());
	now = scene_view(&play->scene, true);
	check_same(play, &now, &clean->after, OF_ONE_SCENE, "after the same call again");
}

static bool has_left_slot(const struct injector *injector)
{
	for (size_t i = 0; i < INJECTOR_SLOTS_MAX; i++)
		if (injector->slots[i].size && injector->slots[i].left)
			return true;
	return false;
}

/* All that it should have done it has done without the call that failed. */
static void check_went_on(struct play *play, const struct clean *clean, bool again)
{
	struct view now = scene_view(&play->scene, true);
	uint64_t but = OF_ONE_SCENE;

	if (!again)
		but |= HANDLES | MEMORY;
	/* Its memory is kept too: all that is left at the end is looked at there. */
	if (has_left_slot(&play->scene.injector))
		but |= MAPPED | BIT(SLOT_IDS);
	if (!play->injection.is_allocation && play->injection.kind == MMAP_OVER)
		but |= BIT(FILES) | BIT(INACCESSIBLE);
	check_same(play, &now, &clean->after, but, "after going on");
}

static bool is_answer(const struct call *call, const struct injection *injection)
{
	for (size_t i = 0; i < ARRAY_SIZE(call->answers); i++)
		if (call->answers[i].error && call->answers[i].kind == injection->kind &&
		    call->answers[i].error == injection->error)
			return true;
	return false;
}

static bool may_go_on(const struct call *call, const struct injection *injection)
{
	if (call->returns_nothing)
		return true;
	if (injection->is_allocation)
		return call->spares_memory;
	return call->silent_kinds >> injection->kind & 1 || is_answer(call, injection);
}

/* One failure. `again`: an answer to which the library makes the system call once more. */
static void play_failure(struct play *play, const struct clean *clean, bool again)
{
	begin(play);
	if (play->result == play->call->result) {
		must(play, again || may_go_on(play->call, &play->injection),
		     "the failure is not told");
		check_went_on(play, clean, again);
	} else {
		must(play, !again && !play->call->returns_nothing, "%d: %s", play->result,
		     gmem_error_get_message());
		check_error(play);
		check_unchanged(play, clean);
		check_works_now(play, clean);
	}
	scene_close(&play->scene);
}

/*
 * Undoing fails too. What the kernel does not take back is left, and nothing else. Returns how many
 * system calls there are after the first failure; 0 where the call goes on without it.
 */
static unsigned int play_undoing(struct play *play)
{
	const struct injector *injector = &play->scene.injector;
	static const struct scene_new nothing;
	unsigned int after = 0;

	begin(play);
	if (play->result != play->call->result) {
		check_error(play);
		must(play, memcmp(&play->scene.new, &nothing, sizeof(nothing)) == 0,
		     "the handle is not NULL");
		must(play, scene_view(&play->scene, true).of[FDS] == play->before.of[FDS],
		     "descriptors are left");
		after = play->calls - injector->failed_at;
	}
	scene_close(&play->scene);
	return after;
}

/* ---- The tests ---- */

/* A row of the table at the end; tests run in processes of their own. */
struct row {
	unsigned int calls, allocations, injections;
};

static struct row *rows;
static struct {
	const struct call *call;
	enum place place;
	char name[64];
} plays[512];
static int play_count;

static void check_quiet(struct play *play, const struct clean *clean, struct row *row)
{
	(void)row;
	must(play, clean->calls == 0 && clean->allocations == 0,
	     "it is quiet, but makes %u system calls and %u allocations", clean->calls,
	     clean->allocations);
}

static void fail_calls(struct play *play, const struct clean *clean, struct row *row)
{
	unsigned int seen[KINDS] = {0};

	for (unsigned int i = 0; i < clean->calls; i++) {
		enum kind kind = clean->kinds[i];

		play->injection = (struct injection){.n = ++seen[kind], .kind = kind};
		for (const int *error = injector_errors(kind); *error; error++) {
			play->injection.error = *error;
			play_failure(play, clean, false);
			row->injections++;
		}
		for (const int *error = injector_again(kind); *error; error++) {
			play->injection.error = *error;
			play_failure(play, clean, true);
			row->injections++;
		}
	}
}

static bool has_threads(const struct clean *clean)
{
	unsigned int i = 0;

	while (i < clean->calls && clean->kinds[i] != START_THREAD)
		i++;
	return i < clean->calls;
}

/* Not with threads, which end what they have begun: that is no undoing. */
static void fail_undoing(struct play *play, const struct clean *clean, struct row *row)
{
	unsigned int seen[KINDS] = {0};

	for (unsigned int i = 0; i < clean->calls && !has_threads(clean); i++) {
		enum kind kind = clean->kinds[i];
		unsigned int after;

		play->injection =
			(struct injection){.n = ++seen[kind], .kind = kind, .error = EPERM};
		after = play_undoing(play);
		while (after > 0) {
			play->injection.second = after--;
			play_undoing(play);
			row->injections++;
		}
	}
}

static void fail_allocations(struct play *play, const struct clean *clean, struct row *row)
{
	for (unsigned int n = 1; n <= clean->allocations; n++) {
		play->injection = (struct injection){.n = n, .is_allocation = true};
		play_failure(play, clean, false);
		row->injections++;
	}
}

/* The play without a failure, and then those with one. */
static void run(int number, void (*inject)(struct play *, const struct clean *, struct row *))
{
	static struct play play;
	static struct clean clean;
	const char *missing = scene_missing(plays[number].place);
	struct row *row = &rows[number];

	if (missing)
		SKIP("%s", missing);
	play = (struct play){.call = plays[number].call, .place = plays[number].place};
	play_clean(&play, &clean);
	must(&play, play.call->quiet || clean.calls || clean.allocations, "nothing of it can fail");
	row->calls = clean.calls;
	row->allocations = clean.allocations;
	inject(&play, &clean, row);
}

START_TEST(system_calls)
{
	run(_i, fail_calls);
}
END_TEST

START_TEST(allocations)
{
	run(_i, fail_allocations);
}
END_TEST

START_TEST(undoing)
{
	run(_i, fail_undoing);
}
END_TEST

START_TEST(quiet)
{
	run(_i, check_quiet);
}
END_TEST

/* The version script's calls, from which documented_calls is made. */
START_TEST(all_calls)
{
	for (size_t i = 0; i < ARRAY_SIZE(documented_calls); i++) {
		size_t j = 0;

		while (j < call_count && strcmp(calls[j].name, documented_calls[i].name) != 0)
			j++;
		ck_assert_msg(j < call_count, "nothing fails in %s", documented_calls[i].name);
	}
}
END_TEST

static void add_play(Suite *suite, const struct call *call, enum place place)
{
	char *name;
	TCase *tcase;

	if (play_count == ARRAY_SIZE(plays))
		abort();
	name = plays[play_count].name;
	plays[play_count].call = call;
	plays[play_count].place = place;
	snprintf(name, sizeof(plays[0].name), "%s%s%s, %s", call->name, call->variant ? ", " : "",
		 call->variant ? call->variant : "", place_names[place]);
	tcase = tcase_create(name);
	if (call->quiet) {
		tcase_add_loop_test(tcase, quiet, play_count, play_count + 1);
	} else {
		tcase_add_loop_test(tcase, system_calls, play_count, play_count + 1);
		tcase_add_loop_test(tcase, undoing, play_count, play_count + 1);
		tcase_add_loop_test(tcase, allocations, play_count, play_count + 1);
	}
	suite_add_tcase(suite, tcase);
	play_count++;
}

static void print_table(void)
{
	unsigned int sum = 0;

	printf("# %-52s %7s %7s %9s\n", "", "system", "alloca-", "failures");
	printf("# %-52s %7s %7s %9s\n", "call, where", "calls", "tions", "injected");
	for (int i = 0; i < play_count; i++) {
		if (rows[i].injections)
			printf("# %-52s %7u %7u %9u\n", plays[i].name, rows[i].calls,
			       rows[i].allocations, rows[i].injections);
		sum += rows[i].injections;
	}
	printf("# %-52s %7s %7s %9u\n", "all", "", "", sum);
}

int main(void)
{
	Suite *suite = suite_create("inject-calls");
	TCase *all = tcase_create("all");
	int status;

	rows = mmap(NULL, sizeof(*rows) * ARRAY_SIZE(plays), PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (rows == MAP_FAILED)
		return EXIT_FAILURE;
	tcase_add_test(all, all_calls);
	suite_add_tcase(suite, all);
	for (size_t i = 0; i < call_count; i++)
		for (enum place place = HERE; place < PLACES; place++)
			if (calls[i].places >> place & 1)
				add_play(suite, &calls[i], place);
	status = harness_run(suite);
	print_table();
	return status;
}
