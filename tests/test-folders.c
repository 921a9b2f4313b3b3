/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/lib/temp-dir.h"
#include "vhd/folders.h"

static char *dir, name[512];

static int folder_make(void **state)
{
	dir = temp_dir_new("folders");
	return 0;
}

static int folder_remove(void **state)
{
	temp_dir_free(dir);
	return 0;
}

static const char *in_dir(const char *what)
{
	snprintf(name, sizeof(name), "%s/%s", dir, what);
	return name;
}

static void the_leafs_folder_holds_what_is_in_it_at_any_depth(void **state)
{
	struct folders folders;

	assert_int_equal(folders_init(&folders, "/a/b", NULL, NULL, NULL), 0);
	assert_true(folders_hold(&folders, "/a/b/c.vhd"));
	assert_true(folders_hold(&folders, "/a/b/c/d/e.vhd"));
	assert_false(folders_hold(&folders, "/a/c.vhd"));
	assert_false(folders_hold(&folders, "/c.vhd"));
	folders_done(&folders);
}

static void a_name_that_only_begins_like_the_folders_is_outside(void **state)
{
	struct folders folders;

	assert_int_equal(folders_init(&folders, "/a/b", NULL, NULL, NULL), 0);
	assert_false(folders_hold(&folders, "/a/bc/d.vhd"));
	assert_false(folders_hold(&folders, "/a/b.vhd"));
	folders_done(&folders);
}

static void the_root_holds_everything(void **state)
{
	struct folders folders;

	assert_int_equal(folders_init(&folders, "/", NULL, NULL, NULL), 0);
	assert_true(folders_hold(&folders, "/a.vhd"));
	assert_true(folders_hold(&folders, "/a/b.vhd"));
	folders_done(&folders);
}

static void the_folder_of_a_named_parent_is_allowed_too(void **state)
{
	struct folders folders;
	char inside[600];
	int fd = open(in_dir("p.vhd"), O_CREAT | O_RDWR | O_CLOEXEC, 0666);

	assert_true(fd >= 0);
	close(fd);
	snprintf(inside, sizeof(inside), "%s/other.vhd", dir);
	assert_int_equal(folders_init(&folders, "/nowhere", name, NULL, NULL), 0);
	assert_true(folders_hold(&folders, inside));
	folders_done(&folders);
	assert_int_equal(folders_init(&folders, "/nowhere", in_dir("missing"), NULL, NULL), 0);
	assert_false(folders_hold(&folders, inside));
	folders_done(&folders);
}

static void symlinks_in_an_allowed_folders_name_are_resolved(void **state)
{
	struct folders folders;
	char inside[600], link[600];
	const char *more[] = {link, NULL};

	snprintf(inside, sizeof(inside), "%s/real/a.vhd", dir);
	snprintf(link, sizeof(link), "%s/link", dir);
	assert_int_equal(mkdir(in_dir("real"), 0777), 0);
	assert_int_equal(symlink("real", link), 0);
	assert_int_equal(folders_init(&folders, "/nowhere", NULL, more, NULL), 0);
	assert_true(folders_hold(&folders, inside));
	folders_done(&folders);
}

static void an_allowed_folder_that_is_not_there_is_an_error(void **state)
{
	const char *more[] = {"/nowhere/at/all", NULL};
	struct folders folders;
	struct err err;

	assert_int_equal(folders_init(&folders, "/a", NULL, more, &err), -ENOENT);
	assert_non_null(strstr(err.text, "/nowhere/at/all"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_leafs_folder_holds_what_is_in_it_at_any_depth),
		cmocka_unit_test(a_name_that_only_begins_like_the_folders_is_outside),
		cmocka_unit_test(the_root_holds_everything),
		cmocka_unit_test(the_folder_of_a_named_parent_is_allowed_too),
		cmocka_unit_test(symlinks_in_an_allowed_folders_name_are_resolved),
		cmocka_unit_test(an_allowed_folder_that_is_not_there_is_an_error),
	};

	return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
