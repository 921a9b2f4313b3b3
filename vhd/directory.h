/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_DIRECTORY_H
#define VHD_DIRECTORY_H

/*
 * Everything that the library does to names. No other file calls link, rename or unlink: the crash tests put a recorder
 * in the place of these functions (and of store_file_open_take) when they link. Paths are absolute or relative to the
 * working directory; each returns 0 or -errno. Nothing is durable before directory_sync.
 */

#include <stdbool.h>

/* `fd`, of O_TMPFILE or not, gets a name. -EEXIST. */
int directory_link_fd(int fd, const char *path);

/* The file `from` gets a second name. -EEXIST. */
int directory_link(const char *from, const char *to);

/* `to` becomes the name of the file `from`. -EEXIST: there is one and `replace` is false. */
int directory_rename(const char *from, const char *to, bool replace);

int directory_unlink(const char *path);

/* What happened to the names in the folder is durable. */
int directory_sync(const char *folder);

#endif
