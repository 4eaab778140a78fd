/* SPDX-License-Identifier: MIT */
/*
 * What a VMM without the library calls itself. Here, and not where it is used, since the kernel's
 * own header and the library's copy of its newer parts exclude each other.
 */
#ifndef BENCH_RAW_H
#define BENCH_RAW_H

#include <stdbool.h>
#include <stdint.h>

#define RAW_VM_SW_PROTECTED 1 /* KVM_X86_SW_PROTECTED_VM */

/* Whether this kernel makes such VMs. */
bool raw_has_private(const char *device);

/* Each ends the program where it fails, and takes the same care as the library does. */
int raw_create(int vm_fd, uint64_t size, uint64_t flags); /* a guest_memfd, close-on-exec */
void *raw_map(int fd, uint64_t offset, uint64_t size);	  /* no child gets it */
void raw_unmap(void *addr, uint64_t size);
void raw_bind(int vm_fd, uint32_t id, uint64_t gpa, uint64_t size, void *host);
void raw_bind_memfd(int vm_fd, uint32_t id, uint64_t gpa, uint64_t size, void *host, int fd,
		    uint64_t offset);
void raw_delete(int vm_fd, uint32_t id);
void raw_populate(void *addr, uint64_t size);
void raw_allocate(int fd, uint64_t offset, uint64_t size);
void raw_set_private(int vm_fd, uint64_t gpa, uint64_t size, bool is_private);
void raw_punch(int fd, uint64_t offset, uint64_t size);
void raw_forget(void *addr, uint64_t size); /* memory without a file */

#endif
