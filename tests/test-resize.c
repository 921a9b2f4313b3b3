/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Other sizes for disks of every kind and layout: content, structure, refusals. tests/test-resize-crash.c has the rest. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/lib/disk.h"
#include "tests/lib/image-builder.h"
#include "tests/lib/random.h"
#include "tests/lib/ring-inline.h"
#include "tests/lib/scribble.h"
#include "tests/lib/temp-dir.h"
#include "tests/lib/upkept.h"

#define KIB(n) ((uint64_t)(n) << 10)
#define MIB(n) ((uint64_t)(n) << 20)

/* Where the leaf is said to be, in memory as it is: nobody there stands on it. */
static char *folder;
static int leaf_fd;

static void must(int rc, const struct err *err)
{
	if (rc)
		fail_msg("%d: %s", rc, err->text);
}

static void open_disk(struct disk *disk, bool write, struct vhd **ret)
{
	struct store *stores[DISK_LAYERS];
	struct err err = {""};

	for (unsigned i = 0; i < disk->layers; i++)
		stores[i] = store_memory_open(disk->files[i], i == 0 && write ? STORE_WRITE : 0);
	stores[0]->file.fd = leaf_fd;
	must(upkept_open_take(stores, disk->layers, folder, ret, &err), &err);
}

static void close_disk(struct vhd *vhd)
{
	struct err err = {""};

	must(vhd_close(vhd, &err), &err);
}

static uint64_t size_of(struct vhd *vhd)
{
	struct blk_info info;

	blk_info(vhd_blk(vhd), &info);
	return info.size;
}

/* The model as long as `size`; what is new is zero. */
static void model_resize(struct disk *disk, uint64_t size)
{
	disk->content = realloc(disk->content, size);
	assert_non_null(disk->content);
	if (size > disk->size)
		memset(disk->content + disk->size, 0, size - disk->size);
	disk->size = size;
}

static void told(void *user, uint64_t size)
{
	*(uint64_t *)user = size;
}

static void resize_to(struct vhd *vhd, struct disk *disk, uint64_t size, bool force)
{
	const struct vhd_resize_options options = {.force = force};
	uint64_t heard = 0;
	struct vhd_info info;
	struct err err = {""};

	vhd_on_resize(vhd, told, &heard);
	must(vhd_resize(vhd, size, &options, NULL, &err), &err);
	assert_int_equal(heard, size == disk->size ? 0 : size);
	assert_int_equal(size_of(vhd), size);
	vhd_layer_info(vhd, 0, &info);
	assert_int_equal(info.size_bytes, size);
	model_resize(disk, size);
	must(scribble_compare(vhd_blk(vhd), disk->content, &err), &err);
}

static void scribble(struct vhd *vhd, struct disk *disk, uint64_t seed)
{
	const struct scribble options = {.seed = seed, .requests = 150, .threads = 1, .depth = 4, .max_length = 32768};
	struct err err = {""};

	must(scribble_run(vhd_blk(vhd), disk->content, &options, &err), &err);
}

static void check_closed(struct disk *disk)
{
	struct err err = {""};
	struct vhd *vhd;
	struct vhd_info info;

	must(upkept_check(disk->files[0], NULL, &err), &err);
	open_disk(disk, false, &vhd);
	assert_int_equal(size_of(vhd), disk->size);
	vhd_layer_info(vhd, 0, &info);
	assert_int_equal(info.footer_from_copy, false);
	must(scribble_compare(vhd_blk(vhd), disk->content, &err), &err);
	close_disk(vhd);
}

/* Up and down, with requests and reopenings between. */
static void resize_about(const struct disk_spec *spec, const uint64_t *sizes, unsigned count)
{
	struct disk disk;
	struct vhd *vhd;

	disk_make(spec, &disk);
	open_disk(&disk, true, &vhd);
	for (unsigned i = 0; i < count; i++) {
		scribble(vhd, &disk, spec->seed + i);
		resize_to(vhd, &disk, sizes[i], true);
		scribble(vhd, &disk, spec->seed + 100 + i);
		if (i % 2) {
			close_disk(vhd);
			check_closed(&disk);
			open_disk(&disk, true, &vhd);
		}
	}
	close_disk(vhd);
	check_closed(&disk);
	disk_done(&disk);
}

static void fixed_disks_grow_and_shrink(void **state)
{
	static const uint64_t sizes[] = {KIB(300), KIB(301), KIB(300) + 512, KIB(64), KIB(1000), KIB(1), KIB(128)};
	const struct disk_spec spec = {.type = DISK_FIXED, .size = KIB(128), .seed = 1};

	(void)state;
	resize_about(&spec, sizes, 7);
}

static void dynamic_disks_grow_and_shrink(void **state)
{
	static const uint64_t sizes[] = {KIB(300), MIB(5), MIB(5) + 512, KIB(700), MIB(9), MIB(9) + 1536, KIB(64), MIB(6)};
	static const uint32_t blocks[] = {4096, 8192, 65536, 2u << 20};

	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		const struct disk_spec spec = {.type = DISK_DYNAMIC, .size = KIB(200) + 512, .block_size = blocks[i],
		                               .blocks = 12, .partial = i % 2, .stale = i % 2, .seed = 10 + i};

		resize_about(&spec, sizes, 8);
	}
}

static void differencing_disks_grow_and_shrink(void **state)
{
	static const uint64_t sizes[] = {KIB(300), KIB(96), MIB(5), KIB(1000) + 512, KIB(50), MIB(6), KIB(200)};
	static const uint32_t blocks[] = {4096, 16384, 65536};

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		const struct disk_spec spec = {.type = DISK_DIFFERENCING, .size = KIB(200) + 512, .block_size = blocks[i],
		                               .layers = 2 + i, .blocks = 9, .partial = true, .stale = true, .seed = 20 + i};

		resize_about(&spec, sizes, 7);
	}
}

/* --- foreign layouts --- */

static void foreign(struct image_spec *spec, const uint64_t *sizes, unsigned count)
{
	struct disk disk = {.layers = 1, .size = spec->size, .content = calloc(1, spec->size)};
	struct sparse content;
	struct image image;
	struct vhd *vhd;

	image_build(spec, &image);
	image_content(spec, disk.content);
	sparse_init(&content);
	sparse_write(&content, image.bytes, image.size, 0);
	disk.files[0] = memory_file_new(&content);
	image_free(&image);
	open_disk(&disk, true, &vhd);
	for (unsigned i = 0; i < count; i++) {
		resize_to(vhd, &disk, sizes[i], true);
		scribble(vhd, &disk, 40 + i);
		close_disk(vhd);
		check_closed(&disk);
		open_disk(&disk, true, &vhd);
	}
	close_disk(vhd);
	disk_done(&disk);
}

static const struct image_spec foreign_spec = {
	.size = KIB(128), .block_size = 4096, .block_count = 4,
	.blocks = {{.index = 0, .seed = 1}, {.index = 31, .seed = 2, .clear = 0x0f}, {.index = 7, .seed = 3, .gap_sectors = 3},
	           {.index = 8, .seed = 4}},
};
static const uint64_t foreign_sizes[] = {KIB(1024), MIB(8), KIB(100), MIB(9) + 512};

static void a_batmap_moves_with_the_table(void **state)
{
	struct image_spec spec = foreign_spec;
	struct disk disk = {.layers = 1, .size = spec.size, .content = calloc(1, spec.size)};
	struct vhd_info info;
	struct sparse content;
	struct image image;
	struct vhd *vhd;

	(void)state;
	spec.batmap = true;
	spec.creator = "tap";
	foreign(&spec, foreign_sizes, 4);

	image_build(&spec, &image);
	image_content(&spec, disk.content);
	sparse_init(&content);
	sparse_write(&content, image.bytes, image.size, 0);
	disk.files[0] = memory_file_new(&content);
	image_free(&image);
	open_disk(&disk, true, &vhd);
	resize_to(vhd, &disk, MIB(20), false);
	close_disk(vhd);
	open_disk(&disk, false, &vhd);
	vhd_layer_info(vhd, 0, &info);
	assert_true(info.has_batmap);
	close_disk(vhd);
	check_closed(&disk);
	disk_done(&disk);
}

static void a_table_far_from_the_header_grows(void **state)
{
	struct image_spec spec = foreign_spec;

	(void)state;
	spec.header_gap_sectors = 7;
	spec.bat_gap_sectors = 5;
	spec.footer_gap_sectors = 9;
	foreign(&spec, foreign_sizes, 4);
}

static void a_table_with_locators_behind_it_moves(void **state)
{
	struct image_spec spec = foreign_spec;

	(void)state;
	spec.locators[0] = (struct image_locator){.code = "W2ru", .text = "elsewhere.vhd"};
	foreign(&spec, foreign_sizes, 4);
	spec.locators[1] = (struct image_locator){.code = "W2ku", .text = "/behind/everything.vhd", .after_blocks = true};
	foreign(&spec, foreign_sizes, 4);
}

static void a_table_with_room_is_cleared_before_it_is_used(void **state)
{
	struct image_spec spec = foreign_spec;
	struct disk disk = {.layers = 1, .size = spec.size, .content = calloc(1, spec.size)};
	struct sparse content;
	struct image image;
	struct vhd *vhd;

	(void)state;
	spec.max_table_entries = 4096;
	image_build(&spec, &image);
	image_content(&spec, disk.content);
	/* Beyond the disk's entries: one of a block that is there, and one of none. */
	image_put(&image, image.bat + 32 * 4, 4, image.blocks[0] / 512);
	image_put(&image, image.bat + 300 * 4, 4, 0x12345678);
	sparse_init(&content);
	sparse_write(&content, image.bytes, image.size, 0);
	disk.files[0] = memory_file_new(&content);
	image_free(&image);
	open_disk(&disk, true, &vhd);
	resize_to(vhd, &disk, MIB(8), false);
	scribble(vhd, &disk, 5);
	close_disk(vhd);
	check_closed(&disk);
	disk_done(&disk);
}

/* --- parents of other sizes --- */

static struct memory_file *file_of(const struct image_spec *spec)
{
	struct memory_file *file;
	struct sparse content;
	struct image image;

	image_build(spec, &image);
	sparse_init(&content);
	sparse_write(&content, image.bytes, image.size, 0);
	file = memory_file_new(&content);
	image_free(&image);
	return file;
}

/* Base 64 KiB, middle 20 KiB + 512, leaf `leaf_size`. */
static void make_uneven(struct disk *disk, uint64_t leaf_size, bool middle_holds)
{
	const struct image_spec base = {.size = KIB(64), .block_size = 4096, .uuid_seed = 3, .block_count = 3,
	                                .blocks = {{.index = 3, .seed = 1}, {.index = 5, .seed = 2}, {.index = 9, .seed = 3}}};
	const struct image_spec middle = {.type = IMAGE_DIFFERENCING, .size = KIB(20) + 512, .block_size = 4096,
	                                  .uuid_seed = 2, .parent_uuid_seed = 3, .parent_name = "b.vhd",
	                                  .block_count = middle_holds,
	                                  .blocks = {{.index = 5, .seed = 7, .clear = 0xff}}};
	const struct image_spec leaf = {.type = IMAGE_DIFFERENCING, .size = leaf_size, .block_size = 4096,
	                                .uuid_seed = 1, .parent_uuid_seed = 2, .parent_name = "m.vhd"};
	uint8_t *content = calloc(1, KIB(64));

	image_content(&base, content);
	memset(content + KIB(20) + 512, 0, KIB(64) - KIB(20) - 512);
	*disk = (struct disk){.layers = 3, .size = leaf_size, .content = calloc(1, KIB(64))};
	memcpy(disk->content, content, leaf_size);
	free(content);
	disk->files[0] = file_of(&leaf);
	disk->files[1] = file_of(&middle);
	disk->files[2] = file_of(&base);
}

static void a_shorter_layer_hides_what_lies_below_its_end(void **state)
{
	(void)state;
	for (unsigned holds = 0; holds < 2; holds++) {
		struct disk disk;
		struct err err = {""};
		struct vhd *vhd;

		make_uneven(&disk, KIB(48), holds);
		open_disk(&disk, true, &vhd);
		must(scribble_compare(vhd_blk(vhd), disk.content, &err), &err);
		scribble(vhd, &disk, 3);
		close_disk(vhd);
		check_closed(&disk);
		disk_done(&disk);
	}
}

static void a_longer_parent_does_not_show_when_its_child_grows(void **state)
{
	const struct image_spec base = {.size = KIB(64), .block_size = 8192, .uuid_seed = 3, .block_count = 4,
	                                .blocks = {{.index = 1, .seed = 1}, {.index = 2, .seed = 2}, {.index = 3, .seed = 3},
	                                           {.index = 7, .seed = 4}}};
	const struct image_spec leaf = {.type = IMAGE_DIFFERENCING, .size = KIB(21) + 512, .block_size = 4096,
	                                .uuid_seed = 1, .parent_uuid_seed = 3, .parent_name = "b.vhd", .stale = true,
	                                .block_count = 1, .blocks = {{.index = 5, .seed = 9, .clear = 0x5a}}};

	(void)state;
	for (unsigned fixed_base = 0; fixed_base < 2; fixed_base++) {
		struct image_spec below = base;
		struct disk disk = {.layers = 2, .size = leaf.size, .content = calloc(1, KIB(64))};
		struct vhd *vhd;

		if (fixed_base)
			below = (struct image_spec){.type = IMAGE_FIXED, .size = KIB(64), .fixed_seed = 5, .uuid_seed = 3};
		image_content(&below, disk.content);
		image_overlay(&leaf, disk.content);
		disk.files[0] = file_of(&leaf);
		disk.files[1] = file_of(&below);
		open_disk(&disk, true, &vhd);
		resize_to(vhd, &disk, KIB(40), false);
		resize_to(vhd, &disk, KIB(100), false);
		resize_to(vhd, &disk, KIB(10), true);
		resize_to(vhd, &disk, KIB(70), false);
		scribble(vhd, &disk, 6);
		close_disk(vhd);
		check_closed(&disk);
		disk_done(&disk);
	}
}

/* --- refusals --- */

static int try_resize(struct vhd *vhd, uint64_t size, uint64_t *cut, const char *needle)
{
	struct vhd_resize_result result;
	struct err err = {""};
	uint64_t before = size_of(vhd);
	int rc = vhd_resize(vhd, size, NULL, &result, &err);

	if (cut)
		*cut = result.cut_bytes;
	if (rc) {
		assert_non_null(strstr(err.text, needle));
		assert_int_equal(size_of(vhd), before);
	}
	return rc;
}

static void what_would_be_lost_is_counted_and_kept(void **state)
{
	static const enum disk_type types[] = {DISK_FIXED, DISK_DYNAMIC, DISK_DIFFERENCING};

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		const struct disk_spec spec = {.type = types[i], .size = KIB(256), .block_size = i ? 16384 : 0, .layers = 2};
		struct blk_queue *queue;
		struct err err = {""};
		struct disk disk;
		struct vhd *vhd;
		uint64_t cut;

		disk_make(&spec, &disk);
		open_disk(&disk, true, &vhd);
		must(blk_queue_new(vhd_blk(vhd), NULL, &queue, &err), &err);
		memset(disk.content + KIB(17), 0x77, KIB(4));
		must(blk_pwrite(queue, disk.content, spec.size, 0), &err);
		must(blk_discard(queue, KIB(32), KIB(256 - 32)), &err);
		memset(disk.content + KIB(32), 0, KIB(256 - 32));
		if (i == 0) { /* else the whole block counts, up to its end of data */
			memset(disk.content, 0, KIB(16));
			memset(disk.content + KIB(21), 0, KIB(11));
			must(blk_pwrite(queue, disk.content, spec.size, 0), &err);
		}
		assert_int_equal(try_resize(vhd, KIB(32), &cut, ""), 0);
		model_resize(&disk, KIB(32));
		assert_int_equal(try_resize(vhd, KIB(16), &cut, "would be lost"), VHD_E_WOULD_LOSE);
		assert_true(cut > 0 && cut <= KIB(16));
		must(scribble_compare(vhd_blk(vhd), disk.content, &err), &err);
		assert_int_equal(try_resize(vhd, KIB(20), &cut, "would be lost"), VHD_E_WOULD_LOSE);
		assert_true(cut >= KIB(1));
		blk_queue_free(queue);
		resize_to(vhd, &disk, KIB(16), true);
		resize_to(vhd, &disk, KIB(64), false);
		close_disk(vhd);
		check_closed(&disk);
		disk_done(&disk);
	}
}

static void sizes_that_cannot_be_are_refused(void **state)
{
	const struct disk_spec spec = {.type = DISK_DYNAMIC, .size = KIB(256), .block_size = 4096, .blocks = 3, .seed = 5};
	struct disk disk;
	struct vhd *vhd;

	(void)state;
	disk_make(&spec, &disk);
	open_disk(&disk, true, &vhd);
	assert_int_equal(try_resize(vhd, 0, NULL, "not a multiple of 512"), -EINVAL);
	assert_int_equal(try_resize(vhd, KIB(100) + 1, NULL, "not a multiple of 512"), -EINVAL);
	assert_int_equal(try_resize(vhd, VHD_MAX_SIZE + 512, NULL, "2040 GiB"), -EINVAL);
	assert_int_equal(try_resize(vhd, VHD_MAX_SIZE, NULL, "larger blocks"), -EINVAL);
	close_disk(vhd);
	check_closed(&disk);
	open_disk(&disk, false, &vhd);
	assert_int_equal(try_resize(vhd, MIB(1), NULL, "reading only"), -EROFS);
	close_disk(vhd);
	disk_done(&disk);
}

static void a_saved_state_is_in_the_way_without_force(void **state)
{
	struct image_spec spec = foreign_spec;
	struct image_edit edit = {.part = IMAGE_FOOTERS, .at = F_SAVED, .width = 1, .value = 1};
	struct disk disk = {.layers = 1, .size = spec.size, .content = calloc(1, spec.size)};
	struct sparse content;
	struct image image;
	struct vhd *vhd;

	(void)state;
	image_build(&spec, &image);
	image_edit(&image, &edit);
	image_content(&spec, disk.content);
	sparse_init(&content);
	sparse_write(&content, image.bytes, image.size, 0);
	disk.files[0] = memory_file_new(&content);
	image_free(&image);
	open_disk(&disk, true, &vhd);
	assert_int_equal(try_resize(vhd, MIB(1), NULL, "saved state"), -EPERM);
	resize_to(vhd, &disk, MIB(1), true);
	close_disk(vhd);
	disk_done(&disk);
}

static void a_parent_is_not_resized_without_force(void **state)
{
	struct vhd_create_options child = {0};
	struct vhd_resize_options force = {.force = true};
	struct vhd_open_options write = {.flags = VHD_OPEN_WRITE};
	char base[300], leaf[300];
	struct err err = {""};
	struct vhd *vhd;

	(void)state;
	snprintf(base, sizeof(base), "%s/base.vhd", folder);
	snprintf(leaf, sizeof(leaf), "%s/leaf.vhd", folder);
	must(vhd_create(base, &(struct vhd_create_options){.size_bytes = MIB(4)}, &err), &err);
	child.parent = base;
	must(vhd_create(leaf, &child, &err), &err);
	must(vhd_open(base, &(struct vhd_open_options){.flags = VHD_OPEN_WRITE | VHD_OPEN_DESPITE_CHILDREN}, &vhd, &err),
	     &err);
	assert_int_equal(try_resize(vhd, MIB(8), NULL, "leaf.vhd"), VHD_E_HAS_CHILDREN);
	must(vhd_resize(vhd, MIB(8), &force, NULL, &err), &err);
	must(vhd_close(vhd, &err), &err);
	/* The child itself: its table, behind which locators lie, moves. */
	must(vhd_open(leaf, &write, &vhd, &err), &err);
	must(vhd_resize(vhd, MIB(4096), NULL, NULL, &err), &err);
	must(vhd_close(vhd, &err), &err);
	must(vhd_check(leaf, &(struct vhd_check_options){0}, &(struct vhd_check_result){0}, &err), &err);
	unlink(leaf);
	unlink(base);
}

/* --- while others are at work --- */

struct at_work {
	struct vhd *vhd;
	uint8_t *model;
	uint64_t seed;
	unsigned requests;
	_Atomic bool stop;
	int rc;
	struct err err;
};

static void *work(void *arg)
{
	struct at_work *w = arg;

	for (unsigned round = 0; w->rc == 0 && !atomic_load(&w->stop); round++) {
		struct scribble options = {.seed = w->seed + round, .requests = w->requests, .threads = 2, .depth = 6,
		                           .max_length = 65536};

		w->rc = scribble_run(vhd_blk(w->vhd), w->model, &options, &w->err);
	}
	return NULL;
}

static void grow_at_work(const struct disk_spec *spec)
{
	struct at_work w = {.seed = spec->seed, .requests = 200};
	struct disk disk;
	struct err err = {""};
	uint64_t first = spec->size;
	pthread_t thread;

	disk_make(spec, &disk);
	open_disk(&disk, true, &w.vhd);
	for (unsigned i = 0; i < 4; i++) {
		uint64_t size = first + (i + 1) * MIB(3) + i * 512;

		/* scribble_run works on the size that the disk has when it begins. */
		w.model = disk.content;
		atomic_store(&w.stop, false);
		assert_int_equal(pthread_create(&thread, NULL, work, &w), 0);
		usleep(20000);
		must(vhd_resize(w.vhd, size, NULL, NULL, &err), &err);
		atomic_store(&w.stop, true);
		pthread_join(thread, NULL);
		must(w.rc, &w.err);
		model_resize(&disk, size);
		must(scribble_compare(vhd_blk(w.vhd), disk.content, &err), &err);
	}
	close_disk(w.vhd);
	check_closed(&disk);
	disk_done(&disk);
}

static void a_fixed_disk_grows_while_others_are_at_work(void **state)
{
	const struct disk_spec spec = {.type = DISK_FIXED, .size = MIB(1), .seed = 61};

	(void)state;
	grow_at_work(&spec);
}

static void a_dynamic_disk_grows_while_others_are_at_work(void **state)
{
	const struct disk_spec spec = {.type = DISK_DYNAMIC, .size = MIB(1) + 512, .block_size = 4096, .blocks = 16, .seed = 62};

	(void)state;
	grow_at_work(&spec);
}

static void a_differencing_disk_grows_while_others_are_at_work(void **state)
{
	const struct disk_spec spec = {.type = DISK_DIFFERENCING, .size = MIB(1) + 512, .block_size = 8192, .layers = 3,
	                               .blocks = 16, .partial = true, .stale = true, .seed = 63};

	(void)state;
	grow_at_work(&spec);
}

/* --- shrinking under those who should not be there --- */

struct intruder {
	struct vhd *vhd;
	uint64_t reach;
	_Atomic bool stop;
	int rc;
};

static void *intrude(void *arg)
{
	struct intruder *i = arg;
	struct rng rng = rng_fork(7, i->reach);
	struct blk_queue *queue;
	struct err err;
	uint8_t bytes[8192];

	memset(bytes, 0x5a, sizeof(bytes));
	i->rc = blk_queue_new(vhd_blk(i->vhd), NULL, &queue, &err);
	while (i->rc == 0 && !atomic_load(&i->stop)) {
		uint64_t at = rng_below(&rng, (i->reach - sizeof(bytes)) / 512) * 512;
		unsigned dice = (unsigned)rng_below(&rng, 10);
		int rc = dice < 5 ? blk_pwrite(queue, bytes, sizeof(bytes), at)
		         : dice < 7 ? blk_discard(queue, at, sizeof(bytes))
		         : dice < 8 ? blk_flush(queue) : blk_pread(queue, bytes, sizeof(bytes), at);

		if (rc && rc != -EINVAL)
			i->rc = rc;
	}
	blk_queue_free(queue);
	return NULL;
}

static void requests_beyond_a_smaller_end_are_refused_and_harm_nothing(void **state)
{
	static const enum disk_type types[] = {DISK_FIXED, DISK_DYNAMIC, DISK_DIFFERENCING};

	(void)state;
	for (unsigned t = 0; t < 3; t++) {
		const struct disk_spec spec = {.type = types[t], .size = KIB(512), .block_size = t ? 8192 : 0, .layers = 2,
		                               .blocks = 9, .seed = 70 + t};
		const struct vhd_resize_options force = {.force = true};
		struct intruder in = {.reach = KIB(1024)};
		struct err err = {""};
		struct disk disk;
		pthread_t thread;

		disk_make(&spec, &disk);
		open_disk(&disk, true, &in.vhd);
		assert_int_equal(pthread_create(&thread, NULL, intrude, &in), 0);
		for (unsigned i = 0; i < 12; i++)
			must(vhd_resize(in.vhd, i % 2 ? KIB(1024) : KIB(100 + 31 * i), &force, NULL, &err), &err);
		atomic_store(&in.stop, true);
		pthread_join(thread, NULL);
		assert_int_equal(in.rc, 0);
		close_disk(in.vhd);
		must(upkept_check(disk.files[0], NULL, &err), &err);
		disk_done(&disk);
	}
}

static int group_setup(void **state)
{
	char path[300];

	(void)state;
	folder = temp_dir_new("resize");
	snprintf(path, sizeof(path), "%s/layer-0.vhd", folder);
	leaf_fd = open(path, O_RDWR | O_CREAT, 0600);
	return leaf_fd < 0 ? -1 : 0;
}

static int group_teardown(void **state)
{
	(void)state;
	close(leaf_fd);
	temp_dir_free(folder);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fixed_disks_grow_and_shrink),
		cmocka_unit_test(dynamic_disks_grow_and_shrink),
		cmocka_unit_test(differencing_disks_grow_and_shrink),
		cmocka_unit_test(a_batmap_moves_with_the_table),
		cmocka_unit_test(a_table_far_from_the_header_grows),
		cmocka_unit_test(a_table_with_locators_behind_it_moves),
		cmocka_unit_test(a_table_with_room_is_cleared_before_it_is_used),
		cmocka_unit_test(a_shorter_layer_hides_what_lies_below_its_end),
		cmocka_unit_test(a_longer_parent_does_not_show_when_its_child_grows),
		cmocka_unit_test(what_would_be_lost_is_counted_and_kept),
		cmocka_unit_test(sizes_that_cannot_be_are_refused),
		cmocka_unit_test(a_saved_state_is_in_the_way_without_force),
		cmocka_unit_test(a_parent_is_not_resized_without_force),
		cmocka_unit_test(a_fixed_disk_grows_while_others_are_at_work),
		cmocka_unit_test(a_dynamic_disk_grows_while_others_are_at_work),
		cmocka_unit_test(a_differencing_disk_grows_while_others_are_at_work),
		cmocka_unit_test(requests_beyond_a_smaller_end_are_refused_and_harm_nothing),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
