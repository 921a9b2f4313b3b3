/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TESTS_LIB_MODEL_H
#define TESTS_LIB_MODEL_H

/*
 * What each sector of a disk may hold after a crash or a fault: the value that the last completed flush covers, and
 * every later one that was asked for, whether or not it was done. Writes to one sector never overlap in time.
 */

#include <stdbool.h>
#include <stdint.h>

#include "common/blk.h"
#include "common/err.h"

enum model_event_kind {
	MODEL_SUBMIT = 1,
	MODEL_DONE,
	MODEL_CLOSED, /* covers everything */
};

/* What a test records of its requests, in the order in which it happened. */
struct model_event {
	uint32_t kind; /* enum model_event_kind */
	uint32_t id;   /* of the request, from 1 up */
	uint8_t op, flags;
	int32_t result;
	uint64_t offset, length; /* bytes */
};

struct model_sector {
	uint32_t *values; /* ids of the requests that set them, oldest first; 0: what was there at first */
	unsigned count, room;
};

struct model_request {
	struct model_event event;
	uint64_t submitted, done; /* when; 0: not yet, or it failed */
};

struct model {
	uint64_t size;       /* bytes */
	const uint8_t *first; /* content at first; borrowed */
	struct model_sector *sectors;
	struct model_request *requests;
	unsigned request_count;
	uint64_t clock;
	bool closed;
};

void model_init(struct model *model, const uint8_t *first, uint64_t size);
void model_done(struct model *model);
void model_note(struct model *model, const struct model_event *event);

/* What request `id` writes to a sector of 512 bytes. */
void model_fill(uint32_t id, uint64_t sector, uint8_t *ret);

/* Whether the disk may hold `content` after a crash. 0, or -EILSEQ and a sentence about the first sector that is wrong. */
int model_check(const struct model *model, const uint8_t *content, struct err *err);

/* The same for what is read while nothing has crashed: the newest value that was done, or that of a later failure. */
int model_check_live(const struct model *model, const uint8_t *content, struct err *err);

/* As if `content`, which model_check found good, had been flushed: the model starts anew from it (borrowed). */
void model_restart(struct model *model, const uint8_t *content);

#endif
