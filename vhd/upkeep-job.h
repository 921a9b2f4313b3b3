/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_UPKEEP_JOB_H
#define VHD_UPKEEP_JOB_H

/*
 * One request of upkeep in a thread of its own, watched from another: used by the control server and by commands that
 * have the disk open themselves. No signal is handled in the thread.
 */

#include "vhd/upkeep-request.h"

#define UPKEEP_WARNINGS_MAX 64u

struct upkeep_job;

/*
 * Starts. `work` without job, warn and user, which are the job's own; `finished_fd` is an eventfd that gets 1 when it
 * has ended.
 */
int upkeep_job_start(const struct upkeep_work *work, const struct upkeep_request *request, int finished_fd,
                      struct upkeep_job **ret, struct err *err);

struct vhd_job *upkeep_job_handle(struct upkeep_job *job);
const struct upkeep_request *upkeep_job_request(const struct upkeep_job *job);

/* The next sentence of warning that nobody has taken yet, for the caller to free; NULL: none. */
char *upkeep_job_warning(struct upkeep_job *job);

bool upkeep_job_ended(struct upkeep_job *job);

/* After it has ended: waits for its thread. What upkeep_run returned and gave. */
int upkeep_job_join(struct upkeep_job *job, struct upkeep_result *ret, struct err *err);

/* Joined before. NULL-safe. */
void upkeep_job_free(struct upkeep_job *job);

#endif
