/* SPDX-License-Identifier: MIT */
/* What a VM can do: probed once, on the VM's own descriptor, and constant from then on. */
#ifndef GMEM_CAPS_H
#define GMEM_CAPS_H

#include "gmem.h"
#include "sys.h"

#define GMEM_CAP_COUNT (GMEM_CAP_CONVERT_IN_PLACE + 1)

struct gmem_caps {
	struct {
		int error;	/* 0 known; else the negative errno of the probe */
		uint64_t value; /* 0: not supported */
	} cap[GMEM_CAP_COUNT];
};

/* Fill in what the kernel announces. */
void gmem_caps_query(struct gmem_caps *caps, const struct gmem_sys *sys, int vm_fd);

/*
 * Fill in the rest by trying it. Ids for throw-away slots are the highest of [id_first, id_end).
 */
void gmem_caps_try(struct gmem_caps *caps, const struct gmem_sys *sys, int vm_fd, uint32_t id_first,
		   uint32_t id_end);

/* 0 and the value, or a failure with its reason. */
int gmem_caps_get(const struct gmem_caps *caps, enum gmem_cap cap, uint64_t *value);

/* The value, 0 where it is not supported or not known. */
uint64_t gmem_caps_value(const struct gmem_caps *caps, enum gmem_cap cap);

/* One KVM_CAP_ by number: its value, or a negative errno. */
int gmem_caps_check(const struct gmem_sys *sys, int fd, int kvm_cap);

#endif
