/* SPDX-License-Identifier: MIT */
#include "allocator.h"

#include <check.h>
#include <pthread.h>
#include <stdlib.h>

#define PIECES_MAX 1024

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);
void __real_free(void *p);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *old, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t size);
void __wrap_free(void *p);

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
	void *p;
	size_t size;
} pieces[PIECES_MAX];
static bool armed;
static unsigned int count, fails_at;
static _Thread_local int inside;

void allocator_leave_library(void)
{
	inside--;
}

void allocator_enter_library(void)
{
	inside++;
}

void allocator_arm(unsigned int n)
{
	pthread_mutex_lock(&lock);
	armed = true;
	count = 0;
	fails_at = n;
	pthread_mutex_unlock(&lock);
}

unsigned int allocator_disarm(void)
{
	pthread_mutex_lock(&lock);
	armed = false;
	pthread_mutex_unlock(&lock);
	return count;
}

struct allocator_live allocator_live(void)
{
	struct allocator_live live = {0};

	pthread_mutex_lock(&lock);
	for (size_t i = 0; i < PIECES_MAX; i++) {
		live.pieces += pieces[i].p != NULL;
		live.bytes += pieces[i].p ? pieces[i].size : 0;
	}
	pthread_mutex_unlock(&lock);
	return live;
}

static bool is_refused(void)
{
	bool refused;

	if (inside <= 0)
		return false;
	pthread_mutex_lock(&lock);
	refused = armed && ++count == fails_at;
	pthread_mutex_unlock(&lock);
	return refused;
}

/* Put `p` into the place of `old`, which is NULL for a free one. */
static bool replace(void *old, void *p, size_t size)
{
	size_t i = 0;

	pthread_mutex_lock(&lock);
	while (i < PIECES_MAX && pieces[i].p != old)
		i++;
	if (i < PIECES_MAX) {
		pieces[i].p = p;
		pieces[i].size = size;
	}
	pthread_mutex_unlock(&lock);
	return i < PIECES_MAX;
}

static void *note(void *p, size_t size)
{
	if (p && inside > 0 && !replace(NULL, p, size))
		ck_abort_msg("the library has more than %d pieces of memory", PIECES_MAX);
	return p;
}

void *__wrap_malloc(size_t size)
{
	return is_refused() ? NULL : note(__real_malloc(size), size);
}

void *__wrap_calloc(size_t n, size_t size)
{
	return is_refused() ? NULL : note(__real_calloc(n, size), n * size);
}

void *__wrap_aligned_alloc(size_t alignment, size_t size)
{
	return is_refused() ? NULL : note(__real_aligned_alloc(alignment, size), size);
}

void *__wrap_realloc(void *old, size_t size)
{
	void *p;

	if (is_refused())
		return NULL;
	if (old)
		replace(old, NULL, 0);
	p = __real_realloc(old, size);
	if (!p)
		abort();
	return note(p, size);
}

void __wrap_free(void *p)
{
	if (p)
		replace(p, NULL, 0);
	__real_free(p);
}
