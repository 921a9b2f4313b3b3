/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "mountd/unused.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/checked.h"
#include "mountd/detect.h"
#include "mountd/partition.h"

#define SECTOR 512u

static int read_disk(void *user, void *buffer, uint32_t length, uint64_t offset)
{
	struct disk *disk = user;
	struct volume whole = {disk, 0, disk_size(disk)};

	return volume_read(&whole, &(struct piece){buffer, length, offset}, 1);
}

struct search {
	struct disk *disk;
	struct unused_list *list;
	void (*found)(void *user, const struct unused_volume *volume);
	void *user;
};

static int read_at(const struct volume *volume, void *buffer, size_t length, uint64_t offset, struct err *err)
{
	int e;

	if (!range_inside(offset, length, volume->size)) {
		memset(buffer, 0, length);
		return 0;
	}
	e = volume_read(volume, &(struct piece){buffer, length, offset}, 1);
	return e ? err_set(err, e, "cannot be read: %s", strerror(-e)) : 0;
}

/* Metadata of formats 0.90 and 1.0 lies at the end; in front of it is what looks like a file system. */
static int check_raid(const struct volume *volume, struct err *err)
{
	const uint64_t sectors = volume->size / SECTOR;
	const uint64_t places[] = {
		sectors >= 128 ? (round_down(sectors, 128) - 128) * SECTOR : UINT64_MAX,
		sectors >= 16 ? round_down(sectors - 16, 8) * SECTOR : UINT64_MAX,
	};

	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		uint8_t mark[4];
		int e = read_at(volume, mark, sizeof(mark), places[i], err);

		if (e)
			return e;
		if (memcmp(mark, "\xfc\x4e\x2b\xa9", 4) == 0 || memcmp(mark, "\xa9\x2b\x4e\xfc", 4) == 0)
			return err_set(err, -EBUSY, "it is a member of a Linux RAID, which uses the space in its own way");
	}
	return 0;
}

/* ZFS leaves the first 8 KiB alone, with whatever superblock was there before. Its own start at 128 KiB. */
static int check_zfs(const struct volume *volume, struct err *err)
{
	static uint8_t bytes[128 << 10];
	int e = read_at(volume, bytes, sizeof(bytes), 128 << 10, err);

	for (size_t i = 0; i < sizeof(bytes) && !e; i += 1024)
		if (memcmp(bytes + i, "\x0c\xb1\xba\0\0\0\0\0", 8) == 0 || memcmp(bytes + i, "\0\0\0\0\0\xba\xb1\x0c", 8) == 0)
			e = err_set(err, -EBUSY, "it carries marks of ZFS as well");
	return e;
}

/* Partitions whose content is laid out by a volume manager, whatever it looks like at the start. */
static bool type_is_managed(const char *type)
{
	static const char *const managed[] = {"Windows dynamic disk", "Windows storage spaces", "Linux LVM", "Linux RAID"};

	for (size_t i = 0; i < sizeof(managed) / sizeof(managed[0]); i++)
		if (strncmp(type, managed[i], strlen(managed[i])) == 0)
			return true;
	return false;
}

static int list_move(struct unused_list *to, const struct unused_list *from, const struct volume *volume)
{
	int e = 0;

	for (size_t i = 0; i < from->count && !e; i++)
		if (range_inside(from->ranges[i].offset, from->ranges[i].length, volume->size))
			e = unused_add(to, volume->offset + from->ranges[i].offset, from->ranges[i].length);
	return e;
}

/* Looks into one volume. 0, also if it is left out, which `found` is told; -ENOMEM. */
static int search_volume(struct search *s, const struct volume *volume, unsigned number, const char *managed)
{
	struct unused_volume told = {.partition = number, .offset = volume->offset, .length = volume->size};
	struct unused_list list = {0};
	struct content content;
	struct err err;
	int e = content_detect(volume, &content, &err);

	told.type = e ? "unknown" : content.name;
	if (!e && managed)
		e = err_set(&err, -EBUSY, "the partition's type (%s) says that a volume manager uses it", managed);
	else if (!e && (content.also || content.container))
		e = err_set(&err, -EBUSY, "it holds %s%s%s", content.name, content.also ? ", or " : "",
		            content.also ? content.also : "");
	if (!e)
		e = check_raid(volume, &err);
	if (!e)
		e = check_zfs(volume, &err);
	if (!e && strcmp(content.name, "ext2/3/4") == 0)
		e = unused_ext(volume, &list, &told.type, &err);
	else if (!e && strcmp(content.name, "NTFS") == 0)
		e = unused_ntfs(volume, &list, &err);
	else if (!e)
		e = err_set(&err, -EOPNOTSUPP, "free space is known of ext2, ext3, ext4 and NTFS only");
	if (!e) {
		told.unused = unused_bytes(&list);
		if (strcmp(told.type, "NTFS") == 0)
			told.type = "ntfs";
		e = list_move(s->list, &list, volume);
	} else {
		told.problem = err.text;
		e = 0;
	}
	unused_list_done(&list);
	if (!e)
		s->found(s->user, &told);
	return e;
}

static void tell_outside(struct search *s, const struct partition *p, const char *problem)
{
	s->found(s->user, &(struct unused_volume){.partition = p->number, .type = "unknown", .offset = p->offset,
	                                          .length = p->length, .problem = problem});
}

static int compare_partitions(const void *a, const void *b)
{
	const struct partition *x = a, *y = b;

	return (x->offset > y->offset) - (x->offset < y->offset);
}

static int search_table(struct search *s, struct partition_table *table, struct err *err)
{
	struct volume whole = {s->disk, 0, disk_size(s->disk)};
	struct content content;
	int e = content_detect(&whole, &content, err);

	if (e)
		return e;
	/* What is a file system to one reader and a partition to another is neither here. */
	if (strcmp(content.name, "nothing known") != 0)
		return err_set(err, -EBADMSG, "the disk has a partition table and %s in the same place: which of them counts is not "
		               "certain", content.name);
	if (table->from_backup || table->chain_cut)
		return err_set(err, -EBADMSG, "the partition table is damaged (%s), so what its partitions are is not certain: "
		               "repair it first, in a vhd-mount --raw mount",
		               table->chain_cut ? "the chain of logical partitions breaks off" : "only the backup GPT is good");
	qsort(table->entries, table->count, sizeof(*table->entries), compare_partitions);
	for (unsigned i = 0; i < table->count && !e; i++) {
		const struct partition *p = &table->entries[i];
		const char *type = partition_type_name(table, p);
		struct volume volume = {s->disk, p->offset, p->length};

		if (p->problem == PARTITION_OUTSIDE)
			tell_outside(s, p, "it reaches beyond the end of the disk");
		else if (p->problem == PARTITION_OVERLAPS)
			tell_outside(s, p, "it overlaps another partition, or the partition table");
		else if (partition_table_touched(table, p->offset, p->length))
			tell_outside(s, p, "it covers part of the partition table");
		else
			e = search_volume(s, &volume, p->number, type_is_managed(type) ? type : NULL);
	}
	return e ? err_set(err, e, "out of memory") : 0;
}

int unused_find(struct disk *disk, struct unused_list *ret, void (*found)(void *user, const struct unused_volume *volume),
                void *user, struct err *err)
{
	struct search s = {disk, ret, found, user};
	struct volume whole = {disk, 0, disk_size(disk)};
	struct partition_table table;
	int e = partition_table_read(read_disk, disk, disk_size(disk), &table, err);

	if (e)
		return e;
	if (table.scheme == PARTITION_NONE) {
		e = search_volume(&s, &whole, 0, NULL);
		if (e)
			err_set(err, e, "out of memory");
	} else {
		e = search_table(&s, &table, err);
	}
	partition_table_done(&table);
	return e;
}
