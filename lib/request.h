/* SPDX-License-Identifier: MIT */
/* What is asked of a slot, and whether it can be: all that is known without the kernel. */
#ifndef GMEM_REQUEST_H
#define GMEM_REQUEST_H

#include "slot.h"

/* Options that have been read, and in whose name. */
struct gmem_request {
	struct gmem_vm *vm;
	struct gmem_slot_opts opts;
	const struct gmem_slot *instead_of; /* the slot that this one replaces, or NULL */
	bool adopt;
	uint32_t id; /* the slot's id, chosen by gmem_request_validate() */
};

/* Flags, and which members are given together. 0, or a failure with its reason. */
int gmem_request_check_shape(const struct gmem_request *request);

/* Everything else, of a request whose shape is right. Under the VM's lock. */
int gmem_request_validate(struct gmem_request *request);

#endif
