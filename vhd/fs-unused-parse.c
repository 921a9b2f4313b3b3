/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Reads what vhd-fs-unused prints (its --help has the format). A program that a hostile disk took over may print anything. */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/checked.h"
#include "vhd/fs-unused.h"

#define EXTENTS_MAX (1u << 20)
#define VOLUMES_MAX 4096u
#define SECTOR 512u

static int refuse(const struct fs_unused_parser *p, struct err *err, const char *what)
{
	return err_set(err, -EPROTO, "vhd-fs-unused says something that is not to be believed, in line %u: %s", p->lines,
	               what);
}

/* A decimal number and what ends it; moves *at behind. */
static bool number(const char **at, uint64_t *ret)
{
	const char *c = *at;
	uint64_t value = 0;

	if (*c < '0' || *c > '9')
		return false;
	for (; *c >= '0' && *c <= '9'; c++)
		if (!checked_mul(value, 10, &value) || !checked_add(value, (uint64_t)(*c - '0'), &value))
			return false;
	if (*c == ' ')
		c++;
	else if (*c)
		return false;
	*at = c;
	*ret = value;
	return true;
}

static bool numbers(const char *at, uint64_t *ret, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		if (!number(&at, &ret[i]))
			return false;
	return *at == 0 && at[-1] != ' ';
}

static int parse_file(struct fs_unused_parser *p, const char *text, struct err *err)
{
	struct fs_unused *u = p->ret;
	struct fs_unused_file *files;
	uint64_t n[5];

	if (u->disk_size)
		return refuse(p, err, "a file behind the disk's size");
	if (!numbers(text, n, 5) || n[3] > INT64_MAX || n[4] > INT64_MAX)
		return refuse(p, err, "a file's numbers");
	if (u->file_count == VHD_MAX_LAYERS)
		return refuse(p, err, "too many files");
	files = reallocarray(u->files, u->file_count + 1, sizeof(*files));
	if (!files)
		return err_set(err, -ENOMEM, "out of memory");
	u->files = files;
	files[u->file_count++] = (struct fs_unused_file){n[0], n[1], n[2], (int64_t)n[3], (int64_t)n[4]};
	return 0;
}

static int parse_disk(struct fs_unused_parser *p, const char *text, struct err *err)
{
	if (p->ret->disk_size || !p->ret->file_count || !numbers(text, &p->ret->disk_size, 1) || !p->ret->disk_size)
		return refuse(p, err, "the disk's size");
	return 0;
}

static int parse_volume(struct fs_unused_parser *p, const char *text, struct err *err)
{
	static const char *const types[] = {"ext2", "ext3", "ext4", "ntfs"};
	struct fs_unused *u = p->ret;
	const struct fs_unused_volume *last = u->volume_count ? &u->volumes[u->volume_count - 1] : NULL;
	struct fs_unused_volume *volumes, v = {0};
	uint64_t partition, n[3];

	if (!u->disk_size || u->extent_count)
		return refuse(p, err, "a partition in the wrong place");
	if (!number(&text, &partition) || partition > 1000000)
		return refuse(p, err, "a partition's number");
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		if (strncmp(text, types[i], strlen(types[i])) == 0 && text[strlen(types[i])] == ' ')
			memcpy(v.type, types[i], strlen(types[i]));
	if (!v.type[0])
		return refuse(p, err, "a type of file system");
	if (!numbers(text + strlen(v.type) + 1, n, 3) || !range_inside(n[0], n[1], u->disk_size) || n[2] > n[1] ||
	    n[0] % SECTOR || (last && n[0] < last->offset + last->length))
		return refuse(p, err, "where a partition lies");
	if (u->volume_count == VOLUMES_MAX)
		return refuse(p, err, "too many partitions");
	v.partition = (unsigned)partition;
	v.offset = n[0];
	v.length = n[1];
	v.unused = n[2];
	volumes = reallocarray(u->volumes, u->volume_count + 1, sizeof(*volumes));
	if (!volumes)
		return err_set(err, -ENOMEM, "out of memory");
	u->volumes = volumes;
	volumes[u->volume_count++] = v;
	return 0;
}

/* Whether [offset, end) is made of volumes that touch. Extents come in order, so each volume is looked at once. */
static bool inside_volumes(struct fs_unused_parser *p, uint64_t offset, uint64_t end)
{
	const struct fs_unused *u = p->ret;

	while (p->volume < u->volume_count && u->volumes[p->volume].offset + u->volumes[p->volume].length <= offset)
		p->volume++;
	for (unsigned i = p->volume; i < u->volume_count && u->volumes[i].offset <= offset; i++) {
		offset = u->volumes[i].offset + u->volumes[i].length;
		if (offset >= end)
			return true;
	}
	return false;
}

static int parse_extent(struct fs_unused_parser *p, const char *text, struct err *err)
{
	struct fs_unused *u = p->ret;
	uint64_t n[2];

	if (!numbers(text, n, 2))
		return refuse(p, err, "neither a keyword nor an offset and a length");
	if (!range_inside(n[0], n[1], u->disk_size) || n[1] == 0 || n[0] % SECTOR || n[1] % SECTOR)
		return refuse(p, err, "a range that is not inside the disk");
	if (u->extent_count && n[0] <= p->reached)
		return refuse(p, err, "ranges that are not in order");
	if (!inside_volumes(p, n[0], n[0] + n[1]))
		return refuse(p, err, "a range that is in no file system");
	if (u->extent_count == EXTENTS_MAX)
		return refuse(p, err, "too many ranges");
	if (u->extent_count == p->extent_capacity) {
		size_t capacity = p->extent_capacity ? p->extent_capacity * 2 : 256;
		struct vhd_extent *extents = reallocarray(u->extents, capacity, sizeof(*extents));

		if (!extents)
			return err_set(err, -ENOMEM, "out of memory");
		u->extents = extents;
		p->extent_capacity = capacity;
	}
	u->extents[u->extent_count++] = (struct vhd_extent){n[0], n[1]};
	p->reached = n[0] + n[1];
	return 0;
}

static int parse_count(struct fs_unused_parser *p, const char *text, struct err *err)
{
	uint64_t count;

	if (!p->ret->disk_size || !numbers(text, &count, 1) || count != p->ret->extent_count)
		return refuse(p, err, "the number of ranges is not what was counted");
	p->ended = true;
	return 0;
}

int fs_unused_parse_line(struct fs_unused_parser *p, const char *line, struct err *err)
{
	static const struct {
		const char *word;
		int (*parse)(struct fs_unused_parser *p, const char *text, struct err *err);
	} words[] = {{"file ", parse_file}, {"disk ", parse_disk}, {"partition ", parse_volume}, {"end ", parse_count}};

	p->lines++;
	if (p->ended)
		return refuse(p, err, "more than the list");
	if (p->lines == 1) {
		if (strcmp(line, "format 1") != 0)
			return err_set(err, -EPROTO, "vhd-fs-unused is of another version than this program: install both from one "
			               "build");
		return 0;
	}
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (strncmp(line, words[i].word, strlen(words[i].word)) == 0)
			return words[i].parse(p, line + strlen(words[i].word), err);
	return parse_extent(p, line, err);
}

int fs_unused_parse_end(const struct fs_unused_parser *p, struct err *err)
{
	if (!p->ended)
		return err_set(err, -EPROTO, "vhd-fs-unused stopped before the end of its list");
	return 0;
}

void fs_unused_done(struct fs_unused *unused)
{
	free(unused->extents);
	free(unused->volumes);
	free(unused->files);
	*unused = (struct fs_unused){0};
}

static int64_t ns_of(const struct timespec *time)
{
	return (int64_t)time->tv_sec * 1000000000 + time->tv_nsec;
}

int fs_unused_still_holds(const struct fs_unused *unused, const struct vhd *vhd, struct err *err)
{
	struct blk_info disk;

	blk_info(vhd_blk((struct vhd *)vhd), &disk);
	if (vhd_layer_count(vhd) != unused->file_count || disk.size != unused->disk_size)
		return err_set(err, -ESTALE, "the disk has changed since its file systems were looked at: start again");
	for (unsigned i = 0; i < unused->file_count; i++) {
		const struct fs_unused_file *file = &unused->files[i];
		struct vhd_info info;
		struct stat st;

		vhd_layer_info(vhd, i, &info);
		if (stat(info.path, &st))
			return err_set(err, -errno, "%s: %s", info.path, strerror(errno));
		if (st.st_dev != file->device || st.st_ino != file->inode || (uint64_t)st.st_size != file->size ||
		    ns_of(&st.st_mtim) != file->modified_ns || ns_of(&st.st_ctim) != file->changed_ns)
			return err_set(err, -ESTALE, "%s: it has changed since its file systems were looked at: start again",
			               info.path);
	}
	return 0;
}
