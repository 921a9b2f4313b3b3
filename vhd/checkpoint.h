/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_CHECKPOINT_H
#define VHD_CHECKPOINT_H

/*
 * What is left of the layers that were merged away: side files that say which sectors changed from one state of a disk
 * to a later one. A state is named by the Unique Id of the layer that froze it. docs/increment-format.md has the bytes.
 *
 * A record lies beside the file that was merged into, hidden, and is named after it and the state it begins with. Each
 * leads one state further: A to B, B to C, and C is the Unique Id that the file has now.
 *
 * A record is only good while the file that holds its last state is what it was: a leaf that was merged into and then
 * written to has the same Unique Id and another content. So records carry a stamp, the file's modification time and
 * size, and one whose `to` is the file's Unique Id counts only if the stamp fits. One that leads to another record does
 * not need it: whoever made that other record saw to it first (checkpoint_begin).
 *
 * A record without a stamp is a promise: a merge is under way, and the file is not in the state `from` any more, though
 * its Unique Id still says so. Who asks for changes since that state gets what the promise lists as well; or, if it says
 * that it is incomplete, no answer.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "vhd/layer.h"
#include "vhd/sector-set.h"

struct chain;

/* All zeros: none, which fits nothing. */
struct checkpoint_stamp {
	int64_t seconds; /* mtime */
	uint32_t nanoseconds;
	uint64_t size;   /* bytes */
};

struct checkpoint {
	uint8_t from[16], to[16];
	uint8_t next[16]; /* a merge is under way that will lead from `to` to this; all zeros: none */
	bool incomplete; /* promises only: more changed, or will, than `changed` says */
	struct checkpoint_stamp stamp;
	uint64_t from_size, to_size; /* of the disk, bytes */
	struct sector_set changed;   /* of a disk of to_size */
};

void checkpoint_done(struct checkpoint *checkpoint); /* of all zeros too */

/*
 * What a layer changed of the disk below it, which has `below_size` bytes: the states, the sizes, and the sectors, as
 * layer_changes_add (changed.h) finds them. 0, -ENOMEM, -ECANCELED, or -errno of reading.
 */
int checkpoint_of_layer(const struct layer *layer, uint64_t below_size, struct checkpoint *ret, struct err *err);

/* --- checkpoint-format.c: bytes --- */

#define CHECKPOINT_HEAD 136u

/* Allocated. -ENOMEM. */
int checkpoint_encode(const struct checkpoint *checkpoint, uint8_t **ret, size_t *ret_length);

/* Any bytes. 0; VHD_E_CORRUPT or VHD_E_UNSUPPORTED with a sentence that does not name the file; -ENOMEM. */
int checkpoint_decode(const uint8_t *bytes, size_t length, struct checkpoint *ret, struct err *err);

/* The first CHECKPOINT_HEAD bytes alone: all but `changed`. */
int checkpoint_decode_head(const uint8_t *bytes, size_t length, struct checkpoint *ret, struct err *err);

/* Puts another `next` and stamp into an encoded record. */
void checkpoint_reseal(uint8_t *bytes, const struct checkpoint *checkpoint);

/* --- checkpoint.c: files --- */

/*
 * A merge into the file `disk_path` begins, or goes on after it was cut off: it will take the file from the state
 * `uuid`, its Unique Id when the merge began first, to the state `next`. Before anything else of the file changes.
 * Removes records that are of no use: whose stamp does not fit (unless it was this very merge that spoiled it), that
 * are damaged, or that lead nowhere; marks the others. 0 or -errno.
 */
int checkpoint_begin(const char *disk_path, const uint8_t uuid[16], const uint8_t next[16], struct err *err);

/*
 * Before the first byte of a merge that takes the layer's sectors away from it, or lets guests write past it (a leaf
 * being merged): what it changed, as far as that is known now; `incomplete` if guests may go on writing. `stamp` and
 * `next` are not looked at. What was promised before for the same change is kept along with it, so that a merge that is
 * run again may say what is left. -errno.
 */
int checkpoint_promise(const char *disk_path, const struct checkpoint *checkpoint, struct err *err);

/*
 * The merge has ended, and the file is in the state `to`, as checkpoint_write wants it: promises that lead to it become
 * records, or are removed where they are incomplete, or `drop`. Call for each state on the way, the last one too; again
 * after a crash. -errno.
 */
int checkpoint_fulfil(const char *disk_path, const uint8_t to[16], bool drop, struct err *err);

/* Adds what was promised from the state `from` on, if anything. 0, VHD_E_UNKNOWN_BASE: not all of it is known; -errno. */
int checkpoint_promised(const struct chain *chain, const uint8_t from[16], struct sector_set *changed, struct err *err);

/*
 * Records a change, durably; a record that began with the same state is replaced. `stamp` and `next` are not looked
 * at: the stamp is taken here. So the caller still excludes other writers, and the file will not change any more: the
 * merge has ended, the new Unique Id is in it, it was closed. Everything that was written to it since it left the state
 * `from` must be in `changed`; who cannot say that (guests wrote to it meanwhile) must not call. -errno.
 */
int checkpoint_write(const char *disk_path, const struct checkpoint *checkpoint, struct err *err);

/*
 * For changes of the file that leave its content alone (a new locator): the stamp is taken before, and records that
 * carry it and lead to `uuid` are given the present one. Others stay as they are. The caller excludes other writers.
 */
int checkpoint_stamp_take(const char *disk_path, struct checkpoint_stamp *ret, struct err *err);
int checkpoint_restamp(const char *disk_path, const uint8_t uuid[16], const struct checkpoint_stamp *before,
                       struct err *err);

/*
 * Before the file `gone_path`, of Unique Id `gone_uuid`, is removed because it was merged into `disk_path`: the records
 * beside it that still hold become the other file's. When both are there and neither changes any more. -errno.
 */
int checkpoint_adopt(const char *gone_path, const uint8_t gone_uuid[16], const char *disk_path, struct err *err);

/* The image got another name, in any folder of the file system; call again after a crash. -errno. */
int checkpoint_rename(const char *old_path, const char *new_path, struct err *err);

/* Removes all records beside an image. -errno. */
int checkpoint_remove(const char *disk_path, struct err *err);

struct checkpoint_path {
	uint64_t since_size; /* of the disk in the state asked for, bytes */
	unsigned layer;      /* where the records end: what the layers above it hold changed later */
	unsigned records;    /* how many there were */
};

/*
 * Adds what changed from the state `since` to one that a layer of the open chain is in, as the records say that lie
 * beside any of its files. 0; -ENOENT, without a sentence: no record begins with `since`; VHD_E_UNKNOWN_BASE: they do
 * not lead to a layer that is in the state they say; -errno.
 */
int checkpoint_find(const struct chain *chain, const uint8_t since[16], struct sector_set *changed,
                    struct checkpoint_path *ret, struct err *err);

#endif
