/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/upkeep.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "vhd/children.h"
#include "vhd/queue.h"
#include "vhd/relink.h"

int upkeep_begin(struct image *image, struct err *err)
{
	const char *path;
	int rc = 0;

	pthread_mutex_lock(&image->lock);
	path = image_leaf(image)->path;
	if (!image->writable)
		rc = err_set(err, -EROFS, "%s: it is open for reading only", path);
	else if (atomic_load(&image->broken))
		rc = err_set(err, -EROFS, "%s: writing to it has failed before; close it and check it first", path);
	else if (image->upkeep)
		rc = err_set(err, -EBUSY, "%s: it is being merged, resized, compacted or switched already; wait for that to end",
		             path);
	else
		image->upkeep = true;
	pthread_mutex_unlock(&image->lock);
	return rc;
}

void upkeep_end(struct image *image)
{
	pthread_mutex_lock(&image->lock);
	image->upkeep = false;
	image->exclusive = false;
	pthread_mutex_unlock(&image->lock);
}

int upkeep_exclude_users(struct image *image, struct err *err)
{
	int rc = 0;

	pthread_mutex_lock(&image->lock);
	if (image->queues || image->maps > 0) {
		rc = err_set(err, -EBUSY, "%s: the disk is in use", image_leaf(image)->path);
	} else {
		image->exclusive = true;
		image->upkeep_thread = pthread_self();
	}
	pthread_mutex_unlock(&image->lock);
	return rc;
}

struct rest {
	struct image *image;
	struct writer *writer;
};

/* Worker thread: nobody writes to the layer any more. */
static int bring_to_rest(void *arg)
{
	struct rest *rest = arg;
	struct image *image = rest->image;
	int rc = writer_settle(image, rest->writer);

	if (rc)
		return rc;
	pthread_mutex_lock(&image->lock);
	writer_unlink(image, rest->writer);
	pthread_mutex_unlock(&image->lock);
	return 0;
}

int upkeep_rest(struct image *image, struct writer *writer)
{
	struct rest rest = {image, writer};
	struct store *store = writer->layer->layer->store;
	struct part *waiters;
	int rc;

	/* Who waits for a slot here began before the stack changed, and looks anew. */
	pthread_mutex_lock(&image->lock);
	waiters = writer->slot_waiters;
	writer->slot_waiters = NULL;
	writer->slot_waiters_tail = &writer->slot_waiters;
	parts_post(waiters, 0);
	pthread_mutex_unlock(&image->lock);

	rc = worker_flush(image);
	if (rc == 0)
		rc = worker_call(image, bring_to_rest, &rest);
	if (rc)
		return rc;
	writer_free(writer);
	store->ops->lower(store);
	return 0;
}

static int take_from_list(void *arg)
{
	struct rest *rest = arg;

	pthread_mutex_lock(&rest->image->lock);
	writer_unlink(rest->image, rest->writer);
	pthread_mutex_unlock(&rest->image->lock);
	return 0;
}

void upkeep_give_up(struct image *image, struct writer *writer)
{
	struct rest rest = {image, writer};
	struct store *store = writer->layer->layer->store;

	(void)worker_call(image, take_from_list, &rest);
	writer_free(writer);
	store->ops->lower(store);
}

struct first {
	struct image *image;
	struct writer *writer;
	struct err *err;
};

static int settle_first(void *arg)
{
	struct first *first = arg;

	return writer_settle_first(first->image, first->writer, first->err);
}

int upkeep_raise(struct image *image, struct image_layer *l, struct err *err)
{
	struct store *store, *reader = l->layer->store;
	struct writer *w;
	int rc;

	if (l->writer)
		return 0;
	rc = reader->ops->raise(reader, l->layer->path, &store, err);
	if (rc)
		return rc;
	rc = image_layer_reopen_take(image, l, store);
	if (rc)
		return err_set(err, rc, "%s: it cannot be opened for writing: %s", l->layer->path, strerror(-rc));
	rc = writer_new(l, &w, err);
	if (rc == 0) {
		rc = worker_call(image, settle_first, &(struct first){image, w, err});
		if (rc)
			writer_free(w);
	}
	if (rc) {
		store->ops->lower(store);
		return rc;
	}
	pthread_mutex_lock(&image->lock);
	writer_link(image, w);
	pthread_mutex_unlock(&image->lock);
	return 0;
}

static int change_file(struct image *image, struct writer *w,
                       int (*call)(struct layer *layer, struct relink_tail *tail, void *arg, struct err *err), void *arg,
                       struct err *err)
{
	struct layer *layer = w->layer->layer;
	struct relink_tail tail;
	int rc;

	if (!layer->bat) {
		tail = relink_tail_of(layer);
		return call(layer, &tail, arg, err);
	}
	rc = slots_cut(image, w);
	if (rc)
		return err_set(err, rc, "%s: writing to it failed: %s", layer->path, strerror(-rc));
	tail = (struct relink_tail){.end = w->slots.end, .open = true};
	rc = call(layer, &tail, arg, err);
	w->slots.end = tail.end;
	return rc;
}

int upkeep_change_file(struct image *image, struct writer *w,
                       int (*call)(struct layer *layer, struct relink_tail *tail, void *arg, struct err *err), void *arg,
                       struct err *err)
{
	int rc = change_file(image, w, call, arg, err);

	/* As writer_sync has it: what guests wrote may be lost with it. */
	if (w->layer->layer->store->sync_failed)
		atomic_store(&image->broken, rc ? rc : -EIO);
	return rc;
}

static bool stack_has_file(const struct stack *stack, const char *path)
{
	struct stat named, opened;

	if (stat(path, &named) < 0)
		return false;
	for (unsigned i = 0; i < stack->count; i++)
		if (fstat(stack->layer[i]->layer->store->file.fd, &opened) == 0 && opened.st_dev == named.st_dev &&
		    opened.st_ino == named.st_ino)
			return true;
	return false;
}

int upkeep_refuse_children(struct image *image, const struct layer *layer, struct err *err)
{
	struct children children;
	struct stat st;
	int rc;

	if (fstat(layer->store->file.fd, &st) < 0 || st.st_nlink == 0)
		return 0; /* what has no name has no children */
	rc = children_find(layer, layer->path, &children, err);
	if (rc)
		return rc;
	for (unsigned i = children.count; i-- > 0;)
		if (stack_has_file(image_stack(image), children.paths[i]))
			children_leave_out(&children, i);
	rc = children_refuse(&children, layer->path, err);
	children_done(&children);
	return rc;
}
