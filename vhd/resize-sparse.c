/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Dynamic and differencing disks. The size is in the footer's copy at offset 0, one sector, which counts while no footer
 * is at the end. A table larger than the size needs is valid: so it grows before the size does, and loses entries after.
 */
#include "vhd/resize.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "vhd/gaps.h"
#include "vhd/move-block.h"
#include "vhd/queue.h"

static uint32_t blocks_of(const struct layer *layer, uint64_t size)
{
	return (uint32_t)((size + layer->block_size - 1) >> layer->block_shift);
}

static bool is_allocated(const struct resize *r, uint32_t block)
{
	const struct tables *t = layer_tables(r->l);

	return block < t->count && atomic_load(&t->bat[block]) != VHD_BAT_UNALLOCATED;
}

/* A BAT names sectors below 2 TiB: room for all blocks that the disk could get. */
static int reach_check(const struct resize *r)
{
	const struct layer *layer = r->layer;
	uint64_t stride = round_up((uint64_t)layer->bitmap_bytes + layer->block_size, PAYLOAD_ALIGN);
	uint32_t count = blocks_of(layer, r->to);
	uint64_t last = round_up(layer->metadata_end + (uint64_t)count * 5, PAYLOAD_ALIGN) + (count - 1) * stride;

	if (last / VHD_SECTOR < VHD_BAT_UNALLOCATED)
		return 0;
	return err_set(r->err, -EINVAL, "%s: %" PRIu64 " bytes in blocks of %" PRIu32 " bytes need a file of %" PRIu64
	               " GiB, but a BAT reaches only 2048 GiB: convert it to a disk with larger blocks", layer->path, r->to,
	               layer->block_size, (last + stride) >> 30);
}

struct memory_call {
	struct resize *resize;
	uint32_t count;    /* blocks */
	uint32_t rewrite;  /* entries from the old count to here are on disk, and may be anything */
};

/* Worker thread: it reads the layer's table between its other work. */
static int grow_memory(void *arg)
{
	struct memory_call *c = arg;
	struct resize *r = c->resize;
	struct writer *w = r->writer;
	size_t old_pages = r->layer->block_count / BAT_PAGE_ENTRIES + 1, pages = c->count / BAT_PAGE_ENTRIES + 1;
	uint32_t first = blocks_of(r->layer, r->from);
	uint8_t *dirty;
	int rc = 0;

	pthread_mutex_lock(&r->image->lock);
	if (pages > old_pages) {
		dirty = realloc(w->bat_dirty, pages);
		if (dirty) {
			memset(dirty + old_pages, 0, pages - old_pages);
			w->bat_dirty = dirty;
		} else {
			rc = -ENOMEM;
		}
	}
	if (rc == 0 && layer_tables(r->l)->count < c->count)
		rc = image_layer_grow(r->image, r->l, c->count);
	if (rc == 0 && r->layer->block_count < c->count)
		r->layer->block_count = c->count;
	if (rc == 0)
		writer_entries_dirty(r->image, w, first, c->rewrite);
	pthread_mutex_unlock(&r->image->lock);
	return rc;
}

/* Its memory of who holds which block is as long as the table was. */
static int renew_stack(struct resize *r)
{
	struct stack *old = image_stack(r->image), *stack;

	if (!old->first_parent)
		return 0;
	stack = stack_new(old->count);
	if (!stack)
		return -ENOMEM;
	memcpy(stack->layer, old->layer, old->count * sizeof(*stack->layer));
	stack->write_through = old->write_through;
	if (stack_remember_parents(stack)) {
		stack_free(stack);
		return -ENOMEM;
	}
	pthread_mutex_lock(&r->image->lock);
	image_publish_stack(r->image, stack);
	pthread_mutex_unlock(&r->image->lock);
	return 0;
}

/*
 * [from, to) of the layer reads as zeros: what an allocated block holds there, and what lies below it. Such writes
 * go the way of all others, but nobody else's reach beyond the disk's end.
 */
static int zero_beyond(struct resize *r, uint64_t from, uint64_t to)
{
	const struct stack *stack = image_stack(r->image);
	unsigned shift = r->layer->block_shift;
	struct blk_queue *queue;
	int rc = blk_queue_new(&r->image->blk, NULL, &queue, r->err);

	if (rc)
		return rc;
	((struct image_queue *)queue)->target = r->l;
	for (uint64_t at = from, end; rc == 0 && at < to; at = end) {
		uint32_t block = (uint32_t)(at >> shift);

		end = ((uint64_t)block + 1) << shift;
		if (end > to)
			end = to;
		if (is_allocated(r, block) || stack_holds_below(stack, r->l, block))
			rc = blk_write_zeroes(queue, at, end - at);
		if (rc == 0)
			rc = job_step(r->job, end - at);
	}
	blk_queue_free(queue);
	return rc;
}

struct size_call {
	struct resize *resize;
	uint64_t size;
	enum resize_mark mark;
};

/* Worker thread. */
static int switch_size(void *arg)
{
	struct size_call *c = arg;
	struct resize *r = c->resize;
	struct footer footer = resize_footer(r, c->size, c->mark);
	int rc = slots_cut(r->image, r->writer);

	return rc ? rc : resize_put_footer(r, &footer, 0, STORE_BARRIER_SIZE);
}

/* Blocks from `count` on are given back. */
static int drop_from(struct resize *r, uint32_t count)
{
	const struct tables *t;
	int rc = 0;

	pthread_mutex_lock(&r->image->lock);
	t = layer_tables(r->l);
	for (uint32_t b = count; rc == 0 && b < t->count; b++)
		if (atomic_load_explicit(&t->bat[b], memory_order_relaxed) != VHD_BAT_UNALLOCATED)
			rc = writer_drop_block(r->image, r->writer, b);
	pthread_mutex_unlock(&r->image->lock);
	return rc;
}

static int grow(struct resize *r)
{
	struct memory_call memory = {.resize = r, .count = blocks_of(r->layer, r->to)};
	struct size_call size = {r, r->to, RESIZE_MARK_NONE};
	uint32_t had = r->layer->header.max_table_entries;
	int rc = resize_table(r, memory.count);

	if (rc)
		return rc;
	/* What lies in the table behind the entries that the disk had is nobody's, and unknown. */
	memory.rewrite = had < memory.count ? had : memory.count;
	rc = worker_call(r->image, grow_memory, &memory);
	if (rc == 0)
		rc = renew_stack(r);
	if (rc == 0)
		rc = zero_beyond(r, r->from, r->to);
	/* Zeros, entries and the header: all before the size that shows them. */
	if (rc == 0)
		rc = worker_flush(r->image);
	if (rc == 0)
		rc = job_step(r->job, 0);
	if (rc == 0)
		rc = worker_call(r->image, switch_size, &size);
	return rc ? resize_err(r, rc, "made larger") : 0;
}

int resize_sparse_grow(struct resize *r)
{
	int rc = reach_check(r);

	if (rc)
		return rc;
	job_total(r->job, r->to - r->from);
	rc = grow(r);
	if (rc) {
		/* The larger tables stay; blocks of zeros, made for the range that is not there now, go. */
		(void)drop_from(r, blocks_of(r->layer, r->from));
		return rc;
	}
	resize_publish(r, r->to);
	return 0;
}

/* Sectors of the block in which the disk will end that lie beyond that, and hold data. */
static int count_in_last(struct resize *r)
{
	const struct layer *layer = r->layer;
	uint32_t block = (uint32_t)(r->to >> layer->block_shift), into = (uint32_t)(r->to & (layer->block_size - 1));
	uint64_t block_end = ((uint64_t)block + 1) << layer->block_shift;
	uint32_t end = (uint32_t)((block_end < r->from ? block_end : r->from) - ((uint64_t)block << layer->block_shift));
	struct block_bits bits = {.bytes = NULL};
	uint8_t *buffer, sector[VHD_SECTOR] = {0};
	int rc = 0;

	if (into == 0 || !is_allocated(r, block))
		return 0;
	if (posix_memalign((void **)&buffer, 4096, (size_t)layer->block_size + layer->bitmap_bytes))
		return resize_err(r, -ENOMEM, "made smaller");
	bits.bytes = buffer + layer->block_size;
	rc = block_bits_get(r->image, r->l, block, &bits, r->err);
	if (rc == 0) {
		rc = block_read_piece(r->l, &bits, buffer, end - into, into);
		if (rc)
			block_err(r->l, block, bits.slot, "read", rc, r->err);
	}
	for (uint32_t at = 0; rc == 0 && at < end - into; at += VHD_SECTOR)
		if (memcmp(buffer + at, sector, sizeof(sector)))
			r->cut_bytes += VHD_SECTOR;
	free(buffer);
	return rc < 0 ? rc : 0;
}

/* What the layer holds beyond the new end; whole blocks as they are, whatever is in them. */
static int count_data(struct resize *r)
{
	uint32_t first = blocks_of(r->layer, r->to), count = blocks_of(r->layer, r->from);
	int rc;

	r->cut_bytes = 0;
	for (uint32_t b = first; b < count; b++) {
		uint64_t at = (uint64_t)b << r->layer->block_shift, rest = r->from - at;

		if (is_allocated(r, b))
			r->cut_bytes += rest < r->layer->block_size ? rest : r->layer->block_size;
	}
	rc = count_in_last(r);
	if (rc == 0 && r->cut_bytes > 0 && !r->force)
		return resize_would_lose(r);
	return rc;
}

/* Worker thread. The table ends where the disk needs it to, where that takes no more than the header. */
static int fit_table(void *arg)
{
	struct resize *r = arg;
	struct layer *layer = r->layer;
	struct header header = layer->header;
	struct header_disk now, before;
	int rc = 0;

	header.max_table_entries = blocks_of(layer, r->to);
	/* The batmap hangs on the table's end. */
	if (layer->batmap.length && round_up((uint64_t)header.max_table_entries * 4, VHD_SECTOR) !=
	                            round_up((uint64_t)layer->header.max_table_entries * 4, VHD_SECTOR))
		return 0;
	header_encode(&layer->header, &before);
	header_encode(&header, &now);
	rc = resize_write_sector(r->image, r->writer, &now, &before, layer->header_offset);
	if (rc)
		return rc;
	header.raw = now;
	pthread_mutex_lock(&r->image->lock);
	layer->header = header;
	layer->block_count = header.max_table_entries;
	pthread_mutex_unlock(&r->image->lock);
	return 0;
}

/* The disk has its new size, whatever happens here; an open of the image goes on where this stops. */
static int clear_beyond(struct resize *r)
{
	uint32_t last = (uint32_t)((r->to - 1) >> r->layer->block_shift);
	uint64_t block_end = ((uint64_t)last + 1) << r->layer->block_shift;
	struct size_call size = {r, r->to, RESIZE_MARK_NONE};
	int rc = drop_from(r, last + 1);

	if (rc == 0 && is_allocated(r, last))
		rc = zero_beyond(r, r->to, block_end);
	if (rc == 0)
		rc = worker_flush(r->image);
	if (rc == 0)
		rc = worker_call(r->image, fit_table, r);
	if (rc == 0)
		rc = worker_call(r->image, switch_size, &size);
	return rc ? err_set(r->err, rc, "%s: it has its new size, but what lay beyond that cannot be given back: %s",
	                    r->layer->path, strerror(-rc))
	          : 0;
}

int resize_sparse_shrink(struct resize *r)
{
	struct size_call size = {r, r->to, RESIZE_MARK_SHRINKING};
	int rc = count_data(r);

	/* A mistake must not disturb who is at work there. */
	if (rc)
		return rc;
	rc = job_step(r->job, 0);
	if (rc)
		return resize_err(r, rc, "made smaller");
	resize_withdraw(r);
	rc = count_data(r);
	if (rc == 0) {
		rc = worker_flush(r->image);
		if (rc == 0)
			rc = worker_call(r->image, switch_size, &size);
		if (rc)
			resize_err(r, rc, "made smaller");
	}
	if (rc) {
		resize_publish(r, r->from);
		return rc;
	}
	resize_publish(r, r->to);
	r->job = NULL; /* from here on there is no way back */
	return clear_beyond(r);
}
