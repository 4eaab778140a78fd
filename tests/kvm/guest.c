/* SPDX-License-Identifier: MIT */
#include "guest-machine.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

void guest_open(struct guest *guest, int vm_fd, uint64_t code)
{
	guest_open_vcpu(guest, vm_fd, 0, code);
}

void guest_open_vcpu(struct guest *guest, int vm_fd, unsigned int id, uint64_t code)
{
	int fd = ioctl(vm_fd, KVM_CREATE_VCPU, (unsigned long)id);
	void *run;

	if (fd < 0)
		ck_abort_msg("KVM_CREATE_VCPU: %s", strerror(errno));
	run = mmap(NULL, (size_t)sysconf(_SC_PAGESIZE), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ck_assert_ptr_ne(run, MAP_FAILED);
	*guest = (struct guest){.fd = fd, .run = run, .code = code};
	guest_machine_init(guest, vm_fd);
}

void guest_close(struct guest *guest)
{
	munmap(guest->run, (size_t)sysconf(_SC_PAGESIZE));
	close(guest->fd);
}

/* KVM finishes the instruction when it is entered again, which must not spoil the next routine. */
static void finish_mmio(struct guest *guest)
{
	guest->mmio_gpa = guest->run->mmio.phys_addr;
	guest->mmio_write = guest->run->mmio.is_write;
	guest->run->immediate_exit = 1;
	ck_assert_int_eq(ioctl(guest->fd, KVM_RUN, 0UL), -1);
	ck_assert_int_eq(errno, EINTR);
	guest->run->immediate_exit = 0;
}

int guest_enter(struct guest *guest)
{
	return ioctl(guest->fd, KVM_RUN, 0UL) < 0 ? -errno : 0;
}

static int run(struct guest *guest, const unsigned char *routine, uint64_t gpa, uint32_t value)
{
	int reason, r;

	guest_machine_enter(guest, (uintptr_t)routine - (uintptr_t)guest_code, gpa, value);
	do {
		r = guest_enter(guest);
		if (r < 0)
			return r;
		reason = guest_machine_exit(guest);
	} while (reason == GUEST_GOES_ON);
	if (guest->run->exit_reason == KVM_EXIT_MMIO)
		finish_mmio(guest);
	return reason;
}

int guest_store(struct guest *guest, uint64_t gpa, uint32_t value)
{
	return run(guest, guest_code_store, gpa, value);
}

int guest_load(struct guest *guest, uint64_t gpa, uint32_t *value)
{
	int reason = run(guest, guest_code_load, gpa, 0);

	*value = guest_machine_value(guest);
	return reason;
}

int guest_count(struct guest *guest, uint64_t gpa, uint32_t times)
{
	return run(guest, guest_code_count, gpa, times);
}

int guest_await(struct guest *guest, uint64_t gpa, uint32_t *value)
{
	int reason = run(guest, guest_code_await, gpa, 0);

	*value = guest_machine_value(guest);
	return reason;
}
