/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "mountd/sandbox.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1 /* their shadows take terabytes of address space, and their reports system calls of all kinds */
#else
#define SANITIZED 0
#endif

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
#elif defined(__riscv) && __riscv_xlen == 64
#define ARCH AUDIT_ARCH_RISCV64
#endif

static int limit(int resource, uint64_t value, struct err *err)
{
	struct rlimit old, new = {value, value};

	if (getrlimit(resource, &old))
		return err_set(err, -errno, "cannot read a limit: %s", strerror(errno));
	/* Never more than there was. */
	if (old.rlim_max != RLIM_INFINITY && old.rlim_max < value)
		new = (struct rlimit){old.rlim_max, old.rlim_max};
	return setrlimit(resource, &new) ? err_set(err, -errno, "cannot set a limit: %s", strerror(errno)) : 0;
}

#ifdef ARCH

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define RETURN(what) BPF_STMT(BPF_RET | BPF_K, (what))
#define ALLOW(number) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (number), 0, 1), RETURN(SECCOMP_RET_ALLOW)
/* The low half of an argument: allowed if it has none of `bits`; refused else. */
#define ALLOW_WITHOUT(number, argument, bits) \
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (number), 0, 4), \
	BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[argument])), \
	BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, (bits), 0, 1), RETURN(SECCOMP_RET_ERRNO | EPERM), \
	RETURN(SECCOMP_RET_ALLOW)

static int filter_system_calls(void)
{
	static struct sock_filter code[] = {
		LOAD(arch),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 1, 0), RETURN(SECCOMP_RET_KILL_PROCESS),
		LOAD(nr),
		/* Files that are open. No io_uring: its requests would not come by here. */
		ALLOW(__NR_read), ALLOW(__NR_write), ALLOW(__NR_pread64), ALLOW(__NR_preadv), ALLOW(__NR_preadv2),
		ALLOW(__NR_readv), ALLOW(__NR_writev), ALLOW(__NR_lseek), ALLOW(__NR_close), ALLOW(__NR_fstat),
#ifdef __NR_poll
		ALLOW(__NR_poll),
#endif
#ifdef __NR_newfstatat
		ALLOW(__NR_newfstatat), /* fstat(3) is made of it */
#endif
		ALLOW(__NR_ppoll), ALLOW(__NR_fcntl),
		/* Memory, without new code. */
		ALLOW_WITHOUT(__NR_mmap, 2, 4 /* PROT_EXEC */), ALLOW_WITHOUT(__NR_mprotect, 2, 4 /* PROT_EXEC */),
		ALLOW(__NR_munmap), ALLOW(__NR_mremap), ALLOW(__NR_madvise), ALLOW(__NR_brk),
		/* Threads and signals of its own; a thread that was just started may still be setting itself up. */
#ifdef __NR_rseq
		ALLOW(__NR_rseq),
#endif
		ALLOW(__NR_futex), ALLOW(__NR_sched_yield), ALLOW(__NR_gettid), ALLOW(__NR_getpid),
		ALLOW(__NR_rt_sigprocmask), ALLOW(__NR_rt_sigreturn), ALLOW(__NR_set_robust_list),
		ALLOW(__NR_sigaltstack),
		ALLOW(__NR_restart_syscall), ALLOW(__NR_exit), ALLOW(__NR_exit_group),
		/* Clocks and chance. */
		ALLOW(__NR_clock_gettime), ALLOW(__NR_clock_nanosleep), ALLOW(__NR_gettimeofday), ALLOW(__NR_getrandom),
		RETURN(SECCOMP_RET_ERRNO | EPERM),
	};
	struct sock_fprog program = {sizeof(code) / sizeof(code[0]), code};

	/* TSYNC: in all threads. A positive answer is a thread that could not follow. */
	return syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) == 0 ? 0 : -ENOTSUP;
}

#else

static int filter_system_calls(void)
{
	return -ENOTSUP;
}

#endif

int sandbox_enter(const struct sandbox_limits *limits, struct err *err)
{
	int e = limit(RLIMIT_CPU, limits->cpu_seconds, err);

	if (!e)
		e = limit(RLIMIT_CORE, 0, err);
	if (!e && !SANITIZED)
		e = limit(RLIMIT_DATA, limits->memory, err);
	/* Room for what only reserves addresses: stacks, and the arenas of threads. */
	if (!e && !SANITIZED)
		e = limit(RLIMIT_AS, limits->memory + (UINT64_C(4) << 30), err);
	if (e)
		return e;
	alarm(limits->wall_seconds);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return err_set(err, -errno, "cannot give up privileges: %s", strerror(errno));
	e = SANITIZED ? -ENOTSUP : filter_system_calls();
	return e ? err_set(err, e, "this kernel or build has no filter of system calls (seccomp)") : 0;
}
