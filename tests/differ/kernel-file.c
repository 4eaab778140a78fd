/* SPDX-License-Identifier: MIT */
#include "kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- Files ---- */

static int make_sealed(uint64_t size)
{
	int fd = memfd_create("twin", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int r;

	if (fd < 0)
		return -errno;
	r = raw_result(ftruncate(fd, (off_t)size));
	if (r == 0)
		r = raw_result(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL));
	if (r < 0)
		close(fd);
	return r < 0 ? r : fd;
}

/* A file like another one. */
static int make_like(uint8_t vm, uint64_t size, uint64_t flags, bool sealed)
{
	return sealed ? make_sealed(size) : raw_memfd(kernel_vms[vm].fd, size, flags);
}

/* A NUMA policy is set through a mapping. */
static int set_policy(int fd, uint64_t size, uint32_t mode, uint64_t nodes)
{
	void *addr = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	int r;

	if (addr == MAP_FAILED)
		return -errno;
	r = raw_result(syscall(SYS_mbind, addr, size, (unsigned long)mode, &nodes, 65UL, 0UL));
	munmap(addr, size);
	return r;
}

int kernel_make_memfd(const struct step *step, struct answer *answer)
{
	bool sealed = step->mode == GMEM_FALLBACK_MEMFD &&
		      raw_cap(kernel_vms[step->vm].fd, RAW_CAP_GUEST_MEMFD) <= 0;
	int fd = make_like(step->vm, step->size, step->flags, sealed);
	struct kernel_file *file;
	int r = 0;

	(void)answer;
	if (fd < 0)
		return fd;
	if (step->numa)
		r = set_policy(fd, step->size, step->numa, step->value);
	if (r < 0) {
		close(fd);
		return r;
	}
	file = kernel_make(sizeof(*file));
	*file = (struct kernel_file){.references = 1,
				     .fd = fd,
				     .size = step->size,
				     .flags = sealed ? RAW_SHARED : step->flags,
				     .sealed = sealed};
	kernel_files[step->at] = file;
	return 0;
}

int kernel_open_fd(const struct step *step, struct answer *answer)
{
	const struct kernel_file *from =
		step->from == STEP_NOWHERE ? NULL : kernel_files[step->from];
	int source = from			      ? from->fd
		     : step->mode == STEP_MODE_BAD_FD ? -1
						      : open("/dev/null", O_RDWR);
	int fd = fcntl(source, F_DUPFD_CLOEXEC, 0);
	int r = raw_result(fd);
	struct kernel_file *file;

	(void)answer;
	if (!from && source >= 0)
		close(source);
	if (r < 0)
		return r;
	file = kernel_make(sizeof(*file));
	*file = from ? *from : (struct kernel_file){.size = step_page()};
	file->references = 1;
	file->fd = fd;
	kernel_files[step->at] = file;
	return 0;
}

int kernel_allocate(const struct step *step, struct answer *answer)
{
	(void)answer;
	return raw_allocate(kernel_files[step->at]->fd, step->start, step->size);
}

/* What can not be brought back is asked of another file of that size. */
int kernel_discard(const struct step *step, struct answer *answer)
{
	const struct kernel_file *file = kernel_files[step->at];
	bool inside = step->start <= file->size && step->size <= file->size - step->start &&
		      (step->start | step->size) % step_page() == 0;
	int fd, r;

	(void)answer;
	if (inside)
		return raw_punch(file->fd, step->start, step->size);
	fd = make_like(step->vm, file->size, file->flags, file->sealed);
	if (fd < 0)
		return fd;
	r = raw_punch(fd, step->start, step->size);
	close(fd);
	return r;
}

/* ---- Mappings ---- */

int kernel_map_file(struct kernel_file *file, uint64_t offset, uint64_t size, uint32_t prot,
		    struct kernel_area **ret)
{
	struct kernel_area *area;
	void *addr;

	prot = prot ? prot : GMEM_PROT_READ | GMEM_PROT_WRITE;
	addr = mmap(NULL, size, (int)prot, MAP_SHARED, file->fd, (off_t)offset);
	if (addr == MAP_FAILED)
		return -errno;
	area = kernel_make(sizeof(*area));
	*area = (struct kernel_area){.references = 1,
				     .file = kernel_ref_file(file),
				     .addr = addr,
				     .offset = offset,
				     .size = size,
				     .prot = prot};
	*ret = area;
	return 0;
}

int kernel_make_map(const struct step *step, struct answer *answer)
{
	(void)answer;
	return kernel_map_file(kernel_files[step->from], step->start, step->size,
			       (uint32_t)step->flags, &kernel_areas[step->at]);
}

int kernel_populate(const struct step *step, struct answer *answer)
{
	const struct kernel_area *area = kernel_areas[step->at];
	uint64_t into = step->start - area->offset;
	uint64_t pages = step->size / step_page() + (step->size % step_page() != 0);
	int advice = area->prot & GMEM_PROT_WRITE ? RAW_POPULATE_WRITE : RAW_POPULATE_READ;

	(void)answer;
	/* Past the mapping is somebody else's memory. */
	if (into > area->size || pages > (area->size - into) / step_page())
		return -ANSWER_UNASKED;
	return raw_result(madvise(area->addr + into, step->size, advice));
}
