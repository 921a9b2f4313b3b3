/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/parent-search.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vhd/layer-scan.h"
#include "vhd/locator.h"

char *path_folder(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
}

/* Takes `path` over. */
static int candidate_add(struct parent_candidates *candidates, const char *folder, char *path)
{
	char *whole = path;

	if (path[0] != '/') {
		if (asprintf(&whole, "%s/%s", strcmp(folder, "/") ? folder : "", path) < 0)
			whole = NULL;
		free(path);
		if (!whole)
			return -ENOMEM;
	}
	for (unsigned i = 0; i < candidates->count; i++)
		if (!strcmp(candidates->paths[i], whole)) {
			free(whole);
			return 0;
		}
	if (candidates->count == PARENT_CANDIDATES_MAX) {
		free(whole);
		return 0;
	}
	candidates->paths[candidates->count++] = whole;
	return 0;
}

/* The locator's data, no more of it than its space, the file and LOCATOR_MAX_BYTES hold. */
static int locator_load(const struct layer *child, const struct locator *locator, char **ret, struct err *err)
{
	uint64_t space = locator_space_bytes(locator), length = locator->length;
	uint8_t *data;
	int r;

	if (length > space)
		length = space;
	if (length > LOCATOR_MAX_BYTES)
		length = LOCATOR_MAX_BYTES;
	if (locator->offset >= child->file_size)
		return err_set(err, VHD_E_CORRUPT, "it lies beyond the end of the file");
	if (length > child->file_size - locator->offset)
		length = child->file_size - locator->offset;
	if (length == 0)
		return err_set(err, VHD_E_CORRUPT, "it is empty");
	data = malloc(length);
	if (!data)
		return err_set(err, -ENOMEM, "no memory");
	r = layer_read(child, data, length, locator->offset);
	if (r < 0)
		err_set(err, r, "reading it failed: %s", strerror(-r));
	else
		r = locator_decode(locator->code, data, length, ret, err);
	free(data);
	return r;
}

static const char *last_component(const char *name)
{
	const char *last = name;

	for (const char *s = name; *s; s++)
		if (*s == '/' || *s == '\\' || (*s == ':' && s == name + 1))
			last = s + 1;
	return last;
}

static int header_name_add(struct parent_candidates *candidates, const struct layer *child, const char *folder)
{
	const char *name = child->parent_name ? last_component(child->parent_name) : "";
	char *copy;

	if (!*name || !strcmp(name, ".") || !strcmp(name, ".."))
		return 0;
	copy = strdup(name);
	return copy ? candidate_add(candidates, folder, copy) : -ENOMEM;
}

int parent_candidates_find(const struct layer *child, const char *folder, struct parent_candidates *ret,
                           void (*warn)(void *user, uint64_t offset, const char *sentence), void *user)
{
	static const char codes[][5] = {"W2ru", "W2ku", "MacX"};
	int r = 0;

	*ret = (struct parent_candidates){0};
	for (unsigned code = 0; code < 3; code++)
		for (unsigned i = 0; i < VHD_LOCATORS; i++) {
			const struct locator *locator = &child->header.locators[i];
			char sentence[sizeof(struct err) + 64], *path;
			struct err why;

			if (memcmp(locator->code, codes[code], 4))
				continue;
			r = locator_load(child, locator, &path, &why);
			if (r == 0) {
				r = candidate_add(ret, folder, path);
			} else if (r != -ENOMEM) {
				snprintf(sentence, sizeof(sentence), "parent locator %u (%s) cannot be used: %s", i + 1, codes[code],
				         why.text);
				if (warn)
					warn(user, child->header_offset + 0x240 + i * sizeof(struct locator_disk), sentence);
				r = 0;
			}
			if (r)
				goto fail;
		}
	r = header_name_add(ret, child, folder);
	if (r == 0)
		return 0;
fail:
	parent_candidates_done(ret);
	return r;
}

void parent_candidates_done(struct parent_candidates *candidates)
{
	for (unsigned i = 0; i < candidates->count; i++)
		free(candidates->paths[i]);
	candidates->count = 0;
}
