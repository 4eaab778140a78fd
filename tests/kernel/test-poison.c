/* SPDX-License-Identifier: MIT */
/*
 * What the kernel does with guest memory that the hardware has spoilt. No library. Poisoned pages
 * are lost until the machine starts again, and the last test can leave locks behind that nobody
 * opens: all of this is for a machine that is thrown away.
 */
#include "../kvm/guest.h"
#include "../kvm/host.h"
#include "raw.h"
#include "suites.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGES		    4
#define ADVICE_POISON	    100
#define ADVICE_SOFT_OFFLINE 101
#define POISONS		    200 /* after so many there is no deadlock to be had */
#define STUCK_SECONDS	    10
#define POLL_MICROSECONDS   100000U

/* The code of the last SIGBUS, 0 without one, and where to go on after it. */
static volatile sig_atomic_t bus_code;
static sigjmp_buf *volatile after_bus;

static void on_bus(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	(void)context;
	bus_code = info->si_code;
	if (after_bus)
		siglongjmp(*after_bus, 1);
}

static void catch_bus(void)
{
	struct sigaction action = {.sa_sigaction = on_bus, .sa_flags = SA_SIGINFO};

	sigaction(SIGBUS, &action, NULL);
}

/* The code of the SIGBUS that one touch ends in, or 0. */
static int touch(volatile unsigned char *addr, bool write)
{
	sigjmp_buf here;

	bus_code = 0;
	if (sigsetjmp(here, 1) == 0) {
		after_bus = &here;
		if (write)
			*addr = 1;
		else
			(void)*addr;
	}
	after_bus = NULL;
	return bus_code;
}

/* Says that a page is spoilt: 0 or a negative errno, and bus_code tells of the signal. */
static int poison(void *addr)
{
	bus_code = 0;
	return raw_result(madvise(addr, raw_page(), ADVICE_POISON));
}

/* Without memory failures in the kernel the advice is unknown, even for no page at all. */
static bool has_poison(void)
{
	void *page = raw_map(-1, 0, raw_page());
	bool has = madvise(page, 0, ADVICE_POISON) == 0;

	munmap(page, raw_page());
	return has;
}

/* PAGES pages of a guest_memfd, bound, all written with 7; or skips the test. */
static bool open_victim(struct raw_shared *victim)
{
	const char *missing = NULL;

	if (!raw_may_lose_machine())
		missing = RAW_NO_THROW_AWAY;
	else if (!has_poison())
		missing = "this kernel was built without memory failures, or this is not root";
	if (missing) {
		harness_skip("%s", missing);
		return false;
	}
	if (!raw_open_shared(victim, PAGES))
		return false;
	memset(victim->map, 7, victim->size);
	raw_bind_shared(victim);
	catch_bus();
	return true;
}

/* ---- One page is spoilt ---- */

/* The kernel cannot give the page up, and tells both by the answer and by a signal. */
START_TEST(poisoning_is_ebusy_and_sigbus)
{
	struct raw_shared victim;

	if (!open_victim(&victim))
		return;
	ck_assert_int_eq(poison(victim.map + victim.page), -EBUSY);
	ck_assert_int_eq(bus_code, BUS_MCEERR_AR);
	raw_close_shared(&victim);
}
END_TEST

START_TEST(host_touch_of_a_poisoned_page_is_sigbus)
{
	struct iovec here, there;
	struct raw_shared victim;
	char byte;

	if (!open_victim(&victim))
		return;
	poison(victim.map + victim.page);
	ck_assert_int_eq(touch(victim.map + victim.page, false), BUS_MCEERR_AR);
	ck_assert_int_eq(touch(victim.map + 2 * victim.page - 1, true), BUS_MCEERR_AR);
	here = (struct iovec){&byte, 1};
	there = (struct iovec){victim.map + victim.page, 1};
	ck_assert_int_eq(raw_result(process_vm_readv(getpid(), &here, 1, &there, 1, 0)), -EFAULT);
	raw_close_shared(&victim);
}
END_TEST

START_TEST(pages_beside_a_poisoned_one_are_as_before)
{
	struct raw_shared victim;
	struct guest guest;
	uint32_t value;

	NEED_GUEST();
	if (!open_victim(&victim))
		return;
	raw_open_guest(victim.vm, &guest);
	poison(victim.map + victim.page);
	ck_assert_int_eq(touch(victim.map, false), 0);
	ck_assert_uint_eq(victim.map[2 * victim.page], 7);
	ck_assert_int_eq(guest_load(&guest, RAW_GPA, &value), KVM_EXIT_HLT);
	ck_assert_uint_eq(value, 0x07070707);
	guest_close(&guest);
	raw_close_shared(&victim);
}
END_TEST

START_TEST(poisoned_page_still_shows_as_resident)
{
	struct raw_shared victim;
	unsigned char *map;

	if (!open_victim(&victim))
		return;
	poison(victim.map + victim.page);
	ck_assert_uint_eq(host_count_resident(victim.map, victim.size), PAGES);
	map = raw_map(victim.fd, 0, victim.size);
	ck_assert_uint_eq(host_count_resident(map, victim.size), PAGES);
	munmap(map, victim.size);
	raw_close_shared(&victim);
}
END_TEST

static void check_poisoned_exit(const struct guest *guest, int r, uint64_t gpa)
{
	ck_assert_int_eq(r, -EHWPOISON);
	raw_assert_memory_fault(guest, gpa, 0);
}

/* Whether or not it touched the page before. */
START_TEST(guest_touch_of_a_poisoned_page_exits_with_ehwpoison)
{
	struct raw_shared victim;
	struct guest guest;
	uint32_t value;

	NEED_GUEST();
	if (!open_victim(&victim))
		return;
	raw_open_guest(victim.vm, &guest);
	if (_i)
		ck_assert_int_eq(guest_store(&guest, RAW_GPA + victim.page, 1), KVM_EXIT_HLT);
	poison(victim.map + victim.page);
	check_poisoned_exit(&guest, guest_load(&guest, RAW_GPA + victim.page + 8, &value),
			    RAW_GPA + victim.page);
	check_poisoned_exit(&guest, guest_store(&guest, RAW_GPA + victim.page, 2),
			    RAW_GPA + victim.page);
	guest_close(&guest);
	raw_close_shared(&victim);
}
END_TEST

START_TEST(pre_fault_of_a_poisoned_page_is_ehwpoison)
{
	struct raw_pre_fault range = {.gpa = RAW_GPA, .size = PAGES * raw_page()};
	struct raw_shared victim;
	struct guest guest;

	NEED_GUEST();
	if (!open_victim(&victim))
		return;
	NEED_PRE_FAULT();
	raw_open_guest(victim.vm, &guest);
	poison(victim.map + victim.page);
	ck_assert_int_eq(raw_pre_fault(guest.fd, &range), 0);
	ck_assert_uint_eq(range.gpa, RAW_GPA + victim.page);
	ck_assert_int_eq(raw_pre_fault(guest.fd, &range), -EHWPOISON);
	ck_assert_uint_eq(range.gpa, RAW_GPA + victim.page);
	guest_close(&guest);
	raw_close_shared(&victim);
}
END_TEST

START_TEST(punch_gives_a_fresh_page_for_a_poisoned_one)
{
	struct raw_shared victim;
	unsigned char *map;

	if (!open_victim(&victim))
		return;
	poison(victim.map + victim.page);
	ck_assert_int_eq(raw_punch(victim.fd, victim.page, victim.page), 0);
	map = raw_map(victim.fd, 0, victim.size);
	ck_assert_uint_eq(host_count_resident(map, victim.size), PAGES - 1);
	ck_assert_int_eq(touch(map + victim.page, false), 0);
	ck_assert_uint_eq(map[victim.page], 0);
	ck_assert_int_eq(touch(map + victim.page, true), 0);
	ck_assert_uint_eq(map[0], 7);
	munmap(map, victim.size);
	raw_close_shared(&victim);
}
END_TEST

/* The mapping's own page table remembers the poison until somebody drops that page from it. */
START_TEST(mapping_remembers_poison_that_is_punched)
{
	struct raw_shared victim;

	if (!open_victim(&victim))
		return;
	poison(victim.map + victim.page);
	ck_assert_int_eq(raw_punch(victim.fd, victim.page, victim.page), 0);
	ck_assert_uint_eq(host_count_resident(victim.map, victim.size), PAGES);
	ck_assert_int_eq(touch(victim.map + victim.page, false), BUS_MCEERR_AR);
	ck_assert_int_eq(raw_result(madvise(victim.map + victim.page, victim.page, MADV_DONTNEED)),
			 0);
	ck_assert_uint_eq(host_count_resident(victim.map, victim.size), PAGES - 1);
	ck_assert_int_eq(touch(victim.map + victim.page, true), 0);
	ck_assert_uint_eq(victim.map[victim.page], 1);
	ck_assert_uint_eq(victim.map[victim.page + 1], 0);
	raw_close_shared(&victim);
}
END_TEST

START_TEST(guest_goes_on_with_the_fresh_page)
{
	struct raw_shared victim;
	struct guest guest;
	uint32_t value;

	NEED_GUEST();
	if (!open_victim(&victim))
		return;
	raw_open_guest(victim.vm, &guest);
	poison(victim.map + victim.page);
	check_poisoned_exit(&guest, guest_load(&guest, RAW_GPA + victim.page, &value),
			    RAW_GPA + victim.page);
	ck_assert_int_eq(raw_punch(victim.fd, victim.page, victim.page), 0);
	ck_assert_int_eq(guest_load(&guest, RAW_GPA + victim.page, &value), KVM_EXIT_HLT);
	ck_assert_uint_eq(value, 0);
	guest_close(&guest);
	raw_close_shared(&victim);
}
END_TEST

/* The advice finds its page through the mapping, and private memory has no way there. */
START_TEST(private_memory_cannot_be_poisoned_by_its_address)
{
	struct raw_shared victim;
	void *map;
	int fd;

	if (!open_victim(&victim))
		return;
	fd = raw_memfd(victim.vm, victim.page, RAW_MMAP);
	ck_assert_int_ge(fd, 0);
	map = raw_map(fd, 0, victim.page);
	ck_assert_int_eq(poison(map), -EFAULT);
	ck_assert_int_eq(bus_code, 0);
	munmap(map, victim.page);
	close(fd);
	raw_close_shared(&victim);
}
END_TEST

/* A page of a guest_memfd does not move, not even away from memory about to fail. */
START_TEST(soft_offline_is_ebusy_and_changes_nothing)
{
	struct raw_shared victim;

	if (!open_victim(&victim))
		return;
	ck_assert_int_eq(
		raw_result(madvise(victim.map + victim.page, victim.page, ADVICE_SOFT_OFFLINE)),
		-EBUSY);
	ck_assert_int_eq(touch(victim.map + victim.page, false), 0);
	ck_assert_uint_eq(victim.map[victim.page], 7);
	raw_close_shared(&victim);
}
END_TEST

/* ---- The deadlock, last of all ---- */

/*
 * A memory failure takes the page's lock and then the file's; a punch takes them the other way
 * round. Both can hang for good, and with them every later memory failure of the machine. So the
 * test itself never has the file: two processes that nobody waits for do.
 */
struct race {
	atomic_int poisoner, puncher; /* process ids */
	atomic_uint poisons;
	atomic_bool stop;
	atomic_bool guest_goes_on; /* after all of it, where there is a guest */
};

/* Nothing that a stuck process holds may keep others waiting: no terminal, pipe or group. */
static void detach(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	setsid();
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (dup2(null, fd) < 0)
			close(fd);
}

static _Noreturn void poison_again_and_again(struct race *race, unsigned char *map)
{
	catch_bus();
	atomic_store(&race->poisoner, getpid());
	while (!atomic_load(&race->stop) && atomic_load(&race->poisons) < POISONS) {
		/* The page table remembers the last poison even when its page is punched. */
		(void)madvise(map, raw_page(), MADV_DONTNEED);
		if (touch(map, true) == 0) {
			poison(map);
			atomic_fetch_add(&race->poisons, 1);
		} else {
			usleep(1000);
		}
	}
	_exit(0);
}

/* Each of the two keeps the guest from mapping the page as long as it lasts, and no longer. */
static bool can_load(int vm)
{
	struct guest guest;
	uint32_t value;

	raw_open_guest(vm, &guest);
	return guest_load(&guest, RAW_GPA, &value) == KVM_EXIT_HLT && value == 0;
}

static _Noreturn void punch_again_and_again(struct race *race, const struct raw_shared *victim)
{
	atomic_store(&race->puncher, getpid());
	while (!atomic_load(&race->stop))
		raw_punch(victim->fd, 0, victim->size);
	raw_punch(victim->fd, 0, victim->size);
	atomic_store(&race->guest_goes_on, guest_code_size == 0 || can_load(victim->vm));
	_exit(0);
}

static _Noreturn void start_race(struct race *race)
{
	struct raw_shared victim;

	if (!raw_open_shared(&victim, 1))
		_exit(1);
	raw_bind_shared(&victim);
	if (fork() == 0)
		poison_again_and_again(race, victim.map);
	punch_again_and_again(race, &victim);
}

/* The letter of a process's state, or 0 if it is gone. */
static char state_of(pid_t pid)
{
	char path[32], state = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	file = fopen(path, "re");
	if (!file)
		return 0;
	if (fscanf(file, "%*d (%*[^)]) %c", &state) != 1)
		state = 0;
	fclose(file);
	return state;
}

/* Waits for the last poison, or until there was none for a while: whether all went well. */
static bool watch_race(struct race *race)
{
	const unsigned int patience = STUCK_SECONDS * 1000000U / POLL_MICROSECONDS;
	unsigned int now, before = 0;

	for (unsigned int still = 0; still < patience; still++) {
		now = atomic_load(&race->poisons);
		if (now >= POISONS)
			return true;
		if (now != before)
			still = 0;
		before = now;
		usleep(POLL_MICROSECONDS);
	}
	return false;
}

/* Whether the guest went on within that time. */
static bool watch_guest(struct race *race)
{
	unsigned int patience = STUCK_SECONDS * 1000000U / POLL_MICROSECONDS;

	while (!atomic_load(&race->guest_goes_on) && patience-- > 0)
		usleep(POLL_MICROSECONDS);
	return atomic_load(&race->guest_goes_on);
}

START_TEST(fault_punch_and_poison_deadlock)
{
	struct race *race = raw_map(-1, 0, raw_page());
	struct raw_shared victim;
	bool well;
	pid_t pid;

	if (!open_victim(&victim))
		return;
	raw_close_shared(&victim);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		detach();
		if (fork() == 0)
			start_race(race);
		_exit(0);
	}
	ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
	well = watch_race(race);
	atomic_store(&race->stop, true);
	if (well) {
		ck_assert(watch_guest(race));
	} else {
		ck_assert_int_eq(state_of(atomic_load(&race->poisoner)), 'D');
		ck_assert_int_eq(state_of(atomic_load(&race->puncher)), 'D');
	}
	harness_note("%s", well ? "no deadlock" : "deadlock");
	if (!well)
		kernel_known_fault("punch-poison-deadlock");
}
END_TEST

static void add_pages(Suite *suite)
{
	kernel_case(suite, "poison-page");
	KERNEL_TEST(poisoning_is_ebusy_and_sigbus);
	KERNEL_TEST(host_touch_of_a_poisoned_page_is_sigbus);
	KERNEL_TEST(pages_beside_a_poisoned_one_are_as_before);
	KERNEL_TEST(poisoned_page_still_shows_as_resident);
	KERNEL_LOOP(guest_touch_of_a_poisoned_page_exits_with_ehwpoison, 0, 2);
	KERNEL_TEST(pre_fault_of_a_poisoned_page_is_ehwpoison);
	KERNEL_TEST(punch_gives_a_fresh_page_for_a_poisoned_one);
	KERNEL_TEST(mapping_remembers_poison_that_is_punched);
	KERNEL_TEST(guest_goes_on_with_the_fresh_page);
	KERNEL_TEST(private_memory_cannot_be_poisoned_by_its_address);
	KERNEL_TEST(soft_offline_is_ebusy_and_changes_nothing);
}

/* Its last test leaves a machine on which no other memory failure ends. */
Suite *kernel_poison_suite(void)
{
	Suite *suite = suite_create("poison");

	add_pages(suite);
	kernel_case(suite, "poison-deadlock");
	KERNEL_TEST(fault_punch_and_poison_deadlock);
	return suite;
}
