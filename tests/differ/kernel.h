/* SPDX-License-Identifier: MIT */
/*
 * What the twin does: each step as plain system calls, with no check of its own, and what the
 * kernel took in plain lists.
 */
#ifndef GMEM_DIFFER_KERNEL_H
#define GMEM_DIFFER_KERNEL_H

#include "../kernel/raw.h"
#include "answer.h"
#include "memory.h"

#define KERNEL_IDS    32768U
#define KERNEL_SPACES 2U

struct kernel_file {
	unsigned int references;
	int fd;
	uint64_t size;
	uint64_t flags;
	bool sealed; /* an ordinary memfd */
};

struct kernel_area {
	unsigned int references;
	struct kernel_file *file;
	unsigned char *addr;
	uint64_t offset;
	uint64_t size;
	uint32_t prot;
};

struct kernel_slot {
	unsigned int references;
	uint8_t vm;
	bool bound;
	struct raw_region region;
	uint64_t offset; /* in the file of the area too */
	struct kernel_file *file;
	struct kernel_area *area;
};

struct kernel_vm {
	int fd;
	uint32_t nr_ids;
	uint32_t nr_spaces;
	uint32_t id_first;		      /* granted */
	bool kept[KERNEL_SPACES][KERNEL_IDS]; /* the VMM's own */
	struct memory_set private;	      /* guest addresses */
	struct raw_region strangers[STEP_STRANGERS];
};

extern struct kernel_vm kernel_vms[STEP_VMS];
extern struct kernel_file *kernel_files[STEP_MEMFDS];
extern struct kernel_area *kernel_areas[STEP_MAPS];
extern struct kernel_slot *kernel_slots[STEP_SLOTS];

/* How the last step is taken back. */
extern struct kernel_last {
	struct step step;
	bool done;
	struct raw_region displaced[STEP_MANY_MAX]; /* what a set has changed; size 0: nothing */
	struct kernel_slot *old;		    /* what was replaced */
	uint32_t flags;
	bool was_kept;
	unsigned char bytes[STEP_BYTES];
	struct memory_set private;
} kernel_last;

/* ---- For the twin ---- */

void kernel_step(const struct step *step, struct answer *answer);
void kernel_undo(void);
void kernel_look(const struct step_look *look, struct answer_look *answer);
void kernel_close_all(void);

/* ---- Objects, which others hold ---- */

/* What must succeed. */
void kernel_must(int r, const char *what);
void *kernel_make(size_t size);
struct kernel_file *kernel_ref_file(struct kernel_file *file);
void kernel_unref_file(struct kernel_file *file);
struct kernel_area *kernel_ref_area(struct kernel_area *area);
void kernel_unref_area(struct kernel_area *area);
int kernel_map_file(struct kernel_file *file, uint64_t offset, uint64_t size, uint32_t prot,
		    struct kernel_area **ret);
void kernel_unref_slot(struct kernel_slot *slot);
void kernel_unbind(struct kernel_slot *slot);
void kernel_unset_slot(uint8_t place, const struct raw_region *displaced);
struct kernel_slot *kernel_find_number(uint8_t vm, uint32_t number);
bool kernel_is_number_in_use(uint8_t vm, uint32_t number);
uint32_t kernel_lowest_free_id(uint8_t vm, uint32_t as_id);
int kernel_find_memory(uint8_t vm, uint32_t as_id, uint64_t gpa, bool write,
		       struct memory_run *run);

/* ---- Steps: 0 or a negative errno ---- */

int kernel_make_memfd(const struct step *step, struct answer *answer);
int kernel_open_fd(const struct step *step, struct answer *answer);
int kernel_allocate(const struct step *step, struct answer *answer);
int kernel_discard(const struct step *step, struct answer *answer);
int kernel_make_map(const struct step *step, struct answer *answer);
int kernel_populate(const struct step *step, struct answer *answer);
int kernel_set_slots(const struct step *step, struct answer *answer);
int kernel_stranger(const struct step *step, struct answer *answer);
int kernel_banish(const struct step *step, struct answer *answer);
int kernel_delete(const struct step *step, struct answer *answer);
int kernel_replace(const struct step *step, struct answer *answer);
int kernel_flags(const struct step *step, struct answer *answer);
int kernel_reserve(const struct step *step, struct answer *answer);
int kernel_read(const struct step *step, struct answer *answer);
int kernel_write(const struct step *step, struct answer *answer);
int kernel_translate(const struct step *step, struct answer *answer);
int kernel_drop(const struct step *step, struct answer *answer);
int kernel_convert(const struct step *step, struct answer *answer);

/* ---- What takes them back ---- */

void kernel_undo_keep(const struct step *step, const struct kernel_slot *slot);
void kernel_undo_replace(void);
void kernel_undo_flags(void);
void kernel_undo_reserve(void);
void kernel_undo_write(void);
void kernel_undo_convert(void);

#endif
