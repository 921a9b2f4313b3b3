/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef MOUNTD_DETECT_H
#define MOUNTD_DETECT_H

/* What a disk or partition holds, by the marks that file systems and containers carry. */

#include <stdbool.h>

#include "common/err.h"
#include "mountd/disk.h"

struct content {
	const char *name; /* "ext2/3/4", "NTFS", "LUKS encryption", ...; "nothing known" */
	bool mountable;   /* by this version */
	bool container;   /* no file system itself: encryption, volume manager, RAID */
	const char *also; /* marks of something else are there too: left over, or this is */
};

int content_detect(const struct volume *volume, struct content *ret, struct err *err);

#endif
