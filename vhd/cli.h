/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef VHD_CLI_H
#define VHD_CLI_H

/*
 * What the subcommands of `vhd` share: options, operands, opening images, telling errors. A subcommand is one file,
 * cmd-<name>.c, with one struct cli_command; its tables make both getopt's and the --help text.
 *
 * Usage errors print and exit(2) at once, which is why options are read before anything is opened. Everything after
 * that returns an exit code.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "common/blk.h"
#include "common/err.h"
#include "common/progress.h"
#include "vhd/vhd.h"

enum cli_exit {
	CLI_OK = 0,
	CLI_FAILED = 1,
	CLI_USAGE = 2,
	CLI_NO = 3, /* the answer is no: damage found, images differ, refused without --force */
};

/* Groups of options that several subcommands take; their values land in struct cli. */
#define CLI_CHAIN 0x01u    /* --parent, --parent-raw, --allow-dir */
#define CLI_ALLOW_DIR 0x40u /* --allow-dir alone */
#define CLI_DIRECT 0x02u   /* --direct */
#define CLI_SALVAGE 0x04u  /* --salvage */
#define CLI_FORMAT 0x08u   /* -f raw|vhd */
#define CLI_PROGRESS 0x10u /* --progress */
#define CLI_JSON 0x20u     /* --json */
#define CLI_FORCE 0x80u    /* --force: writing to a parent of other disks */

struct cli_option {
	int key;          /* a letter when it has a short form, else a number over 255 */
	const char *name; /* long; NULL: only the letter, or the end of the table when `key` is 0 */
	const char *arg;  /* NULL: takes none */
	const char *help;
};

struct cli;

struct cli_command {
	const char *name;
	const char *operands; /* "FILE OFFSET LENGTH" */
	const char *summary;  /* one line */
	const char *details;  /* for --help, may be NULL */
	unsigned groups;
	int min_operands, max_operands;
	const struct cli_option *options; /* NULL: only groups */
	int (*run)(struct cli *cli);
};

struct cli {
	const struct cli_command *command;
	int argc;
	char **argv;
	char *short_options;          /* owned, as the next */
	struct option *long_options;
	const char **allow_dirs;      /* owned; NULL-terminated; NULL if none */
	size_t allow_dir_count;
	const char *parent;
	bool parent_raw, direct, salvage, raw, json, force;
	enum progress_mode progress_mode;
	const char *hidden_name, *shown_name; /* in sentences the second stands for the first; NULL: nothing does */
	char **operands; /* after cli_next said CLI_END */
	int operand_count;
};

#define CLI_END (-1)

int cli_init(struct cli *cli, const struct cli_command *command, int argc, char **argv);
void cli_done(struct cli *cli);

/* The next option of the command's own table, its argument in *arg; CLI_END after the last. */
int cli_next(struct cli *cli, const char **arg);

/* For commands without options of their own. */
void cli_no_options(struct cli *cli);

void cli_help(const struct cli_command *command, FILE *out);

/* Prints and exits with CLI_USAGE. */
void cli_usage(const struct cli *cli, const char *format, ...) __attribute__((format(printf, 2, 3), noreturn));

/* `what` names the option or operand in the sentence. Usage errors on anything but a size, a number in the range, ... */
uint64_t cli_size(const struct cli *cli, const char *what, const char *text);
uint64_t cli_number(const struct cli *cli, const char *what, const char *text, uint64_t min, uint64_t max);
void cli_uuid(const struct cli *cli, const char *what, const char *text, uint8_t ret[16]);
bool cli_format_raw(const struct cli *cli, const char *text);

/* "vhd <command>: <sentence>" on stderr. Returns CLI_FAILED. */
int cli_fail(const struct cli *cli, const char *format, ...) __attribute__((format(printf, 2, 3)));
int cli_fail_err(const struct cli *cli, const struct err *err);
void cli_note(const struct cli *cli, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Takes a sentence as a warning: for vhd_open_options.warn with `user` a struct cli. */
void cli_warn(void *user, const char *sentence);

/* A disk that a command works on: a VHD, or a raw file when the user said so. */
struct cli_disk {
	const char *path;
	struct vhd *vhd; /* NULL: raw */
	struct blk *blk;
	struct blk_queue *queue;
	struct blk_info info;
};

/* Opens with a queue for the calling thread. 0, or CLI_FAILED with the reason printed. */
int cli_disk_open(struct cli *cli, const char *path, bool raw, bool write, struct cli_disk *ret);

/* Frees the queue and closes; makes durable what was written. `code`, or CLI_FAILED if closing failed. */
int cli_disk_close(const struct cli *cli, struct cli_disk *disk, int code);

/* Whether [offset, offset + length) lies inside the disk; else prints that it does not. */
bool cli_range_inside(const struct cli *cli, const struct cli_disk *disk, uint64_t offset, uint64_t length);

extern const struct cli_command command_bench, command_changed, command_check, command_compare, command_convert,
        command_create, command_discard, command_export, command_hash, command_import, command_info, command_job,
        command_map, command_merge, command_read, command_rebase, command_resize, command_compact,
        command_snapshot, command_verify, command_write;

#endif
