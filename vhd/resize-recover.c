/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/resize.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"

#define LOOK_CHUNK (1u << 20)

/* The file was to end further on, in a footer that never came: it ends behind the marked one again, and that loses its mark. */
static int undo_growth(struct image *image, struct writer *w)
{
	struct layer *layer = w->layer->layer;
	struct store *store = layer->store;
	uint64_t offset = layer->footer_offset;
	struct footer_disk disk;
	int rc = 0;

	if (layer->footer_source == FOOTER_GROWING) {
		rc = store->ops->truncate(store, offset + VHD_SECTOR);
		if (rc == 0)
			rc = writer_sync(image, w, STORE_BARRIER_CLOSE);
	}
	resize_mark_set(&layer->footer, RESIZE_MARK_NONE, 0, 0);
	footer_encode(&layer->footer, &disk);
	if (rc == 0)
		rc = store->ops->write(store, &disk, sizeof(disk), offset);
	if (rc == 0)
		rc = writer_sync(image, w, STORE_BARRIER_FOOTER);
	if (rc == 0) {
		layer->footer_source = FOOTER_AT_END;
		layer->file_size = offset + VHD_SECTOR;
	}
	return rc;
}

static bool is_unallocated(const uint8_t *bytes, size_t length)
{
	return bytes[0] == 0xFF && memcmp(bytes, bytes + 1, length - 1) == 0;
}

/* Entries beyond the size name blocks that were cut off, and may be other blocks' space soon. */
static int clear_entries(const struct layer *layer)
{
	struct store *store = layer->store;
	uint64_t end = (uint64_t)layer->header.max_table_entries * 4;
	uint8_t *buffer = malloc(LOOK_CHUNK);
	int rc = buffer ? 0 : -ENOMEM;

	for (uint64_t at = (uint64_t)layer->block_count * 4, n; rc == 0 && at < end; at += n) {
		n = end - at < LOOK_CHUNK ? end - at : LOOK_CHUNK;
		rc = store->ops->read(store, buffer, n, layer->header.table_offset + at);
		if (rc || is_unallocated(buffer, n))
			continue;
		memset(buffer, 0xFF, n);
		rc = store->ops->write(store, buffer, n, layer->header.table_offset + at);
	}
	free(buffer);
	return rc;
}

/* The entries first, then the mark: at 0, and at the end if another program has put a footer there. */
static int finish_shrinking(struct image *image, struct writer *w)
{
	struct layer *layer = w->layer->layer;
	struct store *store = layer->store;
	struct footer_disk disk;
	int rc = clear_entries(layer);

	if (rc == 0)
		rc = writer_sync(image, w, STORE_BARRIER_TABLE);
	resize_mark_set(&layer->footer, RESIZE_MARK_NONE, 0, 0);
	footer_encode(&layer->footer, &disk);
	if (rc == 0 && layer->footer_source == FOOTER_AT_END)
		rc = store->ops->write(store, &disk, sizeof(disk), layer->footer_offset);
	if (rc == 0)
		rc = store->ops->write(store, &disk, sizeof(disk), 0);
	if (rc == 0)
		rc = writer_sync(image, w, STORE_BARRIER_FOOTER);
	return rc;
}

int resize_recover(struct image *image, struct writer *w, struct err *err)
{
	struct layer *layer = w->layer->layer;
	enum resize_mark mark = resize_mark_get(&layer->footer);
	bool fixed = !layer->bat;
	int rc = 0;

	if (fixed && mark == RESIZE_MARK_GROWING) {
		rc = undo_growth(image, w);
	} else if (fixed && mark == RESIZE_MARK_SHRINKING) {
		resize_mark_set(&layer->footer, RESIZE_MARK_NONE, 0, 0);
		layer->footer_source = FOOTER_FROM_COPY; /* not where it should be */
		rc = writer_settle(image, w);
	} else if (mark == RESIZE_MARK_SHRINKING) {
		rc = finish_shrinking(image, w);
	}
	return rc ? err_set(err, rc, "%s: a resize was interrupted, and what it left cannot be put in order: %s",
	                    layer->path, strerror(-rc))
	          : 0;
}
