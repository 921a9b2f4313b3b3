/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The whole stream is verified before the first byte of the copy changes. While it is applied the copy has a Unique Id
 * made from those of both states, so that what is half applied is taken for neither of them; the same import, run
 * again, accepts it and finishes.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/interrupt.h"
#include "common/json.h"
#include "vhd/cli.h"
#include "vhd/increment.h"
#include "vhd/new-file.h"
#include "vhd/set-uuid.h"

#define ZEROS_MAX (UINT64_C(1) << 30) /* bytes at a time, so that a signal is noticed */

struct import {
	struct cli *cli;
	const char *stream_path, *copy_path;
	int fd;          /* of the stream, or of the copy made of it */
	off_t start;     /* of the stream in it */
	struct new_file spool; /* never given a name */
	bool spooled;
	struct increment_head head;
	struct increment_counts counts;
	uint8_t marker[16];
	bool unfit; /* the copy has the marker, but for the size of the later state there is no room: it is as it was */
	struct cli_disk copy;
	struct progress progress;
};

/* --- Pass one: is all of it sound? --- */

static int stream_verify(struct import *import, int spool_fd)
{
	struct increment_reader reader;
	struct increment_record record;
	struct err err = {.text = ""};
	int rc = increment_read_head(&reader, import->fd, spool_fd, import->stream_path, &err);

	if (rc == 0)
		rc = 1;
	while (rc > 0) {
		rc = increment_read_next(&reader, &record, &err);
		progress_update(&import->progress, reader.counts.stream_bytes);
	}
	import->head = reader.head;
	import->counts = reader.counts;
	increment_reader_done(&reader);
	if (rc)
		return cli_fail(import->cli, "%s; %s was not changed", err.text, import->copy_path);
	increment_marker(&import->head, import->marker);
	return CLI_OK;
}

static int stream_open(struct import *import)
{
	struct stat st;

	import->fd = STDIN_FILENO;
	if (import->stream_path)
		import->fd = open(import->stream_path, O_RDONLY | O_CLOEXEC);
	else
		import->stream_path = "standard input";
	if (import->fd < 0 || fstat(import->fd, &st) < 0)
		return cli_fail(import->cli, "%s: %s", import->stream_path, strerror(errno));
	if (S_ISDIR(st.st_mode))
		return cli_fail(import->cli, "%s: is a folder", import->stream_path);
	import->start = lseek(import->fd, 0, SEEK_CUR);
	import->spooled = !S_ISREG(st.st_mode) || import->start < 0;
	if (!import->spooled && st.st_size > import->start)
		/* Once to verify it, once to apply it. */
		import->progress.total = 2 * (uint64_t)(st.st_size - import->start);
	return CLI_OK;
}

/* What cannot be read twice is kept beside the copy, in a file without a name. */
static int stream_take(struct import *import)
{
	struct err err = {.text = ""};
	char *name;
	int code, rc;

	if (!import->spooled)
		return stream_verify(import, -1);
	if (asprintf(&name, "%s.increment", import->copy_path) < 0)
		return cli_fail(import->cli, "out of memory");
	rc = new_file_open(name, true, &import->spool, &err);
	free(name);
	if (rc) {
		import->spooled = false;
		return cli_fail_err(import->cli, &err);
	}
	code = stream_verify(import, import->spool.fd);
	import->fd = import->spool.fd;
	import->start = 0;
	return code;
}

/* --- Pass two --- */

static int record_apply(struct import *import, const struct increment_record *record, struct err *err)
{
	int rc = 0;

	for (uint64_t at = 0; record->zeros && at < record->length && rc == 0 && !interrupt_seen(); at += ZEROS_MAX) {
		uint64_t left = record->length - at;

		rc = blk_discard(import->copy.queue, record->offset + at, left < ZEROS_MAX ? left : ZEROS_MAX);
	}
	if (!record->zeros)
		rc = blk_pwrite(import->copy.queue, record->data, (size_t)record->length, record->offset);
	if (rc == 0 && interrupt_seen())
		rc = -EINTR;
	if (rc)
		err_set(err, rc, "%s: %s at offset %" PRIu64, import->copy_path, rc == -EINTR ? "interrupted" : strerror(-rc),
		        record->offset);
	return rc;
}

static int again(const struct import *import, const char *sentence)
{
	return cli_fail(import->cli, "%s; %s is between the two states now: run the same import again", sentence,
	                import->copy_path);
}

static int records_apply(struct import *import)
{
	uint64_t verified = import->counts.stream_bytes;
	struct increment_reader reader = {.fd = -1};
	struct increment_record record;
	struct err err = {.text = ""};
	int rc;

	if (lseek(import->fd, import->start, SEEK_SET) < 0)
		rc = err_set(&err, -errno, "%s: %s", import->stream_path, strerror(errno));
	else
		rc = increment_read_head(&reader, import->fd, -1, import->stream_path, &err);
	if (rc == 0 && (memcmp(reader.head.base, import->head.base, 16) ||
	                memcmp(reader.head.target, import->head.target, 16)))
		rc = err_set(&err, -EBADMSG, "%s: it was replaced by another while it was read", import->stream_path);
	if (rc == 0)
		rc = 1;
	while (rc > 0) {
		rc = increment_read_next(&reader, &record, &err);
		if (rc > 0 && record_apply(import, &record, &err))
			rc = -EIO;
		progress_update(&import->progress, verified + reader.counts.stream_bytes);
	}
	if (rc == 0) {
		rc = blk_flush(import->copy.queue);
		if (rc)
			err_set(&err, rc, "%s: flush: %s", import->copy_path, strerror(-rc));
	}
	increment_reader_done(&reader);
	return rc ? again(import, err.text) : CLI_OK;
}

/* --- The copy --- */

static int wrong_copy(const struct import *import, const uint8_t uuid[16])
{
	char found[37], base[37];

	vhd_uuid_text(uuid, found);
	vhd_uuid_text(import->head.base, base);
	if (!memcmp(uuid, import->head.target, 16))
		return cli_fail(import->cli, "%s: is in the state %s already, to which the increment leads", import->copy_path,
		                found);
	return cli_fail(import->cli, "%s: is not what the increment applies to: its Unique Id is %s, and the increment is "
	                "from %s", import->copy_path, found, base);
}

/* Where the disk was resized between the states the copy follows; one that has its later size already is right too. */
static int size_check(const struct import *import, uint64_t size)
{
	const struct increment_head *head = &import->head;

	if (size == head->base_size || size == head->size)
		return CLI_OK;
	return cli_fail(import->cli, "%s: has %" PRIu64 " bytes, and the increment is for a disk of %" PRIu64,
	                import->copy_path, size, head->base_size);
}

/*
 * Under the marker, so that no disk of the base's Unique Id ever has another size. What a larger copy gains is in the
 * stream, and what a smaller one loses the later state does not have: force is for that. That nobody stands on the copy
 * its opening has seen to.
 */
static int size_fit(struct import *import)
{
	static const struct vhd_resize_options options = {.force = true};
	struct err err = {.text = ""};
	struct vhd_info info;

	vhd_layer_info(import->copy.vhd, 0, &info);
	if (info.size_bytes == import->head.size || vhd_resize(import->copy.vhd, import->head.size, &options, NULL, &err) == 0)
		return CLI_OK;
	vhd_layer_info(import->copy.vhd, 0, &info);
	import->unfit = info.size_bytes == import->head.base_size;
	return import->unfit ? cli_fail_err(import->cli, &err) : again(import, err.text);
}

/*
 * Looks at the copy, and tells whether it is in the middle of this very import already. Opened for writing: who cannot
 * write to it, or must not since others stand on it, is told before it has the marker, by which they would not find it.
 */
static int copy_check(struct import *import, bool *ret_marked)
{
	struct vhd_info info;
	int code = cli_disk_open(import->cli, import->copy_path, false, true, &import->copy);

	if (code)
		return code;
	vhd_layer_info(import->copy.vhd, 0, &info);
	*ret_marked = !memcmp(info.uuid, import->marker, 16);
	if (!*ret_marked && memcmp(info.uuid, import->head.base, 16))
		code = wrong_copy(import, info.uuid);
	if (code == CLI_OK)
		code = size_check(import, info.size_bytes);
	return cli_disk_close(import->cli, &import->copy, code);
}

static int copy_change(struct import *import)
{
	struct vhd_info info;
	int code = cli_disk_open(import->cli, import->copy_path, false, true, &import->copy);

	if (code)
		return code;
	vhd_layer_info(import->copy.vhd, 0, &info);
	if (memcmp(info.uuid, import->marker, 16))
		code = cli_fail(import->cli, "%s: was replaced by another file just now", import->copy_path);
	else
		code = size_fit(import);
	if (code == CLI_OK)
		code = records_apply(import);
	return cli_disk_close(import->cli, &import->copy, code);
}

static int import_apply(struct import *import)
{
	struct err err = {.text = ""};
	bool marked;
	int code = copy_check(import, &marked);

	if (code)
		return code;
	if (interrupt_seen())
		return cli_fail(import->cli, "interrupted; %s was not changed", import->copy_path);
	if (!marked && image_set_uuid(import->copy_path, import->head.base, import->marker, &err))
		return cli_fail_err(import->cli, &err);
	code = copy_change(import);
	/* Nothing was written that belongs to the later state, unless the import had been cut off before. */
	if (code && import->unfit && !marked && image_set_uuid(import->copy_path, import->marker, import->head.base, &err))
		return again(import, err.text);
	if (code)
		return code;
	if (image_set_uuid(import->copy_path, import->marker, import->head.target, &err))
		return again(import, err.text);
	return CLI_OK;
}

static void summary_print(const struct import *import)
{
	const struct increment_counts *counts = &import->counts;
	struct json json = json_to(stdout);
	char since[37], uuid[37];

	vhd_uuid_text(import->head.base, since);
	vhd_uuid_text(import->head.target, uuid);
	if (!import->cli->json) {
		printf("from %s\nto   %s\n%" PRIu64 " bytes of data, %" PRIu64 " of zeros\n", since, uuid, counts->data_bytes,
		       counts->zero_bytes);
		return;
	}
	json_object_begin(&json, NULL);
	json_string(&json, "file", import->copy_path);
	json_string(&json, "since", since);
	json_string(&json, "uuid", uuid);
	json_uint(&json, "since_size_bytes", import->head.base_size);
	json_uint(&json, "size_bytes", import->head.size);
	json_uint(&json, "records", counts->records);
	json_uint(&json, "data_bytes", counts->data_bytes);
	json_uint(&json, "zero_bytes", counts->zero_bytes);
	json_uint(&json, "stream_bytes", counts->stream_bytes);
	json_object_end(&json);
}

static int run(struct cli *cli)
{
	struct import import = {.cli = cli, .fd = -1};
	int code;

	cli_no_options(cli);
	import.copy_path = cli->operands[1];
	import.stream_path = strcmp(cli->operands[0], "-") ? cli->operands[0] : NULL;
	if (!import.stream_path && isatty(STDIN_FILENO))
		cli_usage(cli, "standard input is a terminal; name the increment's file");
	interrupt_catch();
	code = stream_open(&import);
	if (code == CLI_OK) {
		progress_begin(&import.progress, stderr, cli->progress_mode, "bytes", import.progress.total);
		code = stream_take(&import);
		if (code == CLI_OK)
			code = import_apply(&import);
		progress_end(&import.progress);
	}
	if (code == CLI_OK)
		summary_print(&import);
	if (import.spooled)
		new_file_done(&import.spool);
	else if (import.fd > STDIN_FILENO)
		close(import.fd);
	return code;
}

const struct cli_command command_import = {
        .name = "import",
        .operands = "STREAM COPY",
        .summary = "apply a stream of 'vhd export' on a copy of its base",
        .details = "STREAM is a file, or - for standard input. COPY must be in the state that the stream begins with;\n"
                   "it takes the Unique Id of the one to which it leads.",
        .groups = CLI_CHAIN | CLI_PROGRESS | CLI_JSON,
        .min_operands = 2,
        .max_operands = 2,
        .run = run,
};
