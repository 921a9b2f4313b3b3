/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/json.h"
#include "common/size.h"
#include "vhd/cli.h"
#include "vhd/control-client.h"

/* Of the processes that have the file open, the one that writes to it: jobs are there. */
static int owner_find(struct cli *cli, const char *path, struct control_owner *ret)
{
	struct control_owner owners[CONTROL_OWNERS_MAX];
	struct upkeep_file file;
	int count, chosen = 0, r = upkeep_file_find(path, &file);

	if (r)
		return cli_fail(cli, "%s: %s", path, strerror(-r));
	count = control_find(file, -1, owners);
	if (count <= 0)
		return cli_fail(cli, "%s: no process that would tell of its jobs has it open%s", path,
		                geteuid() == 0 ? "" : " for this user");
	for (int i = 0; i < count; i++)
		if (owners[i].writable && !owners[chosen].writable)
			chosen = i;
	*ret = owners[chosen];
	for (int i = 0; i < count; i++)
		if (i != chosen)
			control_owner_close(&owners[i]);
	return CLI_OK;
}

static void job_json(struct json *json, const struct control_job *job)
{
	json_object_begin(json, NULL);
	json_uint(json, "job", job->id);
	json_string(json, "verb", upkeep_verb_name(job->verb));
	json_string(json, "state", job->state);
	if (!job->ended) {
		json_uint(json, "done_bytes", job->done_bytes);
		json_uint(json, "total_bytes", job->total_bytes);
		json_uint(json, "rate", job->rate);
	}
	json_string(json, "error", job->err.text[0] ? job->err.text : NULL);
	json_object_end(json);
}

static void job_print(const struct control_job *job)
{
	char done[SIZE_TEXT_MAX], total[SIZE_TEXT_MAX], rate[SIZE_TEXT_MAX];

	printf("job %" PRIu64 ": %s, %s", job->id, upkeep_verb_name(job->verb), job->state);
	if (!job->ended && job->total_bytes)
		printf(", %s of %s", size_text(job->done_bytes, done), size_text(job->total_bytes, total));
	if (!job->ended && job->rate)
		printf(", at most %s a second", size_text(job->rate, rate));
	if (job->err.text[0])
		printf(": %s", job->err.text);
	putchar('\n');
}

static int list(struct cli *cli, struct control_owner *owner)
{
	struct control_job jobs[CONTROL_JOBS_MAX];
	struct err err = {.text = ""};
	int count = control_jobs(owner, jobs, &err);

	if (count < 0)
		return cli_fail_err(cli, &err);
	if (cli->json) {
		struct json json = json_to(stdout);

		json_object_begin(&json, NULL);
		json_string(&json, "file", cli->operands[0]);
		json_string(&json, "program", owner->program);
		json_uint(&json, "pid", (uint64_t)owner->pid);
		json_string(&json, "disk", owner->path);
		json_array_begin(&json, "jobs");
		for (int i = 0; i < count; i++)
			job_json(&json, &jobs[i]);
		json_array_end(&json);
		json_object_end(&json);
		return CLI_OK;
	}
	if (count == 0)
		printf("%s: no job; it is open in %s (pid %d)\n", cli->operands[0], owner->program, (int)owner->pid);
	for (int i = 0; i < count; i++)
		job_print(&jobs[i]);
	return CLI_OK;
}

/* false: `word` is none. */
static bool steering_parse(const char *word, enum control_steering *ret)
{
	static const char *const words[] = {
	        [CONTROL_PAUSE] = "pause",
	        [CONTROL_RESUME] = "resume",
	        [CONTROL_CANCEL] = "cancel",
	        [CONTROL_RATE] = "rate",
	};

	for (unsigned i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		if (strcmp(word, words[i]) == 0) {
			*ret = (enum control_steering)i;
			return true;
		}
	}
	return false;
}

static int run(struct cli *cli)
{
	enum control_steering how = CONTROL_PAUSE;
	bool listing = true;
	struct control_owner owner;
	struct err err = {.text = ""};
	uint64_t rate = 0;
	int code;

	cli_no_options(cli);
	if (cli->operand_count > 1 && strcmp(cli->operands[1], "list") != 0) {
		listing = false;
		if (!steering_parse(cli->operands[1], &how))
			cli_usage(cli, "'%s' is none of list, pause, resume, cancel, rate", cli->operands[1]);
	}
	if ((cli->operand_count == 3) != (!listing && how == CONTROL_RATE))
		cli_usage(cli, "rate takes how many bytes a second, 0 for no limit; the others take nothing");
	if (cli->operand_count == 3)
		rate = cli_size(cli, "rate", cli->operands[2]);
	code = owner_find(cli, cli->operands[0], &owner);
	if (code)
		return code;
	if (listing)
		code = list(cli, &owner);
	else if (control_steer(&owner, how, 0, rate, &err))
		code = cli_fail(cli, "%s: %s", cli->operands[0], err.text);
	control_owner_close(&owner);
	return code;
}

const struct cli_command command_job = {
        .name = "job",
        .operands = "DISK [list|pause|resume|cancel|rate N]",
        .summary = "look at or steer the upkeep of a disk in use",
        .details = "list (the default) shows the job that is worked on and the last one before. The others are about the\n"
                   "job that is worked on; rate limits it to N bytes a second, 0 for no limit.",
        .groups = CLI_JSON,
        .min_operands = 1,
        .max_operands = 3,
        .run = run,
};
