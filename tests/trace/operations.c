/* SPDX-License-Identifier: MIT */
/*
 * Each operation of the library between two marks, for run to find in a trace: a write to no
 * descriptor, which says the operation's name and what it may ask of the kernel. That is what one
 * would write by hand with the same care: descriptors that are closed on exec, mappings that a
 * child does not inherit, addresses that stay reserved while somebody may still hold one.
 *
 * The heap is grown once at the start and never given back, so that no allocation is in the trace.
 */
#include <errno.h>
#include <fcntl.h>
#include <gmem.h>
#include <linux/kvm.h>
#include <malloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define BOTH	  (GMEM_MEMFD_MMAP | GMEM_MEMFD_INIT_SHARED)
#define PAGES	  16
#define HEAP	  (16 << 20)
#define MISSING	  77
#define SET_SLOT  "ioctl KVM_SET_USER_MEMORY_REGION2"
#define MAP	  "mmap PROT_READ|PROT_WRITE MAP_SHARED, madvise MADV_DONTFORK"
#define RESERVE	  "mmap PROT_NONE MAP_PRIVATE|MAP_FIXED|MAP_ANONYMOUS|MAP_NORESERVE"
#define PUNCH	  "fallocate FALLOC_FL_KEEP_SIZE|FALLOC_FL_PUNCH_HOLE"
#define DUPLICATE "fcntl F_DUPFD_CLOEXEC"

static const char *device;
static uint64_t page;
static struct gmem_vm *vm;
static struct gmem_memfd *memfd;
static struct gmem_map *map;
static unsigned char *ram; /* PAGES of the VMM's own */

/* ---- Marks ---- */

__attribute__((format(printf, 1, 2))) static void mark(const char *format, ...)
{
	char text[512];
	va_list arguments;
	int length;

	va_start(arguments, format);
	length = vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	if (write(-1, text, (size_t)length) >= 0)
		abort();
}

static void check(const char *name, int got, int wanted)
{
	if (got == wanted)
		return;
	fprintf(stderr, "%s: %d, not %d: %s\n", name, got, wanted, gmem_error_get_message());
	exit(EXIT_FAILURE);
}

/* `calls`: what it asks of the kernel, in order. */
#define TRACE(name, calls, call, wanted)                                                           \
	do {                                                                                       \
		int result_;                                                                       \
                                                                                                   \
		mark("begin %s: %s", name, calls);                                                 \
		result_ = (call);                                                                  \
		mark("end");                                                                       \
		check(name, result_, wanted);                                                      \
	} while (0)

/* Of a call that returns no int. */
#define TRACE_VOID(name, calls, call) TRACE(name, calls, ((void)(call), 0), 0)

#define QUIET(call)	 TRACE(name_of(#call), "", call, 0)
#define QUIET_VOID(call) TRACE_VOID(name_of(#call), "", call)

/* A refusal, which the library decides by itself. */
#define REFUSED(why, call) TRACE_REFUSED(name_of(#call), #why, GMEM_REASON_##why, call)

#define TRACE_REFUSED(name, why, reason, call)                                                     \
	do {                                                                                       \
		int result_;                                                                       \
                                                                                                   \
		mark("begin %s, %s: ", name, why);                                                 \
		result_ = (call);                                                                  \
		mark("end");                                                                       \
		check_refused(name, result_, reason);                                              \
	} while (0)

/* Of "gmem_vm_read(...)" the name. */
static const char *name_of(const char *call)
{
	static char name[64];

	snprintf(name, sizeof(name), "%.*s", (int)strcspn(call, "("), call);
	return name;
}

static void check_refused(const char *name, int result, enum gmem_reason reason)
{
	if (result < 0 && gmem_error_get_reason() == reason)
		return;
	fprintf(stderr, "%s: %d, %s, not %s: %s\n", name, result,
		gmem_reason_to_string(gmem_error_get_reason()), gmem_reason_to_string(reason),
		gmem_error_get_message());
	exit(EXIT_FAILURE);
}

/* ---- Options ---- */

#define SLOT(...) (&(const struct gmem_slot_opts){.sz = sizeof(struct gmem_slot_opts), __VA_ARGS__})
#define MEMFD(...)                                                                                 \
	(&(const struct gmem_memfd_opts){.sz = sizeof(struct gmem_memfd_opts), __VA_ARGS__})
#define MAP_OPTS(...)                                                                              \
	(&(const struct gmem_map_opts){.sz = sizeof(struct gmem_map_opts), __VA_ARGS__})
#define RESERVED(...)                                                                              \
	(&(const struct gmem_reserve_opts){.sz = sizeof(struct gmem_reserve_opts), __VA_ARGS__})
#define HOW(...)                                                                                   \
	(&(const struct gmem_replace_opts){.sz = sizeof(struct gmem_replace_opts), __VA_ARGS__})
#define VM_OPTS(...)                                                                               \
	(&(const struct gmem_vm_opts){                                                             \
		.sz = sizeof(struct gmem_vm_opts), .device = device, __VA_ARGS__})

static struct gmem_slot *make_slot(const struct gmem_slot_opts *opts)
{
	struct gmem_slot *slot;

	check("gmem_slot_create", gmem_slot_create(vm, opts, &slot), 0);
	return slot;
}

/* ---- guest_memfd and mappings ---- */

static void trace_memfd(void)
{
	struct gmem_memfd *new, *same;

	TRACE("gmem_memfd_create", "ioctl KVM_CREATE_GUEST_MEMFD, fcntl F_SETFD FD_CLOEXEC",
	      gmem_memfd_create(vm, MEMFD(.size = PAGES * page, .flags = BOTH), &new), 0);
	TRACE("gmem_memfd_open_fd",
	      DUPLICATE ", fstat, fstatfs, mmap PROT_READ|PROT_WRITE MAP_SHARED, "
			"madvise MADV_POPULATE_READ, munmap",
	      gmem_memfd_open_fd(vm, gmem_memfd_get_fd(new), &same), 0);
	TRACE("gmem_memfd_allocate", "fallocate FALLOC_FL_KEEP_SIZE",
	      gmem_memfd_allocate(new, 0, PAGES * page), 0);
	TRACE("gmem_memfd_discard", PUNCH, gmem_memfd_discard(new, 0, PAGES * page), 0);
	QUIET_VOID(gmem_memfd_get_fd(new));
	QUIET_VOID(gmem_memfd_get_size(new));
	QUIET_VOID(gmem_memfd_get_flags(new));
	QUIET_VOID(gmem_memfd_get_kind(new));
	TRACE_VOID("gmem_memfd_close", "close", gmem_memfd_close(same));
	TRACE_VOID("gmem_memfd_close of NULL", "", gmem_memfd_close(NULL));
	gmem_memfd_close(new);
}

static void trace_map(void)
{
	struct gmem_map *new;

	TRACE("gmem_map_create", MAP, gmem_map_create(memfd, NULL, &new), 0);
	TRACE("gmem_map_populate", "madvise MADV_POPULATE_WRITE",
	      gmem_map_populate(new, 0, PAGES * page, 1), 0);
	QUIET_VOID(gmem_map_get_addr(new));
	QUIET_VOID(gmem_map_get_offset(new));
	QUIET_VOID(gmem_map_get_size(new));
	TRACE_VOID("gmem_map_close", "munmap", gmem_map_close(new));
	TRACE_VOID("gmem_map_close of NULL", "", gmem_map_close(NULL));
}

/* ---- Slots ---- */

static void trace_slot(void)
{
	const struct gmem_slot_opts *of_map =
		SLOT(.gpa = 0, .size = page, .map = map, .memfd = memfd);
	struct gmem_slot *slot, *same, *own, *many[3];
	struct gmem_slot_opts opts[3];
	struct gmem_map *used;
	uint64_t bytes;

	TRACE("gmem_slot_create of a map", SET_SLOT, gmem_slot_create(vm, of_map, &slot), 0);
	TRACE("gmem_slot_create of the same again", "", gmem_slot_create(vm, of_map, &same), 0);
	TRACE_VOID("gmem_slot_close of one of two handles", "", gmem_slot_close(same));
	TRACE("gmem_slot_delete", SET_SLOT, gmem_slot_delete(slot), 0);
	REFUSED(SLOT_DELETED, gmem_slot_delete(slot));
	TRACE_VOID("gmem_slot_close of a deleted one", "", gmem_slot_close(slot));
	TRACE_VOID("gmem_slot_close of NULL", "", gmem_slot_close(NULL));

	TRACE("gmem_slot_create of a memfd", MAP ", " SET_SLOT,
	      gmem_slot_create(vm, SLOT(.size = page, .memfd = memfd), &own), 0);
	TRACE("gmem_slot_replace", MAP ", " SET_SLOT ", " SET_SLOT ", " RESERVE,
	      gmem_slot_replace(own, SLOT(.size = page, .memfd = memfd, .offset = page),
				HOW(.flags = GMEM_REPLACE_NO_VCPUS)),
	      0);
	TRACE("gmem_slot_replace by the same", "",
	      gmem_slot_replace(own, SLOT(.size = page, .memfd = memfd, .offset = page),
				HOW(.flags = GMEM_REPLACE_NO_VCPUS)),
	      0);
	TRACE_VOID("gmem_slot_close", SET_SLOT ", " RESERVE, gmem_slot_close(own));
	check("gmem_map_create", gmem_map_create(memfd, NULL, &used), 0);
	gmem_slot_close(make_slot(SLOT(.size = page, .map = used, .memfd = memfd)));
	TRACE_VOID("gmem_map_close of one that a slot has used", RESERVE, gmem_map_close(used));
	TRACE("gmem_vm_reclaim", "munmap, munmap, munmap", gmem_vm_reclaim(vm, &bytes), 0);
	TRACE("gmem_vm_reclaim of nothing", "", gmem_vm_reclaim(vm, &bytes), 0);

	for (unsigned int i = 0; i < 3; i++)
		opts[i] = *SLOT(.gpa = i * page, .size = page, .map = map, .offset = i * page,
				.memfd = memfd);
	TRACE("gmem_slot_create_many", SET_SLOT ", " SET_SLOT ", " SET_SLOT,
	      gmem_slot_create_many(vm, opts, 3, many), 0);
	for (unsigned int i = 0; i < 3; i++)
		gmem_slot_close(many[i]);
}

static void trace_plain_slot(void)
{
	struct gmem_slot *slot, *adopted;

	TRACE("gmem_slot_create of host memory", SET_SLOT,
	      gmem_slot_create(vm, SLOT(.size = page, .host = ram), &slot), 0);
	TRACE("gmem_slot_set_flags", SET_SLOT, gmem_slot_set_flags(slot, GMEM_SLOT_LOG_DIRTY), 0);
	TRACE("gmem_slot_set_flags to what they are", "",
	      gmem_slot_set_flags(slot, GMEM_SLOT_LOG_DIRTY), 0);
	TRACE("gmem_vm_discard of host memory",
	      "madvise MADV_REMOVE, madvise MADV_FREE, madvise MADV_DONTNEED",
	      gmem_vm_discard(vm, 0, page), 0);
	TRACE("gmem_slot_adopt", "",
	      gmem_slot_adopt(vm,
			      SLOT(.gpa = page, .size = page, .host = ram + page,
				   .flags = GMEM_SLOT_FIXED_ID, .id = 9),
			      &adopted),
	      0);
	REFUSED(SLOT_ADOPTED, gmem_slot_set_flags(adopted, 0));
	TRACE("gmem_slot_delete of an adopted one", "", gmem_slot_delete(adopted), 0);
	gmem_slot_close(adopted);
	gmem_slot_close(slot);
	QUIET(gmem_vm_reserve(
		vm, RESERVED(.id_first = 20, .id_count = 1, .gpa = 64 * page, .size = page)));
}

static void trace_getters(const struct gmem_slot *slot)
{
	QUIET_VOID(gmem_slot_get_id(slot));
	QUIET_VOID(gmem_slot_get_as_id(slot));
	QUIET_VOID(gmem_slot_get_gpa(slot));
	QUIET_VOID(gmem_slot_get_size(slot));
	QUIET_VOID(gmem_slot_get_offset(slot));
	QUIET_VOID(gmem_slot_get_flags(slot));
	QUIET_VOID(gmem_slot_get_addr(slot));
	TRACE("gmem_slot_get_memory", "mincore",
	      gmem_slot_get_memory(
		      slot, &(struct gmem_slot_memory){.sz = sizeof(struct gmem_slot_memory)}),
	      0);
}

/* ---- Access by guest address ---- */

static void trace_access(void)
{
	struct gmem_slot *slot = make_slot(SLOT(.size = 2 * page, .map = map, .memfd = memfd));
	struct gmem_stats stats = {.sz = sizeof(stats)};
	enum gmem_visibility visibility;
	char bytes[16] = "";
	uint64_t u64;
	uint32_t u32;
	uint16_t u16;
	uint8_t u8;
	void *addr;

	trace_getters(slot);
	QUIET(gmem_vm_translate(vm, 0, 0, GMEM_PROT_WRITE, NULL, &addr));
	QUIET(gmem_vm_write(vm, 0, 0, bytes, sizeof(bytes)));
	QUIET(gmem_vm_read(vm, 0, 0, bytes, sizeof(bytes)));
	QUIET(gmem_vm_store_u8(vm, 0, 0, 1));
	QUIET(gmem_vm_store_u16(vm, 0, 0, 1));
	QUIET(gmem_vm_store_u32(vm, 0, 0, 1));
	QUIET(gmem_vm_store_u64(vm, 0, 0, 1));
	QUIET(gmem_vm_load_u8(vm, 0, 0, &u8));
	QUIET(gmem_vm_load_u16(vm, 0, 0, &u16));
	QUIET(gmem_vm_load_u32(vm, 0, 0, &u32));
	QUIET(gmem_vm_load_u64(vm, 0, 0, &u64));
	QUIET(gmem_vm_get_visibility(vm, 0, &visibility, &u64));
	QUIET(gmem_vm_get_stats(vm, &stats));
	QUIET(gmem_vm_get_cap(vm, GMEM_CAP_NR_MEMSLOTS, &u64));
	QUIET_VOID(gmem_vm_get_fd(vm));
	QUIET_VOID(gmem_cap_to_string(GMEM_CAP_NUMA));
	QUIET_VOID(gmem_reason_to_string(GMEM_REASON_NULL));
	QUIET_VOID(gmem_error_get_reason());
	QUIET_VOID(gmem_error_get_message());
	QUIET_VOID(gmem_get_version());
	TRACE("gmem_vm_discard", PUNCH, gmem_vm_discard(vm, 0, page), 0);
	gmem_slot_close(slot);
}

/* ---- vCPU ---- */

static int prepare(void *data, const struct gmem_conversion *conversion)
{
	(void)data;
	(void)conversion;
	return 0;
}

static void trace_vcpu(void)
{
	const struct gmem_notifier_opts notifier_opts = {.sz = sizeof(notifier_opts),
							 .prepare = prepare};
	struct gmem_exit exit = {.sz = sizeof(exit)};
	int fd = ioctl(gmem_vm_get_fd(vm), KVM_CREATE_VCPU, 0UL);
	struct kvm_run *run = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	struct gmem_notifier *notifier;
	struct gmem_vcpu *vcpu;

	if (fd < 0 || run == MAP_FAILED) {
		perror("vCPU");
		_exit(EXIT_FAILURE);
	}
	TRACE("gmem_vcpu_open", DUPLICATE ", ioctl KVM_CHECK_EXTENSION",
	      gmem_vcpu_open(vm, fd, run, &vcpu), 0);
	QUIET(gmem_vcpu_decode(vcpu, -1, EFAULT, &exit));
	REFUSED(EXIT_GONE, gmem_vcpu_resolve(vcpu, &exit, NULL));
	exit.kind = GMEM_EXIT_MISSING;
	REFUSED(EXIT_MISSING, gmem_vcpu_resolve(vcpu, &exit, NULL));
	exit.kind = GMEM_EXIT_UNKNOWN;
	REFUSED(EXIT_UNKNOWN, gmem_vcpu_resolve(vcpu, &exit, NULL));
	exit.kind = GMEM_EXIT_POISONED;
	REFUSED(POISONED, gmem_vcpu_resolve(vcpu, &exit, NULL));
	exit.kind = GMEM_EXIT_NO_MEMORY;
	REFUSED(NO_MEMORY, gmem_vcpu_resolve(vcpu, &exit, NULL));
	exit.kind = GMEM_EXIT_RETRY;
	QUIET(gmem_vcpu_resolve(vcpu, &exit, NULL));
	TRACE_VOID("gmem_vcpu_close", "close", gmem_vcpu_close(vcpu));
	QUIET(gmem_vm_add_notifier(vm, &notifier_opts, &notifier));
	QUIET_VOID(gmem_notifier_close(notifier));
	munmap(run, 2 * page);
	close(fd);
}

/* ---- Refusals ---- */

static void refuse_memfds(void)
{
	struct gmem_memfd *ret;
	struct gmem_map *new;

	REFUSED(NULL, gmem_memfd_create(NULL, MEMFD(.size = page), &ret));
	REFUSED(OPTS_SIZE, gmem_memfd_create(vm, &(struct gmem_memfd_opts){.sz = 1}, &ret));
	REFUSED(RANGE_EMPTY, gmem_memfd_create(vm, MEMFD(.size = 0), &ret));
	REFUSED(RANGE_UNALIGNED, gmem_memfd_create(vm, MEMFD(.size = 1), &ret));
	REFUSED(TOO_LARGE, gmem_memfd_create(vm, MEMFD(.size = UINT64_C(1) << 63), &ret));
	REFUSED(FLAGS_UNKNOWN, gmem_memfd_create(vm, MEMFD(.size = page, .flags = 1 << 30), &ret));
	REFUSED(ARGUMENT,
		gmem_memfd_create(vm, MEMFD(.size = page, .numa_mode = (enum gmem_numa)9), &ret));
	REFUSED(NUMA_NEEDS_MMAP,
		gmem_memfd_create(vm,
				  MEMFD(.size = page, .numa_mode = GMEM_NUMA_BIND,
					.numa_nodes = &(uint64_t){1}, .numa_words = 1),
				  &ret));
	REFUSED(MEMFD_BEYOND_END, gmem_memfd_allocate(memfd, PAGES * page, page));
	REFUSED(RANGE_WRAPS, gmem_memfd_discard(memfd, -page, page));
	REFUSED(CAP_UNSUPPORTED, gmem_memfd_convert(memfd, 0, page, GMEM_VISIBILITY_PRIVATE, NULL));
	REFUSED(FLAGS_UNKNOWN, gmem_map_create(memfd, MAP_OPTS(.size = page, .prot = 8), &new));
	REFUSED(CONFLICT, gmem_map_create(memfd, MAP_OPTS(.size = page, .pad = 1), &new));
	REFUSED(MEMFD_BEYOND_END, gmem_map_create(memfd, MAP_OPTS(.size = 99 * page), &new));
	REFUSED(MAP_BEYOND_END, gmem_map_populate(map, PAGES * page, page, 1));
	REFUSED(ARGUMENT, gmem_map_populate(map, 0, page, 1000));
}

/* A struct of a later version, of which a member is in use that is not known here. */
static const struct gmem_slot_opts *later_opts(void)
{
	static union {
		struct gmem_slot_opts opts;
		unsigned char bytes[sizeof(struct gmem_slot_opts) + 8];
	} later;

	later.opts = *SLOT(.size = page, .host = ram);
	later.opts.sz = sizeof(later);
	later.bytes[sizeof(later) - 1] = 1;
	return &later.opts;
}

static void refuse_slots(struct gmem_map *readonly, struct gmem_map *stranger)
{
	struct gmem_memfd *plain, *untouchable, *foreign;
	struct gmem_slot *bound, *ret;
	struct gmem_vm *other;

	check("gmem_vm_open", gmem_vm_open(VM_OPTS(.type = 0), &other), 0);
	check("plain", gmem_memfd_create(vm, MEMFD(.size = page), &plain), 0);
	check("untouchable",
	      gmem_memfd_create(vm, MEMFD(.size = page, .flags = GMEM_MEMFD_MMAP), &untouchable),
	      0);
	check("foreign", gmem_memfd_create(other, MEMFD(.size = page, .flags = BOTH), &foreign), 0);
	bound = make_slot(SLOT(.gpa = 16 * page, .size = page, .map = map, .memfd = memfd));

#define NOT_CREATED(why, ...)                                                                      \
	TRACE_REFUSED("gmem_slot_create", #why, GMEM_REASON_##why,                                 \
		      gmem_slot_create(vm, SLOT(__VA_ARGS__), &ret))
	REFUSED(OPTS_TAIL, gmem_slot_create(vm, later_opts(), &ret));
	REFUSED(ARGUMENT, gmem_slot_create_many(vm, later_opts(), 0, &ret));
	NOT_CREATED(FLAGS_UNKNOWN, .size = page, .host = ram, .flags = 8);
	NOT_CREATED(CONFLICT, .size = page);
	NOT_CREATED(AS_BEYOND_LIMIT, .size = page, .host = ram, .as_id = 99);
	NOT_CREATED(RANGE_EMPTY, .size = 0, .host = ram);
	NOT_CREATED(RANGE_UNALIGNED, .size = page, .gpa = 1, .host = ram);
	NOT_CREATED(RANGE_WRAPS, .size = page, .gpa = -page, .host = ram);
	NOT_CREATED(GPA_BEYOND_WIDTH, .size = page, .gpa = -(2 * page), .host = ram);
	NOT_CREATED(MEMFD_BEYOND_END, .size = 99 * page, .memfd = memfd);
	NOT_CREATED(MAP_BEYOND_END, .size = 99 * page, .map = map);
	NOT_CREATED(HOST_NOT_CANONICAL, .size = page, .host = (void *)-(2 * page));
	NOT_CREATED(GPA_RESERVED, .size = page, .gpa = 64 * page, .host = ram);
	NOT_CREATED(GPA_OVERLAP, .size = page, .gpa = 16 * page, .host = ram);
	NOT_CREATED(MEMFD_OVERLAP, .size = page, .memfd = memfd);
	NOT_CREATED(TOO_MANY_PAGES, .size = page << 31, .gpa = 65 * page, .host = (void *)page);
#define FIXED(number) .flags = GMEM_SLOT_FIXED_ID, .id = number
	NOT_CREATED(ID_BEYOND_LIMIT, .size = page, .host = ram, FIXED(0xffff));
	NOT_CREATED(ID_NOT_GRANTED, .size = page, .host = ram, FIXED(20));
	NOT_CREATED(ID_TAKEN, .size = page, .host = ram, FIXED(0));
	NOT_CREATED(MEMFD_FOREIGN, .size = page, .memfd = foreign);
	NOT_CREATED(MEMFD_NO_DIRTY_LOG, .size = page, .memfd = memfd, .offset = page,
		    .flags = GMEM_SLOT_LOG_DIRTY);
	NOT_CREATED(MEMFD_NO_READONLY, .size = page, .memfd = memfd, .offset = page,
		    .flags = GMEM_SLOT_READONLY);
	NOT_CREATED(MEMFD_IGNORED, .size = page, .memfd = plain);
	NOT_CREATED(MEMFD_UNTOUCHABLE, .size = page, .memfd = untouchable);
	NOT_CREATED(HOST_NOT_MAPPING, .size = page, .memfd = memfd, .offset = page,
		    .map = stranger);
	NOT_CREATED(ACCESS_READONLY, .size = page, .map = readonly);
	REFUSED(NEEDS_QUIESCE,
		gmem_slot_replace(bound, SLOT(.size = page, .host = ram), HOW(.flags = 0)));
	REFUSED(CONFLICT,
		gmem_slot_replace(bound, SLOT(.size = page, .host = ram), HOW(.resume = free)));
	REFUSED(MEMFD_NOT_MAPPABLE, gmem_map_create(plain, NULL, &(struct gmem_map *){NULL}));

	gmem_slot_close(bound);
	gmem_memfd_close(foreign);
	gmem_memfd_close(untouchable);
	gmem_memfd_close(plain);
	gmem_vm_close(other);
}

static void refuse_other_sides(void)
{
	struct gmem_map *readonly, *stranger;
	struct gmem_memfd *second;

	check("second", gmem_memfd_create(vm, MEMFD(.size = 4 * page, .flags = BOTH), &second), 0);
	check("stranger", gmem_map_create(second, NULL, &stranger), 0);
	check("read-only",
	      gmem_map_create(memfd, MAP_OPTS(.size = page, .prot = GMEM_PROT_READ), &readonly), 0);
	refuse_slots(readonly, stranger);
	gmem_map_close(readonly);
	gmem_map_close(stranger);
	gmem_memfd_close(second);
}

static void refuse_access(void)
{
	struct gmem_slot *slot =
		make_slot(SLOT(.size = page, .map = map, .memfd = memfd, .flags = 0));
	char byte = 0;
	uint64_t value;
	void *addr;

	REFUSED(NULL, gmem_vm_read(vm, 0, 0, NULL, 1));
	REFUSED(GPA_UNMAPPED, gmem_vm_read(vm, 0, 4 * page, &byte, 1));
	REFUSED(GPA_UNMAPPED, gmem_vm_write(vm, 0, page - 1, "ab", 2));
	REFUSED(RANGE_WRAPS, gmem_vm_read(vm, 0, UINT64_MAX, &byte, 2));
	REFUSED(AS_BEYOND_LIMIT, gmem_vm_translate(vm, 99, 0, 0, NULL, &addr));
	REFUSED(FLAGS_UNKNOWN, gmem_vm_translate(vm, 0, 0, 8, NULL, &addr));
	REFUSED(ACCESS_UNALIGNED, gmem_vm_load_u64(vm, 0, 1, &value));
	REFUSED(GPA_UNMAPPED, gmem_vm_store_u8(vm, 0, 4 * page, 1));
	REFUSED(GPA_UNMAPPED, gmem_vm_discard(vm, 0, 2 * page));
	REFUSED(RANGE_UNALIGNED, gmem_vm_discard(vm, 1, page));
	REFUSED(CONFLICT, gmem_vm_reserve(vm, RESERVED(.id_first = 1)));
	REFUSED(GPA_OVERLAP, gmem_vm_reserve(vm, RESERVED(.size = page)));
	REFUSED(ARGUMENT, gmem_vm_get_cap(vm, (enum gmem_cap)999, &value));
	REFUSED(CAP_UNSUPPORTED,
		gmem_vm_convert(vm, 0, page, GMEM_VISIBILITY_PRIVATE, GMEM_CONVERT_DISCARD, NULL));
	gmem_slot_close(slot);
}

static int change_in_callback(void *data)
{
	struct gmem_slot *ret;

	(void)data;
	REFUSED(IN_CALLBACK, gmem_slot_create(vm, SLOT(.size = page, .host = ram), &ret));
	return -EBUSY;
}

static void no_resume(void *data)
{
	(void)data;
}

static void refuse_states(void)
{
	struct gmem_slot *slot = make_slot(SLOT(.size = page, .host = ram));
	char byte;
	pid_t child;
	int status;

	check("gmem_slot_replace",
	      gmem_slot_replace(slot, SLOT(.gpa = page, .size = page, .host = ram),
				HOW(.quiesce = change_in_callback, .resume = no_resume)),
	      -EBUSY);
	child = fork();
	if (child == 0) {
		REFUSED(FORKED, gmem_vm_read(vm, 0, 0, &byte, 1));
		REFUSED(FORKED, gmem_slot_delete(slot));
		_exit(EXIT_SUCCESS);
	}
	if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
		exit(EXIT_FAILURE);
	gmem_slot_close(slot);
}

/* ---- All ---- */

static void grow_heap(void)
{
	mallopt(M_MMAP_MAX, 0);
	mallopt(M_TRIM_THRESHOLD, HEAP * 2);
	free(malloc(HEAP));
}

int main(int argc, char **argv)
{
	device = argc > 1 ? argv[1] : "/dev/kvm";
	page = (uint64_t)sysconf(_SC_PAGESIZE);
	grow_heap();
	if (gmem_vm_open(VM_OPTS(.type = 0), &vm) < 0 ||
	    gmem_memfd_create(vm, MEMFD(.size = PAGES * page, .flags = BOTH), &memfd) < 0) {
		printf("%s\n", gmem_error_get_message());
		return MISSING;
	}
	check("gmem_map_create", gmem_map_create(memfd, NULL, &map), 0);
	ram = mmap(NULL, PAGES * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	trace_memfd();
	trace_map();
	trace_slot();
	trace_plain_slot();
	trace_access();
	trace_vcpu();
	refuse_memfds();
	refuse_other_sides();
	refuse_access();
	refuse_states();
	gmem_map_close(map);
	gmem_memfd_close(memfd);
	check("gmem_vm_reclaim", gmem_vm_reclaim(vm, NULL), 0);
	TRACE_VOID("gmem_vm_close", "munmap, close", gmem_vm_close(vm));
	return EXIT_SUCCESS;
}
