/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A whole file: the first byte says which checksums to make right and what to do, the rest is the image. Opened
 * strictly and with salvage, read, mapped and checked; what opens strictly is also written, and has to be as sound
 * afterwards as before and to read back what was written.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/fuzz/fuzz.h"
#include "tests/lib/image-builder.h"
#include "tests/lib/temp-dir.h"
#include "vhd/vhd.h"

#define FIX_FOOTERS 1u
#define FIX_HEADER 2u
#define WRITE 4u
#define IMAGE_MAX_BYTES (1u << 20)
#define READ_MAX_BYTES (256u << 10)

static char *dir;
static char path[512];

static void remove_dir(void)
{
	temp_dir_free(dir);
	dir = NULL;
}

/* A parent that differencing inputs can name: "base.vhd", its UUID by seed 50. */
static void make_dir(void)
{
	struct image image;
	char base[512];

	setenv("VHDKIT_IO", "threads", 0);
	dir = temp_dir_new("fuzz");
	atexit(remove_dir);
	snprintf(path, sizeof(path), "%s/disk.vhd", dir);
	snprintf(base, sizeof(base), "%s/base.vhd", dir);
	image_build(&(struct image_spec){.size = 16384, .uuid_seed = 50, .block_count = 2,
	                                 .blocks = {{.index = 1, .seed = 1}, {.index = 3, .seed = 2, .clear = 0x18}}},
	            &image);
	FUZZ_ASSERT(image_write(&image, base) == 0);
	image_free(&image);
}

static void on_warning(void *user, const char *sentence)
{
	FUZZ_ASSERT(sentence && sentence[0]);
	(void)user;
}

static void on_defect(void *user, const struct vhd_defect *defect)
{
	FUZZ_ASSERT(defect->code && defect->path && defect->sentence && defect->sentence[0]);
	(void)user;
}

static void disk_read(struct vhd *vhd)
{
	static uint8_t buffer[32768];
	struct blk *blk = vhd_blk(vhd);
	struct blk_extent extents[16];
	struct blk_queue *queue;
	struct blk_info info;
	uint64_t end;
	int count;

	blk_info(blk, &info);
	FUZZ_ASSERT(info.size && info.size <= VHD_MAX_SIZE && info.size % 512 == 0);
	FUZZ_ASSERT(blk_queue_new(blk, NULL, &queue, NULL) == 0);
	end = info.size < READ_MAX_BYTES ? info.size : READ_MAX_BYTES;
	for (uint64_t at = 0; at < end; at += sizeof(buffer))
		FUZZ_ASSERT(blk_pread(queue, buffer, end - at < sizeof(buffer) ? end - at : sizeof(buffer), at) <= 0);
	FUZZ_ASSERT(blk_pread(queue, buffer, 512, info.size - 512) <= 0);
	blk_queue_free(queue);

	count = blk_map(blk, 0, info.size, extents, 16, NULL);
	FUZZ_ASSERT(count <= 16 && count != 0);
	if (count < 0)
		return;
	for (int i = 0; i < count; i++) {
		FUZZ_ASSERT(extents[i].length && extents[i].offset == (i ? extents[i - 1].offset + extents[i - 1].length : 0));
		FUZZ_ASSERT(extents[i].length <= info.size - extents[i].offset);
		FUZZ_ASSERT(extents[i].kind == BLK_EXTENT_ZERO || extents[i].layer < vhd_layer_count(vhd));
	}
	blk_unmap(blk);
}

static int image_open(unsigned flags)
{
	struct vhd_open_options options = {.flags = flags, .warn = on_warning};
	struct err err = {.text = ""};
	struct vhd *vhd;
	int result = vhd_open(path, &options, &vhd, &err);

	if (result) {
		FUZZ_ASSERT(err.text[0]);
		return result;
	}
	for (unsigned i = 0; i < vhd_layer_count(vhd); i++) {
		struct vhd_info info;

		vhd_layer_info(vhd, i, &info);
		FUZZ_ASSERT(info.path);
	}
	disk_read(vhd);
	FUZZ_ASSERT(vhd_close(vhd, NULL) == 0);
	return 0;
}

static int image_check(struct vhd_check_result *ret)
{
	struct vhd_check_options options = {.defect = on_defect};
	struct err err = {.text = ""};
	int result = vhd_check(path, &options, ret, &err);

	FUZZ_ASSERT(result != 0 || ret->damages == 0);
	FUZZ_ASSERT(result == 0 || result == VHD_E_CORRUPT || err.text[0]);
	return result;
}

/* The input's own bytes say where and what to write, so that the fuzzer can steer it. */
static void image_change(const uint8_t *data, size_t size)
{
	struct vhd_open_options options = {.flags = VHD_OPEN_WRITE};
	struct blk_queue *queue;
	struct blk_info info;
	struct vhd *vhd;
	uint8_t content[1024], back[1024];
	uint64_t at = 0;

	if (vhd_open(path, &options, &vhd, NULL))
		return;
	blk_info(vhd_blk(vhd), &info);
	if (info.read_only || info.size < sizeof(content)) {
		vhd_close(vhd, NULL);
		return;
	}
	FUZZ_ASSERT(blk_queue_new(vhd_blk(vhd), NULL, &queue, NULL) == 0);
	for (size_t i = 0; i < 4 && i + 8 < size; i++) {
		at = (uint64_t)(data[i] * 4u + data[i + 4] % 4u) * 512 % (info.size - sizeof(content) + 512);
		memset(content, data[i + 4] | 1, sizeof(content));
		FUZZ_ASSERT(blk_pwrite(queue, content, sizeof(content), at) == 0);
		FUZZ_ASSERT(blk_pread(queue, back, sizeof(back), at) == 0);
		FUZZ_ASSERT(!memcmp(back, content, sizeof(back)));
		if (data[i] % 4 == 0)
			FUZZ_ASSERT(blk_flush(queue) == 0);
	}
	FUZZ_ASSERT(blk_discard(queue, 0, 512) == 0);
	FUZZ_ASSERT(blk_pread(queue, back, 512, 0) == 0);
	for (unsigned i = 0; i < 512; i++)
		FUZZ_ASSERT(back[i] == 0);
	blk_queue_free(queue);
	FUZZ_ASSERT(vhd_close(vhd, NULL) == 0);
	if (at < 512)
		return;
	FUZZ_ASSERT(vhd_open(path, NULL, &vhd, NULL) == 0);
	FUZZ_ASSERT(blk_queue_new(vhd_blk(vhd), NULL, &queue, NULL) == 0);
	FUZZ_ASSERT(blk_pread(queue, back, sizeof(back), at) == 0);
	FUZZ_ASSERT(!memcmp(back, content, sizeof(back)));
	blk_queue_free(queue);
	FUZZ_ASSERT(vhd_close(vhd, NULL) == 0);
}

static void check_unchanged(const struct image *image)
{
	static uint8_t bytes[IMAGE_MAX_BYTES + 1];
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	FUZZ_ASSERT(fd >= 0 && read(fd, bytes, sizeof(bytes)) == (ssize_t)image->size);
	FUZZ_ASSERT(!memcmp(bytes, image->bytes, image->size));
	close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vhd_check_result before = {0}, after = {0};
	struct image image = {0};
	int opened, checked;

	if (size < 1 || size > IMAGE_MAX_BYTES)
		return 0;
	if (!dir)
		make_dir();
	image_resize(&image, size - 1);
	memcpy(image.bytes, data + 1, size - 1);
	if (data[0] & FIX_FOOTERS && image.size >= 512) {
		image_fix_footer(&image, 0);
		image_fix_footer(&image, image.size - 512);
	}
	if (data[0] & FIX_HEADER && image.size >= 512) {
		uint64_t header = image_get(&image, F_DATA_OFFSET, 8);

		if (header <= image.size && image.size - header >= 1024)
			image_fix_header(&image, (size_t)header);
	}
	FUZZ_ASSERT(image_write(&image, path) == 0);
	opened = image_open(0);
	if (opened)
		image_open(VHD_OPEN_SALVAGE);
	image_open(VHD_OPEN_NO_PARENTS);
	checked = image_check(&before);
	FUZZ_ASSERT(!(opened == VHD_E_CORRUPT && checked == 0));
	check_unchanged(&image);
	if (opened == 0 && data[0] & WRITE) {
		image_change(image.bytes + image.size / 2, image.size / 2);
		FUZZ_ASSERT(image_check(&after) == checked);
		FUZZ_ASSERT(after.damages <= before.damages);
	}
	image_free(&image);
	return 0;
}
