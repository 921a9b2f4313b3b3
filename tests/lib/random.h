/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TESTS_LIB_RANDOM_H
#define TESTS_LIB_RANDOM_H

/* Random numbers that a seed gives back: splitmix64. */

#include <stdbool.h>
#include <stdint.h>

struct rng {
	uint64_t state;
};

static inline uint64_t rng_next(struct rng *rng)
{
	uint64_t z = rng->state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

/* From 0 to below - 1; `below` is not 0. */
static inline uint64_t rng_below(struct rng *rng, uint64_t below)
{
	return rng_next(rng) % below;
}

static inline bool rng_percent(struct rng *rng, unsigned percent)
{
	return rng_below(rng, 100) < percent;
}

/* A generator of its own for the n-th thing that a seed decides about. */
static inline struct rng rng_fork(uint64_t seed, uint64_t n)
{
	struct rng rng = {seed ^ (n + 1) * UINT64_C(0xd1342543de82ef95)};

	rng.state = rng_next(&rng);
	return rng;
}

#endif
