/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Taking a block from under its writers. A writer looks at the block's state inside its epoch; it goes on if it sees no
 * claim, and waits here if it does. So two epochs after the claim no write to the block is in flight.
 */
#include "vhd/queue.h"

#include <time.h>

#define EPOCH_LOOK_NS 50000 /* between looks: I/O in flight takes about as long */

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

bool image_wait_for_epochs_within(struct image *image, unsigned limit_ms)
{
	const struct timespec pause = {.tv_nsec = EPOCH_LOOK_NS};
	int64_t until = now_ns() + (int64_t)limit_ms * 1000000;
	bool passed;
	uint32_t from;

	pthread_mutex_lock(&image->lock);
	from = atomic_load_explicit(&image->epoch, memory_order_relaxed);
	for (;;) {
		image_epoch_advance(image);
		passed = image_epoch_passed(image, from);
		if (passed || (limit_ms != WAIT_WITHOUT_LIMIT && now_ns() >= until))
			break;
		pthread_mutex_unlock(&image->lock);
		nanosleep(&pause, NULL);
		pthread_mutex_lock(&image->lock);
	}
	pthread_mutex_unlock(&image->lock);
	return passed;
}

void image_wait_for_epochs(struct image *image)
{
	(void)image_wait_for_epochs_within(image, WAIT_WITHOUT_LIMIT);
}

void block_claim(struct image *image, struct image_layer *l, uint32_t block)
{
	pthread_mutex_lock(&image->lock);
	/* Sequentially consistent; pairs with block_look. */
	atomic_fetch_or(&layer_tables(l)->state[block], BLOCK_CLAIMED);
	pthread_mutex_unlock(&image->lock);
	image_wait_for_epochs(image);
}

/* Under the lock. */
static void unclaim(struct image *image, const struct tables *t, uint32_t block)
{
	struct part *waiters = image->claim_waiters;

	atomic_fetch_and(&t->state[block], (uint8_t)~BLOCK_CLAIMED);
	/* Those that wait for other blocks look again and come back. */
	image->claim_waiters = NULL;
	parts_post(waiters, 0);
}

void block_unclaim(struct image *image, struct image_layer *l, uint32_t block)
{
	pthread_mutex_lock(&image->lock);
	unclaim(image, layer_tables(l), block);
	pthread_mutex_unlock(&image->lock);
}

bool claims_take(struct image *image, struct image_layer *l, struct claim *claims, unsigned count, unsigned limit_ms)
{
	const struct tables *t;

	pthread_mutex_lock(&image->lock);
	t = layer_tables(l);
	for (unsigned i = 0; i < count; i++) {
		claims[i].held = claims[i].slot != VHD_BAT_UNALLOCATED &&
		                 atomic_load_explicit(&t->bat[claims[i].block], memory_order_relaxed) == claims[i].slot;
		if (claims[i].held)
			atomic_fetch_or(&t->state[claims[i].block], BLOCK_CLAIMED); /* as in block_claim */
	}
	pthread_mutex_unlock(&image->lock);
	if (image_wait_for_epochs_within(image, limit_ms))
		return true;
	for (unsigned i = 0; i < count; i++)
		claim_drop(image, l, &claims[i]);
	return false;
}

void claim_drop(struct image *image, struct image_layer *l, struct claim *claim)
{
	if (claim->held)
		block_unclaim(image, l, claim->block);
	claim->held = false;
}

bool part_wait_for_claim(struct part *p)
{
	struct image *image = p->queue->image;
	const struct tables *t;
	bool waits;

	pthread_mutex_lock(&image->lock);
	t = layer_tables(p->layer);
	waits = atomic_load(&t->state[p->block]) & BLOCK_CLAIMED;
	if (waits) {
		part_pause(p);
		p->io.done = part_restart;
		p->next = image->claim_waiters;
		image->claim_waiters = p;
	}
	pthread_mutex_unlock(&image->lock);
	return waits;
}
