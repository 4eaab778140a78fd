/* SPDX-License-Identifier: MIT */
/* What a table of capabilities answers; how it is filled is in the fake and kvm tests. */
#include "caps.h"
#include "harness.h"

#include <errno.h>
#include <string.h>

START_TEST(capabilities_have_names)
{
	for (int cap = GMEM_CAP_GUEST_MEMFD; cap < GMEM_CAP_COUNT; cap++)
		ck_assert_str_ne(gmem_cap_to_string((enum gmem_cap)cap), "UNKNOWN");
	ck_assert_str_eq(gmem_cap_to_string(GMEM_CAP_GUEST_MEMFD), "GUEST_MEMFD");
	ck_assert_str_eq(gmem_cap_to_string(GMEM_CAP_BIND_CHECKED), "BIND_CHECKED");
	ck_assert_str_eq(gmem_cap_to_string(GMEM_CAP_EXIT_HYPERCALL), "EXIT_HYPERCALL");
	ck_assert_str_eq(gmem_cap_to_string(GMEM_CAP_CONVERT_IN_PLACE), "CONVERT_IN_PLACE");
	ck_assert_str_eq(gmem_cap_to_string((enum gmem_cap)0), "UNKNOWN");
	ck_assert_str_eq(gmem_cap_to_string((enum gmem_cap)GMEM_CAP_COUNT), "UNKNOWN");
}
END_TEST

START_TEST(a_capability_has_three_answers)
{
	struct gmem_caps caps = {0};
	uint64_t value = 1;

	ck_assert_int_eq(gmem_caps_get(&caps, GMEM_CAP_NUMA, &value), -EOPNOTSUPP);
	ck_assert_int_eq(gmem_error_get_reason(), GMEM_REASON_CAP_UNSUPPORTED);
	ck_assert_uint_eq(value, 0);
	caps.cap[GMEM_CAP_NUMA].value = 7;
	ck_assert_int_eq(gmem_caps_get(&caps, GMEM_CAP_NUMA, &value), 0);
	ck_assert_uint_eq(value, 7);
	caps.cap[GMEM_CAP_NUMA].value = 0;
	caps.cap[GMEM_CAP_NUMA].error = -EMFILE;
	ck_assert_int_eq(gmem_caps_get(&caps, GMEM_CAP_NUMA, &value), -EMFILE);
	ck_assert_int_eq(gmem_error_get_reason(), GMEM_REASON_CAP_PROBE_FAILED);
	ck_assert_ptr_nonnull(strstr(gmem_error_get_message(), "EMFILE"));
	ck_assert_uint_eq(value, 0);
}
END_TEST

/* A probe that the kernel answered with EOPNOTSUPP has found out that there is none. */
START_TEST(a_probe_that_says_unsupported_has_not_failed)
{
	struct gmem_caps caps = {0};
	uint64_t value;

	caps.cap[GMEM_CAP_USERFAULTFD].error = -EOPNOTSUPP;
	ck_assert_int_eq(gmem_caps_get(&caps, GMEM_CAP_USERFAULTFD, &value), -EOPNOTSUPP);
	ck_assert_int_eq(gmem_error_get_reason(), GMEM_REASON_CAP_UNSUPPORTED);
}
END_TEST

START_TEST(other_numbers_are_refused)
{
	static const int numbers[] = {-1, 0, GMEM_CAP_COUNT, 1 << 20};
	struct gmem_caps caps = {0};
	uint64_t value = 1;

	ck_assert_int_eq(gmem_caps_get(&caps, (enum gmem_cap)numbers[_i], &value), -EINVAL);
	ck_assert_int_eq(gmem_error_get_reason(), GMEM_REASON_ARGUMENT);
	ck_assert_uint_eq(value, 0);
}
END_TEST

static Suite *make_suite(void)
{
	Suite *suite = suite_create("caps");
	TCase *table = tcase_create("table");

	tcase_add_test(table, capabilities_have_names);
	tcase_add_test(table, a_capability_has_three_answers);
	tcase_add_test(table, a_probe_that_says_unsupported_has_not_failed);
	tcase_add_loop_test(table, other_numbers_are_refused, 0, 4);
	suite_add_tcase(suite, table);
	return suite;
}

int main(void)
{
	return harness_run(make_suite());
}
