/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "common/ring-io.h"

#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "common/iov.h"

int ring_new(unsigned flags, struct ring **ret, struct err *err)
{
	const char *io = getenv("VHDKIT_IO");
	bool threads = (flags & RING_NO_URING) || (io && strcmp(io, "threads") == 0);

	if (!threads && ring_uring_new(ret, NULL) == 0)
		return 0;
	return ring_pool_new(ret, err);
}

static void nudge_done(struct ring_io *io, int result)
{
	(void)result;
	((struct ring *)((char *)io - offsetof(struct ring, nudge)))->nudged = false;
}

void ring_nudge(struct ring *ring)
{
	if (ring->nudged)
		return;
	ring->nudged = true;
	ring->nudge.done = nudge_done;
	ring_post(ring, &ring->nudge, 0);
}

static bool memory_is_aligned(const struct ring_io *io, const struct ring_file *file)
{
	uintptr_t starts = 0, lengths = 0;

	if (file->memory_align <= 1 && file->length_align <= 1)
		return true;
	for (int i = 0; i < io->iovcnt; i++) {
		starts |= (uintptr_t)io->iov[i].iov_base;
		lengths |= io->iov[i].iov_len;
	}
	return (file->memory_align <= 1 || (starts & (file->memory_align - 1)) == 0) &&
	       (file->length_align <= 1 || (lengths & (file->length_align - 1)) == 0);
}

int ring_io_begin(struct ring_io *io, const struct ring_file *file)
{
	size_t align = file->memory_align < sizeof(void *) ? sizeof(void *) : file->memory_align; /* posix_memalign's least */

	io->rest = NULL;
	io->bounce = NULL;
	io->moved = 0;
	io->result = 0;
	if (io->op > RING_WRITE || (io->iovcnt <= IOV_MAX && memory_is_aligned(io, file)))
		return 0;

	io->rest = malloc(sizeof(*io->rest));
	if (!io->rest || posix_memalign(&io->bounce, align, io->length)) {
		free(io->rest);
		io->rest = NULL;
		io->bounce = NULL;
		return -ENOMEM;
	}
	*io->rest = (struct iovec){io->bounce, io->length};
	io->restcnt = 1;
	if (io->op == RING_WRITE)
		iov_copy_from(io->iov, io->iovcnt, io->bounce, io->length);
	return 0;
}

bool ring_io_advance(struct ring_io *io, int64_t res)
{
	if (res == -EINTR || res == -EAGAIN)
		return false;
	if (res < 0) {
		io->result = (int)res;
		return true;
	}
	if (io->op > RING_WRITE)
		return true;
	io->moved += (uint64_t)res;
	if (io->moved >= io->length)
		return true;
	if (res == 0) {
		io->result = io->op == RING_READ ? -ENODATA : -EIO;
		return true;
	}

	if (!io->rest) {
		io->rest = malloc(sizeof(*io->rest) * (size_t)io->iovcnt);
		if (!io->rest) {
			io->result = -ENOMEM;
			return true;
		}
		memcpy(io->rest, io->iov, sizeof(*io->rest) * (size_t)io->iovcnt);
		io->restcnt = io->iovcnt;
	}
	io->restcnt = iov_skip(io->rest, io->restcnt, (uint64_t)res);
	return false;
}

void ring_io_end(struct ring_io *io)
{
	if (io->bounce && io->op == RING_READ && io->result == 0)
		iov_copy_to(io->iov, io->iovcnt, io->bounce, io->length);
	free(io->bounce);
	free(io->rest);
	io->bounce = NULL;
	io->rest = NULL;
	io->done(io, io->result);
}
