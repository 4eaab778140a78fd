/* SPDX-License-Identifier: MIT */
/*
 * The binary interface of both headers, pinned for 64-bit machines: where each member of each
 * struct is, and what each constant is. A program that was built with an older header has these
 * numbers in it: docs/versions.md says which rows may be added, and that none is ever changed.
 * tests/api/check-api tells of what is in a header and not here.
 */
#include "gmem-fake.h"
#include "harness.h"

#include <inttypes.h>

struct row {
	const char *type, *member; /* no member: the end of the struct */
	size_t offset, size;	   /* pinned */
	size_t real_offset, real_size;
};

#define MEMBER(offset, size, type, member)                                                         \
	{                                                                                          \
#type, #member, offset, size, offsetof(struct type, member),                       \
			sizeof(((struct type *)NULL)->member)                                      \
	}
#define END(size, type)                                                                            \
	{                                                                                          \
#type, NULL, size, 0, sizeof(struct type), 0                                       \
	}

/* clang-format off */
static const struct row rows[] = {
	MEMBER(0, 8, gmem_vm_opts, sz),
	MEMBER(8, 8, gmem_vm_opts, device),
	MEMBER(16, 8, gmem_vm_opts, type),
	MEMBER(24, 8, gmem_vm_opts, flags),
	MEMBER(32, 4, gmem_vm_opts, id_first),
	MEMBER(36, 4, gmem_vm_opts, id_count),
	MEMBER(40, 8, gmem_vm_opts, log),
	MEMBER(48, 8, gmem_vm_opts, log_data),
	END(56, gmem_vm_opts),

	MEMBER(0, 8, gmem_reserve_opts, sz),
	MEMBER(8, 4, gmem_reserve_opts, as_id),
	MEMBER(12, 4, gmem_reserve_opts, id_first),
	MEMBER(16, 4, gmem_reserve_opts, id_count),
	MEMBER(20, 4, gmem_reserve_opts, pad),
	MEMBER(24, 8, gmem_reserve_opts, gpa),
	MEMBER(32, 8, gmem_reserve_opts, size),
	END(40, gmem_reserve_opts),

	MEMBER(0, 8, gmem_memfd_opts, sz),
	MEMBER(8, 8, gmem_memfd_opts, size),
	MEMBER(16, 8, gmem_memfd_opts, flags),
	MEMBER(24, 4, gmem_memfd_opts, fallback),
	MEMBER(28, 4, gmem_memfd_opts, numa_mode),
	MEMBER(32, 8, gmem_memfd_opts, numa_nodes),
	MEMBER(40, 8, gmem_memfd_opts, numa_words),
	MEMBER(48, 8, gmem_memfd_opts, name),
	END(56, gmem_memfd_opts),

	MEMBER(0, 8, gmem_map_opts, sz),
	MEMBER(8, 8, gmem_map_opts, offset),
	MEMBER(16, 8, gmem_map_opts, size),
	MEMBER(24, 4, gmem_map_opts, prot),
	MEMBER(28, 4, gmem_map_opts, pad),
	END(32, gmem_map_opts),

	MEMBER(0, 8, gmem_slot_opts, sz),
	MEMBER(8, 8, gmem_slot_opts, gpa),
	MEMBER(16, 8, gmem_slot_opts, size),
	MEMBER(24, 8, gmem_slot_opts, memfd),
	MEMBER(32, 8, gmem_slot_opts, offset),
	MEMBER(40, 8, gmem_slot_opts, map),
	MEMBER(48, 8, gmem_slot_opts, host),
	MEMBER(56, 8, gmem_slot_opts, flags),
	MEMBER(64, 4, gmem_slot_opts, id),
	MEMBER(68, 4, gmem_slot_opts, as_id),
	END(72, gmem_slot_opts),

	MEMBER(0, 8, gmem_replace_opts, sz),
	MEMBER(8, 8, gmem_replace_opts, flags),
	MEMBER(16, 8, gmem_replace_opts, quiesce),
	MEMBER(24, 8, gmem_replace_opts, resume),
	MEMBER(32, 8, gmem_replace_opts, data),
	END(40, gmem_replace_opts),

	MEMBER(0, 8, gmem_slot_memory, sz),
	MEMBER(8, 8, gmem_slot_memory, private_bytes),
	MEMBER(16, 8, gmem_slot_memory, shared_bytes),
	MEMBER(24, 8, gmem_slot_memory, twice_bytes),
	MEMBER(32, 8, gmem_slot_memory, private_resident),
	MEMBER(40, 8, gmem_slot_memory, shared_resident),
	END(48, gmem_slot_memory),

	MEMBER(0, 8, gmem_conversion, gpa),
	MEMBER(8, 8, gmem_conversion, size),
	MEMBER(16, 4, gmem_conversion, to),
	MEMBER(20, 4, gmem_conversion, pad),
	END(24, gmem_conversion),

	MEMBER(0, 8, gmem_notifier_opts, sz),
	MEMBER(8, 8, gmem_notifier_opts, prepare),
	MEMBER(16, 8, gmem_notifier_opts, commit),
	MEMBER(24, 8, gmem_notifier_opts, abort),
	MEMBER(32, 8, gmem_notifier_opts, data),
	END(40, gmem_notifier_opts),

	MEMBER(0, 8, gmem_exit, sz),
	MEMBER(8, 4, gmem_exit, kind),
	MEMBER(12, 4, gmem_exit, flags),
	MEMBER(16, 8, gmem_exit, gpa),
	MEMBER(24, 8, gmem_exit, size),
	MEMBER(32, 8, gmem_exit, bits),
	MEMBER(40, 4, gmem_exit, error),
	MEMBER(44, 4, gmem_exit, pad),
	END(48, gmem_exit),

	MEMBER(0, 8, gmem_resolve_opts, sz),
	MEMBER(8, 4, gmem_resolve_opts, policy),
	MEMBER(12, 4, gmem_resolve_opts, repeat_limit),
	MEMBER(16, 8, gmem_resolve_opts, flags),
	END(24, gmem_resolve_opts),

	MEMBER(0, 8, gmem_prefault_opts, sz),
	MEMBER(8, 8, gmem_prefault_opts, progress),
	MEMBER(16, 8, gmem_prefault_opts, data),
	MEMBER(24, 8, gmem_prefault_opts, stop),
	END(32, gmem_prefault_opts),

	MEMBER(0, 8, gmem_stats, sz),
	MEMBER(8, 8, gmem_stats, conversions),
	MEMBER(16, 8, gmem_stats, conversions_failed),
	MEMBER(24, 8, gmem_stats, to_private_bytes),
	MEMBER(32, 8, gmem_stats, to_shared_bytes),
	MEMBER(40, 8, gmem_stats, skipped_bytes),
	MEMBER(48, 8, gmem_stats, attribute_calls),
	MEMBER(56, 8, gmem_stats, attribute_ns),
	MEMBER(64, 8, gmem_stats, discard_calls),
	MEMBER(72, 8, gmem_stats, discard_bytes),
	MEMBER(80, 8, gmem_stats, discard_failures),
	MEMBER(88, 8, gmem_stats, discard_ns),
	MEMBER(96, 8, gmem_stats, prefault_calls),
	MEMBER(104, 8, gmem_stats, prefault_bytes),
	MEMBER(112, 8, gmem_stats, prefault_retries),
	MEMBER(120, 8, gmem_stats, prefault_ns),
	MEMBER(128, 8, gmem_stats, hypercalls),
	MEMBER(136, 8, gmem_stats, hypercalls_refused),
	MEMBER(144, 128, gmem_stats, exits),
	MEMBER(272, 8, gmem_stats, private_bytes),
	MEMBER(280, 8, gmem_stats, shared_bytes),
	MEMBER(288, 8, gmem_stats, twice_bytes),
	END(296, gmem_stats),

	MEMBER(0, 8, gmem_fake_opts, sz),
	MEMBER(8, 4, gmem_fake_opts, kernel),
	MEMBER(12, 4, gmem_fake_opts, page_size),
	MEMBER(16, 8, gmem_fake_opts, fail),
	MEMBER(24, 8, gmem_fake_opts, fail_data),
	END(32, gmem_fake_opts),
};

static const struct {
	const char *name;
	uint64_t value, real;
} values[] = {
#define VALUE(value, name) {#name, value, (uint64_t)(name)}
	VALUE(0, GMEM_REASON_NONE),
	VALUE(1, GMEM_REASON_NULL),
	VALUE(2, GMEM_REASON_OPTS_SIZE),
	VALUE(3, GMEM_REASON_OPTS_TAIL),
	VALUE(4, GMEM_REASON_ARGUMENT),
	VALUE(5, GMEM_REASON_CONFLICT),
	VALUE(6, GMEM_REASON_FLAGS_UNKNOWN),
	VALUE(7, GMEM_REASON_FLAGS_UNSUPPORTED),
	VALUE(8, GMEM_REASON_FORKED),
	VALUE(9, GMEM_REASON_IN_CALLBACK),
	VALUE(20, GMEM_REASON_RANGE_EMPTY),
	VALUE(21, GMEM_REASON_RANGE_UNALIGNED),
	VALUE(22, GMEM_REASON_RANGE_WRAPS),
	VALUE(23, GMEM_REASON_GPA_BEYOND_WIDTH),
	VALUE(24, GMEM_REASON_MEMFD_BEYOND_END),
	VALUE(25, GMEM_REASON_MAP_BEYOND_END),
	VALUE(26, GMEM_REASON_HOST_NOT_CANONICAL),
	VALUE(27, GMEM_REASON_TOO_LARGE),
	VALUE(28, GMEM_REASON_TOO_MANY_PAGES),
	VALUE(40, GMEM_REASON_GPA_OVERLAP),
	VALUE(41, GMEM_REASON_GPA_RESERVED),
	VALUE(42, GMEM_REASON_MEMFD_OVERLAP),
	VALUE(60, GMEM_REASON_ID_BEYOND_LIMIT),
	VALUE(61, GMEM_REASON_ID_NOT_GRANTED),
	VALUE(62, GMEM_REASON_ID_TAKEN),
	VALUE(63, GMEM_REASON_IDS_EXHAUSTED),
	VALUE(64, GMEM_REASON_AS_BEYOND_LIMIT),
	VALUE(80, GMEM_REASON_FD_INVALID),
	VALUE(81, GMEM_REASON_FD_NOT_VM),
	VALUE(82, GMEM_REASON_FD_NOT_GUEST_MEMFD),
	VALUE(83, GMEM_REASON_MEMFD_FOREIGN),
	VALUE(84, GMEM_REASON_MEMFD_NOT_MAPPABLE),
	VALUE(85, GMEM_REASON_MEMFD_IGNORED),
	VALUE(86, GMEM_REASON_MEMFD_UNTOUCHABLE),
	VALUE(87, GMEM_REASON_MEMFD_HIDES_SHARED),
	VALUE(88, GMEM_REASON_MEMFD_NO_DIRTY_LOG),
	VALUE(89, GMEM_REASON_MEMFD_NO_READONLY),
	VALUE(90, GMEM_REASON_HOST_NOT_MAPPING),
	VALUE(91, GMEM_REASON_MEMFD_PRIVATE),
	VALUE(92, GMEM_REASON_FALLBACK_UNSUITABLE),
	VALUE(93, GMEM_REASON_FD_NOT_VCPU),
	VALUE(100, GMEM_REASON_NUMA_NEEDS_MMAP),
	VALUE(101, GMEM_REASON_NUMA_IGNORED),
	VALUE(102, GMEM_REASON_NUMA_REFUSED),
	VALUE(120, GMEM_REASON_SLOT_DELETED),
	VALUE(121, GMEM_REASON_SLOT_ADOPTED),
	VALUE(122, GMEM_REASON_NEEDS_QUIESCE),
	VALUE(123, GMEM_REASON_QUIESCE_FAILED),
	VALUE(124, GMEM_REASON_UNDO_FAILED),
	VALUE(140, GMEM_REASON_GPA_UNMAPPED),
	VALUE(141, GMEM_REASON_NO_HOST_SIDE),
	VALUE(142, GMEM_REASON_ACCESS_READONLY),
	VALUE(143, GMEM_REASON_ACCESS_UNALIGNED),
	VALUE(144, GMEM_REASON_ACCESS_FAULT),
	VALUE(145, GMEM_REASON_ACCESS_NOT_ATOMIC),
	VALUE(146, GMEM_REASON_DISCARD_UNSUPPORTED),
	VALUE(150, GMEM_REASON_NO_PRIVATE_SIDE),
	VALUE(151, GMEM_REASON_NOTIFIER_REFUSED),
	VALUE(152, GMEM_REASON_HYPERCALL_REFUSED),
	VALUE(153, GMEM_REASON_EXIT_STUCK),
	VALUE(154, GMEM_REASON_EXIT_MISSING),
	VALUE(155, GMEM_REASON_EXIT_GONE),
	VALUE(156, GMEM_REASON_EXIT_UNKNOWN),
	VALUE(157, GMEM_REASON_STOPPED),
	VALUE(160, GMEM_REASON_CAP_UNSUPPORTED),
	VALUE(161, GMEM_REASON_CAP_PROBE_FAILED),
	VALUE(162, GMEM_REASON_KERNEL_TOO_OLD),
	VALUE(163, GMEM_REASON_VM_TYPE),
	VALUE(164, GMEM_REASON_KVM_NO_DEVICE),
	VALUE(165, GMEM_REASON_KVM_NO_PERMISSION),
	VALUE(166, GMEM_REASON_KVM_NO_HARDWARE),
	VALUE(167, GMEM_REASON_KVM_NOT_KVM),
	VALUE(168, GMEM_REASON_KVM_BLOCKED),
	VALUE(169, GMEM_REASON_NO_MEMORY),
	VALUE(170, GMEM_REASON_FD_LIMIT),
	VALUE(171, GMEM_REASON_POISONED),
	VALUE(172, GMEM_REASON_KERNEL_REFUSED),
	VALUE(1, GMEM_LOG_ERROR),
	VALUE(2, GMEM_LOG_WARNING),
	VALUE(1, GMEM_CAP_GUEST_MEMFD),
	VALUE(2, GMEM_CAP_GUEST_MEMFD_FLAGS),
	VALUE(3, GMEM_CAP_USER_MEMORY2),
	VALUE(4, GMEM_CAP_MEMORY_ATTRIBUTES),
	VALUE(5, GMEM_CAP_MEMORY_FAULT_INFO),
	VALUE(6, GMEM_CAP_PRE_FAULT_MEMORY),
	VALUE(7, GMEM_CAP_READONLY_MEM),
	VALUE(8, GMEM_CAP_NR_MEMSLOTS),
	VALUE(9, GMEM_CAP_NR_ADDRESS_SPACES),
	VALUE(10, GMEM_CAP_VM_TYPES),
	VALUE(11, GMEM_CAP_GPA_BITS),
	VALUE(12, GMEM_CAP_HVA_BITS),
	VALUE(13, GMEM_CAP_USERFAULTFD),
	VALUE(14, GMEM_CAP_NUMA),
	VALUE(15, GMEM_CAP_BIND_CHECKED),
	VALUE(16, GMEM_CAP_EXIT_HYPERCALL),
	VALUE(17, GMEM_CAP_CONVERT_IN_PLACE),
	VALUE(0, GMEM_FALLBACK_NONE),
	VALUE(1, GMEM_FALLBACK_MEMFD),
	VALUE(1, GMEM_MEMFD_KIND_GUEST),
	VALUE(2, GMEM_MEMFD_KIND_SEALED),
	VALUE(0, GMEM_NUMA_DEFAULT),
	VALUE(1, GMEM_NUMA_PREFERRED),
	VALUE(2, GMEM_NUMA_BIND),
	VALUE(3, GMEM_NUMA_INTERLEAVE),
	VALUE(5, GMEM_NUMA_PREFERRED_MANY),
	VALUE(6, GMEM_NUMA_WEIGHTED_INTERLEAVE),
	VALUE(0, GMEM_VISIBILITY_SHARED),
	VALUE(1, GMEM_VISIBILITY_PRIVATE),
	VALUE(0, GMEM_CONVERT_DISCARD),
	VALUE(1, GMEM_CONVERT_KEEP),
	VALUE(0, GMEM_EXIT_OTHER),
	VALUE(1, GMEM_EXIT_TO_PRIVATE),
	VALUE(2, GMEM_EXIT_TO_SHARED),
	VALUE(3, GMEM_EXIT_MISSING),
	VALUE(4, GMEM_EXIT_POISONED),
	VALUE(5, GMEM_EXIT_GONE),
	VALUE(6, GMEM_EXIT_NO_MEMORY),
	VALUE(7, GMEM_EXIT_RETRY),
	VALUE(8, GMEM_EXIT_UNKNOWN),
	VALUE(9, GMEM_EXIT_BAD_HYPERCALL),
	VALUE(8, GMEM_ATTRIBUTE_PRIVATE),
	VALUE(1, GMEM_VM_FAULT_PROOF),
	VALUE(1, GMEM_MEMFD_MMAP),
	VALUE(2, GMEM_MEMFD_INIT_SHARED),
	VALUE(1, GMEM_PROT_READ),
	VALUE(2, GMEM_PROT_WRITE),
	VALUE(1, GMEM_SLOT_LOG_DIRTY),
	VALUE(2, GMEM_SLOT_READONLY),
	VALUE(0x10000, GMEM_SLOT_FIXED_ID),
	VALUE(1, GMEM_REPLACE_NO_VCPUS),
	VALUE(UINT64_MAX, GMEM_UNKNOWN),
	VALUE(1, GMEM_EXIT_HYPERCALL),
	VALUE(2, GMEM_EXIT_ADDRESS),
	VALUE(1, GMEM_RESOLVE_PREFAULT),
	VALUE(16, GMEM_STATS_EXITS),
	VALUE(1, GMEM_FAKE_LINUX_6_12),
	VALUE(2, GMEM_FAKE_LINUX_6_18),
	VALUE(3, GMEM_FAKE_LINUX_7_3),
	VALUE(4, GMEM_FAKE_PRIVATE),
	VALUE(1, GMEM_FAKE_FDS),
	VALUE(2, GMEM_FAKE_MAPPINGS),
	VALUE(3, GMEM_FAKE_INACCESSIBLE),
	VALUE(4, GMEM_FAKE_SLOTS),
#undef VALUE
};
/* clang-format on */

#define COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))

START_TEST(a_member_is_where_it_was)
{
	const struct row *row = &rows[_i];
	const char *what = row->member ? row->member : "its end";
	size_t before = _i > 0 && row[-1].member ? row[-1].offset + row[-1].size : 0;

	if (sizeof(void *) != 8)
		SKIP("pointers of %zu bytes: only layouts of 64-bit machines are pinned",
		     sizeof(void *));
	if (row->real_offset != row->offset || row->real_size != row->size)
		ck_abort_msg("struct %s, %s: %zu bytes at %zu, but pinned are %zu at %zu",
			     row->type, what, row->real_size, row->real_offset, row->size,
			     row->offset);
	/* Padding is a member, so that no byte is left to chance and all compilers agree. */
	if (row->offset != before)
		ck_abort_msg("struct %s, %s: a hole of %zu bytes before it", row->type, what,
			     row->offset - before);
}
END_TEST

START_TEST(a_constant_is_what_it_was)
{
	if (values[_i].real != values[_i].value)
		ck_abort_msg("%s is %" PRIu64 ", but pinned is %" PRIu64, values[_i].name,
			     values[_i].real, values[_i].value);
}
END_TEST

static Suite *make_suite(void)
{
	Suite *suite = suite_create("layout");
	TCase *structs = tcase_create("structs"), *constants = tcase_create("constants");

	tcase_add_loop_test(structs, a_member_is_where_it_was, 0, COUNT(rows));
	tcase_add_loop_test(constants, a_constant_is_what_it_was, 0, COUNT(values));
	suite_add_tcase(suite, structs);
	suite_add_tcase(suite, constants);
	return suite;
}

int main(void)
{
	return harness_run(make_suite());
}
