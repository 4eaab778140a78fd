/* SPDX-License-Identifier: MIT */
/*
 * libgmem in a VMM that is there already. The VMM here makes its own VM, its own slots and its own
 * vCPU, and keeps all of them. Each place where libgmem was added is marked with [gmem]; without
 * them it is the VMM as it was, which --plain shows. What is gained:
 *
 *   - the guest's addresses are checked, and read across slots, in one call
 *   - more memory is added as guest_memfd, beside the VMM's own slots
 *   - an exit that is about memory is told from all others, and answered
 */
#include "cpu.h"
#include "example.h"
#include "print.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

extern const unsigned char print_guest_begin[];
extern const unsigned char print_guest_end[];

#define SLOTS	   2 /* the VMM's own, with ids from 0 on */
#define SLOT_SIZE  MIB
#define LIST_GPA   FREE_GPA
#define TEXT_GPA   (FREE_GPA + 0x1000)
#define BORDER_GPA SLOT_SIZE /* where one slot ends and the other begins */
#define ADDED_GPA  (8 * MIB)
#define ADDED_SIZE MIB
#define MAX_TEXT   80

/* ---- The VMM, and what was added to it ---------------------------------------------------- */

struct vmm {
	const char *device;
	bool plain; /* do without libgmem */
	int kvm_fd;
	int vm_fd;
	unsigned char *ram[SLOTS];
	struct cpu cpu;
	uint32_t text_gpa; /* what the guest has said */

	struct gmem_vm *gmem;		/* [gmem] */
	struct gmem_slot *slots[SLOTS]; /* [gmem] */
	struct gmem_memfd *added_memfd; /* [gmem] */
	struct gmem_slot *added;	/* [gmem] */
	struct gmem_vcpu *vcpu;		/* [gmem] */
	unsigned int printed, refused;
};

static int make_vm(struct vmm *vmm)
{
	vmm->kvm_fd = open(vmm->device, O_RDWR | O_CLOEXEC);
	if (vmm->kvm_fd < 0) {
		fail_errno(vmm->device);
		return EXIT_UNUSABLE;
	}
	vmm->vm_fd = ioctl(vmm->kvm_fd, KVM_CREATE_VM, 0);
	if (vmm->vm_fd < 0) {
		int unusable = errno == ENOTTY; /* no KVM device */

		print_failure("%s: KVM_CREATE_VM: %s", vmm->device, strerror(errno));
		return unusable ? EXIT_UNUSABLE : EXIT_WRONG;
	}
	return EXIT_RIGHT;
}

/* Two slots that touch, each with memory of its own. */
static int make_slots(struct vmm *vmm)
{
	for (uint32_t id = 0; id < SLOTS; id++) {
		void *ram = mmap(NULL, SLOT_SIZE, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		struct kvm_userspace_memory_region region = {
			.slot = id,
			.guest_phys_addr = id * SLOT_SIZE,
			.memory_size = SLOT_SIZE,
			.userspace_addr = (uintptr_t)ram,
		};

		if (ram == MAP_FAILED)
			return fail_errno("no memory");
		vmm->ram[id] = ram;
		if (ioctl(vmm->vm_fd, KVM_SET_USER_MEMORY_REGION, &region) < 0)
			return fail_errno("KVM_SET_USER_MEMORY_REGION");
	}
	return EXIT_RIGHT;
}

/* [gmem] A handle for the VMM's VM. The ids from SLOTS on are for the library, those below not. */
static int add_gmem(struct vmm *vmm)
{
	struct gmem_vm_opts vm_opts = {.sz = sizeof(vm_opts), .id_first = SLOTS};

	if (gmem_vm_open_fd(vmm->vm_fd, &vm_opts, &vmm->gmem) < 0)
		return fail_machine("no handle for the VM");
	for (uint32_t id = 0; id < SLOTS; id++) {
		struct gmem_slot_opts opts = {
			.sz = sizeof(opts),
			.flags = GMEM_SLOT_FIXED_ID,
			.id = id,
			.gpa = id * SLOT_SIZE,
			.size = SLOT_SIZE,
			.host = vmm->ram[id],
		};

		if (gmem_slot_adopt(vmm->gmem, &opts, &vmm->slots[id]) < 0)
			return fail_gmem("slot not adopted");
	}
	return EXIT_RIGHT;
}

/* [gmem] More memory for the guest: guest_memfd, or a memfd where this kernel has none. */
static int add_memory(struct vmm *vmm)
{
	struct gmem_memfd_opts memfd_opts = {
		.sz = sizeof(memfd_opts),
		.size = ADDED_SIZE,
		.flags = GMEM_MEMFD_MMAP | GMEM_MEMFD_INIT_SHARED,
		.fallback = GMEM_FALLBACK_MEMFD,
	};
	struct gmem_slot_opts opts = {.sz = sizeof(opts), .gpa = ADDED_GPA, .size = ADDED_SIZE};

	if (gmem_memfd_create(vmm->gmem, &memfd_opts, &vmm->added_memfd) < 0)
		return fail_machine("no guest_memfd");
	opts.memfd = vmm->added_memfd;
	if (gmem_slot_create(vmm->gmem, &opts, &vmm->added) < 0)
		return fail_gmem("no slot");
	return EXIT_RIGHT;
}

/* The VMM's own look at guest memory: one slot at a time, and only those it has made. */
static bool find_in_slot(const struct vmm *vmm, uint64_t gpa, uint64_t len, void **addr)
{
	uint64_t id = gpa / SLOT_SIZE;

	if (id >= SLOTS || len > SLOT_SIZE - gpa % SLOT_SIZE)
		return false;
	*addr = vmm->ram[id] + gpa % SLOT_SIZE;
	return true;
}

/* Copy a text that the guest names; false after telling why not. */
static bool read_text(const struct vmm *vmm, uint64_t gpa, char *text, size_t len)
{
	void *addr;

	if (vmm->gmem && gmem_vm_read(vmm->gmem, 0, gpa, text, len) == 0) /* [gmem] */
		return true;						  /* [gmem] */
	if (vmm->gmem) {						  /* [gmem] */
		printf("  refused   %s\n", gmem_error_get_message());	  /* [gmem] */
		return false;						  /* [gmem] */
	}
	if (!find_in_slot(vmm, gpa, len, &addr)) {
		printf("  refused   0x%" PRIx64 " is in no slot, or the text ends in another\n",
		       gpa);
		return false;
	}
	memcpy(text, addr, len);
	return true;
}

static void print_text(struct vmm *vmm, uint32_t length)
{
	char text[MAX_TEXT];

	if (length > sizeof(text)) {
		printf("  refused   a text of %" PRIu32 " bytes\n", length);
		vmm->refused++;
	} else if (!read_text(vmm, vmm->text_gpa, text, length)) {
		vmm->refused++;
	} else {
		/* A guest's text could else steer the terminal. */
		for (uint32_t i = 0; i < length; i++)
			if (text[i] < ' ' || text[i] > '~')
				text[i] = '?';
		printf("  printed   %.*s\n", (int)length, text);
		vmm->printed++;
	}
}

static int hear(struct vmm *vmm, uint32_t port, uint32_t value)
{
	switch (port) {
	case PRINT_PORT_ADDRESS:
		vmm->text_gpa = value;
		return EXIT_RIGHT;
	case PRINT_PORT_LENGTH:
		print_text(vmm, value);
		return EXIT_RIGHT;
	default:
		return fail("the guest wrote to unknown port 0x%" PRIx32, port);
	}
}

/*
 * [gmem] What KVM_RUN has left, before the VMM looks at it. True: it was about memory, and *ret
 * says whether the guest can go on. This guest's memory is all shared, so that it is never asked
 * to convert any; but memory can be damaged, or run out.
 */
static bool handle_memory(struct vmm *vmm, int rc, int error, int *ret)
{
	struct gmem_exit exit = {.sz = sizeof(exit)};

	if (!vmm->vcpu)
		return false;
	*ret = EXIT_RIGHT;
	if (gmem_vcpu_decode(vmm->vcpu, rc, error, &exit) < 0)
		*ret = fail_gmem("cannot decode an exit");
	else if (exit.kind == GMEM_EXIT_OTHER)
		return false;
	else if (gmem_vcpu_resolve(vmm->vcpu, &exit, NULL) < 0)
		*ret = fail_gmem("the guest's memory");
	return true;
}

static int run_guest(struct vmm *vmm)
{
	uint32_t port, value;
	int ret = EXIT_RIGHT;

	while (!ret) {
		int rc = ioctl(vmm->cpu.fd, KVM_RUN, 0);
		int error = rc < 0 ? errno : 0;

		if (handle_memory(vmm, rc, error, &ret)) /* [gmem] */
			continue;			 /* [gmem] */
		if (rc < 0 && error == EINTR)
			continue;
		if (rc < 0)
			return fail("KVM_RUN: %s", strerror(error));
		switch (cpu_decode(vmm->cpu.run, &port, &value)) {
		case CPU_SAYS:
			ret = hear(vmm, port, value);
			break;
		case CPU_HALTS:
			return EXIT_RIGHT;
		case CPU_ODD:
			return cpu_complain(vmm->cpu.run);
		}
	}
	return ret;
}

/* ---- The guest ---------------------------------------------------------------------------- */

static const struct {
	const char *text;
	uint32_t to;
	uint32_t length; /* what the guest says; 0: the truth */
	bool added;	 /* needs memory that only libgmem has added */
} texts[] = {
	{"a text within one of the VMM's slots", TEXT_GPA + 0x1000, 0, false},
	{"a text that begins in one slot and ends in the next", BORDER_GPA - 20, 0, false},
	{"a text in memory that libgmem has added", ADDED_GPA + 100, 0, true},
	{"a text whose length is a lie", SLOTS *SLOT_SIZE - 40, MAX_TEXT, false},
	{"a text of absurd length", TEXT_GPA + 0x1000, UINT32_MAX, false},
};

#define TEXTS (sizeof(texts) / sizeof(texts[0]))

/* Page tables, code, the texts, and the list that tells the guest what to do with them. */
static uint64_t write_guest(struct vmm *vmm)
{
	unsigned char *ram = vmm->ram[0];
	struct print_entry list[TEXTS];
	uint32_t at = TEXT_GPA;
	uint64_t count = 0;
	size_t size;
	const void *tables = cpu_make_tables(&size);

	memcpy(ram + TABLES_GPA, tables, size);
	/* cppcheck-suppress comparePointers; two symbols of one section */
	memcpy(ram + CODE_GPA, print_guest_begin, (size_t)(print_guest_end - print_guest_begin));
	for (size_t i = 0; i < TEXTS; i++) {
		uint32_t len = (uint32_t)strlen(texts[i].text);

		if (texts[i].added && vmm->plain)
			continue;
		memcpy(ram + at, texts[i].text, len);
		list[count++] = (struct print_entry){at, texts[i].to, len,
						     texts[i].length ? texts[i].length : len};
		at += len;
	}
	memcpy(ram + LIST_GPA, list, count * sizeof(list[0]));
	return count;
}

/* ---- Both --------------------------------------------------------------------------------- */

static int make_machine(struct vmm *vmm)
{
	uint64_t arguments[CPU_ARGUMENTS] = {LIST_GPA};
	int ret = make_vm(vmm);

	if (!ret)
		ret = make_slots(vmm);
	if (!ret && !vmm->plain)       /* [gmem] */
		ret = add_gmem(vmm);   /* [gmem] */
	if (!ret && !vmm->plain)       /* [gmem] */
		ret = add_memory(vmm); /* [gmem] */
	if (ret)
		return ret;
	arguments[1] = write_guest(vmm);
	ret = cpu_open(&vmm->cpu, vmm->device, vmm->vm_fd, arguments);
	if (ret || vmm->plain)
		return ret;
	if (gmem_vcpu_open(vmm->gmem, vmm->cpu.fd, vmm->cpu.run, &vmm->vcpu) < 0) /* [gmem] */
		return fail_gmem("no handle for the vCPU");			  /* [gmem] */
	return EXIT_RIGHT;
}

/* [gmem] What the library has counted. */
static int show_stats(struct vmm *vmm)
{
	struct gmem_stats stats = {.sz = sizeof(stats)};
	uint64_t exits = 0;

	if (gmem_vm_get_stats(vmm->gmem, &stats) < 0)
		return fail_gmem("no statistics");
	for (size_t kind = GMEM_EXIT_OTHER + 1; kind < GMEM_STATS_EXITS; kind++)
		exits += stats.exits[kind];
	printf("\n  memory    %.0f MiB of the VMM's own, %.0f MiB added as %s\n",
	       to_mib(SLOTS * SLOT_SIZE), to_mib(gmem_slot_get_size(vmm->added)),
	       gmem_memfd_get_kind(vmm->added_memfd) == GMEM_MEMFD_KIND_GUEST ? "guest_memfd"
									      : "memfd");
	printf("  exits     %" PRIu64 " of memory, %" PRIu64 " of the VMM's own business\n", exits,
	       stats.exits[GMEM_EXIT_OTHER]);
	return EXIT_RIGHT;
}

static int run_machine(struct vmm *vmm)
{
	const unsigned int good = vmm->plain ? 1 : 3, bad = vmm->plain ? 3 : 2;
	int ret = make_machine(vmm);

	if (ret)
		return ret;
	printf("a VMM with its own VM, slots and vCPU, %s libgmem\n\n",
	       vmm->plain ? "without" : "with");
	ret = run_guest(vmm);
	if (!ret && vmm->gmem)	       /* [gmem] */
		ret = show_stats(vmm); /* [gmem] */
	if (ret)
		return ret;
	if (vmm->printed != good || vmm->refused != bad)
		return fail("%u texts were printed and %u refused, not %u and %u", vmm->printed,
			    vmm->refused, good, bad);
	printf("\nall right: %u texts printed, %u refused\n", good, bad);
	return EXIT_RIGHT;
}

static void close_machine(struct vmm *vmm)
{
	gmem_vcpu_close(vmm->vcpu);		/* [gmem] */
	gmem_slot_close(vmm->added);		/* [gmem] */
	gmem_memfd_close(vmm->added_memfd);	/* [gmem] */
	for (int i = 0; i < SLOTS; i++)		/* [gmem] */
		gmem_slot_close(vmm->slots[i]); /* [gmem] */
	gmem_vm_close(vmm->gmem);		/* [gmem] */
	cpu_close(&vmm->cpu);
	if (vmm->vm_fd >= 0)
		close(vmm->vm_fd);
	if (vmm->kvm_fd >= 0)
		close(vmm->kvm_fd);
	for (int i = 0; i < SLOTS; i++)
		if (vmm->ram[i])
			munmap(vmm->ram[i], SLOT_SIZE);
}

int main(int argc, char **argv)
{
	const struct usage usage = {
		.purpose = "Add libgmem to a VMM that has its own VM, slots and vCPU.",
		.lacks = "no usable KVM",
		.extra = "--plain",
		.extra_help = "the VMM as it was, without libgmem",
	};
	struct options options = {0};
	struct vmm vmm = {.kvm_fd = -1, .vm_fd = -1, .cpu = CPU_NONE};
	int ret = parse_options(argc, argv, &usage, &options);

	if (ret >= 0)
		return ret;
	vmm.device = options.device;
	vmm.plain = options.extra;
	ret = run_machine(&vmm);
	close_machine(&vmm);
	return ret;
}
