/* SPDX-License-Identifier: Apache-2.0 */
/* The daemon of one site: puts config, identity, store, link, trainer, site, metrics and both servers together on one loop.
 * Main thread only. */
#pragma once

/* Runs until SIGTERM, SIGINT or a failure; returns the process's exit code. Failures before the loop also go to stderr. */
int daemon_run(const char *config_path);
/* Reads and checks the configuration and what it names, starts nothing; prints the verdict. */
int daemon_check(const char *config_path);
