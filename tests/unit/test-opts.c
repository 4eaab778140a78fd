/* SPDX-License-Identifier: MIT */
/* Options structs from callers older and newer than the library. */
#include "error.h"
#include "harness.h"
#include "opts.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>

struct known {
	size_t sz;
	uint64_t first;
	uint64_t second;
};

struct newer {
	struct known known;
	uint64_t third;
};

START_TEST(same_size_is_copied)
{
	struct known from = {.sz = sizeof(from), .first = 1, .second = 2}, to;

	ck_assert_int_eq(gmem_opts_read(&to, sizeof(to), &from), 0);
	ck_assert_mem_eq(&to, &from, sizeof(to));
}
END_TEST

START_TEST(members_that_an_older_caller_lacks_are_zero)
{
	struct known from = {.sz = offsetof(struct known, second), .first = 1, .second = 99}, to;

	memset(&to, 0xff, sizeof(to));
	ck_assert_int_eq(gmem_opts_read(&to, sizeof(to), &from), 0);
	ck_assert_uint_eq(to.first, 1);
	ck_assert_uint_eq(to.second, 0);
}
END_TEST

START_TEST(a_newer_caller_may_leave_new_members_zero)
{
	struct newer from = {.known = {.sz = sizeof(from), .first = 1}};
	struct known to;

	ck_assert_int_eq(gmem_opts_read(&to, sizeof(to), &from), 0);
	ck_assert_uint_eq(to.first, 1);
}
END_TEST

START_TEST(an_unknown_member_that_is_set_is_refused)
{
	struct newer from = {.known = {.sz = sizeof(from)}};
	struct known to = {.first = 7};

	/* Each byte of the tail counts, the last one too. */
	((unsigned char *)&from.third)[_i] = 1;
	ck_assert_int_eq(gmem_opts_read(&to, sizeof(to), &from), -E2BIG);
	ck_assert_int_eq(gmem_error_get_reason(), GMEM_REASON_OPTS_TAIL);
	ck_assert_uint_eq(to.first, 7);
}
END_TEST

START_TEST(a_senseless_size_is_refused)
{
	static const size_t sizes[] = {0, 1, sizeof(size_t), 4097, SIZE_MAX};
	struct known from = {.sz = sizes[_i]}, to;

	ck_assert_int_eq(gmem_opts_read(&to, sizeof(to), &from), -EINVAL);
	ck_assert_int_eq(gmem_error_get_reason(), GMEM_REASON_OPTS_SIZE);
}
END_TEST

START_TEST(null_is_refused)
{
	struct known to;

	ck_assert_int_eq(gmem_opts_read(&to, sizeof(to), NULL), -EINVAL);
	ck_assert_int_eq(gmem_error_get_reason(), GMEM_REASON_NULL);
}
END_TEST

/* ---- Structs that are filled in ---- */

START_TEST(a_senseless_size_cannot_be_filled_in)
{
	static const size_t sizes[] = {0, 1, sizeof(size_t), 4097, SIZE_MAX};
	struct known to = {.sz = sizes[_i]};

	ck_assert_int_eq(gmem_opts_check(&to), -EINVAL);
	ck_assert_int_eq(gmem_error_get_reason(), GMEM_REASON_OPTS_SIZE);
}
END_TEST

START_TEST(any_other_size_can_be_filled_in)
{
	static const size_t sizes[] = {sizeof(size_t) + 1, sizeof(struct known), 100, 4096};
	struct known to = {.sz = sizes[_i]};

	ck_assert_int_eq(gmem_opts_check(&to), 0);
	ck_assert_int_eq(gmem_opts_check(NULL), -EINVAL);
	ck_assert_int_eq(gmem_error_get_reason(), GMEM_REASON_NULL);
}
END_TEST

/* Callers of each version: what they have room for, zeros beyond that, and not a byte more. */
START_TEST(as_much_is_written_as_there_is_room_for)
{
	static const struct known from = {.sz = 77, .first = 0x1111111111111111, .second = 0x2222};
	unsigned char bytes[64] __attribute__((aligned(8)));
	size_t head = sizeof(size_t);

	for (size_t size = head + 1; size <= sizeof(bytes); size++) {
		size_t known = size < sizeof(from) ? size : sizeof(from);

		memset(bytes, 0xa5, sizeof(bytes));
		memcpy(bytes, &size, head);
		gmem_opts_write(bytes, &from, sizeof(from));
		ck_assert_mem_eq(bytes, &size, head);
		ck_assert_mem_eq(bytes + head, (const char *)&from + head, known - head);
		for (size_t i = known; i < sizeof(bytes); i++)
			ck_assert_uint_eq(bytes[i], i < size ? 0 : 0xa5);
	}
}
END_TEST

static Suite *make_suite(void)
{
	Suite *suite = suite_create("opts");
	TCase *read = tcase_create("read");
	TCase *fill = tcase_create("fill");

	tcase_add_test(read, same_size_is_copied);
	tcase_add_test(read, members_that_an_older_caller_lacks_are_zero);
	tcase_add_test(read, a_newer_caller_may_leave_new_members_zero);
	tcase_add_loop_test(read, an_unknown_member_that_is_set_is_refused, 0, 8);
	tcase_add_loop_test(read, a_senseless_size_is_refused, 0, 5);
	tcase_add_test(read, null_is_refused);
	suite_add_tcase(suite, read);
	tcase_add_loop_test(fill, a_senseless_size_cannot_be_filled_in, 0, 5);
	tcase_add_loop_test(fill, any_other_size_can_be_filled_in, 0, 4);
	tcase_add_test(fill, as_much_is_written_as_there_is_room_for);
	suite_add_tcase(suite, fill);
	return suite;
}

int main(void)
{
	return harness_run(make_suite());
}
