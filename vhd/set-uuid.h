/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_SET_UUID_H
#define VHD_SET_UUID_H

#include <stdint.h>

#include "common/err.h"

/*
 * Gives the image at `path`, of whatever type, another Unique Id, durably; nobody may have it open. `expected`: the one
 * that it has. After a crash it has the old or the new one, whichever footer is read, and opens. 0; VHD_E_IN_USE;
 * VHD_E_PARENT_MISMATCH: it has another; the verdicts of vhd_open; -errno.
 */
int image_set_uuid(const char *path, const uint8_t expected[16], const uint8_t uuid[16], struct err *err);

#endif
