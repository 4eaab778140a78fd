/* SPDX-License-Identifier: MIT */
/*
 * What a public call is made in: a VM, a memfd, a mapping, a slot, over this machine's KVM or over
 * a fake one, with an injector between. And all that can be seen of it from outside.
 */
#ifndef GMEM_TEST_SCENE_H
#define GMEM_TEST_SCENE_H

#include "gmem-fake.h"
#include "gmem.h"
#include "injector.h"

/* Where a scene is set: the machine, or a kernel of the fake. */
enum place {
	HERE,
	LINUX_6_12, /* without guest_memfd */
	LINUX_7_3,
	PRIVATE, /* VMs have private memory */
	PLACES
};

extern const char *const place_names[PLACES];

/* Whether HERE can be played, or why not. */
const char *scene_missing(enum place place);

#define SCENE_PAGES UINT64_C(16)
#define GPA	    UINT64_C(0x100000)

/* Handles that a call under test makes; NULL where it has made none. */
struct scene_new {
	struct gmem_vm *vm;
	struct gmem_memfd *memfd;
	struct gmem_map *map;
	struct gmem_slot *slot[3];
	struct gmem_notifier *notifier;
	struct gmem_vcpu *vcpu;
};

struct scene {
	enum place place;
	struct injector injector;
	struct gmem_fake *fake; /* NULL: HERE */
	uint64_t page;
	int fds_before;

	struct gmem_vm *vm;
	struct gmem_memfd *memfd; /* SCENE_PAGES; private ones on PRIVATE */
	struct gmem_map *map;	  /* all of it; NULL on PRIVATE */
	struct gmem_slot *slot;	  /* at GPA, the first two pages of memfd; on PRIVATE also of ram */
	unsigned char *ram;	  /* the VMM's own, SCENE_PAGES */

	/* Made by set-ups that need them; each is closed with the scene. */
	struct gmem_memfd *spare;  /* a second memfd */
	struct gmem_map *second;   /* a second mapping */
	struct gmem_slot *other;   /* a second slot */
	struct gmem_vcpu *vcpu[2]; /* of vm */
	struct gmem_notifier *listener;
	int fd; /* what a VMM has made: a VM, a guest_memfd, a vCPU; -1: nothing */
	bool fd_is_vm;
	struct kvm_run *run;
	size_t run_size;

	struct scene_new new;
};

/* `flags` are the VM's. */
void scene_open(struct scene *scene, enum place place, uint64_t flags);
/* Closes all, and sees that nothing is left but what the kernel was made to leave. */
void scene_close(struct scene *scene);

/* A slot may stay that the kernel is going to be made to leave. */
void scene_allow_left_slot(struct scene *scene);

/* Options of the VM under test. */
struct gmem_vm_opts scene_vm_opts(const struct scene *scene, uint64_t flags);

/* Descriptors of the VMM's own, one of them in a scene. */
void scene_make_vm(struct scene *scene);
void scene_make_memfd(struct scene *scene);
void scene_make_vcpu(struct scene *scene);

/* ---- From outside ---- */

enum aspect {
	FDS,
	GUARDS, /* bytes that a child finds wiped, as /proc has them */
	FILES,	/* mapped bytes of memfds, likewise */
	MAPPINGS,
	MAPPED_BYTES,
	INACCESSIBLE, /* mappings that keep addresses reserved */
	SLOTS,
	SLOT_IDS,   /* those of this machine's KVM, by trying */
	ATTRIBUTES, /* which pages are private, as the kernel has it */
	MEMORY_PIECES,
	MEMORY_BYTES,
	CAPS, /* from here on what only handles tell: of the VM that the call has made */
	SIDES,
	SLOT_STATE,
	VISIBILITY,
	ADDRESSES,
	CONTENTS,
	ASPECTS
};

extern const char *const aspect_names[ASPECTS];

struct view {
	uint64_t of[ASPECTS];
};

/* Without what the kernel was made to leave, if asked so. */
struct view scene_view(struct scene *scene, bool without_left);

#endif
