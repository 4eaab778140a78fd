// SPDX-License-Identifier: MIT
// What the install test compiles against the installed library: C++17 and the public header only.
#include <gmem.h>

#include <cstdlib>
#include <iostream>
#include <memory>

struct vm_closer {
	void operator()(gmem_vm *vm) const
	{
		gmem_vm_close(vm);
	}
};

int main()
{
	gmem_vm_opts opts{};
	gmem_vm *handle = nullptr;

	opts.sz = sizeof(opts);
	opts.device = std::getenv("GMEM_TEST_KVM_DEVICE");
	std::cout << "version " << gmem_get_version() << '\n';
	int rc = gmem_vm_open(&opts, &handle);
	std::unique_ptr<gmem_vm, vm_closer> vm(handle);
	if (rc < 0)
		std::cout << "no VM: " << gmem_reason_to_string(gmem_error_get_reason()) << ": "
			  << gmem_error_get_message() << '\n';
	else
		std::cout << "a VM\n";
	return EXIT_SUCCESS;
}
