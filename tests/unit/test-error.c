/* SPDX-License-Identifier: MIT */
#include "error.h"
#include "harness.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#define REASONS 77 /* in include/gmem.h */

START_TEST(a_failure_leaves_reason_and_message)
{
	ck_assert_int_eq(gmem_fail(EINVAL, GMEM_REASON_RANGE_EMPTY, "range %d is empty", 7),
			 -EINVAL);
	ck_assert_int_eq(gmem_error_get_reason(), GMEM_REASON_RANGE_EMPTY);
	ck_assert_str_eq(gmem_error_get_message(), "range 7 is empty");
}
END_TEST

/* A kernel that fails without an errno is no success. */
START_TEST(a_failure_is_negative)
{
	ck_assert_int_eq(gmem_fail(0, GMEM_REASON_NULL, "nothing"), -EINVAL);
	ck_assert_int_eq(gmem_fail_kernel(0, "call"), -EINVAL);
	ck_assert_int_eq(gmem_fail_kernel(-EIO, "call"), -EINVAL);
}
END_TEST

START_TEST(nothing_has_failed_at_first)
{
	ck_assert_int_eq(gmem_error_get_reason(), GMEM_REASON_NONE);
	ck_assert_str_eq(gmem_error_get_message(), "");
}
END_TEST

static const struct {
	int error;
	enum gmem_reason reason;
} meanings[] = {
	{ENOMEM, GMEM_REASON_NO_MEMORY},      {EMFILE, GMEM_REASON_FD_LIMIT},
	{ENFILE, GMEM_REASON_FD_LIMIT},	      {EPERM, GMEM_REASON_KVM_BLOCKED},
	{ENOSYS, GMEM_REASON_KVM_BLOCKED},    {EHWPOISON, GMEM_REASON_POISONED},
	{EINVAL, GMEM_REASON_KERNEL_REFUSED}, {EIO, GMEM_REASON_KERNEL_REFUSED},
};

START_TEST(a_failed_syscall_has_the_reason_of_its_errno)
{
	int error = meanings[_i].error;

	ck_assert_int_eq(gmem_fail_kernel(error, "call %s", "x"), -error);
	ck_assert_int_eq(gmem_error_get_reason(), meanings[_i].reason);
	ck_assert_ptr_nonnull(strstr(gmem_error_get_message(), "call x: "));
	ck_assert_ptr_nonnull(strstr(gmem_error_get_message(), gmem_errno_name(error)));
}
END_TEST

START_TEST(errnos_have_names)
{
	ck_assert_str_eq(gmem_errno_name(EINVAL), "EINVAL");
	ck_assert_str_eq(gmem_errno_name(99999), "errno 99999");
}
END_TEST

START_TEST(a_prefix_goes_in_front)
{
	gmem_fail(EINVAL, GMEM_REASON_NULL, "the slot is NULL");
	gmem_error_prefix("entry %d: ", 3);
	ck_assert_str_eq(gmem_error_get_message(), "entry 3: the slot is NULL");
	ck_assert_int_eq(gmem_error_get_reason(), GMEM_REASON_NULL);
}
END_TEST

START_TEST(long_messages_are_cut_and_ended)
{
	char text[2000];

	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = 0;
	gmem_fail_kernel(EINVAL, "%s", text);
	ck_assert_uint_lt(strlen(gmem_error_get_message()), 512);
	gmem_error_prefix("%s", text);
	ck_assert_uint_lt(strlen(gmem_error_get_message()), 512);
}
END_TEST

static void *fail_elsewhere(void *data)
{
	(void)data;
	ck_assert_int_eq(gmem_error_get_reason(), GMEM_REASON_NONE);
	gmem_fail(ENOMEM, GMEM_REASON_NO_MEMORY, "elsewhere");
	return NULL;
}

START_TEST(each_thread_has_its_own)
{
	pthread_t thread;

	gmem_fail(EINVAL, GMEM_REASON_NULL, "here");
	ck_assert_int_eq(pthread_create(&thread, NULL, fail_elsewhere, NULL), 0);
	ck_assert_int_eq(pthread_join(thread, NULL), 0);
	ck_assert_int_eq(gmem_error_get_reason(), GMEM_REASON_NULL);
	ck_assert_str_eq(gmem_error_get_message(), "here");
}
END_TEST

START_TEST(a_failure_can_be_put_back)
{
	struct gmem_error error;

	gmem_fail(EINVAL, GMEM_REASON_NULL, "first");
	gmem_error_save(&error);
	gmem_fail(ENOMEM, GMEM_REASON_NO_MEMORY, "second");
	gmem_error_restore(&error);
	ck_assert_int_eq(gmem_error_get_reason(), GMEM_REASON_NULL);
	ck_assert_str_eq(gmem_error_get_message(), "first");
}
END_TEST

/* Every value of the enumeration has a name, and nothing else has. */
START_TEST(reasons_have_names)
{
	int named = 0;

	for (int i = -1; i < 1000; i++)
		if (strcmp(gmem_reason_to_string((enum gmem_reason)i), "UNKNOWN"))
			named++;
	ck_assert_str_eq(gmem_reason_to_string(GMEM_REASON_RANGE_WRAPS), "RANGE_WRAPS");
	ck_assert_str_eq(gmem_reason_to_string(GMEM_REASON_KERNEL_REFUSED), "KERNEL_REFUSED");
	ck_assert_int_eq(named, REASONS);
}
END_TEST

START_TEST(the_library_has_a_version)
{
	ck_assert_ptr_nonnull(strchr(gmem_get_version(), '.'));
}
END_TEST

static Suite *make_suite(void)
{
	Suite *suite = suite_create("error");
	TCase *thread = tcase_create("thread");

	tcase_add_test(thread, nothing_has_failed_at_first);
	tcase_add_test(thread, a_failure_leaves_reason_and_message);
	tcase_add_test(thread, a_failure_is_negative);
	tcase_add_loop_test(thread, a_failed_syscall_has_the_reason_of_its_errno, 0,
			    (int)(sizeof(meanings) / sizeof(meanings[0])));
	tcase_add_test(thread, errnos_have_names);
	tcase_add_test(thread, a_prefix_goes_in_front);
	tcase_add_test(thread, long_messages_are_cut_and_ended);
	tcase_add_test(thread, each_thread_has_its_own);
	tcase_add_test(thread, a_failure_can_be_put_back);
	tcase_add_test(thread, reasons_have_names);
	tcase_add_test(thread, the_library_has_a_version);
	suite_add_tcase(suite, thread);
	return suite;
}

int main(void)
{
	return harness_run(make_suite());
}
