/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef COMMON_BLK_H
#define COMMON_BLK_H

/*
 * A disk, as devices, mounts, commands and benchmarks see it: the seam of the whole system. The VHD engine is one
 * implementation (vhd_blk() in vhd.h), a raw file another (blk-file.h), test fakes the rest.
 *
 * Threads. A struct blk may be used from any thread. I/O goes through queues: a queue belongs to the one thread
 * that submits to it and polls it, and every `done` of its requests runs there, inside blk_queue_poll. Any number
 * of queues of one disk may be at work at once.
 *
 * Order. Requests in flight at the same time may run in any order. A FLUSH covers every request, of any queue,
 * whose `done` ran before the FLUSH was submitted. Overlapping writes in flight together leave either's data,
 * sector by sector.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "common/err.h"

#define BLK_SECTOR_SIZE 512u

enum blk_op {
	BLK_READ,
	BLK_WRITE,
	BLK_FLUSH,        /* makes durable what was done before; offset, length and iov are ignored */
	BLK_DISCARD,      /* the range reads as zeros afterwards and its space is given back where whole blocks allow */
	BLK_WRITE_ZEROES, /* the range reads as zeros afterwards; space may be given back */
};

#define BLK_FUA 0x01u /* BLK_WRITE, BLK_WRITE_ZEROES: done when the data is durable */

struct blk_req {
	uint8_t op;    /* enum blk_op */
	uint8_t flags; /* BLK_FUA */
	int iovcnt;
	uint64_t offset; /* bytes; multiple of request_align */
	uint64_t length; /* bytes; multiple of request_align, not 0 except for BLK_FLUSH; reads, writes: the sum of iov */
	const struct iovec *iov; /* borrowed, with the memory it names, until `done` */
	/*
	 * Runs once, from blk_queue_poll, in the queue's thread; may submit, may not poll. `result` is 0 or -errno:
	 * -EIO and other errors of the file, -ENOSPC, -EROFS (opened for reading, or writing ended after a failed
	 * sync), -EINVAL (misaligned, or beyond the disk's end). After an error a written range holds old or new data.
	 */
	void (*done)(struct blk_req *req, int result);
	void *user;

	/* The implementation's, from submit to done. */
	struct blk_req *next;
	void *impl;
	uint64_t impl_word;
	int impl_result;
	unsigned impl_count;
};

struct blk_info {
	uint64_t size;                /* bytes; a multiple of request_align, except that a raw file may be odd */
	uint32_t request_align;       /* bytes, a power of two: what offset and length must be multiples of */
	uint32_t memory_align;        /* bytes: buffers aligned so are never copied */
	uint32_t discard_granularity; /* bytes: discards of whole such units give space back */
	bool read_only;
	bool direct; /* bypasses the page cache */
};

enum blk_extent_kind {
	BLK_EXTENT_DATA, /* bytes lie in a file */
	BLK_EXTENT_ZERO, /* reads as zeros and takes no space */
};

struct blk_extent {
	uint64_t offset; /* on the disk, bytes */
	uint64_t length; /* bytes */
	enum blk_extent_kind kind;
	unsigned layer;       /* DATA: which file of the chain, 0 the disk itself, 1 its parent, ... */
	int fd;               /* DATA: that file, borrowed while mapped */
	uint64_t file_offset; /* DATA: bytes */
};

struct blk;
struct blk_queue;
struct ring;

struct blk_ops {
	void (*info)(const struct blk *blk, struct blk_info *ret);
	int (*queue_new)(struct blk *blk, struct ring *ring, struct blk_queue **ret, struct err *err);
	int (*map)(struct blk *blk, uint64_t offset, uint64_t length, struct blk_extent *ret, unsigned max,
	           struct err *err);
	void (*unmap)(struct blk *blk);
	int (*close)(struct blk *blk, struct err *err);
};

struct blk_queue_ops {
	void (*submit)(struct blk_queue *queue, struct blk_req *req);
	int (*poll)(struct blk_queue *queue, unsigned min_done, int timeout_ms);
	void (*free)(struct blk_queue *queue);
};

struct blk {
	const struct blk_ops *ops;
};

struct blk_queue {
	const struct blk_queue_ops *ops;
	struct blk *blk;
	int fd; /* poll(2)-able: readable when blk_queue_poll has something to do; borrowed */
};

static inline void blk_info(const struct blk *blk, struct blk_info *ret)
{
	blk->ops->info(blk, ret);
}

/*
 * Makes a queue for the calling thread. `ring` (ring.h) is shared with the thread's other queues, which must all be
 * polled then, or NULL for one of its own. Freed with blk_queue_free before the disk is closed. -errno: no memory, no descriptors.
 */
static inline int blk_queue_new(struct blk *blk, struct ring *ring, struct blk_queue **ret, struct err *err)
{
	return blk->ops->queue_new(blk, ring, ret, err);
}

/* All requests must be done. NULL-safe. */
static inline void blk_queue_free(struct blk_queue *queue)
{
	if (queue)
		queue->ops->free(queue);
}

/* The request is the queue's until `done`. Starts no later than the next poll; never calls `done` itself. */
static inline void blk_submit(struct blk_queue *queue, struct blk_req *req)
{
	queue->ops->submit(queue, req);
}

/*
 * Starts what was submitted and runs the `done` of what has finished. Returns when at least `min_done` have run, or
 * after timeout_ms (-1: no limit, 0: at once), with the number that ran; -errno when the ring itself failed.
 * A thread must go on polling while it has requests in flight. Call once with min_done 0 before sleeping on `fd`.
 */
static inline int blk_queue_poll(struct blk_queue *queue, unsigned min_done, int timeout_ms)
{
	return queue->ops->poll(queue, min_done, timeout_ms);
}

/*
 * Says where [offset, offset + length) lies, in order and without gaps, starting at `offset`, as far as `max` extents
 * reach. Returns how many were written (at least 1), or -errno. May read metadata and therefore block. What the
 * extents name stays where it is, though its content may change, until the blk_unmap that pairs with every
 * successful call; space freed meanwhile is not used again before that.
 */
static inline int blk_map(struct blk *blk, uint64_t offset, uint64_t length, struct blk_extent *ret, unsigned max,
                          struct err *err)
{
	return blk->ops->map(blk, offset, length, ret, max, err);
}

static inline void blk_unmap(struct blk *blk)
{
	blk->ops->unmap(blk);
}

/*
 * Makes everything durable, puts the file in its state of rest, and frees the disk whatever it returns. All queues
 * must be freed. -errno: the first error; then what was not flushed before may be lost. NULL-safe.
 */
static inline int blk_close(struct blk *blk, struct err *err)
{
	return blk ? blk->ops->close(blk, err) : 0;
}

/*
 * One request, waited for, in the queue's thread; other requests' `done` may run meanwhile. Any byte offset and
 * length: edges inside a sector are read, changed and written back, which the caller must serialise against other
 * writes of those sectors. 0 or -errno as for `done`.
 */
int blk_pread(struct blk_queue *queue, void *buffer, size_t length, uint64_t offset);
int blk_pwrite(struct blk_queue *queue, const void *buffer, size_t length, uint64_t offset);
int blk_flush(struct blk_queue *queue);
int blk_discard(struct blk_queue *queue, uint64_t offset, uint64_t length);      /* multiples of request_align */
int blk_write_zeroes(struct blk_queue *queue, uint64_t offset, uint64_t length); /* multiples of request_align */

#endif
