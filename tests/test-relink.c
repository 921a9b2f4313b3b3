/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Changes of footer and header. Each is recorded, and every moment of the recording is a crash: what it leaves opens,
 * with the old or the new linkage and never a mixture, the new one once the switch is durable, and the rest of the file
 * is as it was. Without any one of the barriers the same must find a loss. CRASH_SEED: another run.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/crash.h"
#include "tests/lib/image-builder.h"
#include "tests/lib/store-fault.h"
#include "tests/lib/store-memory.h"
#include "vhd/parent-search.h"
#include "vhd/relink.h"

#define STATES 3000u

enum change { SET_PARENT, SET_UUID, SET_NO_PARENT };

struct scenario {
	const char *name;
	struct image_spec image;
	enum change change;
	const char *parent; /* NULL: a short path */
	bool open;          /* a disk is open on it: no footer at the end, reserved space behind the blocks */
	bool copy_bad;      /* the copy of the footer is damaged: the one at the end counts */
	bool spaces_last;   /* the locators do not fit into their old spaces */
};

#define SMALL .type = IMAGE_DIFFERENCING, .size = 64 << 10, .uuid_seed = 3, .parent_uuid_seed = 9, .time_stamp = 77, \
	.parent_time_stamp = 1234, .parent_name = "old.vhd"
#define BLOCKS .blocks = {{.index = 3, .seed = 5}, {.index = 0, .seed = 6, .clear = 0x55}}, .block_count = 2
#define LOCATORS .locators = {{.code = "W2ku", .text = "/srv/old/old.vhd"}, {.code = "W2ru", .text = ".\\old.vhd"}}
#define LONG_DIR "/a-folder-whose-name-takes-quite-some-space-in-a-locator-as-each-letter-takes-two-bytes-of-utf-16"
#define LONG_PARENT LONG_DIR LONG_DIR LONG_DIR LONG_DIR LONG_DIR LONG_DIR "/new.vhd"

static const struct scenario scenarios[] = {
	{.name = "plain", .image = {SMALL, BLOCKS, LOCATORS}},
	{.name = "no blocks", .image = {SMALL, LOCATORS}},
	{.name = "long path", .image = {SMALL, BLOCKS, LOCATORS}, .parent = LONG_PARENT, .spaces_last = true},
	{.name = "no locators", .image = {SMALL, BLOCKS}, .spaces_last = true},
	{.name = "a claim too wide", .image = {SMALL, BLOCKS, .locators = {{.code = "W2ru", .text = "old.vhd",
	 .space = 65536}}}, .spaces_last = true},
	{.name = "MacX", .image = {SMALL, BLOCKS, .locators = {{.code = "MacX", .text = "file://./old.vhd"},
	 {.code = "W2ku", .text = "/srv/old.vhd"}, {.code = "W2ru", .text = "old.vhd"}}}},
	{.name = "gaps", .image = {SMALL, BLOCKS, LOCATORS, .header_gap_sectors = 3, .bat_gap_sectors = 2,
	 .footer_gap_sectors = 7}},
	{.name = "511", .image = {SMALL, BLOCKS, LOCATORS, .footer_511 = true}},
	{.name = "batmap", .image = {SMALL, BLOCKS, LOCATORS, .batmap = true, .creator = "tap"}},
	{.name = "crashed", .image = {SMALL, BLOCKS, LOCATORS, .no_footer = true}},
	{.name = "locators behind", .image = {SMALL, BLOCKS, .locators = {
	 {.code = "W2ru", .text = "old.vhd", .after_blocks = true}}}, .parent = LONG_PARENT, .spaces_last = true},
	{.name = "open", .image = {SMALL, BLOCKS, LOCATORS, .no_footer = true}, .open = true},
	{.name = "open, long path", .image = {SMALL, BLOCKS, LOCATORS, .no_footer = true}, .open = true,
	 .parent = LONG_PARENT, .spaces_last = true},
	{.name = "bad copy", .image = {SMALL, BLOCKS, LOCATORS}, .copy_bad = true},
	{.name = "uuid, bad copy", .image = {SMALL, BLOCKS, LOCATORS}, .change = SET_UUID, .copy_bad = true},
	{.name = "uuid", .image = {SMALL, BLOCKS, LOCATORS}, .change = SET_UUID},
	{.name = "uuid, gaps", .image = {SMALL, BLOCKS, LOCATORS, .footer_gap_sectors = 7}, .change = SET_UUID},
	{.name = "uuid, open", .image = {SMALL, BLOCKS, LOCATORS, .no_footer = true}, .open = true, .change = SET_UUID},
	{.name = "no parent", .image = {SMALL, BLOCKS, LOCATORS}, .change = SET_NO_PARENT},
	{.name = "fixed uuid", .image = {.type = IMAGE_FIXED, .size = 8192, .fixed_seed = 4, .uuid_seed = 3},
	 .change = SET_UUID},
	{.name = "fixed uuid, 511", .image = {.type = IMAGE_FIXED, .size = 8192, .fixed_seed = 4, .uuid_seed = 3,
	 .footer_511 = true}, .change = SET_UUID},
	{.name = "fixed uuid, gap", .image = {.type = IMAGE_FIXED, .size = 8192, .fixed_seed = 4, .uuid_seed = 3,
	 .footer_gap_sectors = 3}, .change = SET_UUID},
};

#define SCENARIOS (sizeof(scenarios) / sizeof(*scenarios))

static uint64_t seed_base;

static const char *new_parent(const struct scenario *sc)
{
	return sc->parent ? sc->parent : "/fake/bases/new.vhd";
}

static void must(int rc, const struct err *err)
{
	if (rc)
		fail_msg("%d: %s", rc, err->text);
}

/* What a file says, as text to compare. */
static int linkage_text(const struct layer *layer, char ret[8192], struct err *err)
{
	struct parent_candidates candidates;
	char uuid[37], parent_uuid[37];
	size_t used;

	vhd_uuid_text(layer->footer.uuid, uuid);
	if (layer->footer.type != VHD_DIFFERENCING) {
		snprintf(ret, 8192, "%s %s", vhd_type_name(layer->footer.type), uuid);
		return 0;
	}
	vhd_uuid_text(layer->header.parent_uuid, parent_uuid);
	if (parent_candidates_find(layer, "/fake", &candidates, NULL, NULL))
		return err_set(err, -1, "no candidates");
	used = (size_t)snprintf(ret, 8192, "differencing %s on %s %u \"%s\":", uuid, parent_uuid,
	                        layer->header.parent_time_stamp, layer->parent_name ? layer->parent_name : "");
	for (unsigned i = 0; i < candidates.count && used < 8192; i++)
		used += (size_t)snprintf(ret + used, 8192 - used, " %s", candidates.paths[i]);
	parent_candidates_done(&candidates);
	return 0;
}

/* The content that the file itself holds, sector bitmaps included. */
static void content_read(const struct layer *layer, uint8_t *ret, size_t length)
{
	struct store *store = layer->store;

	memset(ret, 0, length);
	if (layer->footer.type == VHD_FIXED) {
		assert_int_equal(store->ops->read(store, ret, layer->size, 0), 0);
		return;
	}
	for (uint32_t b = 0; b < layer->block_count; b++) {
		struct byte_range range = layer_block_range(layer, layer->bat[b]);

		if (layer->bat[b] != VHD_BAT_UNALLOCATED)
			assert_int_equal(store->ops->read(store, ret + b * range.length, range.length, range.offset), 0);
	}
}

#define CONTENT (256u << 10)

struct run {
	const struct scenario *scenario;
	struct trace trace;
	char before[8192], after[8192];
	uint8_t content[CONTENT];
	size_t switched;  /* the event from which on the new linkage is durable */
	size_t final_from; /* the event that gave the file its last size */
	uint64_t final_size;
};

static bool copy_may_be_bad;

/* Notes and warnings that a crash may leave, or that the image has anyway; all else is an error. */
static void defect_judge(void *user, const struct vhd_defect *defect)
{
	char *worst = user;

	if (copy_may_be_bad && !strcmp(defect->code, "footer-copy-damaged"))
		return;
	if (strcmp(defect->code, "footer-missing") && strcmp(defect->code, "footer-511") &&
	    strcmp(defect->code, "unused-space"))
		snprintf(worst, 512, "%s: %s", defect->code, defect->sentence);
}

static int file_judge(struct memory_file *file, struct layer **ret, struct err *err)
{
	char worst[512] = "";
	struct layer_sink sink = {.defect = defect_judge, .user = worst};
	int rc = layer_open_take(store_memory_open(file, 0), "/fake/leaf.vhd", &sink, ret, err);

	if (rc == 0 && worst[0]) {
		layer_free(*ret);
		return err_set(err, VHD_E_CORRUPT, "%s", worst);
	}
	return rc;
}

static int change_do(const struct scenario *sc, struct layer *layer, struct relink_tail *tail, struct err *err)
{
	uint8_t uuid[16];

	image_uuid(42, uuid);
	switch (sc->change) {
	case SET_PARENT:
		return layer_set_parent(layer, tail, new_parent(sc), uuid, 4321, err);
	case SET_UUID:
		return layer_set_uuid(layer, tail, uuid, err);
	default:
		return layer_set_no_parent(layer, tail, err);
	}
}

static struct memory_file *file_make(const struct scenario *sc, struct sparse *ret_before)
{
	struct memory_file *file;
	struct image image;

	image_build(&sc->image, &image);
	if (sc->open)
		image_resize(&image, image.size + 16384);
	if (sc->copy_bad)
		image.bytes[F_CHECKSUM] ^= 1;
	sparse_init(ret_before);
	sparse_write(ret_before, image.bytes, image.size, 0);
	image_free(&image);
	file = memory_file_new(ret_before);
	memory_file_content(file, ret_before);
	return file;
}

static void syncs_find(struct run *r)
{
	const struct trace *trace = &r->trace;

	r->switched = trace->count;
	for (size_t i = trace->count; i-- > 0;) {
		const struct trace_event *e = &trace->events[i];

		if (e->kind == TRACE_SYNC_END && (e->barrier == STORE_BARRIER_SWITCH ||
		    (r->scenario->image.type == IMAGE_FIXED && e->barrier == STORE_BARRIER_CLOSE)))
			r->switched = i + 1;
		if (e->kind == TRACE_TRUNCATE && r->final_from == 0)
			r->final_from = i + 1;
	}
}

static void record(const struct scenario *sc, struct run *r)
{
	struct memory_file *file;
	struct relink_tail tail;
	struct err err = {""};
	struct sparse before, after;
	struct layer *layer;

	memset(r, 0, sizeof(*r));
	r->scenario = sc;
	copy_may_be_bad = sc->copy_bad;
	file = file_make(sc, &before);
	trace_init(&r->trace);
	must(layer_open_take(store_trace_open_take(store_memory_open(file, STORE_WRITE), &r->trace, &before),
	                     "/fake/leaf.vhd", NULL, &layer, &err), &err);
	sparse_done(&before);
	must(linkage_text(layer, r->before, &err), &err);
	content_read(layer, r->content, CONTENT);
	tail = relink_tail_of(layer);
	if (sc->open) {
		tail.end += 8192;
		tail.open = true;
	}
	must(change_do(sc, layer, &tail, &err), &err);
	must(linkage_text(layer, r->after, &err), &err);
	if (sc->image.type != IMAGE_FIXED && !sc->open)
		assert_int_equal(tail.end, layer->data_end);
	layer_free(layer);
	memory_file_content(file, &after);
	r->final_size = after.size;
	sparse_done(&after);
	memory_file_free(file);
	syncs_find(r);
}

static int crash_checked(void *user, const struct trace *trace, struct crash_state *state, struct err *err)
{
	struct run *r = user;
	struct memory_file *file = memory_file_new(&state->files[0]);
	uint8_t *content = malloc(CONTENT);
	struct layer *layer;
	char text[8192];
	int rc = file_judge(file, &layer, err);

	if (rc == 0) {
		bool sealed = layer->footer_source == FOOTER_AT_END;

		rc = linkage_text(layer, text, err);
		content_read(layer, content, CONTENT);
		if (rc == 0 && strcmp(text, r->after) && (strcmp(text, r->before) || state->point >= r->switched))
			rc = err_set(err, VHD_E_CORRUPT, "it says %s", text);
		if (rc == 0 && memcmp(content, r->content, CONTENT))
			rc = err_set(err, VHD_E_CORRUPT, "its content has changed");
		if (rc == 0 && !r->scenario->open && !sealed && layer->file_size == r->final_size && r->final_from &&
		    state->point > r->final_from)
			rc = err_set(err, VHD_E_CORRUPT, "the file has its final size and no footer");
		if (rc == 0 && !r->scenario->open && state->point == trace->count &&
		    (!sealed || layer->file_size != r->final_size))
			rc = err_set(err, VHD_E_CORRUPT, "all is done and the file is not closed");
		layer_free(layer);
	}
	free(content);
	memory_file_free(file);
	return rc;
}

static int states_run(struct run *r, int dropped, struct crash_state *failed, struct err *err)
{
	struct crash_options options = {
		.seed = seed_base, .states = STATES, .dropped = dropped, .check = crash_checked, .user = r,
	};

	return crash_run(&r->trace, &options, failed, err);
}

static void every_crash_leaves_the_old_or_the_new_linkage(void **state)
{
	static struct run r;

	(void)state;
	for (size_t i = 0; i < SCENARIOS; i++) {
		struct crash_state failed;
		struct err err = {""};

		record(&scenarios[i], &r);
		if (r.switched == r.trace.count && !r.scenario->open)
			assert_int_equal(scenarios[i].image.type, IMAGE_FIXED);
		if (strcmp(r.before, r.after) == 0)
			fail_msg("%s: nothing changed", scenarios[i].name);
		if (states_run(&r, CRASH_KEEP_ALL, &failed, &err))
			fail_msg("%s: event %zu of %zu, switched at %zu: %s", scenarios[i].name, failed.point, r.trace.count,
			         r.switched, err.text);
		trace_done(&r.trace);
	}
}

static const struct scenario *scenario_find(const char *name)
{
	const struct scenario *sc = scenarios;

	while (strcmp(sc->name, name))
		sc++;
	return sc;
}

static void without(enum store_barrier barrier, const char *name)
{
	static struct run r;
	struct crash_state failed;
	struct err err;

	record(scenario_find(name), &r);
	if (states_run(&r, (int)barrier, &failed, &err) == 0)
		fail_msg("%s: nothing was lost without barrier %d", name, barrier);
	crash_state_done(&failed);
	trace_done(&r.trace);
}

static void without_the_barrier_after_the_footer_goes_two_footers_differ(void **state)
{
	(void)state;
	without(STORE_BARRIER_UNSEAL, "uuid");
	without(STORE_BARRIER_UNSEAL, "uuid, gaps");
	without(STORE_BARRIER_UNSEAL, "bad copy");
}

static void without_the_barrier_before_the_switch_the_header_is_torn(void **state)
{
	(void)state;
	without(STORE_BARRIER_HEADER, "plain");
	without(STORE_BARRIER_HEADER, "long path");
	without(STORE_BARRIER_HEADER, "open");
	without(STORE_BARRIER_HEADER, "no parent");
}

static void without_the_barrier_of_the_switch_the_old_header_is_overwritten(void **state)
{
	(void)state;
	without(STORE_BARRIER_SWITCH, "plain");
	without(STORE_BARRIER_SWITCH, "open");
	without(STORE_BARRIER_SWITCH, "uuid");
	without(STORE_BARRIER_SWITCH, "fixed uuid");
}

static void without_the_last_barriers_the_file_is_not_closed(void **state)
{
	(void)state;
	without(STORE_BARRIER_FOOTER, "plain");
	without(STORE_BARRIER_CLOSE, "plain");
}

/* --- errors --- */

/* Fails operation `n` of its kind in the change. False: there was none. */
static bool fail_one(const struct run *r, enum fault_op op, unsigned n, unsigned count, bool partial)
{
	const struct scenario *sc = r->scenario;
	struct fault_plan plan;
	struct relink_tail tail;
	struct err err = {""};
	struct sparse before;
	struct memory_file *file = file_make(sc, &before);
	struct layer *layer;
	uint8_t *content = malloc(CONTENT);
	char text[8192];
	unsigned failed;
	int rc;

	sparse_done(&before);
	fault_plan_init(&plan);
	must(layer_open_take(store_fault_open_take(store_memory_open(file, STORE_WRITE), &plan), "/fake/leaf.vhd", NULL,
	                     &layer, &err), &err);
	tail = relink_tail_of(layer);
	if (sc->open)
		tail = (struct relink_tail){tail.end + 8192, true};
	fault_plan_arm(&plan, op, fault_plan_seen(&plan, op) + n, count, -EIO, partial);
	rc = change_do(sc, layer, &tail, &err);
	failed = fault_plan_disarm(&plan);
	if ((rc != 0) != (failed > 0))
		fail_msg("%s: %u of %s failed, and it says %d", sc->name, failed, fault_op_name(op), rc);
	layer_free(layer);
	fault_plan_done(&plan);

	must(file_judge(file, &layer, &err), &err);
	must(linkage_text(layer, text, &err), &err);
	if (strcmp(text, r->before) && strcmp(text, r->after))
		fail_msg("%s, %s %u failed: it says %s", sc->name, fault_op_name(op), n, text);
	content_read(layer, content, CONTENT);
	assert_memory_equal(content, r->content, CONTENT);
	layer_free(layer);

	/* And the next attempt succeeds. */
	must(layer_open_take(store_memory_open(file, STORE_WRITE), "/fake/leaf.vhd", NULL, &layer, &err), &err);
	tail = relink_tail_of(layer);
	must(change_do(sc, layer, &tail, &err), &err);
	layer_free(layer);
	must(file_judge(file, &layer, &err), &err);
	must(linkage_text(layer, text, &err), &err);
	assert_string_equal(text, r->after);
	content_read(layer, content, CONTENT);
	assert_memory_equal(content, r->content, CONTENT);
	layer_free(layer);
	memory_file_free(file);
	free(content);
	return failed > 0;
}

static void an_error_at_any_step_leaves_the_old_or_the_new_linkage(void **state)
{
	static const unsigned counts[] = {1, UINT_MAX};
	static struct run r;
	unsigned failures = 0;

	(void)state;
	for (size_t i = 0; i < SCENARIOS; i++) {
		record(&scenarios[i], &r);
		for (unsigned op = 0; op < FAULT_OPS; op++)
			for (unsigned how = 0; how < 4; how++)
				for (unsigned n = 0; fail_one(&r, (enum fault_op)op, n, counts[how % 2], how >= 2); n++)
					failures++;
		trace_done(&r.trace);
	}
	assert_true(failures > 1000);
}

/* --- where things go --- */

static void locators_use_their_old_space_while_it_suffices(void **state)
{
	(void)state;
	for (size_t i = 0; i < SCENARIOS; i++) {
		const struct scenario *sc = &scenarios[i];
		struct relink_tail tail;
		struct err err = {""};
		struct sparse before;
		struct memory_file *file;
		struct layer *layer;
		uint64_t end;

		if (sc->change != SET_PARENT)
			continue;
		file = file_make(sc, &before);
		sparse_done(&before);
		must(layer_open_take(store_memory_open(file, STORE_WRITE), "/fake/leaf.vhd", NULL, &layer, &err), &err);
		tail = relink_tail_of(layer);
		if (sc->open)
			tail = (struct relink_tail){tail.end + 8192, true};
		end = tail.end;
		for (unsigned times = 0; times < 3; times++)
			must(change_do(sc, layer, &tail, &err), &err);
		if (sc->spaces_last ? tail.end == end : tail.end != end)
			fail_msg("%s: the structures end at %" PRIu64 ", and at %" PRIu64 " before", sc->name, tail.end, end);
		/* Room that is there for one path is there for a second one. */
		assert_true(tail.end <= end + 2 * 2048);
		assert_memory_equal(layer->header.locators[0].code, "W2ru", 4);
		assert_memory_equal(layer->header.locators[1].code, "W2ku", 4);
		assert_memory_equal(layer->header.locators[2].code, strcmp(sc->name, "MacX") ? "\0\0\0\0" : "MacX", 4);
		layer_free(layer);
		memory_file_free(file);
	}
}

static void what_a_crash_left_behind_goes_back_to_the_front(void **state)
{
	const struct scenario *sc = scenario_find("plain");
	static struct run r;
	struct crash_state at = {.dropped = CRASH_KEEP_ALL};
	struct relink_tail tail;
	struct err err = {""};
	struct memory_file *file;
	struct layer *layer;

	(void)state;
	record(sc, &r);
	at.point = r.switched;
	crash_state_make(&r.trace, &at);
	file = memory_file_new(&at.files[0]);
	must(layer_open_take(store_memory_open(file, STORE_WRITE), "/fake/leaf.vhd", NULL, &layer, &err), &err);
	assert_true(layer->header_offset > layer->header.table_offset);
	tail = relink_tail_of(layer);
	must(change_do(sc, layer, &tail, &err), &err);
	assert_int_equal(layer->header_offset, 512);
	layer_free(layer);
	must(file_judge(file, &layer, &err), &err);
	assert_int_equal(layer->footer_source, FOOTER_AT_END);
	layer_free(layer);
	memory_file_free(file);
	trace_done(&r.trace);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_crash_leaves_the_old_or_the_new_linkage),
		cmocka_unit_test(without_the_barrier_after_the_footer_goes_two_footers_differ),
		cmocka_unit_test(without_the_barrier_before_the_switch_the_header_is_torn),
		cmocka_unit_test(without_the_barrier_of_the_switch_the_old_header_is_overwritten),
		cmocka_unit_test(without_the_last_barriers_the_file_is_not_closed),
		cmocka_unit_test(an_error_at_any_step_leaves_the_old_or_the_new_linkage),
		cmocka_unit_test(locators_use_their_old_space_while_it_suffices),
		cmocka_unit_test(what_a_crash_left_behind_goes_back_to_the_front),
	};
	const char *seed = getenv("CRASH_SEED");

	seed_base = seed ? strtoull(seed, NULL, 10) : 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
