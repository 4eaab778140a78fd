/* SPDX-License-Identifier: MIT */
/* The map of private pages by itself, on a VM that is nothing but that map. */
#include "error.h"
#include "harness.h"
#include "visibility.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

static struct gmem_vm *vm;

static void start(void)
{
	vm = calloc(1, sizeof(*vm));
	ck_assert_ptr_nonnull(vm);
	vm->sys = &gmem_sys_linux;
	gmem_interval_init(&vm->private);
	gmem_interval_init(&vm->twice);
}

static void end(void)
{
	gmem_interval_fini(&vm->private);
	gmem_interval_fini(&vm->twice);
	free(vm);
}

static void set(uint64_t first, uint64_t last, enum gmem_visibility visibility)
{
	ck_assert_int_eq(gmem_visibility_reserve(vm), 0);
	gmem_visibility_set(vm, first, last, visibility);
}

static void set_twice(uint64_t first, uint64_t last, bool twice)
{
	ck_assert_int_eq(gmem_visibility_reserve(vm), 0);
	if (twice)
		gmem_visibility_set_twice(vm, first, last);
	else
		gmem_visibility_clear_twice(vm, first, last);
}

/* [10, 30) and [50, 60) private; [20, 40) held twice. */
static void start_mixed(void)
{
	start();
	set(10, 20, GMEM_VISIBILITY_PRIVATE);
	set(20, 30, GMEM_VISIBILITY_PRIVATE);
	set_twice(20, 45, true);
	set_twice(40, 45, false);
	set(50, 60, GMEM_VISIBILITY_PRIVATE);
}

START_TEST(two_values_are_visibilities)
{
	static const int others[] = {-1, 2, 3, 1 << 30};

	ck_assert_int_eq(gmem_visibility_check(GMEM_VISIBILITY_SHARED), 0);
	ck_assert_int_eq(gmem_visibility_check(GMEM_VISIBILITY_PRIVATE), 0);
	for (int i = 0; i < 4; i++) {
		ck_assert_int_eq(gmem_visibility_check((enum gmem_visibility)others[i]), -EINVAL);
		ck_assert_int_eq(gmem_error_get_reason(), GMEM_REASON_ARGUMENT);
	}
}
END_TEST

START_TEST(all_is_shared_at_first)
{
	uint64_t until = 1;

	ck_assert(!gmem_visibility_is_private(vm, 0, &until));
	ck_assert_uint_eq(until, UINT64_MAX);
	until = 1;
	ck_assert(!gmem_visibility_is_twice(vm, UINT64_MAX - 1, &until));
	ck_assert_uint_eq(until, UINT64_MAX);
}
END_TEST

static const struct {
	uint64_t at;
	bool is_private;
	uint64_t private_until;
	bool is_twice;
	uint64_t twice_until;
} points[] = {
	{0, false, 10, false, 20},
	{9, false, 10, false, 20},
	{10, true, 30, false, 20},
	{19, true, 30, false, 20},
	{20, true, 30, true, 40},
	{29, true, 30, true, 40},
	{30, false, 50, true, 40},
	{39, false, 50, true, 40},
	{40, false, 50, false, UINT64_MAX},
	{49, false, 50, false, UINT64_MAX},
	{50, true, 60, false, UINT64_MAX},
	{60, false, UINT64_MAX, false, UINT64_MAX},
	{UINT64_MAX, false, UINT64_MAX, false, UINT64_MAX},
};

START_TEST(a_point_is_looked_up)
{
	uint64_t until = 1;

	ck_assert_int_eq(gmem_visibility_is_private(vm, points[_i].at, &until),
			 points[_i].is_private);
	ck_assert_uint_eq(until, points[_i].private_until);
	ck_assert_int_eq(gmem_visibility_is_twice(vm, points[_i].at, &until), points[_i].is_twice);
	ck_assert_uint_eq(until, points[_i].twice_until);
}
END_TEST

/* Of each range, against a count of its points one by one; what is there is added to. */
START_TEST(ranges_are_summed)
{
	for (uint64_t first = 0; first < 70; first += 3)
		for (uint64_t last = first; last < 70; last++) {
			struct gmem_visibility_sum sum = {1000, 2000, 3000};
			uint64_t expected[3] = {1000, 2000, 3000}, until;

			for (uint64_t at = first; at < last; at++) {
				expected[gmem_visibility_is_private(vm, at, &until) ? 0 : 1]++;
				expected[2] += gmem_visibility_is_twice(vm, at, &until) ? 1 : 0;
			}
			gmem_visibility_add(vm, first, last, &sum);
			ck_assert_uint_eq(sum.private_bytes, expected[0]);
			ck_assert_uint_eq(sum.shared_bytes, expected[1]);
			ck_assert_uint_eq(sum.twice_bytes, expected[2]);
		}
}
END_TEST

/* What is plainly shared again costs nothing. */
START_TEST(what_is_shared_has_no_entry)
{
	ck_assert_uint_eq(vm->private.count, 2);
	ck_assert_uint_eq(vm->twice.count, 1);
	set(30, 50, GMEM_VISIBILITY_PRIVATE);
	ck_assert_uint_eq(vm->private.count, 1);
	set(0, 55, GMEM_VISIBILITY_SHARED);
	ck_assert_uint_eq(vm->private.count, 1);
	set(55, UINT64_MAX, GMEM_VISIBILITY_SHARED);
	ck_assert_uint_eq(vm->private.count, 0);
	set_twice(25, 30, false);
	ck_assert_uint_eq(vm->twice.count, 2);
	set_twice(0, UINT64_MAX, false);
	ck_assert_uint_eq(vm->twice.count, 0);
}
END_TEST

/* A writer that is stopped in its middle is waited for. */
static void *go_on(void *data)
{
	vm->sys->nap(vm->sys);
	vm->sys->nap(vm->sys);
	atomic_fetch_add(&vm->private.sequence, 1);
	return data;
}

START_TEST(a_stopped_writer_is_waited_for)
{
	pthread_t writer;
	uint64_t until;

	atomic_fetch_add(&vm->private.sequence, 1);
	ck_assert_int_eq(pthread_create(&writer, NULL, go_on, NULL), 0);
	ck_assert(gmem_visibility_is_private(vm, 25, &until));
	ck_assert_int_eq(pthread_join(writer, NULL), 0);
}
END_TEST

static Suite *make_suite(void)
{
	Suite *suite = suite_create("visibility");
	TCase *empty = tcase_create("empty"), *mixed = tcase_create("mixed");

	tcase_add_checked_fixture(empty, start, end);
	tcase_add_test(empty, two_values_are_visibilities);
	tcase_add_test(empty, all_is_shared_at_first);
	tcase_add_checked_fixture(mixed, start_mixed, end);
	tcase_add_loop_test(mixed, a_point_is_looked_up, 0,
			    (int)(sizeof(points) / sizeof(points[0])));
	tcase_add_test(mixed, ranges_are_summed);
	tcase_add_test(mixed, what_is_shared_has_no_entry);
	tcase_add_test(mixed, a_stopped_writer_is_waited_for);
	suite_add_tcase(suite, empty);
	suite_add_tcase(suite, mixed);
	return suite;
}

int main(void)
{
	return harness_run(make_suite());
}
