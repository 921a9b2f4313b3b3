/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Power failures, and errors, while a disk gets another size. Each scenario resizes a disk, under requests where it
 * grows, over a store that records; then every moment of the recording is a crash, and what it leaves is looked at:
 *   - it opens, with the old size or the new one, and its whole table is one that QEMU takes;
 *   - up to the smaller size each sector holds what a completed flush covers or something newer that was asked for; what
 *     a larger size adds is zeros; the old size still has what the smaller one cuts off;
 *   - once vhd_resize has returned, the size is the new one;
 *   - opened for writing, the disk takes the new size, and all holds again.
 * And without any one barrier of the resize the same must find a loss. CHECK_LONG, CRASH_SEED and CRASH_STATE are as in
 * test-crash.c, but that a kept state is looked at with its trace only.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/crash.h"
#include "tests/lib/disk.h"
#include "tests/lib/image-builder.h"
#include "tests/lib/model.h"
#include "tests/lib/random.h"
#include "tests/lib/ring-inline.h"
#include "tests/lib/scribble.h"
#include "tests/lib/store-fault.h"
#include "tests/lib/upkept.h"

#define KIB(n) ((uint64_t)(n) << 10)
#define RESIZED_MARK 0x7265737au

struct scenario {
	const char *name;
	struct image_spec spec;
	uint64_t base_size; /* of the parent, a dynamic disk with every other block; 0: none */
	uint64_t to;
	unsigned states;
};

static const struct scenario scenarios[] = {
	{
		.name = "fixed-grow", .to = KIB(200), .states = 1500,
		.spec = {.type = IMAGE_FIXED, .size = KIB(16), .fixed_seed = 7},
	},
	{
		.name = "fixed-shrink", .to = KIB(16) + 512, .states = 1000,
		.spec = {.type = IMAGE_FIXED, .size = KIB(64), .fixed_seed = 7},
	},
	{
		/* The table grows in place over two blocks that move. */
		.name = "dynamic-grow", .to = KIB(8192), .states = 2500,
		.spec = {.size = KIB(48) + 512, .block_size = 4096, .block_count = 6, .stale = true,
		         .blocks = {{.index = 12, .seed = 1}, {.index = 3, .seed = 2, .clear = 0x3c}, {.index = 0, .seed = 3},
		                    {.index = 5, .seed = 4}, {.index = 7, .seed = 5}, {.index = 8, .seed = 6}}},
	},
	{
		.name = "dynamic-grow-moved-table", .to = KIB(4096), .states = 2000,
		.spec = {.size = KIB(48), .block_size = 4096, .block_count = 4, .batmap = true, .creator = "tap",
		         .locators = {{.code = "W2ru", .text = "elsewhere.vhd"}},
		         .blocks = {{.index = 11, .seed = 1}, {.index = 3, .seed = 2, .clear = 0x3c}, {.index = 0, .seed = 3},
		                    {.index = 5, .seed = 4}}},
	},
	{
		.name = "dynamic-grow-in-its-table", .to = KIB(96), .states = 1000,
		.spec = {.size = KIB(48) + 512, .block_size = 4096, .block_count = 2, .max_table_entries = 64,
		         .blocks = {{.index = 12, .seed = 1}, {.index = 3, .seed = 2}}},
	},
	{
		.name = "dynamic-shrink", .to = KIB(21) + 512, .states = 2000,
		.spec = {.size = KIB(64), .block_size = 4096, .block_count = 6,
		         .blocks = {{.index = 12, .seed = 1}, {.index = 3, .seed = 2, .clear = 0x3c}, {.index = 5, .seed = 3},
		                    {.index = 9, .seed = 4}, {.index = 15, .seed = 5}, {.index = 0, .seed = 6}}},
	},
	{
		.name = "differencing-grow", .to = KIB(4096), .base_size = KIB(96), .states = 2500,
		.spec = {.type = IMAGE_DIFFERENCING, .size = KIB(48) + 512, .block_size = 4096, .block_count = 4, .stale = true,
		         .uuid_seed = 1, .parent_uuid_seed = 2, .parent_name = "b.vhd",
		         .locators = {{.code = "W2ru", .text = "b.vhd"}},
		         .blocks = {{.index = 12, .seed = 1, .clear = 0x0f}, {.index = 3, .seed = 2, .clear = 0x3c},
		                    {.index = 0, .seed = 3}, {.index = 5, .seed = 4}}},
	},
	{
		.name = "differencing-shrink", .to = KIB(22), .base_size = KIB(40), .states = 2000,
		.spec = {.type = IMAGE_DIFFERENCING, .size = KIB(48), .block_size = 4096, .block_count = 4, .stale = true,
		         .uuid_seed = 1, .parent_uuid_seed = 2, .parent_name = "b.vhd",
		         .blocks = {{.index = 11, .seed = 1, .clear = 0x0f}, {.index = 5, .seed = 2, .clear = 0x3c},
		                    {.index = 0, .seed = 3}, {.index = 7, .seed = 4}}},
	},
};

#define SCENARIOS (sizeof(scenarios) / sizeof(*scenarios))

static uint64_t seed_base;
static unsigned factor;

static void must(int rc, const struct err *err)
{
	if (rc)
		fail_msg("%d: %s", rc, err->text);
}

static const struct scenario *scenario_named(const char *name)
{
	const struct scenario *sc = scenarios;

	while (strcmp(sc->name, name) != 0)
		sc++;
	return sc;
}

struct bench {
	const struct scenario *scenario;
	struct memory_file *leaf, *base;
	uint8_t *first; /* content at first, as long as the larger size */
	uint64_t larger, smaller;
};

static struct memory_file *file_of(const struct image_spec *spec)
{
	struct memory_file *file;
	struct sparse content;
	struct image image;

	image_build(spec, &image);
	sparse_init(&content);
	sparse_write(&content, image.bytes, image.size, 0);
	file = memory_file_new(&content);
	image_free(&image);
	return file;
}

static void bench_init(struct bench *b, const struct scenario *sc)
{
	uint64_t size = sc->spec.size;
	uint8_t *below = NULL;

	*b = (struct bench){.scenario = sc};
	b->larger = sc->to > size ? sc->to : size;
	b->smaller = sc->to > size ? size : sc->to;
	b->first = calloc(1, b->larger + sc->base_size);
	b->leaf = file_of(&sc->spec);
	if (sc->base_size) {
		struct image_spec base = {.size = sc->base_size, .block_size = 4096, .uuid_seed = 2};

		for (uint32_t i = 0; i < sc->base_size / 4096 && base.block_count < IMAGE_MAX_BLOCKS; i += 2)
			base.blocks[base.block_count++] = (struct image_block){.index = i, .seed = (uint8_t)(i + 50)};
		below = calloc(1, b->larger + sc->base_size);
		image_content(&base, below);
		memcpy(b->first, below, size);
		b->base = file_of(&base);
		image_overlay(&sc->spec, b->first);
	} else {
		image_content(&sc->spec, b->first);
	}
	free(below);
}

static void bench_done(struct bench *b)
{
	memory_file_free(b->leaf);
	memory_file_free(b->base);
	free(b->first);
}

static int bench_open(const struct bench *b, struct store *leaf, struct vhd **ret, struct err *err)
{
	struct store *stores[2] = {leaf};

	if (b->base)
		stores[1] = store_memory_open(b->base, 0);
	return upkept_open_take(stores, b->base ? 2 : 1, "/fake", ret, err);
}

/* --- the recording --- */

#define DEPTH 4u

struct job {
	struct blk_req req;
	struct writer_thread *writer;
	bool busy;
	uint32_t id;
	uint8_t memory[16384];
	struct iovec iov;
};

/* Requests on what both sizes have, from a thread of their own. */
struct writer_thread {
	struct bench *bench;
	struct trace *trace;
	struct vhd *vhd;
	uint64_t seed;
	unsigned requests; /* at most */
	_Atomic bool stop;
	_Atomic unsigned done;
	uint32_t last_id;
	unsigned in_flight;
	int rc;
	struct job job[DEPTH];
};

static void job_done(struct blk_req *req, int result)
{
	struct job *job = req->user;
	struct model_event event = {.kind = MODEL_DONE, .id = job->id, .result = result};

	trace_mark(job->writer->trace, &event, sizeof(event));
	if (result)
		job->writer->rc = result;
	job->busy = false;
	job->writer->in_flight--;
	job->writer->done++;
}

static bool is_free(const struct writer_thread *w, const struct job *job)
{
	for (unsigned i = 0; i < DEPTH; i++) {
		const struct blk_req *a = &w->job[i].req, *b = &job->req;

		if (&w->job[i] != job && w->job[i].busy && a->op != BLK_FLUSH && b->op != BLK_FLUSH &&
		    a->offset < b->offset + b->length && b->offset < a->offset + a->length)
			return false;
	}
	return true;
}

static void job_submit(struct writer_thread *w, struct job *job, struct rng *rng, struct blk_queue *queue)
{
	struct model_event event = {.kind = MODEL_SUBMIT};
	uint64_t sectors = 1 + rng_below(rng, 16), all = w->bench->smaller / 512;
	unsigned dice = (unsigned)rng_below(rng, 100);

	job->req = (struct blk_req){.done = job_done, .user = job, .op = BLK_WRITE};
	if (dice < 15) {
		job->req.op = BLK_FLUSH;
	} else {
		job->req.op = dice < 30 ? BLK_WRITE_ZEROES : BLK_WRITE;
		job->req.offset = rng_below(rng, all - sectors + 1) * 512;
		job->req.length = sectors * 512;
	}
	if (!is_free(w, job))
		return;
	job->id = ++w->last_id;
	job->busy = true;
	if (job->req.op == BLK_WRITE) {
		for (uint64_t s = 0; s < sectors; s++)
			model_fill(job->id, job->req.offset / 512 + s, job->memory + s * 512);
		job->iov = (struct iovec){job->memory, job->req.length};
		job->req.iov = &job->iov;
		job->req.iovcnt = 1;
	}
	event.id = job->id;
	event.op = job->req.op;
	event.offset = job->req.offset;
	event.length = job->req.length;
	trace_mark(w->trace, &event, sizeof(event));
	w->in_flight++;
	blk_submit(queue, &job->req);
}

static void *write_on(void *arg)
{
	struct writer_thread *w = arg;
	struct rng rng = rng_fork(w->seed, 9);
	struct blk_queue *queue;
	struct err err;

	w->rc = blk_queue_new(vhd_blk(w->vhd), NULL, &queue, &err);
	if (w->rc)
		return NULL;
	while (!atomic_load(&w->stop) || w->in_flight) {
		for (unsigned i = 0; i < DEPTH && !atomic_load(&w->stop) && w->last_id < w->requests; i++)
			if (!w->job[i].busy)
				job_submit(w, &w->job[i], &rng, queue);
		blk_queue_poll(queue, w->in_flight ? 1 : 0, w->in_flight ? -1 : 0);
	}
	blk_queue_free(queue);
	return NULL;
}

static int resize(struct vhd *vhd, uint64_t to, struct err *err)
{
	return vhd_resize(vhd, to, &(struct vhd_resize_options){.force = true}, NULL, err);
}

#define REQUESTS 400u /* some of them while the size changes */
#define REQUESTS_BEFORE 24u

static void record(struct bench *b, uint64_t seed, unsigned requests, struct trace *trace)
{
	const struct ring_inline_config config = {.seed = seed, .shuffle = true, .max_delay = 2};
	struct writer_thread *w = calloc(1, sizeof(*w));
	struct model_event closed = {.kind = MODEL_CLOSED};
	uint32_t resized = RESIZED_MARK;
	struct err err = {""};
	struct sparse before;
	pthread_t thread;

	*w = (struct writer_thread){.bench = b, .trace = trace, .seed = seed, .requests = requests};
	for (unsigned i = 0; i < DEPTH; i++)
		w->job[i].writer = w;
	trace_init(trace);
	trace->sync_delay_us = 50;
	ring_inline_configure(&config);
	memory_file_content(b->leaf, &before);
	must(bench_open(b, store_trace_open_take(store_memory_open(b->leaf, STORE_WRITE), trace, &before), &w->vhd, &err),
	     &err);
	sparse_done(&before);
	assert_int_equal(pthread_create(&thread, NULL, write_on, w), 0);
	while (atomic_load(&w->done) < REQUESTS_BEFORE)
		sched_yield();
	must(resize(w->vhd, b->scenario->to, &err), &err);
	trace_mark(trace, &resized, sizeof(resized));
	atomic_store(&w->stop, true);
	pthread_join(thread, NULL);
	assert_int_equal(w->rc, 0);
	must(vhd_close(w->vhd, &err), &err);
	trace_mark(trace, &closed, sizeof(closed));
	ring_inline_configure(NULL);
	free(w);
}

/* --- the check --- */

struct checker {
	const struct bench *bench;
	struct model model;
	size_t cursor;
	bool resized;
	uint8_t *content;
	unsigned checked;
};

static void checker_init(struct checker *c, const struct bench *b)
{
	*c = (struct checker){.bench = b, .content = malloc(b->larger)};
	model_init(&c->model, b->first, b->smaller);
}

static void checker_done(struct checker *c)
{
	model_done(&c->model);
	free(c->content);
}

static void checker_follow(struct checker *c, const struct trace *trace, size_t point)
{
	for (; c->cursor < point; c->cursor++) {
		const struct trace_event *e = &trace->events[c->cursor];

		if (e->kind == TRACE_MARK && e->length == sizeof(struct model_event))
			model_note(&c->model, e->bytes);
		else if (e->kind == TRACE_MARK && e->length == sizeof(uint32_t))
			c->resized = true;
	}
}

static int read_all(struct vhd *vhd, uint8_t *ret, uint64_t *ret_size, struct err *err)
{
	struct blk_queue *queue;
	struct blk_info info;
	int rc = blk_queue_new(vhd_blk(vhd), NULL, &queue, err);

	if (rc)
		return rc;
	blk_info(vhd_blk(vhd), &info);
	*ret_size = info.size;
	rc = blk_pread(queue, ret, info.size, 0);
	blk_queue_free(queue);
	return rc ? err_set(err, rc, "reading: %s", strerror(-rc)) : 0;
}

/* What both sizes have goes by the model; the rest is what it was at first, or zeros. */
static int check_content(struct checker *c, struct vhd *vhd, bool must_be_new, struct err *err)
{
	const struct bench *b = c->bench;
	uint64_t size;
	int rc = read_all(vhd, c->content, &size, err);

	if (rc)
		return rc;
	if (size != b->scenario->to && (must_be_new || size != b->scenario->spec.size))
		return err_set(err, VHD_E_CORRUPT, "the size is %" PRIu64, size);
	for (uint64_t at = b->smaller; at < size; at++)
		if (c->content[at] != b->first[at])
			return err_set(err, VHD_E_CORRUPT, "the byte at %" PRIu64 " of %" PRIu64 " is %02x and not %02x", at, size,
			               c->content[at], b->first[at]);
	return model_check(&c->model, c->content, err);
}

static int look(struct checker *c, struct memory_file *file, bool must_be_new, struct err *err)
{
	struct vhd *vhd;
	int rc = bench_open(c->bench, store_memory_open(file, 0), &vhd, err);

	if (rc)
		return rc;
	rc = check_content(c, vhd, must_be_new, err);
	vhd_close(vhd, NULL);
	return rc;
}

/* The same call again, and requests, and a look at what it leaves. */
static int go_on(struct checker *c, struct memory_file *file, uint64_t seed, struct err *err)
{
	const struct bench *b = c->bench;
	struct scribble scribble = {.seed = seed, .requests = 25, .threads = 1, .depth = 4, .max_length = 16384};
	uint8_t *content = NULL;
	struct vhd *vhd;
	uint64_t size;
	int rc = bench_open(b, store_memory_open(file, STORE_WRITE), &vhd, err);

	if (rc)
		return err_prefix(err, rc, "opening for writing");
	rc = check_content(c, vhd, false, err);
	if (rc == 0)
		rc = resize(vhd, b->scenario->to, err);
	if (rc == 0)
		rc = check_content(c, vhd, true, err);
	if (rc == 0) {
		content = malloc(b->larger);
		memcpy(content, c->content, b->scenario->to);
		rc = scribble_run(vhd_blk(vhd), content, &scribble, err);
	}
	if (rc) {
		vhd_close(vhd, NULL);
		free(content);
		return err_prefix(err, rc, "going on");
	}
	rc = vhd_close(vhd, err);
	if (rc == 0)
		rc = upkept_check(file, NULL, err);
	if (rc == 0)
		rc = bench_open(b, store_memory_open(file, 0), &vhd, err);
	if (rc == 0) {
		rc = read_all(vhd, c->content, &size, err);
		if (rc == 0 && memcmp(content, c->content, size))
			rc = err_set(err, VHD_E_CORRUPT, "the content is another");
		vhd_close(vhd, NULL);
	}
	free(content);
	return rc ? err_prefix(err, rc, "after going on") : 0;
}

/* What an interrupted open for writing leaves must open too. */
static int crash_checked(void *user, const struct trace *trace, struct crash_state *state, struct err *err)
{
	struct checker *c = user;
	struct memory_file *file = memory_file_new(&state->files[0]);
	/* While the disk is open; a batmap's checksum lags behind its bits for a moment. */
	static const char *const allow[] = {"grow-interrupted", "footer-missing", "batmap-checksum", NULL};
	int rc;

	checker_follow(c, trace, state->point);
	rc = upkept_check(file, allow, err);
	if (rc == 0)
		rc = look(c, file, c->resized, err);
	if (rc == 0 && c->checked++ % 10 == 0)
		rc = go_on(c, file, state->seed, err);
	memory_file_free(file);
	return rc;
}

static int states_run(const struct bench *b, const struct trace *trace, uint64_t seed, unsigned states, int dropped,
                      struct crash_state *failed, struct err *err)
{
	struct checker checker;
	struct crash_options options = {
		.seed = seed, .states = states, .dropped = dropped, .check = crash_checked, .user = &checker,
	};
	int rc;

	checker_init(&checker, b);
	rc = crash_run(trace, &options, failed, err);
	checker_done(&checker);
	return rc;
}

static void scenario_run(const char *name)
{
	const struct scenario *sc = scenario_named(name);
	struct crash_state failed;
	struct err err = {""};
	struct trace trace;
	struct bench bench;
	char dir[100];

	for (unsigned round = 0; round < factor; round++) {
		uint64_t seed = seed_base + 1000 * round;

		bench_init(&bench, sc);
		record(&bench, seed, REQUESTS, &trace);
		if (states_run(&bench, &trace, seed, sc->states, CRASH_KEEP_ALL, &failed, &err)) {
			snprintf(dir, sizeof(dir), "test-resize-crash-%s.state", name);
			if (crash_state_save(&trace, &failed, dir))
				snprintf(dir, sizeof(dir), "(could not be kept)");
			fail_msg("%s: %s\nThe state, before event %zu, is in %s. The whole run: CRASH_SEED=%" PRIu64, name, err.text,
			         failed.point, dir, seed);
		}
		trace_done(&trace);
		bench_done(&bench);
	}
}

static void a_crash_while_a_fixed_disk_gets_another_size(void **state)
{
	(void)state;
	scenario_run("fixed-grow");
	scenario_run("fixed-shrink");
}

static void a_crash_while_a_dynamic_disk_gets_another_size(void **state)
{
	(void)state;
	scenario_run("dynamic-grow");
	scenario_run("dynamic-grow-moved-table");
	scenario_run("dynamic-grow-in-its-table");
	scenario_run("dynamic-shrink");
}

static void a_crash_while_a_differencing_disk_gets_another_size(void **state)
{
	(void)state;
	scenario_run("differencing-grow");
	scenario_run("differencing-shrink");
}

static void without(enum store_barrier barrier, const char *name)
{
	const struct scenario *sc = scenario_named(name);
	struct crash_state failed;
	struct err err = {""};
	struct trace trace;
	struct bench bench;
	unsigned syncs = 0;
	int rc = 0;

	for (unsigned run = 0; run < 12 && rc == 0; run++) {
		bench_init(&bench, sc);
		/* Others' flushes would stand in for the barrier. */
		record(&bench, seed_base + run, REQUESTS_BEFORE, &trace);
		for (size_t i = 0; i < trace.count; i++)
			syncs += trace.events[i].kind == TRACE_SYNC_END && trace.events[i].barrier == barrier;
		rc = states_run(&bench, &trace, seed_base + run, sc->states, (int)barrier, &failed, &err);
		if (rc)
			crash_state_done(&failed);
		trace_done(&trace);
		bench_done(&bench);
	}
	assert_true(syncs > 0);
	if (rc == 0)
		fail_msg("%s: nothing was lost without barrier %d", name, barrier);
}

static void without_a_barrier_of_a_fixed_disk_that_grows_it_is_lost(void **state)
{
	(void)state;
	without(STORE_BARRIER_MARK, "fixed-grow");
	without(STORE_BARRIER_EXTEND, "fixed-grow");
	without(STORE_BARRIER_FIT, "fixed-grow");
	without(STORE_BARRIER_CLEAR, "fixed-grow");
	without(STORE_BARRIER_SIZE, "fixed-grow");
}

static void without_a_barrier_of_a_fixed_disk_that_shrinks_it_is_lost(void **state)
{
	(void)state;
	without(STORE_BARRIER_SIZE, "fixed-shrink");
	without(STORE_BARRIER_FOOTER, "fixed-shrink");
}

static void without_the_barrier_of_the_table_its_entries_are_anything(void **state)
{
	(void)state;
	without(STORE_BARRIER_TABLE, "dynamic-grow");
	without(STORE_BARRIER_TABLE, "dynamic-grow-moved-table");
	without(STORE_BARRIER_TABLE, "differencing-grow");
}

static void without_the_flush_before_the_size_old_bytes_or_no_table_show(void **state)
{
	(void)state;
	without(STORE_BARRIER_METADATA, "dynamic-grow");
	without(STORE_BARRIER_METADATA, "differencing-grow");
}

static void without_the_barrier_of_the_size_it_is_not_the_new_one(void **state)
{
	(void)state;
	without(STORE_BARRIER_SIZE, "dynamic-grow");
	without(STORE_BARRIER_SIZE, "dynamic-shrink");
	without(STORE_BARRIER_SIZE, "differencing-shrink");
}

/* --- errors --- */

/* One operation fails, for good or once: the size is old or new, nothing else is harmed, and the next try works. */
static void fault_at(const struct scenario *sc, enum fault_op op, unsigned at, unsigned count, int error, bool *ret_hit)
{
	struct fault_plan plan;
	struct bench bench;
	struct checker c;
	struct err err = {""};
	struct vhd *vhd;
	unsigned first;
	int rc;

	bench_init(&bench, sc);
	checker_init(&c, &bench);
	fault_plan_init(&plan);
	must(bench_open(&bench, store_fault_open_take(store_memory_open(bench.leaf, STORE_WRITE), &plan), &vhd, &err), &err);
	first = fault_plan_seen(&plan, op);
	/* Half a sector that can never be put right again is more than a disk does. */
	fault_plan_arm(&plan, op, first + at, count, error, op == FAULT_WRITE && count == 1);
	rc = resize(vhd, sc->to, &err);
	*ret_hit = fault_plan_disarm(&plan) > 0;
	if (rc && err.text[0] == '\0')
		fail_msg("%s: no sentence", sc->name);
	err.text[0] = '\0';
	if (check_content(&c, vhd, rc == 0, &err))
		fail_msg("%s: %s %u, %d of %d: %s", sc->name, fault_op_name(op), at, rc, error, err.text);
	if (rc && error == -ENOSPC && op != FAULT_SYNC) {
		rc = resize(vhd, sc->to, &err);
		/* A sector that could be neither switched nor put back leaves the disk for reading only. */
		if ((rc && (rc != -EROFS || count == 1)) || check_content(&c, vhd, rc == 0, &err))
			fail_msg("%s: %s %u, again: %s", sc->name, fault_op_name(op), at, err.text);
	}
	(void)vhd_close(vhd, &err);
	err.text[0] = '\0';
	if (look(&c, bench.leaf, false, &err) || go_on(&c, bench.leaf, 3, &err))
		fail_msg("%s: %s %u, afterwards: %s", sc->name, fault_op_name(op), at, err.text);
	fault_plan_done(&plan);
	checker_done(&c);
	bench_done(&bench);
}

static void each_operation_of_a_resize_fails(void **state)
{
	static const enum fault_op ops[] = {FAULT_READ, FAULT_WRITE, FAULT_SYNC, FAULT_ALLOCATE, FAULT_PUNCH, FAULT_TRUNCATE};

	(void)state;
	for (unsigned s = 0; s < SCENARIOS; s++) {
		for (unsigned o = 0; o < sizeof(ops) / sizeof(*ops); o++) {
			bool hit = true;

			for (unsigned at = 0; hit; at++) {
				int error = ops[o] == FAULT_READ || ops[o] == FAULT_SYNC ? -EIO : -ENOSPC;

				fault_at(&scenarios[s], ops[o], at, 1, error, &hit);
				fault_at(&scenarios[s], ops[o], at, UINT_MAX, error, &hit);
			}
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_crash_while_a_fixed_disk_gets_another_size),
		cmocka_unit_test(a_crash_while_a_dynamic_disk_gets_another_size),
		cmocka_unit_test(a_crash_while_a_differencing_disk_gets_another_size),
		cmocka_unit_test(without_a_barrier_of_a_fixed_disk_that_grows_it_is_lost),
		cmocka_unit_test(without_a_barrier_of_a_fixed_disk_that_shrinks_it_is_lost),
		cmocka_unit_test(without_the_barrier_of_the_table_its_entries_are_anything),
		cmocka_unit_test(without_the_flush_before_the_size_old_bytes_or_no_table_show),
		cmocka_unit_test(without_the_barrier_of_the_size_it_is_not_the_new_one),
		cmocka_unit_test(each_operation_of_a_resize_fails),
	};

	seed_base = environment_number("CRASH_SEED", 1);
	factor = environment_number("CHECK_LONG", 0) ? 10 : 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
