/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/locator.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

uint64_t locator_space_bytes(const struct locator *locator)
{
	return locator->space < VHD_SECTOR ? (uint64_t)locator->space * VHD_SECTOR : locator->space;
}

static uint16_t unit_get(const uint8_t *bytes, bool big_endian)
{
	return big_endian ? be16_get((be16){{bytes[0], bytes[1]}}) : le16_get((le16){{bytes[0], bytes[1]}});
}

static size_t utf8_put(char *out, uint32_t c)
{
	if (c < 0x80) {
		out[0] = (char)c;
		return 1;
	}
	if (c < 0x800) {
		out[0] = (char)(0xC0 | c >> 6);
		out[1] = (char)(0x80 | (c & 0x3F));
		return 2;
	}
	if (c < 0x10000) {
		out[0] = (char)(0xE0 | c >> 12);
		out[1] = (char)(0x80 | (c >> 6 & 0x3F));
		out[2] = (char)(0x80 | (c & 0x3F));
		return 3;
	}
	out[0] = (char)(0xF0 | c >> 18);
	out[1] = (char)(0x80 | (c >> 12 & 0x3F));
	out[2] = (char)(0x80 | (c >> 6 & 0x3F));
	out[3] = (char)(0x80 | (c & 0x3F));
	return 4;
}

static bool is_ascii(uint8_t high, uint8_t low)
{
	return high == 0 && low >= 0x20 && low < 0x7F;
}

/*
 * A guess at the byte order, for what says nothing: paths have separators, dots and mostly Latin letters, so the order
 * that gives more ASCII is right; if neither gives more, the expected one.
 */
static bool guess_big_endian(const uint8_t *bytes, size_t length, bool expected)
{
	size_t big = 0, little = 0;

	for (size_t i = 0; i + 1 < length && (bytes[i] || bytes[i + 1]); i += 2) {
		big += is_ascii(bytes[i], bytes[i + 1]);
		little += is_ascii(bytes[i + 1], bytes[i]);
	}
	return big == little ? expected : big > little;
}

static int utf16_convert(const uint8_t *bytes, size_t length, bool big_endian, char **ret, struct err *err)
{
	char *text = malloc(length / 2 * 3 + 1);
	size_t used = 0;

	if (!text)
		return err_set(err, -ENOMEM, "no memory for a name");
	for (size_t i = 0; i < length; i += 2) {
		uint32_t c = unit_get(bytes + i, big_endian);

		if (c == 0)
			break;
		if (c >= 0xDC00 && c < 0xE000)
			goto unpaired;
		if (c >= 0xD800 && c < 0xDC00) {
			uint32_t low = i + 4 <= length ? unit_get(bytes + i + 2, big_endian) : 0;

			if (low < 0xDC00 || low >= 0xE000)
				goto unpaired;
			c = 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00);
			i += 2;
		}
		used += utf8_put(text + used, c);
		continue;
unpaired:
		free(text);
		return err_set(err, VHD_E_CORRUPT, "half of a surrogate pair at byte %zu", i);
	}
	text[used] = '\0';
	*ret = text;
	return 0;
}

int utf16_decode(const uint8_t *bytes, size_t length, bool big_endian, char **ret, struct err *err)
{
	bool order;

	if (length % 2)
		return err_set(err, VHD_E_CORRUPT, "%zu bytes are no UTF-16: the length is odd", length);
	if (length >= 2 && (unit_get(bytes, true) == 0xFEFF || unit_get(bytes, false) == 0xFEFF))
		return utf16_convert(bytes + 2, length - 2, unit_get(bytes, true) == 0xFEFF, ret, err);
	order = guess_big_endian(bytes, length, big_endian);
	if (utf16_convert(bytes, length, order, ret, err) == 0)
		return 0;
	return utf16_convert(bytes, length, !order, ret, err);
}

/* The next character of UTF-8, strictly: no overlong forms, no surrogates. Returns its length, or 0. */
static size_t utf8_get(const char *text, uint32_t *ret)
{
	const uint8_t *s = (const uint8_t *)text;
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	size_t length = s[0] < 0x80 ? 1 : s[0] >> 5 == 6 ? 2 : s[0] >> 4 == 14 ? 3 : s[0] >> 3 == 30 ? 4 : 0;
	uint32_t c = length == 1 ? s[0] : s[0] & (0x7Fu >> length);

	for (size_t i = 1; i < length; i++) {
		if (s[i] >> 6 != 2)
			return 0;
		c = c << 6 | (s[i] & 0x3F);
	}
	if (length == 0 || c < least[length] || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000))
		return 0;
	*ret = c;
	return length;
}

static uint8_t *unit_put(uint8_t *out, uint32_t unit, bool big_endian)
{
	out[big_endian ? 0 : 1] = (uint8_t)(unit >> 8);
	out[big_endian ? 1 : 0] = (uint8_t)unit;
	return out + 2;
}

int utf16_encode(const char *text, bool big_endian, uint8_t **ret, size_t *ret_length, struct err *err)
{
	uint8_t *bytes = malloc(strlen(text) * 2 + 1), *out = bytes;
	const char *s = text;

	if (!bytes)
		return err_set(err, -ENOMEM, "no memory for a name");
	while (*s) {
		uint32_t c;
		size_t length = utf8_get(s, &c);

		if (length == 0) {
			free(bytes);
			return err_set(err, -EINVAL, "\"%s\" is not UTF-8 at byte %zu", text, (size_t)(s - text));
		}
		if (c < 0x10000) {
			out = unit_put(out, c, big_endian);
		} else {
			out = unit_put(out, 0xD800 + ((c - 0x10000) >> 10), big_endian);
			out = unit_put(out, 0xDC00 + ((c - 0x10000) & 0x3FF), big_endian);
		}
		s += length;
	}
	*ret = bytes;
	*ret_length = (size_t)(out - bytes);
	return 0;
}

static void slashes_forward(char *path)
{
	for (char *s = path; *s; s++)
		if (*s == '\\')
			*s = '/';
}

/* "C:..." */
static bool has_drive(const char *path)
{
	return ((path[0] >= 'A' && path[0] <= 'Z') || (path[0] >= 'a' && path[0] <= 'z')) && path[1] == ':';
}

/* A path of another system, of which only the last component can mean something here. */
static void keep_last_component(char *path)
{
	char *last = strrchr(path, '/');

	if (!last && has_drive(path))
		last = path + 1;
	if (last)
		memmove(path, last + 1, strlen(last + 1) + 1);
}

static int windows_path(char *path, bool relative)
{
	bool unix_absolute = path[0] == '/' && path[1] != '/';

	slashes_forward(path);
	if (has_drive(path) || (path[0] == '/' && !unix_absolute))
		keep_last_component(path);
	else if (relative && path[0] == '/')
		memmove(path, path + 1, strlen(path));
	while (path[0] == '.' && path[1] == '/')
		memmove(path, path + 2, strlen(path + 2) + 1);
	return path[0] ? 0 : VHD_E_CORRUPT;
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

/* "file://localhost/a%20b", "file:///a", or, as Xen writes it, "file://./relative". */
static int url_path(const uint8_t *bytes, size_t length, char **ret, struct err *err)
{
	size_t start = 7, used = 0;
	char *path;

	if (length < 8 || memcmp(bytes, "file://", 7))
		return err_set(err, VHD_E_CORRUPT, "a MacX locator that is no file URL");
	if (length >= 17 && !memcmp(bytes + start, "localhost/", 10))
		start += 9;
	path = malloc(length - start + 1);
	if (!path)
		return err_set(err, -ENOMEM, "no memory for a name");
	for (size_t i = start; i < length && bytes[i]; i++) {
		char c = (char)bytes[i];

		if (c == '%' && i + 2 < length) {
			int high = hex_digit((char)bytes[i + 1]), low = hex_digit((char)bytes[i + 2]);

			if (high >= 0 && low >= 0) {
				c = (char)(high << 4 | low);
				i += 2;
			}
		}
		if (c == '\0') {
			free(path);
			return err_set(err, VHD_E_CORRUPT, "a MacX locator with %%00 in it");
		}
		path[used++] = c;
	}
	path[used] = '\0';
	if (used == 0) {
		free(path);
		return err_set(err, VHD_E_CORRUPT, "a MacX locator without a path");
	}
	*ret = path;
	return 0;
}

int locator_decode(const uint8_t code[4], const uint8_t *bytes, size_t length, char **ret, struct err *err)
{
	bool relative = !memcmp(code, "W2ru", 4);
	char *path;
	int r;

	if (!memcmp(code, "MacX", 4))
		return url_path(bytes, length, ret, err);
	if (!relative && memcmp(code, "W2ku", 4))
		return err_set(err, VHD_E_UNSUPPORTED, "a locator of an unknown platform code");
	r = utf16_decode(bytes, length, false, &path, err);
	if (r)
		return r;
	if (windows_path(path, relative)) {
		free(path);
		return err_set(err, VHD_E_CORRUPT, "a locator without a path");
	}
	*ret = path;
	return 0;
}

int locator_relative(const char *child, const char *parent, char **ret, struct err *err)
{
	size_t common = 0, ups = 0, length;
	const char *s;
	char *text, *out;

	if (strchr(parent, '\\'))
		return err_set(err, -EINVAL, "%s: the name holds a backslash, which a VHD cannot say in the name of a parent",
		               parent);
	for (s = parent; *s;) {
		uint32_t c;
		size_t n = utf8_get(s, &c);

		if (n == 0)
			return err_set(err, -EINVAL, "%s: the name is not UTF-8, which a VHD needs for the name of a parent", parent);
		s += n;
	}
	for (size_t i = 0; child[i] && child[i] == parent[i]; i++)
		if (child[i] == '/')
			common = i + 1;
	for (s = child + common; *s; s++)
		ups += *s == '/';
	length = strlen(parent + common);
	text = malloc(2 + ups * 3 + length + 1);
	if (!text)
		return err_set(err, -ENOMEM, "no memory for a name");
	out = text;
	if (ups == 0)
		out = stpcpy(out, ".\\");
	for (size_t i = 0; i < ups; i++)
		out = stpcpy(out, "..\\");
	memcpy(out, parent + common, length + 1);
	for (; *out; out++)
		if (*out == '/')
			*out = '\\';
	*ret = text;
	return 0;
}
