/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_SNIFF_H
#define VHD_SNIFF_H

#include <stddef.h>
#include <stdint.h>

/*
 * What a file that is no VHD looks like by its first bytes, for a sentence ("a QCOW2 image"); NULL: nothing known.
 * Never used to choose a format: a guest may have written these bytes.
 */
const char *sniff_format(const uint8_t *start, size_t length);

#endif
