/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Merging layers into one below them. Two ways:
 *
 * Copying, for layers that do not change: those that are not the leaf, and the leaf when nobody uses the disk. The
 * merged layers stay whole and in force until the layer below holds all that they do, durably. Killed before, the same
 * is done again.
 *
 * Draining (merge-leaf.c), for a leaf in use. Killed, what is left of the leaf stands on what has moved down.
 */
#include "vhd/merge.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "vhd/job.h"
#include "vhd/resize.h"

static const char *path_of(const struct merge *m, unsigned layer)
{
	return m->stack->layer[layer]->layer->path;
}

static bool same_folder(const char *a, const char *b)
{
	const char *x = strrchr(a, '/'), *y = strrchr(b, '/');

	return x && y && x - a == y - b && !memcmp(a, b, (size_t)(x - a));
}

/* Whether the target may have the name of the leaf. */
static int check_rename(const struct merge *m)
{
	if (m->options->layer != 0)
		return err_set(m->err, -EINVAL, "%s: only the leaf's name can go to what it is merged into", path_of(m, m->first));
	if (m->target->layer->raw)
		return err_set(m->err, -EINVAL, "%s: a raw disk, which cannot get the name of a VHD", path_of(m, m->into));
	if (!same_folder(path_of(m, m->first), path_of(m, m->into)))
		return err_set(m->err, -EXDEV, "%s: it lies in another folder than %s, so that it cannot get its name: merge it "
		               "without renaming, which a disk in use cannot be: close it first", path_of(m, m->into), path_of(m, m->first));
	return 0;
}

static int check(struct merge *m)
{
	const struct vhd_merge_options *o = m->options;
	const struct stack *stack = m->stack;

	if (stack->count < 2)
		return err_set(m->err, -EINVAL, "%s: a %s disk has no parent to be merged into", path_of(m, 0),
		               vhd_type_name(stack->layer[0]->layer->footer.type));
	m->first = o->layer;
	m->into = o->into ? o->into : o->layer + 1;
	if (m->first >= m->into || m->into >= stack->count)
		return err_set(m->err, -EINVAL, "%s: of its %u layers, layer %u cannot be merged into layer %u", path_of(m, 0),
		               stack->count, m->first, m->into);
	m->target = stack->layer[m->into];
	return 0;
}

/* The names that change are the files' own: not a symlink's, and the same however somebody has written the folder. */
static int resolve_names(struct merge *m)
{
	int rc = 0;

	for (unsigned i = m->first; rc == 0 && i <= m->into; i++) {
		struct layer *layer = m->stack->layer[i]->layer;
		char *real = realpath(layer->path, NULL);

		/* A file that has lost its name meanwhile is found to have when the name is to change. */
		if (!real || !strcmp(real, layer->path)) {
			free(real);
			continue;
		}
		pthread_mutex_lock(&m->image->lock);
		rc = layer_string_replace_take(layer, &layer->path, real);
		pthread_mutex_unlock(&m->image->lock);
		if (rc)
			rc = err_set(m->err, rc, "%s: no memory for its path", path_of(m, i));
	}
	return rc;
}

static int check_layers(struct merge *m)
{
	const struct vhd_merge_options *o = m->options;
	const struct stack *stack = m->stack;

	/* Where a merged layer ends before another, zeros show that nobody holds; a target that is too small will grow. */
	for (unsigned i = m->first; i < m->into; i++) {
		uint64_t size = atomic_load(&stack->layer[i]->size), below = atomic_load(&stack->layer[i + 1]->size);

		if (size != below && (i + 1 < m->into || size < below || m->target->layer->raw))
			return err_set(m->err, -EINVAL, "%s: a disk of %" PRIu64 " bytes, and %s one of %" PRIu64 ": give them the same "
			               "size before merging (vhd resize)", path_of(m, i + 1), below, path_of(m, i), size);
	}
	for (unsigned i = m->first; i <= m->into && !o->keep; i++) {
		int rc = merge_check_name(stack->layer[i]->layer, m->err);

		if (rc)
			return rc;
	}
	/* Each of them will be another disk, or none; but over the target the top one, if it stays, reads as before. */
	for (unsigned i = o->keep ? m->first + 1 : m->first; i <= m->into && !o->force; i++) {
		int rc = upkeep_refuse_children(m->image, stack->layer[i]->layer, m->err);

		if (rc)
			return rc;
	}
	return o->rename ? check_rename(m) : 0;
}

/* All that was merged before is known by the Unique Id (merge-end.c): then only the end is left to do. */
static bool is_merged(const struct merge *m)
{
	const struct layer *top = m->stack->layer[m->first]->layer, *target = m->target->layer;

	return !target->raw && !memcmp(top->footer.uuid, target->footer.uuid, sizeof(top->footer.uuid));
}

static uint64_t merged_bytes(const struct merge *m)
{
	uint64_t bytes = 0;

	pthread_mutex_lock(&m->image->lock);
	for (unsigned i = m->first; i < m->into; i++) {
		const struct layer *layer = m->stack->layer[i]->layer;
		const struct writer *w = m->stack->layer[i]->writer;

		bytes += (uint64_t)(w ? w->allocated : layer->allocated) * layer->block_size;
	}
	pthread_mutex_unlock(&m->image->lock);
	return bytes;
}

static int copy_all(struct merge *m)
{
	uint64_t size = atomic_load(&m->target->size);
	int rc = copier_copy(m->copier, m->stack, m->first, m->into, 0, size, m->err);

	return rc ? rc : copier_wait(m->copier, m->err);
}

static int flush(struct merge *m)
{
	int rc = worker_flush(m->image);

	return rc ? err_set(m->err, rc, "%s: making it durable failed: %s", m->target->layer->path, strerror(-rc)) : 0;
}

/* The target's file comes to rest, with the record; where it is the leaf now, it is opened again for later writes. */
static int rest(struct merge *m, struct image_layer *const *gone)
{
	int rc = upkeep_rest(m->image, m->target->writer);

	if (rc)
		return err_set(m->err, rc, "%s: writing to it failed: %s", m->target->layer->path, strerror(-rc));
	rc = merge_records_write(m, gone);
	if (rc == 0 && m->first == 0)
		rc = upkeep_raise(m->image, m->target, m->err);
	return rc;
}

/* The old leaf is written to no more. It is no part of the disk: a failure does not keep its writer alive. */
static int rest_old_leaf(struct merge *m, struct image_layer *leaf)
{
	int rc = leaf->writer ? upkeep_rest(m->image, leaf->writer) : 0;

	if (rc)
		upkeep_give_up(m->image, leaf->writer);
	return rc ? err_set(m->err, rc, "%s: writing to it failed: %s", leaf->layer->path, strerror(-rc)) : 0;
}

/* From when the target holds everything, durably. */
static int end(struct merge *m)
{
	struct image_layer **gone;
	int rc = is_merged(m) ? 0 : merge_take_identity(m);

	if (rc == 0)
		rc = merge_leave(m, &gone);
	if (rc)
		return rc;
	if (m->first == 0)
		rc = rest_old_leaf(m, gone[0]);
	if (rc == 0)
		rc = m->leaf_in_use ? merge_records_write(m, gone) : rest(m, gone);
	if (rc == 0 && m->first > 0)
		rc = merge_tie_upper(m);
	if (rc == 0)
		rc = merge_change_names(m, gone);
	/* The old leaf's file is still there, whole, and would hide what is written from now on. */
	if (rc && m->first == 0 && !m->leaf_in_use)
		atomic_store(&m->image->broken, rc);
	/*
	 * Whoever opens the disk finds the merged layers in the chain, where they would hide what another merge brings down
	 * past them; or finds a leaf gone that another merge removes.
	 */
	if (rc) {
		pthread_mutex_lock(&m->image->lock);
		m->image->merge_unfinished = true;
		pthread_mutex_unlock(&m->image->lock);
	}
	merge_retire(m, gone);
	return rc;
}

static int grow_target(struct merge *m)
{
	uint64_t size = atomic_load(&m->stack->layer[m->first]->size);
	int rc = 0;

	if (atomic_load(&m->target->size) < size)
		rc = resize_layer_grow(m->image, m->target, size, m->err);
	m->stack = image_stack(m->image);
	return rc;
}

/* After a failure: unless the target has become the leaf, it is written to no more. */
static void leave_target(struct merge *m)
{
	struct err *err = m->err;
	int rc = 0;

	if (!m->target->writer || m->stack->layer[0] == m->target)
		return;
	m->err = NULL; /* it says why */
	/* Of a leaf that was copied too: the parent holds blocks now that it is remembered not to hold. */
	if (m->first == 0)
		rc = merge_stop_drain(m);
	m->err = err;
	if (rc && !m->leaf_in_use)
		atomic_store(&m->image->broken, rc);
	if (rc == 0)
		(void)upkeep_rest(m->image, m->target->writer);
}

static int merge_range(struct merge *m)
{
	int rc = flush(m);

	if (rc == 0)
		rc = merge_records_begin(m);
	if (rc == 0)
		rc = upkeep_raise(m->image, m->target, m->err);
	if (rc) {
		merge_records_done(m);
		return rc;
	}
	rc = grow_target(m);
	job_total(m->options->job, merged_bytes(m));
	/* Draining counts by itself: a job that pauses must not do so while a block is claimed. */
	if (rc == 0)
		rc = copier_new(m->image, m->target, m->leaf_in_use ? NULL : m->options->job, &m->copier, m->err);
	if (rc == 0 && m->leaf_in_use)
		rc = merge_drain_leaf(m);
	/* A leaf may have been written to since a merge was cut off that had got as far as the identity. */
	else if (rc == 0 && (m->first == 0 || !is_merged(m)))
		rc = copy_all(m);
	if (m->copier) {
		uint64_t read, written;

		copier_count(m->copier, &read, &written);
		m->result.merged_bytes += read;
		m->result.written_bytes += written;
		copier_free(m->copier);
		m->copier = NULL;
	}
	if (rc == 0)
		rc = flush(m);
	if (rc == 0)
		rc = end(m);
	if (rc)
		leave_target(m);
	merge_records_done(m);
	return rc;
}

static int merge(struct merge *m)
{
	const struct vhd_merge_options *o = m->options;
	struct vhd_merge_options below = *o;
	int rc = check(m);

	if (rc == 0)
		rc = resolve_names(m);
	if (rc == 0 && merge_find_leftover(m)) {
		below.rename = false;
		m->options = &below;
		return merge_remove_leftover(m);
	}
	if (rc == 0)
		rc = check_layers(m);
	if (rc == 0 && o->idle)
		rc = upkeep_exclude_users(m->image, m->err);
	if (rc || o->layer > 0)
		return rc ? rc : merge_range(m);

	/* What lies between the leaf and the target is merged by copying first: so the leaf opens as long as it is there. */
	if (m->into > 1) {
		below.rename = false;
		m->options = &below;
		m->first = 1;
		rc = merge_range(m);
		m->options = o;
		m->first = 0;
		m->into = 1;
	}
	m->leaf_in_use = !o->idle;
	return rc ? rc : merge_range(m);
}

int vhd_merge(struct vhd *vhd, const struct vhd_merge_options *options, struct vhd_merge_result *ret, struct err *err)
{
	static const struct vhd_merge_options defaults;
	struct merge m = {.image = vhd->image, .options = options ? options : &defaults, .err = err};
	int rc = upkeep_begin(m.image, err);

	if (rc)
		return rc;
	m.stack = image_stack(m.image);
	if (m.image->merge_unfinished)
		rc = err_set(err, -ESTALE, "%s: the end of a merge failed: close the disk and open it again before the next",
		             path_of(&m, 0));
	else
		rc = merge(&m);
	upkeep_end(m.image);
	if (ret)
		*ret = m.result;
	return rc;
}
