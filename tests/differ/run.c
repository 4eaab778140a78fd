/* SPDX-License-Identifier: MIT */
#include "run.h"

#include "draw.h"
#include "expect.h"
#include "library.h"
#include "tally.h"
#include "twin.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PROBE_STEPS 1000
#define NEVER	    UINT64_MAX
#define RECENT	    12 /* steps shown with a disagreement */

struct session {
	const struct run_options *options;
	struct random random;
	struct world world;
	struct tally *tally;
	uint64_t number; /* of the step */
	uint64_t accepted, verdicts, no_verdicts;
	unsigned int has; /* WORLD_ bits */
	struct step recent[RECENT];
	char *problem;
	size_t problem_size;
};

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000U + (uint64_t)time.tv_nsec;
}

/* ---- Disagreements ---- */

/* Where the rest of a line goes. */
static FILE *begin_line(const struct session *session)
{
	fputs(session->options->prefix, session->options->out);
	return session->options->out;
}

static void print_answer(FILE *out, const char *who, const struct answer *answer,
			 const struct answer_look *look)
{
	fprintf(out,
		"  %s: %s %s, value 0x%" PRIx64 ", %u ioctls%s; before: %s size 0x%" PRIx64
		" word 0x%" PRIx64 "\n",
		who, expect_word(answer),
		answer->reason ? gmem_reason_to_string(answer->reason) : "", answer->value,
		answer->ioctls, answer->broken ? ", BROKEN" : "",
		look->error ? strerrorname_np(look->error) : "there", look->size, look->word);
}

static void print_recent(const struct session *session)
{
	uint64_t first = session->number + 1 > RECENT ? session->number + 1 - RECENT : 0;

	for (uint64_t i = first; i <= session->number; i++)
		step_print(begin_line(session), i, &session->recent[i % RECENT]);
}

static bool disagree(struct session *session, const char *what)
{
	const struct step *step = &session->recent[session->number % RECENT];

	snprintf(session->problem, session->problem_size,
		 "seed %" PRIu64 " step %" PRIu64 " (%s): %s", session->options->seed,
		 session->number, step_names[step->op], what);
	return false;
}

/* ---- One step ---- */

/* Some are there already: the twin gets what is new and is told of the others. */
static bool bring_slots(struct session *session, const struct step *step,
			const struct answer *library)
{
	for (uint8_t i = 0; i < step->count; i++) {
		struct step part = *step;
		struct answer answer;
		struct answer_look look;

		part.at = (uint8_t)(step->at + i);
		part.count = 1;
		part.slots[0] = step->slots[i];
		if (library->same[i] != STEP_NOWHERE) {
			twin_alias(part.at, library->same[i]);
			continue;
		}
		twin_begin(&part);
		twin_end(&answer, &look);
		if (answer.error)
			return disagree(session, "the kernel refuses one of several slots");
	}
	return true;
}

/* What only the kernel accepted is taken back, and what only the library did brought to the twin.
 */
static bool bring_together(struct session *session, const struct step *step,
			   const struct answer *library)
{
	bool same = answer_is_same(library, step->count);

	if (library->error || same)
		twin_undo();
	if (library->in_the_way)
		twin_keep(step->vm, step->slots[0].as_id, step->slots[0].id);
	return !same || bring_slots(session, step, library);
}

static bool same_look(const struct session *session, const struct answer_look *a,
		      const struct answer_look *b)
{
	bool words = session->has & WORLD_PRIVATE || a->word == b->word;

	return (a->error != 0) == (b->error != 0) && a->size == b->size && words;
}

static bool judge(struct session *session, const struct step *step, struct answer *library,
		  struct answer *twin, const struct answer_look looks[2])
{
	const char *problem = NULL;

	/* What a half holds after a conversion is not defined. */
	if (session->has & WORLD_PRIVATE && (step->op == STEP_READ || step->op == STEP_LOAD))
		library->value = twin->value;
	if (step->op != STEP_RENEW && !same_look(session, &looks[0], &looks[1]))
		problem = "guest memory is not the same before the step";
	else if (!expect_no_verdict(library, twin) &&
		 !expect_holds(&session->world, step, library, twin))
		problem = "they disagree";
	if (!problem)
		return true;
	print_recent(session);
	print_answer(begin_line(session), "library", library, &looks[0]);
	if (library->error)
		fprintf(begin_line(session), "  library: %s\n", gmem_error_get_message());
	print_answer(begin_line(session), "kernel ", twin, &looks[1]);
	return disagree(session, problem);
}

static void count(struct session *session, const struct step *step, const struct answer *library,
		  const struct answer *twin)
{
	if (expect_no_verdict(library, twin)) {
		session->no_verdicts++;
		return;
	}
	session->verdicts++;
	session->accepted += twin->error == 0;
	tally_add(session->tally, step, library, twin);
}

static bool make_step(struct session *session, struct step *step)
{
	struct answer library, twin;
	struct answer_look looks[2] = {{.error = 0}, {.error = 0}};

	session->recent[session->number % RECENT] = *step;
	if (session->number >= session->options->show_from)
		step_print(begin_line(session), session->number, step);
	twin_begin(step);
	if (step->op != STEP_RENEW)
		library_look(&step->look, &looks[0]);
	library_do(step, &library);
	twin_end(&twin, &looks[1]);
	if (session->number >= session->options->show_from)
		fprintf(begin_line(session), "         library %s, kernel %s\n",
			library.error ? gmem_reason_to_string(library.reason) : "accepted",
			expect_word(&twin));
	if (!judge(session, step, &library, &twin, looks))
		return false;
	count(session, step, &library, &twin);
	/* Both sides are made anew rather than brought back. */
	if (expect_no_verdict(&library, &twin)) {
		draw_renewal(&session->random, session->options->type, step);
		return make_step(session, step);
	}
	if (step->op == STEP_RENEW) {
		world_begin(&session->world, step);
		session->has = session->world.has;
	} else if (library.error == 0) {
		world_note(&session->world, step, &library);
	}
	return bring_together(session, step, &library);
}

/* ---- Probes ---- */

struct probes {
	unsigned int count;
	struct probe list[PROBE_MAX];
};

static void add_probe(struct probes *probes, const struct probe *probe)
{
	if (probes->count < PROBE_MAX)
		probes->list[probes->count++] = *probe;
}

/* The pages at both ends of a range, and beside them. */
static void add_edges(struct probes *probes, struct probe probe, uint64_t start, uint64_t size)
{
	const uint64_t edges[] = {start - step_page(), start, start + size - step_page(),
				  start + size};

	for (unsigned int i = 0; i < sizeof(edges) / sizeof(edges[0]); i++) {
		probe.number = edges[i];
		add_probe(probes, &probe);
	}
}

/* What some of the slots so far took, and what no slot should have. */
static void choose_probes(struct session *session, struct probes *probes)
{
	probes->count = 0;
	for (unsigned int i = 0; i < STEP_SLOTS; i++) {
		const struct world_slot *slot = &session->world.slots[i];
		const struct step_slot *asked = &slot->asked;
		struct probe probe = {.vm = slot->vm, .as_id = asked->as_id};

		if (asked->size == 0 || !random_once(&session->random, 3))
			continue;
		add_probe(probes, &(struct probe){.kind = PROBE_ID,
						  .vm = slot->vm,
						  .as_id = asked->as_id,
						  .number = asked->id});
		add_edges(probes, probe, asked->gpa, asked->size);
		if (asked->memfd == STEP_NOWHERE || !session->world.memfds[asked->memfd].live)
			continue;
		probe.kind = PROBE_MEMFD;
		probe.memfd = asked->memfd;
		add_edges(probes, probe, asked->offset, asked->size);
	}
	for (unsigned int i = 0; i < 32; i++) {
		uint64_t number = random_next(&session->random);
		struct probe probe = {.kind = number & 1 ? PROBE_ID : PROBE_GPA,
				      .vm = number >> 1 & 1};

		number >>= 2;
		probe.number = probe.kind == PROBE_ID ? number % 64 : number % 2048 * step_page();
		add_probe(probes, &probe);
	}
}

static bool compare_probes(struct session *session)
{
	static const char *const names[] = {"guest address", "id", "memfd offset"};
	struct probes probes;
	int library[PROBE_MAX], twin[PROBE_MAX];

	choose_probes(session, &probes);
	twin_begin_probes(probes.list, probes.count);
	library_probe(probes.list, library, probes.count);
	twin_end_probes(twin, probes.count);
	for (unsigned int i = 0; i < probes.count; i++) {
		const struct probe *probe = &probes.list[i];

		if (library[i] == twin[i])
			continue;
		print_recent(session);
		fprintf(begin_line(session),
			"  %s 0x%" PRIx64 " of vm %u, space %" PRIu32
			": %d at the library's, %d at the twin's\n",
			names[probe->kind], probe->number, probe->vm, probe->as_id, library[i],
			twin[i]);
		return disagree(session, "a probe finds another state");
	}
	return true;
}

/* ---- All of it ---- */

static void show_progress(const struct session *session, uint64_t begin)
{
	double seconds = (double)(now() - begin) / 1e9;

	fprintf(stderr, "\r%" PRIu64 " of %" PRIu64 " steps, %.0f a second ", session->number,
		session->options->steps, (double)session->number / (seconds > 0 ? seconds : 1));
}

static bool make_steps(struct session *session)
{
	const struct run_options *options = session->options;
	uint64_t begin = now();
	struct step step;

	draw_renewal(&session->random, options->type, &step);
	for (session->number = 0; session->number < options->steps; session->number++) {
		if (!make_step(session, &step))
			return false;
		if (session->number % PROBE_STEPS == PROBE_STEPS - 1 && !compare_probes(session))
			return false;
		if (options->progress && session->number % PROBE_STEPS == 0)
			show_progress(session, begin);
		draw_step(&session->random, &session->world, options->type, &step);
	}
	if (options->progress)
		fputc('\n', stderr);
	return true;
}

/* A million steps reach each reason a hundred times. */
static bool saw_enough(struct session *session)
{
	uint64_t least = session->options->steps / 10000;

	for (int i = 1; i < 256; i++) {
		enum gmem_reason reason = (enum gmem_reason)i;
		uint64_t seen = tally_of_reason(session->tally, reason);

		if (seen >= least || !expect_is_reachable(reason, session->has))
			continue;
		snprintf(session->problem, session->problem_size,
			 "%s was met %" PRIu64 " times, not %" PRIu64,
			 gmem_reason_to_string(reason), seen, least);
		return false;
	}
	if (session->no_verdicts * 100 > session->options->steps)
		snprintf(session->problem, session->problem_size,
			 "%" PRIu64 " steps had no verdict: more than 1 %%", session->no_verdicts);
	else if (session->accepted * 10 < session->verdicts * 3)
		snprintf(session->problem, session->problem_size,
			 "the kernel accepted %" PRIu64 " of %" PRIu64 ": fewer than 30 %%",
			 session->accepted, session->verdicts);
	else
		return true;
	return false;
}

static void print_summary(const struct session *session, double seconds)
{
	const struct run_options *options = session->options;
	double all = (double)(session->verdicts + session->no_verdicts);

	tally_print(session->tally, options->out, options->prefix);
	for (int i = 1; i < 256; i++) {
		const char *why = expect_unreachable((enum gmem_reason)i);

		if (why)
			fprintf(options->out, "%sout of reach: %s (%s)\n", options->prefix,
				gmem_reason_to_string((enum gmem_reason)i), why);
	}
	fprintf(options->out,
		"%sseed %" PRIu64 ": %" PRIu64 " verdicts, %.1f %% accepted by the kernel, "
		"%.2f %% without a verdict, %.0f steps a second\n",
		options->prefix, options->seed, session->verdicts,
		100 * (double)session->accepted / (all > 0 ? all : 1),
		100 * (double)session->no_verdicts / (all > 0 ? all : 1), all / seconds);
}

bool run(const struct run_options *options, char *problem, size_t size)
{
	struct session session = {.options = options,
				  .random = {.state = options->seed},
				  .tally = tally_make(),
				  .problem = problem,
				  .problem_size = size};
	uint64_t begin = now();
	bool good;

	fprintf(options->out, "%sseed %" PRIu64 ", %" PRIu64 " steps, VM type %u\n",
		options->prefix, options->seed, options->steps, options->type);
	step_make_host();
	twin_start();
	good = make_steps(&session);
	if (good)
		good = saw_enough(&session);
	print_summary(&session, (double)(now() - begin) / 1e9);
	library_close_all(options->seed);
	if (!twin_stop() && good) {
		snprintf(problem, size, "the twin failed");
		good = false;
	}
	tally_free(session.tally);
	return good;
}
