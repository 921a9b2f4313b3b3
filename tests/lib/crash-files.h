/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TESTS_LIB_CRASH_FILES_H
#define TESTS_LIB_CRASH_FILES_H

/*
 * Power failures during real operations on real files: a scenario makes a few images in a folder and has the recorder
 * (record.h) look on while one operation is done, by the calls of vhd.h. Then, for many crashes (crash.h), the folder is
 * laid down as each would leave it, and the same calls must find there what was promised:
 *   - the leaf opens, and each sector holds what the last completed flush covers, or something newer that was asked for;
 *   - vhd_check finds no damage in any image of the folder;
 *   - after the operation has ended, its result is there, and the footer is at the end of the leaf;
 *   - what opening for writing finishes, and writing then, lose nothing: this is recorded too, for some states, and
 *     crashed again;
 *   - the operation, where it can be run again, can be, and ends.
 *
 * Environment: CRASH_SEED; CHECK_LONG=1: ten times as many states; CRASH_STATE=DIR: only the state kept there;
 * CRASH_ONLY=NAME: only that scenario; CRASH_DROP=N: without that barrier (crash.h), so that it must fail.
 */

#include <stdbool.h>
#include <stdint.h>

#include "tests/lib/crash.h"
#include "tests/lib/guest.h"
#include "tests/lib/model.h"
#include "vhd/vhd.h"

#define CRASH_LEAF "leaf.vhd"

struct crash_files;

struct crash_scenario {
	const char *name;
	unsigned states;
	/* Makes the images. Not recorded. */
	void (*make)(struct crash_files *c);
	/* The operation; recorded. An error fails the test. */
	int (*run)(struct crash_files *c, struct err *err);
	/* The same again, on what a crash has left, to its end; recorded or not. NULL: nothing is left to do. */
	int (*again)(struct crash_files *c, struct err *err);
	/*
	 * What else must hold of the folder; `content`, of `size` bytes, is the leaf's. NULL: nothing. Where the leaf may be
	 * missing, `content` is NULL then.
	 */
	int (*look)(struct crash_files *c, const uint8_t *content, uint64_t size, struct err *err);
	const char *leaf_after; /* what the disk's name may become: looked for when CRASH_LEAF is not there. NULL: it stays */
	bool no_leaf;      /* there is none at first: it must be there when the operation has ended */
	bool own_content;  /* `look` judges the content, not the model; it is not asked when a recovery has crashed */
	uint64_t size_after; /* of the leaf's disk, once the operation has ended; 0: it stays. Until then both are right */
	unsigned guest_requests; /* of crash_guest_start; 0: 120 */
};

struct crash_files {
	const struct crash_scenario *scenario;
	char *folder;
	uint64_t seed;
	uint8_t *first; /* what the leaf's disk reads as at first, with zeros to the larger of its sizes */
	uint64_t size_before, size;
	bool ended;     /* the operation has, in the state that is looked at */
	struct trace *trace; /* while something is recorded */
	uint32_t last_id;
	/* The harness's: */
	unsigned index, kind, checked;
	uint64_t final_size[TRACE_FILES]; /* what each file is cut to last ... */
	size_t final_from[TRACE_FILES];   /* ... by which event; SIZE_MAX: never */
	bool keep;                        /* a state that is refused */
	bool cut_at_last;                 /* the leaf has been, in the state that is looked at */
	struct model model;
	size_t cursor;
	struct guest guest;
	atomic_bool guest_stop;
	pthread_t guest_thread;
	struct blk *guest_blk;
	struct err guest_err;
	int guest_rc;
};

/* --- for scenarios --- */

/* A path in the folder; freed by the caller. Aborts without memory. */
char *crash_path(const struct crash_files *c, const char *name);

/* Fails the test. */
void crash_must(int rc, const struct err *err);

/* vhd_create in the folder. `parent`: a name there, or NULL. */
void crash_make(struct crash_files *c, const char *name, const char *parent, const struct vhd_create_options *options);

/* Writes random data to an image, so that some sectors of it are its own. */
void crash_fill(struct crash_files *c, const char *name, uint64_t seed, unsigned requests);

/*
 * A chain of dynamic and differencing disks, each with data of its own: CRASH_LEAF, "layer-1.vhd", ... in blocks of
 * CRASH_BLOCK. `layers` 1: a dynamic disk.
 */
#define CRASH_BLOCK 8192u
void crash_make_chain(struct crash_files *c, unsigned layers, uint64_t size);

/* The path of the leaf: CRASH_LEAF, or what it may have become. */
char *crash_leaf(const struct crash_files *c);

/* For the operation: opens the leaf for writing, and closes it, which covers everything. */
int crash_open(struct crash_files *c, struct vhd **ret, struct err *err);
int crash_close(struct crash_files *c, struct vhd *vhd, struct err *err);

/* Only while a recording runs: random requests, in this thread or, from start to stop, beside it. The latter end early when they are told to. */
int crash_guest(struct crash_files *c, struct vhd *vhd, unsigned requests, struct err *err);
void crash_guest_start(struct crash_files *c, struct vhd *vhd);
int crash_guest_stop(struct crash_files *c, struct err *err);

bool crash_exists(const struct crash_files *c, const char *name);

/* The content of an image in the folder, which is freed by the caller. 0, a verdict or -errno. */
int crash_read(const struct crash_files *c, const char *name, uint8_t **ret, uint64_t *ret_size, struct err *err);

/* --- for test programs --- */

/* Runs scenario `index` of the program's. The test fails with a sentence that says where the state is kept. */
void crash_scenario_run(const struct crash_scenario *scenarios, unsigned index);

/* The same with one barrier taken out (crash.h): something must be found, in one of a few runs. */
void crash_scenario_without(const struct crash_scenario *scenarios, unsigned index, int dropped);

/* The state kept in DIR of CRASH_STATE. */
void crash_scenario_again(const struct crash_scenario *scenarios, unsigned count, const char *dir);

#endif
