/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_UPKEEP_CHILDREN_H
#define VHD_UPKEEP_CHILDREN_H

/* The disks that stand on a layer of an open chain, and putting them on another. */

#include "vhd/children.h"
#include "vhd/vhd.h"

/* As children_find, for what vhd_layer_info says of the layer. */
int upkeep_children_find(const struct vhd_info *layer, struct children *ret, struct err *err);

/* The disk in the file `child`, which nobody has open, stands on `parent` from now on. 0, a verdict or -errno. */
int upkeep_child_relink(const char *child, const struct vhd_info *parent, struct err *err);

/* Removes files that nothing stands on any more, durably. */
int upkeep_files_remove(char *const *paths, unsigned count, struct err *err);

#endif
