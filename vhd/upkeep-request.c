/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/upkeep-request.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/checked.h"

const char *upkeep_verb_name(enum upkeep_verb verb)
{
	static const char *const names[] = {
	        [UPKEEP_MERGE] = "merge",
	        [UPKEEP_SNAPSHOT] = "snapshot",
	        [UPKEEP_RESIZE] = "resize",
	        [UPKEEP_COMPACT] = "compact",
	};

	return names[verb];
}

int upkeep_file_find(const char *path, struct upkeep_file *ret)
{
	struct stat st;

	*ret = (struct upkeep_file){0};
	if (stat(path, &st))
		return -errno;
	*ret = (struct upkeep_file){.dev = st.st_dev, .ino = st.st_ino};
	return 0;
}

void upkeep_layers_read(const struct upkeep_operations *operations, const struct vhd *vhd, struct upkeep_layers *ret)
{
	struct vhd_info info;

	ret->count = operations->layer_count(vhd);
	for (unsigned i = 0; i < ret->count; i++) {
		operations->layer_info(vhd, i, &info);
		(void)upkeep_file_find(info.path, &ret->files[i]);
	}
}

/* Which layer a file is. -ENOENT. */
static int layer_find(const struct upkeep_layers *layers, struct upkeep_file file, unsigned *ret)
{
	for (unsigned i = 0; i < layers->count; i++) {
		if (upkeep_file_same(layers->files[i], file)) {
			*ret = i;
			return 0;
		}
	}
	return -ENOENT;
}

static void path_copy(char ret[PATH_MAX], const char *path)
{
	snprintf(ret, PATH_MAX, "%s", path);
}

static int merge(const struct upkeep_work *work, const struct upkeep_request *request,
                 const struct upkeep_layers *layers, unsigned layer, const char *path, struct upkeep_result *ret,
                 struct err *err)
{
	struct vhd_merge_options options = {
	        .layer = layer,
	        .into = layer + 1,
	        .force = request->force,
	        .keep = request->keep,
	        .job = work->job,
	        .warn = work->warn,
	        .user = work->user,
	};
	struct vhd_info into;
	int r;

	if (layer + 1 >= layers->count)
		return err_set(err, -EINVAL, "%s: it has no parent that it could be merged into", path);
	if (request->into.ino) {
		r = layer_find(layers, request->into, &options.into);
		if (r || options.into <= layer)
			return err_set(err, -EINVAL, "%s: the file to merge it into is none of its parents", path);
	}
	/* Whoever has the disk open, and the user, know it by the leaf's name. */
	options.rename = layer == 0 && (request->rename || work->in_use);
	if (request->rename && layer != 0)
		return err_set(err, -EINVAL, "%s: other disks stand on it, so its name cannot be given away: merge it without "
		               "--rename", path);
	work->operations->layer_info(work->vhd, options.into, &into);
	path_copy(ret->path, options.rename ? path : into.path);
	ret->merged_layers = options.into - layer;
	return work->operations->merge(work->vhd, &options, &ret->merge, err);
}

static int snapshot(const struct upkeep_work *work, const struct upkeep_request *request, const char *path,
                    struct upkeep_result *ret, struct err *err)
{
	const char *slash = strrchr(path, '/'), *name = request->name;
	struct vhd_child *child;
	struct vhd_info info;
	int n, r;

	if (!name[0] || strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || strchr(name, '/'))
		return err_set(err, -EINVAL, "%s: '%s' is no name for the file that holds what is frozen; it is in the disk's "
		               "folder, so a plain name is wanted", path, name);
	n = snprintf(ret->path, sizeof(ret->path), "%.*s%s", slash ? (int)(slash - path + 1) : 0, path, name);
	if (n < 0 || (size_t)n >= sizeof(ret->path))
		return err_set(err, -ENAMETOOLONG, "%s: the path of the frozen file would be too long", path);
	r = work->operations->child_prepare(work->vhd, ret->path, &child, err);
	if (!r)
		r = work->operations->switch_child(work->vhd, child, err);
	if (r)
		return r;
	work->operations->layer_info(work->vhd, 1, &info);
	memcpy(ret->uuid, info.uuid, sizeof(ret->uuid));
	work->operations->layer_info(work->vhd, 0, &info);
	memcpy(ret->leaf_uuid, info.uuid, sizeof(ret->leaf_uuid));
	return 0;
}

static int resize(const struct upkeep_work *work, const struct upkeep_request *request, const struct vhd_info *leaf,
                  struct upkeep_result *ret, struct err *err)
{
	struct vhd_resize_options options = {.force = request->force, .job = work->job};

	ret->old_size_bytes = leaf->size_bytes;
	ret->size_bytes = request->bytes;
	if (request->how == UPKEEP_SIZE_GROW && !checked_add(leaf->size_bytes, request->bytes, &ret->size_bytes))
		ret->size_bytes = UINT64_MAX;
	if (request->how == UPKEEP_SIZE_SHRINK) {
		if (request->bytes >= leaf->size_bytes)
			return err_set(err, -EINVAL, "%s: it has %" PRIu64 " bytes and cannot become smaller by %" PRIu64,
			               leaf->path, leaf->size_bytes, request->bytes);
		ret->size_bytes = leaf->size_bytes - request->bytes;
	}
	if (ret->size_bytes > VHD_MAX_SIZE)
		return err_set(err, -EINVAL, "%s: a VHD has at most 2040 GiB", leaf->path);
	if (ret->size_bytes == 0 || ret->size_bytes % BLK_SECTOR_SIZE)
		return err_set(err, -EINVAL, "%s: a size of %" PRIu64 " bytes is no multiple of 512, or zero", leaf->path,
		               ret->size_bytes);
	if (work->in_use && ret->size_bytes < leaf->size_bytes)
		return err_set(err, -EBUSY, "%s: a disk that is in use can grow but not shrink: end what uses it first",
		               leaf->path);
	return work->operations->resize(work->vhd, ret->size_bytes, &options, &ret->resize, err);
}

static int compact(const struct upkeep_work *work, const struct upkeep_request *request, struct upkeep_result *ret,
                   struct err *err)
{
	struct vhd_compact_options options = {
	        .unused = request->unused,
	        .unused_count = request->unused_count,
	        .keep_zeros = request->keep_zeros,
	        .job = work->job,
	};

	return work->operations->compact(work->vhd, &options, &ret->compact, err);
}

int upkeep_run(const struct upkeep_work *work, const struct upkeep_request *request, struct upkeep_result *ret,
               struct err *err)
{
	struct upkeep_layers layers;
	struct vhd_info leaf, info;
	unsigned layer;

	memset(ret, 0, sizeof(*ret));
	upkeep_layers_read(work->operations, work->vhd, &layers);
	work->operations->layer_info(work->vhd, 0, &leaf);
	if (layer_find(&layers, request->file, &layer))
		return err_set(err, -ENOENT, "%s: the file named is no part of this disk any more", leaf.path);
	work->operations->layer_info(work->vhd, layer, &info);
	if (layer != 0 && request->verb != UPKEEP_MERGE)
		return err_set(err, -EBUSY, "%s: %s stands on it and is in use, so it must not change", info.path, leaf.path);
	if (request->rate)
		vhd_job_set_rate(work->job, request->rate);
	switch (request->verb) {
	case UPKEEP_MERGE:
		return merge(work, request, &layers, layer, info.path, ret, err);
	case UPKEEP_SNAPSHOT:
		return snapshot(work, request, leaf.path, ret, err);
	case UPKEEP_RESIZE:
		return resize(work, request, &leaf, ret, err);
	default:
		return compact(work, request, ret, err);
	}
}
