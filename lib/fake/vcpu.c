/* SPDX-License-Identifier: MIT */
/* What a vCPU loop needs: private and shared addresses, hypercall exits, loading pages ahead. */
#include "fake.h"

#include <errno.h>
#include <inttypes.h>

/* ---- Private addresses ---- */

static bool is_range(const struct gmem_fake *fake, uint64_t start, uint64_t size)
{
	return size && start + size >= start && (start | size) % fake->page_size == 0;
}

/* kvm_vm_ioctl_set_mem_attributes(), in its order. */
static long set_attributes(struct gmem_fake *fake, struct gmem_fake_object *vm,
			   const struct kvm_memory_attributes *attributes)
{
	int known = fake->caps[KVM_CAP_MEMORY_ATTRIBUTES];

	if (known <= 0)
		return -ENOTTY;
	if (attributes->flags || attributes->attributes & ~(uint64_t)known)
		return -EINVAL;
	if (!is_range(fake, attributes->address, attributes->size))
		return -EINVAL;
	gmem_fake_must(fake,
		       gmem_fake_ranges_set(&vm->private, attributes->address,
					    attributes->address + attributes->size,
					    attributes->attributes & KVM_MEMORY_ATTRIBUTE_PRIVATE),
		       "no memory");
	return 0;
}

long gmem_fake_ioctl_attributes(struct gmem_fake *fake, int fd, uintptr_t argument)
{
	const struct kvm_memory_attributes *attributes = (const void *)argument;
	struct gmem_fake_object *vm = gmem_fake_object_of_kind(fake, fd, GMEM_FAKE_VM);
	uint64_t value = attributes->attributes;
	const char *name = value == KVM_MEMORY_ATTRIBUTE_PRIVATE ? "private"
			   : value == 0				 ? "shared"
					: gmem_fake_word(fake, "attributes=%#" PRIx64, value);
	const char *flags = attributes->flags
				    ? gmem_fake_word(fake, " flags=%#" PRIx64, attributes->flags)
				    : "";
	long r;

	if (gmem_fake_decided(fake, &r,
			      "ioctl(%s, SET_ATTRIBUTES, gpa=%#" PRIx64 " size=%#" PRIx64 " %s%s)",
			      gmem_fake_name_fd(fake, fd), attributes->address, attributes->size,
			      name, flags))
		return r;
	return vm ? set_attributes(fake, vm, attributes) : gmem_fake_no_ioctl(fake, fd);
}

bool gmem_fake_is_private(const struct gmem_fake *fake, int vm_fd, uint64_t gpa, uint64_t *until)
{
	struct gmem_fake *locked = gmem_fake_enter(&fake->sys);
	const struct gmem_fake_object *vm = gmem_fake_object_of_kind(locked, vm_fd, GMEM_FAKE_VM);
	bool private;

	gmem_fake_must(locked, vm, "descriptor %d is no VM", vm_fd);
	private = gmem_fake_ranges_find(&vm->private, gpa, until);
	gmem_fake_leave(locked, 0);
	return private;
}

/* ---- Hypercall exits ---- */

static bool has_padding(const struct kvm_enable_cap *enable)
{
	for (size_t i = 0; i < sizeof(enable->pad); i++)
		if (enable->pad[i])
			return true;
	return enable->args[1] || enable->args[2] || enable->args[3];
}

long gmem_fake_ioctl_enable_cap(struct gmem_fake *fake, int fd, uintptr_t argument)
{
	const struct kvm_enable_cap *enable = (const void *)argument;
	struct gmem_fake_object *vm = gmem_fake_object_of_kind(fake, fd, GMEM_FAKE_VM);
	int known = fake->caps[KVM_CAP_EXIT_HYPERCALL];
	const char *flags = enable->flags ? gmem_fake_word(fake, " flags=%#x", enable->flags) : "";
	long r;

	gmem_fake_must(fake, !has_padding(enable), "unused members of KVM_ENABLE_CAP are not zero");
	if (gmem_fake_decided(fake, &r, "ioctl(%s, ENABLE_CAP, cap=%u args=%#" PRIx64 "%s)",
			      gmem_fake_name_fd(fake, fd), enable->cap, enable->args[0], flags))
		return r;
	if (!vm)
		return gmem_fake_no_ioctl(fake, fd);
	if (enable->flags || enable->cap != KVM_CAP_EXIT_HYPERCALL || known <= 0 ||
	    enable->args[0] & ~(uint64_t)known)
		return -EINVAL;
	vm->hypercall_exits = enable->args[0];
	return 0;
}

/* ---- Loading pages ahead ---- */

/* What the kernel leaves of a fault, also of one that the caller of the ioctl is told of. */
static int leave_exit(const struct gmem_fake *fake, const struct gmem_fake_object *vcpu,
		      uint64_t gpa, bool private, int error)
{
	if (!vcpu->run)
		return -error;
	vcpu->run->exit_reason = KVM_EXIT_MEMORY_FAULT;
	vcpu->run->memory_fault.flags = private ? KVM_MEMORY_EXIT_FLAG_PRIVATE : 0;
	vcpu->run->memory_fault.gpa = gpa;
	vcpu->run->memory_fault.size = fake->page_size;
	return -error;
}

/*
 * Load what is alike from an address on, up to `size` bytes. Returns how many, or a negative errno.
 * Memory is the guest_memfd's where the address is private, and where the host can map it, which
 * makes it the slot's only memory.
 */
static int64_t load_run(struct gmem_fake *fake, const struct gmem_fake_object *vcpu, uint64_t gpa,
			uint64_t size)
{
	const struct gmem_fake_slot *slot = gmem_fake_find_slot_at(fake, vcpu->vm, gpa);
	uint64_t until, offset;
	bool private = gmem_fake_ranges_find(&vcpu->vm->private, gpa, &until);
	bool mappable;

	if (!slot)
		return private ? leave_exit(fake, vcpu, gpa, true, EFAULT) : -ENOENT;
	offset = gpa - slot->region.guest_phys_addr;
	mappable = slot->file && slot->file->flags & GMEM_MEMFD_MMAP;
	if (until - gpa < size)
		size = until - gpa;
	if (slot->region.memory_size - offset < size)
		size = slot->region.memory_size - offset;
	if (private && !slot->file)
		return leave_exit(fake, vcpu, gpa, true, EFAULT);
	if (private || mappable)
		gmem_fake_set_allocated(fake, &slot->file->allocated,
					slot->region.guest_memfd_offset + offset, size, true);
	else if (!slot->region.userspace_addr) /* no memory fault: the host's memory is missing */
		return -EFAULT;
	return (int64_t)size;
}

/* kvm_vcpu_pre_fault_memory(): what was loaded counts, the failure behind it does not. */
static long prefault(struct gmem_fake *fake, const struct gmem_fake_object *vcpu,
		     struct kvm_pre_fault_memory *range)
{
	uint64_t rest = fake->prefault_step ? fake->prefault_step : UINT64_MAX;
	uint64_t whole = range->size;
	int64_t r = 0;

	if (range->flags || !is_range(fake, range->gpa, range->size))
		return -EINVAL;
	if (fake->caps[KVM_CAP_PRE_FAULT_MEMORY] <= 0)
		return -EOPNOTSUPP;
	while (range->size && rest) {
		r = load_run(fake, vcpu, range->gpa, range->size < rest ? range->size : rest);
		if (r < 0)
			break;
		range->gpa += (uint64_t)r;
		range->size -= (uint64_t)r;
		rest -= (uint64_t)r;
	}
	return r < 0 && range->size == whole ? (long)r : 0;
}

/* A failure that was ordered leaves what such a failure leaves. */
static void leave_ordered(const struct gmem_fake *fake, const struct gmem_fake_object *vcpu,
			  uint64_t gpa, long result)
{
	bool private;

	if (result != -EFAULT && result != -EHWPOISON && result != -ENOMEM && result != -EIO)
		return;
	private = gmem_fake_ranges_find(&vcpu->vm->private, gpa, NULL);
	leave_exit(fake, vcpu, gpa, private, (int)-result);
}

long gmem_fake_ioctl_prefault(struct gmem_fake *fake, int fd, uintptr_t argument)
{
	struct kvm_pre_fault_memory *range = (void *)argument;
	struct gmem_fake_object *vcpu = gmem_fake_object_of_kind(fake, fd, GMEM_FAKE_VCPU);
	const char *flags =
		range->flags ? gmem_fake_word(fake, " flags=%#" PRIx64, range->flags) : "";
	long r;

	for (size_t i = 0; i < ARRAY_SIZE(range->padding); i++)
		gmem_fake_must(fake, !range->padding[i],
			       "padding of KVM_PRE_FAULT_MEMORY is not zero");
	if (gmem_fake_decided(fake, &r,
			      "ioctl(%s, PRE_FAULT, gpa=%#" PRIx64 " size=%#" PRIx64 "%s)",
			      gmem_fake_name_fd(fake, fd), range->gpa, range->size, flags)) {
		if (vcpu)
			leave_ordered(fake, vcpu, range->gpa, r);
		return r;
	}
	return vcpu ? prefault(fake, vcpu, range) : gmem_fake_no_ioctl(fake, fd);
}
