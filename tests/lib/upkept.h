/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TESTS_LIB_UPKEPT_H
#define TESTS_LIB_UPKEPT_H

/* Disks over stores of the test's choice as the public API has them, for what is done to open disks (vhd.h, "Upkeep"). */

#include "tests/lib/store-memory.h"
#include "vhd/vhd.h"

/*
 * Stores are taken over, also on failure; 0 is the leaf. Their paths are "<folder>/layer-<n>.vhd", and no such files need
 * be there. Closed by vhd_close.
 */
int upkept_open_take(struct store *const *stores, unsigned count, const char *folder, struct vhd **ret, struct err *err);

/*
 * Whether the file of a layer is sound to the last byte: opens with no defect but notes and the codes in `allow`
 * (NULL-terminated; may be NULL), and each entry of its whole table, beyond the disk's size too, is unallocated or a block inside the file, as
 * QEMU wants it. 0 or a sentence.
 */
int upkept_check(struct memory_file *file, const char *const *allow, struct err *err);

#endif
