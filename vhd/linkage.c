/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/linkage.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vhd/locator.h"

static int add_utf16(struct linkage *linkage, const char code[4], const char *text, struct err *err)
{
	uint8_t *data;
	size_t length;
	int r = utf16_encode(text, false, &data, &length, err);

	if (r)
		return r;
	memcpy(linkage->locators[linkage->count].code, code, 4);
	linkage->locators[linkage->count].data = data;
	linkage->locators[linkage->count++].length = (uint32_t)length;
	return 0;
}

/* Who reads MacX does not agree on whether % escapes: a path that holds one has no such URL. */
static int add_mac(struct linkage *linkage, const char *relative, struct err *err)
{
	char *url;
	int length;

	if (strchr(relative, '%'))
		return 0;
	if (!strncmp(relative, ".\\", 2))
		relative += 2;
	length = asprintf(&url, "file://./%s", relative);
	if (length < 0)
		return err_set(err, -ENOMEM, "no memory for a name");
	for (char *s = url; *s; s++)
		if (*s == '\\')
			*s = '/';
	memcpy(linkage->locators[linkage->count].code, "MacX", 4);
	linkage->locators[linkage->count].data = (uint8_t *)url;
	linkage->locators[linkage->count++].length = (uint32_t)length;
	return 0;
}

static int set_name(struct linkage *linkage, const char *parent, struct err *err)
{
	uint8_t *text;
	size_t length;
	int r = utf16_encode(strrchr(parent, '/') + 1, true, &text, &length, err);

	if (r)
		return r;
	memcpy(linkage->name, text, length < sizeof(linkage->name) ? length : sizeof(linkage->name));
	free(text);
	return 0;
}

int linkage_make(const char *child, const char *parent, bool mac, struct linkage *ret, struct err *err)
{
	struct linkage linkage = {0};
	char *relative;
	int r;

	if (parent[0] != '/')
		return err_set(err, -EINVAL, "%s: the path of a parent must be absolute", parent);
	r = locator_relative(child, parent, &relative, err);
	if (r)
		return r;
	r = add_utf16(&linkage, "W2ru", relative, err);
	if (r == 0)
		r = add_utf16(&linkage, "W2ku", parent, err);
	if (r == 0 && mac)
		r = add_mac(&linkage, relative, err);
	free(relative);
	if (r == 0)
		r = set_name(&linkage, parent, err);
	if (r) {
		linkage_done(&linkage);
		return r;
	}
	*ret = linkage;
	return 0;
}

void linkage_done(struct linkage *linkage)
{
	for (unsigned i = 0; i < linkage->count; i++)
		free(linkage->locators[i].data);
	linkage->count = 0;
}
