/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/lib/corrupter.h"

#include <stdlib.h>
#include <string.h>

#define SECTOR 512u

const char *corruption_name(enum corruption corruption)
{
	static const char *const names[CORRUPTIONS] = {
		"end byte", "end zero", "end random", "end killed", "copy byte", "copy zero", "copy size", "both same byte",
		"both bytes", "both zero", "data offset", "header byte", "header checksum", "header zero", "header block size",
		"header table offset", "header entries", "locator", "bat same", "bat part", "bat beyond", "bat metadata",
		"leak tail", "batmap sum", "batmap wrong", "batmap place", "padding bits", "trailing zeros", "trailing bytes",
		"truncate", "saved state", "parent id",
	};

	return names[corruption];
}

void corrupted_init(struct corrupted *ret, const struct image_spec *spec)
{
	ret->sectors = spec->size / SECTOR;
	ret->taken = calloc(ret->sectors, sizeof(bool));
	if (!ret->taken)
		abort();
}

void corrupted_done(struct corrupted *corrupted)
{
	free(corrupted->taken);
}

static bool is_sparse(const struct image_spec *spec)
{
	return spec->type != IMAGE_FIXED;
}

static void take(struct corrupted *corrupted, uint64_t first, uint64_t count)
{
	for (uint64_t i = first; i < first + count && i < corrupted->sectors; i++)
		corrupted->taken[i] = true;
}

static void take_block(struct corrupted *corrupted, const struct image *image, uint32_t block)
{
	take(corrupted, (uint64_t)block * image->block_size / SECTOR, image->block_size / SECTOR);
}

static void change_byte(struct image *image, size_t at, struct rng *rng)
{
	image->bytes[at] ^= (uint8_t)(1 + rng_below(rng, 255));
}

static bool has_end(const struct image *image)
{
	return image->footer + 512 <= image->size;
}

/* A block of the spec whose entry is still its own. */
static bool block_pick(const struct image_spec *spec, const struct image *image, struct rng *rng, unsigned *ret)
{
	unsigned first = spec->block_count ? (unsigned)rng_below(rng, spec->block_count) : 0;

	for (unsigned i = 0; i < spec->block_count; i++) {
		unsigned b = (first + i) % spec->block_count;

		if (image_get(image, image->bat + spec->blocks[b].index * 4u, 4) == image->blocks[b] / SECTOR) {
			*ret = b;
			return true;
		}
	}
	return false;
}

/* Any entry of the table becomes `sector`; the block loses what it had. */
static void entry_set(const struct image_spec *spec, struct image *image, uint32_t block, uint64_t sector,
                      struct corrupted *corrupted)
{
	(void)spec;
	image_put(image, image->bat + block * 4u, 4, sector);
	take_block(corrupted, image, block);
}

static bool bat_corrupt(const struct image_spec *spec, struct image *image, enum corruption corruption,
                        struct rng *rng, struct corrupted *corrupted)
{
	uint64_t entries = (spec->size + image->block_size - 1) / image->block_size;
	uint32_t block = (uint32_t)rng_below(rng, entries);
	uint64_t sectors = (image->bitmap_size + image->block_size) / SECTOR;
	unsigned other;

	switch (corruption) {
	case CORRUPT_BAT_SAME:
	case CORRUPT_BAT_PART:
		if (!block_pick(spec, image, rng, &other) || spec->blocks[other].index == block)
			return false;
		entry_set(spec, image, block, image->blocks[other] / SECTOR +
		          (corruption == CORRUPT_BAT_PART ? 1 + rng_below(rng, sectors - 1) : 0), corrupted);
		return true;
	case CORRUPT_BAT_BEYOND:
		entry_set(spec, image, block, image->size / SECTOR + 1 + rng_below(rng, 100000000), corrupted);
		return true;
	default:
		entry_set(spec, image, block, rng_below(rng, image->bat / SECTOR + 1), corrupted);
		return true;
	}
}

static bool batmap_corrupt(const struct image_spec *spec, struct image *image, enum corruption corruption,
                           struct rng *rng)
{
	uint32_t sum = 0;

	if (!image->batmap)
		return false;
	if (corruption == CORRUPT_BATMAP_SUM) {
		change_byte(image, image->batmap + 24 + rng_below(rng, 4), rng);
		return true;
	}
	if (corruption == CORRUPT_BATMAP_PLACE) {
		change_byte(image, image->batmap + 8 + rng_below(rng, 4), rng);
		return true;
	}
	for (unsigned b = 0; b < spec->block_count; b++)
		if (spec->blocks[b].clear)
			image->bytes[image->batmap + SECTOR + spec->blocks[b].index / 8] |=
				(uint8_t)(0x80 >> spec->blocks[b].index % 8);
	for (unsigned i = 0; i < SECTOR; i++)
		sum += image->bytes[image->batmap + SECTOR + i];
	image_put(image, image->batmap + 24, 4, (uint32_t)~sum);
	return true;
}

static bool truncate_corrupt(const struct image_spec *spec, struct image *image, struct rng *rng,
                             struct corrupted *corrupted)
{
	size_t low = is_sparse(spec) ? image->end_of_blocks - (image->end_of_blocks - image->bat - image->bat_size) / 2 : SECTOR;
	size_t size;

	if (image->size <= low + 1)
		return false;
	size = low + (size_t)rng_below(rng, image->size - low);
	if (!is_sparse(spec))
		take(corrupted, size / SECTOR, corrupted->sectors);
	for (unsigned b = 0; is_sparse(spec) && b < spec->block_count; b++) {
		size_t payload = image->blocks[b] + image->bitmap_size;
		uint64_t first = (uint64_t)spec->blocks[b].index * image->block_size / SECTOR;

		if (size < payload + SECTOR)
			take_block(corrupted, image, spec->blocks[b].index);
		else if (size < payload + image->block_size)
			take(corrupted, first + (size - payload) / SECTOR, image->block_size / SECTOR - (size - payload) / SECTOR);
	}
	image_resize(image, size);
	return true;
}

static bool header_corrupt(struct image *image, enum corruption corruption, struct rng *rng)
{
	switch (corruption) {
	case CORRUPT_HEADER_BYTE:
		change_byte(image, image->header + rng_below(rng, 0x28), rng);
		return true;
	case CORRUPT_HEADER_CHECKSUM:
		change_byte(image, image->header + H_CHECKSUM + rng_below(rng, 4), rng);
		return true;
	case CORRUPT_HEADER_ZERO:
		memset(image->bytes + image->header, 0, 1024);
		return true;
	case CORRUPT_HEADER_BLOCK_SIZE:
		image_put(image, image->header + H_BLOCK_SIZE, 4, rng_next(rng) & 0xFFFFFFFF);
		return true;
	case CORRUPT_HEADER_TABLE_OFFSET:
		image_put(image, image->header + H_TABLE_OFFSET, 8, rng_percent(rng, 50) ? rng_below(rng, 64) * SECTOR : rng_next(rng));
		if (rng_percent(rng, 50))
			image_fix_header(image, image->header);
		return true;
	default:
		image_put(image, image->header + H_MAX_ENTRIES, 4, rng_next(rng) & 0xFFFFFFFF);
		if (rng_percent(rng, 50))
			image_fix_header(image, image->header);
		return true;
	}
}

static bool trailing_add(struct image *image, bool zeros, struct rng *rng)
{
	size_t before = image->size, more = 1 + (size_t)rng_below(rng, 20000);

	image_resize(image, before + more);
	for (size_t i = 0; !zeros && i < more; i++)
		image->bytes[before + i] = (uint8_t)rng_next(rng);
	return true;
}

/* The footer moves away from the last structure. */
static bool leak_add(struct image *image, struct rng *rng)
{
	size_t more = 20 + (size_t)rng_below(rng, 30);
	uint8_t footer[SECTOR];

	if (!has_end(image))
		return false;
	memcpy(footer, image->bytes + image->footer, SECTOR);
	image_resize(image, image->footer + (more + 1) * SECTOR);
	for (size_t i = 0; i < more * SECTOR; i++)
		image->bytes[image->footer + i] = (uint8_t)rng_next(rng);
	image->footer += more * SECTOR;
	memcpy(image->bytes + image->footer, footer, SECTOR);
	return true;
}

static bool footer_corrupt(const struct image_spec *spec, struct image *image, enum corruption corruption,
                           struct rng *rng)
{
	size_t at = (size_t)rng_below(rng, SECTOR);
	uint8_t x = (uint8_t)(1 + rng_below(rng, 255));

	if (corruption <= CORRUPT_END_KILLED ? !has_end(image) : !is_sparse(spec))
		return false;
	if (corruption >= CORRUPT_BOTH_SAME_BYTE && !has_end(image))
		return false;
	switch (corruption) {
	case CORRUPT_END_BYTE:
		image->bytes[image->footer + at] ^= x;
		return true;
	case CORRUPT_END_ZERO:
		memset(image->bytes + image->footer, 0, SECTOR);
		return true;
	case CORRUPT_END_RANDOM:
		for (unsigned i = 0; i < SECTOR; i++)
			image->bytes[image->footer + i] = (uint8_t)rng_next(rng);
		return true;
	case CORRUPT_END_KILLED:
		memset(image->bytes + image->footer, 0xC7, SECTOR);
		return true;
	case CORRUPT_COPY_BYTE:
		image->bytes[at] ^= x;
		return true;
	case CORRUPT_COPY_ZERO:
		memset(image->bytes, 0, SECTOR);
		return true;
	case CORRUPT_COPY_SIZE:
		image_put(image, F_CURRENT_SIZE, 8, spec->size * 2);
		image_fix_footer(image, 0);
		return true;
	case CORRUPT_BOTH_SAME_BYTE:
		image->bytes[at] ^= x;
		image->bytes[image->footer + at] ^= x;
		return true;
	case CORRUPT_BOTH_BYTES:
		image->bytes[at] ^= x;
		image->bytes[image->footer + rng_below(rng, SECTOR)] ^= x;
		return true;
	case CORRUPT_BOTH_ZERO:
		memset(image->bytes, 0, SECTOR);
		memset(image->bytes + image->footer, 0, SECTOR);
		return true;
	default:
		image_put(image, F_DATA_OFFSET, 8, rng_percent(rng, 50) ? rng_next(rng) & ~UINT64_C(511) : rng_below(rng, 100) * SECTOR);
		image_put(image, image->footer + F_DATA_OFFSET, 8, image_get(image, F_DATA_OFFSET, 8));
		image_fix_footer(image, 0);
		image_fix_footer(image, image->footer);
		return true;
	}
}

/* Bits that stand for no sector: set them, or clear them. */
static bool padding_change(const struct image_spec *spec, struct image *image, struct rng *rng)
{
	size_t used = image->block_size / SECTOR / 8;
	unsigned b;

	if (used >= image->bitmap_size || !block_pick(spec, image, rng, &b))
		return false;
	memset(image->bytes + image->blocks[b] + used, rng_percent(rng, 50) ? 0xFF : 0xA5, image->bitmap_size - used);
	return true;
}

bool corrupt(const struct image_spec *spec, struct image *image, enum corruption corruption, struct rng *rng,
             struct corrupted *corrupted)
{
	size_t locator;

	if (corruption <= CORRUPT_DATA_OFFSET)
		return footer_corrupt(spec, image, corruption, rng);
	switch (corruption) {
	case CORRUPT_TRAILING_ZEROS:
	case CORRUPT_TRAILING_BYTES:
		return trailing_add(image, corruption == CORRUPT_TRAILING_ZEROS, rng);
	case CORRUPT_TRUNCATE:
		return truncate_corrupt(spec, image, rng, corrupted);
	case CORRUPT_SAVED_STATE:
		if (!has_end(image))
			return false;
		image->bytes[image->footer + F_SAVED] = 1;
		image_fix_footer(image, image->footer);
		if (is_sparse(spec)) {
			image->bytes[F_SAVED] = 1;
			image_fix_footer(image, 0);
		}
		return true;
	default:
		break;
	}
	/* What follows lies in or before the blocks, which must be there. */
	if (!is_sparse(spec) || image->size < image->end_of_blocks)
		return false;
	switch (corruption) {
	case CORRUPT_LEAK_TAIL:
		return leak_add(image, rng);
	case CORRUPT_BATMAP_SUM:
	case CORRUPT_BATMAP_WRONG:
	case CORRUPT_BATMAP_PLACE:
		return batmap_corrupt(spec, image, corruption, rng);
	case CORRUPT_PADDING_BITS:
		return padding_change(spec, image, rng);
	case CORRUPT_BAT_SAME:
	case CORRUPT_BAT_PART:
	case CORRUPT_BAT_BEYOND:
	case CORRUPT_BAT_METADATA:
		return bat_corrupt(spec, image, corruption, rng, corrupted);
	case CORRUPT_LOCATOR:
		locator = image->header + H_LOCATORS + 7 * L_SIZE;
		memcpy(image->bytes + locator, "W2ku", 4);
		image_put(image, locator + L_SPACE, 4, SECTOR);
		image_put(image, locator + L_LENGTH, 4, 20);
		image_put(image, locator + L_OFFSET, 8, image->bat);
		image_fix_header(image, image->header);
		return true;
	case CORRUPT_PARENT_ID:
		if (spec->type != IMAGE_DIFFERENCING)
			return false;
		change_byte(image, image->header + H_PARENT_UUID + rng_below(rng, 16), rng);
		image_fix_header(image, image->header);
		return true;
	default:
		return header_corrupt(image, corruption, rng);
	}
}
