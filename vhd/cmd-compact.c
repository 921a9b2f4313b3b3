/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/interrupt.h"
#include "common/size.h"
#include "vhd/fs-unused.h"
#include "vhd/upkeep-cli.h"

enum { KEY_FS = 256, KEY_NO_ZEROS, KEY_RATE, KEY_DETACH };

static const struct cli_option options[] = {
        {KEY_FS, "fs", NULL, "also give back what its file systems (ext2 to ext4, NTFS) do not use"},
        {KEY_NO_ZEROS, "no-zeros", NULL, "do not read the disk to find blocks that hold only zeros"},
        {KEY_RATE, "rate", "SIZE", "read and move at most SIZE a second"},
        {KEY_DETACH, "detach", NULL, "of a disk in use: do not wait for the end (vhd job shows it)"},
        {0},
};

struct compact {
	struct upkeep_cli work;
	bool fs;
	struct fs_unused unused; /* fs: what was found before the disk was opened */
};

static uint64_t unused_bytes(const struct compact *compact)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < compact->unused.volume_count; i++)
		bytes += compact->unused.volumes[i].unused;
	return bytes;
}

static void result_print(const struct compact *compact)
{
	const struct upkeep_cli *work = &compact->work;
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
		if (compact->fs) {
			json_uint(&json, "file_systems", compact->unused.volume_count);
			json_uint(&json, "fs_unused_bytes", unused_bytes(compact));
		}
		json_object_end(&json);
		return;
	}
	printf("%s: %s, was %s; takes %s, was %s; %" PRIu32 " blocks given back, %" PRIu32 " moved\n", work->path,
	       size_text(result->after_bytes, after), size_text(result->before_bytes, before),
	       size_text(result->space_after_bytes, space_after), size_text(result->space_before_bytes, space_before),
	       result->freed_blocks, result->moved_blocks);
	if (compact->fs)
		printf("%s: %u file system%s, %s not used by files\n", work->path, compact->unused.volume_count,
		       compact->unused.volume_count == 1 ? "" : "s", size_text(unused_bytes(compact), after));
}

static void note(void *user, const char *sentence)
{
	cli_note(user, "%s", sentence);
}

/* Who writes to a disk keeps readers out: then the helper would fail, and say less of why. */
static int readable(struct upkeep_cli *work)
{
	const struct vhd_open_options reading = {.allow_dirs = work->cli->allow_dirs};
	struct err err = {.text = ""};
	struct vhd *vhd;
	int r = vhd_open(work->path, &reading, &vhd, &err);

	if (r == 0)
		r = vhd_close(vhd, &err);
	if (r == VHD_E_IN_USE)
		return err_set(&work->err, r, "%s; %s", err.text, work->only_here);
	work->err = err;
	return r;
}

static int unused_find(struct compact *compact)
{
	struct upkeep_cli *work = &compact->work;
	const struct fs_unused_options how = {.allow_dirs = work->cli->allow_dirs, .note = note, .user = work->cli};
	int r;

	work->only_here = "--fs is for disks that nobody uses; of one in use, fstrim (in Windows: Optimize-Volume -ReTrim) "
	                  "inside it gives back the same";
	r = readable(work);
	if (r)
		return r;
	interrupt_catch();
	r = fs_unused_read(work->path, &how, &compact->unused, &work->err);
	work->request.unused = compact->unused.extents;
	work->request.unused_count = compact->unused.extent_count;
	return r;
}

static int opened(struct upkeep_cli *work, struct vhd *vhd, struct err *err)
{
	return fs_unused_still_holds(&((struct compact *)work)->unused, vhd, err);
}

static int compact_run(struct compact *compact)
{
	struct upkeep_cli *work = &compact->work;
	int r = upkeep_file_find(work->path, &work->request.file);

	if (r)
		return cli_fail(work->cli, "%s: %s", work->path, strerror(-r));
	if (compact->fs) {
		work->opened = opened;
		r = unused_find(compact);
	}
	if (!r)
		r = upkeep_cli_run(work);
	if (r == VHD_E_HAS_CHILDREN)
		return cli_fail(work->cli, "%s: differencing disks stand on it, and what its file systems do not use, theirs "
		                "may: compact it without --fs", work->path);
	if (r)
		return upkeep_cli_fail(work, r, NULL);
	if (work->detach)
		return upkeep_cli_detached(work);
	result_print(compact);
	return CLI_OK;
}

static int run(struct cli *cli)
{
	struct compact *compact = calloc(1, sizeof(*compact));
	const char *arg;
	int code;

	if (!compact)
		return cli_fail(cli, "out of memory");
	compact->work.cli = cli;
	compact->work.request.verb = UPKEEP_COMPACT;
	for (int key; (key = cli_next(cli, &arg)) != CLI_END;) {
		if (key == KEY_FS)
			compact->fs = true;
		else if (key == KEY_NO_ZEROS)
			compact->work.request.keep_zeros = true;
		else if (key == KEY_RATE)
			compact->work.request.rate = cli_size(cli, "--rate", arg);
		else if (key == KEY_DETACH)
			compact->work.detach = true;
	}
	if (compact->fs && compact->work.detach)
		cli_usage(cli, "--fs is for disks that nobody uses, and --detach for disks in use");
	compact->work.path = cli->operands[0];
	code = compact_run(compact);
	fs_unused_done(&compact->unused);
	free(compact);
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
