/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VHD_JOB_H
#define VHD_JOB_H

/* The working side of a struct vhd_job (vhd.h). All are NULL-safe. */

#include <stdint.h>

#include "vhd/vhd.h"

/* The work begins, or its extent is known better. */
void job_total(struct vhd_job *job, uint64_t total_bytes);

/* `bytes` more are done: waits while the job is paused or ahead of its rate. 0; -ECANCELED. */
int job_step(struct vhd_job *job, uint64_t bytes);

#endif
