/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Another size for an open disk. What each kind of disk does, in which order, is in its own file; docs/durability.md,
 * "Another size", says why in that order.
 */
#include "vhd/resize.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "vhd/children.h"

int resize_err(const struct resize *r, int rc, const char *what)
{
	if (rc == -ECANCELED)
		return err_set(r->err, rc, "%s: cancelled; it keeps its size of %" PRIu64 " bytes", r->layer->path, r->from);
	return err_set(r->err, rc, "%s: cannot be %s: %s; it keeps its size of %" PRIu64 " bytes", r->layer->path, what,
	               strerror(-rc), r->from);
}

int resize_would_lose(const struct resize *r)
{
	return err_set(r->err, VHD_E_WOULD_LOSE, "%s: %" PRIu64 " bytes beyond %" PRIu64 " hold data, which would be lost: make "
	               "the partitions and file systems on it smaller first", r->layer->path, r->cut_bytes,
	               r->to);
}

void resize_publish(struct resize *r, uint64_t size)
{
	pthread_mutex_lock(&r->image->lock);
	atomic_store(&r->l->size, size);
	atomic_store(&r->image->size, size);
	pthread_mutex_unlock(&r->image->lock);
}

void resize_withdraw(struct resize *r)
{
	/* Sequentially consistent, as is range_split's look: who saw the old size is in an epoch that is waited for. */
	pthread_mutex_lock(&r->image->lock);
	atomic_store(&r->image->size, r->to);
	pthread_mutex_unlock(&r->image->lock);
	image_wait_for_epochs(r->image);
}

/*
 * Some programs write the largest geometry for any size, since QEMU believes Current Size then, whoever made the disk:
 * that stays.
 */
static bool geometry_is_no_size(const struct resize *r)
{
	const struct vhd_geometry largest = geometry_for_size(VHD_MAX_SIZE), usual = geometry_for_size(r->from);
	const struct vhd_geometry *now = &r->layer->footer.geometry;

	return memcmp(now, &largest, sizeof(largest)) == 0 && memcmp(now, &usual, sizeof(usual)) != 0;
}

struct footer resize_footer(const struct resize *r, uint64_t size, enum resize_mark mark)
{
	struct footer footer = r->layer->footer;

	footer.current_size = size;
	if (!geometry_is_no_size(r))
		footer.geometry = geometry_for_size(size);
	resize_mark_set(&footer, mark, 0, 0);
	return footer;
}

int resize_write_sector(struct image *image, struct writer *w, const void *sector, const void *before,
                        uint64_t offset)
{
	struct store *store = w->layer->layer->store;
	int rc = atomic_load(&image->broken);

	if (rc)
		return rc;
	rc = store->ops->write(store, sector, VHD_SECTOR, offset);
	if (rc && before && store->ops->write(store, before, VHD_SECTOR, offset))
		atomic_store(&image->broken, rc);
	return rc;
}

int resize_put_footer(struct resize *r, const struct footer *footer, uint64_t offset, enum store_barrier why)
{
	struct footer_disk now, before;
	int rc;

	footer_encode(footer, &now);
	footer_encode(&r->layer->footer, &before);
	rc = resize_write_sector(r->image, r->writer, &now, &before, offset);
	if (rc == 0)
		rc = writer_sync(r->image, r->writer, why);
	if (rc)
		return rc;
	pthread_mutex_lock(&r->image->lock);
	r->layer->footer = *footer;
	r->layer->footer.raw = now;
	r->layer->size = footer->current_size;
	pthread_mutex_unlock(&r->image->lock);
	return 0;
}

static int size_check(const struct resize *r)
{
	const char *path = r->layer->path;
	uint32_t align = r->image->request_align;

	if (r->to == 0 || r->to % VHD_SECTOR)
		return err_set(r->err, -EINVAL, "%s: a size of %" PRIu64 " bytes is not a multiple of 512", path, r->to);
	if (r->to > VHD_MAX_SIZE)
		return err_set(r->err, -EINVAL, "%s: a size of %" PRIu64 " bytes is over the format's limit of 2040 GiB", path,
		               r->to);
	if (r->to % align)
		return err_set(r->err, -EINVAL, "%s: it is open for direct I/O, which needs a size in multiples of %" PRIu32
		               " bytes here, and %" PRIu64 " is none: close it first", path, align, r->to);
	return 0;
}

/* What others count on. */
static int dependants_check(const struct resize *r)
{
	const char *path = r->layer->path;
	struct children children;
	int rc;

	if (r->force)
		return 0;
	if (r->layer->footer.saved_state)
		return err_set(r->err, -EPERM, "%s: it belongs to a virtual machine in a saved state, which would find another "
		               "disk when it goes on: resume and shut down that machine first, or use force", path);
	rc = children_find(r->layer, path, &children, r->err);
	if (rc)
		return rc;
	if (children.count > 0)
		rc = err_set(r->err, VHD_E_HAS_CHILDREN, "%s: %u differencing disk%s on it (%s%s), and a parent must not change: "
		             "resize the child instead, or merge it first", path, children.count,
		             children.count == 1 ? " stands" : "s stand", children.paths[0],
		             children.count > 1 ? ", ..." : "");
	children_done(&children);
	return rc;
}

static int resize(struct resize *r)
{
	bool grows = r->to > r->from;
	int rc = size_check(r);

	if (rc == 0 && r->to != r->from)
		rc = dependants_check(r);
	if (rc)
		return rc;
	if (r->layer->footer.type == VHD_FIXED)
		return grows ? resize_fixed_grow(r) : resize_fixed_shrink(r);
	if (r->to == r->from)
		return 0;
	return grows ? resize_sparse_grow(r) : resize_sparse_shrink(r);
}

int resize_layer_grow(struct image *image, struct image_layer *l, uint64_t size, struct err *err)
{
	struct resize r = {.image = image, .l = l, .layer = l->layer, .writer = l->writer, .to = size, .err = err};
	int rc;

	r.from = atomic_load(&l->size);
	rc = size_check(&r);
	if (rc)
		return rc;
	return r.layer->footer.type == VHD_FIXED ? resize_fixed_grow(&r) : resize_sparse_grow(&r);
}

int vhd_resize(struct vhd *vhd, uint64_t size_bytes, const struct vhd_resize_options *options,
               struct vhd_resize_result *ret, struct err *err)
{
	static const struct vhd_resize_options defaults;
	struct image *image = vhd->image;
	struct resize r = {.image = image, .to = size_bytes, .err = err};
	int rc;

	if (!options)
		options = &defaults;
	if (ret)
		*ret = (struct vhd_resize_result){0};
	rc = upkeep_begin(image, err);
	if (rc)
		return rc;
	r.l = image_stack(image)->layer[0];
	r.layer = r.l->layer;
	r.writer = r.l->writer;
	r.from = atomic_load(&image->size);
	r.force = options->force;
	r.job = options->job;
	rc = resize(&r);
	upkeep_end(image);
	if (ret)
		ret->cut_bytes = r.cut_bytes;
	if (rc == 0 && r.to != r.from && vhd->resized)
		vhd->resized(vhd->resized_user, r.to);
	return rc;
}
