/* SPDX-License-Identifier: MIT */
/*
 * A table of system calls around another one, Linux's or a fake's: it counts what the library
 * calls, makes one call fail, and keeps account of what the library has from the kernel.
 */
#ifndef GMEM_TEST_INJECTOR_H
#define GMEM_TEST_INJECTOR_H

#include "sys.h"

#include <pthread.h>

/* System calls, told apart as far as what they can answer, or what that means, differs. */
enum kind {
	OPEN_KVM,
	OPEN_USERFAULTFD,
	CLOSE,
	API_VERSION,
	CREATE_VM,
	CHECK_USER_MEMORY2, /* KVM_CHECK_EXTENSION: without it there is no handle */
	CHECK_VCPU,	    /* whether a descriptor is a vCPU */
	CHECK_CAP,
	CREATE_GUEST_MEMFD,
	SET_SLOT, /* KVM_SET_USER_MEMORY_REGION2 */
	DELETE_SLOT,
	SET_ATTRIBUTES,
	ENABLE_CAP,
	PRE_FAULT,
	USERFAULTFD_NEW,
	USERFAULTFD_API,
	USERFAULTFD_REGISTER,
	USERFAULTFD_UNREGISTER,
	DUPLICATE,
	CLOSE_ON_EXEC,
	ADD_SEALS,
	STATUS,
	ALLOCATE,
	PUNCH,
	MMAP_GUARD, /* the page that tells of fork */
	MMAP_MEMORY,
	MMAP_HINT, /* of no use but to see whether there is such an address */
	MMAP_OVER, /* inaccessible pages instead of a mapping */
	MMAP_FILE,
	MUNMAP,
	WIPE_ON_FORK,
	DONT_FORK,
	POPULATE,
	REMOVE_PAGES,
	FREE_PAGES,
	DROP_PAGES,
	MINCORE,
	MEMFD_CREATE,
	TRUNCATE,
	MBIND,
	GET_MEMPOLICY,
	USERFAULTFD,
	COPY_IN,
	COPY_OUT,
	START_THREAD,
	KINDS
};

#define BIT(kind) (UINT64_C(1) << (kind))

#define INJECTOR_ERRORS_MAX 12

/* What a call of this kind can fail with; ends with 0. */
const int *injector_errors(enum kind kind);
/* What it can fail with so that the library has to make it once more. */
const int *injector_again(enum kind kind);
const char *injector_name(enum kind kind);

#define INJECTOR_CALLS_MAX    512
#define INJECTOR_MAPPINGS_MAX 64
#define INJECTOR_SLOTS_MAX    16

struct injector_mapping {
	unsigned char *addr; /* NULL: none */
	size_t size;
	enum kind kind; /* of the call that has made it */
	bool left;	/* the kernel has refused to unmap it */
};

struct injector_slot {
	int fd; /* the VM */
	uint32_t number;
	uint64_t size; /* 0: none */
	uint64_t addr;
	bool left; /* the kernel has refused to delete it */
};

struct injector {
	struct gmem_sys sys; /* first: what the library is given */
	const struct gmem_sys *inner;
	pthread_mutex_t lock;
	bool armed;
	unsigned int count;
	enum kind kinds[INJECTOR_CALLS_MAX]; /* of the calls counted */
	enum kind kind;			     /* of the one that fails */
	unsigned int fails_in;		     /* how many more of its kind; 0: none */
	int error;
	unsigned int failed_at;	   /* its number; 0: not yet */
	unsigned int second_after; /* so many calls later another one fails; 0: none */
	struct injector_mapping mappings[INJECTOR_MAPPINGS_MAX];
	struct injector_slot slots[INJECTOR_SLOTS_MAX];
};

void injector_init(struct injector *injector, const struct gmem_sys *inner);

/*
 * Count from now on, and let the n-th call of a kind fail; 0: none. It is not carried out, but for
 * close. By kind, because threads share the calls of one kind in any order.
 */
void injector_arm(struct injector *injector, enum kind kind, unsigned int n, int error);
/* And the n-th call after that one. */
void injector_arm_second(struct injector *injector, unsigned int n);
/* No more of that. Returns how many calls there were; failed_at tells whether the one failed. */
unsigned int injector_disarm(struct injector *injector);

/* The mapping of the library's that holds an address, or NULL. */
struct injector_mapping *injector_find(struct injector *injector, const void *addr);

/* Unmap what the kernel was made to leave, so that the process is as before. */
void injector_clean(struct injector *injector);

#endif
