/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Each image that is open for writing has one thread for what may block: getting slots ready ahead of need, and
 * committing, on a FLUSH or a few seconds after the first change. That only one thread ever syncs a file has a
 * second use: the kernel reports a failed write-back once, to whoever syncs first.
 */
#include <errno.h>
#include <string.h>

#include "vhd/queue.h"

#define COMMIT_AFTER_SECONDS 5
/* How soon to look again whether readers have left a slot that was given back. */
#define EPOCH_RETRY_NS 20000000
/* How long a write waits for space that was given back but is in use still, where there is no other. */
#define SPACE_WAIT_SECONDS 5

void worker_wake(struct image *image)
{
	pthread_cond_signal(&image->worker_wake);
}

void image_epoch_advance(struct image *image)
{
	uint32_t before = atomic_load(&image->epoch) - 1;

	if (image->maps > 0)
		return;
	/* Pairs with epoch_enter: a queue that is not counted here looks up only after this, and finds no old entry. */
	for (struct image_queue *q = image->queues; q; q = q->next)
		if (atomic_load(&q->active[before & 1]) > 0)
			return;
	atomic_fetch_add(&image->epoch, 1);
}

static struct part *take_flush_waiters(struct image *image)
{
	struct part *list = image->flush_waiters;

	image->flush_waiters = NULL;
	image->flush_waiters_tail = &image->flush_waiters;
	return list;
}

static struct part *take_slot_waiters(struct writer *w)
{
	struct part *list = w->slot_waiters;

	w->slot_waiters = NULL;
	w->slot_waiters_tail = &w->slot_waiters;
	return list;
}

static bool reclaim_waits(const struct image *image)
{
	for (const struct writer *w = image->writers; w; w = w->next)
		if (w->slots.cleared.count > 0)
			return true;
	return image_has_retired(image);
}

static void reclaim(struct image *image)
{
	image_epoch_advance(image);
	image_free_retired(image);
	image_reclaim_retired(image);
	for (struct writer *w = image->writers; w; w = w->next)
		slots_punch(image, w);
}

static void do_commit(struct image *image)
{
	struct part *waiters = image->flushes_held ? NULL : take_flush_waiters(image);

	image->worker_result = image_commit(image);
	if (image->worker_result) /* not again at once */
		clock_gettime(CLOCK_MONOTONIC, &image->dirty_since);
	parts_post(waiters, image->worker_result);
	reclaim(image);
}

static bool is_out_of_space(int rc)
{
	return rc == -ENOSPC || rc == -EDQUOT || rc == -EFBIG;
}

/* What was freed but not yet cleared on disk can still help. */
static int prepare_by_freeing(struct image *image, struct writer *w, int rc)
{
	if (w->slots.freed.count == 0 && w->slots.cleared.count == 0)
		return rc;
	if (w->slots.freed.count > 0 || image->flush_waiters)
		do_commit(image);
	reclaim(image);
	reclaim(image);
	return slots_prepare(image, w);
}

/* Sleeps for a moment, or until there is something new to do. */
static void wait_for_epoch(struct image *image)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += EPOCH_RETRY_NS;
	if (until.tv_nsec >= 1000000000) {
		until.tv_nsec -= 1000000000;
		until.tv_sec++;
	}
	pthread_cond_timedwait(&image->worker_wake, &image->lock, &until);
}

/* Not for ever: whoever has it may have stopped to poll, against the contract of queues. */
static bool space_is_still_in_use(const struct image *image, struct writer *w)
{
	struct timespec now;

	if (!w->slot_waiters || w->slots.ready.count > 0 || w->slots.cleared.count == 0 || image->maps > 0)
		return false;
	clock_gettime(CLOCK_MONOTONIC, &now);
	if (w->space_awaited == 0)
		w->space_awaited = now.tv_sec;
	return now.tv_sec - w->space_awaited < SPACE_WAIT_SECONDS;
}

static void do_prepare(struct image *image, struct writer *w)
{
	int rc = slots_prepare(image, w);

	if (is_out_of_space(rc) && w->slot_waiters) {
		rc = prepare_by_freeing(image, w, rc);
		if (is_out_of_space(rc) && space_is_still_in_use(image, w)) {
			wait_for_epoch(image);
			return;
		}
	}
	w->space_awaited = 0;
	/* Ahead of need a failure means nothing yet. Who waits hears of it, unless there are slots after all. */
	if (rc == 0 || w->slots.ready.count > 0)
		parts_post(take_slot_waiters(w), 0);
	else
		parts_post(take_slot_waiters(w), rc);
}

static struct writer *writer_in_need(const struct image *image)
{
	for (struct writer *w = image->writers; w; w = w->next)
		if (w->slot_waiters || w->slots.wanted)
			return w;
	return NULL;
}

struct worker_call {
	struct worker_call *next;
	int (*call)(void *arg);
	void *arg;
	bool flush, ended;
	int result;
};

/* Called and returns with the lock held. */
static void do_calls(struct image *image)
{
	struct worker_call *c = image->calls;

	image->calls = NULL;
	while (c) {
		struct worker_call *next = c->next;

		if (c->flush) {
			c->result = image_commit(image);
		} else {
			pthread_mutex_unlock(&image->lock);
			c->result = c->call(c->arg);
			pthread_mutex_lock(&image->lock);
		}
		c->ended = true;
		c = next;
	}
	pthread_cond_broadcast(&image->worker_done);
}

static int call_and_wait(struct image *image, struct worker_call *c)
{
	struct worker_call **at;

	pthread_mutex_lock(&image->lock);
	for (at = &image->calls; *at; at = &(*at)->next)
		;
	*at = c;
	worker_wake(image);
	while (!c->ended)
		pthread_cond_wait(&image->worker_done, &image->lock);
	pthread_mutex_unlock(&image->lock);
	return c->result;
}

int worker_call(struct image *image, int (*call)(void *arg), void *arg)
{
	return call_and_wait(image, &(struct worker_call){.call = call, .arg = arg});
}

int worker_flush(struct image *image)
{
	return call_and_wait(image, &(struct worker_call){.flush = true});
}

static bool commit_is_due(const struct image *image)
{
	struct timespec now;

	if (image->flush_waiters && !image->flushes_held)
		return true;
	if (!image_is_dirty(image) || atomic_load(&image->broken))
		return false;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec - image->dirty_since.tv_sec >= COMMIT_AFTER_SECONDS;
}

static bool work_is_due(const struct image *image)
{
	return image->worker_stopping || image->calls || writer_in_need(image) || commit_is_due(image);
}

static void wait_for_work(struct image *image)
{
	struct timespec until;

	if (reclaim_waits(image) && image->maps == 0) {
		wait_for_epoch(image);
		return;
	}
	if (image_is_dirty(image) && !atomic_load(&image->broken)) {
		until = image->dirty_since;
		until.tv_sec += COMMIT_AFTER_SECONDS;
	} else {
		pthread_cond_wait(&image->worker_wake, &image->lock);
		return;
	}
	pthread_cond_timedwait(&image->worker_wake, &image->lock, &until);
}

static int settle_all(struct image *image)
{
	int rc = 0;

	for (struct writer *w = image->writers; w && rc == 0; w = w->next)
		rc = writer_settle(image, w);
	return rc;
}

static void *worker_main(void *arg)
{
	struct image *image = arg;
	struct writer *w;

	pthread_mutex_lock(&image->lock);
	while (!image->worker_stopping) {
		if (image->calls) {
			do_calls(image);
		} else if ((w = writer_in_need(image))) {
			do_prepare(image, w);
		} else if (commit_is_due(image)) {
			do_commit(image);
		} else {
			if (reclaim_waits(image))
				reclaim(image);
			/* reclaim dropped the lock: a wake-up may have come while nobody waited for it. */
			if (!work_is_due(image))
				wait_for_work(image);
		}
	}
	do_commit(image);
	pthread_mutex_unlock(&image->lock);
	if (image->worker_result == 0)
		image->worker_result = settle_all(image);
	ring_free(image->worker_ring); /* its files with it */
	image->worker_ring = NULL;
	return NULL;
}

static void write_done(struct ring_io *io, int result)
{
	struct worker_write *w = (struct worker_write *)io;

	if (result && !*w->result)
		*w->result = result;
	--*w->left;
}

/* The file's slot in the worker's ring, made when first needed; -errno. */
static int worker_slot(struct image *image, struct image_file *file)
{
	int rc;

	if (!image->worker_ring) {
		rc = file->store->ops->ring_new(file->store, &image->worker_ring, NULL);
		if (rc) {
			image->worker_ring = NULL;
			return rc;
		}
	}
	if (file->worker_slot < 0)
		file->worker_slot = ring_attach(image->worker_ring, &file->store->file);
	return file->worker_slot;
}

static bool ring_can_write(const struct store *store, const struct worker_write *w)
{
	return ((w->offset | w->iov.iov_len) & (store->offset_align - 1)) == 0;
}

int worker_write_all(struct image *image, struct image_file *file, struct worker_write *writes, unsigned count)
{
	struct store *store = file->store;
	unsigned left = 0;
	int result = 0;

	for (unsigned i = 0; i < count; i++) {
		struct worker_write *w = &writes[i];
		int slot = -1, rc = 0;

		if (count > 1 && ring_can_write(store, w))
			slot = worker_slot(image, file);
		if (slot < 0) {
			rc = store->ops->write(store, w->iov.iov_base, w->iov.iov_len, w->offset);
			if (rc && !result)
				result = rc;
			continue;
		}
		w->io = (struct ring_io){
			.op = RING_WRITE,
			.slot = slot,
			.iov = &w->iov,
			.iovcnt = 1,
			.offset = w->offset,
			.length = w->iov.iov_len,
			.done = write_done,
		};
		w->result = &result;
		w->left = &left;
		left++;
		ring_submit(image->worker_ring, &w->io);
	}
	while (left > 0) {
		int rc = ring_poll(image->worker_ring, 1, -1);

		/* The kernel still owns the writes' memory: there is no way on without them. */
		if (rc < 0 && !result)
			result = rc;
	}
	return result;
}

int worker_start(struct image *image, struct err *err)
{
	int rc = pthread_create(&image->worker, NULL, worker_main, image);

	if (rc)
		return err_set(err, -rc, "%s: no thread for writing: %s", image_leaf(image)->path, strerror(rc));
	image->worker_runs = true;
	return 0;
}

int worker_stop(struct image *image)
{
	if (!image->worker_runs)
		return 0;
	pthread_mutex_lock(&image->lock);
	image->worker_stopping = true;
	worker_wake(image);
	pthread_mutex_unlock(&image->lock);
	pthread_join(image->worker, NULL);
	image->worker_runs = false;
	return image->worker_result;
}
