/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <stdlib.h>
#include <string.h>

#include "common/size.h"
#include "vhd/upkeep-cli.h"

enum { KEY_FORCE = 256, KEY_RATE };

static const struct cli_option options[] = {
        {KEY_FORCE, "force", NULL, "cut data off; or though other disks stand on DISK"},
        {KEY_RATE, "rate", "SIZE", "move at most SIZE a second"},
        {0},
};

/* "-10G" is a size and not an option: without its sign the options' reader leaves it alone. NULL: there is none. */
static const char *minus_take(struct cli *cli)
{
	const char *found = NULL;

	for (int i = 1; i < cli->argc && strcmp(cli->argv[i], "--") != 0; i++)
		if (cli->argv[i][0] == '-' && cli->argv[i][1] >= '0' && cli->argv[i][1] <= '9')
			found = ++cli->argv[i];
	return found;
}

static void size_take(struct upkeep_cli *work, const char *text, bool minus)
{
	if (minus || *text == '-')
		work->request.how = UPKEEP_SIZE_SHRINK;
	else if (*text == '+')
		work->request.how = UPKEEP_SIZE_GROW;
	work->request.bytes = cli_size(work->cli, "size", *text == '+' || *text == '-' ? text + 1 : text);
	if (work->request.bytes % BLK_SECTOR_SIZE)
		cli_usage(work->cli, "size: '%s%s' is no multiple of 512 bytes", minus ? "-" : "", text);
	if (work->request.bytes == 0 && work->request.how == UPKEEP_SIZE_SET)
		cli_usage(work->cli, "size: a disk has one sector at least");
}

static void result_json(const struct upkeep_cli *work, const char *what)
{
	struct json json = upkeep_cli_json(work, work->path);

	json_string(&json, "result", what);
	json_uint(&json, "old_size_bytes", work->result.old_size_bytes);
	json_uint(&json, "size_bytes", work->result.size_bytes);
	json_uint(&json, "cut_bytes", work->result.resize.cut_bytes);
	json_object_end(&json);
}

static void result_print(const struct upkeep_cli *work)
{
	char old[SIZE_TEXT_MAX], new[SIZE_TEXT_MAX], cut[SIZE_TEXT_MAX];

	printf("%s: %s, was %s", work->path, size_text_exact(work->result.size_bytes, new),
	       size_text_exact(work->result.old_size_bytes, old));
	if (work->result.resize.cut_bytes)
		printf("; %s of data cut off", size_text(work->result.resize.cut_bytes, cut));
	putchar('\n');
	if (work->result.size_bytes > work->result.old_size_bytes)
		puts("The partitions and file systems on it are as before: grow them with their own tools.");
}

static int refuse(const struct upkeep_cli *work, int r)
{
	char cut[SIZE_TEXT_MAX], force[100];

	if (work->cli->json && r == VHD_E_WOULD_LOSE)
		result_json(work, "would-lose");
	if (r == VHD_E_WOULD_LOSE)
		snprintf(force, sizeof(force), "--force cuts these %s off",
		         size_text(work->result.resize.cut_bytes, cut));
	else
		snprintf(force, sizeof(force), "--force does it all the same, and breaks them");
	return upkeep_cli_fail(work, r, force);
}

static int run(struct cli *cli)
{
	struct upkeep_cli *work = calloc(1, sizeof(*work));
	const char *arg, *minus = minus_take(cli);
	int code = CLI_OK, r;

	if (!work)
		return cli_fail(cli, "out of memory");
	work->cli = cli;
	work->request.verb = UPKEEP_RESIZE;
	for (int key; (key = cli_next(cli, &arg)) != CLI_END;) {
		if (key == KEY_FORCE)
			work->request.force = true;
		else if (key == KEY_RATE)
			work->request.rate = cli_size(cli, "--rate", arg);
	}
	work->path = cli->operands[0];
	size_take(work, cli->operands[1], cli->operands[1] == minus);
	r = upkeep_file_find(work->path, &work->request.file);
	if (r) {
		code = cli_fail(cli, "%s: %s", work->path, strerror(-r));
	} else {
		r = upkeep_cli_run(work);
		if (r)
			code = refuse(work, r);
		else if (cli->json)
			result_json(work, "resized");
		else
			result_print(work);
	}
	free(work);
	return code;
}

const struct cli_command command_resize = {
        .name = "resize",
        .operands = "DISK SIZE|+SIZE|-SIZE",
        .summary = "give a disk another size",
        .details = "Allocated data beyond the new end is cut off only with --force; without it the exit status is 3.\n"
                   "A disk in use can grow, but not shrink.",
        .groups = CLI_ALLOW_DIR | CLI_JSON | CLI_PROGRESS,
        .min_operands = 2,
        .max_operands = 2,
        .options = options,
        .run = run,
};
