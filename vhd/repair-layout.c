/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is left of a file proves how it was laid out: a table is the right one when every entry of it names space in the
 * file that no other entry names, and the blocks fill the file to its end.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "vhd/gaps.h"
#include "vhd/repair.h"

#define FRONT_BYTES (UINT64_C(1) << 20)  /* where headers and tables are looked for */
#define TABLE_ENTRIES_MAX (1u << 23)     /* of a table that is looked for */
#define JUDGED_ENTRIES_MAX (1u << 24)
#define TAIL_SLACK 4608u                 /* between the last block and the footer, padding of a page and a sector */

#define VOTES 256u                       /* blocks whose bitmaps are looked at */
#define EMPTY_SLACK 16384u               /* behind the table of a disk without blocks: a batmap, padding */

static uint32_t bitmap_bytes(const struct header *header)
{
	return (uint32_t)round_up((header->block_size / VHD_SECTOR + 7) / 8, VHD_SECTOR);
}

static int by_value(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

/* `entries`: the table's bytes. Sorts the used ones to its front, host order. */
static void entries_judge(const struct repair *repair, const struct header *header, uint64_t table_end, void *entries,
                          struct table_judgement *ret)
{
	uint64_t length = (uint64_t)bitmap_bytes(header) + header->block_size, previous_end = 0;
	uint32_t *used = entries;

	ret->data_end = table_end;
	for (uint64_t i = 0; i < ret->needed; i++) {
		uint32_t entry = be32_get(((const be32 *)entries)[i]);

		if (entry == VHD_BAT_UNALLOCATED)
			continue;
		if ((uint64_t)entry * VHD_SECTOR < VHD_SECTOR || !range_inside((uint64_t)entry * VHD_SECTOR, length, repair->end) ||
		    ((uint64_t)entry * VHD_SECTOR < table_end && (uint64_t)entry * VHD_SECTOR + length > header->table_offset))
			ret->bad++;
		used[ret->used++] = entry;
	}
	qsort(used, ret->used, sizeof(*used), by_value);
	for (uint64_t i = 0; i < ret->used; i++) {
		uint64_t start = (uint64_t)used[i] * VHD_SECTOR;

		if (i > 0 && start < previous_end)
			ret->bad++;
		else if (i > 0 && start - previous_end >= header->block_size)
			ret->holes++;
		previous_end = start + length;
		if (previous_end <= repair->end && previous_end > ret->data_end)
			ret->data_end = previous_end;
	}
}

int table_judge(const struct repair *repair, const struct header *header, uint64_t header_offset, uint64_t size,
                struct table_judgement *ret)
{
	uint64_t bytes, padded;
	void *entries;
	int r;

	*ret = (struct table_judgement){.needed = (size + header->block_size - 1) / header->block_size};
	bytes = ret->needed * 4;
	padded = round_up((uint64_t)header->max_table_entries * 4, VHD_SECTOR);
	if (ret->needed > JUDGED_ENTRIES_MAX || header->max_table_entries < ret->needed ||
	    !range_inside(header->table_offset, padded, repair->end) || header->table_offset < VHD_SECTOR ||
	    (header->table_offset < header_offset + sizeof(struct header_disk) &&
	     header_offset < header->table_offset + padded))
		return 0;
	ret->inside = true;
	entries = malloc(bytes);
	if (!entries)
		return -ENOMEM;
	r = repair_read(repair, entries, bytes, header->table_offset);
	if (r == 0)
		entries_judge(repair, header, header->table_offset + padded, entries, ret);
	else
		ret->inside = false;
	free(entries);
	return 0;
}

/* The file's front, to look at many places in it. */
struct front {
	uint8_t *bytes; /* owned */
	uint64_t length;
};

static int front_read(const struct repair *repair, struct front *ret)
{
	uint64_t length = FRONT_BYTES + (uint64_t)TABLE_ENTRIES_MAX * 4;
	int r;

	ret->length = length < repair->end ? length : repair->end;
	ret->bytes = malloc(ret->length + 1);
	if (!ret->bytes)
		return -ENOMEM;
	r = repair_read(repair, ret->bytes, ret->length, 0);
	if (r)
		free(ret->bytes);
	return r;
}

static bool all_unallocated(const uint8_t *bytes, uint64_t length)
{
	return length && bytes[0] == 0xFF && !memcmp(bytes, bytes + 1, length - 1);
}

/* A quick look at what entries_judge would find. */
static bool looks_like_table(const struct front *front, uint64_t offset, uint64_t needed, uint64_t block_bytes,
                             uint64_t end)
{
	const be32 *entries = (const be32 *)(front->bytes + offset);
	uint64_t padded = round_up(needed * 4, VHD_SECTOR);

	if (!range_inside(offset, padded, front->length))
		return false;
	/* A table starts where all ones start. */
	if (offset >= VHD_SECTOR && all_unallocated(front->bytes + offset - VHD_SECTOR, VHD_SECTOR))
		return false;
	for (uint64_t i = 0; i < needed; i++) {
		uint64_t start = (uint64_t)be32_get(entries[i]) * VHD_SECTOR;

		if (start != (uint64_t)VHD_BAT_UNALLOCATED * VHD_SECTOR &&
		    (start < offset + needed * 4 || !range_inside(start, block_bytes, end)))
			return false;
	}
	/* What pads it is ones, or (VirtualBox) zeros: entries that go on say that the blocks are smaller. */
	for (uint64_t i = needed; i * 4 < padded; i++)
		if (be32_get(entries[i]) != VHD_BAT_UNALLOCATED && be32_get(entries[i]) != 0)
			return false;
	return true;
}

/* Whether bits [first, end) are all `set`. */
static bool bits_are(const uint8_t *bitmap, uint32_t first, uint32_t end, bool set)
{
	for (uint32_t i = first; i < end; i++)
		if (!!(bitmap[i / 8] & (0x80 >> i % 8)) != set)
			return false;
	return true;
}

static bool is_zero(const uint8_t *bytes, size_t length)
{
	return bytes[0] == 0 && !memcmp(bytes, bytes + 1, length - 1);
}

/* What the bitmaps say of a block size. */
struct bitmap_votes {
	uint32_t looked;
	uint32_t padded;     /* whose bits beyond the block are neither all set nor all clear: the block is larger */
	uint32_t half;       /* with bits in its upper half */
	uint32_t clear, lie; /* with clear bits; with data under the last of them, where a dynamic disk has zeros */
};

static int block_vote(const struct repair *repair, const struct header *header, uint64_t at, uint8_t *bitmap,
                      struct bitmap_votes *votes)
{
	uint32_t sectors = header->block_size / VHD_SECTOR, length = bitmap_bytes(header), last = sectors;
	uint8_t sector[VHD_SECTOR];
	int r;

	r = repair_read(repair, bitmap, length, at);
	if (r)
		return r;
	votes->looked++;
	if (length * 8 > sectors && !bits_are(bitmap, sectors, length * 8, false) && !bits_are(bitmap, sectors, length * 8, true))
		votes->padded++;
	votes->half += !bits_are(bitmap, sectors / 2, sectors, false);
	while (last > 0 && (bitmap[(last - 1) / 8] & (0x80 >> (last - 1) % 8)))
		last--;
	if (last == 0)
		return 0;
	votes->clear++;
	r = repair_read(repair, sector, sizeof(sector), at + length + (uint64_t)(last - 1) * VHD_SECTOR);
	votes->lie += r == 0 && !is_zero(sector, sizeof(sector));
	return r;
}

/* Whether the sector bitmaps of the table's first blocks look like those of blocks of that size. */
static bool bitmaps_agree(const struct repair *repair, const struct header *header, uint64_t needed)
{
	struct bitmap_votes votes = {0};
	uint8_t *bitmap = malloc(bitmap_bytes(header));
	int r = bitmap ? 0 : -ENOMEM;

	for (uint64_t i = 0; i < needed && votes.looked < VOTES && r == 0; i++) {
		be32 entry;

		r = repair_read(repair, &entry, sizeof(entry), header->table_offset + i * 4);
		if (r == 0 && be32_get(entry) != VHD_BAT_UNALLOCATED)
			r = block_vote(repair, header, (uint64_t)be32_get(entry) * VHD_SECTOR, bitmap, &votes);
	}
	free(bitmap);
	return r == 0 && (votes.looked == 0 || (votes.padded <= votes.looked / 4 && votes.half > 0 &&
	       (repair->footer.type != VHD_DYNAMIC || votes.lie <= votes.clear / 2)));
}

/* Blocks that are too small leave holes, in which others would fit, behind each of them and before the file's end. */
static bool is_filled(const struct repair *repair, const struct header *header, const struct table_judgement *table)
{
	uint64_t slack = header->block_size - VHD_SECTOR < TAIL_SLACK ? header->block_size - VHD_SECTOR : TAIL_SLACK;

	return table->used == 0 || (table->holes <= (table->used - 1) / 2 && repair->end - table->data_end <= slack);
}

/* The best table for header->block_size; *ret_used: how many blocks it has. 0, 1: none, or two as good. */
static int table_pick(const struct repair *repair, const struct front *front, uint64_t header_offset, uint64_t size,
                      struct header *header, bool to_the_end, uint64_t *ret_used)
{
	uint64_t needed = (size + header->block_size - 1) / header->block_size, best = 0, best_used = 0;
	uint64_t block_bytes = (uint64_t)bitmap_bytes(header) + header->block_size;
	bool found = false, tie = false;

	if (needed > TABLE_ENTRIES_MAX)
		return 1;
	header->max_table_entries = (uint32_t)needed;
	for (uint64_t offset = VHD_SECTOR; offset < FRONT_BYTES && offset < front->length; offset += VHD_SECTOR) {
		struct table_judgement table;
		int r;

		header->table_offset = offset;
		if (!looks_like_table(front, offset, needed, block_bytes, repair->end))
			continue;
		r = table_judge(repair, header, header_offset, size, &table);
		if (r)
			return r;
		if (!table.inside || table.bad || (to_the_end && !is_filled(repair, header, &table)))
			continue;
		if (to_the_end && !bitmaps_agree(repair, header, table.needed))
			continue;
		if (to_the_end && table.used == 0 && repair->end - table.data_end > EMPTY_SLACK)
			continue;
		tie = found && table.used == best_used;
		if (!found || table.used > best_used) {
			best = offset;
			best_used = table.used;
		}
		found = true;
	}
	header->table_offset = best;
	*ret_used = best_used;
	return found && (!tie || best_used == 0) ? 0 : 1;
}

int table_find(const struct repair *repair, uint64_t header_offset, uint64_t size, struct header *header)
{
	struct header found = *header;
	struct front front;
	uint64_t used;
	int r;

	r = front_read(repair, &front);
	if (r)
		return r;
	r = table_pick(repair, &front, header_offset, size, &found, false, &used);
	free(front.bytes);
	if (r == 0)
		header->table_offset = found.table_offset;
	return r;
}

int layout_find(const struct repair *repair, uint64_t header_offset, uint64_t size, struct header *ret)
{
	static const unsigned empty_shifts[] = {21, 19}; /* the usual ones, where no block tells */
	struct header header = {.block_size = 0};
	struct front front;
	uint64_t used;
	int r;

	r = front_read(repair, &front);
	if (r)
		return r;
	/* Blocks that are too large overlap or leave the file; so the largest that fits is the right one. */
	r = 1;
	for (unsigned shift = 28; shift >= 9 && r == 1; shift--) {
		header.block_size = 1u << shift;
		r = table_pick(repair, &front, header_offset, size, &header, true, &used);
		if (r == 0 && used == 0)
			r = 1;
	}
	for (unsigned i = 0; i < 2 && r == 1; i++) {
		header.block_size = 1u << empty_shifts[i];
		r = table_pick(repair, &front, header_offset, size, &header, true, &used);
		if (r == 0 && used)
			r = 1;
	}
	free(front.bytes);
	if (r == 0)
		*ret = header;
	return r;
}

int header_search(const struct repair *repair, struct header *ret, uint64_t *ret_offset)
{
	*ret_offset = 0;
	for (uint64_t offset = VHD_SECTOR; offset < FRONT_BYTES; offset += VHD_SECTOR) {
		struct header_disk disk;

		if (!range_inside(offset, sizeof(disk), repair->plan.size))
			break;
		if (repair_read(repair, &disk, sizeof(disk), offset) || !header_has_cookie(&disk))
			continue;
		*ret_offset = offset;
		return header_decode(&disk, false, ret, NULL) ? 1 : 0;
	}
	return 1;
}
