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
	else if (layer_tables(p->layer))
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
	part_transfer(p, RING_PUNCH, p->layer, file_offset, zero_punched);
}

/*
 * The last block of a disk may reach beyond its end. The layer's size, not the image's: while a disk shrinks, what will be
 * cut off is still there.
 */
static bool is_whole(const struct part *p)
{
	const struct layer *f = p->layer->layer;

	return (p->offset & (f->block_size - 1)) == 0 &&
	       (p->length == f->block_size || p->offset + p->length == atomic_load(&p->layer->size));
}

/*
 * Takes the whole block out of the BAT. 0; 1: it is no longer where it was seen, or claimed, or its rest became part of a
 * larger disk; -ENOMEM.
 */
static int give_block_back(struct part *p)
{
	struct image *image = p->queue->image;
	struct writer *w = p->layer->writer;
	const struct tables *t;
	int rc = 1;

	pthread_mutex_lock(&image->lock);
	t = layer_tables(p->layer);
	if (is_whole(p) && atomic_load_explicit(&t->bat[p->block], memory_order_relaxed) == p->slot &&
	    (p->queue->target || !(atomic_load(&t->state[p->block]) & BLOCK_CLAIMED)))
		rc = writer_drop_block(image, w, p->block);
	pthread_mutex_unlock(&image->lock);
	return rc;
}

/* One part, inside one block. Returns false to look again. */
static bool zero_in_block(struct part *p)
{
	uint64_t into;
	const struct tables *t;
	const struct layer *f;
	struct block_view v;
	bool whole, below;
	int rc;

	part_choose_target(p);
	t = layer_tables(p->layer);
	if (!t) {
		punch(p, p->offset);
		return true;
	}
	f = p->layer->layer;
	into = p->offset & (f->block_size - 1);
	whole = is_whole(p);
	below = stack_holds_below(p->stack, p->layer, p->block);
	v = block_look(t, p->block);
	if (v.slot == VHD_BAT_UNALLOCATED) {
		if (!below) {
			part_end(p, 0);
			return true;
		}
		rc = part_take_slot(p);
		if (rc < 0)
			part_end(p, rc);
		else if (rc == 0) /* others may be writing to the slot already; where not, punching it again is cheap */
			punch(p, slot_payload(f, p->slot) + into);
		return rc != 2;
	}
	if (v.claimed && !p->queue->target)
		return part_wait_for_claim(p);
	p->slot = v.slot;
	rc = whole && !below ? give_block_back(p) : -ENOTSUP;
	if (rc == 1)
		return false;
	if (rc == 0) {
		part_end(p, 0);
	} else if (v.state == BLOCK_UNKNOWN) {
		part_load_bitmap(p, p->layer, p->block, v.slot, zero_range);
	} else {
		punch(p, slot_payload(f, v.slot) + into);
	}
	return true;
}

void zero_range(struct image_queue *q, struct blk_req *req, uint64_t offset, uint64_t length)
{
	range_split(q, req, offset, length, zero_in_block);
}
