# The CUDA backend against the CPU. They load the module at run time, so they are compiled everywhere, and skip without a card;
# `make check-gpu` builds the module first and runs them one after another, since they measure nothing but share one card.
if HAVE_CHECK
gpu_pair = tests/gpu/pair.h tests/gpu/pair.c
gpu_test_cppflags = $(AM_CPPFLAGS) -I$(top_srcdir)/tests $(CHECK_CFLAGS)
gpu_test_ldadd = $(COMPUTE_LIBS) $(CHECK_LIBS) -lm

GPU_TESTS += tests/gpu/check_gpu_vector
tests_gpu_check_gpu_vector_SOURCES = tests/gpu/check_gpu_vector.c $(gpu_pair)
tests_gpu_check_gpu_vector_CPPFLAGS = $(gpu_test_cppflags)
tests_gpu_check_gpu_vector_LDADD = $(gpu_test_ldadd)

GPU_TESTS += tests/gpu/check_gpu_quantize
tests_gpu_check_gpu_quantize_SOURCES = tests/gpu/check_gpu_quantize.c $(gpu_pair)
tests_gpu_check_gpu_quantize_CPPFLAGS = $(gpu_test_cppflags)
tests_gpu_check_gpu_quantize_LDADD = $(gpu_test_ldadd)

GPU_TESTS += tests/gpu/check_gpu_block
tests_gpu_check_gpu_block_SOURCES = tests/gpu/check_gpu_block.c $(gpu_pair)
tests_gpu_check_gpu_block_CPPFLAGS = $(gpu_test_cppflags)
tests_gpu_check_gpu_block_LDADD = $(gpu_test_ldadd)

GPU_TESTS += tests/gpu/check_gpu_dropout
tests_gpu_check_gpu_dropout_SOURCES = tests/gpu/check_gpu_dropout.c $(gpu_pair)
tests_gpu_check_gpu_dropout_CPPFLAGS = $(gpu_test_cppflags)
tests_gpu_check_gpu_dropout_LDADD = $(gpu_test_ldadd)

GPU_TESTS += tests/gpu/check_gpu_weight
tests_gpu_check_gpu_weight_SOURCES = tests/gpu/check_gpu_weight.c $(gpu_pair)
tests_gpu_check_gpu_weight_CPPFLAGS = $(gpu_test_cppflags)
tests_gpu_check_gpu_weight_LDADD = $(gpu_test_ldadd)

GPU_TESTS += tests/gpu/check_gpu_packed
tests_gpu_check_gpu_packed_SOURCES = tests/gpu/check_gpu_packed.c $(gpu_pair)
tests_gpu_check_gpu_packed_CPPFLAGS = $(gpu_test_cppflags)
tests_gpu_check_gpu_packed_LDADD = $(gpu_test_ldadd)

GPU_TESTS += tests/gpu/check_gpu_linear
tests_gpu_check_gpu_linear_SOURCES = tests/gpu/check_gpu_linear.c $(gpu_pair)
tests_gpu_check_gpu_linear_CPPFLAGS = $(gpu_test_cppflags)
tests_gpu_check_gpu_linear_LDADD = $(gpu_test_ldadd)

GPU_TESTS += tests/gpu/check_gpu_attention
tests_gpu_check_gpu_attention_SOURCES = tests/gpu/check_gpu_attention.c $(gpu_pair)
tests_gpu_check_gpu_attention_CPPFLAGS = $(gpu_test_cppflags)
tests_gpu_check_gpu_attention_LDADD = $(gpu_test_ldadd)

GPU_TESTS += tests/gpu/check_gpu_loss
tests_gpu_check_gpu_loss_SOURCES = tests/gpu/check_gpu_loss.c $(gpu_pair)
tests_gpu_check_gpu_loss_CPPFLAGS = $(gpu_test_cppflags)
tests_gpu_check_gpu_loss_LDADD = $(gpu_test_ldadd)

GPU_TESTS += tests/gpu/check_gpu_record
tests_gpu_check_gpu_record_SOURCES = tests/gpu/check_gpu_record.c tests/gpu/layer.h tests/gpu/layer.c $(gpu_pair)
tests_gpu_check_gpu_record_CPPFLAGS = $(gpu_test_cppflags)
tests_gpu_check_gpu_record_LDADD = $(gpu_test_ldadd)

GPU_TESTS += tests/gpu/check_gpu_step
tests_gpu_check_gpu_step_SOURCES = tests/gpu/check_gpu_step.c $(gpu_pair)
tests_gpu_check_gpu_step_CPPFLAGS = $(gpu_test_cppflags)
tests_gpu_check_gpu_step_LDADD = $(TRAIN_LIBS) $(CHECK_LIBS) -lm
endif
check_PROGRAMS += $(GPU_TESTS)
