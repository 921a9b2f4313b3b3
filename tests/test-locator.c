/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "vhd/locator.h"

static void expect_text(const char *bytes, size_t length, bool big_endian, const char *text)
{
	char *got = NULL;

	assert_int_equal(utf16_decode((const uint8_t *)bytes, length, big_endian, &got, NULL), 0);
	assert_string_equal(got, text);
	free(got);
}

static void utf16_is_read_in_both_orders_and_with_marks(void **state)
{
	expect_text("a\0b\0", 4, false, "ab");
	expect_text("\0a\0b", 4, true, "ab");
	expect_text("\0a\0b", 4, false, "ab");
	expect_text("a\0b\0", 4, true, "ab");
	expect_text("\xff\xfe" "a\0", 4, true, "a");
	expect_text("\xfe\xff\0a", 4, false, "a");
	expect_text("a\0\0\0b\0", 6, false, "a");
	expect_text("", 0, false, "");
	expect_text("\x3d\xd8\x00\xde", 4, false, "\xf0\x9f\x98\x80");
	expect_text("\xd8\x3d\xde\x00", 4, true, "\xf0\x9f\x98\x80");
	expect_text("\xe4\x00\xac\x20", 4, false, "\xc3\xa4\xe2\x82\xac");
}

static void broken_utf16_is_refused(void **state)
{
	char *got = NULL;

	assert_int_equal(utf16_decode((const uint8_t *)"a\0b", 3, false, &got, NULL), VHD_E_CORRUPT);
	assert_int_equal(utf16_decode((const uint8_t *)"\xd8\xd8\xd8\xd8", 4, false, &got, NULL), VHD_E_CORRUPT);
	assert_int_equal(utf16_decode((const uint8_t *)"\xdc\xdc", 2, true, &got, NULL), VHD_E_CORRUPT);
}

static void utf16_is_written_without_a_mark(void **state)
{
	size_t length;
	uint8_t *bytes;

	assert_int_equal(utf16_encode("a\xc3\xa4\xf0\x9f\x98\x80", false, &bytes, &length, NULL), 0);
	assert_int_equal(length, 8);
	assert_memory_equal(bytes, "a\0\xe4\0\x3d\xd8\x00\xde", 8);
	free(bytes);
	assert_int_equal(utf16_encode("a\xe2\x82\xac", true, &bytes, &length, NULL), 0);
	assert_memory_equal(bytes, "\0a\x20\xac", 4);
	free(bytes);
}

static void what_is_not_utf8_is_refused(void **state)
{
	static const char *const bad[] = {"\xff", "a\xc3", "\xc0\x80", "\xed\xa0\x80", "\xf5\x80\x80\x80", "\x80"};
	size_t length;
	uint8_t *bytes;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(utf16_encode(bad[i], false, &bytes, &length, NULL), -EINVAL);
}

static void expect_path(const char *code, const char *ascii, const char *path)
{
	bool url = !strcmp(code, "MacX");
	size_t length = strlen(ascii);
	uint8_t bytes[512];
	char *got = NULL;

	for (size_t i = 0; i < length; i++) {
		bytes[url ? i : 2 * i] = (uint8_t)ascii[i];
		if (!url)
			bytes[2 * i + 1] = 0;
	}
	if (!path) {
		assert_int_equal(locator_decode((const uint8_t *)code, bytes, url ? length : 2 * length, &got, NULL),
		                 VHD_E_CORRUPT);
		return;
	}
	assert_int_equal(locator_decode((const uint8_t *)code, bytes, url ? length : 2 * length, &got, NULL), 0);
	assert_string_equal(got, path);
	free(got);
}

static void windows_paths_become_paths_here(void **state)
{
	expect_path("W2ru", ".\\base.vhd", "base.vhd");
	expect_path("W2ru", "..\\base\\a.vhd", "../base/a.vhd");
	expect_path("W2ru", "base.vhd", "base.vhd");
	expect_path("W2ru", "./x/base.vhd", "x/base.vhd");
	expect_path("W2ku", "/srv/a.vhd", "/srv/a.vhd");
	expect_path("W2ku", "C:\\x\\a.vhd", "a.vhd");
	expect_path("W2ku", "c:a.vhd", "a.vhd");
	expect_path("W2ku", "\\\\server\\share\\a.vhd", "a.vhd");
	expect_path("W2ku", "", NULL);
	expect_path("W2ku", "C:\\", NULL);
}

static void file_urls_become_paths_here(void **state)
{
	expect_path("MacX", "file://localhost/a%20b/c.vhd", "/a b/c.vhd");
	expect_path("MacX", "file:///a.vhd", "/a.vhd");
	expect_path("MacX", "file://./a.vhd", "./a.vhd");
	expect_path("MacX", "file:///a%zz.vhd", "/a%zz.vhd");
	expect_path("MacX", "http://x/a.vhd", NULL);
	expect_path("MacX", "file:///a%00b", NULL);
	expect_path("MacX", "file://", NULL);
}

static void an_unknown_platform_code_is_unsupported(void **state)
{
	char *got;

	assert_int_equal(locator_decode((const uint8_t *)"Wi2k", (const uint8_t *)"ab", 2, &got, NULL), VHD_E_UNSUPPORTED);
}

static void expect_relative(const char *child, const char *parent, const char *text)
{
	char *got = NULL;

	assert_int_equal(locator_relative(child, parent, &got, NULL), 0);
	assert_string_equal(got, text);
	free(got);
}

static void the_path_from_child_to_parent_is_built(void **state)
{
	expect_relative("/a/c.vhd", "/a/p.vhd", ".\\p.vhd");
	expect_relative("/a/c.vhd", "/a/b/p.vhd", ".\\b\\p.vhd");
	expect_relative("/a/b/c.vhd", "/a/p.vhd", "..\\p.vhd");
	expect_relative("/a/b/c.vhd", "/ab/p.vhd", "..\\..\\ab\\p.vhd");
	expect_relative("/c.vhd", "/p.vhd", ".\\p.vhd");
}

static void names_that_the_format_cannot_say_are_refused(void **state)
{
	struct err err;
	char *got;

	assert_int_equal(locator_relative("/c.vhd", "/a\\b.vhd", &got, &err), -EINVAL);
	assert_non_null(strstr(err.text, "backslash"));
	assert_int_equal(locator_relative("/c.vhd", "/\xff.vhd", &got, &err), -EINVAL);
	assert_non_null(strstr(err.text, "UTF-8"));
}

static void space_counts_sectors_below_512_and_else_bytes(void **state)
{
	assert_int_equal(locator_space_bytes(&(struct locator){.space = 1}), 512);
	assert_int_equal(locator_space_bytes(&(struct locator){.space = 511}), 511 * 512);
	assert_int_equal(locator_space_bytes(&(struct locator){.space = 512}), 512);
	assert_int_equal(locator_space_bytes(&(struct locator){.space = 65536}), 65536);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(utf16_is_read_in_both_orders_and_with_marks),
		cmocka_unit_test(broken_utf16_is_refused),
		cmocka_unit_test(utf16_is_written_without_a_mark),
		cmocka_unit_test(what_is_not_utf8_is_refused),
		cmocka_unit_test(windows_paths_become_paths_here),
		cmocka_unit_test(file_urls_become_paths_here),
		cmocka_unit_test(an_unknown_platform_code_is_unsupported),
		cmocka_unit_test(the_path_from_child_to_parent_is_built),
		cmocka_unit_test(names_that_the_format_cannot_say_are_refused),
		cmocka_unit_test(space_counts_sectors_below_512_and_else_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
