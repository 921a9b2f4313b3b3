/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/upkeep-job.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct upkeep_job {
	struct upkeep_work work;
	struct upkeep_request request;
	int finished_fd;
	pthread_t thread;
	struct vhd_job *handle;
	pthread_mutex_t lock;
	/* Under `lock`: */
	bool ended;
	char *warnings[UPKEEP_WARNINGS_MAX]; /* the first `told` were taken */
	unsigned warned, told;
	/* The thread's until it has ended: */
	int result;
	struct upkeep_result what;
	struct err err;
};

static void warning_take(void *user, const char *sentence)
{
	struct upkeep_job *job = user;
	char *copy = strdup(sentence);

	pthread_mutex_lock(&job->lock);
	if (copy && job->warned < UPKEEP_WARNINGS_MAX) {
		job->warnings[job->warned++] = copy;
		copy = NULL;
	}
	pthread_mutex_unlock(&job->lock);
	free(copy);
}

static void *run(void *user)
{
	struct upkeep_job *job = user;
	int finished_fd = job->finished_fd;
	uint64_t one = 1;

	job->result = upkeep_run(&job->work, &job->request, &job->what, &job->err);
	pthread_mutex_lock(&job->lock);
	job->ended = true;
	pthread_mutex_unlock(&job->lock);
	(void)!write(finished_fd, &one, sizeof(one)); /* an eventfd that is full has woken its reader already */
	return NULL;
}

static int thread_start(struct upkeep_job *job)
{
	sigset_t all, old;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	r = pthread_create(&job->thread, NULL, run, job);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -r;
}

int upkeep_job_start(const struct upkeep_work *work, const struct upkeep_request *request, int finished_fd,
                      struct upkeep_job **ret, struct err *err)
{
	struct upkeep_job *job = calloc(1, sizeof(*job));
	int r;

	if (!job)
		return err_set(err, -ENOMEM, "no memory for a job");
	r = vhd_job_new(&job->handle, err);
	if (r) {
		free(job);
		return r;
	}
	job->work = *work;
	job->work.job = job->handle;
	job->work.warn = warning_take;
	job->work.user = job;
	job->request = *request;
	job->finished_fd = finished_fd;
	pthread_mutex_init(&job->lock, NULL);
	r = thread_start(job);
	if (r) {
		upkeep_job_free(job);
		return err_set(err, r, "no thread for the job: %s", strerror(-r));
	}
	*ret = job;
	return 0;
}

struct vhd_job *upkeep_job_handle(struct upkeep_job *job)
{
	return job->handle;
}

const struct upkeep_request *upkeep_job_request(const struct upkeep_job *job)
{
	return &job->request;
}

char *upkeep_job_warning(struct upkeep_job *job)
{
	char *sentence = NULL;

	pthread_mutex_lock(&job->lock);
	if (job->told < job->warned) {
		sentence = job->warnings[job->told];
		job->warnings[job->told++] = NULL;
	}
	pthread_mutex_unlock(&job->lock);
	return sentence;
}

bool upkeep_job_ended(struct upkeep_job *job)
{
	bool ended;

	pthread_mutex_lock(&job->lock);
	ended = job->ended;
	pthread_mutex_unlock(&job->lock);
	return ended;
}

int upkeep_job_join(struct upkeep_job *job, struct upkeep_result *ret, struct err *err)
{
	pthread_join(job->thread, NULL);
	*ret = job->what;
	if (job->result && err)
		*err = job->err;
	return job->result;
}

void upkeep_job_free(struct upkeep_job *job)
{
	if (!job)
		return;
	for (unsigned i = 0; i < job->warned; i++)
		free(job->warnings[i]);
	vhd_job_free(job->handle);
	pthread_mutex_destroy(&job->lock);
	free(job);
}
