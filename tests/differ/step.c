/* SPDX-License-Identifier: MIT */
#include "step.h"

#include <inttypes.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define STEP_NAME(name, text) text,
const char *const step_names[STEP_OP_COUNT] = {STEP_OPS(STEP_NAME)};
#undef STEP_NAME

/* ---- For people ---- */

static void print_place(FILE *out, const char *name, uint8_t place)
{
	if (place != STEP_NOWHERE)
		fprintf(out, " %s %u", name, place);
}

static void print_slot(FILE *out, const struct step_slot *slot)
{
	fprintf(out, " {as %" PRIu32 " id %" PRIu32 " gpa 0x%" PRIx64 " +0x%" PRIx64, slot->as_id,
		slot->id, slot->gpa, slot->size);
	print_place(out, "memfd", slot->memfd);
	print_place(out, "map", slot->map);
	fprintf(out, " offset 0x%" PRIx64, slot->offset);
	if (slot->host || slot->host_is_ours)
		fprintf(out, " host %s0x%" PRIx64, slot->host_is_ours ? "ours+" : "", slot->host);
	fprintf(out, " flags 0x%" PRIx64 "}", slot->flags);
}

void step_print(FILE *out, uint64_t number, const struct step *step)
{
	fprintf(out, "%8" PRIu64 " %s vm %u", number, step_names[step->op], step->vm);
	print_place(out, "at", step->at);
	print_place(out, "from", step->from);
	fprintf(out,
		" mode %" PRIu32 " as %" PRIu32 " 0x%" PRIx64 " +0x%" PRIx64 " flags 0x%" PRIx64,
		step->mode, step->as_id, step->start, step->size, step->flags);
	if (step->id_count)
		fprintf(out, " ids %" PRIu32 " +%" PRIu32, step->id_first, step->id_count);
	for (unsigned int i = 0; i < step->count; i++)
		print_slot(out, &step->slots[i]);
	putc('\n', out);
}

/* ---- Memory of the VMM's own ---- */

static unsigned char *host;

size_t step_page(void)
{
	static size_t page;

	if (!page)
		page = (size_t)sysconf(_SC_PAGESIZE);
	return page;
}

void step_make_host(void)
{
	size_t pages = STEP_HOST_PAGES + STEP_STRANGERS + 1;
	size_t guard = (STEP_PAGES_MAX + 1) * step_page();

	/* A slot can reach past its end: nothing else must be there. */
	host = mmap(NULL, pages * step_page() + guard, PROT_NONE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (host == MAP_FAILED || mprotect(host, pages * step_page(), PROT_READ | PROT_WRITE) < 0)
		abort();
}

void *step_host(const struct step_slot *slot)
{
	return slot->host_is_ours ? host + slot->host : (void *)(uintptr_t)slot->host;
}

void *step_stranger_host(unsigned int place)
{
	return host + (STEP_HOST_PAGES + place) * step_page();
}

void *step_probe_host(void)
{
	return step_stranger_host(STEP_STRANGERS);
}
