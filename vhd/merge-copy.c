/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading blocks, writing does not: while the next piece is read the last ones are on their way. Zeros are not written
 * but made, which takes no space.
 */
#include "vhd/merge-copy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vhd/job.h"
#include "vhd/queue.h"

#define PIECES 8u
#define PIECE_BYTES (1u << 20)

struct piece {
	struct blk_req req; /* first */
	struct copier *copier;
	struct iovec iov;
	uint8_t *memory;
	struct piece *next;
};

struct copier {
	struct image *image;
	struct image_layer *target;
	struct vhd_job *job;
	struct blk_queue *queue;
	struct piece piece[PIECES];
	struct piece *free;
	unsigned in_flight;
	int result;
	uint64_t read_bytes, written_bytes;
};

static void piece_done(struct blk_req *req, int result)
{
	struct piece *piece = (struct piece *)req;
	struct copier *c = piece->copier;

	if (result && !c->result)
		c->result = result;
	piece->next = c->free;
	c->free = piece;
	c->in_flight--;
}

int copier_new(struct image *image, struct image_layer *target, struct vhd_job *job, struct copier **ret,
               struct err *err)
{
	struct copier *c = calloc(1, sizeof(*c));
	int rc;

	if (!c)
		return err_set(err, -ENOMEM, "no memory to copy blocks");
	c->image = image;
	c->target = target;
	c->job = job;
	for (unsigned i = 0; i < PIECES; i++) {
		struct piece *piece = &c->piece[i];

		piece->copier = c;
		piece->next = c->free;
		c->free = piece;
		if (posix_memalign((void **)&piece->memory, 4096, PIECE_BYTES)) {
			piece->memory = NULL;
			copier_free(c);
			return err_set(err, -ENOMEM, "no memory to copy blocks");
		}
	}
	rc = blk_queue_new(&image->blk, NULL, &c->queue, err);
	if (rc) {
		c->queue = NULL;
		copier_free(c);
		return rc;
	}
	((struct image_queue *)c->queue)->target = target;
	*ret = c;
	return 0;
}

void copier_free(struct copier *c)
{
	if (!c)
		return;
	if (c->queue)
		(void)copier_wait(c, NULL);
	blk_queue_free(c->queue);
	for (unsigned i = 0; i < PIECES; i++)
		free(c->piece[i].memory);
	free(c);
}

/* The ring itself fails only if the kernel refuses to wait: what is in flight still owns its memory. */
static void wait_for_one(struct copier *c)
{
	(void)blk_queue_poll(c->queue, 1, -1);
}

int copier_wait(struct copier *c, struct err *err)
{
	while (c->in_flight > 0)
		wait_for_one(c);
	if (c->result)
		err_set(err, c->result, "%s: writing to it failed: %s", c->target->layer->path, strerror(-c->result));
	return c->result;
}

static bool is_zero(const uint8_t *bytes, uint64_t length)
{
	return bytes[0] == 0 && !memcmp(bytes, bytes + 1, length - 1);
}

static int copy_piece(struct copier *c, const struct map_extent *e, uint64_t offset, struct err *err)
{
	struct store *store = atomic_load(&e->layer->file)->store;
	struct piece *piece;
	int rc;

	while (!c->free)
		wait_for_one(c);
	if (c->result)
		return copier_wait(c, err);
	piece = c->free;
	rc = store->ops->read(store, piece->memory, e->length, e->file_offset);
	if (rc)
		return err_set(err, rc == -ENODATA ? -EIO : rc, "%s: reading %llu bytes at offset %llu failed: %s",
		               e->layer->layer->path, (unsigned long long)e->length, (unsigned long long)e->file_offset,
		               rc == -ENODATA ? "the file ends before" : strerror(-rc));
	c->free = piece->next;
	c->in_flight++;
	c->read_bytes += e->length;
	piece->iov = (struct iovec){piece->memory, e->length};
	piece->req = (struct blk_req){
		.op = BLK_WRITE,
		.offset = offset,
		.length = e->length,
		.iov = &piece->iov,
		.iovcnt = 1,
		.done = piece_done,
	};
	if (is_zero(piece->memory, e->length))
		piece->req.op = BLK_WRITE_ZEROES;
	else
		c->written_bytes += e->length;
	blk_submit(c->queue, &piece->req);
	(void)blk_queue_poll(c->queue, 0, 0);
	return job_step(c->job, e->length) ? err_set(err, -ECANCELED, "%s: cancelled", c->target->layer->path) : 0;
}

int copier_copy(struct copier *c, const struct stack *stack, unsigned first, unsigned end, uint64_t offset,
                uint64_t length, struct err *err)
{
	uint64_t stop = offset + length;
	int rc = 0;

	while (offset < stop && rc == 0) {
		uint64_t n = stop - offset < PIECE_BYTES ? stop - offset : PIECE_BYTES;
		unsigned epoch = epoch_enter((struct image_queue *)c->queue);
		struct map_extent e;

		/* A bitmap of the leaf may be retired by a commit just now. Where the extent lies is the caller's promise. */
		stack_map(stack, first, end, offset, n, false, &e);
		epoch_leave((struct image_queue *)c->queue, epoch);
		if (e.kind == MAP_NEED_BITMAP) {
			rc = image_load_bitmap(c->image, e.layer, e.block, e.slot, err);
			continue;
		}
		if (e.kind == MAP_DATA)
			rc = copy_piece(c, &e, offset, err);
		offset += e.length;
	}
	return rc;
}

void copier_count(const struct copier *c, uint64_t *ret_read, uint64_t *ret_written)
{
	*ret_read = c->read_bytes;
	*ret_written = c->written_bytes;
}
