/* SPDX-License-Identifier: MIT */
/*
 * Many slots: binding and deleting all that a VM can have, in no order; and what the change of one
 * costs beside so many others. What the library alone costs is seen with slots that it is told of
 * (gmem_slot_adopt()), which it checks and files as those it makes, and of which no kernel knows.
 */
#include "bench.h"
#include "kernel.h"
#include "raw.h"
#include "vm.h"

#include <gmem-fake.h>

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* With the kernel, all slots of a VM take seconds. */
#define ROUNDS 5

struct stage {
	struct gmem_vm *vm;
	int vm_fd;
	uint64_t page;
	unsigned char *host; /* address space alone: nobody touches it */
	uint32_t room;
	uint32_t count;	 /* of these, in use */
	uint32_t *order; /* a number for each slot, which tells its addresses */
	struct gmem_slot **slots;
	struct gmem_slot_opts *opts;
};

/* A hole after each slot, so that they are never one range. */
static uint64_t gpa_of(const struct stage *stage, uint32_t i)
{
	return 2 * stage->page * stage->order[i];
}

static unsigned char *host_of(const struct stage *stage, uint32_t i)
{
	return stage->host + stage->page * stage->order[i];
}

/* ---- Ways to bind and delete -------------------------------------------------------------- */

typedef void all_fn(struct stage *stage);

static void bind_raw(struct stage *stage)
{
	for (uint32_t i = 0; i < stage->count; i++)
		raw_bind(stage->vm_fd, i, gpa_of(stage, i), stage->page, host_of(stage, i));
}

static void delete_raw(struct stage *stage)
{
	for (uint32_t i = 0; i < stage->count; i++)
		raw_delete(stage->vm_fd, i);
}

static void bind_gmem(struct stage *stage)
{
	for (uint32_t i = 0; i < stage->count; i++)
		bench_check_gmem(gmem_slot_create(stage->vm, &stage->opts[i], &stage->slots[i]),
				 "gmem_slot_create");
}

static void bind_at_once(struct stage *stage)
{
	bench_check_gmem(gmem_slot_create_many(stage->vm, stage->opts, stage->count, stage->slots),
			 "gmem_slot_create_many");
}

static void delete_gmem(struct stage *stage)
{
	for (uint32_t i = 0; i < stage->count; i++)
		gmem_slot_close(stage->slots[i]);
}

static void adopt(struct stage *stage)
{
	for (uint32_t i = 0; i < stage->count; i++)
		bench_check_gmem(gmem_slot_adopt(stage->vm, &stage->opts[i], &stage->slots[i]),
				 "gmem_slot_adopt");
}

/* ---- Passes ------------------------------------------------------------------------------- */

/* What is measured, between what prepares it and what undoes it; either may be NULL. */
struct passes {
	struct stage *stage;
	all_fn *before, *pass, *after;
	bool without_kernel;
};

static uint64_t run(void *data, unsigned int times)
{
	const struct passes *passes = data;
	uint64_t ns = 0;

	for (unsigned int i = 0; i < times; i++) {
		uint64_t begin;

		if (passes->before)
			passes->before(passes->stage);
		kernel_time(passes->without_kernel);
		begin = bench_now();
		passes->pass(passes->stage);
		ns += bench_since(begin) - kernel_get_ns();
		kernel_time(false);
		if (passes->after)
			passes->after(passes->stage);
	}
	return ns;
}

/* ---- One slot more ------------------------------------------------------------------------ */

/* The last one, beside all others. */
static uint64_t change_raw(void *data, unsigned int times)
{
	struct stage *stage = data;
	uint32_t i = stage->count;
	uint64_t begin = bench_now();

	while (times--) {
		raw_bind(stage->vm_fd, i, gpa_of(stage, i), stage->page, host_of(stage, i));
		raw_delete(stage->vm_fd, i);
	}
	return bench_since(begin);
}

static uint64_t change_gmem(void *data, unsigned int times)
{
	struct stage *stage = data;
	uint32_t i = stage->count;
	uint64_t begin = bench_now();

	while (times--) {
		bench_check_gmem(gmem_slot_create(stage->vm, &stage->opts[i], &stage->slots[i]),
				 "gmem_slot_create");
		gmem_slot_close(stage->slots[i]);
	}
	return bench_since(begin);
}

/* ---- The comparisons ---------------------------------------------------------------------- */

/* The same order each time. */
static void shuffle(uint32_t *order, uint32_t count)
{
	uint64_t number = 1;

	for (uint32_t i = 0; i < count; i++) {
		uint32_t j;

		number = number * UINT64_C(6364136223846793005) + 1;
		j = (uint32_t)(number >> 32) % (i + 1);
		order[i] = order[j];
		order[j] = i;
	}
}

/* `flags`: GMEM_SLOT_FIXED_ID, or 0 to let the library choose the same ids. */
static void open_stage(struct stage *stage, struct gmem_vm *vm, uint32_t count, uint64_t flags)
{
	*stage = (struct stage){
		.vm = vm, .vm_fd = gmem_vm_get_fd(vm), .room = count, .count = count};
	stage->page = (uint64_t)sysconf(_SC_PAGESIZE);
	stage->host = mmap(NULL, count * stage->page, PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	stage->order = calloc(count, sizeof(*stage->order));
	stage->slots = calloc(count, sizeof(struct gmem_slot *));
	stage->opts = calloc(count, sizeof(*stage->opts));
	bench_check(stage->host != MAP_FAILED && stage->order && stage->slots && stage->opts,
		    "memory");
	shuffle(stage->order, count);
	for (uint32_t i = 0; i < count; i++)
		stage->opts[i] = (struct gmem_slot_opts){.sz = sizeof(*stage->opts),
							 .gpa = gpa_of(stage, i),
							 .size = stage->page,
							 .host = host_of(stage, i),
							 .flags = flags,
							 .id = flags ? i : 0};
}

static void close_stage(struct stage *stage)
{
	gmem_vm_close(stage->vm);
	munmap(stage->host, stage->room * stage->page);
	free(stage->order);
	free(stage->slots);
	free(stage->opts);
}

static void compare_alone(struct gmem_fake *fake, uint32_t count)
{
	struct stage stage;
	struct gmem_vm *vm;

	bench_check_gmem(gmem_fake_open_vm(fake, NULL, &vm), "a VM");
	open_stage(&stage, vm, count, GMEM_SLOT_FIXED_ID);
	bench_compare(&(const struct bench_case){
		.group = "alone",
		.name = "all slots, in random order",
		.against = "slots",
		.at = count,
		.ways = {{"bind", run, &(struct passes){&stage, NULL, adopt, delete_gmem, false}},
			 {"delete", run,
			  &(struct passes){&stage, adopt, delete_gmem, NULL, false}}},
	});
	close_stage(&stage);
}

static void compare_all(struct stage *stage)
{
	struct passes bind = {stage, NULL, bind_gmem, delete_gmem, false};
	struct passes bind_part = {stage, NULL, bind_gmem, delete_gmem, true};
	struct passes delete = {stage, bind_at_once, delete_gmem, NULL, false};
	struct passes delete_part = {stage, bind_at_once, delete_gmem, NULL, true};

	bench_compare(&(const struct bench_case){
		.group = "bind",
		.name = "bind all",
		.against = "slots",
		.at = stage->count,
		.ways = {{"system calls", run,
			  &(struct passes){stage, NULL, bind_raw, delete_raw, false}},
			 {"libgmem", run, &bind},
			 {"its part alone", run, &bind_part},
			 {"libgmem, at once", run,
			  &(struct passes){stage, NULL, bind_at_once, delete_gmem, false}}},
		.rounds = ROUNDS,
	});
	bench_compare(&(const struct bench_case){
		.group = "bind",
		.name = "delete all",
		.against = "slots",
		.at = stage->count,
		.ways = {{"system calls", run,
			  &(struct passes){stage, bind_raw, delete_raw, NULL, false}},
			 {"libgmem", run, &delete},
			 {"its part alone", run, &delete_part}},
	});
}

static void compare_change(struct stage *stage)
{
	bench_compare(&(const struct bench_case){
		.group = "change",
		.name = "bind and delete one",
		.against = "slots",
		.at = stage->count + 1,
		.ways = {{"system calls", change_raw, stage}, {"libgmem", change_gmem, stage}},
	});
}

/* Beside none, some, and all others. */
static void compare_changes(struct stage *stage)
{
	static const uint32_t counts[] = {1, 64, 1024, 8192, UINT32_MAX};

	stage->count = 0;
	for (size_t i = 0; stage->count + 1 < stage->room; i++) {
		uint32_t others = (counts[i] < stage->room ? counts[i] : stage->room) - 1;

		for (; stage->count < others; stage->count++)
			bench_check_gmem(gmem_slot_create(stage->vm, &stage->opts[stage->count],
							  &stage->slots[stage->count]),
					 "gmem_slot_create");
		compare_change(stage);
	}
	delete_gmem(stage);
}

static uint32_t slots_max(const struct gmem_vm *vm)
{
	uint64_t value;

	bench_check_gmem(gmem_vm_get_cap(vm, GMEM_CAP_NR_MEMSLOTS, &value), "GMEM_CAP_NR_MEMSLOTS");
	return (uint32_t)value;
}

int main(int argc, char **argv)
{
	static const uint32_t counts[] = {64, 1024, 8192};
	struct gmem_fake *fake;
	struct stage stage;
	struct gmem_vm *vm;

	bench_begin(argc, argv, "bind", "Measures the binding of many slots.");
	vm = vm_open(0, 0);
	bench_check_gmem(gmem_fake_create(NULL, &fake), "the fake");
	for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++)
		compare_alone(fake, counts[i]);
	compare_alone(fake, slots_max(vm));
	gmem_fake_close(fake);
	open_stage(&stage, vm, bench_many(slots_max(vm)), 0);
	compare_all(&stage);
	compare_changes(&stage);
	close_stage(&stage);
	return bench_end();
}
