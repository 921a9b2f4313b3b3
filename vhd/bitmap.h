/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_BITMAP_H
#define VHD_BITMAP_H

/*
 * The sector bitmap of one partly written block, in RAM: bit 1 means that the sector's data is in this file. Bits are
 * only ever set, and tested without a lock; everything else is under the image's lock (image.h).
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct bitmap {
	struct bitmap *next;        /* in the image's list of dirty or of retired bitmaps */
	struct bitmap *commit_next; /* in the list of the commit that is running */
	uint32_t block;
	uint32_t sectors; /* how many the block has */
	uint32_t set;     /* how many bits are 1 */
	bool dirty;       /* on the dirty list: the file's copy lacks bits */
	bool committing;  /* on that commit's list */
	bool dead;        /* the block was given back; memory waits for readers to leave */
	uint32_t retire_epoch;
	_Atomic uint64_t words[]; /* sector 0 is the highest bit of words[0]: on disk, most significant bit first */
};

/* All bits 0. NULL: no memory. Freed with free(). */
struct bitmap *bitmap_new(uint32_t block, uint32_t sectors);

/* Sets all bits from the on-disk form; the bytes beyond the last sector are ignored. */
void bitmap_decode(struct bitmap *bitmap, const uint8_t *bytes);

/* Writes the on-disk form: `length` bytes, zero beyond the last sector. */
void bitmap_encode(const struct bitmap *bitmap, uint8_t *ret, uint32_t length);

/* Sets [first, first + count); returns whether any bit was 0. */
bool bitmap_set(struct bitmap *bitmap, uint32_t first, uint32_t count);

/* How many sectors from `first` on, at most `max`, have the same bit as it; *ret_set is that bit. */
uint32_t bitmap_run(const struct bitmap *bitmap, uint32_t first, uint32_t max, bool *ret_set);

static inline bool bitmap_is_full(const struct bitmap *bitmap)
{
	return bitmap->set == bitmap->sectors;
}

#endif
