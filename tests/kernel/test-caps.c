/* SPDX-License-Identifier: MIT */
/* What the kernel says of itself: numbers and scopes of capabilities. No library. */
#include "raw.h"
#include "suites.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <unistd.h>

/* What KVM_CHECK_EXTENSION answers on the device and on a plain VM. */
struct answers {
	int device;
	int vm;
};

static struct answers ask(int cap)
{
	int vm = raw_vm();
	struct answers answers;

	answers = (struct answers){.device = raw_device_cap(cap), .vm = raw_cap(vm, cap)};
	ck_assert_int_ge(answers.device, 0);
	ck_assert_int_ge(answers.vm, 0);
	close(vm);
	return answers;
}

START_TEST(slots_are_no_more_than_a_short_integer_counts)
{
	struct answers slots;

	NEED_KVM();
	slots = ask(KVM_CAP_NR_MEMSLOTS);
	ck_assert_int_eq(slots.device, slots.vm);
	/* x86 keeps some for itself. */
#ifdef __x86_64__
	ck_assert_int_eq(slots.vm, SHRT_MAX - 3);
#else
	ck_assert_int_eq(slots.vm, SHRT_MAX);
#endif
	harness_note("%d", slots.vm);
}
END_TEST

START_TEST(plain_vm_has_one_address_space_or_two)
{
	struct answers spaces;

	NEED_KVM();
	spaces = ask(KVM_CAP_MULTI_ADDRESS_SPACE);
	ck_assert(spaces.vm == 0 || spaces.vm == 2);
	harness_note("%s", spaces.vm ? "two" : "one");
}
END_TEST

START_TEST(newer_call_for_slots_is_known_to_device_and_vm)
{
	struct answers call;

	NEED_KVM();
	call = ask(RAW_CAP_USER_MEMORY2);
	ck_assert_int_eq(call.device, 1);
	ck_assert_int_eq(call.vm, 1);
}
END_TEST

START_TEST(plain_vm_has_guest_memfd_only_where_the_device_has)
{
	struct answers there;

	NEED_KVM();
	there = ask(RAW_CAP_GUEST_MEMFD);
	ck_assert_int_le(there.vm, there.device);
	harness_note("%s", there.vm	  ? "on every VM"
			   : there.device ? "on private VMs alone"
					  : "none");
}
END_TEST

static const char *flag_names(int flags)
{
	static const char *const names[] = {"none", "MMAP", "INIT_SHARED", "MMAP, INIT_SHARED"};

	return flags <= (int)RAW_SHARED ? names[flags] : "more than MMAP and INIT_SHARED";
}

START_TEST(flags_of_a_plain_vm_are_among_those_of_the_device)
{
	struct answers flags, there;

	NEED_KVM();
	flags = ask(RAW_CAP_GUEST_MEMFD_FLAGS);
	there = ask(RAW_CAP_GUEST_MEMFD);
	ck_assert_int_eq(flags.vm & ~flags.device, 0);
	if (!there.vm)
		ck_assert_int_eq(flags.vm, 0);
	harness_note("%s", flag_names(flags.vm));
}
END_TEST

START_TEST(create_is_enotty_where_no_vm_has_guest_memfd)
{
	struct answers there;
	int vm, r;

	NEED_KVM();
	there = ask(RAW_CAP_GUEST_MEMFD);
	vm = raw_vm();
	r = raw_memfd(vm, 0, 0);
	ck_assert_int_eq(r, there.device ? -EINVAL : -ENOTTY);
	harness_note("%s", there.device ? "there is such a call" : raw_word(r));
	close(vm);
}
END_TEST

START_TEST(guest_addresses_have_a_width)
{
	unsigned int bits;
	int vm;

	NEED_KVM();
	vm = raw_vm();
	bits = raw_gpa_bits(vm, 0);
	ck_assert_uint_ge(bits, 32);
	ck_assert_uint_le(bits, 52);
	close(vm);
}
END_TEST

Suite *kernel_caps_suite(void)
{
	Suite *suite = suite_create("caps");

	kernel_case(suite, "caps-numbers");
	KERNEL_TEST(slots_are_no_more_than_a_short_integer_counts);
	KERNEL_TEST(plain_vm_has_one_address_space_or_two);
	KERNEL_TEST(newer_call_for_slots_is_known_to_device_and_vm);
	KERNEL_TEST(plain_vm_has_guest_memfd_only_where_the_device_has);
	KERNEL_TEST(flags_of_a_plain_vm_are_among_those_of_the_device);
	KERNEL_TEST(create_is_enotty_where_no_vm_has_guest_memfd);
	KERNEL_TEST(guest_addresses_have_a_width);
	return suite;
}
