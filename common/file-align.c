/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "common/file-align.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/checked.h"

/* Debian 12's <sys/stat.h> does not know STATX_DIOALIGN (Linux 6.1) yet; <linux/stat.h> clashes with it. */
#define DIOALIGN_MASK 0x00002000u

struct statx_layout {
	uint32_t mask;
	uint8_t before[0x98 - 4];
	uint32_t dio_mem_align;    /* +0x98 */
	uint32_t dio_offset_align; /* +0x9c */
	uint8_t after[0x100 - 0xa0];
};

_Static_assert(sizeof(struct statx_layout) == 0x100, "struct statx is 256 bytes");

struct file_align file_align_direct(int fd)
{
	struct statx_layout st = {0};

	if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, DIOALIGN_MASK, &st) == 0 && (st.mask & DIOALIGN_MASK) &&
	    is_power_of_two(st.dio_offset_align) && is_power_of_two(st.dio_mem_align))
		return (struct file_align){st.dio_offset_align, st.dio_mem_align};
	return (struct file_align){4096, 4096};
}
