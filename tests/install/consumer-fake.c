/* SPDX-License-Identifier: MIT */
/*
 * A VMM's own unit test in miniature, compiled against the installed libraries: C11 and the public
 * headers only.
 */
#include <gmem-fake.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define MIB (UINT64_C(1) << 20)

/* ---- The VMM: memory is plugged in in the largest piece that the kernel takes ---- */

static int plug(struct gmem_vm *vm, uint64_t gpa, uint64_t size, struct gmem_slot **slot)
{
	struct gmem_memfd_opts file = {
		.sz = sizeof(file),
		.size = size,
		.flags = GMEM_MEMFD_MMAP | GMEM_MEMFD_INIT_SHARED,
	};
	struct gmem_slot_opts place = {.sz = sizeof(place), .gpa = gpa, .size = size};
	int r = gmem_memfd_create(vm, &file, &place.memfd);

	*slot = NULL;
	if (r == 0)
		r = gmem_slot_create(vm, &place, slot);
	gmem_memfd_close(place.memfd);
	return r;
}

/* How much was plugged in; 0 or a negative errno if that is nothing. */
static int64_t plug_most(struct gmem_vm *vm, uint64_t gpa, uint64_t size, struct gmem_slot **slot)
{
	int r;

	for (;;) {
		r = plug(vm, gpa, size, slot);
		if (r == 0)
			return (int64_t)size;
		if (gmem_error_get_reason() != GMEM_REASON_KERNEL_REFUSED || size <= MIB)
			return r;
		size /= 2;
	}
}

/* ---- Its test ---- */

static int failures;

#define CHECK(condition)                                                                           \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			printf("%d: not so: %s\n", __LINE__, #condition);                          \
			failures++;                                                                \
		}                                                                                  \
	} while (0)

static void broken(void *data, const char *message)
{
	printf("%s: %s\n", (const char *)data, message);
	exit(EXIT_FAILURE);
}

static char title[] = "plug_most";

static struct gmem_fake *start(struct gmem_vm **vm)
{
	struct gmem_fake_opts opts = {
		.sz = sizeof(opts),
		.kernel = GMEM_FAKE_LINUX_6_18,
		.page_size = 1 << 16,
		.fail = broken,
		.fail_data = title,
	};
	struct gmem_fake *fake;

	if (gmem_fake_create(&opts, &fake) < 0 || gmem_fake_open_vm(fake, NULL, vm) < 0) {
		printf("no fake: %s\n", gmem_error_get_message());
		exit(EXIT_FAILURE);
	}
	return fake;
}

static void end(struct gmem_fake *fake, struct gmem_vm *vm, struct gmem_slot *slot)
{
	gmem_slot_close(slot);
	gmem_vm_close(vm);
	gmem_fake_check(fake);
	gmem_fake_close(fake);
}

static void takes_all(void)
{
	struct gmem_slot *slot;
	struct gmem_vm *vm;
	struct gmem_fake *fake = start(&vm);

	CHECK(plug_most(vm, 4 * MIB, 4 * MIB, &slot) == (int64_t)(4 * MIB));
	CHECK(gmem_slot_get_gpa(slot) == 4 * MIB);
	end(fake, vm, slot);
}

/* What the kernel refuses is tried again with half the size. */
static void copes_with_refusals(void)
{
	struct gmem_slot *slot;
	struct gmem_vm *vm;
	struct gmem_fake *fake = start(&vm);

	gmem_fake_fail(fake, 1, EBUSY, "SET_REGION2");
	gmem_fake_fail(fake, 2, EBUSY, "SET_REGION2");
	CHECK(plug_most(vm, 0, 4 * MIB, &slot) == (int64_t)MIB);
	CHECK(gmem_fake_recover(fake) == 2);
	CHECK(gmem_slot_get_size(slot) == MIB);
	CHECK(gmem_fake_tally(fake, GMEM_FAKE_SLOTS) == 1);
	end(fake, vm, slot);
}

/* A lack of memory is another cause, for which less would not help. */
static void gives_up(void)
{
	struct gmem_slot *slot;
	struct gmem_vm *vm;
	struct gmem_fake *fake = start(&vm);

	gmem_fake_forget(fake);
	gmem_fake_fail(fake, 0, ENOMEM, "SET_REGION2");
	CHECK(plug_most(vm, 0, 4 * MIB, &slot) == -ENOMEM);
	CHECK(gmem_error_get_reason() == GMEM_REASON_NO_MEMORY);
	CHECK(gmem_fake_count(fake, "SET_REGION2") == 1);
	CHECK(slot == NULL);
	gmem_fake_recover(fake);
	end(fake, vm, slot);
}

int main(void)
{
	takes_all();
	copes_with_refusals();
	gives_up();
	printf("%s\n", failures ? "failed" : "all is well");
	return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
