/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_MOVE_BLOCK_H
#define VHD_MOVE_BLOCK_H

/*
 * Gives blocks of a layer that is written to another place in the file, while queues read and write. In short: copied
 * without a claim, compared and put right under one, and the entry changed once the copy cannot be missed
 * (docs/durability.md, rule 9).
 */

#include "vhd/image.h"
#include "vhd/job.h"

/* How many are worth claiming together: writers to the last wait for the work on all. */
#define MOVE_BATCH 8u
#define MOVE_BATCH_BYTES (4u << 20)

struct block_move {
	uint32_t block;
	uint32_t to; /* a slot that was ready (slots.h) and is nobody's; goes back if the block is not moved there */
	bool moved;  /* result; false without an error: the block was given back meanwhile */
};

/*
 * Moves at most MOVE_BATCH blocks. Upkeep's thread, without the lock. The job is asked for cancellation only, while
 * the disk is mapped or slow. Returns 0; -ECANCELED; -errno with a sentence; what had been moved by then stays.
 */
int blocks_move(struct image *image, struct image_layer *layer, struct block_move *moves, unsigned count,
                struct vhd_job *job, struct err *err);

/* One block. 0: it lies in `to_slot`; 1: it had been given back; else as above. */
int block_move(struct image *image, struct image_layer *layer, uint32_t block, uint32_t to_slot, struct vhd_job *job,
               struct err *err);

/*
 * Waits until writers may be kept out: no longer than it takes, but with an eye on the job, as long as the disk is
 * mapped or its I/O hangs. Between attempts to claim; nothing is claimed. 0 or -ECANCELED.
 */
int claim_wait(struct image *image, struct vhd_job *job);

/* How long an attempt to claim may take; grows from one to the next where I/O is slow. */
#define CLAIM_LIMIT_FIRST_MS 10u
#define CLAIM_LIMIT_LAST_MS 1000u

static inline unsigned claim_limit_next(unsigned limit_ms)
{
	return limit_ms < CLAIM_LIMIT_LAST_MS / 2 ? limit_ms * 2 : CLAIM_LIMIT_LAST_MS;
}

/* Where a block lies and what of it is there, as of a moment; of now as long as the block is claimed. */
struct block_bits {
	uint32_t slot;
	bool full;      /* all sectors are in this layer; else: */
	uint8_t *bytes; /* the sector bitmap, as on disk; the caller's, layer->bitmap_bytes */
};

/* Looks at a block; its bitmap is read where it was not known. 0; 1: it is not allocated; -errno with a sentence. */
int block_bits_get(struct image *image, struct image_layer *layer, uint32_t block, struct block_bits *bits,
                   struct err *err);

/* Reads a piece of the block's payload, with zeros for sectors that the layer does not hold. 0 or -errno. */
int block_read_piece(const struct image_layer *layer, const struct block_bits *bits, uint8_t *buffer, uint32_t length,
                     uint32_t into);

/* The sentence for what went wrong at a place in the layer's file. */
int block_err(const struct image_layer *layer, uint32_t block, uint32_t slot, const char *what, int rc,
              struct err *err);

#endif
