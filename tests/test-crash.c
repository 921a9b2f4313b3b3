/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Power failures. Each scenario runs random requests on a disk over a store that records what is done to it; then
 * every moment of the recording is a crash, and the disk that it leaves is looked at:
 *   - it opens, by the footer at the end or by the copy, and its structure is sound;
 *   - each sector holds what the last completed flush covers, or something newer that was asked for, never a third;
 *   - once the file has the size that a clean close gives it, the footer at its end is good;
 *   - it can be written to, closed and opened again, and holds what it should.
 * And without any one of the five barriers (vhd/store.h) the same must find a loss.
 *
 * CHECK_LONG=1: ten times as many states. CRASH_SEED: another run. CRASH_STATE=DIR: only the state kept in DIR, which
 * a failure names.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/crash.h"
#include "tests/lib/disk.h"
#include "tests/lib/engine.h"
#include "tests/lib/guest.h"
#include "tests/lib/model.h"
#include "tests/lib/random.h"
#include "tests/lib/ring-inline.h"
#include "tests/lib/scribble.h"
#include "vhd/layer.h"

#define SCENARIO_MARK 0x7363656eu

struct scenario {
	const char *name;
	struct disk_spec disk;
	unsigned requests;
	unsigned zero_percent, flush_percent, read_percent;
	bool whole_blocks; /* discards of whole blocks only, and many writes of whole blocks */
	unsigned states;
};

static const struct scenario scenarios[] = {
	{
		.name = "dynamic-allocate",
		.disk = {.type = DISK_DYNAMIC, .size = 640 << 10, .block_size = 8192, .blocks = 2},
		.requests = 150, .flush_percent = 8, .states = 2500,
	},
	{
		.name = "dynamic-discard",
		.disk = {.type = DISK_DYNAMIC, .size = 192 << 10, .block_size = 8192, .blocks = 8},
		.requests = 300, .zero_percent = 40, .flush_percent = 12, .whole_blocks = true, .states = 3500,
	},
	{
		/* So few blocks and flushes that a slot given back is soon wanted again. */
		.name = "dynamic-reuse",
		.disk = {.type = DISK_DYNAMIC, .size = 48 << 10, .block_size = 8192, .blocks = 5},
		.requests = 500, .zero_percent = 45, .flush_percent = 3, .whole_blocks = true, .states = 3000,
	},
	{
		.name = "dynamic-foreign",
		.disk = {.type = DISK_DYNAMIC, .size = 256 << 10, .block_size = 16384, .blocks = 10, .partial = true,
		         .stale = true},
		.requests = 250, .zero_percent = 20, .flush_percent = 10, .read_percent = 10, .states = 3000,
	},
	{
		.name = "differencing",
		.disk = {.type = DISK_DIFFERENCING, .size = 384 << 10, .block_size = 8192, .layers = 2, .blocks = 16},
		.requests = 250, .zero_percent = 10, .flush_percent = 10, .states = 3000,
	},
	{
		.name = "differencing-discard",
		.disk = {.type = DISK_DIFFERENCING, .size = 768 << 10, .block_size = 16384, .layers = 3, .blocks = 6,
		         .partial = true, .stale = true},
		.requests = 250, .zero_percent = 40, .flush_percent = 12, .read_percent = 5, .whole_blocks = true,
		.states = 3000,
	},
	{
		.name = "differencing-few-parents",
		.disk = {.type = DISK_DIFFERENCING, .size = 256 << 10, .block_size = 8192, .layers = 2, .blocks = 3},
		.requests = 250, .zero_percent = 30, .flush_percent = 12, .whole_blocks = true, .states = 3000,
	},
	{
		.name = "fixed",
		.disk = {.type = DISK_FIXED, .size = 128 << 10},
		.requests = 120, .zero_percent = 15, .flush_percent = 10, .states = 1000,
	},
};

#define SCENARIOS (sizeof(scenarios) / sizeof(*scenarios))

static uint64_t seed_base;
static unsigned factor;

/* A disk of the scenario, and what lies below its leaf. */
struct bench {
	const struct scenario *scenario;
	struct disk disk;
	uint8_t *below; /* what a sector reads as that the leaf does not hold */
	uint8_t *first; /* content before the first request */
};

static void must(int rc, const struct err *err)
{
	if (rc)
		fail_msg("%d: %s", rc, err->text);
}

static void bench_init(struct bench *b, const struct scenario *scenario, uint64_t seed)
{
	struct store *stores[DISK_LAYERS];
	struct disk_spec spec = scenario->disk;
	struct err err = {""};
	struct blk_queue *queue;
	struct blk *blk;

	spec.seed = seed;
	b->scenario = scenario;
	disk_make(&spec, &b->disk);
	b->below = calloc(1, spec.size);
	b->first = malloc(spec.size);
	memcpy(b->first, b->disk.content, spec.size);
	if (b->disk.layers == 1)
		return;
	for (unsigned i = 1; i < b->disk.layers; i++)
		stores[i - 1] = store_memory_open(b->disk.files[i], 0);
	must(engine_open_take(stores, b->disk.layers - 1, false, &blk, &err), &err);
	must(blk_queue_new(blk, NULL, &queue, &err), &err);
	must(blk_pread(queue, b->below, spec.size, 0), &err);
	blk_queue_free(queue);
	must(blk_close(blk, &err), &err);
}

static void bench_done(struct bench *b)
{
	disk_done(&b->disk);
	free(b->below);
	free(b->first);
}

static int bench_open(struct bench *b, struct store *leaf, bool write, struct blk **ret, struct err *err)
{
	struct store *stores[DISK_LAYERS] = {leaf};

	for (unsigned i = 1; i < b->disk.layers; i++)
		stores[i] = store_memory_open(b->disk.files[i], 0);
	return engine_open_take(stores, b->disk.layers, write, ret, err);
}

/* --- the recording --- */

/* Runs the scenario once and leaves what happened in `trace`. */
static void record(struct bench *b, uint64_t seed, struct trace *trace)
{
	const struct ring_inline_config config = {.seed = seed, .shuffle = true, .max_delay = 3};
	struct guest guest = {
		.seed = seed,
		.requests = b->scenario->requests,
		.zero_percent = b->scenario->zero_percent,
		.flush_percent = b->scenario->flush_percent,
		.read_percent = b->scenario->read_percent,
		.whole_blocks = b->scenario->whole_blocks,
		.block_size = b->scenario->disk.block_size,
	};
	struct model_event closed = {.kind = MODEL_CLOSED};
	uint64_t head[3] = {SCENARIO_MARK, (uint64_t)(b->scenario - scenarios), seed};
	struct err err = {""};
	struct sparse before;
	struct blk *blk;

	trace_init(trace);
	trace->sync_delay_us = 100;
	trace_mark(trace, head, sizeof(head));
	ring_inline_configure(&config);
	memory_file_content(b->disk.files[0], &before);
	must(bench_open(b, store_trace_open_take(store_memory_open(b->disk.files[0], STORE_WRITE), trace, &before), true,
	                &blk, &err), &err);
	sparse_done(&before);
	must(guest_run(blk, trace, &guest, &err), &err);
	must(blk_close(blk, &err), &err);
	trace_mark(trace, &closed, sizeof(closed));
	ring_inline_configure(NULL);
}

/* --- the check --- */

struct checker {
	struct bench *bench;
	struct model model;
	size_t cursor;       /* events before it are in the model */
	uint64_t final_size; /* of the closed file */
	size_t final_from;   /* the event that gave it that size */
	uint8_t *content;
	unsigned checked;
};

static void checker_init(struct checker *c, struct bench *b, const struct trace *trace)
{
	memset(c, 0, sizeof(*c));
	c->bench = b;
	model_init(&c->model, b->first, b->disk.size);
	c->content = malloc(b->disk.size);
	c->final_size = trace->before[0].size;
	for (size_t i = 0; i < trace->count; i++) {
		if (trace->events[i].kind != TRACE_TRUNCATE)
			continue;
		c->final_size = trace->events[i].offset;
		c->final_from = i;
	}
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
	}
}

/* The leaf's content by the plain rules of the format, without the engine. */
static int leaf_read(struct checker *c, const struct layer *layer, struct err *err)
{
	struct store *store = layer->store;
	uint64_t size = c->bench->disk.size;
	uint8_t bitmap[4096];

	memcpy(c->content, c->bench->below, size);
	if (layer->footer.type == VHD_FIXED)
		return store->ops->read(store, c->content, size, 0);
	for (uint32_t block = 0; block < layer->block_count; block++) {
		uint32_t entry = layer->bat[block];
		uint64_t at = (uint64_t)entry * VHD_SECTOR;

		if (entry == VHD_BAT_UNALLOCATED)
			continue;
		if (store->ops->read(store, bitmap, layer->bitmap_bytes, at))
			return err_set(err, -EIO, "block %u: its bitmap lies beyond the end", block);
		for (uint32_t s = 0; s < layer->block_size / VHD_SECTOR; s++) {
			uint64_t to = ((uint64_t)block << layer->block_shift) + s * VHD_SECTOR;

			if (to >= size || !(bitmap[s / 8] & 0x80 >> s % 8))
				continue;
			if (store->ops->read(store, c->content + to, VHD_SECTOR, at + layer->bitmap_bytes + s * VHD_SECTOR))
				return err_set(err, -EIO, "block %u, sector %u lies beyond the end", block, s);
		}
	}
	return 0;
}

/* Work goes on with what the crash left: nothing of it may be lost by that. */
static int go_on(struct checker *c, struct memory_file *file, uint64_t seed, struct err *err)
{
	struct scribble scribble = {.seed = seed, .requests = 30, .threads = 1, .depth = 4, .max_length = 16384};
	struct layer *layer;
	struct blk *blk;
	int rc = bench_open(c->bench, store_memory_open(file, STORE_WRITE), true, &blk, err);

	if (rc)
		return err_prefix(err, rc, "opening for writing");
	rc = scribble_compare(blk, c->content, err);
	if (rc == 0)
		rc = scribble_run(blk, c->content, &scribble, err);
	if (rc == 0)
		rc = scribble_compare(blk, c->content, err);
	if (rc) {
		blk_close(blk, NULL);
		return err_prefix(err, rc, "going on");
	}
	rc = blk_close(blk, err);
	if (rc)
		return err_prefix(err, rc, "closing");
	rc = layer_open_take(store_memory_open(file, 0), "/fake/leaf.vhd", NULL, &layer, err);
	if (rc)
		return err_prefix(err, rc, "after going on");
	if (layer->footer_source != FOOTER_AT_END)
		rc = err_set(err, VHD_E_CORRUPT, "after going on and closing there is no footer at the end");
	layer_free(layer);
	if (rc)
		return rc;
	rc = bench_open(c->bench, store_memory_open(file, 0), false, &blk, err);
	if (rc)
		return err_prefix(err, rc, "after going on");
	rc = scribble_compare(blk, c->content, err);
	blk_close(blk, NULL);
	return rc ? err_prefix(err, rc, "after going on") : 0;
}

static int check_layer(struct checker *c, const struct crash_state *state, struct memory_file *file, struct err *err)
{
	struct layer *layer;
	int rc = layer_open_take(store_memory_open(file, 0), "/fake/leaf.vhd", NULL, &layer, err);

	if (rc)
		return rc;
	if (layer->footer_source != FOOTER_AT_END && layer->file_size == c->final_size && state->point > c->final_from)
		rc = err_set(err, VHD_E_CORRUPT, "the file has its final size and no footer at the end");
	else if (c->model.closed && layer->file_size != c->final_size)
		rc = err_set(err, VHD_E_CORRUPT, "closed, the file has %" PRIu64 " bytes and not %" PRIu64, layer->file_size,
		             c->final_size);
	if (rc == 0)
		rc = leaf_read(c, layer, err);
	layer_free(layer);
	return rc ? rc : model_check(&c->model, c->content, err);
}

static int crash_checked(void *user, const struct trace *trace, struct crash_state *state, struct err *err)
{
	struct checker *c = user;
	struct memory_file *file = memory_file_new(&state->files[0]);
	int rc;

	checker_follow(c, trace, state->point);
	rc = check_layer(c, state, file, err);
	if (rc == 0 && c->checked++ % 25 == 0)
		rc = go_on(c, file, state->seed, err);
	memory_file_free(file);
	return rc;
}

static int states_run(struct bench *b, const struct trace *trace, uint64_t seed, unsigned states, int dropped,
                      struct crash_state *failed, struct err *err)
{
	struct checker checker;
	struct crash_options options = {
		.seed = seed, .states = states, .dropped = dropped, .check = crash_checked, .user = &checker,
	};
	int rc;

	checker_init(&checker, b, trace);
	rc = crash_run(trace, &options, failed, err);
	checker_done(&checker);
	return rc;
}

static void scenario_run(const char *name)
{
	const struct scenario *sc = scenarios;
	struct crash_state failed;
	struct err err = {""};
	struct trace trace;
	struct bench bench;
	char dir[100];

	while (strcmp(sc->name, name) != 0)
		sc++;
	for (unsigned round = 0; round < factor; round++) {
		uint64_t seed = seed_base + 1000 * round;

		bench_init(&bench, sc, seed);
		record(&bench, seed, &trace);
		if (states_run(&bench, &trace, seed, sc->states, CRASH_KEEP_ALL, &failed, &err)) {
			snprintf(dir, sizeof(dir), "test-crash-%s.state", name);
			if (crash_state_save(&trace, &failed, dir))
				snprintf(dir, sizeof(dir), "(could not be kept)");
			fail_msg("%s\nThe state is in %s. Again: CRASH_STATE=%s tests/test-crash; the whole run: CRASH_SEED=%" PRIu64
			         " tests/test-crash", err.text, dir, dir, seed);
		}
		trace_done(&trace);
		bench_done(&bench);
	}
}

static void a_crash_while_blocks_are_allocated(void **state)
{
	(void)state;
	scenario_run("dynamic-allocate");
}

static void a_crash_while_blocks_come_and_go(void **state)
{
	(void)state;
	scenario_run("dynamic-discard");
	scenario_run("dynamic-reuse");
}

static void a_crash_in_a_disk_whose_bitmaps_are_partly_set(void **state)
{
	(void)state;
	scenario_run("dynamic-foreign");
}

static void a_crash_in_a_differencing_disk(void **state)
{
	(void)state;
	scenario_run("differencing");
}

static void a_crash_while_discarding_over_parents(void **state)
{
	(void)state;
	scenario_run("differencing-discard");
	scenario_run("differencing-few-parents");
}

static void a_crash_in_a_fixed_disk(void **state)
{
	(void)state;
	scenario_run("fixed");
}

/* --- without a barrier --- */

/* Some runs have other syncs, by chance, wherever this one would be missed: one of several must find it. */
static void without(enum store_barrier barrier, const char *name)
{
	const struct scenario *sc = scenarios;
	struct crash_state failed;
	struct err err = {""};
	struct trace trace;
	struct bench bench;
	unsigned syncs = 0;
	int rc = 0;

	while (strcmp(sc->name, name) != 0)
		sc++;
	for (unsigned run = 0; run < 12 && rc == 0; run++) {
		bench_init(&bench, sc, seed_base + run);
		record(&bench, seed_base + run, &trace);
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

static void without_the_barrier_of_new_slots_blocks_lie_beyond_the_end(void **state)
{
	(void)state;
	without(STORE_BARRIER_SLOTS, "dynamic-allocate");
}

static void without_the_barrier_between_data_and_bits_garbage_shows(void **state)
{
	(void)state;
	without(STORE_BARRIER_DATA, "differencing");
	without(STORE_BARRIER_DATA, "differencing-discard");
	without(STORE_BARRIER_DATA, "dynamic-foreign");
}

static void without_the_last_barrier_of_a_flush_it_keeps_nothing(void **state)
{
	(void)state;
	without(STORE_BARRIER_METADATA, "dynamic-allocate");
	without(STORE_BARRIER_METADATA, "dynamic-discard");
	without(STORE_BARRIER_METADATA, "differencing");
	without(STORE_BARRIER_METADATA, "fixed");
}

static void without_the_barrier_of_the_footer_a_closed_file_has_none(void **state)
{
	(void)state;
	without(STORE_BARRIER_FOOTER, "dynamic-allocate");
	without(STORE_BARRIER_FOOTER, "differencing");
}

static void without_the_last_barrier_a_closed_file_is_not_cut(void **state)
{
	(void)state;
	without(STORE_BARRIER_CLOSE, "dynamic-allocate");
}

/* --- one state again --- */

static void the_state_that_was_kept(void **state)
{
	struct crash_state again;
	struct err err = {""};
	struct checker checker;
	struct trace trace;
	struct bench bench;
	uint64_t head[3];
	int rc;

	(void)state;
	assert_int_equal(crash_state_load(getenv("CRASH_STATE"), &trace, &again), 0);
	assert_int_equal(trace.events[0].length, sizeof(head));
	memcpy(head, trace.events[0].bytes, sizeof(head));
	assert_true(head[0] == SCENARIO_MARK && head[1] < SCENARIOS);
	bench_init(&bench, &scenarios[head[1]], head[2]);
	checker_init(&checker, &bench, &trace);
	crash_state_make(&trace, &again);
	rc = crash_checked(&checker, &trace, &again, &err);
	crash_state_done(&again);
	checker_done(&checker);
	bench_done(&bench);
	trace_done(&trace);
	must(rc, &err);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_crash_while_blocks_are_allocated),
		cmocka_unit_test(a_crash_while_blocks_come_and_go),
		cmocka_unit_test(a_crash_in_a_disk_whose_bitmaps_are_partly_set),
		cmocka_unit_test(a_crash_in_a_differencing_disk),
		cmocka_unit_test(a_crash_while_discarding_over_parents),
		cmocka_unit_test(a_crash_in_a_fixed_disk),
		cmocka_unit_test(without_the_barrier_of_new_slots_blocks_lie_beyond_the_end),
		cmocka_unit_test(without_the_barrier_between_data_and_bits_garbage_shows),
		cmocka_unit_test(without_the_last_barrier_of_a_flush_it_keeps_nothing),
		cmocka_unit_test(without_the_barrier_of_the_footer_a_closed_file_has_none),
		cmocka_unit_test(without_the_last_barrier_a_closed_file_is_not_cut),
	};
	const struct CMUnitTest again[] = {
		cmocka_unit_test(the_state_that_was_kept),
	};

	seed_base = environment_number("CRASH_SEED", 1);
	factor = environment_number("CHECK_LONG", 0) ? 10 : 1;
	if (getenv("CRASH_STATE"))
		return cmocka_run_group_tests(again, NULL, NULL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
