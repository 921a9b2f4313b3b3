/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/directory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

int directory_link_fd(int fd, const char *path)
{
	char proc[64];

	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
	return linkat(AT_FDCWD, proc, AT_FDCWD, path, AT_SYMLINK_FOLLOW) < 0 ? -errno : 0;
}

int directory_link(const char *from, const char *to)
{
	return link(from, to) < 0 ? -errno : 0;
}

int directory_rename(const char *from, const char *to, bool replace)
{
	if (renameat2(AT_FDCWD, from, AT_FDCWD, to, replace ? 0 : RENAME_NOREPLACE) == 0)
		return 0;
	/* File systems that do not know the flag: a hard link does not replace either. */
	if (replace || errno != EINVAL)
		return -errno;
	if (link(from, to) < 0)
		return -errno;
	(void)unlink(from);
	return 0;
}

int directory_unlink(const char *path)
{
	return unlink(path) < 0 ? -errno : 0;
}

int directory_sync(const char *folder)
{
	int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;

	if (fd < 0)
		return -errno;
	if (fsync(fd) < 0 && errno != EINVAL)
		r = -errno;
	close(fd);
	return r;
}
