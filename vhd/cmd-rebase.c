/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "common/interrupt.h"
#include "common/json.h"
#include "common/size.h"
#include "vhd/cli.h"

enum {
	KEY_PARENT_RAW = 256,
	KEY_UNSAFE,
	KEY_FORCE,
};

static const struct cli_option options[] = {
        {'b', "parent", "FILE", "the new parent; none: the disk shall stand alone"},
        {KEY_PARENT_RAW, "parent-raw", NULL, "the new parent is a raw disk, not a VHD"},
        {KEY_UNSAFE, "unsafe", NULL, "only say who the parent is; copy nothing"},
        {KEY_FORCE, "force", NULL, "with --unsafe: though the sizes differ, or disks stand on CHILD"},
        {0},
};

struct rebase {
	const char *path;
	struct vhd_rebase_options options;
	struct vhd_rebase_result result;
	struct err err;
	int code;
	_Atomic bool ended;
};

static void *work(void *arg)
{
	struct rebase *r = arg;

	r->code = vhd_rebase(r->path, &r->options, &r->result, &r->err);
	atomic_store(&r->ended, true);
	return NULL;
}

/* The work has a thread of its own, so that a signal ends it between two steps. */
static int watch(struct cli *cli, struct rebase *r)
{
	const struct timespec pause = {.tv_nsec = 20000000};
	struct progress progress;
	struct vhd_job_status status;
	pthread_t thread;
	int rc = pthread_create(&thread, NULL, work, r);

	if (rc)
		return cli_fail(cli, "no thread: %s", strerror(rc));
	progress_begin(&progress, stderr, cli->progress_mode, "bytes", 0);
	while (!atomic_load(&r->ended)) {
		nanosleep(&pause, NULL);
		if (interrupt_seen())
			vhd_job_cancel(r->options.job);
		vhd_job_status(r->options.job, &status);
		progress.total = status.total_bytes;
		progress_update(&progress, status.done_bytes);
	}
	pthread_join(thread, NULL);
	progress_end(&progress);
	return r->code ? cli_fail_err(cli, &r->err) : CLI_OK;
}

static void report(const struct cli *cli, const struct rebase *r)
{
	struct json json = json_to(stdout);
	char copied[SIZE_TEXT_MAX];

	if (!cli->json) {
		size_text(r->result.copied_bytes, copied);
		if (r->options.parent)
			printf("%s: stands on %s; %s copied\n", r->path, r->options.parent, copied);
		else
			printf("%s: stands alone; %s copied\n", r->path, copied);
		return;
	}
	json_object_begin(&json, NULL);
	json_string(&json, "file", r->path);
	json_string(&json, "parent", r->options.parent);
	json_uint(&json, "copied_bytes", r->result.copied_bytes);
	json_object_end(&json);
}

static int run(struct cli *cli)
{
	struct rebase r = {.options = {.warn = cli_warn, .user = cli}, .err = {.text = ""}};
	bool given = false;
	const char *arg;
	int code;

	for (int key; (key = cli_next(cli, &arg)) != CLI_END;) {
		switch (key) {
		case 'b':
			given = true;
			r.options.parent = strcmp(arg, "none") ? arg : NULL;
			break;
		case KEY_PARENT_RAW:
			r.options.parent_raw = true;
			break;
		case KEY_UNSAFE:
			r.options.unsafe = true;
			break;
		case KEY_FORCE:
			r.options.force = true;
			break;
		}
	}
	if (!given)
		cli_usage(cli, "who the new parent is: --parent FILE, or --parent none");
	if (r.options.parent_raw && !r.options.parent)
		cli_usage(cli, "--parent-raw needs --parent FILE");
	if (r.options.unsafe && !r.options.parent)
		cli_usage(cli, "--parent none copies what the parents hold, so it cannot be --unsafe");
	if (r.options.force && !r.options.unsafe)
		cli_usage(cli, "--force goes with --unsafe; else nothing needs it");
	r.path = cli->operands[0];
	r.options.allow_dirs = cli->allow_dirs;
	interrupt_catch();
	if (vhd_job_new(&r.options.job, &r.err))
		return cli_fail_err(cli, &r.err);
	code = watch(cli, &r);
	vhd_job_free(r.options.job);
	if (code == CLI_OK)
		report(cli, &r);
	return code;
}

const struct cli_command command_rebase = {
        .name = "rebase",
        .operands = "CHILD",
        .summary = "give a differencing disk another parent",
        .details = "The disk reads the same afterwards: what the new parent lacks is copied into it first.\n"
                   "With --parent none it becomes a dynamic disk. A file of that name is ./none.",
        .groups = CLI_ALLOW_DIR | CLI_PROGRESS | CLI_JSON,
        .min_operands = 1,
        .max_operands = 1,
        .options = options,
        .run = run,
};
