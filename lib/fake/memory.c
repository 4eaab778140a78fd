/* SPDX-License-Identifier: MIT */
/* Mappings, their pages, NUMA policies and copies. */
#include "fake.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* ---- Mappings ---- */

struct gmem_fake_mapping *gmem_fake_find_mapping(const struct gmem_fake *fake, const void *addr)
{
	uintptr_t at = (uintptr_t)addr;

	for (size_t i = 0; i < fake->mapping_count; i++) {
		struct gmem_fake_mapping *mapping = &fake->mappings[i];
		uintptr_t start = (uintptr_t)mapping->addr;

		if (start && at >= start && at - start < mapping->size)
			return mapping;
	}
	return NULL;
}

void gmem_fake_name_mapping(struct gmem_fake *fake, struct gmem_fake_mapping *mapping)
{
	snprintf(mapping->name, sizeof(mapping->name), "m%u", ++fake->mapping_number);
}

static bool is_private(const struct gmem_fake_object *file)
{
	return file && file->kind == GMEM_FAKE_GMEM && !(file->flags & GMEM_MEMFD_INIT_SHARED);
}

/*
 * Real memory at a multiple of the fake's page, which may be larger than the real one. Without
 * huge pages, so that a touch allocates one page and not its neighbours.
 */
static unsigned char *take_memory(const struct gmem_fake *fake, size_t size,
				  struct gmem_fake_object *file, uint64_t offset, int prot)
{
	size_t whole = size + fake->page_size;
	unsigned char *base, *addr;
	void *p;

	base = mmap(NULL, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (base == MAP_FAILED)
		return NULL;
	addr = (unsigned char *)(((uintptr_t)base + fake->page_size - 1) & ~(fake->page_size - 1));
	if (is_private(file)) /* a fault also for the library */
		prot = PROT_NONE;
	if (file)
		p = mmap(addr, size, prot, MAP_SHARED | MAP_FIXED, gmem_fake_backing_of(fake, file),
			 (off_t)offset);
	else
		p = mmap(addr, size, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	if (addr > base)
		munmap(base, (size_t)(addr - base));
	munmap(addr + size, whole - (size_t)(addr - base) - size);
	if (p == MAP_FAILED) {
		munmap(addr, size);
		return NULL;
	}
	(void)madvise(addr, size, MADV_NOHUGEPAGE); /* EINVAL: the host has no huge pages */
	return addr;
}

static struct gmem_fake_mapping *add_mapping(struct gmem_fake *fake, void *addr, size_t size,
					     int prot)
{
	struct gmem_fake_mapping *mapping;

	fake->mappings = gmem_fake_grow(fake, fake->mappings, fake->mapping_count,
					&fake->mapping_room, sizeof(*fake->mappings));
	mapping = &fake->mappings[fake->mapping_count++];
	*mapping = (struct gmem_fake_mapping){.addr = addr, .size = size, .prot = prot};
	gmem_fake_name_mapping(fake, mapping);
	return mapping;
}

void gmem_fake_drop_mapping(struct gmem_fake *fake, struct gmem_fake_mapping *mapping)
{
	if (mapping->real)
		munmap(mapping->addr, mapping->size);
	mapping->addr = NULL;
	gmem_fake_ranges_clear(&mapping->allocated);
	gmem_fake_drop_object(fake, mapping->file);
	mapping->file = NULL;
}

/* A try where the addresses of a process end: only the place counts, nothing is mapped. */
static int map_hint(struct gmem_fake *fake, void *hint, size_t size, void **addr)
{
	bool possible = fake->hva_bits >= 64 || !((uintptr_t)hint >> fake->hva_bits);

	*addr = possible ? hint : (void *)(fake->page_size * (16 + fake->mapping_count));
	add_mapping(fake, *addr, size, PROT_NONE);
	return 0;
}

/* Inaccessible pages instead of a mapping: all of it, or the model does not understand it. */
static int map_over(struct gmem_fake *fake, void *addr, size_t size, int prot)
{
	struct gmem_fake_mapping *mapping = gmem_fake_find_mapping(fake, addr);

	gmem_fake_must(fake, mapping && mapping->addr == addr && mapping->size == size,
		       "MAP_FIXED over other than a whole mapping");
	gmem_fake_must(fake,
		       mmap(addr, size, prot,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == addr,
		       "cannot map over %s: %s", mapping->name, strerror(errno));
	gmem_fake_ranges_clear(&mapping->allocated);
	gmem_fake_drop_object(fake, mapping->file);
	mapping->file = NULL;
	mapping->prot = prot;
	return 0;
}

static int map_new(struct gmem_fake *fake, size_t size, int prot, int flags, int fd,
		   uint64_t offset, void **addr)
{
	struct gmem_fake_object *file = gmem_fake_object_of(fake, fd);
	struct gmem_fake_mapping *mapping;

	if (file && file->kind == GMEM_FAKE_GMEM && !(file->flags & GMEM_MEMFD_MMAP))
		return -ENODEV;
	if (file ? !(flags & MAP_SHARED) ||
			    (file->kind != GMEM_FAKE_GMEM && file->kind != GMEM_FAKE_MEMFD)
		 : !(flags & MAP_ANONYMOUS))
		return -EINVAL;
	*addr = take_memory(fake, size, file, offset, prot);
	if (!*addr)
		return -ENOMEM;
	mapping = add_mapping(fake, *addr, size, prot);
	mapping->real = true;
	mapping->file = file;
	mapping->offset = offset;
	if (file)
		file->references++;
	return 0;
}

static int fake_mmap(const struct gmem_sys *sys, void *hint, size_t size, int prot, int flags,
		     int fd, uint64_t offset, void **addr)
{
	struct gmem_fake *fake = gmem_fake_enter(sys);
	const char *place = flags & MAP_FIXED || !hint ? gmem_fake_name_addr(fake, hint)
						       : gmem_fake_word(fake, "%p", hint);
	long r;

	if (gmem_fake_decided(fake, &r, "mmap(%s, %#zx, %s, %s, %s, %#" PRIx64 ")", place, size,
			      gmem_fake_name_prot(prot), gmem_fake_name_map_flags(fake, flags),
			      gmem_fake_name_fd(fake, fd), offset))
		return gmem_fake_leave(fake, r);
	gmem_fake_must(fake, size && size % fake->page_size == 0, "mmap of %#zx bytes", size);
	if (flags & MAP_FIXED) {
		*addr = hint;
		return gmem_fake_leave(fake, map_over(fake, hint, size, prot));
	}
	if (hint)
		return gmem_fake_leave(fake, map_hint(fake, hint, size, addr));
	return gmem_fake_leave(fake, map_new(fake, size, prot, flags, fd, offset, addr));
}

/* A slot over memory that is unmapped gives the guest whatever is mapped there next. */
static void check_unused(const struct gmem_fake *fake, const struct gmem_fake_mapping *mapping)
{
	uintptr_t start = (uintptr_t)mapping->addr;

	for (size_t i = 0; i < fake->slot_count; i++) {
		const struct gmem_fake_slot *slot = &fake->slots[i];
		uint64_t addr = slot->region.userspace_addr;

		gmem_fake_must(fake, !slot->vm || addr < start || addr >= start + mapping->size,
			       "%s is unmapped while slot %#x has it", mapping->name,
			       slot->region.slot);
	}
}

static int fake_munmap(const struct gmem_sys *sys, void *addr, size_t size)
{
	struct gmem_fake *fake = gmem_fake_enter(sys);
	struct gmem_fake_mapping *mapping = gmem_fake_find_mapping(fake, addr);
	long r;

	if (gmem_fake_decided(fake, &r, "munmap(%s, %#zx)", gmem_fake_name_addr(fake, addr), size))
		return gmem_fake_leave(fake, r);
	gmem_fake_must(fake, mapping && mapping->addr == addr && mapping->size == size,
		       "munmap of other than a whole mapping");
	check_unused(fake, mapping);
	gmem_fake_drop_mapping(fake, mapping);
	return gmem_fake_leave(fake, 0);
}

/* ---- Pages ---- */

/* Where it is noted that pages at an address of a mapping are allocated, and their place there. */
static struct gmem_fake_ranges *allocated_at(struct gmem_fake_mapping *mapping, const void *addr,
					     uint64_t *offset)
{
	*offset = mapping->offset + ((uintptr_t)addr - (uintptr_t)mapping->addr);
	return mapping->file ? &mapping->file->allocated : &mapping->allocated;
}

static long populate(struct gmem_fake *fake, struct gmem_fake_mapping *mapping, const void *addr,
		     size_t size)
{
	struct gmem_fake_ranges *ranges;
	uint64_t offset;

	if (!mapping)
		return 0;
	if (is_private(mapping->file))
		return -EFAULT;
	ranges = allocated_at(mapping, addr, &offset);
	gmem_fake_set_allocated(fake, ranges, offset, size, true);
	return 0;
}

/* Dropping the pages of a file in a mapping leaves them in the file, unless they are removed. */
static long drop_pages(struct gmem_fake *fake, struct gmem_fake_mapping *mapping, void *addr,
		       size_t size, int advice)
{
	struct gmem_fake_ranges *ranges;
	uint64_t offset;

	if (madvise(addr, size, advice) < 0)
		return -errno;
	if (!mapping || (mapping->file && advice != MADV_REMOVE))
		return 0;
	ranges = allocated_at(mapping, addr, &offset);
	gmem_fake_set_allocated(fake, ranges, offset, size, false);
	return 0;
}

static int fake_madvise(const struct gmem_sys *sys, void *addr, size_t size, int advice)
{
	struct gmem_fake *fake = gmem_fake_enter(sys);
	struct gmem_fake_mapping *mapping = gmem_fake_find_mapping(fake, addr);
	long r;

	if (gmem_fake_decided(fake, &r, "madvise(%s, %#zx, %s)", gmem_fake_name_addr(fake, addr),
			      size, gmem_fake_name_advice(fake, advice)))
		return gmem_fake_leave(fake, r);
	if (advice == MADV_WIPEONFORK && mapping)
		mapping->wiped = true;
	if (advice == MADV_POPULATE_READ || advice == MADV_POPULATE_WRITE)
		return gmem_fake_leave(fake, populate(fake, mapping, addr, size));
	if (advice == MADV_REMOVE || advice == MADV_DONTNEED || advice == MADV_FREE)
		return gmem_fake_leave(fake, drop_pages(fake, mapping, addr, size, advice));
	return gmem_fake_leave(fake, 0);
}

/* Whether any real page of a page of the fake is in memory. 0, or a negative errno. */
static int is_real(const struct gmem_fake *fake, void *page, unsigned char *present)
{
	size_t host = (size_t)sysconf(_SC_PAGESIZE);

	for (size_t at = 0; at < fake->page_size; at += host) {
		unsigned char one = 0;

		if (mincore((unsigned char *)page + at, host, &one) < 0)
			return -errno;
		*present |= one & 1;
	}
	return 0;
}

static long find_pages(struct gmem_fake *fake, unsigned char *addr, size_t size,
		       unsigned char *pages)
{
	struct gmem_fake_ranges *ranges;
	uint64_t offset;
	int r = 0;

	for (size_t at = 0; at < size && r == 0; at += fake->page_size) {
		struct gmem_fake_mapping *mapping = gmem_fake_find_mapping(fake, addr + at);
		unsigned char *present = &pages[at / fake->page_size];

		if (mapping) {
			ranges = allocated_at(mapping, addr + at, &offset);
			*present = gmem_fake_ranges_find(ranges, offset, NULL);
		}
		if (!*present)
			r = is_real(fake, addr + at, present);
	}
	return r;
}

static int fake_mincore(const struct gmem_sys *sys, void *addr, size_t size, unsigned char *pages)
{
	struct gmem_fake *fake = gmem_fake_enter(sys);
	size_t count = (size + fake->page_size - 1) / fake->page_size;
	long r;

	memset(pages, 0, count);
	if (gmem_fake_decided(fake, &r, "mincore(%s, %#zx)", gmem_fake_name_addr(fake, addr), size))
		return gmem_fake_leave(fake, r);
	if ((uintptr_t)addr % fake->page_size)
		return gmem_fake_leave(fake, -EINVAL);
	return gmem_fake_leave(fake, find_pages(fake, addr, count * fake->page_size, pages));
}

/* ---- NUMA ---- */

static struct gmem_fake_policy *policy_of(const struct gmem_fake *fake, const void *addr)
{
	struct gmem_fake_mapping *mapping = gmem_fake_find_mapping(fake, addr);

	gmem_fake_must(fake, mapping, "a policy of memory that is not mapped");
	return fake->numa_in_file && mapping->file ? &mapping->file->policy : &mapping->policy;
}

static int fake_mbind(const struct gmem_sys *sys, void *addr, size_t size, int mode,
		      const uint64_t *nodes, size_t words)
{
	struct gmem_fake *fake = gmem_fake_enter(sys);
	struct gmem_fake_policy *policy;
	long r;

	if (gmem_fake_decided(fake, &r, "mbind(%s, %#zx, %d, %s)", gmem_fake_name_addr(fake, addr),
			      size, mode, gmem_fake_name_nodes(fake, nodes, words)))
		return gmem_fake_leave(fake, r);
	policy = policy_of(fake, addr);
	*policy = (struct gmem_fake_policy){.mode = mode};
	for (size_t i = 0; i < words; i++)
		policy->nodes[i] = nodes[i];
	return gmem_fake_leave(fake, 0);
}

static int fake_get_mempolicy(const struct gmem_sys *sys, void *addr, int *mode, uint64_t *nodes,
			      size_t words)
{
	struct gmem_fake *fake = gmem_fake_enter(sys);
	const struct gmem_fake_policy *policy;
	long r;

	if (gmem_fake_decided(fake, &r, "get_mempolicy(%s)", gmem_fake_name_addr(fake, addr)))
		return gmem_fake_leave(fake, r);
	policy = policy_of(fake, addr);
	*mode = policy->mode;
	for (size_t i = 0; i < words; i++)
		nodes[i] = i < fake->numa_words ? policy->nodes[i] & fake->numa_nodes : 0;
	return gmem_fake_leave(fake, 0);
}

/* ---- Copies ---- */

static ssize_t copy(struct gmem_fake *fake, const char *name, void *to, const void *from,
		    const void *guest, size_t size)
{
	const struct gmem_fake_mapping *mapping = gmem_fake_find_mapping(fake, guest);
	long r;

	if (gmem_fake_decided(fake, &r, "%s(%s, %#zx)", name, gmem_fake_name_addr(fake, guest),
			      size))
		size = r > 0 ? (size_t)r : 0;
	else
		r = mapping && is_private(mapping->file) ? -EFAULT : (long)size;
	if (r > 0)
		memcpy(to, from, size);
	gmem_fake_leave(fake, 0);
	return r;
}

static ssize_t fake_copy_in(const struct gmem_sys *sys, void *to, const void *from, size_t size)
{
	return copy(gmem_fake_enter(sys), "copy_in", to, from, from, size);
}

static ssize_t fake_copy_out(const struct gmem_sys *sys, void *to, const void *from, size_t size)
{
	return copy(gmem_fake_enter(sys), "copy_out", to, from, to, size);
}

void gmem_fake_use_memory(struct gmem_sys *sys)
{
	sys->mmap = fake_mmap;
	sys->munmap = fake_munmap;
	sys->madvise = fake_madvise;
	sys->mincore = fake_mincore;
	sys->mbind = fake_mbind;
	sys->get_mempolicy = fake_get_mempolicy;
	sys->copy_in = fake_copy_in;
	sys->copy_out = fake_copy_out;
}
