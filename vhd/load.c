/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vhd/load.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

#include "common/checked.h"
#include "common/interrupt.h"

#define SECOND_NS UINT64_C(1000000000)
#define HUGE_BYTES (2u << 20)

struct worker;

struct load_slot {
	struct blk_req req;
	struct iovec iov;
	struct worker *worker;
	uint64_t start_ns;
};

enum run_stage {
	RUN_PREPARE, /* buffers and queues are made */
	RUN_LOAD,
	RUN_CLEAN_UP,
};

struct run {
	struct blk *blk;
	const struct load_options *options;
	pthread_mutex_t lock; /* of what follows */
	pthread_cond_t changed;
	enum run_stage stage;
	unsigned waiting; /* workers that are done with the stage */
	uint64_t start_ns;
};

struct worker {
	struct run *run;
	pthread_t thread;
	unsigned index;
	int result;
	struct err err;

	struct blk_queue *queue;
	struct load_slot *slots;
	uint8_t *buffers;
	size_t buffers_bytes;

	bool random, stopping;
	uint8_t op;
	uint32_t length;
	uint64_t offset, stride, span; /* sequential */
	uint64_t places, random_state; /* random */
	uint64_t left;                 /* requests to submit */
	uint64_t deadline_ns;          /* UINT64_MAX: none */
	uint64_t flush_every, until_flush;
	unsigned in_flight;
	uint64_t flushes, end_ns;
	struct histogram latency_ns;
};

static uint64_t clock_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * SECOND_NS + (uint64_t)now.tv_nsec;
}

/* splitmix64: one addition, two multiplications, and every seed is a good one. */
static inline uint64_t random_next(uint64_t *state)
{
	uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

__extension__ typedef unsigned __int128 wide;

/* A number below `limit`, without a division. */
static inline uint64_t random_below(uint64_t *state, uint64_t limit)
{
	return (uint64_t)((wide)random_next(state) * limit >> 64);
}

static inline uint64_t offset_next(struct worker *worker)
{
	uint64_t offset;

	if (worker->random)
		return random_below(&worker->random_state, worker->places) * worker->length;
	offset = worker->offset;
	worker->offset += worker->stride;
	if (worker->offset >= worker->span)
		worker->offset -= worker->span;
	if (worker->offset + worker->length > worker->span)
		worker->offset = 0;
	return offset;
}

/* Submits the slot's next request, a flush when one is due; false: there is nothing more to do. */
static inline bool slot_submit(struct worker *worker, struct load_slot *slot, uint64_t now_ns)
{
	if (worker->flush_every && worker->until_flush == 0) {
		worker->until_flush = worker->flush_every;
		slot->req.op = BLK_FLUSH;
	} else {
		if (worker->left == 0 || now_ns >= worker->deadline_ns || worker->stopping)
			return false;
		worker->left--;
		worker->until_flush--;
		slot->req.op = worker->op;
		slot->req.offset = offset_next(worker);
	}
	slot->start_ns = now_ns;
	worker->in_flight++;
	blk_submit(worker->queue, &slot->req);
	return true;
}

static void request_done(struct blk_req *req, int result)
{
	struct load_slot *slot = req->user;
	struct worker *worker = slot->worker;
	uint64_t now_ns = clock_ns();

	worker->in_flight--;
	if (__builtin_expect(result < 0, 0)) {
		if (worker->result == 0)
			worker->result = err_set(&worker->err, result, "%s at offset %" PRIu64 ": %s",
			                         req->op == BLK_FLUSH ? "flush"
			                         : req->op == BLK_WRITE ? "write" : "read",
			                         req->offset, strerror(-result));
		worker->stopping = true;
	} else if (req->op == BLK_FLUSH) {
		worker->flushes++;
	} else {
		histogram_add(&worker->latency_ns, now_ns - slot->start_ns);
	}
	worker->end_ns = now_ns;
	slot_submit(worker, slot, now_ns);
}

static int worker_alloc(struct worker *worker)
{
	const struct load_options *options = worker->run->options;
	size_t each = round_up(options->request_bytes, 4096);
	uint64_t random = options->seed;

	worker->buffers_bytes = round_up((uint64_t)each * options->depth, HUGE_BYTES);
	worker->buffers = aligned_alloc(HUGE_BYTES, worker->buffers_bytes);
	worker->slots = calloc(options->depth, sizeof(*worker->slots));
	if (!worker->buffers || !worker->slots)
		return err_set(&worker->err, -ENOMEM, "out of memory");
	(void)madvise(worker->buffers, worker->buffers_bytes, MADV_HUGEPAGE);
	/* Not zeros: an engine might treat those better. */
	for (size_t i = 0; i < worker->buffers_bytes; i += sizeof(random)) {
		uint64_t word = random_next(&random);

		memcpy(worker->buffers + i, &word, sizeof(word));
	}
	for (unsigned i = 0; i < options->depth; i++) {
		struct load_slot *slot = &worker->slots[i];

		slot->worker = worker;
		slot->iov = (struct iovec){worker->buffers + i * each, options->request_bytes};
		slot->req = (struct blk_req){
		        .length = options->request_bytes,
		        .iov = &slot->iov,
		        .iovcnt = 1,
		        .done = request_done,
		        .user = slot,
		};
	}
	return 0;
}

static void worker_plan(struct worker *worker)
{
	const struct load_options *options = worker->run->options;
	uint64_t share = options->size / options->threads, places = options->size / options->request_bytes;

	worker->random = options->random;
	worker->op = options->write ? BLK_WRITE : BLK_READ;
	worker->length = options->request_bytes;
	worker->places = places;
	worker->span = places * options->request_bytes;
	worker->stride = options->stride % worker->span;
	/* Threads start spread over the disk. */
	worker->offset = share * worker->index / options->request_bytes * options->request_bytes;
	worker->random_state = options->seed + (uint64_t)worker->index * UINT64_C(0x632be59bd9b4e019);
	worker->flush_every = options->flush_every;
	worker->until_flush = options->flush_every ? options->flush_every : UINT64_MAX;
	worker->left = UINT64_MAX;
	if (options->count)
		worker->left = options->count / options->threads + (worker->index < options->count % options->threads);
	worker->deadline_ns = UINT64_MAX;
}

static void worker_load(struct worker *worker)
{
	const struct load_options *options = worker->run->options;

	if (options->runtime_ns)
		worker->deadline_ns = worker->run->start_ns + options->runtime_ns;
	worker->end_ns = worker->run->start_ns;
	for (unsigned i = 0; i < options->depth; i++)
		if (!slot_submit(worker, &worker->slots[i], clock_ns()))
			break;
	while (worker->in_flight) {
		int r = blk_queue_poll(worker->queue, 1, -1);

		if (interrupt_seen())
			worker->stopping = true;
		if (r < 0 && r != -EINTR) {
			worker->result = err_set(&worker->err, r, "waiting for I/O: %s", strerror(-r));
			return;
		}
	}
}

/* Tells that the worker is done with its stage, and waits for the next one. */
static enum run_stage stage_wait(struct run *run, enum run_stage stage)
{
	enum run_stage next;

	pthread_mutex_lock(&run->lock);
	run->waiting++;
	pthread_cond_broadcast(&run->changed);
	while (run->stage == stage)
		pthread_cond_wait(&run->changed, &run->lock);
	next = run->stage;
	pthread_mutex_unlock(&run->lock);
	return next;
}

static void *worker_main(void *arg)
{
	struct worker *worker = arg;
	struct run *run = worker->run;

	worker->result = worker_alloc(worker);
	if (worker->result == 0)
		worker->result = blk_queue_new(run->blk, NULL, &worker->queue, &worker->err);
	worker_plan(worker);
	if (stage_wait(run, RUN_PREPARE) == RUN_LOAD) {
		if (worker->result == 0)
			worker_load(worker);
		stage_wait(run, RUN_LOAD);
	}
	/* What is still in flight keeps its memory: it happens only when the ring itself failed. */
	if (worker->in_flight == 0) {
		blk_queue_free(worker->queue);
		free(worker->buffers);
		free(worker->slots);
	}
	return NULL;
}

static double cpu_seconds(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return (double)usage.ru_utime.tv_sec + (double)usage.ru_stime.tv_sec +
	       (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static void stage_await(struct run *run, unsigned workers)
{
	pthread_mutex_lock(&run->lock);
	while (run->waiting < workers)
		pthread_cond_wait(&run->changed, &run->lock);
	pthread_mutex_unlock(&run->lock);
}

static void stage_begin(struct run *run, enum run_stage stage)
{
	pthread_mutex_lock(&run->lock);
	run->waiting = 0;
	run->stage = stage;
	run->start_ns = clock_ns();
	pthread_cond_broadcast(&run->changed);
	pthread_mutex_unlock(&run->lock);
}

static void worker_collect(struct worker *worker, struct load_result *ret, uint64_t *end_ns)
{
	histogram_merge(&ret->latency_ns, &worker->latency_ns);
	ret->flushes += worker->flushes;
	if (worker->end_ns > *end_ns)
		*end_ns = worker->end_ns;
}

/* The threads wait for each other, so that only the load is measured. */
static int workers_run(struct run *run, struct worker *workers, struct load_result *ret, struct err *err)
{
	unsigned threads = run->options->threads, started = 0;
	uint64_t start_ns, end_ns;
	int r = 0;

	while (started < threads && r == 0) {
		workers[started].run = run;
		workers[started].index = started;
		r = -pthread_create(&workers[started].thread, NULL, worker_main, &workers[started]);
		if (r == 0)
			started++;
	}
	if (r < 0) {
		err_set(err, r, "cannot start thread %u: %s", started, strerror(-r));
	} else {
		stage_await(run, threads);
		ret->cpu_seconds = -cpu_seconds();
		stage_begin(run, RUN_LOAD);
		start_ns = end_ns = run->start_ns;
		stage_await(run, threads);
		ret->cpu_seconds += cpu_seconds();
		for (unsigned i = 0; i < threads; i++)
			worker_collect(&workers[i], ret, &end_ns);
		ret->elapsed_ns = end_ns - start_ns;
		ret->requests = ret->latency_ns.count;
	}
	stage_begin(run, RUN_CLEAN_UP);
	for (unsigned i = 0; i < started; i++) {
		pthread_join(workers[i].thread, NULL);
		if (workers[i].result < 0 && r == 0) {
			r = workers[i].result;
			*err = workers[i].err;
		}
	}
	return r;
}

static int final_flush(struct blk *blk, uint64_t *ret_ns, struct err *err)
{
	struct blk_queue *queue;
	uint64_t start_ns;
	int r = blk_queue_new(blk, NULL, &queue, err);

	if (r < 0)
		return r;
	start_ns = clock_ns();
	r = blk_flush(queue);
	*ret_ns = clock_ns() - start_ns;
	blk_queue_free(queue);
	return r < 0 ? err_set(err, r, "flush: %s", strerror(-r)) : 0;
}

int load_run(struct blk *blk, const struct load_options *options, struct load_result *ret, struct err *err)
{
	struct worker *workers = calloc(options->threads, sizeof(*workers));
	struct run run = {.blk = blk, .options = options};
	int r;

	memset(ret, 0, sizeof(*ret));
	if (!workers)
		return err_set(err, -ENOMEM, "out of memory");
	pthread_mutex_init(&run.lock, NULL);
	pthread_cond_init(&run.changed, NULL);
	r = workers_run(&run, workers, ret, err);
	if (r == 0 && options->write)
		r = final_flush(blk, &ret->flush_ns, err);
	if (r == 0 && interrupt_seen())
		r = err_set(err, -EINTR, "interrupted");
	pthread_cond_destroy(&run.changed);
	pthread_mutex_destroy(&run.lock);
	free(workers);
	return r;
}
