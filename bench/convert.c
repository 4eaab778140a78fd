/* SPDX-License-Identifier: MIT */
/*
 * What conversions cost, against what a VMM calls that does without the library: the same system
 * calls, in the same order, without any check, map or count.
 */
#include "bench.h"
#include "machine.h"
#include "raw.h"

#include <stdio.h>
#include <sys/resource.h>

#define SIZE_MAX_BYTES (64 * BENCH_MIB)
#define VCPU_BYTES     (2 * BENCH_MIB)
#define PIECES_BYTES   (16 * BENCH_MIB)
#define HOLES_BYTES    (2 * BENCH_MIB)
/* vCPUs that run, more of them than processors perhaps, make for much noise. */
#define RUNNING_EFFORT 5
#define PAGE	       (4 * BENCH_KIB) /* x86 alone has such VMs */

/* Of a conversion: what it begins with, and what is measured. */
struct task {
	struct machine *machine;
	enum gmem_visibility to;
	enum gmem_convert_policy policy;
	uint64_t size;
	uint64_t piece;	     /* in calls of so many bytes */
	bool every_second;   /* of the pages is so already */
	unsigned int effort; /* of bench_case */
	/* Fills the guest's page tables before; NULL: they are empty. */
	struct machine_vcpu *mapper;
};

static enum gmem_visibility other(enum gmem_visibility visibility)
{
	return visibility == GMEM_VISIBILITY_SHARED ? GMEM_VISIBILITY_PRIVATE
						    : GMEM_VISIBILITY_SHARED;
}

/* ---- The two ways ------------------------------------------------------------------------- */

typedef void convert_fn(const struct task *task, uint64_t offset, uint64_t size,
			enum gmem_visibility to);

static void convert_raw(const struct task *task, uint64_t offset, uint64_t size,
			enum gmem_visibility to)
{
	const struct machine *m = task->machine;

	raw_set_private(m->vm_fd, MACHINE_GPA + offset, size, to == GMEM_VISIBILITY_PRIVATE);
	if (task->policy == GMEM_CONVERT_KEEP)
		return;
	if (to == GMEM_VISIBILITY_SHARED)
		raw_punch(m->memfd_fd, offset, size);
	else if (m->host_fd >= 0)
		raw_punch(m->host_fd, offset, size);
	else
		raw_forget(m->host + offset, size);
}

static void convert_gmem(const struct task *task, uint64_t offset, uint64_t size,
			 enum gmem_visibility to)
{
	int r = gmem_vm_convert(task->machine->vm, MACHINE_GPA + offset, size, to, task->policy,
				NULL);

	bench_check_gmem(r, "gmem_vm_convert");
}

static void prepare(const struct task *task, convert_fn *convert)
{
	if (task->every_second)
		for (uint64_t offset = 0; offset < task->size; offset += 2 * PAGE)
			convert(task, offset, PAGE, task->to);
	if (task->to == GMEM_VISIBILITY_PRIVATE)
		machine_fill_shared(task->machine, task->size);
	else
		machine_fill_private(task->machine, task->size);
	if (task->mapper)
		bench_check_gmem(gmem_vcpu_prefault(task->mapper->handle, MACHINE_GPA, task->size,
						    NULL, NULL),
				 "gmem_vcpu_prefault");
}

static uint64_t convert_and_back(const struct task *task, unsigned int times, convert_fn *convert)
{
	uint64_t ns = 0;

	convert(task, 0, task->size, other(task->to));
	for (unsigned int i = 0; i < times; i++) {
		uint64_t begin;

		prepare(task, convert);
		begin = bench_now();
		for (uint64_t offset = 0; offset < task->size; offset += task->piece)
			convert(task, offset, task->piece, task->to);
		ns += bench_since(begin);
		convert(task, 0, task->size, other(task->to));
	}
	/* All begins shared, for whoever comes next. */
	convert(task, 0, task->size, GMEM_VISIBILITY_SHARED);
	return ns;
}

static uint64_t run_raw(void *data, unsigned int times)
{
	return convert_and_back(data, times, convert_raw);
}

static uint64_t run_gmem(void *data, unsigned int times)
{
	return convert_and_back(data, times, convert_gmem);
}

static void compare(const char *group, const char *name, const char *against, uint64_t at,
		    struct task *task)
{
	bench_compare(&(const struct bench_case){
		.group = group,
		.name = name,
		.against = against,
		.at = at,
		.ways = {{"system calls", run_raw, task}, {"libgmem", run_gmem, task}},
		.effort = task->effort,
	});
}

/* In one call, with discard. */
static struct task to_private(struct machine *machine, uint64_t size)
{
	return (struct task){.machine = machine,
			     .to = GMEM_VISIBILITY_PRIVATE,
			     .policy = GMEM_CONVERT_DISCARD,
			     .size = size,
			     .piece = size};
}

/* ---- Against the size --------------------------------------------------------------------- */

static const char *name_of(const struct task *task)
{
	if (task->to == GMEM_VISIBILITY_SHARED)
		return task->policy == GMEM_CONVERT_KEEP ? "to shared, keep" : "to shared, discard";
	if (task->policy == GMEM_CONVERT_KEEP)
		return "to private, keep";
	return task->machine->host_fd >= 0 ? "to private, discard of a memfd"
					   : "to private, discard of anonymous memory";
}

static void compare_sizes(struct machine *m, enum gmem_visibility to,
			  enum gmem_convert_policy policy)
{
	static const uint64_t sizes[] = {PAGE, 64 * BENCH_KIB, 2 * BENCH_MIB, 16 * BENCH_MIB,
					 SIZE_MAX_BYTES};

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct task task = {.machine = m,
				    .to = to,
				    .policy = policy,
				    .size = sizes[i],
				    .piece = sizes[i]};

		compare("size", name_of(&task), "bytes", sizes[i], &task);
	}
}

static void measure_sizes(void)
{
	struct machine m;

	machine_open(&m, MACHINE_ANONYMOUS, SIZE_MAX_BYTES);
	compare_sizes(&m, GMEM_VISIBILITY_PRIVATE, GMEM_CONVERT_DISCARD);
	machine_close(&m);

	machine_open(&m, MACHINE_MEMFD, SIZE_MAX_BYTES);
	compare_sizes(&m, GMEM_VISIBILITY_PRIVATE, GMEM_CONVERT_DISCARD);
	compare_sizes(&m, GMEM_VISIBILITY_SHARED, GMEM_CONVERT_DISCARD);
	compare_sizes(&m, GMEM_VISIBILITY_PRIVATE, GMEM_CONVERT_KEEP);
	compare_sizes(&m, GMEM_VISIBILITY_SHARED, GMEM_CONVERT_KEEP);
	machine_close(&m);
}

/* ---- Against the vCPUs -------------------------------------------------------------------- */

/* This thread alone: it shall not wait until a vCPU's thread has had its time. */
static void go_first(bool first)
{
	if (setpriority(PRIO_PROCESS, 0, first ? -20 : 0) < 0)
		fprintf(stderr, "vCPUs run with the same priority as what is measured\n");
}

/* The first vCPU fills the page tables, which belong to all, and never runs. */
static void measure_vcpus(const char *name, unsigned int count, bool run, bool mapped)
{
	struct machine m;
	struct task task = to_private(&m, VCPU_BYTES);

	machine_open(&m, MACHINE_MEMFD, VCPU_BYTES);
	for (unsigned int i = 0; i < count + run; i++)
		machine_add_vcpu(&m, false);
	for (unsigned int i = 1; i <= count && run; i++)
		machine_start(&m.vcpu[i]);
	go_first(run);
	task.mapper = mapped ? &m.vcpu[0] : NULL;
	task.effort = run ? RUNNING_EFFORT : 1;
	compare("vcpus", name, "vCPUs", count, &task);
	go_first(false);
	for (unsigned int i = 1; i <= count && run; i++)
		machine_stop(&m.vcpu[i]);
	machine_close(&m);
}

static void measure_all_vcpus(void)
{
	measure_vcpus("nothing mapped", 0, false, false);
	for (unsigned int count = 1; count <= 4; count += 3)
		measure_vcpus("nothing mapped, vCPUs wait", count, false, false);
	for (unsigned int count = 1; count <= 4; count += 3)
		measure_vcpus("mapped, vCPUs wait", count, false, true);
	for (unsigned int count = 1; count <= 4; count++)
		measure_vcpus("mapped, vCPUs run", count, true, true);
}

/* ---- One range, or its pieces ------------------------------------------------------------- */

static void measure_pieces(struct machine *m)
{
	struct task whole = to_private(m, PIECES_BYTES);
	struct task large = whole, small = whole, holes = whole;

	large.piece = 2 * BENCH_MIB;
	small.piece = PAGE;
	bench_compare(&(const struct bench_case){
		.group = "pieces",
		.name = "16 MiB, to private",
		.ways = {{"one call", run_gmem, &whole},
			 {"calls of 2 MiB", run_gmem, &large},
			 {"calls of 4 KiB", run_gmem, &small},
			 {"system calls of 4 KiB", run_raw, &small}},
	});
	holes.size = holes.piece = HOLES_BYTES;
	holes.every_second = true;
	compare("pieces", "2 MiB, every second page is private already", NULL, 0, &holes);
}

int main(int argc, char **argv)
{
	struct machine m;

	bench_begin(argc, argv, "convert", "Measures conversions between private and shared.");
	measure_sizes();
	machine_open(&m, MACHINE_MEMFD, PIECES_BYTES);
	measure_pieces(&m);
	machine_close(&m);
	measure_all_vcpus();
	return bench_end();
}
