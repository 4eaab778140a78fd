/* SPDX-License-Identifier: MIT */
#include "expect.h"

#include <errno.h>
#include <string.h>

/* ---- Answers ---- */

/* An answer as a bit. EINVAL, EEXIST: which of them KVM says of what is bound, it has changed. */
#define ACCEPTED  0x1U
#define CHANGED	  0x2U /* a slot that was there */
#define UNASKED	  0x4U
#define INVALID	  0x8U
#define EXISTS	  0x10U
#define BAD_FD	  0x20U
#define FAULT	  0x40U
#define NO_DEVICE 0x80U
#define OVERFLOWS 0x100U
#define TOO_BIG	  0x200U
#define NOT_TTY	  0x400U
#define NO_PERM	  0x800U
#define DENIED	  0x1000U
#define NO_ENTRY  0x2000U
#define NO_SPACE  0x4000U /* ENOMEM: no address space is that large */
#define NOT_SUPP  0x8000U
#define OTHER	  0x80000000U
#define TAKEN	  (INVALID | EXISTS)
/* Whatever KVM says of the rest of it: the library stops before it comes to that. */
#define ANY (~OTHER)

static const struct {
	int error;
	unsigned int bit;
} bits[] = {
	{0, ACCEPTED},	     {ANSWER_UNASKED, UNASKED}, {EINVAL, INVALID},
	{EEXIST, EXISTS},    {EBADF, BAD_FD},		{EFAULT, FAULT},
	{ENODEV, NO_DEVICE}, {EOVERFLOW, OVERFLOWS},	{EFBIG, TOO_BIG},
	{ENOTTY, NOT_TTY},   {EPERM, NO_PERM},		{EACCES, DENIED},
	{ENOENT, NO_ENTRY},  {ENOMEM, NO_SPACE},	{EOPNOTSUPP, NOT_SUPP},
};

static unsigned int bit_of(const struct answer *answer)
{
	if (answer->error == 0 && answer->changed)
		return CHANGED;
	for (size_t i = 0; i < sizeof(bits) / sizeof(bits[0]); i++)
		if (bits[i].error == answer->error)
			return bits[i].bit;
	return OTHER;
}

const char *expect_word(const struct answer *answer)
{
	const char *name;

	if (answer->error == 0)
		return answer->changed ? "changed" : "accepted";
	if (answer->error == ANSWER_UNASKED)
		return "unasked";
	name = strerrorname_np(answer->error);
	return name ? name : "unknown";
}

/* ---- When ---- */

static bool is_stranger_about(const struct world *world, const struct step *step)
{
	(void)step;
	return !world->alone;
}

static bool binds_map(const struct world *world, const struct step *step)
{
	(void)world;
	for (unsigned int i = 0; i < step->count; i++)
		if (step->slots[i].map != STEP_NOWHERE)
			return true;
	return false;
}

static bool binds_given(const struct world *world, const struct step *step)
{
	for (unsigned int i = 0; i < step->count; i++)
		if (step->slots[i].memfd != STEP_NOWHERE &&
		    world->memfds[step->slots[i].memfd].given)
			return true;
	return binds_map(world, step);
}

static bool wraps_as_signed(const struct world *world, const struct step *step)
{
	(void)world;
	for (unsigned int i = 0; i < step->count; i++)
		if ((step->slots[i].offset + step->slots[i].size) >> 63)
			return true;
	return false;
}

static bool is_long(const struct world *world, const struct step *step)
{
	(void)world;
	return step->size >= UINT64_C(1) << 46;
}

static bool takes_part_of_page(const struct world *world, const struct step *step)
{
	(void)world;
	return step->start % step_page() == 0;
}

static bool sets_shared(const struct world *world, const struct step *step)
{
	(void)world;
	return step->value == GMEM_VISIBILITY_SHARED;
}

static bool changes_nothing(const struct world *world, const struct step *step)
{
	return step->flags == (world->slots[step->at].asked.flags & ~GMEM_SLOT_FIXED_ID);
}

/* ---- The list ---- */

#define BIT(op)	 (UINT64_C(1) << STEP_##op)
#define BINDINGS (BIT(SLOT) | BIT(MANY) | BIT(ADOPT) | BIT(REPLACE))
#define NEW	 (BIT(SLOT) | BIT(MANY) | BIT(ADOPT))
#define CREATED	 (BIT(SLOT) | BIT(MANY))
#define CHANGES	 (BIT(DELETE) | BIT(FLAGS) | BIT(REPLACE))
#define COPIES	 (BIT(READ) | BIT(WRITE))
#define SINGLES	 (BIT(LOAD) | BIT(STORE))
#define ACCESSES (COPIES | SINGLES | BIT(TRANSLATE))
#define R(name)	 GMEM_REASON_##name

static const struct {
	uint64_t steps; /* BIT()s */
	enum gmem_reason reason;
	unsigned int may;   /* what the kernel says */
	unsigned int needs; /* WORLD_ bits, without which it is not reached */
	bool (*when)(const struct world *world, const struct step *step);
	/* Where it may accept: why the library does not. */
	const char *why;
} rows[] = {
	/* The call. */
	{BINDINGS, R(FLAGS_UNKNOWN), INVALID | UNASKED},
	{BINDINGS, R(CONFLICT), ANY, .why = "says more or less than one region: KVM hears a part"},
	{BINDINGS, R(AS_BEYOND_LIMIT), INVALID | UNASKED},

	/* Ranges of a slot. */
	{BINDINGS, R(RANGE_EMPTY), INVALID | UNASKED, .why = "KVM deletes what has no size"},
	{BINDINGS, R(RANGE_UNALIGNED), INVALID},
	{BINDINGS, R(RANGE_UNALIGNED), ANY, WORLD_FALLBACK,
	 .why = "KVM does not hear of the offset"},
	{BINDINGS, R(RANGE_WRAPS), INVALID | OVERFLOWS},
	{BINDINGS, R(RANGE_WRAPS), ANY, WORLD_FALLBACK, .why = "KVM does not hear of the offset"},
	{BINDINGS, R(RANGE_WRAPS), ANY, .when = binds_map,
	 .why = "the offset is no more than a number that the address is made of"},
	{BINDINGS, R(GPA_BEYOND_WIDTH), INVALID | FAULT | EXISTS},
	{BINDINGS, R(MEMFD_BEYOND_END), TAKEN},
	{BINDINGS, R(MEMFD_BEYOND_END), ANY, WORLD_UNCHECKED, wraps_as_signed,
	 "kernels up to 6.19 add offset and size as signed numbers"},
	{BINDINGS, R(MEMFD_BEYOND_END), ANY, WORLD_FALLBACK, .why = "a mapping may pass the end"},
	{BINDINGS, R(MAP_BEYOND_END), ANY,
	 .why = "KVM takes any address, and the library only what is mapped there"},
	{BINDINGS, R(HOST_NOT_CANONICAL), INVALID},

	/* What is there already. */
	{CREATED | BIT(REPLACE), R(GPA_RESERVED), ANY,
	 .why = "KVM does not know of the VMM's plans"},
	{BINDINGS, R(GPA_OVERLAP), TAKEN | CHANGED,
	 .why = "KVM moves or changes an ordinary slot of that id: here replace and set_flags do"},
	{BINDINGS, R(MEMFD_OVERLAP), TAKEN, WORLD_GUEST},
	{BINDINGS, R(TOO_MANY_PAGES), INVALID, WORLD_WIDE},
	{NEW, R(ID_BEYOND_LIMIT), INVALID | UNASKED},
	{CREATED, R(ID_NOT_GRANTED), ANY, .why = "KVM does not know of the VMM's plans"},
	{NEW, R(ID_TAKEN), TAKEN | CHANGED,
	 .why = "KVM moves or changes an ordinary slot of that id: here replace and set_flags do"},
	{BIT(REPLACE), R(ID_TAKEN), TAKEN, .when = is_stranger_about},
	{CREATED, R(IDS_EXHAUSTED), ANY, .why = "KVM has more ids than were granted"},

	/* What a slot is made of. */
	{BINDINGS, R(MEMFD_FOREIGN), TAKEN},
	{BINDINGS, R(MEMFD_FOREIGN), ANY, .when = binds_given,
	 .why = "the caller says whose the file is, and a mapping is kept for one VM's readers"},
	{BINDINGS, R(MEMFD_FOREIGN), ANY, WORLD_FALLBACK, .why = "an ordinary memfd is no VM's"},
	{BINDINGS, R(MEMFD_NO_DIRTY_LOG), INVALID, WORLD_GUEST},
	{BINDINGS, R(MEMFD_NO_READONLY), INVALID, WORLD_GUEST},
	{BINDINGS, R(MEMFD_IGNORED), ANY, WORLD_GUEST | WORLD_SHARED,
	 .why = "KVM takes the host memory in its place"},
	{BINDINGS, R(MEMFD_UNTOUCHABLE), ANY, WORLD_MAPPABLE,
	 .why = "neither host nor KVM can touch the memory"},
	{BINDINGS, R(MEMFD_HIDES_SHARED), ANY, WORLD_PRIVATE | WORLD_MAPPABLE,
	 .why = "the shared half would never be seen"},
	{BINDINGS, R(HOST_NOT_MAPPING), ANY, WORLD_SHARED,
	 .why = "KVM takes any address, and its own accesses go elsewhere"},
	{BINDINGS, R(ACCESS_READONLY), ANY, WORLD_MAPPABLE,
	 .why = "the guest's first write stops the vCPU"},
	{BINDINGS, R(ACCESS_READONLY), ANY, WORLD_FALLBACK,
	 .why = "the guest's first write stops the vCPU"},

	/* What only the kernel knows, and what is accepted here alone. */
	{BIT(ADOPT), R(NONE), TAKEN, .when = is_stranger_about,
	 .why = "KVM has what the library was not told of"},
	{BIT(STRANGER), R(NONE), TAKEN, .when = is_stranger_about},

	/* Changes of a slot. */
	{CHANGES, R(SLOT_DELETED), INVALID | UNASKED},
	{BIT(FLAGS) | BIT(REPLACE), R(SLOT_ADOPTED), ANY, .why = "the VMM's own slot"},
	{BIT(REPLACE), R(FLAGS_UNKNOWN), ANY, .why = "of gmem_slot_replace()'s own"},
	{BIT(REPLACE), R(NEEDS_QUIESCE), ANY, .why = "vCPUs could run without the memory"},
	{BIT(REPLACE), R(QUIESCE_FAILED), ANY, .why = "the VMM could not stop its vCPUs"},
	{BIT(FLAGS), R(FLAGS_UNKNOWN), INVALID | UNASKED},
	{BIT(FLAGS), R(CONFLICT), INVALID},
	{BIT(FLAGS), R(MEMFD_NO_DIRTY_LOG), INVALID, WORLD_GUEST},
	{BIT(FLAGS), R(MEMFD_NO_READONLY), INVALID, WORLD_GUEST},

	/* Reservations: KVM says what is there. */
	{BIT(RESERVE), R(CONFLICT), ANY, .why = "neither ids nor addresses"},
	{BIT(RESERVE), R(AS_BEYOND_LIMIT), INVALID | UNASKED},
	{BIT(RESERVE), R(RANGE_UNALIGNED), INVALID},
	{BIT(RESERVE), R(RANGE_WRAPS), TAKEN | UNASKED},
	{BIT(RESERVE), R(GPA_BEYOND_WIDTH), TAKEN | FAULT | UNASKED},
	{BIT(RESERVE), R(GPA_OVERLAP), TAKEN | UNASKED},
	{BIT(RESERVE), R(GPA_RESERVED), ANY, .why = "KVM does not know of the VMM's plans"},
	{BIT(RESERVE), R(ID_BEYOND_LIMIT), TAKEN},
	{BIT(RESERVE), R(ID_TAKEN), EXISTS},

	/* Files. */
	{BIT(MEMFD), R(RANGE_EMPTY), INVALID | NOT_TTY},
	{BIT(MEMFD), R(RANGE_EMPTY), ACCEPTED, WORLD_FALLBACK,
	 .why = "an ordinary memfd has any size"},
	{BIT(MEMFD), R(RANGE_UNALIGNED), INVALID | NOT_TTY},
	{BIT(MEMFD), R(RANGE_UNALIGNED), ACCEPTED, WORLD_FALLBACK,
	 .why = "an ordinary memfd has any size"},
	{BIT(MEMFD), R(TOO_LARGE), INVALID | NOT_TTY},
	{BIT(MEMFD), R(FLAGS_UNKNOWN), INVALID | NOT_TTY},
	{BIT(MEMFD), R(FLAGS_UNKNOWN), ACCEPTED, WORLD_FALLBACK, .why = "of guest_memfd alone"},
	{BIT(MEMFD), R(FLAGS_UNSUPPORTED), INVALID, WORLD_PRIVATE},
	{BIT(MEMFD), R(CAP_UNSUPPORTED), INVALID | NOT_TTY, WORLD_FALLBACK},
	{BIT(MEMFD), R(CAP_UNSUPPORTED), ACCEPTED, WORLD_FALLBACK,
	 .why = "kernels before 6.18 make one for a VM that binds none"},
	{BIT(MEMFD), R(FALLBACK_UNSUITABLE), ANY, WORLD_FALLBACK, .why = "of guest_memfd alone"},
	{BIT(MEMFD), R(ARGUMENT), ANY, .why = "no fallback or NUMA mode of that number"},
	{BIT(MEMFD), R(NUMA_NEEDS_MMAP), INVALID | NO_DEVICE | NOT_TTY},
	{BIT(MEMFD), R(NUMA_NEEDS_MMAP), ACCEPTED, WORLD_FALLBACK, .why = "of guest_memfd alone"},
	{BIT(MEMFD), R(NUMA_REFUSED), INVALID, WORLD_MAPPABLE},
	{BIT(MEMFD), R(NUMA_REFUSED), INVALID, WORLD_FALLBACK},
	{BIT(MEMFD), R(NUMA_IGNORED), ACCEPTED, WORLD_NUMALESS,
	 .why = "kernels up to 6.18 keep the policy in the mapping alone"},
	{BIT(OPEN_FD), R(FD_INVALID), BAD_FD},
	{BIT(OPEN_FD), R(FD_NOT_GUEST_MEMFD), ACCEPTED, .why = "KVM says so of a slot alone"},
	{BIT(ALLOCATE), R(RANGE_EMPTY), INVALID},
	{BIT(ALLOCATE), R(RANGE_UNALIGNED), INVALID | TOO_BIG},
	{BIT(ALLOCATE), R(RANGE_UNALIGNED), ACCEPTED | NO_PERM, WORLD_FALLBACK,
	 .why = "an ordinary memfd allocates all pages that are touched"},
	{BIT(ALLOCATE), R(RANGE_WRAPS), INVALID | TOO_BIG},
	{BIT(ALLOCATE), R(MEMFD_BEYOND_END), INVALID | TOO_BIG | NO_PERM},
	{BIT(DISCARD), R(RANGE_EMPTY), INVALID},
	{BIT(DISCARD), R(RANGE_UNALIGNED), INVALID | TOO_BIG},
	{BIT(DISCARD), R(RANGE_UNALIGNED), ACCEPTED, WORLD_FALLBACK,
	 .why = "an ordinary memfd zeroes parts of pages"},
	{BIT(DISCARD), R(RANGE_WRAPS), INVALID | TOO_BIG},
	{BIT(DISCARD), R(MEMFD_BEYOND_END), ACCEPTED | INVALID | TOO_BIG,
	 .why = "nothing is there to be discarded"},

	/* Mappings. */
	{BIT(MAP), R(RANGE_EMPTY), INVALID},
	{BIT(MAP), R(RANGE_UNALIGNED), INVALID | OVERFLOWS | NO_DEVICE},
	{BIT(MAP), R(RANGE_UNALIGNED), ACCEPTED, .when = takes_part_of_page,
	 .why = "mmap() takes the whole of a page that is begun"},
	{BIT(MAP), R(RANGE_UNALIGNED), NO_SPACE, .when = is_long},
	{BIT(MAP), R(RANGE_WRAPS), INVALID | OVERFLOWS | NO_SPACE},
	{BIT(MAP), R(MEMFD_BEYOND_END), ACCEPTED | OVERFLOWS | NO_DEVICE,
	 .why = "a touch past the end is SIGBUS"},
	{BIT(MAP), R(MEMFD_BEYOND_END), NO_SPACE, .when = is_long},
	{BIT(MAP), R(FLAGS_UNKNOWN), ANY, .why = "mmap() passes over protections it does not know"},
	{BIT(MAP), R(CONFLICT), ANY, .why = "a member that must be 0"},
	{BIT(MAP), R(MEMFD_NOT_MAPPABLE), NO_DEVICE, WORLD_GUEST},
	{BIT(MAP), R(MEMFD_NOT_MAPPABLE), NO_SPACE, WORLD_GUEST, .when = is_long},
	{BIT(POPULATE), R(RANGE_EMPTY), ACCEPTED | INVALID | UNASKED,
	 .why = "madvise() does nothing then"},
	{BIT(POPULATE), R(RANGE_UNALIGNED), INVALID | UNASKED},
	{BIT(POPULATE), R(RANGE_UNALIGNED), ACCEPTED | FAULT, .when = takes_part_of_page,
	 .why = "madvise() takes the whole of a page that is begun"},
	{BIT(POPULATE), R(RANGE_WRAPS), UNASKED},
	{BIT(POPULATE), R(MAP_BEYOND_END), UNASKED},
	{BIT(POPULATE), R(ARGUMENT), ANY, .why = "how many threads"},
	{BIT(POPULATE), R(MEMFD_PRIVATE), FAULT, WORLD_MAPPABLE},

	/* Guest memory: what the kernel has there. */
	{ACCESSES, R(AS_BEYOND_LIMIT), INVALID},
	{COPIES, R(RANGE_WRAPS), INVALID},
	{ACCESSES, R(GPA_UNMAPPED), FAULT},
	{ACCESSES, R(NO_HOST_SIDE), FAULT, WORLD_PRIVATE},
	{ACCESSES, R(MEMFD_PRIVATE), FAULT, WORLD_PRIVATE},
	{ACCESSES, R(ACCESS_READONLY), DENIED},
	{ACCESSES, R(ACCESS_FAULT), FAULT},
	{BIT(TRANSLATE), R(FLAGS_UNKNOWN), ANY, .why = "of gmem_vm_translate()'s own"},
	{SINGLES, R(ACCESS_UNALIGNED), ANY, .why = "it would not be one access"},
	{SINGLES, R(ACCESS_NOT_ATOMIC), ACCEPTED | FAULT,
	 .why = "a fault-proof copy is not one access"},
	{BIT(DROP), R(RANGE_EMPTY), INVALID},
	{BIT(DROP), R(RANGE_UNALIGNED), INVALID},
	{BIT(DROP), R(RANGE_WRAPS), INVALID},
	{BIT(DROP), R(GPA_UNMAPPED), FAULT},
	{BIT(DROP), R(ACCESS_READONLY), DENIED},

	/* Attributes. */
	{BIT(CONVERT), R(ARGUMENT), ANY, .why = "the policy is the library's own"},
	{BIT(CONVERT), R(RANGE_EMPTY), INVALID | NOT_TTY},
	{BIT(CONVERT), R(RANGE_UNALIGNED), INVALID | NOT_TTY},
	{BIT(CONVERT), R(RANGE_WRAPS), INVALID | NOT_TTY},
	{BIT(CONVERT), R(GPA_BEYOND_WIDTH), ACCEPTED | INVALID | NOT_TTY,
	 .why = "KVM sets attributes of any address"},
	{BIT(CONVERT), R(CAP_UNSUPPORTED), INVALID | NOT_TTY, WORLD_PLAIN},
	{BIT(CONVERT), R(CAP_UNSUPPORTED), ACCEPTED, WORLD_PLAIN, .when = sets_shared,
	 .why = "no attribute at all is what such a VM has"},
	{BIT(CONVERT), R(GPA_UNMAPPED), ACCEPTED, WORLD_PRIVATE,
	 .why = "the guest's next touch stops the vCPU for good"},
	{BIT(CONVERT), R(NO_PRIVATE_SIDE), ACCEPTED, WORLD_PRIVATE,
	 .why = "the guest's next touch stops the vCPU for good"},
	{BIT(CONVERT), R(NO_HOST_SIDE), ACCEPTED, WORLD_PRIVATE,
	 .why = "the guest's next touch stops the vCPU for good"},

	/* VMs. */
	{BIT(VM), R(VM_TYPE), INVALID},
	{BIT(VM), R(FLAGS_UNKNOWN), ACCEPTED, .why = "of the library's own"},
	{BIT(VM), R(ID_BEYOND_LIMIT), ACCEPTED, .why = "KVM says so of a slot alone"},
	{BIT(VM), R(KVM_NO_DEVICE), NO_ENTRY},
	{BIT(VM), R(KVM_NOT_KVM), NOT_TTY},
	{BIT(VM), R(FD_INVALID), BAD_FD},
	{BIT(VM), R(FD_NOT_VM), NOT_TTY},
};
#define ROWS (sizeof(rows) / sizeof(rows[0]))

/* What the library accepts beside the kernel. */
static const struct {
	uint64_t steps;
	unsigned int may;
	bool (*when)(const struct world *world, const struct step *step);
	const char *why;
} extras[] = {
	{BIT(FLAGS), INVALID, changes_nothing, "what is so already needs no call"},
	{BIT(RESERVE), UNASKED, NULL, "KVM is not told of reservations"},
	{BIT(RESERVE), EXISTS, is_stranger_about, "KVM has what the library was not told of"},
};

/* ---- What no step reaches ---- */

static const struct {
	enum gmem_reason reason;
	const char *why;
} unreachable[] = {
	{R(NULL), "pointers"},
	{R(OPTS_SIZE), "structures"},
	{R(OPTS_TAIL), "structures"},
	{R(FORKED), "fork"},
	{R(IN_CALLBACK), "callbacks"},
	{R(FD_NOT_VCPU), "vCPUs"},
	{R(UNDO_FAILED), "injection"},
	{R(DISCARD_UNSUPPORTED), "memory of other kinds"},
	{R(NOTIFIER_REFUSED), "callbacks"},
	{R(HYPERCALL_REFUSED), "vCPUs"},
	{R(EXIT_STUCK), "vCPUs"},
	{R(EXIT_MISSING), "vCPUs"},
	{R(EXIT_GONE), "vCPUs"},
	{R(EXIT_UNKNOWN), "vCPUs"},
	{R(STOPPED), "threads"},
	{R(CAP_PROBE_FAILED), "injection"},
	{R(KERNEL_TOO_OLD), "kernels"},
	{R(KVM_NO_PERMISSION), "users"},
	{R(KVM_NO_HARDWARE), "machines"},
	{R(KVM_BLOCKED), "filters"},
	{R(NO_MEMORY), "no verdict"},
	{R(FD_LIMIT), "no verdict"},
	{R(POISONED), "damage"},
	{R(KERNEL_REFUSED), "forbidden"},
};

const char *expect_unreachable(enum gmem_reason reason)
{
	for (size_t i = 0; i < sizeof(unreachable) / sizeof(unreachable[0]); i++)
		if (unreachable[i].reason == reason)
			return unreachable[i].why;
	return NULL;
}

bool expect_is_reachable(enum gmem_reason reason, unsigned int has)
{
	for (size_t i = 0; i < ROWS; i++)
		if (rows[i].reason == reason && (rows[i].needs & has) == rows[i].needs)
			return reason != GMEM_REASON_NONE;
	return false;
}

enum gmem_reason expect_find_forgotten(void)
{
	for (size_t i = 0; i < ROWS; i++)
		if (rows[i].may & (ACCEPTED | CHANGED) && !rows[i].why)
			return rows[i].reason;
	for (int i = 1; i < 4096; i++) {
		enum gmem_reason reason = (enum gmem_reason)i;

		if (strcmp(gmem_reason_to_string(reason), "UNKNOWN") != 0 &&
		    !expect_is_reachable(reason, UINT32_MAX) && !expect_unreachable(reason))
			return reason;
	}
	return GMEM_REASON_NONE;
}

/* ---- Judgement ---- */

bool expect_no_verdict(const struct answer *library, const struct answer *twin)
{
	static const int errors[] = {ENOMEM, EMFILE, ENFILE, EINTR, EAGAIN};

	/* A refusal that needed nothing of the machine is a verdict, whatever the twin met. */
	for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++)
		if (library->error == errors[i] ||
		    (library->error == 0 && twin->error == errors[i]))
			return true;
	return false;
}

static bool is_listed(const struct world *world, const struct step *step, enum gmem_reason reason,
		      unsigned int bit)
{
	/* What no region can say is refused for whatever comes first. */
	unsigned int always = BINDINGS >> step->op & 1 ? UNASKED : 0;

	/* Of several, KVM stops at one that is there already, which the library passes. */
	if (step->op == STEP_MANY)
		always |= TAKEN;
	/* The mapping of an ordinary memfd is refused before KVM is asked. */
	if (always && world->has & WORLD_FALLBACK)
		always |= INVALID | OVERFLOWS;
	for (size_t i = 0; i < ROWS; i++)
		if (rows[i].steps >> step->op & 1 && rows[i].reason == reason &&
		    (rows[i].may | always) & bit && (rows[i].needs & world->has) == rows[i].needs &&
		    (!rows[i].when || rows[i].when(world, step)))
			return true;
	return false;
}

static bool is_extra(const struct world *world, const struct step *step, unsigned int bit)
{
	for (size_t i = 0; i < sizeof(extras) / sizeof(extras[0]); i++)
		if (extras[i].steps >> step->op & 1 && extras[i].may & bit &&
		    (!extras[i].when || extras[i].when(world, step)))
			return true;
	return false;
}

/* Whether a slot that the library gives once more is what was asked for. */
static bool is_alike(const struct step_slot *asked, const struct step_slot *got)
{
	return asked->gpa == got->gpa && asked->size == got->size && asked->offset == got->offset &&
	       asked->memfd == got->memfd && asked->map == got->map && asked->host == got->host &&
	       asked->as_id == got->as_id &&
	       (!(asked->flags & GMEM_SLOT_FIXED_ID) || asked->id == got->id) &&
	       (asked->flags | GMEM_SLOT_FIXED_ID) == (got->flags | GMEM_SLOT_FIXED_ID);
}

static bool are_alike(const struct world *world, const struct step *step,
		      const struct answer *library)
{
	for (unsigned int i = 0; i < step->count; i++) {
		uint8_t same = library->same[i];
		bool here = same >= step->at && same < step->at + step->count;

		if (same != STEP_NOWHERE &&
		    !is_alike(&step->slots[i],
			      here ? &step->slots[same - step->at] : &world->slots[same].asked))
			return false;
	}
	return true;
}

bool expect_holds(const struct world *world, const struct step *step, const struct answer *library,
		  const struct answer *twin)
{
	unsigned int bit = bit_of(twin);

	if (library->broken)
		return false;
	/* What is known is refused before the kernel is asked, but for the policy of a new file. */
	if (library->error && library->ioctls && world->alone && step->op != STEP_VM &&
	    step->op != STEP_MEMFD)
		return false;
	if (library->error)
		return is_listed(world, step, library->reason, bit);
	/* Of an identical slot KVM says what it says. */
	if (answer_is_same(library, step->count))
		return bit & (ACCEPTED | CHANGED | TAKEN) && are_alike(world, step, library);
	if (twin->error)
		return is_extra(world, step, bit);
	return !twin->changed && library->value == twin->value;
}
