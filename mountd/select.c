/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "mountd/select.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "mountd/detect.h"
#include "mountd/partition.h"

#define NOT_YET "this version mounts ext2, ext3 and ext4; with --raw every partition is a plain file that other tools take"

static int read_disk(void *user, void *buffer, uint32_t length, uint64_t offset)
{
	struct disk *disk = user;
	struct volume whole = {disk, 0, disk_size(disk)};

	return volume_read(&whole, &(struct piece){buffer, length, offset}, 1);
}

static void append(char *text, size_t size, const char *more)
{
	size_t used = strlen(text);

	snprintf(text + used, size - used, "%s", more);
}

/* "1 (Linux, ext2/3/4), 2 (Linux swap, Linux swap)" */
static void list_append(char *text, size_t size, const struct partition_table *table, const struct partition *p,
                        const struct content *content)
{
	char item[256];

	snprintf(item, sizeof(item), "%s%u (%s%s%s, %s)", text[0] ? ", " : "", p->number,
	         partition_type_name(table, p), p->name[0] ? " " : "", p->name,
	         p->problem == PARTITION_OUTSIDE ? "beyond the end of the disk" : content->name);
	append(text, size, item);
}

static int select_whole(struct disk *disk, unsigned number, struct volume *ret, struct err *err)
{
	struct volume whole = {disk, 0, disk_size(disk)};
	struct content content;
	int e;

	if (number)
		return err_set(err, -ENOENT, "there is no partition %u: the disk has no partition table", number);
	e = content_detect(&whole, &content, err);
	if (e)
		return e;
	if (!content.mountable && strcmp(content.name, "nothing known") == 0)
		return err_set(err, -ENOENT, "the disk has no partition table and no file system that is known here: an empty "
		               "disk is partitioned and formatted in a --raw mount, with sfdisk and mkfs");
	if (!content.mountable)
		return err_set(err, -ENOENT, "the disk holds %s, which is not supported yet: " NOT_YET, content.name);
	*ret = whole;
	return 0;
}

static int select_one(struct disk *disk, const struct partition_table *table, unsigned number, bool read_only,
                      struct volume *ret, struct err *err)
{
	char list[300] = "";
	struct volume found = {0};
	const struct partition *one = NULL;
	struct content one_content = {0};
	unsigned mountable = 0;

	for (unsigned i = 0; i < table->count; i++) {
		const struct partition *p = &table->entries[i];
		struct volume volume = {disk, p->offset, p->length};
		struct content content = {.name = "nothing known"};
		int e;

		if (p->problem != PARTITION_OUTSIDE) {
			e = content_detect(&volume, &content, err);
			if (e)
				return err_prefix(err, e, "partition %u", p->number);
		}
		list_append(list, sizeof(list), table, p, &content);
		if (number ? p->number != number : !content.mountable)
			continue;
		mountable++;
		one = p;
		one_content = content;
		found = volume;
	}
	if (!table->count)
		return err_set(err, -ENOENT, "the partition table is empty: make partitions with sfdisk on disk.raw of a --raw "
		               "mount");
	if (number && !one)
		return err_set(err, -ENOENT, "there is no partition %u; there are %s", number, list);
	if (!one)
		return err_set(err, -ENOENT, "no partition holds a file system that is supported yet; there are %s: " NOT_YET,
		               list);
	if (mountable > 1)
		return err_set(err, -EINVAL, "several partitions hold file systems: choose one with -p; there are %s", list);
	if (one->problem == PARTITION_OUTSIDE)
		return err_set(err, -EINVAL, "partition %u reaches beyond the end of the disk: the image was cut or its "
		               "partition table is damaged", one->number);
	if (one->problem == PARTITION_OVERLAPS && !read_only)
		return err_set(err, -EINVAL, "partition %u overlaps another one, so writing to it could destroy that: read it "
		               "with -r, or repair the table in a --raw mount", one->number);
	if (!one_content.mountable)
		return err_set(err, -ENOENT, "partition %u holds %s, which is not supported yet: " NOT_YET, one->number,
		               one_content.name);
	*ret = found;
	return 0;
}

int volume_select(struct disk *disk, unsigned number, bool read_only, struct volume *ret, struct err *err)
{
	struct partition_table table;
	int e = partition_table_read(read_disk, disk, disk_size(disk), &table, err);

	if (e)
		return e;
	if (table.scheme == PARTITION_NONE)
		e = select_whole(disk, number, ret, err);
	else
		e = select_one(disk, &table, number, read_only, ret, err);
	partition_table_done(&table);
	return e;
}
