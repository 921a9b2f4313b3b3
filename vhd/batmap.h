/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_BATMAP_H
#define VHD_BATMAP_H

/*
 * Xen's batmap: a bit for each block, set when all sectors of the block are present (docs/vhd-format.md, "Batmap").
 * The engine needs it not, and never sets a bit, which is always allowed. It clears the bit of a block that gets or
 * loses its slot, durably before the BAT entry, since a bit left set would hide a parent's data from Xen.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/bytes.h"
#include "vhd/store.h"

struct batmap_disk {
	uint8_t cookie[8]; /* "tdbatmap" */
	be64 offset;       /* of the map, bytes */
	be32 sectors;
	be32 version;
	be32 checksum; /* of the map */
	uint8_t rest[484]; /* marker and key hash, kept */
};

_Static_assert(sizeof(struct batmap_disk) == 512, "batmap header size");

/* One's complement of the sum of the map's bytes; version 1.1 summed them as signed numbers. */
uint32_t batmap_checksum(const uint8_t *map, size_t length, bool signed_bytes);

struct batmap {
	struct batmap_disk header;
	uint64_t header_offset, offset; /* in the file, bytes */
	size_t length;                  /* of the map, bytes */
	bool signed_sum;
	bool dirty;
	uint8_t bits[]; /* block 0 is the highest bit of the first byte */
};

/* Reads a batmap that was found sound. 0 or -errno. Freed with free(). */
int batmap_load(struct store *store, uint64_t header_offset, uint64_t offset, size_t length, struct batmap **ret);

/* Clears a block's bit, in RAM. */
void batmap_clear(struct batmap *batmap, uint32_t block);

/* A copy to write, its checksum renewed; NULL: no memory. Freed with free(). */
struct batmap *batmap_copy(const struct batmap *batmap);

/* Writes map and header. 0 or -errno. */
int batmap_write(const struct batmap *batmap, struct store *store);

#endif
