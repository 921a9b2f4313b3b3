/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef COMMON_SIZE_H
#define COMMON_SIZE_H

/* Sizes and offsets as people write them. */

#include <stdint.h>

/*
 * "512", "0x200", "64K", "127G", "1.5T": bytes, hexadecimal bytes, or a number with K, M, G or T (either case, powers
 * of 1024), whose fraction must come out as whole bytes. 0, -EINVAL (not a size), -ERANGE (over 2^64 - 1).
 */
int size_parse(const char *text, uint64_t *ret);

#define SIZE_TEXT_MAX 32

/* "127 GiB", "1.5 MiB", "511 bytes": for people; rounded to a tenth. Returns `ret`, which holds SIZE_TEXT_MAX bytes. */
char *size_text(uint64_t bytes, char *ret);

/* The same, never rounded: in the largest unit that says it exactly with one decimal at most. 2040 GiB, not 2 TiB. */
char *size_text_exact(uint64_t bytes, char *ret);

#endif
