/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/queue.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "common/iov.h"

unsigned epoch_enter(struct image_queue *q)
{
	unsigned parity = atomic_load_explicit(&q->image->epoch, memory_order_relaxed) & 1;

	/*
	 * Sequentially consistent, as are image_epoch_advance's reads: either that sees this count, or the lookups after
	 * this see every entry that was cleared before the epoch moved. A parity that is one epoch old only delays.
	 */
	atomic_fetch_add(&q->active[parity], 1);
	return parity;
}

void epoch_leave(struct image_queue *q, unsigned parity)
{
	atomic_fetch_sub_explicit(&q->active[parity], 1, memory_order_release);
}

void request_put(struct image_queue *q, struct blk_req *req, int result)
{
	if (result && !req->impl_result)
		req->impl_result = result;
	if (--req->impl_count > 0)
		return;
	if (req->impl_result == 0 && (req->flags & BLK_FUA) && (req->op == BLK_WRITE || req->op == BLK_WRITE_ZEROES) &&
	    !req->impl) {
		struct part *p = part_new(q, req, 0, 0);

		req->impl = req; /* the data is written; what is waited for now is the flush */
		if (p) {
			part_wait_for_flush(p);
			return;
		}
	}
	req->next = NULL;
	*q->finished_tail = req;
	q->finished_tail = &req->next;
	if (!q->at_work) { /* in the poll of another queue on this ring, maybe the last before its thread sleeps */
		q->unheard++;
		q->ring->unheard++;
	}
}

struct part *part_new(struct image_queue *q, struct blk_req *req, uint64_t offset, uint64_t length)
{
	struct part *p = q->free_parts;

	if (p) {
		q->free_parts = p->next;
	} else {
		p = malloc(sizeof(*p));
		if (!p) {
			if (!req->impl_result)
				req->impl_result = -ENOMEM;
			return NULL;
		}
		p->queue = q;
		p->iov = p->inline_iov;
		p->iov_capacity = sizeof(p->inline_iov) / sizeof(*p->inline_iov);
	}
	req->impl_count++;
	p->req = req;
	p->offset = offset;
	p->length = length;
	p->pending = NULL;
	p->carries_bitmap = false;
	p->buffer = NULL;
	p->epoch = epoch_enter(q);
	return p;
}

/* What no write may cross: a block of whichever layer it may go to. 0: nothing. */
static uint64_t write_unit(const struct image_queue *q, const struct stack *stack)
{
	uint64_t unit, second;

	if (q->target)
		return q->target->layer->block_size;
	unit = stack->layer[0]->layer->block_size;
	if (!stack->write_through)
		return unit;
	second = stack->layer[1]->layer->block_size;
	return second && second < unit ? second : unit;
}

/* Upkeep may work on what lies beyond the disk's end, as far as there are blocks. */
static uint64_t queue_reach(const struct image_queue *q)
{
	const struct tables *t = q->target ? layer_tables(q->target) : NULL;

	return t ? (uint64_t)t->count << q->target->layer->block_shift : atomic_load(&q->image->size);
}

void range_split(struct image_queue *q, struct blk_req *req, uint64_t offset, uint64_t length,
                 bool (*start)(struct part *))
{
	while (length > 0) {
		struct part *p = part_new(q, req, offset, length);
		uint64_t n, unit;

		if (!p)
			return;
		p->stack = image_stack(q->image);
		unit = write_unit(q, p->stack);
		n = unit ? unit - (offset & (unit - 1)) : length;
		if (n > length)
			n = length;
		p->length = n;
		/* The disk may have become smaller: who sees the old size here, inside the epoch, is waited for (vhd_resize). */
		if (!range_inside(offset, n, queue_reach(q)))
			part_end(p, -EINVAL);
		else
			while (!start(p))
				;
		offset += n;
		length -= n;
	}
}

void part_choose_target(struct part *p)
{
	struct image_queue *q = p->queue;
	struct image_layer *l = q->target ? q->target : p->stack->layer[0];

	if (!q->target && p->stack->write_through) {
		const struct tables *t = layer_tables(l);

		if (atomic_load(&t->bat[p->offset >> l->layer->block_shift]) == VHD_BAT_UNALLOCATED)
			l = p->stack->layer[1];
	}
	p->layer = l;
	if (layer_tables(l))
		p->block = (uint32_t)(p->offset >> l->layer->block_shift);
}

static void part_free(struct part *p)
{
	struct image_queue *q = p->queue;

	if (p->epoch != EPOCH_NONE)
		epoch_leave(q, p->epoch);
	p->next = q->free_parts;
	q->free_parts = p;
}

void part_pause(struct part *p)
{
	epoch_leave(p->queue, p->epoch);
	p->epoch = EPOCH_NONE;
}

void part_end(struct part *p, int result)
{
	struct image_queue *q = p->queue;
	struct blk_req *req = p->req;

	part_free(p);
	request_put(q, req, result);
}

void part_split(struct part *p)
{
	part_free(p);
}

static int part_reserve_iov(struct part *p, int n)
{
	struct iovec *more;

	if (n <= p->iov_capacity)
		return 0;
	more = malloc(sizeof(*more) * (size_t)n);
	if (!more)
		return -ENOMEM;
	if (p->iov != p->inline_iov)
		free(p->iov);
	p->iov = more;
	p->iov_capacity = n;
	return 0;
}

/* The memory of the part's range, behind `head` elements that the caller fills. */
static int part_slice(struct part *p, int head)
{
	const struct blk_req *req = p->req;
	uint64_t into = p->offset - req->offset;
	int rc = part_reserve_iov(p, head + (req->iovcnt == 1 ? 1 : iov_slice_count(req->iov, into, p->length)));

	if (rc)
		return rc;
	p->io.iov = p->iov;
	p->io.iovcnt = head + iov_slice(req->iov, into, p->length, p->iov + head);
	return 0;
}

int queue_slot(struct image_queue *q, struct image_file *file)
{
	int slot = q->slots[file->id];

	if (slot < 0) {
		slot = ring_attach(q->ring, &file->store->file);
		if (slot >= 0)
			q->slots[file->id] = slot;
	}
	return slot;
}

static void part_submit(struct part *p, struct image_layer *layer)
{
	struct image_queue *q = p->queue;

	p->layer = layer;
	p->io.slot = queue_slot(q, atomic_load(&layer->file));
	if (p->io.slot < 0)
		p->io.done(&p->io, p->io.slot);
	else
		ring_submit(q->ring, &p->io);
}

void part_transfer(struct part *p, enum ring_op op, struct image_layer *layer, uint64_t file_offset,
                   void (*done)(struct ring_io *, int))
{
	p->file_offset = file_offset;
	p->layer = layer;
	p->io.op = (uint8_t)op;
	p->io.offset = file_offset;
	p->io.length = p->length;
	p->io.iov = p->req->iov;
	p->io.iovcnt = p->req->iovcnt;
	p->io.done = done;
	if (op != RING_PUNCH && p->length != p->req->length) {
		int rc = part_slice(p, 0);

		if (rc) {
			done(&p->io, rc);
			return;
		}
	}
	part_submit(p, layer);
}

void part_write_with_bitmap(struct part *p, void (*done)(struct ring_io *, int))
{
	const struct writer *w = p->layer->writer;
	int rc = part_slice(p, 1);

	if (rc) {
		done(&p->io, rc);
		return;
	}
	p->carries_bitmap = true;
	p->iov[0] = (struct iovec){w->full_bitmap, w->full_bitmap_bytes};
	p->io.op = RING_WRITE;
	p->io.offset = slot_payload(p->layer->layer, p->slot) - w->full_bitmap_bytes;
	p->io.length = p->length + w->full_bitmap_bytes;
	p->io.done = done;
	part_submit(p, p->layer);
}

void part_write_zeros(struct part *p, void (*done)(struct ring_io *, int))
{
	uint64_t n = p->length - p->zeros_written;

	if (n > IMAGE_ZEROS)
		n = IMAGE_ZEROS;
	p->inline_iov[0] = (struct iovec){p->queue->image->zeros, n};
	p->io.op = RING_WRITE;
	p->io.iov = p->inline_iov;
	p->io.iovcnt = 1;
	p->io.offset = p->file_offset + p->zeros_written;
	p->io.length = n;
	p->io.done = done;
	p->zeros_written += n;
	part_submit(p, p->layer);
}

void parts_post(struct part *list, int result)
{
	while (list) {
		struct part *next = list->next;

		ring_post(list->queue->ring, &list->io, result);
		list = next;
	}
}

void part_restart(struct ring_io *io, int result)
{
	struct part *p = (struct part *)io;
	struct image_queue *q = p->queue;
	struct blk_req *req = p->req;
	uint64_t offset = p->offset, length = p->length;

	if (result) {
		part_end(p, result);
		return;
	}
	part_split(p);
	if (req->op == BLK_WRITE)
		write_range(q, req, offset, length);
	else
		zero_range(q, req, offset, length);
	request_put(q, req, 0);
}

static void flush_done(struct ring_io *io, int result)
{
	part_end((struct part *)io, result);
}

void part_wait_for_flush(struct part *p)
{
	struct image *image = p->queue->image;

	part_pause(p);
	p->io.done = flush_done;
	p->next = NULL;
	pthread_mutex_lock(&image->lock);
	*image->flush_waiters_tail = p;
	image->flush_waiters_tail = &p->next;
	worker_wake(image);
	pthread_mutex_unlock(&image->lock);
}

static int request_check(const struct image_queue *q, const struct blk_req *req)
{
	const struct image *image = q->image;

	if (req->op != BLK_READ && req->op != BLK_FLUSH && !image->writable)
		return -EROFS;
	if (req->op == BLK_FLUSH)
		return 0;
	if (((req->offset | req->length) & (image->request_align - 1)) || req->length == 0 ||
	    !range_inside(req->offset, req->length, queue_reach(q)))
		return -EINVAL;
	/* A raw file may be written on after a failed sync; a VHD's metadata would no longer match. */
	if (req->op != BLK_READ && atomic_load_explicit(&image->broken, memory_order_relaxed))
		return -EROFS;
	return 0;
}

/* Files have gone out of use, and nothing on them is in flight. */
static void follow_generation(struct image_queue *q)
{
	struct image *image = q->image;
	unsigned generation;

	pthread_mutex_lock(&image->lock);
	generation = atomic_load(&image->generation);
	for (struct image_file *f = image->files_leaving; f; f = f->next) {
		if (q->slots[f->id] < 0)
			continue;
		ring_detach(q->ring, q->slots[f->id]);
		q->slots[f->id] = -1;
	}
	atomic_store(&q->generation, generation);
	worker_wake(image);
	pthread_mutex_unlock(&image->lock);
}

static inline void look_at_generation(struct image_queue *q)
{
	if (atomic_load_explicit(&q->image->generation, memory_order_relaxed) !=
	    atomic_load_explicit(&q->generation, memory_order_relaxed))
		follow_generation(q);
}

static void image_submit(struct blk_queue *queue, struct blk_req *req)
{
	struct image_queue *q = (struct image_queue *)queue;
	int rc = request_check(q, req);
	bool was_at_work = q->at_work;
	struct part *p;

	look_at_generation(q);
	q->at_work = true;
	req->impl_count = 1;
	req->impl_result = 0;
	req->impl = NULL;
	if (rc == 0) {
		switch ((enum blk_op)req->op) {
		case BLK_READ:
			read_range(q, req, req->offset, req->length);
			break;
		case BLK_WRITE:
			write_range(q, req, req->offset, req->length);
			break;
		case BLK_DISCARD:
		case BLK_WRITE_ZEROES:
			zero_range(q, req, req->offset, req->length);
			break;
		case BLK_FLUSH:
			if (!q->image->writable)
				break;
			p = part_new(q, req, 0, 0);
			if (p)
				part_wait_for_flush(p);
			break;
		default:
			rc = -EINVAL;
		}
	}
	request_put(q, req, rc);
	q->at_work = was_at_work;
}

/* Not what these submit and is finished at once: it could go on forever. */
static unsigned run_finished(struct image_queue *q)
{
	struct blk_req *list = q->finished;
	unsigned n = 0;

	q->finished = NULL;
	q->finished_tail = &q->finished;
	q->ring->unheard -= q->unheard;
	q->unheard = 0;
	while (list) {
		struct blk_req *req = list;

		list = req->next;
		req->done(req, req->impl_result);
		n++;
	}
	return n;
}

static int image_poll(struct blk_queue *queue, unsigned min_done, int timeout_ms)
{
	struct image_queue *q = (struct image_queue *)queue;
	unsigned done, finished;
	bool again = min_done == 0;
	int rc;

	look_at_generation(q);
	q->at_work = true;
	done = run_finished(q);
	for (;;) {
		bool waits = done < min_done && timeout_ms != 0 && !q->finished;

		rc = ring_poll(q->ring, waits ? 1 : 0, waits ? timeout_ms : 0);
		if (rc < 0)
			break;
		finished = run_finished(q);
		done += finished;
		/* What `done` submitted must have started before the caller sleeps on the descriptor. */
		if (finished && again) {
			again = false;
			continue;
		}
		if (done >= min_done || timeout_ms == 0 || (waits && rc == 0 && timeout_ms > 0))
			break;
	}
	if (min_done == 0 && rc >= 0 && (finished || q->finished || q->ring->unheard))
		ring_nudge(q->ring);
	q->at_work = false;
	return rc < 0 ? rc : (int)done;
}

static void image_queue_free(struct blk_queue *queue)
{
	struct image_queue *q = (struct image_queue *)queue;
	struct image *image = q->image;

	pthread_mutex_lock(&image->lock);
	for (struct image_queue **at = &image->queues; *at; at = &(*at)->next) {
		if (*at == q) {
			*at = q->next;
			break;
		}
	}
	pthread_mutex_unlock(&image->lock);
	while (q->free_parts) {
		struct part *p = q->free_parts;

		q->free_parts = p->next;
		if (p->iov != p->inline_iov)
			free(p->iov);
		free(p);
	}
	for (unsigned i = 0; i < IMAGE_FILES; i++)
		if (q->slots[i] >= 0)
			ring_detach(q->ring, q->slots[i]);
	if (q->own_ring)
		ring_free(q->ring);
	free(q);
}

static const struct blk_queue_ops image_queue_ops = {
	.submit = image_submit,
	.poll = image_poll,
	.free = image_queue_free,
};

int image_queue_new(struct blk *blk, struct ring *ring, struct blk_queue **ret, struct err *err)
{
	struct image *image = (struct image *)blk;
	struct image_queue *q = aligned_alloc(64, round_up(sizeof(*q), 64)); /* `active` shares no cache line */
	int rc = 0;

	if (!q)
		return err_set(err, -ENOMEM, "no memory for an I/O queue");
	memset(q, 0, sizeof(*q));
	for (unsigned i = 0; i < IMAGE_FILES; i++)
		q->slots[i] = -1;
	q->base.ops = &image_queue_ops;
	q->base.blk = blk;
	q->image = image;
	q->finished_tail = &q->finished;
	q->ring = ring;
	if (!ring) {
		struct store *store;

		pthread_mutex_lock(&image->lock);
		store = image_leaf(image)->store;
		rc = store->ops->ring_new(store, &q->ring, err);
		pthread_mutex_unlock(&image->lock);
		q->own_ring = rc == 0;
	}
	if (rc) {
		free(q);
		return rc;
	}
	pthread_mutex_lock(&image->lock);
	atomic_init(&q->generation, atomic_load(&image->generation));
	if (image_is_closed_to_caller(image))
		rc = err_set(err, -EBUSY, "%s: the disk is being merged or shrunk, and cannot be used meanwhile",
		             image_leaf(image)->path);
	for (unsigned i = 0; rc >= 0 && i < image_stack(image)->count; i++)
		rc = queue_slot(q, atomic_load(&image_stack(image)->layer[i]->file));
	if (rc < 0 && rc != -EBUSY)
		err_set(err, rc, "the I/O ring cannot take the chain's %u files: %s", image_stack(image)->count, strerror(-rc));
	q->next = image->queues;
	image->queues = q;
	pthread_mutex_unlock(&image->lock);
	if (rc < 0) {
		image_queue_free(&q->base);
		return rc;
	}
	q->base.fd = q->ring->fd;
	*ret = &q->base;
	return 0;
}
