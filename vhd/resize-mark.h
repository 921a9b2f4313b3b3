/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_RESIZE_MARK_H
#define VHD_RESIZE_MARK_H

/*
 * What a footer says while its disk is getting another size: a tag and two numbers at the end of its reserved bytes
 * (docs/vhd-format.md, "Marks of a resize"). Other programs do not look there.
 */

#include <stdbool.h>
#include <stdint.h>

#include "vhd/format.h"

enum resize_mark {
	RESIZE_MARK_NONE,
	/* Fixed disk: this footer stays the one that counts while the file, longer already, does not end in another. */
	RESIZE_MARK_GROWING,
	/* The size is the smaller one already; BAT entries beyond it, or the file's rest, may still be there. */
	RESIZE_MARK_SHRINKING,
};

enum resize_mark resize_mark_get(const struct footer *footer);

/* Over the one before. Growing: `offset` is where the footer lies, `file_size` what growing_file_size gave. */
void resize_mark_set(struct footer *footer, enum resize_mark mark, uint64_t offset, uint64_t file_size);

/*
 * The size that a file gets on its way from a marked footer at `offset` to one that ends at `end` bytes or before. It
 * tells where the marked footer is: the file's length up to that footer's end, doubled n times, plus n. No image of this
 * or another program has such a size otherwise: all are multiples of 512 bytes, or (Virtual PC) one byte short of one.
 */
uint64_t growing_file_size(uint64_t offset, uint64_t end);

/* Where the marked footer of a file of that size would be; false: it is no such size. */
bool growing_footer_offset(uint64_t file_size, uint64_t *ret);

/* Whether this footer, found at `offset`, says that it counts for a file of `file_size` bytes. */
bool resize_mark_holds(const struct footer *footer, uint64_t offset, uint64_t file_size);

#endif
