/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_LAYER_H
#define VHD_LAYER_H

/*
 * One file of a chain with its metadata read and validated: what opening, checking and salvaging share.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "vhd/format.h"
#include "vhd/store.h"

/* Where the footer that counts was found. */
enum footer_source {
	FOOTER_AT_END,
	FOOTER_AT_END_511, /* a file of Virtual PC before 2004: the last byte is missing */
	FOOTER_FROM_COPY,  /* dynamic and differencing disks only */
	FOOTER_GROWING,    /* fixed disks only: marked, far from the end (resize-mark.h) */
};

struct byte_range {
	uint64_t offset, length;
};

struct layer {
	struct store *store; /* owned */
	char *path;          /* owned; absolute */
	char **former; /* owned, with what they name: strings that were replaced, but somebody may have in hands */
	unsigned former_count;
	bool raw;            /* a raw parent: only store, path and size hold */
	uint64_t size;       /* of the virtual disk, bytes */
	uint64_t file_size;  /* when opened, bytes */

	struct footer footer;
	enum footer_source footer_source;
	uint64_t footer_offset; /* where it was found */

	/* Dynamic and differencing disks. */
	struct header header;
	uint64_t header_offset;
	uint32_t block_size;   /* bytes */
	unsigned block_shift;  /* log2 of it */
	uint32_t block_count;  /* that the disk's size needs */
	uint32_t bitmap_bytes; /* of a block's sector bitmap, padded to sectors */
	uint32_t allocated;    /* BAT entries in use, when opened */
	_Atomic uint32_t *bat; /* owned; block_count entries, host order: the sector of the block's bitmap */
	struct byte_range batmap; /* Xen's, header and map; length 0: none */
	struct byte_range batmap_bits; /* the map alone: a bit for each block, MSB first; length 0: none usable */
	bool payload_aligned; /* every block's data started at a multiple of 4096, when opened */
	uint64_t metadata_end; /* end of the last structure other than blocks, bytes */
	uint64_t data_end; /* end of the last structure (metadata or block), bytes; the footer at the end is none */
	char *parent_name; /* owned; UTF-8, from the header; NULL if none */
	char *parent_path; /* owned; where the parent was found; NULL if not */
};

/* How layer_open treats what it finds. */
struct layer_sink {
	/* Each defect, as it is found. NULL: the first VHD_DAMAGE ends the call with its verdict and sentence. */
	void (*defect)(void *user, const struct vhd_defect *defect);
	void *user;
	bool strict; /* VHD_DAMAGE ends the call all the same; only notes and warnings are reported */
	bool damage_only; /* who may not open a parent, or lacks the means, has found no damage: that is an error */
};

/*
 * Reads and validates footer, header, BAT (entries inside the file, on no metadata, not overlapping) and batmap
 * header; not the sector bitmaps, which are read when first needed. Takes `store` over, also on failure; `path` is
 * copied.
 *
 * With sink->defect NULL any damage is refused: VHD_E_NOT_VHD, VHD_E_CORRUPT, VHD_E_UNSUPPORTED or -errno. Else every
 * defect is reported, and 0 is returned as long as the disk's size and type are known; BAT entries that cannot be
 * used then count as not allocated.
 */
int layer_open_take(struct store *store, const char *path, const struct layer_sink *sink, struct layer **ret,
                    struct err *err);

/* A raw parent. Takes `store` over, also on failure. */
int layer_open_raw_take(struct store *store, const char *path, struct layer **ret, struct err *err);

/* NULL-safe. Closes the store. */
void layer_free(struct layer *layer);

/* Puts `string`, which it takes over, in the place of one of the layer's. -ENOMEM: then that stays. */
int layer_string_replace_take(struct layer *layer, char **place, char *string);

void layer_info(const struct layer *layer, struct vhd_info *ret);

/* The bytes of file that block `entry` (a used BAT entry) takes: bitmap and payload. */
static inline struct byte_range layer_block_range(const struct layer *layer, uint32_t entry)
{
	return (struct byte_range){(uint64_t)entry * VHD_SECTOR, (uint64_t)layer->bitmap_bytes + layer->block_size};
}

#endif
