/* SPDX-License-Identifier: MIT */
/*
 * Words for what the kernel answers. Everything is decided by what was probed; the version of the
 * kernel only chooses between two explanations of something that was found missing.
 */
#include "probe.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const struct cap_words cap_words[PROBE_CAPS] = {
	{GMEM_CAP_GUEST_MEMFD, VALUE_YES, "guest_memfd", "guest_memfd"},
	{GMEM_CAP_GUEST_MEMFD_FLAGS, VALUE_FLAGS, "guest_memfd_flags", "flags it accepts"},
	{GMEM_CAP_MEMORY_ATTRIBUTES, VALUE_ATTRIBUTES, "memory_attributes", "memory attributes"},
	{GMEM_CAP_USER_MEMORY2, VALUE_YES, "user_memory2", "extended slot call"},
	{GMEM_CAP_BIND_CHECKED, VALUE_REFUSES, "bind_checked", "bind of a wrapping range"},
	{GMEM_CAP_NR_MEMSLOTS, VALUE_NUMBER, "nr_memslots", "slots per address space"},
	{GMEM_CAP_NR_ADDRESS_SPACES, VALUE_NUMBER, "nr_address_spaces", "address spaces"},
	{GMEM_CAP_READONLY_MEM, VALUE_YES, "readonly_mem", "read-only slots"},
	{GMEM_CAP_GPA_BITS, VALUE_BITS, "gpa_bits", "guest addresses"},
	{GMEM_CAP_HVA_BITS, VALUE_BITS, "hva_bits", "host addresses"},
	{GMEM_CAP_MEMORY_FAULT_INFO, VALUE_YES, "memory_fault_info", "memory fault exits"},
	{GMEM_CAP_EXIT_HYPERCALL, VALUE_HYPERCALLS, "exit_hypercall", "hypercalls that exit"},
	{GMEM_CAP_CONVERT_IN_PLACE, VALUE_YES, "convert_in_place", "conversion in place"},
	{GMEM_CAP_PRE_FAULT_MEMORY, VALUE_YES, "pre_fault_memory", "pre-faulting"},
	{GMEM_CAP_USERFAULTFD, VALUE_USERFAULTFD, "userfaultfd", "userfaultfd on it"},
	{GMEM_CAP_NUMA, VALUE_YES, "numa", "NUMA policy on it"},
	{GMEM_CAP_VM_TYPES, VALUE_TYPES, "vm_types", "VM types"},
};

/* ---- Why a capability is missing ---- */

struct cap_advice {
	enum gmem_cap cap;
	bool on_guest_memfd;		       /* cannot be without guest_memfd */
	unsigned int since_major, since_minor; /* Linux that brought it; 0: always, or never */
	const char *cause;		       /* where the kernel is new enough */
	const char *remedy;
};

static const struct cap_advice cap_advice[] = {
	{GMEM_CAP_GUEST_MEMFD, false, 6, 18,
	 "this KVM was built without CONFIG_KVM_GUEST_MEMFD, or has none on this architecture",
	 "use a kernel built with CONFIG_KVM_GUEST_MEMFD, on x86-64 or arm64"},
	{GMEM_CAP_GUEST_MEMFD_FLAGS, true, 6, 18, "guest_memfd takes no creation flags here",
	 "use a VM type with flags, or a newer kernel"},
	{GMEM_CAP_MEMORY_ATTRIBUTES, false, 6, 8, "a VM of this type has no private memory",
	 "for private memory use a VM type that has it: software-protected (a kernel with "
	 "CONFIG_KVM_SW_PROTECTED_VM), or SNP or TDX where the hardware has it"},
	{GMEM_CAP_USER_MEMORY2, false, 6, 8, "KVM does not list it", ""},
	{GMEM_CAP_BIND_CHECKED, true, 7, 1,
	 "the kernel accepts a range that wraps around, a known fault of kernels before 7.1; the "
	 "library refuses it itself",
	 "none needed; Linux 7.1 and later refuse it"},
	{GMEM_CAP_READONLY_MEM, false, 0, 0, "KVM has none for this VM type or architecture", ""},
	{GMEM_CAP_MEMORY_FAULT_INFO, false, 6, 8,
	 "KVM does not list it; on arm64 the exits come all the same", ""},
	{GMEM_CAP_EXIT_HYPERCALL, false, 5, 14,
	 "guests of this architecture do not ask for conversions by hypercall", ""},
	{GMEM_CAP_CONVERT_IN_PLACE, false, 0, 0, "no Linux up to 7.3 has it",
	 "none needed: private and shared pages have a memory each"},
	{GMEM_CAP_PRE_FAULT_MEMORY, false, 6, 11,
	 "it takes an x86 KVM that uses nested paging (EPT or NPT)",
	 "on x86, load kvm_intel with ept=1 or kvm_amd with npt=1; or populate memory from the "
	 "host"},
	{GMEM_CAP_USERFAULTFD, true, 0, 0,
	 "this kernel does not take guest_memfd mappings; no Linux up to 7.3 does",
	 "restore memory before the guest runs, or use ordinary memory for lazy restore"},
	{GMEM_CAP_NUMA, true, 6, 19,
	 "the kernel keeps no policy for this memory: built without CONFIG_NUMA, or it cannot be "
	 "mapped",
	 "let threads that are bound to the wanted nodes touch the memory first"},
	{GMEM_CAP_VM_TYPES, false, 6, 8, "this architecture has no list of VM types", ""},
};

/* ---- Why a VM, a guest_memfd or a slot could not be made ---- */

static const struct {
	enum gmem_reason reason;
	const char *cause;
	const char *remedy;
} reason_advice[] = {
	{GMEM_REASON_KVM_NO_DEVICE,
	 "the KVM module is not loaded, or the processor's virtualization is switched off or, "
	 "inside a virtual machine or container, not passed on",
	 "modprobe kvm_intel (or kvm_amd); if that fails, switch VT-x or AMD-V on in the firmware "
	 "(BIOS); in a virtual machine, let its host offer nested virtualization; in a container, "
	 "pass the device in (--device /dev/kvm)"},
	{GMEM_REASON_KVM_NO_PERMISSION, "this user may not open the device",
	 "join its group (sudo usermod -aG kvm $USER) and log in again; if it belongs to root "
	 "alone, "
	 "also sudo chgrp kvm /dev/kvm and sudo chmod 660 /dev/kvm; in a container, pass the "
	 "device in with read and write access"},
	{GMEM_REASON_KVM_NO_HARDWARE, "the device is there, but no hypervisor behind it",
	 "modprobe kvm_intel (or kvm_amd); if that fails, switch VT-x or AMD-V on in the firmware "
	 "(BIOS); in a virtual machine, let its host offer nested virtualization"},
	{GMEM_REASON_KVM_NOT_KVM, "this is not a KVM device", "name the KVM device (/dev/kvm)"},
	{GMEM_REASON_KVM_BLOCKED,
	 "a filter such as seccomp or a security module forbids the system calls",
	 "run it outside the sandbox, or allow KVM's ioctls in its profile"},
	{GMEM_REASON_KERNEL_TOO_OLD,
	 "this kernel has no KVM_SET_USER_MEMORY_REGION2, which Linux 6.8 brought",
	 "run Linux 6.18 or later for guest_memfd in ordinary VMs"},
	{GMEM_REASON_VM_TYPE, "KVM makes no VM of this type here",
	 "use another type; types with encrypted memory must also be switched on in the firmware "
	 "(BIOS) and the KVM module"},
	{GMEM_REASON_NO_MEMORY, "there is not enough memory",
	 "free memory, or raise the limit of the control group"},
	{GMEM_REASON_FD_LIMIT, "too many files are open", "raise the limit: ulimit -n"},
};

/* ---- Names ---- */

static const char *const type_names[] = {
	"default", "software-protected", "SEV", "SEV-ES", "SEV-SNP", "TDX"};

const char *type_name(uint64_t type)
{
	return type < sizeof(type_names) / sizeof(type_names[0]) ? type_names[type] : "unknown";
}

static const char *bit_name(enum value_kind kind, uint64_t bit)
{
	switch (kind) {
	case VALUE_FLAGS:
		return bit == GMEM_MEMFD_MMAP	       ? "MMAP"
		       : bit == GMEM_MEMFD_INIT_SHARED ? "INIT_SHARED"
						       : NULL;
	case VALUE_ATTRIBUTES:
		return bit == GMEM_ATTRIBUTE_PRIVATE ? "PRIVATE" : NULL;
	case VALUE_HYPERCALLS:
		return bit == 1 << 12 ? "MAP_GPA_RANGE" : NULL;
	case VALUE_USERFAULTFD:
		return bit == 1 ? "MISSING" : bit == 2 ? "WP" : bit == 4 ? "MINOR" : NULL;
	default:
		return NULL;
	}
}

const char *next_bit(enum value_kind kind, uint64_t *bits, uint64_t *bit)
{
	*bit = *bits & -*bits;
	*bits &= ~*bit;
	return bit_name(kind, *bit);
}

size_t cap_index(enum gmem_cap cap)
{
	size_t i = 0;

	while (i < PROBE_CAPS - 1 && cap_words[i].cap != cap)
		i++;
	return i;
}

bool type_usable(const struct probe_type *type)
{
	return !type->open.err && type->has_guest_memfd && !type->trial.err;
}

const char *type_summary(const struct probe_type *type)
{
	uint64_t flags = type->caps[cap_index(GMEM_CAP_GUEST_MEMFD_FLAGS)].value;

	if (type->open.err)
		return "no VM of this type here";
	if (!type->has_guest_memfd)
		return "no guest_memfd";
	if (type->trial.err)
		return "guest_memfd, but it cannot be used";
	if ((flags & GMEM_MEMFD_MMAP) && (flags & GMEM_MEMFD_INIT_SHARED))
		return "guest_memfd, shared by guest and host";
	return "guest_memfd, private to the guest";
}

/* ---- Advice ---- */

__attribute__((format(printf, 2, 3))) static void say(char *to, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(to, WORDS_MAX, format, args);
	va_end(args);
}

static bool older(const struct probe *probe, const struct cap_advice *a)
{
	return probe->kernel_major < a->since_major ||
	       (probe->kernel_major == a->since_major && probe->kernel_minor < a->since_minor);
}

static const struct cap_advice *find_cap_advice(enum gmem_cap cap)
{
	for (size_t i = 0; i < sizeof(cap_advice) / sizeof(cap_advice[0]); i++)
		if (cap_advice[i].cap == cap)
			return &cap_advice[i];
	return NULL;
}

void advise_call(const struct probe *probe, const struct probe_result *result,
		 struct advice *advice)
{
	enum gmem_reason reason = result->reason;

	/* No call that makes something answers so of itself. */
	if (reason == GMEM_REASON_KERNEL_REFUSED && (result->err == EPERM || result->err == ENOSYS))
		reason = GMEM_REASON_KVM_BLOCKED;
	say(advice->cause, "%s", result->message);
	say(advice->remedy, "%s", "");
	for (size_t i = 0; i < sizeof(reason_advice) / sizeof(reason_advice[0]); i++) {
		if (reason_advice[i].reason != reason)
			continue;
		say(advice->cause, "%s", reason_advice[i].cause);
		say(advice->remedy, "%s", reason_advice[i].remedy);
	}
	/* A path of the user's own is likelier wrong than the machine. */
	if (result != &probe->open || strcmp(probe->device, "/dev/kvm") == 0)
		return;
	if (result->reason == GMEM_REASON_KVM_NO_DEVICE)
		say(advice->cause, "there is no device of this name");
	if (result->reason == GMEM_REASON_KVM_NO_DEVICE || !advice->remedy[0])
		say(advice->remedy, "name the KVM device (/dev/kvm)");
}

/* The library's message says what failed; only permissions have a remedy. */
static void advise_failed(const struct probe_result *result, struct advice *advice)
{
	say(advice->cause, "%s", result->message);
	if (result->err == EPERM || result->err == EACCES || result->err == ENOSYS)
		say(advice->remedy,
		    "allow this user, or this program's sandbox, what the probe needs");
}

void advise_cap(const struct probe *probe, const struct probe_type *type, size_t index,
		struct advice *advice)
{
	const struct probe_result *result = &type->caps[index].result;
	const struct cap_advice *a = find_cap_advice(cap_words[index].cap);

	say(advice->cause, "%s", result->message);
	say(advice->remedy, "%s", "");
	if (a && a->on_guest_memfd && !type_usable(type)) {
		say(advice->cause, "it takes a usable guest_memfd");
	} else if (result->err != EOPNOTSUPP) {
		advise_failed(result, advice);
	} else if (a && a->cap != GMEM_CAP_BIND_CHECKED && older(probe, a)) {
		say(advice->cause, "this kernel is Linux %u.%u, and %u.%u brought it%s",
		    probe->kernel_major, probe->kernel_minor, a->since_major, a->since_minor,
		    a->cap == GMEM_CAP_GUEST_MEMFD ? " to VMs of this type" : "");
		say(advice->remedy, "run Linux %u.%u or later", a->since_major, a->since_minor);
	} else if (a) {
		say(advice->cause, "%s", a->cause);
		say(advice->remedy, "%s", a->remedy);
	}
}

const struct probe_result *first_failure(const struct probe *probe)
{
	const struct probe_type *type = probe->types;

	if (probe->open.err)
		return &probe->open;
	if (type->open.err)
		return &type->open;
	if (type->has_guest_memfd)
		return &type->trial;
	return &type->caps[cap_index(GMEM_CAP_GUEST_MEMFD)].result;
}

void advise_unusable(const struct probe *probe, struct advice *advice)
{
	const struct probe_result *failure = first_failure(probe);
	size_t index = cap_index(GMEM_CAP_GUEST_MEMFD);

	if (failure == &probe->types[0].caps[index].result)
		advise_cap(probe, &probe->types[0], index, advice);
	else
		advise_call(probe, failure, advice);
}
