/* SPDX-License-Identifier: Apache-2.0 */
/* Compiles the file named by ACT_TEMPLATE once for each activation type. Inside it: ACT is the stored type, REAL the type of sums,
 * NAME(f) the function's name for this type, LOAD and STORE convert, EXP is e^x. No include guard: that is the point. */
#include "compute/cpu/simd.h"

#define ACT float
#define REAL float
#define NAME(function) function##_f32
#define LOAD(value) (value)
#define STORE(value) (value)
#define EXP(value) simd_exp(value)
#define SQRT(value) sqrtf(value)
#include ACT_TEMPLATE
#undef ACT
#undef NAME
#undef LOAD
#undef STORE

#define ACT uint16_t
#define NAME(function) function##_bf16
#define LOAD(value) simd_load_bf16(value)
#define STORE(value) simd_store_bf16(value)
#include ACT_TEMPLATE
#undef ACT
#undef REAL
#undef NAME
#undef LOAD
#undef STORE
#undef EXP
#undef SQRT

#define ACT double
#define REAL double
#define NAME(function) function##_f64
#define LOAD(value) (value)
#define STORE(value) (value)
#define EXP(value) exp(value)
#define SQRT(value) sqrt(value)
#include ACT_TEMPLATE
#undef ACT
#undef REAL
#undef NAME
#undef LOAD
#undef STORE
#undef EXP
#undef SQRT
#undef ACT_TEMPLATE
