/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/lib/temp-dir.h"
#include "vhd/chain.h"
#include "vhd/lock.h"
#include "vhd/locator.h"
#include "vhd/new-file.h"

static char *dir, path[512], parent[512];

static int folder_make(void **state)
{
	dir = temp_dir_new("create");
	snprintf(path, sizeof(path), "%s/a.vhd", dir);
	snprintf(parent, sizeof(parent), "%s/parent.vhd", dir);
	return 0;
}

static int folder_remove(void **state)
{
	temp_dir_free(dir);
	return 0;
}

static unsigned files_in_dir(void)
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

static struct chain open_again(const char *name)
{
	struct chain chain;
	struct err err;

	if (chain_open(name, NULL, NULL, &chain, &err))
		fail_msg("%s", err.text);
	return chain;
}

static void the_default_is_dynamic_of_127_gib_in_a_small_file(void **state)
{
	struct vhd_info info;
	struct chain chain;
	struct stat st;

	assert_int_equal(vhd_create(path, NULL, NULL), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_true(st.st_size < 300 * 1024);
	chain = open_again(path);
	layer_info(chain.layers[0], &info);
	assert_int_equal(info.type, VHD_DYNAMIC);
	assert_true(info.size_bytes == VHD_DEFAULT_SIZE && info.original_size_bytes == VHD_DEFAULT_SIZE);
	assert_int_equal(info.block_size_bytes, 2 << 20);
	assert_int_equal(info.block_count, 65024);
	assert_int_equal(chain.layers[0]->header.max_table_entries, 65024);
	assert_int_equal(chain.layers[0]->header.table_offset, 4096);
	assert_true(be64_get(chain.layers[0]->header.raw.data_offset) == VHD_NO_OFFSET);
	assert_int_equal(info.allocated_blocks, 0);
	assert_string_equal(info.creator, "win ");
	assert_int_equal(info.uuid[6] >> 4, 4);
	assert_int_equal(info.uuid[8] >> 6, 2);
	assert_int_equal(chain.layers[0]->footer_source, FOOTER_AT_END);
	chain_done(&chain);
	assert_int_equal(files_in_dir(), 1);
}

static void a_new_image_has_no_defect_at_all(void **state)
{
	struct vhd_check_result result;

	assert_int_equal(vhd_create(path, &(struct vhd_create_options){.size_bytes = 5 << 20}, NULL), 0);
	assert_int_equal(vhd_check(path, NULL, &result, NULL), 0);
	assert_int_equal(result.notes + result.warnings + result.damages, 0);
}

static void a_fixed_disk_is_its_content_and_a_footer(void **state)
{
	struct vhd_create_options options = {.type = VHD_FIXED, .size_bytes = 1 << 20};
	struct chain chain;
	struct stat st;

	assert_int_equal(vhd_create(path, &options, NULL), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, (1 << 20) + 512);
	assert_true(st.st_blocks >= (1 << 20) / 512);
	chain = open_again(path);
	assert_int_equal(chain.layers[0]->footer.type, VHD_FIXED);
	assert_true(chain.layers[0]->footer.data_offset == VHD_NO_OFFSET);
	chain_done(&chain);
}

static void what_the_caller_fixes_is_taken(void **state)
{
	static const uint8_t uuid[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
	time_t created = VHD_EPOCH + 12345;
	struct vhd_create_options options = {
		.size_bytes = 1 << 20, .block_size_bytes = 4096, .uuid = uuid, .created = &created,
	};
	struct vhd_info info;
	struct chain chain;

	assert_int_equal(vhd_create(path, &options, NULL), 0);
	chain = open_again(path);
	layer_info(chain.layers[0], &info);
	assert_memory_equal(info.uuid, uuid, 16);
	assert_int_equal(info.created, created);
	assert_int_equal(info.block_count, 256);
	chain_done(&chain);
}

static void expect_refusal(struct vhd_create_options options, const char *words)
{
	struct err err = {""};

	assert_int_equal(vhd_create(path, &options, &err), -EINVAL);
	assert_non_null(strstr(err.text, words));
	assert_int_equal(access(path, F_OK), -1);
	assert_int_equal(files_in_dir(), 0);
}

static void impossible_wishes_are_refused_and_leave_nothing(void **state)
{
	expect_refusal((struct vhd_create_options){.size_bytes = 1000}, "multiple of 512");
	expect_refusal((struct vhd_create_options){.size_bytes = VHD_MAX_SIZE + 512}, "2040 GiB");
	expect_refusal((struct vhd_create_options){.block_size_bytes = 2048}, "power of two");
	expect_refusal((struct vhd_create_options){.block_size_bytes = 3 << 20}, "power of two");
	expect_refusal((struct vhd_create_options){.block_size_bytes = 512u << 20}, "over");
	expect_refusal((struct vhd_create_options){.size_bytes = VHD_MAX_SIZE, .block_size_bytes = 4096}, "larger blocks");
	expect_refusal((struct vhd_create_options){.type = VHD_DIFFERENCING}, "needs a parent");
	expect_refusal((struct vhd_create_options){.type = VHD_FIXED, .parent = "/x"}, "has no parent");
	expect_refusal((struct vhd_create_options){.type = 7}, "no type");
}

static void the_largest_disk_is_possible(void **state)
{
	struct chain chain;

	assert_int_equal(vhd_create(path, &(struct vhd_create_options){.size_bytes = VHD_MAX_SIZE}, NULL), 0);
	chain = open_again(path);
	assert_true(chain.layers[0]->size == VHD_MAX_SIZE);
	assert_int_equal(chain.layers[0]->block_count, 1044480);
	chain_done(&chain);
}

static void nothing_is_overwritten_unless_asked(void **state)
{
	struct vhd_create_options options = {.size_bytes = 1 << 20};
	struct chain chain;

	assert_int_equal(vhd_create(path, &options, NULL), 0);
	options.size_bytes = 2 << 20;
	assert_int_equal(vhd_create(path, &options, NULL), -EEXIST);
	options.overwrite = true;
	assert_int_equal(vhd_create(path, &options, NULL), 0);
	chain = open_again(path);
	assert_int_equal(chain.layers[0]->size, 2 << 20);
	chain_done(&chain);
	assert_int_equal(files_in_dir(), 1);
}

static void an_image_in_use_is_not_overwritten(void **state)
{
	struct vhd_create_options options = {.size_bytes = 1 << 20, .overwrite = true};
	int fd;

	assert_int_equal(vhd_create(path, &options, NULL), 0);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(lock_take(fd, path, false, NULL), 0);
	assert_int_equal(vhd_create(path, &options, NULL), VHD_E_IN_USE);
	close(fd);
	assert_int_equal(vhd_create(path, &options, NULL), 0);
}

static void a_child_names_its_parent_in_every_way(void **state)
{
	struct vhd_create_options options = {.size_bytes = 3 << 20, .block_size_bytes = 4096};
	const struct header *header;
	struct stat st;
	struct chain chain;
	char *text;

	assert_int_equal(vhd_create(parent, &options, NULL), 0);
	assert_int_equal(stat(parent, &st), 0);
	assert_int_equal(vhd_create(path, &(struct vhd_create_options){.parent = parent}, NULL), 0);
	chain = open_again(path);
	header = &chain.layers[0]->header;
	assert_int_equal(chain.count, 2);
	assert_int_equal(chain.layers[0]->size, 3 << 20);
	assert_int_equal(chain.layers[0]->block_size, 4096);
	assert_memory_equal(header->parent_uuid, chain.layers[1]->footer.uuid, 16);
	assert_int_equal(header->parent_time_stamp, st.st_mtime - VHD_EPOCH);
	assert_string_equal(chain.layers[0]->parent_name, "parent.vhd");
	assert_memory_equal(header->raw.parent_name, "\0p\0a", 4);
	for (unsigned i = 0; i < 2; i++) {
		const struct locator *locator = &header->locators[i];
		uint8_t data[1024];

		assert_memory_equal(locator->code, i == 0 ? "W2ru" : "W2ku", 4);
		assert_int_equal(locator->offset % 512, 0);
		assert_int_equal(locator->space % 512, 0);
		assert_true(locator->length <= locator->space && locator->length <= sizeof(data));
		assert_int_equal(chain.layers[0]->store->ops->read(chain.layers[0]->store, data, locator->length,
		                                                   locator->offset), 0);
		assert_int_equal(data[1], 0);
		assert_int_equal(locator_decode(locator->code, data, locator->length, &text, NULL), 0);
		assert_string_equal(text, i == 0 ? "parent.vhd" : parent);
		free(text);
	}
	chain_done(&chain);
}

static void a_parent_whose_name_the_format_cannot_say_is_refused(void **state)
{
	char name[600];
	struct err err;

	snprintf(name, sizeof(name), "%s/a\\b.vhd", dir);
	assert_int_equal(vhd_create(name, &(struct vhd_create_options){.size_bytes = 1 << 20}, NULL), 0);
	assert_int_equal(vhd_create(path, &(struct vhd_create_options){.parent = name}, &err), -EINVAL);
	assert_non_null(strstr(err.text, "backslash"));
	assert_int_equal(access(path, F_OK), -1);
}

static void a_parent_is_not_overwritten_by_its_child(void **state)
{
	struct err err;

	assert_int_equal(vhd_create(path, &(struct vhd_create_options){.size_bytes = 1 << 20}, NULL), 0);
	assert_int_equal(vhd_create(path, &(struct vhd_create_options){.parent = path, .overwrite = true}, &err), -EINVAL);
	assert_non_null(strstr(err.text, "the parent"));
}

static void a_file_that_is_not_committed_never_was(void **state)
{
	struct new_file file;

	assert_int_equal(new_file_open(path, false, &file, NULL), 0);
	assert_int_equal(write(file.fd, "x", 1), 1);
	new_file_done(&file);
	assert_int_equal(files_in_dir(), 0);
	assert_int_equal(new_file_open(dir, true, &file, NULL), -EINVAL);
	assert_int_equal(new_file_open("/dev/null", true, &file, NULL), -EINVAL);
}

static void who_is_first_keeps_the_name(void **state)
{
	struct new_file file;
	FILE *f;

	assert_int_equal(new_file_open(path, false, &file, NULL), 0);
	f = fopen(path, "w");
	assert_non_null(f);
	fclose(f);
	assert_int_equal(new_file_commit(&file, NULL), -EEXIST);
	new_file_done(&file);
	assert_int_equal(files_in_dir(), 1);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, folder_make, folder_remove)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(the_default_is_dynamic_of_127_gib_in_a_small_file),
		CASE(a_new_image_has_no_defect_at_all),
		CASE(a_fixed_disk_is_its_content_and_a_footer),
		CASE(what_the_caller_fixes_is_taken),
		CASE(impossible_wishes_are_refused_and_leave_nothing),
		CASE(the_largest_disk_is_possible),
		CASE(nothing_is_overwritten_unless_asked),
		CASE(an_image_in_use_is_not_overwritten),
		CASE(a_child_names_its_parent_in_every_way),
		CASE(a_parent_whose_name_the_format_cannot_say_is_refused),
		CASE(a_parent_is_not_overwritten_by_its_child),
		CASE(a_file_that_is_not_committed_never_was),
		CASE(who_is_first_keeps_the_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
