/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/format.h"

#include <inttypes.h>
#include <stddef.h>
#include <string.h>

#include "common/checked.h"

static const uint8_t footer_cookie[8] = {'c', 'o', 'n', 'e', 'c', 't', 'i', 'x'};
static const uint8_t footer_poison[8] = {'v', '_', 'p', 'o', 'i', 's', 'o', 'n'};
static const uint8_t header_cookie[8] = {'c', 'x', 's', 'p', 'a', 'r', 's', 'e'};

static uint32_t byte_sum(const void *data, size_t length)
{
	const uint8_t *bytes = data;
	uint32_t sum = 0;

	for (size_t i = 0; i < length; i++)
		sum += bytes[i];
	return sum;
}

uint32_t footer_checksum(const struct footer_disk *disk)
{
	return ~(byte_sum(disk, sizeof(*disk)) - byte_sum(&disk->checksum, sizeof(disk->checksum)));
}

uint32_t header_checksum(const struct header_disk *disk)
{
	return ~(byte_sum(disk, sizeof(*disk)) - byte_sum(&disk->checksum, sizeof(disk->checksum)));
}

bool footer_has_cookie(const struct footer_disk *disk)
{
	return !memcmp(disk->cookie, footer_cookie, sizeof(footer_cookie));
}

bool footer_is_poisoned(const struct footer_disk *disk)
{
	return !memcmp(disk->cookie, footer_poison, sizeof(footer_poison));
}

bool header_has_cookie(const struct header_disk *disk)
{
	return !memcmp(disk->cookie, header_cookie, sizeof(header_cookie));
}

/* Early Xen tools set "hidden", the first reserved byte, and left the checksum as it was. */
static bool footer_is_hidden_by_early_xen(const struct footer_disk *disk)
{
	uint32_t version = be32_get(disk->creator_version);

	return disk->reserved[0] && !memcmp(disk->creator, "tap\0", 4) &&
	       (version == 0x00000001 || version == 0x00010001) &&
	       be32_get(disk->checksum) == footer_checksum(disk) + disk->reserved[0];
}

bool footer_checksum_holds(const struct footer_disk *disk)
{
	return be32_get(disk->checksum) == footer_checksum(disk) || footer_is_hidden_by_early_xen(disk);
}

static int bad(struct format_defect *ret, const char *code, size_t field_offset, int verdict)
{
	if (ret)
		*ret = (struct format_defect){code, field_offset};
	return verdict;
}

int footer_decode_defect(const struct footer_disk *disk, bool ignore_checksum, struct footer *ret,
                         struct format_defect *defect, struct err *err)
{
	struct footer footer = {
		.raw = *disk,
		.features = be32_get(disk->features),
		.data_offset = be64_get(disk->data_offset),
		.time_stamp = be32_get(disk->time_stamp),
		.creator_version = be32_get(disk->creator_version),
		.original_size = be64_get(disk->original_size),
		.current_size = be64_get(disk->current_size),
		.geometry = {be16_get(disk->cylinders), disk->heads, disk->sectors},
		.saved_state = disk->saved_state != 0,
	};
	uint32_t version = be32_get(disk->version), type = be32_get(disk->disk_type);

	memcpy(footer.creator, disk->creator, 4);
	memcpy(footer.creator_os, disk->creator_os, 4);
	memcpy(footer.uuid, disk->uuid, 16);

	if (footer_is_poisoned(disk) && !ignore_checksum)
		return bad(defect, "footer-resize-journal", 0,
		           err_set(err, VHD_E_CORRUPT, "the footer's cookie is \"v_poison\": an interrupted resize journal; "
		                   "finish or undo the resize with the tool that began it (vhd-util revert)"));
	if (!footer_has_cookie(disk) && !footer_is_poisoned(disk))
		return bad(defect, "footer-cookie", 0,
		           err_set(err, VHD_E_CORRUPT, "the footer does not begin with \"conectix\""));
	if (!ignore_checksum && !footer_checksum_holds(disk))
		return bad(defect, "footer-checksum", offsetof(struct footer_disk, checksum),
		           err_set(err, VHD_E_CORRUPT, "the footer's checksum is %08" PRIx32 ", but its bytes give %08" PRIx32,
		                   be32_get(disk->checksum), footer_checksum(disk)));
	if (version >> 16 != 1)
		return bad(defect, "footer-version", offsetof(struct footer_disk, version),
		           err_set(err, VHD_E_UNSUPPORTED, "the footer's File Format Version is %" PRIu32 ".%" PRIu32
		                   "; only 1.x is known", version >> 16, version & 0xFFFF));
	if (type != VHD_FIXED && type != VHD_DYNAMIC && type != VHD_DIFFERENCING)
		return bad(defect, "footer-type", offsetof(struct footer_disk, disk_type),
		           err_set(err, VHD_E_UNSUPPORTED, "the footer's Disk Type is %" PRIu32
		                   "; only 2 (fixed), 3 (dynamic) and 4 (differencing) are known", type));
	if (footer.current_size == 0)
		return bad(defect, "footer-size", offsetof(struct footer_disk, current_size),
		           err_set(err, VHD_E_CORRUPT, "the footer's Current Size is 0"));
	if (footer.current_size % VHD_SECTOR)
		return bad(defect, "footer-size", offsetof(struct footer_disk, current_size),
		           err_set(err, VHD_E_CORRUPT, "the footer's Current Size is %" PRIu64
		                   " bytes, not a multiple of 512", footer.current_size));
	if (footer.current_size > VHD_MAX_SIZE)
		return bad(defect, "footer-size", offsetof(struct footer_disk, current_size),
		           err_set(err, VHD_E_UNSUPPORTED, "the footer's Current Size is %" PRIu64
		                   " bytes, over the format's limit of 2040 GiB", footer.current_size));
	if (type != VHD_FIXED && (footer.data_offset == VHD_NO_OFFSET || footer.data_offset % VHD_SECTOR))
		return bad(defect, "footer-data-offset", offsetof(struct footer_disk, data_offset),
		           err_set(err, VHD_E_CORRUPT, "the footer's Data Offset is 0x%" PRIx64
		                   ", no place for the header of a %s disk (a multiple of 512)", footer.data_offset,
		                   vhd_type_name(type)));
	footer.type = type;
	*ret = footer;
	return 0;
}

int header_decode_defect(const struct header_disk *disk, bool ignore_checksum, struct header *ret,
                         struct format_defect *defect, struct err *err)
{
	struct header header = {
		.raw = *disk,
		.table_offset = be64_get(disk->table_offset),
		.max_table_entries = be32_get(disk->max_table_entries),
		.block_size = be32_get(disk->block_size),
		.parent_time_stamp = be32_get(disk->parent_time_stamp),
	};
	uint32_t version = be32_get(disk->version);

	memcpy(header.parent_uuid, disk->parent_uuid, 16);
	for (unsigned i = 0; i < VHD_LOCATORS; i++) {
		const struct locator_disk *locator = &disk->locators[i];

		memcpy(header.locators[i].code, locator->code, 4);
		header.locators[i].space = be32_get(locator->space);
		header.locators[i].length = be32_get(locator->length);
		header.locators[i].offset = be64_get(locator->data_offset);
	}

	if (!header_has_cookie(disk))
		return bad(defect, "header-cookie", 0,
		           err_set(err, VHD_E_CORRUPT, "the header does not begin with \"cxsparse\""));
	if (!ignore_checksum && be32_get(disk->checksum) != header_checksum(disk))
		return bad(defect, "header-checksum", offsetof(struct header_disk, checksum),
		           err_set(err, VHD_E_CORRUPT, "the header's checksum is %08" PRIx32 ", but its bytes give %08" PRIx32,
		                   be32_get(disk->checksum), header_checksum(disk)));
	if (version >> 16 != 1)
		return bad(defect, "header-version", offsetof(struct header_disk, version),
		           err_set(err, VHD_E_UNSUPPORTED, "the header's Header Version is %" PRIu32 ".%" PRIu32
		                   "; only 1.x is known", version >> 16, version & 0xFFFF));
	if (!is_power_of_two(header.block_size) || header.block_size < VHD_SECTOR)
		return bad(defect, "header-block-size", offsetof(struct header_disk, block_size),
		           err_set(err, VHD_E_CORRUPT, "the header's Block Size is %" PRIu32
		                   " bytes, not a power of two of at least 512", header.block_size));
	if (header.block_size > VHD_MAX_BLOCK_SIZE)
		return bad(defect, "header-block-size", offsetof(struct header_disk, block_size),
		           err_set(err, VHD_E_UNSUPPORTED, "the header's Block Size is %" PRIu32
		                   " bytes; more than %u is not supported", header.block_size, VHD_MAX_BLOCK_SIZE));
	if (header.table_offset % VHD_SECTOR)
		return bad(defect, "header-table-offset", offsetof(struct header_disk, table_offset),
		           err_set(err, VHD_E_CORRUPT, "the header's Table Offset is 0x%" PRIx64
		                   ", not a multiple of 512", header.table_offset));
	*ret = header;
	return 0;
}

int footer_decode(const struct footer_disk *disk, bool ignore_checksum, struct footer *ret, struct err *err)
{
	return footer_decode_defect(disk, ignore_checksum, ret, NULL, err);
}

int header_decode(const struct header_disk *disk, bool ignore_checksum, struct header *ret, struct err *err)
{
	return header_decode_defect(disk, ignore_checksum, ret, NULL, err);
}

void footer_encode(const struct footer *footer, struct footer_disk *ret)
{
	struct footer_disk disk = footer->raw;

	memcpy(disk.cookie, footer_cookie, sizeof(footer_cookie));
	disk.features = be32_make(footer->features);
	if (be32_get(disk.version) >> 16 != 1)
		disk.version = be32_make(0x00010000);
	disk.data_offset = be64_make(footer->data_offset);
	disk.time_stamp = be32_make(footer->time_stamp);
	memcpy(disk.creator, footer->creator, 4);
	disk.creator_version = be32_make(footer->creator_version);
	memcpy(disk.creator_os, footer->creator_os, 4);
	disk.original_size = be64_make(footer->original_size);
	disk.current_size = be64_make(footer->current_size);
	disk.cylinders = be16_make(footer->geometry.cylinders);
	disk.heads = footer->geometry.heads;
	disk.sectors = footer->geometry.sectors_per_track;
	disk.disk_type = be32_make(footer->type);
	memcpy(disk.uuid, footer->uuid, 16);
	if (footer->saved_state != (disk.saved_state != 0))
		disk.saved_state = footer->saved_state;
	disk.checksum = be32_make(footer_checksum(&disk));
	*ret = disk;
}

void header_encode(const struct header *header, struct header_disk *ret)
{
	struct header_disk disk = header->raw;

	memcpy(disk.cookie, header_cookie, sizeof(header_cookie));
	if (!header_has_cookie(&header->raw))
		disk.data_offset = be64_make(VHD_NO_OFFSET);
	disk.table_offset = be64_make(header->table_offset);
	if (be32_get(disk.version) >> 16 != 1)
		disk.version = be32_make(0x00010000);
	disk.max_table_entries = be32_make(header->max_table_entries);
	disk.block_size = be32_make(header->block_size);
	memcpy(disk.parent_uuid, header->parent_uuid, 16);
	disk.parent_time_stamp = be32_make(header->parent_time_stamp);
	for (unsigned i = 0; i < VHD_LOCATORS; i++) {
		struct locator_disk *locator = &disk.locators[i];

		memcpy(locator->code, header->locators[i].code, 4);
		locator->space = be32_make(header->locators[i].space);
		locator->length = be32_make(header->locators[i].length);
		locator->data_offset = be64_make(header->locators[i].offset);
	}
	disk.checksum = be32_make(header_checksum(&disk));
	*ret = disk;
}
