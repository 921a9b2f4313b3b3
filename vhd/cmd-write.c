/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/interrupt.h"
#include "vhd/cli.h"
#include "vhd/scan.h"

#define PIECE (1u << 20)
#define DEPTH 8u

struct piece {
	struct input *input;
	uint8_t *buffer;
	struct blk_req req;
	struct iovec iov;
	struct piece *next;
};

struct input {
	const struct cli *cli;
	struct cli_disk disk;
	uint64_t start, offset; /* offset: where the next byte goes */
	struct piece pieces[DEPTH];
	struct piece *idle;
	unsigned writing;
	int result;
	uint64_t failed_offset;
	bool told; /* of the failure */
	struct progress progress;
};

static void piece_done(struct blk_req *req, int result)
{
	struct piece *piece = req->user;
	struct input *input = piece->input;

	input->writing--;
	piece->next = input->idle;
	input->idle = piece;
	if (result < 0 && input->result == 0) {
		input->result = result;
		input->failed_offset = req->offset;
	}
}

static int pieces_wait(struct input *input, bool all)
{
	while (input->writing && (all || !input->idle)) {
		int r = scan_wait(&input->disk.queue, 1);

		if (r < 0)
			return cli_fail(input->cli, "%s: waiting for I/O: %s", input->disk.path, strerror(-r));
	}
	if (input->result == 0)
		return CLI_OK;
	if (input->told)
		return CLI_FAILED;
	input->told = true;
	return cli_fail(input->cli, "%s: writing at offset %" PRIu64 ": %s", input->disk.path, input->failed_offset,
	                strerror(-input->result));
}

/* Fills the buffer as far as the input goes. -errno. */
static ssize_t stdin_read(uint8_t *buffer, size_t length)
{
	size_t have = 0;

	while (have < length) {
		struct pollfd fd = {.fd = STDIN_FILENO, .events = POLLIN};
		ssize_t n;

		/* A signal between the question and a read that blocks would be noticed too late. */
		if (interrupt_seen())
			return -EINTR;
		if (poll(&fd, 1, 250) <= 0)
			continue;
		n = read(STDIN_FILENO, buffer + have, length - have);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		have += (size_t)n;
	}
	return (ssize_t)have;
}

/*
 * Writes what is in the piece at input->offset. Sectors that are not covered whole are read, changed and written back,
 * one at a time and alone.
 */
static int piece_write(struct input *input, struct piece *piece, size_t length)
{
	uint32_t align = input->disk.info.request_align;
	uint64_t offset = input->offset;
	int code;

	input->offset += length;
	if (offset % align == 0 && length % align == 0) {
		piece->iov = (struct iovec){piece->buffer, length};
		piece->req = (struct blk_req){
		        .op = BLK_WRITE,
		        .offset = offset,
		        .length = length,
		        .iov = &piece->iov,
		        .iovcnt = 1,
		        .done = piece_done,
		        .user = piece,
		};
		input->writing++;
		blk_submit(input->disk.queue, &piece->req);
		return CLI_OK;
	}
	code = pieces_wait(input, true);
	if (code == CLI_OK) {
		int r = blk_pwrite(input->disk.queue, piece->buffer, length, offset);

		if (r < 0)
			code = cli_fail(input->cli, "%s: writing at offset %" PRIu64 ": %s", input->disk.path, offset,
			                strerror(-r));
	}
	piece->next = input->idle;
	input->idle = piece;
	return code;
}

static bool stdin_has_more(void)
{
	uint8_t byte;

	return stdin_read(&byte, 1) != 0;
}

static int pieces_copy(struct input *input)
{
	for (;;) {
		uint64_t left = input->disk.info.size - input->offset;
		/* After an odd start, pieces begin at multiples of their size. */
		size_t room = PIECE - (size_t)(input->offset % PIECE);
		struct piece *piece;
		ssize_t have;
		int code;

		if (left == 0) {
			if (!stdin_has_more())
				return CLI_OK;
			return cli_fail(input->cli,
			                "%s: the disk ends at %" PRIu64 ": the first %" PRIu64
			                " bytes of standard input fitted and were written",
			                input->disk.path, input->disk.info.size, input->offset - input->start);
		}
		code = pieces_wait(input, false);
		if (code)
			return code;
		piece = input->idle;
		have = stdin_read(piece->buffer, left < room ? (size_t)left : room);
		if (have < 0)
			return cli_fail(input->cli, "%s: %s after %" PRIu64 " bytes", input->disk.path,
			                have == -EINTR ? "interrupted" : strerror((int)-have),
			                input->offset - input->start);
		if (have == 0)
			return CLI_OK;
		input->idle = piece->next;
		code = piece_write(input, piece, (size_t)have);
		if (code)
			return code;
		progress_update(&input->progress, input->offset - input->start);
	}
}

/* What is left of standard input, if it is a file. */
static bool stdin_length(uint64_t *ret)
{
	struct stat st;
	off_t at;

	if (fstat(STDIN_FILENO, &st) < 0 || !S_ISREG(st.st_mode))
		return false;
	at = lseek(STDIN_FILENO, 0, SEEK_CUR);
	if (at < 0)
		return false;
	*ret = at < st.st_size ? (uint64_t)(st.st_size - at) : 0;
	return true;
}

static int input_run(struct input *input)
{
	uint64_t length = 0, size = input->disk.info.size;
	int code = CLI_OK, wait_code, r;

	if (!cli_range_inside(input->cli, &input->disk, input->offset, 0))
		return CLI_FAILED;
	if (stdin_length(&length) && !range_inside(input->offset, length, size))
		return cli_fail(input->cli,
		                "%s: of %" PRIu64 " bytes only %" PRIu64 " fit between offset %" PRIu64
		                " and the disk's end at %" PRIu64 "; nothing was written",
		                input->disk.path, length, size - input->offset, input->offset, size);
	for (unsigned i = 0; i < DEPTH; i++) {
		struct piece *piece = &input->pieces[i];

		piece->input = input;
		piece->buffer = aligned_alloc(4096, PIECE);
		if (!piece->buffer)
			code = cli_fail(input->cli, "out of memory");
		piece->next = input->idle;
		input->idle = piece;
	}
	progress_begin(&input->progress, stderr, input->cli->progress_mode, "bytes", length);
	if (code == CLI_OK)
		code = pieces_copy(input);
	wait_code = pieces_wait(input, true);
	progress_end(&input->progress);
	if (code == CLI_OK)
		code = wait_code;
	r = blk_flush(input->disk.queue);
	if (r < 0)
		code = cli_fail(input->cli, "%s: flush: %s", input->disk.path, strerror(-r));
	/* Buffers that the kernel may still fill stay. */
	for (unsigned i = 0; i < DEPTH && input->writing == 0; i++)
		free(input->pieces[i].buffer);
	return code;
}

static int run(struct cli *cli)
{
	struct input input = {.cli = cli};
	int code;

	cli_no_options(cli);
	input.start = input.offset = cli_size(cli, "OFFSET", cli->operands[1]);
	interrupt_catch();
	code = cli_disk_open(cli, cli->operands[0], cli->raw, true, &input.disk);
	if (code)
		return code;
	code = input_run(&input);
	return cli_disk_close(cli, &input.disk, code);
}

const struct cli_command command_write = {
        .name = "write",
        .operands = "FILE OFFSET",
        .summary = "write standard input into a disk",
        .details = "What was written is durable when the command ends.",
        .groups = CLI_CHAIN | CLI_FORMAT | CLI_DIRECT | CLI_FORCE | CLI_PROGRESS,
        .min_operands = 2,
        .max_operands = 2,
        .run = run,
};
