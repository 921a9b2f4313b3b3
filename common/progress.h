/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef COMMON_PROGRESS_H
#define COMMON_PROGRESS_H

/* How far long work has come, told on standard error. For programs, not for libraries. */

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum progress_mode {
	PROGRESS_AUTO, /* a bar if the stream is a terminal */
	PROGRESS_NONE,
	PROGRESS_BAR,  /* one line, rewritten; appears after a second */
	PROGRESS_JSON, /* {"done": 1, "total": 2, "unit": "bytes", "seconds": 0.5} a line, at the end too */
};

struct progress {
	FILE *out;
	enum progress_mode mode;
	const char *unit; /* borrowed: "bytes", "blocks" */
	uint64_t total;   /* 0: not known */
	uint64_t done;
	uint64_t start_ns, next_ns;
	bool shown;
};

/* "none", "bar", "json", "auto". 0 or -EINVAL. */
int progress_mode_parse(const char *text, enum progress_mode *ret);

void progress_begin(struct progress *progress, FILE *out, enum progress_mode mode, const char *unit, uint64_t total);

/* NULL-safe; cheap enough to be called for every request. */
void progress_update(struct progress *progress, uint64_t done);

/* Takes the bar away. The last JSON line says what was reached. NULL-safe. */
void progress_end(struct progress *progress);

/* The same with the time given, for tests. */
void progress_begin_at(struct progress *progress, FILE *out, enum progress_mode mode, const char *unit, uint64_t total,
                       uint64_t now_ns);
void progress_update_at(struct progress *progress, uint64_t done, uint64_t now_ns);
void progress_end_at(struct progress *progress, uint64_t now_ns);

#endif
