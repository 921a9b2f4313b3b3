/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TESTS_LIB_CRASH_H
#define TESTS_LIB_CRASH_H

/*
 * What may be on the disk after the power failed at some moment of a trace.
 *
 * The model. What took effect before a sync was issued, on the same file, is there once that sync has ended. Of
 * everything else, up to the moment of the crash:
 *   - each 512-byte sector of a write is there or not, whatever became of its neighbours and of later writes;
 *   - a punch took place or not, or only its first part did;
 *   - the size is one of those that the file had since the last one that a sync covers: it is one field of the inode,
 *     so it cannot have skipped a change. It is independent of data and punches. What was written beyond it is lost,
 *     and what a lost growth would have added is not there;
 *   - each link, rename and unlink that no sync of the folder covers took place or not, independently of each other and
 *     of all data. A rename or unlink of a name that the file does not have, for what was lost before, did not; nor did
 *     one whose target is in its way. A file without a name is gone.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/lib/store-trace.h"

#define CRASH_KEEP_ALL (-1)
#define CRASH_NAMES_SYNC(n) (1000 + (n)) /* for `dropped`: the n-th sync of the folder, from 0 */
#define CRASH_NAMES_SYNC_LAST 1999   /* likewise, in crash-files.h: the last one of the recording */

struct crash_state {
	size_t point;  /* the crash came before this event */
	uint64_t seed; /* decides about everything that is open */
	int dropped;   /* enum store_barrier: syncs of this kind are taken for nothing; CRASH_NAMES_SYNC; CRASH_KEEP_ALL */
	struct sparse files[TRACE_FILES];
	int8_t name[TRACE_NAMES]; /* whose name it is; -1: nobody's */
};

/*
 * 0: sound. Else the sentence says what is wrong. May change `state->files`. States come in the order of their
 * points, so that a test may follow the marks of the trace as it goes.
 */
typedef int crash_check(void *user, const struct trace *trace, struct crash_state *state, struct err *err);

struct crash_options {
	uint64_t seed;
	size_t states;      /* how many to try: half of them around syncs, half spread over all moments */
	size_t first_point; /* no crash before this event */
	int dropped;
	crash_check *check;
	void *user;
};

/*
 * Tries the states one after the other, up to the first that `check` refuses: returns its code, and fills `failed`
 * (its files are what the crash left, before `check` touched them; crash_state_done frees it). 0: all were sound.
 */
int crash_run(const struct trace *trace, const struct crash_options *options, struct crash_state *failed,
              struct err *err);

/* Makes state->files and names from the rest of it. */
void crash_state_make(const struct trace *trace, struct crash_state *state);

/* Everything took place up to `point`: what a program sees that reads the files then. */
void crash_state_make_whole(const struct trace *trace, size_t point, struct crash_state *ret);
void crash_state_done(struct crash_state *state);

/*
 * Writes the state to `dir`: "trace", "state" and the files as "file-0.vhd", ... 0 or -errno. crash_state_load reads
 * trace and state back, so that the one failure can be looked at again.
 */
int crash_state_save(const struct trace *trace, const struct crash_state *state, const char *dir);
int crash_state_load(const char *dir, struct trace *ret_trace, struct crash_state *ret);

#endif
