/* SPDX-License-Identifier: MIT */
#include "opts.h"

#include "error.h"

#include <errno.h>
#include <string.h>

/* No options struct will ever be this large: a larger sz is garbage, and must not be read. */
#define OPTS_SIZE_MAX 4096

static size_t size_of(const void *opts)
{
	size_t size;

	memcpy(&size, opts, sizeof(size));
	return size;
}

int gmem_opts_check(const void *opts)
{
	if (!opts)
		return gmem_fail(EINVAL, GMEM_REASON_NULL, "the options are NULL");
	if (size_of(opts) <= sizeof(size_t) || size_of(opts) > OPTS_SIZE_MAX)
		return gmem_fail(EINVAL, GMEM_REASON_OPTS_SIZE,
				 "sz is %zu: set it to the sizeof of the struct", size_of(opts));
	return 0;
}

int gmem_opts_read(void *opts, size_t opts_size, const void *from)
{
	const unsigned char *bytes = from;
	int r = gmem_opts_check(from);
	size_t size;

	if (r < 0)
		return r;
	size = size_of(from);
	for (size_t i = opts_size; i < size; i++)
		if (bytes[i])
			return gmem_fail(E2BIG, GMEM_REASON_OPTS_TAIL,
					 "options byte %zu of %zu is set, this library knows %zu",
					 i, size, opts_size);
	memset(opts, 0, opts_size);
	memcpy(opts, from, size < opts_size ? size : opts_size);
	return 0;
}

void gmem_opts_write(void *to, const void *from, size_t from_size)
{
	const size_t head = sizeof(size_t);
	size_t size = size_of(to);
	size_t known = size < from_size ? size : from_size;

	memcpy((char *)to + head, (const char *)from + head, known - head);
	memset((char *)to + known, 0, size - known);
}
