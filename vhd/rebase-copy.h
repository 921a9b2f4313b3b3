/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_REBASE_COPY_H
#define VHD_REBASE_COPY_H

#include "vhd/image.h"
#include "vhd/vhd.h"

/*
 * Where the disk reads other than it would over `parent` (open for reading; NULL: over nothing), what it reads is
 * written into its leaf. `disk` is open for writing, no other queue is at work on it; its content does not change. Over
 * nothing, all blocks that the leaf has then have all of their sectors. Durable when it returns. -ECANCELED, -errno.
 */
int rebase_copy(struct image *disk, struct image *parent, struct vhd_job *job, uint64_t *ret_copied, struct err *err);

#endif
