/* SPDX-License-Identifier: MIT */
#include "vm.h"

#include "bench.h"

struct gmem_vm *vm_open(uint64_t type, uint64_t flags)
{
	const struct gmem_vm_opts opts = {
		.sz = sizeof(opts),
		.device = bench_device(),
		.type = type,
		.flags = flags,
	};
	struct gmem_vm *vm;

	if (gmem_vm_open(&opts, &vm) < 0)
		bench_skip("no such VM: %s", gmem_error_get_message());
	return vm;
}

struct gmem_vm *vm_open_shared(void)
{
	struct gmem_vm *vm = vm_open(0, 0);

	vm_need(vm, GMEM_CAP_GUEST_MEMFD_FLAGS, VM_SHARED,
		"this kernel has no guest_memfd that host and guest share");
	return vm;
}

void vm_need(const struct gmem_vm *vm, enum gmem_cap cap, uint64_t wanted, const char *what)
{
	uint64_t value;

	if (gmem_vm_get_cap(vm, cap, &value) < 0 || (value & wanted) != wanted)
		bench_skip("%s", what);
}
