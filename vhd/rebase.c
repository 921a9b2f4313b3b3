/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Another parent for a differencing disk. What it would read differently over the new one is copied into it first, so
 * that its content is the same over either; then one sector switches (relink.c). Killed at any moment it stands on the
 * one or the other, and reads the same.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vhd/children.h"
#include "vhd/create.h"
#include "vhd/folders.h"
#include "vhd/lock.h"
#include "vhd/parent-search.h"
#include "vhd/rebase-copy.h"
#include "vhd/relink.h"
#include "vhd/switch-recover.h"
#include "vhd/upkeep.h"

struct rebase {
	const char *path;
	const struct vhd_rebase_options *options;
	char *real_parent; /* owned; NULL: the disk shall stand alone */
	struct image *parent;
	uint8_t uuid[16];  /* the new parent's; null: raw, or none */
	uint32_t time_stamp;
	uint64_t size;
	struct vhd_rebase_result result;
	struct err *err;
};

static void warn(const struct rebase *r, const struct err *sentence)
{
	if (r->options->warn)
		r->options->warn(r->options->user, sentence->text);
}

static int raw_open(const struct rebase *r, struct chain *ret)
{
	const char *path = r->real_parent;
	struct store *store;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), rc;

	if (fd < 0)
		return err_set(r->err, -errno, "%s: %s", path, strerror(errno));
	rc = lock_take(fd, path, false, r->err);
	if (rc) {
		close(fd);
		return rc;
	}
	rc = store_file_open_take(fd, path, 0, &store, r->err);
	if (rc)
		return rc;
	ret->layers = malloc(sizeof(*ret->layers));
	if (!ret->layers) {
		store_close(store);
		return err_set(r->err, -ENOMEM, "%s: no memory", path);
	}
	rc = layer_open_raw_take(store, path, &ret->layers[0], r->err);
	if (rc)
		return rc;
	ret->count = 1;
	if (ret->layers[0]->size == 0 || ret->layers[0]->size % VHD_SECTOR)
		return err_set(r->err, -EINVAL, "%s: a raw parent's size must be a multiple of 512, not %" PRIu64 " bytes", path,
		               ret->layers[0]->size);
	return 0;
}

/* The disk itself, by any of its names, must not be among its parents. */
static int cycle_check(const struct rebase *r, const struct chain *parents)
{
	struct stat disk, member;

	if (stat(r->path, &disk) < 0)
		return err_set(r->err, -errno, "%s: %s", r->path, strerror(errno));
	for (unsigned i = 0; i < parents->count; i++)
		if (fstat(parents->layers[i]->store->file.fd, &member) == 0 && member.st_dev == disk.st_dev &&
		    member.st_ino == disk.st_ino)
			return err_set(r->err, VHD_E_CHAIN, i == 0 ? "%s: it cannot be its own parent"
			               : "%s: it is among the parents of %s, which therefore cannot be its parent", r->path,
			               r->real_parent);
	if (parents->count >= VHD_MAX_LAYERS)
		return err_set(r->err, VHD_E_CHAIN, "%s: a chain of %u images already; with %s on it, it would be deeper than %u",
		               r->real_parent, parents->count, r->path, VHD_MAX_LAYERS);
	return 0;
}

static int parent_open(struct rebase *r)
{
	const struct vhd_open_options open_options = {
		.allow_dirs = r->options->allow_dirs, .warn = r->options->warn, .user = r->options->user,
	};
	struct chain chain = {0};
	struct stat st;
	int rc;

	if (!r->options->parent)
		return 0;
	r->real_parent = realpath(r->options->parent, NULL);
	if (!r->real_parent)
		return err_set(r->err, -errno, "%s: %s", r->options->parent, strerror(errno));
	rc = r->options->parent_raw ? raw_open(r, &chain) : chain_open(r->real_parent, &open_options, NULL, &chain, r->err);
	if (rc == 0)
		rc = cycle_check(r, &chain);
	if (rc == 0 && fstat(chain.layers[0]->store->file.fd, &st) < 0)
		rc = err_set(r->err, -errno, "%s: %s", r->real_parent, strerror(errno));
	if (rc) {
		chain_done(&chain);
		return rc;
	}
	r->time_stamp = time_stamp_from_unix(st.st_mtime);
	r->size = chain.layers[0]->size;
	if (!r->options->parent_raw)
		memcpy(r->uuid, chain.layers[0]->footer.uuid, sizeof(r->uuid));
	return image_open_take(&chain, false, false, &r->parent, r->err);
}

static bool is_same_parent(const struct rebase *r, const struct layer *disk)
{
	return r->real_parent && !r->options->parent_raw && !memcmp(r->uuid, disk->header.parent_uuid, sizeof(r->uuid));
}

/* Whatever way it is done, the disk and the parent must fit. */
static int fit_check(const struct rebase *r, const struct layer *disk)
{
	struct err sentence;

	if (disk->footer.type != VHD_DIFFERENCING)
		return err_set(r->err, -EINVAL, "%s: a %s disk, which has no parent", r->path, vhd_type_name(disk->footer.type));
	if (!r->real_parent)
		return 0;
	if (!r->options->parent_raw && !memcmp(r->uuid, disk->footer.uuid, sizeof(r->uuid)))
		return err_set(r->err, VHD_E_CHAIN, "%s: %s has its own Unique Id: it is a copy of it, or it was merged into that; "
		               "it cannot be its parent", r->path, r->real_parent);
	if (r->size == disk->size)
		return 0;
	if (r->options->unsafe && !r->options->force)
		return err_set(r->err, -EINVAL, "%s: a disk of %" PRIu64 " bytes, and %s one of %" PRIu64 ": is it the right one? "
		               "(--force takes it)", r->path, disk->size, r->real_parent, r->size);
	err_set(&sentence, 0, "%s: a disk of %" PRIu64 " bytes on a parent of %" PRIu64 " bytes; other programs may refuse that",
	        r->path, disk->size, r->size);
	warn(r, &sentence);
	return 0;
}

/* Such a disk is right, but opens only for who allows it: better known now than then. */
static int outside_warn(const struct rebase *r)
{
	char *real = realpath(r->path, NULL), *folder = real ? path_folder(real) : NULL, *parent_folder = NULL;
	struct folders folders = {0};
	struct err sentence;
	int rc = folder ? folders_init(&folders, folder, NULL, NULL, r->err)
	                : err_set(r->err, -errno, "%s: %s", r->path, strerror(errno));

	if (rc == 0 && !folders_hold(&folders, r->real_parent)) {
		parent_folder = path_folder(r->real_parent);
		err_set(&sentence, 0, "%s: its parent lies outside its folder, so that opening it takes --allow-dir %s", r->path,
		        parent_folder ? parent_folder : "DIR");
		warn(r, &sentence);
	}
	folders_done(&folders);
	free(parent_folder);
	free(folder);
	free(real);
	return rc;
}

static int layer_relink(struct layer *layer, struct relink_tail *tail, void *arg, struct err *err)
{
	const struct rebase *r = arg;

	return r->real_parent ? layer_set_parent(layer, tail, r->real_parent, r->uuid, r->time_stamp, err)
	                      : layer_set_no_parent(layer, tail, err);
}

struct relink_call {
	struct image *image;
	struct rebase *rebase;
};

static int call_relink(void *arg)
{
	struct relink_call *call = arg;

	return upkeep_change_file(call->image, image_stack(call->image)->layer[0]->writer, layer_relink, call->rebase,
	                          call->rebase->err);
}

static int relink_open(struct rebase *r, struct vhd *disk)
{
	struct image *image = disk->image;
	int rc = fit_check(r, image_leaf(image));

	if (rc == 0)
		rc = rebase_copy(image, r->parent, r->options->job, &r->result.copied_bytes, r->err);
	return rc ? rc : worker_call(image, call_relink, &(struct relink_call){image, r});
}

static int alone_open(const struct rebase *r, unsigned flags, struct layer **ret)
{
	struct store *store;
	int fd = open(r->path, (flags & STORE_WRITE ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK), rc;

	if (fd < 0)
		return err_set(r->err, -errno, "%s: %s", r->path, strerror(errno));
	rc = lock_take(fd, r->path, flags & STORE_WRITE, r->err);
	if (rc) {
		close(fd);
		return rc;
	}
	rc = store_file_open_take(fd, r->path, flags, &store, r->err);
	return rc ? rc : layer_open_take(store, r->path, NULL, ret, r->err);
}

/* Disks that stand on this one would find another content in it. */
static int refuse_children(const struct rebase *r, const struct layer *disk)
{
	const struct vhd_open_options options = {.warn = r->options->warn, .user = r->options->user};
	struct children children;
	int rc;

	switch_recover(disk, r->path, &options);
	rc = children_find(disk, r->path, &children, r->err);
	if (rc)
		return rc;
	rc = children_refuse(&children, r->path, r->err);
	children_done(&children);
	return rc;
}

/* The linkage alone changes: the old parent is not needed. */
static int relink_alone(struct rebase *r)
{
	struct relink_tail tail;
	struct layer *disk;
	struct err sentence;
	int rc = alone_open(r, STORE_WRITE, &disk);

	if (rc)
		return rc;
	rc = fit_check(r, disk);
	if (rc == 0 && !is_same_parent(r, disk)) {
		if (!r->options->force)
			rc = refuse_children(r, disk);
		if (rc == 0) {
			err_set(&sentence, 0, "%s: %s is not known to hold what its parent held (%s): what the disk reads may have "
			        "changed", r->path, r->real_parent,
			        r->options->parent_raw ? "a raw disk has no Unique Id" : "it has another Unique Id");
			warn(r, &sentence);
		}
	}
	tail = relink_tail_of(disk);
	if (rc == 0)
		rc = layer_relink(disk, &tail, r, r->err);
	layer_free(disk);
	return rc;
}

/* The old parent is not there, but the new one is the very same disk. */
static bool is_moved_parent(const struct rebase *r)
{
	struct rebase quiet = *r;
	struct layer *disk;
	bool same;

	quiet.err = NULL;
	if (alone_open(&quiet, 0, &disk))
		return false;
	same = is_same_parent(r, disk);
	layer_free(disk);
	return same;
}

static int relink_safely(struct rebase *r)
{
	/* The content stays, so whoever stands on this disk need not mind. */
	const struct vhd_open_options options = {
		.flags = VHD_OPEN_WRITE | VHD_OPEN_DESPITE_CHILDREN,
		.allow_dirs = r->options->allow_dirs,
		.warn = r->options->warn,
		.user = r->options->user,
	};
	struct vhd *disk;
	struct err later, *err = r->err;
	int rc, closed;

	rc = vhd_open(r->path, &options, &disk, err);
	if (rc == VHD_E_PARENT_MISSING && is_moved_parent(r))
		return relink_alone(r);
	if (rc == VHD_E_PARENT_MISSING)
		return err_set(err, rc, "%s: its present parent was not found, so what it reads is not known; put that beside it, "
		               "or, if the new parent holds the same, use --unsafe", r->path);
	if (rc)
		return rc;
	rc = relink_open(r, disk);
	closed = vhd_close(disk, &later);
	return rc || !closed ? rc : err_set(err, closed, "%s", later.text);
}

int vhd_rebase(const char *path, const struct vhd_rebase_options *options, struct vhd_rebase_result *ret,
               struct err *err)
{
	struct rebase r = {.path = path, .options = options, .err = err};
	int rc;

	if (options->unsafe && !options->parent)
		return err_set(err, -EINVAL, "%s: without a parent a disk must hold all of its content: that cannot be done without "
		               "copying (leave out --unsafe)", path);
	rc = parent_open(&r);
	if (rc == 0)
		rc = options->unsafe ? relink_alone(&r) : relink_safely(&r);
	if (r.parent)
		(void)image_close(r.parent, NULL);
	if (rc == 0 && r.real_parent)
		rc = outside_warn(&r);
	free(r.real_parent);
	if (ret)
		*ret = r.result;
	return rc;
}
