/* SPDX-License-Identifier: MIT */
#include "fixture.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

struct traces traces_get(void)
{
	return (struct traces){
		.fds = host_count_fds(),
		.files = host_count_maps("kvm-gmem") + host_count_maps("/memfd:gmem "),
		.guards = host_count_wiped(),
	};
}

void traces_assert_same(const struct traces *before)
{
	struct traces now = traces_get();

	ck_assert_int_eq(now.fds, before->fds);
	ck_assert_int_eq(now.files, before->files);
	ck_assert_int_eq(now.guards, before->guards);
}

/* From now on KVM answers this process that it has neither guest_memfd nor flags for it. */
static void hide_guest_memfd(void)
{
	const uint32_t number = offsetof(struct seccomp_data, nr);
	/* The halves with the low bits. */
	const uint32_t request = offsetof(struct seccomp_data, args[1]);
	const uint32_t cap = offsetof(struct seccomp_data, args[2]);
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, number),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 6),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, request),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, KVM_CHECK_EXTENSION, 0, 4),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, cap),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, RAW_CAP_GUEST_MEMFD, 1, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, RAW_CAP_GUEST_MEMFD_FLAGS, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 0), /* the ioctl returns 0 */
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {.len = sizeof(code) / sizeof(code[0]), .filter = code};

	ck_assert_int_eq(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
	ck_assert_int_eq(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

/* Filters stay, and each costs time: one is enough. */
static void hide_guest_memfd_if_asked(void)
{
	static bool hidden;
	const char *asked = getenv("GMEM_TEST_FALLBACK");

	if (!hidden && asked && strcmp(asked, "1") == 0) {
		hide_guest_memfd();
		hidden = true;
	}
}

/*
 * Why the tests of this tier cannot run, or NULL, and then what must stand in for guest_memfd.
 * Found out without the library.
 */
static const char *find_missing(enum gmem_fallback *fallback)
{
	const char *missing = raw_missing();
	int vm;

	*fallback = GMEM_FALLBACK_NONE;
	if (missing)
		return missing;
	vm = raw_vm();
	if (raw_cap(vm, RAW_CAP_GUEST_MEMFD) <= 0)
		*fallback = GMEM_FALLBACK_MEMFD;
	else if (!raw_has_shared(vm))
		missing = "this kernel has no guest_memfd that the host can map";
	close(vm);
	return missing;
}

static bool open_world(struct world *world, uint64_t vm_flags, bool stand_in)
{
	const char *missing;

	*world = (struct world){.page = raw_page(), .guest = {.fd = -1}};
	hide_guest_memfd_if_asked();
	missing = find_missing(&world->fallback);
	if (!missing && world->fallback && !stand_in)
		missing = "is about guest_memfd itself, which ordinary VMs of this kernel lack";
	if (missing) {
		harness_skip("%s", missing);
		return false;
	}
	world->before = traces_get();
	assert_ok(gmem_vm_open(VM_UNDER_TEST(.flags = vm_flags), &world->vm));
	world->fd = gmem_vm_get_fd(world->vm);
	return true;
}

bool world_open(struct world *world, uint64_t vm_flags)
{
	return open_world(world, vm_flags, true);
}

bool world_open_guest_memfd(struct world *world)
{
	return open_world(world, 0, false);
}

void world_close(struct world *world)
{
	if (world->guest.fd >= 0)
		guest_close(&world->guest);
	gmem_vm_close(world->vm);
	traces_assert_same(&world->before);
}

struct gmem_memfd *world_memfd(const struct world *world, uint64_t pages)
{
	struct gmem_memfd *memfd;

	assert_ok(gmem_memfd_create(world->vm,
				    MEMFD(.size = pages * world->page, .flags = MEMFD_SHARED,
					  .fallback = world->fallback),
				    &memfd));
	ck_assert_int_eq(gmem_memfd_get_kind(memfd),
			 world->fallback ? GMEM_MEMFD_KIND_SEALED : GMEM_MEMFD_KIND_GUEST);
	return memfd;
}

struct gmem_map *world_map(struct gmem_memfd *memfd)
{
	struct gmem_map *map;

	assert_ok(gmem_map_create(memfd, NULL, &map));
	return map;
}

struct gmem_slot *world_slot(const struct world *world, const struct gmem_slot_opts *opts)
{
	struct gmem_slot *slot;

	assert_ok(gmem_slot_create(world->vm, opts, &slot));
	return slot;
}

/* No other processor has the fault. */
static bool runs_touched_code(void)
{
#ifdef __aarch64__
	bool runs;
	int vm;

	if (raw_missing())
		return true;
	vm = raw_vm();
	runs = !raw_has_shared(vm) || raw_runs_touched_code(vm);
	close(vm);
	return runs;
#else
	return true;
#endif
}

const char *world_missing_guest(void)
{
	if (guest_code_size == 0)
		return GUEST_NONE;
	return runs_touched_code() ? NULL
				   : "this kernel's guests do not run code that they have "
				     "touched in a guest_memfd: touched-code-never-runs of "
				     "gmem-kernel-check(1)";
}

void world_start_guest(struct world *world, uint64_t code)
{
	assert_ok(gmem_vm_write(world->vm, 0, code, guest_code, guest_code_size));
	guest_open(&world->guest, world->fd, code);
}
