/* SPDX-License-Identifier: MIT */
/* `gmem probe`: make a VM of each type, ask for all capabilities, report. */
#include "probe.h"
#include "tool.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Keep how a call ended, before another call of the library changes it. */
static int keep(struct probe_result *result, int ret)
{
	if (ret < 0) {
		result->err = -ret;
		result->reason = gmem_error_get_reason();
		snprintf(result->message, sizeof(result->message), "%s", gmem_error_get_message());
	}
	return ret;
}

static int open_vm(const struct probe *probe, uint64_t type, struct probe_result *result,
		   struct gmem_vm **vm)
{
	struct gmem_vm_opts opts = {.sz = sizeof(opts), .device = probe->device, .type = type};

	return keep(result, gmem_vm_open(&opts, vm));
}

static void ask_all(struct probe_type *type, const struct gmem_vm *vm)
{
	for (size_t i = 0; i < PROBE_CAPS; i++) {
		struct probe_cap *cap = &type->caps[i];

		keep(&cap->result, gmem_vm_get_cap(vm, cap_words[i].cap, &cap->value));
	}
	type->has_guest_memfd = type->caps[cap_index(GMEM_CAP_GUEST_MEMFD)].value != 0;
}

/*
 * A list of capabilities proves little: a filter may forbid the call that they promise. So make a
 * page of guest_memfd; and bind it if host and guest share it, as this is the same for all types.
 */
static int try_one_page(const struct probe *probe, const struct probe_type *type,
			struct gmem_vm *vm)
{
	const uint64_t shared = GMEM_MEMFD_MMAP | GMEM_MEMFD_INIT_SHARED;
	uint64_t flags = type->caps[cap_index(GMEM_CAP_GUEST_MEMFD_FLAGS)].value & shared;
	struct gmem_memfd_opts memfd_opts = {.sz = sizeof(memfd_opts), .size = probe->page_size};
	struct gmem_slot_opts slot_opts = {.sz = sizeof(slot_opts), .size = probe->page_size};
	struct gmem_slot *slot = NULL;
	int ret;

	memfd_opts.flags = flags == shared ? shared : 0;
	ret = gmem_memfd_create(vm, &memfd_opts, &slot_opts.memfd);
	if (ret == 0 && flags == shared)
		ret = gmem_slot_create(vm, &slot_opts, &slot);
	gmem_slot_close(slot);
	gmem_memfd_close(slot_opts.memfd);
	return ret;
}

static void probe_type(struct probe *probe, uint64_t number)
{
	struct probe_type *type = &probe->types[probe->type_count++];
	struct gmem_vm *vm;

	type->type = number;
	if (open_vm(probe, number, &type->open, &vm) < 0)
		return;
	ask_all(type, vm);
	if (type->has_guest_memfd)
		keep(&type->trial, try_one_page(probe, type, vm));
	gmem_vm_close(vm);
	probe->usable = probe->usable || type_usable(type);
}

/*
 * The VM types to try: what KVM lists, and always the default one, since architectures without
 * types have no list.
 */
static uint64_t list_types(struct probe *probe)
{
	struct gmem_vm *vm;
	uint64_t types;

	if (open_vm(probe, 0, &probe->open, &vm) < 0) {
		/* A VM of another type may be possible, but none of them can list the types. */
		return 0;
	}
	gmem_vm_get_cap(vm, GMEM_CAP_VM_TYPES, &types);
	gmem_vm_close(vm);
	return types | 1;
}

static int collect(struct probe *probe)
{
	uint64_t types;

	/* A release without numbers is 0.0. */
	if (uname(&probe->kernel) == 0)
		(void)sscanf(probe->kernel.release, "%u.%u", &probe->kernel_major,
			     &probe->kernel_minor);
	probe->page_size = (size_t)sysconf(_SC_PAGESIZE);
	probe->paging = ask_paging();
	probe->types = calloc(PROBE_MAX_TYPES, sizeof(*probe->types));
	if (!probe->types)
		return -ENOMEM;
	types = list_types(probe);
	for (unsigned int i = 0; i < PROBE_MAX_TYPES; i++)
		if (types >> i & 1)
			probe_type(probe, i);
	find_faults(probe);
	return 0;
}

static void print_help(void)
{
	puts("usage: gmem probe [--json] [--device PATH]\n"
	     "\n"
	     "Tell what this machine's guest_memfd can do, for each type of VM; and for all that "
	     "is\n"
	     "missing, why, and what to do.\n"
	     "\n"
	     "  --json         for programs: one JSON object, described in gmem(1)\n"
	     "  --device PATH  the KVM device (default /dev/kvm)\n"
	     "  --help         this text\n"
	     "\n"
	     "Exit status: 0 a VM of some type can have a guest_memfd, 2 wrong usage, 77 KVM or\n"
	     "guest_memfd cannot be used here.");
}

static int usage_error(void)
{
	fprintf(stderr, "`gmem probe --help` tells more.\n");
	return TOOL_USAGE;
}

int tool_probe(int argc, char **argv)
{
	static const struct option longs[] = {
		{"json", no_argument, NULL, 'j'},
		{"device", required_argument, NULL, 'd'},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	struct probe probe = {.device = "/dev/kvm"};
	bool json = false;
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		if (c == 'h') {
			print_help();
			return TOOL_OK;
		}
		if (c == 'j')
			json = true;
		else if (c == 'd')
			probe.device = optarg;
		else
			return usage_error();
	}
	if (optind != argc) {
		fprintf(stderr, "gmem probe: unknown argument: %s\n", argv[optind]);
		return usage_error();
	}
	if (collect(&probe) < 0) {
		fprintf(stderr, "gmem probe: out of memory\n");
		return TOOL_FAILED;
	}
	if (json)
		probe_print_json(&probe);
	else
		probe_print_text(&probe);
	free(probe.types);
	return probe.usable ? TOOL_OK : TOOL_UNUSABLE;
}
