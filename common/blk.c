/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "common/blk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"

struct waited {
	struct blk_req req;
	bool finished;
	int result;
};

static void waited_done(struct blk_req *req, int result)
{
	struct waited *w = req->user;

	w->result = result;
	w->finished = true;
}

static int request_wait(struct blk_queue *queue, enum blk_op op, void *buffer, uint64_t length, uint64_t offset)
{
	struct iovec iov = {buffer, length};
	struct waited w = {
		.req = {.op = (uint8_t)op, .offset = offset, .length = length, .done = waited_done, .user = &w},
	};

	if (buffer) {
		w.req.iov = &iov;
		w.req.iovcnt = 1;
	}
	blk_submit(queue, &w.req);
	while (!w.finished) {
		int rc = blk_queue_poll(queue, 1, -1);

		if (rc < 0)
			return rc;
	}
	return w.result;
}

static uint32_t queue_request_align(struct blk_queue *queue)
{
	struct blk_info info;

	blk_info(queue->blk, &info);
	return info.request_align;
}

/* Reads or writes the part of one aligned unit that [offset, offset + length) covers. */
static int edge_io(struct blk_queue *queue, enum blk_op op, char *buffer, size_t length, uint64_t offset, uint32_t unit)
{
	uint64_t start = round_down(offset, unit);
	void *whole;
	int rc;

	if (posix_memalign(&whole, unit < sizeof(void *) ? sizeof(void *) : unit, unit))
		return -ENOMEM;
	rc = request_wait(queue, BLK_READ, whole, unit, start);
	if (rc == 0 && op == BLK_WRITE) {
		memcpy((char *)whole + (offset - start), buffer, length);
		rc = request_wait(queue, BLK_WRITE, whole, unit, start);
	} else if (rc == 0) {
		memcpy(buffer, (char *)whole + (offset - start), length);
	}
	free(whole);
	return rc;
}

static int any_io(struct blk_queue *queue, enum blk_op op, char *buffer, size_t length, uint64_t offset)
{
	uint32_t unit = queue_request_align(queue);

	while (length > 0) {
		uint64_t into = offset & (unit - 1);
		size_t n;
		int rc;

		if (into || length < unit) {
			n = unit - into < length ? (size_t)(unit - into) : length;
			rc = edge_io(queue, op, buffer, n, offset, unit);
		} else {
			n = (size_t)round_down(length, unit);
			rc = request_wait(queue, op, buffer, n, offset);
		}
		if (rc)
			return rc;
		buffer += n;
		offset += n;
		length -= n;
	}
	return 0;
}

int blk_pread(struct blk_queue *queue, void *buffer, size_t length, uint64_t offset)
{
	return any_io(queue, BLK_READ, buffer, length, offset);
}

int blk_pwrite(struct blk_queue *queue, const void *buffer, size_t length, uint64_t offset)
{
	return any_io(queue, BLK_WRITE, (char *)buffer, length, offset);
}

int blk_flush(struct blk_queue *queue)
{
	return request_wait(queue, BLK_FLUSH, NULL, 0, 0);
}

int blk_discard(struct blk_queue *queue, uint64_t offset, uint64_t length)
{
	return length ? request_wait(queue, BLK_DISCARD, NULL, length, offset) : 0;
}

int blk_write_zeroes(struct blk_queue *queue, uint64_t offset, uint64_t length)
{
	return length ? request_wait(queue, BLK_WRITE_ZEROES, NULL, length, offset) : 0;
}
