/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vhd/increment.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/checked.h"
#include "common/interrupt.h"
#include "vhd/vhd.h"

#define FORMAT_VERSION 1u
#define SECTOR 512u

struct head_disk {
	uint8_t magic[8]; /* +0x00 "VHDINCRM" */
	be32 version;     /* +0x08 */
	be32 flags;       /* +0x0c none known: 0 */
	uint8_t base[16]; /* +0x10 */
	uint8_t target[16]; /* +0x20 */
	be64 base_size;   /* +0x30 bytes */
	be64 size;        /* +0x38 bytes */
	be32 block_size;  /* +0x40 bytes */
	be32 reserved;    /* +0x44 */
	be64 changed_bytes; /* +0x48 */
	uint8_t reserved2[40]; /* +0x50 */
	be64 hash;        /* +0x78 XXH3-64 of all before */
};

struct record_disk {
	uint8_t kind[4]; /* +0x00 "DATA", "ZERO", "DONE" */
	be32 reserved;   /* +0x04 */
	be64 offset;     /* +0x08 bytes; DONE: how many records there were */
	be64 length;     /* +0x10 bytes; DONE: of data in all of them */
	uint8_t hash[16]; /* +0x18 XXH3-128, high half first: of all before and the data; DONE: of the whole stream so far */
};

_Static_assert(sizeof(struct head_disk) == INCREMENT_HEAD, "head size");
_Static_assert(sizeof(struct record_disk) == INCREMENT_RECORD, "record size");

static const uint8_t magic[8] = "VHDINCRM";

#define HASHED offsetof(struct record_disk, hash)

static void hash_put(XXH128_hash_t hash, uint8_t ret[16])
{
	XXH128_canonical_t canonical;

	XXH128_canonicalFromHash(&canonical, hash);
	memcpy(ret, canonical.digest, 16);
}

/* Of a record without its data; the whole stream's hash is another. */
static int record_hash(const struct record_disk *record, const void *data, size_t length, uint8_t ret[16])
{
	XXH3_state_t *state = XXH3_createState();

	if (!state)
		return -ENOMEM;
	XXH3_128bits_reset(state);
	XXH3_128bits_update(state, record, HASHED);
	if (length)
		XXH3_128bits_update(state, data, length);
	hash_put(XXH3_128bits_digest(state), ret);
	XXH3_freeState(state);
	return 0;
}

static int write_all(int fd, const uint8_t *bytes, size_t length)
{
	while (length > 0) {
		ssize_t n;

		if (interrupt_seen())
			return -EINTR;
		n = write(fd, bytes, length);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		bytes += n;
		length -= (size_t)n;
	}
	return 0;
}

/* --- Writing --- */

static int put(struct increment_writer *writer, const void *bytes, size_t length, struct err *err)
{
	int rc = write_all(writer->fd, bytes, length);

	if (rc)
		return err_set(err, rc, "%s: %s at offset %" PRIu64, writer->path,
		               rc == -EINTR ? "interrupted" : strerror(-rc), writer->counts.stream_bytes);
	XXH3_128bits_update(writer->hash, bytes, length);
	writer->counts.stream_bytes += length;
	return 0;
}

int increment_write_head(struct increment_writer *writer, int fd, const char *path, const struct increment_head *head,
                         struct err *err)
{
	struct head_disk disk = {
	        .version = be32_make(FORMAT_VERSION),
	        .base_size = be64_make(head->base_size),
	        .size = be64_make(head->size),
	        .block_size = be32_make(head->block_size),
	        .changed_bytes = be64_make(head->changed_bytes),
	};

	*writer = (struct increment_writer){.fd = fd, .path = path, .hash = XXH3_createState()};
	if (!writer->hash)
		return err_set(err, -ENOMEM, "out of memory");
	XXH3_128bits_reset(writer->hash);
	memcpy(disk.magic, magic, sizeof(magic));
	memcpy(disk.base, head->base, 16);
	memcpy(disk.target, head->target, 16);
	disk.hash = be64_make(XXH3_64bits(&disk, offsetof(struct head_disk, hash)));
	return put(writer, &disk, sizeof(disk), err);
}

static int record_put(struct increment_writer *writer, const char *kind, const void *data, uint64_t length,
                      uint64_t offset, struct err *err)
{
	struct record_disk record = {.offset = be64_make(offset), .length = be64_make(length)};
	size_t data_length = data ? (size_t)length : 0;
	int rc;

	memcpy(record.kind, kind, 4);
	if (record_hash(&record, data, data_length, record.hash))
		return err_set(err, -ENOMEM, "out of memory");
	rc = put(writer, &record, sizeof(record), err);
	if (rc == 0 && data)
		rc = put(writer, data, data_length, err);
	writer->counts.records++;
	return rc;
}

int increment_write_data(struct increment_writer *writer, const void *data, size_t length, uint64_t offset,
                         struct err *err)
{
	writer->counts.data_bytes += length;
	return record_put(writer, "DATA", data, length, offset, err);
}

int increment_write_zeros(struct increment_writer *writer, uint64_t length, uint64_t offset, struct err *err)
{
	writer->counts.zero_bytes += length;
	return record_put(writer, "ZERO", NULL, length, offset, err);
}

int increment_write_end(struct increment_writer *writer, struct err *err)
{
	struct record_disk record = {
	        .kind = {'D', 'O', 'N', 'E'},
	        .offset = be64_make(writer->counts.records),
	        .length = be64_make(writer->counts.data_bytes),
	};

	XXH3_128bits_update(writer->hash, &record, HASHED);
	hash_put(XXH3_128bits_digest(writer->hash), record.hash);
	return put(writer, &record, sizeof(record), err);
}

void increment_writer_done(struct increment_writer *writer)
{
	XXH3_freeState(writer->hash);
	*writer = (struct increment_writer){0};
}

/* --- Reading --- */

static int bad(const struct increment_reader *reader, uint64_t offset, const char *what, struct err *err)
{
	return err_set(err, -EBADMSG, "%s: the stream is damaged at offset %" PRIu64 ": %s", reader->path, offset, what);
}

/* Fills the buffer as far as the stream goes: how much that is, -EINTR, -errno. */
static ssize_t fill(int fd, uint8_t *buffer, size_t length)
{
	size_t have = 0;

	while (have < length) {
		struct pollfd wait = {.fd = fd, .events = POLLIN};
		ssize_t n;

		/* A signal between the question and a read that blocks would be noticed too late. */
		if (interrupt_seen())
			return -EINTR;
		if (poll(&wait, 1, 250) <= 0)
			continue;
		n = read(fd, buffer + have, length - have);
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		have += (size_t)n;
	}
	return (ssize_t)have;
}

static int get(struct increment_reader *reader, void *buffer, size_t length, struct err *err)
{
	ssize_t n = fill(reader->fd, buffer, length);
	int rc = n < 0 ? (int)n : 0;

	if (rc)
		return err_set(err, rc, "%s: %s at offset %" PRIu64, reader->path, rc == -EINTR ? "interrupted" : strerror(-rc),
		               reader->counts.stream_bytes);
	if ((size_t)n < length)
		return bad(reader, reader->counts.stream_bytes + (size_t)n, "it ends here, in the middle", err);
	if (reader->spool_fd >= 0)
		rc = write_all(reader->spool_fd, buffer, length);
	if (rc)
		return err_set(err, rc, "%s: keeping a copy of it: %s", reader->path,
		               rc == -EINTR ? "interrupted" : strerror(-rc));
	reader->counts.stream_bytes += length;
	return 0;
}

static bool size_is_good(uint64_t size)
{
	return size > 0 && size <= VHD_MAX_SIZE && size % SECTOR == 0;
}

int increment_read_head(struct increment_reader *reader, int fd, int spool_fd, const char *path, struct err *err)
{
	static const uint8_t null[16];
	struct head_disk disk;
	int rc;

	*reader = (struct increment_reader){
	        .fd = fd,
	        .spool_fd = spool_fd,
	        .path = path,
	        .hash = XXH3_createState(),
	        .buffer = malloc(INCREMENT_DATA_MAX),
	};
	if (!reader->hash || !reader->buffer)
		return err_set(err, -ENOMEM, "out of memory");
	XXH3_128bits_reset(reader->hash);
	rc = get(reader, disk.magic, sizeof(magic), err);
	if (rc == -EBADMSG || (rc == 0 && memcmp(disk.magic, magic, sizeof(magic))))
		return err_set(err, -EBADMSG, "%s: is no increment of 'vhd export'", path);
	if (rc == 0)
		rc = get(reader, (uint8_t *)&disk + sizeof(magic), sizeof(disk) - sizeof(magic), err);
	if (rc)
		return rc;
	if (XXH3_64bits(&disk, offsetof(struct head_disk, hash)) != be64_get(disk.hash))
		return bad(reader, 0, "its head does not have the hash that it says", err);
	if (be32_get(disk.version) != FORMAT_VERSION || be32_get(disk.flags))
		return err_set(err, -EBADMSG, "%s: is of version %" PRIu32 ", flags %" PRIu32 ", and this program knows version %u",
		               path, be32_get(disk.version), be32_get(disk.flags), FORMAT_VERSION);
	XXH3_128bits_update(reader->hash, &disk, sizeof(disk));
	reader->head = (struct increment_head){
	        .base_size = be64_get(disk.base_size),
	        .size = be64_get(disk.size),
	        .block_size = be32_get(disk.block_size),
	        .changed_bytes = be64_get(disk.changed_bytes),
	};
	memcpy(reader->head.base, disk.base, 16);
	memcpy(reader->head.target, disk.target, 16);
	if (!size_is_good(reader->head.base_size) || !size_is_good(reader->head.size) ||
	    !memcmp(disk.base, disk.target, 16) || !memcmp(disk.base, null, 16) || !memcmp(disk.target, null, 16))
		return bad(reader, 0x10, "its head says what cannot be", err);
	return 0;
}

static int end_check(struct increment_reader *reader, const struct record_disk *record, uint64_t at, struct err *err)
{
	struct increment_counts *counts = &reader->counts;
	uint8_t hash[16], more;
	ssize_t n;

	XXH3_128bits_update(reader->hash, record, HASHED);
	hash_put(XXH3_128bits_digest(reader->hash), hash);
	if (memcmp(hash, record->hash, 16))
		return bad(reader, at, "its end does not have the hash of the whole", err);
	if (be64_get(record->offset) != counts->records || be64_get(record->length) != counts->data_bytes ||
	    counts->data_bytes + counts->zero_bytes != reader->head.changed_bytes)
		return bad(reader, at, "its end counts other records than there were", err);
	n = fill(reader->fd, &more, 1);
	if (n < 0)
		return err_set(err, (int)n, "%s: %s at offset %" PRIu64, reader->path,
		               n == -EINTR ? "interrupted" : strerror((int)-n), counts->stream_bytes);
	return n ? bad(reader, counts->stream_bytes, "something follows its end", err) : 0;
}

int increment_read_next(struct increment_reader *reader, struct increment_record *ret, struct err *err)
{
	uint64_t at = reader->counts.stream_bytes, offset, length;
	struct record_disk record;
	uint8_t hash[16];
	bool data;
	int rc = get(reader, &record, sizeof(record), err);

	if (rc)
		return rc;
	if (!memcmp(record.kind, "DONE", 4) && be32_get(record.reserved) == 0)
		return end_check(reader, &record, at, err);
	data = !memcmp(record.kind, "DATA", 4);
	offset = be64_get(record.offset);
	length = be64_get(record.length);
	if ((!data && memcmp(record.kind, "ZERO", 4)) || be32_get(record.reserved))
		return bad(reader, at, "this is no record", err);
	if (length == 0 || (offset | length) % SECTOR || !range_inside(offset, length, reader->head.size) ||
	    offset < reader->end || (data && length > INCREMENT_DATA_MAX))
		return bad(reader, at, "this record is of a range that cannot be", err);
	if (data)
		rc = get(reader, reader->buffer, (size_t)length, err);
	if (rc == 0 && record_hash(&record, reader->buffer, data ? (size_t)length : 0, hash))
		rc = err_set(err, -ENOMEM, "out of memory");
	if (rc)
		return rc;
	if (memcmp(hash, record.hash, 16))
		return bad(reader, at, data ? "this record or its data does not have the hash that it says"
		                            : "this record does not have the hash that it says", err);
	XXH3_128bits_update(reader->hash, &record, sizeof(record));
	if (data)
		XXH3_128bits_update(reader->hash, reader->buffer, (size_t)length);
	reader->counts.records++;
	*(data ? &reader->counts.data_bytes : &reader->counts.zero_bytes) += length;
	reader->end = offset + length;
	*ret = (struct increment_record){.zeros = !data, .offset = offset, .length = length,
	                                 .data = data ? reader->buffer : NULL};
	return 1;
}

void increment_reader_done(struct increment_reader *reader)
{
	XXH3_freeState(reader->hash);
	free(reader->buffer);
	*reader = (struct increment_reader){.fd = -1, .spool_fd = -1};
}

void increment_marker(const struct increment_head *head, uint8_t ret[16])
{
	uint8_t bytes[16 + 32] = "vhdkit import 1";

	memcpy(bytes + 16, head->base, 16);
	memcpy(bytes + 32, head->target, 16);
	hash_put(XXH3_128bits(bytes, sizeof(bytes)), ret);
	/* RFC 9562, version 8: made as its maker likes. */
	ret[6] = (uint8_t)((ret[6] & 0x0F) | 0x80);
	ret[8] = (uint8_t)((ret[8] & 0x3F) | 0x80);
}
