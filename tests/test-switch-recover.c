/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is left of a switch to a child that was cut off goes when the leaf is opened for writing, and nothing else. */
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
#include "vhd/lock.h"
#include "vhd/vhd.h"

#define LEFT ".a.vhd.0123456789abcdef"

static char *dir;

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
	struct vhd_create_options options = {.size_bytes = parent ? 0 : 4 << 20, .parent = parent ? in_dir(parent) : NULL};
	struct err err;

	if (vhd_create(in_dir(name), &options, &err))
		fail_msg("%s", err.text);
}

static int folder_make(void **state)
{
	dir = temp_dir_new("switch-recover");
	create("base.vhd", NULL);
	create("a.vhd", "base.vhd");
	return 0;
}

static int folder_remove(void **state)
{
	temp_dir_free(dir);
	return 0;
}

static bool is_there(const char *name)
{
	return access(in_dir(name), F_OK) == 0;
}

static void move(const char *from, const char *to)
{
	assert_int_equal(rename(in_dir(from), in_dir(to)), 0);
}

/* As vhd_switch_child leaves it between the link and the rename: the child names the frozen name. */
static void leave_child(const char *as, bool linked)
{
	assert_int_equal(link(in_dir("a.vhd"), in_dir("frozen.vhd")), 0);
	create("child.vhd", "frozen.vhd");
	move("child.vhd", as);
	if (!linked)
		assert_int_equal(unlink(in_dir("frozen.vhd")), 0);
}

static void note(void *user, const char *sentence)
{
	snprintf(user, 600, "%s", sentence);
}

static int open_close(const char *name, unsigned flags, struct err *err)
{
	static char warning[600];
	struct vhd_open_options options = {.flags = flags, .warn = note, .user = warning};
	struct vhd *vhd;
	int rc = vhd_open(in_dir(name), &options, &vhd, err);

	return rc ? rc : vhd_close(vhd, err);
}

static void expect(const char *name, unsigned flags, int want)
{
	struct err err = {.text = ""};
	int rc = open_close(name, flags, &err);

	if (rc != want)
		fail_msg("%s: %d, not %d: %s", name, rc, want, err.text);
}

static void write_to(const char *name)
{
	struct vhd_open_options options = {.flags = VHD_OPEN_WRITE};
	struct blk_queue *queue;
	struct vhd *vhd;

	assert_int_equal(vhd_open(in_dir(name), &options, &vhd, NULL), 0);
	assert_int_equal(blk_queue_new(vhd_blk(vhd), NULL, &queue, NULL), 0);
	assert_int_equal(blk_pwrite(queue, "x", 1, 0), 0);
	blk_queue_free(queue);
	assert_int_equal(vhd_close(vhd, NULL), 0);
}

static void a_child_and_the_frozen_name_go(void **state)
{
	struct stat st;

	leave_child(LEFT, true);
	expect("a.vhd", 0, 0);
	assert_true(is_there("frozen.vhd"));
	assert_true(is_there(LEFT));
	expect("a.vhd", VHD_OPEN_WRITE, 0);
	assert_false(is_there("frozen.vhd"));
	assert_false(is_there(LEFT));
	assert_int_equal(stat(in_dir("a.vhd"), &st), 0);
	assert_int_equal(st.st_nlink, 1);
	assert_true(is_there("base.vhd"));
}

static void a_child_without_the_frozen_name_goes(void **state)
{
	leave_child(LEFT, false);
	expect("a.vhd", 0, 0);
	assert_true(is_there(LEFT));
	expect("a.vhd", VHD_OPEN_WRITE, 0);
	assert_false(is_there(LEFT));
}

static void several_attempts_go(void **state)
{
	leave_child(".a.vhd.00000000000000aa", false);
	leave_child(".a.vhd.00000000000000bb", false);
	leave_child(LEFT, true);
	expect("a.vhd", VHD_OPEN_WRITE, 0);
	assert_false(is_there(".a.vhd.00000000000000aa"));
	assert_false(is_there(".a.vhd.00000000000000bb"));
	assert_false(is_there(LEFT));
	assert_false(is_there("frozen.vhd"));
}

static void a_very_long_name_is_recovered_too(void **state)
{
	char name[251], left[300];

	memset(name, 'n', 250);
	name[250] = '\0';
	snprintf(left, sizeof(left), ".%.200s.0123456789abcdef", name);
	leave_child(left, true);
	move("a.vhd", name);
	expect(name, VHD_OPEN_WRITE, 0);
	assert_false(is_there(left));
	assert_false(is_there("frozen.vhd"));
}

static void another_name_of_the_leaf_stays(void **state)
{
	leave_child(LEFT, true);
	assert_int_equal(link(in_dir("a.vhd"), in_dir("mine.vhd")), 0);
	expect("a.vhd", VHD_OPEN_WRITE, 0);
	assert_false(is_there("frozen.vhd"));
	assert_true(is_there("mine.vhd"));
}

static void opened_by_the_frozen_name_it_is_refused(void **state)
{
	leave_child(LEFT, true);
	expect("frozen.vhd", VHD_OPEN_WRITE, VHD_E_HAS_CHILDREN);
	assert_true(is_there("frozen.vhd"));
	assert_true(is_there(LEFT));
}

static void a_child_that_holds_data_stays(void **state)
{
	leave_child(LEFT, true);
	write_to(LEFT);
	expect("a.vhd", VHD_OPEN_WRITE, VHD_E_HAS_CHILDREN);
	assert_true(is_there("frozen.vhd"));
	assert_true(is_there(LEFT));
}

static void a_child_in_use_stays(void **state)
{
	int fd;

	leave_child(LEFT, true);
	fd = open(in_dir(LEFT), O_RDWR | O_CLOEXEC);
	assert_int_equal(lock_take(fd, in_dir(LEFT), true, NULL), 0);
	expect("a.vhd", VHD_OPEN_WRITE, VHD_E_HAS_CHILDREN);
	assert_true(is_there("frozen.vhd"));
	assert_true(is_there(LEFT));
	close(fd);
	expect("a.vhd", VHD_OPEN_WRITE, 0);
	assert_false(is_there(LEFT));
}

static void files_under_other_names_stay(void **state)
{
	static const char *const names[] = {
		"a.vhd.0123456789abcdef", ".a.vhd.0123456789abcde", ".a.vhd.0123456789abcdef0", ".a.vhd.0123456789ABCDEF",
		".a.vhdx.0123456789abcdef", ".b.vhd.0123456789abcdef",
	};

	for (unsigned i = 0; i < sizeof(names) / sizeof(*names); i++) {
		leave_child(names[i], false);
		expect("a.vhd", VHD_OPEN_WRITE, VHD_E_HAS_CHILDREN);
		assert_true(is_there(names[i]));
		assert_int_equal(unlink(in_dir(names[i])), 0);
	}
}

static void other_files_under_such_a_name_stay(void **state)
{
	FILE *f;

	create("other.vhd", NULL);
	create("child.vhd", "other.vhd");
	move("child.vhd", LEFT);
	create("dynamic.vhd", NULL);
	move("dynamic.vhd", ".a.vhd.00000000000000aa");
	f = fopen(in_dir(".a.vhd.00000000000000bb"), "w");
	fputs("notes of mine", f);
	fclose(f);
	assert_int_equal(mkdir(in_dir(".a.vhd.00000000000000cc"), 0777), 0);
	assert_int_equal(symlink("nowhere", in_dir(".a.vhd.00000000000000dd")), 0);
	expect("a.vhd", VHD_OPEN_WRITE, 0);
	assert_true(is_there(LEFT));
	assert_true(is_there(".a.vhd.00000000000000aa"));
	assert_true(is_there(".a.vhd.00000000000000bb"));
	assert_true(is_there(".a.vhd.00000000000000cc"));
	assert_int_equal(unlink(in_dir(".a.vhd.00000000000000dd")), 0);
}

/* The frozen name that such a child gives must be one of this very file. */
static void a_frozen_name_of_another_file_stays(void **state)
{
	leave_child(LEFT, false);
	create("frozen.vhd", NULL);
	expect("a.vhd", VHD_OPEN_WRITE, 0);
	assert_true(is_there("frozen.vhd"));
	assert_false(is_there(LEFT));
}

static void after_the_rename_nothing_is_left_over(void **state)
{
	leave_child(LEFT, true);
	move(LEFT, "a.vhd");
	expect("a.vhd", VHD_OPEN_WRITE, 0);
	assert_true(is_there("frozen.vhd"));
	expect("frozen.vhd", VHD_OPEN_WRITE, VHD_E_HAS_CHILDREN);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, folder_make, folder_remove)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(a_child_and_the_frozen_name_go),
		CASE(a_child_without_the_frozen_name_goes),
		CASE(several_attempts_go),
		CASE(a_very_long_name_is_recovered_too),
		CASE(another_name_of_the_leaf_stays),
		CASE(opened_by_the_frozen_name_it_is_refused),
		CASE(a_child_that_holds_data_stays),
		CASE(a_child_in_use_stays),
		CASE(files_under_other_names_stay),
		CASE(other_files_under_such_a_name_stay),
		CASE(a_frozen_name_of_another_file_stays),
		CASE(after_the_rename_nothing_is_left_over),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
