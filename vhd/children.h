/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_CHILDREN_H
#define VHD_CHILDREN_H

/*
 * Who stands on an image. Nothing in an image says so, so its folder is looked through: a differencing disk elsewhere is
 * not found.
 */

#include "vhd/layer.h"

struct children {
	unsigned count;
	char **paths; /* owned; in the order of the folder */
	bool *merged; /* owned; of each: it has been merged into the image, and is left over from that */
};

/*
 * Finds the differencing disks in the folder of `path` that stand on the image `layer` (open): those whose header names
 * its Unique Id, unless its locators lead to another file that has the same: a copy, or, while a merge is ending, the one
 * that the image was merged into. A child whose locators lead nowhere any more is found by its parent's Id all the same.
 * For a raw disk (`layer` is raw, and has no Unique Id) the locators and the name decide: one leads to this very file.
 *
 * So is a disk that was merged into the image when the end of the merge was cut off: it has the image's own Unique Id,
 * and one of its locators leads to this very file.
 *
 * Reads footer and header of each regular file (500 files: 5 to 7 ms), and takes no locks. What cannot be read, or is no differencing disk,
 * stands on nothing. The image itself, under any of its names, is not its child. 0 or -errno: the folder cannot be read.
 */
int children_find(const struct layer *layer, const char *path, struct children *ret, struct err *err);
void children_done(struct children *children);

/* The i-th is not meant. */
void children_leave_out(struct children *children, unsigned i);

/* VHD_E_HAS_CHILDREN, with a sentence that names some of them and the way out; 0: there are none. */
int children_refuse(const struct children *children, const char *path, struct err *err);

#endif
