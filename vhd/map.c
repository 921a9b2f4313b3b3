/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/image.h"

#include <stdlib.h>

static uint64_t min64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

struct block_view layer_block_view(const struct image_layer *l, uint32_t block)
{
	struct block_view v;

	do {
		/* Sequentially consistent, as is image_set_entry's store: see epoch_enter. */
		v.slot = atomic_load(&l->layer->bat[block]);
		v.state = atomic_load_explicit(&l->state[block], memory_order_acquire);
		v.bitmap = atomic_load_explicit(&l->bitmaps[block], memory_order_acquire);
	} while (atomic_load_explicit(&l->layer->bat[block], memory_order_acquire) != v.slot ||
	         (v.state == BLOCK_PARTIAL && !v.bitmap));
	return v;
}

/* Whether `layer` holds anything in [offset, offset + length). */
static bool layer_has(const struct layer *layer, uint64_t offset, uint64_t length)
{
	uint64_t end = min64(offset + length, layer->size);

	if (offset >= end)
		return false;
	if (!layer->bat)
		return true;
	for (uint64_t b = offset >> layer->block_shift; b <= (end - 1) >> layer->block_shift; b++)
		if (atomic_load_explicit(&layer->bat[b], memory_order_relaxed) != VHD_BAT_UNALLOCATED)
			return true;
	return false;
}

/* Parents never change while they are open, so that what was found once holds. */
static unsigned first_parent(struct image *image, uint32_t block)
{
	const struct layer *leaf = image_leaf(image);
	unsigned layer = atomic_load_explicit(&image->first_parent[block], memory_order_relaxed);

	if (layer)
		return layer;
	for (layer = 1; layer < image->layer_count; layer++)
		if (layer_has(image->layers[layer].layer, (uint64_t)block << leaf->block_shift, leaf->block_size))
			break;
	atomic_store_explicit(&image->first_parent[block], (uint16_t)layer, memory_order_relaxed);
	return layer;
}

bool image_parents_have(struct image *image, uint32_t block)
{
	return image->has_parent && first_parent(image, block) < image->layer_count;
}

static unsigned next_layer(struct image *image, unsigned layer, uint32_t block)
{
	return layer == 0 && image->has_parent ? first_parent(image, block) : layer + 1;
}

/* What a damaged file has lost at its end reads as zeros when salvaging. */
static void clip_to_file(const struct layer *layer, struct map_extent *ret)
{
	if (ret->file_offset >= layer->file_size)
		ret->kind = MAP_ZERO;
	else
		ret->length = min64(ret->length, layer->file_size - ret->file_offset);
}

void image_map(struct image *image, uint64_t offset, uint64_t length, struct map_extent *ret)
{
	unsigned layer = 0;

	while (layer < image->layer_count) {
		struct image_layer *l = &image->layers[layer];
		const struct layer *f = l->layer;
		uint64_t into;
		uint32_t block;
		struct block_view v;

		if (offset >= f->size) /* a parent shorter than its child reads zero from its end on */
			break;
		length = min64(length, f->size - offset);
		if (!f->bat) {
			*ret = (struct map_extent){.kind = MAP_DATA, .layer = layer, .file_offset = offset, .length = length};
			if (image->salvage)
				clip_to_file(f, ret);
			return;
		}

		block = (uint32_t)(offset >> f->block_shift);
		into = offset & (f->block_size - 1);
		length = min64(length, f->block_size - into);
		v = layer_block_view(l, block);
		if (v.slot == VHD_BAT_UNALLOCATED) {
			layer = next_layer(image, layer, block);
			continue;
		}
		*ret = (struct map_extent){
			.kind = MAP_DATA,
			.layer = layer,
			.block = block,
			.slot = v.slot,
			.file_offset = slot_payload(f, v.slot) + into,
			.length = length,
		};
		if (v.state == BLOCK_UNKNOWN) {
			ret->kind = MAP_NEED_BITMAP;
			return;
		}
		if (v.state == BLOCK_PARTIAL) {
			uint32_t first = (uint32_t)(into / VHD_SECTOR);
			uint32_t last = (uint32_t)((into + length - 1) / VHD_SECTOR);
			bool set;
			uint32_t run = bitmap_run(v.bitmap, first, last - first + 1, &set);

			length = min64(length, (uint64_t)(first + run) * VHD_SECTOR - into);
			if (!set) {
				layer = next_layer(image, layer, block);
				continue;
			}
			ret->length = length;
		}
		if (image->salvage)
			clip_to_file(f, ret);
		return;
	}
	*ret = (struct map_extent){.kind = MAP_ZERO, .length = length};
}

void image_install_bitmap(struct image *image, unsigned layer, uint32_t slot, struct bitmap *bitmap)
{
	struct image_layer *l = &image->layers[layer];
	uint32_t block = bitmap->block;

	pthread_mutex_lock(&image->lock);
	if (atomic_load(&l->layer->bat[block]) == slot && atomic_load(&l->state[block]) == BLOCK_UNKNOWN) {
		if (bitmap_is_full(bitmap)) {
			atomic_store_explicit(&l->state[block], BLOCK_FULL, memory_order_release);
		} else {
			atomic_store_explicit(&l->bitmaps[block], bitmap, memory_order_release);
			atomic_store_explicit(&l->state[block], BLOCK_PARTIAL, memory_order_release);
			bitmap = NULL;
		}
	}
	pthread_mutex_unlock(&image->lock);
	free(bitmap);
}
