/* SPDX-License-Identifier: MIT */
#include "library.h"

#include "../kernel/raw.h"
#include "memory.h"
#include "random.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static struct gmem_vm *vms[STEP_VMS];
static struct gmem_memfd *memfds[STEP_MEMFDS];
static struct gmem_map *maps[STEP_MAPS];
static struct gmem_slot *slots[STEP_SLOTS];

/* ---- System calls of the library ---- */

/* The linker puts it before libc's: a refusal of what is known makes no ioctl. */
static unsigned int ioctls;
int __real_ioctl(int fd, unsigned long request, void *argument);
int __wrap_ioctl(int fd, unsigned long request, void *argument);
int __wrap_ioctl(int fd, unsigned long request, void *argument)
{
	ioctls++;
	return __real_ioctl(fd, request, argument);
}

/* ---- Slots ---- */

static struct gmem_slot_opts opts_of(const struct step_slot *slot)
{
	return (struct gmem_slot_opts){
		.sz = sizeof(struct gmem_slot_opts),
		.gpa = slot->gpa,
		.size = slot->size,
		.memfd = slot->memfd == STEP_NOWHERE ? NULL : memfds[slot->memfd],
		.offset = slot->offset,
		.map = slot->map == STEP_NOWHERE ? NULL : maps[slot->map],
		.host = step_host(slot),
		.flags = slot->flags,
		.id = slot->id,
		.as_id = slot->as_id,
	};
}

/* Another place that holds a slot, but none of [place, end); or STEP_NOWHERE. */
static uint8_t find_same(uint8_t place, unsigned int end)
{
	for (unsigned int i = 0; i < STEP_SLOTS; i++)
		if ((i < place || i >= end) && slots[place] && slots[i] == slots[place])
			return (uint8_t)i;
	return STEP_NOWHERE;
}

static int finish_slots(const struct step *step, struct answer *answer, int r)
{
	for (unsigned int i = 0; i < step->count; i++) {
		uint8_t place = (uint8_t)(step->at + i);

		answer->broken |= (r < 0) != !slots[place];
		answer->same[i] = r < 0 ? STEP_NOWHERE : find_same(place, step->at + step->count);
		answer->value = answer->value << 16 | gmem_slot_get_id(slots[place]);
	}
	return r;
}

static int do_slot(const struct step *step, struct answer *answer)
{
	struct gmem_slot_opts opts = opts_of(&step->slots[0]);
	int r = gmem_slot_create(vms[step->vm], &opts, &slots[step->at]);

	return finish_slots(step, answer, r);
}

static int do_many(const struct step *step, struct answer *answer)
{
	struct gmem_slot_opts opts[STEP_MANY_MAX];
	int r;

	for (unsigned int i = 0; i < step->count; i++)
		opts[i] = opts_of(&step->slots[i]);
	r = gmem_slot_create_many(vms[step->vm], opts, step->count, &slots[step->at]);
	return finish_slots(step, answer, r);
}

static uint32_t number_of(const struct gmem_slot *slot)
{
	return gmem_slot_get_as_id(slot) << 16 | gmem_slot_get_id(slot);
}

/* The VMM's own slot, which the library allows: the VMM sets it. */
static int set_adopted(const struct step *step)
{
	const struct step_slot *asked = &step->slots[0];
	const struct gmem_memfd *memfd = asked->memfd == STEP_NOWHERE ? NULL : memfds[asked->memfd];
	const struct gmem_slot *slot = slots[step->at];
	struct raw_region region = {.slot = number_of(slot),
				    .flags = (uint32_t)gmem_slot_get_flags(slot),
				    .gpa = gmem_slot_get_gpa(slot),
				    .size = gmem_slot_get_size(slot),
				    .addr = (uintptr_t)gmem_slot_get_addr(slot)};

	if (memfd && gmem_memfd_get_kind(memfd) == GMEM_MEMFD_KIND_GUEST) {
		region.flags |= RAW_GUEST_MEMFD;
		region.memfd = (uint32_t)gmem_memfd_get_fd(memfd);
		region.offset = asked->offset;
	}
	return raw_set(gmem_vm_get_fd(vms[step->vm]), &region);
}

/* Of the places that share one, the first to have it. */
static bool adopted[STEP_SLOTS];

static bool take_adopted(const struct gmem_slot *slot)
{
	bool found = false;

	for (unsigned int i = 0; i < STEP_SLOTS; i++) {
		if (slots[i] != slot)
			continue;
		found |= adopted[i];
		adopted[i] = false;
	}
	return found;
}

/* The library is told first, since it makes no call; a VMM would do it the other way round. */
static int do_adopt(const struct step *step, struct answer *answer)
{
	struct gmem_slot_opts opts = opts_of(&step->slots[0]);
	int r = gmem_slot_adopt(vms[step->vm], &opts, &slots[step->at]);

	finish_slots(step, answer, r);
	answer->broken |= ioctls > 0;
	if (r < 0 || answer->same[0] != STEP_NOWHERE)
		return r;
	r = set_adopted(step);
	ioctls = 0;
	adopted[step->at] = r == 0;
	if (r == 0)
		return 0;
	answer->in_the_way = true;
	gmem_slot_close(slots[step->at]);
	slots[step->at] = NULL;
	return r;
}

static int do_stranger(const struct step *step, struct answer *answer)
{
	struct raw_region region = {.slot = step->slots[0].id,
				    .gpa = step->slots[0].gpa,
				    .size = step->slots[0].size,
				    .addr = (uintptr_t)step_stranger_host(step->at)};

	(void)answer;
	return raw_set(gmem_vm_get_fd(vms[step->vm]), &region);
}

static int do_banish(const struct step *step, struct answer *answer)
{
	(void)answer;
	return raw_delete(gmem_vm_get_fd(vms[step->vm]), step->slots[0].id);
}

/* What the library forgets only, the VMM deletes. */
static int do_delete(const struct step *step, struct answer *answer)
{
	struct gmem_slot *slot = slots[step->at];
	int r = gmem_slot_delete(slot);

	(void)answer;
	if (r == 0 && take_adopted(slot))
		raw_delete(gmem_vm_get_fd(vms[step->vm]), number_of(slot));
	return r;
}

static int do_close_slot(const struct step *step, struct answer *answer)
{
	struct gmem_slot *slot = slots[step->at];
	uint32_t number = number_of(slot);
	uint8_t same = find_same(step->at, step->at + 1U);
	bool was_adopted = take_adopted(slot);

	(void)answer;
	gmem_slot_close(slot);
	slots[step->at] = NULL;
	if (same != STEP_NOWHERE)
		adopted[same] = was_adopted;
	else if (was_adopted)
		raw_delete(gmem_vm_get_fd(vms[step->vm]), number);
	return 0;
}

static int quiesce(void *data)
{
	return *(const uint32_t *)data == STEP_MODE_STUBBORN ? -EBUSY : 0;
}

static void resume(void *data)
{
	(void)data;
}

static int do_replace(const struct step *step, struct answer *answer)
{
	struct gmem_slot_opts opts = opts_of(&step->slots[0]);
	bool calls = step->mode == STEP_MODE_QUIESCE || step->mode == STEP_MODE_STUBBORN;
	uint32_t mode = step->mode;
	struct gmem_replace_opts how = {
		.sz = sizeof(how),
		.flags = step->flags | (mode == STEP_MODE_PLAIN ? GMEM_REPLACE_NO_VCPUS : 0),
		.quiesce = calls ? quiesce : NULL,
		.resume = calls ? resume : NULL,
		.data = &mode,
	};

	(void)answer;
	return gmem_slot_replace(slots[step->at], &opts, &how);
}

static int do_flags(const struct step *step, struct answer *answer)
{
	(void)answer;
	return gmem_slot_set_flags(slots[step->at], step->flags);
}

static int do_reserve(const struct step *step, struct answer *answer)
{
	struct gmem_reserve_opts opts = {.sz = sizeof(opts),
					 .as_id = step->as_id,
					 .id_first = step->id_first,
					 .id_count = step->id_count,
					 .gpa = step->start,
					 .size = step->size};

	(void)answer;
	return gmem_vm_reserve(vms[step->vm], &opts);
}

/* ---- Files and mappings ---- */

static int do_memfd(const struct step *step, struct answer *answer)
{
	struct gmem_memfd_opts opts = {.sz = sizeof(opts),
				       .size = step->size,
				       .flags = step->flags,
				       .fallback = (enum gmem_fallback)step->mode,
				       .numa_mode = (enum gmem_numa)step->numa,
				       .numa_nodes = step->numa ? &step->value : NULL,
				       .numa_words = step->numa ? 1 : 0};
	int r = gmem_memfd_create(vms[step->vm], &opts, &memfds[step->at]);

	answer->broken |= (r < 0) != !memfds[step->at];
	return r;
}

static int descriptor_of(const struct step *step)
{
	switch (step->mode) {
	case STEP_MODE_BAD_FD:
		return -1;
	case STEP_MODE_NULL_FD:
		return open("/dev/null", O_RDWR | O_CLOEXEC);
	case STEP_MODE_MEMFD_FD:
		return memfd_create("differ", MFD_CLOEXEC);
	default:
		return gmem_memfd_get_fd(memfds[step->from]);
	}
}

static int do_open_fd(const struct step *step, struct answer *answer)
{
	struct gmem_vm *vm = step->mode == STEP_MODE_NO_VM ? NULL : vms[step->vm];
	int fd = descriptor_of(step);
	int r = gmem_memfd_open_fd(vm, fd, &memfds[step->at]);

	answer->broken |= (r < 0) != !memfds[step->at];
	if (step->mode == STEP_MODE_NULL_FD || step->mode == STEP_MODE_MEMFD_FD)
		close(fd);
	return r;
}

static int do_close_memfd(const struct step *step, struct answer *answer)
{
	(void)answer;
	gmem_memfd_close(memfds[step->at]);
	memfds[step->at] = NULL;
	return 0;
}

static int do_allocate(const struct step *step, struct answer *answer)
{
	(void)answer;
	return gmem_memfd_allocate(memfds[step->at], step->start, step->size);
}

static int do_discard(const struct step *step, struct answer *answer)
{
	(void)answer;
	return gmem_memfd_discard(memfds[step->at], step->start, step->size);
}

static int do_map(const struct step *step, struct answer *answer)
{
	struct gmem_map_opts opts = {.sz = sizeof(opts),
				     .offset = step->start,
				     .size = step->size,
				     .prot = (uint32_t)step->flags,
				     .pad = step->mode};
	int r = gmem_map_create(memfds[step->from], &opts, &maps[step->at]);

	answer->broken |= (r < 0) != !maps[step->at];
	return r;
}

static int do_close_map(const struct step *step, struct answer *answer)
{
	(void)answer;
	gmem_map_close(maps[step->at]);
	maps[step->at] = NULL;
	return 0;
}

static int do_populate(const struct step *step, struct answer *answer)
{
	(void)answer;
	return gmem_map_populate(maps[step->at], step->start, step->size, step->mode);
}

/* ---- Guest memory ---- */

static int do_read(const struct step *step, struct answer *answer)
{
	unsigned char bytes[STEP_BYTES] = {0};
	int r = gmem_vm_read(vms[step->vm], step->as_id, step->start, bytes, step->size);

	answer->value = r == 0 ? memory_sum(bytes, sizeof(bytes)) : 0;
	return r;
}

static int do_write(const struct step *step, struct answer *answer)
{
	unsigned char bytes[STEP_BYTES];

	(void)answer;
	memory_fill(bytes, step->value);
	return gmem_vm_write(vms[step->vm], step->as_id, step->start, bytes, step->size);
}

static int do_load(const struct step *step, struct answer *answer)
{
	struct gmem_vm *vm = vms[step->vm];
	_Alignas(8) unsigned char bytes[STEP_BYTES] = {0};
	void *value = bytes;
	int r;

	switch (step->size) {
	case 1:
		r = gmem_vm_load_u8(vm, step->as_id, step->start, value);
		break;
	case 2:
		r = gmem_vm_load_u16(vm, step->as_id, step->start, value);
		break;
	case 4:
		r = gmem_vm_load_u32(vm, step->as_id, step->start, value);
		break;
	default:
		r = gmem_vm_load_u64(vm, step->as_id, step->start, value);
	}
	answer->value = r == 0 ? memory_sum(bytes, sizeof(bytes)) : 0;
	return r;
}

static int do_store(const struct step *step, struct answer *answer)
{
	struct gmem_vm *vm = vms[step->vm];
	_Alignas(8) unsigned char bytes[STEP_BYTES];
	void *value = bytes;

	(void)answer;
	memory_fill(bytes, step->value);
	switch (step->size) {
	case 1:
		return gmem_vm_store_u8(vm, step->as_id, step->start, *(uint8_t *)value);
	case 2:
		return gmem_vm_store_u16(vm, step->as_id, step->start, *(uint16_t *)value);
	case 4:
		return gmem_vm_store_u32(vm, step->as_id, step->start, *(uint32_t *)value);
	default:
		return gmem_vm_store_u64(vm, step->as_id, step->start, *(uint64_t *)value);
	}
}

static int do_translate(const struct step *step, struct answer *answer)
{
	void *addr;

	return gmem_vm_translate(vms[step->vm], step->as_id, step->start, (uint32_t)step->flags,
				 &answer->value, &addr);
}

static int do_drop(const struct step *step, struct answer *answer)
{
	(void)answer;
	return gmem_vm_discard(vms[step->vm], step->start, step->size);
}

static int do_convert(const struct step *step, struct answer *answer)
{
	uint64_t done;
	int r = gmem_vm_convert(vms[step->vm], step->start, step->size,
				(enum gmem_visibility)step->value,
				(enum gmem_convert_policy)step->mode, &done);

	answer->broken |= done != (r == 0 ? step->size : 0);
	return r;
}

/* ---- VMs ---- */

static int do_vm(const struct step *step, struct answer *answer)
{
	struct gmem_vm_opts opts = {.sz = sizeof(opts), .type = step->start};
	struct gmem_vm *vm = NULL;
	int fd = -1, r;

	switch (step->mode) {
	case STEP_MODE_NO_DEVICE:
		opts.device = "/nonexistent/kvm";
		break;
	case STEP_MODE_NOT_KVM:
		opts.device = "/dev/null";
		break;
	case STEP_MODE_NULL_FD:
		fd = open("/dev/null", O_RDWR | O_CLOEXEC);
		break;
	default:
		opts.device = harness_kvm_device();
		opts.flags = step->mode == STEP_MODE_VM_FLAGS ? UINT64_C(1) << 40 : 0;
		opts.id_first = step->mode == STEP_MODE_IDS ? UINT32_C(1) << 16 : 0;
	}
	if (step->mode == STEP_MODE_NULL_FD || step->mode == STEP_MODE_BAD_FD) {
		opts.device = NULL;
		r = gmem_vm_open_fd(fd, &opts, &vm);
	} else {
		r = gmem_vm_open(&opts, &vm);
	}
	answer->broken |= (r < 0) != !vm;
	gmem_vm_close(vm);
	if (fd >= 0)
		close(fd);
	return r;
}

/* Each kind in an order of its own, and the kinds mixed: what is still needed must stay. */
void library_close_all(uint64_t seed)
{
	struct random random = {.state = seed};
	uint8_t order[STEP_SLOTS + STEP_MAPS + STEP_MEMFDS + STEP_VMS];
	unsigned int count = sizeof(order);

	for (unsigned int i = 0; i < count; i++)
		order[i] = (uint8_t)i;
	for (; count > 0; count--) {
		uint64_t chosen = random_below(&random, count);
		unsigned int place = order[chosen];

		order[chosen] = order[count - 1];
		if (place < STEP_SLOTS) {
			gmem_slot_close(slots[place]);
			slots[place] = NULL;
		} else if ((place -= STEP_SLOTS) < STEP_MAPS) {
			gmem_map_close(maps[place]);
			maps[place] = NULL;
		} else if ((place -= STEP_MAPS) < STEP_MEMFDS) {
			gmem_memfd_close(memfds[place]);
			memfds[place] = NULL;
		} else {
			gmem_vm_close(vms[place - STEP_MEMFDS]);
			vms[place - STEP_MEMFDS] = NULL;
		}
	}
	memset(adopted, 0, sizeof(adopted));
}

static unsigned int count_descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned int count = 0;

	while (dir && readdir(dir))
		count++;
	if (dir)
		closedir(dir);
	return count;
}

/* The first time, nothing has been opened. */
static bool has_leaked(void)
{
	static unsigned int first;
	unsigned int now = count_descriptors();

	if (!first)
		first = now;
	return now != first;
}

static int do_renew(const struct step *step, struct answer *answer)
{
	struct gmem_vm_opts opts = {.sz = sizeof(opts),
				    .device = harness_kvm_device(),
				    .type = step->start,
				    .flags = step->flags,
				    .id_first = step->id_first,
				    .id_count = step->id_count};
	int r = 0;

	library_close_all(step->value);
	answer->broken |= has_leaked();
	for (unsigned int i = 0; i < STEP_VMS && r == 0; i++)
		r = gmem_vm_open(&opts, &vms[i]);
	return r;
}

uint64_t library_cap(enum gmem_cap cap)
{
	uint64_t value = 0;

	gmem_vm_get_cap(vms[0], cap, &value);
	return value;
}

/* ---- What is asked ---- */

static int (*const doers[STEP_OP_COUNT])(const struct step *, struct answer *) = {
	[STEP_VM] = do_vm,
	[STEP_RENEW] = do_renew,
	[STEP_MEMFD] = do_memfd,
	[STEP_OPEN_FD] = do_open_fd,
	[STEP_CLOSE_MEMFD] = do_close_memfd,
	[STEP_ALLOCATE] = do_allocate,
	[STEP_DISCARD] = do_discard,
	[STEP_MAP] = do_map,
	[STEP_CLOSE_MAP] = do_close_map,
	[STEP_POPULATE] = do_populate,
	[STEP_SLOT] = do_slot,
	[STEP_MANY] = do_many,
	[STEP_ADOPT] = do_adopt,
	[STEP_STRANGER] = do_stranger,
	[STEP_BANISH] = do_banish,
	[STEP_DELETE] = do_delete,
	[STEP_CLOSE_SLOT] = do_close_slot,
	[STEP_REPLACE] = do_replace,
	[STEP_FLAGS] = do_flags,
	[STEP_RESERVE] = do_reserve,
	[STEP_READ] = do_read,
	[STEP_WRITE] = do_write,
	[STEP_LOAD] = do_load,
	[STEP_STORE] = do_store,
	[STEP_TRANSLATE] = do_translate,
	[STEP_DROP] = do_drop,
	[STEP_CONVERT] = do_convert,
};

void library_do(const struct step *step, struct answer *answer)
{
	int r;

	*answer = (struct answer){.same = {STEP_NOWHERE, STEP_NOWHERE, STEP_NOWHERE}};
	ioctls = 0;
	r = doers[step->op](step, answer);
	answer->ioctls = ioctls;
	answer->error = r < 0 ? -r : 0;
	if (r < 0 && !answer->in_the_way && step->op != STEP_STRANGER)
		answer->reason = gmem_error_get_reason();
}

void library_look(const struct step_look *look, struct answer_look *answer)
{
	void *addr;
	int r = gmem_vm_translate(vms[look->vm], look->as_id, look->gpa, GMEM_PROT_READ,
				  &answer->size, &addr);

	answer->error = r < 0 ? -r : 0;
	answer->word = 0;
	if (r < 0) {
		answer->size = 0;
		return;
	}
	r = memory_copy(addr, (unsigned char *)&answer->word, sizeof(answer->word), false);
	if (r < 0)
		answer->word = (uint64_t)r;
}

void library_probe(const struct probe *probes, int *results, unsigned int count)
{
	for (unsigned int i = 0; i < count; i++) {
		const struct gmem_memfd *memfd = memfds[probes[i].memfd % STEP_MEMFDS];

		results[i] = probe_ask(gmem_vm_get_fd(vms[probes[i].vm]),
				       memfd ? gmem_memfd_get_fd(memfd) : -1, &probes[i]);
	}
}
