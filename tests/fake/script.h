/* SPDX-License-Identifier: MIT */
/*
 * A kernel in memory, for tests: KVM as far as guest_memfd needs it, behind the library's table of
 * syscalls. It behaves as a configurable Linux does, writes down every call, and can be told what
 * must be called, what must fail, and with which errno.
 *
 * Each call has a text, such as
 *
 *   ioctl(vm1, SET_REGION2, slot=0x3 flags=0x4 gpa=0x1000 size=0x2000 addr=m1 gmem=gmem1 offset=0)
 *   mmap(0, 0x2000, RW, SHARED, gmem1, 0x1000)
 *   madvise(m1+0x1000, 0x1000, REMOVE)
 *
 * Descriptors and mappings are numbered by kind in the order in which they were made: kvm1, vm1,
 * gmem1, memfd1, uffd1; m1. Numbers are hexadecimal, but those of KVM_CAP_, modes and advice. Every
 * member of a struct is in the text or checked to be zero.
 *
 * The rules that no test may break are checked all the time: no descriptor is used after its
 * closing, and no memory is unmapped, nor guest_memfd closed, while a slot has it.
 */
#ifndef GMEM_TEST_SCRIPT_H
#define GMEM_TEST_SCRIPT_H

#include "sys.h"

#include "gmem.h"

#include <check.h>

#define SCRIPT_CAPS 256

enum script_kernel {
	SCRIPT_LINUX_6_12, /* guest_memfd for VM types with private memory only, no flags */
	SCRIPT_LINUX_6_18, /* both flags; a binding that wraps is accepted, NUMA policies are not */
	SCRIPT_LINUX_7_3,  /* the same, both mended */
	SCRIPT_PRIVATE,	   /* Linux 7.3 with a VM type that has private memory */
};

struct script_state;

/* All members but `sys` and `state` may be changed between any two calls. */
struct script {
	struct gmem_sys sys; /* first: what the library is given */

	size_t page_size;
	int api_version;
	uint64_t vm_types;     /* bit n: KVM_CREATE_VM takes type n */
	int caps[SCRIPT_CAPS]; /* by KVM_CAP_ number: the answer, or a negative errno */
	uint32_t nr_slots;     /* slot ids that KVM takes, whatever it announces */
	uint32_t nr_spaces;    /* likewise address spaces */
	unsigned int gpa_bits;
	int gpa_error; /* beyond that width: EINVAL (x86) or EFAULT (arm64) */
	unsigned int hva_bits;
	int rebind_error;    /* for a file range that is bound already: EINVAL or EEXIST */
	bool wraps_accepted; /* a binding that ends past 2^63 is accepted */
	bool numa_in_file; /* a policy belongs to the file; else to the mapping, so that it is lost
			    */
	uint64_t numa_nodes; /* of a policy that is read back, only these nodes are shown */
	size_t numa_words;   /* likewise only of the first 64 times this many */
	bool uffd_device;    /* there is a /dev/userfaultfd */
	uint64_t uffd_modes; /* modes that a guest_memfd mapping can be registered in */
	int cpus;

	struct script_state *state;
};

struct script *script_new(enum script_kernel kernel);

/* Check that all expected calls were made and that nothing is left, and free the script. */
void script_end(struct script *script);

/*
 * From now on, only these calls may be made, in this order: lines of text as above. A line that
 * ends in " = EINTR" is answered with this errno, one that ends in " = 3" with this number; all
 * others are carried out. "" allows no call at all.
 */
__attribute__((format(printf, 2, 3))) void script_expect(struct script *script, const char *format,
							 ...);

/* Check that all expected calls were made. Then any call is allowed again. */
void script_met(struct script *script);

/*
 * Let the n-th call from now on whose text contains `part` fail with `error`, or with 0 each such
 * call. "" means any call but those that take something back: close, munmap, deleting a slot. Up to
 * eight such orders stand side by side.
 */
void script_fail(struct script *script, unsigned int n, int error, const char *part);

/* Let such calls answer `value`, which may be negative, without being carried out. */
void script_answer(struct script *script, unsigned int n, int value, const char *part);

/* Withdraw all orders of the two calls above. Returns how many calls they have answered. */
unsigned int script_recover(struct script *script);

/* How many calls whose text contains `part` were made since the last script_forget(). */
unsigned int script_count(const struct script *script, const char *part);

/* The texts of all calls since then, a line each. Valid until the next call. */
const char *script_transcript(const struct script *script);

/* Forget the calls so far, and number what exists anew: of each kind, the oldest is 1. */
void script_forget(struct script *script);

/* What exists now. */
struct script_tally {
	unsigned int fds;
	unsigned int mappings;
	unsigned int inaccessible; /* of these, PROT_NONE */
	unsigned int slots;
};

struct script_tally script_tally(const struct script *script);

/* Mappings and slots that are expected to be left at the end: the kernel refused to undo them. */
void script_allow_left(struct script *script, unsigned int mappings, unsigned int slots);

/* Call the test's own memory by this name in the texts. */
void script_name(struct script *script, const void *addr, size_t size, const char *name);

/* Descriptors that the VMM made itself, for the test to close: a VM, a guest_memfd, other files. */
int script_make_vm(struct script *script);
int script_make_gmem(struct script *script, int vm_fd, uint64_t size, uint64_t flags);
int script_make_file(struct script *script, uint64_t size, uint64_t fs_magic, bool regular);
void script_close(struct script *script, int fd);

/* A slot of the VMM's own; 0 or a negative errno. A size of 0 deletes it. */
int script_set_slot(struct script *script, int vm_fd, uint32_t number, uint64_t gpa, uint64_t size,
		    const void *addr);

/* Say that a file is on another kind of file system. */
void script_set_magic(struct script *script, int fd, uint64_t fs_magic);

/* What fork() does to pages with MADV_WIPEONFORK; then back to the parent. */
void script_enter_child(struct script *script);
void script_leave_child(struct script *script);

/* ---- Tests of this library ---------------------------------------------------------------- */

/* A VM over the script, opened with default options (but `flags`); all calls so far forgotten. */
struct gmem_vm *script_vm(struct script *script, uint64_t flags);

/* A guest_memfd, asserted to succeed. */
struct gmem_memfd *script_memfd(struct gmem_vm *vm, uint64_t size, uint64_t flags);

/* Check that a call failed with this errno and this reason, and left a message. */
#define ck_fails(call, error, reason)                                                              \
	script_check_failure(call, error, GMEM_REASON_##reason, #call, __FILE__, __LINE__)

void script_check_failure(int result, int error, enum gmem_reason reason, const char *what,
			  const char *file, int line);

#define ck_works(call) script_check_success(call, #call, __FILE__, __LINE__)

void script_check_success(int result, const char *what, const char *file, int line);

#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))

#endif
