/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The Block Allocation Table: read in one go, checked in one pass, in time and memory that its file's size bounds.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "vhd/layer-scan.h"

/* Entries read at a time: a table of the usual block size comes in one read, a hostile giant one fails at its start. */
#define BAT_CHUNK_ENTRIES (1u << 20)
/* More entries than this are only allocated for when the file really holds them. */
#define BAT_UNPROVEN_MAX (1u << 24)
/* A damaged table is told of in so many sentences of each kind, and a sum. */
#define BAT_SENTENCES_MAX 32u

struct bat_scan {
	struct layer_scan *scan;
	uint32_t *entries; /* layer->bat, before anybody else can see it */
	uint32_t block_sectors; /* bitmap and payload */
	uint32_t first_free, last_start; /* entries from here to there need no closer look */
	uint64_t previous; /* where the block before ended, sectors */
	uint32_t bitmap_sectors, allocated, misaligned, highest;
	bool ascending; /* so far each block starts behind the one before */
	uint64_t beyond_end, on_metadata, overlaps; /* how many there were of each defect */
};

/* The sentence is made only if it is told: a hostile table can have half a billion bad entries. */
__attribute__((format(printf, 5, 6)))
static int damage(struct bat_scan *bat, uint64_t *count, const char *code, uint32_t block, const char *format, ...)
{
	const struct layer *layer = bat->scan->layer;
	char sentence[256];
	va_list args;

	if (++*count > BAT_SENTENCES_MAX)
		return 0;
	va_start(args, format);
	vsnprintf(sentence, sizeof(sentence), format, args);
	va_end(args);
	return defect_report(&bat->scan->scope, VHD_DAMAGE, code, VHD_E_CORRUPT,
	                     layer->header.table_offset + (uint64_t)block * 4, "%s", sentence);
}

static inline void entry_accept(struct bat_scan *bat, uint32_t entry)
{
	bat->allocated++;
	bat->misaligned |= entry + bat->bitmap_sectors;
	bat->ascending &= entry >= bat->previous;
	bat->previous = (uint64_t)entry + bat->block_sectors;
	bat->highest = entry > bat->highest ? entry : bat->highest;
}

static int entry_check(struct bat_scan *bat, uint32_t block)
{
	const struct layer_scan *scan = bat->scan;
	struct layer *layer = scan->layer;
	uint32_t entry = bat->entries[block];
	struct byte_range range = layer_block_range(layer, entry);
	int r = 0;

	if (!range_inside(range.offset, range.length, scan->end)) {
		r = damage(bat, &bat->beyond_end, "bat-beyond-end", block, "BAT entry %" PRIu32 " (at offset %" PRIu64
		           ") is sector %" PRIu32 ": a block of %" PRIu64 " bytes at offset %" PRIu64 " does not end before %s at "
		           "%" PRIu64, block, layer->header.table_offset + (uint64_t)block * 4, entry, range.length,
		           range.offset, scan->end < layer->file_size ? "the footer" : "the file's end", scan->end);
		/* A block that the file's end cuts short can be salvaged as far as it goes. */
		if (range.offset < scan->metadata_end || range.offset >= scan->end ||
		    scan->end - range.offset <= layer->bitmap_bytes)
			bat->entries[block] = VHD_BAT_UNALLOCATED;
		else if (r == 0)
			entry_accept(bat, entry);
		return r;
	}
	if (range.offset < scan->metadata_end)
		for (unsigned i = 0; i < scan->metadata_count; i++) {
			if (!ranges_overlap(range, scan->metadata[i].range))
				continue;
			r = damage(bat, &bat->on_metadata, "bat-overlaps-metadata", block, "BAT entry %" PRIu32 " (at offset %"
			           PRIu64 ") is sector %" PRIu32 ": its block overlaps %s at offset %" PRIu64, block,
			           layer->header.table_offset + (uint64_t)block * 4, entry, scan->metadata[i].name,
			           scan->metadata[i].range.offset);
			bat->entries[block] = VHD_BAT_UNALLOCATED;
			return r;
		}

	entry_accept(bat, entry);
	return 0;
}

static int entries_overlap(struct bat_scan *bat, uint32_t a, uint32_t b)
{
	uint32_t first = a < b ? a : b, second = a < b ? b : a;

	return damage(bat, &bat->overlaps, "bat-overlap", second, "BAT entries %" PRIu32 " and %" PRIu32 " (sectors %" PRIu32
	              " and %" PRIu32 ", offsets %" PRIu64 " and %" PRIu64 ") name blocks that overlap: at most one of them "
	              "can be right", first, second, bat->entries[first], bat->entries[second],
	              (uint64_t)bat->entries[first] * VHD_SECTOR, (uint64_t)bat->entries[second] * VHD_SECTOR);
}

/* `block` overlaps another block, which starts at sector `other` and stands before it in the table. */
static int overlap_report(struct bat_scan *bat, uint32_t block, uint32_t other)
{
	uint32_t first = 0;

	if (bat->overlaps >= BAT_SENTENCES_MAX) {
		bat->overlaps++;
		return 0;
	}
	while (bat->entries[first] != other)
		first++;
	return entries_overlap(bat, first, block);
}

static bool too_close(const struct bat_scan *bat, uint32_t x, uint32_t y)
{
	uint32_t reach = bat->block_sectors - 1;

	return x - y + reach <= 2 * reach;
}

/*
 * Blocks that do not overlap start at least a block's length apart. With a bucket for each stretch of file of the
 * greatest power of two of sectors in that, no bucket may get two, and only two neighbours each way need comparing.
 */
static int overlaps_by_bucket(struct bat_scan *bat, unsigned bucket_shift, uint64_t buckets)
{
	struct layer *layer = bat->scan->layer;
	uint32_t *starts = calloc(buckets + 4, sizeof(*starts)); /* 0: none; two spare ones each side */
	int r = 0;

	if (!starts)
		return -ENOMEM;
	for (uint32_t block = 0; block < layer->block_count && r == 0; block++) {
		uint32_t entry = bat->entries[block], *bucket;
		bool close;

		if (entry == VHD_BAT_UNALLOCATED)
			continue;
		bucket = starts + 2 + (entry >> bucket_shift);
		/* Without branches, which no processor could predict: an empty bucket passes for a block at sector 0. */
		close = too_close(bat, bucket[-2], entry) | too_close(bat, bucket[-1], entry) | too_close(bat, bucket[0], entry) |
		        too_close(bat, bucket[1], entry) | too_close(bat, bucket[2], entry);
		for (int i = -2; close && i <= 2 && r == 0; i++)
			if (bucket[i] && too_close(bat, bucket[i], entry))
				r = overlap_report(bat, block, bucket[i]);
		bucket[0] = entry;
	}
	free(starts);
	return r;
}

static int compare_u64(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

/* For few blocks spread over a large file. */
static int overlaps_by_sorting(struct bat_scan *bat)
{
	struct layer *layer = bat->scan->layer;
	uint64_t *sorted = malloc((size_t)layer->allocated * sizeof(*sorted)); /* sector << 32 | block */
	size_t count = 0;
	int r = 0;

	if (!sorted)
		return -ENOMEM;
	for (uint32_t block = 0; block < layer->block_count; block++)
		if (bat->entries[block] != VHD_BAT_UNALLOCATED)
			sorted[count++] = (uint64_t)bat->entries[block] << 32 | block;
	qsort(sorted, count, sizeof(*sorted), compare_u64);
	for (size_t i = 1; i < count && r == 0; i++)
		if (too_close(bat, (uint32_t)(sorted[i - 1] >> 32), (uint32_t)(sorted[i] >> 32)))
			r = entries_overlap(bat, (uint32_t)sorted[i - 1], (uint32_t)sorted[i]);
	free(sorted);
	return r;
}

static int overlaps_find(struct bat_scan *bat)
{
	const struct layer *layer = bat->scan->layer;
	uint64_t sectors = bat->scan->end / VHD_SECTOR < UINT32_MAX ? bat->scan->end / VHD_SECTOR : UINT32_MAX;
	unsigned bucket_shift = 31u - (unsigned)__builtin_clz(bat->block_sectors);
	uint64_t buckets = (sectors >> bucket_shift) + 1;

	if (layer->allocated < 2 || bat->ascending)
		return 0;
	if (buckets <= (uint64_t)layer->allocated * 8 + BAT_CHUNK_ENTRIES)
		return overlaps_by_bucket(bat, bucket_shift, buckets);
	return overlaps_by_sorting(bat);
}

static int sum_report(const struct bat_scan *bat, uint64_t count, const char *code, const char *what)
{
	if (count <= BAT_SENTENCES_MAX)
		return 0;
	return defect_report(&bat->scan->scope, VHD_DAMAGE, code, VHD_E_CORRUPT, bat->scan->layer->header.table_offset,
	                     "%" PRIu64 " more BAT entries %s", count - BAT_SENTENCES_MAX, what);
}

static int no_memory(const struct layer_scan *scan)
{
	return err_set(scan->scope.err, -ENOMEM, "%s: no memory for a BAT of %" PRIu32 " entries", scan->scope.path,
	               scan->layer->block_count);
}

/* How many of the entries that the disk needs can be read. */
static int entries_present(struct layer_scan *scan, uint32_t *ret)
{
	struct layer *layer = scan->layer;
	const struct header *header = &layer->header;
	uint64_t present = layer->block_count;
	int r = 0;

	if (header->max_table_entries < present) {
		r = defect_report(&scan->scope, VHD_DAMAGE, "bat-too-small", VHD_E_CORRUPT, layer->header_offset + 0x1c,
		                  "the header's Max Table Entries is %" PRIu32 ", but a disk of %" PRIu64 " bytes in blocks of %"
		                  PRIu32 " needs %" PRIu32, header->max_table_entries, layer->size, layer->block_size,
		                  layer->block_count);
		if (r)
			return r;
		present = header->max_table_entries;
	}
	if (!range_inside(header->table_offset, (uint64_t)header->max_table_entries * 4, scan->end)) {
		uint64_t room = header->table_offset < scan->end ? (scan->end - header->table_offset) / 4 : 0;

		r = defect_report(&scan->scope, VHD_DAMAGE, "bat-beyond-end", VHD_E_CORRUPT, layer->header_offset + 0x10,
		                  "the BAT of %" PRIu32 " entries at offset %" PRIu64 " (Table Offset) does not end before %s at "
		                  "%" PRIu64, header->max_table_entries, header->table_offset,
		                  scan->end < layer->file_size ? "the footer" : "the file's end", scan->end);
		if (r)
			return r;
		present = room < present ? room : present;
	}
	if (present < layer->block_count && layer->block_count > BAT_UNPROVEN_MAX)
		return err_set(scan->scope.err, VHD_E_CORRUPT, "%s: the BAT holds %" PRIu64 " of the %" PRIu32
		               " entries that the disk needs: too damaged to read", scan->scope.path, present,
		               layer->block_count);
	*ret = (uint32_t)present;
	return 0;
}

int bat_load(struct layer_scan *scan)
{
	struct layer *layer = scan->layer;
	struct bat_scan bat = {.scan = scan};
	struct byte_range last;
	uint64_t last_start = 0;
	uint32_t present = 0;
	int r;

	r = entries_present(scan, &present);
	if (r)
		return r;
	_Static_assert(sizeof(*layer->bat) == sizeof(be32), "the BAT is converted in place");
	layer->bat = malloc((size_t)layer->block_count * sizeof(*layer->bat));
	if (!layer->bat)
		return no_memory(scan);
	bat.entries = (uint32_t *)layer->bat;
	bat.bitmap_sectors = layer->bitmap_bytes / VHD_SECTOR;
	bat.block_sectors = bat.bitmap_sectors + layer->block_size / VHD_SECTOR;
	bat.ascending = true;
	if (scan->metadata_end / VHD_SECTOR < UINT32_MAX - 1)
		bat.first_free = (uint32_t)((scan->metadata_end + VHD_SECTOR - 1) / VHD_SECTOR);
	else
		bat.first_free = UINT32_MAX;
	if (scan->end / VHD_SECTOR >= bat.block_sectors)
		last_start = scan->end / VHD_SECTOR - bat.block_sectors;
	bat.last_start = last_start < VHD_BAT_UNALLOCATED ? (uint32_t)last_start : VHD_BAT_UNALLOCATED - 1;

	for (uint32_t start = 0; start < present; start += BAT_CHUNK_ENTRIES) {
		uint32_t count = present - start < BAT_CHUNK_ENTRIES ? present - start : BAT_CHUNK_ENTRIES;
		uint64_t offset = layer->header.table_offset + (uint64_t)start * 4;

		r = layer_read(layer, bat.entries + start, (size_t)count * 4, offset);
		if (r < 0) {
			memset(bat.entries + start, 0xFF, (size_t)count * 4);
			r = defect_report(&scan->scope, VHD_DAMAGE, "bat-unreadable", r, offset,
			                  "reading %" PRIu32 " bytes of the BAT at offset %" PRIu64 " failed: %s", count * 4, offset,
			                  strerror(-r));
			if (r)
				return r;
		}
		for (uint32_t block = start; block < start + count; block++) {
			uint32_t entry = __builtin_bswap32(bat.entries[block]);

#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
			entry = bat.entries[block];
#endif
			bat.entries[block] = entry;
			if (entry >= bat.first_free && entry <= bat.last_start) {
				entry_accept(&bat, entry);
			} else if (entry != VHD_BAT_UNALLOCATED) {
				r = entry_check(&bat, block);
				if (r)
					return r;
			}
		}
	}
	memset(bat.entries + present, 0xFF, ((size_t)layer->block_count - present) * 4);

	layer->allocated = bat.allocated;
	layer->payload_aligned = bat.misaligned % 8 == 0;
	last = layer_block_range(layer, bat.highest);
	if (bat.allocated && last.offset + last.length > layer->data_end)
		layer->data_end = last.offset + last.length;

	r = overlaps_find(&bat);
	if (r == -ENOMEM)
		return no_memory(scan);
	if (r == 0)
		r = sum_report(&bat, bat.beyond_end, "bat-beyond-end", "lie beyond the end");
	if (r == 0)
		r = sum_report(&bat, bat.on_metadata, "bat-overlaps-metadata", "lie on metadata");
	if (r == 0)
		r = sum_report(&bat, bat.overlaps, "bat-overlap", "overlap others");
	return r;
}
