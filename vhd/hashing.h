/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef VHD_HASHING_H
#define VHD_HASHING_H

#include "vhd/cli.h"
#include "vhd/manifest.h"

/* Reads the disk and makes its manifest, freed with manifest_done. CLI_OK, or CLI_FAILED with the reason printed. */
int disk_hash(const struct cli *cli, const struct cli_disk *disk, uint32_t block_size, struct manifest *ret);

#endif
