/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_SECTOR_SET_H
#define VHD_SECTOR_SET_H

/*
 * A set of sectors of a disk, in chunks: one that is empty or full costs a pointer, any other a bitmap. So memory is
 * bounded by the disk's size (a bit a sector), however many pieces the set falls into. Not thread-safe.
 */

#include <stdbool.h>
#include <stdint.h>

#define SECTOR_SET_CHUNK 32768u /* sectors: 16 MiB of disk, 4 KiB of bitmap */
#define SECTOR_SET_WORDS (SECTOR_SET_CHUNK / 64)

struct sector_set {
	uint64_t sectors;     /* the disk's; nothing beyond is ever in the set */
	uint32_t chunk_count;
	uint64_t **chunks;    /* owned: NULL, sector_set_full(), or SECTOR_SET_WORDS words, sector 0 the lowest bit */
};

struct sector_run {
	uint64_t first, count;
};

/* The empty set, for a disk of `sectors` (VHD_MAX_SIZE at most). -ENOMEM. */
int sector_set_init(struct sector_set *set, uint64_t sectors);
void sector_set_done(struct sector_set *set); /* of all zeros too */

/* What lies beyond the end is left out. -ENOMEM: the set has some of them. */
int sector_set_add(struct sector_set *set, uint64_t first, uint64_t count);

/* Adds the part of `other` that lies inside. As sector_set_add. */
int sector_set_union(struct sector_set *set, const struct sector_set *other);

/* The first run that ends behind `from`, cut at `from`; as long as it can be. False: none. */
bool sector_set_next(const struct sector_set *set, uint64_t from, struct sector_run *ret);

uint64_t sector_set_count(const struct sector_set *set);

/* Stands for a chunk all of whose sectors are in the set (those inside the disk). */
uint64_t *sector_set_full(void);

#endif
