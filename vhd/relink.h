/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_RELINK_H
#define VHD_RELINK_H

/*
 * Changes what one file says of itself and of its parent, so that a crash at any moment leaves the old or the new
 * (docs/durability.md, "A new header"). `layer` has its store open for writing, locked, and nobody else writes the file
 * while a function here runs; a disk may be open on it.
 */

#include "vhd/layer.h"

/* What lies behind the structures of the file. */
struct relink_tail {
	uint64_t end; /* nothing from here on is in use, reserved slots included; moves if new locators need space there */
	bool open;    /* durably no footer lies behind `end`, and none is put there: a disk is open on the file */
};

/* For a file that no disk is open on. */
struct relink_tail relink_tail_of(const struct layer *layer);

struct layer_change {
	const struct footer *footer; /* Data Offset is what the switch makes it */
	const struct header *header; /* NULL: stays as it is, footer->data_offset too */
	/*
	 * New data for header->locators: `length` bytes each, whose place is found. An entry that is NULL is kept as the
	 * header has it, where its data must lie already. With any new data, the spaces of all old locators are free.
	 */
	uint8_t *locator_data[VHD_LOCATORS];
};

/*
 * Footer and header become those of `change`; `layer` says the same afterwards. A new BAT that the header names, and
 * all else that it needs, must be durable before, where nothing that the old header names is. 0 or -errno: then `layer`
 * is as before, or, where a write or sync failed midway, the file is as before or as after, and opens.
 */
int layer_switch(struct layer *layer, struct relink_tail *tail, const struct layer_change *change, struct err *err);

int layer_set_uuid(struct layer *layer, struct relink_tail *tail, const uint8_t uuid[16], struct err *err);

/*
 * The differencing disk stands on the file `parent` (absolute, symlinks resolved) from now on. `uuid` is its Unique Id,
 * null for a raw disk; `time_stamp` is of its modification, in seconds since VHD_EPOCH. Locators of other kinds than
 * linkage_make() gives are dropped: they would be stale. Also -EINVAL: a path that the format cannot say.
 */
int layer_set_parent(struct layer *layer, struct relink_tail *tail, const char *parent, const uint8_t uuid[16],
                     uint32_t time_stamp, struct err *err);

/* The differencing disk, which holds all of its content itself, becomes a dynamic one. */
int layer_set_no_parent(struct layer *layer, struct relink_tail *tail, struct err *err);

#endif
