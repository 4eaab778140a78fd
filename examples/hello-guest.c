/* SPDX-License-Identifier: MIT */
/*
 * A whole VM: a 64-bit guest whose only RAM is one guest_memfd. Read main() first, then upwards.
 * What a VMM can copy from here:
 *
 *   make_memory()  VM, guest_memfd, mapping, slot
 *   write_guest()  page tables and code, written by guest address
 *   make_vcpu()    a vCPU; more of it is in cpu.c, cpu-x86.c and cpu-arm64.c
 *   run_guest()    each exit of KVM_RUN, and what it means
 *   discard()      memory taken back while the guest lives
 */
#include "cpu.h"
#include "example.h"
#include "hello-guest.h"
#include "picture.h"

#include <gmem.h>

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define MIN_MIB	    4
#define MAX_MIB	    1024 /* what the page tables map */
#define DEFAULT_MIB 64

/* The guest's code, see hello-guest-x86.S or hello-guest-arm64.S. */
extern const unsigned char hello_guest_begin[];
extern const unsigned char hello_guest_end[];

/* Below this guest address only tables and code are used. */
#define TEST_GPA (2 * MIB)

/* From page to page the value grows by this odd number, so that no two pages hold the same. */
#define VALUE_STEP UINT64_C(0x9e3779b97f4a7c15)

struct hello_options {
	const char *device;
	uint64_t seed;
	uint64_t ram; /* bytes */
	bool corrupt;
};

struct machine {
	const struct hello_options *options;
	struct gmem_vm *vm;
	struct gmem_memfd *memfd;
	struct gmem_map *map;
	struct gmem_slot *slot;
	struct cpu cpu;
	uint64_t page; /* bytes */

	/* Guest addresses: what the guest fills, and within it what the host discards. */
	uint64_t test_size;
	uint64_t discard_gpa;
	uint64_t discard_size;
	unsigned char *written; /* for each page: the host has written it */

	/* What the guest has said. */
	unsigned int step;
	uint64_t sum;
	uint64_t wrong_gpa;
	uint64_t found;
	bool wrong;

	double step_seconds;
	double guest_seconds;
};

/* Also of the step after the last, in which a guest may still say something. */
static const char *const step_names[] = {"fill", "verify", "sum", "zeros", "end"};
static const char *const step_meanings[GUEST_STEP_COUNT] = {
	"the guest writes a value of its own into each page",
	"the guest compares every word",
	"the guest sums one word of every page",
	"the guest finds zeros in half of it",
};

/* ---- Messages ----------------------------------------------------------------------------- */

/* How far the guest is, on a terminal only. */
static void show_progress(const struct machine *m, uint64_t pages)
{
	static const char full[] = "################################";
	static const char empty[] = "................................";
	const uint64_t width = sizeof(full) - 1;
	uint64_t all = m->step == GUEST_STEP_ZEROS ? m->discard_size / 2 : m->test_size;
	uint64_t done = pages * m->page;

	if (!picture_terminal(stdout) || done > all)
		return;
	printf("\r  %-8s[%s%s] %.1f of %.1f MiB \033[K", step_names[m->step],
	       full + (width - width * done / all), empty + width * done / all, to_mib(done),
	       to_mib(all));
	fflush(stdout);
}

/* A line that stays, in place of the progress. Without bytes or a time (-1): blanks. */
static void show_step(const char *name, uint64_t bytes, double seconds, const char *meaning)
{
	printf("%s  %-8s", picture_terminal(stdout) ? "\r\033[K" : "", name);
	if (bytes)
		printf(" %8.2f MiB", to_mib(bytes));
	else
		printf("%13s", "");
	if (seconds >= 0)
		printf("%7.2f s", seconds);
	else
		printf("%9s", "");
	printf("   %s\n", meaning);
	fflush(stdout);
}

/* ---- What the memory must hold ------------------------------------------------------------ */

static uint64_t expected_value(const struct machine *m, uint64_t gpa)
{
	return m->options->seed + gpa / m->page * VALUE_STEP;
}

/* The host's view of guest memory. The slot maps guest address 0 to byte 0 of the file. */
static uint64_t *host_word(const struct machine *m, uint64_t gpa)
{
	return (uint64_t *)((unsigned char *)gmem_map_get_addr(m->map) + gpa);
}

/* What the guest computes in its sum step, but read through the host's mapping. */
static uint64_t host_sum(const struct machine *m)
{
	uint64_t sum = 0;

	for (uint64_t at = 0; at < m->test_size; at += m->page)
		sum = (sum << 1 | sum >> 63) + *host_word(m, TEST_GPA + at);
	return sum;
}

static void complain(const struct machine *m, uint64_t gpa, uint64_t expected, uint64_t found,
		     const char *who)
{
	uint64_t page = gpa - gpa % m->page;

	print_failure("wrong memory, found by the %s: page %" PRIu64 " (gpa 0x%" PRIx64
		      "), byte %" PRIu64 ":\n"
		      "  expected 0x%016" PRIx64 "\n"
		      "  found    0x%016" PRIx64 "\n"
		      "  differs  0x%016" PRIx64,
		      who, page / m->page, page, gpa - page, expected, found, expected ^ found);
}

static int compare_sums(const struct machine *m)
{
	uint64_t sum = host_sum(m);

	if (sum == m->sum) {
		printf("  %-8s    0x%016" PRIx64 "   guest and host agree\n", "checksum", sum);
		return EXIT_RIGHT;
	}
	print_failure("wrong memory: the guest's checksum is 0x%016" PRIx64
		      ", the host's 0x%016" PRIx64,
		      m->sum, sum);
	for (uint64_t gpa = TEST_GPA; gpa < TEST_GPA + m->test_size; gpa += m->page) {
		if (*host_word(m, gpa) != expected_value(m, gpa)) {
			complain(m, gpa, expected_value(m, gpa), *host_word(m, gpa), "host");
			break;
		}
	}
	return EXIT_WRONG;
}

/* Flip one bit, in a page and at a place that the seed picks. */
static void corrupt(struct machine *m)
{
	uint64_t pages = m->test_size / m->page;
	uint64_t pick = (m->options->seed + 1) * VALUE_STEP >> 16;
	uint64_t gpa;

	assert(pages > 0); /* the least memory is more than any page */
	gpa = TEST_GPA + pick % pages * m->page + pick % (m->page / 8) * 8;
	*host_word(m, gpa) ^= UINT64_C(1) << (pick >> 40 & 63);
	m->written[gpa / m->page] = 1;
	show_step("corrupt", 0, -1, "the host flips one bit, as --corrupt asks");
}

/* ---- The machine -------------------------------------------------------------------------- */

/* VM, memory, the host's view of it, and its place in the guest. */
static int make_memory(struct machine *m)
{
	struct gmem_vm_opts vm_opts = {.sz = sizeof(vm_opts), .device = m->options->device};
	struct gmem_memfd_opts memfd_opts = {
		.sz = sizeof(memfd_opts),
		.size = m->options->ram,
		.flags = GMEM_MEMFD_MMAP | GMEM_MEMFD_INIT_SHARED,
	};
	struct gmem_slot_opts slot_opts = {
		.sz = sizeof(slot_opts),
		.gpa = 0,
		.size = m->options->ram,
	};

	if (gmem_vm_open(&vm_opts, &m->vm) < 0)
		return fail_machine("no VM");
	if (gmem_memfd_create(m->vm, &memfd_opts, &m->memfd) < 0)
		return fail_machine("no guest_memfd");
	if (gmem_map_create(m->memfd, NULL, &m->map) < 0)
		return fail_gmem("no mapping");
	slot_opts.memfd = m->memfd;
	slot_opts.map = m->map;
	if (gmem_slot_create(m->vm, &slot_opts, &m->slot) < 0)
		return fail_gmem("no slot");
	return EXIT_RIGHT;
}

/* Write to the guest's memory, and remember it for the picture. */
static int write_guest_bytes(struct machine *m, uint64_t gpa, const void *bytes, size_t len)
{
	if (gmem_vm_write(m->vm, 0, gpa, bytes, len) < 0)
		return fail_gmem("cannot write to the guest");
	for (uint64_t p = gpa / m->page; p <= (gpa + len - 1) / m->page; p++)
		m->written[p] = 1;
	return EXIT_RIGHT;
}

static int write_guest(struct machine *m)
{
	size_t tables_size;
	const void *tables = cpu_make_tables(&tables_size);
	/* cppcheck-suppress comparePointers; two symbols of one section */
	size_t code_size = (size_t)(hello_guest_end - hello_guest_begin);
	int ret = write_guest_bytes(m, TABLES_GPA, tables, tables_size);

	if (!ret)
		ret = write_guest_bytes(m, CODE_GPA, hello_guest_begin, code_size);
	return ret;
}

static int make_vcpu(struct machine *m)
{
	const uint64_t arguments[CPU_ARGUMENTS] = {
		TEST_GPA,
		m->test_size / m->page,
		expected_value(m, TEST_GPA),
		VALUE_STEP,
		m->discard_gpa,
		m->discard_size / 2 / m->page,
		m->page / sizeof(uint64_t),
	};

	/* The library has opened the device too, but keeps its descriptor to itself. */
	return cpu_open(&m->cpu, m->options->device, gmem_vm_get_fd(m->vm), arguments);
}

/* The reverse of the order in which things were made. The library would accept any order. */
static void close_machine(struct machine *m)
{
	cpu_close(&m->cpu);
	gmem_slot_close(m->slot);
	gmem_map_close(m->map);
	gmem_memfd_close(m->memfd);
	gmem_vm_close(m->vm);
	free(m->written);
}

/* ---- The run ------------------------------------------------------------------------------ */

/* Which pages of a range of guest memory exist: mincore(2) tells, whoever has touched them. */
static int find_resident(const struct machine *m, uint64_t gpa, uint64_t size, unsigned char *vec)
{
	if (mincore(host_word(m, gpa), size, vec) < 0)
		return fail_errno("mincore");
	for (uint64_t i = 0; i < size / m->page; i++)
		vec[i] &= 1;
	return EXIT_RIGHT;
}

/* Take memory back from the guest, and prove that it is gone. */
static int discard(const struct machine *m)
{
	size_t pages = m->discard_size / m->page;
	unsigned char *vec;
	int ret;

	if (gmem_vm_discard(m->vm, m->discard_gpa, m->discard_size) < 0)
		return fail_gmem("cannot discard");
	vec = calloc(pages, 1);
	if (!vec)
		return fail_errno("mincore");
	ret = find_resident(m, m->discard_gpa, m->discard_size, vec);
	if (!ret && memchr(vec, 1, pages)) {
		ret = fail("a discarded page is still there");
	}
	free(vec);
	if (!ret)
		show_step("discard", m->discard_size, -1,
			  "the host takes memory back: no page is left");
	return ret;
}

/* A step of the guest has ended well: say so, and do the host's part before the next one. */
static int end_step(struct machine *m, uint32_t step)
{
	if (step != m->step || step >= GUEST_STEP_COUNT)
		return fail("the guest ended step %" PRIu32 " in step %u", step, m->step);
	show_step(step_names[step], step == GUEST_STEP_ZEROS ? m->discard_size / 2 : m->test_size,
		  m->step_seconds, step_meanings[step]);
	m->step_seconds = 0;
	m->step++;
	if (step == GUEST_STEP_FILL && m->options->corrupt)
		corrupt(m);
	if (step == GUEST_STEP_SUM) {
		int ret = compare_sums(m);

		return ret ? ret : discard(m);
	}
	return EXIT_RIGHT;
}

static int hear(struct machine *m, uint32_t port, uint32_t value)
{
	switch (port) {
	case GUEST_PORT_PROGRESS:
		show_progress(m, value);
		return EXIT_RIGHT;
	case GUEST_PORT_STEP_DONE:
		return end_step(m, value);
	case GUEST_PORT_SUM_LOW:
		m->sum = value;
		return EXIT_RIGHT;
	case GUEST_PORT_SUM_HIGH:
		m->sum |= (uint64_t)value << 32;
		return EXIT_RIGHT;
	case GUEST_PORT_WRONG:
		m->wrong = true;
		m->wrong_gpa = value;
		return EXIT_RIGHT;
	case GUEST_PORT_FOUND_LOW:
		m->found = value;
		return EXIT_RIGHT;
	case GUEST_PORT_FOUND_HIGH:
		m->found |= (uint64_t)value << 32;
		return EXIT_RIGHT;
	default:
		return fail("the guest wrote to unknown port 0x%" PRIx32, port);
	}
}

/* The guest has halted: it has found something wrong, or it is done. */
static int judge(const struct machine *m)
{
	if (m->wrong) {
		bool zeros = m->step == GUEST_STEP_ZEROS;

		show_step(step_names[m->step], m->wrong_gpa - (zeros ? m->discard_gpa : TEST_GPA),
			  m->step_seconds, "the guest has found a wrong word and stopped");
		complain(m, m->wrong_gpa, zeros ? 0 : expected_value(m, m->wrong_gpa), m->found,
			 "guest");
		return EXIT_WRONG;
	}
	if (m->step != GUEST_STEP_COUNT)
		return fail("the guest stopped in step %u", m->step);
	return EXIT_RIGHT;
}

static int run_guest(struct machine *m)
{
	uint32_t port, value;
	int ret = EXIT_RIGHT;

	while (!ret) {
		double start = now();
		int rc = ioctl(m->cpu.fd, KVM_RUN, 0);
		int err = errno;

		m->step_seconds += now() - start;
		m->guest_seconds += now() - start;
		if (rc < 0 && err == EINTR)
			continue; /* a signal: the guest has not noticed */
		if (rc < 0)
			return fail("KVM_RUN: %s, exit reason %u", strerror(err),
				    m->cpu.run->exit_reason);
		switch (cpu_decode(m->cpu.run, &port, &value)) {
		case CPU_SAYS:
			ret = hear(m, port, value);
			break;
		case CPU_HALTS:
			return judge(m);
		case CPU_ODD:
			return cpu_complain(m->cpu.run);
		}
	}
	return ret;
}

/* What mincore knows, and what only we know: who wrote a page, and what was discarded. */
static int show_picture(const struct machine *m)
{
	size_t count = m->options->ram / m->page;
	unsigned char *pages = calloc(count, 1);
	int ret;

	if (!pages)
		return fail_errno("picture");
	ret = find_resident(m, 0, m->options->ram, pages);
	for (size_t i = 0; !ret && i < count; i++) {
		uint64_t gpa = i * m->page;
		bool discarded = m->step > GUEST_STEP_SUM && gpa >= m->discard_gpa &&
				 gpa - m->discard_gpa < m->discard_size;

		if (pages[i])
			pages[i] = m->written[i] ? PAGE_SHARED : PAGE_TOUCHED;
		else
			pages[i] = discarded ? PAGE_DISCARDED : PAGE_UNTOUCHED;
	}
	if (!ret) {
		fputc('\n', stdout);
		picture_print(stdout, pages, count, m->page);
	}
	free(pages);
	return ret;
}

static int run_machine(struct machine *m)
{
	int ret = make_memory(m);
	int shown;

	if (!ret)
		ret = write_guest(m);
	if (!ret)
		ret = make_vcpu(m);
	if (ret)
		return ret;
	printf("a guest with %" PRIu64 " MiB of guest_memfd as its only RAM, seed %" PRIu64 "\n\n",
	       m->options->ram / MIB, m->options->seed);
	ret = run_guest(m);
	shown = show_picture(m);
	printf("\n%s, after %.1f s in the guest\n", ret || shown ? "not right" : "all right",
	       m->guest_seconds);
	return ret ? ret : shown;
}

/* ---- The command line --------------------------------------------------------------------- */

static void print_help(void)
{
	printf("usage: hello-guest [options]\n"
	       "\n"
	       "Run a guest whose only RAM is guest_memfd, and check every word of it.\n"
	       "\n"
	       "  --seed N       other contents and another checksum (default 1)\n"
	       "  --size MIB     RAM of the guest, %d to %d MiB (default %d)\n"
	       "  --corrupt      flip one bit behind the guest's back: it must be found\n"
	       "  --device PATH  the KVM device (default %s)\n"
	       "  --help         this text\n"
	       "\n"
	       "Exit status: 0 all right, 1 wrong memory or a failure, 2 wrong usage,\n"
	       "77 no usable KVM or guest_memfd.\n",
	       MIN_MIB, MAX_MIB, DEFAULT_MIB, DEFAULT_DEVICE);
}

/* -1: go on; else the exit status. */
static int parse_hello_options(int argc, char **argv, struct hello_options *options)
{
	static const struct option longs[] = {
		{"seed", required_argument, NULL, 's'}, {"size", required_argument, NULL, 'm'},
		{"corrupt", no_argument, NULL, 'c'},	{"device", required_argument, NULL, 'd'},
		{"help", no_argument, NULL, 'h'},	{NULL, 0, NULL, 0},
	};
	bool good = true;
	int c;

	while (good && (c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (c) {
		case 's':
			good = parse_number(optarg, 0, UINT64_MAX, &options->seed);
			break;
		case 'm':
			good = parse_number(optarg, MIN_MIB, MAX_MIB, &options->ram);
			options->ram *= MIB;
			break;
		case 'c':
			options->corrupt = true;
			break;
		case 'd':
			options->device = optarg;
			break;
		case 'h':
			print_help();
			return EXIT_RIGHT;
		default:
			return EXIT_USAGE;
		}
		if (!good)
			print_failure("not a possible value: %s", optarg);
	}
	if (good && optind != argc)
		print_failure("unknown argument: %s", argv[optind]);
	return good && optind == argc ? -1 : EXIT_USAGE;
}

int main(int argc, char **argv)
{
	struct hello_options options = {
		.device = DEFAULT_DEVICE,
		.seed = 1,
		.ram = DEFAULT_MIB * MIB,
	};
	struct machine m = {
		.options = &options,
		.cpu = CPU_NONE,
		.page = page_size(),
	};
	int ret = parse_hello_options(argc, argv, &options);

	if (ret >= 0)
		return ret;
	/* All is tested but the lowest 2 MiB, which hold tables and code, and the top sixteenth. */
	m.test_size = options.ram - options.ram / 16 - TEST_GPA;
	m.discard_size = options.ram / 16;
	m.discard_gpa = TEST_GPA + m.test_size / 2;
	m.discard_gpa -= m.discard_gpa % m.discard_size;
	m.written = calloc(options.ram / m.page, 1);
	ret = m.written ? run_machine(&m) : fail_errno("out of memory");
	close_machine(&m);
	return ret;
}
