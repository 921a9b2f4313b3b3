/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TESTS_LIB_STORE_TRACE_H
#define TESTS_LIB_STORE_TRACE_H

/*
 * Records what is done to a set of files, and to their names in one folder, in the order in which it took effect, so
 * that a crash can be played at any moment of it (crash.h). Stores of one trace may be used from any thread.
 */

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "tests/lib/sparse.h"
#include "vhd/store.h"

#define TRACE_FILES 16u
#define TRACE_NAMES 32u

enum trace_kind {
	TRACE_WRITE,      /* `bytes` went to `offset` */
	TRACE_PUNCH,
	TRACE_ALLOCATE,   /* the size became at least offset + length */
	TRACE_TRUNCATE,   /* the size became `offset` */
	TRACE_LINK,       /* the file got the name number `offset` */
	TRACE_RENAME,     /* its name `offset` became `length` */
	TRACE_UNLINK,     /* it lost the name `offset` */
	TRACE_SYNC_BEGIN, /* covers what stands before it, once it has ended */
	TRACE_SYNC_END,   /* `offset`: the index of its begin; only syncs that succeeded end */
	TRACE_NAMES_SYNC_BEGIN, /* as those of files, for all names in the folder ... */
	TRACE_NAMES_SYNC_END,   /* ... `length`: the how many-th it is, from 0 */
	TRACE_MARK,       /* the test's: `bytes` mean what it says */
};

struct trace_event {
	uint8_t kind;    /* enum trace_kind */
	uint8_t file;
	uint8_t barrier; /* syncs: enum store_barrier; renames: 1 if they may replace */
	uint64_t offset;
	uint64_t length;
	void *bytes; /* owned; writes and marks: `length` of them */
};

struct trace {
	pthread_mutex_t lock;
	struct trace_event *events; /* the index is the time */
	size_t count, room;
	unsigned files;
	struct sparse before[TRACE_FILES]; /* each file as the trace found it */
	char *name[TRACE_NAMES];           /* owned; relative to the folder */
	int8_t name_before[TRACE_NAMES];   /* whose name it was when the trace began; -1: nobody's */
	unsigned names, names_syncs;
	unsigned sync_delay_us;            /* how long a sync takes, so that other I/O gets into it; set before use */
};

void trace_init(struct trace *trace);
void trace_done(struct trace *trace);

/*
 * A store that records and hands on to `inner`, which it takes over. `before` is what the file holds now (copied).
 * The file gets the next number in the trace, from 0.
 */
struct store *store_trace_open_take(struct store *inner, struct trace *trace, const struct sparse *before);

/* Opens a file once more that has the number `file` in the trace already. */
struct store *store_trace_reopen_take(struct store *inner, struct trace *trace, unsigned file);

/* Records `bytes` between the operations. */
void trace_mark(struct trace *trace, const void *bytes, size_t length);

/* For those who record what no store sees: adds an event. `trace->lock` is held. Its index. */
size_t trace_add(struct trace *trace, struct trace_event event, const void *bytes);

/* The number of a name, a new one if need be. `trace->lock` is held. */
unsigned trace_name(struct trace *trace, const char *name);

/* To and from a file. 0 or -errno; -EINVAL: not one. */
int trace_save(const struct trace *trace, const char *path);
int trace_load(struct trace *ret, const char *path);

#endif
