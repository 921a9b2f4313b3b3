/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TESTS_LIB_HOSTILE_H
#define TESTS_LIB_HOSTILE_H

/*
 * Tables of malformed images. Each row is built, then opened, salvaged, read whole, mapped and checked in a process of
 * its own with bounded time and memory; whatever happens there, no byte of the file may change.
 */

#include "tests/lib/image-builder.h"

#define HOSTILE_REFUSED (-1000) /* any verdict or -errno, where several are as good */
#define HOSTILE_EITHER (-1001)  /* refused, or opened with the right content */

struct hostile_row {
	const char *name; /* a sentence */
	const struct image_spec *spec;
	struct image_edit edits[6];
	size_t cut; /* bytes that the file's end lacks */
	size_t cut_to; /* the file's length, 0: as built */
	/*
	 * The image is <dir>/in/disk.vhd; there is an empty <dir>/out too. Makes other files, and may change the row's
	 * own image before it is built.
	 */
	void (*scene)(const char *dir, struct image_spec *spec);
	/* Anything that no edit says; after the edits. */
	void (*bend)(struct image *image);

	int expect; /* what vhd_open returns: 0, a verdict, or HOSTILE_REFUSED */
	const char *needle;   /* refused: in the sentence */
	const struct image_spec *base; /* opened: the row's own content reads as lying over this one's; may be NULL */
	const char *warning;  /* opened: in one of the warnings */
	const char *allow;    /* a folder of <dir> that parents may lie in, besides "in" */
	const char *parent;   /* an option to vhd_open, relative to <dir> */
	bool parent_raw;
	bool unsalvageable;   /* VHD_OPEN_SALVAGE has to refuse it too; what it does not refuse, it must open */
};

/* Runs every row as a test of its own, named "<group>: <row>". Returns the number that failed. */
int hostile_run(const char *group, const struct hostile_row *rows, unsigned count);

#endif
