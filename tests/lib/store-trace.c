/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/lib/store-trace.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/lib/ring-inline.h"

#define TRACE_MAGIC "vhdkit trace 2\n"
#define CHUNK 4096u

struct store_trace {
	struct store base;
	struct store *inner;
	struct trace *trace;
	uint8_t file;
};

void trace_init(struct trace *trace)
{
	memset(trace, 0, sizeof(*trace));
	pthread_mutex_init(&trace->lock, NULL);
}

void trace_done(struct trace *trace)
{
	for (size_t i = 0; i < trace->count; i++)
		free(trace->events[i].bytes);
	free(trace->events);
	for (unsigned i = 0; i < trace->files; i++)
		sparse_done(&trace->before[i]);
	for (unsigned i = 0; i < trace->names; i++)
		free(trace->name[i]);
	pthread_mutex_destroy(&trace->lock);
	memset(trace, 0, sizeof(*trace));
}

size_t trace_add(struct trace *trace, struct trace_event event, const void *bytes)
{
	if (trace->count == trace->room) {
		trace->room = trace->room ? 2 * trace->room : 256;
		trace->events = reallocarray(trace->events, trace->room, sizeof(*trace->events));
		if (!trace->events)
			abort();
	}
	if (bytes) {
		event.bytes = malloc(event.length ? event.length : 1);
		if (!event.bytes)
			abort();
		memcpy(event.bytes, bytes, event.length);
	}
	trace->events[trace->count] = event;
	return trace->count++;
}

unsigned trace_name(struct trace *trace, const char *name)
{
	for (unsigned i = 0; i < trace->names; i++)
		if (strcmp(trace->name[i], name) == 0)
			return i;
	if (trace->names == TRACE_NAMES)
		abort();
	trace->name[trace->names] = strdup(name);
	if (!trace->name[trace->names])
		abort();
	trace->name_before[trace->names] = -1;
	return trace->names++;
}

void trace_mark(struct trace *trace, const void *bytes, size_t length)
{
	pthread_mutex_lock(&trace->lock);
	trace_add(trace, (struct trace_event){.kind = TRACE_MARK, .length = length}, bytes);
	pthread_mutex_unlock(&trace->lock);
}

static int traced_read(struct store *store, void *buffer, size_t length, uint64_t offset)
{
	struct store *inner = ((struct store_trace *)store)->inner;

	return inner->ops->read(inner, buffer, length, offset);
}

/* The lock is held while the operation runs, so that the order recorded is the one in which it took effect. */
static int traced_write(struct store *store, const void *buffer, size_t length, uint64_t offset)
{
	struct store_trace *s = (struct store_trace *)store;
	int rc;

	pthread_mutex_lock(&s->trace->lock);
	rc = s->inner->ops->write(s->inner, buffer, length, offset);
	if (rc == 0)
		trace_add(s->trace,
		          (struct trace_event){.kind = TRACE_WRITE, .file = s->file, .offset = offset, .length = length},
		          buffer);
	pthread_mutex_unlock(&s->trace->lock);
	return rc;
}

static int traced_sync(struct store *store, enum store_barrier why)
{
	struct store_trace *s = (struct store_trace *)store;
	struct trace_event event = {.kind = TRACE_SYNC_BEGIN, .file = s->file, .barrier = (uint8_t)why};
	int rc;

	pthread_mutex_lock(&s->trace->lock);
	event.offset = trace_add(s->trace, event, NULL);
	pthread_mutex_unlock(&s->trace->lock);
	rc = s->inner->ops->sync(s->inner, why);
	if (rc < 0)
		return rc;
	if (s->trace->sync_delay_us)
		usleep(s->trace->sync_delay_us);
	event.kind = TRACE_SYNC_END;
	pthread_mutex_lock(&s->trace->lock);
	trace_add(s->trace, event, NULL);
	pthread_mutex_unlock(&s->trace->lock);
	return 0;
}

static int traced_allocate(struct store *store, uint64_t offset, uint64_t length)
{
	struct store_trace *s = (struct store_trace *)store;
	int rc;

	pthread_mutex_lock(&s->trace->lock);
	rc = s->inner->ops->allocate(s->inner, offset, length);
	if (rc == 0)
		trace_add(s->trace,
		          (struct trace_event){.kind = TRACE_ALLOCATE, .file = s->file, .offset = offset, .length = length},
		          NULL);
	pthread_mutex_unlock(&s->trace->lock);
	return rc;
}

static int traced_punch(struct store *store, uint64_t offset, uint64_t length)
{
	struct store_trace *s = (struct store_trace *)store;
	int rc;

	pthread_mutex_lock(&s->trace->lock);
	rc = s->inner->ops->punch(s->inner, offset, length);
	if (rc == 0)
		trace_add(s->trace,
		          (struct trace_event){.kind = TRACE_PUNCH, .file = s->file, .offset = offset, .length = length},
		          NULL);
	pthread_mutex_unlock(&s->trace->lock);
	return rc;
}

static int traced_truncate(struct store *store, uint64_t size)
{
	struct store_trace *s = (struct store_trace *)store;
	int rc;

	pthread_mutex_lock(&s->trace->lock);
	rc = s->inner->ops->truncate(s->inner, size);
	if (rc == 0)
		trace_add(s->trace, (struct trace_event){.kind = TRACE_TRUNCATE, .file = s->file, .offset = size}, NULL);
	pthread_mutex_unlock(&s->trace->lock);
	return rc;
}

static int traced_size(struct store *store, uint64_t *ret)
{
	struct store *inner = ((struct store_trace *)store)->inner;

	return inner->ops->size(inner, ret);
}

static void traced_close(struct store *store)
{
	store_close(((struct store_trace *)store)->inner);
	free(store);
}

static int traced_raise(struct store *store, const char *path, struct store **ret, struct err *err)
{
	struct store_trace *s = (struct store_trace *)store;
	struct store *inner;
	int rc = s->inner->ops->raise(s->inner, path, &inner, err);

	if (rc == 0)
		*ret = store_trace_reopen_take(inner, s->trace, s->file);
	return rc;
}

static void traced_lower(struct store *store)
{
	struct store *inner = ((struct store_trace *)store)->inner;

	inner->ops->lower(inner);
	store->read_only = true;
}

static const struct store_ops trace_ops = {
	.read = traced_read,
	.write = traced_write,
	.sync = traced_sync,
	.allocate = traced_allocate,
	.punch = traced_punch,
	.truncate = traced_truncate,
	.size = traced_size,
	.ring_new = ring_inline_store_ring_new,
	.raise = traced_raise,
	.lower = traced_lower,
	.close = traced_close,
};

struct store *store_trace_reopen_take(struct store *inner, struct trace *trace, unsigned file)
{
	struct store_trace *s = calloc(1, sizeof(*s));

	if (!s || file >= trace->files)
		abort();
	s->base = *inner;
	s->base.ops = &trace_ops;
	s->inner = inner;
	s->trace = trace;
	s->file = (uint8_t)file;
	return &s->base;
}

struct store *store_trace_open_take(struct store *inner, struct trace *trace, const struct sparse *before)
{
	if (trace->files == TRACE_FILES)
		abort();
	sparse_clone(before, &trace->before[trace->files]);
	trace->files++;
	return store_trace_reopen_take(inner, trace, trace->files - 1);
}

static bool put(FILE *f, const void *bytes, size_t length)
{
	return length == 0 || fwrite(bytes, length, 1, f) == 1;
}

static bool get(FILE *f, void *bytes, size_t length)
{
	return length == 0 || fread(bytes, length, 1, f) == 1;
}

static bool put_sparse(FILE *f, const struct sparse *sparse)
{
	static const uint8_t zeros[CHUNK];
	const uint64_t end = UINT64_MAX;
	uint8_t buffer[CHUNK];

	if (!put(f, &sparse->size, sizeof(sparse->size)))
		return false;
	for (uint64_t offset = 0; offset < sparse->size; offset += CHUNK) {
		sparse_read(sparse, buffer, CHUNK, offset);
		if (memcmp(buffer, zeros, CHUNK) != 0 && (!put(f, &offset, sizeof(offset)) || !put(f, buffer, CHUNK)))
			return false;
	}
	return put(f, &end, sizeof(end));
}

static bool get_sparse(FILE *f, struct sparse *ret)
{
	uint8_t buffer[CHUNK];
	uint64_t size, offset;

	sparse_init(ret);
	if (!get(f, &size, sizeof(size)))
		return false;
	while (get(f, &offset, sizeof(offset))) {
		if (offset == UINT64_MAX) {
			sparse_truncate(ret, size);
			return true;
		}
		if (!get(f, buffer, CHUNK))
			break;
		sparse_write(ret, buffer, CHUNK, offset);
	}
	return false;
}

static bool put_names(FILE *f, const struct trace *trace)
{
	uint64_t count = trace->names;
	bool ok = put(f, &count, sizeof(count));

	for (unsigned i = 0; ok && i < trace->names; i++) {
		uint64_t head[2] = {strlen(trace->name[i]), (uint64_t)trace->name_before[i]};

		ok = put(f, head, sizeof(head)) && put(f, trace->name[i], head[0]);
	}
	return ok;
}

static bool get_names(FILE *f, struct trace *trace)
{
	uint64_t count, head[2];
	char name[256];

	if (!get(f, &count, sizeof(count)) || count > TRACE_NAMES)
		return false;
	while (count--) {
		if (!get(f, head, sizeof(head)) || head[0] >= sizeof(name) || !get(f, name, head[0]))
			return false;
		name[head[0]] = '\0';
		trace->name_before[trace_name(trace, name)] = (int8_t)head[1];
	}
	return true;
}

int trace_save(const struct trace *trace, const char *path)
{
	uint64_t head[2] = {trace->files, trace->count};
	FILE *f = fopen(path, "wbe");
	bool ok;

	if (!f)
		return -errno;
	ok = put(f, TRACE_MAGIC, sizeof(TRACE_MAGIC)) && put(f, head, sizeof(head));
	for (unsigned i = 0; ok && i < trace->files; i++)
		ok = put_sparse(f, &trace->before[i]);
	ok = ok && put_names(f, trace);
	for (size_t i = 0; ok && i < trace->count; i++) {
		const struct trace_event *e = &trace->events[i];
		uint64_t fixed[4] = {e->kind | e->file << 8 | e->barrier << 16, e->offset, e->length, e->bytes != NULL};

		ok = put(f, fixed, sizeof(fixed)) && (!e->bytes || put(f, e->bytes, e->length));
	}
	return fclose(f) == 0 && ok ? 0 : -EIO;
}

static bool trace_load_event(FILE *f, struct trace *trace)
{
	struct trace_event event;
	uint64_t fixed[4];
	void *bytes;
	bool ok;

	if (!get(f, fixed, sizeof(fixed)) || fixed[2] > UINT32_MAX)
		return false;
	event = (struct trace_event){
		.kind = (uint8_t)fixed[0],
		.file = (uint8_t)(fixed[0] >> 8),
		.barrier = (uint8_t)(fixed[0] >> 16),
		.offset = fixed[1],
		.length = fixed[2],
	};
	if (!fixed[3]) {
		trace_add(trace, event, NULL);
		return true;
	}
	bytes = malloc(event.length ? event.length : 1);
	if (!bytes)
		abort();
	ok = get(f, bytes, event.length);
	if (ok)
		trace_add(trace, event, bytes);
	free(bytes);
	return ok;
}

int trace_load(struct trace *ret, const char *path)
{
	char magic[sizeof(TRACE_MAGIC)];
	uint64_t head[2];
	FILE *f = fopen(path, "rbe");
	bool ok;

	if (!f)
		return -errno;
	trace_init(ret);
	ok = get(f, magic, sizeof(magic)) && memcmp(magic, TRACE_MAGIC, sizeof(magic)) == 0 &&
	     get(f, head, sizeof(head)) && head[0] <= TRACE_FILES;
	for (uint64_t i = 0; ok && i < head[0]; i++) {
		ok = get_sparse(f, &ret->before[i]);
		ret->files++;
	}
	ok = ok && get_names(f, ret);
	for (uint64_t i = 0; ok && i < head[1]; i++)
		ok = trace_load_event(f, ret);
	fclose(f);
	if (!ok)
		trace_done(ret);
	return ok ? 0 : -EINVAL;
}
