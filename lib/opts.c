/* SPDX-License-Identifier: MIT */
#include "opts.h"

#include "error.h"

#include <errno.h>
#include <string.h>

/* No options struct will ever be this large: a larger sz is garbage, and must not be read. */
#define OPTS_SIZE_MAX 4096

int gmem_opts_read(void *opts, size_t opts_size, const void *from)
{
	const unsigned char *bytes = from;
	size_t size;

	if (!from)
		return gmem_fail(EINVAL, GMEM_REASON_NULL, "the options are NULL");
	memcpy(&size, from, sizeof(size));
	if (size <= sizeof(size) || size > OPTS_SIZE_MAX)
		return gmem_fail(EINVAL, GMEM_REASON_OPTS_SIZE,
				 "sz is %zu: set it to the sizeof of the options struct", size);
	for (size_t i = opts_size; i < size; i++)
		if (bytes[i])
			return gmem_fail(E2BIG, GMEM_REASON_OPTS_TAIL,
					 "options byte %zu of %zu is set, this library knows %zu",
					 i, size, opts_size);
	memset(opts, 0, opts_size);
	memcpy(opts, from, size < opts_size ? size : opts_size);
	return 0;
}
