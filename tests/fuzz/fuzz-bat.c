/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A sound file around a BAT, a size, a Table Offset and a batmap that the input chooses. What layer_open_take lets
 * pass is held against the rules, one entry against each other.
 */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/checked.h"
#include "tests/fuzz/fuzz.h"
#include "tests/lib/image-builder.h"
#include "vhd/layer.h"

#define FILE_SECTORS 256u
#define PARAMETERS 16u
#define ENTRIES_MAX 512u

static void on_defect(void *user, const struct vhd_defect *defect)
{
	FUZZ_ASSERT(defect->code && defect->sentence && defect->sentence[0]);
	++*(unsigned *)user;
}

static bool overlap(struct byte_range a, struct byte_range b)
{
	return a.offset < b.offset + b.length && b.offset < a.offset + a.length;
}

static void hold_against_rules(const struct layer *layer, uint64_t file_size)
{
	struct byte_range bat = {layer->header.table_offset, round_up((uint64_t)layer->block_count * 4, VHD_SECTOR)};

	FUZZ_ASSERT((uint64_t)layer->block_count * layer->block_size >= layer->size);
	for (uint32_t i = 0; i < layer->block_count; i++) {
		struct byte_range a;

		if (layer->bat[i] == VHD_BAT_UNALLOCATED)
			continue;
		a = layer_block_range(layer, layer->bat[i]);
		FUZZ_ASSERT(a.offset + a.length <= file_size);
		FUZZ_ASSERT(!overlap(a, (struct byte_range){0, 1536}));
		FUZZ_ASSERT(!overlap(a, bat));
		for (uint32_t j = 0; j < i; j++)
			FUZZ_ASSERT(layer->bat[j] == VHD_BAT_UNALLOCATED ||
			            !overlap(a, layer_block_range(layer, layer->bat[j])));
	}
}

static void layer_try(const struct image *image, bool strict)
{
	struct layer *layer = NULL;
	struct store *store;
	struct err err = {.text = ""};
	unsigned defects = 0;
	struct layer_sink sink = {.defect = strict ? NULL : on_defect, .user = &defects};
	int fd = memfd_create("bat", MFD_CLOEXEC);
	int result;

	FUZZ_ASSERT(fd >= 0 && write(fd, image->bytes, image->size) == (ssize_t)image->size);
	FUZZ_ASSERT(store_file_open_take(fd, "bat", 0, &store, NULL) == 0);
	result = layer_open_take(store, "bat", strict ? NULL : &sink, &layer, &err);
	if (result == 0 && strict)
		hold_against_rules(layer, image->size);
	if (result)
		FUZZ_ASSERT(err.text[0]);
	else
		layer_free(layer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct image_spec spec = {.block_size = 512, .size = 512};
	struct image image;
	uint32_t entries, table_sector;

	if (size < PARAMETERS)
		return 0;
	spec.block_size = 512u << data[0] % 4;
	spec.batmap = data[1] & 1;
	entries = (uint32_t)((data[2] << 8 | data[3]) % ENTRIES_MAX) + 1;
	table_sector = data[4] % 16 ? 3 : (uint32_t)(data[5] % FILE_SECTORS);
	spec.size = (uint64_t)entries * spec.block_size - (data[6] % 2 ? 512u : 0u);
	if (!spec.size)
		spec.size = 512;
	spec.footer_gap_sectors = FILE_SECTORS - 64;
	image_build(&spec, &image);
	image_put(&image, image.header + H_TABLE_OFFSET, 8, (uint64_t)table_sector * 512);
	if (data[7] % 8 == 0)
		image_put(&image, image.header + H_MAX_ENTRIES, 4, entries + data[8] - 128u);
	image_fix_header(&image, image.header);
	if (spec.batmap && data[9] % 4 == 0)
		memcpy(image.bytes + image.batmap + 8, data + 10, 6);
	for (size_t i = 0; PARAMETERS + i < size && i < entries * 4u; i++) {
		size_t at = (size_t)table_sector * 512 + i;

		/* The high half of most entries is zero, else nearly all lie beyond the end. */
		if (at < image.size && (i % 4 > 1 || data[1] & 2))
			image.bytes[at] = data[PARAMETERS + i];
		else if (at < image.size && data[PARAMETERS + i / 4 * 4] != 0xff)
			image.bytes[at] = 0;
	}
	layer_try(&image, true);
	layer_try(&image, false);
	image_free(&image);
	return 0;
}
