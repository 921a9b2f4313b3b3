/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TESTS_LIB_CORRUPTER_H
#define TESTS_LIB_CORRUPTER_H

/*
 * Damages images of image-builder.h in the ways that files are damaged, as a seed decides, and knows which sectors of
 * the disk the damage took: all others have to be got back.
 */

#include "tests/lib/image-builder.h"
#include "tests/lib/random.h"

enum corruption {
	CORRUPT_END_BYTE,       /* of the footer at the end */
	CORRUPT_END_ZERO,
	CORRUPT_END_RANDOM,
	CORRUPT_END_KILLED,     /* 0xC7 */
	CORRUPT_COPY_BYTE,
	CORRUPT_COPY_ZERO,
	CORRUPT_COPY_SIZE,      /* the copy is good but says another size: a resize that was interrupted */
	CORRUPT_BOTH_SAME_BYTE,
	CORRUPT_BOTH_BYTES,     /* a different byte in each */
	CORRUPT_BOTH_ZERO,
	CORRUPT_DATA_OFFSET,    /* in both footers, their checksums right */
	CORRUPT_HEADER_BYTE,
	CORRUPT_HEADER_CHECKSUM,
	CORRUPT_HEADER_ZERO,
	CORRUPT_HEADER_BLOCK_SIZE,
	CORRUPT_HEADER_TABLE_OFFSET,
	CORRUPT_HEADER_ENTRIES,
	CORRUPT_LOCATOR,        /* one that lies on the BAT, the header's checksum right */
	CORRUPT_BAT_SAME,       /* an entry names another block's place */
	CORRUPT_BAT_PART,       /* ... or reaches into it */
	CORRUPT_BAT_BEYOND,
	CORRUPT_BAT_METADATA,
	CORRUPT_LEAK_TAIL,      /* space behind the last structure, before the footer */
	CORRUPT_BATMAP_SUM,
	CORRUPT_BATMAP_WRONG,   /* a bit set for a block that is not full */
	CORRUPT_BATMAP_PLACE,
	CORRUPT_PADDING_BITS,   /* behind the last sector of a bitmap: no fault, and not to be taken for one */
	CORRUPT_TRAILING_ZEROS,
	CORRUPT_TRAILING_BYTES,
	CORRUPT_TRUNCATE,
	CORRUPT_SAVED_STATE,
	CORRUPT_PARENT_ID,
	CORRUPTIONS,
};

const char *corruption_name(enum corruption corruption);

struct corrupted {
	uint64_t sectors; /* of the disk */
	bool *taken;      /* owned; a sector whose content the damage may have taken */
};

void corrupted_init(struct corrupted *ret, const struct image_spec *spec);
void corrupted_done(struct corrupted *corrupted);

/*
 * Damages `image`, built from `spec`. False: this cannot be done to such an image (or not any more), and nothing was.
 */
bool corrupt(const struct image_spec *spec, struct image *image, enum corruption corruption, struct rng *rng,
             struct corrupted *corrupted);

#endif
