/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/lib/temp-dir.h"
#include "vhd/chain.h"
#include "vhd/folders.h"
#include "vhd/parent-search.h"

static char *dir;
static char warning[600];

static int folder_make(void **state)
{
	char name[512];

	dir = temp_dir_new("chain");
	snprintf(name, sizeof(name), "%s/sub", dir);
	warning[0] = '\0';
	return mkdir(name, 0777);
}

static int folder_remove(void **state)
{
	temp_dir_free(dir);
	return 0;
}

/* One of a few names at a time. */
static const char *in_dir(const char *name)
{
	static char names[8][512];
	static unsigned next;
	char *ret = names[next++ % 8];

	snprintf(ret, sizeof(names[0]), "%s/%s", dir, name);
	return ret;
}

static void create(const char *name, const char *parent)
{
	static const time_t then = VHD_EPOCH + 1000; /* so that time stamps differ from modification times */
	struct vhd_create_options options = {
		.size_bytes = parent ? 0 : 1 << 20, .parent = parent ? in_dir(parent) : NULL, .created = &then,
	};

	assert_int_equal(vhd_create(in_dir(name), &options, NULL), 0);
}

static void note_warning(void *user, const char *sentence)
{
	snprintf(warning, sizeof(warning), "%s", sentence);
}

static int open_chain(const char *name, const struct vhd_open_options *options, unsigned expect_layers, struct err *err)
{
	struct vhd_open_options with_warn = options ? *options : (struct vhd_open_options){0};
	struct chain chain;
	int r;

	with_warn.warn = note_warning;
	r = chain_open(in_dir(name), &with_warn, NULL, &chain, err);
	if (r == 0) {
		assert_int_equal(chain.count, expect_layers);
		chain_done(&chain);
	}
	return r;
}

static void parents_are_found_beside_and_below_the_child(void **state)
{
	struct chain chain;

	create("sub/base.vhd", NULL);
	create("mid.vhd", "sub/base.vhd");
	create("leaf.vhd", "mid.vhd");
	assert_int_equal(chain_open(in_dir("leaf.vhd"), NULL, NULL, &chain, NULL), 0);
	assert_int_equal(chain.count, 3);
	assert_string_equal(chain.layers[0]->parent_path, in_dir("mid.vhd"));
	assert_string_equal(chain.layers[1]->parent_path, in_dir("sub/base.vhd"));
	chain_done(&chain);
	assert_string_equal(warning, "");
}

static void a_chain_that_moved_as_a_whole_is_found_by_relative_paths(void **state)
{
	struct err err;

	create("sub/base.vhd", NULL);
	create("sub/leaf.vhd", "sub/base.vhd");
	assert_int_equal(rename(in_dir("sub"), in_dir("moved")), 0);
	assert_int_equal(open_chain("moved/leaf.vhd", NULL, 2, &err), 0);
}

static void a_parent_outside_the_allowed_folders_is_denied_until_allowed(void **state)
{
	const char *const allow[] = {dir, NULL};
	struct err err;

	create("base.vhd", NULL);
	create("sub/leaf.vhd", "base.vhd");
	assert_int_equal(open_chain("sub/leaf.vhd", NULL, 2, &err), VHD_E_PARENT_DENIED);
	assert_non_null(strstr(err.text, "--allow-dir"));
	assert_int_equal(open_chain("sub/leaf.vhd", &(struct vhd_open_options){.allow_dirs = allow}, 2, &err), 0);
	assert_int_equal(open_chain("sub/leaf.vhd", &(struct vhd_open_options){.parent = in_dir("base.vhd")}, 2, &err), 0);
}

static void a_symlink_does_not_lead_out_of_the_allowed_folders(void **state)
{
	struct err err;

	create("sub/base.vhd", NULL);
	create("sub/leaf.vhd", "sub/base.vhd");
	assert_int_equal(rename(in_dir("sub/base.vhd"), in_dir("base.vhd")), 0);
	assert_int_equal(symlink("../base.vhd", in_dir("sub/base.vhd")), 0);
	assert_int_equal(open_chain("sub/leaf.vhd", NULL, 2, &err), VHD_E_PARENT_DENIED);
}

static void a_parent_that_is_no_file_is_not_opened(void **state)
{
	struct err err;

	create("base.vhd", NULL);
	create("leaf.vhd", "base.vhd");
	assert_int_equal(unlink(in_dir("base.vhd")), 0);
	assert_int_equal(mkfifo(in_dir("base.vhd"), 0666), 0);
	assert_int_equal(open_chain("leaf.vhd", NULL, 2, &err), -EINVAL);
	assert_non_null(strstr(err.text, "neither a regular file"));
}

static void a_missing_parent_is_told_with_where_it_was_looked_for(void **state)
{
	struct err err;

	create("base.vhd", NULL);
	create("leaf.vhd", "base.vhd");
	assert_int_equal(unlink(in_dir("base.vhd")), 0);
	assert_int_equal(open_chain("leaf.vhd", NULL, 2, &err), VHD_E_PARENT_MISSING);
	assert_non_null(strstr(err.text, in_dir("base.vhd")));
	assert_non_null(strstr(err.text, "--parent FILE"));
	assert_int_equal(open_chain("leaf.vhd", &(struct vhd_open_options){.flags = VHD_OPEN_NO_PARENTS}, 1, &err), 0);
}

static void another_disk_in_the_parents_place_is_refused(void **state)
{
	struct err err;

	create("base.vhd", NULL);
	create("other.vhd", NULL);
	create("leaf.vhd", "base.vhd");
	assert_int_equal(rename(in_dir("other.vhd"), in_dir("base.vhd")), 0);
	assert_int_equal(open_chain("leaf.vhd", NULL, 2, &err), VHD_E_PARENT_MISMATCH);
	assert_non_null(strstr(err.text, "Unique Id"));
}

static void a_changed_parent_is_a_warning(void **state)
{
	struct timespec times[2] = {{.tv_sec = 1700000000}, {.tv_sec = 1700000000}};
	struct err err;

	create("base.vhd", NULL);
	create("leaf.vhd", "base.vhd");
	assert_int_equal(utimensat(AT_FDCWD, in_dir("base.vhd"), times, 0), 0);
	assert_int_equal(open_chain("leaf.vhd", NULL, 2, &err), 0);
	assert_non_null(strstr(warning, "modification time"));
}

static void a_raw_parent_is_opened_as_such(void **state)
{
	struct vhd_create_options options = {.parent = in_dir("base.raw"), .parent_raw = true};
	struct chain chain;
	FILE *f = fopen(in_dir("base.raw"), "w");

	assert_non_null(f);
	assert_int_equal(ftruncate(fileno(f), 1 << 20), 0);
	fclose(f);
	assert_int_equal(vhd_create(in_dir("leaf.vhd"), &options, NULL), 0);
	assert_int_equal(chain_open(in_dir("leaf.vhd"), NULL, NULL, &chain, NULL), 0);
	assert_int_equal(chain.count, 2);
	assert_true(chain.layers[1]->raw);
	assert_int_equal(chain.layers[0]->size, 1 << 20);
	chain_done(&chain);
}

static void a_chain_of_256_opens_and_a_deeper_one_is_refused(void **state)
{
	char name[32], parent[32];
	struct chain chain;
	uint8_t uuid[16];
	struct err err;

	create("0.vhd", NULL);
	for (unsigned i = 1; i < VHD_MAX_LAYERS; i++) {
		snprintf(name, sizeof(name), "%u.vhd", i);
		snprintf(parent, sizeof(parent), "%u.vhd", i - 1);
		create(name, parent);
	}
	assert_int_equal(open_chain("255.vhd", NULL, VHD_MAX_LAYERS, &err), 0);
	assert_int_equal(vhd_create(in_dir("256.vhd"),
	                            &(struct vhd_create_options){.parent = in_dir("255.vhd")}, &err), VHD_E_CHAIN);

	/* The base becomes a child behind the others' back. */
	assert_int_equal(chain_open(in_dir("0.vhd"), NULL, NULL, &chain, NULL), 0);
	memcpy(uuid, chain.layers[0]->footer.uuid, sizeof(uuid));
	chain_done(&chain);
	create("a.vhd", NULL);
	assert_int_equal(vhd_create(in_dir("0.vhd"), &(struct vhd_create_options){
		.parent = in_dir("a.vhd"), .uuid = uuid, .overwrite = true}, NULL), 0);
	assert_int_equal(open_chain("254.vhd", NULL, VHD_MAX_LAYERS, &err), 0);
	assert_int_equal(open_chain("255.vhd", NULL, 0, &err), VHD_E_CHAIN);
	assert_non_null(strstr(err.text, "256"));
}

static void a_cycle_is_refused(void **state)
{
	struct vhd_info info;
	struct chain chain;
	struct err err;
	uint8_t uuid[16];

	create("a.vhd", NULL);
	create("b.vhd", "a.vhd");
	assert_int_equal(chain_open(in_dir("a.vhd"), NULL, NULL, &chain, NULL), 0);
	layer_info(chain.layers[0], &info);
	memcpy(uuid, info.uuid, sizeof(uuid));
	chain_done(&chain);
	/* a.vhd made anew, as a child of its own child, under its old Unique Id. */
	create("c.vhd", "b.vhd");
	assert_int_equal(vhd_create(in_dir("a2.vhd"), &(struct vhd_create_options){
		.parent = in_dir("b.vhd"), .uuid = uuid}, NULL), 0);
	assert_int_equal(rename(in_dir("a2.vhd"), in_dir("a.vhd")), 0);
	assert_int_equal(open_chain("b.vhd", NULL, 2, &err), VHD_E_CHAIN);
	assert_non_null(strstr(err.text, "cycle"));
}

static void a_disk_without_parent_refuses_the_option(void **state)
{
	struct err err;

	create("a.vhd", NULL);
	create("b.vhd", NULL);
	assert_int_equal(open_chain("a.vhd", &(struct vhd_open_options){.parent = in_dir("b.vhd")}, 1, &err), -EINVAL);
}

static void collect_code(void *user, const struct vhd_defect *defect)
{
	snprintf(user, 64, "%s", defect->code);
}

static void a_parent_that_cannot_be_had_ends_a_collecting_chain(void **state)
{
	char code[64] = "";
	const struct layer_sink sink = {.defect = collect_code, .user = code};
	struct chain chain;

	create("base.vhd", NULL);
	create("leaf.vhd", "base.vhd");
	assert_int_equal(unlink(in_dir("base.vhd")), 0);
	assert_int_equal(chain_open(in_dir("leaf.vhd"), NULL, &sink, &chain, NULL), 0);
	assert_int_equal(chain.count, 1);
	assert_string_equal(code, "parent-missing");
	chain_done(&chain);
}

static void folders_hold_what_is_below_them_and_not_their_namesakes(void **state)
{
	struct folders folders = {.count = 1, .paths = (char *[]){(char *)"/a/b"}};

	assert_true(folders_hold(&folders, "/a/b/c"));
	assert_true(folders_hold(&folders, "/a/b/c/d"));
	assert_false(folders_hold(&folders, "/a/bc/d"));
	assert_false(folders_hold(&folders, "/a/b"));
	assert_false(folders_hold(&folders, "/a"));
	folders.paths = (char *[]){(char *)"/"};
	assert_true(folders_hold(&folders, "/x"));
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, folder_make, folder_remove)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(parents_are_found_beside_and_below_the_child),
		CASE(a_chain_that_moved_as_a_whole_is_found_by_relative_paths),
		CASE(a_parent_outside_the_allowed_folders_is_denied_until_allowed),
		CASE(a_symlink_does_not_lead_out_of_the_allowed_folders),
		CASE(a_parent_that_is_no_file_is_not_opened),
		CASE(a_missing_parent_is_told_with_where_it_was_looked_for),
		CASE(another_disk_in_the_parents_place_is_refused),
		CASE(a_changed_parent_is_a_warning),
		CASE(a_raw_parent_is_opened_as_such),
		CASE(a_chain_of_256_opens_and_a_deeper_one_is_refused),
		CASE(a_cycle_is_refused),
		CASE(a_disk_without_parent_refuses_the_option),
		CASE(a_parent_that_cannot_be_had_ends_a_collecting_chain),
		cmocka_unit_test(folders_hold_what_is_below_them_and_not_their_namesakes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
