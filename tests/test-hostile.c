/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Malformed images: each has one thing wrong and is refused with a sentence that names it. Between them stand odd but
 * sound ones, so that strictness does not grow into refusing what others write. test-hostile-chain.c has parents.
 */
#include <stdlib.h>
#include <string.h>

#include "tests/lib/hostile.h"
#include "vhd/vhd.h"

/* 8 blocks of 4 KiB, four of them there: at 2560, 7168, 11776 and 16384; the footer at 20992. BAT at 1536. */
static const struct image_spec small = {
	.size = 32768, .block_count = 4,
	.blocks = {{.index = 2, .seed = 1}, {.index = 0, .seed = 2}, {.index = 1, .seed = 3}, {.index = 5, .seed = 4}},
};
static const struct image_spec empty = {.size = 32768};
static const struct image_spec fixed = {.type = IMAGE_FIXED, .size = 16384, .fixed_seed = 9};
static const struct image_spec partial = {
	.size = 32768 - 512, .block_count = 3, .stale = true,
	.blocks = {{.index = 7, .seed = 1, .clear = 0x0f}, {.index = 3, .clear = 0xff}, {.index = 4, .seed = 3, .clear = 0x5a}},
};
static const struct image_spec gaps = {
	.size = 65536, .block_count = 3, .header_gap_sectors = 3, .bat_gap_sectors = 6, .footer_gap_sectors = 7,
	.bat_pad = 0xff,
	.blocks = {{.index = 15, .seed = 1, .gap_sectors = 6}, {.index = 3, .seed = 7, .gap_sectors = 6},
	           {.index = 4, .seed = 3, .gap_sectors = 14}},
};
static const struct image_spec xen = {
	.size = 32768, .block_count = 2, .batmap = true, .creator = "tap\0",
	.blocks = {{.index = 6, .seed = 1, .gap_sectors = 6}, {.index = 1, .seed = 2, .clear = 0xaa}},
};
static const struct image_spec short_footer = {
	.size = 32768, .block_count = 1, .blocks = {{.index = 6, .seed = 1}}, .footer_511 = true,
};
static const struct image_spec fixed_511 = {.type = IMAGE_FIXED, .size = 16384, .fixed_seed = 9, .footer_511 = true};
static const struct image_spec killed = {
	.size = 32768, .block_count = 1, .blocks = {{.index = 6, .seed = 1}}, .footer_killed = true,
};
static const struct image_spec no_end = {
	.size = 32768, .block_count = 1, .blocks = {{.index = 6, .seed = 1}}, .no_footer = true,
};
static const struct image_spec more_entries = {
	.size = 32768, .block_count = 1, .max_table_entries = 300, .blocks = {{.index = 6, .seed = 1}},
};
static const struct image_spec tiny_blocks = {
	.size = 4096, .block_size = 512, .block_count = 3,
	.blocks = {{.index = 7, .seed = 1}, {.index = 0, .seed = 2}, {.index = 3, .seed = 3, .clear = 0x80}},
};
static const struct image_spec one_sector = {.size = 512, .block_count = 1, .blocks = {{.index = 0, .seed = 1}}};
static const struct image_spec locators = {
	.size = 32768, .block_count = 1, .blocks = {{.index = 6, .seed = 1}},
	.locators = {{.code = "Wi2r", .text = "old"}, {.code = "Zzzz", .text = "foreign", .after_blocks = true}},
};
static const struct image_spec vbox_size = {
	.size = 100u << 10, .creator = "vbox", .block_count = 1, .blocks = {{.index = 24, .seed = 1}},
};

#define GUEST_HEADER 512

/* A guest writes what looks like a dynamic disk of 8 MiB into the first sectors of its fixed disk. */
static void forge_dynamic(struct image *image)
{
	struct image forged;

	image_build(&(struct image_spec){.size = 8u << 20, .block_size = 2u << 20}, &forged);
	memcpy(image->bytes, forged.bytes, GUEST_HEADER + 1024 + 512);
	image_free(&forged);
}

/* The same, and the real footer is gone: what is left may not pass for the guest's choice unnoticed. */
static void forge_and_break_footer(struct image *image)
{
	forge_dynamic(image);
	image_put(image, image->footer + F_UUID, 1, 0x77);
}

static void poison_both(struct image *image)
{
	memset(image->bytes, 0xc7, 512);
	memset(image->bytes + image->footer, 0xc7, 512);
}

static void poison_cookies(struct image *image)
{
	memcpy(image->bytes, "v_poison", 8);
	memcpy(image->bytes + image->footer, "v_poison", 8);
	image_fix_footer(image, 0);
	image_fix_footer(image, image->footer);
}

static void zero_all(struct image *image)
{
	memset(image->bytes, 0, image->size);
}

static void fill_with_ff(struct image *image)
{
	memset(image->bytes, 0xff, image->size);
}

static void cookie_upper_case(struct image *image)
{
	memcpy(image->bytes, "CONECTIX", 8);
	memcpy(image->bytes + image->footer, "CONECTIX", 8);
}

/* QEMU before 2012 and others pad files: a footer that is not at the very end is none. */
static void pad_and_break_copy(struct image *image)
{
	image->bytes[F_UUID] ^= 1;
	image_resize(image, image->size + 512);
}

static void header_in_block(struct image *image)
{
	memcpy(image->bytes + image->blocks[0] + image->bitmap_size, image->bytes + image->header, 1024);
	image_put(image, F_DATA_OFFSET, 8, image->blocks[0] + image->bitmap_size);
	image_put(image, image->footer + F_DATA_OFFSET, 8, image->blocks[0] + image->bitmap_size);
	image_fix_footer(image, 0);
	image_fix_footer(image, image->footer);
}

static void entries_everywhere(struct image *image)
{
	for (unsigned i = 0; i < 8; i++)
		image_put(image, image->bat + i * 4u, 4, image->blocks[0] / 512);
}

static void locator_at_block(struct image *image)
{
	size_t entry = image->header + H_LOCATORS + L_SIZE;

	image_put(image, entry + L_OFFSET, 8, image->blocks[0]);
	image_fix_header(image, image->header);
}

static void entry_on_locator(struct image *image)
{
	image_put(image, image->bat, 4, image->locators[0] / 512);
}

static void entry_on_batmap(struct image *image)
{
	image_put(image, image->bat, 4, image->batmap / 512);
}

static void vhdx(struct image *image)
{
	memset(image->bytes, 0, image->size);
	memcpy(image->bytes, "vhdxfile", 8);
}

#define BOTH(field, width, value) {{IMAGE_FOOTERS, field, width, value}}
#define HEAD(field, width, value) {{IMAGE_HEADER, field, width, value}}
#define ENTRY(block, value) {{IMAGE_BAT, (block) * 4, 4, value}}

static const struct hostile_row rows[] = {
	/* What has to open. */
	{"opens a dynamic disk", &small},
	{"opens an empty dynamic disk", &empty},
	{"opens a fixed disk", &fixed},
	{"honours clear bits over stale bytes, and a size that is no multiple of the block", &partial},
	{"opens gaps before header, BAT, blocks and footer, and zero padding behind the BAT", &gaps},
	{"opens Xen's batmap", &xen},
	{"opens a footer of 511 bytes", &short_footer},
	{"opens a fixed disk with a footer of 511 bytes", &fixed_511},
	{"opens by the copy after tapdisk overwrote the footer with C7", &killed},
	{"opens by the copy when there is no footer at the end", &no_end},
	{"opens more BAT entries than the disk needs", &more_entries},
	{"opens blocks of one sector", &tiny_blocks},
	{"opens a disk of one sector", &one_sector},
	{"opens a dynamic disk with foreign locators before and behind its blocks", &locators},
	{"takes Current Size, not the geometry, whoever made it", &vbox_size},
	{"takes Current Size when the geometry is nonsense", &small, BOTH(F_GEOMETRY, 4, 0)},
	{"takes Current Size when the geometry is larger", &small, BOTH(F_GEOMETRY, 4, 0xffff10ff)},
	{"takes Current Size, not Original Size", &small, BOTH(F_ORIGINAL_SIZE, 8, 512)},
	{"keeps to the end's footer when only the copy is damaged", &small, {{IMAGE_RAW_COPY, F_UUID, 1, 0x77}}},
	{"opens by the copy when only the footer at the end is damaged", &small, {{IMAGE_RAW_END, F_UUID, 1, 0x77}},
	 .warning = "checksum"},
	{"opens with unknown reserved bytes", &small, BOTH(F_RESERVED + 100, 8, 0x0123456789abcdef)},
	{"opens with Xen's hidden byte", &small, BOTH(F_RESERVED, 1, 1)},
	{"opens a saved state", &small, BOTH(F_SAVED, 1, 1)},
	{"opens with no feature bit at all", &small, BOTH(F_FEATURES, 4, 0)},
	{"opens a time stamp in the future", &small, BOTH(F_TIME, 4, 0xffffffff)},
	{"reads a fixed disk whose guest forged a dynamic header as the fixed disk", &fixed, .bend = forge_dynamic},

	/* No VHD at all. */
	{"refuses an empty file", &fixed, .cut_to = 0, .cut = 16384 + 512, .expect = VHD_E_NOT_VHD, .needle = "empty",
	 .unsalvageable = true},
	{"refuses a file of one byte", &fixed, .cut_to = 1, .expect = VHD_E_NOT_VHD, .needle = "footer",
	 .unsalvageable = true},
	{"refuses a file of 511 zeros", &fixed, .cut_to = 511, .bend = zero_all, .expect = VHD_E_NOT_VHD,
	 .needle = "footer", .unsalvageable = true},
	{"refuses zeros", &small, .bend = zero_all, .expect = VHD_E_NOT_VHD, .needle = "footer", .unsalvageable = true},
	{"refuses all ones", &small, .bend = fill_with_ff, .expect = VHD_E_NOT_VHD, .needle = "footer",
	 .unsalvageable = true},
	{"refuses a VHDX and says what it is", &small, .bend = vhdx, .expect = VHD_E_NOT_VHD, .needle = "VHDX",
	 .unsalvageable = true},
	{"refuses a cookie in upper case", &small, .bend = cookie_upper_case, .expect = VHD_E_NOT_VHD,
	 .needle = "footer", .unsalvageable = true},
	{"refuses a cookie that is one byte off", &small, {{IMAGE_FOOTERS, F_COOKIE + 7, 1, 'y'}},
	 .expect = VHD_E_NOT_VHD, .needle = "footer", .unsalvageable = true},
	{"refuses a disk whose footers were both overwritten with C7", &small, .bend = poison_both,
	 .expect = VHD_E_NOT_VHD, .needle = "footer", .unsalvageable = true},
	{"refuses a fixed disk without its footer", &fixed, .cut = 512, .expect = VHD_E_NOT_VHD, .needle = "footer",
	 .unsalvageable = true},
	{"refuses a fixed disk whose footer is cut in half", &fixed, .cut = 256, .expect = VHD_E_NOT_VHD,
	 .needle = "footer", .unsalvageable = true},

	/* The footer. */
	{"refuses checksums wrong in both footers", &small, {{IMAGE_RAW_FOOTERS, F_CHECKSUM, 4, 0x12345678}},
	 .expect = VHD_E_CORRUPT, .needle = "checksum"},
	{"refuses a checksum of zero in both footers", &small, {{IMAGE_RAW_FOOTERS, F_CHECKSUM, 4, 0}},
	 .expect = VHD_E_CORRUPT, .needle = "checksum"},
	{"refuses a unique id edited into both footers", &small, {{IMAGE_RAW_FOOTERS, F_UUID, 8, 0x4142434445464748}},
	 .expect = VHD_E_CORRUPT, .needle = "checksum"},
	{"refuses a wrong checksum of a fixed disk, which has no copy", &fixed, {{IMAGE_RAW_END, F_UUID, 1, 0x77}},
	 .expect = VHD_E_CORRUPT, .needle = "checksum"},
	{"does not believe a forged copy when the footer of a fixed disk is damaged", &fixed,
	 .bend = forge_and_break_footer, .expect = VHD_E_CORRUPT, .needle = "checksum"},
	{"refuses version 2.0", &small, BOTH(F_VERSION, 4, 0x00020000), .expect = VHD_E_UNSUPPORTED, .needle = "2.0",
	 .unsalvageable = true},
	{"refuses version 0", &small, BOTH(F_VERSION, 4, 0), .expect = VHD_E_UNSUPPORTED, .needle = "Version",
	 .unsalvageable = true},
	{"refuses an all-ones version", &small, BOTH(F_VERSION, 4, 0xffffffff), .expect = VHD_E_UNSUPPORTED,
	 .needle = "Version", .unsalvageable = true},
	{"refuses disk type 0", &small, BOTH(F_TYPE, 4, 0), .expect = VHD_E_UNSUPPORTED, .needle = "Disk Type is 0",
	 .unsalvageable = true},
	{"refuses disk type 1", &small, BOTH(F_TYPE, 4, 1), .expect = VHD_E_UNSUPPORTED, .needle = "Disk Type is 1",
	 .unsalvageable = true},
	{"refuses disk type 5", &small, BOTH(F_TYPE, 4, 5), .expect = VHD_E_UNSUPPORTED, .needle = "Disk Type is 5",
	 .unsalvageable = true},
	{"refuses disk type 6", &small, BOTH(F_TYPE, 4, 6), .expect = VHD_E_UNSUPPORTED, .needle = "Disk Type is 6",
	 .unsalvageable = true},
	{"refuses disk type 7", &small, BOTH(F_TYPE, 4, 7), .expect = VHD_E_UNSUPPORTED, .needle = "Disk Type is 7",
	 .unsalvageable = true},
	{"refuses disk type 0x03000000", &small, BOTH(F_TYPE, 4, 0x03000000), .expect = VHD_E_UNSUPPORTED,
	 .needle = "Disk Type is 50331648", .unsalvageable = true},
	{"refuses disk type 4294967295", &small, BOTH(F_TYPE, 4, 0xffffffff), .expect = VHD_E_UNSUPPORTED,
	 .needle = "Disk Type is 4294967295", .unsalvageable = true},
	{"refuses a dynamic disk that calls itself fixed but is too short", &small, BOTH(F_TYPE, 4, 2),
	 .expect = VHD_E_CORRUPT, .needle = "32768"},
	{"refuses Current Size 0", &small, BOTH(F_CURRENT_SIZE, 8, 0), .expect = VHD_E_CORRUPT,
	 .needle = "Current Size is 0", .unsalvageable = true},
	{"refuses Current Size 0 of a fixed disk", &fixed, BOTH(F_CURRENT_SIZE, 8, 0), .expect = VHD_E_CORRUPT,
	 .needle = "Current Size is 0", .unsalvageable = true},
	{"refuses an odd Current Size", &small, BOTH(F_CURRENT_SIZE, 8, 32767), .expect = VHD_E_CORRUPT,
	 .needle = "multiple of 512", .unsalvageable = true},
	{"refuses a Current Size over 2040 GiB", &small, BOTH(F_CURRENT_SIZE, 8, VHD_MAX_SIZE + 512),
	 .expect = VHD_E_UNSUPPORTED, .needle = "2040 GiB", .unsalvageable = true},
	{"refuses a Current Size of 2^63", &small, BOTH(F_CURRENT_SIZE, 8, UINT64_C(1) << 63),
	 .expect = VHD_E_UNSUPPORTED, .needle = "Current Size", .unsalvageable = true},
	{"refuses a Current Size of nearly 2^64", &fixed, BOTH(F_CURRENT_SIZE, 8, UINT64_MAX - 511),
	 .expect = VHD_E_UNSUPPORTED, .needle = "Current Size", .unsalvageable = true},
	{"refuses a Current Size beyond the BAT", &small, BOTH(F_CURRENT_SIZE, 8, 32768 + 512), .expect = VHD_E_CORRUPT,
	 .needle = "Max Table Entries"},
	{"refuses a Current Size far beyond the BAT", &small, BOTH(F_CURRENT_SIZE, 8, VHD_MAX_SIZE),
	 .expect = VHD_E_CORRUPT, .needle = "Max Table Entries", .unsalvageable = true},
	{"refuses a fixed disk whose file is one sector short", &fixed, BOTH(F_CURRENT_SIZE, 8, 16384 + 512),
	 .expect = VHD_E_CORRUPT, .needle = "16896"},
	{"refuses a fixed disk that claims 2040 GiB", &fixed, {{IMAGE_FOOTER_END, F_CURRENT_SIZE, 8, VHD_MAX_SIZE}},
	 .expect = VHD_E_CORRUPT, .needle = "2190433320960"},
	{"refuses a resize that was interrupted", &small, .bend = poison_cookies, .expect = VHD_E_CORRUPT,
	 .needle = "resize"},
	{"refuses Data Offset all ones in a dynamic disk", &small, BOTH(F_DATA_OFFSET, 8, UINT64_MAX),
	 .expect = VHD_E_CORRUPT, .needle = "Data Offset", .unsalvageable = true},
	{"refuses Data Offset 0xffffffff in a dynamic disk", &small, BOTH(F_DATA_OFFSET, 8, 0xffffffff),
	 .expect = VHD_E_CORRUPT, .needle = "Data Offset", .unsalvageable = true},
	{"refuses a header that Data Offset puts on the footer copy", &small, BOTH(F_DATA_OFFSET, 8, 0),
	 .expect = VHD_E_CORRUPT, .needle = "header", .unsalvageable = true},
	{"refuses a Data Offset beyond the end", &small, BOTH(F_DATA_OFFSET, 8, 1u << 20), .expect = VHD_E_CORRUPT,
	 .needle = "header", .unsalvageable = true},
	{"refuses a Data Offset that reaches beyond the end", &small, BOTH(F_DATA_OFFSET, 8, 20992),
	 .expect = VHD_E_CORRUPT, .needle = "header", .unsalvageable = true},
	{"refuses a Data Offset near 2^64", &small, BOTH(F_DATA_OFFSET, 8, UINT64_MAX - 1023), .expect = VHD_E_CORRUPT,
	 .needle = "header", .unsalvageable = true},
	{"refuses an odd Data Offset", &small, BOTH(F_DATA_OFFSET, 8, 513), .expect = VHD_E_CORRUPT,
	 .needle = "Data Offset", .unsalvageable = true},
	{"refuses a header that lies inside a block", &small, .bend = header_in_block, .expect = VHD_E_CORRUPT,
	 .needle = "overlap"},
	{"refuses footers whose copy alone is sound but behind padding", &small, .bend = pad_and_break_copy,
	 .expect = HOSTILE_REFUSED, .needle = "footer"},

	/* The header. */
	{"refuses a wrong checksum of the header", &small, {{IMAGE_RAW_HEADER, H_CHECKSUM, 4, 1}},
	 .expect = VHD_E_CORRUPT, .needle = "header's checksum"},
	{"refuses a header changed without its checksum", &small, {{IMAGE_RAW_HEADER, H_RESERVED2, 4, 1}},
	 .expect = VHD_E_CORRUPT, .needle = "header's checksum"},
	{"refuses a header without its cookie", &small, HEAD(H_COOKIE, 8, 0), .expect = VHD_E_CORRUPT,
	 .needle = "cxsparse", .unsalvageable = true},
	{"refuses a footer in the header's place", &small, HEAD(H_COOKIE, 8, UINT64_C(0x636f6e6563746978)),
	 .expect = VHD_E_CORRUPT, .needle = "cxsparse", .unsalvageable = true},
	{"refuses header version 2.0", &small, HEAD(H_VERSION, 4, 0x00020000), .expect = VHD_E_UNSUPPORTED,
	 .needle = "2.0", .unsalvageable = true},
	{"refuses Block Size 0", &small, HEAD(H_BLOCK_SIZE, 4, 0), .expect = VHD_E_CORRUPT, .needle = "Block Size is 0",
	 .unsalvageable = true},
	{"refuses Block Size 1", &small, HEAD(H_BLOCK_SIZE, 4, 1), .expect = VHD_E_CORRUPT, .needle = "Block Size is 1",
	 .unsalvageable = true},
	{"refuses Block Size 256", &small, HEAD(H_BLOCK_SIZE, 4, 256), .expect = VHD_E_CORRUPT,
	 .needle = "Block Size is 256", .unsalvageable = true},
	{"refuses an odd Block Size", &small, HEAD(H_BLOCK_SIZE, 4, 4097), .expect = VHD_E_CORRUPT,
	 .needle = "Block Size is 4097", .unsalvageable = true},
	{"refuses a Block Size that is no power of two", &small, HEAD(H_BLOCK_SIZE, 4, 3 << 19),
	 .expect = VHD_E_CORRUPT, .needle = "power of two", .unsalvageable = true},
	{"refuses a Block Size of 2 GiB", &small, HEAD(H_BLOCK_SIZE, 4, 0x80000000), .expect = HOSTILE_REFUSED,
	 .needle = "Block Size", .unsalvageable = true},
	{"refuses a Block Size of 4 GiB less one", &small, HEAD(H_BLOCK_SIZE, 4, 0xffffffff), .expect = VHD_E_CORRUPT,
	 .needle = "Block Size", .unsalvageable = true},
	{"refuses too few entries for the disk", &small, HEAD(H_MAX_ENTRIES, 4, 7), .expect = VHD_E_CORRUPT,
	 .needle = "Max Table Entries is 7"},
	{"refuses a BAT of no entries", &small, HEAD(H_MAX_ENTRIES, 4, 0), .expect = VHD_E_CORRUPT,
	 .needle = "Max Table Entries is 0"},
	{"refuses a BAT of 2^32 - 1 entries in a small file", &small, HEAD(H_MAX_ENTRIES, 4, 0xffffffff),
	 .expect = VHD_E_CORRUPT, .needle = "4294967295"},
	{"refuses a BAT of 2^30 entries, 4 of which fill 2^32 bytes", &small, HEAD(H_MAX_ENTRIES, 4, 0x40000000),
	 .expect = VHD_E_CORRUPT, .needle = "1073741824"},
	{"refuses a BAT that overlaps the blocks behind it", &small, HEAD(H_MAX_ENTRIES, 4, 1000),
	 .expect = VHD_E_CORRUPT, .needle = "BAT"},
	{"refuses a Table Offset on the footer at the end", &small, HEAD(H_TABLE_OFFSET, 8, 20992),
	 .expect = VHD_E_CORRUPT, .needle = "BAT"},
	{"refuses a Table Offset of 0, on the footer copy", &small, HEAD(H_TABLE_OFFSET, 8, 0), .expect = VHD_E_CORRUPT,
	 .needle = "BAT"},
	{"refuses a Table Offset on the header", &small, HEAD(H_TABLE_OFFSET, 8, 1024), .expect = VHD_E_CORRUPT,
	 .needle = "BAT"},
	{"refuses a Table Offset beyond the end", &small, HEAD(H_TABLE_OFFSET, 8, 1u << 20), .expect = VHD_E_CORRUPT,
	 .needle = "BAT"},
	{"refuses a Table Offset near 2^64", &small, HEAD(H_TABLE_OFFSET, 8, UINT64_MAX - 511), .expect = VHD_E_CORRUPT,
	 .needle = "BAT"},
	{"refuses a Table Offset of all ones", &small, HEAD(H_TABLE_OFFSET, 8, UINT64_MAX), .expect = VHD_E_CORRUPT,
	 .needle = "Table Offset", .unsalvageable = true},
	{"refuses an odd Table Offset", &small, HEAD(H_TABLE_OFFSET, 8, 1537), .expect = VHD_E_CORRUPT,
	 .needle = "Table Offset", .unsalvageable = true},
	{"refuses a Table Offset inside a block", &small, HEAD(H_TABLE_OFFSET, 8, 4096), .expect = VHD_E_CORRUPT,
	 .needle = "BAT"},

	/* BAT entries. */
	{"refuses an entry beyond the end", &small, ENTRY(3, 1000), .expect = VHD_E_CORRUPT, .needle = "BAT entry 3"},
	{"refuses an entry that wraps at 2^32", &small, ENTRY(3, 0xffffefff), .expect = VHD_E_CORRUPT,
	 .needle = "BAT entry 3"},
	{"refuses the highest entry", &small, ENTRY(7, 0xfffffffe), .expect = VHD_E_CORRUPT, .needle = "BAT entry 7"},
	{"refuses an entry of 0, the footer copy", &small, ENTRY(3, 0), .expect = VHD_E_CORRUPT, .needle = "BAT entry 3"},
	{"refuses an entry on the header", &small, ENTRY(3, 2), .expect = VHD_E_CORRUPT, .needle = "BAT entry 3"},
	{"refuses an entry on the BAT", &small, ENTRY(3, 3), .expect = VHD_E_CORRUPT, .needle = "BAT entry 3"},
	{"refuses an entry whose block ends in the footer", &small, ENTRY(5, 33), .expect = VHD_E_CORRUPT,
	 .needle = "BAT entry 5"},
	{"refuses an entry on the footer", &small, ENTRY(3, 41), .expect = VHD_E_CORRUPT, .needle = "BAT entry 3"},
	{"refuses an entry on a locator", &locators, .bend = entry_on_locator, .expect = VHD_E_CORRUPT,
	 .needle = "BAT entry 0"},
	{"refuses an entry on the batmap", &xen, .bend = entry_on_batmap, .expect = VHD_E_CORRUPT,
	 .needle = "BAT entry 0"},
	{"refuses two entries for one block", &small, ENTRY(3, 5), .expect = VHD_E_CORRUPT,
	 .needle = "BAT entries 2 and 3"},
	{"refuses two blocks that overlap by a sector", &small, ENTRY(3, 13), .expect = VHD_E_CORRUPT,
	 .needle = "overlap"},
	{"refuses a block on another's bitmap", &small, ENTRY(0, 4), .expect = VHD_E_CORRUPT, .needle = "BAT entr"},
	{"refuses one block for all entries", &small, .bend = entries_everywhere, .expect = VHD_E_CORRUPT,
	 .needle = "overlap"},
	{"refuses a bad entry in the partial block at the end", &partial, ENTRY(7, 0xfffff000), .expect = VHD_E_CORRUPT,
	 .needle = "BAT entry 7"},
	{"ignores what lies behind the last entry that the disk needs", &more_entries, ENTRY(200, 1)},
	{"refuses a locator that lies on a block", &locators, .bend = locator_at_block, .expect = VHD_E_CORRUPT,
	 .needle = "overlap"},

	/* Files cut short; the copy of the footer is still there. */
	{"refuses a file cut in the header", &small, .cut_to = 1024, .expect = VHD_E_CORRUPT, .needle = "header",
	 .unsalvageable = true},
	{"refuses a file cut before the header", &small, .cut_to = 512, .expect = VHD_E_CORRUPT, .needle = "header",
	 .unsalvageable = true},
	{"refuses a file cut in the footer copy", &small, .cut_to = 300, .expect = VHD_E_NOT_VHD, .needle = "footer",
	 .unsalvageable = true},
	{"refuses a file cut before the BAT", &small, .cut_to = 1536, .expect = VHD_E_CORRUPT, .needle = "BAT"},
	{"refuses a file cut in the BAT", &small, .cut_to = 1536 + 16, .expect = VHD_E_CORRUPT, .needle = "BAT"},
	{"refuses a file cut in a bitmap", &small, .cut_to = 16384 + 100, .expect = VHD_E_CORRUPT,
	 .needle = "BAT entry 5"},
	{"refuses a file cut in a block", &small, .cut_to = 16384 + 1024, .expect = VHD_E_CORRUPT,
	 .needle = "BAT entry 5"},
	{"refuses a file cut one sector before its last block's end", &small, .cut = 1024, .expect = VHD_E_CORRUPT,
	 .needle = "BAT entry 5"},
	{"refuses a file cut one byte before its last block's end", &small, .cut = 513, .expect = VHD_E_CORRUPT,
	 .needle = "BAT entry 5"},

	/* Xen's batmap. */
	{"refuses a batmap beyond the end", &xen, {{IMAGE_BATMAP, 8, 8, 1u << 20}}, .expect = HOSTILE_REFUSED,
	 .needle = "batmap"},
	{"refuses a batmap of 2^32 - 1 sectors", &xen, {{IMAGE_BATMAP, 16, 4, 0xffffffff}}, .expect = HOSTILE_REFUSED,
	 .needle = "batmap"},
	{"refuses a batmap near 2^64", &xen, {{IMAGE_BATMAP, 8, 8, UINT64_MAX - 511}}, .expect = HOSTILE_REFUSED,
	 .needle = "batmap"},
};

int main(void)
{
	return hostile_run("hostile", rows, sizeof(rows) / sizeof(rows[0]));
}
