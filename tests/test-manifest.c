/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "vhd/manifest.h"

/* A disk of three and a half blocks; the second and the short last one hold data. */
static char *sample_text(size_t *length)
{
	struct manifest manifest = {.size = 14336, .block_size = 4096};
	char *text = NULL;
	FILE *file = open_memstream(&text, length);

	assert_non_null(file);
	assert_int_equal(manifest_add(&manifest, 1, XXH3_128bits("one", 3)), 0);
	assert_int_equal(manifest_add(&manifest, 3, XXH3_128bits("three", 5)), 0);
	assert_int_equal(manifest_finish(&manifest), 0);
	assert_int_equal(manifest_write(&manifest, file), 0);
	fclose(file);
	manifest_done(&manifest);
	return text;
}

static int parse_copy(const char *text, size_t length, struct manifest *ret)
{
	char *copy = malloc(length + 1);
	struct err err = {.text = ""};
	int r;

	assert_non_null(copy);
	memcpy(copy, text, length);
	copy[length] = '\0';
	r = manifest_parse("m", copy, length, ret, &err);
	if (r < 0)
		assert_memory_equal(err.text, "m: ", 3);
	free(copy);
	return r;
}

static void what_is_written_is_read_back(void **state)
{
	struct manifest manifest;
	size_t length;
	char *text = sample_text(&length);

	(void)state;
	assert_int_equal(parse_copy(text, length, &manifest), 0);
	assert_int_equal(manifest.size, 14336);
	assert_int_equal(manifest.block_size, 4096);
	assert_int_equal(manifest.count, 2);
	assert_int_equal(manifest.entries[1].block, 3);
	assert_true(XXH128_isEqual(manifest.entries[0].hash, XXH3_128bits("one", 3)));
	manifest_done(&manifest);
	free(text);
}

static void any_flipped_bit_is_noticed(void **state)
{
	size_t length;
	char *text = sample_text(&length);

	(void)state;
	for (size_t i = 0; i < length; i++) {
		for (int bit = 0; bit < 8; bit++) {
			struct manifest manifest;

			text[i] ^= (char)(1 << bit);
			assert_int_equal(parse_copy(text, length, &manifest), -EBADMSG);
			text[i] ^= (char)(1 << bit);
		}
	}
	free(text);
}

static void any_cut_is_noticed(void **state)
{
	size_t length;
	char *text = sample_text(&length);

	(void)state;
	for (size_t i = 0; i < length; i++) {
		struct manifest manifest;

		assert_int_equal(parse_copy(text, i, &manifest), -EBADMSG);
	}
	free(text);
}

/* Text with a right last line, so that only what is before it can be wrong. */
static int parse_sealed(const char *body)
{
	XXH128_hash_t hash = XXH3_128bits(body, strlen(body));
	struct manifest manifest = {0};
	char *text = NULL;
	int n, r;

	n = asprintf(&text, "%smanifest %016llx%016llx\n", body, (unsigned long long)hash.high64,
	             (unsigned long long)hash.low64);
	assert_true(n > 0);
	r = parse_copy(text, (size_t)n, &manifest);
	if (r == 0)
		manifest_done(&manifest);
	free(text);
	return r;
}

#define HEADER "vhdkit-manifest version=1 hash=xxh3-128 size=8192 block-size=4096\n"
#define HASH "00000000000000000000000000000001"
#define CONTENT "content " HASH "\n"

static void a_sealed_manifest_is_still_not_believed_blindly(void **state)
{
	(void)state;
	assert_int_equal(parse_sealed(HEADER CONTENT), 0);
	assert_int_equal(parse_sealed(HEADER "block 0 " HASH "\nblock 1 " HASH "\n" CONTENT), 0);
	assert_int_equal(parse_sealed(HEADER "block 1 " HASH "\nblock 0 " HASH "\n" CONTENT), -EBADMSG);
	assert_int_equal(parse_sealed(HEADER "block 1 " HASH "\nblock 1 " HASH "\n" CONTENT), -EBADMSG);
	assert_int_equal(parse_sealed(HEADER "block 2 " HASH "\n" CONTENT), -EBADMSG);
	assert_int_equal(parse_sealed(HEADER "block 99999999999999999999 " HASH "\n" CONTENT), -EBADMSG);
	assert_int_equal(parse_sealed(HEADER "block 0 " HASH "0\n" CONTENT), -EBADMSG);
	assert_int_equal(parse_sealed(HEADER), -EBADMSG);
	assert_int_equal(parse_sealed(HEADER CONTENT CONTENT), -EBADMSG);
	assert_int_equal(parse_sealed("vhdkit-manifest version=2 hash=xxh3-128 size=8192 block-size=4096\n" CONTENT),
	                 -EBADMSG);
	assert_int_equal(parse_sealed("vhdkit-manifest version=1 hash=xxh3-128 size=8192 block-size=0\n" CONTENT),
	                 -EBADMSG);
	assert_int_equal(parse_sealed("vhdkit-manifest version=1 hash=xxh3-128 size=8192 block-size=5000\n" CONTENT),
	                 -EBADMSG);
}

static void a_disk_of_zeros_has_the_hash_of_its_zero_blocks(void **state)
{
	struct manifest manifest = {.size = 6144, .block_size = 4096};
	uint8_t zeros[4096] = {0};
	XXH128_canonical_t hashes[2];

	(void)state;
	XXH128_canonicalFromHash(&hashes[0], XXH3_128bits(zeros, 4096));
	XXH128_canonicalFromHash(&hashes[1], XXH3_128bits(zeros, 2048));
	assert_int_equal(manifest_finish(&manifest), 0);
	assert_true(XXH128_isEqual(manifest.content, XXH3_128bits(hashes, sizeof(hashes))));
	manifest_done(&manifest);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_written_is_read_back),
		cmocka_unit_test(any_flipped_bit_is_noticed),
		cmocka_unit_test(any_cut_is_noticed),
		cmocka_unit_test(a_sealed_manifest_is_still_not_believed_blindly),
		cmocka_unit_test(a_disk_of_zeros_has_the_hash_of_its_zero_blocks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
