/* SPDX-License-Identifier: MIT */
/* For processors without a guest: what needs one is built, and skipped by NEED_GUEST(). */
#include "guest-machine.h"

const unsigned char guest_code[] = {0};
const size_t guest_code_size = 0;
const unsigned char guest_code_store[] = {0};
const unsigned char guest_code_load[] = {0};
const unsigned char guest_code_count[] = {0};
const unsigned char guest_code_await[] = {0};

void guest_machine_init(const struct guest *guest, int vm_fd)
{
	(void)guest;
	(void)vm_fd;
	ck_abort_msg("no guest for this processor");
}

void guest_machine_enter(const struct guest *guest, uint64_t routine, uint64_t gpa, uint32_t value)
{
	(void)guest;
	(void)routine;
	(void)gpa;
	(void)value;
}

int guest_machine_exit(const struct guest *guest)
{
	return (int)guest->run->exit_reason;
}

uint32_t guest_machine_value(const struct guest *guest)
{
	(void)guest;
	return 0;
}
