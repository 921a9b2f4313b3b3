/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "common/json.h"
#include "common/size.h"
#include "vhd/cli.h"

#define UUID_TEXT_MAX 37
#define TIME_TEXT_MAX 32

enum { KEY_CHAIN = 256 };

static const struct cli_option options[] = {
        {KEY_CHAIN, "chain", NULL, "show every file of the chain, not only FILE"},
        {0},
};

static const char *uuid_text(const uint8_t uuid[16], char ret[UUID_TEXT_MAX])
{
	vhd_uuid_text(uuid, ret);
	return ret;
}

static const char *time_text(time_t when, char ret[TIME_TEXT_MAX])
{
	struct tm utc;

	if (!gmtime_r(&when, &utc) || strftime(ret, TIME_TEXT_MAX, "%Y-%m-%dT%H:%M:%SZ", &utc) == 0)
		ret[0] = '\0';
	return ret;
}

static const char *type_text(const struct vhd_info *info)
{
	return info->raw ? "raw" : vhd_type_name(info->type);
}

/* The members that every file of a chain has, in an object that is begun. */
static void layer_json(struct json *json, const struct vhd_info *info)
{
	char uuid[UUID_TEXT_MAX], created[TIME_TEXT_MAX];

	json_string(json, "file", info->path);
	json_string(json, "type", type_text(info));
	json_uint(json, "size_bytes", info->size_bytes);
	json_uint(json, "file_size_bytes", info->file_size_bytes);
	if (info->raw)
		return;
	json_uint(json, "original_size_bytes", info->original_size_bytes);
	json_uint(json, "block_size_bytes", info->block_size_bytes);
	json_uint(json, "block_count", info->block_count);
	json_uint(json, "allocated_blocks", info->allocated_blocks);
	json_string(json, "uuid", uuid_text(info->uuid, uuid));
	json_string(json, "creator", info->creator);
	json_uint(json, "creator_version", info->creator_version);
	json_string(json, "creator_host_os", info->creator_host_os);
	json_string(json, "created", time_text(info->created, created));
	json_object_begin(json, "geometry");
	json_uint(json, "cylinders", info->geometry.cylinders);
	json_uint(json, "heads", info->geometry.heads);
	json_uint(json, "sectors_per_track", info->geometry.sectors_per_track);
	json_object_end(json);
	json_bool(json, "saved_state", info->saved_state);
	json_bool(json, "temporary", info->temporary);
	json_bool(json, "footer_from_copy", info->footer_from_copy);
	json_bool(json, "has_batmap", info->has_batmap);
	json_bool(json, "payload_aligned", info->payload_aligned);
}

static void parent_json(struct json *json, const struct vhd_info *info, bool found)
{
	char uuid[UUID_TEXT_MAX], modified[TIME_TEXT_MAX];

	if (info->raw || info->type != VHD_DIFFERENCING) {
		json_null(json, "parent");
		return;
	}
	json_object_begin(json, "parent");
	json_string(json, "uuid", uuid_text(info->parent_uuid, uuid));
	json_string(json, "name", info->parent_name);
	json_string(json, "modified", time_text(info->parent_modified, modified));
	json_string(json, "path", found ? info->parent_path : NULL);
	json_bool(json, "found", found);
	json_object_end(json);
}

static void info_json(const struct vhd *vhd)
{
	struct json json = json_to(stdout);
	unsigned layers = vhd_layer_count(vhd);
	struct vhd_info info;

	vhd_layer_info(vhd, 0, &info);
	json_object_begin(&json, NULL);
	layer_json(&json, &info);
	parent_json(&json, &info, layers > 1);
	json_array_begin(&json, "chain");
	for (unsigned i = 0; i < layers; i++) {
		vhd_layer_info(vhd, i, &info);
		json_object_begin(&json, NULL);
		layer_json(&json, &info);
		parent_json(&json, &info, i + 1 < layers);
		json_object_end(&json);
	}
	json_array_end(&json);
	json_object_end(&json);
}

/* "127 GiB (136365211648 bytes)"; an odd number has the bytes alone. */
static void size_print(const char *name, uint64_t bytes)
{
	char text[SIZE_TEXT_MAX];

	size_text_exact(bytes, text);
	if (text[strlen(text) - 1] == 'B')
		printf("%-13s %s (%" PRIu64 " bytes)\n", name, text, bytes);
	else
		printf("%-13s %s\n", name, text);
}

static void parent_print(const struct vhd_info *info, bool found)
{
	char uuid[UUID_TEXT_MAX], modified[TIME_TEXT_MAX];

	printf("parent:       %s\n", found && info->parent_path ? info->parent_path : "not found");
	if (info->parent_name)
		printf("parent name:  %s\n", info->parent_name);
	printf("parent uuid:  %s\n", uuid_text(info->parent_uuid, uuid));
	printf("parent time:  %s\n", time_text(info->parent_modified, modified));
}

static void layer_print(const struct vhd_info *info, bool parent_found)
{
	char uuid[UUID_TEXT_MAX], created[TIME_TEXT_MAX], text[SIZE_TEXT_MAX];

	printf("file:         %s\n", info->path);
	printf("type:         %s\n", type_text(info));
	size_print("size:", info->size_bytes);
	size_print("file size:", info->file_size_bytes);
	if (info->raw)
		return;
	if (info->type != VHD_FIXED)
		printf("blocks:       %" PRIu32 " of %" PRIu32 " allocated, %s each%s\n", info->allocated_blocks,
		       info->block_count, size_text_exact(info->block_size_bytes, text),
		       info->payload_aligned ? "" : ", not all aligned to 4 KiB");
	printf("uuid:         %s\n", uuid_text(info->uuid, uuid));
	printf("created:      %s by \"%s\" %u.%u on \"%s\"\n", time_text(info->created, created), info->creator,
	       info->creator_version >> 16, info->creator_version & 0xffff, info->creator_host_os);
	printf("geometry:     %u cylinders, %u heads, %u sectors per track\n", info->geometry.cylinders,
	       info->geometry.heads, info->geometry.sectors_per_track);
	if (info->type == VHD_DIFFERENCING)
		parent_print(info, parent_found);
	if (info->saved_state)
		puts("state:        saved (of a virtual machine)");
	if (info->temporary)
		puts("temporary:    yes");
	if (info->footer_from_copy)
		puts("footer:       read from the copy; the one at the end is missing or damaged");
	if (info->has_batmap)
		puts("batmap:       yes (Xen)");
}

static void info_print(const struct vhd *vhd, bool chain)
{
	unsigned layers = vhd_layer_count(vhd);
	struct vhd_info info;

	for (unsigned i = 0; i < (chain ? layers : 1); i++) {
		vhd_layer_info(vhd, i, &info);
		if (i > 0)
			putchar('\n');
		layer_print(&info, i + 1 < layers);
	}
	if (!chain && layers > 1)
		printf("chain:        %u files; --chain shows them\n", layers);
}

static bool verdict_is_about_parents(int verdict)
{
	return verdict == VHD_E_PARENT_MISSING || verdict == VHD_E_PARENT_MISMATCH || verdict == VHD_E_PARENT_DENIED ||
	       verdict == VHD_E_CHAIN;
}

static int run(struct cli *cli)
{
	struct vhd_open_options open = {.warn = cli_warn, .user = cli};
	struct err err = {.text = ""};
	struct vhd *vhd = NULL;
	bool chain = false;
	const char *arg;
	int r;

	for (int key; (key = cli_next(cli, &arg)) != CLI_END;)
		if (key == KEY_CHAIN)
			chain = true;
	open.flags = cli->salvage ? VHD_OPEN_SALVAGE : 0;
	open.parent = cli->parent;
	open.parent_raw = cli->parent_raw;
	open.allow_dirs = cli->allow_dirs;
	r = vhd_open(cli->operands[0], &open, &vhd, &err);
	if (verdict_is_about_parents(r)) {
		struct err reason = err;

		/* As far as the chain goes; FILE itself was found sound before its parents were looked for. */
		open.flags |= VHD_OPEN_SALVAGE;
		r = vhd_open(cli->operands[0], &open, &vhd, &err);
		if (r) {
			open.flags |= VHD_OPEN_NO_PARENTS;
			r = vhd_open(cli->operands[0], &open, &vhd, &err);
			if (r == 0)
				cli_warn(cli, reason.text);
		}
	}
	if (r)
		return cli_fail_err(cli, &err);
	if (cli->json)
		info_json(vhd);
	else
		info_print(vhd, chain);
	r = vhd_close(vhd, &err);
	return r ? cli_fail_err(cli, &err) : CLI_OK;
}

const struct cli_command command_info = {
        .name = "info",
        .operands = "FILE",
        .summary = "say what an image is",
        .groups = CLI_CHAIN | CLI_SALVAGE | CLI_JSON,
        .min_operands = 1,
        .max_operands = 1,
        .options = options,
        .run = run,
};
