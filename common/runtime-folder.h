/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef COMMON_RUNTIME_FOLDER_H
#define COMMON_RUNTIME_FOLDER_H

/*
 * A folder in which the processes of a user leave what others find them by: the user's alone, and gone after a
 * reboot. It is /run/NAME for root, else NAME in XDG_RUNTIME_DIR, in /run/user/UID, or /tmp/NAME-UID: whichever can
 * be made, so who looks for something looks into each. Names in it begin with the id of the process that made them.
 */

#include <sys/types.h>

#include "common/err.h"

#define RUNTIME_FOLDER_CHOICES 3u
#define RUNTIME_FOLDER_PATH_MAX 4096u

/* The folder of this process's user, made if it is not there. A descriptor, or -EACCES. */
int runtime_folder_make(const char *name, struct err *err);

/*
 * One of a user's, to look into. A descriptor, or -ENOENT: there is none, or none that only that user can have put
 * anything into.
 */
int runtime_folder_open(const char *name, uid_t uid, unsigned choice);

/* Its path, for sentences. Returns `ret`. */
char *runtime_folder_path(int folder, char ret[RUNTIME_FOLDER_PATH_MAX]);

/* Takes away what killed processes of this process's user left. */
void runtime_folder_sweep(int folder);

#endif
