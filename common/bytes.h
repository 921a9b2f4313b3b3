/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef COMMON_BYTES_H
#define COMMON_BYTES_H

/*
 * Integers as they lie on disk. Each is a byte array in a struct of its own: it has no alignment, and using one
 * unconverted does not compile.
 */

#include <stdint.h>

typedef struct { uint8_t b[2]; } be16;
typedef struct { uint8_t b[4]; } be32;
typedef struct { uint8_t b[8]; } be64;
typedef struct { uint8_t b[2]; } le16;
typedef struct { uint8_t b[4]; } le32;
typedef struct { uint8_t b[8]; } le64;

static inline uint16_t be16_get(be16 v)
{
	return (uint16_t)(v.b[0] << 8 | v.b[1]);
}

static inline uint32_t be32_get(be32 v)
{
	return (uint32_t)v.b[0] << 24 | (uint32_t)v.b[1] << 16 | (uint32_t)v.b[2] << 8 | v.b[3];
}

static inline uint64_t be64_get(be64 v)
{
	return (uint64_t)be32_get((be32){{v.b[0], v.b[1], v.b[2], v.b[3]}}) << 32 |
	       be32_get((be32){{v.b[4], v.b[5], v.b[6], v.b[7]}});
}

static inline be16 be16_make(uint16_t x)
{
	return (be16){{(uint8_t)(x >> 8), (uint8_t)x}};
}

static inline be32 be32_make(uint32_t x)
{
	return (be32){{(uint8_t)(x >> 24), (uint8_t)(x >> 16), (uint8_t)(x >> 8), (uint8_t)x}};
}

static inline be64 be64_make(uint64_t x)
{
	return (be64){{(uint8_t)(x >> 56), (uint8_t)(x >> 48), (uint8_t)(x >> 40), (uint8_t)(x >> 32),
	               (uint8_t)(x >> 24), (uint8_t)(x >> 16), (uint8_t)(x >> 8), (uint8_t)x}};
}

static inline uint16_t le16_get(le16 v)
{
	return (uint16_t)(v.b[1] << 8 | v.b[0]);
}

static inline uint32_t le32_get(le32 v)
{
	return (uint32_t)v.b[3] << 24 | (uint32_t)v.b[2] << 16 | (uint32_t)v.b[1] << 8 | v.b[0];
}

static inline uint64_t le64_get(le64 v)
{
	return (uint64_t)le32_get((le32){{v.b[4], v.b[5], v.b[6], v.b[7]}}) << 32 |
	       le32_get((le32){{v.b[0], v.b[1], v.b[2], v.b[3]}});
}

static inline le16 le16_make(uint16_t x)
{
	return (le16){{(uint8_t)x, (uint8_t)(x >> 8)}};
}

#endif
