/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef COMMON_BLK_FILE_H
#define COMMON_BLK_FILE_H

#include "common/blk.h"

#define BLK_FILE_WRITE 0x01u
#define BLK_FILE_DIRECT 0x02u /* O_DIRECT */

/*
 * A raw file or block device as a disk. The size is the file's and never changes. 0, or -errno from opening it; a
 * pipe or a directory is -EINVAL. Closed with blk_close.
 */
int blk_file_open(const char *path, unsigned flags, struct blk **ret, struct err *err);

#endif
