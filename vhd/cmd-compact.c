/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/size.h"
#include "vhd/upkeep-cli.h"

enum { KEY_FS = 256, KEY_NO_ZEROS, KEY_RATE, KEY_DETACH };

static const struct cli_option options[] = {
        {KEY_NO_ZEROS, "no-zeros", NULL, "do not read the disk to find blocks that hold only zeros"},
        {KEY_RATE, "rate", "SIZE", "read and move at most SIZE a second"},
        {KEY_DETACH, "detach", NULL, "of a disk in use: do not wait for the end (vhd job shows it)"},
        {0},
};

static void result_print(const struct upkeep_cli *work)
{
	const struct vhd_compact_result *result = &work->result.compact;
	char before[SIZE_TEXT_MAX], after[SIZE_TEXT_MAX], space_before[SIZE_TEXT_MAX], space_after[SIZE_TEXT_MAX];

	if (work->cli->json) {
		struct json json = upkeep_cli_json(work, work->path);

		json_uint(&json, "before_bytes", result->before_bytes);
		json_uint(&json, "after_bytes", result->after_bytes);
		json_uint(&json, "space_before_bytes", result->space_before_bytes);
		json_uint(&json, "space_after_bytes", result->space_after_bytes);
		json_uint(&json, "freed_blocks", result->freed_blocks);
		json_uint(&json, "moved_blocks", result->moved_blocks);
		json_object_end(&json);
		return;
	}
	printf("%s: %s, was %s; takes %s, was %s; %" PRIu32 " blocks given back, %" PRIu32 " moved\n", work->path,
	       size_text(result->after_bytes, after), size_text(result->before_bytes, before),
	       size_text(result->space_after_bytes, space_after), size_text(result->space_before_bytes, space_before),
	       result->freed_blocks, result->moved_blocks);
}

static int run(struct cli *cli)
{
	struct upkeep_cli *work = calloc(1, sizeof(*work));
	const char *arg;
	int code = CLI_OK, r;

	if (!work)
		return cli_fail(cli, "out of memory");
	work->cli = cli;
	work->request.verb = UPKEEP_COMPACT;
	for (int key; (key = cli_next(cli, &arg)) != CLI_END;) {
		if (key == KEY_NO_ZEROS)
			work->request.keep_zeros = true;
		else if (key == KEY_RATE)
			work->request.rate = cli_size(cli, "--rate", arg);
		else if (key == KEY_DETACH)
			work->detach = true;
	}
	work->path = cli->operands[0];
	r = upkeep_file_find(work->path, &work->request.file);
	if (r) {
		code = cli_fail(cli, "%s: %s", work->path, strerror(-r));
	} else {
		r = upkeep_cli_run(work);
		if (r)
			code = upkeep_cli_fail(work, r, NULL);
		else if (work->detach)
			code = upkeep_cli_detached(work);
		else
			result_print(work);
	}
	free(work);
	return code;
}

const struct cli_command command_compact = {
        .name = "compact",
        .operands = "DISK",
        .summary = "give back what a disk's file holds without need",
        .details = "Blocks that hold only zeros are given back, others moved to close gaps, and the file is cut.\n"
                   "Works on a disk in use too.",
        .groups = CLI_ALLOW_DIR | CLI_JSON | CLI_PROGRESS,
        .min_operands = 1,
        .max_operands = 1,
        .options = options,
        .run = run,
};
