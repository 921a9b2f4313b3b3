/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Opening, syncing and closing an ext2, ext3 or ext4 file system; what is refused and why. */

#include "mountd/ext.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"

#define IDLE_SECONDS 1 /* without changes, then they are written */
#define AGE_SECONDS 5  /* the oldest change waits no longer */
#define DIRTY_MAX (32u << 20) /* bytes of metadata that may wait */

#define REPAIR "repair it with e2fsck -f on its file in a --raw mount"

int ext_errno(errcode_t code)
{
	if (code == 0)
		return 0;
	if (code > 0 && code < 4096)
		return -(int)code;
	switch (code) {
	case EXT2_ET_NO_MEMORY:
		return -ENOMEM;
	case EXT2_ET_BLOCK_ALLOC_FAIL:
	case EXT2_ET_INODE_ALLOC_FAIL:
	case EXT2_ET_DIR_NO_SPACE:
	case EXT2_ET_EA_NO_SPACE:
		return -ENOSPC;
	case EXT2_ET_FILE_TOO_BIG:
		return -EFBIG;
	case EXT2_ET_RO_FILSYS:
		return -EROFS;
	case EXT2_ET_SHORT_READ:
	case EXT2_ET_SHORT_WRITE:
		return -EIO;
	case EXT2_ET_UNIMPLEMENTED:
	case EXT2_ET_OP_NOT_SUPPORTED:
		return -EOPNOTSUPP;
	default:
		return -EUCLEAN;
	}
}

void ext_now(struct timespec *ret)
{
	clock_gettime(CLOCK_REALTIME, ret);
}

/* The library asks here before it goes to the inode table; the inodes in memory are the ones that hold. */
static errcode_t library_read_inode(ext2_filsys lib, ext2_ino_t ino, struct ext2_inode *ret)
{
	struct ext *ext = lib->priv_data;
	struct inode *inode;

	if (ext->passthrough)
		return EXT2_ET_CALLBACK_NOTHANDLED;
	inode = inode_known(ext, ino == EXT2_ROOT_INO ? FS_ROOT : ino);
	if (!inode)
		return EXT2_ET_CALLBACK_NOTHANDLED;
	memmove(ret, inode_base(inode), sizeof(*ret));
	return 0;
}

static errcode_t library_write_inode(ext2_filsys lib, ext2_ino_t ino, struct ext2_inode *from)
{
	struct ext *ext = lib->priv_data;
	struct inode *inode;

	if (ext->passthrough)
		return EXT2_ET_CALLBACK_NOTHANDLED;
	inode = inode_known(ext, ino == EXT2_ROOT_INO ? FS_ROOT : ino);
	if (!inode)
		return EXT2_ET_CALLBACK_NOTHANDLED;
	memmove(inode_base(inode), from, sizeof(*from));
	inode_dirty(ext, inode);
	return 0;
}

static int barrier(struct ext *ext)
{
	int e = ext->unflushed ? volume_flush(&ext->volume) : 0;

	if (!e)
		ext->unflushed = false;
	return e;
}

/* All dirty metadata to the disk, after the data that it speaks of. */
static int write_out(struct ext *ext)
{
	size_t dirty = ext_io_dirty_bytes(ext->io);
	int e = ext_io_write_back(ext->io, ext->fresh_blocks);

	/* Also when that or the next fails: some of it may be written, and clean in the cache. */
	ext->unflushed |= e || ext_io_dirty_bytes(ext->io) != dirty;
	if (!e)
		e = barrier(ext);
	if (!e && ext_io_dirty_bytes(ext->io)) {
		ext->unflushed = true;
		e = ext_io_write_back(ext->io, NULL);
		if (!e)
			e = barrier(ext);
	}
	return e;
}

static int write_super(struct ext *ext)
{
	errcode_t code = ext2fs_flush2(ext->lib, EXT2_FLAG_FLUSH_NO_SYNC);

	return code ? ext_errno(code) : write_out(ext);
}

int ext_sync_locked(struct ext *ext)
{
	int e;

	if (!ext->writing || (!ext->changed && !ext->unflushed))
		return 0;
	if (ext->failed)
		return -EIO;
	ext->changed = false;
	e = inode_write_all(ext);
	if (!e) {
		freed_hide(ext, false);
		e = write_super(ext);
		if (e)
			freed_hide(ext, true);
		else
			freed_forget(ext);
	}
	if (e)
		ext->changed = true;
	return e;
}

/* Before the first change: what is on disk says "in use", durably, until the end. */
static int begin_writing(struct ext *ext)
{
	struct ext2_super_block *super = ext->lib->super;
	errcode_t code = ext2fs_read_bitmaps(ext->lib);
	int e = code ? ext_errno(code) : 0;

	if (!e && !ext->freed_inodes)
		e = freed_init(ext);
	if (e)
		return e;
	ext->clean_state = super->s_state;
	super->s_state &= (uint16_t)~EXT2_VALID_FS;
	super->s_mtime = (uint32_t)time(NULL);
	ext2fs_mark_super_dirty(ext->lib);
	e = write_super(ext);
	if (e)
		super->s_state = ext->clean_state;
	else
		ext->writing = true;
	return e;
}

int ext_begin_change(struct ext *ext)
{
	struct timespec now;
	int e = 0;

	if (ext->fs.read_only)
		return -EROFS;
	if (ext->failed)
		return -EIO;
	if (!ext->writing)
		e = begin_writing(ext);
	if (!e && ext_io_dirty_bytes(ext->io) > DIRTY_MAX)
		e = ext_sync_locked(ext);
	if (!e)
		e = freed_settle(ext, 0);
	if (e)
		return e;
	clock_gettime(CLOCK_MONOTONIC, &now);
	ext->last_change = now;
	if (!ext->changed)
		ext->first_change = now;
	ext->changed = true;
	return 0;
}

static int ext_sync(struct fs *fs)
{
	struct ext *ext = ext_of(fs);
	int e;

	pthread_mutex_lock(&ext->lock);
	e = ext_sync_locked(ext);
	if (!e)
		e = ext->lost;
	ext->lost = 0;
	pthread_mutex_unlock(&ext->lock);
	return e;
}

static int ext_idle(struct fs *fs)
{
	struct ext *ext = ext_of(fs);
	struct timespec now;
	int e = 0;

	clock_gettime(CLOCK_MONOTONIC, &now);
	pthread_mutex_lock(&ext->lock);
	if (ext->changed && (now.tv_sec - ext->last_change.tv_sec >= IDLE_SECONDS ||
	                     now.tv_sec - ext->first_change.tv_sec >= AGE_SECONDS)) {
		e = ext_sync_locked(ext);
		if (e)
			ext->lost = e;
	}
	pthread_mutex_unlock(&ext->lock);
	return e;
}

static int ext_statfs(struct fs *fs, struct statvfs *ret)
{
	struct ext *ext = ext_of(fs);
	struct ext2_super_block *super = ext->lib->super;
	uint64_t blocks, reserved, overhead;

	pthread_mutex_lock(&ext->lock);
	blocks = ext2fs_blocks_count(super);
	reserved = ext2fs_r_blocks_count(super);
	overhead = super->s_overhead_clusters < blocks ? super->s_overhead_clusters : 0;
	*ret = (struct statvfs){
		.f_bsize = ext->block_size,
		.f_frsize = ext->block_size,
		.f_blocks = blocks - overhead,
		.f_bfree = ext2fs_free_blocks_count(super),
		.f_files = super->s_inodes_count,
		.f_ffree = super->s_free_inodes_count,
		.f_favail = super->s_free_inodes_count,
		.f_namemax = EXT2_NAME_LEN,
	};
	ret->f_bavail = ret->f_bfree > reserved ? ret->f_bfree - reserved : 0;
	pthread_mutex_unlock(&ext->lock);
	return 0;
}

static void ext_free(struct ext *ext)
{
	freed_done(ext);
	if (ext->lib)
		ext2fs_free(ext->lib);
	ext_io_free(ext->io);
	pthread_mutex_destroy(&ext->lock);
	free(ext);
}

static int ext_close(struct fs *fs, struct err *err)
{
	struct ext *ext = ext_of(fs);
	int e;

	pthread_mutex_lock(&ext->lock);
	inode_free_all(ext);
	ext->changed |= ext->writing;
	e = ext_sync_locked(ext);
	if (!e && ext->writing && !ext->orphans) {
		ext->lib->super->s_state = ext->clean_state;
		ext2fs_mark_super_dirty(ext->lib);
		e = write_super(ext);
	}
	if (!e)
		e = ext->lost;
	pthread_mutex_unlock(&ext->lock);
	if (e)
		err_set(err, e, "not all changes could be written: %s; run e2fsck on the file system before it is used again",
		        strerror(-e));
	ext_free(ext);
	return e;
}

static const struct fs_ops ext_ops = {
	.lookup = ext_lookup,
	.forget = ext_forget,
	.getattr = ext_getattr,
	.setattr = ext_setattr,
	.readlink = ext_readlink,
	.make = ext_make,
	.link = ext_link,
	.unlink = ext_unlink,
	.rename = ext_rename,
	.open = ext_open_file,
	.release = ext_release,
	.read = ext_read,
	.write = ext_write,
	.fallocate = ext_fallocate,
	.seek = ext_seek,
	.readdir = ext_readdir,
	.statfs = ext_statfs,
	.getxattr = ext_getxattr,
	.listxattr = ext_listxattr,
	.setxattr = ext_setxattr,
	.removexattr = ext_removexattr,
	.sync = ext_sync,
	.idle = ext_idle,
	.close = ext_close,
};

struct feature {
	uint32_t bit;
	const char *name;
};

/* What a reader has to know. */
static const uint32_t incompat_read = EXT2_FEATURE_INCOMPAT_FILETYPE | EXT3_FEATURE_INCOMPAT_RECOVER |
	EXT2_FEATURE_INCOMPAT_META_BG | EXT3_FEATURE_INCOMPAT_EXTENTS | EXT4_FEATURE_INCOMPAT_64BIT |
	EXT4_FEATURE_INCOMPAT_MMP | EXT4_FEATURE_INCOMPAT_FLEX_BG | EXT4_FEATURE_INCOMPAT_EA_INODE |
	EXT4_FEATURE_INCOMPAT_CSUM_SEED | EXT4_FEATURE_INCOMPAT_LARGEDIR | EXT4_FEATURE_INCOMPAT_ENCRYPT |
	EXT4_FEATURE_INCOMPAT_CASEFOLD;

static const struct feature incompat_no_write[] = {
	{EXT4_FEATURE_INCOMPAT_MMP, "mmp"},
	{EXT4_FEATURE_INCOMPAT_EA_INODE, "ea_inode"},
	{EXT4_FEATURE_INCOMPAT_ENCRYPT, "encrypt"},
	{EXT4_FEATURE_INCOMPAT_CASEFOLD, "casefold"},
};

static const uint32_t ro_compat_write = EXT2_FEATURE_RO_COMPAT_SPARSE_SUPER | EXT2_FEATURE_RO_COMPAT_LARGE_FILE |
	EXT4_FEATURE_RO_COMPAT_HUGE_FILE | EXT4_FEATURE_RO_COMPAT_GDT_CSUM | EXT4_FEATURE_RO_COMPAT_DIR_NLINK |
	EXT4_FEATURE_RO_COMPAT_EXTRA_ISIZE | EXT4_FEATURE_RO_COMPAT_METADATA_CSUM;

static const struct feature ro_compat_names[] = {
	{EXT4_FEATURE_RO_COMPAT_BIGALLOC, "bigalloc"},
	{EXT4_FEATURE_RO_COMPAT_QUOTA, "quota"},
	{EXT4_FEATURE_RO_COMPAT_PROJECT, "project"},
	{EXT4_FEATURE_RO_COMPAT_READONLY, "read-only"},
	{EXT4_FEATURE_RO_COMPAT_SHARED_BLOCKS, "shared_blocks"},
	{EXT4_FEATURE_RO_COMPAT_VERITY, "verity"},
};

/* Turns the mount read-only, with a warning, where writing would break what this version does not know. */
static void check_writable(struct ext *ext)
{
	const struct ext2_super_block *super = ext->lib->super;
	uint32_t unknown = super->s_feature_ro_compat & ~ro_compat_write;
	const char *name = NULL;
	char number[32], text[256];

	for (size_t i = 0; i < sizeof(incompat_no_write) / sizeof(incompat_no_write[0]); i++)
		if (super->s_feature_incompat & incompat_no_write[i].bit)
			name = incompat_no_write[i].name;
	if (!name && unknown) {
		snprintf(number, sizeof(number), "unknown feature 0x%x", unknown);
		name = number;
		for (size_t i = 0; i < sizeof(ro_compat_names) / sizeof(ro_compat_names[0]); i++)
			if (unknown & ro_compat_names[i].bit)
				name = ro_compat_names[i].name;
	}
	if (!name)
		return;
	ext->fs.read_only = true;
	snprintf(text, sizeof(text), "mounted read-only: the file system uses a feature (%s) that this version cannot write",
	         name);
	if (ext->warn)
		ext->warn(text);
}

static int check_state(struct ext *ext, struct err *err)
{
	const struct ext2_super_block *super = ext->lib->super;
	bool journal = ext2fs_has_feature_journal_needs_recovery((struct ext2_super_block *)super);

	if (ext->fs.read_only) {
		if (journal && ext->warn)
			ext->warn("the file system's journal holds changes that a read-only mount does not apply: the newest "
			          "files may be missing or out of date");
		return 0;
	}
	if (journal)
		return err_set(err, -EUCLEAN, "the file system's journal holds changes that are not applied yet (the system "
		               "that used it did not shut down): let that system boot once, or " REPAIR
		               ", or read it as it is with -r");
	if (super->s_state & EXT2_ERROR_FS)
		return err_set(err, -EUCLEAN, "the file system has recorded errors: " REPAIR ", or read it with -r");
	if (!(super->s_state & EXT2_VALID_FS) || super->s_last_orphan ||
	    (super->s_feature_ro_compat & 0x10000u /* orphan_present */))
		return err_set(err, -EUCLEAN, "the file system was not unmounted cleanly: " REPAIR ", or read it with -r");
	return 0;
}

static int check(struct ext *ext, struct err *err)
{
	const struct ext2_super_block *super = ext->lib->super;
	uint32_t unknown = super->s_feature_incompat & ~incompat_read;
	uint64_t bytes;

	if (unknown & EXT4_FEATURE_INCOMPAT_INLINE_DATA)
		return err_set(err, -EUCLEAN, "the file system keeps data inside inodes (inline_data), which this version does "
		               "not read: mount its file in a --raw mount with the kernel (mount -o loop)");
	if (unknown & EXT3_FEATURE_INCOMPAT_JOURNAL_DEV)
		return err_set(err, -EUCLEAN, "this is the journal of an ext file system that lies elsewhere, not a file system");
	if (unknown)
		return err_set(err, -EUCLEAN, "the file system uses features (incompat 0x%x) that this version does not know: "
		               "mount its file in a --raw mount with the kernel (mount -o loop)", unknown);
	if (!checked_mul(ext2fs_blocks_count((struct ext2_super_block *)super), ext->block_size, &bytes) ||
	    bytes > ext->volume.size)
		return err_set(err, -EUCLEAN, "the file system says it has %llu blocks of %u bytes, more than its partition "
		               "holds: the partition or the image was cut",
		               (unsigned long long)ext2fs_blocks_count((struct ext2_super_block *)super), ext->block_size);
	if (!ext->fs.read_only)
		check_writable(ext);
	return check_state(ext, err);
}

static int open_root(struct ext *ext, struct err *err)
{
	struct inode *root;
	int e = inode_get(ext, EXT2_ROOT_INO, &root);

	if (!e && !LINUX_S_ISDIR(inode_base(root)->i_mode))
		e = -EUCLEAN;
	return e ? err_set(err, e, "the file system's root folder is damaged: " REPAIR) : 0;
}

int ext_open(const struct volume *volume, bool read_only, void (*warn)(const char *sentence), struct fs **ret,
             struct err *err)
{
	struct ext *ext = calloc(1, sizeof(*ext));
	errcode_t code;
	int e;

	if (!ext)
		return err_set(err, -ENOMEM, "out of memory");
	pthread_mutex_init(&ext->lock, NULL);
	initialize_ext2_error_table();
	ext->fs.ops = &ext_ops;
	ext->fs.read_only = read_only;
	ext->volume = *volume;
	ext->warn = warn;
	e = ext_io_new(volume, &ext->io);
	if (e) {
		ext_free(ext);
		return err_set(err, e, "out of memory");
	}
	code = ext2fs_open2("vhd", NULL, EXT2_FLAG_64BITS | EXT2_FLAG_FORCE | EXT2_FLAG_SKIP_MMP | EXT2_FLAG_MASTER_SB_ONLY,
	                    0, 0, ext_io_manager(ext->io), &ext->lib);
	if (code) {
		ext->lib = NULL;
		ext_free(ext);
		return err_set(err, ext_errno(code), "the file system's superblock or group descriptors are damaged (%s): "
		               REPAIR, error_message(code));
	}
	ext->lib->priv_data = ext;
	ext->lib->read_inode = library_read_inode;
	ext->lib->write_inode = library_write_inode;
	ext->block_size = ext->lib->blocksize;
	ext->inode_size = EXT2_INODE_SIZE(ext->lib->super);
	ext->fs.type = ext2fs_has_feature_extents(ext->lib->super)   ? "ext4"
	               : ext2fs_has_feature_journal(ext->lib->super) ? "ext3"
	                                                             : "ext2";
	e = check(ext, err);
	if (!e)
		e = open_root(ext, err);
	if (e) {
		inode_free_all(ext);
		ext_free(ext);
		return e;
	}
	if (!ext->fs.read_only)
		ext->lib->flags |= EXT2_FLAG_RW;
	*ret = &ext->fs;
	return 0;
}
