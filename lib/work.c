/* SPDX-License-Identifier: MIT */
#include "work.h"

#include <pthread.h>
#include <signal.h>

struct worker {
	struct gmem_work *work;
	unsigned int number;
	pthread_t thread;
};

static void *run(void *data)
{
	const struct worker *worker = data;
	struct gmem_work *work = worker->work;

	while (atomic_load(&work->error) == 0) {
		uint64_t from = atomic_fetch_add(&work->next, work->part);
		uint64_t left = from < work->end ? work->end - from : 0;
		int none = 0;
		int r;

		if (left == 0)
			break;
		r = work->part_fn(work, worker->number, from,
				  left < work->part ? left : work->part);
		if (r < 0)
			atomic_compare_exchange_strong(&work->error, &none, r);
	}
	return NULL;
}

/* As many helpers as the system gives. */
static unsigned int start(struct gmem_work *work, struct worker *helpers, unsigned int count)
{
	unsigned int started = 0;
	sigset_t all, before;

	if (count == 0)
		return 0;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	for (; started < count; started++) {
		helpers[started] = (struct worker){.work = work, .number = started + 1};
		if (pthread_create(&helpers[started].thread, NULL, run, &helpers[started]) != 0)
			break;
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return started;
}

int gmem_work_run(struct gmem_work *work, unsigned int threads)
{
	uint64_t parts = (work->end - work->next - 1) / work->part + 1;
	struct worker helpers[GMEM_WORK_THREADS_MAX];
	struct worker self = {.work = work};
	unsigned int started;

	if (threads > GMEM_WORK_THREADS_MAX)
		threads = GMEM_WORK_THREADS_MAX;
	if (parts < threads)
		threads = (unsigned int)parts;
	started = start(work, helpers, threads - 1);
	run(&self);
	while (started > 0)
		pthread_join(helpers[--started].thread, NULL);
	return atomic_load(&work->error);
}
