/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <stdio.h>
#include <unistd.h>

#include "tests/lib/image-builder.h"
#include "tests/lib/temp-dir.h"
#include "vhd/vhd.h"

static char *dir, path[512], child[512];

static int folder_make(void **state)
{
	dir = temp_dir_new("repair");
	snprintf(path, sizeof(path), "%s/a.vhd", dir);
	snprintf(child, sizeof(child), "%s/c.vhd", dir);
	return 0;
}

static int folder_remove(void **state)
{
	temp_dir_free(dir);
	return 0;
}

static const struct image_spec dynamic = {
	.size = 32768, .block_count = 2, .uuid_seed = 3, .blocks = {{.index = 2, .seed = 1}, {.index = 0, .seed = 2}},
};
static const struct image_spec differencing = {
	.type = IMAGE_DIFFERENCING, .size = 32768, .parent_uuid_seed = 3, .uuid_seed = 8, .parent_name = "a.vhd",
	.locators = {{.code = "W2ru", .text = ".\\a.vhd"}},
};
static const struct image_spec fixed = {.type = IMAGE_FIXED, .size = 65536, .uuid_seed = 4, .fixed_seed = 7};

static void write_and_free(struct image *image, const char *name)
{
	assert_int_equal(image_write(image, name), 0);
	image_free(image);
}

static void info_get(struct vhd_info *ret)
{
	struct vhd *vhd;

	assert_int_equal(vhd_open(path, NULL, &vhd, NULL), 0);
	vhd_layer_info(vhd, 0, ret);
	vhd_close(vhd, NULL);
}

static void a_lost_id_is_the_one_that_a_child_recorded(void **state)
{
	struct vhd_repair_result result;
	struct image image;
	struct vhd_info info;
	uint8_t uuid[16];

	image_build(&differencing, &image);
	write_and_free(&image, child);
	image_build(&dynamic, &image);
	memset(image.bytes, 0, 512);
	memset(image.bytes + image.footer, 0, 512);
	write_and_free(&image, path);
	assert_int_equal(vhd_repair(path, NULL, &result, NULL), 0);
	assert_int_equal(result.steps, 1);
	info_get(&info);
	image_uuid(3, uuid);
	assert_memory_equal(info.uuid, uuid, 16);
	assert_int_equal(info.size_bytes, 32768);
	assert_int_equal(vhd_check(child, NULL, NULL, NULL), 0);
}

/* Its guest wrote a dynamic disk's footer into the first sector, and the footer at the end has a wrong byte. */
static void a_fixed_disk_stays_fixed_whatever_its_guest_wrote(void **state)
{
	struct image image, forged;
	struct vhd_info info;

	image_build(&dynamic, &forged);
	image_build(&fixed, &image);
	memcpy(image.bytes, forged.bytes, forged.size < image.footer ? forged.size : image.footer);
	image_free(&forged);
	image.bytes[image.footer + F_TIME] ^= 1;
	write_and_free(&image, path);
	assert_int_equal(vhd_repair(path, NULL, NULL, NULL), 0);
	info_get(&info);
	assert_int_equal(info.type, VHD_FIXED);
	assert_int_equal(info.size_bytes, 65536);
}

static void a_sound_file_is_not_even_touched(void **state)
{
	struct vhd_repair_result result;
	struct image image;
	char side[600];

	image_build(&dynamic, &image);
	write_and_free(&image, path);
	assert_int_equal(vhd_repair(path, NULL, &result, NULL), 0);
	assert_int_equal(result.steps, 0);
	assert_int_equal(result.changed_bytes, 0);
	snprintf(side, sizeof(side), "%s.repair", path);
	assert_int_equal(access(side, F_OK), -1);
}

static void an_image_in_use_is_refused(void **state)
{
	const struct vhd_open_options options = {.flags = VHD_OPEN_WRITE};
	struct image image;
	struct vhd *vhd;
	struct err err;

	image_build(&dynamic, &image);
	write_and_free(&image, path);
	assert_int_equal(vhd_open(path, &options, &vhd, NULL), 0);
	assert_int_equal(vhd_repair(path, NULL, NULL, &err), VHD_E_IN_USE);
	assert_int_equal(vhd_close(vhd, NULL), 0);
}

static void a_journal_of_another_tool_is_left_to_it(void **state)
{
	struct image image;
	struct err err;

	image_build(&dynamic, &image);
	memcpy(image.bytes + image.footer, "v_poison", 8);
	memcpy(image.bytes, "v_poison", 8);
	write_and_free(&image, path);
	assert_int_equal(vhd_repair(path, NULL, NULL, &err), VHD_E_CORRUPT);
}

static void what_is_no_side_file_undoes_nothing(void **state)
{
	struct image image;
	struct err err;
	FILE *f;

	image_build(&dynamic, &image);
	write_and_free(&image, path);
	assert_int_equal(vhd_repair_undo(path, path, false, &err), VHD_E_CORRUPT);
	f = fopen(child, "w");
	assert_non_null(f);
	fputs("vhdkit repair 1\nsize 512\nbecomes 512\nsaved 400 200 0 0 0\nend\n", f);
	fclose(f);
	assert_int_equal(vhd_repair_undo(path, child, true, &err), VHD_E_CORRUPT);
	assert_int_equal(vhd_check(path, NULL, NULL, NULL), 0);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, folder_make, folder_remove)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(a_lost_id_is_the_one_that_a_child_recorded),
		CASE(a_fixed_disk_stays_fixed_whatever_its_guest_wrote),
		CASE(a_sound_file_is_not_even_touched),
		CASE(an_image_in_use_is_refused),
		CASE(a_journal_of_another_tool_is_left_to_it),
		CASE(what_is_no_side_file_undoes_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
