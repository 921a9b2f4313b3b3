/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/image.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static uint64_t min64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

struct block_view block_look(const struct tables *t, uint32_t block)
{
	struct block_view v;
	uint8_t state;

	do {
		/* Sequentially consistent, as is writer_set_entry's store: see epoch_enter. */
		v.slot = atomic_load(&t->bat[block]);
		/* As is block_claim's: who does not see the claim is waited for. */
		state = atomic_load(&t->state[block]);
		v.bitmap = atomic_load_explicit(&t->bitmaps[block], memory_order_acquire);
		v.claimed = state & BLOCK_CLAIMED;
		v.state = (enum block_state)(state & ~BLOCK_CLAIMED);
	} while (atomic_load_explicit(&t->bat[block], memory_order_acquire) != v.slot ||
	         (v.state == BLOCK_PARTIAL && !v.bitmap));
	return v;
}

/* Whether `layer` holds anything in [offset, offset + length). */
static bool layer_has(const struct image_layer *l, uint64_t offset, uint64_t length)
{
	const struct tables *t = layer_tables(l);
	uint64_t end = min64(offset + length, atomic_load_explicit(&l->size, memory_order_relaxed));
	unsigned shift = l->layer->block_shift;

	if (offset >= end)
		return false;
	if (!t)
		return true;
	for (uint64_t b = offset >> shift; b <= (end - 1) >> shift; b++)
		if (atomic_load_explicit(&t->bat[b], memory_order_relaxed) != VHD_BAT_UNALLOCATED)
			return true;
	return false;
}

/* A layer that ends inside the range counts as holding it: from its end on it hides what is below. */
/*
 * The first layer from `at` on that has to be looked at for the range; `end`: none, it reads as zeros. What lies beyond
 * the end of a layer is zeros, whatever the layers below it hold; a layer that ends inside the range counts as a holder.
 */
static unsigned next_holder(const struct stack *stack, unsigned at, unsigned end, uint64_t offset, uint64_t length)
{
	uint64_t stop = min64(offset + length, atomic_load_explicit(&stack->layer[0]->size, memory_order_relaxed));

	for (; at < end; at++) {
		uint64_t size = atomic_load_explicit(&stack->layer[at]->size, memory_order_relaxed);

		if (offset >= size)
			return end;
		if (size < stop || layer_has(stack->layer[at], offset, length))
			return at;
	}
	return end;
}

/* The first layer below the leaf that holds anything of the leaf's block. What was found once holds (struct stack). */
static unsigned first_parent(const struct stack *stack, uint32_t block)
{
	const struct layer *leaf = stack->layer[0]->layer;
	unsigned at = 0;

	if (stack->first_parent)
		at = atomic_load_explicit(&stack->first_parent[block], memory_order_relaxed);
	if (at)
		return at;
	at = next_holder(stack, 1, stack->count, (uint64_t)block << leaf->block_shift, leaf->block_size);
	if (stack->first_parent)
		atomic_store_explicit(&stack->first_parent[block], (uint16_t)at, memory_order_relaxed);
	return at;
}

bool stack_holds_below(const struct stack *stack, const struct image_layer *l, uint32_t block)
{
	uint64_t offset = (uint64_t)block << l->layer->block_shift;
	unsigned at = 0;

	if (!l->has_below)
		return false;
	if (stack->layer[0] == l)
		return first_parent(stack, block) < stack->count;
	while (at < stack->count && stack->layer[at] != l)
		at++;
	return next_holder(stack, at + 1, stack->count, offset, l->layer->block_size) < stack->count;
}

static unsigned next_layer(const struct stack *stack, unsigned at, uint32_t block)
{
	return at == 0 && stack->count > 1 ? first_parent(stack, block) : at + 1;
}

/* What a damaged file has lost at its end reads as zeros when salvaging. */
static void clip_to_file(const struct layer *layer, struct map_extent *ret)
{
	if (ret->file_offset >= layer->file_size)
		ret->kind = MAP_ZERO;
	else
		ret->length = min64(ret->length, layer->file_size - ret->file_offset);
}

void stack_map(const struct stack *stack, unsigned first, unsigned end, uint64_t offset, uint64_t length, bool salvage,
               struct map_extent *ret)
{
	unsigned at = first;

	while (at < end) {
		struct image_layer *l = stack->layer[at];
		const struct layer *f = l->layer;
		const struct tables *t = layer_tables(l);
		uint64_t size = atomic_load_explicit(&l->size, memory_order_relaxed), into;
		uint32_t block;
		struct block_view v;

		if (offset >= size) /* a parent shorter than its child reads zero from its end on */
			break;
		length = min64(length, size - offset);
		if (!t) {
			*ret = (struct map_extent){.kind = MAP_DATA, .layer = l, .depth = at, .file_offset = offset, .length = length};
			if (salvage)
				clip_to_file(f, ret);
			return;
		}

		block = (uint32_t)(offset >> f->block_shift);
		into = offset & (f->block_size - 1);
		length = min64(length, f->block_size - into);
		v = block_look(t, block);
		if (v.slot == VHD_BAT_UNALLOCATED) {
			at = next_layer(stack, at, block);
			continue;
		}
		*ret = (struct map_extent){
			.kind = MAP_DATA,
			.layer = l,
			.depth = at,
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
			uint32_t from = (uint32_t)(into / VHD_SECTOR);
			uint32_t last = (uint32_t)((into + length - 1) / VHD_SECTOR);
			bool set;
			uint32_t run = bitmap_run(v.bitmap, from, last - from + 1, &set);

			length = min64(length, (uint64_t)(from + run) * VHD_SECTOR - into);
			if (!set) {
				at = next_layer(stack, at, block);
				continue;
			}
			ret->length = length;
		}
		if (salvage)
			clip_to_file(f, ret);
		return;
	}
	*ret = (struct map_extent){.kind = MAP_ZERO, .length = length};
}

void image_map(struct image *image, uint64_t offset, uint64_t length, struct map_extent *ret)
{
	const struct stack *stack = image_stack(image);

	stack_map(stack, 0, stack->count, offset, length, image->salvage, ret);
}

void image_install_bitmap(struct image *image, struct image_layer *l, uint32_t slot, struct bitmap *bitmap)
{
	uint32_t block = bitmap->block;
	const struct tables *t;

	pthread_mutex_lock(&image->lock);
	t = layer_tables(l);
	if (block < t->count && atomic_load(&t->bat[block]) == slot &&
	    (atomic_load(&t->state[block]) & ~BLOCK_CLAIMED) == BLOCK_UNKNOWN) {
		if (bitmap_is_full(bitmap)) {
			block_set_state(t, block, BLOCK_FULL);
		} else {
			atomic_store_explicit(&t->bitmaps[block], bitmap, memory_order_release);
			block_set_state(t, block, BLOCK_PARTIAL);
			bitmap = NULL;
		}
	}
	pthread_mutex_unlock(&image->lock);
	free(bitmap);
}

int image_load_bitmap(struct image *image, struct image_layer *l, uint32_t block, uint32_t slot, struct err *err)
{
	const struct layer *layer = l->layer;
	struct store *store = atomic_load(&l->file)->store;
	struct bitmap *bitmap = bitmap_new(block, layer->block_size / VHD_SECTOR);
	uint8_t *bytes = malloc(layer->bitmap_bytes);
	int rc = -ENOMEM;

	if (bitmap && bytes)
		rc = store->ops->read(store, bytes, layer->bitmap_bytes, (uint64_t)slot * VHD_SECTOR);
	if (rc) {
		free(bitmap);
		err_set(err, rc, "%s: the sector bitmap of block %u, at offset %llu, cannot be read: %s", layer->path, block,
		        (unsigned long long)slot * VHD_SECTOR, strerror(-rc));
	} else {
		bitmap_decode(bitmap, bytes);
		image_install_bitmap(image, l, slot, bitmap);
	}
	free(bytes);
	return rc;
}
