/* SPDX-License-Identifier: MIT */
/* What the install test compiles against the installed library: C11 and the public header only. */
#include <gmem.h>

#include <stdio.h>
#include <stdlib.h>

int main(void)
{
	struct gmem_vm_opts opts = {
		.sz = sizeof(opts),
		.device = getenv("GMEM_TEST_KVM_DEVICE"),
	};
	struct gmem_vm *vm;

	printf("version %s\n", gmem_get_version());
	if (gmem_vm_open(&opts, &vm) < 0)
		printf("no VM: %s: %s\n", gmem_reason_to_string(gmem_error_get_reason()),
		       gmem_error_get_message());
	else
		printf("a VM\n");
	gmem_vm_close(vm);
	return EXIT_SUCCESS;
}
