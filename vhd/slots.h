/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_SLOTS_H
#define VHD_SLOTS_H

/*
 * Where new blocks go. A slot moves through these stages (docs/durability.md, rules 1, 2 and 6):
 *
 *   freed     the BAT entry is cleared in RAM
 *   cleared   ... and on disk, durably; waits until nobody can still be reading or writing it
 *   punched   reads as zeros, not durably so
 *   ready     zeros and file size are durable: may be used
 *
 * Space behind the last structure enters at "punched" by extending the file.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct image;
struct writer;

struct slot_list {
	uint32_t *slot;
	uint32_t *tag; /* cleared: the epoch from which on it waits; ready and owed: 1 if its pages are its own (gaps.h) */
	unsigned first, count, capacity;
};

struct slots {
	struct slot_list freed, committing, cleared, punched, ready;
	struct slot_list owed; /* in the BAT, but the all-ones bitmap that a dynamic disk's new block gets is not written */
	uint64_t end;   /* of the last structure or slot in the file, bytes; the worker's */
	bool cut;       /* what lay behind `end` when the image was opened, the footer included, is gone; the worker's */
	/* Slots in the space between the blocks that the image had when opened (gaps.h); the worker's, but for _sought. */
	bool gaps_sought;
	uint32_t *gaps;
	unsigned gap_count, gaps_used;
	bool gaps_tight; /* some may not have their pages for themselves */
	uint64_t floor; /* bytes: what lies before it is, or becomes, metadata, and no slot any more (slots_reserve) */
	unsigned extra; /* wanted beyond the blocks that the disk can still get: for blocks that move */
	bool wanted;    /* ready slots run low */
	unsigned step;  /* slots of the next extension */
};

/*
 * Under the lock: a ready slot, or VHD_BAT_UNALLOCATED when there is none: wait for the worker. *ret_own_pages: the
 * bitmap may be written as whole pages, together with what follows.
 */
uint32_t slots_take(struct image *image, struct writer *writer, bool *ret_own_pages);

/* Under the lock: the commit must write the slot's bitmap. 0 or -ENOMEM. */
int slots_owe_bitmap(struct writer *writer, uint32_t slot, bool own_pages);

/* Under the lock: a slot whose BAT entry is cleared in the same breath. 0 or -ENOMEM. */
int slots_free(struct writer *writer, uint32_t slot);

/* Under the lock: a slot that was taken and never got into the BAT, but may have been written to. */
void slots_give_back(struct image *image, struct writer *writer, uint32_t slot);

/* Worker thread; called and returns with the lock held, but drops it: makes slots ready. 0 or -errno. */
int slots_prepare(struct image *image, struct writer *writer);

/* Worker thread; as above: gives the space of cleared slots back to the file system, as far as they are out of use. */
void slots_punch(struct image *image, struct writer *writer);

/* Around a commit, under the lock: what was freed before it is cleared once it has succeeded. */
void slots_commit_begin(struct writer *writer);
void slots_commit_end(struct image *image, struct writer *writer, bool success);

/* The end of the last structure that is in use, bytes. Worker thread, nobody else at work. */
uint64_t slots_used_end(const struct writer *writer);

/*
 * Takes away what lay behind the last structure when the image was opened, the footer included, if that was not done
 * yet: from then on the footer that counts is the copy at offset 0. Worker thread, without the lock. 0 or -errno.
 */
int slots_cut(struct image *image, struct writer *writer);

/* --- for compacting; all but the first in the worker thread, without the lock --- */

/* Under the lock: the lowest ready slot, if it lies below `limit`; else VHD_BAT_UNALLOCATED. */
uint32_t slots_take_below(struct writer *writer, uint32_t limit);

/* Punches what was given back, as far as it is out of use. */
void slots_punch_now(struct image *image, struct writer *writer);

/*
 * All slots that are used, in use still, or ready to be used. What is between them is nobody's from now on: it is to be
 * handed to slots_set_gaps, after a commit that begins, and epochs that pass, after this. Allocated. 0 or -ENOMEM.
 */
int slots_list_used(struct image *image, struct writer *writer, uint32_t **ret, size_t *ret_count);

/* The gaps from now on, in the order of the file; taken over. */
void slots_set_gaps(struct writer *writer, uint32_t *gaps_take, unsigned count, bool tight);

/* Makes the lowest gaps ready, `want` at most, to be used before what is ready further behind. 0 or -errno. */
int slots_prepare_gaps(struct image *image, struct writer *writer, unsigned want);

/*
 * Cuts the file behind what is in use, by `most` bytes at most; slots that were ready there are no more. 0: all is cut,
 * durably; 1: there is more to cut; -errno.
 */
int slots_cut_back(struct image *image, struct writer *writer, uint64_t most);
/*
 * Nothing that starts before `end` (bytes) becomes a slot any more, and the file reaches that far, in zeros where it was
 * shorter. Slots taken before are still out. Worker thread, without the lock. 0 or -errno.
 */
int slots_reserve(struct image *image, struct writer *writer, uint64_t end);

void slots_init(struct writer *writer);
void slots_done(struct slots *slots);
void slot_list_done(struct slot_list *list);

#endif
