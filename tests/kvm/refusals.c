/* SPDX-License-Identifier: MIT */
#include "refusals.h"

#include <sys/mman.h>

enum {
	NO_MEMFD,
	SHARED,	  /* 8 pages; the first two are bound at page 0x100 under id 0 */
	NO_FLAGS, /* not to be mapped */
	NO_TOUCH, /* to be mapped and not touched */
	FOREIGN,  /* another VM's */
	UNKNOWN,  /* opened without a VM */
	SECOND,	  /* one more like SHARED */
};

enum {
	NO_MAP,
	WHOLE,	   /* of SHARED */
	PART,	   /* of its pages 4 to 7 */
	READ_ONLY, /* of it whole */
	STRANGER,  /* of SECOND */
};

enum {
	NO_HOST,
	MEMORY,	  /* 8 pages */
	LOW,	  /* an address that is none of ours, and possible */
	HIGH,	  /* not an address of any process */
	LAST_PAGE /* the last of the process */
};

#define ODD_GPA	   1U
#define ODD_SIZE   2U
#define ODD_OFFSET 4U
#define ODD_HOST   8U
#define AT_END	   16U /* gpa counts from the end of the guest's addresses */
#define AT_2_63	   32U /* offset counts from 2^63 bytes */

#define ID(number) .id = number, .flags = GMEM_SLOT_FIXED_ID
#define BACK	   -UINT64_C(1) * /* so many pages before the start, or before the end */

struct recipe {
	uint64_t gpa, size, offset; /* pages; a gpa of 0 stands for CROWD_FREE_PAGE */
	uint64_t flags;
	int memfd, map, host;
	unsigned int odd; /* ODD_ bits: one byte more */
	uint32_t id, as_id;
	int error;
	enum gmem_reason reason;
};

static const struct recipe recipes[] = {
#define BECAUSE(number, name) .error = number, .reason = GMEM_REASON_##name
	{.size = 1, .memfd = SHARED, .offset = 4, .flags = 4, BECAUSE(EINVAL, FLAGS_UNKNOWN)},
	{.size = 1, .host = MEMORY, .flags = UINT64_C(1) << 17, BECAUSE(EINVAL, FLAGS_UNKNOWN)},
	{.size = 1, .host = MEMORY, .flags = UINT64_C(1) << 63, BECAUSE(EINVAL, FLAGS_UNKNOWN)},
	{.size = 1, BECAUSE(EINVAL, CONFLICT)},
	{.size = 1, .map = WHOLE, .host = MEMORY, BECAUSE(EINVAL, CONFLICT)},
	{.size = 1, .host = MEMORY, .offset = 1, BECAUSE(EINVAL, CONFLICT)},
	{.size = 1, .host = MEMORY, .id = 5, BECAUSE(EINVAL, CONFLICT)},
	{.size = 1, .host = MEMORY, .as_id = 64, BECAUSE(ERANGE, AS_BEYOND_LIMIT)},

	{.size = 0, .host = MEMORY, BECAUSE(EINVAL, RANGE_EMPTY)},
	{.size = 1, .host = MEMORY, .odd = ODD_GPA, BECAUSE(EINVAL, RANGE_UNALIGNED)},
	{.size = 1, .host = MEMORY, .odd = ODD_SIZE, BECAUSE(EINVAL, RANGE_UNALIGNED)},
	{.size = 1, .host = MEMORY, .odd = ODD_HOST, BECAUSE(EINVAL, RANGE_UNALIGNED)},
	{.size = 1, .memfd = SHARED, .odd = ODD_OFFSET, BECAUSE(EINVAL, RANGE_UNALIGNED)},
	{.size = 1, .map = WHOLE, .odd = ODD_OFFSET, BECAUSE(EINVAL, RANGE_UNALIGNED)},
	{.gpa = BACK 2, .size = 1, .host = MEMORY, BECAUSE(ERANGE, GPA_BEYOND_WIDTH)},
	{.gpa = BACK 1, .size = 1, .host = MEMORY, BECAUSE(EOVERFLOW, RANGE_WRAPS)},
	{.gpa = BACK 1, .size = 2, .host = MEMORY, BECAUSE(EOVERFLOW, RANGE_WRAPS)},
	{.gpa = 0, .size = 1, .host = MEMORY, .odd = AT_END, BECAUSE(ERANGE, GPA_BEYOND_WIDTH)},
	{.gpa = BACK 1,
	 .size = 2,
	 .host = MEMORY,
	 .odd = AT_END,
	 BECAUSE(ERANGE, GPA_BEYOND_WIDTH)},

	{.size = 1, .memfd = SHARED, .offset = 8, BECAUSE(ERANGE, MEMFD_BEYOND_END)},
	{.size = 2, .memfd = SHARED, .offset = 7, BECAUSE(ERANGE, MEMFD_BEYOND_END)},
	{.size = 9, .memfd = SHARED, .offset = 0, BECAUSE(ERANGE, MEMFD_BEYOND_END)},
	{.size = 1,
	 .memfd = SHARED,
	 .offset = BACK 1,
	 .odd = AT_2_63,
	 BECAUSE(ERANGE, MEMFD_BEYOND_END)},
	/* Kernels up to 6.19 would take this one. */
	{.size = 2,
	 .memfd = SHARED,
	 .offset = BACK 1,
	 .odd = AT_2_63,
	 BECAUSE(ERANGE, MEMFD_BEYOND_END)},
	{.size = 1, .memfd = SHARED, .odd = AT_2_63, BECAUSE(ERANGE, MEMFD_BEYOND_END)},
	{.size = 1, .memfd = SHARED, .offset = BACK 2, BECAUSE(ERANGE, MEMFD_BEYOND_END)},
	{.size = 2, .memfd = SHARED, .offset = BACK 1, BECAUSE(EOVERFLOW, RANGE_WRAPS)},
	{.size = 1, .memfd = SHARED, .map = PART, .offset = 3, BECAUSE(ERANGE, MAP_BEYOND_END)},
	{.size = 2, .map = PART, .offset = 7, BECAUSE(ERANGE, MAP_BEYOND_END)},
	{.size = 1, .map = PART, .offset = 8, BECAUSE(ERANGE, MAP_BEYOND_END)},
	{.size = 2,
	 .map = WHOLE,
	 .offset = BACK 1,
	 .odd = AT_2_63,
	 BECAUSE(ERANGE, MAP_BEYOND_END)},
	{.size = 2, .map = WHOLE, .offset = BACK 1, BECAUSE(EOVERFLOW, RANGE_WRAPS)},
	{.size = 1, .host = HIGH, BECAUSE(ERANGE, HOST_NOT_CANONICAL)},
	{.size = 2, .host = LAST_PAGE, BECAUSE(ERANGE, HOST_NOT_CANONICAL)},
#ifdef __x86_64__ /* it is no process's there */
	{.size = 1, .host = LAST_PAGE, BECAUSE(ERANGE, HOST_NOT_CANONICAL)},
#endif

	{.gpa = 0x1ff, .size = 2, .host = MEMORY, BECAUSE(EEXIST, GPA_RESERVED)},
	{.gpa = 0x203, .size = 1, .host = MEMORY, BECAUSE(EEXIST, GPA_RESERVED)},
	{.gpa = CROWD_BOUND_PAGE, .size = 1, .host = MEMORY, BECAUSE(EEXIST, GPA_OVERLAP)},
	{.gpa = CROWD_BOUND_PAGE + 1, .size = 1, .host = MEMORY, BECAUSE(EEXIST, GPA_OVERLAP)},
	{.gpa = CROWD_BOUND_PAGE - 1, .size = 2, .host = MEMORY, BECAUSE(EEXIST, GPA_OVERLAP)},
	{.gpa = CROWD_BOUND_PAGE - 1, .size = 8, .host = MEMORY, BECAUSE(EEXIST, GPA_OVERLAP)},
	{.size = 1, .memfd = SHARED, .offset = 1, BECAUSE(EEXIST, MEMFD_OVERLAP)},
	{.size = 8, .memfd = SHARED, .offset = 0, .map = WHOLE, BECAUSE(EEXIST, MEMFD_OVERLAP)},
	{.size = UINT64_C(1) << 31, .host = LOW, BECAUSE(ERANGE, TOO_MANY_PAGES)},

	{.size = 1, .host = MEMORY, ID(0xffff), BECAUSE(ERANGE, ID_BEYOND_LIMIT)},
	{.size = 1, .host = MEMORY, ID(UINT32_MAX), BECAUSE(ERANGE, ID_BEYOND_LIMIT)},
	{.size = 1, .host = MEMORY, ID(30), BECAUSE(EPERM, ID_NOT_GRANTED)},
	{.size = 1, .host = MEMORY, ID(20), BECAUSE(EPERM, ID_NOT_GRANTED)},
	{.size = 1, .host = MEMORY, ID(0), BECAUSE(EEXIST, ID_TAKEN)},

	{.size = 1, .memfd = FOREIGN, BECAUSE(EXDEV, MEMFD_FOREIGN)},
	{.size = 1, .memfd = UNKNOWN, BECAUSE(EXDEV, MEMFD_FOREIGN)},
	{.size = 1,
	 .memfd = SHARED,
	 .offset = 4,
	 .flags = GMEM_SLOT_LOG_DIRTY,
	 BECAUSE(EOPNOTSUPP, MEMFD_NO_DIRTY_LOG)},
	{.size = 1,
	 .memfd = SHARED,
	 .offset = 4,
	 .flags = GMEM_SLOT_READONLY,
	 BECAUSE(EOPNOTSUPP, MEMFD_NO_READONLY)},
	{.size = 1, .memfd = NO_FLAGS, BECAUSE(EINVAL, MEMFD_IGNORED)},
	{.size = 1, .memfd = NO_FLAGS, .host = MEMORY, BECAUSE(EINVAL, MEMFD_IGNORED)},
	{.size = 1, .memfd = NO_TOUCH, BECAUSE(EINVAL, MEMFD_UNTOUCHABLE)},
	{.size = 1,
	 .memfd = SHARED,
	 .offset = 4,
	 .host = MEMORY,
	 BECAUSE(EINVAL, HOST_NOT_MAPPING)},
	{.size = 1,
	 .memfd = SHARED,
	 .offset = 4,
	 .map = STRANGER,
	 BECAUSE(EINVAL, HOST_NOT_MAPPING)},
	{.size = 1, .map = READ_ONLY, BECAUSE(EACCES, ACCESS_READONLY)},
	{.size = 1,
	 .memfd = SHARED,
	 .offset = 4,
	 .map = READ_ONLY,
	 BECAUSE(EACCES, ACCESS_READONLY)},

	/* Of several reasons the first in the header's order. */
	{.gpa = CROWD_BOUND_PAGE,
	 .size = 1,
	 .memfd = SHARED,
	 .offset = 8,
	 BECAUSE(ERANGE, MEMFD_BEYOND_END)},
	{.gpa = CROWD_BOUND_PAGE,
	 .size = 1,
	 .memfd = SHARED,
	 .offset = 1,
	 BECAUSE(EEXIST, GPA_OVERLAP)},
	{.size = 1, .memfd = SHARED, .offset = 1, ID(30), BECAUSE(EEXIST, MEMFD_OVERLAP)},
	{.size = 1, .memfd = FOREIGN, ID(0), BECAUSE(EEXIST, ID_TAKEN)},
};
const int refusal_count = (int)(sizeof(recipes) / sizeof(recipes[0]));

static struct gmem_memfd *make_memfd(struct gmem_vm *vm, uint64_t flags)
{
	struct gmem_memfd *memfd;

	assert_ok(gmem_memfd_create(vm, MEMFD(.size = 8 * raw_page(), .flags = flags), &memfd));
	return memfd;
}

static void open_memfds(struct crowd *crowd)
{
	struct gmem_memfd **memfds = crowd->memfds;

	memfds[SHARED] = make_memfd(crowd->vm, MEMFD_SHARED);
	memfds[NO_FLAGS] = make_memfd(crowd->vm, 0);
	memfds[NO_TOUCH] = make_memfd(crowd->vm, GMEM_MEMFD_MMAP);
	memfds[FOREIGN] = make_memfd(crowd->other_vm, MEMFD_SHARED);
	memfds[SECOND] = make_memfd(crowd->vm, MEMFD_SHARED);
	assert_ok(gmem_memfd_open_fd(NULL, gmem_memfd_get_fd(memfds[FOREIGN]), &memfds[UNKNOWN]));
}

void crowd_open(struct crowd *crowd)
{
	size_t page = raw_page();
	uint64_t bits;

	*crowd = (struct crowd){.page = page, .before = traces_get()};
	assert_ok(gmem_vm_open(VM_UNDER_TEST(.id_count = 30), &crowd->vm));
	assert_ok(gmem_vm_open(VM_UNDER_TEST(), &crowd->other_vm));
	assert_ok(gmem_vm_get_cap(crowd->vm, GMEM_CAP_GPA_BITS, &bits));
	crowd->gpa_end = (UINT64_C(1) << bits) / page;
	assert_ok(gmem_vm_get_cap(crowd->vm, GMEM_CAP_HVA_BITS, &bits));
	crowd->hva_end = (UINT64_C(1) << bits) / page;
	open_memfds(crowd);
	crowd->shared = crowd->memfds[SHARED];
	crowd->maps[WHOLE] = world_map(crowd->memfds[SHARED]);
	crowd->maps[STRANGER] = world_map(crowd->memfds[SECOND]);
	assert_ok(gmem_map_create(crowd->memfds[SHARED], MAP(.offset = 4 * page, .size = 4 * page),
				  &crowd->maps[PART]));
	assert_ok(gmem_map_create(crowd->memfds[SHARED],
				  MAP(.size = 8 * page, .prot = GMEM_PROT_READ),
				  &crowd->maps[READ_ONLY]));
	crowd->memory = raw_map(-1, 0, 8 * page);
	assert_ok(gmem_slot_create(crowd->vm,
				   SLOT(.gpa = CROWD_BOUND_PAGE * page, .size = 2 * page,
					.memfd = crowd->memfds[SHARED]),
				   &crowd->bound));
	assert_ok(gmem_vm_reserve(crowd->vm, RESERVE(.id_first = 20, .id_count = 2,
						     .gpa = 0x200 * page, .size = 4 * page)));
}

void crowd_close(struct crowd *crowd)
{
	gmem_slot_close(crowd->bound);
	for (size_t i = 0; i < sizeof(crowd->maps) / sizeof(crowd->maps[0]); i++)
		gmem_map_close(crowd->maps[i]);
	for (size_t i = 0; i < sizeof(crowd->memfds) / sizeof(crowd->memfds[0]); i++)
		gmem_memfd_close(crowd->memfds[i]);
	munmap(crowd->memory, 8 * crowd->page);
	gmem_vm_close(crowd->other_vm);
	gmem_vm_close(crowd->vm);
	traces_assert_same(&crowd->before);
}

static uintptr_t host_of(const struct crowd *crowd, int host)
{
	switch (host) {
	case MEMORY:
		return (uintptr_t)crowd->memory;
	case LOW:
		return crowd->page * 16;
	case HIGH:
		return (uintptr_t)1 << 63;
	case LAST_PAGE:
		return (crowd->hva_end - 1) * crowd->page;
	default:
		return 0;
	}
}

struct refusal refusal_get(const struct crowd *crowd, int i)
{
	const struct recipe *recipe = &recipes[i];
	uint64_t gpa = recipe->gpa ? recipe->gpa : CROWD_FREE_PAGE;
	uint64_t offset = recipe->offset;
	unsigned int odd = recipe->odd;
	enum gmem_reason reason = recipe->reason;

	if (odd & AT_END)
		gpa = crowd->gpa_end + recipe->gpa;
	if (odd & AT_2_63)
		offset += (UINT64_C(1) << 63) / crowd->page;
	/* So many pages do not fit at all where guest addresses are narrow. */
	if (reason == GMEM_REASON_TOO_MANY_PAGES && gpa + recipe->size > crowd->gpa_end)
		reason = GMEM_REASON_GPA_BEYOND_WIDTH;
	return (struct refusal){
		.error = recipe->error,
		.reason = reason,
		.opts =
			{
				.sz = sizeof(struct gmem_slot_opts),
				.gpa = gpa * crowd->page + (odd & ODD_GPA ? 1 : 0),
				.size = recipe->size * crowd->page + (odd & ODD_SIZE ? 1 : 0),
				.memfd = crowd->memfds[recipe->memfd],
				.offset = offset * crowd->page + (odd & ODD_OFFSET ? 1 : 0),
				.map = crowd->maps[recipe->map],
				.host = (void *)(host_of(crowd, recipe->host) +
						 (odd & ODD_HOST ? 1 : 0)),
				.flags = recipe->flags,
				.id = recipe->id,
				.as_id = recipe->as_id,
			},
	};
}
