/* SPDX-License-Identifier: MIT */
/* What userfaultfd does with a mapping of guest_memfd. No library. */
#include "../kvm/guest.h"
#include "../kvm/host.h"
#include "raw.h"
#include "suites.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGES	       4
#define USER_MODE_ONLY 1
#define MODE_RWP       (UINT64_C(1) << 3) /* Linux 7.3 */
#define FEATURE_RWP    (UINT64_C(1) << 17)
#define CALL_RWPROTECT 9
#define PAGEMAP_WP     (UINT64_C(1) << 57)
#define DEVICE	       "/dev/userfaultfd"
#define DEVICE_NEW     _IO(0xAA, 0x00)
#define NOBODY	       65534

/* A VM with a guest's code, some memory of the host, and a userfaultfd. */
struct world {
	int vm;
	int memfd; /* -1: the memory is anonymous */
	int uffd;
	size_t page;
	size_t size;
	char *map;
};

static bool open_world(struct world *world, int flags, uint64_t features, bool memfd)
{
	const char *missing = raw_missing();
	char reason[64];

	if (missing) {
		harness_skip("%s", missing);
		return false;
	}
	*world = (struct world){.vm = raw_vm(), .memfd = -1, .page = raw_page()};
	world->size = PAGES * world->page;
	if (memfd && !raw_has_shared(world->vm))
		missing = RAW_NO_SHARED;
	world->uffd = missing ? -1 : raw_userfaultfd(flags, features);
	if (!missing && world->uffd < 0) {
		snprintf(reason, sizeof(reason), "userfaultfd: %s", strerror(-world->uffd));
		missing = reason;
	}
	if (missing) {
		close(world->vm);
		harness_skip("%s", missing);
		return false;
	}
	if (memfd) {
		world->memfd = raw_memfd(world->vm, world->size, RAW_SHARED);
		ck_assert_int_ge(world->memfd, 0);
	}
	world->map = raw_map(world->memfd, 0, world->size);
	return true;
}

static void close_world(struct world *world)
{
	munmap(world->map, world->size);
	close(world->memfd);
	close(world->uffd);
	close(world->vm);
}

/* A guest, and the memory as slot 0, bound or plain. */
static void open_guest(struct world *world, struct guest *guest, bool bound)
{
	struct raw_region region = {.flags = bound ? RAW_GUEST_MEMFD : 0,
				    .gpa = RAW_GPA,
				    .size = world->size,
				    .addr = (uintptr_t)world->map,
				    .memfd = (uint32_t)world->memfd};

	ck_assert_int_eq(raw_set(world->vm, &region), 0);
	raw_open_guest(world->vm, guest);
}

static int register_map(const struct world *world, uint64_t mode)
{
	return raw_userfaultfd_register(world->uffd, world->map, world->size, mode, NULL);
}

/* ---- What can be registered ---- */

START_TEST(userfaultfd_takes_a_mode_or_says_einval)
{
	static const struct {
		const char *name;
		uint64_t mode;
	} modes[] = {
		{"MISSING", UFFDIO_REGISTER_MODE_MISSING},
		{"MINOR", UFFDIO_REGISTER_MODE_MINOR},
		{"WP", UFFDIO_REGISTER_MODE_WP},
		{"MISSING|WP", UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP},
		{"RWP", MODE_RWP},
	};
	struct world world;
	int taken = 0;

	if (!open_world(&world, 0, 0, true))
		return;
	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		struct uffdio_range range = {.start = (uintptr_t)world.map, .len = world.size};
		int r = register_map(&world, modes[i].mode);

		if (r == 0) {
			harness_note("%s", modes[i].name);
			ck_assert_int_eq(ioctl(world.uffd, UFFDIO_UNREGISTER, &range), 0);
			taken++;
		} else {
			raw_expect(modes[i].name, r, -EINVAL);
		}
	}
	if (taken == 0)
		harness_note("EINVAL to all");
	raw_expect_end();
	close_world(&world);
}
END_TEST

START_TEST(userfaultfd_lists_its_features)
{
	struct uffdio_api api = {.api = UFFD_API};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);

	if (fd < 0)
		SKIP("userfaultfd: %s", strerror(errno));
	ck_assert_int_eq(ioctl(fd, UFFDIO_API, &api), 0);
	harness_note("0x%llx", (unsigned long long)api.features);
	close(fd);
}
END_TEST

/* Linux 7.3: protection from any access. On memory that has it, as guest_memfd has not. */
START_TEST(access_protection_excludes_write_protection_and_stays)
{
	size_t page = raw_page();
	void *memory = raw_map(-1, 0, page);
	int fd = raw_userfaultfd(0, FEATURE_RWP);
	uint64_t calls;

	if (fd < 0)
		SKIP("this kernel has no protection from all accesses");
	raw_expect("with WP",
		   raw_userfaultfd_register(fd, memory, page, MODE_RWP | UFFDIO_REGISTER_MODE_WP,
					    NULL),
		   -EINVAL);
	raw_expect("alone", raw_userfaultfd_register(fd, memory, page, MODE_RWP, &calls), 0);
	ck_assert_uint_eq(calls >> CALL_RWPROTECT & 1, 1);
	raw_expect("registered again without it",
		   raw_userfaultfd_register(fd, memory, page, UFFDIO_REGISTER_MODE_MISSING, NULL),
		   -EBUSY);
	raw_expect_end();
	close(fd);
	munmap(memory, page);
}
END_TEST

/* It is for any mapping, so that it is taken says nothing of the other modes. */
START_TEST(userfaultfd_takes_asynchronous_write_protection)
{
	struct world world;

	if (!open_world(&world, 0, RAW_WP_ASYNC | RAW_WP_UNPOPULATED, true))
		return;
	ck_assert_int_eq(register_map(&world, UFFDIO_REGISTER_MODE_WP), 0);
	close_world(&world);
}
END_TEST

/* ---- Who writes, by write protection without events ---- */

static void protect(const struct world *world)
{
	struct uffdio_writeprotect wp = {
		.range = {.start = (uintptr_t)world->map, .len = world->size},
		.mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};

	ck_assert_int_eq(raw_result(ioctl(world->uffd, UFFDIO_WRITEPROTECT, &wp)), 0);
}

/* A bit for each page that was written since protect(). */
static unsigned int written_pages(const struct world *world)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t entries[PAGES];
	unsigned int written = 0;
	off_t place = (off_t)((uintptr_t)world->map / world->page * sizeof(entries[0]));

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq((int)pread(fd, entries, sizeof(entries), place), (int)sizeof(entries));
	for (unsigned int i = 0; i < PAGES; i++)
		written |= entries[i] & PAGEMAP_WP ? 0 : 1U << i;
	close(fd);
	return written;
}

static bool open_tracked(struct world *world)
{
	if (!open_world(world, 0, RAW_WP_ASYNC | RAW_WP_UNPOPULATED, true))
		return false;
	memset(world->map, 0, world->size);
	ck_assert_int_eq(register_map(world, UFFDIO_REGISTER_MODE_WP), 0);
	return true;
}

START_TEST(write_protection_shows_what_the_host_writes)
{
	struct world world;

	if (!open_tracked(&world))
		return;
	protect(&world);
	ck_assert_uint_eq(written_pages(&world), 0);
	world.map[world.page] = 1;
	ck_assert_uint_eq(written_pages(&world), 1U << 1);
	ck_assert_int_eq(raw_scan(world.map, world.size, RAW_PAGE_WRITTEN), 1);
	close_world(&world);
}
END_TEST

/* The processor's own writes are unseen; an emulated one is KVM's, at the host address. */
START_TEST(write_protection_does_not_show_what_a_guest_writes_to_bound_memory)
{
	struct world world;
	struct guest guest;
	unsigned int written;

	NEED_GUEST();
	if (!open_tracked(&world))
		return;
	open_guest(&world, &guest, true);
	protect(&world);
	ck_assert_int_eq(guest_store(&guest, RAW_GPA + 2 * world.page, 7), KVM_EXIT_HLT);
	written = written_pages(&world);
	ck_assert_int_eq(world.map[2 * world.page], 7);
	ck_assert(written == 0 || written == 1U << 2);
	ck_assert_int_eq(raw_scan(world.map, world.size, RAW_PAGE_WRITTEN), written ? 1 : 0);
	harness_note("%s", written ? "seen, as KVM emulates it" : "unseen");
	guest_close(&guest);
	close_world(&world);
}
END_TEST

START_TEST(write_protection_shows_what_a_guest_writes_to_a_plain_slot)
{
	struct world world;
	struct guest guest;

	NEED_GUEST();
	if (!open_tracked(&world))
		return;
	open_guest(&world, &guest, false);
	ck_assert_int_eq(guest_store(&guest, RAW_GPA + 2 * world.page, 6), KVM_EXIT_HLT);
	protect(&world);
	ck_assert_uint_eq(written_pages(&world), 0);
	ck_assert_int_eq(guest_store(&guest, RAW_GPA + 2 * world.page, 7), KVM_EXIT_HLT);
	ck_assert_uint_eq(written_pages(&world), 1U << 2);
	ck_assert_int_eq(raw_scan(world.map, world.size, RAW_PAGE_WRITTEN), 1);
	ck_assert_int_eq(world.map[2 * world.page], 7);
	guest_close(&guest);
	close_world(&world);
}
END_TEST

/* ---- Whom it stops ---- */

/* One that is for user mode alone needs no privilege, and is of no use below a guest. */
START_TEST(kernel_is_refused_where_userfaultfd_is_for_user_mode_alone)
{
	struct iovec local, remote;
	struct world world;
	struct guest guest;
	uint32_t value;
	char byte;
	int r;

	NEED_GUEST();
	if (!open_world(&world, USER_MODE_ONLY, 0, false))
		return;
	ck_assert_int_eq(register_map(&world, UFFDIO_REGISTER_MODE_MISSING), 0);
	local = (struct iovec){&byte, 1};
	remote = (struct iovec){world.map, 1};
	r = raw_result(process_vm_readv(getpid(), &local, 1, &remote, 1, 0));
	ck_assert_int_eq(r, -EFAULT);
	open_guest(&world, &guest, false);
	r = guest_load(&guest, RAW_GPA, &value);
	/* An emulated access finds no memory at the host address, and takes it for a device's. */
	ck_assert(r == -EFAULT || r == KVM_EXIT_MMIO);
	harness_note("the guest's access: %s", r < 0 ? raw_word(r) : "KVM_EXIT_MMIO");
	guest_close(&guest);
	close_world(&world);
}
END_TEST

/* Whether the kernel's accesses are for everybody to stop. */
static bool is_for_all(void)
{
	FILE *file = fopen("/proc/sys/vm/unprivileged_userfaultfd", "re");
	int value = 0;

	if (file) {
		if (fscanf(file, "%d", &value) != 1)
			value = 0;
		fclose(file);
	}
	return value != 0;
}

static int open_as_nobody(void *data)
{
	const bool *for_all = data;
	int r;

	CHILD_CHECK(setresgid(NOBODY, NOBODY, NOBODY) == 0);
	CHILD_CHECK(setresuid(NOBODY, NOBODY, NOBODY) == 0);
	r = raw_userfaultfd(0, 0);
	CHILD_CHECK(*for_all ? r >= 0 : r == -EPERM);
	CHILD_CHECK(raw_userfaultfd(USER_MODE_ONLY, 0) >= 0);
	return 0;
}

/* The device is for those who may open it, and asks for no privilege beside that. */
START_TEST(kernel_is_stopped_only_with_privilege)
{
	bool for_all = is_for_all();
	int fd = raw_userfaultfd(0, 0);
	int device;

	if (fd < 0)
		SKIP("userfaultfd: %s", strerror(-fd));
	if (geteuid() != 0)
		SKIP("only root can give its privileges up");
	ck_assert_int_eq(host_run_child(open_as_nobody, &for_all), 0);
	device = open(DEVICE, O_RDWR | O_CLOEXEC);
	if (device >= 0)
		ck_assert_int_ge(ioctl(device, DEVICE_NEW, O_CLOEXEC), 0);
	harness_note("%s, %s", for_all ? "for all" : "for the privileged",
		     device >= 0 ? DEVICE : "no " DEVICE);
	close(device);
	close(fd);
}
END_TEST

Suite *kernel_uffd_suite(void)
{
	Suite *suite = suite_create("uffd");

	kernel_case(suite, "uffd-modes");
	KERNEL_TEST(userfaultfd_takes_a_mode_or_says_einval);
	KERNEL_TEST(userfaultfd_lists_its_features);
	KERNEL_TEST(userfaultfd_takes_asynchronous_write_protection);
	KERNEL_TEST(access_protection_excludes_write_protection_and_stays);
	kernel_case(suite, "uffd-writes");
	KERNEL_TEST(write_protection_shows_what_the_host_writes);
	KERNEL_TEST(write_protection_does_not_show_what_a_guest_writes_to_bound_memory);
	KERNEL_TEST(write_protection_shows_what_a_guest_writes_to_a_plain_slot);
	kernel_case(suite, "uffd-access");
	KERNEL_TEST(kernel_is_refused_where_userfaultfd_is_for_user_mode_alone);
	KERNEL_TEST(kernel_is_stopped_only_with_privilege);
	return suite;
}
