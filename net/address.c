/* SPDX-License-Identifier: Apache-2.0 */
#include "net/address.h"

#include <stdlib.h>
#include <string.h>

#define IPC_PATH_MAX 107 /* sun_path without its NUL */
#define URL_MAX 300

/* "HOST:PORT" of a tcp URL; *port is -1 when there is none. */
static void split_port(const char *rest, long *port)
{
	const char *colon = strrchr(rest, ':');
	char *end = NULL;
	*port = -1;
	if (colon == NULL || colon == rest || colon[1] < '0' || colon[1] > '9')
		return;
	long value = strtol(colon + 1, &end, 10);
	if (*end == '\0' && value <= 65535)
		*port = value;
}

int address_check(const char *url, struct fault *f)
{
	long port = -1;
	if (strncmp(url, "ipc://", 6) == 0) {
		size_t n = strlen(url + 6);
		if (n == 0)
			return fault_set(f, SAKIORI_EINVAL, "%s: expected a path after ipc://", url);
		if (n > IPC_PATH_MAX)
			return fault_set(f, SAKIORI_ELIMIT,
				"ipc path of %zu bytes, but a Unix socket's path has at most %d: choose a shorter one, "
				"such as /run/sakiori/peer.ipc",
				n, IPC_PATH_MAX);
		return 0;
	}
	if (strncmp(url, "tcp://", 6) != 0)
		return fault_set(f, SAKIORI_EINVAL, "%.200s: expected tcp://HOST:PORT or ipc://PATH", url);
	split_port(url + 6, &port);
	if (port < 0 || strpbrk(url + 6, "/?# ") != NULL || strlen(url) > URL_MAX)
		return fault_set(
			f, SAKIORI_EINVAL, "%.200s: expected tcp://HOST:PORT with a port from 0 to 65535", url);
	return 0;
}
