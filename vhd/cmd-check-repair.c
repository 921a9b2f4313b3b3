/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vhd check --repair and --undo-repair. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/interrupt.h"
#include "common/json.h"
#include "common/size.h"
#include "vhd/cmd-check.h"

struct loss {
	uint64_t offset, length;
	bool doubtful;
	char *sentence; /* owned */
};

struct repairing {
	const struct cli *cli;
	struct json json;
	struct progress progress;
	struct loss *losses; /* owned; JSON has them in an array of their own */
	size_t loss_count;
	bool out_of_memory;
};

static const char *state_text(enum vhd_repair_state state)
{
	switch (state) {
	case VHD_REPAIR_PLANNED:
		return "planned";
	case VHD_REPAIR_DONE:
		return "done";
	default:
		return "refused";
	}
}

static void step_take(void *user, const struct vhd_repair_step *step)
{
	struct repairing *repairing = user;

	if (!repairing->cli->json) {
		printf("%s: %s: %s [%s, offset %" PRIu64 "]\n", step->path, state_text(step->state), step->sentence, step->code,
		       step->offset);
		return;
	}
	json_object_begin(&repairing->json, NULL);
	json_string(&repairing->json, "state", state_text(step->state));
	json_string(&repairing->json, "code", step->code);
	json_string(&repairing->json, "file", step->path);
	json_uint(&repairing->json, "offset", step->offset);
	json_string(&repairing->json, "sentence", step->sentence);
	json_object_end(&repairing->json);
}

static void loss_take(void *user, const struct vhd_repair_loss *loss)
{
	struct repairing *repairing = user;
	struct loss *grown;

	if (!repairing->cli->json) {
		printf("%s: %s: bytes %" PRIu64 " to %" PRIu64 " of the disk: %s\n", repairing->cli->operands[0],
		       loss->doubtful ? "doubtful" : "lost", loss->offset, loss->offset + loss->length - 1, loss->sentence);
		return;
	}
	grown = reallocarray(repairing->losses, repairing->loss_count + 1, sizeof(*grown));
	if (!grown) {
		repairing->out_of_memory = true;
		return;
	}
	repairing->losses = grown;
	grown[repairing->loss_count++] = (struct loss){loss->offset, loss->length, loss->doubtful, strdup(loss->sentence)};
}

/* An interrupted repair can be run again; one that only plans or checks has changed nothing. */
static void progress_take(void *user, uint64_t done, uint64_t total)
{
	struct repairing *repairing = user;

	if (interrupt_seen()) {
		progress_end(&repairing->progress);
		exit(cli_fail(repairing->cli, "%s: interrupted: run it again", repairing->cli->operands[0]));
	}
	repairing->progress.total = total;
	progress_update(&repairing->progress, done);
}

static void losses_json(struct repairing *repairing)
{
	struct json *json = &repairing->json;

	json_array_begin(json, "losses");
	for (size_t i = 0; i < repairing->loss_count; i++) {
		const struct loss *loss = &repairing->losses[i];

		json_object_begin(json, NULL);
		json_string(json, "kind", loss->doubtful ? "doubtful" : "lost");
		json_uint(json, "offset", loss->offset);
		json_uint(json, "length", loss->length);
		json_string(json, "sentence", loss->sentence);
		json_object_end(json);
	}
	json_array_end(json);
}

static const char *verdict_text(int r, const struct vhd_repair_result *result, bool dry_run)
{
	if (r == VHD_E_CORRUPT)
		return "damaged";
	if (r)
		return "failed";
	if (result->steps == 0)
		return "clean";
	return dry_run ? "repairable" : "repaired";
}

static void result_json(struct repairing *repairing, int r, const struct vhd_repair_result *result, bool dry_run,
                        const struct err *err)
{
	struct json *json = &repairing->json;

	json_array_end(json);
	losses_json(repairing);
	json_string(json, "result", verdict_text(r, result, dry_run));
	json_string(json, "error", r ? err->text : NULL);
	json_bool(json, "dry_run", dry_run);
	json_string(json, "side_file", result->side_file[0] ? result->side_file : NULL);
	json_uint(json, "changed_bytes", result->changed_bytes);
	json_uint(json, "lost_bytes", result->lost_bytes);
	json_uint(json, "doubtful_bytes", result->doubtful_bytes);
	json_uint(json, "refused", result->refused);
	json_uint(json, "notes", result->after.notes);
	json_uint(json, "warnings", result->after.warnings);
	json_uint(json, "damages", result->after.damages);
	json_object_end(json);
}

static void result_print(const struct cli *cli, int r, const struct vhd_repair_result *result, bool dry_run)
{
	char changed[SIZE_TEXT_MAX], lost[SIZE_TEXT_MAX], doubtful[SIZE_TEXT_MAX];

	printf("%s: %s", cli->operands[0], verdict_text(r, result, dry_run));
	if (result->changed_bytes)
		printf("; %s %s", size_text(result->changed_bytes, changed), dry_run ? "would change" : "changed");
	if (result->lost_bytes)
		printf("; %s of the disk lost", size_text(result->lost_bytes, lost));
	if (result->doubtful_bytes)
		printf("; %s doubtful", size_text(result->doubtful_bytes, doubtful));
	if (result->refused)
		printf("; %u refused", result->refused);
	if (dry_run)
		printf("; nothing was changed");
	putchar('\n');
	if (result->side_file[0])
		printf("%s: what was there before is in %s; vhd check --undo-repair=%s %s puts it back\n", cli->operands[0],
		       result->side_file, result->side_file, cli->operands[0]);
}

int check_repair(struct cli *cli, const struct vhd_repair_options *asked)
{
	struct repairing repairing = {.cli = cli, .json = json_to(stdout)};
	struct vhd_repair_options options = *asked;
	struct vhd_repair_result result;
	struct err err = {.text = ""};
	int r;

	options.parent = cli->parent;
	options.parent_raw = cli->parent_raw;
	options.allow_dirs = cli->allow_dirs;
	options.step = step_take;
	options.loss = loss_take;
	options.progress = progress_take;
	options.user = &repairing;
	interrupt_catch();
	progress_begin(&repairing.progress, stderr, cli->progress_mode, "", 0);
	if (cli->json) {
		json_object_begin(&repairing.json, NULL);
		json_string(&repairing.json, "file", cli->operands[0]);
		json_array_begin(&repairing.json, "steps");
	}
	r = vhd_repair(cli->operands[0], &options, &result, &err);
	progress_end(&repairing.progress);
	if (r == 0 && repairing.out_of_memory)
		r = err_set(&err, -1, "no memory to list what was lost");
	if (cli->json)
		result_json(&repairing, r, &result, options.dry_run, &err);
	else if (r == 0 || r == VHD_E_CORRUPT)
		result_print(cli, r, &result, options.dry_run);
	for (size_t i = 0; i < repairing.loss_count; i++)
		free(repairing.losses[i].sentence);
	free(repairing.losses);
	if (r && r != VHD_E_CORRUPT)
		return cli_fail_err(cli, &err);
	return r ? CLI_NO : CLI_OK;
}

int check_undo(struct cli *cli, const char *side_file, bool force)
{
	struct err err = {.text = ""};
	int r = vhd_repair_undo(cli->operands[0], side_file, force, &err);

	if (r)
		return cli_fail_err(cli, &err);
	printf("%s: as it was before the repair that wrote %s\n", cli->operands[0], side_file);
	return CLI_OK;
}
