/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TESTS_LIB_CONTROL_H
#define TESTS_LIB_CONTROL_H

/* A control server over a disk whose upkeep does as the test says, and clients of it. */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vhd/control-client.h"
#include "vhd/control-server.h"

#define LAYERS 3u
#define JOB_TOTAL (UINT64_C(1) << 40)

/* The disk, which keeps what it was asked for. */
struct fake {
	char *folder;
	char paths[LAYERS][200];
	unsigned layer_count;
	uint64_t size;
	/* What its work does: */
	_Atomic bool endless; /* until it is cancelled */
	int result;
	const char *sentence;
	/* What was seen: */
	_Atomic unsigned calls;
	_Atomic int ended; /* what the last call that ended returned, plus 1000 */
	struct vhd_merge_options merge;
	char frozen[300];
	uint64_t resized;
	struct vhd_compact_options compact;
};

void fake_make(struct fake *fake);
struct control_server *server_start(struct fake *fake, int folder, bool writable);

struct fixture {
	struct fake fake;
	int folder; /* of the socket */
	struct control_server *server;
};

/* For cmocka_unit_test_setup_teardown. */
int control_fixture_make(void **state);
int control_fixture_drop(void **state);

struct upkeep_file file_of(const struct fixture *f, unsigned layer);
void owner_find(struct fixture *f, unsigned layer, struct control_owner *ret);

/* What a client hears while it waits. */
struct heard {
	unsigned warnings, progresses;
	uint64_t job, done, total;
	char warning[100];
	_Atomic bool paused;
	_Atomic bool interrupt;
	_Atomic bool begun;
};

int ask(struct fixture *f, unsigned layer, struct upkeep_request *request, struct heard *heard,
        struct upkeep_result *ret, struct err *err);

/* An endless merge, asked for in a thread. */
struct asker {
	struct fixture *f;
	struct heard heard;
	struct err err;
	int result;
	pthread_t thread;
};

/* Returns when it is being worked on. */
void asker_start(struct asker *asker, struct fixture *f);

void wait_until_ended(struct fixture *f, int result);

/* A connection by hand, on which `text` was sent. */
int raw_client(struct fixture *f, const void *text, size_t length);

/* A request to merge layer 1, with `more` words. */
void merge_line(struct fixture *f, const char *more, char *ret, size_t size);

void jobs_of(struct fixture *f, struct control_job ret[CONTROL_JOBS_MAX], int count);
int steer(struct fixture *f, enum control_steering how, uint64_t job, uint64_t rate);

#endif
