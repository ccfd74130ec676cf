/* SPDX-License-Identifier: Apache-2.0 */
/* Error codes and the sentence that goes with them. Any thread. */
#pragma once
#include <stdarg.h>
#include <stddef.h>

/* 0 is success; every failure is negative. One list gives the code, its name and its general meaning. */
#define SAKIORI_ERRORS(X)                                                                                              \
	X(ENOMEM, 1, "out of memory")                                                                                  \
	X(EIO, 2, "input/output error")                                                                                \
	X(ENOSPC, 3, "no space left on device")                                                                        \
	X(ENOTFOUND, 4, "not found")                                                                                   \
	X(EDENIED, 5, "permission denied")                                                                             \
	X(EFORMAT, 6, "malformed input")                                                                               \
	X(ELIMIT, 7, "a limit was exceeded")                                                                           \
	X(EUNSUPPORTED, 8, "not supported")                                                                            \
	X(EINVAL, 9, "invalid argument")                                                                               \
	X(EMISMATCH, 10, "does not match")                                                                             \
	X(ECRYPTO, 11, "authentication failed")                                                                        \
	X(EPROTO, 12, "protocol violation")                                                                            \
	X(ETIMEOUT, 13, "timed out")                                                                                   \
	X(ECONFIG, 14, "invalid configuration")                                                                        \
	X(EDEVICE, 15, "compute device failed")                                                                        \
	X(ECANCELLED, 16, "cancelled")                                                                                 \
	X(EBUSY, 17, "busy")                                                                                           \
	X(ECORRUPT, 18, "stored data is corrupt")                                                                      \
	X(EUNREACHABLE, 19, "daemon unreachable")                                                                      \
	X(EUSAGE, 20, "wrong usage")

enum sakiori_error {
#define X(name, value, text) SAKIORI_##name = -(value),
	SAKIORI_ERRORS(X)
#undef X
};

/* The process exit codes that every command shares. */
enum sakiori_exit {
	EXIT_CODE_OK = 0,
	EXIT_CODE_FAILURE = 1,
	EXIT_CODE_USAGE = 2,
	EXIT_CODE_UNREACHABLE = 3,
	EXIT_CODE_DENIED = 4,
	EXIT_CODE_NOT_REACHED = 5,
	EXIT_CODE_CONFIG = 6,
	EXIT_CODE_DOCTOR = 7,
};

/* A failure with its sentence for a person: what was expected, what was found, what to do next. */
struct fault {
	int code;
	char text[400];
};

/* The general meaning of an error code; "ok" for 0, "unknown error" for a number that is none. */
const char *err_text(int code);
/* The exit code of a command that ends with this error (design: exit codes 0..7). */
int err_exit_code(int code);

/* Writes the sentence and returns `code`, so that `return fault_set(f, SAKIORI_EFORMAT, ...)` reads well. f may be NULL. */
int fault_set(struct fault *f, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* As fault_set, from errno: appends ": strerror". */
int fault_errno(struct fault *f, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Puts "prefix: " before the sentence that is already there; returns f's code (SAKIORI_EINVAL if f is NULL). */
int fault_wrap(struct fault *f, const char *format, ...) __attribute__((format(printf, 2, 3)));
