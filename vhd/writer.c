/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/image.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "vhd/gaps.h"

static int init_full_bitmap(struct writer *w)
{
	const struct layer *layer = w->layer->layer;
	uint32_t sectors = layer->block_size / VHD_SECTOR;
	uint8_t *bits;

	w->full_bitmap_bytes = (uint32_t)round_up(layer->bitmap_bytes, PAYLOAD_ALIGN);
	if (posix_memalign((void **)&w->full_bitmap, PAYLOAD_ALIGN, w->full_bitmap_bytes)) {
		w->full_bitmap = NULL;
		return -ENOMEM;
	}
	memset(w->full_bitmap, 0, w->full_bitmap_bytes);
	bits = w->full_bitmap + w->full_bitmap_bytes - layer->bitmap_bytes;
	memset(bits, 0xff, sectors / 8);
	if (sectors % 8)
		bits[sectors / 8] = (uint8_t)(0xff00 >> (sectors % 8));
	return 0;
}

static int load_batmap(struct writer *w, struct err *err)
{
	const struct layer *layer = w->layer->layer;
	int rc;

	if (!layer->batmap_bits.length)
		return 0;
	rc = batmap_load(layer->store, layer->batmap.offset, layer->batmap_bits.offset, layer->batmap_bits.length,
	                 &w->batmap);
	return rc ? err_set(err, rc, "%s: the batmap at offset %llu cannot be read: %s", layer->path,
	                    (unsigned long long)layer->batmap.offset, strerror(-rc))
	          : 0;
}

static unsigned depth_of(const struct stack *stack, const struct image_layer *l)
{
	for (unsigned i = 0; i < stack->count; i++)
		if (stack->layer[i] == l)
			return i + 1;
	return 0; /* a new leaf, which is above all */
}

void writer_link(struct image *image, struct writer *w)
{
	const struct stack *stack = image_stack(image);
	struct writer **at = &image->writers;

	while (*at && depth_of(stack, (*at)->layer) < depth_of(stack, w->layer))
		at = &(*at)->next;
	w->next = *at;
	*at = w;
	w->layer->writer = w;
}

int writer_new(struct image_layer *l, struct writer **ret, struct err *err)
{
	struct writer *w = calloc(1, sizeof(*w));
	int rc = w ? 0 : -ENOMEM;

	if (rc == 0) {
		w->layer = l;
		w->slot_waiters_tail = &w->slot_waiters;
		w->allocated = l->layer->allocated;
		if (l->layer->bat) {
			w->bat_dirty = calloc(l->layer->block_count / BAT_PAGE_ENTRIES + 1, 1);
			rc = w->bat_dirty ? init_full_bitmap(w) : -ENOMEM;
		}
	}
	if (rc) {
		writer_free(w);
		return err_set(err, rc, "no memory to write to a disk");
	}
	if (l->layer->bat)
		slots_init(w);
	rc = load_batmap(w, err);
	if (rc) {
		writer_free(w);
		return rc;
	}
	*ret = w;
	return 0;
}

void writer_unlink(struct image *image, struct writer *w)
{
	for (struct writer **at = &image->writers; *at; at = &(*at)->next) {
		if (*at == w) {
			*at = w->next;
			break;
		}
	}
	w->layer->layer->allocated = w->allocated;
	w->layer->writer = NULL;
}

void writer_free(struct writer *w)
{
	if (!w)
		return;
	while (w->bitmaps_dirty) { /* after a failed commit; those that live are in the tables too */
		struct bitmap *b = w->bitmaps_dirty;

		w->bitmaps_dirty = b->next;
		if (b->dead)
			free(b);
	}
	while (w->pending_free) {
		struct pending *p = w->pending_free;

		w->pending_free = p->next;
		free(p);
	}
	slots_done(&w->slots);
	free(w->bat_dirty);
	free(w->batmap);
	free(w->full_bitmap);
	free(w);
}
