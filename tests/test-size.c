/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/size.h"

static void parses(const char *text, uint64_t bytes)
{
	uint64_t value = 12345;

	assert_int_equal(size_parse(text, &value), 0);
	assert_int_equal(value, bytes);
}

static void refuses(const char *text, int code)
{
	uint64_t value = 12345;

	assert_int_equal(size_parse(text, &value), code);
	assert_int_equal(value, 12345);
}

static void bytes_and_units_are_powers_of_1024(void **state)
{
	(void)state;
	parses("0", 0);
	parses("511", 511);
	parses("0x200", 512);
	parses("1K", 1024);
	parses("1k", 1024);
	parses("3M", 3 << 20);
	parses("127G", UINT64_C(127) << 30);
	parses("2T", UINT64_C(2) << 40);
	parses("18446744073709551615", UINT64_MAX);
}

static void fractions_come_out_as_whole_bytes_or_not_at_all(void **state)
{
	(void)state;
	parses("1.5K", 1536);
	parses("0.25M", 256 << 10);
	parses("1.50T", UINT64_C(3) << 39);
	parses("7.0", 7);
	refuses("1.5", -EINVAL);
	refuses("0.3K", -EINVAL);
	refuses("1.K", -EINVAL);
	refuses(".5K", -EINVAL);
	refuses("1.0000001G", -EINVAL);
}

static void what_is_no_size_is_refused(void **state)
{
	(void)state;
	refuses("", -EINVAL);
	refuses("-1", -EINVAL);
	refuses("+1", -EINVAL);
	refuses(" 1", -EINVAL);
	refuses("1 K", -EINVAL);
	refuses("1KB", -EINVAL);
	refuses("K", -EINVAL);
	refuses("0x", -EINVAL);
	refuses("0x1K", -EINVAL);
	refuses("1e3", -EINVAL);
}

static void what_does_not_fit_64_bits_is_out_of_range(void **state)
{
	(void)state;
	refuses("18446744073709551616", -ERANGE);
	refuses("16777216T", -ERANGE);
	refuses("0x10000000000000000", -ERANGE);
	parses("16777215T", UINT64_MAX - (UINT64_C(1) << 40) + 1);
}

static void people_read_a_rounded_size(void **state)
{
	char text[SIZE_TEXT_MAX];

	(void)state;
	assert_string_equal(size_text(0, text), "0 bytes");
	assert_string_equal(size_text(1, text), "1 byte");
	assert_string_equal(size_text(1023, text), "1023 bytes");
	assert_string_equal(size_text(1024, text), "1 KiB");
	assert_string_equal(size_text(1536, text), "1.5 KiB");
	assert_string_equal(size_text((1 << 20) - 1, text), "1 MiB");
	assert_string_equal(size_text(UINT64_C(127) << 30, text), "127 GiB");
	assert_string_equal(size_text(UINT64_C(2040) << 30, text), "2 TiB");
	assert_string_equal(size_text(UINT64_MAX, text), "16 EiB");
}

static void an_exact_size_goes_down_to_the_unit_that_does_not_round(void **state)
{
	char text[SIZE_TEXT_MAX];

	(void)state;
	assert_string_equal(size_text_exact(0, text), "0 bytes");
	assert_string_equal(size_text_exact(1, text), "1 byte");
	assert_string_equal(size_text_exact(1025, text), "1025 bytes");
	assert_string_equal(size_text_exact(1536, text), "1.5 KiB");
	assert_string_equal(size_text_exact((1 << 20) - 512, text), "1023.5 KiB");
	assert_string_equal(size_text_exact(UINT64_C(127) << 30, text), "127 GiB");
	assert_string_equal(size_text_exact(UINT64_C(2040) << 30, text), "2040 GiB");
	assert_string_equal(size_text_exact(UINT64_C(3) << 39, text), "1.5 TiB");
	assert_string_equal(size_text_exact(UINT64_C(2) << 40, text), "2 TiB");
	assert_string_equal(size_text_exact(UINT64_MAX, text), "18446744073709551615 bytes");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bytes_and_units_are_powers_of_1024),
		cmocka_unit_test(fractions_come_out_as_whole_bytes_or_not_at_all),
		cmocka_unit_test(what_is_no_size_is_refused),
		cmocka_unit_test(what_does_not_fit_64_bits_is_out_of_range),
		cmocka_unit_test(people_read_a_rounded_size),
		cmocka_unit_test(an_exact_size_goes_down_to_the_unit_that_does_not_round),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
