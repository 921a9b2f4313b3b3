/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "common/interrupt.h"

#include <signal.h>
#include <stddef.h>

static volatile sig_atomic_t seen;

static const int caught[] = {SIGINT, SIGTERM, SIGHUP};

static void mark(int signal)
{
	(void)signal;
	seen = 1;
}

void interrupt_catch(void)
{
	struct sigaction action = {.sa_handler = mark}, old;

	sigemptyset(&action.sa_mask);
	for (unsigned i = 0; i < sizeof(caught) / sizeof(caught[0]); i++)
		if (sigaction(caught[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
			sigaction(caught[i], &action, NULL);
}

bool interrupt_seen(void)
{
	return seen != 0;
}
