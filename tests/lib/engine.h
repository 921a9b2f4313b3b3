/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TESTS_LIB_ENGINE_H
#define TESTS_LIB_ENGINE_H

/* The engine over stores of the test's choice instead of files. */

#include <stdbool.h>

#include "common/blk.h"
#include "vhd/store.h"

/* Stores are taken over, also on failure; 0 is the leaf. Closed by blk_close. As layer_open_take and image_open_take. */
int engine_open_take(struct store *const *stores, unsigned count, bool write, struct blk **ret, struct err *err);

#endif
