/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "common/interrupt.h"
#include "common/json.h"
#include "vhd/cli.h"

#define EXTENTS 1024u

struct printer {
	struct json json;
	bool as_json;
	struct blk_extent pending; /* length 0: none */
};

static void extent_print(struct printer *printer, const struct blk_extent *extent)
{
	bool data = extent->kind == BLK_EXTENT_DATA;

	if (!printer->as_json) {
		printf("%20" PRIu64 " %20" PRIu64 "  ", extent->offset, extent->length);
		if (data)
			printf("data %6u %20" PRIu64 "\n", extent->layer, extent->file_offset);
		else
			puts("zero");
		return;
	}
	json_object_begin(&printer->json, NULL);
	json_uint(&printer->json, "offset", extent->offset);
	json_uint(&printer->json, "length", extent->length);
	json_string(&printer->json, "kind", data ? "data" : "zero");
	if (data) {
		json_uint(&printer->json, "layer", extent->layer);
		json_uint(&printer->json, "file_offset", extent->file_offset);
	} else {
		json_null(&printer->json, "layer");
		json_null(&printer->json, "file_offset");
	}
	json_object_end(&printer->json);
}

static bool extent_continues(const struct blk_extent *a, const struct blk_extent *b)
{
	if (a->length == 0 || a->kind != b->kind || a->offset + a->length != b->offset)
		return false;
	return a->kind == BLK_EXTENT_ZERO || (a->layer == b->layer && a->file_offset + a->length == b->file_offset);
}

static void extent_take(struct printer *printer, const struct blk_extent *extent)
{
	if (extent_continues(&printer->pending, extent)) {
		printer->pending.length += extent->length;
		return;
	}
	if (printer->pending.length)
		extent_print(printer, &printer->pending);
	printer->pending = *extent;
}

static void files_print(const struct cli_disk *disk)
{
	struct vhd_info info;

	for (unsigned i = 0; disk->vhd && i < vhd_layer_count(disk->vhd); i++) {
		vhd_layer_info(disk->vhd, i, &info);
		printf("# layer %u: %s\n", i, info.path);
	}
	printf("# %18s %20s  %s %6s %20s\n", "offset", "length", "kind", "layer", "file offset");
}

static int map_print(const struct cli *cli, const struct cli_disk *disk)
{
	struct printer printer = {.json = json_to(stdout), .as_json = cli->json};
	static struct blk_extent extents[EXTENTS];
	struct err err = {.text = ""};
	uint64_t offset = 0;

	if (cli->json)
		json_array_begin(&printer.json, NULL);
	else
		files_print(disk);
	while (offset < disk->info.size) {
		int count = blk_map(disk->blk, offset, disk->info.size - offset, extents, EXTENTS, &err);

		if (count < 0)
			return cli_fail(cli, "%s: map at offset %" PRIu64 ": %s", disk->path, offset,
			                err.text[0] ? err.text : strerror(-count));
		for (int i = 0; i < count; i++)
			extent_take(&printer, &extents[i]);
		offset = extents[count - 1].offset + extents[count - 1].length;
		blk_unmap(disk->blk);
		if (ferror(stdout))
			return CLI_FAILED;
		if (interrupt_seen())
			return cli_fail(cli, "%s: interrupted at offset %" PRIu64, disk->path, offset);
	}
	if (printer.pending.length)
		extent_print(&printer, &printer.pending);
	if (cli->json)
		json_array_end(&printer.json);
	return CLI_OK;
}

static int run(struct cli *cli)
{
	struct cli_disk disk;
	int code;

	cli_no_options(cli);
	interrupt_catch();
	code = cli_disk_open(cli, cli->operands[0], cli->raw, false, &disk);
	if (code)
		return code;
	code = map_print(cli, &disk);
	return cli_disk_close(cli, &disk, code);
}

const struct cli_command command_map = {
        .name = "map",
        .operands = "FILE",
        .summary = "list which ranges hold data, and where",
        .groups = CLI_CHAIN | CLI_SALVAGE | CLI_FORMAT | CLI_JSON,
        .min_operands = 1,
        .max_operands = 1,
        .run = run,
};
