/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "vhd/sniff.h"
#include "vhd/vhd.h"

static void a_uuid_is_written_in_the_usual_groups(void **state)
{
	static const uint8_t uuid[16] = {0x6e, 0x4a, 0xc3, 0x31, 0x97, 0xa1, 0x4d, 0x52,
	                                 0x8a, 0x5f, 0x1c, 0x3f, 0x2a, 0x9d, 0x0c, 0x11};
	char text[37];

	vhd_uuid_text(uuid, text);
	assert_string_equal(text, "6e4ac331-97a1-4d52-8a5f-1c3f2a9d0c11");
}

static void known_types_have_names_and_others_none(void **state)
{
	assert_string_equal(vhd_type_name(VHD_FIXED), "fixed");
	assert_string_equal(vhd_type_name(VHD_DYNAMIC), "dynamic");
	assert_string_equal(vhd_type_name(VHD_DIFFERENCING), "differencing");
	assert_null(vhd_type_name((enum vhd_type)5));
}

static void the_version_has_three_numbers(void **state)
{
	unsigned a, b, c;

	assert_int_equal(sscanf(vhd_version(), "%u.%u.%u", &a, &b, &c), 3);
}

static void other_formats_are_named_by_their_first_bytes(void **state)
{
	uint8_t sector[512] = "vhdxfile";

	assert_string_equal(sniff_format(sector, sizeof(sector)), "a VHDX image");
	memcpy(sector, "QFI\xfb\0\0\0\3", 8);
	assert_non_null(strstr(sniff_format(sector, sizeof(sector)), "QCOW2"));
	memset(sector, 0, sizeof(sector));
	assert_null(sniff_format(sector, sizeof(sector)));
	sector[510] = 0x55;
	sector[511] = 0xaa;
	assert_non_null(strstr(sniff_format(sector, sizeof(sector)), "raw disk"));
	assert_null(sniff_format(sector, 511));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_uuid_is_written_in_the_usual_groups),
		cmocka_unit_test(known_types_have_names_and_others_none),
		cmocka_unit_test(the_version_has_three_numbers),
		cmocka_unit_test(other_formats_are_named_by_their_first_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
