/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef COMMON_IOV_H
#define COMMON_IOV_H

/* Scattered memory. Lengths and offsets in bytes; callers know that the iovec is long enough. */

#include <stdint.h>
#include <string.h>
#include <sys/uio.h>

/* Drops the first `skip` bytes in place; returns how many elements are left. */
static inline int iov_skip(struct iovec *iov, int count, uint64_t skip)
{
	int first = 0;

	while (first < count && skip >= iov[first].iov_len)
		skip -= iov[first++].iov_len;
	memmove(iov, iov + first, sizeof(*iov) * (size_t)(count - first));
	if (first < count) {
		iov[0].iov_base = (char *)iov[0].iov_base + skip;
		iov[0].iov_len -= skip;
	}
	return count - first;
}

/* How many elements iov_slice would write. */
static inline int iov_slice_count(const struct iovec *iov, uint64_t offset, uint64_t length)
{
	int n = 0;

	for (; offset >= iov->iov_len; iov++)
		offset -= iov->iov_len;
	for (uint64_t have = 0; have < length; iov++, offset = 0, n++)
		have += iov->iov_len - offset;
	return n;
}

/* Writes [offset, offset + length) of `iov` to `ret`; returns the number of elements. */
static inline int iov_slice(const struct iovec *iov, uint64_t offset, uint64_t length, struct iovec *ret)
{
	int n = 0;

	for (; offset >= iov->iov_len; iov++)
		offset -= iov->iov_len;
	for (; length > 0; iov++, offset = 0) {
		uint64_t take = iov->iov_len - offset;

		if (take > length)
			take = length;
		if (take == 0)
			continue;
		ret[n++] = (struct iovec){(char *)iov->iov_base + offset, take};
		length -= take;
	}
	return n;
}

static inline void iov_zero(const struct iovec *iov, uint64_t offset, uint64_t length)
{
	for (; offset >= iov->iov_len; iov++)
		offset -= iov->iov_len;
	for (; length > 0; iov++, offset = 0) {
		uint64_t take = iov->iov_len - offset;

		if (take > length)
			take = length;
		memset((char *)iov->iov_base + offset, 0, take);
		length -= take;
	}
}

static inline void iov_copy_from(const struct iovec *iov, int count, void *to, uint64_t length)
{
	for (int i = 0; i < count && length > 0; i++) {
		uint64_t take = iov[i].iov_len < length ? iov[i].iov_len : length;

		memcpy(to, iov[i].iov_base, take);
		to = (char *)to + take;
		length -= take;
	}
}

static inline void iov_copy_to(const struct iovec *iov, int count, const void *from, uint64_t length)
{
	for (int i = 0; i < count && length > 0; i++) {
		uint64_t take = iov[i].iov_len < length ? iov[i].iov_len : length;

		memcpy(iov[i].iov_base, from, take);
		from = (const char *)from + take;
		length -= take;
	}
}

static inline uint64_t iov_total(const struct iovec *iov, int count)
{
	uint64_t total = 0;

	for (int i = 0; i < count; i++)
		total += iov[i].iov_len;
	return total;
}

#endif
