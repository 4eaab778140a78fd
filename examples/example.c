/* SPDX-License-Identifier: MIT */
#include "example.h"
#include "cpu.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ---- Messages ----------------------------------------------------------------------------- */

void print_failure(const char *format, ...)
{
	va_list args;

	fflush(stdout); /* the message comes after what was printed before */
	fprintf(stderr, "%s: ", program_invocation_short_name);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
}

/* What helps where the machine, and not the program, is at fault; NULL for other failures. */
static const char *remedy(enum gmem_reason reason)
{
	switch (reason) {
	case GMEM_REASON_KVM_NO_DEVICE:
		return "load the module: modprobe kvm_intel, or kvm_amd; in a virtual machine or "
		       "container, let its host pass virtualization on";
	case GMEM_REASON_KVM_NO_PERMISSION:
		return "join the device's group (sudo usermod -aG kvm $USER), and log in again";
	case GMEM_REASON_KVM_NO_HARDWARE:
		return "switch virtualization on in the firmware, then load the module";
	case GMEM_REASON_KVM_NOT_KVM:
		return "name a KVM device with --device";
	case GMEM_REASON_KVM_BLOCKED:
		return "run it without the filter (seccomp, container profile) that forbids KVM";
	case GMEM_REASON_KERNEL_TOO_OLD:
	case GMEM_REASON_CAP_UNSUPPORTED:
	case GMEM_REASON_FLAGS_UNSUPPORTED:
		return "run Linux 6.18 or later, built with CONFIG_KVM_GUEST_MEMFD";
	case GMEM_REASON_VM_TYPE:
		return "run a kernel that makes VMs of this type, such as one built with "
		       "CONFIG_KVM_SW_PROTECTED_VM";
	case GMEM_REASON_NUMA_IGNORED:
		return "run Linux 6.19 or later";
	default:
		return NULL;
	}
}

bool print_remedy(const char *what)
{
	const char *help = remedy(gmem_error_get_reason());

	print_failure("%s: %s", what, gmem_error_get_message());
	if (help)
		fprintf(stderr, "what to do: %s\n`gmem probe` tells more.\n", help);
	return help;
}

/* ---- Numbers ------------------------------------------------------------------------------ */

double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

double to_mib(uint64_t bytes)
{
	return (double)bytes / (double)MIB;
}

uint64_t page_size(void)
{
	return (uint64_t)sysconf(_SC_PAGESIZE);
}

bool parse_number(const char *text, uint64_t min, uint64_t max, uint64_t *value)
{
	int base = strncmp(text, "0x", 2) == 0 ? 16 : 10;
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	*value = strtoull(text, &end, base);
	return !errno && !*end && *value >= min && *value <= max;
}

/* ---- The guest ---------------------------------------------------------------------------- */

int load_guest(struct gmem_vm *vm, const unsigned char *begin, const unsigned char *end)
{
	size_t size;
	const void *tables = cpu_make_tables(&size);

	if (gmem_vm_write(vm, 0, TABLES_GPA, tables, size) < 0 ||
	    gmem_vm_write(vm, 0, CODE_GPA, begin, (size_t)(end - begin)) < 0)
		return fail_gmem("cannot write to the guest");
	return EXIT_RIGHT;
}

/* ---- The command line --------------------------------------------------------------------- */

static void print_option(const char *name, const char *value, const char *help)
{
	char both[32];

	snprintf(both, sizeof(both), "%s%s%s", name, value ? " " : "", value ? value : "");
	printf("  %-14s %s\n", both, help);
}

static void print_help(const struct usage *usage, const struct options *options)
{
	char help[80];

	printf("usage: %s [options]\n\n%s\n\n", program_invocation_short_name, usage->purpose);
	if (usage->min_mib) {
		snprintf(help, sizeof(help),
			 "%s, %" PRIu64 " to %" PRIu64 " MiB (default %" PRIu64 ")", usage->size_of,
			 usage->min_mib, usage->max_mib, options->size / MIB);
		print_option("--size", "MIB", help);
	}
	if (usage->extra)
		print_option(usage->extra, usage->extra_value, usage->extra_help);
	print_option("--device", "PATH", "the KVM device (default " DEFAULT_DEVICE ")");
	print_option("--help", NULL, "this text");
	printf("\nExit status: 0 all right, 1 a failure, 2 wrong usage, 77 %s.\n", usage->lacks);
}

/* Take the value of option `c`. */
static bool take(int c, const struct usage *usage, struct options *options)
{
	switch (c) {
	case 's':
		if (!parse_number(optarg, usage->min_mib, usage->max_mib, &options->size))
			return false;
		options->size *= MIB;
		return true;
	case 'x':
		options->extra = usage->extra_value ? optarg : usage->extra;
		return true;
	default:
		options->device = optarg;
		return true;
	}
}

int parse_options(int argc, char **argv, const struct usage *usage, struct options *options)
{
	struct option longs[5] = {
		{"device", required_argument, NULL, 'd'},
		{"help", no_argument, NULL, 'h'},
	};
	size_t count = 2;
	struct options defaults;
	int c;

	options->device = DEFAULT_DEVICE;
	options->extra = NULL;
	defaults = *options;
	if (usage->min_mib)
		longs[count++] = (struct option){"size", required_argument, NULL, 's'};
	if (usage->extra)
		longs[count++] = (struct option){
			usage->extra + strlen("--"),
			usage->extra_value ? required_argument : no_argument, NULL, 'x'};
	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		if (c == '?')
			return EXIT_USAGE;
		if (c == 'h') {
			print_help(usage, &defaults);
			return EXIT_RIGHT;
		}
		if (!take(c, usage, options)) {
			print_failure("not a possible value: %s", optarg);
			return EXIT_USAGE;
		}
	}
	if (optind == argc)
		return -1;
	print_failure("unknown argument: %s", argv[optind]);
	return EXIT_USAGE;
}
