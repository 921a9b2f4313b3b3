/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/blk-file.h"
#include "common/checked.h"
#include "common/interrupt.h"
#include "vhd/cli.h"
#include "vhd/create.h"
#include "vhd/new-file.h"
#include "vhd/scan.h"

/* Zeros shorter than this between data are written: a request costs more than they do. */
#define GAP_MIN (64u << 10)
#define GRAIN 4096u
#define RUNS_MAX (SCAN_CHUNK / (GAP_MIN + GRAIN) + 2)

enum {
	KEY_BLOCK_SIZE = 256,
	KEY_FORCE,
	KEY_KEEP_UUID,
};

static const struct cli_option options[] = {
        {'O', "output", "FORMAT", "what DST becomes: dynamic (default), fixed or raw"},
        {KEY_BLOCK_SIZE, "block-size", "SIZE", "of a dynamic DST (default 2M)"},
        {KEY_FORCE, "force", NULL, "replace DST if it exists"},
        {KEY_KEEP_UUID, "keep-uuid", NULL, "give DST the Unique Id of SRC: for 'vhd import' it is SRC's copy"},
        {0},
};

struct write_job {
	struct convert *convert;
	struct scan_slot *slot;
	struct blk_req req[RUNS_MAX];
	struct iovec iov[RUNS_MAX];
	unsigned writing;
	int result;
	uint64_t failed_offset;
	struct write_job *next;
};

struct convert {
	struct cli *cli;
	bool to_raw, keep_uuid;
	enum vhd_type type;
	uint32_t block_size;
	const char *target_path;
	struct cli_disk source, target;
	struct progress progress;
	struct write_job jobs[SCAN_DEPTH];
	struct write_job *idle;
};

static void job_end(struct write_job *job)
{
	struct convert *convert = job->convert;
	struct err err = {.text = ""};

	if (job->result < 0)
		err_set(&err, job->result, "%s: writing at offset %" PRIu64 ": %s", convert->target_path,
		        job->failed_offset, strerror(-job->result));
	job->next = convert->idle;
	convert->idle = job;
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

static int tail_write(struct convert *convert, const uint8_t *data, size_t length, uint64_t offset, struct err *err)
{
	int r = blk_pwrite(convert->target.queue, data, length, offset);

	return r < 0 ? err_set(err, r, "%s: writing at offset %" PRIu64 ": %s", convert->target_path, offset,
	                       strerror(-r)) : 0;
}

static int chunk_write(void *user, struct scan_slot *slot, struct err *err)
{
	struct convert *convert = user;
	struct write_job *job = convert->idle;
	const uint8_t *data = slot->data[0];
	size_t at = 0, start, end, align = convert->target.info.request_align;
	unsigned runs = 0;

	while (run_find(data, slot->length, at, &start, &end)) {
		at = end;
		if (end % align) {
			/* A raw disk's odd end. A VHD's is a whole sector, and the source has zeros there. */
			size_t whole = round_down(end, align);
			int r = tail_write(convert, data + whole, end - whole, slot->offset + whole, err);

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
	}
	if (runs == 0)
		return 0;
	convert->idle = job->next;
	job->slot = slot;
	job->writing = runs;
	job->result = 0;
	for (unsigned i = 0; i < runs; i++)
		blk_submit(convert->target.queue, &job->req[i]);
	return SCAN_KEEP;
}

static int copy(struct convert *convert)
{
	struct scan_options scan = {
	        .disks = {{convert->source.path, convert->source.blk, convert->source.queue, convert->source.info.size}},
	        .disk_count = 1,
	        .end = convert->source.info.size,
	        .also = convert->target.queue,
	        .progress = &convert->progress,
	        .chunk_read = chunk_write,
	        .user = convert,
	};
	struct err err = {.text = ""};
	int r;

	for (unsigned i = 0; i < SCAN_DEPTH; i++) {
		convert->jobs[i].convert = convert;
		convert->jobs[i].next = convert->idle;
		convert->idle = &convert->jobs[i];
	}
	progress_begin(&convert->progress, stderr, convert->cli->progress_mode, "bytes", scan.end);
	r = scan_run(&scan, &err);
	progress_end(&convert->progress);
	if (r < 0)
		return cli_fail(convert->cli, "%s%s%s", r == -EINTR ? convert->target_path : "", r == -EINTR ? ": " : "",
		                err.text);
	r = blk_flush(convert->target.queue);
	if (r < 0)
		return cli_fail(convert->cli, "%s: flush: %s", convert->target_path, strerror(-r));
	return CLI_OK;
}

static int target_create(struct convert *convert, struct new_file *file)
{
	uint64_t size = convert->source.info.size;
	struct vhd_create_options create = {
	        .type = convert->type,
	        .size_bytes = round_up(size, BLK_SECTOR_SIZE),
	        .block_size_bytes = convert->block_size,
	};
	struct err err = {.text = ""};
	struct vhd_info info;

	if (convert->keep_uuid) {
		vhd_layer_info(convert->source.vhd, 0, &info);
		create.uuid = info.uuid;
	}
	if (convert->to_raw) {
		if (ftruncate(file->fd, (off_t)size) == 0)
			return CLI_OK;
		return cli_fail(convert->cli, "%s: size %" PRIu64 ": %s", convert->target_path, size, strerror(errno));
	}
	if (size == 0)
		return cli_fail(convert->cli, "%s: is empty; a VHD has one sector at least", convert->source.path);
	if (create.size_bytes > VHD_MAX_SIZE)
		return cli_fail(convert->cli, "%s: has %" PRIu64 " bytes, more than the 2040 GiB that a VHD holds",
		                convert->source.path, size);
	if (create.size_bytes != size)
		cli_note(convert->cli, "%s: size rounded up from %" PRIu64 " to %" PRIu64 " bytes, whole sectors",
		         convert->target_path, size, create.size_bytes);
	if (image_create(file, &create, &err))
		return cli_fail_err(convert->cli, &err);
	return CLI_OK;
}

/* Fills the new file with the source's content. */
static int target_make(struct convert *convert, struct new_file *file)
{
	struct cli target_cli = *convert->cli;
	char name[NEW_FILE_NAME_MAX];
	int code = target_create(convert, file);

	if (code)
		return code;
	if (new_file_name(file, name))
		return cli_fail(convert->cli, "%s: the name is too long", convert->target_path);
	/* What was said of the source's parents and damage does not hold for the target. */
	target_cli.parent = NULL;
	target_cli.parent_raw = target_cli.salvage = false;
	target_cli.hidden_name = name;
	target_cli.shown_name = convert->target_path;
	code = cli_disk_open(&target_cli, name, convert->to_raw, true, &convert->target);
	if (code)
		return code;
	code = copy(convert);
	return cli_disk_close(&target_cli, &convert->target, code);
}

static bool same_file(const char *a, const char *b)
{
	struct stat a_stat, b_stat;

	return stat(a, &a_stat) == 0 && stat(b, &b_stat) == 0 && a_stat.st_dev == b_stat.st_dev &&
	       a_stat.st_ino == b_stat.st_ino;
}

/* Replacing a file that is being read, or that others of the chain need, loses data. */
static bool target_in_source(const struct convert *convert)
{
	struct vhd_info info;

	if (!convert->source.vhd)
		return same_file(convert->source.path, convert->target_path);
	for (unsigned i = 0; i < vhd_layer_count(convert->source.vhd); i++) {
		vhd_layer_info(convert->source.vhd, i, &info);
		if (same_file(info.path, convert->target_path))
			return true;
	}
	return false;
}

static int convert_run(struct convert *convert, bool force)
{
	struct new_file file;
	struct err err = {.text = ""};
	int code, r;

	if (force && target_in_source(convert))
		return cli_fail(convert->cli, "%s: is what is being read, or one of its parents", convert->target_path);
	r = new_file_open(convert->target_path, force, &file, &err);
	if (r)
		return cli_fail(convert->cli, "%s%s", err.text, r == -EEXIST ? "; --force replaces it" : "");
	code = target_make(convert, &file);
	if (code == CLI_OK && interrupt_seen())
		code = cli_fail(convert->cli, "%s: interrupted", convert->target_path);
	if (code == CLI_OK && new_file_commit(&file, &err))
		code = cli_fail_err(convert->cli, &err);
	new_file_done(&file);
	return code;
}

static void output_parse(struct convert *convert, const char *text)
{
	convert->to_raw = strcmp(text, "raw") == 0;
	if (strcmp(text, "fixed") == 0)
		convert->type = VHD_FIXED;
	else if (strcmp(text, "dynamic") == 0)
		convert->type = VHD_DYNAMIC;
	else if (!convert->to_raw)
		cli_usage(convert->cli, "unknown output format '%s'; it is raw, fixed or dynamic", text);
}

static int run(struct cli *cli)
{
	struct convert *convert = calloc(1, sizeof(*convert));
	bool force = false;
	uint64_t block_size;
	const char *arg;
	int code;

	if (!convert)
		return cli_fail(cli, "out of memory");
	convert->cli = cli;
	convert->type = VHD_DYNAMIC;
	for (int key; (key = cli_next(cli, &arg)) != CLI_END;) {
		switch (key) {
		case 'O':
			output_parse(convert, arg);
			break;
		case KEY_BLOCK_SIZE:
			block_size = cli_size(cli, "--block-size", arg);
			if (block_size < 4096 || block_size > UINT64_C(1) << 31 || !is_power_of_two(block_size))
				cli_usage(cli, "--block-size: '%s' is no power of two from 4K to 2G", arg);
			convert->block_size = (uint32_t)block_size;
			break;
		case KEY_FORCE:
			force = true;
			break;
		case KEY_KEEP_UUID:
			convert->keep_uuid = true;
			break;
		}
	}
	if (convert->keep_uuid && (cli->raw || convert->to_raw))
		cli_usage(cli, "--keep-uuid: a raw disk has no Unique Id");
	if (convert->block_size && (convert->to_raw || convert->type != VHD_DYNAMIC))
		cli_usage(cli, "--block-size: only a dynamic disk has blocks");
	convert->target_path = cli->operands[1];
	interrupt_catch();
	code = cli_disk_open(cli, cli->operands[0], cli->raw, false, &convert->source);
	if (code == CLI_OK) {
		code = convert_run(convert, force);
		code = cli_disk_close(cli, &convert->source, code);
	}
	free(convert);
	return code;
}

const struct cli_command command_convert = {
        .name = "convert",
        .operands = "SRC DST",
        .summary = "copy a disk into a new file of another kind",
        .details = "A chain becomes one disk. DST is complete or not there.",
        .groups = CLI_CHAIN | CLI_SALVAGE | CLI_FORMAT | CLI_DIRECT | CLI_PROGRESS,
        .min_operands = 2,
        .max_operands = 2,
        .options = options,
        .run = run,
};
