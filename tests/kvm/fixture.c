/* SPDX-License-Identifier: MIT */
#include "fixture.h"

#include <unistd.h>

struct traces traces_get(void)
{
	return (struct traces){
		.fds = host_count_fds(),
		.files = host_count_maps("kvm-gmem"),
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

/* Why the tests of this tier cannot run, found out without the library; or NULL. */
static const char *find_missing(void)
{
	const char *missing = raw_missing();
	bool shared;
	int vm;

	if (missing)
		return missing;
	vm = raw_vm();
	shared = raw_has_shared(vm);
	close(vm);
	return shared ? NULL : "this kernel has no guest_memfd that the host can map";
}

bool world_open(struct world *world, uint64_t vm_flags)
{
	const char *missing = find_missing();

	*world = (struct world){.page = raw_page(), .guest = {.fd = -1}};
	if (missing) {
		harness_skip("%s", missing);
		return false;
	}
	world->before = traces_get();
	assert_ok(gmem_vm_open(VM_UNDER_TEST(.flags = vm_flags), &world->vm));
	world->fd = gmem_vm_get_fd(world->vm);
	return true;
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

	assert_ok(gmem_memfd_create(
		world->vm, MEMFD(.size = pages * world->page, .flags = MEMFD_SHARED), &memfd));
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

void world_start_guest(struct world *world, uint64_t code)
{
	assert_ok(gmem_vm_write(world->vm, 0, code, guest_code, guest_code_size));
	guest_open(&world->guest, world->fd, code);
}
