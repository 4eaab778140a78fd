/* SPDX-License-Identifier: MIT */
/* The texts of calls. */
#include "fake.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

const char *gmem_fake_word(struct gmem_fake *fake, const char *format, ...)
{
	char *text = fake->words[fake->word++ % ARRAY_SIZE(fake->words)];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(fake->words[0]), format, arguments);
	va_end(arguments);
	return text;
}

const char *gmem_fake_name_kind(enum gmem_fake_kind kind)
{
	static const char *const names[GMEM_FAKE_KINDS] = {
		[GMEM_FAKE_KVM] = "kvm",   [GMEM_FAKE_VM] = "vm",	[GMEM_FAKE_VCPU] = "vcpu",
		[GMEM_FAKE_GMEM] = "gmem", [GMEM_FAKE_MEMFD] = "memfd", [GMEM_FAKE_UFFD] = "uffd",
		[GMEM_FAKE_FILE] = "file",
	};

	return names[kind];
}

const char *gmem_fake_name_fd(struct gmem_fake *fake, int fd)
{
	struct gmem_fake_fd *found = gmem_fake_find_fd(fake, fd);

	if (!found)
		return gmem_fake_word(fake, "%d", fd);
	return gmem_fake_word(fake, "%s%u", gmem_fake_name_kind(found->kind), found->number);
}

static const char *name_at(struct gmem_fake *fake, const char *name, uintptr_t offset)
{
	return offset ? gmem_fake_word(fake, "%s+%#" PRIxPTR, name, offset)
		      : gmem_fake_word(fake, "%s", name);
}

const char *gmem_fake_name_addr(struct gmem_fake *fake, const void *addr)
{
	struct gmem_fake_mapping *mapping = gmem_fake_find_mapping(fake, addr);
	uintptr_t at = (uintptr_t)addr;

	if (!addr)
		return "0";
	if (mapping)
		return name_at(fake, mapping->name, at - (uintptr_t)mapping->addr);
	for (size_t i = 0; i < fake->name_count; i++) {
		struct gmem_fake_memory_name *name = &fake->names[i];

		if (at >= name->start && at < name->end)
			return name_at(fake, name->text, at - name->start);
	}
	return "elsewhere";
}

void gmem_fake_name(struct gmem_fake *fake, const void *addr, size_t size, const char *name)
{
	gmem_fake_enter(&fake->sys);
	fake->names = gmem_fake_grow(fake, fake->names, fake->name_count, &fake->name_room,
				     sizeof(*fake->names));
	fake->names[fake->name_count++] = (struct gmem_fake_memory_name){
		.text = gmem_fake_copy_text(fake, name),
		.start = (uintptr_t)addr,
		.end = (uintptr_t)addr + size,
	};
	gmem_fake_leave(fake, 0);
}

void gmem_fake_clear_names(struct gmem_fake *fake)
{
	for (size_t i = 0; i < fake->name_count; i++)
		free(fake->names[i].text);
	free(fake->names);
}

const char *gmem_fake_name_bits(struct gmem_fake *fake, unsigned int value,
				const struct gmem_fake_bit *bits, size_t count)
{
	const char *text = NULL;

	for (size_t i = 0; i < count; i++) {
		if (!bits[i].value || (value & bits[i].value) != bits[i].value)
			continue;
		value &= ~bits[i].value;
		text = text ? gmem_fake_word(fake, "%s|%s", text, bits[i].name) : bits[i].name;
	}
	if (value || !text)
		text = text ? gmem_fake_word(fake, "%s|%#x", text, value)
			    : gmem_fake_word(fake, "%#x", value);
	return text;
}

const char *gmem_fake_name_prot(int prot)
{
	static const char *const names[] = {"NONE", "R", "W", "RW"};

	return prot >= 0 && prot <= 3 ? names[prot] : "EXEC";
}

const char *gmem_fake_name_map_flags(struct gmem_fake *fake, int flags)
{
	static const struct gmem_fake_bit bits[] = {
		{MAP_SHARED, "SHARED"},	 {MAP_PRIVATE, "PRIVATE"},
		{MAP_ANONYMOUS, "ANON"}, {MAP_NORESERVE, "NORESERVE"},
		{MAP_FIXED, "FIXED"},	 {MAP_FIXED_NOREPLACE, "FIXED_NOREPLACE"},
	};

	return gmem_fake_name_bits(fake, (unsigned int)flags, bits, ARRAY_SIZE(bits));
}

const char *gmem_fake_name_advice(struct gmem_fake *fake, int advice)
{
	static const struct gmem_fake_bit names[] = {
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
	return gmem_fake_word(fake, "%d", advice);
}

const char *gmem_fake_name_nodes(struct gmem_fake *fake, const uint64_t *nodes, size_t words)
{
	const char *text = words ? "" : "-";

	for (size_t i = 0; i < words; i++)
		text = gmem_fake_word(fake, "%s%s%#" PRIx64, text, i ? "," : "", nodes[i]);
	return text;
}
