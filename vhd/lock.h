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

#endif
