/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/control-wire.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static bool is_name(const char *text)
{
	if (*text < 'a' || *text > 'z')
		return false;
	for (; *text; text++)
		if ((*text < 'a' || *text > 'z') && (*text < '0' || *text > '9') && *text != '_' && *text != '-')
			return false;
	return true;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* Takes the escapes out, in place. */
static int value_decode(char *value)
{
	char *to = value;

	for (const char *from = value; *from;) {
		int high, low;

		if (*from != '%') {
			*to++ = *from++;
			continue;
		}
		high = hex_digit(from[1]);
		low = high < 0 ? -1 : hex_digit(from[2]);
		if (low < 0 || (high == 0 && low == 0))
			return -EINVAL;
		*to++ = (char)(high << 4 | low);
		from += 3;
	}
	*to = '\0';
	return 0;
}

static int word_parse(char *word, struct control_line *line)
{
	char *equals = strchr(word, '=');

	if (!equals || line->count == CONTROL_WORDS_MAX)
		return -EINVAL;
	*equals = '\0';
	if (!is_name(word) || value_decode(equals + 1))
		return -EINVAL;
	for (unsigned i = 0; i < line->count; i++)
		if (strcmp(line->words[i].key, word) == 0)
			return -EINVAL;
	line->words[line->count++] = (struct control_word){.key = word, .value = equals + 1};
	return 0;
}

int control_line_parse(char *text, size_t length, struct control_line *ret)
{
	char *next;

	ret->verb = text;
	ret->count = 0;
	for (size_t i = 0; i < length; i++)
		if (text[i] < ' ' || text[i] > '~')
			return -EINVAL;
	text[length] = '\0';
	next = strchr(text, ' ');
	if (next)
		*next++ = '\0';
	if (!is_name(text))
		return -EINVAL;
	while (next) {
		char *word = next;

		next = strchr(word, ' ');
		if (next)
			*next++ = '\0';
		if (word_parse(word, ret))
			return -EINVAL;
	}
	return 0;
}

const char *control_line_get(struct control_line *line, const char *key)
{
	for (unsigned i = 0; i < line->count; i++) {
		if (strcmp(line->words[i].key, key) == 0) {
			line->words[i].read = true;
			return line->words[i].value;
		}
	}
	return NULL;
}

int control_line_number(struct control_line *line, const char *key, uint64_t *ret)
{
	const char *value = control_line_get(line, key);
	uint64_t number = 0;

	if (!value)
		return -ENOENT;
	if (!*value)
		return -EINVAL;
	for (; *value; value++) {
		if (*value < '0' || *value > '9' || __builtin_mul_overflow(number, UINT64_C(10), &number) ||
		    __builtin_add_overflow(number, (uint64_t)(*value - '0'), &number))
			return -EINVAL;
	}
	*ret = number;
	return 0;
}

int control_line_flag(struct control_line *line, const char *key, bool *ret)
{
	const char *value = control_line_get(line, key);

	*ret = value && strcmp(value, "1") == 0;
	return !value || *ret || strcmp(value, "0") == 0 ? 0 : -EINVAL;
}

const char *control_line_unread(const struct control_line *line)
{
	for (unsigned i = 0; i < line->count; i++)
		if (!line->words[i].read)
			return line->words[i].key;
	return NULL;
}

size_t control_line_length(const char *text, size_t length)
{
	const char *end = memchr(text, '\n', length);

	return end ? (size_t)(end - text) + 1 : 0;
}

static void put(struct control_text *text, const char *bytes, size_t length)
{
	if (text->full || length > text->size - text->used) {
		text->full = true;
		return;
	}
	memcpy(text->text + text->used, bytes, length);
	text->used += length;
}

void control_text_begin(struct control_text *text, const char *verb)
{
	text->full = false;
	put(text, verb, strlen(verb));
}

void control_text_string(struct control_text *text, const char *key, const char *value)
{
	put(text, " ", 1);
	put(text, key, strlen(key));
	put(text, "=", 1);
	for (; *value; value++) {
		unsigned char c = (unsigned char)*value;
		char escape[4];

		if (c > ' ' && c <= '~' && c != '%') {
			put(text, value, 1);
			continue;
		}
		snprintf(escape, sizeof(escape), "%%%02X", c);
		put(text, escape, 3);
	}
}

void control_text_number(struct control_text *text, const char *key, uint64_t value)
{
	char digits[24];

	snprintf(digits, sizeof(digits), "%" PRIu64, value);
	control_text_string(text, key, digits);
}

/* Lines are written one after the other, so the one that did not fit begins behind the last line feed. */
int control_text_end(struct control_text *text)
{
	put(text, "\n", 1);
	if (!text->full)
		return 0;
	while (text->used > 0 && text->text[text->used - 1] != '\n')
		text->used--;
	text->full = false;
	return -EMSGSIZE;
}
