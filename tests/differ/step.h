/* SPDX-License-Identifier: MIT */
/*
 * One step of the test: something that a VMM asks of the library, with its numbers. What it acts on
 * is named by its place in tables that library and twin both keep, so that a step means the same to
 * both of them and on each run.
 */
#ifndef GMEM_DIFFER_STEP_H
#define GMEM_DIFFER_STEP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum {
	STEP_VMS = 2, /* the second one makes foreign memory, and is used less */
	STEP_MEMFDS = 8,
	STEP_MAPS = 8,
	STEP_SLOTS = 96,
	STEP_STRANGERS = 4,
	STEP_MANY_MAX = 3,
	STEP_NOWHERE = 255, /* no place */
	STEP_BYTES = 256    /* that one step reads or writes */
};

#define STEP_OPS(X)                                                                                \
	X(VM, "vm")                                                                                \
	X(RENEW, "renew")                                                                          \
	X(MEMFD, "memfd")                                                                          \
	X(OPEN_FD, "open-fd")                                                                      \
	X(CLOSE_MEMFD, "close-memfd")                                                              \
	X(ALLOCATE, "allocate")                                                                    \
	X(DISCARD, "discard")                                                                      \
	X(MAP, "map")                                                                              \
	X(CLOSE_MAP, "close-map")                                                                  \
	X(POPULATE, "populate")                                                                    \
	X(SLOT, "slot")                                                                            \
	X(MANY, "slots")                                                                           \
	X(ADOPT, "adopt")                                                                          \
	X(STRANGER, "stranger")                                                                    \
	X(BANISH, "banish")                                                                        \
	X(DELETE, "delete")                                                                        \
	X(CLOSE_SLOT, "close-slot")                                                                \
	X(REPLACE, "replace")                                                                      \
	X(FLAGS, "flags")                                                                          \
	X(RESERVE, "reserve")                                                                      \
	X(READ, "read")                                                                            \
	X(WRITE, "write")                                                                          \
	X(LOAD, "load")                                                                            \
	X(STORE, "store")                                                                          \
	X(TRANSLATE, "translate")                                                                  \
	X(DROP, "drop")                                                                            \
	X(CONVERT, "convert")

#define STEP_OP(name, text) STEP_##name,
enum step_op {
	STEP_OPS(STEP_OP) STEP_OP_COUNT
};
#undef STEP_OP

extern const char *const step_names[STEP_OP_COUNT];

/* What a number of STEP_VM's, STEP_OPEN_FD's or STEP_REPLACE's `mode` stands for. */
enum step_mode {
	STEP_MODE_PLAIN,     /* a VM of the type `start`; another's handle with the VM */
	STEP_MODE_NO_VM,     /* another's handle, without the VM */
	STEP_MODE_BAD_FD,    /* a descriptor that is not open */
	STEP_MODE_NULL_FD,   /* one of /dev/null */
	STEP_MODE_MEMFD_FD,  /* one of an ordinary memfd */
	STEP_MODE_NO_DEVICE, /* a device that does not exist */
	STEP_MODE_NOT_KVM,   /* a device that is not KVM */
	STEP_MODE_IDS,	     /* a VM with ids beyond the limit */
	STEP_MODE_VM_FLAGS,  /* a VM with unknown flags */
	STEP_MODE_QUIESCE,   /* the VMM stops its vCPUs */
	STEP_MODE_STUBBORN,  /* it cannot */
	STEP_MODE_RUNNING,   /* it does not */
};

/* A slot as it is asked for. */
struct step_slot {
	uint64_t gpa;
	uint64_t size;
	uint64_t offset;
	uint64_t flags;
	uint64_t host;	   /* an address; 0: none */
	bool host_is_ours; /* then it counts from the memory that both processes have there */
	uint8_t memfd;
	uint8_t map;
	uint32_t id;
	uint32_t as_id;
};

/* Where to look how memory is before the step. */
struct step_look {
	uint8_t vm;
	uint32_t as_id;
	uint64_t gpa;
};

struct step {
	enum step_op op;
	uint8_t vm;
	uint8_t at;   /* the place of what is made, changed or closed */
	uint8_t from; /* the place of what it is made of */
	uint8_t count;
	bool alone;    /* of new VMs: the library will be told of all that is done to them */
	uint32_t mode; /* enum step_mode, or what a call has beside flags: a policy, a fallback */
	uint32_t as_id;
	uint32_t id_first, id_count; /* that are granted or reserved */
	uint32_t numa;
	uint64_t start; /* of a range; the type of a VM */
	uint64_t size;
	uint64_t flags;
	uint64_t value; /* what is written, NUMA nodes, a visibility, the order of closing */
	struct step_slot slots[STEP_MANY_MAX]; /* from place `at` on */
	struct step_look look;
};

/* One line for people. */
void step_print(FILE *out, uint64_t number, const struct step *step);

/* ---- Memory of the VMM's own ---- */

/* Pages for slots, then one for each stranger, then one for probes. Mapped before the fork. */
enum {
	STEP_HOST_PAGES = 256
};
void step_make_host(void);
size_t step_page(void);
void *step_host(const struct step_slot *slot);
void *step_stranger_host(unsigned int place);
void *step_probe_host(void);

/* Of a slot, unless it has so many that it is refused at once. */
#define STEP_PAGES_MAX (UINT64_C(1) << 20)

/* Ids and a guest address that no step uses: for questions from outside. */
#define STEP_SPARE_ID  31000U
#define STEP_SPARE_GPA UINT64_C(0x7654000000)

#endif
