/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/control-message.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const verdicts[] = {
        [VHD_E_NOT_VHD] = "not-vhd",
        [VHD_E_CORRUPT] = "corrupt",
        [VHD_E_UNSUPPORTED] = "unsupported",
        [VHD_E_IN_USE] = "in-use",
        [VHD_E_PARENT_MISSING] = "parent-missing",
        [VHD_E_PARENT_MISMATCH] = "parent-mismatch",
        [VHD_E_PARENT_DENIED] = "parent-denied",
        [VHD_E_CHAIN] = "chain",
        [VHD_E_HAS_CHILDREN] = "has-children",
        [VHD_E_WOULD_LOSE] = "would-lose",
        [VHD_E_UNKNOWN_BASE] = "unknown-base",
};

#define VERDICTS ((int)(sizeof(verdicts) / sizeof(verdicts[0])))

static const char *const sizes[] = {
        [UPKEEP_SIZE_SET] = "size",
        [UPKEEP_SIZE_GROW] = "grow",
        [UPKEEP_SIZE_SHRINK] = "shrink",
};

char *control_code_text(int code, char ret[CONTROL_CODE_MAX])
{
	if (code > 0 && code < VERDICTS)
		snprintf(ret, CONTROL_CODE_MAX, "%s", verdicts[code]);
	else
		snprintf(ret, CONTROL_CODE_MAX, "errno-%d", code < 0 ? -code : EPROTO);
	return ret;
}

int control_code_read(const char *text)
{
	char *end;
	long number;

	for (int i = 1; i < VERDICTS; i++)
		if (strcmp(text, verdicts[i]) == 0)
			return i;
	if (strncmp(text, "errno-", 6) != 0)
		return -EPROTO;
	number = strtol(text + 6, &end, 10);
	return *end || number < 1 || number > 4095 ? -EPROTO : -(int)number;
}

char *control_file_text(struct upkeep_file file, char ret[CONTROL_FILE_MAX])
{
	snprintf(ret, CONTROL_FILE_MAX, "%" PRIx64 ":%" PRIx64, file.dev, file.ino);
	return ret;
}

static int hex_read(const char **text, uint64_t *ret)
{
	char *end;

	/* strtoull takes signs and spaces too. */
	if (!strchr("0123456789abcdef", **text) || !**text)
		return -EINVAL;
	errno = 0;
	*ret = strtoull(*text, &end, 16);
	*text = end;
	return errno ? -EINVAL : 0;
}

int control_file_read(const char **text, struct upkeep_file *ret)
{
	if (hex_read(text, &ret->dev) || *(*text)++ != ':' || hex_read(text, &ret->ino))
		return -EINVAL;
	return 0;
}

static void file_word(struct control_text *text, const char *key, struct upkeep_file file)
{
	char value[CONTROL_FILE_MAX];

	if (file.ino)
		control_text_string(text, key, control_file_text(file, value));
}

static void flag_word(struct control_text *text, const char *key, bool value)
{
	if (value)
		control_text_number(text, key, 1);
}

int control_request_write(const struct upkeep_request *request, bool detach, struct control_text *text)
{
	control_text_begin(text, upkeep_verb_name(request->verb));
	file_word(text, "file", request->file);
	switch (request->verb) {
	case UPKEEP_MERGE:
		file_word(text, "into", request->into);
		flag_word(text, "force", request->force);
		flag_word(text, "keep", request->keep);
		flag_word(text, "rename", request->rename);
		break;
	case UPKEEP_SNAPSHOT:
		control_text_string(text, "name", request->name);
		break;
	case UPKEEP_RESIZE:
		control_text_number(text, sizes[request->how], request->bytes);
		flag_word(text, "force", request->force);
		break;
	case UPKEEP_COMPACT:
		flag_word(text, "keep_zeros", request->keep_zeros);
		break;
	}
	if (request->rate)
		control_text_number(text, "rate", request->rate);
	flag_word(text, "detach", detach);
	return control_text_end(text);
}

static int file_value(struct control_line *line, const char *key, struct upkeep_file *ret)
{
	const char *value = control_line_get(line, key);

	*ret = (struct upkeep_file){0};
	if (!value)
		return -ENOENT;
	return control_file_read(&value, ret) || *value ? -EINVAL : 0;
}

static bool fine_or_absent(int r)
{
	return r == 0 || r == -ENOENT;
}

static int merge_read(struct control_line *line, struct upkeep_request *ret)
{
	if (!fine_or_absent(file_value(line, "into", &ret->into)) || control_line_flag(line, "force", &ret->force) ||
	    control_line_flag(line, "keep", &ret->keep) || control_line_flag(line, "rename", &ret->rename))
		return -EINVAL;
	return 0;
}

static int snapshot_read(struct control_line *line, struct upkeep_request *ret)
{
	const char *name = control_line_get(line, "name");

	if (!name || strlen(name) > NAME_MAX)
		return -EINVAL;
	strcpy(ret->name, name);
	return 0;
}

static int resize_read(struct control_line *line, struct upkeep_request *ret)
{
	unsigned given = 0;

	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		int r = control_line_number(line, sizes[i], &ret->bytes);

		if (!fine_or_absent(r))
			return -EINVAL;
		if (r == 0) {
			ret->how = (enum upkeep_size)i;
			given++;
		}
	}
	return given != 1 || control_line_flag(line, "force", &ret->force) ? -EINVAL : 0;
}

static int verb_read(const char *text, enum upkeep_verb *ret)
{
	for (int i = UPKEEP_MERGE; i <= UPKEEP_COMPACT; i++) {
		if (strcmp(text, upkeep_verb_name((enum upkeep_verb)i)) == 0) {
			*ret = (enum upkeep_verb)i;
			return 0;
		}
	}
	return -ENOSYS;
}

int control_request_read(struct control_line *line, struct upkeep_request *ret, bool *detach, struct err *err)
{
	int r;

	memset(ret, 0, sizeof(*ret));
	r = verb_read(line->verb, &ret->verb);
	if (r)
		return r;
	if (ret->verb == UPKEEP_MERGE)
		r = merge_read(line, ret);
	else if (ret->verb == UPKEEP_SNAPSHOT)
		r = snapshot_read(line, ret);
	else if (ret->verb == UPKEEP_RESIZE)
		r = resize_read(line, ret);
	else
		r = control_line_flag(line, "keep_zeros", &ret->keep_zeros);
	if (r || file_value(line, "file", &ret->file) || !fine_or_absent(control_line_number(line, "rate", &ret->rate)) ||
	    control_line_flag(line, "detach", detach))
		return err_set(err, -EINVAL, "a %s request whose words are wrong or missing", line->verb);
	if (control_line_unread(line))
		return err_set(err, -EINVAL, "a %s request with '%s', which is not known here: is the command newer than the "
		               "process that has the disk open?", line->verb, control_line_unread(line));
	return 0;
}

/* The words of each verb, in both directions. */
struct number_word {
	const char *key;
	size_t offset;
	bool is_32;
};

#define NUMBER(key, member) {key, offsetof(struct upkeep_result, member), sizeof(((struct upkeep_result *)0)->member) == 4}

static const struct number_word number_words[][8] = {
        [UPKEEP_MERGE] = {NUMBER("merged_bytes", merge.merged_bytes), NUMBER("written_bytes", merge.written_bytes),
                          NUMBER("merged_layers", merged_layers), NUMBER("relinked", relinked)},
        [UPKEEP_SNAPSHOT] = {{0}},
        [UPKEEP_RESIZE] = {NUMBER("old_size_bytes", old_size_bytes), NUMBER("size_bytes", size_bytes),
                           NUMBER("cut_bytes", resize.cut_bytes)},
        [UPKEEP_COMPACT] = {NUMBER("before_bytes", compact.before_bytes), NUMBER("after_bytes", compact.after_bytes),
                            NUMBER("space_before_bytes", compact.space_before_bytes),
                            NUMBER("space_after_bytes", compact.space_after_bytes),
                            NUMBER("freed_blocks", compact.freed_blocks), NUMBER("moved_blocks", compact.moved_blocks)},
};

static void uuid_word(struct control_text *text, const char *key, const uint8_t uuid[16])
{
	char value[33];

	for (unsigned i = 0; i < 16; i++)
		snprintf(value + 2 * i, 3, "%02x", uuid[i]);
	control_text_string(text, key, value);
}

static int uuid_value(struct control_line *line, const char *key, uint8_t ret[16])
{
	const char *value = control_line_get(line, key);

	if (!value || strlen(value) != 32 || strspn(value, "0123456789abcdef") != 32)
		return -EPROTO;
	for (unsigned i = 0; i < 16; i++) {
		char byte[3] = {value[2 * i], value[2 * i + 1]};

		ret[i] = (uint8_t)strtoul(byte, NULL, 16);
	}
	return 0;
}

void control_result_words(struct control_text *text, enum upkeep_verb verb, const struct upkeep_result *result)
{
	for (const struct number_word *word = number_words[verb]; word->key; word++) {
		const char *at = (const char *)result + word->offset;
		uint32_t small;
		uint64_t value;

		if (word->is_32) {
			memcpy(&small, at, sizeof(small));
			value = small;
		} else {
			memcpy(&value, at, sizeof(value));
		}
		control_text_number(text, word->key, value);
	}
	if (verb == UPKEEP_MERGE)
		control_text_number(text, "removed", result->removed);
	if (result->path[0])
		control_text_string(text, "path", result->path);
	if (verb == UPKEEP_SNAPSHOT) {
		uuid_word(text, "uuid", result->uuid);
		uuid_word(text, "leaf_uuid", result->leaf_uuid);
	}
}

int control_result_read(struct control_line *line, enum upkeep_verb verb, struct upkeep_result *ret)
{
	const char *path = control_line_get(line, "path");

	memset(ret, 0, sizeof(*ret));
	for (const struct number_word *word = number_words[verb]; word->key; word++) {
		char *at = (char *)ret + word->offset;
		uint64_t value;

		if (control_line_number(line, word->key, &value) || (word->is_32 && value > UINT32_MAX))
			return -EPROTO;
		if (word->is_32)
			memcpy(at, &(uint32_t){(uint32_t)value}, sizeof(uint32_t));
		else
			memcpy(at, &value, sizeof(value));
	}
	if (verb == UPKEEP_MERGE && control_line_flag(line, "removed", &ret->removed))
		return -EPROTO;
	if (path)
		snprintf(ret->path, sizeof(ret->path), "%s", path);
	if (verb == UPKEEP_SNAPSHOT && (uuid_value(line, "uuid", ret->uuid) || uuid_value(line, "leaf_uuid", ret->leaf_uuid)))
		return -EPROTO;
	return 0;
}
