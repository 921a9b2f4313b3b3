/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TESTS_LIB_LARGEST_H
#define TESTS_LIB_LARGEST_H

/* The largest disk there is, 2040 GiB in 1,044,480 blocks, every one of them allocated, in a file that is nearly all hole. */

#include "common/err.h"

/* Dynamic, or differencing when `parent` is given. Every 64th bitmap is full, the others empty. 0 or -errno. */
int largest_create(const char *path, const char *parent, struct err *err);

#endif
