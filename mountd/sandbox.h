/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef MOUNTD_SANDBOX_H
#define MOUNTD_SANDBOX_H

/*
 * For a program that reads what it does not trust: from here on it can read and write the files that are open already,
 * and get memory, within limits; it can open nothing, start nothing and reach nobody. Threads that are there stay; new
 * ones fail to start.
 */

#include <stdint.h>

#include "common/err.h"

struct sandbox_limits {
	uint64_t memory;       /* bytes */
	unsigned cpu_seconds;  /* of all threads together; then the process is killed */
	unsigned wall_seconds; /* then SIGALRM ends it */
};

/* 0; -ENOTSUP: all limits hold, but the kernel, or this build, has no filter of system calls; -errno. */
int sandbox_enter(const struct sandbox_limits *limits, struct err *err);

#endif
