/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef MOUNTD_SELECT_H
#define MOUNTD_SELECT_H

/* Which file system of a disk is meant. */

#include "common/err.h"
#include "mountd/disk.h"

/*
 * `number`: a partition's, or 0 for the only file system there is. -ENOENT: none, or none that this version can mount;
 * -EINVAL: several, or a partition that cannot be used; -EBADMSG: a damaged table; ... The sentence lists what there is.
 */
int volume_select(struct disk *disk, unsigned number, bool read_only, struct volume *ret, struct err *err);

#endif
