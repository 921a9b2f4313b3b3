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

#include "tests/lib/image-builder.h"
#include "tests/lib/temp-dir.h"
#include "vhd/vhd.h"

static char *dir, path[512], parent[512];

static int folder_make(void **state)
{
	dir = temp_dir_new("check");
	snprintf(path, sizeof(path), "%s/a.vhd", dir);
	snprintf(parent, sizeof(parent), "%s/p.vhd", dir);
	return 0;
}

static int folder_remove(void **state)
{
	temp_dir_free(dir);
	return 0;
}

static void code_note(void *user, const struct vhd_defect *defect)
{
	char *codes = user;

	assert_non_null(defect->path);
	assert_true(strlen(defect->sentence) > 10);
	strncat(codes, defect->code, 1000 - strlen(codes) - 2);
	strcat(codes, " ");
}

static void progress_note(void *user, uint64_t done, uint64_t total)
{
	assert_true(done <= total);
}

static int check(char codes[1000], struct vhd_check_result *result, bool one_file)
{
	struct vhd_check_options options = {
		.one_file = one_file, .defect = code_note, .progress = progress_note, .user = codes,
	};

	codes[0] = '\0';
	return vhd_check(path, &options, result, NULL);
}

static const struct image_spec dynamic = {
	.size = 32768, .block_count = 2, .uuid_seed = 3, .blocks = {{.index = 2, .seed = 1}, {.index = 0, .seed = 2}},
};

static void build(const struct image_spec *spec, const char *name, const struct image_edit *edit)
{
	struct image image;

	image_build(spec, &image);
	if (edit)
		image_edit(&image, edit);
	assert_int_equal(image_write(&image, name), 0);
	image_free(&image);
}

static void a_sound_disk_has_no_defect(void **state)
{
	struct vhd_check_result result;
	char codes[1000];

	build(&dynamic, path, NULL);
	assert_int_equal(check(codes, &result, false), 0);
	assert_string_equal(codes, "");
	assert_int_equal(result.layers, 1);
	assert_int_equal(result.blocks, 8);
	assert_int_equal(result.allocated_blocks, 2);
	assert_int_equal(result.unused_bytes, 0);
}

static void what_is_odd_is_noted_and_no_damage(void **state)
{
	struct image_spec spec = dynamic;
	struct vhd_check_result result;
	char codes[1000];

	spec.max_table_entries = 20;
	spec.blocks[0].clear = 0x0f;
	spec.footer_gap_sectors = 3;
	build(&spec, path, &(struct image_edit){IMAGE_BAT, 60, 4, 77});
	assert_int_equal(check(codes, &result, false), 0);
	assert_string_equal(codes, "bat-size bat-trailing-entries bitmap-partial ");
	assert_int_equal(result.notes, 3);
	assert_int_equal(result.unused_bytes, 3 * 512);
}

static void damage_is_counted_and_is_the_verdict(void **state)
{
	struct vhd_check_result result;
	char codes[1000];

	build(&dynamic, path, &(struct image_edit){IMAGE_BAT, 12, 4, 1});
	assert_int_equal(check(codes, &result, false), VHD_E_CORRUPT);
	assert_string_equal(codes, "bat-overlaps-metadata ");
	assert_int_equal(result.damages, 1);
}

static void a_batmap_that_calls_partial_blocks_full_is_a_warning(void **state)
{
	struct image_spec spec = dynamic;
	struct vhd_check_result result;
	struct image image;
	char codes[1000];
	uint32_t sum = 0;

	spec.batmap = true;
	spec.blocks[0].clear = 0x0f;
	image_build(&spec, &image);
	image.bytes[image.batmap + 512] |= 0x20;
	for (unsigned i = 0; i < 512; i++)
		sum += image.bytes[image.batmap + 512 + i];
	image_put(&image, image.batmap + 24, 4, (uint32_t)~sum);
	assert_int_equal(image_write(&image, path), 0);
	image_free(&image);
	assert_int_equal(check(codes, &result, false), 0);
	assert_string_equal(codes, "bitmap-partial batmap-wrong ");
	assert_int_equal(result.warnings, 1);
}

static void a_missing_parent_is_damage_unless_one_file_was_asked_for(void **state)
{
	const struct image_spec child = {
		.type = IMAGE_DIFFERENCING, .size = 32768, .parent_uuid_seed = 3, .parent_name = "p.vhd",
		.locators = {{.code = "W2ru", .text = ".\\p.vhd"}},
	};
	struct vhd_check_result result;
	char codes[1000];

	build(&child, path, NULL);
	assert_int_equal(check(codes, &result, false), VHD_E_CORRUPT);
	assert_string_equal(codes, "parent-missing ");
	assert_int_equal(check(codes, &result, true), 0);
	assert_string_equal(codes, "");
}

/* A block whose bitmap is all ones and whose data is mostly zeros, unaligned, over a parent that has data there. */
static void a_differencing_disk_that_qemu_wrote_to_is_suspected(void **state)
{
	struct image_spec base = dynamic, child = {
		.type = IMAGE_DIFFERENCING, .size = 32768, .parent_uuid_seed = 3, .parent_name = "p.vhd",
		.locators = {{.code = "W2ru", .text = ".\\p.vhd"}},
		.block_count = 1, .blocks = {{.index = 2, .seed = 9}},
	};
	struct vhd_check_result result;
	struct image image;
	char codes[1000];

	build(&base, parent, NULL);
	image_build(&child, &image);
	assert_true((image.blocks[0] + image.bitmap_size) % 4096 != 0);
	assert_int_equal(image_write(&image, path), 0);
	assert_int_equal(check(codes, &result, false), 0);
	assert_string_equal(codes, "");
	assert_int_equal(result.layers, 2);

	memset(image.bytes + image.blocks[0] + image.bitmap_size + 512, 0, 4096 - 512);
	assert_int_equal(image_write(&image, path), 0);
	image_free(&image);
	assert_int_equal(check(codes, &result, false), 0);
	assert_string_equal(codes, "qemu-wrote ");
	assert_int_equal(result.warnings, 1);
}

static void what_is_no_vhd_cannot_be_checked(void **state)
{
	struct vhd_check_result result;
	char codes[1000];
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	fclose(f);
	assert_int_equal(check(codes, &result, false), VHD_E_NOT_VHD);
	assert_string_equal(codes, "");
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, folder_make, folder_remove)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(a_sound_disk_has_no_defect),
		CASE(what_is_odd_is_noted_and_no_damage),
		CASE(damage_is_counted_and_is_the_verdict),
		CASE(a_batmap_that_calls_partial_blocks_full_is_a_warning),
		CASE(a_missing_parent_is_damage_unless_one_file_was_asked_for),
		CASE(a_differencing_disk_that_qemu_wrote_to_is_suspected),
		CASE(what_is_no_vhd_cannot_be_checked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
