/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/interrupt.h"
#include "common/json.h"
#include "vhd/children.h"
#include "vhd/cli.h"
#include "vhd/increment.h"
#include "vhd/new-file.h"
#include "vhd/scan.h"
#include "vhd/sector-set.h"

#define DEPTH 8u
#define MAPPED 256u
/* Zeros shorter than this between data go as data: a record costs more than they do. */
#define GRAIN (64u << 10)

enum {
	KEY_SINCE = 256,
	KEY_FORCE,
};

static const struct cli_option options[] = {
        {KEY_SINCE, "since", "UUID", "from the state of this Unique Id (default: the parent)"},
        {'o', "output", "OUT", "the stream's file (default -, standard output)"},
        {KEY_FORCE, "force", NULL, "replace OUT if it exists"},
        {0},
};

/* A stretch of what changed, on its way from the disk into the stream. */
struct piece {
	struct export *export;
	uint64_t offset, length;
	bool zeros; /* nothing to read */
	bool reading;
	int result;
	uint8_t *buffer; /* INCREMENT_DATA_MAX bytes */
	struct blk_req req;
	struct iovec iov;
};

struct export {
	struct cli *cli;
	struct cli_disk disk;
	struct vhd_changed_result result;
	struct sector_set set;
	struct vhd_job *job;
	struct progress progress;
	struct increment_writer writer;
	struct piece pieces[DEPTH]; /* a ring: `first` is the next for the stream */
	unsigned first, count;
	/* Where pieces come from. */
	struct sector_run run;   /* what is left of it */
	struct blk_extent mapped[MAPPED];
	unsigned mapped_at, mapped_count;
	/* Zeros that are not in the stream yet. */
	uint64_t zeros_offset, zeros_length;
	uint64_t done;
};

/* --- What changed --- */

static int extent_take(void *user, const struct vhd_extent *extent)
{
	struct export *export = user;
	uint64_t sectors = export->result.size_bytes / BLK_SECTOR_SIZE;

	if (!export->set.chunks && sector_set_init(&export->set, sectors))
		return -ENOMEM;
	return sector_set_add(&export->set, extent->offset / BLK_SECTOR_SIZE, extent->length / BLK_SECTOR_SIZE);
}

static void on_progress(void *user, uint64_t done, uint64_t total)
{
	struct export *export = user;

	if (interrupt_seen())
		vhd_job_cancel(export->job);
}

static int changes_find(struct export *export, const uint8_t *since)
{
	struct cli *cli = export->cli;
	struct vhd_changed_options changed = {
	        .since = since,
	        .parent = cli->parent,
	        .parent_raw = cli->parent_raw,
	        .allow_dirs = cli->allow_dirs,
	        .job = export->job,
	        .progress = on_progress,
	        .extent = extent_take,
	        .user = export,
	};
	static const uint8_t null[16];
	struct err err = {.text = ""};
	struct vhd_info info;
	int rc;

	rc = vhd_changed(export->disk.path, &changed, &export->result, &err);
	if (interrupt_seen())
		return cli_fail(cli, "%s: interrupted", export->disk.path);
	if (rc) {
		cli_fail(cli, "%s", err.text[0] ? err.text : strerror(rc < 0 ? -rc : 0));
		return rc == VHD_E_UNKNOWN_BASE ? CLI_NO : CLI_FAILED;
	}
	/* The disk was open all the while; but a file can be replaced by another of its name. */
	vhd_layer_info(export->disk.vhd, 0, &info);
	if (memcmp(info.uuid, export->result.uuid, 16) || info.size_bytes != export->result.size_bytes)
		return cli_fail(cli, "%s: was replaced by another file just now", export->disk.path);
	if (!memcmp(export->result.since, null, 16))
		return cli_fail(cli, "%s: its parent is a raw disk, which has no Unique Id: no copy of it could be told from "
		                "other disks", export->disk.path);
	if (!memcmp(export->result.since, export->result.uuid, 16))
		return cli_fail(cli, "%s: has its parent's Unique Id: a merge was cut off; finish it first", export->disk.path);
	return CLI_OK;
}

/*
 * A file with nothing on it may be written to again under the Unique Id that the copies get: the next increment would
 * lack those writes, and nobody could see it.
 */
static void warn_if_not_frozen(const struct export *export)
{
	const char *path = export->disk.path;
	struct children children;
	struct store *store;
	struct layer *layer;

	if (store_file_open(path, 0, &store, NULL) || layer_open_take(store, path, NULL, &layer, NULL))
		return;
	if (children_find(layer, path, &children, NULL) == 0) {
		if (children.count == 0)
			cli_note(export->cli, "%s: no differencing disk stands on it: if it is written to after this, increments that "
			         "begin with it will lack that; put one on it before (vhd create -b %s CHILD)", path, path);
		children_done(&children);
	}
	layer_free(layer);
}

/* --- Reading --- */

static void read_done(struct blk_req *req, int result)
{
	struct piece *piece = req->user;

	piece->reading = false;
	piece->result = result;
}

/* The next stretch of one kind: 1, 0 at the end, or -errno with the sentence. */
static int stretch_next(struct export *export, struct blk_extent *ret, struct err *err)
{
	if (export->mapped_at == export->mapped_count) {
		uint64_t offset = export->run.first * BLK_SECTOR_SIZE, length;
		int n;

		if (export->run.count == 0 && !sector_set_next(&export->set, export->run.first, &export->run))
			return 0;
		offset = export->run.first * BLK_SECTOR_SIZE;
		length = export->run.count * BLK_SECTOR_SIZE;
		n = blk_map(export->disk.blk, offset, length, export->mapped, MAPPED, err);
		if (n < 0)
			return n;
		/* Read only and locked: what was mapped stays so. */
		blk_unmap(export->disk.blk);
		export->mapped_at = 0;
		export->mapped_count = (unsigned)n;
		length = export->mapped[n - 1].offset + export->mapped[n - 1].length - offset;
		export->run.first += length / BLK_SECTOR_SIZE;
		export->run.count -= length / BLK_SECTOR_SIZE;
	}
	*ret = export->mapped[export->mapped_at++];
	return 1;
}

/* Starts reading what comes next. 1, 0 at the end, -errno. */
static int piece_start(struct export *export, struct err *err)
{
	struct piece *piece = &export->pieces[(export->first + export->count) % DEPTH];
	struct blk_extent stretch;
	int rc = stretch_next(export, &stretch, err);

	if (rc <= 0)
		return rc;
	if (stretch.kind == BLK_EXTENT_DATA && stretch.length > INCREMENT_DATA_MAX) {
		struct blk_extent *rest = &export->mapped[--export->mapped_at];

		rest->offset += INCREMENT_DATA_MAX;
		rest->length -= INCREMENT_DATA_MAX;
		stretch.length = INCREMENT_DATA_MAX;
	}
	piece->export = export;
	piece->offset = stretch.offset;
	piece->length = stretch.length;
	piece->zeros = stretch.kind == BLK_EXTENT_ZERO;
	piece->result = 0;
	piece->reading = !piece->zeros;
	export->count++;
	if (piece->zeros)
		return 1;
	piece->iov = (struct iovec){piece->buffer, piece->length};
	piece->req = (struct blk_req){
	        .op = BLK_READ,
	        .offset = piece->offset,
	        .length = piece->length,
	        .iov = &piece->iov,
	        .iovcnt = 1,
	        .done = read_done,
	        .user = piece,
	};
	blk_submit(export->disk.queue, &piece->req);
	return 1;
}

/* --- Into the stream --- */

static int zeros_flush(struct export *export, struct err *err)
{
	uint64_t length = export->zeros_length;

	export->zeros_length = 0;
	return length ? increment_write_zeros(&export->writer, length, export->zeros_offset, err) : 0;
}

static int zeros_add(struct export *export, uint64_t offset, uint64_t length, struct err *err)
{
	int rc = 0;

	if (export->zeros_length && export->zeros_offset + export->zeros_length != offset)
		rc = zeros_flush(export, err);
	if (export->zeros_length == 0)
		export->zeros_offset = offset;
	export->zeros_length += length;
	return rc;
}

/* Data and zeros, cut at multiples of GRAIN from the piece's beginning. */
static int piece_put(struct export *export, const struct piece *piece, struct err *err)
{
	uint64_t end;
	int rc = 0;

	if (piece->zeros)
		return zeros_add(export, piece->offset, piece->length, err);
	for (uint64_t at = 0; at < piece->length && rc == 0; at = end) {
		bool zeros = true;

		for (end = at; end < piece->length; end += GRAIN) {
			uint64_t n = piece->length - end < GRAIN ? piece->length - end : GRAIN;
			bool same = zero_test(piece->buffer + end, n);

			if (end == at)
				zeros = same;
			else if (same != zeros)
				break;
		}
		if (end > piece->length)
			end = piece->length;
		if (zeros) {
			rc = zeros_add(export, piece->offset + at, end - at, err);
			continue;
		}
		rc = zeros_flush(export, err);
		if (rc == 0)
			rc = increment_write_data(&export->writer, piece->buffer + at, (size_t)(end - at), piece->offset + at, err);
	}
	return rc;
}

static int reads_wait(struct export *export, const struct piece *piece, struct err *err)
{
	while (piece->reading) {
		int rc = scan_wait(&export->disk.queue, 1);

		if (rc < 0)
			return err_set(err, rc, "%s: waiting for I/O: %s", export->disk.path, strerror(-rc));
	}
	return 0;
}

static int pieces_copy(struct export *export, struct err *err)
{
	bool more = true;
	int rc = 0;

	while (rc == 0 && (more || export->count)) {
		struct piece *piece = &export->pieces[export->first];

		while (rc == 0 && more && export->count < DEPTH) {
			rc = piece_start(export, err);
			more = rc > 0;
			rc = rc < 0 ? rc : 0;
		}
		if (rc || export->count == 0)
			break;
		rc = reads_wait(export, piece, err);
		if (rc == 0 && piece->result < 0)
			rc = err_set(err, piece->result, "%s: reading at offset %" PRIu64 ": %s", export->disk.path, piece->offset,
			             strerror(-piece->result));
		if (rc == 0 && interrupt_seen())
			rc = err_set(err, -EINTR, "%s: interrupted", export->writer.path);
		if (rc == 0)
			rc = piece_put(export, piece, err);
		export->first = (export->first + 1) % DEPTH;
		export->count--;
		export->done += piece->length;
		progress_update(&export->progress, export->done);
	}
	return rc ? rc : zeros_flush(export, err);
}

static int stream_write(struct export *export, int fd, const char *path)
{
	const struct vhd_changed_result *result = &export->result;
	struct increment_head head = {
	        .base_size = result->since_size_bytes,
	        .size = result->size_bytes,
	        .changed_bytes = result->changed_bytes,
	};
	struct err err = {.text = ""};
	struct vhd_info info;
	int rc;

	vhd_layer_info(export->disk.vhd, 0, &info);
	head.block_size = info.block_size_bytes;
	memcpy(head.base, result->since, 16);
	memcpy(head.target, result->uuid, 16);
	progress_begin(&export->progress, stderr, export->cli->progress_mode, "bytes", result->changed_bytes);
	rc = increment_write_head(&export->writer, fd, path, &head, &err);
	if (rc == 0)
		rc = pieces_copy(export, &err);
	/* Buffers that the kernel may still fill stay until it is done with them. */
	for (unsigned i = 0; i < DEPTH; i++)
		if (reads_wait(export, &export->pieces[i], NULL))
			export->pieces[i].buffer = NULL;
	if (rc == 0)
		rc = increment_write_end(&export->writer, &err);
	progress_end(&export->progress);
	if (rc)
		return cli_fail(export->cli, "%s", err.text[0] ? err.text : strerror(-rc));
	return CLI_OK;
}

static void summary_print(const struct export *export)
{
	const struct increment_counts *counts = &export->writer.counts;
	struct json json = json_to(stdout);
	char since[37], uuid[37];

	vhd_uuid_text(export->result.since, since);
	vhd_uuid_text(export->result.uuid, uuid);
	if (!export->cli->json) {
		printf("from %s\nto   %s\n%" PRIu64 " bytes of data, %" PRIu64 " of zeros; the stream has %" PRIu64 "\n", since,
		       uuid, counts->data_bytes, counts->zero_bytes, counts->stream_bytes);
		return;
	}
	json_object_begin(&json, NULL);
	json_string(&json, "file", export->disk.path);
	json_string(&json, "since", since);
	json_string(&json, "uuid", uuid);
	json_uint(&json, "since_size_bytes", export->result.since_size_bytes);
	json_uint(&json, "size_bytes", export->result.size_bytes);
	json_uint(&json, "records", counts->records);
	json_uint(&json, "data_bytes", counts->data_bytes);
	json_uint(&json, "zero_bytes", counts->zero_bytes);
	json_uint(&json, "stream_bytes", counts->stream_bytes);
	json_object_end(&json);
}

static int file_write(struct export *export, const char *path, bool force)
{
	struct err err = {.text = ""};
	struct new_file file;
	int code, rc = new_file_open(path, force, &file, &err);

	if (rc)
		return cli_fail(export->cli, "%s%s", err.text, rc == -EEXIST ? "; --force replaces it" : "");
	code = stream_write(export, file.fd, path);
	if (code == CLI_OK && new_file_commit(&file, &err))
		code = cli_fail_err(export->cli, &err);
	new_file_done(&file);
	return code;
}

static int export_run(struct export *export, const uint8_t *since, const char *output, bool force)
{
	struct err err;
	int code = CLI_OK;

	if (vhd_job_new(&export->job, &err))
		return cli_fail_err(export->cli, &err);
	for (unsigned i = 0; i < DEPTH && code == CLI_OK; i++) {
		export->pieces[i].buffer = aligned_alloc(4096, INCREMENT_DATA_MAX);
		if (!export->pieces[i].buffer)
			code = cli_fail(export->cli, "out of memory");
	}
	if (code == CLI_OK)
		code = changes_find(export, since);
	if (code == CLI_OK)
		warn_if_not_frozen(export);
	if (code == CLI_OK)
		code = output ? file_write(export, output, force) : stream_write(export, STDOUT_FILENO, "standard output");
	if (code == CLI_OK && output)
		summary_print(export);
	for (unsigned i = 0; i < DEPTH; i++)
		free(export->pieces[i].buffer);
	increment_writer_done(&export->writer);
	sector_set_done(&export->set);
	vhd_job_free(export->job);
	return code;
}

static int run(struct cli *cli)
{
	struct export *export = calloc(1, sizeof(*export));
	const char *arg, *output = NULL;
	bool since = false, force = false;
	uint8_t uuid[16];
	int code;

	if (!export)
		return cli_fail(cli, "out of memory");
	export->cli = cli;
	for (int key; (key = cli_next(cli, &arg)) != CLI_END;) {
		switch (key) {
		case KEY_SINCE:
			cli_uuid(cli, "--since", arg, uuid);
			since = true;
			break;
		case KEY_FORCE:
			force = true;
			break;
		default:
			output = strcmp(arg, "-") ? arg : NULL;
		}
	}
	if (!output && cli->json)
		cli_usage(cli, "--json: standard output is for the stream; name a file with -o");
	if (!output && isatty(STDOUT_FILENO))
		cli_usage(cli, "standard output is a terminal; name a file with -o");
	interrupt_catch();
	code = cli_disk_open(cli, cli->operands[0], false, false, &export->disk);
	if (code == CLI_OK) {
		code = export_run(export, since ? uuid : NULL, output, force);
		code = cli_disk_close(cli, &export->disk, code);
	}
	free(export);
	return code;
}

const struct cli_command command_export = {
        .name = "export",
        .operands = "FILE",
        .summary = "write what changed since a state as a stream, for 'vhd import'",
        .details = "FILE must not be written to any more: put a differencing disk on it first (vhd create -b FILE CHILD).",
        .groups = CLI_CHAIN | CLI_DIRECT | CLI_PROGRESS | CLI_JSON,
        .min_operands = 1,
        .max_operands = 1,
        .options = options,
        .run = run,
};
