/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef VHD_CMD_CHECK_H
#define VHD_CMD_CHECK_H

/* Between cmd-check.c, which reads the options, and cmd-check-repair.c. */

#include "vhd/cli.h"

/* Each after the options were read; an exit code. */
int check_repair(struct cli *cli, const struct vhd_repair_options *options);
int check_undo(struct cli *cli, const char *side_file, bool force);

#endif
