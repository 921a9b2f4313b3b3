/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/image.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/checked.h"
#include "vhd/gaps.h"
#include "vhd/queue.h"

static void image_blk_info(const struct blk *blk, struct blk_info *ret)
{
	const struct image *image = (const struct image *)blk;
	const struct layer *leaf;

	pthread_mutex_lock(&((struct image *)image)->lock);
	leaf = image_leaf(image);
	*ret = (struct blk_info){
		.size = atomic_load(&image->size),
		.request_align = image->request_align,
		.memory_align = image->memory_align,
		.discard_granularity = leaf->bat ? leaf->block_size : 4096,
		.read_only = !image->writable,
		.direct = image->direct,
	};
	pthread_mutex_unlock(&((struct image *)image)->lock);
}

static bool extents_join(const struct blk_extent *a, const struct blk_extent *b)
{
	if (a->kind != b->kind)
		return false;
	return a->kind == BLK_EXTENT_ZERO || (a->layer == b->layer && a->file_offset + a->length == b->file_offset);
}

static void image_blk_unmap(struct blk *blk)
{
	struct image *image = (struct image *)blk;

	pthread_mutex_lock(&image->lock);
	image->maps--;
	worker_wake(image);
	pthread_mutex_unlock(&image->lock);
}

static int image_blk_map(struct blk *blk, uint64_t offset, uint64_t length, struct blk_extent *ret, unsigned max,
                         struct err *err)
{
	struct image *image = (struct image *)blk;
	uint64_t end;
	unsigned n = 0;
	bool closed;

	if (length == 0 || max == 0 || !range_inside(offset, length, atomic_load(&image->size)))
		return err_set(err, -EINVAL, "a map beyond the end of the disk was asked for");
	end = offset + length;
	pthread_mutex_lock(&image->lock);
	closed = image_is_closed_to_caller(image);
	image->maps += !closed; /* holds the epoch, and with it every slot that is looked up below */
	pthread_mutex_unlock(&image->lock);
	if (closed)
		return err_set(err, -EBUSY, "the disk is being merged or shrunk, and cannot be used meanwhile");
	while (offset < end) {
		struct map_extent e;
		struct blk_extent x;

		image_map(image, offset, end - offset, &e);
		if (e.kind == MAP_NEED_BITMAP) {
			int rc = image_load_bitmap(image, e.layer, e.block, e.slot, err);

			if (rc) {
				image_blk_unmap(blk);
				return rc;
			}
			continue;
		}
		x = (struct blk_extent){.offset = offset, .length = e.length, .kind = BLK_EXTENT_ZERO};
		if (e.kind == MAP_DATA) {
			x.kind = BLK_EXTENT_DATA;
			x.layer = e.depth;
			x.fd = atomic_load(&e.layer->file)->store->file.fd;
			x.file_offset = e.file_offset;
		}
		if (n > 0 && extents_join(&ret[n - 1], &x))
			ret[n - 1].length += x.length;
		else if (n < max)
			ret[n++] = x;
		else
			break;
		offset += e.length;
	}
	return (int)n;
}

static void image_free(struct image *image)
{
	while (image->writers) {
		struct writer *w = image->writers;

		writer_unlink(image, w);
		writer_free(w);
	}
	while (image->bitmaps_retired) {
		struct bitmap *b = image->bitmaps_retired;

		image->bitmaps_retired = b->next;
		free(b);
	}
	image_stack_done(image);
	if (image->zeros)
		munmap(image->zeros, IMAGE_ZEROS);
	pthread_mutex_destroy(&image->lock);
	pthread_cond_destroy(&image->worker_wake);
	pthread_cond_destroy(&image->worker_done);
	free(image);
}

int image_close(struct image *image, struct err *err)
{
	int rc = worker_stop(image);

	if (rc)
		err_set(err, rc, "%s: what was written last may be lost: %s", image_leaf(image)->path, strerror(-rc));
	image_free(image);
	return rc;
}

static int image_blk_close(struct blk *blk, struct err *err)
{
	return image_close((struct image *)blk, err);
}

static const struct blk_ops image_blk_ops = {
	.info = image_blk_info,
	.queue_new = image_queue_new,
	.map = image_blk_map,
	.unmap = image_blk_unmap,
	.close = image_blk_close,
};

/* Takes the layers over, also on failure. */
static int image_init_memory(struct image *image, struct chain *chain)
{
	struct stack *stack = stack_new(chain->count);
	int rc = stack ? 0 : -ENOMEM;

	for (unsigned i = 0; i < chain->count; i++) {
		if (rc)
			layer_free(chain->layers[i]);
		else
			rc = image_layer_new(image, chain->layers[i], i + 1 < chain->count, &stack->layer[i]);
	}
	free(chain->layers);
	*chain = (struct chain){0};
	atomic_init(&image->stack, stack);
	if (rc == 0)
		rc = stack_remember_parents(stack);
	if (rc)
		return rc;
	image->zeros = mmap(NULL, IMAGE_ZEROS, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (image->zeros == MAP_FAILED) {
		image->zeros = NULL;
		return -ENOMEM;
	}
	return 0;
}

/* The strictest alignment that any file of the chain asks for. */
static void image_init_align(struct image *image)
{
	image->request_align = VHD_SECTOR;
	image->memory_align = 1;
	for (unsigned i = 0; i < image_stack(image)->count; i++) {
		const struct store *store = image_stack(image)->layer[i]->layer->store;

		image->direct |= store->direct;
		if (store->offset_align > image->request_align)
			image->request_align = store->offset_align;
		if (store->memory_align > image->memory_align)
			image->memory_align = store->memory_align;
	}
}

int image_open_take(struct chain *chain, bool writable, bool salvage, struct image **ret, struct err *err)
{
	struct image *image = calloc(1, sizeof(*image));
	struct writer *writer;
	pthread_condattr_t attr;
	int rc;

	if (!image) {
		chain_done(chain);
		return err_set(err, -ENOMEM, "no memory to open a disk");
	}
	image->blk.ops = &image_blk_ops;
	image->writable = writable;
	image->salvage = salvage;
	pthread_mutex_init(&image->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&image->worker_wake, &attr);
	pthread_cond_init(&image->worker_done, &attr);
	pthread_condattr_destroy(&attr);
	image->flush_waiters_tail = &image->flush_waiters;
	image->retired_tail = &image->retired;
	rc = image_init_memory(image, chain);
	if (rc) {
		image_free(image);
		return err_set(err, rc, "no memory to open a disk");
	}
	atomic_init(&image->size, image_leaf(image)->size);
	image_init_align(image);
	if (writable)
		rc = writer_new(image_stack(image)->layer[0], &writer, err);
	if (rc == 0 && writable)
		writer_link(image, writer);
	if (rc == 0 && writable)
		rc = writer_settle_first(image, writer, err);
	if (rc == 0 && writable)
		rc = worker_start(image, err);
	if (rc) {
		image_free(image);
		return rc;
	}
	*ret = image;
	return 0;
}
