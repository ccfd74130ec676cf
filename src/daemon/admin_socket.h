/* SPDX-License-Identifier: Apache-2.0 */
/* The Unix socket of daemon/admin: who may connect and do what, and how much a client may hold. Loop thread only. */
#pragma once
#include <stddef.h>
#include <sys/types.h>
#include <uv.h>

#include "daemon/admin.h"

struct admin_socket;

/* 0 means the default in brackets. */
struct admin_socket_limits {
	unsigned clients;   /* [64]; one more takes the place of the longest idle one, or is refused */
	unsigned idle_ms;   /* a client without a call is hung up on [300000] */
	size_t queue_bytes; /* unread replies of one client; more and it is hung up on [1 MiB] */
};

/* Binds `path` with mode 0660 and, where the group exists and we may, group sakiori. A socket that nobody answers on is
 * replaced; SAKIORI_EBUSY when somebody does; a file that is no socket, a missing folder or a path over 107 bytes is
 * refused by name. */
int admin_socket_open(struct admin_socket **out, uv_loop_t *loop, const char *path, struct admin *admin,
	const struct admin_socket_limits *limits, struct fault *f);
/* Calls admin_poke and hangs up on whom it found broken. */
void admin_socket_poke(struct admin_socket *s);
/* Hangs up on everybody and removes the socket; `done` (may be NULL) is called when all handles are closed. NULL is
 * fine. */
void admin_socket_close(struct admin_socket *s, void (*done)(void *self), void *self);

/* What a caller may do: root, the daemon's own user and members of `change_gid` change; members of `read_gid` read.
 * A gid of (gid_t)-1 is a group that does not exist. */
enum admin_access admin_access_of(
	uid_t uid, gid_t gid, const gid_t *groups, size_t count, uid_t own_uid, gid_t read_gid, gid_t change_gid);
