/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_LOCATOR_H
#define VHD_LOCATOR_H

/*
 * Parent locators and names: UTF-16 text, Windows and Mac paths, and what they mean on this system. Pure: no I/O.
 */

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "vhd/format.h"

#define LOCATOR_MAX_BYTES 65536u /* longer data is not read */

/*
 * UTF-16 from disk as UTF-8, allocated: a byte-order mark is obeyed, else the order that gives text (big-endian
 * first when `big_endian`); ends at the first NUL. Odd lengths, unpaired surrogates: VHD_E_CORRUPT.
 */
int utf16_decode(const uint8_t *bytes, size_t length, bool big_endian, char **ret, struct err *err);

/*
 * UTF-8 as UTF-16 without mark or NUL, allocated. -EINVAL: not UTF-8.
 */
int utf16_encode(const char *text, bool big_endian, uint8_t **ret, size_t *ret_length, struct err *err);

/*
 * A locator's data as a path here, allocated: W2ru ("..\base\a.vhd" becomes "../base/a.vhd", relative to the child's
 * folder), W2ku (absolute: "/srv/a.vhd" as we and others on Unix write it; "C:\x\a.vhd" has no meaning here and gives its
 * last component, relative), MacX (file URL, percent-decoded). VHD_E_CORRUPT; VHD_E_UNSUPPORTED: an unknown code.
 */
int locator_decode(const uint8_t code[4], const uint8_t *bytes, size_t length, char **ret, struct err *err);

/*
 * The path of `parent` as seen from the folder of `child` (both absolute, symlinks resolved), as a W2ru text with
 * backslashes: ".\base.vhd", "..\base\a.vhd". Allocated. -EINVAL: not UTF-8, or a backslash in it, which the format
 * cannot say.
 */
int locator_relative(const char *child, const char *parent, char **ret, struct err *err);

/* The space that a locator owns in the file, bytes: `space` counts sectors below 512, else bytes. */
uint64_t locator_space_bytes(const struct locator *locator);

#endif
