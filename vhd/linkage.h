/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_LINKAGE_H
#define VHD_LINKAGE_H

/* What a differencing disk says about where its parent is: locators and the header's name. Pure: no I/O. */

#include "vhd/format.h"

#define LINKAGE_LOCATORS 3u
#define LINKAGE_SPACE 2048u /* bytes that a new locator gets at least, so that another path fits into it later */

struct linkage {
	unsigned count;
	struct {
		char code[4];
		uint8_t *data; /* owned */
		uint32_t length;
	} locators[LINKAGE_LOCATORS];
	be16 name[256]; /* as in the header */
};

/*
 * `child` and `parent` are absolute, symlinks resolved. W2ru, the path from the child's folder with backslashes, comes
 * first; then W2ku, the absolute path with the slashes of this system (no drive letter could be right). Both are
 * UTF-16LE without mark or NUL. `mac`: a MacX URL too, relative as Xen writes it. The name is the last component.
 * -EINVAL: a path that the format cannot say.
 */
int linkage_make(const char *child, const char *parent, bool mac, struct linkage *ret, struct err *err);
void linkage_done(struct linkage *linkage);

#endif
