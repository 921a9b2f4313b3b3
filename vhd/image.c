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
	const struct layer *leaf = image_leaf(image);

	*ret = (struct blk_info){
		.size = image->size,
		.request_align = image->request_align,
		.memory_align = image->memory_align,
		.discard_granularity = image->dynamic ? leaf->block_size : 4096,
		.read_only = !image->writable,
		.direct = image->direct,
	};
}

/* blk_map may be called from any thread: it reads bitmaps by itself, without a queue. */
static int load_bitmap(struct image *image, const struct map_extent *e, struct err *err)
{
	const struct layer *layer = image->layers[e->layer].layer;
	struct bitmap *bitmap = bitmap_new(e->block, layer->block_size / VHD_SECTOR);
	uint8_t *bytes = malloc(layer->bitmap_bytes);
	int rc = -ENOMEM;

	if (bitmap && bytes)
		rc = layer->store->ops->read(layer->store, bytes, layer->bitmap_bytes, (uint64_t)e->slot * VHD_SECTOR);
	if (rc) {
		free(bitmap);
		err_set(err, rc, "%s: the sector bitmap of block %u, at offset %llu, cannot be read: %s", layer->path, e->block,
		        (unsigned long long)e->slot * VHD_SECTOR, strerror(-rc));
	} else {
		bitmap_decode(bitmap, bytes);
		image_install_bitmap(image, e->layer, e->slot, bitmap);
	}
	free(bytes);
	return rc;
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

	if (length == 0 || max == 0 || !range_inside(offset, length, image->size))
		return err_set(err, -EINVAL, "%s: a map beyond the end of the disk was asked for", image_leaf(image)->path);
	end = offset + length;
	pthread_mutex_lock(&image->lock);
	image->maps++; /* holds the epoch, and with it every slot that is looked up below */
	pthread_mutex_unlock(&image->lock);
	while (offset < end) {
		struct map_extent e;
		struct blk_extent x;

		image_map(image, offset, end - offset, &e);
		if (e.kind == MAP_NEED_BITMAP) {
			int rc = load_bitmap(image, &e, err);

			if (rc) {
				image_blk_unmap(blk);
				return rc;
			}
			continue;
		}
		x = (struct blk_extent){.offset = offset, .length = e.length, .kind = BLK_EXTENT_ZERO};
		if (e.kind == MAP_DATA) {
			x.kind = BLK_EXTENT_DATA;
			x.layer = e.layer;
			x.fd = image->layers[e.layer].layer->store->file.fd;
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
	while (image->bitmaps_dirty) { /* after a failed commit; those that live are in the tables too */
		struct bitmap *b = image->bitmaps_dirty;

		image->bitmaps_dirty = b->next;
		if (b->dead)
			free(b);
	}
	for (unsigned i = 0; image->layers && i < image->layer_count; i++) {
		struct image_layer *l = &image->layers[i];

		for (uint32_t b = 0; l->bitmaps && b < l->layer->block_count; b++)
			if (atomic_load_explicit(&l->state[b], memory_order_relaxed) == BLOCK_PARTIAL)
				free(atomic_load_explicit(&l->bitmaps[b], memory_order_relaxed));
		free(l->state);
		free(l->bitmaps);
	}
	while (image->bitmaps_retired) {
		struct bitmap *b = image->bitmaps_retired;

		image->bitmaps_retired = b->next;
		free(b);
	}
	while (image->pending_free) {
		struct pending *p = image->pending_free;

		image->pending_free = p->next;
		free(p);
	}
	slots_done(&image->slots);
	free(image->layers);
	free(image->first_parent);
	free(image->bat_dirty);
	free(image->batmap);
	free(image->full_bitmap);
	if (image->zeros)
		munmap(image->zeros, IMAGE_ZEROS);
	chain_done(&image->chain);
	pthread_mutex_destroy(&image->lock);
	pthread_cond_destroy(&image->worker_wake);
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

static int image_layer_init(struct image_layer *l, struct layer *layer)
{
	l->layer = layer;
	if (!layer->bat)
		return 0;
	/* calloc: pages that are never touched take no memory, which is most of them. */
	l->state = calloc(layer->block_count, sizeof(*l->state));
	l->bitmaps = calloc(layer->block_count, sizeof(*l->bitmaps));
	return l->state && l->bitmaps ? 0 : -ENOMEM;
}

static int init_full_bitmap(struct image *image)
{
	const struct layer *leaf = image_leaf(image);
	uint32_t sectors = leaf->block_size / VHD_SECTOR;
	uint8_t *bits;

	image->full_bitmap_bytes = (uint32_t)round_up(leaf->bitmap_bytes, PAYLOAD_ALIGN);
	if (posix_memalign((void **)&image->full_bitmap, PAYLOAD_ALIGN, image->full_bitmap_bytes))
		return -ENOMEM;
	memset(image->full_bitmap, 0, image->full_bitmap_bytes);
	bits = image->full_bitmap + image->full_bitmap_bytes - leaf->bitmap_bytes;
	memset(bits, 0xff, sectors / 8);
	if (sectors % 8)
		bits[sectors / 8] = (uint8_t)(0xff00 >> (sectors % 8));
	return 0;
}

static int image_init_memory(struct image *image)
{
	const struct layer *leaf;

	image->layer_count = image->chain.count;
	image->layers = calloc(image->layer_count, sizeof(*image->layers));
	if (!image->layers)
		return -ENOMEM;
	for (unsigned i = 0; i < image->layer_count; i++)
		image->layers[i].layer = image->chain.layers[i];
	for (unsigned i = 0; i < image->layer_count; i++)
		if (image_layer_init(&image->layers[i], image->chain.layers[i]))
			return -ENOMEM;
	leaf = image_leaf(image);
	image->has_parent = image->layer_count > 1;
	image->dynamic = leaf->bat;
	if (image->dynamic) {
		image->bat_dirty = calloc(leaf->block_count / BAT_PAGE_ENTRIES + 1, 1);
		if (!image->bat_dirty || init_full_bitmap(image))
			return -ENOMEM;
	}
	if (image->has_parent) {
		image->first_parent = calloc(leaf->block_count, sizeof(*image->first_parent));
		if (!image->first_parent)
			return -ENOMEM;
	}
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
	for (unsigned i = 0; i < image->layer_count; i++) {
		const struct store *store = image->layers[i].layer->store;

		image->direct |= store->direct;
		if (store->offset_align > image->request_align)
			image->request_align = store->offset_align;
		if (store->memory_align > image->memory_align)
			image->memory_align = store->memory_align;
	}
}

static int load_batmap(struct image *image, struct err *err)
{
	const struct layer *leaf = image_leaf(image);
	int rc;

	if (!leaf->batmap_bits.length)
		return 0;
	rc = batmap_load(leaf->store, leaf->batmap.offset, leaf->batmap_bits.offset, leaf->batmap_bits.length,
	                 &image->batmap);
	return rc ? err_set(err, rc, "%s: the batmap at offset %llu cannot be read: %s", leaf->path,
	                    (unsigned long long)leaf->batmap.offset, strerror(-rc))
	          : 0;
}

/*
 * A dynamic disk that lost its footer may end in a block: what a guest wrote there as its last sector would be the
 * file's footer after a crash. Such a file gets its footer before anything else.
 */
static int settle_first(struct image *image, struct err *err)
{
	const struct layer *leaf = image_leaf(image);
	int rc = 0;

	if (image->dynamic && leaf->footer_source != FOOTER_AT_END && leaf->file_size < leaf->data_end + VHD_SECTOR)
		rc = image_settle(image);
	return rc ? err_set(err, rc, "%s: the footer, which is missing at the end, cannot be written: %s", leaf->path,
	                    strerror(-rc))
	          : 0;
}

int image_open_take(struct chain *chain, bool writable, bool salvage, struct image **ret, struct err *err)
{
	struct image *image = calloc(1, sizeof(*image));
	pthread_condattr_t attr;
	int rc;

	if (!image) {
		chain_done(chain);
		return err_set(err, -ENOMEM, "no memory to open a disk");
	}
	image->chain = *chain;
	*chain = (struct chain){0};
	image->blk.ops = &image_blk_ops;
	image->writable = writable;
	image->salvage = salvage;
	pthread_mutex_init(&image->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&image->worker_wake, &attr);
	pthread_condattr_destroy(&attr);
	image->slot_waiters_tail = &image->slot_waiters;
	image->flush_waiters_tail = &image->flush_waiters;
	rc = image_init_memory(image);
	if (rc) {
		image_free(image);
		return err_set(err, rc, "no memory to open a disk");
	}
	image->size = image_leaf(image)->size;
	image_init_align(image);
	image->allocated = image_leaf(image)->allocated;
	if (image->dynamic)
		slots_init(image);
	if (writable)
		rc = settle_first(image, err);
	if (rc == 0 && writable)
		rc = load_batmap(image, err);
	if (rc == 0 && writable)
		rc = worker_start(image, err);
	if (rc) {
		image_free(image);
		return rc;
	}
	*ret = image;
	return 0;
}
