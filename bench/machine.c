/* SPDX-License-Identifier: MIT */
#include "machine.h"

#include "../examples/cpu.h"
#include "../examples/walk.h"
#include "bench.h"
#include "raw.h"
#include "vm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

extern const unsigned char walk_guest_begin[];
extern const unsigned char walk_guest_end[];

/* The first memory: tables, code, the vCPUs' words, and what those walk that just run. */
#define LOW_SIZE  (4 * BENCH_MIB)
#define WORD_STEP 64 /* a cache line each */
#define OWN_GPA	  BENCH_MIB
#define OWN_STEP  (512 * BENCH_KIB)

/* Such a vCPU goes in small steps, so that it is in the guest nearly all the time. */
#define OWN_WALK_STEP  UINT64_C(8)
#define OWN_WALK_STEPS (OWN_STEP / OWN_WALK_STEP)

static uint64_t page_size(void)
{
	return (uint64_t)sysconf(_SC_PAGESIZE);
}

/* ---- Memory ------------------------------------------------------------------------------- */

/* Small pages alone: how many huge ones there are depends on what ran before. */
static unsigned char *map_host(int fd, uint64_t size)
{
	void *addr = mmap(NULL, size, PROT_READ | PROT_WRITE,
			  fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED, fd, 0);

	bench_check(addr != MAP_FAILED, "mmap");
	madvise(addr, size, MADV_NOHUGEPAGE);
	return addr;
}

static void add_low(struct machine *m)
{
	struct gmem_slot_opts opts = {.sz = sizeof(opts), .size = LOW_SIZE};
	size_t tables_size;
	const void *tables = cpu_make_tables(&tables_size);

	m->low = map_host(-1, LOW_SIZE);
	memcpy(m->low + TABLES_GPA, tables, tables_size);
	/* cppcheck-suppress comparePointers; two symbols of one section */
	memcpy(m->low + CODE_GPA, walk_guest_begin, (size_t)(walk_guest_end - walk_guest_begin));
	opts.host = m->low;
	bench_check_gmem(gmem_slot_create(m->vm, &opts, &m->low_slot), "the first slot");
}

static void add_memory(struct machine *m, enum machine_memory memory)
{
	struct gmem_memfd_opts memfd_opts = {.sz = sizeof(memfd_opts), .size = m->size};
	struct gmem_slot_opts opts = {.sz = sizeof(opts), .gpa = MACHINE_GPA, .size = m->size};

	if (memory == MACHINE_SHARED)
		memfd_opts.flags = VM_SHARED;
	bench_check_gmem(gmem_memfd_create(m->vm, &memfd_opts, &m->memfd), "the guest_memfd");
	m->memfd_fd = gmem_memfd_get_fd(m->memfd);
	opts.memfd = m->memfd;
	if (memory == MACHINE_MEMFD) {
		m->host_fd = memfd_create("bench", MFD_CLOEXEC);
		bench_check(m->host_fd >= 0 && ftruncate(m->host_fd, (off_t)m->size) == 0, "memfd");
	}
	if (memory != MACHINE_SHARED)
		opts.host = m->host = map_host(m->host_fd, m->size);
	bench_check_gmem(gmem_slot_create(m->vm, &opts, &m->slot), "the slot");
}

static struct gmem_vm *open_vm(enum machine_memory memory)
{
	struct gmem_vm *vm;

	if (memory == MACHINE_SHARED)
		return vm_open_shared();
	vm = vm_open(RAW_VM_SW_PROTECTED, 0);
	vm_need(vm, GMEM_CAP_MEMORY_ATTRIBUTES, GMEM_ATTRIBUTE_PRIVATE,
		"VMs of this kernel have no private memory");
	return vm;
}

void machine_open(struct machine *m, enum machine_memory memory, uint64_t size)
{
	*m = (struct machine){.size = size, .host_fd = -1, .vm = open_vm(memory)};
	m->vm_fd = gmem_vm_get_fd(m->vm);
	add_low(m);
	add_memory(m, memory);
}

void machine_need_prefault(const struct machine *m)
{
	vm_need(m->vm, GMEM_CAP_PRE_FAULT_MEMORY, 0, "this kernel does not pre-fault");
}

void machine_fill_shared(const struct machine *m, uint64_t size)
{
	bench_check(madvise(m->host, size, MADV_POPULATE_WRITE) == 0, "MADV_POPULATE_WRITE");
}

void machine_fill_private(const struct machine *m, uint64_t size)
{
	bench_check(fallocate(m->memfd_fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)size) == 0, "fallocate");
}

/* ---- vCPUs -------------------------------------------------------------------------------- */

static size_t run_size(int kvm_fd)
{
	int size = ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);

	bench_check(size > 0, "KVM_GET_VCPU_MMAP_SIZE");
	return (size_t)size;
}

static void init_vcpu(struct machine_vcpu *vcpu, int kvm_fd, bool walks_memory, uint64_t index)
{
	uint64_t word = FREE_GPA + index * WORD_STEP;
	uint64_t arguments[CPU_ARGUMENTS] = {
		walks_memory ? MACHINE_GPA : OWN_GPA + index * OWN_STEP,
		walks_memory ? page_size() : OWN_WALK_STEP,
		word,
	};
	const char *failed = cpu_init(kvm_fd, vcpu->machine->vm_fd, vcpu->fd, arguments);

	bench_check(!failed, failed);
	vcpu->pages = (_Atomic uint64_t *)(void *)(vcpu->machine->low + word);
}

struct machine_vcpu *machine_add_vcpu(struct machine *m, bool walks_memory)
{
	struct machine_vcpu *vcpu = &m->vcpu[m->vcpus];
	int kvm_fd = open(bench_device(), O_RDWR | O_CLOEXEC);
	void *run;

	bench_check(kvm_fd >= 0, bench_device());
	vcpu->machine = m;
	vcpu->fd = ioctl(m->vm_fd, KVM_CREATE_VCPU, (unsigned long)m->vcpus);
	bench_check(vcpu->fd >= 0, "KVM_CREATE_VCPU");
	vcpu->run_size = run_size(kvm_fd);
	run = mmap(NULL, vcpu->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	bench_check(run != MAP_FAILED, "the vCPU's mapping");
	vcpu->run = run;
	init_vcpu(vcpu, kvm_fd, walks_memory, m->vcpus);
	bench_check_gmem(gmem_vcpu_open(m->vm, vcpu->fd, vcpu->run, &vcpu->handle), "the vCPU");
	close(kvm_fd);
	m->vcpus++;
	return vcpu;
}

/* Run until it says so, or halts: false. */
static bool run_until(struct machine_vcpu *vcpu, uint32_t wanted)
{
	uint32_t port = 0, value;

	for (;;) {
		bench_check(ioctl(vcpu->fd, KVM_RUN, 0) == 0 || errno == EINTR, "KVM_RUN");
		switch (cpu_decode(vcpu->run, &port, &value)) {
		case CPU_SAYS:
			if (port == WALK_PORT_WRONG)
				bench_fail("the guest found foreign data in page %u", value);
			if (port == wanted)
				return true;
			break;
		case CPU_HALTS:
			return false;
		case CPU_ODD:
			bench_fail("unexpected exit of a vCPU: reason %u", vcpu->run->exit_reason);
		}
	}
}

void machine_walk(struct machine_vcpu *vcpu, uint64_t pages)
{
	*vcpu->pages = pages;
	if (!run_until(vcpu, WALK_PORT_PAGES))
		bench_fail("the guest ended early");
}

static void *vcpu_thread(void *data)
{
	struct machine_vcpu *vcpu = data;

	while (run_until(vcpu, WALK_PORT_PAGES))
		;
	return NULL;
}

void machine_start(struct machine_vcpu *vcpu)
{
	int error;

	machine_walk(vcpu, OWN_WALK_STEPS); /* its first round, which has all the faults */
	error = pthread_create(&vcpu->thread, NULL, vcpu_thread, vcpu);
	if (error)
		bench_fail("pthread_create: %s", strerror(error));
}

void machine_stop(struct machine_vcpu *vcpu)
{
	*vcpu->pages = 0;
	pthread_join(vcpu->thread, NULL);
}

void machine_close(struct machine *m)
{
	for (unsigned int i = 0; i < m->vcpus; i++) {
		gmem_vcpu_close(m->vcpu[i].handle);
		munmap(m->vcpu[i].run, m->vcpu[i].run_size);
		close(m->vcpu[i].fd);
	}
	gmem_slot_close(m->slot);
	gmem_slot_close(m->low_slot);
	gmem_memfd_close(m->memfd);
	gmem_vm_close(m->vm);
	munmap(m->low, LOW_SIZE);
	if (m->host)
		munmap(m->host, m->size);
	if (m->host_fd >= 0)
		close(m->host_fd);
}
