/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "vhd/defect.h"

struct seen {
	unsigned count;
	enum vhd_severity severity;
	uint64_t offset;
	char code[32], path[32], sentence[600];
};

static void take(void *user, const struct vhd_defect *defect)
{
	struct seen *seen = user;

	seen->count++;
	seen->severity = defect->severity;
	seen->offset = defect->offset;
	strncpy(seen->code, defect->code, sizeof(seen->code) - 1);
	strncpy(seen->path, defect->path, sizeof(seen->path) - 1);
	strncpy(seen->sentence, defect->sentence, sizeof(seen->sentence) - 1);
}

static int report(const struct layer_sink *sink, enum vhd_severity severity, struct err *err)
{
	struct defect_scope scope = {"a.vhd", sink, err};

	return defect_report(&scope, severity, "some-code", VHD_E_CORRUPT, 77, "entry %d is wrong", 5);
}

static void without_a_sink_damage_is_the_error_and_the_rest_is_nothing(void **state)
{
	struct err err = {""};

	assert_int_equal(report(NULL, VHD_NOTE, &err), 0);
	assert_int_equal(report(NULL, VHD_WARNING, &err), 0);
	assert_string_equal(err.text, "");
	assert_int_equal(report(NULL, VHD_DAMAGE, &err), VHD_E_CORRUPT);
	assert_string_equal(err.text, "a.vhd: entry 5 is wrong");
}

static void a_sink_takes_everything_and_the_work_goes_on(void **state)
{
	struct seen seen = {0};
	struct layer_sink sink = {.defect = take, .user = &seen};
	struct err err = {""};

	assert_int_equal(report(&sink, VHD_NOTE, &err), 0);
	assert_int_equal(report(&sink, VHD_DAMAGE, &err), 0);
	assert_int_equal(seen.count, 2);
	assert_int_equal(seen.severity, VHD_DAMAGE);
	assert_int_equal(seen.offset, 77);
	assert_string_equal(seen.code, "some-code");
	assert_string_equal(seen.path, "a.vhd");
	assert_string_equal(seen.sentence, "entry 5 is wrong");
	assert_string_equal(err.text, "");
}

static void a_strict_sink_hears_warnings_but_damage_ends_the_work(void **state)
{
	struct seen seen = {0};
	struct layer_sink sink = {.defect = take, .user = &seen, .strict = true};
	struct err err = {""};

	assert_int_equal(report(&sink, VHD_WARNING, &err), 0);
	assert_int_equal(seen.count, 1);
	assert_int_equal(report(&sink, VHD_DAMAGE, &err), VHD_E_CORRUPT);
	assert_int_equal(seen.count, 1);
	assert_string_equal(err.text, "a.vhd: entry 5 is wrong");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(without_a_sink_damage_is_the_error_and_the_rest_is_nothing),
		cmocka_unit_test(a_sink_takes_everything_and_the_work_goes_on),
		cmocka_unit_test(a_strict_sink_hears_warnings_but_damage_ends_the_work),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
