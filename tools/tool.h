/* SPDX-License-Identifier: MIT */
/* What the verbs of the tool share. */
#ifndef GMEM_TOOL_H
#define GMEM_TOOL_H

/* Exit statuses. */
enum {
	TOOL_OK = 0,
	TOOL_FAILED = 1,
	TOOL_USAGE = 2,
	TOOL_UNUSABLE = 77, /* this machine lacks what the verb needs */
};

/* A verb: argv[0] is "gmem VERB", and argv[1] its first argument. Returns an exit status. */
int tool_bench(int argc, char **argv);
int tool_probe(int argc, char **argv);

#endif /* GMEM_TOOL_H */
