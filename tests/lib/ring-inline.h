/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TESTS_LIB_RING_INLINE_H
#define TESTS_LIB_RING_INLINE_H

/*
 * A ring (common/ring.h) that runs its I/O in the thread that polls it, by the blocking functions of the store that a
 * ring_file is embedded in: for stores that no kernel knows.
 */

#include "common/ring.h"
#include "vhd/store.h"

struct ring_inline_config {
	uint64_t seed;
	bool shuffle;        /* what was submitted runs in any order, and completes in any other */
	unsigned max_delay;  /* polls that may pass before it runs, and again before it completes */
};

/*
 * How rings made from now on behave; each gets a generator of its own from the seed, in the order they are made.
 * NULL: in the order of submission, without delay. Not while another thread makes rings.
 */
void ring_inline_configure(const struct ring_inline_config *config);

int ring_inline_new(struct ring **ret, struct err *err);

/* A store_ops.ring_new. */
int ring_inline_store_ring_new(struct store *store, struct ring **ret, struct err *err);

#endif
