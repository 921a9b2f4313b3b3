/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef VHD_UPKEEP_CLI_H
#define VHD_UPKEEP_CLI_H

/*
 * How `vhd merge`, `snapshot`, `resize` and `compact` get their work done: on the disk, opened for it, or by the process
 * that has it open. With a progress bar, warnings, and an end at a signal.
 */

#include "common/json.h"
#include "vhd/cli.h"
#include "vhd/control-client.h"
#include "vhd/upkeep-request.h"

struct upkeep_cli {
	struct cli *cli;
	const char *path; /* of the disk to open; in its chain is request.file */
	struct upkeep_request request;
	bool detach; /* leave it to the process that has the disk open */
	const char *only_here; /* why that process cannot do it; NULL: it can */
	/* Called with the disk opened by this command, before the work. 0, or -errno with the sentence. May be NULL. */
	int (*opened)(struct upkeep_cli *work, struct vhd *vhd, struct err *err);
	/* Afterwards: */
	struct upkeep_result result;
	bool online; /* done by `owner`, whose socket is closed */
	struct control_owner owner;
	uint64_t job; /* detached */
	struct err err;
};

/* 0, a verdict or -errno, with the sentence in work->err. Prints warnings and progress only. */
int upkeep_cli_run(struct upkeep_cli *work);

/*
 * Prints why it failed and returns the exit code: CLI_NO when it asks for --force. `force` NULL: there is no such
 * option.
 */
int upkeep_cli_fail(const struct upkeep_cli *work, int r, const char *force);

/* Begins the object: "file", and "online", null or an object with program, pid and, when detached, job. */
struct json upkeep_cli_json(const struct upkeep_cli *work, const char *file);

/* Says which job was begun, in words or JSON. CLI_OK. */
int upkeep_cli_detached(const struct upkeep_cli *work);

#endif
