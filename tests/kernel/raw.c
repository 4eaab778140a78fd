/* SPDX-License-Identifier: MIT */
#include "raw.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* A VM's descriptor, or a negative errno. */
static int create_vm(void)
{
	int device = open(harness_kvm_device(), O_RDWR | O_CLOEXEC);
	int fd;

	if (device < 0)
		return -errno;
	fd = ioctl(device, KVM_CREATE_VM, 0UL);
	if (fd < 0)
		fd = -errno;
	close(device);
	return fd;
}

static void find_missing(char *reason, size_t size)
{
	int vm = create_vm();

	if (vm < 0)
		snprintf(reason, size, "no VM from %s: %s", harness_kvm_device(), strerror(-vm));
	else if (raw_cap(vm, RAW_CAP_USER_MEMORY2) <= 0)
		snprintf(reason, size, "this kernel has no KVM_SET_USER_MEMORY_REGION2");
	if (vm >= 0)
		close(vm);
}

const char *raw_missing(void)
{
	static char reason[128];
	static bool known; /* a VM takes milliseconds, and tests inherit the answer */

	if (!known)
		find_missing(reason, sizeof(reason));
	known = true;
	return reason[0] ? reason : NULL;
}

int raw_vm(void)
{
	int fd = create_vm();

	if (fd < 0)
		ck_abort_msg("KVM_CREATE_VM: %s", strerror(-fd));
	return fd;
}

int raw_cap(int fd, int cap)
{
	int r = ioctl(fd, KVM_CHECK_EXTENSION, (unsigned long)cap);

	return r < 0 ? -errno : r;
}

bool raw_has_shared(int vm)
{
	int flags = raw_cap(vm, RAW_CAP_GUEST_MEMFD_FLAGS);

	return raw_cap(vm, RAW_CAP_GUEST_MEMFD) > 0 && flags > 0 &&
	       ((uint64_t)flags & RAW_SHARED) == RAW_SHARED;
}

int raw_memfd(int vm, uint64_t size, uint64_t flags)
{
	struct raw_guest_memfd create = {.size = size, .flags = flags};
	int fd = ioctl(vm, RAW_CREATE_GUEST_MEMFD, &create);

	return fd < 0 ? -errno : fd;
}

int raw_set(int vm, const struct raw_region *region)
{
	return ioctl(vm, RAW_SET_USER_MEMORY_REGION, region) < 0 ? -errno : 0;
}

int raw_delete(int vm, uint32_t slot)
{
	return raw_set(vm, &(struct raw_region){.slot = slot});
}

int raw_try(int vm, const struct raw_region *region)
{
	int r = raw_set(vm, region);

	return r < 0 ? r : raw_delete(vm, region->slot);
}

size_t raw_page(void)
{
	return (size_t)sysconf(_SC_PAGESIZE);
}

void *raw_map(int fd, uint64_t offset, size_t size)
{
	int flags = fd < 0 ? MAP_SHARED | MAP_ANONYMOUS : MAP_SHARED;
	void *addr = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, (off_t)offset);

	if (addr == MAP_FAILED)
		ck_abort_msg("mmap of fd %d: %s", fd, strerror(errno));
	return addr;
}

unsigned int raw_gpa_bits(int vm, uint32_t id)
{
	size_t page = raw_page();
	void *memory = raw_map(-1, 0, page);
	unsigned int bits = 32;

	while (bits < 63 &&
	       raw_try(vm, &(struct raw_region){.slot = id,
						.gpa = (UINT64_C(1) << (bits + 1)) - page,
						.size = page,
						.addr = (uintptr_t)memory}) == 0)
		bits++;
	munmap(memory, page);
	return bits;
}

const char *raw_word(int r)
{
	const char *name = r < 0 ? strerrorname_np(-r) : "accepted";

	return name ? name : "an unknown error";
}

int raw_result(long r)
{
	return r < 0 ? -errno : 0;
}

static char differences[512];

void raw_expect(const char *what, int got, int wanted)
{
	size_t used = strlen(differences);

	if (got != wanted)
		snprintf(differences + used, sizeof(differences) - used, "%s%s: %s, not %s",
			 used ? "; " : "", what, raw_word(got), raw_word(wanted));
}

void raw_expect_end(void)
{
	ck_assert_msg(!differences[0], "%s", differences);
}

bool raw_may_lose_machine(void)
{
	const char *allowed = getenv("GMEM_TEST_THROW_AWAY");

	return allowed && strcmp(allowed, "1") == 0;
}
