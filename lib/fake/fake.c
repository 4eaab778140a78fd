/* SPDX-License-Identifier: MIT */
#include "fake.h"

#include "internal.h"

#include <errno.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- Expectations ---- */

void gmem_fake_break(const struct gmem_fake *fake, const char *format, ...)
{
	char message[2048];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(message, sizeof(message), format, arguments);
	va_end(arguments);
	/* The callback may leave with longjmp(). */
	pthread_mutex_unlock(&((struct gmem_fake *)(uintptr_t)fake)->lock);
	if (fake->fail)
		fake->fail(fake->fail_data, message);
	else
		fprintf(stderr, "gmem-fake: %s\n", message);
	abort();
}

struct gmem_fake *gmem_fake_enter(const struct gmem_sys *sys)
{
	struct gmem_fake *fake = (struct gmem_fake *)(uintptr_t)sys;

	pthread_mutex_lock(&fake->lock);
	return fake;
}

int gmem_fake_leave(struct gmem_fake *fake, long result)
{
	pthread_mutex_unlock(&fake->lock);
	return (int)result;
}

void *gmem_fake_grow(const struct gmem_fake *fake, void *array, size_t count, size_t *room,
		     size_t size)
{
	void *larger;

	if (count < *room)
		return array;
	larger = realloc(array, (*room + 16) * 2 * size);
	gmem_fake_must(fake, larger, "no memory");
	*room = (*room + 16) * 2;
	return larger;
}

char *gmem_fake_copy_text(const struct gmem_fake *fake, const char *text)
{
	char *copy = strdup(text);

	gmem_fake_must(fake, copy, "no memory");
	return copy;
}

/* ---- The handle ---- */

static int fake_cpus(const struct gmem_sys *sys)
{
	return ((const struct gmem_fake *)sys)->cpus;
}

static void fake_nap(const struct gmem_sys *sys)
{
	(void)sys;
	sched_yield();
}

static uint64_t fake_now(const struct gmem_sys *sys)
{
	struct gmem_fake *fake = gmem_fake_enter(sys);
	uint64_t now = fake->time += 1000;

	gmem_fake_leave(fake, 0);
	return now;
}

static size_t fake_page_size(const struct gmem_sys *sys)
{
	return ((const struct gmem_fake *)sys)->page_size;
}

static void make_table(struct gmem_sys *sys)
{
	gmem_fake_use_files(sys);
	gmem_fake_use_memory(sys);
	gmem_fake_use_kvm(sys);
	sys->cpus = fake_cpus;
	sys->nap = fake_nap;
	sys->now = fake_now;
	sys->page_size = fake_page_size;
}

static void configure(struct gmem_fake *fake, enum gmem_fake_kernel kernel)
{
	bool private = kernel == GMEM_FAKE_PRIVATE;
	bool modern = private || kernel == GMEM_FAKE_LINUX_7_3;
	bool plain_gmem = kernel != GMEM_FAKE_LINUX_6_12;

	fake->caps[KVM_CAP_NR_MEMSLOTS] = 32764;
	fake->caps[KVM_CAP_READONLY_MEM] = !private;
	fake->caps[KVM_CAP_MULTI_ADDRESS_SPACE] = private ? 1 : 2;
	fake->caps[KVM_CAP_EXIT_HYPERCALL] = 1 << KVM_HC_MAP_GPA_RANGE;
	fake->caps[KVM_CAP_USER_MEMORY2] = 1;
	fake->caps[KVM_CAP_MEMORY_FAULT_INFO] = 1;
	fake->caps[KVM_CAP_MEMORY_ATTRIBUTES] = private ? (int)KVM_MEMORY_ATTRIBUTE_PRIVATE : 0;
	fake->caps[KVM_CAP_GUEST_MEMFD] = plain_gmem;
	fake->caps[KVM_CAP_VM_TYPES] = 0x3;
	fake->caps[KVM_CAP_PRE_FAULT_MEMORY] = 1;
	fake->caps[KVM_CAP_GUEST_MEMFD_FLAGS] = private ? 1 : plain_gmem ? 3 : 0;
	fake->vm_types = 0x3;
	fake->nr_slots = 32764;
	fake->nr_spaces = private ? 1 : 2;
	fake->rebind_error = modern ? EEXIST : EINVAL;
	fake->wraps_accepted = !modern;
	fake->numa_in_file = modern;
}

/* What no kernel differs in. */
static void configure_all(struct gmem_fake *fake)
{
	fake->api_version = KVM_API_VERSION;
	fake->gpa_bits = 46;
	fake->gpa_error = EINVAL;
	fake->hva_bits = 47;
	fake->numa_nodes = UINT64_MAX;
	fake->numa_words = GMEM_FAKE_NODE_WORDS;
	fake->cpus = 1;
}

static int check_opts(struct gmem_fake_opts *opts)
{
	uint32_t host = (uint32_t)sysconf(_SC_PAGESIZE);

	if (opts->kernel == 0)
		opts->kernel = GMEM_FAKE_LINUX_7_3;
	if (opts->kernel < GMEM_FAKE_LINUX_6_12 || opts->kernel > GMEM_FAKE_PRIVATE)
		return gmem_internal.fail(EINVAL, GMEM_REASON_ARGUMENT,
					  "kernel %d is not one of 1 to 4", (int)opts->kernel);
	if (opts->page_size == 0)
		opts->page_size = host > 4096 ? host : 4096;
	if (opts->page_size < host || opts->page_size & (opts->page_size - 1))
		return gmem_internal.fail(EINVAL, GMEM_REASON_ARGUMENT,
					  "a page of %u bytes is not a power of two from %u on",
					  opts->page_size, host);
	return 0;
}

int gmem_fake_create(const struct gmem_fake_opts *user, struct gmem_fake **ret)
{
	struct gmem_fake_opts opts = {.sz = sizeof(opts)};
	struct gmem_fake *fake;
	int r = 0;

	if (!ret)
		return gmem_internal.fail(EINVAL, GMEM_REASON_NULL, "no place for the handle");
	*ret = NULL;
	if (user)
		r = gmem_internal.opts_read(&opts, sizeof(opts), user);
	if (r == 0)
		r = check_opts(&opts);
	if (r < 0)
		return r;
	fake = calloc(1, sizeof(*fake));
	if (!fake)
		return gmem_internal.fail(ENOMEM, GMEM_REASON_NO_MEMORY, "no memory for a fake");
	pthread_mutex_init(&fake->lock, NULL);
	make_table(&fake->sys);
	fake->fail = opts.fail;
	fake->fail_data = opts.fail_data;
	fake->page_size = opts.page_size;
	configure_all(fake);
	configure(fake, opts.kernel);
	*ret = fake;
	return 0;
}

void gmem_fake_close(struct gmem_fake *fake)
{
	if (!fake)
		return;
	fake->slot_count = 0; /* so that nothing is found to be in use */
	for (size_t i = 0; i < fake->mapping_count; i++)
		if (fake->mappings[i].addr)
			gmem_fake_drop_mapping(fake, &fake->mappings[i]);
	for (size_t i = 0; i < fake->fd_count; i++)
		gmem_fake_drop_object(fake, fake->fds[i].object);
	gmem_fake_clear_orders(fake);
	gmem_fake_clear_names(fake);
	pthread_mutex_destroy(&fake->lock);
	free(fake->mappings);
	free(fake->fds);
	free(fake->slots);
	free(fake);
}

int gmem_fake_open_vm(struct gmem_fake *fake, const struct gmem_vm_opts *opts, struct gmem_vm **ret)
{
	return gmem_internal.vm_open(&fake->sys, opts, ret);
}

int gmem_fake_open_vm_fd(struct gmem_fake *fake, int vm_fd, const struct gmem_vm_opts *opts,
			 struct gmem_vm **ret)
{
	return gmem_internal.vm_open_fd(&fake->sys, vm_fd, opts, ret);
}

int gmem_fake_open_memfd(struct gmem_fake *fake, struct gmem_vm *vm, int fd,
			 struct gmem_memfd **ret)
{
	return gmem_internal.memfd_open_fd(&fake->sys, vm, fd, ret);
}

/* ---- What there is ---- */

static unsigned int tally(const struct gmem_fake *fake, enum gmem_fake_thing thing)
{
	unsigned int fds = 0, mappings = 0, inaccessible = 0, slots = 0;

	for (size_t i = 0; i < fake->fd_count; i++)
		fds += fake->fds[i].object ? 1 : 0;
	for (size_t i = 0; i < fake->mapping_count; i++) {
		if (!fake->mappings[i].addr)
			continue;
		mappings++;
		inaccessible += fake->mappings[i].prot == PROT_NONE ? 1 : 0;
	}
	for (size_t i = 0; i < fake->slot_count; i++)
		slots += fake->slots[i].vm ? 1 : 0;
	switch (thing) {
	case GMEM_FAKE_FDS:
		return fds;
	case GMEM_FAKE_MAPPINGS:
		return mappings;
	case GMEM_FAKE_INACCESSIBLE:
		return inaccessible;
	case GMEM_FAKE_SLOTS:
		return slots;
	default:
		gmem_fake_break(fake, "%d is no kind of thing", (int)thing);
	}
}

unsigned int gmem_fake_tally(const struct gmem_fake *fake, enum gmem_fake_thing thing)
{
	struct gmem_fake *locked = gmem_fake_enter(&fake->sys);
	unsigned int count = tally(locked, thing);

	gmem_fake_leave(locked, 0);
	return count;
}

void gmem_fake_allow_left(struct gmem_fake *fake, unsigned int mappings, unsigned int slots)
{
	gmem_fake_enter(&fake->sys);
	fake->left_mappings = mappings;
	fake->left_slots = slots;
	gmem_fake_leave(fake, 0);
}

void gmem_fake_check(struct gmem_fake *fake)
{
	unsigned int fds, mappings, slots;

	gmem_fake_met(fake);
	gmem_fake_enter(&fake->sys);
	fds = tally(fake, GMEM_FAKE_FDS);
	mappings = tally(fake, GMEM_FAKE_MAPPINGS);
	slots = tally(fake, GMEM_FAKE_SLOTS);
	gmem_fake_must(fake, fds == 0, "%u descriptors are left", fds);
	gmem_fake_must(fake, mappings == fake->left_mappings, "%u mappings are left", mappings);
	gmem_fake_must(fake, slots == fake->left_slots, "%u slots are left", slots);
	gmem_fake_leave(fake, 0);
}

/* ---- The kernel's ways ---- */

void gmem_fake_set_cap(struct gmem_fake *fake, uint32_t cap, int value)
{
	gmem_fake_enter(&fake->sys);
	gmem_fake_must(fake, cap < GMEM_FAKE_CAPS, "there is no capability %u", cap);
	fake->caps[cap] = value;
	gmem_fake_leave(fake, 0);
}

void gmem_fake_set_prefault_step(struct gmem_fake *fake, uint64_t size)
{
	gmem_fake_enter(&fake->sys);
	gmem_fake_must(fake, size % fake->page_size == 0, "a step of no whole pages: %#llx",
		       (unsigned long long)size);
	fake->prefault_step = size;
	gmem_fake_leave(fake, 0);
}

/* What fork() does to pages with MADV_WIPEONFORK. */
static void set_wiped_pages(struct gmem_fake *fake, unsigned char value)
{
	gmem_fake_enter(&fake->sys);
	for (size_t i = 0; i < fake->mapping_count; i++)
		if (fake->mappings[i].addr && fake->mappings[i].wiped)
			memset(fake->mappings[i].addr, value, 1);
	gmem_fake_leave(fake, 0);
}

void gmem_fake_enter_child(struct gmem_fake *fake)
{
	set_wiped_pages(fake, 0);
}

void gmem_fake_leave_child(struct gmem_fake *fake)
{
	set_wiped_pages(fake, 1);
}
