/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "common/blk-file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/file-align.h"
#include "common/ring.h"

struct blk_file {
	struct blk blk;
	struct ring_file file;
	struct blk_info info;
};

/* A request's I/O. Kept in the queue's list between requests, so that a steady load allocates nothing. */
struct file_io {
	struct ring_io io;
	struct file_queue *queue;
	struct blk_req *req;
	struct file_io *next_free;
	struct iovec zeroes; /* of a write-zeroes that could not punch */
	uint64_t zeroes_left;
	bool fua_sync; /* the write is done, its sync runs */
};

struct file_queue {
	struct blk_queue base;
	struct ring *ring;
	bool own_ring;
	int slot;
	struct file_io *free_ios;
	struct blk_req *finished, **finished_tail; /* done without I/O */
	unsigned done;
};

static const size_t zero_chunk = 1 << 20;

static void file_io_finish(struct file_io *f, int result)
{
	struct file_queue *q = f->queue;
	struct blk_req *req = f->req;

	free(f->zeroes.iov_base);
	f->next_free = q->free_ios;
	q->free_ios = f;
	q->done++;
	req->done(req, result);
}

static void file_io_submit_zeroes(struct file_io *f)
{
	uint64_t n = f->zeroes_left < zero_chunk ? f->zeroes_left : zero_chunk;

	f->zeroes.iov_len = n;
	f->io.op = RING_WRITE;
	f->io.iov = &f->zeroes;
	f->io.iovcnt = 1;
	f->io.offset = f->req->offset + f->req->length - f->zeroes_left;
	f->io.length = n;
	f->zeroes_left -= n;
	ring_submit(f->queue->ring, &f->io);
}

/* The file system cannot punch: zeros are written where they were asked for. */
static int file_io_begin_zeroes(struct file_io *f)
{
	if (posix_memalign(&f->zeroes.iov_base, 4096, zero_chunk)) {
		f->zeroes.iov_base = NULL;
		return -ENOMEM;
	}
	memset(f->zeroes.iov_base, 0, zero_chunk);
	f->zeroes_left = f->req->length;
	file_io_submit_zeroes(f);
	return 0;
}

static void file_io_done(struct ring_io *io, int result)
{
	struct file_io *f = (struct file_io *)io;

	if (io->op == RING_PUNCH && result == -EOPNOTSUPP) {
		result = file_io_begin_zeroes(f);
		if (result == 0)
			return;
	}
	if (result == 0 && f->zeroes_left > 0) {
		file_io_submit_zeroes(f);
		return;
	}
	if (result == 0 && (f->req->flags & BLK_FUA) && !f->fua_sync) {
		f->fua_sync = true;
		f->io.op = RING_SYNC;
		ring_submit(f->queue->ring, &f->io);
		return;
	}
	file_io_finish(f, result);
}

static int request_check(const struct blk_info *info, const struct blk_req *req)
{
	if (req->op == BLK_FLUSH)
		return 0;
	if (req->op != BLK_READ && info->read_only)
		return -EROFS;
	if (((req->offset | req->length) & (info->request_align - 1)) || req->length == 0 ||
	    !range_inside(req->offset, req->length, info->size))
		return -EINVAL;
	return 0;
}

static void queue_finish_later(struct file_queue *q, struct blk_req *req, int result)
{
	req->impl_result = result;
	req->next = NULL;
	*q->finished_tail = req;
	q->finished_tail = &req->next;
}

static void file_submit(struct blk_queue *queue, struct blk_req *req)
{
	static const uint8_t ring_op[] = {
		[BLK_READ] = RING_READ,     [BLK_WRITE] = RING_WRITE,        [BLK_FLUSH] = RING_SYNC,
		[BLK_DISCARD] = RING_PUNCH, [BLK_WRITE_ZEROES] = RING_PUNCH,
	};
	struct file_queue *q = (struct file_queue *)queue;
	struct blk_file *b = (struct blk_file *)queue->blk;
	int rc = request_check(&b->info, req);
	struct file_io *f = q->free_ios;

	if (rc == 0 && !f && !(f = malloc(sizeof(*f))))
		rc = -ENOMEM;
	if (rc) {
		queue_finish_later(q, req, rc);
		return;
	}
	if (f == q->free_ios)
		q->free_ios = f->next_free;
	f->queue = q;
	f->req = req;
	f->zeroes.iov_base = NULL;
	f->zeroes_left = 0;
	f->fua_sync = false;
	f->io.op = ring_op[req->op];
	f->io.slot = q->slot;
	f->io.iov = req->iov;
	f->io.iovcnt = req->iovcnt;
	f->io.offset = req->offset;
	f->io.length = req->length;
	f->io.done = file_io_done;
	ring_submit(q->ring, &f->io);
}

static int file_poll(struct blk_queue *queue, unsigned min_done, int timeout_ms)
{
	struct file_queue *q = (struct file_queue *)queue;

	q->done = 0;
	for (;;) {
		bool waits;
		unsigned n;
		int rc;

		while (q->finished) {
			struct blk_req *req = q->finished;

			q->finished = req->next;
			if (!q->finished)
				q->finished_tail = &q->finished;
			q->done++;
			req->done(req, req->impl_result);
		}
		waits = q->done < min_done && timeout_ms != 0;
		rc = ring_poll(q->ring, waits ? 1 : 0, waits ? timeout_ms : 0);
		if (rc < 0)
			return rc;
		n = q->done;
		if (!q->finished && (n >= min_done || timeout_ms == 0 || (rc == 0 && timeout_ms > 0))) {
			if (min_done == 0 && q->ring->unheard)
				ring_nudge(q->ring);
			return (int)n;
		}
	}
}

static void file_queue_free(struct blk_queue *queue)
{
	struct file_queue *q = (struct file_queue *)queue;

	while (q->free_ios) {
		struct file_io *f = q->free_ios;

		q->free_ios = f->next_free;
		free(f);
	}
	ring_detach(q->ring, q->slot);
	if (q->own_ring)
		ring_free(q->ring);
	free(q);
}

static const struct blk_queue_ops file_queue_ops = {
	.submit = file_submit,
	.poll = file_poll,
	.free = file_queue_free,
};

static int file_queue_new(struct blk *blk, struct ring *ring, struct blk_queue **ret, struct err *err)
{
	struct blk_file *b = (struct blk_file *)blk;
	struct file_queue *q = calloc(1, sizeof(*q));
	int rc = 0;

	if (!q)
		return err_set(err, -ENOMEM, "no memory for an I/O queue");
	q->ring = ring;
	q->own_ring = !ring;
	if (q->own_ring)
		rc = ring_new(0, &q->ring, err);
	if (rc) {
		free(q);
		return rc;
	}
	q->slot = ring_attach(q->ring, &b->file);
	if (q->slot < 0) {
		rc = q->slot;
		if (q->own_ring)
			ring_free(q->ring);
		free(q);
		return err_set(err, rc, "the I/O ring cannot take another file: %s", strerror(-rc));
	}
	q->finished_tail = &q->finished;
	q->base.ops = &file_queue_ops;
	q->base.blk = blk;
	q->base.fd = q->ring->fd;
	*ret = &q->base;
	return 0;
}

static void file_info(const struct blk *blk, struct blk_info *ret)
{
	*ret = ((const struct blk_file *)blk)->info;
}

static int file_map(struct blk *blk, uint64_t offset, uint64_t length, struct blk_extent *ret, unsigned max,
                    struct err *err)
{
	struct blk_file *b = (struct blk_file *)blk;
	uint64_t end;
	unsigned n = 0;

	if (length == 0 || max == 0 || !range_inside(offset, length, b->info.size))
		return err_set(err, -EINVAL, "a map beyond the end of the disk was asked for");
	end = offset + length;
	while (offset < end && n < max) {
		off_t data = lseek(b->file.fd, (off_t)offset, SEEK_DATA);
		off_t hole;
		uint64_t stop;
		bool is_data = true;

		if (data < 0 && errno == ENXIO)
			data = (off_t)end;
		if (data < 0) { /* no holes known here: all of it is data */
			stop = end;
		} else if ((uint64_t)data > offset) {
			is_data = false;
			stop = (uint64_t)data;
		} else {
			hole = lseek(b->file.fd, (off_t)offset, SEEK_HOLE);
			stop = hole < 0 ? end : (uint64_t)hole;
		}
		if (stop > end)
			stop = end;
		ret[n++] = (struct blk_extent){
			.offset = offset,
			.length = stop - offset,
			.kind = is_data ? BLK_EXTENT_DATA : BLK_EXTENT_ZERO,
			.fd = b->file.fd,
			.file_offset = offset,
		};
		offset = stop;
	}
	return (int)n;
}

static void file_unmap(struct blk *blk)
{
	(void)blk; /* extents of a raw file never move */
}

static int file_close(struct blk *blk, struct err *err)
{
	struct blk_file *b = (struct blk_file *)blk;
	int rc = 0;

	if (!b->info.read_only && fdatasync(b->file.fd) < 0)
		rc = err_set(err, -errno, "writing to the disk failed: %s", strerror(errno));
	close(b->file.fd);
	free(b);
	return rc;
}

static const struct blk_ops file_ops = {
	.info = file_info,
	.queue_new = file_queue_new,
	.map = file_map,
	.unmap = file_unmap,
	.close = file_close,
};

static int file_size(int fd, const char *path, uint64_t *ret, struct err *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_set(err, -errno, "%s: %s", path, strerror(errno));
	*ret = (uint64_t)st.st_size;
	if (S_ISREG(st.st_mode))
		return 0;
	if (!S_ISBLK(st.st_mode))
		return err_set(err, -EINVAL, "%s: neither a regular file nor a block device", path);
	if (ioctl(fd, BLKGETSIZE64, ret) < 0)
		return err_set(err, -errno, "%s: its size cannot be had: %s", path, strerror(errno));
	return 0;
}

int blk_file_open(const char *path, unsigned flags, struct blk **ret, struct err *err)
{
	bool write = flags & BLK_FILE_WRITE, direct = flags & BLK_FILE_DIRECT;
	struct file_align align = {1, 1};
	struct blk_file *b;
	uint64_t size;
	int fd, rc;

	/* O_NONBLOCK: a pipe of that name must not hang the open. */
	fd = open(path, (write ? O_RDWR : O_RDONLY) | (direct ? O_DIRECT : 0) | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 && direct && errno == EINVAL)
		return err_set(err, -EINVAL, "%s: this file system has no direct I/O (O_DIRECT)", path);
	if (fd < 0)
		return err_set(err, -errno, "%s: %s", path, strerror(errno));
	rc = file_size(fd, path, &size, err);
	if (rc) {
		close(fd);
		return rc;
	}
	/* Older kernels' io_uring takes O_NONBLOCK seriously and fails where the page cache is cold. */
	(void)fcntl(fd, F_SETFL, direct ? O_DIRECT : 0);
	b = calloc(1, sizeof(*b));
	if (!b) {
		close(fd);
		return err_set(err, -ENOMEM, "%s: no memory", path);
	}
	if (direct)
		align = file_align_direct(fd);
	b->blk.ops = &file_ops;
	b->file = (struct ring_file){
		.fd = fd,
		.memory_align = align.memory_bytes,
		.length_align = align.offset_bytes,
	};
	b->info = (struct blk_info){
		.size = size,
		.request_align = align.offset_bytes,
		.memory_align = align.memory_bytes,
		.discard_granularity = 4096,
		.read_only = !write,
		.direct = direct,
	};
	*ret = &b->blk;
	return 0;
}
