/* SPDX-License-Identifier: MIT */
/* A VM's memory by guest address: look up, copy, load, store, discard, reclaim. */
#include "harness.h"
#include "script.h"

#include "memfd.h"

#include <errno.h>
#include <string.h>

#define NOTHING "%s", ""
#define BOTH	(GMEM_MEMFD_MMAP | GMEM_MEMFD_INIT_SHARED)
#define SIZE	UINT64_C(0x10000)
#define RW	(GMEM_PROT_READ | GMEM_PROT_WRITE)

static struct gmem_fake *fake;
static struct gmem_vm *vm;
static struct gmem_memfd *memfd;
static struct gmem_slot *slots[8];
static unsigned int slot_count;

/* The VMM's own memory. */
static unsigned char ram[0x10000] __attribute__((aligned(0x10000)));

static void bind_slot(struct gmem_slot_opts opts)
{
	opts.sz = sizeof(opts);
	ck_works(gmem_slot_create(vm, &opts, &slots[slot_count++]));
}

#define BIND(...) bind_slot((struct gmem_slot_opts){__VA_ARGS__})

static void start_with(enum gmem_fake_kernel kernel, uint64_t vm_flags, uint64_t memfd_flags)
{
	fake = script_new(kernel);
	gmem_fake_name(fake, ram, sizeof(ram), "ram");
	vm = script_vm(fake, vm_flags);
	memfd = script_memfd(vm, SIZE, memfd_flags);
	slot_count = 0;
	for (size_t i = 0; i < sizeof(ram); i++)
		ram[i] = (unsigned char)(i * 7 + i / 256);
}

/*
 * 0x1000: a page of ram; 0x2000: two pages of a guest_memfd; 0x5000, after a hole: a read-only
 * page of ram; 0x6000: a page of ram. In address space 1, 0x1000: another page of ram.
 */
static void start(void)
{
	start_with(GMEM_FAKE_LINUX_6_18, 0, BOTH);
	BIND(.gpa = 0x1000, .size = 0x1000, .host = ram);
	BIND(.gpa = 0x2000, .size = 0x2000, .memfd = memfd, .offset = 0x4000);
	BIND(.gpa = 0x5000, .size = 0x1000, .host = ram + 0x5000, .flags = GMEM_SLOT_READONLY);
	BIND(.gpa = 0x6000, .size = 0x1000, .host = ram + 0x6000);
	BIND(.gpa = 0x1000, .size = 0x1000, .host = ram + 0x8000, .as_id = 1);
	gmem_fake_forget(fake);
}

/* The same addresses, which may be copied the fault-proof way only. */
static void start_proof(void)
{
	start_with(GMEM_FAKE_LINUX_6_18, GMEM_VM_FAULT_PROOF, BOTH);
	BIND(.gpa = 0x1000, .size = 0x1000, .host = ram);
	BIND(.gpa = 0x2000, .size = 0x2000, .memfd = memfd, .offset = 0x4000);
	gmem_fake_forget(fake);
}

/* 0x1000: private alone; 0x2000: private beside ram; 0x3000: a mappable one; 0x4000: ram. */
static void start_private(void)
{
	struct gmem_memfd *shared;

	start_with(GMEM_FAKE_PRIVATE, 0, 0);
	shared = script_memfd(vm, SIZE, GMEM_MEMFD_MMAP);
	BIND(.gpa = 0x1000, .size = 0x1000, .memfd = memfd);
	BIND(.gpa = 0x2000, .size = 0x1000, .memfd = memfd, .offset = 0x2000, .host = ram + 0x2000);
	BIND(.gpa = 0x3000, .size = 0x1000, .memfd = shared);
	BIND(.gpa = 0x4000, .size = 0x1000, .host = ram + 0x4000);
	gmem_memfd_close(shared);
	gmem_fake_forget(fake);
}

static void end(void)
{
	for (unsigned int i = 0; i < slot_count; i++)
		gmem_slot_close(slots[i]);
	gmem_memfd_close(memfd);
	gmem_vm_close(vm);
	script_end(fake);
}

/* ---- Look up ---- */

static const struct {
	uint32_t as_id;
	uint64_t gpa;
	uint32_t prot;
	int error;
	enum gmem_reason reason;
	uint64_t len;
	size_t ram; /* where in it; SIZE_MAX: elsewhere */
} lookups[] = {
	{0, 0x1000, RW, 0, 0, 0x1000, 0},
	{0, 0x1fff, 0, 0, 0, 1, 0xfff},
	{0, 0x2000, RW, 0, 0, 0x2000, SIZE_MAX},
	{0, 0x3fff, GMEM_PROT_WRITE, 0, 0, 1, SIZE_MAX},
	{0, 0x5123, GMEM_PROT_READ, 0, 0, 0xedd, 0x5123},
	{0, 0x5123, 0, 0, 0, 0xedd, 0x5123},
	{1, 0x1234, RW, 0, 0, 0xdcc, 0x8234},
	{0, 0x5123, GMEM_PROT_WRITE, EACCES, GMEM_REASON_ACCESS_READONLY, 0, 0},
	{0, 0x5000, RW, EACCES, GMEM_REASON_ACCESS_READONLY, 0, 0},
	{0, 0xfff, RW, EFAULT, GMEM_REASON_GPA_UNMAPPED, 0, 0},
	{0, 0x4000, RW, EFAULT, GMEM_REASON_GPA_UNMAPPED, 0, 0},
	{0, 0x7000, RW, EFAULT, GMEM_REASON_GPA_UNMAPPED, 0, 0},
	{0, UINT64_MAX, RW, EFAULT, GMEM_REASON_GPA_UNMAPPED, 0, 0},
	{1, 0x2000, RW, EFAULT, GMEM_REASON_GPA_UNMAPPED, 0, 0},
	{2, 0x1000, RW, ERANGE, GMEM_REASON_AS_BEYOND_LIMIT, 0, 0},
	{UINT32_MAX, 0x1000, RW, ERANGE, GMEM_REASON_AS_BEYOND_LIMIT, 0, 0},
	{2, 0x1000, 4, ERANGE, GMEM_REASON_AS_BEYOND_LIMIT, 0, 0},
	{0, 0x4000, 4, EINVAL, GMEM_REASON_FLAGS_UNKNOWN, 0, 0},
	{0, 0x1000, UINT32_MAX, EINVAL, GMEM_REASON_FLAGS_UNKNOWN, 0, 0},
};

START_TEST(translate)
{
	uint64_t len = 1;
	void *addr = &len;
	int r;

	gmem_fake_expect(fake, NOTHING);
	r = gmem_vm_translate(vm, lookups[_i].as_id, lookups[_i].gpa, lookups[_i].prot, &len,
			      &addr);
	if (lookups[_i].error) {
		script_check_failure(r, lookups[_i].error, lookups[_i].reason, "translate",
				     __FILE__, __LINE__);
		ck_assert_ptr_null(addr);
	} else {
		ck_assert_int_eq(r, 0);
		ck_assert_uint_eq(len, lookups[_i].len);
		if (lookups[_i].ram != SIZE_MAX)
			ck_assert_ptr_eq(addr, ram + lookups[_i].ram);
		ck_works(gmem_vm_translate(vm, lookups[_i].as_id, lookups[_i].gpa, 0, NULL, &addr));
	}
	gmem_fake_met(fake);
}
END_TEST

/* A slot without a host side is there, and still not to be reached. */
START_TEST(translate_private)
{
	void *addr;

	ck_fails(gmem_vm_translate(vm, 0, 0x1000, RW, NULL, &addr), EFAULT, NO_HOST_SIDE);
	ck_works(gmem_vm_translate(vm, 0, 0x2000, RW, NULL, &addr));
	ck_assert_ptr_eq(addr, ram + 0x2000);
	ck_works(gmem_vm_translate(vm, 0, 0x3000, RW, NULL, &addr));
}
END_TEST

/* A read-only slot over a mapping, and a read-only mapping. */
START_TEST(translate_readonly_map)
{
	struct gmem_map_opts opts = {.sz = sizeof(opts), .size = SIZE, .prot = GMEM_PROT_READ};
	struct gmem_map *map;
	void *addr;

	ck_works(gmem_map_create(memfd, &opts, &map));
	BIND(.gpa = 0x10000, .size = 0x1000, .map = map, .flags = GMEM_SLOT_READONLY);
	gmem_map_close(map);
	ck_works(gmem_vm_translate(vm, 0, 0x10000, GMEM_PROT_READ, NULL, &addr));
	ck_fails(gmem_vm_translate(vm, 0, 0x10000, GMEM_PROT_WRITE, NULL, &addr), EACCES,
		 ACCESS_READONLY);
}
END_TEST

/* ---- Copies ---- */

static const struct {
	uint32_t as_id;
	uint64_t gpa;
	size_t len;
	int read, write; /* errno of each; 0: works */
	enum gmem_reason reason;
} copies[] = {
	{0, 0x1000, 1, 0, 0, 0},
	{0, 0x1fff, 2, 0, 0, 0},
	{0, 0x1000, 0x3000, 0, 0, 0},
	{0, 0x1ffe, 0x2003 - 1, 0, 0, 0},
	{0, 0x4000, 0, 0, 0, 0},
	{0, UINT64_MAX, 0, 0, 0, 0},
	{1, 0x1800, 0x800, 0, 0, 0},
	{0, 0x5000, 0x1000, 0, EACCES, GMEM_REASON_ACCESS_READONLY},
	{0, 0x5fff, 2, 0, EACCES, GMEM_REASON_ACCESS_READONLY},
	{0, 0x1000, 0x3001, EFAULT, EFAULT, GMEM_REASON_GPA_UNMAPPED},
	{0, 0xfff, 2, EFAULT, EFAULT, GMEM_REASON_GPA_UNMAPPED},
	{0, 0x6fff, 2, EFAULT, EFAULT, GMEM_REASON_GPA_UNMAPPED},
	{0, UINT64_MAX, 1, EOVERFLOW, EOVERFLOW, GMEM_REASON_RANGE_WRAPS},
	{0, UINT64_MAX - 0xf, 0x10, EOVERFLOW, EOVERFLOW, GMEM_REASON_RANGE_WRAPS},
	{0, 0x1000, SIZE_MAX, EOVERFLOW, EOVERFLOW, GMEM_REASON_RANGE_WRAPS},
	{2, 0x1000, 1, ERANGE, ERANGE, GMEM_REASON_AS_BEYOND_LIMIT},
	{2, 0x1000, 0, ERANGE, ERANGE, GMEM_REASON_AS_BEYOND_LIMIT},
};

START_TEST(read_and_write)
{
	static unsigned char out[0x4000], in[0x4000], before[sizeof(ram)];
	size_t len = copies[_i].len;
	int r;

	gmem_fake_expect(fake, NOTHING);
	for (size_t i = 0; i < sizeof(out); i++)
		out[i] = (unsigned char)(i * 3 + 1);
	memcpy(before, ram, sizeof(ram));
	r = gmem_vm_write(vm, copies[_i].as_id, copies[_i].gpa, out, len);
	if (copies[_i].write) {
		script_check_failure(r, copies[_i].write, copies[_i].reason, "write", __FILE__,
				     __LINE__);
		/* All is looked up before the first byte is copied. */
		ck_assert_mem_eq(ram, before, sizeof(ram));
	} else {
		ck_assert_int_eq(r, 0);
	}
	r = gmem_vm_read(vm, copies[_i].as_id, copies[_i].gpa, in, len);
	if (copies[_i].read)
		script_check_failure(r, copies[_i].read, copies[_i].reason, "read", __FILE__,
				     __LINE__);
	else
		ck_assert_int_eq(r, 0);
	if (!copies[_i].write && len)
		ck_assert_mem_eq(in, out, len);
	if (copies[_i].write && !copies[_i].read)
		ck_assert_mem_eq(in, ram + copies[_i].gpa, len);
	gmem_fake_met(fake);
}
END_TEST

/* Every length across the edges between slots ends up in its place and nowhere else. */
START_TEST(copies_across_slots)
{
	unsigned char in[24];
	void *second;

	ck_works(gmem_vm_translate(vm, 0, 0x2000, RW, NULL, &second));
	for (size_t before = 0; before < 8; before++)
		for (size_t after = 0; after < 8; after++) {
			memset(ram, 0xee, 0x1000);
			memset(second, 0xee, 0x1000);
			memset(in, 0x11, sizeof(in));
			ck_works(gmem_vm_write(vm, 0, 0x2000 - before, in, before + after));
			for (size_t i = 0; i < 16; i++) {
				ck_assert_uint_eq(ram[0xfff - i], i < before ? 0x11 : 0xee);
				ck_assert_uint_eq(((unsigned char *)second)[i],
						  i < after ? 0x11 : 0xee);
			}
		}
}
END_TEST

/* ---- The fault-proof way ---- */

START_TEST(proof_calls)
{
	unsigned char out[0x3000], in[0x3000];

	memset(out, 5, sizeof(out));
	gmem_fake_expect(fake, "copy_out(ram+0x800, 0x800)\n"
			       "copy_out(m2, 0x2000)\n"
			       "copy_in(ram+0x800, 0x800)\n"
			       "copy_in(m2, 0x2000)\n");
	ck_works(gmem_vm_write(vm, 0, 0x1800, out, 0x2800));
	ck_works(gmem_vm_read(vm, 0, 0x1800, in, 0x2800));
	gmem_fake_met(fake);
	ck_assert_mem_eq(in, out, 0x2800);
	ck_assert_uint_eq(ram[0xfff], 5);
}
END_TEST

START_TEST(proof_in_parts)
{
	unsigned char in[0x2000];

	gmem_fake_expect(fake, "copy_in(ram, 0x1000) = 0x10\n"
			       "copy_in(ram+0x10, 0xff0) = EINTR\n"
			       "copy_in(ram+0x10, 0xff0) = 1\n"
			       "copy_in(ram+0x11, 0xfef)\n"
			       "copy_in(m2, 0x1000) = 0xfff\n"
			       "copy_in(m2+0xfff, 0x1)\n");
	ck_works(gmem_vm_read(vm, 0, 0x1000, in, 0x2000));
	ck_assert_mem_eq(in, ram, 0x1000);
	gmem_fake_met(fake);
}
END_TEST

static const struct {
	int answer, error;
	enum gmem_reason reason;
} proof_failures[] = {
	{-EFAULT, EFAULT, GMEM_REASON_ACCESS_FAULT}, {0, EFAULT, GMEM_REASON_ACCESS_FAULT},
	{-EPERM, EPERM, GMEM_REASON_KVM_BLOCKED},    {-ENOSYS, ENOSYS, GMEM_REASON_KVM_BLOCKED},
	{-ESRCH, ESRCH, GMEM_REASON_KERNEL_REFUSED}, {-ENOMEM, ENOMEM, GMEM_REASON_NO_MEMORY},
};

/* A copy that fails in the middle leaves the part before it. */
START_TEST(proof_failure)
{
	unsigned char bytes[0x2000];

	memset(bytes, 9, sizeof(bytes));
	gmem_fake_answer(fake, 1, 0x100, "copy_out(ram, ");
	gmem_fake_answer(fake, 1, proof_failures[_i].answer, "copy_out(ram+0x100, ");
	script_check_failure(gmem_vm_write(vm, 0, 0x1000, bytes, 0x2000), proof_failures[_i].error,
			     proof_failures[_i].reason, "write", __FILE__, __LINE__);
	ck_assert_uint_eq(ram[0xff], 9);
	ck_assert_uint_ne(ram[0x100], 9);
	gmem_fake_answer(fake, 1, proof_failures[_i].answer, "copy_in");
	script_check_failure(gmem_vm_read(vm, 0, 0x1000, bytes, 0x1000), proof_failures[_i].error,
			     proof_failures[_i].reason, "read", __FILE__, __LINE__);
}
END_TEST

/* On a VM with private memory only what a conversion can take away is copied so. */
START_TEST(private_copies)
{
	unsigned char byte;

	gmem_fake_expect(fake, NOTHING);
	ck_works(gmem_vm_read(vm, 0, 0x2010, &byte, 1));
	ck_assert_uint_eq(byte, ram[0x2010]);
	gmem_fake_expect(fake, "copy_in(m2+0x10, 0x1)\n"
			       "copy_out(m2+0x10, 0x1)\n");
	ck_fails(gmem_vm_read(vm, 0, 0x3010, &byte, 1), EFAULT, ACCESS_FAULT);
	ck_fails(gmem_vm_write(vm, 0, 0x3010, &byte, 1), EFAULT, ACCESS_FAULT);
	gmem_fake_expect(fake, NOTHING);
	ck_works(gmem_vm_read(vm, 0, 0x4010, &byte, 1));
	ck_assert_uint_eq(byte, ram[0x4010]);
	ck_fails(gmem_vm_read(vm, 0, 0x1010, &byte, 1), EFAULT, NO_HOST_SIDE);
	ck_fails(gmem_vm_write(vm, 0, 0x1010, &byte, 1), EFAULT, NO_HOST_SIDE);
	gmem_fake_met(fake);
}
END_TEST

/* ---- Loads and stores ---- */

#define CHECK_ACCESS(bits)                                                                         \
	do {                                                                                       \
		uint##bits##_t value;                                                              \
                                                                                                   \
		ck_works(                                                                          \
			gmem_vm_store_u##bits(vm, 0, 0x2010, (uint##bits##_t)0x1122334455667788)); \
		ck_works(gmem_vm_load_u##bits(vm, 0, 0x2010, &value));                             \
		ck_assert_uint_eq(value, (uint##bits##_t)0x1122334455667788);                      \
		ck_works(gmem_vm_load_u##bits(vm, 0, 0x5000, &value));                             \
		ck_assert_int_eq(memcmp(&value, ram + 0x5000, sizeof(value)), 0);                  \
		ck_fails(gmem_vm_store_u##bits(vm, 0, 0x5000, 1), EACCES, ACCESS_READONLY);        \
		ck_fails(gmem_vm_load_u##bits(vm, 0, 0x4000, &value), EFAULT, GPA_UNMAPPED);       \
		ck_fails(gmem_vm_store_u##bits(vm, 0, 0x4000, 1), EFAULT, GPA_UNMAPPED);           \
		ck_fails(gmem_vm_load_u##bits(vm, 2, 0x4001, &value), ERANGE, AS_BEYOND_LIMIT);    \
		ck_fails(gmem_vm_store_u##bits(vm, 2, 0x4001, 1), ERANGE, AS_BEYOND_LIMIT);        \
		ck_fails(gmem_vm_load_u##bits(vm, 0, 0x1000, NULL), EINVAL, NULL);                 \
		ck_fails(gmem_vm_load_u##bits(NULL, 0, 0x1000, &value), EINVAL, NULL);             \
		ck_fails(gmem_vm_store_u##bits(NULL, 0, 0x1000, 1), EINVAL, NULL);                 \
		for (unsigned int i = 1; i < bits / 8; i++) {                                      \
			ck_fails(gmem_vm_load_u##bits(vm, 0, 0x4000 + i, &value), EINVAL,          \
				 ACCESS_UNALIGNED);                                                \
			ck_fails(gmem_vm_store_u##bits(vm, 0, 0x4000 + i, 1), EINVAL,              \
				 ACCESS_UNALIGNED);                                                \
		}                                                                                  \
	} while (0)

START_TEST(loads_and_stores)
{
	gmem_fake_expect(fake, NOTHING);
	CHECK_ACCESS(8);
	CHECK_ACCESS(16);
	CHECK_ACCESS(32);
	CHECK_ACCESS(64);
	gmem_fake_met(fake);
}
END_TEST

/* The last bytes of a slot, in each width, and nothing beside them. */
START_TEST(store_at_the_end)
{
	memset(ram, 0xee, 0x1000);
	ck_works(gmem_vm_store_u16(vm, 0, 0x1ffe, 0x1111));
	ck_assert_uint_eq(ram[0xffd], 0xee);
	ck_assert_uint_eq(ram[0xffe], 0x11);
	ck_assert_uint_eq(ram[0xfff], 0x11);
	ck_works(gmem_vm_store_u8(vm, 0, 0x1800, 1));
	ck_assert_uint_eq(ram[0x7ff], 0xee);
	ck_assert_uint_eq(ram[0x800], 1);
	ck_assert_uint_eq(ram[0x801], 0xee);
}
END_TEST

/* The fault-proof copy is not atomic: there is no such access, in any width. */
START_TEST(proof_loads_and_stores)
{
	uint16_t two;
	uint32_t four;
	uint64_t eight;
	uint8_t one;

	gmem_fake_expect(fake, NOTHING);
	ck_fails(gmem_vm_load_u8(vm, 0, 0x1010, &one), EOPNOTSUPP, ACCESS_NOT_ATOMIC);
	ck_fails(gmem_vm_load_u16(vm, 0, 0x1010, &two), EOPNOTSUPP, ACCESS_NOT_ATOMIC);
	ck_fails(gmem_vm_load_u32(vm, 0, 0x1010, &four), EOPNOTSUPP, ACCESS_NOT_ATOMIC);
	ck_fails(gmem_vm_load_u64(vm, 0, 0x1010, &eight), EOPNOTSUPP, ACCESS_NOT_ATOMIC);
	ck_fails(gmem_vm_store_u8(vm, 0, 0x1010, 1), EOPNOTSUPP, ACCESS_NOT_ATOMIC);
	ck_fails(gmem_vm_store_u16(vm, 0, 0x1010, 1), EOPNOTSUPP, ACCESS_NOT_ATOMIC);
	ck_fails(gmem_vm_store_u32(vm, 0, 0x1010, 1), EOPNOTSUPP, ACCESS_NOT_ATOMIC);
	ck_fails(gmem_vm_store_u64(vm, 0, 0x1010, 1), EOPNOTSUPP, ACCESS_NOT_ATOMIC);
	ck_fails(gmem_vm_load_u16(vm, 0, 0x1011, &two), EINVAL, ACCESS_UNALIGNED);
	ck_fails(gmem_vm_load_u16(vm, 0, 0x8000, &two), EFAULT, GPA_UNMAPPED);
	gmem_fake_met(fake);
}
END_TEST

/* A separate shared half stays the VMM's memory: it can be loaded in place. */
START_TEST(private_loads_and_stores)
{
	uint64_t eight;
	uint8_t one;

	ck_works(gmem_vm_load_u64(vm, 0, 0x4000, &eight));
	ck_works(gmem_vm_load_u64(vm, 0, 0x2000, &eight));
	ck_assert_int_eq(memcmp(&eight, ram + 0x2000, 8), 0);
	ck_fails(gmem_vm_load_u64(vm, 0, 0x3000, &eight), EOPNOTSUPP, ACCESS_NOT_ATOMIC);
	ck_fails(gmem_vm_load_u8(vm, 0, 0x3000, &one), EOPNOTSUPP, ACCESS_NOT_ATOMIC);
	ck_fails(gmem_vm_store_u8(vm, 0, 0x3000, 1), EOPNOTSUPP, ACCESS_NOT_ATOMIC);
}
END_TEST

START_TEST(loads_and_stores_without_a_host_side)
{
	uint64_t eight;
	uint32_t four;
	uint16_t two;
	uint8_t one;

	ck_fails(gmem_vm_load_u8(vm, 0, 0x1000, &one), EFAULT, NO_HOST_SIDE);
	ck_fails(gmem_vm_load_u16(vm, 0, 0x1000, &two), EFAULT, NO_HOST_SIDE);
	ck_fails(gmem_vm_load_u32(vm, 0, 0x1000, &four), EFAULT, NO_HOST_SIDE);
	ck_fails(gmem_vm_load_u64(vm, 0, 0x1000, &eight), EFAULT, NO_HOST_SIDE);
	ck_fails(gmem_vm_store_u8(vm, 0, 0x1000, 1), EFAULT, NO_HOST_SIDE);
	ck_fails(gmem_vm_store_u16(vm, 0, 0x1000, 1), EFAULT, NO_HOST_SIDE);
	ck_fails(gmem_vm_store_u32(vm, 0, 0x1000, 1), EFAULT, NO_HOST_SIDE);
	ck_fails(gmem_vm_store_u64(vm, 0, 0x1000, 1), EFAULT, NO_HOST_SIDE);
}
END_TEST

START_TEST(forked)
{
	uint64_t value = 0;

	gmem_fake_enter_child(fake);
	ck_fails(gmem_vm_read(vm, 0, 0x1000, &value, 1), EIO, FORKED);
	ck_fails(gmem_vm_write(vm, 0, 0x1000, &value, 1), EIO, FORKED);
	ck_fails(gmem_vm_load_u64(vm, 0, 0x1000, &value), EIO, FORKED);
	ck_fails(gmem_vm_store_u64(vm, 0, 0x1000, value), EIO, FORKED);
	gmem_fake_leave_child(fake);
	ck_works(gmem_vm_load_u64(vm, 0, 0x1000, &value));
}
END_TEST

/* ---- Discard ---- */

static const struct {
	uint64_t gpa, size;
	int error;
	enum gmem_reason reason;
} discards[] = {
	{0x1000, 0, EINVAL, GMEM_REASON_RANGE_EMPTY},
	{0x1800, 0x1000, EINVAL, GMEM_REASON_RANGE_UNALIGNED},
	{0x1000, 0x800, EINVAL, GMEM_REASON_RANGE_UNALIGNED},
	{0x1000, UINT64_MAX - 0xfff, EOVERFLOW, GMEM_REASON_RANGE_WRAPS},
	{UINT64_MAX - 0xfff, 0x1000, EOVERFLOW, GMEM_REASON_RANGE_WRAPS},
	{0, 0x1000, EFAULT, GMEM_REASON_GPA_UNMAPPED},
	{0, 0x2000, EFAULT, GMEM_REASON_GPA_UNMAPPED},
	{0x1000, 0x4000, EFAULT, GMEM_REASON_GPA_UNMAPPED},
	{0x6000, 0x2000, EFAULT, GMEM_REASON_GPA_UNMAPPED},
	{0x5000, 0x1000, EACCES, GMEM_REASON_ACCESS_READONLY},
	{0x5000, 0x2000, EACCES, GMEM_REASON_ACCESS_READONLY},
};

/* It is checked whole before anything is dropped. */
START_TEST(discard_checks)
{
	gmem_fake_expect(fake, NOTHING);
	script_check_failure(gmem_vm_discard(vm, discards[_i].gpa, discards[_i].size),
			     discards[_i].error, discards[_i].reason, "discard", __FILE__,
			     __LINE__);
	gmem_fake_met(fake);
}
END_TEST

START_TEST(discard_calls)
{
	unsigned char zeros[0x1000] = {0}, in[0x1000];

	/* Anonymous memory refuses the first way. */
	gmem_fake_expect(fake, "madvise(ram, 0x1000, REMOVE) = EINVAL\n"
			       "madvise(ram, 0x1000, FREE) = 0\n"
			       "madvise(ram, 0x1000, DONTNEED) = 0\n"
			       "fallocate(gmem1, KEEP_SIZE|PUNCH_HOLE, 0x4000, 0x1000) = EINTR\n"
			       "fallocate(gmem1, KEEP_SIZE|PUNCH_HOLE, 0x4000, 0x1000)\n");
	ck_works(gmem_vm_discard(vm, 0x1000, 0x2000));
	gmem_fake_expect(fake, "fallocate(gmem1, KEEP_SIZE|PUNCH_HOLE, 0x5000, 0x1000)\n");
	ck_works(gmem_vm_write(vm, 0, 0x3000, ram, 0x1000));
	ck_works(gmem_vm_discard(vm, 0x3000, 0x1000));
	ck_works(gmem_vm_read(vm, 0, 0x3000, in, 0x1000));
	ck_assert_mem_eq(in, zeros, sizeof(in));
	gmem_fake_expect(fake, "madvise(ram+0x6000, 0x1000, REMOVE) = 0\n");
	ck_works(gmem_vm_discard(vm, 0x6000, 0x1000));
	gmem_fake_met(fake);
}
END_TEST

static const struct {
	const char *call;
	int answer, error;
	enum gmem_reason reason;
} discard_failures[] = {
	{"REMOVE", EACCES, EOPNOTSUPP, GMEM_REASON_DISCARD_UNSUPPORTED},
	{"REMOVE", EOPNOTSUPP, EOPNOTSUPP, GMEM_REASON_DISCARD_UNSUPPORTED},
	{"REMOVE", ENOMEM, ENOMEM, GMEM_REASON_NO_MEMORY},
	/* Such as locked pages, and a private mapping of a file. */
	{"madvise", EINVAL, EOPNOTSUPP, GMEM_REASON_DISCARD_UNSUPPORTED},
	{"fallocate", EIO, EIO, GMEM_REASON_KERNEL_REFUSED},
};

START_TEST(discard_failure)
{
	gmem_fake_fail(fake, 0, discard_failures[_i].answer, discard_failures[_i].call);
	script_check_failure(gmem_vm_discard(vm, 0x1000, 0x2000), discard_failures[_i].error,
			     discard_failures[_i].reason, "discard", __FILE__, __LINE__);
}
END_TEST

/* Of two halves both are dropped; of a mappable guest_memfd there is one. */
START_TEST(discard_private)
{
	gmem_fake_expect(fake, "fallocate(gmem1, KEEP_SIZE|PUNCH_HOLE, 0, 0x1000)\n"
			       "fallocate(gmem1, KEEP_SIZE|PUNCH_HOLE, 0x2000, 0x1000)\n"
			       "madvise(ram+0x2000, 0x1000, REMOVE) = 0\n"
			       "fallocate(gmem2, KEEP_SIZE|PUNCH_HOLE, 0, 0x1000)\n"
			       "madvise(ram+0x4000, 0x1000, REMOVE) = 0\n");
	ck_works(gmem_vm_discard(vm, 0x1000, 0x4000));
	gmem_fake_expect(fake, "fallocate(gmem1, KEEP_SIZE|PUNCH_HOLE, 0x2000, 0x1000) = EIO\n");
	ck_fails(gmem_vm_discard(vm, 0x2000, 0x3000), EIO, KERNEL_REFUSED);
	gmem_fake_met(fake);
}
END_TEST

/* A plain slot over a mapping, and a mapping as the shared half. */
START_TEST(discard_of_maps)
{
	struct gmem_map_opts opts = {.sz = sizeof(opts), .offset = 0x8000, .size = 0x8000};
	int fd = gmem_fake_make_gmem(fake, -1, SIZE, BOTH);
	struct gmem_memfd *shared;
	struct gmem_map *map;

	ck_works(gmem_fake_open_memfd(fake, NULL, fd, &shared));
	ck_works(gmem_map_create(shared, &opts, &map));
	gmem_fake_close_fd(fake, fd);
	BIND(.gpa = 0x10000, .size = 0x2000, .map = map, .offset = 0x9000);
	BIND(.gpa = 0x12000, .size = 0x2000, .map = map, .offset = 0xc000, .memfd = memfd);
	gmem_map_close(map);
	gmem_fake_expect(fake, "fallocate(gmem4, KEEP_SIZE|PUNCH_HOLE, 0xa000, 0x1000)\n"
			       "fallocate(gmem1, KEEP_SIZE|PUNCH_HOLE, 0xc000, 0x1000)\n"
			       "fallocate(gmem4, KEEP_SIZE|PUNCH_HOLE, 0xc000, 0x1000)\n");
	ck_works(gmem_vm_discard(vm, 0x11000, 0x2000));
	gmem_fake_met(fake);
	gmem_memfd_close(shared);
}
END_TEST

START_TEST(discard_of_sealed)
{
	struct gmem_memfd_opts opts = {
		.sz = sizeof(opts), .size = SIZE, .flags = BOTH, .fallback = GMEM_FALLBACK_MEMFD};

	fake = script_new(GMEM_FAKE_LINUX_6_12);
	vm = script_vm(fake, 0);
	ck_works(gmem_memfd_create(vm, &opts, &memfd));
	slot_count = 0;
	BIND(.gpa = 0x1000, .size = 0x2000, .memfd = memfd, .offset = 0x4000);
	gmem_fake_expect(fake, "fallocate(memfd1, KEEP_SIZE|PUNCH_HOLE, 0x5000, 0x1000)\n");
	ck_works(gmem_vm_discard(vm, 0x2000, 0x1000));
	gmem_fake_met(fake);
	end();
}
END_TEST

/* ---- Reclaim ---- */

START_TEST(reclaim)
{
	uint64_t bytes = 1;

	ck_works(gmem_vm_reclaim(vm, &bytes));
	ck_assert_uint_eq(bytes, 0);
	BIND(.gpa = 0x10000, .size = 0x1000, .memfd = memfd, .offset = 0x8000);
	BIND(.gpa = 0x20000, .size = 0x3000, .memfd = memfd, .offset = 0x9000);
	gmem_slot_close(slots[--slot_count]);
	gmem_slot_close(slots[--slot_count]);
	ck_assert_uint_eq(gmem_fake_tally(fake, GMEM_FAKE_INACCESSIBLE), 2);
	gmem_fake_forget(fake);
	ck_works(gmem_vm_reclaim(vm, &bytes));
	ck_assert_uint_eq(bytes, 0x4000);
	ck_assert_uint_eq(gmem_fake_count(fake, "munmap"), 2);
	ck_assert_uint_eq(gmem_fake_tally(fake, GMEM_FAKE_INACCESSIBLE), 0);
	ck_works(gmem_vm_reclaim(vm, NULL));
	ck_fails(gmem_vm_reclaim(NULL, &bytes), EINVAL, NULL);
}
END_TEST

static const struct {
	int error;
	enum gmem_reason reason;
} reclaim_failures[] = {
	{ENOMEM, GMEM_REASON_NO_MEMORY},
	{EINVAL, GMEM_REASON_KERNEL_REFUSED},
};

/* What the kernel does not unmap stays reserved, and can be given back later. */
START_TEST(reclaim_failure)
{
	uint64_t first, second;

	BIND(.gpa = 0x10000, .size = 0x1000, .memfd = memfd, .offset = 0x8000);
	BIND(.gpa = 0x20000, .size = 0x3000, .memfd = memfd, .offset = 0x9000);
	gmem_slot_close(slots[--slot_count]);
	gmem_slot_close(slots[--slot_count]);
	gmem_fake_fail(fake, (unsigned int)_i % 2 + 1, reclaim_failures[_i / 2].error, "munmap");
	script_check_failure(gmem_vm_reclaim(vm, &first), reclaim_failures[_i / 2].error,
			     reclaim_failures[_i / 2].reason, "reclaim", __FILE__, __LINE__);
	gmem_fake_recover(fake);
	ck_works(gmem_vm_reclaim(vm, &second));
	ck_assert_uint_eq(first + second, 0x4000);
	ck_assert_uint_gt(second, 0);
}
END_TEST

static void add_cases(Suite *suite)
{
	TCase *tcase = tcase_create("plain");

	tcase_add_checked_fixture(tcase, start, end);
	tcase_add_loop_test(tcase, translate, 0, ARRAY_SIZE(lookups));
	tcase_add_test(tcase, translate_readonly_map);
	tcase_add_loop_test(tcase, read_and_write, 0, ARRAY_SIZE(copies));
	tcase_add_test(tcase, copies_across_slots);
	tcase_add_test(tcase, loads_and_stores);
	tcase_add_test(tcase, store_at_the_end);
	tcase_add_test(tcase, forked);
	tcase_add_loop_test(tcase, discard_checks, 0, ARRAY_SIZE(discards));
	tcase_add_test(tcase, discard_calls);
	tcase_add_loop_test(tcase, discard_failure, 0, ARRAY_SIZE(discard_failures));
	tcase_add_test(tcase, reclaim);
	tcase_add_loop_test(tcase, reclaim_failure, 0, 4);
	suite_add_tcase(suite, tcase);
}

static void add_other_cases(Suite *suite)
{
	TCase *tcase = tcase_create("fault-proof");

	tcase_add_checked_fixture(tcase, start_proof, end);
	tcase_add_test(tcase, proof_calls);
	tcase_add_test(tcase, proof_in_parts);
	tcase_add_loop_test(tcase, proof_failure, 0, ARRAY_SIZE(proof_failures));
	tcase_add_test(tcase, proof_loads_and_stores);
	suite_add_tcase(suite, tcase);

	tcase = tcase_create("private");
	tcase_add_checked_fixture(tcase, start_private, end);
	tcase_add_test(tcase, translate_private);
	tcase_add_test(tcase, private_copies);
	tcase_add_test(tcase, private_loads_and_stores);
	tcase_add_test(tcase, loads_and_stores_without_a_host_side);
	tcase_add_test(tcase, discard_private);
	tcase_add_test(tcase, discard_of_maps);
	suite_add_tcase(suite, tcase);

	tcase = tcase_create("sealed");
	tcase_add_test(tcase, discard_of_sealed);
	suite_add_tcase(suite, tcase);
}

int main(void)
{
	Suite *suite = suite_create("fake-access");

	add_cases(suite);
	add_other_cases(suite);
	return harness_run(suite);
}
