/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The disk and its partitions as plain files in one folder: disk.raw, p1.raw, p2.raw, ... When a write to the disk
 * touches its partition table, the table is read again before the next name is looked up.
 */

#include <errno.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/checked.h"
#include "mountd/fs.h"
#include "mountd/partition.h"

#define DISK_NODE 2u
#define FIRST_PARTITION_NODE 3u
#define PARTITIONS_MAX 100000u /* that one mount has ever seen */

/* A partition as some table has it; never changed, since files may be open on it. */
struct slice {
	unsigned number;
	uint64_t offset, length;
};

struct raw {
	struct fs fs;
	struct disk *disk;
	pthread_mutex_t lock;
	pthread_rwlock_t edges; /* writes that share a sector with another one are alone */
	struct partition_table table;
	uint64_t table_disk_size; /* the disk's when the table was read */
	bool stale;
	bool written; /* since the last sync */
	int lost;     /* the error of a sync that nobody was told of */
	struct slice *slices; /* slice i is node FIRST_PARTITION_NODE + i */
	unsigned slice_count;
	uid_t uid;
	gid_t gid;
	struct timespec opened;
};

static struct raw *raw_of(struct fs *fs)
{
	return (struct raw *)fs;
}

static int read_disk(void *user, void *buffer, uint32_t length, uint64_t offset)
{
	struct raw *raw = user;
	struct volume whole = {raw->disk, 0, disk_size(raw->disk)};

	return volume_read(&whole, &(struct piece){buffer, length, offset}, 1);
}

/* With the lock. */
static void table_refresh(struct raw *raw)
{
	uint64_t size = disk_size(raw->disk);

	/* On a disk that has grown, partitions may lie inside now that did not. */
	if (!raw->stale && raw->table_disk_size == size)
		return;
	raw->stale = true;
	raw->table_disk_size = size;
	partition_table_done(&raw->table);
	/* A table that is damaged or half written has no partitions to show; disk.raw is there to repair it. */
	if (partition_table_read(read_disk, raw, size, &raw->table, NULL) == 0)
		raw->stale = false;
}

/* The node of a partition of the table, or 0. With the lock. */
static uint64_t slice_node(struct raw *raw, const struct partition *p)
{
	struct slice *slices;

	if (p->problem == PARTITION_OUTSIDE)
		return 0;
	for (unsigned i = 0; i < raw->slice_count; i++)
		if (raw->slices[i].number == p->number && raw->slices[i].offset == p->offset &&
		    raw->slices[i].length == p->length)
			return FIRST_PARTITION_NODE + i;
	if (raw->slice_count == PARTITIONS_MAX)
		return 0;
	slices = reallocarray(raw->slices, raw->slice_count + 1, sizeof(*slices));
	if (!slices)
		return 0;
	raw->slices = slices;
	slices[raw->slice_count++] = (struct slice){p->number, p->offset, p->length};
	return FIRST_PARTITION_NODE + raw->slice_count - 1;
}

static struct volume node_volume(struct raw *raw, uint64_t node)
{
	struct volume volume = {raw->disk, 0, disk_size(raw->disk)};

	if (node >= FIRST_PARTITION_NODE) {
		pthread_mutex_lock(&raw->lock);
		volume.offset = raw->slices[node - FIRST_PARTITION_NODE].offset;
		volume.size = raw->slices[node - FIRST_PARTITION_NODE].length;
		pthread_mutex_unlock(&raw->lock);
	}
	return volume;
}

static int raw_getattr(struct fs *fs, uint64_t node, struct stat *ret)
{
	struct raw *raw = raw_of(fs);
	mode_t write = fs->read_only ? 0 : 0200;

	*ret = (struct stat){
		.st_ino = node,
		.st_mode = node == FS_ROOT ? S_IFDIR | 0500 | write : S_IFREG | 0400 | write,
		.st_nlink = node == FS_ROOT ? 2 : 1,
		.st_uid = raw->uid,
		.st_gid = raw->gid,
		.st_blksize = 65536,
		.st_atim = raw->opened,
		.st_mtim = raw->opened,
		.st_ctim = raw->opened,
	};
	if (node != FS_ROOT) {
		ret->st_size = (off_t)node_volume(raw, node).size;
		ret->st_blocks = ret->st_size / 512;
	}
	return 0;
}

static int raw_lookup(struct fs *fs, uint64_t folder, const char *name, struct fs_entry *ret)
{
	struct raw *raw = raw_of(fs);
	uint64_t node = 0;

	(void)folder;
	if (strcmp(name, "disk.raw") == 0)
		node = DISK_NODE;
	pthread_mutex_lock(&raw->lock);
	table_refresh(raw);
	for (unsigned i = 0; !node && i < raw->table.count; i++) {
		char known[32];

		snprintf(known, sizeof(known), "p%u.raw", raw->table.entries[i].number);
		if (strcmp(name, known) == 0)
			node = slice_node(raw, &raw->table.entries[i]);
	}
	pthread_mutex_unlock(&raw->lock);
	if (!node)
		return -ENOENT;
	*ret = (struct fs_entry){.node = node};
	return raw_getattr(fs, node, &ret->stat);
}

static void raw_forget(struct fs *fs, uint64_t node, uint64_t count)
{
	(void)fs;
	(void)node;
	(void)count;
}

/* Times, owners and modes are not kept; tools that set them need not fail. The size is the disk's. */
static int raw_setattr(struct fs *fs, uint64_t node, unsigned what, const struct stat *value, struct stat *ret)
{
	int e = raw_getattr(fs, node, ret);

	if (fs->read_only)
		return -EROFS;
	if (!e && (what & FS_SET_SIZE) && value->st_size != ret->st_size)
		return -EPERM;
	return e;
}

static int raw_readlink(struct fs *fs, uint64_t node, char **ret)
{
	(void)fs;
	(void)node;
	(void)ret;
	return -EINVAL;
}

static int raw_make(struct fs *fs, uint64_t folder, const char *name, const struct fs_new *what, struct fs_entry *ret)
{
	(void)folder;
	(void)name;
	(void)what;
	(void)ret;
	return fs->read_only ? -EROFS : -EPERM;
}

static int raw_unlink(struct fs *fs, uint64_t folder, const char *name, bool is_folder)
{
	(void)folder;
	(void)name;
	(void)is_folder;
	return fs->read_only ? -EROFS : -EPERM;
}

static int raw_rename(struct fs *fs, uint64_t folder, const char *name, uint64_t new_folder, const char *new_name,
                      unsigned flags)
{
	(void)folder;
	(void)name;
	(void)new_folder;
	(void)new_name;
	(void)flags;
	return fs->read_only ? -EROFS : -EPERM;
}

/* O_TRUNC says "I write it anew"; as on a block device the size stays. */
static int raw_open_node(struct fs *fs, uint64_t node, bool write, bool truncate)
{
	(void)node;
	(void)truncate;
	return write && fs->read_only ? -EROFS : 0;
}

static int raw_release(struct fs *fs, uint64_t node, bool write)
{
	(void)fs;
	(void)node;
	(void)write;
	return 0;
}

static ssize_t raw_read(struct fs *fs, uint64_t node, void *buffer, size_t length, uint64_t offset)
{
	struct volume volume = node_volume(raw_of(fs), node);
	int e;

	if (offset >= volume.size)
		return 0;
	if (length > volume.size - offset)
		length = (size_t)(volume.size - offset);
	e = volume_read(&volume, &(struct piece){buffer, length, offset}, 1);
	return e ? e : (ssize_t)length;
}

static void note_write(struct raw *raw, uint64_t disk_offset, uint64_t length)
{
	pthread_mutex_lock(&raw->lock);
	raw->written = true;
	if (partition_table_touched(&raw->table, disk_offset, length))
		raw->stale = true;
	pthread_mutex_unlock(&raw->lock);
}

static void edges_lock(struct raw *raw, const struct volume *volume, uint64_t offset, uint64_t length)
{
	if ((volume->offset + offset) % BLK_SECTOR_SIZE || length % BLK_SECTOR_SIZE)
		pthread_rwlock_wrlock(&raw->edges);
	else
		pthread_rwlock_rdlock(&raw->edges);
}

static ssize_t raw_write(struct fs *fs, uint64_t node, const void *buffer, size_t length, uint64_t offset)
{
	struct raw *raw = raw_of(fs);
	struct volume volume = node_volume(raw, node);
	int e;

	if (offset >= volume.size)
		return -ENOSPC;
	if (length > volume.size - offset)
		length = (size_t)(volume.size - offset);
	edges_lock(raw, &volume, offset, length);
	e = volume_write(&volume, &(struct piece){(void *)buffer, length, offset}, 1);
	pthread_rwlock_unlock(&raw->edges);
	note_write(raw, volume.offset + offset, length);
	return e ? e : (ssize_t)length;
}

static int raw_fallocate(struct fs *fs, uint64_t node, int mode, uint64_t offset, uint64_t length)
{
	struct raw *raw = raw_of(fs);
	struct volume volume = node_volume(raw, node);
	int e;

	if (fs->read_only)
		return -EROFS;
	if (offset > volume.size || (!range_inside(offset, length, volume.size) && !(mode & FALLOC_FL_KEEP_SIZE)))
		return -EFBIG;
	if (length > volume.size - offset)
		length = volume.size - offset;
	if (mode & ~(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE))
		return -EOPNOTSUPP;
	if (!(mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) || length == 0)
		return 0; /* the disk has room for every sector */
	edges_lock(raw, &volume, offset, length);
	e = volume_zero(&volume, offset, length);
	pthread_rwlock_unlock(&raw->edges);
	note_write(raw, volume.offset + offset, length);
	return e;
}

static int64_t raw_seek(struct fs *fs, uint64_t node, uint64_t offset, bool hole)
{
	struct volume volume = node_volume(raw_of(fs), node);
	struct blk *blk = disk_blk(volume.disk);

	if (offset >= volume.size)
		return -ENXIO;
	while (offset < volume.size) {
		struct blk_extent extents[16];
		int n = blk_map(blk, volume.offset + offset, volume.size - offset, extents, 16, NULL);

		if (n < 0)
			return n;
		blk_unmap(blk);
		for (int i = 0; i < n; i++) {
			if ((extents[i].kind == BLK_EXTENT_ZERO) == hole)
				return (int64_t)(extents[i].offset - volume.offset);
			offset = extents[i].offset + extents[i].length - volume.offset;
		}
	}
	return hole ? (int64_t)volume.size : -ENXIO;
}

static int raw_readdir(struct fs *fs, uint64_t node, uint64_t cookie, fs_emit *emit, void *user)
{
	struct raw *raw = raw_of(fs);
	uint64_t count;

	if (node != FS_ROOT)
		return -ENOTDIR;
	pthread_mutex_lock(&raw->lock);
	/* The numbers of one listing stay what they were at its start. */
	if (cookie == 0)
		table_refresh(raw);
	count = raw->stale ? 0 : raw->table.count;
	for (uint64_t i = cookie; i < count + 3; i++) {
		char name[32] = ".";
		uint64_t child = FS_ROOT;

		if (i == 1)
			strcpy(name, "..");
		if (i == 2) {
			strcpy(name, "disk.raw");
			child = DISK_NODE;
		}
		if (i > 2) {
			snprintf(name, sizeof(name), "p%u.raw", raw->table.entries[i - 3].number);
			child = slice_node(raw, &raw->table.entries[i - 3]);
		}
		if (child && !emit(user, name, child, i < 2 ? S_IFDIR : S_IFREG, i + 1))
			break;
	}
	pthread_mutex_unlock(&raw->lock);
	return 0;
}

static int raw_statfs(struct fs *fs, struct statvfs *ret)
{
	struct raw *raw = raw_of(fs);

	*ret = (struct statvfs){
		.f_bsize = 4096, .f_frsize = 4096, .f_blocks = disk_size(raw->disk) / 4096, .f_namemax = 255,
	};
	return 0;
}

static int sync_disk(struct raw *raw)
{
	struct volume whole = {raw->disk, 0, disk_size(raw->disk)};
	bool written;
	int e;

	pthread_mutex_lock(&raw->lock);
	written = raw->written;
	raw->written = false;
	pthread_mutex_unlock(&raw->lock);
	if (!written)
		return 0;
	e = volume_flush(&whole);
	if (e) {
		pthread_mutex_lock(&raw->lock);
		raw->written = true;
		pthread_mutex_unlock(&raw->lock);
	}
	return e;
}

static int raw_sync(struct fs *fs)
{
	struct raw *raw = raw_of(fs);
	int e = sync_disk(raw);

	pthread_mutex_lock(&raw->lock);
	if (!e)
		e = raw->lost;
	raw->lost = 0;
	pthread_mutex_unlock(&raw->lock);
	return e;
}

static int raw_idle(struct fs *fs)
{
	struct raw *raw = raw_of(fs);
	int e = fs->read_only ? 0 : sync_disk(raw);

	if (e) {
		pthread_mutex_lock(&raw->lock);
		raw->lost = e;
		pthread_mutex_unlock(&raw->lock);
	}
	return e;
}

static int raw_close(struct fs *fs, struct err *err)
{
	struct raw *raw = raw_of(fs);
	int e = fs->read_only ? 0 : raw_sync(fs);

	if (e)
		err_set(err, e, "not all that was written could be made durable: %s", strerror(-e));
	partition_table_done(&raw->table);
	pthread_mutex_destroy(&raw->lock);
	pthread_rwlock_destroy(&raw->edges);
	free(raw->slices);
	free(raw);
	return e;
}

static const struct fs_ops raw_ops = {
	.lookup = raw_lookup,
	.forget = raw_forget,
	.getattr = raw_getattr,
	.setattr = raw_setattr,
	.readlink = raw_readlink,
	.make = raw_make,
	.unlink = raw_unlink,
	.rename = raw_rename,
	.open = raw_open_node,
	.release = raw_release,
	.read = raw_read,
	.write = raw_write,
	.fallocate = raw_fallocate,
	.seek = raw_seek,
	.readdir = raw_readdir,
	.statfs = raw_statfs,
	.sync = raw_sync,
	.idle = raw_idle,
	.close = raw_close,
};

int raw_open(struct disk *disk, bool read_only, struct fs **ret, struct err *err)
{
	struct raw *raw = calloc(1, sizeof(*raw));

	if (!raw)
		return err_set(err, -ENOMEM, "out of memory");
	raw->fs = (struct fs){.ops = &raw_ops, .read_only = read_only, .type = "raw"};
	raw->disk = disk;
	raw->stale = true;
	raw->uid = getuid();
	raw->gid = getgid();
	clock_gettime(CLOCK_REALTIME, &raw->opened);
	pthread_mutex_init(&raw->lock, NULL);
	pthread_rwlock_init(&raw->edges, NULL);
	*ret = &raw->fs;
	return 0;
}
