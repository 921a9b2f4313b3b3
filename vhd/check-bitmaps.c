/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the sector bitmaps say. A dynamic disk's can only show what is harmless (clear bits read as zeros), so of a huge
 * one only so many are read that a check stays a matter of seconds; a differencing disk's are read all.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "vhd/check.h"
#include "vhd/layer-scan.h"

#define DYNAMIC_BITMAPS_MAX (1u << 16)
#define PROGRESS_BLOCKS 8192u
#define FOREIGN_BLOCKS_MAX 256u /* how many blocks are looked into for what QEMU leaves */
#define FOREIGN_SAMPLES 32u     /* sectors of each */
#define SENTENCES_MAX 32u

struct bitmap_scan {
	struct check *check;
	struct defect_scope scope;
	const struct layer *layer;
	unsigned index;
	uint8_t *bitmap;
	uint8_t *batmap; /* NULL: none */
	uint32_t partial, first_partial;
	uint32_t batmap_wrong, first_batmap_wrong;
	uint32_t foreign_looked, foreign, first_foreign;
	uint32_t unreadable;
};

static uint32_t block_sectors(const struct layer *layer, uint32_t block)
{
	uint64_t start = (uint64_t)block << layer->block_shift, left = layer->size - start;

	return (uint32_t)((left < layer->block_size ? left : layer->block_size) / VHD_SECTOR);
}

static bool bit_is_set(const uint8_t *map, uint32_t bit)
{
	return map[bit / 8] & (0x80 >> bit % 8);
}

static bool bitmap_is_full(const uint8_t *bitmap, uint32_t sectors)
{
	for (uint32_t i = 0; i < sectors / 8; i++)
		if (bitmap[i] != 0xFF)
			return false;
	for (uint32_t i = sectors / 8 * 8; i < sectors; i++)
		if (!bit_is_set(bitmap, i))
			return false;
	return true;
}

static bool is_zero(const uint8_t *bytes, size_t length)
{
	return bytes[0] == 0 && !memcmp(bytes, bytes + 1, length - 1);
}

/* A sector of the disk as the layers from `index` on show it. 0 or -errno. */
static int sector_read(const struct chain *chain, unsigned index, uint64_t offset, uint8_t *ret)
{
	for (; index < chain->count; index++) {
		const struct layer *layer = chain->layers[index];
		uint32_t block, entry, bit;
		uint64_t at;
		uint8_t byte;
		int r;

		if (offset + VHD_SECTOR > layer->size)
			break;
		if (layer->raw || layer->footer.type == VHD_FIXED)
			return layer_read(layer, ret, VHD_SECTOR, offset);
		block = (uint32_t)(offset >> layer->block_shift);
		bit = (uint32_t)(offset & (layer->block_size - 1)) / VHD_SECTOR;
		entry = atomic_load_explicit(&layer->bat[block], memory_order_relaxed);
		if (entry == VHD_BAT_UNALLOCATED)
			continue;
		at = (uint64_t)entry * VHD_SECTOR;
		r = layer_read(layer, &byte, 1, at + bit / 8);
		if (r)
			return r;
		if (byte & (0x80 >> bit % 8))
			return layer_read(layer, ret, VHD_SECTOR, at + layer->bitmap_bytes + (uint64_t)bit * VHD_SECTOR);
	}
	memset(ret, 0, VHD_SECTOR);
	return 0;
}

/*
 * QEMU takes a differencing disk for a dynamic one: a write to a new block sets its whole bitmap, and where it did not
 * write, zeros hide the parent. A guest that wrote zeros looks alike, but QEMU alone of today's writers starts blocks
 * wherever the last one ended, so only blocks whose data is not aligned to 4 KiB are suspected, and samples will do.
 */
static int look_for_foreign(struct bitmap_scan *scan, uint32_t block, uint32_t sectors)
{
	const struct layer *layer = scan->layer;
	uint64_t payload = (uint64_t)layer->bat[block] * VHD_SECTOR + layer->bitmap_bytes;
	uint32_t samples = sectors < FOREIGN_SAMPLES ? sectors : FOREIGN_SAMPLES;
	uint8_t sector[VHD_SECTOR];
	int r = 0;

	if (payload % 4096 == 0 || scan->index + 1 >= scan->check->chain.count ||
	    scan->foreign_looked >= FOREIGN_BLOCKS_MAX)
		return 0;
	scan->foreign_looked++;
	for (uint32_t i = 0; i < samples && r == 0; i++) {
		uint64_t at = (uint64_t)sectors * i / samples * VHD_SECTOR;

		r = layer_read(layer, sector, sizeof(sector), payload + at);
		if (r || !is_zero(sector, sizeof(sector)))
			continue;
		r = sector_read(&scan->check->chain, scan->index + 1, ((uint64_t)block << layer->block_shift) + at, sector);
		if (r || is_zero(sector, sizeof(sector)))
			continue;
		if (scan->foreign++ == 0)
			scan->first_foreign = block;
		break;
	}
	return r;
}

static void unreadable(struct bitmap_scan *scan, uint32_t block, uint64_t offset, int r)
{
	if (++scan->unreadable <= SENTENCES_MAX)
		defect_report(&scan->scope, VHD_DAMAGE, "bitmap-unreadable", VHD_E_CORRUPT, offset,
		              "reading the sector bitmap of block %" PRIu32 ", %" PRIu32 " bytes at offset %" PRIu64
		              ", failed: %s", block, scan->layer->bitmap_bytes, offset, strerror(-r));
}

static void bitmap_check(struct bitmap_scan *scan, uint32_t block)
{
	const struct layer *layer = scan->layer;
	uint64_t offset = (uint64_t)layer->bat[block] * VHD_SECTOR;
	uint32_t sectors = block_sectors(layer, block);
	bool full;
	int r;

	r = layer_read(layer, scan->bitmap, layer->bitmap_bytes, offset);
	if (r) {
		unreadable(scan, block, offset, r);
		return;
	}
	full = bitmap_is_full(scan->bitmap, sectors);
	if (!full && scan->partial++ == 0)
		scan->first_partial = block;
	if (!full && scan->batmap && bit_is_set(scan->batmap, block) && scan->batmap_wrong++ == 0)
		scan->first_batmap_wrong = block;
	if (full && layer->footer.type == VHD_DIFFERENCING) {
		r = look_for_foreign(scan, block, sectors);
		if (r)
			unreadable(scan, block, offset, r);
	}
}

static void summarise(struct bitmap_scan *scan, uint32_t looked)
{
	const struct layer *layer = scan->layer;

	if (scan->unreadable > SENTENCES_MAX)
		defect_report(&scan->scope, VHD_DAMAGE, "bitmap-unreadable", VHD_E_CORRUPT, 0,
		              "%" PRIu32 " more blocks cannot be read", scan->unreadable - SENTENCES_MAX);
	if (scan->partial && layer->footer.type == VHD_DYNAMIC)
		defect_report(&scan->scope, VHD_NOTE, "bitmap-partial", VHD_E_CORRUPT,
		              (uint64_t)layer->bat[scan->first_partial] * VHD_SECTOR,
		              "%" PRIu32 " of %" PRIu32 " sector bitmaps read, the first that of block %" PRIu32 ", have sectors "
		              "marked as absent: they are zeros here, but QEMU shows what the file holds there", scan->partial,
		              looked, scan->first_partial);
	if (scan->batmap_wrong)
		defect_report(&scan->scope, VHD_WARNING, "batmap-wrong", VHD_E_CORRUPT, layer->batmap_bits.offset,
		              "the batmap calls %" PRIu32 " blocks full, the first of them block %" PRIu32
		              ", whose bitmaps are not; Xen would believe it", scan->batmap_wrong, scan->first_batmap_wrong);
	if (scan->foreign)
		defect_report(&scan->scope, VHD_WARNING, "qemu-wrote", VHD_E_CORRUPT,
		              (uint64_t)layer->bat[scan->first_foreign] * VHD_SECTOR,
		              "it looks as if QEMU, which does not know parents, wrote to this differencing disk: %" PRIu32
		              " blocks of %" PRIu32 " looked into, the first of them block %" PRIu32
		              ", hide the parent's data under zeros; the disk is to be restored from a copy, or its parent used",
		              scan->foreign, scan->foreign_looked, scan->first_foreign);
}

static int batmap_read(struct bitmap_scan *scan)
{
	const struct layer *layer = scan->layer;

	if (layer->batmap_bits.length == 0)
		return 0;
	scan->batmap = malloc(layer->batmap_bits.length);
	if (!scan->batmap)
		return -ENOMEM;
	if (layer_read(layer, scan->batmap, layer->batmap_bits.length, layer->batmap_bits.offset)) {
		free(scan->batmap);
		scan->batmap = NULL;
	}
	return 0;
}

int check_bitmaps(struct check *check, unsigned index)
{
	const struct layer *layer = check->chain.layers[index];
	struct bitmap_scan scan = {
		.check = check,
		.scope = {layer->path, &check->sink, check->err},
		.layer = layer,
		.index = index,
		.bitmap = malloc(layer->bitmap_bytes),
	};
	uint32_t limit = layer->footer.type == VHD_DYNAMIC ? DYNAMIC_BITMAPS_MAX : UINT32_MAX, looked = 0;
	const struct vhd_check_options *options = check->options;
	int r = scan.bitmap ? batmap_read(&scan) : -ENOMEM;

	for (uint32_t block = 0; block < layer->block_count && r == 0; block++) {
		if (layer->bat[block] != VHD_BAT_UNALLOCATED && looked < limit) {
			looked++;
			bitmap_check(&scan, block);
		}
		if (++check->blocks_done % PROGRESS_BLOCKS == 0 && options->progress)
			options->progress(options->user, check->blocks_done, check->result.blocks);
	}
	if (r == 0) {
		summarise(&scan, looked);
		if (looked < layer->allocated)
			defect_report(&scan.scope, VHD_NOTE, "bitmaps-not-read", VHD_E_CORRUPT, 0,
			              "the sector bitmaps of the first %" PRIu32 " of %" PRIu32 " allocated blocks were looked at; a "
			              "dynamic disk's hold nothing that could be damage", looked, layer->allocated);
	} else {
		err_set(check->err, r, "%s: no memory to check its bitmaps", layer->path);
	}
	free(scan.bitmap);
	free(scan.batmap);
	return r;
}
