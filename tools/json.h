/* SPDX-License-Identifier: MIT */
/* A writer of JSON (RFC 8259). Whoever calls it keeps the nesting right. */
#ifndef GMEM_TOOL_JSON_H
#define GMEM_TOOL_JSON_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct json {
	FILE *out;
	int depth;
	bool filled; /* the innermost object or array has a member */
};

/* `key` is NULL for members of an array and for the outermost value. */
void json_open(struct json *json, const char *key, char bracket);
void json_close(struct json *json, char bracket);
void json_bool(struct json *json, const char *key, bool value);
void json_int(struct json *json, const char *key, int64_t value);
void json_uint(struct json *json, const char *key, uint64_t value);
/* NULL is written as null. What is not UTF-8 becomes U+FFFD, a byte at a time. */
void json_string(struct json *json, const char *key, const char *value);

#endif /* GMEM_TOOL_JSON_H */
