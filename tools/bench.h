/* SPDX-License-Identifier: MIT */
/* The parts of the verb `bench`. */
#ifndef GMEM_TOOL_BENCH_H
#define GMEM_TOOL_BENCH_H

/*
 * Shows how ratios have changed between two reports. Returns an exit status: TOOL_FAILED also if
 * one has grown by more than `percent` and the noise; below 0 none can.
 */
int bench_compare_files(const char *old_path, const char *new_path, double percent);

#endif /* GMEM_TOOL_BENCH_H */
