/* SPDX-License-Identifier: MIT */
/* Questions to KVM from outside: what is taken? Each sets a slot of one page and deletes it. */
#ifndef GMEM_DIFFER_PROBE_H
#define GMEM_DIFFER_PROBE_H

#include <stdint.h>

enum {
	PROBE_MAX = 1024
};

enum probe_kind {
	PROBE_GPA,  /* is this guest address taken? */
	PROBE_ID,   /* is this id? */
	PROBE_MEMFD /* is this page of a guest_memfd bound? */
};

struct probe {
	enum probe_kind kind;
	uint8_t vm;
	uint8_t memfd; /* place */
	uint32_t as_id;
	uint64_t number; /* the address, id or offset */
};

/* 0: no. A negative errno: yes, or there is no such thing. */
int probe_ask(int vm, int memfd, const struct probe *probe);

#endif
