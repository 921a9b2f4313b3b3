/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <string.h>

#include "common/checked.h"
#include "common/interrupt.h"
#include "vhd/copy-disk.h"

enum {
	KEY_BLOCK_SIZE = 256,
	KEY_FORCE,
	KEY_KEEP_UUID,
};

static const struct cli_option options[] = {
        {'O', "output", "FORMAT", "what DST becomes: dynamic (default), fixed or raw"},
        {KEY_BLOCK_SIZE, "block-size", "SIZE", "of a dynamic DST (default 2M)"},
        {KEY_FORCE, "force", NULL, "replace DST if it exists"},
        {KEY_KEEP_UUID, "keep-uuid", NULL, "give DST the Unique Id of SRC: for 'vhd import' it is SRC's copy"},
        {0},
};

static void output_parse(struct copy_disk *copy, const char *text)
{
	copy->to_raw = strcmp(text, "raw") == 0;
	if (strcmp(text, "fixed") == 0)
		copy->type = VHD_FIXED;
	else if (strcmp(text, "dynamic") == 0)
		copy->type = VHD_DYNAMIC;
	else if (!copy->to_raw)
		cli_usage(copy->cli, "unknown output format '%s'; it is raw, fixed or dynamic", text);
}

static int run(struct cli *cli)
{
	struct copy_disk copy = {.cli = cli, .type = VHD_DYNAMIC};
	struct cli_disk source;
	uint64_t block_size;
	const char *arg;
	int code;

	for (int key; (key = cli_next(cli, &arg)) != CLI_END;) {
		switch (key) {
		case 'O':
			output_parse(&copy, arg);
			break;
		case KEY_BLOCK_SIZE:
			block_size = cli_size(cli, "--block-size", arg);
			if (block_size < 4096 || block_size > UINT64_C(1) << 31 || !is_power_of_two(block_size))
				cli_usage(cli, "--block-size: '%s' is no power of two from 4K to 2G", arg);
			copy.block_size = (uint32_t)block_size;
			break;
		case KEY_FORCE:
			copy.force = true;
			break;
		case KEY_KEEP_UUID:
			copy.keep_uuid = true;
			break;
		}
	}
	if (copy.keep_uuid && (cli->raw || copy.to_raw))
		cli_usage(cli, "--keep-uuid: a raw disk has no Unique Id");
	if (copy.block_size && (copy.to_raw || copy.type != VHD_DYNAMIC))
		cli_usage(cli, "--block-size: only a dynamic disk has blocks");
	copy.source = &source;
	copy.target_path = cli->operands[1];
	interrupt_catch();
	code = cli_disk_open(cli, cli->operands[0], cli->raw, false, &source);
	if (code == CLI_OK) {
		code = copy_disk_run(&copy);
		code = cli_disk_close(cli, &source, code);
	}
	return code;
}

const struct cli_command command_convert = {
        .name = "convert",
        .operands = "SRC DST",
        .summary = "copy a disk into a new file of another kind",
        .details = "A chain becomes one disk. DST is complete or not there.",
        .groups = CLI_CHAIN | CLI_SALVAGE | CLI_FORMAT | CLI_DIRECT | CLI_PROGRESS,
        .min_operands = 2,
        .max_operands = 2,
        .options = options,
        .run = run,
};
