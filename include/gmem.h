/* SPDX-License-Identifier: MIT */
/*
 * libgmem: KVM's guest_memfd for VMMs.
 *
 * Conventions, stated once:
 *
 *  - Handles are opaque. A function that can fail returns 0 or a negative errno. A function that
 *    makes a handle stores it through its last argument; on failure it stores NULL there, and
 *    nothing else has changed.
 *  - Destructors (gmem_*_close) return nothing, accept NULL and cannot fail. Any order of closing
 *    is safe: a slot keeps its VM, its memfd and its mapping; a mapping keeps its memfd; a memfd
 *    keeps its VM.
 *  - A caller's descriptor is duplicated with close-on-exec and never consumed.
 *  - Ranges are half open, [start, start + size). Offsets are bytes in the file, gpa are bytes of
 *    guest-physical address, sizes are bytes. "A page" is the host's page (4, 16 or 64 KiB).
 *  - An options struct begins with `sz`, which the caller sets to its sizeof. Members that the
 *    caller's version lacks take their default, which is always zero; a member that this library
 *    does not know must be zero. A struct that is filled in begins so too: no more than sz bytes
 * are written, and members that this library does not know become zero.
 *  - After a failure the calling thread can ask for a reason (one a cause) and for a sentence with
 *    the numbers; see gmem_error_get_reason(). Four reasons are not repeated below:
 *    GMEM_REASON_NULL (EINVAL) where a pointer is taken, GMEM_REASON_OPTS_SIZE (EINVAL) and
 *    GMEM_REASON_OPTS_TAIL (E2BIG) where options are, and GMEM_REASON_KVM_BLOCKED (EPERM, ENOSYS)
 *    where a syscall is made that a filter can forbid.
 *  - Threads: there is no global mutable state but the thread's own last error. Calls that read a
 *    VM (translate, read, write, load, store, get_*) run from any thread beside calls that change
 *    it; calls that change one VM serialise inside it. A handle must not be closed while another
 *    thread uses that handle.
 *  - After fork(), the child can only close its handles and use those gmem_*_get_* calls that do
 *    not list FORKED; every other call answers EIO (GMEM_REASON_FORKED), as KVM itself does.
 *
 * gmem(7) holds the overview and the list of things that the kernel accepts and this library
 * deliberately refuses.
 */
#ifndef GMEM_H
#define GMEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

struct gmem_vm;
struct gmem_memfd;
struct gmem_map;
struct gmem_slot;
struct gmem_notifier;
struct gmem_vcpu;
struct kvm_run; /* <linux/kvm.h> */

/* ---- Errors ------------------------------------------------------------------------------- */

/*
 * Why the last call of this thread failed. Values are never reused or renumbered. Behind each
 * stands the errno that comes with it.
 */
enum gmem_reason {
	GMEM_REASON_NONE = 0, /* no call of this thread has failed yet */

	/* The call. */
	GMEM_REASON_NULL = 1,		   /* EINVAL: a pointer that must be given is NULL */
	GMEM_REASON_OPTS_SIZE = 2,	   /* EINVAL: sz is not the size of an options struct */
	GMEM_REASON_OPTS_TAIL = 3,	   /* E2BIG: a member unknown to this library is not zero */
	GMEM_REASON_ARGUMENT = 4,	   /* EINVAL: a value outside its enumeration or limit */
	GMEM_REASON_CONFLICT = 5,	   /* EINVAL: members that exclude or require each other */
	GMEM_REASON_FLAGS_UNKNOWN = 6,	   /* EINVAL: flag bits that neither side knows */
	GMEM_REASON_FLAGS_UNSUPPORTED = 7, /* EOPNOTSUPP: known flags that this VM lacks */
	GMEM_REASON_FORKED = 8,		   /* EIO: the VM belongs to the parent process */
	GMEM_REASON_IN_CALLBACK = 9,	   /* EDEADLK: a changing call from a callback */

	/* Ranges. */
	GMEM_REASON_RANGE_EMPTY = 20,	   /* EINVAL: size is zero */
	GMEM_REASON_RANGE_UNALIGNED = 21,  /* EINVAL: start or size is not a multiple of the page */
	GMEM_REASON_RANGE_WRAPS = 22,	   /* EOVERFLOW: start + size does not fit */
	GMEM_REASON_GPA_BEYOND_WIDTH = 23, /* ERANGE: past the guest's physical address width */
	GMEM_REASON_MEMFD_BEYOND_END = 24, /* ERANGE: past the end of the file */
	GMEM_REASON_MAP_BEYOND_END = 25,   /* ERANGE: outside the mapping */
	GMEM_REASON_HOST_NOT_CANONICAL = 26, /* ERANGE: no user address of this machine */
	GMEM_REASON_TOO_LARGE = 27,	     /* ERANGE: no file of this size, 2^63 bytes or more */
	GMEM_REASON_TOO_MANY_PAGES = 28,     /* ERANGE: a slot of 2^31 pages or more */

	/* Overlaps. The message names the slot or range in the way. */
	GMEM_REASON_GPA_OVERLAP = 40,	/* EEXIST: another slot has these guest addresses */
	GMEM_REASON_GPA_RESERVED = 41,	/* EEXIST: reserved by the VMM for itself */
	GMEM_REASON_MEMFD_OVERLAP = 42, /* EEXIST: this part of the guest_memfd is bound already */

	/* Slot ids and address spaces. */
	GMEM_REASON_ID_BEYOND_LIMIT = 60, /* ERANGE: the kernel has fewer slots */
	GMEM_REASON_ID_NOT_GRANTED = 61,  /* EPERM: the VMM kept this id for itself */
	GMEM_REASON_ID_TAKEN = 62,	  /* EEXIST: another slot has this id */
	GMEM_REASON_IDS_EXHAUSTED = 63,	  /* ENOSPC: no granted id is free */
	GMEM_REASON_AS_BEYOND_LIMIT = 64, /* ERANGE: the VM has fewer address spaces */

	/* Descriptors and what is behind them. */
	GMEM_REASON_FD_INVALID = 80,	     /* EBADF: not an open descriptor */
	GMEM_REASON_FD_NOT_VM = 81,	     /* ENOTTY: not a KVM VM */
	GMEM_REASON_FD_NOT_GUEST_MEMFD = 82, /* EINVAL: not a guest_memfd */
	GMEM_REASON_MEMFD_FOREIGN = 83, /* EXDEV: made for another VM, or for no VM known here */
	GMEM_REASON_MEMFD_NOT_MAPPABLE = 84, /* ENODEV: made without GMEM_MEMFD_MMAP */
	GMEM_REASON_MEMFD_IGNORED = 85,	     /* EINVAL: the kernel would not use it for the guest */
	GMEM_REASON_MEMFD_UNTOUCHABLE = 86,  /* EINVAL: host and KVM could not touch it */
	GMEM_REASON_MEMFD_HIDES_SHARED = 87, /* EINVAL: it would take the shared half's place */
	GMEM_REASON_MEMFD_NO_DIRTY_LOG = 88, /* EOPNOTSUPP: guest_memfd slots have no dirty log */
	GMEM_REASON_MEMFD_NO_READONLY = 89,  /* EOPNOTSUPP: guest_memfd slots are writable */
	GMEM_REASON_HOST_NOT_MAPPING = 90,   /* EINVAL: the address is not this guest_memfd range */
	GMEM_REASON_MEMFD_PRIVATE = 91,	     /* EFAULT: the host may not touch this memory */
	GMEM_REASON_FALLBACK_UNSUITABLE = 92, /* EINVAL: a sealed memfd cannot stand in for this */
	GMEM_REASON_FD_NOT_VCPU = 93,	      /* ENOTTY: not a KVM vCPU */

	/* NUMA. */
	GMEM_REASON_NUMA_NEEDS_MMAP = 100, /* EINVAL: a policy is set through a mapping */
	GMEM_REASON_NUMA_IGNORED = 101,	   /* EOPNOTSUPP: accepted by the kernel without effect */
	GMEM_REASON_NUMA_REFUSED = 102,	   /* kernel's errno: mode or nodes are not possible here */

	/* State. */
	GMEM_REASON_SLOT_DELETED = 120,	  /* ESTALE: the slot is no longer bound */
	GMEM_REASON_SLOT_ADOPTED = 121,	  /* EPERM: the VMM's own slot, only the VMM changes it */
	GMEM_REASON_NEEDS_QUIESCE = 122,  /* EBUSY: vCPUs could run while memory is missing */
	GMEM_REASON_QUIESCE_FAILED = 123, /* the callback's errno */
	GMEM_REASON_UNDO_FAILED = 124,	  /* ENOTRECOVERABLE: only closing is left */

	/* Access by guest address. */
	GMEM_REASON_GPA_UNMAPPED = 140,	    /* EFAULT: no slot there */
	GMEM_REASON_NO_HOST_SIDE = 141,	    /* EFAULT: the slot has no memory the host can reach */
	GMEM_REASON_ACCESS_READONLY = 142,  /* EACCES: a read-only slot or mapping */
	GMEM_REASON_ACCESS_UNALIGNED = 143, /* EINVAL: an atomic access across its own size */
	GMEM_REASON_ACCESS_FAULT = 144, /* EFAULT: the memory behind the slot cannot be touched */
	GMEM_REASON_ACCESS_NOT_ATOMIC = 145,   /* EOPNOTSUPP: fault-proof access is not atomic */
	GMEM_REASON_DISCARD_UNSUPPORTED = 146, /* EOPNOTSUPP: the backing cannot drop pages */

	/* Conversion and exits. */
	GMEM_REASON_NO_PRIVATE_SIDE = 150, /* EFAULT: a slot without guest_memfd is never private */
	GMEM_REASON_NOTIFIER_REFUSED = 151,  /* the callback's errno */
	GMEM_REASON_HYPERCALL_REFUSED = 152, /* EINVAL: the guest's arguments make no sense */
	GMEM_REASON_EXIT_STUCK = 153,	/* ELOOP: the same fault again, though all is as it asks */
	GMEM_REASON_EXIT_MISSING = 154, /* ENODATA: a page that its owner has to fill first */
	GMEM_REASON_EXIT_GONE = 155,	/* EFAULT: the memory behind the address is gone */
	GMEM_REASON_EXIT_UNKNOWN = 156, /* EOPNOTSUPP: a fault of a kind not known here */
	GMEM_REASON_STOPPED = 157,	/* ECANCELED: the caller asked to stop */

	/* Capabilities and the kernel. */
	GMEM_REASON_CAP_UNSUPPORTED = 160,   /* EOPNOTSUPP: this kernel or VM type lacks it */
	GMEM_REASON_CAP_PROBE_FAILED = 161,  /* probe's errno: could not be found out */
	GMEM_REASON_KERNEL_TOO_OLD = 162,    /* EOPNOTSUPP: no KVM_SET_USER_MEMORY_REGION2 */
	GMEM_REASON_VM_TYPE = 163,	     /* EINVAL: the kernel makes no VM of this type */
	GMEM_REASON_KVM_NO_DEVICE = 164,     /* ENOENT: the KVM device does not exist */
	GMEM_REASON_KVM_NO_PERMISSION = 165, /* EACCES or EPERM: it may not be opened */
	GMEM_REASON_KVM_NO_HARDWARE = 166,   /* ENODEV or ENXIO: nothing behind the device */
	GMEM_REASON_KVM_NOT_KVM = 167,	     /* ENOTTY: it is not KVM, or its interface is not 12 */
	GMEM_REASON_KVM_BLOCKED = 168,	  /* EPERM or ENOSYS: a filter such as seccomp forbids it */
	GMEM_REASON_NO_MEMORY = 169,	  /* ENOMEM */
	GMEM_REASON_FD_LIMIT = 170,	  /* EMFILE or ENFILE */
	GMEM_REASON_POISONED = 171,	  /* EHWPOISON: a page is damaged */
	GMEM_REASON_KERNEL_REFUSED = 172, /* kernel's errno: a refusal nobody could foresee */
};

/* The reason of this thread's last failure; a call that succeeds leaves it. Any thread. */
enum gmem_reason gmem_error_get_reason(void);

/*
 * The sentence of this thread's last failure, "" before the first. Owned by the library, valid
 * until the thread's next failing call; never NULL. Any thread.
 */
const char *gmem_error_get_message(void);

/* The name of a reason, such as "RANGE_WRAPS"; "UNKNOWN" for other values. Static. Any thread. */
const char *gmem_reason_to_string(enum gmem_reason reason);

/* The version of the library in use, such as "0.1.0". Static. Any thread. */
const char *gmem_get_version(void);

enum gmem_log_level {
	GMEM_LOG_ERROR = 1,   /* a call failed; the text is its message */
	GMEM_LOG_WARNING = 2, /* something could not be undone or given back; no call failed */
};

/*
 * Called from the thread in which the thing happened, with no lock of the library held. It must
 * not call functions that change the VM (they answer EDEADLK).
 */
typedef void gmem_log_fn(void *data, enum gmem_log_level level, const char *message);

/* ---- VM ----------------------------------------------------------------------------------- */

/*
 * What a VM can do, each found once when the handle is made, on the VM's own descriptor.
 * The values are those of the kernel's capability where a KVM_CAP_ is named
 * (Documentation/virt/kvm/api.rst), else as given here.
 */
enum gmem_cap {
	GMEM_CAP_GUEST_MEMFD = 1,	/* KVM_CAP_GUEST_MEMFD */
	GMEM_CAP_GUEST_MEMFD_FLAGS = 2, /* KVM_CAP_GUEST_MEMFD_FLAGS: flags creation accepts */
	GMEM_CAP_USER_MEMORY2 = 3,	/* KVM_CAP_USER_MEMORY2 */
	GMEM_CAP_MEMORY_ATTRIBUTES = 4, /* KVM_CAP_MEMORY_ATTRIBUTES: mask, 8 is private */
	GMEM_CAP_MEMORY_FAULT_INFO = 5, /* KVM_CAP_MEMORY_FAULT_INFO */
	GMEM_CAP_PRE_FAULT_MEMORY = 6,	/* KVM_CAP_PRE_FAULT_MEMORY */
	GMEM_CAP_READONLY_MEM = 7,	/* KVM_CAP_READONLY_MEM */
	GMEM_CAP_NR_MEMSLOTS = 8,	/* KVM_CAP_NR_MEMSLOTS: slots in each address space */
	GMEM_CAP_NR_ADDRESS_SPACES = 9, /* KVM_CAP_MULTI_ADDRESS_SPACE: 1 or more */
	GMEM_CAP_VM_TYPES = 10,		/* KVM_CAP_VM_TYPES: bit n is type n (x86) */
	GMEM_CAP_GPA_BITS = 11,		/* width of guest addresses, by trying one-page slots */
	GMEM_CAP_HVA_BITS = 12,		/* width of this process's addresses, by trying mappings */
	GMEM_CAP_USERFAULTFD = 13,	/* on a guest_memfd mapping: 1 missing, 2 wp, 4 minor */
	GMEM_CAP_NUMA = 14,		/* 1: a policy set through a guest_memfd mapping holds */
	GMEM_CAP_BIND_CHECKED = 15,	/* 1: the kernel refuses a binding whose range wraps */
	GMEM_CAP_EXIT_HYPERCALL = 16,	/* KVM_CAP_EXIT_HYPERCALL: mask, bit 12 is MAP_GPA_RANGE */
	GMEM_CAP_CONVERT_IN_PLACE = 17, /* gmem_memfd_convert(): supported by no kernel yet */
};

/* KVM_MEMORY_ATTRIBUTE_PRIVATE, in the value of GMEM_CAP_MEMORY_ATTRIBUTES. */
#define GMEM_ATTRIBUTE_PRIVATE UINT64_C(8)

/* Reads and writes never fault in the VMM: they answer EFAULT instead, at the cost of a syscall. */
#define GMEM_VM_FAULT_PROOF UINT64_C(1)

struct gmem_vm_opts {
	size_t sz;
	const char *device; /* path of the KVM device; NULL: "/dev/kvm". Not used by open_fd */
	uint64_t type;	    /* argument of KVM_CREATE_VM; 0: the default */
	uint64_t flags;	    /* GMEM_VM_* */
	uint32_t id_first;  /* slot ids granted to the library in each address space: from here, */
	uint32_t id_count;  /* that many; 0: all from id_first on */
	gmem_log_fn *log;   /* NULL: none */
	void *log_data;
};

/*
 * Make a VM and a handle for it.
 *
 * @opts: NULL for the defaults
 * @ret: the handle; close it with gmem_vm_close()
 *
 * Capabilities are found now: a throw-away guest_memfd and about ten one-page slots at the tops of
 * possible guest address widths come and go.
 *
 * Errors: FLAGS_UNKNOWN; KVM_NO_DEVICE; KVM_NO_PERMISSION; KVM_NO_HARDWARE; KVM_NOT_KVM; VM_TYPE;
 * KERNEL_TOO_OLD; ID_BEYOND_LIMIT; NO_MEMORY; FD_LIMIT; KERNEL_REFUSED.
 */
int gmem_vm_open(const struct gmem_vm_opts *opts, struct gmem_vm **ret);

/*
 * Make a handle for a VM that the VMM has made. The descriptor is duplicated; the VMM goes on
 * using its own. Slots that the VMM sets itself are told to the library by gmem_slot_adopt() or
 * gmem_vm_reserve(). Call it before vCPUs run, and while no other thread changes slots of the VM:
 * it probes with throw-away slots, as gmem_vm_open() does.
 *
 * @vm_fd: what KVM_CREATE_VM returned
 * @opts: as for gmem_vm_open(), but device must be NULL; type is what the VMM gave KVM_CREATE_VM,
 *        which no kernel tells: SNP and TDX guests are answered in another form than others
 * @ret: the handle
 *
 * Probing needs one free id: the highest that is granted and free of the highest eight.
 *
 * Errors: FLAGS_UNKNOWN; CONFLICT; FD_INVALID; FD_NOT_VM; FORKED (another process made the VM, or
 * it is dead); KERNEL_TOO_OLD; ID_BEYOND_LIMIT; NO_MEMORY; FD_LIMIT; KERNEL_REFUSED.
 */
int gmem_vm_open_fd(int vm_fd, const struct gmem_vm_opts *opts, struct gmem_vm **ret);

/*
 * Drop the caller's reference. The VM's descriptor is closed when the last memfd, mapping and slot
 * made with it are closed too; addresses kept reserved for late readers are given back then.
 */
void gmem_vm_close(struct gmem_vm *vm);

/* The library's descriptor of the VM, which stays the library's. -EINVAL for NULL. Any thread. */
int gmem_vm_get_fd(const struct gmem_vm *vm);

/*
 * Ask for a capability.
 *
 * @value: set to the capability's value, or to 0 where the call fails
 *
 * Three answers: 0 supported; -EOPNOTSUPP (CAP_UNSUPPORTED) the kernel or this VM type lacks it;
 * another errno (CAP_PROBE_FAILED) it could not be found out, and the message says why.
 * Any thread; no syscall.
 *
 * Errors: ARGUMENT; CAP_UNSUPPORTED; CAP_PROBE_FAILED.
 */
int gmem_vm_get_cap(const struct gmem_vm *vm, enum gmem_cap cap, uint64_t *value);

/* The name of a capability, such as "GUEST_MEMFD_FLAGS"; "UNKNOWN" for others. Any thread. */
const char *gmem_cap_to_string(enum gmem_cap cap);

struct gmem_reserve_opts {
	size_t sz;
	uint32_t as_id;	   /* address space; 0 but for SMM */
	uint32_t id_first; /* ids [id_first, id_first + id_count) */
	uint32_t id_count; /* 0: no ids */
	uint32_t pad;	   /* must be 0 */
	uint64_t gpa;	   /* guest addresses [gpa, gpa + size) */
	uint64_t size;	   /* 0: no addresses */
};

/*
 * Keep slot ids, guest addresses or both out of gmem_slot_create(): the VMM's own slots, MMIO.
 * Reservations last as long as the VM's handle. gmem_slot_adopt() may use what is reserved.
 *
 * Errors: CONFLICT (neither ids nor addresses, a start without how many, or pad not 0);
 * AS_BEYOND_LIMIT; RANGE_UNALIGNED; RANGE_WRAPS; GPA_BEYOND_WIDTH; GPA_OVERLAP; GPA_RESERVED;
 * ID_BEYOND_LIMIT; ID_TAKEN (by a slot, an earlier reservation, or one that was adopted);
 * NO_MEMORY; FORKED; IN_CALLBACK.
 */
int gmem_vm_reserve(struct gmem_vm *vm, const struct gmem_reserve_opts *opts);

/* ---- guest_memfd -------------------------------------------------------------------------- */

/* GUEST_MEMFD_FLAG_MMAP: the host can map it, and it is the guest's only memory in its slot. */
#define GMEM_MEMFD_MMAP UINT64_C(1)
/* GUEST_MEMFD_FLAG_INIT_SHARED: host and guest share all of it from the start. */
#define GMEM_MEMFD_INIT_SHARED UINT64_C(2)

/* What stands in where the kernel has no guest_memfd for this VM. */
enum gmem_fallback {
	GMEM_FALLBACK_NONE = 0,	 /* fail */
	GMEM_FALLBACK_MEMFD = 1, /* memfd_create(2), sealed against a change of size */
};

/* What a handle holds. */
enum gmem_memfd_kind {
	GMEM_MEMFD_KIND_GUEST = 1,  /* a guest_memfd */
	GMEM_MEMFD_KIND_SEALED = 2, /* an ordinary memfd: the fallback */
};

/* Where pages come from; the kernel's MPOL_ values (set_mempolicy(2)). */
enum gmem_numa {
	GMEM_NUMA_DEFAULT = 0, /* the policy of the thread that touches a page first */
	GMEM_NUMA_PREFERRED = 1,
	GMEM_NUMA_BIND = 2,
	GMEM_NUMA_INTERLEAVE = 3,
	GMEM_NUMA_PREFERRED_MANY = 5,
	GMEM_NUMA_WEIGHTED_INTERLEAVE = 6,
};

struct gmem_memfd_opts {
	size_t sz;
	uint64_t size;	/* bytes, a multiple of the page */
	uint64_t flags; /* exactly these, of GMEM_CAP_GUEST_MEMFD_FLAGS */
	enum gmem_fallback fallback;
	enum gmem_numa numa_mode;
	const uint64_t *numa_nodes; /* bit n of word n / 64 is node n; read during the call */
	size_t numa_words;	    /* words in numa_nodes; at most 16 */
	const char *name;	    /* shown in /proc for the fallback; NULL: "gmem" */
};

/*
 * Make a guest_memfd (KVM_CREATE_GUEST_MEMFD). It comes with close-on-exec and holds no page yet.
 * A NUMA policy is set before any page can exist, and read back through another mapping: a kernel
 * that would ignore it is found out (NUMA_IGNORED).
 *
 * With GMEM_FALLBACK_MEMFD, and only where GMEM_CAP_GUEST_MEMFD is not supported, an ordinary
 * sealed memfd is made instead; flags must then be GMEM_MEMFD_MMAP | GMEM_MEMFD_INIT_SHARED, since
 * that is what it can stand for. gmem_memfd_get_kind() tells.
 *
 * Errors: RANGE_EMPTY; RANGE_UNALIGNED; TOO_LARGE; FLAGS_UNKNOWN; FLAGS_UNSUPPORTED; ARGUMENT;
 * CAP_UNSUPPORTED; CAP_PROBE_FAILED; FALLBACK_UNSUITABLE; NUMA_NEEDS_MMAP; NUMA_IGNORED;
 * NUMA_REFUSED; NO_MEMORY; FD_LIMIT; KERNEL_REFUSED; FORKED; IN_CALLBACK.
 */
int gmem_memfd_create(struct gmem_vm *vm, const struct gmem_memfd_opts *opts,
		      struct gmem_memfd **ret);

/*
 * Take up a guest_memfd made elsewhere. The descriptor is duplicated.
 *
 * @vm: the VM it was made for, or NULL for one received from another process: it can then be
 *      mapped, allocated and discarded, but not bound
 * @fd: the descriptor
 *
 * Its flags are found by trying: GMEM_MEMFD_MMAP by mapping it, GMEM_MEMFD_INIT_SHARED by touching
 * its last page, which may allocate that one page. Whether it belongs to @vm only the kernel
 * knows: gmem_slot_create() tells.
 *
 * Errors: FD_INVALID; FD_NOT_GUEST_MEMFD; NO_MEMORY; FD_LIMIT; KERNEL_REFUSED; FORKED;
 * IN_CALLBACK.
 */
int gmem_memfd_open_fd(struct gmem_vm *vm, int fd, struct gmem_memfd **ret);

/* Drop the caller's reference; slots and mappings keep theirs. */
void gmem_memfd_close(struct gmem_memfd *memfd);

/* The library's descriptor, which stays the library's. -EINVAL for NULL. Any thread. */
int gmem_memfd_get_fd(const struct gmem_memfd *memfd);

/* Size in bytes; 0 for NULL. Any thread. */
uint64_t gmem_memfd_get_size(const struct gmem_memfd *memfd);

/* GMEM_MEMFD_* flags; 0 for NULL. Any thread. */
uint64_t gmem_memfd_get_flags(const struct gmem_memfd *memfd);

/* What is behind the handle; 0 for NULL. Any thread. */
enum gmem_memfd_kind gmem_memfd_get_kind(const struct gmem_memfd *memfd);

/*
 * Allocate pages now, so that a guest's first touch cannot fail for lack of memory. Goes on after
 * a signal. Where it fails, pages allocated so far stay: they read as zero, as all others.
 * Any thread.
 *
 * Errors: RANGE_EMPTY; RANGE_UNALIGNED; RANGE_WRAPS; MEMFD_BEYOND_END; NO_MEMORY; KERNEL_REFUSED;
 * FORKED.
 */
int gmem_memfd_allocate(struct gmem_memfd *memfd, uint64_t offset, uint64_t size);

/*
 * Give pages back to the host (FALLOC_FL_PUNCH_HOLE). The next touch by anybody finds zeros. vCPUs
 * may run. Any thread.
 *
 * Errors: RANGE_EMPTY; RANGE_UNALIGNED; RANGE_WRAPS; MEMFD_BEYOND_END; NO_MEMORY; KERNEL_REFUSED;
 * FORKED.
 */
int gmem_memfd_discard(struct gmem_memfd *memfd, uint64_t offset, uint64_t size);

/* ---- Mapping ------------------------------------------------------------------------------ */

#define GMEM_PROT_READ	1U
#define GMEM_PROT_WRITE 2U

struct gmem_map_opts {
	size_t sz;
	uint64_t offset; /* bytes in the file, a multiple of the page */
	uint64_t size;	 /* bytes, a multiple of the page */
	uint32_t prot;	 /* GMEM_PROT_*; 0: read and write */
	uint32_t pad;	 /* must be 0 */
};

/*
 * Map a part of a memfd into this process, shared, not inherited by child processes. No page is
 * touched.
 *
 * @opts: NULL for the whole file, read and write
 *
 * Errors: RANGE_EMPTY; RANGE_UNALIGNED; RANGE_WRAPS; MEMFD_BEYOND_END; FLAGS_UNKNOWN (prot);
 * CONFLICT (pad not 0); MEMFD_NOT_MAPPABLE; NO_MEMORY (also: no address space for it);
 * KERNEL_REFUSED; FORKED; IN_CALLBACK.
 */
int gmem_map_create(struct gmem_memfd *memfd, const struct gmem_map_opts *opts,
		    struct gmem_map **ret);

/*
 * Drop the caller's reference; slots keep theirs. When the last is gone the memory is unmapped. If
 * a slot ever used the mapping, its addresses stay reserved and inaccessible until
 * gmem_vm_reclaim(), so that a late use is a clean fault.
 */
void gmem_map_close(struct gmem_map *map);

/* First byte of the mapping, which is byte `offset` of the file; NULL for NULL. Any thread. */
void *gmem_map_get_addr(const struct gmem_map *map);

/* Where the mapping begins, in bytes in the file; 0 for NULL. Any thread. */
uint64_t gmem_map_get_offset(const struct gmem_map *map);

/* Its length in bytes; 0 for NULL. Any thread. */
uint64_t gmem_map_get_size(const struct gmem_map *map);

/*
 * Allocate pages and fill the host's page tables, so that later touches do not fault.
 *
 * @offset, @size: bytes in the file, within the mapping
 * @threads: how many to work with, the caller's among them; 0: one for each CPU the caller may run
 *           on; at most 256. They have all signals blocked.
 *
 * Goes on after a signal. Where it fails, pages populated so far stay. Any thread.
 *
 * Errors: RANGE_EMPTY; RANGE_UNALIGNED; RANGE_WRAPS; MAP_BEYOND_END; ARGUMENT; MEMFD_PRIVATE;
 * POISONED; NO_MEMORY; KERNEL_REFUSED; FORKED.
 */
int gmem_map_populate(struct gmem_map *map, uint64_t offset, uint64_t size, unsigned int threads);

/* ---- Memslot ------------------------------------------------------------------------------ */

/*
 * KVM_MEM_LOG_DIRTY_PAGES: not with a memfd; use a slot over its mapping. The log can also hold
 * pages that the guest has only read.
 */
#define GMEM_SLOT_LOG_DIRTY UINT64_C(1)
/* KVM_MEM_READONLY: guest writes exit as MMIO; not with a memfd; use a slot over its mapping. */
#define GMEM_SLOT_READONLY UINT64_C(2)
/* `id` is the id to use; without it the lowest free granted id is taken. */
#define GMEM_SLOT_FIXED_ID (UINT64_C(1) << 16)

/*
 * What a slot is made of:
 *
 *   memfd     map      host    the guest's memory
 *   mappable  NULL     NULL    the guest_memfd, with a mapping that the library makes
 *   mappable  its own  NULL    the guest_memfd, with this mapping, which must cover the range
 *   private   any      any     the guest_memfd where private; the mapping, the host memory or
 *                              nothing where shared
 *   NULL      any      NULL    the mapping's pages: an ordinary slot, with dirty log and read-only
 *   NULL      NULL     given   the caller's memory, which must outlive the slot
 *
 * A fallback memfd (GMEM_MEMFD_KIND_SEALED) is given like a mappable one and makes an ordinary
 * slot.
 */
struct gmem_slot_opts {
	size_t sz;
	uint64_t gpa;  /* first guest address, a multiple of the page */
	uint64_t size; /* bytes, a multiple of the page */
	struct gmem_memfd *memfd;
	uint64_t offset; /* bytes in the memfd, and in the map's file */
	struct gmem_map *map;
	void *host;	/* a multiple of the page */
	uint64_t flags; /* GMEM_SLOT_* */
	uint32_t id;	/* with GMEM_SLOT_FIXED_ID */
	uint32_t as_id; /* address space; 0 but for SMM */
};

/*
 * Bind memory to guest addresses (KVM_SET_USER_MEMORY_REGION2). All is checked first, in the order
 * of the list below, range by range, and a refusal makes no ioctl. Setting what is already set, all
 * members equal, changes nothing and gives the same slot once more: it stays until each handle is
 * closed. Deleting or replacing it through one of them does so for all.
 *
 * A slot of a mappable memfd without `map` gets a mapping of just its range.
 *
 * Errors: FORKED; IN_CALLBACK; FLAGS_UNKNOWN; CONFLICT (more or less than the table above);
 * AS_BEYOND_LIMIT; RANGE_EMPTY; RANGE_UNALIGNED; RANGE_WRAPS; GPA_BEYOND_WIDTH;
 * MEMFD_BEYOND_END; MAP_BEYOND_END; HOST_NOT_CANONICAL; GPA_RESERVED; GPA_OVERLAP; MEMFD_OVERLAP;
 * TOO_MANY_PAGES; ID_BEYOND_LIMIT; ID_NOT_GRANTED; ID_TAKEN; IDS_EXHAUSTED; MEMFD_FOREIGN;
 * MEMFD_NO_DIRTY_LOG; MEMFD_NO_READONLY; MEMFD_IGNORED; MEMFD_UNTOUCHABLE; MEMFD_HIDES_SHARED;
 * HOST_NOT_MAPPING; FLAGS_UNSUPPORTED; ACCESS_READONLY (a writable slot over a read-only mapping);
 * NO_MEMORY; KERNEL_REFUSED.
 */
int gmem_slot_create(struct gmem_vm *vm, const struct gmem_slot_opts *opts, struct gmem_slot **ret);

/*
 * Bind several at once, all or none: every entry is checked, against the others too, before the
 * first ioctl; if the kernel refuses one, those before it are undone in reverse.
 *
 * @opts: an array of @count structs, all of the size that the first one states; 1 to 65536
 * @ret: an array of @count handles; all NULL on failure
 *
 * Errors: those of gmem_slot_create(), the message naming the entry; ARGUMENT (count);
 * UNDO_FAILED where the kernel refused an undo: the slots that remain are then lost to the
 * library, and their memory stays reserved.
 */
int gmem_slot_create_many(struct gmem_vm *vm, const struct gmem_slot_opts *opts, size_t count,
			  struct gmem_slot **ret);

/*
 * Tell the library of a slot that the VMM has set itself: its addresses can be translated, and
 * its id, guest addresses and file range are known as taken. No ioctl is made, now or later.
 * GMEM_SLOT_FIXED_ID must be set. Where `memfd` is mappable, `map` or `host` must be what
 * the VMM gave KVM as userspace_addr. Memory given as `host` must outlive the handle. The id stays
 * the VMM's own, as if reserved, also when the handle is closed.
 *
 * Errors: those of gmem_slot_create() but for GPA_RESERVED, ID_NOT_GRANTED, IDS_EXHAUSTED and
 * KERNEL_REFUSED.
 */
int gmem_slot_adopt(struct gmem_vm *vm, const struct gmem_slot_opts *opts, struct gmem_slot **ret);

/*
 * Unbind now. The handle stays, to be closed; its getters answer as before. Waits for reads and
 * writes under way in the slot. An adopted slot is only forgotten.
 *
 * Errors: SLOT_DELETED; FORKED; IN_CALLBACK; NO_MEMORY; KERNEL_REFUSED (it is still bound).
 */
int gmem_slot_delete(struct gmem_slot *slot);

/*
 * Drop the caller's reference; with the last one the slot is unbound. If the kernel refuses that,
 * a warning is logged and the slot's own mapping is made inaccessible for good, so that the guest
 * cannot reach what the VMM maps there later.
 */
void gmem_slot_close(struct gmem_slot *slot);

/* Turn the dirty log of an ordinary slot on or off; `flags` is the new whole of GMEM_SLOT_LOG_DIRTY
 * and GMEM_SLOT_READONLY, of which only the first may change. vCPUs may run.
 *
 * Errors: FLAGS_UNKNOWN; CONFLICT (GMEM_SLOT_READONLY would change); MEMFD_NO_DIRTY_LOG;
 * MEMFD_NO_READONLY; SLOT_ADOPTED; SLOT_DELETED; FORKED; IN_CALLBACK; NO_MEMORY; KERNEL_REFUSED.
 */
int gmem_slot_set_flags(struct gmem_slot *slot, uint64_t flags);

/* The VMM has made no vCPU, so that replacing needs no quiesce. */
#define GMEM_REPLACE_NO_VCPUS UINT64_C(1)

struct gmem_replace_opts {
	size_t sz;
	uint64_t flags;		    /* GMEM_REPLACE_* */
	int (*quiesce)(void *data); /* stop all vCPUs: 0, or a negative errno to give up */
	void (*resume)(void *data); /* let them go on; follows each successful quiesce */
	void *data;
};

/*
 * Give a slot other memory or another place, under its id. KVM's guest_memfd slots are immutable
 * (kvm_set_memory_region()), so the old one is deleted before the new one is made, and the guest
 * has no memory there for a moment: either the VMM stops its vCPUs in quiesce, or it states that
 * there are none. Other threads that translate, read, write, load or store there meanwhile get
 * GPA_UNMAPPED, and addresses got before end with the old memory. No lock of the library is held
 * over the callbacks; they must not change the VM.
 *
 * If the kernel refuses the new slot, the old one is set again and the call fails; if that fails
 * too, the slot is gone (UNDO_FAILED) and can only be closed.
 *
 * @opts: the new slot; id and address space must be the slot's, or FIXED_ID absent
 *
 * Errors: those of gmem_slot_create() but for AS_BEYOND_LIMIT, ID_BEYOND_LIMIT, ID_NOT_GRANTED,
 * IDS_EXHAUSTED; NEEDS_QUIESCE; QUIESCE_FAILED; SLOT_ADOPTED; SLOT_DELETED; CONFLICT (another id or
 * address space, or one callback without the other); UNDO_FAILED.
 */
int gmem_slot_replace(struct gmem_slot *slot, const struct gmem_slot_opts *opts,
		      const struct gmem_replace_opts *replace);

/* A count that cannot be had. */
#define GMEM_UNKNOWN UINT64_MAX

/*
 * A slot's two halves. The first three are of the library's own map: `twice` is what the half that
 * lost a conversion may still hold, because the policy was to keep it or its discard failed. It is
 * a bound: from the first to the last page that such a call concerned. The last two are counted by
 * the kernel, page by page (mincore(2)), without what is swapped out; a private half that the host
 * cannot map cannot be counted. Where one memory is both halves, each counts the pages that are so.
 */
struct gmem_slot_memory {
	size_t sz;
	uint64_t private_bytes;
	uint64_t shared_bytes;
	uint64_t twice_bytes;
	uint64_t private_resident; /* bytes, or GMEM_UNKNOWN */
	uint64_t shared_resident;  /* bytes, or GMEM_UNKNOWN */
};

/*
 * What the slot's memory is, and how much of it there is. Any thread; beside changes the numbers
 * are those of no one moment, and of a slot that is deleted they say what is at its addresses now.
 *
 * Errors: OPTS_SIZE; FORKED.
 */
int gmem_slot_get_memory(const struct gmem_slot *slot, struct gmem_slot_memory *memory);

/* What was set. Each answers 0 or NULL for NULL, and is safe beside a replace. Any thread. */
uint32_t gmem_slot_get_id(const struct gmem_slot *slot);
uint32_t gmem_slot_get_as_id(const struct gmem_slot *slot);
uint64_t gmem_slot_get_gpa(const struct gmem_slot *slot);
uint64_t gmem_slot_get_size(const struct gmem_slot *slot);
uint64_t gmem_slot_get_offset(const struct gmem_slot *slot);
uint64_t gmem_slot_get_flags(const struct gmem_slot *slot);
/* The userspace_addr that KVM has; NULL for a slot without a host side. */
void *gmem_slot_get_addr(const struct gmem_slot *slot);

/* ---- Access by guest address -------------------------------------------------------------- */

/*
 * Where guest memory is in this process.
 *
 * @prot: what will be done with it, GMEM_PROT_*
 * @len: set to the bytes from @gpa to the end of its slot, or to the first private page before
 *       that; may be NULL
 * @addr: the address of @gpa
 *
 * Of memory that can become private the address is good until a conversion: a touch after that
 * would bring a page back that the conversion has dropped. A notifier tells of it in time.
 *
 * The address stays safe to use as long as the slot lives and is not replaced; after that, a use is
 * a clean fault until gmem_vm_reclaim(). Memory given as `host` is the caller's to keep. Any
 * thread; no lock, and no syscall but a short sleep where a change of slots has been stopped in its
 * middle.
 *
 * Errors: AS_BEYOND_LIMIT; FLAGS_UNKNOWN (prot); GPA_UNMAPPED; NO_HOST_SIDE; MEMFD_PRIVATE;
 * ACCESS_READONLY; FORKED.
 */
int gmem_vm_translate(struct gmem_vm *vm, uint32_t as_id, uint64_t gpa, uint32_t prot,
		      uint64_t *len, void **addr);

/*
 * Copy from or to guest memory, across slots that touch. The whole range is looked up before the
 * first byte is copied; what has been converted to private is refused, and is never touched. A
 * mapped guest_memfd that can become private, and any memory of a VM opened with
 * GMEM_VM_FAULT_PROOF, is copied so that memory that cannot be touched answers EFAULT; elsewhere
 * this is a plain copy.
 * A copy that fails in the middle (ACCESS_FAULT, or a slot that has just gone) leaves the part
 * before it copied. Not atomic.
 * Any thread.
 *
 * Errors: AS_BEYOND_LIMIT; RANGE_WRAPS; GPA_UNMAPPED; NO_HOST_SIDE; MEMFD_PRIVATE;
 * ACCESS_READONLY (write); ACCESS_FAULT; NO_MEMORY and KERNEL_REFUSED (of the fault-proof way);
 * FORKED. A length of 0 is no error.
 */
int gmem_vm_read(struct gmem_vm *vm, uint32_t as_id, uint64_t gpa, void *buf, size_t len);
int gmem_vm_write(struct gmem_vm *vm, uint32_t as_id, uint64_t gpa, const void *buf, size_t len);

/*
 * Load with acquire order, or store with release order, in one access: ring indices. gpa must be
 * a multiple of the size. Values are in the host's byte order. Any thread.
 *
 * Errors: AS_BEYOND_LIMIT; ACCESS_UNALIGNED (never for u8); GPA_UNMAPPED; NO_HOST_SIDE;
 * MEMFD_PRIVATE; ACCESS_READONLY (store); ACCESS_NOT_ATOMIC (where only the fault-proof copy is
 * safe: on a VM opened with GMEM_VM_FAULT_PROOF, and in a mappable guest_memfd that can become
 * private); FORKED.
 */
int gmem_vm_load_u8(struct gmem_vm *vm, uint32_t as_id, uint64_t gpa, uint8_t *value);
int gmem_vm_load_u16(struct gmem_vm *vm, uint32_t as_id, uint64_t gpa, uint16_t *value);
int gmem_vm_load_u32(struct gmem_vm *vm, uint32_t as_id, uint64_t gpa, uint32_t *value);
int gmem_vm_load_u64(struct gmem_vm *vm, uint32_t as_id, uint64_t gpa, uint64_t *value);
int gmem_vm_store_u8(struct gmem_vm *vm, uint32_t as_id, uint64_t gpa, uint8_t value);
int gmem_vm_store_u16(struct gmem_vm *vm, uint32_t as_id, uint64_t gpa, uint16_t value);
int gmem_vm_store_u32(struct gmem_vm *vm, uint32_t as_id, uint64_t gpa, uint32_t value);
int gmem_vm_store_u64(struct gmem_vm *vm, uint32_t as_id, uint64_t gpa, uint64_t value);

/*
 * Give the pages behind guest addresses of address space 0 back to the host, by whatever call fits
 * each slot's backing; the guest then reads zeros. The range may span slots; it is checked whole
 * first. Where a slot has two halves, both are dropped. Any thread; vCPUs may run.
 *
 * Errors: RANGE_EMPTY; RANGE_UNALIGNED; RANGE_WRAPS; GPA_UNMAPPED; ACCESS_READONLY (a read-only
 * slot); DISCARD_UNSUPPORTED (host memory that is read-only, sealed, locked, of several kinds in
 * one slot, or a private mapping of a file, whose old contents would come back); NO_MEMORY (also:
 * host memory that is not mapped); KERNEL_REFUSED; FORKED; IN_CALLBACK. Where backing or kernel
 * refuse, the parts before are discarded already, or will read as zeros at some later time.
 */
int gmem_vm_discard(struct gmem_vm *vm, uint64_t gpa, uint64_t size);

/*
 * Give back the addresses that were kept reserved after slots and mappings were closed. Call it
 * when no thread holds an address from gmem_vm_translate() or gmem_slot_get_addr() of a slot that
 * is gone or was replaced.
 *
 * @bytes: set to how much address space was given back, also where the call fails; may be NULL
 *
 * Errors: NO_MEMORY or KERNEL_REFUSED (the rest stays reserved); FORKED; IN_CALLBACK.
 */
int gmem_vm_reclaim(struct gmem_vm *vm, uint64_t *bytes);

/* ---- Conversion --------------------------------------------------------------------------- */

/*
 * Whose a page is. Each guest page of a VM with private memory is one of both; a VM without it has
 * shared pages alone. All pages begin shared.
 */
enum gmem_visibility {
	GMEM_VISIBILITY_SHARED = 0,  /* host and guest use it: the slot's host side */
	GMEM_VISIBILITY_PRIVATE = 1, /* the guest's alone: the slot's guest_memfd */
};

/* What becomes of the half that the guest does not use after a conversion. */
enum gmem_convert_policy {
	GMEM_CONVERT_DISCARD = 0, /* its pages are given back to the host */
	GMEM_CONVERT_KEEP = 1,	  /* they stay, and are counted as held twice */
};

/*
 * Make guest addresses private or shared (KVM_SET_MEMORY_ATTRIBUTES). The range may span slots of
 * address space 0. To become private, all of it must have a guest_memfd; to become shared, what has
 * one must have a host side too. What is never private, device memory or a hole, is shared already.
 * The order is:
 *
 *   1. everything is checked, and room is set aside for all tables
 *   2. each notifier's prepare
 *   3. one ioctl for each run of pages that is not so yet, whatever slots it spans; of more than
 *      64 runs, one over all
 *   4. the map changes, for readers at one moment; reads and writes under way there are waited for
 *   5. each notifier's commit
 *   6. with GMEM_CONVERT_DISCARD, the losing half's pages are dropped
 *
 * What is so already is skipped: a call that changes nothing, with nothing to drop, makes no system
 * call. A refusal in steps 1 to 3 leaves all as it was: what step 3 has done is set back, and
 * notifiers are told to abort. A discard that fails is no failure: it is logged, and its bytes are
 * counted as held twice; a later conversion of the range to what it is, with GMEM_CONVERT_DISCARD,
 * tries again. Contents after a conversion are undefined. Where one memory is both halves, there is
 * nothing to drop.
 *
 * Host memory with transparent huge pages comes back in pieces of their size: a touch of a shared
 * page brings up to 2 MiB, private neighbours among them; shared_resident above shared_bytes shows
 * it. Forbid them (MADV_NOHUGEPAGE), or convert in such steps.
 *
 * @gpa, @size: bytes, multiples of the page
 * @done: set to how many bytes, from @gpa on, are as asked when the call returns, or to 0 where a
 *        check refused it; may be NULL. Conversion in place, which kernels may have later, can stop
 *        in the middle (EAGAIN) and is resumed there
 *
 * vCPUs may run. From any thread; calls whose ranges overlap take turns, also while a notifier
 * runs. It takes the kernel some time for each page: convert much memory in parts, to be able to
 * stop or to show progress.
 *
 * Errors: ARGUMENT (to, policy); RANGE_EMPTY; RANGE_UNALIGNED; RANGE_WRAPS; GPA_BEYOND_WIDTH;
 * CAP_UNSUPPORTED (the VM has no private memory); GPA_UNMAPPED; NO_PRIVATE_SIDE; NO_HOST_SIDE;
 * NOTIFIER_REFUSED; NO_MEMORY; KERNEL_REFUSED; UNDO_FAILED (the kernel did not set back what it
 * had changed, and the guest cannot go on, though notifiers hear abort; gmem_vm_get_visibility()
 * tells what is what as far as there was memory to note it); FORKED; IN_CALLBACK.
 */
int gmem_vm_convert(struct gmem_vm *vm, uint64_t gpa, uint64_t size, enum gmem_visibility to,
		    enum gmem_convert_policy policy, uint64_t *done);

/*
 * What a guest address is. From any thread, beside conversions, without a lock.
 *
 * @size: set to how many bytes, from @gpa on, are the same; may be NULL. 2^64 - 1 - gpa: all that
 *        follow
 *
 * Errors: FORKED.
 */
int gmem_vm_get_visibility(const struct gmem_vm *vm, uint64_t gpa, enum gmem_visibility *visibility,
			   uint64_t *size);

/*
 * Tell the library what the VMM itself has made private or shared, with its own
 * KVM_SET_MEMORY_ATTRIBUTES. No ioctl is made, and slots are not looked at. What the
 * other half holds is not known, so the range counts as held twice.
 *
 * Errors: ARGUMENT; RANGE_EMPTY; RANGE_UNALIGNED; RANGE_WRAPS; GPA_BEYOND_WIDTH; CAP_UNSUPPORTED;
 * NO_MEMORY; FORKED; IN_CALLBACK.
 */
int gmem_vm_adopt_visibility(struct gmem_vm *vm, uint64_t gpa, uint64_t size,
			     enum gmem_visibility visibility);

/* One run of pages that changes. It may grow at its end. */
struct gmem_conversion {
	uint64_t gpa;
	uint64_t size;
	enum gmem_visibility to;
	uint32_t pad; /* 0 */
};

/*
 * Called around each run of pages that changes, in the thread that converts, with no lock of the
 * library held; they must not change the VM (EDEADLK), nor wait for a thread that converts.
 *
 * prepare, before the kernel is asked: what must not go on across the change is stopped (to
 * private: DMA is unmapped). 0, or a negative errno to refuse it all. commit, when it is done and
 * before the losing half is dropped: what is possible now is set up (to shared: DMA is mapped).
 * abort instead, for each prepare that succeeded, when it is not done.
 * Where a conversion stops in its middle, commit and abort come for parts of what was prepared,
 * which together are all of it.
 *
 * To shared, notifiers are called in the order in which they were added; to private, the other way
 * round, as one takes down what was built up. abort goes the way of prepare backwards.
 */
struct gmem_notifier_opts {
	size_t sz;
	int (*prepare)(void *data, const struct gmem_conversion *conversion); /* NULL: nothing */
	void (*commit)(void *data, const struct gmem_conversion *conversion); /* NULL: nothing */
	void (*abort)(void *data, const struct gmem_conversion *conversion);  /* NULL: nothing */
	void *data;
};

/*
 * Be told of conversions that begin from now on. The handle keeps the VM.
 *
 * Errors: CONFLICT (no callback at all); NO_MEMORY; FORKED; IN_CALLBACK.
 */
int gmem_vm_add_notifier(struct gmem_vm *vm, const struct gmem_notifier_opts *opts,
			 struct gmem_notifier **ret);

/*
 * Be told no more. Waits for conversions under way, so that no callback runs when it returns; from
 * a callback of the same VM it cannot wait, and callbacks of conversions under way still come.
 */
void gmem_notifier_close(struct gmem_notifier *notifier);

/*
 * Make a part of a guest_memfd private or shared in place, where one memory is both halves.
 * Reserved: no released kernel has it, GMEM_CAP_CONVERT_IN_PLACE is not supported, and this call
 * is refused. A page that somebody holds will stop it (EAGAIN) with @done bytes done; it is resumed
 * there once the page is let go.
 *
 * Errors: ARGUMENT; RANGE_EMPTY; RANGE_UNALIGNED; RANGE_WRAPS; MEMFD_BEYOND_END; CAP_UNSUPPORTED;
 * FORKED; IN_CALLBACK.
 */
int gmem_memfd_convert(struct gmem_memfd *memfd, uint64_t offset, uint64_t size,
		       enum gmem_visibility to, uint64_t *done);

/* ---- vCPU --------------------------------------------------------------------------------- */

/*
 * Let the guest ask for conversions: the hypercall KVM_HC_MAP_GPA_RANGE makes KVM_RUN return, and
 * gmem_vcpu_decode() reads it (KVM_CAP_EXIT_HYPERCALL). Without it KVM answers such a guest with
 * an error. It sets the whole of what exits so, which is this one hypercall on kernels up to 7.3.
 * The guest looks for KVM_FEATURE_HC_MAP_GPA_RANGE, bit 16 of EAX of CPUID leaf 0x40000001, which
 * the VMM sets; of SNP and TDX guests this carries their own page requests.
 *
 * Errors: CONFLICT (a VM given to gmem_vm_open_fd() without its type); CAP_UNSUPPORTED;
 * CAP_PROBE_FAILED; KERNEL_REFUSED; FORKED; IN_CALLBACK.
 */
int gmem_vm_enable_map_gpa_range(struct gmem_vm *vm);

/*
 * A handle for a vCPU of the VMM's. It stays the VMM's, which makes it, runs it and reads kvm_run;
 * the descriptor is duplicated. One thread at a time uses the handle: the one that runs the vCPU.
 * Open it from there or before the vCPU runs: it asks the descriptor whether it is a vCPU, and that
 * waits for KVM_RUN to return.
 *
 * @vcpu_fd: what KVM_CREATE_VCPU returned
 * @run: the vCPU's mapping; it must outlive the handle
 *
 * Errors: CONFLICT (a VM given to gmem_vm_open_fd() without its type); FD_INVALID; FD_NOT_VCPU;
 * NO_MEMORY; FD_LIMIT; KERNEL_REFUSED; FORKED; IN_CALLBACK.
 */
int gmem_vcpu_open(struct gmem_vm *vm, int vcpu_fd, struct kvm_run *run, struct gmem_vcpu **ret);

/* Close the handle; the vCPU stays the VMM's. */
void gmem_vcpu_close(struct gmem_vcpu *vcpu);

/* What KVM_RUN came back for. */
enum gmem_exit_kind {
	GMEM_EXIT_OTHER = 0,	     /* nothing of memory: the VMM's own business */
	GMEM_EXIT_TO_PRIVATE = 1,    /* the guest uses, or asks for, a range as private */
	GMEM_EXIT_TO_SHARED = 2,     /* likewise as shared */
	GMEM_EXIT_MISSING = 3,	     /* a page that somebody has to fill before the guest sees it */
	GMEM_EXIT_POISONED = 4,	     /* a damaged page */
	GMEM_EXIT_GONE = 5,	     /* there is no memory, or it can no longer be had */
	GMEM_EXIT_NO_MEMORY = 6,     /* the host had none left to give */
	GMEM_EXIT_RETRY = 7,	     /* nothing to be done: run again */
	GMEM_EXIT_UNKNOWN = 8,	     /* a memory fault with flags that this library does not know */
	GMEM_EXIT_BAD_HYPERCALL = 9, /* a hypercall whose arguments make no sense */
};

/* The guest asked by a hypercall, which resolve answers; else it touched the memory. */
#define GMEM_EXIT_HYPERCALL UINT32_C(1)
/* gpa and size are known. */
#define GMEM_EXIT_ADDRESS UINT32_C(2)

struct gmem_exit {
	size_t sz;
	enum gmem_exit_kind kind;
	uint32_t flags; /* GMEM_EXIT_HYPERCALL, GMEM_EXIT_ADDRESS */
	uint64_t gpa;	/* whole pages, but for GMEM_EXIT_BAD_HYPERCALL: as the guest gave it */
	uint64_t size;	/* likewise; UINT64_MAX where the guest's pages are more bytes than that */
	uint64_t bits;	/* a fault's flags, or a hypercall's attributes */
	int error;	/* KVM_RUN's errno, 0: none */
	int pad;	/* 0 */
};

/*
 * Read what KVM_RUN has left. A memory fault is exit reason 39 with rc 0 or with errno EFAULT,
 * EHWPOISON, ENOMEM or EIO; with any other the reason is left over from an exit before
 * (Documentation/virt/kvm/api.rst, KVM_EXIT_MEMORY_FAULT). Without it, EFAULT and EHWPOISON are of
 * memory whose address KVM does not tell. What a fault asks for is compared with the map: a range
 * that another vCPU has converted meanwhile is GMEM_EXIT_RETRY, and GMEM_EXIT_GONE where no slot
 * has private memory there. A VM that has died answers EIO, perhaps with an exit left over. No
 * system call, and no lock.
 *
 * All of @exit but sz is set. gpa and size are the guest's choice: nothing says that memory is
 * there. On arm64, kernels up to 7.3 give a nested guest's own address (its L2's).
 *
 * @rc: what the ioctl KVM_RUN returned
 * @error: errno, where that is -1
 * @exit: its sz is set by the caller
 *
 * Errors: OPTS_SIZE; FORKED.
 */
int gmem_vcpu_decode(struct gmem_vcpu *vcpu, int rc, int error, struct gmem_exit *exit);

struct gmem_resolve_opts {
	size_t sz;
	enum gmem_convert_policy policy; /* of conversions */
	uint32_t repeat_limit; /* so often may the same fault come without a change; 0: 100 */
	uint64_t flags;	       /* GMEM_RESOLVE_* */
};

/*
 * After a conversion to private, pre-fault it: one exit for a range instead of one for each page.
 * It ends at a signal, and what it has not done is left to the guest's touch.
 */
#define GMEM_RESOLVE_PREFAULT UINT64_C(1)

/*
 * Do what an exit asks for, before the vCPU runs again: convert, answer the hypercall. 0: run it
 * again. What a guest's hypercall asks for and cannot have, such as device memory or a hole as
 * private, or an absurd range, is answered to the guest as an error, in the form its VM's type
 * takes: the call succeeds, this thread's last failure says why, and the statistics count it. All
 * other failures are the host's, and the VMM decides; a guest that is run again all the same is
 * told to try again where its form has such an answer, else that it failed. EAGAIN, which
 * conversion in place will have, is no more than that: run the vCPU again, it will ask again.
 * What a guest can bring about is not logged, since it could fill the log.
 *
 *   kind            does                                             fails with
 *   TO_PRIVATE      converts                                         what gmem_vm_convert() gives
 *   TO_SHARED       converts                                         the same
 *   BAD_HYPERCALL   answers the guest                                -
 *   RETRY           counts                                           EXIT_STUCK
 *   MISSING         -                                                EXIT_MISSING
 *   POISONED        -                                                POISONED
 *   GONE            -                                                EXIT_GONE
 *   NO_MEMORY       -                                                NO_MEMORY
 *   UNKNOWN         -                                                EXIT_UNKNOWN
 *   OTHER           -                                                ARGUMENT
 *
 * A fault that comes again and again though memory is as it asks for, with no conversion and
 * no other exit but a signal between, is stuck: ELOOP past the limit. Whatever the guest does, this
 * call ends.
 *
 * @opts: NULL for the defaults
 *
 * Errors: ARGUMENT; EXIT_STUCK; EXIT_MISSING; EXIT_GONE; EXIT_UNKNOWN; POISONED; NO_MEMORY; those
 * of gmem_vm_convert(); FLAGS_UNKNOWN; FORKED; IN_CALLBACK.
 */
int gmem_vcpu_resolve(struct gmem_vcpu *vcpu, const struct gmem_exit *exit,
		      const struct gmem_resolve_opts *opts);

struct gmem_prefault_opts {
	size_t sz;
	/*
	 * Called from the calling thread now and then, without a lock; other than 0: stop. It must
	 * not change the VM. NULL: not called.
	 */
	int (*progress)(void *data, uint64_t done, uint64_t total);
	void *data;
	const int *stop; /* looked at now and then, atomically: other than 0: stop; NULL: none */
};

/*
 * Fill the guest's page tables before it runs (KVM_PRE_FAULT_MEMORY; x86 with two-dimensional
 * paging), so that the first touch does not exit or fault. Allocates what is not there: private
 * pages where private, shared ones where shared. Goes on after signals, and for a while after
 * EAGAIN. kvm_run is as before: kernels up to 7.3 write an exit into it. Not while the vCPU
 * runs.
 *
 * @gpa, @size: bytes, multiples of the page
 * @opts: NULL: no progress, no stop
 * @done: set to how many bytes, from @gpa on, are filled, also where the call fails; may be NULL
 *
 * Errors: RANGE_EMPTY; RANGE_UNALIGNED; RANGE_WRAPS; GPA_BEYOND_WIDTH; CAP_UNSUPPORTED (also: of
 * this VM type, or not yet); CAP_PROBE_FAILED; GPA_UNMAPPED (a hole: no slot at @gpa + @done);
 * EXIT_GONE (no private memory at a private address, or it is gone); STOPPED; POISONED; NO_MEMORY;
 * KERNEL_REFUSED; FORKED; IN_CALLBACK.
 */
int gmem_vcpu_prefault(struct gmem_vcpu *vcpu, uint64_t gpa, uint64_t size,
		       const struct gmem_prefault_opts *opts, uint64_t *done);

/*
 * The same with several vCPUs, a thread for each, which have all signals blocked: the calling
 * thread is one of them. None of the vCPUs may run.
 *
 * @vcpus: @count handles of this VM, 1 to 256, each once
 * @done: how many bytes are filled, wherever in the range
 *
 * Errors: those of gmem_vcpu_prefault(); ARGUMENT (count, a vCPU twice or of another VM).
 */
int gmem_vm_prefault(struct gmem_vm *vm, struct gmem_vcpu *const *vcpus, size_t count, uint64_t gpa,
		     uint64_t size, const struct gmem_prefault_opts *opts, uint64_t *done);

/* ---- Statistics --------------------------------------------------------------------------- */

#define GMEM_STATS_EXITS 16

/* Counted since the VM's handle was made, but for the bytes of the two sides, which are of now. */
struct gmem_stats {
	size_t sz;
	uint64_t conversions;	     /* calls that changed something */
	uint64_t conversions_failed; /* calls that were refused, by whomever */
	uint64_t to_private_bytes;   /* changed by them */
	uint64_t to_shared_bytes;
	uint64_t skipped_bytes;	  /* were so already */
	uint64_t attribute_calls; /* ioctls, those that set back among them */
	uint64_t attribute_ns;	  /* time in them */
	uint64_t discard_calls;	  /* of losing halves, after conversions */
	uint64_t discard_bytes;	  /* address space given to those that succeeded */
	uint64_t discard_failures;
	uint64_t discard_ns;
	uint64_t prefault_calls;   /* ioctls */
	uint64_t prefault_bytes;   /* filled by them */
	uint64_t prefault_retries; /* after EINTR and EAGAIN */
	uint64_t prefault_ns;
	uint64_t hypercalls;		  /* of guests that asked for conversions */
	uint64_t hypercalls_refused;	  /* of these, answered with an error */
	uint64_t exits[GMEM_STATS_EXITS]; /* decoded, by enum gmem_exit_kind */
	uint64_t private_bytes; /* now, in slots of address space 0, as gmem_slot_get_memory() */
	uint64_t shared_bytes;
	uint64_t twice_bytes;
};

/*
 * Fill in the statistics. Any thread; beside changes the numbers are those of no one moment.
 *
 * Errors: OPTS_SIZE; FORKED.
 */
int gmem_vm_get_stats(struct gmem_vm *vm, struct gmem_stats *stats);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif

#ifdef __cplusplus
}
#endif

#endif /* GMEM_H */
