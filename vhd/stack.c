/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/image.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vhd/queue.h"

struct stack *stack_new(unsigned count)
{
	struct stack *stack = calloc(1, sizeof(*stack) + count * sizeof(*stack->layer));

	if (stack)
		stack->count = count;
	return stack;
}

void stack_free(struct stack *stack)
{
	if (!stack)
		return;
	free(stack->first_parent);
	free(stack);
}

int stack_remember_parents(struct stack *stack)
{
	const struct tables *tables = layer_tables(stack->layer[0]);

	if (stack->count == 1 || !tables)
		return 0;
	/* calloc, here and for tables: pages that are never touched take no memory, which is most of them. */
	stack->first_parent = calloc(tables->count, sizeof(*stack->first_parent));
	return stack->first_parent ? 0 : -ENOMEM;
}

static int file_new(struct image *image, struct store *store, struct image_file **ret)
{
	struct image_file *file = calloc(1, sizeof(*file));
	unsigned id = 0;

	if (!file)
		return -ENOMEM;
	pthread_mutex_lock(&image->lock);
	while (id < IMAGE_FILES && (image->file_ids[id / 64] >> (id % 64) & 1))
		id++;
	if (id < IMAGE_FILES)
		image->file_ids[id / 64] |= UINT64_C(1) << (id % 64);
	pthread_mutex_unlock(&image->lock);
	if (id == IMAGE_FILES) {
		free(file);
		return -EMFILE;
	}
	file->store = store;
	file->id = id;
	file->worker_slot = -1;
	*ret = file;
	return 0;
}

/* The worker thread, under the lock, or after it has ended. No queue knows the file any more. */
static void file_free(struct image *image, struct image_file *file)
{
	if (file->worker_slot >= 0 && image->worker_ring)
		ring_detach(image->worker_ring, file->worker_slot);
	image->file_ids[file->id / 64] &= ~(UINT64_C(1) << (file->id % 64));
	if (file->layer)
		layer_free(file->layer);
	else
		store_close(file->store);
	free(file);
}

static void tables_free(struct tables *tables)
{
	if (!tables)
		return;
	free(tables->state);
	free(tables->bitmaps);
	free(tables);
}

static struct tables *tables_new(_Atomic uint32_t *bat, uint32_t count)
{
	struct tables *tables = calloc(1, sizeof(*tables));

	if (!tables)
		return NULL;
	tables->count = count;
	tables->bat = bat;
	tables->state = calloc(count, sizeof(*tables->state));
	tables->bitmaps = calloc(count, sizeof(*tables->bitmaps));
	if (!tables->state || !tables->bitmaps) {
		tables_free(tables);
		return NULL;
	}
	return tables;
}

int image_layer_new(struct image *image, struct layer *layer, bool has_below, struct image_layer **ret)
{
	struct image_layer *l = calloc(1, sizeof(*l));
	struct tables *tables = NULL;
	struct image_file *file;
	int rc = l ? 0 : -ENOMEM;

	if (rc == 0 && layer->bat) {
		tables = tables_new(layer->bat, layer->block_count);
		rc = tables ? 0 : -ENOMEM;
	}
	if (rc == 0)
		rc = file_new(image, layer->store, &file);
	if (rc) {
		tables_free(tables);
		free(l);
		layer_free(layer);
		return rc;
	}
	l->layer = layer;
	l->has_below = has_below;
	atomic_init(&l->size, layer->size);
	atomic_init(&l->file, file);
	atomic_init(&l->tables, tables);
	*ret = l;
	return 0;
}

/* All but the file. */
static void layer_memory_free(struct image_layer *l)
{
	struct tables *tables = atomic_load(&l->tables);

	for (uint32_t b = 0; tables && b < tables->count; b++)
		if ((atomic_load_explicit(&tables->state[b], memory_order_relaxed) & ~BLOCK_CLAIMED) == BLOCK_PARTIAL)
			free(atomic_load_explicit(&tables->bitmaps[b], memory_order_relaxed));
	tables_free(tables);
	free(l);
}

void image_layer_free(struct image *image, struct image_layer *l)
{
	struct image_file *file = atomic_load(&l->file);

	file->layer = l->layer;
	file_free(image, file);
	layer_memory_free(l);
}

void image_retire(struct image *image, struct retired *retired, void (*release)(struct image *, struct retired *))
{
	retired->next = NULL;
	retired->epoch = atomic_load_explicit(&image->epoch, memory_order_relaxed);
	retired->release = release;
	*image->retired_tail = retired;
	image->retired_tail = &retired->next;
	worker_wake(image);
}

static void release_stack(struct image *image, struct retired *retired)
{
	(void)image;
	stack_free((struct stack *)retired);
}

void image_publish_stack(struct image *image, struct stack *stack)
{
	struct stack *old = atomic_load(&image->stack);

	/* Sequentially consistent: see epoch_enter. */
	atomic_store(&image->stack, stack);
	if (old)
		image_retire(image, &old->retired, release_stack);
}

/* No I/O on the file is in flight any more, but rings know it still. */
static void release_file(struct image *image, struct retired *retired)
{
	struct image_file *file = (struct image_file *)retired;

	file->generation = atomic_load(&image->generation) + 1;
	file->next = image->files_leaving;
	image->files_leaving = file;
	/* Each queue lets go of it when it is next used. */
	atomic_store(&image->generation, file->generation);
}

static void release_layer(struct image *image, struct retired *retired)
{
	(void)image;
	layer_memory_free((struct image_layer *)retired);
}

void image_retire_layer(struct image *image, struct image_layer *l)
{
	struct image_file *file = atomic_load(&l->file);

	file->layer = l->layer;
	image_retire(image, &file->retired, release_file);
	image_retire(image, &l->retired, release_layer);
}

int image_layer_reopen_take(struct image *image, struct image_layer *l, struct store *store)
{
	struct image_file *file, *old = atomic_load(&l->file);
	int rc = file_new(image, store, &file);

	if (rc) {
		store_close(store);
		return rc;
	}
	pthread_mutex_lock(&image->lock);
	l->layer->store = store;
	atomic_store(&l->file, file);
	image_retire(image, &old->retired, release_file);
	pthread_mutex_unlock(&image->lock);
	return 0;
}

static void release_tables(struct image *image, struct retired *retired)
{
	struct tables *tables = (struct tables *)retired;

	(void)image;
	free(tables->bat);
	tables_free(tables);
}

int image_layer_grow(struct image *image, struct image_layer *l, uint32_t block_count)
{
	struct tables *old = atomic_load(&l->tables), *tables;
	_Atomic uint32_t *bat = malloc(block_count * sizeof(*bat));

	tables = bat ? tables_new(bat, block_count) : NULL;
	if (!tables) {
		free(bat);
		return -ENOMEM;
	}
	/* Nothing changes meanwhile: every change is made under the lock. */
	for (uint32_t b = 0; b < block_count; b++) {
		bool is_old = b < old->count;

		atomic_init(&bat[b], is_old ? atomic_load_explicit(&old->bat[b], memory_order_relaxed) : VHD_BAT_UNALLOCATED);
		if (!is_old || atomic_load_explicit(&old->bat[b], memory_order_relaxed) == VHD_BAT_UNALLOCATED)
			continue;
		atomic_init(&tables->state[b], atomic_load_explicit(&old->state[b], memory_order_relaxed));
		atomic_init(&tables->bitmaps[b], atomic_load_explicit(&old->bitmaps[b], memory_order_relaxed));
	}
	l->layer->bat = bat;
	l->layer->block_count = block_count;
	atomic_store(&l->tables, tables);
	image_retire(image, &old->retired, release_tables);
	return 0;
}

/* Files that all queues have let go of. The worker thread. */
static void free_left_files(struct image *image)
{
	struct image_file **at = &image->files_leaving;

	while (*at) {
		struct image_file *file = *at;
		bool known = false;

		for (struct image_queue *q = image->queues; q; q = q->next)
			known |= (int)(atomic_load(&q->generation) - file->generation) < 0;
		if (known) {
			at = &file->next;
		} else {
			*at = file->next;
			file_free(image, file);
		}
	}
}

void image_reclaim_retired(struct image *image)
{
	while (image->retired && image_epoch_passed(image, image->retired->epoch)) {
		struct retired *r = image->retired;

		image->retired = r->next;
		if (!image->retired)
			image->retired_tail = &image->retired;
		r->release(image, r);
	}
	free_left_files(image);
}

void image_stack_done(struct image *image)
{
	struct stack *stack = atomic_load(&image->stack);

	while (image->retired) {
		struct retired *r = image->retired;

		image->retired = r->next;
		r->release(image, r);
	}
	while (image->files_leaving) {
		struct image_file *file = image->files_leaving;

		image->files_leaving = file->next;
		file_free(image, file);
	}
	for (unsigned i = 0; stack && i < stack->count; i++)
		if (stack->layer[i])
			image_layer_free(image, stack->layer[i]);
	stack_free(stack);
}
