/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "vhd/sniff.h"

static uint8_t sector[512];

static const char *looks(size_t offset, const char *bytes, size_t length)
{
	memset(sector, 0, sizeof(sector));
	memcpy(sector + offset, bytes, length);
	return sniff_format(sector, sizeof(sector));
}

static void other_disk_formats_are_named(void **state)
{
	assert_string_equal(looks(0, "vhdxfile", 8), "a VHDX image");
	assert_string_equal(looks(0, "QFI\xfb", 4), "a QCOW or QCOW2 image");
	assert_string_equal(looks(0x40, "\x7f\x10\xda\xbe", 4), "a VDI image");
	assert_string_equal(looks(0, "KDMV", 4), "a VMDK image");
}

static void what_is_packed_is_named_with_what_to_do(void **state)
{
	assert_non_null(strstr(looks(0, "\x1f\x8b", 2), "decompress"));
	assert_non_null(strstr(looks(0, "PK\3\4", 4), "unpack"));
}

static void a_boot_sector_is_a_raw_disk(void **state)
{
	assert_non_null(strstr(looks(510, "\x55\xaa", 2), "a raw disk"));
}

static void zeros_text_and_vhd_look_like_nothing(void **state)
{
	assert_null(looks(0, "", 0));
	assert_null(looks(0, "hello", 5));
	assert_null(looks(0, "conectix", 8));
}

static void a_short_start_is_not_read_beyond(void **state)
{
	assert_null(sniff_format(NULL, 0));
	memcpy(sector, "vhdxfile", 8);
	assert_null(sniff_format(sector, 7));
	assert_non_null(sniff_format(sector, 8));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(other_disk_formats_are_named),
		cmocka_unit_test(what_is_packed_is_named_with_what_to_do),
		cmocka_unit_test(a_boot_sector_is_a_raw_disk),
		cmocka_unit_test(zeros_text_and_vhd_look_like_nothing),
		cmocka_unit_test(a_short_start_is_not_read_beyond),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
