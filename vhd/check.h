/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_CHECK_H
#define VHD_CHECK_H

/* Between check.c, which goes through the layers, and check-bitmaps.c, which looks into their blocks. */

#include "vhd/chain.h"
#include "vhd/defect.h"

struct check {
	const struct vhd_check_options *options;
	struct chain chain;
	struct vhd_check_result result;
	struct layer_sink sink; /* counts and forwards */
	uint64_t blocks_done;
	struct err *err;
};

/* As vhd_check of one file that is open; takes `store` over. `path` is for sentences. */
int check_store_take(struct store *store, const char *path, const struct vhd_check_options *options,
                     struct vhd_check_result *ret, struct err *err);

/* Whether the first `sectors` bits of a sector bitmap are all set. */
bool bitmap_bytes_full(const uint8_t *bitmap, uint32_t sectors);

/* How many sectors of the disk a block has. */
uint32_t layer_block_sectors(const struct layer *layer, uint32_t block);

/* Every sector bitmap of a differencing disk, those of a dynamic disk up to a number. 0 or -errno. */
int check_bitmaps(struct check *check, unsigned layer);

#endif
