/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Flush. In a dynamic disk, data, bitmap and BAT entry of a new block may become durable in any order, since its slot
 * reads as zeros until then: everything dirty is written, and one sync covers it all. Where a bit that is durable
 * before its data would show something third, the parent's loss or what an old block held, the data is synced before
 * the bits and entries are written, and what is written is what they were when that sync began.
 */
#include "vhd/image.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "vhd/resize.h"

static void note_dirty(struct image *image)
{
	if (!image_is_dirty(image))
		clock_gettime(CLOCK_MONOTONIC, &image->dirty_since);
}

bool image_is_dirty(const struct image *image)
{
	for (const struct writer *w = image->writers; w; w = w->next)
		if (writer_is_dirty(w))
			return true;
	return false;
}

void writer_set_entry(struct image *image, struct writer *w, uint32_t block, uint32_t slot)
{
	const struct tables *t = layer_tables(w->layer);
	uint32_t before = atomic_load_explicit(&t->bat[block], memory_order_relaxed);
	bool first = !image_is_dirty(image);

	note_dirty(image);
	w->allocated += (before == VHD_BAT_UNALLOCATED) - (slot == VHD_BAT_UNALLOCATED);
	atomic_store(&t->bat[block], slot);
	if (w->batmap)
		batmap_clear(w->batmap, block);
	w->bat_dirty[block / BAT_PAGE_ENTRIES] = 1;
	w->any_bat_dirty = true;
	if (first)
		worker_wake(image); /* it sleeps without a limit while nothing is dirty */
}

void writer_entries_dirty(struct image *image, struct writer *w, uint32_t first, uint32_t end)
{
	if (first >= end)
		return;
	note_dirty(image);
	memset(w->bat_dirty + first / BAT_PAGE_ENTRIES, 1, (end - 1) / BAT_PAGE_ENTRIES - first / BAT_PAGE_ENTRIES + 1);
	w->any_bat_dirty = true;
	worker_wake(image);
}

void writer_bitmap_dirty(struct image *image, struct writer *w, struct bitmap *bitmap)
{
	bool first = !image_is_dirty(image);

	if (bitmap->dirty)
		return;
	note_dirty(image);
	bitmap->dirty = true;
	bitmap->next = w->bitmaps_dirty;
	w->bitmaps_dirty = bitmap;
	if (first)
		worker_wake(image);
}

static void retire_now(struct image *image, struct bitmap *bitmap)
{
	bitmap->retire_epoch = atomic_load_explicit(&image->epoch, memory_order_relaxed);
	bitmap->next = image->bitmaps_retired;
	image->bitmaps_retired = bitmap;
}

void image_retire_bitmap(struct image *image, struct bitmap *bitmap)
{
	bitmap->dead = true;
	if (!bitmap->dirty && !bitmap->committing) /* else whoever takes it off that list does this */
		retire_now(image, bitmap);
}

int writer_drop_block(struct image *image, struct writer *w, uint32_t block)
{
	const struct tables *t = layer_tables(w->layer);
	struct bitmap *bitmap;
	int rc = slots_free(w, atomic_load_explicit(&t->bat[block], memory_order_relaxed));

	if (rc)
		return rc;
	writer_set_entry(image, w, block, VHD_BAT_UNALLOCATED);
	writer_forget_pending(w, block);
	bitmap = atomic_load_explicit(&t->bitmaps[block], memory_order_relaxed);
	block_set_state(t, block, BLOCK_UNKNOWN);
	atomic_store_explicit(&t->bitmaps[block], NULL, memory_order_release);
	if (bitmap)
		image_retire_bitmap(image, bitmap);
	return 0;
}

void image_free_retired(struct image *image)
{
	struct bitmap **at = &image->bitmaps_retired;

	while (*at) {
		struct bitmap *b = *at;

		if (image_epoch_passed(image, b->retire_epoch)) {
			*at = b->next;
			free(b);
		} else {
			at = &b->next;
		}
	}
}

int writer_sync(struct image *image, struct writer *w, enum store_barrier why)
{
	struct store *store = w->layer->layer->store;
	int broken = atomic_load(&image->broken);
	int rc;

	if (broken)
		return broken;
	rc = store->ops->sync(store, why);
	if (rc)
		atomic_store(&image->broken, rc);
	return rc;
}

/* What of one writer was dirty when the commit began. */
struct snapshot {
	struct writer *writer;
	int taken; /* 0 or -errno: whether all could be copied */
	struct worker_write *writes;
	unsigned count;
	struct bitmap *bitmaps; /* off the dirty list, in the order of their writes */
	unsigned own_count;     /* the writes before this have memory of their own */
	struct slot_list owed;  /* off the image's list */
	uint8_t *pages;         /* which BAT pages are in it */
	uint32_t page_count;
	struct batmap *batmap;
	bool data_first;
};

static void snapshot_done(struct snapshot *s)
{
	for (unsigned i = 0; i < s->own_count; i++)
		free(s->writes[i].iov.iov_base);
	free(s->writes);
	slot_list_done(&s->owed);
	free(s->pages);
	free(s->batmap);
}

static uint32_t bat_pages(const struct writer *w)
{
	return (w->layer->layer->block_count + BAT_PAGE_ENTRIES - 1) / BAT_PAGE_ENTRIES;
}

static int snapshot_add(struct snapshot *s, uint64_t offset, size_t length, uint8_t **ret)
{
	void *buffer;

	if (posix_memalign(&buffer, 4096, length))
		return -ENOMEM;
	s->writes[s->count].iov = (struct iovec){buffer, length};
	s->writes[s->count].offset = offset;
	s->own_count = ++s->count;
	*ret = buffer;
	return 0;
}

/* One write for each run of dirty pages. */
static int snapshot_bat(struct snapshot *s)
{
	const struct layer *leaf = s->writer->layer->layer;
	uint32_t pages = bat_pages(s->writer);

	for (uint32_t page = 0; page < pages; page++) {
		uint32_t first = page * BAT_PAGE_ENTRIES, end;
		uint8_t *bytes;
		int rc;

		if (!s->pages[page])
			continue;
		while (page + 1 < pages && s->pages[page + 1])
			page++;
		end = (page + 1) * BAT_PAGE_ENTRIES;
		if (end > leaf->block_count)
			end = leaf->block_count;
		rc = snapshot_add(s, leaf->header.table_offset + (uint64_t)first * 4, (size_t)(end - first) * 4, &bytes);
		if (rc)
			return rc;
		for (uint32_t i = first; i < end; i++) {
			be32 entry = be32_make(atomic_load_explicit(&leaf->bat[i], memory_order_relaxed));

			memcpy(bytes + (size_t)(i - first) * 4, &entry, 4);
		}
	}
	return 0;
}

static int snapshot_bitmaps(struct snapshot *s)
{
	const struct layer *leaf = s->writer->layer->layer;

	for (struct bitmap *b = s->bitmaps; b; b = b->commit_next) {
		uint32_t slot = atomic_load_explicit(&leaf->bat[b->block], memory_order_relaxed);
		uint8_t *bytes;
		int rc = snapshot_add(s, (uint64_t)slot * VHD_SECTOR, leaf->bitmap_bytes, &bytes);

		if (rc)
			return rc;
		bitmap_encode(b, bytes, leaf->bitmap_bytes);
	}
	return 0;
}

/* The all-ones bitmaps of new blocks; as whole pages where these are the slot's own, which file systems like better. */
static void snapshot_owed(struct snapshot *s)
{
	const struct writer *writer = s->writer;
	const struct layer *leaf = writer->layer->layer;

	for (unsigned i = 0; i < s->owed.count; i++) {
		struct worker_write *w = &s->writes[s->count++];
		uint32_t skip = s->owed.tag[s->owed.first + i] ? 0 : writer->full_bitmap_bytes - leaf->bitmap_bytes;

		w->iov = (struct iovec){writer->full_bitmap + skip, writer->full_bitmap_bytes - skip};
		w->offset = slot_payload(leaf, s->owed.slot[s->owed.first + i]) - writer->full_bitmap_bytes + skip;
	}
}

/* Takes the dirty bitmaps off their list; those whose block was given back go to retire. Returns how many are left. */
static unsigned take_dirty_bitmaps(struct image *image, struct snapshot *s)
{
	struct bitmap *b = s->writer->bitmaps_dirty;
	unsigned n = 0;

	s->writer->bitmaps_dirty = NULL;
	while (b) {
		struct bitmap *next = b->next;

		b->dirty = false;
		if (b->dead) {
			retire_now(image, b);
		} else {
			b->committing = true;
			b->commit_next = s->bitmaps;
			s->bitmaps = b;
			n++;
		}
		b = next;
	}
	return n;
}

/* The commit failed: what it took is dirty again. */
static void snapshot_undo(struct image *image, struct snapshot *s)
{
	struct writer *w = s->writer;

	for (struct bitmap *b = s->bitmaps; b; b = b->commit_next) {
		b->committing = false;
		if (!b->dead)
			writer_bitmap_dirty(image, w, b);
		else if (!b->dirty)
			retire_now(image, b);
	}
	for (unsigned i = 0; i < s->owed.count; i++)
		if (slots_owe_bitmap(w, s->owed.slot[s->owed.first + i], s->owed.tag[s->owed.first + i]))
			atomic_store(&image->broken, -ENOMEM); /* the block would lack its bitmap for ever */
	if (s->batmap)
		w->batmap->dirty = true;
	w->data_first |= s->data_first;
	for (uint32_t page = 0; s->pages && page < s->page_count; page++) {
		if (s->pages[page]) {
			note_dirty(image);
			w->bat_dirty[page] = 1;
			w->any_bat_dirty = true;
		}
	}
}

/* Under the lock. What could not be copied is still taken, for snapshot_undo. */
static void snapshot_take(struct image *image, struct writer *w, struct snapshot *s)
{
	uint32_t pages = bat_pages(w);
	unsigned bitmaps;

	*s = (struct snapshot){.writer = w, .pages = malloc(pages), .page_count = pages};
	s->taken = -ENOMEM;
	if (!s->pages)
		return;
	memcpy(s->pages, w->bat_dirty, pages);
	memset(w->bat_dirty, 0, pages);
	bitmaps = take_dirty_bitmaps(image, s);
	s->data_first = w->data_first || bitmaps > 0 || (w->layer->has_below && w->any_bat_dirty);
	w->data_first = false;
	w->any_bat_dirty = false;
	s->owed = w->slots.owed;
	w->slots.owed = (struct slot_list){0};
	s->writes = calloc((size_t)pages + bitmaps + s->owed.count, sizeof(*s->writes));
	if (!s->writes)
		return;
	if (w->batmap && w->batmap->dirty) {
		s->batmap = batmap_copy(w->batmap);
		if (!s->batmap)
			return;
		w->batmap->dirty = false;
	}
	s->taken = snapshot_bat(s);
	if (s->taken == 0)
		s->taken = snapshot_bitmaps(s);
	if (s->taken == 0)
		snapshot_owed(s);
}

/* The bitmaps are durable: those that are full are needed no more. */
static void snapshot_settle(struct image *image, struct snapshot *s)
{
	const struct tables *t = layer_tables(s->writer->layer);

	for (struct bitmap *b = s->bitmaps; b; b = b->commit_next) {
		b->committing = false;
		if (b->dirty) /* got new bits meanwhile */
			continue;
		if (b->dead) {
			retire_now(image, b);
		} else if (bitmap_is_full(b)) {
			block_set_state(t, b->block, BLOCK_FULL);
			atomic_store_explicit(&t->bitmaps[b->block], NULL, memory_order_release);
			image_retire_bitmap(image, b);
		}
	}
}

/* Without the lock. */
static int snapshot_write(struct image *image, struct snapshot *s)
{
	struct writer *w = s->writer;
	struct image_file *file = atomic_load(&w->layer->file);
	int rc = s->taken;

	if (rc == 0 && s->batmap)
		rc = batmap_write(s->batmap, file->store);
	if (rc == 0 && (s->data_first || s->batmap))
		rc = writer_sync(image, w, STORE_BARRIER_DATA);
	if (rc == 0)
		rc = worker_write_all(image, file, s->writes, s->count);
	if (rc == 0)
		rc = writer_sync(image, w, STORE_BARRIER_METADATA);
	return rc;
}

/*
 * One writer and those below it, these first: an entry that this one gives up must not be gone before what took its
 * place below is durable. All that they hold is taken in one hold of the lock, with that in mind. Called and returns
 * with the lock held; the list of writers does not change meanwhile but by the worker's own calls.
 */
static int commit_from(struct image *image, struct writer *w)
{
	struct snapshot s;
	bool dirty;
	int rc;

	if (!w) {
		pthread_mutex_unlock(&image->lock);
		return 0;
	}
	dirty = writer_is_dirty(w);
	if (dirty) {
		snapshot_take(image, w, &s);
		slots_commit_begin(w);
	}
	rc = commit_from(image, w->next);
	if (rc == 0 && dirty)
		rc = snapshot_write(image, &s);
	else if (rc == 0)
		rc = writer_sync(image, w, STORE_BARRIER_METADATA);
	if (!dirty)
		return rc;
	pthread_mutex_lock(&image->lock);
	slots_commit_end(image, w, rc == 0);
	if (rc)
		snapshot_undo(image, &s);
	else
		snapshot_settle(image, &s);
	pthread_mutex_unlock(&image->lock);
	snapshot_done(&s);
	return rc;
}

int image_commit(struct image *image)
{
	int rc = atomic_load(&image->broken);

	if (rc)
		return rc;
	rc = commit_from(image, image->writers);
	pthread_mutex_lock(&image->lock);
	return rc;
}

int writer_settle(struct image *image, struct writer *w)
{
	struct layer *layer = w->layer->layer;
	struct store *store = layer->store;
	struct footer_disk footer;
	uint64_t end;
	int rc = atomic_load(&image->broken);

	if (rc || layer->raw || (!w->slots.cut && layer->footer_source == FOOTER_AT_END))
		return rc;
	end = layer->bat ? slots_used_end(w) : layer->size;
	footer_encode(&layer->footer, &footer);
	rc = store->ops->write(store, &footer, sizeof(footer), end);
	if (rc == 0)
		rc = writer_sync(image, w, STORE_BARRIER_FOOTER);
	if (rc == 0)
		rc = store->ops->truncate(store, end + sizeof(footer));
	if (rc == 0)
		rc = writer_sync(image, w, STORE_BARRIER_CLOSE);
	if (rc == 0) {
		layer->footer_source = FOOTER_AT_END;
		layer->footer_offset = end;
		layer->file_size = end + sizeof(footer);
		layer->data_end = end;
		w->slots.cut = false;
	}
	return rc;
}

int writer_settle_first(struct image *image, struct writer *w, struct err *err)
{
	const struct layer *layer = w->layer->layer;
	int rc = resize_recover(image, w, err);

	if (rc)
		return rc;
	if (layer->bat && layer->footer_source != FOOTER_AT_END && layer->file_size < layer->data_end + VHD_SECTOR)
		rc = writer_settle(image, w);
	return rc ? err_set(err, rc, "%s: the footer, which is missing at the end, cannot be written: %s", layer->path,
	                    strerror(-rc))
	          : 0;
}
