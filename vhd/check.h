/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_CHECK_H
#define VHD_CHECK_H

/* Between check.c, which goes through the layers, and check-bitmaps.c, which looks into their blocks. */

#include "vhd/chain.h"
#include "vhd/defect.h"

struct check {
	const struct vhd_check_options *options;
	struct chain chain;
	struct vhd_check_result result;
	struct layer_sink sink; /* counts and forwards */
	uint64_t blocks_done;
	struct err *err;
};

/* Every sector bitmap of a differencing disk, those of a dynamic disk up to a number. 0 or -errno. */
int check_bitmaps(struct check *check, unsigned layer);

#endif
