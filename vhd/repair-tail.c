/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where a dynamic or differencing disk's file ends: with its footer, behind the last structure. */
#include <inttypes.h>
#include <string.h>

#include "common/checked.h"
#include "vhd/repair.h"

#define TAIL_KEPT 8192u /* bytes between the last structure and the footer that are padding, not a leak */

int repair_tail(struct repair *repair)
{
	struct footer_disk disk;
	struct layer *layer;
	struct err why;
	uint64_t end, last;
	bool near;
	int r;

	r = repair_scan(repair, &layer, NULL, &why);
	if (r < 0)
		return err_set(repair->err, r, "%s", why.text);
	if (r)
		return 0;
	last = end = round_up(layer->data_end, VHD_SECTOR);
	layer_free(layer);

	near = repair->end >= last && repair->end - last <= TAIL_KEPT && repair->end % VHD_SECTOR == 0;
	if (repair->end_is_footer && near && repair->plan.file_size - repair->end <= VHD_SECTOR) {
		/* Not a byte of it changes: the plan shows the end of the file again. */
		size_t length = (size_t)(repair->plan.file_size - repair->end);

		r = repair->store->ops->read(repair->store, &disk, length, repair->end);
		if (r)
			return err_set(repair->err, r, "%s: reading its footer failed", repair->path);
		r = overlay_resize(&repair->plan, repair->end);
		if (r == 0)
			r = overlay_write(&repair->plan, &disk, length, repair->end, PHASE_END);
		return r ? repair_no_memory(repair) : 0;
	}
	if (near && (repair->end_is_footer || repair->end < repair->plan.file_size))
		end = repair->end;
	if (repair->end > end + VHD_SECTOR)
		r = repair_step(repair, "unused-space", end, "%" PRIu64 " bytes behind the last structure belong to nothing: the "
		                "file ends there from now on (what of them is not zeros, the side file keeps)", repair->end - end);
	footer_encode(&repair->footer, &disk);
	if (r == 0 && (overlay_resize(&repair->plan, end) ||
	               overlay_write(&repair->plan, &disk, sizeof(disk), end, PHASE_END)))
		r = repair_no_memory(repair);
	return r;
}
