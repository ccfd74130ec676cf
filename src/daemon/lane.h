/* SPDX-License-Identifier: Apache-2.0 */
/* One lane of libuv's pool: jobs run one after another, in the order given, off the loop. A job and what it points at
 * belong to the lane until its `done` is called. Loop thread only; `run` is called on a pool thread, `done` on the
 * loop. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <uv.h>

struct lane;

struct lane *lane_new(uv_loop_t *loop);
/* Only when lane_is_empty. NULL is fine. */
void lane_free(struct lane *lane);
void lane_push(struct lane *lane, void (*run)(void *data), void (*done)(void *data), void *data);
/* No job is queued or running. */
bool lane_is_empty(const struct lane *lane);
