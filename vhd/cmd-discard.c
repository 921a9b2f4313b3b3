/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <inttypes.h>
#include <string.h>

#include "common/interrupt.h"
#include "vhd/cli.h"

#define STEP (UINT64_C(1) << 30)

static int range_discard(const struct cli *cli, const struct cli_disk *disk, uint64_t offset, uint64_t length)
{
	uint64_t end = offset + length, at = offset;
	struct progress progress;
	int r = 0;

	if (offset % disk->info.request_align || length % disk->info.request_align)
		return cli_fail(cli, "%s: OFFSET and LENGTH must be multiples of %u", disk->path, disk->info.request_align);
	if (!cli_range_inside(cli, disk, offset, length))
		return CLI_FAILED;
	progress_begin(&progress, stderr, cli->progress_mode, "bytes", length);
	while (at < end && r == 0 && !interrupt_seen()) {
		/* Steps end at multiples of their size, so that none cuts a block that the range covers. */
		uint64_t next = at - at % STEP + STEP < end ? at - at % STEP + STEP : end;

		r = blk_discard(disk->queue, at, next - at);
		if (r == 0)
			at = next;
		progress_update(&progress, at - offset);
	}
	progress_end(&progress);
	if (r < 0)
		return cli_fail(cli, "%s: discard at offset %" PRIu64 ": %s", disk->path, at, strerror(-r));
	r = blk_flush(disk->queue);
	if (r < 0)
		return cli_fail(cli, "%s: flush: %s", disk->path, strerror(-r));
	if (at < end)
		return cli_fail(cli, "%s: interrupted; discarded up to offset %" PRIu64, disk->path, at);
	return CLI_OK;
}

static int run(struct cli *cli)
{
	struct cli_disk disk;
	uint64_t offset, length;
	int code;

	cli_no_options(cli);
	offset = cli_size(cli, "OFFSET", cli->operands[1]);
	length = cli_size(cli, "LENGTH", cli->operands[2]);
	interrupt_catch();
	code = cli_disk_open(cli, cli->operands[0], cli->raw, true, &disk);
	if (code)
		return code;
	code = range_discard(cli, &disk, offset, length);
	return cli_disk_close(cli, &disk, code);
}

const struct cli_command command_discard = {
        .name = "discard",
        .operands = "FILE OFFSET LENGTH",
        .summary = "make a range read as zeros and give its space back",
        .details = "OFFSET and LENGTH are multiples of 512. Space comes back where whole blocks are covered.",
        .groups = CLI_CHAIN | CLI_FORMAT | CLI_DIRECT | CLI_FORCE | CLI_PROGRESS,
        .min_operands = 3,
        .max_operands = 3,
        .run = run,
};
