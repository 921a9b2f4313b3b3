/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "common/progress.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "common/json.h"
#include "common/size.h"

#define SECOND_NS UINT64_C(1000000000)
#define BAR_PATIENCE_NS SECOND_NS
#define BAR_STEP_NS (SECOND_NS / 10)
#define JSON_STEP_NS (SECOND_NS / 2)
#define BAR_CELLS 30

static uint64_t clock_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * SECOND_NS + (uint64_t)now.tv_nsec;
}

int progress_mode_parse(const char *text, enum progress_mode *ret)
{
	static const char *const names[] = {"auto", "none", "bar", "json"};

	for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (strcmp(text, names[i]) == 0) {
			*ret = (enum progress_mode)i;
			return 0;
		}
	}
	return -EINVAL;
}

void progress_begin_at(struct progress *progress, FILE *out, enum progress_mode mode, const char *unit, uint64_t total,
                       uint64_t now_ns)
{
	if (mode == PROGRESS_AUTO)
		mode = isatty(fileno(out)) ? PROGRESS_BAR : PROGRESS_NONE;
	*progress = (struct progress){
	        .out = out,
	        .mode = mode,
	        .unit = unit,
	        .total = total,
	        .start_ns = now_ns,
	        .next_ns = now_ns + (mode == PROGRESS_BAR ? BAR_PATIENCE_NS : JSON_STEP_NS),
	};
}

static void amount_text(const struct progress *progress, uint64_t amount, char *ret)
{
	if (strcmp(progress->unit, "bytes") == 0)
		size_text(amount, ret);
	else
		snprintf(ret, SIZE_TEXT_MAX, "%llu %s", (unsigned long long)amount, progress->unit);
}

/* How many characters fit in a line: one that is wider would not be overwritten by the next, but scroll. */
static int line_width(FILE *out)
{
	struct winsize window;

	if (ioctl(fileno(out), TIOCGWINSZ, &window) < 0 || window.ws_col < 2)
		return INT_MAX;
	return window.ws_col - 1;
}

static void line_draw(const struct progress *progress, const char *line)
{
	fprintf(progress->out, "\r\033[K%.*s", line_width(progress->out), line);
	fflush(progress->out);
}

static void bar_draw(const struct progress *progress, uint64_t now_ns)
{
	char done_text[SIZE_TEXT_MAX], total_text[SIZE_TEXT_MAX], left_text[32] = "", cells[BAR_CELLS + 1];
	char line[2 * SIZE_TEXT_MAX + sizeof(left_text) + BAR_CELLS + 32];
	double elapsed = (double)(now_ns - progress->start_ns) / (double)SECOND_NS;
	double share;

	amount_text(progress, progress->done, done_text);
	if (progress->total == 0) {
		line_draw(progress, done_text);
		return;
	}
	share = (double)progress->done / (double)progress->total;
	if (share > 1)
		share = 1;
	for (int i = 0; i < BAR_CELLS; i++)
		cells[i] = i < (int)(share * BAR_CELLS) ? '#' : '.';
	cells[BAR_CELLS] = '\0';
	if (strcmp(progress->unit, "bytes") == 0)
		size_text_exact(progress->total, total_text);
	else
		amount_text(progress, progress->total, total_text);
	if (share > 0 && share < 1)
		snprintf(left_text, sizeof(left_text), ", %.0f s left", elapsed / share - elapsed);
	snprintf(line, sizeof(line), "[%s] %3d%%  %s of %s%s", cells, (int)(share * 100), done_text, total_text, left_text);
	line_draw(progress, line);
}

static void json_line(const struct progress *progress, uint64_t now_ns)
{
	struct json json = json_to(progress->out);

	json.depth = 2; /* all on one line */
	json_object_begin(&json, NULL);
	json_uint(&json, "done", progress->done);
	if (progress->total)
		json_uint(&json, "total", progress->total);
	else
		json_null(&json, "total");
	json_string(&json, "unit", progress->unit);
	json_double(&json, "seconds", (double)(now_ns - progress->start_ns) / (double)SECOND_NS);
	json_object_end(&json);
	putc('\n', progress->out);
	fflush(progress->out);
}

void progress_update_at(struct progress *progress, uint64_t done, uint64_t now_ns)
{
	progress->done = done;
	if (progress->mode == PROGRESS_NONE || now_ns < progress->next_ns)
		return;
	progress->shown = true;
	if (progress->mode == PROGRESS_BAR) {
		bar_draw(progress, now_ns);
		progress->next_ns = now_ns + BAR_STEP_NS;
	} else {
		json_line(progress, now_ns);
		progress->next_ns = now_ns + JSON_STEP_NS;
	}
}

void progress_end_at(struct progress *progress, uint64_t now_ns)
{
	if (progress->mode == PROGRESS_JSON) {
		json_line(progress, now_ns);
	} else if (progress->shown) {
		fputs("\r\033[K", progress->out);
		fflush(progress->out);
	}
	progress->mode = PROGRESS_NONE;
}

void progress_begin(struct progress *progress, FILE *out, enum progress_mode mode, const char *unit, uint64_t total)
{
	progress_begin_at(progress, out, mode, unit, total, clock_ns());
}

void progress_update(struct progress *progress, uint64_t done)
{
	if (progress && progress->mode != PROGRESS_NONE)
		progress_update_at(progress, done, clock_ns());
}

void progress_end(struct progress *progress)
{
	if (progress && progress->mode != PROGRESS_NONE)
		progress_end_at(progress, clock_ns());
}
