/* SPDX-License-Identifier: MIT */
/* For processors on which the guest makes no hypercalls; guest_has_calls lets tests skip what needs
 * them. */
#include "guest-machine.h"

const bool guest_has_calls = false;

void guest_begin_call(struct guest *guest, uint64_t number, const uint64_t args[3])
{
	(void)guest;
	(void)number;
	(void)args;
	ck_abort_msg("no hypercalls on this processor");
}

void guest_begin_work(struct guest *guest, const struct guest_work *work)
{
	(void)guest;
	(void)work;
	ck_abort_msg("no hypercalls on this processor");
}

uint64_t guest_work_word(const struct guest_work *work, uint64_t gpa, uint64_t round)
{
	(void)work;
	return gpa ^ round;
}

int64_t guest_result(const struct guest *guest, uint64_t *gpa)
{
	(void)guest;
	*gpa = 0;
	return -1;
}
