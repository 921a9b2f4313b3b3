/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_MERGE_COPY_H
#define VHD_MERGE_COPY_H

/* Copies what layers of an open disk hold into a layer below them. One thread: that of upkeep. */

#include "vhd/image.h"
#include "vhd/vhd.h"

struct copier;

/* `target` has a writer. `job` may be NULL. -errno. */
int copier_new(struct image *image, struct image_layer *target, struct vhd_job *job, struct copier **ret,
               struct err *err);
void copier_free(struct copier *copier); /* NULL-safe; waits for what is being written */

/*
 * What layers `first` to `end` - 1 of the stack hold of the range goes to the target. They do not change meanwhile.
 * Returns before the last of it is written. -ECANCELED; -errno.
 */
int copier_copy(struct copier *copier, const struct stack *stack, unsigned first, unsigned end, uint64_t offset,
                uint64_t length, struct err *err);

/* Waits until all is written (not: durable). 0 or the first -errno of a write. */
int copier_wait(struct copier *copier, struct err *err);

/* Bytes so far: read from the layers, and written as data to the target's file. */
void copier_count(const struct copier *copier, uint64_t *ret_read, uint64_t *ret_written);

#endif
