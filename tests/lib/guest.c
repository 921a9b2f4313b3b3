/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/lib/guest.h"

#include <stdlib.h>

#include "tests/lib/model.h"
#include "tests/lib/random.h"

#define DEPTH 6u

struct worker;

struct job {
	struct blk_req req;
	struct worker *worker;
	bool busy;
	uint32_t id;
	uint8_t *memory;
	struct iovec iov;
};

struct worker {
	struct guest *guest;
	struct trace *trace;
	struct blk_queue *queue;
	struct rng rng;
	uint64_t size, block; /* bytes */
	unsigned in_flight;
	int rc;
	struct err *err;
	struct job job[DEPTH];
};

static void job_done(struct blk_req *req, int result)
{
	struct job *job = req->user;
	struct worker *w = job->worker;
	struct model_event event = {.kind = MODEL_DONE, .id = job->id, .result = result};

	trace_mark(w->trace, &event, sizeof(event));
	if (result)
		w->rc = err_set(w->err, result, "request %u of the guest fails", job->id);
	job->busy = false;
	w->in_flight--;
}

static void job_choose(struct worker *w, struct blk_req *req)
{
	const struct guest *g = w->guest;
	unsigned dice = (unsigned)rng_below(&w->rng, 100);
	bool whole = g->whole_blocks && rng_percent(&w->rng, 50);
	uint64_t sectors = 1 + rng_below(&w->rng, rng_percent(&w->rng, 80) ? 8 : 2 * w->block / 512);

	req->op = BLK_WRITE;
	if (dice < g->flush_percent)
		req->op = BLK_FLUSH;
	else if ((dice -= g->flush_percent) < g->zero_percent)
		req->op = dice % 2 ? BLK_DISCARD : BLK_WRITE_ZEROES;
	else if (dice - g->zero_percent < g->read_percent)
		req->op = BLK_READ;
	if (req->op == BLK_FLUSH)
		return;
	req->offset = rng_below(&w->rng, w->size / 512 - sectors + 1) * 512;
	req->length = sectors * 512;
	if (whole || (req->op == BLK_DISCARD && g->whole_blocks)) {
		req->offset -= req->offset % w->block;
		req->length = w->block < w->size - req->offset ? w->block : w->size - req->offset;
	}
	if (req->op == BLK_WRITE && rng_percent(&w->rng, 3))
		req->flags = BLK_FUA;
}

/* The model wants writes to one sector one after the other. */
static bool job_is_free_to_go(const struct worker *w, const struct job *job)
{
	for (unsigned i = 0; i < DEPTH; i++) {
		const struct blk_req *other = &w->job[i].req;

		if (&w->job[i] == job || !w->job[i].busy || other->op == BLK_FLUSH || job->req.op == BLK_FLUSH)
			continue;
		if (job->req.offset < other->offset + other->length && other->offset < job->req.offset + job->req.length)
			return false;
	}
	return true;
}

static void job_submit(struct worker *w, struct job *job)
{
	struct model_event event = {.kind = MODEL_SUBMIT};

	job->req = (struct blk_req){.done = job_done, .user = job};
	job_choose(w, &job->req);
	if (!job_is_free_to_go(w, job))
		return;
	job->id = ++w->guest->last_id;
	job->busy = true;
	job->iov = (struct iovec){job->memory, job->req.length};
	if (job->req.op == BLK_WRITE)
		for (uint64_t s = 0; s < job->req.length / 512; s++)
			model_fill(job->id, job->req.offset / 512 + s, job->memory + s * 512);
	if (job->req.op <= BLK_WRITE) {
		job->req.iov = &job->iov;
		job->req.iovcnt = 1;
	}
	event.id = job->id;
	event.op = job->req.op;
	event.flags = job->req.flags;
	event.offset = job->req.offset;
	event.length = job->req.length;
	trace_mark(w->trace, &event, sizeof(event));
	w->in_flight++;
	blk_submit(w->queue, &job->req);
}

static bool may_submit(const struct worker *w, uint32_t end)
{
	return w->guest->last_id < end && w->rc == 0 && !(w->guest->stop && atomic_load(w->guest->stop));
}

int guest_run(struct blk *blk, struct trace *trace, struct guest *guest, struct err *err)
{
	struct worker w = {.guest = guest, .trace = trace, .rng = rng_fork(guest->seed, 5), .err = err};
	uint32_t end = guest->last_id + guest->requests;
	struct blk_info info;
	int rc;

	blk_info(blk, &info);
	w.size = guest->size ? guest->size : info.size;
	w.block = guest->block_size ? guest->block_size : 16384;
	rc = blk_queue_new(blk, NULL, &w.queue, err);
	atomic_store(&guest->running, true);
	if (rc)
		return rc;
	for (unsigned i = 0; i < DEPTH; i++) {
		w.job[i].worker = &w;
		w.job[i].memory = malloc(2 * w.block + 4096);
		if (!w.job[i].memory)
			abort();
	}
	while (may_submit(&w, end) || w.in_flight) {
		unsigned at_once = 1 + (unsigned)rng_below(&w.rng, DEPTH);

		for (unsigned i = 0; i < at_once && may_submit(&w, end); i++)
			if (!w.job[i].busy)
				job_submit(&w, &w.job[i]);
		rc = blk_queue_poll(w.queue, w.in_flight ? 1 : 0, -1);
		if (rc < 0)
			abort();
	}
	blk_queue_free(w.queue);
	for (unsigned i = 0; i < DEPTH; i++)
		free(w.job[i].memory);
	return w.rc;
}
