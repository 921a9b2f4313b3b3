/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_REPAIR_H
#define VHD_REPAIR_H

/*
 * Between the files that repair an image. Planning comes first, over an overlay of the file, and touches nothing:
 *
 *   repair-footer.c   which footer is right, or what it must have been
 *   repair-header.c   header and place of the BAT
 *   repair-layout.c   the same when no header is left: what the blocks prove
 *   repair-bat.c      entries: cut short, out of the file, overlapping
 *   repair-batmap.c   Xen's map of full blocks, bad locators, the parent's identity
 *   repair-tail.c     where the file ends
 *
 * The plan is checked as `vhd check` would. Only if it has no damage left is it carried out:
 *
 *   repair-side.c     what will be overwritten goes to the side file first; and back
 *   repair-apply.c    the writes, in the order of the phases below
 */

#include "vhd/check.h"
#include "vhd/overlay.h"

/* Written in this order, a sync after each that has something to write (docs/durability.md, "Repair"). */
enum repair_phase {
	PHASE_COPY,   /* the copy of the footer: from then on the one at the end is not needed */
	PHASE_SPACE,  /* what nothing names yet */
	PHASE_BATMAP,
	PHASE_HEADER,
	PHASE_BAT,
	PHASE_END,    /* the footer at the end */
	PHASE_LAST,   /* what the footer at the end makes superfluous */
	PHASES,
};

struct repair_step {
	const char *code;
	uint64_t offset;
	bool refused;
	char *sentence; /* owned */
};

struct repair_loss {
	uint64_t offset, length; /* of the disk */
	bool doubtful;           /* not lost: it may be another block's */
	char *sentence;          /* owned */
};

struct repair {
	const char *path;
	const struct vhd_repair_options *options;
	struct vhd_repair_result *result;
	struct err *err;
	struct store *store; /* owned */
	struct overlay plan;

	struct footer footer;  /* the one that counts, as it will be written */
	bool copy_needed;      /* the copy at 0 is to be written */
	uint64_t end;          /* where structures must end: where a footer is or was, else the file's end */
	bool end_is_footer;    /* there is a footer at `end` that may stay */
	bool bat_changed, parent_changed;

	struct repair_step *steps; /* owned */
	size_t step_count;
	struct repair_loss *losses; /* owned */
	size_t loss_count;
	bool refused; /* the file's own damage: nothing will be changed */
};

/* --- repair.c --- */

/* Notes what will be done, or (refused) why it is not. 0 or -ENOMEM. */
int repair_step(struct repair *repair, const char *code, uint64_t offset, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
int repair_refuse(struct repair *repair, const char *code, uint64_t offset, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
int repair_lose(struct repair *repair, uint64_t offset, uint64_t length, bool doubtful, const char *format, ...)
	__attribute__((format(printf, 5, 6)));
int repair_no_memory(const struct repair *repair);

#define REPAIR_DEFECTS_MAX 256u

struct repair_defect {
	const char *code;
	enum vhd_severity severity;
	uint64_t offset;
	char sentence[480];
};

struct repair_defects {
	unsigned count, damages; /* count: at most REPAIR_DEFECTS_MAX are kept */
	struct repair_defect list[REPAIR_DEFECTS_MAX];
};

/* The plan as a layer, its defects collected (`defects` may be NULL). A verdict: it cannot be read at all; -errno. */
int repair_scan(struct repair *repair, struct layer **ret, struct repair_defects *defects, struct err *why);

/* How many damages the plan's metadata has but for the bitmaps; UINT_MAX: it cannot be read. */
unsigned repair_damages(struct repair *repair);

/* The plan's file range as bytes, zeros where it has none. 0 or -errno. */
int repair_read(const struct repair *repair, void *buffer, size_t length, uint64_t offset);

/* --- planning; each 0, or -errno with the sentence; what cannot be repaired is refused --- */

int repair_footers(struct repair *repair);
int repair_fixed(struct repair *repair);
int repair_header(struct repair *repair);
int repair_blocks(struct repair *repair);
int repair_batmap(struct repair *repair);
int repair_locators(struct repair *repair);
int repair_parent(struct repair *repair);
int repair_tail(struct repair *repair);

/* Makes footer `footer` count in the plan: the copy at 0, and the file cut at repair->end. 0 or -errno. */
int repair_footer_lay(struct repair *repair);

/* Writes a header into the plan. 0 or -errno. */
int repair_header_put(struct repair *repair, const struct header *header, uint64_t offset);

/* --- repair-layout.c --- */

/*
 * How well a table at header->table_offset for a disk of `size` bytes agrees with the file: every entry names space
 * of its own in the file or none.
 */
struct table_judgement {
	uint64_t needed;    /* entries */
	bool inside;        /* the table lies in the file, off the copy of the footer and the header */
	uint64_t used, bad; /* entries */
	uint64_t holes;     /* between blocks, large enough for another */
	uint64_t data_end;  /* of the last good block, bytes; the table's end if there is none */
};
int table_judge(const struct repair *repair, const struct header *header, uint64_t header_offset, uint64_t size,
                struct table_judgement *ret);

/* Block size and table offset that the file's content proves, for a disk of `size` bytes. 0, 1: nothing is proven. */
int layout_find(const struct repair *repair, uint64_t header_offset, uint64_t size, struct header *ret);

/* The table alone: header->block_size is known. 0, 1: not found, or more than one. */
int table_find(const struct repair *repair, uint64_t header_offset, uint64_t size, struct header *header);

/*
 * The first header from offset 512 on, near the front. 0; 1: none, or it is damaged and *ret_offset is where (0: none).
 */
int header_search(const struct repair *repair, struct header *ret, uint64_t *ret_offset);

/* --- repair-identity.c --- */

struct identity {
	bool known;
	uint8_t uuid[16];
	char child[256]; /* the name of a disk that recorded it */
};

/* What differencing disks in the file's folder recorded of it as their parent. 0 or -errno. */
int identity_find(const struct repair *repair, struct identity *ret);

/* --- repair-apply.c, repair-side.c --- */

struct repair_range {
	uint64_t offset, length;
	unsigned phase;
	bool cut; /* beyond the new end */
};

struct repair_ranges {
	struct repair_range *list; /* owned; by phase, then offset */
	size_t count, room;
};

/* What of the file the plan really changes. 0 or -errno. */
int repair_ranges_find(struct repair *repair, struct repair_ranges *ret);
int repair_apply(struct repair *repair, const struct repair_ranges *ranges);
int repair_side_write(struct repair *repair, const struct repair_ranges *ranges);

/* FNV-1a, 64 bits. */
#define REPAIR_HASH_START UINT64_C(0xcbf29ce484222325)
uint64_t repair_hash(uint64_t hash, const void *bytes, size_t length);

/* Opens a regular file and locks it; `write`: as a writer. A verdict or -errno. */
int repair_open(const char *path, bool write, struct store **ret, struct err *err);

#endif
