/* SPDX-License-Identifier: Apache-2.0 */
/* Every metric of the daemon in one table, their current values, and the Prometheus text exposition. Loop thread only.
 */
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"

/* X(identifier, name, type, labels separated by commas, help). Base units; counters end in _total.
 * The manual page and the Grafana dashboard name the same metrics: a test compares them with this table. */
#define METRICS(X)                                                                                                     \
	X(BUILD_INFO, "sakiori_build_info", GAUGE, "version,commit", "Always 1; the labels name the build.")           \
	X(TRAIN_LOSS, "sakiori_train_loss", GAUGE, "",                                                                 \
		"Mean training loss of the last round, nats per labelled token.")                                      \
	X(EVAL_LOSS, "sakiori_eval_loss", GAUGE, "phase", "Loss on the evaluation rows, nats per labelled token.")     \
	X(EVAL_ACCURACY, "sakiori_eval_accuracy_ratio", GAUGE, "phase",                                                \
		"Share of evaluation rows whose every labelled token is the most likely one.")                         \
	X(ROUND, "sakiori_round", GAUGE, "", "Rounds that are committed.")                                             \
	X(TRAIN_TOKENS, "sakiori_train_tokens_total", COUNTER, "", "Labelled and unlabelled tokens trained on.")       \
	X(TRAIN_STEPS, "sakiori_train_steps_total", COUNTER, "", "Optimizer steps taken.")                             \
	X(TOKENS_PER_SECOND, "sakiori_train_tokens_per_second", GAUGE, "", "Training speed over the last step.")       \
	X(LEARNING_RATE, "sakiori_learning_rate", GAUGE, "", "Learning rate of the last step.")                        \
	X(GRADIENT_NORM, "sakiori_gradient_norm", GAUGE, "", "Norm of the last step's gradient before clipping.")      \
	X(ROUND_DURATION, "sakiori_round_duration_seconds", HISTOGRAM, "", "Wall time of a whole round.")              \
	X(CONSENSUS_DISTANCE, "sakiori_consensus_distance_ratio", GAUGE, "",                                           \
		"Distance of the neighbours' public replicas from ours, divided by how far the last local steps "      \
		"moved.")                                                                                              \
	X(PEERS, "sakiori_peers", GAUGE, "state", "Configured peers by state.")                                        \
	X(PEER_BYTES, "sakiori_peer_bytes_total", COUNTER, "peer,direction", "Bytes on the wire, framing included.")   \
	X(PEER_RTT, "sakiori_peer_rtt_seconds", GAUGE, "peer", "Smoothed round-trip time.")                            \
	X(PEER_LAST_SEEN, "sakiori_peer_last_seen_timestamp_seconds", GAUGE, "peer",                                   \
		"When the peer was last heard from, Unix time.")                                                       \
	X(PEER_STALENESS, "sakiori_peer_staleness_rounds", GAUGE, "peer",                                              \
		"Rounds since the peer's last fresh update.")                                                          \
	X(UPDATES_REJECTED, "sakiori_updates_rejected_total", COUNTER, "reason",                                       \
		"Messages of peers that were refused.")                                                                \
	X(CONNECTIONS_REJECTED, "sakiori_connections_rejected_total", COUNTER, "reason",                               \
		"Connections that were refused or hung up on.")                                                        \
	X(CHECKPOINT_DURATION, "sakiori_checkpoint_duration_seconds", GAUGE, "", "Time the last commit to disk took.") \
	X(CHECKPOINT_SUCCESS, "sakiori_checkpoint_last_success_timestamp_seconds", GAUGE, "",                          \
		"When the last commit to disk succeeded, Unix time.")                                                  \
	X(CHECKPOINT_FAILURES, "sakiori_checkpoint_failures_total", COUNTER, "", "Commits to disk that failed.")       \
	X(LOOP_LAG, "sakiori_loop_lag_seconds", GAUGE, "",                                                             \
		"Longest time one turn of the event loop took since the last scrape.")                                 \
	X(ADMIN_DENIED, "sakiori_admin_denied_total", COUNTER, "", "Admin calls refused for lack of permission.")      \
	X(GPU_MEMORY_USED, "sakiori_gpu_memory_used_bytes", GAUGE, "gpu", "Memory of the GPU in use, by whomever.")    \
	X(GPU_MEMORY_TOTAL, "sakiori_gpu_memory_total_bytes", GAUGE, "gpu", "Memory of the GPU.")                      \
	X(GPU_UTILIZATION, "sakiori_gpu_utilization_ratio", GAUGE, "gpu",                                              \
		"Share of the time in which the GPU worked.")                                                          \
	X(GPU_TEMPERATURE, "sakiori_gpu_temperature_celsius", GAUGE, "gpu", "Temperature of the GPU.")                 \
	X(GPU_POWER, "sakiori_gpu_power_watts", GAUGE, "gpu", "Power that the GPU draws.")                             \
	X(JOULES_PER_TOKEN, "sakiori_train_joules_per_token", GAUGE, "gpu",                                            \
		"Energy of the GPU over the last reading's tokens, waiting included, divided by these tokens.")        \
	X(PROCESS_CPU, "process_cpu_seconds_total", COUNTER, "", "User and system CPU time spent.")                    \
	X(PROCESS_RSS, "process_resident_memory_bytes", GAUGE, "", "Resident memory.")                                 \
	X(PROCESS_VIRTUAL, "process_virtual_memory_bytes", GAUGE, "", "Virtual memory.")                               \
	X(PROCESS_OPEN_FDS, "process_open_fds", GAUGE, "", "Open file descriptors.")                                   \
	X(PROCESS_MAX_FDS, "process_max_fds", GAUGE, "", "Limit of open file descriptors.")                            \
	X(PROCESS_START, "process_start_time_seconds", GAUGE, "", "Start of the process, Unix time.")

enum metric {
#define X(identifier, name, type, labels, help) METRIC_##identifier,
	METRICS(X)
#undef X
		METRIC_COUNT
};

struct metrics;

struct metrics *metrics_new(void);
void metrics_free(struct metrics *m);

/* Sets the sample with these label values (NULL for a label that the metric lacks). A family keeps at most
 * METRICS_SAMPLES_LIMIT samples; more are dropped, so that no peer or fault can grow the page without bound. */
#define METRICS_SAMPLES_LIMIT 1024
void metrics_set(struct metrics *m, enum metric which, const char *label1, const char *label2, double value);
/* Adds to a counter. */
void metrics_add(struct metrics *m, enum metric which, const char *label1, const char *label2, double value);
/* Counts one observation of a histogram. */
void metrics_observe(struct metrics *m, enum metric which, double value);
/* Current value, or NAN where there is no such sample. */
double metrics_get(const struct metrics *m, enum metric which, const char *label1, const char *label2);
/* Drops every sample of every family whose first label is "peer" with this value: the peer left the configuration. */
void metrics_forget_peer(struct metrics *m, const char *peer);

/* Reads the process_* values from /proc; call just before metrics_write. */
void metrics_read_process(struct metrics *m);
/* Appends the whole page in text format 0.0.4. Families without a sample are left out. */
void metrics_write(const struct metrics *m, struct writer *out);
