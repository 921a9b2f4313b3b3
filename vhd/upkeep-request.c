/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/upkeep-request.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
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

/* --- Merging: who else stands on what changes --- */

struct merge {
	const struct upkeep_work *work;
	const struct upkeep_layers *layers;
	unsigned first, into; /* the layers from `first` to the one above `into` go down into that */
	struct children others; /* that stand on the top one, beside the layer above it: they hold on to the same content */
};

/* Takes the files of the chain itself out. */
static void chain_drop(const struct upkeep_layers *layers, struct children *children)
{
	for (unsigned i = children->count; i-- > 0;) {
		struct upkeep_file file;
		unsigned layer;

		if (upkeep_file_find(children->paths[i], &file) || layer_find(layers, file, &layer) == 0)
			children_leave_out(children, i);
	}
}

/* The disks outside the chain that stand on a layer of it. */
static int others_find(const struct merge *m, unsigned layer, struct children *ret, struct err *err)
{
	struct vhd_info info;
	int r;

	m->work->operations->layer_info(m->work->vhd, layer, &info);
	r = m->work->operations->children_find(&info, ret, err);
	if (!r)
		chain_drop(m->layers, ret);
	return r;
}

static bool any_merged(const struct children *others)
{
	for (unsigned i = 0; i < others->count; i++)
		if (others->merged[i])
			return true;
	return false;
}

/* What an earlier merge left behind stands on nothing, though it says so. */
static void merged_drop(struct children *others)
{
	for (unsigned i = others->count; i-- > 0;)
		if (others->merged[i])
			children_leave_out(others, i);
}

static bool same_uuid(const struct vhd_info *a, const struct vhd_info *b)
{
	return !a->raw && !b->raw && memcmp(a->uuid, b->uuid, sizeof(a->uuid)) == 0;
}

/*
 * Where what the top one was merged into has its Unique Id, and others stand on that, the end of an earlier merge is all
 * that is missing: vhd_merge then changes nothing that they see.
 *
 * Below the top one the content changes under whoever stands there. On the top one it does not, so those are put on what
 * it was merged into; but for a leaf, on which nothing should stand.
 */
static int others_judge(struct merge *m, bool force, struct err *err)
{
	struct vhd_info top;
	int r = 0;

	m->work->operations->layer_info(m->work->vhd, m->first, &top);
	for (unsigned i = m->first; i <= m->into && !r; i++) {
		struct children others;
		struct vhd_info info;

		r = others_find(m, i, &others, err);
		if (r)
			return r;
		m->work->operations->layer_info(m->work->vhd, i, &info);
		if (!force && (i == 0 || i > m->first || any_merged(&others)) && !(i > m->first && same_uuid(&top, &info)))
			r = children_refuse(&others, info.path, err);
		if (!r && i == m->first && i > 0) {
			merged_drop(&others);
			m->others = others;
			continue;
		}
		children_done(&others);
	}
	return r;
}

static void warn(const struct upkeep_work *work, const struct err *sentence)
{
	if (work->warn)
		work->warn(work->user, sentence->text);
}

/* Whether all of them have the new parent. Who has not is told of: it goes on standing on the old one, which is kept. */
static bool others_relink(struct merge *m, struct upkeep_result *ret)
{
	struct vhd_info parent;

	m->work->operations->layer_info(m->work->vhd, m->first, &parent);
	for (unsigned i = 0; i < m->others.count; i++) {
		struct err err = {.text = ""}, sentence;

		if (m->work->operations->child_relink(m->others.paths[i], &parent, &err) == 0) {
			ret->relinked++;
			continue;
		}
		err_set(&sentence, 0, "%s; so it goes on standing on what was merged, which stays; merge that again when it is free",
		        err.text);
		warn(m->work, &sentence);
	}
	return ret->relinked == m->others.count;
}

static void paths_free(char **paths, unsigned count)
{
	for (unsigned i = 0; paths && i < count; i++)
		free(paths[i]);
	free(paths);
}

static int paths_copy(const struct merge *m, char ***ret, struct err *err)
{
	unsigned count = m->into - m->first;
	struct vhd_info info;

	*ret = calloc(count, sizeof(**ret));
	for (unsigned i = 0; *ret && i < count; i++) {
		m->work->operations->layer_info(m->work->vhd, m->first + i, &info);
		(*ret)[i] = strdup(info.path);
		if (!(*ret)[i]) {
			paths_free(*ret, count);
			*ret = NULL;
		}
	}
	return *ret ? 0 : err_set(err, -ENOMEM, "no memory for a merge");
}

/* The merged files stay until nobody stands on them. */
static int merge_with_others(struct merge *m, const struct upkeep_request *request, struct vhd_merge_options *options,
                             struct upkeep_result *ret, struct err *err)
{
	char **paths;
	int r;

	r = paths_copy(m, &paths, err);
	if (r)
		return r;
	options->keep = true;
	r = m->work->operations->merge(m->work->vhd, options, &ret->merge, err);
	if (!r && !request->keep && others_relink(m, ret)) {
		r = m->work->operations->files_remove(paths, m->into - m->first, err);
		ret->removed = r == 0;
	}
	paths_free(paths, m->into - m->first);
	return r;
}

/*
 * What is merged into may be smaller: a VHD becomes larger then. Any other difference would leave open what the disk
 * shows between two ends; says which command makes it go away.
 */
static int sizes_judge(const struct merge *m, struct err *err)
{
	const char *when = m->work->in_use ? ", when nobody uses the disk" : "";

	for (unsigned i = m->first; i < m->into; i++) {
		struct vhd_info upper, lower;
		int r = 0;

		m->work->operations->layer_info(m->work->vhd, i, &upper);
		m->work->operations->layer_info(m->work->vhd, i + 1, &lower);
		if (upper.size_bytes < lower.size_bytes)
			r = err_set(err, -EINVAL, "%s: has %" PRIu64 " bytes, and %s, which it shall be merged into, has %" PRIu64
			            ": give it that size first%s: vhd resize %s%s %" PRIu64, upper.path, upper.size_bytes,
			            lower.path, lower.size_bytes, i == 0 ? "" : when, i == 0 ? "" : "--force ", upper.path,
			            lower.size_bytes);
		else if (upper.size_bytes > lower.size_bytes && i + 1 < m->into)
			r = err_set(err, -EINVAL, "%s: has %" PRIu64 " bytes, and %s has %" PRIu64 ": they are not merged in one go; "
			            "first: vhd merge %s", upper.path, upper.size_bytes, lower.path, lower.size_bytes, upper.path);
		else if (upper.size_bytes > lower.size_bytes && lower.raw)
			r = err_set(err, -EINVAL, "%s: has %" PRIu64 " bytes, and %s, which it shall be merged into, has %" PRIu64
			            ": give that the same size first%s: truncate -s %" PRIu64 " %s", upper.path, upper.size_bytes,
			            lower.path, lower.size_bytes, when, upper.size_bytes, lower.path);
		if (r)
			return r;
	}
	return 0;
}

static int merge(const struct upkeep_work *work, const struct upkeep_request *request,
                 const struct upkeep_layers *layers, unsigned layer, const char *path, struct upkeep_result *ret,
                 struct err *err)
{
	struct merge m = {.work = work, .layers = layers, .first = layer, .into = layer + 1};
	struct vhd_merge_options options = {
	        .layer = layer,
	        .force = request->force,
	        .keep = request->keep,
	        .idle = !work->in_use,
	        .job = work->job,
	        .warn = work->warn,
	        .user = work->user,
	};
	struct vhd_info into;
	int r;

	if (layer + 1 >= layers->count)
		return err_set(err, -EINVAL, "%s: it has no parent that it could be merged into", path);
	if (request->into.ino && (layer_find(layers, request->into, &m.into) || m.into <= layer))
		return err_set(err, -EINVAL, "%s: the file to merge it into is none of its parents", path);
	if (request->rename && layer != 0)
		return err_set(err, -EINVAL, "%s: other disks stand on it, so its name cannot be given away: merge it without "
		               "--rename", path);
	if (request->keep && layer == 0 && (request->rename || work->in_use))
		return err_set(err, -EINVAL, "%s: what it is merged into gets its name, so it cannot be kept: take a snapshot first "
		               "and merge that, or merge it without --keep", path);
	/* Whoever has the disk open, and the user, know it by the leaf's name. */
	options.rename = layer == 0 && (request->rename || work->in_use);
	options.into = m.into;
	work->operations->layer_info(work->vhd, m.into, &into);
	path_copy(ret->path, options.rename ? path : into.path);
	ret->merged_layers = m.into - layer;
	r = sizes_judge(&m, err);
	if (!r)
		r = others_judge(&m, request->force, err);
	if (!r && m.others.count) {
		r = merge_with_others(&m, request, &options, ret, err);
	} else if (!r) {
		r = work->operations->merge(work->vhd, &options, &ret->merge, err);
		ret->removed = r == 0 && !request->keep;
	}
	children_done(&m.others);
	return r;
}

/* --- The rest --- */

static int snapshot(const struct upkeep_work *work, const struct upkeep_request *request, const char *path,
                    struct upkeep_result *ret, struct err *err)
{
	const char *name = request->name;
	struct vhd_child *child;
	struct vhd_info info;
	int r;

	if (!name[0] || strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || strchr(name, '/'))
		return err_set(err, -EINVAL, "%s: '%s' is no name for the file that holds what is frozen; it is in the disk's "
		               "folder, so a plain name is wanted", path, name);
	r = work->operations->child_prepare(work->vhd, name, &child, err);
	if (!r)
		r = work->operations->switch_child(work->vhd, child, err);
	if (r)
		return r;
	work->operations->layer_info(work->vhd, 1, &info);
	path_copy(ret->path, info.path);
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
