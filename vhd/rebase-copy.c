/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/rebase-copy.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "vhd/job.h"
#include "vhd/queue.h"

#define PIECE_BYTES (1u << 20)
#define GRAIN 4096u /* what differs is found, and copied, in such units at most */

/* One of the two chains below the leaf. */
struct side {
	struct image *image;     /* NULL: there is nothing, all is zeros */
	struct blk_queue *queue; /* owned */
	uint8_t *buffer;         /* owned; PIECE_BYTES */
};

struct rebase {
	struct image *disk;
	struct side old, new;
	struct vhd_job *job;
	uint64_t told, copied; /* bytes */
	struct err *err;
};

static int side_init(struct side *side, struct image *image, struct err *err)
{
	if (posix_memalign((void **)&side->buffer, 4096, PIECE_BYTES)) {
		side->buffer = NULL;
		return err_set(err, -ENOMEM, "no memory to compare parents");
	}
	side->image = image;
	return image ? blk_queue_new(&image->blk, NULL, &side->queue, err) : 0;
}

static void side_done(struct side *side)
{
	blk_queue_free(side->queue);
	free(side->buffer);
}

/* What layers `first` to `end` - 1 have at `offset`; beyond what the chain holds: zeros. */
static int side_map(const struct side *side, unsigned first, unsigned end, uint64_t offset, uint64_t length,
                    struct map_extent *ret, struct err *err)
{
	struct image_queue *queue = (struct image_queue *)side->queue;
	uint64_t size = side->image ? atomic_load(&side->image->size) : 0;

	*ret = (struct map_extent){.kind = MAP_ZERO, .length = length};
	if (offset >= size)
		return 0;
	if (length > size - offset)
		length = size - offset;
	for (;;) {
		unsigned epoch = epoch_enter(queue);
		int rc;

		stack_map(image_stack(side->image), first, end, offset, length, false, ret);
		epoch_leave(queue, epoch);
		if (ret->kind != MAP_NEED_BITMAP)
			return 0;
		rc = image_load_bitmap(side->image, ret->layer, ret->block, ret->slot, err);
		if (rc)
			return rc;
	}
}

static bool same_place(const struct map_extent *a, const struct map_extent *b)
{
	struct stat x, y;

	if (a->kind != MAP_DATA || b->kind != MAP_DATA || a->file_offset != b->file_offset)
		return false;
	return fstat(a->layer->layer->store->file.fd, &x) == 0 && fstat(b->layer->layer->store->file.fd, &y) == 0 &&
	       x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static int side_read(const struct rebase *r, const struct side *side, const struct map_extent *extent, uint64_t offset,
                     uint64_t length)
{
	int rc;

	if (extent->kind == MAP_ZERO) {
		memset(side->buffer, 0, length);
		return 0;
	}
	rc = blk_pread(side->queue, side->buffer, length, offset);
	return rc ? err_set(r->err, rc, "%s: reading at offset %" PRIu64 " failed: %s", image_leaf(side->image)->path, offset,
	                    strerror(-rc)) : 0;
}

static int leaf_write(struct rebase *r, uint64_t offset, uint64_t from, uint64_t length)
{
	int rc = blk_pwrite(r->old.queue, r->old.buffer + from, length, offset + from);

	if (rc)
		return err_set(r->err, rc, "%s: writing at offset %" PRIu64 " failed: %s", image_leaf(r->disk)->path, offset + from,
		               strerror(-rc));
	r->copied += length;
	return 0;
}

/* `length` bytes in both buffers. */
static int difference_write(struct rebase *r, uint64_t offset, uint64_t length)
{
	uint64_t start = 0, end = 0;
	int rc = 0;

	for (uint64_t at = 0; at < length && rc == 0; at += GRAIN) {
		uint64_t n = length - at < GRAIN ? length - at : GRAIN;

		if (!memcmp(r->old.buffer + at, r->new.buffer + at, n))
			continue;
		if (end != at) {
			if (end > start)
				rc = leaf_write(r, offset, start, end - start);
			start = at;
		}
		end = at + n;
	}
	return rc || end == start ? rc : leaf_write(r, offset, start, end - start);
}

static bool leaf_has_block(const struct rebase *r, uint64_t offset)
{
	const struct image_layer *leaf = image_stack(r->disk)->layer[0];

	return block_look(layer_tables(leaf), (uint32_t)(offset >> leaf->layer->block_shift)).slot != VHD_BAT_UNALLOCATED;
}

/*
 * No sector of the range is in the leaf, and it lies in one block. *offset moves on; or back to the start of a block
 * that the leaf has from now on and that is to be whole.
 */
static int piece_copy(struct rebase *r, uint64_t *offset, uint64_t length)
{
	const struct stack *stack = image_stack(r->disk);
	uint64_t block_size = stack->layer[0]->layer->block_size, start = *offset;
	bool whole_blocks = !r->new.image, had_block = leaf_has_block(r, start);
	struct map_extent old, new;
	uint64_t copied = r->copied;
	int rc = side_map(&r->old, 1, stack->count, start, length, &old, r->err);

	if (rc == 0)
		rc = side_map(&r->new, 0, r->new.image ? image_stack(r->new.image)->count : 0, start, old.length, &new, r->err);
	if (rc)
		return rc;
	length = new.length < old.length ? new.length : old.length;
	*offset = start + length;
	if (whole_blocks && had_block) {
		rc = side_read(r, &r->old, &old, start, length);
		return rc ? rc : leaf_write(r, start, 0, length);
	}
	if ((old.kind == MAP_ZERO && new.kind == MAP_ZERO) || same_place(&old, &new))
		return 0;
	rc = side_read(r, &r->old, &old, start, length);
	if (rc == 0)
		rc = side_read(r, &r->new, &new, start, length);
	if (rc == 0)
		rc = difference_write(r, start, length);
	if (rc == 0 && whole_blocks && r->copied != copied)
		*offset = start / block_size * block_size;
	return rc;
}

static int copy_all(struct rebase *r)
{
	uint64_t size = atomic_load(&r->disk->size), block_size = image_leaf(r->disk)->block_size, offset = 0;
	int rc = 0;

	job_total(r->job, size);
	while (offset < size && rc == 0) {
		uint64_t n = block_size - offset % block_size;
		struct map_extent own;

		if (n > size - offset)
			n = size - offset;
		if (n > PIECE_BYTES)
			n = PIECE_BYTES;
		rc = side_map(&r->old, 0, 1, offset, n, &own, r->err);
		if (rc)
			return rc;
		if (own.kind == MAP_DATA)
			offset += own.length;
		else
			rc = piece_copy(r, &offset, own.length);
		if (rc == 0 && offset > r->told) {
			rc = job_step(r->job, offset - r->told);
			r->told = offset;
			if (rc)
				err_set(r->err, rc, "%s: cancelled; it stands on its old parent still, and its content is unchanged",
				        image_leaf(r->disk)->path);
		}
	}
	if (rc)
		return rc;
	rc = blk_flush(r->old.queue);
	return rc ? err_set(r->err, rc, "%s: making it durable failed: %s", image_leaf(r->disk)->path, strerror(-rc)) : 0;
}

int rebase_copy(struct image *disk, struct image *parent, struct vhd_job *job, uint64_t *ret_copied, struct err *err)
{
	struct rebase r = {.disk = disk, .job = job, .err = err};
	int rc = side_init(&r.old, disk, err);

	if (rc == 0)
		rc = side_init(&r.new, parent, err);
	if (rc == 0)
		rc = copy_all(&r);
	side_done(&r.old);
	side_done(&r.new);
	*ret_copied = r.copied;
	return rc;
}
