/* SPDX-License-Identifier: MIT */
#include "caps.h"

#include "error.h"
#include "uapi/kvm.h"
#include "uapi/mm.h"

#include <errno.h>
#include <fcntl.h>

/*
 * State of one run. What no capability announces is tried once on throw-away objects: a guest_memfd
 * of one page, and slots of it, or of a page of ordinary memory where there is none.
 */
struct probe {
	const struct gmem_sys *sys;
	const struct gmem_caps *caps;
	int fd;
	size_t page_size;
	uint32_t id;  /* free for throw-away slots */
	int id_error; /* 0, or why there is none */
	void *pages;  /* two, ordinary: the host side of the slots */
	int memfd;    /* or the negative errno that says why there is none */
	int mapped;   /* 0, or a negative errno */
	void *map, *map2;
	bool stuck; /* a throw-away slot could not be removed */
};

typedef int probe_fn(struct probe *probe, uint64_t *value);

int gmem_caps_check(const struct gmem_sys *sys, int fd, int kvm_cap)
{
	return sys->ioctl(sys, fd, KVM_CHECK_EXTENSION, (uintptr_t)kvm_cap);
}

/* ---- Throw-away slots ---- */

static int set_slot(struct probe *probe, struct kvm_userspace_memory_region2 region)
{
	int r;

	region.slot = probe->id;
	region.userspace_addr = (uintptr_t)probe->pages;
	do
		r = probe->sys->ioctl(probe->sys, probe->fd, KVM_SET_USER_MEMORY_REGION2,
				      (uintptr_t)&region);
	while (r == -EINTR);
	return r;
}

/*
 * Set a slot and remove it again. KVM refuses an id that is in use (EINVAL): always for a slot with
 * a guest_memfd. One of ordinary memory would be moved if all but its place were the same; a
 * read-only one, of memory that is the library's own, is as unlike the VMM's as it can be.
 */
static int try_slot(struct probe *probe, uint64_t gpa, uint64_t size, uint64_t offset)
{
	struct kvm_userspace_memory_region2 region = {.guest_phys_addr = gpa, .memory_size = size};
	int r;

	if (probe->memfd >= 0) {
		region.flags = KVM_MEM_GUEST_MEMFD;
		region.guest_memfd = (uint32_t)probe->memfd;
		region.guest_memfd_offset = offset;
	} else if (gmem_caps_value(probe->caps, GMEM_CAP_READONLY_MEM)) {
		region.flags = KVM_MEM_READONLY;
	}
	r = set_slot(probe, region);
	if (r < 0)
		return r;
	r = set_slot(probe, (struct kvm_userspace_memory_region2){.guest_phys_addr = gpa});
	/* Whatever the errno: it says nothing of the address. */
	if (r < 0) {
		probe->stuck = true;
		return -EBUSY;
	}
	return 0;
}

/* EEXIST means that somebody has memory there, so that the address is a possible one. */
static int try_page(struct probe *probe, uint64_t gpa)
{
	int r = try_slot(probe, gpa, probe->page_size, 0);

	return r == -EEXIST ? 0 : r;
}

/* Guest addresses [2^bits - page, 2^bits). */
static uint64_t top_page(const struct probe *probe, unsigned int bits)
{
	return (UINT64_C(1) << bits) - probe->page_size;
}

/* The first of the highest eight ids under which a page below 4 GiB can be set. */
static int find_free_id(struct probe *probe, uint32_t id_first, uint32_t id_end)
{
	int r = -EINVAL;

	for (unsigned int i = 0; i < 8 && id_end - i > id_first && r == -EINVAL && !probe->stuck;
	     i++) {
		probe->id = id_end - i - 1;
		r = try_page(probe, top_page(probe, 32));
	}
	return r == -EINVAL ? -EBUSY : r;
}

/* EINVAL (x86) and EFAULT (arm64) say that an address is too large. */
static int probe_gpa_bits(struct probe *probe, uint64_t *value)
{
	unsigned int low = 32, high = 64; /* low works, high does not */

	if (probe->id_error < 0)
		return probe->id_error;
	while (high - low > 1) {
		unsigned int bits = (low + high) / 2;
		int r = try_page(probe, top_page(probe, bits));

		if (r < 0 && r != -EINVAL && r != -EFAULT)
			return r;
		if (r == 0)
			low = bits;
		else
			high = bits;
	}
	*value = low;
	return 0;
}

/* ---- This process ---- */

static bool can_map_above(struct probe *probe, uintptr_t hint)
{
	const struct gmem_sys *sys = probe->sys;
	void *addr;

	/* Not MAP_FIXED: where the place is taken, the kernel answers another, mostly a higher one.
	 */
	if (sys->mmap(sys, (void *)hint, probe->page_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS,
		      -1, 0, &addr) < 0)
		return false;
	sys->munmap(sys, addr, probe->page_size);
	return (uintptr_t)addr >= hint;
}

/*
 * User address widths of the two architectures, in descending order. Two places for each: in the
 * legacy layout a place that is taken is answered with a lower one.
 */
static int probe_hva_bits(struct probe *probe, uint64_t *value)
{
	static const unsigned int widths[] = {56, 52, 48, 47, 42, 39, 36};

	for (size_t i = 0; i < sizeof(widths) / sizeof(widths[0]); i++) {
		uintptr_t half = (uintptr_t)1 << (widths[i] - 1);

		if (can_map_above(probe, half) || can_map_above(probe, half + half / 8)) {
			*value = widths[i];
			return 0;
		}
	}
	return -ENOMEM;
}

/* ---- A throw-away guest_memfd ---- */

static int map_once(struct probe *probe, void **map)
{
	int r = probe->sys->mmap(probe->sys, NULL, probe->page_size, PROT_READ | PROT_WRITE,
				 MAP_SHARED, probe->memfd, 0, map);

	if (r < 0)
		*map = NULL;
	return r;
}

static void make_memfd(struct probe *probe)
{
	const uint64_t wanted = GMEM_MEMFD_MMAP | GMEM_MEMFD_INIT_SHARED;
	struct kvm_create_guest_memfd create = {
		.size = probe->page_size,
		.flags = gmem_caps_value(probe->caps, GMEM_CAP_GUEST_MEMFD_FLAGS) & wanted,
	};

	if (!gmem_caps_value(probe->caps, GMEM_CAP_GUEST_MEMFD))
		return;
	probe->memfd = probe->sys->ioctl(probe->sys, probe->fd, KVM_CREATE_GUEST_MEMFD,
					 (uintptr_t)&create);
	if (probe->memfd < 0) {
		probe->mapped = probe->memfd;
		return;
	}
	probe->sys->fcntl(probe->sys, probe->memfd, F_SETFD, FD_CLOEXEC);
	if (!(create.flags & GMEM_MEMFD_MMAP))
		return;
	probe->mapped = map_once(probe, &probe->map);
	if (probe->mapped == 0)
		probe->mapped = map_once(probe, &probe->map2);
}

/* A descriptor, or a negative errno: the device first, since it needs no privilege. */
static int open_userfaultfd(const struct gmem_sys *sys)
{
	int device = sys->open(sys, "/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	int fd;

	if (device < 0)
		return sys->userfaultfd(sys, O_CLOEXEC);
	fd = sys->ioctl(sys, device, USERFAULTFD_IOC_NEW, O_CLOEXEC);
	sys->close(sys, device);
	return fd;
}

/* Whether the mapping can be registered in one mode; registered no more when it returns. */
static bool try_register(struct probe *probe, int fd, uint64_t mode)
{
	struct uffdio_range range = {.start = (uintptr_t)probe->map, .len = probe->page_size};
	struct uffdio_register reg = {.range = range, .mode = mode};

	if (probe->sys->ioctl(probe->sys, fd, UFFDIO_REGISTER, (uintptr_t)&reg) < 0)
		return false;
	probe->sys->ioctl(probe->sys, fd, UFFDIO_UNREGISTER, (uintptr_t)&range);
	return true;
}

static int probe_userfaultfd(struct probe *probe, uint64_t *value)
{
	static const uint64_t modes[] = {UFFDIO_REGISTER_MODE_MISSING, UFFDIO_REGISTER_MODE_WP,
					 UFFDIO_REGISTER_MODE_MINOR};
	struct uffdio_api api = {.api = UFFD_API};
	int fd, r;

	*value = 0;
	if (probe->mapped < 0)
		return probe->mapped;
	fd = open_userfaultfd(probe->sys);
	if (fd < 0)
		return fd;
	r = probe->sys->ioctl(probe->sys, fd, UFFDIO_API, (uintptr_t)&api);
	for (size_t i = 0; r == 0 && i < sizeof(modes) / sizeof(modes[0]); i++)
		if (try_register(probe, fd, modes[i]))
			*value |= modes[i];
	probe->sys->close(probe->sys, fd);
	return r;
}

/* A kernel that keeps the policy in the file shows it in the other mapping too. */
static int probe_numa(struct probe *probe, uint64_t *value)
{
	const struct gmem_sys *sys = probe->sys;
	int mode = MPOL_DEFAULT;
	int r;

	*value = 0;
	if (probe->mapped < 0)
		return probe->mapped;
	r = sys->mbind(sys, probe->map, probe->page_size, MPOL_LOCAL, NULL, 0);
	if (r == 0)
		r = sys->get_mempolicy(sys, probe->map2, &mode, NULL, 0);
	if (r < 0)
		return r == -ENOSYS ? 0 : r; /* a kernel without NUMA */
	*value = mode == MPOL_LOCAL;
	return 0;
}

/*
 * Kernels up to 6.19 add offset and size as signed numbers (kvm_gmem_bind()): a range that ends
 * past 2^63 is bound, though there is no such memory.
 */
static int probe_bind_checked(struct probe *probe, uint64_t *value)
{
	uint64_t bits = gmem_caps_value(probe->caps, GMEM_CAP_GPA_BITS);
	uint64_t offset = (UINT64_C(1) << 63) - probe->page_size;
	int r;

	*value = 0;
	if (probe->memfd < 0)
		return probe->memfd;
	if (probe->id_error < 0)
		return probe->id_error;
	r = try_slot(probe, top_page(probe, bits ? (unsigned int)bits : 32) - probe->page_size,
		     2 * probe->page_size, offset);
	*value = r == -EINVAL;
	return r == -EINVAL ? 0 : r;
}

/* ---- The table ---- */

static int nr_memslots(struct probe *probe, uint64_t *value)
{
	(void)probe;
	if (*value == 0)
		*value = 32; /* as the kernel documents it */
	return *value <= 0x10000 ? 0 : -ERANGE;
}

static int nr_address_spaces(struct probe *probe, uint64_t *value)
{
	(void)probe;
	if (*value == 0)
		*value = 1;
	return *value <= 64 ? 0 : -ERANGE;
}

/* kvm_cap -1: none, only tried. Both: the probe corrects what the kernel answered. */
static const struct {
	const char *name;
	int kvm_cap;
	probe_fn *probe;
	const char *hint; /* where the probe itself can fail: what it needs */
} table[GMEM_CAP_COUNT] = {
	[GMEM_CAP_GUEST_MEMFD] = {"GUEST_MEMFD", KVM_CAP_GUEST_MEMFD, NULL, NULL},
	[GMEM_CAP_GUEST_MEMFD_FLAGS] = {"GUEST_MEMFD_FLAGS", KVM_CAP_GUEST_MEMFD_FLAGS, NULL, NULL},
	[GMEM_CAP_USER_MEMORY2] = {"USER_MEMORY2", KVM_CAP_USER_MEMORY2, NULL, NULL},
	[GMEM_CAP_MEMORY_ATTRIBUTES] = {"MEMORY_ATTRIBUTES", KVM_CAP_MEMORY_ATTRIBUTES, NULL, NULL},
	[GMEM_CAP_MEMORY_FAULT_INFO] = {"MEMORY_FAULT_INFO", KVM_CAP_MEMORY_FAULT_INFO, NULL, NULL},
	[GMEM_CAP_PRE_FAULT_MEMORY] = {"PRE_FAULT_MEMORY", KVM_CAP_PRE_FAULT_MEMORY, NULL, NULL},
	[GMEM_CAP_READONLY_MEM] = {"READONLY_MEM", KVM_CAP_READONLY_MEM, NULL, NULL},
	[GMEM_CAP_NR_MEMSLOTS] = {"NR_MEMSLOTS", KVM_CAP_NR_MEMSLOTS, nr_memslots,
				  "a number from 1 to 65536"},
	[GMEM_CAP_NR_ADDRESS_SPACES] = {"NR_ADDRESS_SPACES", KVM_CAP_MULTI_ADDRESS_SPACE,
					nr_address_spaces, "a number from 1 to 64"},
	[GMEM_CAP_VM_TYPES] = {"VM_TYPES", KVM_CAP_VM_TYPES, NULL, NULL},
	[GMEM_CAP_GPA_BITS] = {"GPA_BITS", -1, probe_gpa_bits,
			       "a free slot id among the highest granted"},
	[GMEM_CAP_HVA_BITS] = {"HVA_BITS", -1, probe_hva_bits, "address space for one page"},
	[GMEM_CAP_USERFAULTFD] = {"USERFAULTFD", -1, probe_userfaultfd,
				  "/dev/userfaultfd, CAP_SYS_PTRACE or "
				  "vm.unprivileged_userfaultfd=1, and no seccomp filter"},
	[GMEM_CAP_NUMA] = {"NUMA", -1, probe_numa, "mbind() and get_mempolicy()"},
	[GMEM_CAP_BIND_CHECKED] = {"BIND_CHECKED", -1, probe_bind_checked,
				   "a free slot id among the highest granted"},
	[GMEM_CAP_EXIT_HYPERCALL] = {"EXIT_HYPERCALL", KVM_CAP_EXIT_HYPERCALL, NULL, NULL},
	[GMEM_CAP_CONVERT_IN_PLACE] = {"CONVERT_IN_PLACE", -1, NULL, NULL}, /* of no kernel yet */
};

static void probe_one(struct probe *probe, struct gmem_caps *caps, enum gmem_cap cap)
{
	uint64_t value = 0;
	int r = 0;

	if (table[cap].kvm_cap >= 0) {
		r = gmem_caps_check(probe->sys, probe->fd, table[cap].kvm_cap);
		value = r > 0 ? (uint64_t)r : 0;
	}
	if (r >= 0 && table[cap].probe)
		r = table[cap].probe(probe, &value);
	caps->cap[cap].error = r < 0 ? r : 0;
	caps->cap[cap].value = r < 0 ? 0 : value;
}

static void release(struct probe *probe)
{
	const struct gmem_sys *sys = probe->sys;

	if (probe->map2)
		sys->munmap(sys, probe->map2, probe->page_size);
	if (probe->map)
		sys->munmap(sys, probe->map, probe->page_size);
	if (probe->memfd >= 0)
		sys->close(sys, probe->memfd);
	/* Under a slot that stays they stay too: the guest must not reach what would come there. */
	if (probe->pages && !probe->stuck)
		sys->munmap(sys, probe->pages, 2 * probe->page_size);
}

/* Whether the kernel announces a capability; the others are tried. */
static bool is_announced(enum gmem_cap cap)
{
	return table[cap].kvm_cap >= 0;
}

void gmem_caps_query(struct gmem_caps *caps, const struct gmem_sys *sys, int vm_fd)
{
	struct probe probe = {.sys = sys, .caps = caps, .fd = vm_fd};

	for (enum gmem_cap cap = GMEM_CAP_GUEST_MEMFD; cap < GMEM_CAP_COUNT; cap++)
		if (is_announced(cap))
			probe_one(&probe, caps, cap);
}

void gmem_caps_try(struct gmem_caps *caps, const struct gmem_sys *sys, int vm_fd, uint32_t id_first,
		   uint32_t id_end)
{
	struct probe probe = {
		.sys = sys,
		.caps = caps,
		.fd = vm_fd,
		.page_size = sys->page_size(sys),
		.memfd = -EOPNOTSUPP,
		.mapped = -EOPNOTSUPP,
	};

	make_memfd(&probe);
	probe.id_error = sys->mmap(sys, NULL, 2 * probe.page_size, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, &probe.pages);
	if (probe.id_error == 0)
		probe.id_error = find_free_id(&probe, id_first, id_end);
	else
		probe.pages = NULL;
	for (enum gmem_cap cap = GMEM_CAP_GUEST_MEMFD; cap < GMEM_CAP_COUNT; cap++)
		if (!is_announced(cap) && table[cap].probe && probe.stuck)
			caps->cap[cap].error = -EBUSY;
		else if (!is_announced(cap))
			probe_one(&probe, caps, cap);
	release(&probe);
}

uint64_t gmem_caps_value(const struct gmem_caps *caps, enum gmem_cap cap)
{
	return caps->cap[cap].value;
}

int gmem_caps_get(const struct gmem_caps *caps, enum gmem_cap cap, uint64_t *value)
{
	int error;

	*value = 0;
	if (cap < GMEM_CAP_GUEST_MEMFD || cap >= GMEM_CAP_COUNT)
		return gmem_fail(EINVAL, GMEM_REASON_ARGUMENT, "there is no capability %d",
				 (int)cap);
	error = -caps->cap[cap].error;
	if (error && error != EOPNOTSUPP)
		return gmem_fail(error, GMEM_REASON_CAP_PROBE_FAILED,
				 "%s could not be found out: %s%s%s", table[cap].name,
				 gmem_errno_name(error), table[cap].hint ? "; it takes " : "",
				 table[cap].hint ? table[cap].hint : "");
	if (caps->cap[cap].value == 0)
		return gmem_fail(EOPNOTSUPP, GMEM_REASON_CAP_UNSUPPORTED,
				 "this kernel or VM type has no %s", table[cap].name);
	*value = caps->cap[cap].value;
	return 0;
}

const char *gmem_cap_to_string(enum gmem_cap cap)
{
	if (cap < GMEM_CAP_GUEST_MEMFD || cap >= GMEM_CAP_COUNT)
		return "UNKNOWN";
	return table[cap].name;
}
