/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_CHAIN_H
#define VHD_CHAIN_H

/*
 * A leaf and its parents: found, opened, checked against each other, locked.
 */

#include "vhd/layer.h"
#include "vhd/vhd.h"

struct chain {
	unsigned count;
	struct layer **layers; /* owned; 0 is the leaf */
};

/*
 * Opens `path` and its parents by `options` (as vhd_open). Parents are tried in this order: options->parent for the
 * leaf; locators W2ru, W2ku, MacX, then the header's name beside the child. A candidate counts only if it lies in an
 * allowed folder (judged by the opened file, symlinks resolved) and carries the UUID; a time stamp that differs is a
 * warning. `sink` NULL: refuse damage; else as layer_open_take, and a parent that cannot be had ends the chain with a
 * defect "parent-missing" instead of an error. Every file is locked (lock.h) before it is read.
 */
int chain_open(const char *path, const struct vhd_open_options *options, const struct layer_sink *sink,
               struct chain *ret, struct err *err);

/* Frees the layers, which closes and unlocks their files. */
void chain_done(struct chain *chain);

#endif
