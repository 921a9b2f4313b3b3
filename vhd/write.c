/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/queue.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct pending **pending_bucket(struct image *image, uint32_t block)
{
	return &image->pending[block % PENDING_BUCKETS];
}

static struct pending *pending_find(struct image *image, uint32_t block)
{
	struct pending *p = *pending_bucket(image, block);

	while (p && p->block != block)
		p = p->next;
	return p;
}

static void pending_unlink(struct image *image, struct pending *pending)
{
	struct pending **at = pending_bucket(image, pending->block);

	while (*at && *at != pending)
		at = &(*at)->next;
	if (*at)
		*at = pending->next;
}

/* A block was given back: its slot must not be joined by new writers. Those at work end on their own. */
void image_forget_pending(struct image *image, uint32_t block)
{
	struct pending *p = pending_find(image, block);

	if (p)
		pending_unlink(image, p);
}

static struct pending *pending_new(struct image *image, uint32_t block, uint32_t slot)
{
	struct pending *p = image->pending_free;

	if (p)
		image->pending_free = p->next;
	else
		p = malloc(sizeof(*p));
	if (!p)
		return NULL;
	*p = (struct pending){.block = block, .slot = slot};
	if (image->has_parent) {
		p->bitmap = bitmap_new(block, image_leaf(image)->block_size / VHD_SECTOR);
		if (!p->bitmap) {
			free(p);
			return NULL;
		}
	}
	p->next = *pending_bucket(image, block);
	*pending_bucket(image, block) = p;
	return p;
}

static void slot_waited(struct ring_io *io, int result)
{
	struct part *p = (struct part *)io;
	struct image_queue *q = p->queue;
	struct blk_req *req = p->req;
	uint64_t offset = p->offset, length = p->length;

	if (result) {
		part_end(p, result);
		return;
	}
	part_split(p);
	if (req->op == BLK_WRITE)
		write_range(q, req, offset, length);
	else
		zero_range(q, req, offset, length);
	request_put(q, req, 0);
}

int part_take_slot(struct part *p)
{
	struct image *image = p->queue->image;
	bool own_pages = false;
	int rc = 0;

	pthread_mutex_lock(&image->lock);
	if (atomic_load_explicit(&image_leaf(image)->bat[p->block], memory_order_relaxed) != VHD_BAT_UNALLOCATED) {
		rc = 2;
	} else if ((p->pending = pending_find(image, p->block))) {
		p->pending->writers++;
		p->slot = p->pending->slot;
	} else if (atomic_load(&image->broken)) {
		rc = -EROFS;
	} else if ((p->slot = slots_take(image, &own_pages)) == VHD_BAT_UNALLOCATED) {
		part_pause(p);
		p->io.done = slot_waited;
		p->next = NULL;
		*image->slot_waiters_tail = p;
		image->slot_waiters_tail = &p->next;
		worker_wake(image);
		rc = 1;
	} else {
		p->pending = pending_new(image, p->block, p->slot);
		if (p->pending) {
			p->pending->writers = 1;
			p->pending->own_pages = own_pages;
		} else {
			slots_give_back(image, p->slot);
			rc = -ENOMEM;
		}
	}
	pthread_mutex_unlock(&image->lock);
	return rc;
}

static void set_part_bits(struct image *image, const struct part *p, struct bitmap *bitmap)
{
	uint64_t into = p->offset & (image_leaf(image)->block_size - 1);

	if (bitmap_set(bitmap, (uint32_t)(into / VHD_SECTOR), (uint32_t)(p->length / VHD_SECTOR)))
		image_bitmap_dirty(image, bitmap);
}

/* The block may have been given back and even come anew since the part began: then its sectors are not there. */
static struct bitmap *part_bitmap(struct image *image, const struct part *p)
{
	if (atomic_load_explicit(&image_leaf(image)->bat[p->block], memory_order_relaxed) != p->slot)
		return NULL;
	return atomic_load_explicit(&image->layers[0].bitmaps[p->block], memory_order_relaxed);
}

void part_publish(struct part *p, int result)
{
	struct image *image = p->queue->image;
	struct image_layer *leaf = &image->layers[0];
	struct pending *pending = p->pending;
	struct bitmap *bitmap;

	pthread_mutex_lock(&image->lock);
	if (result == 0 && !pending->published && !image->has_parent && !p->carries_bitmap)
		result = slots_owe_bitmap(image, p->slot, pending->own_pages);
	if (result == 0 && !pending->published) {
		if (image->has_parent) {
			bitmap = pending->bitmap;
			pending->bitmap = NULL;
			set_part_bits(image, p, bitmap);
			atomic_store_explicit(&leaf->bitmaps[p->block], bitmap, memory_order_release);
			atomic_store_explicit(&leaf->state[p->block], BLOCK_PARTIAL, memory_order_release);
		} else {
			atomic_store_explicit(&leaf->state[p->block], BLOCK_FULL, memory_order_release);
		}
		image_set_entry(image, p->block, p->slot);
		pending->published = true;
	} else if (result == 0 && (bitmap = part_bitmap(image, p))) {
		set_part_bits(image, p, bitmap);
	}
	if (--pending->writers == 0) {
		pending_unlink(image, pending);
		if (!pending->published)
			slots_give_back(image, p->slot);
		free(pending->bitmap);
		pending->next = image->pending_free;
		image->pending_free = pending;
	}
	pthread_mutex_unlock(&image->lock);
	part_end(p, result);
}

void part_set_bits(struct part *p, int result)
{
	struct image *image = p->queue->image;
	struct bitmap *bitmap;

	if (result == 0) {
		pthread_mutex_lock(&image->lock);
		bitmap = part_bitmap(image, p);
		if (bitmap)
			set_part_bits(image, p, bitmap);
		pthread_mutex_unlock(&image->lock);
	}
	part_end(p, result);
}

static void plain_done(struct ring_io *io, int result)
{
	part_end((struct part *)io, result);
}

static void new_block_done(struct ring_io *io, int result)
{
	part_publish((struct part *)io, result);
}

static void new_bits_done(struct ring_io *io, int result)
{
	part_set_bits((struct part *)io, result);
}

static bool bits_are_set(const struct bitmap *bitmap, uint64_t into, uint64_t length)
{
	uint32_t sectors = (uint32_t)(length / VHD_SECTOR);
	bool set;

	return bitmap_run(bitmap, (uint32_t)(into / VHD_SECTOR), sectors, &set) == sectors && set;
}

/* One part, inside one block. Returns false to look again. */
static bool write_in_block(struct part *p)
{
	struct image *image = p->queue->image;
	const struct layer *leaf = image_leaf(image);
	uint64_t into = p->offset & (leaf->block_size - 1);
	struct block_view v;
	int rc;

	if (!image->dynamic) {
		part_transfer(p, RING_WRITE, 0, p->offset, plain_done);
		return true;
	}
	p->block = (uint32_t)(p->offset >> leaf->block_shift);
	v = layer_block_view(&image->layers[0], p->block);
	if (v.slot == VHD_BAT_UNALLOCATED) {
		rc = part_take_slot(p);
		if (rc == 0 && into == 0 && !image->has_parent && p->pending->own_pages)
			part_write_with_bitmap(p, new_block_done);
		else if (rc == 0)
			part_transfer(p, RING_WRITE, 0, slot_payload(leaf, p->slot) + into, new_block_done);
		else if (rc < 0)
			part_end(p, rc);
		return rc != 2;
	}
	p->slot = v.slot;
	if (v.state == BLOCK_UNKNOWN)
		part_load_bitmap(p, 0, p->block, v.slot, write_range);
	else
		part_transfer(p, RING_WRITE, 0, slot_payload(leaf, v.slot) + into,
		              v.state == BLOCK_FULL || bits_are_set(v.bitmap, into, p->length) ? plain_done : new_bits_done);
	return true;
}

void write_range(struct image_queue *q, struct blk_req *req, uint64_t offset, uint64_t length)
{
	range_split(q, req, offset, length, write_in_block);
}
