/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A snapshot: the open leaf becomes the parent of a new child, while guests write.
 *
 * The names change before the writes do. From the moment on when the user's name means the child, the child is an empty
 * disk over the old leaf, so that whoever opens it after a crash finds all that any FLUSH covered, whichever of the two
 * it went to; no FLUSH has to wait. Then the stack with the child on top is published, which is the point in time;
 * writes that began before it end in the old leaf, and when they have, the old leaf is brought to rest.
 *
 *   names                          after a crash, the user's name means
 *   link(leaf, frozen), sync       the leaf; both names are its own, and the next attempt takes the second one away
 *   rename(child, leaf), sync      the leaf or the empty child
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vhd/create.h"
#include "vhd/directory.h"
#include "vhd/lock.h"
#include "vhd/new-file.h"
#include "vhd/upkeep.h"

struct vhd_child {
	struct image *image;
	struct new_file file; /* `target`: the leaf's name */
	char *frozen;         /* absolute */
	struct image_layer *layer;
	struct writer *writer;
	struct stack *stack, *quiet_stack; /* to publish at the switch, and when the old leaf has come to rest */
	bool linked;                       /* the frozen name exists */
};

/* `frozen` as an absolute path in the leaf's folder. */
static int frozen_path(const struct new_file *file, const char *frozen, char **ret, struct err *err)
{
	const char *slash = strrchr(frozen, '/'), *name = slash ? slash + 1 : frozen;
	struct stat st, leaf;

	if (slash) {
		char *folder = strndup(frozen, slash == frozen ? 1 : (size_t)(slash - frozen));
		char *real = folder ? realpath(folder, NULL) : NULL;
		bool same = real && !strcmp(real, file->folder);

		free(folder);
		free(real);
		if (!same)
			return err_set(err, -EINVAL, "%s: the frozen disk stays in the folder of %s: give a name in it", frozen,
			               file->path);
	}
	if (!*name || !strcmp(name, ".") || !strcmp(name, ".."))
		return err_set(err, -EINVAL, "%s: not a name for the frozen disk", frozen);
	if (asprintf(ret, "%s/%s", strcmp(file->folder, "/") ? file->folder : "", name) < 0) {
		*ret = NULL;
		return err_set(err, -ENOMEM, "%s: no memory", frozen);
	}
	if (lstat(*ret, &st) == 0 && lstat(file->target, &leaf) == 0 && st.st_dev == leaf.st_dev &&
	    st.st_ino == leaf.st_ino && strcmp(*ret, file->target)) {
		/* The leaf's own second name: an attempt was cut off before the rename. */
		int rc = directory_unlink(*ret);

		return rc ? err_set(err, rc, "%s: %s", *ret, strerror(-rc)) : 0;
	}
	if (lstat(*ret, &st) == 0)
		return err_set(err, -EEXIST, "%s: exists already; choose another name for the frozen disk", *ret);
	return errno == ENOENT ? 0 : err_set(err, -errno, "%s: %s", *ret, strerror(errno));
}

/* The name must still be the leaf's: somebody may have moved the file since it was opened. */
static int leaf_check(const struct layer *leaf, const struct new_file *file, struct err *err)
{
	struct stat opened, named;

	if (fstat(leaf->store->file.fd, &opened) < 0)
		return err_set(err, -errno, "%s: %s", leaf->path, strerror(errno));
	if (lstat(file->target, &named) < 0 || named.st_dev != opened.st_dev || named.st_ino != opened.st_ino)
		return err_set(err, -ESTALE, "%s: is not the open disk any more: it was moved or replaced; open it anew under its "
		               "present name", file->target);
	/* What may be done with the disk must not change; an owner can be given by root only. */
	if (fchmod(file->fd, opened.st_mode & 07777) < 0 && errno != EPERM)
		return err_set(err, -errno, "%s: its child cannot get its permissions: %s", leaf->path, strerror(errno));
	if (fchown(file->fd, opened.st_uid, opened.st_gid) < 0 && errno != EPERM)
		return err_set(err, -errno, "%s: its child cannot get its owner: %s", leaf->path, strerror(errno));
	return 0;
}

static int child_write(struct vhd_child *child, const struct layer *leaf, struct err *err)
{
	static const struct vhd_create_options options;
	uint32_t block_size = leaf->block_size >= CREATE_MIN_BLOCK_SIZE ? leaf->block_size : VHD_DEFAULT_BLOCK_SIZE;
	struct image_plan plan = {0};
	struct store *store;
	int rc, fd;

	rc = image_plan_init(child->file.path, &options, VHD_DIFFERENCING, leaf->size, block_size, &plan, err);
	/* The leaf's creation time: it is written to for some time yet, so that its modification time is not known. */
	if (rc == 0)
		rc = image_plan_link(&plan, child->file.target, child->frozen, leaf->footer.uuid, leaf->footer.time_stamp, err);
	if (rc == 0) {
		fd = fcntl(child->file.fd, F_DUPFD_CLOEXEC, 0);
		rc = fd < 0 ? err_set(err, -errno, "%s: %s", child->file.path, strerror(errno))
		            : store_file_open_take(fd, child->file.path, STORE_WRITE, &store, err);
	}
	if (rc == 0) {
		rc = image_plan_write(&plan, store);
		store_close(store);
		if (rc)
			err_set(err, rc, "%s: writing its child failed: %s", child->file.path, strerror(-rc));
	}
	image_plan_done(&plan);
	return rc;
}

static int child_open(struct vhd_child *child, struct err *err)
{
	struct image *image = child->image;
	struct store *store;
	struct layer *layer;
	int fd, rc;

	fd = open(child->file.temporary, O_RDWR | (image->direct ? O_DIRECT : 0) | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return err_set(err, -errno, "%s: %s", child->file.temporary, strerror(errno));
	rc = lock_take(fd, child->file.temporary, true, err);
	if (rc) {
		close(fd);
		return rc;
	}
	rc = store_file_open_take(fd, child->file.temporary, STORE_WRITE | (image->direct ? STORE_DIRECT : 0), &store, err);
	if (rc)
		return rc;
	if (store->offset_align > image->request_align || store->memory_align > image->memory_align) {
		store_close(store);
		return err_set(err, -EINVAL, "%s: direct I/O to a new file there needs another alignment than the disk has",
		               child->file.path);
	}
	/* It is known by the name that it will have. */
	rc = layer_open_take(store, child->file.target, NULL, &layer, err);
	if (rc)
		return rc;
	layer->parent_path = strdup(child->frozen);
	if (!layer->parent_path) {
		layer_free(layer);
		return err_set(err, -ENOMEM, "%s: no memory for its child", child->file.path);
	}
	rc = image_layer_new(image, layer, true, &child->layer);
	return rc ? err_set(err, rc, "%s: its child cannot be opened: %s", child->file.path, strerror(-rc)) : 0;
}

static struct stack *stack_with(const struct stack *below, struct image_layer *child)
{
	struct stack *stack = stack_new(below->count + 1);

	if (!stack)
		return NULL;
	stack->layer[0] = child;
	memcpy(stack->layer + 1, below->layer, below->count * sizeof(*below->layer));
	return stack;
}

static int stacks_make(struct vhd_child *child, struct err *err)
{
	const struct stack *below = image_stack(child->image);

	child->stack = stack_with(below, child->layer);
	child->quiet_stack = stack_with(below, child->layer);
	if (!child->stack || !child->quiet_stack || stack_remember_parents(child->quiet_stack))
		return err_set(err, -ENOMEM, "%s: no memory for its child", child->file.path);
	return 0;
}

static int prepare_slots(void *arg)
{
	struct vhd_child *child = arg;
	int rc;

	pthread_mutex_lock(&child->image->lock);
	rc = slots_prepare(child->image, child->writer);
	pthread_mutex_unlock(&child->image->lock);
	return rc;
}

static int child_prepare(struct vhd_child *child, const char *frozen, struct err *err)
{
	struct image *image = child->image;
	const struct layer *leaf = image_leaf(image);
	int rc;

	if (image_stack(image)->count >= VHD_MAX_LAYERS)
		return err_set(err, VHD_E_CHAIN, "%s: a chain of %u images already, and more cannot be opened; merge some first",
		               leaf->path, VHD_MAX_LAYERS);
	rc = new_file_open_beside(leaf->path, &child->file, err);
	if (rc)
		return rc;
	rc = leaf_check(leaf, &child->file, err);
	if (rc == 0)
		rc = frozen_path(&child->file, frozen, &child->frozen, err);
	if (rc == 0)
		rc = child_write(child, leaf, err);
	if (rc == 0)
		rc = new_file_place(&child->file, err);
	if (rc == 0)
		rc = child_open(child, err);
	if (rc == 0)
		rc = stacks_make(child, err);
	if (rc == 0)
		rc = writer_new(child->layer, &child->writer, err);
	if (rc)
		return rc;
	/* The first writes after the switch shall not wait for space. */
	rc = worker_call(image, prepare_slots, child);
	return rc ? err_set(err, rc, "%s: no space for what will be written to its child: %s", leaf->path, strerror(-rc)) : 0;
}

static void child_free(struct vhd_child *child)
{
	struct image *image = child->image;

	stack_free(child->stack);
	stack_free(child->quiet_stack);
	writer_free(child->writer);
	if (child->layer) {
		pthread_mutex_lock(&image->lock);
		image_layer_free(image, child->layer);
		pthread_mutex_unlock(&image->lock);
	}
	if (child->linked)
		(void)directory_unlink(child->frozen);
	free(child->frozen);
	if (child->file.path)
		new_file_done(&child->file);
	free(child);
}

int vhd_child_prepare(struct vhd *vhd, const char *frozen, struct vhd_child **ret, struct err *err)
{
	struct image *image = vhd->image;
	struct vhd_child *child;
	int rc = upkeep_begin(image, err);

	if (rc)
		return rc;
	child = calloc(1, sizeof(*child));
	if (!child) {
		upkeep_end(image);
		return err_set(err, -ENOMEM, "%s: no memory for a child", image_leaf(image)->path);
	}
	child->image = image;
	child->file.fd = child->file.replaced_fd = -1;
	rc = child_prepare(child, frozen, err);
	if (rc) {
		child_free(child);
		upkeep_end(image);
		return rc;
	}
	*ret = child;
	return 0;
}

void vhd_child_abandon(struct vhd_child *child)
{
	struct image *image;

	if (!child)
		return;
	image = child->image;
	child_free(child);
	upkeep_end(image);
}

static int names_change(struct vhd_child *child, struct err *err)
{
	struct new_file *file = &child->file;
	int rc = directory_link(file->target, child->frozen);

	if (rc)
		return err_set(err, rc, "%s: it cannot get the name %s: %s", file->target, child->frozen, strerror(-rc));
	child->linked = true;
	rc = directory_sync(file->folder);
	if (rc)
		return err_set(err, rc, "%s: syncing the folder failed: %s", file->folder, strerror(-rc));
	rc = directory_rename(file->temporary, file->target, true);
	if (rc)
		return err_set(err, rc, "%s: its child cannot get its name: %s", file->target, strerror(-rc));
	free(file->temporary);
	file->temporary = NULL;
	child->linked = false;
	rc = directory_sync(file->folder);
	if (rc == 0)
		return 0;
	/* Which name is durable is not known, but either is right: the child is empty. The leaf gets its name back. */
	(void)directory_rename(child->frozen, file->target, true);
	return err_set(err, rc, "%s: syncing the folder failed: %s", file->folder, strerror(-rc));
}

int vhd_switch_child(struct vhd *vhd, struct vhd_child *child, struct err *err)
{
	struct image *image = vhd->image;
	struct writer *old = image_stack(image)->layer[0]->writer;
	const char *path = child->file.path;
	struct timespec from, to;
	int rc = names_change(child, err);

	if (rc) {
		vhd_child_abandon(child);
		return rc;
	}
	pthread_mutex_lock(&image->lock);
	clock_gettime(CLOCK_MONOTONIC, &from);
	writer_link(image, child->writer);
	image_publish_stack(image, child->stack);
	(void)layer_string_replace_take(old->layer->layer, &old->layer->layer->path, child->frozen); /* without memory sentences name the old name */
	clock_gettime(CLOCK_MONOTONIC, &to);
	image->switch_ns = (uint64_t)((to.tv_sec - from.tv_sec) * 1000000000 + to.tv_nsec - from.tv_nsec);
	pthread_mutex_unlock(&image->lock);
	child->stack = NULL;
	child->writer = NULL;
	child->layer = NULL;
	child->frozen = NULL;

	image_wait_for_epochs(image);
	rc = upkeep_rest(image, old);
	if (rc) {
		err_set(err, rc, "%s: the switch to its child took place, but what was written just before may be lost: %s", path,
		        strerror(-rc));
	} else {
		pthread_mutex_lock(&image->lock);
		image_publish_stack(image, child->quiet_stack);
		pthread_mutex_unlock(&image->lock);
		child->quiet_stack = NULL;
	}
	vhd_child_abandon(child);
	return rc;
}
