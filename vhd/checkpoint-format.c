/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "common/bytes.h"
#include "vhd/checkpoint.h"

#define FORMAT_VERSION 1u

struct head_disk {
	uint8_t magic[8]; /* +0x00 "VHDKCKPT" */
	be32 version;     /* +0x08 */
	be32 flags;       /* +0x0c */
	uint8_t from[16]; /* +0x10 */
	uint8_t to[16];   /* +0x20 */
	uint8_t next[16]; /* +0x30 */
	be64 from_size;   /* +0x40 bytes */
	be64 to_size;     /* +0x48 bytes */
	be64 stamp_seconds;     /* +0x50 */
	be32 stamp_nanoseconds; /* +0x58 */
	be32 reserved2;         /* +0x5c */
	be64 stamp_size;        /* +0x60 */
	be64 body_length;       /* +0x68 bytes */
	be64 body_hash;         /* +0x70 XXH3-64 of the body */
	be64 reserved3;         /* +0x78 */
	be64 head_hash;         /* +0x80 XXH3-64 of all before */
};

_Static_assert(sizeof(struct head_disk) == CHECKPOINT_HEAD, "head size");

static const uint8_t magic[8] = "VHDKCKPT";

#define FLAG_INCOMPLETE 1u

/* How the sectors of a chunk are written down. */
enum chunk_kind {
	CHUNK_FULL,   /* varint: how many chunks in a row are full */
	CHUNK_RUNS,   /* varint count; for each: varint gap since the last, varint length */
	CHUNK_BITMAP, /* a bit a sector, least significant first */
};

#define BITMAP_BYTES (SECTOR_SET_CHUNK / 8)
#define VARINT_MAX 10u

static size_t varint_put(uint8_t *out, uint64_t value)
{
	size_t n = 0;

	while (value >= 0x80) {
		out[n++] = (uint8_t)(value | 0x80);
		value >>= 7;
	}
	out[n++] = (uint8_t)value;
	return n;
}

struct writer {
	uint8_t *bytes;
	size_t length, room;
};

static int room_make(struct writer *w, size_t more)
{
	uint8_t *grown;

	if (w->room - w->length >= more)
		return 0;
	grown = realloc(w->bytes, w->room * 2 + more);
	if (!grown)
		return -ENOMEM;
	w->bytes = grown;
	w->room = w->room * 2 + more;
	return 0;
}

static void bitmap_put(struct writer *w, const uint64_t *words)
{
	for (uint32_t i = 0; i < BITMAP_BYTES; i++)
		w->bytes[w->length++] = (uint8_t)(words[i / 8] >> 8 * (i % 8));
}

/* The runs of chunk `chunk`, whose bitmap is `words`; false, and nothing written, where the bitmap is shorter. */
static bool runs_put(struct writer *w, const struct sector_set *set, uint32_t chunk)
{
	uint64_t start = (uint64_t)chunk * SECTOR_SET_CHUNK, end = start + SECTOR_SET_CHUNK, at = start;
	uint8_t runs[BITMAP_BYTES];
	struct sector_run run;
	size_t length = 0;
	uint64_t count = 0;

	while (sector_set_next(set, at, &run) && run.first < end) {
		if (run.first + run.count > end)
			run.count = end - run.first;
		if (length + 3 * VARINT_MAX > sizeof(runs))
			return false;
		length += varint_put(runs + length, run.first - at);
		length += varint_put(runs + length, run.count);
		at = run.first + run.count;
		count++;
	}
	w->length += varint_put(w->bytes + w->length, count);
	memcpy(w->bytes + w->length, runs, length);
	w->length += length;
	return true;
}

static int body_put(struct writer *w, const struct sector_set *set)
{
	uint32_t next = 0;

	for (uint32_t chunk = 0; chunk < set->chunk_count; chunk++) {
		uint32_t full = 0;

		if (!set->chunks[chunk])
			continue;
		if (room_make(w, BITMAP_BYTES + 3 * VARINT_MAX))
			return -ENOMEM;
		while (chunk + full < set->chunk_count && set->chunks[chunk + full] == sector_set_full())
			full++;
		w->length += varint_put(w->bytes + w->length, chunk - next);
		if (full) {
			w->bytes[w->length++] = CHUNK_FULL;
			w->length += varint_put(w->bytes + w->length, full);
			chunk += full - 1;
		} else {
			size_t kind = w->length++;

			w->bytes[kind] = CHUNK_RUNS;
			if (!runs_put(w, set, chunk)) {
				w->bytes[kind] = CHUNK_BITMAP;
				bitmap_put(w, set->chunks[chunk]);
			}
		}
		next = chunk + 1;
	}
	return 0;
}

static void head_fill(struct head_disk *head, const struct checkpoint *c)
{
	memcpy(head->next, c->next, 16);
	head->stamp_seconds = be64_make((uint64_t)c->stamp.seconds);
	head->stamp_nanoseconds = be32_make(c->stamp.nanoseconds);
	head->stamp_size = be64_make(c->stamp.size);
	head->flags = be32_make(c->incomplete ? FLAG_INCOMPLETE : 0);
	head->head_hash = be64_make(XXH3_64bits(head, offsetof(struct head_disk, head_hash)));
}

int checkpoint_encode(const struct checkpoint *c, uint8_t **ret, size_t *ret_length)
{
	struct writer w = {.bytes = malloc(4096), .room = 4096, .length = CHECKPOINT_HEAD};
	struct head_disk *head;

	if (!w.bytes || body_put(&w, &c->changed)) {
		free(w.bytes);
		return -ENOMEM;
	}
	head = (struct head_disk *)w.bytes;
	*head = (struct head_disk){
		.version = be32_make(FORMAT_VERSION),
		.from_size = be64_make(c->from_size),
		.to_size = be64_make(c->to_size),
		.body_length = be64_make(w.length - CHECKPOINT_HEAD),
		.body_hash = be64_make(XXH3_64bits(w.bytes + CHECKPOINT_HEAD, w.length - CHECKPOINT_HEAD)),
	};
	memcpy(head->magic, magic, sizeof(magic));
	memcpy(head->from, c->from, 16);
	memcpy(head->to, c->to, 16);
	head_fill(head, c);
	*ret = w.bytes;
	*ret_length = w.length;
	return 0;
}

void checkpoint_reseal(uint8_t *bytes, const struct checkpoint *c)
{
	head_fill((struct head_disk *)bytes, c);
}

int checkpoint_decode_head(const uint8_t *bytes, size_t length, struct checkpoint *ret, struct err *err)
{
	struct head_disk head;

	if (length < sizeof(head) || memcmp(bytes, magic, sizeof(magic)))
		return err_set(err, VHD_E_CORRUPT, "it is no checkpoint file");
	memcpy(&head, bytes, sizeof(head));
	if (XXH3_64bits(&head, offsetof(struct head_disk, head_hash)) != be64_get(head.head_hash))
		return err_set(err, VHD_E_CORRUPT, "its head, the first %u bytes, does not have the hash that it says",
		               CHECKPOINT_HEAD);
	if (be32_get(head.version) != FORMAT_VERSION)
		return err_set(err, VHD_E_UNSUPPORTED, "it is of version %" PRIu32 ", and this program knows %u",
		               be32_get(head.version), FORMAT_VERSION);
	if (be32_get(head.flags) & ~FLAG_INCOMPLETE)
		return err_set(err, VHD_E_UNSUPPORTED, "it has flags that this program does not know: %" PRIu32,
		               be32_get(head.flags));
	*ret = (struct checkpoint){
		.incomplete = be32_get(head.flags) & FLAG_INCOMPLETE,
		.stamp = {(int64_t)be64_get(head.stamp_seconds), be32_get(head.stamp_nanoseconds),
		          be64_get(head.stamp_size)},
		.from_size = be64_get(head.from_size),
		.to_size = be64_get(head.to_size),
	};
	memcpy(ret->from, head.from, 16);
	memcpy(ret->to, head.to, 16);
	memcpy(ret->next, head.next, 16);
	if (ret->from_size > VHD_MAX_SIZE || ret->to_size > VHD_MAX_SIZE || ret->to_size % VHD_SECTOR)
		return err_set(err, VHD_E_CORRUPT, "it is of a disk of %" PRIu64 " bytes, which cannot be", ret->to_size);
	return 0;
}

struct reader {
	const uint8_t *bytes;
	size_t length, at;
};

static bool varint_get(struct reader *r, uint64_t *ret)
{
	uint64_t value = 0;

	for (unsigned shift = 0; shift < 63 && r->at < r->length; shift += 7) {
		uint8_t byte = r->bytes[r->at++];

		value |= (uint64_t)(byte & 0x7F) << shift;
		if (!(byte & 0x80)) {
			*ret = value;
			return true;
		}
	}
	return false;
}

/* 0, -ENOMEM, or -EBADMSG. */
static int runs_get(struct reader *r, struct sector_set *set, uint64_t start, uint64_t sectors)
{
	uint64_t count, gap, length, at = 0;
	int rc = 0;

	if (!varint_get(r, &count) || count == 0)
		return -EBADMSG;
	for (uint64_t i = 0; i < count && rc == 0; i++) {
		if (!varint_get(r, &gap) || !varint_get(r, &length) || gap > sectors - at || length == 0 ||
		    length > sectors - at - gap)
			return -EBADMSG;
		at += gap;
		rc = sector_set_add(set, start + at, length);
		at += length;
	}
	return rc;
}

static int bitmap_get(struct reader *r, struct sector_set *set, uint64_t start, uint64_t sectors)
{
	const uint8_t *bits = r->bytes + r->at;
	int rc = 0;

	if (r->length - r->at < BITMAP_BYTES)
		return -EBADMSG;
	r->at += BITMAP_BYTES;
	for (uint64_t at = 0, run; at < SECTOR_SET_CHUNK && rc == 0; at += run) {
		bool in = bits[at / 8] >> at % 8 & 1;

		run = 1;
		while (at + run < SECTOR_SET_CHUNK && (bits[(at + run) / 8] >> (at + run) % 8 & 1) == in)
			run++;
		if (in && at + run > sectors)
			return -EBADMSG;
		if (in)
			rc = sector_set_add(set, start + at, run);
	}
	return rc;
}

static int chunks_get(struct reader *r, struct sector_set *set, uint64_t *next)
{
	uint64_t gap, full, start, sectors;

	if (!varint_get(r, &gap) || gap >= set->chunk_count - *next || r->at == r->length)
		return -EBADMSG;
	*next += gap;
	start = *next * SECTOR_SET_CHUNK;
	sectors = set->sectors - start < SECTOR_SET_CHUNK ? set->sectors - start : SECTOR_SET_CHUNK;
	switch (r->bytes[r->at++]) {
	case CHUNK_FULL:
		if (!varint_get(r, &full) || full == 0 || full > set->chunk_count - *next)
			return -EBADMSG;
		*next += full;
		return sector_set_add(set, start, full * SECTOR_SET_CHUNK);
	case CHUNK_RUNS:
		++*next;
		return runs_get(r, set, start, sectors);
	case CHUNK_BITMAP:
		++*next;
		return bitmap_get(r, set, start, sectors);
	default:
		return -EBADMSG;
	}
}

int checkpoint_decode(const uint8_t *bytes, size_t length, struct checkpoint *ret, struct err *err)
{
	const struct head_disk *head = (const struct head_disk *)bytes;
	struct reader r = {.bytes = bytes, .length = length, .at = CHECKPOINT_HEAD};
	uint64_t next = 0;
	int rc = checkpoint_decode_head(bytes, length, ret, err);

	if (rc)
		return rc;
	if (be64_get(head->body_length) != length - CHECKPOINT_HEAD)
		return err_set(err, VHD_E_CORRUPT, "it has %zu bytes, where its head says %" PRIu64, length,
		               CHECKPOINT_HEAD + be64_get(head->body_length));
	if (XXH3_64bits(bytes + CHECKPOINT_HEAD, length - CHECKPOINT_HEAD) != be64_get(head->body_hash))
		return err_set(err, VHD_E_CORRUPT, "its list of sectors does not have the hash that its head says");
	rc = sector_set_init(&ret->changed, ret->to_size / VHD_SECTOR);
	while (rc == 0 && r.at < r.length)
		rc = chunks_get(&r, &ret->changed, &next);
	if (rc == 0)
		return 0;
	checkpoint_done(ret);
	if (rc == -ENOMEM)
		return err_set(err, rc, "no memory for a checkpoint file");
	return err_set(err, VHD_E_CORRUPT, "its list of sectors is wrong before offset %zu", r.at);
}

void checkpoint_done(struct checkpoint *c)
{
	sector_set_done(&c->changed);
}
