/* SPDX-License-Identifier: MIT */
/*
 * The library as a VMM uses it: what most tests of this tier begin with. Where VMs have no
 * guest_memfd, its fallback stands in for it.
 *
 * Environment:
 *   GMEM_TEST_FALLBACK    1: KVM seems to have no guest_memfd, on any kernel; for development
 */
#ifndef GMEM_TEST_FIXTURE_H
#define GMEM_TEST_FIXTURE_H

#include "../kernel/raw.h"
#include "gmem.h"
#include "guest.h"
#include "harness.h"
#include "host.h"

#include <errno.h>

#define MEMFD_SHARED (GMEM_MEMFD_MMAP | GMEM_MEMFD_INIT_SHARED)

/* What the library has of the process, beside memory of its own. */
struct traces {
	int fds;
	int files;  /* mappings of a guest_memfd, or of what stands in for it */
	int guards; /* pages that tell of fork */
};
struct traces traces_get(void);
void traces_assert_same(const struct traces *before);

/* A VM with a guest_memfd that can be mapped, or a stand-in, and a vCPU if asked for. */
struct world {
	struct traces before;
	struct gmem_vm *vm;
	int fd; /* the library's descriptor of the VM */
	size_t page;
	enum gmem_fallback fallback; /* NONE: there is guest_memfd; else what stands in for it */
	struct guest guest;
};

/* Opens one, or skips the test and returns false. */
bool world_open(struct world *world, uint64_t vm_flags);
/* The same for a test about guest_memfd itself, in which nothing else can stand in for it. */
bool world_open_guest_memfd(struct world *world);
/* Closes the VM and sees that nothing is left, once everything else is closed. */
void world_close(struct world *world);

/* For the body of a test that has opened nothing else yet. */
#define SKIP_WORLD(world, ...)                                                                     \
	do {                                                                                       \
		world_close(world);                                                                \
		SKIP(__VA_ARGS__);                                                                 \
	} while (0)

/* Each fails the test where the library does. */
struct gmem_memfd *world_memfd(const struct world *world, uint64_t pages);
struct gmem_map *world_map(struct gmem_memfd *memfd);
struct gmem_slot *world_slot(const struct world *world, const struct gmem_slot_opts *opts);

/*
 * Why no guest runs in these tests, which put its code into a guest_memfd, or NULL; also where none
 * can be made, which world_open() tells.
 */
const char *world_missing_guest(void);

/* For the body of a test. */
#define NEED_WORLD_GUEST() NEED(world_missing_guest())

/* Put the guest's code at a guest address through the library, and make the vCPU. */
void world_start_guest(struct world *world, uint64_t code);

/* Options on the spot: the members are the arguments. */
#define SLOT(...) (&(const struct gmem_slot_opts){.sz = sizeof(struct gmem_slot_opts), __VA_ARGS__})
#define MEMFD(...)                                                                                 \
	(&(const struct gmem_memfd_opts){.sz = sizeof(struct gmem_memfd_opts), __VA_ARGS__})
#define MAP(...) (&(const struct gmem_map_opts){.sz = sizeof(struct gmem_map_opts), __VA_ARGS__})
#define VM_UNDER_TEST(...)                                                                         \
	(&(const struct gmem_vm_opts){                                                             \
		.sz = sizeof(struct gmem_vm_opts), .device = harness_kvm_device(), __VA_ARGS__})
#define VM(...) (&(const struct gmem_vm_opts){.sz = sizeof(struct gmem_vm_opts), __VA_ARGS__})
#define RESERVE(...)                                                                               \
	(&(const struct gmem_reserve_opts){.sz = sizeof(struct gmem_reserve_opts), __VA_ARGS__})

#define assert_ok(call)                                                                            \
	do {                                                                                       \
		int result_ = (call);                                                              \
		ck_assert_msg(result_ == 0, "%s: %d, %s", #call, result_,                          \
			      gmem_error_get_message());                                           \
	} while (0)

/* The errno is positive, the reason without its prefix. */
#define assert_fails(call, error, why)                                                             \
	do {                                                                                       \
		int result_ = (call);                                                              \
		ck_assert_msg(result_ == -(error), "%s: %d, not %d", #call, result_, -(error));    \
		ck_assert_msg(gmem_error_get_reason() == GMEM_REASON_##why, "%s: %s, not %s: %s",  \
			      #call, gmem_reason_to_string(gmem_error_get_reason()), #why,         \
			      gmem_error_get_message());                                           \
	} while (0)

#endif
