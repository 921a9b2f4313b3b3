/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <inttypes.h>
#include <stdlib.h>

#include "common/interrupt.h"
#include "common/json.h"
#include "common/size.h"
#include "vhd/cmd-check.h"

enum { KEY_ONE_FILE = 256, KEY_REPAIR, KEY_DRY_RUN, KEY_FORCE, KEY_CLEAR_SAVED, KEY_SIDE_FILE, KEY_UNDO };

static const struct cli_option options[] = {
        {KEY_ONE_FILE, "one-file", NULL, "leave the parents out"},
        {KEY_REPAIR, "repair", NULL, "repair FILE (its parents never); first save what will be changed"},
        {KEY_DRY_RUN, "dry-run", NULL, "with --repair: show what would be done, change nothing"},
        {KEY_FORCE, "force", NULL, "with --repair: do what rests on your word (see vhd(1))"},
        {KEY_CLEAR_SAVED, "clear-saved-state", NULL, "with --repair: take a stale saved-state mark away"},
        {KEY_SIDE_FILE, "side-file", "NEW", "with --repair: save to NEW, not to FILE.repair"},
        {KEY_UNDO, "undo-repair", "SIDEFILE", "put back what a repair saved in SIDEFILE"},
        {0},
};

struct check {
	const struct cli *cli;
	struct json json;
	struct progress progress;
};

static const char *severity_text(enum vhd_severity severity)
{
	switch (severity) {
	case VHD_NOTE:
		return "note";
	case VHD_WARNING:
		return "warning";
	default:
		return "damage";
	}
}

static void defect_take(void *user, const struct vhd_defect *defect)
{
	struct check *check = user;

	if (!check->cli->json) {
		printf("%s: %s: %s [%s, offset %" PRIu64 "]\n", defect->path, severity_text(defect->severity),
		       defect->sentence, defect->code, defect->offset);
		return;
	}
	json_object_begin(&check->json, NULL);
	json_string(&check->json, "severity", severity_text(defect->severity));
	json_string(&check->json, "code", defect->code);
	json_string(&check->json, "file", defect->path);
	json_uint(&check->json, "offset", defect->offset);
	json_string(&check->json, "sentence", defect->sentence);
	json_object_end(&check->json);
}

/* A check changes nothing, so an interrupted one has nothing to clean up. */
static void progress_take(void *user, uint64_t done, uint64_t total)
{
	struct check *check = user;

	if (interrupt_seen()) {
		progress_end(&check->progress);
		exit(cli_fail(check->cli, "%s: interrupted", check->cli->operands[0]));
	}
	check->progress.total = total;
	progress_update(&check->progress, done);
}

static void result_json(struct json *json, const char *verdict, const struct vhd_check_result *result,
                        const char *error)
{
	json_array_end(json);
	json_string(json, "result", verdict);
	json_string(json, "error", error);
	json_uint(json, "layers", result->layers);
	json_uint(json, "blocks", result->blocks);
	json_uint(json, "allocated_blocks", result->allocated_blocks);
	json_uint(json, "unused_bytes", result->unused_bytes);
	json_uint(json, "notes", result->notes);
	json_uint(json, "warnings", result->warnings);
	json_uint(json, "damages", result->damages);
	json_object_end(json);
}

static const char *plural(unsigned n)
{
	return n == 1 ? "" : "s";
}

static void result_print(const char *path, const struct vhd_check_result *result, bool damaged)
{
	char unused[SIZE_TEXT_MAX];

	printf("%s: %s: %u file%s, %" PRIu64 " of %" PRIu64 " blocks allocated, %s unused; "
	       "%u damage%s, %u warning%s, %u note%s\n",
	       path, damaged ? "damaged" : "clean", result->layers, plural(result->layers),
	       result->allocated_blocks, result->blocks, size_text(result->unused_bytes, unused), result->damages,
	       plural(result->damages), result->warnings, plural(result->warnings), result->notes, plural(result->notes));
}

static int run(struct cli *cli)
{
	struct check check = {.cli = cli, .json = json_to(stdout)};
	struct vhd_check_options check_options = {.defect = defect_take, .progress = progress_take, .user = &check};
	struct vhd_repair_options repair_options = {.dry_run = false};
	struct vhd_check_result result = {0};
	const char *arg, *undo = NULL;
	struct err err = {.text = ""};
	bool repair = false;
	int r;

	for (int key; (key = cli_next(cli, &arg)) != CLI_END;) {
		if (key == KEY_ONE_FILE)
			check_options.one_file = repair_options.one_file = true;
		else if (key == KEY_REPAIR)
			repair = true;
		else if (key == KEY_DRY_RUN)
			repair_options.dry_run = true;
		else if (key == KEY_FORCE)
			repair_options.force = true;
		else if (key == KEY_CLEAR_SAVED)
			repair_options.clear_saved_state = true;
		else if (key == KEY_SIDE_FILE)
			repair_options.side_file = arg;
		else if (key == KEY_UNDO)
			undo = arg;
	}
	if (undo && (repair || repair_options.dry_run || repair_options.clear_saved_state || repair_options.side_file ||
	             cli->json))
		cli_usage(cli, "--undo-repair goes with --force only");
	if (!repair && !undo && repair_options.force)
		cli_usage(cli, "--force needs --repair or --undo-repair");
	if (!repair && (repair_options.dry_run || repair_options.clear_saved_state || repair_options.side_file))
		cli_usage(cli, "--dry-run, --clear-saved-state and --side-file need --repair");
	if (undo)
		return check_undo(cli, undo, repair_options.force);
	if (repair)
		return check_repair(cli, &repair_options);
	check_options.parent = cli->parent;
	check_options.parent_raw = cli->parent_raw;
	check_options.allow_dirs = cli->allow_dirs;
	interrupt_catch();
	progress_begin(&check.progress, stderr, cli->progress_mode, "blocks", 0);
	if (cli->json) {
		json_object_begin(&check.json, NULL);
		json_string(&check.json, "file", cli->operands[0]);
		json_array_begin(&check.json, "defects");
	}
	r = vhd_check(cli->operands[0], &check_options, &result, &err);
	progress_end(&check.progress);
	if (r != 0 && r != VHD_E_CORRUPT) {
		if (cli->json)
			result_json(&check.json, "unchecked", &result, err.text);
		return cli_fail_err(cli, &err);
	}
	if (cli->json)
		result_json(&check.json, r ? "damaged" : "clean", &result, NULL);
	else
		result_print(cli->operands[0], &result, r != 0);
	return r ? CLI_NO : CLI_OK;
}

const struct cli_command command_check = {
        .name = "check",
        .operands = "FILE",
        .summary = "look for damage; change nothing, or repair it",
        .details = "Exit status 0: no damage (there may be notes and warnings); 3: damage; 1: could not check.\n"
                   "With --repair, 0: no damage is left; 3: damage is left that it refused to touch.",
        .groups = CLI_CHAIN | CLI_JSON | CLI_PROGRESS,
        .min_operands = 1,
        .max_operands = 1,
        .options = options,
        .run = run,
};
