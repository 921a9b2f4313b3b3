/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "common/progress.h"

#define SECOND UINT64_C(1000000000)

struct screen {
	char *text;
	size_t length;
	FILE *file;
	struct progress progress;
};

static void screen_begin(struct screen *screen, enum progress_mode mode, uint64_t total)
{
	screen->file = open_memstream(&screen->text, &screen->length);
	assert_non_null(screen->file);
	progress_begin_at(&screen->progress, screen->file, mode, "bytes", total, 0);
}

static void screen_is(struct screen *screen, const char *want)
{
	fclose(screen->file);
	assert_string_equal(screen->text, want);
	free(screen->text);
}

static void a_bar_waits_a_second_and_goes_away(void **state)
{
	struct screen screen;

	(void)state;
	screen_begin(&screen, PROGRESS_BAR, 4096);
	progress_update_at(&screen.progress, 1024, SECOND - 1);
	progress_update_at(&screen.progress, 2048, SECOND);
	progress_update_at(&screen.progress, 3072, SECOND + 1); /* too soon to draw again */
	progress_end_at(&screen.progress, 2 * SECOND);
	screen_is(&screen, "\r\033[K[###############...............]  50%  2 KiB of 4 KiB, 1 s left\r\033[K");
}

static void short_work_shows_no_bar(void **state)
{
	struct screen screen;

	(void)state;
	screen_begin(&screen, PROGRESS_BAR, 4096);
	progress_update_at(&screen.progress, 4096, SECOND / 2);
	progress_end_at(&screen.progress, SECOND / 2);
	screen_is(&screen, "");
}

static void work_of_unknown_length_shows_what_is_done(void **state)
{
	struct screen screen;

	(void)state;
	screen_begin(&screen, PROGRESS_BAR, 0);
	progress_update_at(&screen.progress, 1024, 2 * SECOND);
	progress_end_at(&screen.progress, 2 * SECOND);
	screen_is(&screen, "\r\033[K1 KiB\r\033[K");
}

static void more_than_all_is_all(void **state)
{
	struct screen screen;

	(void)state;
	screen_begin(&screen, PROGRESS_BAR, 1);
	progress_update_at(&screen.progress, 2, SECOND);
	progress_end_at(&screen.progress, SECOND);
	screen_is(&screen, "\r\033[K[##############################] 100%  2 bytes of 1 byte\r\033[K");
}

static void json_ends_with_what_was_reached(void **state)
{
	struct screen screen;

	(void)state;
	screen_begin(&screen, PROGRESS_JSON, 10);
	progress_update_at(&screen.progress, 5, SECOND);
	progress_update_at(&screen.progress, 10, SECOND + 1);
	progress_end_at(&screen.progress, 2 * SECOND);
	screen_is(&screen, "{\"done\": 5, \"total\": 10, \"unit\": \"bytes\", \"seconds\": 1.000000}\n"
	                   "{\"done\": 10, \"total\": 10, \"unit\": \"bytes\", \"seconds\": 2.000000}\n");
}

static void what_is_no_terminal_gets_no_bar(void **state)
{
	struct screen screen;

	(void)state;
	screen_begin(&screen, PROGRESS_AUTO, 10);
	progress_update_at(&screen.progress, 5, 3 * SECOND);
	progress_end_at(&screen.progress, 4 * SECOND);
	screen_is(&screen, "");
}

static void modes_have_names(void **state)
{
	enum progress_mode mode;

	(void)state;
	assert_int_equal(progress_mode_parse("json", &mode), 0);
	assert_int_equal(mode, PROGRESS_JSON);
	assert_int_equal(progress_mode_parse("none", &mode), 0);
	assert_int_equal(mode, PROGRESS_NONE);
	assert_int_equal(progress_mode_parse("Bar", &mode), -EINVAL);
}

static void a_bar_is_no_wider_than_its_terminal(void **state)
{
	struct winsize window = {.ws_row = 24, .ws_col = 40};
	struct progress progress;
	int master, slave;
	char text[200];
	ssize_t length;
	FILE *out;

	(void)state;
	master = posix_openpt(O_RDWR | O_NOCTTY);
	if (master < 0) {
		print_message("no pseudo-terminal can be had here\n");
		skip();
	}
	assert_int_equal(grantpt(master) | unlockpt(master), 0);
	slave = open(ptsname(master), O_RDWR | O_NOCTTY);
	assert_true(slave >= 0);
	assert_int_equal(ioctl(slave, TIOCSWINSZ, &window), 0);
	out = fdopen(slave, "w");
	assert_non_null(out);
	progress_begin_at(&progress, out, PROGRESS_AUTO, "bytes", 4096, 0);
	progress_update_at(&progress, 2048, UINT64_C(2000000000));
	length = read(master, text, sizeof(text));
	assert_int_equal(length, 4 + 39);
	assert_memory_equal(text, "\r\033[K[###############...............]  50%  ", 4 + 39);
	fclose(out);
	close(master);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_bar_waits_a_second_and_goes_away),
		cmocka_unit_test(short_work_shows_no_bar),
		cmocka_unit_test(work_of_unknown_length_shows_what_is_done),
		cmocka_unit_test(more_than_all_is_all),
		cmocka_unit_test(json_ends_with_what_was_reached),
		cmocka_unit_test(what_is_no_terminal_gets_no_bar),
		cmocka_unit_test(modes_have_names),
		cmocka_unit_test(a_bar_is_no_wider_than_its_terminal),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
