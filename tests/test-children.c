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

static void set_uuid(const char *name, const uint8_t uuid[16])
{
	struct layer *layer = open_one(name, STORE_WRITE, false);
	struct relink_tail tail = relink_tail_of(layer);

	assert_int_equal(layer_set_uuid(layer, &tail, uuid, NULL), 0);
	layer_free(layer);
}

static int open_for_writing(const char *name, unsigned flags, struct err *err)
{
	struct vhd_open_options options = {.flags = VHD_OPEN_WRITE | flags};
	struct vhd *vhd;
	int rc = vhd_open(in_dir(name), &options, &vhd, err);

	return rc ? rc : vhd_close(vhd, err);
}

static void a_disk_with_children_is_not_opened_for_writing(void **state)
{
	struct err err = {.text = ""};
	char name[16];

	create("base.vhd", NULL, false);
	assert_int_equal(open_for_writing("base.vhd", 0, &err), 0);
	create("a.vhd", "base.vhd", false);
	assert_int_equal(open_for_writing("base.vhd", 0, &err), VHD_E_HAS_CHILDREN);
	assert_non_null(strstr(err.text, "(a.vhd)"));
	assert_int_equal(open_for_writing("base.vhd", VHD_OPEN_DESPITE_CHILDREN, &err), 0);
	assert_int_equal(open_for_writing("a.vhd", 0, &err), 0);
	for (unsigned i = 0; i < 4; i++) {
		snprintf(name, sizeof(name), "%u.vhd", i);
		create(name, "base.vhd", false);
	}
	assert_int_equal(open_for_writing("base.vhd", 0, &err), VHD_E_HAS_CHILDREN);
	assert_non_null(strstr(err.text, "and 2 more"));
}

/* Every moment of its end leaves that: the merged child is there, its parent has its identity. */
static void a_child_that_was_merged_is_found_until_it_is_gone(void **state)
{
	struct err err = {.text = ""};
	struct children found;
	struct layer *layer, *child;

	create("base.vhd", NULL, false);
	create("copy.vhd", NULL, false);
	create("a.vhd", "base.vhd", false);
	child = open_one("a.vhd", 0, false);
	set_uuid("base.vhd", child->footer.uuid);
	set_uuid("copy.vhd", child->footer.uuid);
	layer_free(child);
	count_children("base.vhd", false, "a.vhd");
	assert_int_equal(count_children("copy.vhd", false, NULL), 0);
	layer = open_one("base.vhd", 0, false);
	assert_int_equal(children_find(layer, in_dir("base.vhd"), &found, NULL), 0);
	assert_true(found.merged[0]);
	children_done(&found);
	layer_free(layer);
	assert_int_equal(open_for_writing("base.vhd", 0, &err), VHD_E_HAS_CHILDREN);
	assert_non_null(strstr(err.text, "vhd merge"));
	assert_non_null(strstr(err.text, "a.vhd"));
	assert_int_equal(unlink(in_dir("a.vhd")), 0);
	assert_int_equal(open_for_writing("base.vhd", 0, &err), 0);
}

/* While a merge ends, two files have the same Unique Id; the merged one can be opened to finish it. */
static void a_child_stands_on_the_file_that_its_locators_lead_to(void **state)
{
	struct err err = {.text = ""};
	struct layer *layer;
	struct relink_tail tail;

	create("base.vhd", NULL, false);
	create("a.vhd", "base.vhd", false);
	create("b.vhd", "a.vhd", false);
	layer = open_one("a.vhd", 0, false);
	set_uuid("base.vhd", layer->footer.uuid);
	layer_free(layer);
	count_children("a.vhd", false, "b.vhd");
	count_children("base.vhd", false, "a.vhd");
	layer = open_one("b.vhd", STORE_WRITE, false);
	tail = relink_tail_of(layer);
	assert_int_equal(layer_set_parent(layer, &tail, in_dir("base.vhd"), layer->header.parent_uuid, 0, NULL), 0);
	layer_free(layer);
	assert_int_equal(count_children("a.vhd", false, NULL), 0);
	assert_int_equal(count_children("base.vhd", false, NULL), 2);
	assert_int_equal(open_for_writing("a.vhd", 0, &err), 0);
	/* Out of date, they lead nowhere: the Unique Id decides. */
	assert_int_equal(rename(in_dir("base.vhd"), in_dir("c.vhd")), 0);
	assert_int_equal(unlink(in_dir("a.vhd")), 0);
	count_children("c.vhd", false, "b.vhd");
}

static int merge(const char *name, unsigned layer, bool force, struct err *err)
{
	struct vhd_open_options options = {.flags = VHD_OPEN_WRITE};
	struct vhd_merge_options merge = {.layer = layer, .force = force};
	struct vhd *vhd;
	int rc;

	assert_int_equal(vhd_open(in_dir(name), &options, &vhd, err), 0);
	rc = vhd_merge(vhd, &merge, NULL, err);
	assert_int_equal(vhd_close(vhd, NULL), 0);
	return rc;
}

static void merging_is_refused_while_others_stand_on_what_changes(void **state)
{
	struct err err = {.text = ""};

	create("base.vhd", NULL, false);
	create("a.vhd", "base.vhd", false);
	create("b.vhd", "a.vhd", false);
	create("sibling.vhd", "base.vhd", false);
	assert_int_equal(merge("b.vhd", 1, false, &err), VHD_E_HAS_CHILDREN);
	assert_non_null(strstr(err.text, "(sibling.vhd)"));
	assert_int_equal(merge("sibling.vhd", 0, false, &err), VHD_E_HAS_CHILDREN);
	assert_non_null(strstr(err.text, "(a.vhd)"));
	assert_int_equal(unlink(in_dir("sibling.vhd")), 0);
	create("niece.vhd", "a.vhd", false);
	assert_int_equal(merge("b.vhd", 1, false, &err), VHD_E_HAS_CHILDREN);
	assert_non_null(strstr(err.text, "(niece.vhd)"));
	assert_int_equal(merge("b.vhd", 1, true, &err), 0);
	assert_int_equal(access(in_dir("a.vhd"), F_OK), -1);
	assert_int_equal(unlink(in_dir("niece.vhd")), 0);
	assert_int_equal(merge("b.vhd", 0, false, &err), 0);
	assert_int_equal(access(in_dir("b.vhd"), F_OK), -1);
}

static void note_warning(void *user, const char *sentence)
{
	snprintf(user, 600, "%s", sentence);
}

static void a_parent_that_the_child_was_merged_into_is_its_parent(void **state)
{
	char warning[600] = "";
	struct vhd_open_options options = {.warn = note_warning, .user = warning};
	struct layer *child;
	struct chain chain;

	create("base.vhd", NULL, false);
	create("other.vhd", NULL, false);
	create("a.vhd", "base.vhd", false);
	create("b.vhd", "other.vhd", false);
	child = open_one("a.vhd", 0, false);
	set_uuid("base.vhd", child->footer.uuid);
	assert_int_equal(chain_open(in_dir("a.vhd"), &options, NULL, &chain, NULL), 0);
	assert_int_equal(chain.count, 2);
	chain_done(&chain);
	assert_non_null(strstr(warning, "merge"));

	/* Anybody else's identity is wrong as ever. */
	set_uuid("other.vhd", child->footer.uuid);
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
		cmocka_unit_test_setup_teardown(a_disk_with_children_is_not_opened_for_writing, folder_make, folder_remove),
		cmocka_unit_test_setup_teardown(a_child_that_was_merged_is_found_until_it_is_gone, folder_make, folder_remove),
		cmocka_unit_test_setup_teardown(a_child_stands_on_the_file_that_its_locators_lead_to, folder_make, folder_remove),
		cmocka_unit_test_setup_teardown(merging_is_refused_while_others_stand_on_what_changes, folder_make,
		                                folder_remove),
		cmocka_unit_test_setup_teardown(a_parent_that_the_child_was_merged_into_is_its_parent, folder_make,
		                                folder_remove),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
