/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TESTS_LIB_GUEST_H
#define TESTS_LIB_GUEST_H

/*
 * Random requests on a disk that is recorded: what is asked for and what is done stands in the trace between the
 * operations on the files (struct model_event), so that a model can follow it.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/blk.h"
#include "tests/lib/store-trace.h"

struct guest {
	uint64_t seed;
	unsigned requests;
	unsigned zero_percent, flush_percent, read_percent; /* the rest writes */
	bool whole_blocks;       /* discards of whole blocks only, and many writes of whole blocks */
	uint32_t block_size;     /* bytes; 0: there are no blocks */
	uint64_t size;           /* no request reaches beyond this; 0: the disk's */
	const atomic_bool *stop; /* ends it early; NULL: nothing does */
	atomic_bool running;     /* its queue is there, or there will be none */
	uint32_t last_id;        /* of the requests of the trace so far, and then of these */
};

/* In the calling thread, with a queue of its own. 0; -errno: of the first request that failed, or of the queue. */
int guest_run(struct blk *blk, struct trace *trace, struct guest *guest, struct err *err);

#endif
