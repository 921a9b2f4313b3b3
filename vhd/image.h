/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_IMAGE_H
#define VHD_IMAGE_H

/*
 * An open chain as a disk. The files around this header, and what each does:
 *
 *   image.c     opening, closing, the blk operations
 *   map.c       (offset, length) -> extents, across the chain; no lock, no I/O
 *   queue.c     requests of one thread: splitting into parts, epochs, completion
 *   read.c      reads, and the loading of sector bitmaps
 *   write.c     writes: in place, with new bits, into new blocks
 *   zero.c      discard and write-zeroes
 *   slots.c     where new blocks go: extension ahead of need, freed slots
 *   commit.c    flush: what is dirty, in which order it becomes durable
 *   worker.c    the thread that runs slots.c and commit.c
 *
 * A *slot* is the place of a block in the file: its sector bitmap and its payload. Slots are named by the sector
 * number of the bitmap, as in the BAT.
 *
 * Threads. Reads, and writes to sectors whose data is in the leaf already, take no lock: they enter the queue's epoch,
 * look at BAT and bitmaps, and leave the epoch when their I/O is done. A slot or bitmap that was taken out of use is
 * touched again only two epochs later, when nobody can still be using it. Everything that changes the BAT, or the
 * state of a block, happens under `lock`, in this order, which lookups count on:
 *   block gets a slot:  bitmap and state first, then the BAT entry
 *   block loses it:     the BAT entry first, then state and bitmap
 * A lookup reads the entry, state and bitmap, and the entry again; it starts over when that changed.
 */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "common/blk.h"
#include "common/ring.h"
#include "vhd/batmap.h"
#include "vhd/bitmap.h"
#include "vhd/chain.h"
#include "vhd/slots.h"

/* What is known of an allocated block's sector bitmap. 0 comes first: a new table is all zeros. */
enum block_state {
	BLOCK_UNKNOWN, /* not read yet */
	BLOCK_FULL,    /* all sectors are in this layer, on disk too or with the next commit: the bitmap is not looked at */
	BLOCK_PARTIAL, /* image_layer.bitmaps has it */
};

struct image_layer {
	struct layer *layer;
	_Atomic uint8_t *state;           /* enum block_state; NULL for fixed and raw layers */
	_Atomic(struct bitmap *) *bitmaps;
};

/* A new block whose first write has not succeeded yet. Under image.lock. */
struct pending {
	struct pending *next;
	uint32_t block, slot;
	unsigned writers;
	bool published;        /* the BAT entry is visible in RAM */
	bool own_pages;        /* of the slot (gaps.h) */
	struct bitmap *bitmap; /* differencing disks: allocated ahead, so that publishing cannot fail */
};

struct part;
struct image_queue;

#define PENDING_BUCKETS 64u

#define IMAGE_ZEROS (1u << 20)

struct image {
	struct blk blk;
	struct chain chain; /* owned */
	struct image_layer *layers;
	unsigned layer_count;
	uint64_t size; /* bytes */
	bool writable, direct, salvage;
	uint32_t request_align, memory_align;
	bool dynamic;      /* the leaf has a BAT */
	bool has_parent;
	/*
	 * The bitmap of a dynamic disk's new block: all ones, at the end of whole pages of full_bitmap_bytes. What of the
	 * block is not written yet reads as the zeros that are there.
	 */
	uint8_t *full_bitmap;
	uint32_t full_bitmap_bytes;
	void *zeros; /* IMAGE_ZEROS bytes, for file systems that cannot punch */
	/* Per leaf block: the topmost parent that holds any of it, layer_count for none, 0 for not looked up yet. */
	_Atomic uint16_t *first_parent;

	_Atomic uint32_t epoch;
	_Atomic int broken; /* -errno once a sync failed: from then on nothing is written (docs/durability.md, rule 7) */

	pthread_mutex_t lock;
	/* Everything below is under `lock`. */
	struct image_queue *queues;
	unsigned maps; /* blk_map without its blk_unmap yet: freed space stays as it is */
	struct pending *pending[PENDING_BUCKETS];
	struct pending *pending_free;

	struct slots slots;
	uint32_t allocated; /* blocks of the leaf */
	struct part *slot_waiters, **slot_waiters_tail;

	struct batmap *batmap; /* NULL: the leaf has none */
	uint8_t *bat_dirty; /* a byte per BAT_PAGE of the table */
	bool any_bat_dirty;
	struct timespec dirty_since; /* CLOCK_MONOTONIC; the first change since the last commit */
	struct bitmap *bitmaps_dirty;
	struct bitmap *bitmaps_retired;
	struct part *flush_waiters, **flush_waiters_tail;

	pthread_cond_t worker_wake;
	pthread_t worker;
	bool worker_runs, worker_stopping;
	int worker_result; /* of what the worker did last, at the end */

	/* The worker thread's own: */
	struct ring *worker_ring;
	int worker_slot;
	time_t space_awaited; /* CLOCK_MONOTONIC seconds, since when; 0: not */
};

#define BAT_PAGE 4096u
#define BAT_PAGE_ENTRIES (BAT_PAGE / 4)

/* --- image.c --- */

/*
 * Takes the chain over, also on failure. `writable`: the leaf's store was opened for writing. 0 or -errno.
 */
int image_open_take(struct chain *chain, bool writable, bool salvage, struct image **ret, struct err *err);

/* As blk_close of image->blk. */
int image_close(struct image *image, struct err *err);

static inline struct layer *image_leaf(const struct image *image)
{
	return image->layers[0].layer;
}

/* The file offset of a slot's payload. */
static inline uint64_t slot_payload(const struct layer *layer, uint32_t slot)
{
	return (uint64_t)slot * VHD_SECTOR + layer->bitmap_bytes;
}

/* --- map.c --- */

enum map_kind {
	MAP_ZERO,
	MAP_DATA,
	MAP_NEED_BITMAP, /* of `block` in `layer`, which lies in `slot`; load it and ask again */
};

struct map_extent {
	enum map_kind kind;
	unsigned layer;
	uint32_t block, slot;
	uint64_t file_offset; /* MAP_DATA */
	uint64_t length;      /* bytes, at least 1, at most what was asked for */
};

/* What is at `offset`. The caller is in an epoch. */
void image_map(struct image *image, uint64_t offset, uint64_t length, struct map_extent *ret);

/* A leaf block's entry, state and bitmap, seen together. */
struct block_view {
	uint32_t slot; /* VHD_BAT_UNALLOCATED: none, and the rest means nothing */
	enum block_state state;
	struct bitmap *bitmap;
};
struct block_view layer_block_view(const struct image_layer *layer, uint32_t block);

/* Whether any parent holds data in the leaf's block. */
bool image_parents_have(struct image *image, uint32_t block);

/*
 * Makes a bitmap that was read known, unless another thread did or the block has moved. `bitmap` is taken over.
 * Takes the lock.
 */
void image_install_bitmap(struct image *image, unsigned layer, uint32_t slot, struct bitmap *bitmap);

/* --- write.c --- */

/* The block's slot was taken from it: new writers must not join those at work there. Under the lock. */
void image_forget_pending(struct image *image, uint32_t block);

/* --- commit.c --- */

/* The BAT entry of a leaf block changes, in RAM, and will be written. Under the lock. */
void image_set_entry(struct image *image, uint32_t block, uint32_t slot);

/* The bitmap has new bits. Under the lock. */
void image_bitmap_dirty(struct image *image, struct bitmap *bitmap);

/* The bitmap is in nobody's table any more; freed when no reader can hold it. Under the lock. */
void image_retire_bitmap(struct image *image, struct bitmap *bitmap);

/* Frees what nobody can hold any more. Under the lock. */
void image_free_retired(struct image *image);

bool image_is_dirty(const struct image *image); /* under the lock */

/*
 * Makes durable everything whose request was done before the call. Worker thread; called and returns with the lock
 * held, but drops it. 0 or -errno; after a failed sync the image is broken.
 */
int image_commit(struct image *image);

/*
 * Puts the footer at the end and cuts the file there, if it is not so already. Worker thread, without the lock, at the
 * very end. 0 or -errno.
 */
int image_settle(struct image *image);

/* Syncs the leaf; a failure breaks the image. Worker thread. */
int image_sync(struct image *image, enum store_barrier why);

/* --- worker.c --- */

struct worker_write {
	struct ring_io io;
	struct iovec iov;
	uint64_t offset;
	int *result;
	unsigned *left;
};

/* Writes all, in any order and at the same time; iov and offset are set. Worker thread, without the lock. 0 or the first -errno. */
int worker_write_all(struct image *image, struct worker_write *writes, unsigned count);

int worker_start(struct image *image, struct err *err);

/* Commits and settles, then ends the thread. 0 or -errno. */
int worker_stop(struct image *image);

void worker_wake(struct image *image); /* under the lock */

/* Moves the epoch on if every queue has left the one before. Under the lock. */
void image_epoch_advance(struct image *image);

/* Whether what went out of use at `epoch` can be in nobody's hands any more. Under the lock. */
static inline bool image_epoch_passed(const struct image *image, uint32_t epoch)
{
	return (int32_t)(atomic_load_explicit(&image->epoch, memory_order_relaxed) - epoch) >= 2;
}

#endif
