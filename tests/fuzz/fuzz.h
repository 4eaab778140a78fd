/* SPDX-License-Identifier: MIT */
/*
 * What the fuzz targets share. A target is a fuzz-NAME.c with the function below, which libFuzzer
 * calls with inputs that it invents (tests/fuzz/run), and replay.c with those that are kept
 * (tests/fuzz/corpus/NAME).
 */
#ifndef GMEM_FUZZ_H
#define GMEM_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct fuzz_input {
	const uint8_t *data;
	size_t size;
};

/* The input's next bytes as a number; past its end they are 0. */
static inline uint64_t fuzz_take(struct fuzz_input *input, unsigned int bytes)
{
	uint64_t number = 0;

	for (unsigned int i = 0; i < bytes && input->size > 0; i++, input->data++, input->size--)
		number |= (uint64_t)*input->data << (8 * i);
	return number;
}

/* What must hold of every input. */
#define FUZZ_EXPECT(condition)                                                                     \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);    \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

#endif
