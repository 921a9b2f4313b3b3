/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Names and parent locators: the first byte says how the rest is read. */
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"
#include "vhd/locator.h"

/* Unicode 15, table 3-7: well-formed UTF-8. */
static bool is_utf8(const char *text)
{
	const uint8_t *s = (const uint8_t *)text;

	while (*s) {
		unsigned more = *s < 0x80 ? 0 : *s >= 0xc2 && *s < 0xe0 ? 1 : *s >= 0xe0 && *s < 0xf0 ? 2
		                : *s >= 0xf0 && *s < 0xf5 ? 3 : 9;

		if (more == 9)
			return false;
		if ((*s == 0xe0 && s[1] < 0xa0) || (*s == 0xed && s[1] >= 0xa0) || (*s == 0xf0 && s[1] < 0x90) ||
		    (*s == 0xf4 && s[1] >= 0x90))
			return false;
		while (more--)
			if ((*++s & 0xc0) != 0x80)
				return false;
		s++;
	}
	return true;
}

static void check_text(int result, char *text, const struct err *err)
{
	if (result) {
		FUZZ_ASSERT(err->text[0]);
		return;
	}
	FUZZ_ASSERT(text);
	free(text);
}

static void decode_utf16(const uint8_t *data, size_t size, bool big_endian)
{
	struct err err = {.text = ""};
	char *text = NULL;
	uint8_t *bytes;
	size_t length;
	int result = utf16_decode(data, size, big_endian, &text, &err);

	if (result == 0) {
		FUZZ_ASSERT(is_utf8(text));
		FUZZ_ASSERT(utf16_encode(text, true, &bytes, &length, NULL) == 0);
		FUZZ_ASSERT(length % 2 == 0 && length <= size);
		free(bytes);
	}
	check_text(result, text, &err);
}

static void decode_locator(const char *code, const uint8_t *data, size_t size)
{
	struct err err = {.text = ""};
	char *path = NULL;
	int result = locator_decode((const uint8_t *)code, data, size, &path, &err);

	FUZZ_ASSERT(result == 0 || result == VHD_E_CORRUPT || result == VHD_E_UNSUPPORTED || result == -ENOMEM);
	if (result == 0)
		FUZZ_ASSERT(strlen(path) <= 3 * size + 16);
	check_text(result, path, &err);
}

/* Two absolute paths, split at the first NUL; what we say of them must come back as it was. */
static void relate(const uint8_t *data, size_t size)
{
	struct err err = {.text = ""};
	char *both = malloc(size + 3), *child, *parent, *relative = NULL, *back = NULL;
	uint8_t *bytes = NULL;
	size_t length;

	FUZZ_ASSERT(both);
	memcpy(both + 1, data, size);
	both[size + 1] = 0;
	both[size + 2] = 0;
	child = both;
	child[0] = '/';
	parent = both + strlen(both) + 1;
	if (*parent != '/' || strstr(both, "//") || strstr(parent, "//") || strstr(both, "/.") || strstr(parent, "/.") ||
	    parent[strlen(parent) - 1] == '/' || !child[1]) {
		free(both);
		return;
	}
	if (locator_relative(child, parent, &relative, &err) == 0) {
		FUZZ_ASSERT(is_utf8(relative) && relative[0] == '.');
		FUZZ_ASSERT(utf16_encode(relative, false, &bytes, &length, NULL) == 0);
		if (length <= LOCATOR_MAX_BYTES) {
			FUZZ_ASSERT(locator_decode((const uint8_t *)"W2ru", bytes, length, &back, &err) == 0);
			for (char *s = relative; *s; s++)
				if (*s == '\\')
					*s = '/';
			FUZZ_ASSERT(!strcmp(back, strncmp(relative, "./", 2) ? relative : relative + 2));
		}
		free(back);
		free(bytes);
		free(relative);
	} else {
		FUZZ_ASSERT(err.text[0]);
	}
	free(both);
}

static void encode(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1);
	uint8_t *bytes = NULL;
	size_t length;

	FUZZ_ASSERT(text);
	memcpy(text, data, size);
	text[size] = 0;
	for (int big = 0; big < 2; big++) {
		struct err err = {.text = ""};
		int result = utf16_encode(text, big, &bytes, &length, &err);

		FUZZ_ASSERT((result == 0) == is_utf8(text));
		if (result)
			continue;
		FUZZ_ASSERT(length <= 2 * strlen(text));
		free(bytes);
	}
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const codes[] = {"W2ru", "W2ku", "MacX", "Wi2r", "Mac "};

	if (size < 1)
		return 0;
	switch (data[0] % 9) {
	case 0:
		decode_utf16(data + 1, size - 1, false);
		break;
	case 1:
		decode_utf16(data + 1, size - 1, true);
		break;
	case 2:
		relate(data + 1, size - 1);
		break;
	case 3:
		encode(data + 1, size - 1);
		break;
	default:
		decode_locator(codes[data[0] % 9 - 4], data + 1, size - 1);
	}
	return 0;
}
