/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/lib/disk.h"

#include <stdlib.h>
#include <string.h>

#include "tests/lib/image-builder.h"
#include "tests/lib/random.h"

static void blocks_choose(const struct disk_spec *spec, struct rng *rng, struct image_spec *ret)
{
	uint32_t count = (uint32_t)((spec->size + spec->block_size - 1) / spec->block_size);
	unsigned want = spec->blocks < IMAGE_MAX_BLOCKS ? spec->blocks : IMAGE_MAX_BLOCKS;

	while (ret->block_count < want && ret->block_count < count) {
		uint32_t index = (uint32_t)rng_below(rng, count);
		bool taken = false;

		for (unsigned i = 0; i < ret->block_count; i++)
			taken |= ret->blocks[i].index == index;
		if (taken)
			continue;
		ret->blocks[ret->block_count++] = (struct image_block){
			.index = index,
			.gap_sectors = rng_percent(rng, 20) ? (uint32_t)rng_below(rng, 9) : 0,
			.clear = spec->partial && rng_percent(rng, 80) ? (uint8_t)rng_next(rng) : 0,
			.seed = (uint8_t)(rng_next(rng) | 1),
		};
	}
}

void disk_make(const struct disk_spec *spec, struct disk *ret)
{
	struct rng rng = rng_fork(spec->seed, 77);
	unsigned layers = spec->type == DISK_DIFFERENCING ? spec->layers : 1;

	memset(ret, 0, sizeof(*ret));
	ret->layers = layers;
	ret->size = spec->size;
	ret->content = calloc(1, spec->size);
	if (!ret->content || layers > DISK_LAYERS || layers == 0)
		abort();
	for (unsigned i = layers; i-- > 0;) {
		struct image_spec image = {
			.type = spec->type == DISK_FIXED ? IMAGE_FIXED : i + 1 < layers ? IMAGE_DIFFERENCING : IMAGE_DYNAMIC,
			.size = spec->size,
			.block_size = spec->block_size,
			.uuid_seed = (uint8_t)(i + 1),
			.parent_uuid_seed = (uint8_t)(i + 2),
			.time_stamp = 1000 + i,
			.parent_time_stamp = 1000 + i + 1,
			.fixed_seed = 99,
			.stale = spec->stale,
		};
		struct image built;
		struct sparse content;

		if (image.type == IMAGE_DIFFERENCING)
			image.parent_name = "parent.vhd";
		if (image.type != IMAGE_FIXED)
			blocks_choose(spec, &rng, &image);
		image_build(&image, &built);
		if (i == layers - 1)
			image_content(&image, ret->content);
		else
			image_overlay(&image, ret->content);
		sparse_init(&content);
		sparse_write(&content, built.bytes, built.size, 0);
		ret->files[i] = memory_file_new(&content);
		image_free(&built);
	}
}

void disk_done(struct disk *disk)
{
	for (unsigned i = 0; i < disk->layers; i++)
		memory_file_free(disk->files[i]);
	free(disk->content);
	memset(disk, 0, sizeof(*disk));
}
