/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_CONTROL_CLIENT_H
#define VHD_CONTROL_CLIENT_H

/*
 * Finds the process that has a file open as part of a disk, and asks it for upkeep (docs/control.md). A user finds its
 * own processes; root finds those of all who have a folder in /run/user or /tmp. What another user's process says is
 * not trusted further than that it is printed, and control characters are taken out of it.
 */

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "vhd/upkeep-request.h"

#define CONTROL_OWNERS_MAX 16u

struct control_owner {
	int socket;
	uid_t uid;
	pid_t pid;
	char program[64];
	char path[PATH_MAX]; /* of its disk */
	bool writable;
	unsigned layer, layer_count; /* which of the disk's files the file is: 0 the leaf */
};

/*
 * Which processes have the file open: at most CONTROL_OWNERS_MAX of them, in `ret`. `folder`: a descriptor of where to
 * look, in tests; -1: where they are. Processes that do not answer for two seconds are passed over. Their number, or
 * -errno.
 */
int control_find(struct upkeep_file file, int folder, struct control_owner *ret);

void control_owner_close(struct control_owner *owner);

/* Called while a request is worked on; any may be NULL. */
struct control_watch {
	void (*started)(void *user, uint64_t job);
	void (*progress)(void *user, const struct vhd_job_status *status); /* without rate */
	void (*warn)(void *user, const char *sentence);
	bool (*interrupted)(void *user); /* asked some times a second: true cancels the job */
	void *user;
};

/*
 * Asks and waits for the end. What upkeep_run returned there, with its sentence and result; -EPIPE: the process went
 * away; -EPROTO: what it says is not understood.
 */
int control_upkeep(struct control_owner *owner, const struct upkeep_request *request,
                   const struct control_watch *watch, struct upkeep_result *ret, struct err *err);

/* Begins it and leaves it to the process. */
int control_upkeep_detach(struct control_owner *owner, const struct upkeep_request *request, uint64_t *job,
                          struct err *err);

struct control_job {
	uint64_t id;
	enum upkeep_verb verb;
	char state[16]; /* "running", "paused", "cancelling", or of the last that ended "done", "cancelled", "failed" */
	bool ended;
	uint64_t done_bytes, total_bytes, rate; /* while it runs */
	struct err err;                         /* of one that failed */
};

#define CONTROL_JOBS_MAX 8u

/* The jobs of its disk, oldest first: the one that is worked on, and the last before. Their number, or -errno. */
int control_jobs(struct control_owner *owner, struct control_job ret[CONTROL_JOBS_MAX], struct err *err);

enum control_steering {
	CONTROL_PAUSE,
	CONTROL_RESUME,
	CONTROL_CANCEL,
	CONTROL_RATE,
};

/* `job` 0: the one that is worked on. -ESRCH: none is. */
int control_steer(struct control_owner *owner, enum control_steering how, uint64_t job, uint64_t rate, struct err *err);

#endif
