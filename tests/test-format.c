/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "vhd/format.h"

static struct footer_disk sound_footer(enum vhd_type type)
{
	struct footer footer = {
		.features = 2, .data_offset = type == VHD_FIXED ? VHD_NO_OFFSET : 512, .time_stamp = 77, .creator = "win",
		.creator_version = 0x60001, .creator_os = "Wi2", .original_size = 1 << 20, .current_size = 2 << 20,
		.geometry = {60, 4, 17}, .type = type, .uuid = {1, 2, 3}, .saved_state = false,
	};
	struct footer_disk disk;

	footer_encode(&footer, &disk);
	return disk;
}

static void footer_fix(struct footer_disk *disk)
{
	disk->checksum = be32_make(footer_checksum(disk));
}

static void expect_footer_defect(struct footer_disk disk, int verdict, const char *code, const char *words)
{
	struct format_defect defect = {NULL, 0};
	struct footer footer;
	struct err err;

	assert_int_equal(footer_decode_defect(&disk, false, &footer, &defect, &err), verdict);
	assert_string_equal(defect.code, code);
	assert_non_null(strstr(err.text, words));
}

static void a_footer_comes_back_as_it_was_encoded(void **state)
{
	struct footer_disk disk = sound_footer(VHD_DYNAMIC), again;
	struct footer footer;

	assert_memory_equal(disk.cookie, "conectix", 8);
	assert_int_equal(be32_get(disk.version), 0x10000);
	assert_int_equal(footer_decode(&disk, false, &footer, NULL), 0);
	assert_int_equal(footer.type, VHD_DYNAMIC);
	assert_int_equal(footer.current_size, 2 << 20);
	assert_int_equal(footer.original_size, 1 << 20);
	assert_int_equal(footer.geometry.cylinders, 60);
	footer_encode(&footer, &again);
	assert_memory_equal(&disk, &again, sizeof(disk));
}

static void the_checksum_is_the_complement_of_the_sum_of_bytes(void **state)
{
	struct footer_disk footer = {.features = {{1, 2, 3, 4}}, .checksum = {{9, 9, 9, 9}}};
	struct header_disk header = {.version = {{255, 1, 0, 0}}, .checksum = {{9, 9, 9, 9}}};

	assert_int_equal(footer_checksum(&footer), ~UINT32_C(10));
	assert_int_equal(header_checksum(&header), ~UINT32_C(256));
}

static void unknown_bytes_survive_decoding_and_encoding(void **state)
{
	struct footer_disk disk = sound_footer(VHD_DYNAMIC), again;
	struct footer footer;

	disk.reserved[0] = 1;
	memset(disk.reserved + 100, 0xAB, 50);
	disk.saved_state = 7;
	disk.version = be32_make(0x00010003);
	footer_fix(&disk);
	assert_int_equal(footer_decode(&disk, false, &footer, NULL), 0);
	footer_encode(&footer, &again);
	assert_memory_equal(&disk, &again, sizeof(disk));
}

static void a_disk_hidden_by_early_xen_tools_is_accepted(void **state)
{
	struct footer_disk disk = sound_footer(VHD_DYNAMIC);
	struct footer footer;

	memcpy(disk.creator, "tap", 4);
	disk.creator_version = be32_make(0x00010001);
	footer_fix(&disk);
	disk.reserved[0] = 1;
	assert_int_equal(footer_decode(&disk, false, &footer, NULL), 0);

	memcpy(disk.creator, "win ", 4);
	disk.reserved[0] = 0;
	footer_fix(&disk);
	disk.reserved[0] = 1;
	expect_footer_defect(disk, VHD_E_CORRUPT, "footer-checksum", "checksum");
}

static void a_poisoned_cookie_means_an_interrupted_resize(void **state)
{
	struct footer_disk disk = sound_footer(VHD_DYNAMIC);

	memcpy(disk.cookie, "v_poison", 8);
	footer_fix(&disk);
	expect_footer_defect(disk, VHD_E_CORRUPT, "footer-resize-journal", "interrupted resize journal");
}

static void each_bad_field_of_a_footer_is_named(void **state)
{
	struct footer_disk disk = sound_footer(VHD_DYNAMIC);

	disk.cookie[7] = 'y';
	expect_footer_defect(disk, VHD_E_CORRUPT, "footer-cookie", "conectix");
	disk = sound_footer(VHD_DYNAMIC);
	disk.uuid[0] ^= 1;
	expect_footer_defect(disk, VHD_E_CORRUPT, "footer-checksum", "checksum");
	disk = sound_footer(VHD_DYNAMIC);
	disk.version = be32_make(0x20000);
	footer_fix(&disk);
	expect_footer_defect(disk, VHD_E_UNSUPPORTED, "footer-version", "2.0");
	disk = sound_footer(VHD_DYNAMIC);
	disk.disk_type = be32_make(6);
	footer_fix(&disk);
	expect_footer_defect(disk, VHD_E_UNSUPPORTED, "footer-type", "Disk Type is 6");
	disk = sound_footer(VHD_DYNAMIC);
	disk.current_size = be64_make(0);
	footer_fix(&disk);
	expect_footer_defect(disk, VHD_E_CORRUPT, "footer-size", "Current Size is 0");
	disk.current_size = be64_make(513);
	footer_fix(&disk);
	expect_footer_defect(disk, VHD_E_CORRUPT, "footer-size", "513");
	disk.current_size = be64_make(VHD_MAX_SIZE + 512);
	footer_fix(&disk);
	expect_footer_defect(disk, VHD_E_UNSUPPORTED, "footer-size", "2040 GiB");
	disk = sound_footer(VHD_DYNAMIC);
	disk.data_offset = be64_make(VHD_NO_OFFSET);
	footer_fix(&disk);
	expect_footer_defect(disk, VHD_E_CORRUPT, "footer-data-offset", "Data Offset");
}

static void a_wrong_checksum_can_be_ignored_for_salvage(void **state)
{
	struct footer_disk disk = sound_footer(VHD_FIXED);
	struct footer footer;

	disk.uuid[0] ^= 1;
	assert_int_equal(footer_decode(&disk, true, &footer, NULL), 0);
	assert_int_equal(footer.current_size, 2 << 20);
}

static struct header_disk sound_header(void)
{
	struct header header = {
		.table_offset = 1536, .max_table_entries = 3, .block_size = 4096, .parent_uuid = {5}, .parent_time_stamp = 8,
		.locators = {[7] = {"W2k", 512, 10, 2048}},
	};
	struct header_disk disk;

	header_encode(&header, &disk);
	return disk;
}

static void a_header_comes_back_as_it_was_encoded(void **state)
{
	struct header_disk disk = sound_header(), again;
	struct header header;

	assert_memory_equal(disk.cookie, "cxsparse", 8);
	assert_true(be64_get(disk.data_offset) == VHD_NO_OFFSET);
	memset(disk.reserved2, 0x5A, sizeof(disk.reserved2));
	disk.checksum = be32_make(header_checksum(&disk));
	assert_int_equal(header_decode(&disk, false, &header, NULL), 0);
	assert_int_equal(header.block_size, 4096);
	assert_int_equal(header.locators[7].offset, 2048);
	header_encode(&header, &again);
	assert_memory_equal(&disk, &again, sizeof(disk));
}

static void expect_header_defect(struct header_disk disk, int verdict, const char *code)
{
	struct format_defect defect = {NULL, 0};
	struct header header;
	struct err err;

	if (strcmp(code, "header-checksum"))
		disk.checksum = be32_make(header_checksum(&disk));
	assert_int_equal(header_decode_defect(&disk, false, &header, &defect, &err), verdict);
	assert_string_equal(defect.code, code);
}

static void each_bad_field_of_a_header_is_named(void **state)
{
	static const uint32_t sizes[] = {0, 1, 256, 511, 513, 3u << 20, UINT32_MAX};
	struct header_disk disk = sound_header();

	disk.cookie[0] = 'X';
	expect_header_defect(disk, VHD_E_CORRUPT, "header-cookie");
	disk = sound_header();
	disk.reserved2[3] = 1;
	expect_header_defect(disk, VHD_E_CORRUPT, "header-checksum");
	disk = sound_header();
	disk.version = be32_make(0x30000);
	expect_header_defect(disk, VHD_E_UNSUPPORTED, "header-version");
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		disk = sound_header();
		disk.block_size = be32_make(sizes[i]);
		expect_header_defect(disk, VHD_E_CORRUPT, "header-block-size");
	}
	disk = sound_header();
	disk.block_size = be32_make(512u << 20);
	expect_header_defect(disk, VHD_E_UNSUPPORTED, "header-block-size");
	disk = sound_header();
	disk.table_offset = be64_make(1537);
	expect_header_defect(disk, VHD_E_CORRUPT, "header-table-offset");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_footer_comes_back_as_it_was_encoded),
		cmocka_unit_test(the_checksum_is_the_complement_of_the_sum_of_bytes),
		cmocka_unit_test(unknown_bytes_survive_decoding_and_encoding),
		cmocka_unit_test(a_disk_hidden_by_early_xen_tools_is_accepted),
		cmocka_unit_test(a_poisoned_cookie_means_an_interrupted_resize),
		cmocka_unit_test(each_bad_field_of_a_footer_is_named),
		cmocka_unit_test(a_wrong_checksum_can_be_ignored_for_salvage),
		cmocka_unit_test(a_header_comes_back_as_it_was_encoded),
		cmocka_unit_test(each_bad_field_of_a_header_is_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
