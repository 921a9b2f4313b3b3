/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_LOCK_H
#define VHD_LOCK_H

/*
 * Open-file-description byte locks, where QEMU puts its own, so that the two refuse to trample each other.
 */

#include <stdbool.h>

#include "common/err.h"

/*
 * Locks `fd` (of `path`) for reading, or for writing too, for as long as it is open. VHD_E_IN_USE: somebody else has
 * it open in a way that excludes this; the sentence says who where /proc shows it. -errno otherwise; a file system
 * without locks is no error.
 */
int lock_take(int fd, const char *path, bool write, struct err *err);

/*
 * `fd` is a second descriptor of a file that `reader` holds locked for reading: it gets the writer's locks, and
 * `reader` no longer keeps writers away. Nobody else gets in between. As lock_take; then `reader` is as before.
 */
int lock_raise(int fd, int reader, const char *path, struct err *err);

/*
 * Gives up all locks. Closing the descriptor does that too, but not at once when a ring knew the file: the kernel takes
 * rings apart later.
 */
void lock_drop(int fd);

/* Gives up what a writer has over a reader. */
void lock_lower(int fd);

#endif
