/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_RESIZE_H
#define VHD_RESIZE_H

/*
 * Between the files that give a disk another size: resize.c (the call), resize-fixed.c, resize-sparse.c (dynamic and
 * differencing disks), resize-table.c (room for a larger BAT), resize-recover.c (what a crash left).
 */

#include "vhd/job.h"
#include "vhd/resize-mark.h"
#include "vhd/upkeep.h"

struct resize {
	struct image *image;
	struct image_layer *l; /* the leaf, its file and its writer */
	struct layer *layer;
	struct writer *writer;
	uint64_t from, to; /* bytes */
	bool force;
	struct vhd_job *job;
	uint64_t cut_bytes;
	struct err *err;
};

/* Each does all of it, the new size published in the image; after an error the disk has its old size. */
int resize_fixed_grow(struct resize *resize);
int resize_fixed_shrink(struct resize *resize);
int resize_sparse_grow(struct resize *resize);
int resize_sparse_shrink(struct resize *resize);

/*
 * Gives the table on disk room for `block_count` entries, which are unallocated where they are new. Upkeep's thread. What
 * was done when it fails stays, and does no harm.
 */
int resize_table(struct resize *resize, uint32_t block_count);

/*
 * Requests beyond the smaller size are refused from here on, and none is at work. The layer keeps its size, and its
 * content, until that is switched; resize_publish ends this either way.
 */
void resize_withdraw(struct resize *resize);

/* Requests up to `size` are accepted from here on. */
void resize_publish(struct resize *resize, uint64_t size);

/* The layer's footer with another size, the geometry that goes with it, and a mark. */
struct footer resize_footer(const struct resize *resize, uint64_t size, enum resize_mark mark);

/*
 * Worker thread, without the lock: writes one sector that switches something. If it cannot be written, what was there
 * (`before`; may be NULL) is put back, and the image is broken if even that fails: nobody could tell which of them counts.
 */
int resize_write_sector(struct image *image, struct writer *writer, const void *sector, const void *before,
                        uint64_t offset);

/* The footer at `offset` is this one, on disk, durably, and in RAM. As above. */
int resize_put_footer(struct resize *resize, const struct footer *footer, uint64_t offset, enum store_barrier why);

/* -EINVAL, -ENOSPC and their like with a sentence: `what` as in "cannot be <what>". */
int resize_err(const struct resize *resize, int rc, const char *what);

/* VHD_E_WOULD_LOSE and the sentence about cut_bytes. */
int resize_would_lose(const struct resize *resize);

/*
 * Ends what a crash interrupted, before anything else is done to an image that was opened for writing; nobody is at work
 * yet. 0 or -errno.
 */
int resize_recover(struct image *image, struct writer *writer, struct err *err);

/* For merging: a layer below others, with a writer, gets the larger size that those have; what is new reads as zeros. */
int resize_layer_grow(struct image *image, struct image_layer *layer, uint64_t size, struct err *err);

#endif
