/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef MOUNTD_REGISTRY_H
#define MOUNTD_REGISTRY_H

/*
 * Where mounts are known to `vhd-umount`: a folder of the user's own with, for each mount process, <pid>.mount (image
 * and folder, each ended by NUL) and <pid>.sock, on which the process says at its end whether everything is on disk.
 */

#include <stdbool.h>
#include <sys/types.h>

#include "common/err.h"

struct registration;

/* Makes this process known as the one that mounts `image` at `dir`; both absolute. Starts a thread. */
int registration_new(const char *image, const char *dir, struct registration **ret, struct err *err);

/* Tells whoever waits how it ended (`failure` NULL: well) and takes the files away. NULL-safe. */
void registration_end(struct registration *registration, const char *failure);

struct waiter {
	int socket; /* says "ok\n" or a sentence */
	int process; /* a pidfd: readable when the process has ended */
	pid_t pid;
};

/* Finds the process behind the mount at `dir` that belongs to `uid`. -ENOENT: not known. */
int waiter_open(const char *dir, uid_t uid, struct waiter *ret, struct err *err);

/* Waits for the end. 0: everything is on disk; -EIO and the sentence otherwise. Closes the waiter. */
int waiter_wait(struct waiter *waiter, struct err *err);

void waiter_close(struct waiter *waiter);

#endif
