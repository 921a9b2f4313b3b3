/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the sector bitmaps say. A dynamic disk's can only show what is harmless (clear bits read as zeros), so of a huge
 * one only so many are read that a check stays a matter of seconds; a differencing disk's are read all.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "vhd/check.h"
#include "vhd/layer-scan.h"

#define DYNAMIC_BITMAPS_MAX (1u << 16)
#define BATCH_BLOCKS 16384u
#define READERS 8u              /* threads: a disk likes to have several reads at a time, and a cache several processors */
#define BLOCKS_FOR_READERS 512u /* fewer are read before threads have started */
#define FOREIGN_BLOCKS_MAX 256u /* how many blocks are looked into for what QEMU leaves */
#define FOREIGN_SAMPLES 32u     /* sectors of each */
#define SENTENCES_MAX 32u

struct finding {
	int error; /* -errno of reading the bitmap */
	bool full;
};

struct bitmap_scan {
	struct check *check;
	struct defect_scope scope;
	const struct layer *layer;
	unsigned index;
	struct finding *findings; /* of a batch: what its bitmaps say */
	uint8_t *batmap; /* NULL: none */
	uint32_t partial, first_partial;
	uint32_t batmap_wrong, first_batmap_wrong;
	uint32_t foreign_looked, foreign, first_foreign;
	uint32_t unreadable;
};

uint32_t layer_block_sectors(const struct layer *layer, uint32_t block)
{
	uint64_t start = (uint64_t)block << layer->block_shift, left = layer->size - start;

	return (uint32_t)((left < layer->block_size ? left : layer->block_size) / VHD_SECTOR);
}

static bool bit_is_set(const uint8_t *map, uint32_t bit)
{
	return map[bit / 8] & (0x80 >> bit % 8);
}

bool bitmap_bytes_full(const uint8_t *bitmap, uint32_t sectors)
{
	if (sectors >= 8 && (bitmap[0] != 0xFF || memcmp(bitmap, bitmap + 1, sectors / 8 - 1)))
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

/* Reads the bitmaps of every READERS-th block of a batch. */
struct reader {
	const struct layer *layer;
	struct finding *findings;
	uint32_t first, count, step; /* blocks: `first` is in findings[0] */
	uint32_t start;
	uint8_t *bitmap; /* owned */
	pthread_t thread;
};

static void *reader_run(void *user)
{
	struct reader *reader = user;
	const struct layer *layer = reader->layer;

	for (uint32_t i = reader->start; i < reader->count; i += reader->step) {
		struct finding *finding = &reader->findings[i];
		uint32_t entry = layer->bat[reader->first + i];

		if (entry == VHD_BAT_UNALLOCATED)
			continue;
		finding->error = layer_read(layer, reader->bitmap, layer->bitmap_bytes, (uint64_t)entry * VHD_SECTOR);
		finding->full = finding->error == 0 &&
		                bitmap_bytes_full(reader->bitmap, layer_block_sectors(layer, reader->first + i));
	}
	return NULL;
}

/* Fills scan->findings for `count` blocks, of which `allocated` have bitmaps. 0 or -ENOMEM. */
static int batch_read(struct bitmap_scan *scan, uint32_t first, uint32_t count, uint32_t allocated)
{
	unsigned wanted = allocated < BLOCKS_FOR_READERS ? 1 : READERS, started = 0;
	struct reader readers[READERS];
	int r = 0;

	for (unsigned i = 0; i < wanted; i++) {
		readers[i] = (struct reader){
			.layer = scan->layer,
			.findings = scan->findings,
			.first = first,
			.count = count,
			.step = wanted,
			.start = i,
			.bitmap = malloc(scan->layer->bitmap_bytes),
		};
		if (!readers[i].bitmap)
			r = -ENOMEM;
	}
	/* What no thread could be had for is read here. */
	while (r == 0 && started + 1 < wanted &&
	       pthread_create(&readers[started].thread, NULL, reader_run, &readers[started]) == 0)
		started++;
	for (unsigned i = started; i < wanted && r == 0; i++)
		reader_run(&readers[i]);
	for (unsigned i = 0; i < started; i++)
		pthread_join(readers[i].thread, NULL);
	for (unsigned i = 0; i < wanted; i++)
		free(readers[i].bitmap);
	return r;
}

static void finding_take(struct bitmap_scan *scan, uint32_t block, const struct finding *finding)
{
	const struct layer *layer = scan->layer;
	uint64_t offset = (uint64_t)layer->bat[block] * VHD_SECTOR;
	int r;

	if (finding->error) {
		unreadable(scan, block, offset, finding->error);
		return;
	}
	if (!finding->full && scan->partial++ == 0)
		scan->first_partial = block;
	if (!finding->full && scan->batmap && bit_is_set(scan->batmap, block) && scan->batmap_wrong++ == 0)
		scan->first_batmap_wrong = block;
	if (finding->full && layer->footer.type == VHD_DIFFERENCING) {
		r = look_for_foreign(scan, block, layer_block_sectors(layer, block));
		if (r)
			unreadable(scan, block, offset, r);
	}
}

/* How many blocks from `first` on make a batch of at most `limit` allocated ones. */
static uint32_t batch_find(const struct layer *layer, uint32_t first, uint32_t limit, uint32_t *ret_allocated)
{
	uint32_t count = 0, allocated = 0;

	while (count < BATCH_BLOCKS && first + count < layer->block_count) {
		bool present = layer->bat[first + count] != VHD_BAT_UNALLOCATED;

		if (present && allocated == limit)
			break;
		allocated += present;
		count++;
	}
	*ret_allocated = allocated;
	return count;
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
		.findings = malloc(BATCH_BLOCKS * sizeof(struct finding)),
	};
	uint32_t limit = layer->footer.type == VHD_DYNAMIC ? DYNAMIC_BITMAPS_MAX : UINT32_MAX, looked = 0;
	const struct vhd_check_options *options = check->options;
	int r = scan.findings ? batmap_read(&scan) : -ENOMEM;

	for (uint32_t block = 0, count, allocated; block < layer->block_count && r == 0; block += count) {
		count = batch_find(layer, block, limit - looked, &allocated);
		if (count == 0)
			break;
		r = batch_read(&scan, block, count, allocated);
		for (uint32_t i = 0; i < count && r == 0; i++)
			if (layer->bat[block + i] != VHD_BAT_UNALLOCATED)
				finding_take(&scan, block + i, &scan.findings[i]);
		looked += allocated;
		check->blocks_done += count;
		if (options->progress)
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
	free(scan.findings);
	free(scan.batmap);
	return r;
}
