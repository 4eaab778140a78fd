/* SPDX-License-Identifier: MIT */
/* Objects, descriptors, and what can be done with any file. */
#include "fake.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	FIRST_FD = 1000000000 /* no real descriptor, so that neither is taken for the other */
};

/* ---- Objects and descriptors ---- */

struct gmem_fake_fd *gmem_fake_find_fd(const struct gmem_fake *fake, int fd)
{
	struct gmem_fake_fd *found;

	if (fd < FIRST_FD || (size_t)(fd - FIRST_FD) >= fake->fd_count)
		return NULL;
	found = &fake->fds[fd - FIRST_FD];
	gmem_fake_must(fake, found->object, "%s%u is used after its closing",
		       gmem_fake_name_kind(found->kind), found->number);
	return found;
}

struct gmem_fake_object *gmem_fake_object_of(const struct gmem_fake *fake, int fd)
{
	struct gmem_fake_fd *found = gmem_fake_find_fd(fake, fd);

	return found ? found->object : NULL;
}

struct gmem_fake_object *gmem_fake_object_of_kind(const struct gmem_fake *fake, int fd,
						  enum gmem_fake_kind kind)
{
	struct gmem_fake_object *object = gmem_fake_object_of(fake, fd);

	return object && object->kind == kind ? object : NULL;
}

struct gmem_fake_object *gmem_fake_new_object(const struct gmem_fake *fake,
					      enum gmem_fake_kind kind)
{
	struct gmem_fake_object *object = calloc(1, sizeof(*object));

	gmem_fake_must(fake, object, "no memory");
	object->kind = kind;
	object->backing = -1;
	object->regular = true;
	return object;
}

struct gmem_fake_object *gmem_fake_new_gmem(const struct gmem_fake *fake,
					    struct gmem_fake_object *vm, uint64_t size,
					    uint64_t flags)
{
	struct gmem_fake_object *file = gmem_fake_new_object(fake, GMEM_FAKE_GMEM);

	file->vm = vm;
	file->size = size;
	file->flags = flags;
	file->magic = fake->numa_in_file ? GUEST_MEMFD_MAGIC : ANON_INODE_FS_MAGIC;
	return file;
}

int gmem_fake_add_fd(struct gmem_fake *fake, struct gmem_fake_object *object)
{
	fake->fds =
		gmem_fake_grow(fake, fake->fds, fake->fd_count, &fake->fd_room, sizeof(*fake->fds));
	object->references++;
	fake->fds[fake->fd_count] =
		(struct gmem_fake_fd){object, object->kind, ++fake->numbers[object->kind]};
	return FIRST_FD + (int)fake->fd_count++;
}

void gmem_fake_drop_object(struct gmem_fake *fake, struct gmem_fake_object *object)
{
	if (!object || --object->references > 0)
		return;
	gmem_fake_drop_slots(fake, object);
	if (object->kind == GMEM_FAKE_VCPU)
		gmem_fake_drop_object(fake, object->vm);
	if (object->backing >= 0)
		close(object->backing);
	gmem_fake_ranges_clear(&object->allocated);
	gmem_fake_ranges_clear(&object->private);
	free(object);
}

int gmem_fake_backing_of(const struct gmem_fake *fake, struct gmem_fake_object *file)
{
	if (file->backing >= 0)
		return file->backing;
	file->backing = memfd_create("gmem-fake", MFD_CLOEXEC);
	gmem_fake_must(fake, file->backing >= 0, "no memory for a file: %s", strerror(errno));
	gmem_fake_must(fake, ftruncate(file->backing, (off_t)file->size) == 0,
		       "no file of %#" PRIx64 " bytes: %s", file->size, strerror(errno));
	return file->backing;
}

void gmem_fake_set_allocated(const struct gmem_fake *fake, struct gmem_fake_ranges *ranges,
			     uint64_t start, uint64_t size, bool allocated)
{
	gmem_fake_must(fake, gmem_fake_ranges_set(ranges, start, start + size, allocated),
		       "no memory");
}

/* ---- Calls ---- */

static int fake_open(const struct gmem_sys *sys, const char *path, int flags)
{
	static const struct gmem_fake_bit bits[] = {{O_RDWR, "RDWR"}, {O_CLOEXEC, "CLOEXEC"}};
	struct gmem_fake *fake = gmem_fake_enter(sys);
	struct gmem_fake_object *object = NULL;
	long r;

	if (gmem_fake_decided(fake, &r, "open(%s, %s)", path,
			      gmem_fake_name_bits(fake, (unsigned int)flags, bits, 2)))
		return gmem_fake_leave(fake, r);
	if (strcmp(path, "/dev/kvm") == 0)
		object = gmem_fake_new_object(fake, GMEM_FAKE_KVM);
	else if (strcmp(path, "/dev/userfaultfd") == 0 && fake->uffd_device)
		object = gmem_fake_new_object(fake, GMEM_FAKE_UFFD);
	return gmem_fake_leave(fake, object ? gmem_fake_add_fd(fake, object) : -ENOENT);
}

static int fake_close(const struct gmem_sys *sys, int fd)
{
	struct gmem_fake *fake = gmem_fake_enter(sys);
	struct gmem_fake_fd *found;
	long r;

	gmem_fake_decided(fake, &r, "close(%s)", gmem_fake_name_fd(fake, fd));
	found = gmem_fake_find_fd(fake, fd);
	if (!found)
		return gmem_fake_leave(fake, r ? r : -EBADF);
	/* Linux closes also where it reports an error */
	gmem_fake_drop_object(fake, found->object);
	found->object = NULL;
	return gmem_fake_leave(fake, r);
}

static int fake_fcntl(const struct gmem_sys *sys, int fd, int command, int argument)
{
	struct gmem_fake *fake = gmem_fake_enter(sys);
	struct gmem_fake_object *object = gmem_fake_object_of(fake, fd);
	const char *name = command == F_DUPFD_CLOEXEC ? "DUPFD_CLOEXEC"
			   : command == F_SETFD	      ? "SETFD"
			   : command == F_ADD_SEALS   ? "ADD_SEALS"
						      : gmem_fake_word(fake, "%d", command);
	long r;

	if (gmem_fake_decided(fake, &r, "fcntl(%s, %s, %#x)", gmem_fake_name_fd(fake, fd), name,
			      (unsigned int)argument))
		return gmem_fake_leave(fake, r);
	if (!object)
		return gmem_fake_leave(fake, -EBADF);
	if (command == F_DUPFD_CLOEXEC)
		return gmem_fake_leave(fake, gmem_fake_add_fd(fake, object));
	if (command == F_ADD_SEALS && object->kind != GMEM_FAKE_MEMFD)
		return gmem_fake_leave(fake, -EINVAL);
	return gmem_fake_leave(fake, 0);
}

static int fake_status(const struct gmem_sys *sys, int fd, struct gmem_file_status *status)
{
	struct gmem_fake *fake = gmem_fake_enter(sys);
	struct gmem_fake_object *object = gmem_fake_object_of(fake, fd);
	long r;

	if (gmem_fake_decided(fake, &r, "status(%s)", gmem_fake_name_fd(fake, fd)))
		return gmem_fake_leave(fake, r);
	if (!object)
		return gmem_fake_leave(fake, -EBADF);
	*status = (struct gmem_file_status){object->size, object->magic, object->regular};
	return gmem_fake_leave(fake, 0);
}

static int fake_memfd_create(const struct gmem_sys *sys, const char *name, unsigned int flags)
{
	static const struct gmem_fake_bit bits[] = {{MFD_CLOEXEC, "CLOEXEC"},
						    {MFD_ALLOW_SEALING, "SEALING"}};
	struct gmem_fake *fake = gmem_fake_enter(sys);
	struct gmem_fake_object *file;
	long r;

	if (gmem_fake_decided(fake, &r, "memfd_create(%s, %s)", name,
			      gmem_fake_name_bits(fake, flags, bits, 2)))
		return gmem_fake_leave(fake, r);
	file = gmem_fake_new_object(fake, GMEM_FAKE_MEMFD);
	return gmem_fake_leave(fake, gmem_fake_add_fd(fake, file));
}

static int fake_ftruncate(const struct gmem_sys *sys, int fd, uint64_t size)
{
	struct gmem_fake *fake = gmem_fake_enter(sys);
	struct gmem_fake_object *file = gmem_fake_object_of_kind(fake, fd, GMEM_FAKE_MEMFD);
	long r;

	if (gmem_fake_decided(fake, &r, "ftruncate(%s, %#" PRIx64 ")", gmem_fake_name_fd(fake, fd),
			      size))
		return gmem_fake_leave(fake, r);
	if (!file || size >> 63)
		return gmem_fake_leave(fake, -EINVAL);
	file->size = size;
	return gmem_fake_leave(fake, 0);
}

/* Allocating only notes it: files are larger than the test's memory. Touched pages are real. */
static long change_pages(struct gmem_fake *fake, struct gmem_fake_object *file, int mode,
			 uint64_t offset, uint64_t size)
{
	bool allocates = mode == FALLOC_FL_KEEP_SIZE;

	if (allocates && offset + size > file->size)
		return -EINVAL;
	if (!allocates &&
	    fallocate(gmem_fake_backing_of(fake, file), mode, (off_t)offset, (off_t)size) < 0)
		return -errno;
	gmem_fake_set_allocated(fake, &file->allocated, offset, size, allocates);
	return 0;
}

static int fake_fallocate(const struct gmem_sys *sys, int fd, int mode, uint64_t offset,
			  uint64_t size)
{
	static const struct gmem_fake_bit bits[] = {{FALLOC_FL_KEEP_SIZE, "KEEP_SIZE"},
						    {FALLOC_FL_PUNCH_HOLE, "PUNCH_HOLE"}};
	struct gmem_fake *fake = gmem_fake_enter(sys);
	struct gmem_fake_object *file = gmem_fake_object_of(fake, fd);
	long r;

	if (gmem_fake_decided(fake, &r, "fallocate(%s, %s, %#" PRIx64 ", %#" PRIx64 ")",
			      gmem_fake_name_fd(fake, fd),
			      gmem_fake_name_bits(fake, (unsigned int)mode, bits, 2), offset, size))
		return gmem_fake_leave(fake, r);
	if (!file || (file->kind != GMEM_FAKE_GMEM && file->kind != GMEM_FAKE_MEMFD) || !size)
		return gmem_fake_leave(fake, -EINVAL);
	return gmem_fake_leave(fake, change_pages(fake, file, mode, offset, size));
}

void gmem_fake_use_files(struct gmem_sys *sys)
{
	sys->open = fake_open;
	sys->close = fake_close;
	sys->fcntl = fake_fcntl;
	sys->status = fake_status;
	sys->fallocate = fake_fallocate;
	sys->memfd_create = fake_memfd_create;
	sys->ftruncate = fake_ftruncate;
}

/* ---- What the VMM does ---- */

static struct gmem_fake_object *vm_of(const struct gmem_fake *fake, int vm_fd)
{
	struct gmem_fake_object *vm = gmem_fake_object_of_kind(fake, vm_fd, GMEM_FAKE_VM);

	gmem_fake_must(fake, vm, "descriptor %d is no VM", vm_fd);
	return vm;
}

int gmem_fake_make_vm(struct gmem_fake *fake)
{
	struct gmem_fake_object *vm;

	gmem_fake_enter(&fake->sys);
	vm = gmem_fake_new_object(fake, GMEM_FAKE_VM);
	return gmem_fake_leave(fake, gmem_fake_add_fd(fake, vm));
}

int gmem_fake_make_gmem(struct gmem_fake *fake, int vm_fd, uint64_t size, uint64_t flags)
{
	struct gmem_fake_object *vm, *file;

	gmem_fake_enter(&fake->sys);
	vm = vm_fd < 0 ? NULL : vm_of(fake, vm_fd);
	file = gmem_fake_new_gmem(fake, vm, size, flags);
	return gmem_fake_leave(fake, gmem_fake_add_fd(fake, file));
}

int gmem_fake_make_vcpu(struct gmem_fake *fake, int vm_fd, void *kvm_run)
{
	struct gmem_fake_object *vcpu;

	gmem_fake_enter(&fake->sys);
	vcpu = gmem_fake_new_object(fake, GMEM_FAKE_VCPU);
	vcpu->vm = vm_of(fake, vm_fd);
	vcpu->vm->references++; /* a vCPU keeps its VM */
	vcpu->run = kvm_run;
	return gmem_fake_leave(fake, gmem_fake_add_fd(fake, vcpu));
}

int gmem_fake_make_file(struct gmem_fake *fake, uint64_t size, uint64_t fs_magic, bool regular)
{
	struct gmem_fake_object *file;

	gmem_fake_enter(&fake->sys);
	file = gmem_fake_new_object(fake, GMEM_FAKE_FILE);
	file->size = size;
	file->magic = fs_magic;
	file->regular = regular;
	return gmem_fake_leave(fake, gmem_fake_add_fd(fake, file));
}

void gmem_fake_close_fd(struct gmem_fake *fake, int fd)
{
	struct gmem_fake_fd *found;

	gmem_fake_enter(&fake->sys);
	found = gmem_fake_find_fd(fake, fd);
	gmem_fake_must(fake, found, "descriptor %d is not open", fd);
	gmem_fake_drop_object(fake, found->object);
	found->object = NULL;
	gmem_fake_leave(fake, 0);
}

void gmem_fake_set_magic(struct gmem_fake *fake, int fd, uint64_t fs_magic)
{
	struct gmem_fake_object *object;

	gmem_fake_enter(&fake->sys);
	object = gmem_fake_object_of(fake, fd);
	gmem_fake_must(fake, object, "descriptor %d is not open", fd);
	object->magic = fs_magic;
	gmem_fake_leave(fake, 0);
}
