/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/lib/crash.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/lib/random.h"

#define SECTOR 512u

/* How a state treats what no sync covers. Some of these find what even many random states would miss. */
enum fate {
	FATE_NONE,     /* all of it is lost */
	FATE_ALL,      /* nothing is lost */
	FATE_TORN,     /* sector by sector, by the odds */
	FATE_WHOLE,    /* operation by operation, by the odds */
	FATE_ONLY_ONE, /* one operation survives */
	FATE_BUT_ONE,  /* one operation is lost */
	FATE_NEWEST,   /* those after some moment survive, the older ones are lost */
	FATE_SMALL,    /* small writes survive: metadata without its data */
	FATE_LARGE,    /* large ones do: data without its metadata */
	FATE_COUNT,
};

/* Follows the trace; `base` holds what is on the disk whatever the crash does. */
struct replay {
	const struct trace *trace;
	size_t *covered; /* per event: the event from which on it is safe; SIZE_MAX: never */
	size_t frontier; /* `base` holds all events before this one */
	struct sparse base[TRACE_FILES];
	int8_t name[TRACE_NAMES];
};

struct chance {
	struct rng rng, names_rng;
	enum fate fate;
	unsigned percent, names_percent;
	size_t chosen, from; /* events */
	size_t size_until[TRACE_FILES]; /* the last event whose change of size counts, plus one */
};

static bool is_operation(const struct trace_event *event)
{
	return event->kind <= TRACE_TRUNCATE;
}

static bool is_name_event(const struct trace_event *event)
{
	return event->kind >= TRACE_LINK && event->kind <= TRACE_UNLINK;
}

/* Whether it is the end of a sync that is believed. */
static bool ends_sync(const struct trace_event *e, int dropped)
{
	return (e->kind == TRACE_SYNC_END && e->barrier != dropped) ||
	       (e->kind == TRACE_NAMES_SYNC_END && CRASH_NAMES_SYNC((int)e->length) != dropped);
}

static void covered_find(struct replay *r, int dropped)
{
	size_t until[TRACE_FILES]; /* what the syncs that end later cover: from the end of the trace backwards */
	size_t names_until = SIZE_MAX;
	const struct trace *trace = r->trace;
	size_t *safe_from;

	/* For each event: the earliest end of a sync of its file that began after it. */
	safe_from = malloc(sizeof(*safe_from) * (trace->count + 1));
	r->covered = malloc(sizeof(*r->covered) * (trace->count + 1));
	if (!safe_from || !r->covered)
		abort();
	for (size_t i = 0; i < trace->count; i++)
		safe_from[i] = SIZE_MAX;
	for (size_t i = 0; i < trace->count; i++) {
		const struct trace_event *e = &trace->events[i];

		if (ends_sync(e, dropped))
			safe_from[e->offset] = i + 1;
	}
	for (unsigned f = 0; f < TRACE_FILES; f++)
		until[f] = SIZE_MAX;
	for (size_t i = trace->count; i-- > 0;) {
		const struct trace_event *e = &trace->events[i];

		if (e->kind == TRACE_SYNC_BEGIN && safe_from[i] < until[e->file])
			until[e->file] = safe_from[i];
		if (e->kind == TRACE_NAMES_SYNC_BEGIN && safe_from[i] < names_until)
			names_until = safe_from[i];
		r->covered[i] = is_operation(e) ? until[e->file] : is_name_event(e) ? names_until : 0;
	}
	free(safe_from);
}

static void replay_init(struct replay *r, const struct trace *trace, int dropped)
{
	memset(r, 0, sizeof(*r));
	r->trace = trace;
	for (unsigned f = 0; f < trace->files; f++)
		sparse_clone(&trace->before[f], &r->base[f]);
	memcpy(r->name, trace->name_before, sizeof(r->name));
	covered_find(r, dropped);
}

static void replay_done(struct replay *r)
{
	for (unsigned f = 0; f < r->trace->files; f++)
		sparse_done(&r->base[f]);
	free(r->covered);
}

static void event_apply(const struct trace_event *e, struct sparse *file)
{
	switch (e->kind) {
	case TRACE_WRITE:
		sparse_write(file, e->bytes, e->length, e->offset);
		break;
	case TRACE_PUNCH:
		sparse_zero(file, e->offset, e->length);
		break;
	case TRACE_ALLOCATE:
		if (file->size < e->offset + e->length)
			sparse_truncate(file, e->offset + e->length);
		break;
	case TRACE_TRUNCATE:
		sparse_truncate(file, e->offset);
		break;
	}
}

static void name_event_apply(const struct trace_event *e, int8_t *name)
{
	int8_t file = (int8_t)e->file;

	switch (e->kind) {
	case TRACE_LINK:
		if (name[e->offset] < 0)
			name[e->offset] = file;
		break;
	case TRACE_RENAME:
		if (name[e->offset] != file || (name[e->length] >= 0 && !e->barrier))
			break;
		name[e->offset] = -1;
		name[e->length] = file;
		break;
	case TRACE_UNLINK:
		if (name[e->offset] == file)
			name[e->offset] = -1;
		break;
	}
}

static void replay_advance(struct replay *r, size_t point)
{
	while (r->frontier < point && r->covered[r->frontier] <= point) {
		const struct trace_event *e = &r->trace->events[r->frontier++];

		if (is_operation(e))
			event_apply(e, &r->base[e->file]);
		else if (is_name_event(e))
			name_event_apply(e, r->name);
	}
}

static bool chance_lands(struct chance *c, const struct trace_event *e, size_t index)
{
	switch (c->fate) {
	case FATE_NONE:
		return false;
	case FATE_ALL:
		return true;
	case FATE_TORN:
	case FATE_WHOLE:
	case FATE_COUNT:
		return rng_percent(&c->rng, c->percent);
	case FATE_ONLY_ONE:
		return index == c->chosen;
	case FATE_BUT_ONE:
		return index != c->chosen;
	case FATE_NEWEST:
		return index >= c->from;
	case FATE_SMALL:
		return e->kind != TRACE_WRITE ? rng_percent(&c->rng, 50) : e->length <= 1024;
	case FATE_LARGE:
		return e->kind != TRACE_WRITE ? rng_percent(&c->rng, 50) : e->length > 1024;
	}
	return false;
}

static void write_torn(struct chance *c, const struct trace_event *e, struct sparse *file)
{
	uint64_t offset = e->offset, end = e->offset + e->length;

	while (offset < end) {
		uint64_t next = (offset / SECTOR + 1) * SECTOR;

		if (next > end)
			next = end;
		if (rng_percent(&c->rng, c->percent))
			sparse_write(file, (uint8_t *)e->bytes + (offset - e->offset), next - offset, offset);
		offset = next;
	}
}

static void punch_torn(struct chance *c, const struct trace_event *e, struct sparse *file)
{
	uint64_t length = e->length;

	if (rng_percent(&c->rng, 50))
		length = rng_below(&c->rng, length / SECTOR + 1) * SECTOR;
	sparse_zero(file, e->offset, length);
}

static uint64_t size_after(const struct trace_event *e, uint64_t size)
{
	uint64_t end = e->offset + e->length;

	switch (e->kind) {
	case TRACE_WRITE:
	case TRACE_ALLOCATE:
		return end > size ? end : size;
	case TRACE_TRUNCATE:
		return e->offset;
	}
	return size;
}

/* Which changes of each file's size took place: all up to some moment that is not before the last one covered. */
static void size_choose(const struct replay *r, struct chance *c, size_t point)
{
	for (unsigned f = 0; f < r->trace->files; f++) {
		uint64_t size = r->base[f].size;
		size_t least = r->frontier, choices = 0, pick;

		for (size_t i = r->frontier; i < point; i++) {
			const struct trace_event *e = &r->trace->events[i];

			if (e->file != f || !is_operation(e) || size_after(e, size) == size)
				continue;
			size = size_after(e, size);
			if (r->covered[i] <= point) {
				least = i + 1;
				choices = 0;
			} else {
				choices++;
			}
		}
		pick = rng_percent(&c->rng, 25) ? 0 : rng_percent(&c->rng, 33) ? choices : rng_below(&c->rng, choices + 1);
		c->size_until[f] = least;
		size = r->base[f].size;
		for (size_t i = r->frontier; i < point && pick; i++) {
			const struct trace_event *e = &r->trace->events[i];

			if (e->file != f || !is_operation(e) || size_after(e, size) == size)
				continue;
			size = size_after(e, size);
			if (i >= least) {
				c->size_until[f] = i + 1;
				pick--;
			}
		}
	}
}

static void chance_init(const struct replay *r, struct chance *c, const struct crash_state *state)
{
	size_t open = 0, pick;

	c->rng = rng_fork(state->seed, 0);
	c->fate = (enum fate)rng_below(&c->rng, FATE_COUNT);
	c->percent = 5 + (unsigned)rng_below(&c->rng, 91);
	c->chosen = c->from = SIZE_MAX;
	for (size_t i = r->frontier; i < state->point; i++)
		open += is_operation(&r->trace->events[i]) && r->covered[i] > state->point;
	pick = open ? rng_below(&c->rng, open) : 0;
	for (size_t i = r->frontier; open && i < state->point; i++) {
		if (!is_operation(&r->trace->events[i]) || r->covered[i] <= state->point)
			continue;
		if (pick-- == 0) {
			c->chosen = c->from = i;
			break;
		}
	}
	size_choose(r, c, state->point);
	c->names_rng = rng_fork(state->seed, 1);
	c->names_percent = (unsigned)rng_below(&c->names_rng, 3) * 50;
}

static void replay_state(const struct replay *r, struct crash_state *state)
{
	uint64_t size[TRACE_FILES];
	struct chance c;

	chance_init(r, &c, state);
	for (unsigned f = 0; f < r->trace->files; f++) {
		sparse_clone(&r->base[f], &state->files[f]);
		size[f] = r->base[f].size;
	}
	memcpy(state->name, r->name, sizeof(state->name));
	for (size_t i = r->frontier; i < state->point; i++) {
		const struct trace_event *e = &r->trace->events[i];
		struct sparse *file = &state->files[e->file];
		bool safe = r->covered[i] <= state->point;

		if (is_name_event(e) && (safe || rng_percent(&c.names_rng, c.names_percent)))
			name_event_apply(e, state->name);

		if (!is_operation(e))
			continue;
		if (i < c.size_until[e->file]) {
			uint64_t after = size_after(e, size[e->file]);

			/* What a cut took away does not come back with the next growth. */
			if (after < size[e->file])
				sparse_truncate(file, after);
			size[e->file] = after;
		}
		if (e->kind != TRACE_WRITE && e->kind != TRACE_PUNCH)
			continue;
		if (safe)
			event_apply(e, file);
		else if (e->kind == TRACE_WRITE && c.fate == FATE_TORN)
			write_torn(&c, e, file);
		else if (chance_lands(&c, e, i))
			e->kind == TRACE_PUNCH && c.fate != FATE_ALL ? punch_torn(&c, e, file) : event_apply(e, file);
	}
	for (unsigned f = 0; f < r->trace->files; f++)
		sparse_truncate(&state->files[f], size[f]);
}

void crash_state_make(const struct trace *trace, struct crash_state *state)
{
	struct replay r;

	replay_init(&r, trace, state->dropped);
	replay_advance(&r, state->point);
	replay_state(&r, state);
	replay_done(&r);
}

void crash_state_make_whole(const struct trace *trace, size_t point, struct crash_state *ret)
{
	*ret = (struct crash_state){.point = point, .dropped = CRASH_KEEP_ALL};
	for (unsigned f = 0; f < trace->files; f++)
		sparse_clone(&trace->before[f], &ret->files[f]);
	memcpy(ret->name, trace->name_before, sizeof(ret->name));
	for (size_t i = 0; i < point; i++) {
		const struct trace_event *e = &trace->events[i];

		if (is_operation(e))
			event_apply(e, &ret->files[e->file]);
		else if (is_name_event(e))
			name_event_apply(e, ret->name);
	}
}

void crash_state_done(struct crash_state *state)
{
	for (unsigned f = 0; f < TRACE_FILES; f++)
		sparse_done(&state->files[f]);
}

static int compare_points(const void *a, const void *b)
{
	const size_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

/*
 * One half evenly over all moments, the other just before and after the beginnings and ends of syncs, and changes of
 * names: what is open is most just before a sync ends.
 */
static size_t *points_choose(const struct trace *trace, const struct crash_options *options)
{
	size_t moments = trace->count - options->first_point + 1, syncs = 0, even = options->states;
	size_t *points = malloc(sizeof(*points) * (options->states + 1));
	size_t *sync = malloc(sizeof(*sync) * (trace->count + 1));
	struct rng rng = rng_fork(options->seed, UINT32_MAX);

	if (!points || !sync)
		abort();
	for (size_t i = options->first_point; i < trace->count; i++)
		if (trace->events[i].kind >= TRACE_LINK && trace->events[i].kind <= TRACE_NAMES_SYNC_END)
			sync[syncs++] = i;
	if (syncs)
		even /= 2;
	for (size_t i = 0; i < options->states; i++)
		points[i] = i < even ? options->first_point + i * moments / even
		                     : sync[(i - even) % syncs] + rng_below(&rng, 2);
	/* Some after everything. */
	for (size_t i = 0; i < options->states / 50; i++)
		points[i] = trace->count;
	qsort(points, options->states, sizeof(*points), compare_points);
	free(sync);
	return points;
}

int crash_run(const struct trace *trace, const struct crash_options *options, struct crash_state *failed,
              struct err *err)
{
	size_t *points = points_choose(trace, options);
	struct replay r;
	int rc = 0;

	replay_init(&r, trace, options->dropped);
	for (size_t i = 0; i < options->states && rc == 0; i++) {
		struct rng rng = rng_fork(options->seed, i);
		struct crash_state state = {
			.point = points[i],
			.seed = rng_next(&rng),
			.dropped = options->dropped,
		};

		replay_advance(&r, state.point);
		replay_state(&r, &state);
		rc = options->check(options->user, trace, &state, err);
		crash_state_done(&state);
		if (rc) {
			*failed = state;
			replay_state(&r, failed);
		}
	}
	replay_done(&r);
	free(points);
	return rc;
}

/* For a person who looks for the cause. */
static int names_save(const struct trace *trace, const struct crash_state *state, const char *path)
{
	FILE *f = fopen(path, "we");

	if (!f)
		return -errno;
	for (unsigned i = 0; i < trace->names; i++)
		if (state->name[i] >= 0)
			fprintf(f, "file-%d.vhd %s\n", state->name[i], trace->name[i]);
	return fclose(f) == 0 ? 0 : -EIO;
}

static int path_in(const char *dir, const char *name, char *ret, size_t room)
{
	int n = snprintf(ret, room, "%s/%s", dir, name);

	return n < 0 || (size_t)n >= room ? -ENAMETOOLONG : 0;
}

int crash_state_save(const struct trace *trace, const struct crash_state *state, const char *dir)
{
	char path[4096];
	FILE *f;
	int rc;

	if (mkdir(dir, 0755) < 0 && errno != EEXIST)
		return -errno;
	rc = path_in(dir, "trace", path, sizeof(path));
	if (rc == 0)
		rc = trace_save(trace, path);
	for (unsigned i = 0; rc == 0 && i < trace->files; i++) {
		char name[32];

		snprintf(name, sizeof(name), "file-%u.vhd", i);
		rc = path_in(dir, name, path, sizeof(path));
		if (rc == 0)
			rc = sparse_save(&state->files[i], path);
	}
	if (rc == 0)
		rc = path_in(dir, "names", path, sizeof(path));
	if (rc == 0)
		rc = names_save(trace, state, path);
	if (rc == 0)
		rc = path_in(dir, "state", path, sizeof(path));
	if (rc)
		return rc;
	f = fopen(path, "we");
	if (!f)
		return -errno;
	fprintf(f, "%zu %" PRIu64 " %d\n", state->point, state->seed, state->dropped);
	return fclose(f) == 0 ? 0 : -EIO;
}

int crash_state_load(const char *dir, struct trace *ret_trace, struct crash_state *ret)
{
	char path[4096];
	FILE *f;
	int rc, n;

	memset(ret, 0, sizeof(*ret));
	rc = path_in(dir, "state", path, sizeof(path));
	if (rc)
		return rc;
	f = fopen(path, "re");
	if (!f)
		return -errno;
	n = fscanf(f, "%zu %" SCNu64 " %d", &ret->point, &ret->seed, &ret->dropped);
	fclose(f);
	if (n != 3)
		return -EINVAL;
	rc = path_in(dir, "trace", path, sizeof(path));
	return rc ? rc : trace_load(ret_trace, path);
}
