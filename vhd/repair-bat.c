/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * BAT entries that cannot be right. A block that the file's end cuts short keeps what is left of it; one that lies
 * nowhere is given up; of two that share bytes one is copied, so that both have them.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "vhd/gaps.h"
#include "vhd/layer-scan.h"
#include "vhd/locator.h"
#include "vhd/repair.h"

#define SENTENCES_MAX 64u /* of a kind; then a sum */
#define METADATA_MAX 16u
#define COPIES_UNASKED (UINT64_C(64) << 20) /* bytes, beyond the file's own size */

struct blocks {
	struct repair *repair;
	const struct layer *layer;
	uint32_t *entries; /* owned; host order */
	uint32_t count;
	uint64_t block_bytes;
	struct byte_range metadata[METADATA_MAX];
	unsigned metadata_count;
	uint64_t end; /* of the last structure that may stay, bytes */
	uint64_t copied;
	uint32_t told, untold;
	uint32_t used, wrong; /* entries; those that were cleared or moved */
};

#define WRONG_UNASKED 3u /* entries; more, and more than half of all: then it is no BAT */

static uint64_t entry_offset(const struct blocks *blocks, uint32_t block)
{
	return blocks->layer->header.table_offset + (uint64_t)block * 4;
}

/* The disk's bytes from `skip` of a block on. */
static int block_lose(struct blocks *blocks, uint32_t block, uint64_t skip, bool doubtful, const char *why)
{
	uint64_t start = ((uint64_t)block << blocks->layer->block_shift) + skip, length = blocks->layer->block_size - skip;

	if (start >= blocks->layer->size)
		return 0;
	if (length > blocks->layer->size - start)
		length = blocks->layer->size - start;
	return repair_lose(blocks->repair, start, length, doubtful, "%s", why);
}

static void metadata_note(struct blocks *blocks, uint64_t offset, uint64_t length)
{
	if (length && blocks->metadata_count < METADATA_MAX)
		blocks->metadata[blocks->metadata_count++] = (struct byte_range){offset, length};
}

static void metadata_collect(struct blocks *blocks)
{
	const struct layer *layer = blocks->layer;

	metadata_note(blocks, 0, VHD_SECTOR);
	metadata_note(blocks, layer->header_offset, sizeof(struct header_disk));
	metadata_note(blocks, layer->header.table_offset, round_up((uint64_t)layer->header.max_table_entries * 4, VHD_SECTOR));
	metadata_note(blocks, layer->batmap.offset, layer->batmap.length);
	for (unsigned i = 0; i < VHD_LOCATORS; i++) {
		const struct locator *locator = &layer->header.locators[i];
		uint64_t space = locator_space_bytes(locator);

		if (be32_get(*(const be32 *)locator->code) && space && range_inside(locator->offset, locator->length, blocks->end))
			metadata_note(blocks, locator->offset, locator->length < space ? locator->length : space);
	}
}

static bool on_metadata(const struct blocks *blocks, struct byte_range range)
{
	for (unsigned i = 0; i < blocks->metadata_count; i++)
		if (ranges_overlap(range, blocks->metadata[i]))
			return true;
	return false;
}

static int entry_clear(struct blocks *blocks, uint32_t block, const char *code, const char *where)
{
	uint32_t entry = blocks->entries[block];
	int r;

	blocks->entries[block] = VHD_BAT_UNALLOCATED;
	blocks->repair->bat_changed = true;
	blocks->wrong++;
	if (++blocks->told > SENTENCES_MAX)
		blocks->untold++;
	r = blocks->told > SENTENCES_MAX ? 0 :
	    repair_step(blocks->repair, code, entry_offset(blocks, block), "BAT entry %" PRIu32 " named sector %" PRIu32
	                ", %s: it is cleared (the side file keeps it)", block, entry, where);
	return r ? r : block_lose(blocks, block, 0, false, "nothing says where the block was");
}

/* Where the block lies outside the file or in the way of what counts more. */
static int entry_judge(struct blocks *blocks, uint32_t block)
{
	struct byte_range range = {(uint64_t)blocks->entries[block] * VHD_SECTOR, blocks->block_bytes};
	uint64_t there, kept;
	int r;

	if (on_metadata(blocks, range))
		return entry_clear(blocks, block, "bat-overlaps-metadata", "where metadata lies");
	if (range_inside(range.offset, range.length, blocks->repair->end))
		return 0;
	there = range.offset < blocks->repair->end ? blocks->repair->end - range.offset : 0;
	if (there <= blocks->layer->bitmap_bytes)
		return entry_clear(blocks, block, "bat-beyond-end", there ? "of whose block only part of its bitmap is left"
		                                                          : "beyond the end of the file");
	kept = round_down(there - blocks->layer->bitmap_bytes, VHD_SECTOR);
	if (range.offset + range.length > blocks->end)
		blocks->end = range.offset + range.length;
	r = ++blocks->told > SENTENCES_MAX ? (blocks->untold++, 0) :
	    repair_step(blocks->repair, "bat-beyond-end", entry_offset(blocks, block), "block %" PRIu32 " at offset %" PRIu64
	                " is cut short by the end of the file: the file gets that much longer, and the block keeps its first %"
	                PRIu64 " bytes", block, range.offset, kept);
	return r ? r : block_lose(blocks, block, kept, false, "cut off with the end of the file");
}

static bool is_hopeless(const struct blocks *blocks)
{
	return blocks->wrong >= blocks->used - blocks->used / 4;
}

/* Garbage may have hundreds of millions of entries: it is refused before a sentence is kept for each of its blocks. */
static bool is_garbage(struct blocks *blocks)
{
	bool garbage;

	for (uint32_t block = 0; block < blocks->count; block++) {
		struct byte_range range = {(uint64_t)blocks->entries[block] * VHD_SECTOR, blocks->block_bytes};

		if (blocks->entries[block] == VHD_BAT_UNALLOCATED)
			continue;
		blocks->used++;
		blocks->wrong += range.offset + blocks->layer->bitmap_bytes >= blocks->repair->end || on_metadata(blocks, range);
	}
	garbage = blocks->wrong > WRONG_UNASKED && is_hopeless(blocks);
	if (!garbage)
		blocks->used = blocks->wrong = 0;
	return garbage;
}

static int table_refuse(struct blocks *blocks)
{
	return repair_refuse(blocks->repair, "bat-beyond-end", blocks->layer->header.table_offset, "%" PRIu32 " of %" PRIu32
	                     " BAT entries cannot be right: what lies at offset %" PRIu64 " is not the BAT, or hardly anything "
	                     "is left of it%s", blocks->wrong, blocks->used, blocks->layer->header.table_offset,
	                     is_hopeless(blocks) ? "" : "; with --force what is right in it is kept");
}

static int sum_tell(struct blocks *blocks)
{
	uint32_t untold = blocks->untold;

	blocks->told = blocks->untold = 0;
	if (untold == 0)
		return 0;
	return repair_step(blocks->repair, "bat-beyond-end", blocks->layer->header.table_offset,
	                   "%" PRIu32 " more BAT entries like these", untold);
}

static int by_sector(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static int block_move(struct blocks *blocks, uint32_t block, uint32_t other)
{
	struct repair *repair = blocks->repair;
	uint64_t from = (uint64_t)blocks->entries[block] * VHD_SECTOR, to = slot_place(blocks->layer, blocks->end);
	struct err why;
	int r;

	if (to / VHD_SECTOR >= VHD_BAT_UNALLOCATED)
		return repair_refuse(repair, "bat-overlap", entry_offset(blocks, block), "blocks %" PRIu32 " and %" PRIu32
		                     " share bytes, and there is no room for a copy below 2 TiB", other, block);
	blocks->copied += blocks->block_bytes;
	if (blocks->copied > repair->end + COPIES_UNASKED && !repair->options->force) {
		if (repair->refused)
			return 0;
		return repair_refuse(repair, "bat-overlap", entry_offset(blocks, block), "so many blocks share bytes that the file "
		                     "would become twice as long and more: with --force it is done all the same");
	}
	if (overlay_copy(&repair->plan, from, blocks->block_bytes, to, PHASE_SPACE))
		return repair_no_memory(repair);
	blocks->end = to + blocks->block_bytes;
	blocks->entries[block] = (uint32_t)(to / VHD_SECTOR);
	repair->bat_changed = true;
	blocks->wrong++;
	r = ++blocks->told > SENTENCES_MAX ? (blocks->untold++, 0) :
	    repair_step(repair, "bat-overlap", entry_offset(blocks, block), "blocks %" PRIu32 " (at offset %" PRIu64 ") and %"
	                PRIu32 " (at %" PRIu64 ") share bytes: block %" PRIu32 " is copied to offset %" PRIu64 ", so that each "
	                "has them", other, (uint64_t)blocks->entries[other] * VHD_SECTOR, block, from, block, to);
	if (r)
		return r;
	err_set(&why, 0, "block %" PRIu32 " and block %" PRIu32 " shared these bytes: one of the two holds the other's",
	        other, block);
	r = block_lose(blocks, other, 0, true, why.text);
	return r ? r : block_lose(blocks, block, 0, true, why.text);
}

/* The first in the file stays; what begins before the end of one that stays is moved. */
static int overlaps_part(struct blocks *blocks)
{
	uint64_t *sorted = malloc(((size_t)blocks->count + 1) * sizeof(*sorted)), previous_end = 0;
	size_t count = 0;
	uint32_t previous = 0;
	int r = 0;

	if (!sorted)
		return repair_no_memory(blocks->repair);
	for (uint32_t block = 0; block < blocks->count; block++)
		if (blocks->entries[block] != VHD_BAT_UNALLOCATED)
			sorted[count++] = (uint64_t)blocks->entries[block] << 32 | block;
	qsort(sorted, count, sizeof(*sorted), by_sector);
	for (size_t i = 0; i < count; i++) {
		uint64_t end = (sorted[i] >> 32) * VHD_SECTOR + blocks->block_bytes;

		blocks->end = end > blocks->end ? end : blocks->end;
	}
	for (size_t i = 0; i < count && r == 0; i++) {
		uint64_t start = (sorted[i] >> 32) * VHD_SECTOR;

		if (start < previous_end) {
			r = block_move(blocks, (uint32_t)sorted[i], previous);
			continue;
		}
		previous_end = start + blocks->block_bytes;
		previous = (uint32_t)sorted[i];
	}
	free(sorted);
	return r;
}

static int entries_read(struct blocks *blocks)
{
	struct repair *repair = blocks->repair;
	uint64_t length = (uint64_t)blocks->count * 4;
	int r;

	blocks->entries = malloc(length + 1);
	if (!blocks->entries)
		return repair_no_memory(repair);
	r = repair_read(repair, blocks->entries, length, blocks->layer->header.table_offset);
	if (r)
		return repair_refuse(repair, "bat-unreadable", blocks->layer->header.table_offset, "reading the BAT failed: %s; copy "
		                     "the file to sound storage first, and repair the copy", strerror(-r));
	for (uint32_t i = 0; i < blocks->count; i++)
		blocks->entries[i] = be32_get(((const be32 *)blocks->entries)[i]);
	return 0;
}

static int entries_write(struct blocks *blocks)
{
	for (uint32_t i = 0; i < blocks->count; i++)
		((be32 *)blocks->entries)[i] = be32_make(blocks->entries[i]);
	if (overlay_write(&blocks->repair->plan, blocks->entries, (size_t)blocks->count * 4,
	                  blocks->layer->header.table_offset, PHASE_BAT))
		return repair_no_memory(blocks->repair);
	return 0;
}

static int blocks_repair(struct blocks *blocks)
{
	struct repair *repair = blocks->repair;
	const struct header *header = &blocks->layer->header;
	int r;

	if (blocks->count > header->max_table_entries ||
	    !range_inside(header->table_offset, (uint64_t)blocks->count * 4, repair->end))
		return 0; /* the check at the end says why nothing can be done */
	r = entries_read(blocks);
	if (r || repair->refused)
		return r;
	metadata_collect(blocks);
	if (is_garbage(blocks))
		return table_refuse(blocks);
	for (uint32_t block = 0; block < blocks->count && r == 0; block++)
		if (blocks->entries[block] != VHD_BAT_UNALLOCATED) {
			blocks->used++;
			r = entry_judge(blocks, block);
		}
	if (r == 0)
		r = sum_tell(blocks);
	if (r == 0)
		r = overlaps_part(blocks);
	if (r == 0)
		r = sum_tell(blocks);
	if (r == 0 && blocks->wrong > WRONG_UNASKED && blocks->wrong > blocks->used / 2 &&
	    (is_hopeless(blocks) || !repair->options->force))
		return table_refuse(blocks);
	if (r == 0 && repair->bat_changed)
		r = entries_write(blocks);
	/* Zeros at the end, so that nothing a guest wrote there passes for a footer. */
	if (r == 0 && blocks->end + VHD_SECTOR > repair->plan.size &&
	    overlay_resize(&repair->plan, round_up(blocks->end, VHD_SECTOR) + VHD_SECTOR))
		r = repair_no_memory(repair);
	return r;
}

int repair_blocks(struct repair *repair)
{
	struct blocks blocks = {.repair = repair};
	struct layer *layer;
	struct err why;
	int r;

	r = repair_scan(repair, &layer, NULL, &why);
	if (r < 0)
		return err_set(repair->err, r, "%s", why.text);
	if (r)
		return 0;
	blocks.layer = layer;
	blocks.count = layer->block_count;
	blocks.block_bytes = (uint64_t)layer->bitmap_bytes + layer->block_size;
	blocks.end = layer->metadata_end;
	r = blocks_repair(&blocks);
	free(blocks.entries);
	layer_free(layer);
	return r;
}
