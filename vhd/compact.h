/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_COMPACT_H
#define VHD_COMPACT_H

/* Between the files that compact an open disk: compact.c, compact-zeros.c. */

#include "vhd/job.h"
#include "vhd/upkeep.h"

struct compact {
	struct image *image;
	struct image_layer *leaf; /* with its writer; no other comes while the upkeep is held */
	const struct vhd_compact_options *options;
	struct vhd_compact_result *result;
	struct err *err;
	uint64_t total;  /* as job_total */
	uint8_t *moved;  /* a bit for each block: once is enough */
	uint8_t *buffer; /* COMPACT_PIECE */
	uint8_t *bits;   /* of a block */
};

#define COMPACT_PIECE IMAGE_ZEROS

/* Gives back blocks of zeros and what is not used. 0 or -errno with a sentence; the same for the others. */
int compact_zeros(struct compact *compact);

/* Fixed disks: punches holes where there are zeros. */
int compact_fixed(struct compact *compact);

/* Makes durable what was done, and punches what was given back, as soon as nobody can be using it. */
int compact_settle(struct compact *compact);

/* A step of the job, with its sentence. */
int compact_step(struct compact *compact, uint64_t bytes);

#endif
