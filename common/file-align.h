/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef COMMON_FILE_ALIGN_H
#define COMMON_FILE_ALIGN_H

#include <stdint.h>

struct file_align {
	uint32_t offset_bytes, memory_bytes; /* powers of two */
};

/* What O_DIRECT on `fd` asks of offsets, lengths and buffers (STATX_DIOALIGN; where it says nothing, 4096). */
struct file_align file_align_direct(int fd);

#endif
