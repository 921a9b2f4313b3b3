/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TESTS_LIB_STORE_FAULT_H
#define TESTS_LIB_STORE_FAULT_H

/* A store that fails when it is told to. Any number of stores may share one plan; from any thread. */

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "vhd/store.h"

enum fault_op {
	FAULT_READ,
	FAULT_WRITE,
	FAULT_SYNC,
	FAULT_ALLOCATE,
	FAULT_PUNCH,
	FAULT_TRUNCATE,
	FAULT_OPS,
};

struct fault_plan {
	pthread_mutex_t lock;
	/* Under `lock`. */
	unsigned seen[FAULT_OPS]; /* operations so far */
	bool armed;
	enum fault_op op;  /* which fails ... */
	unsigned first;    /* ... counted from 0 ... */
	unsigned count;    /* ... and how many from there on; UINT_MAX: all */
	int error;         /* -errno */
	bool partial;      /* a write that fails leaves its first half behind, as a file system may */
	unsigned failed;   /* how many did */
};

void fault_plan_init(struct fault_plan *plan);
void fault_plan_done(struct fault_plan *plan);

/* From now on: the operation number `first`, counted from the beginning of the plan, and `count - 1` more fail. */
void fault_plan_arm(struct fault_plan *plan, enum fault_op op, unsigned first, unsigned count, int error, bool partial);

/* Nothing fails any more. Returns how many did. */
unsigned fault_plan_disarm(struct fault_plan *plan);

unsigned fault_plan_seen(struct fault_plan *plan, enum fault_op op);

const char *fault_op_name(enum fault_op op);

/* Takes `inner` over; the plan is borrowed and outlives it. */
struct store *store_fault_open_take(struct store *inner, struct fault_plan *plan);

#endif
