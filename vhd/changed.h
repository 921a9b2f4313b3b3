/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_CHANGED_H
#define VHD_CHANGED_H

#include "vhd/layer.h"
#include "vhd/sector-set.h"
#include "vhd/vhd.h"

struct changed_watch {
	struct vhd_job *job; /* may be NULL */
	void (*progress)(void *user, uint64_t done, uint64_t total); /* blocks; may be NULL */
	void *user;
	uint64_t done, total;
};

/*
 * Adds the sectors that may read otherwise through `layer` than through the layer below it, whose disk has
 * `below_size` bytes: those that it holds itself, and all from the end of the disk below to its own. Sets of several
 * layers add up to what all of them changed. `watch` may be NULL. 0, -ENOMEM, -ECANCELED, or -errno of reading.
 */
int layer_changes_add(const struct layer *layer, uint64_t below_size, struct sector_set *set,
                      struct changed_watch *watch, struct err *err);

#endif
