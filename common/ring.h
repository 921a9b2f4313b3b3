/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef COMMON_RING_H
#define COMMON_RING_H

/*
 * Asynchronous file I/O for one thread: submit, poll, completions. Three implementations stand behind it: io_uring
 * (ring.c), a thread pool where io_uring is denied, as in most containers (ring-pool.c), and, in tests, one that
 * runs everything in the calling thread against a fake file.
 *
 * All functions but ring_post belong to the thread that polls.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "common/err.h"

enum ring_op {
	RING_READ,
	RING_WRITE,
	RING_SYNC,  /* fdatasync */
	RING_PUNCH, /* [offset, offset + length) reads as zeros and takes no space; the file's size stays */
};

/* A file that I/O can be done on; embedded in whatever owns the descriptor. */
struct ring_file {
	int fd;
	/* Bytes, powers of two; 0 or 1: any will do. Memory whose pieces do not start and end so is bounced. */
	uint32_t memory_align, length_align;
};

struct ring_io {
	uint8_t op; /* enum ring_op */
	int slot;   /* from ring_attach */
	int iovcnt;
	const struct iovec *iov; /* borrowed until `done` */
	uint64_t offset;         /* bytes */
	uint64_t length;         /* bytes: the sum of iov, or RING_PUNCH's */
	/* Runs once, in ring_poll. 0: the whole length was transferred; -errno; -ENODATA: the file ended first. */
	void (*done)(struct ring_io *io, int result);

	/* The ring's, from submit or post to done. */
	struct ring_io *next;
	struct iovec *rest; /* what a short transfer left, or the bounce buffer; allocated */
	int restcnt;
	void *bounce;
	uint64_t moved;
	int result;
};

struct ring;

struct ring_ops {
	int (*attach)(struct ring *ring, struct ring_file *file);
	void (*detach)(struct ring *ring, int slot);
	void (*submit)(struct ring *ring, struct ring_io *io);
	int (*poll)(struct ring *ring, unsigned min_done, int timeout_ms);
	void (*post)(struct ring *ring, struct ring_io *io, int result);
	void (*free)(struct ring *ring);
};

struct ring {
	const struct ring_ops *ops;
	int fd; /* poll(2)-able: readable when ring_poll has something to do; borrowed */
	/*
	 * Requests (blk.h) that were finished while another queue on this ring was polled, and whose `done` has not run.
	 * A poll of any of them that precedes a sleep ends with ring_nudge while there are some.
	 */
	unsigned unheard;
	struct ring_io nudge;
	bool nudged;
};

#define RING_DEPTH 256u /* requests in the kernel at once; more wait in the ring */

#define RING_NO_URING 0x01u /* the thread pool, even where io_uring is allowed */

/*
 * io_uring where the kernel allows it, else the thread pool. The environment variable VHDKIT_IO=threads forces the
 * pool, so that any program can be tried as it runs in a container. -errno: no memory, descriptors or threads.
 */
int ring_new(unsigned flags, struct ring **ret, struct err *err);

/* Nothing may be in flight. NULL-safe. */
static inline void ring_free(struct ring *ring)
{
	if (ring)
		ring->ops->free(ring);
}

/* Makes `file` known to the ring (io_uring: as a registered file). Returns its slot, or -errno. */
static inline int ring_attach(struct ring *ring, struct ring_file *file)
{
	return ring->ops->attach(ring, file);
}

static inline void ring_detach(struct ring *ring, int slot)
{
	ring->ops->detach(ring, slot);
}

/* The io is the ring's until `done`. Starts no later than the next ring_poll. */
static inline void ring_submit(struct ring *ring, struct ring_io *io)
{
	ring->ops->submit(ring, io);
}

/*
 * Starts what was submitted, in one system call, and runs the `done` of what has finished. Returns when at least
 * min_done have run or after timeout_ms (-1: none, 0: at once), with the number that ran, or -errno.
 */
static inline int ring_poll(struct ring *ring, unsigned min_done, int timeout_ms)
{
	return ring->ops->poll(ring, min_done, timeout_ms);
}

/*
 * From any thread: `io`, which was not submitted, is done with `result`; its `done` runs in the ring's thread, which
 * is woken. The ring must live until then.
 */
static inline void ring_post(struct ring *ring, struct ring_io *io, int result)
{
	ring->ops->post(ring, io, result);
}

/* Makes `fd` readable until the next ring_poll, which may count one more than was asked for. */
void ring_nudge(struct ring *ring);

#endif
