/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_OVERLAY_H
#define VHD_OVERLAY_H

/*
 * A file as it would be with changes that were planned but not made: what repair works on and checks before it touches
 * the file. Ranges that are written anew, ranges that become copies of others, and another size, over a file that stays
 * as it is.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vhd/store.h"

struct overlay_extent {
	uint64_t offset, length;
	uint8_t *bytes;  /* owned; NULL: a copy of the file's own bytes from `source` on */
	uint64_t source;
	unsigned phase;  /* the planner's */
};

struct overlay {
	struct store *file;    /* borrowed */
	uint64_t file_size;
	uint64_t size;         /* as planned */
	uint64_t kept;         /* from here on the file's own bytes do not show, even where the size grew again */
	struct overlay_extent *extents; /* owned; sorted, not overlapping */
	size_t count, room;
};

/* 0 or -errno. */
int overlay_init(struct overlay *overlay, struct store *file);
void overlay_done(struct overlay *overlay);

/* -ENODATA: beyond the planned size; -errno. */
int overlay_read(const struct overlay *overlay, void *buffer, size_t length, uint64_t offset);

/* Raise the size when they reach beyond it. `bytes` are copied. 0 or -ENOMEM. */
int overlay_write(struct overlay *overlay, const void *bytes, size_t length, uint64_t offset, unsigned phase);
int overlay_copy(struct overlay *overlay, uint64_t source, uint64_t length, uint64_t offset, unsigned phase);

/* What is cut off is gone; what grows reads as zeros. 0 or -ENOMEM. */
int overlay_resize(struct overlay *overlay, uint64_t size);

/* A store for reading, as it is planned now; `overlay` outlives it. NULL: no memory. */
struct store *overlay_store(struct overlay *overlay);

#endif
