/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Taking a block from under its writers. A writer looks at the block's state inside its epoch; it goes on if it sees no
 * claim, and waits here if it does. So two epochs after the claim no write to the block is in flight.
 */
#include "vhd/queue.h"

#include <time.h>

#define EPOCH_LOOK_NS 50000 /* between looks: I/O in flight takes about as long */

void image_wait_for_epochs(struct image *image)
{
	const struct timespec pause = {.tv_nsec = EPOCH_LOOK_NS};
	uint32_t from;

	pthread_mutex_lock(&image->lock);
	from = atomic_load_explicit(&image->epoch, memory_order_relaxed);
	for (;;) {
		image_epoch_advance(image);
		if (image_epoch_passed(image, from))
			break;
		pthread_mutex_unlock(&image->lock);
		nanosleep(&pause, NULL);
		pthread_mutex_lock(&image->lock);
	}
	pthread_mutex_unlock(&image->lock);
}

void block_claim(struct image *image, struct image_layer *l, uint32_t block)
{
	pthread_mutex_lock(&image->lock);
	/* Sequentially consistent; pairs with block_look. */
	atomic_fetch_or(&layer_tables(l)->state[block], BLOCK_CLAIMED);
	pthread_mutex_unlock(&image->lock);
	image_wait_for_epochs(image);
}

void block_unclaim(struct image *image, struct image_layer *l, uint32_t block)
{
	struct part *waiters;

	pthread_mutex_lock(&image->lock);
	atomic_fetch_and(&layer_tables(l)->state[block], (uint8_t)~BLOCK_CLAIMED);
	/* Those that wait for other blocks look again and come back. */
	waiters = image->claim_waiters;
	image->claim_waiters = NULL;
	parts_post(waiters, 0);
	pthread_mutex_unlock(&image->lock);
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
