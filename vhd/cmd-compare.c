/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "common/interrupt.h"
#include "common/json.h"
#include "vhd/cli.h"
#include "vhd/scan.h"

enum { KEY_ALL = 256 };

static const struct cli_option options[] = {
        {'F', NULL, "raw|vhd", "what B is (default vhd)"},
        {KEY_ALL, "all", NULL, "list every range that differs, in sectors"},
        {0},
};

struct compare {
	struct cli *cli;
	bool all;
	struct cli_disk a, b;
	struct json json;
	uint64_t offset, length; /* of the range that is not printed yet; length 0: none */
	uint64_t ranges, bytes;
};

static void range_print(struct compare *compare)
{
	if (compare->length == 0)
		return;
	compare->ranges++;
	compare->bytes += compare->length;
	if (compare->cli->json) {
		json_object_begin(&compare->json, NULL);
		json_uint(&compare->json, "offset", compare->offset);
		json_uint(&compare->json, "length", compare->length);
		json_object_end(&compare->json);
	} else {
		printf("differ at offset %" PRIu64 ", %" PRIu64 " bytes\n", compare->offset, compare->length);
	}
	compare->length = 0;
}

static void range_add(struct compare *compare, uint64_t offset, uint64_t length)
{
	if (compare->length && compare->offset + compare->length == offset) {
		compare->length += length;
		return;
	}
	range_print(compare);
	compare->offset = offset;
	compare->length = length;
}

static bool same(const uint8_t *a, const uint8_t *b, size_t length)
{
	if (a && b)
		return memcmp(a, b, length) == 0;
	return zero_test(a ? a : b, length);
}

static uint64_t first_difference(const uint8_t *a, const uint8_t *b, size_t length)
{
	for (size_t i = 0; i < length; i++)
		if ((a ? a[i] : 0) != (b ? b[i] : 0))
			return i;
	return length;
}

static int chunk_compare(void *user, struct scan_slot *slot, struct err *err)
{
	struct compare *compare = user;
	const uint8_t *a = slot->data[0], *b = slot->data[1];

	(void)err;
	if (same(a, b, slot->length))
		return 0;
	if (!compare->all) {
		compare->offset = slot->offset + first_difference(a, b, slot->length);
		compare->length = 1;
		return SCAN_STOP;
	}
	for (size_t at = 0; at < slot->length; at += BLK_SECTOR_SIZE) {
		size_t length = slot->length - at < BLK_SECTOR_SIZE ? slot->length - at : BLK_SECTOR_SIZE;

		if (!same(a ? a + at : NULL, b ? b + at : NULL, length))
			range_add(compare, slot->offset + at, length);
	}
	return 0;
}

static int compare_scan(struct compare *compare)
{
	const struct cli_disk *a = &compare->a, *b = &compare->b;
	struct progress progress;
	struct scan_options scan = {
	        .disks = {{a->path, a->blk, a->queue, a->info.size}, {b->path, b->blk, b->queue, b->info.size}},
	        .disk_count = 2,
	        .end = a->info.size > b->info.size ? a->info.size : b->info.size,
	        .progress = &progress,
	        .chunk_read = chunk_compare,
	        .user = compare,
	};
	struct err err = {.text = ""};
	int r;

	progress_begin(&progress, stderr, compare->cli->progress_mode, "bytes", scan.end);
	r = scan_run(&scan, &err);
	progress_end(&progress);
	return r < 0 ? cli_fail_err(compare->cli, &err) : CLI_OK;
}

static int compare_run(struct compare *compare)
{
	uint64_t a_size = compare->a.info.size, b_size = compare->b.info.size;
	int code;

	if (compare->cli->json) {
		json_object_begin(&compare->json, NULL);
		json_uint(&compare->json, "size_a_bytes", a_size);
		json_uint(&compare->json, "size_b_bytes", b_size);
		json_array_begin(&compare->json, "differences");
	} else if (a_size != b_size) {
		printf("sizes differ: %s has %" PRIu64 " bytes, %s has %" PRIu64 "; what only one has counts as zeros "
		       "in the other\n",
		       compare->a.path, a_size, compare->b.path, b_size);
	}
	code = compare_scan(compare);
	if (!compare->all && compare->length && !compare->cli->json) {
		printf("differ first at offset %" PRIu64 "\n", compare->offset);
		compare->ranges = 1;
	} else {
		range_print(compare);
	}
	if (compare->cli->json) {
		json_array_end(&compare->json);
		if (code == CLI_OK)
			json_bool(&compare->json, "same", compare->ranges == 0);
		else
			json_null(&compare->json, "same");
		json_object_end(&compare->json);
	} else if (code == CLI_OK && compare->ranges == 0) {
		puts("same content");
	} else if (compare->all) {
		printf("%" PRIu64 " ranges, %" PRIu64 " bytes differ\n", compare->ranges, compare->bytes);
	}
	if (code != CLI_OK)
		return code;
	return compare->ranges ? CLI_NO : CLI_OK;
}

static int run(struct cli *cli)
{
	struct compare compare = {.cli = cli, .json = json_to(stdout)};
	struct cli b_cli;
	bool b_raw = false;
	const char *arg;
	int code;

	for (int key; (key = cli_next(cli, &arg)) != CLI_END;) {
		if (key == KEY_ALL)
			compare.all = true;
		else if (key == 'F')
			b_raw = cli_format_raw(cli, arg);
	}
	interrupt_catch();
	code = cli_disk_open(cli, cli->operands[0], cli->raw, false, &compare.a);
	if (code)
		return code;
	/* --parent is A's. */
	b_cli = *cli;
	b_cli.parent = NULL;
	b_cli.parent_raw = false;
	code = cli_disk_open(&b_cli, cli->operands[1], b_raw, false, &compare.b);
	if (code == CLI_OK) {
		code = compare_run(&compare);
		code = cli_disk_close(cli, &compare.b, code);
	}
	return cli_disk_close(cli, &compare.a, code);
}

const struct cli_command command_compare = {
        .name = "compare",
        .operands = "A B",
        .summary = "say whether two disks have the same content",
        .details = "-f says what A is, and --parent is A's parent. Exit status 0: same; 3: different.\n"
                   "Where one disk is longer, the other counts as zeros.",
        .groups = CLI_CHAIN | CLI_SALVAGE | CLI_FORMAT | CLI_DIRECT | CLI_JSON | CLI_PROGRESS,
        .min_operands = 2,
        .max_operands = 2,
        .options = options,
        .run = run,
};
