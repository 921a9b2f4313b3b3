/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/queue.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct pending **pending_bucket(struct writer *w, uint32_t block)
{
	return &w->pending[block % PENDING_BUCKETS];
}

static struct pending *pending_find(struct writer *w, uint32_t block)
{
	struct pending *p = *pending_bucket(w, block);

	while (p && p->block != block)
		p = p->next;
	return p;
}

static void pending_unlink(struct writer *w, struct pending *pending)
{
	struct pending **at = pending_bucket(w, pending->block);

	while (*at && *at != pending)
		at = &(*at)->next;
	if (*at)
		*at = pending->next;
}

/* A block was given back: its slot must not be joined by new writers. Those at work end on their own. */
void writer_forget_pending(struct writer *w, uint32_t block)
{
	struct pending *p = pending_find(w, block);

	if (p)
		pending_unlink(w, p);
}

bool writer_has_pending_below(const struct writer *w, uint64_t end)
{
	for (unsigned i = 0; i < PENDING_BUCKETS; i++)
		for (const struct pending *p = w->pending[i]; p; p = p->next)
			if (!p->published && (uint64_t)p->slot * VHD_SECTOR < end)
				return true;
	return false;
}

static struct pending *pending_new(struct writer *w, uint32_t block, uint32_t slot)
{
	struct pending *p = w->pending_free;

	if (p)
		w->pending_free = p->next;
	else
		p = malloc(sizeof(*p));
	if (!p)
		return NULL;
	*p = (struct pending){.block = block, .slot = slot};
	if (w->layer->has_below) {
		p->bitmap = bitmap_new(block, w->layer->layer->block_size / VHD_SECTOR);
		if (!p->bitmap) {
			free(p);
			return NULL;
		}
	}
	p->next = *pending_bucket(w, block);
	*pending_bucket(w, block) = p;
	return p;
}

/* The block was in the leaf when the part chose it, and has moved down since: a leaf being merged gets no new blocks. */
static bool is_withdrawn(const struct part *p)
{
	return !p->queue->target && p->stack->write_through && p->layer == p->stack->layer[0];
}

int part_take_slot(struct part *p)
{
	struct image *image = p->queue->image;
	struct writer *w = p->layer->writer;
	bool own_pages = false;
	int rc = 0;

	pthread_mutex_lock(&image->lock);
	if (atomic_load_explicit(&layer_tables(p->layer)->bat[p->block], memory_order_relaxed) != VHD_BAT_UNALLOCATED ||
	    is_withdrawn(p)) {
		rc = 2;
	} else if ((p->pending = pending_find(w, p->block))) {
		p->pending->writers++;
		p->slot = p->pending->slot;
	} else if (atomic_load(&image->broken)) {
		rc = -EROFS;
	} else if ((p->slot = slots_take(image, w, &own_pages)) == VHD_BAT_UNALLOCATED) {
		part_pause(p);
		p->io.done = part_restart;
		p->next = NULL;
		*w->slot_waiters_tail = p;
		w->slot_waiters_tail = &p->next;
		worker_wake(image);
		rc = 1;
	} else {
		p->pending = pending_new(w, p->block, p->slot);
		if (p->pending) {
			p->pending->writers = 1;
			p->pending->own_pages = own_pages;
		} else {
			slots_give_back(image, w, p->slot);
			rc = -ENOMEM;
		}
	}
	pthread_mutex_unlock(&image->lock);
	return rc;
}

static void set_part_bits(struct image *image, const struct part *p, struct bitmap *bitmap)
{
	uint64_t into = p->offset & (p->layer->layer->block_size - 1);

	if (bitmap_set(bitmap, (uint32_t)(into / VHD_SECTOR), (uint32_t)(p->length / VHD_SECTOR)))
		writer_bitmap_dirty(image, p->layer->writer, bitmap);
}

/* The block may have been given back and even come anew since the part began: then its sectors are not there. */
static struct bitmap *part_bitmap(const struct part *p)
{
	const struct tables *t = layer_tables(p->layer);

	if (atomic_load_explicit(&t->bat[p->block], memory_order_relaxed) != p->slot)
		return NULL;
	return atomic_load_explicit(&t->bitmaps[p->block], memory_order_relaxed);
}

void part_publish(struct part *p, int result)
{
	struct image *image = p->queue->image;
	struct writer *w = p->layer->writer;
	struct pending *pending = p->pending;
	const struct tables *t;
	struct bitmap *bitmap;

	pthread_mutex_lock(&image->lock);
	t = layer_tables(p->layer);
	if (result == 0 && !pending->published && !p->layer->has_below && !p->carries_bitmap)
		result = slots_owe_bitmap(w, p->slot, pending->own_pages);
	if (result == 0 && !pending->published) {
		if (p->layer->has_below) {
			bitmap = pending->bitmap;
			pending->bitmap = NULL;
			set_part_bits(image, p, bitmap);
			atomic_store_explicit(&t->bitmaps[p->block], bitmap, memory_order_release);
			block_set_state(t, p->block, BLOCK_PARTIAL);
		} else {
			block_set_state(t, p->block, BLOCK_FULL);
		}
		writer_set_entry(image, w, p->block, p->slot);
		pending->published = true;
	} else if (result == 0 && (bitmap = part_bitmap(p))) {
		set_part_bits(image, p, bitmap);
	}
	if (--pending->writers == 0) {
		pending_unlink(w, pending);
		if (!pending->published)
			slots_give_back(image, w, p->slot);
		free(pending->bitmap);
		pending->next = w->pending_free;
		w->pending_free = pending;
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
		bitmap = part_bitmap(p);
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
	const struct tables *t;
	const struct layer *f;
	struct block_view v;
	uint64_t into;
	int rc;

	part_choose_target(p);
	t = layer_tables(p->layer);
	if (!t) {
		part_transfer(p, RING_WRITE, p->layer, p->offset, plain_done);
		return true;
	}
	f = p->layer->layer;
	into = p->offset & (f->block_size - 1);
	v = block_look(t, p->block);
	if (v.slot == VHD_BAT_UNALLOCATED) {
		rc = part_take_slot(p);
		if (rc == 0 && into == 0 && !p->layer->has_below && p->pending->own_pages)
			part_write_with_bitmap(p, new_block_done);
		else if (rc == 0)
			part_transfer(p, RING_WRITE, p->layer, slot_payload(f, p->slot) + into, new_block_done);
		else if (rc < 0)
			part_end(p, rc);
		return rc != 2;
	}
	if (v.claimed && !p->queue->target)
		return part_wait_for_claim(p);
	p->slot = v.slot;
	if (v.state == BLOCK_UNKNOWN)
		part_load_bitmap(p, p->layer, p->block, v.slot, write_range);
	else
		part_transfer(p, RING_WRITE, p->layer, slot_payload(f, v.slot) + into,
		              v.state == BLOCK_FULL || bits_are_set(v.bitmap, into, p->length) ? plain_done : new_bits_done);
	return true;
}

void write_range(struct image_queue *q, struct blk_req *req, uint64_t offset, uint64_t length)
{
	range_split(q, req, offset, length, write_in_block);
}
