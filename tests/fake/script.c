/* SPDX-License-Identifier: MIT */
#include "script.h"

static void break_test(void *data, const char *message)
{
	(void)data;
	ck_abort_msg("%s", message);
}

struct gmem_fake *script_new(enum gmem_fake_kernel kernel)
{
	struct gmem_fake_opts opts = {.sz = sizeof(opts), .kernel = kernel, .fail = break_test};
	struct gmem_fake *fake;

	ck_works(gmem_fake_create(&opts, &fake));
	fake->page_size = 0x1000; /* whatever the host's is */
	return fake;
}

void script_end(struct gmem_fake *fake)
{
	gmem_fake_check(fake);
	gmem_fake_close(fake);
}

struct gmem_vm *script_vm(struct gmem_fake *fake, uint64_t flags)
{
	struct gmem_vm_opts opts = {.sz = sizeof(opts), .flags = flags};
	struct gmem_vm *vm;

	ck_works(gmem_fake_open_vm(fake, &opts, &vm));
	gmem_fake_forget(fake);
	return vm;
}

struct gmem_memfd *script_memfd(struct gmem_vm *vm, uint64_t size, uint64_t flags)
{
	struct gmem_memfd_opts opts = {.sz = sizeof(opts), .size = size, .flags = flags};
	struct gmem_memfd *memfd;

	ck_works(gmem_memfd_create(vm, &opts, &memfd));
	return memfd;
}

struct script_tally script_tally(const struct gmem_fake *fake)
{
	return (struct script_tally){
		.fds = gmem_fake_tally(fake, GMEM_FAKE_FDS),
		.mappings = gmem_fake_tally(fake, GMEM_FAKE_MAPPINGS),
		.inaccessible = gmem_fake_tally(fake, GMEM_FAKE_INACCESSIBLE),
		.slots = gmem_fake_tally(fake, GMEM_FAKE_SLOTS),
	};
}

void script_check_failure(int result, int error, enum gmem_reason reason, const char *what,
			  const char *file, int line)
{
	enum gmem_reason got = gmem_error_get_reason();

	if (result == -error && got == reason && *gmem_error_get_message())
		return;
	ck_abort_msg("%s:%d: %s is %d (%s), not %d (%s): %s", file, line, what, result,
		     result < 0 ? gmem_reason_to_string(got) : "success", -error,
		     gmem_reason_to_string(reason), gmem_error_get_message());
}

void script_check_success(int result, const char *what, const char *file, int line)
{
	if (result != 0)
		ck_abort_msg("%s:%d: %s is %d (%s): %s", file, line, what, result,
			     gmem_reason_to_string(gmem_error_get_reason()),
			     gmem_error_get_message());
}
