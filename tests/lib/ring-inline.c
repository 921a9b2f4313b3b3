/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/lib/ring-inline.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "common/iov.h"
#include "tests/lib/random.h"

#define INLINE_SLOTS 320

struct ring_inline {
	struct ring base;
	struct store *stores[INLINE_SLOTS];
	struct ring_inline_config config;
	struct rng rng;

	/* Submitted and not yet run, run and not yet done. `moved` counts down the polls to wait. */
	struct ring_io *submitted, *ran;

	pthread_mutex_t lock;
	struct ring_io *posted, **posted_tail; /* under `lock` */
};

static struct ring_inline_config default_config;
static uint64_t rings_made;

void ring_inline_configure(const struct ring_inline_config *config)
{
	default_config = config ? *config : (struct ring_inline_config){0};
	__atomic_store_n(&rings_made, 0, __ATOMIC_RELAXED);
}

static void wake(struct ring_inline *r)
{
	const uint64_t one = 1;

	if (write(r->base.fd, &one, sizeof(one)) < 0)
		abort();
}

static int run_blocking(struct store *store, struct ring_io *io)
{
	uint64_t align = store->direct ? store->offset_align : 1;
	uint64_t offset = io->offset;
	void *whole;
	int rc = 0;

	if (io->op <= RING_WRITE && ((io->offset | io->length) & (align - 1)))
		return -EINVAL;
	switch (io->op) {
	case RING_READ:
		for (int i = 0; i < io->iovcnt && rc == 0; i++) {
			if (io->iov[i].iov_len)
				rc = store->ops->read(store, io->iov[i].iov_base, io->iov[i].iov_len, offset);
			offset += io->iov[i].iov_len;
		}
		return rc;
	case RING_WRITE:
		if (io->iovcnt == 1)
			return store->ops->write(store, io->iov->iov_base, io->length, offset);
		/* One write for those who trace: its parts are not torn apart more than any other's. */
		whole = malloc(io->length);
		if (!whole)
			return -ENOMEM;
		iov_copy_from(io->iov, io->iovcnt, whole, io->length);
		rc = store->ops->write(store, whole, io->length, offset);
		free(whole);
		return rc;
	case RING_SYNC:
		return store->ops->sync(store, STORE_BARRIER_METADATA);
	case RING_PUNCH:
		return store->ops->punch(store, io->offset, io->length);
	}
	return -EINVAL;
}

static uint64_t delay(struct ring_inline *r)
{
	return r->config.max_delay ? rng_below(&r->rng, r->config.max_delay + 1) : 0;
}

static unsigned list_length(const struct ring_io *list)
{
	unsigned n = 0;

	for (; list; list = list->next)
		n++;
	return n;
}

static void list_append(struct ring_io **list, struct ring_io *io)
{
	while (*list)
		list = &(*list)->next;
	io->next = NULL;
	*list = io;
}

/* Takes the next that is due off the list, in order or any. NULL: none. */
static struct ring_io *list_take_due(struct ring_inline *r, struct ring_io **list)
{
	unsigned due = 0, pick;

	for (struct ring_io *io = *list; io; io = io->next)
		due += io->moved == 0;
	if (!due)
		return NULL;
	pick = r->config.shuffle ? (unsigned)rng_below(&r->rng, due) : 0;
	for (;; list = &(*list)->next) {
		struct ring_io *io = *list;

		if (io->moved == 0 && pick-- == 0) {
			*list = io->next;
			io->next = NULL;
			return io;
		}
	}
}

static void list_count_down(struct ring_io *list)
{
	for (; list; list = list->next)
		if (list->moved)
			list->moved--;
}

static unsigned run_posted(struct ring_inline *r)
{
	struct ring_io *io;
	unsigned n = 0;

	pthread_mutex_lock(&r->lock);
	io = r->posted;
	r->posted = NULL;
	r->posted_tail = &r->posted;
	pthread_mutex_unlock(&r->lock);
	while (io) {
		struct ring_io *next = io->next;

		io->done(io, io->result);
		io = next;
		n++;
	}
	return n;
}

static unsigned poll_once(struct ring_inline *r)
{
	unsigned todo, done = 0;
	struct ring_io *io;
	uint64_t tokens;
	struct pollfd pfd = {.fd = r->base.fd, .events = POLLIN};

	if (poll(&pfd, 1, 0) > 0 && read(r->base.fd, &tokens, sizeof(tokens)) < 0)
		abort();
	done += run_posted(r);
	list_count_down(r->submitted);
	list_count_down(r->ran);
	/* What `done` submits waits for the next round, as it would for the kernel. */
	for (todo = list_length(r->submitted); todo && (io = list_take_due(r, &r->submitted)); todo--) {
		io->result = run_blocking(r->stores[io->slot], io);
		io->moved = delay(r);
		list_append(&r->ran, io);
	}
	for (todo = list_length(r->ran); todo && (io = list_take_due(r, &r->ran)); todo--) {
		done++;
		io->done(io, io->result);
	}
	if (r->submitted || r->ran)
		wake(r);
	return done;
}

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static int inline_poll(struct ring *ring, unsigned min_done, int timeout_ms)
{
	struct ring_inline *r = (struct ring_inline *)ring;
	int64_t end = timeout_ms > 0 ? now_ms() + timeout_ms : 0;
	unsigned done = poll_once(r);

	while (done < min_done && timeout_ms != 0) {
		struct pollfd pfd = {.fd = ring->fd, .events = POLLIN};
		int64_t left = timeout_ms < 0 ? -1 : end - now_ms();

		if (timeout_ms > 0 && left <= 0)
			break;
		if (poll(&pfd, 1, (int)left) < 0 && errno != EINTR)
			return -errno;
		done += poll_once(r);
	}
	return (int)done;
}

static void inline_submit(struct ring *ring, struct ring_io *io)
{
	struct ring_inline *r = (struct ring_inline *)ring;

	io->rest = NULL;
	io->bounce = NULL;
	io->moved = delay(r);
	list_append(&r->submitted, io);
	wake(r);
}

static void inline_post(struct ring *ring, struct ring_io *io, int result)
{
	struct ring_inline *r = (struct ring_inline *)ring;

	io->result = result;
	io->next = NULL;
	pthread_mutex_lock(&r->lock);
	*r->posted_tail = io;
	r->posted_tail = &io->next;
	/* Under the lock: afterwards the ring's thread may finish the io and free the ring. */
	wake(r);
	pthread_mutex_unlock(&r->lock);
}

static int inline_attach(struct ring *ring, struct ring_file *file)
{
	struct ring_inline *r = (struct ring_inline *)ring;

	for (int slot = 0; slot < INLINE_SLOTS; slot++) {
		if (!r->stores[slot]) {
			r->stores[slot] = (struct store *)((char *)file - offsetof(struct store, file));
			return slot;
		}
	}
	return -ENFILE;
}

static void inline_detach(struct ring *ring, int slot)
{
	((struct ring_inline *)ring)->stores[slot] = NULL;
}

static void inline_free(struct ring *ring)
{
	struct ring_inline *r = (struct ring_inline *)ring;

	if (r->submitted || r->ran || (r->posted && !ring->nudged))
		abort(); /* the contract: nothing is in flight */
	close(ring->fd);
	pthread_mutex_destroy(&r->lock);
	free(r);
}

static const struct ring_ops inline_ops = {
	.attach = inline_attach,
	.detach = inline_detach,
	.submit = inline_submit,
	.poll = inline_poll,
	.post = inline_post,
	.free = inline_free,
};

int ring_inline_new(struct ring **ret, struct err *err)
{
	struct ring_inline *r = calloc(1, sizeof(*r));
	int rc;

	if (!r)
		return err_set(err, -ENOMEM, "no memory for a ring");
	r->base.ops = &inline_ops;
	r->base.fd = eventfd(0, EFD_CLOEXEC);
	if (r->base.fd < 0) {
		rc = -errno;
		free(r);
		return err_set(err, rc, "no descriptor for a ring: %s", strerror(-rc));
	}
	r->config = default_config;
	r->rng = rng_fork(default_config.seed, __atomic_fetch_add(&rings_made, 1, __ATOMIC_RELAXED));
	r->posted_tail = &r->posted;
	pthread_mutex_init(&r->lock, NULL);
	*ret = &r->base;
	return 0;
}

int ring_inline_store_ring_new(struct store *store, struct ring **ret, struct err *err)
{
	(void)store;
	return ring_inline_new(ret, err);
}
