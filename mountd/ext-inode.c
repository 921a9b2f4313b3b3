/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Inodes in memory. One that the kernel or a function here refers to is in the table, and that copy is the one that
 * holds: the library is given it too (see ext-mount.c), and the inode table gets it at the next sync or when the last
 * reference goes.
 */

#include "mountd/ext.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/sysmacros.h>

static struct inode **bucket_of(struct ext *ext, ext2_ino_t ino)
{
	return &ext->buckets[ino % INODE_BUCKETS];
}

static ext2_ino_t ino_of(uint64_t node)
{
	return node == FS_ROOT ? EXT2_ROOT_INO : (ext2_ino_t)node;
}

static struct inode *table_find(struct ext *ext, ext2_ino_t ino)
{
	struct inode *inode = *bucket_of(ext, ino);

	while (inode && inode->ino != ino)
		inode = inode->hash_next;
	return inode;
}

struct inode *inode_known(struct ext *ext, uint64_t node)
{
	return table_find(ext, ino_of(node));
}

static struct inode *table_add(struct ext *ext, ext2_ino_t ino)
{
	struct inode **bucket = bucket_of(ext, ino);
	size_t raw = ext->inode_size > sizeof(struct ext2_inode_large) ? ext->inode_size
	                                                               : sizeof(struct ext2_inode_large);
	struct inode *inode = calloc(1, sizeof(*inode) + raw);

	if (!inode)
		return NULL;
	inode->ino = ino;
	pthread_rwlock_init(&inode->data, NULL);
	inode->hash_next = *bucket;
	*bucket = inode;
	return inode;
}

static void table_remove(struct ext *ext, struct inode *inode)
{
	struct inode **p = bucket_of(ext, inode->ino);

	while (*p != inode)
		p = &(*p)->hash_next;
	*p = inode->hash_next;
	if (inode->dirty) {
		for (p = &ext->dirty; *p != inode; p = &(*p)->dirty_next)
			;
		*p = inode->dirty_next;
	}
	dir_done(ext, inode);
	if (inode->runs) {
		pthread_mutex_destroy(&inode->runs->lock);
		free(inode->runs);
	}
	pthread_rwlock_destroy(&inode->data);
	free(inode);
}

int inode_reload(struct ext *ext, struct inode *inode)
{
	errcode_t code;

	ext->passthrough = true;
	code = ext2fs_read_inode_full(ext->lib, inode->ino, inode_base(inode), (int)ext->inode_size);
	ext->passthrough = false;
	return code ? ext_errno(code) : 0;
}

int inode_get(struct ext *ext, ext2_ino_t ino, struct inode **ret)
{
	struct inode *inode = table_find(ext, ino);
	int e;

	if (!inode) {
		const struct ext2_inode *base;

		/* A name that leads to one of the file system's own inodes, or to a free one, is damage. */
		if (ino > ext->lib->super->s_inodes_count ||
		    (ino != EXT2_ROOT_INO && ino < EXT2_FIRST_INODE(ext->lib->super)))
			return -EUCLEAN;
		inode = table_add(ext, ino);
		if (!inode)
			return -ENOMEM;
		e = inode_reload(ext, inode);
		base = inode_base(inode);
		if (!e && (base->i_links_count == 0 || base->i_mode == 0))
			e = -EUCLEAN;
		if (e) {
			table_remove(ext, inode);
			return e;
		}
	}
	inode->pins++;
	*ret = inode;
	return 0;
}

void inode_dirty(struct ext *ext, struct inode *inode)
{
	if (inode->dirty)
		return;
	inode->dirty = true;
	inode->dirty_next = ext->dirty;
	ext->dirty = inode;
}

int inode_write(struct ext *ext, struct inode *inode)
{
	errcode_t code;

	ext->passthrough = true;
	code = ext2fs_write_inode_full(ext->lib, inode->ino, inode_base(inode), (int)ext->inode_size);
	ext->passthrough = false;
	return code ? ext_errno(code) : 0;
}

int inode_write_all(struct ext *ext)
{
	while (ext->dirty) {
		struct inode *inode = ext->dirty;
		int e = inode_write(ext, inode);

		if (e)
			return e;
		ext->dirty = inode->dirty_next;
		inode->dirty = false;
	}
	return 0;
}

static void orphan_add(struct ext *ext, struct inode *inode)
{
	struct ext2_super_block *super = ext->lib->super;

	inode->raw->i_dtime = super->s_last_orphan;
	super->s_last_orphan = inode->ino;
	inode->orphan = true;
	inode->orphan_prev = NULL;
	inode->orphan_next = ext->orphans;
	if (ext->orphans)
		ext->orphans->orphan_prev = inode;
	ext->orphans = inode;
	ext2fs_mark_super_dirty(ext->lib);
}

static void orphan_remove(struct ext *ext, struct inode *inode)
{
	uint32_t next = inode->orphan_next ? inode->orphan_next->ino : 0;

	if (!inode->orphan)
		return;
	if (inode->orphan_prev) {
		inode->orphan_prev->orphan_next = inode->orphan_next;
		inode->orphan_prev->raw->i_dtime = next;
		inode_dirty(ext, inode->orphan_prev);
	} else {
		ext->orphans = inode->orphan_next;
		ext->lib->super->s_last_orphan = next;
		ext2fs_mark_super_dirty(ext->lib);
	}
	if (inode->orphan_next)
		inode->orphan_next->orphan_prev = inode->orphan_prev;
	inode->orphan = false;
}

/* Whether the file has data blocks that the map functions may touch; devices and short links keep other things there. */
static bool has_blocks(struct inode *inode)
{
	const struct ext2_inode *base = inode_base(inode);

	if (base->i_flags & EXT4_INLINE_DATA_FL)
		return false;
	return LINUX_S_ISREG(base->i_mode) || LINUX_S_ISDIR(base->i_mode) ||
	       (LINUX_S_ISLNK(base->i_mode) && !ext2fs_is_fast_symlink((struct ext2_inode *)base));
}

static int empty(struct ext *ext, struct inode *inode)
{
	int e = 0;

	alloc_release(ext, inode);
	if (has_blocks(inode))
		e = map_remove(ext, inode, 0, UINT64_MAX);
	inode->emptied = true;
	if (LINUX_S_ISREG(inode_base(inode)->i_mode))
		inode_set_size(ext, inode, 0);
	return e;
}

/* The last reference to a deleted file is gone. */
static int delete_inode(struct ext *ext, struct inode *inode)
{
	struct ext2_inode *base = inode_base(inode);
	int e = 0;

	if (!inode->emptied)
		e = empty(ext, inode);
	if (!e && base->i_file_acl) {
		errcode_t code = ext2fs_free_ext_attr(ext->lib, inode->ino, inode->raw);

		e = code ? ext_errno(code) : 0;
	}
	if (e)
		return e; /* it stays on the orphan list, for e2fsck */
	orphan_remove(ext, inode);
	base->i_dtime = (uint32_t)time(NULL);
	base->i_size = 0;
	base->i_size_high = 0;
	e = inode_write(ext, inode);
	if (e)
		return e;
	ext2fs_inode_alloc_stats2(ext->lib, inode->ino, -1, LINUX_S_ISDIR(base->i_mode));
	freed_inode(ext, inode->ino);
	return 0;
}

static void inode_unused(struct ext *ext, struct inode *inode)
{
	int e = 0;

	if (inode->lookups || inode->pins || inode->opens)
		return;
	alloc_release(ext, inode);
	if (inode_base(inode)->i_links_count == 0 && !ext->fs.read_only && !ext->failed)
		e = delete_inode(ext, inode);
	else if (inode->dirty && !ext->failed)
		e = inode_write(ext, inode);
	if (e)
		ext->failed = true;
	if (inode->orphan) {
		/* Could not be deleted: out of the list in memory, but not on disk. */
		if (inode->orphan_prev)
			inode->orphan_prev->orphan_next = inode->orphan_next;
		else
			ext->orphans = inode->orphan_next;
		if (inode->orphan_next)
			inode->orphan_next->orphan_prev = inode->orphan_prev;
	}
	table_remove(ext, inode);
}

void inode_put(struct ext *ext, struct inode *inode)
{
	inode->pins--;
	inode_unused(ext, inode);
}

void inode_free_all(struct ext *ext)
{
	for (unsigned i = 0; i < INODE_BUCKETS; i++)
		while (ext->buckets[i]) {
			struct inode *inode = ext->buckets[i];

			inode->lookups = inode->pins = inode->opens = 0;
			inode_unused(ext, inode);
		}
}

void inode_reap(struct ext *ext, struct inode *inode)
{
	int e = 0;

	pthread_rwlock_wrlock(&inode->data);
	pthread_mutex_lock(&ext->lock);
	if (inode_base(inode)->i_links_count == 0 && inode->opens == 0 && !inode->emptied &&
	    LINUX_S_ISREG(inode_base(inode)->i_mode)) {
		e = empty(ext, inode);
		if (e)
			ext->failed = true;
	}
	pthread_mutex_unlock(&ext->lock);
	pthread_rwlock_unlock(&inode->data);
}

/* Whether a field behind the first 128 bytes is there in this inode. */
#define HAS_FIELD(ext, inode, field)                                                                                \
	((ext)->inode_size > EXT2_GOOD_OLD_INODE_SIZE &&                                                            \
	 offsetof(struct ext2_inode_large, field) + sizeof((inode)->raw->field) <=                                  \
	     EXT2_GOOD_OLD_INODE_SIZE + (size_t)(inode)->raw->i_extra_isize)

static struct timespec time_decode(uint32_t seconds, uint32_t extra)
{
	struct timespec t = {(int32_t)seconds + ((int64_t)(extra & 3) << 32), (long)(extra >> 2)};

	if (t.tv_nsec >= 1000000000)
		t.tv_nsec = 0;
	return t;
}

static uint32_t time_extra(struct timespec t)
{
	return (uint32_t)(((t.tv_sec - (int32_t)t.tv_sec) >> 32) & 3) | (uint32_t)t.tv_nsec << 2;
}

/* Seconds that fit: without the extra field, 32 bits. */
static uint32_t time_seconds(struct timespec t, bool extra)
{
	int64_t low = INT32_MIN, high = extra ? INT64_C(0x37fffffff) : INT32_MAX;

	return (uint32_t)(t.tv_sec < low ? low : t.tv_sec > high ? high : t.tv_sec);
}

#define TIME_GET(ext, inode, field)                                                                                 \
	time_decode((inode)->raw->field, HAS_FIELD(ext, inode, field##_extra) ? (inode)->raw->field##_extra : 0)

#define TIME_SET(ext, inode, field, t)                                                                              \
	do {                                                                                                        \
		bool extra_ = HAS_FIELD(ext, inode, field##_extra);                                                 \
		(inode)->raw->field = time_seconds(t, extra_);                                                      \
		if (extra_)                                                                                         \
			(inode)->raw->field##_extra = time_extra(t);                                                \
	} while (0)

void inode_touch(struct ext *ext, struct inode *inode, bool modified, bool changed)
{
	struct timespec now;

	ext_now(&now);
	if (modified)
		TIME_SET(ext, inode, i_mtime, now);
	if (changed)
		TIME_SET(ext, inode, i_ctime, now);
	inode_dirty(ext, inode);
}

void inode_add_blocks(struct ext *ext, struct inode *inode, uint64_t blocks)
{
	ext2fs_iblk_add_blocks(ext->lib, inode_base(inode), blocks);
	inode_dirty(ext, inode);
}

void inode_set_size(struct ext *ext, struct inode *inode, uint64_t bytes)
{
	inode->raw->i_size = (uint32_t)bytes;
	inode->raw->i_size_high = (uint32_t)(bytes >> 32);
	if (bytes > 0x7fffffff && !ext2fs_has_feature_large_file(ext->lib->super)) {
		ext2fs_set_feature_large_file(ext->lib->super);
		ext2fs_mark_super_dirty(ext->lib);
	}
	inode_dirty(ext, inode);
}

static dev_t inode_rdev(const struct ext2_inode *base)
{
	uint32_t new = base->i_block[1];

	if (base->i_block[0])
		return makedev(base->i_block[0] >> 8 & 0xff, base->i_block[0] & 0xff);
	return makedev(new >> 8 & 0xfff, (new & 0xff) | (new >> 12 & 0xfff00));
}

static void inode_set_rdev(struct ext2_inode *base, dev_t rdev)
{
	unsigned a = major(rdev), b = minor(rdev);

	if (a < 256 && b < 256) {
		base->i_block[0] = a << 8 | b;
		base->i_block[1] = 0;
	} else {
		base->i_block[0] = 0;
		base->i_block[1] = (b & 0xff) | a << 8 | (b & ~0xffu) << 12;
	}
}

void inode_stat(struct ext *ext, struct inode *inode, struct stat *ret)
{
	const struct ext2_inode *base = inode_base(inode);

	*ret = (struct stat){
		.st_ino = inode->ino,
		.st_mode = base->i_mode,
		.st_nlink = base->i_links_count,
		.st_uid = inode_uid(*base),
		.st_gid = inode_gid(*base),
		.st_size = (off_t)inode_bytes(inode),
		.st_blksize = (blksize_t)ext->block_size,
		.st_blocks = (blkcnt_t)(ext2fs_get_stat_i_blocks(ext->lib, (struct ext2_inode *)base)),
		.st_atim = TIME_GET(ext, inode, i_atime),
		.st_mtim = TIME_GET(ext, inode, i_mtime),
		.st_ctim = TIME_GET(ext, inode, i_ctime),
	};
	if (LINUX_S_ISCHR(base->i_mode) || LINUX_S_ISBLK(base->i_mode))
		ret->st_rdev = inode_rdev(base);
}

void inode_entry(struct ext *ext, struct inode *inode, struct fs_entry *ret)
{
	ret->node = inode->ino == EXT2_ROOT_INO ? FS_ROOT : inode->ino;
	ret->generation = inode_base(inode)->i_generation;
	inode_stat(ext, inode, &ret->stat);
	inode->lookups++;
}

int inode_new(struct ext *ext, struct inode *folder, const struct fs_new *what, struct inode **ret)
{
	const struct ext2_inode *parent = inode_base(folder);
	struct ext2_inode *base;
	struct inode *inode;
	struct timespec now;
	ext2_ino_t ino;
	errcode_t code;
	gid_t gid = what->gid;
	mode_t mode = what->mode;

	code = ext2fs_new_inode(ext->lib, folder->ino, (int)mode, NULL, &ino);
	if (code == EXT2_ET_INODE_ALLOC_FAIL && ext->freed_inode_count) {
		int e = ext_sync_locked(ext);

		if (e)
			return e;
		code = ext2fs_new_inode(ext->lib, folder->ino, (int)mode, NULL, &ino);
	}
	if (code)
		return code == EXT2_ET_INODE_ALLOC_FAIL ? -ENOSPC : ext_errno(code);
	inode = table_add(ext, ino);
	if (!inode)
		return -ENOMEM;
	base = inode_base(inode);
	if (parent->i_mode & S_ISGID) {
		gid = inode_gid(*parent);
		if (S_ISDIR(mode))
			mode |= S_ISGID;
	}
	base->i_mode = (uint16_t)mode;
	ext2fs_set_i_uid_high(*base, what->uid >> 16);
	base->i_uid = (uint16_t)what->uid;
	ext2fs_set_i_gid_high(*base, gid >> 16);
	base->i_gid = (uint16_t)gid;
	base->i_links_count = S_ISDIR(mode) ? 2 : 1;
	if (getrandom(&base->i_generation, sizeof(base->i_generation), 0) < 0)
		base->i_generation = (uint32_t)time(NULL);
	if (ext->inode_size > EXT2_GOOD_OLD_INODE_SIZE) {
		inode->raw->i_extra_isize = sizeof(struct ext2_inode_large) - EXT2_GOOD_OLD_INODE_SIZE;
		if (inode->raw->i_extra_isize > ext->inode_size - EXT2_GOOD_OLD_INODE_SIZE)
			inode->raw->i_extra_isize = (uint16_t)(ext->inode_size - EXT2_GOOD_OLD_INODE_SIZE);
	}
	ext_now(&now);
	TIME_SET(ext, inode, i_atime, now);
	TIME_SET(ext, inode, i_mtime, now);
	TIME_SET(ext, inode, i_ctime, now);
	if (HAS_FIELD(ext, inode, i_crtime_extra)) {
		inode->raw->i_crtime = time_seconds(now, true);
		inode->raw->i_crtime_extra = time_extra(now);
	}
	if (S_ISCHR(mode) || S_ISBLK(mode))
		inode_set_rdev(base, what->rdev);
	inode->pins = 1;
	inode_dirty(ext, inode);
	ext2fs_inode_alloc_stats2(ext->lib, ino, +1, S_ISDIR(mode));
	if (ext2fs_has_feature_extents(ext->lib->super) &&
	    (S_ISREG(mode) || S_ISDIR(mode) || (S_ISLNK(mode) && strlen(what->target) >= sizeof(base->i_block)))) {
		ext2_extent_handle_t handle;

		/* Opening an inode with an empty map writes the root of a tree into it. */
		base->i_flags |= EXT4_EXTENTS_FL;
		code = ext2fs_extent_open2(ext->lib, ino, base, &handle);
		if (code) {
			base->i_links_count = 0;
			inode_put(ext, inode);
			return ext_errno(code);
		}
		ext2fs_extent_free(handle);
	}
	*ret = inode;
	return 0;
}

int inode_drop_link(struct ext *ext, struct inode *inode, bool whole)
{
	struct ext2_inode *base = inode_base(inode);

	if (whole || base->i_links_count <= 1)
		base->i_links_count = 0;
	else
		base->i_links_count--;
	inode_touch(ext, inode, false, true);
	if (base->i_links_count == 0 && !inode->orphan)
		orphan_add(ext, inode);
	return 0;
}

int ext_getattr(struct fs *fs, uint64_t node, struct stat *ret)
{
	struct ext *ext = ext_of(fs);

	pthread_mutex_lock(&ext->lock);
	inode_stat(ext, inode_known(ext, node), ret);
	pthread_mutex_unlock(&ext->lock);
	return 0;
}

int ext_setattr(struct fs *fs, uint64_t node, unsigned what, const struct stat *value, struct stat *ret)
{
	struct ext *ext = ext_of(fs);
	struct ext2_inode *base;
	struct inode *inode;
	int e;

	pthread_mutex_lock(&ext->lock);
	inode = inode_known(ext, node);
	e = ext_begin_change(ext);
	pthread_mutex_unlock(&ext->lock);
	if (e)
		return e;
	base = inode_base(inode);
	if (what & FS_SET_SIZE) {
		pthread_rwlock_wrlock(&inode->data);
		e = data_truncate(ext, inode, (uint64_t)value->st_size);
		pthread_rwlock_unlock(&inode->data);
		if (e)
			return e;
	}
	pthread_mutex_lock(&ext->lock);
	if (what & FS_SET_MODE) {
		e = acl_from_mode(ext, inode, value->st_mode);
		if (e) {
			pthread_mutex_unlock(&ext->lock);
			return e;
		}
	}
	if (what & FS_SET_MODE)
		base->i_mode = (uint16_t)((base->i_mode & S_IFMT) | (value->st_mode & 07777));
	if (what & FS_SET_UID) {
		base->i_uid = (uint16_t)value->st_uid;
		ext2fs_set_i_uid_high(*base, value->st_uid >> 16);
	}
	if (what & FS_SET_GID) {
		base->i_gid = (uint16_t)value->st_gid;
		ext2fs_set_i_gid_high(*base, value->st_gid >> 16);
	}
	inode_touch(ext, inode, false, true);
	if (what & FS_SET_ATIME)
		TIME_SET(ext, inode, i_atime, value->st_atim);
	if (what & FS_SET_MTIME)
		TIME_SET(ext, inode, i_mtime, value->st_mtim);
	inode_stat(ext, inode, ret);
	pthread_mutex_unlock(&ext->lock);
	return 0;
}

void ext_forget(struct fs *fs, uint64_t node, uint64_t count)
{
	struct ext *ext = ext_of(fs);
	struct inode *inode;

	pthread_mutex_lock(&ext->lock);
	inode = inode_known(ext, node);
	if (inode && inode->ino != EXT2_ROOT_INO) {
		inode->lookups -= count < inode->lookups ? count : inode->lookups;
		inode_unused(ext, inode);
	}
	pthread_mutex_unlock(&ext->lock);
}

int ext_open_file(struct fs *fs, uint64_t node, bool write, bool truncate)
{
	struct ext *ext = ext_of(fs);
	struct inode *inode;
	int e = 0;

	pthread_mutex_lock(&ext->lock);
	inode = inode_known(ext, node);
	if (write)
		e = ext_begin_change(ext);
	if (!e && (inode_base(inode)->i_flags & EXT4_ENCRYPT_FL))
		e = -ENOKEY;
	if (!e && write && (inode_base(inode)->i_flags & (EXT2_IMMUTABLE_FL | EXT4_VERITY_FL)))
		e = -EPERM;
	if (!e)
		inode->opens++;
	pthread_mutex_unlock(&ext->lock);
	if (!e && truncate) {
		struct stat stat;

		e = ext_setattr(fs, node, FS_SET_SIZE, &(struct stat){0}, &stat);
		if (e)
			ext_release(fs, node, write);
	}
	return e;
}

int ext_release(struct fs *fs, uint64_t node, bool write)
{
	struct ext *ext = ext_of(fs);
	struct inode *inode;
	bool reap = false;

	(void)write;
	pthread_mutex_lock(&ext->lock);
	inode = inode_known(ext, node);
	if (--inode->opens == 0) {
		alloc_release(ext, inode);
		inode->batch = 0;
		reap = inode_base(inode)->i_links_count == 0;
		if (reap)
			inode->pins++;
		else
			inode_unused(ext, inode);
	}
	pthread_mutex_unlock(&ext->lock);
	if (reap) {
		inode_reap(ext, inode);
		pthread_mutex_lock(&ext->lock);
		inode_put(ext, inode);
		pthread_mutex_unlock(&ext->lock);
	}
	return 0;
}
