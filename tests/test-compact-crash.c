/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Power failures while a disk is compacted over and over and requests go on. As in tests/test-crash.c, every moment of
 * a recording is a crash: the image opens, each sector holds what it may, the file is as short as a vhd_compact that
 * has ended left it, and compacting what the crash left works and loses nothing. Without any one barrier the same must
 * find a loss.
 *
 * CHECK_LONG=1: ten times as many states. CRASH_SEED: another run.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/crash.h"
#include "tests/lib/disk.h"
#include "tests/lib/engine.h"
#include "tests/lib/model.h"
#include "tests/lib/random.h"
#include "tests/lib/ring-inline.h"
#include "tests/lib/scribble.h"
#include "vhd/layer.h"
#include "vhd/upkeep.h"

#define DEPTH 4u
#define COMPACTED_MARK 0x636f6d70u

struct scenario {
	const char *name;
	struct disk_spec disk;
	unsigned requests, zero_percent, flush_percent, states;
};

static const struct scenario scenarios[] = {
	{
		.name = "dynamic",
		.disk = {.type = DISK_DYNAMIC, .size = 256 << 10, .block_size = 8192, .blocks = 16},
		.requests = 1500, .zero_percent = 45, .flush_percent = 6, .states = 3000,
	},
	{
		.name = "foreign",
		.disk = {.type = DISK_DYNAMIC, .size = 256 << 10, .block_size = 8192, .blocks = 16, .partial = true, .stale = true},
		.requests = 1500, .zero_percent = 40, .flush_percent = 6, .states = 2500,
	},
	{
		.name = "differencing",
		.disk = {.type = DISK_DIFFERENCING, .size = 384 << 10, .block_size = 8192, .layers = 2, .blocks = 12,
		         .partial = true, .stale = true},
		.requests = 1500, .zero_percent = 40, .flush_percent = 6, .states = 2500,
	},
};

static uint64_t seed_base;
static unsigned factor;

static void must(int rc, const struct err *err)
{
	if (rc)
		fail_msg("%d: %s", rc, err->text);
}

struct compacted {
	uint64_t mark, size;
};

static int bench_open(const struct disk *disk, struct store *leaf, bool write, struct blk **ret, struct err *err)
{
	struct store *stores[DISK_LAYERS] = {leaf};

	for (unsigned i = 1; i < disk->layers; i++)
		stores[i] = store_memory_open(disk->files[i], 0);
	return engine_open_take(stores, disk->layers, write, ret, err);
}

/* --- the recording --- */

struct guest {
	struct trace *trace;
	const struct scenario *scenario;
	uint64_t size;
	struct rng rng;
	uint32_t last_id;
	unsigned in_flight;
	int rc;
	struct job {
		struct blk_req req;
		struct guest *guest;
		bool busy;
		uint32_t id;
		uint8_t memory[32768];
		struct iovec iov;
	} job[DEPTH];
};

static void job_done(struct blk_req *req, int result)
{
	struct job *job = req->user;
	struct model_event event = {.kind = MODEL_DONE, .id = job->id, .result = result};

	trace_mark(job->guest->trace, &event, sizeof(event));
	if (result)
		job->guest->rc = result;
	job->busy = false;
	job->guest->in_flight--;
}

/* Mostly whole blocks come and go, so that there are gaps to close. */
static void job_choose(struct guest *g, struct blk_req *req)
{
	const struct scenario *sc = g->scenario;
	uint64_t block = sc->disk.block_size;
	unsigned dice = (unsigned)rng_below(&g->rng, 100);
	uint64_t sectors = 1 + rng_below(&g->rng, 8);

	req->op = BLK_WRITE;
	if (dice < sc->flush_percent)
		req->op = BLK_FLUSH;
	else if (dice < sc->flush_percent + sc->zero_percent)
		req->op = BLK_DISCARD;
	if (req->op == BLK_FLUSH)
		return;
	req->offset = rng_below(&g->rng, g->size / 512 - sectors + 1) * 512;
	req->length = sectors * 512;
	if (req->op == BLK_DISCARD || rng_percent(&g->rng, 30)) {
		req->offset -= req->offset % block;
		req->length = block * (1 + rng_below(&g->rng, req->op == BLK_DISCARD ? 3 : 1));
		if (req->length > g->size - req->offset)
			req->length = g->size - req->offset;
	}
}

static bool overlaps_others(const struct guest *g, const struct job *job)
{
	for (unsigned i = 0; i < DEPTH; i++) {
		const struct blk_req *o = &g->job[i].req;

		if (&g->job[i] != job && g->job[i].busy && o->op != BLK_FLUSH && job->req.op != BLK_FLUSH &&
		    job->req.offset < o->offset + o->length && o->offset < job->req.offset + job->req.length)
			return true;
	}
	return false;
}

static void job_submit(struct guest *g, struct job *job, struct blk_queue *queue)
{
	struct model_event event = {.kind = MODEL_SUBMIT};

	job->req = (struct blk_req){.done = job_done, .user = job};
	job_choose(g, &job->req);
	if (overlaps_others(g, job))
		return;
	job->id = ++g->last_id;
	job->busy = true;
	job->iov = (struct iovec){job->memory, job->req.length};
	if (job->req.op == BLK_WRITE) {
		for (uint64_t s = 0; s < job->req.length / 512; s++)
			model_fill(job->id, job->req.offset / 512 + s, job->memory + s * 512);
		job->req.iov = &job->iov;
		job->req.iovcnt = 1;
	}
	event.id = job->id;
	event.op = job->req.op;
	event.offset = job->req.offset;
	event.length = job->req.length;
	trace_mark(g->trace, &event, sizeof(event));
	g->in_flight++;
	blk_submit(queue, &job->req);
}

struct compactor {
	struct vhd vhd;
	atomic_bool stop;
	unsigned moved;
	struct err err;
	int rc;
};

static void *compactor_main(void *arg)
{
	struct compactor *c = arg;

	while (!atomic_load(&c->stop) && c->rc == 0) {
		struct vhd_compact_result result;

		c->rc = vhd_compact(&c->vhd, NULL, &result, &c->err);
		c->moved += result.moved_blocks;
	}
	return NULL;
}

static void guest_run(struct guest *g, struct blk *blk)
{
	struct blk_queue *queue;
	struct err err = {""};

	must(blk_queue_new(blk, NULL, &queue, &err), &err);
	for (unsigned i = 0; i < DEPTH; i++)
		g->job[i].guest = g;
	while ((g->last_id < g->scenario->requests || g->in_flight) && g->rc == 0) {
		unsigned at_once = 1 + (unsigned)rng_below(&g->rng, DEPTH);

		for (unsigned i = 0; i < at_once && g->last_id < g->scenario->requests; i++)
			if (!g->job[i].busy)
				job_submit(g, &g->job[i], queue);
		assert_true(blk_queue_poll(queue, g->in_flight ? 1 : 0, -1) >= 0);
	}
	assert_int_equal(g->rc, 0);
	blk_queue_free(queue);
}

/* Returns how many blocks were moved. */
static unsigned record(const struct scenario *sc, struct disk *disk, uint64_t seed, struct trace *trace)
{
	const struct ring_inline_config config = {.seed = seed, .shuffle = true, .max_delay = 3};
	struct guest *g = calloc(1, sizeof(*g));
	struct model_event closed = {.kind = MODEL_CLOSED};
	struct compacted compacted = {.mark = COMPACTED_MARK};
	struct compactor c = {.rc = 0};
	struct vhd_compact_result result;
	struct err err = {""};
	struct sparse before;
	pthread_t thread;
	struct blk *blk;

	trace_init(trace);
	trace->sync_delay_us = 20;
	ring_inline_configure(&config);
	memory_file_content(disk->files[0], &before);
	must(bench_open(disk, store_trace_open_take(store_memory_open(disk->files[0], STORE_WRITE), trace, &before), true,
	                &blk, &err), &err);
	sparse_done(&before);
	g->trace = trace;
	g->scenario = sc;
	g->size = disk->size;
	g->rng = rng_fork(seed, 5);
	c.vhd.image = (struct image *)blk;
	assert_int_equal(pthread_create(&thread, NULL, compactor_main, &c), 0);
	guest_run(g, blk);
	free(g);
	atomic_store(&c.stop, true);
	pthread_join(thread, NULL);
	must(c.rc, &c.err);
	must(vhd_compact(&c.vhd, NULL, &result, &err), &err);
	compacted.size = result.after_bytes;
	trace_mark(trace, &compacted, sizeof(compacted));
	must(blk_close(blk, &err), &err);
	trace_mark(trace, &closed, sizeof(closed));
	ring_inline_configure(NULL);
	return c.moved;
}

/* --- the check --- */

struct checker {
	const struct disk *disk;
	struct model model;
	size_t cursor;       /* events before it are in the model */
	uint64_t size_limit; /* of the file, once the last vhd_compact has ended */
	uint64_t final_size; /* of the closed file */
	size_t final_from;   /* the event that gave it that size */
	uint8_t *content;
	unsigned checked;
};

static void checker_follow(struct checker *c, const struct trace *trace, size_t point)
{
	for (; c->cursor < point; c->cursor++) {
		const struct trace_event *e = &trace->events[c->cursor];

		if (e->kind == TRACE_MARK && e->length == sizeof(struct model_event))
			model_note(&c->model, e->bytes);
		else if (e->kind == TRACE_MARK)
			c->size_limit = ((const struct compacted *)e->bytes)->size;
	}
}

static int content_read(struct checker *c, struct memory_file *file, struct err *err)
{
	struct blk_queue *queue;
	struct blk *blk;
	int rc = bench_open(c->disk, store_memory_open(file, 0), false, &blk, err);

	if (rc)
		return rc;
	must(blk_queue_new(blk, NULL, &queue, err), err);
	rc = blk_pread(queue, c->content, c->disk->size, 0);
	blk_queue_free(queue);
	blk_close(blk, NULL);
	return rc ? err_set(err, rc, "it cannot be read: %s", strerror(-rc)) : 0;
}

/* What the crash left is compacted and written to. */
static int go_on(struct checker *c, struct memory_file *file, uint64_t seed, struct err *err)
{
	struct scribble scribble = {.seed = seed, .requests = 30, .threads = 1, .depth = 4, .max_length = 16384};
	struct layer *layer;
	struct vhd vhd = {0};
	struct blk *blk;
	int rc = bench_open(c->disk, store_memory_open(file, STORE_WRITE), true, &blk, err), closed;

	if (rc)
		return err_prefix(err, rc, "opening for writing");
	vhd.image = (struct image *)blk;
	rc = vhd_compact(&vhd, NULL, NULL, err);
	if (rc == 0)
		rc = scribble_compare(blk, c->content, err);
	if (rc == 0)
		rc = scribble_run(blk, c->content, &scribble, err);
	if (rc == 0)
		rc = vhd_compact(&vhd, NULL, NULL, err);
	if (rc == 0)
		rc = scribble_compare(blk, c->content, err);
	closed = blk_close(blk, rc ? NULL : err);
	if (rc || closed)
		return err_prefix(err, rc ? rc : closed, "going on");
	rc = layer_open_take(store_memory_open(file, 0), "/fake/leaf.vhd", NULL, &layer, err);
	if (rc)
		return err_prefix(err, rc, "after going on");
	if (layer->footer_source != FOOTER_AT_END)
		rc = err_set(err, VHD_E_CORRUPT, "after going on and closing there is no footer at the end");
	layer_free(layer);
	return rc;
}

static int check_file(const struct checker *c, const struct crash_state *state, struct memory_file *file,
                      struct err *err)
{
	struct layer *layer;
	int rc = layer_open_take(store_memory_open(file, 0), "/fake/leaf.vhd", NULL, &layer, err);

	if (rc)
		return rc;
	if (layer->footer_source != FOOTER_AT_END && layer->file_size == c->final_size && state->point > c->final_from)
		rc = err_set(err, VHD_E_CORRUPT, "the file has its final size and no footer at the end");
	else if (c->model.closed && layer->file_size != c->final_size)
		rc = err_set(err, VHD_E_CORRUPT, "closed, the file has %" PRIu64 " bytes", layer->file_size);
	else if (layer->file_size > c->size_limit)
		rc = err_set(err, VHD_E_CORRUPT, "compacted to %" PRIu64 " bytes, the file has %" PRIu64, c->size_limit,
		             layer->file_size);
	layer_free(layer);
	return rc;
}

static int crash_checked(void *user, const struct trace *trace, struct crash_state *state, struct err *err)
{
	struct checker *c = user;
	struct memory_file *file = memory_file_new(&state->files[0]);
	int rc;

	checker_follow(c, trace, state->point);
	rc = check_file(c, state, file, err);
	if (rc == 0)
		rc = content_read(c, file, err);
	if (rc == 0)
		rc = model_check(&c->model, c->content, err);
	if (rc == 0 && c->checked++ % 20 == 0)
		rc = go_on(c, file, state->seed, err);
	memory_file_free(file);
	return rc;
}

/* Records and looks at all states. Returns what the first bad one was; *ret_moved: blocks that were moved. */
static int scenario_try(const struct scenario *sc, uint64_t seed, int dropped, unsigned *ret_moved, struct err *err)
{
	struct checker c = {.size_limit = UINT64_MAX};
	struct crash_options options = {
		.seed = seed, .states = sc->states, .dropped = dropped, .check = crash_checked, .user = &c,
	};
	struct disk_spec spec = sc->disk;
	struct crash_state failed;
	struct trace trace;
	struct disk disk;
	uint8_t *first;
	char dir[100];
	int rc;

	spec.seed = seed;
	disk_make(&spec, &disk);
	first = malloc(disk.size);
	memcpy(first, disk.content, disk.size);
	*ret_moved += record(sc, &disk, seed, &trace);
	c.disk = &disk;
	c.content = malloc(disk.size);
	c.final_size = trace.before[0].size;
	model_init(&c.model, first, disk.size);
	for (size_t i = 0; i < trace.count; i++) {
		if (trace.events[i].kind != TRACE_TRUNCATE)
			continue;
		c.final_size = trace.events[i].offset;
		c.final_from = i;
	}
	rc = crash_run(&trace, &options, &failed, err);
	if (rc && dropped == CRASH_KEEP_ALL) {
		snprintf(dir, sizeof(dir), "test-compact-crash-%s.state", sc->name);
		rc = err_prefix(err, rc, "event %zu of %zu (files kept in %s: %d)", failed.point, trace.count, dir,
		                crash_state_save(&trace, &failed, dir));
	}
	if (rc)
		crash_state_done(&failed);
	model_done(&c.model);
	trace_done(&trace);
	free(c.content);
	free(first);
	disk_done(&disk);
	return rc;
}

static void scenario_run(const struct scenario *sc)
{
	struct err err = {""};
	unsigned moved = 0;

	for (unsigned round = 0; round < factor; round++)
		must(scenario_try(sc, seed_base + 1000 * round, CRASH_KEEP_ALL, &moved, &err), &err);
	print_message("%u blocks were moved\n", moved);
	assert_true(moved >= 10);
}

static void a_crash_while_a_dynamic_disk_is_compacted(void **state)
{
	(void)state;
	scenario_run(&scenarios[0]);
}

static void a_crash_while_another_programs_image_is_compacted(void **state)
{
	(void)state;
	scenario_run(&scenarios[1]);
}

static void a_crash_while_a_differencing_disk_is_compacted(void **state)
{
	(void)state;
	scenario_run(&scenarios[2]);
}

/* Not every run would miss it: one of several must. */
static void without(enum store_barrier barrier, const struct scenario *sc)
{
	struct err err = {""};
	unsigned moved = 0;
	int rc = 0;

	for (unsigned run = 0; run < 12 && rc == 0; run++)
		rc = scenario_try(sc, seed_base + run, (int)barrier, &moved, &err);
	if (rc == 0)
		fail_msg("%s: nothing was lost without barrier %d", sc->name, barrier);
	print_message("%s: %s\n", sc->name, err.text);
}

static void without_the_barrier_of_slots_gaps_show_what_they_held(void **state)
{
	(void)state;
	without(STORE_BARRIER_SLOTS, &scenarios[0]);
}

static void without_the_barrier_between_copy_and_entry_the_copy_is_missed(void **state)
{
	(void)state;
	without(STORE_BARRIER_DATA, &scenarios[0]);
	without(STORE_BARRIER_DATA, &scenarios[2]);
}

static void without_the_barrier_of_entries_old_places_are_used_too_early(void **state)
{
	(void)state;
	without(STORE_BARRIER_METADATA, &scenarios[0]);
}

static void without_the_barrier_of_the_cut_the_file_grows_back(void **state)
{
	(void)state;
	without(STORE_BARRIER_CLOSE, &scenarios[0]);
}

static void without_the_barrier_of_the_footer_a_closed_file_has_none(void **state)
{
	(void)state;
	without(STORE_BARRIER_FOOTER, &scenarios[0]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_crash_while_a_dynamic_disk_is_compacted),
		cmocka_unit_test(a_crash_while_another_programs_image_is_compacted),
		cmocka_unit_test(a_crash_while_a_differencing_disk_is_compacted),
		cmocka_unit_test(without_the_barrier_of_slots_gaps_show_what_they_held),
		cmocka_unit_test(without_the_barrier_between_copy_and_entry_the_copy_is_missed),
		cmocka_unit_test(without_the_barrier_of_entries_old_places_are_used_too_early),
		cmocka_unit_test(without_the_barrier_of_the_cut_the_file_grows_back),
		cmocka_unit_test(without_the_barrier_of_the_footer_a_closed_file_has_none),
	};

	seed_base = environment_number("CRASH_SEED", 1);
	factor = environment_number("CHECK_LONG", 0) ? 10 : 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
