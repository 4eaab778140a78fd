/* SPDX-License-Identifier: MIT */
#include "injector.h"

#include "allocator.h"
#include "uapi/kvm.h"
#include "uapi/mm.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/* ---- What can fail, and how ---- */

/* A filter such as seccomp's forbids a call with one of these. */
#define FILTERED EPERM, ENOSYS

static const struct {
	const char *name;
	int errors[INJECTOR_ERRORS_MAX];
	int again[3];
} kinds[KINDS] = {
	[OPEN_KVM] = {"open of the device",
		      {ENOENT, EACCES, ENODEV, ENXIO, EMFILE, ENFILE, ENOMEM, EBUSY, FILTERED}},
	[OPEN_USERFAULTFD] = {"open of userfaultfd", {ENOENT, EACCES, EMFILE, ENFILE, FILTERED}},
	[CLOSE] = {"close", {EINTR, EIO}},
	[API_VERSION] = {"KVM_GET_API_VERSION", {ENOTTY, EINVAL, FILTERED}},
	[CREATE_VM] = {"KVM_CREATE_VM",
		       {EINVAL, ENOMEM, EMFILE, ENFILE, EBUSY, EIO, EOPNOTSUPP, FILTERED},
		       {EINTR}},
	[CHECK_USER_MEMORY2] = {"KVM_CHECK_EXTENSION", {EIO, ENOTTY, EINVAL, FILTERED}},
	[CHECK_VCPU] = {"KVM_CHECK_EXTENSION", {EIO, ENOTTY, FILTERED}},
	[CHECK_CAP] = {"KVM_CHECK_EXTENSION", {EIO, EINVAL, FILTERED}},
	[CREATE_GUEST_MEMFD] = {"KVM_CREATE_GUEST_MEMFD",
				{EINVAL, ENOMEM, EMFILE, ENFILE, EIO, ENOTTY, FILTERED}},
	[SET_SLOT] = {"KVM_SET_USER_MEMORY_REGION2",
		      {EINVAL, EEXIST, ENOMEM, EFAULT, EBADF, EIO, ENOTTY, FILTERED},
		      {EINTR}},
	[DELETE_SLOT] = {"KVM_SET_USER_MEMORY_REGION2 to delete",
			 {EINVAL, ENOMEM, EIO, FILTERED},
			 {EINTR}},
	[SET_ATTRIBUTES] = {"KVM_SET_MEMORY_ATTRIBUTES",
			    {EINVAL, ENOMEM, EIO, ENOTTY, FILTERED},
			    {EINTR}},
	[ENABLE_CAP] = {"KVM_ENABLE_CAP", {EINVAL, EIO, FILTERED}},
	[PRE_FAULT] = {"KVM_PRE_FAULT_MEMORY",
		       {EFAULT, ENOENT, ENOMEM, EHWPOISON, EIO, EINVAL, EOPNOTSUPP, FILTERED},
		       {EINTR, EAGAIN}},
	[USERFAULTFD_NEW] = {"USERFAULTFD_IOC_NEW", {EINVAL, ENOMEM, EMFILE, ENFILE, FILTERED}},
	[USERFAULTFD_API] = {"UFFDIO_API", {EINVAL, EPERM, ENOSYS}},
	[USERFAULTFD_REGISTER] = {"UFFDIO_REGISTER", {EINVAL, ENOMEM, EBUSY, FILTERED}},
	[USERFAULTFD_UNREGISTER] = {"UFFDIO_UNREGISTER", {EINVAL, ENOMEM, FILTERED}},
	[DUPLICATE] = {"F_DUPFD_CLOEXEC", {EBADF, EMFILE, EINVAL, FILTERED}},
	[CLOSE_ON_EXEC] = {"F_SETFD", {EBADF, FILTERED}},
	[ADD_SEALS] = {"F_ADD_SEALS", {EBUSY, EINVAL, FILTERED}},
	[STATUS] = {"fstat", {ENOMEM, EIO, EOVERFLOW, FILTERED}},
	[ALLOCATE] = {"fallocate", {ENOMEM, ENOSPC, EIO, EINVAL, EOPNOTSUPP, FILTERED}, {EINTR}},
	[PUNCH] = {"fallocate to punch", {ENOMEM, EIO, EINVAL, EOPNOTSUPP, FILTERED}, {EINTR}},
	[MMAP_GUARD] = {"mmap", {ENOMEM, EAGAIN, FILTERED}},
	[MMAP_MEMORY] = {"mmap", {ENOMEM, EAGAIN, FILTERED}},
	[MMAP_HINT] = {"mmap at an address", {ENOMEM, EAGAIN, EINVAL, FILTERED}},
	[MMAP_OVER] = {"mmap over a mapping", {ENOMEM, EAGAIN, FILTERED}},
	[MMAP_FILE] = {"mmap of a file", {ENOMEM, EAGAIN, ENODEV, EACCES, EINVAL, FILTERED}},
	[MUNMAP] = {"munmap", {ENOMEM, EINVAL, FILTERED}},
	[WIPE_ON_FORK] = {"MADV_WIPEONFORK", {EINVAL, ENOMEM, EAGAIN, FILTERED}},
	[DONT_FORK] = {"MADV_DONTFORK", {EINVAL, ENOMEM, EAGAIN, FILTERED}},
	[POPULATE] = {"MADV_POPULATE", {EFAULT, ENOMEM, EHWPOISON, EINVAL, EIO, FILTERED}, {EINTR}},
	[REMOVE_PAGES] = {"MADV_REMOVE", {EINVAL, EACCES, ENOMEM, EIO, EOPNOTSUPP, FILTERED}},
	[FREE_PAGES] = {"MADV_FREE", {EINVAL, ENOMEM, FILTERED}},
	[DROP_PAGES] = {"MADV_DONTNEED", {EINVAL, ENOMEM, FILTERED}},
	[MINCORE] = {"mincore", {ENOMEM, EFAULT, FILTERED}, {EAGAIN}},
	[MEMFD_CREATE] = {"memfd_create", {ENOMEM, EMFILE, ENFILE, EINVAL, FILTERED}},
	[TRUNCATE] = {"ftruncate", {EFBIG, ENOMEM, EINVAL, FILTERED}},
	[MBIND] = {"mbind", {EINVAL, ENOMEM, EIO, EFAULT, FILTERED}},
	[GET_MEMPOLICY] = {"get_mempolicy", {EINVAL, EFAULT, FILTERED}},
	[USERFAULTFD] = {"userfaultfd", {EINVAL, ENOMEM, EMFILE, ENFILE, FILTERED}},
	[COPY_IN] = {"process_vm_readv", {EFAULT, ENOMEM, ESRCH, FILTERED}, {EINTR}},
	[COPY_OUT] = {"process_vm_writev", {EFAULT, ENOMEM, ESRCH, FILTERED}, {EINTR}},
	[START_THREAD] = {"pthread_create", {EAGAIN, EPERM}},
};

const int *injector_errors(enum kind kind)
{
	return kinds[kind].errors;
}

const int *injector_again(enum kind kind)
{
	return kinds[kind].again;
}

const char *injector_name(enum kind kind)
{
	return kinds[kind].name;
}

/* ---- Counting ---- */

/* The one whose calls are counted now, for what is not called through a table. */
static struct injector *current;

/* Whether this call is the one to fail. */
static bool fails(struct injector *injector, enum kind kind)
{
	bool result = false;

	pthread_mutex_lock(&injector->lock);
	if (injector->armed) {
		if (injector->count == INJECTOR_CALLS_MAX)
			ck_abort_msg("more than %d system calls", INJECTOR_CALLS_MAX);
		injector->kinds[injector->count++] = kind;
		if (injector->failed_at)
			result = injector->count - injector->failed_at == injector->second_after;
		else if (kind == injector->kind && injector->fails_in)
			result = --injector->fails_in == 0;
		if (result && !injector->failed_at)
			injector->failed_at = injector->count;
	}
	pthread_mutex_unlock(&injector->lock);
	return result;
}

/* Begin a call that is carried out: what the kernel allocates is not the library's. */
static const struct gmem_sys *enter(const struct gmem_sys *sys)
{
	allocator_leave_library();
	return ((const struct injector *)sys)->inner;
}

static int leave(int result)
{
	allocator_enter_library();
	return result;
}

void injector_arm(struct injector *injector, enum kind kind, unsigned int n, int error)
{
	pthread_mutex_lock(&injector->lock);
	injector->armed = true;
	injector->failed_at = injector->second_after = 0;
	injector->count = 0;
	injector->kind = kind;
	injector->fails_in = n;
	injector->error = error;
	pthread_mutex_unlock(&injector->lock);
	current = injector;
}

void injector_arm_second(struct injector *injector, unsigned int n)
{
	injector->second_after = n;
}

unsigned int injector_disarm(struct injector *injector)
{
	pthread_mutex_lock(&injector->lock);
	injector->armed = false;
	pthread_mutex_unlock(&injector->lock);
	current = NULL;
	return injector->count;
}

#define FAIL_IF_TOLD(sys, kind)                                                                    \
	do {                                                                                       \
		if (fails((struct injector *)(uintptr_t)(sys), kind))                              \
			return -((const struct injector *)(sys))->error;                           \
	} while (0)

/* ---- Account of mappings and slots ---- */

struct injector_mapping *injector_find(struct injector *injector, const void *addr)
{
	for (size_t i = 0; i < INJECTOR_MAPPINGS_MAX; i++) {
		struct injector_mapping *mapping = &injector->mappings[i];
		uintptr_t start = (uintptr_t)mapping->addr;

		if (start && (uintptr_t)addr >= start && (uintptr_t)addr - start < mapping->size)
			return mapping;
	}
	return NULL;
}

static void add_mapping(struct injector *injector, void *addr, size_t size, enum kind kind)
{
	struct injector_mapping *mapping = injector_find(injector, addr);

	if (kind == MMAP_OVER) {
		if (!mapping || mapping->addr != addr || mapping->size != size)
			ck_abort_msg("mapped over other than a whole mapping");
		mapping->kind = kind;
		return;
	}
	if (mapping)
		ck_abort_msg("%p was given back, and the library did not know", addr);
	for (size_t i = 0; i < INJECTOR_MAPPINGS_MAX; i++) {
		if (injector->mappings[i].addr)
			continue;
		injector->mappings[i] =
			(struct injector_mapping){.addr = addr, .size = size, .kind = kind};
		return;
	}
	ck_abort_msg("more than %d mappings", INJECTOR_MAPPINGS_MAX);
}

/* The slot of a VM by its number, or else a free place; NULL where there is neither. */
static struct injector_slot *place_of_slot(struct injector *injector, int fd, uint32_t number)
{
	struct injector_slot *place = NULL;

	for (size_t i = 0; i < INJECTOR_SLOTS_MAX; i++) {
		struct injector_slot *slot = &injector->slots[i];

		if (slot->size && slot->fd == fd && slot->number == number)
			return slot;
		if (!slot->size)
			place = slot;
	}
	return place;
}

static void note_slot(struct injector *injector, int fd,
		      const struct kvm_userspace_memory_region2 *region)
{
	struct injector_slot *place = place_of_slot(injector, fd, region->slot);

	if (!place)
		ck_abort_msg("more than %d slots", INJECTOR_SLOTS_MAX);
	*place = (struct injector_slot){.fd = fd,
					.number = region->slot,
					.size = region->memory_size,
					.addr = region->userspace_addr};
}

/* A descriptor that is closed may be a VM's. */
static void forget_slots(struct injector *injector, int fd)
{
	for (size_t i = 0; i < INJECTOR_SLOTS_MAX; i++)
		if (injector->slots[i].fd == fd && !injector->slots[i].left)
			injector->slots[i].size = 0;
}

void injector_clean(struct injector *injector)
{
	for (size_t i = 0; i < INJECTOR_MAPPINGS_MAX; i++) {
		struct injector_mapping *mapping = &injector->mappings[i];

		if (mapping->addr)
			injector->inner->munmap(injector->inner, mapping->addr, mapping->size);
		*mapping = (struct injector_mapping){0};
	}
}

/* ---- Calls ---- */

static int inject_open(const struct gmem_sys *sys, const char *path, int flags)
{
	const struct gmem_sys *inner;

	FAIL_IF_TOLD(sys, strcmp(path, "/dev/userfaultfd") == 0 ? OPEN_USERFAULTFD : OPEN_KVM);
	inner = enter(sys);
	return leave(inner->open(inner, path, flags));
}

/* Linux closes the descriptor whatever it answers. */
static int inject_close(const struct gmem_sys *sys, int fd)
{
	struct injector *injector = (struct injector *)(uintptr_t)sys;
	bool told = fails(injector, CLOSE);
	const struct gmem_sys *inner = enter(sys);
	int r = leave(inner->close(inner, fd));

	forget_slots(injector, fd);
	return told ? -injector->error : r;
}

static enum kind kind_of_check(uintptr_t cap)
{
	return cap == KVM_CAP_USER_MEMORY2 ? CHECK_USER_MEMORY2 : cap ? CHECK_CAP : CHECK_VCPU;
}

static enum kind kind_of_ioctl(unsigned long request, uintptr_t argument)
{
	const struct kvm_userspace_memory_region2 *region = (const void *)argument;

	switch (request) {
	case KVM_GET_API_VERSION:
		return API_VERSION;
	case KVM_CREATE_VM:
		return CREATE_VM;
	case KVM_CHECK_EXTENSION:
		return kind_of_check(argument);
	case KVM_CREATE_GUEST_MEMFD:
		return CREATE_GUEST_MEMFD;
	case KVM_SET_USER_MEMORY_REGION2:
		return region->memory_size ? SET_SLOT : DELETE_SLOT;
	case KVM_SET_MEMORY_ATTRIBUTES:
		return SET_ATTRIBUTES;
	case KVM_ENABLE_CAP:
		return ENABLE_CAP;
	case KVM_PRE_FAULT_MEMORY:
		return PRE_FAULT;
	case USERFAULTFD_IOC_NEW:
		return USERFAULTFD_NEW;
	case UFFDIO_API:
		return USERFAULTFD_API;
	case UFFDIO_REGISTER:
		return USERFAULTFD_REGISTER;
	case UFFDIO_UNREGISTER:
		return USERFAULTFD_UNREGISTER;
	default:
		ck_abort_msg("an ioctl %#lx that this test does not know", request);
	}
}

static int inject_ioctl(const struct gmem_sys *sys, int fd, unsigned long request,
			uintptr_t argument)
{
	struct injector *injector = (struct injector *)(uintptr_t)sys;
	const struct kvm_userspace_memory_region2 *region = (const void *)argument;
	enum kind kind = kind_of_ioctl(request, argument);
	const struct gmem_sys *inner;
	int r;

	if (fails(injector, kind)) {
		/* What is made once more is not left. */
		if (kind == DELETE_SLOT && injector->error != EINTR)
			place_of_slot(injector, fd, region->slot)->left = true;
		return -injector->error;
	}
	inner = enter(sys);
	r = leave(inner->ioctl(inner, fd, request, argument));
	if (r == 0 && request == KVM_SET_USER_MEMORY_REGION2)
		note_slot(injector, fd, region);
	return r;
}

static int inject_fcntl(const struct gmem_sys *sys, int fd, int command, int argument)
{
	const struct gmem_sys *inner;

	FAIL_IF_TOLD(sys, command == F_DUPFD_CLOEXEC ? DUPLICATE
			  : command == F_SETFD	     ? CLOSE_ON_EXEC
						     : ADD_SEALS);
	inner = enter(sys);
	return leave(inner->fcntl(inner, fd, command, argument));
}

static int inject_status(const struct gmem_sys *sys, int fd, struct gmem_file_status *status)
{
	const struct gmem_sys *inner;

	FAIL_IF_TOLD(sys, STATUS);
	inner = enter(sys);
	return leave(inner->status(inner, fd, status));
}

static int inject_fallocate(const struct gmem_sys *sys, int fd, int mode, uint64_t offset,
			    uint64_t size)
{
	const struct gmem_sys *inner;

	FAIL_IF_TOLD(sys, mode & FALLOC_FL_PUNCH_HOLE ? PUNCH : ALLOCATE);
	inner = enter(sys);
	return leave(inner->fallocate(inner, fd, mode, offset, size));
}

static enum kind kind_of_mmap(const struct gmem_sys *sys, const void *hint, size_t size, int flags,
			      int fd)
{
	if (flags & MAP_FIXED)
		return MMAP_OVER;
	if (fd >= 0)
		return MMAP_FILE;
	if (hint)
		return MMAP_HINT;
	return size == sys->page_size(sys) ? MMAP_GUARD : MMAP_MEMORY;
}

static int inject_mmap(const struct gmem_sys *sys, void *hint, size_t size, int prot, int flags,
		       int fd, uint64_t offset, void **addr)
{
	enum kind kind = kind_of_mmap(sys, hint, size, flags, fd);
	const struct gmem_sys *inner;
	int r;

	FAIL_IF_TOLD(sys, kind);
	inner = enter(sys);
	r = leave(inner->mmap(inner, hint, size, prot, flags, fd, offset, addr));
	if (r == 0)
		add_mapping((struct injector *)(uintptr_t)sys, *addr, size, kind);
	return r;
}

/* A slot over memory that is unmapped gives the guest whatever is mapped there next. */
static void check_unused(const struct injector *injector, const struct injector_mapping *mapping)
{
	uint64_t start = (uintptr_t)mapping->addr;

	for (size_t i = 0; i < INJECTOR_SLOTS_MAX; i++) {
		const struct injector_slot *slot = &injector->slots[i];

		if (slot->size && slot->addr >= start && slot->addr - start < mapping->size)
			ck_abort_msg("memory is unmapped while slot %#x has it", slot->number);
	}
}

static int inject_munmap(const struct gmem_sys *sys, void *addr, size_t size)
{
	struct injector *injector = (struct injector *)(uintptr_t)sys;
	struct injector_mapping *mapping = injector_find(injector, addr);
	const struct gmem_sys *inner;
	int r;

	if (!mapping || mapping->addr != addr || mapping->size != size)
		ck_abort_msg("munmap of what is no mapping of the library's");
	if (fails(injector, MUNMAP)) {
		mapping->left = true;
		return -injector->error;
	}
	check_unused(injector, mapping);
	inner = enter(sys);
	r = leave(inner->munmap(inner, addr, size));
	if (r == 0)
		*mapping = (struct injector_mapping){0};
	return r;
}

static enum kind kind_of_advice(int advice)
{
	switch (advice) {
	case MADV_WIPEONFORK:
		return WIPE_ON_FORK;
	case MADV_DONTFORK:
		return DONT_FORK;
	case MADV_POPULATE_READ:
	case MADV_POPULATE_WRITE:
		return POPULATE;
	case MADV_REMOVE:
		return REMOVE_PAGES;
	case MADV_FREE:
		return FREE_PAGES;
	case MADV_DONTNEED:
		return DROP_PAGES;
	default:
		ck_abort_msg("an advice %d that this test does not know", advice);
	}
}

static int inject_madvise(const struct gmem_sys *sys, void *addr, size_t size, int advice)
{
	const struct gmem_sys *inner;

	FAIL_IF_TOLD(sys, kind_of_advice(advice));
	inner = enter(sys);
	return leave(inner->madvise(inner, addr, size, advice));
}

static int inject_mincore(const struct gmem_sys *sys, void *addr, size_t size, unsigned char *pages)
{
	const struct gmem_sys *inner;

	FAIL_IF_TOLD(sys, MINCORE);
	inner = enter(sys);
	return leave(inner->mincore(inner, addr, size, pages));
}

static int inject_memfd_create(const struct gmem_sys *sys, const char *name, unsigned int flags)
{
	const struct gmem_sys *inner;

	FAIL_IF_TOLD(sys, MEMFD_CREATE);
	inner = enter(sys);
	return leave(inner->memfd_create(inner, name, flags));
}

static int inject_ftruncate(const struct gmem_sys *sys, int fd, uint64_t size)
{
	const struct gmem_sys *inner;

	FAIL_IF_TOLD(sys, TRUNCATE);
	inner = enter(sys);
	return leave(inner->ftruncate(inner, fd, size));
}

static int inject_mbind(const struct gmem_sys *sys, void *addr, size_t size, int mode,
			const uint64_t *nodes, size_t words)
{
	const struct gmem_sys *inner;

	FAIL_IF_TOLD(sys, MBIND);
	inner = enter(sys);
	return leave(inner->mbind(inner, addr, size, mode, nodes, words));
}

static int inject_get_mempolicy(const struct gmem_sys *sys, void *addr, int *mode, uint64_t *nodes,
				size_t words)
{
	const struct gmem_sys *inner;

	FAIL_IF_TOLD(sys, GET_MEMPOLICY);
	inner = enter(sys);
	return leave(inner->get_mempolicy(inner, addr, mode, nodes, words));
}

static int inject_userfaultfd(const struct gmem_sys *sys, int flags)
{
	const struct gmem_sys *inner;

	FAIL_IF_TOLD(sys, USERFAULTFD);
	inner = enter(sys);
	return leave(inner->userfaultfd(inner, flags));
}

static ssize_t inject_copy_in(const struct gmem_sys *sys, void *to, const void *from, size_t size)
{
	const struct gmem_sys *inner;

	FAIL_IF_TOLD(sys, COPY_IN);
	inner = enter(sys);
	return leave((int)inner->copy_in(inner, to, from, size));
}

static ssize_t inject_copy_out(const struct gmem_sys *sys, void *to, const void *from, size_t size)
{
	const struct gmem_sys *inner;

	FAIL_IF_TOLD(sys, COPY_OUT);
	inner = enter(sys);
	return leave((int)inner->copy_out(inner, to, from, size));
}

static int pass_cpus(const struct gmem_sys *sys)
{
	const struct gmem_sys *inner = ((const struct injector *)sys)->inner;

	return inner->cpus(inner);
}

static void pass_nap(const struct gmem_sys *sys)
{
	const struct gmem_sys *inner = ((const struct injector *)sys)->inner;

	inner->nap(inner);
}

static uint64_t pass_now(const struct gmem_sys *sys)
{
	const struct gmem_sys *inner = ((const struct injector *)sys)->inner;

	return inner->now(inner);
}

static size_t pass_page_size(const struct gmem_sys *sys)
{
	const struct gmem_sys *inner = ((const struct injector *)sys)->inner;

	return inner->page_size(inner);
}

void injector_init(struct injector *injector, const struct gmem_sys *inner)
{
	*injector = (struct injector){
		.sys = {.open = inject_open,
			.close = inject_close,
			.ioctl = inject_ioctl,
			.fcntl = inject_fcntl,
			.status = inject_status,
			.fallocate = inject_fallocate,
			.mmap = inject_mmap,
			.munmap = inject_munmap,
			.madvise = inject_madvise,
			.mincore = inject_mincore,
			.memfd_create = inject_memfd_create,
			.ftruncate = inject_ftruncate,
			.mbind = inject_mbind,
			.get_mempolicy = inject_get_mempolicy,
			.userfaultfd = inject_userfaultfd,
			.copy_in = inject_copy_in,
			.copy_out = inject_copy_out,
			.cpus = pass_cpus,
			.nap = pass_nap,
			.now = pass_now,
			.page_size = pass_page_size},
		.inner = inner,
		.lock = PTHREAD_MUTEX_INITIALIZER,
	};
}

/* ---- Threads ---- */

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
			  void *(*function)(void *data), void *data);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
			  void *(*function)(void *data), void *data);

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
			  void *(*function)(void *data), void *data)
{
	if (current && fails(current, START_THREAD))
		return current->error;
	return __real_pthread_create(thread, attributes, function, data);
}
