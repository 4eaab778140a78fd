/* SPDX-License-Identifier: MIT */
/*
 * Reads and writes by guest address, against a copy from or to an address that is known already:
 * the difference is what the library's search and care cost. The memory is of a slot that can never
 * become private; and of one in a VM where all access is the fault-proof one, for comparison.
 */
#include "bench.h"
#include "vm.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define MEMORY (64 * BENCH_KIB) /* near the processor: memory is not what is measured */
#define STEP   UINT64_C(64)
#define GPA    (64 * BENCH_MIB)

/* Places that are copied, each a line of MEMORY, in an order of no pattern. */
#define PLACES 1024U

static uint64_t places[PLACES];
static unsigned char buffer[STEP];

struct access {
	struct gmem_vm *vm;
	unsigned char *host;
	struct gmem_slot *slot;
	size_t len; /* not known to the compiler, as it is not in a device of a VMM */
};

static void choose_places(void)
{
	uint64_t number = 1;

	for (unsigned int i = 0; i < PLACES; i++) {
		number = number * UINT64_C(6364136223846793005) + 1;
		places[i] = (number >> 32) % (MEMORY / STEP) * STEP;
	}
}

/* A loop for each way: `statement` has `access`, and `at` of MEMORY. */
#define DEFINE_RUN(name, statement)                                                                \
	static uint64_t run_##name(void *data, unsigned int times)                                 \
	{                                                                                          \
		const struct access *access = data;                                                \
		uint32_t word = 0;                                                                 \
		int r = 0;                                                                         \
		uint64_t begin = bench_now(), ns;                                                  \
                                                                                                   \
		for (unsigned int i = 0; i < times; i++) {                                         \
			uint64_t at = places[i % PLACES];                                          \
                                                                                                   \
			statement;                                                                 \
			__asm__ volatile("" : "+r"(word) : : "memory");                            \
		}                                                                                  \
		ns = bench_since(begin);                                                           \
		bench_check_gmem(r, #name);                                                        \
		return ns;                                                                         \
	}

#define WORD(at) ((uint32_t *)(void *)(access->host + (at)))

DEFINE_RUN(memcpy_from, memcpy(buffer, access->host + at, access->len))
DEFINE_RUN(memcpy_to, memcpy(access->host + at, buffer, access->len))
DEFINE_RUN(read, r |= gmem_vm_read(access->vm, 0, GPA + at, buffer, access->len))
DEFINE_RUN(write, r |= gmem_vm_write(access->vm, 0, GPA + at, buffer, access->len))
DEFINE_RUN(atomic_load, word += __atomic_load_n(WORD(at), __ATOMIC_ACQUIRE))
DEFINE_RUN(atomic_store, __atomic_store_n(WORD(at), word, __ATOMIC_RELEASE))
DEFINE_RUN(load, r |= gmem_vm_load_u32(access->vm, 0, GPA + at, &word))
DEFINE_RUN(store, r |= gmem_vm_store_u32(access->vm, 0, GPA + at, word))

static void open_access(struct access *access, uint64_t flags)
{
	struct gmem_slot_opts opts = {.sz = sizeof(opts), .gpa = GPA, .size = MEMORY};
	void *host = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	bench_check(host != MAP_FAILED, "mmap");
	memset(host, 1, MEMORY);
	access->vm = vm_open(0, flags);
	opts.host = access->host = host;
	bench_check_gmem(gmem_slot_create(access->vm, &opts, &access->slot), "a slot");
}

static void close_access(struct access *access)
{
	gmem_slot_close(access->slot);
	gmem_vm_close(access->vm);
	munmap(access->host, MEMORY);
}

static void compare_copies(struct access *plain, struct access *proof, size_t len)
{
	plain->len = proof->len = len;
	bench_compare(&(const struct bench_case){
		.group = "access",
		.name = "read",
		.against = "bytes",
		.at = len,
		.ways = {{"memcpy()", run_memcpy_from, plain},
			 {"libgmem", run_read, plain},
			 {"libgmem, fault-proof", run_read, proof}},
	});
	bench_compare(&(const struct bench_case){
		.group = "access",
		.name = "write",
		.against = "bytes",
		.at = len,
		.ways = {{"memcpy()", run_memcpy_to, plain},
			 {"libgmem", run_write, plain},
			 {"libgmem, fault-proof", run_write, proof}},
	});
}

static void compare_words(struct access *plain)
{
	bench_compare(&(const struct bench_case){
		.group = "access",
		.name = "load_u32, acquire",
		.ways = {{"an atomic access", run_atomic_load, plain},
			 {"libgmem", run_load, plain}},
	});
	bench_compare(&(const struct bench_case){
		.group = "access",
		.name = "store_u32, release",
		.ways = {{"an atomic access", run_atomic_store, plain},
			 {"libgmem", run_store, plain}},
	});
}

int main(int argc, char **argv)
{
	static const size_t lengths[] = {2, 4, 8, 16, 32, 64};
	struct access plain, proof;

	bench_begin(argc, argv, "access", "Measures reads and writes by guest address.");
	choose_places();
	open_access(&plain, 0);
	open_access(&proof, GMEM_VM_FAULT_PROOF);
	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++)
		compare_copies(&plain, &proof, lengths[i]);
	compare_words(&plain);
	close_access(&plain);
	close_access(&proof);
	return bench_end();
}
