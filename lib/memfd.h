/* SPDX-License-Identifier: MIT */
#ifndef GMEM_MEMFD_H
#define GMEM_MEMFD_H

#include "fork.h"
#include "gmem.h"
#include "interval.h"
#include "vm.h"

struct gmem_memfd {
	const struct gmem_sys *sys;
	struct gmem_vm *vm; /* a reference; NULL: received, for mapping only */
	int fd;
	enum gmem_memfd_kind kind;
	uint64_t size;
	uint64_t flags;
	size_t page_size;
	bool given;				  /* made elsewhere, perhaps for another VM */
	struct gmem_fork_guard own_fork_guard;	  /* without a VM */
	const struct gmem_fork_guard *fork_guard; /* the VM's, or its own */
	_Atomic unsigned int references;

	struct gmem_interval_set
		bound; /* bytes in the file, under the VM's lock; id: KVM's number */
};

int gmem_memfd_open_fd_sys(const struct gmem_sys *sys, struct gmem_vm *vm, int fd,
			   struct gmem_memfd **ret);

struct gmem_memfd *gmem_memfd_ref(struct gmem_memfd *memfd);
void gmem_memfd_unref(struct gmem_memfd *memfd);

/* Whether it is there, and a guest_memfd; whether it is there, and can be mapped. */
static inline bool gmem_memfd_is_guest(const struct gmem_memfd *memfd)
{
	return memfd && memfd->kind == GMEM_MEMFD_KIND_GUEST;
}

static inline bool gmem_memfd_is_mappable(const struct gmem_memfd *memfd)
{
	return memfd && memfd->flags & GMEM_MEMFD_MMAP;
}

/* NULL and forked are refused. */
int gmem_memfd_check(const struct gmem_memfd *memfd);
/* A range of whole pages in the file; 0, or a failure. */
int gmem_memfd_check_range(const struct gmem_memfd *memfd, uint64_t offset, uint64_t size);
/* Drop the pages of a range that has been checked; 0, or a failure. */
int gmem_memfd_punch(const struct gmem_memfd *memfd, uint64_t offset, uint64_t size);

#endif
