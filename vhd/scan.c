/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vhd/scan.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "common/interrupt.h"

#define WALK_EXTENTS 256
#define WAIT_MS 250

/* Finds data in one disk, always forwards. */
struct walk {
	const struct scan_disk *disk;
	struct blk_extent extents[WALK_EXTENTS];
	int count, at;
	uint64_t mapped_end;
};

struct scan {
	const struct scan_options *options;
	size_t chunk;
	struct walk *walks;
	struct scan_slot slots[SCAN_DEPTH];
	struct scan_slot *idle;
	struct scan_slot *first, **last; /* read or being read, in order */
	unsigned kept;
	uint64_t next;      /* what is not looked at yet starts here */
	uint64_t delivered; /* what the callbacks had ends here */
	int result;
	bool stopped;
	struct err err;
};

bool zero_test(const uint8_t *bytes, size_t length)
{
	if (length < 16) {
		for (size_t i = 0; i < length; i++)
			if (bytes[i])
				return false;
		return true;
	}
	for (size_t i = 0; i < 16; i++)
		if (bytes[i])
			return false;
	return memcmp(bytes, bytes + 16, length - 16) == 0;
}

int scan_wait(struct blk_queue *const *queues, unsigned count)
{
	struct pollfd fds[SCAN_DISKS + 1];
	int done = 0;

	for (unsigned i = 0; i < count; i++) {
		int r = blk_queue_poll(queues[i], 0, 0);

		if (r < 0 && r != -EINTR)
			return r;
		done += r > 0 ? r : 0;
		fds[i] = (struct pollfd){.fd = queues[i]->fd, .events = POLLIN};
	}
	if (done == 0 && poll(fds, count, WAIT_MS) < 0 && errno != EINTR)
		return -errno;
	return 0;
}

/* Offset of the first data at or after `offset`; the disk's size if there is none. */
static int walk_data(struct walk *walk, uint64_t offset, uint64_t *ret, struct err *err)
{
	for (;;) {
		for (; walk->at < walk->count; walk->at++) {
			const struct blk_extent *extent = &walk->extents[walk->at];

			if (extent->kind == BLK_EXTENT_ZERO || extent->offset + extent->length <= offset)
				continue;
			*ret = extent->offset > offset ? extent->offset : offset;
			return 0;
		}
		if (walk->mapped_end < offset)
			walk->mapped_end = offset;
		if (walk->mapped_end >= walk->disk->size) {
			*ret = walk->disk->size;
			return 0;
		}
		walk->at = 0;
		walk->count = blk_map(walk->disk->blk, walk->mapped_end, walk->disk->size - walk->mapped_end,
		                      walk->extents, WALK_EXTENTS, err);
		if (walk->count < 0) {
			int r = walk->count;

			walk->count = 0;
			return err_prefix(err, r, "%s: map at offset %" PRIu64, walk->disk->path, walk->mapped_end);
		}
		walk->mapped_end = walk->extents[walk->count - 1].offset + walk->extents[walk->count - 1].length;
		blk_unmap(walk->disk->blk);
	}
}

static void read_done(struct blk_req *req, int result)
{
	struct scan_slot *slot = req->user;

	slot->reading--;
	if (result < 0 && slot->result == 0) {
		slot->result = result;
		slot->failed_disk = (unsigned)(req - slot->req);
	}
}

static void slot_read(struct scan_slot *slot, unsigned i)
{
	const struct scan_disk *disk = &slot->scan->options->disks[i];
	size_t length = slot->length;
	struct blk_info info;

	slot->data[i] = slot->buffer[i];
	if (disk->size - slot->offset < length) {
		length = (size_t)(disk->size - slot->offset);
		memset(slot->buffer[i] + length, 0, slot->length - length);
	}
	blk_info(disk->blk, &info);
	if (length % info.request_align) {
		/* The odd tail of a raw file: once a scan at most. */
		int r = blk_pread(disk->queue, slot->buffer[i], length, slot->offset);

		if (r < 0 && slot->result == 0) {
			slot->result = r;
			slot->failed_disk = i;
		}
		return;
	}
	slot->iov[i] = (struct iovec){slot->buffer[i], length};
	slot->req[i] = (struct blk_req){
	        .op = BLK_READ,
	        .offset = slot->offset,
	        .length = length,
	        .iov = &slot->iov[i],
	        .iovcnt = 1,
	        .done = read_done,
	        .user = slot,
	};
	slot->reading++;
	blk_submit(disk->queue, &slot->req[i]);
}

/* Puts the next chunk that holds data into a slot; there is an idle one, and `next` is before the end. */
static int chunk_start(struct scan *scan, struct err *err)
{
	const struct scan_options *options = scan->options;
	uint64_t data[SCAN_DISKS], first = options->end, start, end;
	struct scan_slot *slot = scan->idle;

	for (unsigned i = 0; i < options->disk_count; i++) {
		int r = walk_data(&scan->walks[i], scan->next, &data[i], err);

		if (r < 0)
			return r;
		if (data[i] >= options->disks[i].size)
			data[i] = UINT64_MAX;
		if (data[i] < first)
			first = data[i];
	}
	if (first >= options->end) {
		scan->next = options->end;
		return 0;
	}
	start = round_down(first, scan->chunk);
	if (start < scan->next)
		start = scan->next;
	end = round_down(start, scan->chunk) + scan->chunk;
	if (end > options->end)
		end = options->end;

	scan->idle = slot->next;
	slot->next = NULL;
	*scan->last = slot;
	scan->last = &slot->next;
	slot->offset = start;
	slot->length = (size_t)(end - start);
	slot->result = 0;
	slot->reading = 0;
	for (unsigned i = 0; i < options->disk_count; i++) {
		slot->data[i] = NULL;
		if (data[i] < end)
			slot_read(slot, i);
	}
	scan->next = end;
	return 0;
}

static void slot_idle(struct scan_slot *slot)
{
	slot->next = slot->scan->idle;
	slot->scan->idle = slot;
}

static int zeros_deliver(struct scan *scan, uint64_t end, struct err *err)
{
	const struct scan_options *options = scan->options;
	int r = 0;

	if (end > scan->delivered && options->zeros)
		r = options->zeros(options->user, scan->delivered, end - scan->delivered, err);
	scan->delivered = end;
	return r;
}

/* Hands out the chunks that are complete. */
static int chunks_deliver(struct scan *scan, struct err *err)
{
	const struct scan_options *options = scan->options;
	struct scan_slot *slot;

	while ((slot = scan->first) && slot->reading == 0) {
		int r;

		if (slot->result < 0)
			return err_set(err, slot->result, "%s: reading %zu bytes at offset %" PRIu64 ": %s",
			               options->disks[slot->failed_disk].path, slot->length, slot->offset,
			               strerror(-slot->result));
		r = zeros_deliver(scan, slot->offset, err);
		if (r)
			return r;
		scan->first = slot->next;
		if (!scan->first)
			scan->last = &scan->first;
		scan->delivered = slot->offset + slot->length;
		scan->kept++;
		r = options->chunk_read(options->user, slot, err);
		if (r != SCAN_KEEP) {
			scan->kept--;
			slot_idle(slot);
			if (r)
				return r;
		}
		progress_update(options->progress, scan->delivered - options->offset);
	}
	return 0;
}

void scan_release(struct scan_slot *slot, int result, const struct err *err)
{
	struct scan *scan = slot->scan;

	scan->kept--;
	slot_idle(slot);
	if (result < 0 && scan->result == 0) {
		scan->result = result;
		if (err)
			scan->err = *err;
	}
}

static int scan_poll(struct scan *scan, struct err *err)
{
	struct blk_queue *queues[SCAN_DISKS + 1];
	unsigned count = 0;
	int r;

	for (unsigned i = 0; i < scan->options->disk_count; i++)
		queues[count++] = scan->options->disks[i].queue;
	if (scan->options->also)
		queues[count++] = scan->options->also;
	r = scan_wait(queues, count);
	return r < 0 ? err_set(err, r, "waiting for I/O: %s", strerror(-r)) : 0;
}

static bool scan_reading(const struct scan *scan)
{
	for (const struct scan_slot *slot = scan->first; slot; slot = slot->next)
		if (slot->reading)
			return true;
	return false;
}

static int scan_step(struct scan *scan, struct err *err)
{
	int r;

	if (interrupt_seen())
		return err_set(err, -EINTR, "interrupted");
	while (scan->idle && scan->next < scan->options->end) {
		r = chunk_start(scan, err);
		if (r < 0)
			return r;
	}
	r = chunks_deliver(scan, err);
	if (r)
		return r;
	if (scan->result < 0) {
		*err = scan->err;
		return scan->result;
	}
	if (scan->idle && scan->next < scan->options->end)
		return 0;
	if (scan_reading(scan) || scan->kept)
		return scan_poll(scan, err);
	return 0;
}

static int scan_loop(struct scan *scan, struct err *err)
{
	int r;

	while (scan->next < scan->options->end || scan->first || scan->kept) {
		r = scan_step(scan, err);
		if (r)
			return r;
	}
	r = zeros_deliver(scan, scan->options->end, err);
	if (r)
		return r;
	progress_update(scan->options->progress, scan->options->end - scan->options->offset);
	if (scan->result < 0) {
		*err = scan->err;
		return scan->result;
	}
	return 0;
}

static int slots_alloc(struct scan *scan)
{
	for (unsigned i = 0; i < SCAN_DEPTH; i++) {
		struct scan_slot *slot = &scan->slots[i];

		slot->scan = scan;
		for (unsigned k = 0; k < scan->options->disk_count; k++) {
			slot->buffer[k] = aligned_alloc(4096, scan->chunk);
			if (!slot->buffer[k])
				return -ENOMEM;
		}
		slot_idle(slot);
	}
	return 0;
}

static void scan_free(struct scan *scan)
{
	for (unsigned i = 0; i < SCAN_DEPTH; i++)
		for (unsigned k = 0; k < SCAN_DISKS; k++)
			free(scan->slots[i].buffer[k]);
	free(scan->walks);
	free(scan);
}

static struct scan *scan_new(const struct scan_options *options)
{
	struct scan *scan = calloc(1, sizeof(*scan));

	if (!scan)
		return NULL;
	scan->options = options;
	scan->chunk = options->chunk ? options->chunk : SCAN_CHUNK;
	scan->next = scan->delivered = options->offset;
	scan->last = &scan->first;
	scan->walks = calloc(options->disk_count, sizeof(*scan->walks));
	if (!scan->walks || slots_alloc(scan) < 0) {
		scan_free(scan);
		return NULL;
	}
	for (unsigned i = 0; i < options->disk_count; i++)
		scan->walks[i].disk = &options->disks[i];
	return scan;
}

int scan_run(const struct scan_options *options, struct err *err)
{
	struct scan *scan = scan_new(options);
	struct err text = {.text = ""};
	int r;

	if (!scan)
		return err_set(err, -ENOMEM, "out of memory");
	r = scan_loop(scan, &text);
	while (scan_reading(scan) || scan->kept) {
		/* The kernel may still write to the buffers of a queue that cannot be polled: they are never freed. */
		if (scan_poll(scan, err) < 0)
			return -EIO;
	}
	scan_free(scan);
	if (r < 0 && err)
		*err = text;
	return r == SCAN_STOP ? 0 : r;
}
