/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/checked.h"
#include "common/interrupt.h"
#include "vhd/hashing.h"

enum { KEY_BLOCK_SIZE = 256 };

static const struct cli_option options[] = {
        {KEY_BLOCK_SIZE, "block-size", "SIZE", "of the ranges hashed, 4K to 16M (default 2M)"},
        {0},
};

static int run(struct cli *cli)
{
	uint64_t block_size = MANIFEST_BLOCK_DEFAULT;
	struct manifest manifest;
	struct cli_disk disk;
	const char *arg;
	int code;

	for (int key; (key = cli_next(cli, &arg)) != CLI_END;)
		if (key == KEY_BLOCK_SIZE)
			block_size = cli_size(cli, "--block-size", arg);
	if (block_size < MANIFEST_BLOCK_MIN || block_size > MANIFEST_BLOCK_MAX || !is_power_of_two(block_size))
		cli_usage(cli, "--block-size: must be a power of two from 4K to 16M");
	interrupt_catch();
	code = cli_disk_open(cli, cli->operands[0], cli->raw, false, &disk);
	if (code)
		return code;
	code = disk_hash(cli, &disk, (uint32_t)block_size, &manifest);
	code = cli_disk_close(cli, &disk, code);
	if (code)
		return code;
	if (manifest_write(&manifest, stdout) < 0)
		code = cli_fail(cli, "standard output: the manifest could not be written");
	manifest_done(&manifest);
	return code;
}

const struct cli_command command_hash = {
        .name = "hash",
        .operands = "FILE",
        .summary = "print a manifest: the hash of every block and of the whole",
        .details = "The manifest tells of content alone: it is the same for raw, fixed, dynamic and chained disks.",
        .groups = CLI_CHAIN | CLI_SALVAGE | CLI_FORMAT | CLI_DIRECT | CLI_PROGRESS,
        .min_operands = 1,
        .max_operands = 1,
        .options = options,
        .run = run,
};
