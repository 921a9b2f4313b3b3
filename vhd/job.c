/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/job.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

struct vhd_job {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct vhd_job_status status;
	struct timespec allowed_from; /* CLOCK_MONOTONIC: by its rate, no step ends before */
};

int vhd_job_new(struct vhd_job **ret, struct err *err)
{
	struct vhd_job *job = calloc(1, sizeof(*job));
	pthread_condattr_t attr;

	if (!job)
		return err_set(err, -ENOMEM, "no memory for a job");
	pthread_mutex_init(&job->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&job->changed, &attr);
	pthread_condattr_destroy(&attr);
	*ret = job;
	return 0;
}

void vhd_job_free(struct vhd_job *job)
{
	if (!job)
		return;
	pthread_cond_destroy(&job->changed);
	pthread_mutex_destroy(&job->lock);
	free(job);
}

void vhd_job_cancel(struct vhd_job *job)
{
	pthread_mutex_lock(&job->lock);
	job->status.cancelled = true;
	pthread_cond_broadcast(&job->changed);
	pthread_mutex_unlock(&job->lock);
}

void vhd_job_pause(struct vhd_job *job, bool paused)
{
	pthread_mutex_lock(&job->lock);
	job->status.paused = paused;
	pthread_cond_broadcast(&job->changed);
	pthread_mutex_unlock(&job->lock);
}

void vhd_job_set_rate(struct vhd_job *job, uint64_t bytes_per_second)
{
	pthread_mutex_lock(&job->lock);
	job->status.rate = bytes_per_second;
	clock_gettime(CLOCK_MONOTONIC, &job->allowed_from); /* what was borrowed at the old rate is forgiven */
	pthread_cond_broadcast(&job->changed);
	pthread_mutex_unlock(&job->lock);
}

void vhd_job_status(struct vhd_job *job, struct vhd_job_status *ret)
{
	pthread_mutex_lock(&job->lock);
	*ret = job->status;
	pthread_mutex_unlock(&job->lock);
}

void job_total(struct vhd_job *job, uint64_t total_bytes)
{
	if (!job)
		return;
	pthread_mutex_lock(&job->lock);
	job->status.total_bytes = total_bytes;
	pthread_mutex_unlock(&job->lock);
}

static bool is_before(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec < b->tv_sec || (a->tv_sec == b->tv_sec && a->tv_nsec < b->tv_nsec);
}

/* Moves `allowed_from` on by the time that `bytes` take; time that was not used is not saved up. */
static void charge(struct vhd_job *job, uint64_t bytes)
{
	struct timespec now, *at = &job->allowed_from;
	uint64_t rate = job->status.rate, ns;

	clock_gettime(CLOCK_MONOTONIC, &now);
	if (is_before(at, &now))
		*at = now;
	ns = (uint64_t)at->tv_nsec + (uint64_t)((double)(bytes % rate) * 1e9 / (double)rate);
	at->tv_sec += (time_t)(bytes / rate + ns / 1000000000);
	at->tv_nsec = (long)(ns % 1000000000);
}

static bool is_ahead(const struct vhd_job *job)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return job->status.rate && is_before(&now, &job->allowed_from);
}

int job_step(struct vhd_job *job, uint64_t bytes)
{
	int rc;

	if (!job)
		return 0;
	pthread_mutex_lock(&job->lock);
	job->status.done_bytes += bytes;
	if (job->status.rate && bytes)
		charge(job, bytes);
	while (!job->status.cancelled && (job->status.paused || is_ahead(job))) {
		if (job->status.paused) {
			pthread_cond_wait(&job->changed, &job->lock);
		} else {
			struct timespec until = job->allowed_from;

			pthread_cond_timedwait(&job->changed, &job->lock, &until);
		}
	}
	rc = job->status.cancelled ? -ECANCELED : 0;
	pthread_mutex_unlock(&job->lock);
	return rc;
}
