/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_MERGE_H
#define VHD_MERGE_H

/* Between the files merge*.c. */

#include "vhd/merge-copy.h"
#include "vhd/upkeep.h"

struct merge {
	struct image *image;
	const struct vhd_merge_options *options;
	struct stack *stack;        /* the present one */
	unsigned first, into;       /* layers first to into - 1 go into layer `into` */
	struct image_layer *target; /* that one */
	bool leaf_in_use;           /* layer `first` is the leaf, and guests write to it */
	struct copier *copier;
	struct checkpoint *records; /* of the layers from `first` on, one each */
	unsigned record_count;
	struct vhd_merge_result result;
	struct err *err;
};

/* --- merge-record.c --- */

/* Before anything changes: what the layers had changed. */
int merge_records_begin(struct merge *merge);

/* When the target's file is at rest and will not change any more in this merge. `gone`: the merged layers. */
int merge_records_write(struct merge *merge, struct image_layer *const *gone);
void merge_records_done(struct merge *merge);

/* --- merge-end.c: each step of it leaves a chain that opens, and may be done again --- */

/* The target takes the Unique Id of the top layer merged. All that the layers held is durable in it. */
int merge_take_identity(struct merge *merge);

/*
 * The disk goes on without the merged layers; merge->stack is then the new one, with the target at merge->first. *ret_gone:
 * the layers that left, merge->into - merge->first of them, to be freed with free() after merge_retire.
 */
int merge_leave(struct merge *merge, struct image_layer ***ret_gone);

/* The layer above the merged ones is tied to the target. After merge_leave. */
int merge_tie_upper(struct merge *merge);

/* -ESTALE: the layer's name is another file's by now, which must not be removed or replaced. */
int merge_check_name(const struct layer *layer, struct err *err);

/* The files of `gone` go, or the first of them is replaced by the target. */
int merge_change_names(struct merge *merge, struct image_layer *const *gone);

void merge_retire(struct merge *merge, struct image_layer **gone);

/* Publishes the stack, gives it its memory of parents, and waits until nobody uses another one. */
int merge_publish_take(struct merge *merge, struct stack *stack, bool parents_change);

/* --- merge-leftover.c --- */

/* Whether the leaf is left over from a merge that ended otherwise; then merge->into and ->target say into what. */
bool merge_find_leftover(struct merge *merge);

/* Removes its files, and those between, if the target still holds all of it. -EEXIST: it does not. */
int merge_remove_leftover(struct merge *merge);

/* --- merge-leaf.c --- */

/* The leaf, which is in use, moves down into layer 1, block by block; at the end it holds nothing. */
int merge_drain_leaf(struct merge *merge);

/*
 * After a failure: new blocks go to the leaf again, none to its parent, and what parents hold is looked up anew. -ENOMEM:
 * it stays as it is.
 */
int merge_stop_drain(struct merge *merge);

#endif
