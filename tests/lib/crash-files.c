/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/lib/crash-files.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/lib/random.h"
#include "tests/lib/record.h"
#include "tests/lib/ring-inline.h"
#include "tests/lib/scribble.h"
#include "tests/lib/temp-dir.h"

#define MARK UINT64_C(0x66696c6573637261)
#define GO_ON_EACH 6u       /* of so many states, one is written to */
#define RECOVERIES 6u       /* so many of a scenario's states have their recovery recorded, and crashed again ... */
#define RECOVERY_STATES 60u /* ... so often */
#define RUNS_WITHOUT 12u

enum kind {
	KIND_RUN,     /* of the scenario's operation */
	KIND_RECOVER, /* the leaf is opened for writing after a crash, written to, and closed */
	KIND_AGAIN,   /* the operation is run again after a crash */
};

struct head {
	uint64_t magic, index, seed, kind, unused; /* longer than a model_event, which the size tells it from */
};

/* So that it has the size of nothing else that is marked. */
struct ended {
	uint8_t ended;
};

char *crash_path(const struct crash_files *c, const char *name)
{
	char *path;

	if (asprintf(&path, "%s/%s", c->folder, name) < 0)
		abort();
	return path;
}

void crash_must(int rc, const struct err *err)
{
	if (rc)
		fail_msg("%d: %s", rc, err->text);
}

void crash_make(struct crash_files *c, const char *name, const char *parent, const struct vhd_create_options *options)
{
	struct vhd_create_options all = *options;
	char *path = crash_path(c, name), *above = parent ? crash_path(c, parent) : NULL;
	struct err err = {""};

	all.parent = above;
	crash_must(vhd_create(path, &all, &err), &err);
	free(path);
	free(above);
}

void crash_fill(struct crash_files *c, const char *name, uint64_t seed, unsigned requests)
{
	const struct vhd_open_options options = {.flags = VHD_OPEN_WRITE};
	struct scribble scribble = {.seed = seed, .requests = requests, .threads = 1, .depth = 4, .max_length = 12288,
	                            .write_percent = 90, .zero_percent = 10};
	char *path = crash_path(c, name);
	struct err err = {""};
	struct blk_queue *queue;
	struct blk_info info;
	struct vhd *vhd;
	uint8_t *content;

	crash_must(vhd_open(path, &options, &vhd, &err), &err);
	blk_info(vhd_blk(vhd), &info);
	content = malloc(info.size);
	crash_must(blk_queue_new(vhd_blk(vhd), NULL, &queue, &err), &err);
	crash_must(blk_pread(queue, content, info.size, 0), &err);
	blk_queue_free(queue);
	crash_must(scribble_run(vhd_blk(vhd), content, &scribble, &err), &err);
	crash_must(vhd_close(vhd, &err), &err);
	free(content);
	free(path);
}

void crash_make_chain(struct crash_files *c, unsigned layers, uint64_t size)
{
	char parent[32] = "";

	for (unsigned i = layers; i-- > 0;) {
		struct vhd_create_options options = {.block_size_bytes = CRASH_BLOCK};
		char name[32];

		snprintf(name, sizeof(name), i ? "layer-%u.vhd" : CRASH_LEAF, i);
		options.size_bytes = parent[0] ? 0 : size;
		crash_make(c, name, parent[0] ? parent : NULL, &options);
		crash_fill(c, name, c->seed + i, i == layers - 1 ? 30 : i ? 20 : 8);
		memcpy(parent, name, sizeof(parent));
	}
}

bool crash_exists(const struct crash_files *c, const char *name)
{
	char *path = crash_path(c, name);
	bool exists = access(path, F_OK) == 0;

	free(path);
	return exists;
}

char *crash_leaf(const struct crash_files *c)
{
	return crash_path(c, crash_exists(c, CRASH_LEAF) || !c->scenario->leaf_after ? CRASH_LEAF : c->scenario->leaf_after);
}

int crash_open(struct crash_files *c, struct vhd **ret, struct err *err)
{
	const struct vhd_open_options options = {.flags = VHD_OPEN_WRITE};
	char *path = crash_leaf(c);
	int rc = vhd_open(path, &options, ret, err);

	free(path);
	return rc;
}

int crash_close(struct crash_files *c, struct vhd *vhd, struct err *err)
{
	struct model_event closed = {.kind = MODEL_CLOSED};

	closed.result = vhd_close(vhd, err);
	if (c->trace)
		trace_mark(c->trace, &closed, sizeof(closed));
	return closed.result;
}

static void guest_set_up(struct crash_files *c, struct vhd *vhd, unsigned requests)
{
	struct vhd_info info;

	vhd_layer_info(vhd, 0, &info);
	c->guest = (struct guest){
		.seed = c->seed + c->last_id,
		.requests = requests,
		.zero_percent = 15,
		.flush_percent = 12,
		.read_percent = 5,
		.block_size = info.block_size_bytes,
		.size = c->size_before && c->size_before < info.size_bytes ? c->size_before : info.size_bytes,
		.last_id = c->last_id,
	};
	c->guest_blk = vhd_blk(vhd);
}

int crash_guest(struct crash_files *c, struct vhd *vhd, unsigned requests, struct err *err)
{
	int rc;

	if (!c->trace)
		return 0;
	guest_set_up(c, vhd, requests);
	rc = guest_run(c->guest_blk, c->trace, &c->guest, err);
	c->last_id = c->guest.last_id;
	return rc;
}

static void *guest_main(void *user)
{
	struct crash_files *c = user;

	c->guest_rc = guest_run(c->guest_blk, c->trace, &c->guest, &c->guest_err);
	return NULL;
}

void crash_guest_start(struct crash_files *c, struct vhd *vhd)
{
	if (!c->trace)
		return;
	guest_set_up(c, vhd, c->scenario->guest_requests ? c->scenario->guest_requests : 120);
	atomic_store(&c->guest_stop, false);
	c->guest.stop = &c->guest_stop;
	if (pthread_create(&c->guest_thread, NULL, guest_main, c))
		abort();
	while (!atomic_load(&c->guest.running))
		usleep(100);
}

int crash_guest_stop(struct crash_files *c, struct err *err)
{
	if (!c->trace)
		return 0;
	atomic_store(&c->guest_stop, true);
	pthread_join(c->guest_thread, NULL);
	c->last_id = c->guest.last_id;
	return c->guest_rc ? err_set(err, c->guest_rc, "%s", c->guest_err.text) : 0;
}

static int read_open(struct vhd *vhd, uint8_t **ret, uint64_t *ret_size, struct err *err)
{
	struct blk_queue *queue;
	struct blk_info info;
	int rc;

	blk_info(vhd_blk(vhd), &info);
	*ret = calloc(1, info.size ? info.size : 1);
	*ret_size = info.size;
	if (!*ret)
		abort();
	rc = blk_queue_new(vhd_blk(vhd), NULL, &queue, err);
	if (rc == 0) {
		rc = blk_pread(queue, *ret, info.size, 0);
		blk_queue_free(queue);
		if (rc)
			err_set(err, rc, "reading fails: %s", strerror(-rc));
	}
	if (rc)
		free(*ret);
	return rc;
}

int crash_read(const struct crash_files *c, const char *name, uint8_t **ret, uint64_t *ret_size, struct err *err)
{
	char *path = crash_path(c, name);
	struct vhd *vhd;
	int rc = vhd_open(path, NULL, &vhd, err);

	free(path);
	if (rc)
		return rc;
	rc = read_open(vhd, ret, ret_size, err);
	vhd_close(vhd, NULL);
	return rc;
}

/* --- what a crash leaves --- */

static void folder_empty(const struct crash_files *c)
{
	DIR *dir = opendir(c->folder);
	struct dirent *entry;

	while (dir && (entry = readdir(dir)))
		if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
			unlinkat(dirfd(dir), entry->d_name, 0);
	if (dir)
		closedir(dir);
}

static void lay_down(const struct crash_files *c, const struct trace *trace, const struct crash_state *state)
{
	folder_empty(c);
	for (unsigned i = 0; i < trace->names; i++) {
		char *path, *other = NULL;
		int rc;

		if (state->name[i] < 0)
			continue;
		path = crash_path(c, trace->name[i]);
		for (unsigned j = 0; j < i && !other; j++)
			if (state->name[j] == state->name[i])
				other = crash_path(c, trace->name[j]);
		rc = other ? link(other, path) : sparse_save(&state->files[state->name[i]], path);
		if (rc)
			fail_msg("%s: %s", path, strerror(other ? errno : -rc));
		free(path);
		free(other);
	}
}

static void defect_found(void *user, const struct vhd_defect *defect)
{
	struct err *err = user;

	if (defect->severity == VHD_DAMAGE && !err->text[0])
		err_set(err, 0, "check finds: %s at %" PRIu64 ": %s", defect->code, defect->offset, defect->sentence);
}

static int check_image(const char *path, bool one_file, struct err *err)
{
	struct err found = {""};
	const struct vhd_check_options options = {.defect = defect_found, .user = &found, .one_file = one_file};
	struct vhd_check_result result;
	int rc = vhd_check(path, &options, &result, err);

	if (rc == VHD_E_CORRUPT && found.text[0])
		err_set(err, rc, "%s: %s", path, found.text);
	return rc;
}

/*
 * The leaf with its chain, and every other image that has a name people see: some may have left the chain, and their
 * parents the folder. What begins with a dot never got a name.
 */
static int check_folder(const struct crash_files *c, struct err *err)
{
	DIR *dir = opendir(c->folder);
	struct dirent *entry;
	char *leaf = crash_leaf(c);
	int rc = 0;

	while (rc == 0 && dir && (entry = readdir(dir))) {
		size_t length = strlen(entry->d_name);
		char *path = crash_path(c, entry->d_name);

		if (entry->d_name[0] != '.' && length > 4 && strcmp(entry->d_name + length - 4, ".vhd") == 0)
			rc = check_image(path, strcmp(path, leaf) != 0, err);
		free(path);
	}
	if (dir)
		closedir(dir);
	free(leaf);
	return rc;
}

static int size_check(const struct crash_files *c, uint64_t size, struct err *err)
{
	uint64_t after = c->scenario->size_after ? c->scenario->size_after : c->size_before;

	if (size == after || (!c->ended && size == c->size_before) || c->scenario->no_leaf)
		return 0;
	return err_set(err, -EILSEQ, "the disk has %" PRIu64 " bytes; it had %" PRIu64 ", and is to have %" PRIu64, size,
	               c->size_before, after);
}

static int content_check(const struct crash_files *c, const uint8_t *content, uint64_t size, struct err *err)
{
	struct model part = c->model;

	part.size = size < c->model.size ? size : c->model.size;
	return c->scenario->own_content && c->kind != KIND_RECOVER ? 0 : model_check(&part, content, err);
}

/* Opening for writing may finish a change of the size: what that adds reads as zeros. */
static void content_extend(const struct crash_files *c, uint8_t **content, uint64_t size)
{
	if (size >= c->size)
		return;
	*content = realloc(*content, c->size);
	if (!*content)
		abort();
	memset(*content + size, 0, c->size - size);
}

/*
 * The folder as it is: nothing is changed. Gives the content of the leaf, with zeros to the larger of its sizes; NULL:
 * there is none, and that is right.
 */
static int look_on(struct crash_files *c, uint8_t **ret, uint64_t *ret_size, struct err *err)
{
	const struct crash_scenario *sc = c->scenario;
	char *path = crash_leaf(c);
	struct vhd_info info;
	struct vhd *vhd;
	int rc;

	*ret = NULL;
	if (sc->no_leaf && !c->ended && access(path, F_OK) < 0) {
		free(path);
		rc = sc->look ? sc->look(c, NULL, 0, err) : 0;
		return rc ? rc : check_folder(c, err);
	}
	rc = vhd_open(path, NULL, &vhd, err);
	free(path);
	if (rc)
		return rc;
	vhd_layer_info(vhd, 0, &info);
	if (c->cut_at_last && info.footer_from_copy)
		rc = err_set(err, VHD_E_CORRUPT, "%s: has its final size, and no footer at the end", info.path);
	if (rc == 0 && c->model.closed && info.footer_from_copy)
		rc = err_set(err, VHD_E_CORRUPT, "%s: closed, and there is no footer at the end", info.path);
	if (rc == 0)
		rc = size_check(c, info.size_bytes, err);
	if (rc == 0)
		rc = read_open(vhd, ret, ret_size, err);
	vhd_close(vhd, NULL);
	if (rc)
		return rc;
	rc = content_check(c, *ret, *ret_size, err);
	if (rc == 0 && sc->look && !(sc->own_content && c->kind == KIND_RECOVER))
		rc = sc->look(c, *ret, *ret_size, err);
	if (rc == 0)
		rc = check_folder(c, err);
	if (rc)
		free(*ret);
	else
		content_extend(c, ret, *ret_size);
	return rc;
}

/* Opened for writing, the disk is the same; work goes on with it, and nothing of that is lost. */
static int go_on(struct crash_files *c, uint8_t *content, struct err *err)
{
	struct scribble scribble = {.seed = c->seed + c->checked, .requests = 25, .threads = 1, .depth = 4,
	                            .max_length = 16384};
	struct vhd_info info;
	struct vhd *vhd;
	char *path;
	int rc = crash_open(c, &vhd, err);

	if (rc)
		return err_prefix(err, rc, "opening for writing");
	rc = scribble_compare(vhd_blk(vhd), content, err);
	if (rc == 0)
		rc = scribble_run(vhd_blk(vhd), content, &scribble, err);
	if (rc) {
		vhd_close(vhd, NULL);
		return err_prefix(err, rc, "going on");
	}
	rc = vhd_close(vhd, err);
	if (rc)
		return err_prefix(err, rc, "closing");
	path = crash_leaf(c);
	rc = vhd_open(path, NULL, &vhd, err);
	free(path);
	if (rc)
		return err_prefix(err, rc, "after going on");
	vhd_layer_info(vhd, 0, &info);
	if (info.footer_from_copy)
		rc = err_set(err, VHD_E_CORRUPT, "no footer at the end");
	if (rc == 0)
		rc = scribble_compare(vhd_blk(vhd), content, err);
	vhd_close(vhd, NULL);
	if (rc == 0)
		rc = check_folder(c, err);
	return rc ? err_prefix(err, rc, "after going on") : 0;
}

/* --- recording --- */

static int recover_run(struct crash_files *c, struct err *err)
{
	struct vhd *vhd;
	int rc = crash_open(c, &vhd, err), closing;

	if (rc)
		return rc;
	rc = crash_guest(c, vhd, 60, err);
	closing = crash_close(c, vhd, rc ? NULL : err);
	return rc ? rc : closing;
}

/* What is done, with the recorder looking on. */
static void record(struct crash_files *c, struct trace *trace)
{
	const struct ring_inline_config config = {.seed = c->seed, .shuffle = true, .max_delay = 3};
	struct head head = {MARK, c->index, c->seed, c->kind, 0};
	struct ended ended = {1};
	struct err err = {""};
	int rc;

	record_begin(trace, c->folder);
	trace->sync_delay_us = 100;
	trace_mark(trace, &head, sizeof(head));
	ring_inline_configure(&config);
	c->trace = trace;
	rc = c->kind == KIND_RUN ? c->scenario->run(c, &err) : c->kind == KIND_AGAIN ? c->scenario->again(c, &err)
	                                                                           : recover_run(c, &err);
	c->trace = NULL;
	ring_inline_configure(NULL);
	if (c->kind != KIND_RECOVER)
		trace_mark(trace, &ended, sizeof(ended));
	if (rc == 0)
		rc = record_end(&err);
	if (rc)
		fail_msg("%s, seed %" PRIu64 ", kind %u: %d: %s", c->scenario->name, c->seed, c->kind, rc, err.text);
}

static int leaf_read(struct crash_files *c, struct err *err)
{
	char *path = crash_leaf(c);
	int rc = crash_read(c, strrchr(path, '/') + 1, &c->first, &c->size_before, err);

	free(path);
	return rc;
}

static bool is_leaf_name(const struct crash_files *c, const char *name)
{
	return strcmp(name, CRASH_LEAF) == 0 || (c->scenario->leaf_after && strcmp(name, c->scenario->leaf_after) == 0);
}

static bool begins_with_leaf(const struct crash_files *c, const struct trace *trace)
{
	for (unsigned i = 0; i < trace->names; i++)
		if (trace->name_before[i] >= 0 && is_leaf_name(c, trace->name[i]))
			return true;
	return false;
}

/* Gets ready to follow a trace from its beginning. */
static void follow_begin(struct crash_files *c, const struct trace *trace)
{
	uint64_t after = c->scenario->size_after;
	struct crash_state state;
	struct err err = {""};

	c->first = NULL;
	c->size_before = c->size = 0;
	if (begins_with_leaf(c, trace)) {
		crash_state_make_whole(trace, 0, &state);
		lay_down(c, trace, &state);
		crash_state_done(&state);
		crash_must(leaf_read(c, &err), &err);
	}
	c->size = after > c->size_before ? after : c->size_before;
	if (c->size > c->size_before) {
		c->first = realloc(c->first, c->size);
		if (!c->first)
			abort();
		memset(c->first + c->size_before, 0, c->size - c->size_before);
	}
	for (unsigned f = 0; f < TRACE_FILES; f++)
		c->final_from[f] = SIZE_MAX;
	for (size_t i = 0; i < trace->count; i++) {
		if (trace->events[i].kind != TRACE_TRUNCATE)
			continue;
		c->final_size[trace->events[i].file] = trace->events[i].offset;
		c->final_from[trace->events[i].file] = i;
	}
	c->cut_at_last = false;
	c->cursor = 0;
	c->ended = false;
	model_init(&c->model, c->first, c->size);
}

static void follow_done(struct crash_files *c)
{
	model_done(&c->model);
	free(c->first);
	c->first = NULL;
}

/* Once a file has the size that it is closed with, the footer at its end is good. */
static bool is_cut_at_last(const struct crash_files *c, const struct trace *trace, const struct crash_state *state)
{
	for (unsigned i = 0; i < trace->names; i++) {
		int8_t f = state->name[i];

		if (f >= 0 && strcmp(trace->name[i], CRASH_LEAF) == 0)
			return c->final_from[f] < state->point && state->files[f].size == c->final_size[f];
	}
	return false;
}

static void follow(struct crash_files *c, const struct trace *trace, size_t point)
{
	for (; c->cursor < point; c->cursor++) {
		const struct trace_event *e = &trace->events[c->cursor];

		if (e->kind != TRACE_MARK)
			continue;
		if (e->length == sizeof(struct model_event))
			model_note(&c->model, e->bytes);
		else if (e->length == sizeof(struct ended))
			c->ended = true;
	}
}

/* --- the states --- */

static int states_run(struct crash_files *c, const struct trace *trace, unsigned states, int dropped, struct err *err);

/* The recovery from a state is recorded, and crashes too. */
static int crash_again(const struct crash_files *c, const struct trace *trace, const struct crash_state *state,
                       enum kind kind, struct err *err)
{
	struct crash_files again = {
		.scenario = c->scenario,
		.folder = c->folder,
		.seed = state->seed >> 1,
		.index = c->index,
		.kind = kind,
		.keep = c->keep,
	};
	struct trace recovery;
	int rc;

	lay_down(c, trace, state);
	record(&again, &recovery);
	rc = states_run(&again, &recovery, RECOVERY_STATES, CRASH_KEEP_ALL, err);
	trace_done(&recovery);
	return rc;
}

static int run_again(struct crash_files *c, struct err *err)
{
	bool ended = c->ended;
	uint8_t *content;
	uint64_t size;
	int rc = c->scenario->again(c, err);

	if (rc)
		return err_prefix(err, rc, "running it again");
	c->ended = true;
	rc = look_on(c, &content, &size, err);
	c->ended = ended;
	if (rc)
		return err_prefix(err, rc, "after running it again");
	rc = go_on(c, content, err);
	free(content);
	return rc;
}

static int crash_checked(void *user, const struct trace *trace, struct crash_state *state, struct err *err)
{
	struct crash_files *c = user;
	unsigned number = c->checked++, each = c->scenario->states / RECOVERIES + 1;
	uint8_t *content;
	uint64_t size;
	int rc;

	follow(c, trace, state->point);
	lay_down(c, trace, state);
	c->cut_at_last = is_cut_at_last(c, trace, state);
	rc = look_on(c, &content, &size, err);
	c->cut_at_last = false;
	if (rc)
		return rc;
	if (content && number % GO_ON_EACH == 0)
		rc = go_on(c, content, err);
	free(content);
	if (rc == 0 && c->scenario->again && number % GO_ON_EACH == GO_ON_EACH / 2) {
		lay_down(c, trace, state);
		rc = run_again(c, err);
	}
	if (rc || c->kind != KIND_RUN || state->dropped != CRASH_KEEP_ALL || number % each != each / 2)
		return rc;
	if (content)
		rc = crash_again(c, trace, state, KIND_RECOVER, err);
	if (rc == 0 && c->scenario->again)
		rc = crash_again(c, trace, state, KIND_AGAIN, err);
	return rc;
}

static int states_run(struct crash_files *c, const struct trace *trace, unsigned states, int dropped, struct err *err)
{
	struct crash_options options = {
		.seed = c->seed, .states = states, .dropped = dropped, .check = crash_checked, .user = c,
	};
	struct crash_state failed;
	struct err kept;
	char dir[120];
	int rc;

	if (dropped == CRASH_NAMES_SYNC_LAST) {
		assert_true(trace->names_syncs > 0);
		options.dropped = CRASH_NAMES_SYNC((int)trace->names_syncs - 1);
	}
	c->checked = 0;
	follow_begin(c, trace);
	rc = crash_run(trace, &options, &failed, err);
	follow_done(c);
	if (rc == 0)
		return 0;
	if (c->keep && !strstr(err->text, "CRASH_STATE=")) {
		const char *program = strrchr(program_invocation_name, '/');

		snprintf(dir, sizeof(dir), "%s-%s.state", program_invocation_short_name, c->scenario->name);
		if (crash_state_save(trace, &failed, dir))
			snprintf(dir, sizeof(dir), "(could not be kept)");
		kept = *err;
		err_set(err, rc, "%s\nAgain: CRASH_STATE=%s tests%s", kept.text, dir, program ? program : "/?");
	}
	crash_state_done(&failed);
	return rc;
}

static char *folder_new(const char *name)
{
	/* Memory, if it can be: no state is to survive. */
	if (!getenv("TMPDIR") && access("/dev/shm", W_OK) == 0)
		setenv("TMPDIR", "/dev/shm", 0);
	return temp_dir_new(name);
}

static int scenario_once(const struct crash_scenario *scenarios, unsigned index, uint64_t seed, unsigned states,
                         int dropped, bool keep, struct err *err)
{
	struct crash_files c = {.scenario = &scenarios[index], .index = index, .seed = seed, .kind = KIND_RUN, .keep = keep};
	struct trace trace;
	int rc;

	c.folder = folder_new("crash");
	c.scenario->make(&c);
	record(&c, &trace);
	rc = states_run(&c, &trace, states, dropped, err);
	trace_done(&trace);
	temp_dir_free(c.folder);
	return rc;
}

static bool is_wanted(const struct crash_scenario *sc)
{
	const char *only = getenv("CRASH_ONLY");

	return !only || strcmp(only, sc->name) == 0;
}

void crash_scenario_run(const struct crash_scenario *scenarios, unsigned index)
{
	uint64_t seed = environment_number("CRASH_SEED", 1);
	unsigned rounds = environment_number("CHECK_LONG", 0) ? 10 : 1;
	int dropped = (int)environment_number("CRASH_DROP", (uint64_t)CRASH_KEEP_ALL);
	struct err err = {""};

	if (!is_wanted(&scenarios[index]))
		return;
	for (unsigned i = 0; i < rounds; i++)
		if (scenario_once(scenarios, index, seed + 1000 * i, scenarios[index].states, dropped, true, &err))
			fail_msg("%s, seed %" PRIu64 ": %s", scenarios[index].name, seed + 1000 * i, err.text);
}

void crash_scenario_without(const struct crash_scenario *scenarios, unsigned index, int dropped)
{
	uint64_t seed = environment_number("CRASH_SEED", 1);
	struct err err = {""};

	if (!is_wanted(&scenarios[index]) || getenv("CRASH_DROP"))
		return;
	for (unsigned run = 0; run < RUNS_WITHOUT; run++)
		if (scenario_once(scenarios, index, seed + run, scenarios[index].states, dropped, false, &err))
			return;
	fail_msg("%s: nothing was lost without barrier %d", scenarios[index].name, dropped);
}

void crash_scenario_again(const struct crash_scenario *scenarios, unsigned count, const char *dir)
{
	struct crash_files c = {0};
	struct crash_state state;
	struct err err = {""};
	struct trace trace;
	struct head head;
	uint8_t *content;
	uint64_t size;

	assert_int_equal(crash_state_load(dir, &trace, &state), 0);
	assert_int_equal(trace.events[0].length, sizeof(head));
	memcpy(&head, trace.events[0].bytes, sizeof(head));
	assert_true(head.magic == MARK && head.index < count);
	c.kind = (unsigned)head.kind;
	c.scenario = &scenarios[head.index];
	c.seed = head.seed;
	c.folder = folder_new("crash-again");
	follow_begin(&c, &trace);
	follow(&c, &trace, state.point);
	crash_state_make(&trace, &state);
	lay_down(&c, &trace, &state);
	c.cut_at_last = is_cut_at_last(&c, &trace, &state);
	crash_must(look_on(&c, &content, &size, &err), &err);
	if (content)
		crash_must(go_on(&c, content, &err), &err);
	free(content);
	if (c.scenario->again) {
		lay_down(&c, &trace, &state);
		crash_must(run_again(&c, &err), &err);
	}
	crash_state_done(&state);
	follow_done(&c);
	trace_done(&trace);
	temp_dir_free(c.folder);
}
