/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What changed between a state of a disk and the disk now. From one state to the next, a layer changed the sectors that
 * it holds, and added those beyond the end of the disk below. What several layers changed is what any of them did: a
 * sector that none of them changed or added reads in each state as in the one before. That holds for shorter and longer
 * layers too: beyond the end of a shorter one lower layers do not show, and the next longer one above added that range.
 * Sectors that were written with what they held before are listed too: the list covers the difference, and may say more.
 */
#include "vhd/changed.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "vhd/bitmap.h"
#include "vhd/chain.h"
#include "vhd/checkpoint.h"
#include "vhd/job.h"
#include "vhd/layer-scan.h"

#define WATCH_BLOCKS 1024u

static int no_memory(const char *path, struct err *err)
{
	return err_set(err, -ENOMEM, "%s: no memory for the list of what changed", path);
}

static int watch_step(struct changed_watch *watch, const char *path, uint32_t blocks, struct err *err)
{
	if (!watch)
		return 0;
	watch->done += blocks;
	if (watch->progress)
		watch->progress(watch->user, watch->done, watch->total);
	if (job_step(watch->job, blocks))
		return err_set(err, -ECANCELED, "%s: cancelled", path);
	return 0;
}

/* The sectors of an allocated block whose bits are set. `bitmap` and `bytes` are for a block of the layer. */
static int block_add(const struct layer *layer, uint32_t block, struct bitmap *bitmap, uint8_t *bytes,
                     struct sector_set *set, struct err *err)
{
	uint64_t entry = atomic_load_explicit(&layer->bat[block], memory_order_relaxed), offset = entry * VHD_SECTOR;
	uint64_t first = ((uint64_t)block << layer->block_shift) / VHD_SECTOR;
	uint64_t end = (layer->size + VHD_SECTOR - 1) / VHD_SECTOR; /* bits beyond mean nothing */
	uint32_t sectors = (uint32_t)(end - first < bitmap->sectors ? end - first : bitmap->sectors), run;
	int rc;

	rc = layer_read(layer, bytes, layer->bitmap_bytes, offset);
	if (rc)
		return err_set(err, rc, "%s: reading the sector bitmap of block %" PRIu32 " at offset %" PRIu64 ": %s",
		               layer->path, block, offset, strerror(-rc));
	bitmap_decode(bitmap, bytes);
	for (uint32_t at = 0; at < sectors; at += run) {
		bool held;

		run = bitmap_run(bitmap, at, sectors - at, &held);
		if (held && sector_set_add(set, first + at, run))
			return no_memory(layer->path, err);
	}
	return 0;
}

static int blocks_add(const struct layer *layer, struct sector_set *set, struct changed_watch *watch, struct err *err)
{
	struct bitmap *bitmap = bitmap_new(0, layer->block_size / VHD_SECTOR);
	uint8_t *bytes = malloc(layer->bitmap_bytes);
	int rc = bitmap && bytes ? 0 : no_memory(layer->path, err);
	uint32_t unwatched = 0;

	for (uint32_t block = 0; block < layer->block_count && rc == 0; block++) {
		if (atomic_load_explicit(&layer->bat[block], memory_order_relaxed) != VHD_BAT_UNALLOCATED)
			rc = block_add(layer, block, bitmap, bytes, set, err);
		if (rc == 0 && (++unwatched == WATCH_BLOCKS || block + 1 == layer->block_count)) {
			rc = watch_step(watch, layer->path, unwatched, err);
			unwatched = 0;
		}
	}
	free(bitmap);
	free(bytes);
	return rc;
}

int layer_changes_add(const struct layer *layer, uint64_t below_size, struct sector_set *set,
                      struct changed_watch *watch, struct err *err)
{
	uint64_t below = below_size / VHD_SECTOR, end = (layer->size + VHD_SECTOR - 1) / VHD_SECTOR;

	/* Fixed and raw layers have nothing below: all of them is theirs. */
	if (!layer->bat)
		return sector_set_add(set, 0, end) ? no_memory(layer->path, err) : 0;
	if (end > below && sector_set_add(set, below, end - below))
		return no_memory(layer->path, err);
	return blocks_add(layer, set, watch, err);
}

static const char unknown[] = "what changed since the state asked for is not known";

/* How many layers of the chain stand above the state `since`; 0: none of them was made over it. */
static unsigned layers_above(const struct chain *chain, const uint8_t since[16])
{
	for (unsigned i = 0; i + 1 < chain->count; i++) {
		const struct layer *layer = chain->layers[i];

		/*
		 * Where a merge was cut off the parent may have its child's Unique Id already. What the child holds is still
		 * what it changed of the state that it was made over.
		 */
		if (!memcmp(layer->header.parent_uuid, since, 16) && !chain->layers[i + 1]->raw)
			return i + 1;
	}
	return 0;
}

static bool uuid_is_null(const uint8_t uuid[16])
{
	static const uint8_t null[16];

	return !memcmp(uuid, null, sizeof(null));
}

static int unknown_state(const struct chain *chain, const uint8_t since[16], struct err *err)
{
	const struct layer *leaf = chain->layers[0];
	char text[37];

	vhd_uuid_text(since, text);
	if (uuid_is_null(since))
		return err_set(err, VHD_E_UNKNOWN_BASE, "%s: %s: %s names no state", leaf->path, unknown, text);
	if (!memcmp(since, leaf->footer.uuid, 16))
		return err_set(err, VHD_E_UNKNOWN_BASE, "%s: %s: %s is the Unique Id of the image itself, which may have been "
		               "written to while it had it; ask for changes since a layer below it", leaf->path, unknown, text);
	return err_set(err, VHD_E_UNKNOWN_BASE, "%s: %s: %s is neither a layer below the image, nor does a checkpoint file "
	               "lead on from it", leaf->path, unknown, text);
}

/* The leaf's parent, by the Unique Id that it had when the leaf was made. */
static int parent_state(const struct chain *chain, uint8_t ret[16], struct err *err)
{
	const struct layer *leaf = chain->layers[0];

	if (chain->count < 2)
		return err_set(err, VHD_E_UNKNOWN_BASE, "%s: a %s disk, which has no parent that it could have changed; say since "
		               "which state", leaf->path, vhd_type_name(leaf->footer.type));
	if (chain->layers[1]->raw)
		return 0;
	memcpy(ret, leaf->header.parent_uuid, 16);
	return 0;
}

static int chain_changes_add(const struct chain *chain, const uint8_t *since, struct changed_watch *watch,
                             struct sector_set *set, struct vhd_changed_result *result, struct err *err)
{
	unsigned above = since ? layers_above(chain, result->since) : 1;
	struct checkpoint_path path;
	int rc = 0;

	if (above) {
		result->since_size_bytes = chain->layers[above]->size;
	} else if (!memcmp(result->since, chain->layers[0]->footer.uuid, 16) || uuid_is_null(result->since)) {
		return unknown_state(chain, result->since, err);
	} else {
		rc = checkpoint_find(chain, result->since, set, &path, err);
		if (rc == -ENOENT)
			return unknown_state(chain, result->since, err);
		if (rc)
			return rc;
		above = path.layer;
		result->since_size_bytes = path.since_size;
		result->checkpoints = path.records;
	}
	result->layers = above;
	for (unsigned i = 0; i < above; i++)
		watch->total += chain->layers[i]->block_count;
	for (unsigned i = 0; i < above && rc == 0; i++) {
		rc = layer_changes_add(chain->layers[i], chain->layers[i + 1]->size, set, watch, err);
		/* What a merge that was not finished took from the layer already. */
		if (rc == 0 && !chain->layers[i + 1]->raw)
			rc = checkpoint_promised(chain, chain->layers[i]->header.parent_uuid, set, err);
	}
	return rc;
}

static int extents_tell(const struct sector_set *set, const struct vhd_changed_options *options, uint64_t size)
{
	struct sector_run run;
	int rc = 0;

	for (uint64_t at = 0; rc == 0 && sector_set_next(set, at, &run); at = run.first + run.count) {
		struct vhd_extent extent = {run.first * VHD_SECTOR, run.count * VHD_SECTOR};

		if (extent.length > size - extent.offset)
			extent.length = size - extent.offset;
		rc = options->extent(options->user, &extent);
	}
	return rc;
}

static void extents_count(const struct sector_set *set, struct vhd_changed_result *result)
{
	struct sector_run run;

	for (uint64_t at = 0; sector_set_next(set, at, &run); at = run.first + run.count) {
		result->extents++;
		result->changed_bytes += run.count * VHD_SECTOR;
	}
}

static int changed_find(const struct chain *chain, const struct vhd_changed_options *options,
                        struct vhd_changed_result *result, struct err *err)
{
	const struct layer *leaf = chain->layers[0];
	struct changed_watch watch = {.job = options->job, .progress = options->progress, .user = options->user};
	struct sector_set set;
	int rc = 0;

	memcpy(result->uuid, leaf->footer.uuid, 16);
	result->size_bytes = leaf->size;
	if (options->since)
		memcpy(result->since, options->since, 16);
	else
		rc = parent_state(chain, result->since, err);
	if (rc)
		return rc;
	rc = sector_set_init(&set, leaf->size / VHD_SECTOR) ? no_memory(leaf->path, err)
	     : chain_changes_add(chain, options->since, &watch, &set, result, err);
	if (rc == 0) {
		extents_count(&set, result);
		if (options->extent)
			rc = extents_tell(&set, options, leaf->size);
	}
	sector_set_done(&set);
	return rc;
}

int vhd_changed(const char *path, const struct vhd_changed_options *options, struct vhd_changed_result *ret,
                struct err *err)
{
	static const struct vhd_changed_options defaults;
	struct vhd_changed_result unused;
	struct vhd_open_options open = {0};
	struct chain chain;
	int rc;

	if (!options)
		options = &defaults;
	if (!ret)
		ret = &unused;
	open.parent = options->parent;
	open.parent_raw = options->parent_raw;
	open.allow_dirs = options->allow_dirs;
	open.warn = options->warn;
	open.user = options->user;
	*ret = (struct vhd_changed_result){0};
	rc = chain_open(path, &open, NULL, &chain, err);
	if (rc)
		return rc;
	rc = changed_find(&chain, options, ret, err);
	chain_done(&chain);
	return rc;
}
