/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef MOUNTD_SESSION_H
#define MOUNTD_SESSION_H

/* A mounted file system at a folder: what libfuse does, which no other file of mountd/ includes. */

#include <stdbool.h>

#include "common/err.h"
#include "mountd/fs.h"

struct session;

struct session_options {
	const char *source;  /* what the system's list of mounts shows: the image's path */
	const char *options; /* more mount options, comma-separated, or "" */
	bool cache;          /* nobody else changes the files: the kernel may keep what it has read */
};

/* Mounts `fs` (borrowed) at `dir`. From here on requests wait for session_run. */
int session_new(struct fs *fs, const char *dir, const struct session_options *options, struct session **ret,
                struct err *err);

/*
 * Serves until it is unmounted, or a signal (INT, TERM, HUP) ends it. These the caller has blocked in all threads; they
 * are let through, to the calling thread, only while it serves. 0, or -errno if serving failed.
 */
int session_run(struct session *session);

/* Unmounts if that did not happen yet. NULL-safe. */
void session_free(struct session *session);

#endif
