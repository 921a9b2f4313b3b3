/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/lib/image-builder.h"
#include "tests/lib/temp-dir.h"
#include "vhd/layer.h"

static char *dir, path[512];

static int folder_make(void **state)
{
	dir = temp_dir_new("layer");
	snprintf(path, sizeof(path), "%s/a.vhd", dir);
	return 0;
}

static int folder_remove(void **state)
{
	temp_dir_free(dir);
	return 0;
}

struct seen {
	unsigned count[3];
	char codes[512];
};

static void defect_note(void *user, const struct vhd_defect *defect)
{
	struct seen *seen = user;

	assert_string_equal(defect->path, path);
	assert_null(strstr(defect->sentence, path));
	seen->count[defect->severity]++;
	strncat(seen->codes, defect->code, sizeof(seen->codes) - strlen(seen->codes) - 2);
	strcat(seen->codes, " ");
}

static int open_image(const struct image *image, const struct layer_sink *sink, struct layer **ret, struct err *err)
{
	struct store *store;

	assert_int_equal(image_write(image, path), 0);
	assert_int_equal(store_file_open(path, 0, &store, NULL), 0);
	return layer_open_take(store, path, sink, ret, err);
}

static const struct image_spec dynamic = {
	.size = 32768 - 512, .block_count = 3, .uuid_seed = 3, .max_table_entries = 9,
	.blocks = {{.index = 2, .seed = 1}, {.index = 0, .seed = 2, .gap_sectors = 5}, {.index = 7, .seed = 3}},
};

static void a_dynamic_disk_opens_with_all_its_parts(void **state)
{
	struct vhd_info info;
	struct image image;
	struct layer *layer;

	image_build(&dynamic, &image);
	assert_int_equal(open_image(&image, NULL, &layer, NULL), 0);
	assert_int_equal(layer->size, 32768 - 512);
	assert_int_equal(layer->block_size, 4096);
	assert_int_equal(layer->block_shift, 12);
	assert_int_equal(layer->block_count, 8);
	assert_int_equal(layer->bitmap_bytes, 512);
	assert_int_equal(layer->allocated, 3);
	assert_int_equal(layer->bat[2], image.blocks[0] / 512);
	assert_int_equal(layer->bat[0], image.blocks[1] / 512);
	assert_int_equal(layer->bat[7], image.blocks[2] / 512);
	assert_int_equal(layer->bat[1], VHD_BAT_UNALLOCATED);
	assert_int_equal(layer->data_end, image.end_of_blocks);
	assert_int_equal(layer->footer_source, FOOTER_AT_END);
	layer_info(layer, &info);
	assert_string_equal(info.path, path);
	assert_int_equal(info.type, VHD_DYNAMIC);
	assert_int_equal(info.size_bytes, 32768 - 512);
	assert_int_equal(info.block_count, 8);
	assert_int_equal(info.allocated_blocks, 3);
	assert_string_equal(info.creator, "win ");
	assert_null(info.parent_path);
	layer_free(layer);
	image_free(&image);
}

static void a_fixed_disk_opens(void **state)
{
	struct image image;
	struct layer *layer;

	image_build(&(struct image_spec){.type = IMAGE_FIXED, .size = 8192, .fixed_seed = 1}, &image);
	assert_int_equal(open_image(&image, NULL, &layer, NULL), 0);
	assert_int_equal(layer->size, 8192);
	assert_int_equal(layer->data_end, 8192);
	assert_null(layer->bat);
	layer_free(layer);
	image_free(&image);
}

static void the_footer_is_found_at_the_end_in_511_bytes_or_in_the_copy(void **state)
{
	static const enum footer_source sources[] = {FOOTER_AT_END, FOOTER_AT_END_511, FOOTER_FROM_COPY, FOOTER_FROM_COPY};

	for (unsigned i = 0; i < 4; i++) {
		struct image_spec spec = dynamic;
		struct image image;
		struct layer *layer;

		spec.footer_511 = i == 1;
		spec.footer_killed = i == 2;
		spec.no_footer = i == 3;
		image_build(&spec, &image);
		assert_int_equal(open_image(&image, NULL, &layer, NULL), 0);
		assert_int_equal(layer->footer_source, sources[i]);
		layer_free(layer);
		image_free(&image);
	}
}

static void the_footer_at_the_end_wins_over_a_copy_that_differs(void **state)
{
	struct seen seen = {0};
	const struct layer_sink sink = {.defect = defect_note, .user = &seen, .strict = true};
	struct image image;
	struct layer *layer;

	image_build(&dynamic, &image);
	image_edit(&image, &(struct image_edit){IMAGE_FOOTER_COPY, F_CURRENT_SIZE, 8, 4096});
	assert_int_equal(open_image(&image, &sink, &layer, NULL), 0);
	assert_int_equal(layer->size, 32768 - 512);
	assert_string_equal(seen.codes, "footer-copy-differs ");
	assert_int_equal(seen.count[VHD_WARNING], 1);
	layer_free(layer);
	image_free(&image);
}

static void the_copy_of_a_fixed_disk_is_never_believed(void **state)
{
	struct image image, forged;
	struct layer *layer;
	struct err err;

	image_build(&(struct image_spec){.type = IMAGE_FIXED, .size = 16384}, &image);
	image_build(&(struct image_spec){.size = 8192}, &forged);
	memcpy(image.bytes, forged.bytes, 2048);
	assert_int_equal(open_image(&image, NULL, &layer, NULL), 0);
	assert_int_equal(layer->footer.type, VHD_FIXED);
	layer_free(layer);
	image.bytes[image.footer + F_UUID] ^= 1;
	assert_int_equal(open_image(&image, NULL, &layer, &err), VHD_E_CORRUPT);
	assert_non_null(strstr(err.text, "checksum"));
	image_free(&image);
	image_free(&forged);
}

static void damage_is_listed_or_refused_by_the_same_rules(void **state)
{
	struct seen seen = {0};
	const struct layer_sink collect = {.defect = defect_note, .user = &seen};
	struct image image;
	struct layer *layer;
	struct err err;

	image_build(&dynamic, &image);
	image_edit(&image, &(struct image_edit){IMAGE_RAW_HEADER, H_CHECKSUM, 4, 1});
	image_edit(&image, &(struct image_edit){IMAGE_BAT, 4, 4, 100000});
	image_edit(&image, &(struct image_edit){IMAGE_BAT, 12, 4, 1});
	image_edit(&image, &(struct image_edit){IMAGE_BAT, 16, 4, image.blocks[0] / 512 + 1});
	assert_int_equal(open_image(&image, NULL, &layer, &err), VHD_E_CORRUPT);
	assert_non_null(strstr(err.text, "header's checksum"));
	assert_non_null(strstr(err.text, path));
	assert_int_equal(open_image(&image, &collect, &layer, &err), 0);
	assert_string_equal(seen.codes, "header-checksum bat-beyond-end bat-overlaps-metadata bat-overlap ");
	assert_int_equal(layer->bat[1], VHD_BAT_UNALLOCATED);
	assert_int_equal(layer->bat[3], VHD_BAT_UNALLOCATED);
	assert_int_equal(layer->allocated, 4);
	layer_free(layer);
	image_free(&image);
}

static void a_header_that_is_lost_leaves_nothing_to_collect(void **state)
{
	struct seen seen = {0};
	const struct layer_sink collect = {.defect = defect_note, .user = &seen};
	struct image image;
	struct layer *layer;

	image_build(&dynamic, &image);
	image_edit(&image, &(struct image_edit){IMAGE_HEADER, H_COOKIE, 8, 0});
	assert_int_equal(open_image(&image, &collect, &layer, NULL), VHD_E_CORRUPT);
	assert_string_equal(seen.codes, "header-cookie ");
	image_free(&image);
}

static void a_batmap_is_recognised_and_its_checksum_verified(void **state)
{
	struct image_spec spec = dynamic;
	struct seen seen = {0};
	const struct layer_sink sink = {.defect = defect_note, .user = &seen, .strict = true};
	struct image image;
	struct layer *layer;

	spec.batmap = true;
	image_build(&spec, &image);
	assert_int_equal(open_image(&image, &sink, &layer, NULL), 0);
	assert_int_equal(layer->batmap.offset, image.batmap);
	assert_true(layer->batmap_bits.length >= 1);
	assert_string_equal(seen.codes, "");
	layer_free(layer);

	image.bytes[image.batmap + 512] ^= 0xFF;
	assert_int_equal(open_image(&image, &sink, &layer, NULL), 0);
	assert_string_equal(seen.codes, "batmap-checksum ");
	assert_int_equal(layer->batmap_bits.length, 0);
	assert_int_equal(layer->batmap.offset, image.batmap);
	layer_free(layer);
	image_free(&image);
}

static void a_raw_file_is_a_layer_of_its_own_size(void **state)
{
	struct vhd_info info;
	struct image image;
	struct store *store;
	struct layer *layer;

	image_build(&dynamic, &image);
	assert_int_equal(image_write(&image, path), 0);
	assert_int_equal(store_file_open(path, 0, &store, NULL), 0);
	assert_int_equal(layer_open_raw_take(store, path, &layer, NULL), 0);
	layer_info(layer, &info);
	assert_true(info.raw);
	assert_int_equal(info.size_bytes, image.size);
	layer_free(layer);
	image_free(&image);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_dynamic_disk_opens_with_all_its_parts),
		cmocka_unit_test(a_fixed_disk_opens),
		cmocka_unit_test(the_footer_is_found_at_the_end_in_511_bytes_or_in_the_copy),
		cmocka_unit_test(the_footer_at_the_end_wins_over_a_copy_that_differs),
		cmocka_unit_test(the_copy_of_a_fixed_disk_is_never_believed),
		cmocka_unit_test(damage_is_listed_or_refused_by_the_same_rules),
		cmocka_unit_test(a_header_that_is_lost_leaves_nothing_to_collect),
		cmocka_unit_test(a_batmap_is_recognised_and_its_checksum_verified),
		cmocka_unit_test(a_raw_file_is_a_layer_of_its_own_size),
	};

	return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
