/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The marked footer of a fixed disk that was growing: found where it is, and nowhere else, whatever a guest writes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "tests/lib/image-builder.h"
#include "tests/lib/store-memory.h"
#include "vhd/layer.h"
#include "vhd/resize-mark.h"

#define KIB(n) ((uint64_t)(n) << 10)

/* A footer of a fixed disk of `size` bytes, marked for a file of `file_size`, as it would lie at `offset`. */
static struct footer_disk marked(uint64_t size, uint64_t offset, uint64_t file_size)
{
	const struct image_spec spec = {.type = IMAGE_FIXED, .size = size, .uuid_seed = 9};
	struct footer_disk disk;
	struct footer footer;
	struct image image;

	image_build(&spec, &image);
	memcpy(&disk, image.bytes + image.footer, sizeof(disk));
	image_free(&image);
	assert_int_equal(footer_decode(&disk, false, &footer, NULL), 0);
	resize_mark_set(&footer, RESIZE_MARK_GROWING, offset, file_size);
	footer_encode(&footer, &disk);
	return disk;
}

/* The image with `footer` at `at`, and the given size; *ret has footer and size only, and is freed with free(). */
static int open_as(const struct image_spec *spec, const struct footer_disk *footer, uint64_t at, uint64_t file_size,
                   struct layer **ret)
{
	struct memory_file *file;
	struct sparse content;
	struct image image;
	struct err err;
	int rc;

	image_build(spec, &image);
	sparse_init(&content);
	sparse_write(&content, image.bytes, image.size, 0);
	image_free(&image);
	sparse_write(&content, footer, sizeof(*footer), at);
	sparse_truncate(&content, file_size);
	file = memory_file_new(&content);
	rc = layer_open_take(store_memory_open(file, 0), "/fake/leaf.vhd", NULL, ret, &err);
	/* What is looked at outlives the file. */
	if (rc == 0) {
		struct layer *layer = *ret, *copy = calloc(1, sizeof(*copy));

		copy->footer = layer->footer;
		copy->footer_source = layer->footer_source;
		copy->size = layer->size;
		layer_free(layer);
		*ret = copy;
	}
	memory_file_free(file);
	return rc;
}

static void sizes_tell_where_the_marked_footer_is(void **state)
{
	static const uint64_t offsets[] = {512, KIB(1), KIB(64) + 512, UINT64_C(2040) << 30};

	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		for (uint64_t end = offsets[i] + 1024; end < (UINT64_C(4) << 40); end = end * 3 / 512 * 512) {
			uint64_t size = growing_file_size(offsets[i], end), found;

			assert_true(size > end && (size < 2 * end + 512 || size < 4 * offsets[i] + 4096));
			assert_true(growing_footer_offset(size, &found));
			assert_int_equal(found, offsets[i]);
			assert_false(growing_footer_offset(size - size % 512, &found));
			assert_false(growing_footer_offset(size - size % 512 - 1, &found));
		}
	}
}

static void a_marked_footer_counts_in_its_own_place_and_size_only(void **state)
{
	const struct image_spec spec = {.type = IMAGE_FIXED, .size = KIB(32), .fixed_seed = 3, .uuid_seed = 9};
	uint64_t size = growing_file_size(KIB(32), KIB(100)), other = growing_file_size(KIB(32), KIB(200));
	struct footer_disk footer = marked(KIB(32), KIB(32), size);
	struct layer *layer;

	(void)state;
	assert_int_equal(open_as(&spec, &footer, KIB(32), size, &layer), 0);
	assert_int_equal(layer->footer_source, FOOTER_GROWING);
	assert_int_equal(layer->size, KIB(32));
	free(layer);
	/* Another size, another place, a size of its disk that does not fit, no mark, a wrong checksum. */
	assert_int_equal(open_as(&spec, &footer, KIB(32), other, &layer), VHD_E_NOT_VHD);
	assert_int_equal(open_as(&spec, &footer, KIB(32), size - 1, &layer), VHD_E_NOT_VHD);
	assert_int_equal(open_as(&spec, &footer, KIB(32), size / 512 * 512, &layer), VHD_E_NOT_VHD);
	assert_int_equal(open_as(&spec, &footer, KIB(33), size, &layer), VHD_E_NOT_VHD);
	footer = marked(KIB(33), KIB(32), size);
	assert_int_equal(open_as(&spec, &footer, KIB(32), size, &layer), VHD_E_NOT_VHD);
	footer = marked(KIB(32), KIB(33), size);
	assert_int_equal(open_as(&spec, &footer, KIB(32), size, &layer), VHD_E_NOT_VHD);
	footer = marked(KIB(32), KIB(32), size);
	footer.checksum.b[0] ^= 1;
	assert_int_equal(open_as(&spec, &footer, KIB(32), size, &layer), VHD_E_NOT_VHD);
}

/* While its disk grows, a guest's first sector is a copy of a footer as a dynamic disk has it. */
static void a_forged_copy_does_not_count_where_a_marked_footer_does(void **state)
{
	const struct image_spec guest = {.type = IMAGE_DYNAMIC, .size = KIB(16), .block_size = 4096, .uuid_seed = 7,
	                                 .block_count = 1, .blocks = {{.index = 1, .seed = 5}}};
	uint64_t size = growing_file_size(KIB(32), KIB(100));
	struct footer_disk footer = marked(KIB(32), KIB(32), size);
	struct layer *layer;

	(void)state;
	assert_int_equal(open_as(&guest, &footer, KIB(32), size, &layer), 0);
	assert_int_equal(layer->footer_source, FOOTER_GROWING);
	assert_int_equal(layer->footer.type, VHD_FIXED);
	free(layer);
}

/* The guest of a dynamic disk whose footer is gone puts marked footers wherever one could be looked for. */
static void a_forged_mark_does_not_count_in_a_dynamic_disk(void **state)
{
	const struct image_spec spec = {.type = IMAGE_DYNAMIC, .size = KIB(64), .block_size = 65536, .uuid_seed = 7,
	                                .block_count = 1, .blocks = {{.seed = 5}}, .no_footer = true};

	(void)state;
	for (uint64_t at = KIB(8); at < KIB(60); at += 512) {
		for (uint64_t file_size = KIB(80); file_size < KIB(140); file_size += KIB(4)) {
			struct footer_disk footer = marked(KIB(4), at, file_size);
			struct layer *layer;

			if (file_size % (at + 512))
				continue;
			assert_int_equal(open_as(&spec, &footer, at, file_size, &layer), 0);
			assert_int_equal(layer->footer_source, FOOTER_FROM_COPY);
			assert_int_equal(layer->footer.type, VHD_DYNAMIC);
			free(layer);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes_tell_where_the_marked_footer_is),
		cmocka_unit_test(a_marked_footer_counts_in_its_own_place_and_size_only),
		cmocka_unit_test(a_forged_copy_does_not_count_where_a_marked_footer_does),
		cmocka_unit_test(a_forged_mark_does_not_count_in_a_dynamic_disk),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
