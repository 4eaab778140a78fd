/* SPDX-License-Identifier: MIT */
/*
 * Private and shared memory: a guest that decides page by page what its host may see. The VM is a
 * KVM_X86_SW_PROTECTED_VM, which needs no special processor and protects from nothing: it is for
 * trying what SNP and TDX guests do. What a VMM can copy from here:
 *
 *   make_half_slot()   a slot of two halves: a guest_memfd, and ordinary memory for what is shared
 *   run_guest()        the vCPU loop: each exit decoded, and resolved where it is about memory
 *   notifier_opts      what must know of conversions, such as an IOMMU, is told before and after
 *   plug()             a touch of memory that is not there, and the VMM that brings it
 *
 * The guest (convert.h) asks by hypercall. SNP and TDX guests can also just touch a page in another
 * way than before, which exits as a memory fault: the loop here serves that too, since it is
 * decoded to the same kinds. A software-protected guest cannot do so, for KVM takes its touch to be
 * of the kind that the page has. Its memory faults are of private memory that is missing.
 */
#include "convert.h"
#include "cpu.h"
#include "example.h"
#include "picture.h"

#include <cpuid.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

extern const unsigned char convert_guest_begin[];
extern const unsigned char convert_guest_end[];

#define SW_PROTECTED_VM 1	 /* KVM_X86_SW_PROTECTED_VM */
#define ENCRYPTED	(1 << 4) /* KVM_MAP_GPA_RANGE_ENCRYPTED: to private */

#define RAM_SIZE  (8 * MIB)
#define LIST_GPA  FREE_GPA
#define AREA_GPA  (2 * MIB) /* what the guest works in, and makes private in part */
#define LATE_GPA  (16 * MIB)
#define LATE_SIZE MIB
#define HOLE_GPA  (64 * MIB) /* no memory is here */

/* A slot of two halves. */
struct half_slot {
	uint64_t gpa;
	uint64_t size;
	void *shared;		    /* where shared: ordinary memory */
	struct gmem_memfd *private; /* where private: nobody but the guest can reach it */
	struct gmem_slot *slot;	    /* NULL: unplugged */
};

struct machine {
	uint64_t page;
	struct gmem_vm *vm;
	struct half_slot ram;
	struct half_slot late;
	struct gmem_notifier *notifier;
	struct cpu cpu;
	struct gmem_vcpu *vcpu;
	size_t step;
};

/* ---- Conversions -------------------------------------------------------------------------- */

static const char *name_of(enum gmem_visibility visibility)
{
	return visibility == GMEM_VISIBILITY_PRIVATE ? "private" : "shared";
}

/* Here a VMM with devices unmaps from the IOMMU what becomes private; an error would stop it. */
static int on_prepare(void *data, const struct gmem_conversion *conversion)
{
	(void)data;
	printf("            notifier: 0x%" PRIx64 ", %" PRIu64 " KiB, to be %s", conversion->gpa,
	       conversion->size / 1024, name_of(conversion->to));
	return 0;
}

/* And here it maps what has become shared. */
static void on_commit(void *data, const struct gmem_conversion *conversion)
{
	(void)data;
	(void)conversion;
	printf(" ... done\n");
}

static void on_abort(void *data, const struct gmem_conversion *conversion)
{
	(void)data;
	(void)conversion;
	printf(" ... given up\n");
}

static const struct gmem_notifier_opts notifier_opts = {
	.sz = sizeof(notifier_opts),
	.prepare = on_prepare,
	.commit = on_commit,
	.abort = on_abort,
};

/* A row for the guest's memory: private pages, and of the shared those that exist. */
static int show_picture(const struct machine *m, const char *when)
{
	const size_t count = m->ram.size / m->page;
	unsigned char *pages = calloc(count, 1);
	int ret = EXIT_RIGHT;

	if (!pages)
		return fail_errno("picture");
	if (mincore(m->ram.shared, m->ram.size, pages) < 0)
		ret = fail_errno("mincore");
	for (size_t i = 0; !ret && i < count; i++) {
		enum gmem_visibility visibility;

		if (gmem_vm_get_visibility(m->vm, m->ram.gpa + i * m->page, &visibility, NULL) < 0)
			ret = fail_gmem("what is private");
		else if (visibility == GMEM_VISIBILITY_PRIVATE)
			pages[i] = PAGE_PRIVATE;
		else
			pages[i] = pages[i] & 1 ? PAGE_OPEN : PAGE_UNTOUCHED;
	}
	if (!ret) {
		printf("\n%s: ", when);
		picture_print(stdout, pages, count, m->page);
		putchar('\n');
	}
	free(pages);
	return ret;
}

/* ---- What the guest does, and what the host finds then ------------------------------------ */

/* What must come of a step: of what the guest does, and of a read of that memory by the host. */
enum outcome {
	HOST_READS,
	HOST_REFUSED,
	GUEST_REFUSED,
};

struct step {
	const char *name;
	struct convert_entry entry;
	enum outcome outcome;
};

/* The area is 1024 pages; from page 256 on 512 of them become private, and 16 shared again. */
#define PAGE	    UINT64_C(4096) /* this is x86 */
#define PRIVATE_GPA (AREA_GPA + 256 * PAGE)
#define WINDOW_GPA  (AREA_GPA + 512 * PAGE)

static const struct step steps[] = {
	{"the guest writes into shared memory", {CONVERT_WRITE, AREA_GPA, 1024, 1000}, HOST_READS},
	{"the guest asks: 2 MiB private", {CONVERT_ASK, PRIVATE_GPA, 512, ENCRYPTED}, HOST_REFUSED},
	{"the guest writes a secret", {CONVERT_WRITE, PRIVATE_GPA, 512, 5000}, HOST_REFUSED},
	{"the secret is there", {CONVERT_CHECK, PRIVATE_GPA, 512, 5000}, HOST_REFUSED},
	{"the guest asks: 64 KiB of it shared", {CONVERT_ASK, WINDOW_GPA, 16, 0}, HOST_READS},
	{"the guest writes for the host", {CONVERT_WRITE, WINDOW_GPA, 16, 9000}, HOST_READS},
	{"the secret before it is still there",
	 {CONVERT_CHECK, PRIVATE_GPA, 256, 5000},
	 HOST_REFUSED},
	{"the guest asks for memory that is not there",
	 {CONVERT_ASK, HOLE_GPA, 1, ENCRYPTED},
	 GUEST_REFUSED},
	{"the guest asks for an absurd range",
	 {CONVERT_ASK, PRIVATE_GPA, UINT64_C(1) << 40, ENCRYPTED},
	 GUEST_REFUSED},
	{"the guest touches unplugged private memory",
	 {CONVERT_WRITE, LATE_GPA, LATE_SIZE / PAGE, 1},
	 HOST_REFUSED},
	{"", {CONVERT_END, 0, 0, 0}, HOST_READS},
};

#define STEPS (sizeof(steps) / sizeof(steps[0]) - 1)

/* Private memory is refused with an error that the VMM can handle: there is no signal. */
static int look(struct machine *m, const struct step *step)
{
	uint64_t word = 0;
	int ret = gmem_vm_read(m->vm, 0, step->entry.gpa, &word, sizeof(word));

	if (ret == 0)
		printf("            the host reads %" PRIu64 "\n", word);
	else
		printf("            the host is refused: %s\n", gmem_error_get_message());
	if (step->outcome == HOST_REFUSED) {
		if (ret < 0 && gmem_error_get_reason() == GMEM_REASON_MEMFD_PRIVATE)
			return EXIT_RIGHT;
		return fail("private memory was not refused as such");
	}
	if (ret < 0 || (step->entry.what == CONVERT_WRITE && word != step->entry.value))
		return fail("the host does not see what the guest shares");
	return EXIT_RIGHT;
}

/* The guest has done a step. */
static int hear(struct machine *m, uint32_t port, uint32_t value)
{
	const struct step *step = &steps[m->step];

	if (port != CONVERT_PORT_RESULT || m->step >= STEPS)
		return fail("the guest wrote to unknown port 0x%" PRIx32, port);
	if ((value != 0) != (step->outcome == GUEST_REFUSED))
		return fail("the guest got %" PRId32, (int32_t)value);
	if (value) /* gmem_vcpu_resolve() has answered so, and left the reason in this thread */
		printf("            the guest is refused: %s\n", gmem_error_get_message());
	else if (look(m, step))
		return EXIT_WRONG;
	m->step++;
	if (m->step < STEPS)
		printf("  %s\n", steps[m->step].name);
	return EXIT_RIGHT;
}

/* ---- The machine -------------------------------------------------------------------------- */

/* Bind both halves, for the first time or again. */
static int plug(struct machine *m, struct half_slot *half)
{
	struct gmem_slot_opts opts = {
		.sz = sizeof(opts),
		.gpa = half->gpa,
		.size = half->size,
		.memfd = half->private,
		.host = half->shared,
	};

	if (gmem_slot_create(m->vm, &opts, &half->slot) < 0)
		return fail_gmem("no slot");
	return EXIT_RIGHT;
}

static int make_half_slot(struct machine *m, struct half_slot *half, uint64_t gpa, uint64_t size)
{
	/* Without flags the file can be mapped by nobody: it is for private memory alone. */
	struct gmem_memfd_opts opts = {.sz = sizeof(opts), .size = size};
	void *shared = mmap(NULL, size, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	half->gpa = gpa;
	half->size = size;
	if (shared == MAP_FAILED)
		return fail_errno("no memory");
	half->shared = shared;
	if (gmem_memfd_create(m->vm, &opts, &half->private) < 0)
		return fail_machine("no guest_memfd");
	return plug(m, half);
}

static void close_half_slot(struct half_slot *half)
{
	gmem_slot_close(half->slot);
	gmem_memfd_close(half->private);
	if (half->shared)
		munmap(half->shared, half->size);
}

static int make_vm(struct machine *m, const char *device)
{
	struct gmem_vm_opts opts = {.sz = sizeof(opts), .device = device, .type = SW_PROTECTED_VM};

	if (gmem_vm_open(&opts, &m->vm) < 0)
		return fail_machine("no VM with private memory");
	if (gmem_vm_enable_map_gpa_range(m->vm) < 0)
		return fail_machine("no hypercall for conversions");
	if (gmem_vm_add_notifier(m->vm, &notifier_opts, &m->notifier) < 0)
		return fail_gmem("no notifier");
	return EXIT_RIGHT;
}

/* Memory that the host makes private, and then unplugs: what a page is outlives its slot. */
static int make_late(struct machine *m)
{
	int ret = make_half_slot(m, &m->late, LATE_GPA, LATE_SIZE);

	if (ret)
		return ret;
	printf("  the host makes 1 MiB private, and unplugs it\n");
	if (gmem_vm_convert(m->vm, LATE_GPA, LATE_SIZE, GMEM_VISIBILITY_PRIVATE,
			    GMEM_CONVERT_DISCARD, NULL) < 0)
		return fail_gmem("cannot convert");
	gmem_slot_close(m->late.slot);
	m->late.slot = NULL;
	return EXIT_RIGHT;
}

static int write_guest(struct machine *m)
{
	struct convert_entry list[STEPS + 1];
	int ret = load_guest(m->vm, convert_guest_begin, convert_guest_end);

	if (ret)
		return ret;
	for (size_t i = 0; i < STEPS + 1; i++)
		list[i] = steps[i].entry;
	if (gmem_vm_write(m->vm, 0, LIST_GPA, list, sizeof(list)) < 0)
		return fail_gmem("cannot write to the guest");
	return EXIT_RIGHT;
}

/* Processors of AMD and of Hygon have `vmmcall` where others have `vmcall`. */
static bool has_vmmcall(void)
{
	unsigned int eax, ebx = 0, ecx, edx;

	__get_cpuid(0, &eax, &ebx, &ecx, &edx);
	return ebx == signature_AMD_ebx || ebx == 0x6f677948 /* "Hygo" */;
}

/*
 * The guest here asks without looking. For one that looks, the VMM sets bit 16 of EAX of CPUID leaf
 * 0x40000001 when it makes the vCPU.
 */
static int make_vcpu(struct machine *m, const char *device)
{
	const uint64_t arguments[CPU_ARGUMENTS] = {LIST_GPA, m->page, has_vmmcall()};
	int ret = cpu_open(&m->cpu, device, gmem_vm_get_fd(m->vm), arguments);

	if (ret)
		return ret;
	if (gmem_vcpu_open(m->vm, m->cpu.fd, m->cpu.run, &m->vcpu) < 0)
		return fail_gmem("no handle for the vCPU");
	return EXIT_RIGHT;
}

static void close_machine(struct machine *m)
{
	gmem_vcpu_close(m->vcpu);
	cpu_close(&m->cpu);
	gmem_notifier_close(m->notifier);
	close_half_slot(&m->late);
	close_half_slot(&m->ram);
	gmem_vm_close(m->vm);
}

/* ---- The run ------------------------------------------------------------------------------ */

/*
 * An exit about memory. What the library cannot do is bring memory that is not there: the VMM knows
 * of it. All else is for gmem_vcpu_resolve(): conversions, answers to the guest, spurious exits.
 */
static int handle_memory(struct machine *m, const struct gmem_exit *exit)
{
	bool late = exit->flags & GMEM_EXIT_ADDRESS && !(exit->flags & GMEM_EXIT_HYPERCALL) &&
		    exit->gpa - LATE_GPA < LATE_SIZE;

	if (late && !m->late.slot) {
		printf("            memory fault at 0x%" PRIx64 ": the host plugs it in again\n",
		       exit->gpa);
		return plug(m, &m->late);
	}
	if (gmem_vcpu_resolve(m->vcpu, exit, NULL) < 0)
		return fail_gmem("the guest's memory");
	return EXIT_RIGHT;
}

static int handle_other(struct machine *m, int rc, int error, bool *halted)
{
	uint32_t port, value;

	if (rc < 0)
		return fail("KVM_RUN: %s", strerror(error));
	switch (cpu_decode(m->cpu.run, &port, &value)) {
	case CPU_SAYS:
		return hear(m, port, value);
	case CPU_HALTS:
		*halted = true;
		return m->step == STEPS ? EXIT_RIGHT : fail("the guest has halted early");
	default:
		return cpu_complain(m->cpu.run);
	}
}

static int run_guest(struct machine *m)
{
	bool halted = false;
	int ret = EXIT_RIGHT;

	printf("  %s\n", steps[0].name);
	while (!ret && !halted) {
		struct gmem_exit exit = {.sz = sizeof(exit)};
		int rc = ioctl(m->cpu.fd, KVM_RUN, 0);
		int error = rc < 0 ? errno : 0;

		if (gmem_vcpu_decode(m->vcpu, rc, error, &exit) < 0)
			ret = fail_gmem("cannot decode an exit");
		else if (exit.kind == GMEM_EXIT_OTHER)
			ret = handle_other(m, rc, error, &halted);
		else
			ret = handle_memory(m, &exit);
	}
	return ret;
}

static void show_kib(const char *name, uint64_t bytes)
{
	if (bytes == GMEM_UNKNOWN)
		printf("  %-26s %8s\n", name, "unknown");
	else
		printf("  %-26s %8" PRIu64 " KiB\n", name, bytes / 1024);
}

static int show_numbers(struct machine *m)
{
	struct gmem_slot_memory memory = {.sz = sizeof(memory)};
	struct gmem_stats stats = {.sz = sizeof(stats)};

	if (gmem_slot_get_memory(m->ram.slot, &memory) < 0 || gmem_vm_get_stats(m->vm, &stats) < 0)
		return fail_gmem("no numbers");
	putchar('\n');
	show_kib("private", memory.private_bytes);
	show_kib("shared", memory.shared_bytes);
	show_kib("shared, and held now", memory.shared_resident);
	show_kib("held twice, at the most", memory.twice_bytes);
	printf("\n  %" PRIu64 " conversions in %" PRIu64 " system calls and %.2f ms; %" PRIu64
	       " hypercalls, %" PRIu64 " of them refused\n",
	       stats.conversions, stats.attribute_calls, (double)stats.attribute_ns / 1e6,
	       stats.hypercalls, stats.hypercalls_refused);
	if (memory.twice_bytes)
		return fail("memory is held twice");
	return EXIT_RIGHT;
}

static int run_machine(struct machine *m, const char *device)
{
	int ret = make_vm(m, device);

	if (ret)
		return ret;
	printf("a guest with %.0f MiB, private or shared as it asks\n\n", to_mib(RAM_SIZE));
	ret = make_half_slot(m, &m->ram, 0, RAM_SIZE);
	if (!ret)
		ret = make_late(m);
	if (!ret)
		ret = write_guest(m);
	if (!ret)
		ret = make_vcpu(m, device);
	if (!ret)
		ret = show_picture(m, "before");
	if (!ret)
		ret = run_guest(m);
	if (!ret)
		ret = show_picture(m, "after");
	if (!ret)
		ret = show_numbers(m);
	if (!ret)
		printf("\nall right: the host has seen what the guest shares, and nothing else\n");
	return ret;
}

int main(int argc, char **argv)
{
	const struct usage usage = {
		.purpose = "Convert a guest's memory between private and shared, as it asks.",
		.lacks = "no usable KVM, or none\nwith software-protected VMs",
	};
	struct options options = {0};
	struct machine m = {.page = PAGE, .cpu = CPU_NONE};
	int ret = parse_options(argc, argv, &usage, &options);

	if (ret >= 0)
		return ret;
	ret = run_machine(&m, options.device);
	close_machine(&m);
	return ret;
}
