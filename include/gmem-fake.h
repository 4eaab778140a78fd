/* SPDX-License-Identifier: MIT */
/*
 * libgmem-fake: a kernel in memory, for the tests of a VMM that uses libgmem.
 *
 * It is KVM as far as guest_memfd needs it, beneath the library: it behaves as a Linux of the
 * chosen version does, writes down every call, and can be told what must be called, what must fail,
 * and with which errno. No /dev/kvm is opened, and no privilege is needed. The code under test is
 * given a handle of gmem_fake_open_vm() instead of one of gmem_vm_open(), and is none the wiser.
 *
 * Each call has a text, such as
 *
 *   ioctl(vm1, SET_REGION2, slot=0x3 flags=0x4 gpa=0x1000 size=0x2000 addr=m1 gmem=gmem1 offset=0)
 *   ioctl(vm1, SET_ATTRIBUTES, gpa=0x1000 size=0x2000 private)
 *   ioctl(vcpu1, PRE_FAULT, gpa=0x1000 size=0x2000)
 *   mmap(0, 0x2000, RW, SHARED, gmem1, 0x1000)
 *   fallocate(gmem1, KEEP_SIZE|PUNCH_HOLE, 0x1000, 0x1000)
 *   madvise(m1+0x1000, 0x1000, REMOVE)
 *
 * Descriptors and mappings are numbered by kind in the order in which they were made: kvm1, vm1,
 * vcpu1, gmem1, memfd1, uffd1, file1; m1. Numbers are hexadecimal, but those of KVM_CAP_, modes and
 * advice. Every member of a struct is in the text or checked to be zero.
 *
 * Two rules are checked all the time: no descriptor is used after its closing, and no memory is
 * unmapped, nor guest_memfd closed, while a slot has it.
 *
 * Conventions are those of gmem.h, and:
 *
 *  - What does not hold is reported in a sentence through the callback `fail` of the options, which
 *    ends the test. So are mistakes of the test itself, such as a descriptor that is none. That is
 *    why most functions return nothing.
 *  - `fake` is never NULL, but for gmem_fake_close().
 *  - Texts that a test gives are copied.
 *  - Any thread may call any function. Handles made over a fake are closed before it.
 *  - What is in a text may change with a MINOR version of the library, as the calls that the
 *    library makes may: a test of a VMM is better off with gmem_fake_fail() than with the whole
 *    sequence of calls.
 */
#ifndef GMEM_FAKE_H
#define GMEM_FAKE_H

#include "gmem.h"

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

struct gmem_fake;

/* ---- The fake ----------------------------------------------------------------------------- */

/* What the kernel is like. All are of x86. */
enum gmem_fake_kernel {
	GMEM_FAKE_LINUX_6_12 = 1, /* guest_memfd has no flags, and no plain VM can use it */
	GMEM_FAKE_LINUX_6_18 = 2, /* both flags; a binding that wraps is accepted, NUMA ignored */
	GMEM_FAKE_LINUX_7_3 = 3,  /* both flags, both faults mended */
	GMEM_FAKE_PRIVATE = 4,	  /* Linux 7.3 with VMs that have private memory */
};

/*
 * Called when an expectation is broken. It must not return: it ends the test by exit(), longjmp()
 * or the like. No lock of the fake is held. After a longjmp() the only calls that may follow are
 * gmem_fake_transcript() and gmem_fake_close(), since libgmem was left in the middle of a call.
 */
typedef void gmem_fake_fail_fn(void *data, const char *message);

struct gmem_fake_opts {
	size_t sz;
	enum gmem_fake_kernel kernel; /* 0: GMEM_FAKE_LINUX_7_3 */
	uint32_t page_size;	      /* 0: 4096, or the host's page where that is larger */
	gmem_fake_fail_fn *fail;      /* NULL: print the message to stderr and abort() */
	void *fail_data;
};

/*
 * Make a kernel.
 *
 * @opts: NULL for the defaults. A page_size must be a power of two, and at least the host's page
 * @ret: the fake; close it with gmem_fake_close()
 *
 * Errors: ARGUMENT; NO_MEMORY.
 */
int gmem_fake_create(const struct gmem_fake_opts *opts, struct gmem_fake **ret);

/* Check that all expected calls were made, and that no descriptor, mapping or slot is left. */
void gmem_fake_check(struct gmem_fake *fake);

/* Free the fake and whatever is left in it. Checks nothing. */
void gmem_fake_close(struct gmem_fake *fake);

/*
 * Stands for gmem_vm_open() and fails as it does. All that is made with the handle is in the fake
 * too: guest_memfds, mappings, slots.
 *
 * Errors: those of gmem_vm_open.
 */
int gmem_fake_open_vm(struct gmem_fake *fake, const struct gmem_vm_opts *opts,
		      struct gmem_vm **ret);

/*
 * Stands for gmem_vm_open_fd() and fails as it does.
 *
 * @vm_fd: of gmem_fake_make_vm()
 *
 * Errors: those of gmem_vm_open_fd.
 */
int gmem_fake_open_vm_fd(struct gmem_fake *fake, int vm_fd, const struct gmem_vm_opts *opts,
			 struct gmem_vm **ret);

/*
 * Stands for gmem_memfd_open_fd() and fails as it does. For a VM of the fake that may be called as
 * well.
 *
 * @vm: a VM of this fake, or NULL
 * @fd: of gmem_fake_make_gmem()
 *
 * Errors: those of gmem_memfd_open_fd.
 */
int gmem_fake_open_memfd(struct gmem_fake *fake, struct gmem_vm *vm, int fd,
			 struct gmem_memfd **ret);

/* ---- What must be called, and what fails -------------------------------------------------- */

/*
 * From now on, only these calls may be made, in this order: lines of text as above. A line that
 * ends in " = EINTR" is answered with this errno, one that ends in " = 3" with this number; all
 * others are carried out. "" allows no call at all. The arguments are printf's.
 */
#if defined(__GNUC__)
__attribute__((__format__(__printf__, 2, 3)))
#endif
void gmem_fake_expect(struct gmem_fake *fake, const char *format, ...);

/* Check that all expected calls were made. Then any call is allowed again. */
void gmem_fake_met(struct gmem_fake *fake);

/*
 * Let the n-th call from now on whose text contains `part` fail with `error`, or with 0 each such
 * call. "" means any call but those that take something back: close, munmap, deleting a slot. Any
 * number of such orders stand side by side; of several that fit, the first given answers.
 *
 * @error: a positive errno
 */
void gmem_fake_fail(struct gmem_fake *fake, unsigned int n, int error, const char *part);

/* Let such calls answer `value`, which may be negative, without being carried out. */
void gmem_fake_answer(struct gmem_fake *fake, unsigned int n, int value, const char *part);

/* Withdraw all orders of the two calls above. Returns how many calls they have answered. */
unsigned int gmem_fake_recover(struct gmem_fake *fake);

/* ---- What was called, and what there is --------------------------------------------------- */

/* How many calls whose text contains `part` were made since the last gmem_fake_forget(). */
unsigned int gmem_fake_count(const struct gmem_fake *fake, const char *part);

/* The texts of all calls since then, a line each. Valid until the next call, never NULL. */
const char *gmem_fake_transcript(const struct gmem_fake *fake);

/* Forget the calls so far, and number what exists anew: of each kind, the oldest is 1. */
void gmem_fake_forget(struct gmem_fake *fake);

/* Kinds of things that exist in the kernel. */
enum gmem_fake_thing {
	GMEM_FAKE_FDS = 1,
	GMEM_FAKE_MAPPINGS = 2,
	GMEM_FAKE_INACCESSIBLE = 3, /* of the mappings, those that nobody may touch */
	GMEM_FAKE_SLOTS = 4,
};

/* How many of them there are now. */
unsigned int gmem_fake_tally(const struct gmem_fake *fake, enum gmem_fake_thing thing);

/*
 * What gmem_fake_check() shall find left: mappings and slots that the kernel was told not to take
 * back. With slots, a guest_memfd may also be closed while one has it.
 */
void gmem_fake_allow_left(struct gmem_fake *fake, unsigned int mappings, unsigned int slots);

/*
 * Whether a guest address is private (KVM_MEMORY_ATTRIBUTE_PRIVATE).
 *
 * @vm_fd: any descriptor of the VM, such as that of gmem_vm_get_fd()
 * @until: set to where that changes, UINT64_MAX for nowhere; may be NULL
 */
bool gmem_fake_is_private(const struct gmem_fake *fake, int vm_fd, uint64_t gpa, uint64_t *until);

/* ---- What the VMM does behind the library ------------------------------------------------- */

/* Call the test's own memory by this name in the texts. */
void gmem_fake_name(struct gmem_fake *fake, const void *addr, size_t size, const char *name);

/*
 * Descriptors that the VMM made itself: a VM (KVM_CREATE_VM), a guest_memfd for it
 * (KVM_CREATE_GUEST_MEMFD), a vCPU of it (KVM_CREATE_VCPU), and any other file. They are numbers
 * that mean something to the fake alone; gmem_fake_close_fd() closes them. Making one is no call,
 * does not fail, and leaves no reason.
 *
 * @vm_fd: the VM; for a guest_memfd also -1, for a VM of another process
 * @kvm_run: the struct kvm_run that the test keeps for this vCPU, or NULL. A KVM_PRE_FAULT_MEMORY
 *           that fails leaves a memory fault in it, as the kernel's does
 * @fs_magic: as in statfs(2)
 * @regular: a regular file
 */
int gmem_fake_make_vm(struct gmem_fake *fake);
int gmem_fake_make_gmem(struct gmem_fake *fake, int vm_fd, uint64_t size, uint64_t flags);
int gmem_fake_make_vcpu(struct gmem_fake *fake, int vm_fd, void *kvm_run);
int gmem_fake_make_file(struct gmem_fake *fake, uint64_t size, uint64_t fs_magic, bool regular);

/* Close such a descriptor. */
void gmem_fake_close_fd(struct gmem_fake *fake, int fd);

/*
 * Set a slot of the VMM's own (KVM_SET_USER_MEMORY_REGION). A size of 0 deletes it. Returns 0 or
 * the kernel's negative errno, and leaves no reason. It is no call.
 */
int gmem_fake_set_slot(struct gmem_fake *fake, int vm_fd, uint32_t number, uint64_t gpa,
		       uint64_t size, const void *addr);

/* ---- The kernel's ways -------------------------------------------------------------------- */

/*
 * What KVM_CHECK_EXTENSION answers for this KVM_CAP_ number, below 256, from now on; it may be a
 * negative errno. What the capability stands for comes and goes with it. The library asks when a
 * VM's handle is made.
 */
void gmem_fake_set_cap(struct gmem_fake *fake, uint32_t cap, int value);

/* How many bytes each KVM_PRE_FAULT_MEMORY loads at most, a multiple of the page; 0: all. */
void gmem_fake_set_prefault_step(struct gmem_fake *fake, uint64_t size);

/* Be in a child made by fork(), as the library sees it; then in the parent again. */
void gmem_fake_enter_child(struct gmem_fake *fake);
void gmem_fake_leave_child(struct gmem_fake *fake);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif

#ifdef __cplusplus
}
#endif

#endif
