/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef VHD_INCREMENT_H
#define VHD_INCREMENT_H

/*
 * The stream of `vhd export` and `vhd import`: what changed from one state of a disk to another. docs/increment-format.md
 * has the bytes. Written and read in one go, so that pipes will do; every part is covered by a hash of its own, and all
 * of it by one more.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <xxhash.h>

#include "common/err.h"

#define INCREMENT_HEAD 128u   /* bytes */
#define INCREMENT_RECORD 40u  /* bytes, without the data */
#define INCREMENT_DATA_MAX (1u << 20) /* bytes of data in a record */

struct increment_head {
	uint8_t base[16], target[16]; /* Unique Ids: of the state it applies to, and of that it makes of it */
	uint64_t base_size, size;     /* of the disk, in each; bytes */
	uint32_t block_size;          /* of the image it was made of, bytes; 0: it had none */
	uint64_t changed_bytes;       /* in all records together */
};

struct increment_counts {
	uint64_t records;
	uint64_t data_bytes, zero_bytes;
	uint64_t stream_bytes;
};

struct increment_writer {
	int fd; /* borrowed */
	const char *path; /* borrowed; for sentences */
	XXH3_state_t *hash; /* owned */
	struct increment_counts counts;
};

/* Begins with the head. -EINTR after a signal; -errno. increment_writer_done whatever it returns. */
int increment_write_head(struct increment_writer *writer, int fd, const char *path, const struct increment_head *head,
                         struct err *err);

/* In ascending order, whole sectors; at most INCREMENT_DATA_MAX bytes of data. */
int increment_write_data(struct increment_writer *writer, const void *data, size_t length, uint64_t offset,
                         struct err *err);
int increment_write_zeros(struct increment_writer *writer, uint64_t length, uint64_t offset, struct err *err);
int increment_write_end(struct increment_writer *writer, struct err *err);
void increment_writer_done(struct increment_writer *writer); /* of all zeros too */

struct increment_record {
	bool zeros;
	uint64_t offset, length; /* on the disk, bytes */
	const uint8_t *data;     /* the reader's, until the next call; NULL: zeros */
};

struct increment_reader {
	int fd;           /* borrowed */
	int spool_fd;     /* borrowed: gets a copy of what is read; -1: none */
	const char *path; /* borrowed; for sentences */
	XXH3_state_t *hash; /* owned */
	uint8_t *buffer;  /* owned */
	struct increment_head head;
	struct increment_counts counts;
	uint64_t end; /* of the last record, on the disk */
};

/*
 * Reads and checks the head. -EBADMSG: it is none, is damaged, or of a kind that this program does not know; -EINTR
 * after a signal; -errno. increment_reader_done whatever it returns.
 */
int increment_read_head(struct increment_reader *reader, int fd, int spool_fd, const char *path, struct err *err);

/*
 * The next record, checked. 1; 0 at the end, when all of the stream had the hash that it says and nothing comes after
 * it; else as increment_read_head. Memory is bounded, whatever the stream says.
 */
int increment_read_next(struct increment_reader *reader, struct increment_record *ret, struct err *err);
void increment_reader_done(struct increment_reader *reader); /* of all zeros too */

/* The Unique Id of a copy that is between the two states: made from both of theirs. */
void increment_marker(const struct increment_head *head, uint8_t ret[16]);

#endif
