/* SPDX-License-Identifier: MIT */
/* For which guests KVM makes the page tables of the processor itself, from theirs. */
#include "probe.h"

#include <stdio.h>

/* The first letter of a module's parameter, 0 where there is none. */
static char read_parameter(const char *module, const char *name)
{
	char path[128], letter = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/sys/module/%s/parameters/%s", module, name);
	file = fopen(path, "re");
	if (file) {
		if (fscanf(file, "%c", &letter) != 1)
			letter = 0;
		fclose(file);
	}
	return letter;
}

static bool is_on(char letter)
{
	return letter == 'Y' || letter == '1';
}

/* The TDP MMU is off, and says so, also where KVM was told to use no nested paging. */
enum probe_paging ask_paging(void)
{
	char tdp_mmu = read_parameter("kvm", "tdp_mmu");

	if (!tdp_mmu)
		return PAGING_UNKNOWN;
	if (!is_on(tdp_mmu))
		return PAGING_SHADOWS_ALL;
	return is_on(read_parameter("kvm_amd", "nested")) ||
			       is_on(read_parameter("kvm_intel", "nested"))
		       ? PAGING_SHADOWS_NESTED
		       : PAGING_SHADOWS_NONE;
}

const char *const paging_words[] = {
	[PAGING_UNKNOWN] = "unknown",
	[PAGING_SHADOWS_NONE] = "none",
	[PAGING_SHADOWS_NESTED] = "nested",
	[PAGING_SHADOWS_ALL] = "all",
};
