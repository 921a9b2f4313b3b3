/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef COMMON_ERR_H
#define COMMON_ERR_H

/*
 * One sentence for a person: which file, where in it, what is wrong and, where that is known, what to do.
 * Functions that can fail return 0, -errno or a documented positive verdict, and take an optional
 * `struct err *` (NULL: the caller does not want the sentence). It is written only on failure.
 */

struct err {
	char text[512];
};

/*
 * Writes the sentence (no final full stop or newline) and returns `code`, so that a failure is one statement:
 *     return err_set(err, -EINVAL, "%s: ...", path);
 * NULL-safe. A text that is too long ends in "...".
 */
int err_set(struct err *err, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Puts "<prefix>: " in front of what is there. NULL-safe. Returns `code`. */
int err_prefix(struct err *err, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
