/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "common/checked.h"
#include "common/size.h"
#include "vhd/cli.h"

#define MIB (UINT64_C(1) << 20)

enum {
	KEY_BLOCK_SIZE = 256,
	KEY_AZURE,
	KEY_PARENT_RAW,
	KEY_FORCE,
};

static const struct cli_option options[] = {
        {'t', "type", "TYPE", "dynamic (default), fixed or differencing"},
        {'s', "size", "SIZE", "the disk's size (default 127G, or the parent's)"},
        {'b', "parent", "PARENT", "a differencing disk over PARENT"},
        {KEY_PARENT_RAW, "parent-raw", NULL, "PARENT is a raw disk, not a VHD (as Xen allows)"},
        {KEY_BLOCK_SIZE, "block-size", "SIZE", "of dynamic and differencing disks (default 2M)"},
        {KEY_AZURE, "azure", NULL, "fixed, and the size rounded up to whole MiB"},
        {KEY_FORCE, "force", NULL, "replace FILE if it exists"},
        {0},
};

static enum vhd_type type_parse(const struct cli *cli, const char *text)
{
	for (unsigned type = VHD_FIXED; type <= VHD_DIFFERENCING; type++)
		if (strcmp(text, vhd_type_name((enum vhd_type)type)) == 0)
			return (enum vhd_type)type;
	cli_usage(cli, "unknown type '%s'; it is dynamic, fixed or differencing", text);
}

static void size_check(const struct cli *cli, bool azure, struct vhd_create_options *create)
{
	uint64_t rounded;

	if (create->size_bytes > VHD_MAX_SIZE)
		cli_usage(cli, "--size: a VHD holds at most 2040G");
	if (create->size_bytes % BLK_SECTOR_SIZE && !azure)
		cli_usage(cli, "--size: %" PRIu64 " is no multiple of 512", create->size_bytes);
	if (!azure)
		return;
	rounded = round_up(create->size_bytes, MIB);
	if (rounded != create->size_bytes)
		cli_note(cli, "size rounded up from %" PRIu64 " to %" PRIu64 " bytes, %" PRIu64 " MiB", create->size_bytes,
		         rounded, rounded / MIB);
	create->size_bytes = rounded;
}

static int run(struct cli *cli)
{
	struct vhd_create_options create = {.warn = cli_warn, .user = cli};
	bool azure = false, size_given = false;
	struct err err = {.text = ""};
	const char *arg;
	uint64_t block_size;
	int r;

	for (int key; (key = cli_next(cli, &arg)) != CLI_END;) {
		switch (key) {
		case 't':
			create.type = type_parse(cli, arg);
			break;
		case 's':
			create.size_bytes = cli_size(cli, "--size", arg);
			size_given = true;
			break;
		case 'b':
			create.parent = arg;
			break;
		case KEY_PARENT_RAW:
			create.parent_raw = true;
			break;
		case KEY_BLOCK_SIZE:
			block_size = cli_size(cli, "--block-size", arg);
			if (block_size < 4096 || block_size > UINT64_C(1) << 31 || !is_power_of_two(block_size))
				cli_usage(cli, "--block-size: '%s' is no power of two from 4K to 2G", arg);
			create.block_size_bytes = (uint32_t)block_size;
			break;
		case KEY_AZURE:
			azure = true;
			break;
		case KEY_FORCE:
			create.overwrite = true;
			break;
		}
	}
	if (size_given && create.size_bytes == 0)
		cli_usage(cli, "--size: a disk of no bytes is none");
	if (create.parent && create.type && create.type != VHD_DIFFERENCING)
		cli_usage(cli, "--parent makes a differencing disk, not a %s one", vhd_type_name(create.type));
	if (create.type == VHD_DIFFERENCING && !create.parent)
		cli_usage(cli, "a differencing disk needs its parent: --parent PARENT");
	if (create.parent_raw && !create.parent)
		cli_usage(cli, "--parent-raw needs --parent");
	if (azure && (create.parent || (create.type && create.type != VHD_FIXED)))
		cli_usage(cli, "--azure makes a fixed disk; nothing else is accepted there");
	if (azure)
		create.type = VHD_FIXED;
	if (create.type == VHD_FIXED && create.block_size_bytes)
		cli_usage(cli, "--block-size: a fixed disk has no blocks");
	if (!create.parent && !size_given)
		create.size_bytes = VHD_DEFAULT_SIZE;
	size_check(cli, azure, &create);
	create.allow_dirs = cli->allow_dirs;
	r = vhd_create(cli->operands[0], &create, &err);
	if (r == -EEXIST)
		return cli_fail(cli, "%s; --force replaces it", err.text);
	return r ? cli_fail_err(cli, &err) : CLI_OK;
}

const struct cli_command command_create = {
        .name = "create",
        .operands = "FILE",
        .summary = "make an empty disk, or a child of another",
        .groups = CLI_ALLOW_DIR,
        .min_operands = 1,
        .max_operands = 1,
        .options = options,
        .run = run,
};
