/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef COMMON_STANDARD_FILES_H
#define COMMON_STANDARD_FILES_H

/*
 * For the beginning of main. An image must never become descriptor 0, 1 or 2: what is printed would land in it. What was
 * closed stays unusable: reading standard input fails, and so does writing the others. 0 or -1.
 */
int standard_files_hold(void);

#endif
