/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "mountd/options.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vhd/vhd.h"

enum { OPT_RAW = 256, OPT_PARENT, OPT_ALLOW_DIR, OPT_FORCE, OPT_HELP, OPT_VERSION };

static const struct option long_options[] = {
	{"read-only", no_argument, NULL, 'r'},
	{"partition", required_argument, NULL, 'p'},
	{"raw", no_argument, NULL, OPT_RAW},
	{"foreground", no_argument, NULL, 'f'},
	{"options", required_argument, NULL, 'o'},
	{"parent", required_argument, NULL, OPT_PARENT},
	{"allow-dir", required_argument, NULL, OPT_ALLOW_DIR},
	{"force", no_argument, NULL, OPT_FORCE},
	{"help", no_argument, NULL, OPT_HELP},
	{"version", no_argument, NULL, OPT_VERSION},
	{0},
};

static const char help[] =
	"Usage: vhd-mount [OPTION]... IMAGE DIR\n"
	"Shows the files inside the VHD image IMAGE in the folder DIR. Unmount with vhd-umount DIR.\n"
	"\n"
	"  -r, --read-only       change nothing: not a byte of IMAGE is written\n"
	"  -p, --partition=N     the file system of partition N, when there are several\n"
	"      --raw             show the disk and its partitions as plain files: disk.raw, p1.raw, ...\n"
	"  -f, --foreground      stay in the foreground and print errors\n"
	"  -o, --options=LIST    mount options: ro, rw, allow_other, default_permissions, noexec, noatime\n"
	"      --parent=FILE     the parent of a differencing IMAGE, instead of the one that it names\n"
	"      --allow-dir=DIR   parents may lie in DIR too (may be repeated)\n"
	"      --force           write though differencing disks stand on IMAGE, which will read wrong\n"
	"      --help            show this text\n"
	"      --version         show the version\n"
	"\n"
	"Exit status: 0 mounted, 1 not mounted, 2 wrong usage.\n";

static void __attribute__((format(printf, 1, 2), noreturn)) usage_error(const char *format, ...)
{
	va_list args;

	fprintf(stderr, "vhd-mount: ");
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, "; see vhd-mount --help\n");
	exit(2);
}

static void fuse_add(struct options *o, const char *option)
{
	size_t used = strlen(o->fuse);

	if (snprintf(o->fuse + used, sizeof(o->fuse) - used, "%s%s", used ? "," : "", option) >=
	    (int)(sizeof(o->fuse) - used))
		usage_error("too many mount options");
}

/* What /etc/fstab and mount(8) put among a file system's options though it is not for it. */
static bool option_is_for_others(const char *option)
{
	static const char *const names[] = {"defaults", "auto", "noauto", "user", "nouser", "users", "nofail", "_netdev",
	                                    "nosuid", "nodev", "exec", "async", "atime", "rw"};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strcmp(option, names[i]) == 0)
			return true;
	return strncmp(option, "x-", 2) == 0;
}

static void mount_options(struct options *o, char *list)
{
	static const char *const fuse_options[] = {"allow_other", "default_permissions", "noexec", "noatime"};
	char *save = NULL;

	for (char *option = strtok_r(list, ",", &save); option; option = strtok_r(NULL, ",", &save)) {
		bool known = option_is_for_others(option);

		if (strcmp(option, "ro") == 0)
			o->read_only = known = true;
		for (size_t i = 0; i < sizeof(fuse_options) / sizeof(fuse_options[0]) && !known; i++)
			if (strcmp(option, fuse_options[i]) == 0) {
				fuse_add(o, option);
				known = true;
			}
		if (!known)
			usage_error("unknown mount option \"%s\"", option);
	}
	/* Once others get in, the modes and owners of the files have to hold. */
	if (strstr(o->fuse, "allow_other") && !strstr(o->fuse, "default_permissions"))
		fuse_add(o, "default_permissions");
}

static unsigned number_read(const char *text)
{
	char *end;
	unsigned long n;

	errno = 0;
	n = strtoul(text, &end, 10);
	if (errno || *end || end == text || text[0] == '-' || n == 0 || n > 100000)
		usage_error("\"%s\" is not the number of a partition", text);
	return (unsigned)n;
}

void options_read(int argc, char **argv, struct options *ret)
{
	unsigned dirs = 0;
	int key;

	*ret = (struct options){.allow_dirs = calloc((size_t)argc + 1, sizeof(char *))};
	if (!ret->allow_dirs) {
		fprintf(stderr, "vhd-mount: out of memory\n");
		exit(1);
	}
	opterr = 0;
	while ((key = getopt_long(argc, argv, ":rp:fo:", long_options, NULL)) != -1) {
		switch (key) {
		case 'r':
			ret->read_only = true;
			break;
		case 'p':
			ret->partition = number_read(optarg);
			break;
		case 'f':
			ret->foreground = true;
			break;
		case 'o':
			mount_options(ret, optarg);
			break;
		case OPT_RAW:
			ret->raw = true;
			break;
		case OPT_PARENT:
			ret->parent = optarg;
			break;
		case OPT_ALLOW_DIR:
			ret->allow_dirs[dirs++] = optarg;
			break;
		case OPT_FORCE:
			ret->force = true;
			break;
		case OPT_HELP:
			fputs(help, stdout);
			exit(0);
		case OPT_VERSION:
			printf("vhd-mount (vhdkit) %s\n", vhd_version());
			exit(0);
		case ':':
			usage_error("the option %s needs a value", argv[optind - 1]);
		default:
			usage_error("unknown option %s", argv[optind - 1]);
		}
	}
	if (argc - optind != 2)
		usage_error("an image and a folder are needed");
	if (ret->raw && ret->partition)
		usage_error("--raw shows all partitions: leave -p out");
	ret->image = argv[optind];
	ret->dir = argv[optind + 1];
}
