/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef COMMON_INTERRUPT_H
#define COMMON_INTERRUPT_H

/*
 * SIGINT, SIGTERM and SIGHUP end long work at its next step, so that it can clean up. For programs, not for
 * libraries. Blocking system calls return -EINTR.
 */

#include <stdbool.h>

/* From now on the three signals only set the mark; one that is ignored (nohup) stays so. */
void interrupt_catch(void);

bool interrupt_seen(void);

#endif
