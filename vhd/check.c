/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/check.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "vhd/gaps.h"
#include "vhd/layer-scan.h"
#include "vhd/locator.h"

#define TRAILING_ENTRIES_MAX (1u << 20) /* how many of those that no block of the disk has are looked at */
#define UNUSED_WORTH_A_NOTE (1u << 20) /* bytes; less is alignment */

static void count_and_forward(void *user, const struct vhd_defect *defect)
{
	struct check *check = user;

	if (defect->severity == VHD_NOTE)
		check->result.notes++;
	else if (defect->severity == VHD_WARNING)
		check->result.warnings++;
	else
		check->result.damages++;
	if (check->options->defect)
		check->options->defect(check->options->user, defect);
}

static void check_fields(const struct defect_scope *scope, const struct layer *layer)
{
	const struct footer *footer = &layer->footer;

	if (!(footer->features & 2))
		defect_report(scope, VHD_NOTE, "footer-features", VHD_E_CORRUPT, 0,
		              "the footer's Features are 0x%08" PRIx32 ", without bit 1, which the format wants always set",
		              footer->features);
	if (footer->type == VHD_FIXED && footer->data_offset != VHD_NO_OFFSET)
		defect_report(scope, VHD_NOTE, "footer-data-offset", VHD_E_CORRUPT, layer->size + 0x10,
		              "the footer's Data Offset is 0x%" PRIx64 ", where the format wants all ones for a fixed disk",
		              footer->data_offset);
	if (layer->footer_source != FOOTER_FROM_COPY && !footer_checksum_holds(&footer->raw))
		return;
	if (be32_get(footer->raw.checksum) != footer_checksum(&footer->raw))
		defect_report(scope, VHD_NOTE, "footer-hidden", VHD_E_CORRUPT, 0x40,
		              "the footer's checksum leaves out the \"hidden\" mark, as early Xen tools did");
}

/* Entries behind those that the disk needs: nobody reads them, but they should say "not allocated". */
static int check_trailing_entries(const struct check *check, const struct defect_scope *scope,
                                  const struct layer *layer)
{
	const struct header *header = &layer->header;
	uint32_t extra, used = 0, first = 0;
	uint64_t offset;
	be32 *entries;
	int r;

	if (header->max_table_entries <= layer->block_count)
		return 0;
	extra = header->max_table_entries - layer->block_count;
	if (extra > TRAILING_ENTRIES_MAX)
		extra = TRAILING_ENTRIES_MAX;
	offset = header->table_offset + (uint64_t)layer->block_count * 4;
	if (!range_inside(offset, (uint64_t)extra * 4, layer->file_size))
		return 0;
	defect_report(scope, VHD_NOTE, "bat-size", VHD_E_CORRUPT, layer->header_offset + 0x1c,
	              "the header's Max Table Entries is %" PRIu32 ", more than the %" PRIu32
	              " that the disk needs; Azure refuses such images", header->max_table_entries, layer->block_count);
	entries = malloc((size_t)extra * sizeof(*entries));
	if (!entries)
		return err_set(check->err, -ENOMEM, "%s: no memory for the BAT", layer->path);
	r = layer_read(layer, entries, (size_t)extra * sizeof(*entries), offset);
	for (uint32_t i = 0; i < extra && r == 0; i++)
		if (be32_get(entries[i]) != VHD_BAT_UNALLOCATED && used++ == 0)
			first = layer->block_count + i;
	free(entries);
	if (used)
		defect_report(scope, VHD_NOTE, "bat-trailing-entries", VHD_E_CORRUPT,
		              header->table_offset + (uint64_t)first * 4,
		              "%" PRIu32 " BAT entries beyond the disk's end, the first of them entry %" PRIu32
		              ", are not \"unallocated\"; they are ignored", used, first);
	return 0;
}

static uint64_t structure_bytes(const struct layer *layer)
{
	uint64_t bytes = layer->footer_source == FOOTER_AT_END ? VHD_SECTOR
	                 : layer->footer_source == FOOTER_AT_END_511 ? VHD_SECTOR - 1 : 0;

	if (layer->footer.type == VHD_FIXED)
		return bytes + layer->size;
	bytes += VHD_SECTOR + sizeof(struct header_disk) + layer->batmap.length;
	bytes += round_up((uint64_t)layer->header.max_table_entries * 4, VHD_SECTOR);
	for (unsigned i = 0; i < VHD_LOCATORS; i++)
		if (memcmp(layer->header.locators[i].code, "\0\0\0\0", 4))
			bytes += locator_space_bytes(&layer->header.locators[i]);
	return bytes + (uint64_t)layer->allocated * ((uint64_t)layer->bitmap_bytes + layer->block_size);
}

static void check_unused(struct check *check, const struct defect_scope *scope, const struct layer *layer)
{
	uint64_t used = structure_bytes(layer), unused = layer->file_size > used ? layer->file_size - used : 0;
	/* In front of each block's bitmap a gap may align its data: that is as it should be. */
	uint64_t gaps = (uint64_t)layer->allocated * PAYLOAD_ALIGN;

	check->result.unused_bytes += unused;
	if (layer->footer.type != VHD_FIXED && unused >= gaps + UNUSED_WORTH_A_NOTE)
		defect_report(scope, VHD_NOTE, "unused-space", VHD_E_CORRUPT, layer->data_end,
		              "%" PRIu64 " bytes of the file belong to no structure (freed or leaked blocks, reserved space)",
		              unused);
}

static int check_layer(struct check *check, unsigned index)
{
	const struct layer *layer = check->chain.layers[index];
	struct defect_scope scope = {layer->path, &check->sink, check->err};
	int r;

	check->result.layers++;
	if (layer->raw)
		return 0;
	check_fields(&scope, layer);
	check_unused(check, &scope, layer);
	if (layer->footer.type == VHD_FIXED)
		return 0;
	check->result.allocated_blocks += layer->allocated;
	r = check_trailing_entries(check, &scope, layer);
	return r ? r : check_bitmaps(check, index);
}

/* The chain is open: looks into each file of it, and frees it. */
static int check_chain(struct check *check, const char *path)
{
	int r = 0;

	for (unsigned i = 0; i < check->chain.count; i++)
		if (!check->chain.layers[i]->raw)
			check->result.blocks += check->chain.layers[i]->block_count;
	for (unsigned i = 0; i < check->chain.count && r == 0; i++)
		r = check_layer(check, i);
	chain_done(&check->chain);
	if (r == 0 && check->result.damages)
		return err_set(check->err, VHD_E_CORRUPT, "%s: damaged in %u ways", path, check->result.damages);
	return r;
}

int vhd_check(const char *path, const struct vhd_check_options *options, struct vhd_check_result *ret,
              struct err *err)
{
	static const struct vhd_check_options defaults;
	struct check check = {.options = options ? options : &defaults, .err = err};
	struct vhd_open_options open_options = {
		.flags = VHD_OPEN_SALVAGE | (check.options->one_file ? VHD_OPEN_NO_PARENTS : 0),
		.parent = check.options->parent,
		.parent_raw = check.options->parent_raw,
		.allow_dirs = check.options->allow_dirs,
	};
	int r;

	check.sink = (struct layer_sink){.defect = count_and_forward, .user = &check, .damage_only = true};
	r = chain_open(path, &open_options, &check.sink, &check.chain, err);
	if (r == 0)
		r = check_chain(&check, path);
	if (ret)
		*ret = check.result;
	return r;
}

int check_store_take(struct store *store, const char *path, const struct vhd_check_options *options,
                     struct vhd_check_result *ret, struct err *err)
{
	struct check check = {.options = options, .err = err};
	struct layer *layer;
	int r;

	check.sink = (struct layer_sink){.defect = count_and_forward, .user = &check, .damage_only = true};
	r = layer_open_take(store, path, &check.sink, &layer, err);
	if (r == 0) {
		check.chain.layers = malloc(sizeof(struct layer *));
		if (check.chain.layers) {
			check.chain.layers[0] = layer;
			check.chain.count = 1;
			r = check_chain(&check, path);
		} else {
			layer_free(layer);
			r = err_set(err, -ENOMEM, "%s: no memory", path);
		}
	}
	*ret = check.result;
	return r;
}
