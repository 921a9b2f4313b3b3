/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef MOUNTD_FS_H
#define MOUNTD_FS_H

/*
 * A mounted file system as FUSE sees it. Drivers: ext-*.c (ext2, ext3, ext4) and raw.c (the disk and its partitions as
 * plain files).
 *
 * All functions return 0 or -errno and may be called from any thread at once. A node is known by the driver's own
 * inode number; a lookup takes a reference to it, which `forget` gives back, and no function is called for a node
 * without one. FS_ROOT always has one.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "common/err.h"
#include "mountd/disk.h"

#define FS_ROOT 1u /* stands for the root folder, whatever its number is in the file system */

struct fs;

struct fs_entry {
	uint64_t node;
	uint64_t generation;
	struct stat stat;
};

#define FS_SET_MODE 0x01u
#define FS_SET_UID 0x02u
#define FS_SET_GID 0x04u
#define FS_SET_SIZE 0x08u
#define FS_SET_ATIME 0x10u
#define FS_SET_MTIME 0x20u

/* What a new file is to be. */
struct fs_new {
	mode_t mode; /* with the type */
	dev_t rdev;
	uid_t uid;
	gid_t gid;
	const char *target; /* symbolic links */
};

#define FS_RENAME_NOREPLACE 0x01u

/*
 * One folder entry for the caller of readdir; `next` is the cookie to go on after it. Returns false when there is no
 * room for it.
 */
typedef bool fs_emit(void *user, const char *name, uint64_t node, mode_t type, uint64_t next);

struct fs_ops {
	int (*lookup)(struct fs *fs, uint64_t folder, const char *name, struct fs_entry *ret);
	void (*forget)(struct fs *fs, uint64_t node, uint64_t count);
	int (*getattr)(struct fs *fs, uint64_t node, struct stat *ret);
	int (*setattr)(struct fs *fs, uint64_t node, unsigned what, const struct stat *value, struct stat *ret);
	int (*readlink)(struct fs *fs, uint64_t node, char **ret); /* allocated */
	int (*make)(struct fs *fs, uint64_t folder, const char *name, const struct fs_new *what, struct fs_entry *ret);
	int (*link)(struct fs *fs, uint64_t node, uint64_t folder, const char *name, struct fs_entry *ret);
	int (*unlink)(struct fs *fs, uint64_t folder, const char *name, bool is_folder);
	int (*rename)(struct fs *fs, uint64_t folder, const char *name, uint64_t new_folder, const char *new_name,
	              unsigned flags);
	int (*open)(struct fs *fs, uint64_t node, bool write, bool truncate);
	int (*release)(struct fs *fs, uint64_t node, bool write);
	/* Bytes read, fewer only at the end of the file; or -errno. */
	ssize_t (*read)(struct fs *fs, uint64_t node, void *buffer, size_t length, uint64_t offset);
	/* Bytes written; or -errno. */
	ssize_t (*write)(struct fs *fs, uint64_t node, const void *buffer, size_t length, uint64_t offset);
	int (*fallocate)(struct fs *fs, uint64_t node, int mode, uint64_t offset, uint64_t length);
	int64_t (*seek)(struct fs *fs, uint64_t node, uint64_t offset, bool hole); /* SEEK_DATA, SEEK_HOLE */
	/* `cookie` 0 is the start. */
	int (*readdir)(struct fs *fs, uint64_t node, uint64_t cookie, fs_emit *emit, void *user);
	int (*statfs)(struct fs *fs, struct statvfs *ret);
	/* Size of the value; copied only if `size` (not 0) is enough, else -ERANGE. */
	ssize_t (*getxattr)(struct fs *fs, uint64_t node, const char *name, void *value, size_t size);
	ssize_t (*listxattr)(struct fs *fs, uint64_t node, char *names, size_t size);
	int (*setxattr)(struct fs *fs, uint64_t node, const char *name, const void *value, size_t size, int flags);
	int (*removexattr)(struct fs *fs, uint64_t node, const char *name);
	/* Everything written so far becomes durable. */
	int (*sync)(struct fs *fs);
	/* What has waited long enough is written out; called about once a second. */
	int (*idle)(struct fs *fs);
	/* Makes everything durable, leaves the file system in a clean state and frees `fs` whatever it returns. */
	int (*close)(struct fs *fs, struct err *err);
};

struct fs {
	const struct fs_ops *ops; /* entries that may be NULL: link, fallocate, seek, the xattr ones */
	bool read_only;
	const char *type; /* "ext4", ...: for messages */
};

/* Refused: -EUCLEAN and the sentence says why and what to do. `warn` is told why a mount became read-only. */
int ext_open(const struct volume *volume, bool read_only, void (*warn)(const char *sentence), struct fs **ret,
             struct err *err);

int raw_open(struct disk *disk, bool read_only, struct fs **ret, struct err *err);

#endif
