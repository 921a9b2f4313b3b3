/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TESTS_LIB_RECORD_H
#define TESTS_LIB_RECORD_H

/*
 * Records what the library does to real files and their names. A program that links record.c puts it in the place of
 * store_file_open, store_file_open_take, fsync and the functions of vhd/directory.h by the linker's --wrap (record_wraps
 * in tests/Makemodule.am); while a recording runs, each file that is opened through a store is traced. Recording or not,
 * requests are run by the ring of tests/lib/ring-inline.h: thousands of real rings would be waited for, as the kernel
 * lets go of their files, and so of the locks, some time after they are closed. All names must lie in one folder.
 */

#include "tests/lib/store-trace.h"

/* Initialises `trace` with the files that are in `folder` now. One recording at a time. */
void record_begin(struct trace *trace, const char *folder);

/*
 * Everything was closed. Compares what the trace adds up to with what is in the folder: -EILSEQ and what differs, when
 * something was done to the files past the recorder.
 */
int record_end(struct err *err);

#endif
