/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/interrupt.h"
#include "common/size.h"
#include "vhd/copy-disk.h"
#include "vhd/upkeep-cli.h"

enum { KEY_INTO = 256, KEY_FORCE, KEY_KEEP, KEY_RENAME, KEY_RATE, KEY_DETACH };

static const struct cli_option options[] = {
        {KEY_INTO, "into", "ANCESTOR", "merge CHILD and all between into this one (default: the parent)"},
        {'o', "output", "NEW", "make a disk NEW of all that CHILD shows; nothing else changes"},
        {KEY_FORCE, "force", NULL, "though other disks stand on what changes, and break; replace NEW"},
        {KEY_KEEP, "keep", NULL, "leave the merged files where they are"},
        {KEY_RENAME, "rename", NULL, "what CHILD was merged into gets CHILD's name"},
        {KEY_RATE, "rate", "SIZE", "move at most SIZE a second"},
        {KEY_DETACH, "detach", NULL, "of a disk in use: do not wait for the end (vhd job shows it)"},
        {0},
};

/* The merged disk has the child's name: asked for, or because a process that has it open knows it by that. */
static bool renamed(const struct upkeep_cli *work, const char *child)
{
	struct upkeep_file before = work->request.file, now;

	return work->request.rename || (upkeep_file_find(child, &now) == 0 && !upkeep_file_same(before, now));
}

static void result_print(const struct upkeep_cli *work, const char *child)
{
	const struct upkeep_result *result = &work->result;
	char merged[SIZE_TEXT_MAX], written[SIZE_TEXT_MAX];

	if (work->cli->json) {
		struct json json = upkeep_cli_json(work, child);

		json_string(&json, "into", result->path);
		json_uint(&json, "merged_layers", result->merged_layers);
		json_uint(&json, "merged_bytes", result->merge.merged_bytes);
		json_uint(&json, "written_bytes", result->merge.written_bytes);
		json_uint(&json, "relinked", result->relinked);
		json_bool(&json, "removed", result->removed);
		json_object_end(&json);
		return;
	}
	printf("%s: merged %s into %s, %s written", child, size_text(result->merge.merged_bytes, merged), result->path,
	       size_text(result->merge.written_bytes, written));
	if (result->relinked)
		printf("; other disks that stood on it stand on that now: %u", result->relinked);
	if (!result->removed)
		printf("; what was merged stays where it is%s\n", work->request.keep ? ", and should not be used any more" : "");
	else if (renamed(work, child))
		puts("; what it was merged into has its name now");
	else if (result->merged_layers == 1)
		puts("; it is removed");
	else
		printf("; it and the %u between are removed\n", result->merged_layers - 1);
}

/* Whether CHILD's file is in the chain of the disk `path`, below it. */
static bool stands_on(struct cli *cli, const char *path, struct upkeep_file child)
{
	const struct vhd_open_options open = {.allow_dirs = cli->allow_dirs};
	struct upkeep_layers layers = {0};
	struct vhd *vhd;
	bool found = false;

	if (vhd_open(path, &open, &vhd, NULL))
		return false;
	upkeep_layers_read(&upkeep_operations, vhd, &layers);
	for (unsigned i = 1; i < layers.count; i++)
		found = found || upkeep_file_same(layers.files[i], child);
	vhd_close(vhd, NULL);
	return found;
}

/*
 * The disk to open, so that CHILD is in its chain: CHILD, if nothing stands on it, else what does. Who cannot look into
 * it learns why when it is opened. `ret` holds PATH_MAX bytes.
 */
static void disk_choose(struct upkeep_cli *work, const char *child, char *ret)
{
	const struct vhd_open_options alone = {.flags = VHD_OPEN_NO_PARENTS};
	struct children children = {0};
	struct vhd_info info;
	struct vhd *vhd;

	snprintf(ret, PATH_MAX, "%s", child);
	if (vhd_open(child, &alone, &vhd, NULL))
		return;
	vhd_layer_info(vhd, 0, &info);
	if (upkeep_operations.children_find(&info, &children, NULL) == 0) {
		for (unsigned i = 0; i < children.count; i++) {
			/* One that was merged into CHILD comes first by itself: opening CHILD says so. */
			if (children.merged[i] || !stands_on(work->cli, children.paths[i], work->request.file))
				continue;
			snprintf(ret, PATH_MAX, "%s", children.paths[i]);
			break;
		}
		children_done(&children);
	}
	vhd_close(vhd, NULL);
}

static int merge(struct upkeep_cli *work, const char *child, const char *into)
{
	char disk[PATH_MAX];
	int r = upkeep_file_find(child, &work->request.file);

	if (r)
		return cli_fail(work->cli, "%s: %s", child, strerror(-r));
	if (into && (r = upkeep_file_find(into, &work->request.into)))
		return cli_fail(work->cli, "%s: %s", into, strerror(-r));
	disk_choose(work, child, disk);
	work->path = disk;
	r = upkeep_cli_run(work);
	if (r)
		return upkeep_cli_fail(work, r, "--force merges all the same, and breaks them");
	if (work->detach)
		return upkeep_cli_detached(work);
	result_print(work, child);
	return CLI_OK;
}

static void flattened_print(struct cli *cli, const struct copy_disk *copy, unsigned layers)
{
	char text[SIZE_TEXT_MAX];

	if (cli->json) {
		struct json json = json_to(stdout);

		json_object_begin(&json, NULL);
		json_string(&json, "file", copy->source->path);
		json_null(&json, "online");
		json_string(&json, "into", copy->target_path);
		json_uint(&json, "merged_layers", layers);
		json_uint(&json, "merged_bytes", copy->copied_bytes);
		json_uint(&json, "written_bytes", copy->file_bytes);
		json_uint(&json, "relinked", 0);
		json_bool(&json, "removed", false);
		json_object_end(&json);
		return;
	}
	printf("%s: all that it shows is in %s too, a disk of its own: %s, from %u file%s\n", copy->source->path,
	       copy->target_path, size_text(copy->file_bytes, text), layers, layers == 1 ? "" : "s");
}

/* Into a file of its own. It is only read, so a layer that a disk in use stands on will do. */
static int flatten(struct cli *cli, const char *child, const char *output, bool force)
{
	struct cli_disk source;
	struct copy_disk copy = {
	        .cli = cli,
	        .source = &source,
	        .target_path = output,
	        .type = VHD_DYNAMIC,
	        .force = force,
	};
	struct vhd_info info;
	unsigned layers;
	int code;

	interrupt_catch();
	code = cli_disk_open(cli, child, false, false, &source);
	if (code)
		return code;
	vhd_layer_info(source.vhd, 0, &info);
	copy.block_size = info.block_size_bytes;
	layers = vhd_layer_count(source.vhd);
	code = cli_disk_close(cli, &source, copy_disk_run(&copy));
	if (code == CLI_OK)
		flattened_print(cli, &copy, layers);
	return code;
}

static int run(struct cli *cli)
{
	struct upkeep_cli *work = calloc(1, sizeof(*work));
	const char *arg, *into = NULL, *output = NULL;
	int code;

	if (!work)
		return cli_fail(cli, "out of memory");
	work->cli = cli;
	work->request.verb = UPKEEP_MERGE;
	for (int key; (key = cli_next(cli, &arg)) != CLI_END;) {
		switch (key) {
		case KEY_INTO:
			into = arg;
			break;
		case 'o':
			output = arg;
			break;
		case KEY_FORCE:
			work->request.force = true;
			break;
		case KEY_KEEP:
			work->request.keep = true;
			break;
		case KEY_RENAME:
			work->request.rename = true;
			break;
		case KEY_RATE:
			work->request.rate = cli_size(cli, "--rate", arg);
			break;
		case KEY_DETACH:
			work->detach = true;
			break;
		}
	}
	if (work->request.keep && work->request.rename)
		cli_usage(cli, "--keep and --rename exclude each other");
	if (output && (into || work->request.keep || work->request.rename || work->request.rate || work->detach))
		cli_usage(cli, "--output changes nothing but NEW: with it there is only --force");
	code = output ? flatten(cli, cli->operands[0], output, work->request.force) : merge(work, cli->operands[0], into);
	free(work);
	return code;
}

const struct cli_command command_merge = {
        .name = "merge",
        .operands = "CHILD",
        .summary = "move what a child holds into its parent",
        .details = "The parent then holds what CHILD showed; CHILD is removed. It keeps its own name, unless --rename is\n"
                   "given, or CHILD is the disk of a mount or VM, which goes on under CHILD's name. Works on disks in\n"
                   "use too. Interrupted at any moment, the same command goes on from there.\n"
                   "With --output everything stays as it is, and NEW is complete or not there.",
        .groups = CLI_ALLOW_DIR | CLI_JSON | CLI_PROGRESS,
        .min_operands = 1,
        .max_operands = 1,
        .options = options,
        .run = run,
};
