/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_FORMAT_H
#define VHD_FORMAT_H

/*
 * The footer and the dynamic disk header: bytes on disk, and the same in host order. format.c alone converts.
 * docs/vhd-format.md has the byte maps and says where each rule comes from.
 */

#include <stdbool.h>
#include <stdint.h>

#include "common/bytes.h"
#include "common/err.h"
#include "vhd/vhd.h"

#define VHD_SECTOR 512u
#define VHD_EPOCH 946684800 /* 2000-01-01 00:00:00 UTC, as Unix time */
#define VHD_BAT_UNALLOCATED UINT32_C(0xFFFFFFFF)
#define VHD_NO_OFFSET UINT64_MAX
#define VHD_LOCATORS 8u
/*
 * A bitmap of 64 KiB. Far above what any writer uses; the largest for which nobody's 32-bit arithmetic on sectors of a
 * block or bits of its bitmap comes near a limit, and a bitmap stays small enough to be read whole.
 */
#define VHD_MAX_BLOCK_SIZE (256u << 20)

struct footer_disk {
	uint8_t cookie[8];      /* +0x00 "conectix" */
	be32 features;          /* +0x08 bit 1 always set, bit 0 temporary */
	be32 version;           /* +0x0c 0x00010000 */
	be64 data_offset;       /* +0x10 the dynamic header; fixed disks: all ones */
	be32 time_stamp;        /* +0x18 seconds since VHD_EPOCH */
	uint8_t creator[4];     /* +0x1c */
	be32 creator_version;   /* +0x20 */
	uint8_t creator_os[4];  /* +0x24 */
	be64 original_size;     /* +0x28 */
	be64 current_size;      /* +0x30 the disk's size */
	be16 cylinders;         /* +0x38 */
	uint8_t heads;          /* +0x3a */
	uint8_t sectors;        /* +0x3b */
	be32 disk_type;         /* +0x3c */
	be32 checksum;          /* +0x40 */
	uint8_t uuid[16];       /* +0x44 */
	uint8_t saved_state;    /* +0x54 */
	uint8_t reserved[427];  /* +0x55; Xen keeps "hidden" in the first byte */
};

struct locator_disk {
	uint8_t code[4];   /* +0x00 "W2ru", "W2ku", "MacX", ... */
	be32 space;        /* +0x04 sectors says the spec, bytes write most */
	be32 length;       /* +0x08 bytes */
	be32 reserved;     /* +0x0c */
	be64 data_offset;  /* +0x10 */
};

struct header_disk {
	uint8_t cookie[8];      /* +0x000 "cxsparse" */
	be64 data_offset;       /* +0x008 all ones */
	be64 table_offset;      /* +0x010 the BAT */
	be32 version;           /* +0x018 0x00010000 */
	be32 max_table_entries; /* +0x01c */
	be32 block_size;        /* +0x020 bytes, without the bitmap */
	be32 checksum;          /* +0x024 */
	uint8_t parent_uuid[16]; /* +0x028 */
	be32 parent_time_stamp; /* +0x038 */
	be32 reserved;          /* +0x03c */
	be16 parent_name[256];  /* +0x040 UTF-16, big-endian says the spec */
	struct locator_disk locators[VHD_LOCATORS]; /* +0x240 */
	uint8_t reserved2[256]; /* +0x300 */
};

_Static_assert(sizeof(struct footer_disk) == 512, "footer size");
_Static_assert(sizeof(struct locator_disk) == 24, "locator size");
_Static_assert(sizeof(struct header_disk) == 1024, "header size");

struct footer {
	struct footer_disk raw; /* as read: what is not understood is kept when the footer is written again */
	uint32_t features;
	uint64_t data_offset;
	uint32_t time_stamp;
	uint8_t creator[4];
	uint32_t creator_version;
	uint8_t creator_os[4];
	uint64_t original_size;
	uint64_t current_size;
	struct vhd_geometry geometry;
	enum vhd_type type;
	uint8_t uuid[16];
	bool saved_state;
};

struct locator {
	uint8_t code[4];
	uint32_t space;  /* as stored */
	uint32_t length; /* bytes */
	uint64_t offset; /* bytes */
};

struct header {
	struct header_disk raw;
	uint64_t table_offset;
	uint32_t max_table_entries;
	uint32_t block_size;
	uint8_t parent_uuid[16];
	uint32_t parent_time_stamp;
	struct locator locators[VHD_LOCATORS];
};

/* One's complement of the sum of all bytes, those of the checksum field taken as zero (spec, "Checksum"). */
uint32_t footer_checksum(const struct footer_disk *disk);
uint32_t header_checksum(const struct header_disk *disk);

/* Whether the cookie is there at all. */
bool footer_has_cookie(const struct footer_disk *disk);
bool header_has_cookie(const struct header_disk *disk);

/* Xen's resize journal replaces the cookie by "v_poison" while a resize is under way. */
bool footer_is_poisoned(const struct footer_disk *disk);

/* Whether the checksum is right, or wrong in the way that early Xen tools left it when they hid a disk. */
bool footer_checksum_holds(const struct footer_disk *disk);

/*
 * Decodes and validates: cookie, version, checksum (early Xen tools' wrong one for hidden disks included), type, sizes,
 * offsets. 0, VHD_E_CORRUPT or VHD_E_UNSUPPORTED with a sentence that names the field but not the file.
 * `ignore_checksum` is for salvage.
 */
int footer_decode(const struct footer_disk *disk, bool ignore_checksum, struct footer *ret, struct err *err);
int header_decode(const struct header_disk *disk, bool ignore_checksum, struct header *ret, struct err *err);

/* Which rule was broken: a stable code (struct vhd_defect) and where the field is in its structure, bytes. */
struct format_defect {
	const char *code;
	uint64_t field_offset;
};

/* The same; `defect` (NULL allowed) is written on failure. */
int footer_decode_defect(const struct footer_disk *disk, bool ignore_checksum, struct footer *ret,
                         struct format_defect *defect, struct err *err);
int header_decode_defect(const struct header_disk *disk, bool ignore_checksum, struct header *ret,
                         struct format_defect *defect, struct err *err);

/* Writes the host-order fields over `raw`, recomputes the checksum, and gives the result. */
void footer_encode(const struct footer *footer, struct footer_disk *ret);
void header_encode(const struct header *header, struct header_disk *ret);

/* Spec, appendix "CHS Calculation". */
struct vhd_geometry geometry_for_size(uint64_t size_bytes);

#endif
