/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TESTS_LIB_SCRIBBLE_H
#define TESTS_LIB_SCRIBBLE_H

/*
 * Random requests on a disk, from several threads with a queue each, and the same on a plain array; every byte read
 * is compared. Requests in flight together never overlap, except reads with reads.
 */

#include <stdbool.h>
#include <stdint.h>

#include "common/blk.h"

struct scribble {
	uint64_t seed;
	unsigned requests;   /* of all threads together */
	unsigned threads;
	unsigned depth;      /* in flight, each thread */
	uint32_t max_length; /* bytes; 0: 256 KiB */
	unsigned write_percent, zero_percent, flush_percent; /* all 0: 40, 12, 3; the rest reads */
};

/*
 * `model` holds the disk's size in bytes and follows its content. 0, or -errno with a sentence that says which request
 * of which seed went wrong and how.
 */
int scribble_run(struct blk *blk, uint8_t *model, const struct scribble *options, struct err *err);

/* Reads the whole disk. 0, or -EILSEQ and the first byte that differs, or -errno. */
int scribble_compare(struct blk *blk, const uint8_t *model, struct err *err);

/* A number from the environment, or `otherwise`. */
uint64_t environment_number(const char *name, uint64_t otherwise);

#endif
