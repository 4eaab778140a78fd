/* SPDX-License-Identifier: MIT */
/*
 * vCPUs run while other threads read, write and convert their memory, and slots come and go. See
 * race.h.
 */
#include "fixture.h"
#include "race.h"

#include <string.h>
#include <sys/mman.h>

#define CPUS 2
#define CODE UINT64_C(0x10000)
#define GPA  UINT64_C(0x200000)

struct cpu {
	struct race *race;
	struct guest guest;
	struct gmem_vcpu *vcpu;
	uint64_t random;
	uint64_t entries; /* that came to an end */
	pthread_t thread;
};

/* A memory fault is resolved, and the guest tries again later; 0 also where there is no memory. */
static int run_guest(struct cpu *cpu, uint64_t gpa, uint32_t *value)
{
	struct gmem_exit exit = {.sz = sizeof(exit)};
	int r = guest_load(&cpu->guest, gpa, value);

	if (r >= 0)
		return r;
	assert_ok(gmem_vcpu_decode(cpu->vcpu, -1, -r, &exit));
	ck_assert_msg(exit.kind == GMEM_EXIT_RETRY || exit.kind == GMEM_EXIT_GONE ||
			      exit.kind == GMEM_EXIT_TO_PRIVATE || exit.kind == GMEM_EXIT_TO_SHARED,
		      "KVM_RUN: %d, an exit of kind %d", r, (int)exit.kind);
	return KVM_EXIT_MMIO;
}

/* It reads the first word of pages, and where there is no memory KVM asks for a device. */
static void *run_all_the_time(void *data)
{
	struct cpu *cpu = data;
	struct race *race = cpu->race;

	while (!atomic_load(&race->over)) {
		struct race_target target = race_choose(race, &cpu->random);
		uint32_t value;
		int reason;

		pthread_rwlock_rdlock(&race->guests);
		reason = run_guest(cpu, target.gpa, &value);
		pthread_rwlock_unlock(&race->guests);
		ck_assert_msg(reason == KVM_EXIT_HLT || reason == KVM_EXIT_MMIO, "exit %d", reason);
		race_check(race, &target, reason == KVM_EXIT_HLT, value);
		cpu->entries++;
	}
	return NULL;
}

static void start_cpu(struct cpu *cpu, struct race *race, unsigned int i)
{
	*cpu = (struct cpu){.race = race, .random = 0xbf58476d1ce4e5b9U * (i + 1)};
	guest_open_vcpu(&cpu->guest, gmem_vm_get_fd(race->vm), i, CODE);
	assert_ok(gmem_vcpu_open(race->vm, cpu->guest.fd, cpu->guest.run, &cpu->vcpu));
	ck_assert_int_eq(pthread_create(&cpu->thread, NULL, run_all_the_time, cpu), 0);
}

static void end_cpu(struct cpu *cpu)
{
	ck_assert_int_eq(pthread_join(cpu->thread, NULL), 0);
	ck_assert_uint_gt(cpu->entries, 0);
	gmem_vcpu_close(cpu->vcpu);
	guest_close(&cpu->guest);
}

static void race_with_guests(struct race *race)
{
	unsigned char *code = raw_map(-1, 0, race->page);
	struct cpu cpus[CPUS];
	struct gmem_slot *slot;

	memcpy(code, guest_code, guest_code_size);
	assert_ok(gmem_slot_create(race->vm, SLOT(.gpa = CODE, .size = race->page, .host = code),
				   &slot));
	race_prepare(race);
	for (unsigned int i = 0; i < CPUS; i++)
		start_cpu(&cpus[i], race, i);
	race_run(race);
	for (unsigned int i = 0; i < CPUS; i++)
		end_cpu(&cpus[i]);
	gmem_slot_close(slot);
	race_end(race);
	munmap(code, race->page);
}

START_TEST(slots_change_beside_guests)
{
	struct world world;
	struct race race = {.gpa = GPA, .rounds = harness_rounds(400)};

	NEED_WORLD_GUEST();
	if (!world_open(&world, 0))
		return;
	race.vm = world.vm;
	race.page = world.page;
	race.fallback = world.fallback;
	race_with_guests(&race);
	world_close(&world);
}
END_TEST

START_TEST(slots_change_beside_guests_and_conversions)
{
	const char *missing = raw_missing_type(RAW_VM_SW_PROTECTED);
	struct race race = {
		.gpa = GPA, .page = raw_page(), .has_private = true, .rounds = harness_rounds(400)};
	struct traces before;

	NEED_WORLD_GUEST();
	if (missing)
		SKIP("%s", missing);
	before = traces_get();
	assert_ok(gmem_vm_open(VM_UNDER_TEST(.type = RAW_VM_SW_PROTECTED), &race.vm));
	race_with_guests(&race);
	gmem_vm_close(race.vm);
	traces_assert_same(&before);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("race");
	TCase *tcase = tcase_create("all");

	tcase_add_test(tcase, slots_change_beside_guests);
	tcase_add_test(tcase, slots_change_beside_guests_and_conversions);
	suite_add_tcase(suite, tcase);
	return harness_run(suite);
}
