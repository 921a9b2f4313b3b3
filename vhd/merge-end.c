/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The end of a merge. The layer merged into takes the Unique Id of the top layer merged: that state it now holds. So
 * other disks that stand on its former state are not taken for sound, and a child whose own Unique Id its parent has is
 * known to be merged already.
 */
#include "vhd/merge.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "vhd/checkpoint.h"
#include "vhd/directory.h"
#include "vhd/parent-search.h"
#include "vhd/relink.h"

struct identity {
	struct image *image;
	struct writer *writer;
	const uint8_t *uuid;
	struct err *err;
};

static int set_uuid(struct layer *layer, struct relink_tail *tail, void *arg, struct err *err)
{
	return layer_set_uuid(layer, tail, arg, err);
}

static int call_set_uuid(void *arg)
{
	struct identity *id = arg;

	return upkeep_change_file(id->image, id->writer, set_uuid, (void *)id->uuid, id->err);
}

int merge_take_identity(struct merge *m)
{
	uint8_t uuid[16];

	if (m->target->layer->raw)
		return 0;
	memcpy(uuid, m->stack->layer[m->first]->layer->footer.uuid, sizeof(uuid));
	return worker_call(m->image, call_set_uuid, &(struct identity){m->image, m->target->writer, uuid, m->err});
}

struct tie {
	struct image *image;
	struct image_layer *upper;
	const struct layer *parent;
	struct err *err;
};

static int set_parent(struct layer *layer, struct relink_tail *tail, void *arg, struct err *err)
{
	static const uint8_t no_uuid[16];
	const struct layer *parent = ((struct tie *)arg)->parent;

	return layer_set_parent(layer, tail, parent->path, parent->raw ? no_uuid : parent->footer.uuid,
	                        parent->raw ? 0 : parent->footer.time_stamp, err);
}

static int call_set_parent(void *arg)
{
	struct tie *tie = arg;

	return upkeep_change_file(tie->image, tie->upper->writer, set_parent, tie, tie->err);
}

int merge_tie_upper(struct merge *m)
{
	struct image_layer *upper = m->stack->layer[m->first - 1];
	struct tie tie = {m->image, upper, m->target->layer, m->err};
	char *path = strdup(m->target->layer->path);
	struct checkpoint_stamp stamp;
	bool raised = !upper->writer;
	int rc = path ? 0 : err_set(m->err, -ENOMEM, "no memory for a path");

	/* A new locator does not make another state of it. */
	if (rc == 0 && raised)
		rc = checkpoint_stamp_take(upper->layer->path, &stamp, m->err);
	if (rc == 0 && raised)
		rc = upkeep_raise(m->image, upper, m->err);
	if (rc == 0) {
		rc = worker_call(m->image, call_set_parent, &tie);
		if (raised) {
			int rest = upkeep_rest(m->image, upper->writer);

			if (rest && rc == 0)
				rc = err_set(m->err, rest, "%s: writing to it failed: %s", upper->layer->path, strerror(-rest));
			if (rc == 0)
				rc = checkpoint_restamp(upper->layer->path, upper->layer->footer.uuid, &stamp, m->err);
		}
	}
	if (rc) {
		free(path);
		return rc;
	}
	pthread_mutex_lock(&m->image->lock);
	(void)layer_string_replace_take(upper->layer, &upper->layer->parent_path, path);
	pthread_mutex_unlock(&m->image->lock);
	return 0;
}

int merge_publish_take(struct merge *m, struct stack *stack, bool parents_change)
{
	if (!stack || (!parents_change && stack_remember_parents(stack))) {
		stack_free(stack);
		return err_set(m->err, -ENOMEM, "no memory for a chain of %u images", m->stack->count);
	}
	pthread_mutex_lock(&m->image->lock);
	image_publish_stack(m->image, stack);
	pthread_mutex_unlock(&m->image->lock);
	m->stack = stack;
	image_wait_for_epochs(m->image);
	return 0;
}

int merge_leave(struct merge *m, struct image_layer ***ret_gone)
{
	const struct stack *old = m->stack;
	unsigned count = m->into - m->first;
	struct stack *stack = stack_new(old->count - count);
	struct image_layer **gone = calloc(count, sizeof(*gone));
	int rc;

	if (!stack || !gone) {
		stack_free(stack);
		free(gone);
		return err_set(m->err, -ENOMEM, "no memory for a chain of %u images", old->count);
	}
	memcpy(gone, old->layer + m->first, count * sizeof(*gone));
	memcpy(stack->layer, old->layer, m->first * sizeof(*stack->layer));
	memcpy(stack->layer + m->first, old->layer + m->into, (old->count - m->into) * sizeof(*stack->layer));
	rc = merge_publish_take(m, stack, false);
	if (rc)
		free(gone);
	else
		*ret_gone = gone;
	return rc;
}

static int folder_of_sync(const char *path, struct err *err)
{
	char *folder = path_folder(path);
	int rc = folder ? directory_sync(folder) : -ENOMEM;

	if (rc)
		err_set(err, rc, "%s: syncing the folder failed: %s", folder ? folder : path, strerror(-rc));
	free(folder);
	return rc;
}

int merge_check_name(const struct layer *layer, struct err *err)
{
	struct stat opened, named;

	if (fstat(layer->store->file.fd, &opened) < 0 || stat(layer->path, &named) < 0)
		return 0; /* no name, nothing to lose */
	if (opened.st_dev == named.st_dev && opened.st_ino == named.st_ino)
		return 0;
	return err_set(err, -ESTALE, "%s: is not the open file any more: it was moved or replaced; open the disk anew, and merge "
	               "it then", layer->path);
}

static int file_remove(const struct layer *layer, struct err *err)
{
	int rc = merge_check_name(layer, err);

	if (rc)
		return rc;
	rc = directory_unlink(layer->path);
	if (rc && rc != -ENOENT)
		return err_set(err, rc, "%s: it is merged but cannot be removed: %s", layer->path, strerror(-rc));
	return folder_of_sync(layer->path, err);
}

int merge_change_names(struct merge *m, struct image_layer *const *gone)
{
	const char *name = gone[0]->layer->path;
	int rc = 0;

	if (m->options->keep)
		return 0;
	/* The top one last: whoever runs the same again begins with it. */
	for (unsigned i = m->into - m->first; rc == 0 && i-- > 0;)
		if (i > 0 || !m->options->rename)
			rc = file_remove(gone[i]->layer, m->err);
	if (rc == 0 && m->options->rename) {
		char *path;

		rc = merge_check_name(gone[0]->layer, m->err);
		if (rc == 0)
			rc = merge_check_name(m->target->layer, m->err);
		if (rc)
			return rc;
		path = strdup(name);
		rc = path ? directory_rename(m->target->layer->path, path, true) : -ENOMEM;
		if (rc) {
			free(path);
			return err_set(m->err, rc, "%s: it is merged into %s, which cannot get its name: %s", name,
			               m->target->layer->path, strerror(-rc));
		}
		rc = folder_of_sync(name, m->err);
		if (rc == 0)
			rc = checkpoint_rename(m->target->layer->path, path, m->err);
		pthread_mutex_lock(&m->image->lock);
		(void)layer_string_replace_take(m->target->layer, &m->target->layer->path, path);
		pthread_mutex_unlock(&m->image->lock);
	}
	return rc;
}

void merge_retire(struct merge *m, struct image_layer **gone)
{
	pthread_mutex_lock(&m->image->lock);
	for (unsigned i = 0; i < m->into - m->first; i++)
		image_retire_layer(m->image, gone[i]);
	pthread_mutex_unlock(&m->image->lock);
	free(gone);
}
