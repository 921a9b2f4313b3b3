/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/queue.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "common/iov.h"

static void transfer_done(struct ring_io *io, int result)
{
	part_end((struct part *)io, result == -ENODATA ? -EIO : result);
}

/* What a bitmap being loaded needs besides the part. */
struct bitmap_load {
	struct iovec iov;
	void (*again)(struct image_queue *, struct blk_req *, uint64_t, uint64_t);
	uint8_t *bytes;
	uint32_t skip; /* bytes in front of the bitmap */
};

static void bitmap_loaded(struct ring_io *io, int result)
{
	struct part *p = (struct part *)io;
	struct bitmap_load *load = p->buffer;
	struct image_queue *q = p->queue;
	const struct layer *layer = p->layer->layer;
	void (*again)(struct image_queue *, struct blk_req *, uint64_t, uint64_t) = load->again;
	struct blk_req *req = p->req;
	uint64_t offset = p->offset, length = p->length;

	if (result == 0) {
		struct bitmap *b = bitmap_new(p->block, layer->block_size / VHD_SECTOR);

		if (b) {
			bitmap_decode(b, load->bytes + load->skip);
			image_install_bitmap(q->image, p->layer, p->slot, b);
		} else {
			result = -ENOMEM;
		}
	}
	free(load->bytes);
	free(load);
	if (result) {
		part_end(p, result == -ENODATA ? -EIO : result);
		return;
	}
	part_split(p);
	again(q, req, offset, length);
	request_put(q, req, 0);
}

void part_load_bitmap(struct part *p, struct image_layer *layer, uint32_t block, uint32_t slot,
                      void (*again)(struct image_queue *, struct blk_req *, uint64_t, uint64_t))
{
	struct image_file *file = atomic_load(&layer->file);
	/* Direct I/O may want more than sectors; then the payload behind is aligned so (direct_fits), and only the start moves. */
	uint64_t at = (uint64_t)slot * VHD_SECTOR, start = round_down(at, file->store->offset_align);
	uint32_t length = layer->layer->bitmap_bytes + (uint32_t)(at - start);
	struct bitmap_load *load = malloc(sizeof(*load));
	uint8_t *bytes = NULL;

	if (!load || posix_memalign((void **)&bytes, 4096, length)) {
		free(load);
		part_end(p, -ENOMEM);
		return;
	}
	load->iov = (struct iovec){bytes, length};
	load->again = again;
	load->bytes = bytes;
	load->skip = (uint32_t)(at - start);
	p->buffer = load;
	p->layer = layer;
	p->block = block;
	p->slot = slot;
	p->io.op = RING_READ;
	p->io.slot = queue_slot(p->queue, file);
	p->io.iov = &load->iov;
	p->io.iovcnt = 1;
	p->io.offset = start;
	p->io.length = length;
	p->io.done = bitmap_loaded;
	if (p->io.slot < 0)
		bitmap_loaded(&p->io, p->io.slot);
	else
		ring_submit(p->queue->ring, &p->io);
}

void read_range(struct image_queue *q, struct blk_req *req, uint64_t offset, uint64_t length)
{
	struct image *image = q->image;
	unsigned epoch = epoch_enter(q);

	while (length > 0) {
		struct map_extent e;
		struct part *p;

		image_map(image, offset, length, &e);
		if (e.kind == MAP_ZERO) {
			iov_zero(req->iov, offset - req->offset, e.length);
		} else {
			p = part_new(q, req, offset, e.length);
			if (!p)
				break;
			if (e.kind == MAP_DATA)
				part_transfer(p, RING_READ, e.layer, e.file_offset, transfer_done);
			else
				part_load_bitmap(p, e.layer, e.block, e.slot, read_range);
		}
		offset += e.length;
		length -= e.length;
	}
	epoch_leave(q, epoch);
}
