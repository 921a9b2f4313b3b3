/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/lib/image-builder.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SECTOR 512u
#define UNALLOCATED 0xffffffffu

void image_put(struct image *image, size_t at, unsigned width, uint64_t value)
{
	if (width > 8 || at > image->size || width > image->size - at)
		abort();
	for (unsigned i = 0; i < width; i++)
		image->bytes[at + i] = (uint8_t)(value >> (8 * (width - 1 - i)));
}

uint64_t image_get(const struct image *image, size_t at, unsigned width)
{
	uint64_t value = 0;

	if (width > 8 || at > image->size || width > image->size - at)
		abort();
	for (unsigned i = 0; i < width; i++)
		value = value << 8 | image->bytes[at + i];
	return value;
}

void image_resize(struct image *image, size_t size)
{
	uint8_t *bytes = realloc(image->bytes, size ? size : 1);

	if (!bytes)
		abort();
	if (size > image->size)
		memset(bytes + image->size, 0, size - image->size);
	image->bytes = bytes;
	image->size = size;
}

static void fix_sum(struct image *image, size_t at, size_t length, size_t field)
{
	uint32_t sum = 0;

	image_put(image, at + field, 4, 0);
	for (size_t i = 0; i < length && at + i < image->size; i++)
		sum += image->bytes[at + i];
	image_put(image, at + field, 4, (uint32_t)~sum);
}

void image_fix_footer(struct image *image, size_t at)
{
	fix_sum(image, at, 512, F_CHECKSUM);
}

void image_fix_header(struct image *image, size_t at)
{
	fix_sum(image, at, 1024, H_CHECKSUM);
}

uint8_t image_pattern(uint8_t seed, uint64_t offset)
{
	uint64_t x = (offset + 1) * UINT64_C(0x9e3779b97f4a7c15) + seed * UINT64_C(0xd1b54a32d192ed03);

	return (uint8_t)(x >> 56 | 1); /* never 0, so that a hole shows */
}

void image_uuid(uint8_t seed, uint8_t *ret)
{
	for (unsigned i = 0; i < 16; i++)
		ret[i] = (uint8_t)(seed ^ (i * 17 + 3));
}

/* Spec, appendix "CHS Calculation", in the order in which it is printed there. */
static uint32_t chs(uint64_t size)
{
	uint64_t total = size / SECTOR, cylinders_times_heads;
	uint32_t cylinders, heads, sectors;

	if (total > 65535u * 16 * 255)
		total = 65535u * 16 * 255;
	if (total >= 65535u * 16 * 63) {
		sectors = 255;
		heads = 16;
		cylinders_times_heads = total / sectors;
	} else {
		sectors = 17;
		cylinders_times_heads = total / sectors;
		heads = (uint32_t)((cylinders_times_heads + 1023) / 1024);
		if (heads < 4)
			heads = 4;
		if (cylinders_times_heads >= heads * 1024 || heads > 16) {
			sectors = 31;
			heads = 16;
			cylinders_times_heads = total / sectors;
		}
		if (cylinders_times_heads >= heads * 1024) {
			sectors = 63;
			heads = 16;
			cylinders_times_heads = total / sectors;
		}
	}
	cylinders = (uint32_t)(cylinders_times_heads / heads);
	return cylinders << 16 | heads << 8 | sectors;
}

static uint32_t spec_type(const struct image_spec *spec)
{
	return spec->type ? spec->type : IMAGE_DYNAMIC;
}

static uint32_t spec_block_size(const struct image_spec *spec)
{
	return spec->block_size ? spec->block_size : 4096;
}

static uint64_t sectors_up(uint64_t bytes)
{
	return (bytes + SECTOR - 1) / SECTOR * SECTOR;
}

static void put_footer(struct image *image, const struct image_spec *spec, size_t at)
{
	memcpy(image->bytes + at + F_COOKIE, "conectix", 8);
	image_put(image, at + F_FEATURES, 4, 2);
	image_put(image, at + F_VERSION, 4, 0x00010000);
	image_put(image, at + F_DATA_OFFSET, 8, spec_type(spec) == IMAGE_FIXED ? UINT64_MAX : image->header);
	image_put(image, at + F_TIME, 4, spec->time_stamp);
	memcpy(image->bytes + at + F_CREATOR, spec->creator ? spec->creator : "win ", 4);
	image_put(image, at + F_CREATOR_VERSION, 4, 0x00060003);
	memcpy(image->bytes + at + F_CREATOR_OS, "Wi2k", 4);
	image_put(image, at + F_ORIGINAL_SIZE, 8, spec->size);
	image_put(image, at + F_CURRENT_SIZE, 8, spec->size);
	image_put(image, at + F_GEOMETRY, 4, chs(spec->size));
	image_put(image, at + F_TYPE, 4, spec_type(spec));
	image_uuid(spec->uuid_seed, image->bytes + at + F_UUID);
	image_fix_footer(image, at);
}

static size_t append(struct image *image, uint64_t gap_sectors, uint64_t length)
{
	size_t at = image->size + (size_t)gap_sectors * SECTOR;

	image_resize(image, at + (size_t)sectors_up(length));
	return at;
}

static size_t put_locator(struct image *image, const struct image_locator *locator)
{
	bool utf16 = !locator->data && strncmp(locator->code, "MacX", 4) != 0;
	const char *text = locator->text ? locator->text : "";
	uint64_t length = locator->data ? locator->length : strlen(text) * (utf16 ? 2 : 1);
	size_t at = append(image, 0, length ? length : 1);

	if (locator->data)
		memcpy(image->bytes + at, locator->data, length);
	else
		for (size_t i = 0; text[i]; i++)
			image->bytes[at + i * (utf16 ? 2 : 1)] = (uint8_t)text[i];
	return at;
}

static uint32_t locator_length(const struct image_locator *locator)
{
	if (locator->data)
		return locator->length;
	return (uint32_t)(strlen(locator->text ? locator->text : "") * (strncmp(locator->code, "MacX", 4) ? 2 : 1));
}

static void put_header(struct image *image, const struct image_spec *spec, uint32_t entries)
{
	size_t at = image->header;

	memcpy(image->bytes + at + H_COOKIE, "cxsparse", 8);
	image_put(image, at + H_DATA_OFFSET, 8, UINT64_MAX);
	image_put(image, at + H_TABLE_OFFSET, 8, image->bat);
	image_put(image, at + H_VERSION, 4, 0x00010000);
	image_put(image, at + H_MAX_ENTRIES, 4, entries);
	image_put(image, at + H_BLOCK_SIZE, 4, spec_block_size(spec));
	if (spec_type(spec) == IMAGE_DIFFERENCING) {
		image_uuid(spec->parent_uuid_seed, image->bytes + at + H_PARENT_UUID);
		image_put(image, at + H_PARENT_TIME, 4, spec->parent_time_stamp);
		for (size_t i = 0; spec->parent_name && spec->parent_name[i] && i < 256; i++)
			image_put(image, at + H_PARENT_NAME + 2 * i, 2, (uint8_t)spec->parent_name[i]);
	}
	for (unsigned i = 0; i < IMAGE_LOCATORS; i++) {
		const struct image_locator *locator = &spec->locators[i];
		size_t entry = at + H_LOCATORS + i * L_SIZE;

		if (!locator->code)
			continue;
		memcpy(image->bytes + entry + L_CODE, locator->code, 4);
		image_put(image, entry + L_LENGTH, 4, locator_length(locator));
		image_put(image, entry + L_SPACE, 4,
		          locator->space ? locator->space : sectors_up(locator_length(locator)));
		image_put(image, entry + L_OFFSET, 8, image->locators[i]);
	}
	image_fix_header(image, at);
}

static bool bit_is_set(const struct image_block *block, uint64_t sector)
{
	return !(block->clear & 0x80 >> (sector % 8));
}

static size_t put_block(struct image *image, const struct image_spec *spec, const struct image_block *block)
{
	uint32_t block_size = spec_block_size(spec);
	size_t at = append(image, block->gap_sectors, image->bitmap_size + block_size);
	uint8_t *payload = image->bytes + at + image->bitmap_size;

	memset(image->bytes + at, (uint8_t)~block->clear, (block_size / SECTOR + 7) / 8);
	for (uint32_t i = 0; i < block_size; i++)
		if (bit_is_set(block, i / SECTOR))
			payload[i] = image_pattern(block->seed, i);
		else if (spec->stale)
			payload[i] = 0x5a;
	return at;
}

static void put_batmap(struct image *image, const struct image_spec *spec, uint32_t entries)
{
	uint64_t map_size = sectors_up((entries + 7) / 8);
	uint32_t sum = 0;
	uint8_t *map;

	image->batmap = append(image, 0, SECTOR + map_size);
	memcpy(image->bytes + image->batmap, "tdbatmap", 8);
	image_put(image, image->batmap + 8, 8, image->batmap + SECTOR);
	image_put(image, image->batmap + 16, 4, map_size / SECTOR);
	image_put(image, image->batmap + 20, 4, 0x00010002);
	map = image->bytes + image->batmap + SECTOR;
	for (unsigned i = 0; i < spec->block_count; i++)
		if (!spec->blocks[i].clear)
			map[spec->blocks[i].index / 8] |= (uint8_t)(0x80 >> spec->blocks[i].index % 8);
	for (uint64_t i = 0; i < map_size; i++)
		sum += map[i];
	image_put(image, image->batmap + 24, 4, (uint32_t)~sum);
}

static void build_sparse(const struct image_spec *spec, struct image *image)
{
	uint32_t block_size = spec_block_size(spec);
	uint32_t needed = (uint32_t)((spec->size + block_size - 1) / block_size);
	uint32_t entries = spec->max_table_entries ? spec->max_table_entries : needed;

	append(image, 0, SECTOR);
	image->header = append(image, spec->header_gap_sectors, 1024);
	for (unsigned i = 0; i < IMAGE_LOCATORS; i++)
		if (spec->locators[i].code && !spec->locators[i].after_blocks)
			image->locators[i] = put_locator(image, &spec->locators[i]);
	image->bat_size = (size_t)sectors_up((uint64_t)entries * 4);
	image->bat = append(image, spec->bat_gap_sectors, image->bat_size);
	memset(image->bytes + image->bat, 0xff, (size_t)entries * 4);
	memset(image->bytes + image->bat + (size_t)entries * 4, (uint8_t)~spec->bat_pad,
	       image->bat_size - (size_t)entries * 4);
	if (spec->batmap)
		put_batmap(image, spec, entries);
	image->block_size = block_size;
	image->bitmap_size = (size_t)sectors_up((block_size / SECTOR + 7) / 8);
	for (unsigned i = 0; i < spec->block_count; i++) {
		image->blocks[i] = put_block(image, spec, &spec->blocks[i]);
		image_put(image, image->bat + (size_t)spec->blocks[i].index * 4, 4, image->blocks[i] / SECTOR);
	}
	image->end_of_blocks = image->size;
	for (unsigned i = 0; i < IMAGE_LOCATORS; i++)
		if (spec->locators[i].code && spec->locators[i].after_blocks)
			image->locators[i] = put_locator(image, &spec->locators[i]);
	put_header(image, spec, entries);
	put_footer(image, spec, 0);
}

void image_build(const struct image_spec *spec, struct image *ret)
{
	*ret = (struct image){0};
	if (spec_type(spec) == IMAGE_FIXED) {
		image_resize(ret, (size_t)spec->size);
		for (uint64_t i = 0; i < spec->size; i++)
			ret->bytes[i] = image_pattern(spec->fixed_seed, i);
	} else {
		build_sparse(spec, ret);
	}
	if (spec->no_footer) {
		ret->footer = ret->size;
		return;
	}
	ret->footer = append(ret, spec->footer_gap_sectors, SECTOR);
	put_footer(ret, spec, ret->footer);
	if (spec->footer_killed)
		memset(ret->bytes + ret->footer, 0xc7, SECTOR);
	if (spec->footer_511)
		image_resize(ret, ret->size - 1);
}

void image_free(struct image *image)
{
	free(image->bytes);
	*image = (struct image){0};
}

void image_overlay(const struct image_spec *spec, uint8_t *disk)
{
	uint32_t block_size = spec_block_size(spec);

	for (unsigned b = 0; b < spec->block_count; b++) {
		const struct image_block *block = &spec->blocks[b];
		uint64_t start = (uint64_t)block->index * block_size;

		for (uint64_t i = 0; i < block_size && start + i < spec->size; i++)
			if (bit_is_set(block, i / SECTOR))
				disk[start + i] = image_pattern(block->seed, i);
	}
}

void image_content(const struct image_spec *spec, uint8_t *ret)
{
	if (spec_type(spec) != IMAGE_FIXED) {
		memset(ret, 0, spec->size);
		image_overlay(spec, ret);
		return;
	}
	for (uint64_t i = 0; i < spec->size; i++)
		ret[i] = image_pattern(spec->fixed_seed, i);
}

static void edit_at(struct image *image, size_t base, const struct image_edit *edit)
{
	image_put(image, base + edit->at, edit->width, edit->value);
}

void image_edit(struct image *image, const struct image_edit *edit)
{
	switch (edit->part) {
	case IMAGE_NOTHING:
		break;
	case IMAGE_FOOTERS:
	case IMAGE_FOOTER_COPY:
	case IMAGE_FOOTER_END:
		if (edit->part != IMAGE_FOOTER_END) {
			edit_at(image, 0, edit);
			image_fix_footer(image, 0);
		}
		if (edit->part != IMAGE_FOOTER_COPY) {
			edit_at(image, image->footer, edit);
			image_fix_footer(image, image->footer);
		}
		break;
	case IMAGE_RAW_FOOTERS:
	case IMAGE_RAW_COPY:
	case IMAGE_RAW_END:
		if (edit->part != IMAGE_RAW_END)
			edit_at(image, 0, edit);
		if (edit->part != IMAGE_RAW_COPY)
			edit_at(image, image->footer, edit);
		break;
	case IMAGE_HEADER:
		edit_at(image, image->header, edit);
		image_fix_header(image, image->header);
		break;
	case IMAGE_RAW_HEADER:
		edit_at(image, image->header, edit);
		break;
	case IMAGE_BAT:
		edit_at(image, image->bat, edit);
		break;
	case IMAGE_BATMAP:
		edit_at(image, image->batmap, edit);
		break;
	case IMAGE_FILE:
		edit_at(image, 0, edit);
		break;
	}
}

int image_write(const struct image *image, const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	size_t done = 0;
	int result = 0;

	if (fd < 0)
		return -errno;
	while (done < image->size) {
		ssize_t n = write(fd, image->bytes + done, image->size - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			result = -errno;
			break;
		}
		done += (size_t)n;
	}
	if (close(fd) && !result)
		result = -errno;
	return result;
}
