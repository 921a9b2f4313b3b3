/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "common/standard-files.h"

#include <fcntl.h>

int standard_files_hold(void)
{
	for (int fd = 0; fd <= 2; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY) != fd)
			return -1;
	return 0;
}
