/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/lib/temp-dir.h"
#include "vhd/lock.h"
#include "vhd/new-file.h"
#include "vhd/vhd.h"

static char *dir, path[512], old[512];

static int folder_make(void **state)
{
	dir = temp_dir_new("new-file");
	snprintf(path, sizeof(path), "%s/new", dir);
	snprintf(old, sizeof(old), "%s/old", dir);
	return 0;
}

static int folder_remove(void **state)
{
	temp_dir_free(dir);
	return 0;
}

static void content_set(const char *name, const char *text)
{
	FILE *f = fopen(name, "w");

	assert_non_null(f);
	assert_true(fputs(text, f) >= 0);
	assert_int_equal(fclose(f), 0);
}

static void content_is(const char *name, const char *text)
{
	char found[64] = "";
	FILE *f = fopen(name, "r");

	assert_non_null(f);
	found[fread(found, 1, sizeof(found) - 1, f)] = '\0';
	fclose(f);
	assert_string_equal(found, text);
}

static unsigned names_in_dir(void)
{
	DIR *d = opendir(dir);
	unsigned count = 0;
	struct dirent *entry;

	assert_non_null(d);
	while ((entry = readdir(d)))
		count += strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..");
	closedir(d);
	return count;
}

static struct new_file file_begin(const char *name, bool overwrite)
{
	struct new_file file;
	struct err err;

	if (new_file_open(name, overwrite, &file, &err))
		fail_msg("%s", err.text);
	assert_int_equal(write(file.fd, "new", 3), 3);
	return file;
}

static void a_file_appears_when_it_is_committed_and_not_before(void **state)
{
	struct new_file file = file_begin(path, false);

	assert_int_equal(access(path, F_OK), -1);
	assert_int_equal(new_file_commit(&file, NULL), 0);
	new_file_done(&file);
	content_is(path, "new");
	assert_int_equal(names_in_dir(), 1);
	assert_int_equal(unlink(path), 0);
}

static void a_file_that_is_not_committed_leaves_nothing(void **state)
{
	struct new_file file = file_begin(path, false);

	new_file_done(&file);
	assert_int_equal(names_in_dir(), 0);
}

static void an_unfinished_file_can_be_opened_by_its_name(void **state)
{
	struct new_file file = file_begin(path, false);
	char name[NEW_FILE_NAME_MAX];
	struct stat a, b;
	int fd;

	assert_int_equal(new_file_name(&file, name), 0);
	fd = open(name, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &a), 0);
	assert_int_equal(fstat(file.fd, &b), 0);
	assert_true(a.st_dev == b.st_dev && a.st_ino == b.st_ino);
	close(fd);
	new_file_done(&file);
}

static void a_file_that_is_there_stays_unless_it_may_be_overwritten(void **state)
{
	struct new_file file;
	struct err err;

	content_set(path, "old");
	assert_int_equal(new_file_open(path, false, &file, &err), -EEXIST);
	assert_int_equal(strncmp(err.text, path, strlen(path)), 0);
	content_is(path, "old");
	file = file_begin(path, true);
	content_is(path, "old");
	assert_int_equal(new_file_commit(&file, &err), 0);
	new_file_done(&file);
	content_is(path, "new");
	assert_int_equal(names_in_dir(), 1);
	assert_int_equal(unlink(path), 0);
}

static void a_file_that_appears_meanwhile_is_not_replaced(void **state)
{
	struct new_file file = file_begin(path, false);

	content_set(path, "other");
	assert_int_equal(new_file_commit(&file, NULL), -EEXIST);
	new_file_done(&file);
	content_is(path, "other");
	assert_int_equal(names_in_dir(), 1);
	assert_int_equal(unlink(path), 0);
}

static void a_file_in_use_is_not_overwritten_nor_used_while_it_is(void **state)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
	struct new_file file;
	struct err err;

	assert_true(fd >= 0);
	assert_int_equal(lock_take(fd, path, false, &err), 0);
	assert_int_equal(new_file_open(path, true, &file, &err), VHD_E_IN_USE);
	close(fd);
	file = file_begin(path, true);
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_int_equal(lock_take(fd, path, false, &err), VHD_E_IN_USE);
	new_file_done(&file);
	assert_int_equal(lock_take(fd, path, false, &err), 0);
	close(fd);
	assert_int_equal(unlink(path), 0);
}

static void a_symlink_stays_and_its_target_is_replaced(void **state)
{
	struct new_file file;
	struct stat st;

	content_set(old, "old");
	assert_int_equal(symlink("old", path), 0);
	file = file_begin(path, true);
	assert_int_equal(new_file_commit(&file, NULL), 0);
	new_file_done(&file);
	assert_int_equal(lstat(path, &st), 0);
	assert_true(S_ISLNK(st.st_mode));
	content_is(old, "new");
	assert_int_equal(unlink(path), 0);
	assert_int_equal(unlink(old), 0);
}

static void a_symlink_that_leads_nowhere_is_told(void **state)
{
	struct new_file file;
	struct err err;

	assert_int_equal(symlink("nowhere", path), 0);
	assert_int_equal(new_file_open(path, true, &file, &err), -ENOENT);
	assert_non_null(strstr(err.text, "symbolic link"));
	assert_int_equal(unlink(path), 0);
}

static void folders_and_devices_are_refused_whether_overwriting_or_not(void **state)
{
	struct new_file file;

	for (int overwrite = 0; overwrite < 2; overwrite++) {
		assert_int_equal(new_file_open(dir, overwrite, &file, NULL), -EINVAL);
		assert_int_equal(new_file_open("/dev/null", overwrite, &file, NULL), -EINVAL);
		assert_int_equal(new_file_open("", overwrite, &file, NULL), -ENOENT);
	}
}

static void a_missing_folder_is_told_by_the_name_that_was_given(void **state)
{
	struct new_file file;
	struct err err;

	snprintf(old, sizeof(old), "%s/none/file", dir);
	assert_int_equal(new_file_open(old, false, &file, &err), -ENOENT);
	assert_int_equal(strncmp(err.text, old, strlen(old)), 0);
	assert_non_null(strstr(err.text, "folder"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_file_appears_when_it_is_committed_and_not_before),
		cmocka_unit_test(a_file_that_is_not_committed_leaves_nothing),
		cmocka_unit_test(an_unfinished_file_can_be_opened_by_its_name),
		cmocka_unit_test(a_file_that_is_there_stays_unless_it_may_be_overwritten),
		cmocka_unit_test(a_file_that_appears_meanwhile_is_not_replaced),
		cmocka_unit_test(a_file_in_use_is_not_overwritten_nor_used_while_it_is),
		cmocka_unit_test(a_symlink_stays_and_its_target_is_replaced),
		cmocka_unit_test(a_symlink_that_leads_nowhere_is_told),
		cmocka_unit_test(folders_and_devices_are_refused_whether_overwriting_or_not),
		cmocka_unit_test(a_missing_folder_is_told_by_the_name_that_was_given),
	};

	return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
