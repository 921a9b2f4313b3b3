/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Xen's batmap, made anew from the sector bitmaps; parent locators that lie on other things; the parent's identity. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/checked.h"
#include "vhd/batmap.h"
#include "vhd/create.h"
#include "vhd/layer-scan.h"
#include "vhd/locator.h"
#include "vhd/repair.h"

static int bits_make(struct repair *repair, const struct layer *layer, uint8_t *bits)
{
	uint8_t *bitmap = malloc(layer->bitmap_bytes);
	int r = bitmap ? 0 : -ENOMEM;

	for (uint32_t block = 0; block < layer->block_count && r == 0; block++) {
		uint32_t entry = layer->bat[block];

		if (entry == VHD_BAT_UNALLOCATED)
			continue;
		r = repair_read(repair, bitmap, layer->bitmap_bytes, (uint64_t)entry * VHD_SECTOR);
		if (r == 0 && bitmap_bytes_full(bitmap, layer_block_sectors(layer, block)))
			bits[block / 8] |= (uint8_t)(0x80 >> block % 8);
	}
	free(bitmap);
	return r;
}

/* Where the map can lie: where it does if that is possible, else behind its header, else behind everything. */
static struct byte_range map_place(struct repair *repair, const struct layer *layer, uint64_t header_at, bool fits)
{
	struct byte_range place = layer->batmap_bits;
	uint64_t end = repair->plan.size;

	if (place.length)
		return place;
	place = (struct byte_range){header_at + VHD_SECTOR, round_up((layer->header.max_table_entries + 7u) / 8, VHD_SECTOR)};
	if (fits) /* only the checksum was wrong */
		return (struct byte_range){header_at + VHD_SECTOR, layer->batmap.length - VHD_SECTOR};
	for (unsigned i = 0; i < VHD_LOCATORS; i++) {
		const struct locator *locator = &layer->header.locators[i];
		uint64_t space = locator_space_bytes(locator);

		if (be32_get(*(const be32 *)locator->code) && ranges_overlap(place, (struct byte_range){locator->offset, space}))
			place.offset = end;
	}
	for (uint32_t block = 0; block < layer->block_count; block++)
		if (layer->bat[block] != VHD_BAT_UNALLOCATED &&
		    ranges_overlap(place, layer_block_range(layer, layer->bat[block])))
			place.offset = end;
	if (ranges_overlap(place, (struct byte_range){layer->header_offset, sizeof(struct header_disk)}))
		place.offset = end;
	return place;
}

static int batmap_make(struct repair *repair, const struct layer *layer, bool fits)
{
	uint64_t header_at = layer->batmap.offset;
	struct batmap_disk header;
	struct byte_range place;
	bool signed_sum;
	uint8_t *bits;
	int r;

	r = repair_read(repair, &header, sizeof(header), header_at);
	if (r)
		return err_set(repair->err, r, "%s: reading the batmap failed: %s", repair->path, strerror(-r));
	place = map_place(repair, layer, header_at, fits);
	bits = calloc(1, place.length);
	if (!bits)
		return repair_no_memory(repair);
	r = bits_make(repair, layer, bits);
	if (r == -ENOMEM) {
		r = repair_no_memory(repair);
	} else if (r) {
		r = 0; /* the check at the end tells of the bitmap that cannot be read */
	} else {
		signed_sum = be32_get(header.version) == 0x00010001;
		header.offset = be64_make(place.offset);
		header.sectors = be32_make((uint32_t)(place.length / VHD_SECTOR));
		header.checksum = be32_make(batmap_checksum(bits, place.length, signed_sum));
		if (overlay_write(&repair->plan, bits, place.length, place.offset, PHASE_BATMAP) ||
		    overlay_write(&repair->plan, &header, sizeof(header), header_at, PHASE_BATMAP))
			r = repair_no_memory(repair);
	}
	free(bits);
	return r;
}

struct batmap_seen {
	const char *code;
	uint64_t offset;
};

static void batmap_note(void *user, const struct vhd_defect *defect)
{
	struct batmap_seen *seen = user;

	if (!strncmp(defect->code, "batmap", 6) && !seen->code)
		*seen = (struct batmap_seen){defect->code, defect->offset};
}

int repair_batmap(struct repair *repair)
{
	struct batmap_seen seen = {NULL, 0};
	struct vhd_check_options options = {.defect = batmap_note, .user = &seen};
	struct vhd_check_result result;
	struct store *view;
	struct layer *layer;
	struct err why;
	int r;

	r = repair_scan(repair, &layer, NULL, &why);
	if (r < 0)
		return err_set(repair->err, r, "%s", why.text);
	if (r)
		return 0;
	if (layer->batmap.length) {
		view = overlay_store(&repair->plan);
		if (!view)
			r = repair_no_memory(repair);
		else if (check_store_take(view, repair->path, &options, &result, &why) < 0)
			r = err_set(repair->err, -EIO, "%s", why.text);
		if (r == 0 && seen.code)
			r = repair_step(repair, seen.code, seen.offset, "Xen's map of full blocks is made anew from the sector bitmaps");
		else if (r == 0 && repair->bat_changed)
			r = repair_step(repair, "batmap-wrong", layer->batmap.offset, "Xen's map of full blocks follows the BAT");
		if (r == 0 && (seen.code || repair->bat_changed))
			r = batmap_make(repair, layer, seen.code && !strcmp(seen.code, "batmap-checksum"));
	}
	layer_free(layer);
	return r;
}

int repair_locators(struct repair *repair)
{
	struct repair_defects *defects = malloc(sizeof(*defects));
	struct layer *layer = NULL;
	struct header header;
	bool changed = false;
	struct err why;
	int r;

	if (!defects)
		return repair_no_memory(repair);
	r = repair_scan(repair, &layer, defects, &why);
	if (r) {
		free(defects);
		return r < 0 ? err_set(repair->err, r, "%s", why.text) : 0;
	}
	header = layer->header;
	for (unsigned i = 0; i < defects->count && r == 0; i++) {
		if (strcmp(defects->list[i].code, "locator-overlaps-metadata"))
			continue;
		for (unsigned slot = 0; slot < VHD_LOCATORS && r == 0; slot++) {
			struct locator *locator = &header.locators[slot];

			if (locator->offset != defects->list[i].offset || !be32_get(*(const be32 *)locator->code))
				continue;
			r = repair_step(repair, defects->list[i].code, layer->header_offset + 0x240 + slot * sizeof(struct locator_disk),
			                "parent locator %u, whose data would lie on other metadata, is taken out of the header", slot + 1);
			*locator = (struct locator){.space = 0};
			changed = true;
		}
	}
	if (r == 0 && changed)
		r = repair_header_put(repair, &header, layer->header_offset);
	layer_free(layer);
	free(defects);
	return r;
}

/* The child keeps nothing of a parent's content: which file it stands on is the user's word. */
static int identity_write(struct repair *repair, const struct layer *layer, const uint8_t uuid[16], uint32_t time_stamp)
{
	struct header header = layer->header;
	char text[37];
	int r;

	vhd_uuid_text(uuid, text);
	r = repair_step(repair, "parent-mismatch", layer->header_offset + 0x28, "the header's Parent Unique ID becomes %s, that "
	                "of the disk named as the parent; if it is another disk than this one was made on, the content is wrong",
	                text);
	memcpy(header.parent_uuid, uuid, sizeof(header.parent_uuid));
	header.parent_time_stamp = time_stamp;
	repair->parent_changed = true;
	return r ? r : repair_header_put(repair, &header, layer->header_offset);
}

int repair_parent(struct repair *repair)
{
	const struct vhd_repair_options *options = repair->options;
	uint8_t uuid[16] = {0};
	uint32_t time_stamp = 0;
	struct layer *layer, *parent;
	struct store *store;
	struct stat st;
	struct err why;
	int r;

	if (repair->footer.type != VHD_DIFFERENCING || !options->parent || !options->force)
		return 0;
	r = repair_scan(repair, &layer, NULL, &why);
	if (r < 0)
		return err_set(repair->err, r, "%s", why.text);
	if (r)
		return 0;
	if (!options->parent_raw) {
		r = repair_open(options->parent, false, &store, repair->err);
		if (r == 0 && fstat(store->file.fd, &st) == 0)
			time_stamp = time_stamp_from_unix(st.st_mtime);
		if (r == 0)
			r = layer_open_take(store, options->parent, NULL, &parent, repair->err);
		if (r == 0) {
			memcpy(uuid, parent->footer.uuid, sizeof(uuid));
			layer_free(parent);
		}
	}
	if (r == 0 && memcmp(uuid, layer->header.parent_uuid, sizeof(uuid)))
		r = identity_write(repair, layer, uuid, time_stamp);
	layer_free(layer);
	return r;
}
