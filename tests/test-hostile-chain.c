/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Differencing disks whose parents are missing, wrong, outside, no files, or themselves; and locators that lie.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/lib/hostile.h"
#include "vhd/vhd.h"

#define BASE 50
#define CHILD 51

static const struct image_spec base = {
	.size = 32768, .uuid_seed = BASE, .block_count = 3,
	.blocks = {{.index = 2, .seed = 1}, {.index = 0, .seed = 2}, {.index = 5, .seed = 4, .clear = 0x81}},
};
static const struct image_spec fixed_base = {.type = IMAGE_FIXED, .size = 32768, .uuid_seed = BASE, .fixed_seed = 77};
static const struct image_spec short_base = {
	.size = 8192, .uuid_seed = BASE, .block_count = 1, .blocks = {{.index = 1, .seed = 2}},
};
static const struct image_spec child = {
	.type = IMAGE_DIFFERENCING, .size = 32768, .uuid_seed = CHILD, .parent_uuid_seed = BASE, .parent_name = "base.vhd",
	.block_count = 2, .blocks = {{.index = 5, .seed = 9, .clear = 0x3c}, {.index = 7, .seed = 8}},
};

static char text[1024];

static void put_at(const char *dir, const char *name, const struct image_spec *spec)
{
	struct image image;
	char path[512];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	image_build(spec, &image);
	if (image_write(&image, path))
		abort();
	image_free(&image);
}

static void must(int result)
{
	if (result) {
		perror("scene");
		abort();
	}
}

static void locator(struct image_spec *spec, unsigned slot, const char *code, const char *content)
{
	spec->parent_name = NULL;
	spec->locators[slot] = (struct image_locator){.code = code, .text = content};
}

static void beside(const char *dir, struct image_spec *spec)
{
	put_at(dir, "in/base.vhd", &base);
}

static void fixed_beside(const char *dir, struct image_spec *spec)
{
	put_at(dir, "in/base.vhd", &fixed_base);
}

static void short_beside(const char *dir, struct image_spec *spec)
{
	put_at(dir, "in/base.vhd", &short_base);
}

static void w2ru_beside(const char *dir, struct image_spec *spec)
{
	put_at(dir, "in/base.vhd", &base);
	locator(spec, 0, "W2ru", ".\\base.vhd");
}

static void w2ru_below(const char *dir, struct image_spec *spec)
{
	char path[512];

	snprintf(path, sizeof(path), "%s/in/sub", dir);
	must(mkdir(path, 0700));
	put_at(dir, "in/sub/base.vhd", &base);
	locator(spec, 7, "W2ru", ".\\sub\\base.vhd");
}

static void w2ku_here(const char *dir, struct image_spec *spec)
{
	put_at(dir, "in/base.vhd", &base);
	snprintf(text, sizeof(text), "%s/in/base.vhd", dir);
	locator(spec, 3, "W2ku", text);
}

static void w2ku_drive(const char *dir, struct image_spec *spec)
{
	put_at(dir, "in/base.vhd", &base);
	locator(spec, 0, "W2ku", "C:\\Users\\somebody\\base.vhd");
}

static void macx_escaped(const char *dir, struct image_spec *spec)
{
	put_at(dir, "in/base disk.vhd", &base);
	snprintf(text, sizeof(text), "file://localhost%s/in/base%%20disk.vhd", dir);
	locator(spec, 0, "MacX", text);
}

static void second_locator_right(const char *dir, struct image_spec *spec)
{
	put_at(dir, "in/base.vhd", &base);
	locator(spec, 0, "W2ru", ".\\gone.vhd");
	locator(spec, 1, "W2ku", "C:\\base.vhd");
}

static void wrong_then_right(const char *dir, struct image_spec *spec)
{
	struct image_spec other = base;

	other.uuid_seed = 99;
	put_at(dir, "in/other.vhd", &other);
	put_at(dir, "in/base.vhd", &base);
	locator(spec, 0, "W2ru", ".\\other.vhd");
	locator(spec, 1, "W2ku", "C:\\base.vhd");
}

static void older_parent(const char *dir, struct image_spec *spec)
{
	struct image_spec other = base;

	other.time_stamp = 700000000;
	put_at(dir, "in/base.vhd", &other);
	spec->parent_time_stamp = 12345;
}

static void other_uuid(const char *dir, struct image_spec *spec)
{
	struct image_spec other = base;

	other.uuid_seed = 99;
	put_at(dir, "in/base.vhd", &other);
}

static void no_hint(const char *dir, struct image_spec *spec)
{
	put_at(dir, "in/base.vhd", &base);
	spec->parent_name = NULL;
}

static void outside_relative(const char *dir, struct image_spec *spec)
{
	put_at(dir, "out/base.vhd", &base);
	locator(spec, 0, "W2ru", "..\\out\\base.vhd");
}

static void outside_slashes(const char *dir, struct image_spec *spec)
{
	put_at(dir, "out/base.vhd", &base);
	locator(spec, 0, "W2ru", "../out/base.vhd");
}

static void outside_name(const char *dir, struct image_spec *spec)
{
	put_at(dir, "out/base.vhd", &base);
	spec->parent_name = "../out/base.vhd";
}

static void outside_absolute(const char *dir, struct image_spec *spec)
{
	put_at(dir, "out/base.vhd", &base);
	snprintf(text, sizeof(text), "%s/out/base.vhd", dir);
	locator(spec, 0, "W2ku", text);
}

static void outside_macx(const char *dir, struct image_spec *spec)
{
	put_at(dir, "out/base.vhd", &base);
	snprintf(text, sizeof(text), "file://localhost%s/in/%%2e%%2e/out/base.vhd", dir);
	locator(spec, 0, "MacX", text);
}

static void outside_symlink(const char *dir, struct image_spec *spec)
{
	put_at(dir, "out/base.vhd", &base);
	snprintf(text, sizeof(text), "%s/in/base.vhd", dir);
	must(symlink("../out/base.vhd", text));
}

static void outside_linked_folder(const char *dir, struct image_spec *spec)
{
	put_at(dir, "out/base.vhd", &base);
	snprintf(text, sizeof(text), "%s/in/link", dir);
	must(symlink("../out", text));
	locator(spec, 0, "W2ru", ".\\link\\base.vhd");
}

/* A folder whose name merely begins like the allowed one's. */
static void outside_prefix(const char *dir, struct image_spec *spec)
{
	snprintf(text, sizeof(text), "%s/in-not", dir);
	must(mkdir(text, 0700));
	put_at(dir, "in-not/base.vhd", &base);
	locator(spec, 0, "W2ru", "..\\in-not\\base.vhd");
}

static void to_etc(const char *dir, struct image_spec *spec)
{
	locator(spec, 0, "W2ru", "..\\..\\..\\..\\..\\..\\..\\..\\..\\..\\..\\..\\etc\\passwd");
}

static void fifo(const char *dir, struct image_spec *spec)
{
	snprintf(text, sizeof(text), "%s/in/base.vhd", dir);
	must(mkfifo(text, 0600));
}

static void dev_zero(const char *dir, struct image_spec *spec)
{
	snprintf(text, sizeof(text), "%s/in/base.vhd", dir);
	must(symlink("/dev/zero", text));
}

static void dev_zero_locator(const char *dir, struct image_spec *spec)
{
	locator(spec, 0, "W2ku", "/dev/zero");
}

static void folder(const char *dir, struct image_spec *spec)
{
	snprintf(text, sizeof(text), "%s/in/base.vhd", dir);
	must(mkdir(text, 0700));
}

static void unix_socket(const char *dir, struct image_spec *spec)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	must(fd < 0);
	if (snprintf(address.sun_path, sizeof(address.sun_path), "%s/in/base.vhd", dir) >= (int)sizeof(address.sun_path))
		abort();
	must(bind(fd, (struct sockaddr *)&address, sizeof(address)));
	close(fd);
}

static void dangling(const char *dir, struct image_spec *spec)
{
	snprintf(text, sizeof(text), "%s/in/base.vhd", dir);
	must(symlink("base.vhd", text));
}

static void itself(const char *dir, struct image_spec *spec)
{
	spec->parent_uuid_seed = spec->uuid_seed;
	spec->parent_name = "disk.vhd";
}

static void itself_by_hard_link(const char *dir, struct image_spec *spec)
{
	char disk[512];

	put_at(dir, "in/base.vhd", &base);
	snprintf(text, sizeof(text), "%s/in/base.vhd", dir);
	snprintf(disk, sizeof(disk), "%s/in/disk.vhd", dir);
	must(link(text, disk));
	spec->parent_uuid_seed = spec->uuid_seed;
}

static void two_cycle(const char *dir, struct image_spec *spec)
{
	struct image_spec other = child;

	other.uuid_seed = BASE;
	other.parent_uuid_seed = CHILD;
	other.parent_name = "disk.vhd";
	put_at(dir, "in/base.vhd", &other);
}

/* `parents` differencing disks and a dynamic one at the bottom: parents + 2 layers with the leaf. */
static void stack(const char *dir, unsigned parents)
{
	struct image_spec bottom = base;

	for (unsigned i = 0; i < parents; i++) {
		char name[32], parent[32];
		struct image_spec layer = {.type = IMAGE_DIFFERENCING, .size = 32768};

		snprintf(name, sizeof(name), i ? "in/layer%u.vhd" : "in/base.vhd", i);
		snprintf(parent, sizeof(parent), "layer%u.vhd", i + 1);
		layer.uuid_seed = i % 2 ? 60 : BASE;
		layer.parent_uuid_seed = i % 2 ? BASE : 60;
		layer.parent_name = parent;
		put_at(dir, name, &layer);
	}
	snprintf(text, sizeof(text), parents ? "in/layer%u.vhd" : "in/base.vhd", parents);
	bottom.uuid_seed = parents % 2 ? 60 : BASE;
	put_at(dir, text, &bottom);
}

static void deep_256(const char *dir, struct image_spec *spec)
{
	stack(dir, 254);
}

static void deep_257(const char *dir, struct image_spec *spec)
{
	stack(dir, 255);
}

static void deep_400(const char *dir, struct image_spec *spec)
{
	stack(dir, 398);
}

static void parent_empty_file(const char *dir, struct image_spec *spec)
{
	int fd;

	snprintf(text, sizeof(text), "%s/in/base.vhd", dir);
	fd = open(text, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	must(fd < 0);
	close(fd);
}

static void parent_damaged(const char *dir, struct image_spec *spec)
{
	struct image image;

	image_build(&base, &image);
	image_put(&image, image.bat + 4, 4, 0xfffff000);
	snprintf(text, sizeof(text), "%s/in/base.vhd", dir);
	must(image_write(&image, text));
	image_free(&image);
}

static void parent_cut(const char *dir, struct image_spec *spec)
{
	struct image image;

	image_build(&base, &image);
	image_resize(&image, 1024);
	snprintf(text, sizeof(text), "%s/in/base.vhd", dir);
	must(image_write(&image, text));
	image_free(&image);
}

static void raw_parent(const char *dir, struct image_spec *spec)
{
	struct image image;

	image_build(&fixed_base, &image);
	image_resize(&image, fixed_base.size);
	snprintf(text, sizeof(text), "%s/in/base.raw", dir);
	must(image_write(&image, text));
	image_free(&image);
}

/* Xen: an all-zero parent UUID means a raw parent. */
static void null_uuid(struct image *image)
{
	image_put(image, image->header + H_PARENT_UUID, 8, 0);
	image_put(image, image->header + H_PARENT_UUID + 8, 8, 0);
	image_fix_header(image, image->header);
}

/* Locators that lie; the header's name is right, so that falling back to it is as good as refusing. */
static void one_locator(const char *dir, struct image_spec *spec)
{
	put_at(dir, "in/base.vhd", &base);
	spec->locators[0] = (struct image_locator){.code = "W2ru", .text = ".\\base.vhd"};
}

static void raw_locator(const char *dir, struct image_spec *spec, const void *data, uint32_t length)
{
	put_at(dir, "in/base.vhd", &base);
	spec->locators[0] = (struct image_locator){.code = "W2ru", .data = data, .length = length};
}

static void odd_length(const char *dir, struct image_spec *spec)
{
	raw_locator(dir, spec, ".\0\\\0b\0a\0s", 9);
}

static void lone_high_surrogate(const char *dir, struct image_spec *spec)
{
	raw_locator(dir, spec, ".\0\\\0\x00\xd8.\0", 8);
}

static void lone_low_surrogate(const char *dir, struct image_spec *spec)
{
	raw_locator(dir, spec, ".\0\\\0\x00\xdc", 6);
}

static void surrogate_at_the_end(const char *dir, struct image_spec *spec)
{
	raw_locator(dir, spec, ".\0\\\0\xff\xdb", 6);
}

static void only_nul(const char *dir, struct image_spec *spec)
{
	raw_locator(dir, spec, "\0\0\0\0", 4);
}

static void only_backslashes(const char *dir, struct image_spec *spec)
{
	put_at(dir, "in/base.vhd", &base);
	spec->locators[0] = (struct image_locator){.code = "W2ru", .text = "\\\\\\\\"};
}

static void only_dots(const char *dir, struct image_spec *spec)
{
	put_at(dir, "in/base.vhd", &base);
	spec->locators[0] = (struct image_locator){.code = "W2ru", .text = "..\\.."};
}

static void unc_path(const char *dir, struct image_spec *spec)
{
	put_at(dir, "in/base.vhd", &base);
	spec->locators[0] = (struct image_locator){.code = "W2ku", .text = "\\\\server\\share\\base.vhd"};
}

static void device_path(const char *dir, struct image_spec *spec)
{
	put_at(dir, "in/base.vhd", &base);
	spec->locators[0] = (struct image_locator){.code = "W2ku", .text = "\\\\?\\C:\\x\\base.vhd"};
}

static void huge_path(const char *dir, struct image_spec *spec)
{
	static uint8_t data[60000];

	for (unsigned i = 0; i < sizeof(data); i += 2)
		data[i] = i % 64 ? 'a' : '\\';
	raw_locator(dir, spec, data, sizeof(data));
}

static void bad_percent(const char *dir, struct image_spec *spec)
{
	put_at(dir, "in/base.vhd", &base);
	spec->locators[0] = (struct image_locator){.code = "MacX", .text = "file://localhost/%zz%"};
}

static void percent_nul(const char *dir, struct image_spec *spec)
{
	put_at(dir, "in/base.vhd", &base);
	spec->locators[0] = (struct image_locator){.code = "MacX", .text = "file:///%00/base.vhd"};
}

static void name_without_nul(struct image *image)
{
	for (size_t i = 0; i < 256; i++)
		image_put(image, image->header + H_PARENT_NAME + 2 * i, 2, 'a');
	image_fix_header(image, image->header);
}

static void name_of_surrogates(struct image *image)
{
	for (size_t i = 0; i < 256; i++)
		image_put(image, image->header + H_PARENT_NAME + 2 * i, 2, 0xd800);
	image_fix_header(image, image->header);
}

static void name_little_endian(struct image *image)
{
	for (size_t i = 0; i < 8; i++)
		image_put(image, image->header + H_PARENT_NAME + 2 * i, 2, (uint64_t)(uint8_t)"base.vhd"[i] << 8);
	image_fix_header(image, image->header);
}

static void set_name(struct image *image, const char *name)
{
	for (size_t i = 0; i < 256; i++)
		image_put(image, image->header + H_PARENT_NAME + 2 * i, 2, i < strlen(name) ? (uint8_t)name[i] : 0);
	image_fix_header(image, image->header);
}

static void name_dot(struct image *image)
{
	set_name(image, ".");
}

static void name_dots(struct image *image)
{
	set_name(image, "..");
}

static void name_slash(struct image *image)
{
	set_name(image, "/");
}

#define LOCATOR(field, width, value) {{IMAGE_HEADER, H_LOCATORS + (field), width, value}}

static const struct hostile_row rows[] = {
	{"opens over the parent beside it", &child, .scene = beside, .base = &base},
	{"opens over a fixed parent", &child, .scene = fixed_beside, .base = &fixed_base},
	{"reads zeros beyond a shorter parent", &child, .scene = short_beside, .base = &short_base},
	{"finds the parent by W2ru alone", &child, .scene = w2ru_beside, .base = &base},
	{"finds the parent in a folder below", &child, .scene = w2ru_below, .base = &base},
	{"finds the parent by an absolute W2ku", &child, .scene = w2ku_here, .base = &base},
	{"finds the parent by the last part of a drive's path", &child, .scene = w2ku_drive, .base = &base},
	{"finds the parent by an escaped MacX", &child, .scene = macx_escaped, .base = &base},
	{"finds the parent by the second locator", &child, .scene = second_locator_right, .base = &base},
	{"passes over a file of another UUID when the next locator is right", &child, .scene = wrong_then_right,
	 .base = &base},
	{"finds the parent by a name in little-endian UTF-16", &child, .scene = beside, .bend = name_little_endian,
	 .base = &base},
	{"warns of another time stamp", &child, .scene = older_parent, .base = &base, .warning = "modification time"},
	{"opens the parent that it is told", &child, .scene = outside_relative, .base = &base, .parent = "out/base.vhd"},
	{"opens a parent in a folder that was allowed", &child, .scene = outside_relative, .base = &base, .allow = "out"},
	{"opens a raw parent", &child, .scene = raw_parent, .base = &fixed_base, .bend = null_uuid,
	 .parent = "in/base.raw", .parent_raw = true},
	{"opens 256 layers", &child, .scene = deep_256, .base = &base},

	{"refuses a parent that is not there", &child, .expect = VHD_E_PARENT_MISSING, .needle = "base.vhd"},
	{"refuses a child that says nothing about its parent", &child, .scene = no_hint, .expect = VHD_E_PARENT_MISSING,
	 .needle = "parent"},
	{"refuses a parent whose name links to itself", &child, .scene = dangling, .expect = HOSTILE_REFUSED,
	 .needle = "base.vhd"},
	{"refuses a parent with another UUID", &child, .scene = other_uuid, .expect = VHD_E_PARENT_MISMATCH,
	 .needle = "base.vhd"},
	{"refuses a parent option with another UUID", &child, .scene = other_uuid, .parent = "in/base.vhd",
	 .expect = VHD_E_PARENT_MISMATCH, .needle = "base.vhd"},
	{"refuses a parent option that is not there", &child, .scene = beside, .parent = "in/gone.vhd",
	 .expect = HOSTILE_REFUSED, .needle = "gone.vhd"},
	{"refuses a null parent UUID without a raw parent", &child, .bend = null_uuid, .expect = HOSTILE_REFUSED,
	 .needle = "parent"},
	{"refuses an empty parent", &child, .scene = parent_empty_file, .expect = HOSTILE_REFUSED, .needle = "base.vhd"},
	{"refuses a damaged parent and names it", &child, .scene = parent_damaged, .expect = VHD_E_CORRUPT,
	 .needle = "base.vhd"},
	{"refuses a parent that is cut short", &child, .scene = parent_cut, .expect = VHD_E_CORRUPT, .needle = "base.vhd"},

	{"refuses a relative path out of the folder", &child, .scene = outside_relative, .expect = VHD_E_PARENT_DENIED,
	 .needle = "out/base.vhd"},
	{"refuses a relative path with slashes out of the folder", &child, .scene = outside_slashes,
	 .expect = HOSTILE_REFUSED, .needle = "base.vhd"},
	{"refuses a name that leads out of the folder", &child, .scene = outside_name, .expect = HOSTILE_REFUSED,
	 .needle = "base.vhd"},
	{"refuses an absolute path out of the folder", &child, .scene = outside_absolute, .expect = VHD_E_PARENT_DENIED,
	 .needle = "out/base.vhd"},
	{"refuses a file URL out of the folder", &child, .scene = outside_macx, .expect = VHD_E_PARENT_DENIED,
	 .needle = "base.vhd"},
	{"refuses a symlink out of the folder", &child, .scene = outside_symlink, .expect = VHD_E_PARENT_DENIED,
	 .needle = "base.vhd"},
	{"refuses a path through a linked folder", &child, .scene = outside_linked_folder,
	 .expect = VHD_E_PARENT_DENIED, .needle = "base.vhd"},
	{"refuses a folder whose name only begins like the allowed one", &child, .scene = outside_prefix,
	 .expect = VHD_E_PARENT_DENIED, .needle = "in-not/base.vhd"},
	{"refuses a climb to /etc/passwd", &child, .scene = to_etc, .expect = HOSTILE_REFUSED, .needle = "passwd"},

	{"refuses a FIFO as parent, at once", &child, .scene = fifo, .expect = HOSTILE_REFUSED, .needle = "base.vhd"},
	{"refuses /dev/zero as parent", &child, .scene = dev_zero, .expect = HOSTILE_REFUSED, .needle = "base.vhd"},
	{"refuses a locator of /dev/zero", &child, .scene = dev_zero_locator, .expect = HOSTILE_REFUSED,
	 .needle = "/dev/zero"},
	{"refuses a folder as parent", &child, .scene = folder, .expect = HOSTILE_REFUSED, .needle = "base.vhd"},
	{"refuses a socket as parent", &child, .scene = unix_socket, .expect = HOSTILE_REFUSED, .needle = "base.vhd"},

	{"refuses a disk that is its own parent", &child, .scene = itself, .expect = VHD_E_CHAIN, .needle = "disk.vhd"},
	{"refuses a disk that is its own parent under another name", &child, .scene = itself_by_hard_link,
	 .expect = VHD_E_CHAIN, .needle = "disk.vhd"},
	{"refuses two disks that are each other's parents", &child, .scene = two_cycle, .expect = VHD_E_CHAIN,
	 .needle = "cycle"},
	{"refuses 257 layers", &child, .scene = deep_257, .expect = VHD_E_CHAIN, .needle = "256"},
	{"refuses 400 layers", &child, .scene = deep_400, .expect = VHD_E_CHAIN, .needle = "256"},

	{"bears a locator longer than its space", &child, LOCATOR(L_LENGTH, 4, 4096), .scene = one_locator,
	 .expect = HOSTILE_EITHER, .needle = "locator", .base = &base},
	{"bears a locator of 2^32 - 1 bytes", &child, LOCATOR(L_LENGTH, 4, 0xffffffff), .scene = one_locator,
	 .expect = HOSTILE_EITHER, .needle = "locator", .base = &base},
	{"bears a locator and a space of 2^32 - 1 bytes", &child,
	 {{IMAGE_HEADER, H_LOCATORS + L_LENGTH, 4, 0xffffffff}, {IMAGE_HEADER, H_LOCATORS + L_SPACE, 4, 0xffffffff}},
	 .scene = one_locator, .expect = HOSTILE_EITHER, .needle = "locator", .base = &base},
	{"bears a locator without length", &child, LOCATOR(L_LENGTH, 4, 0), .scene = one_locator,
	 .expect = HOSTILE_EITHER, .needle = "locator", .base = &base},
	{"bears a locator without space", &child, LOCATOR(L_SPACE, 4, 0), .scene = one_locator,
	 .expect = HOSTILE_EITHER, .needle = "locator", .base = &base},
	{"bears a locator beyond the end", &child, LOCATOR(L_OFFSET, 8, 1u << 20), .scene = one_locator,
	 .expect = HOSTILE_EITHER, .needle = "locator", .base = &base},
	{"bears a locator near 2^64", &child, LOCATOR(L_OFFSET, 8, UINT64_MAX - 7), .scene = one_locator,
	 .expect = HOSTILE_EITHER, .needle = "locator", .base = &base},
	{"bears a locator on the footer copy", &child, LOCATOR(L_OFFSET, 8, 0), .scene = one_locator,
	 .expect = HOSTILE_EITHER, .needle = "locator", .base = &base},
	{"bears a locator on the header", &child, LOCATOR(L_OFFSET, 8, 512), .scene = one_locator,
	 .expect = HOSTILE_EITHER, .needle = "locator", .base = &base},
	{"bears a locator at an odd offset", &child, LOCATOR(L_OFFSET, 8, 1537), .scene = one_locator,
	 .expect = HOSTILE_EITHER, .needle = "locator", .base = &base},
	{"bears a locator of odd length", &child, .scene = odd_length, .expect = HOSTILE_EITHER, .needle = "locator",
	 .base = &base},
	{"bears a lone high surrogate", &child, .scene = lone_high_surrogate, .expect = HOSTILE_EITHER,
	 .needle = "locator", .base = &base},
	{"bears a lone low surrogate", &child, .scene = lone_low_surrogate, .expect = HOSTILE_EITHER,
	 .needle = "locator", .base = &base},
	{"bears half a surrogate pair at the end", &child, .scene = surrogate_at_the_end, .expect = HOSTILE_EITHER,
	 .needle = "locator", .base = &base},
	{"bears a locator of NULs", &child, .scene = only_nul, .expect = HOSTILE_EITHER, .needle = "locator",
	 .base = &base},
	{"bears a locator of backslashes", &child, .scene = only_backslashes, .expect = HOSTILE_EITHER,
	 .needle = "locator", .base = &base},
	{"bears a locator of dots", &child, .scene = only_dots, .expect = HOSTILE_EITHER, .needle = "locator",
	 .base = &base},
	{"bears a network path", &child, .scene = unc_path, .expect = HOSTILE_EITHER, .needle = "locator",
	 .base = &base},
	{"bears a device path", &child, .scene = device_path, .expect = HOSTILE_EITHER, .needle = "locator",
	 .base = &base},
	{"bears a path of 30,000 characters", &child, .scene = huge_path, .expect = HOSTILE_EITHER, .needle = "locator",
	 .base = &base},
	{"bears bad percent signs in a URL", &child, .scene = bad_percent, .expect = HOSTILE_EITHER, .needle = "locator",
	 .base = &base},
	{"bears an escaped NUL in a URL", &child, .scene = percent_nul, .expect = HOSTILE_EITHER, .needle = "locator",
	 .base = &base},
	{"bears a parent name without an end", &child, .bend = name_without_nul, .expect = HOSTILE_REFUSED,
	 .needle = "aaaa"},
	{"bears a parent name of lone surrogates", &child, .bend = name_of_surrogates, .expect = HOSTILE_REFUSED,
	 .needle = "parent"},
	{"refuses the folder itself as parent", &child, .bend = name_dot, .expect = HOSTILE_REFUSED, .needle = "parent"},
	{"refuses the folder above as parent", &child, .bend = name_dots, .expect = HOSTILE_REFUSED, .needle = "parent"},
	{"refuses the root folder as parent", &child, .bend = name_slash, .expect = HOSTILE_REFUSED, .needle = "parent"},
};

int main(void)
{
	return hostile_run("hostile chains", rows, sizeof(rows) / sizeof(rows[0]));
}
