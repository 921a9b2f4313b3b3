/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef VHD_LOAD_H
#define VHD_LOAD_H

/* Puts load on a disk and measures it: what `vhd bench` runs. */

#include <stdbool.h>
#include <stdint.h>

#include "common/blk.h"
#include "common/err.h"
#include "vhd/histogram.h"

struct load_options {
	bool write, random;
	uint32_t request_bytes; /* a multiple of the disk's request_align */
	unsigned depth;         /* requests in flight, a thread */
	unsigned threads;
	uint64_t count;      /* requests of all threads together; 0: until runtime_ns is over */
	uint64_t runtime_ns; /* 0: until `count` */
	uint64_t stride;     /* sequential: bytes from one request's offset to the next; wraps at `size` */
	uint64_t size;       /* bytes of the disk used; request_bytes at least */
	uint64_t flush_every; /* a FLUSH after so many requests of a thread; 0: none */
	uint64_t seed;
};

struct load_result {
	uint64_t requests, flushes;
	uint64_t elapsed_ns;
	double cpu_seconds; /* of the process, kernel and user */
	uint64_t flush_ns;  /* the FLUSH after a writing run, not in elapsed_ns */
	struct histogram latency_ns;
};

/* 0; -EINTR after a signal, with what was done in `ret`; -errno: a request failed, or no memory or threads. */
int load_run(struct blk *blk, const struct load_options *options, struct load_result *ret, struct err *err);

#endif
