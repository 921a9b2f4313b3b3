/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/lib/store-fault.h"

#include <stdlib.h>
#include <string.h>

#include "tests/lib/ring-inline.h"

struct store_fault {
	struct store base;
	struct store *inner;
	struct fault_plan *plan;
};

void fault_plan_init(struct fault_plan *plan)
{
	memset(plan, 0, sizeof(*plan));
	pthread_mutex_init(&plan->lock, NULL);
}

void fault_plan_done(struct fault_plan *plan)
{
	pthread_mutex_destroy(&plan->lock);
}

void fault_plan_arm(struct fault_plan *plan, enum fault_op op, unsigned first, unsigned count, int error, bool partial)
{
	pthread_mutex_lock(&plan->lock);
	plan->armed = true;
	plan->op = op;
	plan->first = first;
	plan->count = count;
	plan->error = error;
	plan->partial = partial;
	plan->failed = 0;
	pthread_mutex_unlock(&plan->lock);
}

unsigned fault_plan_disarm(struct fault_plan *plan)
{
	unsigned failed;

	pthread_mutex_lock(&plan->lock);
	plan->armed = false;
	failed = plan->failed;
	pthread_mutex_unlock(&plan->lock);
	return failed;
}

unsigned fault_plan_seen(struct fault_plan *plan, enum fault_op op)
{
	unsigned seen;

	pthread_mutex_lock(&plan->lock);
	seen = plan->seen[op];
	pthread_mutex_unlock(&plan->lock);
	return seen;
}

const char *fault_op_name(enum fault_op op)
{
	static const char *const names[] = {"read", "write", "sync", "allocation", "punch", "truncation"};

	return names[op];
}

/* 0: go on; else the error. */
static int fault_next(struct store_fault *s, enum fault_op op, bool *ret_partial)
{
	struct fault_plan *plan = s->plan;
	unsigned number;
	int rc = 0;

	pthread_mutex_lock(&plan->lock);
	number = plan->seen[op]++;
	if (plan->armed && plan->op == op && number >= plan->first && number - plan->first < plan->count) {
		plan->failed++;
		rc = plan->error;
		if (ret_partial)
			*ret_partial = plan->partial;
	}
	pthread_mutex_unlock(&plan->lock);
	return rc;
}

static int faulty_read(struct store *store, void *buffer, size_t length, uint64_t offset)
{
	struct store_fault *s = (struct store_fault *)store;
	int rc = fault_next(s, FAULT_READ, NULL);

	return rc ? rc : s->inner->ops->read(s->inner, buffer, length, offset);
}

static int faulty_write(struct store *store, const void *buffer, size_t length, uint64_t offset)
{
	struct store_fault *s = (struct store_fault *)store;
	size_t half = length / 1024 * 512;
	bool partial = false;
	int rc = fault_next(s, FAULT_WRITE, &partial);

	if (rc && partial && half)
		(void)s->inner->ops->write(s->inner, buffer, half, offset);
	return rc ? rc : s->inner->ops->write(s->inner, buffer, length, offset);
}

static int faulty_sync(struct store *store, enum store_barrier why)
{
	struct store_fault *s = (struct store_fault *)store;
	int rc = fault_next(s, FAULT_SYNC, NULL);

	return rc ? rc : s->inner->ops->sync(s->inner, why);
}

static int faulty_allocate(struct store *store, uint64_t offset, uint64_t length)
{
	struct store_fault *s = (struct store_fault *)store;
	int rc = fault_next(s, FAULT_ALLOCATE, NULL);

	return rc ? rc : s->inner->ops->allocate(s->inner, offset, length);
}

static int faulty_punch(struct store *store, uint64_t offset, uint64_t length)
{
	struct store_fault *s = (struct store_fault *)store;
	int rc = fault_next(s, FAULT_PUNCH, NULL);

	return rc ? rc : s->inner->ops->punch(s->inner, offset, length);
}

static int faulty_truncate(struct store *store, uint64_t size)
{
	struct store_fault *s = (struct store_fault *)store;
	int rc = fault_next(s, FAULT_TRUNCATE, NULL);

	return rc ? rc : s->inner->ops->truncate(s->inner, size);
}

static int faulty_size(struct store *store, uint64_t *ret)
{
	struct store *inner = ((struct store_fault *)store)->inner;

	return inner->ops->size(inner, ret);
}

static void faulty_close(struct store *store)
{
	store_close(((struct store_fault *)store)->inner);
	free(store);
}

static int faulty_raise(struct store *store, const char *path, struct store **ret, struct err *err)
{
	struct store_fault *s = (struct store_fault *)store;
	struct store *inner;
	int rc = s->inner->ops->raise(s->inner, path, &inner, err);

	if (rc == 0)
		*ret = store_fault_open_take(inner, s->plan);
	return rc;
}

static void faulty_lower(struct store *store)
{
	struct store *inner = ((struct store_fault *)store)->inner;

	inner->ops->lower(inner);
	store->read_only = true;
}

static const struct store_ops fault_ops = {
	.read = faulty_read,
	.write = faulty_write,
	.sync = faulty_sync,
	.allocate = faulty_allocate,
	.punch = faulty_punch,
	.truncate = faulty_truncate,
	.size = faulty_size,
	.ring_new = ring_inline_store_ring_new,
	.raise = faulty_raise,
	.lower = faulty_lower,
	.close = faulty_close,
};

struct store *store_fault_open_take(struct store *inner, struct fault_plan *plan)
{
	struct store_fault *s = calloc(1, sizeof(*s));

	if (!s)
		abort();
	s->base = *inner;
	s->base.ops = &fault_ops;
	s->inner = inner;
	s->plan = plan;
	return &s->base;
}
