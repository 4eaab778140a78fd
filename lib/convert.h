/* SPDX-License-Identifier: MIT */
#ifndef GMEM_CONVERT_H
#define GMEM_CONVERT_H

#include "vm.h"

/*
 * gmem_vm_convert() of a VM that has been checked, without a log of what fails: a guest can bring
 * it about as often as it likes.
 */
int gmem_vm_convert_quietly(struct gmem_vm *vm, uint64_t gpa, uint64_t size,
			    enum gmem_visibility to, enum gmem_convert_policy policy);

#endif
