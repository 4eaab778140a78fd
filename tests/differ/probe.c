/* SPDX-License-Identifier: MIT */
#include "probe.h"

#include "../kernel/raw.h"
#include "step.h"

int probe_ask(int vm, int memfd, const struct probe *probe)
{
	struct raw_region region = {.slot = probe->as_id << 16 | STEP_SPARE_ID,
				    .gpa = STEP_SPARE_GPA,
				    .size = step_page(),
				    .addr = (uintptr_t)step_probe_host()};

	switch (probe->kind) {
	case PROBE_GPA:
		region.gpa = probe->number;
		break;
	case PROBE_ID:
		region.slot = probe->as_id << 16 | (uint32_t)probe->number;
		break;
	case PROBE_MEMFD:
		region.flags = RAW_GUEST_MEMFD;
		region.memfd = (uint32_t)memfd;
		region.offset = probe->number;
		break;
	}
	return raw_try(vm, &region);
}
