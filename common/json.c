/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "common/json.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

/* How many bytes of well-formed UTF-8 start at `at`: no overlong forms, surrogates or values over 10FFFF. 0: none. */
static unsigned utf8_length(const unsigned char *at)
{
	unsigned length, i;

	if (at[0] < 0x80)
		return 1;
	if (at[0] >= 0xc2 && at[0] <= 0xdf)
		length = 2;
	else if (at[0] >= 0xe0 && at[0] <= 0xef)
		length = 3;
	else if (at[0] >= 0xf0 && at[0] <= 0xf4)
		length = 4;
	else
		return 0;
	for (i = 1; i < length; i++)
		if ((at[i] & 0xc0) != 0x80)
			return 0;
	if ((at[0] == 0xe0 && at[1] < 0xa0) || (at[0] == 0xed && at[1] > 0x9f) || (at[0] == 0xf0 && at[1] < 0x90) ||
	    (at[0] == 0xf4 && at[1] > 0x8f))
		return 0;
	return length;
}

static void text_write(FILE *out, const char *text)
{
	const unsigned char *at = (const unsigned char *)text;

	putc('"', out);
	while (*at) {
		unsigned length = utf8_length(at);

		if (length == 0) {
			fputs("\\ufffd", out);
			length = 1;
		} else if (*at == '"' || *at == '\\') {
			putc('\\', out);
			putc(*at, out);
		} else if (*at == '\n') {
			fputs("\\n", out);
		} else if (*at == '\t') {
			fputs("\\t", out);
		} else if (*at < 0x20 || *at == 0x7f) {
			fprintf(out, "\\u%04x", *at);
		} else {
			fwrite(at, 1, length, out);
		}
		at += length;
	}
	putc('"', out);
}

static void member_begin(struct json *json, const char *key)
{
	if (json->depth > 0) {
		if (!json->empty)
			putc(',', json->out);
		if (json->depth == 1)
			fputs("\n  ", json->out);
		else if (!json->empty)
			putc(' ', json->out);
	}
	json->empty = false;
	if (key) {
		text_write(json->out, key);
		fputs(": ", json->out);
	}
}

static void container_begin(struct json *json, const char *key, char bracket)
{
	member_begin(json, key);
	putc(bracket, json->out);
	json->depth++;
	json->empty = true;
}

static void container_end(struct json *json, char bracket)
{
	json->depth--;
	if (json->depth == 0 && !json->empty)
		putc('\n', json->out);
	putc(bracket, json->out);
	if (json->depth == 0)
		putc('\n', json->out);
	json->empty = false;
}

void json_object_begin(struct json *json, const char *key)
{
	container_begin(json, key, '{');
}

void json_object_end(struct json *json)
{
	container_end(json, '}');
}

void json_array_begin(struct json *json, const char *key)
{
	container_begin(json, key, '[');
}

void json_array_end(struct json *json)
{
	container_end(json, ']');
}

void json_string(struct json *json, const char *key, const char *value)
{
	if (!value) {
		json_null(json, key);
		return;
	}
	member_begin(json, key);
	text_write(json->out, value);
}

void json_uint(struct json *json, const char *key, uint64_t value)
{
	char digits[20];
	size_t at = sizeof(digits);

	member_begin(json, key);
	do {
		digits[--at] = (char)('0' + value % 10);
		value /= 10;
	} while (value);
	fwrite(digits + at, 1, sizeof(digits) - at, json->out);
}

void json_double(struct json *json, const char *key, double value)
{
	if (!isfinite(value)) {
		json_null(json, key);
		return;
	}
	member_begin(json, key);
	fprintf(json->out, "%.6f", value);
}

void json_bool(struct json *json, const char *key, bool value)
{
	member_begin(json, key);
	fputs(value ? "true" : "false", json->out);
}

void json_null(struct json *json, const char *key)
{
	member_begin(json, key);
	fputs("null", json->out);
}
