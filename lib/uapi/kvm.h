/* SPDX-License-Identifier: MIT */
/*
 * The part of KVM's userspace interface that this library uses, written down anew so that it
 * builds with any kernel headers. Names and values are the kernel's (include/uapi/linux/kvm.h).
 */
#ifndef GMEM_UAPI_KVM_H
#define GMEM_UAPI_KVM_H

#include <stdint.h>
#include <sys/ioctl.h>

#define KVM_API_VERSION 12

#define KVM_GET_API_VERSION _IO(0xAE, 0x00)
#define KVM_CREATE_VM	    _IO(0xAE, 0x01)
#define KVM_CHECK_EXTENSION _IO(0xAE, 0x03)

#define KVM_CAP_NR_MEMSLOTS	    10
#define KVM_CAP_READONLY_MEM	    81
#define KVM_CAP_MULTI_ADDRESS_SPACE 118
#define KVM_CAP_EXIT_HYPERCALL	    201
#define KVM_CAP_USER_MEMORY2	    231
#define KVM_CAP_MEMORY_FAULT_INFO   232
#define KVM_CAP_MEMORY_ATTRIBUTES   233
#define KVM_CAP_GUEST_MEMFD	    234
#define KVM_CAP_VM_TYPES	    235
#define KVM_CAP_PRE_FAULT_MEMORY    236
#define KVM_CAP_GUEST_MEMFD_FLAGS   244

#define KVM_MEM_LOG_DIRTY_PAGES (1U << 0)
#define KVM_MEM_READONLY	(1U << 1)
#define KVM_MEM_GUEST_MEMFD	(1U << 2)

struct kvm_userspace_memory_region2 {
	uint32_t slot; /* address space << 16 | id */
	uint32_t flags;
	uint64_t guest_phys_addr;
	uint64_t memory_size;
	uint64_t userspace_addr;
	uint64_t guest_memfd_offset;
	uint32_t guest_memfd;
	uint32_t pad1;
	uint64_t pad2[14];
};

struct kvm_create_guest_memfd {
	uint64_t size;
	uint64_t flags;
	uint64_t reserved[6];
};

#define KVM_MEMORY_ATTRIBUTE_PRIVATE (UINT64_C(1) << 3)

struct kvm_memory_attributes {
	uint64_t address;
	uint64_t size;
	uint64_t attributes;
	uint64_t flags;
};

struct kvm_enable_cap {
	uint32_t cap;
	uint32_t flags;
	uint64_t args[4];
	uint8_t pad[64];
};

/* What is left of the range is written back. */
struct kvm_pre_fault_memory {
	uint64_t gpa;
	uint64_t size;
	uint64_t flags;
	uint64_t padding[5];
};

#define KVM_EXIT_HYPERCALL    3
#define KVM_EXIT_MEMORY_FAULT 39

#define KVM_MEMORY_EXIT_FLAG_PRIVATE (UINT64_C(1) << 3)

/* include/uapi/linux/kvm_para.h */
#define KVM_HC_MAP_GPA_RANGE	     12
#define KVM_MAP_GPA_RANGE_PAGE_SZ_1G (1 << 1)
#define KVM_MAP_GPA_RANGE_ENCRYPTED  (1 << 4)

/* The part of a vCPU's shared page that a memory fault and a hypercall use. */
struct kvm_run {
	uint8_t request_interrupt_window;
	uint8_t immediate_exit;
	uint8_t padding1[6];
	uint32_t exit_reason;
	uint8_t ready_for_interrupt_injection;
	uint8_t if_flag;
	uint16_t flags;
	uint64_t cr8;
	uint64_t apic_base;
	union {
		struct {
			uint64_t nr;
			uint64_t args[6];
			uint64_t ret;
			uint64_t flags;
		} hypercall;
		struct {
			uint64_t flags;
			uint64_t gpa;
			uint64_t size;
		} memory_fault;
		uint8_t padding[256];
	};
};

#define KVM_ENABLE_CAP		    _IOW(0xAE, 0xa3, struct kvm_enable_cap)
#define KVM_SET_MEMORY_ATTRIBUTES   _IOW(0xAE, 0xd2, struct kvm_memory_attributes)
#define KVM_PRE_FAULT_MEMORY	    _IOWR(0xAE, 0xd5, struct kvm_pre_fault_memory)
#define KVM_SET_USER_MEMORY_REGION2 _IOW(0xAE, 0x49, struct kvm_userspace_memory_region2)
#define KVM_CREATE_GUEST_MEMFD	    _IOWR(0xAE, 0xd4, struct kvm_create_guest_memfd)

#endif
