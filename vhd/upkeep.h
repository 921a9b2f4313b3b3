/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_UPKEEP_H
#define VHD_UPKEEP_H

/* Between the files that change an open disk: merge.c, switch-child.c, resize.c, compact.c. */

#include "vhd/image.h"
#include "vhd/vhd.h"

struct vhd {
	struct image *image;
	void (*resized)(void *user, uint64_t size_bytes);
	void *resized_user;
};

/* Only one call of upkeep works on a disk at a time. -EBUSY; -EROFS: opened for reading, or broken by a failed sync. */
int upkeep_begin(struct image *image, struct err *err);
void upkeep_end(struct image *image);

/* Until upkeep_end no other thread can make queues or maps of the disk. -EBUSY: there are some. */
int upkeep_exclude_users(struct image *image, struct err *err);

/*
 * A layer that is open for reading can be written to: its file opened anew, under the writer's lock. Nothing to do for
 * one that a call before could not bring to rest. VHD_E_IN_USE: others have it open; -errno.
 */
int upkeep_raise(struct image *image, struct image_layer *layer, struct err *err);

/*
 * Nobody writes to the writer's layer any more: what was written is made durable, its file brought to rest, its lock
 * lowered. Frees the writer. -errno: then it is still there.
 */
int upkeep_rest(struct image *image, struct writer *writer);

/* As upkeep_rest, of a layer that left the disk and could not be brought to rest: whatever was not written is lost. */
void upkeep_give_up(struct image *image, struct writer *writer);

struct relink_tail;

/* Worker thread: the file's footer and header are changed by `call` (relink.h), while its writer goes on. */
int upkeep_change_file(struct image *image, struct writer *writer,
                       int (*call)(struct layer *layer, struct relink_tail *tail, void *arg, struct err *err), void *arg,
                       struct err *err);

/*
 * Refuses a change of what `layer`, of the image's chain, holds or is: VHD_E_HAS_CHILDREN when disks stand on it that are
 * not in the chain themselves (or -errno: its folder cannot be searched for them). Not when the user said `force`.
 */
int upkeep_refuse_children(struct image *image, const struct layer *layer, struct err *err);

#endif
