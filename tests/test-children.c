/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/lib/temp-dir.h"
#include "vhd/chain.h"
#include "vhd/children.h"
#include "vhd/relink.h"

static char *dir;

static int folder_make(void **state)
{
	dir = temp_dir_new("children");
	return 0;
}

static int folder_remove(void **state)
{
	temp_dir_free(dir);
	return 0;
}

static const char *in_dir(const char *name)
{
	static char names[8][512];
	static unsigned next;
	char *ret = names[next++ % 8];

	snprintf(ret, sizeof(names[0]), "%s/%s", dir, name);
	return ret;
}

static void create(const char *name, const char *parent, bool raw)
{
	struct vhd_create_options options = {
		.size_bytes = parent ? 0 : 1 << 20, .parent = parent ? in_dir(parent) : NULL, .parent_raw = raw,
	};

	assert_int_equal(vhd_create(in_dir(name), &options, NULL), 0);
}

static struct layer *open_one(const char *name, unsigned flags, bool raw)
{
	struct layer *layer;
	struct store *store;

	assert_int_equal(store_file_open(in_dir(name), flags, &store, NULL), 0);
	assert_int_equal(raw ? layer_open_raw_take(store, in_dir(name), &layer, NULL)
	                     : layer_open_take(store, in_dir(name), NULL, &layer, NULL), 0);
	return layer;
}

/* How many stand on it; `only` (NULL allowed) is the name of the one. */
static unsigned count_children(const char *name, bool raw, const char *only)
{
	struct layer *layer = open_one(name, 0, raw);
	struct children found;
	struct err err;
	unsigned count;

	assert_int_equal(children_find(layer, in_dir(name), &found, &err), 0);
	count = found.count;
	if (only) {
		assert_int_equal(count, 1);
		assert_string_equal(found.paths[0], in_dir(only));
	}
	children_done(&found);
	layer_free(layer);
	return count;
}

static void children_are_found_among_other_files(void **state)
{
	FILE *f;

	create("base.vhd", NULL, false);
	create("other.vhd", NULL, false);
	create("a.vhd", "base.vhd", false);
	create("b.vhd", "a.vhd", false);
	create("stranger.vhd", "other.vhd", false);
	assert_int_equal(mkfifo(in_dir("fifo.vhd"), 0666), 0);
	assert_int_equal(symlink("a.vhd", in_dir("symlink.vhd")), 0);
	assert_int_equal(symlink("nowhere", in_dir("nowhere.vhd")), 0);
	f = fopen(in_dir("short.vhd"), "w");
	fputs("conectix", f);
	fclose(f);
	assert_int_equal(chmod(in_dir("short.vhd"), 0), 0);
	count_children("base.vhd", false, "a.vhd");
	count_children("a.vhd", false, "b.vhd");
	assert_int_equal(count_children("b.vhd", false, NULL), 0);
	create("c.vhd", "base.vhd", false);
	assert_int_equal(count_children("base.vhd", false, NULL), 2);
}

static void a_child_that_lost_its_footer_is_found_by_the_copy(void **state)
{
	struct stat st;

	create("base.vhd", NULL, false);
	create("a.vhd", "base.vhd", false);
	assert_int_equal(stat(in_dir("a.vhd"), &st), 0);
	assert_int_equal(truncate(in_dir("a.vhd"), st.st_size - 512), 0);
	count_children("base.vhd", false, "a.vhd");
	assert_int_equal(truncate(in_dir("a.vhd"), 700), 0);
	assert_int_equal(count_children("base.vhd", false, NULL), 0);
}

static void the_image_itself_under_another_name_is_no_child(void **state)
{
	create("base.vhd", NULL, false);
	create("a.vhd", "base.vhd", false);
	assert_int_equal(link(in_dir("a.vhd"), in_dir("second-name.vhd")), 0);
	assert_int_equal(count_children("a.vhd", false, NULL), 0);
	assert_int_equal(count_children("base.vhd", false, NULL), 2);
}

static void children_of_a_raw_disk_are_those_whose_locators_lead_there(void **state)
{
	static const char *const names[] = {"one.raw", "two.raw"};

	for (unsigned i = 0; i < 2; i++) {
		int fd = open(in_dir(names[i]), O_RDWR | O_CREAT | O_CLOEXEC, 0666);

		assert_int_equal(ftruncate(fd, 1 << 20), 0);
		close(fd);
	}
	create("a.vhd", "one.raw", true);
	count_children("one.raw", true, "a.vhd");
	assert_int_equal(count_children("two.raw", true, NULL), 0);
}

static void note_warning(void *user, const char *sentence)
{
	snprintf(user, 600, "%s", sentence);
}

static void a_parent_that_the_child_was_merged_into_is_its_parent(void **state)
{
	char warning[600] = "";
	struct vhd_open_options options = {.warn = note_warning, .user = warning};
	struct relink_tail tail;
	struct layer *layer, *child;
	struct chain chain;

	create("base.vhd", NULL, false);
	create("other.vhd", NULL, false);
	create("a.vhd", "base.vhd", false);
	create("b.vhd", "other.vhd", false);
	child = open_one("a.vhd", 0, false);
	layer = open_one("base.vhd", STORE_WRITE, false);
	tail = relink_tail_of(layer);
	assert_int_equal(layer_set_uuid(layer, &tail, child->footer.uuid, NULL), 0);
	layer_free(layer);
	assert_int_equal(chain_open(in_dir("a.vhd"), &options, NULL, &chain, NULL), 0);
	assert_int_equal(chain.count, 2);
	chain_done(&chain);
	assert_non_null(strstr(warning, "merge"));

	/* Anybody else's identity is wrong as ever. */
	layer = open_one("other.vhd", STORE_WRITE, false);
	tail = relink_tail_of(layer);
	assert_int_equal(layer_set_uuid(layer, &tail, child->footer.uuid, NULL), 0);
	layer_free(layer);
	layer_free(child);
	assert_int_equal(chain_open(in_dir("b.vhd"), &options, NULL, &chain, NULL), VHD_E_PARENT_MISMATCH);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(children_are_found_among_other_files, folder_make, folder_remove),
		cmocka_unit_test_setup_teardown(a_child_that_lost_its_footer_is_found_by_the_copy, folder_make, folder_remove),
		cmocka_unit_test_setup_teardown(the_image_itself_under_another_name_is_no_child, folder_make, folder_remove),
		cmocka_unit_test_setup_teardown(children_of_a_raw_disk_are_those_whose_locators_lead_there, folder_make,
		                                folder_remove),
		cmocka_unit_test_setup_teardown(a_parent_that_the_child_was_merged_into_is_its_parent, folder_make,
		                                folder_remove),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
