/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef COMMON_RING_IO_H
#define COMMON_RING_IO_H

/*
 * What both kinds of ring do with a ring_io: bounce misaligned memory, go on after a short transfer. Only for ring*.c.
 */

#include "common/ring.h"

int ring_uring_new(struct ring **ret, struct err *err); /* -ENOSYS, -EPERM, ...: io_uring cannot be had */
int ring_pool_new(struct ring **ret, struct err *err);

/* Before the first transfer: clears the ring's fields, bounces where `file` asks for it, or more than IOV_MAX pieces do. 0 or -ENOMEM. */
int ring_io_begin(struct ring_io *io, const struct ring_file *file);

/* The iovec of the next transfer. */
static inline const struct iovec *ring_io_iov(const struct ring_io *io, int *ret_count)
{
	*ret_count = io->rest ? io->restcnt : io->iovcnt;
	return io->rest ? io->rest : io->iov;
}

/*
 * After a transfer gave `res` (bytes or -errno): true when the io is complete, with io->result set; false when another
 * transfer must follow.
 */
bool ring_io_advance(struct ring_io *io, int64_t res);

/* Copies a bounced read out, frees, and runs `done`. */
void ring_io_end(struct ring_io *io);

#endif
