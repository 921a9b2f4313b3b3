/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/move-block.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* File systems keep writers of the file waiting for as long as one of ours takes. At most IMAGE_ZEROS. */
#define PIECE_BYTES (256u << 10)
#define GRAIN 4096u /* what is compared and written again: of pages */

struct mover {
	struct image *image;
	struct image_layer *layer;
	uint8_t *source, *target; /* PIECE_BYTES each */
	struct block_bits bits;
};

/* One of the moves while it is at work. */
struct moving {
	struct block_move *move;
	bool open;        /* `to` is still ours */
	bool bits_placed; /* `to` has its all-ones bitmap */
};

int block_err(const struct image_layer *l, uint32_t block, uint32_t slot, const char *what, int rc, struct err *err)
{
	return err_set(err, rc, "%s: block %u, at offset %llu, cannot be %s: %s", l->layer->path, block,
	               (unsigned long long)slot * VHD_SECTOR, what,
	               rc == -ENODATA ? "the file ends before it" : strerror(-rc));
}

/* Under the lock, for a bitmap in RAM goes when it is full. False: the bitmap is not known. */
static bool bits_copy(const struct image_layer *l, uint32_t block, struct block_bits *bits)
{
	struct block_view v = block_look(layer_tables(l), block);

	bits->slot = v.slot;
	bits->full = v.state == BLOCK_FULL;
	if (v.slot != VHD_BAT_UNALLOCATED && v.state == BLOCK_PARTIAL)
		bitmap_encode(v.bitmap, bits->bytes, l->layer->bitmap_bytes);
	return v.slot == VHD_BAT_UNALLOCATED || v.state != BLOCK_UNKNOWN;
}

int block_bits_get(struct image *image, struct image_layer *l, uint32_t block, struct block_bits *bits,
                   struct err *err)
{
	for (;;) {
		bool known;
		int rc;

		pthread_mutex_lock(&image->lock);
		known = bits_copy(l, block, bits);
		pthread_mutex_unlock(&image->lock);
		if (known)
			return bits->slot == VHD_BAT_UNALLOCATED;
		rc = image_load_bitmap(image, l, block, bits->slot, err);
		if (rc)
			return rc;
	}
}

int block_read_piece(const struct image_layer *l, const struct block_bits *bits, uint8_t *buffer, uint32_t length,
                     uint32_t into)
{
	struct store *store = l->layer->store;
	uint32_t first = into / VHD_SECTOR;
	int rc = store->ops->read(store, buffer, length, slot_payload(l->layer, bits->slot) + into);

	for (uint32_t s = 0; rc == 0 && !bits->full && s < length / VHD_SECTOR; s++)
		if (!(bits->bytes[(first + s) / 8] & 0x80 >> (first + s) % 8))
			memset(buffer + (size_t)s * VHD_SECTOR, 0, VHD_SECTOR);
	return rc;
}

/* Writes those grains of `wanted` that differ from `present`, which is what is there. */
static int write_changed(struct store *store, const uint8_t *wanted, const uint8_t *present, uint32_t length,
                         uint64_t offset)
{
	uint32_t grain = length < GRAIN ? length : GRAIN, at = 0;
	int rc = 0;

	while (rc == 0 && at < length) {
		uint32_t end = at;

		while (end < length && memcmp(wanted + end, present + end, grain) != 0)
			end += grain;
		if (end > at)
			rc = store->ops->write(store, wanted + at, end - at, offset + at);
		at = end + grain;
	}
	return rc;
}

/*
 * Brings the payload over. `anew`: into durable zeros, of which those that the block has need not be written. Else:
 * what changed since, the block being claimed.
 */
static int copy_payload(struct mover *m, uint32_t to, bool anew)
{
	const struct layer *layer = m->layer->layer;
	uint32_t piece = layer->block_size < PIECE_BYTES ? layer->block_size : PIECE_BYTES;
	struct store *store = layer->store;
	int rc = 0;

	for (uint32_t into = 0; rc == 0 && into < layer->block_size; into += piece) {
		uint64_t at = slot_payload(layer, to) + into;

		rc = block_read_piece(m->layer, &m->bits, m->source, piece, into);
		if (rc == 0 && !anew)
			rc = store->ops->read(store, m->target, piece, at);
		if (rc == 0)
			rc = write_changed(store, m->source, anew ? m->image->zeros : m->target, piece, at);
	}
	return rc;
}

/* From RAM: the file's copy may lack bits. */
static int write_bitmap(struct mover *m, uint32_t to)
{
	const struct writer *w = m->layer->writer;
	const struct layer *layer = m->layer->layer;
	const uint8_t *ones = w->full_bitmap + w->full_bitmap_bytes - layer->bitmap_bytes;

	return layer->store->ops->write(layer->store, m->bits.full ? ones : m->bits.bytes, layer->bitmap_bytes,
	                                (uint64_t)to * VHD_SECTOR);
}

/* Without a claim: what may be out of date by the time the block is claimed is put right then. */
static int copy_ahead(struct mover *m, struct moving *moving, struct claim *ret, struct err *err)
{
	const struct block_move *move = moving->move;
	int rc = block_bits_get(m->image, m->layer, move->block, &m->bits, err);

	*ret = (struct claim){.block = move->block, .slot = m->bits.slot};
	if (rc)
		return rc < 0 ? rc : 0; /* what is not allocated will not be claimed */
	rc = copy_payload(m, move->to, true);
	if (rc == 0 && m->bits.full) {
		rc = write_bitmap(m, move->to);
		moving->bits_placed = rc == 0;
	}
	return rc ? block_err(m->layer, move->block, m->bits.slot, "copied", rc, err) : 0;
}

/* The block is claimed, and the copy complete. 0; -EAGAIN: the disk is mapped; -ENOMEM. */
static int change_entry(struct mover *m, const struct block_move *move, uint32_t from)
{
	struct writer *w = m->layer->writer;
	int rc;

	pthread_mutex_lock(&m->image->lock);
	/* What a map names stays where it is (blk_map). Maps that come after this find the new place. */
	rc = m->image->maps > 0 ? -EAGAIN : slots_free(w, from);
	if (rc == 0) {
		writer_set_entry(m->image, w, move->block, move->to);
		w->data_first = true;
	}
	pthread_mutex_unlock(&m->image->lock);
	return rc;
}

static int move_claimed(struct mover *m, struct moving *moving, const struct claim *claim, struct err *err)
{
	struct block_move *move = moving->move;
	int rc = block_bits_get(m->image, m->layer, claim->block, &m->bits, err);

	if (rc)
		return rc;
	rc = copy_payload(m, move->to, false);
	if (rc == 0 && !(m->bits.full && moving->bits_placed))
		rc = write_bitmap(m, move->to);
	if (rc == 0)
		rc = change_entry(m, move, claim->slot);
	if (rc == 0) {
		move->moved = true;
		moving->open = false;
		return 0;
	}
	return rc == -EAGAIN ? rc : block_err(m->layer, claim->block, claim->slot, "moved", rc, err);
}

int claim_wait(struct image *image, struct vhd_job *job)
{
	int rc = job_step(job, 0);

	while (rc == 0 && !image_wait_for_epochs_within(image, CLAIM_LIMIT_FIRST_MS))
		rc = job_step(job, 0);
	return rc;
}

/* Claims what is left, and moves it. 0: nothing is left; 1: again; -errno. */
static int move_round(struct mover *m, struct moving *moving, struct claim *claims, unsigned count, unsigned limit_ms,
                      struct err *err)
{
	int rc = 0;

	if (!claims_take(m->image, m->layer, claims, count, limit_ms))
		return 1;
	for (unsigned i = 0; i < count; i++) {
		if (claims[i].held && moving[i].open && rc == 0)
			rc = move_claimed(m, &moving[i], &claims[i], err);
		/* As soon as it is done: others may be waiting for this one. */
		if (moving[i].open == false)
			claims[i].slot = VHD_BAT_UNALLOCATED;
		claim_drop(m->image, m->layer, &claims[i]);
	}
	return rc == -EAGAIN ? 1 : rc;
}

static int move_all(struct mover *m, struct moving *moving, unsigned count, struct vhd_job *job, struct err *err)
{
	struct claim claims[MOVE_BATCH];
	unsigned limit_ms = CLAIM_LIMIT_FIRST_MS;
	int rc = 0;

	for (unsigned i = 0; rc == 0 && i < count; i++)
		rc = copy_ahead(m, &moving[i], &claims[i], err);
	if (rc)
		return rc;
	while ((rc = move_round(m, moving, claims, count, limit_ms, err)) == 1) {
		rc = claim_wait(m->image, job);
		if (rc)
			return err_set(err, rc, "%s: cancelled", m->layer->layer->path);
		limit_ms = claim_limit_next(limit_ms);
	}
	return rc;
}

static void give_back_open(struct mover *m, const struct moving *moving, unsigned count)
{
	pthread_mutex_lock(&m->image->lock);
	for (unsigned i = 0; i < count; i++)
		if (moving[i].open)
			slots_give_back(m->image, m->layer->writer, moving[i].move->to);
	pthread_mutex_unlock(&m->image->lock);
}

int blocks_move(struct image *image, struct image_layer *l, struct block_move *moves, unsigned count,
                struct vhd_job *job, struct err *err)
{
	struct mover m = {.image = image, .layer = l};
	struct moving moving[MOVE_BATCH];
	void *memory;
	int rc = posix_memalign(&memory, 4096, 2 * (size_t)PIECE_BYTES + l->layer->bitmap_bytes) ? -ENOMEM : 0;

	for (unsigned i = 0; i < count; i++) {
		moves[i].moved = false;
		moving[i] = (struct moving){.move = &moves[i], .open = true};
	}
	if (rc) {
		err_set(err, rc, "%s: no memory to move blocks", l->layer->path);
	} else {
		m.source = memory;
		m.target = m.source + PIECE_BYTES;
		m.bits.bytes = m.target + PIECE_BYTES;
		rc = move_all(&m, moving, count, job, err);
		free(memory);
	}
	give_back_open(&m, moving, count);
	return rc;
}

int block_move(struct image *image, struct image_layer *l, uint32_t block, uint32_t to_slot, struct vhd_job *job,
               struct err *err)
{
	struct block_move move = {.block = block, .to = to_slot};
	int rc = blocks_move(image, l, &move, 1, job, err);

	return rc ? rc : move.moved ? 0 : 1;
}
