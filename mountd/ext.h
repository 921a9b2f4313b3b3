/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef MOUNTD_EXT_H
#define MOUNTD_EXT_H

/*
 * The ext2/3/4 driver's own parts (fs.h is its face). libext2fs does the metadata over a block cache (ext-io.c) that
 * writes back; file data goes straight to the disk, by extents.
 *
 * Locks, outermost first: an inode's `data` lock (readers of its content share it; who changes content or size has it
 * alone), then ext->lock (all metadata, all of libext2fs, the inode table). Nothing that a reader of mapped data does
 * needs ext->lock.
 *
 * Order on disk: what is written for a sync is, in this order, file data and metadata in new blocks, a barrier, the
 * metadata that is replaced, a barrier. Blocks are given to a file only after its data is written, and blocks and
 * inodes that were freed are given away only after the sync that wrote so. So no crash shows in a file what was in
 * the blocks before, nor a block in two files.
 */

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include <ext2fs/ext2_fs.h>
#include <ext2fs/ext2fs.h>

#include "mountd/fs.h"

/* Blocks of a file that lie together on the disk. */
struct run {
	uint64_t logical;
	uint64_t physical; /* 0: a hole */
	uint64_t count;    /* blocks */
	bool unwritten;    /* allocated, reads as zeros */
};

#define RUNS_MAX 64u

/* What is known of where a file's blocks are: everything in [from, to) that no run covers is a hole. */
struct run_cache {
	pthread_mutex_t lock;
	uint64_t from, to;
	unsigned count;
	struct run runs[RUNS_MAX];
};

struct ext_dir;

struct inode {
	struct inode *hash_next;
	struct inode *dirty_next;
	ext2_ino_t ino;
	uint64_t lookups;  /* references of the kernel */
	unsigned pins;     /* references of functions at work here */
	unsigned opens;
	bool dirty;        /* in ext->dirty */
	bool emptied;      /* deleted, its blocks are free already */
	struct inode *orphan_next, *orphan_prev; /* deleted but still in use: the list that begins at the superblock */
	bool orphan;
	pthread_rwlock_t data;
	struct run_cache *runs;
	/* Blocks set aside for the next writes: used in the bitmap, in no file. */
	uint64_t reserved, reserved_count;
	uint64_t batch; /* blocks to set aside next time */
	struct inode *reserved_next; /* in ext->reserved */
	struct ext_dir *dir; /* names of a folder that is in use; NULL until needed */
	struct ext2_inode_large raw[]; /* as on disk, s_inode_size bytes */
};

#define INODE_BUCKETS 4096u

struct ext_io;

struct ext {
	struct fs fs;
	struct volume volume;
	pthread_mutex_t lock;
	ext2_filsys lib;
	struct ext_io *io;
	void (*warn)(const char *sentence);
	uint32_t block_size;
	uint32_t inode_size;
	struct inode *buckets[INODE_BUCKETS];
	struct inode *dirty;    /* inodes that differ from the inode table */
	struct inode *reserved; /* inodes with blocks set aside */
	struct inode *orphans;
	bool writing;           /* the volume is marked as in use */
	bool changed;           /* since the last sync */
	bool passthrough;       /* the library is to read and write inodes itself */
	bool unflushed;         /* something was written since the last barrier */
	bool failed;            /* memory and disk disagree beyond repair: nothing is written any more */
	int lost;               /* the error of a sync that nobody was told of */
	/*
	 * Freed since the last completed sync. On disk something still refers to them until the next one is complete, so
	 * nothing may be put there before: in the library's bitmaps in memory they stay in use (see ext-alloc.c).
	 */
	ext2fs_block_bitmap freed_blocks;
	ext2fs_inode_bitmap freed_inodes;
	uint64_t freed_block_count, freed_inode_count;
	ext2fs_block_bitmap fresh_blocks; /* given to files since then: nothing on disk refers to them yet */
	uint16_t clean_state;   /* s_state to put back */
	struct timespec first_change, last_change; /* CLOCK_MONOTONIC, since the last sync */
	uint64_t cached_names;
	struct ext_dir *dirs;   /* all name caches */
};

static inline struct ext *ext_of(struct fs *fs)
{
	return (struct ext *)fs;
}

static inline struct ext2_inode *inode_base(struct inode *inode)
{
	return (struct ext2_inode *)inode->raw;
}

static inline uint64_t inode_bytes(struct inode *inode)
{
	return EXT2_I_SIZE(inode_base(inode));
}

/* -errno for what the library returned. */
int ext_errno(errcode_t code);

/* ext-io.c: the block cache. All with ext->lock held. */
int ext_io_new(const struct volume *volume, struct ext_io **ret);
void ext_io_free(struct ext_io *io);
io_manager ext_io_manager(struct ext_io *io); /* for an ext2fs_open2 that follows in the same thread */
/* The block's content, valid until the next call for `io`. */
int ext_io_peek(struct ext_io *io, uint64_t block, const uint8_t **ret);
/* These blocks are file data from now on: what is cached of them is worthless. */
void ext_io_forget(struct ext_io *io, uint64_t block, uint64_t count);
/* Dirty blocks of this bitmap, or all (NULL). */
int ext_io_write_back(struct ext_io *io, ext2fs_block_bitmap only);
size_t ext_io_dirty_bytes(const struct ext_io *io);

/* ext-mount.c */
int ext_begin_change(struct ext *ext); /* before any change, with the lock: 0, -EROFS, ... */
int ext_sync_locked(struct ext *ext);
void ext_now(struct timespec *ret);

/* ext-inode.c: with the lock, unless said otherwise. */
int inode_get(struct ext *ext, ext2_ino_t ino, struct inode **ret); /* a pin */
void inode_put(struct ext *ext, struct inode *inode);
struct inode *inode_known(struct ext *ext, uint64_t node); /* has a reference, so it is there */
void inode_dirty(struct ext *ext, struct inode *inode);
int inode_write(struct ext *ext, struct inode *inode); /* to the inode table */
int inode_write_all(struct ext *ext);
int inode_reload(struct ext *ext, struct inode *inode);
void inode_stat(struct ext *ext, struct inode *inode, struct stat *ret);
void inode_entry(struct ext *ext, struct inode *inode, struct fs_entry *ret); /* counts a lookup */
int inode_new(struct ext *ext, struct inode *folder, const struct fs_new *what, struct inode **ret); /* a pin */
void inode_touch(struct ext *ext, struct inode *inode, bool modified, bool changed);
void inode_add_blocks(struct ext *ext, struct inode *inode, uint64_t blocks);
void inode_set_size(struct ext *ext, struct inode *inode, uint64_t bytes);
int inode_drop_link(struct ext *ext, struct inode *inode, bool whole); /* becomes an orphan with the last one */
/* Without the lock: gives the blocks of a deleted file back if nobody can use it any more. */
void inode_reap(struct ext *ext, struct inode *inode);
void inode_free_all(struct ext *ext);
int ext_getattr(struct fs *fs, uint64_t node, struct stat *ret);
int ext_setattr(struct fs *fs, uint64_t node, unsigned what, const struct stat *value, struct stat *ret);
void ext_forget(struct fs *fs, uint64_t node, uint64_t count);
int ext_open_file(struct fs *fs, uint64_t node, bool write, bool truncate);
int ext_release(struct fs *fs, uint64_t node, bool write);

/* ext-alloc.c: with the lock. */
/* Takes up to `count` blocks that lie together, from what the inode has set aside. At least 1, or -ENOSPC. */
int64_t alloc_blocks(struct ext *ext, struct inode *inode, uint64_t goal, uint64_t count, uint64_t *ret);
void free_blocks(struct ext *ext, uint64_t block, uint64_t count);
void alloc_release(struct ext *ext, struct inode *inode); /* gives back what is set aside */
int freed_init(struct ext *ext);
void freed_done(struct ext *ext);
void freed_inode(struct ext *ext, ext2_ino_t ino); /* after the library freed it */
/* For a sync: `hidden` false makes the bitmaps what the disk is to have, true what allocation is to see. */
void freed_hide(struct ext *ext, bool hidden);
void freed_forget(struct ext *ext); /* a sync is complete: all of them may be used */
void fresh_blocks(struct ext *ext, uint64_t block, uint64_t count); /* are a file's from now on */
/* Syncs if fewer than `blocks` can be had without what was freed. */
int freed_settle(struct ext *ext, uint64_t blocks);

/* ext-map.c: with the lock. */
int map_load(struct ext *ext, struct inode *inode, uint64_t logical); /* into inode->runs */
int map_add(struct ext *ext, struct inode *inode, uint64_t logical, uint64_t physical, uint64_t count);
int map_mark_written(struct ext *ext, struct inode *inode, uint64_t logical, uint64_t physical, uint64_t count);
int map_remove(struct ext *ext, struct inode *inode, uint64_t first, uint64_t last); /* frees the blocks */
/* Without the lock, or with it (`locked`): the run at `logical`, cut to `count` blocks. */
int map_find(struct ext *ext, struct inode *inode, bool locked, uint64_t logical, uint64_t count, struct run *ret);
void map_forget(struct inode *inode);
uint64_t map_max_blocks(const struct ext *ext, struct inode *inode); /* that the file can have */

/* ext-data.c */
ssize_t ext_read(struct fs *fs, uint64_t node, void *buffer, size_t length, uint64_t offset);
ssize_t ext_write(struct fs *fs, uint64_t node, const void *buffer, size_t length, uint64_t offset);
int ext_fallocate(struct fs *fs, uint64_t node, int mode, uint64_t offset, uint64_t length);
int64_t ext_seek(struct fs *fs, uint64_t node, uint64_t offset, bool hole);
int data_truncate(struct ext *ext, struct inode *inode, uint64_t size); /* with inode->data alone, without the lock */

/* ext-dir.c: with the lock. */
int dir_find(struct ext *ext, struct inode *dir, const char *name, ext2_ino_t *ret);
int dir_add(struct ext *ext, struct inode *dir, const char *name, ext2_ino_t ino, mode_t mode);
int dir_remove(struct ext *ext, struct inode *dir, const char *name);
int dir_replace(struct ext *ext, struct inode *dir, const char *name, ext2_ino_t ino, mode_t mode);
int dir_is_empty(struct ext *ext, struct inode *dir); /* 1, 0 or -errno */
int dir_init(struct ext *ext, struct inode *dir, ext2_ino_t parent); /* a new folder's first block */
void dir_done(struct ext *ext, struct inode *dir);
int ext_readdir(struct fs *fs, uint64_t node, uint64_t cookie, fs_emit *emit, void *user);

/* ext-dirblock.c: one block of a folder; pure. */
struct dirent_view {
	uint32_t at;     /* in the block */
	uint32_t length; /* of the record */
	ext2_ino_t ino;
	uint8_t name_length;
	uint8_t file_type;
	const char *name;
};
/* The entry at `at`: 1, or 0 at the end of the block, or -EUCLEAN. */
int dirent_at(const struct ext *ext, const uint8_t *block, uint32_t at, struct dirent_view *ret);
uint32_t dirblock_room(const struct ext *ext, const uint8_t *block); /* the longest record that fits */
int dirblock_insert(const struct ext *ext, uint8_t *block, const char *name, ext2_ino_t ino, mode_t mode,
                    uint32_t *ret_at);
int dirblock_remove(const struct ext *ext, uint8_t *block, uint32_t at);
void dirblock_set(const struct ext *ext, uint8_t *block, uint32_t at, ext2_ino_t ino, mode_t mode);
void dirblock_clear(const struct ext *ext, uint8_t *block); /* one empty entry, and the checksum's if there are */
uint32_t dirent_size(size_t name_length);
mode_t dirent_mode(uint8_t file_type);

/* ext-name.c */
int ext_lookup(struct fs *fs, uint64_t folder, const char *name, struct fs_entry *ret);
int ext_make(struct fs *fs, uint64_t folder, const char *name, const struct fs_new *what, struct fs_entry *ret);
int ext_link(struct fs *fs, uint64_t node, uint64_t folder, const char *name, struct fs_entry *ret);
int ext_unlink(struct fs *fs, uint64_t folder, const char *name, bool is_folder);
int ext_rename(struct fs *fs, uint64_t folder, const char *name, uint64_t new_folder, const char *new_name,
               unsigned flags);
int ext_readlink(struct fs *fs, uint64_t node, char **ret);

/* ext-xattr.c */
ssize_t ext_getxattr(struct fs *fs, uint64_t node, const char *name, void *value, size_t size);
ssize_t ext_listxattr(struct fs *fs, uint64_t node, char *names, size_t size);
int ext_setxattr(struct fs *fs, uint64_t node, const char *name, const void *value, size_t size, int flags);
int ext_removexattr(struct fs *fs, uint64_t node, const char *name);
/* With the lock: the permissions of a file that has a list of them (an ACL) become those of `mode`. */
int acl_from_mode(struct ext *ext, struct inode *inode, mode_t mode);

#endif
