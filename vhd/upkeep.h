/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_UPKEEP_H
#define VHD_UPKEEP_H

/* Between the files that change an open disk: merge.c, switch-child.c, resize.c, compact.c. */

#include "vhd/image.h"
#include "vhd/vhd.h"

struct vhd {
	struct image *image;
	void (*resized)(void *user, uint64_t size_bytes);
	void *resized_user;
};

/* Only one call of upkeep works on a disk at a time. -EBUSY; -EROFS: opened for reading, or broken by a failed sync. */
int upkeep_begin(struct image *image, struct err *err);
void upkeep_end(struct image *image);

#endif
