/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Fixed disks. Their only footer is at the file's end, behind the content, so the end cannot move without a moment
 * at which the file ends in no footer. For that moment the old one is marked: the file's size then tells where it is
 * (resize-mark.h).
 */
#include "vhd/resize.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define PROVIDE_CHUNK (UINT64_C(256) << 20)
#define LOOK_CHUNK (1u << 20)

struct fixed_call {
	struct resize *resize;
	uint64_t footer_at; /* of the one that counts */
};

static int cut_and_sync(struct resize *r, uint64_t size, enum store_barrier why)
{
	struct store *store = r->layer->store;
	int rc = store->ops->truncate(store, size);

	return rc ? rc : writer_sync(r->image, r->writer, why);
}

/* The footer behind the disk's end, and the file cut there. Worker thread. */
static int settle(void *arg)
{
	struct resize *r = ((struct fixed_call *)arg)->resize;

	r->layer->footer_source = FOOTER_FROM_COPY; /* not where it should be */
	return writer_settle(r->image, r->writer);
}

/* From a footer at footer_at to one, with the same size in it, at `to`. Worker thread. */
static int move_end(void *arg)
{
	struct fixed_call *c = arg;
	struct resize *r = c->resize;
	struct store *store = r->layer->store;
	uint64_t end = r->to + VHD_SECTOR, between = growing_file_size(c->footer_at, end);
	struct footer plain = resize_footer(r, r->from, RESIZE_MARK_NONE), marked = plain;
	struct footer_disk disk;
	int rc, undone;

	plain.geometry = marked.geometry = r->layer->footer.geometry;
	resize_mark_set(&marked, RESIZE_MARK_GROWING, c->footer_at, between);
	rc = resize_put_footer(r, &marked, c->footer_at, STORE_BARRIER_MARK);
	if (rc)
		return rc;
	footer_encode(&plain, &disk);
	rc = store->ops->truncate(store, between);
	if (rc == 0)
		rc = store->ops->write(store, &disk, sizeof(disk), r->to);
	if (rc == 0)
		rc = writer_sync(r->image, r->writer, STORE_BARRIER_EXTEND);
	if (rc == 0)
		rc = cut_and_sync(r, end, STORE_BARRIER_FIT);
	if (rc == 0) {
		pthread_mutex_lock(&r->image->lock);
		r->layer->footer = plain;
		r->layer->footer.raw = disk;
		pthread_mutex_unlock(&r->image->lock);
		r->layer->footer_source = FOOTER_AT_END;
		c->footer_at = r->to;
		return 0;
	}
	if (atomic_load(&r->image->broken))
		return rc;
	/* Not without the mark before the file ends behind it again. */
	undone = cut_and_sync(r, c->footer_at + VHD_SECTOR, STORE_BARRIER_CLOSE);
	if (undone == 0)
		undone = resize_put_footer(r, &plain, c->footer_at, STORE_BARRIER_FOOTER);
	if (undone)
		atomic_store(&r->image->broken, undone);
	return rc;
}

static int sync_clear(void *arg)
{
	struct resize *r = ((struct fixed_call *)arg)->resize;

	return writer_sync(r->image, r->writer, STORE_BARRIER_CLEAR);
}

static int switch_size(void *arg)
{
	struct fixed_call *c = arg;
	struct resize *r = c->resize;
	enum resize_mark mark = r->to < r->from ? RESIZE_MARK_SHRINKING : RESIZE_MARK_NONE;
	struct footer footer = resize_footer(r, r->to, mark);

	return resize_put_footer(r, &footer, c->footer_at, STORE_BARRIER_SIZE);
}

static int clear_mark(void *arg)
{
	struct resize *r = ((struct fixed_call *)arg)->resize;

	pthread_mutex_lock(&r->image->lock);
	resize_mark_set(&r->layer->footer, RESIZE_MARK_NONE, 0, 0);
	pthread_mutex_unlock(&r->image->lock);
	return settle(arg);
}

/* Zeros, with space behind them, from the disk's end to its new end. */
static int provide(struct resize *r, uint64_t used_end)
{
	struct store *store = r->layer->store;
	uint64_t old = used_end < r->to ? used_end : r->to;
	int rc = 0;

	/* What lies between the disk and its footer, and the footer itself. */
	for (uint64_t at = r->from, n; rc == 0 && at < old; at += n) {
		n = old - at < PROVIDE_CHUNK ? old - at : PROVIDE_CHUNK;
		rc = store->ops->punch(store, at, n);
	}
	for (uint64_t at = r->from, n; rc == 0 && at < r->to; at += n) {
		n = r->to - at < PROVIDE_CHUNK ? r->to - at : PROVIDE_CHUNK;
		rc = store->ops->allocate(store, at, n);
		if (rc == 0)
			rc = job_step(r->job, n);
	}
	return rc;
}

static int footer_place(const struct resize *r, uint64_t *ret)
{
	struct store *store = r->layer->store;
	uint64_t size;
	int rc = store->ops->size(store, &size);

	*ret = size - (r->layer->footer_source == FOOTER_AT_END_511 ? VHD_SECTOR - 1 : VHD_SECTOR);
	return rc;
}

int resize_fixed_grow(struct resize *r)
{
	struct fixed_call call = {.resize = r};
	uint64_t used_end;
	int rc = footer_place(r, &call.footer_at);

	if (rc)
		return resize_err(r, rc, "made larger");
	used_end = call.footer_at + VHD_SECTOR;
	job_total(r->job, r->to - r->from);
	rc = job_step(r->job, 0);
	if (rc == 0 && call.footer_at < r->to)
		rc = worker_call(r->image, move_end, &call);
	if (rc)
		return resize_err(r, rc, "made larger");
	rc = provide(r, call.footer_at == r->to ? used_end : call.footer_at);
	if (rc == 0)
		rc = worker_call(r->image, sync_clear, &call);
	if (rc == 0)
		rc = worker_call(r->image, switch_size, &call);
	if (rc) {
		/* The footer with the old size goes back to where the disk ends. */
		(void)worker_call(r->image, settle, &call);
		return resize_err(r, rc, "made larger");
	}
	resize_publish(r, r->to);
	/* There was more room behind the disk than it took: that goes. */
	if (call.footer_at != r->to)
		rc = worker_call(r->image, settle, &call);
	return rc ? err_set(r->err, rc, "%s: it has its new size, but its file cannot be cut behind that: %s",
	                    r->layer->path, strerror(-rc))
	          : 0;
}

static bool is_zero(const uint8_t *bytes, size_t length)
{
	return bytes[0] == 0 && memcmp(bytes, bytes + 1, length - 1) == 0;
}

/* A fixed disk has all its space; what counts as data is what is not zero. */
static int count_data(struct resize *r)
{
	struct store *store = r->layer->store;
	uint8_t *buffer;
	int rc = 0;

	r->cut_bytes = 0;

	if (posix_memalign((void **)&buffer, 4096, LOOK_CHUNK))
		return -ENOMEM;
	for (uint64_t at = r->to; rc == 0 && at < r->from; at += LOOK_CHUNK) {
		size_t n = r->from - at < LOOK_CHUNK ? (size_t)(r->from - at) : LOOK_CHUNK;

		rc = store->ops->read(store, buffer, n, at);
		for (size_t s = 0; rc == 0 && s < n; s += VHD_SECTOR)
			if (!is_zero(buffer + s, VHD_SECTOR))
				r->cut_bytes += VHD_SECTOR;
		if (rc == 0)
			rc = job_step(r->job, n);
	}
	free(buffer);
	return rc;
}

/* 0; VHD_E_WOULD_LOSE, -ECANCELED or another -errno with a sentence. */
static int look_for_data(struct resize *r)
{
	int rc = count_data(r);

	if (rc)
		return resize_err(r, rc, "made smaller");
	return r->cut_bytes > 0 && !r->force ? resize_would_lose(r) : 0;
}

int resize_fixed_shrink(struct resize *r)
{
	struct fixed_call call = {.resize = r};
	int rc = footer_place(r, &call.footer_at);

	if (rc)
		return resize_err(r, rc, "made smaller");
	/* The same size again: a resize that was interrupted, or others, may have left space behind the disk. */
	if (r->to == r->from && call.footer_at == r->to)
		return 0;
	job_total(r->job, (r->force ? 1 : 2) * (r->from - r->to));
	/* A mistake must not disturb who is at work there: looked at first, and again when nobody can write there any more. */
	rc = r->force ? 0 : look_for_data(r);
	if (rc)
		return rc;
	resize_withdraw(r);
	rc = look_for_data(r);
	if (rc == 0) {
		rc = worker_call(r->image, switch_size, &call);
		if (rc)
			resize_err(r, rc, "made smaller");
	}
	if (rc) {
		resize_publish(r, r->from);
		return rc;
	}
	resize_publish(r, r->to);
	rc = worker_call(r->image, clear_mark, &call);
	return rc ? err_set(r->err, rc, "%s: it has its new size, but its file cannot be cut behind that: %s",
	                    r->layer->path, strerror(-rc))
	          : 0;
}
