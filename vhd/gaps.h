/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_GAPS_H
#define VHD_GAPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vhd/layer.h"

/* The payload of blocks that we place starts at multiples of this: of the page, and of what 4 KiB disks can write. */
#define PAYLOAD_ALIGN 4096u

/*
 * The first place behind `offset` for a slot whose payload is aligned; bytes. The page or pages in front of the
 * payload are all the slot's own: they hold its bitmap at their end, and else nothing.
 */
uint64_t slot_place(const struct layer *layer, uint64_t offset);

/*
 * The slots that fit between the blocks of an image, where blocks were given back in earlier sessions; in the order
 * of the file. What such space holds is unknown. The BAT must be as it is on disk. Allocated. 0 or -ENOMEM.
 */
int gaps_find(const struct layer *layer, uint32_t **ret, unsigned *ret_count);

/*
 * The same between any set of slots, which gets sorted. `tight`: where no aligned slot fits, also one that is not, right
 * behind what lies in front: so that blocks of other programs, close to each other, leave no gaps that nothing fills.
 */
int gaps_between(const struct layer *layer, uint32_t *used, size_t n, bool tight, uint32_t **ret,
                 unsigned *ret_count);

#endif
