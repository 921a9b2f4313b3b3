/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef VHD_FS_UNUSED_H
#define VHD_FS_UNUSED_H

/*
 * What no file system on a disk uses, for vhd_compact_options.unused. File systems are read by another program,
 * vhd-fs-unused (mountd/), which only reads and shuts itself in; nothing that it prints is believed unseen.
 *
 * It locks the image as a reader does, so it runs before the image is opened for writing:
 *     fs_unused_read, vhd_open with VHD_OPEN_WRITE, fs_unused_still_holds, vhd_compact
 * Between the first two another process could change the disk; the third finds out, by the files' inodes, sizes and times.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "vhd/vhd.h"

struct fs_unused_options {
	const char *helper;            /* the program; NULL: as fs_unused_helper finds it */
	const char *parent;            /* these three as in vhd_open_options */
	bool parent_raw;
	const char *const *allow_dirs;
	unsigned timeout_seconds;      /* 0: as long as the helper allows itself, 15 minutes, and one more */
	/* Told which file systems were left out, and why. May be NULL. */
	void (*note)(void *user, const char *sentence);
	void *user;
};

/* A file of the chain, as it was when the list was made. */
struct fs_unused_file {
	uint64_t device, inode, size;
	int64_t modified_ns, changed_ns; /* since 1970 */
};

/* A file system that the list covers. */
struct fs_unused_volume {
	unsigned partition; /* 0: the whole disk */
	char type[8];       /* "ext2", "ext3", "ext4", "ntfs" */
	uint64_t offset, length, unused; /* bytes */
};

struct fs_unused {
	struct vhd_extent *extents; /* ascending, apart, inside the volumes */
	size_t extent_count;
	struct fs_unused_volume *volumes; /* ascending */
	unsigned volume_count;
	struct fs_unused_file *files; /* the leaf first */
	unsigned file_count;
	uint64_t disk_size; /* bytes */
};

/*
 * 0, also when nothing is unused; -ENOENT: the helper is not there; -ECANCELED: interrupt_seen; -ETIMEDOUT; -EPROTO: what
 * it says makes no sense; -EIO: it failed, and the sentence is its own. `ret` is freed with fs_unused_done.
 */
int fs_unused_read(const char *path, const struct fs_unused_options *options, struct fs_unused *ret, struct err *err);

/* `vhd` was just opened for writing: 0, or -ESTALE when it is not any more what was read. */
int fs_unused_still_holds(const struct fs_unused *unused, const struct vhd *vhd, struct err *err);

void fs_unused_done(struct fs_unused *unused);

/*
 * The path of the helper: that of the build folder for a command that runs from there, else the installed one. `ret` holds
 * PATH_MAX bytes. -ENOENT: there is none.
 */
int fs_unused_helper(char *ret, struct err *err);

/* What the helper prints, read line by line; for fs_unused_read and its tests. */
struct fs_unused_parser {
	struct fs_unused *ret;
	size_t extent_capacity;
	uint64_t reached;   /* the end of the last extent */
	unsigned volume;    /* the one that holds it */
	unsigned lines;
	bool ended;
};

/* One line, without its newline. 0, -EPROTO or -ENOMEM. */
int fs_unused_parse_line(struct fs_unused_parser *parser, const char *line, struct err *err);
/* After the last line. 0 or -EPROTO. */
int fs_unused_parse_end(const struct fs_unused_parser *parser, struct err *err);

#endif
