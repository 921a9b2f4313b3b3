/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/standard-files.h"
#include "vhd/cli.h"

static const struct cli_command *const commands[] = {
        &command_create, &command_info, &command_map, &command_check, &command_convert, &command_read, &command_write,
        &command_discard, &command_snapshot, &command_merge, &command_rebase, &command_resize, &command_compact,
        &command_job, &command_changed, &command_export, &command_import, &command_compare, &command_hash,
        &command_verify, &command_bench,
};

#define COMMANDS (sizeof(commands) / sizeof(commands[0]))

static void help_print(FILE *out)
{
	fputs("Usage: vhd COMMAND [OPTIONS] OPERANDS\n\n"
	      "Makes, reads, writes, checks and looks after Virtual Hard Disk (VHD) images.\n\nCommands:\n",
	      out);
	for (size_t i = 0; i < COMMANDS; i++)
		fprintf(out, "  %-10s %s\n", commands[i]->name, commands[i]->summary);
	fputs("\n'vhd COMMAND --help' says what a command takes; vhd(1) has it all.\n"
	      "Sizes are bytes, or numbers with K, M, G or T (powers of 1024).\n"
	      "Exit status: 0 success, 1 failure, 2 wrong usage, 3 the answer is no\n"
	      "(damage found, images differ, what changed is not known, refused without\n"
	      "--force).\n",
	      out);
}

static int stdout_finish(int code)
{
	errno = 0;
	if (fflush(stdout) == 0 && !ferror(stdout))
		return code;
	/* Whoever read from a pipe has seen enough; there is nothing to say about that. */
	if (errno && errno != EPIPE)
		fprintf(stderr, "vhd: standard output: %s\n", strerror(errno));
	return CLI_FAILED;
}

static const struct cli_command *command_find(const char *name)
{
	for (size_t i = 0; i < COMMANDS; i++)
		if (strcmp(commands[i]->name, name) == 0)
			return commands[i];
	return NULL;
}

static int usage_fail(const char *what, const char *name)
{
	fprintf(stderr, "vhd: %s%s%s%s\nSee 'vhd --help'.\n", what, name ? " '" : "", name ? name : "", name ? "'" : "");
	return CLI_USAGE;
}

int main(int argc, char **argv)
{
	const struct cli_command *command;
	struct cli cli;
	int code;

	if (standard_files_hold() < 0)
		return CLI_FAILED;
	/* A reader that goes away is an error like others: images are closed, not dropped. */
	signal(SIGPIPE, SIG_IGN);
	if (argc < 2)
		return usage_fail("no command given", NULL);
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
	    (strcmp(argv[1], "help") == 0 && argc == 2)) {
		help_print(stdout);
		return stdout_finish(CLI_OK);
	}
	if (strcmp(argv[1], "--version") == 0) {
		printf("vhd (vhdkit) %s\n", vhd_version());
		return stdout_finish(CLI_OK);
	}
	if (strcmp(argv[1], "help") == 0) {
		command = command_find(argv[2]);
		if (!command)
			return usage_fail("unknown command", argv[2]);
		cli_help(command, stdout);
		return stdout_finish(CLI_OK);
	}
	command = command_find(argv[1]);
	if (!command)
		return usage_fail(argv[1][0] == '-' ? "unknown option" : "unknown command", argv[1]);
	code = cli_init(&cli, command, argc - 1, argv + 1);
	if (code == 0)
		code = command->run(&cli);
	cli_done(&cli);
	return stdout_finish(code);
}
