/* SPDX-License-Identifier: MIT */
/*
 * What it costs to give a guest its memory beforehand, against its own first touch of each page. In
 * a VM with private memory that memory is private, in a plain one it is a guest_memfd's too.
 */
#include "bench.h"
#include "machine.h"
#include "raw.h"

#include <unistd.h>

#define SMALL (4 * BENCH_MIB)
#define LARGE (16 * BENCH_MIB) /* with several vCPUs each takes 4 MiB at a time */

struct task {
	struct machine *machine;
	uint64_t size;
	size_t vcpus;
};

static uint64_t touch(void *data, unsigned int times)
{
	const struct task *task = data;
	struct machine *m = task->machine;
	uint64_t ns = 0;

	for (unsigned int i = 0; i < times; i++) {
		uint64_t begin;

		raw_punch(m->memfd_fd, 0, m->size);
		begin = bench_now();
		machine_walk(&m->vcpu[0], task->size / (uint64_t)sysconf(_SC_PAGESIZE));
		ns += bench_since(begin);
	}
	return ns;
}

static uint64_t prefault(void *data, unsigned int times)
{
	const struct task *task = data;
	struct machine *m = task->machine;
	struct gmem_vcpu *vcpus[MACHINE_VCPUS_MAX];
	uint64_t ns = 0;

	for (size_t i = 0; i < task->vcpus; i++)
		vcpus[i] = m->vcpu[i].handle;
	for (unsigned int i = 0; i < times; i++) {
		uint64_t begin;
		int r;

		raw_punch(m->memfd_fd, 0, m->size);
		begin = bench_now();
		r = gmem_vm_prefault(m->vm, vcpus, task->vcpus, MACHINE_GPA, task->size, NULL,
				     NULL);
		ns += bench_since(begin);
		bench_check_gmem(r, "gmem_vm_prefault");
	}
	return ns;
}

static uint64_t prefault_and_touch(void *data, unsigned int times)
{
	const struct task *task = data;
	struct machine *m = task->machine;
	uint64_t ns = 0;

	for (unsigned int i = 0; i < times; i++) {
		uint64_t begin;

		ns += prefault(data, 1);
		begin = bench_now();
		machine_walk(&m->vcpu[0], task->size / (uint64_t)sysconf(_SC_PAGESIZE));
		ns += bench_since(begin);
	}
	return ns;
}

static void compare(struct machine *m, const char *name, uint64_t size)
{
	struct task one = {m, size, 1}, two = {m, size, 2};

	bench_compare(&(const struct bench_case){
		.group = "prefault",
		.name = name,
		.against = "bytes",
		.at = size,
		.ways = {{"the guest touches each page", touch, &one},
			 {"pre-fault", prefault, &one},
			 {"pre-fault with 2 vCPUs", prefault, &two},
			 {"pre-fault, then the guest", prefault_and_touch, &one}},
	});
}

static void measure(enum machine_memory memory, const char *name)
{
	struct machine m;

	machine_open(&m, memory, LARGE);
	machine_need_prefault(&m);
	machine_add_vcpu(&m, true);
	machine_add_vcpu(&m, true);
	if (memory != MACHINE_SHARED)
		raw_set_private(m.vm_fd, MACHINE_GPA, LARGE, true);
	compare(&m, name, SMALL);
	compare(&m, name, LARGE);
	machine_close(&m);
}

int main(int argc, char **argv)
{
	bench_begin(argc, argv, "prefault", "Measures the filling of a guest's page tables.");
	measure(MACHINE_SHARED, "a plain VM");
	if (raw_has_private(bench_device()))
		measure(MACHINE_MEMFD, "private memory");
	return bench_end();
}
