/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vhd/upkeep-cli.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/interrupt.h"
#include "vhd/upkeep-job.h"

#define LOOK_MS 100

/* --- On a disk that this command has open --- */

static void warnings_print(struct upkeep_cli *work, struct upkeep_job *job)
{
	char *sentence;

	while ((sentence = upkeep_job_warning(job))) {
		cli_warn(work->cli, sentence);
		free(sentence);
	}
}

static void job_watch(struct upkeep_cli *work, struct upkeep_job *job, int finished)
{
	struct pollfd fd = {.fd = finished, .events = POLLIN};
	struct progress progress;

	progress_begin(&progress, stderr, work->cli->progress_mode, "bytes", 0);
	while (!upkeep_job_ended(job)) {
		struct vhd_job_status status;

		(void)poll(&fd, 1, LOOK_MS);
		if (interrupt_seen())
			vhd_job_cancel(upkeep_job_handle(job));
		vhd_job_status(upkeep_job_handle(job), &status);
		progress.total = status.total_bytes;
		progress_update(&progress, status.done_bytes);
	}
	progress_end(&progress);
	warnings_print(work, job);
}

static int run_on(struct upkeep_cli *work, struct vhd *vhd)
{
	const struct upkeep_work open_disk = {.operations = &upkeep_operations, .vhd = vhd};
	int finished = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), r;
	struct upkeep_job *job;

	if (finished < 0)
		return err_set(&work->err, -errno, "no eventfd: %s", strerror(errno));
	r = upkeep_job_start(&open_disk, &work->request, finished, &job, &work->err);
	if (!r) {
		job_watch(work, job, finished);
		r = upkeep_job_join(job, &work->result, &work->err);
		upkeep_job_free(job);
	}
	close(finished);
	return r;
}

static int run_here(struct upkeep_cli *work, struct vhd *vhd)
{
	struct err close_err = {.text = ""};
	int r = 0, closed;

	if (work->detach)
		r = err_set(&work->err, -ESRCH, "%s: no process has it open that the work could be left to: do it without "
		            "--detach", work->path);
	if (!r && work->opened)
		r = work->opened(work, vhd, &work->err);
	if (!r)
		r = run_on(work, vhd);
	closed = vhd_close(vhd, &close_err);
	if (closed && !r) {
		r = closed;
		work->err = close_err;
	}
	return r;
}

/* --- By the process that has it open --- */

struct watcher {
	struct upkeep_cli *work;
	struct progress progress;
};

static void watch_progress(void *user, const struct vhd_job_status *status)
{
	struct watcher *watcher = user;

	watcher->progress.total = status->total_bytes;
	progress_update(&watcher->progress, status->done_bytes);
}

static void watch_warning(void *user, const char *sentence)
{
	struct watcher *watcher = user;

	cli_warn(watcher->work->cli, sentence);
}

static bool watch_interrupt(void *user)
{
	(void)user;
	return interrupt_seen();
}

static int run_there(struct upkeep_cli *work)
{
	struct watcher watcher = {.work = work};
	const struct control_watch watch = {
	        .progress = watch_progress,
	        .warn = watch_warning,
	        .interrupted = watch_interrupt,
	        .user = &watcher,
	};
	int r;

	work->online = true;
	if (work->detach) {
		r = control_upkeep_detach(&work->owner, &work->request, &work->job, &work->err);
	} else {
		progress_begin(&watcher.progress, stderr, work->cli->progress_mode, "bytes", 0);
		r = control_upkeep(&work->owner, &work->request, &watch, &work->result, &work->err);
		progress_end(&watcher.progress);
	}
	control_owner_close(&work->owner);
	return r;
}

/*
 * Of those that have the file open, the one that may write to the disk it is part of. A file that several such disks
 * share is nobody's to change.
 */
static int owner_choose(struct upkeep_cli *work, struct control_owner *owners, unsigned count)
{
	int chosen = -1, r = 0;

	for (unsigned i = 0; i < count && !r; i++) {
		if (!owners[i].writable)
			continue;
		if (chosen >= 0)
			r = err_set(&work->err, VHD_E_IN_USE, "%s: part of two disks in use, %s (%s, pid %d) and %s (%s, pid %d), so "
			            "neither may change it: end one of them", work->path, owners[chosen].path,
			            owners[chosen].program, (int)owners[chosen].pid, owners[i].path, owners[i].program,
			            (int)owners[i].pid);
		chosen = (int)i;
	}
	if (!r)
		work->owner = owners[chosen < 0 ? 0 : chosen];
	for (unsigned i = 0; i < count; i++)
		if (r || owners[i].socket != work->owner.socket)
			control_owner_close(&owners[i]);
	return r;
}

static int ask_owner(struct upkeep_cli *work, const struct err *in_use)
{
	struct control_owner owners[CONTROL_OWNERS_MAX];
	int r;

	if (work->only_here)
		return err_set(&work->err, VHD_E_IN_USE, "%s; %s", in_use->text, work->only_here);
	r = control_find(work->request.file, -1, owners);
	if (r <= 0) {
		work->err = *in_use;
		return VHD_E_IN_USE;
	}
	r = owner_choose(work, owners, (unsigned)r);
	return r ? r : run_there(work);
}

int upkeep_cli_run(struct upkeep_cli *work)
{
	/* Compacting changes no content, so others may stand on it; unless something is thrown away. */
	bool despite_children = work->request.force ||
	                        (work->request.verb == UPKEEP_COMPACT && work->request.unused_count == 0);
	const struct vhd_open_options options = {
	        .flags = VHD_OPEN_WRITE | (despite_children ? VHD_OPEN_DESPITE_CHILDREN : 0),
	        .allow_dirs = work->cli->allow_dirs,
	        .warn = cli_warn,
	        .user = work->cli,
	};
	struct err err = {.text = ""};
	struct vhd *vhd;
	int r;

	interrupt_catch();
	work->err = (struct err){.text = ""};
	r = vhd_open(work->path, &options, &vhd, &err);
	if (r == 0)
		return run_here(work, vhd);
	if (r == VHD_E_IN_USE)
		return ask_owner(work, &err);
	work->err = err;
	return r;
}

int upkeep_cli_fail(const struct upkeep_cli *work, int r, const char *force)
{
	if (r == -ECANCELED) {
		cli_fail(work->cli, "%s: %s; the disk is sound, and the same command goes on from here", work->path,
		         interrupt_seen() ? "interrupted" : "cancelled");
		return CLI_FAILED;
	}
	if (force && (r == VHD_E_HAS_CHILDREN || r == VHD_E_WOULD_LOSE)) {
		bool named = strstr(work->err.text, "--force");

		cli_fail(work->cli, "%s%s%s", work->err.text, named ? "" : "; ", named ? "" : force);
		return CLI_NO;
	}
	return cli_fail(work->cli, "%s", work->err.text[0] ? work->err.text : strerror(r < 0 ? -r : EIO));
}

struct json upkeep_cli_json(const struct upkeep_cli *work, const char *file)
{
	struct json json = json_to(stdout);

	json_object_begin(&json, NULL);
	json_string(&json, "file", file);
	if (work->online) {
		json_object_begin(&json, "online");
		json_string(&json, "program", work->owner.program);
		json_uint(&json, "pid", (uint64_t)work->owner.pid);
		json_string(&json, "disk", work->owner.path);
		if (work->detach)
			json_uint(&json, "job", work->job);
		json_object_end(&json);
	} else {
		json_null(&json, "online");
	}
	return json;
}

int upkeep_cli_detached(const struct upkeep_cli *work)
{
	if (work->cli->json) {
		struct json json = upkeep_cli_json(work, work->path);

		json_object_end(&json);
	} else {
		printf("%s: job %" PRIu64 " of %s (pid %d): see vhd job %s\n", work->path, work->job, work->owner.program,
		       (int)work->owner.pid, work->path);
	}
	return CLI_OK;
}
