/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vhd/hashing.h"

#include "vhd/scan.h"

static int chunk_hash(void *user, struct scan_slot *slot, struct err *err)
{
	struct manifest *manifest = user;

	for (size_t at = 0; at < slot->length; at += manifest->block_size) {
		const uint8_t *block = slot->data[0] + at;
		size_t length = slot->length - at < manifest->block_size ? slot->length - at : manifest->block_size;
		int r;

		if (zero_test(block, length))
			continue;
		r = manifest_add(manifest, (slot->offset + at) / manifest->block_size, XXH3_128bits(block, length));
		if (r < 0)
			return err_set(err, r, "out of memory");
	}
	return 0;
}

int disk_hash(const struct cli *cli, const struct cli_disk *disk, uint32_t block_size, struct manifest *ret)
{
	struct manifest manifest = {.size = disk->info.size, .block_size = block_size};
	struct progress progress;
	struct scan_options scan = {
	        .disks = {{disk->path, disk->blk, disk->queue, disk->info.size}},
	        .disk_count = 1,
	        .end = disk->info.size,
	        .chunk = block_size > SCAN_CHUNK ? block_size : SCAN_CHUNK,
	        .progress = &progress,
	        .chunk_read = chunk_hash,
	        .user = &manifest,
	};
	struct err err = {.text = ""};
	int r;

	progress_begin(&progress, stderr, cli->progress_mode, "bytes", scan.end);
	r = scan_run(&scan, &err);
	progress_end(&progress);
	if (r == 0)
		r = manifest_finish(&manifest) < 0 ? err_set(&err, -1, "out of memory") : 0;
	if (r < 0) {
		manifest_done(&manifest);
		return cli_fail_err(cli, &err);
	}
	*ret = manifest;
	return CLI_OK;
}
