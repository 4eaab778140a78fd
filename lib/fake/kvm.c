/* SPDX-License-Identifier: MIT */
/* /dev/kvm, VMs and their slots; userfaultfd, as far as it is asked for. */
#include "fake.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>

/* ---- Slots ---- */

static struct gmem_fake_slot *find_slot(const struct gmem_fake *fake,
					const struct gmem_fake_object *vm, uint32_t number)
{
	for (size_t i = 0; i < fake->slot_count; i++)
		if (fake->slots[i].vm == vm && fake->slots[i].region.slot == number)
			return &fake->slots[i];
	return NULL;
}

const struct gmem_fake_slot *gmem_fake_find_slot_at(const struct gmem_fake *fake,
						    const struct gmem_fake_object *vm, uint64_t gpa)
{
	for (size_t i = 0; i < fake->slot_count; i++) {
		const struct gmem_fake_slot *slot = &fake->slots[i];
		uint64_t start = slot->region.guest_phys_addr;

		if (slot->vm == vm && slot->region.slot >> 16 == 0 && gpa >= start &&
		    gpa - start < slot->region.memory_size)
			return slot;
	}
	return NULL;
}

void gmem_fake_drop_slots(struct gmem_fake *fake, const struct gmem_fake_object *object)
{
	for (size_t i = 0; i < fake->slot_count; i++) {
		struct gmem_fake_slot *slot = &fake->slots[i];

		if (slot->vm && slot->file == object) { /* KVM makes the slot an empty one */
			gmem_fake_must(fake, fake->left_slots,
				       "a guest_memfd is closed while slot %#x has it",
				       slot->region.slot);
			slot->file = NULL;
		}
		if (slot->vm == object) /* KVM deletes the slots of a VM that ends */
			slot->vm = NULL;
	}
}

static struct gmem_fake_slot *add_slot(struct gmem_fake *fake)
{
	for (size_t i = 0; i < fake->slot_count; i++)
		if (!fake->slots[i].vm)
			return &fake->slots[i];
	fake->slots = gmem_fake_grow(fake, fake->slots, fake->slot_count, &fake->slot_room,
				     sizeof(*fake->slots));
	return &fake->slots[fake->slot_count++];
}

static bool overlap(uint64_t a, uint64_t b, uint64_t a_size, uint64_t b_size)
{
	return a < b + b_size && b < a + a_size;
}

/* What can be said of a region by itself (kvm_set_memory_region(), in its order). */
static int check_region(const struct gmem_fake *fake,
			const struct kvm_userspace_memory_region2 *region)
{
	uint32_t known = KVM_MEM_LOG_DIRTY_PAGES |
			 (fake->caps[KVM_CAP_READONLY_MEM] > 0 ? KVM_MEM_READONLY : 0) |
			 (fake->caps[KVM_CAP_GUEST_MEMFD] > 0 ? KVM_MEM_GUEST_MEMFD : 0);
	uint64_t low = fake->page_size - 1;
	uint64_t end = region->guest_phys_addr + region->memory_size;

	if ((region->slot & 0xffff) >= fake->nr_slots || region->flags & ~known)
		return -EINVAL;
	if (region->flags & KVM_MEM_GUEST_MEMFD &&
	    (region->flags != KVM_MEM_GUEST_MEMFD || region->guest_memfd_offset & low ||
	     region->guest_memfd_offset + region->memory_size < region->memory_size))
		return -EINVAL;
	if (region->memory_size & low || region->guest_phys_addr & low ||
	    region->userspace_addr & low)
		return -EINVAL;
	if (region->slot >> 16 >= fake->nr_spaces || end < region->guest_phys_addr)
		return -EINVAL;
	return region->memory_size / fake->page_size > INT32_MAX ? -EINVAL : 0;
}

static int check_file(const struct gmem_fake *fake, const struct gmem_fake_object *vm,
		      const struct kvm_userspace_memory_region2 *region,
		      const struct gmem_fake_object *file)
{
	uint64_t end = region->guest_memfd_offset + region->memory_size;

	if (!file)
		return -EBADF;
	if (file->kind != GMEM_FAKE_GMEM || file->vm != vm)
		return -EINVAL;
	if (end > file->size && !(fake->wraps_accepted && end >> 63))
		return -EINVAL;
	for (size_t i = 0; i < fake->slot_count; i++) {
		const struct gmem_fake_slot *slot = &fake->slots[i];

		if (slot->vm && slot->file == file &&
		    overlap(slot->region.guest_memfd_offset, region->guest_memfd_offset,
			    slot->region.memory_size, region->memory_size))
			return -fake->rebind_error;
	}
	return 0;
}

static int check_space(const struct gmem_fake *fake, const struct gmem_fake_object *vm,
		       const struct kvm_userspace_memory_region2 *region)
{
	for (size_t i = 0; i < fake->slot_count; i++) {
		const struct gmem_fake_slot *slot = &fake->slots[i];

		if (slot->vm == vm && slot->region.slot >> 16 == region->slot >> 16 &&
		    slot->region.slot != region->slot &&
		    overlap(slot->region.guest_phys_addr, region->guest_phys_addr,
			    slot->region.memory_size, region->memory_size))
			return -EEXIST;
	}
	return 0;
}

/* Only the place and the dirty log of an ordinary slot can change. */
static int change_slot(struct gmem_fake_slot *slot,
		       const struct kvm_userspace_memory_region2 *region)
{
	const struct kvm_userspace_memory_region2 *old = &slot->region;

	if (region->flags & KVM_MEM_GUEST_MEMFD || old->flags & KVM_MEM_GUEST_MEMFD ||
	    region->userspace_addr != old->userspace_addr ||
	    region->memory_size != old->memory_size ||
	    (region->flags ^ old->flags) & KVM_MEM_READONLY)
		return -EINVAL;
	slot->region = *region;
	return 0;
}

static int set_region(struct gmem_fake *fake, struct gmem_fake_object *vm,
		      const struct kvm_userspace_memory_region2 *region)
{
	struct gmem_fake_slot *slot = find_slot(fake, vm, region->slot);
	struct gmem_fake_object *file = NULL;
	int r = check_region(fake, region);

	if (r < 0)
		return r;
	if (region->memory_size == 0) {
		if (slot)
			slot->vm = NULL;
		return slot ? 0 : -EINVAL;
	}
	if (slot)
		return change_slot(slot, region);
	r = check_space(fake, vm, region);
	if (r == 0 && region->flags & KVM_MEM_GUEST_MEMFD) {
		file = gmem_fake_object_of(fake, (int)region->guest_memfd);
		r = check_file(fake, vm, region, file);
	}
	if (r < 0)
		return r;
	if ((region->guest_phys_addr + region->memory_size - 1) >> fake->gpa_bits)
		return -fake->gpa_error;
	*add_slot(fake) = (struct gmem_fake_slot){.vm = vm, .region = *region, .file = file};
	return 0;
}

int gmem_fake_set_slot(struct gmem_fake *fake, int vm_fd, uint32_t number, uint64_t gpa,
		       uint64_t size, const void *addr)
{
	struct kvm_userspace_memory_region2 region = {
		.slot = number,
		.guest_phys_addr = gpa,
		.memory_size = size,
		.userspace_addr = (uintptr_t)addr,
	};
	struct gmem_fake_object *vm;

	gmem_fake_enter(&fake->sys);
	vm = gmem_fake_object_of_kind(fake, vm_fd, GMEM_FAKE_VM);
	gmem_fake_must(fake, vm, "descriptor %d is no VM", vm_fd);
	return gmem_fake_leave(fake, set_region(fake, vm, &region));
}

/* ---- Calls ---- */

int gmem_fake_no_ioctl(const struct gmem_fake *fake, int fd)
{
	return gmem_fake_object_of_kind(fake, fd, GMEM_FAKE_VCPU) ? -EINVAL : -ENOTTY;
}

static bool is_zero(const uint64_t *words, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (words[i])
			return false;
	return true;
}

static long ioctl_region(struct gmem_fake *fake, int fd, uintptr_t argument)
{
	const struct kvm_userspace_memory_region2 *region = (const void *)argument;
	struct gmem_fake_object *vm = gmem_fake_object_of_kind(fake, fd, GMEM_FAKE_VM);
	const void *addr = (const void *)(uintptr_t)region->userspace_addr;
	const char *file = "";
	long r;

	gmem_fake_must(fake, region->pad1 == 0 && is_zero(region->pad2, ARRAY_SIZE(region->pad2)),
		       "padding of a region is not zero");
	if (region->flags & KVM_MEM_GUEST_MEMFD)
		file = gmem_fake_word(fake, " gmem=%s offset=%#" PRIx64,
				      gmem_fake_name_fd(fake, (int)region->guest_memfd),
				      region->guest_memfd_offset);
	else if (region->guest_memfd || region->guest_memfd_offset)
		file = " gmem without its flag";
	if (gmem_fake_decided(fake, &r,
			      "ioctl(%s, SET_REGION2, slot=%#x flags=%#x gpa=%#" PRIx64
			      " size=%#" PRIx64 " addr=%s%s)",
			      gmem_fake_name_fd(fake, fd), region->slot, region->flags,
			      region->guest_phys_addr, region->memory_size,
			      gmem_fake_name_addr(fake, addr), file))
		return r;
	return vm ? set_region(fake, vm, region) : gmem_fake_no_ioctl(fake, fd);
}

static long ioctl_create_gmem(struct gmem_fake *fake, int fd, uintptr_t argument)
{
	const struct kvm_create_guest_memfd *create = (const void *)argument;
	struct gmem_fake_object *vm = gmem_fake_object_of_kind(fake, fd, GMEM_FAKE_VM);
	long r;

	gmem_fake_must(fake, is_zero(create->reserved, ARRAY_SIZE(create->reserved)),
		       "reserved members of KVM_CREATE_GUEST_MEMFD are not zero");
	if (gmem_fake_decided(fake, &r,
			      "ioctl(%s, CREATE_GUEST_MEMFD, size=%#" PRIx64 " flags=%#" PRIx64 ")",
			      gmem_fake_name_fd(fake, fd), create->size, create->flags))
		return r;
	if (!vm || fake->caps[KVM_CAP_GUEST_MEMFD] <= 0)
		return gmem_fake_no_ioctl(fake, fd);
	if (create->flags & ~(uint64_t)fake->caps[KVM_CAP_GUEST_MEMFD_FLAGS] ||
	    create->size >> 63 || !create->size || create->size % fake->page_size)
		return -EINVAL;
	return gmem_fake_add_fd(fake, gmem_fake_new_gmem(fake, vm, create->size, create->flags));
}

static long ioctl_check(struct gmem_fake *fake, int fd, uintptr_t cap)
{
	long r;

	if (gmem_fake_decided(fake, &r, "ioctl(%s, CHECK_EXTENSION, %" PRIuPTR ")",
			      gmem_fake_name_fd(fake, fd), cap))
		return r;
	if (!gmem_fake_object_of_kind(fake, fd, GMEM_FAKE_VM) &&
	    !gmem_fake_object_of_kind(fake, fd, GMEM_FAKE_KVM))
		return gmem_fake_no_ioctl(fake, fd);
	return cap < GMEM_FAKE_CAPS ? fake->caps[cap] : 0;
}

static long ioctl_kvm(struct gmem_fake *fake, int fd, unsigned long request, uintptr_t argument)
{
	struct gmem_fake_object *kvm = gmem_fake_object_of_kind(fake, fd, GMEM_FAKE_KVM);
	long r;

	if (request == KVM_GET_API_VERSION) {
		if (gmem_fake_decided(fake, &r, "ioctl(%s, GET_API_VERSION)",
				      gmem_fake_name_fd(fake, fd)))
			return r;
		return kvm ? fake->api_version : gmem_fake_no_ioctl(fake, fd);
	}
	if (gmem_fake_decided(fake, &r, "ioctl(%s, CREATE_VM, %#" PRIxPTR ")",
			      gmem_fake_name_fd(fake, fd), argument))
		return r;
	if (!kvm)
		return gmem_fake_no_ioctl(fake, fd);
	if (argument > 63 || !(fake->vm_types >> argument & 1))
		return -EINVAL;
	return gmem_fake_add_fd(fake, gmem_fake_new_object(fake, GMEM_FAKE_VM));
}

static long ioctl_uffd(struct gmem_fake *fake, int fd, unsigned long request, uintptr_t argument)
{
	const char *name = request == UFFDIO_API	    ? "UFFDIO_API"
			   : request == UFFDIO_REGISTER	    ? "UFFDIO_REGISTER"
			   : request == UFFDIO_UNREGISTER   ? "UFFDIO_UNREGISTER"
			   : request == USERFAULTFD_IOC_NEW ? "USERFAULTFD_IOC_NEW"
							    : gmem_fake_word(fake, "%#lx", request);
	const struct uffdio_register *reg = (const void *)argument;
	const char *mode =
		request == UFFDIO_REGISTER ? gmem_fake_word(fake, ", %#" PRIx64, reg->mode) : "";
	long r;

	if (gmem_fake_decided(fake, &r, "ioctl(%s, %s%s)", gmem_fake_name_fd(fake, fd), name, mode))
		return r;
	if (!gmem_fake_object_of_kind(fake, fd, GMEM_FAKE_UFFD))
		return gmem_fake_no_ioctl(fake, fd);
	if (request == USERFAULTFD_IOC_NEW)
		return gmem_fake_add_fd(fake, gmem_fake_new_object(fake, GMEM_FAKE_UFFD));
	if (request == UFFDIO_REGISTER)
		return reg->mode & ~fake->uffd_modes ? -EINVAL : 0;
	return 0;
}

static long carry_out(struct gmem_fake *fake, int fd, unsigned long request, uintptr_t argument)
{
	switch (request) {
	case KVM_GET_API_VERSION:
	case KVM_CREATE_VM:
		return ioctl_kvm(fake, fd, request, argument);
	case KVM_CHECK_EXTENSION:
		return ioctl_check(fake, fd, argument);
	case KVM_CREATE_GUEST_MEMFD:
		return ioctl_create_gmem(fake, fd, argument);
	case KVM_SET_USER_MEMORY_REGION2:
		return ioctl_region(fake, fd, argument);
	case KVM_SET_MEMORY_ATTRIBUTES:
		return gmem_fake_ioctl_attributes(fake, fd, argument);
	case KVM_ENABLE_CAP:
		return gmem_fake_ioctl_enable_cap(fake, fd, argument);
	case KVM_PRE_FAULT_MEMORY:
		return gmem_fake_ioctl_prefault(fake, fd, argument);
	default:
		return ioctl_uffd(fake, fd, request, argument);
	}
}

static int fake_ioctl(const struct gmem_sys *sys, int fd, unsigned long request, uintptr_t argument)
{
	struct gmem_fake *fake = gmem_fake_enter(sys);

	return gmem_fake_leave(fake, carry_out(fake, fd, request, argument));
}

static int fake_userfaultfd(const struct gmem_sys *sys, int flags)
{
	static const struct gmem_fake_bit bits[] = {{O_CLOEXEC, "CLOEXEC"}};
	struct gmem_fake *fake = gmem_fake_enter(sys);
	long r;

	if (gmem_fake_decided(fake, &r, "userfaultfd(%s)",
			      gmem_fake_name_bits(fake, (unsigned int)flags, bits, 1)))
		return gmem_fake_leave(fake, r);
	return gmem_fake_leave(fake,
			       gmem_fake_add_fd(fake, gmem_fake_new_object(fake, GMEM_FAKE_UFFD)));
}

void gmem_fake_use_kvm(struct gmem_sys *sys)
{
	sys->ioctl = fake_ioctl;
	sys->userfaultfd = fake_userfaultfd;
}
