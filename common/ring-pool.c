/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The ring over a pool of threads that block in preadv and pwritev, for where io_uring is denied. Threads start when
 * there is work that no idle one can take, up to POOL_THREADS, and live as long as the ring.
 */
#include "common/ring-io.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define POOL_THREADS 16
#define POOL_SLOTS 320

struct pool {
	struct ring base;
	const struct ring_file *files[POOL_SLOTS];

	pthread_mutex_t lock;
	pthread_cond_t work;
	/* Under `lock`: */
	struct ring_io *todo, **todo_tail;
	struct ring_io *finished, **finished_tail;
	unsigned threads, idle, pending;
	bool stop;

	pthread_t thread[POOL_THREADS];
};

static int64_t pool_transfer(const struct ring_file *file, struct ring_io *io)
{
	int count;
	const struct iovec *iov = ring_io_iov(io, &count);
	off_t offset = (off_t)(io->offset + io->moved);
	int64_t res = -1;

	switch (io->op) {
	case RING_READ:
		res = preadv(file->fd, iov, count, offset);
		break;
	case RING_WRITE:
		res = pwritev(file->fd, iov, count, offset);
		break;
	case RING_SYNC:
		res = fdatasync(file->fd);
		break;
	case RING_PUNCH:
		res = fallocate(file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, (off_t)io->length);
		break;
	}
	return res < 0 ? -errno : res;
}

static void pool_finish(struct pool *p, struct ring_io *io)
{
	const uint64_t one = 1;

	io->next = NULL;
	/* One token while the list is not empty. Under the lock, as in ring.c's uring_post. */
	if (!p->finished && write(p->base.fd, &one, sizeof(one)) < 0)
		abort(); /* cannot happen: a counter that is always read back to 0 does not overflow */
	*p->finished_tail = io;
	p->finished_tail = &io->next;
}

static void *pool_main(void *arg)
{
	struct pool *p = arg;

	pthread_mutex_lock(&p->lock);
	for (;;) {
		struct ring_io *io;
		const struct ring_file *file;

		while (!p->todo && !p->stop) {
			p->idle++;
			pthread_cond_wait(&p->work, &p->lock);
			p->idle--;
		}
		if (!p->todo)
			break;
		io = p->todo;
		p->todo = io->next;
		p->pending--;
		if (!p->todo)
			p->todo_tail = &p->todo;
		file = p->files[io->slot];
		pthread_mutex_unlock(&p->lock);
		while (!ring_io_advance(io, pool_transfer(file, io)))
			;
		pthread_mutex_lock(&p->lock);
		pool_finish(p, io);
	}
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

static void pool_submit(struct ring *ring, struct ring_io *io)
{
	struct pool *p = (struct pool *)ring;
	int rc = ring_io_begin(io, p->files[io->slot]);

	pthread_mutex_lock(&p->lock);
	if (rc) {
		io->result = rc;
		pool_finish(p, io);
	} else {
		io->next = NULL;
		*p->todo_tail = io;
		p->todo_tail = &io->next;
		p->pending++;
		/* ring_new made the first thread, so a failure here only means less at a time. */
		if (p->pending > p->idle && p->threads < POOL_THREADS &&
		    pthread_create(&p->thread[p->threads], NULL, pool_main, p) == 0)
			p->threads++;
		pthread_cond_signal(&p->work);
	}
	pthread_mutex_unlock(&p->lock);
}

static unsigned pool_reap(struct pool *p)
{
	struct ring_io *io;
	uint64_t token;
	unsigned n = 0;

	pthread_mutex_lock(&p->lock);
	io = p->finished;
	if (io && read(p->base.fd, &token, sizeof(token)) < 0)
		abort(); /* cannot happen: the token is there while the list is not empty */
	p->finished = NULL;
	p->finished_tail = &p->finished;
	pthread_mutex_unlock(&p->lock);
	while (io) {
		struct ring_io *next = io->next;

		ring_io_end(io);
		io = next;
		n++;
	}
	return n;
}

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static int pool_poll(struct ring *ring, unsigned min_done, int timeout_ms)
{
	struct pool *p = (struct pool *)ring;
	int64_t end = timeout_ms > 0 ? now_ms() + timeout_ms : 0;
	unsigned done = pool_reap(p);

	while (done < min_done && timeout_ms != 0) {
		struct pollfd pfd = {.fd = ring->fd, .events = POLLIN};
		int64_t left = timeout_ms < 0 ? -1 : end - now_ms();

		if (timeout_ms > 0 && left <= 0)
			break;
		if (poll(&pfd, 1, (int)left) < 0 && errno != EINTR)
			return -errno;
		done += pool_reap(p);
	}
	return (int)done;
}

static void pool_post(struct ring *ring, struct ring_io *io, int result)
{
	struct pool *p = (struct pool *)ring;

	io->rest = NULL;
	io->bounce = NULL;
	io->result = result;
	pthread_mutex_lock(&p->lock);
	pool_finish(p, io);
	pthread_mutex_unlock(&p->lock);
}

static int pool_attach(struct ring *ring, struct ring_file *file)
{
	struct pool *p = (struct pool *)ring;

	for (int slot = 0; slot < POOL_SLOTS; slot++) {
		if (!p->files[slot]) {
			p->files[slot] = file;
			return slot;
		}
	}
	return -ENFILE;
}

static void pool_detach(struct ring *ring, int slot)
{
	((struct pool *)ring)->files[slot] = NULL;
}

static void pool_free(struct ring *ring)
{
	struct pool *p = (struct pool *)ring;

	pthread_mutex_lock(&p->lock);
	p->stop = true;
	pthread_cond_broadcast(&p->work);
	pthread_mutex_unlock(&p->lock);
	for (unsigned i = 0; i < p->threads; i++)
		pthread_join(p->thread[i], NULL);
	close(ring->fd);
	pthread_mutex_destroy(&p->lock);
	pthread_cond_destroy(&p->work);
	free(p);
}

static const struct ring_ops pool_ops = {
	.attach = pool_attach,
	.detach = pool_detach,
	.submit = pool_submit,
	.poll = pool_poll,
	.post = pool_post,
	.free = pool_free,
};

int ring_pool_new(struct ring **ret, struct err *err)
{
	struct pool *p = calloc(1, sizeof(*p));
	int rc;

	if (!p)
		return err_set(err, -ENOMEM, "no memory for an I/O thread pool");
	p->base.ops = &pool_ops;
	p->todo_tail = &p->todo;
	p->finished_tail = &p->finished;
	p->base.fd = eventfd(0, EFD_CLOEXEC);
	if (p->base.fd < 0) {
		rc = -errno;
		free(p);
		return err_set(err, rc, "no descriptor for an I/O thread pool");
	}
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->work, NULL);
	rc = pthread_create(&p->thread[0], NULL, pool_main, p);
	if (rc) {
		pool_free(&p->base);
		return err_set(err, -rc, "no thread for I/O");
	}
	p->threads = 1;
	*ret = &p->base;
	return 0;
}
