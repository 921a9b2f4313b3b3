/* SPDX-License-Identifier: GPL-2.0-or-later */
#define FUSE_USE_VERSION 35

#include "mountd/session.h"

#include <errno.h>
#include <fuse_lowlevel.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>

#define MAX_TRANSFER (1u << 20)
#define CACHE_SECONDS 3600.0 /* nothing changes behind the kernel's back */
#define THREADS_IDLE 10

struct session {
	struct fs *fs;
	struct fuse_session *fuse;
	bool cache;
	bool direct_writes; /* the kernel keeps its cache right beside direct writes */
	bool mounted;
	bool handlers;
};

static struct session *session_of(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

static double timeout_of(const struct session *s)
{
	return s->cache ? CACHE_SECONDS : 0;
}

static void reply_error(fuse_req_t req, int e)
{
	fuse_reply_err(req, e < 0 ? -e : e);
}

static struct fuse_entry_param param_of(const struct session *s, const struct fs_entry *entry)
{
	return (struct fuse_entry_param){
		.ino = entry->node,
		.generation = entry->generation,
		.attr = entry->stat,
		.attr_timeout = timeout_of(s),
		.entry_timeout = timeout_of(s),
	};
}

static void reply_entry(fuse_req_t req, int e, const struct fs_entry *entry)
{
	struct session *s = session_of(req);
	struct fuse_entry_param param;

	if (e) {
		reply_error(req, e);
		return;
	}
	param = param_of(s, entry);
	if (fuse_reply_entry(req, &param) == -ENOENT)
		s->fs->ops->forget(s->fs, entry->node, 1); /* the caller was interrupted */
}

static void op_init(void *user, struct fuse_conn_info *conn)
{
	struct session *s = user;
	unsigned want = FUSE_CAP_EXPORT_SUPPORT | FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO |
	                FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_ATOMIC_O_TRUNC;

	if (s->cache)
		want |= FUSE_CAP_CACHE_SYMLINKS;
	conn->want |= conn->capable & want;
	/* Locks between processes are the kernel's matter; size and times change by nobody but us. */
	conn->want &= ~(unsigned)(FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_POSIX_LOCKS | FUSE_CAP_FLOCK_LOCKS |
	                          FUSE_CAP_SPLICE_READ);
	conn->max_write = MAX_TRANSFER;
	conn->max_background = 64;
	conn->time_gran = 1;
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct session *s = session_of(req);
	struct fs_entry entry;
	int e = s->fs->ops->lookup(s->fs, parent, name, &entry);

	if (e == -ENOENT && s->cache) {
		struct fuse_entry_param none = {.entry_timeout = timeout_of(s)};

		fuse_reply_entry(req, &none);
		return;
	}
	reply_entry(req, e, &entry);
}

static void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t count)
{
	struct session *s = session_of(req);

	s->fs->ops->forget(s->fs, ino, count);
	fuse_reply_none(req);
}

static void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	struct session *s = session_of(req);

	for (size_t i = 0; i < count; i++)
		s->fs->ops->forget(s->fs, forgets[i].ino, forgets[i].nlookup);
	fuse_reply_none(req);
}

static void reply_attr(fuse_req_t req, int e, const struct stat *stat)
{
	if (e)
		reply_error(req, e);
	else
		fuse_reply_attr(req, stat, timeout_of(session_of(req)));
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct session *s = session_of(req);
	struct stat stat;

	(void)fi;
	reply_attr(req, s->fs->ops->getattr(s->fs, ino, &stat), &stat);
}

static void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *fi)
{
	static const struct {
		int from;
		unsigned to;
	} flags[] = {
		{FUSE_SET_ATTR_MODE, FS_SET_MODE},   {FUSE_SET_ATTR_UID, FS_SET_UID},
		{FUSE_SET_ATTR_GID, FS_SET_GID},     {FUSE_SET_ATTR_SIZE, FS_SET_SIZE},
		{FUSE_SET_ATTR_ATIME, FS_SET_ATIME}, {FUSE_SET_ATTR_MTIME, FS_SET_MTIME},
	};
	struct session *s = session_of(req);
	struct stat value = *attr, stat;
	unsigned what = 0;

	(void)fi;
	for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++)
		if (to_set & flags[i].from)
			what |= flags[i].to;
	if (to_set & FUSE_SET_ATTR_ATIME_NOW) {
		clock_gettime(CLOCK_REALTIME, &value.st_atim);
		what |= FS_SET_ATIME;
	}
	if (to_set & FUSE_SET_ATTR_MTIME_NOW) {
		clock_gettime(CLOCK_REALTIME, &value.st_mtim);
		what |= FS_SET_MTIME;
	}
	reply_attr(req, s->fs->ops->setattr(s->fs, ino, what, &value, &stat), &stat);
}

static void op_readlink(fuse_req_t req, fuse_ino_t ino)
{
	struct session *s = session_of(req);
	char *target = NULL;
	int e = s->fs->ops->readlink(s->fs, ino, &target);

	if (e)
		reply_error(req, e);
	else
		fuse_reply_readlink(req, target);
	free(target);
}

static int make(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev, const char *target,
                struct fs_entry *ret)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);
	struct session *s = session_of(req);
	struct fs_new what = {.mode = mode, .rdev = rdev, .uid = ctx->uid, .gid = ctx->gid, .target = target};

	return s->fs->ops->make(s->fs, parent, name, &what, ret);
}

static void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	struct fs_entry entry;

	reply_entry(req, make(req, parent, name, mode, rdev, NULL, &entry), &entry);
}

static void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	struct fs_entry entry;

	reply_entry(req, make(req, parent, name, S_IFDIR | (mode & 07777), 0, NULL, &entry), &entry);
}

static void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	struct fs_entry entry;

	reply_entry(req, make(req, parent, name, S_IFLNK | 0777, 0, target, &entry), &entry);
}

static void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct session *s = session_of(req);

	reply_error(req, s->fs->ops->unlink(s->fs, parent, name, false));
}

static void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct session *s = session_of(req);

	reply_error(req, s->fs->ops->unlink(s->fs, parent, name, true));
}

static void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
                      const char *new_name, unsigned flags)
{
	struct session *s = session_of(req);

	/* FS_RENAME_NOREPLACE has the kernel's value. */
	reply_error(req, s->fs->ops->rename(s->fs, parent, name, new_parent, new_name, flags));
}

static void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t new_parent, const char *new_name)
{
	struct session *s = session_of(req);
	struct fs_entry entry;

	reply_entry(req, s->fs->ops->link ? s->fs->ops->link(s->fs, ino, new_parent, new_name, &entry) : -EPERM, &entry);
}

static bool opens_for_writing(const struct fuse_file_info *fi)
{
	return (fi->flags & O_ACCMODE) != O_RDONLY;
}

static void set_caching(const struct session *s, struct fuse_file_info *fi)
{
	fi->keep_cache = s->cache;
	fi->direct_io = !s->cache || (s->direct_writes && (fi->flags & O_ACCMODE) == O_WRONLY);
}

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct session *s = session_of(req);
	bool write = opens_for_writing(fi);
	int e = s->fs->ops->open(s->fs, ino, write, fi->flags & O_TRUNC);
	struct stat stat;

	if (e) {
		reply_error(req, e);
		return;
	}
	set_caching(s, fi);
	/* Writes past the cache do not make the kernel clear these bits. */
	if (s->cache && s->fs->ops->getattr(s->fs, ino, &stat) == 0 && (stat.st_mode & (S_ISUID | S_ISGID)))
		fi->direct_io = 0;
	if (fuse_reply_open(req, fi) == -ENOENT)
		s->fs->ops->release(s->fs, ino, write);
}

static void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
	struct session *s = session_of(req);
	struct fuse_entry_param param;
	bool write = opens_for_writing(fi);
	struct fs_entry entry;
	int e = make(req, parent, name, S_IFREG | (mode & 07777), 0, NULL, &entry);

	if (e) {
		reply_error(req, e);
		return;
	}
	e = s->fs->ops->open(s->fs, entry.node, write, false);
	if (e) {
		s->fs->ops->forget(s->fs, entry.node, 1);
		reply_error(req, e);
		return;
	}
	set_caching(s, fi);
	param = param_of(s, &entry);
	if (fuse_reply_create(req, &param, fi) == -ENOENT) {
		s->fs->ops->release(s->fs, entry.node, write);
		s->fs->ops->forget(s->fs, entry.node, 1);
	}
}

static void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct session *s = session_of(req);

	reply_error(req, s->fs->ops->release(s->fs, ino, opens_for_writing(fi)));
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
	struct session *s = session_of(req);
	void *buffer = aligned_alloc(4096, (size + 4095) & ~(size_t)4095);
	ssize_t n;

	(void)fi;
	if (!buffer) {
		reply_error(req, ENOMEM);
		return;
	}
	n = s->fs->ops->read(s->fs, ino, buffer, size, (uint64_t)offset);
	if (n < 0)
		reply_error(req, (int)n);
	else
		fuse_reply_buf(req, buffer, (size_t)n);
	free(buffer);
}

static void op_write(fuse_req_t req, fuse_ino_t ino, const char *buffer, size_t size, off_t offset,
                     struct fuse_file_info *fi)
{
	struct session *s = session_of(req);
	ssize_t n;

	(void)fi;
	n = s->fs->ops->write(s->fs, ino, buffer, size, (uint64_t)offset);
	if (n < 0)
		reply_error(req, (int)n);
	else
		fuse_reply_write(req, (size_t)n);
}

static void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	struct session *s = session_of(req);

	(void)ino;
	(void)datasync;
	(void)fi;
	reply_error(req, s->fs->read_only ? 0 : s->fs->ops->sync(s->fs));
}

static void op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length,
                         struct fuse_file_info *fi)
{
	struct session *s = session_of(req);

	(void)fi;
	reply_error(req, s->fs->ops->fallocate
	            ? s->fs->ops->fallocate(s->fs, ino, mode, (uint64_t)offset, (uint64_t)length)
	            : -EOPNOTSUPP);
}

static void op_lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence, struct fuse_file_info *fi)
{
	struct session *s = session_of(req);
	int64_t n = -ENOSYS;

	(void)fi;
	if (s->fs->ops->seek && (whence == SEEK_DATA || whence == SEEK_HOLE))
		n = offset < 0 ? -ENXIO : s->fs->ops->seek(s->fs, ino, (uint64_t)offset, whence == SEEK_HOLE);
	if (n < 0)
		reply_error(req, (int)n);
	else
		fuse_reply_lseek(req, (off_t)n);
}

static void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct session *s = session_of(req);
	int e = s->fs->ops->open(s->fs, ino, false, false);

	if (e)
		reply_error(req, e);
	else if (fuse_reply_open(req, fi) == -ENOENT)
		s->fs->ops->release(s->fs, ino, false);
}

struct listing {
	fuse_req_t req;
	char *buffer;
	size_t size, used;
};

static bool list_entry(void *user, const char *name, uint64_t node, mode_t type, uint64_t next)
{
	struct listing *l = user;
	struct stat stat = {.st_ino = node, .st_mode = type};
	size_t n = fuse_add_direntry(l->req, l->buffer + l->used, l->size - l->used, name, &stat, (off_t)next);

	if (n > l->size - l->used)
		return false;
	l->used += n;
	return true;
}

static void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
	struct session *s = session_of(req);
	struct listing l = {.req = req, .buffer = malloc(size), .size = size};
	int e = l.buffer ? s->fs->ops->readdir(s->fs, ino, (uint64_t)offset, list_entry, &l) : -ENOMEM;

	(void)fi;
	if (e && !l.used)
		reply_error(req, e);
	else
		fuse_reply_buf(req, l.buffer, l.used);
	free(l.buffer);
}

#define PLUS_MAX 256u

struct plus_listing {
	unsigned count, max;
	struct plus_entry {
		char name[256];
		uint64_t node, next;
		mode_t type;
	} entries[PLUS_MAX];
};

static bool plus_entry(void *user, const char *name, uint64_t node, mode_t type, uint64_t next)
{
	struct plus_listing *l = user;
	struct plus_entry *e = &l->entries[l->count];

	if (l->count == l->max)
		return false;
	snprintf(e->name, sizeof(e->name), "%s", name);
	e->node = node;
	e->type = type;
	e->next = next;
	l->count++;
	return true;
}

/* Entries come first and are looked up then: the driver's lock is held while it lists. */
static void op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
	struct session *s = session_of(req);
	struct plus_listing *l = malloc(sizeof(*l));
	char *buffer = malloc(size);
	size_t used = 0;
	int e = -ENOMEM;

	(void)fi;
	if (l && buffer) {
		l->count = 0;
		l->max = size / 160 < PLUS_MAX ? (unsigned)(size / 160) : PLUS_MAX;
		e = s->fs->ops->readdir(s->fs, ino, (uint64_t)offset, plus_entry, l);
	}
	for (unsigned i = 0; l && buffer && i < l->count; i++) {
		const struct plus_entry *p = &l->entries[i];
		struct fuse_entry_param param = {.attr = {.st_ino = p->node, .st_mode = p->type}};
		struct fs_entry entry = {0};
		size_t n;

		/* Without a node number the kernel takes the name and type only. */
		if (strcmp(p->name, ".") != 0 && strcmp(p->name, "..") != 0 &&
		    s->fs->ops->lookup(s->fs, ino, p->name, &entry) == 0)
			param = param_of(s, &entry);
		n = fuse_add_direntry_plus(req, buffer + used, size - used, p->name, &param, (off_t)p->next);
		if (n > size - used) {
			if (param.ino)
				s->fs->ops->forget(s->fs, entry.node, 1);
			break;
		}
		used += n;
	}
	if (e && !used)
		reply_error(req, e);
	else
		fuse_reply_buf(req, buffer, used);
	free(buffer);
	free(l);
}

static void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct session *s = session_of(req);
	struct statvfs stat;
	int e = s->fs->ops->statfs(s->fs, &stat);

	(void)ino;
	if (e)
		reply_error(req, e);
	else
		fuse_reply_statfs(req, &stat);
}

static void op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size, int flags)
{
	struct session *s = session_of(req);

	reply_error(req, s->fs->ops->setxattr ? s->fs->ops->setxattr(s->fs, ino, name, value, size, flags) : -ENOSYS);
}

static void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	struct session *s = session_of(req);
	void *value = size ? malloc(size) : NULL;
	ssize_t n = -ENOSYS;

	if (s->fs->ops->getxattr)
		n = size && !value ? -ENOMEM : s->fs->ops->getxattr(s->fs, ino, name, value, size);
	if (n < 0)
		reply_error(req, (int)n);
	else if (size)
		fuse_reply_buf(req, value, (size_t)n);
	else
		fuse_reply_xattr(req, (size_t)n);
	free(value);
}

static void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	struct session *s = session_of(req);
	char *names = size ? malloc(size) : NULL;
	ssize_t n = -ENOSYS;

	if (s->fs->ops->listxattr)
		n = size && !names ? -ENOMEM : s->fs->ops->listxattr(s->fs, ino, names, size);
	if (n < 0)
		reply_error(req, (int)n);
	else if (size)
		fuse_reply_buf(req, names, (size_t)n);
	else
		fuse_reply_xattr(req, (size_t)n);
	free(names);
}

static void op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
	struct session *s = session_of(req);

	reply_error(req, s->fs->ops->removexattr ? s->fs->ops->removexattr(s->fs, ino, name) : -ENOSYS);
}

static const struct fuse_lowlevel_ops operations = {
	.init = op_init,
	.lookup = op_lookup,
	.forget = op_forget,
	.forget_multi = op_forget_multi,
	.getattr = op_getattr,
	.setattr = op_setattr,
	.readlink = op_readlink,
	.mknod = op_mknod,
	.mkdir = op_mkdir,
	.symlink = op_symlink,
	.unlink = op_unlink,
	.rmdir = op_rmdir,
	.rename = op_rename,
	.link = op_link,
	.open = op_open,
	.create = op_create,
	.release = op_release,
	.read = op_read,
	.write = op_write,
	.fsync = op_fsync,
	.fallocate = op_fallocate,
	.lseek = op_lseek,
	.opendir = op_opendir,
	.releasedir = op_release,
	.readdir = op_readdir,
	.readdirplus = op_readdirplus,
	.fsyncdir = op_fsync,
	.statfs = op_statfs,
	.setxattr = op_setxattr,
	.getxattr = op_getxattr,
	.listxattr = op_listxattr,
	.removexattr = op_removexattr,
};

/* Linux 6.6 and later drop what is cached of a range that is written past the cache. */
static bool kernel_keeps_cache_right(void)
{
	struct utsname name;
	unsigned major_version, minor_version;

	return uname(&name) == 0 && sscanf(name.release, "%u.%u", &major_version, &minor_version) == 2 &&
	       (major_version > 6 || (major_version == 6 && minor_version >= 6));
}

/* Commas and backslashes would end or change a mount option. */
static char *option_escape(const char *text)
{
	char *escaped = malloc(strlen(text) * 2 + 1), *p = escaped;

	if (!escaped)
		return NULL;
	for (; *text; text++) {
		if (*text == ',' || *text == '\\')
			*p++ = '\\';
		*p++ = *text;
	}
	*p = 0;
	return escaped;
}

int session_new(struct fs *fs, const char *dir, const struct session_options *options, struct session **ret,
                struct err *err)
{
	struct session *s = calloc(1, sizeof(*s));
	char *source = option_escape(options->source), *text = NULL;
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	int e = -ENOMEM;

	if (!s || !source ||
	    asprintf(&text, "fsname=%s,subtype=vhd-mount,nosuid,nodev,%s%s%s", source, fs->read_only ? "ro" : "rw",
	             options->options[0] ? "," : "", options->options) < 0) {
		text = NULL;
		goto done;
	}
	s->fs = fs;
	s->cache = options->cache;
	s->direct_writes = kernel_keeps_cache_right();
	if (fuse_opt_add_arg(&args, "vhd-mount") || fuse_opt_add_arg(&args, "-o") || fuse_opt_add_arg(&args, text))
		goto done;
	s->fuse = fuse_session_new(&args, &operations, sizeof(operations), s);
	if (!s->fuse) {
		e = err_set(err, -EINVAL, "libfuse refuses the mount options \"%s\"", options->options);
		goto done;
	}
	if (fuse_session_mount(s->fuse, dir)) {
		e = err_set(err, -EPERM, "cannot mount on %s: see the message above; FUSE must be available (/dev/fuse, "
		            "fusermount3) and the folder must be yours", dir);
		goto done;
	}
	s->mounted = true;
	e = 0;
done:
	if (e == -ENOMEM)
		err_set(err, e, "out of memory");
	fuse_opt_free_args(&args);
	free(source);
	free(text);
	if (e) {
		session_free(s);
		return e;
	}
	*ret = s;
	return 0;
}

int session_run(struct session *session)
{
	struct fuse_loop_config config = {.clone_fd = 0, .max_idle_threads = THREADS_IDLE};
	sigset_t set;
	int e;

	if (fuse_set_signal_handlers(session->fuse))
		return -EIO;
	session->handlers = true;
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	e = fuse_session_loop_mt(session->fuse, &config);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	/* Positive: the number of the signal that ended it. */
	return e < 0 ? e : 0;
}

void session_free(struct session *session)
{
	if (!session)
		return;
	if (session->handlers)
		fuse_remove_signal_handlers(session->fuse);
	if (session->mounted)
		fuse_session_unmount(session->fuse);
	if (session->fuse)
		fuse_session_destroy(session->fuse);
	free(session);
}
