/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef VHD_SCAN_H
#define VHD_SCAN_H

/*
 * Reads one disk, or two side by side, from an offset to an offset with many requests in flight, and hands what it
 * read to a callback in order. Ranges that no disk holds data for are not read. One thread.
 *
 * A slot is the unit of work: a stretch of at most `chunk` bytes that does not cross a multiple of it. Its life:
 *     idle -> reading -> (in order) chunk() -> idle
 * where chunk() may keep the slot, to write from its buffer say, and give it back with scan_release.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/blk.h"
#include "common/err.h"
#include "common/progress.h"

#define SCAN_DISKS 2u
#define SCAN_DEPTH 16u
#define SCAN_CHUNK (1u << 20)

struct scan;

struct scan_slot {
	struct scan *scan;
	uint64_t offset;
	size_t length;
	uint8_t *data[SCAN_DISKS]; /* NULL: nothing but zeros there; else `length` bytes */
	void *user;                /* of whoever keeps the slot */

	/* scan.c's */
	uint8_t *buffer[SCAN_DISKS];
	struct blk_req req[SCAN_DISKS];
	struct iovec iov[SCAN_DISKS];
	unsigned reading;
	int result; /* the first read that failed */
	unsigned failed_disk;
	struct scan_slot *next;
};

struct scan_disk {
	const char *path; /* for sentences */
	struct blk *blk;
	struct blk_queue *queue;
	uint64_t size; /* beyond it, zeros */
};

struct scan_options {
	struct scan_disk disks[SCAN_DISKS];
	unsigned disk_count;
	uint64_t offset, end; /* `offset` a multiple of the disks' request_align */
	size_t chunk;         /* 0: SCAN_CHUNK; a power of two of 4 KiB at least */
	struct blk_queue *also; /* polled too: where kept slots are written; may be NULL */
	struct progress *progress; /* of the bytes from `offset` to `end`; may be NULL */
	/* 0; SCAN_KEEP; -errno ends the scan with the sentence that the callback set, SCAN_STOP ends it with 0. */
	int (*chunk_read)(void *user, struct scan_slot *slot, struct err *err);
	int (*zeros)(void *user, uint64_t offset, uint64_t length, struct err *err); /* may be NULL */
	void *user;
};

#define SCAN_KEEP 1
#define SCAN_STOP 2

/* 0 when all kept slots were released too; -EINTR with "interrupted" after a signal; -errno. */
int scan_run(const struct scan_options *options, struct err *err);

/* From a `done` that runs while scan_run polls. `result` below 0 ends the scan with the sentence in err, if not NULL. */
void scan_release(struct scan_slot *slot, int result, const struct err *err);

/* Polls every queue; sleeps, a quarter of a second at most, when nothing was done. -errno. */
int scan_wait(struct blk_queue *const *queues, unsigned count);

/* Whether `length` bytes are all zero. */
bool zero_test(const uint8_t *bytes, size_t length);

#endif
