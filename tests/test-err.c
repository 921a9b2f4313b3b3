/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/err.h"

static void a_sentence_is_written_and_the_code_returned(void **state)
{
	struct err err;

	assert_int_equal(err_set(&err, -EIO, "%s: offset %d: it is broken", "a.vhd", 512), -EIO);
	assert_string_equal(err.text, "a.vhd: offset 512: it is broken");
}

static void a_prefix_goes_in_front(void **state)
{
	struct err err;

	err_set(&err, 2, "it is broken");
	assert_int_equal(err_prefix(&err, 2, "%s", "a.vhd"), 2);
	assert_string_equal(err.text, "a.vhd: it is broken");
}

static void no_sentence_wanted_still_gives_the_code(void **state)
{
	assert_int_equal(err_set(NULL, -EINVAL, "%d", 1), -EINVAL);
	assert_int_equal(err_prefix(NULL, 3, "%d", 1), 3);
}

static void a_long_sentence_ends_in_dots(void **state)
{
	struct err err;
	char text[2 * sizeof err.text];

	memset(text, 'x', sizeof text - 1);
	text[sizeof text - 1] = '\0';
	err_set(&err, -EIO, "%s", text);
	assert_int_equal(strlen(err.text), sizeof err.text - 1);
	assert_string_equal(err.text + sizeof err.text - 5, "x...");
	err_prefix(&err, -EIO, "a.vhd");
	assert_memory_equal(err.text, "a.vhd: xxx", 10);
	assert_string_equal(err.text + sizeof err.text - 5, "x...");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_sentence_is_written_and_the_code_returned),
		cmocka_unit_test(a_prefix_goes_in_front),
		cmocka_unit_test(no_sentence_wanted_still_gives_the_code),
		cmocka_unit_test(a_long_sentence_ends_in_dots),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
