/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/lib/scribble.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/random.h"

#define MAX_THREADS 16u
#define MAX_DEPTH 64u
#define MAX_PARTS 4

struct scribbler;

struct request {
	struct blk_req req;
	struct scribbler *scribbler;
	bool busy;
	bool changes;
	unsigned number;
	uint8_t *memory; /* room for max_length and misalignment */
	struct iovec iov[MAX_PARTS];
	unsigned gaps[MAX_PARTS];
};

struct shared {
	struct blk *blk;
	struct blk_info info;
	uint8_t *model;
	struct scribble options;
	pthread_mutex_t lock;
	/* Under `lock`: what is in flight, and the first failure. */
	struct scribbler *scribblers;
	struct err err;
	int rc;
};

struct scribbler {
	struct shared *shared;
	struct blk_queue *queue;
	pthread_t thread;
	unsigned index, requests, in_flight;
	struct rng rng;
	struct request request[MAX_DEPTH];
};

static const char *op_name(unsigned op)
{
	static const char *const names[] = {"read", "write", "flush", "discard", "write-zeroes"};

	return names[op];
}

static void fail(struct request *r, int rc, const char *what, uint64_t at)
{
	struct shared *shared = r->scribbler->shared;

	pthread_mutex_lock(&shared->lock);
	if (!shared->rc)
		shared->rc = err_set(&shared->err, rc,
		                     "seed %" PRIu64 ", thread %u, request %u: %s of %" PRIu64 " bytes at %" PRIu64
		                     ": %s, at %" PRIu64 " (%s)",
		                     shared->options.seed, r->scribbler->index, r->number, op_name(r->req.op), r->req.length,
		                     r->req.offset, what, at, strerror(-rc));
	pthread_mutex_unlock(&shared->lock);
}

static bool overlaps(const struct request *a, const struct request *b)
{
	if (!a->busy || !b->busy || (!a->changes && !b->changes) || a->req.op == BLK_FLUSH || b->req.op == BLK_FLUSH)
		return false;
	return a->req.offset < b->req.offset + b->req.length && b->req.offset < a->req.offset + a->req.length;
}

/* Books the range. False: somebody is at work in it. */
static bool request_claim(struct request *r)
{
	struct shared *shared = r->scribbler->shared;
	bool free = true;

	pthread_mutex_lock(&shared->lock);
	r->busy = true;
	for (unsigned t = 0; t < shared->options.threads && free; t++)
		for (unsigned i = 0; i < shared->options.depth && free; i++)
			if (&shared->scribblers[t].request[i] != r)
				free = !overlaps(r, &shared->scribblers[t].request[i]);
	r->busy = free;
	pthread_mutex_unlock(&shared->lock);
	return free;
}

static void read_check(struct request *r)
{
	const uint8_t *model = r->scribbler->shared->model + r->req.offset;

	for (int i = 0; i < r->req.iovcnt; i++) {
		const uint8_t *got = r->iov[i].iov_base;

		for (size_t k = 0; k < r->iov[i].iov_len; k++) {
			if (got[k] == model[k])
				continue;
			fail(r, -EILSEQ, got[k] ? "another byte than was written" : "a zero instead of what was written",
			     (uint64_t)(model - r->scribbler->shared->model) + k);
			return;
		}
		model += r->iov[i].iov_len;
	}
}

static void request_done(struct blk_req *req, int result)
{
	struct request *r = req->user;
	struct shared *shared = r->scribbler->shared;
	uint8_t *model = shared->model + req->offset;

	if (result) {
		fail(r, result, "it failed", req->offset);
	} else if (req->op == BLK_READ) {
		read_check(r);
	} else if (req->op == BLK_WRITE) {
		for (int i = 0; i < req->iovcnt; i++) {
			memcpy(model, r->iov[i].iov_base, r->iov[i].iov_len);
			model += r->iov[i].iov_len;
		}
	} else if (req->op != BLK_FLUSH) {
		memset(model, 0, req->length);
	}
	pthread_mutex_lock(&shared->lock);
	r->busy = false;
	pthread_mutex_unlock(&shared->lock);
	r->scribbler->in_flight--;
}

static void range_choose(struct scribbler *s, struct blk_req *req)
{
	const struct blk_info *info = &s->shared->info;
	uint64_t unit = info->request_align, sectors = info->size / unit, length;
	uint64_t max = s->shared->options.max_length;

	if (rng_percent(&s->rng, 70))
		length = rng_below(&s->rng, 16384 / unit + 1) + 1;
	else
		length = rng_below(&s->rng, max / unit) + 1;
	if (length > sectors)
		length = sectors;
	req->offset = rng_below(&s->rng, sectors - length + 1) * unit;
	req->length = length * unit;
	if (req->op >= BLK_DISCARD && rng_percent(&s->rng, 50)) {
		uint64_t whole = info->discard_granularity;

		req->offset -= req->offset % whole;
		req->length = whole * (1 + rng_below(&s->rng, 2));
		if (req->length > info->size - req->offset)
			req->length = info->size - req->offset;
	}
}

/* Cuts the request's memory into parts, not aligned unless the disk wants them so. */
static void memory_arrange(struct scribbler *s, struct request *r)
{
	uint64_t unit = s->shared->info.request_align, left = r->req.length;
	uint8_t *at = r->memory;
	bool odd = rng_percent(&s->rng, 20);
	int n = 0;

	while (left) {
		uint64_t part = left;

		if (n < MAX_PARTS - 1 && left > unit && rng_percent(&s->rng, 30))
			part = (1 + rng_below(&s->rng, left / unit - 1)) * unit;
		if (odd)
			at += 1 + rng_below(&s->rng, 63);
		r->iov[n++] = (struct iovec){at, part};
		at += part;
		left -= part;
	}
	r->req.iov = r->iov;
	r->req.iovcnt = n;
}

static void memory_fill(struct scribbler *s, struct request *r)
{
	for (int i = 0; i < r->req.iovcnt; i++) {
		uint8_t *to = r->iov[i].iov_base;

		for (size_t k = 0; k < r->iov[i].iov_len; k += 8) {
			uint64_t word = rng_next(&s->rng);
			size_t n = r->iov[i].iov_len - k;

			memcpy(to + k, &word, n < 8 ? n : 8);
		}
	}
}

static void request_submit(struct scribbler *s, struct request *r)
{
	const struct scribble *o = &s->shared->options;
	unsigned dice = (unsigned)rng_below(&s->rng, 100);

	r->req = (struct blk_req){.op = BLK_READ, .done = request_done, .user = r};
	if (dice < o->flush_percent)
		r->req.op = BLK_FLUSH;
	else if ((dice -= o->flush_percent) < o->zero_percent)
		r->req.op = dice % 2 ? BLK_DISCARD : BLK_WRITE_ZEROES;
	else if (dice - o->zero_percent < o->write_percent)
		r->req.op = BLK_WRITE;
	r->changes = r->req.op != BLK_READ;
	if (r->req.op != BLK_FLUSH) {
		range_choose(s, &r->req);
		if (!request_claim(r))
			return;
	} else {
		pthread_mutex_lock(&s->shared->lock);
		r->busy = true;
		pthread_mutex_unlock(&s->shared->lock);
	}
	if ((r->req.op == BLK_WRITE || r->req.op == BLK_WRITE_ZEROES) && rng_percent(&s->rng, 3))
		r->req.flags = BLK_FUA;
	if (r->req.op == BLK_READ || r->req.op == BLK_WRITE)
		memory_arrange(s, r);
	if (r->req.op == BLK_WRITE)
		memory_fill(s, r);
	r->number = s->requests--;
	s->in_flight++;
	blk_submit(s->queue, &r->req);
}

static bool has_failed(struct shared *shared)
{
	bool failed;

	pthread_mutex_lock(&shared->lock);
	failed = shared->rc != 0;
	pthread_mutex_unlock(&shared->lock);
	return failed;
}

static bool is_busy(struct request *r)
{
	bool busy;

	pthread_mutex_lock(&r->scribbler->shared->lock);
	busy = r->busy;
	pthread_mutex_unlock(&r->scribbler->shared->lock);
	return busy;
}

static void *scribbler_main(void *arg)
{
	struct scribbler *s = arg;
	struct err err;
	int rc = blk_queue_new(s->shared->blk, NULL, &s->queue, &err);

	if (rc) {
		fail(&s->request[0], rc, "no queue", 0);
		return NULL;
	}
	while ((s->requests && !has_failed(s->shared)) || s->in_flight) {
		for (unsigned i = 0; i < s->shared->options.depth && s->requests; i++)
			if (!is_busy(&s->request[i]) && !has_failed(s->shared))
				request_submit(s, &s->request[i]);
		rc = blk_queue_poll(s->queue, s->in_flight ? 1 : 0, -1);
		if (rc < 0) {
			fail(&s->request[0], rc, "poll failed", 0);
			break;
		}
	}
	blk_queue_free(s->queue);
	return NULL;
}

int scribble_run(struct blk *blk, uint8_t *model, const struct scribble *options, struct err *err)
{
	struct shared shared = {.blk = blk, .model = model, .options = *options};
	struct scribble *o = &shared.options;
	unsigned started = 0;

	if (!o->max_length)
		o->max_length = 256 << 10;
	if (!o->write_percent && !o->zero_percent && !o->flush_percent) {
		o->write_percent = 40;
		o->zero_percent = 12;
		o->flush_percent = 3;
	}
	blk_info(blk, &shared.info);
	pthread_mutex_init(&shared.lock, NULL);
	shared.scribblers = calloc(o->threads, sizeof(*shared.scribblers));
	if (!shared.scribblers || o->threads > MAX_THREADS || o->depth > MAX_DEPTH)
		abort();
	for (unsigned t = 0; t < o->threads; t++) {
		struct scribbler *s = &shared.scribblers[t];

		s->shared = &shared;
		s->index = t;
		s->requests = o->requests / o->threads;
		s->rng = rng_fork(o->seed, t);
		for (unsigned i = 0; i < o->depth; i++) {
			s->request[i].scribbler = s;
			s->request[i].req.user = &s->request[i];
			if (posix_memalign((void **)&s->request[i].memory, 4096, o->max_length + 65536))
				abort();
		}
	}
	for (unsigned t = 0; t < o->threads; t++)
		started += pthread_create(&shared.scribblers[t].thread, NULL, scribbler_main, &shared.scribblers[t]) == 0;
	if (started != o->threads)
		abort();
	for (unsigned t = 0; t < o->threads; t++)
		pthread_join(shared.scribblers[t].thread, NULL);
	for (unsigned t = 0; t < o->threads; t++)
		for (unsigned i = 0; i < o->depth; i++)
			free(shared.scribblers[t].request[i].memory);
	free(shared.scribblers);
	pthread_mutex_destroy(&shared.lock);
	if (shared.rc && err)
		*err = shared.err;
	return shared.rc;
}

int scribble_compare(struct blk *blk, const uint8_t *model, struct err *err)
{
	const size_t piece = 1 << 20;
	struct blk_queue *queue;
	struct blk_info info;
	uint8_t *buffer;
	int rc = blk_queue_new(blk, NULL, &queue, err);

	if (rc)
		return rc;
	if (posix_memalign((void **)&buffer, 4096, piece))
		abort();
	blk_info(blk, &info);
	for (uint64_t offset = 0; offset < info.size && rc == 0; offset += piece) {
		size_t length = info.size - offset < piece ? info.size - offset : piece;

		rc = blk_pread(queue, buffer, length, offset);
		if (rc)
			rc = err_set(err, rc, "reading %zu bytes at %" PRIu64 ": %s", length, offset, strerror(-rc));
		if (rc || memcmp(buffer, model + offset, length) == 0)
			continue;
		for (size_t i = 0; i < length && rc == 0; i++)
			if (buffer[i] != model[offset + i])
				rc = err_set(err, -EILSEQ, "byte %" PRIu64 " is %#x and not %#x", offset + i, buffer[i],
				             model[offset + i]);
	}
	free(buffer);
	blk_queue_free(queue);
	return rc;
}

uint64_t environment_number(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text && *text ? strtoull(text, NULL, 0) : otherwise;
}
