/* SPDX-License-Identifier: MIT */
/*
 * The kernel's part of a call: a program that has kernel.c times each ioctl(), the library's too.
 * So the library is seen at work as it is between two calls that sleep, with caches that are cold.
 */
#ifndef BENCH_KERNEL_H
#define BENCH_KERNEL_H

#include <stdbool.h>
#include <stdint.h>

/* Count from 0, or stop. */
void kernel_time(bool on);

/* Nanoseconds in ioctl() since then. */
uint64_t kernel_get_ns(void);

#endif
