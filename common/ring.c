/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The ring over io_uring. One system call starts a batch and reaps what has finished. Files are registered, so that a
 * request takes no reference on them. An eventfd read is always in flight: ring_post writes to it, which wakes a
 * thread that waits for completions.
 *
 * Whoever sleeps on the ring's own descriptor is not woken by what completes when the kernel defers completions to the
 * next system call (DEFER_TASKRUN; seen with Linux 6.18). So base.fd is a second eventfd, which the kernel signals for
 * completions, but only from a poll that asks for nothing to the next poll: it costs other polls nothing.
 */
#include "common/ring-io.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* VHD_MAX_LAYERS files of one chain and then some; more than that go by descriptor. */
#define RING_SLOTS 320
#define TRANSFER_MAX (1u << 30)

struct uring {
	struct ring base;
	struct io_uring u;
	bool registered; /* the kernel has a table of files */
	unsigned in_flight;
	struct ring_io *waiting, **waiting_tail; /* beyond RING_DEPTH, or ready before any transfer */
	const struct ring_file *files[RING_SLOTS];

	bool ready_armed; /* the kernel signals base.fd */
	int wake_fd;
	uint64_t wake_value;
	bool wake_armed;

	pthread_mutex_t post_lock;
	struct ring_io *posted, **posted_tail; /* under post_lock */
};

static void uring_prepare(struct uring *r, struct ring_io *io, struct io_uring_sqe *sqe)
{
	int count;
	const struct iovec *iov = ring_io_iov(io, &count);
	uint64_t offset = io->offset + io->moved;
	int fd = r->registered ? io->slot : r->files[io->slot]->fd;
	/* The kernel moves less than 2 GiB at a time; what is left follows as after any short transfer. */
	unsigned length = count == 1 ? (unsigned)(iov->iov_len < TRANSFER_MAX ? iov->iov_len : TRANSFER_MAX) : 0;

	switch (io->op) {
	case RING_READ:
		if (count == 1)
			io_uring_prep_read(sqe, fd, iov->iov_base, length, offset);
		else
			io_uring_prep_readv(sqe, fd, iov, (unsigned)count, offset);
		break;
	case RING_WRITE:
		if (count == 1)
			io_uring_prep_write(sqe, fd, iov->iov_base, length, offset);
		else
			io_uring_prep_writev(sqe, fd, iov, (unsigned)count, offset);
		break;
	case RING_SYNC:
		io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
		break;
	case RING_PUNCH:
		io_uring_prep_fallocate(sqe, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
		                        (off_t)io->length);
		break;
	}
	if (r->registered)
		sqe->flags |= IOSQE_FIXED_FILE;
	io_uring_sqe_set_data(sqe, io);
}

static void uring_wait_in_line(struct uring *r, struct ring_io *io)
{
	io->next = NULL;
	*r->waiting_tail = io;
	r->waiting_tail = &io->next;
}

static bool uring_start(struct uring *r, struct ring_io *io)
{
	struct io_uring_sqe *sqe;

	if (r->in_flight >= RING_DEPTH || !(sqe = io_uring_get_sqe(&r->u)))
		return false;
	uring_prepare(r, io, sqe);
	r->in_flight++;
	return true;
}

static void uring_submit(struct ring *ring, struct ring_io *io)
{
	struct uring *r = (struct uring *)ring;
	int rc = ring_io_begin(io, r->files[io->slot]);

	if (rc)
		ring->ops->post(ring, io, rc);
	else if (r->waiting || !uring_start(r, io))
		uring_wait_in_line(r, io);
}

static void uring_start_waiting(struct uring *r)
{
	while (r->waiting && uring_start(r, r->waiting)) {
		r->waiting = r->waiting->next;
		if (!r->waiting)
			r->waiting_tail = &r->waiting;
	}
}

static void uring_arm_wake(struct uring *r)
{
	struct io_uring_sqe *sqe = r->wake_armed ? NULL : io_uring_get_sqe(&r->u);

	if (!sqe)
		return;
	io_uring_prep_read(sqe, r->wake_fd, &r->wake_value, sizeof(r->wake_value), 0);
	io_uring_sqe_set_data(sqe, NULL);
	r->wake_armed = true;
}

static unsigned uring_run_posted(struct uring *r)
{
	struct ring_io *io;
	unsigned n = 0;

	pthread_mutex_lock(&r->post_lock);
	io = r->posted;
	r->posted = NULL;
	r->posted_tail = &r->posted;
	pthread_mutex_unlock(&r->post_lock);
	while (io) {
		struct ring_io *next = io->next;

		io->done(io, io->result);
		io = next;
		n++;
	}
	return n;
}

static unsigned uring_reap(struct uring *r)
{
	struct io_uring_cqe *cqe;
	unsigned head, seen = 0, done = 0;

	io_uring_for_each_cqe(&r->u, head, cqe) {
		struct ring_io *io = io_uring_cqe_get_data(cqe);
		int res = cqe->res;

		seen++;
		if (!io) {
			r->wake_armed = false;
			continue;
		}
		if (cqe->user_data == LIBURING_UDATA_TIMEOUT) /* of a poll with a limit, before Linux 5.11 */
			continue;
		r->in_flight--;
		if (!ring_io_advance(io, res)) {
			uring_wait_in_line(r, io);
			continue;
		}
		ring_io_end(io);
		done++;
	}
	io_uring_cq_advance(&r->u, seen);
	return done;
}

/* Before completions are looked for: what comes later than that signals. */
static void uring_ready_arm(struct uring *r, bool arm)
{
	uint64_t value;

	if (r->ready_armed && read(r->base.fd, &value, sizeof(value)) < 0 && errno != EAGAIN)
		abort(); /* cannot happen: it is an eventfd of ours that does not block */
	if (arm != r->ready_armed)
		(void)io_uring_cq_eventfd_toggle(&r->u, arm);
	r->ready_armed = arm;
}

static int uring_poll(struct ring *ring, unsigned min_done, int timeout_ms)
{
	struct uring *r = (struct uring *)ring;
	struct __kernel_timespec ts = {timeout_ms / 1000, (timeout_ms % 1000) * 1000000LL};
	unsigned done = 0;

	if (r->ready_armed || min_done == 0)
		uring_ready_arm(r, min_done == 0);
	for (;;) {
		struct io_uring_cqe *cqe;
		int rc;

		uring_start_waiting(r);
		uring_arm_wake(r);
		done += uring_run_posted(r);
		if (done >= min_done || timeout_ms == 0)
			rc = io_uring_submit_and_get_events(&r->u);
		else if (timeout_ms < 0)
			rc = io_uring_submit_and_wait(&r->u, 1);
		else
			rc = io_uring_submit_and_wait_timeout(&r->u, &cqe, 1, &ts, NULL);
		if (rc < 0 && rc != -EINTR && rc != -ETIME && rc != -EAGAIN && rc != -EBUSY)
			return rc;
		done += uring_reap(r);
		done += uring_run_posted(r);
		if (done >= min_done || timeout_ms == 0 || rc == -ETIME)
			break;
	}
	/*
	 * What `done` callbacks submitted goes to the kernel with the next poll. But whoever asked for nothing to be done
	 * sleeps on the descriptor next, and only what was started wakes it.
	 */
	if (min_done == 0) {
		uring_start_waiting(r);
		if (io_uring_sq_ready(&r->u)) {
			int rc = io_uring_submit(&r->u);

			if (rc < 0 && rc != -EINTR && rc != -EAGAIN && rc != -EBUSY)
				return rc;
		}
	}
	return (int)done;
}

static void uring_post(struct ring *ring, struct ring_io *io, int result)
{
	struct uring *r = (struct uring *)ring;
	const uint64_t one = 1;
	bool first;

	io->result = result;
	io->next = NULL;
	pthread_mutex_lock(&r->post_lock);
	first = !r->posted;
	*r->posted_tail = io;
	r->posted_tail = &io->next;
	/* Written under the lock: once it is released the ring's thread may finish the io and free the ring. */
	if (first && write(r->wake_fd, &one, sizeof(one)) < 0)
		abort(); /* cannot happen: a counter that is always read back to 0 does not overflow */
	/* The kernel does not let one eventfd signal another, so a sleeper on base.fd is woken from here. */
	if (first && write(r->base.fd, &one, sizeof(one)) < 0 && errno != EAGAIN)
		abort(); /* cannot happen: it is an eventfd of ours that does not block */
	pthread_mutex_unlock(&r->post_lock);
}

static int uring_attach(struct ring *ring, struct ring_file *file)
{
	struct uring *r = (struct uring *)ring;

	for (int slot = 0; slot < RING_SLOTS; slot++) {
		int rc;

		if (r->files[slot])
			continue;
		if (r->registered) {
			rc = io_uring_register_files_update(&r->u, (unsigned)slot, &file->fd, 1);
			if (rc < 0)
				return rc;
		}
		r->files[slot] = file;
		return slot;
	}
	return -ENFILE;
}

static void uring_detach(struct ring *ring, int slot)
{
	struct uring *r = (struct uring *)ring;
	int none = -1;

	if (r->registered)
		(void)io_uring_register_files_update(&r->u, (unsigned)slot, &none, 1);
	r->files[slot] = NULL;
}

static void uring_free(struct ring *ring)
{
	struct uring *r = (struct uring *)ring;

	io_uring_queue_exit(&r->u);
	close(r->wake_fd);
	close(r->base.fd);
	pthread_mutex_destroy(&r->post_lock);
	free(r);
}

static const struct ring_ops uring_ops = {
	.attach = uring_attach,
	.detach = uring_detach,
	.submit = uring_submit,
	.poll = uring_poll,
	.post = uring_post,
	.free = uring_free,
};

int ring_uring_new(struct ring **ret, struct err *err)
{
	/* The cheapest first; older kernels refuse flags they do not know. */
	static const unsigned setups[] = {
		IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
		IORING_SETUP_COOP_TASKRUN,
		0,
	};
	struct uring *r = calloc(1, sizeof(*r));
	int rc = -EINVAL;

	if (!r)
		return err_set(err, -ENOMEM, "no memory for an I/O ring");
	for (size_t i = 0; rc == -EINVAL && i < sizeof(setups) / sizeof(*setups); i++)
		rc = io_uring_queue_init(RING_DEPTH + 2, &r->u, setups[i]);
	if (rc < 0) {
		free(r);
		return err_set(err, rc, "io_uring is not allowed here");
	}
	r->wake_fd = eventfd(0, EFD_CLOEXEC);
	r->base.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	rc = r->wake_fd < 0 || r->base.fd < 0 ? -EMFILE : io_uring_register_eventfd(&r->u, r->base.fd);
	if (rc < 0) {
		io_uring_queue_exit(&r->u);
		if (r->wake_fd >= 0)
			close(r->wake_fd);
		if (r->base.fd >= 0)
			close(r->base.fd);
		free(r);
		return err_set(err, rc, "no descriptor for an I/O ring");
	}
	/* Kernels before 5.8 cannot turn it off: there it only signals more often. */
	(void)io_uring_cq_eventfd_toggle(&r->u, false);
	r->registered = io_uring_register_files_sparse(&r->u, RING_SLOTS) == 0;
	r->waiting_tail = &r->waiting;
	r->posted_tail = &r->posted;
	pthread_mutex_init(&r->post_lock, NULL);
	r->base.ops = &uring_ops;
	*ret = &r->base;
	return 0;
}
