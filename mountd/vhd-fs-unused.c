/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * vhd-fs-unused: prints what no file system on a disk uses, for `vhd compact --fs`, which starts it before it opens the
 * image for writing. So file systems, which may be hostile, are read by a process that can only read; it shuts itself in
 * once the image is open. The output's format is in its help text; vhd/fs-unused.c reads it.
 *
 * The `file` lines are there because this process and the one that compacts do not hold the locks together: who finds
 * the same inodes, sizes and times when it has the files locked for writing knows that the list still holds.
 */

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/standard-files.h"
#include "mountd/disk.h"
#include "mountd/sandbox.h"
#include "mountd/unused.h"
#include "vhd/vhd.h"

#define MEMORY_MAX (UINT64_C(512) << 20)
#define CPU_SECONDS 300u
#define WALL_SECONDS 900u

enum { OPT_PARENT = 256, OPT_PARENT_RAW, OPT_ALLOW_DIR, OPT_HELP, OPT_VERSION };

static const struct option long_options[] = {
	{"parent", required_argument, NULL, OPT_PARENT},
	{"parent-raw", no_argument, NULL, OPT_PARENT_RAW},
	{"allow-dir", required_argument, NULL, OPT_ALLOW_DIR},
	{"help", no_argument, NULL, OPT_HELP},
	{"version", no_argument, NULL, OPT_VERSION},
	{0},
};

static const char help[] =
	"Usage: vhd-fs-unused [OPTION]... IMAGE\n"
	"Lists the bytes of the disk in the VHD image IMAGE that no file system uses: free blocks of ext2, ext3, ext4 and\n"
	"NTFS, where that is certain. For vhd compact --fs. IMAGE is only read.\n"
	"\n"
	"      --parent=FILE     the parent of a differencing IMAGE, instead of the one that it names\n"
	"      --parent-raw      that parent is a raw disk\n"
	"      --allow-dir=DIR   parents may lie in DIR too (may be repeated)\n"
	"      --help            show this text\n"
	"      --version         show the version\n"
	"\n"
	"On standard output, all numbers decimal:\n"
	"  format 1                                 always the first line\n"
	"  file DEVICE INODE SIZE MTIME CTIME       of each file of the chain, IMAGE first; times in ns since 1970\n"
	"  disk SIZE                                bytes\n"
	"  partition NUMBER TYPE OFFSET LENGTH UNUSED\n"
	"                                           a file system that was read: ext2, ext3, ext4 or ntfs; bytes;\n"
	"                                           NUMBER 0: it takes the whole disk\n"
	"  OFFSET LENGTH                            unused bytes, ascending, neither overlapping nor touching\n"
	"  end COUNT                                how many of those lines there were; without it the list is not complete\n"
	"What was left out is told on standard error, with the reason.\n"
	"\n"
	"Exit status: 0 the list is complete (it may be empty), 1 there is none, 2 wrong usage.\n";

static void __attribute__((noreturn)) usage_error(const char *what, const char *which)
{
	fprintf(stderr, "vhd-fs-unused: %s%s; see vhd-fs-unused --help\n", what, which);
	exit(2);
}

static void warn(void *user, const char *sentence)
{
	(void)user;
	fprintf(stderr, "vhd-fs-unused: warning: %s\n", sentence);
}

static const char *options_read(int argc, char **argv, struct vhd_open_options *ret)
{
	const char **dirs = calloc((size_t)argc + 1, sizeof(*dirs));
	unsigned dir_count = 0;
	int key;

	if (!dirs) {
		fprintf(stderr, "vhd-fs-unused: out of memory\n");
		exit(1);
	}
	*ret = (struct vhd_open_options){.allow_dirs = dirs, .warn = warn};
	opterr = 0;
	while ((key = getopt_long(argc, argv, ":", long_options, NULL)) != -1) {
		switch (key) {
		case OPT_PARENT:
			ret->parent = optarg;
			break;
		case OPT_PARENT_RAW:
			ret->parent_raw = true;
			break;
		case OPT_ALLOW_DIR:
			dirs[dir_count++] = optarg;
			break;
		case OPT_HELP:
			fputs(help, stdout);
			exit(0);
		case OPT_VERSION:
			printf("vhd-fs-unused (vhdkit) %s\n", vhd_version());
			exit(0);
		case ':':
			usage_error("a value is needed for ", argv[optind - 1]);
		default:
			usage_error("unknown option ", argv[optind - 1]);
		}
	}
	if (argc - optind != 1)
		usage_error("one image is needed", "");
	return argv[optind];
}

static int fail(const char *text)
{
	fprintf(stderr, "vhd-fs-unused: %s\n", text);
	return 1;
}

static int64_t ns_of(const struct timespec *time)
{
	return (int64_t)time->tv_sec * 1000000000 + time->tv_nsec;
}

/* The files are open and locked, so what they are does not change any more. */
static int files_print(const struct vhd *vhd)
{
	for (unsigned i = 0; i < vhd_layer_count(vhd); i++) {
		struct vhd_info info;
		struct stat st;

		vhd_layer_info(vhd, i, &info);
		if (stat(info.path, &st)) {
			fprintf(stderr, "vhd-fs-unused: %s: %s\n", info.path, strerror(errno));
			return 1;
		}
		printf("file %ju %ju %jd %" PRId64 " %" PRId64 "\n", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino,
		       (intmax_t)st.st_size, ns_of(&st.st_mtim), ns_of(&st.st_ctim));
	}
	return 0;
}

static void volume_print(void *user, const struct unused_volume *v)
{
	const char *image = user;

	if (!v->problem) {
		printf("partition %u %s %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", v->partition, v->type, v->offset, v->length,
		       v->unused);
		return;
	}
	if (v->partition)
		fprintf(stderr, "vhd-fs-unused: %s: partition %u (%s) is left out: %s\n", image, v->partition, v->type, v->problem);
	else
		fprintf(stderr, "vhd-fs-unused: %s: the disk, without partitions (%s), is left out: %s\n", image, v->type,
		        v->problem);
}

/* Starts the queue's thread, which cannot be done later. */
static int first_read(struct disk *disk)
{
	struct volume whole = {disk, 0, disk_size(disk)};
	uint8_t sector[BLK_SECTOR_SIZE];

	return volume_read(&whole, &(struct piece){sector, sizeof(sector), 0}, 1);
}

static int shut_in(struct disk *disk, struct err *err)
{
	const struct sandbox_limits limits = {MEMORY_MAX, CPU_SECONDS, WALL_SECONDS};
	int e = first_read(disk);

	if (e)
		return err_set(err, e, "cannot read the disk: %s", strerror(-e));
	e = sandbox_enter(&limits, err);
	if (e != -ENOTSUP)
		return e;
	fprintf(stderr, "vhd-fs-unused: warning: %s; going on in a process of its own, with limits\n", err->text);
	return 0;
}

static int list_print(struct disk *disk, const char *image)
{
	struct unused_list list = {0};
	struct err err;
	int e = unused_find(disk, &list, volume_print, (void *)image, &err);

	if (e) {
		fprintf(stderr, "vhd-fs-unused: %s: %s\n", image, err.text);
	} else {
		for (size_t i = 0; i < list.count; i++)
			printf("%" PRIu64 " %" PRIu64 "\n", list.ranges[i].offset, list.ranges[i].length);
		printf("end %zu\n", list.count);
	}
	unused_list_done(&list);
	return e ? 1 : 0;
}

static int run(const char *image, const struct vhd_open_options *options)
{
	struct disk *disk = NULL;
	struct vhd *vhd;
	struct err err;
	int status;

	/* io_uring would be a way around the filter of system calls. */
	if (setenv("VHDKIT_IO", "threads", 1))
		return fail("out of memory");
	if (vhd_open(image, options, &vhd, &err))
		return fail(err.text);
	printf("format 1\n");
	status = files_print(vhd);
	if (!status && (disk_new(vhd_blk(vhd), &disk, &err) || shut_in(disk, &err))) {
		fprintf(stderr, "vhd-fs-unused: %s: %s\n", image, err.text);
		status = 1;
	}
	if (!status) {
		printf("disk %" PRIu64 "\n", disk_size(disk));
		status = list_print(disk, image);
	}
	if ((fflush(stdout) || ferror(stdout)) && !status)
		status = fail("cannot write the list");
	disk_free(disk);
	if (vhd_close(vhd, &err) && !status)
		status = fail(err.text);
	return status;
}

int main(int argc, char **argv)
{
	struct vhd_open_options options;
	const char *image;
	int status;

	if (standard_files_hold() < 0)
		return 1;
	image = options_read(argc, argv, &options);
	status = run(image, &options);
	free((void *)options.allow_dirs);
	return status;
}
