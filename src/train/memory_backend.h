/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of memory.c's count that depend on how a backend keeps weights and what it works with. Pure functions; any thread. */
#pragma once
#include "train/memory.h"

/* Bytes of a weight in all layouts that these uses (enum weight_use bits) ask for. */
size_t memory_weight(const struct memory_request *r, const struct model_tensor *t, unsigned uses);
/* Fills layer, kept, shared and offloaded. */
void memory_activations(const struct memory_request *r, enum memory_mode mode, struct memory_breakdown *out);
/* Fills logits, lora, attention, products and other. */
void memory_working_space(const struct memory_request *r, struct memory_breakdown *out);
