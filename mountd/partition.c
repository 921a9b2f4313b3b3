/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Sources: UEFI Specification 2.10, chapter 5 (GPT, protective MBR); for the chain of logical partitions, the layout
 * that every system since MS-DOS 3.3 reads: in each link the first entry is relative to that link, the second to the
 * start of the extended partition.
 */

#include "mountd/partition.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/checked.h"

#define SECTOR 512u

struct mbr_entry_disk {
	uint8_t status; /* +0x00 */
	uint8_t chs_first[3];
	uint8_t type; /* +0x04 */
	uint8_t chs_last[3];
	le32 start;   /* +0x08 sectors */
	le32 sectors; /* +0x0c */
};

struct mbr_disk {
	uint8_t code[446];
	struct mbr_entry_disk entries[4]; /* +0x1be */
	uint8_t signature[2];             /* +0x1fe: 55 aa */
};

struct gpt_header_disk {
	uint8_t signature[8]; /* +0x00: "EFI PART" */
	le32 revision;        /* +0x08 */
	le32 header_size;     /* +0x0c */
	le32 header_crc;      /* +0x10, over header_size bytes with this field zero */
	le32 reserved;
	le64 my_lba;        /* +0x18 */
	le64 alternate_lba; /* +0x20 */
	le64 first_usable;  /* +0x28 */
	le64 last_usable;   /* +0x30 */
	uint8_t disk_guid[16];
	le64 entries_lba;  /* +0x48 */
	le32 entry_count;  /* +0x50 */
	le32 entry_size;   /* +0x54 */
	le32 entries_crc;  /* +0x58 */
	uint8_t rest[420]; /* zeros */
};

struct gpt_entry_disk {
	uint8_t type[16];
	uint8_t unique[16];
	le64 first; /* +0x20 */
	le64 last;  /* +0x28, inclusive */
	le64 attributes;
	le16 name[36]; /* +0x38 UTF-16 */
};

_Static_assert(sizeof(struct mbr_disk) == SECTOR, "MBR");
_Static_assert(sizeof(struct gpt_header_disk) == SECTOR, "GPT header");
_Static_assert(sizeof(struct gpt_entry_disk) == 128, "GPT entry");

static const uint8_t guid_unused[16];

struct reader {
	partition_read *read;
	void *user;
	uint64_t sectors;
	struct partition_table *table;
};

/* The CRC of IEEE 802.3, as GPT uses it. */
static uint32_t crc32_bytes(const uint8_t *bytes, size_t length)
{
	uint32_t crc = ~0u;

	for (size_t i = 0; i < length; i++) {
		crc ^= bytes[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (0xedb88320u & -(crc & 1));
	}
	return ~crc;
}

static int read_sector(struct reader *r, uint64_t sector, void *buffer)
{
	if (sector >= r->sectors)
		return -EBADMSG;
	return r->read(r->user, buffer, SECTOR, sector * SECTOR);
}

static int add_span(struct reader *r, uint64_t first_sector, uint64_t sectors)
{
	struct partition_table *t = r->table;
	struct partition_span *spans = reallocarray(t->spans, t->span_count + 1, sizeof(*spans));

	if (!spans)
		return -ENOMEM;
	t->spans = spans;
	spans[t->span_count++] = (struct partition_span){first_sector * SECTOR, sectors * SECTOR};
	return 0;
}

/* `limit` is where the space that it may lie in ends, in sectors. NULL: no memory. */
static struct partition *add_partition(struct reader *r, unsigned number, uint64_t start, uint64_t sectors,
                                       uint64_t limit)
{
	struct partition_table *t = r->table;
	struct partition *entries = reallocarray(t->entries, t->count + 1, sizeof(*entries));
	struct partition *p;

	if (!entries)
		return NULL;
	t->entries = entries;
	p = &entries[t->count++];
	*p = (struct partition){.number = number};
	if (sectors == 0 || !range_inside(start, sectors, limit)) {
		p->problem = PARTITION_OUTSIDE;
		/* The numbers may not even fit into bytes; nothing may use them. */
		return p;
	}
	p->offset = start * SECTOR;
	p->length = sectors * SECTOR;
	return p;
}

static bool type_is_extended(uint8_t type)
{
	return type == 0x05 || type == 0x0f || type == 0x85;
}

static bool entry_is_used(const struct mbr_entry_disk *entry)
{
	return entry->type != 0 && le32_get(entry->sectors) != 0;
}

/* File systems put their boot sector, with the same signature, where an MBR would be. */
static bool sector_is_boot_record(const uint8_t *sector)
{
	return memcmp(sector + 3, "NTFS    ", 8) == 0 || memcmp(sector + 3, "EXFAT   ", 8) == 0 ||
	       memcmp(sector + 3, "-FVE-FS-", 8) == 0 || memcmp(sector + 3, "ReFS\0\0\0\0", 8) == 0 ||
	       memcmp(sector + 0x36, "FAT1", 4) == 0 || memcmp(sector + 0x52, "FAT32   ", 8) == 0;
}

static bool sector_is_mbr(const struct mbr_disk *mbr)
{
	bool used = false;

	if (mbr->signature[0] != 0x55 || mbr->signature[1] != 0xaa || sector_is_boot_record(mbr->code))
		return false;
	for (int i = 0; i < 4; i++) {
		const struct mbr_entry_disk *e = &mbr->entries[i];

		if (e->status != 0 && e->status != 0x80)
			return false;
		/* A partition over the table itself: then these bytes are something else, boot code for instance. */
		if (entry_is_used(e) && le32_get(e->start) == 0)
			return false;
		used |= entry_is_used(e);
	}
	return used;
}

static int read_logical(struct reader *r, uint64_t extended, uint64_t extended_sectors)
{
	uint64_t visited[PARTITION_LOGICAL_MAX];
	uint64_t end = extended + extended_sectors;
	uint64_t link = extended;
	unsigned number = 5;

	for (unsigned links = 0; links < PARTITION_LOGICAL_MAX; links++) {
		struct mbr_disk ebr;
		uint64_t next = 0;
		int e;

		for (unsigned i = 0; i < links; i++)
			if (visited[i] == link) {
				r->table->chain_cut = true;
				return 0;
			}
		visited[links] = link;
		e = read_sector(r, link, &ebr);
		if (!e)
			e = add_span(r, link, 1);
		if (e)
			return e;
		if (ebr.signature[0] != 0x55 || ebr.signature[1] != 0xaa) {
			/* An extended partition with nothing in it yet need not have a first link. */
			r->table->chain_cut = links > 0;
			return 0;
		}
		for (int i = 0; i < 4; i++) {
			const struct mbr_entry_disk *entry = &ebr.entries[i];

			if (!entry_is_used(entry))
				continue;
			if (type_is_extended(entry->type)) {
				if (!next)
					next = extended + le32_get(entry->start);
				continue;
			}
			/* Only the first two mean anything; systems leave garbage in the others. */
			if (i < 2) {
				struct partition *p = add_partition(r, number++, link + le32_get(entry->start),
				                                    le32_get(entry->sectors), end);

				if (!p)
					return -ENOMEM;
				p->mbr_type = entry->type;
			}
		}
		if (!next)
			return 0;
		if (next <= extended || next >= end) {
			r->table->chain_cut = true;
			return 0;
		}
		link = next;
	}
	r->table->chain_cut = true;
	return 0;
}

static int read_mbr(struct reader *r, const struct mbr_disk *mbr)
{
	bool have_extended = false;

	r->table->scheme = PARTITION_MBR;
	for (unsigned i = 0; i < 4; i++) {
		const struct mbr_entry_disk *entry = &mbr->entries[i];
		struct partition *p;

		if (!entry_is_used(entry) || type_is_extended(entry->type))
			continue;
		p = add_partition(r, i + 1, le32_get(entry->start), le32_get(entry->sectors), r->sectors);
		if (!p)
			return -ENOMEM;
		p->mbr_type = entry->type;
	}
	for (unsigned i = 0; i < 4; i++) {
		const struct mbr_entry_disk *entry = &mbr->entries[i];
		uint64_t start = le32_get(entry->start), sectors = le32_get(entry->sectors);
		int e;

		if (!entry_is_used(entry) || !type_is_extended(entry->type))
			continue;
		/* A second extended partition is not something that any system makes; Linux reads the first. */
		if (have_extended || start >= r->sectors) {
			r->table->chain_cut = true;
			continue;
		}
		have_extended = true;
		if (!range_inside(start, sectors, r->sectors))
			sectors = r->sectors - start;
		e = read_logical(r, start, sectors);
		if (e)
			return e;
	}
	return 0;
}

/* A checked header and its entries, allocated. -EBADMSG: damaged. */
static int read_gpt_at(struct reader *r, uint64_t lba, struct gpt_header_disk *header, uint8_t **ret_entries)
{
	uint32_t size, count, entry_size;
	uint64_t bytes, sectors;
	uint8_t *entries;
	le32 crc;
	int e;

	e = read_sector(r, lba, header);
	if (e)
		return e;
	size = le32_get(header->header_size);
	if (memcmp(header->signature, "EFI PART", 8) != 0 || size < 92 || size > SECTOR)
		return -EBADMSG;
	crc = header->header_crc;
	memset(&header->header_crc, 0, sizeof(header->header_crc));
	if (crc32_bytes((const uint8_t *)header, size) != le32_get(crc) || le64_get(header->my_lba) != lba)
		return -EBADMSG;
	count = le32_get(header->entry_count);
	entry_size = le32_get(header->entry_size);
	if (count == 0 || count > PARTITION_GPT_MAX_ENTRIES || entry_size < 128 || entry_size > 4096 ||
	    !is_power_of_two(entry_size))
		return -EBADMSG;
	bytes = (uint64_t)count * entry_size;
	sectors = round_up(bytes, SECTOR) / SECTOR;
	if (!range_inside(le64_get(header->entries_lba), sectors, r->sectors))
		return -EBADMSG;
	entries = malloc(sectors * SECTOR);
	if (!entries)
		return -ENOMEM;
	e = r->read(r->user, entries, (uint32_t)(sectors * SECTOR), le64_get(header->entries_lba) * SECTOR);
	if (!e && crc32_bytes(entries, bytes) != le32_get(header->entries_crc))
		e = -EBADMSG;
	if (e) {
		free(entries);
		return e;
	}
	*ret_entries = entries;
	return 0;
}

static void name_decode(const le16 *name, unsigned units, char *ret)
{
	char *p = ret;

	for (unsigned i = 0; i < units && le16_get(name[i]) != 0; i++) {
		uint32_t c = le16_get(name[i]);

		if (c >= 0xd800 && c < 0xdc00 && i + 1 < units) {
			uint32_t low = le16_get(name[i + 1]);

			if (low >= 0xdc00 && low < 0xe000) {
				c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
				i++;
			}
		}
		if ((c >= 0xd800 && c < 0xe000) || c < 0x20 || c == 0x7f)
			c = 0xfffd;
		if (c < 0x80) {
			*p++ = (char)c;
		} else if (c < 0x800) {
			*p++ = (char)(0xc0 | c >> 6);
			*p++ = (char)(0x80 | (c & 0x3f));
		} else if (c < 0x10000) {
			*p++ = (char)(0xe0 | c >> 12);
			*p++ = (char)(0x80 | (c >> 6 & 0x3f));
			*p++ = (char)(0x80 | (c & 0x3f));
		} else {
			*p++ = (char)(0xf0 | c >> 18);
			*p++ = (char)(0x80 | (c >> 12 & 0x3f));
			*p++ = (char)(0x80 | (c >> 6 & 0x3f));
			*p++ = (char)(0x80 | (c & 0x3f));
		}
	}
	*p = 0;
}

static int add_gpt_entries(struct reader *r, const struct gpt_header_disk *header, const uint8_t *entries)
{
	uint32_t entry_size = le32_get(header->entry_size);

	for (uint32_t i = 0; i < le32_get(header->entry_count); i++) {
		struct gpt_entry_disk entry;
		uint64_t first, last;
		struct partition *p;

		memcpy(&entry, entries + (size_t)i * entry_size, sizeof(entry));
		if (memcmp(entry.type, guid_unused, 16) == 0)
			continue;
		first = le64_get(entry.first);
		last = le64_get(entry.last);
		p = add_partition(r, i + 1, first, last >= first && last < r->sectors ? last - first + 1 : 0,
		                  r->sectors);
		if (!p)
			return -ENOMEM;
		memcpy(p->type_guid, entry.type, 16);
		name_decode(entry.name, 36, p->name);
	}
	return 0;
}

static int add_gpt_spans(struct reader *r, const struct gpt_header_disk *header, uint64_t header_lba)
{
	uint64_t bytes = (uint64_t)le32_get(header->entry_count) * le32_get(header->entry_size);
	int e = add_span(r, header_lba, 1);

	return e ? e : add_span(r, le64_get(header->entries_lba), round_up(bytes, SECTOR) / SECTOR);
}

static int read_gpt(struct reader *r, struct err *err)
{
	struct gpt_header_disk header;
	uint8_t *entries = NULL;
	uint64_t lba = 1;
	int e;

	r->table->scheme = PARTITION_GPT;
	/* Where a table is usually written, whatever state it is in now. */
	e = add_span(r, 1, r->sectors > 34 ? 33 : 1);
	if (!e && r->sectors > 67)
		e = add_span(r, r->sectors - 33, 33);
	if (e)
		return e;
	e = read_gpt_at(r, lba, &header, &entries);
	if (e == -EBADMSG) {
		r->table->from_backup = true;
		lba = r->sectors - 1;
		e = read_gpt_at(r, lba, &header, &entries);
	}
	if (e == -EBADMSG)
		return err_set(err, e, "the GPT partition table is damaged in both its copies (sectors 1 and %llu): "
		               "repair it with gdisk or sfdisk, on disk.raw of a --raw mount",
		               (unsigned long long)(r->sectors - 1));
	if (e)
		return e;
	e = add_gpt_spans(r, &header, lba);
	if (!e)
		e = add_gpt_entries(r, &header, entries);
	free(entries);
	return e;
}

static bool spans_touch(uint64_t a, uint64_t a_length, uint64_t b, uint64_t b_length)
{
	return a < b + b_length && b < a + a_length;
}

static int compare_offsets(const void *a, const void *b)
{
	const struct partition *const *x = a, *const *y = b;

	return ((*x)->offset > (*y)->offset) - ((*x)->offset < (*y)->offset);
}

static int mark_overlaps(struct partition_table *t)
{
	struct partition **sorted;
	struct partition *reach = NULL; /* of those so far, the one that ends last */
	unsigned n = 0;

	if (t->count == 0)
		return 0;
	sorted = calloc(t->count, sizeof(struct partition *));
	if (!sorted)
		return -ENOMEM;
	for (unsigned i = 0; i < t->count; i++)
		if (t->entries[i].problem == PARTITION_OK)
			sorted[n++] = &t->entries[i];
	qsort(sorted, n, sizeof(struct partition *), compare_offsets);
	for (unsigned i = 0; i < n; i++) {
		if (reach && sorted[i]->offset < reach->offset + reach->length) {
			sorted[i]->problem = PARTITION_OVERLAPS;
			reach->problem = PARTITION_OVERLAPS;
		}
		if (!reach || sorted[i]->offset + sorted[i]->length > reach->offset + reach->length)
			reach = sorted[i];
	}
	free(sorted);
	for (unsigned i = 0; i < t->count; i++)
		if (t->entries[i].problem == PARTITION_OK && t->entries[i].offset < SECTOR * 2 &&
		    (t->scheme == PARTITION_GPT || t->entries[i].offset == 0))
			t->entries[i].problem = PARTITION_OVERLAPS;
	return 0;
}

int partition_table_read(partition_read *read, void *user, uint64_t size, struct partition_table *ret,
                         struct err *err)
{
	struct partition_table table = {0};
	struct reader r = {read, user, size / SECTOR, &table};
	struct mbr_disk mbr;
	bool gpt = false;
	int e = 0;

	if (r.sectors < 2) {
		*ret = table;
		return 0;
	}
	e = read_sector(&r, 0, &mbr);
	if (!e)
		e = add_span(&r, 0, 1);
	if (!e && sector_is_mbr(&mbr)) {
		for (int i = 0; i < 4; i++)
			gpt |= mbr.entries[i].type == 0xee;
		e = gpt ? read_gpt(&r, err) : read_mbr(&r, &mbr);
	}
	if (!e)
		e = mark_overlaps(&table);
	if (e) {
		partition_table_done(&table);
		if (e != -EBADMSG)
			err_set(err, e, "cannot read the partition table: %s", strerror(-e));
		return e;
	}
	*ret = table;
	return 0;
}

void partition_table_done(struct partition_table *table)
{
	free(table->entries);
	free(table->spans);
	*table = (struct partition_table){0};
}

bool partition_table_touched(const struct partition_table *table, uint64_t offset, uint64_t length)
{
	for (unsigned i = 0; i < table->span_count; i++)
		if (spans_touch(offset, length, table->spans[i].offset, table->spans[i].length))
			return true;
	return false;
}

static const struct {
	uint8_t guid[16];
	const char *name;
} gpt_types[] = {
	{{0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b}, "EFI system"},
	{{0x16, 0xe3, 0xc9, 0xe3, 0x5c, 0x0b, 0xb8, 0x4d, 0x81, 0x7d, 0xf9, 0x2d, 0xf0, 0x02, 0x15, 0xae},
	 "Microsoft reserved"},
	{{0xa2, 0xa0, 0xd0, 0xeb, 0xe5, 0xb9, 0x33, 0x44, 0x87, 0xc0, 0x68, 0xb6, 0xb7, 0x26, 0x99, 0xc7},
	 "Microsoft basic data"},
	{{0xa4, 0xbb, 0x94, 0xde, 0xd1, 0x06, 0x40, 0x4d, 0xa1, 0x6a, 0xbf, 0xd5, 0x01, 0x79, 0xd6, 0xac},
	 "Windows recovery"},
	{{0xaa, 0xc8, 0x08, 0x58, 0x8f, 0x7e, 0xe0, 0x42, 0x85, 0xd2, 0xe1, 0xe9, 0x04, 0x34, 0xcf, 0xb3},
	 "Windows dynamic disk metadata"},
	{{0xa0, 0x60, 0x9b, 0xaf, 0x31, 0x14, 0x62, 0x4f, 0xbc, 0x68, 0x33, 0x11, 0x71, 0x4a, 0x69, 0xad},
	 "Windows dynamic disk data"},
	{{0x8f, 0xaf, 0x5c, 0xe7, 0x80, 0xf6, 0xee, 0x4c, 0xaf, 0xa3, 0xb0, 0x01, 0xe5, 0x6e, 0xfc, 0x2d},
	 "Windows storage spaces"},
	{{0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4}, "Linux"},
	{{0x6d, 0xfd, 0x57, 0x06, 0xab, 0xa4, 0xc4, 0x43, 0x84, 0xe5, 0x09, 0x33, 0xc8, 0x4b, 0x4f, 0x4f},
	 "Linux swap"},
	{{0x79, 0xd3, 0xd6, 0xe6, 0x07, 0xf5, 0xc2, 0x44, 0xa2, 0x3c, 0x23, 0x8f, 0x2a, 0x3d, 0xf9, 0x28}, "Linux LVM"},
	{{0x0f, 0x88, 0x9d, 0xa1, 0xfc, 0x05, 0x3b, 0x4d, 0xa0, 0x06, 0x74, 0x3f, 0x0f, 0x84, 0x91, 0x1e}, "Linux RAID"},
	{{0x48, 0x61, 0x68, 0x21, 0x49, 0x64, 0x6f, 0x6e, 0x74, 0x4e, 0x65, 0x65, 0x64, 0x45, 0x46, 0x49}, "BIOS boot"},
};

static const struct {
	uint8_t type;
	const char *name;
} mbr_types[] = {
	{0x01, "FAT12"}, {0x04, "FAT16"}, {0x06, "FAT16"}, {0x07, "NTFS or exFAT"}, {0x0b, "FAT32"}, {0x0c, "FAT32"},
	{0x0e, "FAT16"}, {0x27, "Windows recovery"}, {0x42, "Windows dynamic disk"}, {0x82, "Linux swap"},
	{0x83, "Linux"}, {0x8e, "Linux LVM"}, {0xa5, "FreeBSD"}, {0xa6, "OpenBSD"}, {0xa9, "NetBSD"},
	{0xaf, "HFS+"}, {0xef, "EFI system"}, {0xfd, "Linux RAID"},
};

const char *partition_type_name(const struct partition_table *table, const struct partition *partition)
{
	if (table->scheme == PARTITION_GPT) {
		for (size_t i = 0; i < sizeof(gpt_types) / sizeof(gpt_types[0]); i++)
			if (memcmp(gpt_types[i].guid, partition->type_guid, 16) == 0)
				return gpt_types[i].name;
	} else {
		for (size_t i = 0; i < sizeof(mbr_types) / sizeof(mbr_types[0]); i++)
			if (mbr_types[i].type == partition->mbr_type)
				return mbr_types[i].name;
	}
	return "unknown type";
}
