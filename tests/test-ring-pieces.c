/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Transfers of any shape, by io_uring and by threads: common/ring.c, common/ring-pool.c, common/ring-io.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/ring.h"
#include "tests/lib/temp-dir.h"

#define PIECES 3000u
#define PIECE_BYTES 96u

static void transfer_done(struct ring_io *io, int result)
{
	int *ret = *(int **)(io + 1);

	*ret = result;
}

static int transfer(struct ring *ring, int slot, enum ring_op op, const struct iovec *iov, int count)
{
	struct {
		struct ring_io io;
		int *result;
	} t = {.io = {.op = (uint8_t)op, .slot = slot, .iov = iov, .iovcnt = count, .done = transfer_done}};
	int result = 1;

	t.result = &result;
	for (int i = 0; i < count; i++)
		t.io.length += iov[i].iov_len;
	ring_submit(ring, &t.io);
	assert_int_equal(ring_poll(ring, 1, -1), 1);
	return result;
}

/* The kernel takes 1024 pieces at once (IOV_MAX); some of them are empty. */
static void any_number_of_pieces(unsigned flags)
{
	char *dir = temp_dir_new("ring"), path[256];
	uint8_t *out = malloc(PIECES * PIECE_BYTES), *in = calloc(PIECES, PIECE_BYTES);
	struct iovec *iov = calloc(PIECES, sizeof(*iov));
	struct ring_file file = {.memory_align = 1};
	struct ring *ring;
	struct err err;
	int slot;

	snprintf(path, sizeof(path), "%s/f", dir);
	file.fd = open(path, O_RDWR | O_CREAT, 0600);
	assert_true(file.fd >= 0);
	assert_int_equal(ring_new(flags, &ring, &err), 0);
	slot = ring_attach(ring, &file);
	assert_true(slot >= 0);
	for (unsigned i = 0; i < PIECES * PIECE_BYTES; i++)
		out[i] = (uint8_t)(i * 7 + i / 251);
	for (unsigned i = 0; i < PIECES; i++)
		iov[i] = (struct iovec){out + i * PIECE_BYTES, i % 5 == 4 ? 0 : PIECE_BYTES};
	assert_int_equal(transfer(ring, slot, RING_WRITE, iov, PIECES), 0);
	for (unsigned i = 0; i < PIECES; i++)
		iov[i].iov_base = in + i * PIECE_BYTES;
	assert_int_equal(transfer(ring, slot, RING_READ, iov, PIECES), 0);
	for (unsigned i = 0; i < PIECES; i++)
		assert_memory_equal(in + i * PIECE_BYTES, out + i * PIECE_BYTES, iov[i].iov_len);
	ring_detach(ring, slot);
	ring_free(ring);
	close(file.fd);
	free(iov);
	free(in);
	free(out);
	temp_dir_free(dir);
}

static void a_transfer_has_any_number_of_pieces(void **state)
{
	(void)state;
	any_number_of_pieces(0);
}

static void a_transfer_of_a_thread_pool_has_any_number_of_pieces(void **state)
{
	(void)state;
	any_number_of_pieces(RING_NO_URING);
}

/* Many devices want 4 bytes. */
static void a_transfer_is_bounced_to_any_alignment(void **state)
{
	uint8_t out[1025], in[1025] = {0};

	(void)state;
	for (unsigned align = 1; align <= 4096; align *= 2) {
		char *dir = temp_dir_new("ring"), path[256];
		struct ring_file file = {.memory_align = align};
		struct ring *ring;
		struct err err;
		int slot;

		snprintf(path, sizeof(path), "%s/f", dir);
		file.fd = open(path, O_RDWR | O_CREAT, 0600);
		assert_true(file.fd >= 0);
		assert_int_equal(ring_new(0, &ring, &err), 0);
		slot = ring_attach(ring, &file);
		memset(out, (int)align % 251, sizeof(out));
		assert_int_equal(transfer(ring, slot, RING_WRITE, &(struct iovec){out + 1, 1024}, 1), 0);
		assert_int_equal(transfer(ring, slot, RING_READ, &(struct iovec){in + 1, 1024}, 1), 0);
		assert_memory_equal(in + 1, out + 1, 1024);
		ring_detach(ring, slot);
		ring_free(ring);
		close(file.fd);
		temp_dir_free(dir);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_transfer_has_any_number_of_pieces),
		cmocka_unit_test(a_transfer_of_a_thread_pool_has_any_number_of_pieces),
		cmocka_unit_test(a_transfer_is_bounced_to_any_alignment),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
