/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef COMMON_JSON_H
#define COMMON_JSON_H

/*
 * Writes JSON as it goes, so that a million extents need no memory. The outermost value's members stand on a line of
 * their own, what is deeper stays on its line. Inside an object every value has a key; elsewhere `key` is NULL.
 * Strings may be any bytes: what is not UTF-8 becomes U+FFFD. Errors of the stream stay in it (ferror).
 */

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct json {
	FILE *out;
	unsigned depth;
	bool empty; /* nothing yet in the innermost object or array */
};

static inline struct json json_to(FILE *out)
{
	return (struct json){.out = out, .empty = true};
}

void json_object_begin(struct json *json, const char *key);
void json_object_end(struct json *json); /* after the outermost one, the line ends */
void json_array_begin(struct json *json, const char *key);
void json_array_end(struct json *json);

void json_string(struct json *json, const char *key, const char *value); /* NULL: null */
void json_uint(struct json *json, const char *key, uint64_t value);
void json_double(struct json *json, const char *key, double value); /* not finite: null */
void json_bool(struct json *json, const char *key, bool value);
void json_null(struct json *json, const char *key);

#endif
