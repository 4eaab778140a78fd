/* SPDX-License-Identifier: MIT */
#include "guest.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef __x86_64__

/* Where each routine begins. ds:bx is the address. */
enum {
	ENTRY_STORE = 0,
	ENTRY_LOAD = 8,
	ENTRY_COUNT = 16,
	ENTRY_AWAIT = 32,
};

const unsigned char guest_code[] = {
	/* STORE: */ 0x66,
	0x89,
	0x07, /* mov [bx], eax */
	0xee, /* out dx, al */
	0xf4, /* hlt */
	0x90,
	0x90,
	0x90,
	/* LOAD: */ 0x66,
	0x8b,
	0x07, /* mov eax, [bx] */
	0xf4, /* hlt */
	0x90,
	0x90,
	0x90,
	0x90,
	/* COUNT: */ 0x66,
	0xff,
	0x07, /* inc dword [bx] */
	0x66,
	0x49, /* dec ecx */
	0x75,
	0xf9, /* jnz COUNT */
	0xf4, /* hlt */
	0x90,
	0x90,
	0x90,
	0x90,
	0x90,
	0x90,
	0x90,
	0x90,
	/* AWAIT: */ 0x66,
	0x8b,
	0x07, /* mov eax, [bx] */
	0x66,
	0x85,
	0xc0, /* test eax, eax */
	0x74,
	0xf8, /* jz AWAIT */
	0xf4, /* hlt */
};
const size_t guest_code_size = sizeof(guest_code);

#define PORT 0x10

static void set_segment(struct kvm_segment *segment, uint64_t base)
{
	segment->base = base;
	segment->selector = (uint16_t)(base >> 4);
	segment->limit = 0xffff;
}

void guest_open(struct guest *guest, int vm_fd, uint64_t code)
{
	int fd = ioctl(vm_fd, KVM_CREATE_VCPU, 0UL);
	void *run;

	if (fd < 0)
		ck_abort_msg("KVM_CREATE_VCPU: %s", strerror(errno));
	run = mmap(NULL, (size_t)sysconf(_SC_PAGESIZE), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ck_assert_ptr_ne(run, MAP_FAILED);
	*guest = (struct guest){.fd = fd, .run = run, .code = code};
}

void guest_close(struct guest *guest)
{
	munmap(guest->run, (size_t)sysconf(_SC_PAGESIZE));
	close(guest->fd);
}

static void set_registers(struct guest *guest, uint64_t gpa, struct kvm_regs *regs)
{
	struct kvm_sregs sregs;

	ck_assert_int_eq(ioctl(guest->fd, KVM_GET_SREGS, &sregs), 0);
	set_segment(&sregs.cs, guest->code);
	set_segment(&sregs.ds, gpa & ~UINT64_C(0xfff));
	ck_assert_int_eq(ioctl(guest->fd, KVM_SET_SREGS, &sregs), 0);
	regs->rbx = gpa & 0xfff;
	regs->rdx = PORT;
	regs->rflags = 2;
	ck_assert_int_eq(ioctl(guest->fd, KVM_SET_REGS, regs), 0);
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

static int run(struct guest *guest, uint64_t gpa, struct kvm_regs *regs)
{
	int reason;

	set_registers(guest, gpa, regs);
	do {
		if (ioctl(guest->fd, KVM_RUN, 0UL) < 0)
			return -errno;
		reason = (int)guest->run->exit_reason;
	} while (reason == KVM_EXIT_IO && guest->run->io.port == PORT);
	if (reason == KVM_EXIT_MMIO)
		finish_mmio(guest);
	ck_assert_int_eq(ioctl(guest->fd, KVM_GET_REGS, regs), 0);
	return reason;
}

int guest_store(struct guest *guest, uint64_t gpa, uint32_t value)
{
	struct kvm_regs regs = {.rip = ENTRY_STORE, .rax = value};

	return run(guest, gpa, &regs);
}

int guest_load(struct guest *guest, uint64_t gpa, uint32_t *value)
{
	struct kvm_regs regs = {.rip = ENTRY_LOAD};
	int reason = run(guest, gpa, &regs);

	*value = (uint32_t)regs.rax;
	return reason;
}

int guest_count(struct guest *guest, uint64_t gpa, uint32_t times)
{
	struct kvm_regs regs = {.rip = ENTRY_COUNT, .rcx = times};

	return run(guest, gpa, &regs);
}

int guest_await(struct guest *guest, uint64_t gpa, uint32_t *value)
{
	struct kvm_regs regs = {.rip = ENTRY_AWAIT};
	int reason = run(guest, gpa, &regs);

	*value = (uint32_t)regs.rax;
	return reason;
}

#else

const unsigned char guest_code[] = {0};
const size_t guest_code_size = sizeof(guest_code);

void guest_open(struct guest *guest, int vm_fd, uint64_t code)
{
	(void)guest;
	(void)vm_fd;
	(void)code;
}

void guest_close(struct guest *guest)
{
	(void)guest;
}

int guest_store(struct guest *guest, uint64_t gpa, uint32_t value)
{
	(void)guest;
	(void)gpa;
	(void)value;
	return -ENOSYS;
}

int guest_load(struct guest *guest, uint64_t gpa, uint32_t *value)
{
	*value = 0;
	return guest_store(guest, gpa, 0);
}

int guest_count(struct guest *guest, uint64_t gpa, uint32_t times)
{
	return guest_store(guest, gpa, times);
}

int guest_await(struct guest *guest, uint64_t gpa, uint32_t *value)
{
	return guest_load(guest, gpa, value);
}

#endif
