/* SPDX-License-Identifier: MIT */
/*
 * The inside of libgmem-fake. fake.c is the handle; order.c decides what a call answers; text.c
 * writes it down; file.c, memory.c, kvm.c and vcpu.c are the kernel, by object.
 */
#ifndef GMEM_FAKE_FAKE_H
#define GMEM_FAKE_FAKE_H

#include "ranges.h"

#include "gmem-fake.h"
#include "sys.h"
#include "uapi/kvm.h"
#include "uapi/mm.h"

#include <pthread.h>

#define GMEM_FAKE_CAPS	     256
#define GMEM_FAKE_NODE_WORDS 16

enum gmem_fake_kind {
	GMEM_FAKE_KVM,
	GMEM_FAKE_VM,
	GMEM_FAKE_VCPU,
	GMEM_FAKE_GMEM,
	GMEM_FAKE_MEMFD,
	GMEM_FAKE_UFFD,
	GMEM_FAKE_FILE,
	GMEM_FAKE_KINDS
};

struct gmem_fake_policy {
	int mode;
	uint64_t nodes[GMEM_FAKE_NODE_WORDS];
};

/* What is behind descriptors. */
struct gmem_fake_object {
	enum gmem_fake_kind kind;
	unsigned int references; /* descriptors, mappings, vCPUs of a VM */

	/* A file. */
	struct gmem_fake_object *vm; /* of a guest_memfd, where it is only compared; of a vCPU */
	int backing;		     /* a real memfd, or -1 as long as nothing needs it */
	uint64_t size;
	uint64_t flags;
	uint64_t magic;
	bool regular;
	struct gmem_fake_policy policy;
	struct gmem_fake_ranges allocated; /* bytes allocated by other than a touch */

	/* A VM. */
	struct gmem_fake_ranges private;
	uint64_t hypercall_exits;

	/* A vCPU. */
	struct kvm_run *run;
};

struct gmem_fake_fd {
	struct gmem_fake_object *object; /* NULL: closed */
	enum gmem_fake_kind kind;
	unsigned int number;
};

struct gmem_fake_mapping {
	unsigned char *addr; /* NULL: gone */
	size_t size;
	int prot;
	struct gmem_fake_object *file; /* NULL: anonymous */
	uint64_t offset;
	bool real;  /* there is memory at the address */
	bool wiped; /* in a child */
	struct gmem_fake_policy policy;
	struct gmem_fake_ranges allocated; /* likewise, without a file; bytes in the mapping */
	char name[16];
};

struct gmem_fake_slot {
	struct gmem_fake_object *vm; /* NULL: none */
	struct kvm_userspace_memory_region2 region;
	struct gmem_fake_object *file;
};

struct gmem_fake_order {
	char *part;
	unsigned int n, seen;
	int value;
};

struct gmem_fake_memory_name {
	char *text;
	uintptr_t start, end;
};

struct gmem_fake {
	struct gmem_sys sys; /* first: what the library is given */
	gmem_fake_fail_fn *fail;
	void *fail_data;

	/* What the kernel is like. May be changed between any two calls. */
	size_t page_size;
	int api_version;
	uint64_t vm_types;	  /* bit n: KVM_CREATE_VM takes type n */
	int caps[GMEM_FAKE_CAPS]; /* by KVM_CAP_ number: the answer, or a negative errno */
	uint32_t nr_slots;	  /* slot ids that KVM takes, whatever it announces */
	uint32_t nr_spaces;	  /* likewise address spaces */
	unsigned int gpa_bits;
	int gpa_error; /* beyond that width: EINVAL (x86) or EFAULT (arm64) */
	unsigned int hva_bits;
	int rebind_error;	/* for a file range that is bound already: EINVAL or EEXIST */
	bool wraps_accepted;	/* a binding that ends past 2^63 is accepted */
	bool numa_in_file;	/* a policy belongs to the file; else to the mapping, and is lost */
	uint64_t numa_nodes;	/* of a policy that is read back, only these nodes are shown */
	size_t numa_words;	/* likewise only of the first 64 times this many */
	bool uffd_device;	/* there is a /dev/userfaultfd */
	uint64_t uffd_modes;	/* modes that a guest_memfd mapping can be registered in */
	uint64_t prefault_step; /* bytes that a pre-fault loads at most; 0: all */
	int cpus;

	/* What there is, under the lock. */
	pthread_mutex_t lock;
	struct gmem_fake_fd *fds; /* numbers are never used again */
	size_t fd_count, fd_room;
	unsigned int numbers[GMEM_FAKE_KINDS];
	struct gmem_fake_mapping *mappings;
	size_t mapping_count, mapping_room;
	unsigned int mapping_number;
	struct gmem_fake_slot *slots;
	size_t slot_count, slot_room;
	uint64_t time; /* ns */

	/* What was called, and what a call answers. */
	struct gmem_fake_order *orders;
	size_t order_count, order_room;
	unsigned int answered;
	char *transcript;
	size_t length;
	char *expected;				/* NULL: anything goes */
	char *next;				/* the line to come in it */
	unsigned int left_mappings, left_slots; /* allowed at the end */
	struct gmem_fake_memory_name *names;
	size_t name_count, name_room;
	size_t word; /* where the next short-lived text goes */
	char words[16][320];
};

#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))

/* ---- fake.c ---- */

/* Report a broken expectation. With the lock. */
__attribute__((noreturn, format(printf, 2, 3))) void gmem_fake_break(const struct gmem_fake *fake,
								     const char *format, ...);

#define gmem_fake_must(fake, condition, ...)                                                       \
	do {                                                                                       \
		if (!(condition))                                                                  \
			gmem_fake_break(fake, __VA_ARGS__);                                        \
	} while (0)

/* Begin a call: take the lock. */
struct gmem_fake *gmem_fake_enter(const struct gmem_sys *sys);
/* End it. Returns `result`. */
int gmem_fake_leave(struct gmem_fake *fake, long result);

/* A larger array where there is no room for one more element. */
void *gmem_fake_grow(const struct gmem_fake *fake, void *array, size_t count, size_t *room,
		     size_t size);
char *gmem_fake_copy_text(const struct gmem_fake *fake, const char *text);

/* ---- order.c ---- */

/*
 * Write a call down, and compare it with what is expected. True if that or an order gives the
 * result.
 */
__attribute__((format(printf, 3, 4))) bool gmem_fake_decided(struct gmem_fake *fake, long *result,
							     const char *format, ...);

/* Forget orders and texts, for good. */
void gmem_fake_clear_orders(struct gmem_fake *fake);

/* ---- text.c ---- */

struct gmem_fake_bit {
	unsigned int value;
	const char *name;
};

/* Texts that hold for some ten further ones. */
__attribute__((format(printf, 2, 3))) const char *gmem_fake_word(struct gmem_fake *fake,
								 const char *format, ...);
const char *gmem_fake_name_kind(enum gmem_fake_kind kind);
const char *gmem_fake_name_fd(struct gmem_fake *fake, int fd);
const char *gmem_fake_name_addr(struct gmem_fake *fake, const void *addr);
/* "A|B", with a number for bits without a name. */
const char *gmem_fake_name_bits(struct gmem_fake *fake, unsigned int value,
				const struct gmem_fake_bit *bits, size_t count);
const char *gmem_fake_name_prot(int prot);
const char *gmem_fake_name_map_flags(struct gmem_fake *fake, int flags);
const char *gmem_fake_name_advice(struct gmem_fake *fake, int advice);
const char *gmem_fake_name_nodes(struct gmem_fake *fake, const uint64_t *nodes, size_t words);
void gmem_fake_clear_names(struct gmem_fake *fake);

/* ---- file.c ---- */

/* NULL where there is none; a closed one breaks a rule. */
struct gmem_fake_fd *gmem_fake_find_fd(const struct gmem_fake *fake, int fd);
struct gmem_fake_object *gmem_fake_object_of(const struct gmem_fake *fake, int fd);
struct gmem_fake_object *gmem_fake_object_of_kind(const struct gmem_fake *fake, int fd,
						  enum gmem_fake_kind kind);
struct gmem_fake_object *gmem_fake_new_object(const struct gmem_fake *fake,
					      enum gmem_fake_kind kind);
struct gmem_fake_object *gmem_fake_new_gmem(const struct gmem_fake *fake,
					    struct gmem_fake_object *vm, uint64_t size,
					    uint64_t flags);
int gmem_fake_add_fd(struct gmem_fake *fake, struct gmem_fake_object *object);
void gmem_fake_drop_object(struct gmem_fake *fake, struct gmem_fake_object *object);
/* The real memfd behind a file. */
int gmem_fake_backing_of(const struct gmem_fake *fake, struct gmem_fake_object *file);
/* Say that bytes of a file or mapping are allocated, or no longer. */
void gmem_fake_set_allocated(const struct gmem_fake *fake, struct gmem_fake_ranges *ranges,
			     uint64_t start, uint64_t size, bool allocated);
/* Say that a file is on another kind of file system. */
void gmem_fake_set_magic(struct gmem_fake *fake, int fd, uint64_t fs_magic);
void gmem_fake_use_files(struct gmem_sys *sys);

/* ---- memory.c ---- */

/* NULL where there is none. */
struct gmem_fake_mapping *gmem_fake_find_mapping(const struct gmem_fake *fake, const void *addr);
void gmem_fake_name_mapping(struct gmem_fake *fake, struct gmem_fake_mapping *mapping);
/* Take a mapping out of this process as well. */
void gmem_fake_drop_mapping(struct gmem_fake *fake, struct gmem_fake_mapping *mapping);
void gmem_fake_use_memory(struct gmem_sys *sys);

/* ---- kvm.c ---- */

/* The slot at a guest address of the first address space, or NULL. */
const struct gmem_fake_slot *gmem_fake_find_slot_at(const struct gmem_fake *fake,
						    const struct gmem_fake_object *vm,
						    uint64_t gpa);
/* A file or a VM is gone: what becomes of the slots with it. */
void gmem_fake_drop_slots(struct gmem_fake *fake, const struct gmem_fake_object *object);
/* What an ioctl that a descriptor does not know answers: ENOTTY, but EINVAL on a vCPU. */
int gmem_fake_no_ioctl(const struct gmem_fake *fake, int fd);
void gmem_fake_use_kvm(struct gmem_sys *sys);

/* ---- vcpu.c ---- */

/* Each carries out an ioctl, its text included. */
long gmem_fake_ioctl_attributes(struct gmem_fake *fake, int fd, uintptr_t argument);
long gmem_fake_ioctl_prefault(struct gmem_fake *fake, int fd, uintptr_t argument);
long gmem_fake_ioctl_enable_cap(struct gmem_fake *fake, int fd, uintptr_t argument);

#endif
