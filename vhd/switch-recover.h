/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_SWITCH_RECOVER_H
#define VHD_SWITCH_RECOVER_H

/*
 * What a switch to a child (switch-child.c) leaves when it is cut off before the child got the leaf's name: the child,
 * empty, under its temporary name, and perhaps the frozen name, a second one of the leaf's file.
 */

#include "vhd/layer.h"
#include "vhd/vhd.h"

/*
 * Removes that. `leaf` was opened by the name `path` and is locked for writing, so no switch is under way. Only what is
 * certainly left over goes: a file beside it under a temporary name of `path`, a differencing disk without a block of
 * its own on the leaf, which nobody has open; and the name of the leaf's file that this disk gives as its parent's. What
 * cannot be removed is told to options->warn.
 */
void switch_recover(const struct layer *leaf, const char *path, const struct vhd_open_options *options);

#endif
