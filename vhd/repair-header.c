/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The header, where the BAT is and how long. As with footers: a changed field is proven when the stored checksum holds
 * with it; else what matters must agree with the blocks; else the blocks say what it was.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "vhd/create.h"
#include "vhd/locator.h"
#include "vhd/repair.h"

int repair_header_put(struct repair *repair, const struct header *header, uint64_t offset)
{
	struct header_disk disk;

	header_encode(header, &disk);
	if (overlay_write(&repair->plan, &disk, sizeof(disk), offset, PHASE_HEADER))
		return repair_no_memory(repair);
	return 0;
}

static int footer_points_to(struct repair *repair, uint64_t offset)
{
	repair->footer.data_offset = offset;
	repair->copy_needed = true;
	repair->end_is_footer = false;
	return repair_footer_lay(repair) ? repair_no_memory(repair) : 0;
}

static bool table_is_good(struct repair *repair, const struct header *header, uint64_t offset, bool exact)
{
	struct table_judgement table;

	return table_judge(repair, header, offset, repair->footer.current_size, &table) == 0 && table.inside &&
	       (exact ? table.bad == 0 : table.bad <= table.used / 2) &&
	       (!exact || table.needed == header->max_table_entries);
}

/* A sum of bytes does not prove much (it is blind to their order): the table must agree with the blocks too. */
static bool try_checksum(struct repair *repair, const struct header_disk *disk, uint64_t offset, struct header *ret)
{
	struct table_judgement table;

	return header_decode(disk, false, ret, NULL) == 0 &&
	       table_judge(repair, ret, offset, repair->footer.current_size, &table) == 0 && table.inside &&
	       (table.used == 0 || table.bad < table.used);
}

/* One field, or the block size with the number of entries, was changed. */
static bool header_prove(struct repair *repair, const struct header_disk *damaged, uint64_t offset, struct header *ret)
{
	struct header_disk base = *damaged, disk;
	uint64_t size = repair->footer.current_size;
	uint32_t block_size = be32_get(base.block_size);
	struct header found;

	memcpy(base.cookie, "cxsparse", 8);
	if (try_checksum(repair, &base, offset, ret))
		return true;
	disk = base;
	disk.data_offset = be64_make(VHD_NO_OFFSET);
	if (try_checksum(repair, &disk, offset, ret))
		return true;
	disk = base;
	disk.version = be32_make(0x00010000);
	if (try_checksum(repair, &disk, offset, ret))
		return true;
	disk = base;
	memset(disk.reserved2, 0, sizeof(disk.reserved2));
	if (try_checksum(repair, &disk, offset, ret))
		return true;
	disk = base;
	disk.reserved = be32_make(0);
	if (try_checksum(repair, &disk, offset, ret))
		return true;
	if (repair->footer.type == VHD_DYNAMIC) {
		disk = base;
		memset(disk.parent_uuid, 0, sizeof(disk.parent_uuid));
		disk.parent_time_stamp = disk.reserved = be32_make(0);
		memset(disk.parent_name, 0, sizeof(disk.parent_name));
		memset(disk.locators, 0, sizeof(disk.locators));
		if (try_checksum(repair, &disk, offset, ret))
			return true;
	}
	for (unsigned shift = 9; shift <= 28; shift++) {
		disk = base;
		disk.block_size = be32_make(1u << shift);
		if ((size + (1u << shift) - 1) >> shift == be32_get(disk.max_table_entries) &&
		    try_checksum(repair, &disk, offset, ret))
			return true;
	}
	if (is_power_of_two(block_size) && block_size >= VHD_SECTOR && block_size <= VHD_MAX_BLOCK_SIZE) {
		disk = base;
		disk.max_table_entries = be32_make((uint32_t)((size + block_size - 1) / block_size));
		if (try_checksum(repair, &disk, offset, ret))
			return true;
		found = (struct header){.block_size = block_size};
		disk = base;
		if (table_find(repair, offset, size, &found) == 0) {
			disk.table_offset = be64_make(found.table_offset);
			if (try_checksum(repair, &disk, offset, ret))
				return true;
		}
	}
	return false;
}

/* No checksum proves it, but every field that matters agrees with the blocks, or all but one, which they tell. */
static bool header_believe(struct repair *repair, const struct header_disk *damaged, uint64_t offset, struct header *ret,
                           const char **ret_what)
{
	uint64_t size = repair->footer.current_size;
	struct header_disk disk = *damaged;
	struct header found;

	if (!header_has_cookie(&disk))
		return false;
	*ret_what = "the header's checksum is renewed: all that blocks depend on is right in it; which byte was changed cannot "
	            "be told";
	if (header_decode(&disk, true, ret, NULL) == 0 && ret->max_table_entries == (size + ret->block_size - 1) / ret->block_size &&
	    table_is_good(repair, ret, offset, false))
		return true;
	found = (struct header){.block_size = be32_get(disk.block_size)};
	*ret_what = "the header's Table Offset becomes that of the only table in the file of which every entry fits";
	if (is_power_of_two(found.block_size) && found.block_size >= VHD_SECTOR && found.block_size <= VHD_MAX_BLOCK_SIZE &&
	    table_find(repair, offset, size, &found) == 0) {
		disk.table_offset = be64_make(found.table_offset);
		if (header_decode(&disk, true, ret, NULL) == 0 && table_is_good(repair, ret, offset, true))
			return true;
	}
	*ret_what = "the header's Block Size becomes the one with which the disk has as many blocks as the BAT has entries, and "
	            "every entry fits";
	disk = *damaged;
	for (unsigned shift = 28; shift >= 9; shift--) {
		disk.block_size = be32_make(1u << shift);
		if (header_decode(&disk, true, ret, NULL) == 0 && table_is_good(repair, ret, offset, true))
			return true;
	}
	*ret_what = "the header's Max Table Entries becomes what the disk's size needs; every entry fits";
	disk = *damaged;
	if (be32_get(disk.block_size) == 0)
		return false;
	disk.max_table_entries = be32_make((uint32_t)((size + be32_get(disk.block_size) - 1) / be32_get(disk.block_size)));
	return header_decode(&disk, true, ret, NULL) == 0 && table_is_good(repair, ret, offset, true);
}

static int parent_describe(struct repair *repair, struct header *header)
{
	const char *parent = repair->options->parent, *slash = strrchr(parent, '/');
	struct store *store;
	struct layer *layer;
	uint8_t *name;
	size_t length;
	int r;

	r = utf16_encode(slash ? slash + 1 : parent, true, &name, &length, repair->err);
	if (r)
		return r;
	memcpy(header->raw.parent_name, name, length < sizeof(header->raw.parent_name) ? length
	       : sizeof(header->raw.parent_name));
	free(name);
	if (repair->options->parent_raw)
		return 0;
	r = repair_open(parent, false, &store, repair->err);
	if (r == 0)
		r = layer_open_take(store, parent, NULL, &layer, repair->err);
	if (r)
		return r;
	memcpy(header->parent_uuid, layer->footer.uuid, 16);
	layer_free(layer);
	return 0;
}

/* No header is left: the blocks say what it was. */
static int header_rebuild(struct repair *repair, const char *code, const char *why)
{
	bool child = repair->footer.type == VHD_DIFFERENCING;
	uint64_t offset = repair->footer.data_offset;
	struct header header;
	int r;

	if (child && !repair->options->parent)
		return repair_refuse(repair, code, offset, "%s; only it said which disk is the parent: name it with --parent FILE, "
		                     "and the rest is rebuilt from the blocks", why);
	r = layout_find(repair, VHD_SECTOR, repair->footer.current_size, &header);
	/* Before the table there are no blocks. */
	if (r == 0 && (offset < VHD_SECTOR || offset + sizeof(struct header_disk) > header.table_offset))
		offset = VHD_SECTOR;
	if (r < 0)
		return err_set(repair->err, r, "%s: looking for its BAT failed: %s", repair->path, strerror(-r));
	if (r)
		return repair_refuse(repair, code, offset, "%s; and no table is found in the file of which every entry fits, so that "
		                     "the place of the BAT and the size of blocks cannot be told", why);
	if (child) {
		r = parent_describe(repair, &header);
		if (r)
			return r;
	}
	r = repair_step(repair, code, offset, "the header at offset %" PRIu64 " is rebuilt: the blocks prove a block size of %"
	                PRIu32 " bytes and a BAT of %" PRIu32 " entries at offset %" PRIu64 "%s", offset, header.block_size,
	                header.max_table_entries, header.table_offset, child ? "; the parent is the one named" : "");
	if (r == 0 && offset != repair->footer.data_offset)
		r = footer_points_to(repair, offset);
	return r ? r : repair_header_put(repair, &header, offset);
}

/* The checksum holds, but the table cannot be as it says. 1: it can. */
static int table_place(struct repair *repair, struct header *header, uint64_t offset)
{
	uint64_t needed = (repair->footer.current_size + header->block_size - 1) / header->block_size;
	uint32_t entries = header->max_table_entries;
	struct header changed = *header;
	struct table_judgement table;
	bool grown = false;
	int r;

	r = table_judge(repair, header, offset, repair->footer.current_size, &table);
	if (r)
		return repair_no_memory(repair);
	if (table.inside && (table.used == 0 || table.bad < table.used))
		return 1;
	if (needed <= UINT32_MAX && needed != header->max_table_entries) {
		changed.max_table_entries = (uint32_t)needed;
		grown = table_is_good(repair, &changed, offset, false);
	}
	if (!grown) {
		changed = *header;
		if (needed > UINT32_MAX || table_find(repair, offset, repair->footer.current_size, &changed))
			return table.inside ? 1 : repair_refuse(repair, "bat-beyond-end", offset + 0x10, "the BAT of %" PRIu32
			       " entries at offset %" PRIu64 " cannot be, and no other place in the file holds a table of which every "
			       "entry fits", header->max_table_entries, header->table_offset);
		changed.max_table_entries = (uint32_t)needed;
	}
	*header = changed;
	r = grown ? repair_step(repair, entries < needed ? "bat-too-small" : "bat-beyond-end", offset + 0x1c,
	                        "Max Table Entries becomes %" PRIu32 ", what the disk's size needs; the entries are there",
	                        changed.max_table_entries)
	          : repair_step(repair, "header-table-offset", offset + 0x10, "Table Offset becomes %" PRIu64 ": only there is a "
	                        "table of which every entry fits", changed.table_offset);
	return r ? r : repair_header_put(repair, header, offset);
}

/*
 * Where Data Offset points there is none: there is one where all writers but few put it, or one that is good elsewhere
 * and whose table agrees with the blocks.
 */
static int header_elsewhere(struct repair *repair, uint64_t wrong, const char *code, const char *why)
{
	struct header header;
	uint64_t offset;
	int r = header_search(repair, &header, &offset);

	if (offset && offset != wrong &&
	    (offset == VHD_SECTOR || (r == 0 && table_is_good(repair, &header, offset, false)))) {
		r = repair_step(repair, code, 0x10, "the footers' Data Offset becomes %" PRIu64 ", where a header lies", offset);
		if (r == 0)
			r = footer_points_to(repair, offset);
		return r ? r : repair_header(repair);
	}
	return header_rebuild(repair, code, why);
}

int repair_header(struct repair *repair)
{
	uint64_t offset = repair->footer.data_offset;
	struct format_defect defect;
	struct header_disk disk;
	struct header header;
	const char *what;
	struct err why;
	int r;

	if (offset < VHD_SECTOR || !range_inside(offset, sizeof(disk), repair->end)) {
		err_set(&why, 0, "the footer's Data Offset is %" PRIu64 ", where no header can be", offset);
		return header_elsewhere(repair, offset, "header-beyond-end", why.text);
	}
	r = repair_read(repair, &disk, sizeof(disk), offset);
	if (r)
		return repair_refuse(repair, "header-unreadable", offset, "reading the header failed: %s; copy the file to sound "
		                     "storage first, and repair the copy", strerror(-r));
	r = header_decode_defect(&disk, false, &header, &defect, &why);
	if (r == 0) {
		r = table_place(repair, &header, offset);
		return r == 1 ? 0 : r;
	}
	if (!strcmp(defect.code, "header-version") && be32_get(disk.checksum) == header_checksum(&disk))
		return repair_refuse(repair, defect.code, offset, "%s: written so on purpose, by software that knows more", why.text);
	if (header_prove(repair, &disk, offset, &header))
		r = repair_step(repair, defect.code, offset + defect.field_offset,
		                "the header is restored; its checksum proves what it was");
	else if (header_believe(repair, &disk, offset, &header, &what))
		r = repair_step(repair, defect.code, offset + defect.field_offset, "%s%s", what,
		                repair->footer.type == VHD_DIFFERENCING ? "; what it says of the parent is taken as it is" : "");
	else
		return header_elsewhere(repair, offset, defect.code, why.text);
	return r ? r : repair_header_put(repair, &header, offset);
}
