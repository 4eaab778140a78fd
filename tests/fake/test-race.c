/* SPDX-License-Identifier: MIT */
/* Readers, conversions and changes of slots all at once, where no kernel is needed. */
#include "harness.h"
#include "race.h"
#include "script.h"

/* All calls are written down: without end, were they not forgotten. */
static void forget(void *data)
{
	gmem_fake_forget(data);
}

static void race_over(enum gmem_fake_kernel kernel)
{
	struct gmem_fake *fake = script_new(kernel);
	struct race race = {.vm = script_vm(fake, 0),
			    .gpa = 0x10000,
			    .page = fake->page_size,
			    .has_private = kernel == GMEM_FAKE_PRIVATE,
			    .rounds = harness_rounds(3000),
			    .tick = forget,
			    .data = fake};

	race_prepare(&race);
	race_run(&race);
	race_end(&race);
	gmem_vm_close(race.vm);
	script_end(fake);
}

START_TEST(slots_change_beside_readers)
{
	race_over(GMEM_FAKE_LINUX_7_3);
}
END_TEST

START_TEST(slots_change_beside_readers_and_conversions)
{
	race_over(GMEM_FAKE_PRIVATE);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("race");
	TCase *tcase = tcase_create("all");

	tcase_add_test(tcase, slots_change_beside_readers);
	tcase_add_test(tcase, slots_change_beside_readers_and_conversions);
	suite_add_tcase(suite, tcase);
	return harness_run(suite);
}
