/* SPDX-License-Identifier: GPL-2.0-or-later */

/* vhd-umount: unmounts, and returns when everything is on disk and the mount's process has ended. */

#include <errno.h>
#include <getopt.h>
#include <libgen.h>
#include <limits.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mountd/registry.h"
#include "vhd/vhd.h"

extern char **environ;

static const char help[] =
	"Usage: vhd-umount DIR\n"
	"Unmounts what vhd-mount has mounted at DIR. Returns when everything is on disk and the mount's process has\n"
	"ended, and says so when something could not be written.\n"
	"\n"
	"      --help            show this text\n"
	"      --version         show the version\n"
	"\n"
	"Exit status: 0 unmounted and on disk, 1 failed, 2 wrong usage.\n";

static int fail(const char *dir, const char *text)
{
	fprintf(stderr, "vhd-umount: %s: %s\n", dir, text);
	return 1;
}

/* The mount point's full path, without touching it: its process may be dead, or it another user's. */
static bool dir_resolve(const char *dir, char *ret)
{
	char copy[PATH_MAX], parent[PATH_MAX];
	const char *base;

	if (realpath(dir, ret))
		return true;
	if (strlen(dir) >= sizeof(copy))
		return false;
	strcpy(copy, dir);
	if (!realpath(dirname(copy), parent))
		return false;
	strcpy(copy, dir);
	base = basename(copy);
	if (strcmp(base, ".") == 0 || strcmp(base, "..") == 0)
		return false;
	return snprintf(ret, PATH_MAX, "%s/%s", strcmp(parent, "/") ? parent : "", base) < PATH_MAX;
}

/* mountinfo writes blanks and backslashes in octal. */
static void unescape(char *text)
{
	char *to = text;

	for (; *text; text++) {
		if (text[0] == '\\' && text[1] >= '0' && text[1] <= '3' && text[2] && text[3]) {
			*to++ = (char)((text[1] - '0') << 6 | (text[2] - '0') << 3 | (text[3] - '0'));
			text += 3;
		} else {
			*to++ = *text;
		}
	}
	*to = 0;
}

/* Whether the topmost mount at `dir` is one of ours, and whose. */
static bool mount_find(const char *dir, uid_t *ret_uid)
{
	FILE *file = fopen("/proc/self/mountinfo", "re");
	char *line = NULL;
	size_t size = 0;
	bool found = false;

	while (file && getline(&line, &size, file) > 0) {
		char *dash = strstr(line, " - "), *user;
		char point[PATH_MAX + 1], type[64];

		if (!dash || sscanf(line, "%*s %*s %*s %*s %4096s", point) != 1 || sscanf(dash + 3, "%63s", type) != 1)
			continue;
		unescape(point);
		if (strcmp(point, dir) != 0)
			continue;
		user = strstr(dash, "user_id=");
		found = strcmp(type, "fuse.vhd-mount") == 0 && user;
		if (found)
			*ret_uid = (uid_t)strtoul(user + 8, NULL, 10);
	}
	free(line);
	if (file)
		fclose(file);
	return found;
}

static int run_fusermount(const char *dir)
{
	char *argv[] = {(char *)"fusermount3", (char *)"-u", (char *)"--", (char *)dir, NULL};
	int status;
	pid_t pid;

	if (posix_spawnp(&pid, argv[0], NULL, NULL, argv, environ))
		return fail(dir, "cannot run fusermount3: install fuse3");
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		return fail(dir, "could not be unmounted: see the message above; if it is in use, close what uses it");
	return 0;
}

static int unmount(const char *dir)
{
	if (geteuid() != 0)
		return run_fusermount(dir);
	if (umount2(dir, UMOUNT_NOFOLLOW) == 0)
		return 0;
	return fail(dir, errno == EBUSY ? "is in use: close what uses it (fuser -vm shows it), then try again"
	                                : strerror(errno));
}

static int unmount_and_wait(const char *dir)
{
	char path[PATH_MAX];
	struct waiter waiter;
	struct err err = {.text = ""};
	uid_t uid;
	bool known;

	if (!dir_resolve(dir, path))
		return fail(dir, strerror(errno));
	if (!mount_find(path, &uid))
		return fail(dir, "is not where vhd-mount has mounted something");
	known = waiter_open(path, uid, &waiter, &err) == 0;
	if (unmount(path)) {
		if (known)
			waiter_close(&waiter);
		return 1;
	}
	if (!known) {
		fprintf(stderr, "vhd-umount: %s: unmounted, but %s: check the file system with e2fsck\n", dir, err.text);
		return 1;
	}
	if (waiter_wait(&waiter, &err))
		return fail(dir, err.text);
	return 0;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"help", no_argument, NULL, 'h'}, {"version", no_argument, NULL, 'v'}, {0}};
	int key;

	opterr = 0;
	while ((key = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (key == 'h') {
			fputs(help, stdout);
			return 0;
		}
		if (key == 'v') {
			printf("vhd-umount (vhdkit) %s\n", vhd_version());
			return 0;
		}
		fprintf(stderr, "vhd-umount: unknown option %s; see vhd-umount --help\n", argv[optind - 1]);
		return 2;
	}
	if (argc - optind != 1) {
		fprintf(stderr, "vhd-umount: a folder is needed; see vhd-umount --help\n");
		return 2;
	}
	return unmount_and_wait(argv[optind]);
}
