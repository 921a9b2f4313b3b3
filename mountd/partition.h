/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef MOUNTD_PARTITION_H
#define MOUNTD_PARTITION_H

/*
 * Partition tables: MBR with logical partitions, and GPT. Pure: everything is read through a callback, every number
 * is checked against the disk, and the work is bounded whatever the table says.
 */

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"

#define PARTITION_GPT_MAX_ENTRIES 4096u /* a table that claims more is refused; Windows and Linux make 128 */
#define PARTITION_LOGICAL_MAX 128u      /* links of a chain of logical partitions that are followed */

enum partition_scheme {
	PARTITION_NONE, /* no table: the disk may be one file system */
	PARTITION_MBR,
	PARTITION_GPT,
};

enum partition_problem {
	PARTITION_OK,
	PARTITION_OUTSIDE,  /* reaches beyond the end of the disk, or of its extended partition */
	PARTITION_OVERLAPS, /* shares sectors with another one, or with the table itself */
};

struct partition {
	unsigned number; /* as Linux counts: MBR 1 to 4, logical from 5; GPT the entry's place from 1 */
	uint64_t offset; /* bytes */
	uint64_t length; /* bytes */
	enum partition_problem problem;
	uint8_t mbr_type;      /* MBR */
	uint8_t type_guid[16]; /* GPT, as on disk */
	char name[109];        /* GPT, UTF-8; "" if none */
};

struct partition_table {
	enum partition_scheme scheme;
	bool from_backup;    /* GPT: the primary table is damaged, this is the one at the end */
	bool chain_cut;      /* MBR: the chain of logical partitions loops or leaves its extended partition */
	struct partition *entries; /* extended partitions themselves are not listed */
	unsigned count;
	/* Byte ranges that hold the table: after a write to one of them it must be read again. */
	struct partition_span {
		uint64_t offset, length;
	} *spans;
	unsigned span_count;
};

/* 0 or -errno; the whole range. */
typedef int partition_read(void *user, void *buffer, uint32_t length, uint64_t offset);

/*
 * Reads the table of a disk of `size` bytes. 0, also for a disk without one; -EBADMSG: there is a GPT but both its
 * copies are damaged; -ENOMEM; or what `read` returned. `ret` is freed with partition_table_done.
 */
int partition_table_read(partition_read *read, void *user, uint64_t size, struct partition_table *ret,
                         struct err *err);

void partition_table_done(struct partition_table *table);

/* Whether [offset, offset + length) touches what holds the table. */
bool partition_table_touched(const struct partition_table *table, uint64_t offset, uint64_t length);

/* What the type says is inside, for messages: "Linux", "EFI system", ...; never NULL. */
const char *partition_type_name(const struct partition_table *table, const struct partition *partition);

#endif
