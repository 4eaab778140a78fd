/* SPDX-License-Identifier: MIT */
#include "script.h"

#include "uapi/kvm.h"
#include "uapi/mm.h"
#include "vm.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	FIRST_FD = 1000, /* far from real descriptors, so that neither is taken for the other */
	MAX_FDS = 512,
	MAX_MAPPINGS = 1024,
	MAX_SLOTS = 1024,
	MAX_ORDERS = 8,
	MAX_NAMES = 8,
	NODE_WORDS = 16
};

enum kind {
	KVM,
	VM,
	GMEM,
	MEMFD,
	UFFD,
	FILE_OTHER,
	KINDS
};

static const char *const kind_names[KINDS] = {"kvm", "vm", "gmem", "memfd", "uffd", "file"};

struct policy {
	int mode;
	uint64_t nodes[NODE_WORDS];
};

/* What is behind descriptors. */
struct object {
	enum kind kind;
	unsigned int references; /* descriptors and mappings */
	struct object *vm;	 /* of a guest_memfd; only compared */
	int backing;		 /* a real memfd, or -1 as long as nothing needs it */
	uint64_t size;
	uint64_t flags;
	uint64_t magic;
	bool regular;
	struct policy policy;
};

struct fd {
	struct object *object; /* NULL: closed */
	enum kind kind;
	unsigned int number;
};

struct mapping {
	unsigned char *addr; /* NULL: gone */
	size_t size;
	int prot;
	struct object *file; /* NULL: anonymous */
	bool real;	     /* there is memory at the address */
	bool wiped;	     /* in a child */
	struct policy policy;
	char name[16];
};

struct slot {
	struct object *vm; /* NULL: none */
	struct kvm_userspace_memory_region2 region;
	struct object *file;
};

struct order {
	const char *part; /* NULL: none */
	unsigned int n, seen;
	int value;
};

struct name {
	const char *text;
	uintptr_t start, end;
};

struct script_state {
	pthread_mutex_t lock;
	struct fd fds[MAX_FDS];
	size_t fd_count;
	unsigned int numbers[KINDS];
	struct mapping mappings[MAX_MAPPINGS];
	size_t mapping_count;
	unsigned int mapping_number;
	struct slot slots[MAX_SLOTS];
	struct order orders[MAX_ORDERS];
	unsigned int answered;
	struct name names[MAX_NAMES];
	char *transcript;
	size_t length;
	char *expected; /* NULL: anything goes */
	char *next;	/* the line to come in it */
	struct script_tally allowed;
	size_t word; /* where the next short-lived text goes */
	char words[16][160];
};

/* An assertion of Check costs a message to its parent, also where it holds. */
#define must(condition, ...)                                                                       \
	do {                                                                                       \
		if (!(condition))                                                                  \
			ck_abort_msg(__VA_ARGS__);                                                 \
	} while (0)

static struct script *script_of(const struct gmem_sys *sys)
{
	return (struct script *)(uintptr_t)sys;
}

/* ---- Names ---- */

__attribute__((format(printf, 2, 3))) static const char *word(struct script *s, const char *format,
							      ...)
{
	char *text = s->state->words[s->state->word++ % 16];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(s->state->words[0]), format, arguments);
	va_end(arguments);
	return text;
}

/* NULL where there is none. */
static struct fd *find_fd(const struct script *s, int fd)
{
	struct fd *found;

	if (fd < FIRST_FD || (size_t)(fd - FIRST_FD) >= s->state->fd_count)
		return NULL;
	found = &s->state->fds[fd - FIRST_FD];
	must(found->object, "%s%u is used after its closing", kind_names[found->kind],
	     found->number);
	return found;
}

static struct object *object_of(const struct script *s, int fd)
{
	struct fd *found = find_fd(s, fd);

	return found ? found->object : NULL;
}

static struct object *object_of_kind(const struct script *s, int fd, enum kind kind)
{
	struct object *object = object_of(s, fd);

	return object && object->kind == kind ? object : NULL;
}

static const char *name_fd(struct script *s, int fd)
{
	struct fd *found = find_fd(s, fd);

	return found ? word(s, "%s%u", kind_names[found->kind], found->number) : word(s, "%d", fd);
}

static struct mapping *find_mapping(const struct script *s, const void *addr)
{
	uintptr_t at = (uintptr_t)addr;

	for (size_t i = 0; i < s->state->mapping_count; i++) {
		struct mapping *mapping = &s->state->mappings[i];
		uintptr_t start = (uintptr_t)mapping->addr;

		if (start && at >= start && at - start < mapping->size)
			return mapping;
	}
	return NULL;
}

static const char *name_at(struct script *s, const char *name, uintptr_t offset)
{
	return offset ? word(s, "%s+%#" PRIxPTR, name, offset) : word(s, "%s", name);
}

static const char *name_addr(struct script *s, const void *addr)
{
	struct mapping *mapping = find_mapping(s, addr);
	uintptr_t at = (uintptr_t)addr;

	if (!addr)
		return "0";
	if (mapping)
		return name_at(s, mapping->name, at - (uintptr_t)mapping->addr);
	for (size_t i = 0; i < MAX_NAMES; i++) {
		struct name *name = &s->state->names[i];

		if (name->text && at >= name->start && at < name->end)
			return name_at(s, name->text, at - name->start);
	}
	return "elsewhere";
}

void script_name(struct script *s, const void *addr, size_t size, const char *name)
{
	for (size_t i = 0; i < MAX_NAMES; i++) {
		if (s->state->names[i].text)
			continue;
		s->state->names[i] = (struct name){name, (uintptr_t)addr, (uintptr_t)addr + size};
		return;
	}
	ck_abort_msg("more than %d names", MAX_NAMES);
}

struct bit {
	unsigned int value;
	const char *name;
};

/* "A|B", or a number where a bit has no name. */
static const char *name_bits(struct script *s, unsigned int value, const struct bit *bits,
			     size_t count)
{
	const char *text = NULL;

	for (size_t i = 0; i < count; i++) {
		if (!bits[i].value || (value & bits[i].value) != bits[i].value)
			continue;
		value &= ~bits[i].value;
		text = text ? word(s, "%s|%s", text, bits[i].name) : bits[i].name;
	}
	if (value || !text)
		text = text ? word(s, "%s|%#x", text, value) : word(s, "%#x", value);
	return text;
}

static const char *name_prot(int prot)
{
	static const char *const names[] = {"NONE", "R", "W", "RW"};

	return prot >= 0 && prot <= 3 ? names[prot] : "EXEC";
}

static const char *name_map_flags(struct script *s, int flags)
{
	static const struct bit bits[] = {
		{MAP_SHARED, "SHARED"},	 {MAP_PRIVATE, "PRIVATE"},
		{MAP_ANONYMOUS, "ANON"}, {MAP_NORESERVE, "NORESERVE"},
		{MAP_FIXED, "FIXED"},	 {MAP_FIXED_NOREPLACE, "FIXED_NOREPLACE"},
	};

	return name_bits(s, (unsigned int)flags, bits, ARRAY_SIZE(bits));
}

static const char *name_advice(struct script *s, int advice)
{
	static const struct bit names[] = {
		{MADV_DONTNEED, "DONTNEED"},
		{MADV_REMOVE, "REMOVE"},
		{MADV_FREE, "FREE"},
		{MADV_DONTFORK, "DONTFORK"},
		{MADV_WIPEONFORK, "WIPEONFORK"},
		{MADV_POPULATE_READ, "POPULATE_READ"},
		{MADV_POPULATE_WRITE, "POPULATE_WRITE"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (names[i].value == (unsigned int)advice)
			return names[i].name;
	return word(s, "%d", advice);
}

/* ---- What is decided before the model is asked ---- */

static void write_down(struct script_state *state, const char *text)
{
	size_t length = strlen(text);
	char *longer = realloc(state->transcript, state->length + length + 2);

	must(longer, "no memory");
	state->transcript = longer;
	memcpy(longer + state->length, text, length);
	memcpy(longer + state->length + length, "\n", 2);
	state->length += length + 1;
}

static int errno_of_name(const char *name)
{
	for (int error = 1; error < 200; error++) {
		const char *known = strerrorname_np(error);

		if (known && strcmp(known, name) == 0)
			return error;
	}
	ck_abort_msg("no errno and no number: \"%s\"", name);
	return 0;
}

/* Compare a call with the line to come. True if the line says what to answer. */
static bool meet(struct script_state *state, const char *text, long *result)
{
	char *line = state->next, *end, *answer;

	must(line && *line, "unexpected call: %s", text);
	end = strchrnul(line, '\n');
	state->next = *end ? end + 1 : end;
	*end = '\0';
	answer = strstr(line, " = ");
	if (answer)
		*answer = '\0';
	must(strcmp(text, line) == 0, "called:   %s\nexpected: %s", text, line);
	if (!answer)
		return false;
	answer += strlen(" = ");
	*result = *answer >= 'A' ? -errno_of_name(answer) : strtol(answer, NULL, 0);
	return true;
}

/* A call that takes something back. */
static bool undoes(const char *text)
{
	static const char *const parts[] = {"close(", "munmap(", "|FIXED,", " size=0 "};

	for (size_t i = 0; i < ARRAY_SIZE(parts); i++)
		if (strstr(text, parts[i]))
			return true;
	return false;
}

static bool ordered(struct script_state *state, const char *text, long *result)
{
	bool found = false;

	for (size_t i = 0; i < MAX_ORDERS; i++) {
		struct order *order = &state->orders[i];

		if (!order->part || !strstr(text, order->part) || (!*order->part && undoes(text)))
			continue;
		order->seen++;
		if (found || (order->n && order->n != order->seen))
			continue;
		state->answered++;
		*result = order->value;
		found = true;
	}
	return found;
}

/*
 * Begin a call: take the lock, write the call down, and compare it with what is expected. True if
 * that or an order gives the result.
 */
__attribute__((format(printf, 3, 4))) static bool decided(struct script *s, long *result,
							  const char *format, ...)
{
	char text[512];
	va_list arguments;
	bool expected;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	*result = 0;
	write_down(s->state, text);
	expected = s->state->expected && meet(s->state, text, result);
	return expected || ordered(s->state, text, result);
}

static struct script *enter(const struct gmem_sys *sys)
{
	struct script *s = script_of(sys);

	pthread_mutex_lock(&s->state->lock);
	return s;
}

static int leave(struct script *s, long result)
{
	pthread_mutex_unlock(&s->state->lock);
	return (int)result;
}

/* ---- Objects and descriptors ---- */

static struct object *new_object(enum kind kind)
{
	struct object *object = calloc(1, sizeof(*object));

	must(object, "no memory");
	object->kind = kind;
	object->backing = -1;
	object->regular = true;
	return object;
}

static int add_fd(struct script *s, struct object *object)
{
	struct script_state *state = s->state;

	must(state->fd_count < MAX_FDS, "more than %d", MAX_FDS);
	object->references++;
	state->fds[state->fd_count] =
		(struct fd){object, object->kind, ++state->numbers[object->kind]};
	return FIRST_FD + (int)state->fd_count++;
}

static void drop_object(struct script *s, struct object *object)
{
	if (!object || --object->references > 0)
		return;
	for (size_t i = 0; i < MAX_SLOTS; i++) {
		struct slot *slot = &s->state->slots[i];

		if (slot->vm && slot->file == object) { /* KVM makes the slot an empty one */
			must(s->state->allowed.slots,
			     "a guest_memfd is closed while slot %#x has it", slot->region.slot);
			slot->file = NULL;
		}
		if (slot->vm == object) /* KVM deletes the slots of a VM that ends */
			slot->vm = NULL;
	}
	if (object->backing >= 0)
		close(object->backing);
	free(object);
}

static int backing_of(struct object *file)
{
	if (file->backing >= 0)
		return file->backing;
	file->backing = memfd_create("script", MFD_CLOEXEC);
	ck_assert_int_ge(file->backing, 0);
	ck_assert_int_eq(ftruncate(file->backing, (off_t)file->size), 0);
	return file->backing;
}

static int fake_open(const struct gmem_sys *sys, const char *path, int flags)
{
	static const struct bit bits[] = {{O_RDWR, "RDWR"}, {O_CLOEXEC, "CLOEXEC"}};
	struct script *s = enter(sys);
	long r;

	if (decided(s, &r, "open(%s, %s)", path, name_bits(s, (unsigned int)flags, bits, 2)))
		return leave(s, r);
	if (strcmp(path, "/dev/kvm") == 0)
		return leave(s, add_fd(s, new_object(KVM)));
	if (strcmp(path, "/dev/userfaultfd") == 0 && s->uffd_device)
		return leave(s, add_fd(s, new_object(UFFD)));
	return leave(s, -ENOENT);
}

static int fake_close(const struct gmem_sys *sys, int fd)
{
	struct script *s = enter(sys);
	struct fd *found;
	long r;

	decided(s, &r, "close(%s)", name_fd(s, fd));
	found = find_fd(s, fd);
	if (!found)
		return leave(s, r ? r : -EBADF);
	drop_object(s, found->object); /* Linux closes also where it reports an error */
	found->object = NULL;
	return leave(s, r);
}

static int fake_fcntl(const struct gmem_sys *sys, int fd, int command, int argument)
{
	struct script *s = enter(sys);
	struct object *object = object_of(s, fd);
	const char *name = command == F_DUPFD_CLOEXEC ? "DUPFD_CLOEXEC"
			   : command == F_SETFD	      ? "SETFD"
			   : command == F_ADD_SEALS   ? "ADD_SEALS"
						      : word(s, "%d", command);
	long r;

	if (decided(s, &r, "fcntl(%s, %s, %#x)", name_fd(s, fd), name, (unsigned int)argument))
		return leave(s, r);
	if (!object)
		return leave(s, -EBADF);
	if (command == F_DUPFD_CLOEXEC)
		return leave(s, add_fd(s, object));
	if (command == F_ADD_SEALS && object->kind != MEMFD)
		return leave(s, -EINVAL);
	return leave(s, 0);
}

static int fake_status(const struct gmem_sys *sys, int fd, struct gmem_file_status *status)
{
	struct script *s = enter(sys);
	struct object *object = object_of(s, fd);
	long r;

	if (decided(s, &r, "status(%s)", name_fd(s, fd)))
		return leave(s, r);
	if (!object)
		return leave(s, -EBADF);
	*status = (struct gmem_file_status){object->size, object->magic, object->regular};
	return leave(s, 0);
}

static int fake_memfd_create(const struct gmem_sys *sys, const char *name, unsigned int flags)
{
	static const struct bit bits[] = {{MFD_CLOEXEC, "CLOEXEC"}, {MFD_ALLOW_SEALING, "SEALING"}};
	struct script *s = enter(sys);
	long r;

	if (decided(s, &r, "memfd_create(%s, %s)", name, name_bits(s, flags, bits, 2)))
		return leave(s, r);
	return leave(s, add_fd(s, new_object(MEMFD)));
}

static int fake_ftruncate(const struct gmem_sys *sys, int fd, uint64_t size)
{
	struct script *s = enter(sys);
	struct object *file = object_of_kind(s, fd, MEMFD);
	long r;

	if (decided(s, &r, "ftruncate(%s, %#" PRIx64 ")", name_fd(s, fd), size))
		return leave(s, r);
	if (!file || size >> 63)
		return leave(s, -EINVAL);
	file->size = size;
	return leave(s, 0);
}

static int fake_fallocate(const struct gmem_sys *sys, int fd, int mode, uint64_t offset,
			  uint64_t size)
{
	static const struct bit bits[] = {{FALLOC_FL_KEEP_SIZE, "KEEP_SIZE"},
					  {FALLOC_FL_PUNCH_HOLE, "PUNCH_HOLE"}};
	struct script *s = enter(sys);
	struct object *file = object_of(s, fd);
	long r;

	if (decided(s, &r, "fallocate(%s, %s, %#" PRIx64 ", %#" PRIx64 ")", name_fd(s, fd),
		    name_bits(s, (unsigned int)mode, bits, 2), offset, size))
		return leave(s, r);
	if (!file || (file->kind != GMEM && file->kind != MEMFD) || !size)
		return leave(s, -EINVAL);
	if (mode == FALLOC_FL_KEEP_SIZE)
		return leave(s, offset + size > file->size ? -EINVAL : 0);
	r = fallocate(backing_of(file), mode, (off_t)offset, (off_t)size);
	return leave(s, r < 0 ? -errno : 0);
}

/* ---- Mappings ---- */

/* Real memory at a multiple of the script's page, which may be larger than the real one. */
static unsigned char *take_memory(const struct script *s, size_t size, struct object *file,
				  uint64_t offset, int prot)
{
	size_t whole = size + s->page_size;
	unsigned char *base, *addr;
	void *p;

	base = mmap(NULL, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (base == MAP_FAILED)
		return NULL;
	addr = (unsigned char *)(((uintptr_t)base + s->page_size - 1) & ~(s->page_size - 1));
	/* Memory that the host may not touch is a fault also for the library. */
	if (file && file->kind == GMEM && !(file->flags & GMEM_MEMFD_INIT_SHARED))
		prot = PROT_NONE;
	if (file)
		p = mmap(addr, size, prot, MAP_SHARED | MAP_FIXED, backing_of(file), (off_t)offset);
	else
		p = mmap(addr, size, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	if (addr > base)
		munmap(base, (size_t)(addr - base));
	munmap(addr + size, whole - (size_t)(addr - base) - size);
	if (p != MAP_FAILED)
		return addr;
	munmap(addr, size);
	return NULL;
}

static void name_mapping(struct script_state *state, struct mapping *mapping)
{
	snprintf(mapping->name, sizeof(mapping->name), "m%u", ++state->mapping_number);
}

static struct mapping *add_mapping(struct script *s, void *addr, size_t size, int prot)
{
	struct script_state *state = s->state;
	struct mapping *mapping = &state->mappings[state->mapping_count];

	must(state->mapping_count < MAX_MAPPINGS, "more than %d", MAX_MAPPINGS);
	state->mapping_count++;
	*mapping = (struct mapping){.addr = addr, .size = size, .prot = prot};
	name_mapping(state, mapping);
	return mapping;
}

/* A try where the addresses of a process end: only the place counts, nothing is mapped. */
static int map_hint(struct script *s, void *hint, size_t size, void **addr)
{
	bool possible = s->hva_bits >= 64 || !((uintptr_t)hint >> s->hva_bits);

	*addr = possible ? hint : (void *)(s->page_size * 16);
	add_mapping(s, *addr, size, PROT_NONE);
	return 0;
}

/* Inaccessible pages instead of a mapping: all of it, or the test does not understand it. */
static int map_over(struct script *s, void *addr, size_t size, int prot)
{
	struct mapping *mapping = find_mapping(s, addr);

	must(mapping && mapping->addr == addr && mapping->size == size,
	     "MAP_FIXED over other than a whole mapping");
	ck_assert_ptr_eq(mmap(addr, size, prot,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0),
			 addr);
	drop_object(s, mapping->file);
	mapping->file = NULL;
	mapping->prot = prot;
	return 0;
}

static int map_new(struct script *s, size_t size, int prot, int flags, int fd, uint64_t offset,
		   void **addr)
{
	struct object *file = object_of(s, fd);
	struct mapping *mapping;

	if (file && file->kind == GMEM && !(file->flags & GMEM_MEMFD_MMAP))
		return -ENODEV;
	if (file ? !(flags & MAP_SHARED) || (file->kind != GMEM && file->kind != MEMFD)
		 : !(flags & MAP_ANONYMOUS))
		return -EINVAL;
	*addr = take_memory(s, size, file, offset, prot);
	if (!*addr)
		return -ENOMEM;
	mapping = add_mapping(s, *addr, size, prot);
	mapping->real = true;
	mapping->file = file;
	if (file)
		file->references++;
	return 0;
}

static int fake_mmap(const struct gmem_sys *sys, void *hint, size_t size, int prot, int flags,
		     int fd, uint64_t offset, void **addr)
{
	struct script *s = enter(sys);
	long r;

	if (decided(s, &r, "mmap(%s, %#zx, %s, %s, %s, %#" PRIx64 ")",
		    flags & MAP_FIXED || !hint ? name_addr(s, hint) : word(s, "%p", hint), size,
		    name_prot(prot), name_map_flags(s, flags), name_fd(s, fd), offset))
		return leave(s, r);
	must(size && size % s->page_size == 0, "mmap of %#zx bytes", size);
	if (flags & MAP_FIXED) {
		*addr = hint;
		return leave(s, map_over(s, hint, size, prot));
	}
	if (hint)
		return leave(s, map_hint(s, hint, size, addr));
	return leave(s, map_new(s, size, prot, flags, fd, offset, addr));
}

/* A slot over memory that is unmapped gives the guest whatever is mapped there next. */
static void check_unused(const struct script *s, const struct mapping *mapping)
{
	uintptr_t start = (uintptr_t)mapping->addr;

	for (size_t i = 0; i < MAX_SLOTS; i++) {
		const struct slot *slot = &s->state->slots[i];
		uint64_t addr = slot->region.userspace_addr;

		must(!slot->vm || addr < start || addr >= start + mapping->size,
		     "%s is unmapped while slot %#x has it", mapping->name, slot->region.slot);
	}
}

static int fake_munmap(const struct gmem_sys *sys, void *addr, size_t size)
{
	struct script *s = enter(sys);
	struct mapping *mapping = find_mapping(s, addr);
	long r;

	if (decided(s, &r, "munmap(%s, %#zx)", name_addr(s, addr), size))
		return leave(s, r);
	must(mapping && mapping->addr == addr && mapping->size == size,
	     "munmap of other than a whole mapping");
	check_unused(s, mapping);
	if (mapping->real)
		munmap(addr, size);
	mapping->addr = NULL;
	drop_object(s, mapping->file);
	return leave(s, 0);
}

static bool is_private(const struct mapping *mapping)
{
	return mapping && mapping->file && mapping->file->kind == GMEM &&
	       !(mapping->file->flags & GMEM_MEMFD_INIT_SHARED);
}

static int fake_madvise(const struct gmem_sys *sys, void *addr, size_t size, int advice)
{
	struct script *s = enter(sys);
	struct mapping *mapping = find_mapping(s, addr);
	long r;

	if (decided(s, &r, "madvise(%s, %#zx, %s)", name_addr(s, addr), size,
		    name_advice(s, advice)))
		return leave(s, r);
	if (advice == MADV_WIPEONFORK && mapping)
		mapping->wiped = true;
	if (advice == MADV_POPULATE_READ || advice == MADV_POPULATE_WRITE)
		return leave(s, is_private(mapping) ? -EFAULT : 0);
	if (advice == MADV_REMOVE || advice == MADV_DONTNEED || advice == MADV_FREE)
		return leave(s, madvise(addr, size, advice) < 0 ? -errno : 0);
	return leave(s, 0);
}

/* ---- NUMA ---- */

static struct policy *policy_of(const struct script *s, const void *addr)
{
	struct mapping *mapping = find_mapping(s, addr);

	must(mapping, "a policy of memory that is not mapped");
	return s->numa_in_file && mapping->file ? &mapping->file->policy : &mapping->policy;
}

static const char *name_nodes(struct script *s, const uint64_t *nodes, size_t words)
{
	const char *text = words ? "" : "-";

	for (size_t i = 0; i < words; i++)
		text = word(s, "%s%s%#" PRIx64, text, i ? "," : "", nodes[i]);
	return text;
}

static int fake_mbind(const struct gmem_sys *sys, void *addr, size_t size, int mode,
		      const uint64_t *nodes, size_t words)
{
	struct script *s = enter(sys);
	struct policy *policy;
	long r;

	if (decided(s, &r, "mbind(%s, %#zx, %d, %s)", name_addr(s, addr), size, mode,
		    name_nodes(s, nodes, words)))
		return leave(s, r);
	policy = policy_of(s, addr);
	*policy = (struct policy){.mode = mode};
	for (size_t i = 0; i < words; i++)
		policy->nodes[i] = nodes[i];
	return leave(s, 0);
}

static int fake_get_mempolicy(const struct gmem_sys *sys, void *addr, int *mode, uint64_t *nodes,
			      size_t words)
{
	struct script *s = enter(sys);
	const struct policy *policy;
	long r;

	if (decided(s, &r, "get_mempolicy(%s)", name_addr(s, addr)))
		return leave(s, r);
	policy = policy_of(s, addr);
	*mode = policy->mode;
	for (size_t i = 0; i < words; i++)
		nodes[i] = i < s->numa_words ? policy->nodes[i] & s->numa_nodes : 0;
	return leave(s, 0);
}

/* ---- Copies ---- */

static ssize_t copy(struct script *s, const char *name, void *to, const void *from,
		    const void *guest, size_t size)
{
	long r;

	if (decided(s, &r, "%s(%s, %#zx)", name, name_addr(s, guest), size))
		size = r > 0 ? (size_t)r : 0;
	else
		r = is_private(find_mapping(s, guest)) ? -EFAULT : (long)size;
	if (r > 0)
		memcpy(to, from, size);
	pthread_mutex_unlock(&s->state->lock);
	return r;
}

static ssize_t fake_copy_in(const struct gmem_sys *sys, void *to, const void *from, size_t size)
{
	return copy(enter(sys), "copy_in", to, from, from, size);
}

static ssize_t fake_copy_out(const struct gmem_sys *sys, void *to, const void *from, size_t size)
{
	return copy(enter(sys), "copy_out", to, from, to, size);
}

/* ---- KVM ---- */

static struct slot *find_slot(const struct script *s, const struct object *vm, uint32_t number)
{
	for (size_t i = 0; i < MAX_SLOTS; i++)
		if (s->state->slots[i].vm == vm && s->state->slots[i].region.slot == number)
			return &s->state->slots[i];
	return NULL;
}

static bool overlap(uint64_t a, uint64_t b, uint64_t a_size, uint64_t b_size)
{
	return a < b + b_size && b < a + a_size;
}

/* What can be said of a region by itself (kvm_set_memory_region(), in its order). */
static int check_region(const struct script *s, const struct kvm_userspace_memory_region2 *region)
{
	uint32_t known = KVM_MEM_LOG_DIRTY_PAGES |
			 (s->caps[KVM_CAP_READONLY_MEM] > 0 ? KVM_MEM_READONLY : 0) |
			 (s->caps[KVM_CAP_GUEST_MEMFD] > 0 ? KVM_MEM_GUEST_MEMFD : 0);
	uint64_t low = s->page_size - 1;
	uint64_t end = region->guest_phys_addr + region->memory_size;

	if ((region->slot & 0xffff) >= s->nr_slots || region->flags & ~known)
		return -EINVAL;
	if (region->flags & KVM_MEM_GUEST_MEMFD &&
	    (region->flags != KVM_MEM_GUEST_MEMFD || region->guest_memfd_offset & low ||
	     region->guest_memfd_offset + region->memory_size < region->memory_size))
		return -EINVAL;
	if (region->memory_size & low || region->guest_phys_addr & low ||
	    region->userspace_addr & low)
		return -EINVAL;
	if (region->slot >> 16 >= s->nr_spaces || end < region->guest_phys_addr)
		return -EINVAL;
	return region->memory_size / s->page_size > INT32_MAX ? -EINVAL : 0;
}

static int check_file(const struct script *s, const struct object *vm,
		      const struct kvm_userspace_memory_region2 *region, const struct object *file)
{
	uint64_t end = region->guest_memfd_offset + region->memory_size;

	if (!file)
		return -EBADF;
	if (file->kind != GMEM || file->vm != vm)
		return -EINVAL;
	if (end > file->size && !(s->wraps_accepted && end >> 63))
		return -EINVAL;
	for (size_t i = 0; i < MAX_SLOTS; i++) {
		const struct slot *slot = &s->state->slots[i];

		if (slot->vm && slot->file == file &&
		    overlap(slot->region.guest_memfd_offset, region->guest_memfd_offset,
			    slot->region.memory_size, region->memory_size))
			return -s->rebind_error;
	}
	return 0;
}

static int check_space(const struct script *s, const struct object *vm,
		       const struct kvm_userspace_memory_region2 *region)
{
	for (size_t i = 0; i < MAX_SLOTS; i++) {
		const struct slot *slot = &s->state->slots[i];

		if (slot->vm == vm && slot->region.slot >> 16 == region->slot >> 16 &&
		    slot->region.slot != region->slot &&
		    overlap(slot->region.guest_phys_addr, region->guest_phys_addr,
			    slot->region.memory_size, region->memory_size))
			return -EEXIST;
	}
	return 0;
}

/* Only the place and the dirty log of an ordinary slot can change. */
static int change_slot(struct slot *slot, const struct kvm_userspace_memory_region2 *region)
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

static int set_region(struct script *s, struct object *vm,
		      const struct kvm_userspace_memory_region2 *region)
{
	struct slot *slot = find_slot(s, vm, region->slot);
	struct object *file = NULL;
	int r = check_region(s, region);

	if (r < 0)
		return r;
	if (region->memory_size == 0) {
		if (slot)
			slot->vm = NULL;
		return slot ? 0 : -EINVAL;
	}
	if (slot)
		return change_slot(slot, region);
	r = check_space(s, vm, region);
	if (r == 0 && region->flags & KVM_MEM_GUEST_MEMFD) {
		file = object_of(s, (int)region->guest_memfd);
		r = check_file(s, vm, region, file);
	}
	if (r < 0)
		return r;
	if ((region->guest_phys_addr + region->memory_size - 1) >> s->gpa_bits)
		return -s->gpa_error;
	for (size_t i = 0; !slot && i < MAX_SLOTS; i++)
		slot = s->state->slots[i].vm ? NULL : &s->state->slots[i];
	must(slot, "more than %d slots", MAX_SLOTS);
	*slot = (struct slot){.vm = vm, .region = *region, .file = file};
	return 0;
}

static bool is_zero(const uint64_t *words, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (words[i])
			return false;
	return true;
}

static long ioctl_region(struct script *s, int fd, uintptr_t argument)
{
	const struct kvm_userspace_memory_region2 *region = (const void *)argument;
	const char *file = "";
	struct object *vm = object_of_kind(s, fd, VM);
	long r;

	must(region->pad1 == 0 && is_zero(region->pad2, ARRAY_SIZE(region->pad2)),
	     "padding of a region is not zero");
	if (region->flags & KVM_MEM_GUEST_MEMFD)
		file = word(s, " gmem=%s offset=%#" PRIx64, name_fd(s, (int)region->guest_memfd),
			    region->guest_memfd_offset);
	else if (region->guest_memfd || region->guest_memfd_offset)
		file = " gmem without its flag";
	if (decided(s, &r,
		    "ioctl(%s, SET_REGION2, slot=%#x flags=%#x gpa=%#" PRIx64 " size=%#" PRIx64
		    " addr=%s%s)",
		    name_fd(s, fd), region->slot, region->flags, region->guest_phys_addr,
		    region->memory_size, name_addr(s, (void *)(uintptr_t)region->userspace_addr),
		    file))
		return r;
	return vm ? set_region(s, vm, region) : -ENOTTY;
}

static long ioctl_create_gmem(struct script *s, int fd, uintptr_t argument)
{
	const struct kvm_create_guest_memfd *create = (const void *)argument;
	struct object *vm = object_of_kind(s, fd, VM);
	struct object *file;
	long r;

	must(is_zero(create->reserved, ARRAY_SIZE(create->reserved)),
	     "reserved members of KVM_CREATE_GUEST_MEMFD are not zero");
	if (decided(s, &r, "ioctl(%s, CREATE_GUEST_MEMFD, size=%#" PRIx64 " flags=%#" PRIx64 ")",
		    name_fd(s, fd), create->size, create->flags))
		return r;
	if (!vm || s->caps[KVM_CAP_GUEST_MEMFD] <= 0)
		return -ENOTTY;
	if (create->flags & ~(uint64_t)s->caps[KVM_CAP_GUEST_MEMFD_FLAGS] || create->size >> 63 ||
	    !create->size || create->size % s->page_size)
		return -EINVAL;
	file = new_object(GMEM);
	file->vm = vm;
	file->size = create->size;
	file->flags = create->flags;
	file->magic = s->numa_in_file ? GUEST_MEMFD_MAGIC : ANON_INODE_FS_MAGIC;
	return add_fd(s, file);
}

static long ioctl_check(struct script *s, int fd, uintptr_t cap)
{
	long r;

	if (decided(s, &r, "ioctl(%s, CHECK_EXTENSION, %" PRIuPTR ")", name_fd(s, fd), cap))
		return r;
	if (!object_of_kind(s, fd, VM) && !object_of_kind(s, fd, KVM))
		return -ENOTTY;
	return cap < SCRIPT_CAPS ? s->caps[cap] : 0;
}

static long ioctl_kvm(struct script *s, int fd, unsigned long request, uintptr_t argument)
{
	struct object *kvm = object_of_kind(s, fd, KVM);
	long r;

	if (request == KVM_GET_API_VERSION) {
		if (decided(s, &r, "ioctl(%s, GET_API_VERSION)", name_fd(s, fd)))
			return r;
		return kvm ? s->api_version : -ENOTTY;
	}
	if (decided(s, &r, "ioctl(%s, CREATE_VM, %#" PRIxPTR ")", name_fd(s, fd), argument))
		return r;
	if (!kvm)
		return -ENOTTY;
	if (argument > 63 || !(s->vm_types >> argument & 1))
		return -EINVAL;
	return add_fd(s, new_object(VM));
}

static long ioctl_uffd(struct script *s, int fd, unsigned long request, uintptr_t argument)
{
	const char *name = request == UFFDIO_API	    ? "UFFDIO_API"
			   : request == UFFDIO_REGISTER	    ? "UFFDIO_REGISTER"
			   : request == UFFDIO_UNREGISTER   ? "UFFDIO_UNREGISTER"
			   : request == USERFAULTFD_IOC_NEW ? "USERFAULTFD_IOC_NEW"
							    : word(s, "%#lx", request);
	const struct uffdio_register *reg = (const void *)argument;
	const char *mode = request == UFFDIO_REGISTER ? word(s, ", %#" PRIx64, reg->mode) : "";
	long r;

	if (decided(s, &r, "ioctl(%s, %s%s)", name_fd(s, fd), name, mode))
		return r;
	if (!object_of_kind(s, fd, UFFD))
		return -ENOTTY;
	if (request == USERFAULTFD_IOC_NEW)
		return add_fd(s, new_object(UFFD));
	if (request == UFFDIO_REGISTER)
		return reg->mode & ~s->uffd_modes ? -EINVAL : 0;
	return 0;
}

static int fake_ioctl(const struct gmem_sys *sys, int fd, unsigned long request, uintptr_t argument)
{
	struct script *s = enter(sys);

	switch (request) {
	case KVM_GET_API_VERSION:
	case KVM_CREATE_VM:
		return leave(s, ioctl_kvm(s, fd, request, argument));
	case KVM_CHECK_EXTENSION:
		return leave(s, ioctl_check(s, fd, argument));
	case KVM_CREATE_GUEST_MEMFD:
		return leave(s, ioctl_create_gmem(s, fd, argument));
	case KVM_SET_USER_MEMORY_REGION2:
		return leave(s, ioctl_region(s, fd, argument));
	default:
		return leave(s, ioctl_uffd(s, fd, request, argument));
	}
}

static int fake_userfaultfd(const struct gmem_sys *sys, int flags)
{
	static const struct bit bits[] = {{O_CLOEXEC, "CLOEXEC"}};
	struct script *s = enter(sys);
	long r;

	if (decided(s, &r, "userfaultfd(%s)", name_bits(s, (unsigned int)flags, bits, 1)))
		return leave(s, r);
	return leave(s, add_fd(s, new_object(UFFD)));
}

static int fake_cpus(const struct gmem_sys *sys)
{
	return script_of(sys)->cpus;
}

static void fake_nap(const struct gmem_sys *sys)
{
	(void)sys;
	sched_yield();
}

static size_t fake_page_size(const struct gmem_sys *sys)
{
	return script_of(sys)->page_size;
}

/* ---- The script ---- */

static void configure(struct script *s, enum script_kernel kernel)
{
	bool private = kernel == SCRIPT_PRIVATE;
	bool modern = private || kernel == SCRIPT_LINUX_7_3;
	bool plain_gmem = kernel != SCRIPT_LINUX_6_12;

	s->caps[KVM_CAP_NR_MEMSLOTS] = 32764;
	s->caps[KVM_CAP_READONLY_MEM] = !private;
	s->caps[KVM_CAP_MULTI_ADDRESS_SPACE] = private ? 1 : 2;
	s->caps[KVM_CAP_USER_MEMORY2] = 1;
	s->caps[KVM_CAP_MEMORY_FAULT_INFO] = 1;
	s->caps[KVM_CAP_MEMORY_ATTRIBUTES] = private ? (int)GMEM_ATTRIBUTE_PRIVATE : 0;
	s->caps[KVM_CAP_GUEST_MEMFD] = plain_gmem;
	s->caps[KVM_CAP_VM_TYPES] = 0x3;
	s->caps[KVM_CAP_PRE_FAULT_MEMORY] = 1;
	s->caps[KVM_CAP_GUEST_MEMFD_FLAGS] = private ? 1 : plain_gmem ? 3 : 0;
	s->vm_types = 0x3;
	s->nr_slots = 32764;
	s->nr_spaces = private ? 1 : 2;
	s->rebind_error = modern ? EEXIST : EINVAL;
	s->wraps_accepted = !modern;
	s->numa_in_file = modern;
}

static const struct gmem_sys table = {
	.open = fake_open,
	.close = fake_close,
	.ioctl = fake_ioctl,
	.fcntl = fake_fcntl,
	.status = fake_status,
	.fallocate = fake_fallocate,
	.mmap = fake_mmap,
	.munmap = fake_munmap,
	.madvise = fake_madvise,
	.memfd_create = fake_memfd_create,
	.ftruncate = fake_ftruncate,
	.mbind = fake_mbind,
	.get_mempolicy = fake_get_mempolicy,
	.userfaultfd = fake_userfaultfd,
	.copy_in = fake_copy_in,
	.copy_out = fake_copy_out,
	.cpus = fake_cpus,
	.nap = fake_nap,
	.page_size = fake_page_size,
};

struct script *script_new(enum script_kernel kernel)
{
	struct script *s = calloc(1, sizeof(*s));

	must(s, "no memory");
	s->state = calloc(1, sizeof(*s->state));
	must(s->state, "no memory");
	pthread_mutex_init(&s->state->lock, NULL);
	s->sys = table;
	s->page_size = 0x1000;
	s->api_version = KVM_API_VERSION;
	s->gpa_bits = 46;
	s->gpa_error = EINVAL;
	s->hva_bits = 47;
	s->numa_nodes = UINT64_MAX;
	s->numa_words = NODE_WORDS;
	s->cpus = 1;
	configure(s, kernel);
	return s;
}

struct script_tally script_tally(const struct script *s)
{
	struct script_tally tally = {0};

	for (size_t i = 0; i < s->state->fd_count; i++)
		tally.fds += s->state->fds[i].object ? 1 : 0;
	for (size_t i = 0; i < s->state->mapping_count; i++) {
		tally.mappings += s->state->mappings[i].addr ? 1 : 0;
		if (s->state->mappings[i].addr && s->state->mappings[i].prot == PROT_NONE)
			tally.inaccessible++;
	}
	for (size_t i = 0; i < MAX_SLOTS; i++)
		tally.slots += s->state->slots[i].vm ? 1 : 0;
	return tally;
}

void script_allow_left(struct script *s, unsigned int mappings, unsigned int slots)
{
	s->state->allowed.mappings = mappings;
	s->state->allowed.slots = slots;
}

void script_end(struct script *s)
{
	struct script_state *state = s->state;
	struct script_tally left = script_tally(s);

	if (state->expected)
		script_met(s);
	must(left.fds == 0, "%u descriptors are left", left.fds);
	must(left.mappings == state->allowed.mappings, "%u mappings are left", left.mappings);
	must(left.slots == state->allowed.slots, "%u slots are left", left.slots);
	memset(state->slots, 0, sizeof(state->slots));
	for (size_t i = 0; i < state->mapping_count; i++) {
		if (!state->mappings[i].addr)
			continue;
		if (state->mappings[i].real)
			munmap(state->mappings[i].addr, state->mappings[i].size);
		drop_object(s, state->mappings[i].file);
	}
	pthread_mutex_destroy(&state->lock);
	free(state->transcript);
	free(state);
	free(s);
}

void script_expect(struct script *s, const char *format, ...)
{
	va_list arguments;

	if (s->state->expected)
		script_met(s);
	va_start(arguments, format);
	ck_assert_int_ge(vasprintf(&s->state->expected, format, arguments), 0);
	va_end(arguments);
	s->state->next = s->state->expected;
}

void script_met(struct script *s)
{
	if (s->state->expected && s->state->next)
		must(!*s->state->next, "calls that were not made:\n%s", s->state->next);
	free(s->state->expected);
	s->state->expected = s->state->next = NULL;
}

void script_fail(struct script *s, unsigned int n, int error, const char *part)
{
	script_answer(s, n, -error, part);
}

void script_answer(struct script *s, unsigned int n, int value, const char *part)
{
	for (size_t i = 0; i < MAX_ORDERS; i++) {
		if (s->state->orders[i].part)
			continue;
		s->state->orders[i] = (struct order){.part = part, .n = n, .value = value};
		return;
	}
	ck_abort_msg("more than %d orders", MAX_ORDERS);
}

unsigned int script_recover(struct script *s)
{
	unsigned int answered = s->state->answered;

	memset(s->state->orders, 0, sizeof(s->state->orders));
	s->state->answered = 0;
	return answered;
}

const char *script_transcript(const struct script *s)
{
	return s->state->transcript ? s->state->transcript : "";
}

unsigned int script_count(const struct script *s, const char *part)
{
	const char *line = script_transcript(s);
	unsigned int count = 0;

	while (*line) {
		const char *end = strchrnul(line, '\n');
		const char *found = memmem(line, (size_t)(end - line), part, strlen(part));

		count += found ? 1 : 0;
		line = *end ? end + 1 : end;
	}
	return count;
}

void script_forget(struct script *s)
{
	struct script_state *state = s->state;

	state->length = 0;
	if (state->transcript)
		state->transcript[0] = '\0';
	state->mapping_number = 0;
	memset(state->numbers, 0, sizeof(state->numbers));
	for (size_t i = 0; i < state->mapping_count; i++)
		if (state->mappings[i].addr)
			name_mapping(state, &state->mappings[i]);
	for (size_t i = 0; i < state->fd_count; i++)
		if (state->fds[i].object)
			state->fds[i].number = ++state->numbers[state->fds[i].kind];
}

/* ---- What the VMM does ---- */

int script_make_vm(struct script *s)
{
	return add_fd(s, new_object(VM));
}

int script_make_gmem(struct script *s, int vm_fd, uint64_t size, uint64_t flags)
{
	struct object *file = new_object(GMEM);

	file->vm = object_of_kind(s, vm_fd, VM);
	file->size = size;
	file->flags = flags;
	file->magic = s->numa_in_file ? GUEST_MEMFD_MAGIC : ANON_INODE_FS_MAGIC;
	return add_fd(s, file);
}

int script_make_file(struct script *s, uint64_t size, uint64_t fs_magic, bool regular)
{
	struct object *file = new_object(FILE_OTHER);

	file->size = size;
	file->magic = fs_magic;
	file->regular = regular;
	return add_fd(s, file);
}

void script_close(struct script *s, int fd)
{
	struct fd *found = find_fd(s, fd);

	must(found, "descriptor %d is not open", fd);
	drop_object(s, found->object);
	found->object = NULL;
}

int script_set_slot(struct script *s, int vm_fd, uint32_t number, uint64_t gpa, uint64_t size,
		    const void *addr)
{
	struct kvm_userspace_memory_region2 region = {
		.slot = number,
		.guest_phys_addr = gpa,
		.memory_size = size,
		.userspace_addr = (uintptr_t)addr,
	};

	return set_region(s, object_of_kind(s, vm_fd, VM), &region);
}

void script_set_magic(struct script *s, int fd, uint64_t fs_magic)
{
	object_of(s, fd)->magic = fs_magic;
}

static void set_wiped_pages(struct script *s, unsigned char value)
{
	for (size_t i = 0; i < s->state->mapping_count; i++)
		if (s->state->mappings[i].addr && s->state->mappings[i].wiped)
			memset(s->state->mappings[i].addr, value, 1);
}

void script_enter_child(struct script *s)
{
	set_wiped_pages(s, 0);
}

void script_leave_child(struct script *s)
{
	set_wiped_pages(s, 1);
}

/* ---- Tests of this library ---- */

struct gmem_vm *script_vm(struct script *s, uint64_t flags)
{
	struct gmem_vm_opts opts = {.sz = sizeof(opts), .flags = flags};
	struct gmem_vm *vm;

	ck_works(gmem_vm_open_sys(&s->sys, &opts, &vm));
	script_forget(s);
	return vm;
}

struct gmem_memfd *script_memfd(struct gmem_vm *vm, uint64_t size, uint64_t flags)
{
	struct gmem_memfd_opts opts = {.sz = sizeof(opts), .size = size, .flags = flags};
	struct gmem_memfd *memfd;

	ck_works(gmem_memfd_create(vm, &opts, &memfd));
	return memfd;
}

void script_check_failure(int result, int error, enum gmem_reason reason, const char *what,
			  const char *file, int line)
{
	enum gmem_reason got = gmem_error_get_reason();

	if (result == -error && got == reason && *gmem_error_get_message())
		return;
	ck_abort_msg("%s:%d: %s is %d (%s), not %d (%s): %s", file, line, what, result,
		     result < 0 ? gmem_reason_to_string(got) : "success", -error,
		     gmem_reason_to_string(reason), gmem_error_get_message());
}

void script_check_success(int result, const char *what, const char *file, int line)
{
	if (result != 0)
		ck_abort_msg("%s:%d: %s is %d (%s): %s", file, line, what, result,
			     gmem_reason_to_string(gmem_error_get_reason()),
			     gmem_error_get_message());
}
