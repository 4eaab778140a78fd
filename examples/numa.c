/* SPDX-License-Identifier: MIT */
/*
 * Guest memory on chosen NUMA nodes: for each node a guest_memfd bound to it, in a slot of its own,
 * and one that alternates between all. The guest (walk.h) touches everything; then the kernel is
 * asked where the pages are. What a VMM can copy from here:
 *
 *   find_nodes()    the nodes that this process may use
 *   make_part()     a guest_memfd with a policy, and its slot
 *   locate()        where each page is
 *
 * A policy of the thread, as numactl sets it, would be of no use: pages are allocated when the
 * guest touches them, by whatever thread runs the vCPU.
 */
#include "cpu.h"
#include "example.h"
#include "walk.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/mempolicy.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

extern const unsigned char walk_guest_begin[];
extern const unsigned char walk_guest_end[];

#define LOW_SIZE   (2 * MIB) /* tables and code, without a policy */
#define LIMIT_GPA  FREE_GPA
#define MAX_NODES  1024
#define MAX_PARTS  9 /* 8 nodes, and all of them */
#define NODE_WORDS (MAX_NODES / 64)
#define ROW_CELLS  32

/* A stretch of guest memory with one policy. */
struct part {
	enum gmem_numa mode;
	uint64_t nodes[NODE_WORDS];
	unsigned int node; /* of GMEM_NUMA_BIND */
	struct gmem_memfd *memfd;
	struct gmem_map *map;
	struct gmem_slot *slot;
};

struct machine {
	uint64_t size; /* of a part */
	uint64_t page;
	struct gmem_vm *vm;
	struct gmem_memfd *low_memfd;
	struct gmem_slot *low;
	struct part parts[MAX_PARTS];
	size_t count;
	struct cpu cpu;
};

static bool has_node(const uint64_t *nodes, unsigned int node)
{
	return nodes[node / 64] >> node % 64 & 1;
}

/* One part for each node that this process may use, and one for all if there are several. */
static int find_nodes(struct machine *m)
{
	uint64_t allowed[NODE_WORDS] = {0};
	struct part *part = m->parts;

	if (syscall(SYS_get_mempolicy, NULL, allowed, MAX_NODES, NULL, MPOL_F_MEMS_ALLOWED) < 0) {
		fail_errno("this kernel tells no NUMA nodes");
		return EXIT_UNUSABLE;
	}
	for (unsigned int node = 0; node < MAX_NODES && part < m->parts + MAX_PARTS - 1; node++) {
		if (!has_node(allowed, node))
			continue;
		part->mode = GMEM_NUMA_BIND;
		part->node = node;
		part->nodes[node / 64] = UINT64_C(1) << node % 64;
		part++;
	}
	m->count = (size_t)(part - m->parts);
	if (m->count > 1) {
		part->mode = GMEM_NUMA_INTERLEAVE;
		memcpy(part->nodes, allowed, sizeof(allowed));
		m->count++;
	}
	return EXIT_RIGHT;
}

/* ---- The machine -------------------------------------------------------------------------- */

static int make_vm(struct machine *m, const char *device)
{
	struct gmem_vm_opts vm_opts = {.sz = sizeof(vm_opts), .device = device};
	struct gmem_memfd_opts memfd_opts = {
		.sz = sizeof(memfd_opts),
		.size = LOW_SIZE,
		.flags = GMEM_MEMFD_MMAP | GMEM_MEMFD_INIT_SHARED,
	};
	struct gmem_slot_opts slot_opts = {.sz = sizeof(slot_opts), .size = LOW_SIZE};

	if (gmem_vm_open(&vm_opts, &m->vm) < 0)
		return fail_machine("no VM");
	if (gmem_memfd_create(m->vm, &memfd_opts, &m->low_memfd) < 0)
		return fail_machine("no guest_memfd");
	slot_opts.memfd = m->low_memfd;
	if (gmem_slot_create(m->vm, &slot_opts, &m->low) < 0)
		return fail_gmem("no slot");
	return load_guest(m->vm, walk_guest_begin, walk_guest_end);
}

/* The policy is the file's, so that it holds for every touch, the guest's above all. */
static int make_part(struct machine *m, struct part *part, uint64_t gpa)
{
	struct gmem_memfd_opts memfd_opts = {
		.sz = sizeof(memfd_opts),
		.size = m->size,
		.flags = GMEM_MEMFD_MMAP | GMEM_MEMFD_INIT_SHARED,
		.numa_mode = part->mode,
		.numa_nodes = part->nodes,
		.numa_words = NODE_WORDS,
	};
	struct gmem_slot_opts slot_opts = {.sz = sizeof(slot_opts), .gpa = gpa, .size = m->size};

	if (gmem_memfd_create(m->vm, &memfd_opts, &part->memfd) < 0)
		return fail_machine("no guest_memfd with a NUMA policy");
	if (gmem_map_create(part->memfd, NULL, &part->map) < 0)
		return fail_gmem("no mapping");
	slot_opts.memfd = part->memfd;
	slot_opts.map = part->map;
	if (gmem_slot_create(m->vm, &slot_opts, &part->slot) < 0)
		return fail_gmem("no slot");
	return EXIT_RIGHT;
}

static int make_machine(struct machine *m, const char *device)
{
	const uint64_t arguments[CPU_ARGUMENTS] = {LOW_SIZE, m->page, LIMIT_GPA};
	int ret = make_vm(m, device);

	for (size_t i = 0; !ret && i < m->count; i++)
		ret = make_part(m, &m->parts[i], LOW_SIZE + i * m->size);
	if (!ret && gmem_vm_store_u64(m->vm, 0, LIMIT_GPA, m->count * m->size / m->page) < 0)
		ret = fail_gmem("cannot tell the guest");
	return ret ? ret : cpu_open(&m->cpu, device, gmem_vm_get_fd(m->vm), arguments);
}

static void close_machine(struct machine *m)
{
	cpu_close(&m->cpu);
	for (size_t i = 0; i < m->count; i++) {
		gmem_slot_close(m->parts[i].slot);
		gmem_map_close(m->parts[i].map);
		gmem_memfd_close(m->parts[i].memfd);
	}
	gmem_slot_close(m->low);
	gmem_memfd_close(m->low_memfd);
	gmem_vm_close(m->vm);
}

/* Until the guest has said that it walked all of its memory once. */
static int run_guest(struct machine *m)
{
	uint32_t port, value;

	for (;;) {
		if (ioctl(m->cpu.fd, KVM_RUN, 0) < 0) {
			if (errno == EINTR)
				continue;
			return fail_errno("KVM_RUN");
		}
		if (cpu_decode(m->cpu.run, &port, &value) != CPU_SAYS)
			return cpu_complain(m->cpu.run);
		if (port == WALK_PORT_WRONG)
			return fail("the guest found foreign data in page %" PRIu32, value);
		if (port == WALK_PORT_PAGES)
			return EXIT_RIGHT;
	}
}

/* ---- Where the pages are ------------------------------------------------------------------ */

/*
 * The node of each page. It has to be in this process's page tables, where what only the guest has
 * touched is not: the kernel brings it there itself. For much memory there is move_pages(2), which
 * asks for many pages at once, but does not bring them, and not all kernels have it.
 */
static int locate(const struct machine *m, const struct part *part, int *nodes)
{
	unsigned char *begin = gmem_map_get_addr(part->map);

	for (size_t i = 0; i < m->size / m->page; i++)
		if (syscall(SYS_get_mempolicy, &nodes[i], NULL, 0, begin + i * m->page,
			    MPOL_F_NODE | MPOL_F_ADDR) < 0)
			return fail_errno("get_mempolicy");
	return EXIT_RIGHT;
}

/* What the kernel itself says of the mapping's policy: the second word of its line. */
static void show_numa_maps(const struct part *part)
{
	FILE *maps = fopen("/proc/self/numa_maps", "re");
	char line[4096], policy[256] = "not shown by this kernel";
	uintptr_t begin = (uintptr_t)gmem_map_get_addr(part->map);
	char *end;

	while (maps && fgets(line, sizeof(line), maps))
		if (strtoul(line, &end, 16) == begin && sscanf(end, " %255s", policy) == 1)
			break;
	if (maps)
		fclose(maps);
	printf("   %s\n", policy);
}

/* A row of digits: the node of the first page of each cell. */
static void show_row(const int *nodes, size_t count)
{
	for (size_t cell = 0; cell < ROW_CELLS; cell++) {
		/* An odd step: an even one would see only one of two nodes that alternate. */
		int node = nodes[(cell * (count / ROW_CELLS - 1)) % count];

		putchar("0123456789+"[node < 10 ? node : 10]);
	}
}

/* All on the wanted node, or for the part of all nodes: some on each. */
static int judge(const struct part *part, const int *nodes, size_t count)
{
	size_t here[MAX_NODES] = {0};

	for (size_t i = 0; i < count; i++) {
		if (nodes[i] < 0 || nodes[i] >= MAX_NODES)
			return fail("page %zu is on no node", i);
		here[nodes[i]]++;
	}
	for (unsigned int node = 0; node < MAX_NODES; node++)
		if (!here[node] != !has_node(part->nodes, node))
			return fail("%zu pages are on node %u", here[node], node);
	return EXIT_RIGHT;
}

static int show_part(const struct machine *m, const struct part *part)
{
	const size_t count = m->size / m->page;
	int *nodes = calloc(count, sizeof(*nodes));
	char name[32] = "all in turn";
	int ret;

	if (!nodes)
		return fail_errno("no memory");
	if (part->mode == GMEM_NUMA_BIND)
		snprintf(name, sizeof(name), "node %u alone", part->node);
	ret = locate(m, part, nodes);
	if (!ret)
		ret = judge(part, nodes, count);
	if (!ret) {
		printf("  0x%08" PRIx64 "  %-14s %8zu   ", gmem_slot_get_gpa(part->slot), name,
		       count);
		show_row(nodes, count);
		show_numa_maps(part);
	}
	free(nodes);
	return ret;
}

static int run_machine(struct machine *m, const char *device)
{
	int ret = find_nodes(m);

	if (!ret)
		ret = make_machine(m, device);
	if (!ret)
		ret = run_guest(m);
	if (ret)
		return ret;
	printf("a guest with %.0f MiB of guest_memfd in %zu slots\n\n", to_mib(m->count * m->size),
	       m->count);
	printf("  %-10s  %-14s %8s   %-*s   %s\n", "gpa", "asked for", "pages", ROW_CELLS,
	       "nodes of pages here and there", "the kernel's words");
	for (size_t i = 0; !ret && i < m->count; i++)
		ret = show_part(m, &m->parts[i]);
	if (ret)
		return ret;
	printf("\nall right: every page is where it was asked for%s\n",
	       m->count == 1 ? ", as it must be with one node" : "");
	return EXIT_RIGHT;
}

int main(int argc, char **argv)
{
	const struct usage usage = {
		.purpose = "Put guest memory on chosen NUMA nodes, and look where it is.",
		.lacks = "no usable KVM or guest_memfd,\nor a kernel that ignores NUMA policies",
		.size_of = "memory of each slot",
		.min_mib = 4,
		.max_mib = 64,
	};
	struct options options = {.size = 8 * MIB};
	struct machine m = {.cpu = CPU_NONE};
	int ret = parse_options(argc, argv, &usage, &options);

	if (ret >= 0)
		return ret;
	m.page = page_size();
	m.size = options.size;
	ret = run_machine(&m, options.device);
	close_machine(&m);
	return ret;
}
