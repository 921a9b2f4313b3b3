/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "common/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void err_format(struct err *err, const char *format, va_list args)
{
	int n = vsnprintf(err->text, sizeof(err->text), format, args);

	if (n >= (int)sizeof(err->text))
		memcpy(err->text + sizeof(err->text) - 4, "...", 4);
}

int err_set(struct err *err, int code, const char *format, ...)
{
	va_list args;

	if (!err)
		return code;
	va_start(args, format);
	err_format(err, format, args);
	va_end(args);
	return code;
}

int err_prefix(struct err *err, int code, const char *format, ...)
{
	struct err tail;
	va_list args;
	size_t used;

	if (!err)
		return code;
	tail = *err;
	va_start(args, format);
	err_format(err, format, args);
	va_end(args);
	used = strlen(err->text);
	if (snprintf(err->text + used, sizeof(err->text) - used, ": %s", tail.text) >= (int)(sizeof(err->text) - used))
		memcpy(err->text + sizeof(err->text) - 4, "...", 4);
	return code;
}
