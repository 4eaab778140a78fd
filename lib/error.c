/* SPDX-License-Identifier: MIT */
#include "error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local struct gmem_error last;

#define REASON(name) [GMEM_REASON_##name] = #name

static const char *const reason_names[] = {
	REASON(NONE),
	REASON(NULL),
	REASON(OPTS_SIZE),
	REASON(OPTS_TAIL),
	REASON(ARGUMENT),
	REASON(CONFLICT),
	REASON(FLAGS_UNKNOWN),
	REASON(FLAGS_UNSUPPORTED),
	REASON(FORKED),
	REASON(IN_CALLBACK),
	REASON(RANGE_EMPTY),
	REASON(RANGE_UNALIGNED),
	REASON(RANGE_WRAPS),
	REASON(GPA_BEYOND_WIDTH),
	REASON(MEMFD_BEYOND_END),
	REASON(MAP_BEYOND_END),
	REASON(HOST_NOT_CANONICAL),
	REASON(TOO_LARGE),
	REASON(TOO_MANY_PAGES),
	REASON(GPA_OVERLAP),
	REASON(GPA_RESERVED),
	REASON(MEMFD_OVERLAP),
	REASON(ID_BEYOND_LIMIT),
	REASON(ID_NOT_GRANTED),
	REASON(ID_TAKEN),
	REASON(IDS_EXHAUSTED),
	REASON(AS_BEYOND_LIMIT),
	REASON(FD_INVALID),
	REASON(FD_NOT_VM),
	REASON(FD_NOT_GUEST_MEMFD),
	REASON(MEMFD_FOREIGN),
	REASON(MEMFD_NOT_MAPPABLE),
	REASON(MEMFD_IGNORED),
	REASON(MEMFD_UNTOUCHABLE),
	REASON(MEMFD_HIDES_SHARED),
	REASON(MEMFD_NO_DIRTY_LOG),
	REASON(MEMFD_NO_READONLY),
	REASON(HOST_NOT_MAPPING),
	REASON(MEMFD_PRIVATE),
	REASON(FALLBACK_UNSUITABLE),
	REASON(FD_NOT_VCPU),
	REASON(NUMA_NEEDS_MMAP),
	REASON(NUMA_IGNORED),
	REASON(NUMA_REFUSED),
	REASON(SLOT_DELETED),
	REASON(SLOT_ADOPTED),
	REASON(NEEDS_QUIESCE),
	REASON(QUIESCE_FAILED),
	REASON(UNDO_FAILED),
	REASON(GPA_UNMAPPED),
	REASON(NO_HOST_SIDE),
	REASON(ACCESS_READONLY),
	REASON(ACCESS_UNALIGNED),
	REASON(ACCESS_FAULT),
	REASON(ACCESS_NOT_ATOMIC),
	REASON(DISCARD_UNSUPPORTED),
	REASON(NO_PRIVATE_SIDE),
	REASON(NOTIFIER_REFUSED),
	REASON(HYPERCALL_REFUSED),
	REASON(EXIT_STUCK),
	REASON(EXIT_MISSING),
	REASON(EXIT_GONE),
	REASON(EXIT_UNKNOWN),
	REASON(STOPPED),
	REASON(CAP_UNSUPPORTED),
	REASON(CAP_PROBE_FAILED),
	REASON(KERNEL_TOO_OLD),
	REASON(VM_TYPE),
	REASON(KVM_NO_DEVICE),
	REASON(KVM_NO_PERMISSION),
	REASON(KVM_NO_HARDWARE),
	REASON(KVM_NOT_KVM),
	REASON(KVM_BLOCKED),
	REASON(NO_MEMORY),
	REASON(FD_LIMIT),
	REASON(POISONED),
	REASON(KERNEL_REFUSED),
};

enum gmem_reason gmem_error_get_reason(void)
{
	return last.reason;
}

const char *gmem_error_get_message(void)
{
	return last.message;
}

const char *gmem_reason_to_string(enum gmem_reason reason)
{
	size_t i = (size_t)reason;

	if (i >= sizeof(reason_names) / sizeof(reason_names[0]) || !reason_names[i])
		return "UNKNOWN";
	return reason_names[i];
}

const char *gmem_get_version(void)
{
	return GMEM_VERSION;
}

void gmem_error_save(struct gmem_error *error)
{
	*error = last;
}

void gmem_error_restore(const struct gmem_error *error)
{
	last = *error;
}

const char *gmem_errno_name(int error)
{
	static _Thread_local char number[24];
	const char *name = strerrorname_np(error);

	if (name)
		return name;
	snprintf(number, sizeof(number), "errno %d", error);
	return number;
}

__attribute__((format(printf, 3, 0))) static int fail(int error, enum gmem_reason reason,
						      const char *format, va_list arguments)
{
	last.reason = reason;
	vsnprintf(last.message, sizeof(last.message), format, arguments);
	return -error;
}

int(gmem_fail)(int error, enum gmem_reason reason, const char *format, ...)
{
	va_list arguments;
	int r;

	va_start(arguments, format);
	r = fail(error, reason, format, arguments);
	va_end(arguments);
	return r;
}

static enum gmem_reason reason_of_errno(int error)
{
	switch (error) {
	case ENOMEM:
		return GMEM_REASON_NO_MEMORY;
	case EMFILE:
	case ENFILE:
		return GMEM_REASON_FD_LIMIT;
	case EPERM:
	case ENOSYS:
		return GMEM_REASON_KVM_BLOCKED;
	case EHWPOISON:
		return GMEM_REASON_POISONED;
	default:
		return GMEM_REASON_KERNEL_REFUSED;
	}
}

int(gmem_fail_kernel)(int error, const char *format, ...)
{
	va_list arguments;
	size_t used;

	va_start(arguments, format);
	fail(error, reason_of_errno(error), format, arguments);
	va_end(arguments);
	used = strlen(last.message);
	snprintf(last.message + used, sizeof(last.message) - used, ": %s", gmem_errno_name(error));
	return -error;
}

void gmem_error_prefix(const char *format, ...)
{
	char text[sizeof(last.message)];
	va_list arguments;
	size_t used;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	used = strlen(text);
	snprintf(text + used, sizeof(text) - used, "%s", last.message);
	memcpy(last.message, text, sizeof(text));
}
