/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "common/size.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/checked.h"

static int digits_parse(const char **text, unsigned base, uint64_t *ret)
{
	const char *at = *text;
	uint64_t value = 0;

	for (;; at++) {
		unsigned digit;

		if (isdigit((unsigned char)*at))
			digit = (unsigned)(*at - '0');
		else if (base == 16 && isxdigit((unsigned char)*at))
			digit = (unsigned)(tolower((unsigned char)*at) - 'a') + 10;
		else
			break;
		if (!checked_mul(value, base, &value) || !checked_add(value, digit, &value))
			return -ERANGE;
	}
	if (at == *text)
		return -EINVAL;
	*text = at;
	*ret = value;
	return 0;
}

/* "25" of "1.25": *ret = 0.25 * unit, which must be whole. Six digits keep the product below 2^60. */
static int fraction_parse(const char *digits, const char *end, uint64_t unit, uint64_t *ret)
{
	uint64_t numerator = 0, denominator = 1;

	while (end > digits && end[-1] == '0')
		end--;
	if (end - digits > 6)
		return -EINVAL;
	for (; digits < end; digits++) {
		numerator = numerator * 10 + (uint64_t)(*digits - '0');
		denominator *= 10;
	}
	if (numerator * unit % denominator != 0)
		return -EINVAL;
	*ret = numerator * unit / denominator;
	return 0;
}

static unsigned unit_shift(char letter)
{
	switch (toupper((unsigned char)letter)) {
	case 'K':
		return 10;
	case 'M':
		return 20;
	case 'G':
		return 30;
	case 'T':
		return 40;
	default:
		return 0;
	}
}

int size_parse(const char *text, uint64_t *ret)
{
	const char *fraction = NULL, *fraction_end = NULL;
	uint64_t value, part = 0;
	unsigned shift;
	int r;

	if (text[0] == '0' && (text[1] == 'x' || text[1] == 'X')) {
		text += 2;
		r = digits_parse(&text, 16, &value);
		if (r < 0)
			return r;
		if (*text)
			return -EINVAL;
		*ret = value;
		return 0;
	}
	r = digits_parse(&text, 10, &value);
	if (r < 0)
		return r;
	if (*text == '.') {
		fraction = ++text;
		while (isdigit((unsigned char)*text))
			text++;
		fraction_end = text;
		if (fraction == fraction_end)
			return -EINVAL;
	}
	shift = unit_shift(*text);
	if (shift)
		text++;
	if (*text)
		return -EINVAL;
	if (fraction) {
		r = fraction_parse(fraction, fraction_end, UINT64_C(1) << shift, &part);
		if (r < 0)
			return r;
	}
	if (!checked_mul(value, UINT64_C(1) << shift, &value) || !checked_add(value, part, &value))
		return -ERANGE;
	*ret = value;
	return 0;
}

char *size_text(uint64_t bytes, char *ret)
{
	static const char units[] = "KMGTPE";
	unsigned unit = 0;
	uint64_t whole = bytes, tenths;

	if (bytes < 1024) {
		snprintf(ret, SIZE_TEXT_MAX, bytes == 1 ? "1 byte" : "%u bytes", (unsigned)bytes);
		return ret;
	}
	while (whole >= 1024) {
		whole >>= 10;
		unit++;
	}
	/* The quotient in tenths, rounded, without overflow at 2^64 - 1. */
	tenths = (bytes >> (10 * unit - 10)) * 10;
	tenths = (tenths + 512) / 1024;
	if (tenths >= 10240 && unit < strlen(units)) {
		tenths = 10;
		unit++;
	}
	if (tenths % 10)
		snprintf(ret, SIZE_TEXT_MAX, "%u.%u %ciB", (unsigned)(tenths / 10), (unsigned)(tenths % 10), units[unit - 1]);
	else
		snprintf(ret, SIZE_TEXT_MAX, "%u %ciB", (unsigned)(tenths / 10), units[unit - 1]);
	return ret;
}

char *size_text_exact(uint64_t bytes, char *ret)
{
	static const char units[] = "KMGTPE";

	for (unsigned unit = (unsigned)strlen(units); unit > 0; unit--) {
		/* Of the decimals only 0 and 5 are whole numbers of bytes. */
		uint64_t half = UINT64_C(1) << (10 * unit - 1);

		if (bytes < 2 * half || bytes % half)
			continue;
		snprintf(ret, SIZE_TEXT_MAX, "%u%s %ciB", (unsigned)(bytes / half / 2), bytes / half % 2 ? ".5" : "",
		         units[unit - 1]);
		return ret;
	}
	snprintf(ret, SIZE_TEXT_MAX, bytes == 1 ? "1 byte" : "%llu bytes", (unsigned long long)bytes);
	return ret;
}
