/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/lib/random.h"
#include "tests/lib/store-memory.h"
#include "vhd/overlay.h"

#define ROOM 8192u

static struct store *file_of(const uint8_t *bytes, size_t size, struct memory_file **ret)
{
	struct store *store;

	*ret = memory_file_new(NULL);
	store = store_memory_open(*ret, STORE_WRITE);
	assert_int_equal(store->ops->write(store, bytes, size, 0), 0);
	return store;
}

/* The same is done to an overlay and to plain bytes. */
static void what_is_planned_reads_as_if_it_had_been_done(void **state)
{
	uint8_t file[2000], model[ROOM] = {0}, now[ROOM], piece[600];
	struct memory_file *memory;
	struct overlay overlay;
	struct store *store;
	size_t size = sizeof(file), kept = sizeof(file);
	struct rng rng = {7};

	for (size_t i = 0; i < sizeof(file); i++)
		file[i] = model[i] = (uint8_t)rng_next(&rng);
	store = file_of(file, sizeof(file), &memory);
	assert_int_equal(overlay_init(&overlay, store), 0);
	for (unsigned step = 0; step < 3000; step++) {
		size_t at = rng_below(&rng, 3000), length = 1 + rng_below(&rng, sizeof(piece));

		if (rng_percent(&rng, 45)) {
			for (size_t i = 0; i < length; i++)
				piece[i] = (uint8_t)rng_next(&rng);
			assert_int_equal(overlay_write(&overlay, piece, length, at, 0), 0);
			memcpy(model + at, piece, length);
		} else if (rng_percent(&rng, 45)) {
			size_t from = rng_below(&rng, 1500);

			/* A copy is one of the file's own bytes, as far as they are kept. */
			assert_int_equal(overlay_copy(&overlay, from, length, at, 0), 0);
			for (size_t i = 0; i < length; i++)
				piece[i] = from + i < kept ? file[from + i] : 0;
			memcpy(model + at, piece, length);
		} else if (rng_percent(&rng, 10)) {
			at = 1600 + rng_below(&rng, 3000);
			length = 0;
			assert_int_equal(overlay_resize(&overlay, at), 0);
			kept = at < kept ? at : kept;
			size = at;
			memset(model + size, 0, sizeof(model) - size);
			/* Copies that were planned before show less now. */
			assert_int_equal(overlay_read(&overlay, model, size, 0), 0);
			continue;
		} else {
			continue;
		}
		size = at + length > size ? at + length : size;
		assert_int_equal(overlay.size, size);
		assert_int_equal(overlay_read(&overlay, now, size, 0), 0);
		assert_memory_equal(now, model, size);
		assert_int_equal(overlay_read(&overlay, now, 1, size), -ENODATA);
	}
	/* The file itself is as it was. */
	assert_int_equal(store->ops->read(store, now, sizeof(file), 0), 0);
	assert_memory_equal(now, file, sizeof(file));
	overlay_done(&overlay);
	store_close(store);
	memory_file_free(memory);
}

static void what_was_cut_off_does_not_come_back(void **state)
{
	uint8_t file[1000], now[1500], zeros[1500] = {0};
	struct memory_file *memory;
	struct overlay overlay;
	struct store *store, *view;

	memset(file, 0xEE, sizeof(file));
	store = file_of(file, sizeof(file), &memory);
	assert_int_equal(overlay_init(&overlay, store), 0);
	assert_int_equal(overlay_resize(&overlay, 300), 0);
	assert_int_equal(overlay_resize(&overlay, 1500), 0);
	view = overlay_store(&overlay);
	assert_non_null(view);
	assert_int_equal(view->ops->read(view, now, 1500, 0), 0);
	assert_memory_equal(now, file, 300);
	assert_memory_equal(now + 300, zeros, 1200);
	assert_int_equal(view->ops->write(view, now, 1, 0), -EBADF);
	store_close(view);
	overlay_done(&overlay);
	store_close(store);
	memory_file_free(memory);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_planned_reads_as_if_it_had_been_done),
		cmocka_unit_test(what_was_cut_off_does_not_come_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
