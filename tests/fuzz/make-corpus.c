/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writes the seeds that tests/fuzz/corpus began with: make-corpus DIR makes DIR/<target>/<name>. What a fuzzing run
 * finds worth keeping is added by hand.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/lib/image-builder.h"

static const char *top;

static void put(const char *target, const char *name, const void *bytes, size_t size)
{
	char path[1024];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", top, target);
	if (mkdir(path, 0777) && errno != EEXIST) {
		perror(path);
		exit(1);
	}
	snprintf(path, sizeof(path), "%s/%s/%s", top, target, name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	if (fd < 0 || write(fd, bytes, size) != (ssize_t)size || close(fd)) {
		perror(path);
		exit(1);
	}
}

static void put_image(const char *name, const struct image_spec *spec, const struct image_edit *edit)
{
	struct image image;
	uint8_t *input;

	image_build(spec, &image);
	if (edit)
		image_edit(&image, edit);
	input = malloc(image.size + 1);
	if (!input)
		abort();
	input[0] = spec->footer_killed || spec->footer_511 || spec->no_footer ? 4 : edit ? 0 : 7;
	memcpy(input + 1, image.bytes, image.size);
	put("image", name, input, image.size + 1);
	free(input);
	if (!edit && !spec->footer_511 && !spec->footer_killed && !spec->no_footer)
		put("footer", name, image.bytes + image.footer, 512);
	if (!edit && image.header)
		put("header", name, image.bytes + image.header, 1024);
	image_free(&image);
}

#define PARENT .uuid_seed = 51, .parent_uuid_seed = 50, .type = IMAGE_DIFFERENCING, .size = 16384

static void put_images(void)
{
	put_image("dynamic", &(struct image_spec){.size = 16384, .block_count = 3,
	          .blocks = {{.index = 2, .seed = 1}, {.index = 0, .seed = 2}, {.index = 3, .seed = 3, .clear = 0x0f}}}, NULL);
	put_image("empty", &(struct image_spec){.size = 16384}, NULL);
	put_image("fixed", &(struct image_spec){.type = IMAGE_FIXED, .size = 2048}, NULL);
	put_image("tiny-blocks", &(struct image_spec){.size = 4096, .block_size = 512, .block_count = 2,
	          .blocks = {{.index = 7, .seed = 1}, {.index = 1, .seed = 2}}}, NULL);
	put_image("large-blocks", &(struct image_spec){.size = UINT64_C(1) << 40, .block_size = 1u << 30}, NULL);
	put_image("gaps", &(struct image_spec){.size = 15872, .header_gap_sectors = 1, .bat_gap_sectors = 2,
	          .footer_gap_sectors = 3, .block_count = 1, .blocks = {{.index = 3, .gap_sectors = 6, .clear = 0x55}},
	          .stale = true}, NULL);
	put_image("batmap", &(struct image_spec){.size = 16384, .batmap = true, .creator = "tap\0", .block_count = 1,
	          .blocks = {{.index = 1}}}, NULL);
	put_image("footer-511", &(struct image_spec){.size = 8192, .footer_511 = true, .block_count = 1,
	          .blocks = {{.index = 1}}}, NULL);
	put_image("footer-killed", &(struct image_spec){.size = 8192, .footer_killed = true}, NULL);
	put_image("footer-missing", &(struct image_spec){.size = 8192, .no_footer = true, .block_count = 1,
	          .blocks = {{.index = 1}}}, NULL);
	put_image("child", &(struct image_spec){PARENT, .parent_name = "base.vhd", .block_count = 1,
	          .blocks = {{.index = 1, .clear = 0xc3, .seed = 4}}}, NULL);
	put_image("child-locators", &(struct image_spec){PARENT, .locators = {{.code = "W2ru", .text = ".\\base.vhd"},
	          {.code = "W2ku", .text = "C:\\base.vhd"}, {.code = "MacX", .text = "file:///base.vhd"}}}, NULL);
	put_image("child-of-itself", &(struct image_spec){PARENT, .parent_name = "disk.vhd"},
	          &(struct image_edit){IMAGE_HEADER, H_PARENT_UUID, 8, 0});
	put_image("bat-wraps", &(struct image_spec){.size = 16384},
	          &(struct image_edit){IMAGE_BAT, 4, 4, 0xffffefff});
	put_image("bat-on-header", &(struct image_spec){.size = 16384}, &(struct image_edit){IMAGE_BAT, 4, 4, 1});
	put_image("bat-overlap", &(struct image_spec){.size = 16384, .block_count = 2,
	          .blocks = {{.index = 0}, {.index = 1}}}, &(struct image_edit){IMAGE_BAT, 4, 4, 6});
	put_image("bat-huge", &(struct image_spec){.size = 16384},
	          &(struct image_edit){IMAGE_HEADER, H_MAX_ENTRIES, 4, 0xffffffff});
	put_image("size-huge", &(struct image_spec){.size = 16384},
	          &(struct image_edit){IMAGE_FOOTERS, F_CURRENT_SIZE, 8, UINT64_C(0x1fe00000000)});
	put_image("block-size-256", &(struct image_spec){.size = 16384},
	          &(struct image_edit){IMAGE_HEADER, H_BLOCK_SIZE, 4, 256});
	put_image("table-beyond", &(struct image_spec){.size = 16384},
	          &(struct image_edit){IMAGE_HEADER, H_TABLE_OFFSET, 8, UINT64_MAX - 511});
}

static void put_bats(void)
{
	uint8_t input[16 + 64] = {0};

	memset(input + 16, 0xff, 64);
	input[3] = 15;
	input[4] = 1;
	input[7] = 1;
	put("bat", "empty", input, sizeof(input));
	for (unsigned i = 0; i < 16; i++) {
		input[16 + i * 4] = 0;
		input[16 + i * 4 + 1] = 0;
		input[16 + i * 4 + 2] = 0;
		input[16 + i * 4 + 3] = (uint8_t)(4 + i * 2);
	}
	put("bat", "full", input, sizeof(input));
	input[1] = 1;
	for (unsigned i = 0; i < 16; i++)
		input[16 + i * 4 + 3] = (uint8_t)(70 - i * 2);
	put("bat", "batmap", input, sizeof(input));
	input[1] = 0;
	input[16 + 3] = 41;
	put("bat", "overlap", input, sizeof(input));
	input[16 + 3] = 1;
	put("bat", "on-header", input, sizeof(input));
	input[1] = 2;
	memcpy(input + 16, "\xff\xff\xef\xff", 4);
	put("bat", "wraps", input, sizeof(input));
	input[7] = 0;
	input[8] = 200;
	put("bat", "too-many-entries", input, sizeof(input));
	input[4] = 0;
	input[5] = 2;
	put("bat", "table-on-header", input, sizeof(input));
}

#define LOCATOR(name, bytes) put("locator", name, bytes, sizeof(bytes) - 1)

static void put_locators(void)
{
	LOCATOR("utf16-le", "\0b\0a\0s\0e\0.\0v\0h\0d\0");
	LOCATOR("utf16-be", "\1\0b\0a\0s\0e\0.\0v\0h\0d");
	LOCATOR("utf16-mark", "\0\xff\xfe" "b\0\xe9\0");
	LOCATOR("utf16-mark-be", "\0\xfe\xff" "\0b\0\xe9");
	LOCATOR("utf16-pair", "\0\x3d\xd8\x00\xde");
	LOCATOR("utf16-lone", "\0\x3d\xd8.\0");
	LOCATOR("utf16-odd", "\0b\0a");
	LOCATOR("relate-beside", "\2srv/a/child.vhd\0/srv/a/base.vhd");
	LOCATOR("relate-above", "\2srv/a/b/child.vhd\0/srv/base.vhd");
	LOCATOR("relate-backslash", "\2srv/a/child.vhd\0/srv/a/ba\\se.vhd");
	LOCATOR("encode", "\3b\xc3\xa9.vhd \xf0\x9f\x98\x80");
	LOCATOR("encode-bad", "\3\xc0\xaf\xed\xa0\x80");
	LOCATOR("w2ru", "\4.\0\\\0b\0.\0v\0h\0d\0");
	LOCATOR("w2ru-up", "\4.\0.\0\\\0b\0a\0s\0e\0\\\0b\0");
	LOCATOR("w2ku-drive", "\5C\0:\0\\\0x\0\\\0b\0.\0v\0h\0d\0");
	LOCATOR("w2ku-unix", "\5/\0s\0r\0v\0/\0b\0");
	LOCATOR("w2ku-unc", "\5\\\0\\\0s\0\\\0t\0\\\0b\0");
	LOCATOR("macx", "\6file://localhost/srv/b%20c.vhd");
	LOCATOR("macx-bad", "\6file://localhost/%zz%");
	LOCATOR("macx-nul", "\6file:///a%00b");
	LOCATOR("unknown", "\7.\0\\\0b\0");
}

/* The targets make the hashes right. */
static void put_checkpoints(void)
{
	static const struct {
		const char *name;
		uint8_t size[3]; /* of the disk: these bits 9 to 32 */
		uint8_t list[12];
		unsigned length;
	} seeds[] = {
		{"empty", {1, 0, 0}, {0}, 0},
		{"full", {1, 0, 0}, {0, 0, 2}, 3},
		{"full-too-many", {1, 0, 0}, {0, 0, 40}, 3},
		{"runs", {1, 0, 0}, {0, 1, 2, 5, 7, 0x80, 1, 9}, 8},
		{"runs-beyond", {0, 0, 4}, {0, 1, 1, 3, 0xFF, 0x7F}, 6},
		{"gap", {4, 0, 0}, {1, 0, 1, 0, 1, 1, 0, 1}, 8},
		{"bitmap-cut", {1, 0, 0}, {0, 2, 0xAA}, 3},
		{"kind", {1, 0, 0}, {0, 3}, 2},
	};

	for (size_t i = 0; i < sizeof(seeds) / sizeof(seeds[0]); i++) {
		uint8_t bytes[136 + 12] = {0};

		memcpy(bytes + 0x4c, seeds[i].size, 3);
		memcpy(bytes + 136, seeds[i].list, seeds[i].length);
		put("checkpoint", seeds[i].name, bytes, 136 + seeds[i].length);
	}
}

static size_t record_put(uint8_t *at, const char *kind, unsigned offset, unsigned length, size_t data)
{
	memcpy(at, kind, 4);
	at[13] = (uint8_t)(offset >> 16);
	at[14] = (uint8_t)(offset >> 8);
	at[15] = (uint8_t)offset;
	at[21] = (uint8_t)(length >> 16);
	at[22] = (uint8_t)(length >> 8);
	at[23] = (uint8_t)length;
	memset(at + 40, 0x5A, data);
	return 40 + data;
}

static void put_increments(void)
{
	static const struct {
		const char *name;
		unsigned data_offset, zero_offset, records;
		size_t cut;
	} seeds[] = {
		{"good", 512, 4096, 2, 0},          {"disorder", 4096, 512, 2, 0},  {"beyond", 512, 0xfffe00, 2, 0},
		{"odd", 513, 4096, 2, 0},           {"miscounted", 512, 4096, 3, 0}, {"cut", 512, 4096, 2, 700},
		{"cut-in-head", 512, 4096, 2, 100},
	};

	for (size_t i = 0; i < sizeof(seeds) / sizeof(seeds[0]); i++) {
		uint8_t bytes[128 + 4 * 40 + 512] = {0};
		size_t at = 128;

		bytes[16] = 1; /* base */
		bytes[32] = 2; /* target */
		bytes[53] = bytes[61] = 1; /* sizes: 64 KiB */
		bytes[78] = 1536 >> 8;     /* changed bytes */
		at += record_put(bytes + at, "DATA", seeds[i].data_offset, 512, 512);
		at += record_put(bytes + at, "ZERO", seeds[i].zero_offset, 1024, 0);
		at += record_put(bytes + at, "DONE", seeds[i].records, 512, 0);
		put("increment", seeds[i].name, bytes, seeds[i].cut ? seeds[i].cut : at);
	}
}

int main(int argc, char **argv)
{
	if (argc != 2) {
		fprintf(stderr, "usage: make-corpus DIR\n");
		return 2;
	}
	top = argv[1];
	if (mkdir(top, 0777) && errno != EEXIST) {
		perror(top);
		return 1;
	}
	put_images();
	put_bats();
	put_locators();
	put_checkpoints();
	put_increments();
	return 0;
}
