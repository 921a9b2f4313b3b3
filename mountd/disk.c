/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "mountd/disk.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"

#define BATCH 32u /* requests in flight for one call */

struct disk {
	struct blk *blk;
	struct blk_info info; /* as at the start; `size` is what holds of that */
	_Atomic uint64_t size;
	pthread_key_t queue; /* the calling thread's struct blk_queue */
};

static void queue_done(void *queue)
{
	blk_queue_free(queue);
}

int disk_new(struct blk *blk, struct disk **ret, struct err *err)
{
	struct disk *disk = calloc(1, sizeof(*disk));
	int e;

	if (!disk)
		return err_set(err, -ENOMEM, "out of memory");
	disk->blk = blk;
	blk_info(blk, &disk->info);
	disk->size = disk->info.size;
	e = pthread_key_create(&disk->queue, queue_done);
	if (e) {
		free(disk);
		return err_set(err, -e, "cannot make a thread key: %s", strerror(e));
	}
	*ret = disk;
	return 0;
}

void disk_free(struct disk *disk)
{
	if (!disk)
		return;
	blk_queue_free(pthread_getspecific(disk->queue));
	pthread_key_delete(disk->queue);
	free(disk);
}

uint64_t disk_size(const struct disk *disk)
{
	return atomic_load(&disk->size);
}

void disk_resized(struct disk *disk, uint64_t size)
{
	atomic_store(&disk->size, size);
}

struct blk *disk_blk(const struct disk *disk)
{
	return disk->blk;
}

static int thread_queue(struct disk *disk, struct blk_queue **ret)
{
	struct blk_queue *queue = pthread_getspecific(disk->queue);
	int e;

	if (!queue) {
		e = blk_queue_new(disk->blk, NULL, &queue, NULL);
		if (e)
			return e;
		e = pthread_setspecific(disk->queue, queue);
		if (e) {
			blk_queue_free(queue);
			return -e;
		}
	}
	*ret = queue;
	return 0;
}

struct batch {
	unsigned pending;
	int result;
};

static void batch_done(struct blk_req *req, int result)
{
	struct batch *batch = req->user;

	batch->pending--;
	if (result && !batch->result)
		batch->result = result;
}

static int transfer(const struct volume *volume, bool write, const struct piece *pieces, size_t count)
{
	struct blk_req reqs[BATCH];
	struct iovec iovs[BATCH];
	struct batch batch = {0};
	struct blk_queue *queue;
	uint32_t mask = volume->disk->info.request_align - 1;
	size_t i = 0;
	int e;

	for (size_t p = 0; p < count; p++)
		if (!range_inside(pieces[p].offset, pieces[p].length, volume->size))
			return -EINVAL;
	e = thread_queue(volume->disk, &queue);
	if (e)
		return e;
	while (i < count && !batch.result) {
		unsigned n = 0;

		for (; i < count && n < BATCH; i++) {
			const struct piece *piece = &pieces[i];
			uint64_t offset = volume->offset + piece->offset;

			if (piece->length == 0)
				continue;
			if ((offset | piece->length) & mask) {
				e = write ? blk_pwrite(queue, piece->memory, piece->length, offset)
				          : blk_pread(queue, piece->memory, piece->length, offset);
				if (e && !batch.result)
					batch.result = e;
				continue;
			}
			iovs[n] = (struct iovec){piece->memory, piece->length};
			reqs[n] = (struct blk_req){.op = write ? BLK_WRITE : BLK_READ,
			                           .offset = offset,
			                           .length = piece->length,
			                           .iov = &iovs[n],
			                           .iovcnt = 1,
			                           .done = batch_done,
			                           .user = &batch};
			batch.pending++;
			blk_submit(queue, &reqs[n++]);
		}
		while (batch.pending) {
			int done = blk_queue_poll(queue, 1, -1);

			/* The ring itself is broken: the requests still belong to it, so their memory may not be left. */
			if (done < 0 && done != -EINTR)
				abort();
		}
	}
	return batch.result;
}

int volume_read(const struct volume *volume, const struct piece *pieces, size_t count)
{
	return transfer(volume, false, pieces, count);
}

int volume_write(const struct volume *volume, const struct piece *pieces, size_t count)
{
	return transfer(volume, true, pieces, count);
}

int volume_flush(const struct volume *volume)
{
	struct blk_queue *queue;
	int e = thread_queue(volume->disk, &queue);

	return e ? e : blk_flush(queue);
}

int volume_zero(const struct volume *volume, uint64_t offset, uint64_t length)
{
	static const uint8_t zeros[4096];
	uint32_t align = volume->disk->info.request_align;
	uint64_t start = volume->offset + offset, end = start + length;
	uint64_t inner = round_up(start, align), inner_end = round_down(end, align);
	struct blk_queue *queue;
	int e;

	if (!range_inside(offset, length, volume->size))
		return -EINVAL;
	e = thread_queue(volume->disk, &queue);
	if (e || length == 0)
		return e;
	if (inner >= inner_end)
		inner = inner_end = end;
	while (!e && start < inner) {
		size_t n = inner - start < sizeof(zeros) ? inner - start : sizeof(zeros);

		e = blk_pwrite(queue, zeros, n, start);
		start += n;
	}
	if (!e && inner < inner_end)
		e = blk_write_zeroes(queue, inner, inner_end - inner);
	if (!e && inner_end < end)
		e = blk_pwrite(queue, zeros, end - inner_end, inner_end);
	return e;
}
