/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_IMAGE_H
#define VHD_IMAGE_H

/*
 * An open chain as a disk. The files around this header, and what each does:
 *
 *   image.c     opening, closing, the blk operations
 *   stack.c     which files the disk consists of, and how they come and go
 *   writer.c    what writing to a layer takes
 *   claim.c     taking a block from under its writers, to move it
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

struct image;

/* What is known of an allocated block's sector bitmap. 0 comes first: a new table is all zeros. */
enum block_state {
	BLOCK_UNKNOWN, /* not read yet */
	BLOCK_FULL,    /* all sectors are in this layer, on disk too or with the next commit: the bitmap is not looked at */
	BLOCK_PARTIAL, /* tables.bitmaps has it */
};

/* Beside the state: the block is being moved, and writers wait (claim.c). Readers need not care. */
#define BLOCK_CLAIMED 0x80u

/* What is taken out of use while others may be looking at it, and freed when no epoch can see it. First in its owner. */
struct retired {
	struct retired *next;
	uint32_t epoch;
	void (*release)(struct image *image, struct retired *retired); /* under the lock */
};

/* A layer's blocks. The tables of a disk that grows are replaced by larger ones. */
struct tables {
	struct retired retired;
	uint32_t count;
	_Atomic uint32_t *bat;            /* the layer's */
	_Atomic uint8_t *state;           /* enum block_state, and BLOCK_CLAIMED */
	_Atomic(struct bitmap *) *bitmaps;
};

/* An open file of the chain, as queues know it. */
struct image_file {
	struct retired retired;
	struct store *store; /* the layer's */
	unsigned id;         /* place in the queues' tables of ring slots; unique among the files of the image */
	int worker_slot;     /* in the worker's ring; -1: not attached. The worker thread's */
	/* Once it is out of use, under the image's lock: */
	struct image_file *next;
	unsigned generation; /* queues that have seen it have let go of the file */
	struct layer *layer; /* to be freed with it, which closes the store; NULL: the store alone is closed */
};

struct writer;

/* A file of the chain in use. */
struct image_layer {
	struct retired retired;
	struct layer *layer;
	_Atomic uint64_t size; /* of the virtual disk as this layer sees it, bytes */
	_Atomic(struct image_file *) file;
	_Atomic(struct tables *) tables; /* NULL, for ever, for fixed and raw layers */
	bool has_below;                  /* what it does not hold is looked for further down */
	struct writer *writer;           /* NULL: nothing is written to it. Changes under the lock */
};

/*
 * What the disk consists of at a time. Never changes once published; who changes the chain publishes another one under
 * the lock, and the old one is freed when no epoch can see it.
 */
struct stack {
	struct retired retired;
	bool write_through; /* writes to blocks that layer 0 does not hold go to layer 1 */
	/*
	 * Per block of layer 0: the topmost parent that holds any of it, `count` for none, 0 for not looked up yet. NULL:
	 * there is no parent, or parents change and nothing may be remembered.
	 */
	_Atomic uint16_t *first_parent;
	unsigned count;
	struct image_layer *layer[]; /* 0 is the leaf */
};

/* A new block whose first write has not succeeded yet. Under image.lock. */
struct pending {
	struct pending *next;
	uint32_t block, slot;
	unsigned writers;
	bool published;        /* the BAT entry is visible in RAM */
	bool own_pages;        /* of the slot (gaps.h) */
	struct bitmap *bitmap; /* layers with others below: allocated ahead, so that publishing cannot fail */
};

struct part;
struct image_queue;
struct worker_call;

#define PENDING_BUCKETS 64u

/* What writing to a layer takes. Under image.lock but for what says otherwise. */
struct writer {
	struct writer *next; /* image.writers: upper layers first */
	struct image_layer *layer;
	/*
	 * The bitmap of a new block where nothing lies below: all ones, at the end of whole pages of full_bitmap_bytes. What
	 * of the block is not written yet reads as the zeros that are there. Constant.
	 */
	uint8_t *full_bitmap;
	uint32_t full_bitmap_bytes;

	struct pending *pending[PENDING_BUCKETS];
	struct pending *pending_free;
	struct slots slots;
	uint32_t allocated; /* blocks */
	struct part *slot_waiters, **slot_waiters_tail;

	struct batmap *batmap; /* NULL: the layer has none */
	uint8_t *bat_dirty;    /* a byte per BAT_PAGE of the table */
	bool any_bat_dirty;
	bool data_first; /* an entry was changed to a slot whose content must be durable before it */
	struct bitmap *bitmaps_dirty;
	time_t space_awaited; /* CLOCK_MONOTONIC seconds, since when; 0: not. The worker's */
};

#define IMAGE_ZEROS (1u << 20)
#define IMAGE_FILES 1024u /* files that queues can know at a time, those going out of use included */

struct image {
	struct blk blk;
	_Atomic(struct stack *) stack;
	_Atomic uint64_t size; /* bytes */
	bool writable, direct, salvage;
	uint32_t request_align, memory_align;
	void *zeros; /* IMAGE_ZEROS bytes, for file systems that cannot punch */

	_Atomic uint32_t epoch;
	_Atomic unsigned generation; /* grows when files went out of use that queues must let go of */
	_Atomic int broken; /* -errno once a sync failed: from then on nothing is written (docs/durability.md, rule 7) */

	pthread_mutex_t lock;
	/* Everything below is under `lock`. */
	pthread_cond_t worker_done; /* the epoch moved, or the worker has ended a call (worker_call) */
	struct image_queue *queues;
	unsigned maps; /* blk_map without its blk_unmap yet: freed space stays as it is */
	struct writer *writers;
	uint64_t file_ids[IMAGE_FILES / 64]; /* a bit for each id that is taken */

	struct timespec dirty_since; /* CLOCK_MONOTONIC; the first change since the last commit */
	struct bitmap *bitmaps_retired;
	struct retired *retired, **retired_tail; /* oldest first */
	struct image_file *files_leaving; /* in no stack any more; queues have yet to let go of them */
	struct part *flush_waiters, **flush_waiters_tail;
	bool flushes_held; /* no FLUSH may end (vhd_switch_child) */
	struct part *claim_waiters;

	pthread_cond_t worker_wake;
	pthread_t worker;
	bool worker_runs, worker_stopping;
	int worker_result; /* of what the worker did last, at the end */
	struct worker_call *calls;

	bool upkeep; /* one call at a time (vhd.h, "Upkeep") */
	bool merge_unfinished; /* layers have left the stack that are part of the chain on disk still: no more merges */
	bool exclusive; /* only upkeep_thread may make queues and maps */
	pthread_t upkeep_thread;
	uint64_t switch_ns; /* how long the last switch to a child held the lock; for benchmarks */

	/* The worker thread's own: */
	struct ring *worker_ring;
};

/* Whether the calling thread may make queues and maps. Under the lock. */
static inline bool image_is_closed_to_caller(const struct image *image)
{
	return image->exclusive && !pthread_equal(image->upkeep_thread, pthread_self());
}

#define BAT_PAGE 4096u
#define BAT_PAGE_ENTRIES (BAT_PAGE / 4)

/* --- image.c --- */

/*
 * Takes the chain over, also on failure. `writable`: the leaf's store was opened for writing. 0 or -errno.
 */
int image_open_take(struct chain *chain, bool writable, bool salvage, struct image **ret, struct err *err);

/* As blk_close of image->blk. */
int image_close(struct image *image, struct err *err);

/* The file offset of a slot's payload. */
static inline uint64_t slot_payload(const struct layer *layer, uint32_t slot)
{
	return (uint64_t)slot * VHD_SECTOR + layer->bitmap_bytes;
}

/* --- stack.c --- */

/* The stack of the moment. Valid as long as the caller's epoch, or the lock, or the upkeep is held. */
static inline struct stack *image_stack(const struct image *image)
{
	return atomic_load(&image->stack);
}

/* The leaf's file; as image_stack. */
static inline struct layer *image_leaf(const struct image *image)
{
	return image_stack(image)->layer[0]->layer;
}

/* All fields but the count and the layers 0; NULL: no memory. */
struct stack *stack_new(unsigned count);
void stack_free(struct stack *stack); /* not its layers; NULL-safe */

/* Gives the stack its memory of who holds what. Its parents must not change while it is in use. -ENOMEM. */
int stack_remember_parents(struct stack *stack);

/* Takes `layer` over, also on failure. -ENOMEM; -EMFILE: too many files. Takes the lock. */
int image_layer_new(struct image *image, struct layer *layer, bool has_below, struct image_layer **ret);

/* When nobody can be using it any more; frees its struct layer too. Under the lock. */
void image_layer_free(struct image *image, struct image_layer *layer);

/* From here on the disk consists of `stack`; the stack before it is retired, its layers are not. Under the lock. */
void image_publish_stack(struct image *image, struct stack *stack);

/* Will be released when no epoch sees it any more. Under the lock. */
void image_retire(struct image *image, struct retired *retired,
                  void (*release)(struct image *image, struct retired *retired));

/* The layer is in no stack any more: it and its file go when nobody uses them. Under the lock. */
void image_retire_layer(struct image *image, struct image_layer *layer);

/*
 * The layer's file is another descriptor from here on; `store` is taken over, also on failure. The one before goes when
 * nobody uses it. -ENOMEM, -EMFILE. Takes the lock.
 */
int image_layer_reopen_take(struct image *image, struct image_layer *layer, struct store *store);

/* Replaces the layer's tables by larger ones, with the same content. Under the lock. -ENOMEM. */
int image_layer_grow(struct image *image, struct image_layer *layer, uint32_t block_count);

/* Releases what is due. Under the lock. */
void image_reclaim_retired(struct image *image);

/* Whether anything is retired or leaving. Under the lock. */
static inline bool image_has_retired(const struct image *image)
{
	return image->retired || image->bitmaps_retired || image->files_leaving;
}

/* Frees everything, retired or not; nobody is at work. */
void image_stack_done(struct image *image);

/* --- map.c --- */

enum map_kind {
	MAP_ZERO,
	MAP_DATA,
	MAP_NEED_BITMAP, /* of `block` in `layer`, which lies in `slot`; load it and ask again */
};

struct map_extent {
	enum map_kind kind;
	struct image_layer *layer; /* but for MAP_ZERO */
	unsigned depth;            /* its place in the stack */
	uint32_t block, slot;
	uint64_t file_offset; /* MAP_DATA */
	uint64_t length;      /* bytes, at least 1, at most what was asked for */
};

/*
 * What layers `first` to `end` - 1 hold at `offset`; MAP_ZERO: nothing. The caller holds the stack. `salvage`: what lies
 * beyond the end of a file reads as zeros.
 */
void stack_map(const struct stack *stack, unsigned first, unsigned end, uint64_t offset, uint64_t length, bool salvage,
               struct map_extent *ret);

/* What is at `offset` of the disk. The caller is in an epoch. */
void image_map(struct image *image, uint64_t offset, uint64_t length, struct map_extent *ret);

/* A block's entry, state and bitmap, seen together. */
struct block_view {
	uint32_t slot; /* VHD_BAT_UNALLOCATED: none, and the rest means nothing */
	enum block_state state;
	bool claimed;
	struct bitmap *bitmap;
};
struct block_view block_look(const struct tables *tables, uint32_t block);

static inline const struct tables *layer_tables(const struct image_layer *layer)
{
	return atomic_load(&layer->tables);
}

/* Changes the state and leaves the claim. Under the lock. */
static inline void block_set_state(const struct tables *tables, uint32_t block, enum block_state state)
{
	uint8_t claimed = atomic_load_explicit(&tables->state[block], memory_order_relaxed) & BLOCK_CLAIMED;

	atomic_store_explicit(&tables->state[block], (uint8_t)(state | claimed), memory_order_release);
}

/* Whether any layer below `layer` holds data in its block. The caller holds the stack. */
bool stack_holds_below(const struct stack *stack, const struct image_layer *layer, uint32_t block);

/*
 * Makes a bitmap that was read known, unless another thread did or the block has moved. `bitmap` is taken over.
 * Takes the lock.
 */
void image_install_bitmap(struct image *image, struct image_layer *layer, uint32_t slot, struct bitmap *bitmap);

/* Reads and installs a block's bitmap, blocking. Any thread that holds the stack. 0 or -errno. */
int image_load_bitmap(struct image *image, struct image_layer *layer, uint32_t block, uint32_t slot, struct err *err);

/* --- writer.c --- */

/* For a layer whose store is open for writing. 0 or -errno. */
int writer_new(struct image_layer *layer, struct writer **ret, struct err *err);

/*
 * The layer can be written to, and takes part in every FLUSH, from here on; before those of the layers below it. Under
 * the lock.
 */
void writer_link(struct image *image, struct writer *writer);

/* Nobody writes any more: takes it from the image's list. The worker thread, or after it; under the lock. */
void writer_unlink(struct image *image, struct writer *writer);
void writer_free(struct writer *writer);

/* --- write.c --- */

/* Whether a new block that no entry names yet is being written in a slot before `end`, bytes. Under the lock. */
bool writer_has_pending_below(const struct writer *writer, uint64_t end);

/* The block's slot was taken from it: new writers must not join those at work there. Under the lock. */
void writer_forget_pending(struct writer *writer, uint32_t block);

/* --- claim.c --- */

/*
 * Takes a block from under its writers: returns when none is at work in it. Writers that come now wait until it is
 * unclaimed. Upkeep's thread, without the lock. Only allocated blocks.
 */
void block_claim(struct image *image, struct image_layer *layer, uint32_t block);
void block_unclaim(struct image *image, struct image_layer *layer, uint32_t block);

/* A block that is claimed as long as it lies in `slot`: what is not there any more is nobody's to move. */
struct claim {
	uint32_t block, slot;
	bool held;
};

/*
 * Claims several blocks at the price of one wait, and none (false) if that takes longer than the limit: somebody has the
 * disk mapped, or its I/O is slow, and writers should not wait for that. Each is then to be dropped, as soon as may be.
 */
bool claims_take(struct image *image, struct image_layer *layer, struct claim *claims, unsigned count,
                 unsigned limit_ms);
void claim_drop(struct image *image, struct image_layer *layer, struct claim *claim);

/* Lets a part wait while its block is claimed. False: it is not claimed any more. */
bool part_wait_for_claim(struct part *part);

/* Returns when every epoch that was entered before the call has been left. Any thread that polls no queue. */
void image_wait_for_epochs(struct image *image);

#define WAIT_WITHOUT_LIMIT 0u

/* The same, but not longer than that: whether they have been left. */
bool image_wait_for_epochs_within(struct image *image, unsigned limit_ms);

/* --- commit.c --- */

/* The BAT entry of a block changes, in RAM, and will be written. Under the lock. */
void writer_set_entry(struct image *image, struct writer *writer, uint32_t block, uint32_t slot);

/* The entries [first, end) will be written as they are in RAM, and so will their neighbours. Under the lock. */
void writer_entries_dirty(struct image *image, struct writer *writer, uint32_t first, uint32_t end);

/* An allocated block is given back: its slot, entry, state and bitmap. Under the lock. 0 or -ENOMEM. */
int writer_drop_block(struct image *image, struct writer *writer, uint32_t block);

/* The bitmap has new bits. Under the lock. */
void writer_bitmap_dirty(struct image *image, struct writer *writer, struct bitmap *bitmap);

/* The bitmap is in nobody's table any more; freed when no reader can hold it. Under the lock. */
void image_retire_bitmap(struct image *image, struct bitmap *bitmap);

/* Frees what nobody can hold any more. Under the lock. */
void image_free_retired(struct image *image);

static inline bool writer_is_dirty(const struct writer *writer) /* under the lock */
{
	return writer->any_bat_dirty || writer->bitmaps_dirty;
}

bool image_is_dirty(const struct image *image); /* under the lock */

/*
 * Makes durable everything whose request was done before the call, in all layers that are written to. Worker thread;
 * called and returns with the lock held, but drops it. 0 or -errno; after a failed sync the image is broken.
 */
int image_commit(struct image *image);

/*
 * Puts the footer at the end of the writer's file and cuts the file there, if it is not so already. Worker thread, or
 * upkeep's when nobody writes to the file any more; without the lock. 0 or -errno.
 */
int writer_settle(struct image *image, struct writer *writer);

/*
 * A dynamic disk that lost its footer may end in a block: what a guest wrote there as its last sector would be the
 * file's footer after a crash. Such a file gets its footer before anything else. Nobody writes to it yet.
 */
int writer_settle_first(struct image *image, struct writer *writer, struct err *err);

/* Syncs the writer's file; a failure breaks the image. Threads as for writer_settle. */
int writer_sync(struct image *image, struct writer *writer, enum store_barrier why);

/* --- worker.c --- */

struct worker_write {
	struct ring_io io;
	struct iovec iov;
	uint64_t offset;
	int *result;
	unsigned *left;
};

/*
 * Writes all to the file, in any order and at the same time; iov and offset are set. Worker thread, without the lock. 0
 * or the first -errno.
 */
int worker_write_all(struct image *image, struct image_file *file, struct worker_write *writes, unsigned count);

/* Runs `call` in the worker thread, without the lock, between its other work; waits for it and returns what it did. */
int worker_call(struct image *image, int (*call)(void *arg), void *arg);

/* Makes durable what was done before. Any thread that polls no queue, without the lock. 0 or -errno. */
int worker_flush(struct image *image);

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
