/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Discard and write-zeroes: the same to the engine, since a discarded range reads as zeros here too.
 */
#include "vhd/queue.h"

#include <errno.h>

static void zero_end(struct part *p, int result)
{
	if (p->pending)
		part_publish(p, result);
	else if (p->queue->image->dynamic)
		part_set_bits(p, result);
	else
		part_end(p, result);
}

static void zero_written(struct ring_io *io, int result)
{
	struct part *p = (struct part *)io;

	if (result == 0 && p->zeros_written < p->length)
		part_write_zeros(p, zero_written);
	else
		zero_end(p, result);
}

static void zero_punched(struct ring_io *io, int result)
{
	struct part *p = (struct part *)io;

	if (result == -EOPNOTSUPP) {
		p->zeros_written = 0;
		part_write_zeros(p, zero_written);
	} else {
		zero_end(p, result);
	}
}

static void punch(struct part *p, uint64_t file_offset)
{
	part_transfer(p, RING_PUNCH, 0, file_offset, zero_punched);
}

/* Takes the whole block out of the BAT. 0; 1: it is no longer where it was seen; -ENOMEM. */
static int give_block_back(struct part *p)
{
	struct image *image = p->queue->image;
	struct image_layer *leaf = &image->layers[0];
	struct bitmap *bitmap;
	int rc = 1;

	pthread_mutex_lock(&image->lock);
	if (atomic_load_explicit(&leaf->layer->bat[p->block], memory_order_relaxed) == p->slot)
		rc = slots_free(image, p->slot);
	if (rc == 0) {
		image_set_entry(image, p->block, VHD_BAT_UNALLOCATED);
		image_forget_pending(image, p->block);
		bitmap = atomic_load_explicit(&leaf->bitmaps[p->block], memory_order_relaxed);
		atomic_store_explicit(&leaf->state[p->block], BLOCK_UNKNOWN, memory_order_release);
		atomic_store_explicit(&leaf->bitmaps[p->block], NULL, memory_order_release);
		if (bitmap)
			image_retire_bitmap(image, bitmap);
	}
	pthread_mutex_unlock(&image->lock);
	return rc;
}

/* One part, inside one block. Returns false to look again. */
static bool zero_in_block(struct part *p)
{
	struct image *image = p->queue->image;
	const struct layer *leaf = image_leaf(image);
	uint64_t into = p->offset & (leaf->block_size - 1);
	uint64_t block_start = p->offset - into;
	/* The last block of a disk may reach beyond its end. */
	bool whole = into == 0 && (p->length == leaf->block_size || p->offset + p->length == image->size);
	struct block_view v;
	int rc;

	if (!image->dynamic) {
		punch(p, p->offset);
		return true;
	}
	p->block = (uint32_t)(block_start >> leaf->block_shift);
	v = layer_block_view(&image->layers[0], p->block);
	if (v.slot == VHD_BAT_UNALLOCATED) {
		if (!image_parents_have(image, p->block)) {
			part_end(p, 0);
			return true;
		}
		rc = part_take_slot(p);
		if (rc < 0)
			part_end(p, rc);
		else if (rc == 0) /* others may be writing to the slot already; where not, punching it again is cheap */
			punch(p, slot_payload(leaf, p->slot) + into);
		return rc != 2;
	}
	p->slot = v.slot;
	rc = whole && !image_parents_have(image, p->block) ? give_block_back(p) : -ENOTSUP;
	if (rc == 1)
		return false;
	if (rc == 0) {
		part_end(p, 0);
	} else if (v.state == BLOCK_UNKNOWN) {
		part_load_bitmap(p, 0, p->block, v.slot, zero_range);
	} else {
		punch(p, slot_payload(leaf, v.slot) + into);
	}
	return true;
}

void zero_range(struct image_queue *q, struct blk_req *req, uint64_t offset, uint64_t length)
{
	range_split(q, req, offset, length, zero_in_block);
}
