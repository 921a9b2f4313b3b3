/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vhd/cli.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "common/blk-file.h"
#include "common/checked.h"
#include "common/size.h"

enum {
	KEY_HELP = 1000,
	KEY_PARENT,
	KEY_PARENT_RAW,
	KEY_ALLOW_DIR,
	KEY_DIRECT,
	KEY_SALVAGE,
	KEY_PROGRESS,
	KEY_JSON,
	KEY_FORCE,
	KEY_FORMAT,
};

struct group_option {
	unsigned group; /* 0: every command */
	struct cli_option option;
};

static const struct group_option group_options[] = {
        {CLI_FORMAT, {KEY_FORMAT, NULL, "raw|vhd", "what the image is (default vhd); never guessed"}},
        {CLI_CHAIN, {KEY_PARENT, "parent", "FILE", "take FILE as the parent, whatever the image says"}},
        {CLI_CHAIN, {KEY_PARENT_RAW, "parent-raw", NULL, "the file of --parent is a raw disk"}},
        {CLI_CHAIN | CLI_ALLOW_DIR, {KEY_ALLOW_DIR, "allow-dir", "DIR", "parents may lie in DIR too (repeatable)"}},
        {CLI_SALVAGE, {KEY_SALVAGE, "salvage", NULL, "read what a damaged image still holds; say what is missing"}},
        {CLI_DIRECT, {KEY_DIRECT, "direct", NULL, "bypass the page cache (O_DIRECT)"}},
        {CLI_FORCE, {KEY_FORCE, "force", NULL, "write though other disks stand on this one, which will read wrong"}},
        {CLI_JSON, {KEY_JSON, "json", NULL, "print JSON"}},
        {CLI_PROGRESS, {KEY_PROGRESS, "progress", "HOW", "none, bar or json (default: a bar on a terminal)"}},
        {0, {KEY_HELP, "help", NULL, "print this and exit"}},
};

#define GROUP_OPTIONS (sizeof(group_options) / sizeof(group_options[0]))

static bool group_option_applies(const struct cli_command *command, const struct group_option *option)
{
	return option->group == 0 || (command->groups & option->group);
}

static size_t own_option_count(const struct cli_command *command)
{
	size_t count = 0;

	if (command->options)
		while (command->options[count].key)
			count++;
	return count;
}

static void option_add(struct cli *cli, const struct cli_option *option, size_t *long_count)
{
	size_t end = strlen(cli->short_options);

	if (option->key < 256) {
		cli->short_options[end++] = (char)option->key;
		if (option->arg)
			cli->short_options[end++] = ':';
		cli->short_options[end] = '\0';
	}
	if (option->name)
		cli->long_options[(*long_count)++] = (struct option){
		        .name = option->name,
		        .has_arg = option->arg ? required_argument : no_argument,
		        .val = option->key,
		};
}

int cli_init(struct cli *cli, const struct cli_command *command, int argc, char **argv)
{
	size_t own = own_option_count(command), long_count = 0;

	*cli = (struct cli){.command = command, .argc = argc, .argv = argv};
	cli->short_options = calloc(2 * (own + GROUP_OPTIONS) + 8, 1);
	cli->long_options = calloc(own + GROUP_OPTIONS + 1, sizeof(*cli->long_options));
	if (!cli->short_options || !cli->long_options)
		return cli_fail(cli, "out of memory");
	strcpy(cli->short_options, ":h");
	if (command->groups & CLI_FORMAT)
		strcat(cli->short_options, "f:");
	for (size_t i = 0; i < own; i++)
		option_add(cli, &command->options[i], &long_count);
	for (size_t i = 0; i < GROUP_OPTIONS; i++)
		if (group_option_applies(command, &group_options[i]))
			option_add(cli, &group_options[i].option, &long_count);
	optind = 0;
	return 0;
}

void cli_done(struct cli *cli)
{
	free(cli->short_options);
	free(cli->long_options);
	free(cli->allow_dirs);
}

static void option_help(const struct cli_option *option, FILE *out)
{
	char left[64];
	int letter = option->key == KEY_FORMAT ? 'f' : option->key == KEY_HELP ? 'h' : option->key < 256 ? option->key : 0;

	if (!option->name)
		snprintf(left, sizeof(left), "-%c %s", letter, option->arg ? option->arg : "");
	else if (letter)
		snprintf(left, sizeof(left), "-%c, --%s%s%s", letter, option->name, option->arg ? "=" : "",
		         option->arg ? option->arg : "");
	else
		snprintf(left, sizeof(left), "    --%s%s%s", option->name, option->arg ? "=" : "",
		         option->arg ? option->arg : "");
	if (strlen(left) <= 25)
		fprintf(out, "  %-25s %s\n", left, option->help);
	else
		fprintf(out, "  %s\n  %-25s %s\n", left, "", option->help);
}

void cli_help(const struct cli_command *command, FILE *out)
{
	fprintf(out, "Usage: vhd %s [OPTIONS] %s\n\n%s.\n", command->name, command->operands, command->summary);
	if (command->details)
		fprintf(out, "\n%s\n", command->details);
	fputs("\nOptions:\n", out);
	for (size_t i = 0; i < own_option_count(command); i++)
		option_help(&command->options[i], out);
	for (size_t i = 0; i < GROUP_OPTIONS; i++)
		if (group_option_applies(command, &group_options[i]))
			option_help(&group_options[i].option, out);
}

void cli_usage(const struct cli *cli, const char *format, ...)
{
	va_list args;

	fprintf(stderr, "vhd %s: ", cli->command->name);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, "\nSee 'vhd %s --help'.\n", cli->command->name);
	exit(CLI_USAGE);
}

static void allow_dir_add(struct cli *cli, const char *dir)
{
	const char **grown = realloc(cli->allow_dirs, (cli->allow_dir_count + 2) * sizeof(*grown));

	if (!grown)
		exit(cli_fail(cli, "out of memory"));
	cli->allow_dirs = grown;
	grown[cli->allow_dir_count++] = dir;
	grown[cli->allow_dir_count] = NULL;
}

static void help_exit(const struct cli *cli) __attribute__((noreturn));

static void help_exit(const struct cli *cli)
{
	cli_help(cli->command, stdout);
	if (fflush(stdout) != 0)
		exit(cli_fail(cli, "standard output: %s", strerror(errno)));
	exit(CLI_OK);
}

/* Whether `key` was one of the shared options. */
static bool group_option_take(struct cli *cli, int key, const char *arg)
{
	switch (key) {
	case 'h':
	case KEY_HELP:
		help_exit(cli);
	case KEY_PARENT:
		cli->parent = arg;
		return true;
	case KEY_PARENT_RAW:
		cli->parent_raw = true;
		return true;
	case KEY_ALLOW_DIR:
		allow_dir_add(cli, arg);
		return true;
	case KEY_DIRECT:
		cli->direct = true;
		return true;
	case KEY_SALVAGE:
		cli->salvage = true;
		return true;
	case KEY_FORCE:
		cli->force = true;
		return true;
	case KEY_JSON:
		cli->json = true;
		return true;
	case KEY_PROGRESS:
		if (progress_mode_parse(arg, &cli->progress_mode) < 0)
			cli_usage(cli, "--progress: '%s' is none of none, bar, json", arg);
		return true;
	case 'f':
		if (!(cli->command->groups & CLI_FORMAT))
			return false;
		cli->raw = cli_format_raw(cli, arg);
		return true;
	default:
		return false;
	}
}

int cli_next(struct cli *cli, const char **arg)
{
	for (;;) {
		int at = optind ? optind : 1;
		int key = getopt_long(cli->argc, cli->argv, cli->short_options, cli->long_options, NULL);

		if (key == -1)
			break;
		if (key == ':')
			cli_usage(cli, "option '%s' needs an argument", cli->argv[optind - 1]);
		if (key == '?') {
			if (optopt > 0 && optopt < 256)
				cli_usage(cli, "unknown option '-%c'", optopt);
			cli_usage(cli, "unknown option, or one that takes no argument: '%s'",
			          cli->argv[optind > at ? optind - 1 : at]);
		}
		if (group_option_take(cli, key, optarg))
			continue;
		*arg = optarg;
		return key;
	}
	cli->operands = cli->argv + optind;
	cli->operand_count = cli->argc - optind;
	if (cli->operand_count < cli->command->min_operands)
		cli_usage(cli, "too few operands; it takes %s", cli->command->operands);
	if (cli->operand_count > cli->command->max_operands)
		cli_usage(cli, "unexpected operand '%s'; it takes %s", cli->operands[cli->command->max_operands],
		          cli->command->operands);
	if (cli->parent_raw && !cli->parent && (cli->command->groups & CLI_CHAIN))
		cli_usage(cli, "--parent-raw needs --parent");
	return CLI_END;
}

void cli_no_options(struct cli *cli)
{
	const char *arg;

	while (cli_next(cli, &arg) != CLI_END)
		;
}

uint64_t cli_size(const struct cli *cli, const char *what, const char *text)
{
	uint64_t value;
	int r = size_parse(text, &value);

	if (r == -ERANGE)
		cli_usage(cli, "%s: '%s' is too large", what, text);
	if (r < 0)
		cli_usage(cli, "%s: '%s' is not a size; write bytes, or a number with K, M, G or T", what, text);
	return value;
}

uint64_t cli_number(const struct cli *cli, const char *what, const char *text, uint64_t min, uint64_t max)
{
	char *end;
	unsigned long long value;

	errno = 0;
	value = strtoull(text, &end, 10);
	if (*text < '0' || *text > '9' || *end || errno || value < min || value > max)
		cli_usage(cli, "%s: '%s' is not a number from %" PRIu64 " to %" PRIu64, what, text, min, max);
	return value;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

void cli_uuid(const struct cli *cli, const char *what, const char *text, uint8_t ret[16])
{
	const char *at = text;
	bool good = strlen(text) == 36;

	for (unsigned i = 0; i < 16 && good; i++, at += 2) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			good = *at++ == '-';
		good = good && hex_digit(at[0]) >= 0 && hex_digit(at[1]) >= 0;
		if (good)
			ret[i] = (uint8_t)(hex_digit(at[0]) << 4 | hex_digit(at[1]));
	}
	if (!good)
		cli_usage(cli, "%s: '%s' is no Unique Id; it looks like 6e4ac331-97a1-4d52-8a5f-1c3f2a9d0c11, as 'vhd info' "
		          "prints it", what, text);
}

bool cli_format_raw(const struct cli *cli, const char *text)
{
	if (strcmp(text, "raw") == 0)
		return true;
	if (strcmp(text, "vhd") != 0 && strcmp(text, "vpc") != 0)
		cli_usage(cli, "unknown format '%s'; it is raw or vhd", text);
	return false;
}

#define NAME_LENGTH_MAX 4096

static void sentence_print(const struct cli *cli, const char *mark, const char *format, va_list args)
{
	char sentence[3 * NAME_LENGTH_MAX];
	const char *text = sentence, *hidden;

	vsnprintf(sentence, sizeof(sentence), format, args);
	fflush(stdout);
	fprintf(stderr, "vhd %s: %s", cli->command->name, mark);
	if (cli->hidden_name && (hidden = strstr(text, cli->hidden_name))) {
		fprintf(stderr, "%.*s%s", (int)(hidden - text), text, cli->shown_name);
		text = hidden + strlen(cli->hidden_name);
	}
	fprintf(stderr, "%s\n", text);
}

int cli_fail(const struct cli *cli, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	sentence_print(cli, "", format, args);
	va_end(args);
	return CLI_FAILED;
}

int cli_fail_err(const struct cli *cli, const struct err *err)
{
	return cli_fail(cli, "%s", err->text);
}

void cli_note(const struct cli *cli, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	sentence_print(cli, "note: ", format, args);
	va_end(args);
}

void cli_warn(void *user, const char *sentence)
{
	const struct cli *cli = user;

	fflush(stdout);
	fprintf(stderr, "vhd %s: warning: %s\n", cli->command->name, sentence);
}

static int disk_open(struct cli *cli, const char *path, bool raw, bool write, struct cli_disk *ret, struct err *err)
{
	struct vhd_open_options options = {
	        .flags = (write ? VHD_OPEN_WRITE : 0) | (cli->direct ? VHD_OPEN_DIRECT : 0) |
	                 (cli->salvage ? VHD_OPEN_SALVAGE : 0) | (cli->force ? VHD_OPEN_DESPITE_CHILDREN : 0),
	        .parent = cli->parent,
	        .parent_raw = cli->parent_raw,
	        .allow_dirs = cli->allow_dirs,
	        .warn = cli_warn,
	        .user = cli,
	};
	int r;

	if (raw)
		return blk_file_open(path, (write ? BLK_FILE_WRITE : 0) | (cli->direct ? BLK_FILE_DIRECT : 0), &ret->blk,
		                     err);
	r = vhd_open(path, &options, &ret->vhd, err);
	if (r)
		return r;
	ret->blk = vhd_blk(ret->vhd);
	return 0;
}

int cli_disk_open(struct cli *cli, const char *path, bool raw, bool write, struct cli_disk *ret)
{
	struct err err = {.text = ""};
	int r;

	*ret = (struct cli_disk){.path = path};
	r = disk_open(cli, path, raw, write, ret, &err);
	if (r) {
		bool may_be_raw = r == VHD_E_NOT_VHD && (cli->command->groups & CLI_FORMAT);

		return cli_fail(cli, "%s%s", err.text, may_be_raw ? "; if it is a raw disk, say so with -f raw" : "");
	}
	blk_info(ret->blk, &ret->info);
	r = blk_queue_new(ret->blk, NULL, &ret->queue, &err);
	if (r) {
		cli_fail(cli, "%s: no queue: %s", path, err.text[0] ? err.text : strerror(-r));
		return cli_disk_close(cli, ret, CLI_FAILED);
	}
	return 0;
}

int cli_disk_close(const struct cli *cli, struct cli_disk *disk, int code)
{
	struct err err = {.text = ""};
	int r;

	blk_queue_free(disk->queue);
	r = disk->vhd ? vhd_close(disk->vhd, &err) : blk_close(disk->blk, &err);
	*disk = (struct cli_disk){.path = disk->path};
	if (r)
		return cli_fail(cli, "%s", err.text[0] ? err.text : strerror(-r));
	return code;
}

bool cli_range_inside(const struct cli *cli, const struct cli_disk *disk, uint64_t offset, uint64_t length)
{
	if (range_inside(offset, length, disk->info.size))
		return true;
	cli_fail(cli, "%s: %" PRIu64 " bytes at offset %" PRIu64 " reach beyond the disk's end at %" PRIu64, disk->path,
	         length, offset, disk->info.size);
	return false;
}
