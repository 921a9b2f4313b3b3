/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/layer.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/checked.h"
#include "vhd/batmap.h"
#include "vhd/layer-scan.h"
#include "vhd/locator.h"

int layer_read(const struct layer *layer, void *buffer, size_t length, uint64_t offset)
{
	return layer->store->ops->read(layer->store, buffer, length, offset);
}

static int no_memory(const struct layer_scan *scan)
{
	return err_set(scan->scope.err, -ENOMEM, "%s: no memory for its metadata", scan->scope.path);
}

static char *path_absolute(const char *path)
{
	char *cwd, *ret;

	if (path[0] == '/')
		return strdup(path);
	cwd = getcwd(NULL, 0);
	if (!cwd)
		return strdup(path);
	if (asprintf(&ret, "%s/%s", cwd, path) < 0)
		ret = NULL;
	free(cwd);
	return ret;
}

static void metadata_add(struct layer_scan *scan, uint64_t offset, uint64_t length, const char *name)
{
	unsigned at = scan->metadata_count;

	if (length == 0 || at == LAYER_METADATA_MAX)
		return;
	while (at > 0 && scan->metadata[at - 1].range.offset > offset) {
		scan->metadata[at] = scan->metadata[at - 1];
		at--;
	}
	scan->metadata[at] = (struct layer_metadata){{offset, length}, name};
	scan->metadata_count++;
	if (offset + length > scan->metadata_end)
		scan->metadata_end = offset + length;
	if (offset + length > scan->layer->data_end)
		scan->layer->data_end = offset + length;
}

static int fixed_load(struct layer_scan *scan)
{
	struct layer *layer = scan->layer;

	layer->data_end = layer->size;
	if (layer->size > scan->end)
		return defect_report(&scan->scope, VHD_DAMAGE, "file-truncated", VHD_E_CORRUPT, scan->end,
		                     "the footer's Current Size is %" PRIu64 " bytes, but only %" PRIu64 " lie before it: the "
		                     "end of the disk is missing", layer->size, scan->end);
	if (layer->size < scan->end)
		return defect_report(&scan->scope, VHD_NOTE, "unused-space", VHD_E_CORRUPT, layer->size,
		                     "%" PRIu64 " bytes between the disk's end at %" PRIu64 " and the footer are unused",
		                     scan->end - layer->size, layer->size);
	return 0;
}

/* Without the header there is nothing to read, whatever else was to be collected. */
static int header_give_up(const struct layer_scan *scan, const char *why)
{
	return err_set(scan->scope.err, VHD_E_CORRUPT, "%s: %s; without its header nothing of the disk can be read",
	               scan->scope.path, why);
}

static int header_load(struct layer_scan *scan)
{
	struct layer *layer = scan->layer;
	struct format_defect defect;
	struct header_disk disk;
	struct err why;
	int r;

	layer->header_offset = layer->footer.data_offset;
	if (!range_inside(layer->header_offset, sizeof(disk), scan->end)) {
		r = defect_report(&scan->scope, VHD_DAMAGE, "header-beyond-end", VHD_E_CORRUPT, layer->header_offset,
		                  "the header at offset %" PRIu64 " (the footer's Data Offset) does not end before %s at %" PRIu64,
		                  layer->header_offset, scan->end < layer->file_size ? "the footer" : "the file's end",
		                  scan->end);
		return r ? r : header_give_up(scan, "the header lies beyond the file's end");
	}
	r = layer_read(layer, &disk, sizeof(disk), layer->header_offset);
	if (r < 0) {
		r = defect_report(&scan->scope, VHD_DAMAGE, "header-unreadable", r, layer->header_offset,
		                  "reading the header at offset %" PRIu64 " failed: %s", layer->header_offset, strerror(-r));
		return r ? r : header_give_up(scan, "the header cannot be read");
	}
	r = header_decode_defect(&disk, false, &layer->header, &defect, &why);
	if (r) {
		int report = defect_report(&scan->scope, VHD_DAMAGE, defect.code, r,
		                           layer->header_offset + defect.field_offset, "at offset %" PRIu64 ", %s",
		                           layer->header_offset, why.text);

		if (report)
			return report;
		r = header_decode_defect(&disk, true, &layer->header, &defect, &why);
		if (r)
			return header_give_up(scan, why.text);
	}
	if (be64_get(disk.data_offset) != VHD_NO_OFFSET)
		return defect_report(&scan->scope, VHD_NOTE, "header-data-offset", VHD_E_CORRUPT, layer->header_offset + 8,
		                     "the header's Data Offset is 0x%" PRIx64 ", where the format wants all ones",
		                     be64_get(disk.data_offset));
	return 0;
}

static int metadata_check(struct layer_scan *scan, const char *code, uint64_t offset, uint64_t length,
                          const char *name)
{
	for (unsigned i = 0; i < scan->metadata_count; i++)
		if (ranges_overlap((struct byte_range){offset, length}, scan->metadata[i].range))
			return defect_report(&scan->scope, VHD_DAMAGE, code, VHD_E_CORRUPT, offset,
			                     "%s (%" PRIu64 " bytes at offset %" PRIu64 ") overlaps %s (%" PRIu64 " bytes at offset "
			                     "%" PRIu64 ")", name, length, offset, scan->metadata[i].name,
			                     scan->metadata[i].range.length, scan->metadata[i].range.offset);
	return 0;
}

static int locators_load(struct layer_scan *scan)
{
	static const char *const names[VHD_LOCATORS] = {
		"parent locator 1", "parent locator 2", "parent locator 3", "parent locator 4",
		"parent locator 5", "parent locator 6", "parent locator 7", "parent locator 8",
	};
	struct layer *layer = scan->layer;
	int r = 0;

	for (unsigned i = 0; i < VHD_LOCATORS && r == 0; i++) {
		const struct locator *locator = &layer->header.locators[i];
		uint64_t field = layer->header_offset + 0x240 + i * sizeof(struct locator_disk);
		uint64_t space = locator_space_bytes(locator);

		if (!memcmp(locator->code, "\0\0\0\0", 4) || space == 0)
			continue;
		if (!range_inside(locator->offset, locator->length, scan->end)) {
			r = defect_report(&scan->scope, VHD_WARNING, "locator-beyond-end", VHD_E_CORRUPT, field,
			                  "%s (%" PRIu32 " bytes at offset %" PRIu64 ") does not end before %" PRIu64
			                  ", so it is not used", names[i], locator->length, locator->offset, scan->end);
			continue;
		}
		if (locator->length > space)
			r = defect_report(&scan->scope, VHD_WARNING, "locator-length", VHD_E_CORRUPT, field + 8,
			                  "%s has %" PRIu32 " bytes of data in a space of %" PRIu64
			                  "; what is beyond the space is not read", names[i], locator->length, space);
		if (r == 0)
			r = metadata_check(scan, "locator-overlaps-metadata", locator->offset,
			                   locator->length < space ? locator->length : space, names[i]);
		if (r)
			break;
		if (range_inside(locator->offset, space, scan->end) && locator->offset + space > layer->data_end)
			layer->data_end = locator->offset + space;
		metadata_add(scan, locator->offset, locator->length < space ? locator->length : space, names[i]);
	}
	return r;
}

/* Xen's map of full blocks: its header follows the BAT, padded to a sector. */
static int batmap_find(struct layer_scan *scan)
{
	struct layer *layer = scan->layer;
	uint64_t header_at, map_at, map_length, end, needed = ((uint64_t)layer->block_count + 7) / 8;
	struct batmap_disk disk;
	uint8_t *map;
	uint32_t checksum;
	bool holds;
	int r;

	header_at = layer->header.table_offset + round_up((uint64_t)layer->header.max_table_entries * 4, VHD_SECTOR);
	if (!range_inside(header_at, VHD_SECTOR, scan->end))
		return 0;
	r = layer_read(layer, &disk, sizeof(disk), header_at);
	if (r < 0 || memcmp(disk.cookie, "tdbatmap", 8))
		return 0;

	map_at = be64_get(disk.offset);
	map_length = (uint64_t)be32_get(disk.sectors) * VHD_SECTOR;
	layer->batmap = (struct byte_range){header_at, VHD_SECTOR};
	if (!range_inside(map_at, map_length, scan->end) || map_at < header_at + VHD_SECTOR || map_length < needed ||
	    map_length > needed + (UINT64_C(1) << 20)) {
		metadata_add(scan, header_at, VHD_SECTOR, "the batmap");
		return defect_report(&scan->scope, VHD_DAMAGE, "batmap", VHD_E_CORRUPT, header_at,
		                     "the batmap (header at offset %" PRIu64 ") says that it has %" PRIu64 " bytes at offset %"
		                     PRIu64 ", which cannot be", header_at, map_length, map_at);
	}
	end = map_at + map_length;
	r = metadata_check(scan, "batmap-overlaps-metadata", map_at, map_length, "the batmap");
	if (r)
		return r;
	layer->batmap.length = end - header_at;
	metadata_add(scan, header_at, VHD_SECTOR, "the batmap's header");
	metadata_add(scan, map_at, map_length, "the batmap");

	map = malloc(map_length);
	if (!map)
		return no_memory(scan);
	r = layer_read(layer, map, map_length, map_at);
	checksum = be32_get(disk.checksum);
	holds = r == 0 && (checksum == batmap_checksum(map, map_length, false) ||
	                   checksum == batmap_checksum(map, map_length, true));
	free(map);
	if (!holds)
		return defect_report(&scan->scope, VHD_WARNING, "batmap-checksum", VHD_E_CORRUPT, header_at,
		                     "the batmap at offset %" PRIu64 " %s; it is not used", map_at,
		                     r < 0 ? "cannot be read" : "has a wrong checksum");
	layer->batmap_bits = (struct byte_range){map_at, map_length};
	return 0;
}

static int parent_name_load(struct layer_scan *scan)
{
	struct layer *layer = scan->layer;
	const uint8_t *bytes = (const uint8_t *)layer->header.raw.parent_name;
	struct err why;
	int r;

	if (layer->footer.type != VHD_DIFFERENCING)
		return 0;
	r = utf16_decode(bytes, sizeof(layer->header.raw.parent_name), true, &layer->parent_name, &why);
	if (r == -ENOMEM)
		return no_memory(scan);
	if (r)
		return defect_report(&scan->scope, VHD_WARNING, "parent-name", VHD_E_CORRUPT, layer->header_offset + 0x40,
		                     "the header's Parent Unicode Name is not UTF-16: %s", why.text);
	if (layer->parent_name[0] == '\0') {
		free(layer->parent_name);
		layer->parent_name = NULL;
	}
	return 0;
}

static int sparse_load(struct layer_scan *scan)
{
	struct layer *layer = scan->layer;
	uint64_t table_bytes;
	int r;

	r = header_load(scan);
	if (r)
		return r;
	layer->block_size = layer->header.block_size;
	layer->block_shift = (unsigned)__builtin_ctz(layer->block_size);
	layer->bitmap_bytes = (uint32_t)round_up((layer->block_size / VHD_SECTOR + 7) / 8, VHD_SECTOR);
	/* At most 2040 GiB / 512 < 2^32. */
	layer->block_count = (uint32_t)((layer->size + layer->block_size - 1) >> layer->block_shift);

	metadata_add(scan, 0, VHD_SECTOR, "the copy of the footer");
	r = metadata_check(scan, "header-overlaps-metadata", layer->header_offset, sizeof(struct header_disk), "the header");
	if (r)
		return r;
	metadata_add(scan, layer->header_offset, sizeof(struct header_disk), "the header");

	table_bytes = round_up((uint64_t)layer->header.max_table_entries * 4, VHD_SECTOR);
	if (range_inside(layer->header.table_offset, (uint64_t)layer->header.max_table_entries * 4, scan->end)) {
		r = metadata_check(scan, "bat-overlaps-metadata", layer->header.table_offset, table_bytes, "the BAT");
		if (r)
			return r;
		metadata_add(scan, layer->header.table_offset, table_bytes, "the BAT");
		r = batmap_find(scan);
	}
	if (r == 0)
		r = locators_load(scan);
	layer->metadata_end = layer->data_end;
	if (r == 0)
		r = bat_load(scan);
	if (r == 0)
		r = parent_name_load(scan);
	return r;
}

static int layer_load(struct layer_scan *scan)
{
	const struct footer *footer = &scan->layer->footer;
	int r;

	r = footer_find(scan);
	if (r)
		return r;
	if (footer->saved_state)
		r = defect_report(&scan->scope, VHD_NOTE, "saved-state", VHD_E_CORRUPT, scan->end + 0x54,
		                  "the disk belongs to a virtual machine in a saved state; changing it can harm that machine");
	if (r == 0)
		r = footer->type == VHD_FIXED ? fixed_load(scan) : sparse_load(scan);
	return r;
}

static int layer_new(struct store *store, const char *path, struct layer **ret, struct err *err)
{
	struct layer *layer = calloc(1, sizeof(*layer));
	int r = layer ? 0 : -ENOMEM;

	if (r == 0) {
		layer->store = store;
		layer->path = path_absolute(path);
		r = layer->path ? store->ops->size(store, &layer->file_size) : -ENOMEM;
	}
	if (r < 0) {
		if (layer)
			layer_free(layer);
		else
			store_close(store);
		return err_set(err, r, "%s: opening failed: %s", path, strerror(-r));
	}
	*ret = layer;
	return 0;
}

int layer_open_take(struct store *store, const char *path, const struct layer_sink *sink, struct layer **ret,
                    struct err *err)
{
	struct layer_scan scan = {.scope = {path, sink, err}};
	int r;

	r = layer_new(store, path, &scan.layer, err);
	if (r)
		return r;
	r = layer_load(&scan);
	if (r) {
		layer_free(scan.layer);
		return r;
	}
	*ret = scan.layer;
	return 0;
}

int layer_open_raw_take(struct store *store, const char *path, struct layer **ret, struct err *err)
{
	struct layer *layer;
	int r;

	r = layer_new(store, path, &layer, err);
	if (r)
		return r;
	layer->raw = true;
	layer->size = layer->file_size;
	layer->data_end = layer->file_size;
	*ret = layer;
	return 0;
}

void layer_free(struct layer *layer)
{
	if (!layer)
		return;
	store_close(layer->store);
	for (unsigned i = 0; i < layer->former_count; i++)
		free(layer->former[i]);
	free(layer->former);
	free(layer->path);
	free(layer->bat);
	free(layer->parent_name);
	free(layer->parent_path);
	free(layer);
}

int layer_string_replace_take(struct layer *layer, char **place, char *string)
{
	char **former = reallocarray(layer->former, layer->former_count + 1, sizeof(*former));

	if (!former) {
		free(string);
		return -ENOMEM;
	}
	former[layer->former_count++] = *place;
	layer->former = former;
	*place = string;
	return 0;
}

static void four_characters(const uint8_t bytes[4], char ret[5])
{
	for (unsigned i = 0; i < 4; i++)
		ret[i] = bytes[i] >= 0x20 && bytes[i] < 0x7F ? (char)bytes[i] : '.';
	ret[4] = '\0';
}

void layer_info(const struct layer *layer, struct vhd_info *ret)
{
	const struct footer *footer = &layer->footer;
	struct vhd_info info = {
		.path = layer->path,
		.raw = layer->raw,
		.size_bytes = layer->size,
		.file_size_bytes = layer->file_size,
	};

	if (!layer->raw) {
		info.type = footer->type;
		info.original_size_bytes = footer->original_size;
		memcpy(info.uuid, footer->uuid, sizeof(info.uuid));
		four_characters(footer->creator, info.creator);
		info.creator_version = footer->creator_version;
		four_characters(footer->creator_os, info.creator_host_os);
		info.created = (time_t)VHD_EPOCH + footer->time_stamp;
		info.geometry = footer->geometry;
		info.saved_state = footer->saved_state;
		info.temporary = footer->features & 1;
		info.footer_from_copy = layer->footer_source == FOOTER_FROM_COPY;
		info.payload_aligned = footer->type == VHD_FIXED || layer->payload_aligned;
	}
	if (!layer->raw && footer->type != VHD_FIXED) {
		info.block_size_bytes = layer->block_size;
		info.block_count = (uint32_t)((layer->size + layer->block_size - 1) >> layer->block_shift);
		info.allocated_blocks = layer->allocated;
		info.has_batmap = layer->batmap.length != 0;
	}
	if (!layer->raw && footer->type == VHD_DIFFERENCING) {
		memcpy(info.parent_uuid, layer->header.parent_uuid, sizeof(info.parent_uuid));
		info.parent_modified = (time_t)VHD_EPOCH + layer->header.parent_time_stamp;
		info.parent_name = layer->parent_name;
		info.parent_path = layer->parent_path;
	}
	*ret = info;
}
