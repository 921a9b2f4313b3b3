/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TESTS_LIB_IMAGE_BUILDER_H
#define TESTS_LIB_IMAGE_BUILDER_H

/*
 * VHD images made byte by byte in memory, from the specification's tables alone: nothing here calls or includes vhd/,
 * so that this and the engine's own encoders test each other. What image_build makes is sound; image_edit and the
 * functions below it break one thing afterwards. Out of memory aborts.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define IMAGE_FIXED 2u
#define IMAGE_DYNAMIC 3u
#define IMAGE_DIFFERENCING 4u

#define IMAGE_MAX_BLOCKS 16
#define IMAGE_LOCATORS 8

struct image_block {
	uint32_t index;       /* which block of the disk */
	uint32_t gap_sectors; /* unused sectors in front of its bitmap */
	uint8_t clear;        /* bits that are clear in every byte of its bitmap; 0: all sectors are there */
	uint8_t seed;         /* of its content */
};

struct image_locator {
	const char *code;    /* "W2ru", ...; NULL: none */
	const void *data;    /* as it lies in the file; NULL: take `text` */
	uint32_t length;     /* of data, bytes */
	const char *text;    /* ASCII, written as UTF-16LE (MacX: as it is) */
	uint32_t space;      /* the field; 0: bytes, a multiple of 512 */
	bool after_blocks;   /* its data lies behind the last block */
};

struct image_spec {
	uint32_t type;              /* 0: dynamic */
	uint64_t size;              /* Current Size */
	uint32_t block_size;        /* 0: 4096 */
	uint32_t max_table_entries; /* 0: as many as the size needs */
	struct image_block blocks[IMAGE_MAX_BLOCKS]; /* in file order */
	unsigned block_count;
	struct image_locator locators[IMAGE_LOCATORS];
	const char *parent_name;    /* ASCII */
	uint8_t uuid_seed, parent_uuid_seed;
	uint32_t time_stamp, parent_time_stamp;
	const char *creator;        /* four bytes; NULL: "win " */
	uint32_t header_gap_sectors, bat_gap_sectors, footer_gap_sectors; /* unused sectors in front of each */
	uint8_t fixed_seed;         /* content of a fixed disk */
	uint8_t bat_pad;            /* byte behind the last BAT entry, up to the sector's end, inverted: 0 gives 0xff */
	bool batmap;                /* Xen's, behind the BAT */
	bool stale;                 /* sectors whose bit is clear hold bytes other than zero */
	bool footer_511;            /* the last byte of the file is missing */
	bool footer_killed;         /* the footer at the end is overwritten with 0xc7 */
	bool no_footer;             /* there is none at the end */
};

struct image {
	uint8_t *bytes; /* owned */
	size_t size;
	size_t header, bat, bat_size, batmap, footer; /* offsets and bytes; footer: the one at the end */
	size_t locators[IMAGE_LOCATORS];
	size_t blocks[IMAGE_MAX_BLOCKS];              /* of the bitmaps, in the spec's order */
	size_t bitmap_size, block_size;
	size_t end_of_blocks;
};

void image_build(const struct image_spec *spec, struct image *ret);
void image_free(struct image *image);

/* What the disk of such an image reads as, its parent taken as all zeros; `ret` holds spec->size bytes. */
void image_content(const struct image_spec *spec, uint8_t *ret);

/* Puts the sectors that such an image holds itself over `disk`, its parent's content, which is as long. */
void image_overlay(const struct image_spec *spec, uint8_t *disk);

/* The byte at `offset` of a block's or fixed disk's content. */
uint8_t image_pattern(uint8_t seed, uint64_t offset);

/* `ret` holds 16 bytes. */
void image_uuid(uint8_t seed, uint8_t *ret);

enum image_part {
	IMAGE_NOTHING,
	IMAGE_FOOTERS,     /* both, checksums made right afterwards */
	IMAGE_FOOTER_COPY, /* at 0, likewise */
	IMAGE_FOOTER_END,  /* at the end, likewise */
	IMAGE_HEADER,      /* likewise */
	IMAGE_RAW_FOOTERS, /* these leave the checksums */
	IMAGE_RAW_COPY,
	IMAGE_RAW_END,
	IMAGE_RAW_HEADER,
	IMAGE_BAT,
	IMAGE_BATMAP,
	IMAGE_FILE,
};

/* One field overwritten: `width` bytes, big-endian, at `at` of the part. */
struct image_edit {
	enum image_part part;
	size_t at;
	unsigned width;
	uint64_t value;
};

void image_edit(struct image *image, const struct image_edit *edit);
void image_put(struct image *image, size_t at, unsigned width, uint64_t value);
uint64_t image_get(const struct image *image, size_t at, unsigned width);
void image_fix_footer(struct image *image, size_t at);
void image_fix_header(struct image *image, size_t at);

/* Makes the file longer (by zeros) or shorter. */
void image_resize(struct image *image, size_t size);

/* 0 or -errno. Replaces the file. */
int image_write(const struct image *image, const char *path);

/* Where fields lie (spec, "Hard Disk Footer Format" and "Dynamic Disk Header Format"). */
enum {
	F_COOKIE = 0x00, F_FEATURES = 0x08, F_VERSION = 0x0c, F_DATA_OFFSET = 0x10, F_TIME = 0x18, F_CREATOR = 0x1c,
	F_CREATOR_VERSION = 0x20, F_CREATOR_OS = 0x24, F_ORIGINAL_SIZE = 0x28, F_CURRENT_SIZE = 0x30,
	F_GEOMETRY = 0x38, F_TYPE = 0x3c, F_CHECKSUM = 0x40, F_UUID = 0x44, F_SAVED = 0x54, F_RESERVED = 0x55,
	H_COOKIE = 0x00, H_DATA_OFFSET = 0x08, H_TABLE_OFFSET = 0x10, H_VERSION = 0x18, H_MAX_ENTRIES = 0x1c,
	H_BLOCK_SIZE = 0x20, H_CHECKSUM = 0x24, H_PARENT_UUID = 0x28, H_PARENT_TIME = 0x38, H_RESERVED = 0x3c,
	H_PARENT_NAME = 0x40, H_LOCATORS = 0x240, H_RESERVED2 = 0x300,
	L_CODE = 0, L_SPACE = 4, L_LENGTH = 8, L_RESERVED = 12, L_OFFSET = 16, L_SIZE = 24,
};

#endif
