/* SPDX-License-Identifier: MIT */
#include "scene.h"

#include "../kvm/host.h"
#include "allocator.h"
#include "harness.h"
#include "machine.h"
#include "memfd.h"
#include "vm.h"

#include <check.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define BOTH (GMEM_MEMFD_MMAP | GMEM_MEMFD_INIT_SHARED)

const char *const place_names[PLACES] = {
	[HERE] = "here",
	[LINUX_6_12] = "6.12",
	[LINUX_7_3] = "7.3",
	[PRIVATE] = "private",
};

const char *const aspect_names[ASPECTS] = {
	[FDS] = "descriptors",
	[GUARDS] = "bytes that tell of fork",
	[FILES] = "mapped bytes of memfds",
	[MAPPINGS] = "mappings",
	[MAPPED_BYTES] = "mapped bytes",
	[INACCESSIBLE] = "reserved mappings",
	[SLOTS] = "slots",
	[SLOT_IDS] = "slot ids in use",
	[ATTRIBUTES] = "private pages of the kernel's",
	[MEMORY_PIECES] = "pieces of memory",
	[MEMORY_BYTES] = "bytes of memory",
	[CAPS] = "capabilities",
	[SIDES] = "private and shared bytes",
	[SLOT_STATE] = "what the slot says of itself",
	[VISIBILITY] = "visibility",
	[ADDRESSES] = "translation",
	[CONTENTS] = "contents",
};

#define works(call)                                                                                \
	do {                                                                                       \
		if ((call) != 0)                                                                   \
			ck_abort_msg("%s: %s", #call, gmem_error_get_message());                   \
	} while (0)

const char *scene_missing(enum place place)
{
	return place == HERE ? machine_missing() : NULL;
}

/* ---- The kernel ---- */

static void break_test(void *data, const char *message)
{
	(void)data;
	ck_abort_msg("%s", message);
}

static const struct gmem_sys *make_kernel(struct scene *scene)
{
	static const enum gmem_fake_kernel kernels[PLACES] = {
		[LINUX_6_12] = GMEM_FAKE_LINUX_6_12,
		[LINUX_7_3] = GMEM_FAKE_LINUX_7_3,
		[PRIVATE] = GMEM_FAKE_PRIVATE,
	};
	struct gmem_fake_opts opts = {
		.sz = sizeof(opts), .kernel = kernels[scene->place], .fail = break_test};

	if (scene->place == HERE)
		return &gmem_sys_linux;
	works(gmem_fake_create(&opts, &scene->fake));
	return (const struct gmem_sys *)scene->fake;
}

static int vm_fd(const struct scene *scene)
{
	return gmem_vm_get_fd(scene->vm);
}

void scene_make_vm(struct scene *scene)
{
	allocator_leave_library();
	scene->fd = scene->fake ? gmem_fake_make_vm(scene->fake) : machine_make_vm();
	scene->fd_is_vm = true;
	allocator_enter_library();
}

void scene_make_memfd(struct scene *scene)
{
	uint64_t size = SCENE_PAGES * scene->page;

	allocator_leave_library();
	scene->fd = scene->fake ? gmem_fake_make_gmem(scene->fake, vm_fd(scene), size, BOTH)
				: machine_make_memfd(vm_fd(scene), size, BOTH);
	allocator_enter_library();
}

void scene_make_vcpu(struct scene *scene)
{
	static unsigned char run[0x3000] __attribute__((aligned(4096)));

	allocator_leave_library();
	if (scene->fake) {
		memset(run, 0, sizeof(run));
		scene->run = (struct kvm_run *)(void *)run;
		scene->fd = gmem_fake_make_vcpu(scene->fake, vm_fd(scene), run);
	} else {
		scene->fd = machine_make_vcpu(vm_fd(scene), &scene->run, &scene->run_size);
	}
	allocator_enter_library();
}

static void close_fd(struct scene *scene)
{
	allocator_leave_library();
	if (scene->run_size)
		munmap(scene->run, scene->run_size);
	if (scene->fd >= 0 && scene->fake)
		gmem_fake_close_fd(scene->fake, scene->fd);
	else if (scene->fd >= 0)
		close(scene->fd);
	allocator_enter_library();
}

/* ---- The scene ---- */

struct gmem_vm_opts scene_vm_opts(const struct scene *scene, uint64_t flags)
{
	return (struct gmem_vm_opts){
		.sz = sizeof(struct gmem_vm_opts),
		.device = scene->fake ? NULL : harness_kvm_device(),
		.type = scene->place == PRIVATE,
		.flags = flags,
	};
}

static void make_memory(struct scene *scene)
{
	bool private = scene->place == PRIVATE;
	struct gmem_memfd_opts memfd = {
		.sz = sizeof(memfd),
		.size = SCENE_PAGES * scene->page,
		.flags = private ? 0 : BOTH,
		.fallback = GMEM_FALLBACK_MEMFD,
	};
	struct gmem_slot_opts slot = {.sz = sizeof(slot), .gpa = GPA, .size = 2 * scene->page};

	works(gmem_memfd_create(scene->vm, &memfd, &scene->memfd));
	if (!private)
		works(gmem_map_create(scene->memfd, NULL, &scene->map));
	slot.memfd = scene->memfd;
	slot.host = private ? scene->ram : NULL;
	works(gmem_slot_create(scene->vm, &slot, &scene->slot));
	works(gmem_vm_write(scene->vm, 0, GPA + 7, "contents", 8));
	works(gmem_vm_write(scene->vm, 0, GPA + scene->page + 7, "more", 4));
}

void scene_open(struct scene *scene, enum place place, uint64_t flags)
{
	struct gmem_vm_opts opts;

	*scene = (struct scene){.place = place, .fd = -1, .fds_before = host_count_fds()};
	injector_init(&scene->injector, make_kernel(scene));
	allocator_enter_library();
	scene->page = scene->injector.sys.page_size(&scene->injector.sys);
	scene->ram = mmap(NULL, SCENE_PAGES * scene->page, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne(scene->ram, MAP_FAILED);
	opts = scene_vm_opts(scene, flags);
	works(gmem_vm_open_sys(&scene->injector.sys, &opts, &scene->vm));
	make_memory(scene);
}

static void close_handles(struct scene *scene)
{
	gmem_vcpu_close(scene->new.vcpu);
	gmem_notifier_close(scene->new.notifier);
	for (int i = 0; i < 3; i++)
		gmem_slot_close(scene->new.slot[i]);
	gmem_map_close(scene->new.map);
	gmem_memfd_close(scene->new.memfd);
	gmem_vm_close(scene->new.vm);
	gmem_notifier_close(scene->listener);
	for (int i = 0; i < 2; i++)
		gmem_vcpu_close(scene->vcpu[i]);
	gmem_slot_close(scene->other);
	gmem_slot_close(scene->slot);
	gmem_map_close(scene->second);
	gmem_map_close(scene->map);
	gmem_memfd_close(scene->spare);
	gmem_memfd_close(scene->memfd);
	gmem_vm_close(scene->vm);
}

/* Whether a mapping is under a slot that the kernel has refused to delete. */
static bool is_under_left(const struct injector *injector, const struct injector_mapping *mapping)
{
	uint64_t start = (uintptr_t)mapping->addr;

	for (size_t i = 0; i < INJECTOR_SLOTS_MAX; i++) {
		const struct injector_slot *slot = &injector->slots[i];

		if (slot->size && slot->left && slot->addr >= start &&
		    slot->addr - start < mapping->size)
			return true;
	}
	return false;
}

static bool is_left(const struct injector *injector, const struct injector_mapping *mapping)
{
	return mapping->left || is_under_left(injector, mapping);
}

void scene_allow_left_slot(struct scene *scene)
{
	if (scene->fake)
		gmem_fake_allow_left(scene->fake, 0, 1);
}

/* Returns how many there are. */
static unsigned int check_mappings(const struct injector *injector)
{
	unsigned int count = 0;

	for (size_t i = 0; i < INJECTOR_MAPPINGS_MAX; i++) {
		const struct injector_mapping *mapping = &injector->mappings[i];

		ck_assert_msg(!mapping->addr || is_left(injector, mapping),
			      "a mapping of %#zx bytes (%s) is left at the end", mapping->size,
			      injector_name(mapping->kind));
		count += mapping->addr != NULL;
	}
	return count;
}

void scene_close(struct scene *scene)
{
	struct allocator_live live;
	unsigned int mappings;

	close_handles(scene);
	close_fd(scene);
	mappings = check_mappings(&scene->injector);
	live = allocator_live();
	ck_assert_msg(live.pieces == 0, "%zu pieces of memory, %zu bytes, are left at the end",
		      live.pieces, live.bytes);
	allocator_leave_library();
	if (scene->fake) {
		gmem_fake_allow_left(scene->fake, mappings, 0);
		gmem_fake_check(scene->fake);
		gmem_fake_close(scene->fake);
	} else {
		injector_clean(&scene->injector);
	}
	munmap(scene->ram, SCENE_PAGES * scene->page);
	ck_assert_int_eq(host_count_fds(), scene->fds_before);
}

/* ---- From outside ---- */

/* Of bytes, so that one word can be compared. */
static uint64_t mix(uint64_t hash, uint64_t value)
{
	return (hash ^ value) * UINT64_C(0x100000001b3);
}

/* In bytes, since the kernel makes one mapping of two that touch. */
static void view_process(struct view *view)
{
	FILE *file = fopen("/proc/self/smaps", "re");
	uint64_t start, end, size = 0;
	char line[512];

	ck_assert_ptr_nonnull(file);
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &start, &end) == 2)
			size = end - start;
		if (strstr(line, "kvm-gmem"))
			view->of[FILES] += size;
		if (strncmp(line, "VmFlags:", 8) == 0 && strstr(line, " wf"))
			view->of[GUARDS] += size;
	}
	fclose(file);
}

static void view_mappings(const struct injector *injector, bool fake, bool without_left,
			  struct view *view)
{
	for (size_t i = 0; i < INJECTOR_MAPPINGS_MAX; i++) {
		const struct injector_mapping *mapping = &injector->mappings[i];

		if (!mapping->addr || (without_left && is_left(injector, mapping)))
			continue;
		view->of[MAPPINGS]++;
		view->of[MAPPED_BYTES] += mapping->size;
		view->of[INACCESSIBLE] += mapping->kind == MMAP_OVER;
	}
	for (size_t i = 0; without_left && !fake && i < INJECTOR_MAPPINGS_MAX; i++) {
		const struct injector_mapping *mapping = &injector->mappings[i];

		if (!mapping->addr || !is_left(injector, mapping))
			continue;
		view->of[GUARDS] -= mapping->kind == MMAP_GUARD ? mapping->size : 0;
		view->of[FILES] -= mapping->kind == MMAP_FILE ? mapping->size : 0;
	}
}

static void view_attributes(const struct scene *scene, struct view *view)
{
	for (uint64_t i = 0; scene->place == PRIVATE && scene->vm && i < 2 * SCENE_PAGES; i++)
		if (gmem_fake_is_private(scene->fake, vm_fd(scene), GPA + i * scene->page, NULL))
			view->of[ATTRIBUTES] |= UINT64_C(1) << i;
}

/* What handles tell; without them nothing. */
static void view_handles(struct scene *scene, struct view *view)
{
	struct gmem_stats stats = {.sz = sizeof(stats)};
	struct gmem_slot *slot = scene->slot;

	for (enum gmem_cap cap = GMEM_CAP_GUEST_MEMFD; scene->new.vm &&cap < GMEM_CAP_COUNT;
	     cap++) {
		uint64_t value;
		int r = gmem_vm_get_cap(scene->new.vm, cap, &value);

		view->of[CAPS] = mix(mix(view->of[CAPS], (uint64_t)r), value);
	}
	if (!scene->vm)
		return;
	works(gmem_vm_get_stats(scene->vm, &stats));
	view->of[SIDES] = mix(mix(stats.private_bytes, stats.shared_bytes), stats.twice_bytes);
	if (slot)
		view->of[SLOT_STATE] =
			mix(mix(mix(mix(gmem_slot_get_gpa(slot), gmem_slot_get_size(slot)),
				    gmem_slot_get_offset(slot)),
				gmem_slot_get_flags(slot)),
			    (uintptr_t)gmem_slot_get_addr(slot));
	for (uint64_t i = 0; i < 2 * SCENE_PAGES; i++) {
		enum gmem_visibility visibility;
		uint64_t gpa = GPA + i * scene->page;
		char bytes[16] = "";
		void *addr = NULL;

		works(gmem_vm_get_visibility(scene->vm, gpa, &visibility, NULL));
		view->of[VISIBILITY] |= (uint64_t)visibility << i;
		gmem_vm_translate(scene->vm, 0, gpa, 0, NULL, &addr);
		view->of[ADDRESSES] = mix(view->of[ADDRESSES], (uintptr_t)addr);
		gmem_vm_read(scene->vm, 0, gpa, bytes, sizeof(bytes));
		for (size_t j = 0; j < sizeof(bytes); j++)
			view->of[CONTENTS] = mix(view->of[CONTENTS], (unsigned char)bytes[j]);
	}
}

static void view_slots(struct scene *scene, bool without_left, struct view *view)
{
	const struct injector *injector = &scene->injector;
	uint64_t left = 0;

	for (size_t i = 0; i < INJECTOR_SLOTS_MAX; i++) {
		const struct injector_slot *slot = &injector->slots[i];

		if (!slot->size)
			continue;
		view->of[SLOTS]++;
		view->of[SLOT_IDS] |= UINT64_C(1) << slot->number % 64;
		left += slot->left;
	}
	if (scene->fake)
		view->of[SLOTS] = gmem_fake_tally(scene->fake, GMEM_FAKE_SLOTS);
	else if (scene->vm)
		view->of[SLOT_IDS] = machine_used_ids(vm_fd(scene));
	if (scene->fd_is_vm && !scene->fake)
		view->of[SLOT_IDS] = mix(view->of[SLOT_IDS], machine_used_ids(scene->fd));
	if (without_left)
		view->of[SLOTS] -= left;
}

struct view scene_view(struct scene *scene, bool without_left)
{
	struct allocator_live live = allocator_live();
	struct view view = {{0}};

	view.of[FDS] = scene->fake ? gmem_fake_tally(scene->fake, GMEM_FAKE_FDS)
				   : (uint64_t)host_count_fds();
	if (!scene->fake)
		view_process(&view);
	view.of[MEMORY_PIECES] = live.pieces;
	view.of[MEMORY_BYTES] = live.bytes;
	view_mappings(&scene->injector, scene->fake != NULL, without_left, &view);
	view_slots(scene, without_left, &view);
	view_attributes(scene, &view);
	view_handles(scene, &view);
	return view;
}
