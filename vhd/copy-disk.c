/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vhd/copy-disk.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/interrupt.h"
#include "vhd/create.h"
#include "vhd/new-file.h"
#include "vhd/scan.h"

/* Zeros shorter than this between data are written: a request costs more than they do. */
#define GAP_MIN (64u << 10)
#define GRAIN 4096u
#define RUNS_MAX (SCAN_CHUNK / (GAP_MIN + GRAIN) + 2)

struct write_job {
	struct copying *copying;
	struct scan_slot *slot;
	struct blk_req req[RUNS_MAX];
	struct iovec iov[RUNS_MAX];
	unsigned writing;
	int result;
	uint64_t failed_offset;
	struct write_job *next;
};

struct copying {
	struct copy_disk *copy;
	struct cli_disk target;
	struct progress progress;
	struct write_job jobs[SCAN_DEPTH];
	struct write_job *idle;
};

static void job_end(struct write_job *job)
{
	struct copying *copying = job->copying;
	struct err err = {.text = ""};

	if (job->result < 0)
		err_set(&err, job->result, "%s: writing at offset %" PRIu64 ": %s", copying->copy->target_path,
		        job->failed_offset, strerror(-job->result));
	job->next = copying->idle;
	copying->idle = job;
	scan_release(job->slot, job->result, &err);
}

static void run_done(struct blk_req *req, int result)
{
	struct write_job *job = req->user;

	if (result < 0 && job->result == 0) {
		job->result = result;
		job->failed_offset = req->offset;
	}
	if (--job->writing == 0)
		job_end(job);
}

/* The next stretch of [at, length) worth writing: it starts and ends with a grain that holds data. */
static bool run_find(const uint8_t *data, size_t length, size_t at, size_t *start, size_t *end)
{
	bool found = false;

	for (; at < length; at += GRAIN) {
		size_t grain = length - at < GRAIN ? length - at : GRAIN;

		if (!zero_test(data + at, grain)) {
			if (!found)
				*start = at;
			found = true;
			*end = at + grain;
		} else if (found && at + grain - *end >= GAP_MIN) {
			break;
		}
	}
	return found;
}

static int tail_write(struct copying *copying, const uint8_t *data, size_t length, uint64_t offset, struct err *err)
{
	int r = blk_pwrite(copying->target.queue, data, length, offset);

	return r < 0 ? err_set(err, r, "%s: writing at offset %" PRIu64 ": %s", copying->copy->target_path, offset,
	                       strerror(-r)) : 0;
}

static int chunk_write(void *user, struct scan_slot *slot, struct err *err)
{
	struct copying *copying = user;
	struct write_job *job = copying->idle;
	const uint8_t *data = slot->data[0];
	size_t at = 0, start, end, align = copying->target.info.request_align;
	unsigned runs = 0;

	while (run_find(data, slot->length, at, &start, &end)) {
		at = end;
		if (end % align) {
			/* A raw disk's odd end. A VHD's is a whole sector, and the source has zeros there. */
			size_t whole = round_down(end, align);
			int r = tail_write(copying, data + whole, end - whole, slot->offset + whole, err);

			if (r < 0)
				return r;
			end = whole;
			if (start == end)
				continue;
		}
		job->iov[runs] = (struct iovec){slot->data[0] + start, end - start};
		job->req[runs] = (struct blk_req){
		        .op = BLK_WRITE,
		        .offset = slot->offset + start,
		        .length = end - start,
		        .iov = &job->iov[runs],
		        .iovcnt = 1,
		        .done = run_done,
		        .user = job,
		};
		runs++;
		copying->copy->copied_bytes += end - start;
	}
	if (runs == 0)
		return 0;
	copying->idle = job->next;
	job->slot = slot;
	job->writing = runs;
	job->result = 0;
	for (unsigned i = 0; i < runs; i++)
		blk_submit(copying->target.queue, &job->req[i]);
	return SCAN_KEEP;
}

static int content_copy(struct copying *copying)
{
	const struct copy_disk *copy = copying->copy;
	const struct cli_disk *source = copy->source;
	struct scan_options scan = {
	        .disks = {{source->path, source->blk, source->queue, source->info.size}},
	        .disk_count = 1,
	        .end = source->info.size,
	        .also = copying->target.queue,
	        .progress = &copying->progress,
	        .chunk_read = chunk_write,
	        .user = copying,
	};
	struct err err = {.text = ""};
	int r;

	for (unsigned i = 0; i < SCAN_DEPTH; i++) {
		copying->jobs[i].copying = copying;
		copying->jobs[i].next = copying->idle;
		copying->idle = &copying->jobs[i];
	}
	progress_begin(&copying->progress, stderr, copy->cli->progress_mode, "bytes", scan.end);
	r = scan_run(&scan, &err);
	progress_end(&copying->progress);
	if (r == -EINTR)
		return cli_fail(copy->cli, "%s: %s", copy->target_path, err.text);
	if (r < 0)
		return cli_fail_err(copy->cli, &err);
	r = blk_flush(copying->target.queue);
	if (r < 0)
		return cli_fail(copy->cli, "%s: flush: %s", copy->target_path, strerror(-r));
	return CLI_OK;
}

static int target_create(const struct copy_disk *copy, struct new_file *file)
{
	uint64_t size = copy->source->info.size;
	struct vhd_create_options create = {
	        .type = copy->type,
	        .size_bytes = round_up(size, BLK_SECTOR_SIZE),
	        .block_size_bytes = copy->block_size,
	};
	struct err err = {.text = ""};
	struct vhd_info info;

	if (copy->keep_uuid) {
		vhd_layer_info(copy->source->vhd, 0, &info);
		create.uuid = info.uuid;
	}
	if (copy->to_raw) {
		if (ftruncate(file->fd, (off_t)size) == 0)
			return CLI_OK;
		return cli_fail(copy->cli, "%s: size %" PRIu64 ": %s", copy->target_path, size, strerror(errno));
	}
	if (size == 0)
		return cli_fail(copy->cli, "%s: is empty; a VHD has one sector at least", copy->source->path);
	if (create.size_bytes > VHD_MAX_SIZE)
		return cli_fail(copy->cli, "%s: has %" PRIu64 " bytes, more than the 2040 GiB that a VHD holds",
		                copy->source->path, size);
	if (create.size_bytes != size)
		cli_note(copy->cli, "%s: size rounded up from %" PRIu64 " to %" PRIu64 " bytes, whole sectors",
		         copy->target_path, size, create.size_bytes);
	if (image_create(file, &create, &err))
		return cli_fail_err(copy->cli, &err);
	return CLI_OK;
}

/* Fills the new file with the source's content. */
static int target_make(struct copying *copying, struct new_file *file)
{
	const struct copy_disk *copy = copying->copy;
	struct cli target_cli = *copy->cli;
	char name[NEW_FILE_NAME_MAX];
	int code = target_create(copy, file);

	if (code)
		return code;
	if (new_file_name(file, name))
		return cli_fail(copy->cli, "%s: the name is too long", copy->target_path);
	/* What was said of the source's parents and damage does not hold for the target. */
	target_cli.parent = NULL;
	target_cli.parent_raw = target_cli.salvage = target_cli.force = false;
	target_cli.hidden_name = name;
	target_cli.shown_name = copy->target_path;
	code = cli_disk_open(&target_cli, name, copy->to_raw, true, &copying->target);
	if (code)
		return code;
	code = content_copy(copying);
	return cli_disk_close(&target_cli, &copying->target, code);
}

static bool same_file(const char *a, const char *b)
{
	struct stat a_stat, b_stat;

	return stat(a, &a_stat) == 0 && stat(b, &b_stat) == 0 && a_stat.st_dev == b_stat.st_dev &&
	       a_stat.st_ino == b_stat.st_ino;
}

/* Replacing a file that is being read, or that others of the chain need, loses data. */
static bool target_in_source(const struct copy_disk *copy)
{
	struct vhd_info info;

	if (!copy->source->vhd)
		return same_file(copy->source->path, copy->target_path);
	for (unsigned i = 0; i < vhd_layer_count(copy->source->vhd); i++) {
		vhd_layer_info(copy->source->vhd, i, &info);
		if (same_file(info.path, copy->target_path))
			return true;
	}
	return false;
}

static int file_make(struct copying *copying)
{
	struct copy_disk *copy = copying->copy;
	struct new_file file;
	struct err err = {.text = ""};
	struct stat st;
	int code, r;

	r = new_file_open(copy->target_path, copy->force, &file, &err);
	if (r)
		return cli_fail(copy->cli, "%s%s", err.text, r == -EEXIST ? "; --force replaces it" : "");
	code = target_make(copying, &file);
	if (code == CLI_OK && interrupt_seen())
		code = cli_fail(copy->cli, "%s: interrupted", copy->target_path);
	if (code == CLI_OK && fstat(file.fd, &st) == 0)
		copy->file_bytes = (uint64_t)st.st_size;
	if (code == CLI_OK && new_file_commit(&file, &err))
		code = cli_fail_err(copy->cli, &err);
	new_file_done(&file);
	return code;
}

int copy_disk_run(struct copy_disk *copy)
{
	struct copying *copying;
	int code;

	if (copy->force && target_in_source(copy))
		return cli_fail(copy->cli, "%s: is what is being read, or one of its parents", copy->target_path);
	copying = calloc(1, sizeof(*copying));
	if (!copying)
		return cli_fail(copy->cli, "out of memory");
	copying->copy = copy;
	code = file_make(copying);
	free(copying);
	return code;
}
