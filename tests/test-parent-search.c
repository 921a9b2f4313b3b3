/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "tests/lib/temp-dir.h"
#include "vhd/layer.h"
#include "vhd/parent-search.h"
#include "vhd/vhd.h"

static char *dir, child_path[512], parent_path[512];
static char warned[600];

static int folder_make(void **state)
{
	dir = temp_dir_new("parent-search");
	snprintf(child_path, sizeof(child_path), "%s/c.vhd", dir);
	snprintf(parent_path, sizeof(parent_path), "%s/p.vhd", dir);
	if (vhd_create(parent_path, &(struct vhd_create_options){.size_bytes = 1 << 20}, NULL))
		return -1;
	return vhd_create(child_path, &(struct vhd_create_options){.parent = parent_path}, NULL);
}

static int folder_remove(void **state)
{
	temp_dir_free(dir);
	return 0;
}

static struct layer *child_open(void)
{
	struct layer *layer;
	struct store *store;
	struct err err;

	if (store_file_open(child_path, 0, &store, &err) || layer_open_take(store, child_path, NULL, &layer, &err))
		fail_msg("%s", err.text);
	return layer;
}

static void warning_keep(void *user, uint64_t offset, const char *sentence)
{
	snprintf(warned, sizeof(warned), "%s", sentence);
}

static void the_folder_of_a_path_is_what_is_before_its_last_slash(void **state)
{
	static const char *const cases[][2] = {{"/a/b", "/a"}, {"/a", "/"}, {"a", "."}, {"/a/b/", "/a/b"}};

	for (unsigned i = 0; i < 4; i++) {
		char *folder = path_folder(cases[i][0]);

		assert_string_equal(folder, cases[i][1]);
		free(folder);
	}
}

static void the_relative_locator_comes_first_and_nothing_twice(void **state)
{
	struct parent_candidates found;
	struct layer *child = child_open();
	char expected[600];

	assert_int_equal(parent_candidates_find(child, "/elsewhere", &found, NULL, NULL), 0);
	assert_int_equal(found.count, 2);
	assert_string_equal(found.paths[0], "/elsewhere/p.vhd");
	snprintf(expected, sizeof(expected), "%s/p.vhd", dir);
	assert_string_equal(found.paths[1], expected);
	parent_candidates_done(&found);
	assert_int_equal(parent_candidates_find(child, dir, &found, NULL, NULL), 0);
	assert_int_equal(found.count, 1);
	parent_candidates_done(&found);
	layer_free(child);
}

static void of_the_headers_name_only_the_last_component_is_looked_for(void **state)
{
	static const char *const names[] = {"C:\\disks\\q.vhd", "../../q.vhd", "\\\\host\\share\\q.vhd", "C:q.vhd"};
	struct parent_candidates found;
	struct layer *child = child_open();

	for (unsigned i = 0; i < 4; i++) {
		free(child->parent_name);
		child->parent_name = strdup(names[i]);
		assert_int_equal(parent_candidates_find(child, "/f", &found, NULL, NULL), 0);
		assert_string_equal(found.paths[found.count - 1], "/f/q.vhd");
		parent_candidates_done(&found);
	}
	layer_free(child);
}

static void a_locator_that_cannot_be_read_is_told_and_left_out(void **state)
{
	struct parent_candidates found;
	struct layer *child = child_open();

	child->header.locators[0].offset = child->file_size + 1;
	warned[0] = '\0';
	assert_int_equal(parent_candidates_find(child, "/f", &found, warning_keep, NULL), 0);
	assert_non_null(strstr(warned, "parent locator 1 (W2ru) cannot be used"));
	assert_int_equal(found.count, 2);
	parent_candidates_done(&found);
	layer_free(child);
}

static void a_length_beyond_its_space_is_cut(void **state)
{
	struct parent_candidates found;
	struct layer *child = child_open();

	child->header.locators[0].length = UINT32_MAX;
	assert_int_equal(parent_candidates_find(child, "/f", &found, NULL, NULL), 0);
	assert_true(found.count >= 2);
	parent_candidates_done(&found);
	layer_free(child);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_folder_of_a_path_is_what_is_before_its_last_slash),
		cmocka_unit_test(the_relative_locator_comes_first_and_nothing_twice),
		cmocka_unit_test(of_the_headers_name_only_the_last_component_is_looked_for),
		cmocka_unit_test(a_locator_that_cannot_be_read_is_told_and_left_out),
		cmocka_unit_test(a_length_beyond_its_space_is_cut),
	};

	return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
