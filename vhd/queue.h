/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_QUEUE_H
#define VHD_QUEUE_H

/*
 * One thread's requests. A request is split into parts, each one I/O or one wait; it is done when its last part is.
 * Parts live in the queue's free list between uses, so that a steady load allocates nothing.
 */

#include "vhd/image.h"

#define EPOCH_NONE 2u

struct part {
	struct ring_io io; /* first: a ring_io * is a part * */
	struct image_queue *queue;
	struct blk_req *req;
	uint64_t offset, length; /* on the disk, bytes */
	uint64_t file_offset;    /* of a transfer */
	uint64_t zeros_written;  /* of `length`, where the file system cannot punch */
	uint32_t block, slot;
	const struct stack *stack; /* writes: of the moment when the part began; as long as it is in an epoch */
	struct image_layer *layer; /* whose file is read or written; as long as the part is in an epoch */
	unsigned epoch; /* parity: which queue->active counts this part; EPOCH_NONE while it only waits */
	struct pending *pending;
	bool carries_bitmap; /* the transfer begins with the new block's bitmap */
	void *buffer; /* a bitmap being loaded */
	struct part *next;
	struct iovec *iov; /* a slice of the request's; inline_iov or allocated */
	int iov_capacity;
	struct iovec inline_iov[4];
};

struct image_queue {
	struct blk_queue base;
	struct image *image;
	struct ring *ring;
	bool own_ring;
	struct image_layer *target; /* upkeep's: all writes go to this layer, claimed blocks or not; else NULL */
	int slots[IMAGE_FILES]; /* of the ring, by the id of the file; -1: not attached */
	struct part *free_parts;
	struct blk_req *finished, **finished_tail;
	bool at_work;     /* in submit or poll */
	unsigned unheard; /* of `finished`: as in struct ring */
	struct image_queue *next; /* of the image's; under its lock */
	_Atomic unsigned generation; /* image.generation that this queue has followed: it lets go of files before */
	/* Parts and lookups at work, by parity of the epoch they began in. Written by this thread only. */
	_Atomic uint32_t active[2];
};

int image_queue_new(struct blk *blk, struct ring *ring, struct blk_queue **ret, struct err *err);

/* The file's slot in the queue's ring, or -errno. The queue's thread. */
int queue_slot(struct image_queue *queue, struct image_file *file);

/* Enters the epoch; returns what epoch_leave wants. What was looked up inside stays valid until then. */
unsigned epoch_enter(struct image_queue *queue);
void epoch_leave(struct image_queue *queue, unsigned epoch);

/* A part of `req`, in its own epoch; NULL: no memory (the request then has that as its result). */
struct part *part_new(struct image_queue *queue, struct blk_req *req, uint64_t offset, uint64_t length);

/* The part is over; with the last one its request is done. */
void part_end(struct part *part, int result);

/* As part_end, but more parts for the same range follow: call before making them and pair with request_put. */
void part_split(struct part *part);

/* One reference of a request; submit itself holds one. */
void request_put(struct image_queue *queue, struct blk_req *req, int result);

/*
 * A part for each block that the range touches, or one for all of a disk without a BAT; `start` deals with it, or returns
 * false to be called again.
 */
void range_split(struct image_queue *queue, struct blk_req *req, uint64_t offset, uint64_t length,
                 bool (*start)(struct part *));

/* Of a waiting part: deals with its range anew, as a write or a zeroing; a result other than 0 ends it. */
void part_restart(struct ring_io *io, int result);

/* Ends the waiting of all parts in the list. Any thread. */
void parts_post(struct part *list, int result);

/* The layer that the part's write goes to, by the stack of the moment; its block, if it has blocks. */
void part_choose_target(struct part *part);

/* While a part waits for the worker it uses nothing, and epochs must go on. part_split and part_end end the pause. */
void part_pause(struct part *part);

/* Sends the part as a transfer between the request's memory and `file_offset` of `layer`. */
void part_transfer(struct part *part, enum ring_op op, struct image_layer *layer, uint64_t file_offset,
                   void (*done)(struct ring_io *, int));

/* As a write to the start of the part's new block, with the all-ones bitmap in front of it: one request to the disk. */
void part_write_with_bitmap(struct part *part, void (*done)(struct ring_io *, int));

/* Writes the next zeros of a part whose punch at file_offset was refused; zeros_written counts them. */
void part_write_zeros(struct part *part, void (*done)(struct ring_io *, int));

/* Makes a flush of `part`'s request: it is done when a commit that begins from now on is. */
void part_wait_for_flush(struct part *part);

/*
 * Reads the bitmap that image_map or block_look found unknown, then calls `again` for the part's range with a
 * reference of the request held.
 */
void part_load_bitmap(struct part *part, struct image_layer *layer, uint32_t block, uint32_t slot,
                      void (*again)(struct image_queue *, struct blk_req *, uint64_t offset, uint64_t length));

/* Each deals with the whole range, now or by parts. */
void read_range(struct image_queue *queue, struct blk_req *req, uint64_t offset, uint64_t length);
void write_range(struct image_queue *queue, struct blk_req *req, uint64_t offset, uint64_t length);
void zero_range(struct image_queue *queue, struct blk_req *req, uint64_t offset, uint64_t length);

/* write.c, for zero.c too. */

/*
 * Gets the part a slot for its unallocated block, alone or with others. 0: part->pending is set; 1: the part waits
 * for the worker and write_range or zero_range goes on later; 2: the block got allocated meanwhile, or has left the layer
 * for the one below: look again; -errno.
 */
int part_take_slot(struct part *part);

/* The part's sectors are in the pending slot (result 0) or were not written. Ends the part. */
void part_publish(struct part *part, int result);

/* Marks the part's sectors as present in its slot, after their data was written; ends the part. */
void part_set_bits(struct part *part, int result);

#endif
