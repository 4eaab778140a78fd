/* SPDX-License-Identifier: MIT */
#include "harness.h"
#include "inflight.h"

#include <pthread.h>
#include <string.h>
#include <unistd.h>

#define READERS (GMEM_INFLIGHT_CELLS + 6) /* six find no cell, and are counted */

struct writer {
	struct gmem_inflight inflight;
	unsigned int cell[READERS];
	pthread_t thread;
	_Atomic bool done;
};

static struct writer writer;

static void start(void)
{
	memset(&writer, 0, sizeof(writer));
}

static void *wait_for_all(void *data)
{
	(void)data;
	gmem_inflight_wait(&writer.inflight, &gmem_sys_linux);
	atomic_store(&writer.done, true);
	return NULL;
}

static void start_writer(void)
{
	ck_assert_int_eq(pthread_create(&writer.thread, NULL, wait_for_all, NULL), 0);
}

/* Long enough for a writer that does not wait to be caught. */
static void assert_still_waiting(void)
{
	usleep(20000);
	ck_assert(!atomic_load(&writer.done));
}

START_TEST(cells_are_taken_once)
{
	bool taken[GMEM_INFLIGHT_CELLS] = {false};

	for (int i = 0; i < GMEM_INFLIGHT_CELLS; i++) {
		unsigned int cell = gmem_inflight_enter(&writer.inflight);

		ck_assert_uint_lt(cell, GMEM_INFLIGHT_CELLS);
		ck_assert(!taken[cell]);
		taken[cell] = true;
	}
	ck_assert_uint_ge(gmem_inflight_enter(&writer.inflight), GMEM_INFLIGHT_CELLS);
}
END_TEST

START_TEST(a_cell_can_be_taken_again)
{
	unsigned int first = gmem_inflight_enter(&writer.inflight);

	gmem_inflight_leave(&writer.inflight, first);
	ck_assert_uint_eq(gmem_inflight_enter(&writer.inflight), first);
}
END_TEST

START_TEST(nobody_is_waited_for_where_nobody_reads)
{
	gmem_inflight_wait(&writer.inflight, &gmem_sys_linux);
	gmem_inflight_leave(&writer.inflight, gmem_inflight_enter(&writer.inflight));
	gmem_inflight_wait(&writer.inflight, &gmem_sys_linux);
}
END_TEST

/* With one reader left in a cell (0) or among the counted (1), the writer waits. */
START_TEST(the_writer_waits_for_the_last_reader)
{
	int last = _i ? READERS - 1 : 0;

	for (int i = 0; i < READERS; i++)
		writer.cell[i] = gmem_inflight_enter(&writer.inflight);
	start_writer();
	for (int i = 0; i < READERS; i++)
		if (i != last)
			gmem_inflight_leave(&writer.inflight, writer.cell[i]);
	assert_still_waiting();
	gmem_inflight_leave(&writer.inflight, writer.cell[last]);
	ck_assert_int_eq(pthread_join(writer.thread, NULL), 0);
}
END_TEST

static void *read_all_the_time(void *data)
{
	(void)data;
	while (!atomic_load(&writer.done))
		gmem_inflight_leave(&writer.inflight, gmem_inflight_enter(&writer.inflight));
	return NULL;
}

START_TEST(readers_that_come_and_go_do_not_starve_the_writer)
{
	pthread_t readers[3];

	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(pthread_create(&readers[i], NULL, read_all_the_time, NULL), 0);
	for (int i = 0; i < 1000; i++)
		gmem_inflight_wait(&writer.inflight, &gmem_sys_linux);
	atomic_store(&writer.done, true);
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(pthread_join(readers[i], NULL), 0);
}
END_TEST

static Suite *make_suite(void)
{
	Suite *suite = suite_create("inflight");
	TCase *reader = tcase_create("reader");
	TCase *waiting = tcase_create("writer");

	tcase_add_checked_fixture(reader, start, NULL);
	tcase_add_checked_fixture(waiting, start, NULL);
	tcase_add_test(reader, cells_are_taken_once);
	tcase_add_test(reader, a_cell_can_be_taken_again);
	tcase_add_test(waiting, nobody_is_waited_for_where_nobody_reads);
	tcase_add_loop_test(waiting, the_writer_waits_for_the_last_reader, 0, 2);
	tcase_add_test(waiting, readers_that_come_and_go_do_not_starve_the_writer);
	suite_add_tcase(suite, reader);
	suite_add_tcase(suite, waiting);
	return suite;
}

int main(void)
{
	return harness_run(make_suite());
}
