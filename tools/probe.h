/* SPDX-License-Identifier: MIT */
/* What `gmem probe` finds out, and the words for it. */
#ifndef GMEM_TOOL_PROBE_H
#define GMEM_TOOL_PROBE_H

#include <gmem.h>

#include <sys/utsname.h>

#define PROBE_CAPS	  17 /* capabilities shown */
#define PROBE_MAX_TYPES	  64 /* bits in KVM_CAP_VM_TYPES */
#define PROBE_FAULTS	  4  /* known faults of kernels that are looked for */
#define PROBE_MESSAGE_MAX 256

/* How a call of the library ended. */
struct probe_result {
	int err; /* 0, or a positive errno */
	enum gmem_reason reason;
	char message[PROBE_MESSAGE_MAX];
};

struct probe_cap {
	struct probe_result result;
	uint64_t value;
};

struct probe_type {
	uint64_t type;
	struct probe_result open; /* of the VM */
	struct probe_cap caps[PROBE_CAPS];
	bool has_guest_memfd; /* KVM says so */
	struct probe_result
		trial; /* where it says so: making one, and binding it if it is shared */
};

/* Of a known fault. Unknown also where to find out would do harm. */
enum fault_state {
	FAULT_UNKNOWN,
	FAULT_NOT_FOUND,
	FAULT_FOUND
};

/* Whose page tables are not those that the processor uses. */
enum probe_paging {
	PAGING_UNKNOWN,
	PAGING_SHADOWS_NONE,
	PAGING_SHADOWS_NESTED, /* of guests within guests */
	PAGING_SHADOWS_ALL     /* or nested paging without the TDP MMU, which is alike here */
};

struct probe {
	const char *device;
	struct utsname kernel;
	unsigned int kernel_major;
	unsigned int kernel_minor;
	size_t page_size;
	enum probe_paging paging;
	struct probe_result open; /* of the first VM: where it failed, there are no types */
	struct probe_type *types;
	size_t type_count;
	bool usable; /* a type has guest_memfd, and the trial went well */
	enum fault_state faults[PROBE_FAULTS];
};

/* ---- Words (probe-words.c) ---- */

#define WORDS_MAX 512

/* Why something is missing and what to do about it; an empty remedy: nothing can be done. */
struct advice {
	char cause[WORDS_MAX];
	char remedy[WORDS_MAX];
};

enum value_kind {
	VALUE_YES, /* supported is all there is to say */
	VALUE_NUMBER,
	VALUE_BITS,	   /* a width in bits */
	VALUE_FLAGS,	   /* GMEM_MEMFD_* */
	VALUE_ATTRIBUTES,  /* GMEM_ATTRIBUTE_* */
	VALUE_TYPES,	   /* bit n is VM type n */
	VALUE_USERFAULTFD, /* modes */
	VALUE_HYPERCALLS,  /* bit n is hypercall n */
	VALUE_REFUSES,	   /* supported: the kernel refuses something bad */
};

/* A capability as shown: its place in probe_type.caps is its place in this table. */
struct cap_words {
	enum gmem_cap cap;
	enum value_kind kind;
	const char *key;   /* in JSON */
	const char *label; /* for people */
};

extern const struct cap_words cap_words[PROBE_CAPS];

/* Where a capability is in the table. */
size_t cap_index(enum gmem_cap cap);

/* Such as "default" for 0; "unknown" where the type has no name here. */
const char *type_name(uint64_t type);

/* The names of the bits of a set, one a call: 0 in *bits ends it. NULL: a bit without a name. */
const char *next_bit(enum value_kind kind, uint64_t *bits, uint64_t *bit);

/* What a VM of this type is good for. */
const char *type_summary(const struct probe_type *type);

/* Whether guest_memfd can be used with VMs of this type. */
bool type_usable(const struct probe_type *type);

/* What made all of it unusable: the device, or the first type's lack. */
const struct probe_result *first_failure(const struct probe *probe);

/* Why a call failed that makes a VM, a guest_memfd or a slot. */
void advise_call(const struct probe *probe, const struct probe_result *result,
		 struct advice *advice);

/* Why a capability is missing, or could not be found out. */
void advise_cap(const struct probe *probe, const struct probe_type *type, size_t index,
		struct advice *advice);

/* Why guest_memfd cannot be used with any VM. */
void advise_unusable(const struct probe *probe, struct advice *advice);

/* ---- Known faults (probe-faults.c) ---- */

struct fault_words {
	const char *name; /* as in gmem-kernel-check(1) */
	const char *cause;
	const char *remedy;
};

/* A fault's place in probe.faults is its place in this table. */
extern const struct fault_words fault_words[PROBE_FAULTS];

/* Once the types are known. */
void find_faults(struct probe *probe);

/* ---- Paging (probe-paging.c) ---- */

enum probe_paging ask_paging(void);

/* In one word. */
extern const char *const paging_words[];

/* ---- Reports ---- */

void probe_print_text(const struct probe *probe);
void probe_print_json(const struct probe *probe);

#endif /* GMEM_TOOL_PROBE_H */
