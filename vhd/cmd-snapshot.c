/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "vhd/upkeep-cli.h"

enum { KEY_NAME = 256 };

static const struct cli_option options[] = {
        {KEY_NAME, "name", "FROZEN", "what holds the frozen content (default: DISK with the time in it)"},
        {0},
};

/* Whether a file of that name is beside `real`. */
static bool name_taken(const char *real, const char *base, const char *name)
{
	char path[PATH_MAX + NAME_MAX];
	struct stat st;

	snprintf(path, sizeof(path), "%.*s%s", (int)(base - real), real, name);
	return lstat(path, &st) == 0;
}

/* "a.20260101T120000Z.vhd" for "/b/a.vhd", or for a symlink to it; "a.20260101T120000Z-2.vhd" for the second then. */
static bool name_make(const char *real, char *ret, size_t size)
{
	const char *slash = strrchr(real, '/'), *base = slash ? slash + 1 : real, *dot = strrchr(base, '.');
	time_t now = time(NULL);
	char stamp[32], number[16] = "";
	struct tm utc;

	if (!gmtime_r(&now, &utc) || strftime(stamp, sizeof(stamp), "%Y%m%dT%H%M%SZ", &utc) == 0)
		return false;
	if (!dot || dot == base)
		dot = base + strlen(base);
	for (unsigned i = 2; i < 1000; i++) {
		int n = snprintf(ret, size, "%.*s.%s%s%s", (int)(dot - base), base, stamp, number, dot);

		if (n < 0 || (size_t)n >= size)
			return false;
		if (!name_taken(real, base, ret))
			return true;
		snprintf(number, sizeof(number), "-%u", i);
	}
	return false;
}

static int name_default(struct upkeep_cli *work)
{
	char *real = realpath(work->path, NULL);
	bool made = real && name_make(real, work->request.name, sizeof(work->request.name));

	free(real);
	if (!made)
		return cli_fail(work->cli, "%s: no name for the frozen file could be made of this one: give it with --name",
		                work->path);
	return CLI_OK;
}

/* A name in the disk's folder, however it was written. */
static void name_take(struct upkeep_cli *work, const char *name)
{
	if (strchr(name, '/'))
		cli_usage(work->cli, "--name: '%s' is no plain name; the frozen file stays in the disk's folder", name);
	if (!*name || strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || strlen(name) > NAME_MAX)
		cli_usage(work->cli, "--name: '%s' is no name for a file", name);
	strcpy(work->request.name, name);
}

static void result_print(const struct upkeep_cli *work)
{
	char uuid[37], leaf_uuid[37];

	vhd_uuid_text(work->result.uuid, uuid);
	vhd_uuid_text(work->result.leaf_uuid, leaf_uuid);
	if (work->cli->json) {
		struct json json = upkeep_cli_json(work, work->path);

		json_string(&json, "uuid", leaf_uuid);
		json_string(&json, "frozen", work->result.path);
		json_string(&json, "frozen_uuid", uuid);
		json_object_end(&json);
	} else {
		printf("%s: frozen as %s, UUID %s\n", work->path, work->result.path, uuid);
	}
}

static int run(struct cli *cli)
{
	struct upkeep_cli *work = calloc(1, sizeof(*work));
	const char *arg, *name = NULL;
	int code, r;

	if (!work)
		return cli_fail(cli, "out of memory");
	work->cli = cli;
	work->request.verb = UPKEEP_SNAPSHOT;
	for (int key; (key = cli_next(cli, &arg)) != CLI_END;)
		if (key == KEY_NAME)
			name = arg;
	work->path = cli->operands[0];
	r = upkeep_file_find(work->path, &work->request.file);
	if (r) {
		code = cli_fail(cli, "%s: %s", work->path, strerror(-r));
	} else if (name) {
		name_take(work, name);
		code = CLI_OK;
	} else {
		code = name_default(work);
	}
	if (code == CLI_OK) {
		r = upkeep_cli_run(work);
		if (r == VHD_E_HAS_CHILDREN)
			code = cli_fail(cli, "%s: differencing disks stand on it, which find it by its name, so it is frozen as it "
			                "is: write to one of those, or make another with 'vhd create -b'", work->path);
		else if (r)
			code = upkeep_cli_fail(work, r, NULL);
		else
			result_print(work);
	}
	free(work);
	return code;
}

const struct cli_command command_snapshot = {
        .name = "snapshot",
        .operands = "DISK",
        .summary = "freeze what a disk holds; go on in a child of it",
        .details = "DISK's content stays under the name FROZEN, in the same folder, and does not change any more.\n"
                   "DISK is a new differencing disk over it. Works on a disk in use too.",
        .groups = CLI_ALLOW_DIR | CLI_JSON,
        .min_operands = 1,
        .max_operands = 1,
        .options = options,
        .run = run,
};
