/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Room for a larger BAT. It grows where it is if no other metadata lies in the way; blocks that do are moved. Else, and
 * where Xen's batmap hangs on its end, a new one is written behind all metadata, and the header, one sector of it,
 * switches over; what the old one took stays unused.
 */
#include "vhd/resize.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/checked.h"
#include "vhd/locator.h"
#include "vhd/move-block.h"

#define COPY_CHUNK (1u << 20)
#define PENDING_LOOK_NS 200000

struct table_plan {
	struct resize *resize;
	uint32_t entries;
	uint64_t offset, bytes;  /* of the table; whole sectors */
	bool moves;              /* it is not where it was */
	struct byte_range map;   /* the new batmap's, without its header, which lies in front of it; length 0: none */
	uint64_t end;            /* of all this */
};

static uint64_t table_bytes(uint32_t entries)
{
	return round_up((uint64_t)entries * 4, VHD_SECTOR);
}

static bool overlaps(uint64_t offset, uint64_t length, uint64_t start, uint64_t end)
{
	return length && offset < end && start < offset + length;
}

/* Whether metadata other than the BAT lies in [start, end). */
static bool metadata_lies_in(const struct layer *layer, uint64_t start, uint64_t end)
{
	bool found = overlaps(0, VHD_SECTOR, start, end) ||
	             overlaps(layer->header_offset, sizeof(struct header_disk), start, end) ||
	             overlaps(layer->batmap.offset, layer->batmap.length, start, end);

	for (unsigned i = 0; i < VHD_LOCATORS; i++) {
		const struct locator *locator = &layer->header.locators[i];
		uint64_t space = locator_space_bytes(locator);

		if (memcmp(locator->code, "\0\0\0\0", 4))
			found |= overlaps(locator->offset, locator->length > space ? locator->length : space, start, end);
	}
	return found;
}

static bool batmap_reaches(const struct layer *layer, uint32_t entries)
{
	return layer->batmap.length == 0 || layer->batmap_bits.length * 8 >= entries;
}

/* False: the table has the room already. */
static bool plan_make(struct resize *r, uint32_t entries, struct table_plan *ret)
{
	const struct layer *layer = r->layer;
	uint64_t old_bytes = table_bytes(layer->header.max_table_entries);
	bool has_batmap = layer->batmap.length != 0;

	*ret = (struct table_plan){
		.resize = r,
		.entries = entries,
		.offset = layer->header.table_offset,
		.bytes = table_bytes(entries),
	};
	if (layer->header.max_table_entries >= entries && batmap_reaches(layer, entries))
		return false;
	if (layer->header.max_table_entries > entries) { /* a batmap that is too short for them */
		ret->entries = layer->header.max_table_entries;
		ret->bytes = old_bytes;
	}
	ret->end = ret->offset + ret->bytes;
	ret->moves = has_batmap ? ret->bytes != old_bytes || !batmap_reaches(layer, ret->entries)
	                        : metadata_lies_in(layer, ret->offset + old_bytes, ret->end);
	if (ret->moves) {
		ret->offset = round_up(layer->metadata_end, VHD_SECTOR);
		ret->end = ret->offset + ret->bytes;
	}
	if (ret->moves && has_batmap) {
		ret->map.offset = ret->end + VHD_SECTOR;
		ret->map.length = round_up(((uint64_t)ret->entries + 7) / 8, VHD_SECTOR);
		ret->end = ret->map.offset + ret->map.length;
	}
	return true;
}

static int reserve(void *arg)
{
	struct table_plan *p = arg;

	return slots_reserve(p->resize->image, p->resize->writer, p->end);
}

/* New blocks that were begun in slots there before these were reserved: until each has its entry, or has failed. */
static int wait_for_pending(struct resize *r, uint64_t end)
{
	const struct timespec pause = {.tv_nsec = PENDING_LOOK_NS};
	int rc = 0;

	for (;;) {
		bool pending;

		pthread_mutex_lock(&r->image->lock);
		pending = writer_has_pending_below(r->writer, end);
		pthread_mutex_unlock(&r->image->lock);
		if (!pending || rc)
			return rc;
		nanosleep(&pause, NULL);
		rc = job_step(r->job, 0);
	}
}

struct slot_call {
	struct resize *resize;
	uint32_t slot;
};

/* Worker thread, which makes slots: so its errors are heard of here. */
static int take_slot(void *arg)
{
	struct slot_call *c = arg;
	struct image *image = c->resize->image;
	struct writer *w = c->resize->writer;
	bool own_pages;
	int rc = 0;

	pthread_mutex_lock(&image->lock);
	c->slot = slots_take(image, w, &own_pages);
	if (c->slot == VHD_BAT_UNALLOCATED) {
		w->slots.extra++;
		rc = slots_prepare(image, w);
		w->slots.extra--;
		c->slot = slots_take(image, w, &own_pages);
	}
	pthread_mutex_unlock(&image->lock);
	if (c->slot != VHD_BAT_UNALLOCATED)
		return 0;
	return rc ? rc : -ENOSPC;
}

static int move_away(struct resize *r, uint32_t block)
{
	struct slot_call call = {.resize = r};
	int rc = worker_call(r->image, take_slot, &call);

	if (rc)
		return resize_err(r, rc, "made larger");
	rc = block_move(r->image, r->l, block, call.slot, r->job, r->err);
	if (rc == 0 && job_step(r->job, r->layer->block_size))
		rc = resize_err(r, -ECANCELED, "made larger");
	return rc < 0 ? rc : 0;
}

static int move_blocks(struct table_plan *p)
{
	struct resize *r = p->resize;
	const struct tables *t = layer_tables(r->l);
	int rc = 0;

	for (uint32_t b = 0; rc == 0 && b < t->count; b++) {
		uint32_t slot = atomic_load(&t->bat[b]);
		struct byte_range at = layer_block_range(r->layer, slot);

		if (slot != VHD_BAT_UNALLOCATED && overlaps(at.offset, at.length, p->offset, p->end))
			rc = move_away(r, b);
	}
	return rc;
}

/* The table as it is on disk, with unallocated entries behind it. What is dirty in RAM is written later, to its place. */
static int write_table(const struct table_plan *p)
{
	const struct layer *layer = p->resize->layer;
	struct store *store = layer->store;
	uint64_t from = layer->header.table_offset, old = (uint64_t)layer->header.max_table_entries * 4;
	uint64_t at = p->moves ? 0 : round_down(old, VHD_SECTOR);
	uint8_t *buffer;
	int rc = 0;

	if (posix_memalign((void **)&buffer, 4096, COPY_CHUNK))
		return -ENOMEM;
	for (; rc == 0 && at < p->bytes; at += COPY_CHUNK) {
		size_t n = p->bytes - at < COPY_CHUNK ? (size_t)(p->bytes - at) : COPY_CHUNK;

		memset(buffer, 0xFF, n);
		if (at < old)
			rc = store->ops->read(store, buffer, old - at < n ? (size_t)(old - at) : n, from + at);
		if (rc == 0)
			rc = store->ops->write(store, buffer, n, p->offset + at);
	}
	free(buffer);
	return rc;
}

/* Without bits for what is new: those are never wrong. *ret: what was written; NULL: no batmap. */
static int write_batmap(const struct table_plan *p, struct batmap **ret)
{
	const struct resize *r = p->resize;
	const struct batmap *old = r->writer->batmap;
	struct store *store = r->layer->store;
	struct batmap *b;
	int rc = 0;

	*ret = NULL;
	if (p->map.length == 0)
		return 0;
	b = calloc(1, sizeof(*b) + p->map.length);
	if (!b)
		return -ENOMEM;
	if (old) {
		*b = *old;
		memcpy(b->bits, old->bits, old->length < p->map.length ? old->length : p->map.length);
	} else { /* one that could not be used */
		rc = store->ops->read(store, &b->header, sizeof(b->header), r->layer->batmap.offset);
	}
	b->header_offset = p->map.offset - VHD_SECTOR;
	b->offset = p->map.offset;
	b->length = p->map.length;
	b->dirty = false;
	b->header.offset = be64_make(b->offset);
	b->header.sectors = be32_make((uint32_t)(b->length / VHD_SECTOR));
	b->header.checksum = be32_make(batmap_checksum(b->bits, b->length, b->signed_sum));
	if (rc == 0)
		rc = batmap_write(b, store);
	if (rc)
		free(b);
	else
		*ret = b;
	return rc;
}

/*
 * Worker thread: nothing is written to the table meanwhile. The next commit makes the header durable together with the
 * first entries that go to the new table; there is always one before the size that needs it (resize-sparse.c).
 */
static int switch_table(void *arg)
{
	struct table_plan *p = arg;
	struct resize *r = p->resize;
	struct layer *layer = r->layer;
	struct header header = layer->header;
	struct header_disk now, before;
	struct batmap *batmap = NULL;
	int rc = write_table(p);

	if (rc == 0)
		rc = write_batmap(p, &batmap);
	if (rc == 0)
		rc = writer_sync(r->image, r->writer, STORE_BARRIER_TABLE);
	header.table_offset = p->offset;
	header.max_table_entries = p->entries;
	header_encode(&layer->header, &before);
	header_encode(&header, &now);
	if (rc == 0)
		rc = resize_write_sector(r->image, r->writer, &now, &before, layer->header_offset);
	if (rc) {
		free(batmap);
		return rc;
	}
	header.raw = now;
	pthread_mutex_lock(&r->image->lock);
	layer->header = header;
	if (p->end > layer->metadata_end)
		layer->metadata_end = p->end;
	if (batmap) {
		layer->batmap = (struct byte_range){batmap->header_offset, VHD_SECTOR + batmap->length};
		layer->batmap_bits = p->map;
		free(r->writer->batmap);
		r->writer->batmap = batmap;
	}
	pthread_mutex_unlock(&r->image->lock);
	return 0;
}

int resize_table(struct resize *r, uint32_t block_count)
{
	struct table_plan plan;
	int rc;

	if (!plan_make(r, block_count, &plan))
		return 0;
	rc = worker_call(r->image, reserve, &plan);
	if (rc == 0)
		rc = wait_for_pending(r, plan.end);
	if (rc)
		return resize_err(r, rc, "made larger");
	rc = move_blocks(&plan);
	if (rc)
		return rc;
	/* The moved blocks' entries are durable, and nobody reads where they were, before anything else is written there. */
	rc = worker_flush(r->image);
	if (rc == 0) {
		image_wait_for_epochs(r->image);
		rc = worker_call(r->image, switch_table, &plan);
	}
	return rc ? resize_err(r, rc, "made larger") : 0;
}
