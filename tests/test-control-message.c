/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "vhd/control-message.h"

static char wire[CONTROL_REPLY_MAX];

static void request_comes_back(const struct upkeep_request *request, bool detach)
{
	struct control_text text = control_text_in(wire, CONTROL_REQUEST_MAX);
	struct upkeep_request got;
	struct control_line line;
	bool got_detach;
	struct err err;

	assert_int_equal(control_request_write(request, detach, &text), 0);
	assert_int_equal(control_line_parse(wire, text.used - 1, &line), 0);
	assert_int_equal(control_request_read(&line, &got, &got_detach, &err), 0);
	assert_int_equal(got_detach, detach);
	assert_int_equal(got.verb, request->verb);
	assert_true(got.file.dev == request->file.dev && got.file.ino == request->file.ino);
	assert_true(got.into.dev == request->into.dev && got.into.ino == request->into.ino);
	assert_int_equal(got.force, request->force);
	assert_int_equal(got.keep, request->keep);
	assert_int_equal(got.rename, request->rename);
	assert_string_equal(got.name, request->name);
	assert_int_equal(got.how, request->how);
	assert_true(got.bytes == request->bytes && got.rate == request->rate);
	assert_int_equal(got.keep_zeros, request->keep_zeros);
}

static void requests_come_back_as_they_went(void **state)
{
	struct upkeep_file file = {UINT64_MAX, UINT64_MAX - 1};

	(void)state;
	request_comes_back(&(struct upkeep_request){.verb = UPKEEP_MERGE, .file = {1, 2}}, false);
	request_comes_back(&(struct upkeep_request){.verb = UPKEEP_MERGE, .file = file, .into = {0, 7}, .force = true,
	                                            .keep = true, .rename = true, .rate = UINT64_MAX}, true);
	request_comes_back(&(struct upkeep_request){.verb = UPKEEP_SNAPSHOT, .file = file, .name = "a b%=\n\xff.vhd"}, false);
	for (int how = UPKEEP_SIZE_SET; how <= UPKEEP_SIZE_SHRINK; how++)
		request_comes_back(&(struct upkeep_request){.verb = UPKEEP_RESIZE, .file = file, .how = (enum upkeep_size)how,
		                                            .bytes = UINT64_C(1) << 40, .force = how == 1}, false);
	request_comes_back(&(struct upkeep_request){.verb = UPKEEP_COMPACT, .file = file, .keep_zeros = true, .rate = 5}, true);
}

static void the_longest_name_fits(void **state)
{
	struct upkeep_request request = {.verb = UPKEEP_SNAPSHOT, .file = {1, 2}};

	(void)state;
	memset(request.name, 0xff, NAME_MAX);
	request_comes_back(&request, false);
}

static int reads(const char *text, struct upkeep_request *ret)
{
	struct control_line line;
	struct err err;
	bool detach;

	strcpy(wire, text);
	assert_int_equal(control_line_parse(wire, strlen(text), &line), 0);
	return control_request_read(&line, ret, &detach, &err);
}

static void wrong_requests_are_refused(void **state)
{
	static const char *const wrong[] = {
	        "merge", "merge file=", "merge file=1", "merge file=1:", "merge file=1:2,", "merge file=-1:2",
	        "merge file=%201:2", "merge file=11111111111111111:2", "merge file=1:2 into=x", "merge file=1:2 force=2",
	        "merge file=1:2 rate=fast", "merge file=1:2 name=x", "merge file=1:2 later=1", "snapshot file=1:2",
	        "resize file=1:2", "resize file=1:2 size=1 grow=1", "resize file=1:2 size=-1", "compact file=1:2 size=1",
	        "compact file=1:2 detach=yes",
	};
	struct upkeep_request request;
	char name[NAME_MAX + 60] = "snapshot file=1:2 name=";

	(void)state;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		if (reads(wrong[i], &request) != -EINVAL)
			fail_msg("'%s' is taken", wrong[i]);
	memset(name + strlen(name), 'x', NAME_MAX + 1);
	assert_int_equal(reads(name, &request), -EINVAL);
	assert_int_equal(reads("format file=1:2", &request), -ENOSYS);
}

static void result_comes_back(enum upkeep_verb verb, const struct upkeep_result *result)
{
	struct control_text text = control_text_in(wire, sizeof(wire));
	struct upkeep_result got;
	struct control_line line;

	control_text_begin(&text, "result");
	control_result_words(&text, verb, result);
	assert_int_equal(control_text_end(&text), 0);
	assert_int_equal(control_line_parse(wire, text.used - 1, &line), 0);
	assert_int_equal(control_result_read(&line, verb, &got), 0);
	assert_null(control_line_unread(&line));
	assert_memory_equal(&got, result, sizeof(got));
}

static void results_come_back_as_they_went(void **state)
{
	static struct upkeep_result result;

	(void)state;
	result.merge = (struct vhd_merge_result){.merged_bytes = UINT64_MAX, .written_bytes = 1};
	result.merged_layers = UINT32_MAX;
	result.relinked = 3;
	result.removed = true;
	strcpy(result.path, "/a folder/b=c%\xc3\xa9.vhd");
	result_comes_back(UPKEEP_MERGE, &result);
	memset(&result, 0, sizeof(result));
	for (unsigned i = 0; i < 16; i++) {
		result.uuid[i] = (uint8_t)(255 - i);
		result.leaf_uuid[i] = (uint8_t)i;
	}
	strcpy(result.path, "/frozen.vhd");
	result_comes_back(UPKEEP_SNAPSHOT, &result);
	memset(&result, 0, sizeof(result));
	result.old_size_bytes = 1;
	result.size_bytes = 2;
	result.resize.cut_bytes = 3;
	result_comes_back(UPKEEP_RESIZE, &result);
	memset(&result, 0, sizeof(result));
	result.compact = (struct vhd_compact_result){1, 2, 3, 4, 5, 6};
	result_comes_back(UPKEEP_COMPACT, &result);
}

static void codes_come_back_as_they_went(void **state)
{
	char text[CONTROL_CODE_MAX];

	(void)state;
	for (int code = VHD_E_NOT_VHD; code <= VHD_E_UNKNOWN_BASE; code++)
		assert_int_equal(control_code_read(control_code_text(code, text)), code);
	for (int code = 1; code < 200; code++)
		assert_int_equal(control_code_read(control_code_text(-code, text)), -code);
	assert_string_equal(control_code_text(VHD_E_WOULD_LOSE, text), "would-lose");
	assert_string_equal(control_code_text(-EIO, text), "errno-5");
	assert_int_equal(control_code_read("errno-"), -EPROTO);
	assert_int_equal(control_code_read("errno-0"), -EPROTO);
	assert_int_equal(control_code_read("errno-5x"), -EPROTO);
	assert_int_equal(control_code_read("errno--5"), -EPROTO);
	assert_int_equal(control_code_read("nonsense"), -EPROTO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(requests_come_back_as_they_went),
	        cmocka_unit_test(the_longest_name_fits),
	        cmocka_unit_test(wrong_requests_are_refused),
	        cmocka_unit_test(results_come_back_as_they_went),
	        cmocka_unit_test(codes_come_back_as_they_went),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
