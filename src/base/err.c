/* SPDX-License-Identifier: Apache-2.0 */
#include "base/err.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

const char *err_text(int code)
{
	switch (code) {
	case 0:
		return "ok";
#define X(name, value, text)                                                                                           \
	case -(value):                                                                                                 \
		return text;
		SAKIORI_ERRORS(X)
#undef X
	default:
		return "unknown error";
	}
}

int err_exit_code(int code)
{
	switch (code) {
	case 0:
		return EXIT_CODE_OK;
	case SAKIORI_EUSAGE:
		return EXIT_CODE_USAGE;
	case SAKIORI_EUNREACHABLE:
		return EXIT_CODE_UNREACHABLE;
	case SAKIORI_EDENIED:
		return EXIT_CODE_DENIED;
	case SAKIORI_ETIMEOUT:
		return EXIT_CODE_NOT_REACHED;
	case SAKIORI_ECONFIG:
		return EXIT_CODE_CONFIG;
	default:
		return EXIT_CODE_FAILURE;
	}
}

static int err_from_errno(int saved_errno)
{
	switch (saved_errno) {
	case 0:
		return 0;
	case ENOMEM:
		return SAKIORI_ENOMEM;
	case ENOSPC:
	case EDQUOT:
		return SAKIORI_ENOSPC;
	case ENOENT:
		return SAKIORI_ENOTFOUND;
	case EACCES:
	case EPERM:
		return SAKIORI_EDENIED;
	case EINVAL:
		return SAKIORI_EINVAL;
	case ETIMEDOUT:
		return SAKIORI_ETIMEOUT;
	default:
		return SAKIORI_EIO;
	}
}

int fault_set(struct fault *f, int code, const char *format, ...)
{
	if (f == NULL)
		return code;
	f->code = code;
	va_list args;
	va_start(args, format);
	vsnprintf(f->text, sizeof f->text, format, args);
	va_end(args);
	return code;
}

int fault_errno(struct fault *f, const char *format, ...)
{
	int saved = errno;
	int code = err_from_errno(saved);
	if (f == NULL)
		return code;
	f->code = code;
	va_list args;
	va_start(args, format);
	vsnprintf(f->text, sizeof f->text, format, args);
	va_end(args);
	size_t used = strlen(f->text);
	snprintf(f->text + used, sizeof f->text - used, ": %s", strerror(saved));
	return code;
}

int fault_wrap(struct fault *f, const char *format, ...)
{
	if (f == NULL)
		return SAKIORI_EINVAL;
	char inner[sizeof f->text];
	memcpy(inner, f->text, sizeof inner);
	va_list args;
	va_start(args, format);
	vsnprintf(f->text, sizeof f->text, format, args);
	va_end(args);
	size_t used = strlen(f->text);
	snprintf(f->text + used, sizeof f->text - used, ": %s", inner);
	return f->code;
}
