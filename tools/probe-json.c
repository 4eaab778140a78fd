/* SPDX-License-Identifier: MIT */
/*
 * The report for programs: one object. Readers must accept members that they do not know; a change
 * that could break a reader raises `schema`.
 *
 *   schema       1
 *   version      of the library
 *   kernel       {release, machine}, as uname(2) tells
 *   device       path of the KVM device
 *   page_size    bytes
 *   shadow_paging  for which guests: "none", "nested" (guests within guests), "all" or "unknown"
 *   usable       whether a VM of some type has guest_memfd; the exit status is 0 if so, else 77
 *   problem      null if usable, else why not: see below
 *   vm_types     array, empty where no VM can be made, of
 *     type         number, as KVM_CREATE_VM takes it
 *     name         of the type
 *     summary      what it is good for, in words
 *     usable       whether it has guest_memfd that can be made and bound: this was tried
 *     problem      null, or why no VM of this type could be made, or why the trial failed
 *     capabilities null where no VM could be made, else an object of
 *       KEY          guest_memfd, guest_memfd_flags, ... (the table in probe-words.c), each
 *         state        "supported", "unsupported" or "unknown" (the probe failed)
 *         value        integer of up to 64 bits; 0 unless supported
 *         names        only for sets, of what is supported: names of the bits, "0x.." without one
 *         problem      null if supported
 *   known_faults array, empty if not usable, of
 *     name         as in gmem-kernel-check(1)
 *     state        "found", "not found" or "unknown", also where finding out would do harm
 *     cause        null if not found, else what it is, in words
 *     remedy       null if not found, else what to do
 *
 * A problem is an object of
 *   reason   name of the library's reason (GMEM_REASON_ without the prefix)
 *   errno    positive number
 *   message  the library's sentence
 *   cause    in words
 *   remedy   in words, or null where nothing can be done
 */
#include "json.h"
#include "probe.h"

#include <errno.h>
#include <inttypes.h>

static void write_problem(struct json *json, const struct probe_result *result,
			  const struct advice *advice)
{
	json_open(json, "problem", '{');
	json_string(json, "reason", gmem_reason_to_string(result->reason));
	json_int(json, "errno", result->err);
	json_string(json, "message", result->message);
	json_string(json, "cause", advice->cause);
	json_string(json, "remedy", advice->remedy[0] ? advice->remedy : NULL);
	json_close(json, '}');
}

static void write_names(struct json *json, enum value_kind kind, uint64_t value)
{
	json_open(json, "names", '[');
	while (value) {
		char number[32];
		uint64_t bit;
		const char *name = next_bit(kind, &value, &bit);

		snprintf(number, sizeof(number), "0x%" PRIx64, bit);
		json_string(json, NULL, name ? name : number);
	}
	json_close(json, ']');
}

static void write_cap(struct json *json, const struct probe *probe, const struct probe_type *type,
		      size_t index)
{
	const struct cap_words *words = &cap_words[index];
	const struct probe_cap *cap = &type->caps[index];
	struct advice advice;

	json_open(json, words->key, '{');
	json_string(json, "state",
		    !cap->result.err		    ? "supported"
		    : cap->result.err == EOPNOTSUPP ? "unsupported"
						    : "unknown");
	json_uint(json, "value", cap->value);
	if (words->kind == VALUE_FLAGS || words->kind == VALUE_ATTRIBUTES ||
	    words->kind == VALUE_USERFAULTFD || words->kind == VALUE_HYPERCALLS)
		write_names(json, words->kind, cap->value);
	if (cap->result.err) {
		advise_cap(probe, type, index, &advice);
		write_problem(json, &cap->result, &advice);
	} else {
		json_string(json, "problem", NULL);
	}
	json_close(json, '}');
}

static void write_type(struct json *json, const struct probe *probe, const struct probe_type *type)
{
	const struct probe_result *failure = type->open.err ? &type->open : &type->trial;
	struct advice advice;

	json_open(json, NULL, '{');
	json_uint(json, "type", type->type);
	json_string(json, "name", type_name(type->type));
	json_string(json, "summary", type_summary(type));
	json_bool(json, "usable", type_usable(type));
	if (failure->err) {
		advise_call(probe, failure, &advice);
		write_problem(json, failure, &advice);
	} else {
		json_string(json, "problem", NULL);
	}
	if (type->open.err) {
		json_string(json, "capabilities", NULL);
	} else {
		json_open(json, "capabilities", '{');
		for (size_t i = 0; i < PROBE_CAPS; i++)
			write_cap(json, probe, type, i);
		json_close(json, '}');
	}
	json_close(json, '}');
}

static void write_fault(struct json *json, const struct fault_words *words, enum fault_state state)
{
	static const char *const states[] = {"unknown", "not found", "found"};

	json_open(json, NULL, '{');
	json_string(json, "name", words->name);
	json_string(json, "state", states[state]);
	json_string(json, "cause", state == FAULT_NOT_FOUND ? NULL : words->cause);
	json_string(json, "remedy", state == FAULT_NOT_FOUND ? NULL : words->remedy);
	json_close(json, '}');
}

void probe_print_json(const struct probe *probe)
{
	struct json json = {.out = stdout};
	struct advice advice;

	json_open(&json, NULL, '{');
	json_uint(&json, "schema", 1);
	json_string(&json, "version", gmem_get_version());
	json_open(&json, "kernel", '{');
	json_string(&json, "release", probe->kernel.release);
	json_string(&json, "machine", probe->kernel.machine);
	json_close(&json, '}');
	json_string(&json, "device", probe->device);
	json_uint(&json, "page_size", probe->page_size);
	json_string(&json, "shadow_paging", paging_words[probe->paging]);
	json_bool(&json, "usable", probe->usable);
	if (probe->usable) {
		json_string(&json, "problem", NULL);
	} else {
		advise_unusable(probe, &advice);
		write_problem(&json, first_failure(probe), &advice);
	}
	json_open(&json, "vm_types", '[');
	for (size_t i = 0; i < probe->type_count; i++)
		write_type(&json, probe, &probe->types[i]);
	json_close(&json, ']');
	json_open(&json, "known_faults", '[');
	for (size_t i = 0; probe->usable && i < PROBE_FAULTS; i++)
		write_fault(&json, &fault_words[i], probe->faults[i]);
	json_close(&json, ']');
	json_close(&json, '}');
}
