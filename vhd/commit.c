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

static void note_dirty(struct image *image)
{
	if (!image_is_dirty(image))
		clock_gettime(CLOCK_MONOTONIC, &image->dirty_since);
}

bool image_is_dirty(const struct image *image)
{
	return image->any_bat_dirty || image->bitmaps_dirty;
}

void image_set_entry(struct image *image, uint32_t block, uint32_t slot)
{
	bool first = !image_is_dirty(image);

	note_dirty(image);
	if (slot == VHD_BAT_UNALLOCATED)
		image->allocated--;
	else
		image->allocated++;
	atomic_store(&image_leaf(image)->bat[block], slot);
	if (image->batmap)
		batmap_clear(image->batmap, block);
	image->bat_dirty[block / BAT_PAGE_ENTRIES] = 1;
	image->any_bat_dirty = true;
	if (first)
		worker_wake(image); /* it sleeps without a limit while nothing is dirty */
}

void image_bitmap_dirty(struct image *image, struct bitmap *bitmap)
{
	bool first = !image_is_dirty(image);

	if (bitmap->dirty)
		return;
	note_dirty(image);
	bitmap->dirty = true;
	bitmap->next = image->bitmaps_dirty;
	image->bitmaps_dirty = bitmap;
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

int image_sync(struct image *image, enum store_barrier why)
{
	struct store *store = image_leaf(image)->store;
	int broken = atomic_load(&image->broken);
	int rc;

	if (broken)
		return broken;
	rc = store->ops->sync(store, why);
	if (rc)
		atomic_store(&image->broken, rc);
	return rc;
}

struct snapshot {
	struct worker_write *writes;
	unsigned count;
	struct bitmap *bitmaps; /* off the dirty list, in the order of their writes */
	unsigned own_count;     /* the writes before this have memory of their own */
	struct slot_list owed;  /* off the image's list */
	uint8_t *pages;         /* which BAT pages are in it */
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

static uint32_t bat_pages(const struct image *image)
{
	return (image_leaf(image)->block_count + BAT_PAGE_ENTRIES - 1) / BAT_PAGE_ENTRIES;
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
static int snapshot_bat(struct image *image, struct snapshot *s)
{
	const struct layer *leaf = image_leaf(image);
	uint32_t pages = bat_pages(image);

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

static int snapshot_bitmaps(struct image *image, struct snapshot *s)
{
	const struct layer *leaf = image_leaf(image);

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
static void snapshot_owed(struct image *image, struct snapshot *s)
{
	for (unsigned i = 0; i < s->owed.count; i++) {
		struct worker_write *w = &s->writes[s->count++];
		uint32_t skip = s->owed.tag[s->owed.first + i] ? 0 : image->full_bitmap_bytes - image_leaf(image)->bitmap_bytes;

		w->iov = (struct iovec){image->full_bitmap + skip, image->full_bitmap_bytes - skip};
		w->offset = slot_payload(image_leaf(image), s->owed.slot[s->owed.first + i]) - image->full_bitmap_bytes + skip;
	}
}

/* Takes the dirty bitmaps off their list; those whose block was given back go to retire. Returns how many are left. */
static unsigned take_dirty_bitmaps(struct image *image, struct snapshot *s)
{
	struct bitmap *b = image->bitmaps_dirty;
	unsigned n = 0;

	image->bitmaps_dirty = NULL;
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
	for (struct bitmap *b = s->bitmaps; b; b = b->commit_next) {
		b->committing = false;
		if (!b->dead)
			image_bitmap_dirty(image, b);
		else if (!b->dirty)
			retire_now(image, b);
	}
	for (unsigned i = 0; i < s->owed.count; i++)
		if (slots_owe_bitmap(image, s->owed.slot[s->owed.first + i], s->owed.tag[s->owed.first + i]))
			atomic_store(&image->broken, -ENOMEM); /* the block would lack its bitmap for ever */
	if (s->batmap)
		image->batmap->dirty = true;
	for (uint32_t page = 0; s->pages && page < bat_pages(image); page++) {
		if (s->pages[page]) {
			note_dirty(image);
			image->bat_dirty[page] = 1;
			image->any_bat_dirty = true;
		}
	}
}

static int snapshot_take(struct image *image, struct snapshot *s)
{
	uint32_t pages = bat_pages(image);
	unsigned bitmaps;
	int rc;

	*s = (struct snapshot){.pages = malloc(pages)};
	if (!s->pages)
		return -ENOMEM;
	memcpy(s->pages, image->bat_dirty, pages);
	memset(image->bat_dirty, 0, pages);
	bitmaps = take_dirty_bitmaps(image, s);
	s->data_first = bitmaps > 0 || (image->has_parent && image->any_bat_dirty);
	image->any_bat_dirty = false;
	s->owed = image->slots.owed;
	image->slots.owed = (struct slot_list){0};
	s->writes = calloc((size_t)pages + bitmaps + s->owed.count, sizeof(*s->writes));
	if (!s->writes)
		return -ENOMEM;
	if (image->batmap && image->batmap->dirty) {
		s->batmap = batmap_copy(image->batmap);
		if (!s->batmap)
			return -ENOMEM;
		image->batmap->dirty = false;
	}
	rc = snapshot_bat(image, s);
	if (rc == 0)
		rc = snapshot_bitmaps(image, s);
	if (rc == 0)
		snapshot_owed(image, s);
	return rc;
}

/* The bitmaps are durable: those that are full are needed no more. */
static void snapshot_settle(struct image *image, struct snapshot *s)
{
	struct image_layer *leaf = &image->layers[0];

	for (struct bitmap *b = s->bitmaps; b; b = b->commit_next) {
		b->committing = false;
		if (b->dirty) /* got new bits meanwhile */
			continue;
		if (b->dead) {
			retire_now(image, b);
		} else if (bitmap_is_full(b)) {
			atomic_store_explicit(&leaf->state[b->block], BLOCK_FULL, memory_order_release);
			atomic_store_explicit(&leaf->bitmaps[b->block], NULL, memory_order_release);
			image_retire_bitmap(image, b);
		}
	}
}

static int commit_metadata(struct image *image)
{
	struct snapshot s;
	int rc;

	rc = snapshot_take(image, &s);
	slots_commit_begin(image);
	if (rc == 0) {
		pthread_mutex_unlock(&image->lock);
		if (s.batmap)
			rc = batmap_write(s.batmap, image_leaf(image)->store);
		if (rc == 0 && (s.data_first || s.batmap))
			rc = image_sync(image, STORE_BARRIER_DATA);
		if (rc == 0)
			rc = worker_write_all(image, s.writes, s.count);
		if (rc == 0)
			rc = image_sync(image, STORE_BARRIER_METADATA);
		pthread_mutex_lock(&image->lock);
	}
	slots_commit_end(image, rc == 0);
	if (rc)
		snapshot_undo(image, &s);
	else
		snapshot_settle(image, &s);
	snapshot_done(&s);
	return rc;
}

int image_commit(struct image *image)
{
	int rc = atomic_load(&image->broken);

	if (rc)
		return rc;
	if (image_is_dirty(image))
		return commit_metadata(image);
	pthread_mutex_unlock(&image->lock);
	rc = image_sync(image, STORE_BARRIER_METADATA);
	pthread_mutex_lock(&image->lock);
	return rc;
}

int image_settle(struct image *image)
{
	struct layer *leaf = image_leaf(image);
	struct store *store = leaf->store;
	struct footer_disk footer;
	uint64_t end;
	int rc = atomic_load(&image->broken);

	if (rc || (!image->slots.cut && leaf->footer_source == FOOTER_AT_END))
		return rc;
	end = image->dynamic ? slots_used_end(image) : leaf->size;
	footer_encode(&leaf->footer, &footer);
	rc = store->ops->write(store, &footer, sizeof(footer), end);
	if (rc == 0)
		rc = image_sync(image, STORE_BARRIER_FOOTER);
	if (rc == 0)
		rc = store->ops->truncate(store, end + sizeof(footer));
	if (rc == 0)
		rc = image_sync(image, STORE_BARRIER_CLOSE);
	if (rc == 0)
		leaf->footer_source = FOOTER_AT_END;
	return rc;
}
