/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/interrupt.h"
#include "vhd/cli.h"
#include "vhd/scan.h"

struct output {
	uint64_t offset, end; /* what the user asked for */
};

static int bytes_write(const uint8_t *bytes, size_t length, struct err *err)
{
	while (length) {
		ssize_t n = write(STDOUT_FILENO, bytes, length);

		if (n < 0 && errno == EINTR && !interrupt_seen())
			continue;
		if (n < 0)
			return err_set(err, -errno, "standard output: %s", strerror(errno));
		bytes += n;
		length -= (size_t)n;
	}
	return 0;
}

/* The scan works in whole sectors: the edges are cut off here. */
static int chunk_print(void *user, struct scan_slot *slot, struct err *err)
{
	const struct output *output = user;
	uint64_t start = slot->offset > output->offset ? slot->offset : output->offset;
	uint64_t end = slot->offset + slot->length < output->end ? slot->offset + slot->length : output->end;

	return bytes_write(slot->data[0] + (start - slot->offset), (size_t)(end - start), err);
}

static int zeros_print(void *user, uint64_t offset, uint64_t length, struct err *err)
{
	static const uint8_t zeros[SCAN_CHUNK];
	const struct output *output = user;
	uint64_t end = offset + length < output->end ? offset + length : output->end;
	uint64_t at = offset > output->offset ? offset : output->offset;

	while (at < end) {
		size_t part = end - at < sizeof(zeros) ? (size_t)(end - at) : sizeof(zeros);
		int r = bytes_write(zeros, part, err);

		if (r < 0)
			return r;
		if (interrupt_seen())
			return err_set(err, -EINTR, "interrupted");
		at += part;
	}
	return 0;
}

static int range_print(const struct cli *cli, const struct cli_disk *disk, uint64_t offset, uint64_t length)
{
	struct output output = {.offset = offset, .end = offset + length};
	uint64_t aligned_end = round_up(output.end, disk->info.request_align);
	struct progress progress;
	struct scan_options scan = {
	        .disks = {{disk->path, disk->blk, disk->queue, disk->info.size}},
	        .disk_count = 1,
	        .offset = round_down(offset, disk->info.request_align),
	        .end = aligned_end < disk->info.size ? aligned_end : disk->info.size,
	        .progress = &progress,
	        .chunk_read = chunk_print,
	        .zeros = zeros_print,
	        .user = &output,
	};
	struct err err = {.text = ""};
	int r;

	if (length == 0)
		return CLI_OK;
	progress_begin(&progress, stderr, cli->progress_mode, "bytes", scan.end - scan.offset);
	r = scan_run(&scan, &err);
	progress_end(&progress);
	if (r == -EPIPE)
		return CLI_FAILED;
	return r < 0 ? cli_fail_err(cli, &err) : CLI_OK;
}

static int run(struct cli *cli)
{
	struct cli_disk disk;
	uint64_t offset, length;
	int code;

	cli_no_options(cli);
	offset = cli_size(cli, "OFFSET", cli->operands[1]);
	length = cli_size(cli, "LENGTH", cli->operands[2]);
	interrupt_catch();
	code = cli_disk_open(cli, cli->operands[0], cli->raw, false, &disk);
	if (code)
		return code;
	code = cli_range_inside(cli, &disk, offset, length) ? range_print(cli, &disk, offset, length) : CLI_FAILED;
	return cli_disk_close(cli, &disk, code);
}

const struct cli_command command_read = {
        .name = "read",
        .operands = "FILE OFFSET LENGTH",
        .summary = "write a range of a disk to standard output",
        .groups = CLI_CHAIN | CLI_SALVAGE | CLI_FORMAT | CLI_DIRECT | CLI_PROGRESS,
        .min_operands = 3,
        .max_operands = 3,
        .run = run,
};
