/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/lib/model.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SECTOR BLK_SECTOR_SIZE

static uint32_t *room_for_one(struct model_sector *s)
{
	if (s->count == s->room) {
		s->room = s->room ? 2 * s->room : 4;
		s->values = reallocarray(s->values, s->room, sizeof(*s->values));
		if (!s->values)
			abort();
	}
	return &s->values[s->count++];
}

void model_init(struct model *model, const uint8_t *first, uint64_t size)
{
	memset(model, 0, sizeof(*model));
	model->size = size;
	model->sectors = calloc(size / SECTOR, sizeof(*model->sectors));
	if (!model->sectors)
		abort();
	model_restart(model, first);
}

void model_done(struct model *model)
{
	for (uint64_t s = 0; s < model->size / SECTOR; s++)
		free(model->sectors[s].values);
	free(model->sectors);
	free(model->requests);
	memset(model, 0, sizeof(*model));
}

void model_restart(struct model *model, const uint8_t *content)
{
	model->first = content;
	model->closed = false;
	for (uint64_t s = 0; s < model->size / SECTOR; s++) {
		model->sectors[s].count = 0;
		*room_for_one(&model->sectors[s]) = 0;
	}
}

static struct model_request *request_get(struct model *model, uint32_t id)
{
	if (id >= model->request_count) {
		unsigned count = id + 64;

		model->requests = reallocarray(model->requests, count, sizeof(*model->requests));
		if (!model->requests)
			abort();
		memset(model->requests + model->request_count, 0,
		       (count - model->request_count) * sizeof(*model->requests));
		model->request_count = count;
	}
	return &model->requests[id];
}

/* Everything done before `when` is safe: what it replaced cannot come back. */
static void forget_older(struct model *model, uint64_t when)
{
	for (uint64_t s = 0; s < model->size / SECTOR; s++) {
		struct model_sector *sector = &model->sectors[s];
		unsigned keep = 0;

		for (unsigned i = 1; i < sector->count; i++) {
			const struct model_request *r = &model->requests[sector->values[i]];

			if (r->done && r->done < when)
				keep = i;
		}
		sector->count -= keep;
		memmove(sector->values, sector->values + keep, sector->count * sizeof(*sector->values));
	}
}

static void forget_replaced(struct model *model, const struct model_request *r)
{
	for (uint64_t s = r->event.offset / SECTOR; s < (r->event.offset + r->event.length) / SECTOR; s++) {
		struct model_sector *sector = &model->sectors[s];

		for (unsigned i = 0; i < sector->count; i++) {
			if (sector->values[i] != r->event.id)
				continue;
			sector->count -= i;
			memmove(sector->values, sector->values + i, sector->count * sizeof(*sector->values));
			break;
		}
	}
}

void model_note(struct model *model, const struct model_event *event)
{
	struct model_request *r = event->id ? request_get(model, event->id) : NULL;

	model->clock++;
	switch (event->kind) {
	case MODEL_SUBMIT:
		r->event = *event;
		r->submitted = model->clock;
		if (event->op == BLK_FLUSH || event->op == BLK_READ)
			break;
		for (uint64_t s = event->offset / SECTOR; s < (event->offset + event->length) / SECTOR; s++)
			*room_for_one(&model->sectors[s]) = event->id;
		break;
	case MODEL_DONE:
		if (event->result)
			break;
		r->done = model->clock;
		if (r->event.op == BLK_FLUSH)
			forget_older(model, r->submitted);
		else if (r->event.flags & BLK_FUA)
			forget_replaced(model, r);
		break;
	case MODEL_CLOSED:
		if (event->result == 0) {
			forget_older(model, model->clock);
			model->closed = true;
		}
		break;
	}
}

void model_fill(uint32_t id, uint64_t sector, uint8_t *ret)
{
	uint64_t words[4] = {id, sector, ~(uint64_t)id, UINT64_C(0x5ec7042a11a5)};

	for (unsigned i = 0; i < SECTOR / sizeof(words); i++)
		memcpy(ret + i * sizeof(words), words, sizeof(words));
}

static void value_get(const struct model *model, uint32_t id, uint64_t sector, uint8_t *ret)
{
	if (id == 0)
		memcpy(ret, model->first + sector * SECTOR, SECTOR);
	else if (model->requests[id].event.op == BLK_WRITE)
		model_fill(id, sector, ret);
	else
		memset(ret, 0, SECTOR);
}

/* For a person who looks for the cause: what is there instead. */
static void describe(const struct model *model, uint64_t sector, const uint8_t *content, char *ret, size_t room)
{
	uint8_t other[SECTOR] = {0};
	uint64_t words[2];

	memcpy(words, content, sizeof(words));
	model_fill((uint32_t)words[0], words[1], other);
	if (memcmp(content, other, SECTOR) == 0)
		snprintf(ret, room, "what request %" PRIu64 " wrote to sector %" PRIu64, words[0], words[1]);
	else if (memset(other, 0, SECTOR), memcmp(content, other, SECTOR) == 0)
		snprintf(ret, room, "zeros");
	else if (memcmp(content, model->first + sector * SECTOR, SECTOR) == 0)
		snprintf(ret, room, "what was there at first");
	else
		snprintf(ret, room, "bytes %02x %02x %02x %02x ...", content[0], content[1], content[2], content[3]);
}

static unsigned last_done(const struct model *model, const struct model_sector *sector)
{
	unsigned i = sector->count;

	while (i-- > 1)
		if (model->requests[sector->values[i]].done)
			return i;
	return 0;
}

static int check(const struct model *model, const uint8_t *content, bool live, struct err *err)
{
	uint8_t allowed[SECTOR];

	for (uint64_t s = 0; s < model->size / SECTOR; s++) {
		const struct model_sector *sector = &model->sectors[s];
		char found[80], list[120] = "";
		unsigned i = sector->count, oldest = live ? last_done(model, sector) : 0;
		bool good = false;

		while (i-- > oldest && !good) {
			value_get(model, sector->values[i], s, allowed);
			good = memcmp(allowed, content + s * SECTOR, SECTOR) == 0;
		}
		if (good)
			continue;
		describe(model, s, content + s * SECTOR, found, sizeof(found));
		for (i = oldest; i < sector->count && strlen(list) < sizeof(list) - 40; i++) {
			const struct model_request *r = &model->requests[sector->values[i]];

			snprintf(list + strlen(list), sizeof(list) - strlen(list), " %u%s", sector->values[i],
			         sector->values[i] == 0 ? "" : r->event.op == BLK_WRITE ? "w" : "z");
		}
		return err_set(err, -EILSEQ, "sector %" PRIu64 " holds %s; allowed are the values of%s", s, found, list);
	}
	return 0;
}

int model_check(const struct model *model, const uint8_t *content, struct err *err)
{
	return check(model, content, false, err);
}

int model_check_live(const struct model *model, const uint8_t *content, struct err *err)
{
	return check(model, content, true, err);
}
