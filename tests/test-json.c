/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/json.h"

struct output {
	char *text;
	size_t length;
	FILE *file;
	struct json json;
};

static void output_begin(struct output *output)
{
	output->file = open_memstream(&output->text, &output->length);
	assert_non_null(output->file);
	output->json = json_to(output->file);
}

static void output_is(struct output *output, const char *want)
{
	fclose(output->file);
	assert_string_equal(output->text, want);
	free(output->text);
}

static void string_becomes(const char *value, const char *want)
{
	struct output output;

	output_begin(&output);
	json_string(&output.json, NULL, value);
	output_is(&output, want);
}

static void members_are_separated_and_nested(void **state)
{
	struct output output;

	(void)state;
	output_begin(&output);
	json_object_begin(&output.json, NULL);
	json_uint(&output.json, "a", UINT64_MAX);
	json_object_begin(&output.json, "o");
	json_bool(&output.json, "yes", true);
	json_bool(&output.json, "no", false);
	json_array_begin(&output.json, "deep");
	json_array_end(&output.json);
	json_object_end(&output.json);
	json_array_begin(&output.json, "list");
	json_uint(&output.json, NULL, 0);
	json_null(&output.json, NULL);
	json_object_begin(&output.json, NULL);
	json_object_end(&output.json);
	json_array_end(&output.json);
	json_double(&output.json, "d", 0.5);
	json_object_end(&output.json);
	output_is(&output, "{\n  \"a\": 18446744073709551615,\n  \"o\": {\"yes\": true, \"no\": false, \"deep\": []},\n"
	                   "  \"list\": [0, null, {}],\n  \"d\": 0.500000\n}\n");
}

static void an_empty_array_is_closed(void **state)
{
	struct output output;

	(void)state;
	output_begin(&output);
	json_array_begin(&output.json, NULL);
	json_array_end(&output.json);
	output_is(&output, "[]\n");
}

static void what_json_reserves_is_escaped(void **state)
{
	(void)state;
	string_becomes("a\"b\\c/d", "\"a\\\"b\\\\c/d\"");
	string_becomes("\n\t\r\x01\x7f", "\"\\n\\t\\u000d\\u0001\\u007f\"");
	string_becomes("", "\"\"");
	string_becomes(NULL, "null");
}

static void utf8_passes_and_what_is_not_is_replaced(void **state)
{
	(void)state;
	string_becomes("gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x92\xbe", "\"gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x92\xbe\"");
	string_becomes("\xff" "a", "\"\\ufffda\"");
	string_becomes("\xc3", "\"\\ufffd\"");                             /* cut short */
	string_becomes("\xc0\xaf", "\"\\ufffd\\ufffd\"");                  /* overlong */
	string_becomes("\xed\xa0\x80", "\"\\ufffd\\ufffd\\ufffd\"");       /* a surrogate */
	string_becomes("\xf4\x90\x80\x80", "\"\\ufffd\\ufffd\\ufffd\\ufffd\""); /* over 10FFFF */
}

static void a_number_that_is_none_is_null(void **state)
{
	struct output output;

	(void)state;
	output_begin(&output);
	json_array_begin(&output.json, NULL);
	json_double(&output.json, NULL, NAN);
	json_double(&output.json, NULL, INFINITY);
	json_array_end(&output.json);
	output_is(&output, "[\n  null,\n  null\n]\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(members_are_separated_and_nested),
		cmocka_unit_test(an_empty_array_is_closed),
		cmocka_unit_test(what_json_reserves_is_escaped),
		cmocka_unit_test(utf8_passes_and_what_is_not_is_replaced),
		cmocka_unit_test(a_number_that_is_none_is_null),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
