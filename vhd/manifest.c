/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vhd/manifest.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"

#define HASH_DIGITS 32

void manifest_done(struct manifest *manifest)
{
	free(manifest->entries);
	*manifest = (struct manifest){0};
}

int manifest_add(struct manifest *manifest, uint64_t block, XXH128_hash_t hash)
{
	if (manifest->count == manifest->room) {
		size_t room = manifest->room ? manifest->room * 2 : 64;
		struct manifest_entry *grown = reallocarray(manifest->entries, room, sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		manifest->entries = grown;
		manifest->room = room;
	}
	manifest->entries[manifest->count++] = (struct manifest_entry){block, hash};
	return 0;
}

uint64_t manifest_block_count(const struct manifest *manifest)
{
	return manifest->size / manifest->block_size + (manifest->size % manifest->block_size != 0);
}

int manifest_finish(struct manifest *manifest)
{
	uint64_t blocks = manifest_block_count(manifest), last_length = manifest->size % manifest->block_size;
	XXH3_state_t *state = XXH3_createState();
	uint8_t *zeros = calloc(1, manifest->block_size);
	XXH128_canonical_t zero_hash, hash;
	size_t at = 0;

	if (!state || !zeros) {
		XXH3_freeState(state);
		free(zeros);
		return -ENOMEM;
	}
	XXH3_128bits_reset(state);
	XXH128_canonicalFromHash(&zero_hash, XXH3_128bits(zeros, manifest->block_size));
	for (uint64_t block = 0; block < blocks; block++) {
		if (at < manifest->count && manifest->entries[at].block == block)
			XXH128_canonicalFromHash(&hash, manifest->entries[at++].hash);
		else if (block == blocks - 1 && last_length)
			XXH128_canonicalFromHash(&hash, XXH3_128bits(zeros, last_length));
		else
			hash = zero_hash;
		XXH3_128bits_update(state, &hash, sizeof(hash));
	}
	manifest->content = XXH3_128bits_digest(state);
	XXH3_freeState(state);
	free(zeros);
	return 0;
}

static int line_write(FILE *out, XXH3_state_t *state, const char *line, int length)
{
	XXH3_128bits_update(state, line, (size_t)length);
	return fwrite(line, 1, (size_t)length, out) == (size_t)length ? 0 : -EIO;
}

static const char *hash_text(XXH128_hash_t hash, char ret[HASH_DIGITS + 1])
{
	snprintf(ret, HASH_DIGITS + 1, "%016" PRIx64 "%016" PRIx64, (uint64_t)hash.high64, (uint64_t)hash.low64);
	return ret;
}

int manifest_write(const struct manifest *manifest, FILE *out)
{
	XXH3_state_t *state = XXH3_createState();
	char line[160], hash[HASH_DIGITS + 1];
	int r, n;

	if (!state)
		return -ENOMEM;
	XXH3_128bits_reset(state);
	n = snprintf(line, sizeof(line), "vhdkit-manifest version=1 hash=xxh3-128 size=%" PRIu64 " block-size=%" PRIu32 "\n",
	             manifest->size, manifest->block_size);
	r = line_write(out, state, line, n);
	for (size_t i = 0; i < manifest->count && r == 0; i++) {
		n = snprintf(line, sizeof(line), "block %" PRIu64 " %s\n", manifest->entries[i].block,
		             hash_text(manifest->entries[i].hash, hash));
		r = line_write(out, state, line, n);
	}
	if (r == 0) {
		n = snprintf(line, sizeof(line), "content %s\n", hash_text(manifest->content, hash));
		r = line_write(out, state, line, n);
	}
	if (r == 0 && fprintf(out, "manifest %s\n", hash_text(XXH3_128bits_digest(state), hash)) < 0)
		r = -EIO;
	XXH3_freeState(state);
	return r;
}

/* Exactly 32 lower-case digits and nothing after. */
static bool hash_parse(const char *text, XXH128_hash_t *ret)
{
	uint64_t halves[2] = {0, 0};

	for (int i = 0; i < HASH_DIGITS; i++) {
		unsigned digit;

		if (text[i] >= '0' && text[i] <= '9')
			digit = (unsigned)(text[i] - '0');
		else if (text[i] >= 'a' && text[i] <= 'f')
			digit = (unsigned)(text[i] - 'a') + 10;
		else
			return false;
		halves[i / 16] = halves[i / 16] << 4 | digit;
	}
	if (text[HASH_DIGITS])
		return false;
	*ret = (XXH128_hash_t){.high64 = halves[0], .low64 = halves[1]};
	return true;
}

static bool number_parse(char **at, uint64_t *ret)
{
	char *text = *at;
	uint64_t value = 0;

	if (*text < '0' || *text > '9')
		return false;
	for (; *text >= '0' && *text <= '9'; text++)
		if (!checked_mul(value, 10, &value) || !checked_add(value, (uint64_t)(*text - '0'), &value))
			return false;
	*at = text;
	*ret = value;
	return true;
}

static bool literal_skip(char **at, const char *literal)
{
	size_t length = strlen(literal);

	if (strncmp(*at, literal, length) != 0)
		return false;
	*at += length;
	return true;
}

/* Cuts the next line off at *at, without its end. NULL: there is none that ends. */
static char *line_cut(char **at, char *end)
{
	char *line = *at, *stop = memchr(line, '\n', (size_t)(end - line));

	if (!stop || memchr(line, '\0', (size_t)(stop - line)))
		return NULL;
	*stop = '\0';
	*at = stop + 1;
	return line;
}

static bool header_parse(char *line, struct manifest *ret)
{
	uint64_t block_size;

	if (!literal_skip(&line, "vhdkit-manifest version=1 hash=xxh3-128 size=") || !number_parse(&line, &ret->size) ||
	    !literal_skip(&line, " block-size=") || !number_parse(&line, &block_size) || *line)
		return false;
	if (block_size < MANIFEST_BLOCK_MIN || block_size > MANIFEST_BLOCK_MAX || !is_power_of_two(block_size))
		return false;
	ret->block_size = (uint32_t)block_size;
	return true;
}

static int block_parse(char *line, struct manifest *ret)
{
	XXH128_hash_t hash;
	uint64_t block;

	if (!number_parse(&line, &block) || !literal_skip(&line, " ") || !hash_parse(line, &hash))
		return -EBADMSG;
	if (block >= manifest_block_count(ret) || (ret->count && block <= ret->entries[ret->count - 1].block))
		return -EBADMSG;
	return manifest_add(ret, block, hash);
}

/* The last line vouches for all before it. */
static bool seal_check(const char *text, size_t length)
{
	const size_t seal_length = strlen("manifest ") + HASH_DIGITS + 1;
	char digits[HASH_DIGITS + 1];
	XXH128_hash_t hash;
	const char *seal;

	if (length < seal_length || text[length - 1] != '\n')
		return false;
	seal = text + length - seal_length;
	memcpy(digits, seal + strlen("manifest "), HASH_DIGITS);
	digits[HASH_DIGITS] = '\0';
	return memcmp(seal, "manifest ", strlen("manifest ")) == 0 && hash_parse(digits, &hash) &&
	       XXH128_isEqual(hash, XXH3_128bits(text, length - seal_length));
}

static int lines_parse(const char *path, char *text, char *end, struct manifest *ret, struct err *err)
{
	unsigned long number = 1;
	char *line = line_cut(&text, end);

	if (!line || !header_parse(line, ret))
		return err_set(err, -EBADMSG, "%s: line 1 is no header of a manifest that this program knows", path);
	while ((line = line_cut(&text, end))) {
		int r = -EBADMSG;

		number++;
		if (literal_skip(&line, "block "))
			r = block_parse(line, ret);
		else if (literal_skip(&line, "content ") && hash_parse(line, &ret->content))
			break;
		if (r < 0)
			return err_set(err, r, "%s: line %lu cannot be read", path, number);
	}
	line = line ? line_cut(&text, end) : NULL;
	if (!line || strncmp(line, "manifest ", 9) != 0 || text != end)
		return err_set(err, -EBADMSG, "%s: does not end with its content's hash and its own", path);
	return 0;
}

int manifest_parse(const char *path, char *text, size_t length, struct manifest *ret, struct err *err)
{
	struct manifest manifest = {0};
	int r;

	if (length < 16 || memcmp(text, "vhdkit-manifest ", 16) != 0)
		return err_set(err, -EBADMSG, "%s: is no manifest of 'vhd hash'", path);
	if (!seal_check(text, length))
		return err_set(err, -EBADMSG, "%s: the manifest is damaged: its text does not have the hash in its last line",
		               path);
	r = lines_parse(path, text, text + length, &manifest, err);
	if (r < 0) {
		manifest_done(&manifest);
		return r;
	}
	*ret = manifest;
	return 0;
}

int manifest_read(const char *path, struct manifest *ret, struct err *err)
{
	FILE *file = fopen(path, "re");
	size_t length = 0, room = 1 << 16;
	char *text = file ? malloc(room) : NULL;
	int r = 0;

	if (!file)
		return err_set(err, -errno, "%s: %s", path, strerror(errno));
	while (text) {
		size_t n = fread(text + length, 1, room - length, file);
		char *grown;

		length += n;
		if (n == 0)
			break;
		if (length < room)
			continue;
		grown = realloc(text, room *= 2);
		if (!grown)
			free(text);
		text = grown;
	}
	if (!text)
		r = err_set(err, -ENOMEM, "%s: out of memory", path);
	else if (ferror(file))
		r = err_set(err, -EIO, "%s: cannot be read: %s", path, strerror(errno));
	fclose(file);
	if (r == 0)
		r = manifest_parse(path, text, length, ret, err);
	free(text);
	return r;
}
