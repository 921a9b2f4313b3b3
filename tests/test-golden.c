/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What vhd_create makes, byte for byte, when time and UUID are given. fixtures/golden has the bytes as text: offset and
 * up to 16 of them a line; what is not there is zero. They were worked out from the specification, not with this code.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/lib/image-builder.h"
#include "tests/lib/temp-dir.h"
#include "vhd/vhd.h"

#define JANUARY_2020 1577836800

static const uint8_t parent_uuid[16] = {0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77,
                                        0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff};
static const uint8_t child_uuid[16] = {0xff, 0xee, 0xdd, 0xcc, 0xbb, 0xaa, 0x99, 0x88,
                                       0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0x00};

static void golden_load(const char *name, struct image *ret)
{
	const char *srcdir = getenv("VHDKIT_SRCDIR");
	char path[1024], line[256];
	size_t size;
	FILE *file;

	*ret = (struct image){0};
	snprintf(path, sizeof(path), "%s/fixtures/golden/%s", srcdir ? srcdir : ".", name);
	file = fopen(path, "re");
	if (!file)
		fail_msg("%s is not there; VHDKIT_SRCDIR says where the source is", path);
	while (fgets(line, sizeof(line), file)) {
		char *at = strchr(line, ':');
		size_t offset;

		if (line[0] == '#')
			continue;
		if (sscanf(line, "size %zu", &size) == 1) {
			image_resize(ret, size);
			continue;
		}
		assert_non_null(at);
		for (offset = strtoul(line, NULL, 16), at++; *at && *at != '\n'; offset++)
			image_put(ret, offset, 1, strtoul(at, &at, 16));
	}
	fclose(file);
	assert_true(ret->size > 0);
}

static void file_load(const char *path, struct image *ret)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;

	*ret = (struct image){0};
	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	image_resize(ret, (size_t)st.st_size);
	assert_int_equal(read(fd, ret->bytes, ret->size), (ssize_t)ret->size);
	close(fd);
}

static void assert_same(const struct image *made, const struct image *golden)
{
	assert_int_equal(made->size, golden->size);
	for (size_t i = 0; i < made->size; i++)
		if (made->bytes[i] != golden->bytes[i])
			fail_msg("the byte at 0x%zx is %02x instead of %02x", i, made->bytes[i], golden->bytes[i]);
}

static void assert_creates(const struct vhd_create_options *options, const char *golden_name)
{
	struct image made, golden;
	char *dir = temp_dir_new("golden"), path[1024];
	struct err err = {.text = ""};

	snprintf(path, sizeof(path), "%s/made.vhd", dir);
	if (vhd_create(path, options, &err))
		fail_msg("%s", err.text);
	file_load(path, &made);
	golden_load(golden_name, &golden);
	assert_same(&made, &golden);
	image_free(&made);
	image_free(&golden);
	temp_dir_free(dir);
}

static void a_fixed_disk_is_zeros_and_a_footer(void **state)
{
	const time_t when = JANUARY_2020;

	(void)state;
	assert_creates(&(struct vhd_create_options){.type = VHD_FIXED, .size_bytes = 1u << 20, .uuid = parent_uuid,
	                                            .created = &when}, "fixed.hex");
}

static void a_dynamic_disk_is_copy_header_table_and_footer(void **state)
{
	const time_t when = JANUARY_2020;

	(void)state;
	assert_creates(&(struct vhd_create_options){.size_bytes = 10u << 20, .uuid = parent_uuid, .created = &when},
	               "dynamic.hex");
}

/* The absolute path depends on where the test runs: held against what it must be, then taken out. */
static void take_out_absolute_locator(struct image *made, const char *parent)
{
	size_t entry = 512 + H_LOCATORS + L_SIZE, length = 2 * strlen(parent);
	size_t at = (size_t)image_get(made, entry + L_OFFSET, 8);
	uint32_t stored = (uint32_t)image_get(made, 512 + H_CHECKSUM, 4);

	image_fix_header(made, 512);
	assert_int_equal(image_get(made, 512 + H_CHECKSUM, 4), stored);
	assert_memory_equal(made->bytes + entry, "W2ku", 4);
	assert_int_equal(image_get(made, entry + L_LENGTH, 4), length);
	assert_int_equal(image_get(made, entry + L_SPACE, 4), 2048);
	for (size_t i = 0; parent[i]; i++) {
		assert_int_equal(made->bytes[at + 2 * i], (uint8_t)parent[i]);
		assert_int_equal(made->bytes[at + 2 * i + 1], 0);
	}
	memset(made->bytes + at, 0, length);
	image_put(made, entry + L_LENGTH, 4, 0);
	image_put(made, entry + L_SPACE, 4, 0);
	image_put(made, 512 + H_CHECKSUM, 4, 0);
}

static void a_differencing_disk_names_its_parent_twice(void **state)
{
	const time_t when = JANUARY_2020, later = JANUARY_2020 + 60;
	const struct timespec changed[2] = {{.tv_sec = JANUARY_2020 + 30}, {.tv_sec = JANUARY_2020 + 30}};
	char *dir = temp_dir_new("golden"), parent[512], path[512];
	struct image made, golden;
	struct err err = {.text = ""};

	(void)state;
	snprintf(parent, sizeof(parent), "%s/parent.vhd", dir);
	snprintf(path, sizeof(path), "%s/made.vhd", dir);
	if (strlen(parent) > 1024) /* the space of the locator would be larger */
		fail_msg("%s is too long for this test: set TMPDIR to a shorter path", parent);
	if (vhd_create(parent, &(struct vhd_create_options){.size_bytes = 10u << 20, .uuid = parent_uuid, .created = &when},
	               &err))
		fail_msg("%s", err.text);
	assert_int_equal(utimensat(AT_FDCWD, parent, changed, 0), 0);
	if (vhd_create(path, &(struct vhd_create_options){.parent = parent, .uuid = child_uuid, .created = &later}, &err))
		fail_msg("%s", err.text);
	file_load(path, &made);
	take_out_absolute_locator(&made, parent);
	golden_load("differencing.hex", &golden);
	assert_same(&made, &golden);
	image_free(&made);
	image_free(&golden);
	temp_dir_free(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_fixed_disk_is_zeros_and_a_footer),
		cmocka_unit_test(a_dynamic_disk_is_copy_header_table_and_footer),
		cmocka_unit_test(a_differencing_disk_names_its_parent_twice),
	};

	return cmocka_run_group_tests_name("golden", tests, NULL, NULL);
}
