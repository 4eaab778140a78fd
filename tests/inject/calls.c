/* SPDX-License-Identifier: MIT */
#include "calls.h"

#include "memfd.h"
#include "uapi/kvm.h"
#include "vm.h"

#include <check.h>
#include <errno.h>

#define BOTH	   (GMEM_MEMFD_MMAP | GMEM_MEMFD_INIT_SHARED)
#define ANY_HANDLE ((void *)(uintptr_t)0x5a5a5a5a)

/* Places. */
#define AT_HERE	   (1U << HERE)
#define AT_6_12	   (1U << LINUX_6_12)
#define AT_7_3	   (1U << LINUX_7_3)
#define AT_PRIVATE (1U << PRIVATE)
#define AT_SHARED  (AT_HERE | AT_7_3) /* where the scene's memfd can be mapped */
#define AT_ALL	   (AT_HERE | AT_7_3 | AT_PRIVATE)

#define works(call)                                                                                \
	do {                                                                                       \
		if ((call) != 0)                                                                   \
			ck_abort_msg("%s: %s", #call, gmem_error_get_message());                   \
	} while (0)

/* The call under test makes a handle: whatever stood in its place is gone. */
#define MAKE(type, member, call)                                                                   \
	do {                                                                                       \
		struct type *ret = ANY_HANDLE;                                                     \
		int result = (call);                                                               \
		scene->new.member = ret;                                                           \
		return result;                                                                     \
	} while (0)

/* ---- Errors ---- */

static int error_get_reason(struct scene *scene)
{
	(void)scene;
	return gmem_error_get_reason() == GMEM_REASON_NONE ? -1 : 0;
}

static int error_get_message(struct scene *scene)
{
	(void)scene;
	return gmem_error_get_message() ? 0 : -1;
}

static int reason_to_string(struct scene *scene)
{
	(void)scene;
	return gmem_reason_to_string(GMEM_REASON_NO_MEMORY) ? 0 : -1;
}

static int get_version(struct scene *scene)
{
	(void)scene;
	return gmem_get_version() ? 0 : -1;
}

/* ---- VM ---- */

static int vm_open(struct scene *scene)
{
	struct gmem_vm_opts opts = scene_vm_opts(scene, 0);

	MAKE(gmem_vm, vm, gmem_vm_open_sys(&scene->injector.sys, &opts, &ret));
}

static int vm_open_fd(struct scene *scene)
{
	struct gmem_vm_opts opts = scene_vm_opts(scene, 0);

	opts.device = NULL;
	MAKE(gmem_vm, vm, gmem_vm_open_fd_sys(&scene->injector.sys, scene->fd, &opts, &ret));
}

static void close_others(struct scene *scene)
{
	gmem_slot_close(scene->slot);
	gmem_map_close(scene->map);
	gmem_memfd_close(scene->memfd);
	scene->slot = NULL;
	scene->map = NULL;
	scene->memfd = NULL;
}

static int vm_close(struct scene *scene)
{
	gmem_vm_close(scene->vm);
	scene->vm = NULL;
	return 0;
}

static int vm_get_fd(struct scene *scene)
{
	return gmem_vm_get_fd(scene->vm) < 0;
}

static int vm_get_cap(struct scene *scene)
{
	uint64_t value;

	return gmem_vm_get_cap(scene->vm, GMEM_CAP_NR_MEMSLOTS, &value);
}

static int cap_to_string(struct scene *scene)
{
	(void)scene;
	return gmem_cap_to_string(GMEM_CAP_NUMA) ? 0 : -1;
}

static int vm_reserve(struct scene *scene)
{
	struct gmem_reserve_opts opts = {
		.sz = sizeof(opts), .id_first = 3, .id_count = 1, .size = scene->page};

	return gmem_vm_reserve(scene->vm, &opts);
}

static void reserve_addresses(struct scene *scene)
{
	struct gmem_slot_opts opts = {.sz = sizeof(opts),
				      .gpa = GPA + SCENE_PAGES * scene->page,
				      .size = scene->page,
				      .memfd = scene->memfd,
				      .offset = 2 * scene->page};

	for (int i = 0; i < 2; i++) {
		struct gmem_slot *slot;

		works(gmem_slot_create(scene->vm, &opts, &slot));
		gmem_slot_close(slot);
	}
}

static int vm_reclaim(struct scene *scene)
{
	return gmem_vm_reclaim(scene->vm, NULL);
}

/* ---- guest_memfd ---- */

static struct gmem_memfd_opts memfd_opts(const struct scene *scene)
{
	return (struct gmem_memfd_opts){.sz = sizeof(struct gmem_memfd_opts),
					.size = 4 * scene->page,
					.flags = scene->place == PRIVATE ? 0 : BOTH,
					.fallback = GMEM_FALLBACK_MEMFD};
}

static int memfd_create_plain(struct scene *scene)
{
	struct gmem_memfd_opts opts = memfd_opts(scene);

	MAKE(gmem_memfd, memfd, gmem_memfd_create(scene->vm, &opts, &ret));
}

static int memfd_create_numa(struct scene *scene)
{
	struct gmem_memfd_opts opts = memfd_opts(scene);
	uint64_t nodes = 1;

	opts.numa_mode = GMEM_NUMA_BIND;
	opts.numa_nodes = &nodes;
	opts.numa_words = 1;
	MAKE(gmem_memfd, memfd, gmem_memfd_create(scene->vm, &opts, &ret));
}

static int memfd_open_fd(struct scene *scene)
{
	MAKE(gmem_memfd, memfd, gmem_memfd_open_fd(scene->vm, scene->fd, &ret));
}

static int memfd_open_fd_alone(struct scene *scene)
{
	MAKE(gmem_memfd, memfd,
	     gmem_memfd_open_fd_sys(&scene->injector.sys, NULL, scene->fd, &ret));
}

static void make_memfd(struct scene *scene)
{
	struct gmem_memfd_opts opts = memfd_opts(scene);

	works(gmem_memfd_create(scene->vm, &opts, &scene->spare));
}

static void make_memfd_alone(struct scene *scene)
{
	scene_make_memfd(scene);
	works(gmem_memfd_open_fd_sys(&scene->injector.sys, NULL, scene->fd, &scene->spare));
}

static int memfd_close(struct scene *scene)
{
	gmem_memfd_close(scene->spare);
	scene->spare = NULL;
	return 0;
}

static int memfd_get_fd(struct scene *scene)
{
	return gmem_memfd_get_fd(scene->memfd) < 0;
}

static int memfd_get_size(struct scene *scene)
{
	return gmem_memfd_get_size(scene->memfd) == 0;
}

static int memfd_get_flags(struct scene *scene)
{
	return gmem_memfd_get_flags(scene->memfd) & ~BOTH ? -1 : 0;
}

static int memfd_get_kind(struct scene *scene)
{
	return gmem_memfd_get_kind(scene->memfd) == 0;
}

static int memfd_allocate(struct scene *scene)
{
	return gmem_memfd_allocate(scene->memfd, 0, SCENE_PAGES * scene->page);
}

static int memfd_discard(struct scene *scene)
{
	return gmem_memfd_discard(scene->memfd, 0, scene->page);
}

static int memfd_convert(struct scene *scene)
{
	return gmem_memfd_convert(scene->memfd, 0, scene->page, GMEM_VISIBILITY_PRIVATE, NULL);
}

/* ---- Mapping ---- */

static int map_create(struct scene *scene)
{
	MAKE(gmem_map, map, gmem_map_create(scene->memfd, NULL, &ret));
}

static void make_map(struct scene *scene)
{
	works(gmem_map_create(scene->memfd, NULL, &scene->second));
}

/* A slot over ordinary pages of a mapping. */
static struct gmem_slot_opts over_map(struct scene *scene, struct gmem_map *map)
{
	return (struct gmem_slot_opts){.sz = sizeof(struct gmem_slot_opts),
				       .gpa = GPA + SCENE_PAGES * scene->page,
				       .size = scene->page,
				       .offset = 4 * scene->page,
				       .map = map};
}

static void make_used_map(struct scene *scene)
{
	struct gmem_slot_opts opts;
	struct gmem_slot *slot;

	make_map(scene);
	opts = over_map(scene, scene->second);
	works(gmem_slot_create(scene->vm, &opts, &slot));
	gmem_slot_close(slot);
}

static int map_close(struct scene *scene)
{
	gmem_map_close(scene->second);
	scene->second = NULL;
	return 0;
}

static int map_get_addr(struct scene *scene)
{
	return gmem_map_get_addr(scene->map) ? 0 : -1;
}

static int map_get_offset(struct scene *scene)
{
	return gmem_map_get_offset(scene->map) ? -1 : 0;
}

static int map_get_size(struct scene *scene)
{
	return gmem_map_get_size(scene->map) ? 0 : -1;
}

static int map_populate(struct scene *scene)
{
	return gmem_map_populate(scene->map, 0, SCENE_PAGES * scene->page, 1);
}

/* More than a thread takes at a time, which the fake does not really allocate. */
#define LARGE (UINT64_C(80) << 20)

static void map_large(struct scene *scene)
{
	struct gmem_memfd_opts opts = memfd_opts(scene);

	opts.size = LARGE;
	works(gmem_memfd_create(scene->vm, &opts, &scene->spare));
	works(gmem_map_create(scene->spare, NULL, &scene->second));
}

static int map_populate_large(struct scene *scene)
{
	return gmem_map_populate(scene->second, 0, LARGE, 3);
}

/* ---- Memslot ---- */

static int slot_create_of_memfd(struct scene *scene)
{
	struct gmem_slot_opts opts = over_map(scene, NULL);

	opts.memfd = scene->memfd;
	opts.host = scene->place == PRIVATE ? scene->ram + 4 * scene->page : NULL;
	MAKE(gmem_slot, slot[0], gmem_slot_create(scene->vm, &opts, &ret));
}

static int slot_create_of_map(struct scene *scene)
{
	struct gmem_slot_opts opts = over_map(scene, scene->map);

	MAKE(gmem_slot, slot[0], gmem_slot_create(scene->vm, &opts, &ret));
}

/* The caller's own memory. */
static struct gmem_slot_opts over_ram(struct scene *scene)
{
	return (struct gmem_slot_opts){.sz = sizeof(struct gmem_slot_opts),
				       .gpa = GPA + SCENE_PAGES * scene->page,
				       .size = scene->page,
				       .host = scene->ram + 8 * scene->page};
}

static int slot_create_of_host(struct scene *scene)
{
	struct gmem_slot_opts opts = over_ram(scene);

	MAKE(gmem_slot, slot[0], gmem_slot_create(scene->vm, &opts, &ret));
}

static int slot_create_many(struct scene *scene)
{
	struct gmem_slot *ret[3] = {ANY_HANDLE, ANY_HANDLE, ANY_HANDLE};
	struct gmem_slot_opts opts[3];
	int r;

	for (unsigned int i = 0; i < 3; i++) {
		opts[i] = over_map(scene, NULL);
		opts[i].gpa += i * scene->page;
		opts[i].offset += i * scene->page;
		opts[i].memfd = scene->memfd;
	}
	r = gmem_slot_create_many(scene->vm, opts, 3, ret);
	for (unsigned int i = 0; i < 3; i++)
		scene->new.slot[i] = ret[i];
	return r;
}

static int slot_adopt(struct scene *scene)
{
	struct gmem_slot_opts opts = over_ram(scene);

	opts.flags = GMEM_SLOT_FIXED_ID;
	opts.id = 2;
	MAKE(gmem_slot, slot[0], gmem_slot_adopt(scene->vm, &opts, &ret));
}

static int slot_delete(struct scene *scene)
{
	return gmem_slot_delete(scene->slot);
}

static int slot_close(struct scene *scene)
{
	gmem_slot_close(scene->slot);
	scene->slot = NULL;
	return 0;
}

/* The slot has the last references of its memory. */
static void close_memory(struct scene *scene)
{
	gmem_map_close(scene->map);
	gmem_memfd_close(scene->memfd);
	scene->map = NULL;
	scene->memfd = NULL;
}

static void make_slot_over_ram(struct scene *scene)
{
	struct gmem_slot_opts opts = over_ram(scene);

	works(gmem_slot_create(scene->vm, &opts, &scene->other));
}

static int slot_set_flags(struct scene *scene)
{
	return gmem_slot_set_flags(scene->other, GMEM_SLOT_LOG_DIRTY);
}

static int quiesce(void *data)
{
	(void)data;
	return 0;
}

static void resume(void *data)
{
	(void)data;
}

/* Other memory at another place. */
static int slot_replace(struct scene *scene)
{
	struct gmem_replace_opts how = {.sz = sizeof(how), .quiesce = quiesce, .resume = resume};
	struct gmem_slot_opts opts = over_map(scene, NULL);

	opts.memfd = scene->memfd;
	opts.host = scene->place == PRIVATE ? scene->ram + 4 * scene->page : NULL;
	return gmem_slot_replace(scene->slot, &opts, &how);
}

static int slot_get_memory(struct scene *scene)
{
	struct gmem_slot_memory memory = {.sz = sizeof(memory)};

	return gmem_slot_get_memory(scene->slot, &memory);
}

static int slot_get_id(struct scene *scene)
{
	return gmem_slot_get_id(scene->slot) != 0;
}

static int slot_get_as_id(struct scene *scene)
{
	return gmem_slot_get_as_id(scene->slot) != 0;
}

static int slot_get_gpa(struct scene *scene)
{
	return gmem_slot_get_gpa(scene->slot) != GPA;
}

static int slot_get_size(struct scene *scene)
{
	return gmem_slot_get_size(scene->slot) != 2 * scene->page;
}

static int slot_get_offset(struct scene *scene)
{
	return gmem_slot_get_offset(scene->slot) != 0;
}

static int slot_get_flags(struct scene *scene)
{
	return gmem_slot_get_flags(scene->slot) != 0;
}

static int slot_get_addr(struct scene *scene)
{
	return gmem_slot_get_addr(scene->slot) == NULL;
}

/* ---- Access by guest address ---- */

static int vm_translate(struct scene *scene)
{
	void *addr;

	return gmem_vm_translate(scene->vm, 0, GPA, GMEM_PROT_WRITE, NULL, &addr);
}

static int vm_read(struct scene *scene)
{
	char bytes[16];

	return gmem_vm_read(scene->vm, 0, GPA, bytes, sizeof(bytes));
}

static int vm_write(struct scene *scene)
{
	return gmem_vm_write(scene->vm, 0, GPA, "written", 7);
}

#define DEFINE_SINGLE(bits)                                                                        \
	static int vm_load_u##bits(struct scene *scene)                                            \
	{                                                                                          \
		uint##bits##_t value;                                                              \
                                                                                                   \
		return gmem_vm_load_u##bits(scene->vm, 0, GPA, &value);                            \
	}                                                                                          \
                                                                                                   \
	static int vm_store_u##bits(struct scene *scene)                                           \
	{                                                                                          \
		return gmem_vm_store_u##bits(scene->vm, 0, GPA + 8, 1);                            \
	}

DEFINE_SINGLE(8)
DEFINE_SINGLE(16)
DEFINE_SINGLE(32)
DEFINE_SINGLE(64)

static int vm_discard(struct scene *scene)
{
	return gmem_vm_discard(scene->vm, GPA, 2 * scene->page);
}

static int vm_discard_ram(struct scene *scene)
{
	return gmem_vm_discard(scene->vm, GPA + SCENE_PAGES * scene->page, scene->page);
}

/* ---- Conversion ---- */

static void convert_page(struct scene *scene, uint64_t page, enum gmem_visibility to)
{
	works(gmem_vm_convert(scene->vm, GPA + page * scene->page, scene->page, to,
			      GMEM_CONVERT_DISCARD, NULL));
}

static int to_private(struct scene *scene, uint64_t pages)
{
	return gmem_vm_convert(scene->vm, GPA, pages * scene->page, GMEM_VISIBILITY_PRIVATE,
			       GMEM_CONVERT_DISCARD, NULL);
}

static int vm_convert(struct scene *scene)
{
	return to_private(scene, 2);
}

static int vm_convert_back(struct scene *scene)
{
	return gmem_vm_convert(scene->vm, GPA, 2 * scene->page, GMEM_VISIBILITY_SHARED,
			       GMEM_CONVERT_DISCARD, NULL);
}

static void make_all_private(struct scene *scene)
{
	convert_page(scene, 0, GMEM_VISIBILITY_PRIVATE);
	convert_page(scene, 1, GMEM_VISIBILITY_PRIVATE);
}

/* A longer slot, of which each second page is private already: there are several runs. */
static void make_runs(struct scene *scene)
{
	struct gmem_replace_opts how = {.sz = sizeof(how), .flags = GMEM_REPLACE_NO_VCPUS};
	struct gmem_slot_opts opts = {.sz = sizeof(opts),
				      .gpa = GPA,
				      .size = 8 * scene->page,
				      .memfd = scene->memfd,
				      .host = scene->ram};

	works(gmem_slot_replace(scene->slot, &opts, &how));
	for (uint64_t i = 1; i < 8; i += 2)
		convert_page(scene, i, GMEM_VISIBILITY_PRIVATE);
}

static int vm_convert_runs(struct scene *scene)
{
	return to_private(scene, 8);
}

static int agree(void *data, const struct gmem_conversion *conversion)
{
	(void)data;
	(void)conversion;
	return 0;
}

static const struct gmem_notifier_opts notifier_opts = {.sz = sizeof(notifier_opts),
							.prepare = agree};

static void make_told_runs(struct scene *scene)
{
	make_runs(scene);
	works(gmem_vm_add_notifier(scene->vm, &notifier_opts, &scene->listener));
}

static int vm_get_visibility(struct scene *scene)
{
	enum gmem_visibility visibility;

	return gmem_vm_get_visibility(scene->vm, GPA, &visibility, NULL);
}

static int vm_adopt_visibility(struct scene *scene)
{
	return gmem_vm_adopt_visibility(scene->vm, GPA, scene->page, GMEM_VISIBILITY_PRIVATE);
}

static int vm_add_notifier(struct scene *scene)
{
	MAKE(gmem_notifier, notifier, gmem_vm_add_notifier(scene->vm, &notifier_opts, &ret));
}

static void make_notifier(struct scene *scene)
{
	works(gmem_vm_add_notifier(scene->vm, &notifier_opts, &scene->listener));
}

static int notifier_close(struct scene *scene)
{
	gmem_notifier_close(scene->listener);
	scene->listener = NULL;
	return 0;
}

/* ---- vCPU ---- */

static int vm_enable_map_gpa_range(struct scene *scene)
{
	return gmem_vm_enable_map_gpa_range(scene->vm);
}

static int vcpu_open(struct scene *scene)
{
	MAKE(gmem_vcpu, vcpu, gmem_vcpu_open(scene->vm, scene->fd, scene->run, &ret));
}

static void make_vcpus(struct scene *scene)
{
	scene_make_vcpu(scene);
	for (int i = 0; i < 2; i++)
		works(gmem_vcpu_open(scene->vm, scene->fd, scene->run, &scene->vcpu[i]));
}

static int vcpu_close(struct scene *scene)
{
	gmem_vcpu_close(scene->vcpu[1]);
	scene->vcpu[1] = NULL;
	return 0;
}

static int vcpu_decode(struct scene *scene)
{
	struct gmem_exit exit = {.sz = sizeof(exit)};

	return gmem_vcpu_decode(scene->vcpu[0], -1, EINTR, &exit);
}

static int resolve(struct scene *scene, uint32_t flags)
{
	struct gmem_resolve_opts opts = {.sz = sizeof(opts), .flags = GMEM_RESOLVE_PREFAULT};
	struct gmem_exit exit = {.sz = sizeof(exit),
				 .kind = GMEM_EXIT_TO_PRIVATE,
				 .flags = flags,
				 .gpa = GPA,
				 .size = scene->page};

	return gmem_vcpu_resolve(scene->vcpu[0], &exit, &opts);
}

static int vcpu_resolve(struct scene *scene)
{
	return resolve(scene, GMEM_EXIT_ADDRESS);
}

static int vcpu_resolve_hypercall(struct scene *scene)
{
	return resolve(scene, GMEM_EXIT_ADDRESS | GMEM_EXIT_HYPERCALL);
}

static int vcpu_prefault(struct scene *scene)
{
	return gmem_vcpu_prefault(scene->vcpu[0], GPA, 2 * scene->page, NULL, NULL);
}

/* More than a thread takes at a time. */
static void make_large_slot(struct scene *scene)
{
	struct gmem_slot_opts opts = {.sz = sizeof(opts), .gpa = UINT64_C(1) << 32, .size = LARGE};

	map_large(scene);
	opts.memfd = scene->spare;
	opts.map = scene->second;
	works(gmem_slot_create(scene->vm, &opts, &scene->other));
	make_vcpus(scene);
}

static int vm_prefault(struct scene *scene)
{
	return gmem_vm_prefault(scene->vm, scene->vcpu, 2, UINT64_C(1) << 32, LARGE, NULL, NULL);
}

/* ---- Statistics ---- */

static int vm_get_stats(struct scene *scene)
{
	struct gmem_stats stats = {.sz = sizeof(stats)};

	return gmem_vm_get_stats(scene->vm, &stats);
}

/* ---- The table ---- */

/* All that opening a VM cannot do without; what else it asks are questions. */
#define OPENING                                                                                    \
	(BIT(OPEN_KVM) | BIT(API_VERSION) | BIT(CREATE_VM) | BIT(CHECK_USER_MEMORY2) |             \
	 BIT(DUPLICATE) | BIT(MMAP_GUARD) | BIT(WIPE_ON_FORK))
/* What drops the losing half. */
#define DROPPING (BIT(PUNCH) | BIT(REMOVE_PAGES) | BIT(FREE_PAGES) | BIT(DROP_PAGES))

#define QUIET(call, where)                                                                         \
	{                                                                                          \
		.name = "gmem_" #call, .places = where, .make = call, .quiet = true                \
	}

const struct call calls[] = {
	QUIET(error_get_reason, AT_7_3),
	QUIET(error_get_message, AT_7_3),
	QUIET(reason_to_string, AT_7_3),
	QUIET(get_version, AT_7_3),

	{.name = "gmem_vm_open",
	 .places = AT_ALL | AT_6_12,
	 .make = vm_open,
	 .silent_kinds = ~OPENING},
	/* The device alone has an interface's version: any other answer is a VM's. */
	{.name = "gmem_vm_open_fd",
	 .places = AT_ALL | AT_6_12,
	 .set_up = scene_make_vm,
	 .make = vm_open_fd,
	 .silent_kinds = ~OPENING | BIT(API_VERSION)},
	{.name = "gmem_vm_close",
	 .places = AT_ALL | AT_6_12,
	 .set_up = close_others,
	 .make = vm_close,
	 .returns_nothing = true},
	QUIET(vm_get_fd, AT_ALL),
	QUIET(vm_get_cap, AT_ALL),
	QUIET(cap_to_string, AT_7_3),
	{.name = "gmem_vm_reserve", .places = AT_ALL, .make = vm_reserve},
	{.name = "gmem_vm_reclaim",
	 .places = AT_SHARED,
	 .set_up = reserve_addresses,
	 .make = vm_reclaim,
	 .stays_begun = true},

	{.name = "gmem_memfd_create", .places = AT_ALL, .make = memfd_create_plain},
	{.name = "gmem_memfd_create",
	 .variant = "fallback",
	 .places = AT_6_12,
	 .make = memfd_create_plain},
	{.name = "gmem_memfd_create",
	 .variant = "NUMA",
	 .places = AT_7_3,
	 .make = memfd_create_numa,
	 .silent_kinds = BIT(MUNMAP)},
	/* Answers that tell the flags a memfd was made with. */
	{.name = "gmem_memfd_open_fd",
	 .places = AT_SHARED,
	 .set_up = scene_make_memfd,
	 .make = memfd_open_fd,
	 .silent_kinds = BIT(MUNMAP),
	 .answers = {{MMAP_FILE, ENODEV}, {POPULATE, EFAULT}, {POPULATE, EHWPOISON}}},
	{.name = "gmem_memfd_open_fd",
	 .variant = "no VM",
	 .places = AT_SHARED,
	 .set_up = scene_make_memfd,
	 .make = memfd_open_fd_alone,
	 .silent_kinds = BIT(MUNMAP),
	 .answers = {{MMAP_FILE, ENODEV}, {POPULATE, EFAULT}, {POPULATE, EHWPOISON}}},
	{.name = "gmem_memfd_close",
	 .places = AT_ALL | AT_6_12,
	 .set_up = make_memfd,
	 .make = memfd_close,
	 .returns_nothing = true},
	{.name = "gmem_memfd_close",
	 .variant = "no VM",
	 .places = AT_SHARED,
	 .set_up = make_memfd_alone,
	 .make = memfd_close,
	 .returns_nothing = true},
	QUIET(memfd_get_fd, AT_ALL),
	QUIET(memfd_get_size, AT_ALL),
	QUIET(memfd_get_flags, AT_ALL),
	QUIET(memfd_get_kind, AT_ALL),
	{.name = "gmem_memfd_allocate", .places = AT_ALL, .make = memfd_allocate},
	{.name = "gmem_memfd_discard", .places = AT_ALL, .make = memfd_discard},
	{.name = "gmem_memfd_convert",
	 .places = AT_ALL,
	 .make = memfd_convert,
	 .result = -EOPNOTSUPP,
	 .quiet = true},

	{.name = "gmem_map_create", .places = AT_SHARED, .make = map_create},
	{.name = "gmem_map_close",
	 .places = AT_SHARED,
	 .set_up = make_map,
	 .make = map_close,
	 .returns_nothing = true},
	{.name = "gmem_map_close",
	 .variant = "used",
	 .places = AT_SHARED,
	 .set_up = make_used_map,
	 .make = map_close,
	 .returns_nothing = true},
	QUIET(map_get_addr, AT_SHARED),
	QUIET(map_get_offset, AT_SHARED),
	QUIET(map_get_size, AT_SHARED),
	{.name = "gmem_map_populate", .places = AT_SHARED, .make = map_populate},
	{.name = "gmem_map_populate",
	 .variant = "threads",
	 .places = AT_7_3,
	 .set_up = map_large,
	 .make = map_populate_large,
	 .silent_kinds = BIT(START_THREAD)},

	{.name = "gmem_slot_create",
	 .variant = "memfd",
	 .places = AT_ALL | AT_6_12,
	 .make = slot_create_of_memfd},
	{.name = "gmem_slot_create",
	 .variant = "map",
	 .places = AT_SHARED | AT_6_12,
	 .make = slot_create_of_map},
	{.name = "gmem_slot_create",
	 .variant = "host",
	 .places = AT_ALL,
	 .make = slot_create_of_host},
	{.name = "gmem_slot_create_many", .places = AT_ALL, .make = slot_create_many},
	{.name = "gmem_slot_adopt", .places = AT_ALL, .make = slot_adopt},
	{.name = "gmem_slot_delete", .places = AT_ALL, .make = slot_delete},
	{.name = "gmem_slot_close", .places = AT_ALL, .make = slot_close, .returns_nothing = true},
	{.name = "gmem_slot_close",
	 .variant = "last",
	 .places = AT_ALL,
	 .set_up = close_memory,
	 .make = slot_close,
	 .returns_nothing = true},
	{.name = "gmem_slot_set_flags",
	 .places = AT_ALL,
	 .set_up = make_slot_over_ram,
	 .make = slot_set_flags},
	/* The mapping that is not used any more is kept as it is, and the log says so. */
	{.name = "gmem_slot_replace",
	 .places = AT_ALL,
	 .make = slot_replace,
	 .silent_kinds = BIT(MMAP_OVER)},
	{.name = "gmem_slot_get_memory",
	 .places = AT_ALL,
	 .make = slot_get_memory,
	 .silent_kinds = BIT(MINCORE)},
	QUIET(slot_get_id, AT_ALL),
	QUIET(slot_get_as_id, AT_ALL),
	QUIET(slot_get_gpa, AT_ALL),
	QUIET(slot_get_size, AT_ALL),
	QUIET(slot_get_offset, AT_ALL),
	QUIET(slot_get_flags, AT_ALL),
	QUIET(slot_get_addr, AT_ALL),

	QUIET(vm_translate, AT_ALL),
	QUIET(vm_read, AT_ALL),
	{.name = "gmem_vm_read",
	 .variant = "fault-proof",
	 .places = AT_SHARED,
	 .vm_flags = GMEM_VM_FAULT_PROOF,
	 .make = vm_read},
	QUIET(vm_write, AT_ALL),
	{.name = "gmem_vm_write",
	 .variant = "fault-proof",
	 .places = AT_SHARED,
	 .vm_flags = GMEM_VM_FAULT_PROOF,
	 .make = vm_write},
	QUIET(vm_load_u8, AT_ALL),
	QUIET(vm_load_u16, AT_ALL),
	QUIET(vm_load_u32, AT_ALL),
	QUIET(vm_load_u64, AT_ALL),
	QUIET(vm_store_u8, AT_ALL),
	QUIET(vm_store_u16, AT_ALL),
	QUIET(vm_store_u32, AT_ALL),
	QUIET(vm_store_u64, AT_ALL),
	/* EINVAL: there is no file, and MADV_DONTNEED is the way. */
	{.name = "gmem_vm_discard",
	 .places = AT_ALL,
	 .make = vm_discard,
	 .answers = {{REMOVE_PAGES, EINVAL}},
	 .stays_begun = true},
	{.name = "gmem_vm_discard",
	 .variant = "host",
	 .places = AT_ALL,
	 .set_up = make_slot_over_ram,
	 .make = vm_discard_ram,
	 .answers = {{REMOVE_PAGES, EINVAL}},
	 .stays_begun = true},

	/* Without memory to note that a half is dropped, it counts as held: a bound. */
	{.name = "gmem_vm_convert",
	 .variant = "private",
	 .places = AT_PRIVATE,
	 .make = vm_convert,
	 .spares_memory = true,
	 .silent_kinds = DROPPING},
	{.name = "gmem_vm_convert",
	 .variant = "shared",
	 .places = AT_PRIVATE,
	 .set_up = make_all_private,
	 .make = vm_convert_back,
	 .silent_kinds = DROPPING},
	{.name = "gmem_vm_convert",
	 .variant = "runs",
	 .places = AT_PRIVATE,
	 .set_up = make_runs,
	 .make = vm_convert_runs,
	 .silent_kinds = DROPPING},
	{.name = "gmem_vm_convert",
	 .variant = "notifier",
	 .places = AT_PRIVATE,
	 .set_up = make_told_runs,
	 .make = vm_convert_runs,
	 .silent_kinds = DROPPING},
	QUIET(vm_get_visibility, AT_ALL),
	{.name = "gmem_vm_adopt_visibility", .places = AT_PRIVATE, .make = vm_adopt_visibility},
	{.name = "gmem_vm_add_notifier", .places = AT_ALL, .make = vm_add_notifier},
	{.name = "gmem_notifier_close",
	 .places = AT_ALL,
	 .set_up = make_notifier,
	 .make = notifier_close,
	 .quiet = true,
	 .returns_nothing = true},

	{.name = "gmem_vm_enable_map_gpa_range",
	 .places = AT_7_3 | AT_PRIVATE,
	 .make = vm_enable_map_gpa_range},
	{.name = "gmem_vcpu_open", .places = AT_ALL, .set_up = scene_make_vcpu, .make = vcpu_open},
	{.name = "gmem_vcpu_close",
	 .places = AT_ALL,
	 .set_up = make_vcpus,
	 .make = vcpu_close,
	 .returns_nothing = true},
	{.name = "gmem_vcpu_decode",
	 .places = AT_ALL,
	 .set_up = make_vcpus,
	 .make = vcpu_decode,
	 .quiet = true},
	{.name = "gmem_vcpu_resolve",
	 .places = AT_PRIVATE,
	 .set_up = make_vcpus,
	 .make = vcpu_resolve,
	 .silent_kinds = DROPPING | BIT(PRE_FAULT),
	 .spares_memory = true},
	{.name = "gmem_vcpu_resolve",
	 .variant = "hypercall",
	 .places = AT_PRIVATE,
	 .set_up = make_vcpus,
	 .make = vcpu_resolve_hypercall,
	 .silent_kinds = DROPPING | BIT(PRE_FAULT),
	 .spares_memory = true},
	{.name = "gmem_vcpu_prefault",
	 .places = AT_7_3 | AT_PRIVATE,
	 .set_up = make_vcpus,
	 .make = vcpu_prefault},
	{.name = "gmem_vm_prefault",
	 .places = AT_7_3,
	 .set_up = make_large_slot,
	 .make = vm_prefault,
	 .silent_kinds = BIT(START_THREAD)},

	QUIET(vm_get_stats, AT_ALL),
};

const size_t call_count = sizeof(calls) / sizeof(calls[0]);
