/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_UPKEEP_REQUEST_H
#define VHD_UPKEEP_REQUEST_H

/*
 * Upkeep of an open disk as a request and its result: the same whether the command has the disk open itself, or sends
 * the request to the process that has (control-client.h).
 */

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "vhd/children.h"
#include "vhd/vhd.h"

enum upkeep_verb {
	UPKEEP_MERGE,
	UPKEEP_SNAPSHOT,
	UPKEEP_RESIZE,
	UPKEEP_COMPACT,
};

/* "merge", ... */
const char *upkeep_verb_name(enum upkeep_verb verb);

/* Which file: paths differ between processes, this does not. */
struct upkeep_file {
	uint64_t dev, ino; /* ino 0: none */
};

static inline bool upkeep_file_same(struct upkeep_file a, struct upkeep_file b)
{
	return a.ino && a.dev == b.dev && a.ino == b.ino;
}

/* 0 or -errno. */
int upkeep_file_find(const char *path, struct upkeep_file *ret);

enum upkeep_size {
	UPKEEP_SIZE_SET,
	UPKEEP_SIZE_GROW, /* by `bytes` */
	UPKEEP_SIZE_SHRINK,
};

struct upkeep_request {
	enum upkeep_verb verb;
	struct upkeep_file file; /* what it is about: the layer to merge; else the leaf */
	struct upkeep_file into; /* merge; none: the parent */
	bool force;              /* merge, resize */
	bool keep, rename;       /* merge */
	char name[NAME_MAX + 1]; /* snapshot: of the frozen file, in the leaf's folder */
	enum upkeep_size how;    /* resize */
	uint64_t bytes;          /* resize */
	bool keep_zeros;         /* compact */
	const struct vhd_extent *unused; /* compact; borrowed, and never sent to another process */
	size_t unused_count;
	uint64_t rate; /* bytes a second at the start; 0: no limit */
};

struct upkeep_result {
	struct vhd_merge_result merge;
	struct vhd_resize_result resize; /* after VHD_E_WOULD_LOSE too */
	uint64_t old_size_bytes, size_bytes; /* resize: the disk's */
	struct vhd_compact_result compact;
	unsigned merged_layers, relinked; /* merge; how many other children have the new parent */
	bool removed;                     /* merge: the merged files are gone */
	char path[PATH_MAX]; /* merge: the file that holds it all now; snapshot: the frozen file */
	uint8_t uuid[16];    /* snapshot: of the frozen file */
	uint8_t leaf_uuid[16];
};

/* What does the work: vhd.h's functions; in tests, others. */
struct upkeep_operations {
	unsigned (*layer_count)(const struct vhd *vhd);
	void (*layer_info)(const struct vhd *vhd, unsigned layer, struct vhd_info *ret);
	int (*children_find)(const struct vhd_info *layer, struct children *ret, struct err *err);
	int (*child_relink)(const char *child, const struct vhd_info *parent, struct err *err);
	int (*files_remove)(char *const *paths, unsigned count, struct err *err);
	int (*merge)(struct vhd *vhd, const struct vhd_merge_options *options, struct vhd_merge_result *ret,
	             struct err *err);
	int (*child_prepare)(struct vhd *vhd, const char *frozen, struct vhd_child **ret, struct err *err);
	int (*switch_child)(struct vhd *vhd, struct vhd_child *child, struct err *err);
	int (*resize)(struct vhd *vhd, uint64_t size_bytes, const struct vhd_resize_options *options,
	              struct vhd_resize_result *ret, struct err *err);
	int (*compact)(struct vhd *vhd, const struct vhd_compact_options *options, struct vhd_compact_result *ret,
	               struct err *err);
};

extern const struct upkeep_operations upkeep_operations;

struct upkeep_layers {
	unsigned count;
	struct upkeep_file files[VHD_MAX_LAYERS];
};

/* The files of the open chain, the leaf first. One that is not found under its name any more is none. */
void upkeep_layers_read(const struct upkeep_operations *operations, const struct vhd *vhd, struct upkeep_layers *ret);

struct upkeep_work {
	const struct upkeep_operations *operations;
	struct vhd *vhd;
	bool in_use; /* others read and write the disk meanwhile, and know it by its name */
	struct vhd_job *job;
	void (*warn)(void *user, const char *sentence); /* may be NULL */
	void *user;
};

/*
 * Does it. 0, or what the function of vhd.h returned; -ENOENT: the file is not of this chain; -EINVAL. Blocks; not in
 * a thread that polls queues of the disk.
 */
int upkeep_run(const struct upkeep_work *work, const struct upkeep_request *request, struct upkeep_result *ret,
               struct err *err);

#endif
