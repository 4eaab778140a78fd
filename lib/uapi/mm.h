/* SPDX-License-Identifier: MIT */
/*
 * Constants of the kernel's memory management that older userspace headers lack, and the part of
 * userfaultfd that probing needs. Names and values are the kernel's.
 */
#ifndef GMEM_UAPI_MM_H
#define GMEM_UAPI_MM_H

#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/* include/uapi/linux/mempolicy.h */
#define MPOL_DEFAULT		 0
#define MPOL_PREFERRED		 1
#define MPOL_BIND		 2
#define MPOL_INTERLEAVE		 3
#define MPOL_LOCAL		 4
#define MPOL_PREFERRED_MANY	 5
#define MPOL_WEIGHTED_INTERLEAVE 6
#define MPOL_F_ADDR		 (1UL << 1)

/* include/uapi/linux/magic.h: guest_memfd's own file system (6.19), and the one before it */
#define GUEST_MEMFD_MAGIC   0x474d454d
#define ANON_INODE_FS_MAGIC 0x09041934

/* include/uapi/linux/userfaultfd.h */
#define UFFD_API		     0xAAULL
#define UFFDIO_REGISTER_MODE_MISSING (1ULL << 0)
#define UFFDIO_REGISTER_MODE_WP	     (1ULL << 1)
#define UFFDIO_REGISTER_MODE_MINOR   (1ULL << 2)

struct uffdio_api {
	uint64_t api;
	uint64_t features;
	uint64_t ioctls;
};

struct uffdio_range {
	uint64_t start;
	uint64_t len;
};

struct uffdio_register {
	struct uffdio_range range;
	uint64_t mode;
	uint64_t ioctls;
};

#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#define UFFDIO_REGISTER	    _IOWR(0xAA, 0x00, struct uffdio_register)
#define UFFDIO_UNREGISTER   _IOR(0xAA, 0x01, struct uffdio_range)
#define UFFDIO_API	    _IOWR(0xAA, 0x3F, struct uffdio_api)

#endif
